//! Room: presence on its way to contacts, here and in other regions. What a session says of itself goes to every region, one copy each; a
//! region that hears of it late (over another link than what came after, or behind a roster that was being read) knows by its session rows that it
//! is out of date, and drops it: presence of a full JID has one writer, the session with the newest generation.
//! Called by features' actions, `light`, `user`. RFC 6121 §4; docs/decisions/0005.

use std::collections::BTreeMap;
use std::sync::Arc;

use global_distrib::{NodeIx, Row};
use replication::Hlc;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, Type};

use super::frame::{self, PresenceProbe};
use super::{Geo, Peer, abroad};
use crate::app::Node;
use crate::features::blocking;
use crate::router::perform::{self, seat_of};
use crate::session::{Seat, moving};

/// Presence of somebody, and since when that somebody is bound.
#[derive(Clone, Debug)]
pub struct Presence {
    /// What is shown.
    pub stanza: Stanza,
    /// The generation of the session it is of; [`Presence::ALWAYS`]: true whatever the rows say.
    pub generation: Hlc,
    /// The node of that session; `None`: this one. Two nodes may have made the same generation.
    pub node: Option<NodeIx>,
    /// `unavailable` of a session that is still there, to a contact that may see it no longer.
    pub withdrawn: bool,
}

impl Presence {
    /// Of no session in particular: it is to be delivered as it is.
    pub const ALWAYS: Hlc = Hlc(u64::MAX);

    /// Whether the rows say otherwise. They are always ahead: a node tells of a row before it tells what that session shows (see `route`), and a
    /// full JID has one row here at most. So what a session shows is out of date when the row is not its own; and its end is when there is a row
    /// that shows itself, be its generation newer or (made by a clock that is behind) older: whoever never was under it is seen already. Whoever
    /// comes out from under a session that has ended is asked for (`light::brought_out`), and comes behind that end; it may be gone by then.
    pub(super) fn is_stale(&self, node: &Node) -> bool {
        let Some(from) = self.stanza.from() else { return false };
        if self.generation == Self::ALWAYS {
            return false;
        }
        let gone = self.stanza.type_() == Type::Unavailable;
        let mut emerged = None;
        let stale = node.directory.read(from.bare_str(), |rows| {
            let row = rows.iter().find(|row| row.full.as_str() == from.as_str());
            emerged = row.filter(|row| row.emerged).map(|row| row.full.clone());
            match row {
                // The session may be gone, and the contact is still to hear that it sees it no longer.
                _ if self.withdrawn => row.is_some_and(|row| row.generation > self.generation),
                Some(row) if gone => row.available && row.lit && !row.hidden && !row.emerged,
                Some(row) => row.generation != self.generation || row.there() != self.node,
                None => !gone,
            }
        });
        let stale = stale.unwrap_or(!gone);
        if let Some(full) = emerged.filter(|_| !gone && !stale) {
            // It shows itself: what is late of the one it was under does not hide it any more.
            node.directory.seen(&full, self.generation);
        }
        stale
    }

    /// Notes that the contact sees it, while a subscription is ending.
    fn is_shown_to(&self, node: &Node, contact: &str) {
        let Some(from) = self.stanza.from() else { return };
        if self.withdrawn {
            if let Ok(contact) = BareJid::parse(contact) {
                node.geo.partings.told(&from.bare(), &contact, from.as_str());
            }
        } else if self.stanza.type_() != Type::Unavailable {
            node.geo.partings.shown(from.bare_str(), contact, from.as_str());
        }
    }

    /// Whether the account watches whom this is of. Its own roster says so, here as everywhere: what comes before it has heard of the grant it
    /// asks for later (`relation::gained`), what comes after it has heard of the end would make a ghost. That a session is gone it may hear of
    /// in any case: the session may have left the rows before the end was heard of.
    fn is_watched_by(&self, node: &Node, account: &str) -> bool {
        let gone = self.stanza.type_() == Type::Unavailable && !self.withdrawn;
        if gone || self.generation == Self::ALWAYS {
            return true;
        }
        self.stanza.from().is_none_or(|from| node.rosters.watches(account, from.bare_str()))
    }
}

impl Geo {
    /// Presence for the available resources of `to`, wherever they are: local ones at once, and one frame to every other live node,
    /// which knows its own rows best. All of them, not only those with rows here: a resource that is just binding there would
    /// otherwise miss it (its own probe may have passed ours on the way). Those at other domains get a stanza each, from here.
    pub fn multicast(&self, node: &Arc<Node>, presence: &Presence, to: &[BareJid]) {
        let of = presence.stanza.from().map_or("", Jid::domain);
        let is_abroad = |account: &BareJid| abroad::is_abroad(node, of, account);
        // Nothing is copied for those who have no contacts elsewhere.
        if to.iter().any(is_abroad) {
            let (abroad, here): (Vec<BareJid>, Vec<BareJid>) =
                to.iter().cloned().partition(is_abroad);
            abroad::tell(node, presence, &abroad);
            self.multicast_here(node, presence, &here);
        } else {
            self.multicast_here(node, presence, to);
        }
    }

