//! Room: our route log and the others'. Ours: every change of a local row, in order, in a bounded ring; each peer has a cursor in it,
//! and the link's writer takes what is new just before it writes anything else, so a peer knows of a row before it gets what
//! depends on it. Theirs: applied to the session table. A cursor that fell off the ring gets all rows anew, never a gap.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use global_distrib::{NodeIx, Place, RouteEntry, Row, Shows};
use parking_lot::Mutex;
use replication::Hlc;
use replication::route_log::{Log, Tail};
use s2s::link::FrameSink;
use xmpp::jid::FullJid;
use xmpp::stream::error::StreamError;

use super::{Peer, frame, light};
use crate::app::Node;
use crate::components;
use crate::router;

/// Entries a frame carries at most.
const ENTRIES_PER_FRAME: usize = 512;

/// See the room.
pub struct Routes {
    log: Mutex<Log<RouteEntry>>,
    cursors: Mutex<BTreeMap<NodeIx, Cursor>>,
}

#[derive(Debug, Default)]
struct Cursor {
    /// The last entry sent; `None`: a snapshot is due.
    sent: Option<u64>,
    /// While their snapshot arrives: whom it has named.
    snapshot: Option<HashSet<FullJid>>,
    /// Their snapshot has arrived whole.
    complete: bool,
}

impl Routes {
    /// A ring of `entries_max` entries.
    pub fn new(entries_max: usize) -> Self {
        Self { log: Mutex::new(Log::new(entries_max)), cursors: Mutex::default() }
    }

    /// The peer is new (or we are): it gets everything, and what it told us before is void.
    pub fn fresh(&self, peer: NodeIx) {
        self.cursors.lock().insert(peer, Cursor::default());
    }

    /// Whether that peer has told us all its rows.
    pub fn complete(&self, peer: NodeIx) -> bool {
        self.cursors.lock().get(&peer).is_some_and(|cursor| cursor.complete)
    }

    /// Notes a change of a local row and makes the links carry it.
    pub fn append(&self, node: &Node, entry: RouteEntry) {
        node.registry.note(&entry, node.now_ms());
        self.log.lock().append(entry);
        for peer in node.geo.all_peers() {
            peer.link.wake();
        }
    }

    /// Puts what the peer has not seen into the link, ahead of everything queued.
    pub fn tail(&self, node: &Node, peer: NodeIx, out: &mut FrameSink) {
        loop {
            let sent = self.cursors.lock().entry(peer).or_default().sent;
            let Some(sent) = sent else {
                if !self.snapshot(node, peer, out) {
                    return;
                }
                continue;
            };
            let tail = self.log.lock().tail(sent, ENTRIES_PER_FRAME);
            match tail {
                Tail::Batch { entries, .. } if entries.is_empty() => return,
                Tail::Batch { first, entries } => {
                    let body = postcard::to_stdvec(&entries).expect("entries are plain values");
                    if out.frame(frame::ROUTE, &[&body]).is_err() {
                        return; // No room now: the writer asks again when there is.
                    }
                    let count = entries.len() as u64;
                    self.cursors.lock().entry(peer).or_default().sent = Some(first + count - 1);
                }
                Tail::Trimmed { .. } => self.cursors.lock().entry(peer).or_default().sent = None,
            }
        }
    }

    fn snapshot(&self, node: &Node, peer: NodeIx, out: &mut FrameSink) -> bool {
        // The head first: a change between here and the scan is told twice, which changes nothing.
        let head = self.log.lock().head();
        let mut entries = vec![RouteEntry::SnapshotBegin];
        node.directory.for_each(|row| {
            if row.here().is_some() {
                entries.push(RouteEntry::Bind {
                    full: row.full.clone(),
                    generation: row.generation,
                    priority: row.priority,
                    available: row.available,
                    hidden: row.hidden,
                });
            }
        });
        entries.push(RouteEntry::SnapshotEnd);
        for part in entries.chunks(ENTRIES_PER_FRAME) {
            let body = postcard::to_stdvec(part).expect("entries are plain values");
            if out.frame(frame::ROUTE, &[&body]).is_err() {
                tracing::warn!(?peer, "a snapshot did not fit the link; it is begun anew");
                return false;
            }
        }
        self.cursors.lock().entry(peer).or_default().sent = Some(head);
        true
    }

