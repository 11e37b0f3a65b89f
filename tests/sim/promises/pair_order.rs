//! I3. *My messages to one person arrive in the order in which I sent them, wherever that person is and even while they move:* for each of
//! my sessions and each device that reads, in the order of first sight.

use std::collections::{BTreeMap, BTreeSet};

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, _: &End) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut last: BTreeMap<(usize, usize, usize), usize> = BTreeMap::new();
    let mut broken = Vec::new();
    for seen in &journal.seen {
        let sent = &journal.sent[seen.message];
        // A message to one resource is a pair of its own.
        if sent.to_device.is_some() || !known.insert((seen.message, seen.device)) {
            continue;
        }
        let newest = last.entry((sent.session, sent.to_user, seen.device)).or_insert(seen.message);
        if *newest > seen.message {
            broken.push(format!(
                "device {} saw message {} at {}, after message {newest} of the same sender",
                seen.device, seen.message, seen.at
            ));
        }
        *newest = (*newest).max(seen.message);
    }
    broken
}
