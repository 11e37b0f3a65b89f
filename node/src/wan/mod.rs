//! The WAN emulator: a TCP proxy between any two nodes of different regions, with delay, jitter, bandwidth, cuts.
//!
//! Started by `cli::quickstart`, steered over HTTP (`control`). For each pair one node dials (the one whose name is
//! smaller) and finds in its configuration the port of the proxy instead of the peer's own. `line` says when a byte
//! goes out, `pump` moves it. Deliberately absent: loss and reordering inside a connection, which TCP would hide.

pub mod control;
pub mod line;
mod pump;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use line::{Change, Line, Settings};

/// One direction between two nodes.
pub(crate) struct Direction {
    settings: watch::Sender<Settings>,
    line: Mutex<Line>,
    start: Instant,
    bytes: AtomicU64,
    draws: AtomicU64,
}

impl Direction {
    fn new(settings: Settings) -> Arc<Direction> {
        Arc::new(Direction {
            settings: watch::Sender::new(settings),
            line: Mutex::new(Line::default()),
            start: Instant::now(),
            bytes: AtomicU64::new(0),
            draws: AtomicU64::new(0x9E37_79B9_7F4A_7C15),
        })
    }

    /// Time on this direction's own clock.
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// When bytes that come in now go out.
    fn schedule(&self, settings: Settings, bytes: usize) -> Duration {
        // SplitMix64: good enough to shake a delay.
        let mut draw = self.draws.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let draw = ((draw ^ (draw >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        self.line.lock().schedule(settings, self.now(), bytes, draw)
    }
}

/// Both directions between two nodes, and the proxy that joins them.
struct Pair {
    /// The node that dials, and the one that is dialled.
    nodes: [String; 2],
    /// From the first to the second, and back.
    directions: [Arc<Direction>; 2],
    /// Counts the resets: a connection older than the last ends.
    resets: watch::Sender<u64>,
    connections: AtomicU64,
}

/// By the node that dials and the one that is dialled.
type Pairs = BTreeMap<(String, String), Arc<Pair>>;

/// How one direction is, for people and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The node the bytes come from.
    pub from: String,
    /// The node they go to.
    pub to: String,
    /// How the direction is set.
    #[serde(flatten)]
    pub settings: Settings,
    /// Connections between the two now.
    pub connections: u64,
    /// Bytes taken in this direction so far.
    pub bytes: u64,
}

/// All pairs. Cheap to clone; dropping the last one stops nothing, the proxies end with the runtime.
#[derive(Clone, Default)]
pub struct Wan {
    pairs: Arc<Mutex<Pairs>>,
}

impl Wan {
    /// Joins two nodes: `from` dials the address given back, and reaches `target`, the port of `to`.
    ///
    /// # Errors
    /// No port is to be had on loopback.
    pub async fn join(
        &self,
        from: &str,
        to: &str,
        target: SocketAddr,
        settings: Settings,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let pair = Arc::new(Pair {
            nodes: [from.to_owned(), to.to_owned()],
            directions: [Direction::new(settings), Direction::new(settings)],
            resets: watch::Sender::new(0),
            connections: AtomicU64::new(0),
        });
        self.pairs.lock().insert((from.to_owned(), to.to_owned()), pair.clone());
        tokio::spawn(accept(listener, pair, target));
        Ok(address)
    }

    /// Changes one direction. `from` and `to` are nodes or regions, which stand for all nodes of theirs. Gives back
    /// how it is now; empty when there is no such pair.
    pub fn change(&self, from: &str, to: &str, change: Change) -> Vec<Seen> {
        for (pair, way) in self.between(from, to) {
            pair.directions[way].settings.send_modify(|settings| *settings = settings.with(change));
        }
        self.seen_between(from, to)
    }

    /// Closes every connection between two nodes or regions, now. False when there is no such pair.
    pub fn reset(&self, from: &str, to: &str) -> bool {
        let pairs = self.between(from, to);
        for (pair, _) in &pairs {
            pair.resets.send_modify(|resets| *resets += 1);
        }
        !pairs.is_empty()
    }

    /// Every direction, in order of names.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let pairs: Vec<_> = self.pairs.lock().values().cloned().collect();
        let mut seen: Vec<Seen> =
            pairs.iter().flat_map(|pair| [0, 1].map(|way| pair.seen(way))).collect();
        seen.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        seen
    }

    fn seen_between(&self, from: &str, to: &str) -> Vec<Seen> {
        self.between(from, to).iter().map(|(pair, way)| pair.seen(*way)).collect()
    }

    /// Each pair that joins the two, with the direction from the one to the other.
    fn between(&self, from: &str, to: &str) -> Vec<(Arc<Pair>, usize)> {
        let mut found = Vec::new();
        for pair in self.pairs.lock().values() {
            if is_of(&pair.nodes[0], from) && is_of(&pair.nodes[1], to) {
                found.push((pair.clone(), 0));
            } else if is_of(&pair.nodes[1], from) && is_of(&pair.nodes[0], to) {
                found.push((pair.clone(), 1));
            }
        }
        found
    }
}

/// Whether `node` (`eu-0`) is what `name` says: itself, or its region (`eu`).
fn is_of(node: &str, name: &str) -> bool {
    node == name || node.rsplit_once('-').is_some_and(|(region, _)| region == name)
}

impl Pair {
    fn seen(&self, way: usize) -> Seen {
        let direction = &self.directions[way];
        let settings = *direction.settings.borrow();
        Seen {
            from: self.nodes[way].clone(),
            to: self.nodes[1 - way].clone(),
            settings,
            connections: self.connections.load(Ordering::Relaxed),
            bytes: direction.bytes.load(Ordering::Relaxed),
        }
    }
}

async fn accept(listener: TcpListener, pair: Arc<Pair>, target: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((dialled, _)) => {
                tokio::spawn(carry(dialled, pair.clone(), target));
            }
            Err(cause) => {
                tracing::warn!(%cause, "wan: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, until it ends or is reset.
async fn carry(dialled: TcpStream, pair: Arc<Pair>, target: SocketAddr) {
    let mut resets = pair.resets.subscribe();
    resets.mark_unchanged();
    pair.connections.fetch_add(1, Ordering::Relaxed);
    let [there, back] = &pair.directions;
    tokio::select! {
        _ = resets.changed() => {}
        _ = pump::carry(dialled, target, there, back) => {}
    }
    pair.connections.fetch_sub(1, Ordering::Relaxed);
}
