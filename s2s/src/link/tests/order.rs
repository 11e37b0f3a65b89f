//! What an acknowledgement says of the frames that went before it, and what [`Link::acked`] says while frames are handed back.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use tokio::io::AsyncWriteExt;

use super::super::frame::{Control, Frame};
use super::connection::{BEGIN, Node, connect, control, end, hold, numbered, played, read_until};
use super::*;

const ANSWER: FrameKind = FrameKind(0x22);

/// Answers every third frame, by a frame and by a row, before it takes it: at once, or later beside the writer. Writes down what it
/// sees acknowledged without an answer.
#[derive(Default)]
struct Answering {
    link: OnceLock<Link>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Our frames' numbers, each with the kinds that must come back.
    asked: BTreeSet<(u64, u8)>,
    early: Vec<u64>,
    /// Tickets to be taken, and what they ask.
    later: Vec<(u64, u64)>,
    log: Vec<u64>,
    cursor: usize,
    acked: u64,
    /// What the link said was settled while frames were handed back, and their numbers.
    lost: Vec<(u64, Vec<u64>)>,
}

impl Answering {
    fn node(me: &str, other: &str, incarnation: u64) -> Node<Self> {
        let user = Arc::<Self>::default();
        let node = Node::with(me, other, incarnation, LinkLimits::default(), user);
        let _ = node.user.link.set(node.link.clone());
        node
    }

    fn link(&self) -> &Link {
        self.link.get().unwrap()
    }

    fn ask(&self, size: u64) {
        let asked = self.link().send_with(DATA, |seq, out| {
            out.extend_from_slice(&seq.to_be_bytes());
            out.resize(out.len() + size as usize, 0);
            if seq.is_multiple_of(3) {
                self.kept.lock().asked.extend([(seq, ANSWER.0), (seq, ROW.0)]);
            }
        });
        asked.unwrap();
    }

    fn answer(&self, asked: u64) {
        self.kept.lock().log.push(asked);
        self.link().send(ANSWER, &[&asked.to_be_bytes()]).unwrap();
    }

    /// All that was asked by frames up to this one is answered.
    fn check(&self, upto: u64) {
        let kept = &mut *self.kept.lock();
        kept.early.extend(kept.asked.range(..=(upto, u8::MAX)).map(|(seq, _)| *seq));
    }
}

impl LinkUser for Answering {
    fn up(&self, _: &PeerId, _: Incarnation, fresh: bool) {
        if fresh {
            self.kept.lock().cursor = 0;
        }
    }

    fn down(&self, _: &PeerId) {}

    fn lost(&self, _: &PeerId, unacked: Vec<(u64, FrameKind, Bytes)>) {
        let settled = self.link().acked();
        let numbers = unacked.iter().map(|(seq, ..)| *seq).collect();
        self.kept.lock().lost.push((settled, numbers));
    }

    fn frame(&self, _: &PeerId, ticket: u64, kind: FrameKind, body: Bytes) -> Taken {
        let seq = index(&body);
        if kind != DATA {
            self.kept.lock().asked.remove(&(seq, kind.0));
        } else if seq.is_multiple_of(6) {
            self.kept.lock().later.push((ticket, seq));
            self.link().wake();
            return Taken::Later;
        } else if seq.is_multiple_of(3) {
            self.answer(seq);
        }
        Taken::Now
    }

    fn acked(&self, _: &PeerId, upto: u64) {
        self.check(upto);
        let kept = &mut *self.kept.lock();
        assert!(upto > kept.acked && self.link().acked() >= upto, "news only");
        kept.acked = upto;
    }

    fn before_write(&self, _: &PeerId, out: &mut FrameSink) {
        self.check(self.link().acked());
        let later = std::mem::take(&mut self.kept.lock().later);
        for (ticket, seq) in later {
            self.answer(seq);
            self.link().taken(ticket);
        }
        let kept = &mut *self.kept.lock();
        for asked in &kept.log[kept.cursor..] {
            out.frame(ROW, &[&asked.to_be_bytes()]).unwrap();
        }
        kept.cursor = kept.log.len();
    }
}

