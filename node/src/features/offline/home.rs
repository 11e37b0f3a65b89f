//! Offline messages at the account's home. Store `offline`: an archive, owner the account, id the home's hybrid time, or the next after the
//! last one given if that is greater.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use crate::app::{Late, Node};
use crate::features::blocking::record::{HEAD, PRIVACY};
use crate::features::blocking::{self, Traffic};
use crate::features::push;
use crate::homes::accounts::{self, ACCOUNTS};
use crate::homes::{Decision, HomeError, Reading, Tx};
use crate::storage::Page;

/// Name of the operation.
pub const OP: &str = "offline";
/// The messages.
pub const OFFLINE: &str = "offline";
/// What was filed last, a map: key the node that filed it, value its orders there. A node that did not hear of its filing (it died, or the
/// home did) files once more, and it is not kept twice. Whoever has messages has something here.
pub const FILED: &str = "offline.filed";
/// The key of [`FILED`] that is no node's: the last id given.
const LAST_ID: &str = "";
/// Orders remembered for each node: a node files one batch of an account after the other, so the last one is all it can be unsure of,
/// and a few before whose removal from its outbox was not written yet.
const FILED_MAX: usize = 32;
/// Messages an answer carries at most.
const FETCH_MAX: usize = 100;
/// Bytes of messages an answer carries at most, unless one has more: it travels in one frame of a link.
const FETCH_BYTES_MAX: usize = 384 << 10;
/// Messages read from storage at first: an answer with room for one or two long ones is not to cost all the others.
const READ_FIRST: usize = 25;

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep these, in order, unless that was done already.
    File {
        /// The node that has them.
        node: String,
        /// Stanzas, each with its order there.
        stanzas: Vec<(u64, Vec<u8>)>,
        /// `limits.offline_messages_max` of the asker.
        max: u32,
    },
    /// Which of these were kept already, whatever became of them since.
    Which {
        /// The node that has them.
        node: String,
        /// Their orders there.
        orders: Vec<u64>,
    },
    /// Some of those kept, oldest first. Only an answer without any says that there are no more.
    Fetch {
        /// After this id.
        after: Option<u64>,
    },
    /// Those up to this id have been handed out.
    Drop {
        /// Inclusive.
        upto: u64,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Kept (or dropped), and committed.
    Filed,
    /// The account is connected somewhere: nothing was kept but these, which had been before.
    Elsewhere(Vec<u64>),
    /// Kept, and committed, but for these: the account's default privacy list denies them, or there was room for those before them only.
    Denied(Vec<u64>),
    /// No such account.
    NoAccount,
    /// The account's bound is reached: nothing was kept.
    Full,
    /// These were.
    Known(Vec<u64>),
    /// Messages with their ids.
    Messages(Vec<(u64, Vec<u8>)>),
}

/// The operation. It sees the node for its session table and clock.
pub struct OfflineHome(pub Late);

impl Decision for OfflineHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    fn reads(&self, _: &BareJid, request: &[u8]) -> Vec<Reading> {
        match postcard::from_bytes(request) {
            Ok(Request::File { node, .. }) => vec![
                (ACCOUNTS, String::new()),
                (FILED, node),
                (PRIVACY, HEAD.to_owned()),
                (FILED, LAST_ID.to_owned()),
            ],
            _ => Vec::new(),
        }
    }

    async fn decide(
        &self,
        tx: &mut Tx,
        account: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        let node = self.0.get().ok_or(HomeError::Unreachable)?;
        decide(&node, tx, account, request).await
    }
}

