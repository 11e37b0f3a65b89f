//! `[proxy]`: the relay between two clients that cannot reach each other (XEP-0065). Off unless `domains.proxy` names it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::table::Table;
use crate::value::Size;

/// The `[proxy]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// The host that clients are told to connect to. None: the address it listens at, or its domain if that is a wildcard.
    pub host: Option<String>,
    /// Connections of this node. Beyond: a new one is closed at once.
    pub connections_max: usize,
    /// Connections of one IP address that are not activated. Beyond: the same.
    pub waiting_per_address_max: usize,
    /// Bytestreams of one account at one time, of this node. Beyond: `resource-constraint`.
    pub streams_per_account_max: usize,
    /// From connecting to being activated. Beyond: closed.
    pub activate_within: Duration,
    /// Silence of a bytestream. Beyond: closed.
    pub silent_after: Duration,
    /// Bytes of a bytestream in a second, each direction by itself. Beyond: read more slowly.
    pub bytes_per_s_max: usize,
    /// Bytes of a bytestream, both directions together. Beyond: closed.
    pub stream_bytes_max: usize,
}

pub(crate) fn read(table: &Table<'_>) -> Proxy {
    let count = |key, default: usize| {
        table.between(key, default, 1, 1_000_000, "a number from 1 to 1000000")
    };
    let time = |key, default: u64| {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let words = "a duration from \"1s\" to \"1d\"";
        table.between(key, Duration::from_secs(default), least, most, words)
    };
    let size = |key, default: usize| {
        let words = "a size from \"1KiB\" to \"1048576GiB\"";
        table.between(key, Size(default), Size(1 << 10), Size(1 << 50), words).0
    };
    Proxy {
        listen: table.value("listen", vec![SocketAddr::from(([0, 0, 0, 0], 7777))]),
        host: table.optional("host"),
        connections_max: count("connections_max", 2_000),
        waiting_per_address_max: count("waiting_per_address_max", 100),
        streams_per_account_max: count("streams_per_account_max", 16),
        activate_within: time("activate_within", 60),
        silent_after: time("silent_after", 300),
        bytes_per_s_max: size("bytes_per_s_max", 4 << 20),
        stream_bytes_max: size("stream_bytes_max", 16 << 30),
    }
}
