//! What stands beside the streams: keys verified for others, and our stanzas over streams that peers have made.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::world::{Connect, Find, Manners, World, refusal};
use super::{limits, message, message_from, ticket, timers};
use crate::federation::bidi::{Back, Bidi};
use crate::federation::dialback::{DialbackError, Outcome, Pair, Verifier, Verify};
use crate::federation::{Limits, Ticket};

fn question(id: &str) -> Verify {
    let pair = Pair::new("montague.example", "capulet.example");
    Verify { pair, id: id.to_owned(), key: "b483".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn an_authoritative_server_is_asked_and_its_word_counts() {
    // B-202.
    let ok = Manners::default();
    let verify = |outcome| Manners { verify: outcome, ..Manners::default() };
    for (manners, expected) in [
        (ok.clone(), Ok(true)),
        (verify(Some(Outcome::Invalid)), Ok(false)),
        (
            verify(Some(refusal(DialbackError::ItemNotFound))),
            Err(DialbackError::RemoteServerNotFound),
        ),
        (verify(None), Err(DialbackError::RemoteServerTimeout)),
        (
            Manners { connect: Connect::Refuses, ..ok.clone() },
            Err(DialbackError::RemoteConnectionFailed),
        ),
        (
            Manners { connect: Connect::Silent, ..ok.clone() },
            Err(DialbackError::RemoteServerTimeout),
        ),
        (Manners { find: Find::NotFound, ..ok.clone() }, Err(DialbackError::RemoteServerNotFound)),
        (Manners { closes_after_tls: true, ..ok.clone() }, Err(DialbackError::RemoteServerTimeout)),
    ] {
        let world = World::new(manners.clone());
        let outgoing = world.outgoing();
        let began = Instant::now();
        assert_eq!(outgoing.verify(question("1")).await, expected, "{manners:?}");
        assert!(began.elapsed() <= timers().negotiate);
        assert_eq!(world.seen.lock().judged, 0, "nobody is looked up who only answers");
    }
}

#[tokio::test(start_paused = true)]
async fn questions_share_a_connection_while_there_is_one() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let answers =
        futures_util::future::join_all(["1", "2", "2"].map(|id| outgoing.verify(question(id))));
    assert_eq!(answers.await, [Ok(true), Ok(true), Ok(true)]);
    assert_eq!(outgoing.verify(question("3")).await, Ok(true));
    assert_eq!(world.seen.lock().attempts.len(), 1);
    let asked = &world.seen.lock().dialback[0].clone();
    assert_eq!(asked, "verify capulet.example montague.example 1 b483");
    world.until("closed when nothing is asked", |seen| seen.closed == 1).await;
    assert_eq!(outgoing.verify(question("4")).await, Ok(true));
    assert_eq!(world.seen.lock().attempts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_asked_for_no_more() {
    let world = World::new(Manners { connect: Connect::Silent, ..Manners::default() });
    let outgoing = world.outgoing_with(Limits { verifications_max: 1, ..limits() }, timers());
    let asking = tokio::spawn(outgoing.verify(question("1")));
    world.until("it is tried", |seen| seen.attempts.len() == 1).await;
    // Its server does not answer, and no other may be asked meanwhile.
    let elsewhere =
        || Verify { pair: Pair::new("verona.example", "capulet.example"), ..question("2") };
    assert_eq!(outgoing.verify(elsewhere()).await, Err(DialbackError::ResourceConstraint));
    asking.abort();
    let _ = asking.await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    let answer = outgoing.verify(elsewhere()).await;
    assert_eq!(answer, Err(DialbackError::RemoteServerTimeout), "it is asked now");
    assert!(began.elapsed() >= timers().negotiate);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_peer_takes_our_stanzas_while_it_stands() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let (queue, mut queued) = mpsc::channel(4);
    let back = Back { stream: 1, queue };
    outgoing.opened(Pair::new("capulet.example", "montague.example"), &back);
    for order in 0..10 {
        outgoing.send(ticket(order), message(order, "romeo@montague.example")).expect("room");
    }
    for order in 0..3 {
        let (ticket, stanza) = queued.recv().await.expect("it comes");
        assert_eq!(
            (ticket.order, stanza.id().as_deref()),
            (order, Some(order.to_string().as_str()))
        );
    }
    outgoing.delivered(1, &[ticket(0), ticket(1)]);
    assert_eq!(world.seen.lock().delivered, [0, 1]);
    assert!(world.seen.lock().attempts.is_empty());
    // It ends: what is not delivered goes on a stream of our own, in order.
    queued.close();
    while queued.recv().await.is_some() {}
    outgoing.closed(1);
    world.until("delivered", |seen| seen.delivered.len() == 10).await;
    {
        let seen = world.seen.lock();
        assert_eq!(seen.delivered, (0..10).collect::<Vec<_>>());
        assert_eq!(
            seen.arrived.iter().map(|(order, _)| *order).collect::<Vec<_>>(),
            (2..10).collect::<Vec<_>>()
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(outgoing.queued_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_has_arrived_is_told_whichever_comes_first() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let (queue, mut queued) = mpsc::channel(4);
    outgoing.opened(Pair::new("capulet.example", "montague.example"), &Back { stream: 1, queue });
    for order in 0..3 {
        outgoing.send(ticket(order), message(order, "romeo@montague.example")).expect("room");
        queued.recv().await.expect("it comes");
    }
    outgoing.delivered(1, &[ticket(1)]);
    outgoing.delivered(1, &[ticket(0), ticket(2)]);
    assert_eq!((&world.seen.lock().delivered[..], outgoing.queued_bytes()), (&[1, 0, 2][..], 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_of_the_peer_has_is_left_at_the_end() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let (queue, mut queued) = mpsc::channel(4);
    let back = Back { stream: 1, queue };
    outgoing.opened(Pair::new("capulet.example", "montague.example"), &back);
    for order in 0..6 {
        outgoing.send(ticket(order), message(order, "romeo@montague.example")).expect("room");
    }
    queued.recv().await.expect("it comes");
    queued.recv().await.expect("it comes");
    outgoing.delivered(1, &[ticket(0)]);
    let orders = |left: Vec<_>| left.iter().map(|(ticket, _): &(Ticket, _)| ticket.order).collect();
    let left: Vec<u64> = orders(outgoing.finish().await);
    assert_eq!(left, [1, 2, 3, 4, 5]);
    // What is given back is not told to be delivered, too.
    outgoing.delivered(1, &[ticket(1)]);
    assert_eq!(world.seen.lock().delivered, [0]);
    // Nothing more is taken, whatever comes after that.
    let other = Back { stream: 2, ..back };
    outgoing.opened(Pair::new("capulet.example", "montague.example"), &other);
    assert!(outgoing.send(ticket(6), message(6, "romeo@montague.example")).is_err());
    assert!(outgoing.status().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_on_a_stream_that_broke_goes_on_another_little_by_little() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let (queue, queued) = mpsc::channel(100);
    let back = Back { stream: 1, queue };
    let pair = || Pair::new("capulet.example", "montague.example");
    outgoing.opened(pair(), &back);
    // Of another pair, on the other stream.
    let (queue, mut other) = mpsc::channel(100);
    let second = Back { stream: 2, queue };
    outgoing.opened(Pair::new("rooms.capulet.example", "montague.example"), &second);
    let of_rooms = message_from(50, "garden@rooms.capulet.example", "romeo@montague.example");
    outgoing.send(ticket(50), of_rooms).expect("room");
    assert_eq!(other.recv().await.expect("it comes").0, ticket(50));
    for order in 0..50 {
        outgoing.send(ticket(order), message(order, "romeo@montague.example")).expect("room");
    }
    while queued.len() < 50 {
        tokio::task::yield_now().await;
    }
    outgoing.opened(pair(), &second);
    drop(queued);
    outgoing.closed(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(other.is_empty(), "not together with what is new");
    outgoing.delivered(2, &[ticket(50)]);
    let mut come = 0;
    while come < 50 {
        let (first, stanza) = other.recv().await.expect("it comes");
        assert_eq!(first.order, come);
        assert!(stanza.has_child("delay", xmpp::ns::DELAY), "it may have come there before");
        let mut more = vec![first];
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Ok((ticket, _)) = other.try_recv() {
            more.push(ticket);
        }
        assert!(more.len() <= 32);
        come += more.len() as u64;
        outgoing.delivered(2, &more);
    }
    assert_eq!((world.seen.lock().delivered.len(), outgoing.queued_bytes()), (51, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_does_not_stop_the_rest_on_a_stream_of_the_peer() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let pair = || Pair::new("capulet.example", "montague.example");
    let backs = [1, 2].map(|stream| {
        let (queue, queued) = mpsc::channel(100);
        (Back { stream, queue }, queued)
    });
    let [(first, queued), (second, mut other)] = backs;
    outgoing.opened(pair(), &first);
    for order in 0..3 {
        outgoing.send(ticket(order), message(order, "romeo@montague.example")).expect("room");
    }
    while queued.len() < 3 {
        tokio::task::yield_now().await;
    }
    outgoing.opened(pair(), &second);
    drop(queued);
    outgoing.closed(1);
    for order in 0..3 {
        assert_eq!(other.recv().await.expect("it comes").0, ticket(order));
    }
    outgoing.send(ticket(3), message(3, "romeo@montague.example")).expect("room");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(other.is_empty(), "not together with what may have broken the stream");
    let waited = tokio::time::timeout(timers().ack, other.recv()).await;
    assert_eq!(waited.expect("in time").expect("it comes").0, ticket(3));
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_peer_that_ends_without_a_word_is_forgotten() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let (queue, queued) = mpsc::channel(4);
    let back = Back { stream: 1, queue };
    for theirs in ["montague.example", "verona.example"] {
        outgoing.opened(Pair::new("capulet.example", theirs), &back);
    }
    drop(queued);
    outgoing.send(ticket(0), message(0, "romeo@montague.example")).expect("room");
    world.until("delivered", |seen| seen.delivered == [0]).await;
    assert!(outgoing.0.shared.backs.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_domains_of_one_stream_share_its_room() {
    const N: u64 = 2_000;
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    let (queue, mut queued) = mpsc::channel(3);
    let back = Back { stream: 1, queue };
    let theirs = ["montague.example", "verona.example", "mantua.example", "padua.example"];
    for theirs in theirs {
        outgoing.opened(Pair::new("capulet.example", theirs), &back);
    }
    for order in 0..N {
        for theirs in theirs {
            outgoing.send(ticket(order), message(order, theirs)).expect("room");
        }
    }
    let all = async {
        let mut come = std::collections::HashMap::new();
        for _ in 0..N * theirs.len() as u64 {
            let (ticket, stanza) = queued.recv().await.expect("it stands");
            let to = stanza.to().expect("whom it is to").domain().to_owned();
            let next = come.entry(to).or_insert(0);
            assert_eq!(ticket.order, *next);
            *next += 1;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), all).await;
    assert!(waited.is_ok(), "none waits for ever");
}
