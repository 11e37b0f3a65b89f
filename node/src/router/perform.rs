//! Room: what features asked for, done in order.

use std::sync::Arc;

use global_distrib::Row;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::payload::carbons;
use xmpp::stanza::{Kind, Stanza};
use xmpp::stream::error::StreamError;

use super::account;
use crate::app::Node;
use crate::feature::Action;
use crate::features::blocking;
use crate::features::push;
use crate::geo::abroad;
use crate::geo::presence::{Presence, local_presence};
use crate::session::{Control, Delivery, Item, Seat};

/// Performs actions in order. `seat` is the session whose stanza led to them; what is for it goes through its mailbox, and so
/// keeps its place behind what was routed to it before. Returns the stream error if the session is to end.
pub fn perform(
    node: &Arc<Node>,
    seat: Option<&Arc<Seat>>,
    actions: Vec<Action>,
) -> Option<StreamError> {
    let mut close = None;
    for action in actions {
        match action {
            Action::Reply(stanza) => match seat {
                Some(seat) => to_seat(node, seat, stanza),
                None => super::route(node, stanza),
            },
            Action::Route(stanza) => super::route(node, stanza),
            Action::ToSeat(seat, stanza) => {
                let taken = seat.take_answer(Delivery::light(stanza.clone()));
                given(node, taken, &stanza);
            }
            Action::ToInterested { account, version, push } => {
                to_interested(node, &account, version, &push);
            }
            Action::Roster { seat, version, answer } => {
                seat.answer_roster(version, answer, |stanza| to_seat(node, &seat, stanza));
            }
            Action::ToAvailable(account, stanza) => {
                let presence =
                    Presence { stanza, generation: Presence::ALWAYS, node: None, withdrawn: false };
                local_presence(node, account.as_str(), &presence)
            }
            Action::Multicast { presence, to } => multicast(node, seat, &presence, to),
            Action::HandOut(seat) => crate::features::offline::hand_out(node, &seat),
            Action::Grant { seat, to } => node.geo.grant(node, &seat, &to),
            Action::Probe { from, to } => node.geo.probe_presence(node, &from, to),
            Action::Show(show) => abroad::show_all(node, &show),
            Action::Copy { account, except, sent, forwarded } => {
                node.geo.carbon(node, &account, except.as_ref(), sent, &forwarded)
            }
            Action::Call { account, entered: (via, order), message } => {
                push::delivered(node, &account, via, order, &message);
            }
            Action::Close(error) => close = Some(error),
        }
    }
    close
}

/// What the session itself shows goes to those who may see it at this moment (XEP-0191 §3.3).
fn multicast(
    node: &Arc<Node>,
    seat: Option<&Arc<Seat>>,
    presence: &Presence,
    mut to: Vec<BareJid>,
) {
    match seat.filter(|seat| seat.generation == presence.generation) {
        Some(seat) => seat.show(|| {
            blocking::hide(seat, &mut to);
            node.geo.multicast(node, presence, &to);
        }),
        None => node.geo.multicast(node, presence, &to),
    }
}

/// Into one local mailbox. A full one refuses: an IQ or message is then bounced to its sender, presence is counted and dropped
/// (the next presence of the same resource makes up for it).
pub fn to_seat(node: &Arc<Node>, seat: &Seat, stanza: Stanza) {
    given(node, seat.take(Delivery::light(stanza.clone())), &stanza);
}

/// The same of presence that somebody has directed to its account (RFC 6121 §4.6): it has a place of its own, for nobody says it again when the session moves.
pub fn directed_to_seat(node: &Arc<Node>, seat: &Seat, stanza: Stanza) {
    let order = node.ledger.next_order();
    given(node, seat.take(Delivery { order, ..Delivery::light(stanza.clone()) }), &stanza);
}

fn given(node: &Arc<Node>, taken: bool, stanza: &Stanza) {
    if !taken {
        node.metrics.mailbox_full.inc();
        if stanza.kind() != Kind::Presence {
            super::undeliverable(node, stanza);
        }
    }
}

/// The local seat of a full JID, if that is bound here.
pub fn seat_of(node: &Node, full: &FullJid) -> Option<Arc<Seat>> {
    let found = |rows: &[Row<Arc<Seat>>]| {
        rows.iter().filter(|row| row.full == *full).find_map(|row| row.here().cloned())
    };
    node.directory.read(full.bare_str(), found).flatten()
}

/// Whether another resource of the same account is connected, here or elsewhere.
pub fn has_others(node: &Node, full: &FullJid) -> bool {
    let others = |rows: &[Row<Arc<Seat>>]| rows.iter().any(|row| row.full != *full);
    node.directory.read(full.bare_str(), others).unwrap_or(false)
}

/// Local seats of an account.
pub fn seats_of(node: &Node, account: &str) -> Vec<Arc<Seat>> {
    node.directory
        .read(account, |rows| rows.iter().filter_map(|row| row.here().cloned()).collect())
        .unwrap_or_default()
}

fn to_interested(node: &Arc<Node>, account: &BareJid, version: u64, push: &Stanza) {
    for seat in seats_of(node, account.as_str()) {
        let addressed = || push.with_to(&Jid::from(&seat.full));
        seat.push_roster(version, addressed, |push| to_seat(node, &seat, push));
    }
}

/// Carbon copies for the local resources of an account that want them: all but `except`, or `only` one.
pub fn local_carbons(
    node: &Arc<Node>,
    account: &BareJid,
    (except, only): (Option<&FullJid>, Option<&FullJid>),
    sent: bool,
    forwarded: &Stanza,
) {
    let refused = |seat: &Arc<Seat>| blocking::refuses(seat, forwarded);
    // Who got the original, as the road has chosen.
    let best = || node.directory.read(account.as_str(), |rows| account::best(rows, refused));
    let best = if except.is_none() { best().flatten().map(|(_, priority)| priority) } else { None };
    for seat in seats_of(node, account.as_str()) {
        let has_it = match except {
            // One that its user's other device wrote to has the original.
            Some(except) => {
                seat.full == *except || (sent && forwarded.to() == Some(seat.address()))
            }
            None => {
                (seat.takes_messages() && Some(seat.priority()) == best)
                    || forwarded.from() == Some(seat.address())
            }
        };
        let is_refused = !sent && blocking::refuses(&seat, forwarded);
        let is_meant = only.is_none_or(|only| seat.full == *only);
        if seat.carbons() && !has_it && !is_refused && is_meant {
            let copy = if sent {
                carbons::sent(&seat.full, forwarded)
            } else {
                carbons::received(&seat.full, forwarded)
            };
            to_seat(node, &seat, copy);
        }
    }
}

/// Ends a local session with a stream error.
pub fn close(seat: &Seat, error: StreamError) {
    // Control always fits; a closed mailbox means the session is gone already.
    let _ = seat.mailbox.push(Item::Control(Control::Close(Box::new(error))));
}
