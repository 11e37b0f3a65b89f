//! Room: the whole node on one page: from the configuration to what runs, every wire between the crates, and the orderly end.
//! `Node` is what everything on the stanza path shares; `run` builds it, starts it, waits for the stop and drains it.

mod ahead;
mod build;
mod checking;
mod databases;
pub mod drain;
mod heirs;
mod inviting;
mod live;
mod members;
mod operator;
mod portable;
mod refusals;
mod reload;
mod run;
pub mod scribe;
mod wires;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use config::canary::{Canary, sings};
use global_distrib::{Directory, Place, RouteEntry, Row, Shows};
use parking_lot::{Mutex, RwLock};
use replication::metadata::{Metadata, NodeRecord};
use replication::{Hlc, HybridClock};
use tokio::time::Instant;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::{Mechanism, Secret};
use xmpp::stanza::error::StanzaError;
use xmpp::stream::error::StreamError;
use xmpp::stream::features::limits;
use xmpp::stream::negotiate::{Inline, Offer, TlsPolicy};

use self::ahead::Ahead;
pub use self::build::{Parts, asks_for_certificates, assemble, start_links};
pub use self::drain::Drain;
pub use self::live::Live;
pub use self::operator::operator;
pub(crate) use self::refusals::unread;
pub use self::reload::{ReadFilter, Reload, Reloading, SetFilter};
pub use self::run::{END_WITHIN, RunError, drain, housekeeping, run};
pub use self::wires::Late;
pub use self::world::{Chance, World};
use crate::auth::{Chain, Throttle};
use crate::components::Components;
use crate::features::Features;
use crate::features::archive::Archive;
use crate::features::last::leaving::Leaving;
use crate::features::push::cache::Pushes;
use crate::features::roster::cache::Rosters;
use crate::federation::Federation;
use crate::geo::Geo;
use crate::homes::Homes;
use crate::metrics::Metrics;
use crate::outbox::Recovery;
use crate::outbox::second::Second;
use crate::registry::Registry;
use crate::router::{Domains, Ledger, Routed, perform};
use crate::service::{Running, Services};
use crate::session::mailbox::{Mailbox, MailboxLimits};
use crate::session::moving::Moving;
use crate::session::{self, Item, Resumable, Seat, Turnstile};
use crate::storage::Storage;
use crate::storage::holders::Holders;
use crate::told::Told;
use crate::transport::TlsAcceptor;

/// Everything a node is, shared by all its tasks.
pub struct Node {
    /// What it was told to be.
    pub config: Live,
    /// The domains it answers for.
    pub domains: Domains,
    /// The server's own address: the global domain.
    pub server: Jid,
    /// Who is connected where.
    pub directory: Directory<Arc<Seat>, Routed>,
    /// The other nodes.
    pub geo: Arc<Geo>,
    /// Regions, nodes, homes.
    pub metadata: Metadata,
    /// Where changes to accounts are committed.
    pub homes: Homes,
    /// The local replica.
    pub storage: Arc<dyn Storage>,
    /// The region's nodes and sessions, in its Redis.
    pub registry: Registry,
    /// Rosters of the accounts connected here.
    pub rosters: Rosters,
    /// Who has privacy lists.
    pub guarded: Holders,
    /// Who has a vCard.
    pub cards: Holders,
    /// Who ever had messages filed.
    pub filed: Holders,
    /// Devices that are pushed to.
    pub pushes: Pushes,
    /// Who has left a moment ago.
    pub leaving: Leaving,
    /// The XEPs.
    pub features: Features,
    /// Those with a domain of their own.
    pub services: Live<Services>,
    /// What runs beside the stanzas for those.
    pub running: Running,
    /// Programs of their own that have domains of ours.
    pub components: Components,
    /// Messages on their way into archives.
    pub archive: Archive,
    /// What it has promised and not handed on.
    pub ledger: Ledger,
    /// What a former life had promised.
    pub recovery: Recovery,
    /// What of the outbox is with homes too.
    pub second: Second,
    /// Held by whoever writes the outbox.
    pub(crate) outbox_writer: tokio::sync::Mutex<()>,
    /// Sessions that may be resumed.
    pub resumable: Resumable,
    /// Sessions on their way from node to node.
    pub moving: Moving,
    /// Whether it is being emptied.
    pub drain: Drain,
    /// How many sessions begin in a second.
    pub turnstile: Arc<Turnstile>,
    /// Other people's domains.
    pub federation: Federation,
    /// Who may sign in.
    pub authenticator: Chain,
    /// Who tried too often.
    pub throttle: Throttle,
    /// Certificates for clients.
    pub tls: TlsAcceptor,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Which life of this node this is.
    pub incarnation: u64,
    /// The SHA-256 of the certificate it shows other nodes, in hexadecimal.
    pub fingerprint: String,
    offers: RwLock<Offers>,
    reloading: Reloading,
    world: World,
    clock: Mutex<HybridClock>,
    ahead: Ahead<Seat>,
    started: Instant,
    stop: Told<bool>,
    /// Batches on the way to the home of somebody who is away.
    filing: AtomicUsize,
}

