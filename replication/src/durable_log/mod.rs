//! The durable log: each home's ordered log of changes, as other regions receive and apply it.
//!
//! Callers: `node::homes` and `node::storage`. Here are the shapes ([`change`]) and the two pure
//! ends ([`ship`] and [`apply`]). Absent: the log's
//! storage itself, which is a SQL table written in the same transaction as the change (blueprint §7).

pub mod apply;
pub mod change;
pub mod ship;

pub use apply::{Applier, Position, Verdict};
pub use change::{Change, Entry, Store};
pub use ship::{ShipLimits, Shipper};
