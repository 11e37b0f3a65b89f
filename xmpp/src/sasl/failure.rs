//! Why somebody was not let in: the conditions of RFC 6120 §6.5, which SASL2 has too (XEP-0388 §2.6.2). Values and their names only.

use std::fmt;

/// Why authentication failed (RFC 6120 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The client gave up.
    Aborted,
    /// The account is suspended.
    AccountDisabled,
    /// The credentials were good once.
    CredentialsExpired,
    /// Not without TLS.
    EncryptionRequired,
    /// Not base64.
    IncorrectEncoding,
    /// The client may not act as whom it wants to act.
    InvalidAuthzid,
    /// Unknown or not offered.
    InvalidMechanism,
    /// The message breaks the mechanism's grammar.
    MalformedRequest,
    /// The mechanism is weaker than policy allows.
    MechanismTooWeak,
    /// Wrong, for a reason we keep to ourselves.
    NotAuthorized,
    /// Our own trouble; clients must not forget a saved password.
    TemporaryAuthFailure,
}

impl Failure {
    pub(super) const ALL: [Failure; 11] = [
        Failure::Aborted,
        Failure::AccountDisabled,
        Failure::CredentialsExpired,
        Failure::EncryptionRequired,
        Failure::IncorrectEncoding,
        Failure::InvalidAuthzid,
        Failure::InvalidMechanism,
        Failure::MalformedRequest,
        Failure::MechanismTooWeak,
        Failure::NotAuthorized,
        Failure::TemporaryAuthFailure,
    ];

    /// The element name of the condition.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Aborted => "aborted",
            Failure::AccountDisabled => "account-disabled",
            Failure::CredentialsExpired => "credentials-expired",
            Failure::EncryptionRequired => "encryption-required",
            Failure::IncorrectEncoding => "incorrect-encoding",
            Failure::InvalidAuthzid => "invalid-authzid",
            Failure::InvalidMechanism => "invalid-mechanism",
            Failure::MalformedRequest => "malformed-request",
            Failure::MechanismTooWeak => "mechanism-too-weak",
            Failure::NotAuthorized => "not-authorized",
            Failure::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }

    /// The condition of that element name.
    pub fn parse(name: &str) -> Option<Failure> {
        Failure::ALL.into_iter().find(|failure| failure.name() == name)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
