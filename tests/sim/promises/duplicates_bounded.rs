//! I2. *A message does not arrive twice:* a device sees one again only if it had not acknowledged it (XEP-0198) when its session or that
//! session's node died; if the node where it was sent and the node where it was read both died; or if it had been filed, and its home died
//! before it could hear that it was read. A client that resumes says what it has, so within a session nothing comes twice at all.

use std::collections::BTreeMap;

use crate::end::End;
use crate::people::journal::{Journal, Seen};

/// The node where it was read and the node where it was sent: nobody is left who knows.
fn both_died(journal: &Journal, first: &Seen, again: &Seen) -> bool {
    let sent = &journal.sent[first.message];
    let died = |session: usize, since: u64| {
        let host = journal.sessions[session].host;
        journal.deaths.iter().any(|(dead, at)| *dead == host && (since..again.at).contains(at))
    };
    died(first.session, first.at) && died(sent.session, sent.at)
}

/// A node died just after it was handed out from the store, and it was handed out again.
fn home_died(journal: &Journal, first: &Seen, again: &Seen) -> bool {
    const HEARD_MS: u64 = 1_000;
    let then = first.at..first.at + HEARD_MS;
    first.late && again.late && journal.deaths.iter().any(|(_, at)| then.contains(at))
}

/// See the module.
pub fn check(journal: &Journal, _: &End) -> Vec<String> {
    let mut before: BTreeMap<(usize, usize), &Seen> = BTreeMap::new();
    let mut broken = Vec::new();
    for seen in &journal.seen {
        let Some(first) = before.insert((seen.message, seen.device), seen) else { continue };
        let what = format!(
            "device {} saw message {} at {} and again at {}",
            seen.device, seen.message, first.at, seen.at
        );
        if first.session == seen.session {
            broken.push(format!("{what}, in one session"));
        } else if journal.acknowledged(first, seen.at)
            && !both_died(journal, first, seen)
            && !home_died(journal, first, seen)
        {
            broken.push(format!("{what}, though it had acknowledged it"));
        }
    }
    broken
}
