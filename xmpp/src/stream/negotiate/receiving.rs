//! The receiving entity of a client's stream: header, STARTTLS, SASL, then bind or resume (RFC 6120 §4–7).
//!
//! Driven by the node's session task. Over when it has said [`Output::Bind`] or [`Output::Resume`] and the caller has
//! succeeded with that (until then it can be told of a refusal), or when it has said [`Output::Fail`].

use std::sync::Arc;

use super::{Auth, PROCEED, Reply, Tokens, bind_error, bind_result, check_header, domain_of};
use crate::jid::{BareJid, FullJid};
use crate::ns;
use crate::sasl::{
    ChannelBindings, Credentials, Exchange, Failure, Hash, Mechanism, Password, Secret, Terms,
    Verdict,
};
use crate::sm::{Malformed, Nonza};
use crate::stanza::error::{Condition, StanzaError};
use crate::stream::error::StreamError;
use crate::stream::features::Writer;
use crate::stream::header::{Framing, Opening, StreamHeader};
use crate::xml::element::Element;

/// Whether clear-text streams may, or must, be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// There is no STARTTLS here.
    Absent,
    /// Offered.
    Optional,
    /// Nothing else is offered before it.
    Required,
}

/// What a listener offers; shared by its connections.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Domains served here, prepared; at least one. The first speaks when the client named none of them.
    pub domains: Vec<String>,
    /// About STARTTLS. Irrelevant where TLS is active from the start.
    pub tls: TlsPolicy,
    /// Mechanisms, the preferred first. -PLUS ones are only offered where the channel can be bound to, EXTERNAL where the
    /// certificate proves an address, PLAIN where there is TLS.
    pub mechanisms: Vec<Mechanism>,
    /// Domains that have these mechanisms instead, and no in-band registration: guests' (XEP-0175).
    pub apart: Vec<(String, Vec<Mechanism>)>,
    /// Offer PLAIN without TLS all the same.
    pub plain_without_tls: bool,
    /// Advertise in-band registration before authentication (XEP-0077). Who asks without that is handed out too, to be refused.
    pub register: bool,
    /// Offer stream management (XEP-0198).
    pub stream_management: bool,
    /// Offer roster versioning (RFC 6121 §2.6).
    pub roster_versioning: bool,
    /// More feature elements before authentication, as bytes that declare their own namespaces.
    pub features_before_auth: Vec<u8>,
    /// The same after authentication.
    pub features_after_auth: Vec<u8>,
    /// See [`Terms::fake_secret`].
    pub fake_secret: Secret,
    /// See [`Terms::fake_iterations`].
    pub fake_iterations: u32,
    /// Failed attempts to sign in or bind that a stream survives, at most 254; the next one closes it with `policy-violation`.
    pub failures_max: u8,
}

impl Offer {
    /// The mechanisms of a domain, and whether one may register there.
    fn of(&self, domain: Option<&str>) -> (&[Mechanism], bool) {
        let apart = self.apart.iter().find(|(name, _)| Some(name.as_str()) == domain);
        match apart {
            Some((_, mechanisms)) => (mechanisms, false),
            None => (&self.mechanisms, self.register),
        }
    }
}

