//! The wires between crates that know nothing of each other: Raft's calls over links, homes over links, committed changes to the
//! features, metadata's facts to the links and the probes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use replication::ProposeError;
use replication::durable_log::Change;
use replication::metadata::{Command, Home, MetaState, MetaTransport, Metadata, NodeRecord};
use s2s::link::{FrameKind, LinkFull, PeerConfig, PeerId};
use s2s::tls::Fingerprint;
use xmpp::stream::error::StreamError;

use super::{Node, World, scribe};
use crate::feature::Ctx;
use crate::features::{
    admin, archive, blocking, clients, invitations, last, offline, private, push, roster, upload,
    vcard,
};
use crate::geo::abroad;
use crate::geo::calls::CallError;
use crate::geo::frame::{self, Call};
use crate::geo::light;
use crate::geo::{Geo, Peer};
use crate::homes::accounts::{ACCOUNTS, AccountHome, PASSWORD};
use crate::homes::{
    self, Applied, AppliedAt, FeedSink, HomeMap, HomeOp, HomePlace, HomeTransport, Homes,
    HomesConfig, HomesParts, MoveSaid, Moved, Pen, ShipSink, Unsent, Wall,
};
use crate::outbox::second;
use crate::pie;
use crate::router::{self, perform};
use crate::storage::{Storage, StorageError};

/// How long Raft waits for one answer. Longer than any round trip at sea; openraft gives up earlier by itself.
const RAFT_DEADLINE: Duration = Duration::from_secs(10);
/// How long one call to a home waits for its answer before it is sent again (the home does it once).
const HOME_CALL_DEADLINE: Duration = Duration::from_secs(3);
/// How long metadata may take to agree on a move.
const METADATA_PATIENCE: Duration = Duration::from_secs(5);
/// How long a change may take before the user is told to wait.
const HOME_REQUEST_DEADLINE: Duration = Duration::from_secs(6);

/// The node, for what is built before it.
#[derive(Clone, Default)]
pub struct Late(Arc<OnceLock<Weak<Node>>>);

impl Late {
    /// The node is there now.
    pub fn set(&self, node: &Arc<Node>) {
        assert!(self.0.set(Arc::downgrade(node)).is_ok(), "a node is built once");
    }

    /// The node, while it lives.
    pub fn get(&self) -> Option<Arc<Node>> {
        self.0.get()?.upgrade()
    }
}

/// Raft's calls, as datagrams: one that is lost is Raft's to repeat.
pub(super) struct RaftWire(pub(super) Arc<Geo>);

impl MetaTransport for RaftWire {
    fn call<'a>(&'a self, target: &'a str, body: Vec<u8>) -> BoxFuture<'a, io::Result<Vec<u8>>> {
        Box::pin(async move {
            let unreachable =
                || io::Error::new(io::ErrorKind::NotConnected, "the node cannot be reached");
            let peer = self.0.peer_named(target).ok_or_else(unreachable)?;
            let answer = self.0.calls.call(None, RAFT_DEADLINE, |id| {
                let call = postcard::to_stdvec(&Call { id, body }).expect("a plain value");
                peer.link.datagram(frame::RAFT_CALL, &call)
            });
            answer.await.map_err(|error| io::Error::other(error.to_string()))
        })
    }
}

/// The nodes to link with: those of the configuration, and those the region's Redis and metadata know besides. Of a node that several name the
/// configuration counts: its address may be a relay's, and its fingerprint is how an operator renews a certificate. (The node could not tell
/// metadata of a new one before a link has let it in.) Then what it says of itself in the region's Redis, if that is of a newer life than
/// what metadata knows.
pub(super) fn peers(
    config: &config::Config,
    state: Option<&MetaState>,
    registered: Vec<(String, NodeRecord)>,
) -> Vec<PeerConfig> {
    let mut peers: BTreeMap<String, PeerConfig> = BTreeMap::new();
    for peer in &config.peers {
        let id = PeerId::new(peer.region.as_str(), peer.node);
        let fingerprint = Fingerprint(peer.fingerprint.0);
        peers.insert(peer.name(), PeerConfig { id, address: peer.address.clone(), fingerprint });
    }
    let me = config.node_name();
    let mut nodes: BTreeMap<String, NodeRecord> =
        state.map(|state| state.nodes.clone()).unwrap_or_default();
    for (name, mut record) in registered {
        let known = nodes.get(&name);
        if record.address.is_empty() {
            record.address = known.map(|known| known.address.clone()).unwrap_or_default();
        }
        if known.is_none_or(|known| known.incarnation <= record.incarnation) {
            nodes.insert(name, record);
        }
    }
    for (name, record) in nodes.iter().filter(|(name, _)| **name != me) {
        let Some(fingerprint) = config::Fingerprint::parse(&record.fingerprint) else { continue };
        let fingerprint = Fingerprint(fingerprint.0);
        let id = PeerId::new(record.region.as_str(), record.node);
        peers.entry(name.clone()).or_insert_with(|| PeerConfig {
            id,
            address: record.address.clone(),
            fingerprint,
        });
    }
    peers.into_values().collect()
}

