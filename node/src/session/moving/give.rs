//! The side a session comes from. It keeps all of it until the other side says that it has it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use config::canary::{Canary, sings};
use global_distrib::{NodeIx, Row};
use tokio::sync::oneshot;
use tokio::time::Instant;
use xmpp::jid::BareJid;
use xmpp::stanza::{Kind, Stanza, Type};

use super::capsule::{Call, Capsule, Kept, PART_BYTES, Why, Word};
use super::protocol::Giver;
use super::{Offer, say};
use crate::app::Node;
use crate::feature::SessionEvent;
use crate::geo::abroad;
use crate::router::road::Road;
use crate::router::{self, Holder, LetGo, Routed};
use crate::session::end;
use crate::session::sm::{self, NotOut};
use crate::session::{Control, Delivery, Handover, Item, Owed, Seat};

/// How long a client that comes back elsewhere waits until what it had sent is safe here.
const SAFE_WITHIN: Duration = Duration::from_secs(8);

/// Who showed itself before that has been heard of everywhere, unless a link is down.
const HEARD_AFTER_MS: u64 = 60_000;

/// Another node asks for a session, on behalf of its client.
pub(super) async fn asked(
    node: &Arc<Node>,
    to: NodeIx,
    call: u64,
    account: &BareJid,
    id: &str,
    h: u32,
) {
    let out = match node.resumable.find(id, account) {
        Some(seat) => sm::take_out(node, &seat, h, SAFE_WITHIN).await,
        None => Err(NotOut::Over),
    };
    let why = match out {
        Ok(session) => {
            let Err(why) = offer(node, to, Call::Asked(call), session).await else { return };
            why
        }
        Err(NotOut::Moving) => Why::Moving,
        Err(NotOut::Broken(too_high)) => Why::TooHigh { h: too_high.h, sent: too_high.sent },
        Err(NotOut::Over) => Why::NotFound { h: node.resumable.handled_by_expired(id, account) },
    };
    say(node, to, &Word::Refused { call, why });
}

/// A session of a node that is emptied goes to that one. What is answered says whether it has it; if not it sleeps here, or is over. That may take as
/// long as the line is cut, and goes on when nobody waits for it.
pub async fn push(node: &Arc<Node>, to: NodeIx, session: Handover) -> oneshot::Receiver<bool> {
    sm::make_safe(node, &session.sm, SAFE_WITHIN).await;
    let call = Call::Pushed(node.moving.number());
    let (settled, outcome) = oneshot::channel();
    let node = node.clone();
    tokio::spawn(async move {
        let _ = settled.send(offer_and_tell(&node, to, call, session).await);
    });
    outcome
}

async fn offer_and_tell(node: &Arc<Node>, to: NodeIx, call: Call, session: Handover) -> bool {
    offer(node, to, call, session).await.unwrap_or(false)
}

/// Sends the session's state, and does what is answered. Whether it was taken; if not it sleeps here again, and is seen to.
///
/// # Errors
/// It could not be sent; it sleeps here, or is over.
async fn offer(
    node: &Arc<Node>,
    to: NodeIx,
    call: Call,
    mut session: Handover,
) -> Result<bool, Why> {
    if !collect(node, &mut session) {
        end::abandon(node, session).await;
        return Err(Why::NotFound { h: None });
    }
    let (answer, answered) = oneshot::channel();
    let waiting = session.seat.take_waiting();
    let (bytes, leaves) = sealed(node, &session, waiting.as_deref().unwrap_or_default());
    let all = session.sm.out.unacked().map(|sent| &sent.delivery).chain(waiting.iter().flatten());
    let ours = all.filter(|one| one.owed == Owed::Ledger && one.via.is_none());
    let ours = ours.map(|delivery| delivery.order).collect();
    node.moving.offered.lock().insert((to, call), Offer { answer, ours });
    if !send(node, to, call, &bytes) {
        node.moving.offered.lock().remove(&(to, call));
        stays(node, session, waiting);
        return Err(Why::Moving);
    }
    drop(bytes);
    let Ok(answer) = with_orders(node, &session.seat, answered).await else {
        stays(node, session, waiting); // Nobody can say any more what became of it.
        return Ok(false);
    };
    match Giver::Offered.hears(answer) {
        Giver::Theirs if !sings(Canary::GiverKeeps) => {
            left(node, to, session, waiting.unwrap_or_default(), &leaves).await;
            Ok(true)
        }
        Giver::Own | Giver::Offered | Giver::Theirs => {
            stays(node, session, waiting);
            Ok(false)
        }
    }
}

