//! XEP-0379 §5.1: a token, and the URIs that carry one. Values only: chance is handed in.
//!
//! A token is letters and digits: 128 random bits, and behind them the name of the account whose invitation it is, for that account's home
//! has it and a stranger brings nothing but the token (XEP-0445). What is stored is a hash of the random part.

use std::fmt;

use xmpp::jid::BareJid;
use xmpp::sasl::Hash;

/// Random bytes of a token.
const RANDOM_BYTES: usize = 16;
/// Characters that they make.
const RANDOM_CHARS: usize = 2 * RANDOM_BYTES;
/// Characters of a key: half a hash.
const KEY_CHARS: usize = 32;

/// A token. Whoever has it may use it: it does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    owner: BareJid,
}

impl Token {
    /// A new one, for an invitation of an account or (a domain) of its operator.
    pub fn new(random: [u8; RANDOM_BYTES], owner: &BareJid) -> Self {
        let name = owner.local().unwrap_or_default();
        let text = random.iter().chain(name.as_bytes()).map(|byte| format!("{byte:02x}")).collect();
        Self { text, owner: owner.clone() }
    }

    /// Reads one that is brought to a domain; `None` when it cannot be a token of that domain.
    pub fn parse(text: &str, domain: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let is_token = text.len() >= RANDOM_CHARS
            && text.len().is_multiple_of(2)
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_token {
            return None;
        }
        let name: Option<Vec<u8>> = (RANDOM_CHARS..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect();
        let name = String::from_utf8(name?).ok()?;
        if name.contains(['@', '/']) {
            return None;
        }
        let owner = match name.as_str() {
            "" => BareJid::parse(domain).ok()?,
            name => BareJid::parse(&format!("{name}@{domain}")).ok()?,
        };
        Some(Self { text, owner })
    }

    /// The text, for whoever is invited.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Whose invitation it is.
    pub fn owner(&self) -> &BareJid {
        &self.owner
    }

    /// Under which it is stored; tells nothing of the token.
    pub fn key(&self) -> String {
        let digest = Hash::Sha256.digest(&self.text.as_bytes()[..RANDOM_CHARS]);
        digest[..KEY_CHARS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `xmpp:…?roster;preauth=…` (XEP-0379 §3.2), with `ibr=y` where the token makes an account too (XEP-0401 §5.1).
    pub fn roster_uri(&self, register: bool) -> String {
        let more = if register { ";ibr=y" } else { "" };
        format!("xmpp:{}?roster;preauth={}{more}", escaped(&self.owner), self.text)
    }

    /// `xmpp:…?register;preauth=…` (XEP-0445 §2), of a domain or of the account to be made.
    pub fn register_uri(&self, what: &BareJid) -> String {
        format!("xmpp:{}?register;preauth={}", escaped(what), self.text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} of {})", self.key(), self.owner)
    }
}

/// An address in a URI (RFC 5122 §2.2): what is neither unreserved nor a sub-delimiter that may stand there is escaped.
fn escaped(jid: &BareJid) -> String {
    let mut out = String::new();
    let mut put = |text: &str| {
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
    };
    if let Some(local) = jid.local() {
        put(local);
    }
    let local = jid.local().is_some();
    let mut domain = String::new();
    for byte in jid.domain().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b':' | b'[' | b']' => {
                domain.push(char::from(byte));
            }
            byte => domain.push_str(&format!("%{byte:02X}")),
        }
    }
    if local { format!("{out}@{domain}") } else { domain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> BareJid {
        BareJid::parse(text).expect("a JID")
    }

    #[test]
    fn a_token_says_where_it_is_kept_and_nothing_of_what_is_kept() {
        for owner in ["romeo@montague.example", "montague.example", "rómeo@montague.example"] {
            let token = Token::new([0xa7; 16], &jid(owner));
            assert!(token.expose().chars().all(|c| c.is_ascii_alphanumeric()));
            let read = Token::parse(&token.expose().to_ascii_uppercase(), "montague.example");
            assert_eq!(read.as_ref(), Some(&token));
            assert_eq!(token.owner().as_str(), owner);
            assert!(
                !token.expose().contains(&token.key()) && !format!("{token:?}").contains("a7a7")
            );
        }
        let other = Token::new([0xa8; 16], &jid("romeo@montague.example"));
        assert_ne!(other.key(), Token::new([0xa7; 16], &jid("romeo@montague.example")).key());
    }

    #[test]
    fn what_cannot_be_a_token_is_none() {
        let good = Token::new([1; 16], &jid("romeo@montague.example"));
        let good = good.expose();
        let smuggled = format!("{}{}", &good[..32], "6140622e63"); // a@b.c
        for text in
            ["", "1tMFqYDdKhfe2pwp", &good[..31], &good[..33], &smuggled, &format!("{good}ff")]
        {
            assert_eq!(Token::parse(text, "montague.example"), None, "{text}");
        }
    }

    #[test]
    fn a_uri_names_the_inviter_or_what_is_to_be_registered() {
        let token = Token::new([0; 16], &jid("o?neil@montague.example"));
        let text = token.expose();
        assert_eq!(
            token.roster_uri(true),
            format!("xmpp:o%3Fneil@montague.example?roster;preauth={text};ibr=y")
        );
        assert_eq!(
            token.register_uri(&jid("montague.example")),
            format!("xmpp:montague.example?register;preauth={text}")
        );
    }
}
