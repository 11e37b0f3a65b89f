//! What a region's session rows do, whoever keeps them: the table in a process with its ring of changes, and Redis with its log. One suite of
//! behaviours; then what only Redis has. Redis is the one that `PANGAEA_TEST_REDIS` names (tests/redis/main.rs starts one), each test behind a prefix of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use global_distrib::{Directory, NodeIx, ParkLimits, Place, Row, Shows};
use parking_lot::Mutex;
use replication::Hlc;
use replication::route_log::{Log, Tail, suite as log_suite};
use xmpp::jid::{BareJid, FullJid};

use super::connect::{Conn, connect};
use super::follow::{Follower, Heard};
use super::log::RedisLog;
use super::queue::tests::jid;
use super::row::{Change, Life, Told};
use super::script::{Batch, Beat, Clear, base, rows};

/// Who holds it, its generation, what it shows.
type Known = (usize, Hlc, Shows);

const QUIET: Shows = Shows { priority: 0, available: false, hidden: false };
const SHOWN: Shows = Shows { priority: 5, available: true, hidden: false };
/// Changes that are kept for who follows.
const KEPT: usize = 100;

/// Session rows of a region that several nodes write.
trait Table {
    /// A row is there, like this.
    async fn is(&self, node: usize, full: &FullJid, generation: u64, shows: Shows);
    /// It is gone.
    async fn gone(&self, node: usize, full: &FullJid, generation: u64);
    /// A node is no more, without a word.
    async fn dies(&self, node: usize);
    /// The rows of a user that count.
    async fn rows(&self, bare: &BareJid) -> BTreeMap<FullJid, Known>;
    /// What whoever has followed the changes since the last time believes; whether all rows had to be read for it.
    async fn followed(&self) -> (BTreeMap<FullJid, Known>, bool);
}

async fn run<T: Table>(make: impl AsyncFn() -> T) {
    a_row_is_found_as_it_was_written_last(&make().await).await;
    the_newer_bind_of_one_full_jid_stands(&make().await).await;
    rows_of_a_node_that_died_do_not_count(&make().await).await;
    who_follows_sees_every_change_or_reads_all_again(&make().await).await;
    whatever_happens_table_and_follower_agree(&make().await).await;
}

async fn a_row_is_found_as_it_was_written_last(table: &impl Table) {
    let (home, pocket) = (jid("romeo@x.example/home"), jid("romeo@x.example/in my pocket"));
    table.is(0, &home, 1, QUIET).await;
    table.is(1, &pocket, 2, SHOWN).await;
    let expected = |home: Shows| {
        BTreeMap::from([
            (self::jid("romeo@x.example/home"), (0, Hlc(1), home)),
            (pocket.clone(), (1, Hlc(2), SHOWN)),
        ])
    };
    assert_eq!(table.rows(&home.bare()).await, expected(QUIET));
    table.is(0, &home, 1, SHOWN).await;
    assert_eq!(table.rows(&home.bare()).await, expected(SHOWN));
    table.is(0, &home, 1, SHOWN).await;
    table.gone(1, &pocket, 2).await;
    table.gone(1, &pocket, 2).await;
    assert_eq!(
        table.rows(&home.bare()).await,
        BTreeMap::from([(home.clone(), (0, Hlc(1), SHOWN))])
    );
    table.gone(0, &home, 1).await;
    assert!(table.rows(&home.bare()).await.is_empty());
    assert!(table.rows(&BareJid::parse("nobody@x.example").unwrap()).await.is_empty());
}

async fn the_newer_bind_of_one_full_jid_stands(table: &impl Table) {
    let full = jid("romeo@x.example/home");
    table.is(0, &full, 5, QUIET).await;
    table.is(1, &full, 7, SHOWN).await;
    let newer = BTreeMap::from([(full.clone(), (1, Hlc(7), SHOWN))]);
    assert_eq!(table.rows(&full.bare()).await, newer);
    table.is(0, &full, 5, SHOWN).await;
    table.gone(0, &full, 5).await;
    assert_eq!(table.rows(&full.bare()).await, newer, "the loser's last words");
    table.is(1, &full, 9, QUIET).await;
    table.gone(1, &full, 7).await;
    let newest = BTreeMap::from([(full.clone(), (1, Hlc(9), QUIET))]);
    assert_eq!(table.rows(&full.bare()).await, newest, "also of the same node");
}

