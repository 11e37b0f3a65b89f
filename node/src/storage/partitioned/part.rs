//! One partition: how far it has followed the log, what waits for it, and the task that brings it there.
//!
//! What is committed to the log is in the main database; here it is applied, with the position as one transaction. While all is well it comes
//! from memory, right after the commit; after a restart, or when the partition was away, it is read from the log. Changes of other regions' logs
//! that come while it is away wait in the main database (the *spool*: an outbox under the partition's own name), and are applied after the log's.
//! Nothing of it is read before it has all of that.
//!
//! One node of the region does all this, the one that has the pen; before anything else it writes its term into the partition, so that its predecessor
//! writes no more there. The other nodes read, and know from what they are told ([`Part::heard`]) what must be there first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use replication::Entry;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use crate::storage::{LogPage, Position, Storage, StorageError, Trouble};

/// The region under whose name a partition keeps its position in the log of its own.
pub(super) const OWN: &str = "~log";
/// Bytes of entries that wait in memory; beyond, they are read from the log.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Bytes read from the log at once.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of other regions' changes that wait for one partition; beyond, those regions wait.
const SPOOL_BYTES_MAX: usize = 64 << 20;
/// Places in the spool of one term.
const TERM_SHIFT: u32 = 20;
const NOT_YET: &str = "it has not followed the log yet";
/// Before one that is away is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a position is written down that only other partitions' changes have moved.
const TICK: Duration = Duration::from_secs(1);

/// See the room.
pub(super) struct Part {
    /// From 1.
    pub(super) number: u8,
    /// Without secrets.
    pub(super) name: String,
    pub(super) storage: Arc<dyn Storage>,
    /// It has heard of our term, and said where it is.
    is_taken: AtomicBool,
    /// The newest entry of the log with something for it.
    needed: AtomicU64,
    /// Everything up to there has been applied.
    done: AtomicU64,
    /// The position it has written down.
    stored: AtomicU64,
    is_away: AtomicBool,
    /// A commit has not seen it follow in time.
    is_late: AtomicBool,
    why: Mutex<String>,
    line: Mutex<Line>,
    /// Held by whoever applies something of our log, or writes down how far that is.
    own: tokio::sync::Mutex<()>,
    /// Held by whoever applies something of another region's.
    spool: tokio::sync::Mutex<Spool>,
    spooled: AtomicBool,
    /// By a node that does not write: what must be there before it is read, by log.
    heard: Mutex<BTreeMap<String, Position>>,
    has_heard: AtomicBool,
    /// Something has come.
    wake: Notify,
    /// Something has been done.
    moved: Notify,
}

/// What has been committed and waits.
#[derive(Default)]
struct Line {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// It is read from the log; nothing is kept here.
    from_log: bool,
}

#[derive(Default)]
struct Spool {
    /// How far the partition has followed other regions; read when first needed.
    positions: HashMap<String, Position>,
    next: u64,
    bytes: usize,
}

/// One row of the spool.
#[derive(Serialize, Deserialize)]
struct Kept {
    home: String,
    position: Position,
    entries: Vec<Entry>,
}

impl Part {
    pub(super) fn new(number: u8, name: String, storage: Arc<dyn Storage>) -> Part {
        Part {
            number,
            name,
            storage,
            is_taken: AtomicBool::new(false),
            needed: AtomicU64::new(0),
            done: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            why: Mutex::default(),
            line: Mutex::new(Line { from_log: true, ..Line::default() }),
            own: tokio::sync::Mutex::default(),
            spool: tokio::sync::Mutex::default(),
            spooled: AtomicBool::new(false),
            heard: Mutex::default(),
            has_heard: AtomicBool::new(false),
            wake: Notify::new(),
            moved: Notify::new(),
        }
    }

