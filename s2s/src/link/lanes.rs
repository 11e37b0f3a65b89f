//! All that waits for the writer of one peer, and the order in which it goes on the wire: the link's own frames, datagrams, the front lane,
//! the main lane, and last the acknowledgement of what was taken before all this was queued. Called by `peer` and `driver`; uses `ack` and
//! `frame`. Values only.

use super::ack::{Place, Window};
use super::frame::{self, BODY_BYTES_MAX, Control, FRONT, Marks};
use super::{FrameKind, LinkFull, LinkLimits};

/// A write carries about this much of each lane, so that one turn neither starves pings nor holds the lock for long.
const TURN_BYTES: usize = 512 * 1024;
/// What the user may put into the front lane in one turn.
const SINK_BYTES: usize = 1024 * 1024;

/// Takes what must go before everything queued until now: numbered frames of the front lane. See [`LinkUser::before_write`](super::LinkUser::before_write).
pub struct FrameSink {
    bytes: Vec<u8>,
    seq: u64,
    room: usize,
    refused: bool,
}

impl FrameSink {
    /// Puts a frame, its body given in parts.
    ///
    /// # Errors
    /// As [`FrameSink::frame_with`].
    pub fn frame(&mut self, kind: FrameKind, parts: &[&[u8]]) -> Result<(), LinkFull> {
        self.frame_with(kind, |out| parts.iter().for_each(|part| out.extend_from_slice(part)))
    }

    /// Puts a frame whose body `write` appends.
    ///
    /// # Errors
    /// [`LinkFull::Bytes`] when there is no more room now. Then the main lane waits, since something that must go before it is missing, and
    /// `before_write` is called again as soon as there is room: go on there with the same frame. [`LinkFull::Body`] when the body is too long.
    pub fn frame_with(
        &mut self,
        kind: FrameKind,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), LinkFull> {
        if self.bytes.len() >= self.room {
            self.refused = true;
            return Err(LinkFull::Bytes);
        }
        frame::write_numbered(&mut self.bytes, (self.seq + 1) | FRONT, kind, write)?;
        self.seq += 1;
        Ok(())
    }
}

/// What is decided at the start of a writer's turn.
pub(super) struct Turn {
    taken: Marks,
    main_end: Place,
    pub(super) sink: FrameSink,
}

/// What a turn has put on the wire.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) frames: u64,
    pub(super) resent: u64,
    /// There is more that could be written at once.
    pub(super) more: bool,
}

/// What this connection has acknowledged, and what it may not acknowledge yet.
#[derive(Default)]
struct Acks {
    written: Marks,
    /// The main lane's next acknowledgement, and what goes before it. Stays until it is written: a later one would wait for more.
    waiting: Option<(u64, Place)>,
}

/// The two lanes and what is not numbered.
pub(super) struct Outbox {
    pub(super) main: Window,
    pub(super) front: Window,
    datagrams: Vec<u8>,
    datagram_bytes_max: usize,
    ping: Option<u64>,
    pong: Option<u64>,
    acks: Acks,
    /// The front lane was full in the last turn: an ack must wake the writer.
    pub(super) held: bool,
    sink_bytes: Vec<u8>,
}

impl Outbox {
    pub(super) fn new(limits: &LinkLimits) -> Self {
        Self {
            main: Window::new(0, limits.unacked_bytes),
            front: Window::new(FRONT, limits.unacked_bytes),
            datagrams: Vec::new(),
            datagram_bytes_max: limits.datagram_bytes,
            ping: None,
            pong: None,
            acks: Acks::default(),
            held: false,
            sink_bytes: Vec::new(),
        }
    }

    /// Queues a datagram. False when it is too long or the queue is full.
    pub(super) fn datagram(&mut self, kind: FrameKind, body: &[u8]) -> bool {
        if body.len() > BODY_BYTES_MAX
            || self.datagrams.len() + body.len() > self.datagram_bytes_max
        {
            return false;
        }
        frame::write_datagram(&mut self.datagrams, kind, body);
        true
    }

    /// A ping is due.
    pub(super) fn ping(&mut self, number: u64) {
        self.ping = Some(number);
    }

