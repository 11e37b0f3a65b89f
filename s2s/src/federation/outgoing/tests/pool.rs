//! The pool without streams: what it takes, whom it lets go where.

use std::sync::Arc;
use std::time::Instant;

use super::super::failure::Failure;
use super::super::pool::{Open, Pool};
use super::{item, limits, timers};

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
