//! What becomes of each part of an address (RFC 7622 §3.2 to §3.4). Called by [`super`]; calls the `jid` and `idna` crates
//! and Unicode tables for what is not ASCII.
//!
//! Beyond ASCII: localparts go through nodeprep (what deployed servers do: `ß` is `ss`) after the characters are refused
//! that PRECIS (RFC 8264) refuses; domains through IDNA 2008, their canonical form has U-labels; resourceparts through
//! the OpaqueString profile (RFC 8265 §4.2). The Unicode version is that of the linked tables, so all nodes of one build
//! agree.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::{JidError, PART_BYTES_MAX};

/// Whether PRECIS refuses it everywhere and stringprep would silently remove or keep it: bidirectional controls,
/// zero-width and other default-ignorable characters, the soft hyphen.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn is_local_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e)
        && !matches!(byte, b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@')
}

pub(super) fn prepare_local(input: &str) -> Result<Cow<'_, str>, JidError> {
    let within = |part: &str| matches!(part.len(), 1..=PART_BYTES_MAX);
    if input.is_ascii() {
        if !within(input) || !input.bytes().all(is_local_byte) {
            return Err(JidError::Local);
        }
        return Ok(lower_case(input));
    }
    // Preparation never makes a text many times shorter: what is far too long needs no tables.
    if input.len() > 4 * PART_BYTES_MAX || input.chars().any(is_ignorable) {
        return Err(JidError::Local);
    }
    let once = ::jid::NodePart::new(input).map_err(|_| JidError::Local)?;
    let text = once.as_str();
    // RFC 7622 §3.3.1: stringprep's case folding may bring forth ASCII that is not allowed; and what is prepared must
    // stay the same when prepared again.
    let stable = ::jid::NodePart::new(text).is_ok_and(|again| again.as_str() == text);
    if !within(text) || !stable || text.bytes().any(|b| b < 0x80 && !is_local_byte(b)) {
        return Err(JidError::Local);
    }
    Ok(Cow::Owned(text.to_owned()))
}

pub(super) fn prepare_resource(input: &str) -> Result<Cow<'_, str>, JidError> {
    let within = |part: &str| matches!(part.len(), 1..=PART_BYTES_MAX);
    if input.is_ascii() {
        if !within(input) || input.bytes().any(|b| b.is_ascii_control()) {
            return Err(JidError::Resource);
        }
        return Ok(Cow::Borrowed(input));
    }
    if input.len() > 4 * PART_BYTES_MAX || !input.chars().all(is_freeform) {
        return Err(JidError::Resource);
    }
    // RFC 8265 §4.2.1: spaces beyond ASCII become U+0020, then NFC; nothing else is mapped.
    let space = |c: char| if is_space_separator(c) { ' ' } else { c };
    let text: String = input.chars().map(space).nfc().collect();
    if !within(&text) || !text.chars().all(is_freeform) {
        return Err(JidError::Resource);
    }
    Ok(if text == input { Cow::Borrowed(input) } else { Cow::Owned(text) })
}

fn is_space_separator(c: char) -> bool {
    c.general_category() == GeneralCategory::SpaceSeparator
}

/// The FreeformClass of PRECIS (RFC 8264 §4.3), without the characters that need a context rule.
fn is_freeform(c: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Surrogate, Unassigned,
    };
    let old_hangul =
        matches!(c, '\u{1100}'..='\u{11ff}' | '\u{a960}'..='\u{a97c}' | '\u{d7b0}'..='\u{d7fb}');
    let contextual = matches!(c, '\u{b7}' | '\u{375}' | '\u{5f3}' | '\u{5f4}' | '\u{30fb}' | '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}');
    !old_hangul
        && !contextual
        && !is_ignorable(c)
        && !matches!(
            c.general_category(),
            Control
                | Format
                | LineSeparator
                | ParagraphSeparator
                | PrivateUse
                | Surrogate
                | Unassigned
        )
}

