//! Writes to outboxes that are waiting at the same moment become one transaction.
//!
//! When a home answers slowly every account with something on its way has it written down, each for itself; hundreds of transactions, each
//! with a disk to wait for, would stand in the way of the very commit that is slow. One is under way at a time, and what comes meanwhile is the next. A
//! caller that has gone away is no error, what it wanted is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::Inner;
use super::driver::Driver;
use super::write::{Signed, Write};
use crate::storage::StorageError;

/// Writes that may wait; further callers wait for a place.
const QUEUE_MAX: usize = 1024;
/// Writes in one transaction.
const BATCH_MAX: usize = 256;

/// One waiting write.
pub(super) struct Outgoing {
    pub(super) node: String,
    pub(super) put: Vec<(u64, Vec<u8>)>,
    pub(super) remove: Vec<u64>,
    pub(super) reply: oneshot::Sender<Result<(), StorageError>>,
}

/// Starts it; it ends when the sender is gone.
pub(super) fn start<D: Driver>(inner: Arc<Inner<D>>) -> mpsc::Sender<Outgoing> {
    let (sender, mut queue) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            // What counts is what was said last of each.
            let mut lines = BTreeMap::new();
            let mut replies = Vec::with_capacity(batch.len());
            for Outgoing { node, put, remove, reply } in batch.drain(..) {
                for (place, line) in put {
                    lines.insert((node.clone(), place), Some(line));
                }
                for place in remove {
                    lines.insert((node.clone(), place), None);
                }
                replies.push(reply);
            }
            // An outbox is its node's alone, whoever has the pen.
            let done = inner.write(&Signed { pen: 0, write: Write::Outbox(lines) }).await;
            for reply in replies {
                drop(reply.send(done.as_ref().copied().map_err(StorageError::again)));
            }
        }
    });
    sender
}
