//! I1. *What the server has acknowledged to me survives the loss of any one node:* at the end it has been read by somebody of the addressee,
//! or is in the offline store, or came back as an error to a session that lived to hear it.

use std::collections::BTreeSet;

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let read: BTreeSet<usize> = journal.seen.iter().map(|seen| seen.message).collect();
    let mut broken = Vec::new();
    for (number, sent) in journal.sent.iter().enumerate() {
        let Some(acked) = sent.acked else { continue };
        if read.contains(&number) || end.stored.contains(&number) || sent.refused.is_some() {
            continue;
        }
        // With small limits it may have been refused when nobody was there any more to be told.
        if end.small && journal.sessions[sent.session].over.is_some() {
            continue;
        }
        broken.push(format!(
            "message {number} to u{}, sent at {} and acknowledged at {acked}, is nowhere",
            sent.to_user, sent.at
        ));
    }
    broken
}
