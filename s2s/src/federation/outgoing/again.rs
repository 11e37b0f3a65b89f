//! Room `federation::outgoing`: what a stanza says when it is sent a second time, to a peer that may have had it: since when it is on the way (XEP-0203). Called by
//! `driver` and `back`.

use std::borrow::Cow;

use xmpp::payload::delay;
use xmpp::{Jid, Kind, Stanza, ns};

use super::queue::Item;

/// The stanza that goes.
pub(super) fn stanza<'a>(ours: &str, item: &'a Item) -> Cow<'a, Stanza> {
    let is_again = item.sendings > 1
        && item.stanza.kind() != Kind::Iq
        && !item.stanza.has_child("delay", ns::DELAY);
    if !is_again {
        return Cow::Borrowed(&item.stanza);
    }
    let by = Jid::parse(ours).ok();
    Cow::Owned(item.stanza.with_child(&delay::element(item.since_ms, by.as_ref(), None)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;

    use super::*;
    use crate::federation::Ticket;

    fn check(sendings: u8, text: &'static str, expected: &str) {
        let item = Item {
            ticket: Ticket { via: None, order: 0 },
            stanza: Stanza::parse(Bytes::from_static(text.as_bytes())).unwrap(),
            since: Instant::now(),
            since_ms: 1_709_251_199_999,
            sendings,
        };
        assert_eq!(stanza("capulet.example", &item).bytes(), expected);
    }

    #[test]
    fn what_is_sent_again_says_since_when() {
        let once = "<message to='b.example' from='d.example'/>";
        check(1, once, once);
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
