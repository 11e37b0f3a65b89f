//! Changes that are decided but not committed yet, laid over what storage has: pure.
//!
//! Called by `Tx`, which keeps two: what earlier requests of the group have done, and what this one is doing.

use std::collections::{BTreeMap, HashMap};

use replication::Change;

use crate::storage::Page;

/// What is different for one owner in one store.
#[derive(Debug, Default)]
struct Delta {
    /// Nothing of what lies below counts any more.
    cleared: bool,
    /// None: deleted.
    values: BTreeMap<String, Option<Vec<u8>>>,
    /// Items below, up to this id, are gone.
    trimmed: Option<u64>,
    /// None: removed.
    items: BTreeMap<u64, Option<Vec<u8>>>,
}

/// A layer of changes.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    deltas: HashMap<String, HashMap<String, Delta>>,
}

/// What a layer says of a value.
pub(super) enum Found<T> {
    /// This, whatever lies below.
    Here(T),
    /// Ask below.
    Below,
}

impl Overlay {
    fn delta(&self, store: &str, owner: &str) -> Option<&Delta> {
        self.deltas.get(owner)?.get(store)
    }

    /// Is anything different in that store?
    pub(super) fn touches(&self, store: &str, owner: &str) -> bool {
        self.delta(store, owner).is_some()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.deltas.clear();
    }

    /// Takes in a change.
    pub(super) fn change(&mut self, change: &Change) {
        let stores = self.deltas.entry(change.owner().to_owned()).or_default();
        let delta = stores.entry(change.store().as_str().to_owned()).or_default();
        match change {
            Change::Put { key, value, .. } => {
                delta.values.insert(key.clone(), Some(value.clone()));
            }
            Change::Delete { key, .. } => {
                delta.values.insert(key.clone(), None);
            }
            Change::Clear { .. } => *delta = Delta { cleared: true, ..Delta::default() },
            Change::Append { id, value, .. } => {
                delta.items.insert(*id, Some(value.clone()));
            }
            Change::Remove { id, .. } => {
                delta.items.insert(*id, None);
            }
            Change::Trim { upto, .. } => {
                delta.trimmed = delta.trimmed.max(Some(*upto));
                delta.items = match upto.checked_add(1) {
                    Some(next) => delta.items.split_off(&next),
                    None => BTreeMap::new(),
                };
            }
        }
    }

    /// One value.
    pub(super) fn get(&self, store: &str, owner: &str, key: &str) -> Found<Option<Vec<u8>>> {
        match self.delta(store, owner) {
            None => Found::Below,
            Some(delta) => match delta.values.get(key) {
                Some(value) => Found::Here(value.clone()),
                None if delta.cleared => Found::Here(None),
                None => Found::Below,
            },
        }
    }

    /// Is nothing of what lies below visible?
    pub(super) fn hides_all(&self, store: &str, owner: &str) -> bool {
        self.delta(store, owner).is_some_and(|delta| delta.cleared)
    }

    /// Changes a map as it was read from below into what it is with this layer.
    pub(super) fn lay_map(&self, store: &str, owner: &str, map: &mut BTreeMap<String, Vec<u8>>) {
        let Some(delta) = self.delta(store, owner) else { return };
        if delta.cleared {
            map.clear();
        }
        for (key, value) in &delta.values {
            match value {
                Some(value) => drop(map.insert(key.clone(), value.clone())),
                None => drop(map.remove(key)),
            }
        }
    }

    /// How many more items to ask for below, so that the page is full even if this layer hides them; and from where.
    pub(super) fn widen(&self, store: &str, owner: &str, page: Page) -> Page {
        match self.delta(store, owner) {
            None => page,
            Some(delta) => Page {
                after: page.after.max(delta.trimmed),
                max: page.max.saturating_add(delta.items.len()),
                ..page
            },
        }
    }

    /// Changes a number of items as it was counted below.
    pub(super) fn lay_len(&self, store: &str, owner: &str, below: u64) -> u64 {
        let Some(delta) = self.delta(store, owner) else { return below };
        let added = delta.items.values().filter(|item| item.is_some()).count() as u64;
        if delta.cleared { added } else { below + added }
    }

    /// Changes a page as it was read from below into what it is with this layer. It may grow past the page's `max`.
    pub(super) fn lay_page(
        &self,
        store: &str,
        owner: &str,
        page: Page,
        items: &mut BTreeMap<u64, Vec<u8>>,
    ) {
        let Some(delta) = self.delta(store, owner) else { return };
        if delta.cleared {
            items.clear();
        }
        if let Some(trimmed) = delta.trimmed {
            items.retain(|id, _| *id > trimmed);
        }
        for (id, value) in &delta.items {
            match value {
                Some(value) if page.has(*id, value) => drop(items.insert(*id, value.clone())),
                _ => drop(items.remove(id)),
            }
        }
    }
}
