//! What homes say to each other over a link, as values: requests, replies, and the shipping of the durable log.
//!
//! Every message begins with one byte of version; the rest is postcard. Called by the rooms beside it only. The link
//! carries these as opaque bytes.

use std::collections::BTreeSet;

use replication::Entry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::HomeError;
use crate::storage::{Place, Position, Row};

/// The first byte of every message.
const VERSION: u8 = 1;

/// One life of one asking node, and which of its requests: what makes a resent request recognisable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct RequestId {
    pub(super) incarnation: u64,
    pub(super) counter: u64,
}

/// A request to a home.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) id: RequestId,
    /// The epoch under which the asker believes the other to be the home.
    pub(super) epoch: u64,
    pub(super) account: String,
    pub(super) op: String,
    pub(super) request: Vec<u8>,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) result: Result<Vec<u8>, HomeError>,
    /// Where the home's log stood: whoever has applied so much sees what the request did.
    pub(super) at: Position,
}

/// What travels in either direction to keep a replica's copy. Homes send `Batch` and the snapshot, replicas the others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ship {
    /// I have applied so much of your log: go on from there. Said whenever the link comes up, and after a gap.
    From {
        /// None: nothing yet.
        position: Option<Position>,
        /// The file this database was begun with, if any.
        genesis: Option<Vec<u8>>,
        /// Shards that have become yours and of which I need a whole copy first, each with the epoch in which they did.
        shards: Vec<(u8, u64)>,
    },
    /// The entries that follow, dense.
    Batch { log: u64, entries: Vec<Entry> },
    /// I have applied so much; nothing up to here need be kept for me.
    Ack(Position),
    /// A whole copy begins: all rows of these shards that are homed with me.
    SnapshotBegin { copy: u64, shards: Vec<u8> },
    /// The rows between the last `to` (at first: the beginning) and this one (None: the end), all of them. Numbered
    /// from 1 in each copy.
    SnapshotRows { copy: u64, number: u64, to: Option<Place>, rows: Vec<Row> },
    /// These rows are written; the home sends only a few ahead of this.
    SnapshotAck { copy: u64, number: u64 },
    /// The copy is complete. If it was one of everything, the log goes on after this position.
    SnapshotEnd { copy: u64, position: Option<Position> },
    /// What you wrote of this owner came from an epoch that has ended, and counts for nothing here. Said before it is acknowledged.
    Stale { owner: String },
    /// A whole copy of everything begins: as [`Ship::SnapshotBegin`], with the rows of those on my own domain, who are of no shard, and of these accounts,
    /// which are pinned to me wherever their shard is.
    SnapshotOfAll { copy: u64, shards: Vec<u8>, pins: BTreeSet<String> },
}

/// The message's bytes.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(VERSION);
    postcard::to_extend(message, out).expect("strings, numbers and bytes always serialise")
}

/// The message, if it is one of this version.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_version_or_a_cut_one_is_none() {
        let reply = Reply { result: Err(HomeError::Busy), at: Position { log: 9, seq: 7 } };
        let bytes = encode(&reply);
        assert_eq!(decode::<Reply>(&bytes).unwrap().at, reply.at);
        assert!(decode::<Reply>(&bytes[..bytes.len() - 1]).is_none());
        assert!(decode::<Reply>(&[&[2], &bytes[1..]].concat()).is_none());
        assert!(decode::<Reply>(&[]).is_none());
    }
}