    /// This node writes from now on: nothing is known of it, all that the log has may be needed.
    pub(super) async fn reset(&self, shared: &Shared, head: u64) -> Result<(), StorageError> {
        let _own = self.own.lock().await;
        let mut spool = self.spool.lock().await;
        let waiting = shared.main.outbox(&self.outbox()).await?;
        // Numbers of this term: whoever wrote before and does not know that it is over cannot meet them.
        let last = waiting.last().map_or(0, |(order, _)| order + 1);
        let next = last.max(shared.term.load(Ordering::Acquire) << TERM_SHIFT);
        let bytes = waiting.iter().map(|(_, row)| row.len()).sum();
        *spool = Spool { positions: HashMap::new(), next, bytes };
        self.spooled.store(!waiting.is_empty(), Ordering::Release);
        self.line.lock().fall_back();
        self.is_taken.store(false, Ordering::Release);
        self.is_away.store(false, Ordering::Release);
        self.is_late.store(false, Ordering::Release);
        self.stored.store(0, Ordering::Release);
        self.done.store(0, Ordering::Release);
        self.needed.store(head, Ordering::Release);
        Ok(())
    }

    /// Nobody but this node writes there from here on.
    pub(super) async fn fence(&self, shared: &Shared) -> Result<(), StorageError> {
        let term = shared.term.load(Ordering::Acquire);
        let node = shared.node.lock().clone();
        // Without a pen nobody asks for one.
        let mut is_ours = term == 0;
        while !is_ours {
            let former = self.storage.scribe().await?.map_or(0, |scribe| scribe.term);
            if former > term {
                return Err(StorageError::Superseded);
            }
            is_ours = self.storage.take_pen(former, term, &node).await?;
        }
        Ok(())
    }

    /// The same, and it has said what it is and where.
    async fn take(&self, shared: &Shared) -> Result<(), StorageError> {
        let main = shared.moves.lock().main.clone();
        self.check(shared.view().map.identity, &main).await?;
        self.fence(shared).await?;
        // What waits in memory may not be what comes next there.
        self.line.lock().fall_back();
        self.spool.lock().await.positions.clear();
        let identity = shared.view().map.identity;
        let position = self.storage.applied(OWN).await?.filter(|at| at.log == identity);
        let seq = position.map_or(0, |at| at.seq);
        self.stored.store(seq, Ordering::Release);
        self.done.store(seq, Ordering::Release);
        self.is_taken.store(true, Ordering::Release);
        Ok(())
    }

    /// It has other connections: it says anew what it is and where, and follows the log from there. Nothing is read before it has.
    pub(super) fn renewed(&self) {
        self.is_taken.store(false, Ordering::Release);
        self.wake.notify_one();
    }

    /// By a node that does not write: entries of that log are there, or will be, up to this.
    pub(super) fn heard(&self, log: &str, position: Position) {
        self.heard.lock().insert(log.to_owned(), position);
        self.has_heard.store(true, Ordering::Release);
    }

