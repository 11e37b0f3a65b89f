//! The link: one ordered, reliable, exactly-once stream of opaque frames between two of our nodes, which survives its connections.
//! Called by `node::app` through [`Links`]; calls a [`LinkUser`]. Blueprint §6. It knows nothing of stanzas, rows or Raft.
//!
//! * `frame` bytes of one frame · `ack` a lane's two ends · `lanes` what the writer puts on the wire, in which order
//! * `negotiate` the hello: who, which incarnation, resume or anew · `handshake` the XML stream that leads there
//! * `peer` all that outlives a connection · `driver` one connection · `links` dialling, accepting, replacing · `claim` which is the newest ·
//!   `road` what connections are made of
//!
//! **Exactly once.** A frame has a number, and is kept until the peer acknowledges it. After a cut each side tells the number of the last frame it
//! received; the other goes on behind it. This holds while both incarnations (process lives) stay the same. When the peer comes back as another,
//! the unacknowledged frames are handed back by [`LinkUser::lost`].
//!
//! **Two lanes.** What [`LinkUser::before_write`] puts on the link (the route log's tail) goes before everything that was queued until then,
//! and is numbered for itself: on the wire and after a cut it stays ahead of what depends on it.
//!
//! **An acknowledgement never overtakes what was queued before it was earned.** When a node learns, by [`LinkUser::acked`] or [`Link::acked`], that the
//! peer has taken frame `n` of the main lane, it has been handed every frame of both lanes that the peer queued before it took `n`: what it sent
//! back while it handled `n`, and what it put into the route log. The front lane's acknowledgements promise nothing and wait for nothing.

mod ack;
mod claim;
mod driver;
mod frame;
mod handshake;
mod lanes;
mod links;
mod negotiate;
mod peer;
mod road;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use frame::{BODY_BYTES_MAX, FRONT, FrameError, HEADER_BYTES};
pub use lanes::FrameSink;
pub use links::{LinkConfig, Links, PeerConfig, random};
pub use peer::Link;
pub use road::{Dialer, Io, Road};

/// A node's name: `eu-0`. The lesser of two names dials.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId {
    /// The region's name.
    pub region: Arc<str>,
    /// The node's number within its region, from 0.
    pub node: u16,
}

impl PeerId {
    /// A name from its two parts.
    pub fn new(region: impl Into<Arc<str>>, node: u16) -> Self {
        Self { region: region.into(), node }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.region, self.node)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One life of a node's process. Not 0, and never the same twice for one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// What a frame is, to the user. Kinds from 0x10 on are the user's, those below are the link's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameKind(pub u8);

/// What the user says of a frame it was handed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Responsibility is taken: acknowledge it.
    Now,
    /// [`Link::taken`] will be called with the frame's ticket. Nothing from this frame on is acknowledged before.
    Later,
}

/// Why a frame was not queued. Nothing of it is left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkFull {
    /// The bound on queued and unacknowledged bytes is reached. [`LinkUser::acked`] tells when to try again.
    #[error("too much is unacknowledged")]
    Bytes,
    /// The body is longer than [`BODY_BYTES_MAX`].
    #[error("a frame's body is too long")]
    Body,
    /// The peer was forgotten.
    #[error("the peer was forgotten")]
    Forgotten,
}

