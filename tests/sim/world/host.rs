//! A machine with a node on it: its disk, its clock, and the lives its process has. Each life is a tokio runtime with a paused clock, in which
//! the real node is assembled and run. The harness gives it time in small portions; killed, the runtime is dropped; paused, it is given none.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use config::Config;
use global_distrib::Hashing;
use node::app::{self, Node, Parts, World};
use node::certs::Authority;
use node::session;
use node::transport::tcp::{Accepted, Gate, GateLimits};
use node::transport::tls::Pair;
use node::transport::{TlsAcceptor, Transport};
use parking_lot::Mutex;
use s2s::link::{PeerId, Road};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio::time::Duration;

use super::abroad::{self, Abroad};
use super::chance::Chance;
use super::council::Council;
use super::disk::{Disk, Mounted};
use super::life::{Life, wall_at};
use super::net::{Incoming, Net, Party};
use super::story::Speaking;
use super::wire::{Dials, Wire};

/// See the module.
pub struct Host {
    /// Its number.
    pub ix: usize,
    /// Its node's name.
    pub name: String,
    /// What survives.
    pub disk: Arc<Disk>,
    /// How wrong its wall clock is.
    pub skew_ms: Arc<AtomicI64>,
    /// Lives so far.
    pub lives: u64,
    config: Config,
    names: Arc<Vec<PeerId>>,
    net: Net,
    council: Council,
    seed: u64,
    abroad: Option<Abroad>,
    process: Option<Process>,
    /// Since when it sleeps.
    paused: Option<u64>,
}

struct Process {
    runtime: Runtime,
    life: Arc<Life>,
    node: Arc<OnceLock<Arc<Node>>>,
    /// To be told to stop in order.
    stop: Arc<Notify>,
    /// It has stopped, and may be dropped.
    stopped: Arc<AtomicBool>,
}

/// What all hosts of one simulation have in common.
#[derive(Clone)]
pub struct Common {
    /// The network.
    pub net: Net,
    /// The agreement.
    pub council: Council,
    /// The hosts' names, in order.
    pub names: Arc<Vec<PeerId>>,
    /// The seed.
    pub seed: u64,
    /// Other domains, if people write to any.
    pub abroad: Option<Abroad>,
}

impl Host {
    /// A machine that is off.
    pub fn new(ix: usize, config: Config, disk: Arc<Disk>, common: &Common) -> Self {
        Self {
            ix,
            name: common.names[ix].to_string(),
            disk,
            skew_ms: Arc::new(AtomicI64::new(0)),
            lives: 0,
            config,
            names: common.names.clone(),
            net: common.net.clone(),
            council: common.council.clone(),
            seed: common.seed,
            abroad: common.abroad.clone(),
            process: None,
            paused: None,
        }
    }

    /// Whether its process exists.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it sleeps.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Its node, once it is assembled.
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.process.as_ref()?.node.get()
    }

    /// Starts a life. The node is assembled as time is given.
    pub fn start(&mut self, now: u64) {
        assert!(self.process.is_none(), "one life at a time");
        self.lives += 1;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let life = {
            let _inside = runtime.enter();
            Life::begin(self.ix, now, self.skew_ms.clone())
        };
        let wall = wall_at(now, self.skew_ms.load(Ordering::Relaxed));
        let chance = Chance::part(self.seed, "node", (self.ix as u64) << 32 | self.lives);
        let parts = Parts {
            config: self.config.clone(),
            incarnation: self.disk.next_incarnation(wall),
            fingerprint: fingerprint(self.ix),
            tls: tls(),
            storage: Arc::new(Mounted::new(self.disk.clone(), life.clone())),
            agreement: Some(self.council.chair(life.clone())),
            world: world(&life, chance),
        };
        let (listener, incoming) = mpsc::unbounded_channel();
        self.net.listen(self.ix, Some(listener));
        self.council.set_up(self.ix, true);
        let node = Arc::new(OnceLock::new());
        let dials = Dials { net: self.net.clone(), life: life.clone(), names: self.names.clone() };
        let part = (self.ix as u64) << 32 | self.lives;
        let abroad = self.abroad.clone().map(|all| (all, Chance::part(self.seed, "abroad", part)));
        let (stop, stopped) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let running = Running {
            net: self.net.clone(),
            life: life.clone(),
            node: node.clone(),
            abroad,
            stop: stop.clone(),
            stopped: stopped.clone(),
        };
        runtime.spawn(running.run(parts, dials, incoming));
        self.process = Some(Process { runtime, life, node, stop, stopped });
    }

    /// Lets it live until then.
    pub fn run(&mut self, until: u64) {
        let Some(process) = &self.process else { return };
        if self.paused.is_some() {
            return;
        }
        let _speaking = Speaking::of(&self.name, &process.life);
        process.runtime.block_on(process.life.until(until));
    }

    /// Its process is killed: what it had in memory is gone. `silent`: the machine went with it, and nobody is told.
    pub fn kill(&mut self, silent: bool, now: u64) {
        let Some(process) = self.process.take() else { return };
        self.paused = None;
        process.life.end();
        self.net.kill(self.ix, silent, now);
        self.council.set_up(self.ix, false);
        drop(process);
    }

    /// SIGTERM: it drains, and is dropped when [`Host::has_stopped`].
    pub fn stop(&mut self) {
        if let Some(process) = &self.process {
            process.stop.notify_one();
        }
    }

    /// Whether its process has come to its orderly end.
    pub fn has_stopped(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.stopped.load(Ordering::Relaxed))
    }

    /// SIGSTOP.
    pub fn pause(&mut self, now: u64) {
        if self.process.is_some() {
            self.paused = Some(now);
            self.council.set_up(self.ix, false);
        }
    }

    /// SIGCONT: its clock has gone on.
    pub fn wake(&mut self, now: u64) {
        let (Some(process), Some(since)) = (&self.process, self.paused.take()) else { return };
        self.council.set_up_again(self.ix);
        let _speaking = Speaking::of(&self.name, &process.life);
        process.runtime.block_on(tokio::time::advance(Duration::from_millis(now - since)));
    }

    /// Does something in its runtime, without giving it time.
    pub fn within<T>(&self, act: impl FnOnce(&Arc<Node>) -> T) -> Option<T> {
        let process = self.process.as_ref()?;
        let node = process.node.get()?;
        let _inside = process.runtime.enter();
        Some(act(node))
    }
}

