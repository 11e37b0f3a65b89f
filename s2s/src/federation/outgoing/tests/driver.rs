//! Streams against a peer that does as it is told: what is delivered and what fails adds up, whatever happens on the way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::world::{Connect, Fails, Find, Manners, World, refusal};
use super::{limits, message, message_from, ticket, timers};
use crate::federation::dialback::{DialbackError, Outcome};
use crate::federation::outgoing::Outgoing;
use crate::federation::policy::Policies;
use crate::federation::{Limits, Timers};

const ROMEO: &str = "romeo@montague.example";

pub(super) fn send(outgoing: &Outgoing, orders: std::ops::Range<u64>) {
    for order in orders {
        outgoing.send(ticket(order), message(order, ROMEO)).expect("there is room");
    }
}

pub(super) fn firsts(arrived: &[(u64, bool)]) -> Vec<u64> {
    let mut seen = std::collections::HashSet::new();
    arrived.iter().map(|(order, _)| *order).filter(|order| seen.insert(*order)).collect()
}

pub(super) fn all(n: u64) -> Vec<u64> {
    (0..n).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_arrives_in_order_and_is_said_to() {
    for (external, sm) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = World::new(Manners { external, sm, ..Manners::default() });
        let outgoing = world.outgoing();
        send(&outgoing, 0..3_000);
        world.until("all delivered", |seen| seen.delivered.len() == 3_000).await;
        let seen = world.seen.lock();
        assert_eq!(seen.delivered, all(3_000));
        assert_eq!(firsts(&seen.arrived), all(3_000), "{external} {sm}");
        assert_eq!((seen.arrived.len(), seen.attempts.len()), (3_000, 1));
        assert_eq!(outgoing.queued_bytes(), 0);
        let status = &outgoing.status()[0];
        assert!(status.is_up && status.waiting == 0 && status.on_the_way == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_stream_is_resumed_and_nothing_is_lost_or_doubled() {
    let cuts = vec![1, 2, 10, 500, 501, 999];
    let world = World::new(Manners { cuts, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..2_000);
    world.until("all delivered", |seen| seen.delivered.len() == 2_000).await;
    let seen = world.seen.lock();
    assert_eq!(seen.resumed, 6);
    assert_eq!(seen.arrived, all(2_000).into_iter().map(|n| (n, false)).collect::<Vec<_>>());
    assert_eq!((&seen.delivered, seen.failed.len()), (&all(2_000), 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_again_while_it_is_resumed_is_resumed_later() {
    let cuts = vec![10, 500];
    let world = World::new(Manners { cuts, cuts_resuming: 2, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1_000);
    world.until("all delivered", |seen| seen.delivered.len() == 1_000).await;
    let seen = world.seen.lock();
    assert_eq!((seen.resumed, seen.attempts.len()), (2, 5));
    assert_eq!(seen.arrived, all(1_000).into_iter().map(|n| (n, false)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_resumed_though_some_connections_end_before_they_stand() {
    let world = World::new(Manners { cuts: vec![10], ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("delivered", |seen| seen.delivered.len() == 1).await;
    world.manners.lock().shuts = true;
    send(&outgoing, 1..20);
    world.until("some in vain", |seen| seen.attempts.len() >= 4).await;
    world.manners.lock().shuts = false;
    world.until("all delivered", |seen| seen.delivered.len() == 20).await;
    let seen = world.seen.lock();
    assert_eq!((seen.resumed, &firsts(&seen.arrived)), (1, &all(20)));
    assert_eq!(seen.arrived.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_bear_to_be_asked_to_resume_has_a_new_stream() {
    let world = World::new(Manners { cuts: vec![10], cuts_resuming: 100, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..20);
    world.until("all delivered", |seen| seen.delivered.len() == 20).await;
    assert_eq!(world.seen.lock().attempts.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_when_it_is_asked_to_resume_is_not_asked_again() {
    let world = World::new(Manners { cuts: vec![10], mute_resuming: true, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..20);
    world.until("all delivered", |seen| seen.delivered.len() == 20).await;
    assert_eq!(world.seen.lock().attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_resumes_with_an_impossible_count_has_a_new_stream() {
    let world = World::new(Manners { cuts: vec![10], ahead_resuming: 100, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..20);
    world.until("all delivered", |seen| seen.delivered.len() == 20).await;
    let seen = world.seen.lock();
    assert_eq!(
        (&seen.errors[..], seen.attempts.len()),
        (&["undefined-condition".to_owned()][..], 3)
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_resumed_is_sent_again_and_says_so() {
    let cuts = vec![10, 600];
    let world = World::new(Manners { resume: false, cuts, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1_000);
    world.until("all delivered", |seen| seen.delivered.len() == 1_000).await;
    let seen = world.seen.lock();
    assert_eq!(firsts(&seen.arrived), all(1_000));
    assert_eq!((&seen.delivered, seen.failed.len(), seen.resumed), (&all(1_000), 0, 0));
    let mut known = std::collections::HashSet::new();
    for (order, delayed) in &seen.arrived {
        assert!(known.insert(*order) || *delayed, "{order} came twice and does not say so");
    }
}

#[tokio::test(start_paused = true)]
async fn without_stream_management_what_left_our_buffers_is_delivered() {
    let cuts = vec![100, 2_000];
    let world = World::new(Manners { sm: false, cuts, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..3_000);
    world.until("all delivered", |seen| seen.delivered.len() == 3_000).await;
    let seen = world.seen.lock();
    assert_eq!((&seen.delivered, seen.failed.len()), (&all(3_000), 0));
    let arrived = firsts(&seen.arrived);
    assert!(arrived.is_sorted() && arrived.last() == Some(&2_999));
    assert_eq!(outgoing.queued_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hole_keeps_no_more_than_its_bound_and_errors_come_in_order() {
    let world = World::new(Manners { connect: Connect::Silent, ..Manners::default() });
    let outgoing = world.outgoing_with(Limits { queue_items_max: 8_000, ..limits() }, timers());
    let mut refused = 0;
    for order in 0..10_000 {
        if let Err((stanza, error)) = outgoing.send(ticket(order), message(order, ROMEO)) {
            assert_eq!((error.condition.name(), order >= 8_000), ("resource-constraint", true));
            assert_eq!(stanza.id().as_deref(), Some(order.to_string().as_str()));
            refused += 1;
        }
    }
    assert_eq!(refused, 2_000);
    let began = Instant::now();
    world.until("all failed", |seen| seen.failed.len() == 8_000).await;
    let seen = world.seen.lock();
    let expected: Vec<(u64, String)> =
        (0..8_000).map(|order| (order, "remote-server-timeout".to_owned())).collect();
    assert_eq!(seen.failed, expected);
    let took = began.elapsed();
    assert!(took >= timers().queue && took < timers().queue + Duration::from_secs(2), "{took:?}");
    assert_eq!((outgoing.queued_bytes(), seen.delivered.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_taking_bytes_fails_in_order_too() {
    // It acknowledges nothing and is not resumed: what was sent and what was not end in one order.
    let world = World::new(Manners { mute: true, resume: false, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..3_000);
    world.until("all failed", |seen| seen.failed.len() == 3_000).await;
    let seen = world.seen.lock();
    assert_eq!(seen.failed.iter().map(|(order, _)| *order).collect::<Vec<_>>(), all(3_000));
    assert!(
        seen.errors.iter().all(|error| error == "connection-timeout") && !seen.errors.is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_handles_late_is_not_asked_without_end() {
    let world = World::new(Manners { behind: 1, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("nine delivered", |seen| seen.delivered.len() == 9).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = world.seen.lock().asked;
    assert!((30..=70).contains(&asked), "{asked}");
    world.manners.lock().behind = 0;
    world.until("all delivered", |seen| seen.delivered.len() == 10).await;
    assert_eq!(world.seen.lock().attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_acknowledged_does_not_stop_what_comes_after_a_broken_stream() {
    let world =
        World::new(Manners { behind: 1, resume: false, cuts: vec![5], ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("nine delivered", |seen| seen.delivered.len() == 9).await;
    // It would acknowledge the tenth if the next came.
    send(&outgoing, 10..12);
    world.until("the next delivered", |seen| seen.delivered == all(11)).await;
    assert!(world.age() < timers().ack);
    world.manners.lock().behind = 0;
    world.until("all delivered", |seen| seen.delivered == all(12)).await;
    assert_eq!(world.seen.lock().attempts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_acknowledges_nothing_of_what_broke_a_stream_is_silent_whatever_it_answers() {
    let world =
        World::new(Manners { behind: 100, resume: false, cuts: vec![5], ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("all failed", |seen| seen.failed.len() == 10).await;
    assert!(world.age() < timers().queue + timers().ack);
    assert_eq!(world.seen.lock().errors[0], "connection-timeout");
}

#[tokio::test(start_paused = true)]
async fn who_answers_and_acknowledges_nothing_has_as_long_as_a_stanza_may_wait() {
    let world = World::new(Manners { behind: 100, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("all failed", |seen| seen.failed.len() == 10).await;
    let Timers { queue, ack, .. } = timers();
    assert!((queue..queue + ack).contains(&world.age()), "{:?}", world.age());
}

#[tokio::test(start_paused = true)]
async fn a_peer_may_speak_first() {
    // S-059.
    let world = World::new(Manners { eager: true, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("all delivered", |seen| seen.delivered.len() == 10).await;
    assert_eq!(world.seen.lock().attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_closes_every_connection_is_called_less_and_less_often() {
    // B-215.
    let world = World::new(Manners { closes_after_tls: true, ..Manners::default() });
    let outgoing =
        world.outgoing_with(limits(), Timers { queue: Duration::from_secs(200), ..timers() });
    send(&outgoing, 0..3);
    world.until("all failed", |seen| seen.failed.len() == 3).await;
    let seen = world.seen.lock();
    assert!(seen.failed.iter().all(|(_, condition)| condition == "remote-server-timeout"));
    let waits: Vec<u64> = seen.attempts.windows(2).map(|two| two[1] - two[0]).collect();
    for (n, wait) in waits.iter().enumerate() {
        let longest = (1_000 << n.min(8)).min(30_000);
        assert!((longest / 2..=longest + 110).contains(wait), "attempt {n}: {waits:?}");
    }
    assert!((8..20).contains(&seen.attempts.len()), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_is_not_there_is_refused_at_once_and_for_a_moment() {
    let world = World::new(Manners { find: Find::NotFound, ..Manners::default() });
    let outgoing = world.outgoing();
    let began = Instant::now();
    send(&outgoing, 0..3);
    world.until("all failed", |seen| seen.failed.len() == 3).await;
    assert!(began.elapsed() < Duration::from_millis(100));
    for (n, (order, condition)) in world.seen.lock().failed.iter().enumerate() {
        assert_eq!((*order, condition.as_str()), (n as u64, "remote-server-not-found"));
    }
    let (_, error) = outgoing.send(ticket(3), message(3, ROMEO)).expect_err("it is known");
    assert_eq!(error.condition.name(), "remote-server-not-found");
    world.manners.lock().find = Find::Found;
    tokio::time::sleep(timers().retry_first).await;
    send(&outgoing, 4..5);
    world.until("delivered", |seen| seen.delivered == [4]).await;
}

#[tokio::test(start_paused = true)]
async fn while_a_domain_is_left_alone_stanzas_wait() {
    let world = World::new(Manners { find: Find::Unknown, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.seen.lock().failed.is_empty());
    let status = &outgoing.status()[0];
    assert_eq!(status.last_failure.as_deref(), Some("DNS does not say"));
    assert!(status.failures >= 2 && !status.is_up);
    world.manners.lock().find = Find::Found;
    send(&outgoing, 2..3);
    world.until("all delivered", |seen| seen.delivered == [0, 1, 2]).await;
    assert_eq!(outgoing.status()[0].failures, 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_in_clear_behind_proceed_are_the_end_of_the_connection() {
    // B-070, S-026.
    let inject = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' id='x' version='1.0'><stream:features/>";
    let world = World::new(Manners { inject, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("failed", |seen| seen.failed.len() == 1).await;
    let seen = world.seen.lock();
    assert!(seen.arrived.is_empty() && seen.streams == 0 && seen.attempts.len() > 3);
}

#[tokio::test(start_paused = true)]
async fn what_dialback_is_refused_with_is_told_at_once() {
    for (outcome, expected) in [
        (Outcome::Invalid, "internal-server-error"),
        (refusal(DialbackError::RemoteConnectionFailed), "remote-server-timeout"),
        (refusal(DialbackError::ItemNotFound), "remote-server-timeout"),
    ] {
        let world = World::new(Manners { external: false, ..Manners::default() });
        world.manners.lock().dialback.insert("capulet.example".to_owned(), outcome);
        let outgoing = world.outgoing();
        send(&outgoing, 0..2);
        world.until("failed", |seen| seen.failed.len() == 2).await;
        assert_eq!(world.seen.lock().failed[1], (1, expected.to_owned()));
        // The next one waits for the next attempt.
        send(&outgoing, 2..3);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.seen.lock().failed.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn dialback_takes_the_place_of_external_that_failed() {
    for (external_fails, attempts) in [(Fails::Mildly, 1), (Fails::Finally, 2)] {
        let world = World::new(Manners { external_fails, ..Manners::default() });
        let outgoing = world.outgoing();
        send(&outgoing, 0..2);
        world.until("delivered", |seen| seen.delivered.len() == 2).await;
        let seen = world.seen.lock();
        assert_eq!(seen.dialback, ["result capulet.example montague.example"]);
        assert_eq!(seen.attempts.len(), attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_talked_with_is_left_for_the_next() {
    let hosts = &["bad1.montague.example", "bad2.montague.example", "good.montague.example"];
    let world = World::new(Manners { hosts, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("delivered", |seen| seen.delivered.len() == 1).await;
    assert!(world.age() < Duration::from_millis(100));
    assert_eq!(world.seen.lock().hosts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_redirection_is_followed_once() {
    let elsewhere = Some("192.0.2.7:5270");
    let world = World::new(Manners { elsewhere, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("delivered", |seen| seen.delivered.len() == 1).await;
    assert_eq!(world.seen.lock().hosts, ["xmpp.montague.example:5269", "192.0.2.7:5270"]);
    // One that leads in a circle is no way.
    let world = World::new(Manners { elsewhere: Some("other.example"), ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("failed", |seen| seen.failed.len() == 1).await;
    let seen = world.seen.lock();
    assert_eq!(seen.searches[..2], ["montague.example", "other.example"]);
    assert_eq!(seen.hosts.len(), seen.searches.len());
}

fn from_rooms(outgoing: &Outgoing, order: u64) {
    let stanza = message_from(order, "garden@rooms.capulet.example/juliet", ROMEO);
    outgoing.send(ticket(order), stanza).expect("there is room");
}

#[tokio::test(start_paused = true)]
async fn a_second_domain_of_ours_goes_on_the_same_stream() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    from_rooms(&outgoing, 1);
    world.until("both delivered", |seen| seen.delivered.len() == 2).await;
    {
        let seen = world.seen.lock();
        assert_eq!(seen.dialback, ["result rooms.capulet.example montague.example"]);
        assert_eq!(seen.attempts.len(), 1);
    }
    assert!(outgoing.status().iter().all(|status| status.is_up));
    from_rooms(&outgoing, 2);
    world.until("delivered", |seen| seen.delivered.contains(&2)).await;
    assert_eq!(world.seen.lock().attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_domain_has_a_stream_of_its_own_where_it_is_not_taken() {
    let refused = refusal(DialbackError::NotAuthorized);
    let cases = [(false, None, 2), (true, Some(refused), 2)];
    for (takes_more, answer, streams) in cases {
        let world = World::new(Manners { takes_more, ..Manners::default() });
        let answer = answer.map(|answer| ("rooms.capulet.example".to_owned(), answer));
        world.manners.lock().dialback.extend(answer);
        let outgoing = world.outgoing();
        send(&outgoing, 0..1);
        from_rooms(&outgoing, 1);
        world.until("both delivered", |seen| seen.delivered.len() == 2).await;
        assert_eq!(world.seen.lock().streams, streams);
    }
}

#[tokio::test(start_paused = true)]
async fn both_domains_of_a_cut_stream_go_on() {
    let world = World::new(Manners { cuts: vec![50, 150], ..Manners::default() });
    let outgoing = world.outgoing();
    for order in 0..100 {
        send(&outgoing, 2 * order..2 * order + 1);
        from_rooms(&outgoing, 2 * order + 1);
    }
    world.until("all delivered", |seen| seen.delivered.len() == 200).await;
    let seen = world.seen.lock();
    for parity in 0..2 {
        let of_pair = firsts(&seen.arrived).into_iter().filter(|n| n % 2 == parity);
        assert!(of_pair.eq((0..200).filter(|n| n % 2 == parity)), "order within a pair");
    }
    assert!(seen.failed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_carries_nothing_is_closed_and_made_again() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("closed", |seen| seen.closed == 1).await;
    tokio::task::yield_now().await;
    assert!(world.age() >= timers().idle);
    assert!(outgoing.status().is_empty(), "{:?}", outgoing.status());
    send(&outgoing, 1..2);
    world.until("delivered", |seen| seen.delivered == [0, 1]).await;
    assert_eq!(world.seen.lock().attempts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_in_order_is_called_again_when_there_is_something() {
    let world = World::new(Manners { closes_at: Some(5), ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("all delivered", |seen| seen.delivered.len() == 10).await;
    let seen = world.seen.lock();
    assert_eq!((firsts(&seen.arrived), seen.resumed), (all(10), 0));
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_policy_forbids_gets_nothing() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    send(&outgoing, 0..1);
    world.until("delivered", |seen| seen.delivered.len() == 1).await;
    let rule = config::S2sPolicy {
        domain: "montague.example".to_owned(),
        allow: false,
        certificate: config::S2sCertificate::Preferred,
        tls: config::S2sTls::Required,
        bytes_per_second: None,
    };
    outgoing.reload(Arc::new(Policies::new(&[rule])), limits(), timers());
    world.until("closed", |seen| seen.errors == ["policy-violation"]).await;
    let (_, error) = outgoing.send(ticket(1), message(1, ROMEO)).expect_err("it is forbidden");
    assert_eq!(
        error.to_string(),
        "not-allowed/cancel: communication with this domain is not allowed"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_end_is_given_back() {
    let world = World::new(Manners { mute: true, ..Manners::default() });
    let outgoing = world.outgoing();
    send(&outgoing, 0..5);
    world.until("arrived", |seen| seen.arrived.len() == 5).await;
    outgoing.send(ticket(5), message(5, "nurse@silent.example")).expect("there is room");
    outgoing.drain(Instant::now() + Duration::from_secs(2)).await;
    let left = outgoing.finish().await;
    let orders: Vec<u64> = left.iter().map(|(ticket, _)| ticket.order).collect();
    assert!(orders == all(6) || orders == all(5), "{orders:?}");
    assert!(outgoing.send(ticket(6), message(6, ROMEO)).is_err());

    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    send(&outgoing, 0..1_000);
    world.until("some arrived", |seen| seen.arrived.len() > 10).await;
    outgoing.drain(Instant::now() + Duration::from_secs(60)).await;
    let left = outgoing.finish().await;
    assert!(left.is_empty(), "{}", left.len());
    assert_eq!(world.seen.lock().delivered, all(1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_end_waits_for_streams_to_give_back_what_they_have() {
    let world = World::new(Manners { behind: 3, ..Manners::default() });
    let hold = world.hold();
    let outgoing = world.outgoing();
    send(&outgoing, 0..10);
    world.until("some delivered", |seen| !seen.delivered.is_empty()).await;
    // The task of the stream is in the midst of it.
    let finishing = tokio::spawn({
        let outgoing = outgoing.clone();
        async move { outgoing.finish().await }
    });
    for _ in 0..1_000 {
        assert!(!finishing.is_finished(), "there is more to come");
        tokio::task::yield_now().await;
    }
    drop(hold);
    let left = finishing.await.expect("no panic");
    let mut ended = world.seen.lock().delivered.clone();
    ended.extend(left.iter().map(|(ticket, _)| ticket.order));
    assert_eq!(ended, all(10));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_to_ourselves_or_from_others() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing();
    for stanza in [message(0, "nurse@capulet.example"), message_from(0, "a@verona.example", ROMEO)]
    {
        let (_, error) = outgoing.send(ticket(0), stanza).expect_err("not here");
        assert_eq!(error.condition.name(), "remote-server-not-found");
    }
    assert!(world.seen.lock().attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn so_many_streams_and_no_more() {
    let world = World::new(Manners::default());
    let outgoing = world.outgoing_with(
        Limits { streams_max: 1, ..limits() },
        Timers { idle: Duration::from_secs(10), ..timers() },
    );
    send(&outgoing, 0..1);
    world.until("delivered", |seen| seen.delivered.len() == 1).await;
    outgoing.send(ticket(1), message(1, "prince@verona.example")).expect("there is room");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.seen.lock().attempts.len(), 1);
    // The first has nothing to do any more.
    world.until("a second attempt", |seen| seen.attempts.len() >= 2).await;
}
