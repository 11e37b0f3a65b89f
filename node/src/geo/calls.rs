//! Room: request and answer over a link. A call waits for its reply or its deadline; what comes later is dropped. A call that is given up
//! while it still lies in a link is taken back: the other node hears of that first ([`Calls::given_up`]), and does not do, minutes
//! later, what somebody was told had failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use global_distrib::NodeIx;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Bound on calls waiting at one time; beyond it a call fails at once.
pub const CALLS_MAX: usize = 65_536;

/// Calls of one node that are remembered as taken back, on either side. What is beyond is forgotten, oldest first, and may be carried out late.
pub const TAKEN_BACK_MAX: usize = 4_096;

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
    /// By the node they went to: what it is to be told. Numbers only grow, so the first is the oldest.
    ours: Mutex<BTreeMap<NodeIx, BTreeSet<u64>>>,
    /// By the node they come from: what it does not want any more.
    theirs: Mutex<BTreeMap<NodeIx, BTreeSet<u64>>>,
}

fn remember(all: &mut BTreeSet<u64>, id: u64) {
    all.insert(id);
    if all.len() > TAKEN_BACK_MAX {
        all.pop_first();
    }
}

impl Calls {
    /// Makes a call: `send` is handed the id. A call that is dropped is given up; if it was put into the queue of a link, `queued_to` that node.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        queued_to: Option<NodeIx>,
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
        let mut forget = Forget { calls: self, id, queued_to: None };
        if !send(id) {
            return Err(CallError::Unreachable);
        }
        forget.queued_to = queued_to;
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

    /// Calls to that node that nobody waits for any more and that it may not have seen: to be told to it ahead of everything that is queued
    /// ([`Calls::taken_back`]). Each is given once.
    pub fn given_up(&self, node: NodeIx) -> Vec<u64> {
        let mut ours = self.ours.lock();
        ours.remove(&node).map(Vec::from_iter).unwrap_or_default()
    }

    /// What [`Calls::given_up`] gave could not be told now.
    pub fn untold(&self, node: NodeIx, ids: &[u64]) {
        let mut ours = self.ours.lock();
        let all = ours.entry(node).or_default();
        ids.iter().for_each(|id| remember(all, *id));
    }

    /// That node does not want these any more.
    pub fn taken_back(&self, by: NodeIx, ids: impl Iterator<Item = u64>) {
        let mut theirs = self.theirs.lock();
        let all = theirs.entry(by).or_default();
        ids.for_each(|id| remember(all, id));
    }

    /// Whether a call that arrives was taken back before.
    pub fn is_taken_back(&self, by: NodeIx, id: u64) -> bool {
        self.theirs.lock().get_mut(&by).is_some_and(|all| all.remove(&id))
    }

    /// That node lives another life: its numbers begin anew, and what was on the way to the former one is lost.
    pub fn restarted(&self, node: NodeIx) {
        self.ours.lock().remove(&node);
        self.theirs.lock().remove(&node);
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
    queued_to: Option<NodeIx>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let unanswered = self.calls.waiting.lock().remove(&self.id).is_some();
        if let (true, Some(node)) = (unanswered, self.queued_to) {
            self.calls.untold(node, &[self.id]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_finds_its_call_and_a_stray_one_nobody() {
        let (calls, eu) = (Calls::default(), NodeIx(0));
        let answer = calls.call(Some(eu), Duration::from_secs(5), |id| {
            calls.answered(id + 1, b"stray".to_vec());
            calls.answered(id, b"yes".to_vec());
            true
        });
        assert_eq!(answer.await, Ok(b"yes".to_vec()));
        assert_eq!(
            calls.call(Some(eu), Duration::from_secs(5), |_| false).await,
            Err(CallError::Unreachable)
        );
        assert!(calls.waiting.lock().is_empty() && calls.given_up(eu).is_empty());
    }

    #[tokio::test]
    async fn what_is_given_up_is_told_once_and_not_done_when_it_comes() {
        let (calls, eu, us) = (Calls::default(), NodeIx(0), NodeIx(1));
        let answer = calls.call(Some(eu), Duration::ZERO, |_| true).await;
        assert_eq!(answer, Err(CallError::TimedOut));
        assert!(calls.given_up(us).is_empty());
        let ids = calls.given_up(eu);
        assert_eq!((ids.as_slice(), calls.given_up(eu).as_slice()), (&[1][..], &[][..]));
        calls.untold(eu, &ids);
        assert_eq!(calls.given_up(eu), [1]);

        let home = Calls::default();
        home.taken_back(us, ids.iter().copied());
        assert!(
            !home.is_taken_back(eu, 1) && home.is_taken_back(us, 1) && !home.is_taken_back(us, 1)
        );
        home.taken_back(us, 0..=TAKEN_BACK_MAX as u64);
        assert!(!home.is_taken_back(us, 0) && home.is_taken_back(us, 1));
        home.restarted(us);
        assert!(!home.is_taken_back(us, 2));
    }
}
