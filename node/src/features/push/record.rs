//! A device that is registered for pushes, as it is stored. Store `push`: a map, owner the account, key [`key`]. Written by its home only.

use serde::{Deserialize, Serialize};

/// The store.
pub const PUSH: &str = "push";

/// One entry of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The app server.
    pub jid: String,
    /// Its node, if the client named one.
    pub node: Option<String>,
    /// The form that goes with every publication: `<x/>`, as bytes.
    pub options: Option<Vec<u8>>,
    /// The resource that registered it last: while that is connected, the device hears of messages by itself.
    pub resource: String,
    /// Part of the ids of what is published: an answer names the registration by it.
    pub token: u64,
    /// When it was registered, the home's hybrid time.
    pub since: u64,
}

/// The key of a registration: app server and node are one only together (XEP-0357 §5).
pub fn key(jid: &str, node: Option<&str>) -> String {
    // No JID has a line break in it.
    format!("{jid}\n{}", node.unwrap_or_default())
}

impl Registration {
    /// Its key in the store.
    pub fn key(&self) -> String {
        key(&self.jid, self.node.as_deref())
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a plain value")
    }

    /// Reads it; `None` if it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Registration> {
        postcard::from_bytes(bytes).ok()
    }
}
