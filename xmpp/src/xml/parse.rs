//! Bytes to `Element`. The framer has proved them, or does so here; what remains is to resolve names and references.
//! Called by `element` and `framer`. XML 1.0 §2.11 (line ends), §3.3.3 (attribute values), XML Namespaces §6.

use std::borrow::Cow;
use std::sync::Arc;

use crate::ns;
use crate::stream::error::StreamError;
use crate::xml::chars::has_any;
use crate::xml::element::Element;
use crate::xml::write::is_xml_char;

/// What is declared around an element: the stream root's namespaces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The default namespace; empty for none.
    pub(crate) default: Arc<str>,
    /// Prefixes and their namespaces.
    pub(crate) prefixes: Vec<(Box<str>, Arc<str>)>,
    /// The name of the root as written, for the closing tag.
    pub(crate) root: Box<str>,
}

impl Scope {
    /// Nothing declared; the default namespace is `jabber:client`.
    #[must_use]
    pub(crate) fn client() -> Scope {
        Scope { default: Arc::from(ns::CLIENT), prefixes: Vec::new(), root: Box::default() }
    }

    /// Whether stanzas stand in the default namespace.
    pub(crate) fn is_content(&self) -> bool {
        is_content_ns(self.default.as_bytes())
    }

    /// Whether an element of this namespace is a stanza here: of the default namespace, if stanzas stand in that.
    pub(crate) fn is_content_ns(&self, uri: &[u8]) -> bool {
        is_content_ns(uri) && (uri == self.default.as_bytes() || !self.is_content())
    }
}

fn is_content_ns(uri: &[u8]) -> bool {
    uri == ns::CLIENT.as_bytes() || uri == ns::SERVER.as_bytes() || uri == ns::COMPONENT.as_bytes()
}

/// How deep a tree may be: more than any framer admits, little enough for any stack.
const DEPTH_MAX: usize = 256;

fn wrong() -> StreamError {
    StreamError::not_well_formed()
}

