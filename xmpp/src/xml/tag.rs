//! One start tag, without a tree: names, attribute syntax, references, uniqueness of names as written. Called by
//! `framer`, which resolves prefixes; calls `chars`. XML 1.0 §3.1; XML Namespaces §4.

use memchr::memchr2;
use smallvec::SmallVec;

use crate::stanza::header::Span;
use crate::stream::error::StreamCondition;
use crate::xml::chars::{find3, is_space, ncname_end};
use crate::xml::framer::Limits;
use crate::xml::parse::reference;

/// Why a token could not be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The input ends within it.
    More,
    /// It is wrong.
    Wrong(StreamCondition),
}

pub(crate) const MALFORMED: Stop = Stop::Wrong(StreamCondition::NotWellFormed);
pub(crate) const TOO_MUCH: Stop = Stop::Wrong(StreamCondition::PolicyViolation);
pub(crate) const RESTRICTED: Stop = Stop::Wrong(StreamCondition::RestrictedXml);

/// The longest reference looked at, without `&` and `;`. Leading zeros are legal, this many are not polite.
const REFERENCE_BYTES_MAX: usize = 64;

/// A name as written. `local` is where the part after the colon starts, or the start of the name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Name {
    pub(crate) whole: Span,
    pub(crate) local: u32,
}

impl Name {
    pub(crate) fn is_prefixed(self) -> bool {
        self.local != self.whole.start
    }

    fn length(self) -> u32 {
        self.whole.end - self.whole.start
    }

    /// Empty if there is none.
    pub(crate) fn prefix(self, input: &[u8]) -> &[u8] {
        &input[self.whole.start as usize..(self.local.max(self.whole.start + 1) - 1) as usize]
    }

    pub(crate) fn local(self) -> Span {
        Span { start: self.local, end: self.whole.end }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub(crate) name: Name,
    /// Between the quotes.
    pub(crate) value: Span,
    /// Whether the value holds a reference.
    pub(crate) escaped: bool,
    /// Whether it declares a namespace: `xmlns` or `xmlns:…`.
    pub(crate) declares: bool,
}

/// A start tag or an empty element.
#[derive(Debug, Default)]
pub(crate) struct Tag {
    pub(crate) name: Name,
    pub(crate) attrs: SmallVec<[Attr; 8]>,
    pub(crate) attrs_end: u32,
    pub(crate) end: u32,
    pub(crate) empty: bool,
    /// Whether an attribute that is no declaration has a prefix.
    pub(crate) any_prefixed: bool,
    pub(crate) any_declares: bool,
}

impl Tag {
    /// Takes the tag whose `<` is at `at`. Prefixes are not resolved, characters beyond ASCII not yet proved to be
    /// UTF-8 outside names.
    #[inline]
    pub(crate) fn read(&mut self, input: &[u8], at: usize, limits: &Limits) -> Result<(), Stop> {
        self.attrs.clear();
        (self.any_prefixed, self.any_declares) = (false, false);
        let mut pos;
        (self.name, pos) = qname(input, at + 1, limits)?;
        loop {
            let before = pos;
            while is_space(*input.get(pos).ok_or(Stop::More)?) {
                pos += 1;
            }
            match input[pos] {
                b'>' => return self.close(pos, pos + 1, false),
                b'/' => {
                    return match input.get(pos + 1) {
                        Some(b'>') => self.close(pos, pos + 2, true),
                        Some(_) => Err(MALFORMED),
                        None => Err(Stop::More),
                    };
                }
                _ if before == pos => return Err(MALFORMED),
                _ if self.attrs.len() == usize::from(limits.attributes) => return Err(TOO_MUCH),
                _ => pos = self.attr(input, pos, limits)?,
            }
        }
    }

    fn close(&mut self, attrs_end: usize, end: usize, empty: bool) -> Result<(), Stop> {
        (self.attrs_end, self.end, self.empty) = (attrs_end as u32, end as u32, empty);
        Ok(())
    }

