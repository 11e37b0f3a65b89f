//! What every backend must do, as one suite: a backend is finished when all of it passes.
//!
//! Called by the tests at the end of this file, once a backend; a new backend is one more `all_cases!` line. Those that need a server are passed
//! over unless asked for (`--ignored`); `tests/databases/main.rs` starts the servers and asks.

mod handles;
mod outbox;
mod several;
mod versions;

use std::sync::Arc;
use std::task::Poll;

use config::Database;
use futures_util::future::join_all;
use replication::{Change, Entry, Hlc};

use handles::{a_stand_in_that_lacks_something_is_refused, several_open_a_new_database_at_once};
use outbox::{
    an_outbox_is_moved_over_what_was_moved_before, an_outbox_is_one_nodes_and_keeps_its_order,
};
use several::{open_three_memories, open_three_servers, open_three_sqlites};
use versions::{an_older_one_is_brought_up_to_this, one_of_a_newer_version_is_refused};

use super::memory::Memory;
use super::sqlite::{Sqlite, SqliteConfig};
use super::{
    LogPage, Page, Place, Position, Replace, Shelf, Storage, StorageError, mysql, open, postgres,
};

const ROMEO: &str = "romeo@chat.example";
const JULIET: &str = "juliet@chat.example";

fn put(store: &'static str, owner: &str, key: &str, value: &[u8]) -> Change {
    let (owner, key, value) = (owner.to_owned(), key.to_owned(), value.to_vec());
    Change::Put { store: store.into(), owner, key, value }
}

fn append(store: &'static str, owner: &str, id: u64, value: &[u8]) -> Change {
    Change::Append { store: store.into(), owner: owner.to_owned(), id, value: value.to_vec() }
}

fn entry(seq: u64, changes: Vec<Change>) -> Entry {
    Entry { seq, shard: (seq % 256) as u8, epoch: 1, at: Hlc::new(seq, 0), changes }
}

/// Commits changes as the next entry of the log.
async fn commit(storage: &dyn Storage, changes: Vec<Change>) {
    let seq = storage.log_head().await.unwrap() + 1;
    storage.commit_home(vec![entry(seq, changes)]).await.unwrap();
}

async fn a_value_is_read_back_replaced_and_deleted(storage: &dyn Storage) {
    assert_eq!(storage.get("vcard", ROMEO, "").await.unwrap(), None);
    commit(storage, vec![put("vcard", ROMEO, "", b"one")]).await;
    assert_eq!(storage.get("vcard", ROMEO, "").await.unwrap(), Some(b"one".to_vec()));
    commit(storage, vec![put("vcard", ROMEO, "", b"two")]).await;
    assert_eq!(storage.get("vcard", ROMEO, "").await.unwrap(), Some(b"two".to_vec()));
    assert_eq!(storage.get("vcard", JULIET, "").await.unwrap(), None);
    assert_eq!(storage.get("other", ROMEO, "").await.unwrap(), None);
    let delete = Change::Delete { store: "vcard".into(), owner: ROMEO.into(), key: "".into() };
    commit(storage, vec![delete.clone(), delete]).await;
    assert_eq!(storage.get("vcard", ROMEO, "").await.unwrap(), None);
}

async fn a_map_comes_in_the_order_of_its_keys(storage: &dyn Storage) {
    let keys = ["b", "a", "", "ß", "a b", "Z", "a\"'`;--", "日本", "a\u{0}b", "%_", "🦀"];
    let changes = keys.iter().map(|key| put("roster", ROMEO, key, key.as_bytes())).collect();
    commit(storage, changes).await;
    commit(storage, vec![put("roster", JULIET, "x", b"")]).await;
    let mut expected: Vec<(String, Vec<u8>)> =
        keys.iter().map(|key| (key.to_string(), key.as_bytes().to_vec())).collect();
    expected.sort();
    assert_eq!(storage.map("roster", ROMEO).await.unwrap(), expected);
    for (key, value) in expected {
        assert_eq!(storage.get("roster", ROMEO, &key).await.unwrap(), Some(value), "{key:?}");
    }
    assert_eq!(storage.map("roster", JULIET).await.unwrap(), [("x".to_owned(), vec![])]);
    assert_eq!(storage.map("roster", "nobody@chat.example").await.unwrap(), []);
}

