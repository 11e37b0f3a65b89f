//! The loader: single reads that are waiting at the same moment become one SELECT, whichever kind they are of.
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

/// Reads of either kind in one SELECT. Fewer take the next size up, padded with NULLs, which match nothing.
const SIZES: [usize; 4] = [1, 8, 32, 128];

/// By the sizes of both parts. A row without a key is a value that was asked for by its key.
static SELECTS: LazyLock<[[Arc<str>; 4]; 4]> =
    LazyLock::new(|| SIZES.map(|gets| SIZES.map(|maps| select(gets, maps))));

fn select(gets: usize, maps: usize) -> Arc<str> {
    let (gets, maps) = (numbered(gets, ",?,?,?"), numbered(maps, ",?,?"));
    Arc::from(format!(
        "WITH g (i, s, o, k) AS (VALUES {gets}), m (i, s, o) AS (VALUES {maps}) \
         SELECT g.i, NULL, kv.value FROM g CROSS JOIN kv \
         ON kv.store = g.s AND kv.owner = g.o AND kv.key = g.k \
         UNION ALL SELECT m.i, kv.key, kv.value FROM m CROSS JOIN kv \
         ON kv.store = m.s AND kv.owner = m.o"
    ))
}

fn numbered(size: usize, marks: &str) -> String {
    (0..size).map(|i| format!("({i}{marks})")).collect::<Vec<_>>().join(",")
}

type Values = Vec<(String, Vec<u8>)>;
type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

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
            let (keys, callers) = gets.into_iter().unzip();
            let (owners, map_callers) = maps.into_iter().unzip();
            match read(&pool, keys, owners).await {
                Ok((values, maps)) => {
                    answer(callers, values);
                    answer(map_callers, maps);
                }
                Err(error) => {
                    let text = error.to_string();
                    refuse(callers, &text);
                    refuse(map_callers, &text);
                }
            }
        }
    });
    sender
}

type Callers<T> = Vec<oneshot::Sender<Result<T, StorageError>>>;

/// Hands out what was found.
fn answer<T>(callers: Callers<T>, found: Vec<T>) {
    for (caller, found) in callers.into_iter().zip(found) {
        drop(caller.send(Ok(found)));
    }
}

/// Tells all of them why there is nothing.
fn refuse<T>(callers: Callers<T>, why: &str) {
    for caller in callers {
        drop(caller.send(Err(StorageError::Read(why.to_owned().into()))));
    }
}

fn size_for(reads: usize) -> usize {
    SIZES.iter().position(|size| *size >= reads).unwrap_or(SIZES.len() - 1)
}

/// Values by their keys, and all of a store's by their owners, each in the order asked for.
async fn read(
    pool: &SqlitePool,
    keys: Vec<(String, String, String)>,
    owners: Vec<(String, String)>,
) -> Result<(Vec<Option<Vec<u8>>>, Vec<Values>), sqlx::Error> {
    let (mut values, mut maps) = (vec![None; keys.len()], vec![Values::new(); owners.len()]);
    let (gets, all) = (size_for(keys.len()), size_for(owners.len()));
    let padding =
        |query, places| (0..places).fold(query, |query: Query<'_>, _| query.bind(None::<i64>));
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&SELECTS[gets][all])));
    let missing = 3 * (SIZES[gets] - keys.len());
    for (store, owner, key) in keys {
        query = query.bind(store).bind(owner).bind(key);
    }
    query = padding(query, missing);
    let missing = 2 * (SIZES[all] - owners.len());
    for (store, owner) in owners {
        query = query.bind(store).bind(owner);
    }
    query = padding(query, missing);
    for row in query.fetch_all(pool).await? {
        let i = row.try_get::<i64, _>(0)? as usize;
        match row.try_get::<Option<String>, _>(1)? {
            None => values[i] = Some(row.try_get(2)?),
            Some(key) => maps[i].push((key, row.try_get(2)?)),
        }
    }
    // The index hands them out sorted; SQL promises it only with an ORDER BY, which would cost a sort of the whole batch.
    for values in &mut maps {
        if !values.is_sorted_by(|a, b| a.0 <= b.0) {
            values.sort();
        }
    }
    Ok((values, maps))
}
