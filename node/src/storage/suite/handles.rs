//! Two handles on the same database, as two nodes of a region have them: of every backend.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{ROMEO, commit, entry, new_database, put};
use crate::storage::memory::Memory;
use crate::storage::sqlite::{Sqlite, SqliteConfig};
use crate::storage::{Position, Replace, Storage, StorageError, open, partitioned};

/// Two nodes and one database: whoever has the pen writes, and nobody else.
async fn only_the_scribe_writes(one: &dyn Storage, other: &dyn Storage) {
    assert_eq!(one.scribe().await.unwrap(), None);
    assert!(one.take_pen(0, 5, "eu-0").await.unwrap());
    assert!(!other.take_pen(0, 6, "eu-1").await.unwrap(), "it is taken");
    commit(one, vec![put("a", ROMEO, "", b"one")]).await;
    one.beat().await.unwrap();
    one.beat().await.unwrap();
    let scribe = other.scribe().await.unwrap().unwrap();
    assert_eq!((scribe.term, &*scribe.node), (5, "eu-0"));
    let before = scribe.beat;
    one.beat().await.unwrap();
    assert_eq!(other.scribe().await.unwrap().unwrap().beat, before + 1);

    assert!(other.take_pen(5, 9, "eu-1").await.unwrap());
    let position = Position { log: 1, seq: 1 };
    let replace = Replace { from: None, to: None, owned: &|_| true, rows: Vec::new() };
    let seq = one.log_head().await.unwrap() + 1;
    let refused = [
        one.commit_home(vec![entry(seq, vec![put("a", ROMEO, "", b"two")])]).await,
        one.apply("us", position, vec![entry(1, vec![put("a", ROMEO, "", b"three")])]).await,
        one.replace(replace).await.map(drop),
        one.log_trim(1).await,
        one.set_meta("a", b"four".to_vec()).await,
        one.outbox_move("eu-0", "eu-1").await,
        one.beat().await,
    ];
    for (place, refused) in refused.into_iter().enumerate() {
        assert!(matches!(refused, Err(StorageError::Superseded)), "{place}: {refused:?}");
    }
    assert_eq!(other.get("a", ROMEO, "").await.unwrap(), Some(b"one".to_vec()));
    assert_eq!(other.meta("a").await.unwrap(), None);
    assert_eq!(other.positions().await.unwrap(), []);

    // An outbox is its node's alone.
    one.outbox_write("eu-0", vec![(7, b"x".to_vec())], vec![]).await.unwrap();
    other.outbox_move("eu-0", "eu-0*").await.unwrap();
    assert_eq!(one.outbox("eu-0").await.unwrap(), []);
    assert_eq!(other.outbox("eu-0*").await.unwrap(), [(7, b"x".to_vec())]);
    commit(other, vec![put("a", ROMEO, "", b"five")]).await;
    other.apply("us", position, Vec::new()).await.unwrap();
    assert_eq!(other.positions().await.unwrap(), [("us".to_owned(), position)]);
    assert!(one.take_pen(9, 12, "eu-0").await.unwrap(), "it comes back");
    commit(one, vec![put("a", ROMEO, "", b"six")]).await;
}

#[tokio::test]
async fn only_the_scribe_writes_in_memory() {
    let memory = Memory::default();
    only_the_scribe_writes(&memory, &memory.shared()).await;
}

#[tokio::test]
async fn only_the_scribe_writes_three_memories() {
    let three: [Memory; 3] = Default::default();
    let one = async || {
        let [main, one, two] =
            three.each_ref().map(|memory| Arc::new(memory.shared()) as Arc<dyn Storage>);
        partitioned::tests::mixed(main, vec![one, two]).await
    };
    only_the_scribe_writes(&one().await, &one().await).await;
}

#[tokio::test]
async fn only_the_scribe_writes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(dir.path().join("a.sqlite"));
    let (one, other) =
        (Sqlite::open(config.clone()).await.unwrap(), Sqlite::open(config).await.unwrap());
    only_the_scribe_writes(&one, &other).await;
}

pub(super) async fn several_open_a_new_database_at_once(variable: &str) {
    let config = new_database(variable).await;
    let opened = join_all((0..6).map(|_| open::open(&config))).await;
    let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    commit(&*opened[0], vec![put("a", ROMEO, "", b"x")]).await;
    assert_eq!(opened[5].get("a", ROMEO, "").await.unwrap(), Some(b"x".to_vec()));
    let (first, second) = (entry(2, vec![]), entry(2, vec![]));
    let both = [opened[1].commit_home(vec![first]), opened[2].commit_home(vec![second])];
    let done = join_all(both).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(done, 1, "one of them comes second, and is told so");
}

/// Two databases that say that they are the same, as one and a copy that follows it at its leisure.
pub(super) async fn a_stand_in_that_lacks_something_is_refused(variable: &str) {
    let (config, stand_in) = (new_database(variable).await, new_database(variable).await);
    let (one, other) = (open::open(&config).await.unwrap(), open::open(&stand_in).await.unwrap());
    // It has done nothing but read, long ago.
    let reader = open::open(&config).await.unwrap();
    for storage in [&one, &other] {
        storage.set_meta("log", vec![1]).await.unwrap();
        commit(&**storage, vec![put("a", ROMEO, "", b"one")]).await;
    }
    commit(&*one, vec![put("a", ROMEO, "", b"two")]).await;
    for storage in [&one, &reader] {
        let why = storage.renew(&stand_in).await.err().map(|error| error.to_string());
        let why = why.unwrap_or_default();
        assert!(why.contains("its log ends with 1, not 2"), "{why}");
        assert_eq!(storage.log_head().await.unwrap(), 2, "the one in use stays");
    }
    commit(&*other, vec![put("a", ROMEO, "", b"two")]).await;
    for storage in [&one, &reader] {
        storage.renew(&stand_in).await.unwrap()();
        assert_eq!(storage.log_head().await.unwrap(), 2);
    }
}

/// Two handles on a database of a server.
async fn only_the_scribe_writes_it(variable: &str) {
    let config = new_database(variable).await;
    let (one, other) = (open::open(&config).await.unwrap(), open::open(&config).await.unwrap());
    only_the_scribe_writes(&*one, &*other).await;
}

#[tokio::test]
#[ignore = "needs a server: tests/databases/main.rs"]
async fn only_the_scribe_writes_postgres() {
    only_the_scribe_writes_it("PANGAEA_TEST_POSTGRES").await;
}

#[tokio::test]
#[ignore = "needs a server: tests/databases/main.rs"]
async fn only_the_scribe_writes_mysql() {
    only_the_scribe_writes_it("PANGAEA_TEST_MYSQL").await;
}
