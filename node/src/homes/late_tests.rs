//! What a former home brings late, and a database that fails just then.

use super::*;
use crate::storage::shaky::Shaky;

/// A region that has become romeo's home, its database, and what his former home sends now: a message that it had filed.
async fn heir() -> (Node, Arc<Shaky>, Vec<u8>) {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let shaky = Arc::new(Shaky::default());
    let us = node(&net, &world, "us", Arc::clone(&shaky) as Arc<dyn Storage>, |_| ()).await;
    world.move_home(ROMEO, "us");
    let (store, owner) = ("offline".into(), ROMEO.to_owned());
    let filed = Change::Append { store, owner, id: 7, value: b"message".to_vec() };
    let late = Entry { changes: vec![filed], ..entry(1, 1, b"") };
    (us, shaky, wire::encode(&Ship::Batch { log: 5, entries: vec![late] }))
}

async fn offline(us: &Node) -> Vec<(u64, Vec<u8>)> {
    us.storage.archive("offline", ROMEO, Page::after(None, 9)).await.unwrap()
}

async fn applied(us: &Node) -> Option<u64> {
    us.storage.applied("eu").await.unwrap().map(|position| position.seq)
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
    assert_eq!(us.storage.log_head().await.unwrap(), 1, "once");
}

#[tokio::test]
async fn what_was_kept_back_survives_a_commit_that_fails() {
    let (us, shaky, batch) = heir().await;
    us.homes.shared.leaving.lock().push(Moved::Shard(shard_of(ROMEO)));
    us.homes.shipped("eu", &batch);
    settle().await;
    assert_eq!((applied(&us).await, offline(&us).await), (Some(1), Vec::new()), "it waits here");
    us.homes.shared.leaving.lock().clear();
    shaky.failing_commits.store(1, Ordering::SeqCst);
    let refused = set(&us, "k=1").await;
    assert!(matches!(refused, Err(HomeError::Unavailable(_))), "{refused:?}");
    assert_eq!(set(&us, "k=2").await, Ok(Vec::new()));
    assert_eq!(offline(&us).await, [(7, b"message".to_vec())]);
}
