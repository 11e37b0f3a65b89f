//! From the configuration to a [`Node`] whose links and Raft run. `build` reads the files, `assemble` makes every room, in the order in
//! which they need each other (tests call it with parts of their own), `start_links` opens the way to the other nodes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use config::{Config, RegionalTraffic};
use global_distrib::{Directory, ParkLimits};
use parking_lot::{Mutex, RwLock};
use replication::HybridClock;
use replication::metadata::{
    Agreement, Domain, DomainKind, Genesis, MetaConfig, MetaState, Metadata, NodeRecord, Region,
    Timers,
};
use s2s::link::{Incarnation, LinkConfig, LinkLimits, LinkTimers, Links, PeerId, Road};
use s2s::tls::TlsIdentity;
use tokio::time::Instant;
use xmpp::jid::Jid;
use xmpp::sasl::Secret;

use super::ahead::Ahead;
use super::run::RunError;
use super::wires::{self, Late, RaftWire};
use super::world::{World, wall_ms};
use super::{Drain, Live, Node, Offers, Reloading};
use crate::auth::stored::AtHome;
use crate::auth::{Chain, Internal, Kept, Stored, Throttle, sources};
use crate::components::{self, Components};
use crate::features::Features;
use crate::features::archive::{self, Archive};
use crate::features::blocking::record::PRIVACY;
use crate::features::last::leaving::Leaving;
use crate::features::offline::home::FILED;
use crate::features::push::cache::Pushes;
use crate::features::roster::cache::Rosters;
use crate::features::vcard::home::VCARD;
use crate::federation::Federation;
use crate::geo::Geo;
use crate::geo::user::User;
use crate::metrics::Metrics;
use crate::outbox::second::Second;
use crate::outbox::{self, Recovery};
use crate::registry::Registry;
use crate::router::{Domains, Ledger, Named};
use crate::service::{Running, Services};
use crate::session::moving::Moving;
use crate::session::{Resumable, Turnstile};
use crate::storage::holders::Holders;
use crate::storage::{self, Storage};
use crate::told::Told;
use crate::transport::TlsAcceptor;
use crate::transport::tls::Pair;

/// Raft takes a snapshot after so many entries.
const SNAPSHOT_EVERY: u64 = 5_000;

/// What a node is made of that comes from files, from a test, or from the simulator.
pub struct Parts {
    /// What it was told to be.
    pub config: Config,
    /// Which life of it this is.
    pub incarnation: u64,
    /// Of the certificate it shows other nodes, in hexadecimal.
    pub fingerprint: String,
    /// Certificates for clients.
    pub tls: TlsAcceptor,
    /// The local replica.
    pub storage: Arc<dyn Storage>,
    /// Who agrees on metadata; `None`: Raft, as the configuration says.
    pub agreement: Option<Arc<dyn Agreement>>,
    /// The time of day, and chance.
    pub world: World,
}

/// Builds the node and starts its links and Raft; listeners come after.
pub(super) async fn build(config: Config) -> Result<Arc<Node>, RunError> {
    make_dir(&config.node.data_dir)?;
    let incarnation = next_incarnation(&config.node.data_dir)?;
    let identity = TlsIdentity::from_pem(
        &read("the certificate of the links", &config.s2s.certificate)?,
        &read("the key of the links", &config.s2s.key)?,
    )
    .map_err(|error| RunError::Links(error.to_string()))?;
    let fingerprint = config::Fingerprint(identity.fingerprint().0).to_string();
    let tls = client_tls(&config)?;
    let storage = storage::open::open(&config.storage).await?;
    let world = World::real();
    let agreement = None;
    let parts = Parts { config, incarnation, fingerprint, tls, storage, agreement, world };
    let node = assemble(parts).await?;
    start_links(&node, Road::Tls(identity))?;
    Ok(node)
}

