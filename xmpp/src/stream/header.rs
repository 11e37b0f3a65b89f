//! Stream headers as we write them (RFC 6120 §4.7), and what else depends on how a transport frames a stream.
//!
//! Called by `negotiate`, sessions and links. The peer's header is read by the framer ([`StreamHeader`]). Deliberately
//! absent: BOSH, whose body element is the transport's own.

use crate::ns;
use crate::stream::error::StreamError;
use crate::xml::element::Element;
use crate::xml::write;

pub use crate::xml::framer::StreamHeader;

/// How a stream is laid out on its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One long XML document (TCP, TLS): elements inherit the root's namespaces.
    Stream,
    /// Every element is a document of its own (WebSocket, RFC 7395): it must declare what it uses.
    WebSocket,
}

impl Framing {
    /// The end of our half of the stream.
    #[must_use]
    pub fn close(self) -> &'static [u8] {
        match self {
            Framing::Stream => b"</stream:stream>",
            Framing::WebSocket => b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
        }
    }

    /// A top-level element, as bytes. On [`Framing::Stream`] the content namespace is `jabber:client`.
    #[must_use]
    pub fn element(self, element: &Element) -> Vec<u8> {
        match self {
            Framing::Stream => element.to_bytes(),
            Framing::WebSocket => {
                let mut out = Vec::with_capacity(256);
                element.write_in(&mut out, "");
                out
            }
        }
    }

    /// A stream error and the end of the stream, as bytes. RFC 7395 §3.5: on WebSocket they are two frames, so there
    /// the caller sends [`Framing::close`] itself.
    #[must_use]
    pub fn error(self, error: &StreamError) -> Vec<u8> {
        match self {
            Framing::Stream => {
                let mut out = error.to_bytes();
                out.extend_from_slice(self.close());
                out
            }
            Framing::WebSocket => error.to_standalone_bytes(),
        }
    }
}

/// A stream header of ours; always version 1.0.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The content namespace, `jabber:client` or `jabber:server`. Not written on WebSocket.
    pub content_ns: &'a str,
    /// Who we are.
    pub from: Option<&'a str>,
    /// Whom we address.
    pub to: Option<&'a str>,
    /// The stream id: the receiving entity's, unpredictable.
    pub id: Option<&'a str>,
    /// Declare the dialback namespace (XEP-0220 §2.1).
    pub dialback: bool,
}

impl Opening<'_> {
    /// The bytes of the header.
    #[must_use]
    pub fn to_bytes(&self, framing: Framing) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        match framing {
            Framing::Stream => {
                out.extend_from_slice(b"<?xml version='1.0'?><stream:stream");
                write::attr(&mut out, "xmlns", self.content_ns);
                write::attr(&mut out, "xmlns:stream", ns::STREAM);
                if self.dialback {
                    write::attr(&mut out, "xmlns:db", ns::DIALBACK);
                }
            }
            Framing::WebSocket => {
                out.extend_from_slice(b"<open");
                write::attr(&mut out, "xmlns", ns::FRAMING);
            }
        }
        for (name, value) in [("id", self.id), ("from", self.from), ("to", self.to)] {
            if let Some(value) = value {
                write::attr(&mut out, name, value);
            }
        }
        out.extend_from_slice(b" version='1.0' xml:lang='en'");
        out.extend_from_slice(if framing == Framing::Stream { b">" } else { b"/>" });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_who_and_which_stream() {
        let opening = Opening {
            content_ns: ns::CLIENT,
            from: Some("a.example"),
            to: Some("o'neill@a.example"),
            id: Some("1"),
            dialback: false,
        };
        assert_eq!(
            String::from_utf8(opening.to_bytes(Framing::Stream)).expect("text"),
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams' id='1' from='a.example' \
             to='o&apos;neill@a.example' version='1.0' xml:lang='en'>"
        );
        assert_eq!(
            String::from_utf8(opening.to_bytes(Framing::WebSocket)).expect("text"),
            "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1' from='a.example' \
             to='o&apos;neill@a.example' version='1.0' xml:lang='en'/>"
        );
    }

    #[test]
    fn a_stanza_alone_in_its_frame_declares_its_namespace() {
        let iq = Element::new("iq", ns::CLIENT).with_attr("type", "result");
        assert_eq!(Framing::Stream.element(&iq), b"<iq type='result'/>");
        assert_eq!(Framing::WebSocket.element(&iq), b"<iq xmlns='jabber:client' type='result'/>");
    }
}
