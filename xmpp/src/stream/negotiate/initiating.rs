//! The initiating entity of a server stream: header, STARTTLS, EXTERNAL, restart, features (RFC 6120 §4–6, XEP-0178 §3).
//!
//! Driven by `s2s` when a node dials another node (the link) or another domain. TLS is required: a peer that does not
//! offer it is left (bad-input row B-071). The seam for dialback: a peer that does not offer EXTERNAL ends in
//! [`DialError::ExternalNotOffered`] with its features, from where XEP-0220 can go on over the same stream.

use std::fmt;

use super::{STARTTLS, check_header, domain_of, encode};
use crate::ns;
use crate::sasl::Failure;
use crate::stream::error::StreamError;
use crate::stream::features::{is_features, mechanisms, offers_starttls};
use crate::stream::header::{Framing, Opening, StreamHeader};
use crate::xml::element::Element;
use crate::xml::write;

/// Whom to call, and as whom.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Our domain, or our node's name.
    pub from: String,
    /// The peer's.
    pub to: String,
    /// TLS is active already (direct TLS, XEP-0368).
    pub is_tls_active: bool,
}

/// What happened.
#[derive(Debug)]
pub enum InitiatingInput {
    /// The framer saw the peer's header.
    Open(Box<StreamHeader>),
    /// The framer saw an element.
    Element(Element),
    /// The handshake is done and the peer's certificate is good for whom we dialled (or pinned).
    TlsReady,
    /// The framer or a deadline says: this stream ends.
    Broken(StreamError),
}

/// What to do about it, in order.
#[derive(Debug)]
pub enum InitiatingOutput {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Refuse buffered bytes (see the module), do the handshake with our certificate, start the framer anew, feed
    /// [`InitiatingInput::TlsReady`].
    StartTls,
    /// Start the framer anew: the peer's header comes next.
    Restart,
    /// Authenticated. The stream is the caller's; drop the machine.
    Done {
        /// What the peer offers now.
        features: Element,
        /// The id of the stream.
        stream_id: Option<String>,
    },
    /// Send [`DialError::farewell`] and close the connection.
    Fail(DialError),
}

/// Why it did not come to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// The peer does not offer STARTTLS, or somebody took it out.
    TlsNotOffered,
    /// It offers it and then declines.
    TlsRefused,
    /// It does not offer EXTERNAL: it does not trust our certificate, or wants dialback.
    ExternalNotOffered {
        /// What it offers instead.
        features: Box<Element>,
    },
    /// EXTERNAL failed.
    Refused(Failure),
    /// The peer closed the stream with this error.
    Peer(StreamError),
    /// The peer broke the rules; this is what we tell it.
    Protocol(StreamError),
}

impl DialError {
    /// The last bytes to send.
    #[must_use]
    pub fn farewell(&self) -> Vec<u8> {
        match self {
            DialError::Protocol(error) => Framing::Stream.error(error),
            _ => Framing::Stream.close().to_vec(),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::TlsNotOffered => f.write_str("the peer does not offer STARTTLS"),
            DialError::TlsRefused => f.write_str("the peer refused STARTTLS"),
            DialError::ExternalNotOffered { .. } => f.write_str("the peer does not offer EXTERNAL"),
            DialError::Refused(failure) => write!(f, "the peer refused EXTERNAL: {failure}"),
            DialError::Peer(error) => write!(f, "the peer closed the stream: {error}"),
            DialError::Protocol(error) => write!(f, "the peer broke the protocol: {error}"),
        }
    }
}

impl std::error::Error for DialError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Features,
    /// `<starttls/>` is sent.
    Proceed,
    Handshake,
    /// `<auth/>` is sent.
    Outcome,
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct Initiating {
    dial: Dial,
    state: State,
    is_authenticated: bool,
    stream_id: Option<String>,
}

impl Initiating {
    /// A fresh connection, and the first thing to do with it.
    #[must_use]
    pub fn new(dial: Dial) -> (Box<Initiating>, Vec<InitiatingOutput>) {
        let machine =
            Initiating { dial, state: State::Header, is_authenticated: false, stream_id: None };
        let first = vec![machine.header()];
        (Box::new(machine), first)
    }

    fn header(&self) -> InitiatingOutput {
        let opening = Opening {
            content_ns: ns::SERVER,
            from: Some(&self.dial.from),
            to: Some(&self.dial.to),
            id: None,
            dialback: false,
        };
        InitiatingOutput::Send(opening.to_bytes(Framing::Stream))
    }

