//! The public face of metadata: start, read, propose, watch, status, shutdown.
//!
//! `node::app` starts one [`Metadata`] a process, gives it a [`MetaTransport`], and passes what arrives for it to
//! [`Metadata::handle`]. Everybody else reads [`Metadata::state`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::{ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::given::{self, Agreement};
use super::keeper::{self, Pace};
use super::log::LogStore;
use super::machine::Machine;
use super::net::{MetaTransport, Network};
use super::raft::{Raft, blocking};
use super::shared::{Attempt, Core, MetaStatus};
use super::types::{Command, CommandError, CommandReply, MetaState};
use crate::error::{Error, ProposeError};

/// How a cluster begins. The same on every founding node.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// Raft id and node name of every voter. The first one initialises the cluster and is the first to campaign.
    pub voters: Vec<(u64, String)>,
    /// The first state; see [`MetaState::genesis`]. Its node records must contain the voters; their `voter` flags and
    /// Raft ids are set from [`Genesis::voters`]. Other nodes in it become learners.
    pub state: MetaState,
}

/// Raft's clock. A heartbeat must be answered within one interval to count, so `heartbeat` has to be
/// longer than the longest round trip between two voters. At most a quarter of `election_max` is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Between two heartbeats of the leader.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower campaigns.
    pub election_min: Duration,
    /// The longest. Half of it is the lease: for so long a leader's word counts, and nobody else is voted for.
    pub election_max: Duration,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            heartbeat: Duration::from_millis(1000),
            election_min: Duration::from_millis(4000),
            election_max: Duration::from_millis(6000),
        }
    }
}

/// What [`Metadata::start`] needs to know.
#[derive(Debug, Clone)]
pub struct MetaConfig {
    /// This node's name, as in [`MetaState::nodes`].
    pub node_name: String,
    /// This node's Raft id; at least 1, unique, never used with another disk.
    pub raft_id: u64,
    /// Where `metadata.redb` and `metadata.snapshot` live; made if missing. One process at a time.
    pub dir: PathBuf,
    /// The deployment's name: nodes of another one are not listened to, and its store not opened.
    pub cluster: String,
    /// See [`Timers`].
    pub timers: Timers,
    /// A snapshot after so many entries; the last fifth as many are kept behind it for slow followers.
    pub snapshot_every: u64,
    /// For founding nodes. None: this node waits to be made a member (somebody proposes its [`Command::NodeUp`]).
    pub initial: Option<Genesis>,
    /// Nodes to ask for the leader while none is known; the voters of `initial` are asked anyway.
    pub seeds: Vec<String>,
}

impl MetaConfig {
    /// A configuration with the usual timers, no genesis and no seeds.
    pub fn new(
        node_name: impl Into<String>,
        raft_id: u64,
        dir: impl Into<PathBuf>,
        cluster: impl Into<String>,
    ) -> MetaConfig {
        MetaConfig {
            node_name: node_name.into(),
            raft_id,
            dir: dir.into(),
            cluster: cluster.into(),
            timers: Timers::default(),
            snapshot_every: 5000,
            initial: None,
            seeds: Vec::new(),
        }
    }
}

/// A handle; clones share one Raft node. It stops with [`Metadata::shutdown`], or when the last clone is dropped.
#[derive(Clone)]
pub struct Metadata {
    engine: Engine,
}

/// Who agrees.
#[derive(Clone)]
enum Engine {
    Raft(Arc<Inner>),
    /// Somebody who has been told (the simulator): see [`Agreement`].
    Given(Arc<dyn Agreement>),
}

