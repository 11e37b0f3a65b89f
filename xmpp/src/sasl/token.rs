//! SASL HT-SHA-256-* (draft-schmaus-kitten-sasl-ht-09), both sides: a client proves that it has a token it was given (XEP-0484 FAST).
//!
//! Driven by [`super::Exchange`]; whoever keeps tokens keeps a [`Verifier`] and never the token itself. Deliberately absent: making
//! tokens (they are handed in, random), when they expire, counters and rotation: the caller's.
//!
//! What a reader of the database could do: nothing with a `-NONE` token (of its one proof only the hash is kept). The proof of a token
//! that is bound to a channel is another on each channel, and checking it takes the HMAC's key: that key is the token's hash, so such
//! a reader could sign in as that client on a channel of its own until the token is replaced.

use serde::{Deserialize, Serialize};

use super::{Failure, Hash, Secret, account_of};
use crate::jid::BareJid;

/// Tokens are longer than this: only then is a token's hash its HMAC's key (RFC 2104 §2), and only so need it not be kept.
pub const TOKEN_BYTES_MIN: usize = 65;
/// Longest message looked at: a localpart, a zero, a proof.
const MESSAGE_BYTES_MAX: usize = 1023 + 1 + 32;

/// Which channel a token is bound to: the end of the mechanism's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenBinding {
    /// `-NONE`.
    None,
    /// `-UNIQ`: `tls-unique`, which TLS 1.3 does not have; never offered.
    Unique,
    /// `-ENDP`: `tls-server-end-point`.
    EndPoint,
    /// `-EXPR`: `tls-exporter`.
    Exporter,
}

impl TokenBinding {
    /// The channel binding type, as XEP-0440 names it.
    pub fn kind(self) -> Option<&'static str> {
        match self {
            TokenBinding::None => None,
            TokenBinding::Unique => Some("tls-unique"),
            TokenBinding::EndPoint => Some("tls-server-end-point"),
            TokenBinding::Exporter => Some("tls-exporter"),
        }
    }
}

/// What is kept of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Verifier {
    /// Of one that is bound to no channel: there is one proof, and one answer to it.
    Fixed {
        /// The proof's hash.
        proof: Secret,
        /// What we answer.
        answer: Secret,
    },
    /// Of one that is: the key of both.
    Key(Secret),
}

impl Verifier {
    /// Of a new token.
    pub fn new(token: &str, binding: TokenBinding) -> Verifier {
        assert!(token.len() >= TOKEN_BYTES_MIN, "a token shorter than its hash's block");
        let key = Hash::Sha256.digest(token.as_bytes());
        if binding != TokenBinding::None {
            return Verifier::Key(Secret::new(key));
        }
        let proof = Hash::Sha256.digest(&initiator(&key, b""));
        Verifier::Fixed { proof: Secret::new(proof), answer: Secret::new(responder(&key, b"")) }
    }

    /// Our answer, if the proof is right on that channel.
    fn check(&self, proof: &[u8], channel: &[u8]) -> Option<Vec<u8>> {
        match self {
            Verifier::Fixed { proof: kept, answer } => {
                kept.matches(&Hash::Sha256.digest(proof)).then(|| answer.expose().to_vec())
            }
            Verifier::Key(key) => {
                let right = Secret::new(initiator(key.expose(), channel)).matches(proof);
                right.then(|| responder(key.expose(), channel))
            }
        }
    }
}

fn initiator(key: &[u8], channel: &[u8]) -> Vec<u8> {
    Hash::Sha256.hmac(key, &[b"Initiator", channel])
}

fn responder(key: &[u8], channel: &[u8]) -> Vec<u8> {
    Hash::Sha256.hmac(key, &[b"Responder", channel])
}

/// A token an account's client has.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its number among the client's.
    pub id: u64,
    /// Which channel it is bound to: it proves nothing with another mechanism (XEP-0484 §3.5).
    pub binding: TokenBinding,
    /// For its proofs.
    pub verifier: Verifier,
    /// Its time is over, or it was taken back: its owner may be told so.
    pub expired: bool,
}

