//! Room: what is new waits here while a session is handed what is older, so that nothing overtakes it. A value; its seat holds it under a lock.

use xmpp::jid::Jid;

use super::Delivery;

/// Bound on newer messages that wait while older ones are handed out; beyond it they are refused like by a full mailbox.
const NEWER_BYTES_MAX: usize = 4 << 20;

/// Messages that wait until older ones have been handed out; bounded like the mailbox.
#[derive(Debug, Default)]
pub(super) struct Newer {
    /// How many hand-outs are under way: a client may become available, unavailable and available again before the first one is over.
    pub(super) running: u32,
    /// In order.
    pub(super) waiting: Vec<Delivery>,
    /// Of those.
    pub(super) bytes: usize,
}

impl Newer {
    /// False: there is no room.
    pub(super) fn wait(&mut self, delivery: Delivery) -> bool {
        let bytes = delivery.stanza.bytes().len();
        if self.bytes + bytes > NEWER_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        self.waiting.push(delivery);
        true
    }

    /// What waited before, for another task or at another node: it had room there.
    pub(super) fn wait_first(&mut self, mut waiting: Vec<Delivery>) {
        self.bytes += waiting.iter().map(|delivery| delivery.stanza.bytes().len()).sum::<usize>();
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
    }

    /// Whether something of that sender waits.
    pub(super) fn has_of(&self, from: Option<&Jid>) -> bool {
        self.waiting.iter().rev().any(|waiting| waiting.stanza.from() == from)
    }
}
