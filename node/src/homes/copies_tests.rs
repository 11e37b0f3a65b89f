//! Whole copies: whoever is too far behind, new, or of another log gets everything, and ends with what its home has.

use super::*;

/// A replica that is too far behind, or new, or was never of this log, gets a whole copy.
async fn whole_copy(eu: Arc<dyn Storage>, us: Arc<dyn Storage>) {
    let (net, world) = (Arc::new(Net::default()), World::new("eu"));
    let us = node(&net, &world, "us", us, |_| ()).await;
    let eu = node(&net, &world, "eu", eu, |config| {
        config.log_entries_max = 10;
        config.ship.batch_bytes_max = 2000;
    })
    .await;
    net.up("eu", "us");
    set(&us, "gone=1").await.unwrap();
    us.follows(&eu).await;
    net.cut("eu", "us");
    for i in 0..300 {
        let account = BareJid::parse(&format!("user{i}@chat.example")).unwrap();
        eu.homes.request(&account, "test.set", b"k=some value".to_vec()).await.unwrap();
        eu.homes.request(&account, "test.file", b"some message".to_vec()).await.unwrap();
    }
    // What the replica has alone must not stay.
    let mut odd = entry(0, 1, b"odd");
    odd.seq = 1;
    let position = us.storage.applied("eu").await.unwrap().unwrap();
    us.storage.apply("eu", position, vec![odd]).await.unwrap();
    let storage = eu.stop(&net).await;
    net.forget("eu", "us");
    let eu = node(&net, &world, "eu", storage, |config| config.ship.batch_bytes_max = 2000).await;
    net.up("eu", "us");
    us.follows(&eu).await;
    assert_eq!(eu.rows().await.len(), 601);
    assert_eq!(us.rows().await, eu.rows().await);
    set(&us, "k=after").await.unwrap();
    assert_eq!(get(&us, "k").await, Some(b"after".to_vec()));
}

#[tokio::test]
async fn a_replica_behind_a_trimmed_log_gets_a_whole_copy_in_memory() {
    whole_copy(memory(), memory()).await;
}

#[tokio::test]
async fn a_replica_behind_a_trimmed_log_gets_a_whole_copy_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    whole_copy(sqlite(&dir, "eu").await, sqlite(&dir, "us").await).await;
}

#[tokio::test]
async fn who_is_of_no_shard_comes_with_everything_and_stays_when_a_shard_is_copied() {
    // All shards are homed in us; eu has only those on its own domain.
    let (net, world) = (Arc::new(Net::default()), World::new("us"));
    let [us, ap] = [
        node(&net, &world, "us", memory(), |_| ()).await,
        node(&net, &world, "ap", memory(), |_| ()).await,
    ];
    let eu = node(&net, &world, "eu", memory(), |config| config.log_entries_max = 10).await;
    for (one, other) in [("eu", "us"), ("eu", "ap"), ("us", "ap")] {
        net.up(one, other);
    }
    let of_eu = |i: usize| BareJid::parse(&format!("user{i}@eu.chat.example")).unwrap();
    let set_of = |at: &Node, i: usize| {
        let homes = at.homes.clone();
        async move { homes.request(&of_eu(i), "test.set", b"k=v".to_vec()).await }
    };
    set_of(&us, 0).await.expect("its home is asked");
    set(&eu, "k=1").await.expect("his home is asked");
    assert_eq!(eu.storage.log_head().await.unwrap(), 1);
    us.follows(&eu).await;
    net.cut("eu", "us");
    for i in 1..300 {
        set_of(&eu, i).await.expect("its home is here");
    }
    // What the replica has alone must not stay.
    let put = Change::Put {
        store: "test".into(),
        owner: of_eu(0).to_string(),
        key: "odd".into(),
        value: b"x".to_vec(),
    };
    let odd = Entry { seq: 1, shard: 0, epoch: 1, at: Hlc::ZERO, changes: vec![put] };
    let position = us.storage.applied("eu").await.unwrap().unwrap();
    us.storage.apply("eu", position, vec![odd]).await.unwrap();
    let storage = eu.stop(&net).await;
    net.forget("eu", "us");
    let eu = node(&net, &world, "eu", storage, |_| ()).await;
    net.up("eu", "us");
    net.up("eu", "ap");
    us.follows(&eu).await;
    ap.follows(&eu).await;
    eu.follows(&us).await;
    assert_eq!(eu.rows().await.len(), 301);
    assert_eq!(us.rows().await, eu.rows().await);
    // A shard gets another home, and is copied from there, in which some of eu's own would be if they were of one.
    for i in 0..300 {
        world.move_home(of_eu(i).as_str(), "ap");
    }
    world.move_home(ROMEO, "ap");
    set(&eu, "k=2").await.expect("his new home is asked");
    us.follows(&ap).await;
    eu.follows(&ap).await;
    settle().await;
    for node in [&us, &ap] {
        assert_eq!(node.rows().await, eu.rows().await, "{}", node.region);
    }
    assert_eq!(eu.rows().await.len(), 301);
    assert_eq!(set_of(&ap, 7).await, Ok(b"v".to_vec()), "eu is its home still");
}

