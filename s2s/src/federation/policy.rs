//! Room `s2s::federation`: what is asked of whom (RFC 6120 §13.7.2): a pure answer to "what of this domain?". Called by
//! `incoming` and `outgoing` before anything is sent to a domain or believed of it, and by `check`.
//!
//! The most exact rule counts, and it alone: that of the domain itself, then that of the longest `*.suffix`, then that of `*`. A domain on the
//! blocklist, or below one that is, is refused whatever the rules say.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use config::{S2sCertificate, S2sPolicy, S2sTls};
use xmpp::jid::BareJid;

/// What is asked of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether there are streams with it at all. If not: `policy-violation` to its streams, `not-allowed` to our senders.
    pub allow: bool,
    /// What its certificate is worth.
    pub certificate: Certificate,
    /// Whether there must be TLS.
    pub tls: Tls,
    /// Bytes a second that it may send us, if not as everybody.
    pub bytes_per_second: Option<u64>,
}

/// What a certificate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Without a valid one there is no stream; dialback is neither offered nor taken.
    Required,
    /// With a valid one SASL EXTERNAL, without one dialback.
    Preferred,
    /// It is not looked at: always dialback.
    Ignored,
}

/// Whether there must be TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Nothing is said in the clear but STARTTLS.
    Required,
    /// Dialback is taken, and stanzas are sent, in the clear if the peer has no TLS.
    Optional,
}

impl Policy {
    /// What is asked of everybody where nothing is configured.
    pub const DEFAULT: Policy = Policy {
        allow: true,
        certificate: Certificate::Preferred,
        tls: Tls::Required,
        bytes_per_second: None,
    };

    /// Whether SASL EXTERNAL may prove the domain, given a certificate that does.
    #[must_use]
    pub fn external(&self) -> bool {
        self.allow && self.certificate != Certificate::Ignored
    }

    /// Whether dialback may prove the domain on a stream with TLS (`encrypted`), or without.
    #[must_use]
    pub fn dialback(&self, encrypted: bool) -> bool {
        self.allow
            && self.certificate != Certificate::Required
            && (encrypted || self.tls == Tls::Optional)
    }
}

/// The rules for all domains.
#[derive(Clone, Debug)]
pub struct Policies {
    exact: HashMap<Box<str>, Policy>,
    /// By suffix, without `*.`.
    below: HashMap<Box<str>, Policy>,
    everybody: Policy,
    blocked: HashSet<Box<str>>,
}

impl Default for Policies {
    fn default() -> Self {
        Policies {
            exact: HashMap::new(),
            below: HashMap::new(),
            everybody: Policy::DEFAULT,
            blocked: HashSet::new(),
        }
    }
}

/// The blocklist cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}: {1}")]
pub struct BlocklistError(PathBuf, String);

impl Policies {
    /// The rules of a configuration, and the domains in the file that it names.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is no domain.
    pub fn read(s2s: &config::S2s) -> Result<Policies, BlocklistError> {
        let mut policies = Policies::new(&s2s.policy);
        if let Some(file) = &s2s.blocklist {
            let failed = |why: String| BlocklistError(file.clone(), why);
            let text = std::fs::read_to_string(file).map_err(|cause| failed(cause.to_string()))?;
            policies.blocked = blocklist(&text).map_err(failed)?;
        }
        Ok(policies)
    }

    /// These rules alone.
    #[must_use]
    pub fn new(rules: &[S2sPolicy]) -> Policies {
        let mut policies = Policies::default();
        for rule in rules {
            let policy = Policy {
                allow: rule.allow,
                certificate: match rule.certificate {
                    S2sCertificate::Required => Certificate::Required,
                    S2sCertificate::Preferred => Certificate::Preferred,
                    S2sCertificate::Ignored => Certificate::Ignored,
                },
                tls: match rule.tls {
                    S2sTls::Required => Tls::Required,
                    S2sTls::Optional => Tls::Optional,
                },
                bytes_per_second: rule.bytes_per_second,
            };
            match rule.domain.strip_prefix("*.") {
                Some(suffix) => drop(policies.below.insert(prepared(suffix), policy)),
                None if rule.domain == "*" => policies.everybody = policy,
                None => drop(policies.exact.insert(prepared(&rule.domain), policy)),
            }
        }
        policies
    }

