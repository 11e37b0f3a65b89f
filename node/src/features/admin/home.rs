//! The sign that sessions of an account are to end, given at its home and followed in every region. Store `ended`: a map, key the resource
//! (`""`: all). Nothing stays there: what is put is deleted in the same entry of the log, and a region that was away so long that it
//! needs a full copy has no sessions from before.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::homes::{Decision, HomeError, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "ended";
/// The sign.
pub const ENDED: &str = "ended";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// End the session of this resource; of none: all.
    End(String),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Committed; the sessions end when their region follows.
    Done,
    /// No such account.
    NoAccount,
}

/// The operation.
pub struct EndHome;

impl Decision for EndHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    async fn decide(
        &self,
        tx: &mut Tx,
        _: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        if !accounts::exists(tx).await? {
            return Ok(Answer::NoAccount);
        }
        let Request::End(resource) = request;
        tx.put(ENDED, resource.as_str(), Vec::new());
        tx.delete(ENDED, resource);
        Ok(Answer::Done)
    }
}
