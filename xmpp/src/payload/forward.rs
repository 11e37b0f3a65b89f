//! Stanza forwarding (XEP-0297): a stanza inside another. Called by [`super::carbons`] and archives.
//!
//! The forwarded stanza's bytes go in as they are, with their namespace declared; nothing is parsed or written anew.

use super::delay::{self, Delay};
use crate::ns;
use crate::stanza::Stanza;
use crate::xml::element::Element;

/// What was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// When it was sent first, if it says so.
    pub delay: Option<Delay>,
    /// The stanza, in `jabber:client`.
    pub stanza: Element,
}

/// Appends `<forwarded/>` around the stanza, with a delay in front if it was sent at another time (§3.1).
pub fn write(out: &mut Vec<u8>, stanza: &Stanza, delay: Option<&Element>) {
    out.extend_from_slice(b"<forwarded xmlns='urn:xmpp:forward:0'>");
    if let Some(delay) = delay {
        delay.write_in(out, ns::FORWARD);
    }
    stanza.write_with_ns(out, ns::CLIENT);
    out.extend_from_slice(b"</forwarded>");
}

/// Reads `<forwarded/>`; `None` if it is none or has no stanza in it.
#[must_use]
pub fn parse(element: &Element) -> Option<Forwarded> {
    if !element.is("forwarded", ns::FORWARD) {
        return None;
    }
    let is_stanza = |child: &&Element| {
        child.ns() == ns::CLIENT && matches!(child.name(), "message" | "presence" | "iq")
    };
    let stanza = element.children().find(is_stanza)?.clone();
    Some(Forwarded { delay: element.children().find_map(delay::parse), stanza })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_stanza_keeps_its_bytes_and_gains_its_namespace() {
        let inner: &[u8] = b"<message to='a@b.example'   id=\"1\"><body>x &amp; y</body><x xmlns='urn:x'/></message>";
        let stanza = Stanza::parse(bytes::Bytes::from_static(inner)).expect("canonical");
        let mut out = Vec::new();
        write(&mut out, &stanza, Some(&delay::element(0, None, None)));
        assert_eq!(
            String::from_utf8(out.clone()).expect("text"),
            "<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='1970-01-01T00:00:00.000Z'/>\
             <message xmlns='jabber:client' to='a@b.example'   id=\"1\"><body>x &amp; y</body><x xmlns='urn:x'/></message>\
             </forwarded>"
        );
        let forwarded =
            parse(&Element::parse(&out).expect("well-formed")).expect("a stanza is in it");
        assert_eq!(forwarded.delay.map(|delay| delay.stamp_ms), Some(0));
        assert_eq!(forwarded.stanza, stanza.element());
    }

    #[test]
    fn nothing_forwarded_is_nothing() {
        for xml in [
            "<forwarded xmlns='urn:xmpp:forward:0'/>",
            "<forwarded xmlns='urn:xmpp:forward:0'><message/></forwarded>",
            "<message/>",
        ] {
            assert_eq!(parse(&Element::parse(xml.as_bytes()).expect("well-formed")), None, "{xml}");
        }
    }
}
