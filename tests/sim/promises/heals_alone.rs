//! I15. *Nobody has to do anything after a fault:* when the last one is over, everybody comes online by themselves, nothing waits any more,
//! and what is said then is heard.

use std::collections::BTreeSet;

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let mut broken: Vec<String> =
        end.unrest.iter().map(|why| format!("it did not come to rest: {why}")).collect();
    let seen: BTreeSet<usize> = journal.seen.iter().map(|seen| seen.message).collect();
    let users: BTreeSet<usize> = end.online.values().map(|online| online.user).collect();
    let spoke = journal.sent.iter().rev().take(users.len() * end.users);
    let unheard = spoke
        .enumerate()
        .filter(|(back, _)| !seen.contains(&(journal.sent.len() - 1 - back)))
        .count();
    if unheard > 0 {
        broken.push(format!("{unheard} of the last words were not heard"));
    }
    broken
}
