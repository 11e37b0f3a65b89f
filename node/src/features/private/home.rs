//! Private XML at the account's home. Store `private`: a map, key `{namespace}name`, value the element as it was sent.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::homes::{Decision, HomeError, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "private";
/// The elements.
pub const PRIVATE: &str = "private";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// All of them or none.
    Set {
        /// By key; `None` takes away.
        elements: Vec<(String, Option<Vec<u8>>)>,
        /// `limits.private_bytes_max` of the asker.
        bytes_max: u64,
    },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Committed.
    Done,
    /// No such account.
    NoAccount,
    /// It would be more than the account may have; nothing was changed.
    Full,
}

/// The operation.
pub struct PrivateHome;

impl Decision for PrivateHome {
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
    let Request::Set { elements, bytes_max } = request;
    let size = |key: &str, value: &[u8]| (key.len() + value.len()) as u64;
    let mut kept = tx.map(PRIVATE).await?;
    let before: u64 = kept.iter().map(|(key, value)| size(key, value)).sum();
    for (key, value) in &elements {
        match value {
            Some(value) => drop(kept.insert(key.clone(), value.clone())),
            None => drop(kept.remove(key)),
        }
    }
    let after: u64 = kept.iter().map(|(key, value)| size(key, value)).sum();
    // Who has too much since the bound was lowered may still have less.
    if after > bytes_max && after > before {
        return Ok(Answer::Full);
    }
    for (key, value) in elements {
        match value {
            Some(value) => tx.put(PRIVATE, key, value),
            None => tx.delete(PRIVATE, key),
        }
    }
    Ok(Answer::Done)
}
