//! Room: presence for those at other domains. They have a server of their own, so there is nobody here who knows what they have seen: what a session
//! shows them goes out at the node of that session, one stanza each, in the order in which it came about, and nothing else says it for it.
//! RFC 6121 §4. Called by `presence` for the part of a broadcast that leaves, by features' actions, by `user` for what other nodes ask.
//!
//! A session whose node has died can say nothing any more. All nodes that are left hear of that death, and one of them tells the contacts abroad:
//! the one with the lowest name ([`gone`]). A node that is only silent may be alive and tell them itself, so nothing is told of its sessions
//! until it is known to be over. One that was declared down and has lived on shows its users again ([`again`]).
//!
//! Left out: a deployment of one node that dies tells nobody abroad, for nobody is left (its contacts see it when they next ask); whom a session that
//! died had sent directed presence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use global_distrib::{NodeIx, Row};
use parking_lot::Mutex;
use replication::Hlc;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, Type};

use super::frame;
use super::light::available_here;
use super::presence::Presence;
use crate::app::Node;
use crate::features::blocking;
use crate::router;
use crate::router::perform::{seat_of, seats_of};
use crate::session::{Seat, moving};

/// Accounts handled before the task yields to others.
const PACE: usize = 64;

/// Whether that one is, to our users of the domain `of`, at another domain, or at a service: nobody of whom this server tells what it knows itself.
pub fn is_abroad(node: &Node, of: &str, who: &BareJid) -> bool {
    !node.domains.has_users(who.domain()) || node.domains.are_strangers(of, who.domain())
}

/// The part of a broadcast that leaves. What a session shows goes only to those who may see it by now: a roster that has changed since it was
/// read says `unavailable` behind this or before it ([`Seat::show`]), and nobody stays behind with what was shown last.
pub fn tell(node: &Arc<Node>, presence: &Presence, to: &[BareJid]) {
    let Some(from) = presence.stanza.from().filter(|_| !presence.is_stale(node)) else { return };
    let account = from.bare();
    let shows = presence.stanza.type_() != Type::Unavailable;
    let send = || {
        for contact in to.iter().filter(|to| !shows || node.rosters.shows_to(&account, to)) {
            router::route(node, presence.stanza.with_to(&Jid::from(contact)));
        }
    };
    match from.full().filter(|_| presence.withdrawn).and_then(|full| seat_of(node, &full)) {
        Some(seat) => seat.show(send),
        None => send(),
    }
}

/// What a session of this node shows by now, to somebody who may see it.
pub fn show(node: &Arc<Node>, seat: &Seat, to: &Jid) {
    seat.tell_presence(|presence| {
        if !blocking::hides(seat, to) && node.rosters.shows_to(&seat.bare, &to.bare()) {
            router::route(node, presence.stanza.with_to(to));
        }
    });
}

/// A session of this node wants to see those: their servers answer it (§4.3.1).
pub fn probe(node: &Arc<Node>, asker: &Seat, of: &BareJid) {
    let to = Jid::from(of);
    if !blocking::hides(asker, &to) {
        let probe = Stanza::presence(Some(&to), Some(asker.address()), Type::Probe);
        router::route(node, probe.build());
    }
}

/// "Show somebody your sessions of that account."
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Show {
    /// Whose.
    pub account: BareJid,
    /// This one alone.
    pub resource: Option<String>,
    /// To whom.
    pub to: Jid,
}

/// The presence of an account's sessions, here and wherever else there are some, for somebody who may see them (§4.3.2).
pub fn show_all(node: &Arc<Node>, show: &Show) {
    show_here(node, show);
    let mut elsewhere: Vec<NodeIx> = Vec::new();
    node.directory.read(show.account.as_str(), |rows| {
        for ix in rows.iter().filter(|row| row.available && row.lit).filter_map(Row::there) {
            if !elsewhere.contains(&ix) {
                elsewhere.push(ix);
            }
        }
    });
    for ix in elsewhere {
        if node.geo.send_value(ix, frame::SHOW, show).is_none() {
            node.metrics.presence_dropped.inc();
        }
    }
}

/// The part of it that is of this node.
pub fn show_here(node: &Arc<Node>, show: &Show) {
    let is_meant = |seat: &Seat| {
        show.resource.as_deref().is_none_or(|resource| resource == seat.full.resource())
    };
    for seat in seats_of(node, show.account.as_str()) {
        if is_meant(&seat) {
            self::show(node, &seat, &show.to);
        }
    }
    moving::show_came(node, show);
}

