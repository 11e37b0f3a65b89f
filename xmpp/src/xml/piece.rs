//! One top-level element being proved: open elements, declarations in scope, and how far it has been looked at. Called
//! by `framer`; calls `tag` and `chars`. XML 1.0 §3; XML Namespaces §3–6.

use std::borrow::Cow;
use std::sync::Arc;

use memchr::{memchr, memmem};
use smallvec::SmallVec;

use crate::ns;
use crate::stanza::header::{Child, Head, Kind, NsRef, Span, Type};
use crate::xml::chars::{are_legal, find3, has_any, is_space};
use crate::xml::framer::Limits;
use crate::xml::parse::{Scope, unescape_attr};
use crate::xml::tag::{MALFORMED, Name, RESTRICTED, Stop, TOO_MUCH, Tag, find_end, reference_end};

/// What a piece is looked at with.
pub(crate) struct Context<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) limits: &'a Limits,
    pub(crate) scope: &'a Arc<Scope>,
}

/// An open element.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Its name as written.
    name: Span,
    /// How many declarations were in scope outside it.
    decls: u16,
    /// The default namespace inside it.
    default: NsRef,
}

/// A prefix declared within the piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decl {
    prefix: Span,
    uri: Span,
}

pub(crate) type Decls = SmallVec<[Decl; 4]>;

/// The state of one element, from its `<` to its `>`.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// Everything before is proved, except that its characters are legal.
    pos: usize,
    /// Where the current run of text began.
    run: usize,
    /// How far the unfinished token at `pos` has been searched for its end; 0 if that has not begun.
    pub(crate) seen: u32,
    /// The quote open at `seen`, or 0.
    pub(crate) quote: u8,
    elements: u32,
    open: SmallVec<[Open; 8]>,
    decls: Decls,
    pub(crate) head: Head,
}

impl Piece {
    /// Goes on until the end of the element; gives the offset behind it.
    pub(crate) fn advance(&mut self, context: &Context<'_>) -> Result<usize, Stop> {
        let input = context.input;
        let mut tag = Tag::default();
        loop {
            if !self.open.is_empty() {
                self.text(input)?;
            }
            match input.get(self.pos + 1).ok_or(Stop::More)? {
                b'/' => self.end_tag(input)?,
                b'!' => self.section(input)?,
                b'?' => return Err(RESTRICTED),
                _ => self.start_tag(context, &mut tag)?,
            }
            self.seen = 0;
            self.run = self.pos;
            if self.open.is_empty() {
                return if are_legal(&input[..self.pos]) { Ok(self.pos) } else { Err(MALFORMED) };
            }
        }
    }

    /// Goes on to the next `<`.
    #[inline]
    fn text(&mut self, input: &[u8]) -> Result<(), Stop> {
        loop {
            if input.get(self.pos) == Some(&b'<') {
                return Ok(());
            }
            let Some(found) = find3(b'<', b'&', b'>', &input[self.pos..]) else {
                self.pos = input.len();
                return Err(Stop::More);
            };
            self.pos += found;
            match input[self.pos] {
                b'&' => self.pos = reference_end(input, self.pos)?,
                // XML 1.0 §2.4: the end of a CDATA section must not appear in text.
                b'>' if input[self.run..self.pos].ends_with(b"]]") => return Err(MALFORMED),
                b'>' => self.pos += 1,
                _ => return Ok(()),
            }
        }
    }

    fn section(&mut self, input: &[u8]) -> Result<(), Stop> {
        const START: &[u8] = b"<![CDATA[";
        let rest = &input[self.pos..];
        if matches!(rest.get(2).ok_or(Stop::More)?, b'-' | b'D') {
            return Err(RESTRICTED);
        }
        if !rest.starts_with(&START[..rest.len().min(START.len())]) || self.open.is_empty() {
            return Err(MALFORMED);
        }
        let from = (self.pos + START.len()).max((self.seen as usize).saturating_sub(2));
        match input.get(from..).and_then(|rest| memmem::find(rest, b"]]>")) {
            Some(found) => {
                self.pos = from + found + 3;
                Ok(())
            }
            None => {
                self.seen = input.len() as u32;
                Err(Stop::More)
            }
        }
    }

    #[inline]
    fn end_tag(&mut self, input: &[u8]) -> Result<(), Stop> {
        let open = *self.open.last().ok_or(MALFORMED)?;
        let name = open.name.of(input);
        let start = self.pos + 2;
        let end = start + name.len();
        if input.len() > end && input[end] == b'>' && &input[start..end] == name {
            self.pos = end + 1;
        } else {
            let from = start.max(self.seen as usize);
            let Some(found) = input.get(from..).and_then(|rest| memchr(b'>', rest)) else {
                self.seen = input.len() as u32;
                return Err(Stop::More);
            };
            let rest = input[start..from + found].strip_prefix(name).ok_or(MALFORMED)?;
            if !rest.iter().all(|&b| is_space(b)) {
                return Err(MALFORMED);
            }
            self.pos = from + found + 1;
        }
        self.open.pop();
        self.decls.truncate(usize::from(open.decls));
        self.closed();
        Ok(())
    }

