//! People who move: from region to region, in order and not, with several devices, over lines that are cut, slow or gone.
//!
//! With our own client, which says exactly what is sent and when. The rows are those of a geo-distributed domain that
//! others accept a loss in; here a loss is a failure.

use crate::talk::{Writing, enter_all, hear, hear_all, online, say};
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::ledger::{Ledger, body};
use pangaea_tests::platform::Platform;
use serde_json::json;
use std::time::{Duration, Instant};

pub(crate) fn tests(platform: &Platform) -> Vec<Test<'_>> {
    vec![
        Test::new("moves::messages_around_a_clean_move_all_arrive_in_order", || {
            clean_moves(platform, &[(50, 0)], 51)
        }),
        Test::new("moves::a_cut_session_that_logs_in_elsewhere_loses_nothing", || {
            cut_moves(platform)
        }),
        Test::new("moves::what_comes_late_says_when_it_was_sent", || sent_when(platform)),
        Test::new("moves::closing_one_device_leaves_the_other_reachable", || {
            one_device_closes(platform)
        }),
        Test::new("moves::order_holds_over_a_slow_and_uneven_line", || uneven_line(platform)),
        Test::new("moves::two_regions_that_cannot_talk_both_reach_the_third", || {
            triangle(platform)
        }),
        Test::new("moves::a_device_that_cannot_be_reached_holds_up_no_other", || {
            unreached_device(platform)
        }),
        Test::new("moves::a_region_alone_still_serves_its_users", || island(platform)),
        Test::new("moves::what_was_acknowledged_survives_kill_9", || {
            acknowledged_survives(platform)
        }),
        Test::new("moves::a_home_that_moves_loses_and_refuses_nothing", || home_moves(platform)),
    ]
}

/// The reader leaves one region and comes to the next while somebody writes to him all the time: one from each of these regions.
pub(crate) async fn clean_moves(
    platform: &Platform,
    writers: &[(u32, usize)],
    reader: u32,
) -> Result<()> {
    const MOVES: usize = 6;
    let to = format!("user{reader}@{}", platform.plan.domain);
    let mut writing = Vec::new();
    for (number, region) in writers {
        let mut writer = platform.user(*number, *region, "writer")?;
        online(&mut writer).await?;
        let name = format!("writer{number}");
        // Two hundred a second: what is shown is that nothing falls between two regions, not how much they can hold.
        let pause = Duration::from_millis(5);
        writing.push((name.clone(), Writing::start(writer, to.clone(), name, pause)));
    }
    let mut heard = Ledger::default();
    for turn in 0..MOVES {
        let mut client = platform.user(reader, turn % 3, "reader")?;
        online(&mut client).await?;
        for (name, _) in &writing {
            let goal = heard.count(name) + 40;
            hear(&mut client, &mut heard, name, goal).await?;
        }
        client.disconnect().await?;
        enter_all(&mut client, &mut heard);
    }
    let mut client = platform.user(reader, 1, "reader")?;
    online(&mut client).await?;
    for (name, writing) in writing {
        let sent = writing.enough().await?;
        hear_all(&mut client, &mut heard, &[name], sent).await?;
    }
    Ok(())
}

/// The reader's connection is cut; he logs in under the same name in another region instead of resuming. What he had not
/// acknowledged may come again: so the first coming of each number counts, and these must be all, in order.
async fn cut_moves(platform: &Platform) -> Result<()> {
    let mut writer = platform.user(52, 0, "writer")?;
    online(&mut writer).await?;
    let to = format!("user53@{}", platform.plan.domain);
    let mut numbers: Vec<u64> = Vec::new();
    let mut sent = 0;
    for turn in 0..4 {
        let mut reader = platform.user(53, (turn + 1) % 3, "reader")?;
        reader.connect().await?;
        reader.enable_sm(true).await?;
        reader.send("<presence/>").await?;
        reader.ping().await?;
        let before = sent;
        for _ in 0..20 {
            say(&mut writer, &to, &sent.to_string()).await?;
            sent += 1;
        }
        let half = (before + 10).to_string();
        loop {
            let got = reader.wait_for("the first half", |e| e.body().is_some()).await?;
            let text = got.body().unwrap_or_default();
            numbers.push(text.parse().map_err(|_| format!("strange: {got}"))?);
            if text == half {
                break;
            }
        }
        reader.cut().await;
        numbers.extend(reader.drain().iter().filter_map(|e| e.body()?.parse::<u64>().ok()));
        for _ in 0..20 {
            say(&mut writer, &to, &sent.to_string()).await?;
            sent += 1;
        }
        writer.ping().await?;
    }
    let mut reader = platform.user(53, 2, "reader")?;
    online(&mut reader).await?;
    while !numbers.contains(&(sent - 1)) {
        let got = reader.wait_for("the last message", |e| e.body().is_some()).await?;
        numbers
            .push(got.body().unwrap_or_default().parse().map_err(|_| format!("strange: {got}"))?);
    }
    reader.ping().await?;
    let mut seen = std::collections::BTreeSet::new();
    let first: Vec<u64> = numbers.into_iter().filter(|n| seen.insert(*n)).collect();
    let expected: Vec<u64> = (0..sent).collect();
    if first == expected {
        return Ok(());
    }
    let lost: Vec<u64> = expected.into_iter().filter(|n| !seen.contains(n)).collect();
    let late = first.windows(2).find(|p| p[1] < p[0]);
    Err(format!("of {sent}, lost {lost:?}, first out of order {late:?}"))
}

