//! SASL SCRAM and SCRAM-PLUS (RFC 5802, RFC 7677, RFC 9266), both sides, over any [`Hash`](enum@Hash).
//!
//! The receiving side is driven by [`super::Exchange`]; the initiating side ([`Client`]) by tests and by whoever logs in
//! somewhere. Messages are parsed strictly in the RFC's order: anything else is `malformed-request`, so that what we signed
//! is what we read. Deliberately absent: `tls-unique` (RFC 9266 §3), mandatory extensions (none exists).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::{
    Credentials, Failure, Hash, Password, ScramKeys, Secret, Terms, account_of, is_own_authzid,
    saslprep,
};
use crate::jid::BareJid;

/// Longest message either side looks at, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Iteration counts a client accepts: fewer is a downgrade, more is an attack on its processor (bad-inputs S-045).
pub const CLIENT_ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;

/// Attribute letters RFC 5802 §5.1 gives a meaning to: an extension may not use them.
const RESERVED: &[u8] = b"anmrcsipve";

/// The receiving side, after the client's first message.
#[derive(Debug)]
pub struct Server {
    hash: Hash,
    /// For the fake salt, also when no account can have the name.
    claimed: String,
    account: Option<BareJid>,
    /// GS2 header and binding data: what `c=` must decode to.
    bound: Vec<u8>,
    client_nonce: String,
    /// `client-first-message-bare`, then `,server-first-message` once that is known.
    signed: String,
    nonce: String,
    keys: Option<ScramKeys>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    Disabled,
    Expired,
    Unknown,
}

impl Server {
    /// Reads the client's first message. The account is `None` when no account can have the name it gives.
    ///
    /// # Errors
    /// `not-authorized` for a GS2 flag against the rules or `m=`; `invalid-authzid`; `malformed-request`.
    pub fn begin(
        hash: Hash,
        plus: bool,
        message: &[u8],
        terms: &Terms,
    ) -> Result<(Server, Option<BareJid>), Failure> {
        let first = ClientFirst::parse(message)?;
        let mut bound = first.gs2.as_bytes().to_vec();
        match first.flag {
            // The client could bind but saw no -PLUS, though we offered it: somebody took it out of our list.
            Flag::NotOffered if terms.plus_offered => return Err(Failure::NotAuthorized),
            Flag::NotOffered | Flag::Unsupported if plus => return Err(Failure::NotAuthorized),
            Flag::NotOffered | Flag::Unsupported => {}
            Flag::Bound(_) if !plus => return Err(Failure::NotAuthorized),
            Flag::Bound(kind) => {
                bound.extend_from_slice(terms.bindings.data(kind).ok_or(Failure::NotAuthorized)?)
            }
        }
        let account = account_of(&first.username, &terms.domain);
        if first
            .authzid
            .as_deref()
            .is_some_and(|authzid| !is_own_authzid(authzid, account.as_ref()))
        {
            return Err(Failure::InvalidAuthzid);
        }
        let server = Server {
            hash,
            claimed: format!("{}@{}", first.username, terms.domain),
            account: account.clone(),
            bound,
            client_nonce: first.nonce.to_owned(),
            signed: first.bare.to_owned(),
            nonce: String::new(),
            keys: None,
            standing: Standing::Unknown,
        };
        Ok((server, account))
    }

