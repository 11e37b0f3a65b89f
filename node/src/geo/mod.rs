//! Room: this node among the others. Holds the links, the probes, the calls on the way and what is believed of each node;
//! says how a stanza, a presence, a carbon gets to another region. `user` is the other direction: what arrives.
//! Called by the router and by features' actions. Blueprint §4 to §6.
//!
//! * `abroad` presence for other domains · `frame` what is said on a link · `user` what arrives · `route` our route log and the others' · `held` what we have of
//!   other nodes' ledgers · `calls` request and answer · `presence` who shows what to whom · `light` presence when a node falls silent or returns · `parting` subscriptions that are ending · `passing` sessions that are between two nodes · `tick` once a second ·
//!   `numbers` for `/metrics`

pub mod abroad;
pub mod calls;
pub mod departed;
pub mod frame;
pub mod held;
pub mod light;
mod numbers;
pub mod parting;
pub mod passing;
pub mod presence;
pub mod route;
pub mod tick;
pub mod user;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use config::canary::{Canary, sings};
use global_distrib::health::Health;
use global_distrib::{Mark, NodeIx, Nodes};
use parking_lot::{Mutex, RwLock};
use replication::watermark::Probes;
use s2s::link::{FrameKind, Link, Links, PeerId};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;

use self::frame::{CarbonCopy, StanzaHead};
use crate::app::Node;
use crate::router::perform;

/// Another node, as `geo` knows it.
pub struct Peer {
    /// Its name on links.
    pub id: PeerId,
    /// Its name in metadata: `eu-0`.
    pub name: Arc<str>,
    /// Its index here.
    pub ix: NodeIx,
    /// The link to it.
    pub link: Link,
    pace: Pace,
}

/// The nodes that were ever linked and are not forgotten. A link's name finds one without a word written: every frame comes with it.
#[derive(Default)]
struct Peers {
    by_ix: BTreeMap<NodeIx, Arc<Peer>>,
    by_id: BTreeMap<PeerId, Arc<Peer>>,
}

/// Our probes to a node, in numbers that may be read without a lock. What we sent before probe `n` was queued is settled when `n` is
/// echoed: all that the node gave back of it is here.
#[derive(Debug, Default)]
struct Pace {
    /// The number of the next probe; raised before that probe is queued.
    next: AtomicU64,
    echoed: AtomicU64,
    /// Its echo is waited for.
    live: AtomicBool,
    /// Something was sent that the next probe settles.
    open: AtomicBool,
}

/// See the room.
pub struct Geo {
    /// Our own name.
    pub me: PeerId,
    /// Names and indices.
    pub nodes: Nodes,
    links: OnceLock<Links>,
    peers: RwLock<Peers>,
    /// Nodes whose echo is waited for: not declared down by metadata.
    live: RwLock<Vec<(Arc<str>, NodeIx)>>,
    probes: Mutex<Probes>,
    /// What sessions here have of other nodes' messages.
    pub held: held::Held,
    /// Requests on the way to other nodes.
    pub calls: calls::Calls,
    /// Subscriptions that are ending.
    pub partings: parting::Partings,
    /// Sessions that are between two other nodes.
    pub passings: passing::Passings,
    /// Sessions that ended while nobody told of rosters.
    pub departed: departed::Departed,
    /// What is remembered for contacts at other domains.
    pub abroad: abroad::Abroad,
    /// Our session rows' changes, and where each peer is in them.
    pub route: route::Routes,
    /// A link was forgotten and may be made anew.
    pub relink: tokio::sync::Notify,
    /// Who is lit, who is dark.
    pub health: Mutex<Health>,
    /// Who writes the database of each region, by their own word: the greatest term counts, and the database gives each to one node.
    scribes: RwLock<BTreeMap<Arc<str>, (u64, NodeIx)>>,
    /// Whom the others reach: `(reporter, its list, when in ms)`.
    pub reach: Mutex<BTreeMap<String, (Vec<String>, u64)>>,
}

