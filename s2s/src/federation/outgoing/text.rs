//! Room `federation::outgoing`: a stanza as it goes to another domain. Called by `driver`.
//!
//! A canonical stanza does not name its content namespace, so its bytes mean on a stream of `jabber:server` what they should. Only what calls
//! `jabber:client` by name somewhere in it is looked at more closely: a direct child that does so would be in a foreign namespace there. What is
//! sent a second time, to a peer that may have had it, says since when it is on the way (XEP-0203).

use memchr::memmem;
use xmpp::payload::delay;
use xmpp::{Jid, Kind, ns};

use super::queue::Item;

/// Appends it.
pub(super) fn write(out: &mut Vec<u8>, ours: &str, item: &Item) {
    let is_again = item.sendings > 1
        && item.stanza.kind() != Kind::Iq
        && !item.stanza.has_child("delay", ns::DELAY);
    let delayed = is_again.then(|| {
        let by = Jid::parse(ours).ok();
        item.stanza.with_child(&delay::element(item.since_ms, by.as_ref(), None))
    });
    let stanza = delayed.as_ref().unwrap_or(&item.stanza);
    let bytes = stanza.bytes();
    if memmem::find(bytes, ns::CLIENT.as_bytes()).is_none() {
        return out.extend_from_slice(bytes);
    }
    // Written from a tree, a namespace is declared where it differs from the one around it: around it all is the stream's.
    stanza.element().write(out);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use xmpp::Stanza;

    use super::*;
    use crate::federation::Ticket;

    fn check(sendings: u8, stanza: &'static str, expected: &str) {
        let item = Item {
            ticket: Ticket { via: None, order: 0 },
            stanza: Stanza::parse(Bytes::from_static(stanza.as_bytes())).unwrap(),
            since: Instant::now(),
            since_ms: 1_709_251_199_999,
            sendings,
        };
        let mut out = Vec::new();
        write(&mut out, "capulet.example", &item);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_bytes_go_as_they_are() {
        let stanza = "<message to='a@b.example' from='c@d.example/e'><body>x</body><x xmlns='urn:x'/></message>";
        check(1, stanza, stanza);
    }

    #[test]
    fn who_names_the_namespace_of_clients_is_understood_all_the_same() {
        check(
            1,
            "<message to='b.example' from='d.example'><body xmlns='jabber:client'>x</body><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>y</body></message></forwarded></message>",
            "<message to='b.example' from='d.example'><body>x</body><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>y</body></message></forwarded></message>",
        );
        let said = "<message to='b.example' from='d.example'><body>jabber:client</body></message>";
        check(1, said, said);
    }

    #[test]
    fn what_is_sent_again_says_since_when() {
        check(
            2,
            "<message to='b.example' from='d.example'><body>x</body></message>",
            "<message to='b.example' from='d.example'><body>x</body><delay xmlns='urn:xmpp:delay' from='capulet.example' stamp='2024-02-29T23:59:59.999Z'/></message>",
        );
        let late = "<message to='b.example' from='d.example'><delay xmlns='urn:xmpp:delay' stamp='2024-02-28T00:00:00.000Z'/></message>";
        check(2, late, late);
        let iq = "<iq to='b.example' from='d.example' type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>";
        check(2, iq, iq);
    }
}
