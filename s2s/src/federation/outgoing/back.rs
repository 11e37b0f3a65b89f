//! Room `federation::outgoing`: our stanzas over streams that peers have opened to us (XEP-0288), as [`Bidi`] hands them over. Called by `incoming`, through
//! `mod`; takes from `pool`.
//!
//! Such a stream is one more way of a pair. A small task moves what waits into its bounded queue; what was moved is remembered until it has arrived, and goes back
//! to its queue, in order, when the stream ends before.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::failure::Failure;
use super::peer::{Sent, StreamId};
use super::{Shared, again};
use crate::federation::Ticket;
use crate::federation::bidi::Back;
use crate::federation::dialback::Pair;

/// Stanzas moved at a time.
const BATCH_ITEMS: usize = 256;
/// Bytes moved at a time, about.
const BATCH_BYTES: usize = 256 << 10;

/// The streams of peers that take our stanzas. One may speak for several of their domains: each is a way of its own. `None` at the end of all: there will be no
/// more.
#[derive(Debug)]
pub(super) struct Backs(Mutex<Option<HashMap<u64, Vec<Arc<Way>>>>>);

impl Default for Backs {
    fn default() -> Self {
        Backs(Mutex::new(Some(HashMap::new())))
    }
}

#[cfg(test)]
impl Backs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().as_ref().is_none_or(HashMap::is_empty)
    }
}

/// One domain of a peer's on one stream of it.
#[derive(Debug)]
struct Way {
    id: StreamId,
    theirs: Arc<str>,
    /// What was moved and has not arrived, oldest first.
    moved: Mutex<VecDeque<Sent>>,
}

/// From now on stanzas of the pair may go over that stream.
pub(super) fn opened(shared: &Arc<Shared>, pair: &Pair, back: &Back) {
    let mut all = shared.backs.0.lock();
    let Some(all) = &mut *all else { return };
    let ways = all.entry(back.stream).or_default();
    let known = ways.iter().find(|way| *way.theirs == *pair.to).map(|way| way.id);
    let (id, theirs, bell) = shared.pool(|pool| pool.opened_back(&pair.to, &pair.from, known));
    let Some(bell) = bell else { return };
    let way = Arc::new(Way { id, theirs, moved: Mutex::default() });
    ways.push(way.clone());
    tokio::spawn(run(shared.clone(), way, back.clone(), bell));
}

/// The peer has these. What has been given back meanwhile goes another way, and is told when it has got there.
pub(super) fn delivered(shared: &Shared, stream: u64, tickets: &[Ticket]) {
    let ways = shared.backs.0.lock().as_ref().and_then(|all| all.get(&stream).cloned());
    let ways = ways.unwrap_or_default();
    let mut missing: HashSet<Ticket> = tickets.iter().copied().collect();
    let mut told: Vec<Ticket> = Vec::with_capacity(tickets.len());
    // Nearly always those that were moved first have arrived. What was written before stream management is on may be told after what it acknowledges.
    for anywhere in [false, true] {
        for way in &ways {
            if missing.is_empty() {
                break;
            }
            let arrived = way.arrived(&mut missing, anywhere);
            if !arrived.is_empty() {
                told.extend(arrived.iter().map(|sent| sent.item.ticket));
                shared.pool(|pool| pool.delivered(&way.theirs, way.id, &arrived));
            }
        }
    }
    if !told.is_empty() {
        shared.user.delivered(&told);
    }
}

/// The stream has ended for good: what it had and was not delivered goes another way.
pub(super) fn closed(shared: &Shared, stream: u64) {
    let ways = shared.backs.0.lock().as_mut().and_then(|all| all.remove(&stream));
    ways.unwrap_or_default().iter().for_each(|way| way.end(shared));
}

/// The end of all: what they had and was not delivered comes back.
pub(super) fn end(shared: &Shared) {
    let all = shared.backs.0.lock().take().unwrap_or_default();
    all.into_values().flatten().for_each(|way| way.end(shared));
}

impl Way {
    /// Takes out what is among `missing`, and takes it from there: of those that were moved first, or of all.
    fn arrived(&self, missing: &mut HashSet<Ticket>, anywhere: bool) -> Vec<Sent> {
        let mut moved = self.moved.lock();
        let mut is_it = |sent: &Sent| missing.remove(&sent.item.ticket);
        if anywhere {
            let (arrived, left): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut *moved).into_iter().partition(is_it);
            *moved = left;
            return arrived.into();
        }
        std::iter::from_fn(|| moved.pop_front_if(|sent| is_it(sent))).collect()
    }

    fn end(&self, shared: &Shared) {
        let (now, timers) = (Instant::now().into_std(), shared.settings().timers);
        let moved = std::mem::take(&mut *self.moved.lock());
        shared.pool(|pool| {
            pool.back(&self.theirs, moved);
            pool.ended(&self.theirs, self.id, &Failure::Done, now, &timers, super::chance());
        });
    }
}

/// Moves what waits, as long as the stream takes it.
async fn run(shared: Arc<Shared>, way: Arc<Way>, back: Back, bell: Arc<Notify>) {
    // Other ways may share the queue: there is room for what is taken before it is taken.
    while let Ok(first) = back.queue.reserve().await {
        let more = back.queue.capacity().min(BATCH_ITEMS - 1);
        let more = back.queue.try_reserve_many(more).into_iter().flatten();
        let room: Vec<_> = std::iter::once(first).chain(more).collect();
        let (now, timers) = (Instant::now().into_std(), shared.settings().timers);
        let (sent, stuck) = {
            // Remembered before anybody can say that it has arrived.
            let mut moved = way.moved.lock();
            let most = (room.len(), BATCH_BYTES);
            let (sent, stuck) = shared.pool(|pool| {
                let sent = pool.take(&way.theirs, way.id, most, now, &timers);
                (sent, pool.stuck(&way.theirs, way.id, &timers))
            });
            moved.extend(sent.iter().cloned());
            (sent, stuck)
        };
        if !sent.is_empty() {
            for (permit, Sent { ours, item }) in room.into_iter().zip(sent) {
                permit.send((item.ticket, again::stanza(&ours, &item).into_owned()));
            }
            continue;
        }
        drop(room);
        let more = stuck.map(|(_, more)| more).filter(|more| *more > now);
        tokio::select! {
            () = bell.notified() => {}
            () = sleep_until(more.unwrap_or(now).into()), if more.is_some() => {}
            () = back.queue.closed() => break,
        }
    }
    // Whoever closed it has taken back what was moved until then; this is what was moved since.
    way.end(&shared);
    let mut all = shared.backs.0.lock();
    if let Some(all) = &mut *all
        && let Some(ways) = all.get_mut(&back.stream)
    {
        ways.retain(|other| other.id != way.id);
        if ways.is_empty() {
            all.remove(&back.stream);
        }
    }
}