#[tokio::test]
async fn frame_queued_while_another_is_handled_precedes_its_acknowledgement() {
    // The sixth is answered and taken after the writer's turn has begun, when what the turn will write of the main lane is already decided.
    let mut played = played(Answering::node("a", "b", 1), quick());
    played.wire.write_all(&control(BEGIN)).await.unwrap();
    for seq in 1..=6 {
        let mut frame = numbered(seq, 8);
        frame[HEADER_BYTES..].copy_from_slice(&seq.to_be_bytes());
        played.wire.write_all(&frame).await.unwrap();
    }
    let (mut answered, mut acked) = ([0, 0], 0);
    read_until(&mut played.wire, |frame| {
        match frame {
            Frame::Numbered { seq, .. } => answered[usize::from(seq & FRONT != 0)] += 1,
            Frame::Control(Control::Ack(marks) | Control::Ping(_, marks)) => {
                acked = marks.main;
                let due = acked / 3;
                assert!(answered.iter().all(|n| *n >= due), "{answered:?} before {acked}");
            }
            _ => (),
        }
        acked == 6
    })
    .await;
    assert_eq!(answered, [2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sees_a_frame_acknowledged_has_what_it_brought_about() {
    for seed in 0..15 {
        let mut chance = Chance::new(seed);
        let (a, b) = (Answering::node("a", "b", 1), Answering::node("b", "a", 2));
        for cut in 0..12 {
            for node in [&a, &b] {
                for _ in 0..chance.below(80) {
                    let size = if chance.below(30) == 0 { 70_000 } else { chance.below(200) };
                    node.user.ask(size);
                }
            }
            let most = if cut % 4 == 0 { 100 } else { 300_000 };
            connect(&a, &b, chance.below(most), chance.below(most)).await;
        }
        let running = hold(&a, &b, quick());
        for _ in 0..300 {
            a.user.ask(chance.below(2_000));
            b.user.ask(chance.below(2_000));
            tokio::task::yield_now().await;
        }
        for node in [&a, &b] {
            let drained = tokio::time::timeout(Duration::from_secs(30), node.link.drained()).await;
            assert!(drained.is_ok(), "seed {seed}");
            let kept = node.user.kept.lock();
            assert!(kept.early.is_empty(), "seed {seed}: without an answer {:?}", kept.early);
            assert!(kept.asked.is_empty(), "seed {seed}: never answered {:?}", kept.asked);
        }
        end(running);
    }
}

#[tokio::test]
async fn both_lanes_full_on_both_sides_come_free() {
    let limits = LinkLimits { unacked_bytes: 20_000, ..LinkLimits::default() };
    let nodes = [("a", "b", 1), ("b", "a", 2)]
        .map(|(me, other, life)| Node::bounded(me, other, life, limits));
    let [a, b] = &nodes;
    let mut sent = [0u64, 0];
    for (node, sent) in nodes.iter().zip(&mut sent) {
        while node.link.send(DATA, &[&sent.to_be_bytes(), &[0; 500]]).is_ok() {
            *sent += 1;
        }
        node.user.seen.lock().log = (0..400u64).map(|n| [n.to_be_bytes(); 32].concat()).collect();
    }
    let running = hold(a, b, LinkTimers { ping: Duration::from_secs(60), ..quick() });
    for (node, others) in nodes.iter().zip([sent[1], sent[0]]) {
        let drained = tokio::time::timeout(Duration::from_secs(30), node.link.drained()).await;
        assert!(drained.is_ok(), "an acknowledgement waits for one that waits for it");
        node.user
            .until("all", |seen| {
                seen.bodies(DATA).len() as u64 == others && seen.bodies(ROW).len() == 400
            })
            .await;
    }
    end(running);
}

#[tokio::test]
async fn lost_frames_count_as_settled_only_after_they_were_handed_back() {
    let a = Answering::node("a", "b", 1);
    (0..3).for_each(|_| a.user.ask(1));
    let (b, reborn) = (Node::new("b", "a", 2), Node::new("b", "a", 3));
    b.user.later_every.store(1, Ordering::Relaxed);
    connect(&a, &b, 1_000, 1_000).await;
    connect(&a, &reborn, 500, 500).await;
    assert_eq!(a.user.kept.lock().lost, [(0, vec![1, 2, 3])]);
    assert_eq!(a.link.acked(), 3);
    a.user.ask(1);
    a.link.0.forget();
    assert_eq!(a.user.kept.lock().lost[1], (3, vec![4]));
    assert_eq!(a.link.acked(), 4);
}
