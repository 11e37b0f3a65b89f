//! Room: the router. `decide` says where a stanza goes, the one `match` here carries it out; `account` are the rules of
//! RFC 6121 §8, `road` the roads out of the session table, `ledger` what this node has promised, `bounce` the only place that turns a
//! stanza round.
//! Called by sessions (after the outbound features), by features' actions, and by `geo` for what other nodes bring.

pub mod account;
pub mod bounce;
pub mod decide;
pub mod ledger;
pub mod perform;
pub mod road;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use global_distrib::{Choice, NodeIx, Outcome, Refusal, Row};
use smallvec::SmallVec;
use xmpp::jid::BareJid;
use xmpp::payload::delay;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

pub use self::bounce::{bounce, bounce_for, undeliverable};
pub use self::decide::{Destination, Domains, Named, decide};
use self::ledger::Due;
pub use self::ledger::{Holder, Ledger, LetGo};
pub use self::perform::perform;
use self::road::Road;
use crate::app::Node;
use crate::components;
use crate::feature::{Ctx, Iq, Target};
use crate::features::blocking;
use crate::federation;
use crate::geo::frame::TRIES_MAX;
use crate::geo::presence::Presence;
use crate::service;
use crate::session::{Delivery, Owed, Receipt, Seat};

/// A stanza on its way to an account.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The stanza.
    pub stanza: Stanza,
    /// How often it was routed anew; bounded by `TRIES_MAX`.
    pub tries: u8,
    /// Its place among all that this node accepted.
    pub order: u64,
    /// It is in the ledger under its order, until somebody has kept it.
    pub tracked: bool,
}

/// The stanza with a note of when it was sent (XEP-0203), if it has none of ours yet. What its sender says of another time stays. An IQ has room for
/// its payload alone (RFC 6120 §8.2.3).
pub fn delayed(node: &Node, stanza: &Stanza, sent_at_ms: u64) -> Stanza {
    if stanza.kind() == Kind::Iq || is_delayed(node, stanza) {
        return stanza.clone();
    }
    stanza.with_child(&delay::element(sent_at_ms, Some(&node.server), None))
}

fn is_delayed(node: &Node, stanza: &Stanza) -> bool {
    let is_ours = |delay: &Element| {
        delay.is("delay", xmpp::ns::DELAY) && delay.attr("from") == Some(node.server.as_str())
    };
    stanza.has_child("delay", xmpp::ns::DELAY) && stanza.element().children().any(is_ours)
}

/// What leaves so long after it was accepted says when that was.
const LATE_MS: u64 = 1_000;

/// As [`delayed`], if that is some time ago. An IQ has no time.
pub fn late(node: &Node, stanza: Stanza, accepted_ms: u64) -> Stanza {
    match node.wall_ms().saturating_sub(accepted_ms) >= LATE_MS && stanza.kind() != Kind::Iq {
        true => delayed(node, &stanza, accepted_ms),
        false => stanza,
    }
}

/// One of our ledger that a node gave back. A session that had it and has ended made it say so, with the time when it ended: what is meant is when it
/// was sent. One that comes back because nobody had it says so if that is some time ago.
pub fn given_back(node: &Node, stanza: Stanza, order: u64) -> Stanza {
    let Some(accepted_ms) = node.ledger.accepted_ms(order) else { return stanza };
    match is_delayed(node, &stanza) {
        true => delayed(node, &delay::without(&stanza, |who| *who == node.server), accepted_ms),
        false => late(node, stanza, accepted_ms),
    }
}

/// Routes a stanza by its `to`. Never waits; whatever becomes of it is settled later.
pub fn route(node: &Arc<Node>, stanza: Stanza) {
    route_from(node, stanza, None);
}

