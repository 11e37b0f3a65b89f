//! Room: nodes that have registered and that metadata does not know. One of the region's nodes that it does know, the one with the least name,
//! proposes them: a node that joins can propose nothing itself, because no other region would let it in yet. The registry is trusted as the
//! region's own, like its database: who may write there may say who belongs to the region, and nothing of other regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use replication::metadata::{Command, MetaState, NodeRecord};

use super::machine::Known;
use crate::app::Node;

/// How long metadata may take to agree.
const AGREE: Duration = Duration::from_secs(5);

/// Whom this node has to propose.
fn strangers(
    me: &str,
    region: &str,
    state: &MetaState,
    found: &BTreeMap<String, Known>,
) -> Vec<(String, NodeRecord)> {
    let living = found.iter().filter(|(_, known)| known.lives);
    let mut known = living.clone().filter(|(name, _)| state.nodes.contains_key(*name));
    if known.next().map(|(name, _)| name.as_str()) != Some(me) {
        return Vec::new();
    }
    living
        .filter(|(name, known)| {
            known.record.node.region == region && !state.nodes.contains_key(*name)
        })
        .map(|(name, known)| (name.clone(), known.record.node.clone()))
        .collect()
}

/// Whom this node has to propose now.
pub(super) fn strangers_of(node: &Node) -> Vec<(String, NodeRecord)> {
    let (me, state) = (node.geo.me.to_string(), node.metadata.state());
    strangers(&me, &node.geo.me.region, &state, &node.registry.found.lock().nodes)
}

/// Proposes them, once. Those that metadata does not take are still strangers with the next beat.
pub(super) async fn propose(node: &Arc<Node>, strangers: Vec<(String, NodeRecord)>) {
    for (name, record) in strangers {
        let command = Command::NodeUp { name: name.clone(), record };
        match node.metadata.propose(command, AGREE).await {
            Ok(_) => tracing::info!(node = %name, "has registered, and is known to metadata now"),
            Err(error) => {
                tracing::warn!(node = %name, %error, "has registered, and metadata does not take it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use replication::metadata::Region;

    use super::super::row::Record;
    use super::*;

    fn record(region: &str, node: u16) -> NodeRecord {
        NodeRecord {
            region: region.into(),
            node,
            raft_id: u64::from(node) + 1,
            address: "h:1".into(),
            fingerprint: String::new(),
            voter: false,
            incarnation: 1,
        }
    }

    #[test]
    fn the_least_node_that_metadata_knows_proposes_those_it_does_not() {
        let nodes = [("eu-0".to_owned(), record("eu", 0)), ("eu-1".to_owned(), record("eu", 1))];
        let state = MetaState::genesis([Region::up("eu")], nodes, []);
        let known = |region: &str, node: u16, lives: bool| {
            let record = Record { node: record(region, node), version: String::new() };
            (format!("{region}-{node}"), Known { record, lives, seen_ms: 0 })
        };
        let found = BTreeMap::from([
            known("eu", 0, false),
            known("eu", 1, true),
            known("eu", 2, true),
            known("eu", 3, false),
            known("us", 4, true),
        ]);
        let named = |me: &str| -> Vec<String> {
            strangers(me, "eu", &state, &found).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            named("eu-1"),
            ["eu-2"],
            "eu-0 has no lease, eu-3 does not live, us-4 is not ours to say"
        );
        assert!(named("eu-0").is_empty() && named("eu-2").is_empty());
    }
}
