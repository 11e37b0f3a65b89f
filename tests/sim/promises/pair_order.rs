//! I3. *My messages to one person arrive in the order in which I sent them, wherever that person is and even while they move:* for each of
//! my sessions and each device that reads, in the order of first sight. Excused is what another device of that person had taken and lost:
//! it comes late, and says so (XEP-0203) if that is a second or more, to a device that was not there when it was sent; and so does what a session of its own had taken
//! and lost, when it had stopped taking messages and newer ones were filed meanwhile; and what was filed while a region was declared down.

use std::collections::{BTreeMap, BTreeSet};

use crate::end::End;
use crate::people::journal::{Journal, Seen};

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
        let excused = was_with_another(journal, seen)
            || moved_with_another(journal, seen)
            || was_hidden(journal, seen)
            || (seen.late && journal.any_fell(sent.at, seen.at));
        if *newest > seen.message && !excused {
            broken.push(format!(
                "device {} saw message {} at {}, after message {newest} of the same sender",
                seen.device, seen.message, seen.at
            ));
        }
        *newest = (*newest).max(seen.message);
    }
    broken
}

/// So long after it was sent a message has certainly been routed, unless a line is cut.
const ROUTED_MS: u64 = 3_000;
/// A session that the client has given up waits so long at the server to be resumed, and takes messages.
const HIBERNATES_MS: u64 = 15_000;

/// It comes marked as late, and a former session of the device took no messages for a while after it was sent.
fn was_hidden(journal: &Journal, seen: &Seen) -> bool {
    let sent = &journal.sent[seen.message];
    seen.late
        && journal.hidden.iter().any(|(session, at)| {
            let former = &journal.sessions[*session];
            *session != seen.session
                && former.device == seen.device
                && former.at < sent.at + ROUTED_MS
                && (sent.at.saturating_sub(ROUTED_MS)..seen.at).contains(at)
        })
}

/// What found its way anew within a second does not say so; it is seen so soon, the ways to and from the server included.
const UNMARKED_MS: u64 = 1_500;

/// Another device of the account, which was there when it was sent or of whose end nobody could hear where that was, has moved or ended: what had reached it
/// too late to go along found its way anew, within the second from which on it says so.
fn moved_with_another(journal: &Journal, seen: &Seen) -> bool {
    let sent = &journal.sent[seen.message];
    let from = journal.sessions[sent.session].host;
    let soon = seen.at < sent.at + UNMARKED_MS;
    soon && journal.sessions.iter().any(|session| {
        session.device != seen.device
            && session.user == sent.to_user
            && session.at < sent.at
            && session.over.is_some_and(|over| {
                let is_unheard = || journal.was_cut(session.host, from, over, sent.at);
                over <= seen.at && (over >= sent.at || is_unheard())
            })
    })
}

/// It comes marked as late, and another device of the account was there after it was sent.
fn was_with_another(journal: &Journal, seen: &Seen) -> bool {
    let sent = &journal.sent[seen.message];
    seen.late
        && journal.sessions.iter().any(|session| {
            session.device != seen.device
                && session.user == sent.to_user
                && session.at < seen.at.min(sent.at + ROUTED_MS)
                && session.over.is_none_or(|over| over + HIBERNATES_MS > sent.at)
        })
}
