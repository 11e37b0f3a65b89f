//! Bytes to whole top-level elements, without a tree. What leaves here is forwarded to other users as it came, so it is
//! proved first: well-formed (XML 1.0), namespace-well-formed (XML Namespaces), restricted (RFC 6120 §11.1), UTF-8,
//! within limits. Called by sessions, links and `Stanza::parse`; calls `piece`, `tag` and `chars`.
//!
//! Linear however the bytes arrive: each token is looked at as a whole once, when it is complete, and the search for
//! its end goes on where it stopped. The verdict does not depend on how the bytes were cut. Deliberately absent: what
//! the elements mean.

use std::sync::{Arc, LazyLock};

use crate::ns;
use crate::stanza::header::Head;
use crate::stream::error::{StreamCondition, StreamError};
use crate::xml::chars::{are_legal, is_space, trim_end};
use crate::xml::element::Element;
use crate::xml::parse::{self, Scope, unescape_attr};
use crate::xml::piece::{Context, Piece, resolve};
use crate::xml::tag::{MALFORMED, RESTRICTED, Stop, Tag, find_end};

/// Bounds on one top-level element (or the stream header). Beyond any of them: `policy-violation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from `<` to `>`.
    pub element_bytes: u32,
    /// Elements in it, itself included.
    pub elements: u32,
    /// Elements open at once, itself included.
    pub depth: u16,
    /// Attributes of one tag, namespace declarations included.
    pub attributes: u16,
    /// Namespace declarations of one tag; eight times as many may be in scope.
    pub namespaces: u16,
    /// Bytes of one name, and of one namespace.
    pub name_bytes: u16,
}

impl Limits {
    /// Before authentication.
    pub const PRE_AUTH: Limits = Limits {
        element_bytes: 8 << 10,
        elements: 32,
        depth: 8,
        attributes: 64,
        namespaces: 32,
        name_bytes: 1 << 10,
    };
    /// From an authenticated client or server. RFC 6120 §13.12 asks for at least 10 000 bytes.
    pub const STANZA: Limits =
        Limits { element_bytes: 256 << 10, elements: 4096, depth: 64, ..Limits::PRE_AUTH };
    /// Between nodes while they negotiate.
    pub const LINK: Limits =
        Limits { element_bytes: 64 << 10, elements: 256, depth: 16, ..Limits::PRE_AUTH };
    /// What this server wrote itself: a stanza may have grown by what was added to it.
    pub const TRUSTED: Limits = Limits {
        element_bytes: 16 << 20,
        elements: 1 << 17,
        depth: 200,
        attributes: 256,
        namespaces: 128,
        name_bytes: 4 << 10,
    };
}

/// What the peer's stream header says (RFC 6120 §4.7). The namespace of the root is checked already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamHeader {
    /// Whom the peer addresses, unprepared.
    pub to: Option<String>,
    /// Who the peer says it is, unprepared.
    pub from: Option<String>,
    /// The stream id, from a receiving entity.
    pub id: Option<String>,
    /// Major and minor; `None` if missing or malformed.
    pub version: Option<(u16, u16)>,
    /// `xml:lang`.
    pub lang: Option<String>,
    /// The default namespace: `jabber:client`, `jabber:server`, … or empty.
    pub content_ns: String,
    /// Whether the root declares the dialback namespace (XEP-0220).
    pub dialback: bool,
}

/// What `scan` found at the start of its input, and how many bytes of it that took.
#[derive(Debug)]
// An element is what nearly every scan finds: boxing it would cost what the framer saves.
#[allow(clippy::large_enum_variant)]
pub enum Scan {
    /// Nothing whole yet: keep the bytes, call again with more behind them.
    More,
    /// White space between elements, an XML declaration, or bytes after the end: to be dropped.
    Space(usize),
    /// The stream header.
    Open(usize, Box<StreamHeader>),
    /// A whole top-level element.
    Element(usize, Head),
    /// The closing stream tag. Whatever follows is `Space`.
    Close(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the XML declaration, which may be missing.
    Start,
    /// Before the stream header.
    Header,
    /// Between top-level elements.
    Content,
    /// After the closing tag, or an error.
    Closed,
}

/// The state between two looks at the bytes. Small while nothing is half read.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    place: Place,
    standalone: bool,
    scope: Arc<Scope>,
    /// An element, or the header, whose end has not come yet.
    unfinished: Option<Box<Piece>>,
}

