//! Room: what the machine of an incoming stream is told ([`Input`]) and what it asks for ([`Output`]), and what it must know of the server around it
//! ([`House`]). Values only: `machine` makes the one of the other, `driver` performs them.

use bytes::Bytes;
use xmpp::sm::{Inbound, Outbound};
use xmpp::stanza::Head;
use xmpp::xml::framer::StreamHeader;
use xmpp::{Element, Stanza, StreamError};

use crate::federation::Ticket;
use crate::federation::dialback::{DialbackError, Pair, Verify};
use crate::federation::pairs::Pairs;
use crate::federation::policy::Policy;
use crate::federation::{Limits, Timers};

/// The server around a stream. Answers at once.
pub trait House: Send + Sync {
    /// Whether we answer for that domain (prepared).
    fn is_ours(&self, domain: &str) -> bool;

    /// Whether what is from `from` may come for `to`, a domain of ours (both prepared), if the former is proved.
    fn may_arrive(&self, from: &str, to: &str) -> bool {
        let _ = to;
        !self.is_ours(from)
    }

    /// What dialback keys are made from; `None` while nobody knows it.
    fn dialback_secret(&self) -> Option<[u8; 32]>;

    /// What is asked of that domain (prepared); of `""`, while the peer has no name.
    fn policy(&self, domain: &str) -> Policy;

    /// What a domain is told that wants to send to this node while others are to have it. `None`: it is welcome.
    fn leaving(&self) -> Option<StreamError> {
        None
    }
}

/// What all streams have in common; replaced as a whole by a reload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A domain of ours: it speaks to a peer that called none of them.
    pub name: String,
    /// Bounds.
    pub limits: Limits,
    /// Times.
    pub timers: Timers,
}

/// What happened.
#[derive(Debug)]
// As `wire::Item`.
#[allow(clippy::large_enum_variant)]
pub enum Input {
    /// The peer's header. Not while [`Machine::is_waiting`](super::machine::Machine::is_waiting); nor is any element.
    Open(Box<StreamHeader>),
    /// A stanza, as it came.
    Stanza(Bytes, Head),
    /// Any other element.
    Element(Element),
    /// The peer's closing tag.
    Close,
    /// The handshake that [`Output::StartTls`] asked for is done, or direct TLS. Whether the peer has shown a certificate.
    Secured {
        /// One that may be asked about with [`Output::Prove`].
        certificate: bool,
    },
    /// Answers [`Output::Prove`].
    Proved {
        /// The domain that was asked about.
        domain: String,
        /// Whether the peer's certificate is good for it.
        good: bool,
    },
    /// Answers [`Output::Verify`].
    Verified(Verify, Result<bool, DialbackError>),
    /// Somebody is responsible for the stanza of that number.
    Handled(u64),
    /// Answers [`Output::Resume`]: what was kept of the stream, if there is one that this peer may go on with.
    Resumed(Option<Box<Kept>>),
    /// To be sent over this stream. Only while [`Machine::may_send`](super::machine::Machine::may_send).
    Back(Ticket, Stanza),
    /// It is as late as [`Machine::deadline`](super::machine::Machine::deadline) said.
    Tick,
    /// The framer, a bound or the shutdown says: this stream ends.
    Broken(StreamError),
}

/// What to do about it, in order.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes.
    Send(Bytes),
    /// Write what there is, refuse what was read beyond, do the handshake, start the framer anew, say [`Input::Secured`].
    StartTls,
    /// Start the framer anew: a header comes next.
    Restart,
    /// Find out whether the certificate that the peer has shown is good for a domain, say [`Input::Proved`].
    Prove(String),
    /// Have a dialback key verified, say [`Input::Verified`].
    Verify(Verify),
    /// A pair is proved. The first makes the peer one of those whose stanzas may be long.
    Accepted(Pair),
    /// From a domain of ours to one of theirs may be sent over this stream.
    Back(Pair),
    /// A stanza for the node, and its number.
    Receive(Stanza, u64),
    /// The peer has acknowledged these.
    Delivered(Vec<Ticket>),
    /// This was sent to a peer that acknowledges nothing: it has it when what was written so far has left.
    Sent(Ticket),
    /// This stream can be resumed by that id from now on.
    Resumable(String),
    /// Look for what was kept of that stream, say [`Input::Resumed`].
    Resume(String),
    /// Something that may not be was not answered: an answer to what nobody asked, for instance. For the log.
    Dropped(&'static str),
    /// Our closing tag; what the peer has on the way is still taken.
    Closing,
    /// The end: the error if there is one, our closing tag if it is not out yet, and then the connection is closed.
    End(Option<StreamError>),
    /// The end of the connection, without a word: the peer does not answer. What can be resumed is kept.
    Cut,
}

/// What is left of a stream that can be resumed (XEP-0198 §5).
#[derive(Debug)]
pub struct Kept {
    /// Its resumption id.
    pub id: String,
    /// What the peer has sent, and what of that is handled: [`Input::Handled`] goes on telling it, by the same numbers.
    pub inbound: Inbound,
    /// The number from which on that counts, and how many were handled before.
    pub from: u64,
    /// See `from`.
    pub handled: u32,
    /// What the peer had proved.
    pub pairs: Pairs,
    /// Whether it was used in both directions.
    pub bidi: bool,
    /// What we have sent over it and the peer has not acknowledged.
    pub unacked: Outbound<(Ticket, Stanza)>,
}
