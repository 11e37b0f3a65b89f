//! Room `federation::outgoing`: what leaves for other domains. A queue for each pair of domains, and the streams that empty it (RFC 6120; XEP-0178;
//! XEP-0198 version 1.6.3; XEP-0220 version 1.1.1; XEP-0288 version 1.0.1). Called by [`Federation`](crate::federation::Federation).
//!
//! `queue`, `retry`, `peer` and `pool` decide what goes where and what is given up; `machine`, `online` and `session` are the protocol; `failure` says what each
//! kind of trouble means for the senders: all values. `driver` is the task of a stream, `open` makes its connections over a `way`, `back` uses
//! the streams of peers, `verify` asks about keys. One task here, the keeper, opens streams and tells senders of errors, in order.

mod again;
mod back;
mod driver;
mod failure;
mod machine;
mod online;
mod open;
mod peer;
mod pool;
mod queue;
mod retry;
mod session;
mod verify;
mod way;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::bidi::{Back, Bidi};
use super::dialback::{DialbackError, Pair, Verifier, Verify};
use super::net::Net;
use super::policy::Policies;
use super::{FederationUser, Ticket};
use super::{Limits, Timers};
use peer::Dead;
use pool::Pool;
use queue::Item;
use way::Way;

pub use peer::StreamStatus;

/// What a reload replaces as a whole.
#[derive(Clone, Debug)]
struct Settings {
    policies: Arc<Policies>,
    limits: Limits,
    timers: Timers,
}

/// How far we are from our end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// Streams end when they have nothing to do; no new ones.
    Draining,
}

/// What the tasks share.
struct Shared {
    pool: Mutex<Pool>,
    settings: RwLock<Arc<Settings>>,
    way: Arc<dyn Way>,
    user: Arc<dyn FederationUser>,
    keeper: Notify,
    /// Rung once: all streams are to end.
    stop: Notify,
    is_draining: AtomicBool,
    /// Rung at each change while we are draining.
    drained: Notify,
    questions: verify::Questions,
    backs: back::Backs,
}

impl Shared {
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    fn stage(&self) -> Stage {
        if self.is_draining.load(Ordering::Acquire) { Stage::Draining } else { Stage::Running }
    }

    /// Does something with the pool, and calls the keeper if that leaves it something to do.
    fn pool<T>(&self, work: impl FnOnce(&mut Pool) -> T) -> T {
        let mut pool = self.pool.lock();
        let done = work(&mut pool);
        if pool.wants_keeper() {
            self.keeper.notify_one();
        }
        if self.stage() == Stage::Draining {
            self.drained.notify_one();
        }
        done
    }
}

/// The outgoing half. Cloning it shares it.
#[derive(Clone)]
pub struct Outgoing(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.0.shared.pool.lock();
        write!(f, "Outgoing({} streams, {} bytes wait)", pool.streams(), pool.bytes())
    }
}

impl Outgoing {
    /// Starts it, on the runtime around it.
    #[must_use]
    pub fn start(
        net: Net,
        policies: Arc<Policies>,
        limits: Limits,
        timers: Timers,
        user: Arc<dyn FederationUser>,
    ) -> Outgoing {
        Self::start_with(Arc::new(net), Settings { policies, limits, timers }, user)
    }

    fn start_with(
        way: Arc<dyn Way>,
        settings: Settings,
        user: Arc<dyn FederationUser>,
    ) -> Outgoing {
        let shared = Arc::new(Shared {
            pool: Mutex::default(),
            settings: RwLock::new(Arc::new(settings)),
            way,
            user,
            keeper: Notify::new(),
            stop: Notify::new(),
            is_draining: AtomicBool::new(false),
            drained: Notify::new(),
            questions: verify::Questions::default(),
            backs: back::Backs::default(),
        });
        let keeper = Mutex::new(Some(tokio::spawn(keep(shared.clone()))));
        Outgoing(Arc::new(Handle { shared, keeper }))
    }

