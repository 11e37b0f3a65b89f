//! One region of three nodes over several databases: the node that writes them dies in the middle of a move, and a partition while all of them
//! read. On PostgreSQL: the main database on one server, a partition on another.

use crate::{Couple, change, name};
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::database::{Kind, Server};
use pangaea_tests::platform::{Plan, Platform};
use serde_json::Value;
use std::time::{Duration, Instant};

const NODES: u16 = 3;

/// What the tests share: a region whose nodes have two partitions beside the main database.
pub(crate) struct Cluster {
    platform: Platform,
    /// It has a partition, and nothing else.
    other: Server,
}

impl Cluster {
    /// Starts it with all accounts in the main database.
    pub(crate) async fn begin(url: &str) -> Result<Self> {
        let other = Server::start(Kind::Postgres).await?;
        let plan = Plan {
            regions: vec!["eu".into()],
            nodes: NODES,
            database: Some(format!("{url}/cluster")),
            ..Plan::default()
        };
        let platform = Platform::start(plan).await?;
        // Databases that every server has from its beginning; that server's other one is a partition of somebody else's (see `several`).
        let partitions = format!("\"{}/postgres\", \"{url}/template1\"", other.url());
        // None of them without what another has.
        for node in 0..usize::from(NODES) {
            platform.kill(&name(node)).await?;
            let file = platform.dir.join(format!("{}.toml", name(node)));
            let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
            let line = text.lines().find(|line| line.starts_with("database = \"postgres"));
            let line = line.ok_or("no database")?;
            let text = text.replace(line, &format!("{line}\npartitions = [{partitions}]"));
            std::fs::write(&file, text).map_err(|e| e.to_string())?;
        }
        for node in 0..usize::from(NODES) {
            platform.launch_node(&name(node)).await?;
        }
        for node in 0..usize::from(NODES) {
            platform.wait_ready(&name(node), |status, _| status == 200).await?;
        }
        Ok(Self { platform, other })
    }

    async fn shown(&self, node: usize) -> Result<Value> {
        self.platform.ctl(&name(node), &["storage", "show"]).await
    }

