//! Room: what arrives from other nodes. Implements `s2s::link::LinkUser`: called by the link's tasks, in order per peer; never blocks
//! (what takes time is spawned). What comes from a link speaks for its region only: rows, returns and echoes count for the node that
//! sent them, and a body that cannot be read is logged and dropped with the frame.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use config::canary::{Canary, sings};
use global_distrib::{Choice, Refusal, RouteEntry, Row, Taken};
use s2s::link::{FrameKind, FrameSink, Incarnation, LinkUser, PeerId};
use serde::de::DeserializeOwned;
use smallvec::SmallVec;
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use super::frame::{self, Call, CarbonCopy, PresenceProbe, Reply, StanzaHead};
use super::presence::{self, Presence};
use super::{Peer, abroad, light};
use crate::app::{Node, drain, scribe};
use crate::components;
use crate::features::blocking;
use crate::federation;
use crate::router::road::Road;
use crate::router::{self, Holder, LetGo, Routed, perform};
use crate::session::{Delivery, Owed, Seat, moving};

/// The node, as its links see it.
pub struct User(pub Weak<Node>);

impl User {
    fn with<R>(&self, id: &PeerId, act: impl FnOnce(&Arc<Node>, &Arc<Peer>) -> R) -> Option<R> {
        let node = self.0.upgrade()?;
        let peer = node.geo.peer(id)?;
        Some(act(&node, &peer))
    }
}

impl LinkUser for User {
    fn up(&self, id: &PeerId, incarnation: Incarnation, fresh: bool) {
        self.with(id, |node, peer| {
            tracing::info!(peer = %id, incarnation = incarnation.0, fresh, "link is up");
            if fresh {
                anew(node, peer, Vec::new());
                node.geo.tell_held(peer.ix);
                peer.link.wake();
            }
            federation::peer_up(node, peer.ix);
            scribe::say(node, peer);
            let turn = node.geo.health.lock().up(peer.ix, node.now_ms());
            if let Some(turn) = turn {
                light::turned(node, turn);
            }
            node.geo.send_due_probes();
        });
    }

    fn down(&self, id: &PeerId) {
        self.with(id, |node, peer| {
            tracing::warn!(peer = %id, "link is down");
            node.federation.peer_down(peer.ix);
            node.geo.health.lock().down(peer.ix, node.now_ms());
            node.moving.node_silent(peer.ix);
        });
    }

    fn lost(&self, id: &PeerId, unacked: Vec<(u64, FrameKind, Bytes)>) {
        self.with(id, |node, peer| {
            tracing::warn!(peer = %id, frames = unacked.len(), "its former life is over");
            anew(node, peer, unacked);
            // Forgotten altogether (declared down)? Then it is linked anew, as somebody new.
            if node.geo.links().is_some_and(|links| links.link(id).is_none()) {
                node.geo.drop_peer(peer.ix);
                node.geo.relink.notify_one();
            }
        });
    }

    fn frame(&self, id: &PeerId, _ticket: u64, kind: FrameKind, body: Bytes) -> s2s::link::Taken {
        self.with(id, |node, peer| take(node, peer, kind, body));
        s2s::link::Taken::Now
    }

    fn datagram(&self, id: &PeerId, kind: FrameKind, body: Bytes) {
        self.with(id, |node, peer| match kind {
            frame::RAFT_CALL => {
                let Some(call) = value::<Call>(id, kind, &body) else { return };
                let (metadata, link) = (node.metadata.clone(), peer.link.clone());
                tokio::spawn(async move {
                    let reply = Reply { id: call.id, body: metadata.handle(call.body).await };
                    link.datagram(
                        frame::RAFT_REPLY,
                        &postcard::to_stdvec(&reply).expect("a plain value"),
                    );
                });
            }
            frame::RAFT_REPLY => {
                if let Some(reply) = value::<Reply>(id, kind, &body) {
                    node.geo.calls.answered(reply.id, reply.body);
                }
            }
            frame::REACH => {
                if let Some(names) = value::<Vec<String>>(id, kind, &body) {
                    node.geo.reach.lock().insert(id.to_string(), (names, node.now_ms()));
                }
            }
            _ => tracing::warn!(peer = %id, ?kind, "an unknown datagram"),
        });
    }

