//! What is done about a server in trouble: how long to try again, who tries, and what is told to the operator, once.
//!
//! While a server is ill one piece of work at a time finds out whether it still is; the others hear at once what is wrong, or wait for it
//! without asking. Patience counts from when the trouble began: whoever comes later does not wait all over again, and nothing piles up behind a
//! server that is gone. Reading and writing are ill separately: a server may be read-only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::storage::{StorageError, Trouble};

/// The first pause; each further one is twice as long, up to the greatest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// After somebody has found it still ill.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The attempts at one piece of work.
#[derive(Debug)]
pub(super) struct Tries {
    during: Duration,
    until: Option<Instant>,
    next: Duration,
}

impl Tries {
    /// To be given up after that long.
    pub(super) fn new(during: Duration) -> Tries {
        Tries { during, until: Some(Instant::now() + during), next: PAUSE }
    }

    /// The trouble began then.
    fn since(&mut self, began: Instant) {
        self.until = self.until.map(|until| until.min(began + self.during));
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
    name: Mutex<String>,
    /// `reading`, `writing`.
    what: &'static str,
    is_ill: AtomicBool,
    ill: Mutex<Option<Ill>>,
}

#[derive(Debug, Clone)]
struct Ill {
    began: Instant,
    trouble: Trouble,
    cause: String,
    look_at: Instant,
}

impl Health {
    /// Of that database.
    pub(super) fn new(name: String, what: &'static str) -> Health {
        Health {
            name: Mutex::new(name),
            what,
            is_ill: AtomicBool::new(false),
            ill: Mutex::new(None),
        }
    }

    /// It is under another address now, and nothing is known of it.
    pub(super) fn renewed(&self, name: String) {
        *self.name.lock() = name;
        *self.ill.lock() = None;
        self.is_ill.store(false, Ordering::Release);
    }

    /// Where it is, without secrets.
    pub(super) fn name(&self) -> String {
        self.name.lock().clone()
    }

    /// Whether what was done last went well.
    pub(super) fn is_well(&self) -> bool {
        !self.is_ill.load(Ordering::Acquire)
    }

    /// Whether to try now; nobody else looks for so long. One load while it is well.
    pub(super) fn may_try(&self, for_so_long: Duration) -> bool {
        if !self.is_ill.load(Ordering::Acquire) {
            return true;
        }
        let (mut ill, now) = (self.ill.lock(), Instant::now());
        match &mut *ill {
            Some(ill) if now < ill.look_at => false,
            Some(ill) => {
                ill.look_at = now + for_so_long;
                true
            }
            None => true,
        }
    }

    /// It is ill, and this one is not to try: how long it waits, or what it is told.
    pub(super) fn wait(&self, tries: &mut Tries) -> Result<Duration, StorageError> {
        let Some(ill) = self.ill.lock().clone() else { return Ok(Duration::ZERO) };
        tries.since(ill.began);
        tries.pause().ok_or_else(|| self.error(ill.trouble, ill.cause))
    }

    /// Something went wrong: how long to wait before the next attempt, or the end of them. Told when it begins and when it becomes
    /// something else; two transactions that met are nothing to tell.
    pub(super) fn failed(
        &self,
        tries: &mut Tries,
        trouble: Trouble,
        cause: String,
    ) -> Result<Duration, StorageError> {
        if trouble != Trouble::Conflict {
            let now = Instant::now();
            let mut ill = self.ill.lock();
            if ill.as_ref().is_none_or(|ill| ill.trouble != trouble) {
                let (database, what) = (self.name(), self.what);
                tracing::warn!(%database, what, %cause, "the database {trouble}");
            }
            let began = ill.as_ref().map_or(now, |ill| ill.began);
            tries.since(began);
            let look_at = now + LOOK_AGAIN;
            *ill = Some(Ill { began, trouble, cause: cause.clone(), look_at });
            self.is_ill.store(true, Ordering::Release);
        }
        tries.pause().ok_or_else(|| self.error(trouble, cause))
    }

    /// Something went well. One load, mostly.
    pub(super) fn well(&self) {
        if self.is_ill.load(Ordering::Acquire)
            && let Some(ill) = self.ill.lock().take()
        {
            self.is_ill.store(false, Ordering::Release);
            let (database, what, after) = (self.name(), self.what, ill.began.elapsed());
            tracing::info!(%database, what, ?after, "the database is well again");
        }
    }

    fn error(&self, trouble: Trouble, cause: String) -> StorageError {
        StorageError::Unavailable { name: self.name(), trouble, cause }
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

    #[tokio::test(start_paused = true)]
    async fn one_looks_and_the_others_hear_at_once() {
        let health = Health::new("db".to_owned(), "reading");
        let patience = Duration::from_secs(2);
        assert!(health.may_try(patience) && health.may_try(patience));
        let mut first = Tries::new(patience);
        health.failed(&mut first, Trouble::Gone, "refused".to_owned()).unwrap();
        assert!(!health.may_try(patience), "it was found ill just now");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(health.may_try(patience) && !health.may_try(patience), "one at a time");
        let mut late = Tries::new(patience);
        let told = health.wait(&mut late).unwrap_err().to_string();
        assert_eq!(told, "the database db cannot be reached: refused");
        health.well();
        assert!(health.may_try(patience) && health.may_try(patience));
        health.failed(&mut Tries::new(patience), Trouble::Conflict, String::new()).unwrap();
        assert!(health.may_try(patience) && health.may_try(patience), "that is no illness");
    }
}
