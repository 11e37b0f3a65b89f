//! The side a session goes to: finds it, asks for it, and makes it at home.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use global_distrib::{NodeIx, Row};
use s2s::link::Incarnation;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::{Kind, Stanza};

use super::capsule::{Call, Capsule, Kept, Why, Word};
use super::protocol::{Say, Taker, Word as Heard};
use super::{Asked, CAPSULE_BYTES_MAX, Given, born, say};
use crate::app::Node;
use crate::feature::{Action, SessionEvent};
use crate::features::{blocking, roster};
use crate::geo::Peer;
use crate::geo::abroad::is_abroad;
use crate::router::perform::{directed_to_seat, seat_of, to_seat};
use crate::router::{self, Holder};
use crate::session::end::{self, Alive};
use crate::session::sm::{Sent, Sm};
use crate::session::{Delivery, Handover, Owed, Seat, State};

/// How long another node may take to give a session: its task hands it over, and what its client had sent is made safe.
const ASK_WITHIN: Duration = Duration::from_secs(11);

/// Capsules that arrive at one time and nobody has asked for. Beyond: the oldest is forgotten, which its giver hears with its last part.
const PUSHED_MAX: usize = 4_096;

/// A session that this client says it had, from whichever node has it.
///
/// # Errors
/// It is not to be had.
pub(in crate::session) async fn fetch(
    node: &Arc<Node>,
    account: &BareJid,
    id: &str,
    h: u32,
) -> Result<Box<Handover>, Why> {
    let (mut moves, mut known) = (false, None);
    for of in places(node, account, id) {
        let (call, given) = ask(node, of, account, id, h).await;
        match given {
            Some(Given::Capsule(bytes)) => {
                let Some(peer) = node.geo.peer_at(of) else { continue };
                let arrived = arrive(node, &peer, Call::Asked(call), &bytes, Some(account)).await;
                return arrived
                    .map(|(session, _)| Box::new(session))
                    .ok_or(Why::NotFound { h: None });
            }
            Some(Given::Refused(why @ Why::TooHigh { .. })) => return Err(why),
            Some(Given::Refused(Why::Moving)) => moves = true,
            Some(Given::Refused(Why::NotFound { h })) => known = known.or(h),
            Some(Given::Over | Given::Silent) | None => {}
        }
    }
    Err(if moves { Why::Moving } else { Why::NotFound { h: known } })
}

/// Where it may be: where the account has sessions, and where the id was given, for what is remembered there. Only who can answer now.
pub(in crate::session) fn places(node: &Node, account: &BareJid, id: &str) -> Vec<NodeIx> {
    let Some((birthplace, life)) = born(id) else { return Vec::new() };
    let mut places: Vec<NodeIx> = node
        .directory
        .read(account.as_str(), |rows| rows.iter().filter_map(Row::there).collect())
        .unwrap_or_default();
    let lives = |peer: &Arc<Peer>| peer.link.incarnation() == Some(Incarnation(life));
    places.extend(node.geo.peer_named(birthplace).filter(lives).map(|peer| peer.ix));
    let mut seen = Vec::new();
    places.retain(|ix| {
        let is_new = !seen.contains(ix);
        seen.push(*ix);
        is_new && node.geo.peer_at(*ix).is_some_and(|peer| peer.link.is_up())
    });
    places
}

async fn ask(
    node: &Arc<Node>,
    of: NodeIx,
    account: &BareJid,
    id: &str,
    h: u32,
) -> (u64, Option<Given>) {
    let call = node.moving.number();
    let (answer, mut answered) = oneshot::channel();
    node.moving.asked.lock().insert(call, Asked { of, arrived: Vec::new(), answer });
    let word = Word::Ask { call, account: account.clone(), id: id.to_owned(), h };
    let asked = say(node, of, &word);
    let given = match asked {
        true => timeout(ASK_WITHIN, &mut answered).await.ok().and_then(Result::ok),
        false => None,
    };
    let given = given.or_else(|| {
        node.moving.asked.lock().remove(&call);
        // It may have come this very moment; what comes from now on is declined by `part`.
        answered.close();
        answered.try_recv().ok()
    });
    let word = match &given {
        Some(Given::Capsule(_)) => Heard::Capsule,
        Some(Given::Refused(_)) => Heard::Refused,
        Some(Given::Over) => Heard::Over,
        Some(Given::Silent) | None => Heard::Deadline,
    };
    tracing::debug!(%account, node = ?node.geo.nodes.name(of), state = ?Taker::Asked.hears(word).0, "asked for a session");
    (call, given)
}

