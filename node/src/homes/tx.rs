//! What an operation at the home sees and does: reads with its own and the group's uncommitted writes in them, and
//! changes to one account's data.
//!
//! Handed to every `HomeOp` by the writer. A `Tx` speaks of one account only, because all changes of a log entry belong
//! to one shard. Deliberately absent: commit and rollback; an operation that errs has simply changed nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::{Change, Hlc};

use super::HomeError;
use super::fetched::{Fetched, Reading};
use super::overlay::{Found, Overlay};
use crate::storage::{Page, Storage};

/// One operation's view. Its account is the owner of everything read and written.
pub struct Tx {
    storage: Arc<dyn Storage>,
    account: String,
    /// What earlier operations of the group have done.
    group: Overlay,
    /// What was read for the group beforehand.
    fetched: Fetched,
    /// What this one has done.
    own: Overlay,
    changes: Vec<Change>,
    at: Hlc,
    epoch: u64,
}

impl Tx {
    pub(super) fn new(storage: Arc<dyn Storage>) -> Tx {
        Tx {
            storage,
            account: String::new(),
            group: Overlay::default(),
            fetched: Fetched::default(),
            own: Overlay::default(),
            changes: Vec::new(),
            at: Hlc::ZERO,
            epoch: 0,
        }
    }

    /// Reads what the operations of the group will read: account, epoch of its home, what.
    pub(super) async fn fetch(&mut self, wanted: Vec<(&str, u64, Reading)>) {
        self.fetched.fetch(&*self.storage, wanted).await;
    }

    /// The next operation's account has its home in this epoch.
    pub(super) fn in_epoch(&mut self, account: &str, epoch: u64) {
        self.fetched.in_epoch(account, epoch);
        self.epoch = epoch;
    }

    /// Reads values of the account that will be asked for one after another, all at once: what [`super::HomeOp::reads`] could not say.
    pub async fn read_ahead(&mut self, wanted: impl IntoIterator<Item = Reading>) {
        let account = self.account.as_str();
        let wanted: Vec<_> = wanted.into_iter().map(|read| (account, self.epoch, read)).collect();
        if wanted.len() > 1 {
            self.fetched.fetch(&*self.storage, wanted).await;
        }
    }

    /// A new operation, for this account.
    pub(super) fn begin(&mut self, account: &str, at: Hlc) {
        self.changes.clear();
        self.own.clear();
        account.clone_into(&mut self.account);
        self.at = at;
    }

    /// The operation has succeeded: its changes, which later ones of the group will see.
    pub(super) fn keep(&mut self) -> Vec<Change> {
        let changes = std::mem::take(&mut self.changes);
        self.own.clear();
        changes.iter().for_each(|change| self.group.change(change));
        changes
    }

    /// About how many bytes the operation's changes take so far.
    pub(super) fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum()
    }

    /// The group is committed, or has failed: storage says what is.
    pub(super) fn end_group(&mut self) {
        self.group.clear();
        self.fetched.clear();
        self.own.clear();
        self.changes.clear();
    }

    /// When this operation happens: greater than that of every earlier one at this home, so as a number it is a fit
    /// archive id too.
    pub fn at(&self) -> Hlc {
        self.at
    }

    /// A value of the account (`""` for the one-value shape).
    pub async fn get(&self, store: &'static str, key: &str) -> Result<Option<Vec<u8>>, HomeError> {
        for layer in [&self.own, &self.group] {
            if let Found::Here(value) = layer.get(store, &self.account, key) {
                return Ok(value);
            }
        }
        match self.fetched.get(store, &self.account, key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.storage.get(store, &self.account, key).await?),
        }
    }

    /// All values of the account in a store, by key.
    pub async fn map(&self, store: &'static str) -> Result<BTreeMap<String, Vec<u8>>, HomeError> {
        let mut map = BTreeMap::new();
        if ![&self.own, &self.group].iter().any(|layer| layer.hides_all(store, &self.account)) {
            map.extend(self.storage.map(store, &self.account).await?);
        }
        for layer in [&self.group, &self.own] {
            layer.lay_map(store, &self.account, &mut map);
        }
        Ok(map)
    }

    /// A page of the account's archive, in growing order.
    pub async fn archive(
        &self,
        store: &'static str,
        page: Page,
    ) -> Result<Vec<(u64, Vec<u8>)>, HomeError> {
        let mut items = BTreeMap::new();
        if ![&self.own, &self.group].iter().any(|layer| layer.hides_all(store, &self.account)) {
            let wide = self.own.widen(store, &self.account, page);
            let wide = self.group.widen(store, &self.account, wide);
            items.extend(self.storage.archive(store, &self.account, wide).await?);
        }
        for layer in [&self.group, &self.own] {
            layer.lay_page(store, &self.account, page, &mut items);
        }
        let skip = if page.newest { items.len().saturating_sub(page.max) } else { 0 };
        Ok(items.into_iter().skip(skip).take(page.max).collect())
    }

    /// How many items the account's archive has, about: what is not committed yet is counted as if nothing of it replaced another.
    pub async fn archive_len(&self, store: &'static str) -> Result<u64, HomeError> {
        let below = self.storage.archive_len(store, &self.account).await?;
        let layers = [&self.group, &self.own];
        Ok(layers.iter().fold(below, |len, layer| layer.lay_len(store, &self.account, len)))
    }

    /// Whether something of the account in that store was changed and is not committed yet: then what is remembered of it may be old.
    pub fn is_touched(&self, store: &'static str) -> bool {
        [&self.own, &self.group].iter().any(|layer| layer.touches(store, &self.account))
    }

    /// Writes a value.
    pub fn put(&mut self, store: &'static str, key: impl Into<String>, value: Vec<u8>) {
        let owner = self.account.clone();
        self.record(Change::Put { store: store.into(), owner, key: key.into(), value });
    }

    /// Deletes a value.
    pub fn delete(&mut self, store: &'static str, key: impl Into<String>) {
        let owner = self.account.clone();
        self.record(Change::Delete { store: store.into(), owner, key: key.into() });
    }

    /// Clears everything of the account in a store, of every shape.
    pub fn clear(&mut self, store: &'static str) {
        let owner = self.account.clone();
        self.record(Change::Clear { store: store.into(), owner });
    }

    /// Writes an archive item. [`Tx::at`] is a good id if nothing else gives one.
    pub fn append(&mut self, store: &'static str, id: u64, value: Vec<u8>) {
        let owner = self.account.clone();
        self.record(Change::Append { store: store.into(), owner, id, value });
    }

    /// Removes an archive item.
    pub fn remove(&mut self, store: &'static str, id: u64) {
        let owner = self.account.clone();
        self.record(Change::Remove { store: store.into(), owner, id });
    }

    /// Removes archive items up to an id.
    pub fn trim(&mut self, store: &'static str, upto: u64) {
        let owner = self.account.clone();
        self.record(Change::Trim { store: store.into(), owner, upto });
    }

    /// Takes a change as it is; its owner must be the account.
    pub(super) fn record(&mut self, change: Change) {
        debug_assert_eq!(change.owner(), self.account, "an entry belongs to one account");
        self.own.change(&change);
        self.changes.push(change);
    }
}

