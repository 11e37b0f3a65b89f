//! Regions' own domains: a node of `eu`, which knows a region `us`. Bob is at `us.chat.example`, and so a stranger to alice at `eu.chat.example`, unless the two are
//! linked; to juliet at `chat.example` he is one of ours in any case.

use std::time::Duration;

use xmpp::jid::FullJid;

use super::*;
use crate::federation;
use crate::router::Routed;
use crate::router::ledger::Due;
use crate::testing::{SOON, mail};

const ALICE: &str = "alice@eu.chat.example";
const BOB: &str = "bob@us.chat.example";
/// Her shard is homed in eu.
const JULIET: &str = "juliet1@chat.example";

async fn eu(linked: bool) -> House {
    let house = House::beside_us(linked, "").await;
    for account in [ALICE, JULIET] {
        house.account(&at(account)).await;
    }
    house.abroad();
    house
}

fn at(text: &str) -> BareJid {
    BareJid::parse(text).expect("a JID")
}

/// The account's roster says that it and Bob see each other.
async fn both(house: &House, account: &str) {
    let (bob, stanza) = (at(BOB), b"<presence type='subscribe' from='bob@us.chat.example'/>");
    let incoming =
        |kind| Request::In { contact: bob.clone(), kind, stanza: stanza.to_vec(), items_max: 10 };
    let outgoing = |kind| Request::Out { contact: bob.clone(), kind, items_max: 10 };
    for request in [
        outgoing(Kind::Subscribe),
        incoming(Kind::Subscribed),
        incoming(Kind::Subscribe),
        outgoing(Kind::Subscribed),
    ] {
        roster::ask(&house.node, &at(account), &request).await.expect("done");
    }
    house.abroad();
}

fn bound(house: &House, full: &str) -> Arc<Seat> {
    let full = FullJid::parse(full).expect("a JID");
    house.node.bind(&full.bare(), Some(full.resource())).expect("bound")
}

/// Who sent what to whom, of what left.
fn left(house: &House) -> Vec<String> {
    let word = |text: &String| {
        let stanza = stanza(text);
        let name = |jid: Option<&xmpp::jid::Jid>| jid.map(ToString::to_string).unwrap_or_default();
        let type_ = stanza.type_().name().unwrap_or("-");
        format!("{type_} {} {}", name(stanza.from()), name(stanza.to()))
    };
    house.abroad().iter().map(word).collect()
}

#[tokio::test]
async fn presence_leaves_for_a_contact_on_another_regions_domain_once() {
    for (linked, account, expected) in [
        (
            false,
            ALICE,
            &[
                "- alice@eu.chat.example/a bob@us.chat.example",
                "probe alice@eu.chat.example/a bob@us.chat.example",
            ][..],
        ),
        (true, ALICE, &[]),
        (false, JULIET, &[]),
        (true, JULIET, &[]),
    ] {
        let house = eu(linked).await;
        both(&house, account).await;
        let seat = bound(&house, &format!("{account}/a"));
        house.says(&seat, "<presence/>").await;
        assert_eq!(left(&house), expected, "{account}, linked: {linked}");
        house.says(&seat, &format!("<message to='{BOB}' type='headline'/>")).await;
        house.says(&seat, &format!("<presence to='{BOB}' type='unsubscribe'/>")).await;
        let (message, unsubscribe) =
            (format!("headline {account}/a {BOB}"), format!("unsubscribe {account} {BOB}"));
        let expected = if expected.is_empty() { vec![] } else { vec![message, unsubscribe] };
        assert_eq!(left(&house), expected, "{account}, linked: {linked}");
    }
}

#[tokio::test]
async fn what_another_region_sends_by_a_stream_is_taken_as_from_any_domain() {
    let house = eu(false).await;
    both(&house, ALICE).await;
    let seat = bound(&house, "alice@eu.chat.example/a");
    house.says(&seat, "<presence/>").await;
    mail(&seat);
    house.abroad();
    let to = "to='alice@eu.chat.example'";
    house.hears(&format!("<presence from='{BOB}/x' {to}/>")).await;
    let seen = house.mail(&seat).await;
    assert!(seen.len() == 1 && seen[0].contains("bob@us.chat.example/x"), "{seen:?}");
    assert_eq!(left(&house), [""; 0], "it does not go round");
    let delay = "<delay xmlns='urn:xmpp:delay' from='chat.example' stamp='2002-09-10T23:08:25Z'/>";
    house
        .hears(&format!("<message from='{BOB}/x' {to} type='chat'><body>x</body>{delay}</message>"))
        .await;
    let got = house.mail(&seat).await;
    assert!(got.len() == 1 && got[0].contains("2002-09-10"), "{got:?}");
    house.hears(&format!("<presence from='{BOB}/x' {to} type='probe'/>")).await;
    assert_eq!(left(&house), ["- alice@eu.chat.example/a bob@us.chat.example/x"]);
    house.hears(&format!("<presence from='{BOB}' {to} type='unsubscribe'/>")).await;
    house.until("he sees her no longer", || !left(&house).is_empty()).await;
    let ping = "<ping xmlns='urn:xmpp:ping'/>";
    house
        .hears(&format!("<iq type='get' id='1' from='{BOB}/x' to='eu.chat.example'>{ping}</iq>"))
        .await;
    assert_eq!(left(&house), ["result eu.chat.example bob@us.chat.example/x"]);
}

#[tokio::test]
async fn an_account_of_the_region_is_at_home_there() {
    let house = eu(false).await;
    let homes = &house.node.homes;
    assert!(homes.is_home(ALICE) && homes.is_home(JULIET) && !homes.is_home(BOB));
    // Carol's shard is homed in us, unless her domain says something else.
    assert!(!homes.is_home("carol1@chat.example") && homes.is_home("carol1@eu.chat.example"));
}

/// Bob's region alone speaks for him, and it cannot be reached.
#[tokio::test]
async fn what_is_of_another_regions_domain_waits_for_a_node_of_that_region() {
    for linked in [false, true] {
        let house = eu(linked).await;
        let node = &house.node;
        let friar = |id: u64| {
            stanza(&format!(
                "<message from='{BOB}/x' to='friar@other.example' id='{id}'><body>x</body></message>"
            ))
        };
        let waits = |id: u64, accepted_ms: u64| {
            let order = node.ledger.next_order();
            let entered =
                node.ledger.enter(order, &friar(id), Due::Nobody, node.now_ms(), accepted_ms);
            assert!(entered.is_ok());
            let routed = Routed { stanza: friar(id), tries: 0, order, tracked: true };
            federation::send_again(node, routed);
        };
        // One that has waited for as long as it may; and one of which the time of day says so, for it has jumped.
        tokio::time::pause();
        waits(1, node.wall_ms());
        tokio::time::advance(Duration::from_secs(1)).await;
        waits(2, 1);
        federation::send(node, friar(3), None);
        assert_eq!((left(&house).len(), node.federation.open()), (0, 3), "linked: {linked}");
        tokio::time::advance(SOON - Duration::from_millis(500)).await;
        federation::tick(node);
        tokio::time::resume();
        assert_eq!((left(&house).len(), node.federation.open()), (0, 2), "linked: {linked}");
        // What is of this region, or of the global domain, does not.
        let text = format!("<message from='{ALICE}/x' to='friar@other.example'/>");
        federation::send(node, stanza(&text), None);
        let text = text.replace(ALICE, "carol1@chat.example");
        federation::send(node, stanza(&text), None);
        assert_eq!(left(&house).len(), 2, "linked: {linked}");
    }
}
