//! Client state (XEP-0352) over a wire: what is held back is neither written nor counted, and is never lost.

use super::*;

const INACTIVE: &str = "<inactive xmlns='urn:xmpp:csi:0'/>";
const ACTIVE: &str = "<active xmlns='urn:xmpp:csi:0'/>";

fn receipt(to: &str, id: &str) -> String {
    format!(
        "<message to='{to}' type='chat' id='{id}'><received xmlns='urn:xmpp:receipts' id='x'/></message>"
    )
}

/// Once the mailbox is empty the session has seen to what was in it.
async fn seen_to(house: &House, client: &Client) {
    house.until("the mail is read", || client.seat.mailbox.depth().items == 0).await;
}

async fn inactive(house: &House, client: &mut Client) {
    client.sends(INACTIVE).await;
    house.until("it is inactive", || client.seat.inactive()).await;
}

#[tokio::test]
async fn what_is_held_back_is_not_counted_as_sent() {
    let (house, mut juliet) = verona().await;
    let mut one = Client::managed(&house, "romeo/one", ACKS).await;
    inactive(&house, &mut one).await;
    juliet.sends(&receipt(ROMEO, "r1")).await;
    settled(&mut juliet).await;
    seen_to(&house, &one).await;
    // Its own presence is all that was sent.
    one.sends("<a xmlns='urn:xmpp:sm:3' h='2'/>").await;
    let end = one.reads("</stream:stream>").await;
    assert!(end.contains("h='2' send-count='1'"), "{end}");
}

#[tokio::test]
async fn all_of_it_comes_in_order_before_what_is_important_and_with_what_the_client_sends() {
    let (house, mut juliet) = verona().await;
    let mut one = Client::managed(&house, "romeo/one", ACKS).await;
    inactive(&house, &mut one).await;
    for text in [receipt(ROMEO, "r1"), receipt(ROMEO, "r2"), message(ROMEO, "m1")] {
        juliet.sends(&text).await;
    }
    let got = one.reads("id='m1'").await;
    let at = |what: &str| got.find(what).unwrap_or_else(|| panic!("{what} in {got}"));
    assert!(at("id='r1'") < at("id='r2'"), "{got}");
    juliet.sends(&receipt(ROMEO, "r3")).await;
    settled(&mut juliet).await;
    seen_to(&house, &one).await;
    one.sends("<iq type='get' id='q1'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    assert!(one.reads("id='q1'").await.contains("id='r3'"));
    assert!(one.seat.inactive());
    juliet.sends(&receipt(ROMEO, "r4")).await;
    settled(&mut juliet).await;
    seen_to(&house, &one).await;
    one.sends(ACTIVE).await;
    one.reads("id='r4'").await;
    assert!(!one.seat.inactive());
}

#[tokio::test]
async fn what_was_held_back_when_the_session_was_lost_is_filed() {
    for enable in [Some(ACKS), None] {
        let (house, mut juliet) = verona().await;
        let mut one = match enable {
            Some(enable) => Client::managed(&house, "romeo/one", enable).await,
            None => {
                let mut one = Client::new(&house, "romeo/one");
                one.sends("<presence/>").await;
                one.reads("'/>").await;
                one
            }
        };
        inactive(&house, &mut one).await;
        juliet.sends(&receipt(ROMEO, "r1")).await;
        settled(&mut juliet).await;
        seen_to(&house, &one).await;
        one.cut().await.expect("ends");
        assert_eq!(filed(&house).await, ["r1"], "{enable:?}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_stream_gets_it_first() {
    let (house, mut juliet) = verona().await;
    let mut one = Client::managed(&house, "romeo/one", ACKS).await;
    inactive(&house, &mut one).await;
    juliet.sends(&receipt(ROMEO, "r1")).await;
    settled(&mut juliet).await;
    seen_to(&house, &one).await;
    one.sends("</stream:stream>").await;
    assert!(one.rest().await.contains("id='r1'"));
}

#[tokio::test]
async fn a_client_that_resumes_is_active_and_has_it_all() {
    let (house, mut juliet) = verona().await;
    let (mut one, id) = Client::enabled(&house, "romeo/one").await;
    inactive(&house, &mut one).await;
    juliet.sends(&receipt(ROMEO, "r1")).await;
    settled(&mut juliet).await;
    seen_to(&house, &one).await;
    let old = one.cut();
    juliet.sends(&receipt(ROMEO, "r2")).await;
    settled(&mut juliet).await;
    let mut two =
        Client::resume(&house, "romeo", &id, 1).await.unwrap_or_else(|_| panic!("resumed"));
    old.await.expect("ends");
    assert!(two.reads("id='r2'").await.contains("id='r1'"));
    assert!(!two.seat.inactive());
}

#[tokio::test]
async fn beyond_its_bound_all_of_it_is_sent() {
    let (house, mut juliet) = verona_with("[limits]\ninactive_held_max = 2\n").await;
    let mut one = Client::managed(&house, "romeo/one", ACKS).await;
    inactive(&house, &mut one).await;
    for id in ["r1", "r2", "r3"] {
        juliet.sends(&receipt(ROMEO, id)).await;
    }
    let got = one.reads("id='r3'").await;
    assert!(got.contains("id='r1'") && got.contains("id='r2'"), "{got}");
}
