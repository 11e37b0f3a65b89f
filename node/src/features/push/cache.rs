//! Which devices are registered for pushes, of the accounts that are connected here: read when a resource is bound, kept current by the
//! changes that are applied, forgotten with the account's last session. An account without devices costs nothing: its seats do not
//! say that there are any, and nothing is read for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use global_distrib::Row;
use replication::durable_log::Change;
use xmpp::jid::BareJid;

use super::home::Told;
use super::record::{PUSH, Registration};
use crate::app::Node;
use crate::router::perform::seats_of;
use crate::session::Seat;
use crate::storage::holders::Holders;

/// The devices of one account: resources, by the keys of their registrations.
#[derive(Debug, Default)]
struct Devices {
    resources: BTreeMap<String, String>,
    /// Counts what was applied: who read before it reads again.
    changes: u64,
}

/// What a node knows of pushes.
#[derive(Debug)]
pub struct Pushes {
    /// Who has any.
    pub registered: Holders,
    devices: scc::HashMap<BareJid, Devices, foldhash::fast::RandomState>,
    /// As the home of accounts: what their devices have heard.
    pub told: Told,
}

impl Pushes {
    /// Nothing is known yet; `remembered_max` bounds what was told, `first` is the number of the first publication.
    pub fn new(remembered_max: usize, first: u64) -> Self {
        Self {
            registered: Holders::new(PUSH),
            devices: scc::HashMap::default(),
            told: Told::new(remembered_max, first),
        }
    }

    /// A resource is bound: its account's devices are known from now on.
    pub async fn load(&self, node: &Arc<Node>, seat: &Arc<Seat>) {
        loop {
            let known = self.devices.read_sync(&seat.bare, |_, devices| devices.changes);
            let read = match node.storage.map(PUSH, seat.bare.as_str()).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(account = %seat.bare, %error, "devices cannot be read");
                    return;
                }
            };
            if read.is_empty() && known.is_none() {
                return;
            }
            let resources: BTreeMap<String, String> = read
                .into_iter()
                .filter_map(|(key, bytes)| Some((key, Registration::decode(&bytes)?.resource)))
                .collect();
            let mut entry = self.devices.entry_sync(seat.bare.clone()).or_default();
            if entry.changes == known.unwrap_or(0) {
                seat.set_pushes(!resources.is_empty());
                entry.resources = resources;
                return;
            }
        }
    }

    /// A session is gone; with the last one of its account here what was known is too.
    pub fn evict(&self, node: &Arc<Node>, account: &BareJid) {
        if seats_of(node, account.as_str()).is_empty() {
            self.devices.remove_sync(account);
        }
    }

    /// A registration has come or gone.
    pub fn apply(&self, node: &Arc<Node>, change: &Change) {
        self.registered.apply(change);
        let Ok(account) = BareJid::parse(change.owner()) else { return };
        let seats = seats_of(node, account.as_str());
        if seats.is_empty() {
            return;
        }
        let mut entry = self.devices.entry_sync(account).or_default();
        entry.changes += 1;
        match change {
            Change::Put { key, value, .. } => {
                if let Some(registration) = Registration::decode(value) {
                    entry.resources.insert(key.clone(), registration.resource);
                }
            }
            Change::Delete { key, .. } => {
                entry.resources.remove(key);
            }
            Change::Clear { .. } => entry.resources.clear(),
            Change::Append { .. } | Change::Remove { .. } | Change::Trim { .. } => {}
        }
        let any = !entry.resources.is_empty();
        seats.iter().for_each(|seat| seat.set_pushes(any));
    }

    /// Keys of the devices whose resource is connected nowhere.
    pub fn absent(&self, node: &Node, account: &BareJid) -> Vec<String> {
        let connected = |rows: &[Row<Arc<Seat>>], resource: &str| {
            rows.iter().any(|row| row.full.resource() == resource)
        };
        let devices = self.of(account, |_| true);
        node.directory
            .read(account.as_str(), |rows| {
                devices.iter().filter(|(_, resource)| !connected(rows, resource)).cloned().collect()
            })
            .unwrap_or(devices)
            .into_iter()
            .map(|(key, _)| key)
            .collect()
    }

    /// Keys of the devices of a resource.
    pub fn of_resource(&self, account: &BareJid, resource: &str) -> Vec<String> {
        self.of(account, |of| of == resource).into_iter().map(|(key, _)| key).collect()
    }

    fn of(&self, account: &BareJid, which: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        self.devices
            .read_sync(account, |_, devices| {
                devices
                    .resources
                    .iter()
                    .filter(|(_, resource)| which(resource))
                    .map(|(key, resource)| (key.clone(), resource.clone()))
                    .collect()
            })
            .unwrap_or_default()
    }
}
