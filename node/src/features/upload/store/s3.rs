//! Files in a bucket that speaks S3. `PREFIXfiles/TOKEN` is a file, with what is known of it in its headers; `PREFIXowners/OWNER/TOKEN` is empty,
//! and there before the file is. Bytes go through this node both ways, so that the headers a browser sees are ours.
//!
//! Left out: multipart uploads (one PUT takes 5 GB), virtual-hosted addresses (the bucket is the first part of the path).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Response, StatusCode, header, request};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, BodyStream, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::sign::{self, Signer, UNSIGNED, Unsigned};
use super::{Answer, Content, Meta, Sink, Store, StoreError};
use crate::features::upload::slot::Token;
use crate::http::outgoing::Outgoing;

/// Chunks of a file between the client and the bucket.
const CHUNKS_MAX: usize = 8;
/// How long the bucket may take for anything but a file's bytes.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Names that are read at a time, and the bytes such a page may have.
const PAGE_MAX: usize = 1_000;
const PAGE_BYTES_MAX: usize = 4 << 20;

const OWNER: &str = "x-amz-meta-owner";
const SINCE: &str = "x-amz-meta-since";

/// The store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bucket {
    config: config::S3,
    outgoing: Outgoing,
}

impl Bucket {
    /// This bucket.
    pub(crate) fn new(config: config::S3, outgoing: Outgoing) -> Bucket {
        Bucket { config, outgoing }
    }

    fn file(&self, token: &Token) -> String {
        format!("{}files/{}", self.config.prefix, token.as_str())
    }

    fn marker(&self, owner: &str, token: &Token) -> String {
        format!("{}owners/{owner}/{}", self.config.prefix, token.as_str())
    }

    /// One request. `more` are headers that are signed too; `plain` are not.
    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &str,
        more: &[(&str, &str)],
        plain: &[(header::HeaderName, &str)],
        body: Body,
    ) -> io::Result<Response<Incoming>> {
        let path = format!("/{}", sign::encode(&self.config.bucket, true));
        let path = match key {
            "" => path,
            key => format!("{path}/{}", sign::encode(key, true)),
        };
        let (_, rest) = self.config.endpoint.split_once("://").unwrap_or_default();
        let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let date = sign::date(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let mut headers = BTreeMap::from([
            ("host", host),
            ("x-amz-content-sha256", UNSIGNED),
            ("x-amz-date", date.as_str()),
        ]);
        headers.extend(more.iter().copied());
        let signer = Signer {
            access_key: &self.config.access_key,
            secret_key: &self.config.secret_key,
            region: &self.config.region,
        };
        let whole = format!("{base}{path}");
        let unsigned = Unsigned { method: method.as_str(), path: &whole, query, headers };
        let mut request = request::Builder::new()
            .method(method.clone())
            .header(header::AUTHORIZATION, signer.authorization(&unsigned));
        // `Outgoing` says the host.
        for (name, value) in unsigned.headers.iter().filter(|(name, _)| **name != "host") {
            request = request.header(*name, *value);
        }
        for (name, value) in plain {
            request = request.header(name, *value);
        }
        let question = if query.is_empty() { String::new() } else { format!("?{query}") };
        let target = format!("{path}{question}");
        self.outgoing.send(&self.config.endpoint, &target, request, body).await
    }

    /// A request without a body, whose answer has none that matters.
    async fn small(&self, method: Method, key: &str) -> Result<Response<Incoming>, StoreError> {
        let plain = [(header::CONTENT_LENGTH, "0")];
        let plain = if method == Method::PUT { &plain[..] } else { &[] };
        let sent = self.send(method, key, "", &[], plain, Body::empty());
        let answer = timeout(ANSWER_WITHIN, sent).await.map_err(|_| slow())??;
        match answer.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(answer),
            status => Err(StoreError::Failed(format!("the bucket answers {status} to {key}"))),
        }
    }

    /// One page of the tokens under a prefix, after one of them.
    async fn list(&self, prefix: &str, after: Option<&Token>) -> Result<Vec<Token>, StoreError> {
        let prefix = format!("{}{prefix}", self.config.prefix);
        let encoded = sign::encode(&prefix, false);
        let start = after.map(|token| sign::encode(&format!("{prefix}{}", token.as_str()), false));
        let start = start.map(|start| format!("&start-after={start}")).unwrap_or_default();
        let query = format!("list-type=2&max-keys={PAGE_MAX}&prefix={encoded}{start}");
        let asked = async {
            let answer = self.send(Method::GET, "", &query, &[], &[], Body::empty()).await?;
            if !answer.status().is_success() {
                let status = answer.status();
                return Err(StoreError::Failed(format!("the bucket answers {status} to a list")));
            }
            let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes())
        };
        let page = timeout(ANSWER_WITHIN, asked).await.map_err(|_| slow())??;
        let page = String::from_utf8_lossy(&page);
        let keys = page.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        Ok(keys.filter_map(|key| Token::parse(key.rsplit('/').next()?)).collect())
    }
}

fn slow() -> StoreError {
    StoreError::Failed("the bucket does not answer in time".to_owned())
}

