//! XEP-0280 Message Carbons, version 1.0.1, with the copying rules of §6.1 (`urn:xmpp:carbons:rules:0`).
//!
//! This feature decides *whether* a message is copied and says so with [`Action::Copy`]; the router knows which resources want
//! copies, here and in the other regions, and wraps them. A sent copy is made where the sender is, a received copy where
//! the message is taken; both go to the account's other resources only, and are not thought of where there are none.
//!
//! An error that comes from a bare JID is copied: what is answered so was sent to an account, as conversations are (§6.1 asks for the errors
//! of copied messages; to know those for certain would need a memory of everything sent). `<private/>` is taken out where the message is
//! put into a mailbox (§9). Bind 2 switches copies on with [`Seat::set_carbons`].

use std::sync::Arc;

use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::payload::carbons::Direction;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::router::perform::has_others;
use crate::session::Seat;

#[cfg(test)]
mod tests;

/// Invitations without a room's help (XEP-0249).
const DIRECT_INVITATION: &str = "jabber:x:conference";
/// XEP-0424.
const MESSAGE_RETRACTION: &str = "urn:xmpp:message-retract:1";

/// See the room.
pub struct Carbons;

impl Feature for Carbons {
    fn name(&self) -> &'static str {
        "carbons"
    }

    fn interests(&self) -> Interests {
        Interests {
            iq: &[ns::CARBONS],
            outbound_message: true,
            inbound_message: true,
            ..Interests::default()
        }
    }

    fn disco(&self, disco: &mut Disco) {
        // §3: clients ask the server; later ones ask their account.
        disco.server.extend([ns::CARBONS, ns::CARBONS_RULES]);
        disco.account.extend([ns::CARBONS, ns::CARBONS_RULES]);
    }

    fn inline(&self) -> &'static [&'static str] {
        &[ns::CARBONS]
    }

    /// XEP-0386 §3.2: no answer is necessary.
    fn bound(&self, ctx: &mut Ctx<'_>, request: &Element) -> Option<Element> {
        if let Some(seat) = ctx.seat
            && request.name() == "enable"
        {
            seat.set_carbons(true);
        }
        None
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let reply = match (switch(iq), ctx.seat) {
            (Ok(on), Some(seat)) => {
                seat.set_carbons(on);
                Some(Stanza::iq_result(&iq.stanza, None))
            }
            // Somebody at another domain asks the server.
            (Ok(_), None) => return Flow::Next,
            (Err(error), _) => iq.stanza.error_reply(&error),
        };
        ctx.actions.extend(reply.map(Action::Reply));
        Flow::Done
    }

    fn outbound(&self, ctx: &mut Ctx<'_>, stanza: &mut Stanza) -> Flow {
        if let Some(seat) = ctx.seat
            && stanza.kind() == Kind::Message
            && should_copy(stanza, Direction::Sent).is_copy()
            && !is_to_self(stanza, false)
            && has_others(ctx.node, &seat.full)
        {
            ctx.actions.push(Action::Copy {
                account: seat.bare.clone(),
                except: Some(seat.full.clone()),
                sent: true,
                forwarded: stanza.clone(),
            });
        }
        Flow::Next
    }

    fn inbound(&self, ctx: &mut Ctx<'_>, stanza: &Stanza, at: &[Arc<Seat>]) {
        // §6.2: what was sent to the bare JID has reached every resource that may have it. Only what went to one full JID is copied.
        let [seat] = at else { return };
        if ctx.nobody_else {
            return;
        }
        if stanza.to().and_then(Jid::resource) == Some(seat.full.resource())
            && should_copy(stanza, Direction::Received).is_copy()
            && !is_to_self(stanza, true)
        {
            ctx.actions.push(Action::Copy {
                account: seat.bare.clone(),
                except: Some(seat.full.clone()),
                sent: false,
                forwarded: stanza.clone(),
            });
        }
    }
}

/// What went to the account is copied for those of its resources that it passed over (a lower priority, a negative one, not available), if they
/// want copies (§6: "that did not receive it"). Asked by the road, which has seen that there is one.
pub fn for_the_others(message: &Stanza) -> Option<Action> {
    let account = message.to()?.bare();
    should_copy(message, Direction::Received).is_copy().then(|| Action::Copy {
        account,
        except: None,
        sent: false,
        forwarded: message.clone(),
    })
}

