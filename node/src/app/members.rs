//! Room: nodes that are gone for good, and who votes in the metadata group. An operator's words; called by `operator`.
//!
//! A node that is only stopped stays a member: it may come back with what it had. One that will not is removed, so that nobody links to it, and the
//! metadata group does not count it, for ever. What it had promised is taken over first (`outbox::inherit`), by the region's scribe, in the region's database: so
//! a node of its own region is asked.
//! Left out: a removed node that starts again is a new member, as one that was never known; without a vote.

use replication::metadata::{Command, MetaState, NodeRecord, RegionState};

use super::Node;
use crate::admin::Refusal;
use crate::outbox::inherit;

/// What removes a node, if it may be removed.
///
/// # Errors
/// It is not known, or counts as alive, or is not of this node's region, or has left something that nobody has taken over yet.
pub(super) async fn removal(node: &Node, name: &str) -> Result<Command, Refusal> {
    let region = &node.geo.me.region;
    may_go(&node.metadata.state(), region, name)?;
    match inherit::has_left(&*node.storage, name).await {
        Ok(false) => Ok(Command::NodeRemove { name: name.to_owned() }),
        Ok(true) => Err(Refusal::conflict(format!(
            "what {name} had promised has not been taken over yet: try again in a moment"
        ))),
        Err(error) => Err(Refusal::unavailable(error.to_string())),
    }
}

/// Whether a node of that region may say that one is gone for good.
fn may_go(state: &MetaState, region: &str, name: &str) -> Result<(), Refusal> {
    let record = known(state, name)?;
    if state.is_live(name) {
        return Err(Refusal::conflict(format!(
            "{name} counts as alive: stop it, and wait until it does not (geo.node_down_after)"
        )));
    }
    // An operator who has given up a whole region has given up its database too.
    let is_given_up = state.region_state(&record.region) == RegionState::Off;
    if record.region != region && !is_given_up {
        return Err(Refusal::conflict(format!(
            "{name} is of another region: ask a node of {:?}",
            record.region
        )));
    }
    Ok(())
}

fn known<'a>(state: &'a MetaState, name: &str) -> Result<&'a NodeRecord, Refusal> {
    state.nodes.get(name).ok_or_else(|| Refusal::not_found(format!("there is no node {name}")))
}

/// What gives a node a vote, or takes it.
///
/// # Errors
/// It is not known, or is the only one that votes.
pub(super) fn vote(state: &MetaState, name: &str, votes: bool) -> Result<Command, Refusal> {
    known(state, name)?;
    let mut others = state.nodes.iter().filter(|(other, of)| **other != name && of.voter);
    if !votes && others.next().is_none() {
        return Err(Refusal::conflict(format!("nobody but {name} votes")));
    }
    Ok(Command::NodeVoter { name: name.to_owned(), voter: votes })
}

#[cfg(test)]
mod tests {
    use replication::metadata::Region;

    use super::*;
    use crate::admin::RefusalKind;
    use crate::testing::House;

    fn state() -> MetaState {
        let node = |region: &str, node: u16, raft_id, voter| {
            let (address, fingerprint) = ("h:1".to_owned(), String::new());
            let region = region.to_owned();
            let record =
                NodeRecord { region, node, raft_id, address, fingerprint, voter, incarnation: 1 };
            (format!("{}-{node}", record.region), record)
        };
        let nodes = [node("eu", 0, 1, true), node("eu", 1, 2, false), node("us", 0, 3, false)];
        let mut state = MetaState::genesis([Region::up("eu"), Region::up("us")], nodes, []);
        state.version = 1;
        state
    }

    fn kind<T>(done: Result<T, Refusal>) -> Option<RefusalKind> {
        done.err().map(|refusal| refusal.kind)
    }

    #[test]
    fn one_is_removed_that_has_fallen_and_by_its_own_region() {
        let mut state = state();
        assert_eq!(kind(may_go(&state, "eu", "eu-7")), Some(RefusalKind::NotFound));
        assert_eq!(kind(may_go(&state, "eu", "eu-1")), Some(RefusalKind::Conflict));
        state.fallen.insert("eu-1".into(), 1);
        assert_eq!(kind(may_go(&state, "us", "eu-1")), Some(RefusalKind::Conflict));
        assert_eq!(kind(may_go(&state, "eu", "eu-1")), None);
    }

    #[test]
    fn those_of_a_region_that_was_given_up_are_removed_from_anywhere() {
        let mut state = state();
        for (declared, refused) in
            [(RegionState::Down, Some(RefusalKind::Conflict)), (RegionState::Off, None)]
        {
            state.regions.get_mut("us").expect("known").state = declared;
            assert_eq!(kind(may_go(&state, "eu", "us-0")), refused);
        }
    }

    #[test]
    fn somebody_votes() {
        let mut state = state();
        assert_eq!(kind(vote(&state, "eu-0", false)), Some(RefusalKind::Conflict));
        assert_eq!(kind(vote(&state, "eu-9", true)), Some(RefusalKind::NotFound));
        state.apply(&vote(&state, "us-0", true).expect("known")).expect("allowed");
        assert_eq!(kind(vote(&state, "eu-0", false)), None);
    }

    #[tokio::test]
    async fn what_it_had_promised_is_taken_over_first() {
        let house = House::new().await;
        let storage = &*house.node.storage;
        assert!(!inherit::has_left(storage, "eu-1").await.expect("memory"));
        for outbox in ["eu-1", "eu-1*", "eu-1/archive", "eu-1/archive*"] {
            storage
                .outbox_write(outbox, vec![(1, b"x".to_vec())], Vec::new())
                .await
                .expect("memory");
            assert!(inherit::has_left(storage, "eu-1").await.expect("memory"), "{outbox}");
            storage.outbox_write(outbox, Vec::new(), vec![1]).await.expect("memory");
        }
        assert!(!inherit::has_left(storage, "eu-1").await.expect("memory"));
    }
}
