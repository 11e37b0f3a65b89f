//! The receiving end of the durable log: which entry may be applied, and how far each home region has been followed.
//!
//! One [`Applier`] a node, held by `node::homes`; the positions are stored in the same SQL transaction as the changes,
//! and given back at start. Pure. It refuses gaps, ignores repetitions, and turns away what was written under an epoch
//! that has ended: a region that slept cannot win anything back (blueprint §7).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::change::Entry;
use crate::metadata::MetaState;

/// How far one region's log has been followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The highest epoch seen in an entry of it.
    pub epoch: u64,
    /// The last entry dealt with, 0 for none.
    pub seq: u64,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Apply its changes, store the position, then call [`Applier::passed`].
    Apply,
    /// Dealt with before: acknowledge it again, nothing else.
    Duplicate,
    /// Something before it is missing: drop it and ask for everything after the position.
    Gap {
        /// The number that should have come.
        expected: u64,
    },
    /// Written under an epoch that has ended. Its changes must not be applied as they are (archive and offline items may
    /// be filed again at the new home, the rest is reported); store the position and call [`Applier::passed`].
    Stale {
        /// The shard's present epoch.
        current: u64,
    },
    /// Written under an epoch that metadata here has not heard of yet: hold this region's log back until metadata has a
    /// new version, then judge again. (Applying it now could let an older home's entry overwrite it later.)
    Ahead {
        /// The shard's epoch as far as known here.
        current: u64,
    },
}

/// Follows the logs of all home regions. Memory: one position a region.
#[derive(Debug, Clone, Default)]
pub struct Applier {
    positions: BTreeMap<String, Position>,
}

impl Applier {
    /// Goes on from what storage remembers of each home region.
    pub fn new(stored: impl IntoIterator<Item = (String, Position)>) -> Applier {
        Applier { positions: stored.into_iter().collect() }
    }

    /// How far a region's log has been followed.
    pub fn position(&self, region: &str) -> Position {
        self.positions.get(region).copied().unwrap_or_default()
    }

    /// Judges an entry of `region`'s log by the epoch metadata has for its shard, or for its owner if that is pinned.
    /// Changes nothing.
    pub fn judge(&self, region: &str, entry: &Entry, metadata: &MetaState) -> Verdict {
        let pin = entry.changes.iter().find_map(|change| metadata.pins.get(change.owner()));
        let home = pin.or_else(|| metadata.home(entry.shard));
        self.judge_at(region, entry, home.map_or(0, |home| home.epoch))
    }

    /// The same, with the present epoch given.
    pub fn judge_at(&self, region: &str, entry: &Entry, current: u64) -> Verdict {
        let expected = self.position(region).seq + 1;
        match (entry.seq.cmp(&expected), entry.epoch.cmp(&current)) {
            (Ordering::Less, _) => Verdict::Duplicate,
            (Ordering::Greater, _) => Verdict::Gap { expected },
            (Ordering::Equal, Ordering::Less) => Verdict::Stale { current },
            (Ordering::Equal, Ordering::Greater) => Verdict::Ahead { current },
            (Ordering::Equal, Ordering::Equal) => Verdict::Apply,
        }
    }

    /// The entry has been dealt with, durably. Answers the new position.
    pub fn passed(&mut self, region: &str, entry: &Entry) -> Position {
        if !self.positions.contains_key(region) {
            self.positions.insert(region.to_owned(), Position::default());
        }
        let position = self.positions.get_mut(region).expect("inserted above");
        *position = Position { epoch: position.epoch.max(entry.epoch), seq: entry.seq };
        *position
    }

