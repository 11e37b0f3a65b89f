//! SASL ANONYMOUS (RFC 4505, XEP-0175), receiving side: anybody is let in, under a name of our choosing.
//!
//! Called by [`super::Exchange`]. The name is handed in (random, fresh); what a guest may do is decided elsewhere.

use super::{Failure, account_of};
use crate::jid::BareJid;

/// Longest trace we accept, in characters (RFC 4505 §2).
const TRACE_CHARS_MAX: usize = 255;

/// Checks the trace, which is otherwise ignored and not logged (it may be an e-mail address).
///
/// # Errors
/// `malformed-request` for a trace too long or not UTF-8; `temporary-auth-failure` if the name handed in is no localpart.
pub fn check(trace: &[u8], name: &str, domain: &str) -> Result<BareJid, Failure> {
    let trace = std::str::from_utf8(trace).map_err(|_| Failure::MalformedRequest)?;
    if trace.chars().count() > TRACE_CHARS_MAX {
        return Err(Failure::MalformedRequest);
    }
    account_of(name, domain).ok_or(Failure::TemporaryAuthFailure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anonymous_user_gets_the_name_we_choose() {
        let name = check(b"sirhc", "guest-1", "capulet.example").map(|jid| jid.as_str().to_owned());
        assert_eq!(name, Ok("guest-1@capulet.example".into()));
        assert!(check(b"", "guest-1", "capulet.example").is_ok());
        assert_eq!(
            check(&[b'x'; 256], "guest-1", "capulet.example"),
            Err(Failure::MalformedRequest)
        );
        assert_eq!(check(b"\xff", "guest-1", "capulet.example"), Err(Failure::MalformedRequest));
    }
}
