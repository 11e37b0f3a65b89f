//! Homes in two and three regions, in one process: what is promised of durable data, by name.

#[path = "copies_tests.rs"]
mod copies;
#[path = "late_tests.rs"]
mod late;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use replication::{Change, Entry, Hlc, shard_of};
use xmpp::BareJid;

use super::testing::{Net, Node, World, node};
use super::wire::{self, Call, Reply, RequestId, Ship};
use super::{HomeError, Moved};
use crate::storage::memory::Memory;
use crate::storage::sqlite::{Sqlite, SqliteConfig};
use crate::storage::{Page, Storage};

const ROMEO: &str = "romeo@chat.example";

fn romeo() -> BareJid {
    BareJid::parse(ROMEO).unwrap()
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(Memory::default())
}

async fn sqlite(dir: &tempfile::TempDir, name: &str) -> Arc<dyn Storage> {
    let config = SqliteConfig { sync: false, ..SqliteConfig::new(dir.path().join(name)) };
    Arc::new(Sqlite::open(config).await.unwrap())
}

/// `eu` is home of all, `us` and `ap` follow.
async fn three(storages: [Arc<dyn Storage>; 3]) -> (Arc<Net>, Arc<World>, [Node; 3]) {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let [eu, us, ap] = storages;
    let eu = node(&net, &world, "eu", eu, |_| ()).await;
    let us = node(&net, &world, "us", us, |_| ()).await;
    let ap = node(&net, &world, "ap", ap, |_| ()).await;
    for (one, other) in [("eu", "us"), ("eu", "ap"), ("us", "ap")] {
        net.up(one, other);
    }
    (net, world, [eu, us, ap])
}

async fn set(node: &Node, what: &str) -> Result<Vec<u8>, HomeError> {
    node.homes.request(&romeo(), "test.set", what.as_bytes().to_vec()).await
}

async fn get(node: &Node, key: &str) -> Option<Vec<u8>> {
    node.storage.get("test", ROMEO, key).await.unwrap()
}

/// The main play: everyone writes, everyone reads what they wrote, all end equal.
async fn everyone_writes(storages: [Arc<dyn Storage>; 3]) {
    let (_net, _, nodes) = three(storages).await;
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(set(node, &format!("k=v{i}")).await, Ok(Vec::from(previous(i))));
        assert_eq!(get(node, "k").await, Some(format!("v{i}").into_bytes()));
        let counts = node.homes.requests();
        assert_eq!(
            (counts.local, counts.remote, counts.failed),
            if i == 0 { (1, 0, 0) } else { (0, 1, 0) }
        );
    }
    let writes = (0..200).map(|i| {
        let node = &nodes[i % 3];
        async move { set(node, &format!("many{i}={i}")).await }
    });
    for result in join_all(writes).await {
        result.unwrap();
    }
    let [eu, us, ap] = &nodes;
    us.follows(eu).await;
    ap.follows(eu).await;
    assert_eq!(eu.rows().await.len(), 201);
    assert_eq!(eu.rows().await, us.rows().await);
    assert_eq!(eu.rows().await, ap.rows().await);
    let (home, replica) = (eu.told.0.lock(), us.told.0.lock());
    assert!(home.iter().all(|(local, _)| *local) && replica.iter().all(|(local, _)| !local));
    assert!(home.iter().map(|(_, c)| c).eq(replica.iter().map(|(_, c)| c)));
}

fn previous(i: usize) -> &'static [u8] {
    [&b""[..], b"v0", b"v1"][i]
}

#[tokio::test]
async fn who_asked_reads_what_was_written_and_replicas_end_equal_in_memory() {
    everyone_writes([memory(), memory(), memory()]).await;
}

#[tokio::test]
async fn who_asked_reads_what_was_written_and_replicas_end_equal_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let storages = [sqlite(&dir, "eu").await, sqlite(&dir, "us").await, sqlite(&dir, "ap").await];
    everyone_writes(storages).await;
}

