//! Who has left lately, and is not written down yet. A home that is here is told of it a moment later, of all who have left until then: a second in
//! which a thousand clients leave is a few transactions, not hundreds. Nobody has to wait for that: whoever asks a home is told what
//! waits here for it. Homes elsewhere are told at once, for that same reason.
//!
//! Bound: [`WAITING_MAX`] accounts, of each the last that happened; what comes beyond (a region whose clients all leave while a home
//! cannot be reached) is not kept. A node that stops writes what waits; one that dies forgets that moment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use xmpp::jid::BareJid;

use super::home::{Left, OP, Request};
use crate::app::Node;

/// Accounts whose last activity is on its way to their homes.
const WAITING_MAX: usize = 100_000;
/// How long those who leave are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// Accounts whose homes are told at the same time: as many as a home takes into one transaction.
const TOLD_AT_ONCE: usize = 256;
/// How long the last of it may take before a node stops.
pub(crate) const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// See the room.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What homes are being told, or will be.
    waiting: HashMap<BareJid, Left>,
    /// Those of them that are gathered. While there are any, somebody will come for them.
    gathered: Vec<BareJid>,
}

impl Leaving {
    /// What waits to be written of that account.
    pub fn of(&self, account: &BareJid) -> Option<Left> {
        self.0.lock().waiting.get(account).cloned()
    }

    /// Its home will know.
    pub(super) fn add(&self, node: &Arc<Node>, account: &BareJid, left: Left) {
        let mut state = self.0.lock();
        let State { waiting, gathered } = &mut *state;
        let full = waiting.len() >= WAITING_MAX;
        match waiting.entry(account.clone()) {
            // Whoever is at it looks once more.
            Entry::Occupied(mut entry) => drop(entry.insert(left)),
            Entry::Vacant(_) if full => {}
            Entry::Vacant(entry) => {
                entry.insert(left);
                let (node, account) = (node.clone(), account.clone());
                if !node.homes.is_home(account.as_str()) {
                    tokio::spawn(async move { tell(&node, &account).await });
                    return;
                }
                if gathered.is_empty() {
                    tokio::spawn(async move {
                        tokio::time::sleep(GATHER).await;
                        let gathered = std::mem::take(&mut node.leaving.0.lock().gathered);
                        tell_all(&node, &gathered).await;
                    });
                }
                gathered.push(account);
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

/// Writes down everything that waits, before a node stops.
pub async fn flush(node: &Arc<Node>) {
    let accounts: Vec<BareJid> = node.leaving.0.lock().waiting.keys().cloned().collect();
    if timeout(FLUSH_WITHIN, tell_all(node, &accounts)).await.is_err() {
        tracing::warn!("the last activity of some is not kept: their homes did not answer");
    }
}

async fn tell_all(node: &Arc<Node>, accounts: &[BareJid]) {
    for accounts in accounts.chunks(TOLD_AT_ONCE) {
        join_all(accounts.iter().map(|account| tell(node, account))).await;
    }
}

/// Tells the home, until it knows the last. A home that cannot be reached is not waited for.
async fn tell(node: &Arc<Node>, account: &BareJid) {
    while let Some(left) = node.leaving.of(account) {
        let request = Request::Left(left.clone());
        if let Err(error) = node.homes.exchange::<_, Option<Left>>(account, OP, &request).await {
            tracing::debug!(%account, %error, "its last activity is not kept");
        }
        let waiting = &mut node.leaving.0.lock().waiting;
        if waiting.get(account) == Some(&left) {
            waiting.remove(account);
        }
    }
}
