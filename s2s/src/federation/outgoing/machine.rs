//! Room `federation::outgoing`: the initiating entity's negotiation with another domain, from the header to where stanzas may go: STARTTLS or direct TLS
//! (RFC 6120 §5, XEP-0368), then EXTERNAL (RFC 6120 §6, XEP-0178 §3) or dialback (XEP-0220 §2.1.1). A value: what happened goes in, what to do
//! comes out. Called by `driver` and `verify`; what follows on the stream is `online`'s.
//!
//! What a peer may get away with is in [`Terms`], which policy makes. TLS that is required and not offered ends it, whoever took it away (bad-inputs
//! B-071); so do bytes in clear behind `<proceed/>`, which the driver refuses (B-070). Dialback proves us to them; that they are who we called is
//! proved by their certificate, or, where policy does not ask for that, by the DNS alone. Absent: SASL2 between servers (nobody offers it),
//! other mechanisms, target piggybacking (XEP-0220 §2.6.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use xmpp::sasl::Failure as SaslFailure;
use xmpp::stream::features::{is_features, mechanisms, offers_starttls};
use xmpp::stream::header::{Framing, Opening, StreamHeader};
use xmpp::xml::write;
use xmpp::{BareJid, Element, StreamCondition, StreamError, ns};

use super::failure::Failure;
use crate::federation::dialback::{self, Dialback, Outcome, Pair, Step};
use crate::federation::policy::{Certificate, Policy, Tls};

/// Whom to call, as whom, for what.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    /// From our domain to theirs.
    pub(super) pair: Pair,
    /// What policy says.
    pub(super) terms: Terms,
    /// The connection began with TLS; whether its certificate proves their domain.
    pub(super) direct_tls: Option<bool>,
    /// Of the dialback keys; `None`: not known yet.
    pub(super) secret: Option<[u8; 32]>,
}

/// What may happen on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Nothing goes in clear.
    pub(super) tls_required: bool,
    /// Their certificate must prove their domain.
    pub(super) certificate_required: bool,
    /// Try EXTERNAL where it is offered.
    pub(super) external: bool,
    /// Dialback will do, under TLS.
    pub(super) dialback: bool,
    /// And in clear.
    pub(super) dialback_in_clear: bool,
    /// Let them send on this stream too (XEP-0288), if we can believe that it is them.
    pub(super) bidi: bool,
    /// Only as far as the features, to ask about a key (XEP-0220 §2.1.2): nobody authenticates.
    pub(super) only_verify: bool,
}

impl Terms {
    /// What policy asks of their domain, for a stream that is to carry stanzas.
    pub(super) fn of(policy: &Policy) -> Terms {
        Terms {
            tls_required: policy.tls == Tls::Required,
            certificate_required: policy.certificate == Certificate::Required,
            external: policy.external(),
            dialback: policy.dialback(true),
            dialback_in_clear: policy.dialback(false),
            bidi: true,
            only_verify: false,
        }
    }

    /// Whether it matters what their certificate proves. Who only answers questions is who the DNS says, where policy asks for no more.
    pub(super) fn judges(&self) -> bool {
        !self.only_verify || self.certificate_required
    }
}

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// The framer saw the peer's header.
    Open(Box<StreamHeader>),
    /// The framer saw an element.
    Element(Element),
    /// The handshake is done, and this is whether the certificate proves their domain.
    Tls { proved: bool },
    /// The framer saw what it does not take.
    Broken(StreamError),
    /// The peer has closed its half.
    Closed,
    /// The connection broke.
    Lost(String),
}

/// What to do about it, in order.
#[derive(Debug)]
pub(super) enum Output {
    /// Write these bytes.
    Send(Vec<u8>),
    /// If anything is buffered, the stream is over; else do the handshake, start the framer anew, feed [`Input::Tls`].
    StartTls,
    /// Start the framer anew: the peer's header comes next.
    Restart,
    /// It stands. The machine is done.
    Established(Box<Established>),
    /// It does not. Write [`farewell`] and close. The machine is done.
    Failed(Failure),
}

