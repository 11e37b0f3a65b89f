//! Room: messages of other nodes' ledgers that sessions of this node have. When a client has one, or the last session that had it is over,
//! the node where it entered is told. After that node's restart it asks what is here of what its former life promised.

use std::collections::{BTreeMap, VecDeque};

use global_distrib::NodeIx;
use parking_lot::Mutex;

/// Bound on what is remembered of what each node was told last: more than it can have heard and not written down when it died.
const RECENT_MAX: usize = 4_096;

/// See the room. Memory: an entry for each message that waits for its client; bounded by mailboxes and unacknowledged queues.
#[derive(Debug, Default)]
pub struct Held {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the node where they entered: the order there, and how many sessions have it.
    by: BTreeMap<NodeIx, BTreeMap<u64, u16>>,
    /// What was told last, oldest first.
    recent: BTreeMap<NodeIx, VecDeque<u64>>,
    /// What could not be told yet: the link was full.
    untold: BTreeMap<NodeIx, Vec<u64>>,
}

impl Held {
    /// So many sessions here have it, besides one that may have come with it from elsewhere.
    pub fn take(&self, via: NodeIx, order: u64, sessions: usize) {
        let sessions = u16::try_from(sessions).unwrap_or(u16::MAX);
        let mut inner = self.inner.lock();
        let known = inner.by.entry(via).or_default().entry(order).or_default();
        *known = known.saturating_add(sessions);
    }

    /// One more session here has it: one that came from another node.
    pub fn add(&self, via: NodeIx, order: u64) {
        let mut inner = self.inner.lock();
        let sessions = inner.by.entry(via).or_default().entry(order).or_default();
        *sessions = sessions.saturating_add(1);
    }

    /// Whether any session here has it.
    pub fn has(&self, via: NodeIx, order: u64) -> bool {
        self.inner.lock().by.get(&via).is_some_and(|all| all.contains_key(&order))
    }

    /// Whether it is one session alone that has it.
    pub fn is_with_one(&self, via: NodeIx, order: u64) -> bool {
        self.inner.lock().by.get(&via).and_then(|all| all.get(&order)) == Some(&1)
    }

    /// A client has it. Whether that is news.
    pub fn kept(&self, via: NodeIx, order: u64) -> bool {
        let mut inner = self.inner.lock();
        let news = inner.by.get_mut(&via).is_some_and(|all| all.remove(&order).is_some());
        if news {
            let recent = inner.recent.entry(via).or_default();
            if recent.len() == RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(order);
        }
        news
    }

    /// Whether a client here had it not long ago, and that node was told. O([`RECENT_MAX`]): for what is rare.
    pub fn was_kept(&self, via: NodeIx, order: u64) -> bool {
        self.inner.lock().recent.get(&via).is_some_and(|all| all.contains(&order))
    }

    /// What that node was told last to be kept. Its former life may have died before that was written down: the next one is told again.
    pub fn recent(&self, via: NodeIx) -> Vec<u64> {
        let inner = self.inner.lock();
        inner.recent.get(&via).map(|all| all.iter().copied().collect()).unwrap_or_default()
    }

    /// A session that had it is over. Whether it was the last, and no client has it.
    pub fn let_go(&self, via: NodeIx, order: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(all) = inner.by.get_mut(&via) else { return false };
        let Some(sessions) = all.get_mut(&order) else { return false };
        *sessions -= 1;
        let last = *sessions == 0;
        if last {
            all.remove(&order);
        }
        last
    }

    /// What is here of that node's.
    pub fn of(&self, via: NodeIx) -> Vec<u64> {
        self.inner.lock().by.get(&via).map(|all| all.keys().copied().collect()).unwrap_or_default()
    }

    /// Those could not be told now.
    pub fn untold(&self, via: NodeIx, orders: &[u64]) {
        self.inner.lock().untold.entry(via).or_default().extend(orders);
    }

    /// What is still to be told.
    pub fn take_untold(&self) -> BTreeMap<NodeIx, Vec<u64>> {
        std::mem::take(&mut self.inner.lock().untold)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.inner.lock().by.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_session_lets_go_and_nobody_does_after_a_client_has_it() {
        let (held, eu) = (Held::default(), NodeIx(0));
        held.take(eu, 7, 2);
        assert!(!held.let_go(eu, 7));
        assert!(held.let_go(eu, 7));
        assert!(!held.let_go(eu, 7) && !held.kept(eu, 7));
        held.take(eu, 8, 2);
        assert_eq!(held.of(eu), [8]);
        assert!(held.kept(eu, 8) && !held.kept(eu, 8));
        assert!(!held.let_go(eu, 8) && held.is_empty());
        assert_eq!(held.recent(eu), [8]);
        assert!(held.was_kept(eu, 8) && !held.was_kept(eu, 7));
        held.add(eu, 9);
        assert!(held.is_with_one(eu, 9));
        held.add(eu, 9);
        assert!(!held.is_with_one(eu, 9) && !held.let_go(eu, 9) && held.let_go(eu, 9));
    }
}
