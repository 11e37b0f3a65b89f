//! Room `s2s::federation::net`: whom a certificate names (RFC 6120 §13.7.1.2, RFC 9525 §6, RFC 4985). Called by `trust`; calls x509-parser.
//!
//! A name counts only as a subjectAltName: a dNSName, which may have `*` as its whole leftmost label; an SRV-ID of `_xmpp-server` (an SRV-ID
//! of another service proves nothing for streams between servers); an XmppAddr that is a domain and nothing else. The Common Name is
//! read to tell the operator that it does not count (RFC 9525 §2), and for nothing else.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use xmpp::jid::{Jid, domain_to_ascii};

/// Names of one certificate. Beyond: it is not looked at.
pub const NAMES_MAX: usize = 1_000;

/// `id-on-xmppAddr` (RFC 6120 §13.7.1.4), a [`UTF8_STRING`].
pub const XMPP_ADDR: &str = "1.3.6.1.5.5.7.8.5";
/// `id-on-dnsSRV` (RFC 4985 §2).
const DNS_SRV: &str = "1.3.6.1.5.5.7.8.7";
/// Tags of DER (X.690 §8.1.2).
pub const UTF8_STRING: u8 = 0x0c;
const IA5_STRING: u8 = 0x16;
const SERVICE: &str = "_xmpp-server.";

/// The names of a certificate, as they are written in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// dNSNames.
    pub dns: Vec<String>,
    /// SRV-IDs, with their service.
    pub srv: Vec<String>,
    /// XmppAddrs.
    pub xmpp: Vec<String>,
    /// Common Names. They prove nothing.
    pub common: Vec<String>,
    /// Whether its issuer is its subject.
    pub self_issued: bool,
}

/// What a certificate says of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It names it.
    Named,
    /// Only its Common Name does.
    CommonNameOnly,
    /// It does not.
    NotNamed,
}

/// Why a certificate cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no certificate, or one of its extensions is malformed.
    #[error("it cannot be read")]
    Malformed,
    /// It has more than [`NAMES_MAX`] names.
    #[error("it has more than {NAMES_MAX} names")]
    TooManyNames,
}

impl Names {
    /// Those of a certificate.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Names, Unreadable> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| Unreadable::Malformed)?;
        let extension = parsed.subject_alternative_name().map_err(|_| Unreadable::Malformed)?;
        if !rest.is_empty() {
            return Err(Unreadable::Malformed);
        }
        let mut names = Names {
            common: parsed
                .subject()
                .iter_common_name()
                .filter_map(|name| name.as_str().ok().map(str::to_owned))
                .collect(),
            self_issued: parsed.subject() == parsed.issuer(),
            ..Names::default()
        };
        let Some(extension) = extension else { return Ok(names) };
        let all = &extension.value.general_names;
        if all.len() > NAMES_MAX {
            return Err(Unreadable::TooManyNames);
        }
        for name in all {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::OtherName(kind, value) => match kind.to_id_string().as_str() {
                    XMPP_ADDR => names.xmpp.extend(text(value, UTF8_STRING)),
                    DNS_SRV => names.srv.extend(text(value, IA5_STRING)),
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(names)
    }

    /// What they say of `domain` (prepared form).
    #[must_use]
    pub fn name(&self, domain: &str) -> Naming {
        let ascii = domain_to_ascii(domain);
        let of_server = |name: &String| match name.get(..SERVICE.len()) {
            Some(service) if service.eq_ignore_ascii_case(SERVICE) => {
                is_name_of(&name[SERVICE.len()..], &ascii)
            }
            _ => false,
        };
        let is_address = |name: &String| {
            Jid::parse(name).is_ok_and(|jid| {
                jid.local().is_none() && jid.resource().is_none() && jid.domain() == domain
            })
        };
        if self.has_dns_name(domain)
            || self.srv.iter().any(of_server)
            || self.xmpp.iter().any(is_address)
        {
            Naming::Named
        } else if self.common.iter().any(|name| is_name_of(name, &ascii)) {
            Naming::CommonNameOnly
        } else {
            Naming::NotNamed
        }
    }

    /// Whether a dNSName of it names `domain` (prepared form).
    #[must_use]
    pub fn has_dns_name(&self, domain: &str) -> bool {
        let ascii = domain_to_ascii(domain);
        self.dns.iter().any(|name| is_name_of(name, &ascii))
    }

    /// For people: the names that count.
    #[must_use]
    pub fn words(&self) -> String {
        let all: Vec<&str> =
            [&self.dns, &self.srv, &self.xmpp].into_iter().flatten().map(String::as_str).collect();
        match all.as_slice() {
            [] => "nobody".to_owned(),
            [first @ .., last] if all.len() <= 8 => match first {
                [] => (*last).to_owned(),
                _ => format!("{} and {last}", first.join(", ")),
            },
            many => format!("{} and {} more", many[..8].join(", "), many.len() - 8),
        }
    }
}

/// Whether a name in a certificate is that of `domain` (A-labels). A `*` stands for exactly one label, the leftmost, and for all of it
/// (RFC 9525 §6.3).
fn is_name_of(name: &str, domain: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => domain
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        None => name.eq_ignore_ascii_case(domain),
    }
}

