//! What the public handle and the background tasks share: Raft itself, the road to the others, who leads.
//!
//! Called by `handle.rs` and `keeper.rs`. Metrics are read in closures that end before anything is awaited: openraft's
//! core stands still while somebody holds its watch.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::machine::Published;
use super::net::{Answer, Call, Network, Proposed, Request};
use super::raft::{LogId, Metrics, Proposal, Raft, Snapshot, decode, encode};
use super::types::{Command, CommandError, CommandReply};

/// Cheap to clone; holds no task.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) raft: Raft,
    pub(super) published: Arc<Published>,
    pub(super) network: Network,
    pub(super) me: u64,
    pub(super) name: Arc<str>,
    /// Nodes to ask while no leader is known.
    pub(super) seeds: Arc<[String]>,
    /// After so much silence a leader no longer counts as leading.
    pub(super) lease: Duration,
    /// When a leader was last heard (an append or a snapshot it sent was accepted) in this life.
    pub(super) heard: watch::Sender<Option<Instant>>,
}

/// How one attempt at a proposal ended.
pub(super) enum Attempt {
    Done(Result<CommandReply, CommandError>),
    /// Certainly not carried out; perhaps this node leads.
    NotLeader(Option<String>),
    /// Perhaps carried out.
    Unknown,
    Stopped(String),
}

/// Membership and leadership as this node sees them.
pub(super) struct View {
    pub(super) state: ServerState,
    pub(super) term: u64,
    pub(super) voters: BTreeSet<u64>,
    /// Every member, learners too: Raft id → node name.
    pub(super) members: BTreeMap<u64, String>,
    pub(super) joint: bool,
    pub(super) last_log: Option<u64>,
    /// Leader only: the newest entry each member is known to have.
    pub(super) matched: BTreeMap<u64, Option<u64>>,
}

impl Core {
    /// Reads the metrics without holding them.
    pub(super) fn metrics<T>(&self, read: impl FnOnce(&Metrics) -> T) -> T {
        read(&self.raft.metrics().borrow_watched())
    }

    pub(super) fn view(&self) -> View {
        self.metrics(|metrics| {
            let membership = metrics.membership_config.membership();
            View {
                state: metrics.state,
                term: metrics.current_term,
                voters: membership.voter_ids().collect(),
                members: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
                joint: membership.get_joint_config().len() > 1,
                last_log: metrics.last_log_index,
                matched: metrics
                    .replication
                    .iter()
                    .flatten()
                    .map(|(id, log_id)| (*id, log_id.map(|log_id| log_id.index)))
                    .collect(),
            }
        })
    }

    /// The leader: ourselves while a majority answers us, another while we hear it.
    pub(super) fn leader(&self) -> Option<u64> {
        let (state, leader, acked, alone) = self.metrics(|metrics| {
            let acked = metrics.last_quorum_acked.map(|at| openraft::Instant::elapsed(&*at));
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            (metrics.state, metrics.current_leader, acked, alone)
        });
        let lives = if state == ServerState::Leader {
            alone || acked.is_some_and(|age| age <= self.lease)
        } else {
            leader != Some(self.me)
                && self.heard.borrow().is_some_and(|at| at.elapsed() <= self.lease)
        };
        leader.filter(|_| lives)
    }

    /// The name of a member.
    pub(super) fn member(&self, id: u64) -> Option<String> {
        self.metrics(|metrics| {
            metrics.membership_config.membership().get_node(&id).map(|node| node.addr.clone())
        })
    }

    /// As leader: asks the other voter that has the most of the log to take over. Answers whether there is one.
    pub(super) async fn hand_over(&self, view: &View) -> bool {
        let others = view.voters.iter().filter(|id| **id != self.me);
        match others.max_by_key(|id| view.matched.get(id).copied().flatten()) {
            Some(heir) => self.raft.trigger().transfer_leader(*heir).await.is_ok(),
            None => false,
        }
    }

