//! Room: this deployment among other people's domains. Which node speaks for whom is decided here (`global_distrib::gateway`, decision 0016); the
//! streams themselves are `s2s::federation`. The node where a stanza enters has it in its ledger until the gateway says that it is kept.
//!
//! Called by the router (what leaves), by `geo` (what other nodes bring, and what becomes of them) and by the streams.
//! * `inbound` what the streams bring · `streams` the streams, started, with the node around them

pub mod inbound;
pub mod streams;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod users_tests;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use config::canary::{Canary, sings};
use futures_util::future::BoxFuture;
use global_distrib::NodeIx;
use global_distrib::gateway::{Gateways, Load, Pair, Way};
use global_distrib::rendezvous::chosen;
use parking_lot::{Mutex, MutexGuard};
use s2s::federation::Ticket;
use tokio::time::Instant;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza};

use crate::app::Node;
use crate::geo::Peer;
use crate::geo::frame::{self, StanzaHead};
use crate::router::ledger::Due;
use crate::router::{self, Holder, LetGo, Routed};
use crate::session::Receipt;

/// Stanzas of this node on their way to other domains, all together, and the share they may have of the ledger's bytes (`limits.unsettled_bytes_max`), which
/// they share with everybody else's. Beyond: `resource-constraint`.
const OPEN_MAX: usize = 64 * 1024;
const LEDGER_SHARE: usize = 4;
/// The share of both that one sender may have, so that nobody takes the way from others. Beyond: the same.
const SENDER_SHARE: usize = 16;

/// The streams to other domains, as the gateway sees them.
pub trait Streams: Send + Sync {
    /// Queues a stanza for the domain in its `to`; what becomes of it is said later, by its ticket.
    ///
    /// # Errors
    /// It is not queued, and its sender is to hear the error.
    fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)>;

    /// How long a stanza may wait for a way to its domain.
    fn patience(&self) -> Duration;

    /// Ends them: what can be delivered before the deadline is. What is left.
    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, Vec<(Ticket, Stanza)>>;
}

/// See the room. Memory: that of [`Gateways`].
#[derive(Default)]
pub struct Federation {
    gateways: Mutex<Gateways>,
    /// How many are on their way: what is asked for every message of everybody costs no lock while none is.
    open: AtomicUsize,
    streams: OnceLock<Arc<dyn Streams>>,
    /// The same, as they are in a server that runs.
    pub handle: streams::Handle,
    /// This node is about to stop: what it is given for other domains goes back.
    is_leaving: AtomicBool,
    /// What has come and waits.
    pub inbound: inbound::Inbound,
}

impl Federation {
    /// The streams, once, at start. Without them every other domain is one that cannot be found.
    pub fn set_streams(&self, streams: Arc<dyn Streams>) {
        assert!(self.streams.set(streams).is_ok(), "streams are set once");
    }

    /// Stanzas of this node on their way to other domains.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// One that was for another domain has come to an end, and is out of the ledger.
    pub fn over(&self, order: u64) {
        self.lock().over(order);
    }

    /// The link to a node is cut: what is to go there waits.
    pub fn peer_down(&self, node: NodeIx) {
        self.lock().down(node);
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    fn lock(&self) -> Gate<'_> {
        Gate { gateways: self.gateways.lock(), open: &self.open }
    }
}

/// The gateways, locked; the count is right again when it goes.
struct Gate<'a> {
    gateways: MutexGuard<'a, Gateways>,
    open: &'a AtomicUsize,
}

impl Gate<'_> {
    /// Before anybody else has what was entered, and may say what became of it.
    fn count(&self) {
        self.open.store(self.gateways.load().stanzas, Ordering::Release);
    }
}

impl std::ops::Deref for Gate<'_> {
    type Target = Gateways;

    fn deref(&self) -> &Gateways {
        &self.gateways
    }
}

