//! What is done about a server in trouble: how long to try again, and what is told to the operator, once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::storage::Trouble;

/// The first pause; each further one is twice as long, up to the greatest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The attempts at one piece of work.
#[derive(Debug)]
pub(super) struct Tries {
    until: Option<Instant>,
    next: Duration,
}

impl Tries {
    /// To be given up after that long.
    pub(super) fn new(during: Duration) -> Tries {
        Tries { until: Some(Instant::now() + during), next: PAUSE }
    }

    /// Not to be given up any more.
    pub(super) fn go_on(&mut self) {
        self.until = None;
    }

    /// How long to wait before the next one; None: there is none.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let pause = self.next.mul_f64(0.5 + 0.5 * chance());
        if self.until.is_some_and(|until| Instant::now() + pause > until) {
            return None;
        }
        self.next = (self.next * 2).min(PAUSE_MAX);
        Some(pause)
    }
}

/// Between 0 and 1: so that many who wait do not come back at once.
fn chance() -> f64 {
    let mut byte = [0];
    // Without random numbers all wait the same.
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// Whether the server was well lately.
#[derive(Debug)]
pub(super) struct Health {
    name: String,
    is_ill: AtomicBool,
    since: Mutex<Option<(Instant, Trouble)>>,
}

impl Health {
    /// Of that database.
    pub(super) fn new(name: String) -> Health {
        Health { name, is_ill: AtomicBool::new(false), since: Mutex::new(None) }
    }

    /// The database's, without secrets.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Something went wrong. Told when it begins and when it becomes something else; two transactions that met are nothing to tell.
    pub(super) fn ill(&self, trouble: Trouble, cause: &str) {
        if trouble == Trouble::Conflict {
            return;
        }
        let mut since = self.since.lock();
        if since.is_none_or(|(_, before)| before != trouble) {
            tracing::warn!(database = %self.name, %cause, "the database {trouble}");
        }
        let began = since.map_or_else(Instant::now, |(began, _)| began);
        *since = Some((began, trouble));
        self.is_ill.store(true, Ordering::Release);
    }

    /// Something went well. One load, mostly.
    pub(super) fn well(&self) {
        if self.is_ill.load(Ordering::Acquire)
            && let Some((began, _)) = self.since.lock().take()
        {
            self.is_ill.store(false, Ordering::Release);
            let after = began.elapsed();
            tracing::info!(database = %self.name, ?after, "the database answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_come_more_rarely_and_end() {
        let mut tries = Tries::new(Duration::from_secs(5));
        let began = Instant::now();
        let mut pauses = Vec::new();
        while let Some(pause) = tries.pause() {
            tokio::time::sleep(pause).await;
            pauses.push(pause);
        }
        assert!(began.elapsed() <= Duration::from_secs(5) && pauses.len() > 5, "{pauses:?}");
        assert!(pauses[0] <= PAUSE && pauses[5] >= PAUSE * 16, "{pauses:?}");
        tries.go_on();
        assert!(tries.pause().is_some(), "what must be known is tried until it is");
    }
}