    /// The same, all of them accounts of ours to whom it does not leave.
    pub fn multicast_here(&self, node: &Arc<Node>, presence: &Presence, to: &[BareJid]) {
        if to.is_empty() {
            return;
        }
        if !presence.is_stale(node) {
            for account in to {
                shown_here(node, account.as_str(), presence);
            }
        }
        for (_, ix) in self.live() {
            self.multicast_to(node, ix, presence, to);
        }
    }

    /// The part of [`Geo::multicast`] for one node.
    pub fn multicast_to(&self, node: &Node, ix: NodeIx, presence: &Presence, to: &[BareJid]) {
        for part in frame::parts(to) {
            let kind = if presence.withdrawn { frame::WITHDRAWN } else { frame::MULTICAST };
            let sent = self.send_with(ix, kind, |out| {
                frame::write_multicast(out, presence.generation, part, presence.stanza.bytes());
            });
            if sent.is_none() {
                node.metrics.presence_dropped.inc();
            }
        }
    }

    /// What a local session shows, to an account that was just granted it. A region that does not know of the grant yet drops it, and asks
    /// by itself when it does: so a client never sees the presence of somebody who is not yet in its roster.
    pub fn grant(&self, node: &Arc<Node>, seat: &Seat, to: &BareJid) {
        if abroad::is_abroad(node, seat.bare.domain(), to) {
            return abroad::show(node, seat, &Jid::from(to));
        }
        let live = self.live();
        seat.tell_presence(|presence| {
            granted_here(node, &presence, to);
            for (_, ix) in &live {
                self.send_with(*ix, frame::GRANT, |out| {
                    let to = std::slice::from_ref(to);
                    frame::write_multicast(out, presence.generation, to, presence.stanza.bytes());
                });
            }
        });
    }

    /// Tells a local resource the presence of `to`'s resources: local ones at once, others by asking the nodes that have them, or other servers.
    pub fn probe_presence(&self, node: &Arc<Node>, from: &FullJid, to: Vec<BareJid>) {
        let mut elsewhere: BTreeMap<NodeIx, Vec<BareJid>> = BTreeMap::new();
        let Some(asker) = seat_of(node, from) else { return };
        for account in to {
            if abroad::is_abroad(node, asker.bare.domain(), &account) {
                abroad::probe(node, &asker, &account);
                continue;
            }
            self.passings.ask(account.as_str(), from);
            let shown = node.rosters.shows_to(&account, &asker.bare);
            let mut here: Vec<Arc<Seat>> = Vec::new();
            node.directory.read(account.as_str(), |rows| {
                for row in rows.iter().filter(|row| row.available && row.lit && row.full != *from) {
                    match (row.here(), row.there()) {
                        (Some(seat), _) if shown => here.push(seat.clone()),
                        (None, Some(ix)) => {
                            let asked = elsewhere.entry(ix).or_default();
                            if asked.last() != Some(&account) {
                                asked.push(account.clone());
                            }
                        }
                        _ => {}
                    }
                }
            });
            for seat in here {
                if blocking::hides(&seat, asker.address()) {
                    continue;
                }
                seat.tell_presence(|presence| to_asker(node, &asker, &presence));
            }
        }
        for (ix, to) in elsewhere {
            for to in frame::parts(&to).map(<[BareJid]>::to_vec) {
                let probe = PresenceProbe { from: from.clone(), to };
                if self.send_value(ix, frame::PRESENCE_PROBE, &probe).is_none() {
                    node.metrics.presence_dropped.inc();
                }
            }
        }
    }
}

/// RFC 6121 §4.3.2: the presence of our resources, to the one that asks. The asking region looked at the asker's roster, we look at the account's:
/// if ours has not heard of the grant yet, it tells when it does, and if it has heard of the end, it has told. On the way of all presence, so that
/// none passes another.
pub fn answer_probe(node: &Arc<Node>, peer: &Peer, probe: &PresenceProbe) {
    let asker = probe.from.bare();
    for account in probe.to.iter().filter(|account| node.rosters.shows_to(account, &asker)) {
        let to = Jid::from(&probe.from);
        let seats = perform::seats_of(node, account.as_str()).into_iter();
        for seat in seats.filter(|seat| !blocking::hides(seat, &to)) {
            seat.tell_presence(|presence| {
                let sent = node.geo.send_with(peer.ix, frame::PRESENCE, |out| {
                    let (generation, stanza) = (presence.generation, presence.stanza.bytes());
                    frame::write_presence(out, generation, &probe.from, stanza);
                });
                if sent.is_none() {
                    node.metrics.presence_dropped.inc();
                }
            });
        }
    }
}

/// An answer to a probe of ours.
pub fn answered(node: &Arc<Node>, presence: &Presence, to: &FullJid) {
    let Some(seat) = seat_of(node, to) else { return moving::presence_missed(node, to, presence) };
    if !presence.is_stale(node) && presence.is_watched_by(node, to.bare_str()) {
        presence.is_shown_to(node, to.bare_str());
        to_asker(node, &seat, presence);
    }
}

