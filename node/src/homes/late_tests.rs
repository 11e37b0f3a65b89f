//! What a former home brings late, and a database that fails just then.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

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

/// Two regions with a line; romeo's home is eu.
async fn linked(one: &str, other: &str) -> (Arc<Net>, Arc<World>, [Node; 2]) {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let first = node(&net, &world, one, memory(), |_| ()).await;
    let second = node(&net, &world, other, memory(), |_| ()).await;
    net.up(one, other);
    (net, world, [first, second])
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
    let (net, world, [us, ap]) = linked("us", "ap").await;
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
    let (_net, world, [us, ap]) = linked("us", "ap").await;
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

/// The region that was home is back, has something that it had not sent, and is to be home again: the hand-over waits.
async fn returning() -> (Arc<Net>, Arc<World>, [Node; 2], JoinHandle<Result<(), HomeError>>) {
    let (net, world, [eu, us]) = linked("eu", "us").await;
    settle().await;
    net.mutes("eu", "us", true);
    let filing = eu.homes.clone();
    let filing =
        tokio::spawn(async move { filing.request(&romeo(), "test.file", b"m".to_vec()).await });
    settle().await;
    filing.abort();
    assert_eq!((committed(&eu).await, offline(&us).await.len()), (1, 0));
    world.move_home(ROMEO, "us");
    net.up("eu", "us");
    settle().await;
    let going = us.homes.clone();
    let shard = Moved::Shard(shard_of(ROMEO));
    let going = tokio::spawn(async move { going.hand_over(shard, "eu").await });
    settle().await;
    assert_eq!(world.place(ROMEO), ("us".to_owned(), 2), "it waits");
    (net, world, [eu, us], going)
}

/// What it had not sent comes now.
async fn comes(net: &Net) {
    net.mutes("eu", "us", false);
    net.up("eu", "us");
    settle().await;
}

#[tokio::test]
async fn a_home_goes_back_with_what_the_former_home_had_not_sent() {
    let (net, world, [eu, us], going) = returning().await;
    // Nobody else begins, and who writes does not wait.
    let another = us.homes.hand_over(Moved::Shard(shard_of(ROMEO)), "mars").await;
    assert_eq!(another, Err(HomeError::Busy));
    assert!(!us.homes.shared.is_leaving(ROMEO));
    comes(&net).await;
    assert_eq!(going.await.unwrap(), Ok(()));
    assert_eq!(world.place(ROMEO), ("eu".to_owned(), 3));
    settle().await;
    for node in [&eu, &us] {
        let filed = offline(node).await;
        assert_eq!(filed.len(), 1, "{}: {filed:?}", node.region);
    }
}

#[tokio::test]
async fn only_who_writes_says_where_its_log_ends() {
    let (_net, world, [eu, us]) = linked("eu", "us").await;
    world.move_home(ROMEO, "us");
    settle().await;
    eu.homes.put_down();
    let moved = us.homes.hand_over(Moved::Shard(shard_of(ROMEO)), "eu").await;
    assert_eq!(moved, Err(HomeError::Unreachable));
    assert_eq!(world.place(ROMEO), ("us".to_owned(), 2));
}

#[tokio::test]
async fn a_home_that_goes_elsewhere_while_it_waits_is_not_handed_over() {
    let (net, world, [_eu, us], going) = returning().await;
    world.move_home(ROMEO, "ap");
    comes(&net).await;
    assert_eq!(going.await.unwrap(), Err(HomeError::NotHome { epoch: 3 }));
    assert_eq!(world.place(ROMEO), ("ap".to_owned(), 3));
    assert!(us.homes.shared.going.lock().is_empty() && !us.homes.shared.is_leaving(ROMEO));
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
