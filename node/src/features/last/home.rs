//! Last activity at the account's home. Store `last`: one value, [`Left`].

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::homes::accounts::{self, ACCOUNTS};
use crate::homes::{self, HomeError, HomeOp, Reading, Tx};

/// Name of the operation.
pub const OP: &str = "last";
/// When it was last there.
pub const LAST: &str = "last";

/// A session stopped to be available.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// When, in milliseconds since the epoch, by the clock of its node.
    pub at_ms: u64,
    /// When it was bound.
    pub login_ms: u64,
    /// The status it left with; may be empty.
    pub status: String,
}

impl Left {
    pub(super) fn decode(bytes: &[u8]) -> Option<Left> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The operation.
pub struct LastHome;

impl HomeOp for LastHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn reads(&self, _: &BareJid, _: &[u8]) -> Vec<Reading> {
        vec![(LAST, String::new()), (ACCOUNTS, String::new())]
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, |left| decide(tx, left))
    }
}

/// Keeps it, unless a later one is known. The account may be gone: its sessions end because of that.
pub(super) async fn decide(tx: &mut Tx, left: Left) -> Result<(), HomeError> {
    let known = tx.get(LAST, "").await?.as_deref().and_then(Left::decode);
    let newer = known.is_none_or(|known| known.at_ms <= left.at_ms);
    if newer && accounts::exists(tx).await? {
        tx.put(LAST, "", postcard::to_stdvec(&left).expect("a plain value"));
    }
    Ok(())
}
