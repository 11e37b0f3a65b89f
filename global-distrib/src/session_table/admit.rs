//! Room: what one node may take from another's stanzas. A node that sent a stanza back has also to send back what follows it for
//! the same addressee, until the sender knows: otherwise a session that binds in between would get the later ones first.
//! Called by `geo::user` on both sides; blueprint §5. Memory: one name for each refusal the other side's present life has not shown to have seen.
//!
//! A node numbers its refusals to another, from 1 on in each of its lives, and says the number with what it sends back. The other says with every stanza
//! which it has seen. That moves in the same step in which the refused stanza takes its place in the addressee's gate, and from then on nothing is sent to
//! that addressee until all is settled. So a stanza that carries the number of a refusal, or a greater one, follows everything that had to go first. The
//! numbers are said and not counted by both: what a former life had not acknowledged is sent back to the next one too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use config::canary::{Canary, sings};
use parking_lot::{Mutex, RwLock};

use super::*;

/// What became of a stanza that came from another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Delivered.
    Yes,
    /// No session here takes it.
    Nobody,
    /// Something earlier has to be settled first: it goes back, but that is no failed try.
    NotYet,
}

/// A stanza that was sent back, or of which it was said that it was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node that did.
    pub by: NodeIx,
    /// Among that node's to this one; 0: nothing waits for this one to be seen.
    pub number: u64,
}

/// One lane a peer.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: RwLock<BTreeMap<NodeIx, Arc<Lane>>>,
}

#[derive(Debug, Default)]
struct Lane {
    seen: AtomicU64,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    refusals: u64,
    /// The refusal the sender must have seen before the addressee's stanzas are taken again.
    fences: HashMap<BareJid, u64, foldhash::fast::RandomState>,
    /// The same by number, to forget them by.
    by_number: VecDeque<(u64, BareJid)>,
}

impl Given {
    fn seen(&mut self, seen: u64) {
        while let Some((number, _)) = self.by_number.front()
            && *number <= seen
        {
            let (number, who) = self.by_number.pop_front().expect("it was there a line ago");
            if self.fences.get(&who) == Some(&number) {
                self.fences.remove(&who);
            }
        }
    }
}

impl Lanes {
    fn lane(&self, node: NodeIx) -> Arc<Lane> {
        if let Some(lane) = self.lanes.read().get(&node) {
            return lane.clone();
        }
        self.lanes.write().entry(node).or_default().clone()
    }

    pub(super) fn has_seen(&self, refusal: Refusal) {
        if refusal.number > 0 {
            self.lane(refusal.by).seen.fetch_max(refusal.number, Ordering::Release);
        }
    }
}

impl<H: Clone + PartialEq, S> Directory<H, S> {
    /// The newest refusal ([`Directory::returned`], [`Directory::refused`]) of that node that was seen. To be told with every stanza sent there.
    pub fn refusals_seen(&self, node: NodeIx) -> u64 {
        self.lanes.lane(node).seen.load(Ordering::Acquire)
    }

    /// That node lives another life, or counts no more: its numbers begin anew. To be called before anything of that life is heard. Ours go on: those from
    /// `again` on, which the former life has not acknowledged, are sent to this one too (`None`: there are none); it need not see the others.
    pub fn new_life(&self, node: NodeIx, again: Option<u64>) {
        let lane = self.lanes.lane(node);
        lane.seen.store(0, Ordering::Release);
        let mut given = lane.given.lock();
        let first = again.unwrap_or(given.refusals + 1);
        given.seen(first - 1);
    }

    /// A stanza of `from` for sessions of this node. `deliver` is handed the rows and says whether a session took it; if none
    /// did, or it is too early, `refuse` queues the frame that says so, with the refusal's number, in the same step. For a stanza whose refusal is *not* told
    /// (others have it) use [`Directory::read`].
    pub fn take_in(
        &self,
        from: NodeIx,
        to: &BareJid,
        seen: u64,
        deliver: impl FnOnce(&[Row<H>]) -> bool,
        refuse: impl FnOnce(Taken, u64),
    ) -> Taken {
        let lane = self.lanes.lane(from);
        lane.given.lock().seen(seen);
        let taken = self
            .users
            .update_sync(to, |_, user| {
                let refused = lane.given.lock().fences.contains_key(to);
                if user.way.is_leaving_here() || (refused && !sings(Canary::TakesBehindRefused)) {
                    Taken::NotYet
                } else if deliver(&user.rows) {
                    Taken::Yes
                } else {
                    Taken::Nobody
                }
            })
            .unwrap_or(Taken::Nobody);
        if taken != Taken::Yes {
            lane.give_back(to, |number| refuse(taken, number));
        }
        taken
    }

    /// A session of this node ends and gives a stanza back to `from`, the node it came from; `send` queues the frame, with the refusal's number. To be called
    /// within the `drain` of [`Directory::unbind`].
    pub fn give_back(&self, from: NodeIx, to: &BareJid, send: impl FnOnce(u64)) {
        self.lanes.lane(from).give_back(to, send);
    }
}

impl Lane {
    fn give_back(&self, to: &BareJid, send: impl FnOnce(u64)) {
        let mut given = self.given.lock();
        given.refusals += 1;
        let fence = given.refusals;
        given.fences.insert(to.clone(), fence);
        given.by_number.push_back((fence, to.clone()));
        send(fence);
    }
}