/// What is offered to clients: one value shared by all their connections.
struct Offers {
    /// To strangers.
    network: Arc<Offer>,
    /// To clients on this machine, where PLAIN may go without TLS.
    loopback: Arc<Offer>,
}

impl Offers {
    fn new(
        config: &config::Config,
        features: &Features,
        authenticator: &Chain,
        fake_secret: Secret,
    ) -> Self {
        let mut domains = vec![config.domains.global.clone()];
        domains.extend(config.domains.regional.clone());
        domains.extend(config.domains.anon.clone());
        let mechanisms = authenticator.mechanisms(&config.domains.global);
        let guests = config.domains.anon.clone().map(|name| (name, vec![Mechanism::Anonymous]));
        let regional = config.domains.regional.clone();
        let regional = regional.map(|name| (name.clone(), authenticator.mechanisms(&name)));
        let with_limits = |mut features: Vec<u8>, bytes_max: usize| {
            features.extend(limits(bytes_max));
            features
        };
        let (before, after) = (
            with_limits(
                features.stream_features_before_auth(),
                config.limits.stanza_bytes_max_before_auth,
            ),
            with_limits(features.stream_features(), config.limits.stanza_bytes_max),
        );
        let offer = Offer {
            domains,
            tls: TlsPolicy::Required,
            mechanisms,
            apart: guests.into_iter().chain(regional).collect(),
            plain_without_tls: false,
            register: config.registration.enabled
                || config.registration.url.is_some()
                || config.invitations.accounts != config::Inviters::Nobody,
            stream_management: true,
            roster_versioning: false, // Said by the roster feature.
            features_before_auth: before,
            features_after_auth: after,
            fake_secret,
            fake_iterations: crate::homes::accounts::ITERATIONS,
            sasl2: Some(Inline {
                bind: features.inline().into_iter().chain([xmpp::ns::SM]).collect(),
                fast: config.clients.tokens,
            }),
            failures_max: config.c2s.auth_attempts_max,
        };
        let plain = config.c2s.allow_plain_without_tls;
        let tls = if plain { TlsPolicy::Optional } else { TlsPolicy::Required };
        let loopback = Offer { tls, plain_without_tls: plain, ..offer.clone() };
        Self { network: Arc::new(offer), loopback: Arc::new(loopback) }
    }
}

impl Node {
    /// What this life of the node says of itself, to metadata and to the registry.
    pub fn record(&self) -> NodeRecord {
        NodeRecord {
            region: self.geo.me.region.to_string(),
            node: self.geo.me.node,
            raft_id: self.config.metadata.raft_id,
            address: self.config.s2s.advertised().unwrap_or_default(),
            fingerprint: self.fingerprint.clone(),
            voter: self.config.metadata.voter,
            incarnation: self.incarnation,
        }
    }

    /// Milliseconds since this node started: monotonic, for deadlines.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the epoch: for time stamps people read, never for order.
    pub fn wall_ms(&self) -> u64 {
        self.world.wall_ms()
    }

    /// A hybrid time later than every one made or seen before.
    pub fn tick_clock(&self) -> Hlc {
        self.clock.lock().now(self.wall_ms())
    }

