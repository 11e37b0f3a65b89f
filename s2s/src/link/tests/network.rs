//! Whole nodes over loopback TCP with certificates of their own: the handshake, who is refused, what a newer connection does to an older one.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::*;
use crate::tls::{Fingerprint, TlsIdentity};

fn identity() -> TlsIdentity {
    let made = rcgen::generate_simple_self_signed(vec!["node.invalid".to_owned()]).unwrap();
    TlsIdentity::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes())
        .unwrap()
}

/// A node that listens, and dies when dropped.
struct Node {
    id: PeerId,
    tls: TlsIdentity,
    links: Links,
    user: Arc<Recorder>,
    address: SocketAddr,
    listening: AbortHandle,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn node(id: &str, incarnation: u64, tls: TlsIdentity, timers: LinkTimers) -> Node {
    let user = Recorder::new();
    let config = LinkConfig {
        me: PeerId::new(id, 0),
        incarnation: Incarnation(incarnation),
        road: Road::Tls(tls.clone()),
        peers: Vec::new(),
        timers,
        limits: LinkLimits::default(),
        chance: Arc::new(random),
    };
    let links = Links::start(config, user.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = links.clone();
    let listening = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            accepting.accept(tcp);
        }
    });
    Node { id: PeerId::new(id, 0), tls, links, user, address, listening: listening.abort_handle() }
}

impl Node {
    /// How others know it, behind `address`.
    fn at(&self, address: SocketAddr) -> PeerConfig {
        PeerConfig {
            id: self.id.clone(),
            address: address.to_string(),
            fingerprint: self.tls.fingerprint(),
        }
    }

    fn link(&self, other: &Node) -> Link {
        self.links.link(&other.id).unwrap()
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    b.links.set_peers(vec![a.at(a.address), b.at(b.address)]);
    a.links.set_peers(vec![a.at(a.address), b.at(b.address)]);
    (a, b)
}

async fn both_up(a: &Node, b: &Node, times: usize) {
    a.user.until("a up", |seen| seen.ups.len() >= times).await;
    b.user.until("b up", |seen| seen.ups.len() >= times).await;
}

fn send(from: &Node, to: &Node, indexes: std::ops::Range<u64>) {
    for index in indexes {
        from.link(to).send(DATA, &[&index.to_be_bytes()]).unwrap();
    }
}

fn got_all(upto: u64) -> impl Fn(&Seen) -> bool {
    move |seen| seen.bodies(DATA).len() as u64 == upto
}

#[tokio::test]
async fn two_nodes_shake_hands_and_speak_both_ways() {
    let (a, b) = pair().await;
    both_up(&a, &b, 1).await;
    assert_eq!(a.user.seen.lock().ups, [(Incarnation(2), true)]);
    assert_eq!(b.user.seen.lock().ups, [(Incarnation(1), true)]);
    send(&a, &b, 0..1000);
    send(&b, &a, 0..1000);
    for node in [&a, &b] {
        node.user
            .until("all there and acknowledged", |seen| got_all(1000)(seen) && seen.acked == 1000)
            .await;
        assert!(node.user.seen.lock().bodies(DATA).into_iter().eq(0..1000));
    }
    assert!(a.links.link(&PeerId::new("us", 0)).is_none());
    a.links.shutdown().await;
    assert!(!a.link(&b).is_up());
    b.user.until("down", |seen| seen.downs == 1).await;
}

/// A proxy that breaks each connection after some bytes, which it is told by `budgets`; 0: lets it live.
async fn breaking_proxy(
    target: SocketAddr,
    mut budgets: impl FnMut() -> u64 + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut running = JoinSet::new();
        while let Ok((mut dialled, _)) = listener.accept().await {
            let mut onward = TcpStream::connect(target).await.unwrap();
            match budgets() {
                0 => drop(running.spawn(async move {
                    copy_bidirectional(&mut dialled, &mut onward).await.map(drop)
                })),
                budget => drop(running.spawn(async move {
                    let mut onward = Breaking { io: onward, left: budget, writes: u32::MAX };
                    copy_bidirectional(&mut dialled, &mut onward).await.map(drop)
                })),
            }
        }
    });
    address
}

