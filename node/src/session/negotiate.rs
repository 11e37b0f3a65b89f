//! Room: drives `xmpp::stream::negotiate::Receiving` for one client: feeds it what arrives, does what it says, until a resource is
//! bound or a session resumed. One deadline for all the client does (`c2s.auth_deadline`), its wait for its turn not counted; signing in, binding,
//! resuming and registering, once begun, are never cut off half-way, for then there is a token or a session that somebody must have, or an
//! invitation that is used for something. Bytes that came in clear behind `<starttls/>` end the connection
//! (S-026).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::sasl::{ChannelBindings, Credentials, Mechanism, Tokens, Verdict};
use xmpp::sm::Nonza;
use xmpp::stanza::error::Condition;
use xmpp::stanza::is_language;
use xmpp::stream::error::StreamError;
use xmpp::stream::header::Framing;
use xmpp::stream::negotiate::{Input, Output, Receiving, Tls};
use xmpp::xml::element::Element;
use xmpp::xml::framer::{Framer, Limits, Scan};

use super::end::Alive;
use super::sm::{Handover, Refused, enable_inline, may_resume, resume};
use super::{Seat, sm::Sm};
use crate::app::{Node, drain};
use crate::auth::{About, Authenticator};
use crate::feature::Ctx;
use crate::features::archive;
use crate::features::clients::sign_in::{self, SignedClient};
use crate::features::register::Stranger;
use crate::homes::accounts;
use crate::router;
use crate::transport::tcp::{Accepted, Admission};
use crate::transport::{Buffer, Transport};

/// What a client that waits for its turn may have said already, about: who has said more is not read from, and may go unnoticed, until it is let in.
const READ_AHEAD_BYTES_MAX: usize = 16 * 1024;

/// A client that is signed in and bound.
pub(super) struct Ready {
    /// Its connection.
    pub transport: Transport,
    /// Its framer, with the stream's namespaces.
    pub framer: Framer,
    /// The language of its stream.
    pub lang: Option<Box<str>>,
    /// What it has already sent.
    pub input: Buffer,
    /// What is not yet written.
    pub output: Buffer,
    /// Its place in the node.
    pub seat: Arc<Seat>,
    /// Stream management, if it resumed, or enabled it while binding.
    pub sm: Option<Box<Sm>>,
    /// Its promise to end, if it resumed.
    pub alive: Option<Alive>,
}

struct Talk<'a> {
    node: &'a Arc<Node>,
    peer: SocketAddr,
    transport: Option<Transport>,
    framer: Framer,
    lang: Option<Box<str>>,
    input: Buffer,
    output: Buffer,
    machine: Box<Receiving>,
    /// What it has said and is still to be done.
    todo: VecDeque<Output>,
    admission: Option<Admission>,
    /// The client has until then, and as long again as it has waited for its turn.
    deadline: Instant,
    /// Its turn has come: one is enough, whatever it does with it.
    has_turn: bool,
    /// It was let past those who wait, for a session that it resumes: that is counted once.
    went_first: bool,
    /// Something of an account was asked for (of which, may not be known), until that has succeeded.
    attempt: Option<Option<BareJid>>,
    /// What it does about an account of its own.
    stranger: Stranger,
    /// What is signed in, if it has said so.
    client: Option<SignedClient>,
}

enum End {
    /// A place in the node is to be had next: [`Output::Bind`], [`Output::Resume`], what they are inside SASL2 and [`Output::SignIn`] before them, or
    /// [`Output::Register`].
    Place(Output),
    Ready(Arc<Seat>, Option<Box<Sm>>, Option<Alive>),
    Closed,
}