pub(super) fn prepare_domain(input: &str) -> Result<Cow<'_, str>, JidError> {
    if is_plain_domain(input.as_bytes()) {
        return Ok(Cow::Borrowed(input));
    }
    if let Some(literal) = input.strip_prefix('[') {
        let literal = literal.strip_suffix(']').ok_or(JidError::Domain)?;
        let address = Ipv6Addr::from_str(literal).map_err(|_| JidError::Domain)?.to_string();
        return Ok(if address == literal {
            Cow::Borrowed(input)
        } else {
            Cow::Owned(format!("[{address}]"))
        });
    }
    // RFC 7622 §3.2: a root dot is stripped before anything else.
    let input = input.strip_suffix('.').unwrap_or(input);
    if input.is_ascii() && !input.split('.').any(is_a_label) {
        return if is_host_name(input) { Ok(lower_case(input)) } else { Err(JidError::Domain) };
    }
    prepare_domain_unicode(input).map(Cow::Owned)
}

/// Whether it is a host name in canonical form, by one pass: most are. False says nothing.
fn is_plain_domain(name: &[u8]) -> bool {
    let (mut length, mut previous, mut number) = (0, b'.', true);
    for &byte in name {
        match byte {
            b'a'..=b'z' => number = false,
            b'0'..=b'9' => {}
            b'-' if previous != b'.' && (previous != b'-' || length != 3) => {}
            b'.' if previous != b'.' && previous != b'-' => (length, number) = (0, true),
            _ => return false,
        }
        if byte != b'.' {
            length += 1;
            if length > 63 {
                return false;
            }
        }
        previous = byte;
    }
    name.len() <= 253 && !number && !matches!(previous, b'.' | b'-')
}

fn is_a_label(label: &str) -> bool {
    label.as_bytes().get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--"))
}

/// Labels of letters, digits and inner hyphens (RFC 5890 NR-LDH), or an IPv4 address.
fn is_host_name(name: &str) -> bool {
    is_dns_name(name) && !name.split('.').any(|label| label.as_bytes().get(2..4) == Some(b"--"))
}

/// The same with A-labels. A name that ends in a number and is not an address is refused: it would be read as one
/// somewhere.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        matches!(label.len(), 1..=63)
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return false;
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    !last.bytes().all(|b| b.is_ascii_digit()) || Ipv4Addr::from_str(name).is_ok()
}

/// IDNA 2008 by way of UTS 46, without transitional mappings: `ß` stays itself. The canonical form has U-labels, so an
/// A-label and what it stands for are one domain.
fn prepare_domain_unicode(input: &str) -> Result<String, JidError> {
    if input.len() > PART_BYTES_MAX || input.chars().any(is_ignorable) {
        return Err(JidError::Domain);
    }
    let unicode = |name: &str| {
        let (text, verdict) =
            Uts46::new().to_unicode(name.as_bytes(), AsciiDenyList::STD3, Hyphens::Check);
        verdict.map(|()| text.into_owned()).map_err(|_| JidError::Domain)
    };
    let text = unicode(input)?;
    let is_dns = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify)
        .is_ok_and(|ascii| is_dns_name(&ascii));
    let stable = unicode(&text).is_ok_and(|again| again == text);
    if !is_dns || !stable || text.chars().any(is_ignorable) || text.len() > PART_BYTES_MAX {
        return Err(JidError::Domain);
    }
    Ok(text)
}

/// A prepared domain as DNS and certificates have it: A-labels instead of U-labels.
#[must_use]
pub fn domain_to_ascii(domain: &str) -> Cow<'_, str> {
    if domain.is_ascii() {
        return Cow::Borrowed(domain);
    }
    Uts46::new()
        .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify)
        .unwrap_or(Cow::Borrowed(domain))
}

fn lower_case(input: &str) -> Cow<'_, str> {
    if input.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(input.to_ascii_lowercase())
    } else {
        Cow::Borrowed(input)
    }
}