    /// Waits until what was heard of is there.
    pub(super) async fn has_heard_of(&self, patience: Duration) -> Result<(), StorageError> {
        const LOOK: Duration = Duration::from_millis(50);
        let until = Instant::now() + patience;
        while self.has_heard.load(Ordering::Acquire) {
            let all = self.heard.lock().clone();
            let mut missing = false;
            for (log, position) in all {
                let there = self.storage.applied(&log).await?.unwrap_or_default();
                if there.log == position.log && there.seq < position.seq {
                    missing = true;
                    break;
                }
                let mut heard = self.heard.lock();
                if heard.get(&log) == Some(&position) {
                    heard.remove(&log);
                }
                self.has_heard.store(!heard.is_empty(), Ordering::Release);
            }
            if missing && Instant::now() + LOOK > until {
                return Err(self.unavailable(Trouble::Slow, NOT_YET.to_owned()));
            }
            if missing {
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    fn outbox(&self) -> String {
        format!("~partition-{}", self.number)
    }

    /// What it says of itself in a region's databases of that identity.
    pub(super) fn mark(&self, identity: u64) -> Vec<u8> {
        postcard::to_stdvec(&(identity, self.number)).expect("numbers always serialise")
    }

    /// Whether it has all there is for it.
    pub(super) fn is_in_sync(&self) -> bool {
        self.is_taken.load(Ordering::Acquire)
            && !self.is_away.load(Ordering::Acquire)
            && !self.spooled.load(Ordering::Acquire)
            && self.done.load(Ordering::Acquire) >= self.needed.load(Ordering::Acquire)
    }

    /// How many entries of the log may be missing in it.
    pub(super) fn behind(&self) -> u64 {
        self.needed.load(Ordering::Acquire).saturating_sub(self.done.load(Ordering::Acquire))
    }

    /// Up to where the log need not be kept for it.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    /// Why it is not used, if it is not.
    pub(super) fn away(&self) -> Option<StorageError> {
        self.is_away
            .load(Ordering::Acquire)
            .then(|| self.unavailable(Trouble::Gone, self.why.lock().clone()))
    }

    /// Why no change for it is to be begun: it is away, or does not follow as it should.
    pub(super) fn refuses(&self) -> Option<StorageError> {
        let late = || self.is_late().then(|| self.unavailable(Trouble::Slow, NOT_YET.to_owned()));
        self.away().or_else(late)
    }

    /// Whether a commit has not seen it follow in time, and it is still behind.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Acquire) && !self.is_in_sync()
    }

    fn unavailable(&self, trouble: Trouble, cause: String) -> StorageError {
        StorageError::Unavailable { name: self.name.clone(), trouble, cause }
    }

    fn goes(&self, why: &StorageError) {
        *self.why.lock() = why.to_string();
        if !self.is_away.swap(true, Ordering::AcqRel) {
            let (number, database) = (self.number, &self.name);
            tracing::warn!(number, %database, %why, "a partition is away; its accounts have to wait");
        }
        self.line.lock().fall_back();
        self.wake.notify_one();
        self.moved.notify_waiters();
    }

    fn is_back(&self) {
        if self.is_away.swap(false, Ordering::AcqRel) {
            let (number, database) = (self.number, &self.name);
            tracing::info!(number, %database, "a partition is back, and has what it missed");
        }
    }

    /// Entries that are committed; `seq` is the last of the commit.
    pub(super) fn push(&self, seq: u64, entries: Vec<Entry>) {
        self.needed.store(seq, Ordering::Release);
        let mut line = self.line.lock();
        if !line.from_log {
            line.bytes += entries.iter().map(Entry::bytes).sum::<usize>();
            line.entries.extend(entries);
            if line.bytes > QUEUE_BYTES_MAX {
                line.fall_back();
            }
        }
        drop(line);
        self.wake.notify_one();
    }

    /// Waits for what was committed just now, until then.
    pub(super) async fn followed(&self, until: Instant) {
        self.settled(until).await;
        self.is_late.store(!self.is_in_sync(), Ordering::Release);
    }

    /// Waits until it has everything, or is away, or until then.
    pub(super) async fn settled(&self, until: Instant) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.is_in_sync() || self.is_away.load(Ordering::Acquire) {
                return;
            }
            if timeout_at(until, moved).await.is_err() {
                return;
            }
        }
    }

    /// Waits until it may be read.
    pub(super) async fn ready(&self, patience: Duration) -> Result<(), StorageError> {
        if self.is_in_sync() {
            return Ok(());
        }
        self.settled(Instant::now() + patience).await;
        if self.is_in_sync() {
            return Ok(());
        }
        Err(self.away().unwrap_or_else(|| self.unavailable(Trouble::Slow, NOT_YET.to_owned())))
    }

