//! SASL OAUTHBEARER (RFC 7628), receiving side: takes the message apart; whose the token is, the caller finds out.
//!
//! Called by [`super::Exchange`], which also sends the explanation of a refusal (§3.2.2) and waits for its receipt (§3.2.3).
//! Only offered under TLS, like PLAIN (§3: TLS is required). Deliberately absent: the client's side, `openid-configuration`
//! in the explanation, OAUTH10A.

use super::{Failure, Password};
use crate::jid::BareJid;

/// Longest message we look at, in bytes. Tokens with many claims have some thousands.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The explanation of a refusal.
pub const INVALID_TOKEN: &[u8] = b"{\"status\":\"invalid_token\"}";

/// `n,a=authzid,^Akey=value^A…^A^A` → whom the client says it is, and the token.
///
/// # Errors
/// `malformed-request` for a message that breaks §3.1 or has no bearer token; `invalid-authzid` for an address that is no account of
/// the domain.
pub fn parse(message: &[u8], domain: &str) -> Result<(Option<BareJid>, Password), Failure> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Failure::MalformedRequest);
    }
    let message = std::str::from_utf8(message).map_err(|_| Failure::MalformedRequest)?;
    let (header, pairs) = message.split_once('\x01').ok_or(Failure::MalformedRequest)?;
    let claimed = claimed(header, domain)?;
    let pairs = pairs.strip_suffix("\x01\x01").ok_or(Failure::MalformedRequest)?;
    let mut authorization = None;
    for pair in pairs.split('\x01') {
        let (key, value) = pair.split_once('=').ok_or(Failure::MalformedRequest)?;
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic());
        if !is_key {
            return Err(Failure::MalformedRequest);
        }
        // `host`, `port` and what others there may be say nothing that TLS and the stream header have not said better.
        if key == "auth" && authorization.replace(value).is_some() {
            return Err(Failure::MalformedRequest);
        }
    }
    let (scheme, token) =
        authorization.and_then(|value| value.split_once(' ')).ok_or(Failure::MalformedRequest)?;
    let token = token.trim_matches(' ');
    // RFC 6750 §2.1: b64token.
    let is_token = !token.is_empty()
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
    if !scheme.eq_ignore_ascii_case("bearer") || !is_token {
        return Err(Failure::MalformedRequest);
    }
    Ok((claimed, Password::new(token)))
}

/// The GS2 header (RFC 5801 §4): no channel binding, perhaps an authorization identity.
fn claimed(header: &str, domain: &str) -> Result<Option<BareJid>, Failure> {
    let rest = header
        .strip_prefix("n,")
        .or_else(|| header.strip_prefix("y,"))
        .and_then(|rest| rest.strip_suffix(','))
        .ok_or(Failure::MalformedRequest)?;
    if rest.is_empty() {
        return Ok(None);
    }
    let name = rest.strip_prefix("a=").ok_or(Failure::MalformedRequest)?;
    if name.is_empty() || name.contains(',') {
        return Err(Failure::MalformedRequest);
    }
    let name = name.replace("=2C", ",").replace("=3D", "=");
    // Clients send the address, or the localpart alone as they do in other mechanisms.
    let name = if name.contains('@') { name } else { format!("{name}@{domain}") };
    let account = BareJid::parse(&name).map_err(|_| Failure::InvalidAuthzid)?;
    let is_ours = account.local().is_some() && account.domain() == domain;
    if is_ours { Ok(Some(account)) } else { Err(Failure::InvalidAuthzid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "capulet.example";

    #[test]
    fn a_bearer_message_is_taken_apart() {
        let check = |message: &str, expected: Option<&str>| {
            let (claimed, token) = parse(message.as_bytes(), DOMAIN).expect(message);
            assert_eq!(claimed.as_ref().map(BareJid::as_str), expected, "{message:?}");
            assert_eq!(token.expose(), "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==");
        };
        let token = "auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";
        let juliet = Some("juliet@capulet.example");
        // RFC 7628 §4.1.
        let example = "n,a=juliet@capulet.example,\x01host=server.example.com\x01port=143\x01";
        check(&format!("{example}{token}\x01\x01"), juliet);
        check(&format!("n,a=juliet,\x01{token}\x01\x01"), juliet);
        check(&format!("n,,\x01{token}\x01\x01"), None);
        check(&format!("y,,\x01{}\x01\x01", token.replace("Bearer", "bearer")), None);
    }

    #[test]
    fn a_bad_bearer_message_gets_its_failure() {
        let malformed = Failure::MalformedRequest;
        for (message, expected) in [
            ("", malformed),
            ("n,,", malformed),
            ("n,,\x01", malformed),
            ("n,,\x01\x01", malformed),
            ("n,,\x01auth=Bearer x\x01", malformed),
            ("n,,auth=Bearer x\x01\x01", malformed),
            ("p=tls-exporter,,\x01auth=Bearer x\x01\x01", malformed),
            ("n,juliet,\x01auth=Bearer x\x01\x01", malformed),
            ("n,a=,\x01auth=Bearer x\x01\x01", malformed),
            ("n,,\x01host=h\x01\x01", malformed),
            ("n,,\x01auth=Bearer\x01\x01", malformed),
            ("n,,\x01auth=Bearer \x01\x01", malformed),
            ("n,,\x01auth=Bearer a b\x01\x01", malformed),
            ("n,,\x01auth=Basic x\x01\x01", malformed),
            ("n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01", malformed),
            ("n,,\x01=x\x01auth=Bearer x\x01\x01", malformed),
            ("n,,\x01auth\x01\x01", malformed),
            ("n,a=romeo@montague.example,\x01auth=Bearer x\x01\x01", Failure::InvalidAuthzid),
            ("n,a=@@,\x01auth=Bearer x\x01\x01", Failure::InvalidAuthzid),
        ] {
            assert_eq!(parse(message.as_bytes(), DOMAIN).err(), Some(expected), "{message:?}");
        }
        let long = format!("n,,\x01auth=Bearer {}\x01\x01", "x".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(parse(long.as_bytes(), DOMAIN).err(), Some(malformed));
        assert_eq!(parse(b"n,,\x01auth=Bearer \xff\x01\x01", DOMAIN).err(), Some(malformed));
    }
}