/// What nearly every stream root declares, shared by all of them.
static COMMON: LazyLock<[Arc<Scope>; 4]> = LazyLock::new(|| {
    let scope = |default: &str, prefixes: &[(&str, &str)]| {
        let prefixes = prefixes.iter().map(|(p, uri)| (Box::from(*p), Arc::from(*uri))).collect();
        Arc::new(Scope { default: Arc::from(default), prefixes, root: Box::from("stream:stream") })
    };
    [
        scope(ns::CLIENT, &[]),
        scope(ns::CLIENT, &[("stream", ns::STREAM)]),
        scope(ns::SERVER, &[("stream", ns::STREAM)]),
        scope(ns::SERVER, &[("stream", ns::STREAM), ("db", ns::DIALBACK)]),
    ]
});

impl Framer {
    /// For a byte stream: an XML declaration if there is one, a stream header, elements, a closing tag.
    #[must_use]
    pub fn stream(limits: Limits) -> Framer {
        Framer {
            limits,
            place: Place::Start,
            standalone: false,
            scope: COMMON[0].clone(),
            unfinished: None,
        }
    }

    /// For elements without a root around them (WebSocket, BOSH, storage), in `jabber:client` unless they say otherwise.
    #[must_use]
    pub fn standalone(limits: Limits) -> Framer {
        Framer { place: Place::Content, standalone: true, ..Framer::stream(limits) }
    }

    /// Other bounds, from the next look on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Forgets the stream and expects a new header: after STARTTLS and after SASL success. No effect on the limits.
    pub fn restart(&mut self) {
        *self = if self.standalone {
            Framer::standalone(self.limits)
        } else {
            Framer::stream(self.limits)
        };
    }

    /// Looks at `input`, which begins with the first byte not yet taken. Finds at most one thing; call again after
    /// dropping what was taken, until there is `More` to wait for.
    ///
    /// # Errors
    /// The stream error to close with. Afterwards everything is `Space`.
    pub fn scan(&mut self, input: &[u8]) -> Result<Scan, StreamError> {
        // What lies beyond the limit is never looked at, so the verdict is the same whether or not it has arrived.
        let window = &input[..input.len().min(self.limits.element_bytes as usize)];
        let stop = match self.look(window) {
            Err(Stop::More) if window.len() == input.len() => return Ok(Scan::More),
            Err(Stop::More) => StreamCondition::PolicyViolation,
            Err(Stop::Wrong(condition)) => condition,
            Ok(found) => return Ok(found),
        };
        self.place = Place::Closed;
        self.unfinished = None;
        Err(StreamError::new(stop))
    }

    /// A tree of an element that `scan` found on this stream.
    ///
    /// # Errors
    /// Only if `piece` is something else.
    pub fn element(&self, piece: &[u8]) -> Result<Element, StreamError> {
        parse::element(piece, &self.scope)
    }

    fn look(&mut self, input: &[u8]) -> Result<Scan, Stop> {
        if self.place == Place::Closed && !input.is_empty() {
            return Ok(Scan::Space(input.len()));
        }
        let first = *input.first().ok_or(Stop::More)?;
        if is_space(first) {
            return Ok(Scan::Space(input.iter().take_while(|&&b| is_space(b)).count()));
        }
        if first != b'<' {
            return Err(Stop::Wrong(self.stray(first)));
        }
        let second = *input.get(1).ok_or(Stop::More)?;
        match (self.place, second) {
            (Place::Start, b'?') => self.declaration(input),
            (_, b'?') => Err(RESTRICTED),
            (Place::Start | Place::Header, _) => self.header(input),
            (Place::Content, b'/') if !self.standalone => self.closing(input),
            (Place::Content | Place::Closed, _) => self.top_level(input),
        }
    }

