//! An element as a tree, made on request: for IQ payloads, negotiation and the rare slow paths. Messages between users
//! never come here; they stay bytes (`stanza`). Called by features and `stream`; calls `parse` and `write`.
//!
//! Names are expanded (namespace and local name); prefixes are gone. Attributes of no namespace are known by their
//! name, `xml:lang` and its kin by that prefixed name, all others by namespace and name. Nothing here recurses on what
//! a peer sent.

use std::fmt;
use std::sync::Arc;

use crate::ns;
use crate::stream::error::StreamError;
use crate::xml::chars::trim;
use crate::xml::framer::{Framer, Limits, Scan};
use crate::xml::{parse, write};

/// One element with its attributes and content.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    name: String,
    ns: Arc<str>,
    attrs: Vec<Attr>,
    nodes: Vec<Node>,
}

/// One piece of content. Adjacent texts are one node after parsing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Character data, unescaped.
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attr {
    ns: Option<Arc<str>>,
    name: String,
    value: String,
}

impl Element {
    /// An empty element.
    #[must_use]
    pub fn new(name: &str, ns: &str) -> Element {
        Element::shared(name.to_owned(), Arc::from(ns))
    }

    pub(crate) fn shared(name: String, ns: Arc<str>) -> Element {
        Element { name, ns, attrs: Vec::new(), nodes: Vec::new() }
    }

    /// Reads exactly one element, white space around it allowed. Where nothing is declared the namespace is
    /// `jabber:client`. Everything the framer refuses is refused.
    pub fn parse(bytes: &[u8]) -> Result<Element, StreamError> {
        let bytes = trim(bytes);
        match Framer::standalone(Limits::TRUSTED).scan(bytes)? {
            Scan::Element(length, _) if length == bytes.len() => {
                parse::element(bytes, &parse::Scope::client())
            }
            _ => Err(StreamError::not_well_formed()),
        }
    }

    /// The local name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace; empty for none.
    #[must_use]
    pub fn ns(&self) -> &str {
        &self.ns
    }