    fn acked(&self, id: &PeerId, _upto: u64) {
        self.with(id, |node, peer| {
            federation::room(node, peer.ix);
            node.homes.room(&peer.id.region);
            if peer.id.region == node.geo.me.region {
                node.homes.room_at(&peer.name);
            }
        });
    }

    fn before_write(&self, id: &PeerId, out: &mut FrameSink) {
        self.with(id, |node, peer| {
            let given_up = node.geo.calls.given_up(peer.ix);
            let tell = |body: &mut Vec<u8>| frame::write_orders(body, &given_up);
            if !given_up.is_empty() && out.frame_with(frame::GIVEN_UP, tell).is_err() {
                node.geo.calls.untold(peer.ix, &given_up);
                return; // No room now: the writer asks again when there is.
            }
            node.geo.route.tail(node, peer.ix, out);
        });
    }
}

/// The peer lives another life (or is declared down): nothing it said before holds, and what it had and nobody else has comes back.
/// The order matters: first its rows go, then what comes back takes its place in front, and only then may what waited for the peer
/// go on.
fn anew(node: &Arc<Node>, peer: &Peer, unacked: Vec<(u64, FrameKind, Bytes)>) {
    node.directory.new_life(peer.ix, first_return(&unacked));
    node.geo.route.fresh(peer.ix);
    node.geo.calls.restarted(peer.ix);
    node.moving.node_gone(peer.ix);
    let (removed, mut reopen) = node.directory.remove_rows(peer.ix, |_| true);
    let mut back: Vec<Routed> = Vec::new();
    for (order, accepted_ms, stanza) in federation::node_gone(node, peer.ix) {
        if sings(Canary::DeadNodeKeeps) {
            continue;
        }
        let stanza = router::delayed(node, &stanza, accepted_ms);
        back.push(Routed { stanza, tries: 1, order, tracked: true });
    }
    for (_, kind, body) in unacked {
        match kind {
            frame::STANZA => back.extend(never_arrived(body)),
            frame::RETURN => give_back_again(node, peer, body),
            frame::KEPT => {
                node.geo.tell_kept(peer.ix, &frame::read_orders(&body).collect::<Vec<_>>())
            }
            frame::CALL => {
                if let Some(call) = value::<Call>(&peer.id, kind, &body) {
                    node.geo.calls.lost(call.id);
                }
            }
            _ => {} // Presence, carbons, logs: told anew when the peer is.
        }
    }
    back.sort_by_key(|routed| routed.order);
    reopen.extend(router::put_back_all(node, back));
    node.directory.forget_trail(peer.ix);
    node.geo.restarted(&peer.name);
    node.geo.send_due_probes();
    for account in reopen.into_iter().chain(node.directory.released(&peer.name, peer.ix)) {
        router::reopen(node, &account);
    }
    moving::ask_holders(node);
    light::rows_gone(node, &removed);
    abroad::gone(node, &peer.name, &removed);
}

/// The first refusal that a life that is over has not acknowledged: it is sent to the next one.
fn first_return(unacked: &[(u64, FrameKind, Bytes)]) -> Option<u64> {
    let returns = unacked.iter().filter(|(_, kind, _)| *kind == frame::RETURN);
    let numbers = returns.filter_map(|(.., body)| Some(StanzaHead::read(body.clone())?.0.seen));
    numbers.filter(|number| *number > 0).min()
}

/// A stanza that was on its way to a life that is over, unless the ledger knows of it anyhow.
fn never_arrived(body: Bytes) -> Option<Routed> {
    let (head, bytes) = StanzaHead::read(body)?;
    let stanza = Stanza::parse(bytes).ok()?;
    let routed =
        Routed { stanza, tries: head.tries.saturating_add(1), order: head.order, tracked: false };
    (!head.copy && !head.tracked).then_some(routed)
}

/// We gave it back to a life that is over: its next life is the one to decide, if there is one. If not, it is ours now.
fn give_back_again(node: &Arc<Node>, peer: &Peer, body: Bytes) {
    if peer.link.send(frame::RETURN, &[&body]).is_err()
        && let Some((head, bytes)) = StanzaHead::read(body)
        && let Ok(stanza) = Stanza::parse(bytes)
    {
        router::adopt(node, peer.ix, head.order, head.tracked, stanza);
    }
}