/// Names of the nodes whose echo is waited for: all that are not declared down, nor their regions.
pub(super) fn live(node: &Node) -> Vec<String> {
    let state = node.metadata.state();
    let me = node.geo.me.to_string();
    if state.version == 0 {
        return node.config.peers.iter().map(config::Peer::name).collect();
    }
    let alive = state.nodes.keys().filter(|name| **name != me && state.is_live(name));
    alive.cloned().collect()
}

/// Nodes of regions that are declared down.
fn dead(node: &Node) -> Vec<String> {
    let state = node.metadata.state();
    let is_down = |region: &str| state.region_state(region).is_down();
    let dead = state.nodes.iter().filter(|(_, record)| is_down(&record.region));
    dead.map(|(name, _)| name.clone()).collect()
}

/// Other regions' own domains: as metadata has them, and before it is founded or heard of as the configuration does.
pub(super) fn elsewhere(config: &config::Config, state: &MetaState) -> BTreeSet<String> {
    let is_other = |region: &str| *region != *config.node.region;
    if state.version == 0 {
        let others = config.regions().into_iter().filter(|region| is_other(region));
        return others.map(|region| config.domains.regional_of(&region)).collect();
    }
    let others = state.regional_domains().into_iter().filter(|(_, region)| is_other(region));
    others.map(|(name, _)| name).collect()
}

/// Regions come and go, and their domains with them. A component that has had the name of one makes room.
fn follow_regions(node: &Node, state: &MetaState) {
    let now = elsewhere(&node.config, state);
    let known = &node.domains.elsewhere;
    let fresh: Vec<String> = now.difference(known).cloned().collect();
    if **known == now {
        return;
    }
    if !known.replace(now) {
        return tracing::error!("regions have changed too often: restart this node");
    }
    for name in fresh {
        for seat in perform::seats_of(node, &name) {
            perform::close(&seat, StreamError::conflict());
        }
    }
}

/// Applies what metadata says, at every version, until the node stops.
pub(super) async fn follow_metadata(node: Arc<Node>) {
    let mut version = node.metadata.watch();
    second::take_over(&node, dead(&node));
    loop {
        version.mark_unchanged();
        apply(&node);
        tokio::select! {
            biased; // each of them is looked at anew above, so none is missed by coming second
            changed = version.changed() => if changed.is_err() { return },
            () = node.geo.relink.notified() => {}
            () = node.stopped() => return,
        }
    }
}

fn apply(node: &Arc<Node>) {
    let state = node.metadata.state();
    follow_regions(node, &state);
    let Some(links) = node.geo.links() else { return };
    let registered = node.registry.peers(state.version == 0);
    let peers = peers(&node.config, Some(&state), registered);
    links.set_peers(peers.clone());
    for peer in &peers {
        node.geo.learn(&peer.id);
    }
    let (fallen, fresh) = node.geo.set_live(&live(node));
    abroad::counts(node, state.is_live(&node.geo.me.to_string()));
    let falls = !fallen.is_empty();
    for (name, ix) in fallen {
        // Declared down. `LinkUser::lost` follows: its rows go, what was on the way there comes back and is routed anew, and then
        // `relink` brings us here again, so that the node can return as somebody new.
        tracing::warn!(node = %name, "declared down");
        if let Some(peer) = node.geo.peer_at(ix) {
            links.forget(&peer.id);
        }
    }
    for ix in fresh {
        // It may have been linked for a while, and was told nothing of presence.
        light::represent(node, ix);
    }
    node.homes.has_company(scribe::has_company(node));
    node.homes.metadata_changed();
    if falls {
        // Of all that are away: homes that have passed on just now may keep something for those that went before.
        second::take_over(node, dead(node));
    }
}

/// Homes' view of metadata.
struct Map {
    metadata: Metadata,
    region: Arc<str>,
    pen: Arc<Pen>,
}

