//! XEP-0225 Component Connections, version 0.2: a component's stream that is like a client's: content namespace `jabber:client`, a version, to the server. It
//! upgrades to TLS, proves by SASL that it knows the secret of a hostname (its user name), and binds hostnames (`hostname`). Which protocol a stream is, its header says.
//! Called by `serve`; what it says until it is signed in is `xmpp::stream::negotiate`'s.
//!
//! Left out: EXTERNAL (a certificate in place of a secret).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::sasl::{ChannelBindings, Credentials, Hash, Mechanism, ScramKeys, Verdict};
use xmpp::stream::error::StreamError;
use xmpp::stream::features;
use xmpp::stream::header::{Framing, Opening, StreamHeader};
use xmpp::stream::negotiate::{Input, Offer, Output, Receiving, Tls, TlsPolicy};
use xmpp::xml::element::Element;

use super::handshake::Claim;
use super::hostname::{self, Proved, Wish};
use super::serve::Door;
use crate::app::Node;
use crate::homes::accounts::ITERATIONS;
use crate::session::Seat;
use crate::transport::Transport;

/// A stream that is to be signed in on.
pub(super) struct SignIn {
    machine: Box<Receiving>,
    /// When it began.
    began: Proved,
    /// The hostname whose secret it knows.
    pub(super) proved: Option<Proved>,
}

impl SignIn {
    /// Whether a stream is one of these. COMPAT: a component of XEP-0114 that takes the wrong namespace gives no version.
    pub(super) fn is_for(header: &StreamHeader) -> bool {
        header.content_ns == ns::CLIENT && header.version.is_some_and(|(major, _)| major >= 1)
    }

    fn new(node: &Node, tls: Option<Tls>) -> SignIn {
        let scram = |hash, plus| Mechanism::Scram { hash, plus };
        let offer = Offer {
            domains: vec![node.domains.global.clone()],
            tls: TlsPolicy::Optional,
            mechanisms: vec![
                scram(Hash::Sha256, true),
                scram(Hash::Sha1, true),
                scram(Hash::Sha256, false),
                scram(Hash::Sha1, false),
                Mechanism::Plain,
            ],
            apart: Vec::new(),
            plain_without_tls: false,
            register: false,
            stream_management: false,
            roster_versioning: false,
            features_before_auth: Vec::new(),
            features_after_auth: Vec::new(),
            sasl2: None,
            ..(*node.offer(false)).clone()
        };
        let machine = Receiving::new(Arc::new(offer), Framing::Stream, tls, node.random::<32>());
        SignIn { machine, began: node.components.proved(""), proved: None }
    }
}

fn tls_of(transport: &Transport) -> Option<Tls> {
    let info = transport.tls_info()?;
    let bindings = ChannelBindings { exporter: info.exporter, server_end_point: info.end_point };
    Some(Tls { bindings, identities: Vec::new() })
}

