//! Homes: each account's durable data has one writer at a time, its home (blueprint §7).
//!
//! Features ask for changes with [`Homes::request`]; `app` wires the rest: metadata as a [`HomeMap`], the link as
//! [`HomeTransport`] (requests) and [`ShipSink`] (the durable log), and what hangs on applied changes as [`Applied`].
//! `writer.rs` commits groups of operations at the home, `ask.rs` carries requests between regions, `ship.rs` and
//! `apply.rs` keep the replicas' copies, `seams.rs` is what they are wired to, `tx.rs` what an operation sees. Deliberately absent: reads (they go straight
//! to `storage`, the local replica), XML, sockets.
//!
//! A "region" here is whatever has a database of its own; the name is opaque. Of the nodes that share it one writes and follows other regions: the
//! scribe (`scribe.rs`, `office.rs`). What it applied is fed to the others (`feed.rs`).

pub mod accounts;
mod apply;
mod ask;
mod copies;
mod feed;
mod fetched;
mod former;
pub mod hand_over;
pub mod look;
mod office;
mod overlay;
#[cfg(test)]
mod region_tests;
pub mod scribe;
mod seams;
mod ship;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tx;
mod wire;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use replication::HybridClock;
use replication::durable_log::ShipLimits;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, RwLock, mpsc};
use tokio::task::JoinHandle;
use xmpp::{BareJid, Condition, Element, StanzaError};

use crate::storage::{self, Position, Storage, StorageError};
use crate::told::Told;

pub use fetched::Reading;
pub use hand_over::{MoveSaid, Moved};
pub use scribe::Pen;
pub use seams::{
    Applied, AppliedAt, CallError, FeedSink, HomeMap, HomeOp, HomePlace, HomeTransport, ShipSink,
    Unsent, Unwatched,
};
pub use ship::PeerStatus;
pub use tx::Tx;

/// Why a request to a home has not been done. Unless it is `Unreachable`, nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum HomeError {
    /// The home did not answer in time. It may have done what was asked, or may still do it.
    #[error("the account's home cannot be reached")]
    Unreachable,
    /// Whoever was asked is not the home (any more); metadata here or there is behind. The epoch it knows.
    #[error("not the account's home in epoch {epoch}")]
    NotHome {
        /// The epoch known there.
        epoch: u64,
    },
    /// Too many requests are waiting at the home.
    #[error("the account's home is busy")]
    Busy,
    /// The operation refuses: an `<error/>` element's bytes (make it with [`HomeError::refused`]).
    #[error("refused")]
    Refused(Vec<u8>),
    /// The home knows no such operation (it runs another version), or cannot read the request.
    #[error("the account's home does not understand {0}")]
    Unknown(String),
    /// Its storage failed, or the operation did.
    #[error("storage: {0}")]
    Storage(String),
    /// Metadata refuses a move.
    #[error("metadata: {0}")]
    Metadata(String),
    /// Its database cannot do it now, and may be able to later. It was not done.
    #[error("storage: {0}")]
    Unavailable(String),
}

impl HomeError {
    /// An operation's refusal.
    pub fn refused(error: &StanzaError) -> HomeError {
        HomeError::Refused(error.element().to_bytes())
    }

    /// What the user whose request it was is told.
    pub fn stanza_error(&self) -> StanzaError {
        match self {
            HomeError::Refused(bytes) => match Element::parse(bytes) {
                Ok(element) => StanzaError::parse(&element),
                Err(_) => StanzaError::new(Condition::UndefinedCondition),
            },
            HomeError::Unreachable | HomeError::NotHome { .. } => {
                StanzaError::new(Condition::RemoteServerTimeout)
                    .with_text("the account's home region cannot be reached, try again later")
            }
            HomeError::Busy => StanzaError::new(Condition::ResourceConstraint),
            HomeError::Unavailable(_) => storage::unavailable(),
            HomeError::Unknown(_) => StanzaError::new(Condition::FeatureNotImplemented),
            HomeError::Storage(_) | HomeError::Metadata(_) => {
                StanzaError::new(Condition::InternalServerError)
            }
        }
    }
}

