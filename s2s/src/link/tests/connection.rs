//! One peer's connections without TLS and without a network: what survives cuts at every byte, and what a peer may not do.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::super::driver::{self, Agreed};
use super::super::frame::{self, Control, Frame, Marks};
use super::super::negotiate::{self, Hello};
use super::super::peer::Peer;
use super::*;
use crate::error::{LinkError, Refusal};

/// A node in one of its lives, with its link to the other node.
pub(super) struct Node<U = Recorder> {
    me: PeerId,
    incarnation: Incarnation,
    pub(super) link: Link,
    pub(super) user: Arc<U>,
}

impl Node {
    pub(super) fn new(me: &str, other: &str, incarnation: u64) -> Self {
        Self::bounded(me, other, incarnation, LinkLimits::default())
    }

    pub(super) fn bounded(me: &str, other: &str, incarnation: u64, limits: LinkLimits) -> Self {
        Self::with(me, other, incarnation, limits, Recorder::new())
    }
}

impl<U: LinkUser> Node<U> {
    pub(super) fn with(
        me: &str,
        other: &str,
        incarnation: u64,
        limits: LinkLimits,
        user: Arc<U>,
    ) -> Self {
        let link = Link(Arc::new(Peer::new(PeerId::new(other, 0), user.clone(), &limits)));
        Self { me: PeerId::new(me, 0), incarnation: Incarnation(incarnation), link, user }
    }

    fn hello(&self) -> Hello {
        let peer = &self.link.0;
        let known = peer.session.lock().map(|session| session.peer);
        Hello {
            version: 1,
            id: self.me.clone(),
            incarnation: self.incarnation,
            known,
            received: peer.inbox.lock().received(),
        }
    }

    fn agree(&self, theirs: &Hello, dialled: bool) -> Agreed {
        let decision = negotiate::decide(self.incarnation, *self.link.0.session.lock(), theirs);
        Agreed { incarnation: theirs.incarnation, decision, dialled, rest: bytes::BytesMut::new() }
    }

    fn run<S: AsyncRead + AsyncWrite + Send + 'static>(
        &self,
        io: S,
        agreed: Agreed,
        timers: LinkTimers,
    ) -> JoinHandle<LinkError> {
        let peer = self.link.0.clone();
        tokio::spawn(
            async move { driver::run(&peer, io, agreed, timers, std::future::pending()).await },
        )
    }

    pub(super) fn send(&self, index: u64, size: u64) -> u64 {
        self.link.send(DATA, &[&index.to_be_bytes(), &vec![index as u8; size as usize]]).unwrap()
    }
}

/// Connects the two until one of them has written as many bytes as it may, or often enough.
pub(super) async fn connect<A: LinkUser, B: LinkUser>(
    a: &Node<A>,
    b: &Node<B>,
    a_bytes: u64,
    b_bytes: u64,
) {
    let timers = LinkTimers { ping: Duration::from_millis(1), ..quick() };
    let (to_b, to_a) = duplex(10_000);
    let (hello_a, hello_b) = (a.hello(), b.hello());
    let running_a = a.run(Breaking::new(to_b, a_bytes), a.agree(&hello_b, true), timers);
    let running_b = b.run(Breaking::new(to_a, b_bytes), b.agree(&hello_a, false), timers);
    running_a.await.unwrap();
    running_b.await.unwrap();
}

/// Connects the two for good; the tasks end the connection.
pub(super) fn hold<A: LinkUser, B: LinkUser>(
    a: &Node<A>,
    b: &Node<B>,
    timers: LinkTimers,
) -> [JoinHandle<LinkError>; 2] {
    let (to_b, to_a) = duplex(10_000);
    let (hello_a, hello_b) = (a.hello(), b.hello());
    [a.run(to_b, a.agree(&hello_b, true), timers), b.run(to_a, b.agree(&hello_a, false), timers)]
}

pub(super) fn end(running: [JoinHandle<LinkError>; 2]) {
    running.iter().for_each(JoinHandle::abort);
}

