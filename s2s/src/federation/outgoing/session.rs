//! Room `federation::outgoing`: what was sent on a stream and has not arrived yet, and what the peer sent us on it: stream management (XEP-0198) seen from the
//! initiating entity. A value; outlives the connections of its stream. Called by `online` and `driver`.
//!
//! A peer with stream management acknowledges; what it has not acknowledged when the stream is cut is sent again on resumption, or, when that is refused, goes back
//! to its queues. For a peer without, what has left our buffers has arrived, and what has not goes back: of a write that failed half-way some may come twice,
//! but nothing is lost here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use xmpp::sm::{Inbound, TooHigh};

use super::peer::Sent;
use crate::federation::OnHandled;
use crate::federation::managed::{Again, Owed, Unacked};

/// So often in a row a connection may break when it is asked to resume: then it is the asking that breaks it. What is not acknowledged must have time left for
/// another stream.
const RESUMES_MAX: u8 = 3;

/// How far stream management has come on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none.
    Off,
    /// `<enable/>` is sent.
    Enabling,
    /// `<resume/>` is sent.
    Resuming,
    On,
}

/// What the peer needs to be told to go on with a former stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resumable {
    pub(super) id: String,
    /// How long the peer keeps it; `None`: it does not say.
    pub(super) max: Option<Duration>,
}

/// One stream, over all its connections.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) phase: Phase,
    managed: Unacked<Sent>,
    /// Without stream management: what is not flushed, and where it ends in the bytes of the connection.
    plain: VecDeque<(Sent, u64)>,
    pub(super) resumable: Option<Resumable>,
    /// Connections in a row that broke when they were asked to resume.
    broken: u8,
    /// Of what the peer has sent.
    owed: Owed,
    /// What the peer has sent since stream management was agreed on: of this `h` tells.
    counted: Arc<Received>,
    /// What it sent while it was not.
    uncounted: Arc<Received>,
    /// Of what counts: what comes once more when the stream is resumed.
    again: Again,
}

impl Session {
    pub(super) fn new(bell: Arc<Notify>) -> Session {
        Session {
            phase: Phase::Off,
            // Bounded by how much is taken from the queues: see `room`.
            managed: Unacked::default(),
            plain: VecDeque::new(),
            resumable: None,
            broken: 0,
            owed: Owed::default(),
            counted: Received::new(bell.clone()),
            uncounted: Received::new(bell),
            again: Again::default(),
        }
    }

    /// How many stanzas may be sent now.
    pub(super) fn room(&self, unacked_max: usize) -> usize {
        match self.phase {
            Phase::Enabling | Phase::Resuming => 0,
            Phase::On => unacked_max.saturating_sub(self.managed.len()),
            Phase::Off => unacked_max.saturating_sub(self.plain.len()),
        }
    }

    /// This one is written; `position` is where it ends in the bytes of the connection.
    pub(super) fn sent(&mut self, sent: Sent, position: u64) {
        if self.phase == Phase::On {
            let bytes = sent.item.bytes();
            self.managed.push(sent, bytes);
        } else {
            self.plain.push_back((sent, position));
        }
    }

    /// Everything up to there has left our buffers: what has thereby arrived.
    pub(super) fn flushed(&mut self, position: u64) -> Vec<Sent> {
        let count = self.plain.iter().take_while(|(_, end)| *end <= position).count();
        self.plain.drain(..count).map(|(sent, _)| sent).collect()
    }

    /// The peer acknowledges: what has thereby arrived.
    pub(super) fn acked(&mut self, h: u32, now: Instant) -> Result<Vec<Sent>, TooHigh> {
        self.managed.acked(h, now)
    }

    /// What the peer has not acknowledged, oldest first.
    pub(super) fn unacked(&self) -> impl Iterator<Item = &Sent> {
        self.managed.iter()
    }

