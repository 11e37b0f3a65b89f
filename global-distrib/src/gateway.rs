//! Which node speaks to another domain for one of our senders, and what is on its way there (decision 0016). A pair (our sender, their domain) stays with
//! one gateway while anything of it is on the way, so that it leaves in order; it changes to another only when all is settled, or when the
//! gateway is gone: then what was with it is sent again, before anything newer.
//!
//! Pure: called by `node::federation` under one lock, which also covers the queueing, so that the order of calls is the order on the road.
//! Stanzas are named by their order; the ledger has them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::NodeIx;

/// A sender of ours (bare JID, or a domain), and somebody else's domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Our sender.
    pub from: String,
    /// Their domain.
    pub domain: String,
}

/// Where a stanza goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// This node is the gateway.
    Here,
    /// To that node, now.
    There(NodeIx),
    /// To that node, behind what waits for it; [`Gateways::next`] gives it back when its turn comes.
    Later(NodeIx),
    /// Behind what a gateway that leaves has given back; [`Gateways::ready`] gives all of it when its turn comes.
    Behind,
}

#[derive(Debug)]
struct State {
    /// `None`: this node.
    at: Option<NodeIx>,
    open: usize,
    /// What the gateway has given back or a former life left, and what came since: it goes to another when all else is over.
    back: BTreeSet<u64>,
}

impl State {
    fn new(at: Option<NodeIx>) -> Self {
        Self { at, open: 0, back: BTreeSet::new() }
    }

    /// Whether everything that is open is in `back`, and nobody has still to say what he has of it.
    fn is_ready(&self, former: &BTreeSet<u64>) -> bool {
        let waits = || !former.is_empty() && !self.back.is_disjoint(former);
        !self.back.is_empty() && self.open == self.back.len() && !waits()
    }
}

#[derive(Debug)]
struct Open {
    pair: Arc<Pair>,
    bytes: usize,
}

/// What one sender has on the way, or all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Stanzas.
    pub stanzas: usize,
    /// And their bytes.
    pub bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.stanzas += 1;
        self.bytes += bytes;
    }

    fn sub(&mut self, bytes: usize) {
        self.stanzas -= 1;
        self.bytes -= bytes;
    }

    /// Whether one more of so many bytes is within `most`. The first always is: what is too big for itself is refused where it enters.
    pub fn has_room(self, bytes: usize, most: Load) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= most.bytes || self.stanzas == 0;
        self.stanzas < most.stanzas && fits
    }
}

/// See the module. Memory: about 300 bytes for each stanza on its way; the caller bounds how many there are ([`Gateways::load`], [`Gateways::load_of`]).
#[derive(Debug, Default)]
pub struct Gateways {
    pairs: HashMap<Arc<Pair>, State>,
    of: BTreeMap<u64, Open>,
    load: Load,
    senders: HashMap<String, Load>,
    /// Of a former life; what has become of them is not known yet.
    former: BTreeSet<u64>,
    /// Nodes whose link is up.
    up: BTreeSet<NodeIx>,
    /// What is to go there when the link is up and has room, in order.
    waiting: BTreeMap<NodeIx, BTreeSet<u64>>,
    /// Nodes that give back what they are given: they are about to stop.
    leaving: BTreeSet<NodeIx>,
    /// Pairs of which everything that is open was given back.
    ready: Vec<Arc<Pair>>,
}

impl Gateways {
    /// A stanza of that pair, of so many bytes, is to leave. `wanted`: the gateway for a pair of which nothing is on the way; `None`: this node.
    pub fn send(&mut self, pair: Pair, order: u64, bytes: usize, wanted: Option<NodeIx>) -> Way {
        self.former.remove(&order);
        let pair = self.enter(pair, order, bytes, wanted);
        let state = self.pairs.get_mut(&pair).expect("it was entered");
        if !state.back.is_empty() {
            state.back.insert(order);
            if state.is_ready(&self.former) {
                self.ready.push(pair);
            }
            return Way::Behind;
        }
        let Some(node) = state.at else { return Way::Here };
        if self.up.contains(&node) && !self.waiting.contains_key(&node) {
            return Way::There(node);
        }
        self.waiting.entry(node).or_default().insert(order);
        Way::Later(node)
    }