    /// Applies what another region's log says, or keeps it until that can be done. `is_reset`: the position counts, whatever it was.
    pub(super) async fn apply(
        &self,
        shared: &Shared,
        home: &str,
        position: Position,
        mut entries: Vec<Entry>,
        is_reset: bool,
    ) -> Result<(), StorageError> {
        let mut spool = self.spool.lock().await;
        let is_there =
            || self.is_taken.load(Ordering::Acquire) && !self.is_away.load(Ordering::Acquire);
        if !is_reset && is_there() {
            match self.position(&mut spool, home).await {
                Ok(at) => entries.retain(|entry| at.log != position.log || entry.seq > at.seq),
                Err(error @ StorageError::Unavailable { .. }) => self.goes(&error),
                Err(error) => return Err(error),
            }
        }
        if entries.is_empty() && !is_reset {
            return Ok(());
        }
        if is_there() && !self.spooled.load(Ordering::Acquire) {
            match self.storage.apply(home, position, entries.clone()).await {
                Ok(()) => {
                    spool.positions.insert(home.to_owned(), position);
                    return Ok(());
                }
                Err(error @ StorageError::Unavailable { .. }) => self.goes(&error),
                Err(error) => return Err(error),
            }
        }
        let row = Kept { home: home.to_owned(), position, entries };
        let row = postcard::to_stdvec(&row).expect("strings, numbers and bytes always serialise");
        if is_reset || spool.bytes + row.len() > SPOOL_BYTES_MAX {
            let full = || self.unavailable(Trouble::Gone, "too much waits for it".to_owned());
            return Err(self.away().unwrap_or_else(full));
        }
        let (order, bytes) = (spool.next, row.len());
        shared.main.outbox_write(&self.outbox(), vec![(order, row)], Vec::new()).await?;
        (spool.next, spool.bytes) = (order + 1, spool.bytes + bytes);
        self.spooled.store(true, Ordering::Release);
        self.wake.notify_one();
        Ok(())
    }

    /// How far the partition has followed a region.
    async fn position(&self, spool: &mut Spool, home: &str) -> Result<Position, StorageError> {
        if let Some(position) = spool.positions.get(home) {
            return Ok(*position);
        }
        let position = self.storage.applied(home).await?.unwrap_or_default();
        spool.positions.insert(home.to_owned(), position);
        Ok(position)
    }

