//! I10. *A change of my roster that was answered is kept, and all my devices show the same roster:* each contact is a register. What stands at
//! the end was not answered before another that was answered began; no client sees a version go back; copies are equal. An error says that it is
//! not known what became of a change, and it may still be made by what is on the wire just then, but not by what waited behind a cut line.
//! Where a region was declared down, only what was answered in two regions is asked for.

use std::collections::BTreeMap;

use crate::end::End;
use crate::people::journal::Journal;
use crate::people::{RESOURCES, device::account};

/// So long after an error what had been sent before it may arrive, milliseconds.
const ON_THE_WIRE_MS: u64 = 4_000;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let mut broken = Vec::new();
    let lost = !end.two_regions && !journal.fallen.is_empty();
    for (user, places) in end.rosters.iter().enumerate() {
        let Some((home, truth)) = places.first() else { continue };
        for (host, copy) in &places[1..] {
            if copy != truth {
                broken.push(format!(
                    "the roster of {}: {home} has {truth:?}, {host} has {copy:?}",
                    account(user)
                ));
            }
        }
        for (number, set) in journal.sets.iter().enumerate() {
            let Some((answered, true)) = set.answer else { continue };
            if set.device / RESOURCES.len() != user {
                continue;
            }
            if lost {
                continue;
            }
            let Some(stands) = truth.items.get(&set.contact) else {
                broken.push(format!(
                    "set {number} of {} was answered, and the contact is not there",
                    account(user)
                ));
                continue;
            };
            // What stands is older than what was answered: it was answered before that began.
            let other = &journal.sets[*stands as usize];
            let over = other.answer.map(|(at, done)| if done { at } else { at + ON_THE_WIRE_MS });
            let older = *stands as usize != number && over.is_some_and(|over| over < set.at);
            if older {
                broken.push(format!(
                    "set {number} of {} was answered at {answered}, but {stands}, answered before it began, stands",
                    account(user)
                ));
            }
        }
    }
    let mut versions: BTreeMap<usize, u64> = BTreeMap::new();
    for seen in &journal.rosters {
        let Some(version) = seen.version else { continue };
        let known = versions.entry(seen.session).or_insert(version);
        // What was seen and not answered may be lost with its home.
        if version < *known && journal.fallen.is_empty() {
            broken.push(format!(
                "device {} saw roster version {version} after {known}, at {}",
                seen.device, seen.at
            ));
        }
        *known = version;
    }
    broken
}
