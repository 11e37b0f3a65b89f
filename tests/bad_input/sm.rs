//! G, stream management: XEP-0198.

use crate::expect;
use crate::row::Row;
use crate::state::At::{Authenticated, Bound, Managed, Open};
use crate::state::{At, House};
use crate::wire::{Heard, Road};
use pangaea_tests::client::Result;
use pangaea_tests::harness::Test;

const SM: &str = "urn:xmpp:sm:3";

fn nonza(name: &str, attributes: &str) -> String {
    format!("<{name} xmlns='{SM}' {attributes}/>")
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |id, what, at: At, text: String, expected: &[&'static str]| {
        rows.push(Row::new(id, what, at).says(text).gets(expected));
    };
    let unexpected = &["SM unexpected-request"][..];
    row("B-176", "enable before the sign-in", Open, nonza("enable", ""), unexpected);
    row("B-176", "enable before the bind", Authenticated, nonza("enable", ""), unexpected);
    row("B-176", "enable twice", Managed, nonza("enable", ""), unexpected);
    row("0198 §3", "a question without stream management", Bound, nonza("r", ""), unexpected);
    row("0198 §3", "an answer without stream management", Bound, nonza("a", "h='0'"), unexpected);
    row(
        "0198 §3",
        "what only a server says",
        Bound,
        nonza("enabled", ""),
        &["SE unsupported-stanza-type", "SE policy-violation"],
    );
    let invalid = &["SE invalid-xml", "SE policy-violation"][..];
    for h in ["", "h=''", "h='x'", "h='-1'", "h='4294967296'", "h='1.5'"] {
        row("B-178", "an answer that counts nothing", Managed, nonza("a", h), invalid);
    }
    row(
        "B-179",
        "an answer that counts too much",
        Managed,
        nonza("a", "h='5'"),
        &["SE undefined-condition handled-count-too-high"],
    );
    let unknown = &["SM item-not-found"][..];
    row(
        "B-182",
        "resume what nobody knows",
        Authenticated,
        nonza("resume", "previd='x' h='0'"),
        unknown,
    );
    row(
        "B-184",
        "resume before the sign-in",
        Open,
        nonza("resume", "previd='x' h='0'"),
        unexpected,
    );
    row("B-184", "resume behind the bind", Bound, nonza("resume", "previd='x' h='0'"), unexpected);
    for attributes in ["", "previd='x'", "h='0'", "previd='x' h='x'"] {
        row(
            "B-185",
            "resume without what it takes",
            Authenticated,
            nonza("resume", attributes),
            &["SM bad-request", "SE invalid-xml"],
        );
    }
    rows.push(
        Row::new("B-182", "bind behind a resumption that was refused", Authenticated)
            .says(nonza("resume", "previd='x' h='0'"))
            .hears("failed")
            .says("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
            .gets(&["result"]),
    );
    rows
}

pub(crate) fn tests<'a>(house: &'a House<'a>) -> Vec<Test<'a>> {
    let mut tests = Vec::new();
    for road in Road::ALL.iter().copied() {
        let name = |what: &str| format!("{}::{what}", road.name());
        tests.push(Test::new(name("B-185 resume with a count too high"), move || {
            resume(house, road, "h='9'", 0, "SE undefined-condition")
        }));
        tests.push(Test::new(name("B-187 resume in another region"), move || {
            resume(house, road, "h='0'", 1, "SM item-not-found or resumed")
        }));
        tests.push(Test::new(name("B-188 resume with a stanza behind it"), move || {
            pipelined(house, road)
        }));
        tests.push(Test::new(name("B-191 resume what was closed"), move || closed(house, road)));
    }
    tests
}

/// Signs in with a resumable session and cuts the connection, or closes it. Says the account, its password and the resumption id.
async fn left(house: &House<'_>, road: Road, cleanly: bool) -> Result<(String, String, String)> {
    let mut guest = house.guest(road, Bound).await?;
    let enable = format!("<enable xmlns='{SM}' resume='true'/>");
    guest.wire.send(enable.as_bytes()).await;
    let enabled = guest.element().await?;
    let id = enabled.attr("id").ok_or("it cannot be resumed")?.to_owned();
    if cleanly {
        guest.wire.send(b"</stream:stream>").await;
        while !matches!(guest.wire.hear().await?, Heard::End) {}
    }
    Ok((guest.user, guest.password, id))
}

async fn resume(
    house: &House<'_>,
    road: Road,
    h: &str,
    region: usize,
    expected: &str,
) -> Result<()> {
    let (user, password, id) = left(house, road, false).await?;
    let mut guest = house.guest_as(&user, &password, region, road, Authenticated).await?;
    guest.wire.send(nonza("resume", &format!("previd='{id}' {h}")).as_bytes()).await;
    let answer = guest.element().await?;
    let inside = answer.children().next().map(|child| child.name.clone()).unwrap_or_default();
    let is_right = match answer.name.as_str() {
        "error" => expected.starts_with("SE") && inside == "undefined-condition",
        "failed" => expected.starts_with("SM") && inside == "item-not-found",
        "resumed" => expected.contains("resumed"),
        _ => false,
    };
    expect(is_right, || format!("expected {expected}, got {answer}"))
}

async fn pipelined(house: &House<'_>, road: Road) -> Result<()> {
    let (user, password, id) = left(house, road, false).await?;
    let mut guest = house.guest_as(&user, &password, 0, road, Authenticated).await?;
    let resume = nonza("resume", &format!("previd='{id}' h='0'"));
    let ping = "<iq type='get' id='p1'><ping xmlns='urn:xmpp:ping'/></iq>";
    guest.wire.send(format!("{resume}{ping}").as_bytes()).await;
    for expected in ["resumed", "iq"] {
        let got = guest.element().await?;
        expect(got.name == expected, || format!("expected {expected}, got {got}"))?;
    }
    Ok(())
}

async fn closed(house: &House<'_>, road: Road) -> Result<()> {
    let (user, password, id) = left(house, road, true).await?;
    let mut guest = house.guest_as(&user, &password, 0, road, Authenticated).await?;
    guest.wire.send(nonza("resume", &format!("previd='{id}' h='0'")).as_bytes()).await;
    let failed = guest.element().await?;
    let is_right = failed.name == "failed"
        && failed.children().next().is_some_and(|child| child.name == "item-not-found");
    expect(is_right, || format!("got {failed}"))
}