    /// Makes the challenge, from the account's keys or from made-up ones that look the same.
    ///
    /// # Errors
    /// `temporary-auth-failure` when the keys could not be had or are of another hash; `malformed-request` when asked twice.
    pub fn challenge(
        &mut self,
        credentials: Credentials,
        terms: &Terms,
    ) -> Result<Vec<u8>, Failure> {
        if self.keys.is_some() {
            return Err(Failure::MalformedRequest);
        }
        let (keys, standing) = match credentials {
            Credentials::Keys(keys) => (keys, Standing::Good),
            Credentials::Disabled(keys) => (keys, Standing::Disabled),
            Credentials::Expired(keys) => (keys, Standing::Expired),
            Credentials::Unavailable => return Err(Failure::TemporaryAuthFailure),
            Credentials::Unknown => {
                let name =
                    self.account.as_ref().map_or(self.claimed.as_str(), |account| account.as_str());
                (
                    ScramKeys::fake(self.hash, name, &terms.fake_secret, terms.fake_iterations),
                    Standing::Unknown,
                )
            }
        };
        if keys.hash != self.hash {
            return Err(Failure::TemporaryAuthFailure);
        }
        self.nonce = format!("{}{}", self.client_nonce, terms.nonce);
        let mut challenge =
            format!("r={},s={},i={}", self.nonce, BASE64.encode(&keys.salt), keys.iterations);
        if let Some(offered) = &terms.offered {
            challenge.push_str(",h="); // XEP-0474
            challenge.push_str(&offered.hash(self.hash));
        }
        self.signed.push(',');
        self.signed.push_str(&challenge);
        self.keys = Some(keys);
        self.standing = standing;
        Ok(challenge.into_bytes())
    }

    /// Reads the client's final message; gives the account and the server's signature.
    ///
    /// # Errors
    /// `not-authorized` for a wrong proof, nonce or channel, or an unknown user; `account-disabled` only after a right
    /// proof; `malformed-request`.
    pub fn finish(&mut self, message: &[u8]) -> Result<(BareJid, Vec<u8>), Failure> {
        let Some(keys) = self.keys.take() else { return Err(Failure::MalformedRequest) };
        let last = ClientFinal::parse(message)?;
        let is_same_channel: bool = last.binding.as_slice().ct_eq(&self.bound).into();
        let is_same_nonce: bool = last.nonce.as_bytes().ct_eq(self.nonce.as_bytes()).into();
        let auth_message = [self.signed.as_bytes(), b",", last.without_proof.as_bytes()];

        let signature = self.hash.hmac(keys.stored_key.expose(), &auth_message);
        if last.proof.len() != signature.len() {
            return Err(Failure::MalformedRequest);
        }
        let client_key: Vec<u8> =
            last.proof.iter().zip(&signature).map(|(proof, signature)| proof ^ signature).collect();
        let is_right_proof = keys.stored_key.matches(&self.hash.digest(&client_key));

        match (&self.account, self.standing) {
            (Some(account), standing) if is_same_channel && is_same_nonce && is_right_proof => {
                match standing {
                    Standing::Good => {
                        let verifier = self.hash.hmac(keys.server_key.expose(), &auth_message);
                        Ok((account.clone(), format!("v={}", BASE64.encode(verifier)).into_bytes()))
                    }
                    Standing::Disabled => Err(Failure::AccountDisabled),
                    Standing::Expired => Err(Failure::CredentialsExpired),
                    Standing::Unknown => Err(Failure::NotAuthorized),
                }
            }
            _ => Err(Failure::NotAuthorized),
        }
    }
}

/// The GS2 channel binding flag.
#[derive(Clone, Copy)]
enum Flag<'a> {
    /// `n`: the client cannot bind.
    Unsupported,
    /// `y`: it can, but believes we cannot.
    NotOffered,
    /// `p=type`.
    Bound(&'a str),
}

