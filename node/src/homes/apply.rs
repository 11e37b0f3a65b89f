//! The receiving end of another region's durable log: one task for each region we follow.
//!
//! Fed by `Homes::ship_received`. What may be applied is the pure `replication::durable_log::Applier`'s decision; here it
//! is made durable together with the position, told to whoever hangs on applied changes, then acknowledged, and last
//! shown to requests that wait for it. Whatever goes wrong (a gap, a full inbox, storage, metadata behind) ends in the
//! same way: ask the home again from the position we have.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use replication::durable_log::{Applier, Position as Followed, Verdict};
use replication::{Change, Entry, SHARDS, Store, shard_of};
use tokio::sync::{OwnedRwLockReadGuard, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use xmpp::BareJid;

use super::wire::Ship;
use super::writer::{Job, Late};
use super::{FIRST_EPOCH, META_GENESIS, META_SHARDS, Shared, Way};
use crate::storage::{Place, Position, Replace, Row, StorageError};
use crate::told::Told;

/// Messages that may wait; more are dropped and asked for again.
const INBOX_MAX: usize = 4096;

/// Messages taken at once; their entries share a transaction.
const TAKE_MAX: usize = 256;

/// Before the home is asked again for what has not come, or what could not be applied.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the task hears.
pub(super) enum Event {
    /// The link is up (again).
    Up,
    /// From the home.
    Message(Ship),
}

/// The task's inbox.
#[derive(Clone)]
pub(super) struct Inbox {
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicBool>,
}

impl Inbox {
    /// Hands in an event, or remembers that one was lost.
    pub(super) fn push(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.lost.store(true, Ordering::Release);
        }
    }
}

/// Starts the task. `Shared::followed` shows how far it has applied.
pub(super) fn start(way: Way) -> (Inbox, JoinHandle<()>) {
    let (queue, events) = mpsc::channel(INBOX_MAX);
    let inbox = Inbox { queue, lost: Arc::default() };
    let shown = way.shared.followed(&way.region);
    let task = Task {
        shared: Arc::clone(&way.shared),
        region: way.region.clone(),
        way,
        lost: Arc::clone(&inbox.lost),
        shown,
        position: None,
        stored: 0,
        applier: Applier::default(),
        copied: Vec::new(),
        copying: None,
        ask_at: None,
        held: false,
        wanting: false,
        repeated: false,
        taken: Position::default(),
        stale: BTreeSet::new(),
    };
    (inbox, tokio::spawn(task.run(events)))
}

/// A whole copy that is coming in.
struct Copying {
    copy: u64,
    shards: Vec<u8>,
    /// Also of those that are of no shard, and of these, which are pinned there.
    everything: Option<BTreeSet<String>>,
    /// The epoch of each, when the copy began.
    epochs: Vec<u64>,
    number: u64,
    from: Option<Place>,
}

