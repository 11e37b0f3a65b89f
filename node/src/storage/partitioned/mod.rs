//! One [`Storage`] over several databases: the main one has the log, the outboxes and the facts, and rows of owners are in it or in one of the
//! partitions, by the slot that their name falls into. Written on the trait alone; `storage::open` puts it together.
//!
//! * `map` which partition has which slot, and what a rebalance does to it; pure
//! * `part` one partition, and how it follows the log · `merge` lists over all of them · `mover` slots moved while everything runs
//!
//! **The log is the truth, partitions follow it.** A home's commit is the main database's: entries, and rows that are there. What is
//! elsewhere is applied by each partition with its position in the log as one transaction, from memory a moment later, or from the log after a
//! restart or when the partition was away. Nothing of an owner is read before their partition has all of it, so what was acknowledged is there, and
//! what was refused never appears. When a partition is away its owners alone have to wait.
//!
//! Deliberately absent: who may write (that is `homes`, and one node of a region); starting without one of the databases.

mod map;
mod merge;
mod mover;
mod part;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use parking_lot::{Mutex, RwLock};
use replication::{Change, Entry};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::map::{MAIN, Map, View};
use self::part::Part;
use super::{
    Answer, LogPage, Page, Place, Position, Renewal, Replace, Row, Shelf, Storage, StorageError,
};

pub use self::mover::{Moves, NotMoved};

/// The fact in the main database that says where slots are.
const META_MAP: &str = "partitions";
/// The fact in a partition that says whose it is and which.
const META_PART: &str = "partition";

/// The numbers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a read waits for a partition that has not followed the log yet.
    pub patience: Duration,
    /// How long a commit waits for the partitions; they go on by themselves.
    pub lag: Duration,
    /// How long a slot that has moved is written where it was, too: other nodes look at the map about once a second.
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            patience: Duration::from_secs(5),
            lag: Duration::from_secs(1),
            hold: Duration::from_secs(15),
        }
    }
}

/// See the room.
pub struct Partitioned {
    shared: Arc<Shared>,
    followers: Mutex<Vec<JoinHandle<()>>>,
    mover: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    settings: Settings,
    main: Arc<dyn Storage>,
    /// By number, from 1.
    parts: Vec<Arc<Part>>,
    view: RwLock<Arc<View>>,
    /// Read by whoever changes rows, written by whoever moves them.
    gate: tokio::sync::RwLock<()>,
    /// Held by one commit at a time, so that partitions hear of them in order.
    commits: tokio::sync::Mutex<()>,
    /// The newest entry that is in the log and may not have been told to the partitions yet.
    committing: AtomicU64,
    /// The newest entry that they have been told of.
    head: AtomicU64,
    moves: Mutex<mover::Progress>,
}

/// What one database has, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartStatus {
    /// 0: the main one.
    pub number: u8,
    /// Without secrets.
    pub name: String,
    /// How many of the 256 slots.
    pub slots: usize,
    /// Entries of the log that it may lack.
    pub behind: u64,
    /// Why it is not used now.
    pub away: Option<String>,
}

