//! SASL2 on a client's stream (XEP-0388), and what is done inside it once the client has proved who it is: upgrade tasks (XEP-0480),
//! tokens (XEP-0484), resumption (XEP-0198 §11), binding (XEP-0386); then one `<success/>` tells of all. A part of [`Receiving`].
//!
//! The order is: the exchange, the tasks, [`Output::SignIn`], [`Output::ResumeInline`], [`Output::BindInline`] if nothing was resumed. So
//! nothing that was asked for has an effect when the client does not get in (bad-input row B-107).

use super::receiving::State;
use super::sasl2::{self, Authenticate, NewToken, Profile, UserAgent};
use super::{Auth, Output, Receiving, Reply};
use crate::jid::{BareJid, FullJid};
use crate::ns;
use crate::sasl::{Exchange, Failure, Hash, Mechanism, SALT_BYTES, TokenBinding};
use crate::sm::Nonza;
use crate::stanza::error::{Condition, StanzaError};
use crate::stream::error::StreamError;
use crate::xml::element::Element;
use crate::xml::write;

/// What goes along in SASL2 on a listener.
#[derive(Clone, Debug, Default)]
pub struct Inline {
    /// Features that may be enabled while binding, as XEP-0386 §3.1 names them.
    pub bind: Vec<&'static str>,
    /// Offer tokens (XEP-0484), where there is TLS.
    pub fast: bool,
}

/// Somebody has proved who they are.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// Who.
    pub account: BareJid,
    /// How.
    pub mechanism: Mechanism,
    /// With what; it has an id.
    pub agent: UserAgent,
    /// By which token.
    pub used: Option<Used>,
    /// It would like a token for that mechanism, which is offered on this stream.
    pub request_token: Option<TokenBinding>,
    /// The session it would go on with, by its id: asked for next.
    pub resume: Option<String>,
}

/// The token that was used, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Which.
    pub token: u64,
    /// To which channel it is bound: one that takes its place is bound to the same.
    pub binding: TokenBinding,
    /// Must be greater than all that came with this token before.
    pub count: Option<u64>,
    /// It is not to be used again.
    pub invalidate: bool,
}

/// Answers [`Output::SignIn`]: a token to keep, or that the client does not get in after all.
pub type SignedIn = Result<Option<NewToken>, Failure>;

/// One `<authenticate/>` on its way.
#[derive(Debug)]
pub(super) struct Course {
    request: Authenticate,
    proved: Option<Proved>,
    /// The task at hand, and its salt once the client has asked for it.
    task: Option<(Hash, Option<Vec<u8>>)>,
    is_signed_in: bool,
    /// What `<success/>` will say besides.
    inside: Vec<Element>,
}

#[derive(Debug)]
struct Proved {
    account: BareJid,
    mechanism: Mechanism,
    /// Not told yet.
    data: Option<Vec<u8>>,
    token: Option<u64>,
}

impl Course {
    fn client(&self) -> Option<&str> {
        self.request.agent.id.as_deref()
    }

    fn account(&self) -> BareJid {
        self.proved.as_ref().expect("only after the exchange").account.clone()
    }
}

impl Receiving {
    /// `<authentication/>` (XEP-0388 §2.2), if anybody could sign in.
    pub(super) fn sasl2_feature(&self, mechanisms: &[Mechanism]) -> Vec<u8> {
        let Some(inline) = self.offer.sasl2.as_ref().filter(|_| !mechanisms.is_empty()) else {
            return Vec::new();
        };
        let mut out = Vec::with_capacity(768);
        let open = |out: &mut Vec<u8>, name: &str, ns: &str| {
            out.push(b'<');
            out.extend_from_slice(name.as_bytes());
            write::attr(out, "xmlns", ns);
        };
        let listed = |out: &mut Vec<u8>, mechanism: Mechanism| {
            out.extend_from_slice(b"<mechanism>");
            out.extend_from_slice(mechanism.name().as_bytes());
            out.extend_from_slice(b"</mechanism>");
        };
        open(&mut out, "authentication", ns::SASL2);
        out.push(b'>');
        mechanisms.iter().for_each(|mechanism| listed(&mut out, *mechanism));
        out.extend_from_slice(b"<inline>");
        open(&mut out, "bind", ns::BIND2);
        out.extend_from_slice(b"><inline>");
        for feature in &inline.bind {
            out.extend_from_slice(b"<feature");
            write::attr(&mut out, "var", feature);
            out.extend_from_slice(b"/>");
        }
        out.extend_from_slice(b"</inline></bind>");
        if self.offer.stream_management {
            open(&mut out, "sm", ns::SM);
            out.extend_from_slice(b"/>");
        }
        let tokens = self.offered_tokens();
        if !tokens.is_empty() {
            open(&mut out, "fast", ns::FAST);
            out.push(b'>');
            tokens.iter().for_each(|binding| listed(&mut out, Mechanism::Token(*binding)));
            out.extend_from_slice(b"</fast>");
        }
        out.extend_from_slice(b"</inline>");
        for hash in self.upgrades() {
            open(&mut out, "upgrade", ns::SASL_UPGRADE);
            out.push(b'>');
            out.extend_from_slice(sasl2::task_of(hash).as_bytes());
            out.extend_from_slice(b"</upgrade>");
        }
        out.extend_from_slice(b"</authentication>");
        out
    }

