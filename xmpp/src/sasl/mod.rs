//! SASL (RFC 4422) as XMPP uses it: mechanisms, failures, and one authentication exchange as a value.
//!
//! `stream::negotiate` wraps it in the elements of RFC 6120 §6 or of XEP-0388 (SASL2): nothing
//! here knows XML or base64 around a message. One mechanism a file; `exchange` is the receiving side of any of them. Deliberately absent: randomness (nonces are handed in), attempts counting and deadlines (the stream's business).

pub mod anonymous;
pub mod downgrade;
mod exchange;
pub mod external;
mod failure;
pub mod keys;
pub mod oauthbearer;
pub mod plain;
pub mod scram;
pub mod token;

use std::fmt;

use crate::jid::BareJid;
pub use downgrade::Offered;
pub use exchange::{Exchange, Step, Terms};
pub use failure::Failure;
pub use keys::{
    BadPassword, Hash, Hashes, ITERATIONS_DEFAULT, Password, SALT_BYTES, ScramKeys, Secret,
    saslprep,
};
pub use token::{TokenBinding, Tokens};

/// A mechanism we know. What is offered on a stream is the caller's list, thinned by what the stream allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// SCRAM-*, with channel binding when `plus`.
    Scram {
        /// The hash function.
        hash: Hash,
        /// The -PLUS variant.
        plus: bool,
    },
    /// RFC 4616.
    Plain,
    /// RFC 4422 appendix A, by TLS client certificate.
    External,
    /// RFC 7628: a token of somebody both sides trust.
    OauthBearer,
    /// RFC 4505.
    Anonymous,
    /// HT-SHA-256-*, by a token (XEP-0484): never in the list of the others.
    Token(TokenBinding),
}

impl Mechanism {
    /// Every mechanism, the one to prefer first.
    pub const ALL: [Mechanism; 14] = [
        Mechanism::External,
        Mechanism::Scram { hash: Hash::Sha512, plus: true },
        Mechanism::Scram { hash: Hash::Sha256, plus: true },
        Mechanism::Scram { hash: Hash::Sha1, plus: true },
        Mechanism::Scram { hash: Hash::Sha512, plus: false },
        Mechanism::Scram { hash: Hash::Sha256, plus: false },
        Mechanism::Scram { hash: Hash::Sha1, plus: false },
        Mechanism::OauthBearer,
        Mechanism::Plain,
        Mechanism::Anonymous,
        Mechanism::Token(TokenBinding::Exporter),
        Mechanism::Token(TokenBinding::EndPoint),
        Mechanism::Token(TokenBinding::Unique),
        Mechanism::Token(TokenBinding::None),
    ];

    /// The name in the IANA registry.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Scram { hash: Hash::Sha1, plus: false } => "SCRAM-SHA-1",
            Mechanism::Scram { hash: Hash::Sha1, plus: true } => "SCRAM-SHA-1-PLUS",
            Mechanism::Scram { hash: Hash::Sha256, plus: false } => "SCRAM-SHA-256",
            Mechanism::Scram { hash: Hash::Sha256, plus: true } => "SCRAM-SHA-256-PLUS",
            Mechanism::Scram { hash: Hash::Sha512, plus: false } => "SCRAM-SHA-512",
            Mechanism::Scram { hash: Hash::Sha512, plus: true } => "SCRAM-SHA-512-PLUS",
            Mechanism::Plain => "PLAIN",
            Mechanism::External => "EXTERNAL",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Anonymous => "ANONYMOUS",
            Mechanism::Token(TokenBinding::None) => "HT-SHA-256-NONE",
            Mechanism::Token(TokenBinding::Unique) => "HT-SHA-256-UNIQ",
            Mechanism::Token(TokenBinding::EndPoint) => "HT-SHA-256-ENDP",
            Mechanism::Token(TokenBinding::Exporter) => "HT-SHA-256-EXPR",
        }
    }

    /// The mechanism of that name (upper case, as the registry has it).
    pub fn parse(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// Does it bind to the TLS channel?
    pub fn is_plus(self) -> bool {
        matches!(self, Mechanism::Scram { plus: true, .. })
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What ties an authentication to the TLS connection under it (RFC 5056). Empty when there is no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelBindings {
    /// `tls-exporter` (RFC 9266): 32 bytes exported under `EXPORTER-Channel-Binding`. Only with TLS 1.3, or 1.2 with extended
    /// master secret: whoever fills this in sees to it.
    pub exporter: Option<[u8; 32]>,
    /// `tls-server-end-point` (RFC 5929 §4): the hash of our certificate.
    pub server_end_point: Option<Vec<u8>>,
}

impl ChannelBindings {
    /// The types that can be used, the stronger first: what XEP-0440 advertises.
    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        let exporter = self.exporter.is_some().then_some("tls-exporter");
        exporter
            .into_iter()
            .chain(self.server_end_point.is_some().then_some("tls-server-end-point"))
    }

    /// The data of one type. `tls-unique` is never there: TLS 1.3 has no safe one.
    pub fn data(&self, kind: &str) -> Option<&[u8]> {
        match kind {
            "tls-exporter" => self.exporter.as_ref().map(|data| data.as_slice()),
            "tls-server-end-point" => self.server_end_point.as_deref(),
            _ => None,
        }
    }

    /// No channel to bind to.
    pub fn is_empty(&self) -> bool {
        self.exporter.is_none() && self.server_end_point.is_none()
    }
}

/// The answer to [`Step::LookUp`].
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The account's keys for the hash that was asked for.
    Keys(ScramKeys),
    /// The account exists, may not log in, and may be told so once it has proved who it is.
    Disabled(ScramKeys),
    /// The same of one whose password has expired.
    Expired(ScramKeys),
    /// No such account, or no keys for this hash. The client cannot tell it from a wrong password.
    Unknown,
    /// We could not find out.
    Unavailable,
}

/// The answer to [`Step::CheckPlain`] and [`Step::Admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is right.
    Right,
    /// It is not, or there is no such account.
    Wrong,
    /// It is right, but the account is suspended.
    Disabled,
    /// It was right once.
    Expired,
    /// We could not find out.
    Unavailable,
}

/// The account that a simple user name (RFC 6120 §6.3.8) means on our domain; `None` if no account can have that name.
pub(crate) fn account_of(username: &str, domain: &str) -> Option<BareJid> {
    if username.is_empty() || username.contains(['@', '/']) {
        return None;
    }
    BareJid::parse(&format!("{username}@{domain}"))
        .ok()
        .filter(|jid| jid.local().is_some() && jid.domain() == domain)
}

/// An authorization identity must be the account itself or be left out (bad-input row B-089).
pub(crate) fn is_own_authzid(authzid: &str, account: Option<&BareJid>) -> bool {
    match (BareJid::parse(authzid), account) {
        (Ok(authzid), Some(account)) => authzid == *account,
        _ => false,
    }
}

#[cfg(test)]
pub(crate) use exchange::tests;
