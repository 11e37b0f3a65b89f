//! What can go wrong in this crate: [`Error`] when starting, [`ProposeError`] when asking for a change.

use std::path::PathBuf;

use crate::metadata::CommandError;

/// Starting (or stopping) an engine failed: the world's fault, the cause is kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory, the log file or the snapshot file could not be opened or read.
    #[error("cannot open the metadata store at {path}")]
    Open {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store on disk belongs to another cluster or another node: starting would break Raft's promises.
    #[error("the metadata store at {path} belongs to {found}, not to {wanted}")]
    Identity {
        /// The log file.
        path: PathBuf,
        /// `cluster/raft id` as stored.
        found: String,
        /// `cluster/raft id` as configured.
        wanted: String,
    },
    /// The timers contradict each other, or the genesis does not name its voters.
    #[error("bad metadata configuration: {0}")]
    Config(String),
    /// Raft refused to start or to stop.
    #[error("metadata (Raft) failed: {0}")]
    Raft(String),
}

/// A proposal to metadata was not (visibly) carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody led the cluster within the given time: the majority is unreachable. Nothing has changed.
    #[error("metadata has no leader: a majority of its voters cannot be reached")]
    NoLeader,
    /// Agreed on, and refused by the state as it is.
    #[error("refused: {0}")]
    Refused(CommandError),
    /// The time is over and the answer unknown: it may still happen. Commands may be repeated.
    #[error("no answer in time; the change may still happen")]
    TimedOut,
    /// This node is shutting down, or its disk failed.
    #[error("metadata is stopped: {0}")]
    Stopped(String),
}
