//! How much of what a component has sent is open. It goes the way of other domains' stanzas (`federation::inbound`), for a component's addresses are no accounts of ours
//! either, and each stanza holds a [`Handled`] until somebody is responsible for it. Called by `serve`, in the component's order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use s2s::federation::{Handled, OnHandled};
use tokio::sync::Notify;

/// Stanzas of one connection for which nobody is responsible yet.
#[derive(Debug, Default)]
pub(super) struct Open {
    count: AtomicUsize,
    /// There are fewer.
    fewer: Notify,
}

impl Open {
    /// One more, until that is dropped.
    pub(super) fn begin(self: &Arc<Self>, number: u64) -> Handled {
        self.count.fetch_add(1, Ordering::AcqRel);
        Handled::new(self.clone(), number)
    }

    /// Until there are fewer than so many.
    pub(super) async fn room(&self, most: usize) {
        loop {
            let fewer = self.fewer.notified();
            if self.count.load(Ordering::Acquire) < most {
                return;
            }
            fewer.await;
        }
    }
}

impl OnHandled for Open {
    fn handled(&self, _: u64) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.fewer.notify_one();
    }
}
