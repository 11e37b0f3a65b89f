//! Accounts as durable data: how one logs in, and the operations at its home.
//!
//! Called by `auth` (reading [`Account`]s from storage), registration, the admin API ([`create`] and
//! its siblings) and quickstart ([`genesis_accounts`]). Passwords never come here, only the keys made of them.

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::BareJid;
use xmpp::sasl::{Hash, Password, ScramKeys, Secret};

use super::{HomeError, HomeOp, Homes, META_GENESIS, Tx};
use crate::features::clients;
use crate::storage::sqlite::{Sqlite, SqliteConfig, failed_write};
use crate::storage::{Storage, StorageError};

/// The store: owner is the bare JID, key is `""`.
pub const ACCOUNTS: &str = "accounts";
/// Which resource gave the account another password: one value, empty for an operator. Written with the new keys, for those who follow it.
pub const PASSWORD: &str = "accounts.password";

/// PBKDF2 rounds of new keys: what RFC 7677 §4 asks for at least.
pub const ITERATIONS: u32 = 4096;

/// How one logs in as this account. An account that came from elsewhere may have the keys of one hash only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// For SCRAM-SHA-1.
    pub scram_sha1: ScramKeys,
    /// For SCRAM-SHA-256.
    pub scram_sha256: ScramKeys,
    /// Milliseconds since the Unix epoch.
    pub created: u64,
    /// Exists, receives, but may not log in.
    pub disabled: bool,
    /// For SCRAM-SHA-512. Accounts made before there was such a thing have none, until another password is set or their client
    /// brings it (XEP-0480).
    pub scram_sha512: ScramKeys,
}

/// What was stored before [`Account::scram_sha512`]: all of it that comes before.
#[derive(Deserialize)]
struct Older {
    scram_sha1: ScramKeys,
    scram_sha256: ScramKeys,
    created: u64,
    disabled: bool,
}

impl Account {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("numbers and bytes always serialise")
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Account, StorageError> {
        if let Ok(account) = postcard::from_bytes(bytes) {
            return Ok(account);
        }
        let older = postcard::from_bytes(bytes);
        let Older { scram_sha1, scram_sha256, created, disabled } =
            older.map_err(|_| StorageError::Damaged("an account".to_owned()))?;
        let scram_sha512 = Account::no_keys(Hash::Sha512);
        Ok(Account { scram_sha1, scram_sha256, created, disabled, scram_sha512 })
    }

    /// In place of keys that are not known: no proof fits them (RFC 5802 §3: a StoredKey is as long as its hash).
    pub fn no_keys(hash: Hash) -> ScramKeys {
        let nothing = || Secret::new(Vec::new());
        ScramKeys {
            hash,
            salt: Vec::new(),
            iterations: 1,
            stored_key: nothing(),
            server_key: nothing(),
        }
    }

    /// One whose password is kept elsewhere. `created`: milliseconds since the Unix epoch.
    pub fn without_keys(created: u64) -> Account {
        let [scram_sha1, scram_sha256, scram_sha512] =
            [Hash::Sha1, Hash::Sha256, Hash::Sha512].map(Self::no_keys);
        Account { scram_sha1, scram_sha256, created, disabled: false, scram_sha512 }
    }

    /// The keys that are known; first those PLAIN is verified with where it costs the same: SHA-512 is the slowest.
    pub fn keys(&self) -> impl Iterator<Item = &ScramKeys> {
        let known = |keys: &&ScramKeys| !keys.stored_key.expose().is_empty();
        [&self.scram_sha256, &self.scram_sha1, &self.scram_sha512].into_iter().filter(known)
    }

    /// Takes keys of a hash it has none of; says whether it had none.
    fn complete(&mut self, keys: ScramKeys) -> bool {
        let place = match keys.hash {
            Hash::Sha1 => &mut self.scram_sha1,
            Hash::Sha256 => &mut self.scram_sha256,
            Hash::Sha512 => &mut self.scram_sha512,
        };
        let missing = place.stored_key.expose().is_empty();
        if missing {
            *place = keys;
        }
        missing
    }

    /// Reads an account from the local replica.
    pub async fn load(
        storage: &dyn Storage,
        bare: &BareJid,
    ) -> Result<Option<Account>, StorageError> {
        let bytes = storage.get(ACCOUNTS, bare.as_str(), "").await?;
        bytes.map(|bytes| Account::decode(&bytes)).transpose()
    }
}

/// The keys of a password, under fresh salts. Takes milliseconds of computing, on a thread of its own.
pub async fn derive(password: Password, created: u64) -> Result<Account, HomeError> {
    let failed =
        |cause: &dyn std::fmt::Display| HomeError::Unknown(format!("the password: {cause}"));
    let keys = move || {
        let mut salt = [0u8; 16];
        getrandom::fill(&mut salt).map_err(|error| failed(&error))?;
        let keys = |hash| ScramKeys::derive(hash, password.expose(), &salt, ITERATIONS);
        Ok(Account {
            scram_sha1: keys(Hash::Sha1).map_err(|error| failed(&error))?,
            scram_sha256: keys(Hash::Sha256).map_err(|error| failed(&error))?,
            scram_sha512: keys(Hash::Sha512).map_err(|error| failed(&error))?,
            created,
            disabled: false,
        })
    };
    tokio::task::spawn_blocking(keys)
        .await
        .map_err(|error| HomeError::Storage(error.to_string()))?
}