impl From<StorageError> for HomeError {
    fn from(error: StorageError) -> HomeError {
        match error {
            StorageError::Unavailable { .. } => HomeError::Unavailable(error.to_string()),
            // Perhaps it was committed before another took the pen.
            StorageError::Superseded => HomeError::Unreachable,
            error => HomeError::Storage(error.to_string()),
        }
    }
}

/// What a feature's home says to a request, where request and answer are plain values: the other end of [`Homes::exchange`].
pub trait Decision: Send + Sync + 'static {
    /// [`HomeOp::name`].
    const OP: &'static str;
    /// What may be asked.
    type Request: DeserializeOwned + Send;
    /// What came of it.
    type Answer: Serialize;
    /// [`HomeOp::reads`].
    fn reads(&self, _account: &BareJid, _request: &[u8]) -> Vec<Reading> {
        Vec::new()
    }
    /// [`HomeOp::run`].
    fn decide(
        &self,
        tx: &mut Tx,
        account: &BareJid,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Answer, HomeError>> + Send;
}

impl<D: Decision> HomeOp for D {
    fn name(&self) -> &'static str {
        D::OP
    }

    fn reads(&self, account: &BareJid, request: &[u8]) -> Vec<Reading> {
        Decision::reads(self, account, request)
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let request = postcard::from_bytes(request);
            let request = request.map_err(|_| HomeError::Unknown(D::OP.to_owned()))?;
            let answer = self.decide(tx, account, request).await?;
            Ok(postcard::to_stdvec(&answer).expect("a plain value"))
        }
        .boxed()
    }
}

/// The numbers.
#[derive(Debug, Clone)]
pub struct HomesConfig {
    /// Our own name.
    pub region: Arc<str>,
    /// This life of this node; never used twice.
    pub incarnation: u64,
    /// Requests that may wait for the writer; more are `Busy`.
    pub queue_max: usize,
    /// Requests in one transaction.
    pub group_max: usize,
    /// How long a request to another region may take, with all its repetitions.
    pub request_timeout: Duration,
    /// How long an answer waits for the local replica to follow.
    pub follow_timeout: Duration,
    /// Answers to changes remembered for each node that asks, so that a repeated request is not done twice.
    pub answers_max: usize,
    /// Entries of the durable log that are kept; a replica further behind gets a whole copy.
    pub log_entries_max: u64,
    /// Batches to replicas: bytes of one, and bytes on the way.
    pub ship: ShipLimits,
    /// Archive stores whose items a new home takes from the former one in any case, however late they come.
    pub refiled: &'static [&'static str],
    /// Stores whose values nobody follows: the feed goes without them.
    pub silent: &'static [&'static str],
    /// Whether a change is answered only when the heir of the home has it too: `geo.durability = "two-regions"`.
    pub two_regions: bool,
    /// Milliseconds since the Unix epoch.
    pub wall: Wall,
    /// The name of the log, should the database have none yet: drawn by chance, so that no two are the same.
    pub new_log: u64,
}

/// A clock on the wall: see [`HomesConfig::wall`].
#[derive(Clone)]
pub struct Wall(pub Arc<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wall")
    }
}

impl HomesConfig {
    /// The defaults.
    pub fn new(region: &str, incarnation: u64) -> HomesConfig {
        HomesConfig {
            region: region.into(),
            incarnation,
            queue_max: 4096,
            group_max: 256,
            request_timeout: Duration::from_secs(10),
            follow_timeout: Duration::from_secs(2),
            answers_max: 4096,
            log_entries_max: 1_000_000,
            ship: ShipLimits { batch_bytes_max: 64 << 10, window_bytes_max: 2 << 20 },
            refiled: &["offline", "archive"],
            silent: &[],
            two_regions: false,
            wall: Wall(Arc::new(|| {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.map_or(0, |now| now.as_millis() as u64)
            })),
            new_log: getrandom::u64().unwrap_or(incarnation),
        }
    }
}