#[tokio::test]
async fn nobody_waits_for_a_home_that_has_nothing_to_follow() {
    let (_net, _, [_eu, us, _]) = three([memory(), memory(), memory()]).await;
    let begun = std::time::Instant::now();
    assert_eq!(us.homes.request(&romeo(), "test.get", b"k".to_vec()).await, Ok(Vec::new()));
    assert!(begun.elapsed() < us.homes.shared.config.follow_timeout, "{:?}", begun.elapsed());
    set(&us, "k=v").await.unwrap();
    assert_eq!(us.homes.request(&romeo(), "test.get", b"k".to_vec()).await, Ok(b"v".to_vec()));
}

#[tokio::test]
async fn a_replica_cut_off_holds_a_prefix_and_catches_up() {
    let (net, _, [eu, us, ap]) = three([memory(), memory(), memory()]).await;
    set(&eu, "a=1").await.unwrap();
    us.follows(&eu).await;
    net.cut("eu", "us");
    for i in 0..50 {
        set(&eu, &format!("b{i}=1")).await.unwrap();
    }
    ap.follows(&eu).await;
    assert_eq!(us.rows().await.len(), 1);
    net.heal("eu", "us");
    us.follows(&eu).await;
    assert_eq!(us.rows().await, eu.rows().await);
}

#[tokio::test]
async fn a_replica_that_starts_again_goes_on_from_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |_| ()).await;
    let us = node(&net, &world, "us", sqlite(&dir, "us").await, |_| ()).await;
    net.up("eu", "us");
    set(&us, "a=1").await.unwrap();
    let storage = us.stop(&net).await;
    storage.close().await;
    set(&eu, "a=2").await.unwrap();
    let us = node(&net, &world, "us", sqlite(&dir, "us").await, |_| ()).await;
    net.up("eu", "us");
    us.follows(&eu).await;
    assert_eq!(get(&us, "a").await, Some(b"2".to_vec()));
    assert_eq!(us.told.0.lock().len(), 1, "the first entry was not applied again");
}

#[tokio::test]
async fn a_home_that_starts_again_goes_on_with_its_log() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |_| ()).await;
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    net.up("eu", "us");
    set(&us, "a=1").await.unwrap();
    let storage = eu.stop(&net).await;
    assert_eq!(set(&us, "a=2").await, Err(HomeError::Unreachable));
    let eu = node(&net, &world, "eu", storage, |_| ()).await;
    net.up("eu", "us");
    assert_eq!(set(&us, "a=3").await, Ok(b"1".to_vec()));
    assert_eq!(eu.storage.log_head().await.unwrap(), 2);
    assert_eq!(get(&us, "a").await, Some(b"3".to_vec()));
}

#[tokio::test]
async fn a_lost_batch_is_asked_for_again() {
    let (net, _, [eu, us, _ap]) = three([memory(), memory(), memory()]).await;
    set(&us, "a=1").await.unwrap();
    us.follows(&eu).await;
    net.cut("eu", "us");
    set(&eu, "a=2").await.unwrap();
    settle().await;
    net.forget("eu", "us");
    set(&eu, "a=3").await.unwrap();
    us.follows(&eu).await;
    assert_eq!(get(&us, "a").await, Some(b"3".to_vec()));
    assert_eq!(us.told.0.lock().len(), 3, "each entry was applied once");
}

fn entry(seq: u64, epoch: u64, value: &[u8]) -> Entry {
    let put = Change::Put {
        store: "test".into(),
        owner: ROMEO.into(),
        key: "k".into(),
        value: value.to_vec(),
    };
    Entry { seq, shard: shard_of(ROMEO), epoch, at: Hlc::ZERO, changes: vec![put] }
}

