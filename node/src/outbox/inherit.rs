//! What a node of our region promised and could not hand on before it fell (`MetaState::fallen`): the region's scribe takes it over, as messages of
//! its own. The node's outbox is given another name first, so that the node, should it start at this moment, finds all of it or nothing; under
//! that name it waits until it is in the scribe's own outbox, whoever is the scribe by then, and whether or not the node stands again. Blueprint §7.
//!
//! Run by `app`. What was filed under the fallen node's name is not routed again; what another node had of it and has not told anybody yet may come
//! twice. What cannot be done now stays where it is, and is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use super::second::{self, WRITTEN_WITHIN};
use crate::app::Node;
use crate::features::archive::queue;
use crate::features::offline;
use crate::router::ledger::Due;
use crate::router::{self, Routed};
use crate::storage::{Storage, StorageError};

/// Before what could not be taken over is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The name under which the outbox of a node waits to be taken over.
fn left_by(outbox: &str) -> String {
    format!("{outbox}*")
}

/// Whether a node that has fallen has left something that nobody has taken over yet.
///
/// # Errors
/// The database cannot be read.
pub async fn has_left(storage: &dyn Storage, name: &str) -> Result<bool, StorageError> {
    let archive = queue::outbox_of(name);
    for outbox in [name, &archive] {
        for known in [outbox, &left_by(outbox)] {
            if !storage.outbox(known).await?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut version = node.metadata.watch();
    loop {
        version.mark_unchanged();
        let is_done = node.homes.term().is_none() || take_over(&node).await;
        tokio::select! {
            biased; // the stop has waited longest
            () = node.stopped() => return,
            changed = version.changed() => if changed.is_err() { return },
            () = node.homes.until_term_changes() => {}
            () = tokio::time::sleep(AGAIN), if !is_done => {}
        }
    }
}

/// Of all other nodes of the region. False: something is left.
async fn take_over(node: &Arc<Node>) -> bool {
    let state = node.metadata.state();
    let me = node.geo.me.to_string();
    let fellows =
        state.nodes.iter().filter(|(name, of)| **name != me && *of.region == *node.geo.me.region);
    let mut is_done = true;
    for (name, _) in fellows {
        match take_over_from(node, name, state.fallen.contains_key(name)).await {
            Ok(all) => is_done &= all,
            Err(error) => {
                tracing::error!(of = name, %error, "what a fallen node left stays there for now");
                is_done = false;
            }
        }
    }
    is_done
}

/// Whether that could be done with one outbox. What could not stays where it is, and holds up no other; an error: another node is to do all this now.
fn is_over(outbox: &str, done: Result<(), StorageError>) -> Result<bool, StorageError> {
    match done {
        Err(error @ StorageError::Superseded) => Err(error),
        Err(error) => {
            tracing::error!(outbox, %error, "an outbox of a fallen node stays there for now");
            Ok(false)
        }
        Ok(()) => Ok(true),
    }
}

/// `false`: there was no room for all of it, a home does not answer, or the database could not do all of it.
async fn take_over_from(
    node: &Arc<Node>,
    name: &str,
    has_fallen: bool,
) -> Result<bool, StorageError> {
    let archive = queue::outbox_of(name);
    let mut all = true;
    if has_fallen {
        for outbox in [name, &archive] {
            let moved = node.storage.outbox_move(outbox, &left_by(outbox)).await;
            all &= is_over(outbox, moved)?;
        }
    }
    let filed = queue::inherit(node, &left_by(&archive)).await;
    all &= is_over(&archive, filed)?;

    let left = left_by(name);
    let mut messages: BTreeMap<BareJid, Vec<(u64, u64, Stanza)>> = BTreeMap::new();
    let mut marked: BTreeMap<BareJid, Vec<u64>> = BTreeMap::new();
    for (order, row) in node.storage.outbox(&left).await? {
        if let Some(to) = second::read_mark(&row) {
            marked.entry(to).or_default().push(order);
            continue;
        }
        let read = super::read(row);
        match read.and_then(|(at, stanza)| Some((router::addressee(node, &stanza)?, at, stanza))) {
            Some((to, at, stanza)) => messages.entry(to).or_default().push((order, at, stanza)),
            None => tracing::error!(
                of = name,
                order,
                "a message in the outbox cannot be read; it stays there"
            ),
        }
    }
    let (mut count, mut over, mut marks) = (0, Vec::new(), Vec::new());
    for (to, waiting) in messages {
        let orders: Vec<u64> = waiting.iter().map(|(order, ..)| *order).collect();
        let filed = match waiting.iter().all(|(_, _, stanza)| router::leaves(node, stanza)) {
            true => Vec::new(),
            false => offline::filed_before(node, &to, name, orders).await,
        };
        let mut routed = Vec::new();
        for (order, accepted_ms, stanza) in waiting {
            if !filed.contains(&order) {
                let own = node.ledger.next_order();
                let entered =
                    node.ledger.enter(own, &stanza, Due::Nobody, node.now_ms(), accepted_ms);
                if entered.is_err() {
                    tracing::warn!(of = name, %to, "no room to take over everything at once");
                    all = false;
                    break;
                }
                let stanza = router::delayed(node, &stanza, accepted_ms);
                routed.push(Routed { stanza, tries: 0, order: own, tracked: true });
            }
            if super::is_in_two(node) {
                // Homes elsewhere may keep it for that node: they are to forget it before its region falls too.
                let keeper = second::keeper(node, &to);
                marks.push((order, second::mark(&keeper)));
                marked.entry(keeper).or_default().push(order);
            } else {
                over.push(order);
            }
        }
        count += routed.len();
        if !routed.is_empty() {
            router::put_back(node, &to, routed);
        }
    }
    if !over.is_empty() || !marks.is_empty() {
        // Ours only when they are on disk as ours: if we die before, the next scribe finds them.
        if !super::flush(node, Instant::now() + WRITTEN_WITHIN).await {
            return Ok(false);
        }
        node.storage.outbox_write(&left, marks, over).await?;
        tracing::info!(of = name, count, "messages of a fallen node are taken over");
    }
    for (to, orders) in marked {
        if second::drop_for(node, name, &to, orders.clone()).await {
            node.storage.outbox_write(&left, Vec::new(), orders).await?;
        } else {
            all = false;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{House, stanza};

    async fn left(house: &House, name: &str) -> usize {
        house.node.storage.outbox(&left_by(name)).await.expect("memory").len()
    }

    #[test]
    fn an_outbox_that_cannot_be_taken_over_holds_up_no_other() {
        assert!(is_over("a", Ok(())).expect("done"));
        assert!(!is_over("a", Err(StorageError::Damaged("a".to_owned()))).expect("passed over"));
        assert!(is_over("a", Err(StorageError::Superseded)).is_err(), "another does it now");
    }

    #[tokio::test]
    async fn what_was_moved_aside_is_delivered_though_its_node_stands_again() {
        let house = House::new().await;
        let [juliet] = house.accounts(["juliet"]).await;
        let message = |id: &str| {
            stanza(&format!(
                "<message from='romeo@chat.example/x' to='{juliet}' type='chat' id='{id}'><body>{id}</body></message>"
            ))
        };
        let rows = vec![
            (1, super::super::row(5, &message("one"))),
            (2, super::super::row(5, &message("two"))),
            (3, b"nothing that can be read".to_vec()),
        ];
        house.node.storage.outbox_write("here-7", rows, Vec::new()).await.expect("memory");
        // It has not fallen: what it has is its own.
        assert!(take_over_from(&house.node, "here-7", false).await.expect("memory"));
        assert_eq!(house.node.storage.outbox("here-7").await.expect("memory").len(), 3);
        // A scribe that died when it had moved them.
        house.node.storage.outbox_move("here-7", &left_by("here-7")).await.expect("memory");
        let seat = house.available("juliet/balcony", 0).await;
        assert!(take_over_from(&house.node, "here-7", false).await.expect("memory"));
        let heard = house.mail(&seat).await.concat();
        assert_eq!(heard.matches("<body>").count(), 2, "{heard}");
        assert!(heard.find(">one<") < heard.find(">two<"), "{heard}");
        assert_eq!(left(&house, "here-7").await, 1, "what cannot be read stays");
        assert!(take_over_from(&house.node, "here-7", false).await.expect("memory"));
        assert!(crate::testing::mail(&seat).is_empty(), "and nothing comes twice");
    }
}
