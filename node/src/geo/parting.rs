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

type Contacts = BTreeMap<BareJid, BTreeSet<String>>;

/// See the room.
#[derive(Debug, Default)]
pub struct Partings {
    /// How many accounts: nobody takes the lock while there are none.
    count: AtomicUsize,
    /// By account, by contact: the sessions that the contact has been told of.
    by_account: Mutex<BTreeMap<BareJid, Contacts>>,
}

impl Partings {
    /// The account's roster no longer lets that contact see it. To be called before rosters say so.
    pub fn begin(&self, account: &BareJid, contact: &BareJid) {
        let mut all = self.by_account.lock();
        if all.len() < PARTINGS_MAX || all.contains_key(account) {
            all.entry(account.clone()).or_default().entry(contact.clone()).or_default();
            self.count.store(all.len(), Ordering::Release);
        }
    }

    /// The contact has been told that it sees this session of the account no longer.
    pub fn told(&self, account: &BareJid, contact: &BareJid, session: &str) {
        self.begin(account, contact);
        if let Some(told) =
            self.by_account.lock().get_mut(account).and_then(|all| all.get_mut(contact))
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
        if let Some(told) = all.get_mut(account).and_then(|all| all.get_mut(contact)) {
            told.remove(session);
        }
    }

    /// The contact's roster says the same now. The sessions that it was told of.
    pub fn end(&self, account: &str, contact: &str) -> BTreeSet<String> {
        if self.count.load(Ordering::Acquire) == 0 {
            return BTreeSet::new();
        }
        let mut all = self.by_account.lock();
        let Some(contacts) = all.get_mut(account) else { return BTreeSet::new() };
        let told = contacts.remove(contact).unwrap_or_default();
        if contacts.is_empty() {
            all.remove(account);
            self.count.store(all.len(), Ordering::Release);
        }
        told
    }

    /// Who may still see the account, though its roster says otherwise. To be asked behind that roster.
    pub fn of(&self, account: &str) -> Vec<BareJid> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let all = self.by_account.lock();
        all.get(account).map(|contacts| contacts.keys().cloned().collect()).unwrap_or_default()
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

    #[test]
    fn a_contact_is_remembered_until_its_own_roster_says_so_or_nobody_is_there() {
        let partings = Partings::default();
        let jid = |text| BareJid::parse(text).expect("jid");
        let [romeo, juliet, nurse] = ["romeo@x", "juliet@x", "nurse@x"].map(jid);
        assert!(partings.end("romeo@x", "juliet@x").is_empty());
        partings.begin(&romeo, &juliet);
        partings.told(&romeo, &nurse, "romeo@x/phone");
        partings.begin(&romeo, &nurse);
        assert_eq!(partings.of("romeo@x"), [juliet, nurse.clone()]);
        assert!(partings.of("juliet@x").is_empty());
        partings.told(&romeo, &nurse, "romeo@x/laptop");
        partings.shown("romeo@x", "nurse@x", "romeo@x/laptop");
        assert_eq!(
            partings.end("romeo@x", "nurse@x").into_iter().collect::<Vec<_>>(),
            ["romeo@x/phone"]
        );
        assert!(partings.end("romeo@x", "nurse@x").is_empty());
        partings.tidy(|account| *account == romeo);
        assert_eq!(partings.of("romeo@x").len(), 1);
        partings.tidy(|_| false);
        assert!(partings.of("romeo@x").is_empty());
        assert_eq!(partings.count.load(Ordering::Acquire), 0);
    }
}
