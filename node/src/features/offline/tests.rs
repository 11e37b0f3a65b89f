//! XEP-0160 through a real home: what is filed, what is not, and what a user who comes back gets.

use xmpp::jid::BareJid;

use super::home::{Answer, Request};
use super::*;
use crate::testing::{House, bare, mail, stanza};

async fn file(house: &House, account: &BareJid, bodies: &[&str]) -> Answer {
    file_at_most(house, account, bodies, 250).await
}

async fn file_at_most(house: &House, account: &BareJid, bodies: &[&str], max: u32) -> Answer {
    let stanza = |body: &&str| (house.node.ledger.next_order(), body.as_bytes().to_vec());
    let request =
        Request::File { node: "us-0".into(), stanzas: bodies.iter().map(stanza).collect(), max };
    ask(&house.node, account, &request).await.expect("answered")
}

#[tokio::test]
async fn what_is_filed_again_by_a_node_that_did_not_hear_of_it_is_kept_once() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let file = async |node: &str, orders: std::ops::Range<u64>| {
        let stanzas = orders.map(|order| (order, order.to_string().into_bytes())).collect();
        let request = Request::File { node: node.into(), stanzas, max: 250 };
        assert!(matches!(ask(&house.node, &romeo, &request).await, Ok(Answer::Filed)));
    };
    for (node, orders) in [("us-0", 1..50), ("us-0", 1..50), ("us-0", 49..52), ("ap-0", 51..52)] {
        file(node, orders).await;
    }
    let kept = fetch(&house, &romeo, None).await.into_iter().map(|(_, body)| body);
    let expected: Vec<String> = (1..52).chain(51..52).map(|n: u64| n.to_string()).collect();
    assert_eq!(kept.collect::<Vec<_>>(), expected);
}

async fn fetch(house: &House, account: &BareJid, after: Option<u64>) -> Vec<(u64, String)> {
    let Ok(Answer::Messages(messages)) = ask(&house.node, account, &Request::Fetch { after }).await
    else {
        panic!("no messages")
    };
    let text = |bytes| String::from_utf8(bytes).expect("text");
    messages.into_iter().map(|(id, bytes)| (id, text(bytes))).collect()
}

/// Waits until nothing is filed any more.
async fn until_handed_out(house: &House, account: &BareJid) {
    for _ in 0..5000 {
        if fetch(house, account, None).await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("still filed: {:?}", fetch(house, account, None).await);
}

#[tokio::test]
async fn messages_are_kept_in_order_and_fetched_in_pages() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let all: Vec<String> = (0..250).map(|n| n.to_string()).collect();
    for part in all.chunks(7) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        assert!(matches!(file(&house, &romeo, &part).await, Answer::Filed));
    }
    let (mut got, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = fetch(&house, &romeo, after).await;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        pages += 1;
        got.extend(page.into_iter().map(|(_, body)| body));
    }
    assert_eq!((got, pages), (all, 3));
}

#[tokio::test]
async fn long_messages_are_fetched_in_pages_that_a_link_takes() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let all: Vec<String> = (0..8).map(|n| format!("{n}{}", "x".repeat(200_000))).collect();
    for body in &all {
        assert!(matches!(file(&house, &romeo, &[body.as_str()]).await, Answer::Filed));
    }
    let (mut got, mut after) = (Vec::new(), None);
    loop {
        let request = postcard::to_stdvec(&Request::Fetch { after }).expect("a plain value");
        let answer = house.node.homes.request(&romeo, home::OP, request).await.expect("answered");
        assert!(answer.len() < s2s::link::BODY_BYTES_MAX, "{} bytes", answer.len());
        let page = fetch(&house, &romeo, after).await;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        got.extend(page.into_iter().map(|(_, body)| body));
    }
    assert!(got == all, "{} of {}", got.len(), all.len());
}

#[tokio::test]
async fn what_was_handed_out_is_dropped_and_the_rest_stays() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    file(&house, &romeo, &["a", "b", "c"]).await;
    let kept = fetch(&house, &romeo, None).await;
    let dropped = ask(&house.node, &romeo, &Request::Drop { upto: kept[1].0 }).await;
    assert!(matches!(dropped, Ok(Answer::Filed)));
    assert_eq!(fetch(&house, &romeo, None).await, kept[2..]);
}

#[tokio::test]
async fn of_a_batch_a_store_takes_what_fits_and_no_account_has_none() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let ask = async |bodies: &[&str], max| file_at_most(&house, &romeo, bodies, max).await;
    assert!(matches!(ask(&["a", "b"], 4).await, Answer::Filed));
    assert!(
        matches!(ask(&["c", "d", "e", "f"], 4).await, Answer::Denied(beyond) if beyond.len() == 2)
    );
    let kept = fetch(&house, &romeo, None).await.into_iter().map(|(_, body)| body);
    assert_eq!(kept.collect::<String>(), "abcd", "the oldest, in order");
    assert!(matches!(ask(&["g"], 4).await, Answer::Full));
    assert!(matches!(file(&house, &bare("nobody"), &["a"]).await, Answer::NoAccount));
}

