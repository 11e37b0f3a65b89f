//! Invitations as the admin API says them: plain values, JSON on the wire, described by OpenAPI. A URI has the token in it: do not log it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /admin/invitations`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    /// The account in whose name; nobody's: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The name the new account is to have; it is kept for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// It is good for an account. Not: for a contact alone, in the name of `of`.
    pub register: bool,
    /// Whoever uses it and `of` become contacts of each other.
    pub contact: bool,
    /// How often it may be used; once if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// How many seconds it is good; `invitations.expire` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// An invitation that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedInvitation {
    /// By which it is listed and revoked.
    pub id: String,
    /// For whoever is invited: `xmpp:…`
    pub uri: String,
    /// The page about it, if there is one.
    pub landing_url: Option<String>,
    /// No good from then on: milliseconds since the Unix epoch.
    pub expires: u64,
}

impl std::fmt::Debug for IssuedInvitation {
    /// Without the token.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "IssuedInvitation({}, {})", self.id, self.expires)
    }
}

/// An invitation that is still good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvitationInfo {
    /// By which it is revoked.
    pub id: String,
    /// It is good for an account.
    pub register: bool,
    /// Whoever uses it becomes a contact.
    pub contact: bool,
    /// The only name that account may have.
    pub username: Option<String>,
    /// How often it may still be used.
    pub uses: u32,
    /// Milliseconds since the Unix epoch.
    pub created: u64,
    /// The same: no good from then on.
    pub expires: u64,
}
