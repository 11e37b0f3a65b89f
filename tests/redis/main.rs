//! Redis under the server: nodes that find each other there, sessions that are written down there, and what becomes of both, and of messages, when
//! Redis is killed, emptied, silent, slow, another one, or fails over.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test redis [WORD…]` when the server has been built. Needs Debian's `redis-server`; each
//! server runs on a port and in a directory of its own ([`pangaea_tests::redis`]). One platform, two regions of two nodes, for all tests.

mod talk;
mod trouble;

use pangaea_tests::client::{Client, Result};
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Plan, Platform, binary};
use pangaea_tests::redis::{Kind, Redis};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

const LONGEST_SECONDS: u64 = 120;

const NAMES: [&str; 15] = [
    "suite",
    "suite_over_tls",
    "suite_on_a_cluster",
    "nodes_and_sessions_are_there",
    "idle_commands_do_not_grow_with_sessions",
    "messages_cost_no_command",
    "killed_under_load",
    "flushed_under_load",
    "paused_under_load",
    "full_under_load",
    "a_dead_node_is_swept",
    "slow_under_load",
    "tls_and_a_password_by_reload",
    "sentinel_failover_under_load",
    "a_node_joins_by_the_registry",
];

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let mut outcome = Outcome::default();
    if choice.list {
        NAMES.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    match Redis::start(Kind::Plain).await {
        Ok(mut redis) => all(&choice, &mut outcome, &mut redis).await,
        Err(e) => outcome.fail("redis_starts", &e),
    }
    outcome.finish()
}

async fn all(choice: &Choice, outcome: &mut Outcome, redis: &mut Redis) {
    let suites = vec![
        Test::new("suite", || suite(redis, "redis")),
        Test::new("suite_over_tls", || async {
            suite(&Redis::start(Kind::Tls).await?, "redis_passes").await
        }),
        Test::new("suite_on_a_cluster", || async {
            suite(&Redis::start(Kind::Cluster).await?, "redis").await
        }),
    ];
    run(outcome, choice, suites, 1, 5 * LONGEST_SECONDS).await;
    if !NAMES[3..].iter().any(|name| choice.wants(name)) {
        return;
    }
    let plan = Plan {
        regions: ["eu", "us"].map(Into::into).into(),
        nodes: 2,
        redis: Some(redis.url()),
        ..Plan::default()
    };
    let platform = match Platform::start(plan).await {
        Ok(platform) => platform,
        Err(e) => return outcome.fail("the_platform_starts", &e),
    };
    let on = &platform;
    let quiet = vec![
        Test::new("nodes_and_sessions_are_there", || nodes_and_sessions(on, redis)),
        Test::new("idle_commands_do_not_grow_with_sessions", || idle(on, redis)),
        Test::new("messages_cost_no_command", || messages(on, redis)),
    ];
    run(outcome, choice, quiet, 1, LONGEST_SECONDS).await;
    // One after the other, each with the server for itself.
    let killed = Test::new("killed_under_load", || trouble::killed(on, redis));
    run(outcome, choice, vec![killed], 1, LONGEST_SECONDS).await;
    let more = vec![
        Test::new("flushed_under_load", || trouble::flushed(on, redis)),
        Test::new("paused_under_load", || trouble::paused(on, redis)),
        Test::new("full_under_load", || trouble::full(on, redis)),
        Test::new("a_dead_node_is_swept", || trouble::dead_node(on, redis)),
        Test::new("slow_under_load", || trouble::slow(on, redis)),
        Test::new("tls_and_a_password_by_reload", || trouble::tls(on)),
        Test::new("sentinel_failover_under_load", || trouble::sentinel(on)),
        // Last: the node that joins goes again, and is missed for a while.
        Test::new("a_node_joins_by_the_registry", || trouble::joins(on, redis)),
    ];
    run(outcome, choice, more, 1, LONGEST_SECONDS).await;
    for panic in platform.panics() {
        outcome.fail("no_node_panics", &panic);
    }
}