/// `None`: it came to nothing, and the connection is closed.
pub(super) async fn run(node: &Arc<Node>, accepted: Accepted, direct: bool) -> Option<Ready> {
    let Accepted { transport, peer, admission } = accepted;
    let deadline = Instant::now() + node.config.c2s.auth_deadline;
    let transport = if direct { transport.direct_tls(&node.tls).await.ok()? } else { transport };
    let tls = tls_of(node, &transport);
    let seed = node.random::<32>();
    let offer = node.offer(peer.ip().is_loopback());
    let limits = Limits {
        element_bytes: node.config.limits.stanza_bytes_max_before_auth as u32,
        ..Limits::PRE_AUTH
    };
    let mut talk = Talk {
        node,
        peer,
        transport: Some(transport),
        framer: Framer::stream(limits),
        lang: None,
        input: Buffer::new(),
        output: Buffer::new(),
        machine: Receiving::new(offer, Framing::Stream, tls, seed),
        todo: VecDeque::new(),
        admission: Some(admission),
        deadline,
        has_turn: false,
        went_first: false,
        attempt: None,
        client: None,
        stranger: Stranger::default(),
    };
    let mut next = timeout_at(talk.deadline, talk.until_placed(None)).await;
    let end = loop {
        next = match next {
            Ok(End::Place(output)) => match talk.place(output).await {
                Ok(ready) => break ready,
                Err(refused) => timeout_at(talk.deadline, talk.until_placed(refused)).await,
            },
            Ok(end) => break end,
            Err(_) => {
                talk.todo.clear();
                let broken = Input::Broken(StreamError::connection_timeout());
                break talk.act(broken).await.unwrap_or(End::Closed);
            }
        };
    };
    talk.attempt_over();
    let Talk { transport, mut framer, lang, input, output, .. } = talk;
    match end {
        End::Ready(seat, sm, alive) => {
            seat.set_peer(peer);
            framer.set_limits(Limits {
                element_bytes: node.config.limits.stanza_bytes_max as u32,
                ..Limits::STANZA
            });
            let transport = transport?;
            Some(Ready { transport, framer, lang, input, output, seat, sm, alive })
        }
        End::Place(_) | End::Closed => {
            if let Some(transport) = transport {
                transport.close(output).await;
            }
            None
        }
    }
}

fn not_resumed(refusal: Refused) -> Input {
    match refusal {
        Refused::NotFound { h } => Input::ResumeRefused { condition: Condition::ItemNotFound, h },
        Refused::Broken(error) => Input::Broken(error),
    }
}

fn tls_of(node: &Node, transport: &Transport) -> Option<Tls> {
    let info = transport.tls_info()?;
    let bindings = ChannelBindings { exporter: info.exporter, server_end_point: info.end_point };
    Some(Tls { bindings, identities: node.authenticator.proved(&info.client_certificates) })
}

