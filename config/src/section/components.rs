//! `[components]`: external components (XEP-0114, XEP-0225), programs of their own that answer for a domain. Off unless it listens somewhere.
//! `[[components.component]]` are the same in every region, but for the secrets: where one has none, it does not connect.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::limits::stanza_bytes;
use crate::table::Table;
use crate::value::{DomainName, OneOf, Size, Words};

/// Which of several connections of one component gets a stanza.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentMode {
    /// One of the region where the stanza entered, by its sender; if there is none, one of another region.
    Share,
    /// The one that came first; the others stand by.
    Standby,
    /// There is but one in all regions: whoever comes second is refused with `conflict`.
    One,
}

impl Words for ComponentMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("share", ComponentMode::Share),
        ("standby", ComponentMode::Standby),
        ("one", ComponentMode::One),
    ];
}

/// One of `[[components.component]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// What it answers for.
    pub domain: String,
    /// For people, in the server's list of items (XEP-0030).
    pub title: Option<String>,
    /// Whether it is in that list while it is connected.
    pub listed: bool,
    /// What it shares with this node. None, here and in a file: it does not connect to it.
    pub secret: Option<String>,
    /// A file with the secret, on its first line.
    pub secret_file: Option<PathBuf>,
    /// Of several connections.
    pub mode: ComponentMode,
    /// What it may do with accounts (XEP-0356).
    pub privileges: Privileges,
    /// `[[components.component.delegation]]`: what it answers in the name of the server and of accounts (XEP-0355).
    pub delegations: Vec<Delegation>,
}

/// A namespace whose requests a component answers (XEP-0355).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// That of the requests' payload.
    pub namespace: String,
    /// Only of those payloads that have all of these attributes.
    pub attributes: Vec<String>,
}

/// Whose presence a component hears (XEP-0356).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchedPresence {
    /// Nobody's, unless they subscribe.
    #[default]
    None,
    /// That of all accounts.
    ManagedEntity,
    /// And that of their contacts.
    Roster,
}

impl Words for WatchedPresence {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", WatchedPresence::None),
        ("managed_entity", WatchedPresence::ManagedEntity),
        ("roster", WatchedPresence::Roster),
    ];
}

/// What a component may do in the name of accounts (XEP-0356): the global domain's, those of this region's own domain and, where regions' domains are linked, of
/// every region's. Nothing, unless it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Read their rosters.
    pub roster_get: bool,
    /// Change their rosters.
    pub roster_set: bool,
    /// Hear of each change of their rosters.
    pub roster_push: bool,
    /// Whose presence it hears.
    pub presence: WatchedPresence,
    /// Send messages from their bare JIDs, and from the domain.
    pub messages: bool,
    /// Namespaces of requests that it may send as they would, to read something.
    pub iq_get: Vec<String>,
    /// The same, to change something.
    pub iq_set: Vec<String>,
}

/// The `[components]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Components {
    /// Where components connect, without TLS (XEP-0114) or with (XEP-0225): keep it on loopback or on a network of your own. Empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// The secret of those that have none of their own.
    pub secret: Option<String>,
    /// Whether a component may have any domain below the global one that is not taken. For trying things out.
    pub any_below: bool,
    /// Of those that say nothing else.
    pub mode: ComponentMode,
    /// Connections of one component to one region. Beyond: `conflict`.
    pub connections_per_region_max: usize,
    /// Hostnames that are bound to one connection (XEP-0225). Beyond: `resource-constraint`.
    pub hostnames_max: usize,
    /// Connections of this node. Beyond: a new one is closed at once.
    pub connections_max: usize,
    /// From connecting to the end of the handshake. Beyond: `connection-timeout`.
    pub handshake_deadline: Duration,
    /// A connection on which nothing was written for so long is written a space.
    pub keepalive: Duration,
    /// One stanza of a component. Beyond: `policy-violation`.
    pub stanza_bytes_max: usize,
    /// Bytes that wait for one connection. Beyond: `resource-constraint` to the sender; presence is dropped from three quarters on.
    pub queue_bytes_max: usize,
    /// Stanzas that wait for one connection. Beyond: the same.
    pub queue_items_max: usize,
    /// Stanzas of one connection for which nobody is responsible yet: what waits for a home or a database, and messages until they are
    /// delivered or on disk. Beyond: it is not read from.
    pub unhandled_max: usize,
    /// Requests of this node that wait for the answer of a component (XEP-0355). Beyond: `resource-constraint`.
    pub delegated_max: usize,
    /// Those of one component. Beyond: the same.
    pub delegated_component_max: usize,
    /// Those of one account, or of one other domain. Beyond: the same.
    pub delegated_asker_max: usize,
    /// How long one waits. Beyond: `service-unavailable`.
    pub delegated_deadline: Duration,
    /// `[[components.component]]`.
    pub component: Vec<Component>,
}

impl Components {
    /// What a component may do with accounts: one that is not named, nothing.
    #[must_use]
    pub fn privileges_of(&self, domain: &str) -> Option<&Privileges> {
        let own = self.component.iter().find(|component| component.domain == domain);
        own.map(|component| &component.privileges).filter(|all| **all != Privileges::default())
    }

