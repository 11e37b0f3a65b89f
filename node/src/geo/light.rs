//! Room: presence when a node falls silent, dies or returns. Its users' contacts here are told `unavailable`; when it is back,
//! it is asked to tell the presence of its users again. No presence is remembered for other regions' users: they have one writer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use global_distrib::health::Turn;
use global_distrib::{NodeIx, Row};
use replication::Hlc;
use tokio::time::Instant;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, Type};

use super::abroad::is_abroad;
use super::frame;
use super::passing::Fate;
use super::presence::{Presence, local_presence};
use crate::app::Node;
use crate::components;
use crate::features::blocking;
use crate::features::roster::copied;
use crate::router::perform::{seats_of, to_seat};
use crate::session::Seat;

/// Accounts handled before the task yields to others.
const PACE: usize = 64;

/// A node went dark or came back.
pub fn turned(node: &Arc<Node>, turn: Turn) {
    match turn {
        Turn::WentDark(ix) => {
            let gone = node.directory.light(ix, false);
            tracing::warn!(node = ?node.geo.nodes.name(ix), users = gone.len(), "a node is silent; its users are shown unavailable");
            announce_gone(node, gone);
        }
        Turn::CameBack(ix) => {
            let back = node.directory.light(ix, true);
            tracing::info!(node = ?node.geo.nodes.name(ix), users = back.len(), "a silent node is back");
            components::back(node, ix);
            node.geo.send(ix, frame::REPRESENT, &[]);
        }
    }
}

/// Rows of another node vanished without a word from their sessions.
pub fn rows_gone(node: &Arc<Node>, rows: &[Row<Arc<Seat>>]) {
    let gone = rows.iter().filter(|row| row.available && row.lit && !row.hidden);
    announce_gone(node, gone.map(|row| (row.full.clone(), row.generation)).collect());
    brought_out(node, rows.iter().map(|row| (&row.full, row.generation)));
}

/// A session of `from` goes on at `to` (`None`: one of which nothing is known here). If it is seen here by that row alone, it is noted until the new row
/// is here. To be called before its row goes.
pub fn passes(
    node: &Arc<Node>,
    (from, to): (NodeIx, Option<NodeIx>),
    full: &FullJid,
    generation: Hlc,
) {
    // One that came out from under a newer row has arrived, and ended, already.
    let seen = |row: &Row<Arc<Seat>>| {
        let own = row.generation == generation && row.there() == Some(from);
        row.full == *full && own && row.available && row.lit && !row.hidden && !row.emerged
    };
    let seen = node.directory.read(full.bare_str(), |rows| rows.iter().any(seen));
    if seen != Some(true) {
        return;
    }
    let noted = to.is_some_and(|to| {
        let noted = node.geo.passings.begin(full, generation, to, node.geo.mark());
        node.geo.send_due_probes();
        noted
    });
    if !noted {
        announce_gone(node, vec![(full.clone(), generation)]);
    }
}

/// Sessions that went from one node to another, and of which the other has nothing to say, or is silent. Once a second.
pub fn lost_on_the_way(node: &Arc<Node>) {
    if node.geo.passings.is_empty() {
        return;
    }
    let gone = node.geo.passings.take(|passing| {
        let shows = |row: &Row<Arc<Seat>>| row.full == passing.full && row.available && !row.hidden;
        let there = node.directory.read(passing.full.bare_str(), |rows| rows.iter().any(shows));
        if there == Some(true) {
            return Fate::Arrived;
        }
        let dark = node.geo.health.lock().is_dark(passing.to);
        if dark || node.geo.closed(&passing.mark) { Fate::Lost } else { Fate::Open }
    });
    announce_gone(node, gone);
}

