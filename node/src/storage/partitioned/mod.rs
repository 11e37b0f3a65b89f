//! One [`Storage`] over several databases: the main one has the log, the outboxes and the facts, and rows of owners are in it or in one of the
//! partitions, by the slot that their name falls into. Written on the trait alone; `storage::open` puts it together.
//!
//! * `map` which partition has which slot, and what a rebalance does to it; pure
//! * `part` one partition, and how it follows the log · `work` what is read and written, and where
//! * `begin` whose pen it is · `merge` lists over all of them · `mover` slots moved while everything runs
//!
//! **The log is the truth, partitions follow it.** A home's commit is the main database's: entries, and rows that are there. What is
//! elsewhere is applied by each partition with its position in the log as one transaction, from memory a moment later, or from the log after a
//! restart or when the partition was away. Nothing of an owner is read before their partition has all of it, so what was acknowledged is there, and
//! what was refused never appears. When a partition is away its owners alone have to wait.
//!
//! One node of a region writes, the one that has the pen of the main database ([`Storage::take_pen`]): from then on it settles the map and brings the
//! partitions up. The others read; they look at the map about once a second, and wait for what they were told of ([`Storage::heard`]).
//!
//! Where no partitions are named all is the main database's, and goes there as it comes; only the map is looked at, for another node of the region may
//! have some. Whoever lacks one that the map needs does not take the pen, and does not read what may be there.
//!
//! Deliberately absent: starting without one of the databases.

mod begin;
mod map;
mod merge;
mod mover;
mod part;
#[cfg(test)]
pub(super) mod tests;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use replication::{Change, Entry};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::begin::{look, read_map};
use self::map::{MAIN, Map, View};
use self::part::Part;
use super::{
    Answer, LogPage, Page, Place, Position, Renewal, Replace, Row, Scribe, Shelf, Storage,
    StorageError,
};

pub use self::mover::{Moves, NotMoved};

/// How often the map is looked at by a node that does not write.
const LOOK: Duration = Duration::from_secs(1);
/// The fact in the main database that says where slots are.
const META_MAP: &str = "partitions";

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
    looker: JoinHandle<()>,
}

struct Shared {
    settings: Settings,
    /// That of the settings, until other connections come with another.
    patience: RwLock<Duration>,
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
    /// Whether this node writes.
    is_writer: AtomicBool,
    /// The term in which it does; 0: it has never taken the pen, and nobody asks.
    term: AtomicU64,
    /// Its name.
    node: Mutex<String>,
    /// Held by whoever begins to write.
    beginning: tokio::sync::Mutex<()>,
    /// When the map was last looked at.
    looked: Mutex<Instant>,
    followers: Mutex<Vec<JoinHandle<()>>>,
    mover: Mutex<Option<JoinHandle<()>>>,
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
    /// Over these; `parts` in the order of their numbers, always the same.
    ///
    /// # Errors
    /// [`StorageError::Open`]: one of them is not what it was; another: it cannot be read.
    pub async fn open(
        main: (String, Arc<dyn Storage>),
        parts: Vec<(String, Arc<dyn Storage>)>,
        settings: Settings,
    ) -> Result<Partitioned, StorageError> {
        let (main_name, main) = main;
        // Nobody's yet: whoever writes first settles it.
        let map = read_map(&*main).await?.unwrap_or_else(|| Map::new(0));
        let parts = (1u8..=u8::MAX).zip(parts);
        let parts =
            parts.map(|(number, (name, storage))| Arc::new(Part::new(number, name, storage)));
        let shared = Arc::new(Shared {
            patience: RwLock::new(settings.patience),
            settings,
            main,
            parts: parts.collect(),
            view: RwLock::new(Arc::new(View::new(map))),
            gate: tokio::sync::RwLock::default(),
            commits: tokio::sync::Mutex::default(),
            committing: AtomicU64::new(0),
            head: AtomicU64::new(0),
            moves: Mutex::new(mover::Progress::new(main_name)),
            is_writer: AtomicBool::new(false),
            term: AtomicU64::new(0),
            node: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            looked: Mutex::new(Instant::now()),
            followers: Mutex::default(),
            mover: Mutex::default(),
        });
        shared.check(&shared.view().map, true).await?;
        let looker = tokio::spawn(look(shared.clone()));
        Ok(Partitioned { shared, looker })
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

    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        async move {
            let mut positions = self.shared.main.positions().await?;
            // Those are no regions.
            positions.retain(|(region, _)| !region.starts_with('~'));
            Ok(positions)
        }
        .boxed()
    }

