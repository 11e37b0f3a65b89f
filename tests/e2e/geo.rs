//! The rows of a geo-distributed domain, by the names they have in the test suite of the one other server that has such a thing
//! (MongooseIM's `mod_global_distrib_SUITE`), so that the two can be held side by side. Where that suite accepts a loss, an error or
//! any order, here a loss, a repeat or a wrong order is a failure. What it never tests about who owns a full JID is in `ownership`.
//!
//! Every row runs on the shared platform of three regions, with accounts of its own. Left out, for what they need is not there yet:
//! `muc_conversation_*` (rooms); `global_disco` (services of a region); `enable_new_endpoint_on_refresh`,
//! `disable_endpoint_on_refresh`, `advertised_endpoints_override_endpoints` (endpoints are configured, not published).
//! `hidden_component_disco_in_different_region` wants another configuration (a unit test has it), and `update_senders_host_by_ejd_service` is `update_senders_host`
//! here, where components are sessions. `error_on_wrong_hosts` and the two unit cases are about that server's inside.

mod components;
mod ownership;

use crate::contract;
use crate::moves;
use crate::talk::{Writing, enter_all, hear, hear_all, nothing_returned, online, say, say_all};
use futures_util::future::try_join_all;
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::ledger::{Ledger, body};
use pangaea_tests::platform::Platform;
use pangaea_tests::xml::Element;
use std::ops::Range;
use std::time::Duration;

/// The accounts of these rows, so many for each.
pub(crate) const USERS: Range<u32> = 200..360;
const EACH: u32 = 8;
/// The lines of the platform.
const LINES: [(&str, &str); 3] = [("eu", "us"), ("us", "ap"), ("ap", "eu")];

pub(crate) fn tests(platform: &Platform) -> Vec<Test<'_>> {
    let cast = |row: u32| Cast { platform, first: USERS.start + EACH * row };
    vec![
        Test::new("geo::pm_between_users_at_different_locations", move || locations(cast(0))),
        Test::new("geo::pm_between_users_before_available_presence", move || {
            before_presence(cast(1))
        }),
        Test::new("geo::pm_with_disconnection_on_other_server", move || disconnection(cast(2))),
        Test::new("geo::pm_with_graceful_reconnection_to_different_server", move || {
            graceful(cast(3))
        }),
        Test::new("geo::pm_with_ungraceful_reconnection", move || ungraceful(cast(4))),
        Test::new("geo::pm_with_ungraceful_reconnection_asia_refreshes_first", move || {
            refreshed(cast(5), ["ap", "eu"])
        }),
        Test::new("geo::pm_with_ungraceful_reconnection_europe_refreshes_first", move || {
            refreshed(cast(6), ["eu", "ap"])
        }),
        Test::new("geo::update_senders_host", move || senders_host(cast(7))),
        Test::new("geo::instrumentation_events_on_one_host", move || numbers(cast(8))),
        Test::new("geo::host_refreshing", move || host_refreshing(cast(9))),
        Test::new("geo::location_disconnect", move || location_disconnect(cast(10))),
        Test::new("geo::refresh_nodes", move || refresh_nodes(cast(11))),
        Test::new("geo::in_order_messages_on_multiple_connections", move || many_writers(cast(12))),
        Test::new("geo::in_order_messages_with_bounce", move || bounce(cast(13))),
        Test::new("geo::messages_bounced_in_order", move || stored(cast(14))),
        Test::new("geo::wait_for_connection", move || wait_for_connection(cast(15))),
        Test::new("geo::closed_connection_is_removed_from_disabled", move || closed(cast(16))),
        Test::new("geo::two_regions_bind_the_same_full_jid_at_once", move || {
            ownership::at_once(cast(17))
        }),
        Test::new("geo::delete_from_an_old_session_does_not_remove_a_new_record", move || {
            ownership::late_delete(cast(18))
        }),
        Test::new("geo::component_on_one_host", move || components::on_one_host(cast(19))),
        Test::new("geo::components_in_different_regions", move || {
            components::in_different_regions(cast(19))
        }),
        Test::new("geo::component_disconnect", move || components::disconnect(cast(19))),
    ]
}

