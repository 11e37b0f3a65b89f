//! Whose pen it is: a node that takes it settles the map and brings the partitions up; the others look at the map that it writes. Also which databases
//! are the partitions that they were.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::map::{MAIN, Map, View};
use super::part::Part;
use super::{LOOK, META_MAP, Shared, mover};
use crate::storage::{Storage, StorageError};

/// The fact in a partition that says whose it is and which.
pub(super) const META_PART: &str = "partition";

/// Whether nobody has anything there.
async fn is_empty(storage: &dyn Storage) -> Result<bool, StorageError> {
    Ok(storage.log_head().await? == 0 && storage.rows(None, 1).await?.is_empty())
}

pub(super) async fn read_map(main: &dyn Storage) -> Result<Option<Map>, StorageError> {
    let Some(bytes) = main.meta(META_MAP).await? else { return Ok(None) };
    let map = Map::decode(&bytes);
    map.map(Some).ok_or_else(|| StorageError::Damaged("the map of the partitions".into()))
}

/// Looks at the map, where another node may change it.
pub(super) async fn look(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !shared.is_writer.load(Ordering::Acquire)
            && let Err(error) = shared.look().await
        {
            tracing::debug!(%error, "the map of the partitions was not looked at");
        }
    }
}

impl Shared {
    /// Whether the partitions that a map knows are these. Without `all`, one that is away is passed over.
    pub(super) async fn check(&self, map: &Map, all: bool) -> Result<(), StorageError> {
        self.has_all(map)?;
        let main = self.moves.lock().main.clone();
        for part in self.parts.iter().filter(|part| part.number <= map.partitions) {
            match part.check(map.identity, &main).await {
                // It is asked again before it is used: see `Part::take`.
                Err(StorageError::Unavailable { .. }) if !all => {}
                checked => checked?,
            }
        }
        Ok(())
    }

    /// Whether this node has been told of all partitions that a map needs: else it would take what is there for nothing, and write over it.
    pub(super) fn has_all(&self, map: &Map) -> Result<(), StorageError> {
        // Without any, nothing is done about what was left behind in one.
        let left = if self.parts.is_empty() { MAIN } else { map.highest() };
        let needed = map.needed().max(left);
        if usize::from(needed) <= self.parts.len() {
            return Ok(());
        }
        let cause = format!(
            "slots of it are in partition {needed}, or go there, and storage.partitions names {}",
            self.parts.len()
        );
        Err(StorageError::Open { name: self.moves.lock().main.clone(), cause: cause.into() })
    }

    /// The map as it is to be written by: with all partitions that this node has been told of. One that is new must be empty.
    pub(super) async fn settle(&self) -> Result<Map, StorageError> {
        let mut map = match read_map(&*self.main).await? {
            Some(map) => map,
            // Nothing is divided, and nothing is written down about it.
            None if self.parts.is_empty() => return Ok(Map::new(0)),
            None => {
                // Whose partitions they are is to be known before there are any.
                let map = Map::new(getrandom::u64().unwrap_or(1).max(1));
                self.main.set_meta(META_MAP, map.encode()).await?;
                map
            }
        };
        self.check(&map, false).await?;
        let count = u8::try_from(self.parts.len()).unwrap_or(u8::MAX);
        if map.partitions == count || count == 0 {
            return Ok(map);
        }
        for part in self.parts.iter().filter(|part| part.number > map.partitions) {
            match part.adopt(self, &map).await {
                Ok(()) => {}
                Err(error @ StorageError::Unavailable { .. }) => {
                    tracing::warn!(%error, number = part.number, "a new partition is not used yet");
                    return Ok(map);
                }
                Err(error) => return Err(error),
            }
        }
        let is_new = map.partitions == 0 && map.version == 1 && is_empty(&*self.main).await?;
        map.partitions = count;
        if is_new {
            // There is nothing to be moved.
            let all: Vec<u8> = (1..=count).collect();
            map.spread(&all);
        }
        map.version += 1;
        self.main.set_meta(META_MAP, map.encode()).await?;
        Ok(map)
    }

