//! XEP-0030 Service Discovery, version 2.5rc3: what the server is and has, and the same for an account.
//!
//! The features say it themselves (`Feature::disco`); the list collects it once. An account answers its owner and
//! whoever receives its presence (§8); to everybody else it is as if it did not exist.
//!
//! Left out: nodes (unknown ones are `item-not-found`; caps of the server itself are not advertised), items of an account,
//! publishing items.

use std::collections::BTreeSet;
use std::sync::Arc;

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::disco::{Info, Items};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct DiscoFeature;

impl Feature for DiscoFeature {
    fn name(&self) -> &'static str {
        "disco"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::DISCO_INFO, ns::DISCO_ITEMS], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.extend([ns::DISCO_INFO, ns::DISCO_ITEMS]);
        disco.account.extend([ns::DISCO_INFO, ns::DISCO_ITEMS]);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        if iq.stanza.type_() != Type::Get {
            return Flow::Next;
        }
        let services = ctx.node.services.titles();
        let server = iq.target == Target::Server;
        let answer = answer(&ctx.node.features.disco, &iq.stanza, server, services)
            .map_or_else(|error| iq.stanza.error_reply(&error), Some)
            .map(Action::Reply);
        match &iq.target {
            Target::Server | Target::Account { own: true, .. } => {
                ctx.actions.extend(answer);
                Flow::Done
            }
            Target::Account { account, own: false } => {
                let (node, account, asked) = (ctx.node.clone(), account.clone(), iq.stanza.clone());
                Flow::Later(Box::pin(async move {
                    if may_see(&node, &account, &asked).await {
                        answer.into_iter().collect()
                    } else {
                        // As for an account that does not exist (RFC 6121 §8.5.1).
                        asked
                            .error_reply(&StanzaError::service_unavailable())
                            .map(Action::Reply)
                            .into_iter()
                            .collect()
                    }
                }))
            }
        }
    }
}

/// What is asked of the server (§3.1, §4.1) or of the sender's own account.
fn answer<'a>(
    all: &Disco,
    iq: &Stanza,
    server: bool,
    services: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Stanza, StanzaError> {
    let asked = iq.element();
    let query = asked.children().next().ok_or_else(StanzaError::bad_request)?;
    if query.attr("node").is_some_and(|node| !node.is_empty()) {
        return Err(StanzaError::item_not_found()); // §7
    }
    let answer = if query.ns() == ns::DISCO_ITEMS {
        let none = Items::default();
        let services = services.take_while(|_| server);
        services
            .fold(none, |items, (host, title)| items.with_item(host, None, Some(title)))
            .element()
    } else {
        let (info, features) = if server {
            (Info::default().with_identity("server", "im", Some("Pangaea")), &all.server)
        } else {
            (Info::default().with_identity("account", "registered", None), &all.account)
        };
        let sorted: BTreeSet<&str> = features.iter().copied().collect();
        info.with_features(sorted).element()
    };
    Ok(Stanza::iq_result(iq, Some(answer)))
}

/// §8: only those who see the account's presence anyway.
async fn may_see(node: &Arc<Node>, account: &BareJid, asked: &Stanza) -> bool {
    let Some(asker) = asked.from().map(|from| from.bare()) else { return false };
    match node.rosters.load(node, account).await {
        Ok(roster) => roster.contacts.get(&asker).is_some_and(|contact| contact.state.from),
        Err(error) => {
            tracing::error!(%error, "a roster cannot be read");
            false
        }
    }
}
