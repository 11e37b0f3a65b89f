//! One region over several databases: accounts that move under load, a partition that is gone, sign-ins while nothing can be read, and another
//! address for the same database without dropping a session. On PostgreSQL: the main database on one server, a partition on another.

use crate::{Couple, change};
use pangaea_tests::client::{Result, patience};
use pangaea_tests::database::{Kind, Server};
use pangaea_tests::platform::{Plan, Platform};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// What the tests share: a platform of two regions, of which the first has more than one database.
pub(crate) struct Several {
    platform: Platform,
    /// It has a partition, and nothing else.
    other: Server,
    database: String,
}

impl Several {
    /// Starts it with all accounts in the main database.
    pub(crate) async fn begin(url: &str) -> Result<Self> {
        let other = Server::start(Kind::Postgres).await?;
        let plan = Plan {
            regions: ["eu", "us"].map(Into::into).into(),
            database: Some(format!("{url}/several")),
            ..Plan::default()
        };
        let platform = Platform::start(plan).await?;
        // The databases that every server has from its beginning.
        let partitions = format!("\"{}/postgres\", \"{url}/postgres\"", other.url());
        let text =
            std::fs::read_to_string(platform.dir.join("eu-0.toml")).map_err(|e| e.to_string())?;
        let line = text
            .lines()
            .find(|line| line.starts_with("database = \"postgres"))
            .ok_or("no database")?;
        let database = line.split('"').nth(1).unwrap_or_default().to_owned();
        let several = Self { platform, other, database };
        several.rewrite(|text| {
            text.replace(line, &format!("{line}\npartitions = [{partitions}]"))
                + "\n[auth]\ncache = \"1h\"\n"
        })?;
        several.platform.kill("eu-0").await?;
        several.platform.start_node("eu-0").await?;
        Ok(several)
    }

    fn rewrite(&self, new: impl FnOnce(&str) -> String) -> Result<()> {
        let file = self.platform.dir.join("eu-0.toml");
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
        std::fs::write(&file, new(&text)).map_err(|e| e.to_string())
    }

    /// What an operator types.
    async fn ctl(&self, order: &[&str]) -> Result<Value> {
        self.platform.ctl("eu-0", order).await
    }

