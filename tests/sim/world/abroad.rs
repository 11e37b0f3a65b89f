//! Other people's domains, as the streams of a node reach them: `far.example` takes what comes and acknowledges it (XEP-0198), `none.example` cannot be
//! found. A node's streams live as long as its process: what they hold is gone with it, and what had arrived and was not acknowledged comes again.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use node::app::Node;
use node::federation::{self, Streams};
use parking_lot::Mutex;
use s2s::federation::Ticket;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::chance::Chance;
use super::life::Life;

/// A domain that takes messages.
pub const FAR: &str = "far.example";
/// A domain that is not there.
pub const NONE: &str = "none.example";

/// What arrived at `far.example`: the number of the message, and when; in order.
#[derive(Clone, Debug, Default)]
pub struct Abroad(Arc<Mutex<Vec<(usize, u64)>>>);

impl Abroad {
    /// All of it.
    pub fn arrived(&self) -> Vec<(usize, u64)> {
        self.0.lock().clone()
    }
}

/// The streams of one life of a node.
pub struct Road {
    queue: Mutex<VecDeque<(Ticket, Stanza)>>,
    stir: Notify,
}

impl Streams for Road {
    fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)> {
        if stanza.to().is_none_or(|to| to.domain() != FAR) {
            return Err((stanza, StanzaError::remote_server_not_found()));
        }
        self.queue.lock().push_back((ticket, stanza));
        self.stir.notify_one();
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, Vec<(Ticket, Stanza)>> {
        Box::pin(async { self.queue.lock().drain(..).collect() })
    }
}

/// Gives a node its streams. In its runtime.
pub fn begin(node: &Arc<Node>, abroad: Abroad, life: Arc<Life>, chance: Chance) {
    let road = Arc::new(Road { queue: Mutex::default(), stir: Notify::new() });
    node.federation.set_streams(road.clone());
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        let mut chance = chance;
        loop {
            road.stir.notified().await;
            loop {
                let batch: Vec<_> = road.queue.lock().drain(..).collect();
                if batch.is_empty() {
                    break;
                }
                // Found and reached quickly, as a rule.
                let way = chance.weighted(&[(5, 80), (3, 600), (2, 9_000)]);
                tokio::time::sleep(Duration::from_millis(chance.between(20, way))).await;
                let now = life.now();
                let numbers = batch.iter().filter_map(|(_, stanza)| number(stanza));
                abroad.0.lock().extend(numbers.map(|number| (number, now)));
                tokio::time::sleep(Duration::from_millis(chance.between(20, 200))).await;
                let Some(node) = node.upgrade() else { return };
                let tickets: Vec<Ticket> = batch.iter().map(|(ticket, _)| *ticket).collect();
                federation::delivered(&node, &tickets);
            }
        }
    });
}

/// The number of a message for another domain, from its id.
fn number(stanza: &Stanza) -> Option<usize> {
    stanza.id()?.strip_prefix('a')?.parse().ok()
}
