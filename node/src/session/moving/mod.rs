//! Room: a session moves from the node that has it to another one of the platform: because its client came back there (XEP-0198 §5), or because
//! its node is emptied. `give` is the side it comes from, `take` the side it goes to, `protocol` who owns it meanwhile, `capsule` what goes
//! over the link. Called by `session::sm`, by the drain, and by `geo` for what arrives. Decision 0013.
//!
//! The row changes hands as when a resource is bound anew elsewhere: the taker binds it under a newer generation, every table replaces the
//! older one, and no contact sees it go. What was sent to the former place, and is not in the capsule, comes back from there and finds its way anew,
//! ahead of what is newer; that is how the session table keeps order for everybody who moves.

mod capsule;
mod give;
mod protocol;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use config::canary::{Canary, sings};
use global_distrib::{Mark, NodeIx, Row};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use xmpp::jid::FullJid;
use xmpp::stanza::{Stanza, Type};

use self::capsule::Call;
pub(super) use self::capsule::Why;
pub use self::capsule::Word;
pub use self::give::{push, sleep_on as sleep};
use self::protocol::Answer;
pub(super) use self::take::{fetch, places};
use crate::app::Node;
use crate::geo::abroad::Show;
use crate::geo::presence::Presence;
use crate::geo::{Peer, frame};
use crate::router::{self, Holder};
use crate::session::Seat;

/// What is on the move, to and from this node.
#[derive(Debug, Default)]
pub struct Moving {
    next: AtomicU64,
    /// Asked of other nodes by this one.
    asked: Mutex<BTreeMap<u64, Asked>>,
    /// Capsules that arrive and nobody here has asked for.
    pushed: Mutex<BTreeMap<(NodeIx, u64), Vec<u8>>>,
    /// Capsules of this node's that wait for an answer.
    offered: Mutex<BTreeMap<(NodeIx, Call), Offer>>,
    /// Sessions that have moved, until everybody knows: presence may still come here that passed by where they are.
    forwards: Mutex<Vec<Forward>>,
    forwards_count: AtomicUsize,
    /// Messages of our ledger, by the node that does not have them though it is all we know of where they are. At most what the ledger has.
    doubts: Mutex<BTreeMap<NodeIx, Doubt>>,
    doubts_count: AtomicUsize,
}

#[derive(Debug)]
struct Doubt {
    orders: BTreeSet<u64>,
    /// Whoever took one has said so before it was given up there: when this is echoed, nobody has.
    mark: Mark,
}

#[derive(Debug)]
struct Offer {
    answer: oneshot::Sender<Answer>,
    /// Messages of our own ledger that are in it.
    ours: Vec<u64>,
}

#[derive(Debug)]
struct Asked {
    of: NodeIx,
    arrived: Vec<u8>,
    answer: oneshot::Sender<Given>,
}

#[derive(Debug)]
enum Given {
    Capsule(Vec<u8>),
    Refused(Why),
    /// The other node's life is over.
    Over,
    /// It cannot be reached now.
    Silent,
}

#[derive(Debug)]
struct Forward {
    full: FullJid,
    to: NodeIx,
    /// When it is echoed, what others send goes to where the session is.
    mark: Mark,
}

/// Bytes of a capsule that are taken: a session may have as much waiting as its mailbox and its queue hold, and more if the other node's bounds
/// are wider.
const CAPSULE_BYTES_MAX: usize = 64 << 20;

impl Moving {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// That node lives another life, or counts as dead: what was agreed on with it is void.
    pub fn node_gone(&self, node: NodeIx) {
        self.give_up(node, || Given::Over);
        self.pushed.lock().retain(|(from, _), _| *from != node);
        let offered: Vec<_> = {
            let mut all = self.offered.lock();
            let gone: Vec<_> = all.keys().filter(|(to, _)| *to == node).copied().collect();
            gone.into_iter().filter_map(|key| all.remove(&key)).collect()
        };
        for one in offered {
            let _ = one.answer.send(Answer::Over);
        }
        // All it had comes back by that; what is sent to its next life is another matter.
        let mut doubts = self.doubts.lock();
        doubts.remove(&node);
        self.doubts_count.store(doubts.len(), Ordering::Release);
        drop(doubts);
        let mut forwards = self.forwards.lock();
        forwards.retain(|forward| forward.to != node);
        self.forwards_count.store(forwards.len(), Ordering::Release);
    }

    /// There is no line to that node now: who waits for a session of its does not wait any longer. If it comes after all it is declined.
    pub fn node_silent(&self, node: NodeIx) {
        self.give_up(node, || Given::Silent);
    }

    fn give_up(&self, node: NodeIx, word: impl Fn() -> Given) {
        let asked: Vec<Asked> = {
            let mut all = self.asked.lock();
            let gone: Vec<u64> =
                all.iter().filter(|(_, one)| one.of == node).map(|(call, _)| *call).collect();
            gone.into_iter().filter_map(|call| all.remove(&call)).collect()
        };
        for one in asked {
            let _ = one.answer.send(word()); // Nobody may wait for it any more.
        }
    }