/// A message is read in another region and not acknowledged; its session ends, and it comes to the next one. The time it says (XEP-0203) is when it
/// was sent, not when that session ended.
async fn sent_when(platform: &Platform) -> Result<()> {
    const DELAY: &str = "urn:xmpp:delay";
    const TIME: &str = "urn:xmpp:time";
    let mut writer = platform.user(48, 0, "writer")?;
    online(&mut writer).await?;
    let mut reader = platform.user(49, 1, "reader")?;
    reader.connect().await?;
    reader.enable_sm(true).await?;
    reader.answer_acks(false);
    reader.send("<presence/>").await?;
    reader.ping().await?;
    let to = reader.bare();
    say(&mut writer, &to, "m").await?;
    reader.wait_for("it", |e| e.body().as_deref() == Some("m")).await?;
    // All clocks are this machine's.
    let answer =
        writer.iq("get", Some("pangaea.localhost"), &format!("<time xmlns='{TIME}'/>")).await?;
    let time = answer.child("time", TIME).and_then(|time| time.child("utc", TIME));
    let read_by = time.ok_or_else(|| format!("what time is it: {answer}"))?.text();
    reader.cut().await;
    let mut again = platform.user(49, 2, "reader")?;
    online(&mut again).await?;
    let late = again.wait_for("it again", |e| e.body().as_deref() == Some("m")).await?;
    let stamp = late.child("delay", DELAY).and_then(|delay| delay.attr("stamp"));
    match stamp {
        Some(stamp) if stamp <= read_by.as_str() => Ok(()),
        _ => Err(format!("read by {read_by}, and then: {late}")),
    }
}

/// Two devices in two regions; one closes while somebody writes to the bare address: the other has everything.
async fn one_device_closes(platform: &Platform) -> Result<()> {
    let mut writer = platform.user(54, 2, "writer")?;
    let mut laptop = platform.user(55, 0, "laptop")?;
    let mut phone = platform.user(55, 1, "phone")?;
    for client in [&mut writer, &mut laptop, &mut phone] {
        online(client).await?;
    }
    let both = phone.full();
    laptop
        .wait_for("the phone's presence", |e| e.name == "presence" && e.attr("from") == Some(&both))
        .await?;
    let to = laptop.bare();
    let mut heard = Ledger::default();
    for number in 0..200 {
        say(&mut writer, &to, &body("writer", number)).await?;
        if number == 100 {
            writer.ping().await?;
            laptop.disconnect().await?;
        }
    }
    hear(&mut phone, &mut heard, "writer", 200).await?;
    phone.ping().await?;
    enter_all(&mut phone, &mut heard);
    heard.verdict("writer", 200)
}

/// 200 ms one way, half of it uneven: 300 messages each way, in order.
async fn uneven_line(platform: &Platform) -> Result<()> {
    let before = platform.wan_shown().await?;
    for (from, to) in [("eu", "us"), ("us", "eu")] {
        platform.wan(from, to, json!({"delay_ms": 200, "jitter_ms": 100})).await?;
    }
    let talked = async {
        let mut eu = platform.user(56, 0, "eu")?;
        let mut us = platform.user(57, 1, "us")?;
        online(&mut eu).await?;
        online(&mut us).await?;
        let (a, b) = (eu.full(), us.full());
        for number in 0..300 {
            say(&mut eu, &b, &body("eu", number)).await?;
            say(&mut us, &a, &body("us", number)).await?;
        }
        let (mut heard, mut heard_back) = (Ledger::default(), Ledger::default());
        hear(&mut us, &mut heard, "eu", 300).await?;
        hear(&mut eu, &mut heard_back, "us", 300).await?;
        heard.verdict("eu", 300)?;
        heard_back.verdict("us", 300)
    };
    let result = talked.await;
    for (from, to) in [("eu", "us"), ("us", "eu")] {
        platform.wan(from, to, json!({"delay_ms": 20, "jitter_ms": 0})).await?;
    }
    result.map_err(|e| format!("{e}\nthe lines before: {before}"))
}

