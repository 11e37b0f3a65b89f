//! Stream errors as values (RFC 6120 §4.9). Made by the framer, the negotiation and sessions; written once, then the
//! stream is closed. Deliberately absent: the closing tag, which belongs to whoever owns the stream.

use std::fmt;

use crate::ns;
use crate::xml::element::Element;
use crate::xml::write;

macro_rules! conditions {
    ($($variant:ident $name:literal $constructor:ident,)*) => {
        /// The defined conditions (RFC 6120 §4.9.3), in the order of the RFC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum StreamCondition {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl StreamCondition {
            /// All of them.
            pub const ALL: &'static [StreamCondition] = &[$(StreamCondition::$variant,)*];

            /// The element name of the condition.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(StreamCondition::$variant => $name,)* }
            }
        }

        impl StreamError {
            $(#[doc = concat!("A `", $name, "` error without text.")]
            #[must_use]
            pub fn $constructor() -> StreamError {
                StreamError::new(StreamCondition::$variant)
            })*
        }
    };
}

conditions! {
    BadFormat "bad-format" bad_format,
    BadNamespacePrefix "bad-namespace-prefix" bad_namespace_prefix,
    Conflict "conflict" conflict,
    ConnectionTimeout "connection-timeout" connection_timeout,
    HostGone "host-gone" host_gone,
    HostUnknown "host-unknown" host_unknown,
    ImproperAddressing "improper-addressing" improper_addressing,
    InternalServerError "internal-server-error" internal_server_error,
    InvalidFrom "invalid-from" invalid_from,
    InvalidNamespace "invalid-namespace" invalid_namespace,
    InvalidXml "invalid-xml" invalid_xml,
    NotAuthorized "not-authorized" not_authorized,
    NotWellFormed "not-well-formed" not_well_formed,
    PolicyViolation "policy-violation" policy_violation,
    RemoteConnectionFailed "remote-connection-failed" remote_connection_failed,
    Reset "reset" reset,
    ResourceConstraint "resource-constraint" resource_constraint,
    RestrictedXml "restricted-xml" restricted_xml,
    SeeOtherHost "see-other-host" see_other_host_unnamed,
    SystemShutdown "system-shutdown" system_shutdown,
    UndefinedCondition "undefined-condition" undefined_condition,
    UnsupportedEncoding "unsupported-encoding" unsupported_encoding,
    UnsupportedFeature "unsupported-feature" unsupported_feature,
    UnsupportedStanzaType "unsupported-stanza-type" unsupported_stanza_type,
    UnsupportedVersion "unsupported-version" unsupported_version,
}

/// One stream error. It is unrecoverable: after it nothing more is read or written but the closing tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The defined condition.
    pub condition: StreamCondition,
    /// Human-readable English, without anything the peer sent.
    pub text: Option<String>,
    /// Where to go instead: only with `see-other-host` (RFC 6120 §4.9.3.19).
    pub host: Option<String>,
    /// One application-specific element.
    pub extra: Option<Box<Element>>,
}

impl StreamError {
    /// A bare error.
    #[must_use]
    pub fn new(condition: StreamCondition) -> StreamError {
        StreamError { condition, text: None, host: None, extra: None }
    }

    /// A redirection; send it only over TLS (RFC 6120 §4.9.3.19).
    #[must_use]
    pub fn see_other_host(host: &str) -> StreamError {
        StreamError {
            host: Some(host.to_owned()),
            ..StreamError::new(StreamCondition::SeeOtherHost)
        }
    }

    /// The same with a text.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> StreamError {
        self.text = Some(text.to_owned());
        self
    }

    /// The same with an application-specific element.
    #[must_use]
    pub fn with_extra(mut self, extra: Element) -> StreamError {
        self.extra = Some(Box::new(extra));
        self
    }

    /// The bytes for a stream whose root declares the prefix `stream` (TCP).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.render(b"<stream:error>")
    }

    /// The bytes for a transport without a stream root (WebSocket, BOSH): self-contained.
    #[must_use]
    pub fn to_standalone_bytes(&self) -> Vec<u8> {
        self.render(b"<stream:error xmlns:stream='http://etherx.jabber.org/streams'>")
    }

    fn render(&self, open: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(open);
        out.push(b'<');
        out.extend_from_slice(self.condition.name().as_bytes());
        write::attr(&mut out, "xmlns", ns::STREAMS);
        if let Some(host) = &self.host {
            out.push(b'>');
            write::escape_text(&mut out, host);
            out.extend_from_slice(b"</");
            out.extend_from_slice(self.condition.name().as_bytes());
            out.push(b'>');
        } else {
            out.extend_from_slice(b"/>");
        }
        if let Some(text) = &self.text {
            out.extend_from_slice(b"<text");
            write::attr(&mut out, "xmlns", ns::STREAMS);
            out.extend_from_slice(b" xml:lang='en'>");
            write::escape_text(&mut out, text);
            out.extend_from_slice(b"</text>");
        }
        if let Some(extra) = &self.extra {
            extra.write(&mut out);
        }
        out.extend_from_slice(b"</stream:error>");
        out
    }

    /// Whether the peer says that the stream is over with an error: there is nothing to answer but the end (RFC 6120 §4.9.1.1).
    #[must_use]
    pub fn is_one(element: &Element) -> bool {
        element.is("error", ns::STREAM)
    }

    /// Reads an `error` element of the streams namespace; anything unknown in it becomes `undefined-condition`.
    /// `None` if the element is something else.
    #[must_use]
    pub fn from_element(element: &Element) -> Option<StreamError> {
        if !StreamError::is_one(element) {
            return None;
        }
        let mut error = StreamError::undefined_condition();
        for child in element.children() {
            if child.ns() != ns::STREAMS {
                error.extra = Some(Box::new(child.clone()));
            } else if child.name() == "text" {
                error.text = Some(child.text());
            } else if let Some(known) =
                StreamCondition::ALL.iter().find(|c| c.name() == child.name())
            {
                error.condition = *known;
                if *known == StreamCondition::SeeOtherHost {
                    error.host = Some(child.text()).filter(|host| !host.is_empty());
                }
            }
        }
        Some(error)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.condition.name())?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl std::error::Error for StreamError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_is_read_back_as_it_was_written() {
        for &condition in StreamCondition::ALL {
            let error = StreamError::new(condition)
                .with_text("a < b")
                .with_extra(Element::new("x", "urn:x"));
            let element = Element::parse(&error.to_standalone_bytes()).unwrap();
            assert_eq!(StreamError::from_element(&element), Some(error));
        }
    }

    #[test]
    fn a_redirection_names_the_host() {
        let bytes = StreamError::see_other_host("[2001:db8::1]:5222").to_bytes();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[2001:db8::1]:5222\
             </see-other-host></stream:error>"
        );
    }
}
