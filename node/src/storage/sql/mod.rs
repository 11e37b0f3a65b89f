//! Storage on a database server: what PostgreSQL and MySQL have in common. Called through [`Storage`]; `postgres` and `mysql` open it.
//!
//! A server can be away, slow, read-only or full. Reads are tried again for as long as a read may take; writes for `retry`, with growing
//! pauses and some chance in them, and then refused ([`StorageError::Unavailable`]). A home's commit of which nobody knows whether it happened (the
//! connection broke after COMMIT was sent) is not given up before that is known: the log goes on from it. Two bounded pools, so that a storm of
//! reads never makes commits wait.
//! * `driver` what the servers differ in · `link` the connections in use · `lent` a connection for one piece of work
//! * `write` the transactions · `effect` changes as few statements · `name` long keys
//! * `renew` other connections to the same database, while it is used
//! * `page` pages of the log and of archives · `load` single reads gathered · `gather` outboxes' writes · `scan` pages for snapshots
//!
//! Deliberately absent: one database for a part of the accounts: `storage::partitioned` puts that in front of several of these.

pub(super) mod driver;
mod effect;
mod gather;
mod lent;
mod link;
mod load;
mod name;
mod page;
mod renew;
mod scan;
mod trouble;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use replication::{Change, Entry};
use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, LogPage, Page, Place, Position, Renewal, Replace, Row, Scribe, Shelf, Storage,
    StorageError, Trouble,
};
use driver::{BulkRead, Column, Driver, Found, RowOf, Value};
use gather::Outgoing;
use lent::Lent;
use link::Link;
use load::Read;
use page::{numbered, of_page};
use trouble::{Health, Tries};
use write::{Failed, Reached, Signed, Write};

/// How a server is used.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// `postgres://…` or `mysql://…`.
    pub url: String,
    /// The same without secrets, for messages.
    pub name: String,
    /// Connections, all together; a third of them write.
    pub connections: u32,
    /// How long a read may take, a transaction, and the making of a connection.
    pub timeout: Duration,
    /// How long a write is tried again before it is refused.
    pub retry: Duration,
    /// Commits wait for the disk. PostgreSQL only; others do as they are configured.
    pub sync: bool,
}

impl ServerConfig {
    /// Of a database of the configuration.
    pub fn of(storage: &config::Storage, url: &config::DatabaseUrl) -> ServerConfig {
        ServerConfig {
            url: url.expose().to_owned(),
            name: url.to_string(),
            connections: storage.connections,
            timeout: storage.timeout,
            retry: storage.retry,
            sync: storage.sync == config::Sync::Full,
        }
    }
}

/// A database of a server. Belongs to one tokio runtime.
pub(super) struct Server<D: Driver> {
    inner: Arc<Inner<D>>,
    loader: mpsc::Sender<Read>,
    outgoing: mpsc::Sender<Outgoing>,
    /// The term in which this handle writes; 0: it has never taken the pen.
    pen: AtomicU64,
}

struct Inner<D: Driver> {
    link: RwLock<Arc<Link<D>>>,
    known: Mutex<renew::Known>,
    reading: Health,
    writing: Health,
}

impl<D: Driver> Server<D> {
    /// Of a database that has its tables.
    pub(super) fn new(config: &ServerConfig, options: Options<D>) -> Server<D> {
        let inner = Arc::new(Inner {
            link: RwLock::new(Arc::new(Link::new(config, options))),
            known: Mutex::default(),
            reading: Health::new(config.name.clone(), "reading"),
            writing: Health::new(config.name.clone(), "writing"),
        });
        let loader = load::start(inner.clone());
        let outgoing = gather::start(inner.clone());
        Server { inner, loader, outgoing, pen: AtomicU64::new(0) }
    }

