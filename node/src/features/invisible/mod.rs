//! XEP-0186 Invisible Command, version 0.14.0: a session that is there for its user and for nobody else. What it shows is
//! `features/presence`'s; this switches it. Invisible, it has a row that takes messages and the presence of others, and shows nothing:
//! probes, in any region, find nobody.
//! Also in the namespace of older versions (`urn:xmpp:invisible:0`), which deployed clients use.
//! Who asks when its user was last there hears of the time it became invisible (`features/last`).
//! Left out: nothing.

use std::sync::Arc;

use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::features::presence;
use crate::session::Seat;

#[cfg(test)]
mod tests;

/// See the room.
pub struct Invisible;

impl Feature for Invisible {
    fn name(&self) -> &'static str {
        "invisible"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::INVISIBLE, ns::INVISIBLE_0], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.extend([ns::INVISIBLE, ns::INVISIBLE_0]);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let Some(seat) = ctx.seat.cloned() else { return Flow::Next };
        let wish = match wish(iq) {
            Ok(wish) => wish,
            Err(error) => {
                ctx.actions.extend(iq.stanza.error_reply(&error).map(Action::Reply));
                return Flow::Done;
            }
        };
        let result = Action::Reply(Stanza::iq_result(&iq.stanza, None));
        match wish {
            Wish::Visible => presence::appear(ctx, &seat),
            Wish::Invisible { .. } if seat.invisible() => {}
            Wish::Invisible { .. } => presence::vanish(ctx, &seat),
        }
        ctx.actions.push(result);
        if wish == (Wish::Invisible { probe: true }) {
            let node = ctx.node.clone();
            return Flow::Later(Box::pin(async move { probes(&node, &seat).await }));
        }
        Flow::Done
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Visible,
    /// `probe`: the server asks for the contacts' presence (§3.1).
    Invisible {
        probe: bool,
    },
}

fn wish(iq: &Iq) -> Result<Wish, StanzaError> {
    match iq.target {
        Target::Server | Target::Account { own: true, .. } => {}
        Target::Account { own: false, .. } => return Err(StanzaError::service_unavailable()),
    }
    if iq.stanza.type_() != Type::Set {
        return Err(StanzaError::bad_request());
    }
    let element = iq.stanza.element();
    match element.children().next() {
        Some(child) if child.name() == "visible" => Ok(Wish::Visible),
        Some(child) if child.name() == "invisible" => {
            Ok(Wish::Invisible { probe: matches!(child.attr("probe"), Some("true" | "1")) })
        }
        _ => Err(StanzaError::bad_request()),
    }
}

/// Whose presence it wants to see while nobody sees its own.
async fn probes(node: &Arc<Node>, seat: &Arc<Seat>) -> Vec<Action> {
    match node.rosters.load(node, &seat.bare).await {
        Ok(roster) => {
            let mut to: Vec<_> = roster.subscriptions().cloned().collect();
            to.push(seat.bare.clone());
            vec![Action::Probe { from: seat.full.clone(), to }]
        }
        Err(error) => {
            tracing::error!(%error, "a roster cannot be read");
            Vec::new()
        }
    }
}
