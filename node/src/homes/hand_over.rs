//! The planned hand-over of a home. The home itself hands over, for it alone knows what it has written: it takes no more requests for what is to
//! move, waits until the other region has its whole log, and only then asks metadata for the new epoch. So nothing that was answered is
//! missing there, and nothing is written on two sides. Before that it follows the other region's log to its end: if that was the home before,
//! and was declared down, what it had not sent is in there, and is taken only where the home is.
//! Whoever asks meanwhile asks again when metadata has changed. Items that a former home brings late meanwhile are filed all the same: the next
//! home takes them from our log, whenever they come there.
//! Called by the operator's room, and by [`Homes::serve`] for another region's operator. Blueprint §7.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replication::shard_of;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::wire::{Call, RequestId, encode};
use super::writer::Job;
use super::{FIRST_EPOCH, HomeError, HomeMap, Homes, Shared};
use crate::storage::Position;

/// How long we may take to catch up with the other region, and then that with us, while requests wait; both together. Longer, and the home stays.
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
    /// The end of the region's own log, if it has whole copies of these shards, each from that epoch or a later one. What its home wrote since is in the log
    /// of that.
    pub(super) async fn has_copied(
        &self,
        region: &str,
        shards: Vec<(u8, u64)>,
    ) -> Option<Position> {
        let call = self.call_to(HAS, 0, encode(&Base(shards)));
        let deadline = Instant::now() + self.shared.config.request_timeout;
        let reply = self.repeat(region, call, deadline, || None).await;
        reply.ok().map(|reply| reply.at)
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
    let first = shared.place(&what);
    let stays = Stays::begin(shared, &what)?;
    let behind = |who: &str| {
        tracing::warn!(?what, to, who, "a home stays: a region is behind");
        Err(HomeError::Unreachable)
    };
    let deadline = Instant::now() + CATCH_UP_MAX;
    let is_far = *to != *shared.config.region;
    if is_far {
        let base = vec![(shard, shared.map.shard(shard).epoch)];
        let Ok(Some(end)) = timeout_at(deadline, homes.has_copied(to, base)).await else {
            return behind(to);
        };
        // Only somebody who has been home can have something of it in his log.
        if first.epoch > FIRST_EPOCH && end.seq > 0 {
            let followed = shared.followed(to);
            let all = followed.until(|now| now.log == end.log && now.seq >= end.seq);
            if timeout_at(deadline, all).await.is_err() {
                return behind(&shared.config.region);
            }
        }
    }
    shared.leaving.lock().push(what.clone());
    // It may have gone meanwhile: by metadata, which declares regions down.
    let place = shared.place(&what);
    if !place.local || place.epoch != first.epoch {
        return Err(HomeError::NotHome { epoch: place.epoch });
    }
    // What the writer had begun before is committed when this comes back.
    let (fence, passed) = oneshot::channel();
    let jobs = shared.jobs.lock().clone().ok_or(HomeError::Busy)?;
    jobs.send(Job::Fence(fence)).await.map_err(|_| HomeError::Busy)?;
    let at = passed.await.map_err(|_| HomeError::Unreachable)?.at;
    let ready = async {
        if is_far {
            shared.copies.reach(to, at.seq).await;
        }
        // One account is not copied as a whole when it moves, so whoever keeps a copy needs the end of our log first.
        if let Moved::Account(_, replicas) = &what {
            for replica in replicas.iter().filter(|name| **name != *shared.config.region) {
                shared.copies.reach(replica, at.seq).await;
            }
        }
    };
    if timeout_at(deadline, ready).await.is_err() {
        return behind(to);
    }
    // From here on the move may happen whoever goes on waiting, so nothing is written until it is known whether it did.
    let decided = tokio::spawn(decide(Arc::clone(shared), stays, first.epoch, to.to_owned()));
    match timeout(CATCH_UP_MAX, decided).await {
        Ok(decided) => decided.unwrap_or(Err(HomeError::Unreachable)),
        Err(_) => Err(HomeError::Unreachable),
    }
}

/// Asks metadata until the answer is certain, and seen here. `epoch` is that in which the gate was shut.
async fn decide(
    shared: Arc<Shared>,
    stays: Stays,
    epoch: u64,
    to: String,
) -> Result<(), HomeError> {
    let what = stays.what.clone();
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

/// Another may begin, and requests are taken again, when this goes.
struct Stays {
    shared: Arc<Shared>,
    what: Moved,
}

impl Stays {
    fn begin(shared: &Arc<Shared>, what: &Moved) -> Result<Stays, HomeError> {
        let mut going = shared.going.lock();
        if going.contains(what) {
            return Err(HomeError::Busy);
        }
        going.push(what.clone());
        Ok(Stays { shared: Arc::clone(shared), what: what.clone() })
    }
}

impl Drop for Stays {
    fn drop(&mut self) {
        self.shared.leaving.lock().retain(|what| *what != self.what);
        self.shared.going.lock().retain(|what| *what != self.what);
        self.shared.metadata.change(|version| *version += 1);
    }
}