    /// Applies what a peer tells of its rows, in order.
    pub fn apply(&self, node: &Arc<Node>, peer: &Peer, entries: Vec<RouteEntry>) {
        for entry in entries {
            match entry {
                RouteEntry::SnapshotBegin => {
                    self.cursors.lock().entry(peer.ix).or_default().snapshot = Some(HashSet::new());
                }
                RouteEntry::SnapshotEnd => self.snapshot_end(node, peer),
                RouteEntry::Bind { full, generation, priority, available, hidden } => {
                    if let Some(named) =
                        self.cursors.lock().entry(peer.ix).or_default().snapshot.as_mut()
                    {
                        named.insert(full.clone());
                    }
                    node.observe(generation);
                    let component = full.local().is_none().then(|| full.clone());
                    let arrived = (available && !hidden && !node.geo.passings.is_empty())
                        .then(|| full.clone());
                    let bare = full.bare();
                    let row = Row::new(full, Place::There(peer.ix), generation);
                    let row = Row { priority, available, hidden, ..row };
                    let me = &node.geo.me;
                    let bound = node.directory.bind(row, |known| match known.there() {
                        Some(ix) => node.geo.nodes.name(ix).is_some_and(|name| *peer.name > *name),
                        None => *peer.name > *me.to_string(),
                    });
                    if let Some(seat) = bound.superseded {
                        node.metrics.conflicts.inc();
                        router::perform::close(&seat, StreamError::conflict());
                    }
                    // One that has lost its place to a newer connection is about to end.
                    if let Some(full) = component.filter(|_| !bound.lost) {
                        components::appeared(node, &full, generation);
                    }
                    if bound.reopen {
                        router::reopen(node, &bare);
                    }
                    for asker in arrived.iter().flat_map(|full| node.geo.passings.arrived(full)) {
                        node.geo.probe_presence(node, &asker, vec![bare.clone()]);
                    }
                }
                RouteEntry::Update { full, generation, priority, available, hidden } => {
                    node.observe(generation);
                    let shows = Shows { priority, available, hidden };
                    let (_, reopen) =
                        node.directory.update_there(peer.ix, &full, generation, shows);
                    if reopen {
                        router::reopen(node, &full.bare());
                    }
                }
                RouteEntry::Unbind { full, generation } => {
                    unbind(node, peer, None, &full, generation);
                }
                RouteEntry::Passed { full, generation, to } => {
                    // Here, its row is known, and what it has.
                    let elsewhere = *to != node.geo.me.to_string();
                    let to = node.geo.nodes.index(&to).filter(|_| elsewhere);
                    if elsewhere {
                        light::passes(node, (peer.ix, to), &full, generation);
                    }
                    unbind(node, peer, to, &full, generation);
                }
            }
        }
    }

    fn snapshot_end(&self, node: &Arc<Node>, peer: &Peer) {
        let named = {
            let mut cursors = self.cursors.lock();
            let cursor = cursors.entry(peer.ix).or_default();
            cursor.complete = true;
            cursor.snapshot.take().unwrap_or_default()
        };
        let road = router::road::Road::new(node);
        let (removed, reopen) = node
            .directory
            .told_all(peer.ix, node.now_ms(), &road, |row| !named.contains(&row.full));
        road.finish();
        light::rows_gone(node, &removed);
        light::ask(node, peer.ix);
        for bare in reopen {
            router::reopen(node, &bare);
        }
    }
}

/// A session of the peer has ended there, and perhaps goes on elsewhere.
fn unbind(node: &Arc<Node>, peer: &Peer, to: Option<NodeIx>, full: &FullJid, generation: Hlc) {
    let (now, road) = (node.now_ms(), router::road::Road::new(node));
    let reopen = match to {
        Some(to) => node.directory.passed_there((peer.ix, to), full, generation, now, &road),
        None => node.directory.unbind_there(peer.ix, full, generation, now, &road),
    };
    road.finish();
    if reopen {
        router::reopen(node, &full.bare());
    }
    light::brought_out(node, std::iter::once((full, generation)));
}