    /// Brings it where the log is, until it is aborted.
    pub(super) async fn follow(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            match self.step(&shared).await {
                Ok(true) => {}
                Ok(false) => drop(tokio::time::timeout(TICK, self.wake.notified()).await),
                Err(StorageError::Superseded) => return shared.put_down(),
                Err(error) => {
                    self.goes(&error);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Does one thing. False: there is nothing to do.
    async fn step(&self, shared: &Shared) -> Result<bool, StorageError> {
        let _own = self.own.lock().await;
        if !self.is_taken.load(Ordering::Acquire) {
            self.take(shared).await?;
        }
        let view = shared.view();
        let identity = view.map.identity;
        // Before the line is looked at: what is committed is put there first.
        let head = shared.head.load(Ordering::SeqCst);
        if !view.is_written(self.number) {
            // It has nothing, and nothing is missing in it.
            self.line.lock().fall_back();
            self.done.store(head, Ordering::Release);
            self.needed.store(0, Ordering::Release);
            if self.is_away.load(Ordering::Acquire) {
                self.storage.applied(OWN).await?;
                self.is_back();
            }
            self.moved.notify_waiters();
            return Ok(false);
        }
        if self.line.lock().from_log {
            return self.catch_up(shared).await;
        }
        let entries = self.line.lock().take();
        if let Some(last) = entries.last() {
            let seq = last.seq;
            self.storage.apply(OWN, Position { log: identity, seq }, entries).await?;
            self.stored.store(seq, Ordering::Release);
            self.done.store(seq, Ordering::Release);
            self.moved.notify_waiters();
            return Ok(true);
        }
        self.done.fetch_max(head, Ordering::AcqRel);
        if self.spooled.load(Ordering::Acquire) {
            self.unspool(shared).await?;
            return Ok(true);
        }
        if self.is_away.load(Ordering::Acquire) || self.stored() < head {
            // Also how one that is back is found so.
            self.storage.apply(OWN, Position { log: identity, seq: head }, Vec::new()).await?;
            self.stored.store(head, Ordering::Release);
            self.is_back();
        }
        self.moved.notify_waiters();
        Ok(false)
    }

    /// One page of the log.
    async fn catch_up(&self, shared: &Shared) -> Result<bool, StorageError> {
        let view = shared.view();
        let identity = view.map.identity;
        let after = self.done.load(Ordering::Acquire);
        let entries = match shared.main.log_read(after, PAGE_BYTES).await? {
            LogPage::Entries(entries) => entries,
            LogPage::Trimmed if !view.is_read(self.number) => {
                // It is only being filled, from its beginning.
                self.done.store(shared.head.load(Ordering::SeqCst), Ordering::Release);
                return Ok(true);
            }
            LogPage::Trimmed => {
                let cause = format!(
                    "the log goes on after {after}, which is all it has: restore what is newer"
                );
                return Err(self.unavailable(Trouble::Gone, cause));
            }
        };
        let Some(last) = entries.last() else {
            let mut line = self.line.lock();
            // What is being committed at this moment is either counted already, or will find the line open.
            if after >= shared.committing.load(Ordering::SeqCst) {
                line.from_log = false;
            }
            return Ok(true);
        };
        let seq = last.seq;
        let part = view.part(self.number, &entries);
        self.storage.apply(OWN, Position { log: identity, seq }, part).await?;
        self.stored.store(seq, Ordering::Release);
        self.done.store(seq, Ordering::Release);
        self.moved.notify_waiters();
        Ok(true)
    }

    /// Applies what has been kept.
    async fn unspool(&self, shared: &Shared) -> Result<(), StorageError> {
        let mut spool = self.spool.lock().await;
        spool.positions.clear();
        for (order, row) in shared.main.outbox(&self.outbox()).await? {
            let kept: Kept = postcard::from_bytes(&row)
                .map_err(|_| StorageError::Damaged(format!("what waits for {}", self.name)))?;
            let at = self.position(&mut spool, &kept.home).await?;
            let mut entries = kept.entries;
            entries.retain(|entry| at.log != kept.position.log || entry.seq > at.seq);
            if !entries.is_empty() {
                self.storage.apply(&kept.home, kept.position, entries).await?;
                spool.positions.insert(kept.home, kept.position);
            }
            shared.main.outbox_write(&self.outbox(), Vec::new(), vec![order]).await?;
        }
        spool.bytes = 0;
        self.spooled.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes down where it stands, so that the log need not be kept for it.
    pub(super) async fn note(&self, identity: u64, head: u64) -> Result<(), StorageError> {
        let _own = self.own.lock().await;
        let is_waiting = {
            let line = self.line.lock();
            line.from_log || !line.entries.is_empty()
        };
        if is_waiting || !self.is_in_sync() || self.stored() >= head {
            return Ok(());
        }
        self.storage.apply(OWN, Position { log: identity, seq: head }, Vec::new()).await?;
        self.stored.fetch_max(head, Ordering::AcqRel);
        Ok(())
    }

    /// It begins with nothing: what the log says from now on is for it.
    pub(super) async fn begins(&self, head: u64) {
        let _own = self.own.lock().await;
        self.line.lock().fall_back();
        self.done.store(head, Ordering::Release);
        self.needed.store(head, Ordering::Release);
        self.wake.notify_one();
    }
}

impl Line {
    fn fall_back(&mut self) {
        *self = Line { from_log: true, ..Line::default() };
    }

    fn take(&mut self) -> Vec<Entry> {
        self.bytes = 0;
        self.entries.drain(..).collect()
    }
}
