//! Room: the registry's task: asks Redis what the machine says, one question at a time, and shows what came of it. It owns the connection; nobody
//! waits for it. Ends with the node: then it writes what is left in the queue and gives its lease back, within a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::Redis;
use global_distrib::Shows;
use parking_lot::Mutex;
use redis::RedisError;
use replication::Hlc;
use replication::metadata::NodeRecord;
use tokio::time::{Instant, timeout};
use xmpp::jid::FullJid;

use super::connect::{self, Conn, connect};
use super::machine::{BATCH, Counted, Machine, Site, Step};
use super::queue::Queue;
use super::row::{Life, Record};
use super::{Open, join, script};
use crate::app::Node;

/// How long the node's end may wait for Redis.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The node, as the machine asks about it.
struct Here<'a> {
    node: &'a Node,
    record: String,
}

impl Here<'_> {
    fn new(node: &Node) -> Here<'_> {
        let record = Record { node: node.record(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let record = serde_json::to_string(&record).expect("a plain value");
        Here { node, record }
    }
}

impl Site for Here<'_> {
    fn all(&self) -> Vec<FullJid> {
        let mut all = Vec::new();
        self.node.directory.for_each(|row| {
            if row.here().is_some() {
                all.push(row.full.clone());
            }
        });
        all
    }

    fn row(&self, full: &FullJid) -> Option<(Hlc, Shows)> {
        let here = |rows: &[global_distrib::Row<_>]| {
            let row = rows.iter().find(|row| row.full == *full && row.here().is_some())?;
            let (priority, available, hidden) = (row.priority, row.available, row.hidden);
            Some((row.generation, Shows { priority, available, hidden }))
        };
        self.node.directory.read(full.bare_str(), here).flatten()
    }

    fn record(&self) -> String {
        self.record.clone()
    }

    fn map_version(&self) -> u64 {
        self.node.metadata.state().version
    }

    fn map(&self) -> String {
        serde_json::to_string(&self.node.metadata.state().nodes).expect("plain values")
    }
}

/// Runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut counted = Counted::default();
    loop {
        let config = node.config.redis.clone();
        let registry = &node.registry;
        registry.begin(&config);
        let goes_on = match config.url {
            Some(_) => Driver::new(node.clone(), config, counted).drive(&mut counted).await,
            None => idle(&node).await,
        };
        *registry.conn.lock() = None;
        registry.numbers.up.set(0);
        if !goes_on {
            return;
        }
    }
}

/// Until there is a Redis. False: the node stops.
async fn idle(node: &Arc<Node>) -> bool {
    loop {
        tokio::select! {
            biased; // the stop has waited longest
            () = node.stopped() => return false,
            () = node.registry.wake.notified() => {}
        }
        if node.config.redis.url.is_some() {
            return true;
        }
    }
}

/// The next question. All rows are looked at while sessions can leave their notes: what one notes meanwhile waits in the queue, whether it
/// was seen or not.
fn next(machine: &mut Machine, queue: &Mutex<Queue>, now: u64, site: &dyn Site) -> Step {
    loop {
        let step = machine.step(now, &mut queue.lock(), site);
        if step != Step::Anew {
            return step;
        }
        machine.overflowed(site);
    }
}

struct Driver {
    node: Arc<Node>,
    config: Redis,
    base: String,
    me: Life,
    machine: Machine,
    conn: Option<Conn>,
    /// Somebody is being proposed to metadata.
    proposing: Arc<AtomicBool>,
}

impl Driver {
    fn new(node: Arc<Node>, config: Redis, counted: Counted) -> Driver {
        let me = Life { node: node.geo.me.to_string(), incarnation: node.incarnation };
        Driver {
            base: script::base(&config.prefix),
            machine: Machine::new(me.clone(), &config, counted),
            me,
            node,
            config,
            conn: None,
            proposing: Arc::default(),
        }
    }

