//! Streams that lose their connection, sleep, and are resumed, or not.

use super::*;

#[tokio::test]
async fn a_cut_stream_is_resumed_with_everything() {
    let mut verona = verona();
    let mut peer = verona.authenticated("<bidi xmlns='urn:xmpp:bidi'/>").await;
    let Event::Opened(pair, back) = verona.event().await else { panic!("not opened") };
    assert_eq!(pair, Pair::new("capulet.example", "montague.example"));
    peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    let id = loop {
        if let Some(Item::Element(element)) = peer.0.next().unwrap() {
            break element.attr("id").expect("an id").to_owned();
        }
        peer.0.turn(true).await.unwrap();
    };
    let back_stanza = |id: &str| {
        let xml = format!(
            "<message id='{id}' to='romeo@montague.example' from='juliet@capulet.example'/>"
        );
        Stanza::parse(xml.into_bytes().into()).unwrap()
    };
    let ticket = |order| Ticket { via: None, order };
    back.queue.send((ticket(1), back_stanza("b1"))).await.unwrap();
    back.queue.send((ticket(2), back_stanza("b2"))).await.unwrap();
    for expected in ["id='b1'", "r", "id='b2'"] {
        assert!(peer.hear().await.contains(expected));
    }
    peer.say(&format!("{}{}", message("1"), message("2"))).await;
    let (_, first) = verona.stanza().await;
    let (_, second) = verona.stanza().await;
    drop(first);
    drop(peer); // The connection is lost, and one is still to be handled.

    let mut again = verona.authenticated("").await;
    again
        .say(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='1'/>{}", message("3")))
        .await;
    tokio::task::yield_now().await;
    drop(second);
    again.hears(&["resumed 2"]).await;
    assert!(again.hear().await.contains("id='b2'"));
    assert_eq!(again.hear().await, "r");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match verona.event().await {
            Event::Stanza(stanza, _) => stanza.id().unwrap().into_owned(),
            Event::Delivered(stream, orders) => {
                format!("{} delivered {orders:?}", stream == back.stream)
            }
            Event::Opened(_, same) => format!("opened {}", same.stream == back.stream),
            Event::Closed(..) => "closed".to_owned(),
        });
    }
    assert_eq!(seen, ["true delivered [1]", "opened true", "3"]);
    back.queue.send((ticket(3), back_stanza("b3"))).await.unwrap();
    assert!(again.hear().await.contains("id='b3'"));
    again.say("<a xmlns='urn:xmpp:sm:3' h='2'/></stream:stream>").await;
    assert!(matches!(verona.event().await, Event::Delivered(_, orders) if orders == [2]));
    // It has not acknowledged the last, and says goodbye: that is not delivered.
    assert!(matches!(verona.event().await, Event::Closed(stream) if stream == back.stream));
    // And nothing is left to be resumed (B-191).
    let mut late = verona.authenticated("").await;
    late.say(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='1'/>")).await;
    assert_eq!(late.hear().await, "failed");
}

#[tokio::test]
async fn what_is_still_being_handled_is_not_taken_again() {
    let mut verona = verona_with(|limits, timers| {
        (limits.unhandled_max, timers.ack) = (10, Duration::from_millis(200));
    });
    let mut peer = verona.authenticated("").await;
    peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    let id = loop {
        if let Some(Item::Element(element)) = peer.0.next().unwrap() {
            break element.attr("id").expect("an id").to_owned();
        }
        peer.0.turn(true).await.unwrap();
    };
    peer.say(&format!("{}{}", message("1"), message("2"))).await;
    let (first, second) = (verona.stanza().await, verona.stanza().await);
    drop(peer);
    let mut again = verona.authenticated("").await;
    again.say(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>")).await;
    assert_eq!(again.hear().await, "resumed 0");
    let request = "<r xmlns='urn:xmpp:sm:3'/>";
    again.say(&format!("{}{}{}{request}", message("1"), message("2"), message("3"))).await;
    assert_eq!(again.hear().await, "a 0");
    let (third, handled) = verona.stanza().await;
    assert!(third.contains("id='3'"), "{third}");
    drop((first, second, handled));
    assert_eq!(again.hear().await, "a 3");
}

#[tokio::test]
async fn what_a_stream_that_sleeps_has_of_ours_goes_back_in_time() {
    // It would be resumed for much longer.
    let mut verona = verona_with(|_, timers| timers.queue = Duration::from_millis(200));
    let mut peer = verona.authenticated("<bidi xmlns='urn:xmpp:bidi'/>").await;
    let Event::Opened(_, back) = verona.event().await else { panic!("not opened") };
    peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    assert_eq!(peer.hear().await, "enabled");
    drop(peer);
    assert!(matches!(verona.event().await, Event::Closed(stream) if stream == back.stream));
    assert_eq!(verona.incoming.status().reasons["lost"], 1);
}

#[tokio::test]
async fn so_many_streams_of_a_domain_sleep() {
    let verona = verona_with(|limits, _| limits.streams_per_domain_max = 1);
    for (streams, reasons) in [(1, 0), (1, 1)] {
        let mut peer = verona.authenticated("").await;
        peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
        assert_eq!(peer.hear().await, "enabled");
        drop(peer); // It sleeps if there is room.
        verona.until("its connection is lost", |status| status.domains.is_empty()).await;
        verona.until_streams(streams).await;
        let lost = verona.incoming.status().reasons.get("lost").copied();
        assert_eq!(lost.unwrap_or_default(), reasons);
    }
}

#[tokio::test]
async fn a_stream_is_not_resumed_by_another_domain() {
    let mut verona = verona();
    let mut peer = verona.secured().await;
    peer.say("<db:result from='verona.example' to='capulet.example'>good</db:result>").await;
    assert_eq!(peer.hear().await, "result valid");
    peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    let id = loop {
        if let Some(Item::Element(element)) = peer.0.next().unwrap() {
            break element.attr("id").expect("an id").to_owned();
        }
        peer.0.turn(true).await.unwrap();
    };
    let mut thief = verona.authenticated("").await;
    thief.say(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>")).await;
    assert_eq!(thief.hear().await, "failed");
    // Whose it is may have it although its old connection still stands.
    let mut owner = verona.secured().await;
    owner.say("<db:result from='verona.example' to='capulet.example'>good</db:result>").await;
    assert_eq!(owner.hear().await, "result valid");
    owner.say(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>")).await;
    assert_eq!(owner.hear().await, "resumed 0");
    assert_eq!(peer.hear().await, "gone");
    owner.say("<message from='a@verona.example' to='juliet@capulet.example'/>").await;
    verona.stanza().await;
}

#[tokio::test]
async fn a_stream_that_sleeps_hears_of_other_rules_too() {
    let verona = verona();
    let mut peer = verona.secured().await;
    peer.say("<db:result from='verona.example' to='capulet.example'>good</db:result>").await;
    peer.hears(&["result valid"]).await;
    peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    peer.hears(&["enabled"]).await;
    drop(peer);
    verona.until("it sleeps", |status| status.domains.is_empty()).await;
    verona.deny("verona.example");
    verona.until("it is over", |status| status.streams == 0).await;
    assert_eq!(verona.incoming.status().reasons["policy-violation"], 1);
}
