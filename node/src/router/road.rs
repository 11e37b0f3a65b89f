//! Room: the roads out of the session table: local mailboxes and links. One value a dispatch; what may not be done under the
//! table's lock (carbons, which look at other rows) is noted and done by [`Road::finish`] afterwards.
//! Implements `global_distrib::Carrier`; called by `router::dispatch` and whoever reopens gates.

use std::cell::RefCell;
use std::sync::Arc;

use global_distrib::{Carrier, Choice, Mark, NodeIx, Row, Trail, leave_trail};
use xmpp::stanza::{Kind, Stanza};

use super::{Routed, account, perform};
use crate::app::Node;
use crate::feature::{Action, Ctx};
use crate::geo::frame::{self, StanzaHead};
use crate::session::{Delivery, Seat};

/// See the room.
pub struct Road<'a> {
    node: &'a Arc<Node>,
    after: RefCell<Vec<Action>>,
}

impl<'a> Road<'a> {
    /// A road of this node.
    pub fn new(node: &'a Arc<Node>) -> Self {
        Self { node, after: RefCell::new(Vec::new()) }
    }

    /// Does what was left for after the dispatch.
    pub fn finish(self) {
        let actions = self.after.into_inner();
        if !actions.is_empty() {
            perform(self.node, None, actions);
        }
        self.node.geo.send_due_probes();
    }

    /// Puts a stanza in the mailboxes of local seats and tells the inbound features. True when at least one took it.
    /// `via`: the node where it entered, if not this.
    pub fn deliver(
        &self,
        stanza: &Stanza,
        here: &[Arc<Seat>],
        sole: bool,
        via: Option<NodeIx>,
    ) -> bool {
        let mut taken = false;
        for seat in here {
            let delivery = Delivery { stanza: stanza.clone(), sole: sole && here.len() == 1, via };
            if seat.take(delivery) {
                taken = true;
                self.node.metrics.routed.local.inc();
            } else {
                self.node.metrics.mailbox_full.inc();
            }
        }
        if taken && stanza.kind() == Kind::Message {
            let mut ctx = Ctx::new(self.node, None);
            self.node.features.inbound(&mut ctx, stanza, here);
            self.after.borrow_mut().append(&mut ctx.actions);
        }
        taken
    }
}

impl Carrier<Arc<Seat>, Routed> for Road<'_> {
    fn choose(&self, routed: &Routed, rows: &[Row<Arc<Seat>>]) -> Choice<Arc<Seat>> {
        account::choose(&routed.stanza, rows)
    }

    fn carry(
        &self,
        routed: Routed,
        here: &[Arc<Seat>],
        there: &[NodeIx],
        trail: &mut Trail,
    ) -> Result<(), Routed> {
        let node = self.node;
        let delivered =
            !here.is_empty() && self.deliver(&routed.stanza, here, there.is_empty(), None);
        if there.is_empty() {
            return if delivered { Ok(()) } else { Err(routed) };
        }
        let flight =
            if there.len() > 1 && !delivered { node.geo.flights.open(&routed, there) } else { 0 };
        let head = StanzaHead { copy: delivered, tries: routed.tries, flight };
        let mut sent = 0;
        for to in there {
            let seq = node.geo.send_with(*to, frame::STANZA, |out| {
                head.write(out);
                out.extend_from_slice(routed.stanza.bytes());
            });
            match seq {
                Some(seq) => {
                    sent += 1;
                    leave_trail(trail, *to, seq);
                }
                // Refused by the link's bound: if no other copy is taken, it is routed anew, as if that node had sent it back.
                None if flight != 0 => {
                    if let Some(routed) = node.geo.flights.ended(flight, *to, false) {
                        return Err(routed);
                    }
                }
                None => {}
            }
        }
        if sent == 0 && !delivered {
            return Err(routed);
        }
        node.metrics.routed.remote.inc();
        Ok(())
    }

    fn acked(&self, node: NodeIx) -> u64 {
        self.node.geo.acked(node)
    }

    fn mark(&self) -> Mark {
        self.node.geo.mark()
    }

    fn closed(&self, mark: &Mark) -> bool {
        self.node.geo.closed(mark)
    }

    fn late(&self, routed: Routed, waited_ms: u64) -> Routed {
        let sent_at = self.node.wall_ms().saturating_sub(waited_ms);
        Routed { stanza: super::delayed(self.node, &routed.stanza, sent_at), ..routed }
    }

    fn weight(&self, routed: &Routed) -> usize {
        routed.stanza.bytes().len() + size_of::<Routed>()
    }
}