    /// Token mechanisms on this stream: only under TLS (XEP-0484 §7), and bound only to what there is.
    fn offered_tokens(&self) -> Vec<TokenBinding> {
        let (Some(tls), Some(Inline { fast: true, .. })) = (&self.tls, &self.offer.sasl2) else {
            return Vec::new();
        };
        if self.mechanisms() == [Mechanism::Anonymous] {
            return Vec::new(); // Guests come as somebody else each time.
        }
        let all = [TokenBinding::Exporter, TokenBinding::EndPoint, TokenBinding::None];
        let possible = |binding: &TokenBinding| {
            binding.kind().is_none_or(|kind| tls.bindings.data(kind).is_some())
        };
        all.into_iter().filter(possible).collect()
    }

    /// Hashes the account named in the stream's header has no keys of, though we offer their mechanism.
    fn upgrades(&self) -> Vec<Hash> {
        let Some(known) = self.known else { return Vec::new() };
        let plain = |mechanism: &Mechanism| match mechanism {
            Mechanism::Scram { hash, plus: false } => Some(*hash),
            _ => None,
        };
        let offered = self.mechanisms().iter().filter_map(plain);
        offered.filter(|hash| !known.contains(*hash)).collect()
    }

    /// An exchange, or what follows it, is under way in the elements of XEP-0388: nothing else may come (§2.5).
    pub(super) fn is_in_sasl2(&self) -> bool {
        self.course.is_some()
    }

    /// An element of XEP-0388.
    pub(super) fn sasl2(&mut self, out: &mut Vec<Output>, element: &Element) {
        if self.offer.sasl2.is_none() {
            return self.fail(out, StreamError::unsupported_stanza_type()); // S-048
        }
        let reply = match (element.name(), self.auth.exchange.take()) {
            // B-106, and B-101's kin: the first is not over.
            ("authenticate", Some(_)) => Reply::Fail(StreamError::policy_violation()),
            ("authenticate", None) if self.is_in_sasl2() => {
                Reply::Fail(StreamError::policy_violation())
            }
            ("authenticate", None) => self.begin_sasl2(element),
            ("response", Some(exchange)) if self.is_in_sasl2() => match sasl2::decode(element) {
                Ok(message) => self.auth.response(exchange, Some(message)),
                Err(failure) => self.auth.fail(failure),
            },
            ("next" | "task-data", None) if self.is_in_sasl2() => return self.task(out, element),
            ("abort", _) if self.is_in_sasl2() => self.auth.fail(Failure::Aborted),
            ("response" | "abort" | "next" | "task-data", _) => {
                self.auth.profile = Profile::Sasl2;
                self.auth.fail(Failure::MalformedRequest) // B-101
            }
            _ => Reply::Fail(StreamError::unsupported_stanza_type()),
        };
        self.reply(out, reply);
    }

    fn begin_sasl2(&mut self, element: &Element) -> Reply {
        let request = Authenticate::parse(element);
        let exchange = match &request {
            Ok(request) => self.exchange(request),
            Err(failure) => Err(*failure),
        };
        // Taken out so that it can be told apart from the rest of `self`.
        let mut auth = std::mem::replace(&mut self.auth, Auth::new(0));
        let message = match request {
            Ok(mut request) => {
                let message = std::mem::replace(&mut request.initial, Ok(None));
                let course = Course {
                    request,
                    proved: None,
                    task: None,
                    is_signed_in: false,
                    inside: vec![],
                };
                self.course = Some(Box::new(course));
                message
            }
            Err(failure) => Err(failure),
        };
        let reply = auth.begin(Profile::Sasl2, exchange, message);
        self.auth = auth;
        reply
    }