/// The people of one row.
#[derive(Clone, Copy)]
struct Cast<'a> {
    platform: &'a Platform,
    first: u32,
}

impl Cast<'_> {
    fn number(self, nth: u32) -> u32 {
        assert!(nth < EACH, "a row has {EACH} accounts");
        self.first + nth
    }

    fn bare(self, nth: u32) -> String {
        format!("user{}@{}", self.number(nth), self.platform.plan.domain)
    }

    fn client(self, nth: u32, region: usize, resource: &str) -> Result<Client> {
        self.platform.user(self.number(nth), region, resource)
    }

    async fn online(self, nth: u32, region: usize, resource: &str) -> Result<Client> {
        let mut client = self.client(nth, region, resource)?;
        online(&mut client).await?;
        Ok(client)
    }

    /// A writer in each of these regions: account 0 in the first, and so on.
    async fn writers(self, regions: &[usize]) -> Result<Vec<Client>> {
        let mut writers = Vec::new();
        for (nth, region) in (0..).zip(regions) {
            writers.push(self.online(nth, *region, "writer").await?);
        }
        Ok(writers)
    }
}

fn names(clients: &[Client]) -> Vec<String> {
    clients.iter().map(|client| client.name.clone()).collect()
}

/// Each writer says these numbers to one address, all writers at the same time.
async fn all_say(writers: &mut [Client], to: &str, numbers: Range<u64>) -> Result<()> {
    let saying = writers.iter_mut().map(|writer| {
        let (name, numbers) = (writer.name.clone(), numbers.clone());
        async move { say_all(writer, to, &name, numbers).await }
    });
    try_join_all(saying).await.map(|_| ())
}

/// The reader hears what each of the writers has said so far, and nothing comes back to them.
async fn heard_so_far(
    reader: &mut Client,
    heard: &mut Ledger,
    writers: &mut [Client],
    said: u64,
) -> Result<()> {
    hear_all(reader, heard, &names(writers), said).await?;
    nothing_returned(writers).await
}

/// As [`heard_so_far`], and then one more of each: what comes twice comes before what is said only now.
async fn heard_in_the_end(
    reader: &mut Client,
    heard: &mut Ledger,
    writers: &mut [Client],
    said: u64,
) -> Result<()> {
    heard_so_far(reader, heard, writers, said).await?;
    all_say(writers, &reader.full(), said..said + 1).await?;
    heard_so_far(reader, heard, writers, said + 1).await
}

fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what()) }
}

fn says(text: &str) -> impl Fn(&Element) -> bool {
    move |e| e.body().as_deref() == Some(text)
}

/// Nothing has been heard yet: the line is cut.
async fn hears_nothing(client: &mut Client) -> Result<()> {
    client.ping().await?;
    let early = client.drain().into_iter().find(|e| e.body().is_some());
    expect(early.is_none(), || format!("it came through a cut line: {early:?}"))
}

/// Between every two regions, both ways, to the full and to the bare address, and it says whom it is from.
async fn locations(cast: Cast<'_>) -> Result<()> {
    let mut people = cast.writers(&[0, 1, 2]).await?;
    let addresses: Vec<[String; 2]> = people.iter().map(|p| [p.full(), p.bare()]).collect();
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    for number in 0..20 {
        for (from, to) in pairs {
            let text = body(&people[from].name, number);
            say(&mut people[from], &addresses[to][usize::from(number % 2 == 1)], &text).await?;
        }
    }
    for (from, to) in pairs {
        let mut heard = Ledger::default();
        let (sender, name) = (&addresses[from][0], people[from].name.clone());
        for _ in 0..20 {
            let theirs = |e: &Element| e.attr("from") == Some(sender) && e.body().is_some();
            let got = people[to].wait_for("a message from another region", theirs).await?;
            heard.enter(&got.body().unwrap_or_default());
        }
        heard.verdict(&name, 20)?;
    }
    for person in &mut people {
        person.ping().await?;
        let more = person.drain().into_iter().find(|e| e.name == "message");
        expect(more.is_none(), || format!("{} got more: {more:?}", person.name))?;
    }
    Ok(())
}

