//! Our choice of openraft's types, and how they become bytes. Nothing of this leaves `metadata`.
//!
//! Every stored or sent value starts with a format byte, then postcard: an unknown format is an error, never a guess.

use std::fmt;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{Command, CommandError, CommandReply};

/// What an entry of the Raft log carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Proposal(pub(super) Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Command::Genesis(_) => f.write_str("Genesis"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What applying an entry answers; `None` for blank and membership entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied(pub(super) Option<Result<CommandReply, CommandError>>);

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

openraft::declare_raft_types!(
    pub(super) Types:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
);

pub(super) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Vec<u8>>;
pub(super) type Raft = openraft::Raft<Types, super::machine::Machine>;
pub(super) type Metrics = openraft::RaftMetrics<Types>;

/// The format of everything encoded here. 2: regions say of whom they are behind.
const FORMAT: u8 = 4;

/// Format byte and postcard.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_extend(value, vec![FORMAT]).map_err(io::Error::other)
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    match bytes.split_first() {
        Some((&FORMAT, body)) => {
            postcard::from_bytes(body).map_err(|error| damaged(error.to_string()))
        }
        Some((format, _)) => Err(damaged(format!("format {format} is unknown"))),
        None => Err(damaged("empty value".into())),
    }
}

/// Runs blocking file work on tokio's blocking threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
