//! SASL EXTERNAL (RFC 4422 appendix A, XEP-0178): the TLS client certificate speaks, the message only says as whom.
//!
//! Called by [`super::Exchange`] for clients and by `stream::peer` for servers and regions. Which names a certificate
//! proves is found out elsewhere (`s2s`, the transport): here they are handed in.

use super::Failure;
use crate::jid::BareJid;

/// Decides who the peer is: `message` is the authorization identity, `identities` what the certificate proves.
///
/// # Errors
/// `invalid-authzid` when it names somebody the certificate does not, or names nobody and the certificate proves several
/// (bad-input row B-115); `not-authorized` when the certificate proves nobody; `malformed-request` for bad UTF-8.
pub fn check(message: &[u8], identities: &[String]) -> Result<BareJid, Failure> {
    let authzid = std::str::from_utf8(message).map_err(|_| Failure::MalformedRequest)?;
    let proved = |identity: &String| BareJid::parse(identity).ok();
    match (authzid, identities) {
        (_, []) => Err(Failure::NotAuthorized),
        ("", [only]) => proved(only).ok_or(Failure::NotAuthorized),
        ("", _) => Err(Failure::InvalidAuthzid),
        (authzid, several) => {
            let wanted = BareJid::parse(authzid).map_err(|_| Failure::InvalidAuthzid)?;
            let is_proved = several.iter().filter_map(proved).any(|identity| identity == wanted);
            if is_proved { Ok(wanted) } else { Err(Failure::InvalidAuthzid) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(authzid: &str, identities: &[&str]) -> Result<String, Failure> {
        let identities: Vec<String> =
            identities.iter().map(|&identity| identity.to_owned()).collect();
        check(authzid.as_bytes(), &identities).map(|jid| jid.as_str().to_owned())
    }

    #[test]
    fn external_lets_in_only_whom_the_certificate_names() {
        let both = ["juliet@capulet.example", "nurse@capulet.example"];
        assert_eq!(run("", &both[..1]), Ok("juliet@capulet.example".into()));
        assert_eq!(run("JULIET@capulet.example", &both), Ok("juliet@capulet.example".into()));
        assert_eq!(run("nurse@capulet.example", &both), Ok("nurse@capulet.example".into()));
        assert_eq!(run("montague.example", &["montague.example"]), Ok("montague.example".into()));

        assert_eq!(run("", &both), Err(Failure::InvalidAuthzid));
        assert_eq!(run("romeo@capulet.example", &both), Err(Failure::InvalidAuthzid));
        assert_eq!(run("capulet.example", &both), Err(Failure::InvalidAuthzid));
        assert_eq!(run("@", &both), Err(Failure::InvalidAuthzid));
        assert_eq!(run("", &[]), Err(Failure::NotAuthorized));
        assert_eq!(run("juliet@capulet.example", &[]), Err(Failure::NotAuthorized));
        assert_eq!(check(b"\xff", &["a.example".to_owned()]), Err(Failure::MalformedRequest));
    }
}
