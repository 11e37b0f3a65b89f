//! The one writer of what is homed here: takes what waits, runs it, commits it as one transaction, answers.
//!
//! Fed by `ask.rs`. One task, so operations of all accounts happen one after another and need no locks; one commit for
//! a whole group, because a synced commit costs as much as hundreds of rows. While a group is being committed the next
//! one gathers, so the group's size follows the load by itself.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use replication::{Change, Entry, Hlc, shard_of};
use tokio::sync::{mpsc, oneshot};
use xmpp::{BareJid, Condition, StanzaError};

use super::former::Former;
use super::{HomeError, HomeOp, META_WRITTEN, Shared, Tx};
use crate::storage::{Position, StorageError};

/// What one operation may change, in bytes: its entry must fit into one frame of a link.
const ENTRY_BYTES_MAX: usize = 768 << 10;

/// What the one who asked gets.
pub(super) struct Done {
    pub(super) result: Result<Vec<u8>, HomeError>,
    /// Where our log stood when it was true.
    pub(super) at: Position,
    /// Something was changed for it, or may have been: done again, it would be changed again.
    pub(super) changed: bool,
}

/// One thing to do.
pub(super) enum Job {
    /// Run an operation.
    Run(Request),
    /// Take what a former home brings late, as far as that is safe.
    Late(Late),
    /// Commit what came before, then say where the log stands.
    Fence(oneshot::Sender<Done>),
    /// Commit what came before, then end.
    Stop,
}

/// What a former home brings late: entries that follow each other in its log. All of them are committed together, or none.
pub(super) struct Late {
    /// Each with the epoch in which we are its account's home.
    pub(super) entries: Vec<(BareJid, u64, Vec<Change>)>,
    /// Told when they are committed: they need not be brought again. Dropped if they were not.
    pub(super) taken: oneshot::Sender<()>,
}

/// An operation to run.
pub(super) struct Request {
    pub(super) account: BareJid,
    pub(super) op: String,
    pub(super) request: Vec<u8>,
    pub(super) answer: oneshot::Sender<Done>,
}

/// All operations, by name.
pub(super) type Ops = HashMap<&'static str, Arc<dyn HomeOp>>;

/// The operations of all features.
pub(super) fn ops(all: Vec<Box<dyn HomeOp>>) -> Ops {
    all.into_iter().map(|op| (op.name(), Arc::from(op))).collect()
}

/// Whether an operation, if it is one, has made an entry.
fn has_changed(of: &Option<(BareJid, Option<u64>)>) -> bool {
    of.as_ref().is_some_and(|(_, made)| made.is_some())
}

/// The task's state. Invariant: `head` is what storage's log head is.
pub(super) struct Writer {
    shared: Arc<Shared>,
    tx: Tx,
    head: u64,
    trimmed: u64,
    former: Former,
    /// `former` has something to be stored before the next commit.
    unstored: bool,
    /// Metadata as it was when the last group began.
    seen: u64,
}

impl Writer {
    pub(super) fn new(shared: &Arc<Shared>, head: u64, former: Former) -> Writer {
        let tx = Tx::new(Arc::clone(&shared.storage));
        let shared = Arc::clone(shared);
        Writer { shared, tx, head, trimmed: 0, former, unstored: false, seen: 0 }
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        let mut going = true;
        while going && queue.recv_many(&mut jobs, self.shared.config.group_max).await > 0 {
            let is_late = |job: &Job| matches!(job, Job::Late(_));
            let mut late: Vec<Job> = jobs.extract_if(.., |job| is_late(job)).collect();
            // Apart: if it cannot be committed, no request fails with it, and who brought it does so again. First: it is older.
            if !late.is_empty() {
                going = self.group(&mut late).await;
            }
            if going {
                going = self.group(&mut jobs).await;
            }
            self.trim().await;
        }
    }