/// What a life does besides its node: take connections.
struct Running {
    net: Net,
    life: Arc<Life>,
    node: Arc<OnceLock<Arc<Node>>>,
    abroad: Option<(Abroad, Chance)>,
    stop: Arc<Notify>,
    stopped: Arc<AtomicBool>,
}

impl Running {
    async fn run(self, parts: Parts, dials: Dials, mut incoming: UnboundedReceiver<Incoming>) {
        let node = app::assemble(parts).await.expect("a simulated node can always begin");
        if let Some((abroad, chance)) = self.abroad {
            abroad::begin(&node, abroad, self.life.clone(), chance);
        }
        app::start_links(&node, Road::Bare(Arc::new(dials))).expect("a bare road needs nothing");
        let mut tasks = JoinSet::new();
        app::housekeeping(&node, &mut tasks);
        assert!(self.node.set(node.clone()).is_ok(), "a life has one node");
        let gate = Gate::new(GateLimits::default());
        loop {
            let Incoming { conn, from, at } = tokio::select! {
                biased;
                () = self.stop.notified() => break,
                Some(incoming) = incoming.recv() => incoming,
                else => return,
            };
            let wire = Wire::new(self.net.clone(), conn, 1, self.life.clone(), from);
            let (node, life, gate) = (node.clone(), self.life.clone(), gate.clone());
            tokio::spawn(async move {
                life.until(at).await;
                match from {
                    Party::Host(_) => {
                        if let Some(links) = node.geo.links() {
                            links.accept_bare(Box::new(wire));
                        }
                    }
                    Party::Device(device) => {
                        let peer = super::wire::address_of(device);
                        let Some(admission) = gate.admit(peer.ip()) else { return };
                        let transport = Transport::other(Box::new(wire));
                        session::serve(node, Accepted { transport, peer, admission }, false).await;
                    }
                }
            });
        }
        self.net.listen(self.life.host, None);
        app::drain(&node, tasks).await;
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn world(life: &Arc<Life>, mut chance: Chance) -> World {
    let hashing = Hashing::with_seed(chance.draw(), foldhash::SharedSeed::global_fixed());
    let chance = Mutex::new(chance);
    let clock = life.clone();
    World {
        wall: Arc::new(move || clock.wall()),
        chance: Arc::new(move |bytes| {
            let mut chance = chance.lock();
            bytes.iter_mut().for_each(|byte| *byte = chance.draw() as u8);
        }),
        hashing,
    }
}

/// Nobody speaks TLS here, but a node has a certificate: one for all.
fn tls() -> TlsAcceptor {
    static TLS: OnceLock<TlsAcceptor> = OnceLock::new();
    let made = TLS.get_or_init(|| {
        let leaf = Authority::new("sim").and_then(|all| all.issue(&["chat.example".to_owned()]));
        let leaf = leaf.expect("a certificate");
        let pair = Pair::from_pem(leaf.chain.as_bytes(), leaf.key.as_bytes()).expect("a pair");
        TlsAcceptor::new(vec![pair], false).expect("TLS")
    });
    made.clone()
}

/// Of a certificate nobody ever sees.
pub fn fingerprint(host: usize) -> String {
    format!("{:02x}", host + 1).repeat(32)
}