/// eu and us cannot talk, ap talks with both: ap's conversations go on; what eu says to us waits, and comes in order.
async fn triangle(platform: &Platform) -> Result<()> {
    let mut eu = platform.user(58, 0, "eu")?;
    let mut us = platform.user(59, 1, "us")?;
    let mut ap = platform.user(60, 2, "ap")?;
    for client in [&mut eu, &mut us, &mut ap] {
        online(client).await?;
    }
    let (eu_jid, us_jid, ap_jid) = (eu.full(), us.full(), ap.full());
    for (client, to) in [(&mut eu, &us_jid), (&mut us, &ap_jid), (&mut ap, &eu_jid)] {
        say(client, to, "hello").await?;
    }
    for client in [&mut eu, &mut us, &mut ap] {
        client.wait_for("a greeting", |e| e.body().as_deref() == Some("hello")).await?;
    }
    platform.cut("eu", "us", true).await?;
    let apart = async {
        for number in 0..50 {
            say(&mut eu, &us_jid, &body("eu", number)).await?;
            say(&mut eu, &ap_jid, &body("eu", number)).await?;
            say(&mut ap, &us_jid, &body("ap", number)).await?;
        }
        let (mut at_ap, mut at_us) = (Ledger::default(), Ledger::default());
        hear(&mut ap, &mut at_ap, "eu", 50).await?;
        hear(&mut us, &mut at_us, "ap", 50).await?;
        at_ap.verdict("eu", 50)?;
        at_us.verdict("ap", 50)?;
        if at_us.count("eu") == 0 {
            Ok(at_us)
        } else {
            Err("it came through a cut line".to_owned())
        }
    };
    let apart = apart.await;
    platform.cut("eu", "us", false).await?;
    let mut at_us = apart?;
    hear(&mut us, &mut at_us, "eu", 50).await?;
    us.ping().await?;
    enter_all(&mut us, &mut at_us);
    at_us.verdict("eu", 50)
}

/// The reader has a device in us and one in ap; eu cannot talk to us. What was said before has long come; what is said now comes to ap at once,
/// though nobody declares us down.
async fn unreached_device(platform: &Platform) -> Result<()> {
    let mut eu = platform.user(70, 0, "eu")?;
    let mut us = platform.user(71, 1, "us")?;
    let mut ap = platform.user(71, 2, "ap")?;
    let mut other = platform.user(72, 2, "other")?;
    // The writer's own device over there: its `unavailable` says when us is given up.
    let mut far = platform.user(70, 1, "far")?;
    for client in [&mut eu, &mut us, &mut ap, &mut other, &mut far] {
        online(client).await?;
    }
    let (reader, other_jid) = (format!("user71@{}", platform.plan.domain), other.full());
    let far = far.full();
    say(&mut eu, &reader, "both").await?;
    for client in [&mut us, &mut ap] {
        client
            .wait_for("a message on both devices", |e| e.body().as_deref() == Some("both"))
            .await?;
    }
    // Long enough for the server to be sure of that: sixty times there and back, with somebody else.
    for _ in 0..60 {
        say(&mut eu, &other_jid, "there").await?;
        other.wait_for("there", |e| e.body().as_deref() == Some("there")).await?;
        say(&mut other, &eu.full(), "back").await?;
        eu.wait_for("back", |e| e.body().as_deref() == Some("back")).await?;
    }
    platform.cut("eu", "us", true).await?;
    let apart = async {
        eu.wait_for_within(patience() * 3, "us to be given up", |e| {
            e.attr("from") == Some(&*far) && e.attr("type") == Some("unavailable")
        })
        .await?;
        say(&mut eu, &reader, "now").await?;
        ap.wait_for("a message on the device that can be reached", |e| {
            e.body().as_deref() == Some("now")
        })
        .await
    };
    let apart = apart.await;
    platform.cut("eu", "us", false).await?;
    apart.map(|_| ())
}

