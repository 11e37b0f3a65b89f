//! XEP-0494 Client Access Management, version 0.1.0: the list of clients that have access to an account, and how one loses it. And the
//! end of a client's sessions: of all when it loses its access, of the earlier ones when it binds anew (XEP-0386 §3.2).
//!
//! A client is known by the id of its user agent in SASL2 (XEP-0388 §2.4.1), so one that signs in otherwise is in no list. Which clients
//! an account has is kept at its home, with their tokens (XEP-0484): `record`, `home`; `sign_in` is what sign-in asks of it.
//!
//! Left out: `grant` (there are no grants), `uri` (SASL2 has none), permissions other than unrestricted; a client that does not bind by
//! Bind 2 counts as connected only in the region of its session.

pub mod home;
pub mod record;
pub mod sign_in;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use replication::durable_log::Change;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::stream::error::StreamError;
use xmpp::xml::element::Element;

use self::home::{Answer, ENDED, OP, Request};
use self::record::{CLIENTS, Client};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::router::perform;

/// See the room.
pub struct Clients;

impl Feature for Clients {
    fn name(&self) -> &'static str {
        "clients"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::CLIENT_ACCESS], changes: &[CLIENTS], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.account_kept.push(ns::CLIENT_ACCESS);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let Target::Account { account, own: true } = &iq.target else { return Flow::Next };
        let (node, account) = (ctx.node.clone(), account.clone());
        let request = iq.stanza.clone();
        match wish(&request) {
            Ok(Wish::List) => Flow::Later(Box::pin(async move {
                answer(&request, list(&node, &account).await.map(Some))
            })),
            Ok(Wish::Revoke(client)) => Flow::Later(Box::pin(async move {
                answer(&request, revoke(&node, &account, client).await.map(|()| None))
            })),
            Err(error) => {
                ctx.actions.extend(request.error_reply(&error).map(Action::Reply));
                Flow::Done
            }
        }
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) -> Flow {
        let Change::Put { key, value, .. } = change else { return Flow::Next };
        if snapshot {
            return Flow::Next; // It may be an old one; who it speaks of has signed in since.
        }
        let ended = key.strip_prefix(ENDED);
        let moved = match ended {
            Some(_) => None,
            None => Client::decode(value).filter(|client| client.resource.is_some()),
        };
        if ended.is_none() && moved.is_none() {
            return Flow::Next;
        }
        for seat in perform::seats_of(ctx.node, change.owner()) {
            match (seat.client(), ended, &moved) {
                (Some((client, _)), Some(ended), _) if client == ended => {
                    perform::close(&seat, StreamError::not_authorized());
                }
                // One that was bound later stays, also where the word of the earlier one comes only now.
                (Some((client, true)), None, Some(moved))
                    if client == key && seat.generation.0 < moved.bound =>
                {
                    perform::close(&seat, StreamError::conflict());
                }
                _ => {}
            }
        }
        Flow::Next
    }
}

enum Wish {
    List,
    Revoke(String),
}

fn wish(iq: &Stanza) -> Result<Wish, StanzaError> {
    let element = iq.element();
    let payload = element.children().next().ok_or_else(StanzaError::bad_request)?;
    match (iq.type_(), payload.name()) {
        (Type::Get, "list") => Ok(Wish::List),
        (Type::Set, "revoke") => match payload.attr("id") {
            Some(id) if !id.is_empty() => Ok(Wish::Revoke(id.to_owned())),
            _ => Err(StanzaError::bad_request()),
        },
        _ => Err(StanzaError::bad_request()),
    }
}

fn answer(request: &Stanza, done: Result<Option<Element>, StanzaError>) -> Vec<Action> {
    let reply = match done {
        Ok(payload) => Some(Stanza::iq_result(request, payload)),
        Err(error) => request.error_reply(&error),
    };
    reply.map(Action::Reply).into_iter().collect()
}

/// §3.1.
async fn list(node: &Arc<Node>, account: &BareJid) -> Result<Element, StanzaError> {
    let rows = node.storage.map(CLIENTS, account.as_str()).await.map_err(|error| {
        tracing::error!(%error, "clients cannot be read");
        error.stanza_error()
    })?;
    let resources: Vec<String> = node
        .directory
        .read(account.as_str(), |rows| {
            rows.iter().map(|row| row.full.resource().to_owned()).collect()
        })
        .unwrap_or_default();
    let here = perform::seats_of(node, account.as_str());
    let now_ms = node.wall_ms();
    let mut all = Element::new("clients", ns::CLIENT_ACCESS);
    for (key, bytes) in rows {
        let Some(client) = Client::decode(&bytes) else { continue };
        let is_bound =
            client.resource.as_ref().is_some_and(|resource| resources.contains(resource));
        let is_here = here.iter().any(|seat| seat.client().is_some_and(|(own, _)| own == key));
        if let Some(entry) = entry(&key, &client, is_bound || is_here, now_ms) {
            all.push_child(entry);
        }
    }
    Ok(all)
}

/// One client; `None` if it has no access any more.
fn entry(key: &str, client: &Client, connected: bool, now_ms: u64) -> Option<Element> {
    let has_token = client.has_token(now_ms);
    if !client.password && !has_token && !connected {
        return None;
    }
    let new = |name: &str| Element::new(name, ns::CLIENT_ACCESS);
    let time = |name: &str, ms| new(name).with_text(&date_time::format(ms));
    let mut auth = new("auth");
    for (name, has) in [("password", client.password), ("fast", has_token)] {
        if has {
            auth.push_child(new(name));
        }
    }
    let mut agent = new("user-agent");
    for (name, text) in [("software", &client.software), ("device", &client.device)] {
        if let Some(text) = text {
            agent.push_child(new(name).with_text(text));
        }
    }
    let entry = new("client")
        .with_attr("connected", if connected { "true" } else { "false" })
        .with_attr("id", key)
        .with_attr("type", "session")
        .with_child(time("first-seen", client.first_seen_ms))
        .with_child(time("last-seen", client.last_seen_ms))
        .with_child(auth)
        .with_child(new("permission").with_attr("status", "unrestricted"))
        .with_child(agent);
    Some(entry)
}

/// §3.2: its tokens are void and its sessions end; one that knows the password can come back, and its owner is told so.
async fn revoke(node: &Arc<Node>, account: &BareJid, client: String) -> Result<(), StanzaError> {
    let request = Request::Revoke { client, now_ms: node.wall_ms() };
    let answer = node.homes.exchange(account, OP, &request).await;
    match answer.map_err(|error| error.stanza_error())? {
        Answer::Done => Ok(()),
        Answer::KnowsPassword => Err(StanzaError::service_unavailable()
            .with_extra(Element::new("password-reset-required", ns::CLIENT_ACCESS))),
        _ => Err(StanzaError::item_not_found()),
    }
}
