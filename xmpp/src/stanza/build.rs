//! Stanzas this server says itself. Called by features and the router; calls `xml::write`.

use crate::jid::Jid;
use crate::ns;
use crate::stanza::Stanza;
use crate::stanza::header::{Kind, Type};
use crate::stream::error::StreamError;
use crate::xml::element::Element;
use crate::xml::write;

/// A stanza being written. `build` ends it.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    kind: Kind,
    out: Vec<u8>,
    /// Whether the start tag is closed: there is content.
    open: bool,
}

impl Builder {
    /// A stanza of a kind and type. `Kind::Other` is not a stanza: it panics.
    pub fn new(kind: Kind, type_: Type, from: Option<&Jid>, to: Option<&Jid>) -> Builder {
        assert!(kind != Kind::Other, "a stanza is a message, a presence or an iq");
        let mut out = Vec::with_capacity(512);
        out.push(b'<');
        out.extend_from_slice(kind.name().as_bytes());
        if let Some(to) = to {
            write::attr(&mut out, "to", to.as_str());
        }
        if let Some(from) = from {
            write::attr(&mut out, "from", from.as_str());
        }
        if let Some(type_) = type_.name() {
            write::attr(&mut out, "type", type_);
        }
        Builder { kind, out, open: false }
    }

    /// Gives it an id. Before any child.
    pub fn id(self, id: &str) -> Builder {
        self.attr("id", id)
    }

    /// Gives it an id, if there is one. Before any child.
    pub fn id_opt(self, id: Option<&str>) -> Builder {
        match id {
            Some(id) => self.id(id),
            None => self,
        }
    }

    /// Names the language of its text. Before any child.
    pub fn lang(self, lang: &str) -> Builder {
        self.attr("xml:lang", lang)
    }

    fn attr(mut self, name: &str, value: &str) -> Builder {
        assert!(!self.open, "attributes come before children");
        write::attr(&mut self.out, name, value);
        self
    }

    /// Appends a child.
    pub fn with_child(mut self, child: Element) -> Builder {
        self.content();
        child.write(&mut self.out);
        self
    }

    /// Appends a child, if there is one.
    pub fn with_child_opt(self, child: Option<Element>) -> Builder {
        match child {
            Some(child) => self.with_child(child),
            None => self,
        }
    }

    /// Appends `<name>text</name>` in the content namespace: `body`, `subject`, `show`, …
    pub fn with_text_child(self, name: &str, text: &str) -> Builder {
        self.with_child(Element::new(name, ns::CLIENT).with_text(text))
    }

    /// Appends what is bytes already: whole well-formed elements, in `jabber:client` unless they say otherwise. `build`
    /// panics if they are not.
    pub fn with_xml(mut self, xml: &[u8]) -> Builder {
        self.content();
        self.out.extend_from_slice(xml);
        self
    }

    fn content(&mut self) {
        if !self.open {
            self.out.push(b'>');
            self.open = true;
        }
    }

    /// The stanza.
    #[must_use]
    pub fn build(mut self) -> Stanza {
        if self.open {
            self.out.extend_from_slice(b"</");
            self.out.extend_from_slice(self.kind.name().as_bytes());
            self.out.push(b'>');
        } else {
            self.out.extend_from_slice(b"/>");
        }
        Stanza::own(self.out)
    }
}

impl Stanza {
    /// A message to be built.
    pub fn message(to: Option<&Jid>, from: Option<&Jid>, type_: Type) -> Builder {
        Builder::new(Kind::Message, type_, from, to)
    }

    /// A presence to be built.
    pub fn presence(to: Option<&Jid>, from: Option<&Jid>, type_: Type) -> Builder {
        Builder::new(Kind::Presence, type_, from, to)
    }

    /// The answer to an IQ of type `get` or `set`: addresses swapped, id kept.
    #[must_use]
    pub fn iq_result(request: &Stanza, payload: Option<Element>) -> Stanza {
        let reply = Builder::new(Kind::Iq, Type::Result, request.to(), request.from());
        reply.id_opt(request.id().as_deref()).with_child_opt(payload).build()
    }

    /// A request to be answered.
    #[must_use]
    pub fn iq_get(from: Option<&Jid>, to: Option<&Jid>, id: &str, payload: Element) -> Stanza {
        Builder::new(Kind::Iq, Type::Get, from, to).id(id).with_child(payload).build()
    }

    /// A request to be carried out and answered.
    #[must_use]
    pub fn iq_set(from: Option<&Jid>, to: Option<&Jid>, id: &str, payload: Element) -> Stanza {
        Builder::new(Kind::Iq, Type::Set, from, to).id(id).with_child(payload).build()
    }

    /// A stanza that is a tree: a message, presence or iq of `jabber:client`.
    ///
    /// # Errors
    /// If it is something else, or an address in it is malformed.
    pub fn from_element(element: &Element) -> Result<Stanza, StreamError> {
        let is_stanza =
            element.ns() == ns::CLIENT && matches!(element.name(), "message" | "presence" | "iq");
        if !is_stanza {
            return Err(StreamError::unsupported_stanza_type());
        }
        Stanza::parse(element.to_bytes().into())
    }
}
