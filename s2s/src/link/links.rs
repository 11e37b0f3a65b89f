//! All links of a node: dials the peers with greater names, accepts the others, lets a newer connection take the place of an older one.
//! Called by `node::app`; calls `handshake` and `driver`. Addresses say nothing about identity here (one may be a proxy's): certificates do.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex as Slot, OwnedMutexGuard, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::claim::{Claim, Claims};
use super::driver::{self, Agreed};
use super::handshake::{self, XmlStream};
use super::negotiate::{self, Hello};
use super::peer::Peer;
use super::road::{Io, Road, Secured};
use super::{Incarnation, Link, LinkLimits, LinkTimers, LinkUser, PeerId};
use crate::error::{LinkError, Refusal};
use crate::tls::Fingerprint;

/// What a node needs to speak to the others.
pub struct LinkConfig {
    /// This node.
    pub me: PeerId,
    /// This life of it: not 0, never used before.
    pub incarnation: Incarnation,
    /// How it reaches the others, and how they prove who they are.
    pub road: Road,
    /// The peers known at start. May be empty: [`Links::set_peers`] follows.
    pub peers: Vec<PeerConfig>,
    /// Times.
    pub timers: LinkTimers,
    /// Bounds.
    pub limits: LinkLimits,
    /// Where chance comes from: [`random`], or a seed. Not for secrets.
    pub chance: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A peer, as metadata knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// Its name. An entry that names this node itself is ignored.
    pub id: PeerId,
    /// Where to dial: `host:port`. Not used for peers that dial us.
    pub address: String,
    /// The certificate it must show. Each node has its own: it is what tells nodes apart.
    pub fingerprint: Fingerprint,
}

/// All links of a node. Cloning is one reference count; dropping stops nothing, [`Links::shutdown`] does.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    me: PeerId,
    incarnation: Incarnation,
    road: Road,
    secured: Secured,
    chance: Arc<dyn Fn() -> u64 + Send + Sync>,
    user: Arc<dyn LinkUser>,
    timers: LinkTimers,
    limits: LinkLimits,
    /// In order of names, so that what is done for each of them is done in the same order every time.
    entries: RwLock<BTreeMap<PeerId, Arc<Entry>>>,
    /// One for each name ever known, so that a peer that is forgotten and comes back does not meet itself.
    slots: Mutex<BTreeMap<PeerId, Arc<Slot<()>>>>,
    handshakes: Arc<Semaphore>,
    refused: AtomicU64,
}

/// One peer: its state, where it is, and which of its connections is the newest.
struct Entry {
    peer: Arc<Peer>,
    target: Mutex<PeerConfig>,
    /// Held by the one connection that may touch `peer`.
    slot: Arc<Slot<()>>,
    /// Which connection is the newest; all others end themselves.
    claims: Arc<Claims>,
}

impl Links {
    /// Starts: dials those peers that are for us to dial, and goes on doing so. Needs a tokio runtime. The user may be called before this returns;
    /// if it needs the `Links` for that, start without peers and call [`Links::set_peers`] then.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn start(config: LinkConfig, user: Arc<dyn LinkUser>) -> Result<Links, LinkError> {
        let LinkConfig { me, incarnation, road, peers, timers, limits, chance } = config;
        assert!(incarnation.0 != 0, "incarnation 0 means none");
        let links = Links(Arc::new(Shared {
            secured: Secured::new(&road)?,
            me,
            incarnation,
            road,
            chance,
            user,
            timers,
            limits,
            entries: RwLock::default(),
            slots: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            refused: AtomicU64::new(0),
        }));
        links.set_peers(peers);
        Ok(links)
    }

    /// The link to a peer, up or not. `None` when it is not known.
    pub fn link(&self, peer: &PeerId) -> Option<Link> {
        self.0.entries.read().get(peer).map(|entry| Link(entry.peer.clone()))
    }

    /// All links, in no order.
    pub fn all(&self) -> Vec<Link> {
        self.0.entries.read().values().map(|entry| Link(entry.peer.clone())).collect()
    }

    /// Connections refused so far, in either direction: unknown certificates, wrong names, versions, too many at once.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The peers from now on. Those not listed any more are forgotten; where an address or certificate changed, the connection is made anew.
    pub fn set_peers(&self, peers: Vec<PeerConfig>) {
        let shared = &self.0;
        let peers: BTreeMap<PeerId, PeerConfig> =
            peers.into_iter().filter(|p| p.id != shared.me).map(|p| (p.id.clone(), p)).collect();
        let mut entries = shared.entries.write();
        shared.secured.pins.set(peers.values().map(|p| (p.fingerprint, p.id.clone())));
        let gone: Vec<_> = entries
            .extract_if(.., |id, _| !peers.contains_key(id))
            .map(|(_, entry)| entry)
            .collect();
        gone.into_iter().for_each(forget);
        for (id, config) in peers {
            if let Some(entry) = entries.get(&id) {
                let changed =
                    std::mem::replace(&mut *entry.target.lock(), config.clone()) != config;
                if changed {
                    entry.claims.claim(); // by nobody: the present connection ends
                }
                continue;
            }
            let entry = Arc::new(Entry {
                peer: Arc::new(Peer::new(id.clone(), shared.user.clone(), &shared.limits)),
                target: Mutex::new(config),
                slot: shared.slots.lock().entry(id.clone()).or_default().clone(),
                claims: Arc::default(),
            });
            if shared.me < id {
                tokio::spawn(dial(shared.clone(), entry.clone()));
            }
            entries.insert(id, entry);
        }
    }

    /// Ends the link to a peer for good: its connection is closed, its certificate not accepted any more, and what it has not acknowledged
    /// is handed to [`LinkUser::lost`], soon.
    pub fn forget(&self, peer: &PeerId) {
        let mut entries = self.0.entries.write();
        let Some(entry) = entries.remove(peer) else { return };
        self.0
            .secured
            .pins
            .set(entries.iter().map(|(id, entry)| (entry.target.lock().fingerprint, id.clone())));
        forget(entry);
    }

    /// Takes a connection that reached this node's s2s port. Returns at once; the connection has a task of its own.
    pub fn accept<S>(&self, io: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = self.0.clone();
        let Ok(permit) = shared.handshakes.clone().try_acquire_owned() else {
            shared.log_end(None, &Refusal::Busy.into());
            return;
        };
        tokio::spawn(async move {
            let mut who = None;
            let end = shared.accept(io, permit, &mut who).await;
            shared.log_end(who.as_ref(), &end);
        });
    }

    /// The same for a connection over a bare road.
    pub fn accept_bare(&self, io: Box<dyn Io>) {
        let shared = self.0.clone();
        tokio::spawn(async move {
            let mut who = None;
            let end = shared.accept_bare(io, &mut who).await;
            shared.log_end(who.as_ref(), &end);
        });
    }

    /// Closes all connections and waits until nothing runs any more. Frames that were not acknowledged are gone with the process.
    pub async fn shutdown(&self) {
        let entries: Vec<_> = self.0.entries.read().values().cloned().collect();
        entries.iter().for_each(|entry| entry.claims.stop());
        for entry in entries {
            drop(entry.slot.lock().await);
        }
    }
}