impl Map {
    fn place(&self, home: Option<&Home>) -> HomePlace {
        match home {
            Some(home) => HomePlace {
                local: *home.region == *self.region && self.pen.is_held(),
                region: home.region.as_str().into(),
                epoch: home.epoch,
            },
            // Not founded yet: nobody's.
            None => HomePlace { region: "".into(), epoch: 0, local: false },
        }
    }
}

impl HomeMap for Map {
    fn home(&self, owner: &str) -> HomePlace {
        self.place(self.metadata.state().home_of(owner).as_deref())
    }

    fn is_apart(&self, owner: &str) -> bool {
        self.metadata.state().region_of(owner).is_some()
    }

    fn shard(&self, shard: u8) -> HomePlace {
        self.place(self.metadata.state().home(shard))
    }

    fn pins(&self) -> BTreeSet<String> {
        let state = self.metadata.state();
        let here = state.pins.iter().filter(|(_, home)| self.place(Some(home)).local);
        here.map(|(account, _)| account.clone()).collect()
    }

    fn replicates(&self, owner: &str, region: &str) -> bool {
        self.metadata
            .state()
            .home_of(owner)
            .is_none_or(|home| home.replicas.iter().any(|known| known == region))
    }

    fn heir(&self, owner: &str) -> Option<Arc<str>> {
        let state = self.metadata.state();
        let home = state.home_of(owner)?;
        state.heir(&home).map(Into::into)
    }

    fn move_home(&self, what: &Moved, epoch: u64, to: &str) -> BoxFuture<'static, MoveSaid> {
        let (metadata, to) = (self.metadata.clone(), to.to_owned());
        let command = match what.clone() {
            Moved::Shard(shard) => Command::MoveHome { shard, to, epoch: Some(epoch) },
            Moved::Account(account, replicas) => {
                Command::Pin { account, to, replicas, epoch: Some(epoch) }
            }
        };
        Box::pin(async move {
            match metadata.propose(command, METADATA_PATIENCE).await {
                Ok(_) => MoveSaid::Moved,
                Err(ProposeError::Refused(why)) => MoveSaid::Refused(why.to_string()),
                Err(error @ ProposeError::NoLeader) => MoveSaid::NotAsked(error.to_string()),
                Err(ProposeError::TimedOut | ProposeError::Stopped(_)) => MoveSaid::Unknown,
            }
        })
    }
}

/// Homes' requests and the durable log, over links.
struct HomeWire {
    geo: Arc<Geo>,
    /// How long one call waits; homes repeat a lost one themselves.
    deadline: Duration,
}

impl HomeTransport for HomeWire {
    fn call<'a>(
        &'a self,
        region: &'a str,
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, homes::CallError>> {
        Box::pin(async move {
            let is_ours = *region == *self.geo.me.region;
            let peer = match self.geo.scribe_of(region) {
                // Another node of ours is about to be the scribe, or we are.
                None if is_ours => return Err(homes::CallError::Lost),
                Some(peer) if is_ours && !peer.link.is_up() => return Err(homes::CallError::Lost),
                peer => peer.ok_or(homes::CallError::Unreachable)?,
            };
            let answer = self.geo.calls.call(Some(peer.ix), self.deadline, |id| {
                let call = postcard::to_stdvec(&Call { id, body }).expect("a plain value");
                peer.link.send(frame::CALL, &[&call]).is_ok()
            });
            answer.await.map_err(|error| match error {
                CallError::TimedOut | CallError::Lost => homes::CallError::Lost,
                CallError::Unreachable | CallError::Busy => homes::CallError::Unreachable,
            })
        })
    }
}

impl ShipSink for HomeWire {
    fn send_batch(&self, region: &str, bytes: Vec<u8>) -> Result<(), Unsent> {
        queue(self.geo.scribe_of(region), frame::DURABLE, bytes)
    }
}

impl FeedSink for HomeWire {
    fn send_feed(&self, node: &str, bytes: Vec<u8>) -> Result<(), Unsent> {
        queue(self.geo.peer_named(node), frame::FEED, bytes)
    }
}

fn queue(peer: Option<Arc<Peer>>, kind: FrameKind, bytes: Vec<u8>) -> Result<(), Unsent> {
    match peer.map(|peer| peer.link.send(kind, &[&bytes])) {
        Some(Ok(_)) => Ok(()),
        Some(Err(LinkFull::Body)) => Err(Unsent::TooLong),
        Some(Err(LinkFull::Bytes | LinkFull::Forgotten)) | None => Err(Unsent::Full(bytes)),
    }
}

