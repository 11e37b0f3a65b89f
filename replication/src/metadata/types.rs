//! The facts metadata holds, and the commands that change them. Plain values; [`MetaState::apply`] is in `apply.rs`.
//!
//! Everybody reads these (`global-distrib::home`, the router, `pangaea ctl`). Ordered maps only, so that every node that
//! applies the same commands holds the same bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// Into how many shards accounts are divided. A constant of the deployment's life: it is part of every stored epoch.
pub const SHARDS: usize = 256;

/// The shard of a bare JID (prepared form): FNV-1a of its bytes, 64 bits, folded to 8. Same on every node, for ever.
pub fn shard_of(bare: &str) -> u8 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bare.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash.to_le_bytes().into_iter().fold(0, |fold, byte| fold ^ byte)
}

/// All of metadata at one version.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MetaState {
    /// Grows by one with every command that changed something; 0 means not founded yet.
    pub version: u64,
    /// By region name.
    pub regions: BTreeMap<String, Region>,
    /// By node name (`eu-0`).
    pub nodes: BTreeMap<String, NodeRecord>,
    /// By domain name.
    pub domains: BTreeMap<String, Domain>,
    /// One home a shard: [`SHARDS`] of them once founded, none before.
    pub homes: Vec<Home>,
    /// Accounts (bare JID) that live elsewhere than their shard: data residency. At most [`PINS_BYTES_MAX`] bytes of names.
    pub pins: BTreeMap<String, Home>,
    /// Nodes that count as dead though their region does not, each with the incarnation that nobody reached. A region with one node is down as
    /// a whole instead.
    pub fallen: BTreeMap<String, u64>,
    /// What all nodes' dialback keys are made with (XEP-0185), once the first has proposed one. A secret: shown nowhere.
    pub dialback: Option<DialbackSecret>,
}

/// The bytes of the names of all pinned accounts: a region says in one message which of them a copy brings. Beyond: [`CommandError::TooManyPins`].
pub const PINS_BYTES_MAX: usize = 512 * 1024;

/// See [`MetaState::dialback`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialbackSecret(pub [u8; 32]);

impl fmt::Debug for DialbackSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DialbackSecret(…)")
    }
}

impl MetaState {
    /// The home of an account: the region whose own domain it is on, for ever; else its pin, else its shard's. None before genesis.
    pub fn home_of(&self, bare: &str) -> Option<Cow<'_, Home>> {
        let shards = self.homes.get(usize::from(shard_of(bare)))?;
        match self.region_of(bare) {
            Some(region) => Some(Cow::Owned(self.home_in(region))),
            None => Some(Cow::Borrowed(self.pins.get(bare).unwrap_or(shards))),
        }
    }

    /// The region on whose own domain somebody is (a bare JID, or a domain); None: on another domain. A region that was added later has one as the
    /// founders have: its name below the global domain.
    pub fn region_of(&self, bare: &str) -> Option<&str> {
        let domain = bare.split_once('@').map_or(bare, |(_, domain)| domain);
        match self.domains.get(domain).map(|domain| &domain.kind) {
            Some(DomainKind::Regional(region)) => Some(region),
            Some(DomainKind::Global) => None,
            None => {
                let (region, rest) = domain.split_once('.')?;
                let is_global = |domain: &Domain| domain.kind == DomainKind::Global;
                let region = self.regions.get(region)?;
                self.domains.get(rest).is_some_and(is_global).then_some(&*region.name)
            }
        }
    }

    /// Regions' own domains, and of which region each is; as [`MetaState::region_of`] says it.
    pub fn regional_domains(&self) -> BTreeMap<String, &str> {
        let globals = self.domains.iter().filter(|(_, domain)| domain.kind == DomainKind::Global);
        let below = |global: &String| {
            let names = self.regions.keys().map(|region| format!("{region}.{global}"));
            names.collect::<Vec<_>>()
        };
        let named = self.domains.keys().cloned();
        let all = named.chain(globals.flat_map(|(name, _)| below(name)));
        all.filter_map(|name| self.region_of(&name).map(|region| (name.clone(), region))).collect()
    }

    /// A home that never moves: its epoch is the first, and the other regions have copies.
    fn home_in(&self, region: &str) -> Home {
        let others = self.regions.keys().filter(|other| *other != region).cloned();
        let replicas = std::iter::once(region.to_owned()).chain(others).collect();
        Home { region: region.to_owned(), epoch: 1, replicas }
    }

    /// The region that becomes home when the present one is lost: the first other replica that is up and not behind; if all are behind, the
    /// first that is up.
    pub fn heir<'a>(&'a self, home: &'a Home) -> Option<&'a str> {
        let mut best = None;
        for name in home.replicas.iter().filter(|region| **region != home.region) {
            let Some(region) = self.regions.get(name) else { continue };
            match region.state {
                RegionState::Up if !region.behind.contains(&home.region) => return Some(name),
                RegionState::Up => best = best.or(Some(name.as_str())),
                _ => {}
            }
        }
        best
    }

    /// The home of a shard. None before genesis.
    pub fn home(&self, shard: u8) -> Option<&Home> {
        self.homes.get(usize::from(shard))
    }

    /// The state of a region; an unknown one counts as down.
    pub fn region_state(&self, region: &str) -> RegionState {
        self.regions.get(region).map_or(RegionState::Down, |region| region.state)
    }

    /// Regions that do not count as dead: those whose echo is waited for, and to whom the route log is shipped.
    pub fn live_regions(&self) -> impl Iterator<Item = &str> {
        self.regions
            .values()
            .filter(|region| !region.state.is_down())
            .map(|region| region.name.as_str())
    }

    /// A state to found a cluster with: homes spread round-robin over the regions (by name), every region a replica of
    /// every shard, epoch 1, version 0. No regions, no homes.
    pub fn genesis(
        regions: impl IntoIterator<Item = Region>,
        nodes: impl IntoIterator<Item = (String, NodeRecord)>,
        domains: impl IntoIterator<Item = (String, Domain)>,
    ) -> MetaState {
        let regions: BTreeMap<String, Region> =
            regions.into_iter().map(|region| (region.name.clone(), region)).collect();
        let names: Vec<String> = regions.keys().cloned().collect();
        let homes = match names.len() {
            0 => Vec::new(),
            count => (0..SHARDS)
                .map(|shard| {
                    let mut replicas = names.clone();
                    replicas.rotate_left(shard % count);
                    Home { region: replicas[0].clone(), epoch: 1, replicas }
                })
                .collect(),
        };
        MetaState {
            version: 0,
            regions,
            nodes: nodes.into_iter().collect(),
            domains: domains.into_iter().collect(),
            homes,
            pins: BTreeMap::new(),
            fallen: BTreeMap::new(),
            dialback: None,
        }
    }

    /// Whether a node's echo is waited for: it has not fallen, nor has its region.
    pub fn is_live(&self, node: &str) -> bool {
        let region = self.nodes.get(node).map(|record| &*record.region);
        region.is_some_and(|region| !self.region_state(region).is_down())
            && !self.fallen.contains_key(node)
    }
}

