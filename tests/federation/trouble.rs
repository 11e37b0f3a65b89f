//! What happens to peers and to regions while people at both ends write to each other: it adds up, and it stays in order.
//!
//! What a server that is killed had taken and not yet handed on is its own loss, and so is what one without stream management between servers had in its
//! socket (ejabberd): such losses are printed and bounded, everything else is a failure.

use crate::attacks::{EVIL, Target};
use crate::load::{Account, Writing};
use crate::peer::{Peer, Proof, Which};
use crate::site::Site;
use crate::stranger::Line;
use crate::stranger::home::{Home, Manners};
use crate::talk::sees;
use crate::{World, expect, next_user};
use futures_util::future::join_all;
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::platform::Platform;
use pangaea_tests::xml::Element;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);
/// As long as what waits may wait, and a little more.
const SETTLED: Duration = Duration::from_secs(45);

/// A node is emptied, and nobody has said where other servers are to go: those that stand there stay, and who comes is taken. Else what they have would go
/// back to its senders.
pub(crate) async fn emptied(platform: &Platform, target: &Target<'_>) -> Result<()> {
    // Nobody is there who could not be sent away too.
    const REGION: usize = 1;
    let names = (EVIL, &*target.us);
    let secured = || Line::secured(platform.port(REGION, 269), names, Some(&target.good));
    let mut standing = secured().await?.0;
    standing.external(EVIL, &target.us).await?;
    ctl_at(platform, REGION, &["node", "drain", "--no-wait"]).await?;
    secured().await?.0.external(EVIL, &target.us).await?;
    standing.send("<enable xmlns='urn:xmpp:sm:3'/>").await;
    let answer = standing.element().await?;
    expect(answer.name == "enabled", || format!("it does not stand: {answer}"))?;
    ctl_at(platform, REGION, &["node", "undrain"]).await.map(drop)
}

async fn writing(from: &Site, way: usize, to: &Site, to_way: usize) -> Result<Writing> {
    let number = next_user();
    let writer = from.online(number, way, "writer").await?;
    let reader = to.online(number, to_way, "reader").await?;
    Writing::begin(writer, reader, PAUSE).await
}

/// So many are on their way before something happens, and get through behind it: half of what may be under way ([`Writing::begin`]).
const SOME: u64 = 60;

/// Both directions, while the peer is stopped and started again.
pub(crate) async fn peer_restarted(ours: &Site, peer: &mut Peer) -> Result<()> {
    let theirs = peer.site()?;
    let out = writing(ours, 0, &theirs, 0).await?;
    // Who writes at the peer cannot write while it is gone: its writer is done before.
    let into = writing(&theirs, 0, ours, 1).await?;
    into.hears(SOME).await?;
    out.hears(SOME).await?;
    let into = into.end(SETTLED).await?;
    peer.stop().await?;
    out.writes(SOME).await?;
    peer.launch().await?;
    out.hears(2 * SOME).await?;
    let out = out.end(SETTLED).await?;
    println!("    {} restarted, to it: {out}", peer.domain);
    println!("    {} restarted, from it before: {into}", peer.domain);
    into.verdict(&theirs)?;
    bounded(&out, ours, !acknowledges(peer))?;
    let again = writing(&theirs, 0, ours, 0).await?;
    again.hears(SOME).await?;
    let again = again.end(SETTLED).await?;
    println!("    {} restarted, from it after: {again}", peer.domain);
    again.verdict(&theirs)
}

/// Whether the peer speaks XEP-0198 with other servers: Prosody does on streams of EXTERNAL, ejabberd never.
fn acknowledges(peer: &Peer) -> bool {
    peer.which == Which::Prosody && peer.proof == Proof::External
}

/// Nothing is lost by us: what a peer that acknowledges nothing has lost in its own end is no more than what was in its socket when it went.
fn bounded(account: &Account, from: &Site, may_lose: bool) -> Result<()> {
    account.order(from)?;
    few_lost(account, may_lose)
}

fn few_lost(account: &Account, may_lose: bool) -> Result<()> {
    let most = if may_lose { 100 } else { 0 };
    expect(account.lost.len() <= most, || format!("{account}: lost {:?}", account.lost))
}

