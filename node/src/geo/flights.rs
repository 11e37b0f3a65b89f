//! Room: one stanza, copies to several regions. The node where it entered remembers it until one of them has taken it, or none has:
//! then it is routed anew. (With a single copy the link's acknowledgement and `RETURN` say all there is to say.)

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use global_distrib::NodeIx;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::router::Routed;

/// Bound on flights remembered; beyond it a stanza goes out without one, and a region that cannot deliver it sends it back.
pub const FLIGHTS_MAX: usize = 100_000;

#[derive(Debug)]
struct Flight {
    routed: Routed,
    pending: SmallVec<[NodeIx; 4]>,
    taken: bool,
}

/// All flights of this node.
#[derive(Debug, Default)]
pub struct Flights {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Flight>>,
}

impl Flights {
    /// A flight with a copy to each of `to`; 0 when too many are open.
    pub fn open(&self, routed: &Routed, to: &[NodeIx]) -> u64 {
        let mut open = self.open.lock();
        if open.len() >= FLIGHTS_MAX {
            return 0;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        open.insert(id, Flight { routed: routed.clone(), pending: to.into(), taken: false });
        id
    }

    /// The copy to `node` has ended. Gives the stanza back when all have and nobody took it.
    pub fn ended(&self, id: u64, node: NodeIx, delivered: bool) -> Option<Routed> {
        let mut open = self.open.lock();
        let flight = open.get_mut(&id)?;
        flight.pending.retain(|pending| *pending != node);
        flight.taken |= delivered;
        if !flight.pending.is_empty() {
            return None;
        }
        let flight = open.remove(&id).expect("it was there a line ago");
        (!flight.taken).then_some(flight.routed)
    }

    /// None of its copies left: it never was.
    pub fn cancel(&self, id: u64) {
        self.open.lock().remove(&id);
    }

    /// That node lives another life: its copies have ended, and nobody knows how; those that were only there come back.
    pub fn lost(&self, node: NodeIx) -> Vec<Routed> {
        let mut ids: Vec<u64> = {
            let open = self.open.lock();
            open.iter()
                .filter(|(_, flight)| flight.pending.contains(&node))
                .map(|(id, _)| *id)
                .collect()
        };
        ids.sort_unstable(); // In the order in which they left.
        ids.into_iter().filter_map(|id| self.ended(id, node, false)).collect()
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
        let (eu, us) = (NodeIx(0), NodeIx(1));
        let id = flights.open(&routed(), &[eu, us]);
        assert!(flights.ended(id, eu, false).is_none());
        assert!(flights.ended(id, us, false).is_some());
        let id = flights.open(&routed(), &[eu, us]);
        assert!(flights.ended(id, eu, true).is_none());
        assert!(flights.ended(id, us, false).is_none());
        assert!(flights.ended(id, us, false).is_none());
    }

    #[test]
    fn a_dead_node_ends_its_copies_once() {
        let flights = Flights::default();
        let (eu, us) = (NodeIx(0), NodeIx(1));
        let id = flights.open(&routed(), &[eu, us]);
        assert!(flights.lost(eu).is_empty());
        assert!(flights.ended(id, us, false).is_some());
        flights.open(&routed(), &[eu]);
        assert_eq!(flights.lost(eu).len(), 1);
        assert!(flights.lost(eu).is_empty());
    }
}