    /// What is wrong with a byte that starts neither a tag nor white space.
    fn stray(&self, byte: u8) -> StreamCondition {
        match (self.place, byte) {
            // How UTF-16 begins, with a byte order mark or without.
            (Place::Start, 0 | 0xfe | 0xff) => StreamCondition::UnsupportedEncoding,
            (Place::Content, 0x21..=0x7e) if !self.standalone => StreamCondition::BadFormat,
            _ => StreamCondition::NotWellFormed,
        }
    }

    fn top_level(&mut self, input: &[u8]) -> Result<Scan, Stop> {
        let context = Context { input, limits: &self.limits, scope: &self.scope };
        match self.unfinished.take() {
            None => {
                let mut piece = Piece::default();
                match piece.advance(&context) {
                    Ok(end) => Ok(Scan::Element(end, piece.head)),
                    Err(Stop::More) => {
                        self.unfinished = Some(Box::new(piece));
                        Err(Stop::More)
                    }
                    Err(wrong) => Err(wrong),
                }
            }
            Some(mut piece) => match piece.advance(&context) {
                Ok(end) => Ok(Scan::Element(end, piece.head)),
                Err(stop) => {
                    self.unfinished = Some(piece);
                    Err(stop)
                }
            },
        }
    }

    /// The end of the tag that begins `input`, searched for from where the last look ended.
    fn tag_end(&mut self, input: &[u8]) -> Result<usize, Stop> {
        let mut piece = self.unfinished.take().unwrap_or_default();
        let from = (piece.seen as usize).max(1);
        match find_end(input, from, &mut piece.quote) {
            Err(Stop::More) => {
                piece.seen = input.len() as u32;
                self.unfinished = Some(piece);
                Err(Stop::More)
            }
            other => other,
        }
    }

    fn declaration(&mut self, input: &[u8]) -> Result<Scan, Stop> {
        if !input.starts_with(&b"<?xml"[..input.len().min(5)]) {
            return Err(RESTRICTED);
        }
        let end = self.tag_end(input)?;
        check_declaration(&input[..end])?;
        self.place = Place::Header;
        Ok(Scan::Space(end))
    }

    fn closing(&mut self, input: &[u8]) -> Result<Scan, Stop> {
        let end = self.tag_end(input)?;
        let name = trim_end(&input[2..end - 1]);
        if name != self.scope.root.as_bytes() {
            return Err(MALFORMED);
        }
        self.place = Place::Closed;
        Ok(Scan::Close(end))
    }

    fn header(&mut self, input: &[u8]) -> Result<Scan, Stop> {
        if matches!(input[1], b'!') {
            return match input.get(2) {
                Some(b'-' | b'D') => Err(RESTRICTED),
                Some(_) => Err(MALFORMED),
                None => Err(Stop::More),
            };
        }
        let end = self.tag_end(input)?;
        let input = &input[..end];
        if !are_legal(input) {
            return Err(MALFORMED);
        }
        let mut tag = Tag::default();
        match tag.read(input, 0, &self.limits) {
            Err(Stop::More) => return Err(MALFORMED),
            other => other?,
        }
        let (header, scope) = read_header(input, &tag, &self.limits)?;
        let shared = COMMON[1..].iter().find(|common| ***common == scope).cloned();
        self.scope = shared.unwrap_or_else(|| Arc::new(scope));
        self.place = Place::Content;
        Ok(Scan::Open(end, Box::new(header)))
    }
}