impl std::ops::DerefMut for Gate<'_> {
    fn deref_mut(&mut self) -> &mut Gateways {
        &mut self.gateways
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

/// What did not leave: its sender is to hear it when no lock is held.
type Refused = Option<(Ticket, Stanza, StanzaError)>;

/// A stanza of ours for another domain. `receipt`: its sender waits to hear that it is handled.
pub fn send(node: &Arc<Node>, stanza: Stanza, receipt: Option<Receipt>) {
    if node.federation.streams.get().is_none() {
        return router::bounce(node, &stanza, &StanzaError::remote_server_not_found());
    }
    let Some(pair) = pair_of(&stanza) else {
        // Of nobody, so there is nobody to tell: only the server itself could have made it.
        return tracing::error!(to = ?stanza.to(), "a stanza of nobody is for another domain");
    };
    let due = match receipt {
        Some(receipt) => Due::Client(receipt),
        None => Due::Passing,
    };
    let mut gate = node.federation.lock();
    let order = node.ledger.next_order();
    let entered = match has_room(node, &gate, &pair.from, stanza.bytes().len()) {
        true => node.ledger.enter(order, &stanza, due, node.now_ms(), node.wall_ms()),
        false => Err(due),
    };
    if let Err(_due) = entered {
        drop(gate);
        // With the receipt behind the error.
        return router::bounce(node, &stanza, &StanzaError::resource_constraint());
    }
    let refused = forward(node, &mut gate, order, stanza);
    drop(gate);
    refuse(node, refused);
    if node.federation.is_leaving() {
        send_ready(node); // Nobody else does any more.
    }
}

/// Whether that sender may have one more of so many bytes on its way.
fn has_room(node: &Node, gate: &Gate<'_>, sender: &str, bytes: usize) -> bool {
    let ledger_bytes = node.config.limits.unsettled_bytes_max;
    let most = Load { stanzas: OPEN_MAX, bytes: ledger_bytes / LEDGER_SHARE };
    let share = Load { stanzas: OPEN_MAX / SENDER_SHARE, bytes: most.bytes / SENDER_SHARE };
    gate.load().has_room(bytes, most) && gate.load_of(sender).has_room(bytes, share)
}

/// One that is in the ledger already goes on its way again: its gateway has died, or this node has lived another life.
pub fn send_again(node: &Arc<Node>, routed: Routed) {
    if node.federation.streams.get().is_none() {
        router::bounce(node, &routed.stanza, &StanzaError::remote_server_not_found());
        return router::kept_here(node, routed.order);
    }
    if !routed.tracked {
        return send(node, routed.stanza, None);
    }
    let refused = forward(node, &mut node.federation.lock(), routed.order, routed.stanza);
    refuse(node, refused);
    send_ready(node);
}

/// Towards its gateway. Under the lock: so what leaves first is first.
fn forward(node: &Node, gate: &mut Gate<'_>, order: u64, stanza: Stanza) -> Refused {
    let mut pair = pair_of(&stanza)?;
    if sings(Canary::PairWanders) {
        pair.from = order.to_string(); // None is ever known.
    }
    let bytes = stanza.bytes().len();
    let wanted = gateway(node, gate, &stanza);
    let way = match wanted.is_none().then(|| absent(node, &stanza)).flatten() {
        Some(at) => gate.wait(pair, order, bytes, at),
        None => gate.send(pair, order, bytes, wanted),
    };
    gate.count();
    match way {
        Way::Here => {
            node.ledger.hand(order, 1, &[]);
            let ticket = Ticket { via: None, order };
            let refused = hand_over(node, ticket, stanza);
            if refused.is_some() && node.federation.is_leaving() {
                let _ = gate.came_back(None, order);
                return None;
            }
            refused
        }
        Way::There(at) => {
            node.ledger.hand(order, 0, &[at]);
            if !write(node, at, order, &stanza) {
                gate.refused(at, order);
            }
            None
        }
        Way::Later(at) => {
            node.ledger.hand(order, 0, &[at]);
            None
        }
        Way::Behind => None,
    }
}

fn pair_of(stanza: &Stanza) -> Option<Pair> {
    let (from, to) = (stanza.from()?, stanza.to()?);
    Some(Pair { from: from.bare_str().to_owned(), domain: to.domain().to_owned() })
}

/// The node that speaks to that domain for that sender: one of the sender's home region that lives, also while it cannot be reached from here, for what a session
/// says next may enter at a node that reaches it. `None`: this one does. One that is about to stop, and is the last of its region, asks another region's.
fn gateway(node: &Node, gate: &Gateways, stanza: &Stanza) -> Option<NodeIx> {
    let (from, to) = (stanza.from()?, stanza.to()?);
    let state = node.metadata.state();
    let home = state.home_of(from.bare_str())?;
    let is_leaving = node.federation.is_leaving();
    let me = node.geo.me.to_string();
    let stays = |name: &str| match name == me {
        true => !is_leaving,
        false => !node.geo.nodes.index(name).is_some_and(|ix| gate.is_leaving(ix)),
    };
    let live = || state.nodes.iter().filter(|(name, _)| state.is_live(name) && stays(name));
    let of_region = live().filter(|(_, of)| of.region == home.region);
    let mut gateway = chosen(to.domain(), of_region.map(|(name, _)| name.as_str()));
    // Nobody else speaks for a region's own domain.
    if gateway.is_none() && is_leaving && !node.domains.is_regional(from.domain()) {
        let takes = |name: &str| node.geo.nodes.index(name).is_some_and(|ix| gate.takes(ix));
        let reached = live().filter(|(name, _)| takes(name));
        gateway = chosen(to.domain(), reached.map(|(name, _)| name.as_str()));
    }
    node.geo.peer_named(gateway?).map(|peer| peer.ix)
}

/// The gateway of a sender on another region's own domain while no node of that region takes anything: the first of them, to be waited for.
fn absent(node: &Node, stanza: &Stanza) -> Option<NodeIx> {
    let (from, to) = (stanza.from()?, stanza.to()?);
    if !node.domains.elsewhere.contains(from.domain()) {
        return None;
    }
    let state = node.metadata.state();
    let region = state.region_of(from.domain())?;
    let all = || state.nodes.iter().filter(|(_, of)| of.region == region);
    let live = all().filter(|(name, _)| state.is_live(name)).map(|(name, _)| name.as_str());
    let gateway = chosen(to.domain(), live)
        .or_else(|| chosen(to.domain(), all().map(|(name, _)| name.as_str())));
    node.geo.nodes.index(gateway?)
}

/// Whether somebody who can be reached speaks to other domains for accounts of this one.
pub fn has_gateway(node: &Node, domain: &str) -> bool {
    if !node.domains.elsewhere.contains(domain) {
        return true; // This node does, if nobody else.
    }
    let state = node.metadata.state();
    let Some(region) = state.region_of(domain) else { return true };
    let gate = node.federation.lock();
    let takes = |name: &str| node.geo.nodes.index(name).is_some_and(|ix| gate.takes(ix));
    let mut nodes = state.nodes.iter();
    nodes.any(|(name, of)| of.region == region && state.is_live(name) && takes(name))
}

fn write(node: &Node, to: NodeIx, order: u64, stanza: &Stanza) -> bool {
    let write = |out: &mut Vec<u8>| frame::write_abroad(out, order, stanza.bytes());
    node.geo.send_with(to, frame::ABROAD, write).is_some()
}

/// To the streams. What is refused while this node is leaving has no error to fear: it goes elsewhere.
fn hand_over(node: &Node, ticket: Ticket, stanza: Stanza) -> Refused {
    if node.federation.is_leaving() {
        return Some((ticket, stanza, StanzaError::remote_server_timeout()));
    }
    let Some(streams) = node.federation.streams.get() else {
        return Some((ticket, stanza, StanzaError::remote_server_not_found()));
    };
    let refused = streams.send(ticket, stanza).err();
    refused.map(|(stanza, error)| (ticket, stanza, error))
}

fn refuse(node: &Arc<Node>, refused: Refused) {
    if let Some((ticket, stanza, error)) = refused {
        failed(node, ticket, &stanza, &error);
    }
}

/// This node is about to stop: its streams end. What has not left, or of which nobody has said that it arrived, goes back to the nodes it is of, and our own
/// to another gateway; what finds none stays in the ledger, and so comes into the outbox.
pub async fn stop(node: &Arc<Node>, deadline: Instant) {
    let Some(streams) = node.federation.streams.get() else { return };
    node.federation.is_leaving.store(true, Ordering::Release);
    for (ticket, stanza) in streams.shutdown(deadline).await {
        match ticket.via {
            Some(via) => give_back(node, NodeIx(via), ticket.order, &stanza),
            None => drop(node.federation.lock().came_back(None, ticket.order)),
        }
    }
    send_ready(node);
}

fn give_back(node: &Node, via: NodeIx, order: u64, stanza: &Stanza) {
    node.geo.held.let_go(via, order);
    let head = StanzaHead { tracked: true, order, ..StanzaHead::default() };
    if !node.geo.give_back(via, head, stanza) {
        tracing::warn!(
            "no room to give back what is for another domain: it is sent again when this node is gone"
        );
    }
}

/// A gateway has given one back: it is about to stop.
pub fn came_back(node: &Arc<Node>, from: NodeIx, order: u64, stanza: Stanza) {
    if node.recovery.waits(order) {
        return; // It goes on its way when all have spoken.
    }
    match node.ledger.let_go(order, Holder::There(from)) {
        LetGo::Last => {
            if node.federation.lock().came_back(Some(from), order) {
                return send_ready(node);
            }
            // It had been on its way to a component, which is none any more.
            if let Some((accepted_ms, stanza)) = node.ledger.look(order) {
                let stanza = router::late(node, stanza, accepted_ms);
                send_again(node, Routed { stanza, tries: 0, order, tracked: true });
            }
        }
        // Of a former life that had promised nothing: a message is sent all the same, anything else meant that life.
        LetGo::Unknown
            if !node.ledger.is_of_this_life(order)
                && !node.recovery.knew(order)
                && stanza.kind() == Kind::Message =>
        {
            send(node, stanza, None);
        }
        LetGo::NotLast | LetGo::Unknown => {}
    }
}

/// What leaving gateways have given back goes to others, as soon as nothing of its pair is with them.
fn send_ready(node: &Arc<Node>) {
    let refused: Vec<Refused> = {
        let mut gate = node.federation.lock();
        let ready = gate.ready();
        ready.into_iter().map(|order| again(node, &mut gate, order)).collect()
    };
    refused.into_iter().for_each(|refused| refuse(node, refused));
}

/// One of the ledger, through whoever is its gateway now.
fn again(node: &Node, gate: &mut Gate<'_>, order: u64) -> Refused {
    let (accepted_ms, stanza) = node.ledger.look(order)?;
    forward(node, gate, order, router::late(node, stanza, accepted_ms))
}

/// Its sender hears the error, and that is the end of it. The node where it entered answers for it until then: this one may die with the error.
pub fn failed(node: &Arc<Node>, ticket: Ticket, stanza: &Stanza, error: &StanzaError) {
    let is_told = ticket
        .via
        .filter(|_| stanza.kind() == Kind::Message)
        .is_some_and(|via| router::bounce_for(node, NodeIx(via), ticket.order, stanza, error));
    if !is_told {
        router::bounce(node, stanza, error);
        delivered(node, &[ticket]);
    }
}

/// The other domain has these: whoever waits to hear of them is told.
pub fn delivered(node: &Arc<Node>, tickets: &[Ticket]) {
    router::kept_of(node, tickets.iter().map(|ticket| (ticket.via.map(NodeIx), ticket.order)));
}

/// Another node's, for a domain that we speak to.
pub fn arrived(node: &Arc<Node>, peer: &Peer, body: Bytes) {
    let Some((order, bytes)) = frame::read_abroad(body) else { return };
    let Ok(stanza) = Stanza::parse(bytes) else {
        tracing::warn!(peer = %peer.id, "a stanza that cannot be read");
        return;
    };
    node.geo.held.take(peer.ix, order, 1);
    let ticket = Ticket { via: Some(peer.ix.0), order };
    match hand_over(node, ticket, stanza) {
        Some((_, stanza, _)) if node.federation.is_leaving() => {
            give_back(node, peer.ix, order, &stanza)
        }
        refused => refuse(node, refused),
    }
}

/// A former life has promised it: nothing of its pair overtakes it. Before anything is accepted.
pub fn former(node: &Node, order: u64, stanza: &Stanza) {
    if let Some(pair) = pair_of(stanza) {
        node.federation.lock().former(pair, order, stanza.bytes().len());
    }
}

/// A node says that it has one of a former life of ours: newer ones of the pair follow it there.
pub fn held(node: &Node, order: u64, stanza: &Stanza, by: NodeIx) {
    if let Some(pair) = pair_of(stanza) {
        node.federation.lock().held(pair, order, stanza.bytes().len(), by);
    }
}

/// That life of a node is over (or it counts as dead): what it had for other domains is sent again, before anything newer can be. What it had
/// for accounts is given back, as by [`router::Ledger::node_gone`].
pub fn node_gone(node: &Arc<Node>, gone: NodeIx) -> Vec<(u64, u64, Stanza)> {
    let (back, refused) = {
        let mut gate = node.federation.lock();
        let all = node.ledger.node_gone(gone);
        let (abroad, back): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, _, stanza)| router::leaves(node, stanza));
        let mut orders = gate.gone(gone);
        if !sings(Canary::GatewayForgets) {
            orders.extend(abroad.iter().map(|(order, ..)| *order));
        }
        let refused: Vec<Refused> =
            orders.into_iter().map(|order| again(node, &mut gate, order)).collect();
        (back, refused)
    };
    refused.into_iter().for_each(|refused| refuse(node, refused));
    back
}