/// As [`route`]; for a message of a client, or of another domain, that wants to know when it is handled.
pub fn route_from(node: &Arc<Node>, stanza: Stanza, receipt: Option<Receipt>) {
    match decide(&stanza, &node.domains) {
        Destination::Account(account) => to_account(node, &account, stanza, receipt),
        // Answered, and so handled: the receipt is dropped behind the answer.
        Destination::Service(at) => service::take(node, at, &stanza),
        Destination::Component(domain) => enter(node, &domain, stanza, receipt),
        // An error of our own about a request of our own.
        Destination::Server if matches!(stanza.type_(), Type::Result | Type::Error) => {
            let iq = Iq { stanza, target: Target::Server };
            let mut ctx = Ctx::new(node, None);
            if iq.stanza.kind() == Kind::Iq {
                node.features.answer(&mut ctx, &iq);
            }
            perform(node, None, ctx.actions);
        }
        Destination::Server | Destination::NoService => undeliverable(node, &stanza),
        // XEP-0175 §3: whoever is not known here is not sent elsewhere.
        Destination::Foreign if is_guest(node, &stanza) => {
            bounce(node, &stanza, &StanzaError::not_allowed());
        }
        Destination::Foreign => federation::send(node, stanza, receipt),
    }
}

fn is_guest(node: &Node, stanza: &Stanza) -> bool {
    stanza.from().is_some_and(|from| node.domains.has_guests(from.domain()))
}

fn to_account(node: &Arc<Node>, account: &BareJid, stanza: Stanza, receipt: Option<Receipt>) {
    if stanza.kind() == Kind::Presence {
        let full = stanza.to().is_some_and(|to| to.resource().is_some());
        if !full && matches!(stanza.type_(), Type::Available | Type::Unavailable | Type::Error) {
            let presence =
                Presence { stanza, generation: Presence::ALWAYS, node: None, withdrawn: false };
            node.geo.multicast_here(node, &presence, std::slice::from_ref(account));
            return;
        }
    }
    enter(node, account, stanza, receipt);
}

/// From here on it has its place among what goes to this addressee.
fn enter(node: &Arc<Node>, to: &BareJid, stanza: Stanza, receipt: Option<Receipt>) {
    let order = node.ledger.next_order();
    let tracked = receipt.is_some();
    if let Some(receipt) = receipt {
        let due = Due::Client(receipt);
        let entered = node.ledger.enter(order, &stanza, due, node.now_ms(), node.wall_ms());
        if let Err(_due) = entered {
            return bounce(node, &stanza, &StanzaError::resource_constraint());
        }
    }
    dispatch(node, to, Routed { stanza, tries: 0, order, tracked });
}

/// Whose rows of the session table a stanza goes by.
pub fn addressee(node: &Node, stanza: &Stanza) -> Option<BareJid> {
    stanza.to().map(|to| node.domains.addressee(to))
}

/// Whether it leaves by federation.
pub fn leaves(node: &Node, stanza: &Stanza) -> bool {
    stanza.to().is_some_and(|to| node.domains.leaves(stanza.from(), to))
}

/// Whether what is dispatched is for a component, by its rows: everything else that is has users.
fn is_to_component(node: &Node, stanza: &Stanza) -> bool {
    stanza.to().is_some_and(|to| !node.domains.has_users(to.domain()))
}

/// Which of an addressee's rows get a stanza: the resources of an account (RFC 6121 §8.5), or one connection of a component.
pub fn choose(
    node: &Node,
    stanza: &Stanza,
    rows: &[Row<Arc<Seat>>],
    refused: impl Fn(&Arc<Seat>) -> bool,
) -> Choice<Arc<Seat>> {
    match is_to_component(node, stanza) {
        true => components::choose_row(node, stanza, rows),
        false => account::choose(stanza, rows, refused),
    }
}

/// Hands a stanza to the session table, in the addressee's order.
pub fn dispatch(node: &Arc<Node>, account: &BareJid, routed: Routed) {
    let road = Road::new(node);
    let outcome = node.directory.dispatch(account, routed, node.now_ms(), &road);
    road.finish();
    settle(node, account, outcome);
}

