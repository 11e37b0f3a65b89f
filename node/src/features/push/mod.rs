//! XEP-0357 Push Notifications, version 0.4.1. A client registers an app server and a node of it (§5); when its account gets a message that
//! the client cannot be handed, the account's home publishes a notification there (§7), in the name of the account.
//!
//! Who is told of a message that is worth it (`xmpp::payload::importance`):
//! * all devices, when it is filed because nobody takes messages (`home::filed`),
//! * those whose resource is not connected anywhere, when somebody else takes it ([`delivered`], on the nodes where it arrives),
//! * the one whose session has lost its connection and may be resumed ([`asleep`], [`missed`]; stream management).
//!
//! Each message comes to each device once (`home`). A device that is connected hears of it by its stream, also while it is inactive
//! (XEP-0352). An app server that answers with an error is disabled (§7.1), unless the error says that it should be tried again; one
//! that cannot be reached is not.
//! Left out: disabling by a message of the app server (§8: it is disabled by its errors), `pending-subscription-count`, counting what is
//! unread over several pushes (`message-count` is that of the messages the push is about).
//!
//! * `payload` the elements · `record` what is stored · `cache` the registrations of accounts connected here · `home` who publishes.

pub mod cache;
pub mod home;
pub mod payload;
pub mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use global_distrib::NodeIx;
use replication::durable_log::Change;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::importance;
use xmpp::stanza::error::{ErrorType, StanzaError};
use xmpp::stanza::{Stanza, Type};

use self::home::{OP, Request};
use self::payload::{Ask, Note};
use self::record::{PUSH, Registration};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, SessionEvent, Target};
use crate::session::{Delivery, Owed, Seat};

/// See the room.
pub struct Push;

impl Feature for Push {
    fn name(&self) -> &'static str {
        "push"
    }

    fn interests(&self) -> Interests {
        Interests {
            iq: &[ns::PUSH],
            answers: true,
            session: true,
            changes: &[PUSH],
            ..Interests::default()
        }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.account_kept.push(ns::PUSH); // §4.1
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        match iq.target {
            Target::Account { own: true, .. } => {}
            Target::Account { own: false, .. } => {
                return refuse(ctx, iq, &StanzaError::forbidden());
            }
            Target::Server => return Flow::Next,
        }
        let Some(seat) = ctx.seat else { return Flow::Next };
        if iq.stanza.type_() != Type::Set {
            return refuse(ctx, iq, &StanzaError::bad_request());
        }
        let config = &ctx.node.config.push;
        let request = match payload::parse(&iq.stanza, config.options_bytes_max) {
            Err(error) => return refuse(ctx, iq, &error),
            Ok(Ask::Disable { jid, node }) => Request::Disable { jid, node },
            Ok(Ask::Enable { jid, node, options }) => {
                let resource = seat.full.resource().to_owned();
                let registration =
                    Registration { jid, node, options, resource, token: 0, since: 0 };
                Request::Enable { registration, max: config.registrations_max }
            }
        };
        let (node, account, asked) = (ctx.node.clone(), seat.bare.clone(), iq.stanza.clone());
        Flow::Later(Box::pin(async move {
            let answer = match node.homes.exchange(&account, OP, &request).await {
                Ok(()) => Some(Stanza::iq_result(&asked, None)),
                Err(error) => asked.error_reply(&error.stanza_error()),
            };
            answer.map(Action::Reply).into_iter().collect()
        }))
    }

    fn answer(&self, ctx: &mut Ctx<'_>, iq: &Iq) {
        let Target::Account { account, .. } = &iq.target else { return };
        answered(ctx.node, account, &iq.stanza);
    }

    fn session(&self, ctx: &mut Ctx<'_>, event: SessionEvent) -> Flow {
        let Some(seat) = ctx.seat else { return Flow::Next };
        let (node, seat) = (ctx.node.clone(), seat.clone());
        match event {
            // Who registers from now on has a change come by.
            SessionEvent::Bound | SessionEvent::Arrived
                if !node.pushes.registered.may_have(seat.bare.as_str()) =>
            {
                Flow::Next
            }
            SessionEvent::Bound | SessionEvent::Arrived => Flow::Later(Box::pin(async move {
                node.pushes.load(&node, &seat).await;
                Vec::new()
            })),
            SessionEvent::Resumed => Flow::Next,
            SessionEvent::Gone | SessionEvent::Left => {
                node.pushes.evict(&node, &seat.bare);
                Flow::Next
            }
        }
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, _snapshot: bool) -> Flow {
        ctx.node.pushes.apply(ctx.node, change);
        Flow::Next
    }
}