/// The answer to [`super::Step::LookUpTokens`].
#[derive(Clone, Debug)]
pub enum Tokens {
    /// Those of the client, the one to try first first; none if there is no such account or client.
    Found(Vec<Token>),
    /// The same, but the account may not sign in, and whoever has a token may be told so.
    Disabled(Vec<Token>),
    /// We could not find out.
    Unavailable,
}

/// The receiving side, its message read.
#[derive(Debug)]
pub(super) struct Server {
    account: Option<BareJid>,
    binding: TokenBinding,
    proof: Vec<u8>,
    channel: Vec<u8>,
}

impl Server {
    /// `authcid NUL proof` → the exchange and whose tokens it takes. The account is `None` when none can have that name.
    pub(super) fn begin(
        binding: TokenBinding,
        message: &[u8],
        channel: Option<&[u8]>,
        domain: &str,
    ) -> Result<(Server, Option<BareJid>), Failure> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Failure::MalformedRequest);
        }
        let zero = message.iter().position(|byte| *byte == 0).ok_or(Failure::MalformedRequest)?;
        let name = std::str::from_utf8(&message[..zero]).map_err(|_| Failure::MalformedRequest)?;
        let proof = &message[zero + 1..];
        if name.is_empty() || proof.len() != Hash::Sha256.digest_bytes() {
            return Err(Failure::MalformedRequest);
        }
        let account = account_of(name, domain);
        let channel = match binding {
            TokenBinding::None => &[],
            _ => channel.ok_or(Failure::InvalidMechanism)?,
        };
        let server = Server {
            account: account.clone(),
            binding,
            proof: proof.to_vec(),
            channel: channel.to_vec(),
        };
        Ok((server, account))
    }

    /// Whose token it is, which one, and our answer.
    ///
    /// # Errors
    /// `not-authorized`; `credentials-expired` and `account-disabled` only to whoever has the token.
    pub(super) fn finish(self, tokens: Tokens) -> Result<(BareJid, u64, Vec<u8>), Failure> {
        let (tokens, disabled) = match tokens {
            Tokens::Found(tokens) => (tokens, false),
            Tokens::Disabled(tokens) => (tokens, true),
            Tokens::Unavailable => return Err(Failure::TemporaryAuthFailure),
        };
        let account = self.account.ok_or(Failure::NotAuthorized)?;
        let of_mechanism = tokens.into_iter().filter(|token| token.binding == self.binding);
        let right = of_mechanism.filter_map(|token| {
            let answer = token.verifier.check(&self.proof, &self.channel)?;
            Some((token, answer))
        });
        let Some((token, answer)) = right.min_by_key(|(token, _)| token.expired) else {
            return Err(Failure::NotAuthorized);
        };
        match (token.expired, disabled) {
            (true, _) => Err(Failure::CredentialsExpired), // B-110
            (_, true) => Err(Failure::AccountDisabled),
            _ => Ok((account, token.id, answer)),
        }
    }
}

/// The initiating side's message.
pub fn message(username: &str, token: &str, channel: &[u8]) -> Vec<u8> {
    let mut message = username.as_bytes().to_vec();
    message.push(0);
    message.extend(Hash::Sha256.hmac(token.as_bytes(), &[b"Initiator", channel]));
    message
}

