//! The sending end of our durable log: one task for each region that follows it.
//!
//! Woken by commits and by what the replica says. What was just committed is sent from memory; older entries are read
//! from storage; what was trimmed away is made good by a whole copy. How much and how far is the pure
//! `replication::durable_log::Shipper`'s decision.
//!
//! A whole copy is read while commits go on, so it may hold some later changes already; the log is then sent from the
//! position at which the copy began. Changes say what is there afterwards, not what to add, so doing them again over
//! a later state ends at the same state. Until it has caught up such a replica is no prefix.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use replication::durable_log::Shipper;
use replication::{Entry, shard_of};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::wire::Ship;
use super::{META_GENESIS, Shared, Way};
use crate::storage::{LogPage, Position, StorageError, row_bytes};

/// Bytes of committed entries kept in memory for those who follow closely.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// Messages of a whole copy that may be on the way.
const COPY_WINDOW: u64 = 16;

/// The newest entries of our log, dense.
#[derive(Default)]
pub(super) struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Recent {
    /// Another life of the log's end begins.
    pub(super) fn clear(&mut self) {
        *self = Recent::default();
    }

    /// More is committed.
    pub(super) fn extend(&mut self, entries: Vec<Entry>) {
        self.bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        self.entries.extend(entries);
        while self.bytes > RECENT_BYTES_MAX {
            match self.entries.pop_front() {
                Some(entry) => self.bytes -= entry.bytes(),
                None => break,
            }
        }
    }

    /// Entries after `after`, about so many bytes; None if the first of them is not here.
    fn after(&self, after: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.seq;
        let skip = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.iter().skip(skip) {
            bytes += entry.bytes();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        (!found.is_empty()).then_some(found)
    }
}

/// After storage failed.
const RETRY: Duration = Duration::from_secs(1);

/// What one peer's copies stand at, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub region: String,
    /// How much of its log is applied here.
    pub applied: Position,
    /// How much of our log it has acknowledged; None: it has not asked for it.
    pub acknowledged: Option<u64>,
    /// The newest entry of our log.
    pub head: u64,
}

impl PeerStatus {
    /// How many entries of our log it has not said to have; None: it has not asked for it.
    pub fn behind(&self) -> Option<u64> {
        self.acknowledged.map(|has| self.head.saturating_sub(has))
    }
}

/// What a replica says when it asks for our log.
#[derive(Clone)]
pub(super) struct From {
    pub(super) position: Option<Position>,
    pub(super) genesis: Option<Vec<u8>>,
    pub(super) shards: Vec<(u8, u64)>,
}

/// What the replica has said last. Newer words replace older ones, so it needs no queue.
#[derive(Default)]
struct Said {
    from: Option<From>,
    acked: Option<Position>,
    acknowledged: Option<u64>,
    /// Which copy, and the last of its messages that is written.
    copied: (u64, u64),
}

/// The task's inbox.
#[derive(Clone, Default)]
pub(super) struct Inbox {
    said: Arc<Mutex<Said>>,
    wake: Arc<Notify>,
}

impl Inbox {
    pub(super) fn from(&self, from: From) {
        self.said.lock().from = Some(from);
        self.wake.notify_one();
    }

    pub(super) fn acked(&self, position: Position) {
        self.said.lock().acked = Some(position);
        self.wake.notify_one();
    }

    pub(super) fn copied(&self, copy: u64, number: u64) {
        self.said.lock().copied = (copy, number);
        self.wake.notify_one();
    }

    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.said.lock().acknowledged
    }
}

/// Starts the task for a region. It ends when it is aborted.
pub(super) fn start(way: Way) -> (Inbox, JoinHandle<()>) {
    let inbox = Inbox::default();
    let shared = Arc::clone(&way.shared);
    let task = Task { shared, way, inbox: inbox.clone(), shipper: None };
    (inbox, tokio::spawn(task.run()))
}

struct Task {
    shared: Arc<Shared>,
    way: Way,
    inbox: Inbox,
    /// None until the replica has asked.
    shipper: Option<Shipper>,
}

