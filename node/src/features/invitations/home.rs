//! Invitations at their homes. An invitation is one fact with one writer, the home of whoever invites: so it is counted right wherever it is
//! brought. The name it reserves is another fact, of the home of the account that is to be.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza::Stanza;

use super::record::{INVITATIONS, Invitation, RESERVED, Reserved};
use super::token::Token;
use crate::homes::accounts::{self, ACCOUNTS, Account};
use crate::homes::{Decision, HomeError, Tx};

/// Name of the operation.
pub const OP: &str = "invitations";

/// How long an invitation is kept that is no longer good: XEP-0445 §4, who has shown it in time may finish. Longer than
/// `c2s.auth_deadline` can be.
const KEPT_MS: u64 = 3_600_000;

/// What may be asked: first what the inviter's home is asked, then what the new account's home is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep this one.
    Issue {
        /// Its key.
        key: String,
        /// The invitation.
        invitation: Invitation,
        /// `invitations.open_max` of the asker.
        max: u32,
    },
    /// Is it good?
    Look {
        /// Its key.
        key: String,
    },
    /// It is used, once. Whether it is still good was asked before.
    Take {
        /// Its key.
        key: String,
    },
    /// It was not used after all.
    GiveBack {
        /// Its key.
        key: String,
        /// As it was.
        invitation: Invitation,
    },
    /// It is no good any more.
    Revoke {
        /// Its key.
        key: String,
    },
    /// Those that are still good.
    List,
    /// Keep this name for an invitation.
    Reserve(Reserved),
    /// Keep it no longer.
    Release {
        /// The invitation's key.
        by: String,
    },
    /// Make the account, unless its name is kept for another invitation.
    Register {
        /// As it is to be.
        account: Box<Account>,
        /// The invitation's key, if there is one.
        by: Option<String>,
    },
}

/// What came of it; always after the commit.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// This is it.
    Found(Invitation),
    /// There is none, or it is no good.
    Unknown,
    /// As many are still good as may be.
    Full,
    /// The inviting account does not exist.
    NoAccount,
    /// The account exists, or its name is kept for somebody else.
    Taken,
    /// Invitations that are still good, by key.
    All(Vec<(String, Invitation)>),
}

/// The operation.
pub struct InvitationsHome;

impl Decision for InvitationsHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    async fn decide(
        &self,
        tx: &mut Tx,
        owner: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        decide(tx, owner, request).await
    }
}

async fn decide(tx: &mut Tx, owner: &BareJid, request: Request) -> Result<Answer, HomeError> {
    let now = tx.at().millis();
    Ok(match request {
        Request::Issue { key, invitation, max } => {
            // The operator's have no account behind them.
            if owner.local().is_some() && !accounts::exists(tx).await? {
                return Ok(Answer::NoAccount);
            }
            if tidied(tx, now).await?.len() >= max as usize {
                return Ok(Answer::Full);
            }
            tx.put(INVITATIONS, key, invitation.encode());
            Answer::Done
        }
        Request::Look { key } => match read(tx, &key).await?.filter(|found| found.is_good(now)) {
            Some(found) => Answer::Found(found),
            None => Answer::Unknown,
        },
        Request::Take { key } => match read(tx, &key).await?.filter(|found| found.uses > 0) {
            Some(found) => {
                take(tx, &key, found.clone());
                Answer::Found(found)
            }
            None => Answer::Unknown,
        },
        Request::GiveBack { key, invitation } => {
            let found = read(tx, &key).await?;
            let uses = found.map_or(0, |found| found.uses) + 1;
            tx.put(INVITATIONS, key, Invitation { uses, ..invitation }.encode());
            Answer::Done
        }
        Request::Revoke { key } => match read(tx, &key).await? {
            Some(found) => {
                tx.delete(INVITATIONS, key);
                Answer::Found(found)
            }
            None => Answer::Unknown,
        },
        Request::List => Answer::All(tidied(tx, now).await?),
        Request::Reserve(reserved) => {
            if accounts::exists(tx).await? || is_kept(tx, Some(&reserved.by), now).await? {
                return Ok(Answer::Taken);
            }
            tx.put(RESERVED, "", reserved.encode());
            Answer::Done
        }
        Request::Release { by } => {
            if kept(tx).await?.is_some_and(|kept| kept.by == by) {
                tx.delete(RESERVED, "");
            }
            Answer::Done
        }
        Request::Register { account, by } => {
            if accounts::exists(tx).await? || is_kept(tx, by.as_deref(), now).await? {
                return Ok(Answer::Taken);
            }
            if kept(tx).await?.is_some() {
                tx.delete(RESERVED, "");
            }
            tx.put(ACCOUNTS, "", account.encode());
            Answer::Done
        }
    })
}

/// A request to be subscribed that carries an invitation of this account to become its contact (XEP-0379 §3.5) uses it. An invitation that
/// is no good is as good as none (§4.1).
///
/// # Errors
/// The storage cannot be read.
pub async fn redeem(tx: &mut Tx, owner: &BareJid, request: &[u8]) -> Result<bool, HomeError> {
    let brought = Stanza::parse(request.to_vec().into())
        .ok()
        .and_then(|stanza| stanza.child("preauth", ns::PARS))
        .and_then(|preauth| Token::parse(preauth.attr("token")?, owner.domain()))
        .filter(|token| token.owner() == owner);
    let Some(token) = brought else { return Ok(false) };
    let (key, now) = (token.key(), tx.at().millis());
    let found = read(tx, &key).await?;
    let Some(found) = found.filter(|found| found.contact && found.is_good(now)) else {
        return Ok(false);
    };
    take(tx, &key, found);
    Ok(true)
}

fn take(tx: &mut Tx, key: &str, found: Invitation) {
    match found.uses {
        0 | 1 => tx.delete(INVITATIONS, key),
        uses => tx.put(INVITATIONS, key, Invitation { uses: uses - 1, ..found }.encode()),
    }
}

async fn read(tx: &Tx, key: &str) -> Result<Option<Invitation>, HomeError> {
    let bytes = tx.get(INVITATIONS, key).await?;
    Ok(bytes.as_deref().and_then(Invitation::decode))
}

/// Those that are good; what has been no good for long goes.
async fn tidied(tx: &mut Tx, now: u64) -> Result<Vec<(String, Invitation)>, HomeError> {
    let mut good = Vec::new();
    for (key, bytes) in tx.map(INVITATIONS).await? {
        match Invitation::decode(&bytes) {
            Some(found) if found.is_good(now) => good.push((key, found)),
            Some(found) if found.expires + KEPT_MS > now => {}
            _ => tx.delete(INVITATIONS, key),
        }
    }
    Ok(good)
}

async fn kept(tx: &Tx) -> Result<Option<Reserved>, HomeError> {
    Ok(tx.get(RESERVED, "").await?.as_deref().and_then(Reserved::decode))
}

/// Whether the name is kept for another invitation than this one.
async fn is_kept(tx: &Tx, by: Option<&str>, now: u64) -> Result<bool, HomeError> {
    let kept = kept(tx).await?;
    Ok(kept.is_some_and(|kept| now < kept.until && Some(kept.by.as_str()) != by))
}
