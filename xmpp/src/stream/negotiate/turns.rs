//! What a client's negotiation is told ([`Input`]) and what it asks for ([`Output`]). Values only: [`Receiving`](super::Receiving) makes
//! the one of the other, the node's session performs them.

use super::Tls;
use super::inline::{SignIn, SignedIn};
use crate::jid::{BareJid, FullJid};
use crate::sasl::{Credentials, Hash, Hashes, Mechanism, Password, ScramKeys, Tokens, Verdict};
use crate::stanza::error::{Condition, StanzaError};
use crate::stream::error::StreamError;
use crate::stream::header::StreamHeader;
use crate::xml::element::Element;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The framer saw a stream header.
    Open(Box<StreamHeader>),
    /// The framer saw an element. Not while [`Receiving::is_waiting`](super::Receiving::is_waiting).
    Element(Element),
    /// The TLS handshake that [`Output::StartTls`] asked for is done.
    TlsReady(Tls),
    /// Answers [`Output::About`]: the hashes the account has SCRAM keys of; `None`: there is no such account, or nobody knows.
    About(Option<Hashes>),
    /// Answers [`Output::LookUp`].
    Credentials(Credentials),
    /// Answers [`Output::CheckPlain`] and [`Output::Admit`].
    PlainChecked(Verdict),
    /// Answers [`Output::CheckToken`]: whose it is, or what is the matter with it.
    TokenChecked(Result<BareJid, Verdict>),
    /// Answers [`Output::LookUpTokens`].
    Tokens(Tokens),
    /// Answers [`Output::Upgrade`], also if the keys could not be kept.
    Upgraded,
    /// Answers [`Output::SignIn`].
    SignedIn(SignedIn),
    /// Answers [`Output::ResumeInline`]: it goes on, having handled so many. Sends `<success/>`; the machine is over.
    ResumedInline {
        /// The session's full JID.
        jid: FullJid,
        /// Its id.
        previd: String,
        /// What it has handled.
        h: u32,
    },
    /// Answers [`Output::BindInline`]: the resource is bound, and what was enabled along with it says this. Sends `<success/>`; the
    /// machine is over.
    BoundInline(FullJid, Vec<Element>),
    /// Answers [`Output::Bind`]: the resource is bound. Sends the result; the machine is over.
    Bound(FullJid),
    /// Answers [`Output::Bind`] or [`Output::BindInline`]: it is not, and the client may try again.
    BindRefused(StanzaError),
    /// Answers [`Output::Resume`] or [`Output::ResumeInline`]: no such session; the client may bind instead.
    ResumeRefused {
        /// `item-not-found`, as a rule.
        condition: Condition,
        /// How many stanzas that session had handled, if it is still known.
        h: Option<u32>,
    },
    /// The framer, a deadline or the shutdown says: this stream ends. Our header goes first if it has to.
    Broken(StreamError),
}

/// What to do about it, in order.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes: one or more whole top-level elements. On WebSocket exactly one, so: one frame.
    Send(Vec<u8>),
    /// Flush, refuse buffered bytes (see the module), do the handshake, start the framer anew, feed [`Input::TlsReady`].
    StartTls,
    /// Start the framer anew: a stream header comes next.
    Restart,
    /// Of which hashes has this account SCRAM keys? Feed [`Input::About`]. Asked for whom a stream's header names, so that nobody is
    /// offered what they cannot use (XEP-0388 §2.2).
    About(BareJid),
    /// Fetch SCRAM keys, feed [`Input::Credentials`].
    LookUp {
        /// Whose.
        account: BareJid,
        /// Made with which hash.
        hash: Hash,
    },
    /// Check a password (not on the reactor), feed [`Input::PlainChecked`].
    CheckPlain {
        /// Whose.
        account: BareJid,
        /// As it was typed.
        password: Password,
    },
    /// Find out whose token that is, feed [`Input::TokenChecked`].
    CheckToken {
        /// Who the client says it is, if it says so.
        claimed: Option<BareJid>,
        /// The token.
        token: Password,
    },
    /// The client's certificate proves this account. Find out whether it may sign in, feed [`Input::PlainChecked`].
    Admit {
        /// The account.
        account: BareJid,
    },
    /// Fetch the tokens of a client of this account, feed [`Input::Tokens`].
    LookUpTokens {
        /// Whose.
        account: BareJid,
        /// The client's id.
        client: String,
    },
    /// Keep these keys of the account, if it has none of their hash (XEP-0480); feed [`Input::Upgraded`].
    Upgrade {
        /// Whose.
        account: BareJid,
        /// Of its password.
        keys: ScramKeys,
    },
    /// A client with an id has proved who it is: note that, and make it a token; feed [`Input::SignedIn`].
    SignIn(Box<SignIn>),
    /// As [`Output::Resume`]; on success feed [`Input::ResumedInline`].
    ResumeInline {
        /// The account: the session must be its own.
        account: BareJid,
        /// The session's id.
        previd: String,
        /// What the client has handled of it.
        h: u32,
    },
    /// Bind this resource and enable these features along with it (XEP-0386); feed [`Input::BoundInline`] or [`Input::BindRefused`].
    BindInline {
        /// The account.
        account: BareJid,
        /// The resource.
        resource: String,
        /// What is to be enabled.
        features: Vec<Element>,
    },
    /// The client is who it says. For logs and limits; the stream goes on by itself.
    Authenticated {
        /// The account.
        account: BareJid,
        /// How.
        mechanism: Mechanism,
    },
    /// Bind a resource, feed [`Input::Bound`] or [`Input::BindRefused`] (or drop the machine and send
    /// [`bind_result`](super::bind_result) oneself).
    Bind {
        /// The request's id.
        iq_id: String,
        /// The account.
        account: BareJid,
        /// The resource the client wishes, prepared; `None`: make one.
        resource: Option<String>,
    },
    /// Resume a session; on success drop the machine and send [`Nonza::Resumed`](crate::sm::Nonza::Resumed), else feed [`Input::ResumeRefused`].
    Resume {
        /// The account: the session must be its own.
        account: BareJid,
        /// The session's id.
        previd: String,
        /// What the client has handled of it.
        h: u32,
    },
    /// An in-band registration request (XEP-0077), or a token that allows one (XEP-0445). The caller answers it itself, and bounds how
    /// many; the stream stays as it is.
    Register(Element),
    /// Send the error and the end of the stream ([`Framing::error`], [`Framing::close`]), then close the connection.
    ///
    /// [`Framing::error`]: crate::stream::header::Framing::error
    /// [`Framing::close`]: crate::stream::header::Framing::close
    Fail(StreamError),
}
