//! Room: what this node has taken upon itself and not handed on yet. A message of a client with stream management, or of another domain, is entered when it is
//! routed, and stays until one who has it has *kept* it: a client has acknowledged it, a home has filed it, or its sender has the error.
//! Meanwhile the ledger knows who holds it; when the last holder lets go (its session ended, its node died), it is routed anew.
//! What stays long is written to the outbox, so that its sender need not wait (`crate::outbox`). Blueprint §7.
//!
//! Called by the router, the roads, sessions and `geo`. Values under one short lock; no disk, no clock, no XML.
//! A message is named by its *order*: the place among all that this node ever accepted, in this life and former ones.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use global_distrib::NodeIx;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use crate::session::Receipt;

/// Who has a copy, and may still let go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A session of this node.
    Here,
    /// Another node.
    There(NodeIx),
}

/// Whoever waits to hear that a message is kept.
#[derive(Debug)]
pub enum Due {
    /// A client of ours, or the stream of another domain, who is told by `h`. Also when it is on disk here.
    Client(Receipt),
    /// The node where it entered, under that order; it could not be given back there.
    Node(NodeIx, u64),
    /// Nobody; it is remembered because several nodes have it.
    Nobody,
    /// Nobody, and it means nothing to another life of this node: it is not written down. Presence, an IQ, what nobody was promised.
    Passing,
}

/// What came of a holder's letting go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// Nobody has it any more: it is to be routed anew.
    Last,
    /// Others have it.
    NotLast,
    /// It is not in the ledger: kept already, or of a former life and never promised.
    Unknown,
}

/// A message that is to be written to the outbox: its order, when it was accepted (wall clock, ms), itself.
pub type ToStore = (u64, u64, Stanza);

#[derive(Debug)]
struct Entry {
    stanza: Stanza,
    /// Wall clock, for the stamp if it comes late.
    accepted_ms: u64,
    /// When it was entered here, by the clock that does not jump.
    since_ms: u64,
    due: Due,
    here: u16,
    there: SmallVec<[NodeIx; 2]>,
    disk: Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    No,
    Writing,
    Yes,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<u64, Entry, foldhash::fast::FixedState>,
    /// In the order they were entered, with the time (monotonic, ms); some are gone by now.
    young: VecDeque<(u64, u64)>,
    /// Kept, and still on disk.
    leftover: Vec<u64>,
    bytes: usize,
}

/// See the room. Memory: the messages themselves (shared with whoever has them) and about 150 bytes each; bounded by `bytes_max`.
#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
    first: u64,
    next: AtomicU64,
    bytes_max: usize,
    /// Something is there for the outbox to look at.
    pub(crate) stir: Notify,
}

/// The bytes an entry counts for besides its stanza's.
const ENTRY_BYTES: usize = 160;
/// Orders that one life of a node may use, for each millisecond between its start and the next life's.
const ORDERS_PER_MS: u64 = 1 << 20;

impl Ledger {
    /// An empty ledger of that life: its orders are greater than those of all former lives.
    pub fn new(incarnation: u64, bytes_max: usize) -> Self {
        let first = incarnation.saturating_mul(ORDERS_PER_MS) + 1;
        let next = AtomicU64::new(first);
        Self { inner: Mutex::default(), first, next, bytes_max, stir: Notify::new() }
    }

    /// Whether a stanza of that order was accepted in this life.
    pub fn is_of_this_life(&self, order: u64) -> bool {
        order >= self.first
    }

