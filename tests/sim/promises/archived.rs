//! *What was acknowledged to me is in my archive and in its addressee's, once, and every region reads the same:* at the end, of every message that
//! was acknowledged and not refused. Twice is what was said again, because it could not be made safe in time. An archive has nothing that nobody sent. Where a region was declared down, only with two regions.

use std::collections::{BTreeMap, BTreeSet};

use crate::end::End;
use crate::people::journal::Journal;
use crate::people::{RESOURCES, device::account};

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let Some(archives) = &end.archives else { return Vec::new() };
    let mut broken = Vec::new();
    let from = |number: usize| journal.sent[number].device / RESOURCES.len();
    let lost = !end.two_regions && !journal.fallen.is_empty();
    let mut sent_in: BTreeSet<usize> = BTreeSet::new();
    let mut got_in: BTreeSet<usize> = BTreeSet::new();
    for (user, places) in archives.iter().enumerate() {
        let Some((home, truth)) = places.first() else { continue };
        for (host, copy) in &places[1..] {
            if copy != truth {
                broken.push(format!(
                    "the archive of {}: {home} has {} items, {host} has {}, and not the same",
                    account(user),
                    truth.len(),
                    copy.len()
                ));
            }
        }
        let mut times: BTreeMap<(bool, usize), usize> = BTreeMap::new();
        for (sent, number) in truth.iter().copied() {
            let Some(message) = journal.sent.get(number) else {
                broken.push(format!("{} has message {number}, which nobody sent", account(user)));
                continue;
            };
            let is_right = if sent { from(number) == user } else { message.to_user == user };
            if !is_right {
                broken.push(format!("message {number} is in the archive of {}", account(user)));
            }
            let count = times.entry((sent, number)).or_default();
            *count += 1;
            if *count == 2 && !message.was_unsafe_for_long() {
                broken.push(format!("message {number} is twice with {}", account(user)));
            }
            if sent {
                sent_in.insert(number)
            } else {
                got_in.insert(number)
            };
        }
    }
    for (number, sent) in journal.sent.iter().enumerate() {
        if sent.acked.is_none() || sent.refused.is_some() || lost {
            continue;
        }
        // A note to oneself is kept once.
        if from(number) != sent.to_user && !sent_in.contains(&number) {
            broken.push(format!("message {number} is not in the archive of who sent it"));
        }
        if !got_in.contains(&number) {
            broken.push(format!("message {number} is not in the archive of who it is for"));
        }
    }
    broken
}
