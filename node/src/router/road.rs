//! Room: the roads out of the session table: local mailboxes and links. One value a dispatch; what may not be done under the
//! table's lock (carbons, which look at other rows) is noted and done by [`Road::finish`] afterwards.
//! Implements `global_distrib::Carrier`; called by `router::dispatch` and whoever reopens gates.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use global_distrib::{Carrier, Choice, Mark, NodeIx, Row, Trail, leave_trail};
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza::Kind;

use super::ledger::{Due, Holder};
use super::{Routed, account, perform};
use crate::app::Node;
use crate::components;
use crate::feature::{Action, Ctx};
use crate::features::blocking;
use crate::features::carbons::{self, without_private};
use crate::features::push;
use crate::geo::frame::{self, StanzaHead};
use crate::session::{Delivery, Owed, Seat};

/// See the room.
pub struct Road<'a> {
    node: &'a Arc<Node>,
    after: RefCell<Vec<Action>>,
    /// Some resource takes no messages of the account, and is passed over by the choice just made.
    passed_over: Cell<bool>,
    /// How many resources there were to choose from.
    rows: Cell<usize>,
}

impl<'a> Road<'a> {
    /// A road of this node.
    pub fn new(node: &'a Arc<Node>) -> Self {
        let after = RefCell::new(Vec::new());
        Self { node, after, passed_over: Cell::new(false), rows: Cell::new(0) }
    }

    /// Does what was left for after the dispatch.
    pub fn finish(self) {
        let actions = self.after.into_inner();
        if !actions.is_empty() {
            perform(self.node, None, actions);
        }
        self.node.geo.send_due_probes();
    }

    /// Puts a stanza in the mailboxes of local seats, chosen from that many resources, and tells the inbound features. How many took it.
    pub fn deliver(&self, mut delivery: Delivery, here: &[Arc<Seat>], rows: usize) -> usize {
        let sole = delivery.sole && here.len() == 1;
        let stanza = delivery.stanza.clone();
        let entered = (delivery.via, delivery.order);
        let to_user = here.first().is_some_and(|seat| seat.bare.local().is_some());
        if to_user && stanza.has_child("private", ns::CARBONS) {
            // XEP-0280 §9: for the servers, not for the client.
            delivery.stanza = without_private(&stanza);
        }
        let mut taken = 0;
        for seat in here {
            if seat.take(Delivery { sole, ..delivery.clone() }) {
                taken += 1;
                self.node.metrics.routed.local.inc();
            } else {
                self.node.metrics.mailbox_full.inc();
            }
        }
        if to_user && taken > 0 && stanza.kind() == Kind::Message {
            let mut ctx = Ctx::new(self.node, None);
            ctx.nobody_else = here.len() == rows;
            self.node.features.inbound(&mut ctx, &stanza, here);
            self.after.borrow_mut().append(&mut ctx.actions);
            if let Some(seat) = here.iter().find(|seat| seat.pushes())
                && push::is_news(&seat.bare, &stanza)
            {
                let account = seat.bare.clone();
                self.after.borrow_mut().push(Action::Call { account, entered, message: stanza });
            }
        }
        taken
    }

    /// The same for a stanza of ours. Whether anybody took it.
    fn deliver_own(&self, routed: &Routed, here: &[Arc<Seat>], alone: bool) -> bool {
        let owed = if routed.tracked { Owed::Ledger } else { Owed::Nothing };
        let stanza = routed.stanza.clone();
        let delivery = Delivery { stanza, via: None, sole: alone, order: routed.order, owed };
        let taken = self.deliver(delivery, here, self.rows.get());
        if routed.tracked {
            for _ in taken..here.len() {
                self.node.ledger.let_go(routed.order, Holder::Here);
            }
        }
        taken > 0
    }

    /// Sends it to these nodes. Whether one link took it.
    fn send(&self, routed: &Routed, there: &[NodeIx], copy: bool, trail: &mut Trail) -> bool {
        let node = self.node;
        let mut sent = false;
        for to in there {
            let head = StanzaHead {
                copy,
                tracked: routed.tracked,
                early: false,
                denied: false,
                tries: routed.tries,
                order: routed.order,
                seen: node.directory.refusals_seen(*to),
                newest: trail.newest(*to),
            };
            let queued = node.geo.send_with(*to, frame::STANZA, |out| {
                head.write(out);
                out.extend_from_slice(routed.stanza.bytes());
            });
            if queued.is_some() {
                sent = true;
                if !copy {
                    leave_trail(trail, *to, node.geo.fence(*to));
                }
            } else if routed.tracked {
                // Refused by the link's bound, as if that node had sent it back.
                node.ledger.let_go(routed.order, Holder::There(*to));
            }
        }
        sent
    }
}

impl Carrier<Arc<Seat>, Routed> for Road<'_> {
    fn choose(&self, routed: &Routed, rows: &[Row<Arc<Seat>>]) -> Choice<Arc<Seat>> {
        self.rows.set(rows.len());
        if super::is_to_component(self.node, &routed.stanza) {
            self.passed_over.set(false);
            return components::choose_row(self.node, &routed.stanza, rows);
        }
        self.passed_over.set(account::passes_over(&routed.stanza, rows));
        account::choose(&routed.stanza, rows, |seat| blocking::refuses(seat, &routed.stanza))
    }

    fn carry(
        &self,
        mut routed: Routed,
        here: &[Arc<Seat>],
        there: &[NodeIx],
        trail: &mut Trail,
    ) -> Result<(), Routed> {
        let node = self.node;
        // Several nodes are to have it, and each may give it back: somebody has to remember whether one of them kept it.
        if !routed.tracked && here.is_empty() && there.len() > 1 {
            let (now, wall) = (node.now_ms(), node.wall_ms());
            routed.tracked =
                node.ledger.enter(routed.order, &routed.stanza, Due::Nobody, now, wall).is_ok();
        }
        if routed.tracked && !node.ledger.hand(routed.order, here.len(), there) {
            return Ok(());
        }
        let delivered = !here.is_empty() && self.deliver_own(&routed, here, there.is_empty());
        let sent = self.send(&routed, there, delivered && !routed.tracked, trail);
        if sent {
            node.metrics.routed.remote.inc();
        }
        if !delivered && !sent {
            return Err(routed);
        }
        if self.passed_over.take() {
            self.after.borrow_mut().extend(carbons::for_the_others(&routed.stanza));
        }
        Ok(())
    }

    fn acked(&self, node: NodeIx) -> u64 {
        self.node.geo.settled(node)
    }

    fn fence(&self, node: NodeIx) -> u64 {
        self.node.geo.fence(node)
    }

    fn order(&self, routed: &Routed) -> u64 {
        routed.order
    }

    fn leaving_ms(&self, node: Option<NodeIx>, to: &BareJid) -> u64 {
        // Something of ours is certainly there and may come back: order is worth the wait. If not, a dead region should not hold up
        // a user who has come back elsewhere.
        const OTHERWISE_MS: u64 = 5_000;
        let holds = node.is_some_and(|node| self.node.ledger.is_held_for(node, to));
        let hold_ms = u64::try_from(self.node.config.geo.hold.as_millis()).unwrap_or(u64::MAX);
        if holds { hold_ms } else { OTHERWISE_MS.min(hold_ms) }
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
