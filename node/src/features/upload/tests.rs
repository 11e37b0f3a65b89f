//! XEP-0363 as a whole: slots over the stream, files over HTTP, on disk and in a bucket that is a few lines long but checks signatures.

use axum::body::Body;
use axum::http::{Response, StatusCode, request};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;
use xmpp::stanza::error::Condition;
use xmpp::xml::element::Element;

use super::*;
use crate::homes::accounts;
use crate::http;
use crate::testing::{House, all, bare, stanza};

mod bucket;

/// A node whose files are served.
struct Place {
    house: House,
    url: String,
    _stop: watch::Sender<bool>,
}

/// An HTTP server for these paths.
async fn serve(listener: TcpListener, router: axum::Router) -> watch::Sender<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(vec![listener], router, 100, stopped));
    stop
}

async fn port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

impl Place {
    async fn new(more: &str) -> Place {
        let (listener, url) = port().await;
        let config = format!("[upload]\nurl = '{url}'\nkey = 'a key of the tests'\n{more}");
        let house = House::with(&config).await;
        house.accounts(["romeo", "juliet"]).await;
        let service = house.node.services.named(NAME).expect("it has a domain");
        service.start(&house.node, &mut JoinSet::new()).expect("a directory");
        let router = service.http(&house.node).expect("it has paths");
        Place { house, url, _stop: serve(listener, router).await }
    }