    /// Takes what happened, gives what to do. An input out of turn ends the stream.
    pub fn handle(&mut self, input: InitiatingInput) -> Vec<InitiatingOutput> {
        let mut out = Vec::new();
        let done = match (input, self.state) {
            (_, State::Over) => Ok(()),
            (InitiatingInput::Broken(error), _) => Err(DialError::Protocol(error)),
            (InitiatingInput::Open(header), State::Header) => self.open(*header),
            (InitiatingInput::TlsReady, State::Handshake) => {
                self.dial.is_tls_active = true;
                self.state = State::Header;
                out.push(self.header());
                Ok(())
            }
            (InitiatingInput::Element(element), state) => match StreamError::from_element(&element)
            {
                Some(error) => Err(DialError::Peer(error)),
                None => match state {
                    State::Features => self.features(&mut out, element),
                    State::Proceed => self.proceed(&mut out, &element),
                    State::Outcome => self.outcome(&mut out, &element),
                    // In clear after `<proceed/>`, or before a header: nothing of it is used (B-070).
                    State::Header | State::Handshake | State::Over => unexpected(),
                },
            },
            _ => unexpected(),
        };
        if let Err(error) = done {
            self.state = State::Over;
            out.push(InitiatingOutput::Fail(error));
        }
        out
    }

    fn open(&mut self, header: StreamHeader) -> Result<(), DialError> {
        check_header(&header, Some(ns::SERVER)).map_err(DialError::Protocol)?;
        // RFC 6120 §4.7.1: who answers must be whom we called.
        if header.from.is_some_and(|from| {
            from != self.dial.to && domain_of(&from) != domain_of(&self.dial.to)
        }) {
            return Err(DialError::Protocol(StreamError::invalid_from()));
        }
        self.stream_id = header.id;
        self.state = State::Features;
        Ok(())
    }

    fn features(
        &mut self,
        out: &mut Vec<InitiatingOutput>,
        features: Element,
    ) -> Result<(), DialError> {
        if !is_features(&features) {
            return unexpected();
        }
        if !self.dial.is_tls_active {
            if !offers_starttls(&features) {
                return Err(DialError::TlsNotOffered);
            }
            self.state = State::Proceed;
            out.push(InitiatingOutput::Send(STARTTLS.to_vec()));
        } else if self.is_authenticated {
            self.state = State::Over;
            out.push(InitiatingOutput::Done { features, stream_id: self.stream_id.take() });
        } else if mechanisms(&features).iter().any(|name| name == "EXTERNAL") {
            self.state = State::Outcome;
            out.push(InitiatingOutput::Send(self.auth()));
        } else {
            return Err(DialError::ExternalNotOffered { features: Box::new(features) });
        }
        Ok(())
    }

    fn proceed(
        &mut self,
        out: &mut Vec<InitiatingOutput>,
        element: &Element,
    ) -> Result<(), DialError> {
        if element.is("proceed", ns::TLS) {
            self.state = State::Handshake;
            out.push(InitiatingOutput::StartTls);
            Ok(())
        } else if element.is("failure", ns::TLS) {
            Err(DialError::TlsRefused)
        } else {
            unexpected()
        }
    }

    /// XEP-0178 §3: the authorization identity is always given; a certificate may be good for several domains.
    fn auth(&self) -> Vec<u8> {
        let mut out = b"<auth".to_vec();
        write::attr(&mut out, "xmlns", ns::SASL);
        write::attr(&mut out, "mechanism", "EXTERNAL");
        out.push(b'>');
        out.extend_from_slice(encode(self.dial.from.as_bytes()).as_bytes());
        out.extend_from_slice(b"</auth>");
        out
    }

    fn outcome(
        &mut self,
        out: &mut Vec<InitiatingOutput>,
        element: &Element,
    ) -> Result<(), DialError> {
        if element.is("success", ns::SASL) {
            self.is_authenticated = true;
            self.state = State::Header;
            out.push(InitiatingOutput::Restart);
            out.push(self.header());
            Ok(())
        } else if element.is("failure", ns::SASL) {
            let failure = element.children().find_map(|child| Failure::parse(child.name()));
            Err(DialError::Refused(failure.unwrap_or(Failure::NotAuthorized)))
        } else if element.is("challenge", ns::SASL) {
            // EXTERNAL has none once it has had an initial response.
            Err(DialError::Refused(Failure::MalformedRequest))
        } else {
            unexpected()
        }
    }
}

fn unexpected() -> Result<(), DialError> {
    Err(DialError::Protocol(StreamError::policy_violation()))
}
