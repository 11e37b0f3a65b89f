//! The roads out of one node: what `node::router::road` is there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use global_distrib::{Carrier, Choice, Directory, Mark, NodeIx, Row, Trail, leave_trail};
use replication::Hlc;
use smallvec::SmallVec;
use xmpp::jid::BareJid;

use super::world::{Delivery, Event, Frame, Note, Sent, State};

pub(crate) fn bare(user: usize) -> BareJid {
    static USERS: LazyLock<Vec<BareJid>> = LazyLock::new(|| {
        let made = |user| BareJid::parse(&format!("user{user}@x.example")).expect("a JID");
        (0..4).map(made).collect()
    });
    USERS[user].clone()
}

pub(crate) fn user_of(full: &BareJid) -> usize {
    full.as_str()[4..5].parse().expect("made by bare()")
}

pub(crate) fn ix(node: usize) -> NodeIx {
    NodeIx(u16::try_from(node).expect("few nodes"))
}

pub(crate) fn name(node: usize) -> &'static str {
    ["n0", "n1", "n2", "n3", "n4"][node]
}

pub(crate) fn choose(rows: &[Row<u32>]) -> Choice<u32> {
    let takers = || rows.iter().filter(|row| row.available);
    if takers().next().is_none() {
        return Choice::Nobody { file: true };
    }
    let here = takers().filter_map(Row::here).copied().collect();
    let there: BTreeSet<NodeIx> = takers().filter_map(Row::there).collect();
    Choice::Send { here, there: there.into_iter().collect() }
}

/// The roads out of one node.
pub(crate) struct Road<'a> {
    pub(crate) me: usize,
    pub(crate) state: &'a RefCell<State>,
    pub(crate) table: &'a Directory<u32, Note>,
}

impl Road<'_> {
    fn peers(&self) -> impl Iterator<Item = usize> {
        let me = self.me;
        (0..self.state.borrow().nodes.len()).filter(move |node| *node != me)
    }

    pub(crate) fn deliver(
        &self,
        note: &Note,
        here: &[u32],
        sole: bool,
        via: Option<usize>,
    ) -> bool {
        let mut state = self.state.borrow_mut();
        if !here.is_empty() {
            state.placed(note);
        }
        for seat_id in here {
            let sole = sole && here.len() == 1;
            let delivery = Delivery { note: note.clone(), sole, via, stored: None };
            let seat = state.seats.get_mut(seat_id).expect("a seat");
            assert!(!seat.ended, "a row of a session that has ended");
            if seat.catching_up {
                seat.later.push(delivery);
            } else {
                seat.mailbox.push(delivery);
                let late = state.chance(6);
                state.at(late, Event::Read(*seat_id));
            }
        }
        !here.is_empty()
    }
}

impl Carrier<u32, Note> for Road<'_> {
    fn choose(&self, _: &Note, rows: &[Row<u32>]) -> Choice<u32> {
        choose(rows)
    }

    fn carry(
        &self,
        note: Note,
        here: &[u32],
        there: &[NodeIx],
        trail: &mut Trail,
    ) -> Result<(), Note> {
        let delivered = self.deliver(&note, here, there.is_empty(), None);
        let mut flight = 0;
        if there.len() > 1 && !delivered {
            let mut state = self.state.borrow_mut();
            let me = &mut state.nodes[self.me];
            me.numbers += 1;
            flight = me.numbers;
            me.flights.insert(flight, (note.clone(), there.len(), false));
        }
        for to in there {
            let by_newest = self.state.borrow().rules.newest;
            let newest = if by_newest { trail.newest(*to) } else { Hlc(u64::MAX) };
            let seen = self.table.refusals_seen(*to);
            let mut state = self.state.borrow_mut();
            let frame =
                Frame::Stanza(Sent { note: note.clone(), copy: delivered, flight, seen, newest });
            let node = usize::from(to.0);
            let number = state.send(self.me, node, frame);
            let (me, to_node) = (self.me, node);
            let Note { from, to: user, serial, .. } = note;
            state.tell(|| {
                format!("n{me} sends s{from}→user{user} {serial} to n{to_node} (flight {flight})")
            });
            if !delivered {
                let by_echo = state.rules.settle_by_echo;
                let next = state.nodes[self.me].probes.next(name(node));
                leave_trail(trail, *to, if by_echo { next } else { number });
            }
        }
        Ok(())
    }

    fn acked(&self, node: NodeIx) -> u64 {
        let state = self.state.borrow();
        let to = usize::from(node.0);
        match state.rules.settle_by_echo {
            true => state.nodes[self.me].probes.echoed_upto(name(to)),
            false => state.links[&(self.me, to)].acked,
        }
    }

    fn fence(&self, node: NodeIx) -> u64 {
        let state = self.state.borrow();
        match state.rules.settle_by_echo {
            true => state.nodes[self.me].probes.next(name(usize::from(node.0))),
            false => 0,
        }
    }

    fn order(&self, note: &Note) -> u64 {
        note.order
    }

    fn mark(&self) -> Mark {
        let peers: SmallVec<[&str; 4]> = self.peers().map(name).collect();
        self.state.borrow_mut().nodes[self.me].probes.mark(peers)
    }

    fn closed(&self, mark: &Mark) -> bool {
        self.state.borrow().nodes[self.me].probes.is_closed(mark)
    }

    fn weight(&self, _: &Note) -> usize {
        1
    }
}
