//! What a node of our region promised and could not hand on before it fell (`MetaState::fallen`): the region's scribe takes it over, as messages of
//! its own. The node's outbox is given another name first, so that the node, should it start at this moment, finds all of it or nothing; under
//! that name it waits until it is in the scribe's own outbox, whoever is the scribe by then. Blueprint §7.
//!
//! Called by `app` when metadata changes and when this node becomes the scribe. What was filed under the fallen node's name is not routed again; what
//! another node had of it and has not told anybody yet may come twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;
use xmpp::jid::{BareJid, Jid};

use super::second::WRITTEN_WITHIN;
use crate::app::Node;
use crate::features::archive::queue;
use crate::features::offline;
use crate::router::ledger::Due;
use crate::router::{self, Routed};
use crate::storage::StorageError;

/// The name under which the outbox of a node waits to be taken over.
fn left_by(outbox: &str) -> String {
    format!("{outbox}*")
}

/// Those nodes have fallen. Calling it again is harmless.
pub fn take_over(node: &Arc<Node>, fallen: Vec<String>) {
    let node = node.clone();
    tokio::spawn(async move {
        // One look at a time: what the first takes over the next one does not find.
        let _alone = node.second.taking_over.lock().await;
        for name in fallen {
            if let Err(error) = take_over_from(&node, &name).await {
                tracing::error!(of = name, %error, "what a fallen node left stays there until metadata changes again");
            }
        }
    });
}

async fn take_over_from(node: &Arc<Node>, name: &str) -> Result<(), StorageError> {
    let archive = queue::outbox_of(name);
    for outbox in [name, &archive] {
        node.storage.outbox_move(outbox, &left_by(outbox)).await?;
    }
    queue::inherit(node, &left_by(&archive)).await?;

    let mut of_account: BTreeMap<BareJid, Vec<_>> = BTreeMap::new();
    let mut over = Vec::new();
    for (order, row) in node.storage.outbox(&left_by(name)).await? {
        let read = super::read(row);
        let to = read.as_ref().and_then(|(_, stanza)| stanza.to().map(Jid::bare));
        match (read, to) {
            (Some((accepted_ms, stanza)), Some(to)) => {
                of_account.entry(to).or_default().push((order, accepted_ms, stanza));
            }
            // A mark of what homes elsewhere keep (`second`): they drop it when its region falls, or never need it.
            _ => over.push(order),
        }
    }
    let mut count = 0;
    for (to, left) in of_account {
        let orders: Vec<u64> = left.iter().map(|(order, ..)| *order).collect();
        let filed = offline::filed_before(node, &to, name, orders).await;
        let mut routed = Vec::new();
        for (order, accepted_ms, stanza) in left {
            if !filed.contains(&order) {
                let own = node.ledger.next_order();
                let entered =
                    node.ledger.enter(own, &stanza, Due::Nobody, node.now_ms(), accepted_ms);
                if entered.is_err() {
                    tracing::error!(
                        of = name,
                        "no room to take over everything; the rest comes next time"
                    );
                    break;
                }
                let stanza = router::delayed(node, &stanza, accepted_ms);
                routed.push(Routed { stanza, tries: 0, order: own, tracked: true });
            }
            over.push(order);
        }
        count += routed.len();
        if !routed.is_empty() {
            router::put_back(node, &to, routed);
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    // Ours only when they are on disk as ours: if we die before, the next scribe finds them.
    if !super::flush(node, Instant::now() + WRITTEN_WITHIN).await {
        return Err(StorageError::Closed);
    }
    node.storage.outbox_write(&left_by(name), Vec::new(), over).await?;
    tracing::info!(of = name, count, "messages of a fallen node are taken over");
    Ok(())
}