/// What was asked for, if the asker's account watches, by now: as [`to_available`]. One that has become unavailable meanwhile, or was bound anew,
/// would not hear of its end; it asks again when it shows itself.
fn to_asker(node: &Arc<Node>, asker: &Seat, presence: &Presence) {
    if blocking::refuses(asker, &presence.stanza) {
        return;
    }
    node.directory.read(asker.bare.as_str(), |rows| {
        let hears = asker.asks() || rows.iter().any(|row| row.available && row.full == asker.full);
        if hears && presence.is_watched_by(node, asker.bare.as_str()) {
            perform::to_seat(node, asker, presence.stanza.with_to(asker.address()));
        }
    });
}

/// Presence that may be out of date, for the available resources of one account on this node.
pub fn local_presence(node: &Arc<Node>, account: &str, presence: &Presence) {
    if presence.is_stale(node) {
        tracing::debug!(from = ?presence.stanza.from(), to = account, "presence that is out of date");
    } else {
        shown_here(node, account, presence);
    }
}

/// The contact's roster says that it watches the account no longer: it sees nobody of it, whatever it has been shown.
pub fn parted(node: &Arc<Node>, contact: &BareJid, account: &BareJid) {
    let told = node.geo.partings.end(account, contact);
    let shown = |rows: &[Row<Arc<Seat>>]| -> Vec<FullJid> {
        // Also one that was bound anew and has said nothing yet: what its predecessor showed may still be seen, and that one's end is known to be
        // late.
        let hides = |row: &Row<Arc<Seat>>| {
            row.hidden || row.available && row.here().is_some_and(|seat| !seat.is_shown())
        };
        // Also of a node that is silent: who watched by the contact's roster alone was not told of that.
        let shown = rows.iter().filter(|row| !hides(row));
        shown.map(|row| row.full.clone()).filter(|full| !told.contains(full.as_str())).collect()
    };
    let rows = || node.directory.read(account.as_str(), shown).unwrap_or_default();
    let mut gone = rows();
    // One is noted as passing before its row goes, and until its next one is there; and one that ended while rosters were not told of is noted too. Who is
    // in neither was never seen, or its end was.
    let passing = node.geo.passings.of(account.as_str()).into_iter();
    let departed = node.geo.departed.of(account.as_str()).into_iter();
    gone.extend(passing.chain(departed).filter(|full| !told.contains(full.as_str())));
    gone.extend(rows());
    gone.sort();
    gone.dedup();
    for full in gone {
        let stanza = Stanza::presence(None, Some(&Jid::from(&full)), Type::Unavailable).build();
        to_available(node, contact.as_str(), &stanza, false, || true);
    }
}

/// As it is, if the account watches. Its roster is asked for presence of this node too: the rosters of two accounts have two homes, and the copies
/// of them here may be of two times.
fn shown_here(node: &Arc<Node>, account: &str, presence: &Presence) {
    let watches = || presence.is_watched_by(node, account);
    if (presence.withdrawn || !node.geo.partings.is_empty()) && watches() {
        presence.is_shown_to(node, account);
    }
    let directed = presence.generation == Presence::ALWAYS;
    to_available(node, account, &presence.stanza, directed, watches);
}

/// `watches` is asked if somebody is there, in one step with what follows from it: what it has let through, `parted` comes behind.
fn to_available(
    node: &Arc<Node>,
    account: &str,
    stanza: &Stanza,
    directed: bool,
    watches: impl FnOnce() -> bool,
) {
    node.directory.read(account, |rows| {
        let mut seats = rows.iter().filter(|row| row.available).filter_map(Row::here).peekable();
        if seats.peek().is_none() || !watches() {
            return;
        }
        let mut addressed: Option<Stanza> = None;
        for seat in seats {
            // The account's name, as the seat has it: prepared.
            let stanza = addressed.get_or_insert_with(|| stanza.with_to(&Jid::from(&seat.bare)));
            let own = stanza.from().is_some_and(|from| *from == *seat.full.as_str());
            // A resource's own unavailable presence does not come back to it: it is leaving.
            let leaves = own && stanza.type_() == Type::Unavailable;
            if !leaves && !blocking::refuses(seat, stanza) {
                match directed {
                    true => perform::directed_to_seat(node, seat, stanza.clone()),
                    false => perform::to_seat(node, seat, stanza.clone()),
                }
            }
        }
    });
}

/// The local part of [`Geo::grant`]. Only accounts with sessions here are looked at, and their rosters are at hand.
pub fn granted_here(node: &Arc<Node>, presence: &Presence, to: &BareJid) {
    let Some(from) = presence.stanza.from().map(Jid::bare) else { return };
    let knows =
        node.rosters.cached(to).is_some_and(|roster| roster.has_subscription(from.as_str()));
    if knows {
        local_presence(node, to.as_str(), presence);
    }
}

#[cfg(test)]
mod tests;
