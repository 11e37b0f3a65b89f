//! Two nodes of one region: one database, one of them its scribe.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use replication::Change;
use xmpp::BareJid;

use super::testing::Set;
use super::{
    Applied, AppliedAt, CallError, FeedSink, HomeError, HomeMap, HomePlace, HomeTransport, Homes,
    HomesConfig, HomesParts, Pen, ShipSink, Unsent,
};
use crate::storage::Storage;
use crate::storage::memory::Memory;

fn romeo() -> BareJid {
    BareJid::parse("romeo@chat.example").expect("a JID")
}

/// What passes between the two.
#[derive(Default)]
struct Net {
    nodes: Mutex<HashMap<&'static str, Homes>>,
    scribe: Mutex<Option<&'static str>>,
    /// The scribe's feed reaches nobody.
    starves: AtomicBool,
    /// Bytes that a message of the feed may have.
    message_bytes_max: AtomicUsize,
}

struct End {
    me: &'static str,
    net: Arc<Net>,
}

impl HomeTransport for End {
    fn call<'a>(&'a self, _: &'a str, body: Vec<u8>) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        async move {
            let scribe =
                self.net.scribe.lock().and_then(|name| self.net.nodes.lock().get(name).cloned());
            let Some(scribe) = scribe else { return Err(CallError::Lost) };
            Ok(scribe.serve(self.me, &body).await)
        }
        .boxed()
    }
}

impl FeedSink for End {
    fn send_feed(&self, node: &str, bytes: Vec<u8>) -> Result<(), Unsent> {
        if bytes.len() > self.net.message_bytes_max.load(Ordering::Relaxed) {
            return Err(Unsent::TooLong);
        }
        let to = self.net.nodes.lock().get(node).cloned();
        if let Some(to) = to.filter(|_| !self.net.starves.load(Ordering::Relaxed)) {
            to.fed(self.me, bytes);
        }
        Ok(())
    }
}

impl ShipSink for End {
    fn send_batch(&self, _: &str, _: Vec<u8>) -> Result<(), Unsent> {
        unreachable!("one region")
    }
}

struct Map(Arc<Pen>);

impl HomeMap for Map {
    fn home(&self, _: &str) -> HomePlace {
        HomePlace { region: "eu".into(), epoch: 1, local: self.0.is_held() }
    }

    fn shard(&self, _: u8) -> HomePlace {
        self.home("")
    }
}

/// The values it was told of; in copies, with a mark.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Told {
    fn add(&self, changes: &[Change], mark: &str) {
        let values = changes.iter().filter_map(|change| match change {
            Change::Put { value, .. } => Some(String::from_utf8_lossy(value).into_owned() + mark),
            _ => None,
        });
        self.0.lock().extend(values);
    }
}

impl Applied for Told {
    fn applied(&self, _: AppliedAt, changes: &[Change]) {
        self.add(changes, "");
    }

    fn copied(&self, changes: &[Change]) {
        self.add(changes, " copied");
    }
}

struct Node {
    name: &'static str,
    homes: Homes,
    storage: Arc<Memory>,
    told: Arc<Told>,
    net: Arc<Net>,
}

impl Node {
    async fn start(net: &Arc<Net>, name: &'static str, storage: Memory) -> Node {
        let storage = Arc::new(storage);
        let (told, pen) = (Arc::new(Told::default()), Arc::new(Pen::default()));
        let end = Arc::new(End { me: name, net: net.clone() });
        let parts = HomesParts {
            storage: storage.clone(),
            map: Arc::new(Map(pen.clone())),
            pen,
            ops: vec![Box::new(Set)],
            transport: end.clone(),
            sink: end,
            applied: told.clone(),
        };
        // The same life's number for all: nothing may hang on it.
        let homes = Homes::start(HomesConfig::new("eu", 1), parts).await.expect("memory");
        homes.has_company(true);
        net.nodes.lock().insert(name, homes.clone());
        Node { name, homes, storage, told, net: net.clone() }
    }

    /// Becomes the scribe, and all hear of it.
    async fn take(&self, former: u64, term: u64) {
        assert!(self.storage.take_pen(former, term, self.name).await.expect("memory"));
        self.homes.take_up(term).await.expect("memory");
        *self.net.scribe.lock() = Some(self.name);
        let others = self.net.nodes.lock().clone();
        for (name, homes) in others {
            if name != self.name {
                homes.put_down();
                homes.follow_scribe(self.name);
            }
        }
    }

    async fn set(&self, value: &str) -> Result<Vec<u8>, HomeError> {
        self.homes.request(&romeo(), "test.set", format!("k={value}").into_bytes()).await
    }

    async fn until_told(&self, expected: &[&str]) {
        for _ in 0..1_000 {
            if *self.told.0.lock() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} was told {:?}", self.name, self.told.0.lock());
    }
}

