//! The planned hand-over of a home. The home itself hands over, for it alone knows what it has written: it takes no more requests for what is to
//! move, waits until the other region has its whole log, and only then asks metadata for the new epoch. So nothing that was answered is
//! missing there, and nothing is written on two sides. Whoever asks meanwhile asks again when metadata has changed. Items that a former home brings
//! late meanwhile are filed all the same: the next home takes them from our log, whenever they come there.
//! Called by the operator's room, and by [`Homes::serve`] for another region's operator. Blueprint §7.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replication::shard_of;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::wire::{Call, RequestId, encode};
use super::writer::Job;
use super::{FIRST_EPOCH, HomeError, HomeMap, Homes, Shared};

/// How long the other region may take to catch up, while requests wait. Longer, and the home stays.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// Before metadata is asked again what became of a proposal.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moved {
    /// All accounts of a shard that are not pinned. Those on a region's own domain are of none.
    Shard(u8),
    /// One account, which is pinned by it; copies in these regions.
    Account(String, Vec<String>),
}

impl Moved {
    fn covers(&self, owner: &str, map: &dyn HomeMap) -> bool {
        match self {
            Moved::Shard(shard) => shard_of(owner) == *shard && !map.is_apart(owner),
            Moved::Account(account, _) => owner == account,
        }
    }
}

/// What a region asks the home to hand over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) what: Moved,
    pub(super) to: String,
}

/// The name of the request; no feature's operation has one like it.
pub(super) const OP: &str = "homes.hand-over";

impl Homes {
    /// Moves a home to a region that holds a copy. Where it is now must be reachable; a region that is gone is declared down instead.
    ///
    /// # Errors
    /// `Unreachable`: the home, or the region to be home, does not answer in time; nothing has moved, unless a late word of metadata says
    /// so. `Busy`: a move of it is under way. `Metadata`: it refuses.
    pub async fn hand_over(&self, what: Moved, to: &str) -> Result<(), HomeError> {
        let place = self.shared.place(&what);
        if place.local {
            return hand_over(self, what, to).await;
        }
        let order = encode(&Order { what, to: to.to_owned() });
        let call = self.call_to(OP, place.epoch, order);
        let deadline = Instant::now() + self.shared.config.request_timeout;
        self.repeat(&place.region, call, deadline, || None).await.map(drop)
    }
}

/// "Do you have whole copies of these shards, as they were when their homes began?" Each with the epoch in which it did.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Base(pub(super) Vec<(u8, u64)>);

/// The name of that request.
pub(super) const HAS: &str = "homes.has";

impl Homes {
    /// Whether the region has whole copies of these shards, each from that epoch or a later one. What its home wrote since is in the log.
    pub(super) async fn has_copied(&self, region: &str, shards: Vec<(u8, u64)>) -> bool {
        let call = self.call_to(HAS, 0, encode(&Base(shards)));
        let deadline = Instant::now() + self.shared.config.request_timeout;
        self.repeat(region, call, deadline, || None).await.is_ok()
    }

    /// The bytes of a request between homes that is about no account.
    fn call_to(&self, op: &str, epoch: u64, request: Vec<u8>) -> Vec<u8> {
        let counter = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let id = RequestId { incarnation: self.shared.config.incarnation, counter };
        encode(&Call { id, epoch, account: String::new(), op: op.to_owned(), request })
    }
}

/// Whether our copies are whole.
pub(super) async fn has(shared: &Shared, shards: &[(u8, u64)]) -> Result<(), HomeError> {
    let copied = super::apply::read_shards(shared).await?;
    let has =
        |(shard, epoch): &(u8, u64)| *epoch <= FIRST_EPOCH || copied[usize::from(*shard)] >= *epoch;
    if shards.iter().all(has) { Ok(()) } else { Err(HomeError::Busy) }
}

impl Shared {
    pub(super) fn place(&self, what: &Moved) -> super::HomePlace {
        match what {
            Moved::Shard(shard) => self.map.shard(*shard),
            Moved::Account(account, _) => self.map.home(account),
        }
    }

