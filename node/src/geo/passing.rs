//! Room: sessions that are between two other nodes: the one where a session was has said that it goes on at the other, and the other's row has not come
//! yet (another link, and it may be cut). No row says that anybody sees that session; this does. It ends with the row, or with the other
//! node's echo if there is none: then the session ended on the way, and whoever sees it hears of that. Values only. Called by `route`, `presence`, `light`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use global_distrib::{Mark, NodeIx};
use parking_lot::Mutex;
use replication::Hlc;
use xmpp::jid::FullJid;

/// Sessions that are remembered at most. Beyond, they are shown as gone at once, until they show themselves again.
pub const PASSINGS_MAX: usize = 65_536;

/// One session.
#[derive(Debug)]
pub struct Passing {
    /// Whose.
    pub full: FullJid,
    /// Of its row, which is gone.
    pub generation: Hlc,
    /// Where it goes on.
    pub to: NodeIx,
    /// When it is echoed, what that node knew is known here.
    pub mark: Mark,
    /// Who of this node has asked for its presence meanwhile, which is to be asked again when it is there. At most each session here once.
    askers: Vec<FullJid>,
}

/// What has become of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not known yet.
    Open,
    /// It has a row.
    Arrived,
    /// It has none, and will not have one soon.
    Lost,
}

/// See the room. By bare JID.
#[derive(Debug, Default)]
pub struct Passings {
    /// How many: nobody takes the lock while there are none.
    count: AtomicUsize,
    by_account: Mutex<BTreeMap<String, Vec<Passing>>>,
}

impl Passings {
    /// A session that is seen here passes to another node. To be called before its row goes. False: no room, it is to be shown as gone.
    pub fn begin(&self, full: &FullJid, generation: Hlc, to: NodeIx, mark: Mark) -> bool {
        let mut all = self.by_account.lock();
        if self.count.load(Ordering::Relaxed) >= PASSINGS_MAX {
            return false;
        }
        let of = all.entry(full.bare_str().to_owned()).or_default();
        // It went on from there before its row had come here.
        let known = of.iter().position(|known| known.full == *full).map(|at| of.remove(at));
        if known.is_none() {
            self.count.fetch_add(1, Ordering::Release);
        }
        let askers = known.map(|known| known.askers).unwrap_or_default();
        of.push(Passing { full: full.clone(), generation, to, mark, askers });
        true
    }

    /// Whether there is none: one load.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Those of an account.
    pub fn of(&self, account: &str) -> Vec<FullJid> {
        if self.is_empty() {
            return Vec::new();
        }
        let all = self.by_account.lock();
        all.get(account).into_iter().flatten().map(|passing| passing.full.clone()).collect()
    }

    /// A session of this node asks for the presence of an account.
    pub fn ask(&self, account: &str, asker: &FullJid) {
        if self.is_empty() {
            return;
        }
        for passing in self.by_account.lock().get_mut(account).into_iter().flatten() {
            if passing.full != *asker && !passing.askers.contains(asker) {
                passing.askers.push(asker.clone());
            }
        }
    }

    /// Its new row is here. Who has asked for it meanwhile.
    pub fn arrived(&self, full: &FullJid) -> Vec<FullJid> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut all = self.by_account.lock();
        let Some(of) = all.get_mut(full.bare_str()) else { return Vec::new() };
        let Some(at) = of.iter().position(|passing| passing.full == *full) else {
            return Vec::new();
        };
        let passing = of.remove(at);
        if of.is_empty() {
            all.remove(full.bare_str());
        }
        self.count.fetch_sub(1, Ordering::Release);
        passing.askers
    }

    /// Forgets those whose fate is known, and returns the lost ones. O(those there are).
    pub fn take(&self, fate: impl Fn(&Passing) -> Fate) -> Vec<(FullJid, Hlc)> {
        let mut lost = Vec::new();
        let mut all = self.by_account.lock();
        all.retain(|_, of| {
            of.retain(|passing| {
                let fate = fate(passing);
                if fate == Fate::Lost {
                    lost.push((passing.full.clone(), passing.generation));
                }
                fate == Fate::Open
            });
            !of.is_empty()
        });
        self.count.store(all.values().map(Vec::len).sum(), Ordering::Release);
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> FullJid {
        FullJid::parse(text).expect("jid")
    }

    #[test]
    fn a_session_passes_until_it_has_arrived_or_is_lost() {
        let passings = Passings::default();
        let [phone, laptop, nurse] = ["romeo@x/phone", "romeo@x/laptop", "nurse@x/1"].map(jid);
        passings.begin(&phone, Hlc(1), NodeIx(1), Mark::default());
        passings.begin(&laptop, Hlc(2), NodeIx(1), Mark::default());
        passings.ask("romeo@x", &nurse);
        passings.ask("romeo@x", &nurse);
        // On again, before it was seen where it went: who asked still waits.
        passings.begin(&phone, Hlc(3), NodeIx(2), Mark::default());
        assert_eq!(passings.of("romeo@x"), [laptop.clone(), phone.clone()]);
        assert_eq!(passings.arrived(&phone), [nurse]);
        assert_eq!(passings.arrived(&phone), [""; 0].map(jid));
        assert_eq!(passings.take(|_| Fate::Open), []);
        assert!(!passings.is_empty());
        assert_eq!(passings.take(|_| Fate::Lost), [(laptop, Hlc(2))]);
        assert!(passings.is_empty() && passings.of("romeo@x").is_empty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let passings = Passings::default();
        for at in 0..PASSINGS_MAX {
            let full = jid(&format!("u{at}@x/1"));
            assert!(passings.begin(&full, Hlc(1), NodeIx(1), Mark::default()));
        }
        assert!(!passings.begin(&jid("romeo@x/phone"), Hlc(1), NodeIx(1), Mark::default()));
        passings.take(|_| Fate::Arrived);
        assert!(passings.begin(&jid("romeo@x/phone"), Hlc(1), NodeIx(1), Mark::default()));
    }
}
