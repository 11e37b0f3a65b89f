//! Storage in one SQLite file: the embedded default. Called through [`Storage`], opened by `app`.
//!
//! Write-ahead log; one connection writes (SQLite allows no more), a few read, memory mapped. `open.rs` says how it is opened, `load.rs` gathers single
//! reads, `write.rs` gathers rows, `scan.rs` pages for snapshots, `schema.rs` holds the tables, `trouble.rs` what errors mean. All SQL is static. A limit is written `+?`: of
//! a plain `?` SQLite looks at the number, and plans the statement anew each time another is bound, which costs more than the rows.

mod load;
mod open;
mod scan;
mod schema;
mod trouble;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use replication::{Change, Entry};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row as _, Sqlite as Driver, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use super::paging::{Paging, SLICE};
use super::{
    Answer, LogPage, Page, Place, Position, Renewal, Replace, Row, Scribe, Shelf, Storage,
    StorageError, changes, check_order, from_sql, to_sql,
};
use load::Read;
pub use open::SqliteConfig;
pub(crate) use trouble::{failed_read, failed_write};

/// An open file. Belongs to one tokio runtime.
#[derive(Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    loader: mpsc::Sender<Read>,
    path: PathBuf,
    /// The term in which this handle writes; 0: it has never taken the pen.
    pen: AtomicU64,
}

/// Whether somebody who took the pen in that term may write. In the transaction of the write.
async fn may_write(conn: &mut SqliteConnection, pen: u64) -> Result<(), StorageError> {
    if pen == 0 {
        return Ok(());
    }
    let row = sqlx::query("SELECT term FROM scribe WHERE one = 1").fetch_one(conn).await;
    let term = row.and_then(|row| row.try_get::<i64, _>(0)).map_err(failed_write)?;
    if term as u64 == pen { Ok(()) } else { Err(StorageError::Superseded) }
}

impl Sqlite {
    /// The writing connection, for bulk work before the server runs (genesis).
    pub(crate) async fn writer(&self) -> Result<PoolConnection<Driver>, StorageError> {
        self.writer.acquire().await.map_err(failed_write)
    }

