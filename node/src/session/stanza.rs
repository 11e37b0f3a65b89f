//! Room: what a client sends. Its `from` is checked and stamped (RFC 6120 §8.1.2.1), what has no `to` gets the meaning RFC 6120 §10.3 gives
//! it, IQs to us and to accounts go to the features, messages and presence past the outbound features to the router. What the same IQ is of
//! another domain's user is decided here too ([`iq`]); the rest of what comes from there is `federation::inbound`'s.

use std::sync::Arc;

use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::delay;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Head, Kind, Stanza, Type};
use xmpp::stream::error::StreamError;

use super::task::Session;
use super::{Receipt, Seat};
use crate::app::Node;
use crate::components;
use crate::feature::{Action, Ctx, Flow, Iq, Target};
use crate::features::blocking::{self, Traffic};
use crate::router::{self, Destination, decide};

impl Session {
    /// The stanza at the front of the input, with our `from`. `None`: it was answered (a malformed `to`, for one).
    pub(super) fn stamped(&self, bytes: usize, head: &Head) -> Result<Option<Stanza>, StreamError> {
        let piece = &self.input.filled()[..bytes];
        if let Some(from) = head.from {
            let claimed = from.value(piece).and_then(|text| Jid::parse(&text).ok());
            let own = claimed.is_some_and(|jid| {
                jid.as_str() == self.seat.full.as_str() || jid.as_str() == self.seat.bare.as_str()
            });
            if !own {
                return Err(StreamError::invalid_from());
            }
        }
        let received = &self.node.metrics.received;
        match head.kind {
            Kind::Message => received.message.inc(),
            Kind::Presence => received.presence.inc(),
            _ => received.iq.inc(),
        };
        match Stanza::receive(piece, head, self.seat.address(), self.lang.as_deref()) {
            Ok(stanza) => Ok(Some(stanza)),
            Err(rejected) => {
                if let Some(reply) = rejected.reply {
                    router::perform(&self.node, Some(&self.seat), vec![Action::Reply(reply)]);
                }
                Ok(None)
            }
        }
    }
}

/// The client's last presence, as if it had sent that again: what the server adds to it is another.
pub(super) async fn say_again(node: &Arc<Node>, seat: &Arc<Seat>) -> Option<StreamError> {
    let presence = seat.asked_again()?;
    let mut ctx = Ctx::new(node, Some(seat));
    let flow = handle(&mut ctx, presence);
    let close = router::perform(node, Some(seat), std::mem::take(&mut ctx.actions));
    match flow {
        Flow::Later(later) => close.or(router::perform(node, Some(seat), later.await)),
        _ => close,
    }
}

/// One stamped stanza: the outbound features, then the router, which takes the receipt of a message along.
pub(crate) fn handle(ctx: &mut Ctx<'_>, mut stanza: Stanza) -> Flow {
    // The first rule there is (XEP-0016 §2.2 rule 4).
    if let Some(flow) = blocking::outbound(ctx, &stanza) {
        return flow;
    }
    stanza = without_our_delay(ctx.node, stanza);
    match stanza.kind() {
        Kind::Iq => iq(ctx, stanza),
        Kind::Message => {
            if stanza.to().is_none() {
                // RFC 6120 §10.3.1: as if to the sender's own bare JID.
                let own = ctx.seat.map(|seat| Jid::from(&seat.bare));
                stanza = stanza.with_to(&own.expect("a session sends"));
            }
            match ctx.node.features.outbound(ctx, &mut stanza) {
                Flow::Next => {
                    router::route_from(ctx.node, stanza, ctx.receipt.take());
                    Flow::Done
                }
                flow => flow,
            }
        }
        _ => ctx.node.features.outbound(ctx, &mut stanza),
    }
}