/// Reads the root's start tag: its name and namespace must be right, the rest is for the negotiation to judge.
fn read_header(input: &[u8], tag: &Tag, limits: &Limits) -> Result<(StreamHeader, Scope), Stop> {
    let nothing = Scope { default: Arc::from(""), prefixes: Vec::new(), root: Box::default() };
    let context = Context { input, limits, scope: &Arc::new(nothing) };
    let (mut decls, mut portable) = (smallvec::SmallVec::new(), true);
    let declared = resolve(&context, tag, &mut decls, 1, &mut portable)?;
    if tag.name.local().of(input) != b"stream" {
        return Err(Stop::Wrong(StreamCondition::BadFormat));
    }
    let uri = declared.element.map(|span| span.text(input));
    if uri != Some(ns::STREAM) {
        return Err(Stop::Wrong(StreamCondition::InvalidNamespace));
    }
    if tag.empty {
        return Err(Stop::Wrong(StreamCondition::BadFormat));
    }
    let mut header = StreamHeader::default();
    let mut scope = Scope {
        root: Box::from(tag.name.whole.text(input)),
        default: Arc::from(""),
        prefixes: Vec::new(),
    };
    for attr in &tag.attrs {
        let value = unescape_attr(attr.value.text(input)).ok_or(MALFORMED)?;
        match attr.name.whole.of(input) {
            b"to" => header.to = Some(value.into_owned()),
            b"from" => header.from = Some(value.into_owned()),
            b"id" => header.id = Some(value.into_owned()),
            b"version" => header.version = version(&value),
            b"xml:lang" => header.lang = Some(value.into_owned()),
            b"xmlns" => {
                scope.default = Arc::from(&*value);
                header.content_ns = value.into_owned();
            }
            b"xmlns:xml" => {}
            name if name.starts_with(b"xmlns:") => {
                header.dialback |= value == ns::DIALBACK;
                scope.prefixes.push((Box::from(attr.name.local().text(input)), Arc::from(&*value)));
            }
            _ => {}
        }
    }
    Ok((header, scope))
}

/// `major.minor`, decimal (RFC 6120 §4.7.5).
fn version(value: &str) -> Option<(u16, u16)> {
    let (major, minor) = value.split_once('.')?;
    let number = |digits: &str| {
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    Some((number(major)?, number(minor)?))
}

/// `<?xml version='1.0' encoding='UTF-8' standalone='yes'?>` (XML 1.0 §2.8), the last two optional.
fn check_declaration(input: &[u8]) -> Result<(), Stop> {
    let text = std::str::from_utf8(input).map_err(|_| MALFORMED)?;
    let mut rest =
        text.strip_prefix("<?xml").and_then(|rest| rest.strip_suffix("?>")).ok_or(MALFORMED)?;
    let mut expected: &[&str] = &["version", "encoding", "standalone"];
    loop {
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if trimmed.is_empty() {
            // The version is not optional.
            return if expected.len() < 3 { Ok(()) } else { Err(MALFORMED) };
        }
        if trimmed.len() == rest.len() {
            return Err(MALFORMED);
        }
        let (key, after) = trimmed.split_once('=').ok_or(MALFORMED)?;
        let key = key.trim_end_matches([' ', '\t', '\r', '\n']);
        let after = after.trim_start_matches([' ', '\t', '\r', '\n']);
        let quote = after.chars().next().filter(|q| matches!(q, '\'' | '"')).ok_or(MALFORMED)?;
        let (value, after) = after[1..].split_once(quote).ok_or(MALFORMED)?;
        let at = expected.iter().position(|&name| name == key).ok_or(MALFORMED)?;
        if at > 0 && expected.len() == 3 {
            return Err(MALFORMED);
        }
        match key {
            "version" if value == "1.0" => {}
            "encoding" if value.eq_ignore_ascii_case("utf-8") => {}
            "encoding" => return Err(Stop::Wrong(StreamCondition::UnsupportedEncoding)),
            "standalone" if matches!(value, "yes" | "no") => {}
            _ => return Err(MALFORMED),
        }
        expected = &expected[at + 1..];
        rest = after;
    }
}
