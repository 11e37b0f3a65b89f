//! `[[external_services]]`: what clients are told of STUN, TURN and other servers that are no XMPP servers (XEP-0215).

use std::time::Duration;

use crate::table::Table;
use crate::value::RegionName;

/// One of `[[external_services]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalService {
    /// `stun`, `turn`, `turns`, `ftp`, …
    pub type_: String,
    /// A name or an address.
    pub host: String,
    /// None: the one its type has by itself.
    pub port: Option<u16>,
    /// `udp` or `tcp`.
    pub transport: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// Whose it is: clients of that region are told of it first. None: everybody's.
    pub region: Option<String>,
    /// What it shares with us, so that each client gets credentials of its own that last `valid_for`.
    pub secret: Option<String>,
    /// How long such credentials last.
    pub valid_for: Duration,
    /// The one name everybody uses there.
    pub username: Option<String>,
    /// And its password.
    pub password: Option<String>,
}

pub(crate) fn read(root: &Table<'_>) -> Vec<ExternalService> {
    root.sections("external_services").iter().map(one).collect()
}

fn one(table: &Table<'_>) -> ExternalService {
    let service = ExternalService {
        type_: table.required("type"),
        host: table.required("host"),
        port: table.optional("port"),
        transport: table.optional("transport"),
        name: table.optional("name"),
        region: table.optional::<RegionName>("region").map(|name| name.0),
        secret: table.optional("secret"),
        valid_for: table.between(
            "valid_for",
            Duration::from_secs(86_400),
            Duration::from_secs(60),
            Duration::from_secs(86_400 * 365),
            "a duration from \"1m\" to \"365d\"",
        ),
        username: table.optional("username"),
        password: table.optional("password"),
    };
    if service.transport.as_deref().is_some_and(|transport| !["udp", "tcp"].contains(&transport)) {
        table.refuse("transport", "\"udp\" or \"tcp\"", "another");
    }
    if service.secret.is_some() && service.password.is_some() {
        table.refuse("password", "either a secret or a password", "both");
    }
    service
}
