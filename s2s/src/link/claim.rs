//! Which of a peer's connections is the newest: each has a number, and all but the newest end themselves. Called by `links`.
//!
//! A number and a bell rather than a watch channel: those who wait are told in the order in which they began to, and nothing is drawn
//! by chance (tokio's watch does), so the same events have the same course.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// No more connections.
const STOPPED: u64 = u64::MAX;

/// The claims of one peer.
#[derive(Default)]
pub(super) struct Claims {
    newest: AtomicU64,
    changed: Notify,
}

impl Claims {
    /// Makes the caller's connection the newest. `None` when the peer is not wanted any more.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Claim> {
        let next = |newest| (newest != STOPPED).then(|| newest + 1);
        let before = self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        self.changed.notify_waiters();
        Some(Claim { number: before + 1, claims: self.clone() })
    }

    /// Ends the newest too, and lets no other begin.
    pub(super) fn stop(&self) {
        self.newest.store(STOPPED, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A connection's right to be the one of its peer, until a newer one takes it.
#[derive(Clone)]
pub(super) struct Claim {
    number: u64,
    claims: Arc<Claims>,
}

impl Claim {
    /// Waits until the right is lost.
    pub(super) async fn lost(self) {
        loop {
            let mut changed = pin!(self.claims.changed.notified());
            changed.as_mut().enable();
            if self.claims.newest.load(Ordering::Acquire) != self.number {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_claim_ends_the_older_and_a_stop_ends_all() {
        let claims = Arc::new(Claims::default());
        let first = claims.claim().expect("wanted");
        let waiting = tokio::spawn(first.clone().lost());
        let second = claims.claim().expect("wanted");
        waiting.await.expect("told");
        first.lost().await;
        let waiting = tokio::spawn(second.lost());
        claims.stop();
        waiting.await.expect("told");
        assert!(claims.claim().is_none());
    }
}