/// Has the account's home make it. False if it exists.
pub async fn create(homes: &Homes, account: &BareJid, record: &Account) -> Result<bool, HomeError> {
    done(homes.request(account, OP, request(&Request::Create(record.clone()))).await?)
}

/// Gives the account the keys of `record`; the rest of it is kept. `by` is its resource that wants it, if it is one. False if there is no such
/// account.
pub async fn set_keys(
    homes: &Homes,
    account: &BareJid,
    record: &Account,
    by: Option<&str>,
) -> Result<bool, HomeError> {
    let keys = Request::SetKeys(record.clone(), by.map(str::to_owned));
    done(homes.request(account, OP, request(&keys)).await?)
}

/// Gives the account keys of a hash it has none of (XEP-0480). False if it has some, or there is no such account.
pub async fn add_keys(
    homes: &Homes,
    account: &BareJid,
    keys: ScramKeys,
) -> Result<bool, HomeError> {
    done(homes.request(account, OP, request(&Request::AddKeys(keys))).await?)
}

/// Lets it log in, or not. False if there is no such account.
pub async fn set_disabled(
    homes: &Homes,
    account: &BareJid,
    disabled: bool,
) -> Result<bool, HomeError> {
    done(homes.request(account, OP, request(&Request::SetDisabled(disabled))).await?)
}

/// Removes the account and everything of it in every store. False if there is no such account.
pub async fn remove(homes: &Homes, account: &BareJid) -> Result<bool, HomeError> {
    done(homes.request(account, OP, request(&Request::Remove)).await?)
}

/// For operations of features: does the account exist?
pub async fn exists(tx: &Tx) -> Result<bool, HomeError> {
    Ok(tx.get(ACCOUNTS, "").await?.is_some())
}

/// The operation's name on the wire.
pub const OP: &str = "account";

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Create(Account),
    SetKeys(Account, Option<String>),
    SetDisabled(bool),
    Remove,
    AddKeys(ScramKeys),
}

fn request(request: &Request) -> Vec<u8> {
    postcard::to_stdvec(request).expect("numbers and bytes always serialise")
}

fn done(answer: Vec<u8>) -> Result<bool, HomeError> {
    match *answer {
        [done] => Ok(done == 1),
        _ => Err(HomeError::Unknown(OP.to_owned())),
    }
}

/// The operation at the home.
#[derive(Debug, Clone)]
pub struct AccountHome {
    /// Every store that holds data by owner; they are cleared when the account is removed.
    pub stores: Vec<&'static str>,
}

impl HomeOp for AccountHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let request = postcard::from_bytes(request)
                .map_err(|_| HomeError::Unknown("the account's request".to_owned()))?;
            let old = match tx.get(ACCOUNTS, "").await? {
                Some(bytes) => Some(Account::decode(&bytes)?),
                None => None,
            };
            if let (Some(_), Request::SetKeys(_, by)) = (&old, &request) {
                clients::home::password_changed(tx).await?;
                tx.put(PASSWORD, "", by.clone().unwrap_or_default().into_bytes());
            }
            Ok(vec![u8::from(self.decide(tx, old, request))])
        }
        .boxed()
    }
}

impl AccountHome {
    fn decide(&self, tx: &mut Tx, old: Option<Account>, request: Request) -> bool {
        let new = match (request, old) {
            (Request::Create(account), None) => account,
            (Request::SetKeys(keys, _), Some(old)) => {
                Account { created: old.created, disabled: old.disabled, ..keys }
            }
            (Request::SetDisabled(disabled), Some(old)) => Account { disabled, ..old },
            (Request::AddKeys(keys), Some(mut old)) => {
                if !old.complete(keys) {
                    return false;
                }
                old
            }
            (Request::Remove, Some(_)) => {
                // The entry itself is the tombstone: replicas apply it in its place, whatever they had.
                for store in self.stores.iter().filter(|store| **store != ACCOUNTS) {
                    tx.clear(store);
                }
                tx.clear(ACCOUNTS);
                return true;
            }
            (Request::Create(_), Some(_)) | (_, None) => return false,
        };
        tx.put(ACCOUNTS, "", new.encode());
        true
    }
}

