//! The loader: single reads that are waiting at the same moment become one SELECT.
//!
//! Called by the backend's `get` and `map`. A query through the driver costs about as much as twenty rows of it, and a
//! login reads a handful of rows, so a storm of logins is paid by the row, not by the query: one task drains its queue,
//! asks once, hands out the answers, and what has queued up meanwhile is the next batch. Nothing waits for a timer: a
//! lone read goes at once. A caller that has gone away is no error, its answer is dropped.

use std::sync::{Arc, LazyLock};

use sqlx::{AssertSqlSafe, Row, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use crate::storage::StorageError;

/// Reads that may wait; further callers wait for a place, which is backpressure enough.
const QUEUE_MAX: usize = 4096;

/// Reads in one SELECT. Smaller batches take the next size up, padded with NULLs, which match nothing.
const SIZES: [usize; 4] = [1, 8, 32, 128];

static GETS: LazyLock<[Arc<str>; 4]> = LazyLock::new(|| {
    SIZES.map(|size| {
        Arc::from(format!(
            "WITH q (i, s, o, k) AS (VALUES {}) SELECT q.i, kv.value FROM q CROSS JOIN kv \
             ON kv.store = q.s AND kv.owner = q.o AND kv.key = q.k",
            numbered(size, ",?,?,?")
        ))
    })
});

static MAPS: LazyLock<[Arc<str>; 4]> = LazyLock::new(|| {
    SIZES.map(|size| {
        Arc::from(format!(
            "WITH q (i, s, o) AS (VALUES {}) SELECT q.i, kv.key, kv.value FROM q CROSS JOIN kv \
             ON kv.store = q.s AND kv.owner = q.o",
            numbered(size, ",?,?")
        ))
    })
});

fn numbered(size: usize, marks: &str) -> String {
    (0..size).map(|i| format!("({i}{marks})")).collect::<Vec<_>>().join(",")
}

type Values = Vec<(String, Vec<u8>)>;

/// One waiting read.
pub(super) enum Read {
    /// Store, owner, key.
    Get(String, String, String, oneshot::Sender<Result<Option<Vec<u8>>, StorageError>>),
    /// Store, owner.
    Map(String, String, oneshot::Sender<Result<Values, StorageError>>),
}

/// Starts the loader on this pool; it ends when the sender is gone.
pub(super) fn start(pool: SqlitePool) -> mpsc::Sender<Read> {
    let (sender, mut queue) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        let most = SIZES[SIZES.len() - 1];
        while queue.recv_many(&mut batch, most).await > 0 {
            let (mut gets, mut maps) = (Vec::new(), Vec::new());
            for read in batch.drain(..) {
                match read {
                    Read::Get(store, owner, key, answer) => {
                        gets.push(((store, owner, key), answer))
                    }
                    Read::Map(store, owner, answer) => maps.push(((store, owner), answer)),
                }
            }
            let (keys, answers) = gets.into_iter().unzip();
            answer(answers, get(&pool, keys).await);
            let (owners, answers) = maps.into_iter().unzip();
            answer(answers, map(&pool, owners).await);
        }
    });
    sender
}

/// Hands out what was found, or tells all of them why there is nothing.
fn answer<T>(
    callers: Vec<oneshot::Sender<Result<T, StorageError>>>,
    found: Result<Vec<T>, sqlx::Error>,
) {
    match found {
        Ok(found) => {
            for (caller, found) in callers.into_iter().zip(found) {
                drop(caller.send(Ok(found)));
            }
        }
        Err(error) => {
            let text = error.to_string();
            for caller in callers {
                drop(caller.send(Err(StorageError::Read(text.clone().into()))));
            }
        }
    }
}

fn size_for(reads: usize) -> usize {
    SIZES.iter().position(|size| *size >= reads).unwrap_or(SIZES.len() - 1)
}

async fn get(
    pool: &SqlitePool,
    keys: Vec<(String, String, String)>,
) -> Result<Vec<Option<Vec<u8>>>, sqlx::Error> {
    let mut found = vec![None; keys.len()];
    if keys.is_empty() {
        return Ok(found);
    }
    let place = size_for(keys.len());
    let padding = SIZES[place] - keys.len();
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&GETS[place])));
    for (store, owner, key) in keys {
        query = query.bind(store).bind(owner).bind(key);
    }
    for _ in 0..padding * 3 {
        query = query.bind(None::<i64>);
    }
    for row in query.fetch_all(pool).await? {
        let i: i64 = row.try_get(0)?;
        found[i as usize] = Some(row.try_get(1)?);
    }
    Ok(found)
}

async fn map(pool: &SqlitePool, owners: Vec<(String, String)>) -> Result<Vec<Values>, sqlx::Error> {
    let mut found = vec![Values::new(); owners.len()];
    if owners.is_empty() {
        return Ok(found);
    }
    let place = size_for(owners.len());
    let padding = SIZES[place] - owners.len();
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&MAPS[place])));
    for (store, owner) in owners {
        query = query.bind(store).bind(owner);
    }
    for _ in 0..padding * 2 {
        query = query.bind(None::<i64>);
    }
    for row in query.fetch_all(pool).await? {
        let i: i64 = row.try_get(0)?;
        found[i as usize].push((row.try_get(1)?, row.try_get(2)?));
    }
    // The index hands them out sorted; SQL promises it only with an ORDER BY, which would cost a sort of the whole batch.
    for values in &mut found {
        if !values.is_sorted_by(|a, b| a.0 <= b.0) {
            values.sort();
        }
    }
    Ok(found)
}
