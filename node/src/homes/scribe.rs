//! Who writes a region's database, where several nodes share it: one of them, its scribe. The others send what they want done to it, read the
//! same database, and are fed what it applied (`feed`).
//!
//! The database itself says who it is (`Storage::take_pen`), so there is one whenever there is a database to write, and every commit is checked
//! against it: one that slept cannot write any more. It beats while it lives; when its beats stop the others try to take the pen, and one of them
//! gets it. Pure; `app::scribe` brings the beats and the time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::storage::Scribe;

/// How often the scribe beats and the others look, in ms.
pub const BEAT_MS: u64 = 500;
/// After so long without a beat the scribe is taken for dead by a node that cannot reach it, in ms.
pub const DEAD_AFTER_MS: u64 = 2_000;
/// The same for a node that can: its process may be there and its way to the database may not.
pub const STUCK_AFTER_MS: u64 = 10_000;

/// Whether this node is its region's scribe, and in which term.
#[derive(Debug, Default)]
pub struct Pen {
    term: AtomicU64,
    asked: AtomicU64,
}

impl Pen {
    /// Held from the beginning: where one node has a database for itself.
    pub fn held(term: u64) -> Pen {
        Pen { term: AtomicU64::new(term), asked: AtomicU64::new(term) }
    }

    /// The term in which this node writes; None: it does not.
    pub fn term(&self) -> Option<u64> {
        Some(self.term.load(Ordering::Acquire)).filter(|term| *term > 0)
    }

    /// It is about to be asked for: the database may say that it is ours before we write.
    pub fn asks(&self, term: u64) {
        self.asked.store(term, Ordering::Release);
    }

    /// The last term that this life has asked for; 0: it never has.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// Whether this node writes.
    pub fn is_held(&self) -> bool {
        self.term().is_some()
    }

    pub(super) fn take(&self, term: u64) {
        self.term.store(term, Ordering::Release);
    }

    pub(super) fn put_down(&self) {
        self.term.store(0, Ordering::Release);
    }
}

/// The term of the next scribe: terms grow also where a database was lost and begins again.
pub fn next_term(former: u64, wall_ms: u64) -> u64 {
    wall_ms.max(former + 1)
}

/// What a node that does not write has seen of the one that does.
#[derive(Debug, Default)]
pub struct Watch {
    /// Its term and beat, and since when (ms) they are what they are.
    seen: Option<(u64, u64, u64)>,
}

impl Watch {
    /// The database was looked at, at `now` (ms, of a clock that only passes). Answers the term to be superseded, if it is time for that.
    pub fn saw(&mut self, scribe: Option<&Scribe>, is_reached: bool, now: u64) -> Option<u64> {
        let Some(scribe) = scribe else { return Some(0) };
        if scribe.node.is_empty() {
            return Some(scribe.term); // It was laid down.
        }
        let since = match self.seen {
            Some((term, beat, since)) if (term, beat) == (scribe.term, scribe.beat) => since,
            _ => now,
        };
        self.seen = Some((scribe.term, scribe.beat, since));
        let patience = if is_reached { STUCK_AFTER_MS } else { DEAD_AFTER_MS };
        (now.saturating_sub(since) >= patience).then_some(scribe.term)
    }

    /// The database could not be looked at: nothing is known of the beats meanwhile.
    pub fn was_blind(&mut self) {
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scribe(term: u64, beat: u64) -> Scribe {
        Scribe { term, node: "eu-0".into(), beat }
    }

    #[test]
    fn the_pen_is_taken_when_the_beats_have_stopped_for_long_enough() {
        let mut watch = Watch::default();
        assert_eq!(watch.saw(None, false, 0), Some(0), "nobody has it");
        let laid_down = Scribe { term: 5, node: String::new(), beat: 3 };
        assert_eq!(watch.saw(Some(&laid_down), false, 0), Some(5));
        assert_eq!(watch.saw(Some(&scribe(7, 1)), false, 10_000), None);
        assert_eq!(watch.saw(Some(&scribe(7, 1)), false, 11_999), None);
        assert_eq!(watch.saw(Some(&scribe(7, 2)), false, 12_000), None, "it beats");
        assert_eq!(watch.saw(Some(&scribe(7, 2)), true, 14_000), None, "and can be reached");
        assert_eq!(watch.saw(Some(&scribe(7, 2)), false, 14_000), Some(7));
        assert_eq!(watch.saw(Some(&scribe(7, 2)), true, 22_000), Some(7), "it is stuck");
        assert_eq!(watch.saw(Some(&scribe(9, 2)), false, 22_000), None, "another was quicker");
    }

    #[test]
    fn a_database_that_could_not_be_read_says_nothing_of_its_scribe() {
        let mut watch = Watch::default();
        watch.saw(Some(&scribe(7, 1)), false, 0);
        watch.was_blind();
        assert_eq!(watch.saw(Some(&scribe(7, 1)), false, 60_000), None);
        assert_eq!(watch.saw(Some(&scribe(7, 1)), false, 62_000), Some(7));
    }

    #[test]
    fn terms_grow_whatever_the_clock_says() {
        assert_eq!((next_term(5, 1_000), next_term(5_000, 1_000)), (1_000, 5_001));
    }
}
