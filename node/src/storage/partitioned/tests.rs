//! Partitions that are away, behind, lost, added and taken out; slots that move while everything runs, and a crash in the middle.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

use futures_util::future::ready;
use replication::{Hlc, shard_of};

use super::begin::META_PART;
use super::map::Moving;
use super::*;
use crate::storage::Trouble;
use crate::storage::memory::Memory;

/// A database that may be away.
#[derive(Default)]
struct Shaky {
    memory: Memory,
    is_away: AtomicBool,
    writes: AtomicU64,
}

impl Shaky {
    fn go(&self, away: bool) {
        self.is_away.store(away, Ordering::SeqCst);
    }

    fn is_there<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        if self.is_away.load(Ordering::SeqCst) {
            let (name, cause) = ("shaky".to_owned(), "pulled".to_owned());
            let error = StorageError::Unavailable { name, trouble: Trouble::Gone, cause };
            return ready(Err(error)).boxed();
        }
        answer
    }

    fn written<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.is_there(answer)
    }
}

impl Storage for Shaky {
    fn get<'a>(&'a self, s: &'a str, o: &'a str, k: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.is_there(self.memory.get(s, o, k))
    }
    fn map<'a>(&'a self, s: &'a str, o: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        self.is_there(self.memory.map(s, o))
    }
    fn archive<'a>(&'a self, s: &'a str, o: &'a str, p: Page) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.is_there(self.memory.archive(s, o, p))
    }
    fn archive_count<'a>(&'a self, s: &'a str, o: &'a str, p: Page) -> Answer<'a, u64> {
        self.is_there(self.memory.archive_count(s, o, p))
    }
    fn archive_len<'a>(&'a self, s: &'a str, o: &'a str) -> Answer<'a, u64> {
        self.is_there(self.memory.archive_len(s, o))
    }
    fn owners<'a>(&'a self, s: &'a str, a: Option<&'a str>, m: usize) -> Answer<'a, Vec<String>> {
        self.is_there(self.memory.owners(s, a, m))
    }
    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        self.written(self.memory.commit_home(entries))
    }
    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        self.written(self.memory.commit_part(entries, here))
    }
    fn apply<'a>(&'a self, home: &'a str, at: Position, entries: Vec<Entry>) -> Answer<'a, ()> {
        self.written(self.memory.apply(home, at, entries))
    }
    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        self.is_there(self.memory.applied(home))
    }
    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.is_there(self.memory.log_read(after, bytes_max))
    }
    fn log_head(&self) -> Answer<'_, u64> {
        self.is_there(self.memory.log_head())
    }
    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        self.written(self.memory.log_trim(upto))
    }
    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        self.is_there(self.memory.rows(after, bytes_max))
    }
    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        self.is_there(self.memory.shelves(after, max))
    }
    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        self.written(self.memory.replace(replace))
    }
    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.is_there(self.memory.outbox(node))
    }
    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        self.written(self.memory.outbox_write(node, put, remove))
    }
    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        self.is_there(self.memory.positions())
    }
    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        self.written(self.memory.outbox_move(from, to))
    }
    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        self.is_there(self.memory.scribe())
    }
    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        self.written(self.memory.take_pen(former, term, node))
    }
    fn beat(&self) -> Answer<'_, ()> {
        self.written(self.memory.beat())
    }
    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.is_there(self.memory.meta(key))
    }
    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        self.written(self.memory.set_meta(key, value))
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

fn quick() -> Settings {
    Settings {
        patience: Duration::from_millis(300),
        lag: Duration::from_millis(200),
        hold: Duration::from_millis(50),
    }
}

/// With slots in all of them, for the suite.
pub(in crate::storage) async fn mixed(
    main: Arc<dyn Storage>,
    parts: Vec<Arc<dyn Storage>>,
) -> Partitioned {
    let mut map = Map::new(77);
    map.partitions = u8::try_from(parts.len()).unwrap();
    map.version = 5;
    for (slot, number) in map.slots.iter_mut().enumerate() {
        *number = u8::try_from(slot % (parts.len() + 1)).unwrap();
    }
    main.set_meta(META_MAP, map.encode()).await.unwrap();
    for (number, part) in (1u8..).zip(&parts) {
        let own = postcard::to_stdvec(&(map.identity, number)).unwrap();
        part.set_meta(META_PART, own).await.unwrap();
    }
    unsigned(main, parts, Settings { patience: Duration::from_secs(5), ..quick() }).await.unwrap()
}