/// What a node wires homes to.
pub struct HomesParts {
    /// The local database.
    pub storage: Arc<dyn Storage>,
    /// Metadata.
    pub map: Arc<dyn HomeMap>,
    /// Whether this node is the region's scribe. The map asks it too: nothing is local where nothing is written.
    pub pen: Arc<Pen>,
    /// All operations of all features.
    pub ops: Vec<Box<dyn HomeOp>>,
    /// Requests to other regions.
    pub transport: Arc<dyn HomeTransport>,
    /// The durable log to other regions.
    pub sink: Arc<dyn ShipSink>,
    /// What hangs on applied changes.
    pub applied: Arc<dyn Applied>,
}

/// Requests since the start, by where their home was when they were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// In this region.
    pub local: u64,
    /// In another.
    pub remote: u64,
    /// Of both: what failed, other than by the operation's own refusal.
    pub failed: u64,
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Homes {
    shared: Arc<Shared>,
}

/// What all rooms of this folder share.
struct Shared {
    config: HomesConfig,
    storage: Arc<dyn Storage>,
    map: Arc<dyn HomeMap>,
    transport: Arc<dyn HomeTransport>,
    sink: Arc<dyn ShipSink>,
    applied: Arc<dyn Applied>,
    pen: Arc<Pen>,
    ops: writer::Ops,
    clock: Mutex<HybridClock>,
    /// The identity of our log; 0: not known yet.
    log: AtomicU64,
    /// The newest entry of our log that is committed.
    head: Told<u64>,
    recent: Mutex<ship::Recent>,
    /// The way to the writer, while there is one.
    jobs: Mutex<Option<mpsc::Sender<writer::Job>>>,
    counter: AtomicU64,
    requests: Mutex<RequestCounts>,
    answered: Mutex<HashMap<String, ask::Answered>>,
    peers: Mutex<HashMap<String, Peer>>,
    /// How much of each region's log is applied, and known here.
    followed: Mutex<HashMap<String, Told<Position>>>,
    feed: feed::Feed,
    metadata: Told<u64>,
    /// Held (for reading) from the judgement of entries until they are in storage, and (for writing) while a part of a copy is put there: what was judged by an
    /// epoch that has ended meanwhile does not come down on top of what the new home has sent.
    applying: Arc<RwLock<()>>,
    copies: copies::Copies,
    /// What is to be handed over: nobody else begins with it.
    going: Mutex<Vec<Moved>>,
    /// What of that no more is written of here.
    leaving: Mutex<Vec<Moved>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The two tasks that a peer region costs.
struct Peer {
    ship: ship::Inbox,
    apply: apply::Inbox,
    room: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

/// The fact in `meta` that names our log.
const META_LOG: &str = "log";
/// The fact in `meta` that names the file a database was begun with (see `accounts::genesis_accounts`).
pub(crate) const META_GENESIS: &str = "genesis";
/// The fact in `meta` that says under which epoch each shard was last copied whole: 256 numbers.
const META_SHARDS: &str = "shards";
/// The fact in `meta` that says under which epoch something of each shard was last written here: 256 numbers.
const META_WRITTEN: &str = "written";

/// The epoch under which homes begin: a database that has never copied a shard is as good as that.
const FIRST_EPOCH: u64 = 1;

impl Homes {
    /// Starts. If the pen is held already, the writer starts too. Peers are followed and served from their first [`Homes::peer_up`], where the pen
    /// is held.
    pub async fn start(config: HomesConfig, parts: HomesParts) -> Result<Homes, StorageError> {
        let region = config.region.to_string();
        let shared = Arc::new(Shared {
            config,
            storage: parts.storage,
            map: parts.map,
            transport: parts.transport,
            sink: parts.sink,
            applied: parts.applied,
            pen: parts.pen,
            ops: writer::ops(parts.ops),
            clock: Mutex::new(HybridClock::new()),
            log: AtomicU64::new(0),
            head: Told::new(0),
            recent: Mutex::default(),
            jobs: Mutex::default(),
            counter: AtomicU64::new(0),
            requests: Mutex::default(),
            answered: Mutex::default(),
            peers: Mutex::default(),
            followed: Mutex::default(),
            feed: feed::Feed::default(),
            metadata: Told::new(0),
            applying: Arc::default(),
            copies: copies::Copies::default(),
            going: Mutex::default(),
            leaving: Mutex::default(),
            writer: Mutex::new(None),
        });
        shared.see(&region).await?;
        let homes = Homes { shared };
        if let Some(term) = homes.shared.pen.term() {
            homes.take_up(term).await?;
        }
        Ok(homes)
    }