/// Whether the server has the token too.
pub fn is_answer(answer: &[u8], token: &str, channel: &[u8]) -> bool {
    let right = Hash::Sha256.hmac(token.as_bytes(), &[b"Responder", channel]);
    Secret::new(right).matches(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "capulet.example";

    fn secret(letter: char) -> String {
        letter.to_string().repeat(80)
    }

    fn token(id: u64, letter: char, binding: TokenBinding, expired: bool) -> Token {
        Token { id, binding, verifier: Verifier::new(&secret(letter), binding), expired }
    }

    fn run(
        binding: TokenBinding,
        letter: char,
        seen: &[u8],
        ours: &[u8],
        tokens: Tokens,
    ) -> Result<u64, Failure> {
        let message = message("juliet", &secret(letter), seen);
        let (server, account) = Server::begin(binding, &message, Some(ours), DOMAIN)?;
        assert_eq!(account.expect("a name").as_str(), "juliet@capulet.example");
        let (_, id, answer) = server.finish(tokens)?;
        assert!(is_answer(&answer, &secret(letter), seen));
        assert!(!is_answer(&answer, &secret('z'), seen));
        Ok(id)
    }

    #[test]
    fn a_token_signs_its_client_in_on_its_own_channel_only() {
        use TokenBinding::{EndPoint, Exporter, None};
        let all = || {
            Tokens::Found(vec![
                token(4, 'd', Exporter, false),
                token(3, 'c', EndPoint, false),
                token(2, 'b', None, false),
                token(1, 'a', None, true),
            ])
        };
        assert_eq!(run(None, 'b', b"", b"", all()), Ok(2));
        assert_eq!(run(EndPoint, 'c', b"cert", b"cert", all()), Ok(3));
        assert_eq!(run(Exporter, 'd', b"key", b"key", all()), Ok(4));
        // Somebody in the middle; another mechanism (B-109); another token; an old one (B-110).
        assert_eq!(run(Exporter, 'd', b"key", b"other", all()), Err(Failure::NotAuthorized));
        assert_eq!(run(None, 'd', b"", b"", all()), Err(Failure::NotAuthorized));
        assert_eq!(run(EndPoint, 'd', b"key", b"key", all()), Err(Failure::NotAuthorized));
        assert_eq!(run(None, 'x', b"", b"", all()), Err(Failure::NotAuthorized));
        assert_eq!(run(None, 'a', b"", b"", all()), Err(Failure::CredentialsExpired));
        assert_eq!(run(None, 'b', b"", b"", Tokens::Found(vec![])), Err(Failure::NotAuthorized));
        let disabled = || Tokens::Disabled(vec![token(2, 'b', None, false)]);
        assert_eq!(run(None, 'b', b"", b"", disabled()), Err(Failure::AccountDisabled));
        assert_eq!(run(None, 'x', b"", b"", disabled()), Err(Failure::NotAuthorized));
        let unavailable = Tokens::Unavailable;
        assert_eq!(run(None, 'b', b"", b"", unavailable), Err(Failure::TemporaryAuthFailure));
    }

    #[test]
    fn a_malformed_message_is_told_so() {
        let begin = |message: &[u8], channel| {
            Server::begin(TokenBinding::Exporter, message, channel, DOMAIN).err()
        };
        let short = [b"juliet\0".as_slice(), &[7; 31]].concat();
        let long = [b"juliet\0".as_slice(), &[7; 33]].concat();
        let nobody = [b"\0".as_slice(), &[7; 32]].concat();
        let latin = [b"\xff\0".as_slice(), &[7; 32]].concat();
        let huge = vec![b'x'; 5000];
        for message in [b"".as_slice(), b"juliet", &short, &long, &nobody, &latin, &huge] {
            assert_eq!(
                begin(message, Some(b"key")),
                Some(Failure::MalformedRequest),
                "{message:?}"
            );
        }
        let right = [b"juliet\0".as_slice(), &[0; 32]].concat();
        assert_eq!(begin(&right, None), Some(Failure::InvalidMechanism));
        assert_eq!(begin(&right, Some(b"key")), None);
    }

    #[test]
    fn what_is_kept_does_not_tell_the_token_nor_print() {
        let verifier = Verifier::new(&secret('q'), TokenBinding::None);
        let Verifier::Fixed { proof, .. } = &verifier else { panic!("{verifier:?}") };
        // The proof itself would let its reader in; it is not there.
        let sent = message("juliet", &secret('q'), b"");
        assert!(!proof.matches(&sent[7..]));
        assert!(!format!("{verifier:?}").contains("113"), "{verifier:?}");
    }
}
