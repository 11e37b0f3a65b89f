//! Presence that the mailbox had no room for: the session hears of it behind all that was in there, and has its client told anew how things are
//! (`geo::light::missed`).

use std::sync::atomic::Ordering;

use super::{Control, Item, Seat};

impl Seat {
    /// Presence was refused. One order, however often that happens until it is read.
    pub(super) fn misses(&self) {
        if !self.missed.swap(true, Ordering::AcqRel) {
            self.ask_for_missed();
        }
    }

    /// Whether some was refused since this was last asked.
    pub fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }

    /// Its client is back, and has not been told of what was refused while it slept.
    pub fn wakes(&self) {
        if self.missed.load(Ordering::Acquire) {
            self.ask_for_missed();
        }
    }

    fn ask_for_missed(&self) {
        // A session that is over misses nothing.
        let _ = self.mailbox.push(Item::Control(Control::Missed));
    }
}
