//! Addresses (RFC 7622): prepared once, at the door, and compared as text ever after. Called by everyone; calls the
//! `jid` and `idna` crates and Unicode tables for what is not ASCII.
//!
//! Beyond ASCII: localparts go through nodeprep (what deployed servers do: `ß` is `ss`) after the characters are refused
//! that PRECIS (RFC 8264) refuses; domains through IDNA 2008, their canonical form has U-labels; resourceparts through
//! the OpaqueString profile (RFC 8265 §4.2). The Unicode version is that of the linked tables, so all nodes of one build
//! agree. Deliberately absent: unescaping (XEP-0106), an escaped localpart is another account.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The longest part, in bytes, measured after preparation (RFC 7622 §3).
pub const PART_BYTES_MAX: usize = 1023;

/// Why something is not a JID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JidError {
    /// The part before `@`: empty, too long, or a character that may not be there.
    Local,
    /// The domain: empty, too long, or not a domain name or IP literal.
    Domain,
    /// The part after `/`: empty, too long, or a character that may not be there.
    Resource,
    /// A full JID was expected and there is no resource, or the reverse.
    Form,
}

impl fmt::Display for JidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JidError::Local => "malformed localpart",
            JidError::Domain => "malformed domainpart",
            JidError::Resource => "malformed resourcepart",
            JidError::Form => "a full address where a bare one is needed, or the reverse",
        })
    }
}

impl std::error::Error for JidError {}

/// Text and where it is divided. `at` is the length of the localpart (0: none), `slash` the length of the bare JID,
/// `end` what is visible of the buffer. So a bare JID is a full one with a nearer end.
#[derive(Clone)]
struct Parts {
    text: Arc<str>,
    at: u16,
    slash: u16,
    end: u16,
}

impl Parts {
    fn parse(input: &str) -> Result<Parts, JidError> {
        // RFC 7622 §3.1: the resource starts at the first slash, the localpart ends at the first @ before it.
        let (bare, resource) = match memchr::memchr(b'/', input.as_bytes()) {
            Some(slash) => (&input[..slash], Some(&input[slash + 1..])),
            None => (input, None),
        };
        let (local, domain) = match memchr::memchr(b'@', bare.as_bytes()) {
            Some(at) => (Some(&bare[..at]), &bare[at + 1..]),
            None => (None, bare),
        };
        let local = local.map(prepare_local).transpose()?;
        let domain = prepare_domain(domain)?;
        let resource = resource.map(prepare_resource).transpose()?;
        if let (
            None | Some(Cow::Borrowed(_)),
            Cow::Borrowed(domain),
            None | Some(Cow::Borrowed(_)),
        ) = (&local, &domain, &resource)
        {
            let at = local.as_ref().map_or(0, |local| local.len());
            let slash = at + usize::from(at > 0) + domain.len();
            let end = resource.as_ref().map_or(slash, |resource| slash + 1 + resource.len());
            // A root dot at the end of the domain is cut off, so the text may be shorter than the input.
            if end == input.len() {
                return Ok(Parts::new(Arc::from(input), at, slash, end));
            }
        }
        Ok(Parts::join(local.as_deref(), &domain, resource.as_deref()))
    }

    /// The parts are prepared already.
    fn join(local: Option<&str>, domain: &str, resource: Option<&str>) -> Parts {
        let at = local.map_or(0, str::len);
        let mut text = String::with_capacity(at + domain.len() + resource.map_or(0, str::len) + 2);
        if let Some(local) = local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(domain);
        let slash = text.len();
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(resource);
        }
        let end = text.len();
        Parts::new(Arc::from(text), at, slash, end)
    }

    fn new(text: Arc<str>, at: usize, slash: usize, end: usize) -> Parts {
        let short = |n: usize| {
            u16::try_from(n).expect("three parts of at most 1023 bytes and two separators")
        };
        Parts { text, at: short(at), slash: short(slash), end: short(end) }
    }

    #[inline]
    fn as_str(&self) -> &str {
        &self.text[..usize::from(self.end)]
    }

    fn local(&self) -> Option<&str> {
        (self.at > 0).then(|| &self.text[..usize::from(self.at)])
    }

    fn domain(&self) -> &str {
        let from = if self.at > 0 { usize::from(self.at) + 1 } else { 0 };
        &self.text[from..usize::from(self.slash)]
    }

    fn resource(&self) -> Option<&str> {
        (self.end > self.slash)
            .then(|| &self.text[usize::from(self.slash) + 1..usize::from(self.end)])
    }

    fn bare(&self) -> BareJid {
        BareJid(Parts { end: self.slash, ..self.clone() })
    }
}

