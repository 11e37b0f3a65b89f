//! Auth: who may say that a password, a token or a certificate is right.
//!
//! Called by the session, between the steps of `xmpp::sasl`: `About` → [`Authenticator::about`], `LookUp` → [`Authenticator::scram`],
//! `CheckPlain` → [`Authenticator::plain`], `CheckToken` → [`Authenticator::token`], `Admit` → [`Authenticator::admit`]; and
//! [`throttle::Throttle`] around them all. [`chain::Chain`] answers: it asks the [`Backend`]s of the configuration in their order, and
//! the first that knows the account decides. One file a backend; [`internal`] has the account records of this server.
//!
//! Deliberately absent: the mechanisms themselves (`xmpp::sasl`), ANONYMOUS (which needs no secret), registration.

mod cache;
pub mod certificate;
pub mod chain;
mod gate;
pub mod http;
pub mod internal;
pub mod jwt;
pub mod ldap;
pub mod program;
pub mod sources;
pub mod sql;
pub mod stored;
mod theirs;
pub mod throttle;

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use xmpp::jid::BareJid;
use xmpp::sasl::{Credentials, Hash, Hashes, Password, Verdict};

pub use chain::Chain;
pub use internal::{Internal, Kept};
pub use stored::Stored;
pub use throttle::Throttle;

/// What is known of an account before anybody has proved anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// There is no such account.
    Unknown,
    /// There is.
    Known {
        /// The hashes there are SCRAM keys of; `None`: cannot be said.
        hashes: Option<Hashes>,
        /// Suspended: may not sign in, not even with a token.
        disabled: bool,
    },
    /// We could not find out.
    Unavailable,
}

/// Answers what a SASL exchange asks.
pub trait Authenticator: Send + Sync {
    /// What is known of that account. Dropping the future is safe.
    fn about(&self, account: &BareJid) -> BoxFuture<'static, About>;

    /// The keys of that account for that hash. Dropping the future is safe.
    fn scram(&self, account: &BareJid, hash: Hash) -> BoxFuture<'static, Credentials>;

    /// Whether that is its password. Costs a derivation. Dropping the future is safe: the derivation is finished and forgotten.
    fn plain(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Verdict>;

    /// Whose token that is, or what is the matter with it. Dropping the future is safe.
    fn token(&self, token: Password) -> BoxFuture<'static, Result<BareJid, Verdict>>;

    /// Whether the account may sign in, now that something other than a secret of ours has proved it (a certificate, a token). Makes its
    /// record where it has none yet. Dropping the future is safe.
    fn admit(&self, account: &BareJid) -> BoxFuture<'static, Verdict>;
}

/// What a backend says of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is the account's.
    Right,
    /// The account is known, and it is not.
    Wrong,
    /// It is right, but the account is suspended.
    Disabled,
    /// It was right once.
    Expired,
    /// No such account here: ask the next.
    Unknown,
    /// It cannot be found out now. Nobody else is asked: the account may be known here.
    Down,
}

/// What a backend can do. What is offered to clients follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It checks passwords: PLAIN.
    pub passwords: bool,
    /// Of every account whose password it can check it has SCRAM keys of these hashes. Where backends differ, a hash is offered only
    /// if all that check passwords have it: a client takes the strongest mechanism it sees, and must not fail by that.
    pub hashes: &'static [Hash],
    /// It knows whose a token is: OAUTHBEARER.
    pub tokens: bool,
    /// What it takes as a password is a token, so that its accounts have no SCRAM keys to miss.
    pub tokens_as_passwords: bool,
}

/// One source of accounts. Each has its own bounds: a time for every answer, questions at once, questions waiting.
pub trait Backend: Send + Sync {
    /// Its kind, for logs.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// Whether that is the account's password.
    fn password(&self, _account: &BareJid, _password: Password) -> BoxFuture<'static, Said> {
        std::future::ready(Said::Unknown).boxed()
    }

    /// Whether it has such an account, so that nobody else may take the name: `Right` or `Unknown`, or `Down`. A backend that finds out only
    /// when somebody signs in says `Unknown`.
    fn knows(&self, _account: &BareJid) -> BoxFuture<'static, Said> {
        std::future::ready(Said::Unknown).boxed()
    }

    /// The account's keys of that hash; `Unknown`: ask the next.
    fn keys(&self, _account: &BareJid, _hash: Hash) -> BoxFuture<'static, Credentials> {
        std::future::ready(Credentials::Unknown).boxed()
    }

    /// Whose token that is. `Unknown`: it is none of this backend's.
    fn token(&self, _token: Password) -> BoxFuture<'static, Result<BareJid, Said>> {
        std::future::ready(Err(Said::Unknown)).boxed()
    }
}

/// The account that somebody else names: a bare JID of that domain, or a localpart.
fn account_named(name: &str, domain: &str) -> Option<BareJid> {
    let account = match name.contains('@') {
        true => BareJid::parse(name),
        false => BareJid::parse(&format!("{name}@{domain}")),
    };
    account.ok().filter(|account| account.local().is_some() && account.domain() == domain)
}

/// A secret that stands in a file of its own, without the end of its line.
fn secret_of(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
