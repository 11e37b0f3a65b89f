//! XEP-0191 Blocking Command, version 1.3, and what it shares with XEP-0016 (`privacy`): one store of lists, written at the account's home (`home`),
//! in which the block list is what the default privacy list has of type "jid" and action "deny", for all stanzas. XEP-0377 reports ride on
//! a block (`report`).
//!
//! A session has the list that is in effect for it at hand (`guard`), and the node of the session judges what arrives for it; what arrives while
//! nobody is there, subscription stanzas and requests to the bare JID are judged by the default list, at the home or in the replica. So an account that
//! blocks nobody costs a stanza one look at a flag, and it is the list's owner whose regions decide, whoever sends.
//!
//! * `list` the rules · `record` what is stored, and [`is_blocked`] · `home` what is changed · `guard` what is in effect · `payload` what is said
//!
//! Left out: an address with a resource is not kept from presence that goes to the account behind it (presence is broadcast to bare JIDs).

pub mod guard;
pub mod home;
pub mod list;
pub mod payload;
pub mod privacy;
pub mod record;
pub mod report;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use replication::durable_log::Change;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

pub use self::guard::{hide, hides, outbound, refuses};
use self::home::{Answer, Limits, Request, What};
pub use self::list::Traffic;
use self::payload::Command;
use self::record::{Head, PRIVACY, decode, name};
pub use self::record::{has_default, is_blocked, is_blocked_here};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, SessionEvent, Target};
use crate::features::roster::record::{ROSTER, VERSION};
use crate::router::perform::seats_of;
use crate::session::Seat;

/// See the room.
pub struct Blocking;

