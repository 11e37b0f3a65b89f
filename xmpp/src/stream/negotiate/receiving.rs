//! The receiving entity of a client's stream: header, STARTTLS, SASL, then bind or resume (RFC 6120 §4–7).
//!
//! Driven by the node's session task. Over when it has said [`Output::Bind`] or [`Output::Resume`] and the caller has
//! succeeded with that (until then it can be told of a refusal), or when it has said [`Output::Fail`].

use std::sync::Arc;

use super::inline::Course;
use super::sasl2::Profile;
use super::{
    Auth, Input, Offer, Output, PROCEED, Reply, Tls, TlsPolicy, Tokens, bind_error, bind_result,
    check_header, domain_of, success,
};
use crate::jid::BareJid;
use crate::ns;
use crate::sasl::{Exchange, Failure, Hashes, Mechanism, Offered, Terms};
use crate::sm::{Malformed, Nonza};
use crate::stanza::error::{Condition, StanzaError};
use crate::stream::error::StreamError;
use crate::stream::features::Writer;
use crate::stream::header::{Framing, Opening, StreamHeader};
use crate::xml::element::Element;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A stream header comes next.
    Header,
    /// Features are sent; authentication is to come.
    Open,
    /// The handshake is under way.
    Handshake,
    /// The caller is looking up keys or checking a password.
    Asked,
    /// Authenticated and restarted, features are sent.
    Authenticated,
    /// The caller is binding.
    Binding,
    /// The caller is resuming.
    Resuming,
    /// Nothing more to say.
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct Receiving {
    pub(super) offer: Arc<Offer>,
    framing: Framing,
    pub(super) tokens: Tokens,
    pub(super) state: State,
    pub(super) tls: Option<Tls>,
    /// The domain of the current stream; of the first one, after a restart.
    domain: Option<String>,
    /// Who the client says it will be.
    pub(super) from: Option<BareJid>,
    /// Of which hashes they have keys.
    pub(super) known: Option<Hashes>,
    is_header_sent: bool,
    pub(super) auth: Auth,
    /// An attempt in SASL2, until its `<success/>`.
    pub(super) course: Option<Box<Course>>,
    pub(super) account: Option<BareJid>,
    iq_id: Option<String>,
}

impl Receiving {
    /// A fresh connection. `tls` is given where TLS is active from the start; `seed` is 32 random bytes.
    #[must_use]
    pub fn new(
        offer: Arc<Offer>,
        framing: Framing,
        tls: Option<Tls>,
        seed: [u8; 32],
    ) -> Box<Receiving> {
        assert!(!offer.domains.is_empty(), "a listener without domains");
        let auth = Auth::new(offer.failures_max);
        Box::new(Receiving {
            offer,
            framing,
            tokens: Tokens::new(seed),
            state: State::Header,
            tls,
            domain: None,
            from: None,
            known: None,
            is_header_sent: false,
            auth,
            course: None,
            account: None,
            iq_id: None,
        })
    }

