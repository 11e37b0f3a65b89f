//! What one entry of the durable log says, at the level of storage shapes (value, map, archive).
//!
//! Made by the home's writer (`node::homes`), applied by every replica (`node::storage`). Because an entry speaks of
//! stores, keys and bytes only, a new feature's data replicates without any code of its own. Applying is idempotent:
//! `Put` and `Append` replace what stands at that key or id, `Delete`, `Remove`, `Clear` and `Trim` of nothing are fine.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Hlc;

/// The name of a store: `accounts`, `roster`, `offline`, … Ours are constants and cost nothing to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Store(pub Cow<'static, str>);

impl Store {
    /// A store known at compile time.
    pub const fn new(name: &'static str) -> Store {
        Store(Cow::Borrowed(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for Store {
    fn from(name: &'static str) -> Store {
        Store::new(name)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One change to one owner's data. `owner` is a bare JID (an account's or a room's) or another stable name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are named by the shape they belong to")]
pub enum Change {
    /// Map shape: the value at `key`. The one-value shape uses the key `""`.
    Put { store: Store, owner: String, key: String, value: Vec<u8> },
    /// Map shape: nothing at `key` any more.
    Delete { store: Store, owner: String, key: String },
    /// Every shape: nothing of this owner's in that store any more.
    Clear { store: Store, owner: String },
    /// Archive shape: one more item. The home gives the id; ids grow.
    Append { store: Store, owner: String, id: u64, value: Vec<u8> },
    /// Archive shape: that item is gone.
    Remove { store: Store, owner: String, id: u64 },
    /// Archive shape: every item with an id of at most `upto` is gone.
    Trim { store: Store, owner: String, upto: u64 },
}

impl Change {
    /// Which store it touches.
    pub fn store(&self) -> &Store {
        match self {
            Change::Put { store, .. }
            | Change::Delete { store, .. }
            | Change::Clear { store, .. }
            | Change::Append { store, .. }
            | Change::Remove { store, .. }
            | Change::Trim { store, .. } => store,
        }
    }

    /// Whose data it touches.
    pub fn owner(&self) -> &str {
        match self {
            Change::Put { owner, .. }
            | Change::Delete { owner, .. }
            | Change::Clear { owner, .. }
            | Change::Append { owner, .. }
            | Change::Remove { owner, .. }
            | Change::Trim { owner, .. } => owner,
        }
    }

    /// About how many bytes it takes on the wire: payload plus a fixed allowance.
    pub fn bytes(&self) -> usize {
        let payload = match self {
            Change::Put { key, value, .. } => key.len() + value.len(),
            Change::Delete { key, .. } => key.len(),
            Change::Append { value, .. } => value.len(),
            Change::Clear { .. } | Change::Remove { .. } | Change::Trim { .. } => 0,
        };
        self.store().as_str().len() + self.owner().len() + payload + 16
    }
}

/// One entry of a region's durable log: what one committed operation changed. All changes belong to one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the log of the region that wrote it, dense from 1.
    pub seq: u64,
    /// The shard all the owners belong to (see [`crate::shard_of`]).
    pub shard: u8,
    /// The epoch of the shard's home under which it was written; a replica refuses older ones.
    pub epoch: u64,
    /// When the home committed it.
    pub at: Hlc,
    /// In the order they were made; applied in one transaction.
    pub changes: Vec<Change>,
}

impl Entry {
    /// About how many bytes it takes on the wire; batches are cut by this.
    pub fn bytes(&self) -> usize {
        32 + self.changes.iter().map(Change::bytes).sum::<usize>()
    }

    /// The wire and table form: one format byte, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend(postcard::to_stdvec(self).expect("strings, numbers and bytes always serialise"));
        out
    }

    /// Reads what [`Entry::encode`] wrote. None when it is of an unknown format or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        match bytes.split_first() {
            Some((&FORMAT, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }
}

/// The first byte of an encoded entry.
const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_from_its_bytes() {
        let entry = Entry {
            seq: 7,
            shard: 200,
            epoch: 3,
            at: Hlc::new(99, 1),
            changes: vec![
                Change::Put {
                    store: "roster".into(),
                    owner: "romeo@chat.example".into(),
                    key: "k".into(),
                    value: vec![0, 255],
                },
                Change::Append {
                    store: "offline".into(),
                    owner: "romeo@chat.example".into(),
                    id: u64::MAX,
                    value: vec![1],
                },
                Change::Clear { store: Store(Cow::Owned("mam".into())), owner: String::new() },
            ],
        };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Some(entry.clone()));
        assert!(bytes.len() <= entry.bytes());
        assert_eq!(Entry::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Entry::decode(&[9, 9]), None);
        assert_eq!(Entry::decode(&[]), None);
    }
}
