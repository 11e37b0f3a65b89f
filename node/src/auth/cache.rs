//! Auth: a map of bounded size that keeps what was used lately. Pure; used by `internal` (credentials) and `throttle` (failures).
//!
//! Two generations: what is touched lives in the young one; when that is full the old one is dropped and the young one becomes
//! old. So an entry survives between half the bound and all of it of other entries' insertions, and everything is O(1).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// See the top of the file. At most `entries_max` entries (at least 2).
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { half: (entries_max / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// The value, which counts as used.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub(super) fn clear(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes_within_the_bound() {
        let mut recent = Recent::new(10);
        recent.insert("used".to_owned(), 0);
        for n in 0..100 {
            recent.insert(format!("other{n}"), n);
            assert!(recent.get("used").is_some());
            assert!(recent.len() <= 10);
        }
        assert!(recent.get("other0").is_none());
        assert_eq!(recent.get("other99"), Some(&mut 99));
    }

    #[test]
    fn there_is_one_value_a_key_in_whichever_generation() {
        let mut recent = Recent::new(4);
        for key in ["a", "b", "c"] {
            recent.insert(key, 1);
        }
        recent.insert("a", 2);
        assert_eq!(recent.remove("a"), Some(2));
        assert_eq!(recent.get("a"), None);
    }
}
