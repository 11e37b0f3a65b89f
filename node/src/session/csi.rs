//! Session: what is held back from a client that has said it is inactive (XEP-0352). A value without socket and clock, there only while the
//! client is inactive: an active session has none of it.
//!
//! What waits keeps its order; of presence and of chat states alone only the last of each sender is kept, at its own place. Before
//! anything important all of it goes. What is held back is not written, and so neither counted nor acknowledged (XEP-0198): when the
//! session ends it is what the client never got. Bounds: `limits.inactive_held_max` and `limits.inactive_held_bytes_max`; beyond, all
//! of it goes to the client.
//! Called by the session's task. What is important: `xmpp::payload::importance`.

use std::collections::VecDeque;

use xmpp::payload::importance::{self, Importance};

use super::Delivery;

/// See the room.
#[derive(Debug)]
pub(super) struct HeldBack {
    held: VecDeque<Held>,
    bytes: usize,
    held_max: usize,
    bytes_max: usize,
}

/// One stanza that waits.
#[derive(Debug)]
pub(super) struct Held {
    /// It.
    pub delivery: Delivery,
    /// Since when (wall clock, ms).
    pub since_ms: u64,
    /// The next of the same kind and sender makes it worthless.
    passing: bool,
}

/// What becomes of a stanza for an inactive client.
#[derive(Debug)]
pub(super) enum Offered {
    /// It waits.
    Held,
    /// It waits in the place of this one, which the client never sees.
    Instead(Delivery),
    /// All that waits is to be written, and then this.
    Flush(Delivery),
}

impl HeldBack {
    /// Nothing is held back yet.
    pub(super) fn new(held_max: usize, bytes_max: usize) -> Self {
        Self { held: VecDeque::new(), bytes: 0, held_max, bytes_max }
    }

    /// A stanza has come for the client.
    pub(super) fn offer(&mut self, delivery: Delivery, now_ms: u64) -> Offered {
        let passing = match importance::of(&delivery.stanza) {
            Importance::Important => return Offered::Flush(delivery),
            Importance::Waits => false,
            Importance::WaitsForNext => true,
        };
        let former = if passing { self.former(&delivery) } else { None };
        let bytes = delivery.stanza.bytes().len();
        let freed = former.map_or(0, |at| self.held[at].delivery.stanza.bytes().len());
        if self.held.len() - usize::from(former.is_some()) >= self.held_max
            || self.bytes - freed + bytes > self.bytes_max
        {
            return Offered::Flush(delivery);
        }
        self.bytes = self.bytes - freed + bytes;
        let former = former.and_then(|at| self.held.remove(at));
        self.held.push_back(Held { delivery, since_ms: now_ms, passing });
        former.map_or(Offered::Held, |former| Offered::Instead(former.delivery))
    }

    /// Where one is that this makes worthless.
    fn former(&self, delivery: &Delivery) -> Option<usize> {
        let is_former = |held: &Held| {
            held.passing
                && held.delivery.stanza.kind() == delivery.stanza.kind()
                && held.delivery.stanza.from() == delivery.stanza.from()
        };
        self.held.iter().position(is_former)
    }

    /// All that waits, in order: the client is gone.
    pub(super) fn into_held(self) -> VecDeque<Held> {
        self.held
    }

    /// All that waits, in order; nothing does any more.
    pub(super) fn take(&mut self) -> VecDeque<Held> {
        self.bytes = 0;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xmpp::stanza::Stanza;

    use super::*;

    fn delivery(xml: &str) -> Delivery {
        Delivery::light(Stanza::parse(Bytes::from(xml.to_owned())).expect("a stanza"))
    }

    fn presence(from: &str, show: &str) -> Delivery {
        delivery(&format!("<presence from='{from}'><show>{show}</show></presence>"))
    }

    fn state(from: &str, state: &str) -> Delivery {
        delivery(&format!(
            "<message from='{from}' type='chat'><{state} xmlns='http://jabber.org/protocol/chatstates'/></message>"
        ))
    }

    fn texts(held: &mut HeldBack) -> Vec<String> {
        let text = |held: Held| String::from_utf8_lossy(held.delivery.stanza.bytes()).into_owned();
        held.take().into_iter().map(text).collect()
    }

    #[test]
    fn the_last_presence_of_each_stays_in_order() {
        let mut held = HeldBack::new(10, 10_000);
        assert!(matches!(held.offer(presence("a@x/1", "away"), 0), Offered::Held));
        assert!(matches!(held.offer(presence("a@x/2", "away"), 0), Offered::Held));
        assert!(matches!(held.offer(state("a@x/1", "composing"), 0), Offered::Held));
        let receipt = "<message from='a@x/1' type='chat'><received xmlns='urn:xmpp:receipts' id='1'/></message>";
        assert!(matches!(held.offer(delivery(receipt), 0), Offered::Held));
        assert!(matches!(held.offer(delivery(receipt), 0), Offered::Held));
        assert!(matches!(held.offer(state("a@x/1", "paused"), 0), Offered::Instead(_)));
        assert!(matches!(held.offer(presence("a@x/1", "dnd"), 0), Offered::Instead(_)));
        let texts = texts(&mut held);
        let expected = ["a@x/2", "received", "received", "paused", "dnd"];
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, part) in texts.iter().zip(expected) {
            assert!(text.contains(part), "{part} in {texts:?}");
        }
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn what_is_important_or_too_much_lets_all_of_it_go() {
        let mut held = HeldBack::new(2, 10_000);
        let said = delivery("<message from='a@x/1' type='chat'><body>x</body></message>");
        assert!(matches!(held.offer(said, 0), Offered::Flush(_)));
        assert!(matches!(held.offer(presence("a@x/1", "away"), 0), Offered::Held));
        assert!(matches!(held.offer(presence("a@x/2", "away"), 0), Offered::Held));
        assert!(matches!(held.offer(presence("a@x/3", "away"), 0), Offered::Flush(_)));
        assert!(matches!(held.offer(presence("a@x/1", "dnd"), 0), Offered::Instead(_)));
        let mut held = HeldBack::new(10, 100);
        assert!(matches!(held.offer(presence("a@x/1", "away"), 0), Offered::Held));
        assert!(matches!(held.offer(presence("a@x/2", &"x".repeat(100)), 0), Offered::Flush(_)));
    }
}
