//! Room: the session row, "this full JID is connected there" (blueprint §1), and its form in the route log.
//! One writer: the region that holds the connection. Generation is the bind's hybrid time; it decides conflicts, never wall time.

use replication::clock::Hlc;
use serde::{Deserialize, Serialize};
use xmpp::jid::FullJid;

use crate::node_ix::NodeIx;

/// Where a row's connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<H> {
    /// On this node, reachable through the handle.
    Here(H),
    /// On another node.
    There(NodeIx),
}

/// One connected resource.
#[derive(Clone, Debug)]
pub struct Row<H> {
    /// The full JID.
    pub full: FullJid,
    /// Where it is.
    pub place: Place<H>,
    /// When it was bound. A newer generation of the same full JID wins; on a tie the greater node name does (the caller says).
    pub generation: Hlc,
    /// RFC 6121 §4.7.2.3; meaningful only when available.
    pub priority: i8,
    /// Has sent initial presence and not withdrawn it.
    pub available: bool,
    /// Available to its own user and to nobody else (XEP-0186).
    pub hidden: bool,
    /// False while its node has been silent for longer than `geo.dead_after`: contacts were told `unavailable`.
    pub lit: bool,
    /// It came out from under a newer one that has ended: whoever was shown that one has not seen it since, and its node has not said what it shows.
    pub emerged: bool,
}

impl<H> Row<H> {
    /// Of a resource that shows itself to nobody yet.
    pub fn new(full: FullJid, place: Place<H>, generation: Hlc) -> Self {
        let (priority, available, hidden) = (0, false, false);
        Self { full, place, generation, priority, available, hidden, lit: true, emerged: false }
    }

    /// The handle, if the row is here.
    pub fn here(&self) -> Option<&H> {
        match &self.place {
            Place::Here(handle) => Some(handle),
            Place::There(_) => None,
        }
    }

    /// The node, if the row is elsewhere.
    pub fn there(&self) -> Option<NodeIx> {
        match self.place {
            Place::Here(_) => None,
            Place::There(node) => Some(node),
        }
    }
}

/// The presence of a resource, as far as rows know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shows {
    /// [`Row::priority`].
    pub priority: i8,
    /// [`Row::available`].
    pub available: bool,
    /// [`Row::hidden`].
    pub hidden: bool,
}

/// A change of rows as the route log carries it, in the order it happened. Idempotent: applying one twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteEntry {
    /// A snapshot begins: what the receiver knew of this node's rows and is not repeated before `SnapshotEnd` is gone.
    SnapshotBegin,
    /// All rows have been told.
    SnapshotEnd,
    /// A resource was bound, or its row is repeated in a snapshot.
    Bind {
        /// Whose.
        full: FullJid,
        /// When.
        generation: Hlc,
        /// Its priority.
        priority: i8,
        /// Whether it is available.
        available: bool,
        /// To its own user only.
        hidden: bool,
    },
    /// Its presence changed.
    Update {
        /// Whose.
        full: FullJid,
        /// Which bind.
        generation: Hlc,
        /// New priority.
        priority: i8,
        /// New availability.
        available: bool,
        /// To its own user only.
        hidden: bool,
    },
    /// It is gone.
    Unbind {
        /// Whose.
        full: FullJid,
        /// Which bind.
        generation: Hlc,
    },
    /// It is gone here and goes on at another node, whose own row says so: nobody is told an end.
    Passed {
        /// Whose.
        full: FullJid,
        /// Which bind.
        generation: Hlc,
        /// The name of the node where it goes on.
        to: String,
    },
}
