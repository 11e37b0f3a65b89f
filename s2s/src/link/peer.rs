//! All that outlives the connections to one peer: the lanes, the inboxes, which incarnation they belong to, the counters. [`Link`] is the
//! user's handle on it. Called by the node (`Link`), `driver` and `links`; calls the [`LinkUser`]. Here are the locks, and nothing that waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ack::Inbox;
use super::frame::{FRONT, FrameError, Marks};
use super::lanes::Outbox;
use super::negotiate::{Decision, Session};
use super::{FrameKind, Incarnation, LinkFull, LinkLimits, LinkStats, LinkUser, PeerId};
use crate::error::Refusal;

/// The link to one peer. Cloning is one reference count.
#[derive(Clone)]
pub struct Link(pub(super) Arc<Peer>);

impl Link {
    /// Whether both are the same link: one that was forgotten and made anew is another.
    pub fn is(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Queues a frame, its body given in parts, and returns its number.
    ///
    /// # Errors
    /// As [`Link::send_with`].
    pub fn send(&self, kind: FrameKind, parts: &[&[u8]]) -> Result<u64, LinkFull> {
        self.send_with(kind, |_, out| parts.iter().for_each(|part| out.extend_from_slice(part)))
    }

    /// Queues a frame; `write` is given its number and appends its body to the queue itself. It runs under the queue's lock: it must not call this link.
    /// Also works while the link is down; the frame then waits. Panics if `kind` is below 0x10.
    ///
    /// # Errors
    /// [`LinkFull`]; nothing is queued then.
    pub fn send_with(
        &self,
        kind: FrameKind,
        write: impl FnOnce(u64, &mut Vec<u8>),
    ) -> Result<u64, LinkFull> {
        let seq = {
            let mut out = self.0.out.lock();
            if self.0.forgotten.load(Ordering::Acquire) {
                return Err(LinkFull::Forgotten);
            }
            out.main.push(kind, write)?
        };
        self.wake();
        Ok(seq)
    }

    /// Queues an unnumbered frame. False when it was dropped at once: link down, queue full, body too long.
    pub fn datagram(&self, kind: FrameKind, body: &[u8]) -> bool {
        let queued = self.is_up() && self.0.out.lock().datagram(kind, body);
        if queued {
            self.wake();
        } else {
            add(&self.0.counters.datagrams_dropped, 1);
        }
        queued
    }

    /// All our frames up to this number are settled: taken by the peer, or given to [`LinkUser::lost`], which has returned. Whoever reads this
    /// in whatever thread has been handed all that the peer sent before it took them (see the [module](super)).
    pub fn acked(&self) -> u64 {
        self.0.acked.load(Ordering::Acquire)
    }

    /// Whether a connection is up.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Acquire)
    }

    /// Responsibility is taken for a frame to which the user said [`Taken::Later`](super::Taken::Later). Others are ignored.
    pub fn taken(&self, ticket: u64) {
        if self.0.inbox.lock().take(ticket) {
            self.wake();
        }
    }

    /// Makes the writer run, and so `before_write`, though nothing is queued.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Waits until all that was sent is settled, as [`Link::acked`] says, also what is sent while this waits. Never ends while the peer is away:
    /// give it a deadline.
    pub async fn drained(&self) {
        loop {
            let mut settled = pin!(self.0.settled.notified());
            settled.as_mut().enable();
            let sent = self.0.out.lock().main.end().seq;
            if self.acked() >= sent {
                return;
            }
            settled.await;
        }
    }

    /// The peer's name.
    pub fn peer(&self) -> &PeerId {
        &self.0.id
    }

    /// The peer's incarnation last spoken to.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.0.session.lock().map(|session| session.peer)
    }

    /// Counters, as they are now.
    pub fn stats(&self) -> LinkStats {
        let (unacked_frames, unacked_bytes) = {
            let out = self.0.out.lock();
            (out.main.frames() + out.front.frames(), (out.main.bytes() + out.front.bytes()) as u64)
        };
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkStats {
            frames_out: read(&counters.frames_out),
            bytes_out: read(&counters.bytes_out),
            frames_in: read(&counters.frames_in),
            bytes_in: read(&counters.bytes_in),
            writes: read(&counters.writes),
            reads: read(&counters.reads),
            resent: read(&counters.resent),
            duplicates: read(&counters.duplicates),
            datagrams_dropped: read(&counters.datagrams_dropped),
            connections: read(&counters.connections),
            unacked_frames,
            unacked_bytes,
            rtt: Some(read(&counters.rtt_us))
                .filter(|us| *us > 0 && self.is_up())
                .map(Duration::from_micros),
        }
    }
}

/// See [`LinkStats`].
#[derive(Default)]
pub(super) struct Counters {
    pub(super) frames_out: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) datagrams_dropped: AtomicU64,
    pub(super) connections: AtomicU64,
    /// 0: not known.
    pub(super) rtt_us: AtomicU64,
}

/// Counts.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The two inboxes of a link.
#[derive(Default)]
pub(super) struct Inboxes {
    main: Inbox,
    front: Inbox,
}

impl Inboxes {
    fn lane(&mut self, number: u64) -> &mut Inbox {
        if number & FRONT == 0 { &mut self.main } else { &mut self.front }
    }

    /// See [`Inbox::receive`]; the lane is told by the number, and by the ticket.
    pub(super) fn receive(&mut self, seq: u64) -> Result<Option<u64>, FrameError> {
        Ok(self.lane(seq).receive(seq & !FRONT)?.map(|ticket| ticket | seq & FRONT))
    }