fn refuse(ctx: &mut Ctx<'_>, iq: &Iq, error: &StanzaError) -> Flow {
    ctx.actions.extend(iq.stanza.error_reply(error).map(Action::Reply));
    Flow::Done
}

/// An IQ result or error has come to an account, from wherever: if an app server refuses a push, it gets no more (§7.1).
pub fn answered(node: &Arc<Node>, account: &BareJid, answer: &Stanza) {
    let token = answer.id().as_deref().and_then(payload::answered);
    let (Some(token), Some(from), Type::Error) = (token, answer.from(), answer.type_()) else {
        return;
    };
    let error = answer.child("error", ns::CLIENT).map(|error| StanzaError::parse(&error));
    if error.is_some_and(|error| error.type_ == ErrorType::Wait) {
        return;
    }
    ask(node, account, Request::Refused { jid: from.as_str().to_owned(), token });
}

/// A message is in the mailboxes of some resources of an account that has devices registered: those that are not connected hear of it too.
pub fn delivered(
    node: &Arc<Node>,
    account: &BareJid,
    via: Option<NodeIx>,
    order: u64,
    message: &Stanza,
) {
    let devices = node.pushes.absent(node, account);
    if !devices.is_empty() {
        let of = vec![entered(node, via, order)];
        ask(node, account, Request::Tell { devices, of, note: Note::of(message) });
    }
}

/// Whether devices may be to hear of a message: its addressee did not write it himself, and it is worth it.
pub fn is_news(account: &BareJid, message: &Stanza) -> bool {
    importance::is_worth_a_call(message)
        && message.from().is_none_or(|from| {
            from.bare_str() != account.as_str() || message.has_child("received", ns::CARBONS)
        })
}

/// A session has lost its connection, and these are what its client has perhaps not got: one push is about all of them.
pub fn asleep<'a>(node: &Arc<Node>, seat: &Seat, unacked: impl Iterator<Item = &'a Delivery>) {
    if !seat.pushes() {
        return;
    }
    let missed: Vec<&Delivery> = unacked.filter(|delivery| is_missed(seat, delivery)).collect();
    let Some(last) = missed.last() else { return };
    let count = u32::try_from(missed.len()).unwrap_or(u32::MAX);
    let note = Note { count, ..Note::of(&last.stanza) };
    tell(node, seat, &missed, note);
}

/// A session without a connection has this for its client.
pub fn missed(node: &Arc<Node>, seat: &Seat, delivery: &Delivery) {
    if seat.pushes() && is_missed(seat, delivery) {
        tell(node, seat, &[delivery], Note::of(&delivery.stanza));
    }
}

/// What is filed was told of when it was.
fn is_missed(seat: &Seat, delivery: &Delivery) -> bool {
    delivery.owed != Owed::Home && is_news(&seat.bare, &delivery.stanza)
}

fn tell(node: &Arc<Node>, seat: &Seat, missed: &[&Delivery], note: Note) {
    let devices = node.pushes.of_resource(&seat.bare, seat.full.resource());
    if devices.is_empty() {
        return;
    }
    let of = |delivery: &&Delivery| match delivery.order {
        // A copy of ours: nobody else has it.
        0 => entered(node, None, node.ledger.next_order()),
        order => entered(node, delivery.via, order),
    };
    let of = missed.iter().map(of).collect();
    ask(node, &seat.bare, Request::Tell { devices, of, note });
}

fn entered(node: &Node, via: Option<NodeIx>, order: u64) -> home::Entered {
    let peer = via.and_then(|via| node.geo.peer_at(via));
    let name = peer.map_or_else(|| node.geo.me.to_string(), |peer| peer.name.to_string());
    (name, order)
}

/// Asks the account's home, and nobody waits for it: a push that cannot be told of is lost, the message is not.
fn ask(node: &Arc<Node>, account: &BareJid, request: Request) {
    let (node, account) = (node.clone(), account.clone());
    tokio::spawn(async move {
        let done: Result<(), _> = node.homes.exchange(&account, OP, &request).await;
        if let Err(error) = done {
            tracing::warn!(%account, ?error, "a push could not be asked for");
        }
    });
}
