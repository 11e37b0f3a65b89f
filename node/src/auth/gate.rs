//! Auth: the bounds around a backend that is somewhere else: so many questions at once, so many waiting, so long for an answer.
//!
//! Beyond them, and when it fails, the backend counts as down for whoever asked (`temporary-auth-failure`). The log hears of it once, and
//! once when it is back, not at every sign-in.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use config::Bounds;
use tokio::sync::Semaphore;

/// See the room.
pub(super) struct Gate {
    backend: &'static str,
    bounds: Bounds,
    at_once: Semaphore,
    asked: AtomicUsize,
    is_down: AtomicBool,
}

impl Gate {
    pub(super) fn new(backend: &'static str, bounds: &Bounds) -> Self {
        Self {
            backend,
            bounds: bounds.clone(),
            at_once: Semaphore::new(bounds.at_once_max),
            asked: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
        }
    }

    /// The answer, or `None`: there is none now, and the log knows why. Dropping the future drops the question.
    pub(super) async fn pass<T>(
        &self,
        question: impl Future<Output = Result<T, String>>,
    ) -> Option<T> {
        let Some(_place) = Place::take(self) else { return self.failed("too many are waiting") };
        let answer = tokio::time::timeout(self.bounds.timeout, async {
            // The semaphore is never closed.
            let _permit = self.at_once.acquire().await.map_err(|error| error.to_string())?;
            question.await
        });
        match answer.await {
            Ok(Ok(answer)) => {
                if self.is_down.load(Ordering::Relaxed)
                    && self.is_down.swap(false, Ordering::AcqRel)
                {
                    tracing::info!(backend = self.backend, "answers again");
                }
                Some(answer)
            }
            Ok(Err(error)) => self.failed(&error),
            Err(_) => self.failed("no answer in time"),
        }
    }

    fn failed<T>(&self, error: &str) -> Option<T> {
        if self.is_down.swap(true, Ordering::AcqRel) {
            tracing::debug!(backend = self.backend, error, "cannot answer");
        } else {
            tracing::warn!(backend = self.backend, error, "cannot answer; sign-ins are put off");
        }
        None
    }
}

/// A place among those who ask or wait; given back when dropped.
struct Place<'a>(&'a Gate);

impl<'a> Place<'a> {
    fn take(gate: &'a Gate) -> Option<Self> {
        let place = Place(gate);
        let max = gate.bounds.at_once_max + gate.bounds.waiting_max;
        // Dropped, and thereby given back, when there was none.
        (gate.asked.fetch_add(1, Ordering::AcqRel) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use futures_util::future::{join_all, pending};

    use super::*;

    pub(in crate::auth) fn bounds() -> Bounds {
        Bounds { timeout: Duration::from_secs(5), at_once_max: 2, waiting_max: 3 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_ends_and_gives_its_place_back() {
        let gate = Gate::new("test", &bounds());
        let questions = (0..7).map(|_| gate.pass(pending::<Result<(), String>>()));
        let began = tokio::time::Instant::now();
        let answers = join_all(questions).await;
        assert!(answers.iter().all(Option::is_none));
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!(gate.pass(async { Ok(1) }).await, Some(1));
        assert_eq!(gate.asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_may() {
        let gate = Gate::new("test", &bounds());
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, String>(())
        };
        let answers = join_all((0..7).map(|_| gate.pass(slow()))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_some()).count(), 5);
    }
}
