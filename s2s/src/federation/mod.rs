//! Room: the classic federation, streams between our domains and other people's (RFC 6120, XEP-0220, XEP-0178, XEP-0288, XEP-0198).
//!
//! Two halves that share what is here: `incoming` meets those who connect to us, `outgoing` has a queue for each pair of domains and the
//! streams that empty it. `net` finds a domain and says what its certificate proves, `dialback` are its keys and elements, `policy` what
//! we ask of whom. The state machines are values (`machine`, `queue`): what happened and `now` go in, what to do comes out; the drivers own
//! sockets and clocks.
//!
//! Called by `node::federation`, which implements [`FederationUser`]. This crate does not know who is where: which node sends for whom is decided
//! there (decision 0016).

pub mod bidi;
pub mod check;
pub mod dialback;
mod handle;
pub mod incoming;
mod managed;
pub mod net;
pub mod outgoing;
mod pace;
pub mod pairs;
pub mod policy;
mod text;
pub mod wire;

use std::sync::Arc;

use xmpp::StreamError;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

/// Bounds and times, as the configuration has them; replaced as a whole by a reload.
pub use config::{S2sLimits as Limits, S2sTimers as Timers};
pub use handle::{Federation, Status};

/// How the node knows a stanza that it gave away: where it entered (this node, or another by its index), and its order there. Opaque here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Which node, as the caller counts; `None`: this one.
    pub via: Option<u16>,
    /// Its place among all that node accepted.
    pub order: u64,
}

/// A stanza of an incoming stream, until somebody is responsible for it: dropping it says so. With stream management (XEP-0198) the peer's `h` counts
/// up to the first that is not dropped; without, it is only a bound: a stream with too many open ones is not read.
#[derive(Debug)]
pub struct Handled(Arc<dyn OnHandled>, u64);

/// Whoever counts what is handled: a stream.
pub trait OnHandled: Send + Sync + std::fmt::Debug {
    /// The stanza of that number is handled. Each is told once, in any order, from any thread; returns at once.
    fn handled(&self, number: u64);
}

impl Handled {
    /// For stanza `number` of a stream.
    pub fn new(stream: Arc<dyn OnHandled>, number: u64) -> Self {
        Self(stream, number)
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.handled(self.1);
    }
}

/// The server around the streams. Nothing here may block: these are called by the streams' tasks, in the order of each stream.
pub trait FederationUser: Send + Sync + 'static {
    /// Whether we answer for that domain (prepared form): the global one, a regional one of this region, a service's, a component's.
    fn is_ours(&self, domain: &str) -> bool;

    /// Whether a stream of another server may bring what is from `from` to `to`, a domain of ours (both in prepared form), once it has proved the former: not
    /// from a domain of ours. A deployment may have domains that are strangers to each other.
    fn may_arrive(&self, from: &str, to: &str) -> bool {
        let _ = to;
        !self.is_ours(from)
    }

    /// The key of all dialback keys (XEP-0185), the same on every node of the deployment. `None`: not known yet, and dialback waits.
    fn dialback_secret(&self) -> Option<[u8; 32]>;

    /// What a peer is told, under TLS, whose stream ends because this node takes none any more: where to go, if anybody knows.
    fn elsewhere(&self) -> StreamError {
        StreamError::system_shutdown()
    }

    /// A stanza came in. Its `from` is of a domain that was proved on this stream, and from which something may arrive for the domain in its `to`, which is ours; both are there, and
    /// it is in the namespace of stanzas as the router knows it (`jabber:client`).
    fn receive(&self, stanza: Stanza, handled: Handled);

    /// The peer has these: it acknowledged them (XEP-0198), or, if it does not speak that, they were written and nothing of them is left in our buffers.
    fn delivered(&self, tickets: &[Ticket]);

    /// This one comes to an end here: its sender is to hear the error.
    fn failed(&self, ticket: Ticket, stanza: Stanza, error: StanzaError);
}