    async fn load<T>(
        &self,
        read: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> Read,
    ) -> Result<T, StorageError> {
        let (sender, answer) = oneshot::channel();
        self.loader.send(read(sender)).await.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    /// On a task of its own: it comes to an end also if nobody waits for it.
    async fn write(&self, write: Signed) -> Result<(), StorageError> {
        let inner = self.inner.clone();
        let done = tokio::spawn(async move { inner.write(&write).await }).await;
        done.map_err(|_| StorageError::Closed)?
    }

    /// With the pen as it is now.
    fn signed(&self, write: Write) -> Signed {
        Signed { pen: self.pen.load(Ordering::Acquire), write }
    }

    /// The one number that a statement answers.
    async fn number(&self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StorageError> {
        let rows = self.inner.read(sql, values).await?;
        let number = rows.first().map_or(Ok(0), |row| D::int(row, 0));
        number.map(|number| number as u64).map_err(failed_read)
    }
}

/// How a driver connects.
pub(super) type Options<D> =
    <<<D as Driver>::Db as sqlx::Database>::Connection as sqlx::Connection>::Options;

/// What became of one attempt.
enum Turn<T> {
    /// It was successful.
    Done(T),
    /// It may be, another time.
    Failed(Trouble, String),
    /// It was not made: somebody else is finding out how the server is.
    Another,
}

impl<D: Driver> Inner<D> {
    async fn read(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<RowOf<D>>, StorageError> {
        let mut tries = Tries::new(self.link().timeout);
        loop {
            let link = self.link();
            let read = async { link.reader().await?.read(sql, values).await };
            match self.turn(&self.reading, &link, read, failed_read).await? {
                Turn::Done(rows) => return Ok(rows),
                turn => pause(&self.reading, &mut tries, turn).await?,
            }
        }
    }

    async fn bulk_read(
        &self,
        bulk: BulkRead,
        columns: &[Column<'_>],
    ) -> Result<Vec<Found>, StorageError> {
        let mut tries = Tries::new(self.link().timeout);
        loop {
            let link = self.link();
            let read = async { link.reader().await?.bulk_read(bulk, columns).await };
            match self.turn(&self.reading, &link, read, failed_read).await? {
                Turn::Done(found) => return Ok(found),
                turn => pause(&self.reading, &mut tries, turn).await?,
            }
        }
    }

    async fn write(&self, write: &Signed) -> Result<(), StorageError> {
        let mut tries = Tries::new(self.link().retry);
        let mut reached = Reached::Nothing;
        loop {
            let link = self.link();
            let attempt = async {
                let mut lent = Lent::<D>::of(&link.writers, link.timeout).await?;
                write.attempt(&mut lent, &mut reached).await
            };
            let turn = self.turn(&self.writing, &link, attempt, failed_write).await;
            let is_in_doubt = reached == Reached::Commit && write.write.must_be_known();
            if self.is_written(turn, is_in_doubt, &mut tries).await? {
                self.known.lock().written(&write.write);
                return Ok(());
            }
        }
    }

    /// What an attempt has come to. False: the next one is due, after a pause; an error: there is none. While it is in doubt whether an earlier one
    /// was successful there is always a next one: what a server says that lets nobody in, or does not find its tables, is no answer to that.
    async fn is_written(
        &self,
        turn: Result<Turn<()>, StorageError>,
        is_in_doubt: bool,
        tries: &mut Tries,
    ) -> Result<bool, StorageError> {
        let turn = match turn {
            Err(StorageError::Write(cause)) if is_in_doubt => {
                Turn::Failed(Trouble::Refuses, cause.to_string())
            }
            turn => turn?,
        };
        if matches!(turn, Turn::Done(())) {
            return Ok(true);
        }
        if is_in_doubt {
            tries.go_on();
        }
        pause(&self.writing, tries, turn).await?;
        Ok(false)
    }

    /// The connections in use at this moment.
    fn link(&self) -> Arc<Link<D>> {
        self.link.read().clone()
    }

    /// One attempt, if it is its turn.
    async fn turn<T>(
        &self,
        health: &Health,
        link: &Link<D>,
        attempt: impl Future<Output = Result<T, Failed>>,
        never: fn(sqlx::Error) -> StorageError,
    ) -> Result<Turn<T>, StorageError> {
        if !health.may_try(link.timeout) {
            return Ok(Turn::Another);
        }
        match attempt.await {
            Ok(done) => {
                health.well();
                Ok(Turn::Done(done))
            }
            Err(Failed::Storage(error)) => {
                // The server is well enough to say so.
                health.well();
                Err(error)
            }
            Err(Failed::Slow) => {
                Ok(Turn::Failed(Trouble::Slow, format!("no answer in {:?}", link.timeout)))
            }
            Err(Failed::Sql(sqlx::Error::PoolClosed)) => Err(StorageError::Closed),
            Err(Failed::Sql(error)) => match D::trouble(&error) {
                Some(trouble) => Ok(Turn::Failed(trouble, error.to_string())),
                None => Err(never(error)),
            },
        }
    }
}

/// Before the next attempt; an error: there is none.
async fn pause<T>(health: &Health, tries: &mut Tries, turn: Turn<T>) -> Result<(), StorageError> {
    let pause = match turn {
        Turn::Done(_) => return Ok(()),
        Turn::Failed(trouble, cause) => health.failed(tries, trouble, cause)?,
        Turn::Another => health.wait(tries)?,
    };
    tokio::time::sleep(pause).await;
    Ok(())
}

/// A row of a region and how far its log has been applied.
fn positioned<D: Driver>(row: &RowOf<D>) -> Result<(String, Position), StorageError> {
    let row = || {
        let (log, seq) = (D::int(row, 1)? as u64, D::int(row, 2)? as u64);
        Ok((D::text(row, 0)?, Position { log, seq }))
    };
    row().map_err(failed_read)
}

fn failed_read(cause: sqlx::Error) -> StorageError {
    StorageError::Read(cause.into())
}

fn failed_write(cause: sqlx::Error) -> StorageError {
    StorageError::Write(cause.into())
}

impl<D: Driver> Storage for Server<D> {
    fn get<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        key: &'a str,
    ) -> Answer<'a, Option<Vec<u8>>> {
        self.load(|reply| Read::Get(store.to_owned(), owner.to_owned(), key.to_owned(), reply))
            .boxed()
    }

    fn map<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        self.load(|reply| Read::Map(store.to_owned(), owner.to_owned(), reply)).boxed()
    }

    fn archive<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        page: Page,
    ) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.inner.archive(store, owner, page).boxed()
    }

    fn archive_count<'a>(&'a self, store: &'a str, owner: &'a str, page: Page) -> Answer<'a, u64> {
        const ALL: &str = "SELECT COUNT(*) FROM (SELECT id FROM archive WHERE store = ? AND owner = ? \
             AND id >= ? AND id <= ? LIMIT ?) AS page";
        const MARKED: &str = "SELECT COUNT(*) FROM (SELECT id FROM archive WHERE store = ? AND owner = ? \
             AND mark = ? AND id >= ? AND id <= ? LIMIT ?) AS page";
        async move {
            let Some(values) = of_page(store, owner, &page) else { return Ok(0) };
            self.number(if page.mark.is_some() { MARKED } else { ALL }, &values).await
        }
        .boxed()
    }

    fn archive_len<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, u64> {
        const SQL: &str = "SELECT COUNT(*) FROM archive WHERE store = ? AND owner = ?";
        async move { self.number(SQL, &[Value::Text(store), Value::Text(owner)]).await }.boxed()
    }

    fn owners<'a>(
        &'a self,
        store: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Vec<String>> {
        const SQL: &str = "SELECT DISTINCT owner FROM kv WHERE store = ? AND owner > ? \
             ORDER BY owner LIMIT ?";
        async move {
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            // No owner is "".
            let after = Value::Text(after.unwrap_or_default());
            let rows = self.inner.read(SQL, &[Value::Text(store), after, Value::Int(max)]).await?;
            rows.iter().map(|row| D::text(row, 0).map_err(failed_read)).collect()
        }
        .boxed()
    }

    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        self.write(self.signed(Write::home(entries, None))).boxed()
    }

    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        self.write(self.signed(Write::home(entries, Some(here)))).boxed()
    }

    fn apply<'a>(
        &'a self,
        home: &'a str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Answer<'a, ()> {
        let write = Write::Apply { home: home.to_owned(), position, entries };
        self.write(self.signed(write)).boxed()
    }

    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        const SQL: &str = "SELECT region, log, seq FROM applied WHERE region = ?";
        async move {
            let rows = self.inner.read(SQL, &[Value::Text(home)]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let (_, position) = positioned::<D>(row)?;
            self.inner.known.lock().applied(home, position);
            Ok(Some(position))
        }
        .boxed()
    }

    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        const SQL: &str = "SELECT region, log, seq FROM applied ORDER BY region";
        async move {
            let rows = self.inner.read(SQL, &[]).await?;
            let positions = rows.iter().map(positioned::<D>).collect::<Result<Vec<_>, _>>()?;
            let mut known = self.inner.known.lock();
            positions.iter().for_each(|(region, position)| known.applied(region, *position));
            drop(known);
            Ok(positions)
        }
        .boxed()
    }

    fn heard(&self, home: Option<&str>, position: Position, _entries: &[Entry]) {
        let mut known = self.inner.known.lock();
        match home {
            Some(home) => known.applied(home, position),
            None => known.head(position.seq),
        }
    }

    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.inner.read_log(after, bytes_max).boxed()
    }

    fn log_head(&self) -> Answer<'_, u64> {
        async move {
            let head = self.number("SELECT seq FROM log_head WHERE one = 1", &[]).await?;
            self.inner.known.lock().head(head);
            Ok(head)
        }
        .boxed()
    }

    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        self.write(self.signed(Write::Trim(upto))).boxed()
    }

    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        async move { scan::rows(&self.inner, after, bytes_max).await }.boxed()
    }

    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        async move { scan::shelves(&self.inner, after, max).await }.boxed()
    }

    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        let pen = self.pen.load(Ordering::Acquire);
        async move {
            let (gone, rows, empty) = scan::replaced(&self.inner, replace).await?;
            self.write(Signed { pen, write: Write::Replace { gone, rows } }).await?;
            Ok(empty)
        }
        .boxed()
    }

    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        const SQL: &str = "SELECT place, line FROM outbox WHERE node = ? ORDER BY place";
        async move {
            let rows = self.inner.read(SQL, &[Value::Text(node)]).await?;
            rows.iter().map(numbered::<D>).collect()
        }
        .boxed()
    }

    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        async move {
            let (reply, answer) = oneshot::channel();
            let outgoing = Outgoing { node: node.to_owned(), put, remove, reply };
            self.outgoing.send(outgoing).await.map_err(|_| StorageError::Closed)?;
            answer.await.map_err(|_| StorageError::Closed)?
        }
        .boxed()
    }

    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        let write = Write::MoveOutbox { from: from.to_owned(), to: to.to_owned() };
        self.write(self.signed(write)).boxed()
    }

    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        const SQL: &str = "SELECT s.term, s.node, b.beat FROM scribe s, beats b";
        async move {
            let rows = self.inner.read(SQL, &[]).await?;
            let scribe = |row| {
                let (term, beat) = (D::int(row, 0)? as u64, D::int(row, 2)? as u64);
                Ok(Scribe { term, node: D::text(row, 1)?, beat })
            };
            let found = rows.first().map(scribe).transpose().map_err(failed_read)?;
            if let Some(scribe) = &found {
                self.inner.known.lock().scribe(scribe.term, scribe.beat);
            }
            Ok(found.filter(|scribe| scribe.term > 0))
        }
        .boxed()
    }

    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        async move {
            let write = Write::TakePen { former, term, node: node.to_owned() };
            match self.write(Signed { pen: 0, write }).await {
                Ok(()) => {
                    self.pen.store(term, Ordering::Release);
                    Ok(true)
                }
                Err(StorageError::Superseded) => Ok(false),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn beat(&self) -> Answer<'_, ()> {
        self.write(self.signed(Write::Beat)).boxed()
    }

    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        const SQL: &str = "SELECT value FROM meta WHERE name = ?";
        async move {
            let rows = self.inner.read(SQL, &[Value::Text(key)]).await?;
            let value =
                rows.first().map_or(Ok(None), |row| D::bytes(row, 0)).map_err(failed_read)?;
            if let Some(value) = &value {
                self.inner.known.lock().fact(key, value);
            }
            Ok(value)
        }
        .boxed()
    }

    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        self.write(self.signed(Write::Meta { name: key.to_owned(), value })).boxed()
    }

    fn renew<'a>(&'a self, storage: &'a config::Storage) -> Answer<'a, Renewal> {
        renew::renew(&self.inner, storage).boxed()
    }

    fn is_well(&self, _owner: &str) -> bool {
        self.inner.reading.is_well()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let link = self.inner.link();
            link.readers.close().await;
            link.writers.close().await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
