//! What the framer notes about a top-level element, as ranges into its bytes. Made by `xml::framer`, kept by `Stanza`.
//! Calls nothing that allocates, except for more than four children. RFC 6120 §8.1, §8.2; RFC 6121 §4.7.1, §5.2.2.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::ns;
use crate::xml::parse::{Scope, unescape_attr};

/// A range of bytes, from the first byte of the element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Span {
        let short = |n: usize| {
            u32::try_from(n).expect("a piece is shorter than 4 GiB: Limits::element_bytes")
        };
        Span { start: short(start), end: short(end) }
    }

    /// The bytes it covers.
    #[must_use]
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    /// The text it covers. The bytes have been through the framer.
    #[must_use]
    pub(crate) fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes))
            .expect("the framer proved the piece to be UTF-8 and spans end at tokens")
    }

    /// The attribute value that is written there. `None`: it is none that the framer has proved.
    #[must_use]
    pub fn value(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        std::str::from_utf8(self.of(bytes)).ok().and_then(unescape_attr)
    }

    /// The same, `by` bytes further on (or back).
    pub(crate) fn moved(self, by: i64) -> Span {
        let shift =
            |n: u32| u32::try_from(i64::from(n) + by).expect("a span stays within its piece");
        Span { start: shift(self.start), end: shift(self.end) }
    }
}

/// Where an element got its namespace from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NsRef {
    /// The default namespace of the stream; within a canonical stanza the implied content namespace.
    #[default]
    Content,
    /// None (`xmlns=''`).
    None,
    /// The prefix `xml`.
    Xml,
    /// A prefix that the stream root declares: an index into its scope.
    Root(u16),
    /// A declaration within the element: the value, as written.
    Here(Span),
}

/// One direct child of a top-level element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its local name.
    pub name: Span,
    /// Its namespace.
    pub ns: NsRef,
    /// All of it, from `<` to `>`.
    pub whole: Span,
}

/// Which kind of stanza.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `message`
    Message,
    /// `presence`
    Presence,
    /// `iq`
    Iq,
    /// No stanza: negotiation, stream management, or something unknown.
    #[default]
    Other,
}

impl Kind {
    /// The element name; empty for `Other`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Presence => "presence",
            Kind::Iq => "iq",
            Kind::Other => "",
        }
    }
}

/// The `type` attribute over all kinds, with the defaults and the rules for unknown values applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Type {
    /// Message: missing or unknown (RFC 6121 §5.2.2).
    Normal,
    /// Message: one-to-one chat.
    Chat,
    /// Message: to a room.
    Groupchat,
    /// Message: no reply expected.
    Headline,
    /// Any kind.
    Error,
    /// IQ request.
    Get,
    /// IQ request.
    Set,
    /// IQ reply.
    Result,
    /// Presence: no type.
    Available,
    /// Presence.
    Unavailable,
    /// Presence: subscription request.
    Subscribe,
    /// Presence: subscription granted.
    Subscribed,
    /// Presence: subscription given up.
    Unsubscribe,
    /// Presence: subscription refused or cancelled.
    Unsubscribed,
    /// Presence: a server asks.
    Probe,
    /// IQ of missing or unknown type, presence of unknown type: `bad-request`.
    #[default]
    Invalid,
}

impl Type {
    /// Applies the rules of the kind to the value of the attribute.
    #[must_use]
    pub fn read(kind: Kind, value: Option<&[u8]>) -> Type {
        match (kind, value) {
            (Kind::Message, Some(b"chat")) => Type::Chat,
            (Kind::Message, Some(b"groupchat")) => Type::Groupchat,
            (Kind::Message, Some(b"headline")) => Type::Headline,
            (Kind::Message | Kind::Presence | Kind::Iq, Some(b"error")) => Type::Error,
            (Kind::Message, _) => Type::Normal,
            (Kind::Iq, Some(b"get")) => Type::Get,
            (Kind::Iq, Some(b"set")) => Type::Set,
            (Kind::Iq, Some(b"result")) => Type::Result,
            (Kind::Presence, None) => Type::Available,
            (Kind::Presence, Some(b"unavailable")) => Type::Unavailable,
            (Kind::Presence, Some(b"subscribe")) => Type::Subscribe,
            (Kind::Presence, Some(b"subscribed")) => Type::Subscribed,
            (Kind::Presence, Some(b"unsubscribe")) => Type::Unsubscribe,
            (Kind::Presence, Some(b"unsubscribed")) => Type::Unsubscribed,
            (Kind::Presence, Some(b"probe")) => Type::Probe,
            _ => Type::Invalid,
        }
    }