/// Takes what was put off, in an order of its own.
fn take_some(node: &Node, chance: &mut Chance, all: bool) {
    loop {
        let ticket = node.user.note(|seen| {
            let n = seen.later.len() as u64;
            (n > 0).then(|| seen.later.swap_remove(chance.below(n) as usize))
        });
        match ticket {
            Some(ticket) if all || chance.below(3) > 0 => node.link.taken(ticket),
            Some(ticket) => return node.user.note(|seen| seen.later.push(ticket)),
            None => return,
        }
    }
}

fn in_order(seen: &[u64]) -> bool {
    seen.iter().copied().eq(0..seen.len() as u64)
}

#[tokio::test]
async fn each_frame_comes_once_and_in_order_however_often_the_connection_breaks() {
    for seed in 0..40 {
        let mut chance = Chance::new(seed);
        let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
        a.user.later_every.store(3, Ordering::Relaxed);
        b.user.later_every.store(5, Ordering::Relaxed);
        let mut sent = [0, 0];
        for cuts in 0..25 {
            for (node, sent) in [&a, &b].into_iter().zip(&mut sent) {
                for _ in 0..chance.below(40) {
                    let size = if chance.below(30) == 0 { 70_000 } else { chance.below(200) };
                    node.send(*sent, size);
                    node.user.seen.lock().log.push(sent.to_be_bytes().to_vec());
                    *sent += 1;
                }
                take_some(node, &mut chance, false);
            }
            let most = if cuts % 4 == 0 { 40 } else { 100_000 };
            connect(&a, &b, chance.below(most), chance.below(most)).await;
            for (node, sent) in [(&a, sent[1]), (&b, sent[0])] {
                let seen = node.user.seen.lock();
                assert!(in_order(&seen.bodies(DATA)) && in_order(&seen.bodies(ROW)), "seed {seed}");
                assert!(seen.bodies(DATA).len() as u64 <= sent, "seed {seed}");
                assert!(seen.lost.is_empty());
            }
        }
        take_some(&a, &mut chance, true);
        take_some(&b, &mut chance, true);
        a.user.later_every.store(0, Ordering::Relaxed);
        b.user.later_every.store(0, Ordering::Relaxed);
        let running = hold(&a, &b, quick());
        for (node, mine, others) in [(&a, sent[0], sent[1]), (&b, sent[1], sent[0])] {
            node.user
                .until("all acknowledged", |seen| {
                    seen.acked == mine && seen.bodies(DATA).len() as u64 == others
                })
                .await;
            let seen = node.user.seen.lock();
            assert!(in_order(&seen.bodies(DATA)) && in_order(&seen.bodies(ROW)), "seed {seed}");
        }
        end(running);
    }
}

#[tokio::test]
async fn all_arrives_and_is_acknowledged_once_the_connection_holds() {
    for seed in 100..110 {
        let mut chance = Chance::new(seed);
        let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
        for index in 0..300 {
            a.send(index, chance.below(3000));
            b.send(index, chance.below(3000));
        }
        for _ in 0..10 {
            connect(&a, &b, chance.below(200_000), chance.below(200_000)).await;
        }
        let running = hold(&a, &b, quick());
        a.user
            .until("all acknowledged to a", |seen| {
                seen.acked == 300 && seen.bodies(DATA).len() == 300
            })
            .await;
        b.user
            .until("all acknowledged to b", |seen| {
                seen.acked == 300 && seen.bodies(DATA).len() == 300
            })
            .await;
        for node in [&a, &b] {
            assert!(in_order(&node.user.seen.lock().bodies(DATA)));
            let stats = node.link.stats();
            assert_eq!(
                (stats.unacked_frames, stats.unacked_bytes, stats.frames_in),
                (0, 0, 300),
                "seed {seed}"
            );
            assert_eq!(node.link.acked(), 300);
        }
        end(running);
    }
}