/// A stream on which stanzas of the pair may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Established {
    /// The id of the stream: keys of further pairs are made from it.
    pub(super) stream_id: Option<String>,
    /// What convinced them.
    pub(super) proof: Proof,
    /// Under TLS.
    pub(super) is_tls: bool,
    /// Their certificate proves their domain.
    pub(super) is_proved: bool,
    /// They may send on it (XEP-0288).
    pub(super) bidi: bool,
    /// They offer stream management (XEP-0198).
    pub(super) sm: bool,
    /// Further pairs can be asked for: they answer a refused one with an error and leave the rest alone.
    pub(super) takes_more: bool,
}

/// How we were authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Our certificate (XEP-0178).
    External,
    /// A key (XEP-0220).
    Dialback,
    /// Not at all: nothing but questions may go.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Features,
    /// `<starttls/>` is sent.
    Proceed,
    Handshake,
    /// `<auth/>` is sent.
    External,
    /// `<db:result/>` is sent.
    Dialback,
    Over,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    dial: Dial,
    state: State,
    is_tls: bool,
    is_proved: bool,
    proof: Proof,
    stream_id: Option<String>,
    declares_dialback: bool,
    features: Option<Element>,
    bidi: bool,
    external_failed: Option<SaslFailure>,
    /// Their header is from somebody else: only an error may follow.
    misnamed: bool,
}

/// The last bytes to write, given why.
pub(super) fn farewell(failure: &Failure) -> Vec<u8> {
    match failure {
        Failure::Protocol(error) => Framing::Stream.error(error),
        _ => Framing::Stream.close().to_vec(),
    }
}

impl Machine {
    /// A fresh connection, and the first thing to do with it.
    ///
    /// # Errors
    /// When it began with TLS and the certificate is not what policy asks for.
    pub(super) fn new(dial: Dial) -> Result<(Machine, Vec<Output>), Failure> {
        let machine = Machine {
            is_tls: dial.direct_tls.is_some(),
            is_proved: dial.direct_tls == Some(true),
            dial,
            state: State::Header,
            proof: Proof::None,
            stream_id: None,
            declares_dialback: false,
            features: None,
            bidi: false,
            external_failed: None,
            misnamed: false,
        };
        if machine.is_tls {
            machine.judge()?;
        }
        let first = vec![machine.header()];
        Ok((machine, first))
    }

    fn header(&self) -> Output {
        let opening = Opening {
            content_ns: ns::SERVER,
            from: Some(&self.dial.pair.from),
            to: Some(&self.dial.pair.to),
            id: None,
            dialback: true,
        };
        Output::Send(opening.to_bytes(Framing::Stream))
    }

    /// Takes what happened, gives what to do. An input out of turn ends the stream.
    pub(super) fn handle(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        let done = match (input, self.state) {
            (_, State::Over) => Ok(()),
            (Input::Broken(error), _) => Err(Failure::Protocol(error)),
            // Some cannot go on on the same stream after a failure.
            (Input::Closed, _) => {
                Err(self.external_failed.map_or(Failure::Closed, Failure::External))
            }
            (Input::Lost(words), _) => {
                Err(self.external_failed.map_or(Failure::Cut(words), Failure::External))
            }
            (Input::Open(header), State::Header) => self.open(&mut out, *header),
            (Input::Tls { proved }, State::Handshake) => {
                (self.is_tls, self.is_proved) = (true, proved);
                self.state = State::Header;
                out.push(self.header());
                self.judge()
            }
            (Input::Element(element), state) => match StreamError::from_element(&element) {
                Some(error) => Err(self.peer_says(error)),
                None if self.misnamed => Err(Failure::Protocol(StreamError::invalid_from())),
                None => match state {
                    State::Features => self.features(&mut out, element),
                    State::Proceed => self.proceed(&mut out, &element),
                    State::External => self.outcome(&mut out, &element),
                    State::Dialback => self.answer(&mut out, &element),
                    State::Header | State::Handshake | State::Over => unexpected(),
                },
            },
            _ => unexpected(),
        };
        if let Err(failure) = done {
            self.state = State::Over;
            out.push(Output::Failed(failure));
        }
        out
    }

