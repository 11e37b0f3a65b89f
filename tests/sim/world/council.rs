//! Metadata without Raft: one list of states for all, which each host sees up to some point. A host that reaches no majority has no leader
//! and agrees on nothing. Who leads is plain: the first host that reaches a majority both ways.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use replication::ProposeError;
use replication::metadata::{Agreement, Command, CommandReply, MetaState};
use tokio::sync::watch;

use super::life::Life;
use super::net::Net;

/// Before a host that found no majority looks again.
const LOOK_MS: u64 = 500;
/// Before whoever proposed looks whether it is seen here.
const SEEN_MS: u64 = 50;

struct Inner {
    /// The newest state.
    state: Arc<MetaState>,
    /// What each host knows: on its disk, and in its present life.
    known: Vec<(Arc<MetaState>, Heard)>,
    /// Hosts that run.
    up: Vec<bool>,
}

/// The version that one life of a host knows, and those who wait for the next. Each has a channel of its own, and they are told in the order in which
/// they came: of several who wait at one, tokio draws who is woken first.
struct Heard {
    version: u64,
    by: Vec<watch::Sender<u64>>,
}

impl Heard {
    fn new(version: u64) -> Self {
        Self { version, by: Vec::new() }
    }

    fn watch(&mut self) -> watch::Receiver<u64> {
        self.by.retain(|one| !one.is_closed());
        let (sender, receiver) = watch::channel(self.version);
        self.by.push(sender);
        receiver
    }

    fn tell(&mut self, version: u64) {
        self.version = version;
        self.by.retain(|one| one.send(version).is_ok());
    }
}

/// All hosts' agreement. Clones share it.
#[derive(Clone)]
pub struct Council {
    inner: Arc<Mutex<Inner>>,
    net: Net,
}

impl Council {
    /// Founded: every host knows this.
    pub fn new(state: MetaState, hosts: usize, net: Net) -> Self {
        let state = Arc::new(state);
        let version = state.version;
        let known = (0..hosts).map(|_| (state.clone(), Heard::new(version))).collect();
        let inner = Inner { state, known, up: vec![false; hosts] };
        Self { inner: Arc::new(Mutex::new(inner)), net }
    }

    /// A host runs, or does not.
    pub fn set_up(&self, host: usize, up: bool) {
        let mut inner = self.inner.lock();
        inner.up[host] = up;
        if up {
            let (state, told) = &mut inner.known[host];
            *told = Heard::new(state.version);
        }
    }

    /// A host that slept runs on.
    pub fn set_up_again(&self, host: usize) {
        self.inner.lock().up[host] = true;
    }

    /// Regions that are declared down, and nodes that are.
    pub fn down(&self) -> Vec<String> {
        let state = self.inner.lock().state.clone();
        let down = state.regions.values().filter(|region| region.state.is_down());
        down.map(|region| region.name.clone()).chain(state.fallen.keys().cloned()).collect()
    }

    /// A host's end of it.
    pub fn chair(&self, life: Arc<Life>) -> Arc<dyn Agreement> {
        Arc::new(Chair { council: self.clone(), life })
    }

    /// Brings a host up to date, if a majority can tell it. True when that was news.
    pub fn tell(&self, host: usize) -> bool {
        if !self.in_majority(host) {
            return false;
        }
        let mut inner = self.inner.lock();
        let newest = inner.state.clone();
        let (state, told) = &mut inner.known[host];
        let news = state.version != newest.version;
        if news {
            *state = newest;
            told.tell(state.version);
        }
        news
    }

    /// Whether the host reaches, both ways, more than half of all.
    fn in_majority(&self, host: usize) -> bool {
        let up = self.inner.lock().up.clone();
        let reaches = |other: &usize| {
            up[*other] && self.net.passes(host, *other) && self.net.passes(*other, host)
        };
        up[host] && (0..up.len()).filter(reaches).count() * 2 > up.len()
    }

    fn leader(&self) -> Option<usize> {
        let hosts = self.inner.lock().up.len();
        (0..hosts).find(|host| self.in_majority(*host))
    }

    fn state(&self, host: usize) -> Arc<MetaState> {
        self.inner.lock().known[host].0.clone()
    }
}

struct Chair {
    council: Council,
    life: Arc<Life>,
}

impl Agreement for Chair {
    fn state(&self) -> Arc<MetaState> {
        self.council.state(self.life.host)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.council.inner.lock().known[self.life.host].1.watch()
    }

    fn leader(&self) -> Option<String> {
        let (council, me) = (&self.council, self.life.host);
        let leader = council.leader()?;
        let hears = council.net.passes(leader, me) && council.net.passes(me, leader);
        // Hosts are in the order of their names.
        hears.then(|| council.state(me).nodes.keys().nth(leader).cloned())?
    }

    fn propose(
        &self,
        command: Command,
        within: Duration,
    ) -> BoxFuture<'static, Result<CommandReply, ProposeError>> {
        let (council, life) = (self.council.clone(), self.life.clone());
        Box::pin(async move {
            let deadline = life.now() + within.as_millis() as u64;
            let reachable = |council: &Council| {
                council.leader().is_some_and(|leader| {
                    let net = &council.net;
                    council.in_majority(life.host)
                        || (net.passes(leader, life.host) && net.passes(life.host, leader))
                })
            };
            while !reachable(&council) {
                if life.now() + LOOK_MS > deadline {
                    return Err(ProposeError::NoLeader);
                }
                life.until(life.now() + LOOK_MS).await;
            }
            let there = council.net.trip(life.host, council.leader().unwrap_or(life.host));
            life.until(life.now() + 2 * there).await;
            if !reachable(&council) {
                return Err(ProposeError::TimedOut);
            }
            let reply = {
                let mut inner = council.inner.lock();
                let mut state = (*inner.state).clone();
                let reply = state.apply(&command).map_err(ProposeError::Refused)?;
                inner.state = Arc::new(state);
                reply
            };
            while council.state(life.host).version < reply.version && life.now() < deadline {
                life.until(life.now() + SEEN_MS).await;
            }
            Ok(reply)
        })
    }
}