async fn decide(
    node: &Arc<Node>,
    tx: &mut Tx,
    account: &BareJid,
    request: Request,
) -> Result<Answer, HomeError> {
    match request {
        Request::File { node: from, stanzas, max } => {
            if !accounts::exists(tx).await? {
                return Ok(Answer::NoAccount);
            }
            let mut filed = filed_by(tx, &from).await?;
            let batch = stanzas.len();
            let (again, stanzas): (Vec<_>, Vec<_>) =
                stanzas.into_iter().partition(|(order, _)| filed.contains(order));
            if stanzas.is_empty() {
                return Ok(Answer::Filed);
            }
            let connected = node
                .directory
                .read(account.as_str(), |rows| {
                    rows.iter().any(|row| row.available && row.priority >= 0 && row.lit)
                })
                .unwrap_or(false);
            if connected {
                return Ok(Answer::Elsewhere(again.into_iter().map(|(order, _)| order).collect()));
            }
            let (mut denied, mut stanzas) = judge(tx, account, stanzas).await?;
            if stanzas.is_empty() {
                return Ok(Answer::Denied(denied));
            }
            let kept = tx.archive(OFFLINE, Page::after(None, max as usize)).await?.len();
            let room = (max as usize).saturating_sub(kept);
            if room == 0 {
                return Ok(Answer::Full);
            }
            let beyond = stanzas.split_off(room.min(stanzas.len()));
            denied.extend(beyond.into_iter().map(|(order, _)| order));
            push::home::filed(node, tx, account, &from, &stanzas).await?;
            let mut id = last_id(tx).await?;
            for (order, stanza) in stanzas {
                filed.push(order);
                id = tx.at().0.max(id + 1);
                tx.append(OFFLINE, id, stanza);
            }
            tx.put(FILED, LAST_ID, id.to_be_bytes().to_vec());
            let old = filed.len().saturating_sub(FILED_MAX.max(batch));
            let filed = postcard::to_stdvec(&filed[old..]).expect("numbers always serialise");
            tx.put(FILED, &from, filed);
            Ok(if denied.is_empty() { Answer::Filed } else { Answer::Denied(denied) })
        }
        Request::Which { node: from, orders } => {
            let filed = filed_by(tx, &from).await?;
            let known = orders.into_iter().filter(|order| filed.contains(order));
            Ok(Answer::Known(known.collect()))
        }
        // Most have nothing: of none of them anything was ever filed.
        Request::Fetch { .. }
            if !tx.is_touched(OFFLINE) && !node.filed.may_have(account.as_str()) =>
        {
            Ok(Answer::Messages(Vec::new()))
        }
        Request::Fetch { after } => Ok(Answer::Messages(fetch(tx, after).await?)),
        Request::Drop { upto } => {
            tx.trim(OFFLINE, upto);
            Ok(Answer::Filed)
        }
    }
}

/// What one answer carries of those after this id: one at least, if there are any.
async fn fetch(tx: &Tx, mut after: Option<u64>) -> Result<Vec<(u64, Vec<u8>)>, HomeError> {
    let (mut fetched, mut bytes) = (Vec::new(), 0);
    while fetched.len() < FETCH_MAX {
        let left = FETCH_MAX - fetched.len();
        // Where the first are short, all the others are read in one go.
        let is_short = bytes * FETCH_MAX <= fetched.len() * FETCH_BYTES_MAX;
        let max = if fetched.is_empty() || !is_short { READ_FIRST.min(left) } else { left };
        let read = tx.archive(OFFLINE, Page::after(after, max)).await?;
        let is_last = read.len() < max;
        for (id, message) in read {
            bytes += message.len();
            if bytes > FETCH_BYTES_MAX && !fetched.is_empty() {
                return Ok(fetched);
            }
            after = Some(id);
            fetched.push((id, message));
        }
        if is_last {
            break;
        }
    }
    Ok(fetched)
}

/// Orders of those that the account's default privacy list denies, for nobody is there to have another one (XEP-0016 §2.2 rule 2), and the rest.
async fn judge(
    tx: &Tx,
    account: &BareJid,
    stanzas: Vec<(u64, Vec<u8>)>,
) -> Result<(Vec<u64>, Vec<(u64, Vec<u8>)>), HomeError> {
    let mut denied = Vec::new();
    if !blocking::has_default(tx).await? {
        return Ok((denied, stanzas));
    }
    let mut kept = Vec::new();
    for (order, bytes) in stanzas {
        let stanza = Stanza::parse(bytes.clone().into()).ok();
        let from = stanza.as_ref().and_then(Stanza::from);
        match from {
            Some(from) if blocking::is_blocked(tx, account, from, Traffic::Message).await? => {
                denied.push(order);
            }
            _ => kept.push((order, bytes)),
        }
    }
    Ok((denied, kept))
}

/// Something is filed under that id without having been sent here: an import's.
pub async fn imported(tx: &mut Tx, id: u64) -> Result<(), HomeError> {
    let last = last_id(tx).await?.max(id);
    tx.put(FILED, LAST_ID, last.to_be_bytes().to_vec());
    Ok(())
}

/// The last id given, whatever became of it: ids grow although a clock goes back or the home moves.
async fn last_id(tx: &Tx) -> Result<u64, HomeError> {
    let bytes = tx.get(FILED, LAST_ID).await?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
}

async fn filed_by(tx: &Tx, node: &str) -> Result<Vec<u64>, HomeError> {
    let known = tx.get(FILED, node).await?;
    Ok(known.and_then(|bytes| postcard::from_bytes(&bytes).ok()).unwrap_or_default())
}
