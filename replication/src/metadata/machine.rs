//! Raft's state machine: the metadata state in memory, its snapshot in one file, and where readers see it.
//!
//! openraft calls it with committed entries; the meaning of a command is in `apply.rs`. What is applied is not written to
//! disk: after a restart openraft installs the snapshot file and re-applies the log up to the durable `committed`.
//! A snapshot is written to a temporary file, synced, renamed over the old one, and the directory synced.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::raft::{
    Applied, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, blocking, decode, encode,
};
use super::types::MetaState;
use crate::error::Error;

/// The newest applied state, for everybody to read.
#[derive(Debug)]
pub(super) struct Published {
    state: RwLock<Arc<MetaState>>,
    version: watch::Sender<u64>,
}

impl Published {
    fn new() -> Published {
        Published { state: RwLock::default(), version: watch::Sender::new(0) }
    }

    /// A refcount; the lock is held for no longer than that.
    pub(super) fn state(&self) -> Arc<MetaState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told of every new version, after [`Published::state`] shows it.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn publish(&self, state: Arc<MetaState>) {
        let version = state.version;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.version.send_if_modified(|known| std::mem::replace(known, version) != version);
    }
}

/// The snapshot file, as it is on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta,
    state: Vec<u8>,
}

/// The one current snapshot: in memory, and in the file.
#[derive(Debug)]
struct SnapshotFile {
    path: PathBuf,
    current: Mutex<Option<Stored>>,
}

impl SnapshotFile {
    fn open(path: PathBuf) -> io::Result<SnapshotFile> {
        let current = match fs::read(&path) {
            Ok(bytes) => Some(decode(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(SnapshotFile { path, current: Mutex::new(current) })
    }

    /// Replaces the snapshot, unless there is a newer one already. Blocking.
    fn store(&self, stored: Stored) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|known| known.meta.last_log_id > stored.meta.last_log_id) {
            return Ok(());
        }
        write_whole(&self.path, &encode(&stored)?)?;
        *current = Some(stored);
        Ok(())
    }

    fn current(&self) -> Option<Stored> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Temporary file, sync, rename, sync of the directory: after a crash there is the old file or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Machine {
    state: Arc<MetaState>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: Arc<Published>,
    file: Arc<SnapshotFile>,
}

impl Machine {
    /// An empty machine whose snapshots live at `path`; openraft restores it from there.
    pub(super) async fn open(path: &Path) -> Result<Machine, Error> {
        let file = path.to_owned();
        let file = blocking(move || SnapshotFile::open(file)).await;
        let file = file.map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Ok(Machine {
            state: Arc::default(),
            last_applied: None,
            membership: StoredMembership::default(),
            published: Arc::new(Published::new()),
            file: Arc::new(file),
        })
    }

    /// Where readers look.
    pub(super) fn published(&self) -> Arc<Published> {
        self.published.clone()
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.last_applied = Some(entry.log_id);
            let applied = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
                EntryPayload::Normal(proposal) => {
                    // A reader may hold the state: `make_mut` then copies it, and readers keep a consistent one.
                    let result = Arc::make_mut(&mut self.state).apply(&proposal.0);
                    self.published.publish(self.state.clone());
                    Some(result)
                }
            };
            if let Some(responder) = responder {
                responder.send(Applied(applied));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
        };
        Builder { meta, state: self.state.clone(), file: self.file.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        let state: MetaState = decode(&snapshot)?;
        let stored = Stored { meta: meta.clone(), state: snapshot };
        let file = self.file.clone();
        blocking(move || file.store(stored)).await?;
        self.state = Arc::new(state);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.published.publish(self.state.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.file.current().map(|stored| Snapshot { meta: stored.meta, snapshot: stored.state }))
    }
}

/// A view of the state at one log id, to be written as a snapshot beside further applying.
pub(super) struct Builder {
    meta: SnapshotMeta,
    state: Arc<MetaState>,
    file: Arc<SnapshotFile>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, file, state) = (self.meta.clone(), self.file.clone(), self.state.clone());
        blocking(move || {
            let stored = Stored { meta, state: encode(&*state)? };
            file.store(stored.clone())?;
            Ok(Snapshot { meta: stored.meta, snapshot: stored.state })
        })
        .await
    }
}
