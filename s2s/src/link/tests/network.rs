//! Whole nodes over loopback TCP with certificates of their own: the handshake, who is refused, what a newer connection does to an older one.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::*;
use crate::tls::{Fingerprint, TlsIdentity};

fn identity() -> TlsIdentity {
    let made = rcgen::generate_simple_self_signed(vec!["node.invalid".to_owned()]).unwrap();
    TlsIdentity::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap()
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
        tls: tls.clone(),
        peers: Vec::new(),
        timers,
        limits: LinkLimits::default(),
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
        PeerConfig { id: self.id.clone(), address: address.to_string(), fingerprint: self.tls.fingerprint() }
    }

    fn link(&self, other: &Node) -> Link {
        self.links.link(&other.id).unwrap()
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) = (node("ap", 1, identity(), quick()).await, node("eu", 2, identity(), quick()).await);
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
        node.user.until("all there and acknowledged", |seen| got_all(1000)(seen) && seen.acked == 1000).await;
        assert!(node.user.seen.lock().bodies(DATA).into_iter().eq(0..1000));
    }
    assert!(a.links.link(&PeerId::new("us", 0)).is_none());
    a.links.shutdown().await;
    assert!(!a.link(&b).is_up());
    b.user.until("down", |seen| seen.downs == 1).await;
}
