//! Several homes in one process, for tests: an in-memory way between them that can be cut, metadata by hand, and a few
//! operations.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use replication::{Change, shard_of};
use xmpp::{BareJid, Condition, StanzaError};

use super::wire::{self, Ship};
use super::{
    Applied, AppliedAt, CallError, HomeError, HomeMap, HomeOp, HomePlace, HomeTransport, Homes,
    HomesConfig, HomesParts, MoveSaid, Moved, ShipSink, Tx, Unsent,
};
use crate::storage::{Row, Storage};

/// Metadata: the home of each shard, and its epoch.
pub(super) struct World {
    homes: Mutex<HashMap<u8, (String, u64)>>,
    pins: Mutex<HashMap<String, String>>,
    otherwise: String,
    watching: Mutex<Vec<Homes>>,
}

impl World {
    /// Everything is homed in `otherwise`, epoch 1.
    pub(super) fn new(otherwise: &str) -> Arc<World> {
        let otherwise = otherwise.to_owned();
        let (homes, pins, watching) = Default::default();
        Arc::new(World { homes, pins, otherwise, watching })
    }

    /// An account that lives there wherever its shard does, from the beginning.
    pub(super) fn pin(&self, account: &str, to: &str) {
        self.pins.lock().insert(account.to_owned(), to.to_owned());
    }

    /// Gives an account's shard another home.
    pub(super) fn move_home(&self, account: &str, to: &str) {
        self.move_shard(shard_of(account), to);
    }

    fn move_shard(&self, shard: u8, to: &str) {
        let epoch = self.at(shard).1 + 1;
        self.homes.lock().insert(shard, (to.to_owned(), epoch));
        self.watching.lock().iter().for_each(Homes::metadata_changed);
    }

    /// The home of an account, and its epoch.
    pub(super) fn place(&self, account: &str) -> (String, u64) {
        self.at(shard_of(account))
    }

    fn at(&self, shard: u8) -> (String, u64) {
        self.homes.lock().get(&shard).cloned().unwrap_or((self.otherwise.clone(), 1))
    }
}

/// Who is at `eu.chat.example` is at home there.
fn own_region(owner: &str) -> Option<&str> {
    owner.split_once('@')?.1.strip_suffix(".chat.example")
}

/// One region's view of it.
struct View {
    me: String,
    world: Arc<World>,
}

impl HomeMap for View {
    fn home(&self, owner: &str) -> HomePlace {
        let pinned = self.world.pins.lock().get(owner).cloned();
        match own_region(owner).map(str::to_owned).or(pinned) {
            Some(region) => {
                HomePlace { local: region == self.me, region: region.as_str().into(), epoch: 1 }
            }
            None => self.shard(shard_of(owner)),
        }
    }

    fn is_apart(&self, owner: &str) -> bool {
        own_region(owner).is_some()
    }

    fn pins(&self) -> BTreeSet<String> {
        let all = self.world.pins.lock();
        all.iter().filter(|(_, at)| **at == self.me).map(|(account, _)| account.clone()).collect()
    }

    fn shard(&self, shard: u8) -> HomePlace {
        let (region, epoch) = self.world.at(shard);
        HomePlace { local: region == self.me, region: region.into(), epoch }
    }

    fn heir(&self, owner: &str) -> Option<Arc<str>> {
        let home = self.home(owner).region;
        ["us", "eu"].into_iter().find(|region| **region != *home).map(Into::into)
    }

    fn move_home(&self, what: &Moved, epoch: u64, to: &str) -> BoxFuture<'static, MoveSaid> {
        if to == "mars" {
            return async { MoveSaid::Refused("no such region".to_owned()) }.boxed();
        }
        let Moved::Shard(shard) = *what else { unreachable!("only shards are moved here") };
        if self.shard(shard).epoch != epoch {
            return async { MoveSaid::Refused("another epoch".to_owned()) }.boxed();
        }
        self.world.move_shard(shard, to);
        async { MoveSaid::Moved }.boxed()
    }
}

type Way = (String, String);

/// The ways between regions.
#[derive(Default)]
pub(super) struct Net {
    nodes: Mutex<HashMap<String, Homes>>,
    cut: Mutex<HashSet<Way>>,
    held: Mutex<HashMap<Way, VecDeque<Vec<u8>>>>,
    /// On these ways entries vanish, and nothing else.
    mute: Mutex<HashSet<Way>>,
    /// So many answers are lost after the work is done.
    pub(super) lose_answers: AtomicUsize,
    /// So many durable-log messages vanish.
    pub(super) lose_batches: AtomicUsize,
    /// Durable-log messages that arrived.
    pub(super) messages: AtomicUsize,
}

