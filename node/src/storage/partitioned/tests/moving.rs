//! Slots that move while everything runs, and a crash in the middle.

use std::collections::BTreeMap;

use super::super::map::Moving;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_slots_move_another_node_reads_what_is_right() {
    let mut nodes = nodes(2).into_iter();
    let mut next = async || handle(nodes.next().unwrap()).await;
    let (scribe, reader) = (Arc::new(next().await), next().await);
    let user = |i: usize| format!("user{i}@chat.example");
    let changes = (0..100).map(|i| put(&user(i), "a", b"1")).collect();
    scribe.shared.main.commit_home(vec![entry(1, changes)]).await.unwrap();
    assert!(scribe.take_pen(0, 5, "eu-0").await.unwrap());
    // It looks at the map as often as it must, for the time that is held.
    scribe.rebalance(&[]).await.unwrap();
    let mut reads = 0;
    while scribe.moves().is_running {
        let who = user(reads % 100);
        assert_eq!(reader.map("roster", &who).await.unwrap().len(), 1, "{who}");
        reads += 1;
    }
    assert!(reads > 100, "{reads}");
    assert_eq!(reader.owners("roster", None, 1_000).await.unwrap().len(), 100);
}

/// What is to be found, by owner and key.
type Expected = Arc<Mutex<BTreeMap<(String, String), Vec<u8>>>>;

/// Somebody writes all the time, and reads what they wrote.
struct Load {
    storage: Arc<Partitioned>,
    expected: Expected,
    enough: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Load {
    fn begin(storage: &Arc<Partitioned>) -> Load {
        let (storage, enough) = (storage.clone(), Arc::new(AtomicBool::new(false)));
        let expected = Arc::new(Mutex::new(BTreeMap::new()));
        let task = tokio::spawn(load(storage.clone(), expected.clone(), enough.clone()));
        Load { storage, expected, enough, task }
    }

    async fn end(self) -> u64 {
        self.enough.store(true, Ordering::SeqCst);
        let count = self.task.await.unwrap();
        let expected = self.expected.lock().clone();
        for ((owner, key), value) in &expected {
            let found = self.storage.get("roster", owner, key).await.unwrap();
            assert_eq!(found.as_ref(), Some(value), "{owner} {key}");
        }
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = self.storage.rows(after, 4_000).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            rows.extend(page);
        }
        let values = rows.iter().filter(|(place, _)| matches!(place, Place::Value(..)));
        assert_eq!(values.count(), expected.len(), "each row once");
        count
    }
}

async fn load(storage: Arc<Partitioned>, expected: Expected, enough: Arc<AtomicBool>) -> u64 {
    let (mut count, mut foreign) = (0u64, 0u64);
    while !enough.load(Ordering::SeqCst) {
        count += 1;
        let owner = format!("user{}@chat.example", count * 7 % 600);
        let (key, value) = (format!("k{}", count % 5), count.to_be_bytes().to_vec());
        let mut changes = vec![put(&owner, &key, &value)];
        let at = (owner.clone(), key.clone());
        if count % 11 == 0 {
            let gone = format!("k{}", (count + 1) % 5);
            changes.push(Change::Delete {
                store: "roster".into(),
                owner: owner.clone(),
                key: gone.clone(),
            });
            expected.lock().remove(&(owner.clone(), gone));
        }
        let append = Change::Append {
            store: "mam".into(),
            owner: owner.clone(),
            id: count,
            value: value.clone(),
        };
        if count % 3 == 0 {
            // Another region's.
            foreign += 1;
            changes.push(append);
            let position = Position { log: 4, seq: foreign };
            storage.apply("us", position, vec![entry(foreign, changes)]).await.unwrap();
        } else {
            changes.push(append);
            commit(&*storage, changes).await;
        }
        assert_eq!(storage.get("roster", &owner, &key).await.unwrap(), Some(value.clone()));
        let newest = storage.archive("mam", &owner, Page::before(None, 1)).await.unwrap();
        assert_eq!(newest, [(count, value.clone())], "{count}");
        expected.lock().insert(at, value);
        tokio::task::yield_now().await;
    }
    count
}

