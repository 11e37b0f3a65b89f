//! Room: changes of rows that wait to be written to Redis. Filled by sessions, which never wait for it; emptied by the registry's driver.
//! Plain state: no lock, no time of its own.
//!
//! The last change of a full JID replaces those before it, so nothing grows with how often somebody changes. The bound is the number of full JIDs
//! that wait; reached, all of them are forgotten, and the queue says that everything is to be written anew.

use std::collections::{HashMap, VecDeque};

use global_distrib::RouteEntry;
use xmpp::jid::FullJid;

use super::row::Change;

/// See the room.
#[derive(Debug)]
pub(super) struct Queue {
    changes: HashMap<FullJid, Change, foldhash::fast::RandomState>,
    /// Each of them once, in the order in which they began to wait.
    order: VecDeque<FullJid>,
    /// When the first that waits began to.
    since: Option<u64>,
    max: usize,
    overflowed: bool,
}

impl Queue {
    /// An empty one, for so many full JIDs.
    pub(super) fn new(max: usize) -> Queue {
        Queue {
            changes: HashMap::default(),
            order: VecDeque::new(),
            since: None,
            max,
            overflowed: false,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A row of this node changed. True: it is the first that waits, so the driver does not know yet.
    pub(super) fn note(&mut self, entry: &RouteEntry, now: u64) -> bool {
        let Some((full, change)) = Change::of(entry) else { return false };
        self.put(full, change, now)
    }

    /// As [`Queue::note`], of what was taken and could not be written.
    pub(super) fn put_back(&mut self, batch: Vec<(FullJid, Change)>, now: u64) {
        for (full, change) in batch {
            // What came meanwhile is newer, whatever it says.
            if !self.changes.contains_key(&full) {
                self.put(&full, change, now);
            }
        }
    }

    fn put(&mut self, full: &FullJid, change: Change, now: u64) -> bool {
        if let Some(known) = self.changes.get_mut(full) {
            // The end of a session that had lost its full JID to a newer one says nothing of that.
            if change.generation() >= known.generation() {
                *known = change;
            }
            return false;
        }
        if self.order.len() >= self.max {
            self.clear();
            self.overflowed = true;
        }
        if self.overflowed {
            return true;
        }
        self.changes.insert(full.clone(), change);
        self.order.push_back(full.clone());
        let first = self.since.is_none();
        self.since.get_or_insert(now);
        first
    }

    /// Whether it was full once since the last time this was asked: then all rows have to be written.
    pub(super) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// From now on so many may wait.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.changes.clear();
        self.order.clear();
        self.since = None;
    }

    /// When what waits is to be written: at once if it is a whole batch, else when it has waited for `gather` milliseconds.
    pub(super) fn due_at(&self, gather: u64, batch: usize) -> Option<u64> {
        let since = self.since?;
        Some(if self.order.len() >= batch { since } else { since + gather })
    }

    /// Takes the longest waiting.
    pub(super) fn take(&mut self, max: usize, now: u64) -> Vec<(FullJid, Change)> {
        let count = max.min(self.order.len());
        let batch = self
            .order
            .drain(..count)
            .map(|full| {
                let change = self.changes.remove(&full).expect("each in the order has a change");
                (full, change)
            })
            .collect();
        self.since = (!self.order.is_empty()).then_some(now);
        batch
    }
}

#[cfg(test)]
pub(super) mod tests {
    use replication::Hlc;

    use super::*;

    pub(in crate::registry) fn jid(text: &str) -> FullJid {
        FullJid::parse(text).expect("a full JID")
    }

    pub(in crate::registry) fn bind(full: &str, generation: u64) -> RouteEntry {
        let (full, generation) = (jid(full), Hlc(generation));
        RouteEntry::Bind { full, generation, priority: 0, available: false, hidden: false }
    }

    pub(in crate::registry) fn unbind(full: &str, generation: u64) -> RouteEntry {
        RouteEntry::Unbind { full: jid(full), generation: Hlc(generation) }
    }

    #[test]
    fn the_last_change_of_a_full_jid_is_the_one_that_is_written() {
        let mut queue = Queue::new(10);
        assert!(queue.note(&bind("a@x/1", 1), 100));
        assert!(!queue.note(&bind("b@x/1", 2), 105));
        assert!(!queue.note(&unbind("a@x/1", 1), 110));
        assert_eq!(
            (queue.len(), queue.due_at(20, 10), queue.due_at(20, 2)),
            (2, Some(120), Some(100))
        );
        let batch = queue.take(10, 130);
        assert_eq!(batch[0], (jid("a@x/1"), Change::Gone(Hlc(1))));
        assert_eq!((batch.len(), queue.due_at(20, 10)), (2, None));
    }

    #[test]
    fn a_late_end_of_an_older_session_does_not_hide_the_newer_one() {
        let mut queue = Queue::new(10);
        queue.note(&bind("a@x/1", 7), 0);
        queue.note(&unbind("a@x/1", 3), 0);
        assert!(matches!(queue.take(1, 0)[..], [(_, Change::Is(Hlc(7), _))]));
        queue.note(&unbind("a@x/1", 7), 0);
        queue.note(&bind("a@x/1", 8), 0);
        assert!(matches!(queue.take(1, 0)[..], [(_, Change::Is(Hlc(8), _))]));
    }

    #[test]
    fn what_could_not_be_written_comes_back_unless_something_newer_waits() {
        let mut queue = Queue::new(10);
        queue.note(&bind("a@x/1", 1), 0);
        queue.note(&bind("b@x/1", 2), 0);
        let batch = queue.take(10, 0);
        queue.note(&unbind("a@x/1", 1), 5);
        queue.put_back(batch, 9);
        let batch = queue.take(10, 9);
        assert_eq!(batch[0], (jid("a@x/1"), Change::Gone(Hlc(1))));
        assert!(matches!(batch[1], (_, Change::Is(Hlc(2), _))));
    }

    #[test]
    fn at_the_bound_all_is_forgotten_and_that_is_said_once() {
        let mut queue = Queue::new(2);
        for n in 0..5 {
            queue.note(&bind(&format!("a@x/{n}"), n), 0);
        }
        assert!(queue.is_empty() && queue.due_at(1, 1).is_none());
        assert!(queue.take_overflow() && !queue.take_overflow());
        assert!(queue.note(&bind("a@x/9", 9), 0));
        assert_eq!(queue.len(), 1);
    }
}
