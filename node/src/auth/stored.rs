//! Auth: the account records as storage and the homes have them: read for [`Internal`](super::Internal), made of new [`Keys`].
//!
//! Called by `app.rs` (which hands [`Stored`] to `Internal`) and by whoever makes accounts: registration, the admin API.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use xmpp::jid::BareJid;

use super::chain::Accounts;
use super::internal::{Keys, Record, Records};
use crate::homes::Homes;
use crate::homes::accounts::{self, Account};
use crate::storage::Storage;

/// [`Records`] of this region's replica.
pub struct Stored(pub Arc<dyn Storage>);

impl Records for Stored {
    fn is_well(&self, account: &BareJid) -> bool {
        self.0.is_well(account.as_str())
    }

    fn read(&self, account: &BareJid) -> BoxFuture<'static, Result<Option<Record>, String>> {
        let (storage, account) = (self.0.clone(), account.clone());
        async move {
            let record = Account::load(storage.as_ref(), &account)
                .await
                .map_err(|error| error.to_string())?;
            Ok(record.map(|record| Record {
                keys: record.keys().cloned().collect(),
                disabled: record.disabled,
            }))
        }
        .boxed()
    }
}

/// [`Accounts`] at their homes.
pub struct AtHome {
    /// Where the homes are.
    pub homes: Homes,
    /// The time of day, in milliseconds.
    pub wall_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Accounts for AtHome {
    fn make(&self, account: &BareJid) -> BoxFuture<'static, Result<(), String>> {
        let (homes, account) = (self.homes.clone(), account.clone());
        let record = Account::without_keys((self.wall_ms)());
        async move {
            // False: it was made meanwhile, which is as good.
            let made = accounts::create(&homes, &account, &record).await;
            made.map(|_| ()).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

impl Keys {
    /// A new account's record, or the new keys of one that exists (`accounts::set_keys` takes only those). `created_ms`: since the Unix epoch.
    pub fn into_account(self, created_ms: u64) -> Account {
        Account {
            scram_sha1: self.sha1,
            scram_sha256: self.sha256,
            scram_sha512: self.sha512,
            created: created_ms,
            disabled: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use xmpp::sasl::{Credentials, Hash, Password};

    use super::*;
    use crate::auth::{Internal, Said};
    use crate::homes::accounts::ACCOUNTS;
    use crate::storage::memory::Memory;

    #[tokio::test]
    async fn a_stored_account_signs_in_with_its_password() {
        let juliet = BareJid::parse("juliet@example.org").expect("a JID");
        let account =
            Keys::of(&Password::new("wonderland"), 16).expect("a password").into_account(0);
        let change = replication::Change::Put {
            store: ACCOUNTS.into(),
            owner: juliet.to_string(),
            key: String::new(),
            value: account.encode(),
        };
        let storage = Arc::new(Memory::default());
        let entry = replication::Entry {
            seq: 1,
            shard: 0,
            epoch: 1,
            at: replication::Hlc::ZERO,
            changes: vec![change],
        };
        storage.commit_home(vec![entry]).await.expect("commits");
        let auth = Internal::new(Arc::new(Stored(storage)), 16);
        assert_eq!(auth.password(&juliet, &Password::new("wonderland")).await, Said::Right);
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
            let found = auth.scram(&juliet, hash).await;
            assert!(matches!(found, Credentials::Keys(keys) if keys.hash == hash));
        }
        let nobody = BareJid::parse("nobody@example.org").expect("a JID");
        assert_eq!(auth.password(&nobody, &Password::new("wonderland")).await, Said::Unknown);
    }
}
