//! Room `federation::outgoing`: what waits for one pair of domains, ours and theirs. A value: no clock, no socket. Called by `pool`.
//!
//! First in, first out, also when a stream is cut: what was taken and not acknowledged comes back to the front, in its order, before anything newer. A
//! stanza waits at most `timers.queue` (then `remote-server-timeout`), and errors come in the order of the stanzas (faults F-61): while earlier ones are on
//! the way nothing behind them is given up. The bounds count what waits and what is on the way; beyond: the stanza comes straight back, with
//! `resource-constraint`. What was taken once is kept, whatever the bounds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use xmpp::stanza::Stanza;

use crate::federation::Limits;
use crate::federation::Ticket;

/// How often a stanza is begun anew on a new stream. A stanza that kills every stream it is written to would otherwise keep the whole queue until its
/// time is over. Others that were on their way with it do not use up their tries: see [`together`].
const SENDINGS_MAX: u8 = 5;

/// How many that were on streams which broke may be on the way on one stream together, after so many sendings of the first. One that kills its streams takes fewer
/// with it each time, and none when it is at its last: only its own tries run out.
pub(super) fn together(sendings: u8) -> usize {
    match sendings {
        0 => usize::MAX,
        1 => 32,
        2 => 8,
        _ => 1,
    }
}

/// What keeping a stanza costs besides its text: otherwise many empty ones would cost more than the bounds say.
const KEEPING_BYTES: usize = 256;

/// One stanza and what became of it so far.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) ticket: Ticket,
    pub(super) stanza: Stanza,
    /// When it was taken.
    pub(super) since: Instant,
    /// The same for people, in Unix milliseconds (XEP-0203).
    pub(super) since_ms: u64,
    /// How often it was written to a stream of its own beginning; resumption does not count.
    pub(super) sendings: u8,
}

impl Item {
    /// What it counts for: its text, and about what it costs to keep.
    pub(super) fn bytes(&self) -> usize {
        self.stanza.bytes().len() + KEEPING_BYTES
    }
}

/// The queue of one pair.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Item>,
    waiting_bytes: usize,
    on_the_way: usize,
    on_the_way_bytes: usize,
}

impl Queue {
    /// Takes one more, or gives it back because the queue is full.
    pub(super) fn push(&mut self, item: Item, limits: &Limits) -> Result<(), Item> {
        let bytes = self.bytes() + item.bytes();
        if self.len() >= limits.queue_items_max
            || (bytes > limits.queue_bytes_max && !self.is_empty())
        {
            return Err(item);
        }
        self.waiting_bytes += item.bytes();
        self.waiting.push_back(item);
        Ok(())
    }

    /// The next to be written; it counts as on the way until [`Queue::done`] or [`Queue::back`]. Not one that has waited too long: see [`Queue::expire`].
    pub(super) fn take(&mut self, now: Instant, longest: Duration) -> Option<Item> {
        let mut item = self.waiting.pop_front_if(|first| now < first.since + longest)?;
        self.waiting_bytes -= item.bytes();
        self.on_the_way += 1;
        self.on_the_way_bytes += item.bytes();
        item.sendings += 1;
        Some(item)
    }

    /// One that was on the way has come to its end.
    pub(super) fn done(&mut self, bytes: usize) {
        debug_assert!(self.on_the_way > 0, "each that is taken ends once");
        self.on_the_way -= 1;
        self.on_the_way_bytes -= bytes;
    }

    /// What was on the way comes back, in its order, and is the first to go again. Gives those that were begun too often, oldest first.
    pub(super) fn back(&mut self, items: impl DoubleEndedIterator<Item = Item>) -> Vec<Item> {
        let mut given_up = Vec::new();
        for item in items.rev() {
            self.done(item.bytes());
            if item.sendings >= SENDINGS_MAX {
                given_up.push(item);
            } else {
                self.waiting_bytes += item.bytes();
                self.waiting.push_front(item);
            }
        }
        given_up.reverse();
        given_up
    }

    /// The first one, if it has waited long enough and nothing is before it.
    pub(super) fn expire(&mut self, now: Instant, longest: Duration) -> Option<Item> {
        if self.on_the_way > 0 || now < self.waiting.front()?.since + longest {
            return None;
        }
        self.pop()
    }

