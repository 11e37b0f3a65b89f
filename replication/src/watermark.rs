//! Probes and echoes: when is it certain that a region has told us everything it knew before a given moment?
//!
//! Caller: `global-distrib::park`. A stanza whose addressee nobody has announced is parked with a [`Mark`]; each live
//! region gets a numbered probe on the ordered lane and echoes the number on its own ordered lane, behind all the route
//! log it had appended before. When every region of the mark has echoed, the session table says the final word
//! (blueprint §5: counted by echo, never by comparing clocks). Pure: no socket, no time.
//!
//! Memory is bounded by the number of regions; the number of probes on the way to one region by `in_flight_max`: while
//! that many are unanswered, all later marks share the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

/// For each region that was live when the mark was made: the probe number whose echo closes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark(Vec<(Arc<str>, u64)>);

impl Mark {
    /// The regions waited for and their probe numbers.
    pub fn regions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(region, n)| (&**region, *n))
    }
}

/// Invariant: `echoed ≤ sent ≤ wanted`.
#[derive(Debug)]
struct Lane {
    region: Arc<str>,
    wanted: u64,
    sent: u64,
    echoed: u64,
    in_flight: u64,
}

/// The probe numbers of one node towards every other region.
#[derive(Debug)]
pub struct Probes {
    lanes: BTreeMap<Arc<str>, Lane>,
    /// Numbers up to here were used towards regions that have been removed since. A region that comes back starts above
    /// it: what was parked before its removal does not wait for its return.
    retired: u64,
    in_flight_max: u64,
}

impl Default for Probes {
    fn default() -> Probes {
        Probes::new(8)
    }
}

impl Probes {
    /// At most `in_flight_max` (at least 1) probes are unanswered by one region at a time.
    pub fn new(in_flight_max: u64) -> Probes {
        Probes { lanes: BTreeMap::new(), retired: 0, in_flight_max: in_flight_max.max(1) }
    }

