//! What they send.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use s2s::federation::Handled;

use super::*;
use crate::features::invitations::{self, Wish};
use crate::federation::inbound::inbound;
use crate::storage::Page;
use crate::testing::{Counted, mail};

/// The condition of an error, or the type.
fn word(text: &str) -> String {
    let conditions = [
        "service-unavailable",
        "forbidden",
        "bad-request",
        "not-allowed",
        "item-not-found",
        "unsubscribed",
        "unavailable",
    ];
    let found = conditions.iter().find(|condition| {
        text.contains(&format!("<{condition}")) || text.contains(&format!("type='{condition}'"))
    });
    found.map_or_else(|| text.to_owned(), ToString::to_string)
}

async fn answer(house: &House, text: &str) -> String {
    house.hears(text).await;
    house.abroad().iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

/// Her resources: `c` is connected, the others are available.
async fn people(house: &House, there: &str) -> Vec<Arc<Seat>> {
    let mut seats = Vec::new();
    for name in there.split_whitespace() {
        let full = format!("juliet/{name}");
        seats.push(match name {
            "c" => house.bound(&full),
            _ => house.available(&full, 0).await,
        });
    }
    house.until("caught up", || seats.iter().all(|seat| !seat.is_catching_up())).await;
    seats.iter().for_each(|seat| drop(mail(seat)));
    seats
}

#[tokio::test]
async fn what_another_domain_sends_goes_where_rfc_6121_8_5_says() {
    // Section, kind, type, to; who of juliet's is there (`b`: balcony, available; `c`: chamber, connected only); what goes back, who gets it.
    let table = [
        // No such account.
        ("8.5.1", "message", "", "nobody", "", "service-unavailable", ""),
        ("8.5.1", "message", "chat", "nobody", "", "service-unavailable", ""),
        ("8.5.1", "message", "groupchat", "nobody", "", "service-unavailable", ""),
        ("8.5.1", "message", "headline", "nobody", "", "", ""),
        ("8.5.1", "message", "error", "nobody", "", "", ""),
        ("8.5.1", "message", "chat", "nobody/x", "", "service-unavailable", ""),
        ("8.5.1", "presence", "", "nobody", "", "", ""),
        ("8.5.1", "presence", "unavailable", "nobody", "", "", ""),
        ("8.5.1", "presence", "subscribe", "nobody", "", "", ""),
        ("8.5.1", "presence", "subscribed", "nobody", "", "", ""),
        ("8.5.1", "presence", "unsubscribe", "nobody", "", "", ""),
        ("8.5.1", "presence", "unsubscribed", "nobody", "", "", ""),
        ("8.5.1", "presence", "probe", "nobody", "", "unsubscribed", ""),
        ("8.5.1", "iq", "get", "nobody", "", "service-unavailable", ""),
        ("8.5.1", "iq", "set", "nobody", "", "service-unavailable", ""),
        ("8.5.1", "iq", "result", "nobody", "", "", ""),
        ("8.5.1", "iq", "error", "nobody", "", "", ""),
        // The bare JID of somebody who is there.
        ("8.5.2.1.1", "message", "", "juliet", "b c", "", "b"),
        ("8.5.2.1.1", "message", "chat", "juliet", "b c", "", "b"),
        ("8.5.2.1.1", "message", "headline", "juliet", "b c", "", "b"),
        ("8.5.2.1.1", "message", "groupchat", "juliet", "b c", "service-unavailable", ""),
        ("8.5.2.1.1", "message", "error", "juliet", "b c", "", ""),
        ("8.5.2.1.2", "presence", "", "juliet", "b c", "", "b"),
        ("8.5.2.1.2", "presence", "unavailable", "juliet", "b c", "", "b"),
        ("8.5.2.1.2", "presence", "error", "juliet", "b c", "", "b"),
        ("8.5.2.1.2", "presence", "subscribe", "juliet", "b c", "", "b"),
        ("8.5.2.1.3", "iq", "get", "juliet", "b c", "service-unavailable", ""),
        ("8.5.2.1.3", "iq", "result", "juliet", "b c", "", ""),
        // And of somebody who is not: it is kept, or not.
        ("8.5.2.2.1", "message", "", "juliet", "", "", "kept"),
        ("8.5.2.2.1", "message", "chat", "juliet", "c", "", "kept"),
        ("8.5.2.2.1", "message", "groupchat", "juliet", "", "service-unavailable", ""),
        ("8.5.2.2.1", "message", "headline", "juliet", "", "", ""),
        ("8.5.2.2.1", "message", "error", "juliet", "", "", ""),
        ("8.5.2.2.2", "presence", "", "juliet", "", "", ""),
        ("8.5.2.2.3", "iq", "get", "juliet", "", "service-unavailable", ""),
        // A resource that is there.
        ("8.5.3.1", "message", "chat", "juliet/b", "b c", "", "b"),
        ("8.5.3.1", "message", "groupchat", "juliet/c", "b c", "", "c"),
        ("8.5.3.1", "message", "error", "juliet/b", "b c", "", "b"),
        ("8.5.3.1", "presence", "", "juliet/b", "b c", "", "b"),
        ("8.5.3.1", "iq", "get", "juliet/c", "b c", "", "c"),
        ("8.5.3.1", "iq", "result", "juliet/b", "b c", "", "b"),
        // And one that is not.
        ("8.5.3.2.1", "message", "", "juliet/z", "b", "service-unavailable", ""),
        ("8.5.3.2.1", "message", "groupchat", "juliet/z", "b", "service-unavailable", ""),
        ("8.5.3.2.1", "message", "headline", "juliet/z", "b", "", ""),
        ("8.5.3.2.1", "message", "error", "juliet/z", "b", "", ""),
        ("8.5.3.2.1", "message", "chat", "juliet/z", "b", "", "b"),
        ("8.5.3.2.1", "message", "chat", "juliet/z", "", "", "kept"),
        ("8.5.3.2.2", "presence", "", "juliet/z", "b", "", ""),
        ("8.5.3.2.3", "iq", "get", "juliet/z", "b", "service-unavailable", ""),
        ("8.5.3.2.3", "iq", "result", "juliet/z", "b", "", ""),
        // RFC 6121 §4.7.1, RFC 6120 §8.2.3.
        ("4.7.1", "presence", "nonsense", "juliet", "b", "bad-request", ""),
        ("8.2.3", "iq", "nonsense", "juliet", "b", "bad-request", ""),
    ];
    let mut houses: Vec<(&str, House, Vec<Arc<Seat>>, usize)> = Vec::new();
    for (section, kind, type_, to, there, back, taken) in table {
        let known = houses.iter().position(|(known, ..)| *known == there);
        if known.is_none() {
            let house = house().await;
            let seats = people(&house, there).await;
            houses.push((there, house, seats, 0));
        }
        let at = known.unwrap_or(houses.len() - 1);
        let (_, house, seats, kept) = &mut houses[at];
        let to = to.replacen("juliet", "juliet@chat.example", 1);
        let to = to.replacen("nobody", "nobody@chat.example", 1);
        let type_attr = if type_.is_empty() { String::new() } else { format!(" type='{type_}'") };
        let child = match kind {
            "iq" => "<q xmlns='urn:x'/>",
            "message" => "<body>x</body>",
            _ => "",
        };
        let text = format!("<{kind} from='{ROMEO}/o' to='{to}'{type_attr} id='1'>{child}</{kind}>");
        let case = format!("§{section}: {kind} {type_} to {to}, {there:?}");
        assert_eq!(answer(house, &text).await, back, "{case}");
        let got = seats.iter().filter(|seat| !mail(seat).is_empty());
        let mut got: Vec<&str> = got.map(|seat| seat.full.resource()).collect();
        let page = Page::after(None, 99);
        let offline = house.node.storage.archive("offline", "juliet@chat.example", page);
        let before = std::mem::replace(kept, offline.await.expect("read").len());
        if *kept > before {
            got.push("kept");
        }
        assert_eq!(got.join(" "), taken, "{case}");
    }
}

#[tokio::test]
async fn a_stranger_from_another_domain_learns_what_a_local_stranger_does() {
    let house = house().await;
    let _juliet = house.available("juliet/balcony", 0).await;
    let q = |namespace: &str| format!("<query xmlns='{namespace}'/>");
    let ping = "<ping xmlns='urn:xmpp:ping'/>".to_owned();
    let time = "<time xmlns='urn:xmpp:time'/>".to_owned();
    let card = "<vCard xmlns='vcard-temp'/>".to_owned();
    let command = "<command xmlns='http://jabber.org/protocol/commands' node='ping'/>".to_owned();
    let turn = "<services xmlns='urn:xmpp:extdisco:2'/>".to_owned();
    let (server, juliet, nobody) = ("chat.example", "juliet@chat.example", "nobody@chat.example");
    let upload = "<request xmlns='urn:xmpp:http:upload:0' filename='x' size='1'/>".to_owned();
    for (to, type_, payload, expected) in [
        (server, "get", ping.clone(), "result"),
        (server, "get", time.clone(), "result"),
        (server, "get", q("jabber:iq:version"), "result"),
        (server, "get", q("jabber:iq:last"), "result"),
        (server, "get", q("http://jabber.org/protocol/disco#info"), "result"),
        (server, "get", q("http://jabber.org/protocol/disco#items"), "result"),
        (server, "get", card.clone(), "result"),
        (server, "set", card.clone(), "not-allowed"),
        (server, "get", q("jabber:iq:roster"), "service-unavailable"),
        (server, "get", q("jabber:iq:register"), "service-unavailable"),
        (server, "get", q("jabber:iq:private"), "service-unavailable"),
        (server, "set", command, "forbidden"),
        (server, "get", turn, "forbidden"),
        (server, "set", "<enable xmlns='urn:xmpp:carbons:2'/>".into(), "service-unavailable"),
        (server, "get", q("urn:x"), "service-unavailable"),
        ("eu.chat.example", "get", ping.clone(), "result"),
        ("upload.chat.example", "get", ping.clone(), "result"),
        ("upload.chat.example", "get", upload, "forbidden"),
        ("rooms.chat.example", "get", ping.clone(), "service-unavailable"),
        // Of accounts: who may not see her presence cannot tell whether she exists.
        (juliet, "get", ping.clone(), "service-unavailable"),
        (nobody, "get", ping.clone(), "service-unavailable"),
        (juliet, "get", q("http://jabber.org/protocol/disco#info"), "service-unavailable"),
        (nobody, "get", q("http://jabber.org/protocol/disco#info"), "service-unavailable"),
        (juliet, "get", q("http://jabber.org/protocol/disco#items"), "result"),
        (nobody, "get", q("http://jabber.org/protocol/disco#items"), "result"),
        (juliet, "get", q("jabber:iq:last"), "forbidden"),
        (nobody, "get", q("jabber:iq:last"), "forbidden"),
        (juliet, "get", card.clone(), "result"),
        (nobody, "get", card.clone(), "result"),
        (juliet, "set", card, "forbidden"),
        (juliet, "get", time, "service-unavailable"),
        (juliet, "get", q("jabber:iq:version"), "service-unavailable"),
        (juliet, "get", q("jabber:iq:roster"), "forbidden"),
        (nobody, "get", q("jabber:iq:roster"), "forbidden"),
        (juliet, "get", q("jabber:iq:private"), "forbidden"),
        (juliet, "get", q("jabber:iq:privacy"), "forbidden"),
        (juliet, "get", "<blocklist xmlns='urn:xmpp:blocking'/>".into(), "forbidden"),
        (juliet, "set", q("urn:xmpp:mam:2"), "forbidden"),
        (juliet, "get", q("jabber:iq:register"), "service-unavailable"),
    ] {
        let text = format!("<iq from='{ROMEO}/o' to='{to}' type='{type_}' id='1'>{payload}</iq>");
        let got = answer(&house, &text).await;
        let is_result = got.contains("type='result'") && got.contains(&format!("from='{to}'"));
        assert!(got == expected || (expected == "result" && is_result), "{text} → {got}");
    }
    // And who may see it is answered.
    subscribed(&house, "from").await;
    for payload in [ping, q("jabber:iq:last"), q("http://jabber.org/protocol/disco#info")] {
        let text = format!("<iq from='{ROMEO}/o' to='{juliet}' type='get' id='1'>{payload}</iq>");
        let got = answer(&house, &text).await;
        assert!(got.contains("type='result'"), "{text} → {got}");
    }
}

#[tokio::test]
async fn what_it_says_in_our_name_goes_and_the_archive_names_it() {
    let house = house().await;
    let juliet = house.available("juliet/balcony", 0).await;
    house.until("caught up", || !juliet.is_catching_up()).await;
    drop(mail(&juliet));
    house
        .hears(&format!(
            "<message from='{ROMEO}/o' to='juliet@chat.example' type='chat'><body>x</body>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@chat.example' id='forged'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='rooms.far.example' id='theirs'/>\
             <delay xmlns='urn:xmpp:delay' from='chat.example' stamp='2002-09-10T23:08:25Z'/>\
             <delay xmlns='urn:xmpp:delay' from='far.example' stamp='2002-09-10T23:08:26Z'/></message>"
        ))
        .await;
    let got = mail(&juliet).join("\n");
    assert!(!got.contains("forged") && !got.contains("from='chat.example'"), "{got}");
    assert!(got.contains("theirs") && got.contains("from='far.example'"), "{got}");
    assert!(got.contains("by='juliet@chat.example'"), "{got}");
    let account = bare("juliet");
    house.until("filed", || house.node.archive.queue.is_settled(&account)).await;
    let filed = house.node.storage.archive("archive", account.as_str(), Page::after(None, 9));
    assert_eq!(filed.await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_message_is_handled_when_somebody_has_it_and_not_before() {
    let house = house().await;
    let juliet = house.available("juliet/balcony", 0).await;
    house.until("caught up", || !juliet.is_catching_up()).await;
    drop(mail(&juliet));
    let counted = Arc::new(Counted::default());
    let text = format!(
        "<message from='{ROMEO}/o' to='juliet@chat.example' type='chat'><body>x</body></message>"
    );
    inbound(&house.node, stanza(&text), Handled::new(counted.clone(), 0));
    let account = bare("juliet");
    house.until("filed", || house.node.archive.queue.is_settled(&account)).await;
    assert_eq!((counted.0.load(Ordering::Acquire), house.node.ledger.depth().0), (0, 1));
    // Her client has it.
    house.mail(&juliet).await;
    house.until("handled", || counted.0.load(Ordering::Acquire) == 1).await;
    assert_eq!(house.node.ledger.depth().0, 0);
}

#[tokio::test]
async fn what_a_pair_sends_behind_what_has_to_wait_stays_behind_it() {
    let house = house().await;
    let juliet = house.available("juliet/balcony", 0).await;
    house.until("caught up", || !juliet.is_catching_up()).await;
    drop(mail(&juliet));
    let counted = Arc::new(Counted::default());
    let to = "to='juliet@chat.example'";
    let all = [
        format!("<presence from='{ROMEO}/o' {to} type='subscribe'/>"),
        format!("<message from='{ROMEO}/o' {to} type='chat' id='m1'><body>x</body></message>"),
        format!("<presence from='{ROMEO}/o' {to}><status>p1</status></presence>"),
        format!("<presence from='{ROMEO}/o' {to} type='unsubscribe'/>"),
        format!("<iq from='{ROMEO}/o' to='juliet@chat.example/balcony' type='result' id='i1'/>"),
        format!("<message from='{ROMEO}/p' {to} type='chat' id='m2'><body>x</body></message>"),
    ];
    for (text, number) in all.iter().zip(0..) {
        inbound(&house.node, stanza(text), Handled::new(counted.clone(), number));
    }
    // Another pair does not wait.
    let nurse = format!(
        "<message from='nurse@far.example/k' {to} type='chat' id='n1'><body>x</body></message>"
    );
    inbound(&house.node, stanza(&nurse), Handled::new(counted.clone(), 9));
    let mut got = mail(&juliet);
    assert!(got.len() == 1 && got[0].contains("id='n1'"), "{got:?}");
    house.until("all of it", || house.node.federation.inbound.lanes() == 0).await;
    got = mail(&juliet);
    let marks = ["type='subscribe'", "id='m1'", "p1", "type='unsubscribe'", "id='i1'", "id='m2'"];
    assert_eq!(got.len(), marks.len(), "{got:#?}");
    for (text, mark) in got.iter().zip(marks) {
        assert!(text.contains(mark), "{mark} in {text}");
    }
    assert_eq!(counted.0.load(Ordering::Acquire), 4, "messages are the ledger's");
}

#[tokio::test]
async fn who_is_blocked_is_nobody_here_and_so_is_his_whole_domain() {
    for blocked in [ROMEO, "far.example", "romeo@far.example/o"] {
        let house = house().await;
        let juliet = house.available("juliet/balcony", 0).await;
        let item = format!("<block xmlns='urn:xmpp:blocking'><item jid='{blocked}'/></block>");
        asks(&house, &juliet, &item).await;
        house.until("caught up", || !juliet.is_catching_up()).await;
        drop(mail(&juliet));
        let from = format!("from='{ROMEO}/o'");
        for (text, expected) in [
            (
                "<message to='juliet@chat.example' type='chat'><body>x</body></message>",
                "service-unavailable",
            ),
            (
                "<message to='juliet@chat.example/balcony'><body>x</body></message>",
                "service-unavailable",
            ),
            (
                "<iq to='juliet@chat.example' type='get' id='1'><vCard xmlns='vcard-temp'/></iq>",
                "service-unavailable",
            ),
            (
                "<iq to='juliet@chat.example/balcony' type='get' id='1'><q xmlns='urn:x'/></iq>",
                "service-unavailable",
            ),
            ("<presence to='juliet@chat.example'/>", ""),
            ("<presence to='juliet@chat.example/balcony'/>", ""),
            ("<presence to='juliet@chat.example' type='probe'/>", ""),
        ] {
            let text = text.replacen(" to=", &format!(" {from} to="), 1);
            assert_eq!(answer(&house, &text).await, expected, "{blocked}: {text}");
        }
        assert_eq!(mail(&juliet), [""; 0], "{blocked}");
        let offline = "<presence type='unavailable'/>";
        house.says(&juliet, offline).await;
        drop(mail(&juliet));
        let text = format!(
            "<message {from} to='juliet@chat.example' type='chat'><body>x</body></message>"
        );
        assert_eq!(answer(&house, &text).await, "service-unavailable", "{blocked}: away");
    }
}

#[tokio::test]
async fn an_invitation_or_an_approval_answers_the_request_of_another_domain() {
    let house = house().await;
    let _juliet = house.available("juliet/balcony", 0).await;
    let owner = bare("juliet");
    let wish = Wish {
        owner: owner.clone(),
        register: false,
        contact: true,
        username: None,
        uses: 1,
        expire: std::time::Duration::from_secs(60),
    };
    let issued = invitations::issue(&house.node, wish).await.expect("made");
    house
        .hears(&format!(
            "<presence from='{ROMEO}' to='{owner}' type='subscribe'>\
             <preauth xmlns='urn:xmpp:pars:0' token='{}'/></presence>",
            issued.token.expose()
        ))
        .await;
    let left = house.abroad();
    let [granted, asked, shown] = left.as_slice() else { panic!("{left:#?}") };
    assert!(
        granted.contains("type='subscribed'") && asked.contains("type='subscribe'"),
        "{left:?}"
    );
    assert!(shown.contains("from='juliet@chat.example/balcony'"), "{left:?}");
    // RFC 6121 §3.4; and asked once more, it is answered once more (§3.1.3).
    let house = super::house().await;
    let _juliet = house.available("juliet/balcony", 0).await;
    subscribed(&house, "approved").await;
    let request = format!("<presence from='{ROMEO}' to='{owner}' type='subscribe'/>");
    house.hears(&request).await;
    let left = house.abroad();
    let [granted, shown] = left.as_slice() else { panic!("{left:#?}") };
    assert!(granted.contains("type='subscribed'") && shown.contains("/balcony"), "{left:?}");
    assert!(granted.contains("from='juliet@chat.example'"), "{granted}");
    house.hears(&request).await;
    let left = house.abroad();
    assert!(left.len() == 1 && left[0].contains("type='subscribed'"), "{left:?}");
}
