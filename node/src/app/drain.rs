//! Emptying a node: it takes no new sessions, and those it has go, at a chosen pace, to another node where their clients resume them. Begun by
//! an operator (`ctl node drain`, who may take it back) and by the orderly stop.
//!
//! A session that may be resumed is told where to go (RFC 6120 §4.9.3.19, if `c2s.see_other_host` says where; `system-shutdown` if not), and
//! moves to another node at once (`session::moving`): its row, its presence and what waits for it are there before its client comes. One that may
//! not be resumed ends, as by any stream error. Where no node takes a session it waits here to be fetched, until the deadline. One that was offered
//! to a node that has not answered stays undecided, also then: that node may have it, and one owns it (decision 0013). It is there, or ends here,
//! when the other answers or its life is over; the stop of this node ends it too.
//! Streams of other domains stay until the node stops, unless `s2s.see_other_host` says where they are to go: then they end at once, and those that come as
//! soon as a domain wants to prove who it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use config::DrainTo;
use global_distrib::NodeIx;
use parking_lot::Mutex;
use replication::Hlc;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use xmpp::jid::FullJid;
use xmpp::stream::error::StreamError;

use super::Node;
use crate::geo::frame;
use crate::router::perform;
use crate::session::{Control, Handover, Item, Leave, Seat, moving};

/// How long a session's task may take until it lets go.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// Sessions on their way at one time.
const AT_ONCE: usize = 128;
/// How long a node to which a session is offered may take to answer. Then others take the session's place, and it is offered one more in
/// [`LATE_FOR`], until it has answered: what it had said may have been lost.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// See [`ANSWERED_WITHIN`].
const LATE_FOR: Duration = Duration::from_secs(30);
/// How long sessions may take to end when the deadline has come; then the drain is over, whatever is left.
pub const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// Before a node that took none is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// A timer is no finer; shorter pauses are left out.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Before it is looked again for sessions that were being made when all this began, or could not go.
const LOOK: Duration = Duration::from_millis(100);

/// The drain of this node: whether there is one, and how far it is.
#[derive(Debug, Default)]
pub struct Drain {
    on: AtomicBool,
    /// Which one: who takes part in a former one stops.
    number: AtomicU64,
    /// Sessions a second.
    rate: AtomicU32,
    total: AtomicU64,
    moved: AtomicU64,
    begun: Mutex<Option<(Instant, Instant)>>,
    changed: Notify,
    turn: AtomicUsize,
    /// Sessions that are on their way.
    leaving: Mutex<HashSet<Name>>,
    /// Nodes that have not answered in time, and when they may be offered one more.
    late: Mutex<HashMap<NodeIx, Instant>>,
}

/// A session by what names it for ever.
type Name = (FullJid, Hlc);

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// New sessions are refused.
    pub on: bool,
    /// Sessions a second.
    pub rate: u32,
    /// Sessions there were when it began, and since.
    pub total: u64,
    /// Went to another node.
    pub moved: u64,
    /// Ended.
    pub ended: u64,
    /// Are still here.
    pub left: u64,
    /// Since it began.
    pub lasts: Duration,
    /// Until those that are left are closed; zero: that time has come, or there is no drain.
    pub deadline: Duration,
}

impl Drain {
    /// Whether new sessions are refused.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// How far it is.
    pub fn progress(&self, node: &Node) -> Progress {
        let begun = *self.begun.lock();
        let now = Instant::now();
        let total = self.total.load(Ordering::Relaxed);
        let moved = self.moved.load(Ordering::Relaxed);
        let left = node.directory.sessions_here() as u64;
        Progress {
            on: self.is_on(),
            rate: self.rate.load(Ordering::Relaxed),
            total,
            moved,
            ended: total.saturating_sub(moved + left),
            left,
            lasts: begun.map_or(Duration::ZERO, |(since, _)| now.duration_since(since)),
            deadline: begun.map_or(Duration::ZERO, |(_, until)| until.duration_since(now)),
        }
    }