    fn exchange(&mut self, request: &Authenticate) -> Result<Exchange, Failure> {
        if self.is_tls_missing() {
            return Err(Failure::EncryptionRequired);
        }
        let mechanism = Mechanism::parse(&request.mechanism).ok_or(Failure::InvalidMechanism)?;
        match (mechanism, request.fast) {
            (Mechanism::Token(binding), Some(_)) if self.offered_tokens().contains(&binding) => {
                // XEP-0484 §4.1: tokens are a client's.
                request.agent.id.as_ref().ok_or(Failure::MalformedRequest)?;
            }
            (Mechanism::Token(_), _) | (_, Some(_)) => return Err(Failure::InvalidMechanism),
            _ => self.allows(mechanism)?,
        }
        Ok(Exchange::new(mechanism, self.terms()))
    }

    /// An attempt is over.
    pub(super) fn end_course(&mut self) {
        self.course = None;
    }

    /// The client of the attempt at hand, by the id it gives itself.
    pub(super) fn client(&self) -> Option<String> {
        self.course.as_ref().and_then(|course| course.client()).map(str::to_owned)
    }

    /// The exchange is over, and well.
    pub(super) fn proved(
        &mut self,
        out: &mut Vec<Output>,
        account: BareJid,
        mechanism: Mechanism,
        data: Option<Vec<u8>>,
        token: Option<u64>,
    ) {
        // §2.4, B-091: there is no second header that could say it again.
        let is_another = self.from.as_ref().is_some_and(|from| *from != account);
        if is_another && mechanism != Mechanism::Anonymous {
            let reply = self.auth.fail(Failure::InvalidAuthzid);
            return self.reply(out, reply);
        }
        let course = self.course.as_mut().expect("an exchange in SASL2 belongs to a course");
        course.proved = Some(Proved { account, mechanism, data, token });
        self.next(out);
    }

    /// What is to be done next of what was asked for.
    fn next(&mut self, out: &mut Vec<Output>) {
        let mut course = self.course.take().expect("only while one is under way");
        let step = self.step(out, &mut course);
        self.course = Some(course);
        match step {
            Some((state, output)) => {
                self.state = state;
                out.push(output);
            }
            None => self.succeed(out, None, true),
        }
    }

    /// The next step, and what is waited for then. `None`: there is nothing left to do.
    fn step(&mut self, out: &mut Vec<Output>, course: &mut Course) -> Option<(State, Output)> {
        let proved = course.proved.as_mut().expect("only after the exchange");
        let (account, mechanism) = (proved.account.clone(), proved.mechanism);
        let request = &mut course.request;
        // Keys are the password, as the client says: of one that has shown another thing (a token it may have found) none are taken.
        let has_password = matches!(mechanism, Mechanism::Plain | Mechanism::Scram { .. });
        let possible = if has_password { self.upgrades() } else { Vec::new() };
        let wanted = std::mem::take(&mut request.upgrades);
        let mut wanted = wanted.into_iter().filter(|hash| possible.contains(hash));
        if let Some(hash) = wanted.next() {
            request.upgrades = wanted.collect();
            course.task = Some((hash, None));
            let task = sasl2::task(proved.data.take().as_deref(), hash);
            return Some((State::Open, Output::Send(task.to_bytes())));
        }
        let is_known = request.agent.id.is_some() && mechanism != Mechanism::Anonymous;
        if !std::mem::replace(&mut course.is_signed_in, true) && is_known {
            let used = match (mechanism, proved.token, request.fast) {
                (Mechanism::Token(binding), Some(token), Some(fast)) => {
                    let (count, invalidate) = (fast.count, fast.invalidate);
                    Some(Used { token, binding, count, invalidate })
                }
                _ => None,
            };
            let offered = self.offered_tokens();
            let request_token = request.request_token.filter(|binding| offered.contains(binding));
            let agent = request.agent.clone();
            let resume = request.resume.as_ref().filter(|_| self.offer.stream_management);
            let resume = resume.and_then(|resume| Some(resume.as_ref().ok()?.0.clone()));
            let sign_in = SignIn { account, mechanism, agent, used, request_token, resume };
            return Some((State::Asked, Output::SignIn(Box::new(sign_in))));
        }
        if self.account.is_none() {
            self.account = Some(account.clone());
            out.push(Output::Authenticated { account: account.clone(), mechanism });
        }
        match request.resume.take() {
            Some(_) if !self.offer.stream_management => {
                course.inside.push(sm_failed(Condition::FeatureNotImplemented, None));
            }
            Some(Err(condition)) => course.inside.push(sm_failed(condition, None)),
            Some(Ok((previd, h))) => {
                return Some((State::Resuming, Output::ResumeInline { account, previd, h }));
            }
            None => {}
        }
        let bind = request.bind.take()?;
        let (tag, client) = (bind.tag.as_deref(), request.agent.id.as_deref());
        let resource = sasl2::resource(&account, tag, client, &self.tokens.token());
        let features = bind.features;
        Some((State::Binding, Output::BindInline { account, resource, features }))
    }

