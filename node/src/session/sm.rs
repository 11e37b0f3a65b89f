//! Room: XEP-0198 for one session: what is unacknowledged, resumption on another connection, and the sleep in between
//! (hibernation), during which the session keeps its place: it is still available, and what arrives for it is kept for it.
//! A session that is on another node is fetched from there (`moving`). Counters and elements are `xmpp::sm`. Left out: `location`, for any
//! node can resume what any other has.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use config::Limits;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use xmpp::jid::BareJid;
use xmpp::sm::{Malformed, Nonza, Outbound, TooHigh};
use xmpp::stanza::Kind;
use xmpp::stanza::error::Condition;
use xmpp::stream::error::StreamError;
use xmpp::xml::element::Element;

use super::end::Alive;
use super::moving::{self, Why};
use super::task::{Close, Session};
use super::{Control, Delivery, Handled, Item, Owed, Seat};
use crate::app::Node;
use crate::features::{archive, push};
use crate::router::perform;
use crate::transport::Buffer;
use crate::{outbox, router};

/// How long the old connection's task may take to hand over.
const HANDOVER_DEADLINE: Duration = Duration::from_secs(2);
/// How long a client that comes back waits for a session that is just moving between nodes.
const RESUME_DEADLINE: Duration = Duration::from_secs(5);
/// Before it is looked for again.
const MOVING_RETRY: Duration = Duration::from_millis(50);

/// How long a client that comes back waits until what it had sent is safe. Then it is told less than was received, and some of it comes
/// twice.
const SAFE_DEADLINE: Duration = Duration::from_secs(20);
/// Before the disk is tried again.
const SAFE_RETRY: Duration = Duration::from_millis(100);

/// What was sent, or came while there was no connection.
#[derive(Debug)]
pub struct Sent {
    pub(super) delivery: Delivery,
    /// When (wall clock, ms).
    pub(super) at_ms: u64,
}

/// Stream management of one session.
#[derive(Debug)]
pub struct Sm {
    /// The resumption id; `None`: acknowledgements only.
    pub id: Option<String>,
    /// How long it may be resumed when its connection is lost.
    pub(super) timeout: Duration,
    /// Sent, not acknowledged.
    pub out: Outbound<Sent>,
    /// Received, and handled as soon as somebody else has it.
    pub handled: Arc<Handled>,
    /// Too much is received and not handled: nothing is read.
    pub full: bool,
    /// Taken from the mailbox when `out` was full: routed anew with the rest when the session ends, which it does now.
    pub overflow: Vec<Delivery>,
    /// `sent` when we last asked, until the answer comes.
    asked_at: Option<u32>,
}

impl Sm {
    fn new(seat: &Arc<Seat>, id: Option<String>, timeout: Duration, limits: &Limits) -> Self {
        let out = Outbound::new(limits.sm_queue_max, limits.mailbox_bytes_max);
        let handled = Handled::new(seat);
        Self { id, timeout, out, handled, full: false, overflow: Vec::new(), asked_at: None }
    }

    /// Of a session that comes from another node.
    pub(super) fn arrived(
        seat: &Arc<Seat>,
        id: String,
        timeout: Duration,
        (handled, acked): (u32, u32),
        unacked: Vec<Sent>,
        limits: &Limits,
    ) -> Self {
        let unacked = unacked.into_iter().map(|sent| {
            let bytes = sent.delivery.stanza.bytes().len();
            (sent, bytes)
        });
        let out = Outbound::resumed(acked, unacked, limits.sm_queue_max, limits.mailbox_bytes_max);
        let handled = Handled::resumed(seat, handled);
        Self {
            id: Some(id),
            timeout,
            out,
            handled,
            full: false,
            overflow: Vec::new(),
            asked_at: None,
        }
    }

    /// Keeps a stanza until it is acknowledged. False when there is no room: it is kept behind the others all the same, for what
    /// comes after this session, and the session must end.
    pub fn keep(&mut self, delivery: Delivery, at_ms: u64) -> bool {
        let bytes = delivery.stanza.bytes().len();
        if !self.overflow.is_empty() {
            self.overflow.push(delivery);
            return false;
        }
        match self.out.push(Sent { delivery, at_ms }, bytes) {
            Ok(()) => true,
            Err(full) => {
                self.overflow.push(full.0.delivery);
                false
            }
        }
    }

    /// The client has handled so many: what nobody has to keep any more.
    ///
    /// # Errors
    /// More than it was sent.
    pub fn acked(&mut self, h: u32) -> Result<impl Iterator<Item = Delivery>, TooHigh> {
        Ok(self.out.acked(h)?.map(|sent| sent.delivery))
    }

