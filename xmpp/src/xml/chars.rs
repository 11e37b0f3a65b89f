//! Which bytes and characters may stand where (XML 1.0 §2.2, §2.3; XML Namespaces §3). Called by `framer` and `tag`.

use memchr::memchr_iter;

/// White space between the parts of a tag.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without the white space at the end. (`trim_ascii_end` would take form feeds, which XML does not know.)
pub(crate) fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| !is_space(b)).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Without the white space around it.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&b| !is_space(b)).unwrap_or(bytes.len());
    trim_end(&bytes[start..])
}

const START: u8 = 1;
const NAME: u8 = 2;

const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => START | NAME,
            b'0'..=b'9' | b'-' | b'.' => NAME,
            // Part of a character beyond ASCII: `is_ncname` looks at the name as a whole.
            0x80.. => START | NAME,
            _ => 0,
        };
        at += 1;
    }
    table
};

/// Where a name without colon that starts at `at` ends. `None`: no name starts here. The end of the input ends the name
/// as well: the caller must see what follows.
#[inline]
pub(crate) fn ncname_end(input: &[u8], at: usize) -> Option<usize> {
    if CLASS[usize::from(*input.get(at)?)] & START == 0 {
        return None;
    }
    let mut end = at + 1;
    while let Some(&byte) = input.get(end) {
        if CLASS[usize::from(byte)] == 0 {
            break;
        }
        end += 1;
    }
    Some(end)
}

/// Whether a name found by `ncname_end` obeys the full rules, which matter only beyond ASCII.
#[inline]
pub(crate) fn is_ncname(name: &[u8]) -> bool {
    name.is_ascii() || is_wide_ncname(name)
}

#[cold]
fn is_wide_ncname(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    name.chars().enumerate().all(|(at, c)| is_name_start(c) || (at > 0 && is_name_rest(c)))
}

fn is_name_start(c: char) -> bool {
    matches!(c,
        'a'..='z' | 'A'..='Z' | '_' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}' | '\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

fn is_name_rest(c: char) -> bool {
    matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}' | '\u{2040}')
}

/// Whether all of it is UTF-8 of characters that XML admits: no control but tab, line feed and carriage return, and
/// neither U+FFFE nor U+FFFF.
pub(crate) fn are_legal(bytes: &[u8]) -> bool {
    let (mut high, mut control) = (0, false);
    for &byte in bytes {
        high |= byte;
        control |= (byte < 0x20) & (byte != b'\t') & (byte != b'\n') & (byte != b'\r');
    }
    if control {
        return false;
    }
    if high < 0x80 {
        return true;
    }
    let noncharacter = |at: usize| matches!(bytes.get(at..at + 3), Some([0xef, 0xbf, 0xbe | 0xbf]));
    simdutf8::basic::from_utf8(bytes).is_ok() && !memchr_iter(0xef, bytes).any(noncharacter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_bytes_are_utf8_of_legal_characters() {
        let check = |bytes: &[u8], expected| assert_eq!(are_legal(bytes), expected, "{bytes:x?}");
        check(b"", true);
        check(b"a\t\r\n\x7f", true);
        check("é\u{fffd}\u{1F600}\u{d7ff}\u{e000}\u{10ffff}".as_bytes(), true);
        for control in (0..0x20).filter(|c| ![9, 10, 13].contains(c)) {
            check(&[b'a', control], false);
        }
        check("\u{fffe}".as_bytes(), false);
        check("a\u{ffff}".as_bytes(), false);
        check(b"\xc0\x80", false);
        check(b"\xed\xa0\x80", false);
        check(b"\xf4\x90\x80\x80", false);
        check(b"a\xe2\x82", false);
    }

    #[test]
    fn names_beyond_ascii_obey_the_full_rules() {
        let check =
            |name: &str, expected| assert_eq!(is_ncname(name.as_bytes()), expected, "{name}");
        check("ñandú", true);
        check("a\u{b7}", true);
        check("\u{b7}a", false);
        check("a\u{d7}", false);
        check("a\u{37e}", false);
        check("\u{300}a", false);
        check("a\u{300}", true);
        check("a\u{f0000}", false);
        assert!(!is_ncname(b"a\xff"));
    }
}