async fn rows_of_a_node_that_died_do_not_count(table: &impl Table) {
    let (home, work) = (jid("romeo@x.example/home"), jid("romeo@x.example/work"));
    table.is(0, &home, 5, SHOWN).await;
    table.is(1, &work, 9, SHOWN).await;
    table.dies(1).await;
    let left = BTreeMap::from([(home.clone(), (0, Hlc(5), SHOWN))]);
    assert_eq!(table.rows(&home.bare()).await, left);
    // Nor does its row stand in the way, although it is newer: its clock was ahead.
    table.is(0, &work, 8, QUIET).await;
    assert_eq!(table.rows(&home.bare()).await.get(&work), Some(&(0, Hlc(8), QUIET)));
}

async fn who_follows_sees_every_change_or_reads_all_again(table: &impl Table) {
    let full = |n: usize| jid(&format!("user{n}@x.example/r"));
    table.is(0, &full(0), 1, QUIET).await;
    let (rows, anew) = table.followed().await;
    assert!(anew && rows.len() == 1);
    for n in 1..KEPT {
        table.is(n % 2, &full(n), n as u64, QUIET).await;
    }
    table.gone(0, &full(0), 1).await;
    let (rows, anew) = table.followed().await;
    assert_eq!((rows.len(), anew), (KEPT - 1, false));
    // More than is kept, even where it is trimmed in whole pieces.
    for round in 0..5 {
        for n in 1..KEPT {
            let shows = Shows { priority: round, ..SHOWN };
            table.is(n % 2, &full(n), n as u64, shows).await;
        }
    }
    let (rows, anew) = table.followed().await;
    assert!(anew && rows.len() == KEPT - 1);
    assert!(rows.values().all(|(_, _, shows)| shows.priority == 4));
    assert_eq!(table.followed().await, (rows, false));
}

async fn whatever_happens_table_and_follower_agree(table: &impl Table) {
    // A line of numbers that is the same every time.
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut model: BTreeMap<FullJid, Known> = BTreeMap::new();
    for step in 1..=400 {
        let node = draw(2) as usize;
        let full = jid(&format!("user{}@x.example/{}", draw(3), draw(3)));
        let known = model.get(&full).copied();
        match (known, draw(3)) {
            (Some((holder, generation, _)), 0) => {
                table.gone(holder, &full, generation.0).await;
                model.remove(&full);
            }
            (Some((holder, generation, _)), 1) => {
                let shows = Shows { priority: draw(9) as i8, ..SHOWN };
                table.is(holder, &full, generation.0, shows).await;
                model.insert(full, (holder, generation, shows));
            }
            (known, _) => {
                table.is(node, &full, step, QUIET).await;
                // The loser's session ends before anything else becomes of that full JID.
                if let Some((holder, generation, _)) = known {
                    table.gone(holder, &full, generation.0).await;
                }
                model.insert(full, (node, Hlc(step), QUIET));
            }
        }
        if step % 50 == 0 {
            let mut found = BTreeMap::new();
            for user in 0..3 {
                let bare = BareJid::parse(&format!("user{user}@x.example")).unwrap();
                found.extend(table.rows(&bare).await);
            }
            assert_eq!(found, model, "after step {step}");
            assert_eq!(table.followed().await.0, model, "followed, after step {step}");
        }
    }
}

/// The table of a process, and its ring.
struct InProcess {
    rows: Directory<(), ()>,
    log: Mutex<Log<(FullJid, Option<Known>)>>,
    followed: Mutex<(BTreeMap<FullJid, Known>, Option<u64>)>,
}

/// No stanza goes this way.
struct NoRoad;

