//! Room: external components (XEP-0114), programs of their own that answer for a domain. One connects to one node, and is reached from every region:
//! its connection is a row of the session table whose bare JID is the domain (`comp.chat.example/…`), so that the route log, the order of its
//! stanzas, parking and what comes back are those of sessions. What is for an address under the domain is dispatched to the domain
//! (`router::decide`, `Domains::addressee`), and [`choose`] says which of its connections gets it.
//! Called by the listeners (`serve`), the router, disco, and `geo` when other nodes tell of theirs.
//!
//! * `known` who may connect, which a reload changes · `serve` a connection, from its first byte until it is known · `handshake` who may be what · `sign_in`, `hostname` the same of those that are like clients (XEP-0225) · `connection` to its end · `choose` which connection · `inbound` how much of what it sends is open ·
//!   `privilege` what it may do in the name of accounts · `delegation` what it answers in their name

mod choose;
mod connection;
mod delegation;
mod handshake;
mod hostname;
mod inbound;
mod known;
mod privilege;
mod serve;
mod sign_in;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use config::ComponentMode;
use global_distrib::{Choice, NodeIx, Row};
use parking_lot::Mutex;
use replication::Hlc;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::payload::disco::Item;
use xmpp::stanza::Stanza;
use xmpp::stream::error::StreamError;

pub use self::choose::choose;
use self::delegation::Delegations;
pub use self::delegation::{Delegation as DelegationFeature, INFO, ITEMS, answered, nested};
pub(crate) use self::delegation::{remaining, taken as delegated};
use self::hostname::Proved;
pub use self::known::{Known, named, reload};
pub use self::privilege::{contact_shows, room, roster_changed, showing, watches_rosters};
pub use self::serve::serve;
use crate::app::{Live, Node};
use crate::router::perform;
use crate::session::Seat;

/// What this node knows of components. Whether one is connected, and where, the session table says.
#[derive(Debug, Default)]
pub struct Components {
    /// Who may connect.
    known: Live<Known>,
    /// What they answer for us (XEP-0355).
    delegations: Delegations,
    /// Domains of which there was a row; as many as there are rows, and no more.
    seen: Mutex<BTreeSet<BareJid>>,
    /// Connections of this node.
    connections: AtomicUsize,
    /// Held while one is bound: two that come at once do not find room for each, and none comes by what has just changed.
    binding: Mutex<()>,
}

impl Components {
    /// With those that may connect.
    pub fn new(known: Known, config: &config::Components) -> Components {
        let (known, delegations) = (Live::new(known), Delegations::new(config));
        Components { known, delegations, ..Components::default() }
    }

    /// One connection more, if there may be.
    fn admit(&self, max: usize) -> bool {
        let more = |count| (count < max).then_some(count + 1);
        self.connections.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// One less.
    fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }

    /// Connections of this node, before their handshake too.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }
}

/// Connected components, for the server's items (XEP-0030 §4.1): those that are to be listed.
pub fn items(node: &Node) -> Vec<Item> {
    let seen: Vec<BareJid> = node.components.seen.lock().iter().cloned().collect();
    let known = &node.config.components.component;
    let listed = seen.into_iter().filter(|domain| is_connected(node, domain));
    let item = |domain: BareJid| {
        let named = known.iter().find(|component| component.domain == domain.as_str());
        let listed = named.is_none_or(|component| component.listed);
        let name = named.and_then(|component| component.title.clone());
        listed.then(|| Item { jid: domain.to_string(), node: None, name })
    };
    listed.filter_map(item).collect()
}

fn is_connected(node: &Node, domain: &BareJid) -> bool {
    node.directory.read(domain.as_str(), |rows| !rows.is_empty()).unwrap_or(false)
}

/// The same, and not only at nodes that are silent.
fn is_reached(node: &Node, domain: &BareJid) -> bool {
    node.directory.read(domain.as_str(), |rows| rows.iter().any(|row| row.lit)).unwrap_or(false)
}

