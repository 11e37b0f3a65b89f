//! What somebody who is not looking at a screen wants to hear of at once. Pure: names and namespaces of the children; a tree only of
//! carbon copies. Client state (XEP-0352) holds everything else back, push (XEP-0357) speaks of nothing else.
//!
//! The rules are those that Prosody (`mod_csi_simple`) and ejabberd (`mod_client_state`) have in common; what neither knows is important,
//! for a payload of somebody else's invention may be anything.

use super::carbons::Direction;
use crate::ns;
use crate::stanza::{Kind, Stanza, Type};
use crate::xml::element::Element;

/// Invitations without a room's help (XEP-0249).
const DIRECT_INVITATION: &str = "jabber:x:conference";

/// Payloads that say nothing worth waking anybody for, if there is nothing else.
const LIGHT: [&str; 13] = [
    ns::CHAT_STATES,
    ns::RECEIPTS,
    ns::CHAT_MARKERS,
    ns::HINTS,
    ns::PUBSUB_EVENT,
    ns::STANZA_ID,
    ns::DELAY,
    ns::REACTIONS,
    ns::ADDRESS,
    ns::CAPS,
    "http://jabber.org/protocol/nick",
    "urn:xmpp:message-retract:1",
    "urn:xmpp:fallback:0",
];

/// What a stanza is to a client that is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// It is to have it now.
    Important,
    /// It can wait.
    Waits,
    /// It can wait, and the next of the same sender makes it worthless: presence, a chat state alone.
    WaitsForNext,
}

/// What a stanza is to a client that has said it is inactive.
#[must_use]
pub fn of(stanza: &Stanza) -> Importance {
    match (stanza.kind(), stanza.type_()) {
        (_, Type::Error) => Importance::Important,
        (Kind::Presence, Type::Available | Type::Unavailable) => Importance::WaitsForNext,
        (Kind::Message, Type::Headline) => Importance::Waits,
        (Kind::Message, _) => message(stanza),
        _ => Importance::Important,
    }
}

fn message(stanza: &Stanza) -> Importance {
    if stanza.has_child("sent", ns::CARBONS) {
        return Importance::Important; // What its owner said elsewhere belongs to the conversation.
    }
    if let Some(copied) = copied(stanza) {
        let light = |child: &Element| !is_talk(child.name(), child.ns(), || is_invitation(child));
        return match copied.children().all(light) {
            true => Importance::Waits,
            false => Importance::Important,
        };
    }
    let invites = || stanza.child("x", ns::MUC_USER).is_some_and(|x| is_invitation(&x));
    let talks = |(name, namespace): (&str, &str)| is_talk(name, namespace, invites);
    if stanza.children().any(talks) {
        return Importance::Important;
    }
    let is_state = stanza.children().any(|(_, namespace)| namespace == ns::CHAT_STATES);
    let only_state = |(_, namespace): (&str, &str)| {
        [ns::CHAT_STATES, ns::HINTS, ns::CLIENT, ns::STANZA_ID].contains(&namespace)
    };
    match is_state && stanza.children().all(only_state) {
        true => Importance::WaitsForNext,
        false => Importance::Waits,
    }
}

/// The received message in a carbon copy.
fn copied(stanza: &Stanza) -> Option<Element> {
    if !stanza.has_child("received", ns::CARBONS) {
        return None;
    }
    let (direction, forwarded) = super::carbons::parse(&stanza.element())?;
    (direction == Direction::Received).then_some(forwarded.stanza)
}

fn is_invitation(x: &Element) -> bool {
    x.is("x", ns::MUC_USER) && x.has_child("invite", ns::MUC_USER)
}

/// Whether such a child makes a message one to look at.
fn is_talk(name: &str, namespace: &str, is_invitation: impl Fn() -> bool) -> bool {
    match namespace {
        ns::CLIENT => name != "thread",
        ns::MUC_USER => is_invitation(),
        DIRECT_INVITATION => true,
        _ => !LIGHT.contains(&namespace),
    }
}

