//! How many small frames a link carries: two nodes in one process, over loopback TCP and real TLS. Prints frames a second and processor time.
//!
//! `cargo run --release -p s2s --example link_speed [FRAMES] [BODY_BYTES] [one|both]`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use s2s::link::{
    FrameKind, Incarnation, Link, LinkConfig, LinkFull, LinkLimits, LinkTimers, LinkUser, Links,
    PeerConfig, PeerId, Road, Taken, random,
};
use s2s::tls::TlsIdentity;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// Counts, and lets the sender go on when there is room again.
#[derive(Default)]
struct Counter {
    received: AtomicU64,
    bytes: AtomicU64,
    acked: AtomicU64,
    changed: Notify,
}

impl LinkUser for Counter {
    fn up(&self, _: &PeerId, _: Incarnation, _: bool) {
        self.changed.notify_one();
    }
    fn down(&self, _: &PeerId) {}
    fn lost(&self, _: &PeerId, _: Vec<(u64, FrameKind, Bytes)>) {}
    fn frame(&self, _: &PeerId, _: u64, _: FrameKind, body: Bytes) -> Taken {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        Taken::Now
    }
    fn acked(&self, _: &PeerId, upto: u64) {
        self.acked.store(upto, Ordering::Release);
        self.changed.notify_one();
    }
}

async fn node(
    id: &PeerId,
    tls: &TlsIdentity,
) -> Result<(Links, Arc<Counter>, String), Box<dyn std::error::Error>> {
    let user = Arc::new(Counter::default());
    let config = LinkConfig {
        me: id.clone(),
        incarnation: Incarnation(1),
        road: Road::Tls(tls.clone()),
        peers: Vec::new(),
        timers: LinkTimers::default(),
        limits: LinkLimits::default(),
        chance: Arc::new(random),
    };
    let links = Links::start(config, user.clone())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let accepting = links.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            accepting.accept(tcp);
        }
    });
    Ok((links, user, address))
}

async fn send(link: Link, user: Arc<Counter>, frames: u64, body: usize) {
    let body = vec![b'x'; body];
    for n in 0..frames {
        while link.send_with(FrameKind(0x20), |_, out| out.extend_from_slice(&body))
            == Err(LinkFull::Bytes)
        {
            user.changed.notified().await;
        }
        if n % 256 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while user.acked.load(Ordering::Acquire) < frames {
        user.changed.notified().await;
    }
}

/// User and system time of this process so far, where the kernel tells it.
fn cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let frames: u64 = args.next().map_or(Ok(2_000_000), |v| v.parse())?;
    let body: usize = args.next().map_or(Ok(200), |v| v.parse())?;
    let both = args.next().is_some_and(|v| v == "both");

    let mut identities = Vec::new();
    for _ in 0..2 {
        let made = rcgen::generate_simple_self_signed(vec!["node.invalid".to_owned()])?;
        identities.push(TlsIdentity::from_pem(
            made.cert.pem().as_bytes(),
            made.signing_key.serialize_pem().as_bytes(),
        )?);
    }
    let (eu, us) = (PeerId::new("eu", 0), PeerId::new("us", 0));
    let (links_eu, user_eu, address_eu) = node(&eu, &identities[0]).await?;
    let (links_us, user_us, address_us) = node(&us, &identities[1]).await?;
    links_us.set_peers(vec![PeerConfig {
        id: eu.clone(),
        address: address_eu,
        fingerprint: identities[0].fingerprint(),
    }]);
    let dialled = Instant::now();
    links_eu.set_peers(vec![PeerConfig {
        id: us.clone(),
        address: address_us,
        fingerprint: identities[1].fingerprint(),
    }]);
    let link_eu = links_eu.link(&us).ok_or("no link")?;
    let link_us = links_us.link(&eu).ok_or("no link")?;
    while !link_eu.is_up() {
        user_eu.changed.notified().await;
    }
    println!("handshake {:.1} ms", dialled.elapsed().as_secs_f64() * 1e3);

    let (started, cpu_before) = (Instant::now(), cpu());
    let there = tokio::spawn(send(link_eu.clone(), user_eu, frames, body));
    if both {
        send(link_us.clone(), user_us.clone(), frames, body).await;
    }
    there.await?;
    let took = started.elapsed();

    let total = if both { 2 * frames } else { frames };
    let rate = total as f64 / took.as_secs_f64();
    println!(
        "{total} frames of {body} bytes in {:.2} s: {rate:.0} frames/s, {:.0} MB/s",
        took.as_secs_f64(),
        rate * body as f64 / 1e6
    );
    if let (Some(before), Some(after)) = (cpu_before, cpu()) {
        let used = after - before;
        println!(
            "processor: {:.2} s, {:.0} ns a frame, both ends together",
            used.as_secs_f64(),
            used.as_nanos() as f64 / total as f64
        );
    }
    println!("there: {:?}\nback:  {:?}", link_eu.stats(), link_us.stats());
    Ok(())
}