/// Any address.
#[derive(Clone)]
pub struct Jid(Parts);

/// An address without a resource: an account, or a domain if it has no localpart.
#[derive(Clone)]
pub struct BareJid(Parts);

/// An address with a resource: one session of an account, an occupant, or a part of a service.
#[derive(Clone)]
pub struct FullJid(Parts);

impl Jid {
    /// Prepares an address.
    ///
    /// # Errors
    /// Names the part at fault.
    pub fn parse(input: &str) -> Result<Jid, JidError> {
        Parts::parse(input).map(Jid)
    }

    /// The localpart.
    #[must_use]
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The resourcepart.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.0.resource()
    }

    /// The address without its resource. Allocates nothing.
    #[must_use]
    pub fn bare(&self) -> BareJid {
        self.0.bare()
    }

    /// Itself, if it has a resource. Allocates nothing.
    #[must_use]
    pub fn full(&self) -> Option<FullJid> {
        self.is_full().then(|| FullJid(self.0.clone()))
    }

    /// Whether it has a resource.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.end > self.0.slash
    }

    /// Whether it has no resource.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        !self.is_full()
    }

    /// The text of the address without its resource.
    #[must_use]
    pub fn bare_str(&self) -> &str {
        &self.0.text[..usize::from(self.0.slash)]
    }
}

impl BareJid {
    /// Prepares an address without a resource.
    ///
    /// # Errors
    /// Names the part at fault; `JidError::Form` if there is a resource.
    pub fn parse(input: &str) -> Result<BareJid, JidError> {
        let parts = Parts::parse(input)?;
        if parts.end > parts.slash { Err(JidError::Form) } else { Ok(BareJid(parts)) }
    }

    /// Prepares an address from its parts.
    ///
    /// # Errors
    /// Names the part at fault.
    pub fn new(local: Option<&str>, domain: &str) -> Result<BareJid, JidError> {
        let local = local.map(prepare_local).transpose()?;
        Ok(BareJid(Parts::join(local.as_deref(), &prepare_domain(domain)?, None)))
    }

    /// The localpart; none for a domain.
    #[must_use]
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The full address of a resource of it.
    ///
    /// # Errors
    /// `JidError::Resource`.
    pub fn with_resource(&self, resource: &str) -> Result<FullJid, JidError> {
        Ok(FullJid(Parts::join(self.local(), self.domain(), Some(&prepare_resource(resource)?))))
    }
}

impl FullJid {
    /// Prepares an address with a resource.
    ///
    /// # Errors
    /// Names the part at fault; `JidError::Form` if there is no resource.
    pub fn parse(input: &str) -> Result<FullJid, JidError> {
        let parts = Parts::parse(input)?;
        if parts.end > parts.slash { Ok(FullJid(parts)) } else { Err(JidError::Form) }
    }

    /// The localpart.
    #[must_use]
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The resourcepart.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.0.resource().expect("a full address has a resource")
    }

    /// The address without its resource. Allocates nothing.
    #[must_use]
    pub fn bare(&self) -> BareJid {
        self.0.bare()
    }

    /// The text of the address without its resource.
    #[must_use]
    pub fn bare_str(&self) -> &str {
        &self.0.text[..usize::from(self.0.slash)]
    }
}

macro_rules! common {
    ($($name:ident)*) => {$(
        impl $name {
            /// The whole address as text.
            #[must_use]
            #[inline]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The domainpart.
            #[must_use]
            pub fn domain(&self) -> &str {
                self.0.domain()
            }
        }

        impl PartialEq for $name {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl Hash for $name {
            #[inline]
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = JidError;

            fn from_str(input: &str) -> Result<Self, JidError> {
                $name::parse(input)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an XMPP address")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )*};
}

common! { Jid BareJid FullJid }

impl From<BareJid> for Jid {
    fn from(bare: BareJid) -> Jid {
        Jid(bare.0)
    }
}

impl From<FullJid> for Jid {
    fn from(full: FullJid) -> Jid {
        Jid(full.0)
    }
}

impl From<&BareJid> for Jid {
    fn from(bare: &BareJid) -> Jid {
        Jid(bare.0.clone())
    }
}

impl From<&FullJid> for Jid {
    fn from(full: &FullJid) -> Jid {
        Jid(full.0.clone())
    }
}

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

fn prepare_local(input: &str) -> Result<Cow<'_, str>, JidError> {
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

fn prepare_resource(input: &str) -> Result<Cow<'_, str>, JidError> {
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

fn prepare_domain(input: &str) -> Result<Cow<'_, str>, JidError> {
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
