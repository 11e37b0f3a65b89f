//! RFC 6120 §7 and RFC 3921 §3 behind the bind. A stream has one resource: a second bind is `not-allowed` (§7.1). The session of old clients
//! is there already: asking for it is answered and changes nothing.
//! Left out: nothing; the bind itself is `xmpp::stream::negotiate`.

use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use crate::feature::{Action, Ctx, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct Bind;

impl Feature for Bind {
    fn name(&self) -> &'static str {
        "bind"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::BIND, ns::SESSION], ..Interests::default() }
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
    let ours = matches!(iq.target, Target::Server | Target::Account { own: true, .. });
    if !ours || iq.stanza.type_() != Type::Set {
        return None;
    }
    match iq.stanza.first_child() {
        Some(("session", ns::SESSION)) => Some(Stanza::iq_result(&iq.stanza, None)),
        Some(("bind", ns::BIND)) => iq.stanza.error_reply(&StanzaError::not_allowed()),
        _ => None,
    }
}
