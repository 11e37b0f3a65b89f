//! What durable data costs: filling a database, a storm of logins reading it, changes committed at a home. One process, SQLite.
//! Prints rates and processor time (from `/proc`, so on Linux only).
//!
//! `cargo run --release -p pangaea --example storage_speed [DIR]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use node::homes::accounts::{Account, derive, genesis_accounts};
use node::homes::{
    CallError, FeedSink, HomeError, HomeMap, HomeOp, HomePlace, HomeTransport, Homes, HomesConfig,
    HomesParts, Pen, ShipSink, Tx, Unsent, Unwatched,
};
use node::storage::Storage;
use node::storage::sqlite::{Sqlite, SqliteConfig};
use xmpp::BareJid;
use xmpp::sasl::Password;

const ACCOUNTS: u32 = 15_000;

/// Everything is homed here, nobody else exists.
struct Alone;

impl HomeMap for Alone {
    fn home(&self, _: &str) -> HomePlace {
        self.shard(0)
    }

    fn shard(&self, _: u8) -> HomePlace {
        HomePlace { region: "eu".into(), epoch: 1, local: true }
    }
}

impl HomeTransport for Alone {
    fn call<'a>(&'a self, _: &'a str, _: Vec<u8>) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        async { Err(CallError::Unreachable) }.boxed()
    }
}

impl FeedSink for Alone {
    fn send_feed(&self, _: &str, bytes: Vec<u8>) -> Result<(), Unsent> {
        Err(Unsent::Full(bytes))
    }
}

impl ShipSink for Alone {
    fn send_batch(&self, _: &str, bytes: Vec<u8>) -> Result<(), Unsent> {
        Err(Unsent::Full(bytes))
    }
}

/// Files a message; `Roster` reads one item and writes it and a version.
struct File;
struct Roster;

impl HomeOp for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let id = tx.at().0;
            tx.append("offline", id, request.to_vec());
            Ok(Vec::new())
        }
        .boxed()
    }
}

impl HomeOp for Roster {
    fn name(&self) -> &'static str {
        "roster"
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let old = tx.get("roster", "juliet@chat.example").await?;
            tx.put("roster", "juliet@chat.example", request.to_vec());
            tx.put("roster_meta", "", vec![old.map_or(0, |old| old.len() as u8)]);
            Ok(Vec::new())
        }
        .boxed()
    }
}

fn user(i: u32) -> BareJid {
    BareJid::parse(&format!("user{}@chat.example", i % ACCOUNTS)).expect("a valid address")
}

/// Processor time of this process so far: user and system, in hundredths of a second.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields = after.split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * 10)
}

async fn measure<T>(what: &str, count: u32, work: impl Future<Output = T>) -> T {
    let (begun, before) = (Instant::now(), processor());
    let result = work.await;
    let (took, cpu) = (begun.elapsed(), processor() - before);
    println!(
        "{what}: {count} in {took:.2?}, {:.0}/s, {:.1} µs of processor each",
        f64::from(count) / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / f64::from(count)
    );
    result
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = dir.join(format!("storage-speed-{}.sqlite", std::process::id()));
    let record: Account = derive(Password::new("pw"), 0).await?;
    let accounts = (0..ACCOUNTS).map(|i| (user(i), record.clone()));
    measure("accounts filled", ACCOUNTS, genesis_accounts(&path, accounts)).await?;

    let storage: Arc<dyn Storage> = Arc::new(Sqlite::open(SqliteConfig::new(&path)).await?);
    let parts = HomesParts {
        storage: Arc::clone(&storage),
        map: Arc::new(Alone),
        pen: Arc::new(Pen::held(1)),
        ops: vec![Box::new(File), Box::new(Roster)],
        transport: Arc::new(Alone),
        sink: Arc::new(Alone),
        applied: Arc::new(Unwatched),
    };
    let homes = Homes::start(HomesConfig::new("eu", 1), parts).await?;

    for at_once in [1, 50, 500] {
        let each = if at_once == 1 { 5_000 } else { 100_000 / at_once };
        for (op, bytes) in [("file", 300), ("roster", 60)] {
            let tasks = (0..at_once).map(|task| {
                let homes = homes.clone();
                tokio::spawn(async move {
                    for i in 0..each {
                        let account = user(task * 7919 + i);
                        homes.request(&account, op, vec![b'x'; bytes]).await.expect("committed");
                    }
                })
            });
            let tasks = join_all(tasks.collect::<Vec<_>>());
            measure(&format!("{op}, {at_once} at once"), at_once * each, tasks).await;
        }
    }

    // A login reads its account, its roster and the roster's version.
    for at_once in [1, 20, 200] {
        let each = if at_once == 1 { 5_000 } else { 100_000 / at_once };
        let tasks = (0..at_once).map(|task| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                for i in 0..each {
                    let account = user(task * 7919 + i);
                    let found = storage.get("accounts", account.as_str(), "").await;
                    assert!(found.is_ok_and(|found| found.is_some()), "the account is there");
                    let roster = storage.map("roster", account.as_str());
                    let version = storage.get("roster_meta", account.as_str(), "");
                    let (roster, version) = futures_util::join!(roster, version);
                    assert!(roster.is_ok() && version.is_ok(), "its roster is read");
                }
            })
        });
        let tasks = join_all(tasks.collect::<Vec<_>>());
        measure(&format!("reads, {at_once} logins at once"), 3 * at_once * each, tasks).await;
    }
    homes.shutdown().await;
    storage.close().await;
    for end in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{end}", path.display())));
    }
    Ok(())
}