    /// The value to write; `None` where the attribute is left out.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Type::Normal | Type::Available | Type::Invalid => return None,
            Type::Chat => "chat",
            Type::Groupchat => "groupchat",
            Type::Headline => "headline",
            Type::Error => "error",
            Type::Get => "get",
            Type::Set => "set",
            Type::Result => "result",
            Type::Unavailable => "unavailable",
            Type::Subscribe => "subscribe",
            Type::Subscribed => "subscribed",
            Type::Unsubscribe => "unsubscribe",
            Type::Unsubscribed => "unsubscribed",
            Type::Probe => "probe",
        })
    }
}

/// What the framer saw of one top-level element. All ranges count from its first byte; values are as written (escaped).
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The local name.
    pub name: Span,
    /// The namespace.
    pub ns: NsRef,
    /// Message, presence or IQ of the content namespace; anything else is `Other`.
    pub kind: Kind,
    /// The type, decoded.
    pub type_: Type,
    /// The value of `to`.
    pub to: Option<Span>,
    /// The value of `from`.
    pub from: Option<Span>,
    /// The value of `id`.
    pub id: Option<Span>,
    /// The value of `xml:lang`.
    pub lang: Option<Span>,
    /// The value of `type`.
    pub type_value: Option<Span>,
    /// The value of its own default namespace declaration.
    pub xmlns: Option<Span>,
    /// Where the name ends and the attributes begin.
    pub attrs_start: u32,
    /// Where the attributes end: the offset of `>` or `/>`.
    pub attrs_end: u32,
    /// Every direct child, in order.
    pub children: SmallVec<[Child; 6]>,
    /// False if the bytes mean something else away from this stream (a prefix or a foreign default namespace of the
    /// root), if the element itself is prefixed, or if a namespace is written with references.
    pub portable: bool,
    /// The declarations of the stream root, if the element is not portable.
    pub(crate) scope: Option<Arc<Scope>>,
}

impl Head {
    /// The local name. `piece` is the element this head belongs to.
    #[must_use]
    pub fn name<'a>(&self, piece: &'a [u8]) -> &'a str {
        self.name.text(piece)
    }

    /// The namespace, `jabber:client` where the stream's content namespace is inherited.
    #[must_use]
    pub fn ns<'a>(&'a self, piece: &'a [u8]) -> Cow<'a, str> {
        self.resolve(self.ns, piece)
    }

    /// Whether the element has this expanded name.
    #[must_use]
    pub fn is(&self, piece: &[u8], name: &str, ns: &str) -> bool {
        self.name.of(piece) == name.as_bytes() && self.ns(piece) == ns
    }

    pub(crate) fn resolve<'a>(&'a self, ns: NsRef, piece: &'a [u8]) -> Cow<'a, str> {
        match (ns, self.scope.as_deref()) {
            (NsRef::None, _) => Cow::Borrowed(""),
            (NsRef::Xml, _) => Cow::Borrowed(ns::XML),
            (NsRef::Here(value), _) => unescape_attr(value.text(piece)).unwrap_or_default(),
            (NsRef::Root(index), Some(scope)) => {
                Cow::Borrowed(&*scope.prefixes[usize::from(index)].1)
            }
            (NsRef::Content, Some(scope)) if !scope.is_content() => Cow::Borrowed(&*scope.default),
            (NsRef::Content | NsRef::Root(_), _) => Cow::Borrowed(ns::CLIENT),
        }
    }
}
