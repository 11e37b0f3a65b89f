//! All that a region is made of, in one: three nodes, a Redis, a database server. A node, the Redis and the server die one after the other while
//! people talk at the other nodes, and everything adds up.

use crate::{Couple, change, name};
use pangaea_tests::client::{Result, patience};
use pangaea_tests::database::Server;
use pangaea_tests::platform::{Plan, Platform};
use pangaea_tests::redis::{Kind, Redis};
use std::time::{Duration, Instant};

const NODES: usize = 3;
/// Messages that are heard between one trouble and the next.
const SOME: u64 = 40;

/// Starts it, and one by one its parts are killed.
pub(crate) async fn killed_one_after_the_other(server: &mut Server) -> Result<()> {
    let mut redis = Redis::start(Kind::Plain).await?;
    let plan = Plan {
        regions: vec!["eu".into()],
        nodes: NODES as u16,
        database: Some(format!("{}/together", server.url())),
        redis: Some(redis.url()),
        ..Plan::default()
    };
    let platform = Platform::start(plan).await?;
    let dead = platform.scribe(0).await?;
    let (one, two) = ((dead + 1) % NODES, (dead + 2) % NODES);
    let mut couples = Vec::new();
    for (number, from, to) in [(1, one, two), (3, two, one), (5, one, one)] {
        let writer = platform.user_at(number, (0, from), "writer")?;
        let reader = platform.user_at(number + 1, (0, to), "reader")?;
        couples.push(Couple::of(writer, reader, Duration::from_millis(20)).await?);
    }
    let mut bystander = platform.user_at(7, (0, one), "bystander")?;
    bystander.connect().await?;
    hear(&couples).await?;

    platform.kill(&name(dead)).await?;
    hear(&couples).await?;
    let took = changes(&mut bystander, "without-its-scribe@elsewhere.example").await?;
    let next = platform.scribe(0).await?;
    println!("    {} killed: {} writes, a change took {took:.1?}", name(dead), name(next));

    redis.kill();
    hear(&couples).await?;
    redis.start_again().await?;
    let seen = seen_in_redis(&platform, one, &bystander.bare()).await?;
    println!("    Redis killed and started empty: it has the sessions again after {seen:.1?}");

    server.kill();
    hear(&couples).await?;
    server.start_again().await?;
    let took = changes(&mut bystander, "after-the-database@elsewhere.example").await?;
    println!("    the database killed and started: a change took {took:.1?}");

    platform.start_node(&name(dead)).await?;
    let mut late = platform.user_at(7, (0, dead), "late")?;
    late.connect().await?;
    let roster = late.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?.to_string();
    for contact in ["without-its-scribe@", "after-the-database@"] {
        if !roster.contains(contact) {
            return Err(format!("{contact} is missing at {}: {roster}", name(dead)));
        }
    }
    for couple in couples {
        couple.end().await?;
    }
    match platform.panics().first() {
        Some(panic) => Err(panic.clone()),
        None => Ok(()),
    }
}

async fn hear(couples: &[Couple]) -> Result<()> {
    for couple in couples {
        couple.hears(SOME).await?;
    }
    Ok(())
}

/// Asks for a change until it is done; how long that took. Each refusal must be one to wait upon.
async fn changes(client: &mut pangaea_tests::client::Client, contact: &str) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let answer = change(client, contact).await?;
        if answer.attr("type") == Some("result") {
            return Ok(began.elapsed());
        }
        let refusal = answer.to_string();
        if !refusal.contains("wait") {
            return Err(format!("refused for good: {refusal}"));
        }
        if began.elapsed() > patience() * 3 {
            return Err(format!("after {:?}: {refusal}", began.elapsed()));
        }
    }
}

/// Until the registry tells of an account's session; how long that took.
async fn seen_in_redis(platform: &Platform, node: usize, account: &str) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let asked = platform.ctl(&name(node), &["registry", account]).await;
        if asked.as_ref().is_ok_and(|said| said.to_string().contains("bystander")) {
            return Ok(began.elapsed());
        }
        if began.elapsed() > patience() * 3 {
            return Err(format!("not in Redis: {asked:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
