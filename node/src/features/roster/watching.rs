//! Room: who watches whom, of the rosters that [`Rosters`](super::cache::Rosters) holds. Asked for each presence that is delivered, where the roster itself
//! would touch a dozen lines of memory, this touches two.
//!
//! What is not found here is looked for in the roster: a pair may be missing, and none is here of which the roster says otherwise (but while it is being
//! changed). Written by `cache` alone, with the account's slot locked.
//! Bound: that of the rosters that are held; 8 bytes a pair, and what the table has free.

use std::hash::BuildHasher;

use xmpp::jid::BareJid;

use super::record::Roster;

type Hasher = foldhash::fast::RandomState;

/// See the room. A pair is known by 64 bits of a hash whose key is this process's own: of a million pairs held, one in 18 million million others is taken for
/// one of them.
#[derive(Debug, Default)]
pub(super) struct Watching {
    pairs: scc::HashSet<u64, Hasher>,
    key: Hasher,
}

impl Watching {
    fn pair(&self, account: &str, of: &str) -> u64 {
        self.key.hash_one((account, of))
    }

    /// Whether the account is known to watch that one. False: ask its roster.
    pub(super) fn has(&self, account: &str, of: &str) -> bool {
        self.pairs.contains_sync(&self.pair(account, of))
    }

    /// The account watches that one now, or no longer.
    pub(super) fn set(&self, account: &BareJid, of: &str, watches: bool) {
        let pair = self.pair(account.as_str(), of);
        if watches {
            let _known = self.pairs.insert_sync(pair);
        } else {
            self.pairs.remove_sync(&pair);
        }
    }

    /// A roster is held from now on, or no longer.
    pub(super) fn set_all(&self, account: &BareJid, roster: &Roster, held: bool) {
        for of in roster.subscriptions() {
            self.set(account, of.as_str(), held);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }
}
