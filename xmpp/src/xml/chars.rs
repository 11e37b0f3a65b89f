//! Which bytes and characters may stand where (XML 1.0 §2.2, §2.3; XML Namespaces §3). Called by `framer`, `tag`, `parse` and `write`.

use memchr::{memchr_iter, memchr3};

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

/// Whether one of the bytes `is` so. All of them are looked at, without a branch: that is done many at once, and most texts have none.
#[inline]
pub(crate) fn has_any(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(0, |any, &b| any | u8::from(is(b))) != 0
}

/// `memchr3` for what is usually near: the first bytes eight at a time and inline, the rest by wide instructions.
#[inline]
pub(crate) fn find3(one: u8, two: u8, three: u8, input: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // Exact up to and including the first zero byte of little-endian words; what borrows spoil comes after it.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let near = &input[..input.len().min(NEAR_BYTES)];
    let mut words = near.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
        let of = |byte: u8| zeros(word ^ (ONES * u64::from(byte)));
        let found = of(one) | of(two) | of(three);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    if input.len() >= NEAR_BYTES {
        return memchr3(one, two, three, &input[at..]).map(|found| at + found);
    }
    let rest = words.remainder().iter().position(|&b| b == one || b == two || b == three);
    rest.map(|found| at + found)
}

/// How far `find3` looks by itself. A multiple of eight.
const NEAR_BYTES: usize = 48;

const START: u8 = 1;
const NAME: u8 = 2;
/// Ends a name, as far as one can tell without looking at whole characters.
const ENDS: u8 = 4;
/// Part of a character beyond ASCII.
const HIGH: u8 = ENDS | START;

const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => START,
            b'0'..=b'9' | b'-' | b'.' => NAME,
            0x80.. => HIGH,
            _ => ENDS,
        };
        at += 1;
    }
    table
};

/// Where a name without colon that starts at `at` ends. `None`: no name starts here. The end of the input ends the name as
/// well: the caller must see what follows.
#[inline]
pub(crate) fn ncname_end(input: &[u8], at: usize) -> Option<usize> {
    let name = input.get(at..)?;
    if CLASS[usize::from(*name.first()?)] != START {
        return wide_ncname_end(input, at);
    }
    let length = name.iter().position(|&byte| CLASS[usize::from(byte)] & ENDS != 0);
    let end = length.map_or(input.len(), |length| at + length);
    if end < input.len() && input[end] >= 0x80 { wide_ncname_end(input, at) } else { Some(end) }
}

/// The same by the full rules. A name cut off within a character ends there: at the end of the input.
#[cold]
fn wide_ncname_end(input: &[u8], at: usize) -> Option<usize> {
    let is_part = |&byte: &u8| CLASS[usize::from(byte)] != ENDS;
    let end = input[at..].iter().position(|byte| !is_part(byte)).map_or(input.len(), |n| at + n);
    let name = &input[at..end];
    let name = match std::str::from_utf8(name) {
        Ok(name) => name,
        Err(error) if error.error_len().is_none() && end == input.len() => return Some(end),
        Err(_) => return None,
    };
    let legal = |(at, c)| is_name_start(c) || (at > 0 && is_name_rest(c));
    (!name.is_empty() && name.chars().enumerate().all(legal)).then_some(end)
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
    // One pass that the compiler turns into wide instructions; most stanzas hold neither controls nor bytes beyond ASCII.
    let (mut high, mut least) = (0, u8::MAX);
    for &byte in bytes {
        high |= byte;
        least = least.min(byte);
    }
    if least < 0x20 && bytes.iter().any(|&b| b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) {
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
    fn the_nearest_of_three_is_found_wherever_it_is() {
        for length in 0..130 {
            assert_eq!(find3(b'<', b'&', b'"', &vec![b'x'; length]), None);
            for at in 0..length {
                let mut text = vec![b'='; length];
                text[at..].fill(b'<');
                text[at] = [b'<', b'&', b'"'][at % 3];
                assert_eq!(find3(b'<', b'&', b'"', &text), Some(at), "{length}");
            }
        }
    }

    #[test]
    fn names_beyond_ascii_obey_the_full_rules() {
        let check = |name: &str, expected| {
            let tag = format!("<{name}>");
            assert_eq!(ncname_end(tag.as_bytes(), 1) == Some(tag.len() - 1), expected, "{name}");
        };
        check("a-b.c_1", true);
        check("1a", false);
        check("", false);
        check("ñandú", true);
        check("a\u{b7}", true);
        check("\u{b7}a", false);
        check("a\u{d7}", false);
        check("a\u{37e}", false);
        check("\u{300}a", false);
        check("a\u{300}", true);
        check("a\u{f0000}", false);
        assert_eq!(ncname_end(b"a\xff>", 0), None);
        assert_eq!(ncname_end("é".as_bytes(), 0), Some(2));
        assert_eq!(ncname_end(b"a\xc3", 0), Some(2));
    }
}