/// A stranger takes what our people in all regions write, and looks who brings it; then it brings something to each region for people in each.
pub(crate) async fn every_region(platform: &Platform, ours: &Site, world: &World) -> Result<()> {
    const PEOPLE: usize = 12;
    let domain = "gate.lab";
    let paper = world.authority.for_domain(domain)?;
    let home = Home::start(&world.dns, &[domain], &paper, Manners::default()).await?;
    let mut people = Vec::new();
    for nth in 0..PEOPLE {
        people.push(ours.online(next_user(), nth, "here").await?);
    }
    for round in 0..20 {
        for client in &mut people {
            let text = format!("<message to='x@{domain}' id='{round}'><body>x</body></message>");
            client.send(&text).await?;
        }
    }
    let mut ways: BTreeMap<String, (Vec<u8>, Vec<u32>)> = BTreeMap::new();
    for _ in 0..20 * PEOPLE {
        let came = home.next(patience() * 2).await?;
        let from = came.stanza.attr("from").unwrap_or_default().to_owned();
        let node = came.from.map(|certificate| certificate.to_vec()).unwrap_or_default();
        let number = came.stanza.attr("id").and_then(|id| id.parse().ok()).unwrap_or(u32::MAX);
        let entry = ways.entry(from).or_insert_with(|| (node.clone(), Vec::new()));
        expect(entry.0 == node, || "one sender's messages left from two nodes".into())?;
        entry.1.push(number);
    }
    let in_order = ways.values().all(|(_, numbers)| *numbers == (0..20).collect::<Vec<_>>());
    expect(in_order && ways.len() == PEOPLE, || format!("not in order: {ways:?}"))?;
    let mut nodes: Vec<&Vec<u8>> = ways.values().map(|(node, _)| node).collect();
    nodes.sort();
    nodes.dedup();
    println!(
        "    {PEOPLE} people in three regions: their messages leave from {} nodes",
        nodes.len()
    );
    expect(nodes.len() > 1, || "everything leaves from one region".into())?;
    for region in 0..ours.ways.len() {
        let port = platform.port(region, 269);
        let (mut line, ..) = Line::secured(port, (domain, &ours.domain), Some(&paper)).await?;
        line.external(domain, &ours.domain).await?;
        for client in &mut people {
            let word = format!("in by {region}");
            let to = client.full();
            let text =
                format!("<message from='x@{domain}' to='{to}'><body>{word}</body></message>");
            line.send(text).await;
            let fits = |e: &Element| e.body().as_deref() == Some(&word);
            client.wait_for("a message from outside", fits).await?;
        }
    }
    Ok(())
}

/// Domains of one region, and of services, are ours where they are served.
pub(crate) async fn domains(platform: &Platform, ours: &Site, peer: &Peer) -> Result<()> {
    let theirs = peer.site()?;
    let mut juliet = theirs.online(next_user(), 0, "balcony").await?;
    let regions = platform.plan.regions.iter().map(String::as_str);
    for below in regions.chain(["upload"]) {
        let domain = format!("{below}.{}", ours.domain);
        let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
        let answer = juliet.iq("get", Some(&domain), info).await?;
        let good = answer.attr("type") == Some("result") && answer.attr("from") == Some(&domain);
        expect(good, || answer.to_string())?;
    }
    Ok(())
}

/// `ctl s2s check` says what is the case.
pub(crate) async fn check(platform: &Platform, peer: &Peer) -> Result<()> {
    let said = ctl(platform, &["s2s", "check", &peer.domain]).await?;
    let expected = match peer.proof {
        Proof::External => "valid",
        Proof::Dialback => "self-signed",
    };
    expect(said.contains(expected), || said.clone())?;
    let said = ctl(platform, &["s2s", "check", "void.lab"]).await.unwrap_or_else(|said| said);
    expect(said.contains("DNS knows no domain"), || said.clone())
}

/// A region is killed while people of the others write to the peer, and the peer's to them. Nobody of ours is in the region that dies, but it is home to some, and
/// has streams of the peer's. What it had promised the peer it hands on when it is back.
pub(crate) async fn region_killed(platform: &Platform, ours: &Site, peer: &Peer) -> Result<()> {
    region_gone(platform, ours, peer, "killed").await
}

/// The same, told to stop: nobody declares it down, and the others speak for those whose home it is.
pub(crate) async fn region_stopped(platform: &Platform, ours: &Site, peer: &Peer) -> Result<()> {
    region_gone(platform, ours, peer, "stopped").await
}

/// One of theirs who watches one of ours, who is in the region that goes.
async fn watched(ours: &Site, theirs: &Site) -> Result<(Client, Client)> {
    let number = next_user();
    let mut juliet = ours.online(number, 2, "balcony").await?;
    let mut romeo = theirs.online(number, 0, "orchard").await?;
    romeo.send(&format!("<presence to='{}' type='subscribe'/>", juliet.bare())).await?;
    sees(&mut juliet, &romeo.bare(), Some("subscribe")).await?;
    juliet.send(&format!("<presence to='{}' type='subscribed'/>", romeo.bare())).await?;
    sees(&mut romeo, &juliet.full(), None).await?;
    Ok((juliet, romeo))
}

