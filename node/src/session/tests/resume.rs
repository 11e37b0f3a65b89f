//! The edges of XEP-0198 over a wire: what may be wished for, what the client is told at the end, when it comes too late, and when it is
//! asked twice.

use super::*;

#[tokio::test]
async fn who_comes_too_late_is_told_how_much_was_handled() {
    let (house, mut juliet) = verona_with("[limits]\nsm_timeout = '1s'\n").await;
    let (mut one, id) = Client::enabled(&house, "romeo/one").await;
    one.sends(&message("juliet@chat.example/balcony", "m1")).await;
    juliet.reads("id='m1'").await;
    house.until("it is handled", || house.node.ledger.depth().0 == 0).await;
    one.cut().await.expect("ends");
    for (account, expected) in [("romeo", Some(2)), ("juliet", None)] {
        match Client::resume(&house, account, &id, 0).await {
            Err(Refused::NotFound { h }) => assert_eq!(h, expected, "{account}"),
            _ => panic!("resumed"),
        }
    }
}

#[tokio::test]
async fn a_client_may_want_a_shorter_time_and_not_a_longer_one() {
    let (house, _juliet) = verona_with("[limits]\nsm_timeout = '60s'\n").await;
    for (wish, granted) in [("", "60"), ("max='30'", "30"), ("max='600'", "60")] {
        let mut one = Client::new(&house, "romeo/one");
        one.sends(&format!("<enable xmlns='urn:xmpp:sm:3' resume='true' {wish}/>")).await;
        let enabled = one.reads("/>").await;
        assert!(enabled.contains(&format!("max='{granted}'")), "{wish}: {enabled}");
    }
}

#[tokio::test]
async fn the_last_word_says_what_was_handled() {
    let (house, _juliet) = verona().await;
    let mut one = Client::managed(&house, "romeo/one", RESUMABLE).await;
    one.sends("<presence><show>away</show></presence></stream:stream>").await;
    let rest = one.rest().await;
    let at = |what: &str| rest.find(what).unwrap_or_else(|| panic!("{what} in {rest}"));
    assert!(at("<a xmlns='urn:xmpp:sm:3' h='2'/>") < at("</stream:stream>"), "{rest}");
}

#[tokio::test]
async fn the_older_stream_of_a_resumed_session_hears_of_a_conflict() {
    let (house, _juliet) = verona().await;
    let (one, id) = Client::enabled(&house, "romeo/one").await;
    let two = Client::resume(&house, "romeo", &id, 1).await.unwrap_or_else(|_| panic!("resumed"));
    let rest = one.rest().await;
    assert!(rest.contains("<conflict"), "{rest}");
    assert!(two.seat.available());
}

#[tokio::test]
async fn what_is_out_of_place_fails_and_the_stream_goes_on() {
    let (house, _juliet) = verona().await;
    let mut one = Client::new(&house, "romeo/one");
    let unexpected = "<unexpected-request";
    for early in ["<r xmlns='urn:xmpp:sm:3'/>", "<a xmlns='urn:xmpp:sm:3' h='0'/>"] {
        one.sends(early).await;
        assert!(one.reads("</failed>").await.contains(unexpected), "{early}");
    }
    one.sends("<enable xmlns='urn:xmpp:sm:3' max='soon'/>").await;
    assert!(one.reads("</failed>").await.contains("<bad-request"));
    one.sends(ACKS).await;
    let enabled = one.reads("/>").await;
    assert!(!enabled.contains(" id=") && !enabled.contains("max="), "{enabled}");
    for late in [ACKS, RESUMABLE, "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>"] {
        one.sends(late).await;
        assert!(one.reads("</failed>").await.contains(unexpected), "{late}");
    }
    one.sends("<iq type='get' id='q1'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    one.reads("id='q1'").await;
    one.sends("<r xmlns='urn:xmpp:sm:3'/>").await;
    one.reads("h='1'").await;
}

/// Messages to romeo that are more than his session writes for a client that does not read.
async fn flood(juliet: &mut Client, count: usize) {
    let body = "x".repeat(30_000);
    for n in 0..count {
        let text =
            format!("<message to='{ROMEO}' type='chat' id='m{n}'><body>{body}</body></message>");
        juliet.sends(&text).await;
    }
    settled(juliet).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_can_come_back_on_another_connection() {
    let (house, mut juliet) = verona().await;
    let (one, id) = Client::enabled(&house, "romeo/one").await;
    flood(&mut juliet, 20).await;
    house.until("more waits than is written", || one.seat.mailbox.depth().items > 0).await;
    let resumed = Client::resume(&house, "romeo", &id, 1).await;
    let mut two = resumed.unwrap_or_else(|_| panic!("not resumed"));
    let mut got = String::new();
    for n in 0..20 {
        got.push_str(&two.reads(&format!("id='m{n}'")).await);
    }
    assert_eq!(got.matches("<message ").count(), 20);
    assert!(one.rest().await.contains("<conflict"));
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_room_for_its_successor() {
    let (house, mut juliet) = verona().await;
    let one = Client::managed(&house, "romeo/one", RESUMABLE).await;
    flood(&mut juliet, 20).await;
    house.until("more waits than is written", || one.seat.mailbox.depth().items > 0).await;
    let mut two = Client::managed(&house, "romeo/one", RESUMABLE).await;
    for n in 0..20 {
        two.reads(&format!("id='m{n}'")).await;
    }
    assert!(one.rest().await.contains("<conflict"));
}

#[tokio::test]
async fn what_is_sent_again_says_when_it_was_sent_first() {
    let (house, mut juliet) = verona().await;
    let (mut one, id) = Client::enabled(&house, "romeo/one").await;
    juliet.sends(&message(ROMEO, "m1")).await;
    let first = one.reads("</message>").await;
    assert!(!first.contains("<delay"), "{first}");
    let (seat, _gone) = (one.seat.clone(), one.cut());
    juliet.sends(&message(ROMEO, "m2")).await;
    settled(&mut juliet).await;
    house.until("it has come", || seat.mailbox.depth().items == 0).await;
    // Of its presence, m1 and m2 the client has the first.
    let resumed = Client::resume(&house, "romeo", &id, 1).await;
    let mut two = resumed.unwrap_or_else(|_| panic!("not resumed"));
    for id in ["m1", "m2"] {
        let again = two.reads("</message>").await;
        assert!(again.contains(&format!("id='{id}'")), "{again}");
        assert!(again.contains("<delay") && again.contains("from='chat.example'"), "{again}");
    }
}
