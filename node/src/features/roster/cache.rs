//! Rosters of accounts with sessions here, kept current by the changes that are applied. A presence broadcast reads no database.
//! Bound: entries of accounts without a local session are dropped when more than [`CACHED_MAX`] are held.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use replication::durable_log::Change;
use xmpp::jid::BareJid;

use super::record::{Contact, ROSTER, Roster, VERSION};
use super::watching::Watching;
use crate::app::Node;
use crate::storage::StorageError;

/// Rosters held at most (those of accounts with local sessions are never dropped).
pub const CACHED_MAX: usize = 200_000;

#[derive(Debug)]
enum Slot {
    /// Somebody reads it. `changes` came meanwhile: who began before the last of them reads again.
    Loading {
        changes: u64,
    },
    Ready(Held),
}

#[derive(Debug, Default)]
struct Held {
    roster: Arc<Roster>,
    /// The version that the entry makes which is being applied; each begins with it.
    entry: u64,
    /// That was in the roster when it was read, between the commit and this.
    known: bool,
}

impl From<Arc<Roster>> for Held {
    fn from(roster: Arc<Roster>) -> Self {
        Self { roster, entry: 0, known: false }
    }
}

impl Slot {
    fn is_loading(&self) -> bool {
        matches!(self, Slot::Loading { .. })
    }
}

/// See the room.
#[derive(Debug, Default)]
pub struct Rosters {
    slots: scc::HashMap<BareJid, Slot, foldhash::fast::RandomState>,
    /// Whom the accounts of these watch.
    watching: Watching,
    /// What was held of accounts with sessions here when a copy of them began to arrive, until it has: see `copied`.
    before: Mutex<BTreeMap<BareJid, Arc<Roster>>>,
}

impl Rosters {
    /// The roster if it is held.
    pub fn cached(&self, account: &BareJid) -> Option<Arc<Roster>> {
        self.slots.read_sync(account.as_str(), |_, slot| match slot {
            Slot::Ready(held) => Some(held.roster.clone()),
            Slot::Loading { .. } => None,
        })?
    }

    /// The roster, from the cache or the local replica.
    ///
    /// # Errors
    /// The storage cannot be read.
    pub async fn load(&self, node: &Node, account: &BareJid) -> Result<Arc<Roster>, StorageError> {
        if let Some(roster) = self.cached(account) {
            return Ok(roster);
        }
        loop {
            let entry = self.slots.entry_sync(account.clone());
            let begun = match entry.or_insert(Slot::Loading { changes: 0 }).get() {
                Slot::Ready(held) => return Ok(held.roster.clone()),
                Slot::Loading { changes } => *changes,
            };
            let roster = match read(node, account).await {
                Ok(roster) => Arc::new(roster),
                Err(error) => {
                    self.slots.remove_if_sync(account, |slot| matches!(slot, Slot::Loading { .. }));
                    return Err(error);
                }
            };
            let mut entry =
                self.slots.entry_sync(account.clone()).or_insert(Slot::Loading { changes: 0 });
            match entry.get_mut() {
                Slot::Ready(held) => return Ok(held.roster.clone()),
                Slot::Loading { changes } if *changes != begun => {}
                slot => {
                    *slot = Slot::Ready(roster.clone().into());
                    self.watching.set_all(account, &roster, true);
                    drop(entry);
                    if self.slots.len() > CACHED_MAX {
                        self.make_room(node);
                    }
                    return Ok(roster);
                }
            }
        }
    }

    /// Drops what nobody here needs. Rows are not read under a lock of ours: rosters are asked under theirs.
    fn make_room(&self, node: &Node) {
        let mut held = Vec::new();
        self.slots.iter_sync(|account, slot| {
            held.extend((!slot.is_loading()).then(|| account.clone()));
            true
        });
        for account in held.into_iter().filter(|account| !is_here(node, account)) {
            self.evict(&account);
        }
    }