/// What TLS tells about the connection.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// For -PLUS.
    pub bindings: ChannelBindings,
    /// Bare JIDs a verified client certificate proves (XEP-0178 §2), for EXTERNAL.
    pub identities: Vec<String>,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The framer saw a stream header.
    Open(Box<StreamHeader>),
    /// The framer saw an element. Not while [`Receiving::is_waiting`].
    Element(Element),
    /// The TLS handshake that [`Output::StartTls`] asked for is done.
    TlsReady(Tls),
    /// Answers [`Output::LookUp`].
    Credentials(Credentials),
    /// Answers [`Output::CheckPlain`] and [`Output::Admit`].
    PlainChecked(Verdict),
    /// Answers [`Output::CheckToken`]: whose it is, or what is the matter with it.
    TokenChecked(Result<BareJid, Verdict>),
    /// Answers [`Output::Bind`]: the resource is bound. Sends the result; the machine is over.
    Bound(FullJid),
    /// Answers [`Output::Bind`]: it is not, and the client may try again.
    BindRefused(StanzaError),
    /// Answers [`Output::Resume`]: no such session; the client may bind instead.
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
    /// Resume a session; on success drop the machine and send [`Nonza::Resumed`], else feed [`Input::ResumeRefused`].
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
    Fail(StreamError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
    offer: Arc<Offer>,
    framing: Framing,
    tokens: Tokens,
    state: State,
    tls: Option<Tls>,
    /// The domain of the current stream; of the first one, after a restart.
    domain: Option<String>,
    is_header_sent: bool,
    auth: Auth,
    account: Option<BareJid>,
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
            is_header_sent: false,
            auth,
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

    fn fail(&mut self, out: &mut Vec<Output>, error: StreamError) {
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
            out.push(Output::Send(self.features_after_auth()));
        } else {
            self.state = State::Open;
            out.push(Output::Send(self.features_before_auth()));
        }
    }

    /// Bad-input rows B-010 to B-023.
    fn check(&mut self, header: &StreamHeader, from: Option<&BareJid>) -> Result<(), StreamError> {
        // RFC 7395 §3.4: `<open/>` names no content namespace.
        check_header(header, (self.framing == Framing::Stream).then_some(ns::CLIENT))?;
        let to = header.to.as_deref().and_then(domain_of);
        let ours =
            to.filter(|to| self.offer.domains.contains(to)).ok_or(StreamError::host_unknown());
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

    fn is_tls_missing(&self) -> bool {
        self.tls.is_none() && self.offer.tls == TlsPolicy::Required
    }

    /// May this mechanism be used on the stream as it is? If not, with what failure.
    fn allows(&self, mechanism: Mechanism) -> Result<(), Failure> {
        if self.is_tls_missing() {
            return Err(Failure::EncryptionRequired);
        }
        if !self.mechanisms().contains(&mechanism) {
            return Err(Failure::InvalidMechanism);
        }
        let tls = self.tls.as_ref();
        let is_possible = match mechanism {
            Mechanism::Scram { plus: true, .. } => tls.is_some_and(|tls| !tls.bindings.is_empty()),
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
    fn mechanisms(&self) -> &[Mechanism] {
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
        if let Some(tls) =
            self.tls.as_ref().filter(|_| offered.iter().any(|offered| offered.is_plus()))
        {
            features = features.channel_bindings(tls.bindings.types());
        }
        if self.may_register() {
            features = features.register();
        }
        features.raw(&offer.features_before_auth).finish()
    }

    fn features_after_auth(&self) -> Vec<u8> {
        let mut features = Writer::new(self.framing).bind();
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

    fn is_registration(&self, iq: &Element) -> bool {
        let is_free = !self.is_tls_missing() && self.auth.exchange.is_none();
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

    fn terms(&mut self) -> Terms {
        let tls = self.tls.clone().unwrap_or_default();
        Terms {
            domain: self.domain.clone().expect("the stream is open"),
            nonce: self.tokens.token(),
            bindings: tls.bindings,
            plus_offered: self.offered().iter().any(|offered| offered.is_plus()),
            fake_secret: self.offer.fake_secret.clone(),
            fake_iterations: self.offer.fake_iterations,
            identities: self.identities(),
            anonymous: self.tokens.localpart(),
        }
    }

    fn reply(&mut self, out: &mut Vec<Output>, reply: Reply) {
        self.state = State::Open;
        match reply {
            Reply::Send(bytes) => out.push(Output::Send(bytes)),
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
            Reply::Success { account, mechanism, bytes } => {
                self.account = Some(account.clone());
                self.expect_header();
                out.push(Output::Send(bytes));
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
            (ns::SASL | ns::TLS, _) => self.fail(out, StreamError::policy_violation()),
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
