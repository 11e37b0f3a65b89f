//! What happens to Redis, to a node, and to where Redis is; while people write to each other, and others sign in.

use super::talk::{Couple, Report};
use super::{ctl, quiet, somebody, until, written};
use pangaea_tests::client::{Result, patience};
use pangaea_tests::http;
use pangaea_tests::platform::{Platform, binary};
use pangaea_tests::redis::{Kind, Redis};
use pangaea_tests::slow::Way;
use std::time::{Duration, Instant};

/// What sessions may feel of it: nothing. On a busy machine a little.
const FELT_MAX: Duration = Duration::from_secs(2);

/// Two couples, within a region and across.
async fn couples(platform: &Platform, number: u32) -> Result<[Couple; 2]> {
    let pause = Duration::from_millis(10);
    Ok([
        Couple::begin(platform, number, [(0, 0), (0, 1)], pause).await?,
        Couple::begin(platform, number + 2, [(0, 1), (1, 0)], pause).await?,
    ])
}

/// Adds up what they said.
async fn reports(what: &str, couples: [Couple; 2]) -> Result<Vec<(&'static str, Report)>> {
    let mut reports = Vec::new();
    for (couple, road) in couples.into_iter().zip(["within the region", "to the other region"]) {
        let report = couple.end().await?;
        println!("    {what}, {road}: {report}");
        reports.push((road, report));
    }
    Ok(reports)
}

/// The same, and they felt nothing.
async fn end(what: &str, couples: [Couple; 2]) -> Result<()> {
    for (road, report) in reports(what, couples).await? {
        if report.gap > FELT_MAX {
            return Err(format!("{road}: nothing for {:?}", report.gap));
        }
    }
    Ok(())
}

/// Signs in and is heard of: how long that takes.
async fn sign_in(platform: &Platform, number: u32) -> Result<(Duration, String)> {
    let began = Instant::now();
    let client = somebody(platform, number, (0, 0), "newcomer").await?;
    let took = began.elapsed();
    if took > FELT_MAX {
        Err(format!("signing in took {took:?}"))
    } else {
        Ok((took, client.full()))
    }
}

/// Waits until `/ready` of eu-0 has an alarm, or has none; it is ready either way.
async fn alarm(platform: &Platform, on: bool) -> Result<String> {
    let port = platform.port_of(0, 0, 280);
    until!("an alarm is raised, or is over", {
        let (status, text) = http::request(port, hyper::Method::GET, "/ready", None).await?;
        if status != 200 {
            return Err(format!("it is not ready: {text}"));
        }
        Ok((text.contains("alarms") == on).then_some(text))
    })
}

/// The sessions of region eu in a test with two couples.
fn in_eu(couples: &[Couple; 2]) -> Vec<String> {
    let [within, across] = couples;
    vec![within.writer.clone(), within.reader.clone(), across.writer.clone()]
}

pub(crate) async fn killed(platform: &Platform, redis: &mut Redis) -> Result<()> {
    let couples = couples(platform, 1).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    redis.kill();
    let said = alarm(platform, true).await?;
    let (took, _) = sign_in(platform, 9).await?;
    // Who asks what is written there is told why that cannot be said.
    let account = couples[0].writer.split('/').next().unwrap_or_default();
    let asked = ctl(platform, (0, 0), &["registry", account]).await;
    let refusal = asked.as_ref().err().and_then(|why| why.split_once("Redis cannot be reached:"));
    if refusal.is_none_or(|(_, reason)| reason.trim().is_empty()) {
        return Err(format!("the rows of {account}: {asked:?}"));
    }
    let metric = platform.metric(0, "pangaea_redis_up", "").await?;
    if metric != 0.0 || !said.contains("does not answer") {
        return Err(format!("redis_up is {metric}, ready says {said}"));
    }
    redis.start_again().await?;
    alarm(platform, false).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    println!("    gone: a sign-in took {:.2} s", took.as_secs_f64());
    end("killed and empty again", couples).await
}

pub(crate) async fn flushed(platform: &Platform, redis: &Redis) -> Result<()> {
    let couples = couples(platform, 11).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    redis.cli(&["FLUSHALL"]).await?;
    let began = Instant::now();
    written(redis, "eu", &in_eu(&couples)).await?;
    written(redis, "us", std::slice::from_ref(&couples[1].reader)).await?;
    println!("    flushed: the rows are there again after {:.2} s", began.elapsed().as_secs_f64());
    end("flushed", couples).await
}

pub(crate) async fn paused(platform: &Platform, redis: &Redis) -> Result<()> {
    let couples = couples(platform, 21).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    redis.pause();
    let done = async {
        alarm(platform, true).await?;
        let mut took = Duration::ZERO;
        for number in 30..34 {
            took = took.max(sign_in(platform, number).await?.0);
        }
        Ok::<_, String>(took)
    };
    let done = done.await;
    redis.go_on();
    let took = done?;
    alarm(platform, false).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    println!("    silent: a sign-in took {:.2} s at most", took.as_secs_f64());
    end("paused", couples).await
}