    /// Whether the account lets that one see its presence, as far as is known here. If its roster is not held: yes, for whoever asks has
    /// looked at the asker's.
    pub fn shows_to(&self, account: &BareJid, asker: &BareJid) -> bool {
        let shows = |slot: &Slot| match slot {
            Slot::Ready(held) => held.roster.has_subscriber(asker),
            Slot::Loading { .. } => true,
        };
        let known = self.slots.read_sync(account.as_str(), |_, slot| shows(slot));
        account == asker || known.unwrap_or(true)
    }

    /// Whether the roster is held, or being read.
    pub fn is_held(&self, account: &BareJid) -> bool {
        self.slots.contains_sync(account.as_str())
    }

    /// Whether the account watches that one, as far as is known here: yes, if its roster is not held.
    pub fn watches(&self, account: &str, of: &str) -> bool {
        let watches = |slot: &Slot| match slot {
            Slot::Ready(held) => Some(held.roster.has_subscription(of)),
            Slot::Loading { .. } => None,
        };
        if account == of || self.watching.has(account, of) {
            return true;
        }
        let known = self.slots.read_sync(account, |_, slot| watches(slot)).flatten();
        // While a copy of it arrives: as before.
        known.unwrap_or_else(|| {
            self.before.lock().get(account).is_none_or(|roster| roster.has_subscription(of))
        })
    }

    /// Nobody of that account is here any more. While it is read it stays: the reader must hear of what changes meanwhile.
    pub fn evict(&self, account: &BareJid) {
        self.slots.remove_if_sync(account, |slot| self.lets_go(account, slot));
        self.before.lock().remove(account);
    }

    /// Whether the slot can go: nobody reads it. What it says of whom the account watches goes before it.
    fn lets_go(&self, account: &BareJid, slot: &Slot) -> bool {
        let Slot::Ready(held) = slot else { return false };
        self.watching.set_all(account, &held.roster, false);
        true
    }

    /// The account's data is being copied from elsewhere: what is held may be old. If somebody of it is here, it is kept for
    /// [`Rosters::take_before`].
    pub fn forget(&self, account: &BareJid, is_here: bool) {
        let forgotten = self.slots.remove_if_sync(account, |slot| {
            if let Slot::Loading { changes } = slot {
                *changes += 1;
            }
            self.lets_go(account, slot)
        });
        if let Some((_, Slot::Ready(held))) = forgotten
            && is_here
        {
            // A copy is many changes; the first of them finds what was true before it.
            self.before.lock().entry(account.clone()).or_insert(held.roster);
        }
    }

    /// The copy has arrived and is held: the roster that was held before it.
    pub fn take_before(&self, account: &BareJid) -> Option<Arc<Roster>> {
        self.before.lock().remove(account)
    }

    /// Whether the roster that is held knew of the entry that is being applied when it was read.
    pub fn knew(&self, account: &BareJid) -> bool {
        let knew = |slot: &Slot| matches!(slot, Slot::Ready(held) if held.known);
        self.slots.read_sync(account, |_, slot| knew(slot)).unwrap_or(false)
    }

    /// A change was applied to the local replica. Returns the version that its entry makes, if the roster is held.
    pub fn apply(&self, account: &BareJid, change: &Change) -> Option<u64> {
        let mut entry = self.slots.get_sync(account)?;
        let held = match entry.get_mut() {
            Slot::Ready(held) => held,
            Slot::Loading { changes } => {
                *changes += 1;
                return None;
            }
        };
        if let Change::Put { store, value, .. } = change
            && store.as_str() == VERSION
        {
            held.entry = version(value);
            held.known = held.entry <= held.roster.version;
        }
        // The end of an account is no version of its roster.
        held.known &= !matches!(change, Change::Clear { .. });
        if held.known {
            return Some(held.entry);
        }
        let roster = Arc::make_mut(&mut held.roster);
        match change {
            Change::Put { store, .. } if store.as_str() == VERSION => roster.version = held.entry,
            Change::Put { key, value, .. } => {
                if let (Ok(jid), Some(contact)) = (BareJid::parse(key), Contact::decode(value)) {
                    self.watching.set(account, jid.as_str(), contact.state.to);
                    roster.contacts.insert(jid, contact);
                }
            }
            Change::Delete { store, key, .. } if store.as_str() == ROSTER => {
                self.watching.set(account, key, false);
                roster.contacts.remove(key.as_str());
            }
            Change::Clear { .. } => {
                self.watching.set_all(account, roster, false);
                *roster = Roster::default();
            }
            _ => {}
        }
        Some(held.entry)
    }
}

