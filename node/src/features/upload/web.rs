//! The paths under `/upload/REGION/TOKEN/NAME`: PUT with a signed slot, GET and HEAD of anybody who knows the address (XEP-0363 §7, §9).
//!
//! A file of another region: a GET is sent there, a PUT is passed on, so that a client need not be asked to do it twice. Memory is a few
//! buffers for each transfer; how many there are, and how slow, is bounded by `upload.transfers_max` and `upload.bytes_per_s_min`, and a
//! client that takes nothing at all is cut by the HTTP port itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};
use xmpp::jid::BareJid;

use super::Uploads;
use super::headers::{self, Asked};
use super::home::{self, Answer};
use super::slot::{self, Grant, Token};
use super::store::{Content, Meta, Sink, StoreError};
use crate::app::Node;
use crate::http::client::escape;

/// Silence of a client that brings a file. Beyond: it is given up.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// Said of a request that a node has passed on: it is not passed on again.
const PASSED_ON: &str = "x-pangaea-passed-on";

#[derive(Clone)]
struct Site {
    uploads: Arc<Uploads>,
    node: Arc<Node>,
}

/// A path: region, token, name.
type At = (String, String, String);

/// The routes.
pub(super) fn router(uploads: Arc<Uploads>, node: Arc<Node>) -> Router {
    Router::new()
        .route("/upload/{region}/{token}/{name}", any(answer))
        .with_state(Site { uploads, node })
}

async fn answer(State(site): State<Site>, Path(at): Path<At>, request: Request) -> Response {
    let (asked, body) = request.into_parts();
    let answer = match asked.method {
        Method::GET | Method::HEAD => site.get(at, &asked.method, &asked.headers).await,
        Method::PUT => site.put(at, &asked.headers, body).await,
        Method::OPTIONS => Ok((StatusCode::NO_CONTENT, headers::preflight()).into_response()),
        _ => {
            let allow = [(header::ALLOW, "OPTIONS, HEAD, GET, PUT")];
            Ok((StatusCode::METHOD_NOT_ALLOWED, allow).into_response())
        }
    };
    let (mut parts, body) = answer.unwrap_or_else(IntoResponse::into_response).into_parts();
    headers::everywhere(&mut parts);
    Response::from_parts(parts, body)
}

