//! Metadata as a cluster: several nodes in one process, joined by a transport that can be cut, on paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::time::Instant;

use super::log::LogStore;
use super::machine::Machine;
use super::raft::Types;
use super::*;
use crate::error::{Error, ProposeError};

const MINUTE: Duration = Duration::from_secs(60);

/// The wires between the nodes. A call over a cut wire hangs, as over a link that nobody has closed yet.
#[derive(Default)]
struct Hub {
    nodes: Mutex<BTreeMap<String, Metadata>>,
    cut: Mutex<BTreeSet<(String, String)>>,
    delay: Mutex<Duration>,
}

struct Wire {
    hub: Arc<Hub>,
    me: String,
}

impl MetaTransport for Wire {
    fn call<'a>(&'a self, target: &'a str, body: Vec<u8>) -> BoxFuture<'a, io::Result<Vec<u8>>> {
        Box::pin(async move {
            let there = (self.me.clone(), target.to_owned());
            let back = (target.to_owned(), self.me.clone());
            let delay = *self.hub.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            if self.hub.cut.lock().unwrap().contains(&there) {
                std::future::pending::<()>().await;
            }
            let node = self.hub.nodes.lock().unwrap().get(target).cloned();
            let answer = node.ok_or(io::ErrorKind::ConnectionRefused)?.handle(body).await;
            tokio::time::sleep(delay).await;
            if self.hub.cut.lock().unwrap().contains(&back) {
                std::future::pending::<()>().await;
            }
            Ok(answer)
        })
    }
}

/// Regions `eu`, `us`, `ap` with one founding voter each (`eu-0` is Raft id 1, …); others can join.
struct Cluster {
    hub: Arc<Hub>,
    dir: TempDir,
    snapshot_every: u64,
}

const FOUNDERS: [&str; 3] = ["eu-0", "us-0", "ap-0"];

fn record(name: &str, raft_id: u64) -> NodeRecord {
    NodeRecord {
        region: name[..2].into(),
        node: 0,
        raft_id,
        address: format!("{name}:5269"),
        fingerprint: "00".into(),
        voter: false,
        incarnation: 1,
    }
}

fn genesis() -> Genesis {
    let ids = || FOUNDERS.iter().zip(1u64..);
    let regions = FOUNDERS.map(|name| Region::up(&name[..2]));
    let nodes = ids().map(|(name, id)| ((*name).to_owned(), record(name, id)));
    let domains = [("chat.example".to_owned(), Domain { kind: DomainKind::Global })];
    Genesis {
        voters: ids().map(|(name, id)| (id, (*name).to_owned())).collect(),
        state: MetaState::genesis(regions, nodes, domains),
    }
}

impl Cluster {
    fn new() -> Cluster {
        Cluster { hub: Arc::default(), dir: tempfile::tempdir().unwrap(), snapshot_every: 5000 }
    }

    fn config(&self, name: &str) -> MetaConfig {
        let founder = FOUNDERS.iter().position(|founder| *founder == name);
        let raft_id = founder.map_or(9, |place| place as u64 + 1);
        let mut config = MetaConfig::new(name, raft_id, self.dir.path().join(name), "test");
        config.initial = founder.map(|_| genesis());
        config.seeds = FOUNDERS.map(str::to_owned).to_vec();
        config.snapshot_every = self.snapshot_every;
        config
    }

    async fn start(&self, name: &str) -> Metadata {
        let wire = Wire { hub: self.hub.clone(), me: name.into() };
        let node = Metadata::start(self.config(name), Arc::new(wire)).await.expect("starts");
        self.hub.nodes.lock().unwrap().insert(name.into(), node.clone());
        node
    }

    async fn stop(&self, name: &str) {
        let node = self.hub.nodes.lock().unwrap().remove(name);
        node.expect("runs").shutdown().await;
    }

    /// All founders, founded and agreed.
    async fn founded() -> Cluster {
        let cluster = Cluster::new();
        cluster.start_founders().await;
        cluster
    }

    async fn start_founders(&self) {
        for name in FOUNDERS {
            self.start(name).await;
        }
        self.agree(|state| state.version > 0).await;
    }

    fn node(&self, name: &str) -> Metadata {
        self.hub.nodes.lock().unwrap()[name].clone()
    }

