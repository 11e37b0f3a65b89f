//! SASL, the secrets: hashes, password preparation and the SCRAM keys an account is stored with.
//!
//! Called by the mechanisms beside it, by whoever registers accounts or changes passwords (`ScramKeys::derive`) and by
//! storage (the keys are serde values). RFC 5802 §3 (key derivation), RFC 7677 (SHA-256), RFC 4013 (SASLprep), RFC 8265 in
//! spirit. Deliberately absent: randomness (salts are handed in) and threads: `derive` runs PBKDF2 where it is called, so
//! a server calls it away from its reactor.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// Longest password accepted, in bytes, before and after preparation: PBKDF2 hashes it, so it must have a bound.
pub const PASSWORD_BYTES_MAX: usize = 1023;

/// What new accounts get when the operator says nothing. RFC 7677 §4 asks for at least 4096.
pub const ITERATIONS_DEFAULT: u32 = 10_000;

/// A hash function SCRAM runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Hash {
    /// SCRAM-SHA-1 (RFC 5802).
    Sha1,
    /// SCRAM-SHA-256 (RFC 7677).
    Sha256,
    /// SCRAM-SHA-512 (draft-melnikov-scram-sha-512).
    Sha512,
}

impl Hash {
    /// All of them, in the order of preference.
    pub const STRONGEST_FIRST: [Hash; 3] = [Hash::Sha512, Hash::Sha256, Hash::Sha1];

    /// Length of a digest, in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
            Hash::Sha512 => 64,
        }
    }

    /// `H(data)`.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(data).to_vec(),
            Hash::Sha256 => Sha256::digest(data).to_vec(),
            Hash::Sha512 => Sha512::digest(data).to_vec(),
        }
    }

    /// `HMAC(key, parts[0] || parts[1] || …)`.
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn run<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            let mut mac =
                <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
            for part in parts {
                mac.update(part);
            }
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Hash::Sha1 => run::<Hmac<Sha1>>(key, parts),
            Hash::Sha256 => run::<Hmac<Sha256>>(key, parts),
            Hash::Sha512 => run::<Hmac<Sha512>>(key, parts),
        }
    }

    /// `Hi(password, salt, iterations)`: PBKDF2 with one block. Costs `iterations` HMACs.
    pub fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut salted = vec![0; self.digest_bytes()];
        let done = match self {
            Hash::Sha1 => pbkdf2::pbkdf2::<Hmac<Sha1>>(password, salt, iterations, &mut salted),
            Hash::Sha256 => pbkdf2::pbkdf2::<Hmac<Sha256>>(password, salt, iterations, &mut salted),
            Hash::Sha512 => pbkdf2::pbkdf2::<Hmac<Sha512>>(password, salt, iterations, &mut salted),
        };
        done.expect("HMAC takes a key of any length");
        salted
    }
}

/// Some hash functions: those an account has keys for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashes(u8);

impl Hashes {
    /// Is it one of them?
    pub fn contains(self, hash: Hash) -> bool {
        self.0 & (1 << hash as u8) != 0
    }
}

impl FromIterator<Hash> for Hashes {
    fn from_iter<T: IntoIterator<Item = Hash>>(hashes: T) -> Hashes {
        Hashes(hashes.into_iter().fold(0, |all, hash| all | 1 << hash as u8))
    }
}

/// Bytes that must not be printed, logged or compared in variable time. No `PartialEq` on purpose.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes in.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    /// The bytes themselves, for a hash or for storage.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Compares in a time that depends on the lengths only.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A password in clear, on its way to be checked. Same rules as [`Secret`].
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Takes the password in, as the user typed it.
    pub fn new(password: impl Into<String>) -> Password {
        Password(password.into())
    }

    /// The text itself, to be prepared and hashed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why a password cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPassword {
    /// No characters (left).
    Empty,
    /// More than [`PASSWORD_BYTES_MAX`].
    TooLong,
    /// A control character, an unassigned code point or mixed directions.
    Forbidden,
}

impl fmt::Display for BadPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadPassword::Empty => "the password is empty",
            BadPassword::TooLong => "the password is too long",
            BadPassword::Forbidden => "the password has a character that SASLprep forbids",
        })
    }
}

impl std::error::Error for BadPassword {}

/// SASLprep (RFC 4013): non-ASCII spaces become spaces, invisible characters go, NFKC, then the prohibitions.
///
/// Runs resourceprep after the mapping of spaces: the two profiles are the same from there on. Code points that Unicode 3.2
/// did not know (most emoji) are refused here, in every region alike, so an account with such a password never comes to be.
pub fn saslprep(text: &str) -> Result<Cow<'_, str>, BadPassword> {
    if text.is_empty() {
        return Err(BadPassword::Empty);
    }
    if text.len() > PASSWORD_BYTES_MAX {
        return Err(BadPassword::TooLong);
    }
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(Cow::Borrowed(text));
    }
    let spaced: String =
        text.chars().map(|c| if is_non_ascii_space(c) { ' ' } else { c }).collect();
    match jid::ResourcePart::new(&spaced) {
        Ok(prepared) => Ok(Cow::Owned(prepared.as_str().to_owned())),
        Err(jid::Error::ResourceEmpty) => Err(BadPassword::Empty),
        Err(jid::Error::ResourceTooLong) => Err(BadPassword::TooLong),
        Err(_) => Err(BadPassword::Forbidden),
    }
}

