//! Room: what a session has been told of its account's roster, so that no version goes back at its client (RFC 6121 §2.1.6, §2.6). Called by the
//! roster's answers and pushes.

use serde::{Deserialize, Serialize};
use xmpp::stanza::Stanza;

use super::Seat;
use crate::features::roster::{not_before, version_of_push};

/// The part of it that goes along when the session moves to another node.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    interested: bool,
    whole: u64,
}

impl From<Told> for Watch {
    fn from(told: Told) -> Self {
        Self { interested: told.interested, whole: told.whole, ..Self::default() }
    }
}

impl Watch {
    /// See [`Told`]. An answer that is just being made is made where its session was, and does not arrive: its client asks again.
    pub(super) fn told(&self) -> Told {
        Told { interested: self.interested, whole: self.whole.max(self.copied) }
    }

    /// The version of the last whole roster it got, if it ever asked for one.
    pub(super) fn interested_since(&self) -> Option<u64> {
        self.interested.then_some(self.whole)
    }
}

/// What it has been told of its account's roster (RFC 6121 §2.1.6).
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// It asked for the roster once.
    interested: bool,
    /// Answers that are being made: pushes wait for them, for an answer may be older or newer than a push.
    asking: u32,
    /// The version of the last whole roster it got.
    whole: u64,
    /// The version that the last whole copy of it brought here, which it was told or is to be.
    copied: u64,
    /// That of the last push.
    pushed: u64,
    waiting: Vec<(u64, Stanza)>,
}

impl Seat {
    /// It asks for its roster (RFC 6121 §2.1.6). To be followed by [`Seat::answer_roster`].
    pub fn ask_roster(&self) {
        let mut roster = self.roster.lock();
        roster.interested = true;
        roster.asking += 1;
    }

    /// The roster it asked for, whole, at a version (`None`: an error), and behind it the pushes that are newer: no version goes back.
    pub fn answer_roster(&self, version: Option<u64>, answer: Stanza, deliver: impl Fn(Stanza)) {
        let mut roster = self.roster.lock();
        roster.asking = roster.asking.saturating_sub(1);
        roster.whole = roster.whole.max(version.unwrap_or(0));
        deliver(answer);
        if roster.asking == 0 {
            let (whole, mut known) = (roster.whole, roster.whole);
            let newer = std::mem::take(&mut roster.waiting).into_iter();
            for (_, push) in newer.filter(|(version, _)| *version > whole) {
                let push = not_before(push, known);
                known = known.max(version_of_push(&push).unwrap_or(0));
                deliver(push);
            }
        }
    }

    /// It has been told of everything up to this version, one way or another: nothing up to it is pushed any more.
    pub fn roster_is_told(&self, version: u64) {
        let mut roster = self.roster.lock();
        roster.whole = roster.whole.max(version);
    }

    /// A change of its account's roster, which made it that version: for those who asked for the roster, unless they have it with the whole.
    pub fn push_roster(
        &self,
        version: u64,
        push: impl FnOnce() -> Stanza,
        deliver: impl Fn(Stanza),
    ) {
        let mut roster = self.roster.lock();
        let told = roster.whole.max(roster.copied);
        if !roster.interested || version <= told || version < roster.pushed {
            return;
        }
        match roster.asking {
            0 => {
                roster.pushed = version;
                deliver(push());
            }
            _ => roster.waiting.push((version, push())),
        }
    }

    /// A whole copy of its account's roster made it that version at once: the pushes that say what differs. The changes themselves may yet come,
    /// and are not pushed then.
    pub fn push_copied(
        &self,
        version: u64,
        pushes: impl ExactSizeIterator<Item = Stanza>,
        deliver: impl Fn(Stanza),
    ) {
        let mut roster = self.roster.lock();
        let told = roster.whole.max(roster.copied).max(roster.pushed);
        if pushes.len() == 0 || !roster.interested || version <= told {
            return;
        }
        roster.copied = version;
        match roster.asking {
            0 => pushes.for_each(|push| deliver(not_before(push, told))),
            _ => roster.waiting.extend(pushes.map(|push| (version, push))),
        }
    }
}