/// Lets every task do what it can. (Tests run on one thread, and memory never waits.)
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn duplicates_are_ignored_and_gaps_refused() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    let batch = |entries| us.homes.shipped("eu", wire::encode(&Ship::Batch { log: 5, entries }));
    batch(vec![entry(1, 1, b"1"), entry(2, 1, b"2")]);
    batch(vec![entry(1, 1, b"1")]);
    settle().await;
    assert_eq!(get(&us, "k").await, Some(b"2".to_vec()));
    batch(vec![entry(4, 1, b"4")]);
    settle().await;
    assert_eq!(get(&us, "k").await, Some(b"2".to_vec()));
    batch(vec![entry(2, 1, b"2"), entry(3, 1, b"3")]);
    settle().await;
    assert_eq!(get(&us, "k").await, Some(b"3".to_vec()));
    assert_eq!(us.told.0.lock().len(), 3);
}

#[tokio::test]
async fn a_home_whose_epoch_has_ended_changes_nothing() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    world.move_home(ROMEO, "us");
    set(&us, "k=newer").await.unwrap();
    let mut late = entry(1, 1, b"late");
    let (store, owner) = ("offline".into(), ROMEO.to_owned());
    late.changes.push(Change::Append { store, owner, id: 7, value: b"message".to_vec() });
    us.homes.shipped("eu", wire::encode(&Ship::Batch { log: 5, entries: vec![late] }));
    settle().await;
    assert_eq!(get(&us, "k").await, Some(b"newer".to_vec()));
    assert_eq!(us.storage.applied("eu").await.unwrap().unwrap().seq, 1, "it counts all the same");
    let offline = us.storage.archive("offline", ROMEO, Page::after(None, 9)).await.unwrap();
    assert_eq!(offline, [(7, b"message".to_vec())], "messages are filed again at the new home");
    assert_eq!(us.storage.log_head().await.unwrap(), 2);
}

#[tokio::test]
async fn what_was_under_way_when_the_home_moved_is_not_lost() {
    let (net, world, [eu, us, ap]) = three([memory(), memory(), memory()]).await;
    set(&eu, "k=1").await.unwrap();
    us.follows(&eu).await;
    ap.follows(&eu).await;
    net.cut("eu", "us");
    net.cut("eu", "ap");
    set(&eu, "k=2").await.unwrap();
    set(&eu, "j=3").await.unwrap();
    world.move_home(ROMEO, "us");
    settle().await;
    net.heal("eu", "us");
    net.heal("eu", "ap");
    settle().await;
    for node in [&eu, &us, &ap] {
        assert_eq!(get(node, "k").await, Some(b"2".to_vec()), "{}", node.region);
        assert_eq!(get(node, "j").await, Some(b"3".to_vec()), "{}", node.region);
    }
    assert_eq!(us.storage.log_head().await.unwrap(), 2, "the new home has taken them");
    assert_eq!(set(&ap, "k=4").await, Ok(b"2".to_vec()));
}

#[tokio::test]
async fn an_entry_of_an_epoch_not_heard_of_waits_for_metadata() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    let batch = wire::encode(&Ship::Batch { log: 5, entries: vec![entry(1, 2, b"early")] });
    us.homes.shipped("eu", &batch);
    settle().await;
    assert_eq!(get(&us, "k").await, None);
    world.move_home(ROMEO, "eu");
    settle().await;
    us.homes.shipped("eu", &batch);
    settle().await;
    assert_eq!(get(&us, "k").await, Some(b"early".to_vec()));
}

#[tokio::test]
async fn a_request_sent_again_after_a_cut_is_done_once() {
    let (net, _, [_eu, us, _ap]) = three([memory(), memory(), memory()]).await;
    net.lose_answers.store(3, Ordering::Release);
    let count = us.homes.request(&romeo(), "test.count", vec![]).await;
    assert_eq!(count, Ok(vec![1]));
    let count = us.homes.request(&romeo(), "test.count", vec![]).await;
    assert_eq!(count, Ok(vec![2]));
}