fn meta_of(headers: &HeaderMap) -> Option<Meta> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    Some(Meta {
        size: text("content-length")?.parse().ok()?,
        content_type: text("content-type").unwrap_or_default(),
        owner: text(OWNER)?,
        since_s: text(SINCE)?.parse().ok()?,
    })
}

impl Store for Bucket {
    fn create<'a>(&'a self, token: &'a Token, meta: Meta) -> Answer<'a, Box<dyn Sink>> {
        Box::pin(async move {
            if self.meta(token).await?.is_some() {
                return Err(StoreError::Exists);
            }
            self.small(Method::PUT, &self.marker(&meta.owner, token)).await?;
            let (chunks, mut coming) = mpsc::channel::<Bytes>(CHUNKS_MAX);
            let (bucket, key) = (self.clone(), self.file(token));
            let done = tokio::spawn(async move {
                let (size, since) = (meta.size.to_string(), meta.since_s.to_string());
                let more = [(OWNER, meta.owner.as_str()), (SINCE, since.as_str())];
                let plain = [
                    (header::CONTENT_LENGTH, size.as_str()),
                    (header::CONTENT_TYPE, meta.content_type.as_str()),
                ];
                let chunks = stream::poll_fn(move |cx| coming.poll_recv(cx));
                let body = Body::from_stream(chunks.map(Ok::<_, io::Error>));
                let answer = bucket.send(Method::PUT, &key, "", &more, &plain, body).await?;
                Ok(answer.status())
            });
            let put = Put { chunks: Some(chunks), done: Some(done) };
            Ok(Box::new(put) as Box<dyn Sink>)
        })
    }

    fn meta<'a>(&'a self, token: &'a Token) -> Answer<'a, Option<Meta>> {
        Box::pin(async move {
            let answer = self.small(Method::HEAD, &self.file(token)).await?;
            let found = answer.status().is_success();
            Ok(if found { meta_of(answer.headers()) } else { None })
        })
    }

    fn read<'a>(&'a self, token: &'a Token, range: Range<u64>) -> Answer<'a, Content> {
        Box::pin(async move {
            let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            let key = self.file(token);
            let plain = [(header::RANGE, bytes.as_str())];
            let asked = self.send(Method::GET, &key, "", &[], &plain, Body::empty());
            let answer = timeout(ANSWER_WITHIN, asked).await.map_err(|_| slow())??;
            if !answer.status().is_success() {
                let status = answer.status();
                return Err(StoreError::Failed(format!("the bucket answers {status} to {key}")));
            }
            let frames = BodyStream::new(answer.into_body());
            let data = frames.filter_map(async |frame| match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(cause) => Some(Err(io::Error::other(cause))),
            });
            Ok(data.boxed())
        })
    }

    fn remove<'a>(&'a self, token: &'a Token, owner: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.small(Method::DELETE, &self.file(token)).await?;
            self.small(Method::DELETE, &self.marker(owner, token)).await.map(drop)
        })
    }

    fn remove_owner<'a>(&'a self, owner: &'a str) -> Answer<'a, usize> {
        Box::pin(async move {
            let mut count = 0;
            let mut after = None;
            loop {
                let page = self.list(&format!("owners/{owner}/"), after.as_ref()).await?;
                for token in &page {
                    self.remove(token, owner).await?;
                    count += 1;
                }
                after = page.into_iter().next_back();
                if after.is_none() {
                    return Ok(count);
                }
            }
        })
    }

    fn sweep(&self, now_s: u64) -> Answer<'_, usize> {
        Box::pin(async move {
            let mut count = 0;
            let mut after = None;
            loop {
                let page = self.list("files/", after.as_ref()).await?;
                for token in page.iter().filter(|token| token.until_s() <= now_s) {
                    match self.meta(token).await? {
                        Some(meta) => self.remove(token, &meta.owner).await?,
                        None => drop(self.small(Method::DELETE, &self.file(token)).await?),
                    }
                    count += 1;
                }
                after = page.into_iter().next_back();
                if after.is_none() {
                    return Ok(count);
                }
            }
        })
    }
}

/// A file on its way into the bucket. Dropped, its request is cut short of the length it promised, and the bucket keeps nothing.
struct Put {
    chunks: Option<mpsc::Sender<Bytes>>,
    done: Option<JoinHandle<io::Result<StatusCode>>>,
}

impl Sink for Put {
    fn write(&mut self, bytes: Bytes) -> Answer<'_, ()> {
        Box::pin(async move {
            let chunks = self.chunks.as_ref().expect("written to before it is finished");
            let ended = || StoreError::Failed("the bucket ended the request".to_owned());
            timeout(ANSWER_WITHIN, chunks.send(bytes))
                .await
                .map_err(|_| slow())?
                .map_err(|_| ended())
        })
    }

    fn finish(mut self: Box<Self>) -> Answer<'static, ()> {
        Box::pin(async move {
            self.chunks = None;
            let done = self.done.as_mut().expect("finished once");
            let status = timeout(ANSWER_WITHIN, done).await.map_err(|_| slow())?;
            match status.map_err(|error| StoreError::Failed(error.to_string()))?? {
                status if status.is_success() => Ok(()),
                status => Err(StoreError::Failed(format!("the bucket answers {status} to a file"))),
            }
        })
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let Some(done) = &self.done {
            done.abort();
        }
    }
}