    fn nodes(&self) -> Vec<Metadata> {
        self.hub.nodes.lock().unwrap().values().cloned().collect()
    }

    /// Waits until every running node's state is so.
    async fn agree(&self, is_so: impl Fn(&MetaState) -> bool) {
        for node in self.nodes() {
            let mut version = node.watch();
            let so = version.wait_for(|_| is_so(&node.state()));
            tokio::time::timeout(MINUTE, so).await.expect("agreed in time").expect("runs");
        }
    }

    /// Waits until every node named (all if none is) sees the same leader, one of those `allowed`; answers its name.
    async fn leader(&self, among: &[&str], allowed: &[&str]) -> String {
        let nodes: Vec<Metadata> = match among {
            [] => self.nodes(),
            names => names.iter().map(|name| self.node(name)).collect(),
        };
        let deadline = Instant::now() + MINUTE;
        loop {
            let mut leaders: Vec<Option<String>> = nodes.iter().map(Metadata::leader).collect();
            leaders.dedup();
            match &leaders[..] {
                [Some(leader)] if allowed.contains(&leader.as_str()) => return leader.clone(),
                _ => assert!(Instant::now() < deadline, "no common leader: {leaders:?}"),
            }
            let soon = Instant::now() + Duration::from_millis(20);
            let _ = nodes[0].membership(soon, |_| false).await;
        }
    }

    fn isolate(&self, name: &str) {
        let mut cut = self.hub.cut.lock().unwrap();
        for other in self.hub.nodes.lock().unwrap().keys().filter(|other| *other != name) {
            cut.insert((name.into(), other.clone()));
            cut.insert((other.clone(), name.into()));
        }
    }

    fn heal(&self) {
        self.hub.cut.lock().unwrap().clear();
    }
}

fn others(name: &str) -> Vec<&'static str> {
    FOUNDERS.into_iter().filter(|other| *other != name).collect()
}

fn add_domain(name: &str) -> Command {
    Command::DomainAdd { name: name.into(), domain: Domain { kind: DomainKind::Global } }
}

#[tokio::test(start_paused = true)]
async fn three_founders_have_a_leader_and_a_state_within_two_seconds() {
    let began = Instant::now();
    let cluster = Cluster::founded().await;
    assert_eq!(cluster.leader(&[], &["eu-0"]).await, "eu-0");
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
    let state = cluster.node("ap-0").state();
    assert_eq!((state.version, state.homes.len(), state.regions.len()), (1, SHARDS, 3));
    assert!(state.nodes.values().all(|node| node.voter));
}

#[tokio::test(start_paused = true)]
async fn founders_that_start_late_and_far_away_still_found() {
    let cluster = Cluster::new();
    *cluster.hub.delay.lock().unwrap() = Duration::from_millis(400);
    cluster.start("us-0").await;
    cluster.start("eu-0").await;
    let alone = cluster.node("eu-0").propose(add_domain("a"), Duration::from_secs(20)).await;
    assert!(alone.is_ok(), "{alone:?}");
    cluster.start("ap-0").await;
    cluster.agree(|state| state.domains.contains_key("a")).await;
}

#[tokio::test(start_paused = true)]
async fn a_proposal_made_on_a_follower_is_carried_out_and_seen_there() {
    let cluster = Cluster::founded().await;
    let follower = cluster.node("us-0");
    let reply = follower.propose(add_domain("us.example"), MINUTE).await.unwrap();
    assert!(follower.state().version >= reply.version);
    assert!(follower.state().domains.contains_key("us.example"));
    cluster.agree(|state| state.domains.contains_key("us.example")).await;
    let refused = follower
        .propose(Command::MoveHome { shard: 0, to: "mars".into(), epoch: None }, MINUTE)
        .await;
    assert_eq!(refused, Err(ProposeError::Refused(CommandError::UnknownRegion("mars".into()))));
}

