//! Changing a stanza by cutting its bytes: the start tag, one child more, some children less. The body is copied, never
//! parsed, and the ranges of the head move along. Called by `Stanza` only.

use crate::stanza::header::{Child, Head, NsRef, Span};
use crate::xml::write;

/// What to change in a start tag. For an address: `None` keeps it, `Some(None)` removes it, `Some(Some(_))` writes it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Edit<'a> {
    pub(super) from: Option<Option<&'a str>>,
    pub(super) to: Option<Option<&'a str>>,
    /// The language to write if there is none.
    pub(super) lang: Option<&'a str>,
    /// The declaration of the content namespace goes, and what referred to it is `NsRef::Content`.
    pub(super) drop_xmlns: bool,
}

/// The whole attribute, white space before it included, whose value is `value`.
fn attribute(piece: &[u8], name: &str, value: Span) -> (usize, usize) {
    let before = |mut at: usize| {
        while matches!(piece[at - 1], b' ' | b'\t' | b'\r' | b'\n') {
            at -= 1;
        }
        at
    };
    let quote = value.start as usize - 1;
    let equals = before(quote) - 1;
    let start = before(equals) - name.len();
    (before(start), value.end as usize + 1)
}

/// The piece with another start tag.
pub(super) fn start_tag(piece: &[u8], old: &Head, edit: &Edit<'_>) -> (Vec<u8>, Head) {
    let mut cuts = [(0, 0); 3];
    let mut count = 0;
    let mut cut = |name: &str, value: Option<Span>, applies: bool| {
        if let (Some(value), true) = (value, applies) {
            cuts[count] = attribute(piece, name, value);
            count += 1;
        }
    };
    cut("from", old.from, edit.from.is_some());
    cut("to", old.to, edit.to.is_some());
    cut("xmlns", old.xmlns, edit.drop_xmlns);
    let cuts = &mut cuts[..count];
    cuts.sort_unstable();

    let (start, end) = (old.attrs_start as usize, old.attrs_end as usize);
    let added = |name: &str, value: Option<Option<&str>>| {
        value.flatten().map_or(0, |v| v.len() + name.len() + 4)
    };
    let removed: usize = cuts.iter().map(|(from, to)| to - from).sum();
    let lang = edit.lang.filter(|_| old.lang.is_none()).map(Some);
    let length = piece.len() - removed
        + added("from", edit.from)
        + added("to", edit.to)
        + added("xml:lang", lang);
    let mut out = Vec::with_capacity(length);
    let mut done = 0;
    for &(from, to) in cuts.iter() {
        out.extend_from_slice(&piece[done..from]);
        done = to;
    }
    out.extend_from_slice(&piece[done..end]);
    debug_assert!(done == 0 || done >= start);
    let mut append = |name: &str, value: Option<Option<&str>>| {
        let value = value.flatten()?;
        write::attr(&mut out, name, value);
        Some(Span::new(value_start(&out), out.len() - 1))
    };
    let (to, from) = (append("to", edit.to), append("from", edit.from));
    let lang = append("xml:lang", lang);
    let attrs_end = out.len();
    out.extend_from_slice(&piece[end..]);

    let shift = attrs_end as i64 - end as i64;
    let moved = |span: Span| {
        if span.start as usize >= end {
            return span.moved(shift);
        }
        let before: usize = cuts
            .iter()
            .filter(|cut| cut.1 <= span.start as usize)
            .map(|(from, to)| to - from)
            .sum();
        span.moved(-(before as i64))
    };
    let referred = |ns: NsRef| match ns {
        NsRef::Here(uri) if edit.drop_xmlns && Some(uri) == old.xmlns => NsRef::Content,
        NsRef::Here(uri) => NsRef::Here(moved(uri)),
        other => other,
    };
    let child = |child: &Child| Child {
        name: moved(child.name),
        ns: referred(child.ns),
        whole: moved(child.whole),
    };
    let head = Head {
        name: old.name,
        ns: referred(old.ns),
        kind: old.kind,
        type_: old.type_,
        to: if edit.to.is_some() { to } else { old.to.map(moved) },
        from: if edit.from.is_some() { from } else { old.from.map(moved) },
        id: old.id.map(moved),
        lang: lang.or(old.lang.map(moved)),
        type_value: old.type_value.map(moved),
        xmlns: if edit.drop_xmlns { None } else { old.xmlns.map(moved) },
        attrs_start: old.attrs_start,
        attrs_end: attrs_end as u32,
        children: old.children.iter().map(child).collect(),
        portable: true,
        scope: None,
    };
    (out, head)
}

/// Where the value begins of the attribute just written. `write::attr` escapes the quote within the value.
fn value_start(out: &[u8]) -> usize {
    memchr::memrchr(b'\'', &out[..out.len() - 1]).expect("write::attr wrote two quotes") + 1
}

/// The piece with one more child at its end.
pub(super) fn append(piece: &[u8], old: &Head, child: &[u8], found: &Head) -> (Vec<u8>, Head) {
    let mut out = Vec::with_capacity(piece.len() + child.len() + old.name.of(piece).len() + 2);
    let attrs_end = old.attrs_end as usize;
    let empty = piece[attrs_end] == b'/';
    let end_tag = if empty { attrs_end } else { memchr::memrchr(b'<', piece).expect("an end tag") };
    out.extend_from_slice(&piece[..end_tag]);
    if empty {
        out.push(b'>');
    }
    let start = out.len();
    out.extend_from_slice(child);
    let end = out.len();
    if empty {
        out.extend_from_slice(b"</");
        out.extend_from_slice(old.name.of(piece));
        out.push(b'>');
    } else {
        out.extend_from_slice(&piece[end_tag..]);
    }
    let by = start as i64;
    let ns = match found.ns {
        NsRef::Here(uri) => NsRef::Here(uri.moved(by)),
        other => other,
    };
    let mut head = old.clone();
    head.children.push(Child { name: found.name.moved(by), ns, whole: Span::new(start, end) });
    (out, head)
}

/// The piece without some of its children.
pub(super) fn remove(
    piece: &[u8],
    old: &Head,
    is_dropped: impl Fn(&Child) -> bool,
) -> (Vec<u8>, Head) {
    let mut out = Vec::with_capacity(piece.len());
    let mut head = old.clone();
    head.children.clear();
    let mut done = 0;
    let mut gone = 0i64;
    for child in &old.children {
        if is_dropped(child) {
            out.extend_from_slice(&piece[done..child.whole.start as usize]);
            done = child.whole.end as usize;
            gone += i64::from(child.whole.end - child.whole.start);
        } else {
            let ns = match child.ns {
                // Declared in the start tag of the stanza, which stays where it is.
                NsRef::Here(uri) if uri.start >= old.attrs_end => NsRef::Here(uri.moved(-gone)),
                other => other,
            };
            let (name, whole) = (child.name.moved(-gone), child.whole.moved(-gone));
            head.children.push(Child { name, ns, whole });
        }
    }
    out.extend_from_slice(&piece[done..]);
    (out, head)
}
