//! The background work of metadata: founding, a quick first election, and membership that follows the node records.
//!
//! Started by `handle.rs`. Three duties: (1) the first-named founder initialises an empty cluster; (2) after a start,
//! voters ask for an election at once instead of waiting an election timeout, so that a whole restart has a leader about
//! a second after a majority can talk (always through Pre-Vote: where a leader lives, this disturbs nobody); (3) the
//! leader proposes genesis, and moves Raft's membership, one change at a time, towards what the node records say:
//! learner first, voter when it has caught up, removed when the record is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers, ServerState};
use tokio::time::{Instant, timeout, timeout_at};

use super::handle::Genesis;
use super::shared::{Core, View};
use super::types::{Command, MetaState};

/// A learner this many entries behind, or fewer, is ready to vote.
const CAUGHT_UP: u64 = 50;

/// Times the keeper lives by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two attempts at an election after a start.
    pub(super) kick: Duration,
    /// How much later the second voter begins to try, the third after it, and so on.
    pub(super) stagger: Duration,
    /// Between two looks at the membership.
    pub(super) look: Duration,
    /// How long one membership change may take.
    pub(super) change: Duration,
}

/// Duties 1 and 2. Ends when somebody leads.
pub(super) async fn start_up(core: Core, genesis: Option<Genesis>, pace: Pace) {
    let voters = genesis.map(|genesis| genesis.voters).unwrap_or_default();
    if voters.first().is_some_and(|(id, _)| *id == core.me) {
        let members: BTreeMap<u64, BasicNode> =
            voters.iter().map(|(id, name)| (*id, BasicNode::new(name))).collect();
        // Refused when there is a log already; that is every start but the first.
        match core.raft.initialize(members).await {
            Ok(()) => tracing::info!(node = %core.name, "metadata: founding the cluster"),
            Err(error) => tracing::debug!(node = %core.name, %error, "metadata: not founding"),
        }
    }
    let started = Instant::now();
    let mut heard = core.heard.subscribe();
    let mut term_seen = (0, started);
    loop {
        let view = core.view();
        if view.state == ServerState::Leader {
            return;
        }
        if view.term != term_seen.0 {
            term_seen = (view.term, Instant::now());
        }
        let campaigning =
            view.state == ServerState::Candidate && term_seen.1.elapsed() < pace.stagger;
        if let Some(rank) = rank(core.me, &view, &voters)
            && !campaigning
            && started.elapsed() >= pace.stagger * rank
            && core.raft.trigger().elect(true).await.is_err()
        {
            return;
        }
        // A leader's word ends the waiting. That openraft names a leader does not: after a restart it is the old one.
        if timeout_at(Instant::now() + pace.kick, heard.wait_for(Option::is_some)).await.is_ok() {
            return;
        }
    }
}

/// The how-manieth voter this node is: as named at the founding, then by Raft id. None if it does not vote.
fn rank(me: u64, view: &View, named: &[(u64, String)]) -> Option<u32> {
    let place =
        |id: &u64| (named.iter().position(|(name, _)| name == id).unwrap_or(usize::MAX), *id);
    let mut voters: Vec<u64> = view.voters.iter().copied().collect();
    voters.sort_by_key(place);
    voters.iter().position(|id| *id == me).map(|rank| rank as u32)
}

/// Duty 3. Runs for as long as the node.
pub(super) async fn keep(core: Core, genesis: Option<Genesis>, pace: Pace) {
    let mut version = core.published.watch();
    loop {
        let mut changed = false;
        let view = core.view();
        if view.state == ServerState::Leader {
            let state = core.published.state();
            if state.version == 0 {
                if let Some(genesis) = &genesis {
                    let founding =
                        core.propose_here(Command::Genesis(Box::new(genesis.state.clone())));
                    let _ = timeout(pace.change, founding).await;
                }
            } else if let Some(step) = next_step(&state, &view) {
                tracing::info!(node = %core.name, ?step, "metadata: changing the membership");
                changed = match step {
                    // A leader does not demote itself: its heir will.
                    Step::Demote(id) if id == core.me => {
                        core.hand_over(&view).await;
                        false
                    }
                    step => carry_out(&core, step, pace.change).await,
                };
            }
        }
        if !changed {
            // Whichever is first: news, or time to look again. A closed channel means the node is gone with us.
            let look = if *version.borrow() == 0 { pace.kick } else { pace.look };
            let _ = timeout(look, version.changed()).await;
        }
    }
}

/// One change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    AddLearner(u64, String),
    Promote(u64),
    Demote(u64),
    Remove(u64),
}

/// The next change that brings the membership nearer to the node records. Never one that leaves no voter, and none while
/// the records name no voter at all or another change is under way.
fn next_step(state: &MetaState, view: &View) -> Option<Step> {
    let wanted: BTreeMap<u64, &str> =
        state.nodes.iter().map(|(name, node)| (node.raft_id, name.as_str())).collect();
    let voters: BTreeSet<u64> =
        state.nodes.values().filter(|node| node.voter).map(|node| node.raft_id).collect();
    if view.joint || voters.is_empty() {
        return None;
    }
    if let Some((id, name)) = wanted.iter().find(|(id, _)| !view.members.contains_key(id)) {
        return Some(Step::AddLearner(*id, (*name).to_owned()));
    }
    let caught_up = |id: &u64| {
        let matched = view.matched.get(id).copied().flatten();
        matched.is_some_and(|matched| matched + CAUGHT_UP >= view.last_log.unwrap_or(0))
    };
    if let Some(id) = voters.iter().find(|id| !view.voters.contains(id) && caught_up(id)) {
        return Some(Step::Promote(*id));
    }
    let stays = |id: &&u64| voters.contains(id);
    if view.voters.iter().any(|id| stays(&id))
        && let Some(id) = view.voters.iter().find(|id| !stays(id))
    {
        return Some(Step::Demote(*id));
    }
    view.members
        .keys()
        .find(|id| !wanted.contains_key(id) && !view.voters.contains(id))
        .map(|id| Step::Remove(*id))
}

/// Answers whether the change was made.
async fn carry_out(core: &Core, step: Step, within: Duration) -> bool {
    let raft = &core.raft;
    let change = async {
        match step.clone() {
            Step::AddLearner(id, name) => raft.add_learner(id, BasicNode::new(name), false).await,
            Step::Promote(id) => {
                raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
            }
            Step::Demote(id) => {
                raft.change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([id])), true)
                    .await
            }
            Step::Remove(id) => {
                raft.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), true).await
            }
        }
    };
    match timeout(within, Box::pin(change)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(node = %core.name, ?step, %error, "metadata: the membership could not be changed");
            false
        }
        Err(_) => {
            tracing::warn!(node = %core.name, ?step, "metadata: changing the membership takes long");
            false
        }
    }
}
