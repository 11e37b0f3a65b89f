//! Auth: a service of the operator's, asked with one POST of JSON for each question; the status of the answer is the verdict.
//!
//! `{"account":…,"user":…,"domain":…,"password":…}` → 200, 204: right; 401: wrong; 403: suspended; 410: expired; 404: no such account.
//! The same without a password asks whether there is such an account: 404, or something else of these.
//! `{"token":…}` → 200 with `{"account":…}`; 404: no token of that service. All else: down. Over TLS the service's
//! certificate is checked against the authorities of `ca`, and sessions are resumed. Deliberately absent: SCRAM keys over HTTP.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, header, request};
use config::HttpCall;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use super::gate::Gate;
use super::{Abilities, Backend, Said, account_named};
use crate::http::outgoing::Outgoing;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// [`Backend`] over HTTP.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    outgoing: Outgoing,
    url: String,
    /// What the URL says behind its host.
    path: String,
    bearer: Option<HeaderValue>,
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
    /// In words: the file of the bearer or, with an `https` URL, that of the authorities cannot be used.
    pub fn new(call: &HttpCall, domain: &str) -> Result<Self, String> {
        let host = call.url.find("://").map_or(0, |at| at + 3);
        let path = call.url[host..].find('/').map_or(call.url.len(), |at| host + at);
        let (url, path) = call.url.split_at(path);
        let outgoing = Outgoing::new(call.ca.clone());
        if url.starts_with("https://") {
            outgoing.prepare().map_err(|error| error.to_string())?;
        }
        let bearer = call.bearer_file.as_deref().map(bearer).transpose()?;
        Ok(Self(Arc::new(Inner {
            outgoing,
            url: url.to_owned(),
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            bearer,
            tokens: call.tokens,
            domain: domain.to_owned(),
            gate: Gate::new("http", &call.bounds),
        })))
    }
}

fn bearer(file: &std::path::Path) -> Result<HeaderValue, String> {
    let value = format!("Bearer {}", super::secret_of(file)?);
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| format!("{}: no token for a header", file.display()))?;
    value.set_sensitive(true);
    Ok(value)
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

    /// What it says of that, with its words; a status that says nothing is a failure.
    async fn ask(&self, question: Vec<u8>) -> Option<(Said, Bytes)> {
        let ask = async {
            let mut request = request::Builder::new()
                .method("POST")
                .header(header::CONTENT_TYPE, "application/json");
            if let Some(bearer) = &self.bearer {
                request = request.header(header::AUTHORIZATION, bearer);
            }
            let body = Body::from(question);
            let answer = self.outgoing.send(&self.url, &self.path, request, body).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            match said(status) {
                Some(said) => Ok((said, body)),
                None => Err(format!("the status is {status}")),
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
                Some((Said::Right, body)) => {
                    let owner = serde_json::from_slice::<Owner>(&body).ok();
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
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use serde_json::Value;

    use super::super::gate::tests::bounds;
    use super::*;
    use crate::certs::Authority;

    /// Juliet and a token of hers are known to it.
    fn service() -> axum::Router {
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
        axum::Router::new().route("/check", post(answer))
    }

    fn call(url: String) -> HttpCall {
        HttpCall { url, ca: "/nowhere".into(), bearer_file: None, tokens: true, bounds: bounds() }
    }

    /// The service on a port of its own.
    async fn plain() -> HttpCall {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/check", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, service()).await });
        call(url)
    }

    /// A listener that speaks TLS.
    struct Tls(tokio::net::TcpListener, tokio_rustls::TlsAcceptor);

    impl axum::serve::Listener for Tls {
        type Io = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
        type Addr = std::net::SocketAddr;

        async fn accept(&mut self) -> (Self::Io, Self::Addr) {
            loop {
                let (stream, address) = self.0.accept().await.expect("somebody");
                if let Ok(stream) = self.1.accept(stream).await {
                    return (stream, address);
                }
            }
        }

        fn local_addr(&self) -> std::io::Result<Self::Addr> {
            self.0.local_addr()
        }
    }

    /// The service behind TLS, with a certificate for `localhost`; the PEM of who vouches for it.
    async fn tls() -> (HttpCall, String) {
        let authority = Authority::new("test").expect("an authority");
        let leaf = authority.issue(&["localhost".to_owned()]).expect("a certificate");
        let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).flatten().collect();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let listener = Tls(listener, Arc::new(config).into());
        tokio::spawn(async move { axum::serve(listener, service()).await });
        (call(format!("https://localhost:{port}/check")), authority.certificate().to_owned())
    }

    fn jid(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@capulet.example")).expect("a JID")
    }

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    }

    #[tokio::test]
    async fn over_tls_it_is_asked_if_the_right_authority_vouches_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let bearer_file = Some(file(&dir, "bearer", "s3cret"));
        let (call, authority) = tls().await;
        let call = HttpCall { bearer_file, ca: file(&dir, "ca.pem", &authority), ..call };
        let http = Http::new(&call, "capulet.example").expect("usable");
        let said = async |http: &Http| http.password(&jid("juliet"), Password::new("r0m30")).await;
        assert_eq!(said(&http).await, Said::Right);
        assert_eq!(http.token(Password::new("hers")).await, Ok(jid("juliet")));
        let named = HttpCall { url: call.url.replace("localhost", "127.0.0.1"), ..call.clone() };
        let http = Http::new(&named, "capulet.example").expect("usable");
        assert_eq!(said(&http).await, Said::Down, "the certificate is for another name");
        let other = Authority::new("other").expect("an authority");
        let ca = file(&dir, "other.pem", other.certificate());
        let http = Http::new(&HttpCall { ca, ..call.clone() }, "capulet.example").expect("usable");
        assert_eq!(said(&http).await, Said::Down, "nobody we know vouches for it");
        let ca = file(&dir, "none.pem", "");
        let none = Http::new(&HttpCall { ca, ..call }, "capulet.example");
        assert!(none.err().is_some_and(|error| error.contains("no authority in it")));
    }

    #[tokio::test]
    async fn the_status_is_the_verdict() {
        let dir = tempfile::tempdir().expect("a directory");
        let bearer_file = Some(file(&dir, "bearer", "s3cret\n"));
        let call = HttpCall { bearer_file, ..plain().await };
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
        let call = plain().await;
        let http = Http::new(&call, "capulet.example").expect("usable");
        let juliet = jid("juliet");
        assert_eq!(http.password(&juliet, Password::new("r0m30")).await, Said::Down);
        let call = HttpCall { url: "http://127.0.0.1:1/".into(), tokens: false, ..call };
        let http = Http::new(&call, "capulet.example").expect("usable");
        assert_eq!(http.password(&juliet, Password::new("r0m30")).await, Said::Down);
        assert_eq!(http.token(Password::new("hers")).await, Err(Said::Unknown));
    }
}