async fn an_archive_pages_both_ways(storage: &dyn Storage) {
    let ids = [u64::MAX, 3, 1 << 63, 1, 2, (1 << 63) - 1, 0];
    let changes = ids.iter().map(|id| append("mam", ROMEO, *id, &id.to_be_bytes())).collect();
    commit(storage, changes).await;
    commit(storage, vec![append("mam", JULIET, 9, b"hers")]).await;
    let page = async |page| {
        let found = storage.archive("mam", ROMEO, page).await.unwrap();
        assert!(found.iter().all(|(id, value)| value == &id.to_be_bytes()));
        let count = storage.archive_count("mam", ROMEO, page).await.unwrap();
        assert_eq!(count, found.len() as u64);
        found.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    let all = [0, 1, 2, 3, (1 << 63) - 1, 1 << 63, u64::MAX];
    assert_eq!(page(Page::after(None, 100)).await, all);
    assert_eq!(page(Page::after(None, 2)).await, [0, 1]);
    assert_eq!(page(Page::after(Some(1), 2)).await, [2, 3]);
    assert_eq!(page(Page::after(Some(u64::MAX), 2)).await, [0u64; 0]);
    assert_eq!(page(Page::before(None, 2)).await, [1 << 63, u64::MAX]);
    assert_eq!(page(Page::before(Some(3), 2)).await, [1, 2]);
    assert_eq!(page(Page::before(Some(0), 2)).await, [0u64; 0]);
    assert_eq!(
        page(Page { after: Some(3), before: Some(2), max: 9, newest: false, mark: None }).await,
        [0u64; 0]
    );
    let some = Page { after: Some(0), before: Some(4), max: 2, newest: true, mark: None };
    assert_eq!(page(some).await, [2, 3]);
    for id in &ids {
        // Their values are eight bytes, so each is its own mark.
        let marked = Page { mark: Some(id.to_be_bytes()), ..Page::after(None, 9) };
        assert_eq!(page(marked).await, [*id]);
        assert_eq!(page(Page { newest: true, ..marked }).await, [*id]);
        assert_eq!(page(Page { before: Some(*id), ..marked }).await, [0u64; 0]);
    }
    assert_eq!(storage.archive_len("mam", ROMEO).await.unwrap(), 7);
    let remove = Change::Remove { store: "mam".into(), owner: ROMEO.into(), id: 1 << 63 };
    let trim = Change::Trim { store: "mam".into(), owner: ROMEO.into(), upto: 2 };
    commit(storage, vec![remove, trim]).await;
    assert_eq!(page(Page::after(None, 100)).await, [3, (1 << 63) - 1, u64::MAX]);
    assert_eq!(storage.archive_len("mam", JULIET).await.unwrap(), 1);
}

async fn changes_of_one_entry_happen_in_order(storage: &dyn Storage) {
    let delete = |key: &str| Change::Delete {
        store: "roster".into(),
        owner: ROMEO.into(),
        key: key.to_owned(),
    };
    let clear = Change::Clear { store: "roster".into(), owner: ROMEO.into() };
    let trim = |upto| Change::Trim { store: "roster".into(), owner: ROMEO.into(), upto };
    commit(
        storage,
        vec![
            put("roster", ROMEO, "a", b"1"),
            append("roster", ROMEO, 1, b"old"),
            clear,
            put("roster", ROMEO, "b", b"1"),
            put("roster", ROMEO, "b", b"2"),
            put("roster", ROMEO, "c", b"1"),
            delete("c"),
            delete("d"),
            put("roster", ROMEO, "d", b"1"),
            append("roster", ROMEO, 5, b"five"),
            trim(5),
            append("roster", ROMEO, 4, b"four"),
        ],
    )
    .await;
    let expected = [("b".to_owned(), b"2".to_vec()), ("d".to_owned(), b"1".to_vec())];
    assert_eq!(storage.map("roster", ROMEO).await.unwrap(), expected);
    let items = storage.archive("roster", ROMEO, Page::after(None, 9)).await.unwrap();
    assert_eq!(items, [(4, b"four".to_vec())]);
}

async fn long_keys_and_those_like_them_are_told_apart(storage: &dyn Storage) {
    let long = |last: &str| format!("{}{last}", "k".repeat(3_000));
    let keys = ["", "a", "z"].map(long);
    let changes = keys.iter().map(|key| put("roster", ROMEO, key, key.as_bytes())).collect();
    commit(storage, changes).await;
    for key in &keys {
        let found = storage.get("roster", ROMEO, key).await.unwrap();
        assert_eq!(found.as_deref(), Some(key.as_bytes()));
    }
    let mut found: Vec<String> =
        storage.map("roster", ROMEO).await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys);
    let (mut paged, mut after) = (Vec::new(), None);
    while let Some((place, _)) = storage.rows(after.take(), 1).await.unwrap().pop() {
        let Place::Value(_, _, key) = &place else { panic!("there are no archives") };
        paged.push(key.clone());
        after = Some(place);
    }
    paged.sort();
    found.sort();
    assert_eq!(paged, found);
    let key = keys[1].clone();
    commit(storage, vec![Change::Delete { store: "roster".into(), owner: ROMEO.into(), key }])
        .await;
    assert_eq!(storage.map("roster", ROMEO).await.unwrap().len(), 2);
}