/// Reads one element that stands in `scope`, white space around it allowed.
pub(crate) fn element(bytes: &[u8], scope: &Scope) -> Result<Element, StreamError> {
    let input = std::str::from_utf8(bytes).map_err(|_| wrong())?;
    let mut reader =
        Reader { rest: input.trim_matches([' ', '\t', '\r', '\n']), scope, declared: Vec::new() };
    let mut open: Vec<(Element, &str, usize)> = Vec::new();
    loop {
        if let Some((element, _, _)) = open.last_mut() {
            let text = reader.text()?;
            if !text.is_empty() {
                element.push_text(&text);
            }
        }
        let finished = if let Some(rest) = reader.rest.strip_prefix("</") {
            let (name, rest) = rest.split_once('>').ok_or_else(wrong)?;
            let (element, opened, declared) = open.pop().ok_or_else(wrong)?;
            if name.trim_end_matches([' ', '\t', '\r', '\n']) != opened {
                return Err(wrong());
            }
            reader.rest = rest;
            reader.declared.truncate(declared);
            element
        } else {
            let declared = reader.declared.len();
            let (element, name, empty) = reader.start()?;
            if !empty {
                if open.len() == DEPTH_MAX {
                    return Err(StreamError::policy_violation());
                }
                open.push((element, name, declared));
                continue;
            }
            reader.declared.truncate(declared);
            element
        };
        match open.last_mut() {
            Some((parent, _, _)) => parent.push_child(finished),
            None if reader.rest.is_empty() => return Ok(finished),
            None => return Err(wrong()),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    scope: &'a Scope,
    declared: Vec<(&'a str, Arc<str>)>,
}

impl<'a> Reader<'a> {
    /// Character data up to the next tag, unescaped; may be empty.
    fn text(&mut self) -> Result<String, StreamError> {
        let mut text = String::new();
        loop {
            let end = self.rest.find('<').ok_or_else(wrong)?;
            let (raw, rest) = self.rest.split_at(end);
            text.push_str(&unescape_text(raw).ok_or_else(wrong)?);
            self.rest = rest;
            let Some(section) = rest.strip_prefix("<![CDATA[") else { return Ok(text) };
            let (raw, rest) = section.split_once("]]>").ok_or_else(wrong)?;
            text.push_str(&line_ends(raw));
            self.rest = rest;
        }
    }

    /// A start tag: the element, its name as written, and whether it is empty.
    fn start(&mut self) -> Result<(Element, &'a str, bool), StreamError> {
        let mut rest = self.rest.strip_prefix('<').ok_or_else(wrong)?;
        let end = rest.find([' ', '\t', '\r', '\n', '/', '>']).ok_or_else(wrong)?;
        let name;
        (name, rest) = rest.split_at(end);
        let mut attrs: Vec<(&str, Cow<'a, str>)> = Vec::new();
        let empty = loop {
            rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
            if let Some(after) = rest.strip_prefix('>') {
                rest = after;
                break false;
            }
            if let Some(after) = rest.strip_prefix("/>") {
                rest = after;
                break true;
            }
            let (key, after) = rest.split_once('=').ok_or_else(wrong)?;
            let key = key.trim_end_matches([' ', '\t', '\r', '\n']);
            let after = after.trim_start_matches([' ', '\t', '\r', '\n']);
            let quote =
                after.chars().next().filter(|q| matches!(q, '\'' | '"')).ok_or_else(wrong)?;
            let (raw, after) = after[1..].split_once(quote).ok_or_else(wrong)?;
            let value = unescape_attr(raw).ok_or_else(wrong)?;
            if key.is_empty() || attrs.iter().any(|(k, _)| *k == key) {
                return Err(wrong());
            }
            if key == "xmlns" {
                self.declared.push(("", Arc::from(&*value)));
            } else if let Some(prefix) = key.strip_prefix("xmlns:") {
                self.declared.push((prefix, Arc::from(&*value)));
            } else {
                attrs.push((key, value));
            }
            rest = after;
        };
        self.rest = rest;
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        if local.is_empty() {
            return Err(wrong());
        }
        let mut element = Element::shared(local.to_owned(), self.resolve(prefix)?);
        for (key, value) in attrs {
            match key.split_once(':') {
                None | Some(("xml", _)) => element.push_attr(None, key, value.into_owned()),
                Some((prefix, local)) => {
                    element.push_attr(Some(self.resolve(prefix)?), local, value.into_owned())
                }
            }
        }
        Ok((element, name, empty))
    }

    fn resolve(&self, prefix: &str) -> Result<Arc<str>, StreamError> {
        if let Some((_, uri)) = self.declared.iter().rev().find(|(p, _)| *p == prefix) {
            return Ok(uri.clone());
        }
        match prefix {
            "" => Ok(self.scope.default.clone()),
            "xml" => Ok(Arc::from(ns::XML)),
            _ => {
                let found = self.scope.prefixes.iter().find(|(p, _)| **p == *prefix);
                found.map(|(_, uri)| uri.clone()).ok_or_else(wrong)
            }
        }
    }
}

/// Line ends as XML 1.0 §2.11 has them read.
fn line_ends(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\r') {
        return Cow::Borrowed(raw);
    }
    Cow::Owned(raw.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Character data without references, line ends normalised. `None` for a reference XMPP does not know.
pub(crate) fn unescape_text(raw: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr2(b'&', b'\r', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let raw = line_ends(raw);
    Some(Cow::Owned(dereference(&raw)?))
}

/// An attribute value without references, white space normalised. `None` for a reference XMPP does not know.
pub(crate) fn unescape_attr(raw: &str) -> Option<Cow<'_, str>> {
    if !has_any(raw.as_bytes(), |b| (b == b'&') | (b < b' ')) {
        return Some(Cow::Borrowed(raw));
    }
    let raw = line_ends(raw).replace(['\n', '\t'], " ");
    Some(Cow::Owned(dereference(&raw)?))
}

fn dereference(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'&', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let (name, after) = rest[at + 1..].split_once(';')?;
        out.push(reference(name.as_bytes())?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// The character that `&name;` stands for: one of the five of XML 1.0 §4.6, or a number.
pub(crate) fn reference(name: &[u8]) -> Option<char> {
    match name {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        [b'#', b'x', digits @ ..] => number(digits, 16),
        [b'#', digits @ ..] => number(digits, 10),
        _ => None,
    }
}

fn number(digits: &[u8], radix: u32) -> Option<char> {
    if digits.is_empty() {
        return None;
    }
    let mut value: u32 = 0;
    for &digit in digits {
        value = value.checked_mul(radix)?.checked_add(char::from(digit).to_digit(radix)?)?;
    }
    char::from_u32(value).filter(|&c| is_xml_char(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_references_must_be_legal_characters() {
        let check = |name: &str, expected: Option<char>| {
            assert_eq!(reference(name.as_bytes()), expected, "{name}")
        };
        check("#65", Some('A'));
        check("#x1F600", Some('\u{1F600}'));
        check("#0000000065", Some('A'));
        check("#X41", None);
        check("#", None);
        check("#x", None);
        check("#0", None);
        check("#xD800", None);
        check("#xFFFE", None);
        check("#x110000", None);
        check("#99999999999", None);
        check("#-1", None);
        check("nbsp", None);
    }
}
