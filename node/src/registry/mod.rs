//! Room: the region's registry, in its Redis: which nodes there are, and who is connected where, for whoever has to ask beyond this process.
//! Blueprint §4. Nothing on the way of a stanza waits for it or asks it: sessions leave a note of what changed, and a task of its own writes.
//! Called by `geo::route` (notes), `app::wires` (which nodes to link with), the admin API. Without `[redis]` it does nothing.
//!
//! * `row` what is written, as text · `queue` changed rows that wait · `machine` what is done next, as a value · `script` what Redis is asked ·
//!   `connect` the way there · `driver` the task · `join` nodes that registered and metadata does not know · `log` the log of changes, as a
//!   `RouteLog` · `follow` who reads that log, or all rows again when it was trimmed · `numbers` for `/metrics` and `pangaea ctl registry`
//!
//! The links stay the way of the route log between nodes that live: there it is ordered with the stanzas that depend on it. What is here is the
//! same in a place that outlives a process, and the way by which nodes of a region find each other (docs/decisions/0012).

mod connect;
mod driver;
pub mod follow;
mod join;
pub mod log;
mod machine;
mod numbers;
mod queue;
pub mod row;
mod script;
#[cfg(test)]
mod suite;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use global_distrib::RouteEntry;
use parking_lot::Mutex;
use redis::RedisError;
use replication::metadata::NodeRecord;
use tokio::sync::Notify;
use xmpp::jid::{BareJid, FullJid};

use self::connect::Conn;
pub use self::driver::run;
use self::follow::Follower;
use self::log::RedisLog;
use self::machine::Known;
use self::numbers::{Numbers, Shown};
use self::queue::Queue;
use self::row::StoredRow;
use crate::metrics::Metrics;

/// Why the registry does not answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no `redis.url`.
    #[error("this region has no Redis: redis.url is not set")]
    Off,
    /// There is no connection.
    #[error("Redis cannot be reached: {0}")]
    Away(String),
    /// It said no, or nothing.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
}

/// See the room. Sessions wait for whoever holds `queue`: rows are not walked under it, and no other of these locks is taken.
pub struct Registry {
    on: AtomicBool,
    queue: Mutex<Queue>,
    /// Changes wait, or the configuration is another.
    wake: Notify,
    shown: Mutex<Shown>,
    numbers: Numbers,
    /// What the driver has, for others to ask with.
    conn: Mutex<Option<Open>>,
    found: Mutex<Found>,
}

/// A connection and where the region's keys begin.
#[derive(Clone)]
struct Open {
    conn: Conn,
    config: config::Redis,
}

/// Nodes found.
#[derive(Default)]
struct Found {
    /// Of this region, registered.
    nodes: BTreeMap<String, Known>,
    /// Of the platform, as a node of this region knows it from metadata.
    map: BTreeMap<String, NodeRecord>,
}

impl Registry {
    /// One that does nothing until [`run`] is.
    pub fn new(config: &config::Redis, metrics: &Metrics) -> Registry {
        Registry {
            on: AtomicBool::new(config.url.is_some()),
            queue: Mutex::new(Queue::new(config.queue_max)),
            wake: Notify::new(),
            shown: Mutex::default(),
            numbers: Numbers::new(metrics),
            conn: Mutex::default(),
            found: Mutex::default(),
        }
    }

    /// A row of this node changed. Never waits.
    pub fn note(&self, entry: &RouteEntry, now_ms: u64) {
        // Without a Redis nothing is kept; when one comes, all rows are written.
        if self.on.load(Ordering::Relaxed) && self.queue.lock().note(entry, now_ms) {
            self.wake.notify_one();
        }
    }

    /// Another Redis, or none, is written to from now on: everything is written anew.
    fn begin(&self, config: &config::Redis) {
        self.on.store(config.url.is_some(), Ordering::Relaxed);
        {
            let mut queue = self.queue.lock();
            queue.set_max(config.queue_max);
            queue.clear();
        }
        *self.shown.lock() = Shown {
            address: config.url.as_ref().map(ToString::to_string),
            prefix: config.prefix.clone(),
            ..Shown::default()
        };
    }

    /// The configuration may be another.
    pub fn reloaded(&self) {
        self.wake.notify_one();
    }

    /// Nodes of this region that have registered and live, or did a short while ago; of a joining node also those of the platform.
    pub fn peers(&self, joining: bool) -> Vec<(String, NodeRecord)> {
        let found = self.found.lock();
        let map = found.map.iter().filter(|_| joining);
        let mut peers: BTreeMap<String, NodeRecord> =
            map.map(|(name, record)| (name.clone(), record.clone())).collect();
        let nodes = found.nodes.iter();
        peers.extend(nodes.map(|(name, known)| (name.clone(), known.record.node.clone())));
        peers.into_iter().collect()
    }

    /// What the region's nodes have written of a user: the rows of lives that have a lease.
    ///
    /// # Errors
    /// There is no Redis, or it does not answer.
    pub async fn rows(&self, bare: &BareJid) -> Result<Vec<(FullJid, StoredRow)>, RegistryError> {
        let Open { mut conn, config } = self.open()?;
        let base = script::base(&config.prefix);
        self.numbers.commands.inc();
        let rows = script::rows(&mut conn, &base, bare.as_str()).await?;
        let named =
            |(resource, row): (String, StoredRow)| Some((bare.with_resource(&resource).ok()?, row));
        Ok(rows.into_iter().filter_map(named).collect())
    }

    /// Somebody who follows all rows of the region, over a connection of its own.
    ///
    /// # Errors
    /// There is no Redis, or it does not answer.
    pub async fn follow(&self) -> Result<Follower, RegistryError> {
        let Open { config, .. } = self.open()?;
        Ok(Follower::new(RedisLog::open(&config).await?))
    }

    fn open(&self) -> Result<Open, RegistryError> {
        if !self.on.load(Ordering::Relaxed) {
            return Err(RegistryError::Off);
        }
        let open = self.conn.lock().clone();
        open.ok_or_else(|| RegistryError::Away(self.shown.lock().trouble().unwrap_or_default()))
    }

    /// What an operator has to know, each a sentence: nothing of it keeps the node from serving.
    pub fn alarms(&self, now_ms: u64) -> Vec<String> {
        if !self.on.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.shown.lock().alarms(now_ms)
    }
}