#[tokio::test]
async fn a_call_under_another_epoch_is_not_done() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |_| ()).await;
    let call = |epoch, counter| {
        wire::encode(&Call {
            id: RequestId { incarnation: 1, counter },
            epoch,
            account: ROMEO.to_owned(),
            op: "test.count".to_owned(),
            request: vec![],
        })
    };
    let ask = async |epoch, counter| {
        let reply = eu.homes.serve("us", call(epoch, counter)).await;
        wire::decode::<Reply>(&reply).unwrap().result
    };
    assert_eq!(ask(2, 1).await, Err(HomeError::NotHome { epoch: 1 }));
    assert_eq!(ask(1, 2).await, Ok(vec![1]));
    world.move_home(ROMEO, "us");
    assert_eq!(ask(1, 3).await, Err(HomeError::NotHome { epoch: 2 }));
    assert_eq!(ask(1, 2).await, Ok(vec![1]), "what was done before is still answered");
    assert!(matches!(
        wire::decode::<Reply>(&eu.homes.serve("us", b"nonsense").await).unwrap().result,
        Err(HomeError::Unknown(_))
    ));
}

#[tokio::test]
async fn a_request_follows_its_home_to_another_region() {
    let (_net, world, [eu, us, ap]) = three([memory(), memory(), memory()]).await;
    set(&ap, "k=1").await.unwrap();
    us.follows(&eu).await;
    world.move_home(ROMEO, "us");
    assert_eq!(set(&ap, "k=2").await, Ok(b"1".to_vec()));
    assert_eq!(set(&eu, "k=3").await, Ok(b"2".to_vec()));
    assert_eq!(get(&eu, "k").await, Some(b"3".to_vec()));
    assert_eq!(us.storage.log_head().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_home_that_hears_late_that_it_is_one_is_asked_again_soon() {
    let (net, here, there) = (Arc::new(Net::default()), World::new("us"), World::new("us"));
    let us = node(&net, &here, "us", memory(), |_| ()).await;
    let _eu = node(&net, &there, "eu", memory(), |_| ()).await;
    net.up("eu", "us");
    here.move_home(ROMEO, "eu");
    let began = tokio::time::Instant::now();
    let asked = tokio::spawn({
        let homes = us.homes.clone();
        async move { homes.request(&romeo(), "test.set", b"k=v".to_vec()).await }
    });
    // Metadata reaches it with the leader's next heartbeat; nothing changes any more where the request was made.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    there.move_home(ROMEO, "eu");
    assert_eq!(asked.await.unwrap(), Ok(Vec::new()));
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_group_is_committed_together_and_a_failed_operation_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", sqlite(&dir, "eu").await, |_| ()).await;
    let mut requests = Vec::new();
    for i in 0..300 {
        let (op, request) = match i % 3 {
            0 => ("test.count", vec![]),
            1 => ("test.fail", b"x".to_vec()),
            _ => ("test.fail", b"panic".to_vec()),
        };
        requests.push(async { eu.homes.request(&romeo(), op, request).await });
    }
    let results = join_all(requests).await;
    let counts: Vec<u8> = results.iter().step_by(3).map(|r| r.clone().unwrap()[0]).collect();
    assert!(counts.into_iter().eq(1..=100), "each operation saw those before it");
    assert!(matches!(results[1], Err(HomeError::Refused(_))));
    assert!(matches!(results[2], Err(HomeError::Storage(_))));
    assert_eq!(get(&eu, "failed").await, None);
    assert_eq!(eu.storage.log_head().await.unwrap(), 100);
}

#[tokio::test]
async fn a_full_queue_answers_busy() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |config| config.queue_max = 2).await;
    let results = join_all((0..9).map(|i| async move { i }).map(|_| set(&eu, "a=1"))).await;
    assert!(results.contains(&Err(HomeError::Busy)) && results.contains(&Ok(vec![])));
    assert_eq!(
        eu.homes.request(&romeo(), "none", vec![]).await,
        Err(HomeError::Unknown("none".into()))
    );
}

#[tokio::test]
async fn a_change_too_big_for_a_frame_is_refused() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |_| ()).await;
    assert!(matches!(
        set(&eu, &format!("k={}", "x".repeat(1 << 20))).await,
        Err(HomeError::Refused(_))
    ));
    assert_eq!(get(&eu, "k").await, None);
    assert_eq!(set(&eu, &format!("k={}", "x".repeat(1 << 19))).await, Ok(vec![]));
}