impl global_distrib::Carrier<(), ()> for NoRoad {
    fn choose(&self, _: &(), _: &[Row<()>]) -> global_distrib::Choice<()> {
        global_distrib::Choice::Refuse
    }
    fn carry(
        &self,
        stanza: (),
        _: &[()],
        _: &[NodeIx],
        _: &mut global_distrib::Trail,
    ) -> Result<(), ()> {
        Err(stanza)
    }
    fn acked(&self, _: NodeIx) -> u64 {
        u64::MAX
    }
    fn mark(&self) -> global_distrib::Mark {
        global_distrib::Mark::default()
    }
    fn closed(&self, _: &global_distrib::Mark) -> bool {
        true
    }
    fn weight(&self, _: &()) -> usize {
        0
    }
}

impl InProcess {
    fn new() -> InProcess {
        let limits = ParkLimits { bytes_max: 0, per_addressee_max: 0, hold_ms: 0 };
        let (rows, log) = (Directory::new(limits), Mutex::new(Log::new(KEPT)));
        InProcess { rows, log, followed: Mutex::default() }
    }

    fn known(row: &Row<()>) -> Known {
        let shows = Shows { priority: row.priority, available: row.available, hidden: row.hidden };
        (usize::from(row.there().expect("of another node").0), row.generation, shows)
    }
}

fn ix(node: usize) -> NodeIx {
    NodeIx(u16::try_from(node).expect("few nodes"))
}

impl Table for InProcess {
    async fn is(&self, node: usize, full: &FullJid, generation: u64, shows: Shows) {
        let Shows { priority, available, hidden } = shows;
        let generation = Hlc(generation);
        let row = Row::new(full.clone(), Place::There(ix(node)), generation);
        let row = Row { priority, available, hidden, ..row };
        if !self.rows.bind(row, |_| false).lost {
            self.log.lock().append((full.clone(), Some((node, generation, shows))));
        }
    }

    async fn gone(&self, node: usize, full: &FullJid, generation: u64) {
        let stands = |row: &Row<()>| {
            row.full == *full && row.there() == Some(ix(node)) && row.generation == Hlc(generation)
        };
        let stood = self.rows.read(full.bare_str(), |rows| rows.iter().any(stands)) == Some(true);
        self.rows.unbind_there(ix(node), full, Hlc(generation), 0, &NoRoad);
        if stood {
            self.log.lock().append((full.clone(), None));
        }
    }

    async fn dies(&self, node: usize) {
        let (removed, _) = self.rows.remove_rows(ix(node), |_| true);
        for row in removed {
            self.log.lock().append((row.full, None));
        }
    }

    async fn rows(&self, bare: &BareJid) -> BTreeMap<FullJid, Known> {
        let all = |rows: &[Row<()>]| {
            rows.iter().map(|row| (row.full.clone(), InProcess::known(row))).collect()
        };
        self.rows.read(bare.as_str(), all).unwrap_or_default()
    }

    async fn followed(&self) -> (BTreeMap<FullJid, Known>, bool) {
        let mut followed = self.followed.lock();
        let (rows, cursor) = &mut *followed;
        let tail = match cursor {
            Some(cursor) => self.log.lock().tail(*cursor, usize::MAX),
            None => Tail::Trimmed { head: self.log.lock().head() },
        };
        let anew = matches!(tail, Tail::Trimmed { .. });
        match tail {
            Tail::Batch { first, entries } => {
                *cursor = Some(first - 1 + entries.len() as u64);
                for (full, known) in entries {
                    match known {
                        Some(known) => drop(rows.insert(full, known)),
                        None => drop(rows.remove(&full)),
                    }
                }
            }
            Tail::Trimmed { head } => {
                *cursor = Some(head);
                rows.clear();
                self.rows.for_each(|row| {
                    rows.insert(row.full.clone(), InProcess::known(row));
                });
            }
        }
        (rows.clone(), anew)
    }
}

/// Redis, and two nodes that write there.
struct InRedis {
    base: String,
    conn: Conn,
    number: Mutex<u64>,
    follower: tokio::sync::Mutex<Follower>,
    followed: Mutex<BTreeMap<FullJid, Known>>,
}

fn life(node: usize) -> Life {
    Life { node: format!("eu-{node}"), incarnation: 10 + node as u64 }
}

fn node_of(life: &Life) -> usize {
    usize::try_from(life.incarnation - 10).expect("few nodes")
}