/// Ends the connection of an entry that is not listed any more, and then hands back its frames.
fn forget(entry: Arc<Entry>) {
    entry.claims.stop();
    tokio::spawn(async move {
        let _slot = entry.slot.lock().await;
        entry.peer.forget();
    });
}

impl Shared {
    fn hello(&self, entry: &Entry) -> Hello {
        let known = entry.peer.session.lock().map(|session| session.peer);
        let received = entry.peer.inbox.lock().received();
        Hello {
            version: negotiate::VERSION,
            id: self.me.clone(),
            incarnation: self.incarnation,
            known,
            received,
        }
    }

    fn agree(&self, entry: &Entry, theirs: &Hello, dialled: bool, rest: bytes::BytesMut) -> Agreed {
        let session = *entry.peer.session.lock();
        Agreed {
            incarnation: theirs.incarnation,
            decision: negotiate::decide(self.incarnation, session, theirs),
            dialled,
            rest,
        }
    }

    /// An inbound connection from its first byte to its end.
    async fn accept<S>(&self, io: S, permit: impl Send, who: &mut Option<PeerId>) -> LinkError
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let deadline = Instant::now() + self.timers.handshake;
        let Some(accepting) = self.secured.accepting.clone() else { return LinkError::Closed };
        let accepted =
            timeout_at(deadline, handshake::accept(io, &self.me, accepting, &self.secured.pins))
                .await;
        match accepted.unwrap_or(Err(LinkError::Deadline)) {
            Ok((xml, id)) => self.accepted(xml, id, deadline, permit, who).await,
            Err(cause) => cause,
        }
    }

    /// The same over a bare road: the stream header is believed.
    async fn accept_bare(&self, io: Box<dyn Io>, who: &mut Option<PeerId>) -> LinkError {
        let deadline = Instant::now() + self.timers.handshake;
        let known =
            |name: &str| self.entries.read().keys().find(|id| id.to_string() == name).cloned();
        let accepted = timeout_at(deadline, handshake::accept_bare(io, &self.me, known)).await;
        match accepted.unwrap_or(Err(LinkError::Deadline)) {
            Ok((xml, id)) => self.accepted(xml, id, deadline, (), who).await,
            Err(cause) => cause,
        }
    }

    /// The part from where the hello is due.
    async fn accepted<S>(
        &self,
        mut xml: XmlStream<S>,
        id: PeerId,
        deadline: Instant,
        permit: impl Send,
        who: &mut Option<PeerId>,
    ) -> LinkError
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        *who = Some(id.clone());
        let entry = self.entries.read().get(&id).cloned();
        let Some(entry) = entry else { return Refusal::UnknownCertificate.into() };
        let Some(claim) = entry.claims.claim() else { return LinkError::Closed };
        // The older connection has seen the claim and ends; what it has handed out by then is in the hello.
        let agreed = async {
            let slot = entry.slot.clone().lock_owned().await;
            let theirs = handshake::hello_accepting(&mut xml, &self.hello(&entry), &id).await?;
            Ok::<_, LinkError>((slot, theirs))
        };
        let agreed = tokio::select! {
            biased; // a claim that is lost in the same moment is seen by the driver
            agreed = timeout_at(deadline, agreed) => agreed.unwrap_or(Err(LinkError::Deadline)),
            () = claim.clone().lost() => Err(LinkError::Closed),
        };
        let (_slot, theirs): (OwnedMutexGuard<()>, Hello) = match agreed {
            Ok(agreed) => agreed,
            Err(cause) => {
                let _ = timeout_at(deadline, xml.refuse(&cause)).await;
                return cause;
            }
        };
        drop(permit);
        let (io, rest) = xml.into_parts();
        let agreed = self.agree(&entry, &theirs, false, rest);
        driver::run(&entry.peer, io, agreed, self.timers, claim.lost()).await
    }

    /// An outbound connection from dialling to its end.
    async fn dial(&self, entry: &Entry, claim: Claim) -> LinkError {
        let target = entry.target.lock().clone();
        match &self.road {
            Road::Tls(identity) => {
                let dialled = async {
                    let tls = identity.dialling(target.fingerprint)?;
                    let tcp = TcpStream::connect(&target.address).await.map_err(|cause| {
                        LinkError::Connect { address: target.address.clone(), cause }
                    })?;
                    tcp.set_nodelay(true)?;
                    handshake::dial(tcp, &self.me, &target.id, tls).await
                };
                self.dialled(entry, claim, &target.id, dialled).await
            }
            Road::Bare(dialer) => {
                let dialled = async {
                    let io = dialer.connect(&target.id).await.map_err(|cause| {
                        LinkError::Connect { address: target.id.to_string(), cause }
                    })?;
                    handshake::dial_bare(io, &self.me, &target.id).await
                };
                self.dialled(entry, claim, &target.id, dialled).await
            }
        }
    }

    /// The part from where the hello is due.
    async fn dialled<S>(
        &self,
        entry: &Entry,
        claim: Claim,
        to: &PeerId,
        dialled: impl Future<Output = Result<XmlStream<S>, LinkError>>,
    ) -> LinkError
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let dialled = async {
            let mut xml = dialled.await?;
            let theirs = handshake::hello_dialling(&mut xml, &self.hello(entry), to).await?;
            Ok::<_, LinkError>((xml.into_parts(), theirs))
        };
        let dialled = tokio::select! {
            biased; // a claim that is lost in the same moment is seen by the driver
            dialled = timeout_at(Instant::now() + self.timers.handshake, dialled) => dialled.unwrap_or(Err(LinkError::Deadline)),
            () = claim.clone().lost() => Err(LinkError::Closed),
        };
        match dialled {
            Ok(((io, rest), theirs)) => {
                let agreed = self.agree(entry, &theirs, true, rest);
                driver::run(&entry.peer, io, agreed, self.timers, claim.lost()).await
            }
            Err(cause) => cause,
        }
    }

    /// A connection, or an attempt at one, has ended.
    fn log_end(&self, peer: Option<&PeerId>, cause: &LinkError) {
        let peer = peer.map(tracing::field::display);
        match cause {
            LinkError::Refused(Refusal::Busy) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%cause, "link refused"); // a flood must not become a flood of log lines
            }
            LinkError::Refused(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer, %cause, "link refused");
            }
            _ => tracing::debug!(peer, %cause, "link connection ended"),
        }
    }
}