    /// A whole copy of the region's data was installed: its log is followed from here.
    pub fn reset(&mut self, region: &str, position: Position) {
        self.positions.insert(region.to_owned(), position);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Hlc;
    use crate::durable_log::Change;
    use crate::metadata::{Command, Region, shard_of};

    fn entry(seq: u64, shard: u8, epoch: u64) -> Entry {
        Entry { seq, shard, epoch, at: Hlc::ZERO, changes: vec![] }
    }

    fn metadata() -> MetaState {
        let mut state = MetaState::default();
        let first = MetaState::genesis([Region::up("eu"), Region::up("us")], [], []);
        state.apply(&Command::Genesis(Box::new(first))).unwrap();
        state
    }

    #[test]
    fn entries_apply_once_and_without_gaps() {
        let (mut applier, metadata) = (Applier::default(), metadata());
        assert_eq!(applier.judge("eu", &entry(2, 0, 1), &metadata), Verdict::Gap { expected: 1 });
        assert_eq!(applier.judge("eu", &entry(1, 0, 1), &metadata), Verdict::Apply);
        assert_eq!(applier.passed("eu", &entry(1, 0, 1)), Position { epoch: 1, seq: 1 });
        assert_eq!(applier.judge("eu", &entry(1, 0, 1), &metadata), Verdict::Duplicate);
        assert_eq!(applier.judge("us", &entry(1, 1, 1), &metadata), Verdict::Apply);
    }

    #[test]
    fn a_region_that_slept_wins_nothing_back_but_its_log_goes_on() {
        let (mut applier, mut metadata) = (Applier::default(), metadata());
        let moved = Command::MoveHome { shard: 0, to: "us".into(), epoch: None };
        metadata.apply(&moved).unwrap();
        let late = entry(1, 0, 1);
        assert_eq!(applier.judge("eu", &late, &metadata), Verdict::Stale { current: 2 });
        applier.passed("eu", &late);
        assert_eq!(applier.judge("eu", &entry(2, 2, 1), &metadata), Verdict::Apply);
    }

    #[test]
    fn an_entry_from_an_epoch_not_known_yet_waits_for_metadata() {
        let (applier, mut metadata) = (Applier::default(), metadata());
        let early = entry(1, 0, 2);
        assert_eq!(applier.judge("us", &early, &metadata), Verdict::Ahead { current: 1 });
        metadata.apply(&Command::MoveHome { shard: 0, to: "us".into(), epoch: None }).unwrap();
        assert_eq!(applier.judge("us", &early, &metadata), Verdict::Apply);
    }

    #[test]
    fn a_pinned_account_has_an_epoch_of_its_own() {
        let (applier, mut metadata) = (Applier::default(), metadata());
        let account = "juliet@chat.example".to_owned();
        let pin = Command::Pin {
            account: account.clone(),
            to: "us".into(),
            replicas: vec![],
            epoch: None,
        };
        metadata.apply(&pin).unwrap();
        let mut pinned = entry(1, shard_of(&account), 2);
        pinned.changes = vec![Change::Clear { store: "roster".into(), owner: account }];
        assert_eq!(applier.judge("us", &pinned, &metadata), Verdict::Apply);
        assert_eq!(applier.judge("us", &entry(1, pinned.shard, 1), &metadata), Verdict::Apply);
    }

    #[test]
    fn positions_come_back_from_storage() {
        let applier = Applier::new([("eu".to_owned(), Position { epoch: 3, seq: 41 })]);
        assert_eq!(applier.judge_at("eu", &entry(42, 7, 3), 3), Verdict::Apply);
        assert_eq!(applier.position("us"), Position::default());
    }

    proptest! {
        /// However the deliveries are repeated and shuffled: applied is a prefix, each entry once, in order.
        #[test]
        fn what_is_applied_is_a_prefix(deliveries in proptest::collection::vec(1u64..20, 0..200)) {
            let mut applier = Applier::default();
            let mut applied = 0;
            for seq in deliveries {
                let entry = entry(seq, 0, 1);
                match applier.judge_at("eu", &entry, 1) {
                    Verdict::Apply => {
                        prop_assert_eq!(seq, applied + 1);
                        applied = applier.passed("eu", &entry).seq;
                    }
                    Verdict::Duplicate => prop_assert!(seq <= applied),
                    Verdict::Gap { expected } => prop_assert!(expected == applied + 1 && seq > expected),
                    Verdict::Stale { .. } | Verdict::Ahead { .. } => prop_assert!(false),
                }
            }
        }
    }
}