    /// Whether a question is open: feed no element before its answer.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Asked | State::Handshake | State::Binding | State::Resuming)
    }

    /// The account, once authenticated.
    #[must_use]
    pub fn account(&self) -> Option<&BareJid> {
        self.account.as_ref()
    }

    /// The domain of the stream, once it is open.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// Takes what happened, gives what to do. An input out of turn ends the stream.
    pub fn handle(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match (input, self.state) {
            (_, State::Over) => {}
            (Input::Broken(error), _) => self.fail(&mut out, error),
            (Input::Open(header), State::Header) => self.open(&mut out, &header),
            // Only a transport that frames elements one by one can show us these.
            (Input::Open(_), _) => self.fail(&mut out, StreamError::policy_violation()),
            (Input::Element(_), State::Header) => {
                self.fail(&mut out, StreamError::not_authorized())
            }
            (Input::Element(element), State::Open) => self.before_auth(&mut out, element),
            (Input::Element(element), State::Authenticated) => self.after_auth(&mut out, &element),
            (Input::Element(_), _) => self.fail(&mut out, StreamError::policy_violation()),
            (Input::TlsReady(tls), State::Handshake) => {
                self.tls = Some(tls);
                self.expect_header();
            }
            (Input::About(known), State::Asked) => {
                self.known = known;
                self.state = State::Open;
                out.push(Output::Send(self.features_before_auth()));
            }
            (Input::Tokens(tokens), State::Asked) => {
                let reply = self.auth.tokens(tokens);
                self.reply(&mut out, reply);
            }
            (Input::Upgraded, State::Asked) => self.upgraded(&mut out),
            (Input::SignedIn(signed_in), State::Asked) => self.signed_in(&mut out, signed_in),
            (Input::ResumedInline { jid, previd, h }, State::Resuming) => {
                self.resumed_inline(&mut out, &jid, previd, h);
            }
            (Input::BoundInline(jid, features), State::Binding) => {
                self.bound_inline(&mut out, &jid, features);
            }
            (Input::BindRefused(error), State::Binding) if self.is_in_sasl2() => {
                self.not_bound_inline(&mut out, &error);
            }
            (Input::ResumeRefused { condition, h }, State::Resuming) if self.is_in_sasl2() => {
                self.not_resumed_inline(&mut out, condition, h);
            }
            (Input::Credentials(credentials), State::Asked) => {
                let reply = self.auth.credentials(credentials);
                self.reply(&mut out, reply);
            }
            (Input::PlainChecked(verdict), State::Asked) => {
                let reply = self.auth.plain_checked(verdict);
                self.reply(&mut out, reply);
            }
            (Input::TokenChecked(found), State::Asked) => {
                let reply = self.auth.token_checked(found);
                self.reply(&mut out, reply);
            }
            (Input::Bound(jid), State::Binding) => {
                let iq_id = self.iq_id.take().unwrap_or_default();
                out.push(Output::Send(self.framing.element(&bind_result(&iq_id, &jid))));
                self.state = State::Over;
            }
            (Input::BindRefused(error), State::Binding) => {
                let iq_id = self.iq_id.take();
                self.refuse_bind(&mut out, iq_id.as_deref(), &error);
            }
            (Input::ResumeRefused { condition, h }, State::Resuming) => {
                self.refuse_sm(&mut out, condition, h)
            }
            _ => self.fail(&mut out, StreamError::internal_server_error()),
        }
        out
    }

    fn expect_header(&mut self) {
        self.state = State::Header;
        self.is_header_sent = false;
    }

    pub(super) fn fail(&mut self, out: &mut Vec<Output>, error: StreamError) {
        self.send_header(out, None);
        out.push(Output::Fail(error));
        self.state = State::Over;
    }

    /// Our header goes before anything else on a stream, an error included.
    fn send_header(&mut self, out: &mut Vec<Output>, to: Option<&str>) {
        if std::mem::replace(&mut self.is_header_sent, true) {
            return;
        }
        let id = self.tokens.token();
        let opening = Opening {
            content_ns: ns::CLIENT,
            from: Some(self.domain.as_deref().unwrap_or(&self.offer.domains[0])),
            to,
            id: Some(&id),
            dialback: false,
        };
        out.push(Output::Send(opening.to_bytes(self.framing)));
    }

    fn open(&mut self, out: &mut Vec<Output>, header: &StreamHeader) {
        let from = header.from.as_deref().and_then(|from| BareJid::parse(bare_of(from)).ok());
        let verdict = self.check(header, from.as_ref());
        self.send_header(out, from.as_ref().map(BareJid::as_str));
        if let Err(error) = verdict {
            return self.fail(out, error);
        }
        if self.account.is_some() {
            self.state = State::Authenticated;
            out.push(Output::Send(self.features_after_auth(true)));
            return;
        }
        self.known = None; // It was of whom an earlier header named.
        self.from = from
            .filter(|from| from.local().is_some() && Some(from.domain()) == self.domain.as_deref());
        let scram = |mechanism: &Mechanism| matches!(mechanism, Mechanism::Scram { .. });
        match &self.from {
            Some(from) if self.offered().iter().any(scram) => {
                self.state = State::Asked;
                out.push(Output::About(from.clone()));
            }
            _ => {
                self.state = State::Open;
                out.push(Output::Send(self.features_before_auth()));
            }
        }
    }

    /// Bad-input rows B-010 to B-023.
    fn check(&mut self, header: &StreamHeader, from: Option<&BareJid>) -> Result<(), StreamError> {
        // RFC 7395 §3.4: `<open/>` names no content namespace.
        check_header(header, (self.framing == Framing::Stream).then_some(ns::CLIENT))?;
        let to = header.to.as_deref().and_then(domain_of);
        // To nobody: as Prosody and ejabberd say it.
        let unknown = match header.to {
            None => StreamError::improper_addressing(),
            Some(_) => StreamError::host_unknown(),
        };
        let ours = to.filter(|to| self.offer.domains.contains(to)).ok_or(unknown);
        let Some(account) = &self.account else {
            self.domain = Some(ours?);
            return Ok(());
        };
        // B-022: the user authenticated for one domain; another needs another authentication (CVE-2018-10847).
        if ours.ok() != self.domain {
            return Err(StreamError::not_authorized());
        }
        // B-023.
        if header.from.is_some() && from != Some(account) {
            return Err(StreamError::invalid_from());
        }
        Ok(())
    }

    pub(super) fn is_tls_missing(&self) -> bool {
        self.tls.is_none() && self.offer.tls == TlsPolicy::Required
    }

    /// May this mechanism be used on the stream as it is? If not, with what failure.
    pub(super) fn allows(&self, mechanism: Mechanism) -> Result<(), Failure> {
        if self.is_tls_missing() {
            return Err(Failure::EncryptionRequired);
        }
        if !self.mechanisms().contains(&mechanism) {
            return Err(Failure::InvalidMechanism);
        }
        let tls = self.tls.as_ref();
        let is_possible = match mechanism {
            Mechanism::Scram { hash, .. }
                if self.known.is_some_and(|known| !known.contains(hash)) =>
            {
                false
            }
            Mechanism::Scram { plus: true, .. } => tls.is_some_and(|tls| !tls.bindings.is_empty()),
            Mechanism::Token(_) => false, // See `offered_tokens`.
            Mechanism::External => !self.identities().is_empty(),
            Mechanism::Plain | Mechanism::OauthBearer
                if tls.is_none() && !self.offer.plain_without_tls =>
            {
                return Err(Failure::EncryptionRequired);
            }
            _ => true,
        };
        if is_possible { Ok(()) } else { Err(Failure::InvalidMechanism) }
    }

    /// Accounts of the stream's domain that the client's certificate proves.
    fn identities(&self) -> Vec<String> {
        let proved = self.tls.iter().flat_map(|tls| &tls.identities);
        let is_ours = |identity: &&String| {
            BareJid::parse(identity)
                .is_ok_and(|jid| jid.local().is_some() && Some(jid.domain()) == self.domain())
        };
        proved.filter(is_ours).cloned().collect()
    }

    /// Those of the stream's domain.
    pub(super) fn mechanisms(&self) -> &[Mechanism] {
        self.offer.of(self.domain.as_deref()).0
    }

    fn may_register(&self) -> bool {
        self.offer.of(self.domain.as_deref()).1
    }

    fn offered(&self) -> Vec<Mechanism> {
        self.mechanisms()
            .iter()
            .copied()
            .filter(|&mechanism| self.allows(mechanism).is_ok())
            .collect()
    }

    /// What XEP-0440 advertises along with these.
    fn offered_bindings(&self, offered: &[Mechanism]) -> impl Iterator<Item = &'static str> + '_ {
        let is_some = offered.iter().any(|offered| offered.is_plus());
        self.tls.as_ref().filter(|_| is_some).into_iter().flat_map(|tls| tls.bindings.types())
    }

    fn features_before_auth(&self) -> Vec<u8> {
        let offer = &self.offer;
        let mut features = Writer::new(self.framing);
        if self.tls.is_none() && offer.tls != TlsPolicy::Absent {
            features = features.starttls(offer.tls == TlsPolicy::Required);
        }
        if self.is_tls_missing() {
            return features.finish();
        }
        let offered = self.offered();
        features = features.mechanisms(&offered);
        features = features
            .raw(&self.sasl2_feature(&offered))
            .channel_bindings(self.offered_bindings(&offered));
        if self.may_register() {
            features = features.register();
        }
        features.raw(&offer.features_before_auth).finish()
    }

    /// `bind`: nothing is bound yet.
    pub(super) fn features_after_auth(&self, bind: bool) -> Vec<u8> {
        let mut features = Writer::new(self.framing);
        if bind {
            features = features.bind();
        }
        if self.offer.stream_management {
            features = features.stream_management();
        }
        if self.offer.roster_versioning {
            features = features.roster_versioning();
        }
        features.raw(&self.offer.features_after_auth).finish()
    }

    fn before_auth(&mut self, out: &mut Vec<Output>, element: Element) {
        match (element.ns(), element.name()) {
            (ns::SASL2, _) if !self.is_in_sasl1() => self.sasl2(out, &element),
            (ns::SASL2, _) => self.fail(out, StreamError::policy_violation()),
            // XEP-0388 §2.5.
            (namespace, _) if self.is_in_sasl2() && namespace != ns::CLIENT => {
                self.fail(out, StreamError::policy_violation())
            }
            (ns::TLS, "starttls") => {
                let is_offered = self.tls.is_none() && self.offer.tls != TlsPolicy::Absent;
                if !is_offered || self.auth.exchange.is_some() {
                    return self.fail(out, StreamError::policy_violation()); // B-073, S-025
                }
                self.state = State::Handshake;
                out.push(Output::Send(PROCEED.to_vec()));
                out.push(Output::StartTls);
            }
            (ns::SASL, _) => self.authenticate(out, &element),
            // B-176, B-184; B-068 while TLS is missing.
            (ns::SM, "enable" | "resume") if !self.is_tls_missing() => {
                self.refuse_sm(out, Condition::UnexpectedRequest, None);
            }
            (ns::SM, _) => self.fail(out, StreamError::not_authorized()),
            (ns::CLIENT, "iq") if self.is_registration(&element) => {
                out.push(Output::Register(element))
            }
            (ns::CLIENT, "iq" | "message" | "presence") => {
                self.fail(out, StreamError::not_authorized())
            }
            _ => self.fail(out, StreamError::unsupported_stanza_type()),
        }
    }

    fn is_in_sasl1(&self) -> bool {
        self.auth.exchange.is_some() && self.auth.profile == Profile::Sasl
    }

    fn is_registration(&self, iq: &Element) -> bool {
        let is_idle = self.auth.exchange.is_none() && !self.is_in_sasl2();
        let is_free = !self.is_tls_missing() && is_idle;
        is_free
            && matches!(iq.attr("type"), Some("get" | "set"))
            && (iq.has_child("query", ns::REGISTER) || iq.has_child("preauth", ns::PARS))
    }

    fn authenticate(&mut self, out: &mut Vec<Output>, element: &Element) {
        // Taken out so that the closure can look at the rest of `self`.
        let mut auth = std::mem::replace(&mut self.auth, Auth::new(0));
        let reply = auth.element(element, |name| {
            let mechanism = match Mechanism::parse(name) {
                Some(mechanism) => mechanism,
                None if self.is_tls_missing() => return Err(Failure::EncryptionRequired),
                None => return Err(Failure::InvalidMechanism),
            };
            self.allows(mechanism)?;
            Ok(Exchange::new(mechanism, self.terms()))
        });
        self.auth = auth;
        self.reply(out, reply);
    }

    pub(super) fn terms(&mut self) -> Terms {
        let tls = self.tls.clone().unwrap_or_default();
        let offered = self.offered();
        Terms {
            domain: self.domain.clone().expect("the stream is open"),
            nonce: self.tokens.token(),
            bindings: tls.bindings,
            plus_offered: offered.iter().any(|offered| offered.is_plus()),
            offered: Some(Offered::ours(&offered, self.offered_bindings(&offered))),
            fake_secret: self.offer.fake_secret.clone(),
            fake_iterations: self.offer.fake_iterations,
            identities: self.identities(),
            anonymous: self.tokens.localpart(),
        }
    }

    pub(super) fn reply(&mut self, out: &mut Vec<Output>, reply: Reply) {
        self.state = State::Open;
        match reply {
            Reply::Send(bytes) => {
                if self.auth.exchange.is_none() {
                    self.end_course(); // It was a failure.
                }
                out.push(Output::Send(bytes));
            }
            Reply::LookUpTokens { account } => {
                let client = self.client().unwrap_or_default();
                self.state = State::Asked;
                out.push(Output::LookUpTokens { account, client });
            }
            Reply::LookUp { account, hash } => {
                self.state = State::Asked;
                out.push(Output::LookUp { account, hash });
            }
            Reply::CheckPlain { account, password } => {
                self.state = State::Asked;
                out.push(Output::CheckPlain { account, password });
            }
            Reply::CheckToken { claimed, token } => {
                self.state = State::Asked;
                out.push(Output::CheckToken { claimed, token });
            }
            Reply::Admit { account } => {
                self.state = State::Asked;
                out.push(Output::Admit { account });
            }
            Reply::Success { account, mechanism, data, token }
                if self.auth.profile == Profile::Sasl2 =>
            {
                self.proved(out, account, mechanism, data, token);
            }
            Reply::Success { account, mechanism, data, .. } => {
                self.account = Some(account.clone());
                self.expect_header();
                out.push(Output::Send(success(data.as_deref())));
                out.push(Output::Authenticated { account, mechanism });
                out.push(Output::Restart);
            }
            Reply::Fail(error) => self.fail(out, error),
        }
    }

    fn after_auth(&mut self, out: &mut Vec<Output>, element: &Element) {
        match (element.ns(), element.name()) {
            (ns::CLIENT, "iq") if element.has_child("bind", ns::BIND) => self.bind(out, element),
            (ns::SM, "resume") if self.offer.stream_management => match Nonza::parse(element) {
                Some(Ok(Nonza::Resume { previd, h })) => {
                    self.state = State::Resuming;
                    out.push(Output::Resume { account: self.own_account(), previd, h });
                }
                Some(Err(Malformed::Failed(condition))) => self.refuse_sm(out, condition, None),
                _ => self.fail(out, StreamError::invalid_xml()),
            },
            (ns::SM, "enable" | "resume") => {
                self.refuse_sm(out, Condition::UnexpectedRequest, None)
            }
            // RFC 6120 §7.1: not before a resource is bound.
            (ns::CLIENT, "iq" | "message" | "presence") | (ns::SM, _) => {
                self.fail(out, StreamError::not_authorized());
            }
            // B-106.
            (ns::SASL | ns::SASL2 | ns::TLS, _) => self.fail(out, StreamError::policy_violation()),
            _ => self.fail(out, StreamError::unsupported_stanza_type()),
        }
    }

    fn own_account(&self) -> BareJid {
        self.account.clone().expect("only after authentication")
    }

    fn bind(&mut self, out: &mut Vec<Output>, iq: &Element) {
        let account = self.own_account();
        let wish = iq.child("bind", ns::BIND).and_then(|bind| bind.child("resource", ns::BIND));
        // B-118: also an empty one; a client that wants ours leaves the element out.
        let resource = wish
            .map(|wish| account.with_resource(&wish.text()).map(|jid| jid.resource().to_owned()));
        match (iq.attr("type"), iq.attr("id"), resource.transpose()) {
            (Some("set"), Some(iq_id), Ok(resource)) if !iq_id.is_empty() => {
                self.state = State::Binding;
                self.iq_id = Some(iq_id.to_owned());
                out.push(Output::Bind { iq_id: iq_id.to_owned(), account, resource });
            }
            (Some("set" | "get"), iq_id, _) => {
                self.refuse_bind(out, iq_id, &StanzaError::bad_request())
            }
            // An error or a result is never answered, and nobody asked this client anything.
            _ => self.fail(out, StreamError::not_authorized()),
        }
    }

    fn refuse_bind(&mut self, out: &mut Vec<Output>, iq_id: Option<&str>, error: &StanzaError) {
        self.state = State::Authenticated;
        match self.auth.count_failure() {
            Ok(()) => out.push(Output::Send(self.framing.element(&bind_error(iq_id, error)))),
            Err(error) => self.fail(out, error),
        }
    }

    fn refuse_sm(&mut self, out: &mut Vec<Output>, condition: Condition, h: Option<u32>) {
        if self.account.is_some() {
            self.state = State::Authenticated;
        }
        match self.auth.count_failure() {
            Ok(()) => out.push(Output::Send(Nonza::Failed { condition, h }.to_bytes())),
            Err(error) => self.fail(out, error),
        }
    }
}

/// `from` in a header should be bare; what a full one's resource is does not matter.
fn bare_of(from: &str) -> &str {
    from.split_once('/').map_or(from, |(bare, _)| bare)
}