impl Net {
    /// Nothing passes any more; durable-log messages are held.
    pub(super) fn cut(&self, from: &str, to: &str) {
        self.cut.lock().insert((from.to_owned(), to.to_owned()));
    }

    /// Entries vanish on the way from now on, or do no more.
    pub(super) fn mutes(&self, from: &str, to: &str, mutes: bool) {
        let (mut all, way) = (self.mute.lock(), (from.to_owned(), to.to_owned()));
        let _ = if mutes { all.insert(way) } else { all.remove(&way) };
    }

    /// What was held arrives, later messages pass again.
    pub(super) fn heal(&self, from: &str, to: &str) {
        let way = (from.to_owned(), to.to_owned());
        self.cut.lock().remove(&way);
        let held = self.held.lock().remove(&way).unwrap_or_default();
        held.into_iter().for_each(|bytes| self.deliver(from, to, bytes));
        self.node(from).into_iter().for_each(|homes| homes.room(to));
    }

    /// What was held is lost: the link's incarnation has ended.
    pub(super) fn forget(&self, from: &str, to: &str) {
        self.held.lock().remove(&(from.to_owned(), to.to_owned()));
        self.heal(from, to);
    }

    /// The link between two regions comes up.
    pub(super) fn up(&self, one: &str, other: &str) {
        let (a, b) = (self.node(one), self.node(other));
        a.into_iter().for_each(|homes| homes.peer_up(other));
        b.into_iter().for_each(|homes| homes.peer_up(one));
    }

    fn node(&self, region: &str) -> Option<Homes> {
        self.nodes.lock().get(region).cloned()
    }

    fn deliver(&self, from: &str, to: &str, bytes: Vec<u8>) {
        let is_mute = self.mute.lock().contains(&(from.to_owned(), to.to_owned()));
        if is_mute && matches!(wire::decode(&bytes), Some(Ship::Batch { .. })) {
            return;
        }
        let lost = |left: &AtomicUsize| {
            left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
        };
        if let Some(homes) = self.node(to).filter(|_| !lost(&self.lose_batches)) {
            self.messages.fetch_add(1, Ordering::Relaxed);
            homes.shipped(from, &bytes);
        }
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.lock().contains(&(from.to_owned(), to.to_owned()))
    }
}

/// One region's end of the ways.
struct End {
    me: String,
    net: Arc<Net>,
}

impl HomeTransport for End {
    fn call<'a>(
        &'a self,
        region: &'a str,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        async move {
            let Some(homes) = self.net.node(region) else { return Err(CallError::Unreachable) };
            if self.net.is_cut(&self.me, region) {
                return Err(CallError::Lost);
            }
            let answer = homes.serve(&self.me, &body).await;
            let left = &self.net.lose_answers;
            let lost = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
            if lost.is_ok() || self.net.is_cut(region, &self.me) {
                return Err(CallError::Lost);
            }
            Ok(answer)
        }
        .boxed()
    }
}

impl super::FeedSink for End {
    fn send_feed(&self, _: &str, _: Vec<u8>) -> Result<(), Unsent> {
        unreachable!("one node a region")
    }
}

impl ShipSink for End {
    fn send_batch(&self, region: &str, bytes: Vec<u8>) -> Result<(), Unsent> {
        if self.net.is_cut(&self.me, region) {
            let way = (self.me.clone(), region.to_owned());
            let mut held = self.net.held.lock();
            let held = held.entry(way).or_default();
            if held.len() >= 4 {
                return Err(Unsent::Full(bytes));
            }
            held.push_back(bytes);
        } else {
            self.net.deliver(&self.me, region, bytes);
        }
        Ok(())
    }
}

/// Remembers the changes it was told of.
#[derive(Default)]
pub(super) struct Told(pub(super) Mutex<Vec<(bool, Change)>>);

impl Applied for Told {
    fn applied(&self, origin: AppliedAt, changes: &[Change]) {
        let mut told = self.0.lock();
        told.extend(changes.iter().map(|change| (origin.local_home, change.clone())));
    }
}

