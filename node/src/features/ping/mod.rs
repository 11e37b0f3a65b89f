//! XEP-0199 XMPP Ping, version 2.0.1. Clients ping the server, or their own account, to see whether the road is still there.
//! Left out: pings the server sends by itself (the session's deadlines use stream management's `<r/>` or white space instead).

use xmpp::ns;
use xmpp::stanza::{Stanza, Type};

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct Ping;

impl Feature for Ping {
    fn name(&self) -> &'static str {
        "ping"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::PING], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::PING);
        disco.account.push(ns::PING);
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

/// §4.2 for the server; an account answers nobody but its owner, for its silence must not tell whether it exists.
fn answer(iq: &Iq) -> Option<Stanza> {
    let ours = matches!(iq.target, Target::Server | Target::Account { own: true, .. });
    let asked = iq.stanza.first_child() == Some(("ping", ns::PING));
    (ours && asked && iq.stanza.type_() == Type::Get).then(|| Stanza::iq_result(&iq.stanza, None))
}
