//! What the outside may rely on, to the letter: ports, accounts, files, steering, stopping, going on from what was there.

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::http;
use pangaea_tests::platform::{Door, Plan, Platform};
use std::time::{Duration, Instant};

pub(crate) fn tests(platform: &Platform) -> Vec<Test<'_>> {
    vec![
        Test::new("contract::every_account_logs_in_at_every_region", || accounts(platform)),
        Test::new("contract::every_node_has_its_files_and_its_http_port", || {
            files_and_http(platform)
        }),
        Test::new("contract::registration_of_a_taken_name_is_refused", || taken_name(platform)),
        Test::new("contract::a_cut_line_holds_what_is_on_the_way", || {
            cut_line(platform, [40, 41, 42], ("eu", "us"))
        }),
        Test::new("contract::the_newer_bind_wins_across_regions", || newer_bind_wins(platform)),
    ]
}

pub(crate) fn own_platform(plan: &Plan) -> Vec<Test<'_>> {
    vec![Test::new("contract::a_second_start_goes_on_from_what_was_there", || second_start(plan))]
}

fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what()) }
}

async fn accounts(platform: &Platform) -> Result<()> {
    let named =
        ["alice", "bob", "carol", "dave", "admin"].map(|n| (n.to_owned(), "wonderland".to_owned()));
    let numbered = [0, 57, 99].map(|n| (format!("user{n}"), format!("pw{n}")));
    for region in 0..platform.plan.regions.len() {
        for door in [Door::StartTls, Door::DirectTls] {
            for (user, password) in named.iter().chain(&numbered) {
                let mut client = Client::new(
                    user,
                    platform.endpoint(region, door)?,
                    user,
                    password,
                    Some("contract"),
                );
                client
                    .connect()
                    .await
                    .map_err(|e| format!("{user} in region {region} by {door:?}: {e}"))?;
                client.ping().await?;
                client.disconnect().await?;
            }
        }
    }
    Ok(())
}

async fn files_and_http(platform: &Platform) -> Result<()> {
    for (region, name) in platform.plan.regions.iter().enumerate() {
        for extension in ["toml", "pid", "log"] {
            let path = platform.dir.join(format!("{name}-0.{extension}"));
            expect(path.exists(), || format!("{} is not there", path.display()))?;
        }
        for path in ["/health", "/ready", "/metrics"] {
            let (status, body) =
                http::request(platform.port(region, 280), hyper::Method::GET, path, None).await?;
            expect(status == 200, || format!("{path} of {name}: {status} {body}"))?;
        }
    }
    let shown = platform.wan_shown().await?.to_string();
    expect(shown.contains("delay_ms"), || format!("GET /wan shows {shown}"))
}

async fn taken_name(platform: &Platform) -> Result<()> {
    for region in 0..platform.plan.regions.len() {
        let client = Client::new(
            "usurper",
            platform.endpoint(region, Door::StartTls)?,
            "alice",
            "mine",
            None,
        );
        match client.register().await {
            Err(e) if e.contains("conflict") => {}
            other => return Err(format!("in region {region}: {other:?}")),
        }
    }
    Ok(())
}

/// The line between two regions is cut, both ways: both go on serving, and what was said meanwhile comes on healing.
pub(crate) async fn cut_line(
    platform: &Platform,
    [here, beside, there]: [u32; 3],
    (a, b): (&str, &str),
) -> Result<()> {
    let mut near = platform.user(here, platform.region(a), "near")?;
    let mut neighbour = platform.user(beside, platform.region(a), "neighbour")?;
    let mut far = platform.user(there, platform.region(b), "far")?;
    for client in [&mut near, &mut neighbour, &mut far] {
        client.connect().await?;
        client.send("<presence/>").await?;
        client.ping().await?;
    }
    let (to, beside) = (far.full(), neighbour.full());
    near.send(&format!("<message to='{to}' type='chat'><body>before</body></message>")).await?;
    far.wait_for("the message before", |e| e.body().as_deref() == Some("before")).await?;
    platform.cut(a, b, true).await?;
    for number in 0..50 {
        near.send(&format!("<message to='{to}' type='chat'><body>{number}</body></message>"))
            .await?;
    }
    near.send(&format!("<message to='{beside}' type='chat'><body>near</body></message>")).await?;
    neighbour
        .wait_for("a message in the same region", |e| e.body().as_deref() == Some("near"))
        .await?;
    far.ping().await?;
    let early = far.drain().into_iter().find(|e| e.body().is_some());
    platform.cut(a, b, false).await?;
    expect(early.is_none(), || format!("it came through a cut line: {early:?}"))?;
    for number in 0..50 {
        let got = far.wait_for("what was said meanwhile", |e| e.body().is_some()).await?;
        expect(got.body() == Some(number.to_string()), || {
            format!("expected number {number}, got {got}")
        })?;
    }
    Ok(())
}