    /// Whether the owner's home is being handed over: it is neither here nor there for the moment.
    pub(super) fn is_leaving(&self, owner: &str) -> bool {
        self.leaving.lock().iter().any(|what| what.covers(owner, &*self.map))
    }
}

/// At the home.
pub(super) async fn hand_over(homes: &Homes, what: Moved, to: &str) -> Result<(), HomeError> {
    let shared = &homes.shared;
    let shard = match &what {
        Moved::Shard(shard) if *to == *shared.config.region => {
            tracing::debug!(shard, "it is here already");
            return Ok(());
        }
        Moved::Shard(shard) => *shard,
        Moved::Account(account, _) => shard_of(account),
    };
    {
        let mut leaving = shared.leaving.lock();
        if leaving.contains(&what) {
            return Err(HomeError::Busy);
        }
        leaving.push(what.clone());
    }
    let stays = Stays { shared: Arc::clone(shared), what: what.clone() };
    // What the writer had begun before is committed when this comes back.
    let (fence, passed) = oneshot::channel();
    let jobs = shared.jobs.lock().clone().ok_or(HomeError::Busy)?;
    jobs.send(Job::Fence(fence)).await.map_err(|_| HomeError::Busy)?;
    let at = passed.await.map_err(|_| HomeError::Unreachable)?.at;
    let ready = async {
        if *to != *shared.config.region {
            let base = vec![(shard, shared.map.shard(shard).epoch)];
            if !homes.has_copied(to, base).await {
                return false;
            }
            shared.copies.reach(to, at.seq).await;
        }
        // One account is not copied as a whole when it moves, so whoever keeps a copy needs the end of our log first.
        if let Moved::Account(_, replicas) = &what {
            for replica in replicas.iter().filter(|name| **name != *shared.config.region) {
                shared.copies.reach(replica, at.seq).await;
            }
        }
        true
    };
    if !timeout(CATCH_UP_MAX, ready).await.unwrap_or(false) {
        tracing::warn!(?what, to, "a home stays: a region is behind");
        return Err(HomeError::Unreachable);
    }
    // From here on the move may happen whoever goes on waiting, so nothing is written until it is known whether it did.
    let decided = tokio::spawn(decide(Arc::clone(shared), stays, to.to_owned()));
    match timeout(CATCH_UP_MAX, decided).await {
        Ok(decided) => decided.unwrap_or(Err(HomeError::Unreachable)),
        Err(_) => Err(HomeError::Unreachable),
    }
}

/// Asks metadata until the answer is certain, and seen here.
async fn decide(shared: Arc<Shared>, stays: Stays, to: String) -> Result<(), HomeError> {
    let what = stays.what.clone();
    let epoch = shared.place(&what).epoch;
    let mut asked = false;
    loop {
        match shared.map.move_home(&what, epoch, &to).await {
            MoveSaid::Moved => {
                shared.metadata.until(|_| shared.place(&what).epoch > epoch).await;
                tracing::info!(?what, to, "a home is handed over");
                return Ok(());
            }
            // It was not even asked this time; what was asked before may still happen.
            MoveSaid::NotAsked(why) if !asked => {
                tracing::warn!(?what, to, why, "a home stays");
                return Err(HomeError::Metadata(why));
            }
            MoveSaid::Refused(why) => {
                tracing::warn!(?what, to, why, "a home stays: metadata refuses");
                return Err(HomeError::Metadata(why));
            }
            MoveSaid::NotAsked(_) => {}
            MoveSaid::Unknown => asked = true,
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What metadata says of a move.
#[derive(Debug)]
pub enum MoveSaid {
    /// It is agreed on.
    Moved,
    /// It is not, and never will be: why.
    Refused(String),
    /// Nobody could be asked: why.
    NotAsked(String),
    /// It may or may not happen.
    Unknown,
}

/// Requests are taken again when this goes.
struct Stays {
    shared: Arc<Shared>,
    what: Moved,
}

impl Drop for Stays {
    fn drop(&mut self) {
        self.shared.leaving.lock().retain(|what| *what != self.what);
        self.shared.metadata.change(|version| *version += 1);
    }
}
