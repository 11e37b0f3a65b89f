//! Room `federation::outgoing`: when a domain that could not be reached is tried again. A value: `now` and chance are handed in. Called by `pool`
//! and `driver`.
//!
//! The wait doubles from `timers.retry_first` to `timers.retry_max`, and of each wait half is by lot, so that many servers which lost the same peer do
//! not come back to it at once. Only what got through ends the doubling ([`Retry::succeeded`]): a peer that takes every connection and drops it
//! is called less and less often (bad-inputs B-215).

use std::time::{Duration, Instant};

use crate::federation::Timers;

/// The failures in a row of one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retry {
    failures: u32,
    until: Option<Instant>,
}

impl Retry {
    /// One attempt more was in vain. `chance` is any random number. Gives the moment of the next.
    pub(super) fn failed(&mut self, now: Instant, timers: &Timers, chance: u32) -> Instant {
        let doubled = timers.retry_first.saturating_mul(1 << self.failures.min(16));
        let whole = doubled.min(timers.retry_max);
        self.failures = self.failures.saturating_add(1);
        let until = now + whole / 2 + part(whole / 2, chance);
        self.until = Some(until);
        until
    }

    /// Something got through.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Until when it is left alone; `None`: it may be tried now.
    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// How many attempts were in vain since something got through.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

/// As much of `whole` as `chance` is of its own range.
fn part(whole: Duration, chance: u32) -> Duration {
    whole.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers() -> Timers {
        Timers {
            retry_first: Duration::from_secs(2),
            retry_max: Duration::from_secs(60),
            ..super::super::tests::timers()
        }
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound() {
        let (now, mut retry) = (Instant::now(), Retry::default());
        let waits: Vec<u64> = (0..8)
            .map(|_| (retry.failed(now, &timers(), u32::MAX) - now).as_secs_f64().round() as u64)
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(retry.failures(), 8);
    }

    #[test]
    fn half_of_each_wait_is_by_lot() {
        let now = Instant::now();
        let wait = |chance| Retry::default().failed(now, &timers(), chance) - now;
        assert_eq!(wait(0), Duration::from_secs(1));
        assert!(wait(u32::MAX / 2) > Duration::from_millis(1400));
        assert!(wait(u32::MAX / 2) < Duration::from_millis(1600));
    }

    #[test]
    fn what_gets_through_ends_the_doubling() {
        let (now, mut retry) = (Instant::now(), Retry::default());
        for _ in 0..100 {
            retry.failed(now, &timers(), 0);
        }
        assert!(retry.waits_until(now).is_some());
        assert_eq!(retry.waits_until(now + Duration::from_secs(60)), None);
        retry.succeeded();
        assert_eq!((retry.waits_until(now), retry.failures()), (None, 0));
    }
}
