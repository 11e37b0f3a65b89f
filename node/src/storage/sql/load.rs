//! The loader: single reads that are waiting at the same moment become one SELECT, as SQLite's loader does it.
//!
//! A way to the server and back costs as much as many rows, and a login reads a handful of rows. What waits goes at once if a connection is
//! free for it; while all are busy more gathers. A caller that has gone away is no error, its answer is dropped.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::driver::{BulkRead, Column, Driver};
use super::{Inner, name};
use crate::storage::StorageError;

/// Reads that may wait; further callers wait for a place, which is backpressure enough.
const QUEUE_MAX: usize = 4096;
/// Reads in one SELECT.
const BATCH_MAX: usize = 256;

type Values = Vec<(String, Vec<u8>)>;
type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

/// One waiting read.
pub(super) enum Read {
    /// Store, owner, key.
    Get(String, String, String, Reply<Option<Vec<u8>>>),
    /// Store, owner.
    Map(String, String, Reply<Values>),
}

/// Starts the loader; it ends when the sender is gone. As many SELECTs at once as the connections in use have places for.
pub(super) fn start<D: Driver>(inner: Arc<Inner<D>>) -> mpsc::Sender<Read> {
    let (sender, mut queue) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        // First the place, then what has gathered meanwhile.
        loop {
            // Of the connections in use by now, which are not held for that.
            let places = inner.link().loads.clone();
            let Ok(place) = places.acquire_owned().await else { return };
            if queue.recv_many(&mut batch, BATCH_MAX).await == 0 {
                return;
            }
            let (inner, batch) = (inner.clone(), std::mem::take(&mut batch));
            tokio::spawn(async move {
                load(&inner, batch).await;
                drop(place);
            });
        }
    });
    sender
}

async fn load<D: Driver>(inner: &Inner<D>, batch: Vec<Read>) {
    let (mut gets, mut maps) = (Vec::new(), Vec::new());
    for read in batch {
        match read {
            Read::Get(store, owner, key, reply) => gets.push(((store, owner, key), reply)),
            Read::Map(store, owner, reply) => maps.push(((store, owner), reply)),
        }
    }
    let (keys, replies): (Vec<_>, Vec<_>) = gets.into_iter().unzip();
    reply(replies, values(inner, &keys).await);
    let (owners, replies): (Vec<_>, Vec<_>) = maps.into_iter().unzip();
    reply(replies, all(inner, &owners).await);
}

/// Hands out what was found, or tells all of them why there is nothing.
fn reply<T>(callers: Vec<Reply<T>>, found: Result<Vec<T>, StorageError>) {
    match found {
        Ok(found) => {
            for (caller, found) in callers.into_iter().zip(found) {
                drop(caller.send(Ok(found)));
            }
        }
        Err(error) => {
            for caller in callers {
                drop(caller.send(Err(error.again())));
            }
        }
    }
}

async fn values<D: Driver>(
    inner: &Inner<D>,
    keys: &[(String, String, String)],
) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
    let mut found = vec![None; keys.len()];
    if keys.is_empty() {
        return Ok(found);
    }
    let names: Vec<_> = keys.iter().map(|(_, _, key)| name::indexed(key)).collect();
    let columns = [
        Column::Texts(keys.iter().map(|(store, ..)| &**store).collect()),
        Column::Texts(keys.iter().map(|(_, owner, _)| &**owner).collect()),
        Column::Bytes(names.iter().map(|name| &**name).collect()),
    ];
    for (of, cells) in inner.bulk_read(BulkRead::Values, &columns).await? {
        found[of] = cells.into_iter().next();
    }
    Ok(found)
}

async fn all<D: Driver>(
    inner: &Inner<D>,
    owners: &[(String, String)],
) -> Result<Vec<Values>, StorageError> {
    let mut found = vec![Values::new(); owners.len()];
    if owners.is_empty() {
        return Ok(found);
    }
    let columns = [
        Column::Texts(owners.iter().map(|(store, _)| &**store).collect()),
        Column::Texts(owners.iter().map(|(_, owner)| &**owner).collect()),
    ];
    for (of, cells) in inner.bulk_read(BulkRead::Maps, &columns).await? {
        let mut cells = cells.into_iter();
        if let (Some(name), Some(value)) = (cells.next(), cells.next()) {
            let key = name::key(name).map_err(super::failed_read)?;
            found[of].push((key, value));
        }
    }
    for values in &mut found {
        values.sort();
    }
    Ok(found)
}