    /// An element has ended at `pos`: note it if it was a child of the top-level element.
    #[inline]
    fn closed(&mut self) {
        if self.open.len() == 1
            && let Some(child) = self.head.children.last_mut()
        {
            child.whole.end = self.pos as u32;
        }
    }

    #[inline]
    fn start_tag(&mut self, context: &Context<'_>, tag: &mut Tag) -> Result<(), Stop> {
        let Context { input, limits, .. } = *context;
        if self.seen > 0 {
            self.find_tag_end(input)?;
        }
        if let Err(stop) = tag.read(input, self.pos, limits) {
            // An error is one only when the tag is whole: else the verdict would depend on how the bytes were cut.
            (self.seen, self.quote) = (0, 0);
            self.find_tag_end(input)?;
            return Err(if stop == Stop::More { MALFORMED } else { stop });
        }
        (self.seen, self.quote) = (0, 0);
        self.elements += 1;
        let depth = self.open.len();
        if self.elements > limits.elements || depth >= usize::from(limits.depth) {
            return Err(TOO_MUCH);
        }
        let outside = self.decls.len() as u16;
        let mut portable = true;
        let mut default = self.open.last().map_or(NsRef::Content, |open| open.default);
        let element;
        if !(tag.any_declares | tag.any_prefixed | tag.name.is_prefixed()) {
            element = default;
        } else {
            let resolved = resolve(context, tag, &mut self.decls, depth, &mut portable)?;
            if let Some(own) = resolved.default {
                default = own;
            }
            element = if tag.name.is_prefixed() { resolved.element_ref } else { default };
        }
        if depth == 0 {
            self.head.portable = true;
            top_level(context, tag, element, &mut self.head);
        } else if depth == 1 {
            let whole = Span { start: self.pos as u32, end: tag.end };
            self.head.children.push(Child { name: tag.name.local(), ns: element, whole });
        }
        if !portable {
            self.head.portable = false;
        }
        if !self.head.portable && self.head.scope.is_none() {
            self.head.scope = Some(context.scope.clone());
        }
        self.pos = tag.end as usize;
        if tag.empty {
            self.decls.truncate(usize::from(outside));
        } else {
            self.open.push(Open { name: tag.name.whole, decls: outside, default });
        }
        Ok(())
    }

    fn find_tag_end(&mut self, input: &[u8]) -> Result<(), Stop> {
        let from = (self.pos + 1).max(self.seen as usize);
        let found = find_end(input, from, &mut self.quote);
        if found == Err(Stop::More) {
            self.seen = input.len() as u32;
        }
        found.map(|_| ())
    }
}

/// Fills in what a header needs to know of the start tag.
fn top_level(context: &Context<'_>, tag: &Tag, element: NsRef, head: &mut Head) {
    let Context { input, scope, .. } = *context;
    head.name = tag.name.local();
    head.ns = element;
    head.attrs_start = tag.name.whole.end;
    head.attrs_end = tag.attrs_end;
    for attr in &tag.attrs {
        let slot = match attr.name.whole.of(input) {
            b"to" => &mut head.to,
            b"from" => &mut head.from,
            b"id" => &mut head.id,
            b"type" => &mut head.type_value,
            b"xml:lang" => &mut head.lang,
            b"xmlns" => &mut head.xmlns,
            _ => continue,
        };
        *slot = Some(attr.value);
    }
    let content = match element {
        NsRef::Content => scope.is_content(),
        NsRef::Root(index) => scope.is_content_ns(scope.prefixes[usize::from(index)].1.as_bytes()),
        NsRef::Here(uri) => scope.is_content_ns(&uri_of(input, uri)),
        NsRef::None | NsRef::Xml => false,
    };
    head.kind = match head.name.of(input) {
        b"message" if content => Kind::Message,
        b"presence" if content => Kind::Presence,
        b"iq" if content => Kind::Iq,
        _ => Kind::Other,
    };
    let value = head.type_value.map(|span| uri_of(input, span));
    head.type_ = Type::read(head.kind, value.as_deref());
    // What stands in the stream's default namespace means the same elsewhere only if that is the content namespace.
    head.portable = !tag.name.is_prefixed() && (head.xmlns.is_some() || scope.is_content());
}

/// What `resolve` found out about a tag.
pub(crate) struct Resolved {
    /// The default namespace the tag declares, if it does.
    default: Option<NsRef>,
    /// The namespace of the element's prefix.
    element_ref: NsRef,
    /// The same or the default namespace, if it is declared in this very piece: the value.
    pub(crate) element: Option<Span>,
}

