//! A bucket for tests: a map that speaks as much S3 as we do, and computes every signature again from what arrived, by its own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

pub(super) const ACCESS_KEY: &str = "AKTESTS";
pub(super) const SECRET_KEY: &str = "a secret/of+tests";

type Objects = Arc<Mutex<BTreeMap<String, (HeaderMap, Bytes)>>>;

#[derive(Clone, Default)]
pub(super) struct Fake(Objects);

impl Fake {
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(super) fn router(&self, endpoint: &str) -> Router {
        let host = endpoint.trim_start_matches("http://").to_owned();
        Router::new().fallback(answer).with_state((self.clone(), host))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// AWS Signature Version 4, from the other side.
fn is_signed(method: &Method, path: &str, query: &str, headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let Some(rest) = text("authorization").strip_prefix("AWS4-HMAC-SHA256 ") else { return false };
    let part = |name: &str| {
        let parts = rest.split(',').map(str::trim);
        parts.filter_map(|part| part.strip_prefix(name)).next().unwrap_or_default()
    };
    let Some(scope) = part("Credential=").strip_prefix(&format!("{ACCESS_KEY}/")) else {
        return false;
    };
    let names = part("SignedHeaders=");
    let mut amz = headers.keys().filter(|name| name.as_str().starts_with("x-amz-"));
    if text("host") != host || !amz.all(|name| names.split(';').any(|known| known == name)) {
        return false;
    }
    let signed: String = names.split(';').map(|name| format!("{name}:{}\n", text(name))).collect();
    let canonical =
        format!("{method}\n{path}\n{query}\n{signed}\n{names}\n{}", text("x-amz-content-sha256"));
    let digest = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", text("x-amz-date"));
    let first = format!("AWS4{SECRET_KEY}").into_bytes();
    let key = scope.split('/').fold(first, |key, part| mac(&key, part));
    scope.ends_with("/us-east-1/s3/aws4_request") && hex(&mac(&key, &to_sign)) == part("Signature=")
}

async fn answer(State((fake, host)): State<(Fake, String)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or("").to_owned());
    if !is_signed(&parts.method, &path, &query, &parts.headers, &host) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(rest) = path.strip_prefix("/files%20of%20tests") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if rest.is_empty() {
        return list(&fake, &query).into_response();
    }
    match parts.method {
        Method::PUT => match body.collect().await {
            Ok(body) => {
                let body = body.to_bytes();
                let length = parts.headers["content-length"].to_str().unwrap_or("").parse();
                assert_eq!(length, Ok(body.len()));
                fake.0.lock().insert(rest.to_owned(), (parts.headers, body));
                StatusCode::OK.into_response()
            }
            Err(_) => StatusCode::BAD_REQUEST.into_response(),
        },
        Method::DELETE => {
            fake.0.lock().remove(rest);
            StatusCode::NO_CONTENT.into_response()
        }
        method => {
            let Some((kept, body)) = fake.0.lock().get(rest).cloned() else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let range = parts.headers.get("range").and_then(|range| range.to_str().ok());
            let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
            let body = match range {
                Some((first, last)) => {
                    let number = |text: &str| text.parse::<usize>().expect("a number");
                    body.slice(number(first)..number(last) + 1)
                }
                None => body,
            };
            let mut answer = Response::builder();
            for name in ["content-type", "x-amz-meta-owner", "x-amz-meta-since"] {
                if let Some(value) = kept.get(name) {
                    answer = answer.header(name, value);
                }
            }
            let answer = answer.header("content-length", body.len());
            let body = if method == Method::HEAD { Body::empty() } else { Body::from(body) };
            answer.body(body).expect("an answer")
        }
    }
}

/// Two keys a page, so that paging is tried.
fn list(fake: &Fake, query: &str) -> String {
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next();
        found.unwrap_or_default().replace("%2F", "/")
    };
    let (prefix, after) = (value("prefix"), value("start-after"));
    let objects = fake.0.lock();
    let keys = objects.keys().map(|key| key.trim_start_matches('/'));
    let page = keys.filter(|key| key.starts_with(&prefix) && **key > *after).take(2);
    page.map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect()
}
