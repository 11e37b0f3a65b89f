//! I8. *My contacts see me while I am connected, and nobody else does:* once all is quiet each device has heard the last presence of every
//! device of its user's friends and of its own user, and nothing of strangers.

use crate::end::End;
use crate::people::journal::Journal;
use crate::people::{RESOURCES, device::account};
use crate::play::friends;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let mut broken = Vec::new();
    for (hearer, of) in &end.online {
        for (whom, shown) in end.online.iter().filter(|(whom, _)| *whom != hearer) {
            let entitled = of.user == shown.user || friends(end.users, of.user, shown.user);
            let heard = journal.heard.get(&(*hearer, *whom));
            let status = heard.and_then(|heard| heard.status);
            if entitled && status != shown.shows {
                broken.push(format!(
                    "{} last heard {heard:?} of {}, which shows {:?}",
                    of.full, shown.full, shown.shows
                ));
            }
            if !entitled && heard.is_some() {
                broken.push(format!("{} has heard of {}, a stranger", of.full, shown.full));
            }
        }
        // Whoever is not online is not seen.
        for ((_, whom), heard) in journal.heard.range((*hearer, 0)..(*hearer + 1, 0)) {
            if !end.online.contains_key(whom) && heard.status.is_some() {
                let (user, resource) = (whom / RESOURCES.len(), RESOURCES[whom % RESOURCES.len()]);
                broken.push(format!(
                    "{} still sees {}/{resource}, which is gone",
                    of.full,
                    account(user)
                ));
            }
        }
    }
    broken
}