    /// Whether to ask for an acknowledgement now; notes that it was asked.
    pub fn wants_answer(&mut self) -> bool {
        if self.out.is_empty() || self.asked_at.is_some() {
            return false;
        }
        self.asked_at = Some(self.out.sent());
        true
    }

    /// Writes what the client has not acknowledged, again, with the time when it was sent first: the client may not have seen it then.
    pub fn resend(&self, node: &Node, output: &mut Buffer) {
        for Sent { delivery, at_ms } in self.out.unacked() {
            match delivery.stanza.kind() {
                Kind::Iq => output.put(delivery.stanza.bytes()),
                _ => output.put(router::delayed(node, &delivery.stanza, *at_ms).bytes()),
            }
        }
    }

    /// As [`Self::into_unacked`], when the session is over. Of a message that is in no ledger nobody knows when it was sent: it says when it came here.
    pub fn into_lost(self, node: &Node) -> Vec<Delivery> {
        let timed = |Sent { mut delivery, at_ms }: Sent| {
            if delivery.owed == Owed::Nothing && delivery.stanza.kind() == Kind::Message {
                delivery.stanza = router::delayed(node, &delivery.stanza, at_ms);
            }
            delivery
        };
        self.out.into_unacked().map(timed).chain(self.overflow).collect()
    }

    /// What was never acknowledged, oldest first.
    pub fn into_unacked(self) -> Vec<Delivery> {
        self.out.into_unacked().map(|sent| sent.delivery).chain(self.overflow).collect()
    }
}

/// Sessions that may be resumed, by id.
#[derive(Debug, Default)]
pub struct Resumable {
    seats: scc::HashMap<String, Arc<Seat>, foldhash::fast::RandomState>,
    /// The last that nobody resumed in time, oldest first: id, account, and how many stanzas were handled.
    expired: Mutex<VecDeque<(String, BareJid, u32)>>,
}

impl Resumable {
    pub(super) fn add(&self, id: String, seat: Arc<Seat>) {
        self.seats.upsert_sync(id, seat);
    }

    /// The session is over.
    pub fn remove(&self, id: &str) {
        self.seats.remove_sync(id);
    }

    /// Nobody has resumed it in time: its client is still to be told how much was handled (XEP-0198 §5). Of `most` the oldest is forgotten.
    pub(super) fn expired(&self, id: &str, account: &BareJid, h: u32, most: usize) {
        let mut expired = self.expired.lock();
        if expired.len() >= most {
            expired.pop_front();
        }
        expired.push_back((id.to_owned(), account.clone(), h));
    }

    pub(super) fn handled_by_expired(&self, id: &str, account: &BareJid) -> Option<u32> {
        let expired = self.expired.lock();
        expired.iter().rev().find(|(known, of, _)| known == id && of == account).map(|(.., h)| *h)
    }

    pub(super) fn find(&self, id: &str, account: &BareJid) -> Option<Arc<Seat>> {
        self.seats.read_sync(id, |_, seat| seat.clone()).filter(|seat| seat.bare == *account)
    }
}

/// What the old connection's task gives to the new one's.
#[derive(Debug)]
pub struct Handover {
    /// The session's place in the node: it stays the same.
    pub seat: Arc<Seat>,
    /// Its stream management.
    pub sm: Box<Sm>,
    /// Its promise to end.
    pub(super) alive: Alive,
}

/// Why a session is not resumed.
pub(super) enum Refused {
    /// There is none of that id and account; `h` if it is still known.
    NotFound {
        /// How many stanzas it had handled.
        h: Option<u32>,
    },
    /// The client's count makes no sense.
    Broken(StreamError),
}

/// Whether that session may still be had, as far as is known here without asking other nodes.
pub(super) fn may_resume(node: &Node, account: &BareJid, previd: &str) -> bool {
    node.resumable.find(previd, account).is_some()
        || !moving::places(node, account, previd).is_empty()
}

/// Takes a session over for a new connection, from this node or from another one.
pub(super) async fn resume(
    node: &Arc<Node>,
    account: &BareJid,
    previd: &str,
    h: u32,
) -> Result<Handover, Refused> {
    let give_up = Instant::now() + RESUME_DEADLINE;
    let mut known = None;
    loop {
        let mut moves = false;
        match node.resumable.find(previd, account) {
            Some(seat) => match take_out(node, &seat, h, SAFE_DEADLINE).await {
                Ok(handover) => return Ok(finish(node, handover)),
                Err(NotOut::Broken(too_high)) => return Err(Refused::Broken(too_high.error())),
                Err(NotOut::Moving) => moves = true,
                Err(NotOut::Over) => {}
            },
            None => known = known.or(node.resumable.handled_by_expired(previd, account)),
        }
        match moving::fetch(node, account, previd, h).await {
            Ok(handover) => return Ok(finish(node, *handover)),
            Err(Why::TooHigh { h, sent }) => {
                return Err(Refused::Broken(TooHigh { h, sent }.error()));
            }
            Err(Why::Moving) => moves = true,
            Err(Why::NotFound { h }) => known = known.or(h),
        }
        if !moves || Instant::now() >= give_up {
            return Err(Refused::NotFound { h: known });
        }
        sleep(MOVING_RETRY).await;
    }
}

