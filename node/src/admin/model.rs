//! What the admin API says and is told: plain values, JSON on the wire, described by OpenAPI.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// The kind, which decides the HTTP status.
    pub kind: RefusalKind,
    /// A sentence for people.
    pub message: String,
}

/// What came of reading certificates and configuration again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Keys that changed and are in force.
    pub applied: Vec<String>,
    /// Keys that changed and are in force when the node is started again.
    pub needs_restart: Vec<String>,
    /// What changed and cannot be: which section, and why. It stays as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Certificates for clients that were read again.
    pub certificates: usize,
}

/// Begin to empty a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDrain {
    /// Sessions a second; as configured if not said.
    #[serde(default)]
    pub rate: Option<u32>,
    /// Seconds after which those that are left are closed; ten minutes if not said.
    #[serde(default)]
    pub deadline: Option<u64>,
}

/// How far a node is emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainInfo {
    /// The node.
    pub node: String,
    /// It takes no new sessions.
    pub draining: bool,
    /// Sessions a second.
    pub rate: u32,
    /// Sessions there were when it began.
    pub total: u64,
    /// Went to another node.
    pub moved: u64,
    /// Ended.
    pub ended: u64,
    /// Are still there.
    pub left: u64,
    /// Seconds since it began.
    pub seconds: u64,
    /// Seconds until those that are left are closed.
    pub deadline: u64,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// What was given makes no sense: 400.
    Invalid,
    /// No account, or the wrong password, or not an administrator: 401.
    Unauthorized,
    /// There is no such thing: 404.
    NotFound,
    /// It is there already, or not in a state for this: 409.
    Conflict,
    /// This version cannot do it: 501.
    Unsupported,
    /// Not now (no majority, a region out of reach): try again, 503.
    Unavailable,
    /// It went wrong here: 500.
    Failed,
}

impl Refusal {
    fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Refusal { kind, message: message.into() }
    }
    /// What was given makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Invalid, message)
    }
    /// Nobody who may.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Unauthorized, message)
    }
    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::NotFound, message)
    }
    /// It is there already, or not in a state for this.
    pub fn conflict(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Conflict, message)
    }
    /// This version cannot do it.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Unsupported, message)
    }
    /// Not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Unavailable, message)
    }
    /// It went wrong here.
    pub fn failed(message: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Failed, message)
    }
}

/// Whether a node serves and knows the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// True when nothing is missing.
    pub ready: bool,
    /// What is missing, each a sentence. Empty when ready.
    pub reasons: Vec<String>,
    /// What an operator has to look at although the node serves, each a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
}

impl Ready {
    /// Ready when there is no reason against it.
    #[must_use]
    pub fn unless(reasons: Vec<String>) -> Self {
        Ready { ready: reasons.is_empty(), reasons, alarms: Vec::new() }
    }
}

/// A node on one screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// `eu-0`
    pub node: String,
    /// `eu`
    pub region: String,
    /// This life of the node.
    pub incarnation: u64,
    /// Since it started.
    pub uptime_s: u64,
    /// The domains it serves.
    pub domains: Vec<String>,
    /// Whether it serves and knows the others.
    pub ready: Ready,
    /// Client connections.
    pub connections: u64,
    /// Bound sessions.
    pub sessions: u64,
    /// Sessions of other regions it knows of.
    pub sessions_elsewhere: u64,
    /// Stanzas parked now.
    pub parked: u64,
    /// Who leads the metadata group.
    pub metadata_leader: Option<String>,
}

/// The states of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RegionState {
    /// It serves.
    Up,
    /// It takes no new users and hands its own over.
    Draining,
    /// It does not serve; its homes are elsewhere.
    Down,
}

impl std::fmt::Display for RegionState {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            RegionState::Up => "up",
            RegionState::Draining => "draining",
            RegionState::Down => "down",
        })
    }
}

/// A region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionInfo {
    /// `eu`
    pub name: String,
    /// What metadata says.
    pub state: RegionState,
    /// Whether this node has a link to it (its own region: always).
    pub reachable: bool,
    /// Nodes of it.
    pub nodes: u32,
    /// Session rows of it that this node knows.
    pub sessions: u64,
    /// Shards whose home it is.
    pub homes: u32,
    /// How many entries of the own region's durable log it has not said to have. None: it has asked for nothing yet, it is the own region, or the node that is asked
    /// does not write its region's database.
    pub lag: Option<u64>,
    /// Degrees north and east.
    pub place: Option<(f64, f64)>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// `eu-0`
    pub name: String,
    /// `eu`
    pub region: String,
    /// Where it is dialled.
    pub address: String,
    /// Whether it is linked to this node, or is it.
    pub connected: bool,
    /// Its present life, as far as is known.
    pub incarnation: Option<u64>,
    /// Its number in the metadata group.
    pub raft_id: u64,
    /// Whether it votes there.
    pub voter: bool,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
}

