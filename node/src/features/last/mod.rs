//! XEP-0012 Last Activity, version 1.2: how long the server is up, and when a user was last there, with his last words. That is kept at the
//! account's home whenever one of its sessions stops to show that it is available (one that is invisible has done so before), so it does not matter which region it was in; whoever asks may
//! see the account's presence (§6), and the home is asked, for the answer to fit what its contacts have seen. What is for a full JID is
//! passed to the client (§5). An account that never was there counts from when it was made.
//!
//! What is on its way there is gathered (`leaving`), and the home knows of it.
//! Left out: nothing.

pub mod home;
pub mod leaving;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use global_distrib::Row;
use tokio::time::timeout;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

use self::home::{LAST, Left, OP, Request, newest};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, SessionEvent, Target};
use crate::features::roster;
use crate::homes::accounts::Account;
use crate::session::Seat;
use crate::storage::StorageError;

/// Of the last words, in bytes; the rest is cut off.
const STATUS_BYTES_MAX: usize = 1_023;
/// How long a home may take to answer: two journeys round the world, and its queue.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// See the room.
pub struct LastFeature;

impl Feature for LastFeature {
    fn name(&self) -> &'static str {
        "last"
    }

    fn interests(&self) -> Interests {
        let iq = &[ns::LAST_ACTIVITY, ns::INVISIBLE, ns::INVISIBLE_0];
        Interests { iq, outbound_presence: true, session: true, ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::LAST_ACTIVITY);
        disco.account.push(ns::LAST_ACTIVITY);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        if let Some((word, ns::INVISIBLE | ns::INVISIBLE_0)) = iq.stanza.first_child() {
            if let Some(seat) = ctx.seat
                && word == "invisible"
                && iq.stanza.type_() == Type::Set
                && !matches!(iq.target, Target::Account { own: false, .. })
            {
                leaves(ctx.node, seat, String::new());
            }
            return Flow::Next;
        }
        if iq.stanza.type_() != Type::Get || !iq.is("query") {
            return Flow::Next;
        }
        match &iq.target {
            Target::Server => {
                let up = query(ctx.node.now_ms() / 1000, None);
                ctx.actions.extend(Action::answer(&iq.stanza, Ok(Some(up))));
                Flow::Done
            }
            Target::Account { account, .. } => {
                let (node, account, asked) = (ctx.node.clone(), account.clone(), iq.stanza.clone());
                Flow::Later(Box::pin(async move {
                    let answer = if roster::shows_presence(&node, &account, &asked).await {
                        of_account(&node, &account).await.map(Some)
                    } else {
                        Err(StanzaError::forbidden()) // §6; an account that is not there says the same.
                    };
                    Action::answer(&asked, answer).into_iter().collect()
                }))
            }
        }
    }

    fn outbound(&self, ctx: &mut Ctx<'_>, stanza: &mut Stanza) -> Flow {
        let goes = stanza.kind() == Kind::Presence && stanza.type_() == Type::Unavailable;
        if goes
            && stanza.to().is_none()
            && let Some(seat) = ctx.seat
        {
            let status = stanza.child("status", ns::CLIENT).map(|status| status.text());
            leaves(ctx.node, seat, status.unwrap_or_default());
        }
        Flow::Next
    }

    fn session(&self, ctx: &mut Ctx<'_>, event: SessionEvent) -> Flow {
        if event == SessionEvent::Gone
            && let Some(seat) = ctx.seat
        {
            leaves(ctx.node, seat, String::new());
        }
        Flow::Next
    }
}

/// A session is not available any more, which it was until now: this feature stands before presence in the list.
fn leaves(node: &Arc<Node>, seat: &Arc<Seat>, mut status: String) {
    if !seat.is_shown() || !is_kept(node, &seat.bare) {
        return;
    }
    status.truncate(status.floor_char_boundary(STATUS_BYTES_MAX));
    let left = Left { at_ms: node.wall_ms(), login_ms: seat.generation.millis(), status };
    node.leaving.add(node, &seat.bare, left);
}

/// Guests are not kept.
fn is_kept(node: &Node, account: &BareJid) -> bool {
    node.domains.has_accounts(account.domain())
}

/// §4: who is there is there now.
async fn of_account(node: &Arc<Node>, account: &BareJid) -> Result<Element, StanzaError> {
    // XEP-0186 §3.1.1: an invisible one is not there.
    let shown = |row: &Row<Arc<Seat>>| row.available && !row.hidden;
    let there = node.directory.read(account.as_str(), |rows| rows.iter().any(shown));
    if there.unwrap_or(false) {
        return Ok(query(0, None));
    }
    let failed = |error: StorageError| {
        tracing::error!(%account, %error, "its last activity cannot be read");
        error.stanza_error()
    };
    let ago = |at_ms: u64| node.wall_ms().saturating_sub(at_ms) / 1000;
    if let Some(left) = left(node, account).await.map_err(failed)? {
        return Ok(query(ago(left.at_ms), Some(&left.status)));
    }
    let made = Account::load(node.storage.as_ref(), account).await.map_err(failed)?;
    Ok(query(made.map_or(0, |account| ago(account.created)), None))
}

fn query(seconds: u64, status: Option<&str>) -> Element {
    let query = Element::new("query", ns::LAST_ACTIVITY).with_attr("seconds", &seconds.to_string());
    match status {
        Some(status) if !status.is_empty() => query.with_text(status),
        _ => query,
    }
}

/// When an account was last there, as its home knows it; as it is known here if that does not answer.
///
/// # Errors
/// The local replica cannot be read.
pub async fn left(node: &Arc<Node>, account: &BareJid) -> Result<Option<Left>, StorageError> {
    match timeout(ANSWER_WITHIN, node.homes.exchange(account, OP, &Request::When)).await {
        Ok(Ok(left)) => return Ok(left),
        Ok(Err(error)) => tracing::debug!(%account, %error, "its home cannot be asked"),
        Err(_) => tracing::debug!(%account, "its home does not answer in time"),
    }
    let known = node.storage.get(LAST, account.as_str(), "").await?;
    Ok(newest(known.as_deref().and_then(Left::decode), node.leaving.of(account)))
}

/// When the newest of its sessions that are connected was bound, in milliseconds since the epoch.
pub fn login_ms(node: &Node, account: &BareJid) -> Option<u64> {
    let newest = |rows: &[global_distrib::Row<Arc<Seat>>]| {
        rows.iter().map(|row| row.generation.millis()).max()
    };
    node.directory.read(account.as_str(), newest).flatten()
}