async fn region_gone(platform: &Platform, ours: &Site, peer: &Peer, how: &str) -> Result<()> {
    let theirs = peer.site()?;
    let (juliet, mut romeo) = watched(ours, &theirs).await?;
    let region = &platform.plan.regions[2];
    let node = format!("{region}-0");
    let (mut out, mut into) = (Vec::new(), Vec::new());
    for nth in 0..4 {
        out.push(writing(ours, nth % 2, &theirs, 0).await?);
        into.push(writing(&theirs, 0, ours, nth % 2).await?);
    }
    for one in out.iter().chain(&into) {
        one.hears(SOME).await?;
    }
    let began = Instant::now();
    if how == "killed" {
        platform.kill(&node).await?;
        ctl(platform, &["region", "down", region]).await?;
    } else {
        platform.stop_node(&node).await?;
    }
    // Who was there is seen to go.
    let full = juliet.full();
    let fits = |e: &Element| {
        e.name == "presence"
            && e.attr("from") == Some(&*full)
            && e.attr("type") == Some("unavailable")
    };
    romeo.wait_for_within(SETTLED, "the end of her who was there", fits).await?;
    for one in out.iter().chain(&into) {
        one.hears(2 * SOME).await?;
    }
    out.iter().chain(&into).for_each(Writing::enough);
    let mut wrong = Vec::new();
    // All at the same time: one that waits for what is lost does not make the others late.
    for account in join_all(out.into_iter().map(|one| one.end(SETTLED))).await {
        let account = account?;
        println!("    {node} {how}, to them: {account}");
        wrong.extend(account.verdict(ours).err());
    }
    platform.start_node(&node).await?;
    if how == "killed" {
        ctl(platform, &["region", "up", region]).await?;
    }
    for account in join_all(into.into_iter().map(|one| one.end(SETTLED))).await {
        let account = account?;
        println!("    {node} {how}, from them: {account}, {} of them both", account.both.len());
        wrong.extend(account.sequence(&theirs).err());
        // What was read and not acknowledged yet when the node was killed the peer cannot know to have come: it may say that it has not.
        wrong.extend((how == "stopped").then(|| account.honest().err()).flatten());
        wrong.extend(few_lost(&account, !acknowledges(peer)).err());
    }
    println!("    (after {:.0} s)", began.elapsed().as_secs_f64());
    expect(wrong.is_empty(), || wrong.join("\n"))
}

/// What is asked of a peer changes while all run: denied, a certificate required, allowed again.
pub(crate) async fn policies(
    platform: &Platform,
    ours: &Site,
    peer: &mut Peer,
    world: &World,
) -> Result<()> {
    let domain = peer.domain.clone();
    let passes = peer.proof == Proof::External;
    for (rule, goes) in
        [("allow = false", false), ("certificate = \"required\"", passes), ("allow = true", true)]
    {
        peer.kill().await;
        world
            .configure(platform, &format!("[[s2s.policy]]\ndomain = \"{domain}\"\n{rule}\n"))
            .await?;
        peer.launch().await?;
        let theirs = peer.site()?;
        let number = next_user();
        let mut romeo = ours.online(number, 0, "orchard").await?;
        let mut juliet = theirs.online(number, 0, "balcony").await?;
        for turn in [false, true] {
            let (from, to) =
                if turn { (&mut juliet, &mut romeo) } else { (&mut romeo, &mut juliet) };
            let stanza =
                format!("<message to='{}' id='p' type='chat'><body>x</body></message>", to.full());
            from.send(&stanza).await?;
            let fits = |e: &Element| e.name == "message" && e.attr("id") == Some("p");
            let what = format!("{domain}, {rule}, {}", if turn { "from them" } else { "to them" });
            if goes {
                to.wait_for_within(SETTLED, &what, fits).await?;
                continue;
            }
            // Prosody and ejabberd have their own patience: what matters is that nothing comes through.
            if turn {
                let came = to.wait_for_within(Duration::from_secs(3), &what, fits).await;
                expect(came.is_err(), || format!("{what}: came through"))?;
            } else {
                let back = from.wait_for_within(SETTLED, &what, fits).await?;
                expect(back.attr("type") == Some("error"), || format!("{what}: {back}"))?;
            }
        }
    }
    Ok(())
}

/// `pangaea ctl …` at the first node.
pub(crate) async fn ctl(platform: &Platform, words: &[&str]) -> Result<String> {
    ctl_at(platform, 0, words).await
}

pub(crate) async fn ctl_at(platform: &Platform, region: usize, words: &[&str]) -> Result<String> {
    tool_at(platform, region, &[&["ctl"], words].concat()).await
}

/// `pangaea …`, which asks a region's first node.
pub(crate) async fn tool_at(platform: &Platform, region: usize, words: &[&str]) -> Result<String> {
    let asked = tokio::process::Command::new(pangaea_tests::platform::binary()?)
        .args(words)
        .env("PANGAEA_URL", format!("http://127.0.0.1:{}", platform.port(region, 280)))
        .env("PANGAEA_USER", format!("admin@{}", platform.plan.domain))
        .env("PANGAEA_PASSWORD", "wonderland")
        .kill_on_drop(true)
        .output();
    let said = asked.await.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    if said.status.success() {
        return Ok(text);
    }
    Err(format!("{words:?}: {text}{}", String::from_utf8_lossy(&said.stderr)))
}
