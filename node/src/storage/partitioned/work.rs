//! What is read and written, and where: the readers of an owner's rows, a commit, a replica's apply, a whole copy, the change of the map.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use replication::{Change, Entry};
use tokio::time::Instant;

use super::map::{MAIN, Map, View};
use super::part::Part;
use super::{META_MAP, Shared};
use crate::storage::{Place, Position, Replace, Row, Storage, StorageError, Trouble};

/// Rows are in a partition that this node has not been told of.
pub(super) fn not_named(number: u8) -> StorageError {
    let cause = "storage.partitions does not name it".to_owned();
    StorageError::Unavailable { name: format!("partition {number}"), trouble: Trouble::Gone, cause }
}

impl Shared {
    /// How long a read waits for a partition that has not followed the log yet.
    pub(super) fn patience(&self) -> Duration {
        *self.patience.read()
    }

    /// The partition of that number, when it may be read.
    pub(super) async fn part(&self, number: u8) -> Result<&Arc<Part>, StorageError> {
        let part = self.parts.get(usize::from(number) - 1).ok_or_else(|| not_named(number))?;
        let patience = self.patience();
        match self.is_writer.load(Ordering::Acquire) {
            true => part.ready(patience).await?,
            false => part.has_heard_of(patience).await?,
        }
        Ok(part)
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Where to read and write, by number.
    pub(super) fn at(&self, number: u8) -> &Arc<dyn Storage> {
        match number {
            MAIN => &self.main,
            number => &self.parts[usize::from(number) - 1].storage,
        }
    }

    pub(super) fn is_in_sync(&self, number: u8) -> bool {
        number == MAIN || self.parts[usize::from(number) - 1].is_in_sync()
    }

    /// Where an owner's rows are read now.
    pub(super) async fn reader(&self, owner: &str) -> Result<&Arc<dyn Storage>, StorageError> {
        match self.reading().await?.at(owner) {
            MAIN => Ok(&self.main),
            number => Ok(&self.part(number).await?.storage),
        }
    }

    /// Every database that has rows that are read, when it may be read.
    pub(super) async fn readers(
        &self,
    ) -> Result<(Arc<View>, Vec<(u8, Arc<dyn Storage>)>), StorageError> {
        let view = self.reading().await?;
        let mut readers = vec![(MAIN, self.main.clone())];
        for number in (1..=view.map.highest()).filter(|number| view.is_read(*number)) {
            readers.push((number, self.part(number).await?.storage.clone()));
        }
        Ok((view, readers))
    }

    /// On a task of its own: partitions hear of what is in the log also if nobody waits for it.
    pub(super) async fn commit(self: Arc<Self>, entries: Vec<Entry>) -> Result<(), StorageError> {
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(()) };
        self.writing().await?;
        if self.parts.is_empty() {
            return self.told(self.main.commit_home(entries).await);
        }
        let mut touched = Vec::new();
        {
            let _one = self.commits.lock().await;
            let _same = self.gate.read().await;
            let view = self.view();
            let all = entries.iter().flat_map(|entry| &entry.changes);
            let here: Vec<Change> =
                all.filter(|change| view.takes(MAIN, change.owner())).cloned().collect();
            let parts = self.parts.iter().map(|part| (part, view.part(part.number, &entries)));
            let parts: Vec<_> = parts.filter(|(_, entries)| !entries.is_empty()).collect();
            self.told(self.main.commit_part(entries, here).await)?;
            // In this order: see `Part::catch_up` and `Part::step`.
            self.committing.store(last, Ordering::SeqCst);
            for (part, entries) in parts {
                // One that is late was waited for already. What is committed for it all the same (by a former home of its accounts) holds up nobody.
                if !part.is_late() {
                    touched.push(part.clone());
                }
                part.push(last, entries);
            }
            self.head.store(last, Ordering::SeqCst);
        }
        let until = Instant::now() + self.settings.lag;
        for part in touched {
            part.followed(until).await;
        }
        Ok(())
    }