/// The text of an otherName: `[0] EXPLICIT` a string of that tag, in DER.
#[must_use]
pub fn text(value: &[u8], tag: u8) -> Option<String> {
    let inside = tagged(value, 0xa0).unwrap_or(value);
    String::from_utf8(tagged(inside, tag)?.to_vec()).ok()
}

/// The content of one element of that tag, which is all there is.
fn tagged(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let [found, first, rest @ ..] = bytes else { return None };
    let (length, content) = match first {
        _ if *found != tag => return None,
        // X.690 §8.1.3: a length below 128 is the octet itself; beyond, so many octets of it follow.
        0..=0x7f => (usize::from(*first), rest),
        0x81 | 0x82 => {
            let digits = usize::from(first - 0x80);
            let length = rest.get(..digits)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
            (length, &rest[digits..])
        }
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_is_one_label() {
        let check =
            |name, domain, expected| assert_eq!(is_name_of(name, domain), expected, "{name}");
        check("a.example", "a.example", true);
        check("A.Example", "a.example", true);
        check("*.example", "a.example", true);
        check("*.example", "b.a.example", false);
        check("*.example", "example", false);
        check("*", "example", false);
        check("*.", "example", false);
        check("a*.example", "ab.example", false);
        check("a.*.example", "a.b.example", false);
        check("*.*.example", "a.b.example", false);
        check("*a.example", "*a.example", true);
        check("a.example\0.evil.example", "a.example", false);
        check("xn--mnchen-3ya.example", "xn--mnchen-3ya.example", true);
        check("", "a.example", false);
    }

    #[test]
    fn kinds_of_names_do_not_stand_for_each_other() {
        let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let dns = |name: &str| Names { dns: strings(&[name]), ..Names::default() };
        let srv = |name: &str| Names { srv: strings(&[name]), ..Names::default() };
        let xmpp = |name: &str| Names { xmpp: strings(&[name]), ..Names::default() };
        let common = |name: &str| Names { common: strings(&[name]), ..Names::default() };
        let check =
            |names: Names, domain, expected| assert_eq!(names.name(domain), expected, "{names:?}");
        check(dns("_xmpp-server.a.example"), "a.example", Naming::NotNamed);
        check(dns("xn--mnchen-3ya.example"), "münchen.example", Naming::Named);
        check(srv("_xmpp-server.a.example"), "a.example", Naming::Named);
        check(srv("_XMPP-Server.*.example"), "a.example", Naming::Named);
        check(srv("_xmpp-client.a.example"), "a.example", Naming::NotNamed);
        check(srv("a.example"), "a.example", Naming::NotNamed);
        check(srv("_xmpp-serverä.a.example"), "a.example", Naming::NotNamed);
        check(xmpp("a.example"), "a.example", Naming::Named);
        check(xmpp("A.Example"), "a.example", Naming::Named);
        check(xmpp("münchen.example"), "münchen.example", Naming::Named);
        check(xmpp("me@a.example"), "a.example", Naming::NotNamed);
        check(xmpp("a.example/r"), "a.example", Naming::NotNamed);
        check(xmpp("*.example"), "a.example", Naming::NotNamed);
        check(common("a.example"), "a.example", Naming::CommonNameOnly);
        check(
            Names { dns: strings(&["b.example"]), ..common("a.example") },
            "b.example",
            Naming::Named,
        );
        check(common("b.example"), "a.example", Naming::NotNamed);
    }
}
