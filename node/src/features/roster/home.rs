//! The roster's home: where its changes are decided and committed, one after the other (RFC 6121 §2 and §3, appendix A through
//! `subscription`). Runs only in the region that is the account's home; everyone else sends a [`Request`] there.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use super::cache::version;
use super::record::{Contact, ROSTER, VERSION};
use super::subscription::{self, Kind, State};
use crate::homes::{HomeError, HomeOp, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "roster";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Roster set (§2.3, §2.4).
    Set {
        /// Whom.
        contact: BareJid,
        /// Its name.
        name: Option<String>,
        /// Its groups.
        groups: Vec<String>,
        /// `limits.roster_items_max` of the asker.
        items_max: u32,
    },
    /// Roster removal (§2.5).
    Remove {
        /// Whom.
        contact: BareJid,
    },
    /// The account sends a subscription stanza.
    Out {
        /// To whom.
        contact: BareJid,
        /// Which.
        kind: Kind,
        /// `limits.roster_items_max` of the asker.
        items_max: u32,
    },
    /// The account receives one.
    In {
        /// From whom.
        contact: BareJid,
        /// Which.
        kind: Kind,
        /// The stanza, kept while a request is pending.
        stanza: Vec<u8>,
        /// `limits.roster_items_max` of the asker.
        items_max: u32,
    },
}

/// What came of it; always after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// A subscription stanza: pass it on, and answer for the user.
    Subscription {
        /// See [`subscription::Verdict::pass`].
        pass: bool,
        /// See [`subscription::Verdict::auto_reply`].
        auto_reply: bool,
    },
    /// Removed; this was its state.
    Removed(State),
    /// There is no such contact.
    NotFound,
    /// The roster is full.
    TooMany,
    /// There is no such account.
    NoAccount,
}

/// The operation.
pub struct RosterHome;

impl HomeOp for RosterHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        Box::pin(async move {
            let request: Request =
                postcard::from_bytes(request).map_err(|_| HomeError::Unknown(OP.to_owned()))?;
            let answer = decide(tx, request).await?;
            Ok(postcard::to_stdvec(&answer).expect("a plain value"))
        })
    }
}

async fn decide(tx: &mut Tx, request: Request) -> Result<Answer, HomeError> {
    if !accounts::exists(tx).await? {
        return Ok(Answer::NoAccount);
    }
    match request {
        Request::Set { contact, name, groups, items_max } => {
            let known = read(tx, &contact).await?;
            if known.is_none() && is_full(tx, items_max).await? {
                return Ok(Answer::TooMany);
            }
            let mut record = known.clone().unwrap_or_default();
            record.name = name;
            record.groups = groups;
            record.listed = true;
            let record = Contact { push: true, ..record.following(known.as_ref(), None) };
            write(tx, &contact, &record).await?;
            Ok(Answer::Done)
        }
        Request::Remove { contact } => {
            let Some(known) = read(tx, &contact).await?.filter(|record| record.listed) else {
                return Ok(Answer::NotFound);
            };
            let state = known.state;
            // First what it means for presence, then the removal, which is what is pushed.
            let farewell =
                Contact { listed: true, ..Contact::default() }.following(Some(&known), None);
            write(tx, &contact, &Contact { push: false, ..farewell }).await?;
            tx.delete(ROSTER, contact.as_str());
            Ok(Answer::Removed(state))
        }
        Request::Out { contact, kind, items_max } => {
            let known = read(tx, &contact).await?;
            if known.is_none() && kind == Kind::Subscribe && is_full(tx, items_max).await? {
                return Ok(Answer::TooMany);
            }
            let mut record = known.clone().unwrap_or_default();
            let verdict = subscription::outbound(&mut record.state, kind);
            // §3.1.2: a request puts the contact into the roster; so does an approval (§3.1.5).
            record.listed |= record.state.pending_out
                || record.state.from
                || record.state.to
                || record.state.approved;
            commit(tx, &contact, known, record, None).await?;
            Ok(Answer::Subscription { pass: verdict.pass, auto_reply: verdict.auto_reply })
        }
        Request::In { contact, kind, stanza, items_max } => {
            let known = read(tx, &contact).await?;
            if known.is_none() && kind == Kind::Subscribe && is_full(tx, items_max).await? {
                return Ok(Answer::TooMany);
            }
            let mut record = known.clone().unwrap_or_default();
            let verdict = subscription::inbound(&mut record.state, kind);
            if record.state.pending_in && kind == Kind::Subscribe {
                record.request = Some(stanza.clone());
            }
            record.listed |= record.state.from;
            commit(tx, &contact, known, record, verdict.pass.then_some(stanza)).await?;
            Ok(Answer::Subscription { pass: verdict.pass, auto_reply: verdict.auto_reply })
        }
    }
}

/// Writes what changed, and nothing if nothing did.
async fn commit(
    tx: &mut Tx,
    contact: &BareJid,
    known: Option<Contact>,
    record: Contact,
    deliver: Option<Vec<u8>>,
) -> Result<(), HomeError> {
    let record = record.following(known.as_ref(), deliver);
    let gone = !record.listed && record.state == State::default();
    let unchanged = match &known {
        Some(known) => {
            known.state == record.state
                && known.listed == record.listed
                && known.request == record.request
        }
        None => gone,
    };
    if !unchanged || record.deliver.is_some() {
        write(tx, contact, &record).await?;
    }
    if gone && (known.is_some() || record.deliver.is_some()) {
        tx.delete(ROSTER, contact.as_str());
    }
    Ok(())
}

async fn read(tx: &mut Tx, contact: &BareJid) -> Result<Option<Contact>, HomeError> {
    let bytes = tx.get(ROSTER, contact.as_str()).await?;
    Ok(bytes.as_deref().and_then(Contact::decode))
}

async fn is_full(tx: &mut Tx, items_max: u32) -> Result<bool, HomeError> {
    Ok(tx.map(ROSTER).await?.len() >= items_max as usize)
}

/// The version first: whoever applies the changes in order has it when the contact comes.
async fn bump(tx: &mut Tx) -> Result<(), HomeError> {
    let now = tx.get(VERSION, "").await?.as_deref().map_or(0, version);
    tx.put(VERSION, "", (now + 1).to_le_bytes().to_vec());
    Ok(())
}

async fn write(tx: &mut Tx, contact: &BareJid, record: &Contact) -> Result<(), HomeError> {
    bump(tx).await?;
    tx.put(ROSTER, contact.as_str(), record.encode());
    Ok(())
}
