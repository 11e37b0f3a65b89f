//! A host's disk: it outlives the lives of its node. Writes take time before they are done and after: a crash in between leaves them done or
//! not done, never half. Later things that live on a disk (the outbox) get a field here and a wrapper like [`Mounted`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use node::storage::memory::Memory;
use node::storage::{
    Answer, LogPage, Page, Place, Position, Replace, Row, Scribe, Shelf, Storage, StorageError,
};
use parking_lot::Mutex;
use replication::{Change, Entry};

use super::chance::Chance;
use super::life::Life;

/// See the module.
pub struct Disk {
    /// The database.
    pub memory: Memory,
    /// The last life's number.
    incarnation: AtomicU64,
    /// The longest a write takes, in ms, on either side of being done.
    slow_ms: AtomicU64,
    chance: Mutex<Chance>,
}

impl Disk {
    /// A disk with a database, or with a region's which others have too.
    pub fn new(chance: Chance, slow_ms: u64, memory: Memory) -> Arc<Self> {
        Arc::new(Self {
            memory,
            incarnation: AtomicU64::new(0),
            slow_ms: AtomicU64::new(slow_ms),
            chance: Mutex::new(chance),
        })
    }

    /// A number greater than those of all former lives: as `app::build` makes it.
    pub fn next_incarnation(&self, wall_ms: u64) -> u64 {
        let next = wall_ms.max(self.incarnation.load(Ordering::Relaxed) + 1);
        self.incarnation.store(next, Ordering::Relaxed);
        next
    }

    /// How slow it is from now on.
    pub fn set_slow(&self, ms: u64) {
        self.slow_ms.store(ms, Ordering::Relaxed);
    }

    fn wait(&self) -> u64 {
        self.chance.lock().below(self.slow_ms.load(Ordering::Relaxed) + 1)
    }
}

/// A disk as one life of the node sees it.
pub struct Mounted {
    disk: Arc<Disk>,
    memory: Memory,
    life: Arc<Life>,
}

impl Mounted {
    /// For this life.
    pub fn new(disk: Arc<Disk>, life: Arc<Life>) -> Self {
        let memory = disk.memory.shared();
        Self { disk, memory, life }
    }

    /// Time passes; after the end of the life nothing does.
    async fn seek(&self) {
        let wait = self.disk.wait();
        if wait > 0 {
            self.life.until(self.life.now() + wait).await;
        }
        if self.life.is_over() {
            std::future::pending::<()>().await;
        }
    }

    async fn written<T>(&self, write: Answer<'_, T>) -> Result<T, StorageError> {
        self.seek().await;
        let done = write.await;
        self.seek().await;
        done
    }
}

impl Storage for Mounted {
    fn get<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        key: &'a str,
    ) -> Answer<'a, Option<Vec<u8>>> {
        self.memory.get(store, owner, key)
    }

    fn map<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        // Reading takes a while too, after which what was read may be old.
        Box::pin(async move {
            let read = self.memory.map(store, owner).await;
            self.seek().await;
            read
        })
    }

    fn archive<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        page: Page,
    ) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.memory.archive(store, owner, page)
    }

    fn archive_count<'a>(&'a self, store: &'a str, owner: &'a str, page: Page) -> Answer<'a, u64> {
        self.memory.archive_count(store, owner, page)
    }

    fn archive_len<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, u64> {
        self.memory.archive_len(store, owner)
    }

    fn owners<'a>(
        &'a self,
        store: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Vec<String>> {
        self.memory.owners(store, after, max)
    }

    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        Box::pin(self.written(self.memory.commit_home(entries)))
    }

    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        Box::pin(self.written(self.memory.commit_part(entries, here)))
    }

    fn apply<'a>(
        &'a self,
        home: &'a str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Answer<'a, ()> {
        Box::pin(self.written(self.memory.apply(home, position, entries)))
    }

    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        self.memory.applied(home)
    }

    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        self.memory.positions()
    }

    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.memory.log_read(after, bytes_max)
    }

    fn log_head(&self) -> Answer<'_, u64> {
        self.memory.log_head()
    }

    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        Box::pin(self.written(self.memory.log_trim(upto)))
    }

    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        self.memory.rows(after, bytes_max)
    }

    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        self.memory.shelves(after, max)
    }

    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        Box::pin(self.written(self.memory.replace(replace)))
    }

    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.memory.outbox(node)
    }

    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        Box::pin(self.written(self.memory.outbox_write(node, put, remove)))
    }

    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        Box::pin(self.written(self.memory.outbox_move(from, to)))
    }

    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        self.memory.scribe()
    }

    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        Box::pin(self.written(self.memory.take_pen(former, term, node)))
    }

    fn beat(&self) -> Answer<'_, ()> {
        Box::pin(self.written(self.memory.beat()))
    }

    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.memory.meta(key)
    }

    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        Box::pin(self.written(self.memory.set_meta(key, value)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.memory.close()
    }
}