    pub(super) async fn apply(
        self: Arc<Self>,
        home: String,
        position: Position,
        entries: Vec<Entry>,
    ) -> Result<(), StorageError> {
        self.writing().await?;
        if self.parts.is_empty() {
            return self.told(self.main.apply(&home, position, entries).await);
        }
        let _same = self.gate.read().await;
        let view = self.view();
        // A position alone is a new beginning, for all.
        let is_reset = entries.is_empty();
        let parts = self.parts.iter().filter_map(|part| {
            let entries = view.part(part.number, &entries);
            let concerned =
                if is_reset { view.is_written(part.number) } else { !entries.is_empty() };
            concerned.then(|| part.apply(&self, &home, position, entries, is_reset))
        });
        self.told(try_join_all(parts).await)?;
        // Last: that it stands here says that all of them have it.
        self.told(self.main.apply(&home, position, view.part(MAIN, &entries)).await)
    }

    pub(super) async fn trim(self: &Arc<Self>, upto: u64) -> Result<(), StorageError> {
        self.writing().await?;
        let (view, head) = (self.view(), self.head.load(Ordering::SeqCst));
        let mut least = upto;
        for part in self.parts.iter().filter(|part| view.is_written(part.number)) {
            if part.stored() < upto.min(head)
                && let Err(error) = part.note(view.map.identity, head).await
            {
                tracing::debug!(%error, number = part.number, "its position was not written down");
            }
            least = least.min(part.stored());
        }
        self.told(self.main.log_trim(least).await)
    }

    pub(super) async fn replace(
        self: &Arc<Self>,
        replace: Replace<'_>,
    ) -> Result<Vec<Place>, StorageError> {
        self.writing().await?;
        let _same = self.gate.read().await;
        let view = self.view();
        let Replace { from, to, owned, rows } = replace;
        let written = self.parts.iter().filter(|part| view.is_written(part.number));
        for part in written.clone() {
            part.ready(self.patience()).await?;
        }
        let numbers: Vec<u8> =
            std::iter::once(MAIN).chain(written.map(|part| part.number)).collect();
        let each = numbers.into_iter().map(|number| {
            let (from, to, view) = (from.clone(), to.clone(), view.clone());
            let rows: Vec<Row> = rows
                .iter()
                .filter(|(place, _)| view.takes(number, place.owner()))
                .cloned()
                .collect();
            async move {
                let owned = |owner: &str| owned(owner) && view.takes(number, owner);
                let replace = Replace { from, to, owned: &owned, rows };
                let mut gone = self.at(number).replace(replace).await?;
                gone.retain(|place| view.at(place.owner()) == number);
                Ok::<_, StorageError>(gone)
            }
        });
        let gone = self.told(try_join_all(each).await)?;
        let gone: BTreeSet<Place> = gone.into_iter().flatten().collect();
        Ok(gone.into_iter().collect())
    }

    /// When nobody changes rows, until it is dropped. Whoever changes some does not wait for one who waits for this.
    pub(super) async fn alone(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        const TURN: Duration = Duration::from_millis(100);
        loop {
            if let Ok(alone) = tokio::time::timeout(TURN, self.gate.write()).await {
                return alone;
            }
            tokio::time::sleep(TURN).await;
        }
    }

    /// Changes the map, durably, and then what this node does by it. Called by the mover alone; nothing else is written meanwhile.
    pub(super) async fn publish(&self, map: Map) -> Result<(), StorageError> {
        let bytes = map.encode();
        if let Err(error) = self.told(self.main.set_meta(META_MAP, bytes.clone()).await) {
            if matches!(error, StorageError::Superseded | StorageError::Closed) {
                return Err(error);
            }
            // It may be there all the same, and must not be guessed.
            tracing::warn!(%error, "the map of the partitions is in doubt");
            let found = loop {
                match self.main.meta(META_MAP).await {
                    Ok(found) => break found,
                    Err(StorageError::Closed) => return Err(StorageError::Closed),
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            };
            if found.as_deref() != Some(&bytes) {
                return Err(error);
            }
        }
        let next = self.view().next(map);
        *self.view.write() = Arc::new(next);
        Ok(())
    }
}
