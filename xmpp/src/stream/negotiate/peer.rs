//! The receiving entity of a server stream: STARTTLS, EXTERNAL, then a feature of the caller's (RFC 6120 §4–6, XEP-0178).
//!
//! Driven by `s2s` for another node (the link) or another domain. TLS is required. The seam for dialback: when the
//! certificate proves nothing ([`PeerInput::Verified`] of false) the stream stays open with what features
//! [`PeerOffer::features_unverified`] has, and every element of the dialback namespace comes out as
//! [`PeerOutput::Unauthenticated`]; by default nothing is offered and everything is refused.

use std::sync::Arc;

use super::{Auth, FAILURES_MAX, PROCEED, Reply, Tokens, check_header, domain_of, success};
use crate::ns;
use crate::sasl::{ChannelBindings, Exchange, Failure, Mechanism, Secret, Terms, Verdict};
use crate::stream::error::StreamError;
use crate::stream::features::Writer;
use crate::stream::header::{Framing, Opening, StreamHeader};
use crate::xml::element::Element;

/// What a listener offers; shared by its connections.
#[derive(Clone, Debug)]
pub struct PeerOffer {
    /// Names we answer to (domains of ours, our node), prepared; at least one.
    pub domains: Vec<String>,
    /// Feature elements after authentication, as bytes that declare their own namespaces.
    pub features_after_auth: Vec<u8>,
    /// Feature elements for a peer under TLS whose certificate proves nothing.
    pub features_unverified: Vec<u8>,
    /// Declare the dialback namespace in our header, and let its elements through (XEP-0220).
    pub dialback: bool,
}

/// What happened.
#[derive(Debug)]
pub enum PeerInput {
    /// The framer saw the peer's header.
    Open(Box<StreamHeader>),
    /// The framer saw an element.
    Element(Element),
    /// The handshake is done.
    TlsReady,
    /// Answers [`PeerOutput::Verify`]: is the certificate good for that name?
    Verified(bool),
    /// The framer or a deadline says: this stream ends.
    Broken(StreamError),
}

