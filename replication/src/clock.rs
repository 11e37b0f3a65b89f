//! The hybrid clock: timestamps that follow the wall clock and never contradict what was already seen.
//!
//! Callers: the session table (which of two binds is newer), the durable log (`Entry::at`). It reads no clock itself:
//! the wall time is an argument, so a simulator owns time. Absent on purpose: ordering *decisions*; no order of stanzas
//! rests on comparing clocks (those use sequence numbers and probes, see [`crate::watermark`]).

use std::fmt;

use config::canary::{Canary, sings};
use serde::{Deserialize, Serialize};

/// A hybrid timestamp: 48 bits of milliseconds since the Unix epoch, 16 bits of counter. Ordered as one number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The smallest timestamp, older than everything.
    pub const ZERO: Hlc = Hlc(0);

    /// A timestamp at `millis` since the Unix epoch (only the low 48 bits count) with the given counter.
    pub const fn new(millis: u64, counter: u16) -> Hlc {
        Hlc(((millis & 0xffff_ffff_ffff) << 16) | counter as u64)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// Events within the same millisecond are told apart by this.
    pub const fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.counter())
    }
}

/// How far ahead of our wall clock a peer's timestamp may be and still be followed. One region with a clock set to next
/// year must not drag every other region there.
pub const DRIFT_MS_MAX: u64 = 60_000;

/// The clock of one node. Invariant: what [`HybridClock::now`] returns is greater than everything it returned before and
/// than everything observed before (within [`DRIFT_MS_MAX`]).
#[derive(Debug, Clone, Default)]
pub struct HybridClock {
    last: Hlc,
}

impl HybridClock {
    /// A clock that has seen nothing yet.
    pub const fn new() -> HybridClock {
        HybridClock { last: Hlc::ZERO }
    }

    /// A clock that goes on after `last` (what was read back from disk).
    pub const fn after(last: Hlc) -> HybridClock {
        HybridClock { last }
    }

    /// The next timestamp. `wall_ms`: milliseconds since the Unix epoch. When the counter is exhausted it carries into
    /// the milliseconds, so more than 65536 events a millisecond run a little ahead instead of repeating.
    pub fn now(&mut self, wall_ms: u64) -> Hlc {
        if sings(Canary::ClockFollowsWall) {
            return Hlc::new(wall_ms, 0);
        }
        self.last = Hlc::new(wall_ms, 0).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// A peer's timestamp has been seen: later ones of ours will be greater. Answers false, and forgets it, when it is
    /// more than [`DRIFT_MS_MAX`] ahead of the wall clock, and of this clock: a wall clock that was set back does not make
    /// all others come from the future.
    pub fn observe(&mut self, seen: Hlc, wall_ms: u64) -> bool {
        if seen.millis() > wall_ms.max(self.last.millis()).saturating_add(DRIFT_MS_MAX) {
            return false;
        }
        self.last = self.last.max(seen);
        true
    }

    /// The newest timestamp made or observed.
    pub const fn last(&self) -> Hlc {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timestamp_shows_its_two_parts() {
        let at = Hlc::new(1_700_000_000_123, 7);
        assert_eq!((at.millis(), at.counter()), (1_700_000_000_123, 7));
        assert_eq!(at.to_string(), "1700000000123.7");
    }

    #[test]
    fn a_wall_clock_that_goes_back_does_not_take_us_back() {
        let mut clock = HybridClock::new();
        let first = clock.now(1000);
        assert_eq!(clock.now(10), Hlc::new(1000, 1));
        assert!(clock.now(10) > first);
    }

    #[test]
    fn a_wall_clock_that_goes_back_does_not_make_peers_come_from_the_future() {
        let mut clock = HybridClock::new();
        clock.now(10_000_000);
        assert!(clock.observe(Hlc::new(10_000_500, 3), 10));
        assert!(clock.now(20) > Hlc::new(10_000_500, 3));
    }

    #[test]
    fn a_peer_from_next_year_is_not_followed() {
        let mut clock = HybridClock::new();
        assert!(!clock.observe(Hlc::new(1000 + DRIFT_MS_MAX + 1, 0), 1000));
        assert_eq!(clock.now(1000), Hlc::new(1000, 0));
    }

    proptest! {
        #[test]
        fn every_timestamp_is_newer_than_all_before_it(steps in proptest::collection::vec((0u64..100_000, any::<bool>(), 0u64..200_000), 1..200)) {
            let mut clock = HybridClock::new();
            let mut newest = Hlc::ZERO;
            for (wall, observes, seen) in steps {
                if observes {
                    let seen = Hlc::new(seen, 3);
                    if clock.observe(seen, wall) {
                        newest = newest.max(seen);
                    }
                } else {
                    let now = clock.now(wall);
                    prop_assert!(now > newest);
                    newest = now;
                }
            }
        }
    }
}
