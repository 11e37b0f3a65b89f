//! A stanza: canonical bytes and what is known of them (RFC 6120 §8). It is made at the door with one copy, shared by
//! everyone who routes, stores or counts it, and never re-serialised on the way. Called by sessions, features, router,
//! links; calls `xml`.
//!
//! *Canonical*: self-contained bytes of one `message`, `presence` or `iq` without prefix, whose own namespace is the
//! content namespace of whatever stream it is written to and so is not declared; `to` and `from` are prepared.
//! Deliberately absent: what a payload means.

pub mod build;
pub mod error;
pub mod header;
mod splice;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::jid::Jid;
use crate::ns;
use crate::stanza::error::StanzaError;
use crate::stanza::splice::Edit;
use crate::stream::error::StreamError;
use crate::xml::element::Element;
use crate::xml::framer::{Framer, Limits, Scan};
use crate::xml::parse::{self, Scope, unescape_attr};

pub use build::Builder;
pub use header::{Child, Head, Kind, NsRef, Span, Type};

/// One stanza. Cloning it is counting a reference.
#[derive(Clone)]
pub struct Stanza(Arc<Inner>);

struct Inner {
    bytes: Bytes,
    /// Portable, and without a scope.
    head: Head,
    to: Option<Jid>,
    from: Option<Jid>,
}

/// Why `receive` refused a stanza.
#[derive(Debug)]
pub struct StanzaReject {
    /// What is wrong.
    pub error: Box<StanzaError>,
    /// The answer to the sender, `from` left out; `None` if an error or a result was refused (RFC 6120 §8.3.1).
    pub reply: Option<Stanza>,
}

impl Stanza {
    /// Takes an element that the framer found, as sent by `from`. One copy: the bytes stay as they are but for `from`,
    /// which is stamped, `to`, which is prepared, the declaration of the content namespace, which is dropped, and the language
    /// of the stream, which a stanza that names none inherits (RFC 6120 §8.1.5).
    ///
    /// # Errors
    /// `jid-malformed` for a bad `to`; `bad-request` if the element is no stanza; `policy-violation` if it becomes a giant when what it
    /// takes from its stream is written into it.
    pub fn receive(
        piece: &[u8],
        head: &Head,
        from: &Jid,
        lang: Option<&str>,
    ) -> Result<Stanza, StanzaReject> {
        if head.kind == Kind::Other {
            return Err(StanzaReject { error: Box::new(StanzaError::bad_request()), reply: None });
        }
        let written = head.to.map(|to| unescape_attr(to.text(piece)).unwrap_or_default());
        let to = match written.as_deref().map(Jid::parse).transpose() {
            Ok(to) => to,
            Err(_) => return Err(reject(piece, head, from, StanzaError::jid_malformed())),
        };
        if !head.portable {
            return import(piece, head, from, to, lang)
                .map_err(|_| reject(piece, head, from, StanzaError::policy_violation()));
        }
        let rewrite_to = match (&to, head.to) {
            (Some(to), Some(span)) if span.of(piece) != to.as_str().as_bytes() => {
                Some(Some(to.as_str()))
            }
            _ => None,
        };
        let from_text = Some(Some(from.as_str()));
        let edit = Edit { from: from_text, to: rewrite_to, lang, drop_xmlns: true };
        let (bytes, head) = splice::start_tag(piece, head, &edit);
        Ok(Stanza(Arc::new(Inner {
            bytes: Bytes::from(bytes),
            head,
            to,
            from: Some(from.clone()),
        })))
    }

    /// Takes canonical bytes back: from a link, from storage.
    ///
    /// # Errors
    /// If they are not exactly one canonical stanza.
    pub fn parse(bytes: Bytes) -> Result<Stanza, StreamError> {
        Stanza::parse_within(bytes, Limits::TRUSTED)
    }

    fn parse_within(bytes: Bytes, limits: Limits) -> Result<Stanza, StreamError> {
        let head = match Framer::standalone(limits).scan(&bytes)? {
            Scan::Element(length, head) if length == bytes.len() => head,
            _ => return Err(StreamError::not_well_formed()),
        };
        if head.kind == Kind::Other || !head.portable {
            return Err(StreamError::unsupported_stanza_type());
        }
        let address = |span: Option<Span>| {
            let text = span.map(|span| unescape_attr(span.text(&bytes)).unwrap_or_default());
            text.as_deref()
                .map(Jid::parse)
                .transpose()
                .map_err(|_| StreamError::improper_addressing())
        };
        let (to, from) = (address(head.to)?, address(head.from)?);
        Ok(Stanza(Arc::new(Inner { bytes, head, to, from })))
    }

