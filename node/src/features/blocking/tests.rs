//! What clients say, as tables; and lists in effect, on a whole node.

use std::sync::Arc;

use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use super::payload::{self, Command, Get, Set};
use super::report::{self, Report};
use super::*;
use crate::feature::Target;
use crate::session::Seat;
use crate::testing::{House, all, jid, mail, stanza};

fn element(text: &str) -> Element {
    Element::parse(text.as_bytes()).expect(text)
}

fn condition<T: std::fmt::Debug>(result: Result<T, StanzaError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.condition.name().to_owned(),
    }
}

#[test]
fn a_block_names_somebody_and_addresses_are_addresses() {
    for (payload, expected) in [
        ("<block><item jid='A@x/r'/><item jid='b'/></block>", "Block([a@x/r, b], [])"),
        ("<block><item jid='a@x'/><item jid='a@X'/></block>", "Block([a@x], [])"),
        ("<block/>", "bad-request"),
        ("<block><item/></block>", "bad-request"),
        ("<block><item jid=''/></block>", "jid-malformed"),
        ("<block><item jid='@x'/></block>", "jid-malformed"),
        ("<block><item jid='a@x'/><item jid='a@@'/></block>", "jid-malformed"),
        ("<block><other jid='a@x'/></block>", "bad-request"),
        ("<unblock/>", "UnblockAll"),
        ("<unblock><item jid='a@x'/></unblock>", "Unblock([a@x])"),
        ("<unblock><item/></unblock>", "bad-request"),
    ] {
        let text = payload.replacen("block", "block xmlns='urn:xmpp:blocking'", 1);
        let text = match payload.starts_with("<un") {
            true => payload.replacen("unblock", "unblock xmlns='urn:xmpp:blocking'", 1),
            false => text,
        };
        let got = payload::command(&element(&text)).map(|command| match command {
            Command::Block(jids, reports) => format!("Block({}, {reports:?})", words(&jids)),
            Command::Unblock(jids) => format!("Unblock({})", words(&jids)),
            Command::UnblockAll => "UnblockAll".to_owned(),
        });
        let got = got.unwrap_or_else(|error| error.condition.name().to_owned());
        assert_eq!(got, expected, "{payload}");
    }
}

fn words(jids: &[Jid]) -> String {
    format!("[{}]", jids.iter().map(Jid::as_str).collect::<Vec<_>>().join(", "))
}

#[test]
fn a_privacy_query_is_one_thing_at_a_time_and_adds_up() {
    const GOOD: &str = "<item type='jid' value='a@x' action='deny' order='3'/>";
    let q = |inner: &str| element(&format!("<query xmlns='jabber:iq:privacy'>{inner}</query>"));
    for (inner, expected) in [
        ("", "Names"),
        ("<list name='public'/>", "List(\"public\")"),
        ("<list/>", "bad-request"),
        ("<list name=''/>", "bad-request"),
        ("<list name='a'/><list name='b'/>", "bad-request"),
        ("<active/>", "bad-request"),
        ("<default name='a'/>", "bad-request"),
    ] {
        assert_eq!(condition(payload::get(&q(inner))), expected, "{inner}");
    }
    let long = "n".repeat(1024);
    for (inner, expected) in [
        ("".to_owned(), "bad-request"),
        ("<active/><default/>".into(), "bad-request"),
        ("<list name='a'/><list name='b'/>".into(), "bad-request"),
        ("<other/>".into(), "bad-request"),
        ("<list/>".into(), "bad-request"),
        ("<active/>".into(), "Active(None)"),
        ("<active name='a'/>".into(), "Active(Some(\"a\"))"),
        ("<active name=''/>".into(), "bad-request"),
        ("<default/>".into(), "Default(None)"),
        ("<default name='a'/>".into(), "Default(Some(\"a\"))"),
        ("<list name='a'/>".into(), "Remove(\"a\")"),
        (format!("<list name='{long}'/>"), "not-acceptable"),
        (format!("<list name='a'>{GOOD}{GOOD}</list>"), "bad-request"),
    ] {
        assert_eq!(condition(payload::set(&q(&inner))), expected, "{inner}");
    }
    for (item, good) in [
        (GOOD, true),
        ("<item action='allow' order='0'/>", true),
        ("<item action='deny' order='4294967295'><message/><iq/></item>", true),
        ("<item type='subscription' value='both' action='deny' order='1'/>", true),
        ("<item type='group' value='Enemies' action='deny' order='1'/>", true),
        ("<item type='jid' value='a@x/r' action='deny' order='1'><presence-out/></item>", true),
        ("<item order='1'/>", false),
        ("<item action='forbid' order='1'/>", false),
        ("<item action='deny'/>", false),
        ("<item action='deny' order='-1'/>", false),
        ("<item action='deny' order='one'/>", false),
        ("<item action='deny' order='4294967296'/>", false),
        ("<item type='jid' action='deny' order='1'/>", false),
        ("<item type='jid' value='@@' action='deny' order='1'/>", false),
        ("<item type='group' value='' action='deny' order='1'/>", false),
        ("<item type='subscription' value='all' action='deny' order='1'/>", false),
        ("<item type='moon' value='full' action='deny' order='1'/>", false),
        ("<item action='deny' order='1'><smoke/></item>", false),
        ("<thing action='deny' order='1'/>", false),
    ] {
        let query = q(&format!("<list name='a'>{item}</list>"));
        match payload::set(&query) {
            Ok(Set::List(named)) if good => {
                // What is set is what is got.
                let shown = payload::query([payload::list(&named)]);
                assert_eq!(payload::set(&shown), Ok(Set::List(named)), "{item}");
            }
            other => {
                assert!(!good, "{item}: {other:?}");
                assert_eq!(condition(other), "bad-request", "{item}");
            }
        }
    }
    assert_eq!(payload::get(&q("")), Ok(Get::Names));
}

