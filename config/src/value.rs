//! From a TOML value to one of ours: each type says in words what it expects, and in words what it found instead.
//!
//! Called by `table`. Durations are written `"500ms"`, `"4s"`, `"10m"`, `"1h"`, `"2d"`; sizes `4096` or `"64KiB"`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

/// A value that a key can have.
pub(crate) trait FromToml: Sized {
    /// What would be right, in words, to follow "expected".
    fn expected() -> String;
    /// The value, or in words what is there instead.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;
    /// Something to go on reading with after a problem was noted; never handed out.
    fn stand_in() -> Self;
}

/// In words, what a value is.
pub(crate) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(yes) => format!("{yes}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) => format!("a list of {}", items.len()),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| describe(value))
}

impl FromToml for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| describe(value))
    }
    fn stand_in() -> Self {
        false
    }
}

macro_rules! whole_number {
    ($($number:ty),*) => {$(
        impl FromToml for $number {
            fn expected() -> String {
                format!("a whole number from 0 to {}", <$number>::MAX)
            }
            fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
                let integer = value.as_integer().ok_or_else(|| describe(value))?;
                <$number>::from_str_radix(integer.as_str(), integer.radix())
                    .map_err(|_| describe(value))
            }
            fn stand_in() -> Self {
                0
            }
        }
    )*};
}
whole_number!(u8, u16, u32, u64, usize);

impl FromToml for f64 {
    fn expected() -> String {
        "a number".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let written = match value {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => return Err(describe(value)),
        };
        written.parse().map_err(|_| describe(value))
    }
    fn stand_in() -> Self {
        0.0
    }
}

impl FromToml for String {
    fn expected() -> String {
        "a text in quotes".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
    fn stand_in() -> Self {
        String::new()
    }
}

impl FromToml for PathBuf {
    fn expected() -> String {
        "the path of a file or directory, in quotes".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match text(value)? {
            "" => Err("an empty path".to_owned()),
            path => Ok(PathBuf::from(path)),
        }
    }
    fn stand_in() -> Self {
        PathBuf::new()
    }
}

impl FromToml for SocketAddr {
    fn expected() -> String {
        "an address and a port, as in \"127.0.0.1:5222\" or \"[::]:5222\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        text(value)?.parse().map_err(|_| describe(value))
    }
    fn stand_in() -> Self {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }
}

/// A list takes one value alone as a list of one.
/// A value that is one of a few words.
pub(crate) trait Words: Copy + 'static {
    /// Each with its word; the first is the stand-in.
    const WORDS: &'static [(&'static str, Self)];
}

/// Reads a word.
#[derive(Clone, Copy)]
pub(crate) struct OneOf<T>(pub(crate) T);

impl<T: Words> FromToml for OneOf<T> {
    fn expected() -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("one of {}", words.join(", "))
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let found = value.as_str().and_then(|text| T::WORDS.iter().find(|(word, _)| *word == text));
        found.map(|(_, value)| OneOf(*value)).ok_or_else(|| describe(value))
    }
    fn stand_in() -> Self {
        OneOf(T::WORDS[0].1)
    }
}

impl<T: FromToml> FromToml for Vec<T> {
    fn expected() -> String {
        format!("{}, or a list of such", T::expected())
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .map(|(at, item)| {
                    T::from_toml(item.get_ref()).map_err(|found| format!("{found} at place {at}"))
                })
                .collect(),
            one => Ok(vec![T::from_toml(one)?]),
        }
    }
    fn stand_in() -> Self {
        Vec::new()
    }
}

impl FromToml for Duration {
    fn expected() -> String {
        "a duration, as in \"500ms\", \"4s\", \"10m\", \"1h\" or \"2d\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        parse_duration(text(value)?).ok_or_else(|| describe(value))
    }
    fn stand_in() -> Self {
        Duration::from_secs(1)
    }
}

