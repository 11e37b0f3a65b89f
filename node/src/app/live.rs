//! The configuration of a running node, which may be replaced as a whole, and what else changes as rarely (other regions' domains). Whoever reads a key reads
//! the one in force: no lock, no counting, two loads more than a plain value. What was in force stays in memory, because somebody may be reading it: a node
//! takes `VERSIONS_MAX` of them in its life, some kilobytes each, and refuses more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use config::Config;

use crate::router::Named;

/// Versions in one life of a node.
const VERSIONS_MAX: usize = 1_000;

/// See the room.
#[derive(Debug)]
pub struct Live<T = Config> {
    versions: Box<[OnceLock<Box<T>>]>,
    now: AtomicUsize,
}

impl<T> Live<T> {
    /// With what the node begins with.
    pub fn new(first: T) -> Live<T> {
        let mut versions: Vec<OnceLock<Box<T>>> = Vec::new();
        versions.resize_with(VERSIONS_MAX, OnceLock::new);
        let live = Live { versions: versions.into(), now: AtomicUsize::new(0) };
        live.versions[0].get_or_init(|| Box::new(first));
        live
    }

    /// Whether there is room for another.
    pub(crate) fn has_room(&self) -> bool {
        self.now.load(Ordering::Acquire) + 1 < self.versions.len()
    }

    /// From now on this is in force. False: there is no room for another. One at a time.
    pub(crate) fn replace(&self, value: T) -> bool {
        let next = self.now.load(Ordering::Acquire) + 1;
        let set = self.versions.get(next).is_some_and(|place| place.set(Box::new(value)).is_ok());
        if set {
            self.now.store(next, Ordering::Release);
        }
        set
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Live<T> {
        Live::new(T::default())
    }
}

impl Clone for Live<BTreeSet<String>> {
    /// With what is in force.
    fn clone(&self) -> Self {
        Live::new(BTreeSet::clone(self))
    }
}

impl Clone for Live<Named> {
    /// The same.
    fn clone(&self) -> Self {
        Live::new(Named::clone(self))
    }
}

impl<V: Clone> Clone for Live<BTreeMap<String, V>> {
    /// The same.
    fn clone(&self) -> Self {
        Live::new(BTreeMap::clone(self))
    }
}

impl<T> Deref for Live<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let version = &self.versions[self.now.load(Ordering::Acquire)];
        version.get().expect("a version is there before it is in force")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_in_force_and_older_ones_can_still_be_read() {
        let text = "[node]\nregion = 'eu'\ndata_dir = 'd'\n[domains]\nglobal = 'x'\n[c2s]\ncertificate = 'c'\nkey = 'k'\n";
        let config = Config::parse(text, "t", "/".as_ref()).expect("good");
        let live = Live::new(config.clone());
        let older = &live.limits;
        let mut newer = config.clone();
        newer.limits.roster_items_max = 7;
        assert!(live.replace(newer));
        assert_eq!((older.roster_items_max, live.limits.roster_items_max), (2_000, 7));
        assert!((2..VERSIONS_MAX).all(|_| live.has_room() && live.replace(config.clone())));
        assert!(!live.has_room() && !live.replace(config));
    }
}