/// It answers whatever it is asked, late: no node takes it for dead, and nobody waits for it.
pub(crate) async fn slow(platform: &Platform, redis: &Redis) -> Result<()> {
    // Less than `redis.timeout`.
    const LATE: Duration = Duration::from_millis(1500);
    const ANSWERS: u64 = 4;
    // A message each ten milliseconds: half as many again would wait with one that waits for an answer.
    const BEHIND_MAX: u64 = 100;
    let way = Way::to(redis.port()).await?;
    reload(platform, &format!("url = \"redis://127.0.0.1:{}\"\n", way.port())).await?;
    let couples = couples(platform, 62).await?;
    let mut there = in_eu(&couples);
    written(redis, "eu", &there).await?;
    way.late(LATE);
    let mut took = Duration::ZERO;
    for number in 66..69 {
        took = took.max(sign_in(platform, number).await?.0);
    }
    let stays = somebody(platform, 69, (0, 1), "newcomer").await?;
    until!("answers have come late", { Ok((way.arrived_late() >= ANSWERS).then_some(())) })?;
    way.late(Duration::ZERO);
    there.push(stays.full());
    written(redis, "eu", &there).await?;
    println!(
        "    slow: {} answers came late; a sign-in took {:.2} s at most",
        way.arrived_late(),
        took.as_secs_f64()
    );
    for (road, report) in reports("slow", couples).await? {
        if report.behind > BEHIND_MAX {
            return Err(format!("{road}: {} messages waited", report.behind));
        }
    }
    reload(platform, &format!("url = \"{}\"\n", redis.url())).await
}

/// It has no room for another row.
pub(crate) async fn full(platform: &Platform, redis: &Redis) -> Result<()> {
    let couples = couples(platform, 35).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    let said = alarm(platform, true).await?;
    let (took, _) = sign_in(platform, 39).await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    alarm(platform, false).await?;
    written(redis, "eu", &in_eu(&couples)).await?;
    println!("    full: a sign-in took {:.2} s", took.as_secs_f64());
    if !said.contains("maxmemory") {
        return Err(said);
    }
    end("full", couples).await
}

/// A node dies with sessions. Another life of it comes: what the first one wrote is removed by the one with the least name.
pub(crate) async fn dead_node(platform: &Platform, redis: &Redis) -> Result<()> {
    quiet(platform).await?;
    let here = somebody(platform, 40, (0, 0), "here").await?;
    let gone = somebody(platform, 40, (0, 1), "gone").await?;
    written(redis, "eu", &[here.full(), gone.full()]).await?;
    let before = platform.metric(0, "pangaea_redis_rows_removed_total", "").await?;
    platform.kill("eu-1").await?;
    platform.start_node("eu-1").await?;
    written(redis, "eu", &[here.full()]).await?;
    let removed = platform.metric(0, "pangaea_redis_rows_removed_total", "").await? - before;
    let rows = ctl(platform, (0, 1), &["registry", &here.bare()]).await?;
    let rows = rows.as_array().map_or(0, Vec::len);
    println!("    {removed} rows of a life that was over removed by eu-0, {rows} left");
    if removed == 1.0 && rows == 1 { Ok(()) } else { Err("not what was there".to_owned()) }
}