/// The message as a client gets it (§9).
pub fn without_private(message: &Stanza) -> Stanza {
    message.without_children(|name, namespace| name == "private" && namespace == ns::CARBONS)
}

/// Notes to oneself: one of the two copies is enough. To the own bare JID every resource gets the original, so there is no sent
/// copy; to another own resource there is a sent copy for the rest of them, and no received one.
fn is_to_self(message: &Stanza, full: bool) -> bool {
    match (message.from(), message.to()) {
        (Some(from), Some(to)) => from.bare_str() == to.bare_str() && to.is_full() == full,
        // Without `to` it is for the own account (RFC 6120 §10.3.1).
        (_, None) => !full,
        _ => false,
    }
}

/// §4 and §5: what a client wants for itself. Doing it twice does nothing.
fn switch(iq: &Iq) -> Result<bool, StanzaError> {
    match iq.target {
        Target::Account { own: false, .. } => return Err(StanzaError::forbidden()),
        Target::Account { own: true, .. } | Target::Server => {}
    }
    match (iq.stanza.type_(), iq.stanza.first_child()) {
        (Type::Set, Some(("enable", _))) => Ok(true),
        (Type::Set, Some(("disable", _))) => Ok(false),
        _ => Err(StanzaError::bad_request()),
    }
}

/// Whether a message is copied, and the rule that says so: it is what a trace shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Chat,
    Body,
    /// A payload that only instant messaging uses: receipts, markers, chat states, encryption, calls.
    Payload,
    Invitation,
    /// An error from a bare JID.
    Bounce,
    /// Everything else of type normal, headline or error.
    NotInstantMessaging,
    Groupchat,
    /// `<private/>`, or the no-copy hint (XEP-0334 §4.3).
    NoCopy,
    /// The room sends it to every client that is in the room.
    RoomPrivate,
    /// A copy of a copy.
    IsCopy,
}

impl Verdict {
    fn is_copy(self) -> bool {
        matches!(self, Self::Chat | Self::Body | Self::Payload | Self::Invitation | Self::Bounce)
    }
}

/// §6.1. Reads the header only: names and namespaces of the children.
fn should_copy(message: &Stanza, direction: Direction) -> Verdict {
    let has = |name: &str, namespace: &str| message.has_child(name, namespace);
    if message.type_() == Type::Groupchat {
        return Verdict::Groupchat;
    }
    if has("private", ns::CARBONS) || has("no-copy", ns::HINTS) {
        return Verdict::NoCopy;
    }
    if has("received", ns::CARBONS) || has("sent", ns::CARBONS) {
        return Verdict::IsCopy;
    }
    if has("x", ns::MUC_USER) || has("x", DIRECT_INVITATION) {
        let from_occupant = message.from().is_some_and(|from| from.resource().is_some());
        let talks = message.type_() == Type::Chat || has("body", ns::CLIENT);
        return match direction {
            // A mediated invitation comes from the room itself; a direct one from a user, with a namespace of its own.
            Direction::Received if from_occupant && has("x", ns::MUC_USER) && talks => {
                Verdict::RoomPrivate
            }
            _ => Verdict::Invitation,
        };
    }
    match message.type_() {
        Type::Chat => Verdict::Chat,
        Type::Error if direction == Direction::Received && is_of_account(message) => {
            Verdict::Bounce
        }
        Type::Error | Type::Headline => Verdict::NotInstantMessaging,
        _ if has("body", ns::CLIENT) => Verdict::Body,
        _ if message.children().any(|(_, namespace)| is_instant_messaging(namespace)) => {
            Verdict::Payload
        }
        _ => Verdict::NotInstantMessaging,
    }
}

/// From a bare JID of somebody.
fn is_of_account(message: &Stanza) -> bool {
    message.from().is_some_and(|from| from.local().is_some() && from.resource().is_none())
}

fn is_instant_messaging(namespace: &str) -> bool {
    [
        ns::RECEIPTS,
        ns::CHAT_STATES,
        ns::CHAT_MARKERS,
        ns::EME,
        ns::JINGLE_MESSAGE,
        ns::CORRECTION,
        ns::REACTIONS,
        ns::OMEMO_LEGACY,
        MESSAGE_RETRACTION,
    ]
    .contains(&namespace)
}
