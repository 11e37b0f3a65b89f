//! F, the roster and who is blocked: RFC 6121 §2, XEP-0191.

use crate::expect;
use crate::row::{Row, judge};
use crate::state::At::Bound;
use crate::state::House;
use crate::wire::Road;
use pangaea_tests::client::Result;
use pangaea_tests::harness::Test;

/// Whom the bystander has blocked: an account that no row uses.
pub(crate) const BLOCKED: u32 = 70;
/// Who has blocked the bystander: another one.
const BLOCKER: u32 = 71;
const BLOCK: &str =
    "<iq type='set' id='k'><block xmlns='urn:xmpp:blocking'><item jid='${friend}'/></block></iq>";

fn set(inside: &str) -> String {
    format!("<iq type='set' id='x'><query xmlns='jabber:iq:roster'>{inside}</query></iq>")
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut bound = |id, what, text: String, expected: &[&'static str]| {
        rows.push(Row::new(id, what, Bound).says(text).gets(expected));
    };
    let bad = &["ST bad-request/modify"][..];
    let item = "jid='nurse@capulet.example'";
    bound("B-160", "two items", set("<item jid='a@b.example'/><item jid='c@b.example'/>"), bad);
    bound("B-160", "no item", set(""), bad);
    bound("B-160", "something else", set("<thing/>"), bad);
    bound("B-160", "an item without an address", set("<item name='x'/>"), bad);
    bound(
        "B-160",
        "an item of no address",
        set("<item jid='@'/>"),
        &["ST jid-malformed/modify", "ST bad-request/modify"],
    );
    bound(
        "B-161",
        "a group twice",
        set(&format!("<item {item}><group>a</group><group>a</group></item>")),
        bad,
    );
    let refused = &["ST not-acceptable/modify"][..];
    let long = "x".repeat(1_024);
    bound("B-163", "a name too long", set(&format!("<item {item} name='{long}'/>")), refused);
    bound(
        "B-163",
        "a group too long",
        set(&format!("<item {item}><group>{long}</group></item>")),
        refused,
    );
    bound("B-163", "an empty group", set(&format!("<item {item}><group/></item>")), refused);
    let groups: String = (0..65).map(|n| format!("<group>{n}</group>")).collect();
    bound("B-163", "too many groups", set(&format!("<item {item}>{groups}</item>")), refused);
    for type_ in ["get", "set"] {
        let inside = if type_ == "set" { "<item jid='a@b.example'/>" } else { "" };
        for to in ["${friend}", "nobody-at-all@${domain}"] {
            let text = format!(
                "<iq type='{type_}' id='x' to='{to}'><query xmlns='jabber:iq:roster'>{inside}</query></iq>"
            );
            bound(
                "B-164",
                "the roster of somebody else",
                text,
                &["ST forbidden/auth", "ST service-unavailable/cancel"],
            );
        }
    }
    bound(
        "6121 §2.5.3",
        "a removal of nobody",
        set("<item jid='none@capulet.example' subscription='remove'/>"),
        &["ST item-not-found/cancel"],
    );
    bound(
        "B-166",
        "what the server decides",
        set(
            "<item jid='both@capulet.example' subscription='both' ask='subscribe' approved='true'/>",
        ),
        &["result"],
    );
    bound("B-167", "itself", set("<item jid='${me}'/>"), &["ST not-allowed/cancel"]);
    bound("B-169", "a push that is none", "<iq type='set' id='y' to='${full}'><query xmlns='jabber:iq:roster'><item jid='a@b.example'/></query></iq>".into(), &["iq set from ${full}"]);
    for ver in [
        "unknown".to_owned(),
        "99999999999999999999".to_owned(),
        "-1".to_owned(),
        "x".repeat(100 << 10),
    ] {
        bound(
            "B-170",
            "a version that is none of ours",
            format!("<iq type='get' id='x'><query xmlns='jabber:iq:roster' ver='{ver}'/></iq>"),
            &["result"],
        );
    }
    rows
}

pub(crate) fn tests<'a>(house: &'a House<'a>) -> Vec<Test<'a>> {
    let refused = &["ST not-acceptable/cancel blocked"][..];
    let unavailable = &["ST service-unavailable/cancel"][..];
    // By the blocked, and to the blocked.
    let all = [
        ("<message id='x' to='${friend}'><body>x</body></message>", unavailable, refused),
        (
            "<message id='x' type='chat' to='${friend/full}'><body>x</body></message>",
            unavailable,
            refused,
        ),
        (
            "<iq id='x' type='get' to='${friend}'><ping xmlns='urn:xmpp:ping'/></iq>",
            unavailable,
            refused,
        ),
        (
            "<iq id='x' type='get' to='${friend/full}'><ping xmlns='urn:xmpp:ping'/></iq>",
            unavailable,
            refused,
        ),
        ("<presence id='x' to='${friend}'/>", &[""], refused),
        ("<presence id='x' type='subscribe' to='${friend}'/>", &[""], refused),
        ("<presence type='probe' to='${friend}'/>", &["", "presence unsubscribed"], &[]),
    ];
    let mut tests = Vec::new();
    for road in Road::ALL.iter().copied() {
        for (at, (stanza, blocked, blocker)) in all.into_iter().enumerate() {
            let name = format!("{}::B-173 by the blocked {at}", road.name());
            tests.push(Test::new(name, move || says(house, road, BLOCKED, "", stanza, blocked)));
            if !blocker.is_empty() {
                let name = format!("{}::B-172 to the blocked {at}", road.name());
                let run = move || says(house, road, BLOCKER, BLOCK, stanza, blocker);
                tests.push(Test::new(name, run));
            }
        }
    }
    tests
}

async fn says(
    house: &House<'_>,
    road: Road,
    number: u32,
    first: &str,
    stanza: &str,
    expected: &[&str],
) -> Result<()> {
    let (user, password) = (format!("user{number}"), format!("pw{number}"));
    let mut guest = house.guest_as(&user, &password, 0, road, Bound).await?;
    if !first.is_empty() {
        guest.wire.send(house.fill(first, &guest).as_bytes()).await;
        let answer = guest.element().await?;
        expect(answer.attr("type") == Some("result"), || answer.to_string())?;
    }
    let text = house.fill(stanza, &guest);
    guest.wire.send(text.as_bytes()).await;
    judge(house, &mut guest, Bound, &text, expected).await
}
