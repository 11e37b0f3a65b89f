//! Elements as the tests see them: a small tree, read by a strict parser that is not the server's.
//!
//! Called by [`crate::client`] (a stream, fed as bytes arrive) and [`crate::scenario`] (fragments in a play).
//! Deliberately absent: prefixes. A name is a namespace and a local name; attributes without a prefix have none.

use rxml::{Parse, WithOptions, error::EndOrError};
use std::fmt;

/// The content namespace of client streams.
pub const CLIENT: &str = "jabber:client";
/// That of component streams (XEP-0114): what stands in it is read as if it stood in that of clients.
pub const COMPONENT: &str = "jabber:component:accept";
/// The namespace of the stream element, its features and its errors.
pub const STREAM: &str = "http://etherx.jabber.org/streams";
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// What stands inside an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Character data, entities resolved.
    Text(String),
}

/// One attribute: namespace (empty without a prefix), name, value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Namespace, empty for the ordinary attribute.
    pub ns: String,
    /// Local name.
    pub name: String,
    /// Value, entities resolved.
    pub value: String,
}

/// An element with its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Namespace.
    pub ns: String,
    /// Attributes, in no particular order.
    pub attrs: Vec<Attr>,
    /// Children and text, in order.
    pub nodes: Vec<Node>,
}

impl Element {
    /// An empty element.
    pub fn new(name: &str, ns: &str) -> Self {
        Self { name: name.into(), ns: ns.into(), attrs: Vec::new(), nodes: Vec::new() }
    }

    /// Reads one element; what has no `xmlns` of its own is in `jabber:client`.
    ///
    /// # Errors
    /// Says what is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Self::parse_all(text)?;
        match all.len() {
            1 => Ok(all.remove(0)),
            n => Err(format!("expected one element, found {n}")),
        }
    }

    /// Reads any number of elements. The prefixes `stream` and `scn` are bound.
    ///
    /// # Errors
    /// Says what is wrong with the text, in words.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let mut reader = StreamReader::new();
        let open = format!(
            "<w xmlns='{CLIENT}' xmlns:stream='{STREAM}' xmlns:scn='{}'>",
            crate::scenario::NS
        );
        let document = format!("{open}{text}</w>");
        let mut found = Vec::new();
        let mut closed = false;
        for piece in reader.feed(document.as_bytes())? {
            match piece {
                Piece::Open(_) => {}
                Piece::Element(element) => found.push(element),
                Piece::Close => closed = true,
            }
        }
        if closed { Ok(found) } else { Err("the XML is not closed".into()) }
    }

    /// The value of an attribute without a prefix.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attr_ns("", name)
    }

    /// The value of an attribute of a namespace.
    pub fn attr_ns(&self, ns: &str, name: &str) -> Option<&str> {
        self.attrs.iter().find(|a| a.ns == ns && a.name == name).map(|a| a.value.as_str())
    }

    /// Is it this name in this namespace?
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// The first child of that name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Self> {
        self.children().find(|c| c.is(name, ns))
    }

    /// The child elements.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        self.nodes.iter().filter_map(|n| match n {
            Node::Element(e) => Some(e),
            Node::Text(_) => None,
        })
    }

    /// The text directly inside, joined.
    pub fn text(&self) -> String {
        self.nodes
            .iter()
            .filter_map(|n| match n {
                Node::Text(t) => Some(t.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }

    /// The text of the `<body/>`, of a message.
    pub fn body(&self) -> Option<String> {
        self.child("body", CLIENT).map(Self::text)
    }

    /// Is it a stanza: message, presence or iq?
    pub fn is_stanza(&self) -> bool {
        self.ns == CLIENT && matches!(self.name.as_str(), "message" | "presence" | "iq")
    }

    /// The same, with all that is in one namespace in another.
    #[must_use]
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        if self.ns == from {
            self.ns = to.into();
        }
        let nodes = std::mem::take(&mut self.nodes).into_iter().map(|node| match node {
            Node::Element(element) => Node::Element(element.renamed(from, to)),
            text => text,
        });
        self.nodes = nodes.collect();
        self
    }

    fn write(&self, parent_ns: &str, out: &mut String) {
        out.push('<');
        let prefixed = self.ns == STREAM;
        if prefixed {
            out.push_str("stream:");
        }
        out.push_str(&self.name);
        let inner_ns = if prefixed { parent_ns } else { &self.ns };
        if !prefixed && self.ns != parent_ns {
            out.push_str(&format!(" xmlns='{}'", escape(&self.ns)));
        }
        for (i, a) in self.attrs.iter().enumerate() {
            match a.ns.as_str() {
                "" => out.push_str(&format!(" {}='{}'", a.name, escape(&a.value))),
                XML => out.push_str(&format!(" xml:{}='{}'", a.name, escape(&a.value))),
                ns => out.push_str(&format!(
                    " xmlns:a{i}='{}' a{i}:{}='{}'",
                    escape(ns),
                    a.name,
                    escape(&a.value)
                )),
            }
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(e) => e.write(inner_ns, out),
                Node::Text(t) => out.push_str(&escape(t)),
            }
        }
        out.push_str("</");
        if prefixed {
            out.push_str("stream:");
        }
        out.push_str(&self.name);
        out.push('>');
    }
}

