//! What homes need from outside and are told by it, as traits: metadata, the ways to other regions, whoever hangs on applied changes, and the
//! operations of features. `app` wires them; tests and the simulator bring their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use replication::Change;
use xmpp::BareJid;

use super::{HomeError, MoveSaid, Moved, Reading, Tx};

/// Where an account's home is, as metadata here knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomePlace {
    /// The region that writes.
    pub region: Arc<str>,
    /// Grows whenever the home moves.
    pub epoch: u64,
    /// Is that we, and is this node the one that writes?
    pub local: bool,
}

/// Metadata, as far as homes need it. Must be cheap: it is asked for every request and every applied entry. When the
/// answers may have changed, [`Homes::metadata_changed`] must be called.
pub trait HomeMap: Send + Sync + 'static {
    /// The home of an owner (a bare JID), pinned ones included.
    fn home(&self, owner: &str) -> HomePlace;
    /// The home of a shard.
    fn shard(&self, shard: u8) -> HomePlace;
    /// Whether this owner is of no shard: on a region's own domain, which is its home for ever.
    fn is_apart(&self, _owner: &str) -> bool {
        false
    }
    /// The accounts that are pinned here, whose home we are.
    fn pins(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
    /// May this region hold a copy of this owner's data?
    fn replicates(&self, _owner: &str, _region: &str) -> bool {
        true
    }
    /// The region that becomes home of this owner's data if the present home is lost: see `replication::metadata::MetaState::heir`.
    fn heir(&self, _owner: &str) -> Option<Arc<str>> {
        None
    }
    /// Has metadata agree that the home moves, if its epoch is still that one. Asking again is harmless.
    fn move_home(&self, _what: &Moved, _epoch: u64, _to: &str) -> BoxFuture<'static, MoveSaid> {
        async { MoveSaid::NotAsked("nobody can be asked".to_owned()) }.boxed()
    }
}

/// Why a call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It, or its answer, may have been lost on the way. The same bytes may be sent again.
    #[error("lost on the way")]
    Lost,
    /// There is no way to that region now, or too much is waiting for it.
    #[error("no way there")]
    Unreachable,
}

/// Calls to other regions: one request, one answer.
pub trait HomeTransport: Send + Sync + 'static {
    /// Brings `body` to `region`'s [`Homes::serve`] and its answer back. May be dropped.
    fn call<'a>(
        &'a self,
        region: &'a str,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>>;
}

/// Why a message was not queued.
#[derive(Debug)]
pub enum Unsent {
    /// The way is full; the bytes come back. [`Homes::room`] says when to try again.
    Full(Vec<u8>),
    /// It is longer than the way takes, now and later.
    TooLong,
}

/// One-way messages to other regions, in order and without loss as long as the link's incarnation lives.
pub trait ShipSink: FeedSink {
    /// Queues the message for that region's [`Homes::shipped`]. Must not block.
    fn send_batch(&self, region: &str, bytes: Vec<u8>) -> Result<(), Unsent>;
}

/// What goes to another node of this region; see [`ShipSink`], and [`Homes::room_at`].
pub trait FeedSink: Send + Sync + 'static {
    /// Queues the message for that node's [`Homes::fed`]. Must not block.
    fn send_feed(&self, node: &str, bytes: Vec<u8>) -> Result<(), Unsent>;
}

/// Where applied changes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedAt {
    /// We committed them as their home; false: we followed another region's log.
    pub local_home: bool,
}

/// Whoever wants to know of changed data (roster pushes, caches). Called once for each entry, in the log's order, after
/// it is durable here and before the one who asked for it hears. Must not block.
pub trait Applied: Send + Sync + 'static {
    /// The changes of one entry, all of one owner.
    fn applied(&self, origin: AppliedAt, changes: &[Change]);
    /// The same for rows that a whole copy from their home has written or taken away, in many calls, of many owners:
    /// each as the change it may have been. What they were before is not known, so nobody is to be told of them; but
    /// what was cached of their owners is void.
    fn copied(&self, _changes: &[Change]) {}
}

/// Nobody wants to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Applied for Unwatched {
    fn applied(&self, _: AppliedAt, _: &[Change]) {}
}

/// Something a home does for an account. Runs at the home, one at a time, inside the group's transaction.
pub trait HomeOp: Send + Sync + 'static {
    /// What requests call it by, on the wire too: `roster.set`.
    fn name(&self) -> &'static str;
    /// Single values that [`HomeOp::run`] will probably read: they are read for a whole group of operations at once. Nothing but speed
    /// depends on it.
    fn reads(&self, _account: &BareJid, _request: &[u8]) -> Vec<Reading> {
        Vec::new()
    }
    /// Reads and changes; an `Err` leaves nothing behind. Must only await what `tx` gives: everyone waits for it.
    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>>;
}
