//! What a former home brings late, and a database that fails just then.

use tokio::sync::oneshot;

use super::super::writer::{Job, Late};
use super::*;
use crate::storage::shaky::Shaky;

/// A region that has become romeo's home, its database, and what his former home sends now: a message that it had filed.
async fn heir() -> (Node, Arc<Shaky>, Vec<u8>) {
    let (us, shaky, _) = heir_in_groups_of(256).await;
    (us, shaky, batch(vec![filed(1)]))
}

/// The region, whose writer commits so many jobs at most together, and metadata.
async fn heir_in_groups_of(jobs: usize) -> (Node, Arc<Shaky>, Arc<World>) {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let shaky = Arc::new(Shaky::default());
    let storage = Arc::clone(&shaky) as Arc<dyn Storage>;
    let us = node(&net, &world, "us", storage, |config| config.group_max = jobs).await;
    world.move_home(ROMEO, "us");
    (us, shaky, world)
}

/// What the former home sends.
fn batch(entries: Vec<Entry>) -> Vec<u8> {
    wire::encode(&Ship::Batch { log: 5, entries })
}

fn message(id: u64) -> Change {
    let (store, owner) = ("offline".into(), ROMEO.to_owned());
    Change::Append { store, owner, id, value: b"message".to_vec() }
}

/// An entry of the former home.
fn filed(seq: u64) -> Entry {
    Entry { changes: vec![message(seq + 6)], ..entry(seq, 1, b"") }
}

async fn offline(us: &Node) -> Vec<(u64, Vec<u8>)> {
    us.storage.archive("offline", ROMEO, Page::after(None, 9)).await.unwrap()
}

/// How many entries the region has committed.
async fn committed(us: &Node) -> u64 {
    us.storage.log_head().await.unwrap()
}

async fn applied(us: &Node) -> Option<u64> {
    us.storage.applied("eu").await.unwrap().map(|position| position.seq)
}

/// The former home sends that. How far its log is followed then, and how many entries the region has committed.
async fn shipped(us: &Node, batch: &[u8]) -> (Option<u64>, u64) {
    us.homes.shipped("eu", batch);
    settle().await;
    (applied(us).await, committed(us).await)
}

#[tokio::test]
async fn what_comes_late_is_not_passed_before_it_is_committed() {
    let (us, shaky, batch) = heir().await;
    shaky.failing_commits.store(1, Ordering::SeqCst);
    us.homes.shipped("eu", &batch);
    settle().await;
    assert_eq!(
        (applied(&us).await, offline(&us).await),
        (None, Vec::new()),
        "it is asked for again"
    );
    us.homes.shipped("eu", &batch);
    settle().await;
    assert_eq!((applied(&us).await, offline(&us).await), (Some(1), vec![(7, b"message".to_vec())]));
    assert_eq!(committed(&us).await, 1, "once");
}

#[tokio::test]
async fn what_comes_late_for_a_database_that_is_away_waits_in_the_log() {
    let (us, shaky, batch) = heir().await;
    shaky.is_refusing.store(true, Ordering::SeqCst);
    let refused = set(&us, "k=1").await;
    assert!(matches!(refused, Err(HomeError::Unavailable(_))), "{refused:?}");
    assert_eq!(shipped(&us, &batch).await, (Some(1), 1));
    assert_eq!(offline(&us).await, [(7, b"message".to_vec())]);
}