/// Who is bound and has not sent presence is found at the full JID at once; what goes to the bare one waits for presence.
async fn before_presence(cast: Cast<'_>) -> Result<()> {
    for (from, at) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let mut writer = cast.client(0, from, "writer")?;
        let mut reader = cast.client(1, at, "reader")?;
        writer.connect().await?;
        reader.connect().await?;
        let mut heard = Ledger::default();
        say_all(&mut writer, &reader.full(), "full", 0..10).await?;
        hear_all(&mut reader, &mut heard, &["full"], 10).await?;
        say_all(&mut reader, &writer.full(), "back", 0..10).await?;
        hear_all(&mut writer, &mut Ledger::default(), &["back"], 10).await?;
        say_all(&mut writer, &reader.bare(), "bare", 0..10).await?;
        // Behind it, to somebody who is there: when it has come, the others have been judged or wait for a judgement.
        say_all(&mut writer, &reader.full(), "full", 10..20).await?;
        hear(&mut reader, &mut heard, "full", 20).await?;
        expect(heard.count("bare") == 0, || "it came before presence".into())?;
        reader.send("<presence/>").await?;
        hear_all(&mut reader, &mut heard, &["full"], 20).await?;
        hear_all(&mut reader, &mut heard, &["bare"], 10).await?;
        nothing_returned(std::slice::from_mut(&mut writer)).await?;
        reader.disconnect().await?;
        writer.disconnect().await?;
    }
    Ok(())
}

/// How an addressee goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    Closing,
    /// Cut off, under stream management without resumption.
    Managed,
    /// Cut off, without it: what his own region still gives to the kernel then is his.
    Cut,
}

/// The addressee has just gone. What is said to him then is stored, and read where he comes next.
async fn disconnection(cast: Cast<'_>) -> Result<()> {
    for goes in [Goes::Closing, Goes::Managed, Goes::Cut] {
        for region in 0..3 {
            gone(cast, goes, region)
                .await
                .map_err(|e| format!("{goes:?} in region {region}: {e}"))?;
        }
    }
    Ok(())
}

async fn gone(cast: Cast<'_>, goes: Goes, region: usize) -> Result<()> {
    let from: Vec<usize> = (0..3).filter(|r| goes != Goes::Cut || *r != region).collect();
    let mut writers = cast.writers(&from).await?;
    let mut reader = cast.client(3, region, "reader")?;
    reader.connect().await?;
    if goes == Goes::Managed {
        reader.enable_sm(false).await?;
    }
    reader.send("<presence/>").await?;
    reader.ping().await?;
    let mut heard = Ledger::default();
    // What he has and has not acknowledged may come again: so none of that under stream management.
    let before = if goes == Goes::Managed { 0 } else { 10 };
    all_say(&mut writers, &reader.full(), 0..before).await?;
    heard_so_far(&mut reader, &mut heard, &mut writers, before).await?;
    match goes {
        Goes::Closing => reader.disconnect().await?,
        Goes::Managed | Goes::Cut => reader.cut().await,
    }
    all_say(&mut writers, &reader.full(), before..20).await?;
    nothing_returned(&mut writers).await?;
    let mut reader = cast.online(3, (region + 1) % 3, "elsewhere").await?;
    heard_in_the_end(&mut reader, &mut heard, &mut writers, 20).await?;
    reader.disconnect().await
}

/// The same as `moves::messages_around_a_clean_move_all_arrive_in_order`, with a writer in every region.
async fn graceful(cast: Cast<'_>) -> Result<()> {
    let writers = [(0, 0), (1, 1), (2, 2)].map(|(nth, region)| (cast.number(nth), region));
    moves::clean_moves(cast.platform, &writers, cast.number(3)).await
}

