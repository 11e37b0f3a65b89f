//! Room: the outbox, what this node has promised and could not hand on at once, on disk. Most messages are kept by somebody before
//! it looks ([`crate::router::ledger`]) and never come here: chat between people who are online writes nothing. Writes in batches, one
//! transaction for all that is due; then the senders are told. After a restart what is left is routed anew, when the other
//! nodes have said which of it they have. Blueprint §7, faults F-01 and F-03.
//!
//! Called by `app`. Calls the ledger, storage, the router. Deliberately absent: deciding what is promised (that is the ledger's).
//! * `second` the copy in another region, where that is asked for · `inherit` what a node of our region left that has fallen

pub mod inherit;
pub mod second;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::canary::{Canary, sings};
use global_distrib::NodeIx;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use crate::app::Node;
use crate::features::offline;
use crate::federation;
use crate::router::ledger::Due;
use crate::router::road::Road;
use crate::router::{self, Routed};

/// Bytes of one transaction, about.
const BATCH_BYTES: usize = 1 << 20;
/// What is kept is removed from the disk so much later at most: several at once, and soon enough that little comes twice after a crash.
const REMOVE_AFTER: Duration = Duration::from_millis(20);
/// After the disk has failed.
const RETRY: Duration = Duration::from_millis(500);

/// What a former life left, until the other nodes have said what they have of it.
#[derive(Debug, Default)]
pub struct Recovery {
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    stanzas: BTreeMap<u64, (u64, Stanza)>,
    /// All there was at the start.
    known: BTreeSet<u64>,
    /// What other nodes say that they had kept of former lives ([`crate::geo::held`] bounds how much each says).
    kept: BTreeSet<u64>,
    heard: BTreeSet<NodeIx>,
    /// Everything has gone on its way.
    over: bool,
}

impl Recovery {
    /// Another node has these of ours. They may still come back from there: what is newer is ordered behind them.
    pub fn held(&self, node: &Arc<Node>, by: NodeIx, orders: impl Iterator<Item = u64>) {
        let mut addressees = BTreeSet::new();
        {
            let mut left = self.left.lock();
            for order in orders {
                if let Some((_, stanza)) = left.stanzas.remove(&order) {
                    tracing::debug!(order, ?by, "another node has what a former life promised");
                    node.ledger.hand(order, 0, &[by]);
                    match router::leaves(node, &stanza) {
                        true => federation::held(node, order, &stanza, by),
                        false => addressees.extend(router::addressee(node, &stanza)),
                    }
                }
            }
        }
        let road = Road::new(node);
        for to in addressees {
            node.directory.held_there(&to, by, node.now_ms(), &road);
        }
        road.finish();
        // Only now: when all have spoken, the rest is routed.
        self.left.lock().heard.insert(by);
    }

    /// Another node has kept what a former life sent: nothing to recover any more, also if a third gives its copy back.
    pub fn kept(&self, node: &Arc<Node>, by: NodeIx, order: u64) {
        let mut left = self.left.lock();
        left.stanzas.remove(&order);
        left.kept.insert(order);
        drop(left);
        let of = self.addressee(node, order);
        router::kept_here(node, order);
        if let Some(of) = of {
            self.has_no_more(node, by, order, &of);
        }
    }

    /// What that node had is kept, or has come back, or gone elsewhere. If it was the last for its addressee, nothing waits for it any more.
    pub fn has_no_more(&self, node: &Arc<Node>, by: NodeIx, order: u64, of: &BareJid) {
        if !node.ledger.is_of_this_life(order)
            && node.directory.waits_for_unknown(of, by)
            && !node.ledger.is_held_for(by, of)
            && node.directory.has_nothing_there(of, by)
        {
            router::reopen(node, of);
        }
    }

    /// Of what a former life sent, while the ledger knows of it; `None` of what this life has.
    pub fn addressee(&self, node: &Node, order: u64) -> Option<BareJid> {
        let (_, stanza) =
            node.ledger.look(order).filter(|_| !node.ledger.is_of_this_life(order))?;
        router::addressee(node, &stanza)
    }