#[test]
fn a_report_is_read_within_bounds_and_a_bad_one_is_none() {
    let jid = Jid::parse("tybalt@example.com").expect("a JID");
    let read = |text: &str| Report::read(&jid, &element(text));
    let text = "<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'>\
        <stanza-id xmlns='urn:xmpp:sid:0' by='romeo@example.net' id='1'/>\
        <text xml:lang='en'> Never came trouble to my house like this. </text><third-party/></report>";
    let report = read(text).expect("a report");
    assert_eq!(report.reason, "urn:xmpp:reporting:spam");
    assert_eq!(report.text.as_deref(), Some("Never came trouble to my house like this."));
    assert_eq!(report.stanzas, [("romeo@example.net".to_owned(), "1".to_owned())]);
    assert!(report.third_party && !report.report_origin);
    assert_eq!(read("<report xmlns='urn:xmpp:reporting:1'/>"), None);
    let long = "é".repeat(5000);
    let text =
        format!("<report xmlns='urn:xmpp:reporting:1' reason='r'><text>{long}</text></report>");
    assert_eq!(read(&text).and_then(|report| report.text).map(|text| text.len()), Some(4096));
}

/// What comes of a request to the own account; its answer is in the mailbox too.
async fn asks(house: &House, seat: &Arc<Seat>, type_: &str, payload: &str) -> Vec<String> {
    let text = format!("<iq type='{type_}' id='q' to='{}'>{payload}</iq>", seat.bare);
    let iq = Iq {
        stanza: stanza(&text).with_from(seat.address()),
        target: Target::Account { account: seat.bare.clone(), own: true },
    };
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = house.node.features.iq(&mut ctx, &iq);
    let actions = all(ctx, flow).await;
    crate::router::perform(&house.node, Some(seat), actions);
    mail(seat)
}

async fn blocks(house: &House, seat: &Arc<Seat>, who: &str) {
    let payload =
        format!("<block xmlns='urn:xmpp:blocking'><item jid='{who}@chat.example'/></block>");
    let answers = asks(house, seat, "set", &payload).await;
    assert!(answers.iter().any(|answer| answer.contains("type='result'")), "{answers:?}");
}

#[tokio::test]
async fn a_message_that_no_session_may_have_is_answered_once_and_filed_nowhere() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet", "nurse"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    let juliet = house.available("juliet/balcony", 0).await;
    let chamber = house.available("juliet/chamber", 0).await;
    blocks(&house, &juliet, "romeo").await;
    for seat in [&romeo, &juliet, &chamber] {
        mail(seat);
    }
    for (to, type_) in [("juliet@chat.example", "chat"), ("juliet@chat.example/balcony", "normal")]
    {
        house
            .says(
                &romeo,
                &format!("<message to='{to}' type='{type_}' id='1'><body>x</body></message>"),
            )
            .await;
        let answers = house.mail(&romeo).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(answers[0].contains("<service-unavailable"), "{answers:?}");
    }
    // Neither is a headline answered, nor an error, nor what a room says.
    for type_ in ["headline", "error", "groupchat"] {
        let to = "juliet@chat.example/balcony";
        house
            .says(&romeo, &format!("<message to='{to}' type='{type_}'><body>x</body></message>"))
            .await;
    }
    assert_eq!((mail(&romeo).len(), mail(&juliet).len(), mail(&chamber).len()), (0, 0, 0));
    let kept = house.node.storage.archive(
        "offline",
        "juliet@chat.example",
        crate::storage::Page::after(None, 9),
    );
    assert!(kept.await.expect("read").is_empty());
}