fn value<T: DeserializeOwned>(id: &PeerId, kind: FrameKind, body: &[u8]) -> Option<T> {
    let value = postcard::from_bytes(body).ok();
    if value.is_none() {
        tracing::warn!(peer = %id, ?kind, bytes = body.len(), "a frame that cannot be read");
    }
    value
}

fn take(node: &Arc<Node>, peer: &Arc<Peer>, kind: FrameKind, body: Bytes) {
    match kind {
        frame::ROUTE => {
            if let Some(entries) = value::<Vec<RouteEntry>>(&peer.id, kind, &body) {
                node.geo.route.apply(node, peer, entries);
            }
        }
        frame::STANZA => stanza(node, peer, body),
        frame::ABROAD => federation::arrived(node, peer, body),
        frame::RETURN => {
            if let Some((order, of)) = returned(node, peer, body) {
                node.recovery.has_no_more(node, peer.ix, order, &of);
            }
        }
        frame::MULTICAST | frame::GRANT | frame::WITHDRAWN => multicast(node, peer, kind, body),
        frame::PRESENCE_PROBE => {
            if let Some(probe) = value::<PresenceProbe>(&peer.id, kind, &body) {
                presence::answer_probe(node, peer, &probe);
            }
        }
        frame::SHOW => {
            if let Some(show) = value(&peer.id, kind, &body) {
                abroad::show_here(node, &show);
            }
        }
        frame::ANSWER => {
            if let Ok(answer) = Stanza::parse(body) {
                components::answered(node, &answer);
            }
        }
        frame::PRESENCE => {
            if let Some((generation, to, bytes)) = frame::read_presence(body)
                && let Ok(stanza) = Stanza::parse(bytes)
            {
                let presence =
                    Presence { stanza, generation, node: Some(peer.ix), withdrawn: false };
                presence::answered(node, &presence, &to);
                moving::presence_came(node, to.bare_str(), &presence);
            }
        }
        frame::CARBON => {
            let Some(copy) = value::<CarbonCopy>(&peer.id, kind, &body) else { return };
            if let Ok(forwarded) = Stanza::parse(copy.forwarded.clone().into()) {
                let whom = (copy.except.as_ref(), copy.only.as_ref());
                perform::local_carbons(node, &copy.account, whom, copy.sent, &forwarded);
                moving::carbon_came(node, &copy);
            }
        }
        frame::REPRESENT => light::represent(node, peer.ix),
        frame::KEPT => {
            for order in frame::read_orders(&body) {
                tracing::debug!(peer = %peer.id, order, "kept");
                if node.ledger.is_of_this_life(order) {
                    router::kept_here(node, order);
                } else {
                    node.recovery.kept(node, peer.ix, order);
                }
            }
        }
        frame::HELD => node.recovery.held(node, peer.ix, frame::read_orders(&body)),
        frame::PROBE => {
            node.geo.send(peer.ix, frame::ECHO, &[&body]);
        }
        frame::ECHO => {
            let Ok(number) = <[u8; 8]>::try_from(&body[..]) else { return };
            let number = u64::from_le_bytes(number);
            if node.geo.echoed(peer, number) {
                let mut waiting = node.directory.echoed(&peer.name, number);
                waiting.extend(node.directory.acked(peer.ix, number));
                waiting.sort_unstable();
                waiting.dedup();
                for account in waiting {
                    router::reopen(node, &account);
                }
                node.geo.send_due_probes();
            }
        }
        frame::CALL => {
            let Some(call) = value::<Call>(&peer.id, kind, &body) else { return };
            if node.geo.calls.is_taken_back(peer.ix, call.id) {
                tracing::debug!(peer = %peer.id, id = call.id, "a call that was given up");
                return;
            }
            let (homes, link, name) = (node.homes.clone(), peer.link.clone(), peer.name.clone());
            tokio::spawn(async move {
                let reply = Reply { id: call.id, body: homes.serve(&name, &call.body).await };
                let body = postcard::to_stdvec(&reply).expect("a plain value");
                if link.send(frame::REPLY, &[&body]).is_err() {
                    tracing::warn!(peer = %link.peer(), "no room for an answer; the asker's deadline will pass");
                }
            });
        }
        frame::ORDER => {
            let Some(call) = value::<Call>(&peer.id, kind, &body) else { return };
            if !node.geo.calls.is_taken_back(peer.ix, call.id) {
                let reply = Reply { id: call.id, body: drain::obey_bytes(node, &call.body) };
                node.geo.send_value(peer.ix, frame::REPLY, &reply);
            }
        }
        frame::ROOM => {
            let Some(call) = value::<Call>(&peer.id, kind, &body) else { return };
            if !node.geo.calls.is_taken_back(peer.ix, call.id) {
                let reply = Reply { id: call.id, body: components::room(node, &call.body) };
                node.geo.send_value(peer.ix, frame::REPLY, &reply);
            }
        }
        frame::REPLY => {
            if let Some(reply) = value::<Reply>(&peer.id, kind, &body) {
                node.geo.calls.answered(reply.id, reply.body);
            }
        }
        frame::GIVEN_UP => node.geo.calls.taken_back(peer.ix, frame::read_orders(&body)),
        frame::MOVE => {
            if let Some(word) = value::<moving::Word>(&peer.id, kind, &body) {
                moving::heard(node, peer, word);
            }
        }
        frame::DURABLE => {
            // Of a scribe that has been superseded it says nothing any more.
            if node.geo.scribe_of(&peer.id.region).is_some_and(|scribe| scribe.ix == peer.ix) {
                node.homes.shipped(&peer.id.region, body);
            }
        }
        frame::SCRIBE => scribe::heard(node, peer, &body),
        frame::FEED => {
            if peer.id.region == node.geo.me.region {
                node.homes.fed(&peer.name, body);
            }
        }
        _ => {
            tracing::warn!(peer = %peer.id, ?kind, "an unknown frame: a newer version at the other side?")
        }
    }
}