async fn open(
    main: Arc<dyn Storage>,
    parts: Vec<Arc<dyn Storage>>,
) -> Result<Partitioned, StorageError> {
    open_with(main, parts, Settings { patience: Duration::from_secs(5), ..quick() }).await
}

async fn open_with(
    main: Arc<dyn Storage>,
    parts: Vec<Arc<dyn Storage>>,
    settings: Settings,
) -> Result<Partitioned, StorageError> {
    let storage = unsigned(main, parts, settings).await?;
    let former = storage.scribe().await?.map_or(0, |scribe| scribe.term);
    assert!(storage.take_pen(former, former + 1, "eu-0").await?);
    Ok(storage)
}

/// A handle that has not taken the pen.
async fn unsigned(
    main: Arc<dyn Storage>,
    parts: Vec<Arc<dyn Storage>>,
    settings: Settings,
) -> Result<Partitioned, StorageError> {
    let named = (1..).zip(parts).map(|(number, part)| (format!("part{number}"), part));
    Partitioned::open(("main".to_owned(), main), named.collect(), settings).await
}

/// An owner whose slot is that, in the map as `mixed` makes it.
fn owner_in(number: usize) -> String {
    let mut names = (0..).map(|i| format!("user{i}@chat.example"));
    names.find(|owner| usize::from(shard_of(owner)) % 3 == number).unwrap()
}

fn put(owner: &str, key: &str, value: &[u8]) -> Change {
    let (key, value) = (key.to_owned(), value.to_vec());
    Change::Put { store: "roster".into(), owner: owner.to_owned(), key, value }
}

fn entry(seq: u64, changes: Vec<Change>) -> Entry {
    Entry { seq, shard: 0, epoch: 1, at: Hlc::new(seq, 0), changes }
}

async fn commit(storage: &dyn Storage, changes: Vec<Change>) -> u64 {
    let seq = storage.log_head().await.unwrap() + 1;
    storage.commit_home(vec![entry(seq, changes)]).await.unwrap();
    seq
}

struct Three {
    main: Arc<Shaky>,
    one: Arc<Shaky>,
    two: Arc<Shaky>,
}

impl Three {
    fn new() -> Three {
        Three { main: Arc::default(), one: Arc::default(), two: Arc::default() }
    }

    fn parts(&self) -> Vec<Arc<dyn Storage>> {
        vec![self.one.clone(), self.two.clone()]
    }

    async fn mixed(&self) -> Partitioned {
        drop(mixed(self.main.clone(), self.parts()).await);
        open_with(self.main.clone(), self.parts(), quick()).await.unwrap()
    }
}

fn is_away<T>(result: Result<T, StorageError>) -> bool {
    matches!(result, Err(StorageError::Unavailable { .. }))
}

/// Until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn while_one_is_away_only_its_owners_wait_and_nothing_acknowledged_is_lost() {
    let three = Three::new();
    let storage = three.mixed().await;
    let [main, one, two] = [0, 1, 2].map(owner_in);
    for owner in [&main, &one, &two] {
        commit(&storage, vec![put(owner, "a", b"1")]).await;
    }
    three.one.go(true);
    // In the log, and thereby done.
    let all = [&main, &one, &two].map(|owner| put(owner, "b", b"2"));
    commit(&storage, all.into()).await;
    assert!(storage.refuses(&one).is_some());
    assert!(storage.refuses(&two).is_none() && storage.refuses(&main).is_none());
    assert!(is_away(storage.map("roster", &one).await), "never without what was acknowledged");
    for owner in [&main, &two] {
        assert_eq!(storage.map("roster", owner).await.unwrap().len(), 2);
    }
    // Other regions' changes of its owners wait too, and do not hold up the others'.
    let at = |seq| Position { log: 9, seq };
    for seq in 1..4 {
        let key = format!("us{seq}");
        let changes = [&main, &one, &two].map(|owner| put(owner, &key, b"3"));
        storage.apply("us", at(seq), vec![entry(seq, changes.into())]).await.unwrap();
    }
    assert_eq!(storage.applied("us").await.unwrap(), Some(at(3)));
    assert_eq!(storage.map("roster", &two).await.unwrap().len(), 5);
    assert!(is_away(storage.owners("roster", None, 10).await));
    // The log is kept for it.
    storage.log_trim(u64::MAX).await.unwrap();
    assert!(matches!(storage.log_read(3, 1).await.unwrap(), LogPage::Entries(_)));
    let away = &storage.status()[1];
    assert!(away.away.as_ref().is_some_and(|why| why.contains("pulled")), "{away:?}");
    three.one.go(false);
    until("it is back", || storage.refuses(&one).is_none()).await;
    let found = storage.map("roster", &one).await.unwrap();
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "us1", "us2", "us3"]);
    assert!(three.main.memory.outbox("~partition-1").await.unwrap().is_empty());
    storage.log_trim(u64::MAX).await.unwrap();
    assert_eq!(storage.log_read(2, 1).await.unwrap(), LogPage::Trimmed);
}