/// A third node of eu that names nobody: it finds the others in Redis, they let it in, the other region learns of it by metadata.
pub(crate) async fn joins(platform: &Platform, redis: &Redis) -> Result<()> {
    let dir = &platform.dir;
    let text = std::fs::read_to_string(dir.join("eu-1.toml")).map_err(|e| e.to_string())?;
    if !text.contains(&redis.url()) {
        reload(platform, &format!("url = \"{}\"\n", redis.url())).await?;
    }
    let made = std::process::Command::new("sh")
        .current_dir(dir)
        .arg("-ec")
        .arg(
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=eu-2 -keyout eu-2.key -out eu-2.csr
             printf 'subjectAltName=DNS:pangaea.localhost\\nbasicConstraints=CA:FALSE\\n' > ext
             openssl x509 -req -in eu-2.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out eu-2.pem",
        )
        .output()
        .map_err(|e| e.to_string())?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    let text = std::fs::read_to_string(dir.join("eu-1.toml")).map_err(|e| e.to_string())?;
    let mut text = text.split("[[peers]]").next().unwrap_or_default().to_owned();
    for offset in [222, 223, 269, 347, 280, 265] {
        let (old, new) = (platform.port_of(0, 1, offset), platform.port_of(0, 2, offset));
        text = text.replace(&format!("127.0.0.1:{old}"), &format!("127.0.0.1:{new}"));
    }
    text = text
        .replace("eu-1", "eu-2")
        .replace("index = 1", "index = 2")
        .replace("raft_id = 2\n", "raft_id = 33\n")
        .replace("voter = true", "voter = false");
    let file = dir.join("eu-2.toml");
    std::fs::write(&file, text).map_err(|e| e.to_string())?;
    let log = std::fs::File::create(dir.join("eu-2.log")).map_err(|e| e.to_string())?;
    let mut node = tokio::process::Command::new(binary()?)
        .args(["run", "--config"])
        .arg(&file)
        .stdout(log.try_clone().map_err(|e| e.to_string())?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let began = Instant::now();
    platform.wait_ready("eu-2", |status, _| status == 200).await.map_err(|e| {
        let log = std::fs::read_to_string(dir.join("eu-2.log")).unwrap_or_default();
        format!("{e}\n{log}")
    })?;
    let took = began.elapsed();
    until!("the other region has a link to it", {
        let links = ctl(platform, (1, 1), &["links"]).await?;
        let up = |link: &serde_json::Value| link["peer"] == "eu-2" && link["up"] == true;
        Ok(links.as_array().is_some_and(|links| links.iter().any(up)).then_some(()))
    })?;
    let couple = Couple::begin(platform, 45, [(1, 0), (0, 2)], Duration::from_millis(10)).await?;
    until!("it has registered", {
        let rows = ctl(
            platform,
            (0, 0),
            &["registry", couple.reader.split('/').next().unwrap_or_default()],
        )
        .await?;
        Ok((rows[0]["node"] == "eu-2").then_some(()))
    })?;
    let report = couple.end().await?;
    println!("    ready {:.1} s after its start; from us-0 to it: {report}", took.as_secs_f64());
    if let Some(pid) = node.id() {
        let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
    }
    let ended = tokio::time::timeout(patience(), node.wait()).await;
    ended.map_err(|_| "it does not end")?.map_err(|e| e.to_string())?;
    // It is out of service, and nobody waits for it.
    ctl(platform, (0, 0), &["nodes"]).await.map(|_| ())
}

/// Writes another `[redis]` into the nodes' configuration of region eu, and has them read it.
async fn reload(platform: &Platform, section: &str) -> Result<()> {
    for node in ["eu-0", "eu-1"] {
        let file = platform.dir.join(format!("{node}.toml"));
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
        let (before, rest) = text.split_once("[redis]\n").ok_or("no [redis]")?;
        let (_, after) = rest.split_once("\n\n").ok_or("no end of [redis]")?;
        let text = format!("{before}[redis]\n{section}prefix = \"pangaea:eu\"\n\n{after}");
        std::fs::write(&file, text).map_err(|e| e.to_string())?;
    }
    for at in [(0, 0), (0, 1)] {
        let done = ctl(platform, at, &["reload"]).await?;
        let applied = done["applied"].to_string();
        if !applied.contains("redis.url") || done["needs_restart"] != serde_json::json!([]) {
            return Err(format!("{done}"));
        }
    }
    Ok(())
}

pub(crate) async fn tls(platform: &Platform) -> Result<()> {
    let other = Redis::start(Kind::Tls).await?;
    let here = somebody(platform, 50, (0, 1), "here").await?;
    let section =
        format!("url = \"{}\"\nauthority = \"{}\"\n", other.url(), other.authority().display());
    reload(platform, &section).await?;
    written(&other, "eu", &[here.full()]).await?;
    let info = ctl(platform, (0, 0), &["registry"]).await?.to_string();
    if info.contains("secret") || !info.contains(&format!("rediss://127.0.0.1:{}", other.port())) {
        return Err(info);
    }
    alarm(platform, false).await.map(|_| ())
}

pub(crate) async fn sentinel(platform: &Platform) -> Result<()> {
    let mut master = Redis::start(Kind::Plain).await?;
    let replica = Redis::start(Kind::ReplicaOf(master.port())).await?;
    let sentinel = Redis::start(Kind::SentinelOf(master.port())).await?;
    until!("the sentinel knows the replica", {
        let said = sentinel.cli(&["SENTINEL", "REPLICAS", "master"]).await?;
        Ok(said.contains(&replica.port().to_string()).then_some(()))
    })?;
    let section =
        format!("url = \"redis://master\"\nsentinels = [\"127.0.0.1:{}\"]\n", sentinel.port());
    reload(platform, &section).await?;
    let couples = couples(platform, 52).await?;
    written(&master, "eu", &in_eu(&couples)).await?;
    master.kill();
    let began = Instant::now();
    alarm(platform, true).await?;
    let newcomer = somebody(platform, 58, (0, 1), "newcomer").await?;
    let mut all = in_eu(&couples);
    all.push(newcomer.full());
    written(&replica, "eu", &all).await?;
    until!("it is the master now", {
        let said = replica.cli(&["ROLE"]).await?;
        Ok((said[0] == "master").then_some(()))
    })?;
    alarm(platform, false).await?;
    println!(
        "    failed over: all rows at the new master after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    end("failover", couples).await
}