/// Fills a fresh SQLite file with accounts, before any node has opened it. The file may be copied: regions that begin
/// with the same file know it and need not copy it from each other. Refuses a file that was begun already.
pub async fn genesis_accounts(
    path: &Path,
    accounts: impl IntoIterator<Item = (BareJid, Account)>,
) -> Result<u64, StorageError> {
    let storage = Sqlite::open(SqliteConfig { sync: false, ..SqliteConfig::new(path) }).await?;
    if storage.meta(META_GENESIS).await?.is_some() || storage.log_head().await? > 0 {
        return Err(StorageError::Write("this database has been begun already".into()));
    }
    let rows = accounts.into_iter().map(|(bare, account)| {
        (ACCOUNTS.to_owned(), bare.as_str().to_owned(), String::new(), account.encode())
    });
    let count = storage.fill(rows).await?;
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(|error| StorageError::Write(error.into()))?;
    storage.set_meta(META_GENESIS, id.to_vec()).await?;
    // Everything into the one file, so that copying it is enough.
    let mut conn = storage.writer().await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut *conn)
        .await
        .map_err(failed_write)?;
    drop(conn);
    storage.close().await;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use replication::Hlc;

    use super::*;
    use crate::storage::memory::Memory;

    async fn account(password: &str) -> Account {
        derive(Password::new(password), 7).await.unwrap()
    }

    #[tokio::test]
    async fn an_account_is_made_once_changed_and_removed_with_all_it_has() {
        let op = AccountHome { stores: vec!["roster", ACCOUNTS] };
        let romeo = BareJid::parse("romeo@chat.example").unwrap();
        let mut tx = Tx::new(Arc::new(Memory::default()));
        let (first, second) = (account("one").await, account("two").await);
        tx.begin(romeo.as_str(), Hlc::ZERO);
        let mut run = async |asked| {
            let answer = op.run(&mut tx, &romeo, &request(&asked)).await.unwrap();
            let stored = tx.get(ACCOUNTS, "").await.unwrap();
            tx.put("roster", "juliet@chat.example", vec![]);
            let roster = tx.map("roster").await.unwrap().len();
            (done(answer).unwrap(), stored.map(|bytes| Account::decode(&bytes).unwrap()), roster)
        };
        assert!(!run(Request::SetKeys(first.clone(), None)).await.0);
        assert!(run(Request::Create(first.clone())).await.0);
        assert!(!run(Request::Create(second.clone())).await.0);
        assert!(run(Request::SetDisabled(true)).await.1.unwrap().disabled);
        let (done, stored, _) = run(Request::SetKeys(second.clone(), None)).await;
        let stored = stored.unwrap();
        assert!(done && stored.disabled && stored.scram_sha1.salt == second.scram_sha1.salt);
        let keys = |hash| ScramKeys { hash, ..second.scram_sha512.clone() };
        assert!(!run(Request::AddKeys(keys(Hash::Sha512))).await.0, "there are some");
        let old = Account { scram_sha512: Account::no_keys(Hash::Sha512), ..second.clone() };
        assert!(run(Request::SetKeys(old, None)).await.0);
        let (done, stored, _) = run(Request::AddKeys(keys(Hash::Sha512))).await;
        assert!(done && stored.unwrap().keys().count() == 3);
        assert!(matches!(run(Request::Remove).await, (true, None, 1)));
        assert!(!run(Request::AddKeys(keys(Hash::Sha512))).await.0);
        assert!(!run(Request::Remove).await.0);
    }

    #[tokio::test]
    async fn an_account_of_before_sha_512_is_read() {
        let new = account("pw").await;
        let older = (&new.scram_sha1, &new.scram_sha256, 7_u64, true);
        let read = Account::decode(&postcard::to_stdvec(&older).unwrap()).unwrap();
        assert!(read.disabled && read.created == 7);
        assert_eq!(
            read.keys().map(|keys| keys.hash).collect::<Vec<_>>(),
            [Hash::Sha256, Hash::Sha1]
        );
        assert_eq!(Account::decode(&new.encode()).unwrap().keys().count(), 3);
        assert!(Account::decode(&new.encode()[..40]).is_err());
    }

    #[tokio::test]
    async fn a_genesis_file_is_filled_once_and_can_be_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("genesis.sqlite");
        let record = account("pw").await;
        let all = |count| {
            let record = record.clone();
            (0..count).map(move |i| {
                (BareJid::parse(&format!("user{i}@chat.example")).unwrap(), record.clone())
            })
        };
        assert_eq!(genesis_accounts(&path, all(2345)).await.unwrap(), 2345);
        assert!(genesis_accounts(&path, all(1)).await.is_err());
        let copy = dir.path().join("copy.sqlite");
        std::fs::copy(&path, &copy).unwrap();
        let storage = Sqlite::open(SqliteConfig::new(&copy)).await.unwrap();
        let last = BareJid::parse("user2344@chat.example").unwrap();
        let found = Account::load(&storage, &last).await.unwrap().unwrap();
        assert_eq!(found.scram_sha1.salt, record.scram_sha1.salt);
        assert_eq!(storage.log_head().await.unwrap(), 0);
        assert!(storage.meta(META_GENESIS).await.unwrap().is_some());
    }
}