    /// Forgets the forwards of which everybody knows, and routes anew what nobody has. Once a second.
    pub fn tick(&self, node: &Arc<Node>) {
        for (at, orders) in self.certain(|mark| node.geo.closed(mark)) {
            router::nowhere(node, at, &orders);
        }
        if self.forwards_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut forwards = self.forwards.lock();
        forwards.retain(|forward| !node.geo.closed(&forward.mark));
        self.forwards_count.store(forwards.len(), Ordering::Release);
    }

    fn doubt(&self, at: NodeIx, orders: Vec<u64>, mark: Mark) {
        let mut all = self.doubts.lock();
        let doubt = all
            .entry(at)
            .or_insert_with(|| Doubt { orders: BTreeSet::new(), mark: Mark::default() });
        doubt.orders.extend(orders);
        doubt.mark = mark;
        self.doubts_count.store(all.len(), Ordering::Release);
    }

    /// Somebody has it after all; should it come back there later, that is another matter.
    fn is_known(&self, at: NodeIx, order: u64) {
        if self.doubts_count.load(Ordering::Acquire) > 0
            && let Some(doubt) = self.doubts.lock().get_mut(&at)
        {
            doubt.orders.remove(&order);
        }
    }

    /// What is certain by now: the node, and what neither it nor anybody else has.
    fn certain(&self, is_closed: impl Fn(&Mark) -> bool) -> Vec<(NodeIx, BTreeSet<u64>)> {
        if self.doubts_count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut all = self.doubts.lock();
        let certain = all.extract_if(.., |_, doubt| is_closed(&doubt.mark));
        let certain = certain.map(|(at, doubt)| (at, doubt.orders)).collect();
        self.doubts_count.store(all.len(), Ordering::Release);
        certain
    }

    /// Capsules of this node's that wait for an answer.
    #[cfg(test)]
    fn offers(&self) -> usize {
        self.offered.lock().len()
    }

    fn forward(&self, full: &FullJid, to: NodeIx, mark: Mark) {
        let mut forwards = self.forwards.lock();
        forwards.retain(|known| known.full != *full);
        forwards.push(Forward { full: full.clone(), to, mark });
        self.forwards_count.store(forwards.len(), Ordering::Release);
    }

    /// It has come here: what is said to it here follows it nowhere, also when it is over.
    fn is_here(&self, full: &FullJid) {
        let mut forwards = self.forwards.lock();
        forwards.retain(|known| known.full != *full);
        self.forwards_count.store(forwards.len(), Ordering::Release);
    }

    /// Where that session has moved to a moment ago.
    fn moved_to(&self, full: &FullJid) -> Option<NodeIx> {
        let mut all = self.moved(full.bare_str()).into_iter();
        all.find(|(moved, _)| moved == full).map(|(_, to)| to)
    }

    /// Where it is, if not here: by its row, for it may have moved on, here and from there, long before somebody says what he has for it. Not back to
    /// him: rows may be of two times.
    fn gone_on(&self, node: &Node, full: &FullJid, asked_by: NodeIx) -> Option<NodeIx> {
        let there = |rows: &[Row<Arc<Seat>>]| {
            rows.iter().find(|row| row.full == *full).map(|row| (row.here().is_some(), row.there()))
        };
        match node.directory.read(full.bare_str(), there).flatten() {
            Some((true, _)) => None,
            Some((false, there)) => there.filter(|there| *there != asked_by),
            None => self.moved_to(full),
        }
    }

    /// Where sessions of that account have moved to a moment ago. One load when nobody's has.
    fn moved(&self, account: &str) -> Vec<(FullJid, NodeIx)> {
        if self.forwards_count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let forwards = self.forwards.lock();
        let of = forwards.iter().filter(|forward| forward.full.bare_str() == account);
        of.map(|forward| (forward.full.clone(), forward.to)).collect()
    }
}

/// A resumption id: by chance, so that nobody guesses it, and with the node and the life that gave it, which know longest what was handled.
pub(super) fn new_id(node: &Node) -> String {
    format!("{}.{}.{:x}", node.token(), node.geo.me, node.incarnation)
}

/// The node and the life that gave an id; `None`: it is none of ours.
fn born(id: &str) -> Option<(&str, u64)> {
    let (rest, incarnation) = id.rsplit_once('.')?;
    let (_, node) = rest.split_once('.')?;
    Some((node, u64::from_str_radix(incarnation, 16).ok()?))
}

fn say(node: &Node, to: NodeIx, word: &Word) -> bool {
    node.geo.send_value(to, frame::MOVE, word).is_some()
}