/// Dials a peer again and again, with growing pauses, until it is forgotten.
async fn dial(shared: Arc<Shared>, entry: Arc<Entry>) {
    let mut pause = shared.timers.retry_min;
    loop {
        let slot = entry.slot.lock().await;
        let Some(claim) = entry.claims.claim() else { return };
        let was = entry.peer.counters.connections.load(Ordering::Relaxed);
        let end = shared.dial(&entry, claim.clone()).await;
        shared.log_end(Some(&entry.peer.id), &end);
        drop(slot);
        if entry.peer.counters.connections.load(Ordering::Relaxed) != was {
            pause = shared.timers.retry_min;
        } else if pause == shared.timers.retry_min {
            tracing::warn!(peer = %entry.peer.id, cause = %end, "link not made, trying on"); // once, not with every attempt
        }
        tokio::select! {
            biased;
            () = claim.lost() => (),
            () = sleep(jittered(pause, (shared.chance)())) => (),
        }
        pause = (pause * 2).min(shared.timers.retry_max);
    }
}

/// Between half of `pause` and all of it, so that nodes that fell together do not rise together.
fn jittered(pause: Duration, chance: u64) -> Duration {
    pause.mul_f64(0.5 + (chance >> 11) as f64 / (1u64 << 53) as f64 / 2.0)
}

/// A number nobody else has just drawn. Not for secrets.
pub fn random() -> u64 {
    RandomState::new().hash_one(0)
}