    /// Bytes this crate has written itself: well-formed, of any size.
    fn own(bytes: Vec<u8>) -> Stanza {
        const OWN: Limits = Limits {
            element_bytes: u32::MAX,
            elements: u32::MAX,
            depth: u16::MAX,
            attributes: u16::MAX,
            namespaces: 4096,
            name_bytes: u16::MAX,
        };
        Stanza::parse_within(Bytes::from(bytes), OWN)
            .expect("names and addresses in our own stanzas are well-formed")
    }

    /// Message, presence or IQ.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.head.kind
    }

    /// Its type.
    #[must_use]
    pub fn type_(&self) -> Type {
        self.0.head.type_
    }

    /// The addressee.
    #[must_use]
    pub fn to(&self) -> Option<&Jid> {
        self.0.to.as_ref()
    }

    /// The sender.
    #[must_use]
    pub fn from(&self) -> Option<&Jid> {
        self.0.from.as_ref()
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.value(self.0.head.id)
    }

    /// The language of its text; what is no language tag (RFC 5646 §2.1) counts as absent.
    #[must_use]
    pub fn lang(&self) -> Option<Cow<'_, str>> {
        self.value(self.0.head.lang).filter(|lang| is_language(lang))
    }

    fn value(&self, span: Option<Span>) -> Option<Cow<'_, str>> {
        span.map(|span| unescape_attr(span.text(&self.0.bytes)).unwrap_or_default())
    }

    /// The canonical bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// Appends the bytes with the content namespace declared: for where none is implied (WebSocket, `forwarded`).
    pub fn write_with_ns(&self, out: &mut Vec<u8>, content_ns: &str) {
        let start = self.0.head.attrs_start as usize;
        out.reserve(self.0.bytes.len() + content_ns.len() + 9);
        out.extend_from_slice(&self.0.bytes[..start]);
        crate::xml::write::attr(out, "xmlns", content_ns);
        out.extend_from_slice(&self.0.bytes[start..]);
    }

    /// Expanded names of the direct children, in order: local name and namespace.
    pub fn children(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.head.children.iter().map(|child| self.expanded(child))
    }

    fn expanded(&self, child: &Child) -> (&str, &str) {
        let ns = match child.ns {
            NsRef::None => "",
            NsRef::Xml => ns::XML,
            // A portable element writes its namespaces without references.
            NsRef::Here(uri) => uri.text(&self.0.bytes),
            NsRef::Content | NsRef::Root(_) => ns::CLIENT,
        };
        (child.name.text(&self.0.bytes), ns)
    }

    /// Asked a dozen times of each message: most children differ in their local names, and bytes are compared sooner than text is made.
    #[inline]
    fn is_named(&self, child: &Child, name: &str, ns: &str) -> bool {
        child.name.of(&self.0.bytes) == name.as_bytes() && self.expanded(child).1 == ns
    }

    /// Whether there is a direct child of this expanded name.
    #[must_use]
    pub fn has_child(&self, name: &str, ns: &str) -> bool {
        self.0.head.children.iter().any(|child| self.is_named(child, name, ns))
    }

    /// The expanded name of the first child: the payload of an IQ.
    #[must_use]
    pub fn first_child(&self) -> Option<(&str, &str)> {
        self.children().next()
    }

    /// A tree of the first direct child of this expanded name; the rest is not looked at.
    #[must_use]
    pub fn child(&self, name: &str, ns: &str) -> Option<Element> {
        let child = self.0.head.children.iter().find(|child| self.is_named(child, name, ns))?;
        match parse::element(child.whole.of(&self.0.bytes), &Scope::client()) {
            Ok(element) => Some(element),
            // It uses a prefix declared on the stanza.
            Err(_) => self.element().child(name, ns).cloned(),
        }
    }

    /// A tree of all of it.
    #[must_use]
    pub fn element(&self) -> Element {
        parse::element(&self.0.bytes, &Scope::client()).expect("the framer proved these bytes")
    }

    /// The same to someone else.
    #[must_use]
    pub fn with_to(&self, to: &Jid) -> Stanza {
        self.with_addresses(
            Edit { to: Some(Some(to.as_str())), ..Edit::default() },
            Some(to.clone()),
            self.0.from.clone(),
        )
    }

    /// The same from someone else.
    #[must_use]
    pub fn with_from(&self, from: &Jid) -> Stanza {
        let edit = Edit { from: Some(Some(from.as_str())), ..Edit::default() };
        self.with_addresses(edit, self.0.to.clone(), Some(from.clone()))
    }

    /// The same to nobody in particular.
    #[must_use]
    pub fn without_to(&self) -> Stanza {
        self.with_addresses(Edit { to: Some(None), ..Edit::default() }, None, self.0.from.clone())
    }

    fn with_addresses(&self, edit: Edit<'_>, to: Option<Jid>, from: Option<Jid>) -> Stanza {
        let (bytes, head) = splice::start_tag(&self.0.bytes, &self.0.head, &edit);
        Stanza(Arc::new(Inner { bytes: Bytes::from(bytes), head, to, from }))
    }

    /// The same with a child appended.
    #[must_use]
    pub fn with_child(&self, child: &Element) -> Stanza {
        self.with_child_xml(&child.to_bytes()).expect("Element::write gives well-formed XML")
    }

    /// The same with a child appended that is bytes already: one self-contained element, in `jabber:client` unless it
    /// says otherwise.
    ///
    /// # Errors
    /// If it is not that.
    pub fn with_child_xml(&self, child: &[u8]) -> Result<Stanza, StreamError> {
        let found = match Framer::standalone(Limits { element_bytes: u32::MAX, ..Limits::TRUSTED })
            .scan(child)?
        {
            Scan::Element(length, head) if length == child.len() && head.portable => head,
            _ => return Err(StreamError::not_well_formed()),
        };
        let (bytes, head) = splice::append(&self.0.bytes, &self.0.head, child, &found);
        Ok(self.with_body(bytes, head))
    }

    /// The same without the direct children for which `drop` holds, given local name and namespace. If there are none,
    /// nothing is copied.
    #[must_use]
    pub fn without_children(&self, drop: impl Fn(&str, &str) -> bool) -> Stanza {
        let is_dropped = |child: &Child| {
            let (name, ns) = self.expanded(child);
            drop(name, ns)
        };
        if !self.0.head.children.iter().any(is_dropped) {
            return self.clone();
        }
        let (bytes, head) = splice::remove(&self.0.bytes, &self.0.head, is_dropped);
        self.with_body(bytes, head)
    }

    fn with_body(&self, bytes: Vec<u8>, head: Head) -> Stanza {
        let (to, from) = (self.0.to.clone(), self.0.from.clone());
        Stanza(Arc::new(Inner { bytes: Bytes::from(bytes), head, to, from }))
    }

    /// The answer that says what went wrong: addresses swapped, id kept. `None` for an error or a result, which are
    /// never answered (RFC 6120 §8.3.1). A message brings back what it said, so that its sender sees what has not arrived (rule 3 there).
    #[must_use]
    pub fn error_reply(&self, error: &StanzaError) -> Option<Stanza> {
        if matches!(self.type_(), Type::Error | Type::Result) {
            return None;
        }
        let reply = Builder::new(self.kind(), Type::Error, self.to(), self.from());
        let mut reply = reply.id_opt(self.id().as_deref());
        if self.kind() == Kind::Message {
            let element = self.element();
            // Not the id of an archive that was meant for its receiver (XEP-0359).
            let said = element.children().filter(|child| {
                !child.is("error", ns::CLIENT) && !child.is("stanza-id", ns::STANZA_ID)
            });
            reply = said.cloned().fold(reply, Builder::with_child);
        }
        Some(reply.with_child(error.element()).build())
    }
}