impl Partitioned {
    /// Over these; `parts` in the order of their numbers, always the same. A database that is new here must be empty.
    ///
    /// # Errors
    /// [`StorageError::Open`]: one of them is not what it was; another: it cannot be read or written.
    pub async fn open(
        main: (String, Arc<dyn Storage>),
        parts: Vec<(String, Arc<dyn Storage>)>,
        settings: Settings,
    ) -> Result<Partitioned, StorageError> {
        let (main_name, main) = main;
        let mut map = match main.meta(META_MAP).await? {
            Some(bytes) => Map::decode(&bytes)
                .ok_or_else(|| StorageError::Damaged("the map of the partitions".into()))?,
            None => {
                // Whose partitions they are is to be known before there are any.
                let map = Map::new(getrandom::u64().unwrap_or(1));
                main.set_meta(META_MAP, map.encode()).await?;
                map
            }
        };
        let refuse = |name: &str, why: String| StorageError::Open {
            name: name.to_owned(),
            cause: why.into(),
        };
        if usize::from(map.partitions) > parts.len() {
            let why = format!(
                "it has {} partitions, and storage.partitions names {}: one is taken out only when it is the last and has no slots",
                map.partitions,
                parts.len()
            );
            if usize::from(map.highest()) > parts.len() {
                return Err(refuse(&main_name, why));
            }
            map.partitions = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        }
        let is_new = map.partitions == 0 && map.version == 1;
        for (number, (name, storage)) in (1u8..=u8::MAX).zip(&parts) {
            let own = postcard::to_stdvec(&(map.identity, number)).expect("numbers");
            match storage.meta(META_PART).await? {
                Some(found) if found == own => {}
                Some(_) => {
                    let why = format!(
                        "it is not partition {number} of {main_name}: the order of storage.partitions stays, new ones come last"
                    );
                    return Err(refuse(name, why));
                }
                None if number <= map.partitions => {
                    return Err(refuse(
                        name,
                        format!(
                            "it was partition {number}, and is not: it is another database, or an empty one"
                        ),
                    ));
                }
                None if is_empty(&**storage).await? => {}
                None => {
                    return Err(refuse(
                        name,
                        "it is to be a partition, and has rows or a log of its own".to_owned(),
                    ));
                }
            }
        }
        if usize::from(map.partitions) < parts.len() {
            let first = is_new && is_empty(&*main).await?;
            map.partitions = u8::try_from(parts.len()).unwrap_or(u8::MAX);
            if first {
                // There is nothing to be moved.
                let all: Vec<u8> = (1..=map.partitions).collect();
                map.spread(&all);
            }
            map.version += 1;
            // The map last: a partition that it knows, and that is empty, is taken for lost.
            for (number, (_, storage)) in (1u8..=u8::MAX).zip(&parts) {
                let own = postcard::to_stdvec(&(map.identity, number)).expect("numbers");
                storage.set_meta(META_PART, own).await?;
            }
            main.set_meta(META_MAP, map.encode()).await?;
        }
        let head = main.log_head().await?;
        let parts = (1u8..=u8::MAX).zip(parts);
        let parts =
            parts.map(|(number, (name, storage))| Arc::new(Part::new(number, name, storage)));
        let shared = Arc::new(Shared {
            settings,
            main,
            parts: parts.collect(),
            view: RwLock::new(Arc::new(View::new(map))),
            gate: tokio::sync::RwLock::default(),
            commits: tokio::sync::Mutex::default(),
            committing: AtomicU64::new(head),
            head: AtomicU64::new(head),
            moves: Mutex::new(mover::Progress::new(main_name)),
        });
        let storage = Partitioned { shared, followers: Mutex::default(), mover: Mutex::default() };
        storage.begin(head).await?;
        Ok(storage)
    }

    /// How many slots of that main database are in partitions.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn elsewhere(main: &dyn Storage) -> Result<usize, StorageError> {
        let map = main.meta(META_MAP).await?.and_then(|bytes| Map::decode(&bytes));
        Ok(map.map_or(0, |map| map.slots.iter().filter(|number| **number != MAIN).count()))
    }

    /// From here on this node is the one that writes.
    async fn begin(&self, head: u64) -> Result<(), StorageError> {
        let mut followers = Vec::new();
        for part in &self.shared.parts {
            part.load(&self.shared, head).await?;
            followers.push(tokio::spawn(part.clone().follow(self.shared.clone())));
        }
        *self.followers.lock() = followers;
        self.go_on();
        Ok(())
    }

    /// The databases, the main one first.
    pub fn status(&self) -> Vec<PartStatus> {
        let counts = self.shared.view().map.counts();
        let slots = |number: usize| counts.get(number).copied().unwrap_or(0);
        let main = PartStatus {
            number: MAIN,
            name: self.shared.moves.lock().main.clone(),
            slots: slots(0),
            behind: 0,
            away: None,
        };
        let parts = self.shared.parts.iter().map(|part| PartStatus {
            number: part.number,
            name: part.name.clone(),
            slots: slots(usize::from(part.number)),
            behind: part.behind(),
            away: part.away().map(|why| why.to_string()),
        });
        std::iter::once(main).chain(parts).collect()
    }
}

