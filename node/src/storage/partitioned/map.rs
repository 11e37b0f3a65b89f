//! Which partition has which slot, as values: the fact in the main database, what follows from it, and what a rebalance does to it. Pure.

use std::collections::BTreeMap;

use replication::{Change, Entry, SHARDS, shard_of};
use serde::{Deserialize, Serialize};

/// The main database's own number; partitions count from 1.
pub(super) const MAIN: u8 = 0;

/// Slots that move together: looking through the partition they leave costs the same for one as for some.
pub(super) const GROUP_MAX: usize = 4;

/// In which slot an owner's rows are.
pub(super) fn slot_of(owner: &str) -> usize {
    usize::from(shard_of(owner))
}

/// The fact in the main database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Map {
    /// Whose partitions they are: each has this among its own facts.
    pub(super) identity: u64,
    /// Grows with every change.
    pub(super) version: u64,
    /// How many there are besides the main database.
    pub(super) partitions: u8,
    /// Where each slot's rows are read.
    pub(super) slots: Vec<u8>,
    /// What is on its way.
    pub(super) moving: Option<Moving>,
    /// Slots whose rows still stand where they were read before.
    pub(super) left: Vec<(u8, u8)>,
    /// Where slots shall be in the end, while they are being moved.
    pub(super) goal: Option<Vec<u8>>,
}

/// Slots that are being copied from one partition to another, and written to both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moving {
    pub(super) slots: Vec<u8>,
    pub(super) from: u8,
    pub(super) to: u8,
}

impl Map {
    /// Everything where it is: in the main database.
    pub(super) fn new(identity: u64) -> Map {
        Map {
            identity,
            version: 1,
            partitions: 0,
            slots: vec![MAIN; SHARDS],
            moving: None,
            left: Vec::new(),
            goal: None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend(postcard::to_stdvec(self).expect("numbers always serialise"));
        out
    }

    /// None: damaged, or of another format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Map> {
        let map: Map = match bytes.split_first() {
            Some((&FORMAT, body)) => postcard::from_bytes(body).ok()?,
            _ => return None,
        };
        (map.slots.len() == SHARDS).then_some(map)
    }

    /// The highest number that anything is in, or on its way to.
    pub(super) fn highest(&self) -> u8 {
        let left = self.left.iter().map(|(_, from)| from);
        let moving = self.moving.iter().map(|moving| &moving.to);
        self.slots.iter().chain(left).chain(moving).copied().max().unwrap_or(MAIN)
    }

    /// The highest number that anything is read in, or will be: without what has only been left behind.
    pub(super) fn needed(&self) -> u8 {
        let moving = self.moving.iter().map(|moving| &moving.to);
        let goal = self.goal.iter().flatten();
        self.slots.iter().chain(moving).chain(goal).copied().max().unwrap_or(MAIN)
    }

    /// How many slots each has, the main database first.
    pub(super) fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; usize::from(self.partitions.max(self.highest())) + 1];
        for number in &self.slots {
            counts[usize::from(*number)] += 1;
        }
        counts
    }

    /// Spreads them evenly, where nothing is there yet to be moved.
    pub(super) fn spread(&mut self, goal: &[u8]) {
        for (slot, to) in plan(&self.slots, goal) {
            self.slots[usize::from(slot)] = to;
        }
    }

    /// The next slots to move, of those that the goal wants elsewhere.
    pub(super) fn next(&self) -> Option<Moving> {
        let plan = plan(&self.slots, self.goal.as_ref()?);
        let of = |(slot, to): &(u8, u8)| (self.slots[usize::from(*slot)], *to);
        let (from, to) = of(plan.first()?);
        let together = plan.iter().filter(|one| of(one) == (from, to));
        let slots = together.take(GROUP_MAX).map(|(slot, _)| *slot).collect();
        Some(Moving { slots, from, to })
    }

    /// How many slots the goal wants elsewhere.
    pub(super) fn to_move(&self) -> usize {
        self.goal.as_ref().map_or(0, |goal| plan(&self.slots, goal).len())
    }

    /// They are on their way; what stood there of a former move counts no more.
    pub(super) fn begin(&mut self, moving: Moving) {
        self.left.retain(|(slot, at)| !(moving.slots.contains(slot) && *at == moving.to));
        self.moving = Some(moving);
        self.version += 1;
    }

    /// They have arrived.
    pub(super) fn arrive(&mut self) {
        let Some(moving) = self.moving.take() else { return };
        for slot in moving.slots {
            self.slots[usize::from(slot)] = moving.to;
            self.left.push((slot, moving.from));
        }
        self.version += 1;
    }
}

/// The first byte of an encoded map.
const FORMAT: u8 = 1;

/// Which slots have to move so that those of the goal have as many as each other, and no others any; as few as possible.
fn plan(slots: &[u8], goal: &[u8]) -> Vec<(u8, u8)> {
    if goal.is_empty() {
        return Vec::new();
    }
    let (each, more) = (slots.len() / goal.len(), slots.len() % goal.len());
    // Those that have most already keep one more.
    let mut has: BTreeMap<u8, usize> = goal.iter().map(|number| (*number, 0)).collect();
    for number in slots {
        if let Some(count) = has.get_mut(number) {
            *count += 1;
        }
    }
    let mut order: Vec<(u8, usize)> = has.into_iter().collect();
    order.sort_by_key(|(number, count)| (std::cmp::Reverse(*count), *number));
    let quotas =
        order.iter().enumerate().map(|(at, (number, _))| (*number, each + usize::from(at < more)));
    let mut room: BTreeMap<u8, usize> = quotas.collect();
    let mut homeless = Vec::new();
    for (slot, number) in (0..=u8::MAX).zip(slots) {
        match room.get_mut(number) {
            Some(left) if *left > 0 => *left -= 1,
            _ => homeless.push(slot),
        }
    }
    let free = room.into_iter().flat_map(|(number, left)| std::iter::repeat_n(number, left));
    homeless.into_iter().zip(free).collect()
}