    /// Until the databases are seen as somebody expects.
    async fn until_shown(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience();
        loop {
            let info = self.ctl(&["storage", "show"]).await?;
            if is_so(&info["databases"]) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{what}: {info}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is said of a panic, and the end.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.platform.panics()
    }
}

fn slots(info: &Value) -> Vec<u64> {
    let databases = info["databases"].as_array().cloned().unwrap_or_default();
    databases.iter().filter_map(|one| one["slots"].as_u64()).collect()
}

/// All accounts move into two partitions, then out of one of them, while messages are sent, archived and read: everything adds up.
pub(crate) async fn moving_under_load(several: &mut Several) -> Result<()> {
    let platform = &several.platform;
    let before = several.ctl(&["storage", "show"]).await?;
    if slots(&before) != [256, 0, 0] {
        return Err(format!("at first: {before}"));
    }
    let mut couples = Vec::new();
    for (number, pause) in [(1, 5), (3, 20), (5, 20), (7, 20)] {
        couples.push(Couple::begin(platform, number, Duration::from_millis(pause)).await?);
    }
    let mut bystander = platform.user(9, 0, "bystander")?;
    bystander.connect().await?;
    for (order, expected) in [
        (&["storage", "rebalance"][..], [0, 128, 128]),
        (&["storage", "rebalance", "--without", "2"][..], [0, 256, 0]),
        (&["storage", "rebalance"][..], [0, 128, 128]),
    ] {
        let began = Instant::now();
        let mut moved = Box::pin(several.ctl(order));
        let mut changes = 0;
        let info = loop {
            tokio::select! {
                info = &mut moved => break info?,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            changes += 1;
            let contact = format!("friend{changes}@elsewhere.example");
            let answer = change(&mut bystander, &contact).await?;
            if answer.attr("type") != Some("result") {
                return Err(format!("while slots move: {answer}"));
            }
            let roster = bystander.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
            if !roster.to_string().contains(&contact) {
                return Err(format!("{contact} is not in {roster}"));
            }
        };
        if slots(&info) != expected {
            return Err(format!("{order:?}: {info}"));
        }
        let moves = &info["moves"];
        println!(
            "    {} slots moved, {} rows, {} bytes in {:.1} s; {changes} changes meanwhile",
            moves["moved"],
            moves["rows"],
            moves["bytes"],
            began.elapsed().as_secs_f64()
        );
    }
    for couple in couples {
        couple.end().await?;
    }
    // All there is, as a new process reads it.
    platform.kill("eu-0").await?;
    platform.start_node("eu-0").await?;
    let mut bystander = platform.user(9, 0, "again")?;
    bystander.connect().await?;
    let roster = bystander.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
    if !roster.to_string().contains("friend3@elsewhere.example") {
        return Err(format!("after a restart: {roster}"));
    }
    Ok(())
}

/// A partition is killed: its accounts' changes are refused for now, others' are not, and when it is back nothing is missing.
pub(crate) async fn partition_killed(several: &mut Several) -> Result<()> {
    several.ctl(&["storage", "rebalance"]).await?;
    let platform = &several.platform;
    let mut clients = Vec::new();
    for number in 20..32 {
        let mut client = platform.user(number, 0, "here")?;
        client.connect().await?;
        clients.push(client);
    }
    let couples = [
        Couple::begin(platform, 12, Duration::from_millis(20)).await?,
        Couple::begin(platform, 14, Duration::from_millis(20)).await?,
        Couple::begin(platform, 16, Duration::from_millis(20)).await?,
    ];
    for couple in &couples {
        couple.hears(50).await?;
    }
    several.other.kill();
    // The first ones find out.
    several.until_shown("the partition is away", |all| !all[1]["away"].is_null()).await?;
    let (mut refused, mut done) = (Vec::new(), 0);
    for (at, client) in clients.iter_mut().enumerate() {
        let answer = change(client, "while@elsewhere.example").await?;
        match answer.attr("type") {
            Some("result") => done += 1,
            _ if answer.to_string().contains("resource-constraint")
                || answer.to_string().contains("remote-server-timeout") =>
            {
                refused.push(at);
            }
            _ => return Err(format!("refused with {answer}")),
        }
    }
    let info = several.ctl(&["storage", "show"]).await?;
    if info["databases"][1]["away"].is_null() || !info["databases"][2]["away"].is_null() {
        return Err(format!("{info}"));
    }
    several.other.start_again().await?;
    println!("    {} accounts refused, {done} not", refused.len());
    if refused.is_empty() || done == 0 {
        return Err(format!("refused: {refused:?}, done: {done}"));
    }
    let deadline = Instant::now() + patience() * 3;
    for at in refused {
        while change(&mut clients[at], "later@elsewhere.example").await?.attr("type")
            != Some("result")
        {
            if Instant::now() > deadline {
                return Err("it is back, and a change is still refused".to_owned());
            }
        }
    }
    for couple in couples {
        couple.end().await?;
    }
    Ok(())
}

/// Another address for the main database while messages are sent: no session ends, everything adds up, and the new address is what is used. Another
/// database is refused, and nothing changes.
pub(crate) async fn another_address_under_load(several: &mut Several) -> Result<()> {
    let platform = &several.platform;
    let (address, carried) = forwarder(&several.database).await?;
    let couple = Couple::begin(platform, 40, Duration::from_millis(5)).await?;
    couple.hears(100).await?;
    let other = several.database.replace("/several", "/elsewhere_several");
    // Of another server, and not one of ours.
    let wrong = several.other.url() + "/template1";
    for another in [&other, &wrong] {
        several.rewrite(|text| text.replace(&several.database, another))?;
        let done = several.ctl(&["reload"]).await?;
        let refused = done["refused"][0].as_str().unwrap_or_default();
        if !refused.contains("does not take the place") || done["applied"] != serde_json::json!([])
        {
            return Err(format!("{another}: {done}"));
        }
        several.rewrite(|text| text.replace(another.as_str(), &several.database))?;
    }
    let new = with_address(&several.database, &address)?;
    several.rewrite(|text| {
        text.replace(&several.database, &new).replace("[storage]\n", "[storage]\nconnections = 6\n")
    })?;
    let done = several.ctl(&["reload"]).await?;
    if done["applied"] != serde_json::json!(["storage.connections", "storage.database"]) {
        return Err(format!("{done}"));
    }
    let deadline = Instant::now() + patience();
    while carried.load(Ordering::SeqCst) < 2 {
        if Instant::now() > deadline {
            return Err("nobody comes over the new address".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    couple.hears(200).await?;
    let gap = couple.end().await?;
    let carried = carried.load(Ordering::SeqCst);
    println!(
        "    {carried} connections over the new address; at most {:.1} s without a message",
        gap.as_secs_f64()
    );
    if carried < 2 || gap > Duration::from_secs(3) {
        return Err(format!("{carried} connections, a gap of {gap:?}"));
    }
    several.rewrite(|text| text.replace(&new, &several.database))?;
    let done = several.ctl(&["reload"]).await?;
    if done["applied"] != serde_json::json!(["storage.database"]) {
        return Err(format!("back: {done}"));
    }
    Ok(())
}

/// Nothing can be read: who was here lately signs in, and talks; others are told to wait.
pub(crate) async fn sign_in_while_it_is_killed(
    several: &mut Several,
    server: &mut Server,
) -> Result<()> {
    let platform = &several.platform;
    for number in 50..54 {
        let mut client = platform.user(number, 0, "before")?;
        client.connect().await?;
        client.disconnect().await?;
    }
    server.kill();
    several.other.kill();
    let result = signed_in(platform).await;
    server.start_again().await?;
    several.other.start_again().await?;
    result?;
    let deadline = Instant::now() + patience() * 3;
    let mut late = platform.user(60, 0, "late")?;
    while let Err(e) = late.connect().await {
        if Instant::now() > deadline {
            return Err(format!("it is over: {e}"));
        }
    }
    Ok(())
}

async fn signed_in(platform: &Platform) -> Result<()> {
    let mut stranger = platform.user(60, 0, "stranger")?;
    match stranger.connect().await {
        Err(e) if e.contains("temporary-auth-failure") => {}
        other => return Err(format!("who was not here lately: {other:?}")),
    }
    let mut clients = Vec::new();
    for number in 50..54 {
        let mut client = platform.user(number, 0, "now")?;
        client.connect().await.map_err(|e| format!("user{number}: {e}"))?;
        client.send("<presence/>").await?;
        client.ping().await?;
        clients.push(client);
    }
    let mut wrong = platform.user(50, 0, "wrong")?;
    wrong.password = "not it".to_owned();
    match wrong.connect().await {
        Err(e) if e.contains("not-authorized") => {}
        other => return Err(format!("with a wrong password: {other:?}")),
    }
    let to = clients[1].full();
    let text = format!("<message to='{to}' type='chat'><body>all is well here</body></message>");
    clients[0].send(&text).await?;
    clients[1]
        .wait_for("a message", |e| e.body().as_deref() == Some("all is well here"))
        .await
        .map(drop)
}

/// A port that leads to where the URL does, and how many connections came over it.
async fn forwarder(url: &str) -> Result<(String, Arc<AtomicU64>)> {
    let to = address_of(url)?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?.to_string();
    let carried = Arc::new(AtomicU64::new(0));
    let count = carried.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let to = to.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    Ok((address, carried))
}

fn address_of(url: &str) -> Result<&str> {
    url.split('@').nth(1).and_then(|rest| rest.split('/').next()).ok_or_else(|| url.to_owned())
}

fn with_address(url: &str, address: &str) -> Result<String> {
    Ok(url.replace(address_of(url)?, address))
}
