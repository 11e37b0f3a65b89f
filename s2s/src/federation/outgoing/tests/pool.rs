//! The pool without streams: what it takes, whom it lets go where.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::failure::Failure;
use super::super::pool::{Open, Pool};
use super::{item, limits, timers};
use crate::federation::Timers;

const OURS: &str = "capulet.example";
const ROOMS: &str = "rooms.capulet.example";
const THEIRS: &str = "montague.example";

#[test]
fn nothing_is_taken_while_it_is_being_closed() {
    let (mut pool, now) = (Pool::default(), Instant::now());
    pool.send(OURS, THEIRS, item(0, now), now, &limits()).expect("room");
    pool.close();
    let (_, error) = pool.send(OURS, THEIRS, item(1, now), now, &limits()).expect_err("closing");
    assert_eq!(error.condition.name(), "remote-server-timeout");
    assert_eq!(pool.drain().len(), 1);
}

fn send(pool: &mut Pool, ours: &str, order: u64, now: Instant) {
    pool.send(ours, THEIRS, item(order, now), now, &limits()).expect("room");
}

/// The one stream that is to be opened now.
fn opens(pool: &mut Pool, now: Instant) -> Open {
    let mut opens = pool.look(now, &limits(), &timers()).0;
    assert_eq!(opens.len(), 1);
    opens.remove(0)
}

fn take(pool: &mut Pool, id: u64, now: Instant) -> Vec<super::super::peer::Sent> {
    pool.take(THEIRS, id, (1_000, 1 << 20), now, &timers())
}

fn orders(sent: &[super::super::peer::Sent]) -> Vec<u64> {
    sent.iter().map(|sent| sent.item.ticket.order).collect()
}

#[test]
fn pairs_with_a_stream_that_stands_are_not_refused_when_another_finds_nobody() {
    let (mut pool, now) = (Pool::default(), Instant::now());
    let theirs: Arc<str> = THEIRS.into();
    send(&mut pool, OURS, 0, now);
    let first = opens(&mut pool, now);
    pool.up(&theirs, first.id, false);
    send(&mut pool, ROOMS, 1, now);
    let second = opens(&mut pool, now);
    pool.ended(&theirs, second.id, &Failure::NotFound(String::new()), now, &timers(), 0);
    let dead = pool.dead();
    assert_eq!(dead.iter().map(|dead| dead.ticket.order).collect::<Vec<_>>(), [1]);
    // The one goes on, the other is known to be in vain.
    send(&mut pool, OURS, 2, now);
    assert_eq!(orders(&take(&mut pool, first.id, now)), [0, 2]);
    assert!(pool.send(ROOMS, THEIRS, item(3, now), now, &limits()).is_err());
}

#[test]
fn only_the_stanza_that_kills_its_streams_uses_up_its_tries() {
    const N: u64 = 1_000;
    let timers = || Timers { queue: Duration::from_secs(3600), ..timers() };
    for guilty in [0, 1, 31, 32, 500, N - 1] {
        let (mut pool, mut now) = (Pool::default(), Instant::now());
        let theirs: Arc<str> = THEIRS.into();
        for order in 0..N {
            send(&mut pool, if order % 3 == 0 { ROOMS } else { OURS }, order, now);
        }
        let (mut arrived, mut failed, mut breaks, mut turns) = (Vec::new(), Vec::new(), 0, 0);
        while arrived.len() + failed.len() < N as usize {
            for open in pool.look(now, &limits(), &timers()).0 {
                pool.up(&theirs, open.id, true);
            }
            for ours in [OURS, ROOMS] {
                pool.answered(&theirs, 1 + breaks, ours, Ok(()));
            }
            let id = 1 + breaks;
            let sent = pool.take(THEIRS, id, (1_000, 1 << 20), now, &timers());
            turns += 1;
            assert!(turns < 500, "it goes on");
            match orders(&sent).iter().position(|order| *order == guilty) {
                None => {
                    pool.delivered(THEIRS, id, &sent);
                    arrived.extend(orders(&sent));
                }
                // It acknowledges nothing that came with it.
                Some(_) => {
                    pool.back(THEIRS, sent);
                    pool.ended(&theirs, id, &Failure::Closed, now, &timers(), 0);
                    breaks += 1;
                    now += timers().retry_max;
                }
            }
            failed.extend(pool.dead().iter().map(|dead| dead.ticket.order));
        }
        assert_eq!((failed.len(), failed[0], breaks), (1, guilty, 5));
        for rooms in [true, false] {
            let of_pair = arrived.iter().filter(|order| (*order % 3 == 0) == rooms);
            assert!(of_pair.is_sorted(), "order within a pair");
        }
    }
}

#[test]
fn a_pair_that_was_refused_is_forgotten_when_its_wait_is_over() {
    let (mut pool, mut now) = (Pool::default(), Instant::now());
    let long = Duration::from_secs(600);
    let timers = Timers { retry_first: long, retry_max: long, ..timers() };
    send(&mut pool, OURS, 0, now);
    let open = opens(&mut pool, now);
    pool.ended(&open.theirs, open.id, &Failure::Invalid, now, &timers, u32::MAX);
    assert_eq!(pool.dead().len(), 1);
    let end = now + long;
    while let (_, Some(next)) = pool.look(now, &limits(), &timers) {
        assert_eq!(pool.status().len(), 1, "it is not asked for again at once");
        assert!(next <= end);
        now = next;
    }
    assert!(pool.status().is_empty());
}