    /// The order of a stanza that is accepted now.
    pub fn next_order(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a message.
    ///
    /// # Errors
    /// There is no room, and nothing was promised; `due` comes back, so that its sender hears why before it is dropped.
    pub fn enter(
        &self,
        order: u64,
        stanza: &Stanza,
        due: Due,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<(), Due> {
        let weight = stanza.bytes().len() + ENTRY_BYTES;
        let mut inner = self.inner.lock();
        if inner.bytes + weight > self.bytes_max {
            return Err(due);
        }
        inner.bytes += weight;
        let first = inner.young.is_empty();
        inner.young.push_back((now_ms, order));
        inner.entries.insert(order, Entry::new(stanza.clone(), (wall_ms, now_ms), due, Disk::No));
        drop(inner);
        if first {
            self.stir.notify_one();
        }
        Ok(())
    }

    /// Enters what a former life left in the outbox. The bound does not hold it back: it was promised.
    pub fn recover(&self, order: u64, stanza: Stanza, accepted_ms: u64, now_ms: u64) {
        let mut inner = self.inner.lock();
        inner.bytes += stanza.bytes().len() + ENTRY_BYTES;
        let entry = Entry::new(stanza, (accepted_ms, now_ms), Due::Nobody, Disk::Yes);
        inner.entries.insert(order, entry);
    }

    /// It is about to be given to so many sessions here, and to these nodes. `false`: nobody is to have it, for somebody has kept it while it waited.
    pub fn hand(&self, order: u64, here: usize, there: &[NodeIx]) -> bool {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entries.get_mut(&order) else { return false };
        entry.here = u16::try_from(here).unwrap_or(u16::MAX);
        entry.there = there.into();
        true
    }

    /// Whether it is in it: nobody has kept it yet.
    pub fn has(&self, order: u64) -> bool {
        self.inner.lock().entries.contains_key(&order)
    }

    /// A holder has it no more, and it is not kept.
    pub fn let_go(&self, order: u64, holder: Holder) -> LetGo {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entries.get_mut(&order) else { return LetGo::Unknown };
        let held = match holder {
            Holder::Here => entry.here > 0,
            Holder::There(node) => entry.there.contains(&node),
        };
        if !held {
            return LetGo::NotLast; // It has been routed anew since.
        }
        match holder {
            Holder::Here => entry.here -= 1,
            Holder::There(node) => entry.there.retain(|known| *known != node),
        }
        if entry.is_held() { LetGo::NotLast } else { LetGo::Last }
    }

    /// What that node has, as far as we know.
    pub fn with(&self, node: NodeIx) -> Vec<u64> {
        let inner = self.inner.lock();
        let all = inner.entries.iter().filter(|(_, entry)| entry.there.contains(&node));
        all.map(|(order, _)| *order).collect()
    }

    /// That node does not have it, whatever we know. Whether nobody has it now.
    pub fn is_not_with(&self, order: u64, node: NodeIx) -> bool {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entries.get_mut(&order) else { return false };
        let before = entry.there.len();
        entry.there.retain(|known| *known != node);
        entry.there.len() < before && !entry.is_held()
    }

    /// A session that has it has moved: from there (which has it no more if it `leaves`, and still has it for others if not), to there.
    pub fn moves(&self, order: u64, from: Holder, to: Holder, leaves: bool) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entries.get_mut(&order) else { return };
        match from {
            Holder::Here => entry.here = entry.here.saturating_sub(1),
            Holder::There(node) if leaves => entry.there.retain(|known| *known != node),
            Holder::There(_) => {}
        }
        match to {
            Holder::Here => entry.here = entry.here.saturating_add(1),
            Holder::There(node) if entry.there.contains(&node) => {}
            Holder::There(node) => entry.there.push(node),
        }
    }

    /// That node is gone with all it held: what nobody else has, oldest first, with the time (wall clock, ms) it was accepted.
    pub fn node_gone(&self, node: NodeIx) -> Vec<(u64, u64, Stanza)> {
        let mut inner = self.inner.lock();
        let mut back = Vec::new();
        for (order, entry) in &mut inner.entries {
            if entry.there.contains(&node) {
                entry.there.retain(|known| *known != node);
                if !entry.is_held() {
                    back.push((*order, entry.accepted_ms, entry.stanza.clone()));
                }
            }
        }
        back.sort_unstable_by_key(|(order, ..)| *order);
        back
    }

    /// Whether that node has something for that account. Looks at all entries: for rare events.
    pub fn is_held_for(&self, node: NodeIx, account: &BareJid) -> bool {
        self.inner.lock().entries.values().any(|entry| {
            entry.there.contains(&node)
                && entry.stanza.to().is_some_and(|to| to.bare_str() == account.as_str())
        })
    }

    /// One that has it has kept it, or its sender has the error. Whoever waited is to be told; and what it was.
    pub fn kept(&self, order: u64) -> Option<(Due, Stanza)> {
        let mut inner = self.inner.lock();
        let entry = inner.entries.remove(&order)?;
        inner.bytes -= entry.stanza.bytes().len() + ENTRY_BYTES;
        if entry.disk != Disk::No {
            inner.leftover.push(order);
            self.stir.notify_one();
        }
        Some((entry.due, entry.stanza))
    }

    /// It, with the time (wall clock, ms) it was accepted.
    pub fn look(&self, order: u64) -> Option<(u64, Stanza)> {
        self.inner.lock().entries.get(&order).map(|entry| (entry.accepted_ms, entry.stanza.clone()))
    }

    /// It, if it was entered here before that (the node's own clock, ms, which does not jump).
    pub fn older(&self, order: u64, before_ms: u64) -> Option<Stanza> {
        let inner = self.inner.lock();
        let entry = inner.entries.get(&order).filter(|entry| entry.since_ms < before_ms);
        entry.map(|entry| entry.stanza.clone())
    }

    /// When it was accepted here (wall clock, ms).
    pub fn accepted_ms(&self, order: u64) -> Option<u64> {
        self.inner.lock().entries.get(&order).map(|entry| entry.accepted_ms)
    }

    /// What has waited since before `before_ms` and is not on disk, at most about `bytes_max` of it, and what is on disk and kept. It
    /// counts as being written.
    pub fn to_store(&self, before_ms: u64, bytes_max: usize) -> (Vec<ToStore>, Vec<u64>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let (mut put, mut bytes) = (Vec::new(), 0);
        while let Some((since, order)) = inner.young.front().copied()
            && since < before_ms
            && bytes < bytes_max
        {
            inner.young.pop_front();
            let Some(entry) = inner.entries.get_mut(&order) else { continue };
            if entry.disk == Disk::No && !matches!(entry.due, Due::Node(..) | Due::Passing) {
                entry.disk = Disk::Writing;
                bytes += entry.stanza.bytes().len();
                put.push((order, entry.accepted_ms, entry.stanza.clone()));
            }
        }
        (put, std::mem::take(&mut inner.leftover))
    }

    /// These are kept, and still on disk: to be removed there with the next [`Ledger::to_store`].
    pub fn left_over(&self, orders: Vec<u64>) {
        self.inner.lock().leftover.extend(orders);
        self.stir.notify_one();
    }

    /// These are on disk now. Dropping what is returned tells their senders.
    pub fn stored(&self, orders: impl Iterator<Item = u64>) -> Vec<Receipt> {
        let mut inner = self.inner.lock();
        let mut told = Vec::new();
        for order in orders {
            let Some(entry) = inner.entries.get_mut(&order) else { continue };
            entry.disk = Disk::Yes;
            match std::mem::replace(&mut entry.due, Due::Nobody) {
                Due::Client(receipt) => told.push(receipt),
                other => entry.due = other,
            }
        }
        told
    }

    /// The disk did not take them: they wait for the next time, and so do these that were to be removed.
    pub fn not_stored(&self, orders: impl Iterator<Item = u64>, leftover: Vec<u64>, now_ms: u64) {
        let mut inner = self.inner.lock();
        for order in orders {
            if let Some(entry) = inner.entries.get_mut(&order) {
                entry.disk = Disk::No;
                inner.young.push_back((now_ms, order));
            }
        }
        inner.leftover.extend(leftover);
    }

    /// When the first of those that wait for the outbox was entered (monotonic, ms); whether anything is to be removed there.
    pub fn waiting(&self) -> (Option<u64>, bool) {
        let mut inner = self.inner.lock();
        while let Some((_, order)) = inner.young.front().copied()
            && inner.entries.get(&order).is_none_or(|entry| entry.disk != Disk::No)
        {
            inner.young.pop_front();
        }
        (inner.young.front().map(|(since, _)| *since), !inner.leftover.is_empty())
    }

    /// Messages and bytes in it.
    pub fn depth(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.entries.len(), inner.bytes)
    }
}