    /// The way to `region` is open: on a link's every start, resumed or fresh. Asks it for its log from where our copy
    /// stands. Calling it twice is harmless.
    pub fn peer_up(&self, region: &str) {
        if !self.shared.pen.is_held() {
            return; // The scribe follows it for all of us.
        }
        self.with_peer(region, |peer| {
            peer.apply.push(apply::Event::Up);
        });
    }

    /// The way to `region` has room again, after [`Unsent::Full`]. Calling it too often is harmless.
    pub fn room(&self, region: &str) {
        if let Some(peer) = self.shared.peers.lock().get(region) {
            peer.room.notify_waiters();
        }
    }

    /// What [`HomeMap`] answers may have changed.
    pub fn metadata_changed(&self) {
        self.shared.metadata.change(|version| *version += 1);
        self.shared.copies.settle(&*self.shared.map);
    }

    /// A message that `region`'s [`ShipSink`] sent. Does not block; what finds no room is asked for again.
    pub fn shipped(&self, region: &str, bytes: impl AsRef<[u8]>) {
        if !self.shared.pen.is_held() {
            tracing::debug!(region, "takes us for the scribe");
            return;
        }
        let Some(message) = wire::decode::<wire::Ship>(bytes.as_ref()) else {
            tracing::warn!(region, "a durable-log message that cannot be read was dropped");
            return;
        };
        let has = match &message {
            wire::Ship::From { position, .. } => Some(position.unwrap_or_default()),
            wire::Ship::Ack(position) => Some(*position),
            _ => None,
        };
        if let Some(has) = has {
            // Of another log, or of more than there is: it will get a whole copy.
            let ours = has.log == self.shared.log() && has.seq <= self.shared.head.get();
            self.shared.copies.has(region, if ours { has.seq } else { 0 });
            self.shared.copies.settle(&*self.shared.map);
        }
        self.with_peer(region, |peer| match message {
            wire::Ship::From { position, genesis, shards } => {
                peer.ship.from(ship::From { position, genesis, shards });
            }
            wire::Ship::Ack(position) => peer.ship.acked(position),
            wire::Ship::SnapshotAck { copy, number } => peer.ship.copied(copy, number),
            wire::Ship::Stale { owner } => self.shared.copies.disown(&owner),
            message => peer.apply.push(apply::Event::Message(message)),
        });
    }

    /// The region has left for good: its tasks end.
    pub fn peer_gone(&self, region: &str) {
        if let Some(peer) = self.shared.peers.lock().remove(region) {
            peer.tasks.iter().for_each(JoinHandle::abort);
        }
    }

    /// Whether the owner's data is homed here.
    pub fn is_home(&self, owner: &str) -> bool {
        self.shared.is_home(owner)
    }

    /// The newest entry of our log that is committed.
    pub fn log_head(&self) -> u64 {
        self.shared.head.get()
    }

    /// How many requests were made here.
    pub fn requests(&self) -> RequestCounts {
        *self.shared.requests.lock()
    }