    /// Whether their certificate is good enough.
    fn judge(&self) -> Result<(), Failure> {
        if self.dial.terms.certificate_required && !self.is_proved {
            return Err(Failure::Unproved);
        }
        Ok(())
    }

    /// A redirection counts only under TLS, and from a peer that proved who it is if it must (RFC 6120 §4.9.3.19).
    fn peer_says(&self, error: StreamError) -> Failure {
        match &error.host {
            Some(host) if error.condition == StreamCondition::SeeOtherHost && self.is_tls => {
                Failure::Elsewhere(host.clone())
            }
            _ => Failure::Peer(error),
        }
    }

    fn open(&mut self, out: &mut Vec<Output>, header: StreamHeader) -> Result<(), Failure> {
        if header.content_ns != ns::SERVER {
            return Err(Failure::Protocol(StreamError::invalid_namespace()));
        }
        // RFC 6120 §4.7.1: who answers must be whom we called. Who is not may still say why, and that it serves no such domain is no breach (§4.9.1.3).
        self.misnamed = header.from.is_some_and(|from| !is_domain(&from, &self.dial.pair.to));
        self.stream_id = header.id.filter(|id| !id.is_empty());
        self.declares_dialback = header.dialback;
        if header.version.is_some_and(|version| version >= (1, 0)) {
            self.state = State::Features;
            return Ok(());
        }
        if self.misnamed {
            return Err(Failure::Protocol(StreamError::invalid_from()));
        }
        // Before XMPP 1.0 there are no features: no TLS, no SASL (XEP-0220 §2.4.1).
        self.features = None;
        if self.dial.terms.tls_required && !self.is_tls {
            return Err(Failure::TlsNotOffered);
        }
        self.authenticate(out)
    }

