//! The second copy of an outbox, where `durability = "two-regions"`: what this node has promised and could not hand on at once is on its own disk,
//! and with the addressee's home, which answers when its heir has it too. So it survives the loss of this node's whole region: when that
//! is declared down, the homes route what they keep for its nodes. When it returns, it asks what was taken over. Blueprint §7.
//!
//! Called by the outbox; [`take_over`] by `app` when metadata changes. Absent on purpose: when to write (the outbox), order (the table).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use crate::app::Node;
use crate::homes::{self, HomeError, HomeOp, Tx};
use crate::router::ledger::{Due, ToStore};
use crate::router::{self, Routed};

/// Name of the operation.
pub const OP: &str = "outbox";
/// A map, owner the addressee; key the node and its order; value as in that node's outbox, or empty: taken over.
pub const SECOND: &str = "outbox.second";
/// Bytes of messages in one request.
const PART_BYTES: usize = 384 << 10;
/// Before a home that cannot be reached is asked again. Their senders wait meanwhile.
const RETRY: Duration = Duration::from_millis(500);
/// How long what is taken over may take to be written here, before the homes are left with it for the next time.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);
/// Owners looked at in one step.
const OWNERS: usize = 256;

/// What may be asked of a home.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep these for a node.
    Keep {
        /// Which.
        node: String,
        /// Its orders, and what its outbox has under them.
        rows: Vec<(u64, Vec<u8>)>,
    },
    /// They need not be kept any longer.
    Drop {
        /// Whose.
        node: String,
        /// Its orders.
        orders: Vec<u64>,
    },
    /// The home has taken these over: it only remembers that.
    TakeOver {
        /// Whose.
        node: String,
        /// Its orders.
        orders: Vec<u64>,
    },
    /// Which of these were taken over?
    Taken {
        /// Whose.
        node: String,
        /// Its orders.
        orders: Vec<u64>,
    },
}

/// The operation.
pub struct SecondHome;

impl HomeOp for SecondHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        _account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, move |request| decide(tx, request))
    }
}

fn key(node: &str, order: u64) -> String {
    format!("{node}/{order:020}")
}

async fn decide(tx: &mut Tx, request: Request) -> Result<Vec<u64>, HomeError> {
    match request {
        Request::Keep { node, rows } => {
            for (order, row) in rows {
                tx.put(SECOND, key(&node, order), row);
            }
        }
        Request::Drop { node, orders } => {
            for order in orders {
                tx.delete(SECOND, key(&node, order));
            }
        }
        Request::TakeOver { node, orders } => {
            for order in orders {
                let key = key(&node, order);
                if tx.get(SECOND, &key).await?.is_some() {
                    tx.put(SECOND, key, Vec::new());
                }
            }
        }
        Request::Taken { node, orders } => {
            let mut taken = Vec::new();
            for order in orders {
                if tx.get(SECOND, &key(&node, order)).await?.is_some_and(|row| row.is_empty()) {
                    taken.push(order);
                }
            }
            return Ok(taken);
        }
    }
    Ok(Vec::new())
}

async fn ask(node: &Node, to: &BareJid, request: &Request) -> Result<Vec<u64>, HomeError> {
    node.homes.exchange(to, OP, request).await
}

/// What is with homes on our behalf. Memory: an entry for each message in the outbox.
#[derive(Debug, Default)]
pub struct Second {
    /// With whose home.
    kept: Mutex<HashMap<u64, BareJid>>,
    /// Requests to keep that are not answered.
    pending: AtomicUsize,
    answered: Notify,
}

impl Second {
    /// A former life left these; they may be with homes.
    pub fn recover<'a>(&self, left: impl Iterator<Item = (u64, &'a Stanza)>) {
        let mut kept = self.kept.lock();
        kept.extend(left.filter_map(|(order, stanza)| Some((order, stanza.to()?.bare()))));
    }

    /// Waits until all that was to be kept is kept; false when the time is over.
    pub async fn settled(&self, deadline: Instant) -> bool {
        loop {
            let answered = self.answered.notified();
            if self.pending.load(Ordering::Acquire) == 0 {
                return true;
            }
            if timeout_at(deadline, answered).await.is_err() {
                return false;
            }
        }
    }
}

/// Brings what was just written here to the homes of the addressees, and tells the senders when it is there.
pub fn keep(node: &Arc<Node>, written: Vec<ToStore>) {
    let mut by_account: BTreeMap<BareJid, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    {
        let mut kept = node.second.kept.lock();
        for (order, accepted_ms, stanza) in written {
            let Some(to) = stanza.to().map(xmpp::jid::Jid::bare) else { continue };
            kept.insert(order, to.clone());
            by_account.entry(to).or_default().push((order, super::row(accepted_ms, &stanza)));
        }
    }
    for (to, rows) in by_account {
        node.second.pending.fetch_add(1, Ordering::AcqRel);
        let node = node.clone();
        tokio::spawn(async move {
            let mut rest = rows.into_iter().peekable();
            while rest.peek().is_some() {
                let mut bytes = 0;
                let mut part = Vec::new();
                while let Some(row) = rest.next_if(|(_, row)| {
                    bytes += row.len();
                    bytes <= PART_BYTES || part.is_empty()
                }) {
                    part.push(row);
                }
                let orders: Vec<u64> = part.iter().map(|(order, _)| *order).collect();
                let me = node.geo.me.to_string();
                asked_until_done(&node, &to, &Request::Keep { node: me, rows: part }).await;
                drop(node.ledger.stored(orders.into_iter())); // And with them the receipts: the senders are told.
            }
            node.second.pending.fetch_sub(1, Ordering::AcqRel);
            node.second.answered.notify_waiters();
        });
    }
}

