//! What several tests of the link need: a user that writes down what happens, chance from a seed, a connection that breaks where it is told to.

mod connection;
mod network;
mod order;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::*;

const DATA: FrameKind = FrameKind(0x20);
const ROW: FrameKind = FrameKind(0x21);

/// Timers for tests: short where waiting is the test, long where it would be a failure.
fn quick() -> LinkTimers {
    LinkTimers {
        ping: Duration::from_millis(20),
        silent: Duration::from_secs(20),
        handshake: Duration::from_secs(20),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(4),
    }
}

/// xorshift64*: the same seed, the same test.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// All that a user was told.
#[derive(Default)]
struct Seen {
    ups: Vec<(Incarnation, bool)>,
    downs: usize,
    lost: Vec<(u64, FrameKind, Bytes)>,
    /// Ticket, kind, body; both lanes.
    frames: Vec<(u64, FrameKind, Bytes)>,
    datagrams: Vec<Bytes>,
    acked: u64,
    later: Vec<u64>,
    /// What `before_write` puts on the link, from its start whenever the peer is new: a log with a cursor.
    log: Vec<Vec<u8>>,
    cursor: usize,
}

impl Seen {
    fn bodies(&self, kind: FrameKind) -> Vec<u64> {
        self.frames.iter().filter(|(_, k, _)| *k == kind).map(|(.., body)| index(body)).collect()
    }
}

/// The number that a test frame carries first.
fn index(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

struct Recorder {
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
    /// Every so manieth frame is taken later; 0: none.
    later_every: AtomicU64,
    /// The ticket at which it fails; 0: none.
    panics_at: AtomicU64,
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            changed: watch::Sender::new(0),
            later_every: AtomicU64::new(0),
            panics_at: AtomicU64::new(0),
        })
    }

    fn note<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut self.seen.lock());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Waits until it holds, at most so long that a failure is a failure.
    async fn until(&self, what: &str, mut holds: impl FnMut(&Seen) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = changes.wait_for(|_| holds(&self.seen.lock()));
        assert!(tokio::time::timeout(Duration::from_secs(30), wait).await.is_ok(), "never: {what}");
    }
}

impl LinkUser for Recorder {
    fn up(&self, _: &PeerId, incarnation: Incarnation, fresh: bool) {
        self.note(|seen| {
            seen.ups.push((incarnation, fresh));
            if fresh {
                seen.cursor = 0;
            }
        });
    }

    fn down(&self, _: &PeerId) {
        self.note(|seen| seen.downs += 1);
    }

    fn lost(&self, _: &PeerId, unacked: Vec<(u64, FrameKind, Bytes)>) {
        self.note(|seen| seen.lost.extend(unacked));
    }

    fn frame(&self, _: &PeerId, ticket: u64, kind: FrameKind, body: Bytes) -> Taken {
        let every = self.later_every.load(Ordering::Relaxed);
        assert!(ticket != self.panics_at.load(Ordering::Relaxed), "told to fail");
        let later = every > 0 && ticket.is_multiple_of(every);
        self.note(|seen| {
            seen.frames.push((ticket, kind, body));
            if later {
                seen.later.push(ticket);
            }
        });
        if later { Taken::Later } else { Taken::Now }
    }

    fn datagram(&self, _: &PeerId, _: FrameKind, body: Bytes) {
        self.note(|seen| seen.datagrams.push(body));
    }

    fn acked(&self, _: &PeerId, upto: u64) {
        self.note(|seen| {
            assert!(upto > seen.acked, "news only");
            seen.acked = upto;
        });
    }

    fn before_write(&self, _: &PeerId, out: &mut FrameSink) {
        let seen = &mut *self.seen.lock();
        while let Some(row) = seen.log.get(seen.cursor) {
            if out.frame(ROW, &[row]).is_err() {
                return;
            }
            seen.cursor += 1;
        }
    }
}

/// A connection that breaks after so many written bytes, or many writes.
struct Breaking<S> {
    io: S,
    left: u64,
    writes: u32,
}

impl<S> Breaking<S> {
    fn new(io: S, left: u64) -> Self {
        Self { io, left, writes: 20 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Breaking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breaking<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = bytes.len().min(self.left as usize);
        if most == 0 || self.writes == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[..most]))?;
        self.left -= written as u64;
        self.writes -= 1;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