struct Inner {
    core: Core,
    pace: Pace,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Metadata {
    /// Opens the store, restores the last known state (readable at once, without any peer) and starts Raft.
    pub async fn start(
        config: MetaConfig,
        transport: Arc<dyn MetaTransport>,
    ) -> Result<Metadata, Error> {
        let genesis = config.initial.clone().map(checked).transpose()?;
        let raft_config = Arc::new(raft_config(&config)?);
        let dir = config.dir.clone();
        blocking(move || std::fs::create_dir_all(dir))
            .await
            .map_err(|source| Error::Open { path: config.dir.clone(), source })?;
        let identity = format!("{}/{}", config.cluster, config.raft_id);
        let log = LogStore::open(&config.dir.join("metadata.redb"), &identity).await?;
        let machine = Machine::open(&config.dir.join("metadata.snapshot")).await?;
        let published = machine.published();
        let network = Network {
            transport,
            cluster: config.cluster.clone(),
            me: config.raft_id,
            patience: config.timers.election_min,
        };
        let raft = Raft::new(config.raft_id, raft_config, network.clone(), log, machine).await;
        let raft = raft.map_err(|error| Error::Raft(error.to_string()))?;
        let voters = genesis.iter().flat_map(|genesis| &genesis.voters).map(|(_, name)| name);
        let core = Core {
            raft,
            published,
            network,
            me: config.raft_id,
            name: config.node_name.as_str().into(),
            seeds: config
                .seeds
                .iter()
                .chain(voters)
                .filter(|name| **name != config.node_name)
                .cloned()
                .collect(),
            lease: config.timers.election_max / 2,
            heard: watch::Sender::new(None),
        };
        let pace = Pace {
            kick: config.timers.election_min / 16,
            stagger: config.timers.election_min / 4,
            look: config.timers.heartbeat,
            change: config.timers.election_max,
        };
        let tasks = vec![
            tokio::spawn(keeper::start_up(core.clone(), genesis.clone(), pace)),
            tokio::spawn(keeper::keep(core.clone(), genesis, pace)),
        ];
        let inner = Inner { core, pace, tasks: Mutex::new(tasks) };
        Ok(Metadata { engine: Engine::Raft(Arc::new(inner)) })
    }

    /// Metadata as somebody else agrees on it: no Raft, no files.
    pub fn given(agreement: Arc<dyn Agreement>) -> Metadata {
        Metadata { engine: Engine::Given(agreement) }
    }

    /// Answers another node's call (what its [`MetaTransport::call`] brought here). The future owns what it needs.
    pub fn handle(&self, body: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        match &self.engine {
            Engine::Raft(inner) => {
                let core = inner.core.clone();
                Box::pin(async move { core.handle(body).await })
            }
            Engine::Given(_) => Box::pin(std::future::ready(Vec::new())),
        }
    }

    /// The newest state applied here. A refcount: cheap enough for every stanza.
    pub fn state(&self) -> Arc<MetaState> {
        match &self.engine {
            Engine::Raft(inner) => inner.core.published.state(),
            Engine::Given(given) => given.state(),
        }
    }

    /// Told of every new version of the state; [`Metadata::state`] shows it by then.
    pub fn watch(&self) -> watch::Receiver<u64> {
        match &self.engine {
            Engine::Raft(inner) => inner.core.published.watch(),
            Engine::Given(given) => given.watch(),
        }
    }

    /// The name of the leader, while there is one: not in a minority, not after a lease of silence.
    pub fn leader(&self) -> Option<String> {
        match &self.engine {
            Engine::Raft(inner) => inner.core.leader().and_then(|id| inner.core.member(id)),
            Engine::Given(given) => given.leader(),
        }
    }

    /// For `pangaea ctl` and the admin API.
    pub fn status(&self) -> MetaStatus {
        match &self.engine {
            Engine::Raft(inner) => inner.core.status(),
            Engine::Given(given) => given::status(&**given),
        }
    }

    /// Has a command agreed on, wherever the leader is, and waits until [`Metadata::state`] here shows it. Tries again
    /// while nobody leads, for at most `within`. Cancelling it leaves open whether the command is carried out.
    pub async fn propose(
        &self,
        command: Command,
        within: Duration,
    ) -> Result<CommandReply, ProposeError> {
        match &self.engine {
            Engine::Raft(inner) => inner.propose(command, within).await,
            Engine::Given(given) => given.propose(command, within).await,
        }
    }

    /// Gives a node the vote or takes it, and waits until Raft's membership agrees. A node gets the vote once it has
    /// caught up; the last voter keeps it (the wait then ends with [`ProposeError::TimedOut`]).
    pub async fn set_voter(
        &self,
        node: &str,
        voter: bool,
        within: Duration,
    ) -> Result<(), ProposeError> {
        let deadline = Instant::now() + within;
        self.propose(Command::NodeVoter { name: node.into(), voter }, within).await?;
        self.membership(deadline, |status| status.voters.iter().any(|name| name == node) == voter)
            .await
    }

    /// Forgets a node for good: takes its vote, its membership and its record.
    pub async fn remove_node(&self, node: &str, within: Duration) -> Result<(), ProposeError> {
        let deadline = Instant::now() + within;
        self.propose(Command::NodeRemove { name: node.into() }, within).await?;
        self.membership(deadline, |status| {
            !status.voters.iter().chain(&status.learners).any(|name| name == node)
        })
        .await
    }

    /// Waits until the membership, as seen here, is as asked.
    pub async fn membership(
        &self,
        deadline: Instant,
        is_so: impl Fn(&MetaStatus) -> bool,
    ) -> Result<(), ProposeError> {
        while !is_so(&self.status()) {
            if Instant::now() >= deadline {
                return Err(ProposeError::TimedOut);
            }
            sleep_until((Instant::now() + self.look()).min(deadline)).await;
        }
        Ok(())
    }

    /// If this node leads, asks the most up-to-date other voter to take over; waits a moment for it. Best effort: without
    /// it the others elect after an election timeout.
    pub async fn resign(&self) {
        let Engine::Raft(inner) = &self.engine else { return };
        let core = &inner.core;
        let view = core.view();
        if view.state == ServerState::Leader
            && core.leader() == Some(core.me)
            && core.hand_over(&view).await
        {
            let deadline = Instant::now() + inner.pace.stagger;
            let _ = self.membership(deadline, |status| status.role != "leader").await;
        }
    }

    /// Stops Raft and the tasks, and lets go of the files. Call [`Metadata::resign`] before it when others go on.
    pub async fn shutdown(&self) {
        let Engine::Raft(inner) = &self.engine else { return };
        let tasks =
            std::mem::take(&mut *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        let _ = timeout(inner.pace.change, inner.core.raft.shutdown()).await;
    }

    /// How often whoever waits for a change looks.
    fn look(&self) -> Duration {
        match &self.engine {
            Engine::Raft(inner) => inner.pace.kick / 2,
            Engine::Given(_) => Duration::from_millis(100),
        }
    }
}

impl Inner {
    /// See [`Metadata::propose`].
    async fn propose(
        &self,
        command: Command,
        within: Duration,
    ) -> Result<CommandReply, ProposeError> {
        let core = &self.core;
        let deadline = Instant::now() + within;
        let mut failure = ProposeError::NoLeader;
        let mut round = 0;
        loop {
            let reply =
                match timeout_at(deadline, Box::pin(self.attempt(&command, deadline, round))).await
                {
                    // Founding is on its way: the leader does it first of all.
                    Ok(Attempt::Done(Err(error @ CommandError::NotFounded))) => {
                        failure = ProposeError::Refused(error);
                        None
                    }
                    Ok(Attempt::Done(result)) => Some(result.map_err(ProposeError::Refused)?),
                    Ok(Attempt::Stopped(why)) => return Err(ProposeError::Stopped(why)),
                    Ok(Attempt::NotLeader(_)) => None,
                    Ok(Attempt::Unknown) => {
                        failure = ProposeError::TimedOut;
                        None
                    }
                    Err(_) => return Err(ProposeError::TimedOut),
                };
            if let Some(reply) = reply {
                let mut version = core.published.watch();
                let _ = timeout_at(deadline, version.wait_for(|version| *version >= reply.version))
                    .await;
                return Ok(reply);
            }
            let again = Instant::now() + self.pace.kick / 2;
            if again >= deadline {
                return Err(failure);
            }
            sleep_until(again).await;
            round += 1;
        }
    }

    /// One try: here if we lead, else at the leader; with no leader known, at one of the nodes we know, in turn.
    async fn attempt(&self, command: &Command, deadline: Instant, round: usize) -> Attempt {
        let core = &self.core;
        let within = deadline.saturating_duration_since(Instant::now()).min(self.pace.change);
        match core.leader() {
            Some(leader) if leader == core.me => core.propose_here(command.clone()).await,
            Some(leader) => match core.member(leader) {
                Some(node) => core.propose_at(&node, command, within).await,
                None => Attempt::NotLeader(None),
            },
            None if core.seeds.is_empty() => Attempt::NotLeader(None),
            None => {
                match core.propose_at(&core.seeds[round % core.seeds.len()], command, within).await
                {
                    Attempt::NotLeader(Some(node)) if *node != *core.name => {
                        core.propose_at(&node, command, within).await
                    }
                    other => other,
                }
            }
        }
    }
}

/// The genesis with its node records saying who votes, or what is wrong with it.
fn checked(mut genesis: Genesis) -> Result<Genesis, Error> {
    if genesis.voters.is_empty() {
        return Err(Error::Config("the genesis names no voter".into()));
    }
    genesis.state.nodes.values_mut().for_each(|node| node.voter = false);
    for (id, name) in &genesis.voters {
        let node = genesis.state.nodes.get_mut(name);
        let node = node.ok_or_else(|| {
            Error::Config(format!("the genesis has no record of its voter {name:?}"))
        })?;
        (node.voter, node.raft_id) = (true, *id);
    }
    Ok(genesis)
}

fn raft_config(config: &MetaConfig) -> Result<openraft::Config, Error> {
    if config.raft_id == 0 {
        return Err(Error::Config("a Raft id must be at least 1".into()));
    }
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // openraft's maximum is the lease too, and a follower campaigns after the lease *and* its timeout.
    let Timers { election_min, election_max, .. } = config.timers;
    let lease = election_max / 2;
    let heartbeat = config.timers.heartbeat.min(election_max / 4);
    let shortest = election_min.saturating_sub(lease).max(heartbeat * 3 / 2);
    let raft_config = openraft::Config {
        cluster_name: config.cluster.clone(),
        heartbeat_interval: ms(heartbeat),
        election_timeout_min: ms(shortest),
        election_timeout_max: ms(lease),
        install_snapshot_timeout: 60_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every.max(1)),
        max_in_snapshot_log_to_keep: config.snapshot_every / 5,
        replication_lag_threshold: config.snapshot_every.max(1) + config.snapshot_every / 5,
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(false),
        ..openraft::Config::default()
    };
    raft_config.validate().map_err(|error| Error::Config(error.to_string()))
}
