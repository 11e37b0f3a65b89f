//! `[http]`: `/health`, `/ready`, `/metrics` and the admin API.

use std::net::SocketAddr;

use crate::table::Table;

/// The `[http]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where HTTP is served, without TLS: keep it on loopback or behind a proxy that ends TLS. Empty: nowhere.
    pub listen: Vec<SocketAddr>,
}

pub(crate) fn read(table: &Table<'_>) -> Http {
    Http { listen: table.value("listen", vec![SocketAddr::from(([127, 0, 0, 1], 5280))]) }
}