/// The reader's session in eu, cut off, which may still be resumed: it takes messages and hands on none.
async fn hibernating(cast: Cast<'_>) -> Result<()> {
    let mut reader = cast.client(3, 0, "reader")?;
    reader.connect().await?;
    reader.enable_sm(true).await?;
    expect(reader.can_resume(), || "the server lets nobody resume".into())?;
    reader.send("<presence/>").await?;
    reader.ping().await?;
    reader.cut().await;
    Ok(())
}

/// Messages are stuck in a dead session; the same full JID is bound in another region: these come there, then the next ones.
async fn ungraceful(cast: Cast<'_>) -> Result<()> {
    let mut writers = cast.writers(&[0, 1, 2]).await?;
    let mut neighbour = cast.online(4, 0, "neighbour").await?;
    for to in [format!("{}/reader", cast.bare(3)), cast.bare(3)] {
        hibernating(cast).await?;
        all_say(&mut writers, &to, 0..20).await?;
        for writer in &mut writers {
            // What he says to somebody else in eu comes there behind it.
            say(writer, &neighbour.full(), "stuck").await?;
            neighbour.wait_for("the last word", says("stuck")).await?;
        }
        let mut reader = cast.client(3, 2, "reader")?;
        reader.connect().await?;
        all_say(&mut writers, &to, 20..40).await?;
        reader.send("<presence/>").await?;
        all_say(&mut writers, &to, 40..60).await?;
        heard_in_the_end(&mut reader, &mut Ledger::default(), &mut writers, 60).await?;
        reader.disconnect().await?;
    }
    Ok(())
}

/// The same, and us knows nothing of it: started anew while eu and ap cannot talk, it is told all rows of both, the dead session's and the
/// new one's, in this order. The newer bind wins in either order, and before the dead session has heard of it.
async fn refreshed(cast: Cast<'_>, [first, then]: [&str; 2]) -> Result<()> {
    let platform = cast.platform;
    let mut in_eu = cast.online(0, 0, "writer").await?;
    let (to, name) = (format!("{}/reader", cast.bare(3)), in_eu.name.clone());
    hibernating(cast).await?;
    say_all(&mut in_eu, &to, &name, 0..20).await?;
    in_eu.ping().await?;
    platform.cut("eu", "ap", true).await?;
    let mut heard = Ledger::default();
    let apart = async {
        let mut reader = cast.client(3, 2, "reader")?;
        reader.connect().await?;
        platform.cut("us", then, true).await?;
        platform.kill("us-0").await?;
        platform.launch_node("us-0").await?;
        let knows_the_first = |_, reasons: &str| {
            reasons.contains(&format!("{then}-0")) && !reasons.contains(&format!("{first}-0"))
        };
        platform.wait_ready("us-0", knows_the_first).await?;
        platform.cut("us", then, false).await?;
        platform.wait_ready("us-0", |status, _| status == 200).await?;
        let mut in_us = [cast.online(1, 1, "writer").await?];
        all_say(&mut in_us, &to, 0..20).await?;
        heard_so_far(&mut reader, &mut heard, &mut in_us, 20).await?;
        expect(heard.count(&name) == 0, || "it came through a cut line".into())?;
        say_all(&mut in_eu, &to, &name, 20..40).await?;
        in_eu.ping().await?;
        all_say(&mut in_us, &to, 20..40).await?;
        Ok((reader, in_us))
    };
    let apart: Result<_> = apart.await;
    for line in [("us", then), ("eu", "ap")] {
        platform.cut(line.0, line.1, false).await?;
    }
    let (mut reader, [in_us]) = apart?;
    let mut writers = [in_eu, in_us];
    all_say(&mut writers, &to, 40..60).await?;
    reader.send("<presence/>").await?;
    heard_in_the_end(&mut reader, &mut heard, &mut writers, 60).await
}