#[tokio::test(start_paused = true)]
async fn an_isolated_leader_is_replaced_and_follows_when_it_returns() {
    let cluster = Cluster::founded().await;
    let old = cluster.leader(&[], &FOUNDERS).await;
    cluster.isolate(&old);
    let began = Instant::now();
    let rest = others(&old);
    let new = cluster.leader(&rest, &rest).await;
    assert!(began.elapsed() < Duration::from_secs(8), "took {:?}", began.elapsed());
    let down = Command::RegionState { region: old[..2].into(), state: RegionState::Down };
    let reply = cluster.node(rest[0]).propose(down, MINUTE).await.unwrap();
    assert!(!reply.moved.is_empty());
    let alone = cluster.node(&old).propose(add_domain("lost"), Duration::from_secs(10)).await;
    assert!(matches!(alone, Err(ProposeError::NoLeader | ProposeError::TimedOut)), "{alone:?}");
    assert_eq!(cluster.node(&old).leader(), None);
    cluster.heal();
    cluster.leader(&[], &[&new]).await;
    let region = old[..2].to_owned();
    cluster.agree(|state| state.region_state(&region) == RegionState::Down).await;
    assert!(!cluster.node(&old).state().domains.contains_key("lost"));
}

#[tokio::test(start_paused = true)]
async fn an_isolated_follower_does_not_raise_the_term() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader(&[], &FOUNDERS).await;
    let term = cluster.node(&leader).status().term;
    let follower = others(&leader)[0];
    cluster.isolate(follower);
    let _ = cluster.node(follower).membership(Instant::now() + MINUTE, |_| false).await;
    assert_eq!(cluster.node(follower).status().term, term);
    assert_eq!(cluster.node(follower).leader(), None);
    cluster.heal();
    cluster.leader(&[], &[&leader]).await;
    assert_eq!(cluster.node(follower).status().term, term);
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_a_proposal_is_refused_with_a_clear_error() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader(&[], &FOUNDERS).await;
    let follower = others(&leader)[0];
    cluster.isolate(follower);
    let _ = cluster
        .node(follower)
        .membership(Instant::now() + MINUTE, |status| status.leader.is_none())
        .await;
    cluster.hub.nodes.lock().unwrap().retain(|name, _| name == follower);
    let refused = cluster.node(follower).propose(add_domain("a"), Duration::from_secs(3)).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader | ProposeError::TimedOut)), "{refused:?}");
    assert_eq!(cluster.node(follower).state().version, 1, "what was agreed can still be read");
}