    /// `<next/>` and `<task-data/>`: the client's part of an upgrade.
    fn task(&mut self, out: &mut Vec<Output>, element: &Element) {
        let iterations = self.offer.fake_iterations;
        let fresh = self.tokens.block();
        let course = self.course.as_mut().expect("only while one is under way");
        let done = match (element.name(), &mut course.task) {
            ("next", Some((hash, salt @ None)))
                if element.attr("task") == Some(sasl2::task_of(*hash).as_str()) =>
            {
                let fresh = fresh[..SALT_BYTES].to_vec();
                out.push(Output::Send(sasl2::salt(&fresh, iterations).to_bytes()));
                *salt = Some(fresh);
                return;
            }
            ("task-data", Some((hash, Some(salt)))) => {
                sasl2::salted(element, *hash, salt, iterations)
            }
            _ => Err(Failure::MalformedRequest),
        };
        match done {
            Ok(keys) => {
                course.task = None;
                let account = course.account();
                self.state = State::Asked;
                out.push(Output::Upgrade { account, keys });
            }
            Err(failure) => {
                let reply = self.auth.fail(failure);
                self.reply(out, reply);
            }
        }
    }

    /// The new keys are kept, or could not be: the client gets in all the same.
    pub(super) fn upgraded(&mut self, out: &mut Vec<Output>) {
        self.next(out);
    }

    /// See [`SignedIn`].
    pub(super) fn signed_in(&mut self, out: &mut Vec<Output>, signed_in: SignedIn) {
        match signed_in {
            Ok(token) => {
                let course = self.course.as_mut().expect("only while one is under way");
                course.inside.extend(token.as_ref().map(sasl2::token));
                self.next(out);
            }
            Err(failure) => {
                let reply = self.auth.fail(failure);
                self.reply(out, reply);
            }
        }
    }

    /// XEP-0198 §11: the old session goes on. No features follow, and nothing is bound.
    pub(super) fn resumed_inline(
        &mut self,
        out: &mut Vec<Output>,
        jid: &FullJid,
        previd: String,
        h: u32,
    ) {
        let course = self.course.as_mut().expect("only while one is under way");
        course.inside.push(Nonza::Resumed { previd, h }.element());
        self.succeed(out, Some(jid), false);
        self.state = State::Over;
    }

    /// There is no such session (any more); binding is next.
    pub(super) fn not_resumed_inline(
        &mut self,
        out: &mut Vec<Output>,
        condition: Condition,
        h: Option<u32>,
    ) {
        let course = self.course.as_mut().expect("only while one is under way");
        course.inside.push(sm_failed(condition, h));
        self.next(out);
    }

    /// The resource is bound, and `features` is what those enabled along with it say.
    pub(super) fn bound_inline(
        &mut self,
        out: &mut Vec<Output>,
        jid: &FullJid,
        features: Vec<Element>,
    ) {
        let course = self.course.as_mut().expect("only while one is under way");
        course.inside.push(Element::new("bound", ns::BIND2).with_children(features));
        self.succeed(out, Some(jid), true);
        self.state = State::Over;
    }

    /// It is not: the client is signed in and may bind as RFC 6120 §7 has it.
    pub(super) fn not_bound_inline(&mut self, out: &mut Vec<Output>, error: &StanzaError) {
        let course = self.course.as_mut().expect("only while one is under way");
        course.inside.push(Element::new("failed", ns::BIND2).with_child(error.element()));
        self.succeed(out, None, true);
    }

    fn succeed(&mut self, out: &mut Vec<Output>, jid: Option<&FullJid>, with_features: bool) {
        let course = self.course.take().expect("only while one is under way");
        let proved = course.proved.expect("only after the exchange");
        let who = jid.map_or(proved.account.as_str(), FullJid::as_str);
        let success = sasl2::success(proved.data.as_deref(), who, course.inside);
        out.push(Output::Send(success.to_bytes()));
        self.state = State::Authenticated;
        if with_features {
            out.push(Output::Send(self.features_after_auth(jid.is_none())));
        }
    }
}

fn sm_failed(condition: Condition, h: Option<u32>) -> Element {
    Nonza::Failed { condition, h }.element()
}
