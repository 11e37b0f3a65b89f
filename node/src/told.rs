//! A value that others wait for: what a watch channel is, but those who wait are woken in the order in which they began to (tokio's draws
//! lots), so that the same events have the same course. Called by homes, and by all that ends when the node does.

use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The value and its bell; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told<T>(Arc<Inner<T>>);

#[derive(Debug, Default)]
struct Inner<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Told<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Inner { value: Mutex::new(value), changed: Notify::new() }))
    }

    pub(crate) fn get(&self) -> T {
        *self.0.value.lock()
    }

    pub(crate) fn set(&self, value: T) {
        self.change(|known| *known = value);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.value.lock());
        self.0.changed.notify_waiters();
    }

    /// Waits until it holds, which may be now. Cancel-safe.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&T) -> bool) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if holds(&self.0.value.lock()) {
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
    async fn whoever_waits_is_told_in_the_order_of_waiting() {
        let (told, order) = (Told::new(0), Arc::new(Mutex::new(Vec::new())));
        let waiting: Vec<_> = (0..20)
            .map(|number| {
                let (told, order) = (told.clone(), order.clone());
                tokio::spawn(async move {
                    told.until(|value| *value == 2).await;
                    order.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        told.set(1);
        tokio::task::yield_now().await;
        told.set(2);
        for waiting in waiting {
            waiting.await.expect("told");
        }
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    }
}