async fn archived(storage: &Partitioned) -> u64 {
    let mut all = 0;
    for user in 0..600 {
        all += storage.archive_len("mam", &format!("user{user}@chat.example")).await.unwrap();
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_under_load_and_everything_adds_up() {
    let three = Three::new();
    let changes = (0..600).map(|user| put(&format!("user{user}@chat.example"), "old", b"old"));
    three.main.memory.commit_home(vec![entry(1, changes.collect())]).await.unwrap();
    let storage = Arc::new(open(three.main.clone(), three.parts()).await.unwrap());
    let load = Load::begin(&storage);
    for user in 0..600 {
        let at = (format!("user{user}@chat.example"), "old".to_owned());
        load.expected.lock().insert(at, b"old".to_vec());
    }
    assert_eq!(storage.rebalance(&[]).await.unwrap(), 256);
    until("all have moved", || !storage.moves().is_running).await;
    let moves = storage.moves();
    assert_eq!((moves.moved, moves.left, moves.trouble), (256, 0, None));
    let slots: Vec<usize> = storage.status().iter().map(|part| part.slots).collect();
    assert_eq!(slots, [0, 128, 128]);
    assert!(three.main.memory.rows(None, 1).await.unwrap().is_empty(), "nothing is left behind");
    // The second is taken out again.
    assert_eq!(storage.rebalance(&[2]).await.unwrap(), 128);
    until("all have moved", || !storage.moves().is_running).await;
    assert!(three.two.memory.rows(None, 1).await.unwrap().is_empty());
    assert!(matches!(storage.rebalance(&[3]).await, Err(NotMoved::Unknown(3))));
    let count = load.end().await;
    assert_eq!(archived(&storage).await, count, "each item once");
    drop(storage);
    let alone = open(three.main.clone(), vec![three.one.clone()]).await.unwrap();
    assert_eq!(archived(&alone).await, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_the_middle_of_a_move_loses_nothing() {
    let three = Three::new();
    three.main.memory.commit_home(vec![entry(1, vec![])]).await.unwrap();
    let mut expected: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    let mut count = 0u64;
    for life in 0..6u64 {
        let storage = Arc::new(open(three.main.clone(), three.parts()).await.unwrap());
        if life == 0 {
            storage.rebalance(&[]).await.unwrap();
        }
        for i in 0..300u64 {
            count += 1;
            let owner = format!("user{}@chat.example", i % 97);
            let (key, value) = (format!("{}", i % 7), count.to_be_bytes().to_vec());
            commit(&*storage, vec![put(&owner, &key, &value)]).await;
            expected.insert((owner, key), value);
        }
        // The process is gone; what stands in the databases is all there is.
        drop(storage);
    }
    let storage = open(three.main.clone(), three.parts()).await.unwrap();
    for ((owner, key), value) in &expected {
        assert_eq!(storage.get("roster", owner, key).await.unwrap().as_ref(), Some(value));
    }
    until("it has gone on by itself", || !storage.moves().is_running).await;
    let slots: Vec<usize> = storage.status().iter().map(|part| part.slots).collect();
    assert_eq!(slots, [0, 128, 128]);
    for ((owner, key), value) in &expected {
        assert_eq!(storage.get("roster", owner, key).await.unwrap().as_ref(), Some(value));
    }
}

#[tokio::test]
async fn a_move_that_began_is_begun_anew_and_leaves_no_rows_of_the_first_attempt() {
    let three = Three::new();
    let storage = three.mixed().await;
    let owner = owner_in(0);
    commit(&storage, vec![put(&owner, "a", b"1"), put(&owner, "b", b"1")]).await;
    drop(storage);
    // Half of it was copied, then the process died; a key that was copied is gone since.
    let mut map = Map::decode(&three.main.memory.meta(META_MAP).await.unwrap().unwrap()).unwrap();
    map.begin(Moving { slots: vec![shard_of(&owner)], from: MAIN, to: 1 });
    three.main.memory.set_meta(META_MAP, map.encode()).await.unwrap();
    let stale = vec![entry(1, vec![put(&owner, "gone", b"0")])];
    three.one.memory.apply("~move", Position::default(), stale).await.unwrap();
    let storage = open(three.main.clone(), three.parts()).await.unwrap();
    until("it has moved", || !storage.moves().is_running).await;
    let found = storage.map("roster", &owner).await.unwrap();
    assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(three.one.memory.map("roster", &owner).await.unwrap(), found);
    assert!(three.main.memory.map("roster", &owner).await.unwrap().is_empty());
}
