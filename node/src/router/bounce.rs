//! Room: the only place that turns a stanza round. Errors and results are never answered (RFC 6120 §8.3.1), so no two servers
//! or components can bounce errors at each other for ever.

use std::sync::Arc;

use global_distrib::NodeIx;
use xmpp::jid::Jid;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};

use super::perform;
use crate::app::Node;
use crate::feature::Ctx;
use crate::session::Delivery;

/// Answers with the error, if the stanza may be answered at all; counts what may not. A probe asks for a user who has not: that nobody answers it says
/// all, and his presence to the same contact brings the error.
pub fn bounce(node: &Arc<Node>, stanza: &Stanza, error: &StanzaError) {
    match stanza.error_reply(error).filter(|_| stanza.type_() != Type::Probe) {
        Some(reply) => {
            node.metrics.routed.bounced.inc();
            // Past the gate of an account that is here: the sender is to hear of a full gate, also when it is his own.
            let full = reply.to().and_then(Jid::full);
            let seat = full.and_then(|full| perform::seat_of(node, &full));
            match seat {
                Some(seat) if seat.take(Delivery::light(reply.clone())) => {
                    if reply.kind() != Kind::Message {
                        return; // Inbound features are for messages.
                    }
                    let mut ctx = Ctx::new(node, None);
                    node.features.inbound(&mut ctx, &reply, &[seat]);
                    let actions = std::mem::take(&mut ctx.actions);
                    perform::perform(node, None, actions);
                }
                _ => super::route(node, reply),
            }
        }
        None => {
            node.metrics.routed.ignored.inc();
        }
    }
}

/// As [`bounce`], of a message of another node's ledger: it is kept when the sender has the error. False: there is no error to be said, or no room to
/// answer for one.
pub fn bounce_for(
    node: &Arc<Node>,
    via: NodeIx,
    order: u64,
    stanza: &Stanza,
    error: &StanzaError,
) -> bool {
    let Some(reply) = stanza.error_reply(error) else { return false };
    node.geo.held.let_go(via, order);
    let Some(routed) = super::adopted(node, via, order, true, reply) else { return false };
    node.metrics.routed.bounced.inc();
    for account in super::put_back_all(node, vec![routed]) {
        super::reopen(node, &account);
    }
    true
}

/// Nobody is there to take it: RFC 6121 §8.5.1, §8.5.2.2, §8.5.3.2. Presence says nothing to who is not there. A word about subscriptions waits for an answer,
/// and an account's home keeps it until there is one; for a component that is not connected nobody does, so it comes back.
pub fn undeliverable(node: &Arc<Node>, stanza: &Stanza) {
    let is_to_component = || stanza.to().is_some_and(|to| node.domains.is_component(to.domain()));
    match (stanza.kind(), stanza.type_()) {
        (
            Kind::Presence,
            Type::Subscribe | Type::Subscribed | Type::Unsubscribe | Type::Unsubscribed,
        ) if is_to_component() => {
            bounce(node, stanza, &StanzaError::service_unavailable());
        }
        (Kind::Presence, _) | (Kind::Message, Type::Headline | Type::Error) => {
            node.metrics.routed.ignored.inc();
        }
        _ => bounce(node, stanza, &StanzaError::service_unavailable()),
    }
}