/// Whether nobody has anything there.
async fn is_empty(storage: &dyn Storage) -> Result<bool, StorageError> {
    Ok(storage.log_head().await? == 0 && storage.rows(None, 1).await?.is_empty())
}

impl Shared {
    fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Where to read and write, by number.
    fn at(&self, number: u8) -> &Arc<dyn Storage> {
        match number {
            MAIN => &self.main,
            number => &self.parts[usize::from(number) - 1].storage,
        }
    }

    fn is_in_sync(&self, number: u8) -> bool {
        number == MAIN || self.parts[usize::from(number) - 1].is_in_sync()
    }

    /// Where an owner's rows are read now.
    async fn reader(&self, owner: &str) -> Result<&Arc<dyn Storage>, StorageError> {
        let number = self.view.read().at(owner);
        if number != MAIN {
            self.parts[usize::from(number) - 1].ready(self.settings.patience).await?;
        }
        Ok(self.at(number))
    }

    /// Every database that has rows that are read, when it may be read.
    async fn readers(&self) -> Result<(Arc<View>, Vec<(u8, Arc<dyn Storage>)>), StorageError> {
        let view = self.view();
        let mut readers = vec![(MAIN, self.main.clone())];
        for part in self.parts.iter().filter(|part| view.is_read(part.number)) {
            part.ready(self.settings.patience).await?;
            readers.push((part.number, part.storage.clone()));
        }
        Ok((view, readers))
    }