#[cfg(test)]
impl Tx {
    /// For tests of operations: a view of one account that has nothing, and a home to be.
    pub(crate) fn of(account: &str) -> Tx {
        let mut tx = Tx::new(Arc::new(crate::storage::memory::Memory::default()));
        tx.begin(account, Hlc::ZERO);
        tx
    }

    /// The same, later.
    pub(crate) fn at_ms(mut self, ms: u64) -> Tx {
        self.at = Hlc::new(ms, 0);
        self
    }

    /// What the operation has changed; the next one sees it.
    pub(crate) fn changed(&mut self) -> Vec<Change> {
        self.keep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::Memory;

    const ROMEO: &str = "romeo@chat.example";

    #[tokio::test]
    async fn reads_see_own_writes_and_those_of_the_group() {
        let mut tx = Tx::new(Arc::new(Memory::default()));
        tx.begin(ROMEO, Hlc::ZERO);
        tx.put("roster", "a", b"1".to_vec());
        tx.put("roster", "b", b"1".to_vec());
        assert_eq!(tx.keep().len(), 2);
        tx.begin(ROMEO, Hlc::ZERO);
        assert_eq!(tx.get("roster", "a").await.unwrap(), Some(b"1".to_vec()));
        tx.delete("roster", "a");
        tx.put("roster", "c", b"2".to_vec());
        assert_eq!(tx.get("roster", "a").await.unwrap(), None);
        let map = tx.map("roster").await.unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["b", "c"]);
        tx.clear("roster");
        assert!(tx.map("roster").await.unwrap().is_empty());
        // The operation fails: the next one begins, and what it did is gone.
        tx.begin(ROMEO, Hlc::ZERO);
        assert_eq!(tx.map("roster").await.unwrap().len(), 2);
        tx.begin("juliet@chat.example", Hlc::ZERO);
        assert!(tx.map("roster").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_archive_page_is_full_though_uncommitted_changes_hide_items() {
        let storage = Arc::new(Memory::default());
        let entry =
            |seq, changes| replication::Entry { seq, shard: 0, epoch: 1, at: Hlc::ZERO, changes };
        let item =
            |id| Change::Append { store: "mam".into(), owner: ROMEO.into(), id, value: vec![] };
        storage.commit_home(vec![entry(1, (1..=9).map(item).collect())]).await.unwrap();
        let mut tx = Tx::new(storage);
        let ids = async |tx: &Tx, page| {
            let page = tx.archive("mam", page).await.unwrap();
            page.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        tx.begin(ROMEO, Hlc::ZERO);
        tx.trim("mam", 2);
        tx.remove("mam", 4);
        tx.keep();
        tx.begin(ROMEO, Hlc::ZERO);
        tx.append("mam", 12, vec![]);
        tx.remove("mam", 9);
        assert_eq!(ids(&tx, Page::after(None, 3)).await, [3, 5, 6]);
        assert_eq!(ids(&tx, Page::before(None, 3)).await, [7, 8, 12]);
        assert_eq!(ids(&tx, Page::before(Some(12), 2)).await, [7, 8]);
        assert_eq!(ids(&tx, Page::after(Some(8), 9)).await, [12]);
        tx.clear("mam");
        assert_eq!(ids(&tx, Page::after(None, 9)).await, [0u64; 0]);
    }
}