/// A piece of a capsule. The last one makes it whole; what nobody waits for is declined.
pub(super) fn part(node: &Arc<Node>, peer: &Arc<Peer>, call: Call, last: bool, bytes: Vec<u8>) {
    let whole = match call {
        Call::Asked(number) => {
            let mut asked = node.moving.asked.lock();
            let waits = asked.get_mut(&number).filter(|one| one.of == peer.ix);
            let fits = waits.is_some_and(|one| grow(&mut one.arrived, &bytes));
            if !last && fits {
                return;
            }
            let one = if fits || !last { asked.remove(&number) } else { None };
            match one.filter(|_| fits) {
                Some(one) => one.answer.send(Given::Capsule(one.arrived)).is_ok(),
                None => false,
            }
        }
        Call::Pushed(number) => {
            let key = (peer.ix, number);
            let mut pushed = node.moving.pushed.lock();
            let fits = grow(pushed.entry(key).or_default(), &bytes);
            if pushed.len() > PUSHED_MAX {
                pushed.pop_first();
            }
            if !last && fits {
                return;
            }
            let arrived = pushed.remove(&key).filter(|_| fits && last);
            drop(pushed);
            if let Some(arrived) = arrived {
                let (node, peer) = (node.clone(), peer.clone());
                tokio::spawn(async move { pushed_here(&node, &peer, call, &arrived).await });
                return;
            }
            false
        }
    };
    if last && !whole {
        decline(node, peer, call);
    }
}

fn grow(arrived: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let fits = arrived.len() + bytes.len() <= CAPSULE_BYTES_MAX;
    if fits {
        arrived.extend_from_slice(bytes);
    }
    fits
}

fn decline(node: &Node, peer: &Peer, call: Call) {
    let (_, word) = Taker::GivenUp.hears(Heard::Capsule);
    debug_assert_eq!(word, Some(Say::Declined));
    say(node, peer.ix, &Word::Declined { call });
}

/// A node is emptied: the session sleeps here until its client comes.
async fn pushed_here(node: &Arc<Node>, peer: &Peer, call: Call, bytes: &[u8]) {
    let Some((session, left)) = arrive(node, peer, call, bytes, None).await else { return };
    Box::pin(end::sleep(node, session, Instant::now() + left)).await;
}

/// Makes the session at home here: whoever waits for one of its messages knows, then its row says so, then the giver lets go. How long it may
/// sleep still. `None`: it was declined, or is over already.
async fn arrive(
    node: &Arc<Node>,
    from: &Peer,
    call: Call,
    bytes: &[u8],
    account: Option<&BareJid>,
) -> Option<(Handover, Duration)> {
    let made = match postcard::from_bytes::<Capsule>(bytes) {
        Ok(capsule) => prepared(node, capsule, account),
        Err(_) => None,
    };
    let Some(Prepared { capsule, seat, unacked, waiting }) = made else {
        tracing::warn!(peer = %from.id, "a session that cannot be taken over");
        decline(node, from, call);
        return None;
    };
    let Capsule { seat: state, id, timeout_ms, left_ms, handled, acked, .. } = capsule;
    let State { active, is_fresh, catching_up, slept, roster_version, .. } = state;
    blocking::arriving(node, &seat, active).await;
    claim(node, from, unacked.iter().chain(&waiting));
    let sent = unacked.into_iter().map(|(sent, ..)| sent).collect();
    let keeps = Duration::from_millis(timeout_ms);
    let sm = Sm::arrived(&seat, id.clone(), keeps, (handled, acked), sent, &node.config.limits);
    node.moving.is_here(&seat.full);
    node.resumable.add(id, seat.clone());
    if catching_up {
        seat.begin_catching_up();
        let waiting = waiting.into_iter().map(|(sent, ..)| sent.delivery).collect();
        end::no_room(node, &seat, seat.waits_again(waiting));
    }
    let alive = Alive::new(node, &seat);
    let is_known = node.arrive(&seat);
    let (_, word) = Taker::Asked.hears(Heard::Capsule);
    debug_assert_eq!(word, Some(Say::Took));
    say(node, from.ix, &Word::Took { call });
    let session = Handover { seat: seat.clone(), sm: Box::new(sm), alive };
    if !is_known {
        node.metrics.sessions.inc(); // Its end counts it.
        end::abandon(node, session).await;
        return None;
    }
    node.metrics.moved_here.inc();
    if slept {
        seat.set_lost_ms(node.now_ms().max(1));
    }
    if let Some(error) = end::tell(node, &seat, SessionEvent::Arrived).await {
        router::perform::close(&seat, error);
    }
    if catching_up {
        router::perform(node, None, vec![Action::HandOut(seat.clone())]);
    }
    roster::arrived(node, &seat, roster_version).await;
    if is_fresh && seat.is_shown() {
        show_again(node, &seat).await;
    }
    Some((session, Duration::from_millis(left_ms)))
}

/// A stanza of a capsule, the node where it entered, and whether the giver has it no more.
type Claimed = (Sent, Option<NodeIx>, bool);