fn record(node: usize) -> String {
    format!("{{\"region\":\"eu\",\"node\":{node}}}")
}

fn config(log_max: usize) -> config::Redis {
    let url = std::env::var("PANGAEA_TEST_REDIS").expect("PANGAEA_TEST_REDIS is set");
    let mut prefix = [0; 8];
    getrandom::fill(&mut prefix).unwrap();
    let mut config = config::Redis::none(&format!("suite:{:x}", u64::from_le_bytes(prefix)));
    config.url = config::RedisUrl::parse(&url);
    config.authority = std::env::var_os("PANGAEA_TEST_REDIS_CA").map(Into::into);
    config.cluster = std::env::var_os("PANGAEA_TEST_REDIS_CLUSTER").is_some();
    config.log_entries_max = log_max;
    config
}

impl InRedis {
    async fn new() -> InRedis {
        let config = config(KEPT);
        let base = base(&config.prefix);
        let mut conn = connect(&config, config.timeout).await.unwrap();
        for node in 0..2 {
            beat(&mut conn, &base, node).await;
        }
        let follower = Follower::new(RedisLog::open(&config).await.unwrap());
        let (number, followed) = (Mutex::new(0), Mutex::default());
        InRedis { base, conn, number, follower: tokio::sync::Mutex::new(follower), followed }
    }

    async fn write(&self, node: usize, full: &FullJid, change: Change) -> u64 {
        let number = {
            let mut number = self.number.lock();
            *number += 1;
            *number
        };
        let batch = Batch { number, writing: 1, changes: vec![(full.clone(), change)] };
        batch.ask(&mut self.conn.clone(), &self.base, &life(node), KEPT).await.unwrap()
    }
}

async fn beat(conn: &mut Conn, base: &str, node: usize) -> super::script::Beaten {
    let beat = Beat { record: record(node), lease_ms: 60_000, map: None, new_life: false };
    beat.ask(conn, base, &life(node)).await.unwrap()
}

impl Table for InRedis {
    async fn is(&self, node: usize, full: &FullJid, generation: u64, shows: Shows) {
        self.write(node, full, Change::Is(Hlc(generation), shows)).await;
    }

    async fn gone(&self, node: usize, full: &FullJid, generation: u64) {
        self.write(node, full, Change::Gone(Hlc(generation))).await;
    }

    async fn dies(&self, node: usize) {
        let lease = format!("{}lease:{}", self.base, life(node).node);
        redis::cmd("DEL").arg(lease).exec_async(&mut self.conn.clone()).await.unwrap();
    }

    async fn rows(&self, bare: &BareJid) -> BTreeMap<FullJid, Known> {
        let found = rows(&mut self.conn.clone(), &self.base, bare.as_str()).await.unwrap();
        let named = found.into_iter().map(|(resource, row)| {
            (
                bare.with_resource(&resource).unwrap(),
                (node_of(&row.life), row.generation, row.shows),
            )
        });
        named.collect()
    }

    async fn followed(&self) -> (BTreeMap<FullJid, Known>, bool) {
        let mut follower = self.follower.lock().await;
        let mut anew = false;
        loop {
            let heard = follower.next().await.unwrap();
            let mut followed = self.followed.lock();
            match heard {
                Heard::Changes(changes) if changes.is_empty() => return (followed.clone(), anew),
                Heard::Changes(changes) => {
                    for change in changes {
                        match change {
                            Told::Is(full, row) => {
                                let known = (node_of(&row.life), row.generation, row.shows);
                                followed.insert(full, known);
                            }
                            Told::Gone(full, ..) => drop(followed.remove(&full)),
                        }
                    }
                }
                Heard::Anew(rows) => {
                    anew = true;
                    let known = |row: super::row::StoredRow| {
                        (node_of(&row.life), row.generation, row.shows)
                    };
                    *followed = rows.into_iter().map(|(full, row)| (full, known(row))).collect();
                }
            }
        }
    }
}

#[tokio::test]
async fn the_table_of_a_process_passes_the_suite() {
    run(async || InProcess::new()).await;
}

