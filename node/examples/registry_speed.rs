//! What it costs to keep the nodes of a region told of each other's session rows in Redis: client tracking (RESP3), remembered or broadcast, and
//! following the log of changes. docs/decisions/0012.
//!
//! `cargo run --release -p pangaea --example registry_speed [URL]`, against an empty Redis that nobody else uses; by default `redis://127.0.0.1:6379`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::mpsc;

/// Who is told.
const NODES: usize = 3;
/// Users whose rows each of them has looked up.
const CACHED: usize = 2_000;
/// Users whose rows change, those among them.
const USERS: usize = 4_000;
/// Changes, written one at a time or a hundred together.
const CHANGES: usize = 4_000;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Remembered,
    Broadcast,
    Log,
}

#[tokio::main]
async fn main() -> RedisResult<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    println!(
        "{NODES} nodes, each with {CACHED} users cached; {CHANGES} changes of {USERS} users\n"
    );
    println!(
        "| way | commands a change | bytes from Redis a change | known after: median, p99 |\n|---|---|---|---|"
    );
    for burst in [1, 100] {
        for (name, way) in [
            ("client tracking, keys remembered by Redis", Way::Remembered),
            ("client tracking, broadcast", Way::Broadcast),
            ("following the log", Way::Log),
        ] {
            measure(&url, &format!("{name}, {burst} at a time"), way, burst).await?;
        }
    }
    Ok(())
}

fn user(n: usize) -> String {
    format!("{{speed}}:u:user{n}@chat.example")
}

async fn measure(url: &str, name: &str, way: Way, burst: usize) -> RedisResult<()> {
    let mut writer = Client::open(url)?.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHALL").exec_async(&mut writer).await?;
    for n in 0..USERS {
        redis::cmd("HSET").arg((user(n), "phone", row(0))).exec_async(&mut writer).await?;
    }
    let known: Arc<Vec<AtomicU64>> = Arc::new((0..NODES).map(|_| AtomicU64::new(0)).collect());
    let mut nodes = Vec::new();
    for node in 0..NODES {
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        nodes.push(tokio::spawn(follow(url.to_owned(), way, known.clone(), node, ready)));
        let _ = is_ready.await;
    }
    let before = counted(&mut writer).await?;
    let mut took: Vec<Duration> = Vec::new();
    let mut told = 0;
    for changes in (1..=CHANGES).collect::<Vec<_>>().chunks(burst) {
        let began = Instant::now();
        let mut asked = redis::pipe();
        for change in changes {
            let n = (change * 7) % USERS;
            asked.cmd("HSET").arg((user(n), "phone", row(*change)));
            if way == Way::Log {
                asked.cmd("XADD").arg(("{speed}:log", "MAXLEN", "~", 10_000, "*", "e"));
                asked.arg(format!("{n} {}", row(*change)));
            }
            // Of a user it has not looked up a node that Redis remembers is not told, and need not be.
            told += u64::from(way != Way::Remembered || n < CACHED);
        }
        if way == Way::Log {
            asked.atomic();
        }
        asked.exec_async(&mut writer).await?;
        for node in known.iter() {
            while node.load(Ordering::Acquire) < told {
                tokio::task::yield_now().await;
            }
        }
        took.push(began.elapsed());
    }
    let after = counted(&mut writer).await?;
    took.sort();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_micros();
    let each = |n: u64| n as f64 / CHANGES as f64;
    println!(
        "| {name} | {:.2} | {:.0} | {} µs, {} µs |",
        each(after.0 - before.0),
        each(after.1 - before.1),
        at(0.5),
        at(0.99)
    );
    nodes.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

fn row(change: usize) -> String {
    format!("eu-1 1764338400123 1 {change:016x} 5 available")
}

/// One node: has looked up its users, and is told of changes. `known` counts those it has taken in.
async fn follow(
    url: String,
    way: Way,
    known: Arc<Vec<AtomicU64>>,
    node: usize,
    ready: tokio::sync::oneshot::Sender<()>,
) -> RedisResult<()> {
    let (push, mut pushed) = mpsc::unbounded_channel();
    let config = AsyncConnectionConfig::new()
        .set_push_sender(push)
        .set_response_timeout(Some(Duration::from_secs(60)));
    let url = format!("{url}/?protocol=resp3");
    let client = Client::open(url)?;
    let mut conn = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut on = redis::cmd("CLIENT");
    on.arg(("TRACKING", "ON"));
    match way {
        Way::Remembered => on.exec_async(&mut conn).await?,
        Way::Broadcast => {
            on.arg(("BCAST", "PREFIX", "{speed}:u:")).exec_async(&mut conn).await?;
        }
        Way::Log => {}
    }
    for n in 0..CACHED {
        let _: Value = redis::cmd("HGETALL").arg(user(n)).query_async(&mut conn).await?;
    }
    let _ = ready.send(());
    if way == Way::Log {
        return log(&mut conn, &known[node]).await;
    }
    while let Some(PushInfo { kind, data }) = pushed.recv().await {
        let (PushKind::Invalidate, Some(Value::Array(keys))) = (kind, data.first()) else {
            continue;
        };
        for key in keys {
            let Value::BulkString(key) = key else { continue };
            // What was cached is looked up again, as the next stanza for that user would.
            let number = String::from_utf8_lossy(key);
            let number = number.trim_start_matches("{speed}:u:user");
            let number: usize =
                number.split('@').next().and_then(|n| n.parse().ok()).unwrap_or(USERS);
            if number < CACHED {
                let _: Value = redis::cmd("HGETALL").arg(&key[..]).query_async(&mut conn).await?;
            }
            known[node].fetch_add(1, Ordering::Release);
        }
    }
    Ok(())
}

async fn log(conn: &mut MultiplexedConnection, known: &AtomicU64) -> RedisResult<()> {
    let mut cursor = "0-0".to_owned();
    loop {
        let read: Option<Value> = redis::cmd("XREAD")
            .arg(("COUNT", 500, "BLOCK", 30_000, "STREAMS", "{speed}:log", &cursor))
            .query_async(conn)
            .await?;
        let Some(Value::Map(streams)) = read else { continue };
        for (_, entries) in streams {
            let Value::Array(entries) = entries else { continue };
            for entry in entries {
                let entry: (String, Vec<String>) = redis::from_redis_value(entry)?;
                cursor = entry.0;
                known.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Commands carried out, and bytes sent, since the server started.
async fn counted(conn: &mut MultiplexedConnection) -> RedisResult<(u64, u64)> {
    let text: String = redis::cmd("INFO").arg("stats").query_async(conn).await?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().parse().unwrap_or(0)
    };
    Ok((number("total_commands_processed:"), number("total_net_output_bytes:")))
}
