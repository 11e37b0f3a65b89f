//! Room: streams that other domains open to us. [`Incoming`] takes connections and bounds them; each has a task (`driver`) that drives a machine which knows
//! the protocol (`machine`); a stream whose connection is lost sleeps in `sleep` until it is resumed.
//!
//! Called by whoever listens (`node::federation`); calls [`FederationUser`] with stanzas, a [`Verifier`] about keys, a [`Bidi`] where the peer lets us send
//! over its streams, and `net` for TLS and certificates.

mod counts;
mod driver;
mod external;
pub mod machine;
mod management;
mod pairing;
mod sleep;
pub mod turns;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use xmpp::StreamError;
use xmpp::xml::framer::Limits as XmlLimits;

pub use counts::Status;

use super::FederationUser;
use super::bidi::Bidi;
use super::dialback::Verifier;
use super::net::Net;
use super::policy::{Policies, Policy};
use super::wire::Wire;
use super::{Limits, Timers};
use counts::{Counts, Full};
use turns::{House, Settings};

/// How long the end of a stream may take: to write the last words, and to hear those of the peer.
const FAREWELL: Duration = Duration::from_secs(5);

/// All streams that others have opened to this node. Cloning it shares it.
#[derive(Clone)]
pub struct Incoming(Arc<Shared>);

struct Shared {
    net: Net,
    user: Arc<dyn FederationUser>,
    verifier: Arc<dyn Verifier>,
    bidi: Arc<dyn Bidi>,
    current: watch::Sender<Current>,
    counts: Arc<Counts>,
    streams: AtomicU64,
    /// By resumption id: the task that has the stream.
    resumable: Mutex<HashMap<String, mpsc::Sender<sleep::Wake>>>,
}

/// What holds for all streams now.
#[derive(Clone, Debug)]
struct Current {
    policies: Arc<Policies>,
    settings: Arc<Settings>,
    /// No domain is to send to this node any more.
    leaving: bool,
    stop: bool,
}

/// What the machines ask about the server around them.
struct Around<'a> {
    user: &'a dyn FederationUser,
    policies: &'a Policies,
    leaving: bool,
    /// Whether the peer's connection is.
    encrypted: bool,
}

/// What a peer is told that is to go: where to, if it can believe that. In the clear anybody could have said so (RFC 6120 §4.9.3.19).
fn elsewhere(user: &dyn FederationUser, encrypted: bool) -> StreamError {
    if encrypted { user.elsewhere() } else { StreamError::system_shutdown() }
}

impl House for Around<'_> {
    fn is_ours(&self, domain: &str) -> bool {
        self.user.is_ours(domain)
    }

    fn may_arrive(&self, from: &str, to: &str) -> bool {
        self.user.may_arrive(from, to)
    }

    fn dialback_secret(&self) -> Option<[u8; 32]> {
        self.user.dialback_secret()
    }

    fn policy(&self, domain: &str) -> Policy {
        self.policies.of(domain)
    }

    fn leaving(&self) -> Option<StreamError> {
        self.leaving.then(|| elsewhere(self.user, self.encrypted))
    }
}

/// Whom the streams speak to.
pub struct Neighbours {
    /// The server around them.
    pub user: Arc<dyn FederationUser>,
    /// Who has keys verified.
    pub verifier: Arc<dyn Verifier>,
    /// Who sends over streams that are for both directions.
    pub bidi: Arc<dyn Bidi>,
}

impl Incoming {
    /// Takes no connection by itself. `name` is a domain of ours: it answers to peers that call none.
    #[must_use]
    pub fn new(
        net: Net,
        neighbours: Neighbours,
        name: &str,
        policies: Arc<Policies>,
        limits: Limits,
        timers: Timers,
    ) -> Incoming {
        let Neighbours { user, verifier, bidi } = neighbours;
        let settings = Arc::new(Settings { name: name.to_owned(), limits, timers });
        Incoming(Arc::new(Shared {
            net,
            user,
            verifier,
            bidi,
            current: watch::Sender::new(Current {
                policies,
                settings,
                leaving: false,
                stop: false,
            }),
            counts: Arc::default(),
            streams: AtomicU64::new(1),
            resumable: Mutex::default(),
        }))
    }

    /// Takes a connection from `peer`, which has a task of its own from here on, or is closed at once. `is_tls`: its first bytes are those of a TLS
    /// handshake (XEP-0368).
    pub fn accept<S>(&self, io: S, peer: SocketAddr, is_tls: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = self.0.clone();
        let current = shared.current.borrow().clone();
        if current.stop {
            return;
        }
        match shared.counts.seat(peer.ip(), &current.settings.limits, Instant::now().into_std()) {
            Ok(seat) => drop(tokio::spawn(driver::run(shared, io, peer, is_tls, seat))),
            Err(Full::Address) => {
                tracing::debug!(%peer, "too many streams from there have proved nothing yet");
            }
            Err(Full::Streams) => {
                tracing::warn!(%peer, "no more streams (streams_max)");
                if let Some(refusal) = shared.counts.refuse().filter(|_| !is_tls) {
                    let wire = Wire::new(io, XmlLimits::PRE_AUTH);
                    tokio::spawn(async move {
                        let _refusal = refusal;
                        driver::refuse(wire, current).await;
                    });
                }
            }
        }
    }

    /// Other rules, bounds and times, from now on. Streams of domains that may not send any more end with `policy-violation`.
    pub fn reload(&self, policies: Arc<Policies>, limits: Limits, timers: Timers) {
        self.0.current.send_modify(|current| {
            let name = current.settings.name.clone();
            current.policies = policies;
            current.settings = Arc::new(Settings { name, limits, timers });
        });
    }

    /// How many streams there are, and of whom.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.counts.status()
    }

    /// Whether domains are to go elsewhere from now on. Then a stream on which one has proved who it is ends with what [`FederationUser::elsewhere`]
    /// says (`system-shutdown` without TLS), and a new one as soon as a domain wants to; keys of ours are verified all the same.
    pub fn leave(&self, leaving: bool) {
        self.0.current.send_modify(|current| current.leaving = leaving);
    }

    /// Ends all streams with what [`FederationUser::elsewhere`] says, and takes no more. Comes back when they have ended, or at `deadline`.
    pub async fn shutdown(&self, deadline: Instant) {
        self.0.current.send_modify(|current| current.stop = true);
        let _ = timeout_at(deadline, self.0.counts.empty()).await;
    }
}

impl Shared {
    fn number(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incoming({} streams)", self.0.counts.status().streams)
    }
}

#[cfg(test)]
#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod tests;