/// The answer, which a line that is cut may keep for long. Should a newer session take the place of this one meanwhile, then what has come since its state was
/// sent is nobody else's and finds its way anew, ahead of what is newer.
async fn with_orders<T>(node: &Arc<Node>, seat: &Arc<Seat>, answer: impl Future<Output = T>) -> T {
    let mut orders = Vec::new();
    let mut answer = pin!(answer);
    let answer = loop {
        let order = poll_fn(|cx| seat.mailbox.poll_orders(cx, &mut orders));
        tokio::select! {
            biased;
            answer = &mut answer => break answer,
            _ = order => pass_on(node, seat),
        }
    };
    for order in orders {
        // Always fits: for whoever has the session next.
        let _ = seat.mailbox.push(order);
    }
    answer
}

/// See [`with_orders`]. One that still has its row may be sent more, and nothing is sent anew to where it is.
pub(super) fn pass_on(node: &Arc<Node>, seat: &Arc<Seat>) {
    let is_its = |row: &Row<Arc<Seat>>| row.here() == Some(seat);
    let rows = |rows: &[Row<Arc<Seat>>]| rows.iter().any(is_its);
    if node.directory.read(seat.bare.as_str(), rows).unwrap_or(false) {
        return;
    }
    // What asks the session itself is answered when that is settled.
    let goes_on = |one: &Delivery| one.stanza.kind() == Kind::Message && goes_back(one);
    let is_message = |item: &Item| matches!(item, Item::Stanza(one) if goes_on(one));
    let of_mailbox = seat.mailbox.extract(is_message).into_iter().filter_map(|item| match item {
        Item::Stanza(delivery) => Some(delivery),
        Item::Control(_) => None,
    });
    let mut again = Vec::new();
    let (newer, copies): (Vec<_>, Vec<_>) = seat.take_newer().into_iter().partition(goes_on);
    for delivery in of_mailbox.chain(newer) {
        anew(node, &mut again, delivery, seat);
    }
    let no_room = copies.into_iter().filter(|copy| !seat.take(copy.clone())).collect();
    end::no_room(node, seat, no_room);
    router::put_back(node, &seat.bare, again);
}

/// It is not taken: what waited in it waits on.
fn stays(node: &Arc<Node>, session: Handover, waiting: Option<Vec<Delivery>>) {
    if let Some(waiting) = waiting {
        let mut back = session.seat.waits_again(waiting);
        back.extend(session.seat.end_catching_up(true));
        end::no_room(node, &session.seat, back);
    }
    sleep_on(node, session);
}

/// What has come until now. False: the session is to end.
fn collect(node: &Node, session: &mut Handover) -> bool {
    let mut goes_on = true;
    for item in session.seat.mailbox.drain() {
        match item {
            Item::Stanza(delivery) => goes_on &= session.sm.keep(delivery, node.wall_ms()),
            Item::Control(Control::Close(_)) => goes_on = false,
            // Who else wants it looks again; the rest is for a session with a connection, or made anew where it goes.
            Item::Control(_) => {}
        }
    }
    goes_on
}