impl Entry {
    fn new(stanza: Stanza, (accepted_ms, since_ms): (u64, u64), due: Due, disk: Disk) -> Self {
        Self { stanza, accepted_ms, since_ms, due, here: 0, there: SmallVec::new(), disk }
    }

    fn is_held(&self) -> bool {
        self.here > 0 || !self.there.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::stanza;

    #[test]
    fn what_a_session_takes_along_is_with_the_node_it_went_to() {
        let ledger = Ledger::new(1, 1 << 20);
        let (eu, us) = (NodeIx(0), NodeIx(1));
        let enter = |here, there: &[NodeIx]| {
            let order = ledger.next_order();
            let message = stanza("<message to='juliet@chat.example'/>");
            ledger.enter(order, &message, Due::Nobody, 0, 0).expect("room");
            assert!(ledger.hand(order, here, there));
            order
        };
        // From here to there: two sessions here had it.
        let order = enter(2, &[]);
        ledger.moves(order, Holder::Here, Holder::There(eu), true);
        assert_eq!(ledger.let_go(order, Holder::Here), LetGo::NotLast);
        assert_eq!(ledger.let_go(order, Holder::There(eu)), LetGo::Last);
        // From node to node; the first has another session with it.
        let order = enter(0, &[eu]);
        ledger.moves(order, Holder::There(eu), Holder::There(us), false);
        assert_eq!(ledger.let_go(order, Holder::There(eu)), LetGo::NotLast);
        assert_eq!(ledger.let_go(order, Holder::There(us)), LetGo::Last);
        // It comes back to where it entered, and the node it was at is gone.
        let order = enter(0, &[eu]);
        ledger.moves(order, Holder::There(eu), Holder::Here, true);
        assert!(ledger.node_gone(eu).is_empty());
        assert_eq!(ledger.let_go(order, Holder::Here), LetGo::Last);
        // A node says that it has it no more, whatever we know; one that we do not know of is not believed.
        let order = enter(0, &[eu, us]);
        assert_eq!(ledger.with(eu), [order]);
        assert!(!ledger.is_not_with(order, eu) && !ledger.is_not_with(order, eu));
        assert!(ledger.with(eu).is_empty());
        assert!(ledger.is_not_with(order, us) && !ledger.is_not_with(order, us));
        // Kept meanwhile: nothing comes of it.
        let order = enter(1, &[]);
        ledger.kept(order);
        assert!(!ledger.has(order) && !ledger.hand(order, 1, &[]));
        ledger.moves(order, Holder::Here, Holder::There(eu), true);
        assert_eq!(ledger.let_go(order, Holder::There(eu)), LetGo::Unknown);
    }
}