    /// The same, if nobody who may be the gateway can be reached, and nobody else may: it waits for that node, also for its next life.
    pub fn wait(&mut self, pair: Pair, order: u64, bytes: usize, node: NodeIx) -> Way {
        match self.send(pair, order, bytes, Some(node)) {
            // It would give it back at once.
            Way::There(at) if self.leaving.contains(&at) => {
                self.refused(at, order);
                Way::Later(at)
            }
            way => way,
        }
    }

    /// It counts, once.
    fn enter(&mut self, pair: Pair, order: u64, bytes: usize, wanted: Option<NodeIx>) -> Arc<Pair> {
        let pair = match self.pairs.get_key_value(&pair) {
            Some((known, _)) => known.clone(),
            None => Arc::new(pair),
        };
        let state = self.pairs.entry(pair.clone()).or_insert_with(|| State::new(wanted));
        if !self.of.contains_key(&order) {
            state.open += 1;
            self.load.add(bytes);
            self.senders.entry(pair.from.clone()).or_default().add(bytes);
            self.of.insert(order, Open { pair: pair.clone(), bytes });
        }
        pair
    }

    /// It does not count any more.
    fn leave(&mut self, order: u64) -> Option<Arc<Pair>> {
        let Open { pair, bytes } = self.of.remove(&order)?;
        self.load.sub(bytes);
        if let Some(load) = self.senders.get_mut(&pair.from) {
            load.sub(bytes);
            if load.stanzas == 0 {
                self.senders.remove(&pair.from);
            }
        }
        Some(pair)
    }

    /// A former life has promised it, and perhaps another node has it. Whatever is newer of its pair goes behind it; itself when [`Gateways::send`] is
    /// said of it, or not at all.
    pub fn former(&mut self, pair: Pair, order: u64, bytes: usize) {
        let pair = self.enter(pair, order, bytes, None);
        self.former.insert(order);
        self.pairs.get_mut(&pair).expect("it was entered").back.insert(order);
    }

    /// Another node has it of a former life of ours, and will say what becomes of it. Newer ones of the pair follow it there.
    pub fn held(&mut self, pair: Pair, order: u64, bytes: usize, by: NodeIx) {
        let pair = self.enter(pair, order, bytes, Some(by));
        let state = self.pairs.get_mut(&pair).expect("it was entered");
        if self.former.remove(&order) {
            state.back.remove(&order);
            state.at = Some(by);
        }
        if state.is_ready(&self.former) {
            self.ready.push(pair);
        }
    }

    /// That one had no room: it waits, and so does whatever follows it to that node.
    pub fn refused(&mut self, node: NodeIx, order: u64) {
        self.waiting.entry(node).or_default().insert(order);
    }

    /// It has come to an end: the other domain has it, or its sender has an error.
    pub fn over(&mut self, order: u64) {
        let Some(pair) = self.leave(order) else { return };
        self.former.remove(&order);
        let Some(state) = self.pairs.get_mut(&pair) else { return };
        state.open -= 1;
        state.back.remove(&order);
        let at = state.at;
        if state.open == 0 {
            self.pairs.remove(&pair);
        } else if state.is_ready(&self.former) {
            self.ready.push(pair);
        }
        if let Some(node) = at
            && let Some(waiting) = self.waiting.get_mut(&node)
        {
            waiting.remove(&order);
            if waiting.is_empty() {
                self.waiting.remove(&node);
            }
        }
    }

    /// That node has given it back, for it is about to stop; `None`: this node is. It has let go of it. False: it was never on its way by a gateway.
    pub fn came_back(&mut self, from: Option<NodeIx>, order: u64) -> bool {
        let Some(open) = self.of.get(&order) else { return false };
        self.leaving.extend(from);
        let Some(state) = self.pairs.get_mut(&open.pair) else { return true };
        state.back.insert(order);
        if state.is_ready(&self.former) {
            self.ready.push(open.pair.clone());
        }
        true
    }

    /// Whether that node speaks to nobody any more: it is about to stop.
    pub fn is_leaving(&self, node: NodeIx) -> bool {
        self.leaving.contains(&node)
    }

    /// Whether that node can be reached, and is not about to stop.
    pub fn takes(&self, node: NodeIx) -> bool {
        self.up.contains(&node) && !self.is_leaving(node)
    }