struct ClientFirst<'a> {
    flag: Flag<'a>,
    authzid: Option<String>,
    gs2: &'a str,
    bare: &'a str,
    username: String,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8]) -> Result<ClientFirst<'a>, Failure> {
        let text = text(message).ok_or(Failure::MalformedRequest)?;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::MalformedRequest);
        };
        let gs2 = &text[..text.len() - bare.len()];
        let flag = match flag {
            "n" => Flag::Unsupported,
            "y" => Flag::NotOffered,
            _ => match flag.strip_prefix("p=") {
                Some(kind)
                    if !kind.is_empty()
                        && kind
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.') =>
                {
                    Flag::Bound(kind)
                }
                _ => return Err(Failure::MalformedRequest),
            },
        };
        let authzid = match authzid {
            "" => None,
            given => {
                Some(given.strip_prefix("a=").and_then(unescape).ok_or(Failure::MalformedRequest)?)
            }
        };
        if bare.starts_with("m=") {
            return Err(Failure::NotAuthorized);
        }
        let mut fields = bare.split(',');
        let username = fields.next().and_then(|field| field.strip_prefix("n=")).and_then(unescape);
        let nonce = fields
            .next()
            .and_then(|field| field.strip_prefix("r="))
            .filter(|nonce| is_nonce(nonce));
        let (Some(username), Some(nonce)) = (username, nonce) else {
            return Err(Failure::MalformedRequest);
        };
        if !are_extensions(fields) {
            return Err(Failure::MalformedRequest);
        }
        Ok(ClientFirst { flag, authzid, gs2, bare, username, nonce })
    }
}

struct ClientFinal<'a> {
    binding: Vec<u8>,
    nonce: &'a str,
    proof: Vec<u8>,
    without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8]) -> Result<ClientFinal<'a>, Failure> {
        let read = || {
            let (without_proof, proof) = text(message)?.rsplit_once(",p=")?;
            let proof = BASE64.decode(proof).ok()?;
            let mut fields = without_proof.split(',');
            let binding = BASE64.decode(fields.next()?.strip_prefix("c=")?).ok()?;
            let nonce = fields.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
            are_extensions(fields).then_some(ClientFinal { binding, nonce, proof, without_proof })
        };
        read().ok_or(Failure::MalformedRequest)
    }
}

/// How the initiating side answers the channel binding question.
#[derive(Clone, Debug)]
pub enum ClientBinding {
    /// We cannot bind (`n`).
    Unsupported,
    /// We can, but the server offered no -PLUS (`y`).
    NotOffered,
    /// -PLUS (`p=kind`).
    Use {
        /// Such as `tls-exporter`.
        kind: String,
        /// The channel's data of that type.
        data: Vec<u8>,
    },
}

/// Why the initiating side gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Our own password or user name cannot be used.
    Unprepared,
    /// The server's message breaks the grammar, or came out of turn.
    Malformed,
    /// The server's nonce does not begin with ours, or adds nothing.
    Nonce,
    /// The iteration count is outside [`CLIENT_ITERATIONS`].
    Iterations,
    /// The server does not know our keys: it is not the one we mean.
    Signature,
    /// The server said `e=`.
    Refused,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientError::Unprepared => "the user name or password cannot be used with SCRAM",
            ClientError::Malformed => "the server's SCRAM message is malformed",
            ClientError::Nonce => "the server's SCRAM nonce does not continue ours",
            ClientError::Iterations => "the server's SCRAM iteration count is out of bounds",
            ClientError::Signature => "the server could not prove that it knows the account",
            ClientError::Refused => "the server refused the SCRAM proof",
        })
    }
}

impl std::error::Error for ClientError {}

/// The initiating side.
#[derive(Debug)]
pub struct Client {
    hash: Hash,
    password: Password,
    gs2: String,
    bound: Vec<u8>,
    bare: String,
    nonce: String,
    verifier: Option<Secret>,
}

impl Client {
    /// `nonce` is fresh, random, printable ASCII without a comma.
    ///
    /// # Errors
    /// [`ClientError::Unprepared`] if SASLprep refuses the user name or the password.
    pub fn new(
        hash: Hash,
        binding: ClientBinding,
        authzid: Option<&str>,
        username: &str,
        password: &Password,
        nonce: &str,
    ) -> Result<Client, ClientError> {
        let prepared = |text: &str| {
            saslprep(text).map(|text| text.into_owned()).map_err(|_| ClientError::Unprepared)
        };
        let authzid = authzid.map_or(String::new(), |authzid| format!("a={}", escape(authzid)));
        let (gs2, data) = match binding {
            ClientBinding::Unsupported => (format!("n,{authzid},"), Vec::new()),
            ClientBinding::NotOffered => (format!("y,{authzid},"), Vec::new()),
            ClientBinding::Use { kind, data } => (format!("p={kind},{authzid},"), data),
        };
        let mut bound = gs2.clone().into_bytes();
        bound.extend_from_slice(&data);
        let bare = format!("n={},r={nonce}", escape(&prepared(username)?));
        let password = Password::new(prepared(password.expose())?);
        Ok(Client { hash, password, gs2, bound, bare, nonce: nonce.to_owned(), verifier: None })
    }

