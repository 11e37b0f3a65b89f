//! For the tests: a database in memory that may be away, or not come to an end with an outbox.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use replication::{Change, Entry};

use super::memory::Memory;
use super::{
    Answer, LogPage, Page, Place, Position, Renewal, Replace, Row, Scribe, Shelf, Storage,
    StorageError, Trouble,
};

/// A database that may be away.
#[derive(Default)]
pub(crate) struct Shaky {
    pub(crate) memory: Memory,
    pub(crate) is_away: AtomicBool,
    pub(crate) writes: AtomicU64,
    /// While somebody holds it, no write of an outbox ends.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// So many commits fail, and nothing else does.
    pub(crate) failing_commits: AtomicU64,
    /// The same for what other regions send.
    pub(crate) failing_applies: AtomicU64,
    /// While somebody holds it, nothing is applied.
    pub(crate) applying: tokio::sync::Mutex<()>,
    /// No change is to be begun, though one is done.
    pub(crate) is_refusing: AtomicBool,
}

fn gone() -> StorageError {
    let (name, cause) = ("shaky".to_owned(), "pulled".to_owned());
    StorageError::Unavailable { name, trouble: Trouble::Gone, cause }
}

fn pulled<'a, T: Send + 'a>() -> Answer<'a, T> {
    ready(Err(gone())).boxed()
}

/// Whether it is one of so many that fail.
fn fails(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl Shaky {
    pub(crate) fn go(&self, away: bool) {
        self.is_away.store(away, Ordering::SeqCst);
    }

    fn is_there<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        if self.is_away.load(Ordering::SeqCst) {
            return pulled();
        }
        answer
    }

    fn written<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.is_there(answer)
    }
}

impl Storage for Shaky {
    fn get<'a>(&'a self, s: &'a str, o: &'a str, k: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.is_there(self.memory.get(s, o, k))
    }
    fn map<'a>(&'a self, s: &'a str, o: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        self.is_there(self.memory.map(s, o))
    }
    fn archive<'a>(&'a self, s: &'a str, o: &'a str, p: Page) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.is_there(self.memory.archive(s, o, p))
    }
    fn archive_count<'a>(&'a self, s: &'a str, o: &'a str, p: Page) -> Answer<'a, u64> {
        self.is_there(self.memory.archive_count(s, o, p))
    }
    fn archive_len<'a>(&'a self, s: &'a str, o: &'a str) -> Answer<'a, u64> {
        self.is_there(self.memory.archive_len(s, o))
    }
    fn owners<'a>(&'a self, s: &'a str, a: Option<&'a str>, m: usize) -> Answer<'a, Vec<String>> {
        self.is_there(self.memory.owners(s, a, m))
    }
    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        if fails(&self.failing_commits) {
            return pulled();
        }
        self.written(self.memory.commit_home(entries))
    }
    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        self.written(self.memory.commit_part(entries, here))
    }
    fn apply<'a>(&'a self, home: &'a str, at: Position, entries: Vec<Entry>) -> Answer<'a, ()> {
        if fails(&self.failing_applies) {
            return pulled();
        }
        Box::pin(async move {
            let _goes = self.applying.lock().await;
            self.written(self.memory.apply(home, at, entries)).await
        })
    }
    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        self.is_there(self.memory.applied(home))
    }
    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.is_there(self.memory.log_read(after, bytes_max))
    }
    fn log_head(&self) -> Answer<'_, u64> {
        self.is_there(self.memory.log_head())
    }
    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        self.written(self.memory.log_trim(upto))
    }
    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        self.is_there(self.memory.rows(after, bytes_max))
    }
    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        self.is_there(self.memory.shelves(after, max))
    }
    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        self.written(self.memory.replace(replace))
    }
    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.is_there(self.memory.outbox(node))
    }
    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let _ends = self.writing.lock().await;
            self.written(self.memory.outbox_write(node, put, remove)).await
        })
    }
    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        self.is_there(self.memory.positions())
    }
    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        self.written(self.memory.outbox_move(from, to))
    }
    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        self.is_there(self.memory.scribe())
    }
    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        self.written(self.memory.take_pen(former, term, node))
    }
    fn beat(&self) -> Answer<'_, ()> {
        self.written(self.memory.beat())
    }
    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.is_there(self.memory.meta(key))
    }
    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        self.written(self.memory.set_meta(key, value))
    }
    fn refuses(&self, _: &str) -> Option<StorageError> {
        self.is_refusing.load(Ordering::SeqCst).then(gone)
    }
    fn renew<'a>(&'a self, storage: &'a config::Storage) -> Answer<'a, Renewal> {
        self.is_there(self.memory.renew(storage))
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