#[tokio::test]
#[ignore = "needs a server: tests/redis/main.rs"]
async fn redis_passes_the_suite_of_session_tables() {
    run(InRedis::new).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: tests/redis/main.rs"]
async fn redis_passes_the_suite_of_route_logs() {
    // The suite makes a log where it cannot wait for one.
    let open = |log_max| {
        let opened = async move { RedisLog::open(&config(log_max)).await.unwrap() };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opened))
    };
    log_suite::run(|log_max| Arc::new(open(log_max))).await;
}

#[tokio::test]
#[ignore = "needs a server: tests/redis/main.rs"]
async fn redis_removes_what_a_former_writing_or_a_dead_life_left() {
    let table = InRedis::new().await;
    let mut conn = table.conn.clone();
    let full = |n: usize| jid(&format!("user{n}@x.example/r"));
    for n in 0..700 {
        table.is(0, &full(n), n as u64 + 1, QUIET).await;
    }
    let anew = (0..300).map(|n| (full(n), Change::Is(Hlc(n as u64 + 1), QUIET))).collect();
    let batch = Batch { number: 1_000, writing: 2, changes: anew };
    let news = batch.ask(&mut conn, &table.base, &life(0), KEPT).await.unwrap();
    assert_eq!(news, 0, "they are as they were: nothing for who follows");
    let mut removed = (0, 0);
    for before in [Some(2), None] {
        if before.is_none() {
            let clear = Clear { life: life(0), before, cursor: "0".into(), count: 100 };
            let done = clear.ask(&mut conn, &table.base, KEPT).await.unwrap();
            assert!(done.alive && done.removed == 0, "it lives");
            table.dies(0).await;
        }
        let (mut cursor, mut rows) = ("0".to_owned(), 0);
        loop {
            let clear = Clear { life: life(0), before, cursor, count: 100 };
            let done = clear.ask(&mut conn, &table.base, KEPT).await.unwrap();
            assert!(done.seen < 250, "each step is bounded: {}", done.seen);
            (cursor, rows) = (done.cursor, rows + done.removed);
            if cursor == "0" {
                break;
            }
        }
        removed = (removed.1, rows);
    }
    assert_eq!(removed, (400, 300));
    let heard = beat(&mut conn, &table.base, 1).await;
    assert!(heard.lives.is_empty() && heard.dead.is_empty(), "{heard:?}");
    let left: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}u:*", table.base.replace('{', "\\{")))
        .query_async(&mut conn)
        .await
        .unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
#[ignore = "needs a server: tests/redis/main.rs"]
async fn redis_begins_its_log_anew_when_its_numbers_are_lost() {
    let table = InRedis::new().await;
    let full = jid("romeo@x.example/home");
    table.is(0, &full, 1, QUIET).await;
    assert!(table.followed().await.1);
    table.is(0, &full, 1, SHOWN).await;
    let seq = format!("{}seq", table.base);
    redis::cmd("DEL").arg(seq).exec_async(&mut table.conn.clone()).await.unwrap();
    table.is(1, &jid("romeo@x.example/work"), 2, SHOWN).await;
    table.gone(0, &full, 1).await;
    let (rows, anew) = table.followed().await;
    assert!(anew);
    assert_eq!(rows, table.rows(&full.bare()).await);
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
#[ignore = "needs a server: tests/redis/main.rs"]
async fn redis_keeps_a_life_that_was_taken_the_place_of_from_registering() {
    let table = InRedis::new().await;
    let mut conn = table.conn.clone();
    let newer = Life { incarnation: 99, ..life(0) };
    let beat_of = |record: &str| Beat {
        record: record.into(),
        lease_ms: 60_000,
        map: Some((3, "{}".into())),
        new_life: false,
    };
    let heard = beat_of("newer").ask(&mut conn, &table.base, &newer).await.unwrap();
    assert!(!heard.superseded && heard.map.as_deref() == Some("{}"));
    let heard = beat_of("older").ask(&mut conn, &table.base, &life(0)).await.unwrap();
    assert!(heard.superseded);
    assert!(heard.nodes.contains(&("newer".into(), Some(99))), "{heard:?}");
}