/// One region under test.
pub(super) struct Node {
    pub(super) region: String,
    pub(super) homes: Homes,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) told: Arc<Told>,
}

/// Starts a region. `change` adjusts its numbers.
pub(super) async fn node(
    net: &Arc<Net>,
    world: &Arc<World>,
    region: &str,
    storage: Arc<dyn Storage>,
    change: impl FnOnce(&mut HomesConfig),
) -> Node {
    static INCARNATIONS: AtomicUsize = AtomicUsize::new(1);
    let incarnation = INCARNATIONS.fetch_add(1, Ordering::Relaxed) as u64;
    let mut config = HomesConfig::new(region, incarnation);
    change(&mut config);
    let told = Arc::new(Told::default());
    let end = Arc::new(End { me: region.to_owned(), net: Arc::clone(net) });
    let parts = HomesParts {
        storage: Arc::clone(&storage),
        map: Arc::new(View { me: region.to_owned(), world: Arc::clone(world) }),
        pen: Arc::new(super::Pen::held(1)),
        ops: vec![Box::new(Set), Box::new(Fail), Box::new(Count), Box::new(File), Box::new(Get)],
        transport: Arc::clone(&end) as Arc<dyn HomeTransport>,
        sink: end,
        applied: Arc::clone(&told) as Arc<dyn Applied>,
    };
    let homes = Homes::start(config, parts).await.unwrap();
    world.watching.lock().push(homes.clone());
    net.nodes.lock().insert(region.to_owned(), homes.clone());
    Node { region: region.to_owned(), homes, storage, told }
}

impl Node {
    /// Ends its tasks; its storage stays.
    pub(super) async fn stop(self, net: &Net) -> Arc<dyn Storage> {
        net.nodes.lock().remove(&self.region);
        self.homes.shutdown().await;
        self.storage
    }

    /// Waits until it has applied so much of another's log.
    pub(super) async fn follows(&self, home: &Node) {
        let seq = home.storage.log_head().await.unwrap();
        let log = home.homes.shared.log();
        let applied = self.homes.shared.followed(&home.region);
        let reached = applied.until(|now| now.log == log && now.seq >= seq);
        let reached = tokio::time::timeout(Duration::from_secs(30), reached).await;
        assert!(reached.is_ok(), "{} follows {}", self.region, home.region);
    }

    /// All rows it has.
    pub(super) async fn rows(&self) -> Vec<Row> {
        let mut all: Vec<Row> = Vec::new();
        loop {
            let after = all.last().map(|(place, _)| place.clone());
            let page = self.storage.rows(after, 1 << 20).await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }
}

/// `key=value`: writes it, answers what was there.
pub(super) struct Set;
/// Writes, then refuses.
struct Fail;
/// Adds one to `n`, answers the sum.
struct Count;
/// Files the request in `offline`.
struct File;
/// Changes nothing; answers what is there.
struct Get;

impl HomeOp for Set {
    fn name(&self) -> &'static str {
        "test.set"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let text = String::from_utf8_lossy(request);
            let (key, value) = text.split_once('=').ok_or(HomeError::Unknown("this".into()))?;
            let old = tx.get("test", key).await?.unwrap_or_default();
            tx.put("test", key, value.as_bytes().to_vec());
            Ok(old)
        }
        .boxed()
    }
}

impl HomeOp for Fail {
    fn name(&self) -> &'static str {
        "test.fail"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            tx.put("test", "failed", request.to_vec());
            assert!(request != b"panic", "as asked");
            Err(HomeError::refused(&StanzaError::new(Condition::Forbidden)))
        }
        .boxed()
    }
}

impl HomeOp for Count {
    fn name(&self) -> &'static str {
        "test.count"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let old = tx.get("test", "n").await?.map_or(0, |bytes| bytes[0]);
            tx.put("test", "n", vec![old + 1]);
            Ok(vec![old + 1])
        }
        .boxed()
    }
}

impl HomeOp for File {
    fn name(&self) -> &'static str {
        "test.file"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let id = tx.at().0;
            tx.append("offline", id, request.to_vec());
            Ok(id.to_be_bytes().to_vec())
        }
        .boxed()
    }
}

impl HomeOp for Get {
    fn name(&self) -> &'static str {
        "test.get"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            Ok(tx.get("test", &String::from_utf8_lossy(request)).await?.unwrap_or_default())
        }
        .boxed()
    }
}
