//! Room: both halves of the federation as one thing, for whoever has a server around them. Called by `node::federation`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::incoming::{self, Incoming, Neighbours};
use super::net::Net;
use super::outgoing::{Outgoing, StreamStatus};
use super::policy::Policies;
use super::{FederationUser, Ticket};
use super::{Limits, Timers};

/// Streams to other domains and from them. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Federation {
    outgoing: Outgoing,
    incoming: Incoming,
    patience: Arc<Mutex<Duration>>,
}

/// What there is, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Pairs of domains that have a stream of ours or something to send.
    pub outgoing: Vec<StreamStatus>,
    /// Bytes that wait for other domains, or are on the way to them.
    pub queued_bytes: usize,
    /// Streams of others.
    pub incoming: incoming::Status,
}

impl Federation {
    /// Starts both halves, on the runtime around it. `name` is a domain of ours: it answers to peers that call none.
    #[must_use]
    pub fn start(
        name: &str,
        net: Net,
        policies: Arc<Policies>,
        limits: Limits,
        timers: Timers,
        user: Arc<dyn FederationUser>,
    ) -> Federation {
        let outgoing = Outgoing::start(net.clone(), policies.clone(), limits, timers, user.clone());
        let neighbours = Neighbours {
            user,
            verifier: Arc::new(outgoing.clone()),
            bidi: Arc::new(outgoing.clone()),
        };
        let incoming = Incoming::new(net, neighbours, name, policies, limits, timers);
        Federation { outgoing, incoming, patience: Arc::new(Mutex::new(timers.queue)) }
    }

    /// Takes a stanza for another domain. Never blocks: see [`Outgoing::send`].
    ///
    /// # Errors
    /// The stanza again, and what its sender is to hear.
    pub fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)> {
        self.outgoing.send(ticket, stanza)
    }

    /// Takes a connection of another server: see [`Incoming::accept`].
    pub fn accept<S>(&self, io: S, peer: SocketAddr, is_tls: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.incoming.accept(io, peer, is_tls);
    }

    /// How long a stanza may wait for a way to its domain.
    #[must_use]
    pub fn patience(&self) -> Duration {
        *self.patience.lock()
    }

    /// What there is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            outgoing: self.outgoing.status(),
            queued_bytes: self.outgoing.queued_bytes(),
            incoming: self.incoming.status(),
        }
    }

    /// Other rules, bounds and times for both halves, from now on. Streams of domains that are no longer allowed end. (Certificates and name
    /// servers: [`Net::reload`].)
    pub fn reload(&self, policies: Arc<Policies>, limits: Limits, timers: Timers) {
        *self.patience.lock() = timers.queue;
        self.outgoing.reload(policies.clone(), limits, timers);
        self.incoming.reload(policies, limits, timers);
    }

    /// Whether streams of others go elsewhere from now on: see [`Incoming::leave`].
    pub fn leave(&self, leaving: bool) {
        self.incoming.leave(leaving);
    }

    /// Ends both halves. What waits is sent, for half of the time that there is; then streams end, those of others too. Gives what is left, in the order of
    /// its tickets: nobody has said that it arrived.
    pub async fn shutdown(&self, deadline: Instant) -> Vec<(Ticket, Stanza)> {
        let now = Instant::now();
        self.outgoing.drain(now + deadline.saturating_duration_since(now) / 2).await;
        // Those that carry stanzas of ours give back what they have.
        self.incoming.shutdown(deadline).await;
        self.outgoing.finish().await
    }
}
