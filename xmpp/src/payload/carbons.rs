//! The wrappers of message carbons (XEP-0280 §6.3, §7.3): a copy of a message for another resource of the account.
//!
//! Called by the router, once a resource, with the message as it was sent or taken. Whether to copy is decided by the
//! carbons feature.

use super::forward::{self, Forwarded};
use crate::jid::{FullJid, Jid};
use crate::ns;
use crate::stanza::Stanza;
use crate::xml::element::Element;

/// Which way the copied message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The account received it.
    Received,
    /// The account sent it.
    Sent,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Received => "received",
            Direction::Sent => "sent",
        }
    }
}

/// The copy for `to` of a message another resource of the account sent.
#[must_use]
pub fn sent(to: &FullJid, message: &Stanza) -> Stanza {
    copy(Direction::Sent, to, message)
}

/// The copy for `to` of a message another resource of the account received.
#[must_use]
pub fn received(to: &FullJid, message: &Stanza) -> Stanza {
    copy(Direction::Received, to, message)
}

/// From the account's bare JID, of the message's own type.
fn copy(direction: Direction, to: &FullJid, message: &Stanza) -> Stanza {
    let mut xml = Vec::with_capacity(message.bytes().len() + 160);
    xml.push(b'<');
    xml.extend_from_slice(direction.name().as_bytes());
    crate::xml::write::attr(&mut xml, "xmlns", ns::CARBONS);
    xml.push(b'>');
    forward::write(&mut xml, message, None);
    xml.extend_from_slice(b"</");
    xml.extend_from_slice(direction.name().as_bytes());
    xml.push(b'>');
    let (from, to) = (Jid::from(to.bare()), Jid::from(to.clone()));
    Stanza::message(Some(&to), Some(&from), message.type_()).with_xml(&xml).build()
}

/// Reads a copy (the receiving client's side). A client must also see that it comes from its own bare JID
/// (bad-inputs S-064).
#[must_use]
pub fn parse(message: &Element) -> Option<(Direction, Forwarded)> {
    [Direction::Received, Direction::Sent].into_iter().find_map(|direction| {
        let wrapper = message.child(direction.name(), ns::CARBONS)?;
        Some((direction, forward::parse(wrapper.child("forwarded", ns::FORWARD)?)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stanza::Type;

    #[test]
    fn a_copy_comes_from_the_account_and_carries_the_message_unchanged() {
        let inner: &[u8] = b"<message from='romeo@a.example/x' to='juliet@b.example/y' type='chat'><body>&lt;3</body></message>";
        let message = Stanza::parse(bytes::Bytes::from_static(inner)).expect("canonical");
        let to = FullJid::parse("juliet@b.example/other").expect("a JID");
        let copy = received(&to, &message);
        assert_eq!(
            std::str::from_utf8(copy.bytes()).expect("text"),
            "<message to='juliet@b.example/other' from='juliet@b.example' type='chat'><received xmlns='urn:xmpp:carbons:2'>\
             <forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='romeo@a.example/x' \
             to='juliet@b.example/y' type='chat'><body>&lt;3</body></message></forwarded></received></message>"
        );
        assert_eq!(copy.type_(), Type::Chat);
        let (direction, forwarded) = parse(&copy.element()).expect("a copy");
        assert_eq!((direction, forwarded.stanza), (Direction::Received, message.element()));
        assert_eq!(
            parse(&sent(&to, &message).element()).map(|(direction, _)| direction),
            Some(Direction::Sent)
        );
        assert_eq!(parse(&message.element()), None);
    }
}
