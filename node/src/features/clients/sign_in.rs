//! What sign-in has to do with clients and tokens (XEP-0484), called by the session's negotiation. Reads the local replica: a token signs its
//! client in in every region, also while its home is away. The home is waited for only where it must decide: a count (XEP-0484 §3.5),
//! an end (§3.7), a new token. Everything else is told it afterwards, and only what has changed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::timeout;
use xmpp::jid::BareJid;
use xmpp::payload::date_time;
use xmpp::sasl::token::Verifier;
use xmpp::sasl::{Failure, Mechanism, TokenBinding, Tokens};
use xmpp::stream::error::StreamError;
use xmpp::stream::negotiate::sasl2::NewToken as Handed;
use xmpp::stream::negotiate::{SignIn, SignedIn};

use super::home::{Answer, NewToken, OP, Request, Seen, UsedToken};
use super::record::{CLIENTS, Client, key};
use crate::app::Node;
use crate::auth::{About, Authenticator};
use crate::homes::HomeError;
use crate::router::perform;
use crate::session::Seat;

/// How long a client waits for a token it could do without.
const ISSUE_WITHIN: Duration = Duration::from_secs(2);

/// A client that has signed in.
#[derive(Debug)]
pub struct SignedClient {
    /// Its key.
    key: String,
    /// By which token, unless it has taken that back itself.
    token: Option<u64>,
    /// What its home has not heard yet, and whether it is to.
    seen: Seen,
    is_news: bool,
}

/// The tokens of a client, for an exchange.
pub async fn tokens(node: &Arc<Node>, account: &BareJid, id: &str) -> Tokens {
    let disabled = match node.authenticator.about(account).await {
        About::Unknown => return Tokens::Found(Vec::new()),
        About::Unavailable => return Tokens::Unavailable,
        About::Known { disabled, .. } => disabled,
    };
    match read(node, account, &key(account, id)).await {
        Err(()) => Tokens::Unavailable,
        Ok(client) => {
            let tokens = client.map(|client| client.tokens(node.wall_ms())).unwrap_or_default();
            if disabled { Tokens::Disabled(tokens) } else { Tokens::Found(tokens) }
        }
    }
}

/// A client with an id has proved who it is.
pub async fn sign_in(node: &Arc<Node>, asked: &SignIn) -> (SignedIn, Option<SignedClient>) {
    let settings = &node.config.clients;
    let now_ms = node.wall_ms();
    let account = &asked.account;
    let id = asked.agent.id.as_deref().unwrap_or_default();
    let key = key(account, id);
    let known = read(node, account, &key).await.ok().flatten();
    let used = asked.used.map(|used| UsedToken {
        id: used.token,
        count: used.count,
        over: used.invalidate,
    });
    let wanted = asked.request_token.or_else(|| {
        let used = asked.used.filter(|used| !used.invalidate)?;
        let token = known.as_ref()?.token(used.token)?;
        let due_ms = token.issued_ms.saturating_add(ms(settings.token_rotation));
        (now_ms >= due_ms).then_some(used.binding)
    });
    let new = wanted.filter(|_| settings.tokens).map(|binding| make(node, binding, now_ms));
    let names = settings.keep_user_agent;
    let mut seen = Seen {
        client: key.clone(),
        software: asked.agent.software.clone().filter(|_| names),
        device: asked.agent.device.clone().filter(|_| names),
        password: matches!(asked.mechanism, Mechanism::Plain | Mechanism::Scram { .. }),
        used,
        issue: new.as_ref().map(|(_, new)| new.clone()),
        resource: None,
        bound: 0,
        now_ms,
        forget_before_ms: now_ms.saturating_sub(ms(settings.forgotten_after)),
        clients_max: u32::try_from(settings.per_account_max).unwrap_or(u32::MAX),
    };
    let must_decide = used.is_some_and(|used| used.count.is_some() || used.over);
    let mut is_news = is_news(&seen, known.as_ref(), ms(settings.seen_every));
    let mut handed = Ok(None);
    if must_decide || new.is_some() {
        let request = Request::Seen(Box::new(seen.clone()));
        let asked = node.homes.exchange::<_, Answer>(account, OP, &request);
        let answer = match must_decide {
            true => asked.await,
            false => timeout(ISSUE_WITHIN, asked).await.unwrap_or(Err(HomeError::Unreachable)),
        };
        handed = match answer {
            Ok(Answer::Done) => {
                (is_news, seen.used, seen.issue) = (false, None, None);
                Ok(new.map(|(handed, _)| handed))
            }
            Ok(Answer::Replayed) => Err(Failure::NotAuthorized),
            Ok(Answer::Gone) => Err(Failure::CredentialsExpired),
            Ok(_) if used.is_some() => Err(Failure::NotAuthorized),
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::debug!(%account, %error, "no word from the home of a client's tokens");
                seen.issue = None; // A token nobody has.
                if must_decide { Err(Failure::TemporaryAuthFailure) } else { Ok(None) }
            }
        };
    }
    let token = used.filter(|used| !used.over).map(|used| used.id);
    let client = SignedClient { key, token, seen, is_news };
    let client = handed.is_ok().then_some(client);
    (handed, client)
}