    /// Whether it has this expanded name.
    #[must_use]
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && *self.ns == *ns
    }

    /// The value of an attribute of no namespace, or of `xml:lang` and its kin.
    #[must_use]
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|a| a.ns.is_none() && a.name == name).map(|a| a.value.as_str())
    }

    /// The value of an attribute of a namespace.
    #[must_use]
    pub fn attr_ns(&self, ns: &str, name: &str) -> Option<&str> {
        self.attrs
            .iter()
            .find(|a| a.ns.as_deref() == Some(ns) && a.name == name)
            .map(|a| a.value.as_str())
    }

    /// Attributes of no namespace (and `xml:…`), in order.
    pub fn attrs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attrs.iter().filter(|a| a.ns.is_none()).map(|a| (a.name.as_str(), a.value.as_str()))
    }

    /// Every attribute as namespace (empty for none), local name and value, in order.
    pub fn all_attrs(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.attrs.iter().map(|attr| match (&attr.ns, attr.name.strip_prefix("xml:")) {
            (Some(ns), _) => (&**ns, attr.name.as_str(), attr.value.as_str()),
            (None, Some(local)) => (ns::XML, local, attr.value.as_str()),
            (None, None) => ("", attr.name.as_str(), attr.value.as_str()),
        })
    }

    /// Sets an attribute of no namespace (or `xml:lang`), replacing an older value.
    pub fn set_attr(&mut self, name: &str, value: &str) {
        match self.attrs.iter_mut().find(|a| a.ns.is_none() && a.name == name) {
            Some(attr) => value.clone_into(&mut attr.value),
            None => {
                self.attrs.push(Attr { ns: None, name: name.to_owned(), value: value.to_owned() })
            }
        }
    }

    /// Removes an attribute of no namespace and gives its value back.
    pub fn remove_attr(&mut self, name: &str) -> Option<String> {
        let at = self.attrs.iter().position(|a| a.ns.is_none() && a.name == name)?;
        Some(self.attrs.remove(at).value)
    }

    pub(crate) fn push_attr(&mut self, ns: Option<Arc<str>>, name: &str, value: String) {
        self.attrs.push(Attr { ns, name: name.to_owned(), value });
    }

    /// Sets an attribute of a namespace, replacing an older value.
    pub fn set_attr_ns(&mut self, ns: &str, name: &str, value: &str) {
        let same = |attr: &&mut Attr| attr.ns.as_deref() == Some(ns) && attr.name == name;
        match self.attrs.iter_mut().find(same) {
            Some(attr) => value.clone_into(&mut attr.value),
            None => self.push_attr(Some(Arc::from(ns)), name, value.to_owned()),
        }
    }

    /// Moves every element of one namespace in the tree to another.
    pub fn rename_ns(&mut self, old: &str, new: &str) {
        if old == new {
            return;
        }
        let new: Arc<str> = Arc::from(new);
        let mut pending = vec![self];
        while let Some(element) = pending.pop() {
            if *element.ns == *old {
                element.ns = new.clone();
            }
            pending.extend(element.children_mut());
        }
    }

    /// Itself with one more attribute.
    #[must_use]
    pub fn with_attr(mut self, name: &str, value: &str) -> Element {
        self.set_attr(name, value);
        self
    }

    /// Itself with one more attribute, if there is a value.
    #[must_use]
    pub fn with_attr_opt(self, name: &str, value: Option<&str>) -> Element {
        match value {
            Some(value) => self.with_attr(name, value),
            None => self,
        }
    }

    /// Itself with `text` appended.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Element {
        self.push_text(text);
        self
    }

    /// Itself with a child appended.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Element {
        self.push_child(child);
        self
    }

    /// Itself with children appended.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = Element>) -> Element {
        self.nodes.extend(children.into_iter().map(Node::Element));
        self
    }

    /// Appends text.
    pub fn push_text(&mut self, text: &str) {
        match self.nodes.last_mut() {
            Some(Node::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.nodes.push(Node::Text(text.to_owned())),
        }
    }

    /// Appends a child.
    pub fn push_child(&mut self, child: Element) {
        self.nodes.push(Node::Element(child));
    }

    /// The first child of this expanded name.
    #[must_use]
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children().find(|child| child.is(name, ns))
    }

    /// Whether there is a child of this expanded name.
    #[must_use]
    pub fn has_child(&self, name: &str, ns: &str) -> bool {
        self.child(name, ns).is_some()
    }

    /// The children that are elements, in order.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The same, to be changed.
    pub fn children_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The children by value.
    #[must_use]
    pub fn into_children(mut self) -> Vec<Element> {
        let nodes = std::mem::take(&mut self.nodes);
        let elements = nodes.into_iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        });
        elements.collect()
    }

    /// Keeps only the children for which `keep` holds; text stays.
    pub fn retain_children(&mut self, mut keep: impl FnMut(&Element) -> bool) {
        self.nodes.retain(|node| match node {
            Node::Element(element) => keep(element),
            Node::Text(_) => true,
        });
    }

    /// All content in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The text directly in it, joined.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self.nodes.iter().map(|node| match node {
            Node::Text(text) => text.as_str(),
            Node::Element(_) => "",
        });
        texts.collect()
    }

    /// Appends the element as bytes that stand in `jabber:client`: `xmlns` is written only where the namespace differs
    /// from the parent's.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_in(out, ns::CLIENT);
    }

    /// Appends the element as bytes that stand in the default namespace `parent_ns`.
    pub fn write_in(&self, out: &mut Vec<u8>, parent_ns: &str) {
        // Each entry: an open element, the default namespace in it, how many of its nodes are written.
        let mut open: Vec<(&Element, &str, usize)> = Vec::new();
        let mut next = Some((self, parent_ns));
        loop {
            if let Some((element, outside)) = next.take() {
                element.write_start(out, outside);
                if !element.nodes.is_empty() {
                    open.push((element, element.default_ns(outside), 0));
                }
            }
            let Some((element, default, done)) = open.last_mut() else { return };
            match element.nodes.get(*done) {
                Some(Node::Text(text)) => write::escape_text(out, text),
                Some(Node::Element(child)) => next = Some((child, default)),
                None => {
                    out.extend_from_slice(b"</");
                    element.write_name(out);
                    out.push(b'>');
                    open.pop();
                    continue;
                }
            }
            *done += 1;
        }
    }

    /// What is the default namespace within it. The namespace of `xml` is never one (XML Namespaces §3).
    fn default_ns<'a>(&'a self, outside: &'a str) -> &'a str {
        if *self.ns == *ns::XML { outside } else { &self.ns }
    }

    fn write_name(&self, out: &mut Vec<u8>) {
        if *self.ns == *ns::XML {
            out.extend_from_slice(b"xml:");
        }
        out.extend_from_slice(self.name.as_bytes());
    }

    /// Writes the start tag, or the whole empty element.
    fn write_start(&self, out: &mut Vec<u8>, outside: &str) {
        out.push(b'<');
        self.write_name(out);
        let default = self.default_ns(outside);
        if default != outside {
            write::attr(out, "xmlns", default);
        }
        for (index, attr) in self.attrs.iter().enumerate() {
            match &attr.ns {
                None => write::attr(out, &attr.name, &attr.value),
                Some(ns) => {
                    write::attr(out, &format!("xmlns:a{index}"), ns);
                    write::attr(out, &format!("a{index}:{}", attr.name), &attr.value);
                }
            }
        }
        out.extend_from_slice(if self.nodes.is_empty() { b"/>" } else { b">" });
    }

    /// The element as bytes that stand in `jabber:client`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out);
        out
    }
}