#[tokio::test]
async fn what_a_dead_incarnation_had_not_taken_is_handed_back() {
    for seed in 200..220 {
        let mut chance = Chance::new(seed);
        let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
        b.user.later_every.store(7, Ordering::Relaxed);
        for index in 0..100 {
            a.send(index, chance.below(2000));
        }
        for _ in 0..3 {
            connect(&a, &b, chance.below(60_000), chance.below(2_000)).await;
        }
        let acked = a.link.acked();
        let handled = b.user.seen.lock().bodies(DATA);
        let reborn = Node::new("b", "a", 3);
        connect(&a, &reborn, 500, 500).await;
        {
            let seen = a.user.seen.lock();
            assert_eq!(
                seen.lost.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(),
                (acked + 1..=100).collect::<Vec<_>>(),
                "seed {seed}"
            );
            assert!(
                seen.lost.iter().all(|(seq, kind, body)| index(body) == seq - 1 && *kind == DATA)
            );
            assert!(handled.len() as u64 >= acked, "acknowledged is handled");
            assert_eq!(seen.ups.last(), Some(&(Incarnation(3), true)));
            assert!(reborn.user.seen.lock().frames.is_empty(), "nothing old reaches the new life");
        }
        assert_eq!(a.send(100, 1), 101, "numbers go on");
        connect(&a, &reborn, 1_000, 1_000).await;
        assert_eq!(reborn.user.seen.lock().bodies(DATA), [100], "seed {seed}");
    }
}

#[tokio::test]
async fn frames_queued_before_the_first_connection_follow_it() {
    let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
    a.send(0, 5);
    assert!(!a.link.datagram(DATA, b"nobody there"));
    connect(&a, &b, 1000, 1000).await;
    assert_eq!(b.user.seen.lock().bodies(DATA), [0]);
    assert_eq!(b.user.seen.lock().ups, [(Incarnation(1), true)]);
    connect(&a, &b, 100, 100).await;
    assert_eq!(b.user.seen.lock().ups[1..], [(Incarnation(1), false)], "resumed");
    assert!(a.user.seen.lock().lost.is_empty());
}

/// A node with a peer that the test plays, byte by byte.
pub(super) struct Played<U = Recorder> {
    pub(super) node: Node<U>,
    pub(super) wire: DuplexStream,
    running: JoinHandle<LinkError>,
}

pub(super) fn played<U: LinkUser>(node: Node<U>, timers: LinkTimers) -> Played<U> {
    let (ours, wire) = duplex(1 << 16);
    let hello = Hello {
        version: 1,
        id: PeerId::new("b", 0),
        incarnation: Incarnation(9),
        known: None,
        received: Marks::default(),
    };
    let running = node.run(ours, node.agree(&hello, true), timers);
    Played { node, wire, running }
}

pub(super) fn control(control: Control) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_control(&mut out, control);
    out
}

pub(super) fn numbered(seq: u64, size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_numbered(&mut out, seq, DATA, |out| out.resize(out.len() + size, 0)).unwrap();
    out
}

pub(super) const BEGIN: Control = Control::Begin(Marks { main: 1, front: 1 });

/// What the link makes of these bytes behind `begin`.
async fn verdict(bytes: &[u8]) -> (LinkError, Arc<Recorder>) {
    let mut played = played(Node::new("a", "b", 1), quick());
    played.wire.write_all(&control(BEGIN)).await.unwrap();
    played.wire.write_all(bytes).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(30), played.running).await.unwrap().unwrap();
    (end, played.node.user)
}

#[tokio::test]
async fn frames_that_cannot_be_end_the_connection() {
    for (bytes, expected) in [
        (vec![0x40, 0, 0, 0], FrameError::Length(1 << 30)),
        (vec![0, 0, 0, 0], FrameError::Size(0, 0)),
        (vec![0, 0, 0, 9, 0x0e], FrameError::Kind(0x0e)),
        (control(BEGIN), FrameError::Begin),
        (numbered(2, 0), FrameError::Gap { expected: 1, got: 2 }),
        ([numbered(1, 0), numbered(3, 0)].concat(), FrameError::Gap { expected: 2, got: 3 }),
        (
            [numbered(FRONT | 1, 0), numbered(FRONT | 3, 0)].concat(),
            FrameError::Gap { expected: 2, got: 3 },
        ),
        (control(Control::Ack(Marks { main: 1, front: 0 })), FrameError::Ack(1)),
        (control(Control::Ping(1, Marks { main: 0, front: 1 })), FrameError::Ack(1)),
    ] {
        let (end, user) = verdict(&bytes).await;
        assert!(
            matches!(end, LinkError::Frame(e) if e == expected),
            "{end:?} instead of {expected:?}"
        );
        assert_eq!(user.seen.lock().downs, 1);
    }
}

