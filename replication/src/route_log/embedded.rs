//! The route log inside one process: the engine behind a mutex, and a watch on its head.
//!
//! For regions without Redis. The session table appends with [`Embedded::append_now`] while it holds its own lock, so
//! that rows and log change in one step; links tail. Clones share the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::engine::{Log, Tail};
use super::{RouteLog, RouteLogError};

/// A shared in-process route log.
#[derive(Debug, Clone)]
pub struct Embedded {
    log: Arc<Mutex<Log<Bytes>>>,
    head: watch::Sender<u64>,
}

impl Embedded {
    /// An empty log that keeps at most `length_max` entries.
    pub fn new(length_max: usize) -> Embedded {
        Embedded { log: Arc::new(Mutex::new(Log::new(length_max))), head: watch::Sender::new(0) }
    }

    /// Appends one entry, answers its number. Never waits for a reader.
    pub fn append_now(&self, entry: Bytes) -> u64 {
        let mut log = self.lock();
        let head = log.append(entry);
        // Under the lock, so that the watch never goes back.
        self.head.send_replace(head);
        head
    }

    /// See [`RouteLog::tail`].
    pub fn tail_now(&self, cursor: u64, max: usize) -> Tail<Bytes> {
        self.lock().tail(cursor, max)
    }

    /// See [`RouteLog::head`].
    pub fn head_now(&self) -> u64 {
        *self.head.borrow()
    }

    /// Told of every new head.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Log<Bytes>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteLog for Embedded {
    fn append(&self, entries: Vec<Bytes>) -> BoxFuture<'_, Result<u64, RouteLogError>> {
        let mut log = self.lock();
        for entry in entries {
            log.append(entry);
        }
        let head = log.head();
        self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        drop(log);
        Box::pin(std::future::ready(Ok(head)))
    }

    fn tail(&self, cursor: u64, max: usize) -> BoxFuture<'_, Result<Tail<Bytes>, RouteLogError>> {
        Box::pin(std::future::ready(Ok(self.tail_now(cursor, max))))
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, RouteLogError>> {
        Box::pin(std::future::ready(Ok(self.head_now())))
    }

    fn wait_past(&self, cursor: u64) -> BoxFuture<'_, Result<(), RouteLogError>> {
        let mut head = self.watch();
        Box::pin(async move {
            // An error would mean that the sender is gone, and `self` holds it.
            let _ = head.wait_for(|head| *head > cursor).await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite;
    use super::*;

    #[tokio::test]
    async fn the_embedded_log_passes_the_suite() {
        suite::run(|length_max| Arc::new(Embedded::new(length_max))).await;
    }
}
