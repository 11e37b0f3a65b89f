//! Partitions that are away, behind, lost, added and taken out. Slots that move: `moving`.

mod moving;

use replication::{Hlc, shard_of};

use super::begin::META_PART;
use super::*;
use crate::storage::memory::Memory;
use crate::storage::shaky::Shaky;

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

#[tokio::test(start_paused = true)]
async fn one_that_does_not_follow_holds_up_the_first_commit_only() {
    let three = Three::new();
    let storage = three.mixed().await;
    let one = owner_in(1);
    let took = async |key: &str| {
        let began = Instant::now();
        commit(&storage, vec![put(&one, key, b"")]).await;
        began.elapsed()
    };
    let stuck = three.one.applying.lock().await;
    assert!(took("a").await >= quick().lag);
    assert!(storage.refuses(&one).is_some());
    assert!(took("b").await < quick().lag);
    drop(stuck);
    assert_eq!(storage.map("roster", &one).await.unwrap().len(), 2);
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
async fn after_a_renewal_a_partition_follows_the_log_from_what_it_has() {
    let three = Three::new();
    let storage = three.mixed().await;
    let one = owner_in(1);
    let first = commit(&storage, vec![put(&one, "a", b"1")]).await;
    commit(&storage, vec![put(&one, "b", b"2")]).await;
    until("it has followed", || storage.shared.is_in_sync(1)).await;
    // A stand-in that was an entry behind when it was asked.
    let position = Position { log: storage.shared.view().map.identity, seq: first };
    let gone = Change::Delete { store: "roster".into(), owner: one.clone(), key: "b".into() };
    let behind = three.one.memory.shared();
    behind.apply(part::OWN, position, vec![entry(first, vec![gone])]).await.unwrap();
    let database = config::Database::Sqlite("elsewhere".into());
    let config = config::Storage {
        partitions: vec![database.clone(), database.clone()],
        ..config::Storage::of(database)
    };
    storage.renew(&config).await.unwrap()();
    assert_eq!(storage.map("roster", &one).await.unwrap().len(), 2);
    commit(&storage, vec![put(&one, "c", b"3")]).await;
    assert_eq!(storage.map("roster", &one).await.unwrap().len(), 3);
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
    assert!(why(Vec::new()).await.contains("storage.partitions names 0"));
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
async fn a_node_that_was_told_of_no_partitions_neither_reads_nor_writes_what_is_there() {
    let [main, one, two] = nodes(1).remove(0);
    let plain = unsigned(Arc::new(main.shared()), Vec::new(), quick()).await.unwrap();
    let late = unsigned(Arc::new(main.shared()), Vec::new(), quick()).await.unwrap();
    assert!(plain.partitions().is_none());
    assert!(plain.take_pen(0, 1, "eu-1").await.unwrap());
    let owners: Vec<String> = (0..3).map(owner_in).collect();
    commit(&plain, owners.iter().map(|owner| put(owner, "a", b"1")).collect()).await;
    assert_eq!(plain.map("roster", &owners[0]).await.unwrap().len(), 1);
    assert_eq!(main.meta(META_MAP).await.unwrap(), None, "nothing is divided");

    let divided = handle([main.shared(), one, two]).await;
    assert!(divided.take_pen(1, 2, "eu-0").await.unwrap());
    divided.rebalance(&[]).await.unwrap();
    assert!(matches!(late.take_pen(2, 3, "eu-2").await, Err(StorageError::Open { .. })));
    until("all have moved", || !divided.moves().is_running).await;
    assert!(matches!(plain.beat().await, Err(StorageError::Superseded)));
    for owner in &owners {
        assert!(is_away(plain.map("roster", owner).await), "{owner}: not for one who has nothing");
        assert!(is_away(late.map("roster", owner).await), "{owner}");
        assert!(plain.refuses(owner).is_some());
    }
    assert!(is_away(plain.owners("roster", None, 10).await));
    for node in [&plain, &late] {
        let why = node.take_pen(2, 3, "eu-1").await.unwrap_err().to_string();
        assert!(why.contains("storage.partitions names 0"), "{why}");
        assert!(node.commit_home(vec![entry(2, vec![put(&owners[0], "a", b"2")])]).await.is_err());
    }
    assert_eq!(main.scribe().await.unwrap().unwrap().term, 2, "it stays whose it was");
    assert_eq!(divided.get("roster", &owners[0], "a").await.unwrap(), Some(b"1".to_vec()));
    // When all is back, it may again.
    divided.rebalance(&[1, 2]).await.unwrap();
    until("all are back", || !divided.moves().is_running).await;
    assert!(plain.take_pen(2, 3, "eu-1").await.unwrap());
    assert_eq!(plain.map("roster", &owners[0]).await.unwrap().len(), 1);
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

#[tokio::test]
async fn other_connections_may_come_with_another_patience() {
    let [main, part] = [(); 2].map(|()| Arc::new(Memory::default()));
    let storage = unsigned(main.clone(), vec![part.clone()], quick()).await.unwrap();
    let at = |url| config::Database::parse(url).unwrap();
    let asked = config::Storage {
        partitions: vec![at("mysql://elsewhere/part")],
        timeout: Duration::from_secs(7),
        ..config::Storage::of(at("mysql://elsewhere/main"))
    };
    let renewal = storage.renew(&asked).await.unwrap();
    assert_eq!(storage.shared.patience(), quick().patience, "only looked");
    renewal();
    assert_eq!(storage.shared.patience(), Duration::from_secs(7));
    assert_eq!((main.renewals(), part.renewals()), (1, 1));
}