/// A node sent a stanza back: no session there has it any more. `early`: it was not even tried.
pub fn returned(node: &Arc<Node>, refusal: Refusal, mut routed: Routed, early: bool) {
    let Some(account) = addressee(node, &routed.stanza) else { return };
    routed.tries = routed.tries.saturating_add(u8::from(!early));
    if routed.tries >= TRIES_MAX {
        node.directory.refused(&account, refusal);
        return too_many_tries(node, &routed);
    }
    let road = Road::new(node);
    let outcome = node.directory.returned(&account, routed, refusal, node.now_ms(), &road);
    road.finish();
    settle(node, &account, outcome);
}

/// A client has these, or they left for a client that acknowledges nothing: whoever waits to hear of them is told. Cheap when nobody does.
pub fn kept(node: &Arc<Node>, seat: &Arc<Seat>, deliveries: impl Iterator<Item = Delivery>) {
    let mut filed = None;
    let of_ledgers = deliveries.filter_map(|Delivery { via, order, owed, .. }| match owed {
        Owed::Nothing => None,
        Owed::Home => {
            filed = filed.max(Some(order));
            None
        }
        Owed::Ledger => Some((via, order)),
    });
    kept_of(node, of_ledgers);
    if let Some(upto) = filed {
        crate::features::offline::handed_out(node, seat, upto);
    }
}

/// These are kept by somebody, each of the ledger of the node where it entered (`None`: ours).
pub fn kept_of(node: &Arc<Node>, orders: impl Iterator<Item = (Option<NodeIx>, u64)>) {
    let mut told: SmallVec<[(NodeIx, Vec<u64>); 1]> = SmallVec::new();
    for (via, order) in orders {
        let Some(via) = via else {
            kept_here(node, order);
            continue;
        };
        if node.geo.held.kept(via, order) {
            match told.iter_mut().find(|(known, _)| *known == via) {
                Some((_, orders)) => orders.push(order),
                None => told.push((via, vec![order])),
            }
        }
    }
    for (via, orders) in told {
        node.geo.tell_kept(via, &orders);
    }
}

/// A message of our ledger is kept by somebody.
pub fn kept_here(node: &Node, order: u64) {
    let Some((due, stanza)) = node.ledger.kept(order) else { return };
    // What was on its way to another domain may be a component's by now.
    if node.federation.open() > 0 && (is_to_component(node, &stanza) || leaves(node, &stanza)) {
        node.federation.over(order);
    }
    match due {
        // Dropping a receipt tells the client.
        Due::Client(_) | Due::Nobody | Due::Passing => {}
        Due::Node(via, order) => {
            if node.geo.held.kept(via, order) {
                node.geo.tell_kept(via, &[order]);
            }
        }
    }
}

/// Whether somebody has kept it while it waited here to be routed anew: then it goes nowhere, and nobody hears that it did not arrive.
fn is_kept(node: &Node, routed: &Routed) -> bool {
    routed.tracked && !node.ledger.has(routed.order)
}

/// It has come to an end: its sender has an error, or nobody is to have it.
fn over(node: &Node, routed: &Routed) {
    if routed.tracked {
        kept_here(node, routed.order);
    }
}

/// Nobody who is there may have it, by the addressee's privacy lists: its sender has one error, as if nobody were there (XEP-0191 §3.3). A room
/// that is blocked gets none, for it would take it for the occupant's end.
pub fn denied(node: &Arc<Node>, routed: &Routed) {
    if routed.stanza.type_() == Type::Groupchat {
        node.metrics.routed.ignored.inc();
    } else {
        undeliverable(node, &routed.stanza);
    }
    over(node, routed);
}

/// Whether what nobody takes is what a room sends to one of its occupants here who has blocked it.
fn is_blocked_room(node: &Node, stanza: &Stanza) -> bool {
    stanza.type_() == Type::Groupchat
        && stanza
            .to()
            .and_then(xmpp::jid::Jid::full)
            .and_then(|full| perform::seat_of(node, &full))
            .is_some_and(|seat| blocking::refuses(&seat, stanza))
}

