//! XEP-0054 vcard-temp, version 1.2: what a user says of himself, for the world to read. It is kept as it was sent, at the account's home;
//! nobody but the owner changes it. An account that has none, and one that is not there, are answered alike, with an empty card, as
//! Prosody and ejabberd do: names cannot be tried out here. The server has a card of its own (§3.3).
//!
//! Read from the local replica. Where the home is elsewhere it is looked at first, so that a card is not older than what its reader has
//! heard of it; the session does not wait for that.
//!
//! The hash of its photo goes with the presence of the account's resources (XEP-0153, `photo`).
//! Left out: search, conversion to and from PEP (XEP-0398).

pub mod home;
mod photo;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use replication::durable_log::Change;
use tokio::sync::Semaphore;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

use self::home::{Answer, OP, Request, VCARD};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, SessionEvent, Target};
use crate::homes::look::look;
use crate::router;

/// Cards that homes elsewhere are asked for at the same time; beyond it the local replica answers alone.
const LOOKS_MAX: usize = 64;

/// See the room.
pub struct VcardFeature {
    looks: Arc<Semaphore>,
}

impl Default for VcardFeature {
    fn default() -> Self {
        Self { looks: Arc::new(Semaphore::new(LOOKS_MAX)) }
    }
}

impl Feature for VcardFeature {
    fn name(&self) -> &'static str {
        "vcard"
    }

    fn interests(&self) -> Interests {
        Interests {
            iq: &[ns::VCARD],
            outbound_presence: true,
            session: true,
            changes: &[VCARD],
            ..Interests::default()
        }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::VCARD);
        disco.account.push(ns::VCARD);
    }

    fn outbound(&self, ctx: &mut Ctx<'_>, stanza: &mut Stanza) -> Flow {
        if stanza.kind() == Kind::Presence
            && stanza.type_() == Type::Available
            && let Some(photo) = ctx.seat.and_then(|seat| seat.photo())
        {
            *stanza = photo::said(stanza, &photo);
        }
        Flow::Next
    }

    fn session(&self, ctx: &mut Ctx<'_>, event: SessionEvent) -> Flow {
        match (event, ctx.seat.cloned()) {
            // Who makes a card from now on has a change come by.
            (SessionEvent::Bound | SessionEvent::Arrived, Some(seat))
                if ctx.node.cards.may_have(seat.bare.as_str()) =>
            {
                Flow::Later(Box::pin(photo::load(ctx.node.clone(), seat)))
            }
            _ => Flow::Next,
        }
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, _snapshot: bool) -> Flow {
        ctx.node.cards.apply(change);
        photo::changed(ctx.node, change);
        Flow::Next
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let wish = match wish(iq, ctx.node.config.limits.vcard_bytes_max) {
            Ok(wish) => wish,
            Err(error) => {
                ctx.actions.extend(Action::answer(&iq.stanza, Err(error)));
                return Flow::Done;
            }
        };
        let (node, request) = (ctx.node.clone(), iq.stanza.clone());
        match wish {
            Wish::ServersOwn => {
                ctx.actions.extend(Action::answer(&request, Ok(Some(servers_own()))));
                Flow::Done
            }
            Wish::Read(account) if node.homes.is_home(account.as_str()) => {
                Flow::Later(Box::pin(answer(node, account, request)))
            }
            Wish::Read(account) => match self.looks.clone().try_acquire_owned() {
                Ok(permit) => {
                    let seat = ctx.seat.cloned();
                    tokio::spawn(async move {
                        look(&node.homes, &account).await;
                        drop(permit);
                        let actions = answer(node.clone(), account, request).await;
                        router::perform(&node, seat.as_ref(), actions);
                    });
                    Flow::Done
                }
                Err(_) => Flow::Later(Box::pin(answer(node, account, request))),
            },
            Wish::Write(account, card) => Flow::Later(Box::pin(async move {
                let done = write(&node, &account, card).await.map(|()| None);
                Action::answer(&request, done).into_iter().collect()
            })),
        }
    }
}

async fn answer(node: Arc<Node>, account: BareJid, request: Stanza) -> Vec<Action> {
    let card = read(&node, &account).await.map(Some);
    Action::answer(&request, card).into_iter().collect()
}

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// §3.3, last paragraph.
    ServersOwn,
    /// §3.1, §3.3.
    Read(BareJid),
    /// §3.2: the card, as it is to be kept.
    Write(BareJid, Vec<u8>),
}

fn wish(iq: &Iq, bytes_max: usize) -> Result<Wish, StanzaError> {
    let asked = iq.stanza.element();
    let card = asked.child("vCard", ns::VCARD).ok_or_else(StanzaError::bad_request)?;
    let set = iq.stanza.type_() == Type::Set;
    match &iq.target {
        Target::Server if set => Err(StanzaError::not_allowed()),
        Target::Server => Ok(Wish::ServersOwn),
        Target::Account { account, .. } if !set => Ok(Wish::Read(account.clone())),
        Target::Account { own: false, .. } => Err(StanzaError::forbidden()),
        Target::Account { account, own: true } => {
            let bytes = card.to_bytes();
            if bytes.len() > bytes_max {
                let text = format!("A vCard may have {bytes_max} bytes.");
                return Err(StanzaError::policy_violation().with_text(&text));
            }
            if !picture_is_one(card) {
                return Err(StanzaError::not_acceptable().with_text("The photo is no image."));
            }
            Ok(Wish::Write(account.clone(), bytes))
        }
    }
}

/// Whoever shows it should not be handed a page: a media type, where there is one, is an image's.
fn picture_is_one(card: &Element) -> bool {
    let photos = card.children().filter(|child| child.is("PHOTO", ns::VCARD));
    let mut types = photos.filter_map(|photo| photo.child("TYPE", ns::VCARD)).map(Element::text);
    types.all(|text| {
        let text = text.trim().to_ascii_lowercase();
        !text.contains('/') || text.starts_with("image/")
    })
}

fn servers_own() -> Element {
    let text = |name: &str, text: &str| Element::new(name, ns::VCARD).with_text(text);
    Element::new("vCard", ns::VCARD)
        .with_child(text("FN", "Pangaea"))
        .with_child(text("DESC", "A geo-distributed XMPP server"))
}

/// The card of an account; an empty one if it has none.
async fn read(node: &Arc<Node>, account: &BareJid) -> Result<Element, StanzaError> {
    let none = || Element::new("vCard", ns::VCARD);
    match node.storage.get(VCARD, account.as_str(), "").await {
        Ok(None) => Ok(none()),
        Ok(Some(bytes)) => Element::parse(&bytes).map_err(|error| {
            tracing::error!(%account, ?error, "a vCard cannot be read");
            StanzaError::internal_server_error()
        }),
        Err(error) => {
            tracing::error!(%account, %error, "a vCard cannot be read");
            Err(error.stanza_error())
        }
    }
}

async fn write(node: &Arc<Node>, account: &BareJid, card: Vec<u8>) -> Result<(), StanzaError> {
    match node.homes.exchange(account, OP, &Request::Set(card)).await {
        Ok(Answer::Done) => Ok(()),
        // Such as that of an anonymous user.
        Ok(Answer::NoAccount) => Err(StanzaError::not_allowed()),
        Err(error) => Err(error.stanza_error()),
    }
}