#[tokio::test]
async fn first_frame_must_be_begin() {
    let mut played = played(Node::new("a", "b", 1), quick());
    played.wire.write_all(&numbered(1, 0)).await.unwrap();
    assert!(matches!(played.running.await.unwrap(), LinkError::Frame(FrameError::Begin)));
    assert!(played.node.user.seen.lock().frames.is_empty());
}

#[tokio::test]
async fn frame_cut_short_is_not_handed_out() {
    let mut played = played(Node::new("a", "b", 1), quick());
    let bytes = [control(BEGIN), numbered(1, 3), numbered(2, 100)].concat();
    played.wire.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
    played.node.user.until("the first frame", |seen| seen.frames.len() == 1).await;
    drop(played.wire);
    assert!(matches!(played.running.await.unwrap(), LinkError::Io(_)));
    assert_eq!(played.node.user.seen.lock().frames.len(), 1);
}

#[tokio::test]
async fn replayed_frames_are_dropped_and_acknowledged_again() {
    let mut played = played(Node::new("a", "b", 1), quick());
    let bytes = [
        control(BEGIN),
        numbered(1, 3),
        numbered(2, 3),
        numbered(1, 3),
        numbered(2, 3),
        numbered(3, 3),
    ]
    .concat();
    played.wire.write_all(&bytes).await.unwrap();
    played.node.user.until("three frames", |seen| seen.frames.len() == 3).await;
    read_until(&mut played.wire, |frame| {
        matches!(
            frame,
            Frame::Control(
                Control::Ack(Marks { main: 3, .. }) | Control::Ping(_, Marks { main: 3, .. })
            )
        )
    })
    .await;
    assert_eq!(played.node.link.stats().duplicates, 2);
    assert_eq!(played.node.user.seen.lock().frames.len(), 3);
}