/// What went wrong, for the client.
type No = (StatusCode, HeaderMap, &'static str);

fn no(status: StatusCode, words: &'static str) -> No {
    (status, HeaderMap::new(), words)
}

fn no_with(
    status: StatusCode,
    name: header::HeaderName,
    value: &'static str,
    words: &'static str,
) -> No {
    (status, HeaderMap::from_iter([(name, HeaderValue::from_static(value))]), words)
}

/// What the store could not do.
fn failed(error: StoreError) -> No {
    match error {
        StoreError::Exists => no(StatusCode::CONFLICT, "this file is there already\n"),
        StoreError::Failed(cause) => {
            tracing::error!(%cause, "uploads: the store");
            no(StatusCode::INTERNAL_SERVER_ERROR, "the store does not work\n")
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl Site {
    fn now_s(&self) -> u64 {
        self.node.wall_ms() / 1_000
    }

    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, No> {
        self.uploads.places.clone().try_acquire_owned().map_err(|_| {
            let words = "too many transfers, try again soon\n";
            no_with(StatusCode::SERVICE_UNAVAILABLE, header::RETRY_AFTER, "10", words)
        })
    }

    async fn get(
        &self,
        (region, token, name): At,
        method: &Method,
        asked: &HeaderMap,
    ) -> Result<Response, No> {
        let none = || no(StatusCode::NOT_FOUND, "no such file\n");
        let token = Token::parse(&token).ok_or_else(none)?;
        if region != self.uploads.region {
            let url = self.uploads.elsewhere.get(&region).ok_or_else(none)?;
            let there = format!("{url}/upload/{region}/{}/{}", token.as_str(), escape(&name));
            let there = HeaderValue::from_str(&there).map_err(|_| none())?;
            return Ok(
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, there)]).into_response()
            );
        }
        let left_s = token.until_s().checked_sub(self.now_s()).filter(|left_s| *left_s > 0);
        let left_s = left_s.ok_or_else(none)?;
        let meta = self.uploads.store.meta(&token).await.map_err(failed)?.ok_or_else(none)?;
        let tag = format!("\"{}\"", token.as_str());
        let mut headers = headers::of_file(&meta, &tag, left_s);
        if text(asked, header::IF_NONE_MATCH).is_some_and(|list| headers::names(list, &tag)) {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        if text(asked, header::IF_MATCH).is_some_and(|list| !headers::names(list, &tag)) {
            return Err(no(StatusCode::PRECONDITION_FAILED, "it is another\n"));
        }
        let same = text(asked, header::IF_RANGE).is_none_or(|known| known.trim() == tag);
        let range = text(asked, header::RANGE).filter(|_| same && *method == Method::GET);
        let (status, bytes) = match headers::range(range, meta.size) {
            Asked::Whole => (StatusCode::OK, 0..meta.size),
            Asked::Part(bytes) => {
                let said = format!("bytes {}-{}/{}", bytes.start, bytes.end - 1, meta.size);
                headers
                    .insert(header::CONTENT_RANGE, HeaderValue::from_str(&said).expect("digits"));
                (StatusCode::PARTIAL_CONTENT, bytes)
            }
            Asked::Beyond => {
                let said =
                    HeaderValue::from_str(&format!("bytes */{}", meta.size)).expect("digits");
                let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, said)]);
                return Err((StatusCode::RANGE_NOT_SATISFIABLE, headers, ""));
            }
        };
        headers.insert(header::CONTENT_LENGTH, (bytes.end - bytes.start).into());
        let body = match *method {
            Method::HEAD => Body::empty(),
            _ => self.body(&token, bytes).await?,
        };
        Ok((status, headers, body).into_response())
    }

    /// The bytes, as long as they are taken fast enough.
    async fn body(&self, token: &Token, bytes: Range<u64>) -> Result<Body, No> {
        let place = self.place()?;
        let deadline = Instant::now() + self.uploads.slowest(bytes.end - bytes.start);
        let content = self.uploads.store.read(token, bytes).await.map_err(failed)?;
        let timely = stream::try_unfold((content, place), move |(mut content, place)| async move {
            if Instant::now() > deadline {
                return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
            }
            let next: Option<std::io::Result<_>> = Content::next(&mut content).await;
            Ok(next.transpose()?.map(|chunk| (chunk, (content, place))))
        });
        Ok(Body::from_stream(timely))
    }

    async fn put(
        &self,
        (region, token, name): At,
        asked: &HeaderMap,
        body: Body,
    ) -> Result<Response, No> {
        let Some(bearer) = text(asked, header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            let words = "the slot's Authorization header is missing\n";
            return Err(no_with(
                StatusCode::UNAUTHORIZED,
                header::WWW_AUTHENTICATE,
                "Bearer",
                words,
            ));
        };
        let forbidden = || no(StatusCode::FORBIDDEN, "this is not the slot that was given\n");
        let grant = Grant::verify(bearer.1.trim(), &self.uploads.key).ok_or_else(forbidden)?;
        if grant.region != region || grant.token.as_str() != token || grant.name != name {
            return Err(forbidden());
        }
        if grant.until_s < self.now_s() {
            return Err(no(StatusCode::GONE, "the slot is too old\n"));
        }
        let length = text(asked, header::CONTENT_LENGTH);
        let length =
            length.ok_or_else(|| no(StatusCode::LENGTH_REQUIRED, "Content-Length is missing\n"))?;
        if length.parse() != Ok(grant.size) {
            return Err(no(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Content-Length is not the size of the slot\n",
            ));
        }
        if let (Some(slot), Some(said)) = (&grant.content_type, text(asked, header::CONTENT_TYPE))
            && !essence(slot).eq_ignore_ascii_case(essence(said))
        {
            return Err(no(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Type is not that of the slot\n",
            ));
        }
        let place = self.place()?;
        if region != self.uploads.region {
            return self.pass_on(&grant, asked, body).await;
        }
        let said = text(asked, header::CONTENT_TYPE);
        let content_type =
            grant.content_type.as_deref().or(said).unwrap_or("application/octet-stream");
        let owner = slot::owner(&grant.account);
        let meta = Meta {
            size: grant.size,
            content_type: content_type.to_owned(),
            owner: owner.clone(),
            since_s: self.now_s(),
        };
        let mut sink = self.uploads.store.create(&grant.token, meta).await.map_err(failed)?;
        let deadline = Instant::now() + self.uploads.slowest(grant.size);
        receive(body, sink.as_mut(), grant.size, deadline).await?;
        // A client that goes away now has brought its file all the same.
        let site = self.clone();
        let kept = tokio::spawn(async move {
            let _place = place;
            site.keep(sink, &grant, &owner).await
        });
        kept.await.unwrap_or_else(|_| Err(no(StatusCode::INTERNAL_SERVER_ERROR, "")))?;
        Ok(StatusCode::CREATED.into_response())
    }

    /// The file is whole: it stays if its home knows of it.
    async fn keep(&self, sink: Box<dyn Sink>, grant: &Grant, owner: &str) -> Result<(), No> {
        sink.finish().await.map_err(failed)?;
        let gone = || no(StatusCode::GONE, "the slot, or its account, is gone\n");
        let account = BareJid::parse(&grant.account).map_err(|_| gone())?;
        let arrived = home::Request::Arrived { token: grant.token.as_str().to_owned() };
        let answer = self.node.homes.exchange::<_, Answer>(&account, home::OP, &arrived).await;
        if matches!(answer, Ok(Answer::Noted)) {
            return Ok(());
        }
        if let Err(error) = self.uploads.store.remove(&grant.token, owner).await {
            tracing::warn!(%error, "a file that nobody knows of stays until its time");
        }
        match answer {
            Ok(_) => Err(gone()),
            Err(error) => {
                tracing::warn!(%error, account = %account, "an upload could not be noted");
                Err(no(StatusCode::SERVICE_UNAVAILABLE, "the account's home cannot be reached\n"))
            }
        }
    }

    /// To the region whose slot it is.
    async fn pass_on(&self, grant: &Grant, asked: &HeaderMap, body: Body) -> Result<Response, No> {
        let away = |words| no(StatusCode::BAD_GATEWAY, words);
        let url = self.uploads.elsewhere.get(&grant.region);
        let url = url.filter(|_| !asked.contains_key(PASSED_ON));
        let url = url.ok_or_else(|| away("the slot's region is not known here\n"))?;
        let path =
            format!("/upload/{}/{}/{}", grant.region, grant.token.as_str(), escape(&grant.name));
        let mut onward = Request::builder().method(Method::PUT).header(PASSED_ON, "1");
        for name in [header::AUTHORIZATION, header::CONTENT_LENGTH, header::CONTENT_TYPE] {
            if let Some(value) = asked.get(&name) {
                onward = onward.header(name, value);
            }
        }
        let sent = self.uploads.outgoing.send(url, &path, onward, body);
        match timeout(self.uploads.slowest(grant.size), sent).await {
            Ok(Ok(answer)) => Ok(answer.status().into_response()),
            Ok(Err(cause)) => {
                tracing::warn!(%cause, region = grant.region, "an upload could not be passed on");
                Err(away("the slot's region cannot be reached\n"))
            }
            Err(_) => Err(no(StatusCode::REQUEST_TIMEOUT, "too slow\n")),
        }
    }
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Exactly so many bytes, in time.
async fn receive(
    mut body: Body,
    sink: &mut dyn Sink,
    size: u64,
    deadline: Instant,
) -> Result<(), No> {
    let slow = |_| no(StatusCode::REQUEST_TIMEOUT, "too slow\n");
    let mut count = 0;
    while !body.is_end_stream() {
        let frame = timeout_at(deadline, timeout(SILENT_MAX, body.frame())).await;
        let Some(frame) = frame.map_err(slow)?.map_err(slow)? else { break };
        let frame = frame.map_err(|_| no(StatusCode::BAD_REQUEST, "the file was cut\n"))?;
        let Ok(bytes) = frame.into_data() else { continue };
        count += bytes.len() as u64;
        if count > size {
            return Err(no(StatusCode::PAYLOAD_TOO_LARGE, "more than the slot's size\n"));
        }
        sink.write(bytes).await.map_err(failed)?;
    }
    if count == size { Ok(()) } else { Err(no(StatusCode::BAD_REQUEST, "the file was cut\n")) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::sleep;

    use super::super::store;
    use super::*;

    struct Nowhere;

    impl Sink for Nowhere {
        fn write(&mut self, _bytes: Bytes) -> store::Answer<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn finish(self: Box<Self>) -> store::Answer<'static, ()> {
            Box::pin(async { Ok(()) })
        }
    }

    /// A byte in so many seconds, for ever.
    fn drops(every: u64) -> Body {
        Body::from_stream(stream::repeat(()).then(move |()| async move {
            sleep(Duration::from_secs(every)).await;
            Ok::<_, std::io::Error>("x")
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_comes_in_time_or_not_at_all() {
        let within = |seconds| Instant::now() + Duration::from_secs(seconds);
        let status = |done: Result<(), No>| done.map_err(|(status, _, _)| status);
        let silent = receive(drops(61), &mut Nowhere, 10, within(1_000)).await;
        assert_eq!(status(silent), Err(StatusCode::REQUEST_TIMEOUT));
        let slow = receive(drops(59), &mut Nowhere, 10, within(300)).await;
        assert_eq!(status(slow), Err(StatusCode::REQUEST_TIMEOUT));
        let long = receive(drops(1), &mut Nowhere, 10, within(300)).await;
        assert_eq!(status(long), Err(StatusCode::PAYLOAD_TOO_LARGE));
        let short = receive(Body::from("xx"), &mut Nowhere, 10, within(300)).await;
        assert_eq!(status(short), Err(StatusCode::BAD_REQUEST));
        assert_eq!(status(receive(Body::from("xx"), &mut Nowhere, 2, within(1)).await), Ok(()));
    }
}
