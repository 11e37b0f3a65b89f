//! I2. *A message does not arrive twice:* a device sees one again only if it had not acknowledged it (XEP-0198) when its session or that
//! session's node died. A client that resumes says what it has, so within a session nothing comes twice at all.

use std::collections::BTreeMap;

use crate::end::End;
use crate::people::journal::{Journal, Seen};

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
        } else if journal.acknowledged(first, seen.at) {
            broken.push(format!("{what}, though it had acknowledged it"));
        }
    }
    broken
}
