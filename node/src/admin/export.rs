//! What of an account travels to another server or comes from one: plain values, JSON on the wire, described by OpenAPI.
//!
//! `pie` reads and writes them as XEP-0227, `app::portable` as what is stored. Secrets are in them: do not log them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An account with all it has.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserExport {
    /// The bare JID.
    pub account: String,
    /// When it was made, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// Exists, receives, but may not sign in.
    #[serde(default)]
    pub disabled: bool,
    /// The password itself, where another server has kept it. Never exported; what it lacks of `scram` is made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// One a mechanism.
    #[serde(default)]
    pub scram: Vec<ScramCredentials>,
    /// The roster, without contacts that have only asked.
    #[serde(default)]
    pub roster: Vec<RosterItem>,
    /// Requests to be subscribed that have no answer: `<presence type='subscribe' from='…'/>`, as text.
    #[serde(default)]
    pub requests: Vec<String>,
    /// The vCard: `<vCard xmlns='vcard-temp'/>`, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcard: Option<String>,
    /// Elements in private storage (XEP-0049), each as text.
    #[serde(default)]
    pub private: Vec<String>,
    /// Privacy lists (XEP-0016), the block list (XEP-0191) among them: a `<query/>`, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<String>,
    /// What is to be archived (XEP-0441): `<prefs xmlns='urn:xmpp:mam:2'/>`, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<String>,
    /// Messages that wait, the oldest first: `<message/>`, as text, in `jabber:client` unless it says otherwise.
    #[serde(default)]
    pub offline: Vec<String>,
    /// More messages wait: ask for those after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
    /// An import goes on with what was archived: until its last part has come, the account is disabled.
    #[serde(default)]
    pub archive_follows: bool,
}

/// What one signs in with (RFC 5802 §3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScramCredentials {
    /// `SCRAM-SHA-1` or `SCRAM-SHA-256`.
    pub mechanism: String,
    /// The iteration count.
    pub iterations: u32,
    /// The salt, base64.
    pub salt: String,
    /// ServerKey, base64.
    pub server_key: String,
    /// StoredKey, base64.
    pub stored_key: String,
}

/// A contact (RFC 6121 §2.1.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RosterItem {
    /// The contact's bare JID.
    pub jid: String,
    /// The user's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who receives whose presence.
    #[serde(default)]
    pub subscription: Subscription,
    /// The user has asked and has no answer.
    #[serde(default)]
    pub ask: bool,
    /// The user has approved before being asked.
    #[serde(default)]
    pub approved: bool,
    /// The user's groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The `subscription` of a contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Subscription {
    /// Nobody receives anything.
    #[default]
    None,
    /// The user receives the contact's presence.
    To,
    /// The contact receives the user's.
    From,
    /// Each the other's.
    Both,
}

impl Subscription {
    /// As in XML.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Subscription::None => "none",
            Subscription::To => "to",
            Subscription::From => "from",
            Subscription::Both => "both",
        }
    }

    /// From XML.
    #[must_use]
    pub fn read(name: &str) -> Option<Subscription> {
        use Subscription::{Both, From, None as Neither, To};
        [Neither, To, From, Both].into_iter().find(|known| known.name() == name)
    }

    /// Whether the user receives the contact's presence.
    #[must_use]
    pub fn is_to(self) -> bool {
        matches!(self, Subscription::To | Subscription::Both)
    }

    /// Whether the contact receives the user's.
    #[must_use]
    pub fn is_from(self) -> bool {
        matches!(self, Subscription::From | Subscription::Both)
    }
}

/// Some of the messages that wait for an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfflinePage {
    /// As in `UserExport`.
    pub offline: Vec<String>,
    /// More wait: ask for those after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
}

/// A message in an account's archive (XEP-0313).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Archived {
    /// What it is called there: kept if it is an id of this server's kind.
    pub id: String,
    /// When the server received it, in milliseconds since the Unix epoch.
    pub at: u64,
    /// `<message/>`, as text.
    pub message: String,
}

/// Some of what is archived for an account, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchivePage {
    /// The messages.
    pub archive: Vec<Archived>,
    /// There are more: ask for those after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Which import it is.
    pub import: u64,
    /// Parts that its home has.
    pub parts: u32,
    /// Archived messages among them.
    pub archived: u64,
}

/// More of an import: what comes after [`UserExport::archive_follows`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchivePart {
    /// The answer to what came before.
    pub after: Imported,
    /// Messages, the oldest first, all of them later than those that came before.
    pub archive: Vec<Archived>,
    /// No others follow.
    pub last: bool,
}

impl std::fmt::Debug for UserExport {
    /// Without the secrets.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UserExport")
            .field("account", &self.account)
            .field("created", &self.created)
            .field("disabled", &self.disabled)
            .field("scram", &self.scram)
            .field("roster", &self.roster)
            .field("requests", &self.requests)
            .field("offline", &self.offline)
            .field("more", &self.more)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ScramCredentials {
    /// Without the secrets.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mechanism, iterations, .. } = self;
        write!(out, "ScramCredentials({mechanism}, {iterations}, …)")
    }
}