#[tokio::test]
async fn a_blocked_contact_sees_nobody_until_it_is_unblocked() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    house.watches("romeo", "juliet").await;
    house.watches("juliet", "romeo").await;
    let romeo = house.available("romeo/orchard", 0).await;
    let juliet = house.available("juliet/balcony", 0).await;
    mail(&romeo);
    mail(&juliet);
    blocks(&house, &juliet, "romeo").await;
    let heard = mail(&romeo);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(
        heard[0].contains("type='unavailable'") && heard[0].contains("juliet@chat.example/balcony")
    );
    // Neither of the two hears of the other, nor does who comes anew.
    house.says(&juliet, "<presence><show>away</show></presence>").await;
    house.says(&romeo, "<presence><show>dnd</show></presence>").await;
    let (own, other) = (mail(&romeo), mail(&juliet));
    assert!(own.iter().chain(&other).count() == 2, "{own:?} {other:?}");
    let garden = house.available("romeo/garden", 0).await;
    assert!(!mail(&garden).iter().any(|text| text.contains("juliet")));
    mail(&romeo);
    mail(&juliet);
    asks(&house, &juliet, "set", "<unblock xmlns='urn:xmpp:blocking'/>").await;
    house.until("romeo sees her", || romeo.mailbox.depth().items > 0).await;
    assert!(mail(&romeo)[0].contains("<show>away</show>"));
}

#[tokio::test]
async fn who_blocks_cannot_write_there_and_is_told_so() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    let juliet = house.available("juliet/balcony", 0).await;
    blocks(&house, &juliet, "romeo").await;
    for (text, answered) in [
        ("<message to='romeo@chat.example/a'><body>x</body></message>", true),
        ("<iq type='get' id='1' to='romeo@chat.example/a'><q xmlns='urn:x'/></iq>", true),
        ("<iq type='result' id='1' to='romeo@chat.example/a'/>", false),
        ("<presence to='romeo@chat.example'/>", true),
        ("<presence to='romeo@chat.example' type='subscribe'/>", true),
        ("<message to='romeo@chat.example' type='error'/>", false),
    ] {
        let stanza = stanza(text).with_from(juliet.address());
        let mut ctx = Ctx::new(&house.node, Some(&juliet));
        assert!(matches!(outbound(&mut ctx, &stanza), Some(Flow::Done)), "{text}");
        let actions = crate::testing::words(&ctx.actions);
        assert_eq!(!actions.is_empty(), answered, "{text}");
        assert!(actions.iter().all(|action| action.contains("not-acceptable")
            && action.contains("type='cancel'")
            && action.contains(ns::BLOCKING_ERRORS)));
    }
    for text in [
        "<message to='juliet@chat.example'/>",
        "<message to='nurse@chat.example'/>",
        "<iq type='get' id='1' to='chat.example'><q xmlns='urn:x'/></iq>",
    ] {
        let stanza = stanza(text).with_from(juliet.address());
        assert!(outbound(&mut Ctx::new(&house.node, Some(&juliet)), &stanza).is_none(), "{text}");
    }
}

#[tokio::test]
async fn a_list_that_asks_the_roster_follows_it() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    let juliet = house.available("juliet/balcony", 0).await;
    let list = "<query xmlns='jabber:iq:privacy'><list name='friends'>\
        <item type='subscription' value='none' action='deny' order='1'/></list></query>";
    asks(&house, &juliet, "set", list).await;
    let active = "<query xmlns='jabber:iq:privacy'><active name='friends'/></query>";
    let answers = asks(&house, &juliet, "set", active).await;
    assert!(answers[0].contains("type='result'"), "{answers:?}");
    let message =
        stanza("<message><body>x</body></message>").with_from(&Jid::from(&jid("romeo/orchard")));
    assert!(refuses(&juliet, &message));
    house.watches("romeo", "juliet").await;
    assert!(!refuses(&juliet, &message));
    // A list that is active is followed when it is changed, and is not the default.
    let all = "<query xmlns='jabber:iq:privacy'><list name='friends'><item action='deny' order='1'/></list></query>";
    asks(&house, &juliet, "set", all).await;
    assert!(refuses(&juliet, &message));
    let other = house.available("juliet/chamber", 0).await;
    assert!(!refuses(&other, &message));
    asks(&house, &juliet, "set", "<query xmlns='jabber:iq:privacy'><active/></query>").await;
    assert!(!refuses(&juliet, &message));
}

#[tokio::test]
async fn reports_are_kept_and_the_oldest_makes_room() {
    let house = House::with("[reports]\nkept_max = 2\nforward_to = ['nurse@chat.example']\n").await;
    house.accounts(["juliet", "nurse"]).await;
    let juliet = house.available("juliet/balcony", 0).await;
    let nurse = house.available("nurse/kitchen", 0).await;
    mail(&nurse);
    for name in ["a", "b", "c"] {
        let payload = format!(
            "<block xmlns='urn:xmpp:blocking'><item jid='{name}@x'>\
            <report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'/></item></block>"
        );
        asks(&house, &juliet, "set", &payload).await;
        let told = house.mail(&nurse).await;
        assert!(told[0].contains("urn:xmpp:reporting:spam"), "{told:?}");
        let mut found = Vec::new();
        for _ in 0..10_000 {
            found = report::newest(&house.node, 10).await.expect("read");
            if found.first().is_some_and(|kept| kept.report.jid.local() == Some(name)) {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(found[0].report.jid.local(), Some(name));
    }
    let found = report::newest(&house.node, 10).await.expect("read");
    let names: Vec<_> = found.iter().filter_map(|kept| kept.report.jid.local()).collect();
    assert_eq!(names, ["c", "b"]);
}
