//! *What I send to another domain and is acknowledged to me arrives there or comes back; once, unless a node died, counted as dead or was stopped meanwhile, or it, or what I
//! had said before it, could not be made safe for so long that I was told, resuming, to say it again; and in the
//! order in which I sent it, whichever region speaks for me* (decision 0016): for each session, in the order of first arrival.

use std::collections::BTreeMap;

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(journal: &Journal, end: &End) -> Vec<String> {
    let mut broken = Vec::new();
    let mut first: BTreeMap<usize, u64> = BTreeMap::new();
    let mut newest: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, at) in end.abroad.iter().copied() {
        let sent = &journal.abroad[number];
        if let Some(before) = first.get(&number) {
            let stops = journal.stops.iter().chain(&journal.stopped);
            let mut ends = journal.deaths.iter().chain(stops).map(|(_, died)| *died);
            let ended = ends.any(|died| (sent.at..=at).contains(&died));
            if !ended && !sent.was_unsafe_for_long() && !journal.any_fell(sent.at, at) {
                broken.push(format!("message a{number} arrived at {before} and again at {at}"));
            }
            continue;
        }
        first.insert(number, at);
        let last = newest.entry(sent.session).or_insert(number);
        if *last > number {
            broken.push(format!("message a{number} arrived at {at}, after a{last} of its session"));
        }
        *last = (*last).max(number);
    }
    for (number, sent) in journal.abroad.iter().enumerate() {
        let lives = journal.sessions[sent.session].over.is_none();
        let arrived = first.contains_key(&number);
        if sent.acked.is_some() && sent.is_there && !arrived && sent.refused.is_none() {
            broken.push(format!(
                "message a{number}, sent at {} and acknowledged, is nowhere",
                sent.at
            ));
        }
        if lives && sent.acked.is_none() {
            broken.push(format!("message a{number}, sent at {}, was never acknowledged", sent.at));
        }
        if lives && !sent.is_there && sent.refused.is_none() {
            broken.push(format!("message a{number}, to a domain that is not there, vanished"));
        }
    }
    broken
}