/// The session's state in bytes, and of what its client has not acknowledged, and then of what `waiting` is: whether no other session here has it.
fn sealed(node: &Arc<Node>, session: &Handover, waiting: &[Delivery]) -> (Vec<u8>, Vec<bool>) {
    let Handover { seat, sm, .. } = session;
    let me = node.geo.me.to_string();
    let name = |delivery: &Delivery| match (delivery.via, delivery.order) {
        (Some(via), _) => node.geo.nodes.name(via),
        (None, 0) => None,
        (None, _) => Some(me.clone()),
    };
    let kept = |delivery: &Delivery, at_ms: u64| {
        let leaves = match (delivery.owed, delivery.via) {
            (Owed::Ledger, Some(via)) => node.geo.held.is_with_one(via, delivery.order),
            _ => true,
        };
        Kept {
            stanza: delivery.stanza.bytes().to_vec(),
            at_ms,
            via: name(delivery),
            sole: delivery.sole,
            order: delivery.order,
            owed: delivery.owed.into(),
            leaves,
        }
    };
    let unacked = sm.out.unacked().filter(|_| !sings(Canary::CapsuleEmpty));
    let unacked: Vec<Kept> = unacked.map(|sent| kept(&sent.delivery, sent.at_ms)).collect();
    let waiting: Vec<Kept> =
        waiting.iter().map(|delivery| kept(delivery, node.wall_ms())).collect();
    let leaves = unacked.iter().chain(&waiting).map(|kept| kept.leaves).collect();
    let cut_off = node
        .geo
        .live()
        .iter()
        .any(|(_, ix)| node.geo.peer_at(*ix).is_none_or(|peer| !peer.link.is_up()));
    let fresh_after = if cut_off { 0 } else { node.now_ms().saturating_sub(HEARD_AFTER_MS) };
    let roster = node.rosters.cached(&seat.bare).map_or(0, |roster| roster.version);
    let capsule = Capsule {
        seat: seat.state(fresh_after, roster),
        id: sm.id.clone().unwrap_or_default(),
        timeout_ms: millis(sm.timeout),
        left_ms: millis(remaining(node, session)),
        handled: sm.handled.handled(),
        acked: sm.out.last_acked(),
        unacked,
        waiting,
    };
    (postcard::to_stdvec(&capsule).expect("a capsule is a plain value"), leaves)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long a session without a connection may still wait.
fn remaining(node: &Node, session: &Handover) -> Duration {
    let slept = match session.seat.lost_ms() {
        0 => 0,
        since => node.now_ms().saturating_sub(since),
    };
    session.sm.timeout.saturating_sub(Duration::from_millis(slept))
}

fn send(node: &Node, to: NodeIx, call: Call, bytes: &[u8]) -> bool {
    let mut parts = bytes.chunks(PART_BYTES).peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        if !say(node, to, &Word::Part { call, last, bytes: part.to_vec() }) {
            if !first {
                // What has arrived of it is no capsule.
                tracing::warn!(node = ?node.geo.nodes.name(to), "no room in the link for a session");
            }
            return false;
        }
        first = false;
    }
    true
}

/// A session that was taken out of its task and goes nowhere: it sleeps here as long as it may.
pub fn sleep_on(node: &Arc<Node>, session: Handover) {
    let deadline = Instant::now() + remaining(node, &session);
    let node = node.clone();
    tokio::spawn(async move { end::sleep(&node, session, deadline).await });
}

/// The other node has it: what was in the capsule is theirs to answer for, what came since finds its way anew, and nothing of it ends.
async fn left(
    node: &Arc<Node>,
    to: NodeIx,
    session: Handover,
    waiting: Vec<Delivery>,
    leaves: &[bool],
) {
    let Handover { seat, sm, alive } = session;
    if let Some(id) = &sm.id {
        node.resumable.remove(id);
    }
    let theirs = sm.into_unacked().into_iter().chain(waiting);
    let mut again = Vec::new();
    let mut late = Vec::new();
    let road = Road::new(node);
    let unbound =
        node.directory.unbind_here(&seat.full, seat.generation, node.now_ms(), &road, || {
            for (delivery, leaves) in theirs.zip(leaves) {
                theirs_now(node, &seat, &delivery, *leaves);
            }
            for delivery in seat.close() {
                late.extend(anew(node, &mut again, delivery, &seat));
            }
            std::mem::take(&mut again)
        });
    road.finish();
    node.metrics.sessions.dec();
    node.metrics.moved_away.inc();
    node.drain.count_moved();
    for word in late {
        say(node, to, &word);
    }
    node.moving.forward(&seat.full, to, node.geo.mark());
    node.geo.route.append(node, end::passed(node, &seat, to));
    node.geo.send_due_probes();
    end::tell(node, &seat, SessionEvent::Left).await;
    if unbound.reopen {
        router::reopen(node, &seat.bare);
    }
    let is_elsewhere = |row: &Row<Arc<Seat>>| row.here().is_none();
    let last = node.directory.read(seat.bare.as_str(), |rows| rows.iter().all(is_elsewhere));
    if last.unwrap_or(true) {
        node.rosters.evict(&seat.bare);
    }
    alive.disarm();
}

