//! I2. *A message does not arrive twice:* a device sees one again only if it had not acknowledged it (XEP-0198) when its session or that
//! session's node died; if the node where it was sent and the node where it was read both died, or the node where it was read died alone,
//! behind a line that carried nothing to the other or while that one slept; if it was sent to devices at several nodes, one of which gave it back to a node where it
//! was sent that had died meanwhile; or if it had been filed, and its home could not hear in time that it was read, behind a cut line or a
//! death; or if a region was declared down meanwhile; or if it
//! could not be made safe for so long that its sender, resuming, was told that it is not handled and said it again. A client that resumes says what it has, so within a session nothing else comes twice at all.

use std::collections::BTreeMap;

use crate::end::End;
use crate::people::journal::{Journal, Seen};

/// The node where it was read and the node where it was sent: nobody is left who knows.
fn both_died(journal: &Journal, first: &Seen, again: &Seen) -> bool {
    let sent = &journal.sent[first.message];
    let died =
        |session: usize, since| journal.ended(journal.sessions[session].host, since, again.at);
    died(first.session, first.at) && died(sent.session, sent.at)
}

/// So long after a line is whole again the link may not be: a handshake that hangs, then a dial that waits.
const LINKED_AGAIN_MS: u64 = 8_000;

/// The node where it was read died before it could tell: nothing passed to the node where it was sent, or had not for long, or that one slept.
fn died_untold(journal: &Journal, first: &Seen, again: &Seen) -> bool {
    let from = journal.sessions[first.session].host;
    let to = journal.sessions[journal.sent[first.message].session].host;
    let mut ends = journal.ends(from);
    ends.any(|at| {
        (first.at..again.at).contains(&at)
            && (journal.was_cut(from, to, at - LINKED_AGAIN_MS.min(at), at)
                || journal.slept(to, first.at, at, LINKED_AGAIN_MS))
    })
}

/// It went to devices at several nodes, and the node where it was sent died: what comes back from one of them is routed anew by somebody who does not
/// know that another had it.
/// No life of that node knows how old it is, so it may come unmarked (seed 2004131).
fn asked_anew(journal: &Journal, first: &Seen, again: &Seen) -> bool {
    let sent = &journal.sent[first.message];
    let at = journal.sessions[sent.session].host;
    let died = journal.ended(at, sent.at, again.at);
    let here = &journal.sessions[first.session];
    let elsewhere = journal.sessions.iter().any(|other| {
        other.user == here.user
            && other.host != here.host
            && other.at < again.at
            && other.over.is_none_or(|over| over > sent.at)
    });
    sent.to_device.is_none() && died && elsewhere
}

/// It was handed out from the store, and again, while nodes died, slept or could not talk.
fn home_did_not_hear(end: &End, first: &Seen, again: &Seen) -> bool {
    !end.faultless && first.late && again.late
}

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let mut before: BTreeMap<(usize, usize), &Seen> = BTreeMap::new();
    let mut broken = Vec::new();
    for seen in &journal.seen {
        let Some(first) = before.insert((seen.message, seen.device), seen) else { continue };
        let what = format!(
            "device {} saw message {} at {} and again at {}",
            seen.device, seen.message, first.at, seen.at
        );
        let sent = &journal.sent[seen.message];
        let excused = asked_anew(journal, first, seen) || sent.was_unsafe_for_long();
        if excused || journal.any_fell(sent.at, seen.at) {
            continue;
        }
        if first.session == seen.session {
            broken.push(format!("{what}, in one session"));
        } else if journal.acknowledged(first, seen.at)
            && !both_died(journal, first, seen)
            && !died_untold(journal, first, seen)
            && !home_did_not_hear(end, first, seen)
        {
            broken.push(format!("{what}, though it had acknowledged it"));
        }
    }
    broken
}