/// Whoever sends and receives frames: implemented by the node, called by the link's tasks. No call may block.
///
/// For one peer, calls come one after the other in this order: (`lost`)? `up` (`frame` | `datagram` | `batch` | `acked` | `before_write`)* `down`,
/// where `before_write` comes from the writer's task and may run beside the reader's calls, which keep
/// the order of the wire. No lock is held: all of [`Link`] may be used inside.
pub trait LinkUser: Send + Sync + 'static {
    /// A connection is up. `fresh`: the peer has nothing of what was sent to it before by this node's present life, or is a new incarnation itself
    /// (it begins with an empty table; so does whatever we keep about it). Frames queued before the first connection were kept and follow.
    fn up(&self, peer: &PeerId, incarnation: Incarnation, fresh: bool);

    /// The connection is lost. Frames wait.
    fn down(&self, peer: &PeerId);

    /// The peer came back as another incarnation, or was forgotten: these frames, in order, were never acknowledged and will not be sent.
    /// The former incarnation may or may not have handled them. [`Link::acked`] counts them as settled only when this has returned.
    /// May be empty when the peer was forgotten. Frames of the front lane are not reported: `up(fresh)` starts them anew.
    fn lost(&self, peer: &PeerId, unacked: Vec<(u64, FrameKind, Bytes)>);

    /// A frame, in order, exactly once. `ticket` is for [`Link::taken`]; it grows by one a frame within a lane, never repeats while this node lives,
    /// and is not the sender's number. It has [`FRONT`] set if the frame was sent by `before_write`.
    /// `body` is a slice of the read buffer: who keeps a small one for long should copy it.
    fn frame(&self, peer: &PeerId, ticket: u64, kind: FrameKind, body: Bytes) -> Taken;

    /// An unnumbered frame: may be lost, never comes twice, has no place in the order of the others.
    fn datagram(&self, peer: &PeerId, kind: FrameKind, body: Bytes) {
        let _ = (peer, kind, body);
    }

    /// A batch of frames has been handed over; nothing more to read just now.
    fn batch(&self, peer: &PeerId) {
        let _ = peer;
    }

    /// The peer has taken responsibility for all our frames up to this number (main lane). Called in order with `frame`: all that the peer queued
    /// before it took them has been handed over, and nothing that came behind this acknowledgement has. [`Link::acked`] says so already.
    fn acked(&self, peer: &PeerId, upto: u64) {
        let _ = (peer, upto);
    }

    /// The writer is about to write what was queued until now. What is put into `out` goes first.
    fn before_write(&self, peer: &PeerId, out: &mut FrameSink) {
        let _ = (peer, out);
    }
}

/// Counters of one link since its peer is known. Frames are numbered frames; bytes are those inside TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStats {
    /// Numbered frames written, resent ones included.
    pub frames_out: u64,
    /// Bytes written, all kinds.
    pub bytes_out: u64,
    /// Numbered frames handed to the user.
    pub frames_in: u64,
    /// Bytes read, all kinds.
    pub bytes_in: u64,
    /// Writes: each carries all that was queued when it began.
    pub writes: u64,
    /// Read batches.
    pub reads: u64,
    /// Frames written again after a cut.
    pub resent: u64,
    /// Frames that came again and were dropped.
    pub duplicates: u64,
    /// Datagrams dropped because the link was down or their queue full.
    pub datagrams_dropped: u64,
    /// Connections that came up.
    pub connections: u64,
    /// Frames queued or sent and not acknowledged, both lanes.
    pub unacked_frames: u64,
    /// Bytes kept for them.
    pub unacked_bytes: u64,
    /// Time of the last ping and its answer, while up.
    pub rtt: Option<Duration>,
}

/// Times of a link. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkTimers {
    /// Between pings.
    pub ping: Duration,
    /// Without a byte from the peer, the connection is dropped.
    pub silent: Duration,
    /// For a whole handshake, connecting included.
    pub handshake: Duration,
    /// Before the second attempt to connect; doubled for each further one.
    pub retry_min: Duration,
    /// The longest pause between attempts.
    pub retry_max: Duration,
}

impl Default for LinkTimers {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(1),
            silent: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// Bounds of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkLimits {
    /// Bytes queued and unacknowledged in a lane, for one peer. Reached: [`LinkFull::Bytes`].
    pub unacked_bytes: usize,
    /// Bytes of datagrams waiting for the writer. Reached: datagrams are dropped.
    pub datagram_bytes: usize,
    /// Handshakes of inbound connections at the same time. Reached: new connections are closed.
    pub handshakes: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self { unacked_bytes: 64 * 1024 * 1024, datagram_bytes: 8 * 1024 * 1024, handshakes: 64 }
    }
}

#[cfg(test)]
mod tests;