impl Geo {
    /// A node without links yet.
    pub fn new(me: PeerId, dead_after_ms: u64, route_entries_max: usize) -> Self {
        Self {
            me,
            nodes: Nodes::default(),
            links: OnceLock::new(),
            peers: RwLock::default(),
            live: RwLock::default(),
            probes: Mutex::default(),
            held: held::Held::default(),
            calls: calls::Calls::default(),
            partings: parting::Partings::default(),
            passings: passing::Passings::default(),
            departed: departed::Departed::default(),
            abroad: abroad::Abroad::default(),
            route: route::Routes::new(route_entries_max),
            relink: tokio::sync::Notify::new(),
            scribes: RwLock::default(),
            health: Mutex::new(Health::new(dead_after_ms)),
            reach: Mutex::default(),
        }
    }

    /// Takes the links, once, at start.
    pub fn set_links(&self, links: Links) {
        assert!(self.links.set(links).is_ok(), "links are set once");
    }

    /// The links, if there are any.
    pub fn links(&self) -> Option<&Links> {
        self.links.get()
    }

    /// The peer behind a link's name; learnt on first sight.
    pub fn peer(&self, id: &PeerId) -> Option<Arc<Peer>> {
        let known = self.peers.read().by_id.get(id).cloned();
        known.or_else(|| self.learn(id))
    }

    /// The peer by the link that there is now. It may have been forgotten and made anew (another node fell in the same moment) before the end of the former
    /// link was heard of; who went on with that one would reach nobody.
    pub fn learn(&self, id: &PeerId) -> Option<Arc<Peer>> {
        let name = id.to_string();
        let ix = self.nodes.index(&name)?;
        let link = self.links.get()?.link(id)?;
        if let Some(known) = self.peers.read().by_ix.get(&ix)
            && known.link.is(&link)
        {
            return Some(known.clone());
        }
        let pace = Pace::default();
        let peer = Arc::new(Peer { id: id.clone(), name: name.into(), ix, link, pace });
        {
            let mut peers = self.peers.write();
            peers.by_ix.insert(ix, peer.clone());
            peers.by_id.insert(id.clone(), peer.clone());
        }
        self.keep_pace();
        Some(peer)
    }