#[tokio::test]
async fn what_the_log_has_is_applied_after_a_restart_before_anything_is_read() {
    let three = Three::new();
    let storage = three.mixed().await;
    let one = owner_in(1);
    commit(&storage, vec![put(&one, "a", b"1")]).await;
    three.one.go(true);
    commit(&storage, vec![put(&one, "b", b"2")]).await;
    let us = Position { log: 9, seq: 1 };
    storage.apply("us", us, vec![entry(1, vec![put(&one, "c", b"3")])]).await.unwrap();
    drop(storage);
    three.one.go(false);
    let storage = open(three.main.clone(), three.parts()).await.unwrap();
    assert_eq!(storage.map("roster", &one).await.unwrap().len(), 3);
    // What it had is not done again.
    storage.apply("us", us, vec![entry(1, vec![put(&one, "c", b"older")])]).await.unwrap();
    assert_eq!(storage.get("roster", &one, "c").await.unwrap(), Some(b"3".to_vec()));
}

#[tokio::test]
async fn a_new_database_is_divided_at_once_and_an_old_one_stays_where_it_is() {
    let three = Three::new();
    let storage = open(three.main.clone(), three.parts()).await.unwrap();
    let slots =
        |storage: &Partitioned| storage.status().iter().map(|part| part.slots).collect::<Vec<_>>();
    assert_eq!(slots(&storage), [0, 128, 128]);
    let other = Three::new();
    other.main.memory.commit_home(vec![entry(1, vec![put("a@b", "k", b"v")])]).await.unwrap();
    let storage = open(other.main.clone(), other.parts()).await.unwrap();
    assert_eq!(slots(&storage), [256, 0, 0]);
    assert_eq!(storage.get("roster", "a@b", "k").await.unwrap(), Some(b"v".to_vec()));
}

