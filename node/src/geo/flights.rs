//! Room: one stanza, copies to several regions. The node where it entered remembers it until one of them has taken it, or none has:
//! then it is routed anew. (With a single copy the link's acknowledgement and `RETURN` say all there is to say.)

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::router::Routed;

/// Bound on flights remembered; beyond it a stanza goes out without one, and a region that cannot deliver it sends it back.
pub const FLIGHTS_MAX: usize = 100_000;

#[derive(Debug)]
struct Flight {
    routed: Routed,
    pending: usize,
    taken: bool,
}

/// All flights of this node.
#[derive(Debug, Default)]
pub struct Flights {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Flight>>,
}

impl Flights {
    /// A flight of `copies` copies; 0 when too many are open.
    pub fn open(&self, routed: &Routed, copies: usize) -> u64 {
        let mut open = self.open.lock();
        if open.len() >= FLIGHTS_MAX {
            return 0;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        open.insert(id, Flight { routed: routed.clone(), pending: copies, taken: false });
        id
    }

    /// One copy did not even leave.
    pub fn missed(&self, id: u64) {
        let mut open = self.open.lock();
        if let Some(flight) = open.get_mut(&id) {
            flight.pending -= 1;
        }
    }

    /// One copy has ended. Gives the stanza back when all have and nobody took it.
    pub fn ended(&self, id: u64, delivered: bool) -> Option<Routed> {
        let mut open = self.open.lock();
        let flight = open.get_mut(&id)?;
        flight.pending = flight.pending.saturating_sub(1);
        flight.taken |= delivered;
        if flight.pending > 0 {
            return None;
        }
        let flight = open.remove(&id).expect("it was there a line ago");
        (!flight.taken).then_some(flight.routed)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xmpp::stanza::Stanza;

    use super::*;

    fn routed() -> Routed {
        let stanza = Stanza::parse(Bytes::from_static(b"<message to='a@x'/>")).expect("a stanza");
        Routed { stanza, tries: 0 }
    }

    #[test]
    fn it_comes_back_only_when_nobody_took_it() {
        let flights = Flights::default();
        let id = flights.open(&routed(), 2);
        assert!(flights.ended(id, false).is_none());
        assert!(flights.ended(id, false).is_some());
        let id = flights.open(&routed(), 2);
        assert!(flights.ended(id, true).is_none());
        assert!(flights.ended(id, false).is_none());
        assert!(flights.ended(id, false).is_none());
    }
}