/// The map, and what a node does by it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) map: Map,
    /// Where else a slot's changes are written: where it is on its way to, or where some may still read it.
    pub(super) also: Vec<Option<u8>>,
}

impl View {
    /// Of a map that has just been read: whoever reads by an older one is written for.
    pub(super) fn new(map: Map) -> View {
        let mut also = vec![None; SHARDS];
        for (slot, from) in &map.left {
            also[usize::from(*slot)] =
                Some(*from).filter(|from| *from != map.slots[usize::from(*slot)]);
        }
        if let Some(moving) = &map.moving {
            moving.slots.iter().for_each(|slot| also[usize::from(*slot)] = Some(moving.to));
        }
        View { map, also }
    }

    /// Of a map that follows this one: what is no longer written where it was stays so.
    pub(super) fn next(&self, map: Map) -> View {
        let mut next = View::new(map);
        for (slot, from) in &self.map.left {
            let (was, also) = (self.also[usize::from(*slot)], &mut next.also[usize::from(*slot)]);
            if was != Some(*from) && *also == Some(*from) && next.map.left.contains(&(*slot, *from))
            {
                *also = None;
            }
        }
        next
    }

    /// Where an owner's rows are read.
    pub(super) fn at(&self, owner: &str) -> u8 {
        self.map.slots[slot_of(owner)]
    }

    /// Whether an owner's changes are written there.
    pub(super) fn takes(&self, number: u8, owner: &str) -> bool {
        let slot = slot_of(owner);
        self.map.slots[slot] == number || self.also[slot] == Some(number)
    }

    /// Whether anything is read there.
    pub(super) fn is_read(&self, number: u8) -> bool {
        self.map.slots.contains(&number)
    }

    /// Whether anything is written there.
    pub(super) fn is_written(&self, number: u8) -> bool {
        self.is_read(number) || self.also.contains(&Some(number))
    }

    /// What of these entries is written there; entries without such are left out.
    pub(super) fn part(&self, number: u8, entries: &[Entry]) -> Vec<Entry> {
        let part = |entry: &Entry| {
            let of = |change: &&Change| self.takes(number, change.owner());
            if !entry.changes.iter().any(|change| of(&change)) {
                return None;
            }
            let changes = entry.changes.iter().filter(of).cloned().collect();
            Some(Entry { changes, ..*entry })
        };
        entries.iter().filter_map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebalance_moves_no_more_than_it_must_and_ends() {
        let mut map = Map::new(1);
        map.partitions = 2;
        map.goal = Some(vec![1, 2]);
        assert_eq!(map.to_move(), 256);
        let mut groups = 0;
        while let Some(moving) = map.next() {
            assert!(moving.slots.len() <= GROUP_MAX && moving.from == MAIN);
            map.begin(moving);
            map.arrive();
            groups += 1;
        }
        assert_eq!((groups, map.counts()), (64, vec![0, 128, 128]));
        assert_eq!(map.left.len(), 256);
        // A third one gets its share of both.
        map.partitions = 3;
        map.goal = Some(vec![1, 2, 3]);
        assert_eq!(map.to_move(), 85);
        while let Some(moving) = map.next() {
            assert_eq!(moving.to, 3);
            map.begin(moving);
            map.arrive();
        }
        let mut counts = map.counts();
        counts.sort_unstable();
        assert_eq!(counts, [0, 85, 85, 86]);
        assert_eq!(map.left.len(), 256 + 85);
        // Back into the main database: what was left there counts no more.
        map.goal = Some(vec![MAIN]);
        while let Some(moving) = map.next() {
            map.begin(moving);
            map.arrive();
        }
        assert_eq!(map.counts(), [256, 0, 0, 0]);
        assert!(map.left.iter().all(|(_, from)| *from != MAIN));
        assert_eq!(Map::decode(&map.encode()), Some(map));
        assert_eq!(Map::decode(&[FORMAT]), None);
    }

    #[test]
    fn changes_are_written_where_they_are_read_and_where_they_are_going() {
        let owner = |slot: usize| {
            (0..).map(|i| format!("u{i}@x")).find(|owner| slot_of(owner) == slot).expect("one")
        };
        let mut map = Map::new(1);
        map.partitions = 1;
        map.begin(Moving { slots: vec![7], from: MAIN, to: 1 });
        let view = View::new(map.clone());
        let (moving, other) = (owner(7), owner(8));
        assert_eq!((view.at(&moving), view.at(&other)), (MAIN, MAIN));
        assert!(view.takes(MAIN, &moving) && view.takes(1, &moving) && !view.takes(1, &other));
        let change = |owner: &str| Change::Clear { store: "s".into(), owner: owner.to_owned() };
        let at = replication::Hlc::ZERO;
        let entry = |changes| Entry { seq: 1, shard: 0, epoch: 1, at, changes };
        let entries = [entry(vec![change(&moving), change(&other)]), entry(vec![change(&other)])];
        assert_eq!(view.part(1, &entries), [entry(vec![change(&moving)])]);
        assert_eq!(view.part(MAIN, &entries), entries);
        map.arrive();
        let view = View::new(map);
        assert_eq!(view.at(&moving), 1);
        assert!(view.takes(MAIN, &moving), "somebody may still read it there");
        assert!(view.is_read(1) && view.is_written(MAIN));
    }
}