    /// What is to be sent again now, in order, each with [`Gateways::send`] and before anything newer: of those pairs whose gateway gave it back and
    /// has nothing of them any more.
    pub fn ready(&mut self) -> Vec<u64> {
        let mut orders = BTreeSet::new();
        for pair in std::mem::take(&mut self.ready) {
            if self.pairs.get(&pair).is_some_and(|state| state.is_ready(&self.former))
                && let Some(state) = self.pairs.remove(&pair)
            {
                state.back.iter().for_each(|order| drop(self.leave(*order)));
                orders.extend(state.back);
            }
        }
        orders.into_iter().collect()
    }

    /// The link to that node is up.
    pub fn up(&mut self, node: NodeIx) {
        self.up.insert(node);
    }

    /// And not any more: what is to go there waits.
    pub fn down(&mut self, node: NodeIx) {
        self.up.remove(&node);
    }

    /// The first of those that wait for that node, if its link is up. It counts as sent: say [`Gateways::refused`] if it was not.
    pub fn next(&mut self, node: NodeIx) -> Option<u64> {
        if !self.up.contains(&node) {
            return None;
        }
        let waiting = self.waiting.get_mut(&node)?;
        let first = waiting.pop_first();
        if waiting.is_empty() {
            self.waiting.remove(&node);
        }
        first
    }

    /// Nodes for which something waits.
    pub fn waited_for(&self) -> Vec<NodeIx> {
        self.waiting.keys().copied().collect()
    }