/// The life of a node is over, and these were its sessions: of the nodes that are left, the one with the lowest name tells their contacts abroad, unless
/// somebody else has the same full JID by now and shows it.
pub fn gone(node: &Arc<Node>, of: &str, rows: &[Row<Arc<Seat>>]) {
    if !speaks(node, of) {
        return;
    }
    let mut by_account: BTreeMap<BareJid, Vec<(FullJid, Hlc)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.available && !row.hidden) {
        by_account.entry(row.full.bare()).or_default().push((row.full.clone(), row.generation));
    }
    if by_account.is_empty() {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        for (done, (account, fulls)) in by_account.into_iter().enumerate() {
            let Ok(roster) = node.rosters.load(&node, &account).await else { continue };
            let abroad: Vec<BareJid> = roster
                .subscribers()
                .filter(|one| is_abroad(&node, account.domain(), one))
                .cloned()
                .collect();
            for (full, generation) in fulls.into_iter().filter(|_| !abroad.is_empty()) {
                let from = Jid::from(&full);
                let stanza = Stanza::presence(None, Some(&from), Type::Unavailable).build();
                let over = Presence { stanza, generation, node: None, withdrawn: false };
                tell(&node, &over, &abroad);
            }
            if done % PACE == PACE - 1 {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// Whether this node speaks for one that is gone: none of those that count as live has a lower name.
pub fn speaks(node: &Node, of: &str) -> bool {
    let me = node.geo.me.to_string();
    let is_lower = |name: &str| name != of && *name < *me;
    !node.geo.live().iter().any(|(name, _)| is_lower(name))
}

/// This node counts for others or does not, by metadata's word. If it did not and does again, contacts abroad were told that its users are gone: those who
/// are still here show themselves.
pub fn counts(node: &Arc<Node>, counts: bool) {
    if node.geo.abroad.out.swap(!counts, Ordering::AcqRel) && counts {
        again(node);
    }
}

/// The sessions of this node show themselves to contacts abroad, as they did before.
pub fn again(node: &Arc<Node>) {
    let seats = available_here(node);
    let node = node.clone();
    tokio::spawn(async move {
        for (done, seat) in seats.into_iter().enumerate() {
            let Ok(roster) = node.rosters.load(&node, &seat.bare).await else { continue };
            for contact in
                roster.subscribers().filter(|one| is_abroad(&node, seat.bare.domain(), one))
            {
                show(&node, &seat, &Jid::from(contact));
            }
            if done % PACE == PACE - 1 {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// What a node remembers for those at other domains.
#[derive(Debug, Default)]
pub struct Abroad {
    /// Grants to contacts abroad whose `subscribed` has not left yet: it goes before the presence that follows from it (§3.1.5), though the change is
    /// known here before its home has answered whoever sends that. Bounded by the requests that homes are asked at the same time.
    granting: Mutex<BTreeMap<(BareJid, BareJid), Grant>>,
    /// Metadata has this node for down.
    out: AtomicBool,
}

#[derive(Debug, Default)]
struct Grant {
    /// How many are about to send it.
    senders: usize,
    /// The change has come by.
    came: bool,
}

impl Abroad {
    /// A grant is applied here. Whether somebody shows the account's sessions to the contact later.
    pub fn defers(&self, account: &BareJid, contact: &BareJid) -> bool {
        let mut all = self.granting.lock();
        let Some(grant) = all.get_mut(&(account.clone(), contact.clone())) else { return false };
        grant.came = true;
        true
    }
}

/// Held by whoever sends `subscribed` to a contact abroad, from before the home is asked.
pub struct Sender {
    node: Arc<Node>,
    of: (BareJid, BareJid),
}

impl Sender {
    /// Of that account, to that contact; `None`: it is one of ours, and its own roster says when it sees anybody.
    pub fn new(node: &Arc<Node>, account: &BareJid, contact: &BareJid) -> Option<Sender> {
        if !is_abroad(node, account.domain(), contact) {
            return None;
        }
        let of = (account.clone(), contact.clone());
        node.geo.abroad.granting.lock().entry(of.clone()).or_default().senders += 1;
        Some(Sender { node: node.clone(), of })
    }

    /// The account, and the contact.
    pub fn of(&self) -> &(BareJid, BareJid) {
        &self.of
    }

    /// It is on its way: whether the account's sessions here are to show themselves now.
    pub fn sent(self) -> bool {
        let mut all = self.node.geo.abroad.granting.lock();
        all.get_mut(&self.of).is_some_and(|grant| std::mem::take(&mut grant.came))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut all = self.node.geo.abroad.granting.lock();
        if let Some(grant) = all.get_mut(&self.of) {
            grant.senders -= 1;
            if grant.senders == 0 {
                all.remove(&self.of);
            }
        }
    }
}
