//! What the operations of a group say they will read, read for all of them at once: a visit to the database by each read of each operation, one
//! after another, would be most of what an operation costs, and all of what it takes on a database behind a network.
//!
//! Filled by the writer before a group runs, asked by `Tx` below its overlays. Good for one group: nobody but the writer changes what is homed
//! here, and it commits when the group is over.

use std::collections::HashMap;

use futures_util::future::join_all;

use crate::storage::Storage;

/// A value that will be read: its store and key.
pub type Reading = (&'static str, String);

/// One account's: the epoch it was home in, and what there was, in order.
type Known = (u64, Vec<(Reading, Option<Vec<u8>>)>);

/// See the room.
#[derive(Debug, Default)]
pub(super) struct Fetched(HashMap<String, Known>);

impl Fetched {
    /// Reads them: account, epoch of its home, what. What cannot be read is left to whoever needs it.
    pub(super) async fn fetch(
        &mut self,
        storage: &dyn Storage,
        mut wanted: Vec<(&str, u64, Reading)>,
    ) {
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|(owner, _, (store, key))| self.get(store, owner, key).is_none());
        let reads = wanted.into_iter().map(|(owner, epoch, (store, key))| async move {
            let value = storage.get(store, owner, &key).await.ok()?;
            Some((owner, epoch, ((store, key), value)))
        });
        for (owner, epoch, read) in join_all(reads).await.into_iter().flatten() {
            match self.0.get_mut(owner) {
                Some((_, known)) => {
                    let at = known.partition_point(|(reading, _)| *reading < read.0);
                    known.insert(at, read);
                }
                None => drop(self.0.insert(owner.to_owned(), (epoch, vec![read]))),
            }
        }
    }

    /// An operation on that account is next: what was read when its home was in another epoch is void.
    pub(super) fn in_epoch(&mut self, owner: &str, epoch: u64) {
        if self.0.get(owner).is_some_and(|(then, _)| *then != epoch) {
            self.0.remove(owner);
        }
    }

    /// What storage has there, if it was asked; `None`: ask it.
    pub(super) fn get(&self, store: &str, owner: &str, key: &str) -> Option<&Option<Vec<u8>>> {
        let (_, known) = self.0.get(owner)?;
        let at =
            known.binary_search_by(|((of, named), _)| (*of, named.as_str()).cmp(&(store, key)));
        at.ok().map(|at| &known[at].1)
    }

    /// The group is over.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use replication::{Change, Entry, Hlc};

    use super::*;
    use crate::storage::memory::Memory;

    #[tokio::test]
    async fn what_was_read_is_found_and_void_in_another_epoch() {
        let storage = Arc::new(Memory::default());
        let put = |key: &str| Change::Put {
            store: "roster".into(),
            owner: "a@x".to_owned(),
            key: key.to_owned(),
            value: key.into(),
        };
        let changes = vec![put("b"), put("a")];
        let entry = Entry { seq: 1, shard: 0, epoch: 1, at: Hlc::ZERO, changes };
        storage.commit_home(vec![entry]).await.expect("memory");
        let mut fetched = Fetched::default();
        let reading = |owner, key: &str| (owner, 1, ("roster", key.to_owned()));
        let wanted = ["b", "c", "a", "b"].map(|key| reading("a@x", key));
        fetched.fetch(&*storage, wanted.into()).await;
        fetched.in_epoch("a@x", 1);
        assert_eq!(fetched.get("roster", "a@x", "a"), Some(&Some(b"a".to_vec())));
        assert_eq!(fetched.get("roster", "a@x", "b"), Some(&Some(b"b".to_vec())));
        assert_eq!(fetched.get("roster", "a@x", "c"), Some(&None), "known to be absent");
        assert_eq!(fetched.get("roster", "a@x", "d"), None, "not asked");
        assert_eq!(fetched.get("vcard", "a@x", "a"), None);
        fetched.in_epoch("a@x", 2);
        assert_eq!(fetched.get("roster", "a@x", "a"), None);
    }
}
