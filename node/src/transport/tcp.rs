//! Transport: the listeners, and who may stand at the door.
//!
//! Called by `app.rs`: one [`accept_loop`] a listening address, all over one [`Gate`]. Hands each connection on with an
//! [`Admission`], which the session drops when it has authenticated (or ended): only connections that have proved nothing yet
//! are counted, so a flood of them cannot keep the authenticated out, nor one address all the others.
//!
//! Deliberately absent: the PROXY protocol; the number of *authenticated* sessions (the session registry bounds those).

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use s2s::front::source_of;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Transport;

/// Connections the kernel holds that were not accepted yet.
const BACKLOG: u32 = 1024;
/// The pause after an accept that failed for want of something (file handles, memory); doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A connection over which nothing has come for so long is asked whether its peer is still there,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// and again after this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// and given up when so many questions were not answered: two minutes in all.
const KEEPALIVE_PROBES: u32 = 4;
/// Nobody is asked while something waits to be taken: a peer that takes nothing for so long is given up too. (The kernel would go on for
/// a quarter of an hour if the peer has vanished, and for ever if it only does not read.)
#[cfg(target_os = "linux")]
const UNTAKEN_MAX: Duration = Duration::from_secs(120);

/// How many connections may wait to authenticate. Past either, the newest is closed at once, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// On this node.
    pub pre_auth_max: u32,
    /// From one IPv4 address, or one IPv6 /64.
    pub pre_auth_per_address_max: u32,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self { pre_auth_max: 10_000, pre_auth_per_address_max: 1_000 }
    }
}

/// Counts who stands at the door of this node.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    /// Only addresses with a connection: bounded by `pre_auth_max`.
    waiting: Mutex<Waiting>,
    accepted: AtomicU64,
    shed_full: AtomicU64,
    shed_address: AtomicU64,
    accept_errors: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    all: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// What the gate has seen since the start, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounts {
    /// Let in.
    pub accepted: u64,
    /// Closed because the node had too many.
    pub shed_full: u64,
    /// Closed because their address had too many.
    pub shed_address: u64,
    /// `accept` failed.
    pub accept_errors: u64,
    /// Standing at the door now.
    pub waiting: u32,
}

impl Gate {
    /// An empty gate.
    pub fn new(limits: GateLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            waiting: Mutex::default(),
            accepted: AtomicU64::new(0),
            shed_full: AtomicU64::new(0),
            shed_address: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
        })
    }

    /// A place for a connection from there, or none (counted). WebSocket and BOSH ask here too.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let address = source_of(address);
        let mut waiting = self.waiting.lock();
        if waiting.all >= self.limits.pre_auth_max {
            self.shed_full.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let here = waiting.by_address.get(&address).copied().unwrap_or(0);
        if here >= self.limits.pre_auth_per_address_max {
            self.shed_address.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        waiting.by_address.insert(address, here + 1);
        waiting.all += 1;
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Some(Admission { gate: self.clone(), address })
    }

    /// The counters.
    pub fn counts(&self) -> GateCounts {
        GateCounts {
            accepted: self.accepted.load(Ordering::Relaxed),
            shed_full: self.shed_full.load(Ordering::Relaxed),
            shed_address: self.shed_address.load(Ordering::Relaxed),
            accept_errors: self.accept_errors.load(Ordering::Relaxed),
            waiting: self.waiting.lock().all,
        }
    }
}

/// One place at the door; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut waiting = self.gate.waiting.lock();
        waiting.all -= 1;
        if let Some(here) = waiting.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                waiting.by_address.remove(&self.address);
                // A flood leaves a big table behind; an empty door needs none.
                if waiting.by_address.is_empty() {
                    waiting.by_address = HashMap::new();
                }
            }
        }
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, still plain.
    pub transport: Transport,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// To be dropped when it has authenticated.
    pub admission: Admission,
}