async fn shelves_are_found_in_order_and_once(storage: &dyn Storage) {
    let owner = |i: usize| format!("user{i}@chat.example");
    let changes = (0..20).flat_map(|i| {
        let items = (0..3).map(move |id| append("mam", &owner(i), id, b"x"));
        let values = ["a", "b"].map(|key| put("roster", &owner(i), key, b"x"));
        items.chain(values).chain([put("alone", &owner(i), "", b"x")])
    });
    commit(storage, changes.collect()).await;
    for max in [1, 7, 1000] {
        let mut found: Vec<Shelf> = Vec::new();
        loop {
            let page = storage.shelves(found.last().cloned(), max).await.unwrap();
            assert!(page.len() <= max);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        let mut owners: Vec<String> = (0..20).map(owner).collect();
        owners.sort();
        let of = |is_archive: bool, store: &str| {
            let store = store.to_owned();
            owners.clone().into_iter().map(move |owner| Shelf {
                is_archive,
                store: store.clone(),
                owner,
            })
        };
        let expected = of(false, "alone").chain(of(false, "roster")).chain(of(true, "mam"));
        assert_eq!(found, expected.collect::<Vec<_>>(), "{max}");
    }
}

async fn only_a_part_of_a_commit_is_applied_and_all_of_it_logged(storage: &dyn Storage) {
    let changes = vec![put("a", ROMEO, "", b"x"), put("a", JULIET, "", b"x")];
    let (entry, here) = (entry(1, changes.clone()), changes[..1].to_vec());
    storage.commit_part(vec![entry.clone()], here).await.unwrap();
    assert_eq!(storage.log_read(0, 1000).await.unwrap(), LogPage::Entries(vec![entry]));
    assert_eq!(storage.log_head().await.unwrap(), 1);
    assert_eq!(storage.get("a", ROMEO, "").await.unwrap(), Some(b"x".to_vec()));
    assert_eq!(storage.get("a", JULIET, "").await.unwrap(), None);
}

async fn big_values_and_empty_ones_come_back(storage: &dyn Storage) {
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    commit(storage, vec![put("blob", ROMEO, "big", &big), put("blob", ROMEO, "none", b"")]).await;
    assert_eq!(storage.get("blob", ROMEO, "big").await.unwrap(), Some(big));
    assert_eq!(storage.get("blob", ROMEO, "none").await.unwrap(), Some(vec![]));
}

async fn ten_thousand_rows_page_without_loss(storage: &dyn Storage) {
    let owner = |i: u32| format!("user{i:05}@chat.example");
    let entries: Vec<Entry> = (0..5_000u32)
        .map(|i| {
            let item = append("mam", ROMEO, u64::from(i), &i.to_be_bytes());
            entry(u64::from(i) + 1, vec![put("accounts", &owner(i), "", b"k"), item])
        })
        .collect();
    storage.commit_home(entries).await.unwrap();
    let mut owners = Vec::new();
    loop {
        let last = owners.last().cloned();
        let page = storage.owners("accounts", last.as_deref(), 700).await.unwrap();
        if page.is_empty() {
            break;
        }
        owners.extend(page);
    }
    assert!(owners.iter().eq((0..5_000).map(owner).collect::<Vec<_>>().iter()));
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = storage.archive("mam", ROMEO, Page::after(after, 333)).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        ids.extend(page.into_iter().map(|(id, _)| id));
    }
    assert!(ids.into_iter().eq(0..5_000));
    let (mut places, mut after): (Vec<Place>, _) = (Vec::new(), None);
    loop {
        let page = storage.rows(after.take(), 10_000).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        places.extend(page.into_iter().map(|(place, _)| place));
    }
    assert_eq!(places.len(), 10_000);
    assert!(places.is_sorted());
    let (mut seqs, mut after) = (Vec::new(), 0);
    loop {
        let LogPage::Entries(page) = storage.log_read(after, 20_000).await.unwrap() else {
            panic!("nothing was trimmed")
        };
        let Some(last) = page.last() else { break };
        after = last.seq;
        seqs.extend(page.into_iter().map(|entry| entry.seq));
    }
    assert!(seqs.into_iter().eq(1..=5_000));
}