/// A stanza for sessions of this node; if there are none for it, it goes back to where it entered (one hop, never more).
fn stanza(node: &Arc<Node>, peer: &Peer, body: Bytes) {
    let Some((head, bytes)) = StanzaHead::read(body) else { return };
    let Ok(stanza) = Stanza::parse(bytes) else {
        tracing::warn!(peer = %peer.id, "a stanza that cannot be read");
        return;
    };
    let Some(account) = router::addressee(node, &stanza) else { return };
    let road = Road::new(node);
    let owed = if head.tracked { Owed::Ledger } else { Owed::Nothing };
    let sole = !head.copy;
    let delivery =
        Delivery { stanza: stanza.clone(), via: Some(peer.ix), sole, order: head.order, owed };
    let denied = Cell::new(false);
    let refuses = |seat: &Arc<Seat>| {
        let refuses = blocking::refuses(seat, &stanza);
        denied.set(denied.get() || refuses);
        refuses
    };
    let known = is_known(node, peer, &head);
    let deliver = |rows: &[Row<Arc<Seat>>]| {
        if known {
            return true;
        }
        // Not for a session that was bound since it was sent: that one may have had it elsewhere.
        let here: SmallVec<[_; 2]> = rows
            .iter()
            .filter(|row| row.here().is_some())
            .filter(|row| row.generation <= head.newest)
            .cloned()
            .collect();
        let here = match router::choose(node, &stanza, &here, refuses) {
            Choice::Send { here, .. } => here,
            // All who are here have refused it: it is judged, and nothing that follows has to wait for it.
            Choice::Refuse if denied.get() => return true,
            _ => return false,
        };
        denied.set(false);
        if head.tracked {
            // Before: a session may be quicker than we are.
            node.geo.held.take(peer.ix, head.order, here.len());
        }
        let taken = road.deliver(delivery, &here, rows.len());
        if head.tracked {
            for _ in taken..here.len() {
                node.geo.held.let_go(peer.ix, head.order);
            }
        }
        taken > 0
    };
    if head.copy {
        node.directory.read(account.as_str(), deliver);
    } else {
        let refuse = |taken: Taken, seen| {
            // One that has moved here may have brought it along: then nobody has lost it.
            let copy = head.tracked && node.geo.held.has(peer.ix, head.order);
            let head = StanzaHead { early: taken == Taken::NotYet, copy, seen, ..head };
            if !node.geo.give_back(peer.ix, head, &stanza) {
                // It stays in the ledger where it entered, and is found again when the link is made anew.
                tracing::warn!(peer = %peer.id, "no room to give a stanza back");
            }
        };
        node.directory.take_in(peer.ix, &account, head.seen, deliver, refuse);
        if denied.get() {
            // Its sender's node knows whether somebody elsewhere has it, and answers once.
            let head = StanzaHead { denied: true, seen: 0, ..head };
            if !node.geo.give_back(peer.ix, head, &stanza) {
                tracing::warn!(peer = %peer.id, "no room to say that a stanza is refused");
            }
        }
    }
    road.finish();
}

