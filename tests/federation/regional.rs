//! Regions' own domains (docs/decisions/0017): people of `eu.DOMAIN` and of `us.DOMAIN`, who are strangers to each other and find each other by DNS, or are linked;
//! and people of the global domain, with whom they talk inside the platform in any case. That nothing left is seen by what DNS was asked.

use crate::site::Site;
use crate::talk::{self, Pair};
use crate::{LONGEST_SECONDS, TOGETHER, World, expect, next_user, trouble};
use pangaea_tests::client::{Client, Result};
use pangaea_tests::dns::Kind;
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Door, Platform};

/// The people of a region's own domain.
pub(crate) fn site(platform: &Platform, region: usize) -> Result<Site> {
    let mut way = platform.endpoint(region, Door::StartTls)?;
    way.domain = format!("{}.{}", platform.plan.regions[region], platform.plan.domain);
    let domain = way.domain.clone();
    Ok(Site::new(&domain, None, vec![way], true))
}

/// What people do, but for rooms, of which these have none.
fn talk<'a>(place: &str, pair: Pair<'a>) -> Vec<Test<'a>> {
    let mut tests = talk::tests(place, pair);
    tests.retain(|test| !test.name.ends_with("room"));
    tests
}

/// How often DNS was asked for the servers of regions' own domains.
fn asked(world: &World, sites: [&Site; 2]) -> usize {
    let of =
        |site: &Site| world.dns.asked(&format!("_xmpp-server._tcp.{}", site.domain), Kind::Srv);
    sites.into_iter().map(of).sum()
}

/// As they are unless something else is said.
pub(crate) async fn apart(
    world: &World,
    platform: &Platform,
    ours: &Site,
    choice: &Choice,
    outcome: &mut Outcome,
) -> Result<()> {
    let (eu, us) = (site(platform, 0)?, site(platform, 1)?);
    let first = vec![Test::new("regional::an account signs in where its domain is", || {
        signs_in(platform, &eu)
    })];
    run(outcome, choice, first, 1, LONGEST_SECONDS).await;
    let before = asked(world, [&eu, &us]);
    let tests = talk("regional::with the global domain", Pair { ours, theirs: &us });
    run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
    let inside = asked(world, [&eu, &us]);
    let tests = talk("regional::apart", Pair { ours: &eu, theirs: &us });
    run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
    let ways = Test::new("regional::apart::by streams, and not with the global domain", || async {
        expect(inside == before, || "what is for the global domain left".into())?;
        let mut asks = eu.online(next_user(), 0, "asks").await?;
        asks.iq("get", Some(&us.domain), "<ping xmlns='urn:xmpp:ping'/>").await?;
        expect(asked(world, [&eu, &us]) > inside, || "nobody asked DNS".into())
    });
    run(outcome, choice, vec![ways], 1, LONGEST_SECONDS).await;
    Ok(())
}

/// The last of all: the nodes are started again, and DNS leads nowhere.
pub(crate) async fn linked(
    world: &World,
    platform: &Platform,
    choice: &Choice,
    outcome: &mut Outcome,
) -> Result<()> {
    let (eu, us) = (site(platform, 0)?, site(platform, 1)?);
    let tests = talk("regional::linked", Pair { ours: &eu, theirs: &us });
    if !tests.iter().any(|test| choice.wants(&test.name)) {
        return Ok(());
    }
    for name in &platform.plan.regions {
        let file = platform.dir.join(format!("{name}-0.toml"));
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
        let text = text.replacen("[domains]\n", "[domains]\nregional_traffic = \"link\"\n", 1);
        std::fs::write(&file, text).map_err(|e| e.to_string())?;
    }
    for name in &platform.plan.regions {
        platform.stop_node(&format!("{name}-0")).await?;
    }
    for name in &platform.plan.regions {
        platform.launch_node(&format!("{name}-0")).await?;
    }
    for name in &platform.plan.regions {
        platform.wait_ready(&format!("{name}-0"), |status, _| status == 200).await?;
    }
    let before = asked(world, [&eu, &us]);
    run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
    let ways = Test::new("regional::linked::nothing leaves", || async {
        expect(asked(world, [&eu, &us]) == before, || "somebody asked DNS".into())
    });
    run(outcome, choice, vec![ways], 1, LONGEST_SECONDS).await;
    Ok(())
}

/// Made at another region's node, it signs in at its own, and nowhere else.
async fn signs_in(platform: &Platform, eu: &Site) -> Result<()> {
    let account = format!("rosaline@{}", eu.domain);
    trouble::tool_at(platform, 2, &["user", "add", &account, "secret"]).await?;
    let home = trouble::ctl_at(platform, 2, &["home", "show", &account]).await?;
    expect(home.contains("eu"), || home.clone())?;
    let moved = trouble::ctl_at(platform, 2, &["home", "move", &account, "--to", "us"]).await;
    expect(moved.is_err(), || "its home was moved".into())?;
    let mut here = Client::new("rosaline", eu.ways[0].clone(), "rosaline", "secret", Some("here"));
    here.connect().await?;
    here.ping().await?;
    let mut way = platform.endpoint(1, Door::StartTls)?;
    way.domain.clone_from(&eu.domain);
    let mut there = Client::new("rosaline", way, "rosaline", "secret", Some("there"));
    match there.connect().await {
        // As to any domain that is not served here: it answers in another name, and closes the stream.
        Err(why) if why.contains("is not from") => Ok(()),
        other => Err(format!("elsewhere: {other:?}")),
    }
}
