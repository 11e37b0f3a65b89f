//! Room: a stream that another domain has opened to us, as a value: headers, STARTTLS, features, what belongs where (RFC 6120 §4, §5, §9.2). Its other
//! parts: `external` (SASL), `pairing` (dialback), `management` (XEP-0198, and sending back, XEP-0288).
//!
//! Driven by `driver`, which owns socket, framer and clock. Each header says anew who is who, but what was proved on a stream stays proved. Left out:
//! other mechanisms than EXTERNAL, compression, peers before XMPP 1.0 (they get `unsupported-version`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xmpp::sasl::Mechanism;
use xmpp::stanza::Head;
use xmpp::stream::features::{self, Writer};
use xmpp::stream::header::{Framing, Opening, StreamHeader};
use xmpp::stream::negotiate::Tokens;
use xmpp::xml::framer::Limits as XmlLimits;
use xmpp::{BareJid, Element, StreamError, ns};

use super::management::Management;
use super::pairing::Asked;
use super::turns::{House, Input, Kept, Output, Settings};
use crate::federation::Timers;
use crate::federation::dialback::{self, Pair};
use crate::federation::pairs::Pairs;
use crate::federation::policy::{Certificate, Tls};
use crate::federation::wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A header comes next.
    Header,
    /// Our header waits until it is known what the certificate proves.
    Proving,
    /// The peer was told to begin with TLS.
    Handshake,
    /// Elements.
    Open,
    /// An empty challenge of EXTERNAL is out.
    Response,
    /// Somebody is looking for the stream that the peer wants to go on with.
    Resuming {
        /// How many of ours it had handled.
        h: u32,
    },
    /// Our closing tag is out, since.
    Closing(Instant),
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    pub(super) settings: Arc<Settings>,
    pub(super) tokens: Tokens,
    pub(super) state: State,
    /// Under TLS; whether the peer has shown a certificate.
    pub(super) tls: Option<bool>,
    header_sent: bool,
    /// Our closing tag is out.
    closed: bool,
    /// Who the peer said it is, and whom it called: prepared.
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    /// The id of the stream: dialback keys are made for it.
    pub(super) stream_id: String,
    /// The certificate is good for `from`.
    pub(super) external: bool,
    /// By SASL: a new header is due or was seen.
    pub(super) authenticated: bool,
    pub(super) failures: u8,
    /// The peer wants to be sent to over this stream.
    pub(super) bidi: bool,
    pub(super) proved: Pairs,
    pub(super) asked: Vec<Asked>,
    /// How many of its requests were looked at.
    pub(super) looked_at: usize,
    /// When requests came to nothing that were looked at.
    pub(super) refused: VecDeque<Instant>,
    pub(super) management: Management,
    born: Instant,
    /// Until when something must be proved.
    patience: Instant,
    /// When a stanza went by last, and whether the silence since has been broken with a space.
    pub(super) active: Instant,
    prodded: bool,
    /// Until when the peer could not be heard.
    deaf_until: Instant,
}

impl Machine {
    /// A fresh connection. `seed` is 32 random bytes, for the ids that we give.
    #[must_use]
    pub fn new(settings: Arc<Settings>, seed: [u8; 32], now: Instant) -> Machine {
        let patience = settings.timers.negotiate;
        Machine {
            management: Management::new(&settings.limits),
            settings,
            tokens: Tokens::new(seed),
            state: State::Header,
            tls: None,
            header_sent: false,
            closed: false,
            from: None,
            to: None,
            stream_id: String::new(),
            external: false,
            authenticated: false,
            failures: 0,
            bidi: false,
            proved: Pairs::default(),
            asked: Vec::new(),
            looked_at: 0,
            refused: VecDeque::new(),
            born: now,
            patience: now + patience,
            active: now,
            prodded: false,
            deaf_until: now,
        }
    }

    /// Nothing of the peer's is read until then: it is not silent meanwhile.
    pub fn deaf(&mut self, until: Instant) {
        self.deaf_until = self.deaf_until.max(until);
    }

    /// Other bounds and times, from now on.
    pub fn set(&mut self, settings: Arc<Settings>) {
        self.management.set(&settings.limits);
        self.settings = settings;
    }

    /// What the peer has proved.
    #[must_use]
    pub fn proved(&self) -> &Pairs {
        &self.proved
    }