/// Everybody writes while the home goes from region to region; what was answered is there, in the order in which it was.
#[tokio::test]
async fn a_home_that_is_handed_over_loses_and_refuses_nothing() {
    let (_net, world, nodes) = three([memory(), memory(), memory()]).await;
    let shard = Moved::Shard(shard_of(ROMEO));
    let writing = async {
        for i in 0..200 {
            let done = set(&nodes[i % 3], &format!("k=v{i}")).await;
            let before = if i == 0 { Vec::new() } else { format!("v{}", i - 1).into_bytes() };
            assert_eq!(done, Ok(before), "what was answered before is there");
        }
    };
    let moving = async {
        for to in ["us", "ap", "eu", "us"] {
            // From anywhere: the home is asked.
            let moved = nodes[0].homes.hand_over(shard.clone(), to).await;
            assert_eq!(moved, Ok(()), "to {to}");
        }
    };
    futures_util::future::join(writing, moving).await;
    assert_eq!(world.place(ROMEO), ("us".to_owned(), 5));
    for node in [&nodes[0], &nodes[2]] {
        node.follows(&nodes[1]).await;
        assert_eq!(get(node, "k").await.as_deref(), Some(&b"v199"[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_of_no_shard_is_written_while_shards_are_handed_over() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |_| ()).await;
    let apart = BareJid::parse("romeo@eu.chat.example").unwrap();
    let shards = [shard_of(ROMEO), shard_of(apart.as_str())].map(Moved::Shard);
    eu.homes.shared.leaving.lock().extend(shards);
    let done = eu.homes.request(&apart, "test.set", b"k=v".to_vec()).await;
    assert!(done.is_ok(), "{done:?}");
    assert!(set(&eu, "k=v").await.is_err(), "who is of the shard waits");
}

#[tokio::test(start_paused = true)]
async fn a_home_is_not_handed_to_a_region_that_lags_or_that_metadata_refuses() {
    let (net, world, [eu, us, _ap]) = three([memory(), memory(), memory()]).await;
    let shard = Moved::Shard(shard_of(ROMEO));
    assert_eq!(set(&eu, "k=v0").await, Ok(previous(0).into()));
    us.follows(&eu).await;
    // It can be asked, and has its copies; only the end of the log does not come.
    net.lose_batches.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(set(&eu, "k=v1").await, Ok(previous(1).into()));
    let moved = eu.homes.hand_over(shard.clone(), "us").await;
    assert_eq!(moved, Err(HomeError::Unreachable));
    let status = eu.homes.status();
    let us_is_behind =
        status.iter().find(|peer| peer.region == "us").and_then(|peer| peer.behind());
    assert_eq!(us_is_behind, Some(1));
    net.lose_batches.store(0, Ordering::Relaxed);
    net.up("eu", "us");
    us.follows(&eu).await;
    let moved = eu.homes.hand_over(shard, "mars").await;
    assert!(moved.is_err(), "{moved:?}");
    assert_eq!(world.place(ROMEO), ("eu".to_owned(), 1));
    assert_eq!(set(&us, "k=v2").await, Ok(previous(2).into()), "it stays, and writes");
}

#[tokio::test(start_paused = true)]
async fn with_two_regions_nothing_is_answered_before_the_heir_has_it() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let eu = node(&net, &world, "eu", memory(), |config| config.two_regions = true).await;
    let us = node(&net, &world, "us", memory(), |config| config.two_regions = true).await;
    net.up("eu", "us");
    assert_eq!(set(&eu, "k=v0").await, Ok(previous(0).into()));
    assert_eq!(get(&us, "k").await.as_deref(), Some(&b"v0"[..]), "there when it is answered");
    net.cut("eu", "us");
    assert_eq!(set(&eu, "k=v1").await, Err(HomeError::Unreachable), "it is not known to be safe");
    net.heal("eu", "us");
    assert_eq!(set(&eu, "k=v2").await, Ok(previous(2).into()), "though it was done");
    assert_eq!(get(&us, "k").await.as_deref(), Some(&b"v2"[..]));
}