#[tokio::test]
async fn connections_reset_anywhere_lose_and_repeat_nothing() {
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    let (mut chance, mut connections) = (Chance::new(7), 0);
    let proxy = breaking_proxy(b.address, move || {
        connections += 1;
        if connections > 40 { 0 } else { 1 + chance.below(12_000) }
    })
    .await;
    b.links.set_peers(vec![a.at(a.address)]);
    a.links.set_peers(vec![b.at(proxy)]);
    for part in 0..20 {
        send(&a, &b, part * 100..part * 100 + 100);
        send(&b, &a, part * 100..part * 100 + 100);
        b.user.until("half of it", |seen| seen.bodies(DATA).len() as u64 > part * 50).await;
    }
    for node in [&a, &b] {
        node.user
            .until("all there and acknowledged", |seen| got_all(2000)(seen) && seen.acked == 2000)
            .await;
        assert!(node.user.seen.lock().bodies(DATA).into_iter().eq(0..2000));
        assert!(node.user.seen.lock().lost.is_empty());
    }
    assert!(a.link(&b).stats().connections > 3);
}

#[tokio::test]
async fn node_that_comes_back_in_a_new_life_loses_what_it_had_not_taken() {
    let (a, b) = pair().await;
    b.user.later_every.store(1, Ordering::Relaxed); // takes nothing
    both_up(&a, &b, 1).await;
    send(&a, &b, 0..3);
    b.user.until("three frames", got_all(3)).await;
    b.links.shutdown().await;
    let reborn = node("eu", 3, b.tls.clone(), quick()).await;
    reborn.links.set_peers(vec![a.at(a.address)]);
    a.links.set_peers(vec![reborn.at(reborn.address)]);
    a.user.until("fresh", |seen| seen.ups.last() == Some(&(Incarnation(3), true))).await;
    assert_eq!(a.user.seen.lock().lost.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(a.link(&b).acked(), 3, "settled");
    send(&a, &reborn, 3..4);
    reborn.user.until("the new frame", got_all(1)).await;
    assert_eq!(reborn.user.seen.lock().bodies(DATA), [3]);
}

#[tokio::test]
async fn forgotten_peer_hands_its_frames_back_and_may_return() {
    let (a, b) = pair().await;
    b.user.later_every.store(1, Ordering::Relaxed);
    both_up(&a, &b, 1).await;
    send(&a, &b, 0..2);
    b.user.until("two frames", got_all(2)).await;
    let link = a.link(&b);
    a.links.forget(&b.id);
    a.user.until("two lost", |seen| seen.lost.len() == 2 && seen.downs == 1).await;
    assert_eq!(link.send(DATA, &[b"gone"]), Err(LinkFull::Forgotten));
    a.links.set_peers(vec![b.at(b.address)]);
    both_up(&a, &b, 2).await;
    assert_eq!(a.user.seen.lock().ups[1], (Incarnation(2), true));
    assert_eq!(
        b.user.seen.lock().ups[1],
        (Incarnation(1), true),
        "it was forgotten, so both begin anew"
    );
    send(&a, &b, 2..3);
    b.user.until("the new frame", got_all(3)).await;
}

#[tokio::test]
async fn newer_connection_takes_the_place_of_a_half_open_one() {
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    // A proxy whose far side stays open when the near side breaks: `b` does not learn that the first connection is gone.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let (cut, cutting) = watch::channel(false);
    let target = b.address;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut dialled, _)) = listener.accept().await {
            let mut onward = TcpStream::connect(target).await.unwrap();
            let mut cutting = cutting.clone();
            if *cutting.borrow() {
                tokio::spawn(async move { copy_bidirectional(&mut dialled, &mut onward).await });
            } else {
                tokio::select! {
                    _ = copy_bidirectional(&mut dialled, &mut onward) => (),
                    _ = cutting.changed() => (),
                }
                kept.push(onward);
            }
        }
    });
    b.links.set_peers(vec![a.at(a.address)]);
    a.links.set_peers(vec![b.at(proxy)]);
    both_up(&a, &b, 1).await;
    send(&a, &b, 0..10);
    b.user.until("ten", got_all(10)).await;
    send(&b, &a, 0..10);
    cut.send_replace(true);
    a.user.until("a up again", |seen| seen.ups.len() == 2 && seen.downs == 1).await;
    b.user.until("b up again", |seen| seen.ups.len() == 2 && seen.downs == 1).await;
    assert_eq!(b.user.seen.lock().ups[1], (Incarnation(1), false), "resumed");
    send(&a, &b, 10..20);
    b.user.until("twenty", got_all(20)).await;
    a.user.until("ten back", got_all(10)).await;
    assert!(b.user.seen.lock().bodies(DATA).into_iter().eq(0..20));
    assert!(a.user.seen.lock().bodies(DATA).into_iter().eq(0..10));
}

