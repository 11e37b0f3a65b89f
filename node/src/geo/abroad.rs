//! Room: presence for those at other domains. They have a server of their own, so there is nobody here who knows what they have seen: what a session
//! shows them goes out at the node of that session, one stanza each, in the order in which it came about, and nothing else says it for it.
//! RFC 6121 §4. Called by `presence` for the part of a broadcast that leaves, by features' actions, by `user` for what other nodes ask.
//!
//! A session whose node has died can say nothing any more. All nodes that are left hear of that death, and one of them tells the contacts abroad:
//! the one that has lived longest ([`gone`]). A node that is only silent may be alive and tell them itself, so nothing is told of its sessions
//! until it is known to be over. One that was declared down and has lived on shows its users again ([`again`]).
//!
//! Left out: a deployment of one node that dies tells nobody abroad, for nobody is left (its contacts see it when they next ask); whom a session that
//! died had sent directed presence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
use crate::components;
use crate::features::blocking;
use crate::federation;
use crate::router;
use crate::router::perform::{seat_of, seats_of};
use crate::session::{Seat, moving};

/// Accounts handled before the task yields to others.
const PACE: usize = 64;
/// How often the contacts of those who are gone are asked for while they cannot be read, and the pause between.
const ASKED_MAX: u32 = 60;
const ASK_AGAIN: Duration = Duration::from_secs(1);

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

/// The life of a node is over, and these were its sessions: of the nodes that are left, the one that has lived longest tells their contacts abroad, unless
/// somebody else has the same full JID by now and shows it. Who their contacts are is asked until it is known, and a node of another region's own domain
/// waited for, at most [`ASKED_MAX`] times.
pub fn gone(node: &Arc<Node>, of: &str, rows: &[Row<Arc<Seat>>]) {
    if !speaks(node, of) {
        return;
    }
    let mut by_account = Gone::new();
    for row in rows.iter().filter(|row| row.available && !row.hidden) {
        by_account.entry(row.full.bare()).or_default().push((row.full.clone(), row.generation));
    }
    if by_account.is_empty() {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        for asked in 1..=ASKED_MAX {
            by_account = tell_gone(&node, by_account, asked < ASKED_MAX).await;
            if by_account.is_empty() {
                return;
            }
            tracing::warn!(
                accounts = by_account.len(),
                asked,
                "their contacts abroad are not known, or nobody can tell them"
            );
            tokio::time::sleep(ASK_AGAIN).await;
        }
    });
}

type Gone = BTreeMap<BareJid, Vec<(FullJid, Hlc)>>;

/// Those whose rosters could not be read, or for whom nobody speaks now, if that is waited for.
async fn tell_gone(node: &Arc<Node>, by_account: Gone, waits: bool) -> Gone {
    let mut unknown = Gone::new();
    for (done, (account, fulls)) in by_account.into_iter().enumerate() {
        if waits && !federation::has_gateway(node, account.domain()) {
            unknown.insert(account, fulls);
            continue;
        }
        let Ok(roster) = node.rosters.load(node, &account).await else {
            unknown.insert(account, fulls);
            continue;
        };
        let abroad: Vec<BareJid> = roster
            .subscribers()
            .filter(|one| is_abroad(node, account.domain(), one))
            .cloned()
            .collect();
        for (full, generation) in fulls {
            let from = Jid::from(&full);
            let stanza = Stanza::presence(None, Some(&from), Type::Unavailable).build();
            let mut actions = Vec::new();
            let is_contact = |of: &BareJid| roster.has_subscriber(of);
            components::showing(node, &stanza, is_contact, &mut actions);
            router::perform(node, None, actions);
            let over = Presence { stanza, generation, node: None, withdrawn: false };
            tell(node, &over, &abroad);
        }
        if done % PACE == PACE - 1 {
            tokio::task::yield_now().await;
        }
    }
    unknown
}

/// Whether this node speaks for one that is gone. Where several think so, contacts hear it more than once; that nobody does is what may not be.
fn speaks(node: &Node, of: &str) -> bool {
    let me = node.geo.me.to_string();
    let peers = node.geo.live().into_iter().filter_map(|(name, ix)| {
        let life = node.geo.peer_at(ix).filter(|peer| peer.link.is_up())?.link.incarnation()?;
        Some((life.0, name))
    });
    is_speaker((node.incarnation, &me), of, peers)
}

/// Of the nodes that live and can be reached, the one whose life is the longest speaks: it has known the sessions that are gone, as one that has come since has
/// not. Of two as old, the lower name.
fn is_speaker(
    me: (u64, &str),
    of: &str,
    mut reached: impl Iterator<Item = (u64, Arc<str>)>,
) -> bool {
    !reached.any(|(life, name)| *name != *of && (life, &*name) < me)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::House;

    #[tokio::test]
    async fn for_another_regions_domain_a_node_of_it_is_waited_for() {
        let house = House::beside_us(false, "").await;
        let full = |text: &str| FullJid::parse(text).expect("a JID");
        let all = || -> Gone {
            let all = ["bob@us.chat.example/x", "carol@chat.example/x", "alice@eu.chat.example/x"];
            all.map(full).map(|full| (full.bare(), vec![(full, Hlc::ZERO)])).into()
        };
        let left = tell_gone(&house.node, all(), true).await;
        assert_eq!(left.keys().map(BareJid::as_str).collect::<Vec<_>>(), ["bob@us.chat.example"]);
        assert!(tell_gone(&house.node, all(), false).await.is_empty());
    }

    #[test]
    fn one_of_those_that_are_left_speaks_for_one_that_is_gone() {
        let nodes = [(10, "ap-0"), (7, "eu-0"), (7, "us-0"), (3, "eu-1")];
        let speak = |of: &str, reached: &[(u64, &'static str)]| -> Vec<&str> {
            let others = |me: &str| {
                let others: Vec<_> = reached.iter().filter(|(_, name)| *name != me).collect();
                others.into_iter().map(|(life, name)| (*life, Arc::from(*name)))
            };
            let left = reached.iter().filter(|(_, name)| *name != of);
            left.filter(|me| is_speaker(**me, of, others(me.1))).map(|(_, name)| *name).collect()
        };
        assert_eq!(speak("us-0", &nodes), ["eu-1"]);
        assert_eq!(speak("eu-1", &nodes), ["eu-0"], "of two as old the lower name");
        // It has died at the same moment, and nobody reaches it.
        assert_eq!(speak("us-0", &nodes[..3]), ["eu-0"]);
        // It has come back since: it never knew them.
        assert_eq!(speak("us-0", &[nodes[0], (12, "eu-1"), (11, "eu-0")]), ["ap-0"]);
    }
}
