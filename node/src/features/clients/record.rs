//! Clients of an account as durable data: what is known of each, and its tokens (XEP-0484 §6.1: one in use, one that was handed out and
//! not used yet). Pure: time is handed in. Read by sign-in from the local replica, changed by `home` only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::sasl::token::{self, Verifier};
use xmpp::sasl::{Hash, TokenBinding};

/// The store: a map, owner the account, key [`key`].
pub const CLIENTS: &str = "clients";

/// A client by the id its user agent gives itself, which is not kept: nobody can guess it, and so this tells nothing of it.
pub fn key(account: &BareJid, id: &str) -> String {
    let parts = ["client", account.as_str(), id].join("\0");
    URL_SAFE_NO_PAD.encode(&Hash::Sha256.digest(parts.as_bytes())[..15])
}

/// One client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Client {
    /// The software's name.
    pub software: Option<String>,
    /// The device's name.
    pub device: Option<String>,
    /// When it first signed in, in milliseconds since the Unix epoch.
    pub first_seen_ms: u64,
    /// When it did so last, or a little before.
    pub last_seen_ms: u64,
    /// It has shown the password, and that is still the password.
    pub password: bool,
    /// What it bound last by Bind 2.
    pub resource: Option<String>,
    /// The generation of the session that did: what was bound after it is not for this to end.
    pub bound: u64,
    /// A token that it may not know of yet.
    pub fresh: Option<Token>,
    /// The token it has used last.
    pub current: Option<Token>,
    /// The number of the next token.
    pub next: u64,
}

/// A token: what is kept of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Its number among the client's.
    pub id: u64,
    /// For which mechanism.
    pub binding: TokenBinding,
    /// For its proofs.
    pub verifier: Verifier,
    /// In milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// The same.
    pub expires_ms: u64,
    /// The greatest count that came with it (XEP-0484 §3.5).
    pub count: Option<u64>,
    /// Taken back. It is kept so that its owner can be told.
    pub revoked: bool,
}

impl Token {
    /// It signs its client in.
    pub fn is_good(&self, now_ms: u64) -> bool {
        !self.revoked && now_ms < self.expires_ms
    }
}

/// Why a token was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// It was replaced, or taken back.
    Gone,
    /// The count is not greater than one that came before.
    Replayed,
}

impl Client {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("numbers and text always serialise")
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Option<Client> {
        postcard::from_bytes(bytes).ok()
    }

    /// For the exchange: the fresh one first (§6.1).
    pub fn tokens(&self, now_ms: u64) -> Vec<token::Token> {
        let both = [&self.fresh, &self.current].into_iter().flatten();
        both.map(|token| token::Token {
            id: token.id,
            binding: token.binding,
            verifier: token.verifier.clone(),
            expired: !token.is_good(now_ms),
        })
        .collect()
    }

    /// One of its two tokens.
    pub fn token(&self, id: u64) -> Option<&Token> {
        [&self.fresh, &self.current].into_iter().flatten().find(|token| token.id == id)
    }

    /// It can sign in by a token.
    pub fn has_token(&self, now_ms: u64) -> bool {
        [&self.fresh, &self.current].into_iter().flatten().any(|token| token.is_good(now_ms))
    }

    /// A token was used: those that were made before are void from now on (§3.6).
    ///
    /// # Errors
    /// See [`Unused`]; nothing has changed.
    pub fn use_token(&mut self, id: u64, count: Option<u64>, over: bool) -> Result<(), Unused> {
        let is_fresh = self.fresh.as_ref().is_some_and(|token| token.id == id);
        let token = if is_fresh { &mut self.fresh } else { &mut self.current };
        let token = token.as_mut().filter(|token| token.id == id && !token.revoked);
        let token = token.ok_or(Unused::Gone)?;
        if let Some(count) = count {
            if token.count.is_some_and(|last| count <= last) {
                return Err(Unused::Replayed);
            }
            token.count = Some(count);
        }
        token.revoked = over;
        if is_fresh {
            self.current = self.fresh.take();
        }
        Ok(())
    }