/// The metadata group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MetadataInfo {
    /// Who leads, if anybody does.
    pub leader: Option<String>,
    /// The term.
    pub term: u64,
    /// The last entry applied here.
    pub applied: u64,
    /// The last entry in the log here.
    pub last_log: u64,
    /// The version of the facts.
    pub version: u64,
    /// Who votes.
    pub voters: Vec<String>,
    /// Who only learns.
    pub learners: Vec<String>,
    /// Domains and what they are: `global`, or the region that serves them.
    pub domains: std::collections::BTreeMap<String, String>,
}

/// A link, seen from this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkInfo {
    /// `us-0`
    pub peer: String,
    /// Whether it carries frames now.
    pub up: bool,
    /// The peer's life, once known.
    pub incarnation: Option<u64>,
    /// The last frame sent.
    pub sent: u64,
    /// The last frame the peer has taken.
    pub acked: u64,
    /// The last frame taken here.
    pub received: u64,
    /// Bytes queued and unacknowledged.
    pub queued_bytes: u64,
}

/// The region's registry in Redis, seen from this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegistryInfo {
    /// Where it is, without a password; none: there is no Redis.
    pub address: Option<String>,
    /// What its keys begin with.
    pub prefix: String,
    /// Whether it answers.
    pub connected: bool,
    /// What an operator has to look at.
    pub alarms: Vec<String>,
    /// The name of this life of the log of changes.
    pub log: String,
    /// Who has registered.
    pub nodes: Vec<RegisteredNode>,
    /// Changed rows that wait to be written.
    pub rows_queued: u64,
    /// Rows of this node that are still to be written anew; none: all of them are there.
    pub rows_left: Option<u64>,
    /// Changes of rows written by this node.
    pub rows_written: u64,
    /// Rows of dead nodes that this node has removed.
    pub rows_removed: u64,
    /// Commands sent by this node.
    pub commands: u64,
    /// The same, a second, of late.
    pub commands_per_second: f64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// A node that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredNode {
    /// `eu-0`
    pub name: String,
    /// Where it is dialled.
    pub address: String,
    /// Which life of it.
    pub incarnation: u64,
    /// The version of its program.
    pub version: String,
    /// Whether its lease is there.
    pub lives: bool,
    /// When its lease was seen last.
    pub seen_ms_ago: u64,
}

/// A row of a session in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistryRow {
    /// The full JID.
    pub jid: String,
    /// The node that holds the connection.
    pub node: String,
    /// Which life of it.
    pub incarnation: u64,
    /// Its priority, when it is available.
    pub priority: Option<i8>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// The full JID.
    pub jid: String,
    /// Where its connection is.
    pub node: String,
    /// Its priority, when it is available.
    pub priority: Option<i8>,
    /// Whether its connection is lost and it waits to be resumed.
    pub hibernating: bool,
}

/// What a user reported of an address when blocking it (XEP-0377).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportInfo {
    /// When, as in XEP-0082.
    pub at: String,
    /// The account that reports.
    pub by: String,
    /// The address it is about.
    pub jid: String,
    /// Why: `urn:xmpp:reporting:spam`, for one.
    pub reason: String,
    /// In the user's own words.
    pub text: Option<String>,
    /// Messages that are meant.
    pub stanzas: Vec<ReportedStanza>,
    /// Whether the user agrees that the domain it is about is told.
    pub report_origin: bool,
    /// Whether the user agrees that others are told.
    pub third_party: bool,
}

/// A message that a report names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportedStanza {
    /// Whose id it is.
    pub by: String,
    /// The id.
    pub id: String,
}

/// Where a home is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HomeInfo {
    /// The account that was asked for, if one was.
    pub account: Option<String>,
    /// Its shard.
    pub shard: u8,
    /// The region that writes it.
    pub region: String,
    /// Counts the moves.
    pub epoch: u64,
    /// The regions that follow.
    pub replicas: Vec<String>,
    /// Whether the account is pinned here, apart from its shard.
    pub pinned: bool,
}

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HomeTarget {
    /// A shard, all accounts of it that are not pinned.
    Shard(u8),
    /// One account, which is then pinned.
    Account(String),
}

/// `POST /admin/users`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The bare JID.
    pub account: String,
    /// Its password.
    pub password: String,
}

/// `PUT /admin/users/{account}/password`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The new password.
    pub password: String,
}

/// `PUT /admin/regions/{name}/state`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRegionState {
    /// The state it shall have.
    pub state: RegionState,
}

/// `POST /admin/homes/move`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveHome {
    /// What is moved.
    pub what: HomeTarget,
    /// The region that shall be its home.
    pub to: String,
}

/// `DELETE /admin/sessions`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kicked {
    /// Sessions ended.
    pub sessions: usize,
}
