//! Invitations as they are stored and replicated. Store `invitations`: a map, owner the inviting account or (the operator's own) the domain,
//! key [`super::token::Token::key`]. Store `reserved`: one value, owner the account that an invitation is to make. Written only at the
//! owner's home (`home`).

use serde::{Deserialize, Serialize};

/// Invitations, by key.
pub const INVITATIONS: &str = "invitations";
/// The invitation that an account's name is kept for.
pub const RESERVED: &str = "reserved";

/// One invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// It may be used to make an account (XEP-0445).
    pub register: bool,
    /// Whoever uses it and the inviter become contacts of each other (XEP-0379).
    pub contact: bool,
    /// The only name that account may have.
    pub username: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created: u64,
    /// The same: no good from then on.
    pub expires: u64,
    /// How often it may still be used.
    pub uses: u32,
}

impl Invitation {
    /// Whether it is still good.
    pub fn is_good(&self, now_ms: u64) -> bool {
        now_ms < self.expires && self.uses > 0
    }

    /// Bytes for storage.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("an invitation is a plain value")
    }

    /// From storage; `None` when it is not ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// For which invitation a name is kept, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// The invitation's key.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub until: u64,
}

impl Reserved {
    /// Bytes for storage.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a reservation is a plain value")
    }

    /// From storage; `None` when it is not ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