/// Whether that is presence for which a component is only a contact, or one that watches ours (XEP-0356 §7): its sender has not asked for an answer. Who
/// enters a room of a component's does (XEP-0045 §7.2).
fn is_shown_to_component(node: &Node, stanza: &Stanza) -> bool {
    let is_shown = match stanza.type_() {
        _ if stanza.kind() != Kind::Presence => false,
        Type::Available => stanza.to().is_some_and(|to| to.resource().is_none()),
        kind => kind == Type::Unavailable,
    };
    is_shown && is_to_component(node, stanza)
}

/// It finds no place: its sender has an error, if it is one who wants to know.
fn refuse(node: &Arc<Node>, routed: &Routed, error: &StanzaError) {
    if is_kept(node, routed) {
        return;
    }
    if is_shown_to_component(node, &routed.stanza) {
        node.metrics.routed.ignored.inc();
    } else {
        bounce(node, &routed.stanza, error);
    }
    over(node, routed);
}

/// Looks again at what waits for an addressee.
pub fn reopen(node: &Arc<Node>, account: &BareJid) {
    let road = Road::new(node);
    let outcomes = node.directory.reopen(account, node.now_ms(), &road);
    road.finish();
    for outcome in outcomes {
        settle(node, account, outcome);
    }
}

/// A message of a former life, or of a node that has fallen, goes on its way: to an account or to another domain.
pub fn go_on(node: &Arc<Node>, to: &BareJid, routed: Routed) {
    if leaves(node, &routed.stanza) {
        federation::send_again(node, routed);
    } else {
        dispatch(node, to, routed);
    }
}

/// What a session had not handed on when it ended: routed anew, ahead of everything newer.
pub fn put_back(node: &Arc<Node>, account: &BareJid, stanzas: Vec<Routed>) {
    // All of them are for the same, and from everybody: between regions' own domains that makes a difference.
    let (away, stanzas): (Vec<Routed>, Vec<Routed>) =
        stanzas.into_iter().partition(|routed| leaves(node, &routed.stanza));
    let none_stays = !away.is_empty() && stanzas.is_empty();
    away.into_iter().for_each(|routed| federation::send_again(node, routed));
    if none_stays {
        return;
    }
    let road = Road::new(node);
    node.directory.put_back_all(account, stanzas, node.now_ms(), &road);
    road.finish();
    reopen(node, account);
}

/// A node has none of these messages of ours, though that is all we know of where they are: they are routed anew.
pub fn nowhere(node: &Arc<Node>, at: NodeIx, orders: &BTreeSet<u64>) {
    let mut back = Vec::new();
    for order in orders {
        let Some((accepted_ms, stanza)) = node.ledger.look(*order) else { continue };
        // What is for another domain its gateway has.
        if !leaves(node, &stanza) && node.ledger.is_not_with(*order, at) {
            let stanza = delayed(node, &stanza, accepted_ms);
            back.push(Routed { stanza, tries: 1, order: *order, tracked: true });
        }
    }
    for account in put_back_all(node, back) {
        reopen(node, &account);
    }
}

/// What was on its way and cannot arrive: each takes its place in front of its addressee; what is for another domain leaves. Whom to [`reopen`] when all
/// is back.
pub fn put_back_all(node: &Arc<Node>, stanzas: Vec<Routed>) -> BTreeSet<BareJid> {
    let mut by_account: BTreeMap<BareJid, Vec<Routed>> = BTreeMap::new();
    for routed in stanzas {
        let Some(account) = addressee(node, &routed.stanza) else { continue };
        if leaves(node, &routed.stanza) {
            federation::send_again(node, routed);
        } else {
            by_account.entry(account).or_default().push(routed);
        }
    }
    let road = Road::new(node);
    for (account, stanzas) in &mut by_account {
        let stanzas = std::mem::take(stanzas);
        node.directory.put_back_all(account, stanzas, node.now_ms(), &road);
    }
    road.finish();
    by_account.into_keys().collect()
}