#[tokio::test]
async fn nothing_is_filed_behind_the_back_of_a_user_who_is_here() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    // Connected only, or asking not to be sent messages: they do not take any.
    house.bound("romeo/silent");
    house.available("romeo/robot", -1).await;
    assert!(matches!(file(&house, &romeo, &["a"]).await, Answer::Filed));
    house.available("romeo/orchard", 0).await;
    assert!(matches!(file(&house, &romeo, &["b"]).await, Answer::Elsewhere(_)));
}

#[tokio::test]
async fn a_message_to_a_user_who_is_away_is_handed_out_once_with_its_time() {
    let house = House::new().await;
    let [romeo, _] = house.accounts(["romeo", "juliet"]).await;
    let juliet = house.bound("juliet/balcony");
    for id in ["m1", "m2"] {
        let to = "<message to='romeo@chat.example' type='chat'";
        house.says(&juliet, &format!("{to} id='{id}'><body>x</body></message>")).await;
    }
    let filed = || house.node.metrics.routed.offline.get();
    house.until("both are filed", || filed() == 2).await;
    let robot = house.available("romeo/robot", -1).await;
    let orchard = house.available("romeo/orchard", 0).await;
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(house.mail(&orchard).await.into_iter().filter(|text| text.contains("body")));
    }
    assert!(got[0].contains("id='m1'") && got[1].contains("id='m2'"), "{got:#?}");
    assert!(got.iter().all(|text| text.contains("urn:xmpp:delay")), "{got:#?}");
    assert!(mail(&robot).iter().all(|text| !text.contains("body")));
    until_handed_out(&house, &romeo).await;
    let second = house.available("romeo/second", 0).await;
    assert!(mail(&second).iter().all(|text| !text.contains("body")));
    assert!(mail(&juliet).is_empty(), "nothing came back");
}

#[tokio::test]
async fn the_sender_hears_of_a_message_that_could_not_be_kept() {
    let house = House::with("[limits]\noffline_messages_max = 1\n").await;
    house.accounts(["romeo", "juliet"]).await;
    let juliet = house.bound("juliet/balcony");
    for (to, id) in [("romeo", "m1"), ("romeo", "m2"), ("nobody", "m3")] {
        let to = format!("<message to='{to}@chat.example' type='chat' id='{id}'>");
        crate::router::route(
            &house.node,
            stanza(&format!("{to}<body>x</body></message>")).with_from(juliet.address()),
        );
    }
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(house.mail(&juliet).await);
    }
    let got = got.join("\n");
    assert!(
        got.contains("id='m2'") && got.contains("id='m3'") && !got.contains("id='m1'"),
        "{got}"
    );
    assert_eq!(got.matches("service-unavailable").count(), 2, "{got}");
}

#[tokio::test]
async fn much_mail_for_somebody_who_is_away_is_filed_in_parts() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let routed = |n: u64| {
        let body = "x".repeat(50_000);
        let text =
            format!("<message to='romeo@chat.example' id='{n}'><body>{body}</body></message>");
        Routed { stanza: stanza(&text), tries: 0, order: n, tracked: false }
    };
    let filed = super::file(&house.node, &romeo, (1..=40).map(routed).collect()).await;
    assert_eq!((filed.kept.len(), filed.refused.len(), filed.elsewhere.len()), (40, 0, 0));
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let page = fetch(&house, &romeo, after).await;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        ids.extend(page.iter().map(|(_, text)| text.split('\'').nth(3).unwrap_or("").to_owned()));
    }
    assert_eq!(ids, (1..=40).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_overtakes_a_message_of_its_sender_that_waits() {
    // RFC 6120 §10.1.
    let house = House::new().await;
    house.accounts(["romeo"]).await;
    let seat = house.bound("romeo/orchard");
    let say = |text: &str| assert!(seat.take(Delivery::light(stanza(text))), "{text}");
    for whole in [true, false] {
        seat.begin_catching_up();
        say("<message from='juliet@x/b' id='1'/>");
        say("<presence from='juliet@x/b' id='2'/>");
        say("<iq from='juliet@x/b' type='get' id='3'/>");
        say("<message from='juliet@x/b' type='error' id='4'/>");
        say("<presence from='nurse@x/b' id='5'/>");
        let ids = |texts: Vec<String>| {
            let id = |text: &String| text.split("id='").nth(1).and_then(|rest| rest.chars().next());
            texts.iter().filter_map(id).collect::<String>()
        };
        assert_eq!(ids(mail(&seat)), "45");
        let back = seat.end_catching_up(whole);
        assert_eq!(back.len(), usize::from(!whole));
        assert_eq!(ids(mail(&seat)), if whole { "123" } else { "23" });
    }
    // What answers the session itself waits for nothing, and goes nowhere else.
    seat.begin_catching_up();
    let result = stanza("<message from='romeo@chat.example' to='romeo@chat.example/orchard'/>");
    assert!(seat.take_answer(Delivery::light(result)));
    assert!(seat.take_newer().is_empty());
    assert_eq!(mail(&seat).len(), 1);
    assert!(seat.end_catching_up(true).is_empty());
    // When it hides, only messages go elsewhere.
    seat.begin_catching_up();
    say("<message from='juliet@x/b' id='1'/>");
    say("<presence from='juliet@x/b' id='2'/>");
    assert_eq!(seat.take_newer().len(), 1);
    assert_eq!(mail(&seat).len(), 1);
    assert!(seat.end_catching_up(true).is_empty());
}