    /// Until the configuration is another (true) or the node stops. `counted`: in the end, what is counted by then.
    async fn drive(mut self, counted: &mut Counted) -> bool {
        loop {
            let now = self.node.now_ms();
            let node = self.node.clone();
            let step = next(&mut self.machine, &node.registry.queue, now, &Here::new(&node));
            let stopped = node.stopped();
            tokio::pin!(stopped);
            if let Step::Wait(until) = step {
                self.show(now);
                let pause = Duration::from_millis(until.saturating_sub(now).max(1));
                tokio::select! {
                    biased; // the stop has waited longest
                    () = &mut stopped => break,
                    () = node.registry.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            } else {
                let done = tokio::select! {
                    biased; // an answer that is there is not thrown away
                    done = self.ask(step) => done,
                    () = &mut stopped => break,
                };
                if let Err(why) = done {
                    self.failed(&why);
                }
            }
            if self.node.config.redis != self.config {
                tracing::info!("another Redis is configured");
                *counted = self.farewell().await;
                return true;
            }
        }
        *counted = self.farewell().await;
        false
    }

    async fn ask(&mut self, step: Step) -> Result<(), RedisError> {
        let registry = &self.node.registry;
        registry.numbers.commands.inc();
        let log_max = self.config.log_entries_max;
        if step == Step::Connect {
            self.conn = Some(connect(&self.config, self.config.timeout).await?);
            self.machine.connected(self.node.now_ms());
            return Ok(());
        }
        let patience = self.config.timeout * 2;
        let conn = self.conn.as_mut().expect("the machine asks nothing without a connection");
        let late = |_| connect::late(patience);
        match step {
            Step::Beat(beat) => {
                let asked = beat.ask(conn, &self.base, &self.me);
                let heard = timeout(patience, asked).await.map_err(late)??;
                let here = Here::new(&self.node);
                let now = self.node.now_ms();
                let changed = self.machine.beaten(now, &beat, &heard, &here);
                self.found(changed, heard.map.as_deref());
                self.answered(now);
            }
            Step::Write(batch) => {
                let asked = batch.ask(conn, &self.base, &self.me, log_max);
                timeout(patience, asked).await.map_err(late)??;
                registry.numbers.written.inc_by(batch.changes.len() as u64);
                self.machine.written(self.node.now_ms());
            }
            Step::Clear(clear) => {
                let asked = clear.ask(conn, &self.base, log_max);
                let cleared = timeout(patience, asked).await.map_err(late)??;
                registry.numbers.removed.inc_by(cleared.removed);
                if clear.before.is_none() && cleared.removed > 0 {
                    let life = clear.life.text();
                    tracing::info!(%life, rows = cleared.removed, "rows of a life that is over are removed");
                }
                self.machine.cleared(self.node.now_ms(), &clear, &cleared);
            }
            Step::Connect | Step::Anew | Step::Wait(_) => {}
        }
        Ok(())
    }

    /// It answers, and has said who is there.
    fn answered(&mut self, now: u64) {
        let registry = &self.node.registry;
        let conn = self.conn.clone();
        *registry.conn.lock() = conn.map(|conn| Open { conn, config: self.config.clone() });
        registry.numbers.up.set(1);
        let mut shown = registry.shown.lock();
        if let Some(away_ms) = shown.answered(now) {
            tracing::info!(away_ms, "Redis answers again");
        }
        if self.machine.is_superseded() && !shown.superseded {
            tracing::error!("a newer life of this node has registered; this one does not any more");
        }
        shown.superseded = self.machine.is_superseded();
        self.machine.log_life().clone_into(&mut shown.log_life);
        shown.sample(now, registry.numbers.commands.get());
    }

    fn failed(&mut self, why: &RedisError) {
        let registry = &self.node.registry;
        let now = self.node.now_ms();
        self.conn = None;
        *registry.conn.lock() = None;
        registry.numbers.failures.inc();
        registry.numbers.up.set(0);
        let chance = f64::from(self.node.random::<1>()[0]) / 255.0;
        self.machine.failed(now, &mut registry.queue.lock(), chance);
        if registry.shown.lock().failed(now, why.to_string()) {
            tracing::warn!(%why, "Redis does not answer; chat goes on, rows are written when it does");
        }
    }

    /// Nodes that were found, for the links and for metadata.
    fn found(&self, changed: bool, map: Option<&str>) {
        let node = &self.node;
        let joining = node.metadata.state().version == 0;
        let map: Option<BTreeMap<String, NodeRecord>> =
            map.filter(|_| joining).and_then(|map| serde_json::from_str(map).ok());
        let news = {
            let mut found = node.registry.found.lock();
            found.nodes.clone_from(self.machine.nodes());
            match map {
                Some(map) => changed | (std::mem::replace(&mut found.map, map.clone()) != map),
                None => changed,
            }
        };
        if news {
            node.geo.relink.notify_one();
        }
        let strangers = if joining { Vec::new() } else { join::strangers_of(node) };
        if strangers.is_empty() || self.proposing.swap(true, Ordering::Relaxed) {
            return;
        }
        let (node, proposing) = (node.clone(), self.proposing.clone());
        tokio::spawn(async move {
            join::propose(&node, strangers).await;
            proposing.store(false, Ordering::Relaxed);
        });
    }

    fn show(&self, now: u64) {
        let registry = &self.node.registry;
        let left = self.machine.left();
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let numbers = &registry.numbers;
        numbers.queued.set(gauge(registry.queue.lock().len()));
        numbers.left.set(gauge(left.unwrap_or(0)));
        let living = self.machine.nodes().values().filter(|known| known.lives).count();
        numbers.nodes.set(gauge(living));
        let mut shown = registry.shown.lock();
        shown.left = left;
        shown.sample(now, numbers.commands.get());
    }

    /// What is left in the queue is written, and the lease given back, as far as that is done soon: the node's end waits for it. Says what is
    /// counted by then.
    async fn farewell(mut self) -> Counted {
        let Some(mut conn) = self.conn.take() else { return self.machine.counted() };
        // What was just being asked may be done or not.
        self.machine.failed(self.node.now_ms(), &mut self.node.registry.queue.lock(), 0.0);
        let deadline = Instant::now() + self.config.timeout.min(FAREWELL_MAX);
        let all = async {
            loop {
                let now = self.node.now_ms();
                let batch = self.machine.rest(&mut self.node.registry.queue.lock(), now);
                let Some(batch) = batch else { break };
                batch.ask(&mut conn, &self.base, &self.me, self.config.log_entries_max).await?;
            }
            script::bye(&mut conn, &self.base, &self.me).await
        };
        match tokio::time::timeout_at(deadline, all).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(%why, "the registry was not told that this node stops"),
            Err(_) => tracing::warn!("the registry was not told in time that this node stops"),
        }
        self.machine.counted()
    }
}

impl Machine {
    /// What is left to be written when the node stops.
    fn rest(&mut self, queue: &mut Queue, now: u64) -> Option<script::Batch> {
        if queue.is_empty() || self.is_superseded() {
            return None;
        }
        match self.write(queue.take(BATCH, now), false) {
            Step::Write(batch) => Some(batch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
