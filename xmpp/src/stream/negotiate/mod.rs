//! Stream negotiation as state machines: a thing that happened goes in, things to do come out (RFC 6120 §4–7).
//!
//! [`Receiving`] is what a client meets; what another domain meets, and what we do when we dial one, is `s2s::federation`. The caller (a session) owns
//! the socket, the framer, the deadlines and the look-ups; it feeds elements one at a time, performs the outputs in order and drops the machine when
//! negotiation is over. The machine is boxed: it is large next to an idle session.
//!
//! **The caller's duty at STARTTLS** (bad-inputs S-026, B-070, B-074): on `StartTls`, if anything at all stands in the
//! read buffer behind the element that caused it, close the connection without a word; it came in clear and may be
//! injected. Likewise start the framer anew, never carry bytes over.
//!
//! A peer's closing tag needs no machine: answer with [`Framing::close`](crate::stream::header::Framing::close) and drop
//! it. A password for an account that does not exist should cost as much as one that does: verify it against
//! [`ScramKeys::fake`](crate::sasl::ScramKeys::fake), then say [`Verdict::Wrong`].
//!
//! SASL2 (XEP-0388) and what goes along in it is `inline`; its elements are `sasl2`.
//!
//! Deliberately absent: any clock.

mod inline;
mod offer;
mod receiving;
pub mod sasl2;
mod turns;

pub use inline::{Inline, SignIn, SignedIn, Used};
pub use offer::{Offer, Tls, TlsPolicy};
pub use receiving::Receiving;
use sasl2::Profile;
pub use turns::{Input, Output};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};

use crate::jid::{BareJid, FullJid};
use crate::ns;
use crate::sasl::{
    Credentials, Exchange, Failure, Hash, Mechanism, Password, Secret, Step,
    Tokens as SignInTokens, Verdict,
};
use crate::stanza::error::StanzaError;
use crate::stream::error::StreamError;
use crate::stream::header::StreamHeader;
use crate::xml::element::Element;
use crate::xml::write;

/// Failed attempts a stream survives where nothing else is said; the next one closes it (RFC 6120 §6.4.5, bad-input row B-103).
pub const FAILURES_MAX: u8 = 5;

/// The answer to a bind request that succeeded (RFC 6120 §7.6.1).
#[must_use]
pub fn bind_result(iq_id: &str, jid: &FullJid) -> Element {
    let jid = Element::new("jid", ns::BIND).with_text(jid.as_str());
    iq("result", Some(iq_id)).with_child(Element::new("bind", ns::BIND).with_child(jid))
}

/// The answer to a bind request that did not (RFC 6120 §7.6.2, §7.7.2): `conflict`, `resource-constraint`, …
#[must_use]
pub fn bind_error(iq_id: Option<&str>, error: &StanzaError) -> Element {
    iq("error", iq_id).with_child(error.element())
}

/// The answer to RFC 3921's session request, which sessions still get after binding (bad-input row B-125).
#[must_use]
pub fn session_result(iq_id: &str) -> Element {
    iq("result", Some(iq_id))
}

fn iq(kind: &str, id: Option<&str>) -> Element {
    Element::new("iq", ns::CLIENT).with_attr("type", kind).with_attr_opt("id", id)
}

/// Unpredictable names (stream ids, nonces, guests) from one secret seed: HMAC in counter mode. Machines stay
/// deterministic for their caller, and no token tells anything of another.
pub struct Tokens {
    seed: Secret,
    next: u32,
}

impl Tokens {
    /// From 32 random bytes.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Tokens {
        Tokens { seed: Secret::new(seed.to_vec()), next: 0 }
    }

    fn block(&mut self) -> Vec<u8> {
        self.next += 1;
        Hash::Sha256.hmac(self.seed.expose(), &[&self.next.to_be_bytes()])
    }

    /// 24 characters of the URL alphabet: 144 bits.
    pub fn token(&mut self) -> String {
        URL_SAFE_NO_PAD.encode(&self.block()[..18])
    }

    /// A localpart: a random UUID, as XEP-0175 §3 recommends (RFC 4122 §4.4).
    fn localpart(&mut self) -> String {
        let mut bytes = self.block();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let parts = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..16]];
        parts.map(hex).join("-")
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.next)
    }
}