    /// From here on this node is the one that writes.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<(), StorageError> {
        self.stop();
        let map = self.settle().await?;
        *self.view.write() = Arc::new(View::new(map));
        let head = self.main.log_head().await?;
        self.committing.store(head, Ordering::SeqCst);
        self.head.store(head, Ordering::SeqCst);
        let mut followers = Vec::new();
        for part in &self.parts {
            part.reset(self, head).await?;
            followers.push(tokio::spawn(part.clone().follow(self.clone())));
        }
        *self.followers.lock() = followers;
        self.is_writer.store(true, Ordering::Release);
        if !self.parts.is_empty() {
            mover::go_on(self);
        }
        Ok(())
    }

    /// What this node writes with: tools and tests take no pen, and begin with what they write first.
    pub(super) async fn writing(self: &Arc<Self>) -> Result<(), StorageError> {
        if self.is_writer.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.beginning.lock().await;
        if self.is_writer.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.term.load(Ordering::Acquire) > 0 {
            return Err(StorageError::Superseded);
        }
        self.begin().await
    }

    pub(super) fn stop(&self) {
        let mover = self.mover.lock().take();
        for task in mover.into_iter().chain(self.followers.lock().drain(..)) {
            task.abort();
        }
    }

    /// Another node writes now.
    pub(super) fn put_down(&self) {
        if self.is_writer.swap(false, Ordering::AcqRel) {
            self.stop();
        }
    }

    /// Sees to it that one who is superseded knows.
    pub(super) fn told<T>(&self, done: Result<T, StorageError>) -> Result<T, StorageError> {
        if matches!(done, Err(StorageError::Superseded)) {
            self.put_down();
        }
        done
    }

    /// Looks at the map that another node writes.
    pub(super) async fn look(&self) -> Result<(), StorageError> {
        let map = read_map(&*self.main).await?;
        let mut view = self.view.write();
        if self.is_writer.load(Ordering::Acquire) {
            return Ok(());
        }
        *self.looked.lock() = Instant::now();
        if let Some(map) =
            map.filter(|map| map.version > view.map.version || view.map.identity == 0)
        {
            if let Err(why) = self.has_all(&map) {
                tracing::error!(%why, "accounts in other partitions are not read here, and this node does not write");
            }
            *view = Arc::new(View::new(map));
        }
        Ok(())
    }

    /// The map, as new as a reader needs it.
    pub(super) async fn reading(&self) -> Result<Arc<View>, StorageError> {
        let view = self.view();
        if self.is_writer.load(Ordering::Acquire) {
            return Ok(view);
        }
        // While nobody has settled it, somebody may be about to. Where there are no partitions nobody may ever be.
        let is_unsettled = view.map.identity == 0 && !self.parts.is_empty();
        let is_old = is_unsettled || self.looked.lock().elapsed() > self.settings.hold / 3;
        if is_old {
            self.look().await?;
            return Ok(self.view());
        }
        Ok(view)
    }
}

impl Part {
    /// Whether it is the partition of that number of that main database.
    pub(super) async fn check(&self, identity: u64, main: &str) -> Result<(), StorageError> {
        let number = self.number;
        let why = match self.storage.meta(META_PART).await? {
            Some(found) if found == self.mark(identity) => return Ok(()),
            Some(_) => format!(
                "it is not partition {number} of {main}: the order of storage.partitions stays, new ones come last"
            ),
            None => format!(
                "it is not the partition {number} that there was, but another database, or an empty one"
            ),
        };
        Err(StorageError::Open { name: self.name.clone(), cause: why.into() })
    }

    /// Makes it one, if it is empty.
    async fn adopt(&self, shared: &Shared, map: &Map) -> Result<(), StorageError> {
        let own = self.mark(map.identity);
        let found = self.storage.meta(META_PART).await?;
        if found.as_ref().is_some_and(|found| *found != own)
            || (found.is_none() && !is_empty(&*self.storage).await?)
        {
            let cause =
                "it is to be a partition, and has rows or a log of its own, or is one of another"
                    .into();
            return Err(StorageError::Open { name: self.name.clone(), cause });
        }
        self.fence(shared).await?;
        // The map last: a partition that it knows, and that is empty, is taken for lost.
        self.storage.set_meta(META_PART, own).await
    }
}