    /// From now on, at another pace if it is on already. The number of this order.
    fn begin(&self, node: &Node, rate: u32, deadline: Instant) -> u64 {
        self.rate.store(rate.max(1), Ordering::Relaxed);
        let number = self.number.fetch_add(1, Ordering::AcqRel) + 1;
        {
            let mut begun = self.begun.lock();
            let since =
                begun.filter(|_| self.is_on()).map_or_else(Instant::now, |(since, _)| since);
            *begun = Some((since, deadline));
        }
        if !self.on.swap(true, Ordering::AcqRel) {
            self.total.store(node.directory.sessions_here() as u64, Ordering::Relaxed);
            self.moved.store(0, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
        number
    }

    /// A session has gone to another node.
    pub fn count_moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// The node serves again.
    pub fn undo(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
        self.on.store(false, Ordering::Release);
        *self.begun.lock() = None;
        self.changed.notify_waiters();
    }

    /// So long, or until the order is another.
    async fn pause(&self, wait: Duration) {
        if wait < PAUSE_MIN {
            return;
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = self.changed.notified() => {}
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.number.load(Ordering::Acquire) == number
    }

    /// Begins to send one away. False: it is on its way.
    fn begins_to_leave(&self, seat: &Seat) -> bool {
        self.leaving.lock().insert(name(seat))
    }

    /// That node has not answered in time.
    fn is_late(&self, node: NodeIx) {
        self.late.lock().insert(node, Instant::now() + LATE_FOR);
    }

    /// It has, or its life is over.
    fn is_heard(&self, node: NodeIx) {
        self.late.lock().remove(&node);
    }

    fn next_turn(&self, of: usize) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % of
    }
}

fn name(seat: &Seat) -> Name {
    (seat.full.clone(), seat.generation)
}

/// What a client is told that is to go elsewhere.
pub fn elsewhere(node: &Node) -> StreamError {
    one_of(node, &node.config.c2s.see_other_host)
}

/// What somebody is told that is to go elsewhere: to which of these places, in turn, if there are any.
pub fn one_of(node: &Node, places: &[String]) -> StreamError {
    match places.len() {
        0 => StreamError::system_shutdown(),
        many => StreamError::see_other_host(&places[node.drain.next_turn(many)]),
    }
}

/// Whether there is a node to which sessions of this one may move.
pub fn has_heirs(node: &Node) -> bool {
    !heirs(node).is_empty()
}

/// Nodes to which sessions may move: of this region, or of others too if it has none and that is configured.
fn heirs(node: &Node) -> Vec<NodeIx> {
    let peers: Vec<_> =
        node.geo.live().iter().filter_map(|(_, ix)| node.geo.peer_at(*ix)).collect();
    let of = |own: bool| -> Vec<NodeIx> {
        let fits = peers.iter().filter(|peer| (peer.id.region == node.geo.me.region) == own);
        fits.filter(|peer| peer.link.is_up()).map(|peer| peer.ix).collect()
    };
    match (of(true), node.config.node.drain_to) {
        (own, DrainTo::Region) => own,
        (own, DrainTo::Anywhere) if own.is_empty() => of(false),
        (own, DrainTo::Anywhere) => own,
    }
}

fn is_of_our_region(node: &Node, ix: NodeIx) -> bool {
    node.geo.peer_at(ix).is_some_and(|peer| peer.id.region == node.geo.me.region)
}

/// From now on no session begins here: the node stops.
pub fn begin_to_refuse(node: &Node) {
    let deadline = Instant::now() + node.config.node.drain_deadline;
    node.drain.begin(node, node.config.node.drain_rate, deadline);
}

/// Begins to empty the node. The task ends when no session is left, the order is another, or [`CLOSED_WITHIN`] after the deadline.
pub fn start(node: &Arc<Node>, rate: u32, within: Duration) -> JoinHandle<()> {
    let deadline = Instant::now() + within;
    let number = node.drain.begin(node, rate, deadline);
    // Not every server goes where it is sent: what it has would come back to its senders. So only where an operator has said that they are to go.
    node.federation.handle.leave(!node.config.s2s.see_other_host.is_empty());
    let node = node.clone();
    tokio::spawn(async move { empty(&node, number, deadline).await })
}

/// Empties the node at a pace at which it is done well before the deadline, and waits for that.
pub async fn finish(node: &Arc<Node>, deadline: Instant) {
    let number = node.drain.begin(node, rate_until(node, deadline), deadline);
    if timeout_at(deadline, empty(node, number, deadline)).await.is_err() {
        tracing::warn!(sessions = node.directory.sessions_here(), "not all sessions have left");
    }
}

/// Closes connections at the same pace, where there is no node to which their sessions could go: their clients come to another region, or here
/// again, and not all in one moment.
pub async fn send_away(node: &Arc<Node>, deadline: Instant) {
    let mut seats: Vec<Arc<Seat>> = Vec::new();
    node.directory.for_each(|row| seats.extend(row.here().cloned()));
    seats.retain(|seat| seat.lost_ms() == 0);
    let rate = rate_until(node, deadline);
    node.drain.begin(node, rate, deadline);
    let mut pace = Pace::new(Instant::now());
    for seat in seats {
        node.drain.pause(pace.wait(Instant::now(), rate)).await;
        perform::close(&seat, elsewhere(node));
    }
}

/// As configured, or faster: half of the time must do.
fn rate_until(node: &Node, deadline: Instant) -> u32 {
    let time = deadline.duration_since(Instant::now()).as_secs_f64() / 2.0;
    let sessions = node.directory.sessions_here() as f64;
    let needed = (sessions / time.max(0.1)).ceil().min(f64::from(u32::MAX)) as u32;
    node.config.node.drain_rate.max(needed)
}

/// Until there is no session any more, the deadline has passed ([`close_all`]), or somebody has taken the order back or given another one.
async fn empty(node: &Arc<Node>, number: u64, deadline: Instant) {
    let drain = &node.drain;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let refused = Arc::new(Mutex::new(HashMap::<NodeIx, Instant>::new()));
    let mut pace = Pace::new(Instant::now());
    tracing::info!(sessions = node.directory.sessions_here(), "the node is emptied");
    while drain.is_current(number) {
        let mut seats: Vec<Arc<Seat>> = Vec::new();
        node.directory.for_each(|row| seats.extend(row.here().cloned()));
        if seats.is_empty() && places.available_permits() == AT_ONCE {
            tracing::info!("no session is left");
            return;
        }
        for seat in seats {
            if !drain.is_current(number) {
                return;
            }
            if Instant::now() >= deadline {
                break;
            }
            if drain.leaving.lock().contains(&name(&seat)) {
                continue;
            }
            // Before it is chosen where to: that may have changed by then.
            let Ok(Ok(one)) = timeout_at(deadline, places.clone().acquire_owned()).await else {
                break;
            };
            let to = target(node, &refused.lock());
            // One that sleeps already waits for a node that takes it, or for its client.
            if to.is_none() && seat.lost_ms() > 0 {
                continue;
            }
            drain.pause(pace.wait(Instant::now(), drain.rate.load(Ordering::Relaxed))).await;
            let domain = seat.bare.domain();
            let leaves_region = || to.is_some_and(|to| !is_of_our_region(node, to));
            if !node.domains.has_accounts(domain)
                || node.domains.is_of_this_region(domain) && leaves_region()
            {
                // What a guest has is with its session's node alone; who is on the region's own domain has no place in others.
                perform::close(&seat, elsewhere(node));
                continue;
            }
            if !drain.begins_to_leave(&seat) {
                continue;
            }
            // Of itself: it has the session in its hands, and must not be dropped with it.
            let (node, refused) = (node.clone(), refused.clone());
            tokio::spawn(async move {
                if let Some(to) = leave(&node, &seat, to, one).await {
                    refused.lock().insert(to, Instant::now() + ASK_AGAIN);
                }
                node.drain.leaving.lock().remove(&name(&seat));
            });
        }
        if Instant::now() >= deadline {
            return close_all(node, number).await;
        }
        drain.pause(LOOK).await;
        refused.lock().retain(|_, until| *until > Instant::now());
    }
}

/// The deadline has come. Each session is told once to close; one that is on offer hears it when that is settled.
async fn close_all(node: &Arc<Node>, number: u64) {
    let until = Instant::now() + CLOSED_WITHIN;
    let mut told = HashSet::new();
    while node.drain.is_current(number) && node.directory.sessions_here() > 0 {
        if Instant::now() >= until {
            let left = node.directory.sessions_here();
            let late = node.drain.late.lock().len();
            return tracing::warn!(
                left,
                late,
                "the deadline has passed and not all sessions have ended; nodes that do not answer may have them"
            );
        }
        let mut seats: Vec<Arc<Seat>> = Vec::new();
        node.directory.for_each(|row| seats.extend(row.here().cloned()));
        for seat in seats.iter().filter(|seat| told.insert(name(seat))) {
            perform::close(seat, elsewhere(node));
        }
        node.drain.pause(LOOK).await;
    }
}

fn target(node: &Node, refused: &HashMap<NodeIx, Instant>) -> Option<NodeIx> {
    let mut heirs = heirs(node);
    let (mut late, now) = (node.drain.late.lock(), Instant::now());
    heirs.retain(|ix| !refused.contains_key(ix) && late.get(ix).is_none_or(|until| *until <= now));
    if heirs.is_empty() {
        return None;
    }
    let to = heirs[node.drain.next_turn(heirs.len())];
    // One session finds out whether it answers now.
    late.entry(to).and_modify(|until| *until = now + LATE_FOR);
    Some(to)
}

/// One session goes. The node that did not take it, if so. Its place is free when it has gone, and when its taker does not answer.
async fn leave(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    to: Option<NodeIx>,
    one: OwnedSemaphorePermit,
) -> Option<NodeIx> {
    let (reply, mut handed) = oneshot::channel::<Handover>();
    let order = Control::Leave(Box::new(Leave { error: elsewhere(node), reply }));
    if seat.mailbox.push(Item::Control(order)).is_err() {
        return None; // Over meanwhile.
    }
    let session = match timeout(LEAVE_WITHIN, &mut handed).await {
        Ok(session) => session.ok(),
        Err(_) => {
            // It is here this very moment, or its task keeps it.
            handed.close();
            handed.try_recv().ok()
        }
    };
    let session = session?; // If not, it has ended, or its client has just taken it elsewhere.
    let Some(to) = to else {
        moving::sleep(node, session);
        return None;
    };
    let mut outcome = moving::push(node, to, session).await;
    let taken = match timeout(ANSWERED_WITHIN, &mut outcome).await {
        Ok(taken) => {
            if taken == Ok(true) {
                node.drain.is_heard(to);
            }
            taken
        }
        Err(_) => {
            node.drain.is_late(to);
            drop(one);
            tracing::debug!(node = ?node.geo.nodes.name(to), "has not said whether it takes a session");
            let taken = outcome.await;
            node.drain.is_heard(to);
            taken
        }
    };
    (!taken.unwrap_or(false)).then_some(to)
}

/// When the next one may go: a pace that makes up for nothing.
struct Pace {
    next: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { next: now }
    }

    fn wait(&mut self, now: Instant, rate: u32) -> Duration {
        let step = Duration::from_secs(1) / rate.max(1);
        let at = self.next.max(now);
        self.next = at + step;
        at.duration_since(now)
    }
}

/// What an operator says to a node, over the link if he speaks to another one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Order {
    /// It is emptied from now on: at so many sessions a second, within so many milliseconds; as configured if not said.
    Begin {
        /// Sessions a second.
        rate: Option<u32>,
        /// Then those that are left are closed.
        within_ms: Option<u64>,
    },
    /// It serves again.
    Undo,
    /// How far is it?
    Look,
}

