//! Room: the end of a session, and what happens to what is left. A connection that is lost under stream management hibernates first.
//! When it is really over: the row goes, and in the same step what the client had not taken goes back in front of everything newer
//! for the same account; contacts are told; the mailbox takes nothing any more.

use std::sync::Arc;

use config::canary::{Canary, sings};
use global_distrib::{NodeIx, RouteEntry, Row};
use tokio::time::Instant;
use xmpp::stanza::{Kind, Stanza};
use xmpp::stream::error::StreamError;

use super::sm::{self, Handover, Sm};
use super::task::{Close, Session};
use super::{Delivery, Owed, Seat};
use crate::app::Node;
use crate::feature::{Ctx, Flow, SessionEvent};
use crate::geo::frame::StanzaHead;
use crate::geo::light;
use crate::router::road::Road;
use crate::router::{self, Holder, LetGo, Routed};

/// A session must end: if its task does not see to it (it panicked, or a hand-over was dropped half-way), this does.
pub(super) struct Alive(Option<(Arc<Node>, Arc<Seat>)>);

impl Alive {
    pub(super) fn new(node: &Arc<Node>, seat: &Arc<Seat>) -> Self {
        Self(Some((node.clone(), seat.clone())))
    }

    /// The session's end is being seen to.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl std::fmt::Debug for Alive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alive")
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let Some((node, seat)) = self.0.take() else { return };
        if std::thread::panicking() {
            node.metrics.panics.inc();
        }
        // Without a runtime the whole process is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { over(&node, &seat, None, Vec::new()).await });
        }
    }
}

/// Ends the connection, and the session unless it may be resumed.
pub(super) async fn end(mut session: Box<Session>, close: Close) {
    let fits = match close {
        Close::Clean | Close::Error(_) => session.flush_held(),
        Close::Lost | Close::TakenOver | Close::Left(..) => session.keep_held(),
    };
    session.farewell(&close);
    if !session.unwritten.is_empty() && !matches!(close, Close::Lost) {
        session.write_out().await;
    }
    let resume_deadline = session.resume_deadline();
    let Session { node, seat, transport, output, mut sm, mut alive, unwritten, .. } = *session;
    let unwritten = unwritten.into_iter().map(|(_, delivery)| delivery).collect();
    let resumable = match close {
        Close::Lost | Close::Left(..) => sm
            .take_if(|sm| fits && sm.id.is_some())
            .and_then(|sm| Some(Handover { seat: seat.clone(), sm, alive: alive.take()? })),
        _ => None,
    };
    match (close, resumable) {
        (Close::TakenOver, _) => transport.close(output).await,
        (Close::Lost, None) => {
            drop(transport);
            drop(output);
            over_guarded(&node, &seat, sm, alive, unwritten).await;
        }
        (Close::Lost, Some(session)) => {
            drop(transport);
            drop(output);
            Box::pin(sleep(&node, session, resume_deadline)).await;
        }
        (Close::Left(_, reply), Some(session)) => {
            let back = reply.send(session).err();
            transport.close(output).await;
            if let Some(session) = back {
                Box::pin(sleep(&node, session, resume_deadline)).await;
            }
        }
        (Close::Clean | Close::Error(_) | Close::Left(..), _) => {
            over_guarded(&node, &seat, sm, alive, unwritten).await;
            transport.close(output).await;
        }
    }
}

/// A session without a connection, until another task has it or it is over.
pub(super) async fn sleep(node: &Arc<Node>, session: Handover, deadline: Instant) {
    let Some(back) = sm::hibernate(node, session, deadline).await else { return };
    if let Some(id) = &back.sm.id {
        let h = back.sm.handled.handled();
        let most = node.config.limits.sm_expired_max;
        node.resumable.expired(id, &back.seat.bare, h, most);
    }
    abandon(node, back).await;
}

/// A session that was handed over and cannot go on.
pub(super) async fn abandon(node: &Arc<Node>, handover: Handover) {
    over_guarded(node, &handover.seat, Some(handover.sm), Some(handover.alive), Vec::new()).await;
}

async fn over_guarded(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    sm: Option<Box<Sm>>,
    alive: Option<Alive>,
    unwritten: Vec<Delivery>,
) {
    over(node, seat, sm, unwritten).await;
    if let Some(alive) = alive {
        alive.disarm();
    }
}

/// Tells the features and performs what they want.
pub(super) async fn tell(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    event: SessionEvent,
) -> Option<StreamError> {
    let mut ctx = Ctx::new(node, Some(seat));
    let flows = node.features.session(&mut ctx, event);
    let mut close = router::perform(node, Some(seat), std::mem::take(&mut ctx.actions));
    for flow in flows {
        if let Flow::Later(later) = flow {
            let actions = later.await;
            close = close.or(router::perform(node, Some(seat), actions));
        }
    }
    close
}