/// What may be asked of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionState {
    /// Serves; may be given homes.
    Up,
    /// Serves, but is being emptied: given no homes.
    Draining,
    /// Counts as dead, because nobody reached it: holds nothing back, is home of nothing that another region could be home
    /// of. Reached again, it returns by itself.
    Down,
    /// The same by an operator's order, whether it can be reached or not. Only an operator raises it.
    // Last, and a state of its own rather than a field of `Region`: what is stored stays readable.
    Off,
}

impl RegionState {
    /// Whether it counts as dead, whoever said so.
    pub fn is_down(self) -> bool {
        matches!(self, RegionState::Down | RegionState::Off)
    }
}

impl fmt::Display for RegionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegionState::Up => "up",
            RegionState::Draining => "draining",
            RegionState::Down => "down",
            RegionState::Off => "off",
        })
    }
}

/// One full cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// `eu`.
    pub name: String,
    /// See [`RegionState`].
    pub state: RegionState,
    /// Latitude and longitude in degrees: "nearest region" is computed from it.
    #[serde(default)]
    pub place: Option<(f64, f64)>,
    /// Public endpoints by kind (`c2s`, `c2s-tls`, `https`, …), as `host:port` or a URL.
    #[serde(default)]
    pub endpoints: BTreeMap<String, String>,
    /// Regions of whose log it may not have the end, since it was down or is new; each of them says itself when it has. It inherits from them
    /// last.
    #[serde(default)]
    pub behind: BTreeSet<String>,
}

impl Region {
    /// A region that is up, with no place and no endpoints.
    pub fn up(name: impl Into<String>) -> Region {
        Region {
            name: name.into(),
            state: RegionState::Up,
            place: None,
            endpoints: BTreeMap::new(),
            behind: BTreeSet::new(),
        }
    }
}

/// One node, by name in [`MetaState::nodes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The region it belongs to.
    pub region: String,
    /// Its number within the region.
    pub node: u16,
    /// Its Raft id; unique, and never given to another disk.
    pub raft_id: u64,
    /// Where links dial it: `host:port`; empty when only its peers' configurations know.
    pub address: String,
    /// SHA-256 of its certificate's DER, lower-case hexadecimal.
    pub fingerprint: String,
    /// Whether it votes in Raft (else it is a learner).
    pub voter: bool,
    /// The number of its present life; 0 when it never reported.
    pub incarnation: u64,
}

/// A domain we serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// By whom.
    pub kind: DomainKind,
}

/// By whom a domain is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainKind {
    /// By every region.
    Global,
    /// By this region only.
    Regional(String),
}

/// Who writes the durable data of a shard (or a pinned account).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The one writer.
    pub region: String,
    /// Grows with every change of `region`; writes and log entries carry it.
    pub epoch: u64,
    /// Regions that hold a copy, the home among them, in the order in which they take over.
    pub replicas: Vec<String>,
}