/// A node without links: everything else is made here, in the order in which the rooms need each other.
///
/// # Errors
/// [`RunError`]: what the rooms say that cannot begin.
pub async fn assemble(parts: Parts) -> Result<Arc<Node>, RunError> {
    let Parts { config, incarnation, fingerprint, tls, storage, agreement, world } = parts;
    let name = config.node_name();
    let me = PeerId::new(config.node.region.as_str(), config.node.index);
    let metrics = Metrics::new(&config.node.region, &name);
    let dead_after = u64::try_from(config.geo.dead_after.as_millis()).unwrap_or(u64::MAX);
    let geo = Arc::new(Geo::new(me, dead_after, config.limits.route_log_entries_max));
    geo.set_live(&config.peers.iter().map(config::Peer::name).collect::<Vec<_>>());

    let metadata = match agreement {
        Some(agreement) => Metadata::given(agreement),
        None => metadata(&config, &name, &fingerprint, incarnation, &geo).await?,
    };
    let late = Late::default();
    let homes =
        wires::homes(&config, incarnation, &world, &storage, &metadata, &geo, &late).await?;
    let services = Services::new(crate::features::services(&config, |_| None));
    let features = Features::new(&config);
    let kept = Kept { time: config.auth.cache, accounts_max: config.auth.cache_max };
    let records = Arc::new(Stored(storage.clone()));
    let internal = Internal::keeping(records, crate::homes::accounts::ITERATIONS, kept);
    let accounts = AtHome { homes: homes.clone(), wall_ms: world.wall.clone() };
    let links = sources::links(&config.auth, &config.domains.global, &world.wall);
    let links = links.map_err(RunError::Auth)?;
    let authenticator = Chain::new(internal, Arc::new(accounts), links);
    let fake_secret = Secret::new(world.random::<32>().to_vec());
    let offers = Offers::new(&config, &features, &authenticator, fake_secret);
    let components = Components::new(read_components(&config)?, &config.components);
    let domains = Domains {
        global: config.domains.global.clone(),
        regional: config.domains.regional.clone().unwrap_or_default(),
        elsewhere: Live::new(wires::elsewhere(&config, &metadata.state())),
        regions_linked: config.domains.regional_traffic == RegionalTraffic::Link,
        named: Live::new(Named::new(&config, services.hosts())),
        components: Live::new(components::named(&config.components)),
    };
    let limits = ParkLimits {
        bytes_max: config.limits.parked_bytes_max,
        per_addressee_max: config.limits.parked_stanzas_per_address_max,
        hold_ms: u64::try_from(config.geo.hold.as_millis()).unwrap_or(u64::MAX),
    };
    let directory = Directory::hashed(limits, world.hashing.clone());
    let node = Arc::new(Node {
        server: Jid::parse(&domains.global).expect("the configuration has checked its domain"),
        domains,
        directory,
        geo,
        metadata,
        homes,
        storage,
        registry: Registry::new(&config.redis, &metrics),
        rosters: Rosters::default(),
        guarded: Holders::new(PRIVACY),
        cards: Holders::new(VCARD),
        filed: Holders::new(FILED),
        pushes: Pushes::new(config.push.remembered_max, world.number()),
        leaving: Leaving::default(),
        features,
        services: Live::new(services),
        running: Running::default(),
        components,
        archive: Archive::new(&config.archive),
        ledger: Ledger::new(incarnation, config.limits.unsettled_bytes_max),
        recovery: Recovery::default(),
        second: Second::default(),
        outbox_writer: tokio::sync::Mutex::new(()),
        resumable: Resumable::default(),
        moving: Moving::default(),
        drain: Drain::default(),
        federation: Federation::default(),
        turnstile: Arc::new(Turnstile::new(config.limits.sign_ins)),
        authenticator,
        throttle: Throttle::new(),
        tls,
        metrics,
        incarnation,
        fingerprint,
        offers: RwLock::new(offers),
        reloading: Reloading::default(),
        world,
        clock: Mutex::new(HybridClock::new()),
        ahead: Ahead::default(),
        started: Instant::now(),
        stop: Told::new(false),
        filing: std::sync::atomic::AtomicUsize::new(0),
        config: Live::new(config),
    });
    late.set(&node);
    outbox::load(&node).await?;
    archive::load(&node).await?;
    node.guarded.load(&*node.storage).await?;
    node.cards.load(&*node.storage).await?;
    node.filed.load(&*node.storage).await?;
    node.pushes.registered.load(&*node.storage).await?;
    Ok(node)
}

/// Opens the way to the other nodes.
///
/// # Errors
/// The certificate cannot be used.
pub fn start_links(node: &Arc<Node>, road: Road) -> Result<(), RunError> {
    let config = &node.config;
    let timers = LinkTimers {
        ping: config.link.heartbeat,
        silent: config.link.silent_after,
        handshake: config.link.handshake_deadline,
        retry_min: config.link.redial_min,
        retry_max: config.link.redial_max,
    };
    let limits = LinkLimits { unacked_bytes: config.link.queue_bytes_max, ..LinkLimits::default() };
    let peers = wires::peers(config, None, Vec::new());

    let user = Arc::new(User(Arc::downgrade(node)));
    let config = LinkConfig {
        me: node.geo.me.clone(),
        incarnation: Incarnation(node.incarnation),
        road,
        peers: Vec::new(),
        timers,
        limits,
        chance: {
            let world = node.world.clone();
            Arc::new(move || world.number())
        },
    };
    let links = Links::start(config, user).map_err(|error| RunError::Links(error.to_string()))?;
    // The user needs the links before the first call can come.
    node.geo.set_links(links.clone());
    links.set_peers(peers.clone());
    for peer in peers {
        node.geo.peer(&peer.id);
    }
    Ok(())
}

fn read(what: &'static str, file: &Path) -> Result<Vec<u8>, RunError> {
    fs::read(file).map_err(|cause| RunError::File {
        what,
        file: file.display().to_string(),
        cause: cause.to_string(),
    })
}