#[tokio::test]
async fn a_database_that_is_not_the_partition_it_was_is_refused() {
    let three = Three::new();
    drop(open(three.main.clone(), three.parts()).await.unwrap());
    let why = async |parts: Vec<Arc<dyn Storage>>| {
        open(three.main.clone(), parts)
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert!(why(vec![three.two.clone(), three.one.clone()]).await.contains("not partition 1"));
    let empty: Arc<dyn Storage> = Arc::new(Memory::default());
    assert!(why(vec![three.one.clone(), empty.clone()]).await.contains("not the partition 2"));
    assert!(why(vec![three.one.clone()]).await.contains("in partition 2"));
    let used = Memory::default();
    used.commit_home(vec![entry(1, vec![put("a@b", "k", b"v")])]).await.unwrap();
    let three_more = vec![three.one.clone(), three.two.clone(), Arc::new(used) as Arc<dyn Storage>];
    assert!(why(three_more).await.contains("has rows"));
    assert_eq!(why(vec![three.one.clone(), three.two.clone(), empty]).await, "");
    assert_eq!(Partitioned::elsewhere(&*three.main).await.unwrap(), 256);
}

/// The databases of a region, and a handle of each of its nodes.
fn nodes(count: usize) -> Vec<[Memory; 3]> {
    let all: [Memory; 3] = Default::default();
    (0..count).map(|_| all.each_ref().map(Memory::shared)).collect()
}

async fn handle([main, one, two]: [Memory; 3]) -> Partitioned {
    let parts: Vec<Arc<dyn Storage>> = vec![Arc::new(one), Arc::new(two)];
    unsigned(Arc::new(main), parts, quick()).await.unwrap()
}

#[tokio::test]
async fn one_node_writes_and_the_others_read_what_they_were_told_of() {
    let mut nodes = nodes(3).into_iter();
    let mut next = async || handle(nodes.next().unwrap()).await;
    let (scribe, reader, late) = (next().await, next().await, next().await);
    assert!(scribe.take_pen(0, 5, "eu-0").await.unwrap());
    let user = |i: usize| format!("user{i}@chat.example");
    let changes: Vec<Change> = (0..40).map(|i| put(&user(i), "a", b"1")).collect();
    let first = entry(1, changes);
    scribe.commit_home(vec![first.clone()]).await.unwrap();
    // It has not looked at the map since that was made, and asks.
    reader.heard(None, Position { log: 1, seq: 1 }, &[first]);
    for i in 0..40 {
        assert_eq!(reader.map("roster", &user(i)).await.unwrap().len(), 1, "{i}");
    }
    // What is not there yet is waited for, and not read without.
    let second = entry(2, (0..40).map(|i| put(&user(i), "b", b"2")).collect());
    reader.heard(None, Position { log: 1, seq: 2 }, std::slice::from_ref(&second));
    let in_part = (0..40).map(user).find(|user| scribe.shared.view().at(user) == 1).unwrap();
    assert!(is_away(reader.map("roster", &in_part).await));
    scribe.commit_home(vec![second]).await.unwrap();
    assert_eq!(reader.map("roster", &in_part).await.unwrap().len(), 2);
    assert!(matches!(reader.rebalance(&[]).await, Err(NotMoved::Elsewhere)));
    // Another takes over; the first cannot write any more, also not into a partition.
    assert!(late.take_pen(5, 9, "eu-2").await.unwrap());
    assert_eq!(late.map("roster", &in_part).await.unwrap().len(), 2);
    let third = vec![entry(3, vec![put(&in_part, "c", b"3")])];
    let own = scribe.shared.parts[0].storage.clone();
    let at = Position { log: 1, seq: 3 };
    assert!(matches!(own.apply("~log", at, third.clone()).await, Err(StorageError::Superseded)));
    let refused = scribe.commit_home(third.clone()).await;
    assert!(matches!(refused, Err(StorageError::Superseded)), "{refused:?}");
    late.commit_home(third).await.unwrap();
    assert_eq!(late.map("roster", &in_part).await.unwrap().len(), 3);
    assert_eq!(scribe.map("roster", &in_part).await.unwrap().len(), 3, "it reads");
    assert!(scribe.take_pen(9, 12, "eu-0").await.unwrap(), "it comes back");
    commit(&scribe, vec![put(&in_part, "d", b"4")]).await;
    assert_eq!(scribe.map("roster", &in_part).await.unwrap().len(), 4);
}

#[tokio::test]
async fn another_takes_over_while_a_partition_is_away() {
    let three = Three::new();
    let storage = three.mixed().await;
    let [main, one, two] = [0, 1, 2].map(owner_in);
    three.one.go(true);
    commit(&storage, [&main, &one, &two].map(|owner| put(owner, "a", b"1")).into()).await;
    drop(storage);
    let memories = [&three.main, &three.one, &three.two].map(|shaky| shaky.memory.shared());
    let [a, b, c] = memories.map(|memory| Arc::new(Shaky { memory, ..Shaky::default() }));
    let storage = unsigned(a, vec![b.clone(), c], quick()).await.unwrap();
    b.go(true);
    let term = storage.scribe().await.unwrap().unwrap().term;
    assert!(storage.take_pen(term, term + 1, "eu-1").await.unwrap());
    commit(&storage, [&main, &two].map(|owner| put(owner, "b", b"2")).into()).await;
    assert_eq!(storage.map("roster", &main).await.unwrap().len(), 2);
    assert_eq!(storage.map("roster", &two).await.unwrap().len(), 2);
    assert!(is_away(storage.map("roster", &one).await));
    b.go(false);
    until("it is back", || storage.shared.is_in_sync(1)).await;
    assert_eq!(storage.map("roster", &one).await.unwrap().len(), 1);
}

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

#[tokio::test]
async fn a_whole_copy_goes_where_its_owners_are() {
    let three = Three::new();
    let storage = three.mixed().await;
    let owners = [0, 1, 2].map(owner_in);
    commit(&storage, owners.iter().map(|owner| put(owner, "old", b"1")).collect()).await;
    let rows = owners
        .iter()
        .map(|owner| (Place::Value("roster".into(), owner.clone(), "new".into()), b"2".to_vec()));
    let mut rows: Vec<Row> = rows.collect();
    rows.sort();
    let replace = Replace { from: None, to: None, owned: &|_| true, rows };
    let gone = storage.replace(replace).await.unwrap();
    assert_eq!(gone.len(), 3);
    storage.apply("us", Position { log: 3, seq: 40 }, vec![]).await.unwrap();
    for owner in &owners {
        assert_eq!(
            storage.map("roster", owner).await.unwrap(),
            [("new".to_owned(), b"2".to_vec())]
        );
    }
    for part in [&three.one, &three.two] {
        assert_eq!(part.memory.applied("us").await.unwrap(), Some(Position { log: 3, seq: 40 }));
    }
}
