//! Room: the account that stream management (XEP-0198) needs, the same at both ends of a stream: what was sent and is not acknowledged, when to ask for that, and
//! what the peer is still to be told. Values: no clock, no socket. Called by `outgoing` and by the machine of `incoming`.
//!
//! Left out: any bound, which is looked at before something is sent; what `h` counts from, for that differs with who has opened the stream.

use std::time::{Duration, Instant};

use xmpp::sm::{Inbound, Outbound, TooHigh};

/// After an answer that did not acknowledge everything.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What was sent and is not acknowledged, oldest first.
#[derive(Debug)]
pub(super) struct Unacked<T> {
    queue: Outbound<T>,
    /// Since when an acknowledgement is awaited.
    asked: Option<Instant>,
    /// How many had been sent when we asked last, and when the answer came.
    asked_for: Option<(u32, Option<Instant>)>,
    /// Since when the peer has been asked and has acknowledged nothing more.
    stalled: Option<Instant>,
}

impl<T> Default for Unacked<T> {
    fn default() -> Self {
        Self::resumed(Outbound::new(usize::MAX, usize::MAX))
    }
}

impl<T> Unacked<T> {
    /// Goes on with what a former connection has left.
    pub(super) fn resumed(queue: Outbound<T>) -> Self {
        Unacked { queue, asked: None, asked_for: None, stalled: None }
    }

    /// For another connection to go on with.
    pub(super) fn into_queue(self) -> Outbound<T> {
        self.queue
    }

    /// One more is sent, of so many bytes.
    pub(super) fn push(&mut self, item: T, bytes: usize) {
        let pushed = self.queue.push(item, bytes);
        assert!(pushed.is_ok(), "it has no bound of its own");
    }

    /// The peer acknowledges: what has thereby arrived.
    pub(super) fn acked(&mut self, h: u32, now: Instant) -> Result<Vec<T>, TooHigh> {
        let arrived: Vec<T> = self.queue.acked(h)?.collect();
        self.asked = None;
        if !arrived.is_empty() {
            self.stalled = None;
        }
        self.asked_for = self.asked_for.map(|(count, _)| (count, Some(now)));
        Ok(arrived)
    }

    /// All of it.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.unacked()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many bytes.
    pub(super) fn bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Everything is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Since when an acknowledgement is awaited.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// Since when it has been asked and has acknowledged nothing more, whatever it answers.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled
    }

    /// When to ask: one question at a time, and now, unless it is [`Unacked::asks_again`].
    pub(super) fn asks_at(&self, now: Instant) -> Option<Instant> {
        let asks = self.asked.is_none() && !self.is_empty();
        asks.then(|| self.asks_again().unwrap_or(now))
    }

    /// When to ask once more. A peer that knows of all that was sent and has not handled it says so by itself when it has, or is asked again after a while: asked
    /// at once it would say the same again, without end.
    pub(super) fn asks_again(&self) -> Option<Instant> {
        let (count, answered) = self.asked_for?;
        let answered = answered.filter(|_| count == self.queue.sent() && !self.is_empty());
        answered.map(|answered| answered + ASK_AGAIN)
    }

    /// Whether to ask now. If so it counts as asked.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let asks = self.asks_at(now).is_some_and(|at| at <= now);
        if asks {
            self.asked = Some(now);
            self.asked_for = Some((self.queue.sent(), None));
            self.stalled.get_or_insert(now);
        }
        asks
    }

    /// The connection is gone: nothing is awaited.
    pub(super) fn cut(&mut self) {
        (self.asked, self.asked_for, self.stalled) = (None, None, None);
    }
}

/// Up to where the peer has asked what is handled, if it was told less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owed(Option<u64>);

impl Owed {
    /// It asks. It is told once more when all that has come by now is handled: see [`Owed::is_due`].
    pub(super) fn asked(&mut self, inbound: &Inbound) {
        self.0 = (inbound.first_open() < inbound.next()).then_some(inbound.next());
    }

    /// Whether there is anything that it was not told.
    pub(super) fn is_any(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is to be told now what it was not told. Once.
    pub(super) fn is_due(&mut self, inbound: &Inbound) -> bool {
        self.0.take_if(|owed| inbound.first_open() >= *owed).is_some()
    }
}

/// How many of the peer's come once more on a stream that is resumed (XEP-0198 §5): all that had come and that it was not told to be handled. They are in good
/// hands already, and not taken again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Again(u64);

impl Again {
    /// The peer is told how far we are, to begin there. `h` counts from the stanza of number `from` on.
    pub(super) fn told(inbound: &Inbound, from: u64) -> Again {
        Again(inbound.next() - inbound.first_open().max(from))
    }

    /// One comes: whether it has come before.
    pub(super) fn comes(&mut self) -> bool {
        let has_come = self.0 > 0;
        self.0 -= u64::from(has_come);
        has_come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_at_a_time_and_again_when_there_is_news_or_after_a_while() {
        let (mut unacked, now) = (Unacked::default(), Instant::now());
        assert!(!unacked.ask(now), "nothing is sent");
        unacked.push("a", 1);
        assert!(unacked.ask(now) && !unacked.ask(now));
        unacked.push("b", 1);
        assert_eq!((unacked.ask(now), unacked.asked()), (false, Some(now)));
        assert_eq!(unacked.acked(0, now), Ok(vec![]));
        assert!(unacked.ask(now), "it did not know of the second");
        assert_eq!(unacked.acked(1, now), Ok(vec!["a"]));
        assert_eq!((unacked.ask(now), unacked.asks_at(now)), (false, Some(now + ASK_AGAIN)));
        assert!(unacked.ask(now + ASK_AGAIN));
        // An answer that acknowledges nothing more is none.
        assert_eq!(unacked.acked(1, now + ASK_AGAIN), Ok(vec![]));
        assert!(unacked.ask(now + 2 * ASK_AGAIN));
        assert_eq!(unacked.stalled(), Some(now + ASK_AGAIN));
        assert!(unacked.acked(3, now).is_err());
        unacked.cut();
        assert_eq!(unacked.stalled(), None);
        assert!(unacked.ask(now), "on another connection");
        assert_eq!((unacked.acked(2, now), unacked.asks_at(now)), (Ok(vec!["b"]), None));
    }

    #[test]
    fn what_was_not_told_to_be_handled_comes_again() {
        let mut inbound = Inbound::default();
        let (uncounted, _first, second) = (inbound.begin(), inbound.begin(), inbound.begin());
        inbound.done(second);
        assert_eq!(Again::told(&inbound, 1), Again(2), "what is not counted is not told");
        inbound.done(uncounted);
        let mut again = Again::told(&inbound, 1);
        assert_eq!([again.comes(), again.comes(), again.comes()], [true, true, false]);
    }

    #[test]
    fn who_was_told_less_is_told_once_more() {
        let (mut owed, mut inbound) = (Owed::default(), Inbound::default());
        owed.asked(&inbound);
        assert!(!owed.is_any() && !owed.is_due(&inbound), "it was told all");
        let (first, second) = (inbound.begin(), inbound.begin());
        owed.asked(&inbound);
        inbound.begin();
        inbound.done(second);
        assert!(owed.is_any() && !owed.is_due(&inbound));
        inbound.done(first);
        assert!(owed.is_due(&inbound) && !owed.is_due(&inbound));
    }
}