    /// See [`Inbox::take`].
    pub(super) fn take(&mut self, ticket: u64) -> bool {
        self.lane(ticket).take(ticket & !FRONT)
    }

    /// See [`Inbox::begin`].
    pub(super) fn begin(&mut self, first: Marks) -> Result<(), FrameError> {
        self.main.begin(first.main)?;
        self.front.begin(first.front)
    }

    /// What to acknowledge.
    pub(super) fn ack(&self) -> Marks {
        Marks { main: self.main.ack(), front: self.front.ack() }
    }

    /// What was received, for the hello.
    pub(super) fn received(&self) -> Marks {
        Marks { main: self.main.received(), front: self.front.received() }
    }
}

/// What is known of one peer while this node lives.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) user: Arc<dyn LinkUser>,
    pub(super) out: Mutex<Outbox>,
    pub(super) inbox: Mutex<Inboxes>,
    /// Which incarnation lanes and inboxes belong to. `None` before the first connection.
    pub(super) session: Mutex<Option<Session>>,
    acked: AtomicU64,
    pub(super) up: AtomicBool,
    pub(super) forgotten: AtomicBool,
    /// The writer has been called and has not begun its turn.
    awake: AtomicBool,
    notify: Notify,
    /// Told when there is something to acknowledge.
    pub(super) ack_due: Notify,
    /// Told when `acked` has changed.
    settled: Notify,
    pub(super) counters: Counters,
}

impl Peer {
    pub(super) fn new(id: PeerId, user: Arc<dyn LinkUser>, limits: &LinkLimits) -> Self {
        Self {
            id,
            user,
            out: Mutex::new(Outbox::new(limits)),
            inbox: Mutex::default(),
            session: Mutex::new(None),
            acked: AtomicU64::new(0),
            up: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            notify: Notify::new(),
            ack_due: Notify::new(),
            settled: Notify::new(),
            counters: Counters::default(),
        }
    }

    /// Calls the writer; once for all who call before it comes.
    pub(super) fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Waits for [`Peer::wake`].
    pub(super) async fn called(&self) {
        self.notify.notified().await;
    }

    /// The writer begins its turn: whoever queues from now on calls it again.
    pub(super) fn turn_begins(&self) {
        // A swap, not a store: whoever called before has queued before, and what it queued is seen after this.
        self.awake.swap(false, Ordering::AcqRel);
    }

    /// A connection has been agreed on: sets lanes and inboxes so that they fit, and returns what is lost, for [`Peer::hand_back`].
    ///
    /// # Errors
    /// [`Refusal::Resume`] when what the peer says it received cannot be true. Nothing has changed then.
    pub(super) fn commit(
        &self,
        peer: Incarnation,
        decision: &Decision,
        dialled: bool,
    ) -> Result<Vec<(u64, FrameKind, Bytes)>, Refusal> {
        let mut out = self.out.lock();
        let lost = match decision {
            Decision::Resume(received) => {
                if !(out.main.rewind(received.main) && out.front.rewind(received.front)) {
                    return Err(Refusal::Resume);
                }
                Vec::new()
            }
            Decision::Fresh { lose } => {
                self.inbox.lock().main.reset();
                self.inbox.lock().front.reset();
                out.front.give_up();
                if *lose {
                    out.main.give_up()
                } else {
                    out.main.restart();
                    Vec::new()
                }
            }
        };
        out.disconnect();
        *self.session.lock() = Some(Session { peer, confirmed: !dialled });
        Ok(lost)
    }

    /// The peer has begun with these numbers, so it has agreed to the session.
    pub(super) fn begun(&self, first: Marks) -> Result<(), FrameError> {
        self.inbox.lock().begin(first)?;
        if let Some(session) = self.session.lock().as_mut() {
            session.confirmed = true;
        }
        Ok(())
    }

    /// The peer has taken these: tells the user, when it is news of the main lane.
    pub(super) fn acknowledged(&self, marks: Marks) -> Result<(), FrameError> {
        let news = {
            let mut out = self.out.lock();
            let main = out.main.ack(marks.main)?;
            let front = out.front.ack(marks.front)?;
            if front && out.held {
                self.wake();
            }
            if main {
                self.settle(&out);
            }
            main
        };
        if news {
            self.user.acked(&self.id, marks.main);
        }
        Ok(())
    }

    /// The peer will not be spoken to again: hands back what it did not acknowledge. No connection may be left.
    pub(super) fn forget(&self) {
        let lost = {
            let mut out = self.out.lock();
            self.forgotten.store(true, Ordering::Release);
            out.front.give_up();
            out.main.give_up()
        };
        self.hand_back(lost);
    }

    /// Hands lost frames to the user, also when there are none. Only when it has them all do they count as settled; should it panic, it is a
    /// bug there, and they are gone.
    pub(super) fn hand_back(&self, lost: Vec<(u64, FrameKind, Bytes)>) {
        let handed = catch_unwind(AssertUnwindSafe(|| self.user.lost(&self.id, lost)));
        if handed.is_err() {
            tracing::error!(peer = %self.id, "taking lost frames back panicked");
        }
        self.settle(&self.out.lock());
    }

    /// Tells everybody what the main lane knows to be settled.
    pub(super) fn settle(&self, out: &Outbox) {
        self.acked.store(out.main.acked(), Ordering::Release);
        self.settled.notify_waiters();
    }
}