impl Drop for Element {
    /// Takes deep trees apart without recursion.
    fn drop(&mut self) {
        let mut pending = std::mem::take(&mut self.nodes);
        while let Some(node) = pending.pop() {
            if let Node::Element(mut element) = node {
                pending.append(&mut element.nodes);
            }
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(input: &str) -> String {
        Element::parse(input.as_bytes()).expect("well-formed").to_string()
    }

    #[test]
    fn namespaces_are_written_only_where_they_change() {
        assert_eq!(
            round(
                "<iq xmlns='jabber:client'><q:query xmlns:q='a'><q:item/><none xmlns=''/></q:query><body/></iq>"
            ),
            "<iq><query xmlns='a'><item/><none xmlns=''/></query><body/></iq>"
        );
    }

    #[test]
    fn text_is_unescaped_once_and_escaped_once() {
        let element = Element::parse(b"<b>&lt;&#x41;&amp;amp;<![CDATA[<&]]>\r\n</b>").unwrap();
        assert_eq!(element.text(), "<A&amp;<&\n");
        assert_eq!(element.to_string(), "<b>&lt;A&amp;amp;&lt;&amp;\n</b>");
    }

    /// XML 1.0 §2.11. The parser that ours is judged against does not behind a bracket.
    #[test]
    fn line_ends_in_cdata_are_line_feeds() {
        let element = Element::parse(b"<b><![CDATA[\r]\r\n]]\r&#13;]]></b>").unwrap();
        assert_eq!(element.text(), "\n]\n]]\n&#13;");
    }

    #[test]
    fn attributes_of_namespaces_keep_them() {
        let element =
            Element::parse(b"<b xml:lang='de' xmlns:p='urn:p' p:k='1&#10;2' k='\n'/>").unwrap();
        assert_eq!(element.attr("xml:lang"), Some("de"));
        assert_eq!(element.attr_ns("urn:p", "k"), Some("1\n2"));
        assert_eq!(element.attr("k"), Some(" "));
        assert_eq!(Element::parse(element.to_string().as_bytes()).unwrap(), element);
    }

    #[test]
    fn malformed_input_is_a_value() {
        for bad in [
            "",
            "x",
            "<a",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a b/>",
            "<a b='1' b='2'/>",
            "<p:a/>",
            "<a>&x;</a>",
            "<!--x--><a/>",
            "<a>]]></a>",
        ] {
            assert!(Element::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tree_too_deep_for_the_stack_is_dropped() {
        let mut element = Element::new("a", "");
        for _ in 0..200_000 {
            element = Element::new("a", "").with_child(element);
        }
        drop(element);
    }
}