pub(super) async fn read_until(wire: &mut DuplexStream, mut wanted: impl FnMut(&Frame) -> bool) {
    let mut buffer = Vec::new();
    let reading = async {
        loop {
            let mut at = 0;
            while let Some((frame, total)) = frame::decode(&buffer[at..]).unwrap() {
                if wanted(&frame) {
                    return;
                }
                at += total;
            }
            buffer.drain(..at);
            assert!(wire.read_buf(&mut buffer).await.unwrap() > 0);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap();
}

#[tokio::test]
async fn silent_peer_is_dropped_and_a_pinging_one_is_not() {
    let timers = LinkTimers { silent: Duration::from_millis(60), ..quick() };
    let mut silent = played(Node::new("a", "b", 1), timers);
    silent.wire.write_all(&control(BEGIN)).await.unwrap();
    assert!(matches!(silent.running.await.unwrap(), LinkError::Silent));
    assert_eq!(silent.node.user.seen.lock().downs, 1);
    assert!(!silent.node.link.is_up());

    let timers = LinkTimers { silent: Duration::from_millis(200), ..quick() };
    let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
    let running = hold(&a, &b, timers);
    let started = tokio::time::Instant::now();
    let mut changes = tokio::time::interval(Duration::from_millis(10));
    while started.elapsed() < Duration::from_millis(500) {
        changes.tick().await;
    }
    assert!(a.link.is_up() && b.link.is_up());
    assert!(a.link.stats().rtt.is_some_and(|rtt| rtt < Duration::from_secs(5)));
    end(running);
}

#[tokio::test]
async fn bound_reached_refuses_until_acknowledged() {
    let limits = LinkLimits { unacked_bytes: 200_000, ..LinkLimits::default() };
    let mut played = played(Node::bounded("a", "b", 1, limits), quick());
    let mut sent = 0;
    while played.node.link.send(DATA, &[&[0; 1000]]).is_ok() {
        sent += 1;
    }
    assert!((190..=200).contains(&sent));
    assert_eq!(played.node.link.send(DATA, &[b"x"]), Err(LinkFull::Bytes));
    played.wire.write_all(&control(BEGIN)).await.unwrap();
    read_until(
        &mut played.wire,
        |frame| matches!(frame, Frame::Numbered { seq, .. } if *seq == sent),
    )
    .await;
    played.wire.write_all(&control(Control::Ack(Marks { main: sent, front: 0 }))).await.unwrap();
    played.node.user.until("acknowledged", |seen| seen.acked == sent).await;
    assert_eq!(played.node.link.send(DATA, &[b"x"]), Ok(sent + 1));
}

#[tokio::test]
async fn peer_that_received_what_was_never_sent_is_refused() {
    let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
    a.send(0, 1);
    connect(&a, &b, 1000, 1000).await;
    let lie = Hello { received: Marks { main: 2, front: 0 }, ..b.hello() };
    let (io, _other) = duplex(100);
    let end = a.run(io, a.agree(&lie, true), quick()).await.unwrap();
    assert!(matches!(end, LinkError::Refused(Refusal::Resume)), "{end:?}");
}

#[tokio::test]
async fn taken_later_delays_the_acknowledgement_of_all_that_follows() {
    let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
    b.user.later_every.store(2, Ordering::Relaxed);
    let running = hold(&a, &b, quick());
    for n in 0..5 {
        a.send(n, 0);
    }
    b.user.until("all five", |seen| seen.frames.len() == 5).await;
    a.user.until("the first acknowledged", |seen| seen.acked == 1).await;
    b.link.taken(4);
    b.link.taken(2);
    a.user.until("all acknowledged", |seen| seen.acked == 5).await;
    end(running);
}

#[tokio::test]
async fn datagrams_pass_and_do_not_wait_for_anything() {
    let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
    let running = hold(&a, &b, quick());
    b.user.until("up", |seen| !seen.ups.is_empty()).await;
    assert!(b.link.datagram(DATA, b"vote"));
    a.user.until("the vote", |seen| seen.datagrams.len() == 1).await;
    assert!(!b.link.datagram(DATA, &vec![0; BODY_BYTES_MAX + 1]));
    assert_eq!(b.link.stats().datagrams_dropped, 1);
    end(running);
}

#[tokio::test]
async fn user_that_panics_does_not_stop_the_link() {
    let (a, b) = (Node::new("a", "b", 1), Node::new("b", "a", 2));
    b.user.panics_at.store(2, Ordering::Relaxed);
    let running = hold(&a, &b, quick());
    for n in 0..4 {
        a.send(n, 0);
    }
    tokio::time::timeout(Duration::from_secs(30), a.link.drained()).await.unwrap();
    assert_eq!(b.user.seen.lock().bodies(DATA), [0, 2, 3]);
    end(running);
}

/// The writer is called by the first of them, and is awake before the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_all_who_are_awake_say_leaves_in_one_write() {
    let (a, b) = (Arc::new(Node::new("a", "b", 1)), Node::new("b", "a", 2));
    let running = hold(&a, &b, LinkTimers { ping: Duration::from_secs(3600), ..quick() });
    a.send(0, 0);
    a.link.drained().await;
    let before = a.link.stats().writes;
    let speaker = a.clone();
    let all = tokio::spawn(async move {
        for n in 1..=60 {
            let speaker = speaker.clone();
            tokio::spawn(async move { speaker.send(n, 0) });
        }
    });
    all.await.unwrap();
    a.user.until("all acknowledged", |seen| seen.acked == 61).await;
    let writes = a.link.stats().writes - before;
    assert!(writes <= 3, "{writes} writes"); // A pong may be among them.
    end(running);
}