    /// Takes a stanza for another domain: from a domain of ours in its `from`, to the one in its `to`. Never blocks. From here on it is either
    /// [`delivered`](FederationUser::delivered) or [`failed`](FederationUser::failed), or left over at [`Outgoing::finish`].
    ///
    /// # Errors
    /// The stanza again, and what its sender is to hear: `resource-constraint` when too much waits, `remote-server-not-found` for a domain that was not there a
    /// moment ago or is one of ours, `not-allowed` when policy forbids it.
    pub fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)> {
        let shared = &self.0.shared;
        let (Some(from), Some(to)) = (stanza.from().cloned(), stanza.to().cloned()) else {
            return Err((stanza, StanzaError::jid_malformed()));
        };
        if shared.user.is_ours(to.domain()) || !shared.user.is_ours(from.domain()) {
            return Err((stanza, StanzaError::remote_server_not_found()));
        }
        let settings = shared.settings();
        if !settings.policies.of(to.domain()).allow {
            let error =
                StanzaError::not_allowed().with_text(&failure::Failure::Forbidden.to_string());
            return Err((stanza, error));
        }
        let since = Instant::now().into_std();
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let since_ms = u64::try_from(since_ms).unwrap_or(u64::MAX);
        let item = Item { ticket, stanza, since, since_ms, sendings: 0 };
        shared.pool(|pool| pool.send(from.domain(), to.domain(), item, since, &settings.limits))
    }

    /// All pairs that have a stream or something to send.
    #[must_use]
    pub fn status(&self) -> Vec<StreamStatus> {
        self.0.shared.pool.lock().status()
    }

    /// Bytes that wait or are on the way.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.0.shared.pool.lock().bytes()
    }

    /// Other bounds, times and rules, from now on: streams to domains that are no longer allowed end.
    pub fn reload(&self, policies: Arc<Policies>, limits: Limits, timers: Timers) {
        *self.0.shared.settings.write() = Arc::new(Settings { policies, limits, timers });
        self.0.shared.pool.lock().ring_all();
        self.0.shared.keeper.notify_one();
    }

    /// Takes nothing new, and comes back when all that streams can deliver is delivered, or at `deadline`.
    pub async fn drain(&self, deadline: Instant) {
        let shared = &self.0.shared;
        shared.is_draining.store(true, Ordering::Release);
        shared.pool(|pool| {
            pool.close();
            pool.ring_all();
        });
        let done = async {
            while shared.pool.lock().is_busy() {
                shared.drained.notified().await;
            }
        };
        let _ = timeout_at(deadline, done).await;
    }

    /// Ends it, after [`Outgoing::drain`]. Gives what is left, in the order of its tickets: it may have arrived, but nobody said so.
    pub async fn finish(&self) -> Vec<(Ticket, Stanza)> {
        let shared = &self.0.shared;
        let keeper = self.0.keeper.lock().take();
        shared.is_draining.store(true, Ordering::Release);
        shared.pool(Pool::close);
        if let Some(keeper) = keeper {
            shared.stop.notify_one();
            // Its streams end with it, and give back what they have.
            let _ = keeper.await;
        }
        back::end(shared);
        tell(shared);
        shared.pool(Pool::drain)
    }
}

impl Bidi for Outgoing {
    fn opened(&self, pair: Pair, back: &Back) {
        back::opened(&self.0.shared, &pair, back);
    }

    fn delivered(&self, stream: u64, tickets: &[Ticket]) {
        back::delivered(&self.0.shared, stream, tickets);
    }

    fn closed(&self, stream: u64) {
        back::closed(&self.0.shared, stream);
    }
}

impl Verifier for Outgoing {
    fn verify(&self, ask: Verify) -> BoxFuture<'static, Result<bool, DialbackError>> {
        verify::verify(&self.0.shared, ask)
    }
}

/// The keeper: opens streams, gives up what waited too long, tells senders.
async fn keep(shared: Arc<Shared>) {
    let mut streams = JoinSet::new();
    loop {
        let settings = shared.settings();
        let now = Instant::now();
        let (opens, next) = {
            let mut pool = shared.pool.lock();
            pool.look(now.into_std(), &settings.limits, &settings.timers)
        };
        tell(&shared);
        for open in opens {
            streams.spawn(driver::run(shared.clone(), open));
        }
        let next = next.map_or_else(|| now + Duration::from_secs(3600), Instant::from_std);
        tokio::select! {
            () = shared.stop.notified() => return streams.shutdown().await,
            () = shared.keeper.notified() => {}
            () = sleep_until(next) => {}
            Some(ended) = streams.join_next(), if !streams.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the task of a stream failed");
                }
            }
        }
    }
}

/// Tells senders what has come to a bad end, oldest first.
fn tell(shared: &Shared) {
    let dead = shared.pool.lock().dead();
    for Dead { ticket, stanza, error } in dead {
        shared.user.failed(ticket, stanza, error);
    }
}

/// Any number: waits are spread by it, and nothing depends on its not being guessed.
fn chance() -> u32 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
