//! Addresses (RFC 7622): prepared once, at the door (`prepare`), and compared as text ever after. Called by everyone.
//!
//! Deliberately absent: unescaping (XEP-0106), an escaped localpart is another account.

mod prepare;

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

pub use prepare::domain_to_ascii;
use prepare::{prepare_domain, prepare_local, prepare_resource};

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