/// Whether what was routed anew is here already: a session that had it where it was first has moved here with it, and that node died before it said so.
/// If a client has it by now, its node is told again.
fn is_known(node: &Node, peer: &Peer, head: &StanzaHead) -> bool {
    if !head.tracked || head.tries == 0 {
        return false;
    }
    let kept = node.geo.held.was_kept(peer.ix, head.order);
    if kept {
        node.geo.tell_kept(peer.ix, &[head.order]);
    }
    kept || node.geo.held.has(peer.ix, head.order)
}

/// A stanza of ours that comes back: no session there has it any more. Its order and addressee, if that is one of ours.
fn returned(node: &Arc<Node>, peer: &Peer, body: Bytes) -> Option<(u64, BareJid)> {
    let (head, bytes) = StanzaHead::read(body)?;
    let stanza = Stanza::parse(bytes).ok()?;
    let account = router::addressee(node, &stanza)?;
    if router::leaves(node, &stanza) {
        match head.tracked {
            true => federation::came_back(node, peer.ix, head.order, stanza),
            // From a component that is none any more: what is for other domains is always tracked.
            false => federation::send(node, stanza, None),
        }
        return None;
    }
    returned_to(node, peer, &account, head, stanza);
    Some((head.order, account))
}

fn returned_to(
    node: &Arc<Node>,
    peer: &Peer,
    account: &BareJid,
    head: StanzaHead,
    mut stanza: Stanza,
) {
    let refusal = Refusal { by: peer.ix, number: head.seen };
    let mut tracked = head.tracked;
    if tracked && node.recovery.waits(head.order) {
        node.directory.refused(account, refusal);
        return;
    }
    if tracked && head.copy {
        node.directory.refused(account, refusal);
        return;
    }
    if tracked {
        match node.ledger.let_go(head.order, Holder::There(peer.ix)) {
            LetGo::Last => {}
            // Of a former life that had promised nothing yet: it is delivered all the same.
            LetGo::Unknown
                if !node.ledger.is_of_this_life(head.order) && !node.recovery.knew(head.order) =>
            {
                match node.recovery.join(node, head.order, node.wall_ms(), stanza) {
                    Ok(()) => return node.directory.refused(account, refusal),
                    Err(late) => stanza = late,
                }
                tracked = false;
            }
            LetGo::NotLast | LetGo::Unknown => {
                if !head.denied {
                    node.directory.refused(account, refusal);
                }
                return;
            }
        }
    }
    if head.denied {
        let routed = Routed { stanza, tries: head.tries, order: head.order, tracked };
        return router::denied(node, &routed);
    }
    tracing::debug!(peer = %peer.id, early = head.early, "a stanza came back");
    let stanza = router::given_back(node, stanza, head.order);
    let routed = Routed { stanza, tries: head.tries, order: head.order, tracked };
    router::returned(node, refusal, routed, head.early);
}

fn multicast(node: &Arc<Node>, peer: &Peer, kind: FrameKind, body: Bytes) {
    let Some((generation, to, bytes)) = frame::read_multicast(body) else {
        tracing::warn!(peer = %peer.id, "a multicast that does not add up");
        return;
    };
    let Ok(stanza) = Stanza::parse(bytes) else { return };
    let withdrawn = kind == frame::WITHDRAWN;
    let presence = Presence { stanza, generation, node: Some(peer.ix), withdrawn };
    for account in to {
        let Ok(account) = std::str::from_utf8(&account) else { continue };
        if kind != frame::GRANT {
            presence::local_presence(node, account, &presence);
            moving::presence_came(node, account, &presence);
        } else if let Ok(account) = BareJid::parse(account) {
            presence::granted_here(node, &presence, &account);
        }
    }
}
