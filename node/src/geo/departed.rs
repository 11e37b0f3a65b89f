//! Room: sessions that ended while this node did not hear its region's scribe. The node reads rosters from the database itself meanwhile, so the account of
//! such a session may have withdrawn from a contact here of which the feed has not told yet: then that contact is on no list of those who hear of the end.
//! When its own roster says that it watches the account no longer (`presence::parted`), it hears of these too. Values only. Called by `presence`; RFC 6121 §3.2.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xmpp::jid::FullJid;

/// Sessions that are remembered. Beyond, the oldest are forgotten: a contact may then see one until it signs in again, if it goes by presence alone.
pub const DEPARTED_MAX: usize = 16_384;
/// Of one account: who binds and leaves all the time fills neither the room nor his contacts' mailboxes.
pub const DEPARTED_OF_ONE_MAX: usize = 64;
/// For so long: longer than a node waits for its scribe before it counts as gone.
pub const DEPARTED_MS: u64 = 10 * 60_000;

/// See the room.
#[derive(Debug, Default)]
pub struct Departed {
    /// How many: nobody takes the lock while there are none.
    count: AtomicUsize,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// In that order too, each full JID by its last end: an earlier one that is forgotten takes no later one along.
    by_account: BTreeMap<String, Vec<(u64, FullJid)>>,
    /// In the order of their ends.
    ended: VecDeque<(u64, FullJid)>,
}

impl All {
    fn forget_first(&mut self) {
        let Some(end) = self.ended.pop_front() else { return };
        let (_, full) = &end;
        let Some(of) = self.by_account.get_mut(full.bare_str()) else { return };
        if let Some(at) = of.iter().position(|known| *known == end) {
            of.remove(at);
        }
        if of.is_empty() {
            self.by_account.remove(full.bare_str());
        }
    }
}

impl Departed {
    /// A session has ended, now (ms).
    pub fn note(&self, full: &FullJid, now_ms: u64) {
        let mut all = self.all.lock();
        while all.ended.len() >= DEPARTED_MAX
            || all.ended.front().is_some_and(|(at, _)| at + DEPARTED_MS < now_ms)
        {
            all.forget_first();
        }
        all.ended.push_back((now_ms, full.clone()));
        let of = all.by_account.entry(full.bare_str().to_owned()).or_default();
        of.retain(|(_, known)| known != full);
        if of.len() >= DEPARTED_OF_ONE_MAX {
            of.remove(0);
        }
        of.push((now_ms, full.clone()));
        self.count.store(all.ended.len(), Ordering::Release);
    }

    /// Those of an account, the last that ended last.
    pub fn of(&self, account: &str) -> Vec<FullJid> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let all = self.all.lock();
        let of = all.by_account.get(account).into_iter().flatten();
        of.map(|(_, full)| full.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> FullJid {
        FullJid::parse(text).expect("jid")
    }

    #[test]
    fn the_oldest_are_forgotten_by_number_and_by_time() {
        let departed = Departed::default();
        let [phone, laptop] = ["romeo@x/phone", "romeo@x/laptop"].map(jid);
        assert!(departed.of("romeo@x").is_empty());
        departed.note(&phone, 1);
        departed.note(&laptop, 2);
        assert_eq!(departed.of("romeo@x"), [phone.clone(), laptop.clone()]);
        departed.note(&jid("nurse@x/1"), 2 + DEPARTED_MS);
        assert_eq!(departed.of("romeo@x"), [laptop]);
        for n in 0..DEPARTED_MAX {
            departed.note(&jid(&format!("friar@x/{n}")), 3 + DEPARTED_MS);
        }
        assert!(departed.of("romeo@x").is_empty() && departed.of("nurse@x").is_empty());
        assert_eq!(departed.of("friar@x").len(), DEPARTED_OF_ONE_MAX);
        // His are forgotten with the rest, and the newest last.
        assert_eq!(
            departed.of("friar@x").last(),
            Some(&jid(&format!("friar@x/{}", DEPARTED_MAX - 1)))
        );
        departed.note(&phone, 4 + 2 * DEPARTED_MS);
        assert!(departed.of("friar@x").is_empty());
        assert_eq!(departed.all.lock().by_account.len(), 1);
    }

    #[test]
    fn an_end_that_is_forgotten_takes_no_later_one_along() {
        let departed = Departed::default();
        let phone = jid("romeo@x/phone");
        departed.note(&phone, 1);
        for n in 0..DEPARTED_OF_ONE_MAX {
            departed.note(&jid(&format!("romeo@x/{n}")), 2);
        }
        // It has made room for others, and ends once more.
        departed.note(&phone, 3);
        departed.note(&jid("nurse@x/1"), 2 + DEPARTED_MS);
        assert!(departed.of("romeo@x").contains(&phone));
        departed.note(&jid("nurse@x/1"), 4 + DEPARTED_MS);
        assert!(departed.of("romeo@x").is_empty());
    }
}