    /// What is asked of a domain (prepared form).
    #[must_use]
    pub fn of(&self, domain: &str) -> Policy {
        let policy = self
            .exact
            .get(domain)
            .or_else(|| parents(domain).skip(1).find_map(|suffix| self.below.get(suffix)));
        let policy = *policy.unwrap_or(&self.everybody);
        Policy { allow: policy.allow && !self.is_blocked(domain), ..policy }
    }

    /// Whether a domain (prepared form), or one above it, is on the blocklist.
    #[must_use]
    pub fn is_blocked(&self, domain: &str) -> bool {
        !self.blocked.is_empty() && parents(domain).any(|one| self.blocked.contains(one))
    }
}

/// A domain and those above it, the longest first.
fn parents(domain: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(domain);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.split_once('.').map(|(_, parent)| parent);
        Some(this)
    })
}

fn prepared(domain: &str) -> Box<str> {
    let bare = BareJid::new(None, domain);
    bare.map_or_else(|_| domain.into(), |bare| bare.domain().into())
}

/// One domain a line; what follows `#` is a remark.
fn blocklist(text: &str) -> Result<HashSet<Box<str>>, String> {
    let mut all = HashSet::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let line = line.strip_prefix("*.").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let bare = BareJid::new(None, line)
            .map_err(|_| format!("line {}: {line:?} is no domain", number + 1))?;
        all.insert(bare.domain().into());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(domain: &str, allow: bool) -> S2sPolicy {
        S2sPolicy {
            domain: domain.to_owned(),
            allow,
            certificate: S2sCertificate::Preferred,
            tls: S2sTls::Required,
            bytes_per_second: None,
        }
    }

    #[test]
    fn the_most_exact_rule_counts_and_it_alone() {
        let rules = [
            rule("*", false),
            rule("*.example", true),
            rule("*.a.example", false),
            rule("b.a.example", true),
            rule("*.münchen.example", false),
        ];
        let policies = Policies::new(&rules);
        let check = |domain, allow| assert_eq!(policies.of(domain).allow, allow, "{domain}");
        check("elsewhere.net", false);
        check("a.example", true);
        check("example", false);
        check("x.a.example", false);
        check("b.a.example", true);
        check("c.b.a.example", false);
        check("x.münchen.example", false);
        assert_eq!(Policies::default().of("a.example"), Policy::DEFAULT);
    }

    #[test]
    fn the_blocklist_beats_every_rule_and_counts_for_what_is_below() {
        let text = "# spam\nbad.example   # since May\n\n*.worse.example\nBÜCHER.example\n";
        let blocked = blocklist(text).unwrap();
        let policies =
            Policies { blocked, ..Policies::new(&[rule("bad.example", true), rule("*", true)]) };
        let check = |domain, allow| assert_eq!(policies.of(domain).allow, allow, "{domain}");
        check("bad.example", false);
        check("rooms.bad.example", false);
        check("notbad.example", true);
        check("worse.example", false);
        check("bücher.example", false);
        check("example", true);
        assert_eq!(
            blocklist("ok.example\nno domain\n").unwrap_err(),
            "line 2: \"no domain\" is no domain"
        );
    }

    #[test]
    fn dialback_is_for_those_who_may_do_without_a_certificate() {
        let policy = |certificate, tls| Policy { certificate, tls, ..Policy::DEFAULT };
        let check = |policy: Policy, external, dialback, in_the_clear| {
            let found = (policy.external(), policy.dialback(true), policy.dialback(false));
            assert_eq!(found, (external, dialback, in_the_clear), "{policy:?}");
        };
        check(policy(Certificate::Required, Tls::Required), true, false, false);
        check(policy(Certificate::Required, Tls::Optional), true, false, false);
        check(policy(Certificate::Preferred, Tls::Required), true, true, false);
        check(policy(Certificate::Preferred, Tls::Optional), true, true, true);
        check(policy(Certificate::Ignored, Tls::Required), false, true, false);
        check(policy(Certificate::Ignored, Tls::Optional), false, true, true);
        check(Policy { allow: false, ..Policy::DEFAULT }, false, false, false);
    }
}
