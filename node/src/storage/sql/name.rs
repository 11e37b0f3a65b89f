//! Keys of maps as these databases index them: what is longer than an index takes is cut, and told apart by its hash.
//!
//! PostgreSQL indexes about 2,700 bytes of a row, InnoDB 3,072; a JID alone may have 3,071. A long key stands in the index as its first
//! bytes and the SHA-256 of all of it, with the whole of it beside. Long keys that begin with the same 992 bytes are therefore not in the
//! order of their bytes among each other; nothing that is written by others depends on that.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// What fits as it is.
const NAME_BYTES_MAX: usize = 1024;
const HASH_BYTES: usize = 32;

/// How a key is indexed.
pub(super) fn indexed(key: &str) -> Cow<'_, [u8]> {
    let key = key.as_bytes();
    if key.len() <= NAME_BYTES_MAX {
        return Cow::Borrowed(key);
    }
    let mut name = key[..NAME_BYTES_MAX - HASH_BYTES].to_vec();
    name.extend_from_slice(&Sha256::digest(key));
    // Longer than what fits by one byte, so that no short key is the same.
    name.push(0);
    Cow::Owned(name)
}

/// What is kept beside it: all of a long key.
pub(super) fn whole(key: &str) -> Option<&[u8]> {
    (key.len() > NAME_BYTES_MAX).then_some(key.as_bytes())
}

/// The key back, of `COALESCE(whole_name, name)`.
pub(super) fn key(bytes: Vec<u8>) -> Result<String, sqlx::Error> {
    String::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_long_ones_stay_apart() {
        let long = |last: char| format!("{}{last}", "x".repeat(4000));
        for given in [String::new(), "ß".to_owned(), "x".repeat(1024), "x".repeat(1025), long('y')]
        {
            let (name, whole) = (indexed(&given).into_owned(), whole(&given));
            assert!(name.len() <= NAME_BYTES_MAX + 1);
            assert_eq!(key(whole.map_or(name, <[u8]>::to_vec)).unwrap(), given);
        }
        assert_ne!(indexed(&long('y')), indexed(&long('z')));
        assert!(indexed("a") < indexed(&format!("b{}", long('y'))));
    }
}
