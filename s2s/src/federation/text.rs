//! Room: a stanza as it goes to another domain, whoever has opened the stream. Called by `outgoing` and by the machine of `incoming`.
//!
//! A canonical stanza does not name its content namespace, so its bytes mean on a stream of `jabber:server` what they should. Only what calls
//! `jabber:client` by name somewhere in it is looked at more closely: a direct child that does so would be in a foreign namespace there.

use bytes::Bytes;
use memchr::memmem;
use xmpp::{Stanza, ns};

/// Its bytes.
pub(super) fn bytes(stanza: &Stanza) -> Bytes {
    let bytes = stanza.bytes();
    if memmem::find(bytes, ns::CLIENT.as_bytes()).is_none() {
        return bytes.clone();
    }
    // Written from a tree, a namespace is declared where it differs from the one around it: around it all is the stream's.
    let mut out = Vec::with_capacity(bytes.len());
    stanza.element().write(&mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stanza: &'static str, expected: &str) {
        let stanza = Stanza::parse(Bytes::from_static(stanza.as_bytes())).expect("a stanza");
        assert_eq!(bytes(&stanza), expected);
    }

    #[test]
    fn the_bytes_go_as_they_are() {
        let stanza = "<message to='a@b.example' from='c@d.example/e'><body>x</body><x xmlns='urn:x'/></message>";
        check(stanza, stanza);
    }

    #[test]
    fn who_names_the_namespace_of_clients_is_understood_all_the_same() {
        check(
            "<message to='b.example' from='d.example'><body xmlns='jabber:client'>x</body><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>y</body></message></forwarded></message>",
            "<message to='b.example' from='d.example'><body>x</body><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>y</body></message></forwarded></message>",
        );
        let said = "<message to='b.example' from='d.example'><body>jabber:client</body></message>";
        check(said, said);
    }
}
