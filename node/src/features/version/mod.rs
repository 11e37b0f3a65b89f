//! XEP-0092 Software Version, version 1.1: what this server is called, and its version.
//! Left out: the operating system, which is nobody's business (§4).

use xmpp::ns;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct Version;

impl Feature for Version {
    fn name(&self) -> &'static str {
        "version"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::VERSION], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::VERSION);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        match answer(iq) {
            Some(reply) => {
                ctx.actions.push(Action::Reply(reply));
                Flow::Done
            }
            None => Flow::Next,
        }
    }
}

fn answer(iq: &Iq) -> Option<Stanza> {
    let asked = iq.stanza.first_child() == Some(("query", ns::VERSION));
    if iq.target != Target::Server || iq.stanza.type_() != Type::Get || !asked {
        return None;
    }
    let text = |name: &str, text: &str| Element::new(name, ns::VERSION).with_text(text);
    let query = Element::new("query", ns::VERSION)
        .with_child(text("name", "Pangaea"))
        .with_child(text("version", env!("CARGO_PKG_VERSION")));
    Some(Stanza::iq_result(&iq.stanza, Some(query)))
}