impl Task {
    async fn run(mut self) {
        let head = self.shared.head.clone();
        loop {
            let newest = head.get();
            match self.step(newest).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, region = self.way.region, "the durable log was not read");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            tokio::select! {
                biased; // either way the next step looks at both
                () = self.inbox.wake.notified() => {}
                () = head.until(|head| *head != newest) => {}
            }
        }
    }

    /// Does one thing; false when there is nothing to do.
    async fn step(&mut self, head: u64) -> Result<bool, StorageError> {
        let (from, acked) = {
            let mut said = self.inbox.said.lock();
            (said.from.take(), said.acked.take())
        };
        if let Some(from) = from {
            let begun = self.begin(from.clone(), head).await;
            if begun.is_err() {
                self.inbox.said.lock().from.get_or_insert(from);
            }
            return begun.map(|()| true);
        }
        let Some(shipper) = &mut self.shipper else { return Ok(false) };
        if let Some(acked) = acked.filter(|acked| acked.log == self.shared.log()) {
            shipper.acked(acked.seq);
            self.inbox.said.lock().acknowledged = Some(shipper.position());
        }
        let Some((after, bytes_max)) = shipper.wants(head) else { return Ok(false) };
        let recent = self.shared.recent.lock().after(after, bytes_max);
        let page = match recent {
            Some(entries) => LogPage::Entries(entries),
            None => self.shared.storage.log_read(after, bytes_max).await?,
        };
        let LogPage::Entries(mut entries) = page else {
            self.copy_all().await?;
            return Ok(true);
        };
        let count = self.shipper.as_mut().map_or(0, |shipper| shipper.take(&entries));
        if count == 0 {
            return Ok(false);
        }
        entries.truncate(count);
        for entry in &mut entries {
            // A region that may not hold the data still gets the number, so that its copy of the log is dense.
            let owner = entry.changes.first().map(|change| change.owner());
            if owner.is_some_and(|owner| !self.shared.map.replicates(owner, &self.way.region)) {
                entry.changes.clear();
            }
        }
        let batch = Ship::Batch { log: self.shared.log(), entries };
        self.way.send(&batch).await;
        Ok(true)
    }

    /// The replica has said where it stands.
    async fn begin(&mut self, from: From, head: u64) -> Result<(), StorageError> {
        let ours = self.shared.storage.meta(META_GENESIS).await?;
        let seq = match from.position {
            Some(at) if at.log == self.shared.log() && at.seq <= head => Some(at.seq),
            // It begins with what we began with.
            None if from.genesis == ours => Some(0),
            // It followed another life of our log, or more of it than we have kept.
            _ => None,
        };
        let Some(seq) = seq else { return self.copy_all().await };
        self.shipper = None;
        // Metadata may have told the replica before us. What we are not yet the home of we have no copy to give of: the replica would take
        // an empty one for the truth. It asks again.
        let ready = |(shard, epoch): (u8, u64)| {
            let place = self.shared.map.shard(shard);
            (place.local && place.epoch >= epoch).then_some(shard)
        };
        let shards: Vec<u8> = from.shards.into_iter().filter_map(ready).collect();
        if !shards.is_empty() && !self.copy(shards, None).await? {
            return Ok(());
        }
        self.shipper = Some(Shipper::new(seq, self.shared.config.ship));
        self.inbox.said.lock().acknowledged = Some(seq);
        Ok(())
    }

    /// A whole copy of everything homed here; the log goes on from where it began.
    async fn copy_all(&mut self) -> Result<(), StorageError> {
        self.shipper = None;
        let seq = self.shared.head.get();
        let position = Position { log: self.shared.log(), seq };
        let homed = (0..=255).filter(|shard| self.shared.map.shard(*shard).local).collect();
        if self.copy(homed, Some(position)).await? {
            self.shipper = Some(Shipper::new(seq, self.shared.config.ship));
        }
        Ok(())
    }

    /// Sends the rows of these shards. False if the replica has begun anew meanwhile.
    async fn copy(
        &mut self,
        shards: Vec<u8>,
        position: Option<Position>,
    ) -> Result<bool, StorageError> {
        tracing::info!(region = self.way.region, shards = shards.len(), "sending a whole copy");
        let bytes_max = self.shared.config.ship.batch_bytes_max;
        let everything = position.is_some();
        let copy = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let mut wanted = [false; 256];
        shards.iter().for_each(|shard| wanted[usize::from(*shard)] = true);
        let pins = if everything { self.shared.map.pins() } else { BTreeSet::new() };
        let begin = match everything {
            true => Ship::SnapshotOfAll { copy, shards, pins: pins.clone() },
            false => Ship::SnapshotBegin { copy, shards },
        };
        self.way.send(&begin).await;
        let (mut after, mut number) = (None, 0);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        loop {
            let page = self.shared.storage.rows(after.take(), bytes_max).await?;
            let to = page.last().map(|(place, _)| place.clone());
            for row in page {
                let owner = row.0.owner();
                let is_wanted = match self.shared.map.is_apart(owner) {
                    true => everything,
                    false => wanted[usize::from(shard_of(owner))] || pins.contains(owner),
                };
                if is_wanted
                    && self.shared.is_home(owner)
                    && self.shared.map.replicates(owner, &self.way.region)
                {
                    bytes += row_bytes(&row);
                    rows.push(row);
                }
            }
            if bytes >= bytes_max || to.is_none() {
                (number, bytes) = (number + 1, 0);
                let rows = std::mem::take(&mut rows);
                let message = Ship::SnapshotRows { copy, number, to: to.clone(), rows };
                self.way.send(&message).await;
                if !self.copied(copy, number.saturating_sub(COPY_WINDOW)).await {
                    return Ok(false);
                }
            }
            if to.is_none() {
                break;
            }
            after = to;
        }
        self.way.send(&Ship::SnapshotEnd { copy, position }).await;
        Ok(true)
    }

    /// Waits until the replica has written so many messages of a copy. False if it has begun anew.
    async fn copied(&self, copy: u64, number: u64) -> bool {
        loop {
            {
                let said = self.inbox.said.lock();
                if said.from.is_some() {
                    return false;
                }
                if number == 0 || (said.copied.0 == copy && said.copied.1 >= number) {
                    return true;
                }
            }
            self.inbox.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use replication::Hlc;

    use super::*;

    #[test]
    fn recent_entries_are_found_by_their_place() {
        let entry = |seq| Entry { seq, shard: 0, epoch: 1, at: Hlc::ZERO, changes: vec![] };
        let mut recent = Recent::default();
        assert_eq!(recent.after(0, 1000), None);
        recent.extend((5..9).map(entry).collect());
        assert_eq!(recent.after(3, 1000), None);
        let seqs = |found: Option<Vec<Entry>>| {
            found.map(|found| found.into_iter().map(|entry| entry.seq).collect::<Vec<_>>())
        };
        assert_eq!(seqs(recent.after(4, 1000)), Some(vec![5, 6, 7, 8]));
        assert_eq!(seqs(recent.after(6, 1)), Some(vec![7]));
        assert_eq!(recent.after(8, 1000), None);
    }
}