#[tokio::test(start_paused = true)]
async fn a_whole_restart_keeps_the_state_and_leads_within_two_seconds() {
    let cluster = Cluster::founded().await;
    cluster.node("eu-0").propose(add_domain("kept"), MINUTE).await.unwrap();
    cluster.agree(|state| state.domains.contains_key("kept")).await;
    let _ =
        cluster.node("eu-0").membership(Instant::now() + Duration::from_secs(2), |_| false).await;
    for name in FOUNDERS {
        cluster.stop(name).await;
    }
    let alone = cluster.start("us-0").await;
    assert!(alone.state().domains.contains_key("kept"), "readable without any peer");
    let began = Instant::now();
    cluster.start("ap-0").await;
    cluster.start("eu-0").await;
    let leader = cluster.leader(&[], &FOUNDERS).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{leader} leads after {:?}", began.elapsed());
    cluster.node("ap-0").propose(add_domain("new"), MINUTE).await.unwrap();
    cluster.agree(|state| state.domains.contains_key("new")).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_the_old_leader_does_not_wait_an_election_timeout() {
    let cluster = Cluster::founded().await;
    let old = cluster.leader(&[], &FOUNDERS).await;
    for name in FOUNDERS {
        cluster.stop(name).await;
    }
    let began = Instant::now();
    let rest = others(&old);
    for name in &rest {
        cluster.start(name).await;
    }
    cluster.leader(&[], &rest).await;
    assert!(began.elapsed() < Duration::from_secs(3), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_resigns_hands_over_at_once() {
    let cluster = Cluster::founded().await;
    let old = cluster.leader(&[], &FOUNDERS).await;
    let began = Instant::now();
    cluster.node(&old).resign().await;
    cluster.leader(&[], &others(&old)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_node_learns_by_snapshot_gets_the_vote_and_is_removed() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every = 20;
    cluster.start_founders().await;
    for i in 0..60 {
        cluster.node("us-0").propose(add_domain(&format!("d{i}")), MINUTE).await.unwrap();
    }
    let joiner = cluster.start("eu-1").await;
    joiner
        .propose(Command::NodeUp { name: "eu-1".into(), record: record("eu-1", 9) }, MINUTE)
        .await
        .unwrap();
    cluster.agree(|state| state.domains.len() == 61 && state.nodes.contains_key("eu-1")).await;
    assert!(joiner.status().snapshot.is_some(), "{:?}", joiner.status());
    assert_eq!(joiner.status().learners, ["eu-1"]);

    joiner.set_voter("eu-1", true, MINUTE).await.unwrap();
    assert_eq!(joiner.status().voters.len(), 4);
    let old = cluster.leader(&[], &FOUNDERS).await;
    cluster.node("us-0").remove_node("eu-1", MINUTE).await.unwrap();
    assert_eq!(cluster.node("us-0").status().voters.len(), 3);
    cluster.leader(&FOUNDERS, &[&old]).await;
}

#[tokio::test(start_paused = true)]
async fn removing_the_leader_leaves_the_others_with_a_new_one() {
    let cluster = Cluster::founded().await;
    let old = cluster.leader(&[], &FOUNDERS).await;
    let rest = others(&old);
    cluster.node(rest[0]).set_voter(&old, false, MINUTE).await.unwrap();
    cluster.leader(&rest, &rest).await;
    cluster.node(rest[1]).propose(add_domain("after"), MINUTE).await.unwrap();
    cluster.agree(|state| state.domains.contains_key("after")).await;
}

#[tokio::test(start_paused = true)]
async fn the_leader_knows_how_far_behind_each_member_is() {
    let cluster = Cluster::founded().await;
    let leader = cluster.leader(&[], &FOUNDERS).await;
    let behind = others(&leader)[1];
    cluster.isolate(behind);
    for i in 0..5 {
        cluster.node(&leader).propose(add_domain(&format!("d{i}")), MINUTE).await.unwrap();
    }
    let status = cluster.node(&leader).status();
    assert_eq!((status.role.as_str(), status.voters.len()), ("leader", 3));
    assert!(status.lag[behind] >= 5, "{status:?}");
    assert!(cluster.node(behind).status().lag.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_node_alone_founds_and_leads() {
    let cluster = Cluster::new();
    let mut config = cluster.config("eu-0");
    let mut first = genesis();
    first.voters.truncate(1);
    first.state =
        MetaState::genesis([Region::up("eu")], [("eu-0".to_owned(), record("eu-0", 1))], []);
    (config.initial, config.seeds) = (Some(first), Vec::new());
    let wire = || Arc::new(Wire { hub: cluster.hub.clone(), me: "eu-0".into() });
    let began = Instant::now();
    let node = Metadata::start(config.clone(), wire()).await.unwrap();
    node.propose(add_domain("a"), MINUTE).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    assert_eq!(node.leader().as_deref(), Some("eu-0"));
    node.shutdown().await;
    drop(node);
    let node = Metadata::start(config, wire()).await.unwrap();
    assert_eq!(node.state().version, 2);
}

#[tokio::test(start_paused = true)]
async fn the_store_of_another_cluster_is_not_opened() {
    let cluster = Cluster::founded().await;
    cluster.stop("eu-0").await;
    let mut config = cluster.config("eu-0");
    config.cluster = "another".into();
    let wire = Wire { hub: cluster.hub.clone(), me: "eu-0".into() };
    let refused = Metadata::start(config, Arc::new(wire)).await;
    assert!(matches!(refused, Err(Error::Identity { .. })));
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_answered_not_followed() {
    let cluster = Cluster::founded().await;
    for body in [Vec::new(), vec![1], vec![99; 40]] {
        assert!(!cluster.node("eu-0").handle(body).await.is_empty());
    }
}

struct Files;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Files {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(&dir.path().join("metadata.redb"), "test/0").await.unwrap();
        let machine = Machine::open(&dir.path().join("metadata.snapshot")).await.unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn the_store_passes_the_suite_of_openraft() {
    Suite::test_all(Files).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_long_round_trips_stays_leader() {
    let cluster = Cluster::new();
    *cluster.hub.delay.lock().unwrap() = Duration::from_millis(400);
    cluster.start_founders().await;
    let first = cluster.leader(&[], &FOUNDERS).await;
    let term = cluster.node(&first).status().term;
    for _ in 0..2000 {
        let _ = cluster
            .node(&first)
            .membership(Instant::now() + Duration::from_millis(100), |_| false)
            .await;
        for node in cluster.nodes() {
            assert_eq!(node.leader().as_deref(), Some(&*first));
        }
    }
    assert_eq!(cluster.node(&first).status().term, term);
}
