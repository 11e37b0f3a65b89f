//! SCRAM for the test client (RFC 5802, RFC 7677), without channel binding. The server's proof is checked too.
//!
//! Called by [`crate::client`]. Written apart from the server's own, so that one judges the other.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Digest;

/// The hash a mechanism is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-1.
    Sha1,
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl Hash {
    /// The mechanism's name.
    pub fn mechanism(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).expect("HMAC takes any key");
                mac.update(data);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Sha256 => {
                let mut mac =
                    Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes any key");
                mac.update(data);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Sha512 => {
                let mut mac =
                    Hmac::<sha2::Sha512>::new_from_slice(key).expect("HMAC takes any key");
                mac.update(data);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    fn hash(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => sha1::Sha1::digest(data).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(data).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(data).to_vec(),
        }
    }

    fn salted(self, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                pbkdf2::pbkdf2_hmac_array::<sha1::Sha1, 20>(password, salt, rounds).to_vec()
            }
            Self::Sha256 => {
                pbkdf2::pbkdf2_hmac_array::<sha2::Sha256, 32>(password, salt, rounds).to_vec()
            }
            Self::Sha512 => {
                pbkdf2::pbkdf2_hmac_array::<sha2::Sha512, 64>(password, salt, rounds).to_vec()
            }
        }
    }
}

/// The initial response of HT-SHA-256-NONE (draft-schmaus-kitten-sasl-ht-09), in base64.
pub fn token_proof(username: &str, token: &str) -> String {
    let mut message = username.as_bytes().to_vec();
    message.push(0);
    message.extend(Hash::Sha256.hmac(token.as_bytes(), b"Initiator"));
    BASE64_STANDARD.encode(message)
}

/// One exchange, from the client's side.
pub struct Scram {
    hash: Hash,
    password: String,
    nonce: String,
    bare: String,
    signature: Vec<u8>,
}

impl Scram {
    /// Begins with a nonce of its own making.
    pub fn new(hash: Hash, username: &str, password: &str) -> Self {
        let mut random = [0u8; 18];
        getrandom::fill(&mut random).expect("the system has random numbers");
        Self::with_nonce(hash, username, password, &BASE64_STANDARD.encode(random))
    }

    fn with_nonce(hash: Hash, username: &str, password: &str, nonce: &str) -> Self {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={name},r={nonce}");
        Self { hash, password: password.into(), nonce: nonce.into(), bare, signature: Vec::new() }
    }

    /// The first message: no channel binding, no authorization identity.
    pub fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// Answers the server's first message.
    ///
    /// # Errors
    /// When the challenge is not one, or its nonce does not continue ours.
    pub fn last(&mut self, challenge: &str) -> Result<String, String> {
        let field = |key: &str| {
            challenge
                .split(',')
                .find_map(|f| f.strip_prefix(key))
                .ok_or(format!("no {key} in {challenge:?}"))
        };
        let nonce = field("r=")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the server's nonce does not continue ours".into());
        }
        let salt = BASE64_STANDARD.decode(field("s=")?).map_err(|e| format!("salt: {e}"))?;
        let rounds: u32 = field("i=")?.parse().map_err(|e| format!("iterations: {e}"))?;
        let salted = self.hash.salted(self.password.as_bytes(), &salt, rounds);
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{without_proof}", self.bare);
        let client_key = self.hash.hmac(&salted, b"Client Key");
        let signature = self.hash.hmac(&self.hash.hash(&client_key), message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        self.signature =
            self.hash.hmac(&self.hash.hmac(&salted, b"Server Key"), message.as_bytes());
        Ok(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)))
    }

    /// Checks that the server knew the password as well.
    ///
    /// # Errors
    /// When it did not prove it.
    pub fn check(&self, success: &str) -> Result<(), String> {
        let proof =
            success.strip_prefix("v=").ok_or(format!("no server signature in {success:?}"))?;
        if BASE64_STANDARD.decode(proof).ok().as_ref() == Some(&self.signature) {
            Ok(())
        } else {
            Err("the server's signature is wrong".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_5802_comes_out() {
        let mut scram = Scram::with_nonce(Hash::Sha1, "user", "pencil", "fyko+d2lbbFgONRv9qkxdawL");
        assert_eq!(scram.first(), "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
        let last = scram
            .last("r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096")
            .unwrap();
        assert!(last.ends_with(",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="), "{last}");
        scram.check("v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").unwrap();
        assert!(scram.check("v=AAAA").is_err());
    }

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let mut scram = Scram::with_nonce(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = scram.last(challenge).unwrap();
        assert!(last.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{last}");
        scram.check("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    }
}
