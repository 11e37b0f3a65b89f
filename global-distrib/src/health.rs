//! Room: from "when did we last hear of it" to what follows: lit, dark (contacts see `unavailable`), dead (rows may go).
//! Pure; called by the node's once-a-second tick. Time is milliseconds on the caller's monotonic clock.

use std::collections::BTreeMap;

use crate::node_ix::NodeIx;

/// What we believe of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// Heard of lately.
    Lit,
    /// Silent for `dead_after`: its users are shown unavailable, what is sent to them waits.
    Dark,
}

/// A change of belief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has been silent for too long.
    WentDark(NodeIx),
    /// It is back.
    CameBack(NodeIx),
}

#[derive(Debug)]
struct Seen {
    up: bool,
    since_ms: u64,
    light: Light,
}

/// One per process. Bounded by the number of nodes in metadata.
#[derive(Debug)]
pub struct Health {
    dead_after_ms: u64,
    nodes: BTreeMap<NodeIx, Seen>,
}

impl Health {
    /// `dead_after_ms`: how long a link may be down before the node is dark.
    pub fn new(dead_after_ms: u64) -> Self {
        Self { dead_after_ms, nodes: BTreeMap::new() }
    }

    /// The link to a node came up.
    pub fn up(&mut self, node: NodeIx, now_ms: u64) -> Option<Turn> {
        let was_dark = self.nodes.get(&node).is_some_and(|seen| seen.light == Light::Dark);
        self.nodes.insert(node, Seen { up: true, since_ms: now_ms, light: Light::Lit });
        was_dark.then_some(Turn::CameBack(node))
    }

    /// The link to a node went down; `heard_ms` is when it was last heard of.
    pub fn down(&mut self, node: NodeIx, heard_ms: u64) {
        if let Some(seen) = self.nodes.get_mut(&node)
            && seen.up
        {
            seen.up = false;
            seen.since_ms = heard_ms;
        }
    }

    /// The node is no longer part of the deployment.
    pub fn forget(&mut self, node: NodeIx) {
        self.nodes.remove(&node);
    }

    /// Once a second: who went dark.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Turn> {
        let dead_after = self.dead_after_ms;
        let mut turns = Vec::new();
        for (node, seen) in &mut self.nodes {
            if !seen.up
                && seen.light == Light::Lit
                && now_ms.saturating_sub(seen.since_ms) >= dead_after
            {
                seen.light = Light::Dark;
                turns.push(Turn::WentDark(*node));
            }
        }
        turns
    }

    /// Whether a node has been silent for too long.
    pub fn is_dark(&self, node: NodeIx) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.light == Light::Dark)
    }

    /// Whether the link to a node is up now.
    pub fn is_up(&self, node: NodeIx) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_cut_is_nobodys_business() {
        let mut health = Health::new(8_000);
        let us = NodeIx(1);
        assert_eq!(health.up(us, 0), None);
        health.down(us, 1_000);
        assert!(health.tick(8_999).is_empty());
        assert_eq!(health.up(us, 9_000), None);
    }

    #[test]
    fn silence_turns_a_node_dark_once_and_return_lights_it() {
        let mut health = Health::new(8_000);
        let us = NodeIx(1);
        health.up(us, 0);
        health.down(us, 1_000);
        assert_eq!(health.tick(9_000), [Turn::WentDark(us)]);
        assert!(health.tick(20_000).is_empty());
        assert_eq!(health.up(us, 30_000), Some(Turn::CameBack(us)));
    }
}