async fn the_log_is_dense_and_trims_to_its_newest_entry(storage: &dyn Storage) {
    assert_eq!(storage.log_head().await.unwrap(), 0);
    assert_eq!(storage.log_read(0, 1000).await.unwrap(), LogPage::Entries(vec![]));
    let gap = storage.commit_home(vec![entry(2, vec![put("a", ROMEO, "", b"x")])]).await;
    assert!(matches!(gap, Err(StorageError::Order { expected: 1, found: 2 })));
    assert_eq!(storage.get("a", ROMEO, "").await.unwrap(), None);
    let all: Vec<Entry> =
        (1..=5).map(|seq| entry(seq, vec![put("a", ROMEO, "", &[seq as u8])])).collect();
    storage.commit_home(all[..3].to_vec()).await.unwrap();
    storage.commit_home(all[3..].to_vec()).await.unwrap();
    assert_eq!(storage.log_head().await.unwrap(), 5);
    assert_eq!(storage.log_read(0, 1 << 20).await.unwrap(), LogPage::Entries(all.clone()));
    assert_eq!(storage.log_read(3, 1).await.unwrap(), LogPage::Entries(all[3..4].to_vec()));
    assert_eq!(storage.log_read(9, 1000).await.unwrap(), LogPage::Entries(vec![]));
    storage.log_trim(2).await.unwrap();
    assert_eq!(storage.log_read(1, 1000).await.unwrap(), LogPage::Trimmed);
    assert_eq!(storage.log_read(2, 1 << 20).await.unwrap(), LogPage::Entries(all[2..].to_vec()));
    storage.log_trim(u64::MAX).await.unwrap();
    assert_eq!(storage.log_head().await.unwrap(), 5);
    assert_eq!(storage.log_read(4, 1000).await.unwrap(), LogPage::Entries(all[4..].to_vec()));
}

async fn applying_moves_the_position_and_not_our_log(storage: &dyn Storage) {
    assert_eq!(storage.applied("us").await.unwrap(), None);
    let position = Position { log: u64::MAX, seq: 2 };
    let entries = vec![entry(1, vec![put("a", ROMEO, "", b"1")]), entry(2, vec![])];
    storage.apply("us", position, entries.clone()).await.unwrap();
    storage.apply("us", position, entries).await.unwrap();
    assert_eq!(storage.applied("us").await.unwrap(), Some(position));
    assert_eq!(storage.applied("eu").await.unwrap(), None);
    assert_eq!(storage.get("a", ROMEO, "").await.unwrap(), Some(b"1".to_vec()));
    assert_eq!(storage.log_head().await.unwrap(), 0);
}

