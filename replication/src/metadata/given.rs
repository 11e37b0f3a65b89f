//! Metadata without Raft: whoever implements [`Agreement`] says what is agreed on. The simulator does; `handle` asks.
//!
//! What it must give is what Raft gives: all nodes apply the same commands in the same order, a node may be behind, a minority agrees on
//! nothing. Raft itself has its own tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::shared::MetaStatus;
use super::types::{Command, CommandReply, MetaState};
use crate::error::ProposeError;

/// One node's end of an agreement.
pub trait Agreement: Send + Sync + 'static {
    /// As [`Metadata::state`](super::Metadata::state).
    fn state(&self) -> Arc<MetaState>;
    /// As [`Metadata::watch`](super::Metadata::watch).
    fn watch(&self) -> watch::Receiver<u64>;
    /// As [`Metadata::leader`](super::Metadata::leader).
    fn leader(&self) -> Option<String>;
    /// As [`Metadata::propose`](super::Metadata::propose).
    fn propose(
        &self,
        command: Command,
        within: Duration,
    ) -> BoxFuture<'static, Result<CommandReply, ProposeError>>;
}

/// What can be said of it to an operator.
pub(super) fn status(given: &dyn Agreement) -> MetaStatus {
    MetaStatus {
        node: String::new(),
        raft_id: 0,
        role: "given".into(),
        leader: given.leader(),
        term: 0,
        version: given.state().version,
        last_log_index: None,
        committed: None,
        applied: None,
        snapshot: None,
        voters: Vec::new(),
        learners: Vec::new(),
        lag: BTreeMap::new(),
    }
}