    /// Writes map rows (store, owner, key, value) in one transaction, outside of any log: how a database begins.
    pub(crate) async fn fill(
        &self,
        rows: impl Iterator<Item = (String, String, String, Vec<u8>)>,
    ) -> Result<u64, StorageError> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed_write)?;
        let rows: Vec<_> = rows.collect();
        let mut inserts = rows
            .iter()
            .map(|(store, owner, key, value)| write::Insert::Value(store, owner, key, value))
            .collect();
        write::insert(&mut tx, &mut inserts).await.map_err(failed_write)?;
        tx.commit().await.map_err(failed_write)?;
        Ok(rows.len() as u64)
    }

    async fn load<T>(
        &self,
        read: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> Read,
    ) -> Result<T, StorageError> {
        let (sender, answer) = oneshot::channel();
        self.loader.send(read(sender)).await.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    fn pen(&self) -> u64 {
        self.pen.load(Ordering::Acquire)
    }

    /// `here`: only these of the changes.
    async fn commit(
        &self,
        pen: u64,
        entries: Vec<Entry>,
        here: Option<Vec<Change>>,
    ) -> Result<(), StorageError> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed_write)?;
        may_write(&mut tx, pen).await?;
        let head = sqlx::query("SELECT COALESCE(MAX(seq), 0) FROM durable_log")
            .fetch_one(&mut *tx)
            .await
            .and_then(|row| row.try_get::<i64, _>(0))
            .map_err(failed_write)?;
        check_order(head as u64, &entries)?;
        match &here {
            None => write::change(&mut tx, changes(&entries)).await,
            Some(here) => write::change(&mut tx, here.iter()).await,
        }
        .map_err(failed_write)?;
        let mut log = entries
            .iter()
            .map(|e| write::Insert::Log(e.seq, e.shard, e.epoch, e.encode()))
            .collect();
        write::insert(&mut tx, &mut log).await.map_err(failed_write)?;
        tx.commit().await.map_err(failed_write)
    }

    async fn apply_entries(
        &self,
        pen: u64,
        home: &str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Result<(), StorageError> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed_write)?;
        may_write(&mut tx, pen).await?;
        write::change(&mut tx, changes(&entries)).await.map_err(failed_write)?;
        sqlx::query("INSERT OR REPLACE INTO applied (region, log, seq) VALUES (?, ?, ?)")
            .bind(home)
            .bind(position.log as i64)
            .bind(position.seq as i64)
            .execute(&mut *tx)
            .await
            .map_err(failed_write)?;
        tx.commit().await.map_err(failed_write)
    }

    /// One statement of whoever has the pen.
    async fn run(
        &self,
        pen: u64,
        query: sqlx::query::Query<'_, Driver, sqlx::sqlite::SqliteArguments>,
    ) -> Result<(), StorageError> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed_write)?;
        may_write(&mut tx, pen).await?;
        query.execute(&mut *tx).await.map_err(failed_write)?;
        tx.commit().await.map_err(failed_write)
    }

    async fn become_scribe(
        &self,
        former: u64,
        term: u64,
        node: &str,
    ) -> Result<bool, StorageError> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed_write)?;
        const TAKE: &str =
            "UPDATE scribe SET term = ?, node = ?, beat = 0 WHERE one = 1 AND term = ?";
        let query = sqlx::query(TAKE).bind(term as i64).bind(node).bind(former as i64);
        let taken = query.execute(&mut *tx).await.map_err(failed_write)?.rows_affected() == 1;
        tx.commit().await.map_err(failed_write)?;
        if taken {
            self.pen.store(term, Ordering::Release);
        }
        Ok(taken)
    }

    async fn read_log(&self, after: u64, bytes_max: usize) -> Result<LogPage, StorageError> {
        const SQL: &str = "SELECT seq, entry FROM durable_log WHERE seq > ? ORDER BY seq LIMIT +?";
        let mut paging = Paging::new(after, bytes_max);
        loop {
            let query = sqlx::query(SQL).bind(paging.last() as i64).bind(SLICE as i64);
            let rows = query.fetch_all(&self.readers).await.map_err(failed_read)?;
            for row in &rows {
                let seq: i64 = row.try_get(0).map_err(failed_read)?;
                if !paging.take(seq, row.try_get(1).map_err(failed_read)?)? {
                    return Ok(paging.end());
                }
            }
            if rows.len() < SLICE {
                return Ok(paging.end());
            }
        }
    }
}