    /// A ping is to be answered. Only the latest matters.
    pub(super) fn pong(&mut self, number: u64) {
        self.pong = Some(number);
    }

    /// Forgets what only made sense on the former connection.
    pub(super) fn disconnect(&mut self) {
        self.datagrams = Vec::new();
        self.ping = None;
        self.pong = None;
        self.acks = Acks::default();
        self.held = false;
    }

    /// Begins a turn: what is queued until now will go, after what is put into the sink. `taken` is what the inboxes acknowledged *before* this
    /// call, so that all that was queued before those frames were taken is in the queue now, or will be in the sink.
    pub(super) fn turn(&mut self, taken: Marks) -> Turn {
        let mut bytes = std::mem::take(&mut self.sink_bytes);
        bytes.clear();
        let room = self.front.room().min(SINK_BYTES);
        let main_end = self.main.end();
        if self.acks.waiting.is_none() && taken.main != self.acks.written.main {
            self.acks.waiting = Some((taken.main, main_end));
        }
        Turn {
            taken,
            main_end,
            sink: FrameSink { bytes, seq: self.front.end().seq, room, refused: false },
        }
    }

    /// Ends a turn: appends to `out` what goes on the wire now.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, turn: Turn) -> Filled {
        let Turn { taken, main_end, sink } = turn;
        if let Some(number) = self.ping.take() {
            self.acks.written.front = taken.front;
            frame::write_control(out, Control::Ping(number, self.acks.written));
        }
        if let Some(number) = self.pong.take() {
            frame::write_control(out, Control::Pong(number));
        }
        if !self.datagrams.is_empty() {
            out.extend_from_slice(&self.datagrams);
            self.datagrams.clear();
            self.datagrams.shrink_to(TURN_BYTES);
        }
        let progress = !sink.bytes.is_empty();
        if progress {
            self.front.append(&sink.bytes, sink.seq);
        }
        self.sink_bytes = sink.bytes;
        self.sink_bytes.shrink_to(TURN_BYTES / 8);
        let front_end = self.front.end();
        let mut copied = self.front.copy(out, front_end, out.len() + TURN_BYTES);
        self.held = sink.refused || !self.front.reached(front_end);
        if !self.held {
            let main = self.main.copy(out, main_end, out.len() + TURN_BYTES);
            copied.frames += main.frames;
            copied.resent += main.resent;
        }
        let more = if self.held {
            // Room where the sink had none: an ack came during this turn, when nobody knew yet that it is waited for.
            progress || !self.front.reached(front_end) || self.front.room() > 0
        } else {
            !self.main.reached(main_end)
        };
        self.acknowledge(out, taken, main_end);
        Filled { frames: copied.frames, resent: copied.resent, more }
    }

    /// Behind what this turn has put on the wire: the front lane's acknowledgement at once, whatever is held back, since the peer's front lane may
    /// wait for it; the main lane's when both lanes have passed what goes before it. That is never for good: what is queued is within the bound, so
    /// it can be written, and the front lane, should it hold the main lane back, goes on with an ack that waits for nothing.
    fn acknowledge(&mut self, out: &mut Vec<u8>, taken: Marks, main_end: Place) {
        let mut marks = Marks { front: taken.front, ..self.acks.written };
        if let Some((upto, behind)) = self.acks.waiting
            && !self.held
            && self.main.reached(behind)
        {
            marks.main = if self.main.reached(main_end) { taken.main } else { upto };
            self.acks.waiting = None;
        }
        if marks != self.acks.written {
            self.acks.written = marks;
            frame::write_control(out, Control::Ack(marks));
        }
    }

    /// The numbers this side goes on with, for the first frame of a connection.
    pub(super) fn begin(&self) -> Marks {
        Marks { main: self.main.cursor_seq() + 1, front: self.front.cursor_seq() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::ack::Inbox;
    use crate::link::frame::{Frame, decode};

    const KIND: FrameKind = FrameKind(0x11);

    fn outbox(unacked_bytes: usize) -> Outbox {
        Outbox::new(&LinkLimits { unacked_bytes, ..LinkLimits::default() })
    }

    fn numbers(mut bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some((frame, total)) = decode(bytes).unwrap() {
            seen.push(match frame {
                Frame::Control(control) => {
                    format!("{control:?}").split('(').next().unwrap_or_default().to_owned()
                }
                Frame::Datagram { .. } => "datagram".to_owned(),
                Frame::Numbered { seq, .. } if seq & FRONT != 0 => {
                    format!("front {}", seq & !FRONT)
                }
                Frame::Numbered { seq, .. } => format!("main {seq}"),
            });
            bytes = &bytes[total..];
        }
        seen
    }

    #[test]
    fn front_lane_goes_before_what_was_queued_and_later_frames_wait_for_the_next_turn() {
        let mut outbox = outbox(1 << 20);
        let mut out = Vec::new();
        outbox.main.push(KIND, |_, out| out.push(1)).unwrap();
        assert!(outbox.datagram(KIND, b"vote"));
        outbox.pong(1);
        let mut turn = outbox.turn(Marks::default());
        turn.sink.frame(KIND, &[b"row"]).unwrap();
        outbox.main.push(KIND, |_, out| out.push(2)).unwrap(); // depends on a row after the one above, perhaps
        let filled = outbox.fill(&mut out, turn);
        assert_eq!(numbers(&out), ["Pong", "datagram", "front 1", "main 1"]);
        assert_eq!(filled, Filled { frames: 2, resent: 0, more: false });
        out.clear();
        let turn = outbox.turn(Marks::default());
        outbox.fill(&mut out, turn);
        assert_eq!(numbers(&out), ["main 2"]);
    }

    #[test]
    fn refused_front_frame_holds_the_main_lane_back_until_there_is_room() {
        let mut outbox = outbox(100);
        let mut out = Vec::new();
        outbox.main.push(KIND, |_, _| ()).unwrap();
        let mut turn = outbox.turn(Marks::default());
        turn.sink.frame(KIND, &[&[0; 200]]).unwrap();
        assert_eq!(turn.sink.frame(KIND, &[b"next"]), Err(LinkFull::Bytes));
        assert!(outbox.fill(&mut out, turn).more, "the sink made progress: ask again");
        let mut turn = outbox.turn(Marks::default());
        assert_eq!(turn.sink.frame(KIND, &[b"next"]), Err(LinkFull::Bytes));
        assert!(!outbox.fill(&mut out, turn).more, "nothing to do before an ack");
        assert!(outbox.held);
        assert_eq!(numbers(&out), ["front 1"]);
        assert_eq!(outbox.front.ack(1), Ok(true));
        let mut turn = outbox.turn(Marks::default());
        turn.sink.frame(KIND, &[b"next"]).unwrap();
        outbox.fill(&mut out, turn);
        assert_eq!(numbers(&out), ["front 1", "front 2", "main 1"]);
    }

    #[test]
    fn long_queue_is_written_in_turns() {
        let mut outbox = outbox(8 << 20);
        for _ in 0..40 {
            outbox.main.push(KIND, |_, out| out.resize(out.len() + 50_000, 0)).unwrap();
        }
        let (mut out, mut turns) = (Vec::new(), 0);
        loop {
            let turn = outbox.turn(Marks::default());
            turns += 1;
            if !outbox.fill(&mut out, turn).more {
                break;
            }
        }
        assert_eq!(turns, 4);
        assert_eq!(numbers(&out).len(), 40);
    }

    /// What acknowledges on the wire, and the frames around it.
    fn order(mut bytes: &[u8]) -> Vec<(&'static str, u64, u64)> {
        let mut seen = Vec::new();
        while let Some((frame, total)) = decode(bytes).unwrap() {
            seen.push(match frame {
                Frame::Control(Control::Ack(marks)) => ("ack", marks.main, marks.front),
                Frame::Control(Control::Ping(_, marks)) => ("ping", marks.main, marks.front),
                Frame::Numbered { seq, .. } if seq & FRONT != 0 => ("front", seq & !FRONT, 0),
                Frame::Numbered { seq, .. } => ("main", seq, 0),
                other => panic!("{other:?}"),
            });
            bytes = &bytes[total..];
        }
        seen
    }

    #[test]
    fn acknowledgement_goes_behind_the_frame_that_was_queued_while_it_was_earned() {
        let (mut outbox, mut inbox) = (outbox(1 << 20), Inbox::default());
        inbox.begin(1).unwrap();
        let taken = |inbox: &Inbox| Marks { main: inbox.ack(), front: 0 };
        let turn = outbox.turn(taken(&inbox));
        let ticket = inbox.receive(1).unwrap().unwrap();
        outbox.main.push(KIND, |_, out| out.extend_from_slice(b"returned")).unwrap();
        inbox.take(ticket);
        let mut out = Vec::new();
        outbox.ping(1);
        assert!(!outbox.fill(&mut out, turn).more);
        assert_eq!(order(&out), [("ping", 0, 0)], "that turn had begun before");
        out.clear();
        outbox.ping(2);
        let mut turn = outbox.turn(taken(&inbox));
        turn.sink.frame(KIND, &[b"row"]).unwrap();
        outbox.fill(&mut out, turn);
        assert_eq!(order(&out), [("ping", 0, 0), ("front", 1, 0), ("main", 1, 0), ("ack", 1, 0)]);
        out.clear();
        let turn = outbox.turn(taken(&inbox));
        outbox.fill(&mut out, turn);
        assert!(out.is_empty(), "once");
    }

    #[test]
    fn acknowledgement_waits_for_what_was_queued_before_it_and_not_for_what_follows() {
        let mut outbox = outbox(8 << 20);
        let queue = |outbox: &mut Outbox, frames: u64| {
            for _ in 0..frames {
                outbox.main.push(KIND, |_, out| out.resize(out.len() + 50_000, 0)).unwrap();
            }
        };
        queue(&mut outbox, 15);
        let (mut out, mut turns) = (Vec::new(), 0);
        while !order(&out).iter().any(|(kind, ..)| *kind == "ack") {
            turns += 1;
            let turn = outbox.turn(Marks { main: turns, front: 0 });
            assert!(outbox.fill(&mut out, turn).more);
            queue(&mut outbox, 15); // faster than it is written
        }
        assert_eq!(turns, 2);
        let seen = order(&out);
        assert_eq!(seen.last(), Some(&("ack", 1, 0)), "the first turn's, not the last one's");
        assert!(seen.contains(&("main", 15, 0)));
        outbox.disconnect();
        assert!(outbox.main.rewind(0));
        out.clear();
        let turn = outbox.turn(Marks { main: 9, front: 0 });
        outbox.fill(&mut out, turn);
        assert!(order(&out).iter().all(|(kind, ..)| *kind == "main"), "all is sent again, first");
    }

    #[test]
    fn main_lane_that_is_held_back_holds_its_acknowledgement_and_not_the_front_lanes() {
        let mut outbox = outbox(100);
        let mut out = Vec::new();
        let mut turn = outbox.turn(Marks::default());
        turn.sink.frame(KIND, &[&[0; 200]]).unwrap();
        outbox.fill(&mut out, turn);
        outbox.main.push(KIND, |_, _| ()).unwrap();
        out.clear();
        let mut turn = outbox.turn(Marks { main: 4, front: 7 });
        assert_eq!(turn.sink.frame(KIND, &[b"next"]), Err(LinkFull::Bytes));
        assert!(!outbox.fill(&mut out, turn).more);
        assert_eq!(order(&out), [("ack", 0, 7)]);
        out.clear();
        let mut turn = outbox.turn(Marks { main: 5, front: 7 });
        assert_eq!(turn.sink.frame(KIND, &[b"next"]), Err(LinkFull::Bytes));
        outbox.front.ack(1).unwrap();
        assert!(outbox.fill(&mut out, turn).more, "the ack came meanwhile, and called nobody");
        let mut turn = outbox.turn(Marks { main: 6, front: 7 });
        turn.sink.frame(KIND, &[b"next"]).unwrap();
        outbox.fill(&mut out, turn);
        assert_eq!(order(&out), [("front", 2, 0), ("main", 1, 0), ("ack", 6, 7)]);
    }
}