async fn two() -> (Node, Node) {
    let (net, memory) = (Arc::new(Net::default()), Memory::default());
    net.message_bytes_max.store(s2s::link::BODY_BYTES_MAX, Ordering::Relaxed);
    let one = Node::start(&net, "eu-0", memory.shared()).await;
    one.take(0, 5).await;
    let other = Node::start(&net, "eu-1", memory).await;
    other.homes.follow_scribe("eu-0");
    (one, other)
}

#[tokio::test(start_paused = true)]
async fn what_a_node_asks_the_scribe_does_and_both_are_told_before_it_is_answered() {
    let (one, other) = two().await;
    assert_eq!(other.set("a").await, Ok(Vec::new()));
    assert_eq!(*other.told.0.lock(), ["a"]);
    assert_eq!(one.set("b").await, Ok(b"a".to_vec()));
    assert_eq!(other.set("c").await, Ok(b"b".to_vec()), "also with the same number");
    for node in [&one, &other] {
        node.until_told(&["a", "b", "c"]).await;
    }
    assert!(one.homes.is_home("romeo@chat.example") && !other.homes.is_home("romeo@chat.example"));
}

#[tokio::test(start_paused = true)]
async fn a_new_scribe_tells_what_the_former_did_not_live_to_feed_and_goes_on() {
    let (one, other) = two().await;
    assert_eq!(one.set("a").await, Ok(Vec::new()));
    other.until_told(&["a"]).await;
    one.net.starves.store(true, Ordering::Relaxed);
    assert_eq!(one.set("b").await, Ok(b"a".to_vec()));
    assert_eq!(*other.told.0.lock(), ["a"]);
    one.net.starves.store(false, Ordering::Relaxed);
    other.take(5, 9).await;
    assert_eq!(*other.told.0.lock(), ["a", "b"]);
    assert_eq!(other.set("c").await, Ok(b"b".to_vec()));
    assert_eq!(one.set("d").await, Ok(b"c".to_vec()), "the former asks like anybody");
    one.until_told(&["a", "b", "c", "d"]).await;
    assert!(other.homes.is_home("romeo@chat.example") && !one.homes.is_home("romeo@chat.example"));
}

#[tokio::test(start_paused = true)]
async fn a_scribe_that_slept_writes_nothing_more() {
    let (one, other) = two().await;
    // It does not hear of it: its feed and its calls still go where they went.
    assert!(other.storage.take_pen(5, 9, "eu-1").await.expect("memory"));
    other.homes.take_up(9).await.expect("memory");
    assert_eq!(other.set("new").await, Ok(Vec::new()));
    assert_eq!(one.homes.term(), Some(5));
    assert_eq!(one.set("old").await, Err(HomeError::Unreachable));
    assert_eq!(one.homes.term(), None);
    *one.net.scribe.lock() = Some("eu-1");
    one.homes.follow_scribe("eu-1");
    assert_eq!(one.set("newer").await, Ok(b"new".to_vec()));
    one.until_told(&["new", "newer"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_next_scribe() {
    let (one, other) = two().await;
    *one.net.scribe.lock() = None;
    one.homes.put_down();
    let asked = {
        let homes = other.homes.clone();
        tokio::spawn(async move { homes.request(&romeo(), "test.set", b"k=a".to_vec()).await })
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    other.take(5, 9).await;
    assert_eq!(asked.await.expect("no panic"), Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_missed_too_much_takes_everything_for_changed() {
    let (one, other) = two().await;
    one.net.starves.store(true, Ordering::Relaxed);
    let big = "x".repeat(600 << 10);
    for _ in 0..20 {
        one.set(&big).await.expect("done");
    }
    one.set("last").await.expect("done");
    one.net.starves.store(false, Ordering::Relaxed);
    // Its link is made anew.
    other.homes.follow_scribe("eu-0");
    other.until_told(&["last copied"]).await;
    assert_eq!(other.set("next").await, Ok(b"last".to_vec()));
    other.until_told(&["last copied", "next"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_together_is_fed_in_parts_that_a_link_takes() {
    let (one, other) = two().await;
    let cards: Vec<String> = (0..7).map(|n| format!("{n}{}", "x".repeat(190 << 10))).collect();
    // All wait for the writer before it begins: one group.
    for done in join_all(cards.iter().map(|card| one.set(card))).await {
        done.expect("done");
    }
    one.set("last").await.expect("done");
    let expected: Vec<&str> = cards.iter().map(String::as_str).chain(["last"]).collect();
    other.until_told(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_link_takes_does_not_stop_the_feed() {
    let (one, other) = two().await;
    one.net.message_bytes_max.store(100 << 10, Ordering::Relaxed);
    let big = "x".repeat(200 << 10);
    one.set(&big).await.expect("done");
    let big = format!("{big} copied");
    other.until_told(&[&big]).await;
    assert_eq!(other.set("next").await.map(|old| old.len()), Ok(200 << 10));
    other.until_told(&[&big, "next"]).await;
}
