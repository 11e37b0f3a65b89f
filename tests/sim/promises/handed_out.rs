//! *What is written to me while I am away is handed to me when I come back, and if I am connected when it is written, it goes to me and not
//! to the shelf:* when everybody is online and at rest, nobody's store holds anything. (With faults a user whose node is taken for silent
//! may have something filed although connected; it is handed out at the next initial presence, which does not come here.)

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    if !end.faultless {
        return Vec::new();
    }
    let is_there = |user: usize| {
        end.online.values().any(|online| online.user == user && online.shows.is_some())
    };
    end.stored
        .iter()
        .filter(|message| is_there(journal.sent[**message].to_user))
        .map(|message| {
            let to = journal.sent[*message].to_user;
            format!("message {message} to u{to} is still filed, and u{to} is there")
        })
        .collect()
}