/// Whether a message is one that its addressee is to be called for when he is away: something said, a call, an invitation, encrypted or
/// not; never what he said himself, nor an error.
#[must_use]
pub fn is_worth_a_call(stanza: &Stanza) -> bool {
    stanza.kind() == Kind::Message
        && !stanza.has_child("sent", ns::CARBONS)
        && !matches!(stanza.type_(), Type::Error | Type::Headline)
        && of(stanza) == Importance::Important
        && !is_subject_of_a_room(stanza)
}

fn is_subject_of_a_room(stanza: &Stanza) -> bool {
    stanza.type_() == Type::Groupchat
        && stanza.has_child("subject", ns::CLIENT)
        && !stanza.has_child("body", ns::CLIENT)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Importance::{Important, Waits, WaitsForNext};
    use super::*;

    fn stanza(xml: &str) -> Stanza {
        let xml = xml.replacen(' ', " from='romeo@a.example/x' to='juliet@a.example/y' ", 1);
        Stanza::parse(Bytes::from(xml)).expect("a stanza")
    }

    #[test]
    fn what_waits_and_what_does_not() {
        let state = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
        let carbon = |way: &str, payload: &str| {
            format!(
                "<message type='chat'><{way} xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>\
                 <message xmlns='jabber:client' from='a@b' to='c@d' type='chat'>{payload}</message></forwarded></{way}></message>"
            )
        };
        let message =
            |type_: &str, payload: &str| format!("<message type='{type_}'>{payload}</message>");
        let table = [
            ("<presence type='unavailable'/>".to_owned(), WaitsForNext, false),
            ("<presence ><show>away</show></presence>".into(), WaitsForNext, false),
            ("<presence type='subscribe'/>".into(), Important, false),
            ("<presence type='error'/>".into(), Important, false),
            ("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>".into(), Important, false),
            (message("chat", "<body>x</body>"), Important, true),
            (message("normal", "<body>x</body>"), Important, true),
            (message("groupchat", "<body>x</body>"), Important, true),
            (message("groupchat", "<subject>x</subject>"), Important, false),
            (message("headline", "<body>x</body>"), Waits, false),
            (message("error", "<body>x</body>"), Important, false),
            (message("chat", state), WaitsForNext, false),
            (message("chat", &format!("{state}<thread>t</thread>")), WaitsForNext, false),
            (message("chat", &format!("{state}<body>x</body>")), Important, true),
            (message("chat", "<received xmlns='urn:xmpp:receipts' id='1'/>"), Waits, false),
            (message("chat", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"), Waits, false),
            (
                message("normal", "<event xmlns='http://jabber.org/protocol/pubsub#event'/>"),
                Waits,
                false,
            ),
            (
                message("chat", "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>"),
                Important,
                true,
            ),
            (message("chat", "<encryption xmlns='urn:xmpp:eme:0'/>"), Important, true),
            (message("chat", "<encrypted xmlns='urn:xmpp:omemo:2'/>"), Important, true),
            (message("normal", "<x xmlns='jabber:x:conference' jid='r@s'/>"), Important, true),
            (
                message("normal", "<x xmlns='http://jabber.org/protocol/muc#user'><invite/></x>"),
                Important,
                true,
            ),
            (
                message(
                    "groupchat",
                    "<x xmlns='http://jabber.org/protocol/muc#user'><status code='104'/></x>",
                ),
                Waits,
                false,
            ),
            (message("normal", "<anything xmlns='urn:example:own'/>"), Important, true),
            (carbon("sent", "<body>x</body>"), Important, false),
            (carbon("received", "<body>x</body>"), Important, true),
            (carbon("received", state), Waits, false),
        ];
        for (xml, expected, called) in table {
            let stanza = stanza(&xml);
            assert_eq!((of(&stanza), is_worth_a_call(&stanza)), (expected, called), "{xml}");
        }
    }
}