    #[inline]
    fn attr(&mut self, input: &[u8], at: usize, limits: &Limits) -> Result<usize, Stop> {
        let (name, mut pos) = qname(input, at, limits)?;
        if input[pos] != b'=' {
            pos = skip_space(input, pos)?;
            if input[pos] != b'=' {
                return Err(MALFORMED);
            }
        }
        pos = skip_space(input, pos + 1)?;
        let quote = input[pos];
        if quote != b'\'' && quote != b'"' {
            return Err(MALFORMED);
        }
        let start = pos + 1;
        pos = start;
        let mut escaped = false;
        loop {
            pos += find3(quote, b'<', b'&', &input[pos..]).ok_or(Stop::More)?;
            match input[pos] {
                b'<' => return Err(MALFORMED),
                b'&' => (pos, escaped) = (reference_end(input, pos)?, true),
                _ => break,
            }
        }
        let whole = name.whole.of(input);
        for other in &self.attrs {
            if other.name.length() == name.length() && other.name.whole.of(input) == whole {
                return Err(MALFORMED);
            }
        }
        let prefixed = name.is_prefixed();
        let declares = if prefixed { whole.starts_with(b"xmlns:") } else { whole == b"xmlns" };
        self.any_declares |= declares;
        self.any_prefixed |= prefixed && !declares;
        let value = Span { start: start as u32, end: pos as u32 };
        self.attrs.push(Attr { name, value, escaped, declares });
        Ok(pos + 1)
    }
}

fn skip_space(input: &[u8], mut at: usize) -> Result<usize, Stop> {
    while is_space(*input.get(at).ok_or(Stop::More)?) {
        at += 1;
    }
    Ok(at)
}

/// A name with at most one colon, and the offset behind it, where there is at least one more byte.
#[inline]
fn qname(input: &[u8], at: usize, limits: &Limits) -> Result<(Name, usize), Stop> {
    let part = |from: usize| match ncname_end(input, from) {
        Some(end) if end < input.len() => Ok(end),
        Some(_) => Err(Stop::More),
        None if from == input.len() => Err(Stop::More),
        _ => Err(MALFORMED),
    };
    let mut end = part(at)?;
    let mut local = at;
    if input[end] == b':' {
        local = end + 1;
        end = part(local)?;
        if input[end] == b':' {
            return Err(MALFORMED);
        }
    }
    if end - at > usize::from(limits.name_bytes) {
        return Err(TOO_MUCH);
    }
    Ok((Name { whole: Span { start: at as u32, end: end as u32 }, local: local as u32 }, end))
}

/// The offset behind the reference whose `&` is at `at`.
pub(crate) fn reference_end(input: &[u8], at: usize) -> Result<usize, Stop> {
    let name = &input[at + 1..];
    match name {
        [b'l' | b'g', b't', b';', ..] => Ok(at + 4),
        [b'a', b'm', b'p', b';', ..] => Ok(at + 5),
        [b'q', b'u', b'o', b't', b';', ..] | [b'a', b'p', b'o', b's', b';', ..] => Ok(at + 6),
        _ => any_reference_end(name, at),
    }
}

fn any_reference_end(name: &[u8], at: usize) -> Result<usize, Stop> {
    let length = name
        .iter()
        .take(REFERENCE_BYTES_MAX + 1)
        .position(|&b| !matches!(b, b'#' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'));
    match length {
        None if name.len() > REFERENCE_BYTES_MAX => Err(TOO_MUCH),
        None => Err(Stop::More),
        Some(length) if name[length] != b';' => Err(MALFORMED),
        Some(length) => match &name[..length] {
            name if reference(name).is_some() => Ok(at + length + 2),
            // An entity somebody would have to declare (RFC 6120 §11.1).
            [b'a'..=b'z' | b'A'..=b'Z', rest @ ..] if !rest.contains(&b'#') => Err(RESTRICTED),
            _ => Err(MALFORMED),
        },
    }
}

/// Looks for the end of an unfinished tag, going on where the last look ended: the offset behind its `>`. Only quotes
/// matter here; whatever else is wrong is found when the whole tag is read. `<` can stand nowhere in a tag.
pub(crate) fn find_end(input: &[u8], mut pos: usize, quote: &mut u8) -> Result<usize, Stop> {
    loop {
        if *quote != 0 {
            pos += memchr2(*quote, b'<', &input[pos..]).ok_or(Stop::More)?;
            if input[pos] == b'<' {
                return Err(MALFORMED);
            }
            *quote = 0;
            pos += 1;
        }
        let is_mark = |&byte: &u8| matches!(byte, b'\'' | b'"' | b'<' | b'>');
        pos += input[pos..].iter().position(is_mark).ok_or(Stop::More)?;
        match input[pos] {
            b'>' => return Ok(pos + 1),
            b'<' => return Err(MALFORMED),
            other => *quote = other,
        }
        pos += 1;
    }
}
