//! Room: subscriptions that are ending. One is two facts, each with a writer of its own: what an account's roster says of who may see it, and
//! what the contact's roster says of whom it watches. The first may be known here long before the second, or after it. While only the first
//! is, no roster says that the contact must hear when a session of the account ends, though it may have been shown that session: this does.
//! Values only. Called by the roster feature, `presence`, `light`, `tick`; RFC 6121 §3.2 and §3.3.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xmpp::jid::BareJid;

/// Accounts that are remembered at most. Beyond, an end is not noted: a contact may then see a session that is gone, until it signs in again.
pub const PARTINGS_MAX: usize = 65_536;

type Contacts = BTreeMap<BareJid, Parting>;

/// Which of the two rosters has said it so far.
#[derive(Debug)]
enum Parting {
    /// The account's: with the sessions that the contact has been told of since.
    Account(BTreeSet<String>),
    /// The contact's.
    Contact,
}

/// See the room.
#[derive(Debug, Default)]
pub struct Partings {
    /// How many accounts: nobody takes the lock while there are none.
    count: AtomicUsize,
    by_account: Mutex<BTreeMap<BareJid, Contacts>>,
}

impl Partings {
    /// The account's roster no longer lets that contact see it. To be called before rosters say so.
    pub fn begin(&self, account: &BareJid, contact: &BareJid) {
        let mut all = self.by_account.lock();
        if matches!(all.get(account).and_then(|all| all.get(contact)), Some(Parting::Contact)) {
            self.remove(&mut all, account.as_str(), contact.as_str());
        } else {
            self.note(&mut all, account, contact, || Parting::Account(BTreeSet::new()));
        }
    }

    fn note(
        &self,
        all: &mut BTreeMap<BareJid, Contacts>,
        account: &BareJid,
        contact: &BareJid,
        parting: impl FnOnce() -> Parting,
    ) {
        if all.len() < PARTINGS_MAX || all.contains_key(account) {
            all.entry(account.clone()).or_default().entry(contact.clone()).or_insert_with(parting);
            self.count.store(all.len(), Ordering::Release);
        }
    }

    fn remove(
        &self,
        all: &mut BTreeMap<BareJid, Contacts>,
        account: &str,
        contact: &str,
    ) -> Option<Parting> {
        let contacts = all.get_mut(account)?;
        let removed = contacts.remove(contact);
        if contacts.is_empty() {
            all.remove(account);
            self.count.store(all.len(), Ordering::Release);
        }
        removed
    }

    /// Whether there is none at all: then the rosters here agree about everybody whose subscription has ended.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// The contact has been told that it sees this session of the account no longer.
    pub fn told(&self, account: &BareJid, contact: &BareJid, session: &str) {
        let mut all = self.by_account.lock();
        self.note(&mut all, account, contact, || Parting::Account(BTreeSet::new()));
        if let Some(Parting::Account(told)) =
            all.get_mut(account).and_then(|all| all.get_mut(contact))
        {
            told.insert(session.to_owned());
        }
    }

    /// The contact has been shown it again: by a node that had not heard of the change.
    pub fn shown(&self, account: &str, contact: &str, session: &str) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut all = self.by_account.lock();
        if let Some(Parting::Account(told)) =
            all.get_mut(account).and_then(|all| all.get_mut(contact))
        {
            told.remove(session);
        }
    }

    /// The contact's roster says that it watches the account no longer. The sessions that it was told of, if the account's said so before.
    pub fn end(&self, account: &BareJid, contact: &BareJid) -> BTreeSet<String> {
        let mut all = self.by_account.lock();
        match self.remove(&mut all, account.as_str(), contact.as_str()) {
            Some(Parting::Account(told)) => told,
            _ => {
                self.note(&mut all, account, contact, || Parting::Contact);
                BTreeSet::new()
            }
        }
    }

    /// The contact watches the account no longer, and nobody of it is here.
    pub fn forget(&self, account: &str, contact: &str) {
        if !self.is_empty() {
            let mut all = self.by_account.lock();
            if matches!(
                all.get(account).and_then(|all| all.get(contact)),
                Some(Parting::Account(_))
            ) {
                self.remove(&mut all, account, contact);
            }
        }
    }

    /// The contact watches the account again: that it did not has nothing to wait for any more. The account's roster may have let go of it long
    /// before, and the next time it does, the contact may see it.
    pub fn resume(&self, account: &str, contact: &str) {
        if !self.is_empty() {
            let mut all = self.by_account.lock();
            if matches!(all.get(account).and_then(|all| all.get(contact)), Some(Parting::Contact)) {
                self.remove(&mut all, account, contact);
            }
        }
    }

    /// Who may still see the account, though its roster says otherwise. To be asked behind that roster.
    pub fn of(&self, account: &str) -> Vec<BareJid> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let all = self.by_account.lock();
        let may_see = |(contact, parting): (&BareJid, &Parting)| {
            matches!(parting, Parting::Account(_)).then(|| contact.clone())
        };
        all.get(account).map(|all| all.iter().filter_map(may_see).collect()).unwrap_or_default()
    }

    /// Forgets accounts of which there is no session. O(accounts remembered).
    pub fn tidy(&self, is_there: impl Fn(&BareJid) -> bool) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut all = self.by_account.lock();
        all.retain(|account, _| is_there(account));
        self.count.store(all.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> BareJid {
        BareJid::parse(text).expect("jid")
    }

    #[test]
    fn a_contact_is_remembered_until_its_own_roster_says_so_or_nobody_is_there() {
        let partings = Partings::default();
        let [romeo, juliet, nurse] = ["romeo@x", "juliet@x", "nurse@x"].map(jid);
        partings.begin(&romeo, &juliet);
        partings.told(&romeo, &nurse, "romeo@x/phone");
        partings.begin(&romeo, &nurse);
        assert_eq!(partings.of("romeo@x"), [juliet, nurse.clone()]);
        assert!(partings.of("juliet@x").is_empty());
        partings.told(&romeo, &nurse, "romeo@x/laptop");
        partings.shown("romeo@x", "nurse@x", "romeo@x/laptop");
        let told: Vec<String> = partings.end(&romeo, &nurse).into_iter().collect();
        assert_eq!(told, ["romeo@x/phone"]);
        partings.tidy(|account| *account == romeo);
        assert_eq!(partings.of("romeo@x").len(), 1);
        partings.tidy(|_| false);
        assert!(partings.of("romeo@x").is_empty() && partings.is_empty());
    }

    #[test]
    fn whichever_roster_says_it_first_the_second_ends_it() {
        let partings = Partings::default();
        let [romeo, juliet] = ["romeo@x", "juliet@x"].map(jid);
        assert!(partings.end(&romeo, &juliet).is_empty());
        assert!(!partings.is_empty() && partings.of("romeo@x").is_empty());
        partings.begin(&romeo, &juliet);
        assert!(partings.is_empty());
        partings.begin(&romeo, &juliet);
        partings.end(&romeo, &juliet);
        assert!(partings.is_empty());
    }

    #[test]
    fn who_watches_again_is_remembered_when_that_ends_too() {
        let partings = Partings::default();
        let [romeo, juliet] = ["romeo@x", "juliet@x"].map(jid);
        // His roster had let go of her before: nobody will say so again.
        partings.end(&romeo, &juliet);
        partings.resume("romeo@x", "juliet@x");
        assert!(partings.is_empty());
        partings.begin(&romeo, &juliet);
        partings.resume("romeo@x", "juliet@x");
        assert_eq!(partings.of("romeo@x"), [juliet]);
    }
}