fn make_dir(dir: &Path) -> Result<(), RunError> {
    fs::create_dir_all(dir).map_err(|cause| RunError::File {
        what: "the data directory",
        file: dir.display().to_string(),
        cause: cause.to_string(),
    })
}

/// A number greater than that of every former life: the wall clock's milliseconds, or one more than the last if the clock went back.
fn next_incarnation(dir: &Path) -> Result<u64, RunError> {
    let file = dir.join("incarnation");
    let last: u64 =
        fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let next = wall_ms().max(last + 1);
    let failed = |cause: std::io::Error| RunError::File {
        what: "the incarnation",
        file: file.display().to_string(),
        cause: cause.to_string(),
    };
    let unfinished = dir.join("incarnation.new");
    fs::write(&unfinished, format!("{next}\n")).map_err(failed)?;
    fs::rename(&unfinished, &file).map_err(failed)?;
    Ok(next)
}

fn client_tls(config: &Config) -> Result<TlsAcceptor, RunError> {
    TlsAcceptor::new(client_pairs(config)?, asks_for_certificates(config))
        .map_err(|error| RunError::Links(error.to_string()))
}

/// The certificates for clients, from their files.
pub(super) fn client_pairs(config: &Config) -> Result<Vec<Pair>, RunError> {
    let pair = |certificate: &Path, key: &Path| {
        Pair::from_files(certificate, key).map_err(|error| RunError::File {
            what: "a certificate for clients",
            file: certificate.display().to_string(),
            cause: error.to_string(),
        })
    };
    let mut pairs = vec![pair(&config.c2s.certificate, &config.c2s.key)?];
    for more in &config.c2s.certificates {
        pairs.push(pair(&more.certificate, &more.key)?);
    }
    Ok(pairs)
}

/// What the configuration says of components, with the secrets in its files.
pub(super) fn read_components(config: &Config) -> Result<components::Known, RunError> {
    components::Known::read(&config.components).map_err(|(file, cause)| RunError::File {
        what: "the secret of a component",
        file,
        cause,
    })
}

/// The fingerprint of the certificate for the links, in hexadecimal.
pub(super) fn link_fingerprint(config: &Config) -> Result<String, RunError> {
    let certificate = read("the certificate of the links", &config.s2s.certificate)?;
    let key = read("the key of the links", &config.s2s.key)?;
    let identity = TlsIdentity::from_pem(&certificate, &key);
    let identity = identity.map_err(|error| RunError::Links(error.to_string()))?;
    Ok(config::Fingerprint(identity.fingerprint().0).to_string())
}

/// Whether clients are asked for a certificate: where one may prove an account.
pub fn asks_for_certificates(config: &Config) -> bool {
    let is_one =
        |backend: &config::AuthBackend| matches!(backend, config::AuthBackend::Certificate(_));
    config.auth.backends.iter().any(is_one)
}

async fn metadata(
    config: &Config,
    name: &str,
    fingerprint: &str,
    incarnation: u64,
    geo: &Arc<Geo>,
) -> Result<Metadata, RunError> {
    let own = &config.metadata;
    let mut nodes = vec![(
        name.to_owned(),
        NodeRecord {
            region: config.node.region.clone(),
            node: config.node.index,
            raft_id: own.raft_id,
            address: String::new(),
            fingerprint: fingerprint.to_owned(),
            voter: own.voter,
            incarnation,
        },
    )];
    for peer in &config.peers {
        nodes.push((
            peer.name(),
            NodeRecord {
                region: peer.region.clone(),
                node: peer.node,
                raft_id: peer.raft_id,
                address: peer.address.clone(),
                fingerprint: peer.fingerprint.to_string(),
                voter: peer.voter,
                incarnation: 0,
            },
        ));
    }
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let founders: Vec<(u64, String)> = nodes
        .iter()
        .filter(|(_, record)| record.voter)
        .map(|(name, record)| (record.raft_id, name.clone()))
        .collect();
    let mut domains = vec![(config.domains.global.clone(), Domain { kind: DomainKind::Global })];
    for region in config.regions() {
        let name = config.domains.regional_of(&region);
        domains.push((name, Domain { kind: DomainKind::Regional(region) }));
    }
    let regions = config.regions().into_iter().map(Region::up);
    let state = MetaState::genesis(regions, nodes.clone(), domains);
    let meta = MetaConfig {
        node_name: name.to_owned(),
        raft_id: own.raft_id,
        dir: own.dir.clone(),
        cluster: own.cluster.clone(),
        timers: Timers {
            heartbeat: own.heartbeat,
            election_min: own.election_min,
            election_max: own.election_max,
        },
        snapshot_every: SNAPSHOT_EVERY,
        // Who names nobody that votes, itself neither, joins others: it finds them in the region's Redis.
        initial: (!founders.is_empty()).then_some(Genesis { voters: founders, state }),
        seeds: config.peers.iter().map(config::Peer::name).collect(),
    };
    Ok(Metadata::start(meta, Arc::new(RaftWire(geo.clone()))).await?)
}