    /// What waits, of all nodes, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.values().flatten().copied()
    }

    /// That life of a node is over, or it counts as dead: everything that was with it is to be sent again, in order, before anything newer
    /// (the ledger says what that is, but for what it had given back: that is returned). Nothing is with it any more.
    pub fn gone(&mut self, node: NodeIx) -> BTreeSet<u64> {
        self.up.remove(&node);
        self.waiting.remove(&node);
        self.leaving.remove(&node);
        let mut again = BTreeSet::new();
        let former = &self.former;
        self.pairs.retain(|_, state| {
            if state.at != Some(node) {
                return true;
            }
            state.at = None;
            if !former.is_empty() && !state.back.is_disjoint(former) {
                return true; // All of it goes behind what it is not known of what has become.
            }
            again.append(&mut state.back);
            false
        });
        let pairs = &self.pairs;
        let left: Vec<u64> = self
            .of
            .iter()
            .filter(|(_, open)| !pairs.contains_key(&open.pair))
            .map(|(order, _)| *order)
            .collect();
        left.into_iter().for_each(|order| drop(self.leave(order)));
        again
    }

    /// What is on the way.
    pub fn load(&self) -> Load {
        self.load
    }

    /// What of it is of that sender (bare JID, or a domain).
    pub fn load_of(&self, sender: &str) -> Load {
        self.senders.get(sender).copied().unwrap_or_default()
    }

    /// How many stanzas are on the way.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EU: NodeIx = NodeIx(0);
    const US: NodeIx = NodeIx(1);

    fn pair(from: &str, domain: &str) -> Pair {
        Pair { from: from.into(), domain: domain.into() }
    }

    #[test]
    fn a_pair_stays_while_something_of_it_is_on_the_way() {
        let mut gateways = Gateways::default();
        gateways.up(EU);
        gateways.up(US);
        let romeo = || pair("romeo@a.example", "b.example");
        assert_eq!(gateways.send(romeo(), 1, 100, Some(EU)), Way::There(EU));
        assert_eq!(gateways.send(romeo(), 2, 100, Some(US)), Way::There(EU));
        assert_eq!(gateways.send(pair("romeo@a.example", "c.example"), 3, 100, None), Way::Here);
        gateways.over(1);
        assert_eq!(gateways.send(romeo(), 4, 100, Some(US)), Way::There(EU));
        gateways.over(2);
        gateways.over(4);
        gateways.over(4);
        assert_eq!(gateways.send(romeo(), 5, 100, Some(US)), Way::There(US));
        gateways.over(5);
        gateways.over(3);
        assert!(gateways.is_empty() && gateways.pairs.is_empty() && gateways.waiting.is_empty());
    }

    #[test]
    fn what_has_no_road_waits_and_nothing_overtakes_it() {
        let mut gateways = Gateways::default();
        let romeo = || pair("romeo@a.example", "b.example");
        assert_eq!(gateways.send(romeo(), 1, 100, Some(EU)), Way::Later(EU));
        assert_eq!(gateways.next(EU), None, "its link is not up");
        gateways.up(EU);
        assert_eq!(gateways.send(romeo(), 2, 100, Some(EU)), Way::Later(EU), "1 is not there yet");
        assert_eq!(gateways.next(EU), Some(1));
        gateways.refused(EU, 1);
        assert_eq!(
            (gateways.next(EU), gateways.next(EU), gateways.next(EU)),
            (Some(1), Some(2), None)
        );
        assert_eq!(gateways.send(romeo(), 3, 100, Some(EU)), Way::There(EU));
        gateways.refused(EU, 3);
        gateways.over(3);
        assert!(gateways.waited_for().is_empty());
    }

    #[test]
    fn what_only_some_may_send_waits_for_them_while_they_leave() {
        let mut gateways = Gateways::default();
        gateways.up(US);
        let bob = || pair("bob@us.a.example", "b.example");
        assert_eq!(gateways.send(bob(), 1, 100, Some(US)), Way::There(US));
        assert!(!gateways.came_back(Some(US), 2), "it has never been there");
        assert!(gateways.takes(US));
        assert!(gateways.came_back(Some(US), 1));
        assert!(!gateways.takes(US));
        assert_eq!(gateways.ready(), [1]);
        assert_eq!(gateways.wait(bob(), 1, 100, US), Way::Later(US));
        assert_eq!(gateways.wait(bob(), 2, 100, US), Way::Later(US));
        assert_eq!(gateways.waiting().collect::<Vec<_>>(), [1, 2]);
        // Its next life.
        gateways.gone(US);
        for order in [1, 2] {
            assert_eq!(gateways.wait(bob(), order, 100, US), Way::Later(US));
        }
        gateways.up(US);
        assert_eq!((gateways.next(US), gateways.next(US)), (Some(1), Some(2)));
        assert_eq!(gateways.wait(bob(), 3, 100, US), Way::There(US));
    }

    #[test]
    fn what_was_with_a_dead_gateway_goes_through_another_before_anything_newer() {
        let mut gateways = Gateways::default();
        gateways.up(EU);
        let romeo = || pair("romeo@a.example", "b.example");
        assert_eq!(gateways.send(romeo(), 1, 100, Some(EU)), Way::There(EU));
        gateways.down(EU);
        assert_eq!(gateways.send(romeo(), 2, 100, Some(EU)), Way::Later(EU));
        assert!(gateways.gone(EU).is_empty() && gateways.is_empty());
        let again: Vec<_> = [1, 2].map(|order| gateways.send(romeo(), order, 100, None)).into();
        assert_eq!(again, [Way::Here, Way::Here]);
        gateways.held(pair("nurse@a.example", "b.example"), 9, 100, US);
        assert_eq!(
            gateways.send(pair("nurse@a.example", "b.example"), 10, 100, None),
            Way::Later(US)
        );
    }

    #[test]
    fn what_a_leaving_gateway_gives_back_goes_elsewhere_when_the_rest_is_over() {
        let mut gateways = Gateways::default();
        gateways.up(EU);
        let romeo = || pair("romeo@a.example", "b.example");
        for order in 1..=3 {
            assert_eq!(gateways.send(romeo(), order, 100, Some(EU)), Way::There(EU));
        }
        assert!(gateways.came_back(Some(EU), 2));
        assert!(!gateways.takes(EU) && gateways.ready().is_empty(), "1 and 3 are with it");
        assert_eq!(gateways.send(romeo(), 4, 100, Some(US)), Way::Behind);
        assert!(gateways.came_back(Some(EU), 3));
        assert!(gateways.ready().is_empty(), "1 is with it");
        gateways.over(1);
        assert_eq!(gateways.ready(), [2, 3, 4]);
        assert!(gateways.is_empty());
        assert_eq!(gateways.send(romeo(), 2, 100, Some(US)), Way::Later(US));
        // Or it dies first: then what it gave back is not in what the ledger knows to be with it.
        let nurse = || pair("nurse@a.example", "b.example");
        for order in 5..=6 {
            gateways.send(nurse(), order, 100, Some(EU));
        }
        assert!(gateways.came_back(Some(EU), 5));
        gateways.send(nurse(), 7, 100, Some(EU));
        assert_eq!(gateways.gone(EU), BTreeSet::from([5, 7]));
        assert!(!gateways.takes(EU), "until its link is up");
        gateways.up(EU);
        assert!(gateways.takes(EU) && gateways.ready().is_empty());
        assert_eq!(gateways.len(), 1);
    }

    #[test]
    fn what_a_former_life_left_goes_first_when_all_have_spoken() {
        let mut gateways = Gateways::default();
        gateways.up(EU);
        gateways.up(US);
        let romeo = || pair("romeo@a.example", "b.example");
        for order in 1..=4 {
            gateways.former(romeo(), order, 100);
        }
        assert_eq!(gateways.send(romeo(), 9, 100, Some(US)), Way::Behind, "nobody has spoken");
        gateways.held(romeo(), 1, 100, EU);
        gateways.held(romeo(), 1, 100, EU);
        assert_eq!(gateways.send(romeo(), 10, 100, Some(US)), Way::Behind);
        gateways.over(4); // A third had kept it.
        assert!(gateways.ready().is_empty());
        // Nobody has the others; but the first is with EU.
        assert_eq!(gateways.send(romeo(), 2, 100, Some(US)), Way::Behind);
        assert_eq!(gateways.send(romeo(), 3, 100, Some(US)), Way::Behind);
        assert!(gateways.ready().is_empty());
        gateways.over(1);
        assert_eq!(gateways.ready(), [2, 3, 9, 10]);
        assert!(gateways.is_empty() && gateways.pairs.is_empty() && gateways.senders.is_empty());
        assert_eq!(gateways.send(romeo(), 2, 100, Some(US)), Way::There(US));
    }

    #[test]
    fn who_has_some_of_a_former_life_may_die_before_all_have_spoken() {
        let mut gateways = Gateways::default();
        gateways.up(EU);
        let romeo = || pair("romeo@a.example", "b.example");
        gateways.former(romeo(), 1, 100);
        gateways.former(romeo(), 2, 100);
        gateways.held(romeo(), 1, 100, EU);
        assert!(gateways.gone(EU).is_empty(), "2 may be with somebody else");
        assert_eq!(gateways.send(romeo(), 1, 100, Some(US)), Way::Behind, "as the ledger says");
        assert!(gateways.ready().is_empty());
        assert_eq!(gateways.send(romeo(), 2, 100, Some(US)), Way::Behind);
        assert_eq!(gateways.ready(), [1, 2]);
        assert!(gateways.is_empty() && gateways.pairs.is_empty());
        // One who says so late, of what is on its way elsewhere: nothing is counted twice.
        gateways.up(US);
        assert_eq!(gateways.send(romeo(), 3, 100, Some(US)), Way::There(US));
        gateways.held(romeo(), 3, 100, EU);
        gateways.over(3);
        assert!(gateways.pairs.is_empty());
    }

    #[test]
    fn what_one_sender_has_on_the_way_is_known() {
        let mut gateways = Gateways::default();
        gateways.send(pair("romeo@a.example", "b.example"), 1, 100, None);
        gateways.send(pair("romeo@a.example", "c.example"), 2, 50, Some(EU));
        gateways.send(pair("nurse@a.example", "c.example"), 3, 7, Some(EU));
        let romeo = gateways.load_of("romeo@a.example");
        assert_eq!(romeo, Load { stanzas: 2, bytes: 150 });
        assert_eq!(gateways.load(), Load { stanzas: 3, bytes: 157 });
        assert!(romeo.has_room(50, Load { stanzas: 3, bytes: 200 }));
        assert!(!romeo.has_room(51, Load { stanzas: 3, bytes: 200 }));
        assert!(!romeo.has_room(1, Load { stanzas: 2, bytes: 200 }));
        assert!(Load::default().has_room(9, Load { stanzas: 1, bytes: 8 }));
        gateways.over(1);
        gateways.gone(EU);
        assert_eq!((gateways.load(), gateways.load_of("nurse@a.example")), Default::default());
        assert!(gateways.senders.is_empty());
    }
}