/// Whoever answers for a message knows who has it: of ours since the word came (`super::answered`), of other nodes' the taker tells them.
fn theirs_now(node: &Node, seat: &Seat, delivery: &Delivery, leaves: bool) {
    if let (Owed::Ledger, Some(via)) = (delivery.owed, delivery.via) {
        let last = node.geo.held.let_go(via, delivery.order);
        // Another session had it too when the capsule was made, and has it no more.
        if last && !leaves {
            end::give_back(node, via, &delivery.stanza, delivery.order, true, seat);
        }
    }
}

/// One that came after the capsule was made. It goes back to where it entered; what was made for this session goes after it.
fn anew(
    node: &Arc<Node>,
    again: &mut Vec<Routed>,
    delivery: Delivery,
    seat: &Seat,
) -> Option<Word> {
    if delivery.owed == Owed::Home {
        return None; // Still filed: it is handed out where the session is.
    }
    let goes_back = goes_back(&delivery);
    let Delivery { stanza, via, order, owed, .. } = delivery;
    let tracked = owed == Owed::Ledger;
    if !goes_back {
        let to = seat.full.clone();
        let was_routed = via.is_some() || order > 0;
        return Some(match shown_by(node, seat, &stanza).filter(|_| !was_routed) {
            Some(of) => Word::AskPresence { to, of },
            None => Word::Late { to, stanza: stanza.bytes().to_vec() },
        });
    }
    match via {
        Some(via) => {
            let others_have_it = tracked && !node.geo.held.let_go(via, order);
            if !others_have_it && !end::give_back(node, via, &stanza, order, tracked, seat) {
                again.extend(router::adopted(node, via, order, tracked, stanza));
            }
        }
        None => {
            let others_have_it = tracked && node.ledger.let_go(order, Holder::Here) != LetGo::Last;
            if !others_have_it {
                // A line that is cut may have kept it here for long.
                let sent_ms = node.ledger.accepted_ms(order).unwrap_or(node.wall_ms());
                let stanza = router::delayed(node, &stanza, sent_ms);
                again.push(Routed { stanza, tries: 0, order, tracked });
            }
        }
    }
    None
}

/// Whether it is routed anew, and not sent after the session.
fn goes_back(delivery: &Delivery) -> bool {
    match delivery.stanza.kind() {
        Kind::Message => delivery.owed == Owed::Ledger || delivery.sole,
        Kind::Iq => delivery.via.is_some() || delivery.order > 0,
        _ => false,
    }
}

/// Whose presence that is, if it came because the session's account watches somebody of ours: where it goes on, the account may watch him no longer, and he
/// may show something else. So it is not carried there, but asked for.
fn shown_by(node: &Node, seat: &Seat, stanza: &Stanza) -> Option<BareJid> {
    let of = stanza.from()?.bare();
    let is_shown = stanza.kind() == Kind::Presence && stanza.type_() == Type::Available;
    let is_ours =
        node.domains.has_accounts(of.domain()) && !abroad::is_abroad(node, seat.bare.domain(), &of);
    (is_shown && is_ours && of != seat.bare).then_some(of)
}
