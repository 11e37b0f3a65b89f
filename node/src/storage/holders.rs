//! Who has anything in a store: for what few accounts use and every sign-in would have to read for. One hash an owner, read at start, added to
//! with each change that is applied. It may say yes of somebody who has nothing (any more), never no of somebody who has something.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use parking_lot::RwLock;
use replication::Change;

use super::{Storage, StorageError};

/// Most owners that are remembered (about 2 MiB a store); beyond it everybody may have something, and is read for.
const OWNERS_MAX: usize = 100_000;

/// See the room.
#[derive(Debug)]
pub struct Holders {
    store: &'static str,
    /// `None`: not known, or too many.
    known: RwLock<Option<HashSet<u64, FixedState>>>,
    most: usize,
}

impl Holders {
    /// Of that map store. Until it is loaded everybody may have something.
    pub fn new(store: &'static str) -> Self {
        Self { store, known: RwLock::new(None), most: OWNERS_MAX }
    }

    /// Reads who there is. Changes must come to [`Holders::apply`] by then; one that comes meanwhile waits.
    ///
    /// # Errors
    /// The storage cannot be read; everybody may have something then.
    pub async fn load(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        const PAGE: usize = 1_000;
        *self.known.write() = Some(HashSet::default());
        let mut after: Option<String> = None;
        loop {
            let page = match storage.owners(self.store, after.as_deref(), PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    *self.known.write() = None;
                    return Err(error);
                }
            };
            page.iter().for_each(|owner| self.insert(owner));
            if page.len() < PAGE || self.known.read().is_none() {
                return Ok(());
            }
            after = page.last().cloned();
        }
    }

    /// A change of the store has been applied.
    pub fn apply(&self, change: &Change) {
        if let Change::Put { store, owner, .. } = change
            && store.as_str() == self.store
        {
            self.insert(owner);
        }
    }

    /// Whether somebody may have something. Costs a look at a table in memory.
    pub fn may_have(&self, owner: &str) -> bool {
        self.known.read().as_ref().is_none_or(|known| known.contains(&hash(owner)))
    }

    fn insert(&self, owner: &str) {
        let mut known = self.known.write();
        let Some(owners) = &mut *known else { return };
        owners.insert(hash(owner));
        if owners.len() > self.most {
            tracing::info!(
                store = self.store,
                most = self.most,
                "too many to remember who has any"
            );
            *known = None;
        }
    }
}

fn hash(owner: &str) -> u64 {
    FixedState::default().hash_one(owner)
}

#[cfg(test)]
mod tests {
    use replication::{Entry, Hlc};

    use super::*;
    use crate::storage::memory::Memory;

    async fn storage(owners: &[&str]) -> Memory {
        let storage = Memory::default();
        let changes = owners.iter().map(|owner| put("push", owner)).collect();
        let entry = Entry { seq: 1, shard: 0, epoch: 1, at: Hlc::new(1, 0), changes };
        storage.commit_home(vec![entry]).await.expect("memory");
        storage
    }

    fn put(store: &'static str, owner: &str) -> Change {
        let (owner, key) = (owner.to_owned(), "k".to_owned());
        Change::Put { store: store.into(), owner, key, value: vec![1] }
    }

    #[tokio::test]
    async fn those_who_have_something_are_known_and_nobody_else() {
        let holders = Holders::new("push");
        assert!(holders.may_have("a@chat.example"), "before it is loaded");
        holders.load(&storage(&["a@chat.example"]).await).await.expect("memory");
        assert!(holders.may_have("a@chat.example"));
        assert!(!holders.may_have("b@chat.example"));
        holders.apply(&put("roster", "b@chat.example"));
        assert!(!holders.may_have("b@chat.example"));
        holders.apply(&put("push", "b@chat.example"));
        assert!(holders.may_have("b@chat.example"));
    }

    #[tokio::test]
    async fn beyond_the_bound_everybody_may_have_something() {
        let holders = Holders { most: 2, ..Holders::new("push") };
        holders.load(&storage(&["a@x", "b@x", "c@x"]).await).await.expect("memory");
        assert!(holders.may_have("z@x"));
    }
}