/// Committed changes, to those who follow them.
struct Follow(Late);

impl Follow {
    fn tell(&self, changes: &[Change], copied: bool) {
        let Some(node) = self.0.get() else { return };
        let mut ctx = Ctx::new(&node, None);
        for change in changes {
            if change.store().as_str() == ACCOUNTS {
                node.authenticator.forget(change.owner());
            }
            node.features.changed(&mut ctx, change, copied);
            node.services.changed(&mut ctx, change, copied);
            ctx.before = Some(change);
        }
        let actions = std::mem::take(&mut ctx.actions);
        router::perform(&node, None, actions);
    }
}

impl Applied for Follow {
    fn applied(&self, _origin: AppliedAt, changes: &[Change]) {
        self.tell(changes, false);
    }

    fn copied(&self, changes: &[Change]) {
        self.tell(changes, true);
    }
}

/// The homes, with the operations of all features.
pub(super) async fn homes(
    config: &config::Config,
    incarnation: u64,
    world: &World,
    storage: &Arc<dyn Storage>,
    metadata: &Metadata,
    geo: &Arc<Geo>,
    late: &Late,
) -> Result<Homes, StorageError> {
    let region: Arc<str> = config.node.region.as_str().into();
    let wire = Arc::new(HomeWire { geo: geo.clone(), deadline: HOME_CALL_DEADLINE });
    let ops: Vec<Box<dyn HomeOp>> = vec![
        Box::new(AccountHome {
            stores: vec![
                ACCOUNTS,
                PASSWORD,
                clients::record::CLIENTS,
                roster::record::ROSTER,
                roster::record::VERSION,
                offline::home::OFFLINE,
                offline::home::FILED,
                push::record::PUSH,
                invitations::record::INVITATIONS,
                invitations::record::RESERVED,
                archive::item::ARCHIVE,
                archive::item::PLACES,
                archive::prefs::PREFS,
                last::home::LAST,
                upload::home::UPLOAD,
                blocking::record::PRIVACY,
                blocking::record::ACTIVE,
                pie::home::IMPORT,
                private::home::PRIVATE,
                second::SECOND,
                vcard::home::VCARD,
            ],
        }),
        Box::new(blocking::home::PrivacyHome(late.clone())),
        Box::new(blocking::report::ReportsHome),
        Box::new(clients::home::ClientsHome),
        Box::new(roster::home::RosterHome),
        Box::new(offline::home::OfflineHome(late.clone())),
        Box::new(push::home::PushHome(late.clone())),
        Box::new(invitations::home::InvitationsHome),
        Box::new(archive::home::ArchiveHome(late.clone())),
        Box::new(homes::look::LookHome),
        Box::new(admin::home::EndHome),
        Box::new(last::home::LastHome(late.clone())),
        Box::new(upload::home::UploadHome),
        Box::new(pie::home::PieHome),
        Box::new(private::home::PrivateHome),
        Box::new(vcard::home::VcardHome),
        Box::new(second::SecondHome),
    ];
    let numbers = HomesConfig {
        request_timeout: HOME_REQUEST_DEADLINE,
        wall: Wall(world.wall.clone()),
        silent: &["archive", "offline"],
        two_regions: config.geo.durability == config::Durability::TwoRegions,
        new_log: world.number(),
        ..HomesConfig::new(&region, incarnation)
    };
    let pen = Arc::new(scribe::first(&**storage, &geo.me.to_string(), world).await?);
    let parts = HomesParts {
        storage: storage.clone(),
        map: Arc::new(Map { metadata: metadata.clone(), region, pen: pen.clone() }),
        pen,
        ops,
        transport: wire.clone(),
        sink: wire,
        applied: Arc::new(Follow(late.clone())),
    };
    Homes::start(numbers, parts).await
}

#[cfg(test)]
mod tests {
    use replication::metadata::{NodeRecord, Region, RegionState};
    use xmpp::jid::BareJid;

    use super::*;
    use crate::router::{Destination, decide};
    use crate::testing::{House, stanza};

    fn record(region: &str, raft_id: u64, byte: &str) -> (String, NodeRecord) {
        let record = NodeRecord {
            region: region.into(),
            node: 0,
            raft_id,
            address: format!("{region}.known:5269"),
            fingerprint: byte.repeat(32),
            voter: true,
            incarnation: 1,
        };
        (format!("{region}-0"), record)
    }

