//! *If somebody is connected in any region when I write to them, my message goes to them and not to the shelf, and my question is not answered
//! in their place:* a device that was bound when it was asked, and still is when the answer comes, answers itself. Asked where nobody goes without
//! a word: what a session that is gone had been asked is answered with an error, though the device may be back by then.

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    if !end.calm {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for (number, ping) in journal.pings.iter().enumerate() {
        let Some((answered, Some(error))) = &ping.answer else { continue };
        let asked = &journal.sessions[ping.to];
        if asked.over.is_none_or(|over| over > *answered) {
            broken.push(format!(
                "ping {number}, sent at {}, came back at {answered} ({error}), but session {} was there since {}",
                ping.at, ping.to, asked.at
            ));
        }
    }
    broken
}
