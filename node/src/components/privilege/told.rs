//! What a component hears of accounts that it may watch: pushes of their rosters (XEP-0356 §4.4), their presence, and that of their contacts (§7). Each node tells
//! of its own: the presence of its sessions, that of contacts at other domains where it enters; a push comes from the node that has the component's connection, for
//! every node applies every change. Nobody is told who is not connected, so that no account hears an error of it. Costs one look at an empty list where there is none.
//! Called by features::presence, features::roster, the router and `components::appeared`.

use std::sync::Arc;

use config::{Components, WatchedPresence};
use global_distrib::Row;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use super::super::is_connected;
use crate::app::Node;
use crate::feature::Action;
use crate::geo::light;
use crate::router;
use crate::session::Seat;

/// The components of the configuration that watch something.
#[derive(Debug, Default)]
pub(in crate::components) struct Watchers(Vec<Watcher>);

#[derive(Debug)]
struct Watcher {
    component: BareJid,
    address: Jid,
    pushes: bool,
    presence: WatchedPresence,
}

impl Watchers {
    pub(in crate::components) fn new(config: &Components) -> Watchers {
        let watches = |component: &config::Component| {
            let domain = BareJid::new(None, &component.domain).ok()?;
            let may = &component.privileges;
            let watches = may.roster_push || may.presence != WatchedPresence::None;
            watches.then(|| Watcher {
                address: Jid::from(&domain),
                component: domain,
                pushes: may.roster_push,
                presence: may.presence,
            })
        };
        Watchers(config.component.iter().filter_map(watches).collect())
    }
}

/// A session has shown itself, or that it is gone (§7.1): those who are told besides its contacts. Who is one of these hears it already (§8).
pub fn showing(
    node: &Node,
    presence: &Stanza,
    is_contact: impl Fn(&BareJid) -> bool,
    actions: &mut Vec<Action>,
) {
    let Watchers(all) = &node.components.watchers;
    for watcher in all.iter().filter(|watcher| watcher.presence != WatchedPresence::None) {
        if !is_contact(&watcher.component) && is_connected(node, &watcher.component) {
            actions.push(Action::Route(presence.with_to(&watcher.address)));
        }
    }
}

/// A contact at another domain, or at one that is as good as that to the account, shows itself to it (§7.2). It need not be there.
pub fn contact_shows(node: &Arc<Node>, presence: &Stanza) {
    let Watchers(all) = &node.components.watchers;
    let of = presence.to().map_or("", Jid::domain);
    let is_ours = |from: &Jid| {
        node.domains.has_users(from.domain()) && !node.domains.are_strangers(from.domain(), of)
    };
    for watcher in all.iter().filter(|watcher| watcher.presence == WatchedPresence::Roster) {
        let Some(from) = presence.from().filter(|from| !is_ours(from)) else { return };
        let itself = from.domain() == watcher.component.domain();
        let is_shown = matches!(presence.type_(), Type::Available | Type::Unavailable);
        if is_shown && !itself && is_connected(node, &watcher.component) {
            router::route(node, presence.with_to(&watcher.address));
        }
    }
}

/// There is a connection of a component (§8): it hears of the sessions of this node that have shown themselves before.
pub(in crate::components) fn appeared(node: &Arc<Node>, component: &BareJid) {
    let Watchers(all) = &node.components.watchers;
    let watches = |watcher: &&Watcher| {
        watcher.component == *component && watcher.presence != WatchedPresence::None
    };
    let Some(watcher) = all.iter().find(watches) else { return };
    let to = watcher.address.clone();
    let node = node.clone();
    tokio::spawn(async move {
        // Of an account that has it for a contact it hears twice.
        for (done, seat) in light::available_here(&node).into_iter().enumerate() {
            seat.tell_presence(|presence| router::route(&node, presence.stanza.with_to(&to)));
            if done % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// A contact of an account's roster is another (§4.4). As the account's own resources hear it.
pub fn roster_changed(
    node: &Node,
    account: &BareJid,
    item: &Element,
    version: Option<u64>,
    actions: &mut Vec<Action>,
) {
    let Watchers(all) = &node.components.watchers;
    let watches = |watcher: &&Watcher| watcher.pushes && node.domains.trusts_with(account.domain());
    for watcher in all.iter().filter(watches) {
        let oldest = |rows: &[Row<Arc<Seat>>]| {
            let first = rows.iter().filter(|row| row.lit);
            let first = first.min_by_key(|row| (row.generation, row.full.clone()));
            first.and_then(|row| row.here().cloned())
        };
        let Some(seat) = node.directory.read(watcher.component.as_str(), oldest).flatten() else {
            continue;
        };
        let version = version.map(|version| version.to_string());
        let query = Element::new("query", ns::ROSTER)
            .with_attr_opt("ver", version.as_deref())
            .with_child(item.clone());
        let (from, id) = (Jid::from(account), node.token());
        let push = Stanza::iq_set(Some(&from), Some(&watcher.address), &id, query);
        actions.push(Action::ToSeat(seat, push));
    }
}