/// A domain as the stream header names it, prepared; `None` if it is none.
fn domain_of(text: &str) -> Option<String> {
    let jid = BareJid::parse(text).ok()?;
    jid.local().is_none().then(|| jid.as_str().to_owned())
}

/// Content namespace (where the transport names one) and version (bad-input rows B-010, B-013, B-014).
fn check_header(header: &StreamHeader, content_ns: Option<&str>) -> Result<(), StreamError> {
    if content_ns.is_some_and(|content_ns| header.content_ns != content_ns) {
        return Err(StreamError::invalid_namespace());
    }
    match header.version {
        Some((major, _)) if major >= 1 => Ok(()),
        _ => Err(StreamError::unsupported_version()),
    }
}

/// The receiving side of SASL in the elements of RFC 6120 §6.4 or XEP-0388: one running exchange and a count of failures.
#[derive(Debug)]
struct Auth {
    exchange: Option<Exchange>,
    /// Whose elements the exchange, or the last one, is in.
    profile: Profile,
    failures: u8,
    failures_max: u8,
}

/// What came of a SASL element.
enum Reply {
    Send(Vec<u8>),
    LookUp { account: BareJid, hash: Hash },
    CheckPlain { account: BareJid, password: Password },
    LookUpTokens { account: BareJid },
    CheckToken { claimed: Option<BareJid>, token: Password },
    Admit { account: BareJid },
    Success { account: BareJid, mechanism: Mechanism, data: Option<Vec<u8>>, token: Option<u64> },
    Fail(StreamError),
}

impl Auth {
    /// Nothing has begun, nothing has failed.
    fn new(failures_max: u8) -> Auth {
        Auth { exchange: None, profile: Profile::Sasl, failures: 0, failures_max }
    }

    /// `<auth/>`, `<response/>` or `<abort/>`. `begin` decides whether a mechanism may be used and makes its exchange.
    fn element(
        &mut self,
        element: &Element,
        begin: impl FnOnce(&str) -> Result<Exchange, Failure>,
    ) -> Reply {
        match (element.name(), self.exchange.take()) {
            ("auth", None) => {
                let exchange = begin(element.attr("mechanism").unwrap_or_default());
                // No text at all: no initial response. "=": an empty one (RFC 6120 §6.4.2).
                let text = element.text();
                let message = match text.as_str() {
                    "" => Ok(None),
                    text => decode(text).map(Some).ok_or(Failure::IncorrectEncoding),
                };
                self.begin(Profile::Sasl, exchange, message)
            }
            ("response", Some(exchange)) => self.response(exchange, decode(&element.text())),
            ("abort", Some(_)) => self.fail(Failure::Aborted),
            // Also a second `<auth/>` while the first is running: both are off (B-101).
            ("auth" | "response" | "abort", _) => {
                self.profile = Profile::Sasl;
                self.fail(Failure::MalformedRequest)
            }
            _ => Reply::Fail(StreamError::unsupported_stanza_type()),
        }
    }

    /// An exchange begins, if the mechanism may be used and the initial response could be decoded.
    fn begin(
        &mut self,
        profile: Profile,
        exchange: Result<Exchange, Failure>,
        message: Result<Option<Vec<u8>>, Failure>,
    ) -> Reply {
        self.profile = profile;
        match exchange.and_then(|exchange| Ok((exchange, message?))) {
            Ok((mut exchange, message)) => {
                let step = exchange.message(message.as_deref());
                self.step(exchange, step)
            }
            Err(failure) => self.fail(failure),
        }
    }

    /// The client's answer to a challenge; `None`: not base64.
    fn response(&mut self, mut exchange: Exchange, message: Option<Vec<u8>>) -> Reply {
        let Some(message) = message else { return self.fail(Failure::IncorrectEncoding) };
        let step = exchange.message(Some(&message));
        self.step(exchange, step)
    }