async fn over(node: &Arc<Node>, seat: &Arc<Seat>, sm: Option<Box<Sm>>, unwritten: Vec<Delivery>) {
    if let Some(id) = sm.as_ref().and_then(|sm| sm.id.as_deref()) {
        node.resumable.remove(id);
    }
    let mut unacked = sm.map(|sm| sm.into_lost(node)).unwrap_or(unwritten);
    if sings(Canary::UnackedForgotten) {
        unacked.clear();
    }
    // Asked before the row goes: what is kept now keeps its place among what nobody else has.
    let mut left = Left { alone: !others(node, seat), ..Left::default() };
    let road = Road::new(node);
    let unbound =
        node.directory.unbind_here(&seat.full, seat.generation, node.now_ms(), &road, || {
            left.sort(node, unacked.into_iter(), seat);
            std::mem::take(&mut left.again)
        });
    road.finish();
    // No row: a newer bind of the same full JID has taken it.
    let known = unbound.row.is_some();
    node.metrics.sessions.dec();
    // A newer bind of the same full JID that is available already speaks for itself.
    let successor = |rows: &[Row<Arc<Seat>>]| {
        let mut rows = rows.iter();
        rows.find(|row| row.full == seat.full && row.available && !row.hidden).map(Row::there)
    };
    let succeeded = match known {
        true => None,
        false => node.directory.read(seat.bare.as_str(), successor).flatten(),
    };
    let entry = match succeeded {
        Some(Some(there)) => passed(node, seat, there),
        _ => RouteEntry::Unbind { full: seat.full.clone(), generation: seat.generation },
    };
    node.geo.route.append(node, entry);
    if succeeded.is_none() {
        tell(node, seat, SessionEvent::Gone).await;
    }
    if known {
        light::brought_out(node, std::iter::once((&seat.full, seat.generation)));
    }
    copies(node, seat, left.copies);
    for stanza in left.unanswered {
        router::undeliverable(node, &stanza);
    }
    if unbound.reopen {
        router::reopen(node, &seat.bare);
    }
    let last = node
        .directory
        .read(seat.bare.as_str(), |rows| rows.iter().all(|row| row.here().is_none()))
        .unwrap_or(true);
    if last {
        node.rosters.evict(&seat.bare);
    }
}

/// The session's row goes, and nobody is told an end: it goes on at that node.
pub(super) fn passed(node: &Node, seat: &Seat, to: NodeIx) -> RouteEntry {
    let (full, generation) = (seat.full.clone(), seat.generation);
    match node.geo.nodes.name(to) {
        Some(to) => RouteEntry::Passed { full, generation, to: to.to_string() },
        None => RouteEntry::Unbind { full, generation },
    }
}

/// A component's connection is over: its row goes, and in the same step what it had not taken goes back in front of everything newer for the
/// component, in its order: presence and requests too, for nothing else says what they say. Another connection has it then, or its sender an
/// error (`router::undeliverable`).
pub fn component_over(node: &Arc<Node>, seat: &Arc<Seat>, unwritten: Vec<Delivery>) {
    let mut left = Left { component: true, ..Left::default() };
    let road = Road::new(node);
    let (full, generation) = (&seat.full, seat.generation);
    let unbound = node.directory.unbind_here(full, generation, node.now_ms(), &road, || {
        left.sort(node, unwritten.into_iter(), seat);
        std::mem::take(&mut left.again)
    });
    road.finish();
    let entry = RouteEntry::Unbind { full: full.clone(), generation };
    node.geo.route.append(node, entry);
    if unbound.reopen {
        router::reopen(node, &seat.bare);
    }
}

/// What waited for a session that goes on, and finds no room in it: it goes on as if the session were over.
pub fn no_room(node: &Arc<Node>, seat: &Arc<Seat>, back: Vec<Delivery>) {
    if back.is_empty() {
        return;
    }
    node.metrics.mailbox_full.inc_by(back.len() as u64);
    let mut left = Left { alone: !others(node, seat), ..Left::default() };
    left.all(node, back.into_iter(), seat);
    router::put_back(node, &seat.bare, std::mem::take(&mut left.again));
    for stanza in left.unanswered {
        router::undeliverable(node, &stanza);
    }
}

/// What a session leaves behind, by what becomes of it.
#[derive(Default)]
struct Left {
    /// No other resource takes messages.
    alone: bool,
    /// It is a component's: there are no copies, and whatever it is goes to another connection.
    component: bool,
    /// What nobody else has: routed anew.
    again: Vec<Routed>,
    /// Messages other resources got too.
    copies: Vec<Stanza>,
    /// Requests that will not be answered.
    unanswered: Vec<Stanza>,
}

