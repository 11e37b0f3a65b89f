//! What a component hears of accounts that it may watch: pushes of their rosters (XEP-0356 §4.4), their presence, and that of their contacts (§7). Each node tells
//! of its own: the presence of its sessions, that of contacts at other domains where it enters; a push comes from the node that has the component's connection, for
//! every node applies every change. Nobody is told who is not connected, so that no account hears an error of it. Costs one look at an empty list where there is none.
//! Called by features::presence, features::roster and federation::inbound. `earlier` what was shown before it was connected.

pub(super) mod earlier;

use std::sync::Arc;

use config::{Components, WatchedPresence};
use global_distrib::Row;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use super::super::{is_connected, is_reached};
use crate::app::Node;
use crate::feature::Action;
use crate::features::blocking::{self, Traffic};
use crate::router;
use crate::session::Seat;
use crate::storage::StorageError;

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
    let Watchers(all) = node.components.watchers();
    // One at a silent node hears who is there when that is back (`earlier`), but not who has gone meanwhile.
    let is_gone = presence.type_() == Type::Unavailable;
    for watcher in all.iter().filter(|watcher| watcher.presence != WatchedPresence::None) {
        let hears = || match is_gone {
            true => is_connected(node, &watcher.component),
            false => is_reached(node, &watcher.component),
        };
        if !is_contact(&watcher.component) && hears() {
            actions.push(Action::Route(presence.with_to(&watcher.address)));
        }
    }
}

/// Somebody at another domain shows itself to an account (§7.2), which need not be there. `Some`: components hear of it once that is done, if it is a contact
/// of the account's and no list refuses it.
pub fn contact_shows(
    node: &Arc<Node>,
    account: &BareJid,
    presence: &Stanza,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    let Watchers(all) = node.components.watchers();
    let from = presence.from().filter(|_| !all.is_empty())?;
    let to_all = presence.to().is_some_and(|to| to.resource().is_none());
    let is_shown = matches!(presence.type_(), Type::Available | Type::Unavailable);
    // At another domain, or at one that is as good as that to the account.
    let (ours, theirs) = (account.domain(), from.domain());
    let is_contact = node.domains.has_accounts(ours)
        && (!node.domains.has_users(theirs) || node.domains.are_strangers(theirs, ours));
    if !to_all || !is_shown || !is_contact {
        return None;
    }
    let hears = |watcher: &&Watcher| {
        watcher.presence == WatchedPresence::Roster
            && from.domain() != watcher.component.domain()
            && is_connected(node, &watcher.component)
    };
    let to: Vec<Jid> = all.iter().filter(hears).map(|watcher| watcher.address.clone()).collect();
    let (node, account, presence) = (node.clone(), account.clone(), presence.clone());
    (!to.is_empty()).then_some(async move {
        if is_heard(&node, &account, &presence).await {
            to.iter().for_each(|to| router::route(&node, presence.with_to(to)));
        }
    })
}

/// Whether the account itself would hear it.
async fn is_heard(node: &Arc<Node>, account: &BareJid, presence: &Stanza) -> bool {
    let Some(from) = presence.from() else { return false };
    let known = async {
        let roster = node.rosters.load(node, account).await?;
        let blocked =
            |storage| blocking::is_blocked_here(storage, account, from, Traffic::PresenceIn);
        Ok::<_, StorageError>(
            roster.has_subscription(from.bare_str()) && !blocked(&*node.storage).await?,
        )
    };
    known.await.unwrap_or_else(|error| {
        tracing::error!(%error, %account, "a roster or a privacy list cannot be read");
        false
    })
}

/// Whether there is a component that hears of rosters.
pub fn watches_rosters(node: &Node) -> bool {
    let Watchers(all) = node.components.watchers();
    all.iter().any(|watcher| watcher.pushes)
}

/// A contact of an account's roster is another (§4.4). As the account's own resources hear it.
pub fn roster_changed(
    node: &Node,
    account: &BareJid,
    item: &Element,
    version: Option<u64>,
    actions: &mut Vec<Action>,
) {
    let Watchers(all) = node.components.watchers();
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
