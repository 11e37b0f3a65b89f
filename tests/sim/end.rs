//! What the world looks like when all is over: tables, stores, rosters, who is online. With the journal, all a promise may look at.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt as _;
use node::features::archive::item::{ARCHIVE, Item};
use node::features::roster::record::{Contact, ROSTER, VERSION};
use node::features::roster::subscription::State;
use node::storage::{Page, Storage as _};
use replication::shard_of;

use crate::people::device::account;
use crate::plan::Profile;
use crate::play::Play;

/// A session row, as one node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// The host that holds the connection.
    pub host: String,
    /// The bind's time.
    pub generation: u64,
    /// Its priority.
    pub priority: i8,
    /// Whether it is available.
    pub available: bool,
    /// Whether its node is believed to live.
    pub lit: bool,
}

/// A device that is online.
#[derive(Clone, Debug)]
pub struct Online {
    /// Whose.
    pub user: usize,
    /// Its full JID.
    pub full: String,
    /// Where.
    pub host: usize,
    /// Its session.
    pub session: usize,
    /// The number of its last presence.
    pub shows: Option<u64>,
}

/// A roster in one place.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Roster {
    /// Its version.
    pub version: u64,
    /// Contact → the number of the set that made it so.
    pub items: BTreeMap<u64, u64>,
}

/// What the rosters of two users say of one direction of their relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Both say yes.
    Yes,
    /// Both say no.
    No,
    /// The second home was not told (docs/consistency.md: a subscription is two commits).
    Disputed,
}

/// See the module.
pub struct End {
    /// When.
    pub now: u64,
    /// Users there are.
    pub users: usize,
    /// Nothing broke but people's own connections.
    pub faultless: bool,
    /// And nobody went without closing the stream.
    pub calm: bool,
    /// What was answered is in two regions.
    pub two_regions: bool,
    /// Limits were small: something may be refused.
    pub small: bool,
    /// What did not come to rest.
    pub unrest: Option<String>,
    /// By host: full JID → row.
    pub tables: Vec<BTreeMap<String, TableRow>>,
    /// By host: sessions it counts.
    pub sessions: Vec<(usize, i64)>,
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// By device.
    pub online: BTreeMap<usize, Online>,
    /// Messages in the offline store at their addressee's home.
    pub stored: BTreeSet<usize>,
    /// (whose, who): both rosters say, or only one, that `who` gets the presence of `whose`.
    pub shown_to: BTreeMap<(usize, usize), Shown>,
    /// By user: the roster at each host, home first.
    pub rosters: Vec<Vec<(String, Roster)>>,
    /// Messages that arrived at another domain, in order: which, when.
    pub abroad: Vec<(usize, u64)>,
    /// By user: the archive at each host, home first, if there are archives.
    pub archives: Option<Vec<Vec<(String, Archived)>>>,
}

/// An archive in one place, in order: whether its owner sent the message, and which it is.
pub type Archived = Vec<(bool, usize)>;