    /// What must be echoed before anything arriving *now* can be judged. Afterwards the caller sends what
    /// [`Probes::due`] gives; several marks made between two calls of `due` share one probe a region.
    pub fn mark<'a>(&mut self, live_regions: impl IntoIterator<Item = &'a str>) -> Mark {
        let mut mark = Vec::new();
        for region in live_regions {
            if !self.lanes.contains_key(region) {
                let region: Arc<str> = region.into();
                let base = self.retired;
                let lane = Lane {
                    region: region.clone(),
                    wanted: base,
                    sent: base,
                    echoed: base,
                    in_flight: 0,
                };
                self.lanes.insert(region, lane);
            }
            let lane = self.lanes.get_mut(region).expect("inserted above");
            if lane.wanted == lane.sent {
                lane.wanted += 1;
            }
            mark.push((lane.region.clone(), lane.wanted));
        }
        Mark(mark)
    }

    /// The probes to send now, on the ordered lane; they count as sent.
    pub fn due(&mut self) -> Vec<(Arc<str>, u64)> {
        let mut due = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.wanted > lane.sent && lane.in_flight < self.in_flight_max {
                lane.sent = lane.wanted;
                lane.in_flight += 1;
                due.push((lane.region.clone(), lane.sent));
            }
        }
        due
    }

    /// The region has echoed `n`, and with it every smaller number. Answers whether that was news; if so, look at the
    /// parked stanzas and at [`Probes::due`] again. An echo of a number never sent is ignored.
    pub fn echoed(&mut self, region: &str, n: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(region) else { return false };
        if n <= lane.echoed || n > lane.sent {
            return false;
        }
        lane.echoed = n;
        lane.in_flight = lane.in_flight.min(lane.sent - n);
        true
    }

    /// True when every region of the mark has echoed, or is no longer one of the live regions.
    pub fn is_closed(&self, mark: &Mark) -> bool {
        mark.0.iter().all(|(region, n)| self.lanes.get(region).is_none_or(|lane| lane.echoed >= *n))
    }

    /// The number of the next probe to that region: its echo comes after all that the region does about what it was sent before
    /// this call. (Ask after sending, not before.)
    pub fn next(&self, region: &str) -> u64 {
        self.lanes.get(region).map_or(self.retired, |lane| lane.sent) + 1
    }

    /// The last number echoed by that region; all smaller ones are answered too. One never asked, or removed, has answered what
    /// was asked of it before.
    pub fn echoed_upto(&self, region: &str) -> u64 {
        self.lanes.get(region).map_or(self.retired, |lane| lane.echoed)
    }

    /// The region came back as a new incarnation: what was on the way is lost. Unanswered marks get a new probe (with a
    /// new number, so that an echo of the old life cannot be mistaken for it) at the next [`Probes::due`].
    pub fn restarted(&mut self, region: &str) {
        if let Some(lane) = self.lanes.get_mut(region) {
            lane.in_flight = 0;
            if lane.wanted > lane.echoed {
                lane.wanted = lane.sent + 1;
            }
        }
    }

    /// The region is down or gone: it no longer holds anything back. Should it return, [`Probes::mark`] starts afresh.
    pub fn removed(&mut self, region: &str) {
        if let Some(lane) = self.lanes.remove(region) {
            self.retired = self.retired.max(lane.wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due(probes: &mut Probes) -> Vec<(String, u64)> {
        probes.due().into_iter().map(|(region, n)| (region.to_string(), n)).collect()
    }

    #[test]
    fn a_mark_closes_when_every_region_has_echoed_a_later_probe() {
        let mut probes = Probes::default();
        let mark = probes.mark(["eu", "us"]);
        assert_eq!(due(&mut probes), [("eu".into(), 1), ("us".into(), 1)]);
        assert!(due(&mut probes).is_empty());
        assert!(probes.echoed("eu", 1));
        assert!(!probes.is_closed(&mark));
        assert!(probes.echoed("us", 1));
        assert!(probes.is_closed(&mark));
    }

    #[test]
    fn a_probe_sent_before_the_stanza_came_proves_nothing() {
        let mut probes = Probes::default();
        probes.mark(["eu"]);
        probes.due();
        let later = probes.mark(["eu"]);
        probes.echoed("eu", 1);
        assert!(!probes.is_closed(&later));
        assert_eq!(due(&mut probes), [("eu".into(), 2)]);
        probes.echoed("eu", 2);
        assert!(probes.is_closed(&later));
    }

    #[test]
    fn marks_made_together_share_one_probe() {
        let mut probes = Probes::default();
        assert_eq!(probes.mark(["eu"]), probes.mark(["eu"]));
        assert_eq!(due(&mut probes).len(), 1);
    }

    #[test]
    fn unanswered_probes_are_bounded() {
        let mut probes = Probes::new(2);
        for _ in 0..2 {
            probes.mark(["eu"]);
            assert_eq!(probes.due().len(), 1);
        }
        let third = probes.mark(["eu"]);
        let fourth = probes.mark(["eu"]);
        assert_eq!(third, fourth);
        assert!(probes.due().is_empty());
        probes.echoed("eu", 1);
        assert_eq!(due(&mut probes), [("eu".into(), 3)]);
    }

    #[test]
    fn a_region_that_went_down_does_not_hold_back_even_after_its_return() {
        let mut probes = Probes::default();
        let before = probes.mark(["eu"]);
        probes.due();
        probes.removed("eu");
        assert!(probes.is_closed(&before));
        let after = probes.mark(["eu"]);
        assert!(probes.is_closed(&before));
        assert!(!probes.is_closed(&after));
        assert_eq!(due(&mut probes), [("eu".into(), 2)]);
    }

    #[test]
    fn a_restarted_region_is_probed_again_with_a_new_number() {
        let mut probes = Probes::default();
        let mark = probes.mark(["eu"]);
        probes.due();
        probes.restarted("eu");
        assert_eq!(due(&mut probes), [("eu".into(), 2)]);
        probes.echoed("eu", 2);
        assert!(probes.is_closed(&mark));
    }

    #[test]
    fn the_next_probe_is_later_than_everything_sent_until_now() {
        let mut probes = Probes::default();
        assert_eq!((probes.next("eu"), probes.echoed_upto("eu")), (1, 0));
        probes.mark(["eu"]);
        assert_eq!(probes.next("eu"), 1);
        probes.due();
        assert_eq!((probes.next("eu"), probes.echoed_upto("eu")), (2, 0));
        probes.echoed("eu", 1);
        assert_eq!((probes.next("eu"), probes.echoed_upto("eu")), (2, 1));
        probes.removed("eu");
        assert_eq!((probes.next("eu"), probes.echoed_upto("eu")), (2, 1));
    }

    #[test]
    fn an_echo_of_a_number_never_sent_is_ignored() {
        let mut probes = Probes::default();
        let mark = probes.mark(["eu"]);
        assert!(!probes.echoed("eu", 1));
        probes.due();
        assert!(!probes.echoed("eu", 9));
        assert!(!probes.echoed("mars", 1));
        assert!(!probes.is_closed(&mark));
    }

    proptest! {
        /// A mark never closes before a probe sent after it is echoed, and always closes once all is answered.
        #[test]
        fn no_mark_closes_early_and_none_is_forgotten(steps in proptest::collection::vec(0u8..4, 1..300)) {
            let mut probes = Probes::new(3);
            let mut wire = std::collections::VecDeque::new();
            let mut marks: Vec<(Mark, bool)> = Vec::new();           // the mark, and whether a later probe was sent and echoed
            let mut sent_after: Vec<Option<u64>> = Vec::new();
            for step in steps {
                match step {
                    0 => { marks.push((probes.mark(["eu"]), false)); sent_after.push(None); }
                    1 => for (_, n) in probes.due() {
                        wire.push_back(n);
                        for at in sent_after.iter_mut().filter(|at| at.is_none()) { *at = Some(n); }
                    },
                    2 => if let Some(n) = wire.pop_front() {
                        probes.echoed("eu", n);
                        for (i, (_, done)) in marks.iter_mut().enumerate() {
                            if sent_after[i].is_some_and(|at| at <= n) { *done = true; }
                        }
                    },
                    _ => { wire.clear(); probes.restarted("eu"); }
                }
                for (mark, done) in &marks {
                    prop_assert_eq!(probes.is_closed(mark), *done);
                }
            }
            for _ in 0..marks.len() + 1 {
                for (_, n) in probes.due() { wire.push_back(n); }
                while let Some(n) = wire.pop_front() { probes.echoed("eu", n); }
            }
            for (mark, _) in &marks {
                prop_assert!(probes.is_closed(mark));
            }
        }
    }
}