/// What to do about it, in order.
#[derive(Debug)]
pub enum PeerOutput {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Refuse buffered bytes (see the module), do the handshake, asking for a certificate, start the framer anew, feed
    /// [`PeerInput::TlsReady`].
    StartTls,
    /// Start the framer anew: a stream header comes next.
    Restart,
    /// Find out whether the peer's certificate is good for (or pinned to) `from`, feed [`PeerInput::Verified`].
    Verify {
        /// Who the peer says it is, prepared.
        from: String,
        /// Whom it called, one of our names.
        to: String,
    },
    /// The peer is who it says.
    Authenticated {
        /// Its name, prepared.
        from: String,
        /// Whom it called.
        to: String,
    },
    /// The first element after the last features. The stream is the caller's; drop the machine.
    Peer(Element),
    /// An element of the dialback namespace, before authentication; only with [`PeerOffer::dialback`].
    Unauthenticated(Element),
    /// Send the error and the end of the stream ([`Framing::error`]), then close the connection.
    Fail(StreamError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    /// In clear: only `<starttls/>` is welcome.
    Clear,
    Handshake,
    /// The caller is looking at the certificate.
    Verifying,
    /// Features are sent; authentication is to come.
    Open,
    Authenticated,
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct ReceivingPeer {
    offer: Arc<PeerOffer>,
    tokens: Tokens,
    state: State,
    is_tls_active: bool,
    is_header_sent: bool,
    is_verified: bool,
    is_authenticated: bool,
    from: Option<String>,
    to: Option<String>,
    stream_id: String,
    auth: Auth,
}

impl ReceivingPeer {
    /// A fresh connection. `seed` is 32 random bytes.
    #[must_use]
    pub fn new(offer: Arc<PeerOffer>, is_tls_active: bool, seed: [u8; 32]) -> Box<ReceivingPeer> {
        assert!(!offer.domains.is_empty(), "a listener without names");
        Box::new(ReceivingPeer {
            offer,
            tokens: Tokens::new(seed),
            state: State::Header,
            is_tls_active,
            is_header_sent: false,
            is_verified: false,
            is_authenticated: false,
            from: None,
            to: None,
            stream_id: String::new(),
            auth: Auth::new(FAILURES_MAX),
        })
    }

    /// The id of the current stream (dialback keys are made from it).
    #[must_use]
    pub fn stream_id(&self) -> &str {
        &self.stream_id
    }

    /// Takes what happened, gives what to do. An input out of turn ends the stream.
    pub fn handle(&mut self, input: PeerInput) -> Vec<PeerOutput> {
        let mut out = Vec::new();
        let done = match (input, self.state) {
            (_, State::Over) => Ok(()),
            (PeerInput::Broken(error), _) => Err(error),
            (PeerInput::Open(header), State::Header) => self.open(&mut out, &header),
            (PeerInput::TlsReady, State::Handshake) => {
                self.is_tls_active = true;
                self.expect_header();
                Ok(())
            }
            (PeerInput::Verified(is_verified), State::Verifying) => {
                self.is_verified = is_verified;
                self.state = State::Open;
                self.send_header(&mut out);
                out.push(PeerOutput::Send(self.features()));
                Ok(())
            }
            (PeerInput::Element(element), State::Clear) => self.clear(&mut out, &element),
            (PeerInput::Element(element), State::Open) => self.authenticate(&mut out, element),
            (PeerInput::Element(element), State::Authenticated) => {
                self.state = State::Over;
                out.push(PeerOutput::Peer(element));
                Ok(())
            }
            _ => Err(StreamError::policy_violation()),
        };
        if let Err(error) = done {
            self.send_header(&mut out);
            self.state = State::Over;
            out.push(PeerOutput::Fail(error));
        }
        out
    }

    fn expect_header(&mut self) {
        self.state = State::Header;
        self.is_header_sent = false;
    }

    fn send_header(&mut self, out: &mut Vec<PeerOutput>) {
        if std::mem::replace(&mut self.is_header_sent, true) {
            return;
        }
        self.stream_id = self.tokens.token();
        let opening = Opening {
            content_ns: ns::SERVER,
            from: Some(self.to.as_deref().unwrap_or(&self.offer.domains[0])),
            to: self.from.as_deref(),
            id: Some(&self.stream_id),
            dialback: self.offer.dialback,
        };
        out.push(PeerOutput::Send(opening.to_bytes(Framing::Stream)));
    }

    fn open(
        &mut self,
        out: &mut Vec<PeerOutput>,
        header: &StreamHeader,
    ) -> Result<(), StreamError> {
        check_header(header, Some(ns::SERVER))?;
        let to =
            header.to.as_deref().and_then(domain_of).filter(|to| self.offer.domains.contains(to));
        let from = header.from.as_deref().map(domain_of);
        if self.is_authenticated {
            // RFC 6120 §6.3.2: the restarted stream is between the same two.
            if to != self.to {
                return Err(StreamError::not_authorized());
            }
            if from.flatten() != self.from {
                return Err(StreamError::invalid_from());
            }
            self.state = State::Authenticated;
            self.send_header(out);
            let features = Writer::new(Framing::Stream).raw(&self.offer.features_after_auth);
            out.push(PeerOutput::Send(features.finish()));
            return Ok(());
        }
        let to = to.ok_or(StreamError::host_unknown())?;
        self.to = Some(to.clone());
        if !self.is_tls_active {
            // RFC 6120 §4.7.1 lets the initiating entity hide its name until there is TLS.
            self.state = State::Clear;
            self.send_header(out);
            out.push(PeerOutput::Send(Writer::new(Framing::Stream).starttls(true).finish()));
            return Ok(());
        }
        let from = from.flatten().ok_or(StreamError::improper_addressing())?;
        self.from = Some(from.clone());
        self.state = State::Verifying;
        out.push(PeerOutput::Verify { from, to });
        Ok(())
    }

    fn features(&self) -> Vec<u8> {
        let features = Writer::new(Framing::Stream);
        if self.is_verified {
            features.mechanisms(&[Mechanism::External]).finish()
        } else {
            features.raw(&self.offer.features_unverified).finish()
        }
    }

    fn clear(&mut self, out: &mut Vec<PeerOutput>, element: &Element) -> Result<(), StreamError> {
        match (element.ns(), element.name()) {
            (ns::TLS, "starttls") => {
                self.state = State::Handshake;
                out.push(PeerOutput::Send(PROCEED.to_vec()));
                out.push(PeerOutput::StartTls);
                Ok(())
            }
            (ns::SASL, _) => {
                let reply = self.auth.fail(Failure::EncryptionRequired); // B-067
                self.reply(out, reply)
            }
            // S-024: a peer that never sends `<starttls/>` gets nothing but an error.
            _ => Err(StreamError::not_authorized()),
        }
    }

    fn authenticate(
        &mut self,
        out: &mut Vec<PeerOutput>,
        element: Element,
    ) -> Result<(), StreamError> {
        match element.ns() {
            ns::SASL => {
                let identities =
                    if self.is_verified { self.from.iter().cloned().collect() } else { Vec::new() };
                let begin = |name: &str| {
                    if name != Mechanism::External.name() || identities.is_empty() {
                        return Err(Failure::InvalidMechanism);
                    }
                    Ok(Exchange::new(Mechanism::External, external_terms(identities)))
                };
                let reply = self.auth.element(&element, begin);
                self.reply(out, reply)
            }
            ns::DIALBACK if self.offer.dialback => {
                out.push(PeerOutput::Unauthenticated(element));
                Ok(())
            }
            ns::TLS => Err(StreamError::policy_violation()),
            _ => Err(StreamError::not_authorized()),
        }
    }

    fn reply(&mut self, out: &mut Vec<PeerOutput>, reply: Reply) -> Result<(), StreamError> {
        match reply {
            Reply::Send(bytes) => out.push(PeerOutput::Send(bytes)),
            Reply::Success { data, .. } => {
                self.is_authenticated = true;
                self.expect_header();
                let name = |name: &Option<String>| name.clone().expect("known since the header");
                let (from, to) = (name(&self.from), name(&self.to));
                out.push(PeerOutput::Send(success(data.as_deref())));
                out.push(PeerOutput::Authenticated { from, to });
                out.push(PeerOutput::Restart);
            }
            Reply::Fail(error) => return Err(error),
            // Its certificate was looked at before EXTERNAL was offered.
            Reply::Admit { .. } => {
                let reply = self.auth.plain_checked(Verdict::Right);
                return self.reply(out, reply);
            }
            Reply::LookUp { .. }
            | Reply::CheckPlain { .. }
            | Reply::CheckToken { .. }
            | Reply::LookUpTokens { .. } => {
                unreachable!("EXTERNAL asks for neither keys, passwords nor tokens")
            }
        }
        Ok(())
    }
}

/// EXTERNAL needs the identities and nothing else.
fn external_terms(identities: Vec<String>) -> Terms {
    Terms {
        domain: String::new(),
        nonce: String::new(),
        bindings: ChannelBindings::default(),
        plus_offered: false,
        fake_secret: Secret::new(Vec::new()),
        fake_iterations: 1,
        identities,
        anonymous: String::new(),
        offered: None,
    }
}
