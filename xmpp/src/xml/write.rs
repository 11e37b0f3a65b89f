//! Escaping text and attribute values (XML 1.0 §2.4, §2.10, §2.11). Called by whoever writes XML; calls `chars`.
//!
//! Characters that XML cannot carry at all are left out, so that what is written is always well-formed. Attribute values may be quoted with either quote.
//! White space that a parser would normalise is written as a character reference, so what is read back is equal.

use std::borrow::Cow;

use crate::xml::chars::has_any;

/// Appends `text` as character data: `&`, `<`, `>` and carriage returns are escaped.
pub fn escape_text(out: &mut Vec<u8>, text: &str) {
    escape(out, text.as_bytes(), |byte| match byte {
        b'&' => Some(b"&amp;"),
        b'<' => Some(b"&lt;"),
        // Also forbids `]]>`.
        b'>' => Some(b"&gt;"),
        b'\r' => Some(b"&#13;"),
        _ => None,
    });
}

/// Appends `value` as (part of) an attribute value, without the quotes around it; safe within either quote.
pub fn escape_attr(out: &mut Vec<u8>, value: &str) {
    escape(out, value.as_bytes(), |byte| match byte {
        b'&' => Some(b"&amp;"),
        b'<' => Some(b"&lt;"),
        b'>' => Some(b"&gt;"),
        b'\'' => Some(b"&apos;"),
        b'"' => Some(b"&quot;"),
        b'\t' => Some(b"&#9;"),
        b'\n' => Some(b"&#10;"),
        b'\r' => Some(b"&#13;"),
        _ => None,
    });
}

/// Appends ` name='value'`, escaping the value. `name` is written as it is.
pub fn attr(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"='");
    escape_attr(out, value);
    out.push(b'\'');
}

#[inline]
fn escape(out: &mut Vec<u8>, bytes: &[u8], replacement: impl Fn(u8) -> Option<&'static [u8]>) {
    let is_special = |b: u8| {
        (b < b' ')
            | (b == b'"')
            | (b == b'&')
            | (b == b'\'')
            | (b == b'<')
            | (b == b'>')
            | (b == 0xef)
    };
    if !has_any(bytes, is_special) {
        return out.extend_from_slice(bytes);
    }
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let (reference, length) = match byte {
            // Most bytes of most texts.
            b'('..=b';' | b'?'..=0xee | 0xf0.. => continue,
            0xef if matches!(bytes.get(at..at + 3), Some([_, 0xbf, 0xbe | 0xbf])) => (&b""[..], 3),
            _ => match replacement(byte) {
                Some(reference) => (reference, 1),
                None if byte < b' ' && !matches!(byte, b'\t' | b'\n') => (&b""[..], 1),
                None => continue,
            },
        };
        out.extend_from_slice(&bytes[done..at]);
        out.extend_from_slice(reference);
        done = at + length;
    }
    out.extend_from_slice(&bytes[done..]);
}

/// Whether XML 1.0 §2.2 admits the character at all, literally or as a reference.
#[must_use]
pub fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// `text` without the characters that XML cannot carry. For text of foreign origin (a log line, a file name).
#[must_use]
pub fn only_xml_chars(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_xml_char) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().filter(|&c| is_xml_char(c)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(f: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_keeps_quotes_and_newlines_and_escapes_markup() {
        assert_eq!(
            written(|o| escape_text(o, "a<b>&'\"\n\r]]>é")),
            "a&lt;b&gt;&amp;'\"\n&#13;]]&gt;é"
        );
    }

    #[test]
    fn attribute_values_survive_white_space_normalisation() {
        assert_eq!(written(|o| attr(o, "k", "'\"<&\t\n")), " k='&apos;&quot;&lt;&amp;&#9;&#10;'");
    }

    #[test]
    fn characters_xml_cannot_carry_are_left_out() {
        assert_eq!(
            written(|o| escape_text(o, "a\u{0}b\u{fffe}c\u{ffff}\u{ef}\u{fffd}\u{1f}")),
            "abc\u{ef}\u{fffd}"
        );
        assert_eq!(written(|o| escape_attr(o, "\u{ffff}\u{ffff}\u{8}")), "");
    }

    #[test]
    fn characters_xml_cannot_carry_are_dropped_on_request() {
        assert_eq!(only_xml_chars("a\u{0}b\u{fffe}c\u{1F600}"), "abc\u{1F600}");
    }
}
