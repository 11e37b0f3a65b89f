//! vCards at the account's home. Store `vcard`: one value, the element as it was sent.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::homes::{Decision, HomeError, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "vcard";
/// The card.
pub const VCARD: &str = "vcard";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// This is the card from now on.
    Set(Vec<u8>),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Committed.
    Done,
    /// No such account.
    NoAccount,
}

/// The operation.
pub struct VcardHome;

impl Decision for VcardHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    async fn decide(
        &self,
        tx: &mut Tx,
        _: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        decide(tx, request).await
    }
}

pub(super) async fn decide(tx: &mut Tx, request: Request) -> Result<Answer, HomeError> {
    if !accounts::exists(tx).await? {
        return Ok(Answer::NoAccount);
    }
    let Request::Set(card) = request;
    tx.put(VCARD, "", card);
    Ok(Answer::Done)
}