    /// Another node's hybrid time was seen.
    pub fn observe(&self, seen: Hlc) {
        self.clock.lock().observe(seen, self.wall_ms());
    }

    /// Random bytes, good enough for secrets.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        self.world.random()
    }

    /// An unguessable name: 144 bits.
    pub fn token(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.random::<18>())
    }

    /// What a client from there is offered.
    pub fn offer(&self, loopback: bool) -> Arc<Offer> {
        let offers = self.offers.read();
        if loopback { offers.loopback.clone() } else { offers.network.clone() }
    }

    /// The configuration has changed: connections that come from now on are offered what it says.
    fn offer_again(&self) {
        let secret = self.offers.read().network.fake_secret.clone();
        *self.offers.write() =
            Offers::new(&self.config, &self.features, &self.authenticator, secret);
    }

    /// Binds a resource (RFC 6120 §7): its row, announced to every region; an older session of the same full JID gets `<conflict/>`.
    ///
    /// # Errors
    /// `resource-constraint` when the account has as many sessions as it may; `bad-request` for a resource that is none.
    pub fn bind(
        &self,
        account: &BareJid,
        resource: Option<&str>,
    ) -> Result<Arc<Seat>, StanzaError> {
        let made;
        let resource = match resource {
            Some(resource) => resource,
            None => {
                made = self.token();
                &made
            }
        };
        let full = account.with_resource(resource).map_err(|_| StanzaError::bad_request())?;
        let limits = &self.config.limits;
        let others = self
            .directory
            .read(account.as_str(), |rows| rows.iter().filter(|row| row.full != full).count())
            .unwrap_or(0);
        if others >= limits.sessions_per_account_max {
            return Err(too_many_resources());
        }
        let generation = self.next_generation(&full);
        let seat = Arc::new(Seat::new(full, generation, self.mailbox()));
        let shows = Shows { priority: 0, available: false, hidden: false };
        match self.place(&seat, shows) {
            true => {
                self.metrics.sessions.inc();
                self.see_out(&seat);
                Ok(seat)
            }
            // Another region's, whose clock is ahead, became known this very moment: it stays, as it would if it had come after ours.
            false => Err(StanzaError::conflict()),
        }
    }

    fn mailbox(&self) -> Mailbox<Item> {
        let bytes_max = u32::try_from(self.config.limits.mailbox_bytes_max).unwrap_or(u32::MAX);
        Mailbox::new(MailboxLimits { bytes_max, ..MailboxLimits::default() })
    }

    /// The newest bind of it that is known.
    fn newest(&self, full: &FullJid) -> Option<Hlc> {
        let known = |rows: &[Row<Arc<Seat>>]| {
            let of_it = rows.iter().filter(|row| row.full == *full);
            of_it.map(|row| row.generation).max()
        };
        let known = self.directory.read(full.bare_str(), known).flatten();
        known.max(self.ahead.newest(full))
    }

    /// For a bind of it that is newer than all that are known.
    fn next_generation(&self, full: &FullJid) -> Hlc {
        // What is known here was bound before, also by a clock that is an hour ahead and that ours does not follow.
        let known = self.newest(full).filter(|_| !sings(Canary::ClockFollowsWall));
        known.map_or(Hlc::ZERO, |known| Hlc(known.0.saturating_add(1))).max(self.tick_clock())
    }

    /// A seat for a session that comes from another node; [`Node::arrive`] makes it known. `None`: its state makes no sense.
    pub fn arriving(&self, state: &session::State) -> Option<Arc<Seat>> {
        self.observe(state.generation);
        // It was on its way behind a line that was cut, and its client has bound anew meanwhile: it stays the older of the two, and is over.
        let is_replaced = self.newest(&state.full) > Some(state.generation);
        let generation = match is_replaced {
            true => state.generation,
            false => {
                let next = self.next_generation(&state.full);
                next.max(Hlc(state.generation.0.saturating_add(1)))
            }
        };
        Seat::arrived(state, generation, self.mailbox()).map(Arc::new)
    }

    /// The session is here from now on: its row says so in every region, and what it shows goes on. False: a newer one of the same full JID
    /// has become known.
    pub fn arrive(&self, seat: &Arc<Seat>) -> bool {
        let available = seat.available();
        let hidden = available && seat.invisible();
        let priority = if available { seat.priority() } else { 0 };
        let placed = self.place(seat, Shows { priority, available, hidden });
        if placed {
            self.metrics.sessions.inc();
            self.see_out(seat);
        }
        placed
    }

    /// A reload may have taken its domain away this very moment, and not have found it (`reload::end_sessions`).
    fn see_out(&self, seat: &Seat) {
        if !self.domains.signs_in(seat.bare.domain()) {
            perform::close(seat, StreamError::host_gone());
        }
    }

    /// Makes the row of a component's connection: it has a place among sessions, and shows nothing. At most so many stanzas, and bytes, wait
    /// for it.
    pub fn bind_component(
        &self,
        full: &FullJid,
        (items_max, bytes_max): (usize, usize),
    ) -> Option<Arc<Seat>> {
        let least = |max: usize| u32::try_from(max).unwrap_or(u32::MAX);
        let limits = MailboxLimits { items_max: least(items_max), bytes_max: least(bytes_max) };
        let generation = self.next_generation(full);
        let seat = Arc::new(Seat::new(full.clone(), generation, Mailbox::new(limits)));
        let shows = Shows { priority: 0, available: false, hidden: false };
        self.place(&seat, shows).then_some(seat)
    }

    /// Makes the row of a new seat, here and everywhere.
    fn place(&self, seat: &Arc<Seat>, shows: Shows) -> bool {
        let Shows { priority, available, hidden } = shows;
        let (full, generation) = (seat.full.clone(), seat.generation);
        if generation > self.clock.lock().last() {
            self.ahead.remember(&full, generation, seat);
        }
        let row = Row::new(full.clone(), Place::Here(seat.clone()), generation);
        let row = Row { priority, available, hidden, ..row };
        let bound = self.directory.bind(row, |_| true);
        if let Some(older) = bound.superseded {
            perform::close(&older, StreamError::conflict());
        }
        if bound.lost {
            return false;
        }
        let bind = RouteEntry::Bind { full, generation, priority, available, hidden };
        self.geo.route.append(self, bind);
        true
    }

    /// New presence of a local session: in its row, and to every region. If it takes no messages any more, those that wait in it go elsewhere
    /// before others can know: so they go before what is sent after.
    pub fn announce(self: &Arc<Self>, seat: &Arc<Seat>, priority: i8, available: bool) {
        let hidden = available && seat.invisible();
        let shows = Shows { priority, available, hidden };
        let (known, _) = self.directory.update(&seat.full, seat.generation, shows);
        if !available || priority < 0 {
            session::no_room(self, seat, seat.take_newer());
        }
        if known {
            let entry = RouteEntry::Update {
                full: seat.full.clone(),
                generation: seat.generation,
                priority,
                available,
                hidden,
            };
            self.geo.route.append(self, entry);
        }
    }

    /// Batches that are being filed just now.
    pub fn filing(&self) -> usize {
        self.filing.load(Ordering::Relaxed)
    }

    /// A batch is about to be filed (+1), or is (-1).
    pub fn count_filing(&self, more: bool) {
        if more {
            self.filing.fetch_add(1, Ordering::Relaxed);
        } else {
            self.filing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the node is being emptied: it takes no new sessions.
    pub fn is_leaving(&self) -> bool {
        self.drain.is_on()
    }

    /// Resolves when the node is told to stop.
    pub async fn stopped(&self) {
        self.stop.until(|stop| *stop).await;
    }

    /// Tells every task to stop.
    pub fn stop(&self) {
        self.stop.set(true);
    }
}

/// What a bind that may not be is answered with (XEP-0205, RFC 6120 §7.6.2.1).
fn too_many_resources() -> StanzaError {
    StanzaError::resource_constraint()
        .with_extra(xmpp::xml::element::Element::new("resource-limit-exceeded", xmpp::ns::ERRORS))
}