/// Our region and the next home, which passes by what comes late before it is home.
#[tokio::test]
async fn a_message_that_comes_late_while_its_home_is_handed_over_is_at_the_next_one() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    let ap = node(&net, &world, "ap", memory(), |_| ()).await;
    net.up("us", "ap");
    world.move_home(ROMEO, "us");
    settle().await;
    us.homes.shared.leaving.lock().push(Moved::Shard(shard_of(ROMEO)));
    net.cut("us", "ap");
    let mut late = entry(1, 1, b"late");
    late.changes.push(message(7));
    let batch = batch(vec![late]);
    ap.homes.shipped("eu", &batch);
    us.homes.shipped("eu", &batch);
    settle().await;
    assert_eq!((applied(&ap).await, offline(&ap).await), (Some(1), Vec::new()), "not its own");
    assert_eq!((applied(&us).await, offline(&us).await.len()), (Some(1), 1));
    assert_eq!(get(&us, "k").await, None, "there may be a newer one at the next home soon");
    us.homes.shared.leaving.lock().clear();
    world.move_home(ROMEO, "ap");
    net.heal("us", "ap");
    settle().await;
    for node in [&us, &ap] {
        assert_eq!(offline(node).await, [(7, b"message".to_vec())], "{}", node.region);
    }
    assert_eq!(committed(&ap).await, 1, "it tells the others");
}

#[tokio::test]
async fn a_message_that_came_late_and_waited_until_its_home_had_moved_is_at_the_next_one() {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    let ap = node(&net, &world, "ap", memory(), |_| ()).await;
    net.up("us", "ap");
    world.move_home(ROMEO, "us");
    settle().await;
    let epoch = us.homes.shared.map.home(ROMEO).epoch;
    world.move_home(ROMEO, "ap");
    settle().await;
    let (taken, is_taken) = oneshot::channel();
    let late = Late { entries: vec![(romeo(), epoch, vec![message(7)])], taken };
    us.homes.shared.give(Job::Late(late)).unwrap();
    assert!(is_taken.await.is_ok());
    settle().await;
    for node in [&us, &ap] {
        assert_eq!(offline(node).await, [(7, b"message".to_vec())], "{}", node.region);
    }
}

#[tokio::test]
async fn of_what_comes_late_nothing_is_committed_alone() {
    let (us, shaky, _) = heir_in_groups_of(1).await;
    let batch = batch(vec![filed(1), filed(2)]);
    shaky.failing_commits.store(1, Ordering::SeqCst);
    assert_eq!(shipped(&us, &batch).await, (None, 0), "not the second either");
    assert_eq!(shipped(&us, &batch).await, (Some(2), 2), "each once");
    let filed: Vec<u64> = offline(&us).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(filed, [7, 8]);
}

#[tokio::test]
async fn what_comes_late_behind_an_entry_that_has_to_wait_is_committed_once() {
    const JULIET: &str = "juliet@chat.example";
    let (us, _, world) = heir_in_groups_of(256).await;
    let owner = JULIET.to_owned();
    let put =
        Change::Put { store: "test".into(), owner, key: "k".into(), value: b"early".to_vec() };
    let shard = shard_of(JULIET);
    assert_ne!(shard, shard_of(ROMEO));
    let early = Entry { shard, changes: vec![put], ..entry(2, 2, b"") };
    let batch = batch(vec![filed(1), early, filed(3)]);
    assert_eq!(shipped(&us, &batch).await, (Some(1), 1));
    world.move_home(JULIET, "eu");
    settle().await;
    assert_eq!(shipped(&us, &batch).await, (Some(3), 2));
}

#[tokio::test]
async fn what_came_late_and_was_committed_is_not_committed_again_if_its_position_was_not_stored() {
    let (us, shaky, batch) = heir().await;
    shaky.failing_applies.store(1, Ordering::SeqCst);
    assert_eq!(shipped(&us, &batch).await, (None, 1));
    assert_eq!(shipped(&us, &batch).await, (Some(1), 1));
}

#[tokio::test]
async fn a_request_does_not_fail_with_what_comes_late() {
    let (us, shaky, _) = heir().await;
    shaky.failing_commits.store(1, Ordering::SeqCst);
    // Both wait when the writer looks.
    let (taken, is_taken) = oneshot::channel();
    let late = Late {
        entries: vec![(romeo(), us.homes.shared.map.home(ROMEO).epoch, vec![message(7)])],
        taken,
    };
    us.homes.shared.give(Job::Late(late)).unwrap();
    assert_eq!(set(&us, "k=v").await, Ok(Vec::new()));
    assert!(is_taken.await.is_err());
    assert_eq!((offline(&us).await, committed(&us).await), (Vec::new(), 1));
}
