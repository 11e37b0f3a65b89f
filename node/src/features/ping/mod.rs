//! XEP-0199 XMPP Ping, version 2.0.1. Clients ping the server, or their own account, to see whether the road is still there. For accounts of
//! others the server answers too (RFC 6121 §8.5.2.1.3), as Prosody's and ejabberd's do; for one that does not exist it does not (§8.5.1).
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
use crate::homes::accounts::Account;

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
            None => for_others(ctx, iq),
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

/// §4.2: the server, and the account of whoever asks.
fn answer(iq: &Iq) -> Option<Stanza> {
    let ours = matches!(iq.target, Target::Server | Target::Account { own: true, .. });
    (ours && is_ping(iq)).then(|| Stanza::iq_result(&iq.stanza, None))
}

fn is_ping(iq: &Iq) -> bool {
    iq.stanza.type_() == Type::Get && iq.stanza.first_child() == Some(("ping", ns::PING))
}

/// An account of somebody else, if it is one.
fn for_others(ctx: &Ctx<'_>, iq: &Iq) -> Flow {
    let Target::Account { account, own: false } = &iq.target else { return Flow::Next };
    if !is_ping(iq) || !ctx.node.domains.has_accounts(account.domain()) {
        return Flow::Next;
    }
    let (node, account, asked) = (ctx.node.clone(), account.clone(), iq.stanza.clone());
    Flow::Later(Box::pin(async move {
        let answer = match Account::load(node.storage.as_ref(), &account).await {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Err(StanzaError::service_unavailable()),
            Err(error) => {
                tracing::error!(%error, "an account cannot be read");
                Err(StanzaError::internal_server_error())
            }
        };
        Action::answer(&asked, answer).into_iter().collect()
    }))
}
