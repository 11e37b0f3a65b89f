//! Taking up the pen and putting it down: what changes in this node when it becomes its region's scribe, and when it is superseded.
//!
//! The order matters in both. A new scribe first tells those here what its predecessor committed and did not live to feed, then takes requests. One
//! that is superseded takes none any more before anything else; what it was about to do has not happened, for the database has refused it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::former::Former;
use super::writer::{Job, Writer};
use super::{HomeError, Homes, META_LOG, META_WRITTEN, Pen, Shared, feed};
use crate::storage::{LogPage, Position, StorageError};

/// Bytes of the log that are read at once.
const PAGE_BYTES: usize = 1 << 20;

impl Homes {
    /// This node is the scribe of its region, in that term; `Storage::take_pen` has said so. After an error it is not yet, and may try again.
    ///
    /// # Errors
    /// What storage says; `Superseded`: it is over already.
    pub async fn take_up(&self, term: u64) -> Result<(), StorageError> {
        let shared = &self.shared;
        feed::unfollow(shared);
        let log = match read_log(shared).await? {
            Some(log) => log,
            None => {
                // Zero is nobody's, so that "no log yet" can be told apart.
                let log = shared.config.new_log.max(1);
                shared.storage.set_meta(META_LOG, log.to_be_bytes().to_vec()).await?;
                log
            }
        };
        shared.log.store(log, Ordering::Release);
        let head = shared.storage.log_head().await?;
        let former = Former::new(shared.storage.meta(META_WRITTEN).await?);
        shared.catch_up(Position { log, seq: head }).await?;
        shared.recent.lock().clear();
        shared.copies.begin(head);
        shared.head.set(head);
        let (jobs, queue) = mpsc::channel(shared.config.queue_max);
        *shared.jobs.lock() = Some(jobs);
        let writer = Writer::new(shared, head, former);
        *shared.writer.lock() = Some(tokio::spawn(writer.run(queue)));
        shared.pen.take(term);
        self.metadata_changed();
        Ok(())
    }

    /// Another node is the scribe now.
    pub fn put_down(&self) {
        self.shared.put_down();
    }

    /// Whether this node writes, and what it has asked for.
    pub fn pen(&self) -> &Pen {
        &self.shared.pen
    }

    /// The term in which this node writes; None: it is not the scribe.
    pub fn term(&self) -> Option<u64> {
        self.shared.pen.term()
    }

    /// Waits until this node becomes the scribe, or is it no longer.
    pub async fn until_term_changes(&self) {
        let before = self.shared.pen.term();
        self.shared.metadata.until(|_| self.shared.pen.term() != before).await;
    }

    /// Whether the region has other nodes. Until then nothing is kept for them.
    pub fn has_company(&self, has: bool) {
        self.shared.feed.has_company(has);
    }

    /// That node is our region's scribe, and can be reached: it is asked to feed us. Calling it again is harmless.
    pub fn follow_scribe(&self, node: &str) {
        if !self.shared.pen.is_held() {
            feed::follow(&self.shared, node);
        }
        self.shared.metadata.change(|version| *version += 1);
    }

    /// Another region has another scribe: who waits for an answer of the former asks again.
    pub fn scribes_changed(&self) {
        self.shared.metadata.change(|version| *version += 1);
    }

    /// What another node of our region sent by its [`super::FeedSink`]. Does not block.
    pub fn fed(&self, from: &str, bytes: impl AsRef<[u8]>) {
        feed::heard(&self.shared, from, bytes.as_ref());
    }

    /// The way to a node of our region has room again.
    pub fn room_at(&self, node: &str) {
        self.shared.feed.room(node);
    }
}

async fn read_log(shared: &Shared) -> Result<Option<u64>, StorageError> {
    let Some(bytes) = shared.storage.meta(META_LOG).await? else { return Ok(None) };
    let bytes = bytes.try_into();
    bytes
        .map(u64::from_be_bytes)
        .map(Some)
        .map_err(|_| StorageError::Damaged("the log's name".into()))
}

impl Shared {
    /// What the database holds of each log when this node starts: everything here is read after that.
    pub(super) async fn see(&self, own: &str) -> Result<(), StorageError> {
        let positions = self.storage.positions().await?;
        let mut seen: BTreeMap<String, Position> = positions.into_iter().collect();
        if let Some(log) = read_log(self).await? {
            self.log.store(log, Ordering::Release);
            seen.insert(own.to_owned(), Position { log, seq: self.storage.log_head().await? });
        }
        for (region, position) in &seen {
            self.followed(region).set(*position);
        }
        self.feed.begin(seen);
        Ok(())
    }

    /// Tells those here what is in our log and was not fed to us.
    async fn catch_up(&self, head: Position) -> Result<(), StorageError> {
        let own = self.config.region.to_string();
        let mut at = match self.feed.seen().get(&own) {
            Some(seen) => *seen,
            None => {
                // It begins with us.
                let begin = Position { seq: 0, ..head };
                self.feed.jumps(&own, begin);
                begin
            }
        };
        while at.log == head.log && at.seq < head.seq {
            match self.storage.log_read(at.seq, PAGE_BYTES).await? {
                LogPage::Entries(entries) => {
                    let Some(last) = entries.last() else { break };
                    at.seq = last.seq;
                    self.learn(&own, at, &entries);
                }
                LogPage::Trimmed => break,
            }
        }
        if at != head {
            feed::everything(self).await;
            self.feed.jumps(&own, head);
            self.followed(&own).set(head);
        }
        Ok(())
    }

    /// Gives the writer something to do.
    pub(super) fn give(&self, job: Job) -> Result<(), HomeError> {
        match self.jobs.lock().as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(HomeError::Busy),
            None => Err(HomeError::NotHome { epoch: 0 }),
        }
    }

    /// See [`Homes::put_down`]. Also called by the tasks that find it out; it ends them.
    pub(super) fn put_down(&self) {
        let Some(term) = self.pen.term() else { return };
        self.pen.put_down();
        tracing::warn!(term, "another node of the region writes its database now");
        // What waits there is told that nobody answers when the writer is dropped.
        drop(self.jobs.lock().take());
        for (_, peer) in self.peers.lock().drain() {
            peer.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        }
        self.feed.stop();
        self.copies.settle(&*self.map);
        self.metadata.change(|version| *version += 1);
    }
}