/// The same full JID is bound in one region, then in another: the first hears of the conflict, messages reach the second.
async fn newer_bind_wins(platform: &Platform) -> Result<()> {
    for (first, second) in [(0, 1), (2, 0), (1, 2)] {
        let mut older = platform.user(43, first, "everywhere")?;
        let mut newer = platform.user(43, second, "everywhere")?;
        let mut friend = platform.user(44, first, "friend")?;
        friend.connect().await?;
        older.connect().await?;
        older.send("<presence/>").await?;
        older.ping().await?;
        newer.connect().await?;
        let error =
            older.wait_for("a stream error", |e| e.is("error", pangaea_tests::xml::STREAM)).await?;
        let conflict = error.child("conflict", "urn:ietf:params:xml:ns:xmpp-streams");
        expect(conflict.is_some(), || format!("not a conflict: {error}"))?;
        older.wait_end().await?;
        let to = newer.full();
        friend.send(&format!("<message to='{to}' type='chat'><body>who?</body></message>")).await?;
        newer.wait_for("the friend's message", |e| e.body().as_deref() == Some("who?")).await?;
        newer.disconnect().await?;
    }
    Ok(())
}

/// Stopped in order and started again on the same directory: rosters, offline messages and changed passwords are there.
async fn second_start(plan: &Plan) -> Result<()> {
    let mut platform = Platform::start(plan.clone()).await?;
    let made = async {
        let mut writer = platform.user(0, 0, "writer")?;
        writer.connect().await?;
        let item = "<query xmlns='jabber:iq:roster'><item jid='nurse@capulet.example' name='Nurse'/></query>";
        let answer = writer.iq("set", None, item).await?;
        expect(answer.attr("type") == Some("result"), || answer.to_string())?;
        let to = format!("user1@{}", platform.plan.domain);
        writer
            .send(&format!(
                "<message to='{to}' type='chat'><body>see you tomorrow</body></message>"
            ))
            .await?;
        writer.enable_sm(false).await?;
        writer
            .send(&format!("<message to='{to}' type='chat'><body>sleep well</body></message>"))
            .await?;
        writer.wait_acked().await
    };
    if let Err(e) = made.await {
        return Err(format!("{e}\n{}", platform.logs()));
    }
    let started = Instant::now();
    platform = platform.start_again().await?;
    let took = started.elapsed();
    let kept = async {
        let mut writer = platform.user(0, 2, "writer")?;
        writer.connect().await?;
        let roster = writer.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
        expect(roster.to_string().contains("nurse@capulet.example"), || {
            format!("the roster is {roster}")
        })?;
        let mut reader = platform.user(1, 1, "reader")?;
        reader.connect().await?;
        reader.send("<presence/>").await?;
        for text in ["see you tomorrow", "sleep well"] {
            let got = reader.wait_for("a message from before", |e| e.body().is_some()).await?;
            expect(got.body().as_deref() == Some(text), || {
                format!("expected {text:?}, got {got}")
            })?;
        }
        expect(took < patience() + Duration::from_secs(20), || {
            format!("stopping and starting took {took:?}")
        })
    };
    let kept = kept.await;
    kept.map_err(|e| format!("{e}\n{}", platform.logs()))?;
    platform.stop().await
}