/// Waits until a node has refused somebody.
async fn refuses(node: &Node) {
    let refused = async {
        let mut often = tokio::time::interval(Duration::from_millis(5));
        while node.links.refused() == 0 {
            often.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(30), refused).await.is_ok(),
        "nobody was refused"
    );
    assert!(node.user.seen.lock().ups.is_empty());
}

#[tokio::test]
async fn unknown_client_certificate_is_refused() {
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    b.links.set_peers(vec![PeerConfig { fingerprint: Fingerprint([7; 32]), ..a.at(a.address) }]);
    a.links.set_peers(vec![b.at(b.address)]);
    refuses(&b).await;
    assert!(a.user.seen.lock().ups.is_empty());
}

#[tokio::test]
async fn server_with_another_certificate_is_refused() {
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    b.links.set_peers(vec![a.at(a.address)]);
    a.links.set_peers(vec![PeerConfig { fingerprint: Fingerprint([7; 32]), ..b.at(b.address) }]);
    refuses(&a).await;
    assert!(b.user.seen.lock().ups.is_empty());
}

#[tokio::test]
async fn certificate_of_one_node_does_not_speak_for_another() {
    // The certificate is known, as that of `au`; the node says it is `ap`.
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    b.links.set_peers(vec![PeerConfig { id: PeerId::new("au", 0), ..a.at(a.address) }]);
    a.links.set_peers(vec![b.at(b.address)]);
    refuses(&b).await;
    assert!(a.user.seen.lock().ups.is_empty());
}

#[tokio::test]
async fn node_reached_under_another_name_refuses() {
    let (a, b) =
        (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
    b.links.set_peers(vec![a.at(a.address)]);
    a.links.set_peers(vec![PeerConfig { id: PeerId::new("us", 0), ..b.at(b.address) }]);
    refuses(&b).await;
}

/// What a node says to these bytes, until it closes.
async fn answer(node: &Node, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(node.address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(30), tcp.read_to_end(&mut said)).await;
    assert!(reading.is_ok(), "still open after {:?}", String::from_utf8_lossy(&said));
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn strangers_are_told_why_they_are_refused() {
    let b = node("eu", 2, identity(), quick()).await;
    let open = "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' from='x'";
    for (said, expected) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "<stream:error>"),
        (format!("{open} to='us-0'>"), "<host-unknown"),
        (
            format!(
                "{open} to='eu-0'><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
            ),
            "<bad-format",
        ),
        (
            format!("{open} to='eu-0'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>and more"),
            "<proceed",
        ),
    ] {
        let answered = answer(&b, said.as_bytes()).await;
        assert!(answered.contains(expected), "{said}: {answered}");
        assert!(!answered.contains("<mechanism"), "nothing is offered before TLS");
    }
}

#[tokio::test]
async fn handshake_that_stands_still_ends_at_its_deadline() {
    let timers = LinkTimers { handshake: Duration::from_millis(50), ..quick() };
    let b = node("eu", 2, identity(), timers).await;
    assert_eq!(answer(&b, b"<stream:stream ").await, "");
}

#[tokio::test]
async fn changed_address_moves_the_connection_and_loses_nothing() {
    let (a, b) = pair().await;
    both_up(&a, &b, 1).await;
    send(&a, &b, 0..5);
    let proxy = breaking_proxy(b.address, || 0).await;
    a.links.set_peers(vec![b.at(proxy)]);
    both_up(&a, &b, 2).await;
    send(&a, &b, 5..10);
    b.user.until("ten", got_all(10)).await;
    assert!(b.user.seen.lock().bodies(DATA).into_iter().eq(0..10));
    assert!(!b.user.seen.lock().ups[1].1);
}
