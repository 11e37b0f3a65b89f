//! The emulator on loopback: bytes arrive whole and in order, late by the delay, never through a cut.
//!
//! Real sockets need real time: a delay of some tens of milliseconds is waited for, nothing else is.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::line::{Change, Settings};
use super::*;
use crate::http;
use crate::http::client::Client;

/// A pair eu-0 → us-0 and both ends of one connection through it.
struct Ends {
    wan: Wan,
    listener: TcpListener,
    address: SocketAddr,
    dialled: TcpStream,
    reached: TcpStream,
}

async fn ends(settings: Settings) -> Ends {
    let wan = Wan::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let address = wan.join("eu-0", "us-0", target, settings).await.unwrap();
    let dialled = TcpStream::connect(address).await.unwrap();
    let (reached, _) = listener.accept().await.unwrap();
    Ends { wan, listener, address, dialled, reached }
}

async fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut buffer))
        .await
        .expect("in time")
        .expect("whole");
    buffer
}

/// Whether nothing comes for a while.
async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await.is_err()
}

fn cut(cut: bool) -> Change {
    Change { cut: Some(cut), ..Change::default() }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn a_clear_line_carries_much_both_ways_and_the_end() {
    let mut ends = ends(Settings::default()).await;
    let sent = pattern(3 << 20);
    let (mut read_half, mut write_half) = ends.reached.split();
    let echo = tokio::io::copy(&mut read_half, &mut write_half);
    let (mut there, mut back) = ends.dialled.split();
    let both = async {
        let write = async {
            back.write_all(&sent).await.unwrap();
            back.shutdown().await.unwrap();
        };
        let mut received = vec![0; sent.len()];
        tokio::join!(write, async { there.read_exact(&mut received).await.unwrap() });
        received
    };
    let (echoed, received) = tokio::join!(echo, both);
    assert_eq!(echoed.unwrap(), sent.len() as u64);
    assert!(received == sent);
    assert_eq!(ends.wan.seen()[0].bytes, sent.len() as u64);
}

#[tokio::test]
async fn a_delayed_line_carries_everything_in_order_and_late() {
    let settings = Settings { delay_ms: 40, jitter_ms: 10, ..Settings::default() };
    let mut ends = ends(settings).await;
    let sent = pattern(200_000);
    let start = Instant::now();
    ends.dialled.write_all(&sent).await.unwrap();
    ends.dialled.shutdown().await.unwrap();
    let mut received = Vec::new();
    ends.reached.read_to_end(&mut received).await.unwrap();
    assert!(received == sent);
    assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_cut_holds_what_is_on_the_way_and_healing_delivers_it() {
    let mut ends = ends(Settings::default()).await;
    ends.wan.change("eu", "us", cut(true));
    ends.dialled.write_all(b"held").await.unwrap();
    assert!(is_silent(&mut ends.reached).await);
    // The other direction is whole.
    ends.reached.write_all(b"back").await.unwrap();
    assert_eq!(read(&mut ends.dialled, 4).await, b"back");
    ends.wan.change("eu-0", "us-0", cut(false));
    assert_eq!(read(&mut ends.reached, 4).await, b"held");
}

#[tokio::test]
async fn the_end_of_a_side_is_not_seen_through_a_cut() {
    let mut ends = ends(Settings::default()).await;
    ends.wan.change("eu", "us", cut(true));
    ends.wan.change("us", "eu", cut(true));
    ends.dialled.write_all(b"last words").await.unwrap();
    drop(ends.dialled);
    assert!(is_silent(&mut ends.reached).await);
    ends.wan.change("eu", "us", cut(false));
    assert_eq!(read(&mut ends.reached, 10).await, b"last words");
    ends.wan.change("us", "eu", cut(false));
    assert_eq!(ends.reached.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_made_while_cut_reaches_nobody_until_it_is_healed() {
    let mut ends = ends(Settings::default()).await;
    ends.wan.change("us", "eu", cut(true));
    let given_up = TcpStream::connect(ends.address).await.unwrap();
    drop(given_up);
    let mut dialled = TcpStream::connect(ends.address).await.unwrap();
    dialled.write_all(b"early").await.unwrap();
    let accept = tokio::time::timeout(Duration::from_millis(50), ends.listener.accept()).await;
    assert!(accept.is_err(), "nobody may be reached through a cut");
    assert!(is_silent(&mut dialled).await);
    ends.wan.change("us", "eu", cut(false));
    let (mut reached, _) = ends.listener.accept().await.unwrap();
    assert_eq!(read(&mut reached, 5).await, b"early");
    ends.reached.write_all(b"old").await.unwrap();
    assert_eq!(read(&mut ends.dialled, 3).await, b"old");
}

#[tokio::test]
async fn a_reset_closes_both_ends_and_the_next_connection_works() {
    let mut ends = ends(Settings { delay_ms: 10_000, ..Settings::default() }).await;
    ends.dialled.write_all(b"lost").await.unwrap();
    assert!(ends.wan.reset("us", "eu"));
    assert_eq!(ends.dialled.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(ends.reached.read(&mut [0]).await.unwrap_or(0), 0);
    ends.wan.change("eu", "us", Change { delay_ms: Some(0), ..Change::default() });
    let mut dialled = TcpStream::connect(ends.address).await.unwrap();
    let (mut reached, _) = ends.listener.accept().await.unwrap();
    dialled.write_all(b"new").await.unwrap();
    assert_eq!(read(&mut reached, 3).await, b"new");
    assert!(!ends.wan.reset("eu", "mars"));
}

#[tokio::test]
async fn a_narrow_line_takes_its_time() {
    // 800 kbit/s are 100 bytes a millisecond.
    let mut ends = ends(Settings { kbit_s: 800, ..Settings::default() }).await;
    let start = Instant::now();
    ends.dialled.write_all(&pattern(5_000)).await.unwrap();
    assert!(read(&mut ends.reached, 5_000).await == pattern(5_000));
    assert!(start.elapsed() >= Duration::from_millis(45), "{:?}", start.elapsed());
}

struct NoNodes;

impl control::Nodes for NoNodes {
    fn start<'a>(
        &'a self,
        node: &'a str,
    ) -> futures_util::future::BoxFuture<'a, Result<control::NodeSeen, crate::admin::Refusal>> {
        let refusal = crate::admin::Refusal::not_found(format!("there is no node {node}"));
        Box::pin(async move { Err(refusal) })
    }
    fn kill<'a>(
        &'a self,
        node: &'a str,
    ) -> futures_util::future::BoxFuture<'a, Result<control::NodeSeen, crate::admin::Refusal>> {
        Box::pin(async move { Ok(control::NodeSeen { node: node.to_owned(), pid: None }) })
    }
    fn seen(&self) -> Vec<control::NodeSeen> {
        Vec::new()
    }
}

#[tokio::test]
async fn everything_is_steered_over_http() {
    let ends = ends(Settings::default()).await;
    let listeners = http::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let client = Client::new(&listeners[0].local_addr().unwrap().to_string()).unwrap();
    let router = control::router(ends.wan.clone(), Arc::new(NoNodes));
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listeners, router, 10, stopped));
    let check = async |method: &str, path: &str, body: &str, status: u16, says: &str| {
        let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
        let reply = client.ask(method, path, body).await.unwrap();
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert!(reply.text().contains(says), "{reply:?} should say {says}");
    };
    let set = r#"{"delay_ms":80,"jitter_ms":10,"kbit_s":1000}"#;
    check("PUT", "/wan/eu/us", set, 200, r#""delay_ms":80,"jitter_ms":10,"kbit_s":1000"#).await;
    check("PUT", "/wan/us/eu", r#"{"cut":true}"#, 200, r#""from":"us-0","to":"eu-0""#).await;
    check("GET", "/wan", "", 200, r#""delay_ms":80"#).await;
    check("GET", "/wan", "", 200, r#""cut":true"#).await;
    check("POST", "/wan/eu/us/reset", "", 200, "eu-0").await;
    check("PUT", "/wan/eu/mars", r#"{"cut":true}"#, 404, "mars").await;
    check("PUT", "/wan/eu/us", r#"{"delay":80}"#, 400, "unknown field").await;
    check("POST", "/nodes/mars-0/start", "", 404, "mars-0").await;
    check("POST", "/nodes/eu-0/kill", "", 200, "eu-0").await;
}