impl Feature for Blocking {
    fn name(&self) -> &'static str {
        "blocking"
    }

    fn interests(&self) -> Interests {
        Interests {
            iq: &[ns::BLOCKING],
            session: true,
            changes: &[PRIVACY, ROSTER, VERSION],
            ..Interests::default()
        }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.extend([ns::BLOCKING, ns::REPORTING]);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        match is_own(iq) {
            Ok(true) => {}
            Ok(false) => return Flow::Next,
            Err(error) => return refuse(ctx, iq, &error),
        }
        let Some(seat) = ctx.seat else { return Flow::Next };
        let (node, seat, request) = (ctx.node.clone(), seat.clone(), iq.stanza.clone());
        match (iq.stanza.type_(), iq.stanza.first_child()) {
            (Type::Get, Some(("blocklist", _))) => {
                seat.follow_blocklist();
                Flow::Later(Box::pin(async move {
                    vec![Action::Reply(get(&node, &seat.bare, &request).await)]
                }))
            }
            (Type::Set, Some((word @ ("block" | "unblock"), _))) => {
                let payload = iq.stanza.child(word, ns::BLOCKING);
                let command = payload.as_ref().ok_or_else(StanzaError::bad_request);
                match command.and_then(payload::command) {
                    Ok(command) => {
                        Flow::Later(Box::pin(
                            async move { set(&node, &seat, &request, command).await },
                        ))
                    }
                    Err(error) => refuse(ctx, iq, &error),
                }
            }
            _ => refuse(ctx, iq, &StanzaError::bad_request()),
        }
    }

    fn session(&self, ctx: &mut Ctx<'_>, event: SessionEvent) -> Flow {
        let Some(seat) = ctx.seat.cloned() else { return Flow::Next };
        match event {
            // Who makes a list from now on has a change come by.
            SessionEvent::Bound | SessionEvent::Arrived
                if !ctx.node.guarded.may_have(seat.bare.as_str()) =>
            {
                Flow::Next
            }
            SessionEvent::Bound => Flow::Later(Box::pin(guard::load(ctx.node.clone(), seat))),
            // Once more, now that changes come by.
            SessionEvent::Arrived => {
                let active = seat.guard().and_then(|guard| guard.active.clone());
                Flow::Later(Box::pin(in_effect(ctx.node.clone(), seat, active)))
            }
            SessionEvent::Gone | SessionEvent::Left => {
                if seat.guard().is_some_and(|guard| guard.active.is_some()) {
                    let node = ctx.node.clone();
                    tokio::spawn(async move {
                        let what = What::Active(seat.generation.0, None);
                        // If it is not heard, the home finds by itself that the session is gone.
                        let _ = ask(&node, &seat, what).await;
                    });
                }
                Flow::Next
            }
            SessionEvent::Resumed => Flow::Next,
        }
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) -> Flow {
        ctx.node.guarded.apply(change);
        let seats = seats_of(ctx.node, change.owner());
        if seats.is_empty() {
            return Flow::Next;
        }
        let store = change.store();
        if store.as_str() != PRIVACY {
            // What is copied as a whole ends with its version.
            if store.as_str() == if snapshot { VERSION } else { ROSTER } {
                seats.iter().for_each(|seat| guard::roster_is(ctx, seat));
            }
            return Flow::Next;
        }
        let changed = match change {
            Change::Put { key, value, .. } if key.is_empty() => {
                decode::<Head>(value).map(|head| head_is(ctx, &seats, &head, snapshot))
            }
            Change::Put { key, value, .. } => match name(key) {
                Some(name) => decode(value).map(|list| {
                    seats.iter().for_each(|seat| guard::list_is(ctx, seat, name, &list));
                }),
                None => Ok(()),
            },
            // The end of the account.
            Change::Clear { .. } => {
                seats.iter().for_each(|seat| guard::default_is(ctx, seat, None));
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = changed {
            tracing::error!(%error, account = change.owner(), "a privacy list cannot be read");
        }
        Flow::Next
    }
}

/// Behind the lists of the same change: the default list, and who is told.
fn head_is(ctx: &mut Ctx<'_>, seats: &[Arc<Seat>], head: &Head, snapshot: bool) {
    for seat in seats {
        guard::default_is(ctx, seat, head.default.as_ref().map(|named| &named.list));
    }
    if snapshot {
        return;
    }
    let Some(account) = seats.first().map(|seat| seat.bare.clone()) else { return };
    let (blocking, privacy) = payload::pushes(&account, head.serial, &head.note);
    for seat in seats {
        let follows = |push: &Stanza| Action::ToSeat(seat.clone(), push.with_to(seat.address()));
        if seat.follows_blocklist() {
            ctx.actions.extend(blocking.iter().map(follows));
        }
        // XEP-0016 §2.2 rule 10: all connected resources.
        if !head.note.by_blocking || seat.follows_privacy() {
            ctx.actions.extend(privacy.iter().map(follows));
        }
    }
}

/// Whether a request is about the sender's own lists; `false`: it is not for an account.
fn is_own(iq: &Iq) -> Result<bool, StanzaError> {
    match iq.target {
        Target::Account { own: true, .. } => Ok(true),
        Target::Account { own: false, .. } => Err(StanzaError::forbidden()),
        Target::Server => Ok(false),
    }
}

fn refuse(ctx: &mut Ctx<'_>, iq: &Iq, error: &StanzaError) -> Flow {
    ctx.actions.extend(iq.stanza.error_reply(error).map(Action::Reply));
    Flow::Done
}

fn error_of(request: &Stanza, error: &StanzaError) -> Stanza {
    request.error_reply(error).expect("a get or set may be answered")
}

/// §3.2.
async fn get(node: &Node, account: &BareJid, request: &Stanza) -> Stanza {
    match Head::read(&*node.storage, account).await {
        Ok(head) => {
            let head = head.unwrap_or_default();
            Stanza::iq_result(request, Some(payload::addresses("blocklist", head.blocked())))
        }
        Err(error) => {
            tracing::error!(%error, "a privacy list cannot be read");
            error_of(request, &error.stanza_error())
        }
    }
}

/// §3.3 to §3.5. What follows for presence, and the pushes, are effects of the committed change, in every region.
async fn set(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    request: &Stanza,
    command: Command,
) -> Vec<Action> {
    let (what, reports) = match command {
        // More than there may be: nobody has to be asked.
        Command::Block(jids, _) | Command::Unblock(jids)
            if jids.len() > node.config.limits.privacy_items_max =>
        {
            return vec![Action::Reply(error_of(request, &StanzaError::resource_constraint()))];
        }
        Command::Block(jids, reports) => (What::Block(jids), reports),
        Command::Unblock(jids) => (What::Unblock(jids), Vec::new()),
        Command::UnblockAll => (What::UnblockAll, Vec::new()),
    };
    match ask(node, seat, what).await {
        Ok(()) => {
            if !reports.is_empty() {
                report::take(node, seat, reports);
            }
            vec![Action::Reply(Stanza::iq_result(request, None))]
        }
        Err(error) => vec![Action::Reply(error_of(request, &error))],
    }
}

/// A session comes from another node, where it had chosen that list, or none: it is in effect before anything reaches it.
pub async fn arriving(node: &Arc<Node>, seat: &Arc<Seat>, active: Option<String>) {
    if !node.guarded.may_have(seat.bare.as_str()) {
        return;
    }
    if let Some(name) = &active {
        let told = ask(node, seat, What::Active(seat.generation.0, Some(name.clone()))).await;
        if let Err(error) = told {
            tracing::debug!(session = %seat.full, ?error, "its home does not know that it uses a list");
        }
    }
    // Whom that shows it to, and from whom it hides, was settled where it comes from.
    in_effect(node.clone(), seat.clone(), active).await;
}

async fn in_effect(node: Arc<Node>, seat: Arc<Seat>, active: Option<String>) -> Vec<Action> {
    if active.is_none() {
        return guard::load(node, seat).await;
    }
    guard::choose(&node, &seat, active).await.unwrap_or_else(|error| {
        tracing::error!(%error, session = %seat.full, "a privacy list cannot be read");
        Vec::new()
    })
}

/// Asks the account's home.
async fn ask(node: &Node, seat: &Seat, what: What) -> Result<(), StanzaError> {
    match asked(node, seat, what).await? {
        Answer::Done | Answer::Reports(_) => Ok(()),
        Answer::NotFound => Err(StanzaError::item_not_found()),
        Answer::Conflict => Err(StanzaError::conflict()),
        Answer::TooMany => Err(StanzaError::resource_constraint()),
        Answer::NoAccount => Err(StanzaError::service_unavailable()),
    }
}

async fn asked(node: &Node, seat: &Seat, what: What) -> Result<Answer, StanzaError> {
    let most = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    let limits = &node.config.limits;
    let limits =
        Limits { lists: most(limits.privacy_lists_max), items: most(limits.privacy_items_max) };
    let request = Request { session: seat.full.clone(), limits, what };
    let answer = node.homes.exchange(&seat.bare, home::OP, &request).await;
    answer.map_err(|error| error.stanza_error())
}