fn finish(node: &Node, mut handover: Handover) -> Handover {
    handover.seat.set_lost_ms(0);
    handover.sm.full = false;
    handover.sm.asked_at = None;
    node.metrics.resumed.inc();
    handover
}

/// Why a session of this node is not to be had.
pub(super) enum NotOut {
    /// It is just ending.
    Over,
    /// Somebody else has it at this moment.
    Moving,
    /// The client's count makes no sense, and the session has ended.
    Broken(TooHigh),
}

/// Takes a session of this node out of its task: what its client has handled is kept, and what it has sent is safe, if that can be had in time.
pub(super) async fn take_out(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    h: u32,
    safe_within: Duration,
) -> Result<Handover, NotOut> {
    let (reply, mut answer) = oneshot::channel();
    if seat.mailbox.push(Item::Control(Control::Resume(reply))).is_err() {
        return Err(NotOut::Over);
    }
    let handed = match timeout(HANDOVER_DEADLINE, &mut answer).await {
        Ok(handed) => handed.ok(),
        Err(_) => {
            // Either it is here already, or it can come no more and the old task keeps it.
            answer.close();
            answer.try_recv().ok()
        }
    };
    let Some(mut handover) = handed else { return Err(NotOut::Moving) };
    let refused = match handover.sm.acked(h) {
        Ok(kept) => {
            router::kept(node, seat, kept);
            None
        }
        Err(too_high) => Some(too_high),
    };
    if let Some(too_high) = refused {
        // The session is in our hands now and nobody else's: it ends here.
        super::end::abandon(node, handover).await;
        return Err(NotOut::Broken(too_high));
    }
    make_safe(node, &handover.sm, safe_within).await;
    Ok(handover)
}

/// `<resumed/>` tells how much was handled, and the client sends the rest again: so what it has sent must be safe before.
pub(super) async fn make_safe(node: &Arc<Node>, sm: &Sm, within: Duration) {
    let safe_by = Instant::now() + within;
    while sm.handled.open() > 0 && Instant::now() < safe_by {
        let written = outbox::flush(node, safe_by).await;
        archive::queue::flush(node).await;
        if !written || sm.handled.open() > 0 {
            sleep(SAFE_RETRY).await;
        }
    }
}

