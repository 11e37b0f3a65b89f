//! One file of a document as XML: names resolved, lines counted, bounds kept. Over quick-xml; called by `read`.
//!
//! Refused, all with their line: what is not well-formed, document type declarations and every entity that is not one of
//! XML's five, undeclared prefixes, encodings other than UTF-8, what is too long or too deep. Comments and processing
//! instructions are passed over.

use std::io::{self, BufRead, BufReader, Read};

use quick_xml::NsReader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use xmpp::ns;
use xmpp::xml::element::Element;
use xmpp::xml::write::is_xml_char;

use super::{DEPTH_MAX, TOKEN_BYTES_MAX, Wrong};

/// A start tag.
pub(super) struct Tag {
    pub(super) ns: String,
    pub(super) name: String,
    /// Namespace (empty for none), local name, value; without declarations.
    pub(super) attrs: Vec<(String, String, String)>,
    /// Where it stands.
    pub(super) line: u64,
}

impl Tag {
    /// An attribute of no namespace.
    pub(super) fn attr(&self, name: &str) -> Option<&str> {
        let found = self.attrs.iter().find(|(ns, known, _)| ns.is_empty() && known == name);
        found.map(|(_, _, value)| value.as_str())
    }

    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let attr =
            |(ns, name, value): &(String, String, String)| ns.len() + name.len() + value.len() + 72;
        self.name.len() + 80 + self.attrs.iter().map(attr).sum::<usize>()
    }

    fn element(&self) -> Element {
        let mut element = Element::new(&self.name, &self.ns);
        for (ns, name, value) in &self.attrs {
            match ns.as_str() {
                "" => element.set_attr(name, value),
                ns::XML => element.set_attr(&format!("xml:{name}"), value),
                ns => element.set_attr_ns(ns, name, value),
            }
        }
        element
    }
}

/// What comes next.
pub(super) enum Piece {
    Start(Tag),
    End,
    /// Some character data; the next piece may be more of it.
    Text(String),
    /// The document is complete.
    Eof,
}

/// See the room.
pub(super) struct Source {
    /// The file's name, for messages.
    file: String,
    reader: NsReader<Counted>,
    buffer: Vec<u8>,
    /// Names of open elements, as written.
    open: Vec<String>,
    /// Where the present piece begins.
    line: u64,
    /// The root has been seen.
    begun: bool,
}

impl Source {
    pub(super) fn new(file: String, from: Box<dyn Read>) -> Source {
        let counted =
            Counted { inner: BufReader::with_capacity(64 << 10, from), lines: 1, token: 0 };
        let mut reader = NsReader::from_reader(counted);
        reader.config_mut().expand_empty_elements = true;
        Source { file, reader, buffer: Vec::new(), open: Vec::new(), line: 1, begun: false }
    }

    /// Something is wrong at a line.
    pub(super) fn wrong_at(&self, line: u64, what: impl Into<String>) -> Wrong {
        Wrong { file: self.file.clone(), line, what: what.into() }
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        self.wrong_at(self.line, what)
    }

    /// The next piece.
    pub(super) fn next(&mut self) -> Result<Piece, Wrong> {
        loop {
            let counted = self.reader.get_mut();
            self.line = counted.lines;
            counted.token = 0;
            self.buffer.clear();
            let mut buffer = std::mem::take(&mut self.buffer);
            let found = self.piece(&mut buffer);
            self.buffer = buffer;
            if let Some(piece) = found? {
                return Ok(piece);
            }
        }
    }