/// Whether somebody of the account is on this node.
pub fn is_here(node: &Node, account: &BareJid) -> bool {
    node.directory
        .read(account.as_str(), |rows| rows.iter().any(|row| row.here().is_some()))
        .unwrap_or(false)
}

/// The version's bytes.
pub fn version(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or(0)
}

async fn read(node: &Node, account: &BareJid) -> Result<Roster, StorageError> {
    let (contacts, version_bytes) = futures_util::future::try_join(
        node.storage.map(ROSTER, account.as_str()),
        node.storage.get(VERSION, account.as_str(), ""),
    )
    .await?;
    let contacts = contacts
        .into_iter()
        .filter_map(|(jid, bytes)| Some((BareJid::parse(&jid).ok()?, Contact::decode(&bytes)?)))
        .collect();
    Ok(Roster { version: version_bytes.as_deref().map_or(0, version), contacts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::roster::subscription::State;

    fn put(rosters: &Rosters, account: &BareJid, slot: Slot) {
        if let Slot::Ready(held) = &slot {
            rosters.watching.set_all(account, &held.roster, true);
        }
        let _ = rosters.slots.insert_sync(account.clone(), slot);
    }

    fn changes(rosters: &Rosters, account: &BareJid) -> Option<u64> {
        rosters.slots.read_sync(account.as_str(), |_, slot| match slot {
            Slot::Loading { changes } => Some(*changes),
            Slot::Ready(_) => None,
        })?
    }

    #[test]
    fn what_is_read_hears_of_changes_though_its_account_leaves() {
        let (rosters, account) = (Rosters::default(), BareJid::parse("romeo@x").expect("jid"));
        put(&rosters, &account, Slot::Loading { changes: 0 });
        let change = Change::Clear { store: ROSTER.into(), owner: account.as_str().into() };
        assert_eq!(rosters.apply(&account, &change), None);
        rosters.evict(&account);
        assert_eq!(changes(&rosters, &account), Some(1));
        rosters.forget(&account, true);
        assert_eq!(changes(&rosters, &account), Some(2));
    }

    #[test]
    fn what_was_in_it_when_it_was_read_is_not_applied_again() {
        let (rosters, account) = (Rosters::default(), BareJid::parse("romeo@x").expect("jid"));
        let juliet = BareJid::parse("juliet@x").expect("jid");
        let mut roster = Roster { version: 2, ..Roster::default() };
        roster.contacts.insert(juliet.clone(), Contact::default());
        put(&rosters, &account, Slot::Ready(Arc::new(roster).into()));
        let owner: std::sync::Arc<str> = account.as_str().into();
        let version = |number: u64| Change::Put {
            store: VERSION.into(),
            owner: owner.as_ref().into(),
            key: "".into(),
            value: number.to_le_bytes().to_vec(),
        };
        let delete = Change::Delete {
            store: ROSTER.into(),
            owner: owner.as_ref().into(),
            key: juliet.as_str().into(),
        };
        let contacts = || rosters.cached(&account).expect("held").contacts.len();
        for (number, left) in [(1, 1), (2, 1), (3, 0)] {
            assert_eq!(rosters.apply(&account, &version(number)), Some(number));
            assert_eq!(rosters.knew(&account), number < 3);
            assert_eq!(rosters.apply(&account, &delete), Some(number));
            assert_eq!(contacts(), left);
            assert_eq!(rosters.cached(&account).expect("held").version, number.max(2));
        }
    }

    #[test]
    fn whom_an_account_watches_its_roster_says() {
        let (rosters, account) = (Rosters::default(), BareJid::parse("romeo@x").expect("jid"));
        let owner = || account.as_str().into();
        let change = |key: &str, state: Option<State>| match state {
            Some(state) => {
                let value = Contact { state, ..Contact::default() }.encode();
                Change::Put { store: ROSTER.into(), owner: owner(), key: key.into(), value }
            }
            None => Change::Delete { store: ROSTER.into(), owner: owner(), key: key.into() },
        };
        let both = State { to: true, from: true, ..State::default() };
        let from = State { from: true, ..State::default() };
        let mut roster = Roster::default();
        let juliet = BareJid::parse("juliet@x").expect("jid");
        roster.contacts.insert(juliet, Contact { state: both, ..Contact::default() });
        put(&rosters, &account, Slot::Ready(Arc::new(roster).into()));
        let watches = || ["juliet@x", "nurse@x"].map(|who| rosters.watches("romeo@x", who));
        assert_eq!(watches(), [true, false]);
        for (key, state, expected) in [
            ("juliet@x", Some(from), [false, false]),
            ("nurse@x", Some(both), [false, true]),
            ("juliet@x", Some(both), [true, true]),
            ("nurse@x", None, [true, false]),
            ("nurse@x", Some(both), [true, true]),
        ] {
            rosters.apply(&account, &change(key, state));
            assert_eq!(watches(), expected, "{key} {state:?}");
            let roster = rosters.cached(&account).expect("held");
            assert_eq!(["juliet@x", "nurse@x"].map(|who| roster.has_subscription(who)), expected);
            assert_eq!(rosters.watching.len(), expected.into_iter().filter(|yes| *yes).count());
        }
        rosters.forget(&account, true);
        assert_eq!((watches(), rosters.watching.len()), ([true, true], 0), "as before the copy");
        let roster = rosters.take_before(&account).expect("kept");
        put(&rosters, &account, Slot::Ready(roster.into()));
        assert_eq!(rosters.watching.len(), 2);
        rosters.apply(&account, &Change::Clear { store: ROSTER.into(), owner: owner() });
        assert_eq!((watches(), rosters.watching.len()), ([false, false], 0));
    }

    #[test]
    fn what_was_held_before_a_copy_is_kept_until_it_has_arrived() {
        let (rosters, account) = (Rosters::default(), BareJid::parse("romeo@x").expect("jid"));
        let held = |version| Slot::Ready(Arc::new(Roster { version, ..Roster::default() }).into());
        for (is_here, kept) in [(false, None), (true, Some(1))] {
            put(&rosters, &account, held(1));
            rosters.forget(&account, is_here);
            assert_eq!(rosters.watches("romeo@x", "juliet@x"), !is_here);
            // It is read while the copy arrives, and is half of it.
            put(&rosters, &account, held(2));
            rosters.forget(&account, is_here);
            let before = rosters.take_before(&account).map(|roster| roster.version);
            assert_eq!(before, kept);
            assert!(rosters.take_before(&account).is_none() && rosters.slots.is_empty());
        }
        put(&rosters, &account, held(1));
        rosters.forget(&account, true);
        rosters.evict(&account);
        assert!(rosters.take_before(&account).is_none());
    }

    #[test]
    fn a_roster_that_is_held_goes_with_its_account() {
        let (rosters, account) = (Rosters::default(), BareJid::parse("romeo@x").expect("jid"));
        put(&rosters, &account, Slot::Ready(Held::default()));
        rosters.evict(&account);
        assert!(rosters.cached(&account).is_none() && rosters.slots.is_empty());
    }
}
