//! I5. *Nothing I send vanishes:* each message of a session that lives to the end is acknowledged, and is delivered, stored, or comes back.

use std::collections::BTreeSet;

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let read: BTreeSet<usize> = journal.seen.iter().map(|seen| seen.message).collect();
    let lives = |session: usize| journal.sessions[session].over.is_none();
    journal
        .sent
        .iter()
        .enumerate()
        .filter(|(_, sent)| lives(sent.session))
        .filter(|(number, sent)| {
            let settled = read.contains(number) || end.stored.contains(number) || sent.refused.is_some();
            !settled || sent.acked.is_none()
        })
        .map(|(number, sent)| {
            let acked = if sent.acked.is_some() { "acknowledged" } else { "never acknowledged" };
            format!("message {number} to u{}, sent at {}, {acked}: its session lives, and nobody has it", sent.to_user, sent.at)
        })
        .collect()
}