/// The link to a node is up: what waited for it leaves, in order.
pub fn peer_up(node: &Node, at: NodeIx) {
    let mut gate = node.federation.lock();
    gate.up(at);
    flush(node, &mut gate, at);
}

/// There is room in a link again.
pub fn room(node: &Node, at: NodeIx) {
    if node.federation.open() > 0 {
        flush(node, &mut node.federation.lock(), at);
    }
}

fn flush(node: &Node, gate: &mut Gate<'_>, at: NodeIx) {
    while let Some(order) = gate.next(at) {
        let Some((accepted_ms, stanza)) = node.ledger.look(order) else {
            gate.over(order);
            continue;
        };
        if !write(node, at, order, &router::late(node, stanza, accepted_ms)) {
            return gate.refused(at, order);
        }
    }
}

/// Once a second: what was given back and may go on does; what has waited too long for a gateway that cannot be reached comes to an end; what found a link full is tried again.
pub fn tick(node: &Arc<Node>) {
    let Some(streams) = node.federation.streams.get().filter(|_| node.federation.open() > 0) else {
        return;
    };
    send_ready(node);
    let before = node.now_ms().saturating_sub(millis(streams.patience()));
    let late: Vec<(u64, Stanza)> = {
        let mut gate = node.federation.lock();
        for at in gate.waited_for() {
            flush(node, &mut gate, at);
        }
        let late =
            gate.waiting().filter_map(|order| Some((order, node.ledger.older(order, before)?)));
        let late: Vec<_> = late.collect();
        late.iter().for_each(|(order, _)| gate.over(*order)); // So that it does not leave after all.
        late
    };
    for (order, stanza) in late {
        failed(node, Ticket { via: None, order }, &stanza, &StanzaError::remote_server_timeout());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
