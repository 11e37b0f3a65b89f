//! Room: the seam between a stream that another domain has opened to us and whoever sends for us, when both directions use it (XEP-0288 version 1.0.1).
//!
//! `incoming` owns the stream and hands out a [`Back`] of it; `outgoing` implements [`Bidi`] and decides what goes over it. Who hands
//! something over remembers it, until it is told that it is delivered ([`Bidi::delivered`]) or the stream has ended without that ([`Bidi::closed`]). Left out: dialback that we would
//! start on such a stream for more of our domains; they have streams of their own.

use tokio::sync::mpsc;
use xmpp::Stanza;

use super::Ticket;
use super::dialback::Pair;

/// The way back over somebody else's stream. Bounded: full means that the peer is slow (`Limits::unacked_max`).
#[derive(Clone, Debug)]
pub struct Back {
    /// Which stream: never the same twice in the life of a process.
    pub stream: u64,
    /// Sends in order. Refuses (and gives the stanza back) once the stream has ended for good; goes on taking while it is cut and may still be resumed.
    pub queue: mpsc::Sender<(Ticket, Stanza)>,
}

/// Who sends for us. Called by the tasks of streams, in order for each of them; nothing here may block.
pub trait Bidi: Send + Sync + 'static {
    /// From now on stanzas from `pair.from`, a domain of ours, to `pair.to`, which the peer has proved, may go over that stream.
    fn opened(&self, pair: Pair, back: &Back);

    /// The peer has these: acknowledged (XEP-0198), or, if it does not do that, written and nothing of them is left in our buffers.
    fn delivered(&self, stream: u64, tickets: &[Ticket]);

    /// The stream has ended for good, and takes nothing more. Of what was handed over and not told to be delivered it is not known whether the peer has it.
    fn closed(&self, stream: u64);
}