/// Who has written and moved since gets the answer where he is now, at the address he wrote from.
async fn senders_host(cast: Cast<'_>) -> Result<()> {
    let mut answering = cast.writers(&[0, 1, 2]).await?;
    let mut heard = Ledger::default();
    for (turn, (from, to)) in (1..).zip([(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)]) {
        let mut asker = cast.online(3, from, "asker").await?;
        for other in &answering {
            say(&mut asker, &other.full(), "where am I?").await?;
        }
        let mut addresses = Vec::new();
        for other in &mut answering {
            let asked = other.wait_for("the question", says("where am I?")).await?;
            addresses.push(asked.attr("from").unwrap_or_default().to_owned());
        }
        asker.disconnect().await?;
        let mut asker = cast.client(3, to, "asker")?;
        asker.connect().await?;
        for (other, address) in answering.iter_mut().zip(&addresses) {
            let name = other.name.clone();
            say_all(other, address, &name, turn * 10 - 10..turn * 10).await?;
        }
        heard_so_far(&mut asker, &mut heard, &mut answering, turn * 10)
            .await
            .map_err(|e| format!("from region {from} to {to}: {e}"))?;
        asker.disconnect().await?;
    }
    Ok(())
}

/// What passes from one region to another is counted at both, under their own names and no other's.
async fn numbers(cast: Cast<'_>) -> Result<()> {
    const COUNT: u16 = 1000;
    const IN: &str = "pangaea_link_frames_received_total";
    let all = f64::from(COUNT);
    let of_us = r#"region="eu",node="eu-0",peer="us-0""#;
    let of_ap = r#"region="eu",node="eu-0",peer="ap-0""#;
    let counted = [
        (0, IN, of_us),
        (1, "pangaea_link_frames_sent_total", r#"region="us",node="us-0",peer="eu-0""#),
        (1, "pangaea_routed_total", r#"region="us",node="us-0",way="remote""#),
    ];
    let mut writer = cast.online(0, 1, "writer").await?;
    let mut reader = cast.online(1, 0, "reader").await?;
    let mut before = Vec::new();
    for (region, name, label) in counted {
        before.push(cast.platform.metric(region, name, label).await?);
    }
    let other = cast.platform.metric(0, IN, of_ap).await?;
    say_all(&mut writer, &reader.full(), "us", 0..COUNT.into()).await?;
    hear_all(&mut reader, &mut Ledger::default(), &["us"], COUNT.into()).await?;
    for ((region, name, label), before) in counted.into_iter().zip(before) {
        cast.platform.wait_metric(region, name, label, before + all).await?;
    }
    let other = cast.platform.metric(0, IN, of_ap).await? - other;
    expect(other < all, || format!("{other} frames came from ap, which had nothing to say"))
}

/// A region whose process was killed is made anew: who signs in there finds the others, and is found.
async fn host_refreshing(cast: Cast<'_>) -> Result<()> {
    let mut others = cast.writers(&[0, 1]).await?;
    cast.platform.kill("ap-0").await?;
    cast.platform.start_node("ap-0").await?;
    let mut back = cast.online(2, 2, "back").await?;
    for other in &mut others {
        say_all(&mut back, &other.full(), "back", 0..20).await?;
        hear_all(other, &mut Ledger::default(), &["back"], 20).await?;
    }
    all_say(&mut others, &back.full(), 0..20).await?;
    heard_in_the_end(&mut back, &mut Ledger::default(), &mut others, 20).await
}

/// A whole region is cut off until the others hold it for dead, and longer. What its users and theirs say to each other meanwhile comes
/// when the lines are whole.
async fn location_disconnect(cast: Cast<'_>) -> Result<()> {
    let mut writers = cast.writers(&[0, 1]).await?;
    let mut reader = cast.online(3, 2, "reader").await?;
    // A device of the first writer: its presence tells when ap is held for dead.
    let far_device = cast.online(0, 2, "far").await?;
    let far = far_device.full();
    let shown = |type_: Option<&'static str>| {
        let far = &far;
        move |e: &Element| {
            e.name == "presence" && e.attr("from") == Some(far) && e.attr("type") == type_
        }
    };
    writers[0].wait_for("the far device", shown(None)).await?;
    for region in ["eu", "us"] {
        cast.platform.cut("ap", region, true).await?;
    }
    let apart = async {
        for numbers in [0..20, 20..40] {
            all_say(&mut writers, &reader.full(), numbers.clone()).await?;
            for writer in &writers {
                say_all(&mut reader, &writer.full(), "ap", numbers.clone()).await?;
            }
            if numbers.start == 0 {
                let dark = shown(Some("unavailable"));
                writers[0].wait_for_within(patience() * 3, "the end of ap", dark).await?;
            }
        }
        for client in writers.iter_mut().chain([&mut reader]) {
            hears_nothing(client).await?;
        }
        Ok(())
    };
    let apart: Result<()> = apart.await;
    for region in ["eu", "us"] {
        cast.platform.cut("ap", region, false).await?;
    }
    apart?;
    for writer in &mut writers {
        hear_all(writer, &mut Ledger::default(), &["ap"], 40).await?;
    }
    heard_in_the_end(&mut reader, &mut Ledger::default(), &mut writers, 40).await
}

/// A region dies and comes back. What is said to a session it had, while it is dead and after, is stored: the session is forgotten.
async fn refresh_nodes(cast: Cast<'_>) -> Result<()> {
    let mut writers = cast.writers(&[0, 1]).await?;
    let dead = cast.online(3, 2, "reader").await?;
    cast.platform.kill("ap-0").await?;
    let while_dead = all_say(&mut writers, &dead.full(), 0..20).await;
    cast.platform.start_node("ap-0").await?;
    while_dead?;
    all_say(&mut writers, &dead.full(), 20..40).await?;
    nothing_returned(&mut writers).await?;
    let mut reader = cast.online(3, 1, "elsewhere").await?;
    heard_in_the_end(&mut reader, &mut Ledger::default(), &mut writers, 40).await
}

/// A hundred messages of each of six people in three regions, at the same time: each one's in order.
async fn many_writers(cast: Cast<'_>) -> Result<()> {
    let mut reader = cast.online(6, 1, "reader").await?;
    let mut writers = cast.writers(&[0, 1, 2, 0, 1, 2]).await?;
    let (some, others) = writers.split_at_mut(3);
    let (full, bare) = (reader.full(), reader.bare());
    tokio::try_join!(all_say(some, &full, 0..100), all_say(others, &bare, 0..100))?;
    heard_in_the_end(&mut reader, &mut Ledger::default(), &mut writers, 100).await
}

/// The reader goes and comes ten times, at one place, while a hundred messages and more are written to him.
async fn bounce(cast: Cast<'_>) -> Result<()> {
    let mut writing = Vec::new();
    for writer in cast.writers(&[0, 1, 2]).await? {
        let (name, pause) = (writer.name.clone(), Duration::from_millis(10));
        writing.push((name.clone(), Writing::start(writer, cast.bare(3), name, pause)));
    }
    let mut heard = Ledger::default();
    for _ in 0..10 {
        let mut reader = cast.online(3, 1, "reader").await?;
        for (name, _) in &writing {
            let goal = heard.count(name) + 10;
            hear(&mut reader, &mut heard, name, goal).await?;
        }
        reader.disconnect().await?;
        enter_all(&mut reader, &mut heard);
    }
    let mut reader = cast.online(3, 1, "reader").await?;
    for (name, writing) in writing {
        let sent = writing.enough().await?;
        expect(sent >= 100, || format!("{name} has only written {sent}"))?;
        hear_all(&mut reader, &mut heard, &[name], sent).await?;
    }
    Ok(())
}

/// Of a hundred messages ninety-nine are stored when the reader comes and the last is said as he does: it is the last he gets.
async fn stored(cast: Cast<'_>) -> Result<()> {
    for region in 0..3 {
        let mut writers = cast.writers(&[0, 1, 2]).await?;
        all_say(&mut writers, &cast.bare(3), 0..99).await?;
        nothing_returned(&mut writers).await?;
        let mut reader = cast.client(3, region, "reader")?;
        reader.connect().await?;
        reader.send("<presence/>").await?;
        all_say(&mut writers, &cast.bare(3), 99..100).await?;
        heard_in_the_end(&mut reader, &mut Ledger::default(), &mut writers, 100).await?;
        reader.disconnect().await?;
    }
    Ok(())
}

/// No connection between two regions, and none can be made: what is said waits, also for somebody who signs in only then. On the other two
/// lines a connection stands and carries nothing: `contract::a_cut_line_holds_what_is_on_the_way`.
async fn wait_for_connection(cast: Cast<'_>) -> Result<()> {
    for (line, first) in [(("us", "ap"), 0), (("ap", "eu"), 3)] {
        let users = [first, first + 1, first + 2].map(|nth| cast.number(nth));
        contract::cut_line(cast.platform, users, line).await?;
    }
    let mut eu = cast.online(0, 0, "eu").await?;
    let mut us = cast.online(1, 1, "us").await?;
    say(&mut eu, &us.full(), "before").await?;
    us.wait_for("a message before", says("before")).await?;
    cast.platform.cut("eu", "us", true).await?;
    let apart = async {
        cast.platform.reset("eu", "us").await?;
        let mut newcomer = cast.online(2, 1, "newcomer").await?;
        for to in [us.full(), newcomer.full()] {
            say_all(&mut eu, &to, "eu", 0..20).await?;
        }
        say_all(&mut us, &eu.full(), "us", 0..20).await?;
        for client in [&mut eu, &mut us, &mut newcomer] {
            hears_nothing(client).await?;
        }
        Ok(newcomer)
    };
    let apart: Result<_> = apart.await;
    cast.platform.cut("eu", "us", false).await?;
    let mut newcomer = apart?;
    for client in [&mut us, &mut newcomer] {
        hear_all(client, &mut Ledger::default(), &["eu"], 20).await?;
    }
    hear_all(&mut eu, &mut Ledger::default(), &["us"], 20).await
}

/// All lines are reset, again and again: the links are made anew each time, everybody goes on talking, no dead connection stays open.
async fn closed(cast: Cast<'_>) -> Result<()> {
    const RESETS: u32 = 10;
    const MADE: &str = "pangaea_link_connects_total";
    const OPEN: &str = "pangaea_open_files";
    let mut writers = cast.writers(&[0, 1, 2]).await?;
    let mut readers = Vec::new();
    for (nth, region) in [(3, 0), (4, 1), (5, 2)] {
        readers.push((cast.online(nth, region, "reader").await?, Ledger::default()));
    }
    let metric = |region, name| cast.platform.metric(region, name, "");
    let mut before = Vec::new();
    for region in 0..3 {
        before.push((metric(region, MADE).await?, metric(region, OPEN).await?));
    }
    for turn in 0..u64::from(RESETS) {
        for (a, b) in LINES {
            cast.platform.reset(a, b).await?;
        }
        for (reader, _) in &readers {
            all_say(&mut writers, &reader.full(), turn * 10..turn * 10 + 10).await?;
        }
        for (reader, heard) in &mut readers {
            heard_so_far(reader, heard, &mut writers, turn * 10 + 10).await?;
        }
    }
    let resets = f64::from(RESETS);
    for (region, (made, open)) in before.into_iter().enumerate() {
        cast.platform.wait_metric(region, MADE, "", made + 2.0 * resets).await?;
        let more = metric(region, OPEN).await? - open;
        expect(more < resets, || format!("region {region}: {more} files more are open"))?;
    }
    Ok(())
}