/// A word of another node.
pub fn heard(node: &Arc<Node>, peer: &Arc<Peer>, word: Word) {
    match word {
        Word::Ask { call, account, id, h } => {
            let (node, to) = (node.clone(), peer.ix);
            tokio::spawn(async move { give::asked(&node, to, call, &account, &id, h).await });
        }
        Word::Refused { call, why } => {
            if let Some(asked) = node.moving.asked.lock().remove(&call) {
                let _ = asked.answer.send(Given::Refused(why));
            }
        }
        Word::Part { call, last, bytes } => take::part(node, peer, call, last, bytes),
        Word::Took { call } => answered(node, peer.ix, call, Answer::Took),
        Word::Declined { call } => answered(node, peer.ix, call, Answer::Declined),
        Word::Holds { from, orders } => {
            let Some(from) = node.geo.nodes.index(&from) else { return };
            for (order, leaves) in orders {
                node.moving.is_known(from, order);
                node.ledger.moves(order, Holder::There(from), Holder::There(peer.ix), leaves);
                if let Some(of) = node.recovery.addressee(node, order) {
                    node.recovery.has_no_more(node, from, order, &of);
                }
            }
        }
        Word::Has { orders } => {
            let is_gone = |order: &u64| {
                let held = &node.geo.held;
                !held.has(peer.ix, *order) && !held.was_kept(peer.ix, *order)
            };
            let orders: Vec<u64> = orders.into_iter().filter(is_gone).collect();
            if !orders.is_empty() {
                say(node, peer.ix, &Word::HasNot { orders });
            }
        }
        Word::HasNot { orders } => {
            node.moving.doubt(peer.ix, orders, node.geo.mark());
            node.geo.send_due_probes();
        }
        Word::Late { to, stanza } => {
            if let Some(next) = node.moving.gone_on(node, &to, peer.ix) {
                say(node, next, &Word::Late { to, stanza });
            } else if let Ok(stanza) = Stanza::parse(stanza.into()) {
                take::late(node, &to, stanza);
            }
        }
        Word::AskPresence { to, of } => match node.moving.gone_on(node, &to, peer.ix) {
            Some(next) => {
                say(node, next, &Word::AskPresence { to, of });
            }
            None => node.geo.probe_presence(node, &to, vec![of]),
        },
    }
}

/// A node is gone. Sessions that have messages of ours may have moved there from others, and its word of that is lost: the others are asked what they
/// still have.
pub fn ask_holders(node: &Node) {
    for peer in node.geo.all_peers() {
        let orders = node.ledger.with(peer.ix);
        for orders in orders.chunks(frame::ORDERS_MAX) {
            if !say(node, peer.ix, &Word::Has { orders: orders.to_vec() }) {
                tracing::warn!(peer = %peer.id, "no room to ask what it has of ours");
            }
        }
    }
}

fn answered(node: &Node, by: NodeIx, call: Call, answer: Answer) {
    let Some(Offer { answer: told, ours }) = node.moving.offered.lock().remove(&(by, call)) else {
        return;
    };
    if answer == Answer::Took && !sings(Canary::GiverKeeps) {
        // Before anything else that node says: it may have given one back already, and whoever waits for this word is another task.
        for order in ours {
            node.ledger.moves(order, Holder::Here, Holder::There(by), true);
        }
    }
    let _ = told.send(answer);
}

/// Presence has come from another node for an account. A session of it that was here until a moment ago may have been passed by: it hears of an end,
/// and asks for anything else.
pub fn presence_came(node: &Node, account: &str, presence: &Presence) {
    for (full, to) in node.moving.moved(account) {
        follow(node, full, to, presence);
    }
}

/// The same, of presence for one session that is not here: an answer to its question of a moment ago, or what was sent after it already.
pub fn presence_missed(node: &Node, full: &FullJid, presence: &Presence) {
    if let Some(to) = presence.node.and_then(|by| node.moving.gone_on(node, full, by)) {
        follow(node, full.clone(), to, presence);
    }
}

fn follow(node: &Node, full: FullJid, to: NodeIx, presence: &Presence) {
    let Some(from) = presence.stanza.from() else { return };
    if presence.stanza.type_() == Type::Unavailable {
        node.geo.send_with(to, frame::PRESENCE, |out| {
            let stanza = presence.stanza.bytes();
            frame::write_presence(out, presence.generation, &full, stanza);
        });
    } else {
        say(node, to, &Word::AskPresence { to: full, of: from.bare() });
    }
}

/// An account is to show itself to somebody abroad: a session of it that was here until a moment ago, too.
pub fn show_came(node: &Node, show: &Show) {
    for (full, to) in node.moving.moved(show.account.as_str()) {
        if show.resource.as_deref().is_none_or(|resource| resource == full.resource()) {
            let show = Show { resource: Some(full.resource().to_owned()), ..show.clone() };
            node.geo.send_value(to, frame::SHOW, &show);
        }
    }
}

/// A carbon has come for an account: for a session that was here until a moment ago, too.
pub fn carbon_came(node: &Node, copy: &frame::CarbonCopy) {
    for (full, to) in node.moving.moved(copy.account.as_str()) {
        if copy.only.is_none() && copy.except.as_ref() != Some(&full) {
            let copy = frame::CarbonCopy { only: Some(full), ..copy.clone() };
            node.geo.send_value(to, frame::CARBON, &copy);
        }
    }
}