    /// It still waits for what the other nodes say. One that gives it back has said that it has it no more; another may.
    pub fn waits(&self, order: u64) -> bool {
        self.left.lock().stanzas.contains_key(&order)
    }

    /// Whether a former life had promised it, or somebody has kept it: what became of it since is the ledger's to say.
    pub fn knew(&self, order: u64) -> bool {
        let left = self.left.lock();
        left.known.contains(&order) || left.kept.contains(&order)
    }

    /// What a former life had not promised, and a node gives back, goes on behind what it had: it may have been said after it.
    ///
    /// # Errors
    /// The stanza, to be routed now: all has gone on already, or the ledger is full.
    pub fn join(
        &self,
        node: &Node,
        order: u64,
        accepted_ms: u64,
        stanza: Stanza,
    ) -> Result<(), Stanza> {
        let mut left = self.left.lock();
        if left.over {
            return Err(stanza);
        }
        if node.ledger.enter(order, &stanza, Due::Nobody, node.now_ms(), accepted_ms).is_err() {
            return Err(stanza);
        }
        left.known.insert(order);
        left.stanzas.insert(order, (accepted_ms, stanza));
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.left.lock().stanzas.is_empty()
    }

    /// Whether all live nodes have spoken.
    fn all_heard(&self, node: &Node) -> bool {
        let left = self.left.lock();
        node.geo.live().iter().all(|(_, ix)| left.heard.contains(ix))
    }

    /// What is left now; when there is nothing, that is the end of it.
    fn take(&self) -> BTreeMap<u64, (u64, Stanza)> {
        let mut left = self.left.lock();
        left.over = left.stanzas.is_empty();
        std::mem::take(&mut left.stanzas)
    }
}

/// Reads what a former life left. Before anything is accepted.
///
/// # Errors
/// When the disk cannot be read: then the node must not start, for it would forget what it has promised.
pub async fn load(node: &Arc<Node>) -> Result<(), crate::storage::StorageError> {
    let left = node.storage.outbox(&node.geo.me.to_string()).await?;
    let mut stanzas = BTreeMap::new();
    let mut marks: BTreeMap<BareJid, Vec<u64>> = BTreeMap::new();
    for (order, bytes) in left {
        if let Some(to) = second::read_mark(&bytes) {
            marks.entry(to).or_default().push(order);
            continue;
        }
        let Some((accepted_ms, stanza)) = read(bytes) else {
            tracing::error!(order, "a message in the outbox cannot be read; it stays there");
            continue;
        };
        node.ledger.recover(order, stanza.clone(), accepted_ms, node.now_ms());
        if router::leaves(node, &stanza) {
            federation::former(node, order, &stanza);
        }
        stanzas.insert(order, (accepted_ms, stanza));
    }
    if !stanzas.is_empty() {
        tracing::info!(count = stanzas.len(), "messages of a former life wait in the outbox");
    }
    second::recover_marks(node, marks);
    // Also when it is not asked for any more: a home may have them from before.
    let kept_by = |stanza: &Stanza| Some(second::keeper(node, &router::addressee(node, stanza)?));
    let copies = stanzas.iter();
    let copies = copies.filter_map(|(order, (_, stanza))| Some((*order, kept_by(stanza)?)));
    node.second.recover(copies);
    let mut left = node.recovery.left.lock();
    left.known = stanzas.keys().copied().collect();
    left.stanzas = stanzas;
    drop(left);
    Ok(())
}

/// Waits until the others have spoken (at most `geo.hold`), then routes what nobody has.
pub async fn recover(node: Arc<Node>) {
    let deadline = Instant::now() + node.config.geo.hold;
    while !node.recovery.is_empty() && !node.recovery.all_heard(&node) && Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        let left = node.recovery.take();
        if left.is_empty() {
            return;
        }
        let mut by_account: BTreeMap<BareJid, Vec<(u64, u64, Stanza)>> = BTreeMap::new();
        for (order, (accepted_ms, stanza)) in left {
            if let Some(to) = router::addressee(&node, &stanza) {
                by_account.entry(to).or_default().push((order, accepted_ms, stanza));
            }
        }
        let accounts = by_account.into_iter().map(|(to, left)| route_on(&node, to, left));
        futures_util::future::join_all(accounts).await;
    }
}