    async fn says(&self, from: &str, iq: &str) -> Stanza {
        let iq = stanza(&format!("<iq from='{from}' to='upload.chat.example' id='1' {iq}</iq>"));
        let mut ctx = Ctx::new(&self.house.node, None);
        let flow = self.house.node.services.handle(&mut ctx, 0, &iq);
        match all(ctx, flow).await.pop() {
            Some(Action::Reply(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    async fn asks(&self, attributes: &str) -> Result<Slot, StanzaError> {
        let request = format!("type='get'><request xmlns='{}' {attributes}/>", ns::HTTP_UPLOAD);
        let reply = self.says("romeo@chat.example/orchard", &request).await.element();
        if let Some(error) = reply.child("error", ns::CLIENT) {
            return Err(StanzaError::parse(error));
        }
        let slot = reply.child("slot", ns::HTTP_UPLOAD).expect("a slot");
        let url = |name: &str| {
            let child = slot.child(name, ns::HTTP_UPLOAD).expect("an address");
            child.attr("url").expect("an address").to_owned()
        };
        let header = slot.child("put", ns::HTTP_UPLOAD);
        let header = header.and_then(|put| put.child("header", ns::HTTP_UPLOAD)).expect("a header");
        assert_eq!(header.attr("name"), Some("Authorization"));
        Ok(Slot { put: url("put"), get: url("get"), authorization: header.text() })
    }

    async fn slot(&self, attributes: &str) -> Slot {
        self.asks(attributes).await.expect("a slot")
    }

    /// Brings a part of a file, and then nothing.
    async fn begins(&self, slot: &Slot, part: &str) -> tokio::net::TcpStream {
        let at = &self.url["http://".len()..];
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("it listens");
        let (path, key) = (&slot.put[self.url.len()..], &slot.authorization);
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n");
        let whole = format!("{head}Content-Length: 6\r\n\r\n{part}");
        tokio::io::AsyncWriteExt::write_all(&mut stream, whole.as_bytes()).await.expect("written");
        self.house.until("it is on its way", || self.on_disk() == [0, 0, 1]).await;
        stream
    }

    /// Files, their owners, and what is on its way.
    fn on_disk(&self) -> [usize; 3] {
        fn count(dir: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let each =
                entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 });
            each.sum()
        }
        let dir = &self.house.node.config.upload.dir;
        ["files", "owners", "part"].map(|name| count(&dir.join(name)))
    }
}

struct Slot {
    put: String,
    get: String,
    authorization: String,
}

async fn send(url: &str, request: request::Builder, body: impl Into<Body>) -> Response<Incoming> {
    let at = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    let outgoing = Outgoing::new("unused".into());
    outgoing.send(&url[..at], &url[at..], request, body.into()).await.expect("an answer")
}

impl Slot {
    async fn bring(&self, content: &'static str, kind: &str) -> StatusCode {
        let put =
            request::Builder::new().method("PUT").header("authorization", &self.authorization);
        send(&self.put, put.header("content-type", kind), content).await.status()
    }
}

async fn get(url: &str, headers: &[(&str, &str)]) -> (StatusCode, axum::http::HeaderMap, Bytes) {
    let ask = headers
        .iter()
        .fold(request::Builder::new(), |ask, (name, value)| ask.header(*name, *value));
    let (parts, body) = send(url, ask, Body::empty()).await.into_parts();
    (parts.status, parts.headers, body.collect().await.expect("a body").to_bytes())
}

const SIX: &str = "filename='très cool.txt' size='6' content-type='text/plain'";

#[tokio::test]
async fn a_file_is_brought_once_and_had_by_everybody() {
    let place = Place::new("").await;
    let slot = place.slot(SIX).await;
    assert!(slot.get.starts_with(&format!("{}/upload/eu/", place.url)), "{}", slot.get);
    assert!(slot.get.ends_with("/tr%C3%A8s%20cool.txt"), "{}", slot.get);
    assert_eq!(get(&slot.get, &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(slot.bring("tototo", "text/plain; charset=utf-8").await, StatusCode::CREATED);
    assert_eq!(slot.bring("tatata", "text/plain").await, StatusCode::CONFLICT);
    let (status, headers, content) = get(&slot.get, &[]).await;
    assert_eq!((status, &content[..]), (StatusCode::OK, &b"tototo"[..]));
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    assert_eq!(said("content-type"), "text/plain");
    assert_eq!(said("content-length"), "6");
    assert_eq!(said("content-disposition"), "inline");
    assert_eq!(said("x-content-type-options"), "nosniff");
    assert_eq!(said("access-control-allow-origin"), "*");
    assert!(said("content-security-policy").contains("default-src 'none'"));
    assert!(said("cache-control").contains("immutable"));
    let tag = said("etag").to_owned();
    assert_eq!(get(&slot.get, &[("if-none-match", &tag)]).await.0, StatusCode::NOT_MODIFIED);
    let (status, headers, content) = get(&slot.get, &[("range", "bytes=2-3")]).await;
    assert_eq!((status, &content[..]), (StatusCode::PARTIAL_CONTENT, &b"to"[..]));
    assert_eq!(headers["content-range"], "bytes 2-3/6");
    let (status, headers, _) = get(&slot.get, &[("range", "bytes=6-")]).await;
    assert_eq!(
        (status, &headers["content-range"]),
        (StatusCode::RANGE_NOT_SATISFIABLE, &"bytes */6".parse().expect("a value"))
    );
    let head = send(&slot.get, request::Builder::new().method("HEAD"), Body::empty()).await;
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &"6".parse().expect("a value"))
    );
    let options = send(&slot.put, request::Builder::new().method("OPTIONS"), Body::empty()).await;
    assert!(
        options.headers()["access-control-allow-headers"]
            .to_str()
            .is_ok_and(|all| all.contains("Authorization"))
    );
    let post = send(&slot.put, request::Builder::new().method("POST"), "x").await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(place.on_disk(), [1, 1, 0]);
}

#[tokio::test]
async fn a_page_is_for_downloading_only() {
    let place = Place::new("").await;
    let slot = place.slot("filename='a.html' size='6'").await;
    assert_eq!(slot.bring("tototo", "text/html").await, StatusCode::CREATED);
    assert_eq!(get(&slot.get, &[]).await.1["content-disposition"], "attachment");
}

#[tokio::test]
async fn what_is_not_as_the_slot_says_leaves_nothing() {
    let place = Place::new("").await;
    let slot = place.slot(SIX).await;
    let put = || request::Builder::new().method("PUT");
    let nobody = send(&slot.put, put(), "tototo").await;
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.headers()["www-authenticate"], "Bearer");
    let forged = send(&slot.put, put().header("authorization", "Bearer a.b"), "tototo").await;
    assert_eq!(forged.status(), StatusCode::FORBIDDEN);
    let other = place.slot(SIX).await;
    let exchanged = Slot { put: other.put.clone(), ..slot };
    assert_eq!(exchanged.bring("tototo", "text/plain").await, StatusCode::FORBIDDEN);
    assert_eq!(other.bring("tototos", "text/plain").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(other.bring("toto", "text/plain").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(other.bring("tototo", "text/html").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let endless = futures_util::stream::iter([Ok::<_, io::Error>("tototo")]);
    let chunked = put().header("authorization", &other.authorization);
    let chunked = send(&other.put, chunked, Body::from_stream(endless)).await;
    assert_eq!(chunked.status(), StatusCode::LENGTH_REQUIRED);
    assert_eq!(place.on_disk(), [0, 0, 0]);
    assert_eq!(other.bring("tototo", "").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(other.bring("tototo", "text/plain").await, StatusCode::CREATED);
}

#[tokio::test]
async fn a_file_that_is_cut_leaves_nothing_and_may_come_again() {
    let place = Place::new("").await;
    let slot = place.slot(SIX).await;
    let cut = place.begins(&slot, "tot").await;
    assert_eq!(slot.bring("tototo", "text/plain").await, StatusCode::CONFLICT);
    drop(cut);
    place.house.until("it is given up", || place.on_disk() == [0, 0, 0]).await;
    assert_eq!(slot.bring("tototo", "text/plain").await, StatusCode::CREATED);
}

#[tokio::test]
async fn only_so_many_files_are_on_their_way() {
    let place = Place::new("transfers_max = 1").await;
    let slots = [place.slot(SIX).await, place.slot(SIX).await];
    let cut = place.begins(&slots[0], "tot").await;
    let put =
        request::Builder::new().method("PUT").header("authorization", &slots[1].authorization);
    let answer = send(&slots[1].put, put, "tototo").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    drop(cut);
    place.house.until("it is given up", || place.on_disk() == [0, 0, 0]).await;
    assert_eq!(slots[1].bring("tototo", "text/plain").await, StatusCode::CREATED);
}

#[tokio::test]
async fn a_slot_is_refused_as_the_xep_says() {
    let place =
        Place::new("file_bytes_max = 10\naccount_bytes_max = 15\naccount_bytes_per_day_max = 15")
            .await;
    let error = place.asks("filename='a' size='11'").await.err().expect("refused");
    let max = error
        .extra
        .as_ref()
        .and_then(|extra| extra.child("max-file-size", ns::HTTP_UPLOAD).map(Element::text));
    assert_eq!((error.condition, max.as_deref()), (Condition::NotAcceptable, Some("10")));
    let error = place.asks("filename='a/b' size='1'").await.err().expect("refused");
    assert_eq!(error.condition, Condition::BadRequest);
    place.slot("filename='a' size='10'").await;
    let error = place.asks("filename='b' size='10'").await.err().expect("refused");
    assert_eq!(error.condition, Condition::ResourceConstraint);
    let retry = error.extra.expect("when to try again");
    let stamp = retry.attr("stamp").and_then(xmpp::payload::date_time::parse).expect("a time");
    assert!(u64::try_from(stamp).expect("after 1970") > place.house.node.wall_ms());
    let request =
        format!("type='get'><request xmlns='{}' filename='a' size='1'/>", ns::HTTP_UPLOAD);
    for stranger in ["tybalt@chat.example/x", "romeo@other.example/x", "chat.example"] {
        let reply = place.says(stranger, &request).await.element();
        let error = StanzaError::parse(reply.child("error", ns::CLIENT).expect("refused"));
        assert_eq!(error.condition, Condition::Forbidden, "{stranger}");
    }
    let set = request.replace("get", "set");
    let reply = place.says("romeo@chat.example/x", &set).await.element();
    let error = StanzaError::parse(reply.child("error", ns::CLIENT).expect("refused"));
    assert_eq!(error.condition, Condition::ServiceUnavailable);
}

#[tokio::test]
async fn discovery_says_what_it_is_and_how_large_files_may_be() {
    let place = Place::new("").await;
    let asks = format!("type='get'><query xmlns='{}'/>", ns::DISCO_INFO);
    let reply = place.says("romeo@chat.example/x", &asks).await;
    let info = Info::parse(&reply.child("query", ns::DISCO_INFO).expect("info")).expect("info");
    assert!(
        info.identities
            .iter()
            .any(|is| (is.category.as_str(), is.type_.as_str()) == ("store", "file"))
    );
    for feature in
        [ns::HTTP_UPLOAD, ns::DISCO_INFO, ns::PING, "urn:xmpp:http:upload:purpose:0#profile"]
    {
        assert!(info.features.iter().any(|has| has == feature), "{feature}");
    }
    let form = info.forms.first().expect("a form");
    assert_eq!(form.form_type(), Some(ns::HTTP_UPLOAD));
    assert_eq!(
        form.field("max-file-size").map(|field| field.values.clone()),
        Some(vec![(100 << 20).to_string()])
    );
    let asks = asks.replace("/>", " node='x'/>");
    let reply = place.says("romeo@chat.example/x", &asks).await.element();
    let error = StanzaError::parse(reply.child("error", ns::CLIENT).expect("refused"));
    assert_eq!(error.condition, Condition::ItemNotFound);
    let reply =
        place.says("romeo@chat.example/x", "type='get'><ping xmlns='urn:xmpp:ping'/>").await;
    assert_eq!(reply.type_(), Type::Result);
}

#[tokio::test]
async fn files_go_with_their_account_and_with_time() {
    let place = Place::new("keep_ephemeral = '1d'").await;
    let slot = place.slot(SIX).await;
    assert_eq!(slot.bring("tototo", "text/plain").await, StatusCode::CREATED);
    let request = format!(
        "type='get'><request xmlns='{}' filename='a' size='6'><ephemeral xmlns='{}'/></request>",
        ns::HTTP_UPLOAD,
        ns::HTTP_UPLOAD_PURPOSE
    );
    let brief = place.says("juliet@chat.example/x", &request).await.element();
    let brief = brief.child("slot", ns::HTTP_UPLOAD).expect("a slot");
    let put = brief.child("put", ns::HTTP_UPLOAD).expect("put");
    let authorization = put.child("header", ns::HTTP_UPLOAD).expect("a header").text();
    let put = put.attr("url").expect("an address").to_owned();
    let brief = Slot { get: put.clone(), put, authorization };
    assert_eq!(brief.bring("tototo", "text/plain").await, StatusCode::CREATED);
    assert_eq!(place.on_disk(), [2, 2, 0]);
    let dir = place.house.node.config.upload.dir.clone();
    let disk = Disk::new(dir, "eu-0".into());
    let now_s = place.house.node.wall_ms() / 1_000;
    assert_eq!(disk.sweep(now_s).await.expect("swept"), 0);
    assert_eq!(disk.sweep(now_s + 2 * 86_400).await.expect("swept"), 1);
    assert_eq!(place.on_disk(), [1, 1, 0]);
    assert_eq!(get(&brief.get, &[]).await.0, StatusCode::NOT_FOUND);
    accounts::remove(&place.house.node.homes, &bare("romeo")).await.expect("removed");
    place.house.until("its files are gone", || place.on_disk() == [0, 0, 0]).await;
}

#[tokio::test]
async fn another_region_says_where_and_passes_on() {
    let place = Place::new("").await;
    let (listener, url) = port().await;
    let mut config = place.house.node.config.clone();
    config.node.region = "us".into();
    config.upload.regions =
        vec![config::UploadRegion { region: "eu".into(), url: place.url.clone() }];
    let other = Upload::new(&config);
    let _stop = serve(listener, other.http(&place.house.node).expect("paths")).await;
    let slot = place.slot(SIX).await;
    let there = |at: &str| at.replace(&place.url, &url);
    let moved = Slot { put: there(&slot.put), get: there(&slot.get), ..slot };
    assert_eq!(moved.bring("tototo", "text/plain").await, StatusCode::CREATED);
    let (status, headers, _) = get(&moved.get, &[]).await;
    assert_eq!(
        (status, headers["location"].to_str().ok()),
        (StatusCode::TEMPORARY_REDIRECT, Some(slot.get.as_str()))
    );
    assert_eq!(get(&slot.get, &[]).await.2, "tototo");
    let nowhere = moved.get.replace("/eu/", "/mars/");
    assert_eq!(get(&nowhere, &[]).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_bucket_keeps_files_as_a_directory_does() {
    let (listener, endpoint) = port().await;
    let bucket = bucket::Fake::default();
    let _stop = serve(listener, bucket.router(&endpoint)).await;
    let s3 = format!(
        "store = 's3'\n[upload.s3]\nendpoint = '{endpoint}'\nbucket = 'files of tests'\nprefix = 'eu/'\n\
         access_key = '{}'\nsecret_key = '{}'",
        bucket::ACCESS_KEY,
        bucket::SECRET_KEY
    );
    let place = Place::new(&s3).await;
    let slot = place.slot(SIX).await;
    assert_eq!(get(&slot.get, &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(slot.bring("tototo", "text/plain").await, StatusCode::CREATED);
    assert_eq!(slot.bring("tototo", "text/plain").await, StatusCode::CONFLICT);
    let (status, headers, content) = get(&slot.get, &[("range", "bytes=1-2")]).await;
    assert_eq!((status, &content[..]), (StatusCode::PARTIAL_CONTENT, &b"ot"[..]));
    assert_eq!(headers["content-type"], "text/plain");
    assert_eq!(get(&slot.get, &[]).await.2, "tototo");
    assert_eq!(bucket.len(), 2);
    let outgoing = Outgoing::new("unused".into());
    let store = Bucket::new(place.house.node.config.upload.s3.clone(), outgoing.clone());
    assert_eq!(store.sweep(0).await.expect("swept"), 0);
    accounts::remove(&place.house.node.homes, &bare("romeo")).await.expect("removed");
    place.house.until("its files are gone", || bucket.len() == 0).await;
    // A slot of somebody else, and a key that the bucket does not know.
    let token = Token::new(60, [1; 16]);
    let meta = store::Meta { size: 2, content_type: "a/b".into(), owner: "o".into(), since_s: 1 };
    let mut put = store.create(&token, meta.clone()).await.expect("begun");
    put.write("ab".into()).await.expect("written");
    put.finish().await.expect("there");
    assert_eq!(store.meta(&token).await.expect("asked"), Some(meta.clone()));
    assert_eq!(store.sweep(61).await.expect("swept"), 1);
    assert_eq!(bucket.len(), 0);
    let mut cut = store.create(&token, meta).await.expect("begun");
    cut.write("a".into()).await.expect("written");
    drop(cut);
    let config =
        config::S3 { secret_key: "wrong".into(), ..place.house.node.config.upload.s3.clone() };
    let wrong = Bucket::new(config, outgoing);
    assert!(wrong.meta(&token).await.is_err());
    assert!(store.meta(&token).await.expect("asked").is_none());
}