/// What can be made of a capsule.
struct Prepared {
    capsule: Capsule,
    seat: Arc<Seat>,
    /// What its client has not acknowledged.
    unacked: Vec<Claimed>,
    /// What waits until older messages have been handed out.
    waiting: Vec<Claimed>,
}

/// See [`Prepared`]; nothing is done yet. `None`: nothing can be made of it.
fn prepared(node: &Node, mut capsule: Capsule, account: Option<&BareJid>) -> Option<Prepared> {
    let bare = capsule.seat.full.bare();
    let is_its = account.is_none_or(|account| *account == bare);
    if !is_its || !node.domains.signs_in(bare.domain()) || node.is_leaving() {
        return None;
    }
    let unacked = claimed(node, std::mem::take(&mut capsule.unacked))?;
    let waiting = claimed(node, std::mem::take(&mut capsule.waiting))?;
    if !waiting.is_empty() && !capsule.seat.catching_up {
        return None;
    }
    let seat = node.arriving(&capsule.seat)?;
    Some(Prepared { capsule, seat, unacked, waiting })
}

fn claimed(node: &Node, kept: Vec<Kept>) -> Option<Vec<Claimed>> {
    let me = node.geo.me.to_string();
    let one = |kept| {
        let Kept { stanza, at_ms, via, sole, order, owed, leaves } = kept;
        let via = match via {
            Some(name) if name != me => {
                let ix = node.geo.nodes.index(&name)?;
                node.geo.peer_at(ix)?;
                Some(ix)
            }
            _ => None,
        };
        let stanza = Stanza::parse(stanza.into()).ok()?;
        let delivery = Delivery { stanza, via, sole, order, owed: owed.into() };
        Some((Sent { delivery, at_ms }, via, leaves))
    };
    kept.into_iter().map(one).collect()
}

/// Whoever answers for one of these hears that it is here now; before it can hear what becomes of it here, for that goes the same way.
fn claim<'a>(node: &Arc<Node>, from: &Peer, all: impl Iterator<Item = &'a Claimed>) {
    let mut told: BTreeMap<NodeIx, Vec<(u64, bool)>> = BTreeMap::new();
    for (sent, via, leaves) in all.filter(|(sent, ..)| sent.delivery.owed == Owed::Ledger) {
        let order = sent.delivery.order;
        match via {
            None => node.ledger.moves(order, Holder::There(from.ix), Holder::Here, *leaves),
            Some(via) => {
                node.geo.held.add(*via, order);
                // The giver knows by itself.
                if *via != from.ix {
                    told.entry(*via).or_default().push((order, *leaves));
                }
            }
        }
    }
    for (via, orders) in told {
        let word = Word::Holds { from: from.name.to_string(), orders };
        if !say(node, via, &word) {
            tracing::warn!(node = ?node.geo.nodes.name(via), "no room to say where its messages are");
        }
    }
}

/// It has shown itself a moment before it moved, and not everybody may have heard: who hears of the move first takes the other for old. Whom it asked
/// then may still have to answer, where it was, and that node may be gone by then.
async fn show_again(node: &Arc<Node>, seat: &Arc<Seat>) {
    let Ok(roster) = node.rosters.load(node, &seat.bare).await else { return };
    let contacts = roster.subscriptions().chain(std::iter::once(&seat.bare));
    let ours = contacts.filter(|contact| !is_abroad(node, seat.bare.domain(), contact));
    node.geo.probe_presence(node, &seat.full, ours.cloned().collect());
    let mut to: Vec<BareJid> = roster.subscribers().cloned().collect();
    blocking::hide(seat, &mut to);
    to.push(seat.bare.clone());
    seat.tell_presence(|presence| node.geo.multicast(node, &presence, &to));
}

/// It came for the session where that was before. Presence may be older than what has come here: it is asked for.
pub(super) fn late(node: &Arc<Node>, to: &FullJid, stanza: Stanza) {
    let Some(seat) = seat_of(node, to) else { return };
    if let Some(version) = roster::version_of_push(&stanza) {
        // What has been applied here since may be newer.
        return seat.push_roster(version, || stanza, |push| to_seat(node, &seat, push));
    }
    let of = stanza.from().map(xmpp::jid::Jid::bare);
    let is_presence = stanza.kind() == Kind::Presence;
    match is_presence {
        // What contacts show is asked for, so this is for the session itself.
        true => directed_to_seat(node, &seat, stanza),
        false => to_seat(node, &seat, stanza),
    }
    if let Some(of) = of.filter(|of| {
        let roster = node.rosters.cached(&seat.bare);
        is_presence && roster.is_some_and(|roster| roster.has_subscription(of.as_str()))
    }) {
        node.geo.probe_presence(node, to, vec![of]);
    }
}