    /// One transaction. Answers false when told to stop.
    async fn group(&mut self, jobs: &mut Vec<Job>) -> bool {
        let mut entries: Vec<Entry> = Vec::new();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut going = true;
        let metadata = self.shared.metadata.get();
        if std::mem::replace(&mut self.seen, metadata) != metadata {
            // We may have become a home: what was judged before is in storage first.
            drop(self.shared.applying.write().await);
        }
        self.fetch(jobs).await;
        let mut taken = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Job::Run(request) => {
                    let at = self.now();
                    let before = entries.len();
                    let result = self.one(&request, at, &mut entries).await;
                    let made = (entries.len() > before).then(|| self.head + entries.len() as u64);
                    answers.push((request.answer, result, Some((request.account, made))));
                }
                Job::Fence(answer) => answers.push((answer, Ok(Vec::new()), None)),
                Job::Late(late) => {
                    for (account, epoch, changes) in late.entries {
                        let at = self.now();
                        self.late(&account, epoch, changes, at, &mut entries);
                    }
                    taken.push(late.taken);
                }
                Job::Stop => going = false,
            }
        }
        let committed = match entries.is_empty() {
            true => Ok(()),
            false => self.commit(&entries).await,
        };
        self.tx.end_group();
        match committed {
            Ok(()) => {
                self.publish(entries);
                for taken in taken {
                    let _ = taken.send(());
                }
                let at = Position { log: self.shared.log(), seq: self.head };
                for (answer, result, of) in answers {
                    let changed = has_changed(&of);
                    // A refusal rests on what is there as much as an answer does; another error says nothing.
                    let says = matches!(result, Ok(_) | Err(HomeError::Refused(_)));
                    match of.filter(|_| says && self.shared.config.two_regions) {
                        Some((account, made)) => {
                            let map = &*self.shared.map;
                            let done = Done { result, at, changed };
                            self.shared.copies.answer(map, account.as_str(), made, answer, done);
                        }
                        None => drop(answer.send(Done { result, at, changed })),
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "a group of changes was not committed");
                let at = Position { log: self.shared.log(), seq: self.head };
                if matches!(error, StorageError::Superseded) {
                    self.shared.put_down();
                    going = false;
                }
                let error = HomeError::from(error);
                for (answer, _, of) in answers {
                    let (result, changed) = (Err(error.clone()), has_changed(&of));
                    drop(answer.send(Done { result, at, changed }));
                }
            }
        }
        going
    }

    /// When the next one happens.
    fn now(&self) -> Hlc {
        let wall = (self.shared.config.wall.0)();
        self.shared.clock.lock().now(wall)
    }

    /// Reads at once what the group's operations will read.
    async fn fetch(&mut self, jobs: &[Job]) {
        let mut wanted = Vec::new();
        for job in jobs {
            let Job::Run(request) = job else { continue };
            let place = self.shared.map.home(request.account.as_str());
            let is_ours =
                place.local && self.shared.storage.refuses(request.account.as_str()).is_none();
            if let Some(op) = self.shared.ops.get(request.op.as_str()).filter(|_| is_ours) {
                let reads = op.reads(&request.account, &request.request);
                let account = request.account.as_str();
                wanted.extend(reads.into_iter().map(|read| (account, place.epoch, read)));
            }
        }
        // A single read can as well wait until it is asked for.
        if wanted.len() > 1 {
            self.tx.fetch(wanted).await;
        }
    }

    /// One operation: its changes become an entry, or it leaves nothing.
    async fn one(
        &mut self,
        request: &Request,
        at: Hlc,
        entries: &mut Vec<Entry>,
    ) -> Result<Vec<u8>, HomeError> {
        let op = self.shared.ops.get(request.op.as_str());
        let op = Arc::clone(op.ok_or_else(|| HomeError::Unknown(request.op.clone()))?);
        let place = self.shared.map.home(request.account.as_str());
        if !place.local || self.shared.is_leaving(request.account.as_str()) {
            return Err(HomeError::NotHome { epoch: place.epoch });
        }
        if let Some(error) = self.shared.storage.refuses(request.account.as_str()) {
            return Err(error.into());
        }
        self.tx.in_epoch(request.account.as_str(), place.epoch);
        self.tx.begin(request.account.as_str(), at);
        let run = op.run(&mut self.tx, &request.account, &request.request);
        let result = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(result) => result?,
            Err(_) => return Err(HomeError::Storage(format!("{} panicked", request.op))),
        };
        if self.tx.bytes() > ENTRY_BYTES_MAX {
            let error = StanzaError::new(Condition::ResourceConstraint);
            return Err(HomeError::refused(&error.with_text("too much in one change")));
        }
        if self.keep(request.account.as_str(), place.epoch, at, entries) {
            self.unstored |= self.former.writes(request.account.as_str(), place.epoch);
        }
        Ok(result)
    }

    /// What a former home brings becomes changes of ours, as far as nothing newer can be overwritten by it. A database that is away stops it as
    /// little as what was begun before: the log has it. Nor does a hand-over: the next home may have passed the same entry by before it was
    /// home, so our log is where it gets it from, and it takes items from there also when the move is over, late, as of the epoch in which we
    /// were home. Other changes it may turn down then, and copies would keep them.
    fn late(
        &mut self,
        account: &BareJid,
        epoch: u64,
        changes: Vec<Change>,
        at: Hlc,
        entries: &mut Vec<Entry>,
    ) {
        let owner = account.as_str();
        let place = self.shared.map.home(owner);
        let stays = place.local && place.epoch == epoch && !self.shared.is_leaving(owner);
        let all = stays && self.former.untouched(owner, epoch);
        let harmless = |change: &Change| {
            let store = change.store().as_str();
            matches!(change, Change::Append { .. }) && self.shared.config.refiled.contains(&store)
        };
        let (taken, lost): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| all || harmless(change));
        if !lost.is_empty() {
            let stores: Vec<&str> = lost.iter().map(|change| change.store().as_str()).collect();
            tracing::warn!(
                owner,
                ?stores,
                "changes of a former home are lost: there may be newer ones"
            );
        }
        self.tx.begin(owner, at);
        taken.into_iter().for_each(|change| self.tx.record(change));
        self.keep(owner, epoch, at, entries);
    }

    async fn commit(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        if self.unstored {
            self.shared.storage.set_meta(META_WRITTEN, self.former.stored()).await?;
            self.unstored = false;
        }
        self.shared.storage.commit_home(entries.to_vec()).await
    }

    /// What the operation did becomes an entry; false if it did nothing.
    fn keep(&mut self, account: &str, epoch: u64, at: Hlc, entries: &mut Vec<Entry>) -> bool {
        let changes = self.tx.keep();
        let some = !changes.is_empty();
        if some {
            let seq = self.head + 1 + entries.len() as u64;
            entries.push(Entry { seq, shard: shard_of(account), epoch, at, changes });
        }
        some
    }

    /// Everyone who wants to know hears of what is committed: first who hangs on applied changes, then the shippers.
    fn publish(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last() else { return };
        self.head = last.seq;
        let at = Position { log: self.shared.log(), seq: self.head };
        self.shared.learn(&self.shared.config.region, at, &entries);
        self.shared.recent.lock().extend(entries);
        self.shared.head.set(self.head);
    }

    /// Keeps the log within its bound, a hundredth of it at a time.
    async fn trim(&mut self) {
        let most = self.shared.config.log_entries_max;
        if self.head > self.trimmed + most + most / 100 {
            let upto = self.head - most;
            match self.shared.storage.log_trim(upto).await {
                Ok(()) => self.trimmed = upto,
                Err(error) => tracing::warn!(%error, "the durable log was not trimmed"),
            }
        }
    }
}