    #[test]
    fn the_configuration_says_whom_a_node_it_names_is_taken_for() {
        let text = include_str!("../../../config/examples/three-regions.toml");
        let config = config::Config::parse(text, "example", "/nowhere".as_ref()).expect("good");
        let nodes = [record("eu", 1, "01"), record("us", 2, "02"), record("sa", 4, "04")];
        let state = MetaState::genesis([Region::up("eu")], nodes, []);
        let found = |registered| -> Vec<_> {
            peers(&config, Some(&state), registered)
                .into_iter()
                .map(|peer| (peer.id.to_string(), peer.address, peer.fingerprint.0[0]))
                .collect()
        };
        let expected = [
            ("ap-0", "ap0.chat.example:5269", 0xcd),
            ("sa-0", "sa.known:5269", 0x04),
            ("us-0", "us0.chat.example:5269", 0xab),
        ];
        let expected = expected.map(|(id, at, byte)| (id.to_owned(), at.to_owned(), byte));
        assert_eq!(found(Vec::new()), expected);
        // What nodes say of themselves in Redis: newer than metadata's, older, without an address, and of one that is configured.
        let of = |region: &str, byte: &str, incarnation, address: &str| {
            let (name, known) = record(region, 9, byte);
            (name, NodeRecord { incarnation, address: address.into(), ..known })
        };
        let newer = found(vec![of("sa", "05", 2, "moved:1"), of("af", "06", 1, "new:1")]);
        let ids = newer.iter().map(|(id, at, byte)| (id.as_str(), at.as_str(), *byte));
        let expected = [
            ("af-0", "new:1", 0x06),
            ("ap-0", "ap0.chat.example:5269", 0xcd),
            ("sa-0", "moved:1", 0x05),
            ("us-0", "us0.chat.example:5269", 0xab),
        ];
        assert!(ids.eq(expected), "{newer:?}");
        let kept = found(vec![of("sa", "05", 0, "old:1"), of("us", "07", 9, "elsewhere:1")]);
        assert_eq!(kept[1].1, "sa.known:5269");
        assert_eq!(kept[2].1, "us0.chat.example:5269");
        assert_eq!(found(vec![of("sa", "05", 2, "")])[1].1, "sa.known:5269");
    }

    /// A node that has joined by what its region's Redis knows: its configuration names no other.
    #[tokio::test]
    async fn which_regions_there_are_metadata_says() {
        let components = "[components]\nlisten = []\nsecret = 'x'\nany_below = true\n";
        let house = House::with(components).await;
        let node = &house.node;
        let to = |to: &str| decide(&stanza(&format!("<message to='{to}'/>")), &node.domains);
        apply(node);
        let own = [node.domains.may_arrive("eu.chat.example", "eu.chat.example")];
        assert_eq!(own, [false]);
        let component = BareJid::parse("us.chat.example").expect("a JID");
        assert_eq!(to("bob@us.chat.example"), Destination::Component(component.clone()));
        let full = component.with_resource("c").expect("a JID");
        let seat = node.bind_component(&full, (10, 1_000)).expect("bound");
        for region in ["us", "ap"] {
            let add = Command::RegionAdd { region: Region::up(region) };
            node.metadata.propose(add, METADATA_PATIENCE).await.expect("added");
        }
        apply(node);
        let bob = BareJid::parse("bob@us.chat.example").expect("a JID");
        assert_eq!(to("bob@us.chat.example"), Destination::Account(bob));
        assert!(node.domains.is_taken("us.chat.example"));
        assert!(!node.domains.may_arrive("us.chat.example", "chat.example"));
        assert!(node.domains.may_arrive("us.chat.example", "eu.chat.example"));
        assert!(node.domains.are_strangers("us.chat.example", "eu.chat.example"));
        assert!(node.domains.is_of_this_region("eu.chat.example"));
        let told = crate::testing::mail(&seat);
        assert!(told.iter().any(|word| word.contains("Conflict")), "{told:?}");
        for command in [
            Command::RegionState { region: "ap".into(), state: RegionState::Off },
            Command::RegionRemove { region: "ap".into() },
        ] {
            assert!(node.domains.is_regional("ap.chat.example"));
            node.metadata.propose(command, METADATA_PATIENCE).await.expect("done");
            apply(node);
        }
        assert!(!node.domains.is_regional("ap.chat.example"));
    }
}
