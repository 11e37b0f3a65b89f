//! Streams of ours on which the peer sends too (XEP-0288): what it may send, what is counted, how fast it is read.

use std::time::Duration;

use super::driver::{all, firsts, send};
use super::world::{Manners, World};
use super::{limits, timers};
use crate::federation::{Limits, Timers};

#[tokio::test(start_paused = true)]
async fn the_peer_may_send_on_our_stream_for_whom_we_called() {
    let world = World::new(Manners { bidi: true, ..Manners::default() });
    *world.says.lock() = vec![
        "<message from='romeo@montague.example/x' to='juliet@capulet.example'><body>a</body></message>".to_owned(),
        "<r xmlns='urn:xmpp:sm:3'/>".to_owned(),
    ];
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("received", |seen| seen.received.len() == 1 && seen.delivered.len() == 1).await;
    // B-193: for nobody else.
    let world = World::new(Manners { bidi: true, ..Manners::default() });
    *world.says.lock() = vec!["<message from='verona.example' to='capulet.example'/>".to_owned()];
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("refused", |seen| seen.errors == ["invalid-from"]).await;
    assert!(world.seen.lock().received.is_empty());
    // Nor where it was not asked to.
    let world = World::new(Manners::default());
    *world.says.lock() = vec!["<message from='montague.example' to='capulet.example'/>".to_owned()];
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("refused", |seen| seen.errors == ["not-authorized"]).await;
    assert!(world.seen.lock().received.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_further_domain_of_the_peer_is_not_proved_on_a_stream_of_ours() {
    // Its key would be made from an id that the peer has chosen: it may be one that was made for another stream.
    for bidi in [true, false] {
        let world = World::new(Manners { bidi, ..Manners::default() });
        let result =
            |from: &str| format!("<db:result from='{from}' to='capulet.example'>key</db:result>");
        *world.says.lock() = vec![result("rooms.montague.example"), result("montague.example")];
        let outgoing = world.outgoing();
        send(&outgoing, 0..1);
        world.until("answered", |seen| seen.dialback.len() == 2).await;
        let seen = world.seen.lock();
        let refused = "Error(NotAllowed)";
        // That it speaks for whom we called is settled, where it may speak.
        let of_itself = if bidi { "Valid" } else { refused };
        let answers = [("rooms.montague.example", refused), ("montague.example", of_itself)];
        let answers = answers.map(|(to, answer)| format!("answer capulet.example {to} {answer}"));
        assert_eq!((&seen.dialback[..], seen.attempts.len()), (&answers[..], 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_told_what_is_handled_when_it_is() {
    let world = World::new(Manners { bidi: true, ..Manners::default() });
    *world.keeps.lock() = true;
    let stanza = "<message from='montague.example' to='capulet.example'/>".to_owned();
    *world.later.lock() = vec![stanza.clone(), stanza, "<r xmlns='urn:xmpp:sm:3'/>".to_owned()];
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("told", |seen| seen.dialback == ["a 0"]).await;
    let mut kept = std::mem::take(&mut world.seen.lock().kept);
    kept.pop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.seen.lock().dialback, ["a 0"], "h counts up to the first that is open");
    kept.clear();
    world.until("told again", |seen| seen.dialback == ["a 0", "a 2"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_came_before_stream_management_is_not_counted() {
    let world = World::new(Manners { bidi: true, ..Manners::default() });
    let stanza = "<message from='montague.example' to='capulet.example'/>".to_owned();
    *world.says.lock() = vec![stanza.clone(), stanza.clone()];
    *world.later.lock() = vec![stanza, "<r xmlns='urn:xmpp:sm:3'/>".to_owned()];
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("told", |seen| !seen.dialback.is_empty()).await;
    let seen = world.seen.lock();
    assert_eq!((&seen.dialback[..], seen.received.len()), (&["a 1".to_owned()][..], 3));
}

#[tokio::test(start_paused = true)]
async fn what_a_resumed_peer_sends_again_is_neither_taken_nor_counted_twice() {
    let world = World::new(Manners { bidi: true, cuts: vec![2], ..Manners::default() });
    *world.keeps.lock() = true;
    let stanza =
        |id: u8| format!("<message from='montague.example' to='capulet.example' id='{id}'/>");
    let request = "<r xmlns='urn:xmpp:sm:3'/>".to_owned();
    *world.says.lock() = vec![stanza(0)];
    *world.later.lock() = vec![stanza(1), stanza(2), stanza(3)];
    // It has heard of the first, and has sent one more that was lost.
    let again = [stanza(2), stanza(3), stanza(4)];
    world.resumed.lock().extend(again.into_iter().chain([request]));
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("received", |seen| seen.received.len() == 4).await;
    let mut kept = std::mem::take(&mut world.seen.lock().kept);
    drop(kept.remove(1));
    send(&outgoing, 1..2);
    world.until("the new one received", |seen| seen.received.len() == 5).await;
    assert!(world.seen.lock().received[4].contains("id='4'"));
    world.until("told", |seen| seen.dialback == ["resume 1", "a 1"]).await;
    kept.append(&mut world.seen.lock().kept);
    kept.clear();
    world.until("told again", |seen| seen.dialback == ["resume 1", "a 1", "a 4"]).await;
    assert_eq!(world.seen.lock().received.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_much_that_is_not_handled_is_resumed_all_the_same() {
    let world = World::new(Manners { bidi: true, cuts: vec![2], ..Manners::default() });
    *world.keeps.lock() = true;
    let stanza = "<message from='montague.example' to='capulet.example'/>";
    *world.later.lock() = vec![stanza.repeat(3)];
    let outgoing = world.outgoing_with(Limits { unhandled_max: 3, ..limits() }, timers());
    send(&outgoing, 0..1);
    world.until("received", |seen| seen.received.len() == 3).await;
    send(&outgoing, 1..2);
    world.until("cut", |seen| seen.arrived.len() == 2).await;
    // It is not read, so only writing shows that the connection is gone.
    send(&outgoing, 2..3);
    world.until("resumed", |seen| seen.resumed == 1).await;
    world.until("arrived", |seen| firsts(&seen.arrived) == all(3)).await;
    let seen = world.seen.lock();
    assert_eq!((seen.resumed, seen.attempts.len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_was_not_read_is_waited_for_when_it_is() {
    let world = World::new(Manners { bidi: true, ..Manners::default() });
    *world.keeps.lock() = true;
    let stanza = "<message from='montague.example' to='capulet.example'/>";
    *world.later.lock() = vec![stanza.repeat(3)];
    let outgoing = world.outgoing_with(Limits { unhandled_max: 3, ..limits() }, timers());
    send(&outgoing, 0..1);
    world.until("received", |seen| seen.received.len() == 3 && seen.asked == 1).await;
    tokio::time::sleep(timers().ack * 2).await;
    let handled = std::mem::take(&mut world.seen.lock().kept);
    drop(handled);
    world.until("delivered", |seen| seen.delivered == [0]).await;
    let seen = world.seen.lock();
    assert_eq!((seen.attempts.len(), seen.errors.len(), seen.resumed), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn too_much_that_is_not_handled_is_not_read() {
    let world = World::new(Manners { bidi: true, sm: false, ..Manners::default() });
    *world.keeps.lock() = true;
    let stanza = "<message from='montague.example' to='capulet.example'/>";
    *world.says.lock() = vec![stanza.repeat(500)];
    // Stream management or not: the bound is the same.
    let outgoing = world.outgoing_with(Limits { unhandled_max: 20, ..limits() }, timers());
    send(&outgoing, 0..1);
    world.until("some received", |seen| seen.received.len() == 20).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.seen.lock().received.len(), 20);
    let handled = std::mem::take(&mut world.seen.lock().kept);
    drop(handled);
    world.until("more received", |seen| seen.received.len() == 40).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_sends_on_our_stream_no_faster_than_on_its_own() {
    // With acknowledgements of ours on the way that come late for it, which is not held against the peer.
    let world = World::new(Manners { bidi: true, ..Manners::default() });
    let stanza = "<message from='montague.example' to='capulet.example'/>";
    *world.later.lock() = vec![stanza.repeat(1_000)];
    let bytes_per_second = stanza.len() as u64 * 20;
    let limits = Limits { bytes_per_second, ..limits() };
    let outgoing = world.outgoing_with(limits, Timers { ack: Duration::from_secs(5), ..timers() });
    send(&outgoing, 0..1);
    world.until("some received", |seen| seen.received.len() >= 100).await;
    send(&outgoing, 1..2);
    world.until("all received", |seen| seen.received.len() == 1_000).await;
    let took = world.age().as_secs();
    assert!((30..=60).contains(&took), "{took}");
    world.until("all delivered", |seen| seen.delivered == [0, 1]).await;
    assert_eq!(world.seen.lock().attempts.len(), 1);
}