    /// Proposes here, without forwarding.
    pub(super) async fn propose_here(&self, command: Command) -> Attempt {
        match self.raft.client_write(Proposal(command)).await {
            Ok(written) => match written.data.0 {
                Some(result) => Attempt::Done(result),
                None => Attempt::Unknown,
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Attempt::NotLeader(forward.leader_node.map(|node| node.addr))
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Attempt::Unknown,
            Err(RaftError::APIError(_)) => Attempt::NotLeader(None),
            Err(RaftError::Fatal(fatal)) => Attempt::Stopped(fatal.to_string()),
        }
    }

    /// Proposes at another node.
    pub(super) async fn propose_at(
        &self,
        node: &str,
        command: &Command,
        within: Duration,
    ) -> Attempt {
        let call = Call::Propose(command.clone(), within);
        match tokio::time::timeout(within, self.network.call::<Proposed>(node, 0, call)).await {
            Ok(Ok(Proposed::Done(result))) => Attempt::Done(result),
            Ok(Ok(Proposed::NotLeader(leader))) => Attempt::NotLeader(leader),
            Ok(Ok(Proposed::Unknown)) | Err(_) => Attempt::Unknown,
            Ok(Err(_)) => Attempt::NotLeader(None),
        }
    }

    /// Answers another node's request. The answer is always well formed; a refusal is inside it.
    pub(super) async fn handle(&self, body: Vec<u8>) -> Vec<u8> {
        let answered = match decode::<Request>(&body) {
            Err(error) => refuse(error.to_string()),
            Ok(request) if request.cluster != self.network.cluster => {
                refuse(format!("this is cluster {:?}", self.network.cluster))
            }
            Ok(request) if request.to != self.me && request.to != 0 => {
                refuse(format!("this is Raft node {}", self.me))
            }
            Ok(request) => self.answer(request.call).await,
        };
        answered.unwrap_or_else(|error| {
            tracing::error!(%error, "a metadata answer could not be encoded");
            Vec::new()
        })
    }

    async fn answer(&self, call: Call) -> io::Result<Vec<u8>> {
        match call {
            Call::Append(rpc) => {
                let response = self.raft.append_entries(rpc).await;
                if !matches!(response, Ok(AppendEntriesResponse::HigherVote(_)) | Err(_)) {
                    self.heard.send_replace(Some(Instant::now()));
                }
                answer(response)
            }
            Call::Vote(rpc) => answer(self.raft.vote(rpc).await),
            Call::PreVote(rpc) => answer(self.raft.pre_vote(rpc).await),
            Call::Snapshot { vote, meta, state } => {
                let installed =
                    self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: state }).await;
                if installed.is_ok() {
                    self.heard.send_replace(Some(Instant::now()));
                }
                answer(installed)
            }
            Call::TransferLeader(request) => {
                answer(self.raft.handle_transfer_leader(request).await)
            }
            Call::Propose(command, within) => {
                let proposed = match tokio::time::timeout(within, self.propose_here(command)).await
                {
                    Ok(Attempt::Done(result)) => Proposed::Done(result),
                    Ok(Attempt::NotLeader(leader)) => Proposed::NotLeader(leader),
                    Ok(Attempt::Stopped(_)) => Proposed::NotLeader(None),
                    Ok(Attempt::Unknown) | Err(_) => Proposed::Unknown,
                };
                encode::<Answer<Proposed>>(&Ok(proposed))
            }
        }
    }

    /// What an operator wants to know.
    pub(super) fn status(&self) -> MetaStatus {
        let view = self.view();
        let name = |id: &u64| view.members.get(id).cloned().unwrap_or_else(|| id.to_string());
        let index = |log_id: Option<LogId>| log_id.map(|log_id| log_id.index);
        let (committed, applied, snapshot) = self.metrics(|metrics| {
            (index(metrics.local_committed), index(metrics.last_applied), index(metrics.snapshot))
        });
        let leads = view.state == ServerState::Leader;
        let lag = |matched: &Option<u64>| {
            view.last_log
                .map_or(0, |last| (last + 1).saturating_sub(matched.map_or(0, |index| index + 1)))
        };
        MetaStatus {
            node: self.name.to_string(),
            raft_id: self.me,
            role: format!("{:?}", view.state).to_lowercase(),
            leader: self.leader().map(|id| name(&id)),
            term: view.term,
            version: self.published.state().version,
            last_log_index: view.last_log,
            committed,
            applied,
            snapshot,
            voters: view.voters.iter().map(name).collect(),
            learners: view
                .members
                .keys()
                .filter(|id| !view.voters.contains(id))
                .map(name)
                .collect(),
            lag: if leads {
                view.matched.iter().map(|(id, matched)| (name(id), lag(matched))).collect()
            } else {
                BTreeMap::new()
            },
        }
    }
}

fn answer<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> io::Result<Vec<u8>> {
    let result: Answer<T> = result.map_err(|error| error.to_string());
    encode(&result)
}

fn refuse(why: String) -> io::Result<Vec<u8>> {
    encode::<Answer<()>>(&Err(why))
}

/// Metadata as one node sees it, for `pangaea ctl` and the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetaStatus {
    /// This node's name.
    pub node: String,
    /// This node's Raft id.
    pub raft_id: u64,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: String,
    /// The leader's name; none while a majority is out of reach or silent.
    pub leader: Option<String>,
    /// Raft's term: grows with every election.
    pub term: u64,
    /// [`super::MetaState::version`] here.
    pub version: u64,
    /// The newest entry in this node's log.
    pub last_log_index: Option<u64>,
    /// The newest entry this node knows to be agreed on.
    pub committed: Option<u64>,
    /// The newest entry in [`super::MetaState`] here.
    pub applied: Option<u64>,
    /// The entry at which the last snapshot was made.
    pub snapshot: Option<u64>,
    /// Names of the voters.
    pub voters: Vec<String>,
    /// Names of the members that only follow.
    pub learners: Vec<String>,
    /// On the leader: how many entries each member is behind.
    pub lag: BTreeMap<String, u64>,
}