impl End {
    /// Looks.
    pub fn of(play: &mut Play, unrest: Option<String>) -> Self {
        let hosts: Vec<String> = play.hosts.iter().map(|host| host.name.clone()).collect();
        let mut stored = BTreeSet::new();
        let mut rosters = Vec::new();
        let mut archives = Vec::new();
        let mut states: BTreeMap<(usize, usize), State> = BTreeMap::new();
        for user in 0..play.plan.users {
            let owner = account(user);
            let home = usize::from(shard_of(&owner)) % hosts.len();
            // The home is where the state says; nobody moves homes here, so it is where founding put it.
            let place = play.hosts[home].node().and_then(|node| {
                node.metadata.state().home_of(&owner).map(|home| home.region.clone())
            });
            let home = hosts
                .iter()
                .position(|name| {
                    place.as_ref().is_some_and(|place| name.starts_with(place.as_str()))
                })
                .unwrap_or(home);
            let page = Page::after(None, usize::MAX);
            let kept = play.hosts[home].disk.memory.archive("offline", &owner, page).now_or_never();
            for (_, bytes) in kept.and_then(Result::ok).unwrap_or_default() {
                stored.extend(number(&bytes));
            }
            let mut all = vec![(hosts[home].clone(), roster(play, home, &owner))];
            for ix in (0..hosts.len()).filter(|ix| *ix != home) {
                all.push((hosts[ix].clone(), roster(play, ix, &owner)));
            }
            rosters.push(all);
            let others = (0..hosts.len()).filter(|ix| *ix != home);
            let places = std::iter::once(home).chain(others);
            archives
                .push(places.map(|ix| (hosts[ix].clone(), archive(play, ix, &owner))).collect());
            let map = play.hosts[home].disk.memory.map(ROSTER, &owner).now_or_never();
            for (jid, bytes) in map.and_then(Result::ok).unwrap_or_default() {
                let other =
                    jid.strip_prefix('u').and_then(|rest| rest.split('@').next()?.parse().ok());
                if let (Some(other), Some(contact)) = (other, Contact::decode(&bytes)) {
                    states.insert((user, other), contact.state);
                }
            }
        }
        let mut shown_to = BTreeMap::new();
        for whose in 0..play.plan.users {
            for who in (0..play.plan.users).filter(|who| *who != whose) {
                let from = states.get(&(whose, who)).is_some_and(|state| state.from);
                let to = states.get(&(who, whose)).is_some_and(|state| state.to);
                let shown = match (from, to) {
                    (true, true) => Shown::Yes,
                    (false, false) => Shown::No,
                    _ => Shown::Disputed,
                };
                shown_to.insert((whose, who), shown);
            }
        }
        let online = play
            .devices
            .values()
            .filter(|device| device.is_online())
            .filter_map(|device| {
                let online = Online {
                    user: device.user,
                    full: format!("{}/{}", account(device.user), device.resource),
                    host: device.host()?,
                    session: device.session()?,
                    shows: device.shows.map(|(status, _)| status),
                };
                Some((device.id, online))
            })
            .collect();
        Self {
            now: play.now,
            users: play.plan.users,
            small: !play.plan.limits.is_empty(),
            unrest,
            tables: play.hosts.iter().map(table).collect(),
            sessions: play
                .hosts
                .iter()
                .map(|host| {
                    host.node().map_or((0, 0), |node| {
                        (node.directory.sessions_here(), node.metrics.sessions.get())
                    })
                })
                .collect(),
            hosts,
            online,
            stored,
            shown_to,
            two_regions: play.plan.two_regions,
            calm: play.plan.profile == Profile::Calm,
            faultless: matches!(play.plan.profile, Profile::Calm | Profile::Moves),
            rosters,
            abroad: play.abroad.arrived(),
            archives: play.plan.archive.then_some(archives),
        }
    }
}

/// The session table of a host.
pub(crate) fn table(host: &crate::world::host::Host) -> BTreeMap<String, TableRow> {
    let mut table = BTreeMap::new();
    if let Some(node) = host.node() {
        node.directory.for_each(|row| {
            let at = match row.there() {
                None => Some(host.name.clone()),
                Some(ix) => node.geo.nodes.name(ix).map(|name| name.to_string()),
            };
            let known = TableRow {
                host: at.unwrap_or_default(),
                generation: row.generation.0,
                priority: row.priority,
                available: row.available,
                lit: row.lit,
            };
            table.insert(row.full.to_string(), known);
        });
    }
    table
}

/// The number of a stored message.
fn number(bytes: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(bytes).ok()?;
    let body = text.split("<body>").nth(1)?.split('<').next()?;
    body.parse().ok()
}

fn archive(play: &Play, host: usize, owner: &str) -> Archived {
    let memory = &play.hosts[host].disk.memory;
    let items = memory.archive(ARCHIVE, owner, Page::after(None, usize::MAX)).now_or_never();
    let items = items.and_then(Result::ok).unwrap_or_default();
    let items = items.iter().filter_map(|(_, bytes)| Item::decode(bytes));
    items.filter_map(|item| Some((item.sent, number(&item.stanza)?))).collect()
}

fn roster(play: &Play, host: usize, owner: &str) -> Roster {
    let memory = &play.hosts[host].disk.memory;
    let version = memory.get(VERSION, owner, "").now_or_never().and_then(Result::ok).flatten();
    let version = version.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let map = memory.map(ROSTER, owner).now_or_never().and_then(Result::ok).unwrap_or_default();
    let items = map
        .into_iter()
        .filter_map(|(jid, bytes)| {
            let contact = jid.strip_prefix('c')?.split('@').next()?.parse().ok()?;
            Some((contact, Contact::decode(&bytes)?.name?.parse().ok()?))
        })
        .collect();
    Roster { version, items }
}