/// There is a row of a component, here or elsewhere. Where there may be but one connection and there are two, the newer one ends.
pub fn appeared(node: &Arc<Node>, full: &FullJid, generation: Hlc) {
    let domain = full.bare();
    {
        let mut seen = node.components.seen.lock();
        if !seen.contains(&domain) {
            seen.retain(|known| is_connected(node, known));
            seen.insert(domain.clone());
        }
    }
    if node.config.components.mode_of(domain.as_str()) == ComponentMode::One {
        for seat in perform::seats_of(node, domain.as_str()) {
            if (seat.generation, seat.full.as_str()) > (generation, full.as_str()) {
                perform::close(&seat, StreamError::conflict());
            }
        }
    }
    delegation::appeared(node, &domain);
    privilege::appeared(node, full);
}

/// A node that was silent is back, and its components with it: while it was, their places may have been taken.
pub fn back(node: &Arc<Node>, ix: NodeIx) {
    let seen: Vec<BareJid> = node.components.seen.lock().iter().cloned().collect();
    for domain in seen {
        let its = |row: &&Row<Arc<Seat>>| row.there() == Some(ix);
        let its = |rows: &[Row<Arc<Seat>>]| {
            rows.iter().filter(its).map(|row| (row.full.clone(), row.generation)).collect()
        };
        let rows: Vec<_> = node.directory.read(domain.as_str(), its).unwrap_or_default();
        for (full, generation) in rows {
            appeared(node, &full, generation);
        }
    }
}

/// A row for a connection that has proved to be this component.
///
/// # Errors
/// `conflict`: there are as many as there may be. `not-authorized`: what it has proved has changed meanwhile.
fn bind(
    node: &Arc<Node>,
    domain: &BareJid,
    resource: Option<&str>,
    proved: &Proved,
) -> Result<Arc<Seat>, StreamError> {
    let _one_at_a_time = node.components.binding.lock();
    if !node.components.may_bind(&node.domains, domain.as_str(), proved) {
        return Err(StreamError::not_authorized());
    }
    let config = &node.config.components;
    let one = config.mode_of(domain.as_str()) == ComponentMode::One;
    let competes =
        |row: &&Row<Arc<Seat>>| row.lit && (one || *region_of(node, row) == *node.geo.me.region);
    let count = |rows: &[Row<Arc<Seat>>]| rows.iter().filter(competes).count();
    let others = node.directory.read(domain.as_str(), count).unwrap_or(0);
    let most = if one { 1 } else { config.connections_per_region_max };
    if others >= most {
        return Err(StreamError::conflict().with_text("This component is connected already."));
    }
    let resource = resource.map_or_else(|| node.token(), str::to_owned);
    let full = domain.with_resource(&resource).map_err(|_| StreamError::conflict())?;
    // Who has it keeps it.
    let is_same = |rows: &[Row<Arc<Seat>>]| rows.iter().any(|row| row.full == full);
    if node.directory.read(domain.as_str(), is_same).unwrap_or(false) {
        return Err(StreamError::conflict());
    }
    let limits = (config.queue_items_max, config.queue_bytes_max);
    let seat = node.bind_component(&full, limits).ok_or_else(StreamError::conflict)?;
    appeared(node, &seat.full, seat.generation);
    Ok(seat)
}

/// Which connection gets a stanza.
pub fn choose_row(node: &Node, stanza: &Stanza, rows: &[Row<Arc<Seat>>]) -> Choice<Arc<Seat>> {
    let domain = stanza.to().map_or("", Jid::domain);
    row_for(node, domain, stanza.from().map_or("", Jid::bare_str), rows)
}

/// Which connection of that component gets what this sender sends.
fn row_for(node: &Node, domain: &str, sender: &str, rows: &[Row<Arc<Seat>>]) -> Choice<Arc<Seat>> {
    let mode = node.config.components.mode_of(domain);
    choose(sender, mode, rows, &node.geo.me.region, |row| region_of(node, row))
}

/// The region where a row's connection is.
fn region_of(node: &Node, row: &Row<Arc<Seat>>) -> Arc<str> {
    let there = row.there().and_then(|ix| node.geo.peer_at(ix));
    there.map_or_else(|| node.geo.me.region.clone(), |peer| peer.id.region.clone())
}
