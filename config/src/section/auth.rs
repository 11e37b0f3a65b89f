//! `[auth]`: where passwords, tokens and certificates of users are checked. `[[auth.backends]]` are asked in their order, each of a
//! `kind` with keys of its own; without any, the accounts of this server are all there is.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;
use crate::value::{OneOf, Words};

mod http;
mod jwt;
mod ldap;
mod program;
mod sql;

pub use http::HttpCall;
pub use jwt::{Jwt, JwtAlgorithm, JwtKey};
pub use ldap::{Ldap, LdapSecurity};
pub use program::Program;
pub use sql::{PasswordFormat, Sql};

/// The `[auth]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Asked in this order; the first that knows an account decides.
    pub backends: Vec<AuthBackend>,
    /// Whether an account that a backend knows is made here when it first signs in. Else it is refused with `not-authorized`.
    pub make_accounts: bool,
    /// How long a password that another backend found right counts as right without asking again. Zero: not at all.
    pub remember: Duration,
    /// How many of them are remembered. Beyond: those not used lately are forgotten.
    pub remembered_max: usize,
    /// While the database cannot be read: how long after their SCRAM keys were last looked at users can sign in by them. Zero: nobody can.
    pub cache: Duration,
    /// Of how many accounts they are kept for that. Beyond: those not used lately are forgotten.
    pub cache_max: usize,
}

/// `[[auth.backends]]`: one source of accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthBackend {
    /// The accounts of this server.
    Internal,
    /// A database of somebody else's schema.
    Sql(Box<Sql>),
    /// A directory.
    Ldap(Box<Ldap>),
    /// Signed tokens.
    Jwt(Box<Jwt>),
    /// A service of the operator's, asked over HTTP.
    Http(Box<HttpCall>),
    /// A program of the operator's, spoken to over pipes.
    Program(Box<Program>),
    /// Certificates of clients.
    Certificate(Certificate),
}

impl AuthBackend {
    /// Its `kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            AuthBackend::Internal => "internal",
            AuthBackend::Sql(_) => "sql",
            AuthBackend::Ldap(_) => "ldap",
            AuthBackend::Jwt(_) => "jwt",
            AuthBackend::Http(_) => "http",
            AuthBackend::Program(_) => "program",
            AuthBackend::Certificate(_) => "certificate",
        }
    }
}

/// `kind = "certificate"`: SASL EXTERNAL for clients (XEP-0178 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who may issue them, PEM.
    pub authorities: PathBuf,
    /// What in a certificate names the account; the first that is there.
    pub names: Vec<CertificateName>,
}

/// What in a certificate names an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// `id-on-xmppAddr` in the subject alternative name (RFC 6120 §13.7.1.4).
    XmppAddr,
    /// An e-mail address in the subject alternative name, of one of our domains.
    Email,
    /// The common name: a JID, or a localpart of the global domain.
    CommonName,
}

/// Bounds that every backend outside has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// One question, from when it is asked, waiting included. Beyond: `temporary-auth-failure`.
    pub timeout: Duration,
    /// Questions at once: connections, or processes. Beyond: a question waits.
    pub at_once_max: usize,
    /// Questions that wait. Beyond: `temporary-auth-failure`.
    pub waiting_max: usize,
}

pub(crate) fn bounds(table: &Table<'_>, at_once: usize) -> Bounds {
    Bounds {
        timeout: table.between(
            "timeout",
            Duration::from_secs(5),
            Duration::from_millis(100),
            Duration::from_secs(60),
            "a duration from \"100ms\" to \"1m\"",
        ),
        at_once_max: table.between("at_once_max", at_once, 1, 1_000, "a number from 1 to 1000"),
        waiting_max: table.between(
            "waiting_max",
            1_000,
            1,
            1_000_000,
            "a number from 1 to 1000000",
        ),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Internal,
    Sql,
    Ldap,
    Jwt,
    Http,
    Program,
    Certificate,
}

impl Words for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("internal", Kind::Internal),
        ("sql", Kind::Sql),
        ("ldap", Kind::Ldap),
        ("jwt", Kind::Jwt),
        ("http", Kind::Http),
        ("program", Kind::Program),
        ("certificate", Kind::Certificate),
    ];
}

impl Words for CertificateName {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("xmpp-addr", CertificateName::XmppAddr),
        ("email", CertificateName::Email),
        ("common-name", CertificateName::CommonName),
    ];
}

pub(crate) fn read(table: &Table<'_>) -> Auth {
    let mut backends: Vec<AuthBackend> = table.sections("backends").iter().map(backend).collect();
    if backends.is_empty() {
        backends.push(AuthBackend::Internal);
    }
    let count = |kind: fn(&AuthBackend) -> bool| backends.iter().filter(|one| kind(one)).count();
    let twice = count(|one| matches!(one, AuthBackend::Internal)) > 1
        || count(|one| matches!(one, AuthBackend::Certificate(_))) > 1;
    if twice {
        table.refuse(
            "backends",
            "one of kind \"internal\", and one \"certificate\", at most",
            "two",
        );
    }
    Auth {
        backends,
        make_accounts: table.value("make_accounts", true),
        remember: table.between(
            "remember",
            Duration::ZERO,
            Duration::ZERO,
            Duration::from_secs(86_400),
            "a duration from \"0s\" to \"1d\"",
        ),
        remembered_max: table.between(
            "remembered_max",
            10_000,
            2,
            10_000_000,
            "a number from 2 to 10000000",
        ),
        cache: table.between(
            "cache",
            Duration::ZERO,
            Duration::ZERO,
            Duration::from_secs(7 * 86_400),
            "a duration from \"0s\" to \"7d\"",
        ),
        cache_max: table.between("cache_max", 10_000, 2, 10_000_000, "a number from 2 to 10000000"),
    }
}

fn backend(table: &Table<'_>) -> AuthBackend {
    match table.required::<OneOf<Kind>>("kind").0 {
        Kind::Internal => AuthBackend::Internal,
        Kind::Sql => AuthBackend::Sql(Box::new(sql::read(table))),
        Kind::Ldap => AuthBackend::Ldap(Box::new(ldap::read(table))),
        Kind::Jwt => AuthBackend::Jwt(Box::new(jwt::read(table))),
        Kind::Http => AuthBackend::Http(Box::new(http::read(table))),
        Kind::Program => AuthBackend::Program(Box::new(program::read(table))),
        Kind::Certificate => AuthBackend::Certificate(Certificate {
            authorities: table.path("authorities", None),
            names: table
                .value("names", vec![OneOf(CertificateName::XmppAddr)])
                .into_iter()
                .map(|name| name.0)
                .collect(),
        }),
    }
}
