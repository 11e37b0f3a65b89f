//! Last activity at the account's home. Store `last`: one value, [`Left`].

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::app::Late;
use crate::homes::accounts::{self, ACCOUNTS};
use crate::homes::{Decision, HomeError, Reading, Tx};

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

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep this. Answered with nothing.
    Left(Left),
    /// When was it last there, as far as is known?
    When,
}

/// The operation. It sees the node for who has left a moment ago.
pub struct LastHome(pub Late);

impl Decision for LastHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Option<Left>;

    fn reads(&self, _: &BareJid, _: &[u8]) -> Vec<Reading> {
        vec![(LAST, String::new()), (ACCOUNTS, String::new())]
    }

    async fn decide(
        &self,
        tx: &mut Tx,
        account: &BareJid,
        request: Request,
    ) -> Result<Option<Left>, HomeError> {
        match request {
            Request::Left(left) => keep(tx, left).await.map(|()| None),
            Request::When => {
                let waiting = self.0.get().and_then(|node| node.leaving.of(account));
                Ok(newest(known(tx).await?, waiting))
            }
        }
    }
}

async fn known(tx: &Tx) -> Result<Option<Left>, HomeError> {
    Ok(tx.get(LAST, "").await?.as_deref().and_then(Left::decode))
}

/// The later of two; of equals, the second.
pub(super) fn newest(one: Option<Left>, other: Option<Left>) -> Option<Left> {
    one.into_iter().chain(other).max_by_key(|left| left.at_ms)
}

/// Keeps it, unless a later one is known. The account may be gone: its sessions end because of that.
pub(super) async fn keep(tx: &mut Tx, left: Left) -> Result<(), HomeError> {
    let newer = known(tx).await?.is_none_or(|known| known.at_ms <= left.at_ms);
    if newer && accounts::exists(tx).await? {
        tx.put(LAST, "", postcard::to_stdvec(&left).expect("a plain value"));
    }
    Ok(())
}
