//! `[s2s]`: connections from other servers; the links between our own nodes come in here too.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::table::Table;

/// The `[s2s]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S2s {
    /// Where other servers and our other nodes connect. Empty: nobody can.
    pub listen: Vec<SocketAddr>,
    /// The certificate chain, PEM, shown as server and as client; by default that of `[c2s]`. Peers know its
    /// SHA-256.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

pub(crate) fn read(table: &Table<'_>) -> S2s {
    S2s {
        listen: table.value("listen", vec![SocketAddr::from(([0, 0, 0, 0], 5269))]),
        // Taken from [c2s] by `check` when they are left out.
        certificate: table.path("certificate", Some(PathBuf::new())),
        key: table.path("key", Some(PathBuf::new())),
    }
}
