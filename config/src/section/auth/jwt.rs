//! `kind = "jwt"`: signed tokens (RFC 7519), for OAUTHBEARER, and for PLAIN where clients know nothing else.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;
use crate::value::{OneOf, Words};

/// Which tokens are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// With what they may be signed.
    pub keys: Vec<JwtKey>,
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be, or have, one of these. Empty: a token with an `aud` is for somebody else.
    pub audiences: Vec<String>,
    /// The claim that names the account: a bare JID of the global domain, or a localpart of it.
    pub account_claim: String,
    /// How far the clock of who issues them may be off.
    pub leeway: Duration,
    /// Whether a token without `exp` is good for ever. Else it is refused.
    pub without_end: bool,
    /// Whether a token may be sent as a password.
    pub as_password: bool,
}

/// `[[auth.backends.keys]]`: one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtKey {
    /// The one algorithm it is for (RFC 7518, RFC 8037).
    pub algorithm: JwtAlgorithm,
    /// A public key or certificate, PEM; for the HS algorithms the shared secret itself.
    pub file: PathBuf,
    /// Tokens name it so (`kid`). A key without a name is tried for every token.
    pub id: Option<String>,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA, PKCS #1 v1.5, with SHA-256.
    Rs256,
    /// The same with SHA-384.
    Rs384,
    /// The same with SHA-512.
    Rs512,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// The same with SHA-384.
    Ps384,
    /// The same with SHA-512.
    Ps512,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Words for JwtAlgorithm {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("HS256", JwtAlgorithm::Hs256),
        ("HS384", JwtAlgorithm::Hs384),
        ("HS512", JwtAlgorithm::Hs512),
        ("RS256", JwtAlgorithm::Rs256),
        ("RS384", JwtAlgorithm::Rs384),
        ("RS512", JwtAlgorithm::Rs512),
        ("PS256", JwtAlgorithm::Ps256),
        ("PS384", JwtAlgorithm::Ps384),
        ("PS512", JwtAlgorithm::Ps512),
        ("ES256", JwtAlgorithm::Es256),
        ("ES384", JwtAlgorithm::Es384),
        ("EdDSA", JwtAlgorithm::EdDsa),
    ];
}

impl JwtAlgorithm {
    /// As tokens name it (`alg`).
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, algorithm)| *algorithm == self);
        found.expect("each has a word").0
    }
}

pub(super) fn read(table: &Table<'_>) -> Jwt {
    let keys: Vec<JwtKey> = table
        .sections("keys")
        .iter()
        .map(|key| JwtKey {
            algorithm: key.required::<OneOf<JwtAlgorithm>>("algorithm").0,
            file: key.path("file", None),
            id: key.optional("id"),
        })
        .collect();
    if keys.is_empty() {
        table.refuse("keys", "at least one [[auth.backends.keys]]", "none");
    }
    Jwt {
        keys,
        issuer: table.optional("issuer"),
        audiences: table.value("audiences", Vec::new()),
        account_claim: table.value("account_claim", "sub".to_owned()),
        leeway: table.between(
            "leeway",
            Duration::from_secs(30),
            Duration::ZERO,
            Duration::from_secs(600),
            "a duration from \"0s\" to \"10m\"",
        ),
        without_end: table.value("without_end", false),
        as_password: table.value("as_password", false),
    }
}