    /// Every peer ever linked.
    pub fn all_peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().by_ix.values().cloned().collect()
    }

    /// A peer by its index.
    pub fn peer_at(&self, ix: NodeIx) -> Option<Arc<Peer>> {
        self.peers.read().by_ix.get(&ix).cloned()
    }

    /// A peer by its name.
    pub fn peer_named(&self, name: &str) -> Option<Arc<Peer>> {
        let ix = self.nodes.index(name)?;
        self.peer_at(ix)
    }

    /// Forgets the link of a peer that was declared down; it is learnt anew when it returns.
    pub fn drop_peer(&self, ix: NodeIx) {
        let mut peers = self.peers.write();
        if let Some(peer) = peers.by_ix.remove(&ix) {
            peers.by_id.remove(&peer.id);
        }
    }

    /// The node of a region that writes its database.
    pub fn scribe_of(&self, region: &str) -> Option<Arc<Peer>> {
        let (_, ix) = self.scribes.read().get(region).copied()?;
        self.peer_at(ix)
    }

    /// A peer says that it writes its region's database in that term. False: another has it by now.
    pub fn heard_scribe(&self, peer: &Peer, term: u64) -> bool {
        let mut scribes = self.scribes.write();
        let known = scribes.get(&*peer.id.region).copied();
        let is_news =
            known.is_none_or(|(newest, by)| term > newest || (term, peer.ix) == (newest, by));
        if is_news {
            scribes.insert(peer.id.region.clone(), (term, peer.ix));
        }
        is_news
    }

    /// Whether that is known already.
    pub fn scribe_is(&self, peer: &Peer, term: u64) -> bool {
        self.scribes.read().get(&peer.id.region) == Some(&(term, peer.ix))
    }

    /// The peers of a region.
    pub fn peers_in(&self, region: &str) -> Vec<Arc<Peer>> {
        let peers = self.peers.read();
        peers.by_ix.values().filter(|peer| *peer.id.region == *region).cloned().collect()
    }

    /// Which nodes hold watermarks back, and are told presence, from now on (blueprint §5). Returns those that no longer are, and those that
    /// were not before.
    pub fn set_live(&self, names: &[String]) -> (Vec<(Arc<str>, NodeIx)>, Vec<NodeIx>) {
        let now: Vec<(Arc<str>, NodeIx)> = names
            .iter()
            .filter_map(|name| Some((name.as_str().into(), self.nodes.index(name)?)))
            .collect();
        let before = std::mem::replace(&mut *self.live.write(), now.clone());
        let fresh = now.iter().filter(|known| !before.contains(known)).map(|(_, ix)| *ix).collect();
        let gone: Vec<_> = before.into_iter().filter(|known| !now.contains(known)).collect();
        {
            let mut probes = self.probes.lock();
            for (name, _) in &gone {
                probes.removed(name);
            }
        }
        self.keep_pace();
        (gone, fresh)
    }

    /// Copies the probes' numbers to where they are read, after something besides probing has changed them.
    fn keep_pace(&self) {
        let live = self.live.read();
        let probes = self.probes.lock();
        for peer in self.peers.read().by_ix.values() {
            let pace = &peer.pace;
            pace.next.store(probes.next(&peer.name), Ordering::Release);
            pace.echoed.store(probes.echoed_upto(&peer.name), Ordering::Release);
            pace.live.store(live.iter().any(|(_, ix)| *ix == peer.ix), Ordering::Release);
        }
    }

    /// Names of the live nodes other than this.
    pub fn live(&self) -> Vec<(Arc<str>, NodeIx)> {
        self.live.read().clone()
    }

    /// A mark for what arrives now; the probes it needs go out with [`Geo::send_due_probes`].
    pub fn mark(&self) -> Mark {
        if sings(Canary::JudgedAtOnce) {
            return Mark::default();
        }
        let live = self.live.read();
        self.probes.lock().mark(live.iter().map(|(name, _)| &**name))
    }

    /// Whether all of it is echoed.
    pub fn closed(&self, mark: &Mark) -> bool {
        self.probes.lock().is_closed(mark)
    }

    /// Sends the probes that marks made necessary.
    pub fn send_due_probes(&self) {
        let due = {
            let mut probes = self.probes.lock();
            let due = probes.due();
            for (name, number) in &due {
                if let Some(peer) = self.peer_named(name) {
                    // Before the probe is queued: what is sent from now on is not settled by its echo.
                    peer.pace.next.store(number + 1, Ordering::Release);
                }
            }
            due
        };
        for (name, number) in due {
            if let Some(ix) = self.nodes.index(&name) {
                self.send(ix, frame::PROBE, &[&number.to_le_bytes()]);
            }
        }
    }

    /// An echo arrived; true when it was news.
    pub fn echoed(&self, peer: &Peer, number: u64) -> bool {
        let news = self.probes.lock().echoed(&peer.name, number);
        if news {
            peer.pace.echoed.fetch_max(number, Ordering::AcqRel);
        }
        news
    }

    /// A node came back as another incarnation: what was asked of the old one is asked again.
    pub fn restarted(&self, name: &str) {
        self.probes.lock().restarted(name);
        self.keep_pace();
    }

    /// The last probe that node has echoed: what was sent to it before that one is settled. Everything is, when it is not live.
    pub fn settled(&self, node: NodeIx) -> u64 {
        let peers = self.peers.read();
        let live = peers.by_ix.get(&node).filter(|peer| peer.pace.live.load(Ordering::Acquire));
        live.map_or(u64::MAX, |peer| peer.pace.echoed.load(Ordering::Acquire))
    }

    /// The next probe to that node: its echo settles what was sent until now.
    pub fn fence(&self, node: NodeIx) -> u64 {
        self.peers.read().by_ix.get(&node).map_or(0, |peer| {
            // Before `open` is looked at: a probe of this number is yet to come, or `open` says that another must.
            let next = peer.pace.next.load(Ordering::Acquire);
            // Not written when it is so already: all cores come here.
            if !peer.pace.open.load(Ordering::Relaxed) {
                peer.pace.open.store(true, Ordering::Relaxed);
            }
            next
        })
    }

    /// Probes every node that was sent something since its last probe: what has long arrived is then settled before that node falls silent, and
    /// holds up nothing that is for others. Once a second: a probe and an echo for each node, however much is sent.
    pub fn settle(&self) {
        let open: Vec<Arc<str>> = self
            .peers
            .read()
            .by_ix
            .values()
            .filter(|peer| {
                peer.link.is_up()
                    && peer.pace.live.load(Ordering::Acquire)
                    && peer.pace.open.swap(false, Ordering::Relaxed)
            })
            .map(|peer| peer.name.clone())
            .collect();
        if !open.is_empty() {
            self.probes.lock().mark(open.iter().map(|name| &**name));
            self.send_due_probes();
        }
    }

    /// Queues a frame. `None` when the link's bound is reached or there is no such node.
    pub fn send(&self, node: NodeIx, kind: FrameKind, parts: &[&[u8]]) -> Option<u64> {
        self.peers.read().by_ix.get(&node)?.link.send(kind, parts).ok()
    }

    /// Queues a frame, written in place.
    pub fn send_with(
        &self,
        node: NodeIx,
        kind: FrameKind,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Option<u64> {
        self.peers.read().by_ix.get(&node)?.link.send_with(kind, |_, out| write(out)).ok()
    }

    /// Gives a stanza back to the node where it entered. `false` when that cannot be told.
    pub fn give_back(&self, node: NodeIx, head: StanzaHead, stanza: &Stanza) -> bool {
        let sent = self.send_with(node, frame::RETURN, |out| {
            head.write(out);
            out.extend_from_slice(stanza.bytes());
        });
        sent.is_some()
    }

    /// Tells a node that these messages of its ledger are kept. Told later if the link is full.
    pub fn tell_kept(&self, node: NodeIx, orders: &[u64]) {
        for orders in orders.chunks(frame::ORDERS_MAX) {
            let told =
                self.send_with(node, frame::KEPT, |out| frame::write_orders(out, orders)).is_some();
            if !told {
                self.held.untold(node, orders);
            }
        }
    }

    /// The first word on a fresh link: what is here of that node's ledger, behind what it may have heard and forgotten.
    pub fn tell_held(&self, node: NodeIx) {
        self.tell_kept(node, &self.held.recent(node));
        let orders = self.held.of(node);
        let mut parts = orders.chunks(frame::ORDERS_MAX);
        // Also when there is nothing: somebody may wait for the word.
        let first = parts.next().unwrap_or_default();
        for orders in std::iter::once(first).chain(parts) {
            self.send_with(node, frame::HELD, |out| frame::write_orders(out, orders));
        }
    }

    /// Queues a postcard frame.
    pub fn send_value<T: serde::Serialize>(
        &self,
        node: NodeIx,
        kind: FrameKind,
        value: &T,
    ) -> Option<u64> {
        let body = postcard::to_stdvec(value).expect("frame bodies are plain values");
        self.send(node, kind, &[&body])
    }

    /// Carbons for an account's other resources, here and elsewhere.
    pub fn carbon(
        &self,
        node: &Arc<Node>,
        account: &BareJid,
        except: Option<&FullJid>,
        sent: bool,
        forwarded: &Stanza,
    ) {
        perform::local_carbons(node, account, (except, None), sent, forwarded);
        let mut elsewhere: Vec<NodeIx> = Vec::new();
        node.directory.read(account.as_str(), |rows| {
            for ix in rows
                .iter()
                .filter(|row| except != Some(&row.full))
                .filter_map(global_distrib::Row::there)
            {
                if !elsewhere.contains(&ix) {
                    elsewhere.push(ix);
                }
            }
        });
        if elsewhere.is_empty() {
            return;
        }
        let copy = CarbonCopy {
            account: account.clone(),
            except: except.cloned(),
            only: None,
            sent,
            forwarded: forwarded.bytes().to_vec(),
        };
        for ix in elsewhere {
            self.send_value(ix, frame::CARBON, &copy);
        }
    }
}
