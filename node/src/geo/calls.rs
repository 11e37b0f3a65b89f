//! Room: request and answer over a link. A call waits for its reply or its deadline; what comes later is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Bound on calls waiting at one time; beyond it a call fails at once.
pub const CALLS_MAX: usize = 65_536;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such node, or its link is full.
    #[error("the other node cannot be reached")]
    Unreachable,
    /// The deadline passed. Whether the call was carried out is unknown.
    #[error("the other node did not answer in time")]
    TimedOut,
    /// The other node died (or we did, to it) with the call on the way. Whether it was carried out is unknown.
    #[error("the call was lost")]
    Lost,
    /// Too many calls wait.
    #[error("too many requests wait for other nodes")]
    Busy,
}

/// The calls of this node.
#[derive(Debug, Default)]
pub struct Calls {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
}

impl Calls {
    /// Makes a call: `send` is handed the id. Cancel-safe: a dropped call forgets itself.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        deadline: Duration,
        send: impl FnOnce(u64) -> bool,
    ) -> Result<Vec<u8>, CallError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= CALLS_MAX {
                return Err(CallError::Busy);
            }
            waiting.insert(id, answer);
        }
        let _forget = Forget { calls: self, id };
        if !send(id) {
            return Err(CallError::Unreachable);
        }
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(CallError::Lost),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// The call will not be answered: the node it went to lives another life.
    pub fn lost(&self, id: u64) {
        drop(self.waiting.lock().remove(&id));
    }

    /// An answer arrived.
    pub fn answered(&self, id: u64, body: Vec<u8>) {
        if let Some(waiting) = self.waiting.lock().remove(&id) {
            // The caller may have given up a moment ago.
            let _ = waiting.send(body);
        }
    }
}

struct Forget<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.waiting.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_finds_its_call_and_a_stray_one_nobody() {
        let calls = Calls::default();
        let answer = calls.call(Duration::from_secs(5), |id| {
            calls.answered(id + 1, b"stray".to_vec());
            calls.answered(id, b"yes".to_vec());
            true
        });
        assert_eq!(answer.await, Ok(b"yes".to_vec()));
        assert_eq!(
            calls.call(Duration::from_secs(5), |_| false).await,
            Err(CallError::Unreachable)
        );
        assert!(calls.waiting.lock().is_empty());
    }
}