/// The tests of the server's own crate that need a server: `registry/suite.rs`.
async fn suite(redis: &Redis, word: &str) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = tokio::process::Command::new(cargo);
    tests.args(["test", "-p", "pangaea", "--lib", "--", "--ignored", word]);
    tests.env("PANGAEA_TEST_REDIS", redis.url());
    if redis.kind() == Kind::Tls {
        tests.env("PANGAEA_TEST_REDIS_CA", redis.authority());
    }
    if redis.kind() == Kind::Cluster {
        tests.env("PANGAEA_TEST_REDIS_CLUSTER", "yes");
    }
    let status = tests.kill_on_drop(true).status().await.map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status}")) }
}

/// Asks again until there is an answer. (Not a function of a closure: the compiler does not see then that it may be sent to another thread.)
macro_rules! until {
    ($what:expr, $ask:block) => {{
        let deadline = std::time::Instant::now() + pangaea_tests::client::patience() * 3;
        loop {
            let asked: pangaea_tests::client::Result<Option<_>> = async { $ask }.await;
            let why = match asked {
                Ok(Some(answer)) => break Ok::<_, String>(answer),
                Ok(None) => String::new(),
                Err(why) => why,
            };
            if std::time::Instant::now() > deadline {
                break Err(format!("{}: not in time {why}", $what));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }};
}
pub(crate) use until;

/// `pangaea ctl … --json` at a node.
async fn ctl(platform: &Platform, at: (usize, usize), words: &[&str]) -> Result<Value> {
    let asked = tokio::process::Command::new(binary()?)
        .arg("ctl")
        .args(words)
        .arg("--json")
        .env("PANGAEA_URL", format!("http://127.0.0.1:{}", platform.port_of(at.0, at.1, 280)))
        .env("PANGAEA_USER", format!("admin@{}", platform.plan.domain))
        .env("PANGAEA_PASSWORD", "wonderland")
        .kill_on_drop(true)
        .output();
    let said = asked.await.map_err(|e| e.to_string())?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into_owned());
    }
    serde_json::from_slice(&said.stdout).map_err(|e| e.to_string())
}

/// Somebody who is there and available.
async fn somebody(
    platform: &Platform,
    number: u32,
    at: (usize, usize),
    resource: &str,
) -> Result<Client> {
    let mut client = platform.user_at(number, at, resource)?;
    client.connect().await?;
    client.send("<presence><priority>3</priority></presence>").await?;
    client.ping().await?;
    Ok(client)
}

/// Waits until Redis has the rows of exactly these sessions of a region.
async fn written(redis: &Redis, region: &str, expected: &[String]) -> Result<()> {
    let mut expected = expected.to_vec();
    expected.sort();
    until!(&format!("the rows of {region}"), {
        let rows = redis.rows(region).await?;
        if rows == expected { Ok(Some(())) } else { Err(format!("{rows:?}")) }
    })
}

async fn nodes_and_sessions(platform: &Platform, redis: &Redis) -> Result<()> {
    for (region, name) in ["eu", "us"].iter().enumerate() {
        until!("both nodes of a region are registered", {
            let info = ctl(platform, (region, 0), &["registry"]).await?;
            let nodes = info["nodes"].as_array().ok_or("no nodes")?;
            let live: Vec<&str> = nodes
                .iter()
                .filter(|node| node["lives"] == true)
                .filter_map(|node| node["name"].as_str())
                .collect();
            Ok((live == [format!("{name}-0"), format!("{name}-1")]).then_some(()))
        })?;
    }
    let mut first = somebody(platform, 0, (0, 0), "at home").await?;
    let second = somebody(platform, 0, (0, 1), "pocket").await?;
    let elsewhere = somebody(platform, 0, (1, 0), "work").await?;
    written(redis, "eu", &[first.full(), second.full()]).await?;
    written(redis, "us", &[elsewhere.full()]).await?;
    // Asked at either node, with what they show and who holds them.
    let account = first.bare();
    let rows = until!("the rows show presence", {
        let rows = ctl(platform, (0, 1), &["registry", &account]).await?;
        let rows = rows.as_array().cloned().ok_or("no rows")?;
        let shown = rows.len() == 2 && rows.iter().all(|row| row["priority"] == 3);
        Ok(shown.then_some(rows))
    })?;
    let held: Vec<_> = rows.iter().map(|row| (row["jid"].as_str(), row["node"].as_str())).collect();
    let expected = [(first.full(), "eu-0"), (second.full(), "eu-1")];
    if !expected.iter().all(|(jid, node)| held.contains(&(Some(jid), Some(*node)))) {
        return Err(format!("{held:?}"));
    }
    first.disconnect().await?;
    written(redis, "eu", &[second.full()]).await
}