impl Left {
    fn sort(&mut self, node: &Arc<Node>, unacked: impl Iterator<Item = Delivery>, seat: &Seat) {
        self.all(node, unacked.chain(seat.close()), seat);
    }

    fn all(&mut self, node: &Arc<Node>, all: impl Iterator<Item = Delivery>, seat: &Seat) {
        for delivery in all {
            let Delivery { stanza, sole, via, order, owed } = delivery;
            match (stanza.kind(), owed) {
                // Still filed: the next session is handed it.
                (_, Owed::Home) => {}
                (_, Owed::Ledger) => self.tracked(node, stanza, via, order, seat),
                (_, Owed::Nothing) if self.component => {
                    // What was put in past the session table has no place of its own yet.
                    let order = if sole { order } else { node.ledger.next_order() };
                    self.untracked(node, stanza, via, order, seat);
                }
                (Kind::Message, Owed::Nothing) => {
                    if sole || (self.alone && is_own(&stanza, seat)) {
                        self.untracked(node, stanza, via.filter(|_| sole), order, seat);
                    } else {
                        self.copies.push(stanza);
                    }
                }
                (Kind::Iq, _) => self.unanswered.push(stanza),
                _ => {} // Presence: the account's unavailable presence says it all.
            }
        }
    }

    /// Somebody remembers who has it. It goes back to where it entered, if no other session of this node has it: there may be more of
    /// the same sender, and there it goes first.
    fn tracked(
        &mut self,
        node: &Arc<Node>,
        stanza: Stanza,
        via: Option<NodeIx>,
        order: u64,
        seat: &Seat,
    ) {
        let Some(via) = via else {
            let accepted_ms = node.ledger.accepted_ms(order).unwrap_or(node.wall_ms());
            if node.ledger.let_go(order, Holder::Here) == LetGo::Last {
                let stanza = router::delayed(node, &stanza, accepted_ms);
                self.again.push(Routed { stanza, tries: 0, order, tracked: true });
            }
            return;
        };
        if node.geo.held.let_go(via, order) {
            // When it was sent is known where it entered.
            let stanza = router::delayed(node, &stanza, node.wall_ms());
            if !give_back(node, via, &stanza, order, true, seat) {
                self.again.extend(router::adopted(node, via, order, true, stanza));
            }
        }
    }

    fn untracked(
        &mut self,
        node: &Arc<Node>,
        stanza: Stanza,
        via: Option<NodeIx>,
        order: u64,
        seat: &Seat,
    ) {
        // It comes late now, wherever it comes.
        let stanza = router::delayed(node, &stanza, node.wall_ms());
        match via {
            Some(via) if give_back(node, via, &stanza, order, false, seat) => {}
            Some(_) => self.again.push(Routed {
                stanza,
                tries: 0,
                order: node.ledger.next_order(),
                tracked: false,
            }),
            None => self.again.push(Routed { stanza, tries: 0, order, tracked: false }),
        }
    }
}

/// In the step that takes the row away: `false` if the link has no room for it.
pub(super) fn give_back(
    node: &Node,
    via: NodeIx,
    stanza: &Stanza,
    order: u64,
    tracked: bool,
    seat: &Seat,
) -> bool {
    let mut told = false;
    node.directory.give_back(via, &seat.bare, |seen| {
        let head = StanzaHead { tracked, order, seen, ..StanzaHead::default() };
        told = node.geo.give_back(via, head, stanza);
    });
    told
}

/// A copy is no loss while another resource of the account is there to have it; else it is kept for the next one (carbons are not).
/// Asked a second time, now that the row is gone: two resources that end together must not leave it to each other.
fn copies(node: &Arc<Node>, seat: &Seat, copies: Vec<Stanza>) {
    if others(node, seat) {
        return;
    }
    let again = copies
        .into_iter()
        .filter(|stanza| is_own(stanza, seat))
        .map(|stanza| {
            let order = node.ledger.next_order();
            Routed { stanza, tries: 0, order, tracked: false }
        })
        .collect();
    router::put_back(node, &seat.bare, again);
}

/// Whether another resource takes messages of the account, at the priority of this one at least: a copy that came here came there too.
fn others(node: &Node, seat: &Seat) -> bool {
    let takes = |row: &Row<Arc<Seat>>| {
        row.available
            && row.priority >= seat.took_at()
            && row.here().is_none_or(|here| **here != *seat)
    };
    node.directory.read(seat.bare.as_str(), |rows| rows.iter().any(takes)).unwrap_or(false)
}

/// A message to the account, not a carbon of one.
fn is_own(stanza: &Stanza, seat: &Seat) -> bool {
    let carbon = |name: &str| stanza.has_child(name, xmpp::ns::CARBONS);
    !carbon("sent")
        && !carbon("received")
        && stanza.to().is_some_and(|to| to.bare_str() == seat.bare.as_str())
}