/// A message that entered at `via` and cannot be given back there: it is ours from now on. `None`: the ledger has no room, and it stays
/// where it entered, if it was promised there.
pub fn adopted(
    node: &Node,
    via: NodeIx,
    order: u64,
    tracked: bool,
    stanza: Stanza,
) -> Option<Routed> {
    let own = node.ledger.next_order();
    if tracked {
        node.geo.held.take(via, order, 1);
        let due = Due::Node(via, order);
        if node.ledger.enter(own, &stanza, due, node.now_ms(), node.wall_ms()).is_err() {
            tracing::warn!(to = ?stanza.to(), "no room to take over a message of another node");
            return None;
        }
    }
    Some(Routed { stanza, tries: 0, order: own, tracked })
}

/// The same, and on its way at once.
pub fn adopt(node: &Arc<Node>, via: NodeIx, order: u64, tracked: bool, stanza: Stanza) {
    let routed = adopted(node, via, order, tracked, stanza);
    for account in put_back_all(node, routed.into_iter().collect()) {
        reopen(node, &account);
    }
}

fn too_many_tries(node: &Arc<Node>, routed: &Routed) {
    tracing::warn!(to = ?routed.stanza.to(), tries = routed.tries, "a stanza found no place after many tries");
    node.metrics.hops_exhausted.inc();
    refuse(node, routed, &StanzaError::remote_server_timeout());
}

fn settle(node: &Arc<Node>, account: &BareJid, outcome: Outcome<Routed>) {
    match outcome {
        Outcome::Sent => {}
        Outcome::Held => {
            node.metrics.routed.parked.inc();
        }
        Outcome::Nobody(routed) if is_kept(node, &routed) => {}
        Outcome::Nobody(routed) if is_blocked_room(node, &routed.stanza) => denied(node, &routed),
        Outcome::Nobody(routed) => {
            undeliverable(node, &routed.stanza);
            over(node, &routed);
        }
        Outcome::Expired(routed) => refuse(node, &routed, &StanzaError::remote_server_timeout()),
        Outcome::Full(routed) => refuse(node, &routed, &StanzaError::resource_constraint()),
        Outcome::File(batch) => file(node, account, batch),
    }
}

/// Errors made before those they are for have a turn.
const REFUSED_AT_ONCE: usize = 128;

/// How long to wait before a home that has answered *elsewhere* is asked again: 20 ms, then twice as long each time, at most 5 s; all [`TRIES_MAX`]
/// together three quarters of a minute, longer than a line is cut before its region counts as down.
fn until_tables_agree(tries: u8) -> Duration {
    const FIRST_MS: u64 = 20;
    const LONGEST_MS: u64 = 5_000;
    Duration::from_millis((FIRST_MS << tries.min(TRIES_MAX)).min(LONGEST_MS))
}

/// Files a batch at the addressee's home; the addressee's gate stays shut until the home has answered.
fn file(node: &Arc<Node>, account: &BareJid, mut batch: Vec<Routed>) {
    batch.retain(|routed| !is_kept(node, routed));
    let node = node.clone();
    let account = account.clone();
    node.count_filing(true);
    tokio::spawn(async move {
        let filed = crate::features::offline::file(&node, &account, batch).await;
        filed.kept.iter().for_each(|routed| over(&node, routed));
        for (at, (routed, error)) in filed.refused.into_iter().enumerate() {
            if at % REFUSED_AT_ONCE == REFUSED_AT_ONCE - 1 {
                tokio::task::yield_now().await; // Many may be one sender's, whose mailbox has a bound.
            }
            refuse(&node, &routed, &error);
        }
        let mut back = Vec::new();
        // The home knows of a session that is not known here, or is not any more: one of the two will hear of it.
        if let Some(tries) = filed.elsewhere.iter().map(|routed| routed.tries).max() {
            tokio::time::sleep(until_tables_agree(tries)).await;
        }
        for mut routed in filed.elsewhere {
            routed.tries = routed.tries.saturating_add(1);
            if routed.tries >= TRIES_MAX {
                too_many_tries(&node, &routed);
            } else {
                back.push(routed);
            }
        }
        let outcomes = {
            let road = Road::new(&node);
            let outcomes = node.directory.filed(&account, back, node.now_ms(), &road);
            road.finish();
            outcomes
        };
        for outcome in outcomes {
            settle(&node, &account, outcome);
        }
        node.count_filing(false);
    });
}
