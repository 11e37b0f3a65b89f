//! The home of an account's clients and tokens: the one writer of both, the replay counter of XEP-0484 among them. So a count that was
//! used up in one region is used up in all, whatever their replicas know yet.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::sasl::TokenBinding;
use xmpp::sasl::token::Verifier;

use super::record::{CLIENTS, Client, Unused};
use crate::homes::{self, HomeError, HomeOp, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "clients";

/// Written and taken away in one step, with a client's key behind it: its sessions end, wherever they are.
pub const ENDED: &str = "ended ";

/// What may be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// It has signed in.
    Seen(Box<Seen>),
    /// It is to have no access any more (XEP-0494 §3.2).
    Revoke {
        /// Which.
        client: String,
        /// Milliseconds since the Unix epoch.
        now_ms: u64,
    },
}

/// A client that has signed in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its key.
    pub client: String,
    /// The software's name.
    pub software: Option<String>,
    /// The device's name.
    pub device: Option<String>,
    /// By the password.
    pub password: bool,
    /// By a token.
    pub used: Option<UsedToken>,
    /// It gets a token.
    pub issue: Option<NewToken>,
    /// What it has bound by Bind 2.
    pub resource: Option<String>,
    /// The generation of that session.
    pub bound: u64,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Clients of which nothing was seen since then are forgotten, unless they have a token.
    pub forget_before_ms: u64,
    /// `clients.per_account_max` of the asker.
    pub clients_max: u32,
}

/// See [`Client::use_token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedToken {
    /// Which.
    pub id: u64,
    /// What came with it.
    pub count: Option<u64>,
    /// It was the last time.
    pub over: bool,
}

/// See [`Client::issue`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// For which mechanism.
    pub binding: TokenBinding,
    /// What is kept of it.
    pub verifier: Verifier,
    /// Milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

impl PartialEq for NewToken {
    fn eq(&self, other: &NewToken) -> bool {
        (self.binding, self.expires_ms) == (other.binding, other.expires_ms)
    }
}

/// What came of it; always after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// The count that came with the token is none that it was not used with before. Nothing has happened.
    Replayed,
    /// There is no such token any more. Nothing has happened.
    Gone,
    /// There is no such account.
    NoAccount,
    /// There is no such client.
    NoClient,
    /// Its tokens are taken back and its sessions end, but it knows the password.
    KnowsPassword,
}

/// The operation.
pub struct ClientsHome;

impl HomeOp for ClientsHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, |request| decide(tx, request))
    }
}

pub(super) async fn decide(tx: &mut Tx, request: Request) -> Result<Answer, HomeError> {
    if !accounts::exists(tx).await? {
        return Ok(Answer::NoAccount);
    }
    match request {
        Request::Seen(seen) => self::seen(tx, *seen).await,
        Request::Revoke { client: key, now_ms } => {
            let Some(mut client) = read(tx, &key).await? else { return Ok(Answer::NoClient) };
            client.revoke(now_ms);
            tx.put(CLIENTS, key.as_str(), client.encode());
            let signal = format!("{ENDED}{key}");
            tx.put(CLIENTS, signal.as_str(), Vec::new());
            tx.delete(CLIENTS, signal);
            Ok(if client.password { Answer::KnowsPassword } else { Answer::Done })
        }
    }
}

async fn seen(tx: &mut Tx, seen: Seen) -> Result<Answer, HomeError> {
    let known = read(tx, &seen.client).await?;
    let is_new = known.is_none();
    let mut client =
        known.unwrap_or_else(|| Client { first_seen_ms: seen.now_ms, ..Client::default() });
    if let Some(used) = seen.used {
        match client.use_token(used.id, used.count, used.over) {
            Ok(()) => {}
            Err(Unused::Replayed) => return Ok(Answer::Replayed),
            Err(Unused::Gone) => return Ok(Answer::Gone),
        }
    }
    client.last_seen_ms = client.last_seen_ms.max(seen.now_ms);
    client.password |= seen.password;
    client.software = seen.software;
    client.device = seen.device;
    // Two regions may tell of one client at the same time, and the later of the two first.
    if seen.resource.is_some() && seen.bound >= client.bound {
        (client.resource, client.bound) = (seen.resource, seen.bound);
    }
    if let Some(new) = seen.issue {
        client.issue(new.binding, new.verifier, seen.now_ms, new.expires_ms);
    }
    if is_new {
        make_room(tx, seen.now_ms, seen.forget_before_ms, seen.clients_max as usize).await?;
    }
    tx.put(CLIENTS, seen.client, client.encode());
    Ok(Answer::Done)
}

/// For one more client: those that were not seen for long are forgotten, and at the bound the one that was seen longest ago, if there is
/// one without a token, of those. Sessions go on.
async fn make_room(
    tx: &mut Tx,
    now_ms: u64,
    before_ms: u64,
    clients_max: usize,
) -> Result<(), HomeError> {
    let mut kept = Vec::new();
    for (key, bytes) in tx.map(CLIENTS).await? {
        let place = Client::decode(&bytes)
            .map(|client| (client.has_token(now_ms), client.last_seen_ms))
            .filter(|(has_token, seen_ms)| *has_token || *seen_ms >= before_ms);
        match place {
            Some(place) => kept.push((place, key)),
            None => tx.delete(CLIENTS, key),
        }
    }
    kept.sort_unstable();
    let surplus = (kept.len() + 1).saturating_sub(clients_max);
    for (_, key) in kept.into_iter().take(surplus) {
        tx.delete(CLIENTS, key);
    }
    Ok(())
}

/// The account has another password: nobody has shown it yet, and tokens that came of the old one are void.
pub async fn password_changed(tx: &mut Tx) -> Result<(), HomeError> {
    for (key, bytes) in tx.map(CLIENTS).await? {
        let Some(mut client) = Client::decode(&bytes) else { continue };
        let had = client.revoke(0);
        if std::mem::take(&mut client.password) || had {
            tx.put(CLIENTS, key, client.encode());
        }
    }
    Ok(())
}

async fn read(tx: &Tx, key: &str) -> Result<Option<Client>, HomeError> {
    Ok(tx.get(CLIENTS, key).await?.and_then(|bytes| Client::decode(&bytes)))
}