    /// On a task of its own: partitions hear of what is in the log also if nobody waits for it.
    async fn commit(self: Arc<Self>, entries: Vec<Entry>) -> Result<(), StorageError> {
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(()) };
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
            self.main.commit_part(entries, here).await?;
            // In this order: see `Part::catch_up` and `Part::step`.
            self.committing.store(last, Ordering::SeqCst);
            for (part, entries) in parts {
                part.push(last, entries);
                touched.push(part.clone());
            }
            self.head.store(last, Ordering::SeqCst);
        }
        let until = Instant::now() + self.settings.lag;
        for part in touched {
            part.followed(until).await;
        }
        Ok(())
    }

    async fn apply(
        self: Arc<Self>,
        home: String,
        position: Position,
        entries: Vec<Entry>,
    ) -> Result<(), StorageError> {
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
        try_join_all(parts).await?;
        // Last: that it stands here says that all of them have it.
        self.main.apply(&home, position, view.part(MAIN, &entries)).await
    }

    async fn trim(&self, upto: u64) -> Result<(), StorageError> {
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
        self.main.log_trim(least).await
    }

    async fn replace(&self, replace: Replace<'_>) -> Result<Vec<Place>, StorageError> {
        let _same = self.gate.read().await;
        let view = self.view();
        let Replace { from, to, owned, rows } = replace;
        let written = self.parts.iter().filter(|part| view.is_written(part.number));
        for part in written.clone() {
            part.ready(self.settings.patience).await?;
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
        let gone: BTreeSet<Place> = try_join_all(each).await?.into_iter().flatten().collect();
        Ok(gone.into_iter().collect())
    }

    /// When nobody changes rows, until it is dropped. Whoever changes some does not wait for one who waits for this.
    async fn alone(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        const TURN: Duration = Duration::from_millis(100);
        loop {
            if let Ok(alone) = tokio::time::timeout(TURN, self.gate.write()).await {
                return alone;
            }
            tokio::time::sleep(TURN).await;
        }
    }

    /// Changes the map, durably, and then what this node does by it. Called by the mover alone; nothing else is written meanwhile.
    async fn publish(&self, map: Map) -> Result<(), StorageError> {
        let bytes = map.encode();
        if let Err(error) = self.main.set_meta(META_MAP, bytes.clone()).await {
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

impl Storage for Partitioned {
    fn get<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        key: &'a str,
    ) -> Answer<'a, Option<Vec<u8>>> {
        async move { self.shared.reader(owner).await?.get(store, owner, key).await }.boxed()
    }

    fn map<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        async move { self.shared.reader(owner).await?.map(store, owner).await }.boxed()
    }

    fn archive<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        page: Page,
    ) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        async move { self.shared.reader(owner).await?.archive(store, owner, page).await }.boxed()
    }

    fn archive_count<'a>(&'a self, store: &'a str, owner: &'a str, page: Page) -> Answer<'a, u64> {
        async move { self.shared.reader(owner).await?.archive_count(store, owner, page).await }
            .boxed()
    }

    fn archive_len<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, u64> {
        async move { self.shared.reader(owner).await?.archive_len(store, owner).await }.boxed()
    }

    fn owners<'a>(
        &'a self,
        store: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Vec<String>> {
        async move {
            let (view, readers) = self.shared.readers().await?;
            merge::owners(&view, &readers, store, after, max).await
        }
        .boxed()
    }

    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        let commit = self.shared.clone().commit(entries);
        async move { tokio::spawn(commit).await.map_err(|_| StorageError::Closed)? }.boxed()
    }

    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        // Nobody divides it further.
        self.shared.main.commit_part(entries, here)
    }

    fn apply<'a>(
        &'a self,
        home: &'a str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Answer<'a, ()> {
        let apply = self.shared.clone().apply(home.to_owned(), position, entries);
        async move { tokio::spawn(apply).await.map_err(|_| StorageError::Closed)? }.boxed()
    }

    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        self.shared.main.applied(home)
    }

    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.shared.main.log_read(after, bytes_max)
    }

    fn log_head(&self) -> Answer<'_, u64> {
        self.shared.main.log_head()
    }

    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        self.shared.trim(upto).boxed()
    }

    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        async move {
            let (view, readers) = self.shared.readers().await?;
            merge::rows(&view, &readers, after, bytes_max).await
        }
        .boxed()
    }

    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        async move {
            let (view, readers) = self.shared.readers().await?;
            merge::shelves(&view, &readers, after, max).await
        }
        .boxed()
    }

    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        self.shared.replace(replace).boxed()
    }

    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.shared.main.outbox(node)
    }

    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        self.shared.main.outbox_write(node, put, remove)
    }

    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.shared.main.meta(key)
    }

    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        self.shared.main.set_meta(key, value)
    }

    fn refuses(&self, owner: &str) -> Option<StorageError> {
        match self.shared.view.read().at(owner) {
            MAIN => None,
            number => self.shared.parts[usize::from(number) - 1].refuses(),
        }
    }

    fn renew<'a>(&'a self, storage: &'a config::Storage) -> Answer<'a, Renewal> {
        async move {
            let shared = &self.shared;
            if storage.partitions.len() != shared.parts.len() {
                return Err(StorageError::NotTheSame {
                    name: format!("storage.partitions with {}", storage.partitions.len()),
                    used: format!("the one with {}", shared.parts.len()),
                    why: "partitions come and go when the node is started again".to_owned(),
                });
            }
            let one = |database: &config::Database| config::Storage {
                database: database.clone(),
                partitions: Vec::new(),
                ..storage.clone()
            };
            let mut renewals = vec![shared.main.renew(&one(&storage.database)).await?];
            for (part, database) in shared.parts.iter().zip(&storage.partitions) {
                renewals.push(part.storage.renew(&one(database)).await?);
            }
            Ok(Box::new(move || renewals.into_iter().for_each(|renewal| renewal())) as Renewal)
        }
        .boxed()
    }

    fn is_well(&self, owner: &str) -> bool {
        let number = self.shared.view.read().at(owner);
        let is_here = number == MAIN || self.shared.parts[usize::from(number) - 1].away().is_none();
        is_here && self.shared.at(number).is_well(owner)
    }

    fn partitions(&self) -> Option<&Partitioned> {
        Some(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let mover = self.mover.lock().take();
            for task in mover.into_iter().chain(self.followers.lock().drain(..)) {
                task.abort();
            }
            let head = self.shared.head.load(Ordering::SeqCst);
            let identity = self.shared.view().map.identity;
            for part in &self.shared.parts {
                // So that the next start has nothing to read; it does not matter if it fails.
                let _ = part.note(identity, head).await;
                part.storage.close().await;
            }
            self.shared.main.close().await;
        }
        .boxed()
    }
}

impl Drop for Partitioned {
    fn drop(&mut self) {
        let mover = self.mover.lock().take();
        for task in mover.into_iter().chain(self.followers.lock().drain(..)) {
            task.abort();
        }
    }
}