/// What was not filed before that life ended goes on its way, in order.
async fn route_on(node: &Arc<Node>, to: BareJid, left: Vec<(u64, u64, Stanza)>) {
    let orders: Vec<u64> = left.iter().map(|(order, ..)| *order).collect();
    let me = node.geo.me.to_string();
    let mut filed = Vec::new();
    if !left.iter().all(|(_, _, stanza)| router::leaves(node, stanza)) {
        filed = offline::filed_before(node, &to, &me, orders.clone()).await;
    }
    if is_in_two(node) {
        filed.extend(second::taken_over(node, &to, orders).await);
    }
    for (order, accepted_ms, stanza) in left {
        if filed.contains(&order) {
            router::kept_here(node, order);
            continue;
        }
        tracing::debug!(order, %to, "nobody has what a former life promised");
        let stanza = router::delayed(node, &stanza, accepted_ms);
        router::go_on(node, &to, Routed { stanza, tries: 0, order, tracked: true });
    }
}

/// Whether what is promised has to be on disk in two regions.
fn is_in_two(node: &Node) -> bool {
    node.config.geo.durability == config::Durability::TwoRegions
}

/// Runs until the node stops. What it has begun to write comes to its end, also when it is dropped.
pub async fn run(node: Arc<Node>) {
    let after = node.config.geo.outbox_after;
    loop {
        let stirred = node.ledger.stir.notified();
        let (oldest, leftover) = node.ledger.waiting();
        let due = oldest.map(|since| {
            let age = Duration::from_millis(node.now_ms().saturating_sub(since));
            Instant::now() + after.saturating_sub(age)
        });
        let at = match (due, leftover) {
            (due, true) => Some(due.map_or(Instant::now() + REMOVE_AFTER, |due| {
                due.min(Instant::now() + REMOVE_AFTER)
            })),
            (due, false) => due,
        };
        tokio::select! {
            biased; // The stop has waited longest.
            () = node.stopped() => return,
            () = async { sleep_until(at.unwrap_or_else(Instant::now)).await }, if at.is_some() => {}
            () = stirred, if at.is_none() => continue,
        }
        let before = node.now_ms().saturating_sub(millis(after)) + 1;
        if written(&node, before).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes everything that is open now, and waits for it: before a node stops, or a client is told how much was received. `false` when
/// the disk failed or did not come to an end in time.
pub async fn flush(node: &Arc<Node>, deadline: Instant) -> bool {
    loop {
        match timeout_at(deadline, written(node, u64::MAX)).await {
            Ok(Ok(0)) => {
                if !node.second.settled(deadline).await {
                    return false;
                }
                // What homes have heard is to be removed.
                if !node.ledger.waiting().1 {
                    return true;
                }
            }
            Ok(Ok(_)) => {}
            _ => return false,
        }
    }
}

/// The same as [`write`], in a task of its own: what has been begun is told to the ledger, whoever has stopped waiting.
async fn written(node: &Arc<Node>, before_ms: u64) -> Result<usize, ()> {
    let node = node.clone();
    tokio::spawn(async move { write(&node, before_ms).await }).await.unwrap_or(Err(()))
}

/// One transaction. How many messages were written.
async fn write(node: &Arc<Node>, before_ms: u64) -> Result<usize, ()> {
    let _alone = node.outbox_writer.lock().await;
    let (put, remove) = node.ledger.to_store(before_ms, BATCH_BYTES);
    let let_go = second::let_go(node, remove);
    if put.is_empty() && let_go.alone.is_empty() && let_go.marks.is_empty() {
        return Ok(0);
    }
    let rows = put.iter().map(|(order, accepted_ms, stanza)| (*order, row(*accepted_ms, stanza)));
    let rows: Vec<(u64, Vec<u8>)> = rows.chain(let_go.marks.iter().cloned()).collect();
    let orders = put.iter().map(|(order, ..)| *order);
    if sings(Canary::OutboxForgets) {
        drop(node.ledger.stored(orders));
        return Ok(put.len());
    }
    let name = node.geo.me.to_string();
    match node.storage.outbox_write(&name, rows, let_go.alone.clone()).await {
        Ok(()) => {
            let_go.tell(node);
            let count = put.len();
            node.metrics.outbox_written.inc_by(count as u64);
            if is_in_two(node) {
                second::keep(node, put);
            } else {
                drop(node.ledger.stored(orders)); // And with them the receipts: the senders are told.
            }
            Ok(count)
        }
        Err(error) => {
            tracing::error!(%error, messages = put.len(), "the outbox was not written; their senders wait");
            node.ledger.not_stored(orders, let_go.undo(node), node.now_ms());
            Err(())
        }
    }
}

/// When it was accepted, then its bytes.
fn row(accepted_ms: u64, stanza: &Stanza) -> Vec<u8> {
    let mut row = accepted_ms.to_le_bytes().to_vec();
    row.extend_from_slice(stanza.bytes());
    row
}

fn read(row: Vec<u8>) -> Option<(u64, Stanza)> {
    let mut bytes = Bytes::from(row);
    if bytes.len() < 8 {
        return None;
    }
    let accepted_ms = u64::from_le_bytes(bytes.split_to(8)[..].try_into().ok()?);
    Some((accepted_ms, Stanza::parse(bytes).ok()?))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::testing::{House, stanza};

    #[tokio::test]
    async fn a_write_whose_writer_is_stopped_is_not_forgotten() {
        let house = House::new().await;
        let disk = house.database.clone();
        tokio::time::pause();
        let (node, me) = (&house.node, house.node.geo.me.to_string());
        let soon = || Instant::now() + Duration::from_secs(1);
        let enter = || {
            let order = node.ledger.next_order();
            let message = stanza("<message to='juliet@chat.example'/>");
            node.ledger.enter(order, &message, Due::Nobody, 0, 0).expect("room");
            order
        };
        let kept = enter();
        assert!(flush(node, soon()).await);
        // One that is due, and one that is to be removed; the disk does not come to an end with them.
        let waits = enter();
        drop(node.ledger.kept(kept));
        tokio::time::advance(node.config.geo.outbox_after * 2).await;
        let stuck = disk.writing.lock().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(run(node.clone()));
        let is_written = || node.outbox_writer.try_lock().is_err();
        house.until("it is being written", is_written).await;
        tasks.shutdown().await;
        assert!(!flush(node, soon()).await, "it may not be on the disk");
        disk.go(true);
        drop(stuck);
        house.until("it was not written", || !is_written()).await;
        assert!(!flush(node, soon()).await);
        disk.go(false);
        assert!(flush(node, soon()).await);
        let rows = node.storage.outbox(&me).await.expect("it is there");
        assert_eq!(rows.into_iter().map(|(order, _)| order).collect::<Vec<_>>(), [waits]);
    }

    #[tokio::test]
    async fn what_a_former_life_promised_leaves_for_other_domains_first() {
        let house = House::new().await;
        house.accounts(["juliet"]).await;
        assert!(house.abroad().is_empty());
        let juliet = house.available("juliet/balcony", 0).await;
        let me = house.node.geo.me.to_string();
        let old = |id: u64| {
            let from = "juliet@chat.example/tower";
            stanza(&format!("<message from='{from}' to='romeo@other.example' id='old{id}'/>"))
        };
        let rows = [7, 8].map(|order| (order, row(1, &old(order)))).into();
        house.node.storage.outbox_write(&me, rows, Vec::new()).await.expect("written");
        load(&house.node).await.expect("read");
        for to in ["nurse@other.example", "friar@third.example"] {
            house.says(&juliet, &format!("<message to='{to}' id='new'/>")).await;
        }
        let left = house.abroad();
        assert!(left.len() == 1 && left[0].contains("friar@third.example"), "{left:?}");
        recover(house.node.clone()).await;
        let left = house.abroad().concat();
        let at = |what: &str| left.find(what).unwrap_or_else(|| panic!("no {what} in {left}"));
        assert!(at("old7") < at("old8") && at("old8") < at("'new'"), "{left}");
        assert_eq!(house.node.federation.open(), 0);
    }
}
