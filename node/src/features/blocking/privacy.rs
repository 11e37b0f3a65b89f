//! XEP-0016 Privacy Lists, version 1.7: the requests of clients. The lists are those of `blocking`; what they do is in `guard`.
//! Left out: nothing of §2; a list that is active, or the default, is followed when a roster changes, but its groups are looked for only when it
//! is set.

use std::sync::Arc;

use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use super::home::What;
use super::payload::{self, Get, Set};
use super::record::{HEAD, Head, Named, PRIVACY, decode, key, name};
use super::{ask, error_of, guard, is_own};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq};
use crate::session::Seat;
use crate::storage::StorageError;

/// See the room.
pub struct Privacy;

impl Feature for Privacy {
    fn name(&self) -> &'static str {
        "privacy"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::PRIVACY], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::PRIVACY);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        match is_own(iq) {
            Ok(true) => {}
            Ok(false) => return Flow::Next,
            Err(error) => return super::refuse(ctx, iq, &error),
        }
        let Some(seat) = ctx.seat else { return Flow::Next };
        let Some(query) = iq.stanza.child("query", ns::PRIVACY) else { return Flow::Next };
        seat.follow_privacy();
        let (node, seat, request) = (ctx.node.clone(), seat.clone(), iq.stanza.clone());
        if iq.stanza.type_() == Type::Get {
            return match payload::get(&query) {
                Ok(what) => Flow::Later(Box::pin(async move {
                    vec![Action::Reply(get(&node, &seat, &request, what).await)]
                })),
                Err(error) => super::refuse(ctx, iq, &error),
            };
        }
        match payload::set(&query) {
            Ok(what) => {
                Flow::Later(Box::pin(async move { set(&node, &seat, &request, what).await }))
            }
            Err(error) => super::refuse(ctx, iq, &error),
        }
    }
}

/// §2.3.
async fn get(node: &Node, seat: &Seat, request: &Stanza, what: Get) -> Stanza {
    let found = match what {
        Get::Names => names(node, seat).await.map(Some),
        Get::List(name) => one(node, seat, name).await,
    };
    match found {
        Ok(Some(children)) => Stanza::iq_result(request, Some(payload::query(children))),
        Ok(None) => error_of(request, &StanzaError::item_not_found()),
        Err(error) => {
            tracing::error!(%error, "a privacy list cannot be read");
            error_of(request, &error.stanza_error())
        }
    }
}

type Children = Vec<xmpp::xml::element::Element>;

async fn names(node: &Node, seat: &Seat) -> Result<Children, StorageError> {
    let map = node.storage.map(PRIVACY, seat.bare.as_str()).await?;
    let mut children = Vec::new();
    if let Some(active) = seat.guard().and_then(|guard| guard.active.clone()) {
        children.push(payload::named("active", &active));
    }
    if let Some((_, head)) = map.iter().find(|(key, _)| key == HEAD)
        && let Some(default) = decode::<Head>(head)?.default
    {
        children.push(payload::named("default", &default.name));
    }
    children.extend(map.iter().filter_map(|(key, _)| Some(payload::named("list", name(key)?))));
    Ok(children)
}

async fn one(node: &Node, seat: &Seat, name: String) -> Result<Option<Children>, StorageError> {
    let bytes = node.storage.get(PRIVACY, seat.bare.as_str(), &key(&name)).await?;
    let Some(bytes) = bytes else { return Ok(None) };
    Ok(Some(vec![payload::list(&Named { name, list: decode(&bytes)? })]))
}

async fn set(node: &Arc<Node>, seat: &Arc<Seat>, request: &Stanza, what: Set) -> Vec<Action> {
    let done = || Action::Reply(Stanza::iq_result(request, None));
    let refused = |error: &StanzaError| vec![Action::Reply(error_of(request, error))];
    let active = |name: &Option<String>| What::Active(seat.generation.0, name.clone());
    let result = match &what {
        // Nobody has to be asked: nothing was chosen.
        Set::Active(None) if seat.guard().is_none_or(|guard| guard.active.is_none()) => Ok(()),
        Set::Active(name) => ask(node, seat, active(name)).await,
        Set::Default(name) => ask(node, seat, What::Default(name.clone())).await,
        // More than there may be: nobody has to be asked.
        Set::List(named) if named.list.items().len() > node.config.limits.privacy_items_max => {
            Err(StanzaError::resource_constraint())
        }
        Set::List(named) => ask(node, seat, What::Set(named.clone())).await,
        Set::Remove(name) => ask(node, seat, What::Remove(name.clone())).await,
    };
    if let Err(error) = result {
        return refused(&error);
    }
    let chosen = match what {
        Set::Active(name) => Some(name),
        // The list that this session had chosen is no more.
        Set::Remove(name)
            if seat.guard().is_some_and(|guard| guard.active.as_deref() == Some(&name)) =>
        {
            Some(None)
        }
        _ => None,
    };
    let Some(chosen) = chosen else { return vec![done()] };
    // §2.4: it is applied before the answer is sent.
    match guard::choose(node, seat, chosen).await {
        Ok(mut actions) => {
            actions.push(done());
            actions
        }
        Err(error) => {
            tracing::error!(%error, "a privacy list cannot be read");
            refused(&error.stanza_error())
        }
    }
}
