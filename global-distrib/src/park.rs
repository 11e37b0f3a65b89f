//! Room: the gate in front of an addressee. When a stanza may not go at once (nobody knows the addressee yet, an earlier stanza
//! is still on the way to where the addressee was, earlier ones are being filed), it and all that follow wait here, in order.
//! Called by the session table only. A gate is plain state: no clock, no link; `blueprint §5` is the rule it keeps.

use config::canary::{Canary, sings};

use std::collections::VecDeque;

pub use replication::watermark::Mark;

/// One stanza that waits.
#[derive(Debug)]
pub struct Held<S> {
    /// The stanza.
    pub stanza: S,
    /// When every probe of it is echoed, "nobody" is final.
    pub mark: Mark,
    /// Milliseconds on the caller's monotonic clock; for the hold deadline.
    pub since_ms: u64,
    /// Its place among all that this node accepted; 0 when unknown.
    pub order: u64,
    /// It came when the addressee was known to be away: should it be delivered after all, it says when it was sent.
    pub late: bool,
    /// Bytes it counts for.
    pub weight: usize,
}

/// Why the gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until the head's mark is echoed (or a row appears).
    Watermark,
    /// Until it is settled what became of the stanzas before it.
    Acks,
    /// Until the home has taken a batch.
    Filing,
}

/// The queue of one addressee. Exists only while something waits.
#[derive(Debug)]
pub struct Gate<S> {
    pub(crate) returned: VecDeque<Held<S>>,
    pub(crate) held: VecDeque<Held<S>>,
    pub(crate) wait: Wait,
    /// The place of this gate among the deadlines.
    pub(crate) deadline: Option<(u64, u64)>,
}

impl<S> Gate<S> {
    pub(crate) fn new(wait: Wait) -> Self {
        Self { returned: VecDeque::new(), held: VecDeque::new(), wait, deadline: None }
    }

    /// Among those that were on their way already: in their order, and behind what has the same place or an unknown one.
    pub(crate) fn put_back(&mut self, held: Held<S>) {
        if sings(Canary::ReturnedBehind) {
            return self.held.push_back(held);
        }
        let mut at = self.returned.len();
        while at > 0 && held.order != 0 && self.returned[at - 1].order > held.order {
            at -= 1;
        }
        self.returned.insert(at, held);
    }

    pub(crate) fn front(&self) -> Option<&Held<S>> {
        self.returned.front().or_else(|| self.held.front())
    }

    pub(crate) fn pop(&mut self) -> Option<Held<S>> {
        self.returned.pop_front().or_else(|| self.held.pop_front())
    }

    pub(crate) fn len(&self) -> usize {
        self.returned.len() + self.held.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.held.is_empty()
    }
}
