//! `[metadata]`: this node's part in the Raft group that keeps regions, nodes, domains and homes.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;

/// The `[metadata]` section. `election_min < election_max`, and both are at least twice the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The name of the group. A node refuses to join one of another name.
    pub cluster: String,
    /// This node's number in the group, never used again for another node.
    pub raft_id: u64,
    /// Whether it votes: one node a region, from three regions up.
    pub voter: bool,
    /// Where log and snapshots are kept; by default `metadata` in the data directory.
    pub dir: PathBuf,
    /// How often the leader says that it is there. A follower must answer within it, so it is longer than any round trip.
    pub heartbeat: Duration,
    /// Shortest silence before a follower stands for election.
    pub election_min: Duration,
    /// Longest.
    pub election_max: Duration,
}

pub(crate) fn read(table: &Table<'_>) -> Metadata {
    let time = |key, default: u64| {
        table.between(
            key,
            Duration::from_millis(default),
            Duration::from_millis(10),
            Duration::from_secs(600),
            "a duration from \"10ms\" to \"10m\"",
        )
    };
    let metadata = Metadata {
        cluster: table.value("cluster", "pangaea".to_owned()),
        raft_id: table.value("raft_id", 1),
        voter: table.value("voter", true),
        // Joined to node.data_dir by `check` when it is left out.
        dir: table.path("dir", Some(PathBuf::new())),
        heartbeat: time("heartbeat", 1_000),
        election_min: time("election_min", 4_000),
        election_max: time("election_max", 6_000),
    };
    if metadata.election_min < metadata.heartbeat * 2 {
        table.refuse(
            "election_min",
            format!("at least twice the heartbeat, {:?}", metadata.heartbeat * 2),
            format!("{:?}", metadata.election_min),
        );
    }
    if metadata.election_max <= metadata.election_min {
        table.refuse(
            "election_max",
            format!("more than election_min, {:?}", metadata.election_min),
            format!("{:?}", metadata.election_max),
        );
    }
    metadata
}
