//! `[s2s]`: connections from other servers; the links between our own nodes come in here too.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::table::Table;
use crate::value::HostPort;

/// The `[s2s]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S2s {
    /// Where other servers and our other nodes connect. Empty: nobody can.
    pub listen: Vec<SocketAddr>,
    /// Where our other nodes dial this one, `host:port`, if they have no address of it in their own `[[peers]]`.
    pub advertise: Option<String>,
    /// The certificate chain, PEM, shown as server and as client; by default that of `[c2s]`. Peers know its
    /// SHA-256.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl S2s {
    /// The address to make known to other nodes: `advertise`, or the first of `listen` that names an interface. `None`: whoever is to
    /// dial this node must have it in its `[[peers]]`.
    #[must_use]
    pub fn advertised(&self) -> Option<String> {
        let named = || self.listen.iter().find(|address| !address.ip().is_unspecified());
        self.advertise.clone().or_else(|| named().map(ToString::to_string))
    }
}

pub(crate) fn read(table: &Table<'_>) -> S2s {
    S2s {
        listen: table.value("listen", vec![SocketAddr::from(([0, 0, 0, 0], 5269))]),
        advertise: table.optional::<HostPort>("advertise").map(|address| address.0),
        // Taken from [c2s] by `check` when they are left out.
        certificate: table.path("certificate", Some(PathBuf::new())),
        key: table.path("key", Some(PathBuf::new())),
    }
}