#[tokio::test]
async fn who_is_pinned_comes_with_everything_wherever_his_shard_is() {
    // All shards are homed in us, and one account is pinned to eu.
    let (net, world) = (Arc::new(Net::default()), World::new("us"));
    world.pin(ROMEO, "eu");
    let us = node(&net, &world, "us", memory(), |_| ()).await;
    let eu = node(&net, &world, "eu", memory(), |config| config.log_entries_max = 10).await;
    net.up("eu", "us");
    set(&eu, "first=1").await.expect("his home is here");
    us.follows(&eu).await;
    net.cut("eu", "us");
    for i in 0..300 {
        set(&eu, &format!("k{i}=v")).await.expect("his home is here");
    }
    let storage = eu.stop(&net).await;
    net.forget("eu", "us");
    let eu = node(&net, &world, "eu", storage, |_| ()).await;
    net.up("eu", "us");
    us.follows(&eu).await;
    assert_eq!(eu.rows().await.len(), 301);
    assert_eq!(us.rows().await, eu.rows().await);
}

#[tokio::test]
async fn a_home_that_lost_its_database_is_followed_anew() {
    let (net, _, [eu, us, ap]) = three([memory(), memory(), memory()]).await;
    set(&us, "old=1").await.unwrap();
    ap.follows(&eu).await;
    let world = World::new("eu");
    eu.stop(&net).await;
    let eu = node(&net, &world, "eu", memory(), |_| ()).await;
    set(&eu, "new=1").await.unwrap();
    net.up("eu", "us");
    us.follows(&eu).await;
    assert_eq!(us.rows().await, eu.rows().await);
}

#[tokio::test]
async fn after_a_move_replicas_copy_the_shard_from_its_new_home() {
    let (net, world, [eu, us, ap]) = three([memory(), memory(), memory()]).await;
    set(&eu, "k=1").await.unwrap();
    us.follows(&eu).await;
    ap.follows(&eu).await;
    // The home writes on, cut off from everyone, and then its shard is given to us.
    for (from, to) in [("eu", "us"), ("eu", "ap"), ("us", "eu"), ("ap", "eu")] {
        net.cut(from, to);
    }
    set(&eu, "k=lost").await.unwrap();
    eu.homes.request(&romeo(), "test.file", b"kept".to_vec()).await.unwrap();
    world.move_home(ROMEO, "us");
    assert_eq!(set(&ap, "k=2").await, Ok(b"1".to_vec()));
    for (from, to) in [("eu", "us"), ("eu", "ap"), ("us", "eu"), ("ap", "eu")] {
        net.heal(from, to);
    }
    net.up("eu", "us");
    net.up("eu", "ap");
    us.follows(&eu).await;
    settle().await;
    eu.follows(&us).await;
    ap.follows(&us).await;
    settle().await;
    assert_eq!(get(&us, "k").await, Some(b"2".to_vec()));
    assert_eq!(us.storage.archive_len("offline", ROMEO).await.unwrap(), 1);
    assert_eq!(eu.rows().await, us.rows().await);
    assert_eq!(ap.rows().await, us.rows().await);
}