/// How long a stanza may become, in bytes, when the namespaces that its stream has declared are written into it: some thousand elements
/// could each lean on a namespace of a thousand bytes.
fn import_bytes_max(piece: &[u8]) -> usize {
    4 * piece.len() + 16 * 1024
}

/// A stanza that leans on the stream it came on is taken apart and written anew.
fn import(
    piece: &[u8],
    head: &Head,
    from: &Jid,
    to: Option<Jid>,
    lang: Option<&str>,
) -> Result<Stanza, StreamError> {
    let client = Scope::client();
    let scope = head.scope.as_deref().unwrap_or(&client);
    let mut element = parse::element(piece, scope)?;
    // The content namespace of the stream, whatever it is, becomes the implied one.
    let content = element.ns().to_owned();
    element.rename_ns(&content, ns::CLIENT);
    element.set_attr("from", from.as_str());
    if let Some(to) = &to {
        element.set_attr("to", to.as_str());
    }
    if let (Some(lang), None) = (lang, head.lang) {
        element.set_attr("xml:lang", lang);
    }
    let bytes = element.to_bytes();
    if bytes.len() > import_bytes_max(piece) {
        return Err(StreamError::policy_violation());
    }
    Stanza::parse(Bytes::from(bytes))
}

/// Whether it is made like a language tag (RFC 5646 §2.1).
#[must_use]
pub fn is_language(tag: &str) -> bool {
    let is_tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    matches!(tag.len(), 1..=64) && tag.bytes().all(is_tag_byte)
}

fn reject(piece: &[u8], head: &Head, from: &Jid, error: StanzaError) -> StanzaReject {
    let reply = (!matches!(head.type_, Type::Error | Type::Result)).then(|| {
        let id = head.id.map(|id| unescape_attr(id.text(piece)).unwrap_or_default());
        let reply = Builder::new(head.kind, Type::Error, None, Some(from));
        reply.id_opt(id.as_deref()).with_child(error.element()).build()
    });
    StanzaReject { error: Box::new(error), reply }
}

impl fmt::Debug for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.bytes))
    }
}

impl PartialEq for Stanza {
    /// Equal bytes.
    fn eq(&self, other: &Stanza) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Stanza {}
