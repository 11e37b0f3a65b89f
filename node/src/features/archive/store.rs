//! Which messages an archive keeps, by their header alone (XEP-0313 §6.1.1), and the reason, which is what a trace shows.
//! Called by the feature, on the sender's node.

use xmpp::ns;
use xmpp::stanza::{Stanza, Type};

/// Invitations without a room's help (XEP-0249).
const DIRECT_INVITATION: &str = "jabber:x:conference";
/// Reactions (XEP-0444).
const REACTIONS: &str = "urn:xmpp:reactions:0";
/// Fastened to another message (XEP-0422): the older form of retraction and correction.
const FASTEN: &str = "urn:xmpp:fasten:0";

/// Whether a message is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It says something.
    Body,
    /// A payload that means something later: receipts, markers, encryption, calls, reactions, retractions.
    Payload,
    /// An invitation to a room.
    Invitation,
    /// The sender asks for it (XEP-0334 §4.5).
    StoreHint,
    /// The sender asks not to (XEP-0334 §4.1, §4.2).
    NoStoreHint,
    /// An error, a headline, or of a room, which has an archive of its own.
    Type,
    /// Of no use later: a chat state, an empty message.
    Nothing,
}

impl Verdict {
    /// Whether it is kept.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Body | Self::Payload | Self::Invitation | Self::StoreHint)
    }
}

/// The rules.
pub fn should_store(message: &Stanza) -> Verdict {
    if matches!(message.type_(), Type::Error | Type::Headline | Type::Groupchat) {
        return Verdict::Type;
    }
    let has = |name: &str, namespace: &str| message.has_child(name, namespace);
    if has("no-store", ns::HINTS) || has("no-permanent-store", ns::HINTS) {
        return Verdict::NoStoreHint;
    }
    if has("store", ns::HINTS) {
        return Verdict::StoreHint;
    }
    if has("body", ns::CLIENT) || has("subject", ns::CLIENT) {
        return Verdict::Body;
    }
    let lasting = |namespace: &str| {
        namespace == ns::RECEIPTS
            || namespace == ns::CHAT_MARKERS
            || namespace == ns::EME
            || namespace == ns::RETRACT
            || namespace == REACTIONS
            || namespace == FASTEN
            || namespace == ns::JINGLE_MESSAGE
    };
    let mut children = message.children();
    if children.any(|(_, namespace)| lasting(namespace)) {
        return Verdict::Payload;
    }
    if has("x", DIRECT_INVITATION) || has("x", ns::MUC_USER) {
        return Verdict::Invitation;
    }
    Verdict::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_reason_to_stay_or_go() {
        let hint = |name: &str| format!("<{name} xmlns='urn:xmpp:hints'/>");
        let body = "<body>x</body>".to_owned();
        for (type_, payload, expected) in [
            ("chat", body.clone(), Verdict::Body),
            ("normal", body.clone(), Verdict::Body),
            ("normal", "<subject>x</subject>".into(), Verdict::Body),
            ("headline", body.clone(), Verdict::Type),
            ("groupchat", body.clone(), Verdict::Type),
            ("error", body.clone(), Verdict::Type),
            ("chat", String::new(), Verdict::Nothing),
            (
                "chat",
                "<composing xmlns='http://jabber.org/protocol/chatstates'/>".into(),
                Verdict::Nothing,
            ),
            ("chat", "<received xmlns='urn:xmpp:receipts' id='1'/>".into(), Verdict::Payload),
            (
                "chat",
                "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>".into(),
                Verdict::Payload,
            ),
            (
                "chat",
                "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>".into(),
                Verdict::Payload,
            ),
            ("chat", "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>".into(), Verdict::Payload),
            (
                "normal",
                "<x xmlns='jabber:x:conference' jid='a@b.example'/>".into(),
                Verdict::Invitation,
            ),
            ("chat", body.clone() + &hint("no-store"), Verdict::NoStoreHint),
            ("chat", body + &hint("no-permanent-store"), Verdict::NoStoreHint),
            ("chat", hint("store"), Verdict::StoreHint),
            ("chat", hint("store") + &hint("no-store"), Verdict::NoStoreHint),
            ("chat", hint("no-copy"), Verdict::Nothing),
        ] {
            let text = format!("<message to='a@b.example' type='{type_}'>{payload}</message>");
            let message = Stanza::parse(bytes::Bytes::from(text)).expect("a message");
            assert_eq!(should_store(&message), expected, "{type_} {payload}");
        }
    }
}