    /// Which connection gets what is for that domain.
    #[must_use]
    pub fn mode_of(&self, domain: &str) -> ComponentMode {
        let own = self.component.iter().find(|component| component.domain == domain);
        own.map_or(self.mode, |component| component.mode)
    }
}

pub(crate) fn read(table: &Table<'_>) -> Components {
    let count = |key, default: usize| {
        table.between(key, default, 1, 1_000_000, "a number from 1 to 1000000")
    };
    let size = |key, default: usize, least: usize| {
        let words = format!("a size from {least} bytes to \"1GiB\"");
        table.between(key, Size(default), Size(least), Size(1 << 30), &words).0
    };
    let time = |key, default: u64| {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(3_600));
        let words = "a duration from \"1s\" to \"1h\"";
        table.between(key, Duration::from_secs(default), least, most, words)
    };
    let mode = table.value("mode", OneOf(ComponentMode::Standby)).0;
    let secret: Option<String> = table.optional("secret");
    let components = Components {
        listen: table.value("listen", Vec::new()),
        any_below: table.value("any_below", false),
        mode,
        connections_per_region_max: count("connections_per_region_max", 1),
        hostnames_max: count("hostnames_max", 100),
        connections_max: count("connections_max", 1_000),
        handshake_deadline: time("handshake_deadline", 30),
        keepalive: time("keepalive", 60),
        stanza_bytes_max: stanza_bytes(table, "stanza_bytes_max", 512 << 10),
        queue_bytes_max: size("queue_bytes_max", 32 << 20, 64 << 10),
        queue_items_max: count("queue_items_max", 50_000),
        unhandled_max: count("unhandled_max", 1_000),
        delegated_max: count("delegated_max", 10_000),
        delegated_component_max: count("delegated_component_max", 5_000),
        delegated_asker_max: count("delegated_asker_max", 1_000),
        delegated_deadline: time("delegated_deadline", 30),
        component: table.sections("component").iter().map(|one| component(one, mode)).collect(),
        secret,
    };
    if components.any_below && components.secret.is_none() {
        table.refuse("any_below", "a secret with it", "none");
    }
    if components.secret.as_deref() == Some("") {
        table.refuse("secret", "a text that is not empty", "an empty one");
    }
    if components.queue_bytes_max < components.stanza_bytes_max {
        table.refuse(
            "queue_bytes_max",
            format!("at least stanza_bytes_max, {} bytes", components.stanza_bytes_max),
            format!("{} bytes", components.queue_bytes_max),
        );
    }
    components
}

fn component(table: &Table<'_>, mode: ComponentMode) -> Component {
    let component = Component {
        domain: table.required::<DomainName>("domain").0,
        title: table.optional("title"),
        listed: table.value("listed", true),
        secret: table.optional("secret"),
        secret_file: table.optional_path("secret_file"),
        mode: table.optional::<OneOf<ComponentMode>>("mode").map_or(mode, |mode| mode.0),
        privileges: privileges(table),
        delegations: table.sections("delegation").iter().map(delegation).collect(),
    };
    if component.secret.as_deref() == Some("") {
        table.refuse("secret", "a text that is not empty", "an empty one");
    }
    if component.secret.is_some() && component.secret_file.is_some() {
        table.refuse("secret_file", "either a secret or a file with one", "both");
    }
    component
}

fn delegation(table: &Table<'_>) -> Delegation {
    let delegation = Delegation {
        namespace: table.required("namespace"),
        attributes: table.value("attributes", Vec::new()),
    };
    // XEP-0355 §8, and what would make it of no use.
    let own = delegation.namespace.starts_with("urn:xmpp:delegation:");
    let disco =
        ["urn:xmpp:delegation:2:bare:disco#info:*", "urn:xmpp:delegation:2:bare:disco#items:*"];
    if own && !disco.contains(&delegation.namespace.as_str()) {
        table.refuse(
            "namespace",
            "one that may be delegated",
            format!("{:?}", delegation.namespace),
        );
    }
    delegation
}

fn privileges(table: &Table<'_>) -> Privileges {
    let roster = table.value("privileged_roster", OneOf(Access::None)).0;
    let may = Privileges {
        roster_get: matches!(roster, Access::Get | Access::Both),
        roster_set: matches!(roster, Access::Set | Access::Both),
        roster_push: table.value("privileged_roster_push", false),
        presence: table.value("privileged_presence", OneOf(WatchedPresence::None)).0,
        messages: table.value("privileged_messages", false),
        iq_get: table.value("privileged_iq_get", Vec::new()),
        iq_set: table.value("privileged_iq_set", Vec::new()),
    };
    // §7.2, and what a push says is what it may not read.
    let reads = r#"privileged_roster = "get" or "both" with it"#;
    if may.presence == WatchedPresence::Roster && !may.roster_get {
        table.refuse("privileged_presence", reads, "none");
    }
    if may.roster_push && !may.roster_get {
        table.refuse("privileged_roster_push", reads, "none");
    }
    may
}

#[derive(Clone, Copy)]
enum Access {
    None,
    Get,
    Set,
    Both,
}

impl Words for Access {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Access::None),
        ("get", Access::Get),
        ("set", Access::Set),
        ("both", Access::Both),
    ];
}
