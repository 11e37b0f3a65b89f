//! Auth: the account records as storage and the homes have them: read for [`Internal`](super::Internal), made of new [`Keys`].
//!
//! Called by `app.rs` (which hands [`Stored`] to `Internal`) and by whoever makes accounts: registration, the admin API.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use xmpp::jid::BareJid;

use super::internal::{Keys, Record, Records};
use crate::homes::accounts::{Account, NewKeys};
use crate::storage::Storage;

/// [`Records`] of this region's replica.
pub struct Stored(pub Arc<dyn Storage>);

impl Records for Stored {
    fn read(&self, account: &BareJid) -> BoxFuture<'static, Result<Option<Record>, String>> {
        let (storage, account) = (self.0.clone(), account.clone());
        async move {
            let record = Account::load(storage.as_ref(), &account)
                .await
                .map_err(|error| error.to_string())?;
            Ok(record.map(|record| Record {
                keys: vec![record.scram_sha256, record.scram_sha1],
                disabled: record.disabled,
            }))
        }
        .boxed()
    }
}

impl Keys {
    /// A new account's record. `created_ms`: since the Unix epoch.
    pub fn into_account(self, created_ms: u64) -> Account {
        Account {
            scram_sha1: self.sha1,
            scram_sha256: self.sha256,
            created: created_ms,
            disabled: false,
        }
    }

    /// The request of `account.set_keys`.
    pub fn into_request(self) -> Vec<u8> {
        let keys = NewKeys { scram_sha1: self.sha1, scram_sha256: self.sha256 };
        postcard::to_stdvec(&keys).expect("numbers and bytes always serialise")
    }
}
