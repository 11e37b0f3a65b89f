//! XEP-0114 §3, values only: what a component's stream header and its `<handshake/>` are answered with. SHA-1 of stream id and secret, in
//! hexadecimal; ours is compared in constant time. Called by `serve`.

use sha1::{Digest as _, Sha1};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::sasl::Secret;
use xmpp::stream::error::StreamError;
use xmpp::stream::header::StreamHeader;
use xmpp::xml::element::Element;
use xmpp::xml::write;

/// What a connection may be that names a domain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claim<'a> {
    /// That component, if it knows this.
    May(&'a Secret),
    /// Nothing: somebody of ours has that name.
    Taken,
    /// Nothing.
    Unknown,
}

/// A stream that is open and waits for its handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    /// What it says it is.
    pub(super) domain: BareJid,
    expected: Secret,
}

impl Handshake {
    /// The stream header is right, and its answer has that id.
    ///
    /// # Errors
    /// What to close the stream with, behind a header of ours.
    pub(super) fn open<'a>(
        header: &StreamHeader,
        id: &str,
        claim: impl FnOnce(&str) -> Claim<'a>,
    ) -> Result<Handshake, StreamError> {
        if header.content_ns != ns::COMPONENT {
            return Err(StreamError::invalid_namespace());
        }
        let to = header.to.as_deref().ok_or_else(StreamError::improper_addressing)?;
        let to = Jid::parse(to).map_err(|_| StreamError::host_unknown())?;
        if to.local().is_some() || to.resource().is_some() {
            return Err(StreamError::host_unknown());
        }
        match claim(to.domain()) {
            Claim::May(secret) => {
                Ok(Handshake { domain: to.bare(), expected: token(id, secret).into() })
            }
            Claim::Taken => Err(StreamError::conflict()),
            Claim::Unknown => Err(StreamError::host_unknown()),
        }
    }

    /// The first element: nothing else may come before it is right.
    ///
    /// # Errors
    /// What to close the stream with.
    pub(super) fn check(&self, element: &Element) -> Result<(), StreamError> {
        let is_one = element.is("handshake", ns::COMPONENT) && element.children().next().is_none();
        let said = element.text().trim().to_ascii_lowercase();
        match is_one && self.expected.matches(said.as_bytes()) {
            true => Ok(()),
            false => Err(StreamError::not_authorized()),
        }
    }
}

/// What the component has to say.
fn token(id: &str, secret: &Secret) -> Token {
    let hash = Sha1::new().chain_update(id.as_bytes()).chain_update(secret.expose()).finalize();
    Token(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Token(String);

impl From<Token> for Secret {
    fn from(token: Token) -> Secret {
        Secret::new(token.0.into_bytes())
    }
}

/// Our stream header: as the XEP has it, without a version, so that nobody waits for features.
pub(super) fn header(from: &str, id: &str) -> Vec<u8> {
    let mut out = b"<?xml version='1.0'?><stream:stream".to_vec();
    for (name, value) in
        [("xmlns", ns::COMPONENT), ("xmlns:stream", ns::STREAM), ("id", id), ("from", from)]
    {
        write::attr(&mut out, name, value);
    }
    out.push(b'>');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content_ns: &str, to: Option<&str>) -> Result<Handshake, StreamError> {
        let header = StreamHeader {
            to: to.map(str::to_owned),
            content_ns: content_ns.to_owned(),
            ..StreamHeader::default()
        };
        let secret = Secret::new(b"wonderland".to_vec());
        Handshake::open(&header, "3BF96D32", |domain| match domain {
            "plays.chat.example" => Claim::May(&secret),
            "chat.example" => Claim::Taken,
            _ => Claim::Unknown,
        })
    }

    #[test]
    fn a_header_is_answered_by_whom_it_names() {
        let accept = ns::COMPONENT;
        for (content_ns, to, expected) in [
            (accept, Some("plays.chat.example"), "plays.chat.example"),
            (accept, Some("PLAYS.chat.example"), "plays.chat.example"),
            (ns::CLIENT, Some("plays.chat.example"), "invalid-namespace"),
            (ns::SERVER, Some("plays.chat.example"), "invalid-namespace"),
            ("", Some("plays.chat.example"), "invalid-namespace"),
            (accept, None, "improper-addressing"),
            (accept, Some("other.chat.example"), "host-unknown"),
            (accept, Some("bot@plays.chat.example"), "host-unknown"),
            (accept, Some("plays.chat.example/x"), "host-unknown"),
            (accept, Some("plays..chat@@"), "host-unknown"),
            (accept, Some(""), "host-unknown"),
            (accept, Some("chat.example"), "conflict"),
        ] {
            let found = match opened(content_ns, to) {
                Ok(handshake) => handshake.domain.to_string(),
                Err(error) => error.condition.name().to_owned(),
            };
            assert_eq!(found, expected, "{content_ns} {to:?}");
        }
    }

    #[test]
    fn only_who_knows_the_secret_is_let_in() {
        let handshake = opened(ns::COMPONENT, Some("plays.chat.example")).expect("may");
        // printf '3BF96D32wonderland' | sha1sum
        let right = "c786ea3540cb7ad54b3a2a75d3f245db113244e3";
        let upper = right.to_ascii_uppercase();
        let spaced = format!("\n {right} ");
        for (text, ok) in [
            (right, true),
            (upper.as_str(), true),
            (spaced.as_str(), true),
            (&right[1..], false),
            ("wonderland", false),
            ("", false),
        ] {
            let element = Element::new("handshake", ns::COMPONENT).with_text(text);
            assert_eq!(handshake.check(&element).is_ok(), ok, "{text:?}");
        }
        let inside = Element::new("handshake", ns::COMPONENT)
            .with_text(right)
            .with_child(Element::new("x", ns::COMPONENT));
        let other = Element::new("handshake", ns::CLIENT).with_text(right);
        let stanza = Element::new("message", ns::COMPONENT).with_text(right);
        for element in [inside, other, stanza] {
            assert_eq!(handshake.check(&element), Err(StreamError::not_authorized()));
        }
    }

    #[test]
    fn our_header_is_that_of_the_xep() {
        let header = String::from_utf8(header("plays.chat.example", "a'b")).expect("text");
        assert_eq!(
            header,
            "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
             xmlns:stream='http://etherx.jabber.org/streams' id='a&apos;b' from='plays.chat.example'>"
        );
    }
}
