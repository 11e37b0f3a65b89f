//! Last activity at the account's home. Store `last`: one value, [`Left`].

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::homes::{self, HomeError, HomeOp, Tx, accounts};

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
    /// Keep this, unless a later one is known.
    Left(Left),
    /// What is known.
    Read,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Committed, or not needed.
    Done,
    /// This is.
    Known(Option<Left>),
}

/// The operation.
pub struct LastHome;

impl HomeOp for LastHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, |request| decide(tx, request))
    }
}

pub(super) async fn decide(tx: &mut Tx, request: Request) -> Result<Answer, HomeError> {
    let known = tx.get(LAST, "").await?.as_deref().and_then(Left::decode);
    match request {
        Request::Read => Ok(Answer::Known(known)),
        Request::Left(left) => {
            let newer = known.is_none_or(|known| known.at_ms <= left.at_ms);
            // The account may be gone: its sessions end because of that.
            if newer && accounts::exists(tx).await? {
                tx.put(LAST, "", postcard::to_stdvec(&left).expect("a plain value"));
            }
            Ok(Answer::Done)
        }
    }
}