/// Takes the declarations of a tag into scope and looks up every prefix; refuses what XML Namespaces refuses.
/// `portable` becomes false if the tag leans on the stream root, or hides a namespace behind references.
pub(crate) fn resolve(
    context: &Context<'_>,
    tag: &Tag,
    decls: &mut Decls,
    depth: usize,
    portable: &mut bool,
) -> Result<Resolved, Stop> {
    let Context { input, limits, scope } = *context;
    let mut resolved = Resolved { default: None, element_ref: NsRef::Content, element: None };
    let mut declared = 0;
    for attr in tag.attrs.iter().filter(|attr| attr.declares) {
        let prefix = attr.name.is_prefixed().then(|| attr.name.local());
        declared += 1;
        if declared > limits.namespaces
            || attr.value.of(input).len() > usize::from(limits.name_bytes)
        {
            return Err(TOO_MUCH);
        }
        let raw = attr.value.of(input);
        let uri = if attr.escaped {
            // A plain comparison of bytes would not see what it is.
            *portable = false;
            uri_of(input, attr.value)
        } else {
            Cow::Borrowed(raw)
        };
        // A server's content namespace named again inside would not follow the stanza to a client.
        if depth > 0
            && scope.is_content()
            && *scope.default != *ns::CLIENT
            && *uri == *scope.default.as_bytes()
        {
            *portable = false;
        }
        check_declaration(prefix.map(|span| span.of(input)), &uri)?;
        match prefix {
            None => {
                resolved.default =
                    Some(if uri.is_empty() { NsRef::None } else { NsRef::Here(attr.value) });
                resolved.element = Some(attr.value);
            }
            Some(prefix) => {
                if decls.len() >= 8 * usize::from(limits.namespaces) {
                    return Err(TOO_MUCH);
                }
                decls.push(Decl { prefix, uri: attr.value });
            }
        }
    }
    let mut look_up = |name: Name| {
        let found = namespace(input, name.prefix(input), decls, scope)?;
        *portable &= !matches!(found, NsRef::Root(_));
        Some(found)
    };
    if tag.name.is_prefixed() {
        resolved.element_ref = look_up(tag.name).ok_or(MALFORMED)?;
        resolved.element = match resolved.element_ref {
            NsRef::Here(uri) => Some(uri),
            _ => None,
        };
    }
    if tag.any_prefixed {
        let mut names: SmallVec<[(NsRef, Span); 8]> = SmallVec::new();
        for attr in tag.attrs.iter().filter(|attr| attr.name.is_prefixed() && !attr.declares) {
            names.push((look_up(attr.name).ok_or(MALFORMED)?, attr.name.local()));
        }
        // XML Namespaces §6.3: no two attributes of the same expanded name.
        let text = |ns: NsRef| match ns {
            NsRef::Here(uri) => uri_of(input, uri),
            NsRef::Root(index) => Cow::Borrowed(scope.prefixes[usize::from(index)].1.as_bytes()),
            NsRef::Xml => Cow::Borrowed(ns::XML.as_bytes()),
            NsRef::Content | NsRef::None => Cow::Borrowed(&b""[..]),
        };
        for (at, (ns, local)) in names.iter().enumerate() {
            let same = |(other, name): &(NsRef, Span)| {
                name.of(input) == local.of(input) && text(*other) == text(*ns)
            };
            if names[..at].iter().any(same) {
                return Err(MALFORMED);
            }
        }
    }
    Ok(resolved)
}

/// XML Namespaces §3 and §2.2: what may be declared.
fn check_declaration(prefix: Option<&[u8]>, uri: &[u8]) -> Result<(), Stop> {
    let allowed = match prefix {
        Some(b"xml") => uri == ns::XML.as_bytes(),
        Some(b"xmlns") => false,
        Some(_) if uri.is_empty() => false,
        _ => uri != ns::XML.as_bytes() && uri != ns::XMLNS.as_bytes(),
    };
    if allowed { Ok(()) } else { Err(MALFORMED) }
}

fn namespace(input: &[u8], prefix: &[u8], decls: &Decls, scope: &Scope) -> Option<NsRef> {
    if prefix == b"xml" {
        return Some(NsRef::Xml);
    }
    if let Some(decl) = decls.iter().rev().find(|decl| decl.prefix.of(input) == prefix) {
        return Some(NsRef::Here(decl.uri));
    }
    let index = scope.prefixes.iter().position(|(name, _)| name.as_bytes() == prefix)?;
    Some(NsRef::Root(u16::try_from(index).ok()?))
}

/// An attribute value as a parser would report it. References are proved; a value that is not UTF-8 is no namespace
/// and no type anybody knows, and refused when the piece ends.
fn uri_of(input: &[u8], span: Span) -> Cow<'_, [u8]> {
    let raw = span.of(input);
    if !has_any(raw, |b| (b == b'&') | (b < b' ')) {
        return Cow::Borrowed(raw);
    }
    match std::str::from_utf8(raw).ok().and_then(unescape_attr) {
        Some(text) => Cow::Owned(text.into_owned().into_bytes()),
        None => Cow::Borrowed(raw),
    }
}
