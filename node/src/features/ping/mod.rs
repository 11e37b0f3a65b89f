//! XEP-0199 XMPP Ping, version 2.0.1. Clients ping the server, or their own account, to see whether the road is still there.
//! The same as a command (XEP-0050), which ejabberd and MongooseIM have under that name: the simplest there is, to try commands with.
//! Left out: pings the server sends by itself (the session's deadlines use stream management's `<r/>` or white space instead).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use xmpp::ns;
use xmpp::payload::data_form::Form;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::features::adhoc::command::{Asked, Command, Done, Note, Who};

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

    fn commands(&self) -> Vec<Arc<dyn Command>> {
        vec![Arc::new(PingCommand)]
    }
}

/// `ping`: answered with a note.
struct PingCommand;

impl Command for PingCommand {
    fn node(&self) -> &str {
        "ping"
    }

    fn name(&self) -> &str {
        "Ping"
    }

    fn who(&self) -> Who {
        Who::Users
    }

    fn form(&self) -> Option<Form> {
        None
    }

    fn run(&self, _: Asked) -> BoxFuture<'static, Result<Done, StanzaError>> {
        Box::pin(async { Ok(Done::note(Note::Info, "Pong")) })
    }
}

/// §4.2 for the server; an account answers nobody but its owner, for its silence must not tell whether it exists.
fn answer(iq: &Iq) -> Option<Stanza> {
    let ours = matches!(iq.target, Target::Server | Target::Account { own: true, .. });
    let asked = iq.stanza.first_child() == Some(("ping", ns::PING));
    (ours && asked && iq.stanza.type_() == Type::Get).then(|| Stanza::iq_result(&iq.stanza, None))
}