impl Storage for Sqlite {
    fn get<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        key: &'a str,
    ) -> Answer<'a, Option<Vec<u8>>> {
        self.load(|answer| Read::Get(store.to_owned(), owner.to_owned(), key.to_owned(), answer))
            .boxed()
    }

    fn map<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        self.load(|answer| Read::Map(store.to_owned(), owner.to_owned(), answer)).boxed()
    }

    fn archive<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        page: Page,
    ) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        const OLDEST: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND id >= ? AND id <= ? ORDER BY id LIMIT +?";
        const NEWEST: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND id >= ? AND id <= ? ORDER BY id DESC LIMIT +?";
        const OLDEST_MARKED: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND substr(value, 1, 8) = ? AND id >= ? AND id <= ? ORDER BY id LIMIT +?";
        const NEWEST_MARKED: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND substr(value, 1, 8) = ? AND id >= ? AND id <= ? ORDER BY id DESC LIMIT +?";
        async move {
            let (Some(from), Some(to)) = (
                page.after.map_or(Some(0), |after| after.checked_add(1)),
                page.before.map_or(Some(u64::MAX), |before| before.checked_sub(1)),
            ) else {
                return Ok(Vec::new());
            };
            let query = match (page.newest, page.mark) {
                (false, None) => sqlx::query(OLDEST).bind(store).bind(owner),
                (true, None) => sqlx::query(NEWEST).bind(store).bind(owner),
                (false, Some(mark)) => {
                    sqlx::query(OLDEST_MARKED).bind(store).bind(owner).bind(mark.to_vec())
                }
                (true, Some(mark)) => {
                    sqlx::query(NEWEST_MARKED).bind(store).bind(owner).bind(mark.to_vec())
                }
            };
            let rows = query
                .bind(to_sql(from))
                .bind(to_sql(to))
                .bind(i64::try_from(page.max).unwrap_or(i64::MAX))
                .fetch_all(&self.readers)
                .await
                .map_err(failed_read)?;
            let item = |row: SqliteRow| Ok((from_sql(row.try_get(0)?), row.try_get(1)?));
            let found: Result<Vec<_>, sqlx::Error> = rows.into_iter().map(item).collect();
            let mut found = found.map_err(failed_read)?;
            if page.newest {
                found.reverse();
            }
            Ok(found)
        }
        .boxed()
    }

    fn archive_count<'a>(&'a self, store: &'a str, owner: &'a str, page: Page) -> Answer<'a, u64> {
        const ALL: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM archive WHERE store = ? AND owner = ? \
             AND id >= ? AND id <= ? LIMIT +?)";
        const MARKED: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM archive WHERE store = ? AND owner = ? \
             AND substr(value, 1, 8) = ? AND id >= ? AND id <= ? LIMIT +?)";
        async move {
            let (Some(from), Some(to)) = (
                page.after.map_or(Some(0), |after| after.checked_add(1)),
                page.before.map_or(Some(u64::MAX), |before| before.checked_sub(1)),
            ) else {
                return Ok(0);
            };
            let query = match page.mark {
                None => sqlx::query(ALL).bind(store).bind(owner),
                Some(mark) => sqlx::query(MARKED).bind(store).bind(owner).bind(mark.to_vec()),
            };
            query
                .bind(to_sql(from))
                .bind(to_sql(to))
                .bind(i64::try_from(page.max).unwrap_or(i64::MAX))
                .fetch_one(&self.readers)
                .await
                .and_then(|row| row.try_get::<i64, _>(0))
                .map(|count| count as u64)
                .map_err(failed_read)
        }
        .boxed()
    }

    fn archive_len<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, u64> {
        async move {
            sqlx::query("SELECT COUNT(*) FROM archive WHERE store = ? AND owner = ?")
                .bind(store)
                .bind(owner)
                .fetch_one(&self.readers)
                .await
                .and_then(|row| row.try_get::<i64, _>(0))
                .map(|count| count as u64)
                .map_err(failed_read)
        }
        .boxed()
    }

    fn owners<'a>(
        &'a self,
        store: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Vec<String>> {
        async move {
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            let query = match after {
                None => sqlx::query(
                    "SELECT DISTINCT owner FROM kv WHERE store = ? ORDER BY owner LIMIT +?",
                )
                .bind(store),
                Some(after) => sqlx::query(
                    "SELECT DISTINCT owner FROM kv WHERE store = ? AND owner > ? ORDER BY owner LIMIT +?",
                )
                .bind(store)
                .bind(after),
            };
            let rows = query.bind(max).fetch_all(&self.readers).await.map_err(failed_read)?;
            rows.into_iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed_read)
        }
        .boxed()
    }

    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        self.commit(self.pen(), entries, None).boxed()
    }

    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        self.commit(self.pen(), entries, Some(here)).boxed()
    }

    fn apply<'a>(
        &'a self,
        home: &'a str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Answer<'a, ()> {
        self.apply_entries(self.pen(), home, position, entries).boxed()
    }

    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        async move {
            let row = sqlx::query("SELECT log, seq FROM applied WHERE region = ?")
                .bind(home)
                .fetch_optional(&self.readers)
                .await
                .map_err(failed_read)?;
            let position = |row: SqliteRow| {
                let log = row.try_get::<i64, _>(0)? as u64;
                Ok(Position { log, seq: row.try_get::<i64, _>(1)? as u64 })
            };
            row.map(position).transpose().map_err(failed_read)
        }
        .boxed()
    }

    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        async move {
            let rows = sqlx::query("SELECT region, log, seq FROM applied ORDER BY region")
                .fetch_all(&self.readers)
                .await
                .map_err(failed_read)?;
            let one = |row: SqliteRow| {
                let log = row.try_get::<i64, _>(1)? as u64;
                let seq = row.try_get::<i64, _>(2)? as u64;
                Ok((row.try_get(0)?, Position { log, seq }))
            };
            rows.into_iter().map(one).collect::<Result<_, _>>().map_err(failed_read)
        }
        .boxed()
    }

    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.read_log(after, bytes_max).boxed()
    }

    fn log_head(&self) -> Answer<'_, u64> {
        async move {
            sqlx::query("SELECT COALESCE(MAX(seq), 0) FROM durable_log")
                .fetch_one(&self.readers)
                .await
                .and_then(|row| row.try_get::<i64, _>(0))
                .map(|head| head as u64)
                .map_err(failed_read)
        }
        .boxed()
    }

    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        const TRIM: &str =
            "DELETE FROM durable_log WHERE seq <= ? AND seq < (SELECT MAX(seq) FROM durable_log)";
        let upto = i64::try_from(upto).unwrap_or(i64::MAX);
        self.run(self.pen(), sqlx::query(TRIM).bind(upto)).boxed()
    }

    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        scan::rows(&self.readers, after, bytes_max).map(|r| r.map_err(failed_read)).boxed()
    }

    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        scan::shelves(&self.readers, after, max).map(|r| r.map_err(failed_read)).boxed()
    }

    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        scan::replace(&self.writer, self.pen(), replace).boxed()
    }

    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        async move {
            let rows = sqlx::query("SELECT place, row FROM outbox WHERE node = ? ORDER BY place")
                .bind(node)
                .fetch_all(&self.readers)
                .await
                .map_err(failed_read)?;
            let row = |row: SqliteRow| Ok((from_sql(row.try_get(0)?), row.try_get(1)?));
            rows.into_iter().map(row).collect::<Result<_, _>>().map_err(failed_read)
        }
        .boxed()
    }

    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        async move { write::outbox(&self.writer, node, put, remove).await.map_err(failed_write) }
            .boxed()
    }

    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        const MOVE: &str = "UPDATE OR REPLACE outbox SET node = ? WHERE node = ?";
        self.run(self.pen(), sqlx::query(MOVE).bind(to).bind(from)).boxed()
    }

    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        async move {
            let row = sqlx::query("SELECT term, node, beat FROM scribe WHERE one = 1")
                .fetch_one(&self.readers)
                .await
                .map_err(failed_read)?;
            let scribe = || {
                let (term, beat) = (row.try_get::<i64, _>(0)? as u64, row.try_get::<i64, _>(2)?);
                Ok(Scribe { term, node: row.try_get(1)?, beat: beat as u64 })
            };
            let scribe = scribe().map_err(failed_read)?;
            Ok(Some(scribe).filter(|scribe| scribe.term > 0))
        }
        .boxed()
    }

    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        self.become_scribe(former, term, node).boxed()
    }

    fn beat(&self) -> Answer<'_, ()> {
        self.run(self.pen(), sqlx::query("UPDATE scribe SET beat = beat + 1 WHERE one = 1")).boxed()
    }

    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        async move {
            let row = sqlx::query("SELECT value FROM meta WHERE key = ?")
                .bind(key)
                .fetch_optional(&self.readers)
                .await
                .map_err(failed_read)?;
            row.map(|row| row.try_get(0)).transpose().map_err(failed_read)
        }
        .boxed()
    }

    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        const SET: &str = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)";
        self.run(self.pen(), sqlx::query(SET).bind(key).bind(value)).boxed()
    }

    fn renew<'a>(&'a self, storage: &'a config::Storage) -> Answer<'a, Renewal> {
        async move {
            match &storage.database {
                config::Database::Sqlite(file) if *file == self.path => {
                    Ok(Box::new(|| {}) as Renewal)
                }
                other => Err(StorageError::NotTheSame {
                    name: other.to_string(),
                    used: self.path.display().to_string(),
                    why: "a file stays the one it is while the node runs".to_owned(),
                }),
            }
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.readers.close().await;
            self.writer.close().await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_opened_again_has_what_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        let config = SqliteConfig::new(dir.path().join("a.sqlite"));
        let storage = Sqlite::open(config.clone()).await.unwrap();
        storage.set_meta("log", vec![7]).await.unwrap();
        storage.close().await;
        let storage = Sqlite::open(config).await.unwrap();
        assert_eq!(storage.meta("log").await.unwrap(), Some(vec![7]));
    }
}
