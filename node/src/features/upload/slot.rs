//! The name of a file and the right to bring it: values, and how they are written. A file's name says until when it is kept, so that a sweep
//! needs to read names only, and 128 bits nobody guesses (XEP-0363 §9). A grant is what the `Authorization` header of a PUT carries: signed
//! with a key that all nodes of all regions share, so none of them has to remember what another gave.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes of a token: minutes since 1970 when the file may go, and chance.
const TOKEN_BYTES: usize = 4 + 16;

/// The name of a file: 27 characters of base64url.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token(String);

impl Token {
    /// A new one, of a file that is kept until then.
    pub(crate) fn new(until_s: u64, random: [u8; 16]) -> Token {
        let minutes = u32::try_from(until_s.div_ceil(60)).unwrap_or(u32::MAX);
        let mut bytes = minutes.to_be_bytes().to_vec();
        bytes.extend(random);
        Token(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// As it stands in a path.
    pub(crate) fn parse(text: &str) -> Option<Token> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == TOKEN_BYTES).then(|| Token(text.to_owned()))
    }

    /// The same.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Until when the file is kept, in seconds since 1970.
    pub(crate) fn until_s(&self) -> u64 {
        let bytes = URL_SAFE_NO_PAD.decode(&self.0).unwrap_or_default();
        let minutes = bytes.first_chunk().map_or(0, |minutes| u32::from_be_bytes(*minutes));
        u64::from(minutes) * 60
    }
}

/// What a client may bring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// The file's name.
    pub(crate) token: Token,
    /// The region that has it.
    pub(crate) region: String,
    /// Whose it is: a bare JID.
    pub(crate) account: String,
    /// What it was called there.
    pub(crate) name: String,
    /// Its bytes, exactly.
    pub(crate) size: u64,
    /// What it is, if that was said.
    pub(crate) content_type: Option<String>,
    /// Until when it may begin to come, in seconds since 1970.
    pub(crate) until_s: u64,
}

impl Grant {
    /// `payload.signature`, both base64url.
    pub(crate) fn sign(&self, key: &[u8]) -> String {
        let payload = URL_SAFE_NO_PAD.encode(postcard::to_stdvec(self).expect("a plain value"));
        let signature = URL_SAFE_NO_PAD.encode(mac(key, &payload).finalize().into_bytes());
        format!("{payload}.{signature}")
    }

    /// What was signed with this key.
    pub(crate) fn verify(text: &str, key: &[u8]) -> Option<Grant> {
        let (payload, signature) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        mac(key, payload).verify_slice(&signature).ok()?;
        postcard::from_bytes(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

fn mac(key: &[u8], payload: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length is one");
    mac.update(b"pangaea upload slot 1\0");
    mac.update(payload.as_bytes());
    mac
}

/// What stands for an account in the store, where its name has no business.
pub(crate) fn owner(account: &str) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(account.as_bytes()) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            token: Token::new(1_000_000, [7; 16]),
            region: "eu".into(),
            account: "romeo@chat.example".into(),
            name: "my juliet.jpg".into(),
            size: 23_456,
            content_type: Some("image/jpeg".into()),
            until_s: 900_000,
        }
    }

    #[test]
    fn a_token_says_until_when_and_is_read_back() {
        let token = Token::new(1_000_001, [255; 16]);
        assert_eq!(token.until_s(), 1_000_020);
        assert_eq!(Token::parse(token.as_str()), Some(token.clone()));
        assert_eq!(token.as_str().len(), 27);
        let long = "A".repeat(28);
        for text in ["", "x", "..", "../../../../../../../../x", long.as_str()] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_grant_is_good_with_its_key_and_untouched() {
        let signed = grant().sign(b"a key");
        assert_eq!(Grant::verify(&signed, b"a key"), Some(grant()));
        assert_eq!(Grant::verify(&signed, b"another"), None);
        let more = Grant { size: 1 << 40, ..grant() }.sign(b"another");
        let (payload, _) = more.split_once('.').expect("two parts");
        let (_, signature) = signed.split_once('.').expect("two parts");
        assert_eq!(Grant::verify(&format!("{payload}.{signature}"), b"a key"), None);
        for text in ["", ".", "a.b", payload] {
            assert_eq!(Grant::verify(text, b"a key"), None, "{text}");
        }
    }
}
