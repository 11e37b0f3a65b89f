//! Metadata: the small, slow, precious facts (regions, nodes, domains, homes), agreed on by Raft.
//!
//! Callers: `node::app` starts it and gives it a transport; everybody reads [`MetaState`]; `pangaea ctl` proposes
//! [`Command`]s. openraft stays inside: no type of it is in a public signature. Absent: reading the clock (the state
//! machine is deterministic) and anything that changes often (sessions are in the route log).

mod apply;
mod given;
mod handle;
mod keeper;
mod log;
mod machine;
mod net;
mod raft;
mod shared;
#[cfg(test)]
mod tests;
mod types;

pub use given::Agreement;
pub use handle::{Genesis, MetaConfig, Metadata, Timers};
pub use net::MetaTransport;
pub use shared::MetaStatus;
pub use types::{
    Command, CommandError, CommandReply, DialbackSecret, Domain, DomainKind, Home, MetaState,
    NodeRecord, PINS_BYTES_MAX, Region, RegionState, SHARDS, shard_of,
};