/// A region cut off from all others: its users log in, talk to each other and read their rosters; a change is made or
/// refused with `wait`, never left without an answer, and is possible again after healing.
async fn island(platform: &Platform) -> Result<()> {
    const USERS: std::ops::Range<u32> = 61..69;
    let item =
        "<query xmlns='jabber:iq:roster'><item jid='nurse@capulet.example' name='Nurse'/></query>";
    for (a, b) in [("ap", "eu"), ("ap", "us")] {
        platform.cut(a, b, true).await?;
    }
    let alone = async {
        let mut clients = Vec::new();
        for number in USERS {
            let mut client = platform.user(number, 2, "islander")?;
            online(&mut client).await.map_err(|e| format!("user{number}: {e}"))?;
            clients.push(client);
        }
        let names: Vec<String> = clients.iter().map(Client::full).collect();
        let count = clients.len();
        let (mut made, mut refused) = (0, 0);
        let names = &names;
        let changing = clients.iter_mut().enumerate().map(|(number, client)| async move {
            say(client, &names[(number + 1) % count], "island").await?;
            let roster = client.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
            if roster.attr("type") != Some("result") {
                return Err(format!("the roster cannot be read: {roster}"));
            }
            client.iq("set", None, item).await
        });
        for change in futures_util::future::join_all(changing).await {
            let change = change?;
            let error = change.child("error", pangaea_tests::xml::CLIENT);
            match error.and_then(|e| e.attr("type")) {
                None => made += 1,
                Some("wait") => refused += 1,
                Some(_) => return Err(format!("a change that could not be made says {change}")),
            }
        }
        for client in &mut clients {
            client
                .wait_for("a neighbour's message", |e| e.body().as_deref() == Some("island"))
                .await?;
        }
        Ok((clients, made, refused))
    };
    let alone = alone.await;
    for (a, b) in [("ap", "eu"), ("ap", "us")] {
        platform.cut(a, b, false).await?;
    }
    let (mut clients, made, refused) = alone?;
    println!("    (alone: {made} changes made, {refused} refused)");
    if refused == 0 {
        return Err("every account had its home on the island: the cut cut nothing".into());
    }
    let deadline = Instant::now() + patience() * 2;
    for client in &mut clients {
        loop {
            let change = client.iq("set", None, item).await?;
            if change.attr("type") == Some("result") {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("after healing a change is still refused: {change}"));
            }
        }
    }
    Ok(())
}

/// The server takes responsibility for a hundred messages to somebody who is away, and is killed (kill -9) as soon as it has said so.
async fn acknowledged_survives(platform: &Platform) -> Result<()> {
    for (region, node) in ["eu-0", "us-0", "ap-0"].into_iter().enumerate() {
        let reader = 70 + u32::try_from(region).expect("three");
        let mut writer = platform.user(73, region, "writer")?;
        writer.connect().await?;
        writer.enable_sm(false).await?;
        let to = format!("user{reader}@{}", platform.plan.domain);
        for number in 0..100 {
            say(&mut writer, &to, &body("writer", number)).await?;
        }
        writer.wait_acked().await?;
        platform.kill(node).await?;
        platform.start_node(node).await?;
        let mut client = platform.user(reader, (region + 1) % 3, "reader")?;
        online(&mut client).await?;
        let mut heard = Ledger::default();
        hear(&mut client, &mut heard, "writer", 100)
            .await
            .map_err(|e| format!("after {node} was killed: {e}"))?;
        client.ping().await?;
        enter_all(&mut client, &mut heard);
        heard.verdict("writer", 100).map_err(|e| format!("after {node} was killed: {e}"))?;
    }
    Ok(())
}

/// An operator moves an account's home from region to region while its owner changes the roster all the time, somewhere else.
async fn home_moves(platform: &Platform) -> Result<()> {
    const CHANGES: usize = 150;
    let account = format!("user190@{}", platform.plan.domain);
    let mut owner = platform.user(190, 1, "desk")?;
    owner.connect().await?;
    let changing = async {
        for number in 0..CHANGES {
            let item = format!(
                "<query xmlns='jabber:iq:roster'><item jid='c{number}@elsewhere.example'/></query>"
            );
            let answer = owner.iq("set", None, &item).await?;
            if answer.attr("type") != Some("result") {
                return Err(format!("change {number}: {answer}"));
            }
        }
        Ok(())
    };
    let moving = async {
        for (at, to) in [(0, "us"), (2, "ap"), (1, "eu"), (0, "ap")] {
            let words = ["ctl", "home", "move", &account, "--to", to];
            let (code, out, err) = crate::carry::command(platform, at, &words, "").await?;
            if code != Some(0) || !out.contains(to) {
                return Err(format!("to {to}: {code:?} {out} {err}"));
            }
        }
        Ok(())
    };
    tokio::try_join!(changing, moving)?;
    let mut elsewhere = platform.user(190, 0, "phone")?;
    elsewhere.connect().await?;
    let roster = elsewhere.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
    let items =
        roster.child("query", "jabber:iq:roster").map_or(0, |query| query.children().count());
    if items == CHANGES { Ok(()) } else { Err(format!("{items} of {CHANGES} are there")) }
}