/// `"500ms"`, `"4s"`, `"10m"`, `"1h"`, `"2d"`: a whole number and a unit, nothing else.
#[must_use]
pub fn parse_duration(written: &str) -> Option<Duration> {
    let digits = written.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = written[..digits].parse().ok()?;
    let ms = match &written[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

/// A number of bytes: `4096`, `"64KiB"`, `"1MiB"`, `"2GiB"`.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Size(pub(crate) usize);

impl FromToml for Size {
    fn expected() -> String {
        "a size in bytes, as in 4096, \"64KiB\", \"1MiB\" or \"2GiB\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        if value.is_integer() {
            return usize::from_toml(value).map(Size);
        }
        parse_size(text(value)?).map(Size).ok_or_else(|| describe(value))
    }
    fn stand_in() -> Self {
        Size(0)
    }
}

fn parse_size(written: &str) -> Option<usize> {
    let digits = written.find(|c: char| !c.is_ascii_digit()).unwrap_or(written.len());
    let number: usize = written[..digits].parse().ok()?;
    let unit = match &written[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A domain name as it stands after the dot and the at sign: labels of letters, digits and hyphens, lower case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DomainName(pub(crate) String);

impl FromToml for DomainName {
    fn expected() -> String {
        "a domain name in lower case, as in \"chat.example\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let name = text(value)?;
        if is_domain(name) { Ok(DomainName(name.to_owned())) } else { Err(describe(value)) }
    }
    fn stand_in() -> Self {
        DomainName(String::new())
    }
}

/// Whether this can be the name of a domain, in lower case.
#[must_use]
pub fn is_domain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|c| c == '-' || c == '_' || (c.is_alphanumeric() && !c.is_uppercase()))
        })
}

/// An account's address, `local@domain`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AccountName(pub(crate) String);

impl FromToml for AccountName {
    fn expected() -> String {
        "an account, as in \"admin@chat.example\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let name = text(value)?;
        match name.split_once('@') {
            Some((local, domain))
                if !local.is_empty()
                    && is_domain(domain)
                    && !local.contains(|c: char| c.is_whitespace() || "\"&'/:<>@".contains(c)) =>
            {
                Ok(AccountName(format!("{}@{domain}", local.to_lowercase())))
            }
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        AccountName(String::new())
    }
}

/// Where somebody can be reached: an absolute URI (RFC 3986).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContactUri(pub(crate) String);

impl FromToml for ContactUri {
    fn expected() -> String {
        "a URI, as in \"mailto:abuse@chat.example\" or \"xmpp:admin@chat.example\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let uri = text(value)?;
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        let plain = |rest: &str| !rest.contains(|c: char| c.is_whitespace() || c.is_control());
        match uri.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) && !rest.is_empty() && plain(rest) => {
                Ok(ContactUri(uri.to_owned()))
            }
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        ContactUri(String::new())
    }
}

/// The name of a region: it becomes part of node names (`eu-0`) and may become part of a domain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegionName(pub(crate) String);

impl FromToml for RegionName {
    fn expected() -> String {
        "the name of a region: up to 32 lower-case letters, digits and hyphens, a letter first"
            .to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let name = text(value)?;
        if is_region(name) { Ok(RegionName(name.to_owned())) } else { Err(describe(value)) }
    }
    fn stand_in() -> Self {
        RegionName(String::new())
    }
}

/// Whether this can be the name of a region.
#[must_use]
pub fn is_region(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// A host name or address, and a port. Resolved when it is dialled, not here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostPort(pub(crate) String);

impl FromToml for HostPort {
    fn expected() -> String {
        "a host and a port, as in \"eu0.chat.example:5269\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let written = text(value)?;
        let good = match written.rsplit_once(':') {
            Some((host, port)) => {
                let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let host_good = match bare {
                    Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                    None => is_domain(host),
                };
                host_good && port.parse::<u16>().is_ok_and(|port| port != 0)
            }
            None => false,
        };
        if good { Ok(HostPort(written.to_owned())) } else { Err(describe(value)) }
    }
    fn stand_in() -> Self {
        HostPort(String::new())
    }
}

/// The SHA-256 of a certificate's DER. Shown and compared as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Reads 64 hexadecimal digits of either case, colons between them allowed (as OpenSSL prints them).
    #[must_use]
    pub fn parse(written: &str) -> Option<Fingerprint> {
        let digits: Vec<u8> = written
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        let pairs: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        if digits.len() % 2 == 1 {
            return None;
        }
        Some(Fingerprint(pairs.try_into().ok()?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromToml for Fingerprint {
    fn expected() -> String {
        "the SHA-256 of the peer's certificate, 64 hexadecimal digits".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Fingerprint::parse(text(value)?).ok_or_else(|| describe(value))
    }
    fn stand_in() -> Self {
        Fingerprint([0; 32])
    }
}