    fn features(&mut self, out: &mut Vec<Output>, features: Element) -> Result<(), Failure> {
        if !is_features(&features) {
            return unexpected();
        }
        if !self.is_tls && offers_starttls(&features) {
            self.state = State::Proceed;
            out.push(Output::Send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>".to_vec()));
            return Ok(());
        }
        if !self.is_tls && self.dial.terms.tls_required {
            return Err(Failure::TlsNotOffered);
        }
        self.features = Some(features);
        if self.proof == Proof::External {
            self.established(out);
            return Ok(());
        }
        self.authenticate(out)
    }

    fn proceed(&mut self, out: &mut Vec<Output>, element: &Element) -> Result<(), Failure> {
        if element.is("proceed", ns::TLS) {
            self.state = State::Handshake;
            out.push(Output::StartTls);
            Ok(())
        } else if element.is("failure", ns::TLS) {
            Err(Failure::TlsNotOffered)
        } else {
            unexpected()
        }
    }

    fn offers(&self, name: &str, ns: &str) -> bool {
        self.features.as_ref().is_some_and(|features| features.has_child(name, ns))
    }

    fn authenticate(&mut self, out: &mut Vec<Output>) -> Result<(), Failure> {
        if self.dial.terms.only_verify {
            self.established(out);
            return Ok(());
        }
        let offered = self.features.as_ref().map(mechanisms).unwrap_or_default();
        let external = offered.iter().any(|name| name == "EXTERNAL");
        if !(external && self.is_tls && self.dial.terms.external) {
            return self.dialback(out);
        }
        self.ask_bidi(out);
        self.state = State::External;
        out.push(Output::Send(auth(&self.dial.pair.from)));
        Ok(())
    }

    /// Once, after TLS and before authentication (XEP-0288 §2.2). Note the two namespaces: one of the feature, one of the request (bad-inputs S-058).
    fn ask_bidi(&mut self, out: &mut Vec<Output>) {
        // Without a proof they are who the DNS says: enough where dialback is.
        let believed = self.is_tls && (self.is_proved || self.dial.terms.dialback);
        if self.dial.terms.bidi && !self.bidi && believed && self.offers("bidi", ns::BIDI_FEATURE) {
            self.bidi = true;
            out.push(Output::Send(Element::new("bidi", ns::BIDI).to_bytes()));
        }
    }

    fn outcome(&mut self, out: &mut Vec<Output>, element: &Element) -> Result<(), Failure> {
        if element.is("success", ns::SASL) {
            self.proof = Proof::External;
            self.state = State::Header;
            out.push(Output::Restart);
            out.push(self.header());
            Ok(())
        } else if element.is("failure", ns::SASL) {
            let failure = element.children().find_map(|child| SaslFailure::parse(child.name()));
            self.external_failed = Some(failure.unwrap_or(SaslFailure::NotAuthorized));
            self.dialback(out)
        } else if element.is("challenge", ns::SASL) {
            // EXTERNAL has none once it has had an initial response.
            self.external_failed = Some(SaslFailure::MalformedRequest);
            self.dialback(out)
        } else {
            unexpected()
        }
    }

    fn dialback(&mut self, out: &mut Vec<Output>) -> Result<(), Failure> {
        let is_spoken = self.declares_dialback || self.offers("dialback", ns::DIALBACK_FEATURE);
        let terms = self.dial.terms;
        let is_allowed = if self.is_tls { terms.dialback } else { terms.dialback_in_clear };
        if !is_allowed || !is_spoken {
            return Err(match self.external_failed {
                Some(failure) => Failure::External(failure),
                None => Failure::NoWay,
            });
        }
        // A key without a stream id could be used again (bad-inputs S-057).
        let Some(id) = self.stream_id.clone() else {
            return Err(Failure::Protocol(StreamError::invalid_xml()));
        };
        let secret = self.dial.secret.ok_or(Failure::NoSecret)?;
        self.ask_bidi(out);
        self.state = State::Dialback;
        out.push(Output::Send(ask(&secret, &self.dial.pair, &id)));
        Ok(())
    }

    fn answer(&mut self, out: &mut Vec<Output>, element: &Element) -> Result<(), Failure> {
        if element.ns() != ns::DIALBACK {
            return unexpected();
        }
        match Dialback::read(element).map_err(Failure::Protocol)? {
            Dialback { pair, step: Step::Answer(outcome) } if pair == self.dial.pair.reversed() => {
                verdict(outcome)?;
                self.proof = Proof::Dialback;
                self.established(out);
                Ok(())
            }
            // Nobody asked for that (bad-inputs S-054).
            _ => Ok(()),
        }
    }

    fn established(&mut self, out: &mut Vec<Output>) {
        let errors = self.features.as_ref().is_some_and(dialback::takes_errors);
        let terms = self.dial.terms;
        let dialback = if self.is_tls { terms.dialback } else { terms.dialback_in_clear };
        self.state = State::Over;
        out.push(Output::Established(Box::new(Established {
            sm: self.proof != Proof::None && self.offers("sm", ns::SM),
            stream_id: self.stream_id.take(),
            proof: self.proof,
            is_tls: self.is_tls,
            is_proved: self.is_proved,
            bidi: self.bidi,
            takes_more: errors && dialback,
        })));
    }
}

/// Asks that stanzas of the pair may go on the stream of that id (XEP-0220 §2.1.1).
pub(super) fn ask(secret: &[u8], pair: &Pair, id: &str) -> Vec<u8> {
    let key = dialback::key(secret, &pair.to, &pair.from, id);
    Dialback { pair: pair.clone(), step: Step::Result { key } }.to_bytes()
}

/// What the answer to that means.
pub(super) fn verdict(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::Valid => Ok(()),
        Outcome::Invalid => Err(Failure::Invalid),
        Outcome::Error(error) => Err(Failure::Refused(error)),
    }
}

/// XEP-0178 §3: the authorization identity is always given; a certificate may be good for several domains.
fn auth(ours: &str) -> Vec<u8> {
    let mut out = b"<auth".to_vec();
    write::attr(&mut out, "xmlns", ns::SASL);
    write::attr(&mut out, "mechanism", "EXTERNAL");
    out.push(b'>');
    out.extend_from_slice(STANDARD.encode(ours).as_bytes());
    out.extend_from_slice(b"</auth>");
    out
}

fn is_domain(text: &str, domain: &str) -> bool {
    text == domain
        || BareJid::parse(text).is_ok_and(|jid| jid.local().is_none() && jid.domain() == domain)
}

fn unexpected() -> Result<(), Failure> {
    Err(Failure::Protocol(StreamError::policy_violation()))
}