    /// Until a node sees the databases as somebody expects; what it saw in the end.
    async fn until_shown(
        &self,
        node: usize,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + patience() * 6;
        loop {
            let info = self.shown(node).await?;
            if is_so(&info) {
                return Ok(info);
            }
            if Instant::now() > deadline {
                return Err(format!("{what}, at {}: {info}", name(node)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn user(&self, number: u32, node: usize, resource: &str) -> Result<Client> {
        let mut client = self.platform.user_at(number, (0, node), resource)?;
        client.connect().await?;
        client.send("<presence/>").await?;
        client.ping().await?;
        Ok(client)
    }

    /// Somebody who writes to somebody at another node; neither is at the one that will be killed.
    async fn couple(&self, number: u32, dead: usize, pause: Duration) -> Result<Couple> {
        let at = |step: usize| (dead + step) % usize::from(NODES);
        let writer = self.platform.user_at(number, (0, at(1)), "writer")?;
        let reader = self.platform.user_at(number + 1, (0, at(2)), "reader")?;
        Couple::of(writer, reader, pause).await
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

/// All slots shall move into two partitions, under load. When some have, the node that moves them is killed: another goes on where it was, and
/// everything adds up.
pub(crate) async fn mover_killed_under_load(cluster: &mut Cluster) -> Result<()> {
    let platform = &cluster.platform;
    let dead = platform.scribe(0).await?;
    let before = cluster.shown(dead).await?;
    if slots(&before) != [256, 0, 0] {
        return Err(format!("at first: {before}"));
    }
    let mut couples = Vec::new();
    for (number, pause) in [(1, 20), (3, 20), (5, 250)] {
        couples.push(cluster.couple(number, dead, Duration::from_millis(pause)).await?);
    }
    let mut bystander = cluster.user(9, (dead + 1) % usize::from(NODES), "bystander").await?;
    for couple in &couples {
        couple.hears(4).await?;
    }
    let order = ["storage", "rebalance"];
    let (node, some) = (name(dead), |info: &Value| info["moves"]["moved"].as_u64() > Some(0));
    let moved = tokio::select! {
        all = platform.ctl(&node, &order) => return Err(format!("nobody was fast enough: {all:?}")),
        info = cluster.until_shown(dead, "some have moved", some) => info?,
    };
    platform.kill(&node).await?;
    let began = Instant::now();
    let (mut done, mut told_to_wait) = (0u64, 0u64);
    let deadline = began + patience() * 6;
    let next = loop {
        let contact = format!("friend{}@elsewhere.example", 10 + done + told_to_wait);
        let answer = change(&mut bystander, &contact).await?;
        match answer.attr("type") {
            Some("result") => done += 1,
            _ if answer.to_string().contains("type='wait'")
                || answer.to_string().contains("type=\"wait\"") =>
            {
                told_to_wait += 1;
            }
            _ => return Err(format!("while another takes over: {answer}")),
        }
        let next = platform.scribe(0).await?;
        let info = cluster.shown(next).await?;
        if next != dead && slots(&info) == [0, 128, 128] {
            break next;
        }
        if Instant::now() > deadline {
            return Err(format!("after {:?}: {info}", began.elapsed()));
        }
    };
    println!(
        "    killed after {} of 256 slots; {} went on, all were there after {:.1} s; {done} changes meanwhile, {told_to_wait} told to wait",
        moved["moves"]["moved"],
        name(next),
        began.elapsed().as_secs_f64()
    );
    if done == 0 {
        return Err("nothing could be changed".to_owned());
    }
    platform.start_node(&node).await?;
    for at in 0..usize::from(NODES) {
        cluster.until_shown(at, "where they are now", |info| slots(info) == [0, 128, 128]).await?;
    }
    // Where it is read now is what was written before, meanwhile and since.
    let last = change(&mut bystander, "last@elsewhere.example").await?;
    if last.attr("type") != Some("result") {
        return Err(format!("in the end: {last}"));
    }
    let mut rosters = Vec::new();
    for at in 0..usize::from(NODES) {
        let mut again = cluster.user(9, at, &format!("again{at}")).await?;
        let roster = again.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
        rosters.push(roster.children().map(|q| q.children().count()).sum::<usize>());
        again.disconnect().await?;
    }
    // Of those that were told to wait some may have been done: nobody knew when the answer was due.
    let (least, most) = (done + 1, done + told_to_wait + 1);
    if rosters.iter().any(|n| *n != rosters[0] || !(least..=most).contains(&(*n as u64))) {
        return Err(format!("contacts at each node: {rosters:?}, of {least} to {most}"));
    }
    for couple in couples {
        couple.end().await?;
    }
    Ok(())
}

/// A partition is killed: whichever node its accounts are at, their changes are refused for now, others' are not, and when it is back nothing is
/// missing.
pub(crate) async fn partition_of_nodes_killed(cluster: &mut Cluster) -> Result<()> {
    let scribe = cluster.platform.scribe(0).await?;
    cluster.until_shown(scribe, "they have moved", |info| slots(info) == [0, 128, 128]).await?;
    let mut clients = Vec::new();
    for number in 20..44 {
        clients.push(cluster.user(number, number as usize % usize::from(NODES), "here").await?);
    }
    let couples = [
        cluster.couple(12, scribe, Duration::from_millis(20)).await?,
        cluster.couple(14, scribe, Duration::from_millis(20)).await?,
        cluster.couple(16, scribe, Duration::from_millis(20)).await?,
    ];
    for couple in &couples {
        couple.hears(50).await?;
    }
    cluster.other.kill();
    let is_away = |info: &Value| !info["databases"][1]["away"].is_null();
    cluster.until_shown(scribe, "the partition is away", is_away).await?;
    let (mut refused, mut done) = (Vec::new(), [0; NODES as usize]);
    for (at, client) in clients.iter_mut().enumerate() {
        let answer = change(client, "while@elsewhere.example").await?;
        match answer.attr("type") {
            Some("result") => done[at % usize::from(NODES)] += 1,
            _ if answer.to_string().contains("resource-constraint")
                || answer.to_string().contains("remote-server-timeout") =>
            {
                refused.push(at);
            }
            _ => return Err(format!("refused with {answer}")),
        }
    }
    cluster.other.start_again().await?;
    println!("    {} accounts refused; done at each node: {done:?}", refused.len());
    if done.contains(&0) || (0..3).any(|node| !refused.iter().any(|at| at % 3 == node)) {
        return Err(format!("refused: {refused:?}, done: {done:?}"));
    }
    let deadline = Instant::now() + patience() * 3;
    for at in refused {
        let contact = "later@elsewhere.example";
        while change(&mut clients[at], contact).await?.attr("type") != Some("result") {
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
