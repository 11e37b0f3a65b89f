//! XEP-0202 Entity Time, version 2.0: what time it is here. Always in UTC: a server that spans continents has no time zone.
//! Left out: nothing.

use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct Time;

impl Feature for Time {
    fn name(&self) -> &'static str {
        "time"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::TIME], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::TIME);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        match answer(iq, ctx.node.wall_ms()) {
            Some(reply) => {
                ctx.actions.push(Action::Reply(reply));
                Flow::Done
            }
            None => Flow::Next,
        }
    }
}

fn answer(iq: &Iq, now_ms: u64) -> Option<Stanza> {
    let asked = iq.stanza.first_child() == Some(("time", ns::TIME));
    if iq.target != Target::Server || iq.stanza.type_() != Type::Get || !asked {
        return None;
    }
    let time = Element::new("time", ns::TIME)
        .with_child(Element::new("tzo", ns::TIME).with_text("+00:00"))
        .with_child(Element::new("utc", ns::TIME).with_text(&date_time::format(now_ms)));
    Some(Stanza::iq_result(&iq.stanza, Some(time)))
}