async fn a_write_that_is_dropped_happens_whole_or_not_at_all(storage: &dyn Storage) {
    for polls in 0..40u32 {
        let head = storage.log_head().await.unwrap();
        let changes = (0..150).map(|i| put("a", ROMEO, &format!("{polls}-{i}"), b"x")).collect();
        let mut commit = Some(storage.commit_home(vec![entry(head + 1, changes)]));
        let mut left = polls;
        std::future::poll_fn(|context| {
            let (Some(future), true) = (commit.as_mut(), left > 0) else {
                commit = None;
                return Poll::Ready(());
            };
            left -= 1;
            future.as_mut().poll(context).map(drop)
        })
        .await;
        drop(commit);
        let found = storage.map("a", ROMEO).await.unwrap();
        let mine = found.iter().filter(|(key, _)| key.starts_with(&format!("{polls}-"))).count();
        // What was on its way may still have been committed; the next write waits for it.
        commit_marker(storage).await;
        let now = storage.map("a", ROMEO).await.unwrap();
        let later = now.iter().filter(|(key, _)| key.starts_with(&format!("{polls}-"))).count();
        assert!(mine == 0 || mine == 150, "{polls}: {mine}");
        assert!(later == 0 || later == 150, "{polls}: {later}");
        let LogPage::Entries(log) = storage.log_read(head, 1 << 20).await.unwrap() else {
            panic!("nothing was trimmed")
        };
        let logged = log.iter().any(|entry| entry.changes.len() == 150);
        assert_eq!(logged, later == 150, "{polls}: the log and the rows go together");
    }
}

