//! `[link]` and `[[peers]]`: the other nodes of the platform, and the timers and bounds of the links to them.

use std::time::Duration;

use crate::table::Table;
use crate::value::{Fingerprint, HostPort, RegionName, Size};

/// The `[link]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// How often an idle link says that it is alive.
    pub heartbeat: Duration,
    /// Silence after which a link counts as cut and is dialled anew.
    pub silent_after: Duration,
    /// From connect to the first frame; then the attempt is given up and made again.
    pub handshake_deadline: Duration,
    /// First pause before dialling again; it doubles up to `redial_max`.
    pub redial_min: Duration,
    /// Longest pause before dialling again.
    pub redial_max: Duration,
    /// Bytes queued and unacknowledged on one link. Beyond: stanzas to that region are bounced with
    /// `resource-constraint`.
    pub queue_bytes_max: usize,
}

/// `[[peers]]`: one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its region.
    pub region: String,
    /// Its number in the region, from 0.
    pub node: u16,
    /// Where it is dialled, `host:port`.
    pub address: String,
    /// The SHA-256 of its certificate: nobody else is taken for it.
    pub fingerprint: Fingerprint,
    /// Its number in the metadata group.
    pub raft_id: u64,
    /// Whether it votes there.
    pub voter: bool,
}

impl Peer {
    /// Its name, as in `us-0`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.region, self.node)
    }
}

pub(crate) fn read(table: &Table<'_>) -> Link {
    let time = |key, default: u64| {
        table.between(
            key,
            Duration::from_millis(default),
            Duration::from_millis(10),
            Duration::from_secs(600),
            "a duration from \"10ms\" to \"10m\"",
        )
    };
    let link = Link {
        heartbeat: time("heartbeat", 1_000),
        silent_after: time("silent_after", 5_000),
        handshake_deadline: time("handshake_deadline", 10_000),
        redial_min: time("redial_min", 100),
        redial_max: time("redial_max", 5_000),
        queue_bytes_max: table
            .between(
                "queue_bytes_max",
                Size(64 << 20),
                Size(1 << 20),
                Size(16 << 30),
                "a size from \"1MiB\" to \"16GiB\"",
            )
            .0,
    };
    if link.silent_after < link.heartbeat * 2 {
        table.refuse(
            "silent_after",
            format!("at least twice the heartbeat, {:?}", link.heartbeat * 2),
            format!("{:?}", link.silent_after),
        );
    }
    if link.redial_max < link.redial_min {
        table.refuse(
            "redial_max",
            format!("at least redial_min, {:?}", link.redial_min),
            format!("{:?}", link.redial_max),
        );
    }
    link
}

pub(crate) fn read_peers(root: &Table<'_>) -> Vec<Peer> {
    root.sections("peers")
        .iter()
        .map(|table| Peer {
            region: table.required::<RegionName>("region").0,
            node: table.value("node", 0),
            address: table.required::<HostPort>("address").0,
            fingerprint: table.required("fingerprint"),
            raft_id: table.required("raft_id"),
            voter: table.value("voter", true),
        })
        .collect()
}
