//! Says to metadata which regions have caught up with what is homed here, so that they inherit again (`replication::metadata::MetaState::heir`). Each
//! home says it for its own log: it is the one that knows. Blueprint §7.

use std::sync::Arc;
use std::time::Duration;

use replication::ProposeError;
use replication::metadata::{Command, RegionState};

use super::Node;

/// Between two looks, and how long a region may take to come to the end of the log before others are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long metadata may take to agree.
const AGREE: Duration = Duration::from_secs(2);

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    loop {
        for region in &behind(&node) {
            // Until it is certain what became of the proposal nothing is answered that the region does not have: it may be the heir any moment.
            let Some(_joining) = node.homes.joins(region, LOOK).await else { continue };
            let home = node.geo.me.region.to_string();
            let command = Command::CaughtUp { home, replica: region.clone() };
            let mut asked = false;
            while behind(&node).contains(region) {
                match node.metadata.propose(command.clone(), AGREE).await {
                    Ok(_) => tracing::info!(region, "has caught up, and inherits from here again"),
                    Err(ProposeError::NoLeader) if !asked => break,
                    Err(ProposeError::Refused(why)) => {
                        tracing::warn!(region, %why, "it has caught up, and does not count");
                        break;
                    }
                    Err(_) => asked = true,
                }
                tokio::select! {
                    biased; // the stop has waited longest
                    () = node.stopped() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
        tokio::select! {
            biased; // the stop has waited longest
            () = node.stopped() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn behind(node: &Node) -> Vec<String> {
    if node.homes.term().is_none() {
        return Vec::new();
    }
    let state = node.metadata.state();
    let me = &*node.geo.me.region;
    let behind = state.regions.values().filter(|region| {
        region.name != *me && region.state == RegionState::Up && region.behind.contains(me)
    });
    behind.map(|region| region.name.clone()).collect()
}