impl fmt::Display for Element {
    /// As it would stand in a client stream.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(CLIENT, &mut out);
        f.write_str(&out)
    }
}

/// Escapes text for element content and attribute values alike.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// What a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The stream header: an element without children.
    Open(Element),
    /// A whole top-level element.
    Element(Element),
    /// The end of the stream element.
    Close,
}

/// Reads a stream as it comes, however it is cut.
pub struct StreamReader {
    parser: rxml::Parser,
    stack: Vec<Element>,
    opened: bool,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamReader {
    /// At the start of a stream: expects a header.
    pub fn new() -> Self {
        let options = rxml::Options { max_token_length: 1 << 20, ..Default::default() };
        Self { parser: rxml::Parser::with_options(options), stack: Vec::new(), opened: false }
    }

    /// Takes bytes, gives what they complete.
    ///
    /// # Errors
    /// What the strict parser says of bytes that are not XML as RFC 6120 §11 has it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, String> {
        let mut rest = bytes;
        let mut found = Vec::new();
        loop {
            match self.parser.parse(&mut rest, false) {
                Ok(Some(event)) => self.event(event, &mut found),
                Ok(None) | Err(EndOrError::NeedMoreData) => return Ok(found),
                Err(EndOrError::Error(e)) => return Err(format!("the server's XML is wrong: {e}")),
            }
        }
    }

    fn event(&mut self, event: rxml::Event, found: &mut Vec<Piece>) {
        match event {
            rxml::Event::XmlDeclaration(..) => {}
            rxml::Event::StartElement(_, (ns, name), attrs) => {
                let mut element = Element::new(name.as_ref(), ns.as_ref());
                for ((ns, name), value) in attrs {
                    element.attrs.push(Attr { ns: ns.to_string(), name: name.to_string(), value });
                }
                if self.opened {
                    self.stack.push(element);
                } else {
                    self.opened = true;
                    found.push(Piece::Open(element));
                }
            }
            rxml::Event::Text(_, text) => {
                if let Some(top) = self.stack.last_mut() {
                    match top.nodes.last_mut() {
                        Some(Node::Text(before)) => before.push_str(&text),
                        _ => top.nodes.push(Node::Text(text)),
                    }
                }
            }
            rxml::Event::EndElement(_) => match self.stack.pop() {
                None => found.push(Piece::Close),
                Some(done) => match self.stack.last_mut() {
                    Some(parent) => parent.nodes.push(Node::Element(done)),
                    None => found.push(Piece::Element(done)),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_may_come_byte_by_byte() {
        let text = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                    xmlns:stream='http://etherx.jabber.org/streams' id='x'><message to='a@b'><body>&lt;hi</body>\
                    </message><stream:error/></stream:stream>";
        let mut reader = StreamReader::new();
        let mut pieces = Vec::new();
        for byte in text.as_bytes() {
            pieces.extend(reader.feed(std::slice::from_ref(byte)).unwrap());
        }
        assert_eq!(pieces.len(), 4);
        let Piece::Element(message) = &pieces[1] else { panic!("{pieces:?}") };
        assert_eq!(message.body().as_deref(), Some("<hi"));
        assert_eq!(message.to_string(), "<message to='a@b'><body>&lt;hi</body></message>");
        let Piece::Element(error) = &pieces[2] else { panic!("{pieces:?}") };
        assert!(error.is("error", STREAM));
        assert_eq!(pieces[3], Piece::Close);
    }

    #[test]
    fn what_is_not_well_formed_is_an_error() {
        assert!(Element::parse("<a><b></a>").is_err());
        assert!(Element::parse("<a x='1' x='2'/>").is_err());
        assert!(Element::parse("<p:a/>").is_err());
        assert!(Element::parse("<a/><b/>").is_err());
    }
}