    /// Whether that region has our whole log, now and until `joined` is dropped: meanwhile nothing is answered that it does not have (with two
    /// regions). `None` when it does not get there in time.
    pub async fn joins(&self, region: &str, within: Duration) -> Option<Joining> {
        let has_all = async {
            // Near the end first: while it joins, answers wait for it.
            self.shared.copies.reach(region, self.shared.head.get()).await;
            let homed = (0..=255).map(|shard| (shard, self.shared.map.shard(shard)));
            let homed = homed.filter(|(_, place)| place.local);
            let homed = homed.map(|(shard, place)| (shard, place.epoch)).collect();
            self.has_copied(region, homed).await?;
            self.shared.copies.joins(Some(region));
            let joining = Joining { shared: Arc::clone(&self.shared) };
            self.shared.copies.reach(region, self.shared.head.get()).await;
            Some(joining)
        };
        tokio::time::timeout(within, has_all).await.ok().flatten()
    }

    /// Where copies stand.
    pub fn status(&self) -> Vec<PeerStatus> {
        let head = self.shared.head.get();
        let peers = self.shared.peers.lock();
        let mut all: Vec<PeerStatus> = peers
            .iter()
            .map(|(region, peer)| PeerStatus {
                region: region.clone(),
                applied: self.shared.followed(region).get(),
                acknowledged: peer.ship.acknowledged(),
                head,
            })
            .collect();
        all.sort_by(|a, b| a.region.cmp(&b.region));
        all
    }

    /// Commits what waits, stops all tasks. Requests from now on are `Busy`. A `Homes` that is only dropped keeps its tasks.
    pub async fn shutdown(&self) {
        for (_, peer) in self.shared.peers.lock().drain() {
            peer.tasks.iter().for_each(JoinHandle::abort);
        }
        self.shared.feed.stop();
        feed::unfollow(&self.shared);
        let writer = self.shared.writer.lock().take();
        let jobs = self.shared.jobs.lock().take();
        if let (Some(writer), Some(jobs)) = (writer, jobs) {
            drop(jobs.send(writer::Job::Stop).await);
            drop(writer.await);
        }
    }

    /// A peer's tasks, started at first mention.
    fn with_peer<T>(&self, region: &str, then: impl FnOnce(&Peer) -> T) -> T {
        let mut peers = self.shared.peers.lock();
        if !peers.contains_key(region) {
            let room = Arc::new(Notify::new());
            let way = Way {
                shared: Arc::clone(&self.shared),
                region: region.to_owned(),
                room: Arc::clone(&room),
            };
            let (inbox, shipping) = ship::start(way.clone());
            let (apply, applying) = apply::start(way);
            let tasks = [shipping, applying];
            let peer = Peer { ship: inbox, apply, room, tasks };
            peers.insert(region.to_owned(), peer);
        }
        then(&peers[region])
    }
}

/// See [`Homes::joins`].
pub struct Joining {
    shared: Arc<Shared>,
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.shared.copies.joins(None);
        self.shared.copies.settle(&*self.shared.map);
    }
}

impl Shared {
    /// The identity of our log.
    fn log(&self) -> u64 {
        self.log.load(Ordering::Acquire)
    }

    /// How much of a region's log is applied, and known here.
    fn followed(&self, region: &str) -> Told<Position> {
        self.followed.lock().entry(region.to_owned()).or_default().clone()
    }

    /// Is the owner's data homed here?
    fn is_home(&self, owner: &str) -> bool {
        self.map.home(owner).local
    }
}

/// What a peer's tasks know of it.
#[derive(Clone)]
struct Way {
    shared: Arc<Shared>,
    region: String,
    room: Arc<Notify>,
}

impl Way {
    /// Sends a message, waiting for room. What no link takes is dropped: it would not fit later either, and who misses it asks again. (None is as
    /// long as that: entries, rows and the names of pinned accounts have their bounds.)
    async fn send(&self, message: &wire::Ship) {
        let mut bytes = wire::encode(message);
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Listening begins before the attempt, so that room which comes in between is not missed.
            room.as_mut().enable();
            match self.shared.sink.send_batch(&self.region, bytes) {
                Ok(()) => return,
                Err(Unsent::Full(back)) => bytes = back,
                Err(Unsent::TooLong) => {
                    let region = &self.region;
                    tracing::error!(
                        region,
                        "a part of the durable log is longer than a link takes"
                    );
                    return;
                }
            }
            room.await;
        }
    }
}