/// Tells local contacts, and local resources of the same account, that these are unavailable.
fn announce_gone(node: &Arc<Node>, gone: Vec<(FullJid, Hlc)>) {
    if gone.is_empty() {
        return;
    }
    let mut by_account: BTreeMap<BareJid, Vec<(FullJid, Hlc)>> = BTreeMap::new();
    for (full, generation) in gone {
        by_account.entry(full.bare()).or_default().push((full, generation));
    }
    let node = node.clone();
    tokio::spawn(async move {
        for (done, (account, fulls)) in by_account.into_iter().enumerate() {
            let Ok(roster) = node.rosters.load(&node, &account).await else { continue };
            let parting = node.geo.partings.of(account.as_str());
            for (full, generation) in fulls {
                let stanza =
                    Stanza::presence(None, Some(&Jid::from(&full)), Type::Unavailable).build();
                let unavailable = Presence { stanza, generation, node: None, withdrawn: false };
                let own = std::iter::once(&account);
                let all = roster.subscribers().chain(own).chain(&parting);
                for contact in all.filter(|contact| !is_abroad(&node, account.domain(), contact)) {
                    local_presence(&node, contact.as_str(), &unavailable);
                }
            }
            if done % PACE == PACE - 1 {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// All rows of a node are known now: our resources that became available before that have not heard of their contacts there.
pub fn ask(node: &Arc<Node>, of: NodeIx) {
    let seats = available_here(node);
    let node = node.clone();
    tokio::spawn(async move {
        for (done, seat) in seats.into_iter().enumerate() {
            let Ok(roster) = node.rosters.load(&node, &seat.bare).await else { continue };
            let is_there = |account: &&BareJid| {
                let there = |row: &Row<Arc<Seat>>| row.available && row.there() == Some(of);
                let known = node.directory.read(account.as_str(), |rows| rows.iter().any(there));
                known.unwrap_or(false)
            };
            let contacts = roster.subscriptions().chain(std::iter::once(&seat.bare));
            let ours = contacts.filter(|contact| !is_abroad(&node, seat.bare.domain(), contact));
            let to: Vec<BareJid> = ours.filter(is_there).cloned().collect();
            if !to.is_empty() && seat.available() {
                node.geo.probe_presence(&node, &seat.full, to);
            }
            if done % PACE == PACE - 1 {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// Looked so often whether a mailbox has room again, at most for that long.
const ROOM_LOOK: Duration = Duration::from_millis(100);
const ROOM_WITHIN: Duration = Duration::from_secs(60);

/// A resource of this node has not heard of some presence, for its mailbox was full: it is told of all its contacts how things are. First that they are gone,
/// for nobody knows which of their resources it takes for present, then who is there. Paced by its own reading.
/// Left out: occupants of rooms, and whoever else sends it directed presence.
pub fn missed(node: &Arc<Node>, seat: &Arc<Seat>) {
    let (node, seat) = (node.clone(), Arc::downgrade(seat));
    tokio::spawn(async move {
        let account = seat.upgrade().map(|seat| seat.bare.clone());
        let Some(account) = account else { return };
        let Ok(roster) = node.rosters.load(&node, &account).await else { return };
        let mut contacts: Vec<BareJid> = roster.subscriptions().cloned().collect();
        contacts.push(account);
        for contacts in contacts.chunks(PACE) {
            let Some(seat) = has_room(&seat).await.filter(|seat| seat.available()) else { return };
            for contact in contacts.iter().filter(|contact| **contact != seat.bare) {
                let from = Jid::from(contact);
                let gone =
                    Stanza::presence(Some(seat.address()), Some(&from), Type::Unavailable).build();
                if !blocking::refuses(&seat, &gone) {
                    to_seat(&node, &seat, gone);
                }
            }
            node.geo.probe_presence(&node, &seat.full, contacts.to_vec());
        }
    });
}

/// The seat, when its mailbox is half empty. `None`: it is over, or does not read.
async fn has_room(seat: &Weak<Seat>) -> Option<Arc<Seat>> {
    let began = Instant::now();
    while began.elapsed() < ROOM_WITHIN {
        let seat = seat.upgrade().filter(|seat| !seat.mailbox.is_closed())?;
        if seat.mailbox.has_room() {
            return Some(seat);
        }
        drop(seat);
        tokio::time::sleep(ROOM_LOOK).await;
    }
    None
}

/// The roster of an account has come as a whole, and nobody says what is new in it: its resources here tell who they are, and ask, as if they had
/// just become available. Who knew already hears it once more. What has ended goes by the roster that was held before.
pub fn retell(node: &Arc<Node>, account: &BareJid) {
    let seats = seats_of(node, account.as_str());
    if seats.is_empty() {
        node.rosters.take_before(account);
        return;
    }
    let (node, account) = (node.clone(), account.clone());
    tokio::spawn(async move {
        // For pushes too: they follow the roster that is held.
        let Ok(roster) = node.rosters.load(&node, &account).await else { return };
        if let Some(before) = node.rosters.take_before(&account) {
            copied::tell(&node, &account, &before, &roster);
        }
        let subscribers: Vec<BareJid> = roster.subscribers().cloned().collect();
        let contacts: Vec<BareJid> = roster.subscriptions().cloned().collect();
        for seat in seats.into_iter().filter(|seat| seat.available()) {
            let mut subscribers = subscribers.clone();
            blocking::hide(&seat, &mut subscribers);
            seat.tell_presence(|presence| node.geo.multicast(&node, &presence, &subscribers));
            node.geo.probe_presence(&node, &seat.full, contacts.clone());
        }
    });
}

/// Sessions of this node that are available.
pub fn available_here(node: &Node) -> Vec<Arc<Seat>> {
    let mut seats = Vec::new();
    node.directory
        .for_each(|row| seats.extend(row.here().filter(|seat| seat.available()).cloned()));
    seats
}

/// Whether changes of rosters are told as they are committed: by this node itself, or by the one that writes its region's database.
fn hears_scribe(node: &Node) -> bool {
    let scribe = || node.geo.scribe_of(&node.geo.me.region);
    node.homes.term().is_some() || scribe().is_some_and(|scribe| scribe.link.is_up())
}

/// Rows have ended, and some that they hid may stand in the table again: bound later, at a node whose clock is behind. What their sessions have
/// shown since was taken for out of date here, and is asked for.
pub fn brought_out<'a>(node: &Arc<Node>, ended: impl Iterator<Item = (&'a FullJid, Hlc)>) {
    let mut of = BTreeSet::new();
    let hears = hears_scribe(node);
    for (full, ended) in ended {
        if !hears {
            node.geo.departed.note(full, node.now_ms());
        }
        let older = |row: &Row<Arc<Seat>>| match row.full == *full && row.generation <= ended {
            true => row.there(),
            false => None,
        };
        of.extend(
            node.directory.read(full.bare_str(), |rows| rows.iter().find_map(older)).flatten(),
        );
    }
    for ix in of {
        node.geo.send(ix, frame::REPRESENT, &[]);
    }
}

/// Another node took us for dead and asks for the presence of our users; or it counts as live from now on, and has missed what was told.
pub fn represent(node: &Arc<Node>, to: NodeIx) {
    let seats = available_here(node);
    let node = node.clone();
    tokio::spawn(async move {
        for (done, seat) in seats.into_iter().enumerate() {
            let Ok(roster) = node.rosters.load(&node, &seat.bare).await else { continue };
            let mut to_whom: Vec<BareJid> = roster.subscribers().cloned().collect();
            to_whom.retain(|contact| !is_abroad(&node, seat.bare.domain(), contact));
            blocking::hide(&seat, &mut to_whom);
            to_whom.push(seat.bare.clone());
            seat.tell_presence(|presence| {
                node.geo.multicast_to(&node, to, &presence, &to_whom);
            });
            if done % PACE == PACE - 1 {
                tokio::task::yield_now().await;
            }
        }
    });
}