struct Task {
    shared: Arc<Shared>,
    region: String,
    way: Way,
    lost: Arc<AtomicBool>,
    shown: Told<Position>,
    /// How far it is applied, and told; None: never followed.
    position: Option<Position>,
    /// Up to there it is in storage. A scribe may begin with more there than it was told of before its predecessor died.
    stored: u64,
    /// The same, where verdicts are found.
    applier: Applier,
    /// The epoch at which each shard's data here is from its home.
    copied: Vec<u64>,
    copying: Option<Copying>,
    /// When to ask again unless something has been applied before.
    ask_at: Option<Instant>,
    /// Waiting for metadata.
    held: bool,
    /// Shards were asked for that have not come: their home may not know yet that it is.
    wanting: bool,
    /// Something came that is applied already: the home has not heard of that.
    repeated: bool,
    /// Up to there our writer has taken what was late for us. Ahead of the position until that is in storage.
    taken: Position,
    /// Owners whose entries came from an epoch that has ended, and of which the sender has not been told.
    stale: BTreeSet<String>,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Err(error) = self.load().await {
            tracing::error!(%error, region = self.region, "its position was not read");
            tokio::time::sleep(PATIENCE).await;
        }
        let metadata = self.shared.metadata.clone();
        let mut seen = metadata.get();
        let mut batch = Vec::new();
        loop {
            let ask_at = self.ask_at;
            tokio::select! {
                biased; // what has come says more than a change of metadata or a clock; neither is lost meanwhile
                count = events.recv_many(&mut batch, TAKE_MAX) => {
                    if count == 0 {
                        return;
                    }
                    if let Err(error) = self.take(&mut batch).await {
                        tracing::error!(%error, region = self.region, "its changes were not applied");
                        batch.clear();
                        self.ask_at = Some(Instant::now() + PATIENCE);
                    }
                    if self.lost.swap(false, Ordering::AcqRel) {
                        self.ask_at.get_or_insert(Instant::now() + PATIENCE);
                    }
                }
                () = metadata.until(|version| *version != seen) => {
                    seen = metadata.get();
                    // Perhaps it was metadata that held us back, or shards have a new home now.
                    if self.held || !self.wanted().is_empty() {
                        self.ask().await;
                    }
                }
                () = async { sleep_until(ask_at.unwrap_or_else(Instant::now)).await }, if ask_at.is_some() => {
                    self.ask().await;
                }
            }
        }
    }

    /// What storage remembers.
    async fn load(&mut self) -> Result<(), StorageError> {
        self.position = self.shared.storage.applied(&self.region).await?;
        self.stored = self.position.unwrap_or_default().seq;
        if let Some(position) = &mut self.position
            && let Some(seen) = self.shared.feed.seen().get(&self.region)
            && seen.log == position.log
        {
            position.seq = position.seq.min(seen.seq);
        }
        self.copied = read_shards(&self.shared).await?;
        let position = self.position.unwrap_or_default();
        self.reset(position);
        Ok(())
    }

    fn reset(&mut self, position: Position) {
        self.applier.reset(&self.region, Followed { epoch: 0, seq: position.seq });
        self.shown.set(position);
    }

    /// Shards whose home the region has become since they were last copied, and in which epoch.
    fn wanted(&self) -> Vec<(u8, u64)> {
        let moved = |shard: u8| {
            let place = self.shared.map.shard(shard);
            let moved =
                *place.region == *self.region && place.epoch > self.copied[usize::from(shard)];
            moved.then_some((shard, place.epoch))
        };
        (0..=255u8).filter_map(moved).collect()
    }

    /// Says where we stand; the home goes on from there.
    async fn ask(&mut self) {
        self.ask_at = None;
        self.held = false;
        self.copying = None;
        let genesis = match self.shared.storage.meta(META_GENESIS).await {
            Ok(genesis) => genesis,
            Err(error) => {
                tracing::error!(%error, "storage was not read");
                self.ask_at = Some(Instant::now() + PATIENCE);
                return;
            }
        };
        let shards = self.wanted();
        self.wanting = !shards.is_empty();
        self.ask_at = self.wanting.then(|| Instant::now() + PATIENCE);
        let from = Ship::From { position: self.position, genesis, shards };
        self.way.send(&from).await;
    }

    /// Deals with everything that has come.
    async fn take(&mut self, batch: &mut Vec<Event>) -> Result<(), StorageError> {
        let mut good = Vec::new();
        let mut log = 0;
        let mut judging = None;
        for event in batch.drain(..) {
            match event {
                Event::Message(Ship::Batch { log: of, entries }) => {
                    log = of;
                    let mut entries = VecDeque::from(entries);
                    loop {
                        if judging.is_none() {
                            judging = Some(Arc::clone(&self.shared.applying).read_owned().await);
                        }
                        if !self.judge(of, &mut entries, &mut good) {
                            break;
                        }
                        // The writer may itself be waiting for what is judged to be in storage.
                        self.apply(log, std::mem::take(&mut good), judging.take()).await?;
                        if !self.bring(of, &entries).await {
                            self.ask_at = Some(Instant::now() + PATIENCE);
                            break;
                        }
                    }
                }
                event => {
                    self.apply(log, std::mem::take(&mut good), judging.take()).await?;
                    match event {
                        Event::Up => self.ask().await,
                        Event::Message(message) => self.copy(message).await?,
                    }
                }
            }
        }
        self.apply(log, good, judging).await
    }

    /// Picks the entries that come next; what the others mean is decided here too. True: the first of those that are left has to be brought to our
    /// writer, which has not taken it yet.
    fn judge(&mut self, log: u64, entries: &mut VecDeque<Entry>, good: &mut Vec<Entry>) -> bool {
        // While a copy comes in or metadata is awaited, what is in flight will be sent again.
        if self.held || self.copying.is_some() {
            return false;
        }
        if self.position.is_some_and(|position| position.log != log) {
            self.ask_at.get_or_insert(Instant::now() + PATIENCE);
            return false;
        }
        while let Some(mut entry) = entries.pop_front() {
            // An entry emptied for us says nothing of anyone, so any epoch will do.
            let owner = entry.changes.first().map(Change::owner);
            let current = owner.map_or(entry.epoch, |owner| self.shared.map.home(owner).epoch);
            match self.applier.judge_at(&self.region, &entry, current) {
                Verdict::Duplicate => {
                    self.repeated = true;
                    continue;
                }
                Verdict::Apply => {}
                Verdict::Gap { expected } => {
                    tracing::debug!(region = self.region, expected, found = entry.seq, "a gap");
                    self.ask_at.get_or_insert(Instant::now());
                    return false;
                }
                Verdict::Ahead { current } => {
                    tracing::debug!(
                        region = self.region,
                        current,
                        epoch = entry.epoch,
                        "held back"
                    );
                    self.held = true;
                    self.ask_at = Some(Instant::now() + PATIENCE);
                    return false;
                }
                Verdict::Stale { .. } => {
                    let is_taken = self.taken.log == log && entry.seq <= self.taken.seq;
                    if !is_taken && self.late_for_us(&entry).is_some() {
                        entries.push_front(entry);
                        return true;
                    }
                    // An entry of a home whose time was over: it counts, but changes nothing here.
                    let changes = std::mem::take(&mut entry.changes);
                    self.stale.extend(changes.first().map(|change| change.owner().to_owned()));
                }
            }
            self.applier.passed(&self.region, &entry);
            good.push(entry);
        }
        false
    }

    /// Whose it is, if it is of a home whose time was over, and that is here now; and since which epoch.
    fn late_for_us(&self, entry: &Entry) -> Option<(BareJid, u64)> {
        let owner = entry.changes.first()?.owner();
        let home = self.shared.map.home(owner);
        let is_late = home.local && entry.epoch < home.epoch;
        is_late.then(|| Some((BareJid::parse(owner).ok()?, home.epoch))).flatten()
    }

    /// Gives our writer what is late for us: it decides what can still be taken, and its own entry then tells everyone. Only when that is
    /// committed may our position go past it: who sent it does not send it again then. All from the first on that must be passed next, and as one:
    /// what is committed behind one that does not pass would come again, and be committed again. False: nothing is taken.
    async fn bring(&mut self, log: u64, entries: &VecDeque<Entry>) -> bool {
        let Some(first) = entries.front().map(|entry| entry.seq) else { return false };
        let mut given = Vec::new();
        let mut next = first;
        for entry in entries {
            let found = self.late_for_us(entry).filter(|_| entry.seq == next);
            let Some((account, epoch)) = found else { break };
            let (region, seq, of) = (&self.region, entry.seq, entry.epoch);
            tracing::info!(region, seq, epoch = of, %account, "an entry of a former home came late");
            given.push((account, epoch, entry.changes.clone()));
            next += 1;
        }
        let (taken, is_taken) = oneshot::channel();
        if self.shared.give(Job::Late(Late { entries: given, taken })).is_err() {
            tracing::warn!(region = self.region, first, "too much waits for the writer");
            return false;
        }
        if is_taken.await.is_err() {
            return false;
        }
        self.taken = Position { log, seq: next - 1 };
        true
    }

    /// Makes entries durable, and known. Whoever waits for that to be done waits no longer than that: not for room on a link.
    async fn apply(
        &mut self,
        log: u64,
        entries: Vec<Entry>,
        judging: Option<OwnedRwLockReadGuard<()>>,
    ) -> Result<(), StorageError> {
        let repeated = std::mem::take(&mut self.repeated);
        let Some(last) = entries.last() else {
            drop(judging);
            // An acknowledgement may have met our own question on the way: the home then sends again what it takes for missing, and its
            // window stays shut until it is told.
            if let Some(position) = self.position.filter(|_| repeated) {
                self.way.send(&Ship::Ack(position)).await;
            }
            return Ok(());
        };
        let position = Position { log, seq: last.seq };
        let newest = entries.iter().map(|entry| entry.at).max();
        let mut fresh = entries.clone();
        fresh.retain(|entry| entry.seq > self.stored);
        if !fresh.is_empty() {
            if let Err(error) = self.shared.storage.apply(&self.region, position, fresh).await {
                if matches!(error, StorageError::Superseded) {
                    self.shared.put_down();
                }
                // Verdicts must again be what storage is.
                self.reset(self.position.unwrap_or_default());
                return Err(error);
            }
            self.stored = position.seq;
        }
        if let Some(newest) = newest {
            let wall = (self.shared.config.wall.0)();
            self.shared.clock.lock().observe(newest, wall);
        }
        self.position = Some(position);
        self.ask_at = self.ask_at.filter(|_| self.held || self.wanting);
        self.shared.learn(&self.region, position, &entries);
        drop(judging);
        for owner in std::mem::take(&mut self.stale) {
            self.way.send(&Ship::Stale { owner }).await;
        }
        self.way.send(&Ship::Ack(position)).await;
        Ok(())
    }

    /// A part of a whole copy.
    async fn copy(&mut self, message: Ship) -> Result<(), StorageError> {
        match message {
            Ship::SnapshotBegin { copy, shards } => self.begin_copy(copy, shards, None),
            Ship::SnapshotOfAll { copy, shards, pins } => {
                self.begin_copy(copy, shards, Some(pins));
            }
            Ship::SnapshotRows { copy, number, to, rows } => {
                let Some(copying) = &mut self.copying else { return Ok(()) };
                if copying.copy != copy || copying.number + 1 != number {
                    self.ask_at.get_or_insert(Instant::now());
                    return Ok(());
                }
                let alone = Arc::clone(&self.shared.applying).write_owned().await;
                let (shared, region) = (&self.shared, &*self.region);
                let (shards, everything) = (&copying.shards, &copying.everything);
                let is_pinned =
                    |owner: &str| everything.as_ref().is_some_and(|pins| pins.contains(owner));
                let owned = |owner: &str| {
                    let is_meant = match shared.map.is_apart(owner) {
                        true => everything.is_some(),
                        false => shards.contains(&shard_of(owner)) || is_pinned(owner),
                    };
                    is_meant && *shared.map.home(owner).region == *region
                };
                let from = copying.from.take();
                let mut told: Vec<Change> =
                    rows.iter().map(|row| row_change(row.clone())).collect();
                told.retain(|change| owned(change.owner()));
                let replace = Replace { from, to: to.clone(), owned: &owned, rows };
                let gone = shared.storage.replace(replace).await?;
                // First: who waits for the last row of something (a roster's version) is to find it whole.
                told.splice(0..0, gone.into_iter().map(gone_change));
                shared.applied.copied(&told);
                shared.feed.copied(&told);
                drop(alone);
                copying.number = number;
                copying.from = to;
                self.way.send(&Ship::SnapshotAck { copy, number }).await;
            }
            Ship::SnapshotEnd { copy, position } => {
                let Some(copying) = self.copying.take_if(|copying| copying.copy == copy) else {
                    return Ok(());
                };
                self.copy_done(&copying, position).await?;
            }
            // The others are for the sending end.
            Ship::From { .. }
            | Ship::Batch { .. }
            | Ship::Ack(_)
            | Ship::SnapshotAck { .. }
            | Ship::Stale { .. } => {}
        }
        Ok(())
    }

    fn begin_copy(&mut self, copy: u64, shards: Vec<u8>, everything: Option<BTreeSet<String>>) {
        let epoch = |shard: &u8| self.shared.map.shard(*shard).epoch;
        let epochs = shards.iter().map(epoch).collect();
        let (number, from) = (0, None);
        self.copying = Some(Copying { copy, shards, everything, epochs, number, from });
        self.ask_at = None; // It comes; should the way break, `Event::Up` asks.
    }

    async fn copy_done(
        &mut self,
        copying: &Copying,
        position: Option<Position>,
    ) -> Result<(), StorageError> {
        let count = copying.shards.len();
        tracing::info!(region = self.region, shards = count, "a whole copy is complete");
        for (shard, epoch) in copying.shards.iter().zip(&copying.epochs) {
            if *self.shared.map.shard(*shard).region == *self.region {
                self.copied[usize::from(*shard)] = *epoch;
            }
        }
        self.wanting = !self.wanted().is_empty();
        if self.wanting {
            self.ask_at.get_or_insert(Instant::now() + PATIENCE);
        }
        write_shards(&self.shared, &self.region, &self.copied).await?;
        if let Some(position) = position {
            self.shared.storage.apply(&self.region, position, Vec::new()).await?;
            self.position = Some(position);
            self.stored = position.seq;
            self.shared.feed.jumps(&self.region, position);
            self.reset(position);
        }
        if let Some(position) = self.position {
            self.way.send(&Ship::Ack(position)).await;
        }
        Ok(())
    }
}