/// Listens there, with SO_REUSEADDR, so that a restart does not wait for old connections to be forgotten.
///
/// # Errors
/// Those of bind and listen, with the address in the text.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Accepts for ever; drop the future to stop (nothing is lost: what was not accepted stays with the kernel). `welcome` must not
/// block: it spawns.
pub async fn accept_loop(
    listener: TcpListener,
    gate: Arc<Gate>,
    welcome: impl Fn(Accepted) + Send,
) -> Infallible {
    let mut pause = PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                pause = PAUSE_MIN;
                if let Some(accepted) = admit(&gate, stream, peer) {
                    welcome(accepted);
                }
            }
            Err(error) => {
                gate.accept_errors.fetch_add(1, Ordering::Relaxed);
                if !is_of_that_connection(&error) {
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the backlog and `accept` would fail again at once.
                    tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections; pausing");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

fn admit(gate: &Arc<Gate>, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
    let admission = gate.admit(peer.ip())?; // none: dropping the stream closes it
    // Stanzas are small and already gathered into one write: waiting for more helps nobody. A failure means it is closed already.
    let _ = stream.set_nodelay(true);
    // A client that vanished without a word would else stay for hours (the kernel asks first after two).
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(&stream);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNTAKEN_MAX));
    Some(Accepted { transport: Transport::plain(stream), peer, admission })
}

/// Whether `accept` reports that one connection went away, rather than that we lack something.
fn is_of_that_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn gate(all: u32, each: u32) -> Arc<Gate> {
        Gate::new(GateLimits { pre_auth_max: all, pre_auth_per_address_max: each })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_cannot_fill_the_door() {
        let gate = gate(10, 2);
        let first = gate.admit(ip("192.0.2.1"));
        let _second = gate.admit(ip("192.0.2.1"));
        assert!(gate.admit(ip("192.0.2.1")).is_none());
        assert!(gate.admit(ip("192.0.2.2")).is_some());
        drop(first);
        assert!(gate.admit(ip("192.0.2.1")).is_some());
        assert_eq!(gate.counts().shed_address, 1);
    }

    #[test]
    fn the_door_holds_so_many_and_forgets_those_who_left() {
        let gate = gate(2, 2);
        let places = [gate.admit(ip("192.0.2.1")), gate.admit(ip("192.0.2.2"))];
        assert!(gate.admit(ip("192.0.2.3")).is_none());
        drop(places);
        let counts = gate.counts();
        assert_eq!((counts.waiting, counts.accepted, counts.shed_full), (0, 2, 1));
        assert_eq!(gate.waiting.lock().by_address.capacity(), 0);
    }

    #[test]
    fn an_aborted_connection_is_no_reason_to_pause() {
        assert!(is_of_that_connection(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_of_that_connection(&io::Error::from_raw_os_error(24))); // EMFILE
    }

    #[tokio::test]
    async fn who_was_let_in_is_asked_whether_he_is_still_there() {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let address = listener.local_addr().expect("bound");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (server, peer)) = (client.expect("connects"), server.expect("accepts"));
        let kept = server.as_fd().try_clone_to_owned().expect("a second handle of one socket");
        let _accepted = admit(&gate(1, 1), server, peer).expect("let in");
        let kept = SockRef::from(&kept);
        assert!(kept.keepalive().expect("told"));
        assert_eq!(kept.tcp_keepalive_time().expect("told"), KEEPALIVE_IDLE);
        assert_eq!(kept.tcp_keepalive_interval().expect("told"), KEEPALIVE_INTERVAL);
        assert_eq!(kept.tcp_keepalive_retries().expect("told"), KEEPALIVE_PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(kept.tcp_user_timeout().expect("told"), Some(UNTAKEN_MAX));
    }

    #[tokio::test]
    async fn what_is_shed_sees_its_connection_closed() {
        let gate = gate(1, 1);
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let address = listener.local_addr().expect("bound");
        let (send, mut welcome) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(accept_loop(listener, gate.clone(), move |accepted| {
            let _ = send.send(accepted);
        }));
        let _first = TcpStream::connect(address).await.expect("connects");
        let accepted = welcome.recv().await.expect("let in");
        let second = TcpStream::connect(address).await.expect("connects");
        second.readable().await.expect("told");
        assert_eq!(second.try_read(&mut [0; 8]).expect("end"), 0);
        drop(accepted);
        let _third = TcpStream::connect(address).await.expect("connects");
        assert!(welcome.recv().await.is_some());
        task.abort();
    }
}
