//! SASL PLAIN (RFC 4616), receiving side: takes the message apart; the password is checked by the caller.
//!
//! Called by [`super::Exchange`]. Only offered under TLS unless the operator insists (RFC 6120 §13.8.3).

use super::{Failure, Password, account_of, is_own_authzid};
use crate::jid::BareJid;

/// Longest message we look at, in bytes: three fields of the 1023 bytes a JID part may have.
pub const MESSAGE_BYTES_MAX: usize = 3 * 1023 + 2;

/// `[authzid] NUL authcid NUL passwd` → account and password.
///
/// # Errors
/// `malformed-request` for another number of fields, an empty one or bad UTF-8; `invalid-authzid` for somebody else's
/// address; `not-authorized` for a name no account can have.
pub fn parse(message: &[u8], domain: &str) -> Result<(BareJid, Password), Failure> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Failure::MalformedRequest);
    }
    let message = std::str::from_utf8(message).map_err(|_| Failure::MalformedRequest)?;
    let mut fields = message.split('\0');
    let (Some(authzid), Some(username), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Failure::MalformedRequest);
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::MalformedRequest);
    }
    let account = account_of(username, domain);
    if !authzid.is_empty() && !is_own_authzid(authzid, account.as_ref()) {
        return Err(Failure::InvalidAuthzid);
    }
    let account = account.ok_or(Failure::NotAuthorized)?;
    Ok((account, Password::new(password)))
}

/// The initiating side's message, without an authorization identity.
pub fn message(username: &str, password: &Password) -> Vec<u8> {
    format!("\0{username}\0{}", password.expose()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_message_is_taken_apart() {
        for message in [
            &b"\0juliet\0r0m30"[..],
            b"juliet@capulet.example\0juliet\0r0m30",
            b"juliet@capulet.example\0Juliet\0r0m30",
        ] {
            let (account, password) = parse(message, "capulet.example").expect("is well formed");
            assert_eq!(account.as_str(), "juliet@capulet.example");
            assert_eq!(password.expose(), "r0m30");
        }
        assert!(parse(&message("juliet", &Password::new("r0m30")), "capulet.example").is_ok());
    }

    #[test]
    fn a_bad_plain_message_gets_its_failure() {
        let cases: [(&[u8], Failure); 12] = [
            (b"", Failure::MalformedRequest),
            (b"juliet", Failure::MalformedRequest),
            (b"juliet\0r0m30", Failure::MalformedRequest),
            (b"\0juliet\0r0m30\0", Failure::MalformedRequest),
            (b"\0\0r0m30", Failure::MalformedRequest), // B-088
            (b"\0juliet\0", Failure::MalformedRequest), // B-088
            (b"\0juliet\0\xff\xfe", Failure::MalformedRequest),
            (b"romeo@capulet.example\0juliet\0r0m30", Failure::InvalidAuthzid), // B-089
            (b"juliet@montague.example\0juliet\0r0m30", Failure::InvalidAuthzid),
            (b"juliet\0juliet\0r0m30", Failure::InvalidAuthzid),
            (b"@@\0juliet\0r0m30", Failure::InvalidAuthzid),
            (b"\0juliet@capulet.example\0r0m30", Failure::NotAuthorized),
        ];
        for (message, expected) in cases {
            assert_eq!(parse(message, "capulet.example").err(), Some(expected), "{message:?}");
        }
        let mut long = b"\0juliet\0".to_vec();
        long.resize(5000, b'x');
        assert_eq!(parse(&long, "capulet.example").err(), Some(Failure::MalformedRequest));
    }
}