/// The change that would have written a row.
pub(super) fn row_change((place, value): Row) -> Change {
    match place {
        Place::Value(store, owner, key) => {
            Change::Put { store: Store(Cow::Owned(store)), owner, key, value }
        }
        Place::Item(store, owner, id) => {
            Change::Append { store: Store(Cow::Owned(store)), owner, id, value }
        }
    }
}

/// The change that would have taken it away.
fn gone_change(place: Place) -> Change {
    match place {
        Place::Value(store, owner, key) => {
            Change::Delete { store: Store(Cow::Owned(store)), owner, key }
        }
        Place::Item(store, owner, id) => {
            Change::Remove { store: Store(Cow::Owned(store)), owner, id }
        }
    }
}

pub(super) async fn read_shards(shared: &Shared) -> Result<Vec<u64>, StorageError> {
    let stored = shared.storage.meta(META_SHARDS).await?;
    let shards = stored.and_then(|bytes| postcard::from_bytes::<Vec<u64>>(&bytes).ok());
    Ok(shards.filter(|shards| shards.len() == SHARDS).unwrap_or(vec![FIRST_EPOCH; SHARDS]))
}

/// Notes what was copied from `region`. Other regions' tasks note theirs: each shard is written by its home's task.
async fn write_shards(shared: &Shared, region: &str, copied: &[u64]) -> Result<(), StorageError> {
    let mut all = read_shards(shared).await?;
    for (shard, (old, new)) in (0..=255u8).zip(all.iter_mut().zip(copied)) {
        if *shared.map.shard(shard).region == *region {
            *old = (*old).max(*new);
        }
    }
    let bytes = postcard::to_stdvec(&all).expect("numbers always serialise");
    shared.storage.set_meta(META_SHARDS, bytes).await
}