/// Commands between now and so many beats later, other than the beats themselves and what they call; and all of them a beat.
async fn beats(redis: &Redis, beats: u64) -> Result<(u64, f64)> {
    let before = redis.calls().await?;
    let count = |calls: &std::collections::BTreeMap<String, u64>, name: &str| {
        calls.get(name).copied().unwrap_or(0)
    };
    let after = until!("nodes say that they live", {
        let now = redis.calls().await?;
        Ok((count(&now, "evalsha") >= count(&before, "evalsha") + beats).then_some(now))
    })?;
    let grown = |name: &str| count(&after, name) - count(&before, name);
    let writes = ["hset", "hdel", "sadd", "xadd", "incrby", "sscan"];
    let all: u64 = after.keys().map(|name| grown(name)).sum();
    let written = writes.iter().map(|name| grown(name)).sum();
    Ok((written, all as f64 / grown("evalsha") as f64))
}

/// Waits until no change waits, anywhere.
async fn quiet(platform: &Platform) -> Result<()> {
    for at in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        until!("nothing waits to be written", {
            let info = ctl(platform, at, &["registry"]).await?;
            let quiet = info["rows_queued"] == 0 && info["rows_left"].is_null();
            Ok((quiet && info["connected"] == true).then_some(()))
        })?;
    }
    Ok(())
}

async fn idle(platform: &Platform, redis: &Redis) -> Result<()> {
    let (_, alone) = {
        quiet(platform).await?;
        beats(redis, 16).await?
    };
    let began = redis.calls().await?;
    let mut there = Vec::new();
    for number in 0..60 {
        for at in [(0, 0), (0, 1)] {
            there.push(somebody(platform, number, at, &format!("idle{}", at.1)).await?);
        }
    }
    let full: Vec<String> = there.iter().map(Client::full).collect();
    written(redis, "eu", &full).await?;
    quiet(platform).await?;
    let bound = redis.calls().await?;
    let (writes, among_many) = beats(redis, 16).await?;
    let before_end = redis.calls().await?;
    for client in &mut there {
        client.disconnect().await?;
    }
    written(redis, "eu", &[]).await?;
    let ended = redis.calls().await?;
    let per_session = |from: &std::collections::BTreeMap<String, u64>,
                       to: &std::collections::BTreeMap<String, u64>| {
        let writes = ["hset", "hdel", "hget", "sadd", "srem", "xadd", "incrby"];
        let grown = |name: &&str| to.get(*name).unwrap_or(&0) - from.get(*name).unwrap_or(&0);
        writes.iter().map(grown).sum::<u64>() as f64 / full.len() as f64
    };
    println!(
        "    commands a beat, those in scripts too: {alone:.2} with no session, {among_many:.2} with {}; \
         a session: {:.1} to bind and show presence, {:.1} to end",
        full.len(),
        per_session(&began, &bound),
        per_session(&before_end, &ended),
    );
    if writes != 0 {
        return Err(format!("{writes} writes while nothing happened"));
    }
    if (alone - among_many).abs() > 0.5 {
        return Err(format!("{alone} commands a beat without sessions, {among_many} with"));
    }
    Ok(())
}

async fn messages(platform: &Platform, redis: &Redis) -> Result<()> {
    let couple =
        talk::Couple::begin(platform, 70, [(0, 0), (0, 1)], Duration::from_millis(1)).await?;
    quiet(platform).await?;
    let (writes, _) = beats(redis, 12).await?;
    let report = couple.end().await?;
    println!("    {report}; {writes} writes to Redis meanwhile");
    if writes == 0 && report.sum.sent > 500 {
        Ok(())
    } else {
        Err(format!("{writes} writes, {report}"))
    }
}
