//! Stream features (RFC 6120 §4.3.2): ours written piece by piece, the peer's read.
//!
//! Called by `negotiate`. Features of single XEPs come in as raw elements ([`Writer::raw`]) from whoever owns them.

use crate::ns;
use crate::sasl::Mechanism;
use crate::stream::header::Framing;
use crate::xml::element::Element;
use crate::xml::write;

/// Writes one `<stream:features/>`; finish with [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty list.
    #[must_use]
    pub fn new(framing: Framing) -> Writer {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"<stream:features");
        if framing == Framing::WebSocket {
            write::attr(&mut out, "xmlns:stream", ns::STREAM);
        }
        out.push(b'>');
        Writer { out }
    }

    fn empty(mut self, name: &str, ns: &str, inside: &[u8]) -> Writer {
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        write::attr(&mut self.out, "xmlns", ns);
        if inside.is_empty() {
            self.out.extend_from_slice(b"/>");
        } else {
            self.out.push(b'>');
            self.out.extend_from_slice(inside);
            self.out.extend_from_slice(b"</");
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b'>');
        }
        self
    }

    /// STARTTLS (RFC 6120 §5).
    #[must_use]
    pub fn starttls(self, required: bool) -> Writer {
        self.empty("starttls", ns::TLS, if required { b"<required/>" } else { b"" })
    }

    /// SASL mechanisms (RFC 6120 §6.3.3), the preferred first; an empty list is left out.
    #[must_use]
    pub fn mechanisms(self, mechanisms: &[Mechanism]) -> Writer {
        if mechanisms.is_empty() {
            return self;
        }
        let mut list = Vec::new();
        for mechanism in mechanisms {
            list.extend_from_slice(b"<mechanism>");
            list.extend_from_slice(mechanism.name().as_bytes());
            list.extend_from_slice(b"</mechanism>");
        }
        self.empty("mechanisms", ns::SASL, &list)
    }

    /// Channel binding types (XEP-0440); an empty list is left out.
    #[must_use]
    pub fn channel_bindings<'a>(self, types: impl Iterator<Item = &'a str>) -> Writer {
        let mut list = Vec::new();
        for kind in types {
            list.extend_from_slice(b"<channel-binding");
            write::attr(&mut list, "type", kind);
            list.extend_from_slice(b"/>");
        }
        if list.is_empty() {
            return self;
        }
        self.empty("sasl-channel-binding", ns::SASL_CHANNEL_BINDING, &list)
    }

    /// In-band registration (XEP-0077 §6).
    #[must_use]
    pub fn register(self) -> Writer {
        self.empty("register", ns::REGISTER_FEATURE, b"")
    }

    /// Resource binding (RFC 6120 §7), and the session of RFC 3921 as optional, for old clients.
    #[must_use]
    pub fn bind(self) -> Writer {
        self.empty("bind", ns::BIND, b"<required/>").empty("session", ns::SESSION, b"<optional/>")
    }

    /// Stream management (XEP-0198 §2). COMPAT: `<optional/>` was in the schema before version 1.6.3; Prosody writes it too.
    #[must_use]
    pub fn stream_management(self) -> Writer {
        self.empty("sm", ns::SM, b"<optional/>")
    }

    /// Roster versioning (RFC 6121 §2.6.1).
    #[must_use]
    pub fn roster_versioning(self) -> Writer {
        self.empty("ver", ns::ROSTER_VERSIONING, b"")
    }

    /// Whole elements that declare their own namespaces.
    #[must_use]
    pub fn raw(mut self, elements: &[u8]) -> Writer {
        self.out.extend_from_slice(elements);
        self
    }

    /// The bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"</stream:features>");
        self.out
    }
}

/// The largest element we take on a stream in this state, in bytes (XEP-0478 §3).
#[must_use]
pub fn limits(bytes_max: usize) -> Vec<u8> {
    let max = Element::new("max-bytes", ns::STREAM_LIMITS).with_text(&bytes_max.to_string());
    Element::new("limits", ns::STREAM_LIMITS).with_child(max).to_bytes()
}

/// Whether it is a `<stream:features/>`.
#[must_use]
pub fn is_features(element: &Element) -> bool {
    element.is("features", ns::STREAM)
}

/// Whether the peer offers STARTTLS.
#[must_use]
pub fn offers_starttls(features: &Element) -> bool {
    features.has_child("starttls", ns::TLS)
}

/// The names of the mechanisms the peer offers, known to us or not, in its order.
#[must_use]
pub fn mechanisms(features: &Element) -> Vec<String> {
    let list = features.child("mechanisms", ns::SASL);
    let names = list.into_iter().flat_map(Element::children);
    names.filter(|child| child.is("mechanism", ns::SASL)).map(Element::text).collect()
}

/// The channel binding types the peer offers (XEP-0440).
#[must_use]
pub fn channel_bindings(features: &Element) -> Vec<String> {
    let list = features.child("sasl-channel-binding", ns::SASL_CHANNEL_BINDING);
    let types = list.into_iter().flat_map(Element::children);
    types.filter_map(|child| child.attr("type")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Hash;

    #[test]
    fn what_is_written_can_be_read() {
        let plus = Mechanism::Scram { hash: Hash::Sha256, plus: true };
        let bytes = Writer::new(Framing::WebSocket)
            .starttls(true)
            .mechanisms(&[plus, Mechanism::Plain])
            .channel_bindings(["tls-exporter"].into_iter())
            .register()
            .bind()
            .stream_management()
            .roster_versioning()
            .raw(b"<c xmlns='urn:c'/>")
            .raw(&limits(10_000))
            .finish();
        let features = Element::parse(&bytes).expect("well-formed");
        assert!(is_features(&features) && offers_starttls(&features));
        assert_eq!(mechanisms(&features), ["SCRAM-SHA-256-PLUS", "PLAIN"]);
        assert_eq!(channel_bindings(&features), ["tls-exporter"]);
        let limits = features.child("limits", ns::STREAM_LIMITS).expect("limits");
        let max = limits.child("max-bytes", ns::STREAM_LIMITS).map(Element::text);
        assert_eq!(max.as_deref(), Some("10000"));
        assert!(features.has_child("c", "urn:c") && features.has_child("session", ns::SESSION));
    }

    #[test]
    fn empty_lists_are_left_out() {
        let bytes = Writer::new(Framing::Stream).mechanisms(&[]).channel_bindings([].into_iter());
        assert_eq!(bytes.finish(), b"<stream:features></stream:features>");
    }
}
