//! Room: the streams, with this node around them. Starts them, answers what they ask, gives them what the gateway has and takes what comes. Called by
//! `app`; the port they share with the links is sorted here (`s2s::front`).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use replication::metadata::{Command, DialbackSecret, NodeRecord};
use s2s::federation::net::{Net, NetConfig, NetError, Ready};
use s2s::federation::policy::{BlocklistError, Policies};
use s2s::federation::{Federation as Engine, FederationUser, Handled, Status, Ticket};
use s2s::front::{self, Caller, Front};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use xmpp::StreamError;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::Streams;
use crate::app::{Node, drain};

/// How long a caller has until it is clear whom it wants.
const SORTED_WITHIN: Duration = Duration::from_secs(10);
/// How long one attempt to agree on a secret may take; it is made again until there is one.
const AGREED_WITHIN: Duration = Duration::from_secs(5);
/// After the operating system has refused a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Why there are no streams. Its text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// A certificate, an authority or a name server cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The list of domains to have nothing to do with cannot be read.
    #[error(transparent)]
    Blocklist(#[from] BlocklistError),
}

/// The streams of this node, if there are any, and the way to change what they go by.
#[derive(Default)]
pub struct Handle(OnceLock<(Engine, Net)>);

impl Handle {
    /// What there is.
    pub fn status(&self) -> Option<Status> {
        self.0.get().map(|(engine, _)| engine.status())
    }

    /// Whether streams of others go elsewhere from now on: this node is emptied, or not any more.
    pub fn leave(&self, leaving: bool) {
        if let Some(engine) = self.engine() {
            engine.leave(leaving);
        }
    }

    fn engine(&self) -> Option<&Engine> {
        self.0.get().map(|(engine, _)| engine)
    }
}

/// Everything that a configuration says of streams, read and found good.
pub struct Renewal {
    net: Ready,
    policies: Arc<Policies>,
}

/// Reads what the configuration names: certificates, authorities, lists.
///
/// # Errors
/// See [`StreamsError`].
fn read(config: &config::Config) -> Result<Renewal, StreamsError> {
    let policies = Arc::new(Policies::read(&config.s2s)?);
    Ok(Renewal { net: Ready::new(NetConfig::read(config)?)?, policies })
}

/// Begins to speak to other domains, if the configuration says so.
///
/// # Errors
/// See [`StreamsError`]; the node must not start then, for it would not be what it is said to be.
pub fn start(node: &Arc<Node>) -> Result<(), StreamsError> {
    let config = &node.config;
    if !config.s2s.federation {
        return Ok(());
    }
    let Renewal { net, policies } = read(config)?;
    let net = Net::from(net);
    let user = Arc::new(User(Arc::downgrade(node)));
    let (limits, timers) = (config.s2s.limits, config.s2s.timers);
    let name = &node.domains.global;
    let engine = Engine::start(name, net.clone(), policies, limits, timers, user);
    node.federation.set_streams(Arc::new(engine.clone()));
    let is_first = node.federation.handle.0.set((engine, net)).is_ok();
    assert!(is_first, "streams are started once");
    Ok(())
}

/// What a configuration says that may come into force: for [`reload`]. `None`: this node has no streams. (Whether it has needs a restart.)
///
/// # Errors
/// See [`StreamsError`].
pub fn read_again(node: &Node, config: &config::Config) -> Result<Option<Renewal>, StreamsError> {
    node.federation.handle.0.get().map(|_| read(config)).transpose()
}

/// The configuration has changed: from now on streams go by what it says.
pub fn reload(node: &Node, renewal: Renewal) {
    let Some((engine, net)) = node.federation.handle.0.get() else { return };
    net.reload(renewal.net);
    let s2s = &node.config.s2s;
    engine.reload(renewal.policies, s2s.limits, s2s.timers);
}

/// Sees to it that there is a secret for dialback keys: proposes one until metadata has one, which may be another node's.
pub async fn agree_on_secret(node: Arc<Node>) {
    if node.federation.handle.engine().is_none() {
        return;
    }
    let mut version = node.metadata.watch();
    let agree = async {
        let _ = version.wait_for(|version| *version > 0).await;
        let secret = DialbackSecret(node.random());
        while node.metadata.state().dialback.is_none() {
            let command = Command::Dialback { secret: secret.clone() };
            if let Err(error) = node.metadata.propose(command, AGREED_WITHIN).await {
                tracing::debug!(%error, "no secret for dialback keys yet");
            }
        }
    };
    tokio::select! {
        () = agree => {}
        () = node.stopped() => {}
    }
}