/// A further commit, after whatever was interrupted has come to rest.
async fn commit_marker(storage: &dyn Storage) {
    loop {
        let seq = storage.log_head().await.unwrap() + 1;
        match storage.commit_home(vec![entry(seq, vec![put("b", ROMEO, "", b"x")])]).await {
            Ok(()) => return,
            Err(StorageError::Order { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn reads_at_the_same_time_each_get_their_own(storage: &dyn Storage) {
    let owner = |i: usize| format!("user{i}@chat.example");
    let changes = (0..300).flat_map(|i| {
        [put("a", &owner(i), "", owner(i).as_bytes()), put("m", &owner(i), "k", &[i as u8])]
    });
    commit(storage, changes.collect()).await;
    let gets = join_all((0..400).map(|i| async move { storage.get("a", &owner(i), "").await }));
    let maps = join_all((0..400).map(|i| async move { storage.map("m", &owner(i)).await }));
    let (gets, maps) = futures_util::join!(gets, maps);
    for (i, (get, map)) in gets.into_iter().zip(maps).enumerate() {
        let there = i < 300;
        assert_eq!(get.unwrap(), there.then(|| owner(i).into_bytes()));
        assert_eq!(map.unwrap().first().map(|(_, v)| v[0]), there.then_some(i as u8));
    }
}

async fn a_range_is_replaced_for_its_owners_only(storage: &dyn Storage) {
    let rows = |owner| {
        vec![
            put("a", owner, "1", b"old"),
            put("a", owner, "2", b"old"),
            put("z", owner, "", b"old"),
            append("a", owner, 1, b"old"),
            append("z", owner, 2, b"old"),
        ]
    };
    commit(storage, [rows(ROMEO), rows(JULIET)].concat()).await;
    let value = |s: &str, o: &str, k: &str| Place::Value(s.into(), o.into(), k.into());
    let item = |s: &str, o: &str, id| Place::Item(s.into(), o.into(), id);
    let owned = |owner: &str| owner == ROMEO;
    // The map rows up to a/romeo/2, then everything beyond it.
    let to = value("a", ROMEO, "2");
    let new = vec![
        (value("a", ROMEO, "0"), b"new".to_vec()),
        (value("a", JULIET, "1"), b"not taken".to_vec()),
    ];
    let first = Replace { from: None, to: Some(to.clone()), owned: &owned, rows: new };
    let gone = storage.replace(first).await.unwrap();
    assert_eq!(gone, [value("a", ROMEO, "1"), value("a", ROMEO, "2")]);
    assert_eq!(storage.map("a", ROMEO).await.unwrap(), [("0".to_owned(), b"new".to_vec())]);
    assert_eq!(storage.get("z", ROMEO, "").await.unwrap(), Some(b"old".to_vec()));
    let new = vec![(item("a", ROMEO, 7), b"new".to_vec())];
    storage.replace(Replace { from: Some(to), to: None, owned: &owned, rows: new }).await.unwrap();
    let left = storage.rows(None, 1 << 20).await.unwrap().into_iter().map(|(place, _)| place);
    let left: Vec<Place> = left.filter(|place| matches!(place, Place::Value(..))).collect();
    let values = [("a", JULIET, "1"), ("a", JULIET, "2"), ("a", ROMEO, "0"), ("z", JULIET, "")];
    assert_eq!(left, values.map(|(s, o, k)| value(s, o, k)));
    assert_eq!(storage.archive_len("a", ROMEO).await.unwrap(), 1);
    assert_eq!(storage.archive_len("z", ROMEO).await.unwrap(), 0);
    assert_eq!(storage.archive_len("z", JULIET).await.unwrap(), 1);
    // Between two archive places, exclusive and inclusive.
    let (from, to) = (Some(item("a", ROMEO, 6)), Some(item("a", ROMEO, 7)));
    storage.replace(Replace { from, to, owned: &owned, rows: vec![] }).await.unwrap();
    assert_eq!(storage.archive_len("a", ROMEO).await.unwrap(), 0);
    assert_eq!(storage.archive_len("a", JULIET).await.unwrap(), 1);
}

async fn facts_about_the_database_are_kept(storage: &dyn Storage) {
    assert_eq!(storage.meta("log").await.unwrap(), None);
    storage.set_meta("log", vec![1]).await.unwrap();
    storage.set_meta("log", vec![2]).await.unwrap();
    assert_eq!(storage.meta("log").await.unwrap(), Some(vec![2]));
}

/// One case against one backend, with a fresh, empty database. `file`: always; `server`: when there is one.
macro_rules! case {
    (file, $case:ident, $open:expr) => {
        #[tokio::test]
        async fn $case() {
            let (storage, _keep) = $open.await;
            super::$case(&*storage).await;
        }
    };
    (server, $case:ident, $open:expr) => {
        #[tokio::test]
        #[ignore = "needs a server: tests/databases/main.rs"]
        async fn $case() {
            let (storage, _keep) = $open.await;
            super::$case(&*storage).await;
        }
    };
}

/// Runs these cases against one backend.
macro_rules! backend {
    // Nobody divides further what is divided.
    (whole, $backend:ident, $needs:ident, $open:expr) => {
        mod $backend {
            case!($needs, only_a_part_of_a_commit_is_applied_and_all_of_it_logged, $open);
        }
    };
    ($backend:ident, $needs:ident, $open:expr, [$($case:ident),* $(,)?]) => {
        mod $backend {
            $(case!($needs, $case, $open);)*
        }
    };
}

macro_rules! all_cases {
    ($backend:ident, $needs:ident, $open:expr) => {
        backend!(
            $backend,
            $needs,
            $open,
            [
                a_value_is_read_back_replaced_and_deleted,
                a_map_comes_in_the_order_of_its_keys,
                an_archive_pages_both_ways,
                changes_of_one_entry_happen_in_order,
                long_keys_and_those_like_them_are_told_apart,
                big_values_and_empty_ones_come_back,
                ten_thousand_rows_page_without_loss,
                shelves_are_found_in_order_and_once,
                the_log_is_dense_and_trims_to_its_newest_entry,
                applying_moves_the_position_and_not_our_log,
                a_write_that_is_dropped_happens_whole_or_not_at_all,
                reads_at_the_same_time_each_get_their_own,
                a_range_is_replaced_for_its_owners_only,
                facts_about_the_database_are_kept,
                an_outbox_is_one_nodes_and_keeps_its_order,
                an_outbox_is_moved_over_what_was_moved_before,
            ]
        );
    };
}

async fn open_memory() -> (Arc<dyn Storage>, ()) {
    (Arc::new(Memory::default()), ())
}

async fn open_sqlite() -> (Arc<dyn Storage>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = SqliteConfig::new(dir.path().join("suite.sqlite"));
    config.sync = false;
    (Arc::new(Sqlite::open(config).await.unwrap()), dir)
}

/// The configuration of a new, empty database on the server whose URL the environment has.
async fn new_database(variable: &str) -> config::Storage {
    let url = std::env::var(variable).expect("the URL of a server");
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).unwrap();
    let name = format!("suite_{:016x}", u64::from_le_bytes(random));
    let database = match Database::parse(&url) {
        Some(Database::Postgres(url)) => {
            assert!(postgres::create(url.expose(), &name).await.unwrap());
            assert!(!postgres::create(url.expose(), &name).await.unwrap(), "it is there");
            Database::Postgres(url.with_name(&name))
        }
        Some(Database::Mysql(url)) => {
            assert!(mysql::create(url.expose(), &name).await.unwrap());
            assert!(!mysql::create(url.expose(), &name).await.unwrap(), "it is there");
            Database::Mysql(url.with_name(&name))
        }
        other => panic!("{other:?}"),
    };
    config::Storage::of(database)
}

async fn open_server(variable: &str) -> (Arc<dyn Storage>, ()) {
    (open::open(&new_database(variable).await).await.unwrap(), ())
}

async fn what_is_not_there_is_said_without_the_password(variable: &str) {
    let mut config = new_database(variable).await;
    let nowhere = |url: &config::DatabaseUrl| url.with_name("no_such_database");
    config.database = match config.database {
        Database::Postgres(url) => Database::Postgres(nowhere(&url)),
        Database::Mysql(url) => Database::Mysql(nowhere(&url)),
        sqlite @ Database::Sqlite(_) => sqlite,
    };
    let error = open::open(&config).await.err().unwrap().to_string();
    assert!(error.contains("no_such_database") && !error.contains("secret"), "{error}");
}

/// With `sslmode` or `ssl-mode` in the URL.
async fn a_server_of_another_authority_is_refused(variable: &str) {
    let config = new_database(variable).await;
    let (url, another) = match &config.database {
        Database::Postgres(url) => (url, "sslmode=verify-full"),
        Database::Mysql(url) => (url, "ssl-mode=VERIFY_IDENTITY"),
        Database::Sqlite(_) => panic!("it is a file"),
    };
    let (before, _) = url.expose().split_once('?').expect("TLS is asked for");
    let database = Database::parse(&format!("{before}?{another}")).unwrap();
    let error = open::open(&config::Storage::of(database)).await.err().unwrap().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
}

all_cases!(memory, file, super::open_memory());
backend!(whole, memory_whole, file, super::open_memory());
backend!(whole, sqlite_whole, file, super::open_sqlite());
all_cases!(three_memories, file, super::open_three_memories());
all_cases!(three_sqlites, file, super::open_three_sqlites());
all_cases!(postgres_three_servers, server, super::open_three_servers("PANGAEA_TEST_POSTGRES"));
all_cases!(mysql_three_servers, server, super::open_three_servers("PANGAEA_TEST_MYSQL"));
backend!(whole, postgres_server_whole, server, super::open_server("PANGAEA_TEST_POSTGRES"));
backend!(whole, mysql_server_whole, server, super::open_server("PANGAEA_TEST_MYSQL"));
all_cases!(sqlite, file, super::open_sqlite());
all_cases!(postgres_server, server, super::open_server("PANGAEA_TEST_POSTGRES"));
all_cases!(mysql_server, server, super::open_server("PANGAEA_TEST_MYSQL"));

/// What only servers do.
macro_rules! of_servers {
    ($backend:ident, $variable:literal, [$($case:ident),* $(,)?]) => {
        mod $backend {
            $(
                #[tokio::test]
                #[ignore = "needs a server: tests/databases/main.rs"]
                async fn $case() {
                    super::$case($variable).await;
                }
            )*
        }
    };
}

of_servers!(
    postgres_alone,
    "PANGAEA_TEST_POSTGRES",
    [
        several_open_a_new_database_at_once,
        an_older_one_is_brought_up_to_this,
        one_of_a_newer_version_is_refused,
        a_stand_in_that_lacks_something_is_refused,
        what_is_not_there_is_said_without_the_password,
        a_server_of_another_authority_is_refused,
    ]
);
of_servers!(
    mysql_alone,
    "PANGAEA_TEST_MYSQL",
    [
        several_open_a_new_database_at_once,
        an_older_one_is_brought_up_to_this,
        one_of_a_newer_version_is_refused,
        a_stand_in_that_lacks_something_is_refused,
        what_is_not_there_is_said_without_the_password,
        a_server_of_another_authority_is_refused,
    ]
);