    /// The first message: the initial response.
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.gs2, self.bare).into_bytes()
    }

    /// Answers the server's challenge. Runs PBKDF2, within [`CLIENT_ITERATIONS`].
    pub fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        let challenge = text(challenge).ok_or(ClientError::Malformed)?;
        let mut fields = challenge.split(',');
        let mut next = |prefix: &str| {
            fields.next().and_then(|field| field.strip_prefix(prefix)).ok_or(ClientError::Malformed)
        };
        let (nonce, salt, iterations) = (next("r=")?, next("s=")?, next("i=")?);
        let salt = BASE64
            .decode(salt)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or(ClientError::Malformed)?;
        if !are_extensions(fields) {
            return Err(ClientError::Malformed);
        }
        if !is_nonce(nonce) || nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ClientError::Nonce);
        }
        let iterations = iterations
            .parse()
            .ok()
            .filter(|count| CLIENT_ITERATIONS.contains(count))
            .ok_or(ClientError::Iterations)?;

        let salted = self.hash.salted(self.password.expose().as_bytes(), &salt, iterations);
        let client_key = self.hash.hmac(&salted, &[b"Client Key"]);
        let stored_key = self.hash.digest(&client_key);
        let server_key = self.hash.hmac(&salted, &[b"Server Key"]);
        let without_proof = format!("c={},r={nonce}", BASE64.encode(&self.bound));
        let auth_message = format!("{},{challenge},{without_proof}", self.bare);
        let signature = self.hash.hmac(&stored_key, &[auth_message.as_bytes()]);
        let proof: Vec<u8> =
            client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
        self.verifier = Some(Secret::new(self.hash.hmac(&server_key, &[auth_message.as_bytes()])));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
    }

    /// Checks the data that came with success. Without this check the server has proved nothing.
    pub fn success(&mut self, data: &[u8]) -> Result<(), ClientError> {
        let verifier = self.verifier.take().ok_or(ClientError::Malformed)?;
        let data = text(data).ok_or(ClientError::Malformed)?;
        let first = data.split(',').next().unwrap_or_default();
        if first.starts_with("e=") {
            return Err(ClientError::Refused);
        }
        let claimed = first
            .strip_prefix("v=")
            .and_then(|claimed| BASE64.decode(claimed).ok())
            .ok_or(ClientError::Malformed)?;
        if verifier.matches(&claimed) { Ok(()) } else { Err(ClientError::Signature) }
    }
}

fn text(message: &[u8]) -> Option<&str> {
    let is_sized = message.len() <= MESSAGE_BYTES_MAX;
    std::str::from_utf8(message).ok().filter(|text| is_sized && !text.contains('\0'))
}

fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e))
}

/// Optional extensions are ignored, but must be well formed, of letters without another meaning, and each once.
fn are_extensions<'a>(fields: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = Vec::new();
    for field in fields {
        match field.as_bytes() {
            [letter, b'=', _, ..]
                if letter.is_ascii_alphabetic()
                    && !RESERVED.contains(letter)
                    && !seen.contains(letter) =>
            {
                seen.push(*letter)
            }
            _ => return false,
        }
    }
    true
}

/// `saslname`: a comma is `=2C`, an equals sign `=3D`, and no other escape exists.
fn unescape(name: &str) -> Option<String> {
    let mut pieces = name.split('=');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let (sign, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    (!plain.is_empty()).then_some(plain)
}

fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
