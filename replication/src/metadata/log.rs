//! The Raft log on disk: redb, every write synced before Raft hears of it.
//!
//! Called by openraft only. One file, two tables: `log` (index → entry) and `meta` (vote, purged, committed, identity).
//! Vote, append and truncation are durable when they return; the purge marker and the deletion are one transaction.
//! `committed` is durable too, so that a node restarted alone, cut off from all others, still knows the last state.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::raft::{Entry, LogId, Types, Vote, blocking, decode, encode};
use crate::error::Error;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";
const IDENTITY: &str = "identity";

/// How much redb may keep in memory; the whole log is far smaller.
const CACHE_BYTES: usize = 4 << 20;

/// The log store, also its own reader. Clones share the database.
#[derive(Debug, Clone)]
pub(super) struct LogStore {
    db: Arc<Database>,
}

impl LogStore {
    /// Opens or makes the file. `identity` (cluster and Raft id) is written once and must match ever after. A file still
    /// held by a former life of this process is waited for, two seconds at most.
    pub(super) async fn open(path: &Path, identity: &str) -> Result<LogStore, Error> {
        let open_error = |source| Error::Open { path: path.to_owned(), source };
        let mut tries = 40;
        let db = loop {
            let file = path.to_owned();
            let opened = tokio::task::spawn_blocking(move || {
                Database::builder().set_cache_size(CACHE_BYTES).create(file)
            })
            .await;
            match opened.map_err(|error| open_error(io::Error::other(error)))? {
                Ok(db) => break db,
                Err(redb::DatabaseError::DatabaseAlreadyOpen) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(open_error(io::Error::other(error))),
            }
        };
        let store = LogStore { db: Arc::new(db) };
        let wanted = identity.to_owned();
        let found = store
            .write(move |txn| {
                txn.open_table(LOG).map_err(io::Error::other)?;
                let mut meta = txn.open_table(META).map_err(io::Error::other)?;
                let known = meta
                    .get(IDENTITY)
                    .map_err(io::Error::other)?
                    .map(|value| value.value().to_vec());
                if known.is_none() {
                    meta.insert(IDENTITY, wanted.as_bytes()).map_err(io::Error::other)?;
                }
                Ok(known)
            })
            .await
            .map_err(open_error)?;
        match found {
            Some(found) if found != identity.as_bytes() => Err(Error::Identity {
                path: path.to_owned(),
                found: String::from_utf8_lossy(&found).into_owned(),
                wanted: identity.to_owned(),
            }),
            _ => Ok(store),
        }
    }

    /// One transaction, committed and synced, on a blocking thread. redb lets one writer in at a time.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let db = self.db.clone();
        blocking(move || {
            let txn = db.begin_write().map_err(io::Error::other)?;
            let result = work(&txn)?;
            txn.commit().map_err(io::Error::other)?;
            Ok(result)
        })
        .await
    }

    async fn put<T: Serialize>(&self, key: &'static str, value: &T) -> io::Result<()> {
        let bytes = encode(value)?;
        self.write(move |txn| {
            let mut meta = txn.open_table(META).map_err(io::Error::other)?;
            meta.insert(key, bytes.as_slice()).map_err(io::Error::other)?;
            Ok(())
        })
        .await
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> io::Result<Option<T>> {
        let txn = self.db.begin_read().map_err(io::Error::other)?;
        let meta = txn.open_table(META).map_err(io::Error::other)?;
        let value = meta.get(key).map_err(io::Error::other)?;
        value.map(|value| decode(value.value())).transpose()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let txn = self.db.begin_read().map_err(io::Error::other)?;
        let log = txn.open_table(LOG).map_err(io::Error::other)?;
        let mut entries = Vec::new();
        for item in log.range(range).map_err(io::Error::other)? {
            let (_, value) = item.map_err(io::Error::other)?;
            entries.push(decode(value.value())?);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.meta(VOTE)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let last_purged_log_id: Option<LogId> = self.meta(PURGED)?;
        let txn = self.db.begin_read().map_err(io::Error::other)?;
        let log = txn.open_table(LOG).map_err(io::Error::other)?;
        let last: Option<Entry> = match log.last().map_err(io::Error::other)? {
            Some((_, value)) => Some(decode(value.value())?),
            None => None,
        };
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.put(VOTE, vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(committed) => self.put(COMMITTED, &committed).await,
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.meta(COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded = entries
            .into_iter()
            .map(|entry| Ok((entry.log_id.index, encode(&entry)?)))
            .collect::<io::Result<Vec<_>>>()?;
        let result = self
            .write(move |txn| {
                let mut log = txn.open_table(LOG).map_err(io::Error::other)?;
                for (index, bytes) in &encoded {
                    log.insert(index, bytes.as_slice()).map_err(io::Error::other)?;
                }
                Ok(())
            })
            .await;
        match result {
            Ok(()) => {
                callback.io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.io_completed(Err(io::Error::new(error.kind(), error.to_string())));
                Err(error)
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |log_id| log_id.index + 1);
        self.write(move |txn| {
            let mut log = txn.open_table(LOG).map_err(io::Error::other)?;
            log.retain_in(from.., |_, _| false).map_err(io::Error::other)
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let marker = encode(&log_id)?;
        self.write(move |txn| {
            let mut meta = txn.open_table(META).map_err(io::Error::other)?;
            meta.insert(PURGED, marker.as_slice()).map_err(io::Error::other)?;
            let mut log = txn.open_table(LOG).map_err(io::Error::other)?;
            let upto = (Bound::Unbounded, Bound::Included(log_id.index));
            log.retain_in::<u64, _>(upto, |_, _| false).map_err(io::Error::other)
        })
        .await
    }
}