    /// The next event; `None` if it means nothing.
    fn piece(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Piece>, Wrong> {
        let event = match self.reader.read_event_into(buffer) {
            Ok(event) => event,
            Err(error) => return Err(self.wrong(error.to_string())),
        };
        match event {
            Event::Start(start) => {
                if self.open.is_empty() && self.begun {
                    return Err(self.wrong("the document has ended before this"));
                }
                if self.open.len() == DEPTH_MAX {
                    return Err(self.wrong(format!("more than {DEPTH_MAX} elements are open")));
                }
                self.begun = true;
                let tag = self.tag(&start)?;
                self.open.push(start.name().as_ref().to_owned());
                Ok(Some(Piece::Start(tag)))
            }
            Event::End(_) => {
                self.open.pop();
                Ok(Some(Piece::End))
            }
            Event::Empty(_) => unreachable!("empty elements are expanded"),
            Event::Text(text) => self.text(text.xml10_content().into_owned()),
            Event::CData(text) => self.text(text.xml10_content().into_owned()),
            Event::GeneralRef(name) => {
                let text = match name.as_ref() {
                    "lt" => '<',
                    "gt" => '>',
                    "amp" => '&',
                    "apos" => '\'',
                    "quot" => '"',
                    other => match name.resolve_char_ref() {
                        Ok(Some(found)) => found,
                        Ok(None) => {
                            return Err(self.wrong(format!("the entity {other:?} is not expanded")));
                        }
                        Err(error) => return Err(self.wrong(error.to_string())),
                    },
                };
                self.text(text.to_string())
            }
            Event::Comment(_) | Event::PI(_) => Ok(None),
            Event::Decl(declaration) => {
                let encoding = declaration.encoding().and_then(Result::ok);
                match encoding.as_deref() {
                    _ if self.begun => {
                        Err(self.wrong("an XML declaration stands at the beginning"))
                    }
                    Some(name) if !name.eq_ignore_ascii_case("utf-8") => {
                        Err(self.wrong(format!("the encoding {name} is not read, only UTF-8")))
                    }
                    _ => Ok(None),
                }
            }
            Event::DocType(_) => {
                Err(self.wrong("document type declarations (DTD) are refused, and their entities"))
            }
            Event::Eof => match self.open.last() {
                Some(name) => Err(self.wrong(format!("the document ends before </{name}>"))),
                None if !self.begun => Err(self.wrong("there is no document")),
                None => Ok(Some(Piece::Eof)),
            },
        }
    }

    fn text(&self, text: String) -> Result<Option<Piece>, Wrong> {
        let wrong = |at: usize, what: &str| {
            let above = text[..at].matches('\n').count() as u64;
            Err(self.wrong_at(self.line + above, what))
        };
        if let Some(at) = text.find(|c| !is_xml_char(c)) {
            return wrong(at, "a character that XML does not have");
        }
        match text.find(|c: char| !c.is_whitespace()) {
            None if self.open.is_empty() => Ok(None),
            Some(at) if self.open.is_empty() => wrong(at, "text outside of the document"),
            _ => Ok(Some(Piece::Text(text))),
        }
    }

    fn tag(&self, start: &BytesStart<'_>) -> Result<Tag, Wrong> {
        let resolver = self.reader.resolver();
        let resolved = |found: ResolveResult<'_>| match found {
            ResolveResult::Unbound => Ok(String::new()),
            ResolveResult::Bound(ns) => Ok(ns.0.to_owned()),
            ResolveResult::Unknown(prefix) => {
                Err(self.wrong(format!("the prefix {prefix:?} is not declared")))
            }
        };
        let (found, name) = resolver.resolve_element(start.name());
        let mut tag = Tag {
            ns: resolved(found)?,
            name: name.as_ref().to_owned(),
            attrs: Vec::new(),
            line: self.line,
        };
        for attr in start.attributes() {
            let attr = attr.map_err(|error| self.wrong(format!("an attribute: {error}")))?;
            if attr.key.as_namespace_binding().is_some() {
                continue;
            }
            let value = attr
                .normalized_value(XmlVersion::Explicit1_0)
                .map_err(|error| self.wrong(format!("an attribute: {error}")))?;
            if !value.chars().all(is_xml_char) || attr.value.contains('<') {
                return Err(self.wrong("an attribute has a character that XML does not have there"));
            }
            let (found, name) = resolver.resolve_attribute(attr.key);
            tag.attrs.push((resolved(found)?, name.as_ref().to_owned(), value.into_owned()));
        }
        Ok(tag)
    }

    /// Passes over the rest of an element whose start tag has come.
    pub(super) fn skip(&mut self) -> Result<(), Wrong> {
        let outside = self.open.len() - 1;
        while self.open.len() > outside {
            self.next()?;
        }
        Ok(())
    }

    /// The rest of an element whose start tag has come, as a tree. `room` is what its user may still take; when there
    /// is too little the element is passed over, and the answer is `None`.
    pub(super) fn element(
        &mut self,
        tag: &Tag,
        room: &mut usize,
    ) -> Result<Option<Element>, Wrong> {
        let mut take = |bytes: usize| match room.checked_sub(bytes) {
            Some(left) => {
                *room = left;
                true
            }
            None => {
                *room = 0;
                false
            }
        };
        let outside = self.open.len() - 1;
        let mut fits = take(tag.bytes());
        let mut open = vec![tag.element()];
        while self.open.len() > outside {
            let piece = self.next()?;
            if !fits {
                continue;
            }
            match piece {
                Piece::Start(tag) => {
                    fits = take(tag.bytes());
                    open.push(tag.element());
                }
                Piece::Text(text) => {
                    fits = take(text.len());
                    open.last_mut().expect("an element is open").push_text(&text);
                }
                Piece::End if open.len() > 1 => {
                    let done = open.pop().expect("more than one");
                    open.last_mut().expect("more than one was open").push_child(done);
                }
                Piece::End | Piece::Eof => {}
            }
        }
        Ok(open.pop().filter(|_| fits))
    }
}

/// Counts lines, and keeps a single token within its bound.
struct Counted {
    inner: BufReader<Box<dyn Read>>,
    /// The line that the next byte stands in.
    lines: u64,
    /// Bytes since the present piece began.
    token: u64,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(into.len());
        into[..count].copy_from_slice(&found[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.token > TOKEN_BYTES_MAX {
            let text = format!("a tag or a text of more than {TOKEN_BYTES_MAX} bytes");
            return Err(io::Error::other(text));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let taken = &self.inner.buffer()[..count];
        self.lines += memchr::memchr_iter(b'\n', taken).count() as u64;
        self.token += count as u64;
        self.inner.consume(count);
    }
}