    fn heard(&self, home: Option<&str>, position: Position, entries: &[Entry]) {
        let shared = &self.shared;
        shared.main.heard(home, position, entries);
        if shared.is_writer.load(Ordering::Acquire) {
            return;
        }
        let view = shared.view();
        for part in &shared.parts {
            let of = |change: &Change| view.takes(part.number, change.owner());
            let last = entries.iter().rev().find(|entry| entry.changes.iter().any(of));
            if let Some(last) = last {
                let (log, at) = match home {
                    Some(home) => (home, position),
                    None => (part::OWN, Position { log: view.map.identity, seq: last.seq }),
                };
                part.heard(log, Position { seq: last.seq, ..at });
            }
        }
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

    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        async move { self.shared.told(self.shared.main.outbox_move(from, to).await) }.boxed()
    }

    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        self.shared.main.scribe()
    }

    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        async move {
            let shared = &self.shared;
            let _one = shared.beginning.lock().await;
            if !node.is_empty()
                && let Some(map) = read_map(&*shared.main).await?
            {
                // Before anything is taken from a node that has them.
                shared.has_all(&map)?;
            }
            if !shared.main.take_pen(former, term, node).await? {
                return Ok(false);
            }
            shared.term.store(term, Ordering::Release);
            node.clone_into(&mut shared.node.lock());
            if node.is_empty() {
                // It is laid down.
                shared.put_down();
                return Ok(true);
            }
            shared.is_writer.store(false, Ordering::Release);
            shared.begin().await.map(|()| true)
        }
        .boxed()
    }

    fn beat(&self) -> Answer<'_, ()> {
        async move { self.shared.told(self.shared.main.beat().await) }.boxed()
    }

    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.shared.main.meta(key)
    }

    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        async move { self.shared.told(self.shared.main.set_meta(key, value).await) }.boxed()
    }

    fn refuses(&self, owner: &str) -> Option<StorageError> {
        match self.shared.view.read().at(owner) {
            MAIN => None,
            number => match self.shared.parts.get(usize::from(number) - 1) {
                Some(part) => part.refuses(),
                None => Some(work::not_named(number)),
            },
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
            let (shared, patience) = (shared.clone(), storage.timeout);
            Ok(Box::new(move || {
                renewals.into_iter().for_each(|renewal| renewal());
                *shared.patience.write() = patience;
                shared.parts.iter().for_each(|part| part.renewed());
            }) as Renewal)
        }
        .boxed()
    }

    fn is_well(&self, owner: &str) -> bool {
        match self.shared.view.read().at(owner) {
            MAIN => self.shared.main.is_well(owner),
            number => self
                .shared
                .parts
                .get(usize::from(number) - 1)
                .is_some_and(|part| part.away().is_none() && part.storage.is_well(owner)),
        }
    }

    fn partitions(&self) -> Option<&Partitioned> {
        (!self.shared.parts.is_empty()).then_some(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.looker.abort();
            self.shared.stop();
            let is_writer = self.shared.is_writer.swap(false, Ordering::AcqRel);
            let head = self.shared.head.load(Ordering::SeqCst);
            let identity = self.shared.view().map.identity;
            for part in &self.shared.parts {
                // So that the next start has nothing to read; it does not matter if it fails.
                if is_writer {
                    let _ = part.note(identity, head).await;
                }
                part.storage.close().await;
            }
            self.shared.main.close().await;
        }
        .boxed()
    }
}

impl Drop for Partitioned {
    fn drop(&mut self) {
        self.looker.abort();
        self.shared.stop();
    }
}
