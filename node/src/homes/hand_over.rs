//! The planned hand-over of a home. The home itself hands over, for it alone knows what it has written: it takes no more requests for what is to
//! move, waits until the other region has its whole log, and only then asks metadata for the new epoch. So nothing that was answered is
//! missing there, and nothing is written on two sides. Whoever asks meanwhile asks again when metadata has changed.
//! Called by the operator's room, and by [`Homes::serve`] for another region's operator. Blueprint §7.

use std::sync::Arc;
use std::time::Duration;

use replication::shard_of;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::wire::{Call, RequestId, encode};
use super::writer::Job;
use super::{HomeError, Homes, Shared};

/// How long the other region may take to catch up, while requests wait. Longer, and the home stays.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// Before metadata is asked again what became of a proposal.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moved {
    /// All accounts of a shard that are not pinned.
    Shard(u8),
    /// One account, which is pinned by it; copies in these regions.
    Account(String, Vec<String>),
}

impl Moved {
    fn covers(&self, owner: &str) -> bool {
        match self {
            Moved::Shard(shard) => shard_of(owner) == *shard,
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
            return hand_over(&self.shared, what, to).await;
        }
        let call = Call {
            id: RequestId {
                incarnation: self.shared.config.incarnation,
                counter: self.shared.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            },
            epoch: place.epoch,
            account: String::new(),
            op: OP.to_owned(),
            request: encode(&Order { what: what.clone(), to: to.to_owned() }),
        };
        let deadline = tokio::time::Instant::now() + self.shared.config.request_timeout;
        self.repeat(&place.region, encode(&call), deadline).await.map(drop)
    }
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
        self.leaving.lock().iter().any(|what| what.covers(owner))
    }
}

/// At the home.
pub(super) async fn hand_over(
    shared: &Arc<Shared>,
    what: Moved,
    to: &str,
) -> Result<(), HomeError> {
    if *to == *shared.config.region {
        return Ok(());
    }
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
    shared.jobs.send(Job::Fence(fence)).await.map_err(|_| HomeError::Busy)?;
    let (_, at) = passed.await.map_err(|_| HomeError::Unreachable)?;
    if timeout(CATCH_UP_MAX, shared.copies.reach(to, at.seq)).await.is_err() {
        tracing::warn!(?what, to, "a home stays: the other region is behind");
        return Err(HomeError::Unreachable);
    }
    // From here on the move may happen whoever goes on waiting, so nothing is written until it is known whether it did.
    let (shared, to) = (Arc::clone(shared), to.to_owned());
    let decided = tokio::spawn(async move {
        let _stays = stays;
        loop {
            match shared.map.move_home(&what, &to).await {
                Ok(true) => {
                    tracing::info!(?what, to, "a home is handed over");
                    return Ok(());
                }
                Ok(false) => tokio::time::sleep(ASK_AGAIN).await,
                Err(why) => {
                    tracing::warn!(?what, to, why, "a home stays: metadata refuses");
                    return Err(HomeError::Metadata(why));
                }
            }
        }
    });
    match timeout(CATCH_UP_MAX, decided).await {
        Ok(decided) => decided.unwrap_or(Err(HomeError::Unreachable)),
        Err(_) => Err(HomeError::Unreachable),
    }
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