/// These are kept by somebody: their homes need not keep them. Returns those that no home has; the others come back to the ledger as left over
/// when their homes have heard it, so that no home keeps what no outbox has.
pub fn let_go(node: &Arc<Node>, orders: Vec<u64>) -> Vec<u64> {
    let mut by_account: BTreeMap<BareJid, Vec<u64>> = BTreeMap::new();
    let mut alone = Vec::new();
    {
        let mut kept = node.second.kept.lock();
        for order in orders {
            match kept.remove(&order) {
                Some(to) => by_account.entry(to).or_default().push(order),
                None => alone.push(order),
            }
        }
    }
    for (to, orders) in by_account {
        let node = node.clone();
        tokio::spawn(async move {
            let me = node.geo.me.to_string();
            asked_until_done(&node, &to, &Request::Drop { node: me, orders: orders.clone() }).await;
            node.ledger.left_over(orders);
        });
    }
    alone
}

async fn asked_until_done(node: &Node, to: &BareJid, request: &Request) {
    while let Err(error) = ask(node, to, request).await {
        tracing::debug!(%to, %error, "a home does not answer for the outbox");
        tokio::time::sleep(RETRY).await;
    }
}

/// Which of what a former life left was taken over meanwhile. Nothing, if the home cannot be reached: then some may come twice.
pub async fn taken_over(node: &Arc<Node>, to: &BareJid, orders: Vec<u64>) -> Vec<u64> {
    let request = Request::Taken { node: node.geo.me.to_string(), orders };
    ask(node, to, &request).await.unwrap_or_else(|error| {
        tracing::warn!(%to, %error, "cannot ask what was taken over");
        Vec::new()
    })
}

/// Those nodes are gone with their regions: routes what is kept for them here, as messages of ours. At the start too: an earlier life may have
/// stopped half-way.
pub fn take_over(node: &Arc<Node>, gone: Vec<String>) {
    if gone.is_empty() || node.config.geo.durability != config::Durability::TwoRegions {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        let mut after: Option<String> = None;
        loop {
            let owners = match node.storage.owners(SECOND, after.as_deref(), OWNERS).await {
                Ok(owners) => owners,
                Err(error) => {
                    tracing::error!(%error, "cannot look for what is kept for regions that are gone");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            for owner in owners.iter().filter_map(|owner| BareJid::parse(owner).ok()) {
                if let Err(error) = take_over_for(&node, &owner, &gone).await {
                    tracing::error!(%owner, %error, "what is kept for regions that are gone stays");
                }
            }
            let Some(last) = owners.into_iter().next_back() else { return };
            after = Some(last);
        }
    });
}

async fn take_over_for(
    node: &Arc<Node>,
    owner: &BareJid,
    gone: &[String],
) -> Result<(), HomeError> {
    if !node.homes.is_home(owner) {
        return Ok(());
    }
    let mut orders: BTreeMap<&String, Vec<u64>> = BTreeMap::new();
    let mut routed = Vec::new();
    for (key, row) in node.storage.map(SECOND, owner.as_str()).await? {
        let Some((name, order)) = key.rsplit_once('/') else { continue };
        let Some(name) = gone.iter().find(|known| *known == name) else { continue };
        let (Ok(order), Some((accepted_ms, stanza))) = (order.parse(), super::read(row)) else {
            continue; // Taken over before, most likely.
        };
        let own = node.ledger.next_order();
        if node.ledger.enter(own, &stanza, Due::Nobody, node.now_ms(), accepted_ms).is_err() {
            return Err(HomeError::Busy);
        }
        tracing::debug!(of = name, order, to = %owner, "a message of a region that is gone");
        let stanza = router::delayed(node, &stanza, accepted_ms);
        routed.push(Routed { stanza, tries: 0, order: own, tracked: true });
        orders.entry(name).or_default().push(order);
    }
    if routed.is_empty() {
        return Ok(());
    }
    router::put_back(node, owner, routed);
    // Ours only when they are on disk here: if we die before, the home has them still.
    if !super::flush(node, Instant::now() + WRITTEN_WITHIN).await {
        return Err(HomeError::Unreachable);
    }
    for (name, orders) in orders {
        ask(node, owner, &Request::TakeOver { node: name.clone(), orders }).await?;
    }
    Ok(())
}