    /// How long elements may be now: more only from whom we know.
    #[must_use]
    pub fn limits(&self) -> XmlLimits {
        if self.proved.is_empty() {
            return XmlLimits::PRE_AUTH;
        }
        let bytes = u32::try_from(self.settings.limits.stanza_bytes_max).unwrap_or(u32::MAX);
        XmlLimits { element_bytes: bytes, ..XmlLimits::STANZA }
    }

    /// How long the stream is kept when its connection is lost. With stanzas of ours on it (XEP-0288) not longer than these can wait: what the peer has not
    /// acknowledged by then has as much time left to go another way.
    #[must_use]
    pub fn sleeps_for(&self) -> Duration {
        let Timers { resume, queue, .. } = self.settings.timers;
        if self.bidi { resume.min(queue / 2) } else { resume }
    }

    /// Whether nothing of the peer's may be shown to the machine until it has its answer.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Proving | State::Handshake | State::Resuming { .. })
    }

    /// Whether the stream has come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// When a [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let timers = &self.settings.timers;
        match self.state {
            State::Over => None,
            State::Closing(since) => Some(since + timers.ack),
            _ if self.proved.is_empty() => Some(self.patience),
            _ => {
                let silence = if self.prodded { 2 * timers.idle } else { timers.idle };
                let again = self.management.asks_again();
                self.ack_by().into_iter().chain(again).chain([self.active + silence]).min()
            }
        }
    }

    /// When the acknowledgement that was asked for is too late, or one that says more than before: that may take as long as a stanza may wait. Not while we do
    /// not read.
    fn ack_by(&self) -> Option<Instant> {
        let Timers { ack, queue, .. } = self.settings.timers;
        let (asked, stalled) = (self.management.asked_at(), self.management.stalled());
        let late = |since: Option<Instant>, after| Some(since?.max(self.deaf_until) + after);
        let by = late(asked, ack).into_iter().chain(late(stalled, queue)).min();
        by.filter(|_| !self.is_full())
    }

    /// Takes what happened, says what to do. What is out of turn ends the stream.
    pub fn handle(&mut self, house: &dyn House, now: Instant, input: Input, out: &mut Vec<Output>) {
        let done = match (input, self.state) {
            (_, State::Over) => return,
            (Input::Broken(error), _) => Err(error),
            (Input::Close, _) => {
                self.end(None, out);
                return;
            }
            (Input::Tick, _) => self.tick(now, out),
            (Input::Handled(number), _) => {
                let was_full = self.is_full();
                self.handled(number, out);
                if was_full && !self.is_full() {
                    self.deaf(now);
                }
                Ok(())
            }
            (Input::Secured { certificate }, State::Header | State::Handshake) => {
                self.tls = Some(certificate);
                self.state = State::Header;
                self.header_sent = false;
                Ok(())
            }
            (Input::Proved { domain, good }, state) => {
                if state == State::Proving && self.from.as_ref() == Some(&domain) {
                    self.external = good;
                    self.greet(house, out);
                }
                self.proved_domain(house, now, &domain, good, out);
                Ok(())
            }
            (Input::Verified(ask, answer), _) => {
                self.verified(&ask, answer, now, out);
                Ok(())
            }
            (Input::Resumed(kept), State::Resuming { h }) => self.resumed(kept, h, now, out),
            (Input::Back(ticket, stanza), _) => {
                self.active = now;
                self.send_back(ticket, stanza, now, out);
                Ok(())
            }
            (Input::Open(header), State::Header) => self.open(house, &header, out),
            (Input::Stanza(piece, head), State::Open | State::Response | State::Closing(_)) => {
                self.stanza(house, now, &piece, &head, out)
            }
            (Input::Element(element), State::Open | State::Response) => {
                self.element(house, now, &element, out)
            }
            // Nothing of ours can follow our closing tag.
            (Input::Element(_), State::Closing(_)) => Ok(()),
            _ => Err(StreamError::policy_violation()),
        };
        if let Err(error) = done {
            self.end(Some(error), out);
        }
    }

    /// The connection is lost: what can be resumed. `None`: nothing can.
    #[must_use]
    pub fn into_kept(self) -> Option<Kept> {
        if self.closed || self.state == State::Over {
            return None;
        }
        let Machine { management, proved, bidi, .. } = self;
        management.into_kept(proved, bidi)
    }

    pub(super) fn end(&mut self, error: Option<StreamError>, out: &mut Vec<Output>) {
        if !self.closed {
            self.send_header(out);
        }
        self.state = State::Over;
        self.closed = true;
        out.push(Output::End(error));
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Output>) -> Result<(), StreamError> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        match self.state {
            State::Closing(_) => self.end(None, out),
            _ if self.proved.is_empty() => return Err(StreamError::connection_timeout()), // B-059
            _ if self.ack_by().is_some_and(|at| now >= at) => out.push(Output::Cut),
            _ if self.management.asks_again().is_some_and(|again| now >= again) => {
                self.ask(now, out);
            }
            _ if !self.prodded => {
                // RFC 6120 §4.6.1: if the peer is gone, its TCP will say so.
                self.prodded = true;
                out.push(Output::Send(b" "[..].into()));
            }
            _ => {
                self.state = State::Closing(now);
                self.closed = true;
                out.push(Output::Closing);
            }
        }
        Ok(())
    }

    /// The peer's header (RFC 6120 §4.7, §4.9.3).
    fn open(
        &mut self,
        house: &dyn House,
        header: &StreamHeader,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        let domain = |text: &str| {
            let jid = BareJid::parse(text).ok().filter(|jid| jid.local().is_none());
            jid.map(|jid| jid.domain().to_owned())
        };
        let (from, to) = (header.from.as_deref().map(domain), header.to.as_deref().map(domain));
        if header.content_ns != ns::SERVER {
            return Err(StreamError::invalid_namespace());
        }
        if header.version.is_none_or(|(major, _)| major < 1) {
            return Err(StreamError::unsupported_version());
        }
        if self.authenticated {
            // RFC 6120 §6.3.2: the restarted stream is between the same two (B-022, B-023).
            if to.flatten() != self.to {
                return Err(StreamError::not_authorized());
            }
            if from.flatten() != self.from {
                return Err(StreamError::invalid_from());
            }
        } else {
            let to = to.ok_or_else(StreamError::improper_addressing)?;
            let to = to.filter(|to| house.is_ours(to)).ok_or_else(StreamError::host_unknown)?;
            self.to = Some(to);
            // RFC 6120 §4.7.1 lets a peer hide its name until there is TLS.
            self.from = match from {
                None if self.tls.is_none() => None,
                from => Some(from.flatten().ok_or_else(StreamError::improper_addressing)?),
            };
        }
        if let Some(from) = &self.from {
            if self.to.as_ref().is_some_and(|to| !house.may_arrive(from, to)) {
                return Err(StreamError::invalid_from());
            }
            if !house.policy(from).allow {
                return Err(StreamError::policy_violation());
            }
            if self.tls == Some(true) && !self.authenticated {
                self.state = State::Proving;
                out.push(Output::Prove(from.clone()));
                return Ok(());
            }
        }
        self.greet(house, out);
        Ok(())
    }

    /// Our header and our features.
    fn greet(&mut self, house: &dyn House, out: &mut Vec<Output>) {
        self.state = State::Open;
        self.send_header(out);
        let policy = house.policy(self.from.as_deref().unwrap_or_default());
        let secure = self.tls.is_some();
        let needs_tls = policy.tls == Tls::Required;
        let dialback = policy.certificate != Certificate::Required;
        let mut features = Writer::new(Framing::Stream);
        if !secure {
            features = features.starttls(needs_tls);
        }
        if secure && self.external && !self.authenticated {
            features = features.mechanisms(&[Mechanism::External]);
        }
        if secure || !needs_tls {
            // Who has a certificate may add more domains of it without dialling back (XEP-0344 §2.4).
            if dialback || self.external {
                features = features.raw(dialback::FEATURE);
            }
            if !self.bidi {
                features = features.raw(b"<bidi xmlns='urn:xmpp:features:bidi'/>");
            }
        }
        // To whom dialback is all there is, no other features will be shown.
        if self.authenticated || (secure && !self.external && dialback) {
            features = features.stream_management();
        }
        let bytes_max = if self.authenticated {
            self.settings.limits.stanza_bytes_max
        } else {
            XmlLimits::PRE_AUTH.element_bytes as usize
        };
        features = features.raw(&features::limits(bytes_max));
        out.push(Output::Send(features.finish().into()));
        if self.authenticated {
            let names = self.from.as_deref().zip(self.to.as_deref());
            let (from, to) = names.expect("nobody is authenticated without a header");
            self.accept(&Pair::new(from, to), out);
        }
    }

    fn send_header(&mut self, out: &mut Vec<Output>) {
        if std::mem::replace(&mut self.header_sent, true) {
            return;
        }
        self.stream_id = self.tokens.token();
        let opening = Opening {
            content_ns: ns::SERVER,
            from: Some(self.to.as_deref().unwrap_or(&self.settings.name)),
            to: self.from.as_deref(),
            id: Some(&self.stream_id),
            dialback: true,
        };
        out.push(Output::Send(opening.to_bytes(Framing::Stream).into()));
    }

    /// The peer has authenticated itself by SASL: its header comes once more.
    pub(super) fn expect_header(&mut self, out: &mut Vec<Output>) {
        self.state = State::Header;
        self.header_sent = false;
        out.push(Output::Restart);
    }

    /// What was proved from now on.
    pub(super) fn accept(&mut self, pair: &Pair, out: &mut Vec<Output>) {
        if self.proved.add(pair) {
            out.push(Output::Accepted(pair.clone()));
            if self.bidi {
                out.push(Output::Back(pair.reversed()));
            }
        }
    }

    /// A question is asked for the peer, and has as much time as the peer has: it is to hear the answer. But not for ever.
    pub(super) fn wait_for_answer(&mut self, now: Instant) {
        let negotiate = self.settings.timers.negotiate;
        self.patience = (now + 2 * negotiate).min(self.born + 4 * negotiate);
    }

    /// Whether the peer must begin with STARTTLS before it may do anything else.
    fn needs_tls(&self, house: &dyn House) -> bool {
        self.tls.is_none()
            && house.policy(self.from.as_deref().unwrap_or_default()).tls == Tls::Required
    }

    fn element(
        &mut self,
        house: &dyn House,
        now: Instant,
        element: &Element,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        if StreamError::is_one(element) {
            self.end(None, out);
            return Ok(());
        }
        match (element.ns(), element.name()) {
            (ns::TLS, "starttls") if self.tls.is_none() && self.proved.is_empty() => {
                self.state = State::Handshake;
                self.asked.clear();
                out.push(Output::Send(
                    b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"[..].into(),
                ));
                out.push(Output::StartTls);
                Ok(())
            }
            (ns::TLS, "starttls") => Err(StreamError::policy_violation()), // B-073
            (ns::SASL, name) => {
                if name == "auth" {
                    stays(house)?;
                }
                self.sasl(element, out)
            }
            // B-203, S-024: without TLS there is nothing but an error.
            (ns::DIALBACK, _) if self.needs_tls(house) => Err(StreamError::policy_violation()),
            (ns::SM, _) if self.needs_tls(house) => Err(StreamError::not_authorized()), // B-068
            (ns::DIALBACK, _) => self.dialback(house, now, element, out),
            (ns::SM, _) => self.sm(element, now, out),
            (ns::BIDI, "bidi") if !self.needs_tls(house) => {
                self.want_bidi(out);
                Ok(())
            }
            _ => Err(wire::unknown(element)),
        }
    }

    /// The peer wants to be sent to over this stream (XEP-0288 §2.2).
    fn want_bidi(&mut self, out: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.bidi, true) {
            out.extend(self.proved.iter().map(|pair| Output::Back(pair.reversed())));
        }
    }

    fn stanza(
        &mut self,
        house: &dyn House,
        now: Instant,
        piece: &Bytes,
        head: &Head,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        let is_ours = |domain: &str| house.is_ours(domain);
        let may_arrive = |from: &str, to: &str| house.may_arrive(from, to);
        let stanza = wire::stanza(piece, head, &self.proved, is_ours, may_arrive)?;
        (self.active, self.prodded) = (now, false);
        out.extend(self.management.begin().map(|number| Output::Receive(stanza, number)));
        Ok(())
    }
}

/// Whether a domain may prove who it is here: before it has sent anything, for others will have to have it.
pub(super) fn stays(house: &dyn House) -> Result<(), StreamError> {
    house.leaving().map_or(Ok(()), Err)
}
