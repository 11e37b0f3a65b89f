//! The pool without streams: what it takes, whom it lets go where.

use std::time::Instant;

use super::super::pool::Pool;
use super::{item, limits};

const OURS: &str = "capulet.example";
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
