//! Session: one coarse clock for all sessions of a node.
//!
//! Armed by sessions (ping, resumption, handshake and login deadlines, idle), advanced once a second by one task ([`Wheel::run`]). A tokio timer a
//! session would cost more than the session; an entry here is 24 bytes and a second's exactness is enough.
//!
//! A firing is a *hint*: "the time you asked for has come", never early, at most two seconds late. There is no
//! cancelling: whoever fires for nothing looks at its own deadline and goes back to sleep, and an entry whose owner was dropped
//! fires nobody. So arm once per deadline, and re-arm on firing rather than on every change.
//!
//! [`Slots`] is the pure core: time is handed in. Deliberately absent: exactness, and order within a second.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Slots of one second; what is due later stays in its slot for more rounds.
const SLOTS: usize = 1024;
/// The longest time that can be asked for (a day); longer ones are cut to it, which a hint may be.
pub const AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Firings between two yields of the ticker, so that a million of them do not hold a core.
const FIRE_BATCH: usize = 512;

/// What a wheel can wake.
pub trait Fire: Send + Sync {
    /// The time has come. Must not block: it pushes into a mailbox, or wakes a task.
    fn fire(&self);
}

/// Things and the second at which they are due; the pure core of a [`Wheel`].
#[derive(Debug)]
pub struct Slots<T> {
    slots: Box<[Vec<Entry<T>>]>,
    /// The last second that was advanced to.
    now: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    due: u32,
    what: T,
}

