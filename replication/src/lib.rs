//! `replication`: the engines under the regions. Keys, versions and time; never a stanza.
//!
//! Who calls it: `global-distrib` (route log, probes, clock), `node` (durable log, metadata). What it calls: openraft and
//! redb, both behind `metadata`, never in a public signature. What is deliberately absent: sockets (bytes leave through
//! [`metadata::MetaTransport`]), SQL (the store of the durable log is `node::storage`), and any knowledge of XMPP beyond
//! "a bare JID is a string that hashes to a shard".

pub mod clock;
pub mod durable_log;
pub mod error;
pub mod metadata;
pub mod route_log;
pub mod watermark;

pub use clock::{Hlc, HybridClock};
pub use durable_log::{Change, Entry, Store};
pub use error::{Error, ProposeError};
pub use metadata::{SHARDS, shard_of};