    fn tokens(&mut self, tokens: SignInTokens) -> Reply {
        let Some(mut exchange) = self.exchange.take() else {
            return self.fail(Failure::TemporaryAuthFailure);
        };
        let step = exchange.tokens(tokens);
        self.step(exchange, step)
    }

    fn credentials(&mut self, credentials: Credentials) -> Reply {
        let Some(mut exchange) = self.exchange.take() else {
            return self.fail(Failure::TemporaryAuthFailure);
        };
        let step = exchange.credentials(credentials);
        self.step(exchange, step)
    }

    fn plain_checked(&mut self, verdict: Verdict) -> Reply {
        let Some(mut exchange) = self.exchange.take() else {
            return self.fail(Failure::TemporaryAuthFailure);
        };
        let step = exchange.plain_checked(verdict);
        self.step(exchange, step)
    }

    fn token_checked(&mut self, found: Result<BareJid, Verdict>) -> Reply {
        let Some(mut exchange) = self.exchange.take() else {
            return self.fail(Failure::TemporaryAuthFailure);
        };
        let step = exchange.token_checked(found);
        self.step(exchange, step)
    }

    fn step(&mut self, exchange: Exchange, step: Step) -> Reply {
        let mechanism = exchange.mechanism();
        match step {
            Step::Challenge(data) => {
                self.exchange = Some(exchange);
                Reply::Send(self.profile.challenge(&data))
            }
            Step::LookUp { account, hash } => {
                self.exchange = Some(exchange);
                Reply::LookUp { account, hash }
            }
            Step::CheckPlain { account, password } => {
                self.exchange = Some(exchange);
                Reply::CheckPlain { account, password }
            }
            Step::LookUpTokens { account } => {
                self.exchange = Some(exchange);
                Reply::LookUpTokens { account }
            }
            Step::CheckToken { claimed, token } => {
                self.exchange = Some(exchange);
                Reply::CheckToken { claimed, token }
            }
            Step::Admit { account } => {
                self.exchange = Some(exchange);
                Reply::Admit { account }
            }
            Step::Success { account, data, token } => {
                Reply::Success { account, mechanism, data, token }
            }
            Step::Fail(failure) => self.fail(failure),
        }
    }

    fn fail(&mut self, failure: Failure) -> Reply {
        self.exchange = None;
        match self.count_failure() {
            Ok(()) => Reply::Send(self.profile.failure(failure)),
            Err(error) => Reply::Fail(error),
        }
    }

    /// One more thing went wrong on this stream; an error when that was the last time.
    fn count_failure(&mut self) -> Result<(), StreamError> {
        self.failures = self.failures.saturating_add(1);
        if self.failures > self.failures_max {
            Err(StreamError::policy_violation())
        } else {
            Ok(())
        }
    }
}

/// Base64 as RFC 6120 §6.4.2 has it: strict, and "=" for nothing.
fn decode(text: &str) -> Option<Vec<u8>> {
    if text == "=" { Some(Vec::new()) } else { BASE64.decode(text).ok() }
}

#[cfg(test)]
fn encode(data: &[u8]) -> String {
    if data.is_empty() { "=".to_owned() } else { BASE64.encode(data) }
}

/// `<success/>` (RFC 6120 §6.4.6).
fn success(data: Option<&[u8]>) -> Vec<u8> {
    sasl("success", &data.map(|data| BASE64.encode(data)).unwrap_or_default())
}

fn sasl(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + text.len());
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(&mut out, "xmlns", ns::SASL);
    if text.is_empty() {
        out.extend_from_slice(b"/>");
        return out;
    }
    out.push(b'>');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"</");
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
    out
}

fn failure(ns: &str, condition: Failure) -> Element {
    Element::new("failure", ns).with_child(Element::new(condition.name(), ns::SASL))
}

const PROCEED: &[u8] = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

#[cfg(test)]
mod inline_tests;
#[cfg(test)]
mod receiving_tests;
