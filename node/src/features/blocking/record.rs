//! Privacy lists as they are stored and replicated. Store `privacy`: owner the account, key `/name` a list, key `""` the [`Head`], which has the
//! list that is the default once more, so that one look is enough to judge a stanza. Store `privacy.active`: key the full JID of a session, which
//! list is active for it. Written only at the account's home (`blocking::home`); read there, and from the local replica.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};

use super::list::{List, Traffic, is_exempt};
use crate::features::roster::record::{Contact, ROSTER};
use crate::homes::{HomeError, Tx};
use crate::storage::{Storage, StorageError};

/// Lists and the head.
pub const PRIVACY: &str = "privacy";
/// Active lists of sessions.
pub const ACTIVE: &str = "privacy.active";
/// The head's key.
pub const HEAD: &str = "";

/// The key of a list.
pub fn key(name: &str) -> String {
    format!("/{name}")
}

/// The name in a key.
pub fn name(key: &str) -> Option<&str> {
    key.strip_prefix('/')
}

/// What is written with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Grows with every change.
    pub serial: u64,
    /// The default list.
    pub default: Option<Named>,
    /// What the change was, for pushes.
    pub note: Note,
}

/// A list and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The list.
    pub list: List,
}

/// What clients are told of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The list whose definition is another (XEP-0016 §2.2 rule 10).
    pub list: Option<String>,
    /// It was changed by XEP-0191: a client that never spoke of privacy lists need not hear of them.
    pub by_blocking: bool,
    /// Blocked (XEP-0191 §3.3).
    pub blocked: Vec<Jid>,
    /// Not blocked any more (§3.4).
    pub unblocked: Vec<Jid>,
    /// Nobody is blocked any more (§3.5).
    pub unblocked_all: bool,
}

/// The active list of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// The session's generation: what is of an older one is no session's.
    pub generation: u64,
    /// The list.
    pub name: String,
}

impl Head {
    /// The head of the local replica.
    ///
    /// # Errors
    /// The storage cannot be read.
    pub async fn read(
        storage: &dyn Storage,
        account: &BareJid,
    ) -> Result<Option<Head>, StorageError> {
        let bytes = storage.get(PRIVACY, account.as_str(), HEAD).await?;
        bytes.map(|bytes| decode(&bytes)).transpose()
    }

    /// The default list's block list.
    pub fn blocked(&self) -> impl Iterator<Item = &Jid> {
        self.default.iter().flat_map(|named| named.list.blocked())
    }
}

/// Bytes for storage.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("lists are plain values")
}

/// From storage.
///
/// # Errors
/// It is not ours.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    postcard::from_bytes(bytes).map_err(|_| StorageError::Damaged("a privacy list".to_owned()))
}

/// Whether the account's default list denies such a stanza from that address: for operations at the account's home, inside their
/// transaction. Costs one read where there is no list. Nobody is kept from himself (XEP-0016 §2.1).
///
/// # Errors
/// The storage cannot be read.
pub async fn is_blocked(
    tx: &Tx,
    account: &BareJid,
    from: &Jid,
    traffic: Traffic,
) -> Result<bool, HomeError> {
    if is_exempt(account, from) {
        return Ok(false);
    }
    let Some(bytes) = tx.get(PRIVACY, HEAD).await? else { return Ok(false) };
    let Head { default: Some(Named { list, .. }), .. } = decode(&bytes)? else { return Ok(false) };
    let contact = match list.asks_roster() {
        true => tx.get(ROSTER, from.bare_str()).await?,
        false => None,
    };
    Ok(denies(&list, from, traffic, contact))
}

/// Whether the account has a default list at all: who has many stanzas to judge looks first.
///
/// # Errors
/// The storage cannot be read.
pub async fn has_default(tx: &Tx) -> Result<bool, HomeError> {
    let Some(bytes) = tx.get(PRIVACY, HEAD).await? else { return Ok(false) };
    Ok(decode::<Head>(&bytes)?.default.is_some())
}

/// The same from the local replica, for a request that is answered on behalf of an account without going to its home.
///
/// # Errors
/// The storage cannot be read.
pub async fn is_blocked_here(
    storage: &dyn Storage,
    account: &BareJid,
    from: &Jid,
    traffic: Traffic,
) -> Result<bool, StorageError> {
    if is_exempt(account, from) {
        return Ok(false);
    }
    let Some(Head { default: Some(Named { list, .. }), .. }) = Head::read(storage, account).await?
    else {
        return Ok(false);
    };
    let contact = match list.asks_roster() {
        true => storage.get(ROSTER, account.as_str(), from.bare_str()).await?,
        false => None,
    };
    Ok(denies(&list, from, traffic, contact))
}

fn denies(list: &List, from: &Jid, traffic: Traffic, contact: Option<Vec<u8>>) -> bool {
    let contact = contact.as_deref().and_then(Contact::decode);
    list.judge(from, traffic, contact.as_ref()).is_some_and(|item| !item.allow)
}