/// What can be agreed on. Applying the same one twice changes nothing the second time, so a proposal whose answer was
/// lost may be repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are named by the types above")]
pub enum Command {
    /// The first state; only accepted at version 0.
    Genesis(Box<MetaState>),
    /// A node has started (or is made known): its record, `voter` left as it was (false for a new one), and
    /// `address` too if it is empty.
    NodeUp { name: String, record: NodeRecord },
    /// Follows a change of Raft membership.
    NodeVoter { name: String, voter: bool },
    /// A node is gone for good.
    NodeRemove { name: String },
    /// A new region; becomes the last replica of every shard.
    RegionAdd { region: Region },
    /// A region's state from now on. Down and Off move its homes to the first replica that is up; Up moves nothing back;
    /// Down leaves one that is Off as it is.
    RegionState { region: String, state: RegionState },
    /// Forgets a region that is down, has no nodes and is home of nothing.
    RegionRemove { region: String },
    /// A domain is served from now on (or differently).
    DomainAdd { name: String, domain: Domain },
    /// And no longer.
    DomainRemove { name: String },
    /// A planned move of a shard's home to a replica that is up.
    /// Refused if the home's epoch is another by now than the one given.
    MoveHome { shard: u8, to: String, epoch: Option<u64> },
    /// This account's home is `to`, its copies in `replicas` only (`to` is added if missing).
    /// Refused if the epoch of its home is another by now than the one given.
    Pin { account: String, to: String, replicas: Vec<String>, epoch: Option<u64> },
    /// The account goes back to its shard, whose epoch rises above the pin's.
    Unpin { account: String },
    /// A region that is Down was reached: it is Up. One in another state stays as it is.
    RegionReturned { region: String },
    /// By a home: the replica has its whole log.
    CaughtUp { home: String, replica: String },
    /// Nobody reaches this life of a node: it counts as dead. A newer life of it does not.
    NodeFallen { name: String, incarnation: u64 },
    /// This life of a node is reached again.
    NodeReturned { name: String, incarnation: u64 },
    /// The secret of dialback keys; the first one stays.
    Dialback { secret: DialbackSecret },
}

/// What applying a command did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CommandReply {
    /// The state's version after it. Wait for [`MetaState::version`] to reach this to see the change.
    pub version: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// Shards whose home moved.
    pub moved: Vec<u8>,
}

/// Why a command was refused. The state is as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the message says it")]
pub enum CommandError {
    #[error("this cluster is already founded")]
    AlreadyFounded,
    #[error("this cluster is not founded yet")]
    NotFounded,
    #[error(
        "a genesis state needs at least one region, {SHARDS} homes, and names that refer to each other"
    )]
    BadGenesis,
    #[error("there is no region {0:?}")]
    UnknownRegion(String),
    #[error("there is a region {0:?} already")]
    RegionExists(String),
    #[error("region {0:?} is not up")]
    RegionNotUp(String),
    #[error("region {0:?} still has nodes, homes, domains or is not down")]
    RegionInUse(String),
    #[error("region {0:?} is the last one that is up")]
    LastRegion(String),
    #[error("region {to:?} holds no copy of shard {shard}")]
    NotReplica { shard: u8, to: String },
    #[error("there is no node {0:?}")]
    UnknownNode(String),
    #[error("Raft id {raft_id} belongs to {owner:?}")]
    RaftIdTaken { raft_id: u64, owner: String },
    #[error("node {name:?} is known with incarnation {known}, which is newer")]
    StaleIncarnation { name: String, known: u64 },
    #[error("node {0:?} is the only one of its region that has not fallen")]
    LastNode(String),
    #[error("there is no domain {0:?}")]
    UnknownDomain(String),
    #[error("{0:?} is not pinned")]
    NotPinned(String),
    #[error("its home has moved meanwhile: it is {region:?} in epoch {epoch}")]
    HasMoved { region: String, epoch: u64 },
    #[error("{account:?} is on the own domain of region {region:?}, which is its home for ever")]
    OfRegion { account: String, region: String },
    #[error("the names of the accounts that are pinned take {PINS_BYTES_MAX} bytes: unpin some")]
    TooManyPins,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_an_account_never_changes() {
        // These numbers are a promise to every stored epoch: do not adapt them to the code.
        assert_eq!(shard_of(""), 0xcb ^ 0xf2 ^ 0x9c ^ 0xe4 ^ 0x84 ^ 0x22 ^ 0x23 ^ 0x25);
        assert_eq!(shard_of("romeo@chat.example"), shard_of("romeo@chat.example"));
        let mut filled = std::collections::BTreeSet::new();
        for i in 0..4000 {
            filled.insert(shard_of(&format!("user{i}@chat.example")));
        }
        assert_eq!(filled.len(), SHARDS);
    }

    #[test]
    fn genesis_spreads_homes_evenly_and_everyone_is_a_replica() {
        let state =
            MetaState::genesis([Region::up("us"), Region::up("eu"), Region::up("ap")], [], []);
        assert_eq!(state.homes.len(), SHARDS);
        for name in ["ap", "eu", "us"] {
            let count = state.homes.iter().filter(|home| home.region == name).count();
            assert!((85..=86).contains(&count));
        }
        assert!(
            state
                .homes
                .iter()
                .all(|home| home.replicas.len() == 3 && home.replicas[0] == home.region)
        );
    }
}