/// How long an operator's drain takes at most, if he does not say.
const WITHIN: Duration = Duration::from_secs(600);
/// How long another node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Carries out an order to this node.
pub fn obey(node: &Arc<Node>, order: Order) -> Progress {
    match order {
        Order::Begin { rate, within_ms } => {
            let rate = rate.unwrap_or(node.config.node.drain_rate);
            start(node, rate, within_ms.map_or(WITHIN, Duration::from_millis));
        }
        Order::Undo => {
            node.drain.undo();
            node.federation.handle.leave(false);
        }
        Order::Look => {}
    }
    node.drain.progress(node)
}

/// An order that came over a link; the answer.
pub fn obey_bytes(node: &Arc<Node>, body: &[u8]) -> Vec<u8> {
    match postcard::from_bytes(body) {
        Ok(order) => postcard::to_stdvec(&obey(node, order)).expect("a plain value"),
        Err(_) => Vec::new(),
    }
}

/// Carries out an order to another node. `None`: it does not answer.
pub async fn order(node: &Arc<Node>, to: NodeIx, order: Order) -> Option<Progress> {
    let body = postcard::to_stdvec(&order).expect("a plain value");
    let send = |id| node.geo.send_value(to, frame::ORDER, &frame::Call { id, body }).is_some();
    let answer = node.geo.calls.call(Some(to), ANSWER_WITHIN, send).await.ok()?;
    postcard::from_bytes(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::House;

    #[tokio::test]
    async fn where_sessions_cannot_go_they_are_sent_away_at_a_pace() {
        let house = House::with_node("drain_rate = 1", "").await;
        let node = house.node.clone();
        tokio::time::pause();
        let seats: Vec<_> = (0..10).map(|n| house.bound(&format!("juliet/{n}"))).collect();
        seats[0].set_lost_ms(1);
        let told = || seats.iter().filter(|seat| seat.mailbox.depth().items > 0).count();
        let deadline = Instant::now() + Duration::from_secs(60);
        let sent = tokio::spawn(async move { send_away(&node, deadline).await });
        sleep(Duration::from_millis(3_500)).await;
        assert_eq!(told(), 4);
        sent.await.expect("no panic");
        // Who has lost its connection notices nothing, and is not waited for.
        assert_eq!(told(), 9);
        // In half of the time, if that is faster than what is configured.
        let deadline = Instant::now() + Duration::from_secs(4);
        assert_eq!(rate_until(&house.node, deadline), 5);
    }

    #[test]
    fn so_many_a_second_and_nothing_is_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let waits: Vec<u128> = (0..4).map(|_| pace.wait(start, 100).as_millis()).collect();
        assert_eq!(waits, [0, 10, 20, 30]);
        let later = start + Duration::from_secs(5);
        assert_eq!(pace.wait(later, 100), Duration::ZERO);
        assert_eq!(pace.wait(later, 100), Duration::from_millis(10));
        assert_eq!(pace.wait(later, 0), Duration::from_millis(20));
        assert_eq!(pace.wait(later, 1), Duration::from_millis(1_020));
    }
}