impl<T> Slots<T> {
    /// Empty, at second 0.
    pub fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), now: 0, len: 0 }
    }

    /// To be given back by the first `advance` to second `due` or later. A second that has passed counts as the next one.
    pub fn insert(&mut self, due: u32, what: T) {
        let due = due.max(self.now.saturating_add(1));
        self.slots[due as usize % SLOTS].push(Entry { due, what });
        self.len += 1;
    }

    /// Moves on to that second and appends what is due to `fired`. Time that goes back does nothing.
    pub fn advance(&mut self, now: u32, fired: &mut Vec<T>) {
        // After a long pause every slot is looked at once, not once a second missed.
        let steps = now.saturating_sub(self.now).min(SLOTS as u32);
        let before = fired.len();
        for step in 0..steps {
            let slot = &mut self.slots[(now - step) as usize % SLOTS];
            fired.extend(slot.extract_if(.., |entry| entry.due <= now).map(|entry| entry.what));
            if slot.is_empty() {
                *slot = Vec::new(); // what a burst needed is not kept
            }
        }
        self.now = self.now.max(now);
        self.len -= fired.len() - before;
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The clock of a node, shared by its sessions.
pub struct Wheel {
    started: Instant,
    slots: Mutex<Slots<Weak<dyn Fire>>>,
}

impl Wheel {
    /// A wheel that stands until [`Wheel::run`] turns it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), slots: Mutex::default() })
    }

    /// Fires `who` once, `after` from now or up to two seconds later. Held weakly: the entry keeps the *allocation* of `who`
    /// until it is due, so let it be something small (a mailbox, not a session).
    pub fn arm(&self, who: Weak<dyn Fire>, after: Duration) {
        self.arm_at(who, self.started.elapsed(), after);
    }

    fn arm_at(&self, who: Weak<dyn Fire>, now: Duration, after: Duration) {
        self.slots.lock().insert(second_after(now, after), who);
    }

    /// Turns the wheel for ever; drop the future to stop it.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let fired = self.advance_to(self.started.elapsed());
            for batch in fired.chunks(FIRE_BATCH) {
                for who in batch.iter().filter_map(Weak::upgrade) {
                    who.fire();
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn advance_to(&self, now: Duration) -> Vec<Weak<dyn Fire>> {
        let mut fired = Vec::new();
        self.slots.lock().advance(u32::try_from(now.as_secs()).unwrap_or(u32::MAX), &mut fired);
        fired
    }

    /// How many entries wait, those of dropped owners among them.
    pub fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wheel({} armed)", self.len())
    }
}

/// The first whole second at which that time has passed.
fn second_after(now: Duration, after: Duration) -> u32 {
    let due = now + after.min(AFTER_MAX);
    let second = due.as_secs() + u64::from(due.subsec_nanos() > 0);
    u32::try_from(second).unwrap_or(u32::MAX) // 136 years of uptime
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn advance(slots: &mut Slots<u32>, now: u32) -> Vec<u32> {
        let mut fired = Vec::new();
        slots.advance(now, &mut fired);
        fired.sort_unstable();
        fired
    }

    #[test]
    fn an_entry_is_24_bytes() {
        assert_eq!(size_of::<Entry<Weak<dyn Fire>>>(), 24);
    }

    #[test]
    fn each_fires_in_its_second_and_once() {
        let mut slots = Slots::new();
        for due in [1, 2, 2, 5] {
            slots.insert(due, due);
        }
        assert_eq!(advance(&mut slots, 1), [1]);
        assert_eq!(advance(&mut slots, 1), Vec::<u32>::new());
        assert_eq!(advance(&mut slots, 4), [2, 2]);
        assert_eq!(advance(&mut slots, 5), [5]);
        assert!(slots.is_empty());
    }

    #[test]
    fn what_is_due_in_a_later_round_waits_for_it() {
        let mut slots = Slots::new();
        let far = 3 * SLOTS as u32 + 7;
        slots.insert(far, far);
        slots.insert(7, 7);
        assert_eq!(advance(&mut slots, 7), [7]);
        for second in 8..far {
            assert_eq!(advance(&mut slots, second), Vec::<u32>::new());
        }
        assert_eq!(advance(&mut slots, far), [far]);
    }

    #[test]
    fn a_long_pause_fires_all_that_came_due_and_nothing_else() {
        let mut slots = Slots::new();
        for due in 1..=5000 {
            slots.insert(due, due);
        }
        assert_eq!(advance(&mut slots, 4000), (1..=4000).collect::<Vec<_>>());
        assert_eq!(slots.len(), 1000);
        assert_eq!(advance(&mut slots, 3000), Vec::<u32>::new());
        assert_eq!(advance(&mut slots, 4001), [4001]);
    }

    #[test]
    fn a_second_that_has_passed_is_the_next_one() {
        let mut slots = Slots::new();
        advance(&mut slots, 100);
        slots.insert(3, 3);
        assert_eq!(advance(&mut slots, 100), Vec::<u32>::new());
        assert_eq!(advance(&mut slots, 101), [3]);
    }

    #[test]
    fn a_firing_is_never_early_and_at_most_a_second_late() {
        for (now, after, second) in
            [(0, 0, 0), (0, 1000, 1), (1, 1000, 2), (999, 1, 1), (999, 2, 2), (1500, 30_000, 32)]
        {
            assert_eq!(
                second_after(Duration::from_millis(now), Duration::from_millis(after)),
                second
            );
        }
        assert_eq!(second_after(Duration::ZERO, Duration::MAX), 86_400);
    }

    #[test]
    fn a_wheel_fires_whoever_is_still_there() {
        #[derive(Default)]
        struct Count(AtomicU32);
        impl Fire for Count {
            fn fire(&self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let wheel = Wheel::new();
        let (stays, goes) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for who in [&stays, &goes] {
            let who: Arc<dyn Fire> = who.clone();
            wheel.arm_at(Arc::downgrade(&who), Duration::from_millis(200), Duration::from_secs(5));
        }
        drop(goes);
        assert_eq!(wheel.advance_to(Duration::from_secs(5)).len(), 0);
        let fired = wheel.advance_to(Duration::from_secs(6));
        assert_eq!((fired.len(), wheel.len()), (2, 0));
        for who in fired.iter().filter_map(Weak::upgrade) {
            who.fire();
        }
        assert_eq!(stays.0.load(Ordering::SeqCst), 1);
    }
}
