//! How much of what a component has sent is open. It goes the way of other domains' stanzas (`federation::inbound`), for a component's addresses are no accounts of ours
//! either, and each stanza holds a [`Handled`] until somebody is responsible for it. Called by `serve`, in the component's order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use s2s::federation::{Handled, OnHandled};

/// Stanzas of one connection for which nobody is responsible yet.
#[derive(Debug, Default)]
pub(super) struct Open {
    count: AtomicUsize,
    /// Its connection, while that waits for there to be fewer.
    waits: AtomicWaker,
}

impl Open {
    /// One more, until that is dropped.
    pub(super) fn begin(self: &Arc<Self>, number: u64) -> Handled {
        self.count.fetch_add(1, Ordering::AcqRel);
        Handled::new(self.clone(), number)
    }

    /// Whether there are so many.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.count.load(Ordering::Acquire) >= most
    }

    /// Until there are fewer.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        if !self.is_full(most) {
            return Poll::Ready(());
        }
        self.waits.register(cx.waker());
        // One that was dropped before nobody was woken for.
        if self.is_full(most) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl OnHandled for Open {
    fn handled(&self, _: u64) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.waits.wake();
    }
}