/// A message or presence without delays in our name: that we held it back is ours to say (XEP-0203).
pub(crate) fn without_our_delay(node: &Node, stanza: Stanza) -> Stanza {
    if stanza.kind() == Kind::Iq || !stanza.has_child("delay", ns::DELAY) {
        return stanza;
    }
    // What comes from a region to which we are strangers, a node of ours has looked at before it left.
    if stanza.from().is_some_and(|from| node.domains.elsewhere.contains(from.domain())) {
        return stanza;
    }
    let ours = |from: &Jid| from.local().is_none() && node.domains.is_server(from.domain());
    delay::without(&stanza, ours)
}

/// An IQ of a client of ours, or, if there is no seat, of somebody at another domain.
pub(crate) fn iq(ctx: &mut Ctx<'_>, stanza: Stanza) -> Flow {
    let request = match stanza.type_() {
        Type::Get | Type::Set => true,
        Type::Result | Type::Error => false,
        _ => return refuse(ctx, &stanza, &StanzaError::bad_request()),
    };
    // RFC 6120 §8.2.3: an id always; a get or set has exactly one payload.
    if stanza.id().is_none() || (request && stanza.children().count() != 1) {
        return refuse(ctx, &stanza, &StanzaError::bad_request());
    }
    let own = ctx.seat.map(|seat| &seat.bare);
    let target = match stanza.to() {
        None => match own {
            Some(own) => Target::Account { account: own.clone(), own: true },
            None => return refuse(ctx, &stanza, &StanzaError::bad_request()),
        },
        Some(to) => match decide(&stanza, &ctx.node.domains) {
            Destination::Account(_) if to.resource().is_some() => {
                router::route(ctx.node, stanza);
                return Flow::Done;
            }
            Destination::Account(account) => {
                let own = own == Some(&account);
                Target::Account { account, own }
            }
            Destination::Server => Target::Server,
            Destination::Service(at) => {
                let node = ctx.node.clone();
                return node.services.handle(ctx, at, &stanza);
            }
            Destination::Component(_) | Destination::NoService | Destination::Foreign => {
                router::route(ctx.node, stanza);
                return Flow::Done;
            }
        },
    };
    let iq = Iq { stanza, target };
    if !request {
        ctx.node.features.answer(ctx, &iq); // To a question of ours (a roster push, a ping).
        return Flow::Done;
    }
    if let Target::Account { account, own: false } = &iq.target {
        let (node, seat, account) = (ctx.node.clone(), ctx.seat.cloned(), account.clone());
        let receipt = ctx.receipt.take();
        let later = async move { of_another(&node, seat, receipt, &account, iq).await };
        return Flow::Later(Box::pin(later));
    }
    answered(ctx, &iq)
}

fn answered(ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
    if let Some(flow) = components::delegated(ctx, iq) {
        return flow;
    }
    match ctx.node.features.iq(ctx, iq) {
        Flow::Next => refuse(ctx, &iq.stanza, &StanzaError::service_unavailable()),
        flow => flow,
    }
}

/// A request that somebody else's account is to answer, unless it has blocked the sender (XEP-0191 §3.3).
async fn of_another(
    node: &Arc<Node>,
    seat: Option<Arc<Seat>>,
    receipt: Option<Receipt>,
    account: &BareJid,
    iq: Iq,
) -> Vec<Action> {
    let mut ctx = Ctx { receipt, ..Ctx::new(node, seat.as_ref()) };
    let from = iq.stanza.from().cloned().expect("it is stamped");
    let blocked = blocking::is_blocked_here(&*node.storage, account, &from, Traffic::Iq).await;
    let flow = match blocked {
        Ok(false) => answered(&mut ctx, &iq),
        Ok(true) => refuse(&mut ctx, &iq.stanza, &StanzaError::service_unavailable()),
        Err(error) => {
            tracing::error!(%error, %account, "a privacy list cannot be read");
            refuse(&mut ctx, &iq.stanza, &error.stanza_error())
        }
    };
    let mut actions = std::mem::take(&mut ctx.actions);
    if let Flow::Later(later) = flow {
        actions.extend(later.await);
    }
    actions
}

fn refuse(ctx: &mut Ctx<'_>, stanza: &Stanza, error: &StanzaError) -> Flow {
    ctx.actions.extend(stanza.error_reply(error).map(Action::Reply));
    Flow::Done
}