/// RFC 3454 table C.1.2.
fn is_non_ascii_space(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200b}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// What a server stores instead of a password (RFC 5802 §3). Knowing it does not let one log in as the user,
/// but lets one pretend to be the server: keep it as secret as a password.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScramKeys {
    /// The hash all of it was made with.
    pub hash: Hash,
    /// Random bytes, sent to whoever claims to be the user.
    pub salt: Vec<u8>,
    /// PBKDF2 rounds, at least one.
    pub iterations: u32,
    /// `H(ClientKey)`: verifies a client's proof.
    pub stored_key: Secret,
    /// `HMAC(SaltedPassword, "Server Key")`: signs our answer.
    pub server_key: Secret,
}

impl ScramKeys {
    /// Makes the keys of a password. Takes as long as `iterations` HMACs take: not for a reactor thread.
    /// `iterations` of zero counts as one.
    pub fn derive(
        hash: Hash,
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<ScramKeys, BadPassword> {
        let iterations = iterations.max(1);
        let password = saslprep(password)?;
        let salted = hash.salted(password.as_bytes(), salt, iterations);
        Ok(ScramKeys::of_salted(hash, &salted, salt, iterations))
    }

    /// The keys of a password somebody else has salted: `salted` is RFC 5802's SaltedPassword, as long as a digest of `hash`.
    pub fn of_salted(hash: Hash, salted: &[u8], salt: &[u8], iterations: u32) -> ScramKeys {
        let client_key = hash.hmac(salted, &[b"Client Key"]);
        ScramKeys {
            hash,
            salt: salt.to_vec(),
            iterations,
            stored_key: Secret(hash.digest(&client_key)),
            server_key: Secret(hash.hmac(salted, &[b"Server Key"])),
        }
    }

    /// Is this the password? For PLAIN; as slow as [`ScramKeys::derive`]. A password that cannot be prepared is a wrong one.
    pub fn verify(&self, password: &str) -> bool {
        match ScramKeys::derive(self.hash, password, &self.salt, self.iterations) {
            Ok(offered) => offered.stored_key.matches(self.stored_key.expose()),
            Err(_) => false,
        }
    }

    /// Keys for a user who does not exist: always the same salt for the same name, so that asking twice tells nothing
    /// (RFC 5802 §9 and bad-input row B-092), and a stored key that no password has. `secret` is the deployment's, the same
    /// in every region; `iterations` what real accounts usually have.
    pub fn fake(hash: Hash, account: &str, secret: &Secret, iterations: u32) -> ScramKeys {
        let make = |label: &[u8]| hash.hmac(secret.expose(), &[label, &[0], account.as_bytes()]);
        let mut salt = make(b"pangaea scram salt");
        salt.truncate(SALT_BYTES);
        ScramKeys {
            hash,
            salt,
            iterations: iterations.max(1),
            stored_key: Secret(make(b"pangaea scram stored key")),
            server_key: Secret(make(b"pangaea scram server key")),
        }
    }
}

/// Length of the salt new accounts should get, and fake ones do: a fake salt must not stand out.
pub const SALT_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saslprep_follows_the_examples_of_rfc_4013() {
        assert_eq!(saslprep("I\u{ad}X").as_deref(), Ok("IX"));
        assert_eq!(saslprep("user").as_deref(), Ok("user"));
        assert_eq!(saslprep("USER").as_deref(), Ok("USER"));
        assert_eq!(saslprep("\u{aa}").as_deref(), Ok("a"));
        assert_eq!(saslprep("\u{2168}").as_deref(), Ok("IX"));
        assert_eq!(saslprep("\u{7}"), Err(BadPassword::Forbidden));
        assert_eq!(saslprep("\u{627}1"), Err(BadPassword::Forbidden));
        assert_eq!(saslprep("a\u{3000}b\u{1680}c").as_deref(), Ok("a b c"));
    }

    #[test]
    fn saslprep_refuses_what_is_empty_too_long_or_unassigned() {
        assert_eq!(saslprep(""), Err(BadPassword::Empty));
        assert_eq!(saslprep("\u{ad}"), Err(BadPassword::Empty));
        assert_eq!(saslprep(&"x".repeat(1024)), Err(BadPassword::TooLong));
        assert_eq!(saslprep(&"é".repeat(512)), Err(BadPassword::TooLong));
        assert_eq!(saslprep("\u{1f511}"), Err(BadPassword::Forbidden));
    }

    #[test]
    fn a_password_verifies_against_its_own_keys_only() {
        let keys = ScramKeys::derive(Hash::Sha256, "pencil", b"salt", 64).expect("prepares");
        assert!(keys.verify("pencil"));
        assert!(!keys.verify("Pencil"));
        assert!(!keys.verify(""));
    }

    #[test]
    fn a_fake_salt_is_stable_per_name_and_differs_between_names_and_secrets() {
        let fake = |name, secret| {
            ScramKeys::fake(Hash::Sha1, name, &Secret::new(vec![secret; 32]), 4096).salt
        };
        assert_eq!(fake("romeo@a.example", 1), fake("romeo@a.example", 1));
        assert_ne!(fake("romeo@a.example", 1), fake("juliet@a.example", 1));
        assert_ne!(fake("romeo@a.example", 1), fake("romeo@a.example", 2));
        assert_eq!(fake("romeo@a.example", 1).len(), SALT_BYTES);
    }

    #[test]
    fn secrets_do_not_print() {
        let keys = ScramKeys::derive(Hash::Sha1, "pencil", b"salt", 1).expect("prepares");
        let shown = format!("{keys:?} {:?}", Password::new("pencil"));
        assert!(shown.contains("Secret(…)") && shown.contains("Password(…)"), "{shown}");
        assert!(!shown.contains("pencil"));
    }
}