/// Stream management for a session that has none, and what its client is told.
pub(super) fn enable(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    resume: bool,
    max: Option<u32>,
) -> (Box<Sm>, Nonza) {
    let limits = &node.config.limits;
    // The client may want less, not more.
    let wish = max.map_or(Duration::MAX, |max| Duration::from_secs(max.into()));
    let timeout = limits.sm_timeout.min(wish);
    let id = resume.then(|| moving::new_id(node));
    if let Some(id) = &id {
        node.resumable.add(id.clone(), seat.clone());
    }
    let max = id.as_ref().map(|_| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
    let enabled = Nonza::Enabled { id: id.clone(), max, location: None };
    (Box::new(Sm::new(seat, id, timeout, limits)), enabled)
}

/// The same while it is being bound (XEP-0386 §3.2): every request of XEP-0198 in there gets its answer, and one is enough.
pub(super) fn enable_inline(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    sm: &mut Option<Box<Sm>>,
    request: &Element,
) -> Element {
    let failed = |condition| Nonza::Failed { condition, h: None }.element();
    match Nonza::parse(request) {
        Some(Ok(Nonza::Enable { resume, max })) if sm.is_none() => {
            let (made, enabled) = enable(node, seat, resume, max);
            *sm = Some(made);
            enabled.element()
        }
        Some(Err(Malformed::Failed(condition))) => failed(condition),
        _ => failed(Condition::UnexpectedRequest),
    }
}

/// The old task's part of [`resume`]. If the new connection is gone already, the session goes on as it was.
pub(super) fn handover(
    session: &mut Session,
    sm: Box<Sm>,
    reply: oneshot::Sender<Handover>,
) -> Option<Close> {
    let alive = session.alive.take().expect("a session is handed over once");
    match reply.send(Handover { seat: session.seat.clone(), sm, alive }) {
        Ok(()) => Some(Close::TakenOver),
        Err(Handover { sm, alive, .. }) => {
            session.sm = Some(sm);
            session.alive = Some(alive);
            None
        }
    }
}

impl Session {
    /// An element that is no stanza.
    pub(super) fn nonza(&mut self, element: &Element) -> Result<(), StreamError> {
        let nonza = match Nonza::parse(element) {
            None => return self.client_state(element),
            Some(Err(Malformed::Stream(error))) => return Err(error),
            Some(Err(Malformed::Failed(condition))) => return self.failed(condition),
            Some(Ok(nonza)) => nonza,
        };
        match nonza {
            Nonza::Enable { .. } if self.sm.is_some() => self.failed(Condition::UnexpectedRequest),
            Nonza::Enable { resume, max } => {
                let (sm, enabled) = enable(&self.node, &self.seat, resume, max);
                self.output.put(&enabled.to_bytes());
                self.sm = Some(sm);
                Ok(())
            }
            // Only before bind (XEP-0198 §5).
            Nonza::Resume { .. } => self.failed(Condition::UnexpectedRequest),
            Nonza::Request => match &self.sm {
                Some(sm) => {
                    sm.handled.ask();
                    Ok(())
                }
                None => self.failed(Condition::UnexpectedRequest),
            },
            Nonza::Answer { h } => {
                let Some(sm) = self.sm.as_mut() else {
                    return self.failed(Condition::UnexpectedRequest);
                };
                let kept = sm.acked(h).map_err(|too_high| too_high.error())?;
                router::kept(&self.node, &self.seat, kept);
                let sent = sm.out.sent();
                if let Some(asked_at) = sm.asked_at.take()
                    && asked_at != sent
                    && sm.wants_answer()
                {
                    self.output.put(xmpp::sm::REQUEST);
                }
                Ok(())
            }
            _ => Err(StreamError::unsupported_stanza_type()),
        }
    }

    fn failed(&mut self, condition: Condition) -> Result<(), StreamError> {
        self.output.put(&Nonza::Failed { condition, h: None }.to_bytes());
        Ok(())
    }
}

/// One more of its account waits to be resumed: a client that comes back as a new one each time must not leave any number behind.
fn make_room(node: &Node, seat: &Seat) {
    seat.set_lost_ms(node.now_ms().max(1));
    let mut lost = perform::seats_of(node, seat.bare.as_str());
    lost.retain(|other| other.lost_ms() > 0);
    lost.sort_by_key(|other| (other.lost_ms(), other.generation));
    let surplus = lost.len().saturating_sub(node.config.limits.sm_lost_per_account_max);
    for first in &lost[..surplus] {
        perform::close(first, StreamError::resource_constraint());
    }
}

/// Without a connection, until the client is back or the time is over. `None`: another task has the session now.
pub(super) async fn hibernate(
    node: &Arc<Node>,
    mut session: Handover,
    deadline: Instant,
) -> Option<Handover> {
    node.metrics.hibernating.inc();
    let seat = session.seat.clone();
    // One that has slept before, here or where it comes from, has its devices told.
    let slept = seat.lost_ms() > 0;
    make_room(node, &seat);
    if !slept {
        push::asleep(node, &seat, session.sm.out.unacked().map(|sent| &sent.delivery));
    }
    let mut mail = Vec::new();
    let outcome = loop {
        let drained =
            timeout_at(deadline, poll_fn(|cx| seat.mailbox.poll_drain(cx, &mut mail))).await;
        if drained.is_err() {
            break Some(session);
        }
        let mut over = false;
        let mut taken = None;
        let mut again = false;
        for item in mail.drain(..) {
            match item {
                Item::Stanza(delivery) => {
                    push::missed(node, &seat, &delivery);
                    over |= !session.sm.keep(delivery, node.wall_ms());
                }
                Item::Control(Control::Resume(reply)) => taken = Some(reply),
                Item::Control(Control::Leave(leave)) => taken = Some(leave.reply),
                Item::Control(Control::Close(_)) => over = true,
                Item::Control(Control::SayAgain) => again = true,
                // What it has missed it is told when its client is back: `Seat::wakes`.
                Item::Control(Control::Tick | Control::Handled { .. } | Control::Missed) => {}
            }
        }
        if again {
            over |= super::stanza::say_again(node, &seat).await.is_some();
        }
        if over {
            break Some(session);
        }
        if let Some(reply) = taken {
            match reply.send(session) {
                Ok(()) => break None,
                Err(back) => session = back,
            }
        }
    };
    node.metrics.hibernating.dec();
    outcome
}
