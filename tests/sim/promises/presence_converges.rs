//! I8. *My contacts see me while I am connected, and nobody else does:* once all is quiet each device has heard the last presence of every
//! device of its own user and of those whose presence its user is subscribed to, and sees nobody else. Where the two rosters disagree
//! (a subscription is two commits, and two devices that say opposite things at one moment have no order) nothing is asked.

use crate::end::{End, Shown};
use crate::people::journal::Journal;
use crate::people::{RESOURCES, device::account};

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let mut broken = Vec::new();
    for (hearer, of) in &end.online {
        for (whom, shown) in end.online.iter().filter(|(whom, _)| *whom != hearer) {
            let own = of.user == shown.user;
            let relation =
                if own { Some(&Shown::Yes) } else { end.shown_to.get(&(shown.user, of.user)) };
            let heard = journal.heard.get(&(*hearer, *whom));
            let status = heard.and_then(|heard| heard.status);
            match relation {
                Some(Shown::Yes) if status != shown.shows => broken.push(format!(
                    "{} last heard {heard:?} of {}, which shows {:?}",
                    of.full, shown.full, shown.shows
                )),
                Some(Shown::No) if status.is_some() => broken.push(format!(
                    "{} sees {} ({heard:?}), whose presence it is not subscribed to",
                    of.full, shown.full
                )),
                _ => {}
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