    /// Since when an acknowledgement is awaited.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.managed.asked()
    }

    /// Since when the peer answers, if it does, and acknowledges nothing more.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.managed.stalled()
    }

    /// Asks for an acknowledgement, if one should be asked for now.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        self.phase == Phase::On && self.managed.ask(now)
    }

    /// When to ask.
    pub(super) fn asks_at(&self, now: Instant) -> Option<Instant> {
        self.managed.asks_at(now).filter(|_| self.phase == Phase::On)
    }

    /// The stream is to be resumed: the `h` to tell, up to which the peer need not send again.
    pub(super) fn resume(&mut self) -> u32 {
        self.phase = Phase::Resuming;
        let inbound = self.counted.inbound.lock();
        self.again = Again::told(&inbound, 0);
        inbound.handled()
    }

    /// The peer has agreed on stream management: both count from here (XEP-0198 §4).
    pub(super) fn enabled(&mut self) {
        self.phase = Phase::On;
        self.counted = Received::new(self.counted.bell.clone());
        self.again = Again::default();
    }

    /// It goes on where it was cut, with what was not handled when we said how far we were: what of that has come is not taken once more.
    pub(super) fn resumed(&mut self) {
        self.phase = Phase::On;
        self.broken = 0;
    }

    /// A stanza of the peer's has come: who is to hear when it is handled, and its number there. `None`: it has come before.
    pub(super) fn receive(&mut self) -> Option<(Arc<Received>, u64)> {
        let received = if self.phase == Phase::On { &self.counted } else { &self.uncounted };
        if self.phase == Phase::On && self.again.comes() {
            return None;
        }
        Some((received.clone(), received.begin()))
    }

    /// How many of the peer's are not handled yet.
    pub(super) fn open(&self) -> usize {
        self.counted.open() + self.uncounted.open()
    }

    /// Whether more of the peer's may be taken. That it agrees to resume is heard whatever is not handled of before.
    pub(super) fn may_receive(&self, unhandled_max: usize) -> bool {
        let resuming = self.phase == Phase::Resuming;
        (if resuming { self.uncounted.open() } else { self.open() }) < unhandled_max
    }

    /// The peer asks what is handled of its own: the `h` to answer. If that is not all, it is told once more when it is: see [`Session::settle`].
    pub(super) fn answer(&mut self) -> u32 {
        let inbound = self.counted.inbound.lock();
        self.owed.asked(&inbound);
        inbound.handled()
    }

    /// The `h` to tell the peer now, of what it asked for and was not told.
    pub(super) fn settle(&mut self) -> Option<u32> {
        if !self.owed.is_any() {
            return None;
        }
        let inbound = self.counted.inbound.lock();
        let is_due = self.owed.is_due(&inbound) && self.phase == Phase::On;
        is_due.then(|| inbound.handled())
    }

    /// Whether, without stream management, something has not left our buffers.
    pub(super) fn has_unflushed(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Nothing is on the way.
    pub(super) fn is_empty(&self) -> bool {
        self.managed.is_empty() && self.plain.is_empty()
    }

    /// Everything on the way comes back, oldest first, and the counters begin anew.
    pub(super) fn begin_anew(&mut self) -> Vec<Sent> {
        self.phase = Phase::Off;
        (self.resumable, self.broken) = (None, 0);
        self.owed = Owed::default();
        (self.counted, self.again) = (Received::new(self.counted.bell.clone()), Again::default());
        let managed = std::mem::take(&mut self.managed).into_queue();
        let plain = std::mem::take(&mut self.plain);
        managed.into_unacked().chain(plain.into_iter().map(|(sent, _)| sent)).collect()
    }

    /// The connection is gone; `refused`: the peer has ended it with an error, or has not answered. What may be resumed stays, unless that was its word on
    /// resuming; the rest comes back, oldest first.
    pub(super) fn cut(&mut self, refused: bool) -> Vec<Sent> {
        if self.phase == Phase::Resuming {
            self.broken += 1;
            if refused || self.broken >= RESUMES_MAX {
                return self.begin_anew();
            }
        }
        self.phase = Phase::Off;
        self.owed = Owed::default();
        self.managed.cut();
        if self.resumable.is_none() {
            return self.begin_anew();
        }
        Vec::new()
    }

    /// Until when it makes sense to try to resume: as long as the peer keeps the stream, and not beyond the time of what was sent first.
    pub(super) fn resumable_until(
        &self,
        cut: Instant,
        resume: Duration,
        queue: Duration,
    ) -> Option<Instant> {
        let kept = self.resumable.as_ref()?.max.unwrap_or(resume).min(resume);
        let first = self.managed.iter().next().map(|sent| sent.item.since + queue);
        Some(first.into_iter().chain([cut + kept]).min().unwrap_or(cut))
    }
}

/// What the peer sent on this stream (XEP-0288), until it is handled.
#[derive(Debug)]
pub(super) struct Received {
    inbound: Mutex<Inbound>,
    bell: Arc<Notify>,
}

impl Received {
    fn new(bell: Arc<Notify>) -> Arc<Received> {
        Arc::new(Received { inbound: Mutex::default(), bell })
    }

    /// One more has come; its number.
    fn begin(&self) -> u64 {
        self.inbound.lock().begin()
    }

    /// How many are not handled yet.
    fn open(&self) -> usize {
        let inbound = self.inbound.lock();
        usize::try_from(inbound.next() - inbound.first_open()).unwrap_or(usize::MAX)
    }
}

impl OnHandled for Received {
    fn handled(&self, number: u64) {
        self.inbound.lock().done(number);
        self.bell.notify_one();
    }
}