/// Its session begins, or goes on. `inline`: it was bound by Bind 2, so earlier sessions of the same client end.
pub fn begin(node: &Arc<Node>, seat: &Arc<Seat>, client: SignedClient, inline: bool) {
    seat.set_client(&client.key, inline);
    if !inline && !client.is_news && client.token.is_none() {
        return;
    }
    let (node, seat) = (node.clone(), seat.clone());
    tokio::spawn(async move {
        let known = read(&node, &seat.bare, &client.key).await.ok().flatten();
        // Taken back between its proof and now: the word of that has found no session to end.
        let token = client.token.and_then(|id| known.as_ref()?.token(id));
        if token.is_some_and(|token| token.revoked) {
            perform::close(&seat, StreamError::not_authorized());
            return;
        }
        let resource = inline.then(|| seat.full.resource().to_owned());
        let is_moved =
            inline && known.as_ref().and_then(|known| known.resource.as_ref()) != resource.as_ref();
        if client.is_news || is_moved {
            let seen = Seen { resource, bound: seat.generation.0, ..client.seen };
            let request = Request::Seen(Box::new(seen));
            let told = node.homes.exchange::<_, Answer>(&seat.bare, OP, &request).await;
            if let Err(error) = told {
                tracing::debug!(session = %seat.full, %error, "the home has not heard of a client");
            }
        }
    });
}

/// Whether the home should hear of it.
fn is_news(seen: &Seen, known: Option<&Client>, seen_every_ms: u64) -> bool {
    let Some(known) = known else { return true };
    let used = seen.used.map(|used| used.id);
    let is_first_use = known.fresh.as_ref().is_some_and(|fresh| Some(fresh.id) == used);
    is_first_use
        || (seen.password && !known.password)
        || seen.now_ms >= known.last_seen_ms.saturating_add(seen_every_ms)
        || (&seen.software, &seen.device) != (&known.software, &known.device)
}

/// A new token: what the client gets, and what is kept.
fn make(node: &Node, binding: TokenBinding, now_ms: u64) -> (Handed, NewToken) {
    let token = format!("fast-{}", URL_SAFE_NO_PAD.encode(node.random::<60>()));
    let expires_ms = now_ms.saturating_add(ms(node.config.clients.token_lifetime));
    let verifier = Verifier::new(&token, binding);
    let expiry = date_time::format(expires_ms);
    (Handed { token, expiry }, NewToken { binding, verifier, expires_ms })
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn read(node: &Arc<Node>, account: &BareJid, key: &str) -> Result<Option<Client>, ()> {
    match node.storage.get(CLIENTS, account.as_str(), key).await {
        Ok(bytes) => Ok(bytes.and_then(|bytes| Client::decode(&bytes))),
        Err(error) => {
            tracing::warn!(%error, "clients cannot be read; nobody can sign in by token");
            Err(())
        }
    }
}