impl Talk<'_> {
    /// `first`: what happened meanwhile.
    async fn until_placed(&mut self, first: Option<Input>) -> End {
        self.todo.extend(first.map(|first| self.machine.handle(first)).unwrap_or_default());
        if let Some(end) = self.go_on().await {
            return end;
        }
        loop {
            let step = match self.framer.scan(self.input.filled()) {
                Ok(Scan::More) => {
                    if !self.read().await {
                        return End::Closed;
                    }
                    continue;
                }
                Ok(Scan::Space(bytes)) => {
                    self.input.consume(bytes);
                    continue;
                }
                Ok(Scan::Close(_)) => {
                    self.output.put(Framing::Stream.close());
                    return End::Closed;
                }
                Ok(Scan::Open(bytes, _)) if self.node.is_leaving() && self.is_private() => {
                    self.input.consume(bytes);
                    Input::Broken(drain::elsewhere(self.node))
                }
                Ok(Scan::Open(bytes, header)) => {
                    self.input.consume(bytes);
                    let lang = header.lang.as_deref().filter(|lang| is_language(lang));
                    self.lang = lang.map(Box::from);
                    Input::Open(header)
                }
                Ok(Scan::Element(bytes, _)) => {
                    let element = self.framer.element(&self.input.filled()[..bytes]);
                    self.input.consume(bytes);
                    match element {
                        Ok(element) if StreamError::is_one(&element) => {
                            self.output.put(Framing::Stream.close());
                            return End::Closed;
                        }
                        Ok(element) => Input::Element(element),
                        Err(error) => Input::Broken(error),
                    }
                }
                Err(error) => Input::Broken(error),
            };
            if let Some(end) = self.act(step).await {
                return end;
            }
        }
    }

    /// Feeds one thing in and does all that follows, answers included.
    async fn act(&mut self, input: Input) -> Option<End> {
        self.todo.extend(self.machine.handle(input));
        self.go_on().await
    }

    /// Does what is to be done.
    async fn go_on(&mut self) -> Option<End> {
        while let Some(output) = self.todo.pop_front() {
            let answer = match output {
                Output::Send(bytes) => {
                    self.output.put(&bytes);
                    continue;
                }
                Output::Restart => {
                    self.framer.restart();
                    continue;
                }
                Output::StartTls => match self.start_tls().await {
                    Some(tls) => Input::TlsReady(tls),
                    None => return Some(End::Closed),
                },
                Output::About(account) => {
                    Input::About(match self.node.authenticator.about(&account).await {
                        About::Known { hashes, .. } => hashes,
                        About::Unknown | About::Unavailable => None,
                    })
                }
                Output::LookUpTokens { account, client } => {
                    Input::Tokens(match self.must_wait(&account) {
                        false => sign_in::tokens(self.node, &account, &client).await,
                        true => Tokens::Unavailable,
                    })
                }
                Output::Upgrade { account, keys } => {
                    if let Err(error) = accounts::add_keys(&self.node.homes, &account, keys).await {
                        tracing::debug!(%account, %error, "keys its client has brought are not kept");
                    }
                    Input::Upgraded
                }
                Output::LookUp { account, hash } => {
                    Input::Credentials(match self.must_wait(&account) {
                        false => self.node.authenticator.scram(&account, hash).await,
                        true => Credentials::Unavailable,
                    })
                }
                Output::CheckPlain { account, password } => {
                    Input::PlainChecked(match self.must_wait(&account) {
                        false => self.node.authenticator.plain(&account, password).await,
                        true => Verdict::Unavailable,
                    })
                }
                Output::CheckToken { claimed, token } => {
                    Input::TokenChecked(match self.must_wait_for(claimed.as_ref()) {
                        false => self.node.authenticator.token(token).await,
                        true => Err(Verdict::Unavailable),
                    })
                }
                Output::Admit { account } => Input::PlainChecked(match self.must_wait(&account) {
                    false => self.node.authenticator.admit(&account).await,
                    true => Verdict::Unavailable,
                }),
                Output::Authenticated { account, mechanism } => {
                    self.authenticated(&account, mechanism);
                    continue;
                }
                output @ (Output::SignIn(_)
                | Output::Bind { .. }
                | Output::BindInline { .. }
                | Output::Resume { .. }
                | Output::ResumeInline { .. }
                | Output::Register(_)) => return Some(End::Place(output)),
                Output::Fail(error) => {
                    self.node.metrics.refused.inc();
                    self.output.put(&Framing::Stream.error(&error)); // The closing tag is part of it.
                    return Some(End::Closed);
                }
            };
            // The machine waits for the answer: what it says to it comes before what was still to be done.
            let more = self.machine.handle(answer);
            for output in more.into_iter().rev() {
                self.todo.push_front(output);
            }
        }
        None
    }

    /// Signs in, binds, resumes or registers: not to be dropped before it is done.
    ///
    /// # Errors
    /// It goes on; what the machine is to be told, if anything.
    async fn place(&mut self, output: Output) -> Result<End, Option<Input>> {
        // Its client has proved who it is: if it is turned away, or leaves, before that is written down, nothing was guessed.
        let proved = matches!(output, Output::SignIn(_)).then(|| self.attempt.take()).flatten();
        if self.node.is_leaving() {
            return Err(Some(Input::Broken(drain::elsewhere(self.node))));
        }
        match output {
            Output::SignIn(asked) => {
                self.admission = None;
                let resume = asked.resume.as_deref();
                let goes_first =
                    resume.is_some_and(|previd| may_resume(self.node, &asked.account, previd));
                if goes_first && !self.went_first {
                    // Also if the session is not to be had: then it waits when it binds.
                    self.node.turnstile.pass_first();
                    self.went_first = true;
                } else if !goes_first && !self.take_turn().await? {
                    return Ok(End::Closed);
                }
                self.attempt = proved;
                let (signed_in, client) = sign_in::sign_in(self.node, &asked).await;
                self.client = client;
                Err(Some(Input::SignedIn(signed_in)))
            }
            Output::Bind { account, resource, .. } => {
                if !self.take_turn().await? {
                    return Ok(End::Closed);
                }
                let bound = self.node.bind(&account, resource.as_deref());
                let seat = bound.map_err(|error| Some(Input::BindRefused(error)))?;
                self.finish(Input::Bound(seat.full.clone()));
                self.begin(&seat, false);
                Ok(End::Ready(seat, None, None))
            }
            Output::BindInline { account, resource, features } => {
                if !self.take_turn().await? {
                    return Ok(End::Closed);
                }
                let bound = self.node.bind(&account, Some(&resource));
                let seat = bound.map_err(|error| Some(Input::BindRefused(error)))?;
                let (sm, mut said) = self.enable(&seat, &features);
                said.extend(archive::bound(self.node, &seat).await);
                self.finish(Input::BoundInline(seat.full.clone(), said));
                self.begin(&seat, true);
                Ok(End::Ready(seat, sm, None))
            }
            Output::Resume { account, previd, h } => {
                let resumed = resume(self.node, &account, &previd, h).await;
                let Handover { seat, sm, alive } =
                    resumed.map_err(|refused| Some(not_resumed(refused)))?;
                let handled = sm.handled.handled();
                self.output.put(&Nonza::Resumed { previd, h: handled }.to_bytes());
                Ok(self.resumed(seat, sm, alive))
            }
            Output::ResumeInline { account, previd, h } => {
                let resumed = resume(self.node, &account, &previd, h).await;
                let Handover { seat, sm, alive } =
                    resumed.map_err(|refused| Some(not_resumed(refused)))?;
                let (jid, h) = (seat.full.clone(), sm.handled.handled());
                self.finish(Input::ResumedInline { jid, previd, h });
                Ok(self.resumed(seat, sm, alive))
            }
            Output::Register(iq) => {
                let domain = self.machine.domain().unwrap_or(&self.node.config.domains.global);
                match self.stranger.ask(self.node, self.peer.ip(), domain, &iq).await {
                    Ok(reply) => {
                        self.output.put(&reply.to_bytes());
                        Err(None)
                    }
                    Err(error) => Err(Some(Input::Broken(error))),
                }
            }
            _ => unreachable!("only what `act` gives back as a place"),
        }
    }

    /// The machine's last word.
    fn finish(&mut self, input: Input) {
        for output in self.machine.handle(input) {
            if let Output::Send(bytes) = output {
                self.output.put(&bytes);
            }
        }
    }

    /// What a client asked for along with its bind, and what it is told of that.
    fn enable(&self, seat: &Arc<Seat>, wanted: &[Element]) -> (Option<Box<Sm>>, Vec<Element>) {
        let mut ctx = Ctx::new(self.node, Some(seat));
        let (mut sm, mut said) = (None, Vec::new());
        for request in wanted {
            if request.ns() == ns::SM {
                said.push(enable_inline(self.node, seat, &mut sm, request));
            } else {
                said.extend(self.node.features.bound(&mut ctx, request));
            }
        }
        router::perform(self.node, Some(seat), ctx.actions);
        (sm, said)
    }

    fn begin(&mut self, seat: &Arc<Seat>, inline: bool) {
        if let Some(client) = self.client.take() {
            sign_in::begin(self.node, seat, client, inline);
        }
    }

    /// A new session begins, and what its sign-in writes is written, when it is its turn. False: its client has gone meanwhile, and what it said
    /// behind its request goes with it.
    async fn take_turn(&mut self) -> Result<bool, Option<Input>> {
        if self.has_turn {
            return Ok(true);
        }
        let node = self.node;
        let came = Instant::now();
        let (limits, metrics) = (&node.config.limits, &node.metrics);
        let passed = {
            let mut turn = pin!(node.turnstile.pass(limits.sign_ins_waiting_max));
            loop {
                tokio::select! {
                    biased; // a turn that is given is taken
                    passed = &mut turn => break Some(passed),
                    is_there = self.read(), if self.input.len() < READ_AHEAD_BYTES_MAX => {
                        if !is_there {
                            break None;
                        }
                    }
                }
            }
        };
        let waiting = i64::try_from(node.turnstile.waiting());
        metrics.sign_ins_waiting.set(waiting.unwrap_or(i64::MAX));
        let Some(passed) = passed else { return Ok(false) };
        self.has_turn = passed.is_ok();
        self.deadline += came.elapsed();
        if passed.is_ok() && !node.is_leaving() {
            return Ok(true);
        }
        let error = match passed {
            Ok(()) => drain::elsewhere(node),
            Err(_) => {
                metrics.sign_ins_refused.inc();
                StreamError::resource_constraint()
            }
        };
        Err(Some(Input::Broken(error)))
    }

    /// Nobody else hears where this client is sent (RFC 6120 §4.9.3.19).
    fn is_private(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| transport.tls_info().is_some())
    }

    fn resumed(&mut self, seat: Arc<Seat>, mut sm: Box<Sm>, alive: Alive) -> End {
        if !self.has_turn && !self.went_first {
            self.node.turnstile.pass_first();
        }
        sm.resend(self.node, &mut self.output);
        if sm.wants_answer() {
            self.output.put(xmpp::sm::REQUEST);
        }
        self.begin(&seat, false);
        End::Ready(seat, Some(sm), Some(alive))
    }

    fn authenticated(&mut self, account: &BareJid, mechanism: Mechanism) {
        self.node.metrics.auth_ok.inc();
        self.node.throttle.succeeded(self.peer.ip(), account);
        self.attempt = None;
        self.admission = None;
        self.framer.set_limits(Limits {
            element_bytes: self.node.config.limits.stanza_bytes_max as u32,
            ..Limits::STANZA
        });
        tracing::debug!(%account, ?mechanism, peer = %self.peer, "signed in");
    }

    /// Whether this client, or this account, failed too often lately (XEP-0205). An attempt that never succeeds is a failed one.
    fn must_wait(&mut self, account: &BareJid) -> bool {
        self.must_wait_for(Some(account))
    }

    /// The same; of a token it may not be known yet whose it is.
    fn must_wait_for(&mut self, account: Option<&BareJid>) -> bool {
        self.attempt_over();
        let wait = self.node.throttle.check(self.peer.ip(), account, self.node.now_ms()).is_err();
        if !wait {
            self.attempt = Some(account.cloned());
        }
        wait
    }

    fn attempt_over(&mut self) {
        if let Some(account) = self.attempt.take() {
            self.node.metrics.auth_failed.inc();
            self.node.throttle.failed(self.peer.ip(), account.as_ref(), self.node.now_ms());
        }
    }

    /// False: the connection is over. Dropped half way, it has lost nothing.
    async fn read(&mut self) -> bool {
        let Some(transport) = self.transport.as_mut() else { return false };
        if !self.output.is_empty() && transport.write(&mut self.output).await.is_err() {
            return false;
        }
        matches!(transport.read(&mut self.input).await, Ok(count) if count > 0)
    }

    async fn start_tls(&mut self) -> Option<Tls> {
        let transport = self.transport.take()?;
        let transport = transport.secured(&self.node.tls, &self.input, &mut self.output).await?;
        self.framer.restart();
        let tls = tls_of(self.node, &transport);
        self.transport = Some(transport);
        tls
    }
}
