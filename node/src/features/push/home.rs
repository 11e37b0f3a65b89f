//! Pushes at the account's home: it keeps the registrations, and it is the one that publishes, whoever has seen the message. So each
//! message comes to each device once: what several nodes speak of is known here by the node and the order it entered with.
//! What was published is remembered in memory, bounded by `push.remembered_max`; beyond that, or when the home has moved or been started
//! anew meanwhile, a message may be pushed twice.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::payload::importance;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::payload::{Note, Says, publication};
use super::record::{PUSH, Registration, key};
use crate::app::{Late, Node};
use crate::homes::accounts;
use crate::homes::{self, HomeError, HomeOp, Tx};
use crate::router;

/// Name of the operation.
pub const OP: &str = "push";

/// A message, by the node where it entered and its order there.
pub type Entered = (String, u64);

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep a registration; its token and time are the home's to give.
    Enable {
        /// It.
        registration: Registration,
        /// `push.registrations_max` of the asker.
        max: u32,
    },
    /// Forget one, or all of an app server.
    Disable {
        /// The app server.
        jid: String,
        /// That node only.
        node: Option<String>,
    },
    /// The app server refuses: forget it.
    Refused {
        /// The app server.
        jid: String,
        /// Of which registration.
        token: u64,
    },
    /// Tell these devices of messages, each of each once.
    Tell {
        /// Keys of the registrations.
        devices: Vec<String>,
        /// The messages.
        of: Vec<Entered>,
        /// What may be told.
        note: Note,
    },
}

/// The operation. It sees the node, to route what it publishes.
pub struct PushHome(pub Late);

impl HomeOp for PushHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, move |request| async move {
            let node = self.0.get().ok_or(HomeError::Unreachable)?;
            decide(&node, tx, account, request).await
        })
    }
}

async fn decide(
    node: &Arc<Node>,
    tx: &mut Tx,
    account: &BareJid,
    request: Request,
) -> Result<(), HomeError> {
    match request {
        Request::Enable { mut registration, max } => {
            // A guest's would stay for ever.
            if !accounts::exists(tx).await? {
                return Err(HomeError::refused(&StanzaError::service_unavailable()));
            }
            let mut others = registrations(tx).await?;
            others.retain(|known| known.key() != registration.key());
            // The bound: the one that was enabled longest ago makes room.
            others.sort_by_key(|known| known.since);
            let room = (max as usize).saturating_sub(1);
            for old in others.iter().rev().skip(room) {
                tx.delete(PUSH, old.key());
            }
            registration.token = u64::from_le_bytes(node.random::<8>());
            registration.since = tx.at().0;
            tx.put(PUSH, registration.key(), registration.encode());
        }
        Request::Disable { jid, node: Some(of) } => {
            let key = key(&jid, Some(&of));
            if tx.get(PUSH, &key).await?.is_some() {
                tx.delete(PUSH, key);
            }
        }
        Request::Disable { jid, node: None } => {
            for known in registrations(tx).await?.iter().filter(|known| known.jid == jid) {
                tx.delete(PUSH, known.key());
            }
        }
        Request::Refused { jid, token } => {
            let refused = |known: &&Registration| known.jid == jid && known.token == token;
            if let Some(known) = registrations(tx).await?.iter().find(refused) {
                tracing::info!(%account, app_server = %jid, "pushes are refused, and disabled");
                tx.delete(PUSH, known.key());
            }
        }
        Request::Tell { devices, of, note } => {
            for known in registrations(tx).await? {
                if devices.contains(&known.key()) {
                    publish(node, account, &known, &of, &note);
                }
            }
        }
    }
    Ok(())
}

async fn registrations(tx: &Tx) -> Result<Vec<Registration>, HomeError> {
    let map = tx.map(PUSH).await?;
    Ok(map.values().filter_map(|bytes| Registration::decode(bytes)).collect())
}

/// These are being filed for an account that nobody can take messages for: all its devices are to hear of them. Called by the home of
/// offline messages, in its operation.
pub async fn filed(
    node: &Arc<Node>,
    tx: &Tx,
    account: &BareJid,
    from: &str,
    stanzas: &[(u64, Vec<u8>)],
) -> Result<(), HomeError> {
    // Whoever registers is known as soon as that is committed; in the same group as this, it is early enough for the next message.
    if !node.pushes.registered.may_have(account.as_str()) {
        return Ok(());
    }
    let known = registrations(tx).await?;
    if known.is_empty() {
        return Ok(());
    }
    for (order, bytes) in stanzas {
        let Ok(message) = Stanza::parse(bytes.clone().into()) else { continue };
        if importance::is_worth_a_call(&message) {
            let (of, note) = ([(from.to_owned(), *order)], Note::of(&message));
            for registration in &known {
                publish(node, account, registration, &of, &note);
            }
        }
    }
    Ok(())
}

/// Unless the device has heard of all of them.
fn publish(
    node: &Arc<Node>,
    account: &BareJid,
    registration: &Registration,
    of: &[Entered],
    note: &Note,
) {
    if !node.pushes.told.is_new(registration, of) {
        return;
    }
    let config = &node.config.push;
    let says = Says {
        sender: config.include_sender,
        body: config.include_body,
        placeholder: &config.placeholder_body,
    };
    let number = node.pushes.told.number();
    if let Some(iq) = publication(account, registration, note, says, number) {
        node.metrics.pushed.inc();
        let node = node.clone();
        // Beside the writer of the home, which is not to wait for a lock of the router's.
        tokio::spawn(async move { router::route(&node, iq) });
    }
}

/// What devices have heard of lately.
#[derive(Debug)]
pub struct Told {
    known: Mutex<(HashSet<u64, foldhash::fast::FixedState>, VecDeque<u64>)>,
    most: usize,
    next: AtomicU64,
}

impl Told {
    /// Nothing yet; of `most` the oldest is forgotten.
    pub fn new(most: usize, first: u64) -> Self {
        Self { known: Mutex::default(), most, next: AtomicU64::new(first) }
    }

    /// Whether one of these messages is news to the device. From now on none is.
    fn is_new(&self, device: &Registration, of: &[Entered]) -> bool {
        let mut known = self.known.lock();
        let (set, order) = &mut *known;
        let mut new = false;
        for entered in of {
            let hash = foldhash::fast::FixedState::default().hash_one((device.key(), entered));
            if set.insert(hash) {
                new = true;
                order.push_back(hash);
            }
        }
        while order.len() > self.most {
            if let Some(oldest) = order.pop_front() {
                set.remove(&oldest);
            }
        }
        new
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