impl Door<'_> {
    /// A header: the first, or that of the stream behind TLS, or behind SASL.
    pub(super) async fn open(
        &mut self,
        header: Box<StreamHeader>,
    ) -> Result<(), Option<StreamError>> {
        let node = self.node;
        let tls = self.transport.as_ref().and_then(tls_of);
        let sign_in = self.sign_in.get_or_insert_with(|| SignIn::new(node, tls));
        if sign_in.proved.is_none() {
            return self.act(Input::Open(header)).await;
        }
        let id = node.token();
        let header = Opening {
            content_ns: ns::CLIENT,
            from: Some(&node.domains.global),
            to: header.from.as_deref(),
            id: Some(&id),
            dialback: false,
        };
        self.output.put(&header.to_bytes(Framing::Stream));
        let required = Element::new("required", ns::COMPONENT_BIND);
        let bind = Element::new("bind", ns::COMPONENT_BIND).with_child(required);
        let limits = features::limits(node.config.components.stanza_bytes_max);
        let all = features::Writer::new(Framing::Stream).raw(&bind.to_bytes()).raw(&limits);
        self.output.put(&all.finish());
        Ok(())
    }

    /// An element. The seat of its first hostname, once that is bound.
    pub(super) async fn said(
        &mut self,
        element: Element,
    ) -> Result<Option<Arc<Seat>>, Option<StreamError>> {
        let proved = self.sign_in.as_ref().and_then(|sign_in| sign_in.proved.clone());
        let Some(proved) = proved else {
            return self.act(Input::Element(element)).await.map(|()| None);
        };
        if self.node.is_leaving() {
            return Err(Some(StreamError::system_shutdown()));
        }
        // RFC 6120 §7.1: nothing else comes before it.
        let wish = Wish::of(&element, &self.node.domains.global);
        let done = match wish.ok_or(Some(StreamError::not_authorized()))? {
            Ok(Wish::Bind(host)) => hostname::bind(self.node, &proved, host).map(Some),
            Ok(Wish::Unbind(_)) => Err(xmpp::stanza::error::StanzaError::item_not_found()),
            Err(error) => Err(error),
        };
        self.output.put(&hostname::answer(&element, done.as_ref().map(|bound| bound.as_ref())));
        Ok(done.ok().flatten().map(|(_, seat)| seat))
    }

    /// Feeds one thing in and does all that follows, answers included.
    async fn act(&mut self, input: Input) -> Result<(), Option<StreamError>> {
        let mut todo = VecDeque::from(self.machine().handle(input));
        while let Some(output) = todo.pop_front() {
            let answer = match output {
                Output::Send(bytes) => {
                    self.has_header = true;
                    self.output.put(&bytes);
                    continue;
                }
                Output::Restart => {
                    self.framer.restart();
                    continue;
                }
                Output::Authenticated { account, .. } => {
                    if let Some(sign_in) = &mut self.sign_in {
                        let host = account.local().map(str::to_owned);
                        sign_in.proved = host.map(|host| Proved { host, ..sign_in.began.clone() });
                    }
                    continue;
                }
                Output::StartTls => Input::TlsReady(self.start_tls().await?),
                Output::About(_) => Input::About(None),
                Output::LookUp { account, hash } => {
                    Input::Credentials(keys(self.node, &account, hash).await)
                }
                Output::CheckPlain { account, password } => {
                    let said = password.expose().as_bytes();
                    let is_right = match claim(self.node, &account) {
                        Claim::May(secret) => secret.matches(said),
                        Claim::Taken | Claim::Unknown => false,
                    };
                    Input::PlainChecked(if is_right { Verdict::Right } else { Verdict::Wrong })
                }
                Output::Fail(error) => return Err(Some(error)),
                // Nothing else is offered.
                _ => Input::Broken(StreamError::internal_server_error()),
            };
            // The machine waits for the answer: what it says to it comes before what was still to be done.
            for output in self.machine().handle(answer).into_iter().rev() {
                todo.push_front(output);
            }
        }
        Ok(())
    }

    fn machine(&mut self) -> &mut Receiving {
        &mut self.sign_in.as_mut().expect("a header made it").machine
    }

    async fn start_tls(&mut self) -> Result<Tls, Option<StreamError>> {
        let transport = self.transport.take().ok_or(None)?;
        let secured = transport.secured(&self.node.tls, &self.input, &mut self.output).await;
        let transport = secured.ok_or(None)?;
        self.framer.restart();
        let tls = tls_of(&transport).ok_or(None);
        self.transport = Some(transport);
        tls
    }
}

/// The user name is a hostname; to the machine it is a localpart.
fn claim<'a>(node: &'a Node, account: &BareJid) -> Claim<'a> {
    node.components.claim(&node.domains, account.local().unwrap_or_default())
}

/// SCRAM keys of the secrets. Each is derived once, whoever asks and how often: that takes a while, and whoever asks has proved nothing yet. As many as
/// there are secrets, once for each hash.
#[derive(Debug, Default)]
pub(super) struct Derived(pub(super) Mutex<BTreeMap<(String, Hash), Once>>);

type Once = Arc<OnceCell<ScramKeys>>;

async fn keys(node: &Node, account: &BareJid, hash: Hash) -> Credentials {
    let name = account.local().unwrap_or_default();
    let Some((secret, Derived(all), of)) = node.components.to_sign_in(&node.domains, name) else {
        return Credentials::Unknown;
    };
    let Ok(secret) = String::from_utf8(secret.expose().to_vec()) else {
        return Credentials::Unknown;
    };
    let cell = all.lock().entry((of.to_owned(), hash)).or_default().clone();
    let derive = || async move {
        let salt = node.random::<16>();
        let derive = move || ScramKeys::derive(hash, &secret, &salt, ITERATIONS);
        match tokio::task::spawn_blocking(derive).await {
            Ok(Ok(keys)) => Ok(keys),
            Ok(Err(_)) => Err(Credentials::Unknown),
            Err(_) => Err(Credentials::Unavailable),
        }
    };
    match cell.get_or_try_init(derive).await {
        Ok(keys) => Credentials::Keys(keys.clone()),
        Err(credentials) => credentials,
    }
}
