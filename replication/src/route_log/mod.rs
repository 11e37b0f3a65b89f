//! The route log: each region's ordered log of session-row changes, tailed by the other regions.
//!
//! Callers: the session table of `global-distrib` appends, its links tail. Entries are opaque bytes here. [`engine`] is the
//! ring as a plain value; [`RouteLog`] is what a backend offers; [`embedded`] is the one inside a process (`node::registry` has one in Redis). Every
//! backend passes `suite.rs`. Absent: what an entry means, and durability; a log that lost its beginning is answered with a
//! full resync of the rows, never with a gap.

pub mod embedded;
pub mod engine;
#[cfg(any(test, feature = "suite"))]
#[allow(clippy::unwrap_used, reason = "tests, also of backends in other crates")]
pub mod suite;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use embedded::Embedded;
pub use engine::{Log, Tail};

/// A backend could not be reached, or answered nonsense.
#[derive(Debug, thiserror::Error)]
#[error("the route log cannot be reached: {0}")]
pub struct RouteLogError(#[source] pub std::io::Error);

/// One region's route log. Sequence numbers are dense and begin at 1; a cursor is the last number already seen.
pub trait RouteLog: Send + Sync + 'static {
    /// Appends in order, all or none; answers the number of the last one (the head, when there is nothing to append).
    fn append(&self, entries: Vec<Bytes>) -> BoxFuture<'_, Result<u64, RouteLogError>>;

    /// What follows `cursor`, at most `max` entries; see [`Tail`].
    fn tail(&self, cursor: u64, max: usize) -> BoxFuture<'_, Result<Tail<Bytes>, RouteLogError>>;

    /// The last number given, 0 for an empty log.
    fn head(&self) -> BoxFuture<'_, Result<u64, RouteLogError>>;

    /// Waits until the head is past `cursor`. May be dropped at any time.
    fn wait_past(&self, cursor: u64) -> BoxFuture<'_, Result<(), RouteLogError>>;
}
