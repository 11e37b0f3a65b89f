//! Room: the router. `decide` says where a stanza goes, the one `match` here carries it out; `account` are the rules of
//! RFC 6121 §8, `road` the roads out of the session table, `bounce` the only place that turns a stanza round.
//! Called by sessions (after the outbound features), by features' actions, and by `geo` for what other nodes bring.

pub mod account;
pub mod bounce;
pub mod decide;
pub mod perform;
pub mod road;

use std::sync::Arc;

use global_distrib::Outcome;
use xmpp::jid::BareJid;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};

pub use self::bounce::{bounce, undeliverable};
pub use self::decide::{Destination, Domains, decide};
pub use self::perform::perform;
use self::road::Road;
use crate::app::Node;
use crate::geo::frame::TRIES_MAX;

/// A stanza on its way to an account, and how often it was routed anew.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The stanza.
    pub stanza: Stanza,
    /// How often; bounded by `TRIES_MAX`.
    pub tries: u8,
}

/// The stanza with a note of when it was sent (XEP-0203), if it has none yet.
pub fn delayed(node: &Node, stanza: &Stanza, sent_at_ms: u64) -> Stanza {
    if stanza.has_child("delay", xmpp::ns::DELAY) {
        return stanza.clone();
    }
    stanza.with_child(&xmpp::payload::delay::element(sent_at_ms, Some(&node.server), None))
}

/// Routes a stanza by its `to`. Never waits; whatever becomes of it is settled later.
pub fn route(node: &Arc<Node>, stanza: Stanza) {
    match decide(&stanza, &node.domains) {
        Destination::Account(account) => to_account(node, &account, stanza),
        Destination::Server | Destination::NoService => undeliverable(node, &stanza),
        Destination::Foreign => bounce(node, &stanza, &StanzaError::remote_server_not_found()),
    }
}

fn to_account(node: &Arc<Node>, account: &BareJid, stanza: Stanza) {
    if stanza.kind() == Kind::Presence {
        let full = stanza.to().is_some_and(|to| to.resource().is_some());
        if !full && matches!(stanza.type_(), Type::Available | Type::Unavailable) {
            node.geo.multicast(node, &stanza, std::slice::from_ref(account));
            return;
        }
    }
    dispatch(node, account, Routed { stanza, tries: 0 });
}

/// Hands a stanza to the session table, in the addressee's order.
pub fn dispatch(node: &Arc<Node>, account: &BareJid, routed: Routed) {
    let road = Road::new(node);
    let outcome = node.directory.dispatch(account, routed, node.now_ms(), &road);
    road.finish();
    settle(node, account, outcome);
}

/// A node sent a stanza back: nobody there takes it.
pub fn returned(node: &Arc<Node>, from: global_distrib::NodeIx, mut routed: Routed) {
    let Some(account) = routed.stanza.to().map(xmpp::jid::Jid::bare) else { return };
    routed.tries = routed.tries.saturating_add(1);
    if routed.tries >= TRIES_MAX {
        return too_many_tries(node, &routed);
    }
    let road = Road::new(node);
    let outcome = node.directory.returned(&account, routed, from, node.now_ms(), &road);
    road.finish();
    settle(node, &account, outcome);
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

/// What a session had not handed on when it ended: routed anew, ahead of everything newer.
pub fn put_back(node: &Arc<Node>, account: &BareJid, stanzas: Vec<Routed>) {
    let road = Road::new(node);
    node.directory.put_back_all(account, stanzas, node.now_ms(), &road);
    road.finish();
    reopen(node, account);
}

fn too_many_tries(node: &Arc<Node>, routed: &Routed) {
    tracing::warn!(to = ?routed.stanza.to(), tries = routed.tries, "a stanza found no place after many tries");
    node.metrics.hops_exhausted.inc();
    bounce(node, &routed.stanza, &StanzaError::remote_server_timeout());
}

fn settle(node: &Arc<Node>, account: &BareJid, outcome: Outcome<Routed>) {
    match outcome {
        Outcome::Sent => {}
        Outcome::Held => {
            node.metrics.routed.parked.inc();
        }
        Outcome::Nobody(routed) => undeliverable(node, &routed.stanza),
        Outcome::Expired(routed) => {
            bounce(node, &routed.stanza, &StanzaError::remote_server_timeout())
        }
        Outcome::Full(routed) => bounce(node, &routed.stanza, &StanzaError::resource_constraint()),
        Outcome::File(batch) => file(node, account, batch),
    }
}

/// Files a batch at the addressee's home; the addressee's gate stays shut until the home has answered.
fn file(node: &Arc<Node>, account: &BareJid, batch: Vec<Routed>) {
    let node = node.clone();
    let account = account.clone();
    node.count_filing(true);
    tokio::spawn(async move {
        let filed = crate::features::offline::file(&node, &account, batch).await;
        for (routed, error) in filed.refused {
            bounce(&node, &routed.stanza, &error);
        }
        let mut back = Vec::new();
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
