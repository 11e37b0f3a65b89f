//! Auth: who may say that a password is right.
//!
//! Called by the session, between the steps of `xmpp::sasl`: `About` → [`Authenticator::about`], `LookUp` → [`Authenticator::scram`], `CheckPlain` →
//! [`Authenticator::plain`]; and [`throttle::Throttle`] around both. [`internal`] answers from the account records; other
//! sources (LDAP, HTTP) would be further implementations.
//!
//! Deliberately absent: the mechanisms themselves (`xmpp::sasl`), EXTERNAL and ANONYMOUS (which need no secret), registration.

mod cache;
pub mod internal;
pub mod stored;
pub mod throttle;

use futures_util::future::BoxFuture;
use xmpp::jid::BareJid;
use xmpp::sasl::{Credentials, Hash, Hashes, Password, Verdict};

pub use internal::Internal;
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
}