/// Follows where our other nodes are, until the node stops: DNS that sends us to one of them sends us to ourselves.
pub async fn follow_nodes(node: Arc<Node>) {
    let Some((_, net)) = node.federation.handle.0.get() else { return };
    let mut version = node.metadata.watch();
    loop {
        version.mark_unchanged();
        let state = node.metadata.state();
        // Those of other regions are servers of other domains, if their domains are strangers to ours.
        let is_us =
            |of: &&NodeRecord| node.domains.regions_linked || *of.region == *node.geo.me.region;
        let ours = state.nodes.values().filter(is_us);
        net.set_nodes(ours.filter_map(|of| of.address.parse().ok()).collect());
        tokio::select! {
            changed = version.changed() => if changed.is_err() { return },
            () = node.stopped() => return,
        }
    }
}

/// Takes connections of other servers, and of our nodes, until it is dropped. `is_tls`: they begin with TLS.
pub async fn listen(node: Arc<Node>, listener: TcpListener, is_tls: bool) {
    let front = Arc::new(Front::new(node.config.s2s.limits.unproved_per_address_max));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                match is_tls {
                    true => take(&node, stream, peer, true),
                    false => drop(tokio::spawn(sort(node.clone(), front.clone(), stream, peer))),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept from other servers; pausing");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn sort(node: Arc<Node>, front: Arc<Front>, stream: TcpStream, peer: SocketAddr) {
    let Some(_place) = front.enter(peer.ip()) else {
        return tracing::debug!(%peer, "too many callers of one address who do not say whom they want");
    };
    let me = node.geo.me.to_string();
    match timeout(SORTED_WITHIN, front::sort(stream, &me)).await {
        Ok(Ok((Caller::Node, stream))) => {
            if let Some(links) = node.geo.links() {
                links.accept(stream);
            }
        }
        Ok(Ok((Caller::Server { tls_first }, stream))) => take(&node, stream, peer, tls_first),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a caller went before it said whom it wants")
        }
        Err(_) => tracing::debug!(%peer, "a caller did not say whom it wants"),
    }
}

/// Without streams it is dropped, and thereby closed.
fn take<S>(node: &Node, stream: S, peer: SocketAddr, is_tls: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    if let Some(engine) = node.federation.handle.engine() {
        engine.accept(stream, peer, is_tls);
    }
}

impl Streams for Engine {
    fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)> {
        Engine::send(self, ticket, stanza)
    }

    fn patience(&self) -> Duration {
        Engine::patience(self)
    }

    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, Vec<(Ticket, Stanza)>> {
        Box::pin(Engine::shutdown(self, deadline))
    }
}

/// The node, as its streams see it.
struct User(Weak<Node>);

impl FederationUser for User {
    fn is_ours(&self, domain: &str) -> bool {
        let Some(node) = self.0.upgrade() else { return false };
        // One that the configuration does not name is a component's while it is connected, here or in another region.
        let is_connected = || {
            node.domains.is_component(domain)
                && node.directory.read(domain, |rows| !rows.is_empty()) == Some(true)
        };
        node.domains.is_ours(domain) || is_connected()
    }

    fn may_arrive(&self, from: &str, to: &str) -> bool {
        let node = self.0.upgrade();
        !self.is_ours(from) && node.is_some_and(|node| node.domains.may_arrive(from, to))
    }

    fn dialback_secret(&self) -> Option<[u8; 32]> {
        self.0.upgrade()?.metadata.state().dialback.as_ref().map(|secret| secret.0)
    }

    fn elsewhere(&self) -> StreamError {
        self.0.upgrade().map_or_else(StreamError::system_shutdown, |node| {
            drain::one_of(&node, &node.config.s2s.see_other_host)
        })
    }

    fn receive(&self, stanza: Stanza, handled: Handled) {
        if let Some(node) = self.0.upgrade() {
            super::inbound::inbound(&node, stanza, handled);
        }
    }

    fn delivered(&self, tickets: &[Ticket]) {
        if let Some(node) = self.0.upgrade() {
            super::delivered(&node, tickets);
        }
    }

    fn failed(&self, ticket: Ticket, stanza: Stanza, error: StanzaError) {
        if let Some(node) = self.0.upgrade() {
            super::failed(&node, ticket, &stanza, &error);
        }
    }
}