    /// When [`Queue::expire`] has something; `None` while nothing waits or something is on the way.
    pub(super) fn expires_at(&self, longest: Duration) -> Option<Instant> {
        let first = self.waiting.front().filter(|_| self.on_the_way == 0)?;
        Some(first.since + longest)
    }

    /// The first that waits, taken out for good.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.waiting.pop_front()?;
        self.waiting_bytes -= item.bytes();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(item)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How often the first that waits was sent.
    pub(super) fn sendings(&self) -> Option<u8> {
        self.waiting.front().map(|item| item.sendings)
    }

    /// How many were taken and have not come to their end.
    pub(super) fn on_the_way(&self) -> usize {
        self.on_the_way
    }

    /// Whether something was taken and has not come to its end.
    pub(super) fn is_on_the_way(&self) -> bool {
        self.on_the_way > 0
    }

    /// How many wait or are on the way.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.on_the_way
    }

    /// Nothing waits, nothing is on the way.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait or are on the way.
    pub(super) fn bytes(&self) -> usize {
        self.waiting_bytes + self.on_the_way_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{item, limits};
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn queue(now: Instant, orders: std::ops::Range<u64>) -> Queue {
        let mut queue = Queue::default();
        for order in orders {
            queue.push(item(order, now), &limits()).unwrap();
        }
        queue
    }

    fn orders(items: impl IntoIterator<Item = Item>) -> Vec<u64> {
        items.into_iter().map(|item| item.ticket.order).collect()
    }

    fn drain(queue: &mut Queue) -> Vec<u64> {
        orders(std::iter::from_fn(|| queue.pop()))
    }

    #[test]
    fn a_full_queue_gives_the_stanza_back() {
        let now = Instant::now();
        let mut queue = queue(now, 0..3);
        let three = Limits { queue_items_max: 3, ..limits() };
        assert_eq!(queue.push(item(3, now), &three).unwrap_err().ticket.order, 3);
        let few = Limits { queue_bytes_max: queue.bytes(), ..limits() };
        assert_eq!(queue.push(item(3, now), &few).unwrap_err().ticket.order, 3);
        assert_eq!(drain(&mut queue), [0, 1, 2]);
        assert_eq!(queue.bytes(), 0);
        // A single stanza above the bound is no reason to refuse it for ever.
        assert!(queue.push(item(4, now), &few).is_ok());
    }

    #[test]
    fn what_is_on_the_way_counts_against_the_bound() {
        let now = Instant::now();
        let mut queue = queue(now, 0..2);
        queue.take(now, LONG).unwrap();
        assert!(queue.push(item(2, now), &Limits { queue_items_max: 2, ..limits() }).is_err());
    }

    #[test]
    fn what_was_not_acknowledged_goes_first_again() {
        let now = Instant::now();
        let mut queue = queue(now, 0..5);
        let mut taken: Vec<Item> = (0..3).map(|_| queue.take(now, LONG).unwrap()).collect();
        let acknowledged = taken.remove(0);
        queue.done(acknowledged.bytes());
        assert!(queue.back(taken.into_iter()).is_empty());
        assert_eq!(drain(&mut queue), [1, 2, 3, 4]);
    }

    #[test]
    fn a_stanza_that_kills_its_streams_is_given_up() {
        let now = Instant::now();
        let mut queue = queue(now, 0..2);
        for _ in 1..SENDINGS_MAX {
            let taken = queue.take(now, LONG).unwrap();
            assert!(queue.back([taken].into_iter()).is_empty());
        }
        let taken = queue.take(now, LONG).unwrap();
        assert_eq!(orders(queue.back([taken].into_iter())), [0]);
        assert_eq!((drain(&mut queue), queue.bytes()), (vec![1], 0));
    }

    #[test]
    fn nothing_is_given_up_before_what_is_on_the_way() {
        let now = Instant::now();
        let mut queue = queue(now, 0..3);
        let later = now + LONG;
        let taken = queue.take(now, LONG).unwrap();
        assert!(queue.expire(later, LONG).is_none());
        assert!(queue.take(later, LONG).is_none(), "nor is it sent any more");
        assert_eq!(queue.expires_at(LONG), None);
        queue.back([taken].into_iter());
        assert_eq!(queue.expires_at(LONG), Some(later));
        assert!(queue.expire(later - Duration::from_millis(1), LONG).is_none());
        assert_eq!(orders(std::iter::from_fn(|| queue.expire(later, LONG))), [0, 1, 2]);
    }
}
