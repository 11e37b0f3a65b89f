//! Auth: a service of the operator's, asked with one POST of JSON for each question; the status of the answer is the verdict.
//!
//! `{"account":…,"user":…,"domain":…,"password":…}` → 200, 204: right; 401: wrong; 403: suspended; 410: expired; 404: no such account.
//! The same without a password asks whether there is such an account: 404, or something else of these.
//! `{"token":…}` → 200 with `{"account":…}`; 404: no token of that service. All else: down. Deliberately absent: TLS (see
//! `http::client`), SCRAM keys over HTTP.

use std::sync::Arc;

use config::HttpCall;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use super::gate::Gate;
use super::{Abilities, Backend, Said, account_named};
use crate::http::client::{Client, Reply};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// [`Backend`] over HTTP.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    client: Client,
    path: String,
    tokens: bool,
    domain: String,
    gate: Gate,
}

#[derive(Serialize)]
struct Question<'a> {
    account: &'a str,
    user: &'a str,
    domain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
}

#[derive(Serialize)]
struct TokenQuestion<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Owner {
    account: String,
}

impl Http {
    /// As configured, for the accounts of `domain`.
    ///
    /// # Errors
    /// In words: the URL or the file of the bearer cannot be used.
    pub fn new(call: &HttpCall, domain: &str) -> Result<Self, String> {
        let rest = call.url.strip_prefix("http://").unwrap_or(&call.url);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let mut client = Client::new(authority)
            .map_err(|error| error.to_string())?
            .with_deadline(call.bounds.timeout)
            .with_answer_max(ANSWER_BYTES_MAX);
        if let Some(file) = &call.bearer_file {
            client = client.with_bearer(&super::secret_of(file)?);
        }
        Ok(Self(Arc::new(Inner {
            client,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            tokens: call.tokens,
            domain: domain.to_owned(),
            gate: Gate::new("http", &call.bounds),
        })))
    }
}

impl Inner {
    async fn about(&self, account: &BareJid, password: Option<&str>) -> Said {
        let question = Question {
            account: account.as_str(),
            user: account.local().unwrap_or_default(),
            domain: account.domain(),
            password,
        };
        let question = serde_json::to_vec(&question).expect("text is always JSON");
        self.ask(question).await.map_or(Said::Down, |(said, _)| said)
    }

    /// What it says of that; a status that says nothing is a failure.
    async fn ask(&self, question: Vec<u8>) -> Option<(Said, Reply)> {
        let ask = async {
            let reply = self.client.ask("POST", &self.path, Some(question)).await;
            let reply = reply.map_err(|error| error.to_string())?;
            match said(reply.status) {
                Some(said) => Ok((said, reply)),
                None => Err(format!("the status is {}", reply.status)),
            }
        };
        self.gate.pass(ask).await
    }
}

fn said(status: u16) -> Option<Said> {
    Some(match status {
        200 | 204 => Said::Right,
        401 => Said::Wrong,
        403 => Said::Disabled,
        404 => Said::Unknown,
        410 => Said::Expired,
        _ => return None,
    })
}

impl Backend for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn abilities(&self) -> Abilities {
        Abilities { passwords: true, tokens: self.0.tokens, ..Abilities::default() }
    }

    fn password(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move { inner.about(&account, Some(password.expose())).await }.boxed()
    }

    fn knows(&self, account: &BareJid) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            match inner.about(&account, None).await {
                said @ (Said::Unknown | Said::Down) => said,
                _ => Said::Right,
            }
        }
        .boxed()
    }

    fn token(&self, token: Password) -> BoxFuture<'static, Result<BareJid, Said>> {
        let inner = self.0.clone();
        async move {
            if !inner.tokens {
                return Err(Said::Unknown);
            }
            let question = serde_json::to_vec(&TokenQuestion { token: token.expose() })
                .expect("text is always JSON");
            match inner.ask(question).await {
                None => Err(Said::Down),
                Some((Said::Right, reply)) => {
                    let owner = serde_json::from_slice::<Owner>(&reply.body).ok();
                    let account =
                        owner.and_then(|owner| account_named(&owner.account, &inner.domain));
                    if account.is_none() {
                        tracing::warn!("the http backend names no account of ours for a token");
                    }
                    account.ok_or(Said::Down)
                }
                Some((said, _)) => Err(said),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use serde_json::Value;

    use super::super::gate::tests::bounds;
    use super::*;

    /// A service on a port of its own; it knows juliet and a token of hers.
    async fn service() -> HttpCall {
        async fn answer(headers: HeaderMap, Json(asked): Json<Value>) -> (StatusCode, String) {
            if headers.get("authorization").is_none_or(|value| value != "Bearer s3cret") {
                return (StatusCode::BAD_REQUEST, String::new());
            }
            let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
            let status = match (text("user").as_str(), text("password").as_str()) {
                ("juliet", "r0m30") if text("account") == "juliet@capulet.example" => 200,
                ("juliet", _) => 401,
                ("tybalt", _) => 403,
                ("rosaline", _) => 410,
                ("paris", _) => 500,
                _ => 404,
            };
            match text("token").as_str() {
                "" => (StatusCode::from_u16(status).expect("a status"), String::new()),
                "hers" => (StatusCode::OK, r#"{"account":"juliet@capulet.example"}"#.to_owned()),
                "odd" => (StatusCode::OK, r#"{"account":"juliet@montague.example"}"#.to_owned()),
                _ => (StatusCode::NOT_FOUND, String::new()),
            }
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/check", listener.local_addr().expect("bound"));
        let router = axum::Router::new().route("/check", post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        HttpCall { url, bearer_file: None, tokens: true, bounds: bounds() }
    }

    fn jid(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@capulet.example")).expect("a JID")
    }

    #[tokio::test]
    async fn the_status_is_the_verdict() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("bearer");
        std::fs::write(&file, "s3cret\n").expect("written");
        let call = HttpCall { bearer_file: Some(file), ..service().await };
        let http = Http::new(&call, "capulet.example").expect("usable");
        for (name, password, expected) in [
            ("juliet", "r0m30", Said::Right),
            ("juliet", "wherefore", Said::Wrong),
            ("tybalt", "x", Said::Disabled),
            ("rosaline", "x", Said::Expired),
            ("paris", "x", Said::Down),
            ("nobody", "x", Said::Unknown),
        ] {
            let said = http.password(&jid(name), Password::new(password)).await;
            assert_eq!(said, expected, "{name}");
        }
        for (name, expected) in [("juliet", Said::Right), ("nobody", Said::Unknown)] {
            assert_eq!(http.knows(&jid(name)).await, expected);
        }
        let token = async |token: &str| http.token(Password::new(token)).await;
        assert_eq!(token("hers").await, Ok(jid("juliet")));
        assert_eq!(token("odd").await, Err(Said::Down));
        assert_eq!(token("another").await, Err(Said::Unknown));
    }

    #[tokio::test]
    async fn without_its_secret_or_its_service_it_is_down() {
        let call = service().await;
        let http = Http::new(&call, "capulet.example").expect("usable");
        let juliet = jid("juliet");
        assert_eq!(http.password(&juliet, Password::new("r0m30")).await, Said::Down);
        let call = HttpCall { url: "http://127.0.0.1:1/".into(), tokens: false, ..call };
        let http = Http::new(&call, "capulet.example").expect("usable");
        assert_eq!(http.password(&juliet, Password::new("r0m30")).await, Said::Down);
        assert_eq!(http.token(Password::new("hers")).await, Err(Said::Unknown));
    }
}
