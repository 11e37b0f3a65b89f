//! XEP-0049 Private XML Storage, version 1.2: elements a client keeps for itself and its fellows of the same account, such as the bookmarks
//! of XEP-0048. Each is found again by its name and namespace. Kept at the account's home, read from the local replica when
//! that has what the home had.
//!
//! As deployed servers do, an element without anything in it takes what was there away, and what is not there is answered with the
//! element that was asked for. Reserved namespaces are taken like others (refusing them is optional, and clients use some); what has no
//! namespace of its own is `not-acceptable`. Left out: conversion of bookmarks to and from PEP (XEP-0402).

pub mod home;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::{Element, Node as Content};

use self::home::{Answer, OP, PRIVATE, Request};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::homes::look::look;

/// See the room.
pub struct PrivateFeature;

impl Feature for PrivateFeature {
    fn name(&self) -> &'static str {
        "private"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::PRIVATE], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::PRIVATE);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let account = match &iq.target {
            Target::Account { account, own: true } => account.clone(),
            Target::Account { own: false, .. } => {
                ctx.actions.extend(Action::answer(&iq.stanza, Err(StanzaError::forbidden())));
                return Flow::Done;
            }
            Target::Server => return Flow::Next,
        };
        let (node, request) = (ctx.node.clone(), iq.stanza.clone());
        match wish(&iq.stanza) {
            Ok(Wish::Get(asked)) => Flow::Later(Box::pin(async move {
                // What another device of the user was told is kept is found here.
                look(&node.homes, &account).await;
                let found = read(&node, &account, asked).await;
                let query = found
                    .map(|element| Some(Element::new("query", ns::PRIVATE).with_child(element)));
                Action::answer(&request, query).into_iter().collect()
            })),
            Ok(Wish::Set(elements)) => Flow::Later(Box::pin(async move {
                let done = write(&node, &account, elements).await.map(|()| None);
                Action::answer(&request, done).into_iter().collect()
            })),
            Err(error) => {
                ctx.actions.extend(Action::answer(&iq.stanza, Err(error)));
                Flow::Done
            }
        }
    }
}

/// What is asked.
#[derive(Debug, PartialEq)]
enum Wish {
    /// What is kept under the name and namespace of this.
    Get(Element),
    /// By key, what is to be kept; `None`: nothing any more.
    Set(Vec<(String, Option<Vec<u8>>)>),
}

fn wish(iq: &Stanza) -> Result<Wish, StanzaError> {
    let asked = iq.element();
    let query = asked.child("query", ns::PRIVATE).ok_or_else(StanzaError::bad_request)?;
    let elements: Vec<&Element> = query.children().collect();
    // "a child element with a proper namespace": one of its own.
    if elements.iter().any(|element| matches!(element.ns(), "" | ns::PRIVATE | ns::CLIENT)) {
        return Err(StanzaError::not_acceptable());
    }
    if iq.type_() == Type::Get {
        return match elements[..] {
            [one] => Ok(Wish::Get(one.clone())),
            _ => Err(StanzaError::bad_request()),
        };
    }
    if elements.is_empty() {
        return Err(StanzaError::not_acceptable());
    }
    let kept = elements.into_iter().map(|element| {
        let value = (!is_empty(element)).then(|| element.to_bytes());
        (key(element.name(), element.ns()), value)
    });
    Ok(Wish::Set(kept.collect()))
}

fn is_empty(element: &Element) -> bool {
    let says_nothing =
        |node: &Content| matches!(node, Content::Text(text) if text.trim().is_empty());
    element.nodes().iter().all(says_nothing) && element.attrs().next().is_none()
}

/// The key of what is kept: `{namespace}name`.
pub fn key(name: &str, ns: &str) -> String {
    format!("{{{ns}}}{name}")
}

async fn read(node: &Arc<Node>, account: &BareJid, asked: Element) -> Result<Element, StanzaError> {
    let key = key(asked.name(), asked.ns());
    match node.storage.get(PRIVATE, account.as_str(), &key).await {
        Ok(None) => Ok(asked),
        Ok(Some(bytes)) => Element::parse(&bytes).map_err(|error| {
            tracing::error!(%account, ?error, "private data cannot be read");
            StanzaError::internal_server_error()
        }),
        Err(error) => {
            tracing::error!(%account, %error, "private data cannot be read");
            Err(error.stanza_error())
        }
    }
}

async fn write(
    node: &Arc<Node>,
    account: &BareJid,
    elements: Vec<(String, Option<Vec<u8>>)>,
) -> Result<(), StanzaError> {
    let bytes_max = node.config.limits.private_bytes_max;
    let request = Request::Set { elements, bytes_max: bytes_max as u64 };
    match node.homes.exchange(account, OP, &request).await {
        Ok(Answer::Done) => Ok(()),
        // Such as that of an anonymous user.
        Ok(Answer::NoAccount) => Err(StanzaError::not_allowed()),
        Ok(Answer::Full) => {
            let text = format!("An account may keep {bytes_max} bytes.");
            Err(StanzaError::resource_constraint().with_text(&text))
        }
        Err(error) => Err(error.stanza_error()),
    }
}