    /// A new token. One that was handed out before and not used is void (§3.6).
    pub fn issue(
        &mut self,
        binding: TokenBinding,
        verifier: Verifier,
        issued_ms: u64,
        expires_ms: u64,
    ) {
        let id = self.next;
        self.next += 1;
        let (count, revoked) = (None, false);
        self.fresh = Some(Token { id, binding, verifier, issued_ms, expires_ms, count, revoked });
    }

    /// Takes its tokens back; says whether any was good.
    pub fn revoke(&mut self, now_ms: u64) -> bool {
        let had = self.has_token(now_ms);
        for token in [&mut self.fresh, &mut self.current].into_iter().flatten() {
            token.revoked = true;
        }
        had
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier(letter: &str) -> Verifier {
        Verifier::new(&letter.repeat(80), TokenBinding::None)
    }

    fn ids(client: &Client, now_ms: u64) -> Vec<(u64, bool)> {
        client.tokens(now_ms).iter().map(|token| (token.id, token.expired)).collect()
    }

    #[test]
    fn a_new_token_replaces_the_old_one_when_it_is_used() {
        let mut client = Client::default();
        client.issue(TokenBinding::None, verifier("a"), 0, 100);
        assert_eq!(client.use_token(0, None, false), Ok(()));
        client.issue(TokenBinding::None, verifier("b"), 50, 150);
        assert_eq!(ids(&client, 60), [(1, false), (0, false)]);
        assert_eq!(client.use_token(0, None, false), Ok(()), "the new one may have been lost");
        client.issue(TokenBinding::None, verifier("c"), 60, 160);
        assert_eq!(ids(&client, 60), [(2, false), (0, false)], "the unused one is void");
        assert_eq!(client.use_token(1, None, false), Err(Unused::Gone));
        assert_eq!(client.use_token(2, None, false), Ok(()));
        assert_eq!(ids(&client, 60), [(2, false)]);
        assert_eq!(client.use_token(0, None, false), Err(Unused::Gone));
        assert_eq!(ids(&client, 160), [(2, true)]);
        assert!(client.has_token(159) && !client.has_token(160));
    }

    #[test]
    fn a_count_only_grows_and_belongs_to_its_token() {
        let mut client = Client::default();
        client.issue(TokenBinding::Exporter, verifier("a"), 0, 100);
        assert_eq!(client.use_token(0, Some(0), false), Ok(()));
        assert_eq!(client.use_token(0, Some(0), false), Err(Unused::Replayed));
        assert_eq!(client.use_token(0, Some(7), false), Ok(()));
        assert_eq!(client.use_token(0, Some(6), false), Err(Unused::Replayed));
        assert_eq!(client.use_token(0, None, false), Ok(()));
        client.issue(TokenBinding::Exporter, verifier("b"), 0, 100);
        assert_eq!(client.use_token(1, Some(1), false), Ok(()));
    }

    #[test]
    fn what_was_taken_back_is_remembered_and_of_no_use() {
        let mut client = Client::default();
        client.issue(TokenBinding::None, verifier("a"), 0, 100);
        assert_eq!(client.use_token(0, None, true), Ok(()));
        assert_eq!(ids(&client, 1), [(0, true)]);
        assert_eq!(client.use_token(0, None, false), Err(Unused::Gone));
        client.issue(TokenBinding::None, verifier("b"), 0, 100);
        assert!(client.revoke(1) && !client.revoke(1));
        assert_eq!(client.use_token(1, None, false), Err(Unused::Gone));
        let read = Client::decode(&client.encode()).expect("read");
        assert_eq!(ids(&read, 1), [(1, true), (0, true)]);
    }

    #[test]
    fn a_key_is_an_accounts_own() {
        let jid = |text| BareJid::parse(text).expect("a JID");
        let one = key(&jid("romeo@a.example"), "d4565fa7");
        assert_eq!(one, key(&jid("romeo@a.example"), "d4565fa7"));
        assert_ne!(one, key(&jid("juliet@a.example"), "d4565fa7"));
        assert_eq!(one.len(), 20);
    }
}
