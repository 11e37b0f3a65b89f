//! One connection, from the hello's end to its own: a reader and a writer. Called by `links`; drives `peer`'s values and calls the
//! [`LinkUser`](super::LinkUser). Knows sockets only as something to read from and write to. Blueprint §6.
//!
//! The reader takes all there is, hands out every whole frame, and acknowledges once. The writer is called at most once for all that was queued,
//! and writes it in one piece. While nothing happens neither holds a buffer.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::frame::{self, Control, Frame, FrameError, Marks};
use super::negotiate::Decision;
use super::peer::{Peer, add};
use super::{FrameKind, Incarnation, LinkTimers, Taken};
use crate::error::LinkError;

/// Room that is made for each read.
const READ_BYTES: usize = 64 * 1024;
/// A batch ends here though there is more to read.
const BATCH_BYTES: usize = 256 * 1024;
/// How long an acknowledgement waits for something to travel with. A write of its own for each read batch would cost as much as the
/// messages themselves at a light load.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// A write buffer that grew past this is given back after the write.
const WRITE_BUFFER_KEPT: usize = 64 * 1024;

/// What the handshake came to.
pub(super) struct Agreed {
    pub(super) incarnation: Incarnation,
    pub(super) decision: Decision,
    /// We dialled.
    pub(super) dialled: bool,
    /// What was read behind the hello.
    pub(super) rest: BytesMut,
}

/// Runs a connection until it ends, and tells why. `closed` ends it from our side. Calls `up` once both sides have agreed, and `down` at last;
/// when it returns, nothing of this connection runs any more. Must not be dropped before it returns.
pub(super) async fn run<S>(
    peer: &Arc<Peer>,
    io: S,
    agreed: Agreed,
    timers: LinkTimers,
    closed: impl Future<Output = ()>,
) -> LinkError
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let clock = Instant::now();
    let mut reader = Reader { peer, read, buffer: agreed.rest, clock, silent: timers.silent };
    let mut closed = pin!(closed);
    let mut first = None;
    if !agreed.dialled {
        let begin = tokio::select! {
            biased;
            begin = timeout(timers.handshake, reader.begin()) => begin.unwrap_or(Err(LinkError::Deadline)),
            () = &mut closed => Err(LinkError::Closed),
        };
        match begin {
            Ok(marks) => first = Some(marks),
            Err(cause) => return cause,
        }
    }
    let lost = match peer.commit(agreed.incarnation, &agreed.decision, agreed.dialled) {
        Ok(lost) => lost,
        Err(refusal) => return refusal.into(),
    };
    if lost.is_empty() {
        peer.settle(&peer.out.lock());
    } else {
        peer.hand_back(lost);
    }
    if let Some(Err(e)) = first.map(|marks| peer.begun(marks)) {
        return e.into();
    }
    let fresh = matches!(agreed.decision, Decision::Fresh { .. });
    add(&peer.counters.connections, 1);
    peer.up.store(true, Ordering::Release);
    tracing::info!(peer = %peer.id, fresh, "link up");
    peer.user.up(&peer.id, agreed.incarnation, fresh);

    let mut writer = JoinSet::new(); // ends its task when dropped, whatever happens here
    writer.spawn(write_loop(peer.clone(), write, clock, timers.ping));
    let reading = AssertUnwindSafe(reader.run(first.is_none())).catch_unwind();
    // In this order, always (drawing lots would make the course of a simulation depend on them): the reader yields whenever it waits, so
    // neither of the others starves.
    let cause = tokio::select! {
        biased;
        cause = reading => cause.unwrap_or_else(|_| io::Error::other("the link's user panicked").into()),
        Some(ended) = writer.join_next() => ended.map_or_else(|e| io::Error::other(e).into(), LinkError::Io),
        () = &mut closed => LinkError::Closed,
    };
    writer.shutdown().await;
    peer.up.store(false, Ordering::Release);
    peer.out.lock().disconnect();
    tracing::info!(peer = %peer.id, %cause, "link down");
    peer.user.down(&peer.id);
    cause
}

struct Reader<'a, S> {
    peer: &'a Arc<Peer>,
    read: ReadHalf<S>,
    buffer: BytesMut,
    clock: Instant,
    silent: Duration,
}

impl<S: AsyncRead + AsyncWrite> Reader<'_, S> {
    /// Reads until the peer's first frame is there.
    async fn begin(&mut self) -> Result<Marks, LinkError> {
        loop {
            if let Some((frame, total)) = frame::decode(&self.buffer)? {
                let Frame::Control(Control::Begin(marks)) = frame else {
                    return Err(FrameError::Begin.into());
                };
                let _ = self.buffer.split_to(total);
                return Ok(marks);
            }
            self.fill().await?;
        }
    }

    /// Reads and hands out frames until the connection ends.
    async fn run(&mut self, await_begin: bool) -> LinkError {
        match self.read_on(await_begin).await {
            Err(cause) => cause,
            Ok(never) => match never {},
        }
    }

    async fn read_on(&mut self, await_begin: bool) -> Result<std::convert::Infallible, LinkError> {
        if await_begin {
            let marks =
                timeout(self.silent, self.begin()).await.unwrap_or(Err(LinkError::Silent))?;
            self.peer.begun(marks)?;
        }
        loop {
            self.hand_out()?;
            timeout(self.silent, self.fill()).await.unwrap_or(Err(LinkError::Silent))?;
        }
    }

    /// Reads all there is, at least one byte. Waits without a buffer when none is in use.
    async fn fill(&mut self) -> Result<(), LinkError> {
        let Self { read, buffer, .. } = self;
        let got = std::future::poll_fn(|cx| {
            let mut got = 0;
            loop {
                if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
                    buffer.reserve(READ_BYTES);
                }
                let step = pin!(read.read_buf(buffer)).poll(cx);
                match step {
                    Poll::Ready(Ok(n)) if n > 0 && got + n < BATCH_BYTES => got += n,
                    Poll::Ready(Ok(n)) if got + n > 0 => return Poll::Ready(Ok(got + n)),
                    Poll::Ready(Ok(_)) => {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Poll::Ready(Err(_)) | Poll::Pending if got > 0 => return Poll::Ready(Ok(got)),
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                    Poll::Pending => {
                        if buffer.is_empty() {
                            *buffer = BytesMut::new();
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await?;
        add(&self.peer.counters.bytes_in, got as u64);
        add(&self.peer.counters.reads, 1);
        Ok(())
    }

    /// Hands out all whole frames of the buffer.
    fn hand_out(&mut self) -> Result<(), FrameError> {
        let mut whole = 0;
        while let Some((_, total)) = frame::decode(&self.buffer[whole..])? {
            whole += total;
        }
        if whole == 0 {
            return Ok(());
        }
        let bytes = self.buffer.split_to(whole).freeze();
        let mut batch = Batch::default();
        let handed = self.each(&bytes, &mut batch);
        add(&self.peer.counters.frames_in, batch.frames);
        if batch.call_writer {
            self.peer.ack_due.notify_one();
        }
        self.peer.user.batch(&self.peer.id);
        handed
    }

    fn each(&self, bytes: &Bytes, batch: &mut Batch) -> Result<(), FrameError> {
        let (peer, user) = (self.peer, &*self.peer.user);
        let mut at = 0;
        while let Some((frame, total)) = frame::decode(&bytes[at..])? {
            let body =
                |range: std::ops::Range<usize>| bytes.slice(at + range.start..at + range.end);
            match frame {
                Frame::Numbered { seq, kind, body: range } => {
                    let received = peer.inbox.lock().receive(seq)?;
                    match received {
                        None => batch.duplicate(peer),
                        Some(ticket) => {
                            batch.frames += 1;
                            if hand_over(peer, ticket, kind, body(range)) == Taken::Now {
                                batch.call_writer |= peer.inbox.lock().take(ticket);
                            }
                        }
                    }
                }
                Frame::Datagram { kind, body: range } => user.datagram(&peer.id, kind, body(range)),
                Frame::Control(Control::Ack(marks)) => peer.acknowledged(marks)?,
                Frame::Control(Control::Ping(number, marks)) => {
                    peer.acknowledged(marks)?;
                    peer.out.lock().pong(number);
                    batch.call_writer = true;
                }
                Frame::Control(Control::Pong(number)) => {
                    let now = self.clock.elapsed().as_micros() as u64;
                    peer.counters
                        .rtt_us
                        .store(now.saturating_sub(number).max(1), Ordering::Relaxed);
                }
                Frame::Control(Control::Begin(_)) => return Err(FrameError::Begin),
            }
            at += total;
        }
        Ok(())
    }
}

/// Hands a frame to the user. Should that panic, it is a bug there; the frame counts as taken, since it would not fare better a second time, and the
/// frames behind it would never be acknowledged.
fn hand_over(peer: &Peer, ticket: u64, kind: FrameKind, body: Bytes) -> Taken {
    catch_unwind(AssertUnwindSafe(|| peer.user.frame(&peer.id, ticket, kind, body))).unwrap_or_else(
        |_| {
            tracing::error!(peer = %peer.id, ticket, ?kind, "taking a frame panicked");
            Taken::Now
        },
    )
}

/// What one read batch has brought.
#[derive(Default)]
struct Batch {
    frames: u64,
    call_writer: bool,
}

impl Batch {
    /// Dropped; but it came because our acknowledgement was lost, so acknowledge again.
    fn duplicate(&mut self, peer: &Peer) {
        add(&peer.counters.duplicates, 1);
        self.call_writer = true;
    }
}

/// Writes whatever is queued, and pings, until writing fails.
async fn write_loop<S: AsyncRead + AsyncWrite>(
    peer: Arc<Peer>,
    mut write: WriteHalf<S>,
    clock: Instant,
    ping: Duration,
) -> io::Error {
    let mut pings = interval(ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut out = Vec::new();
    frame::write_control(&mut out, Control::Begin(peer.out.lock().begin()));
    loop {
        peer.turn_begins();
        let taken = peer.inbox.lock().ack(); // before the turn begins: see there
        let mut turn = peer.out.lock().turn(taken);
        peer.user.before_write(&peer.id, &mut turn.sink);
        let filled = peer.out.lock().fill(&mut out, turn);
        if !out.is_empty() {
            if let Err(e) = write_out(&peer, &mut write, &out).await {
                return e;
            }
            add(&peer.counters.frames_out, filled.frames);
            add(&peer.counters.resent, filled.resent);
            out.clear();
            out.shrink_to(WRITE_BUFFER_KEPT);
        }
        if filled.more {
            continue;
        }
        tokio::select! {
            // The rarest first: a ping once in a while holds nobody up, and every turn brings the acknowledgements that are due.
            biased;
            _ = pings.tick() => peer.out.lock().ping(clock.elapsed().as_micros() as u64),
            () = peer.called() => (),
            // Nobody waits for an acknowledgement alone: it goes with the next thing that is written, or after a moment.
            () = peer.ack_due.notified() => {
                let _ = timeout(ACK_DELAY, peer.called()).await;
            }
        }
        // Whoever calls wakes this task before all that were awake already and may have something to say too: they say it first, and it leaves in one
        // write. Where nobody else is awake, this is a look at the sockets.
        yield_now().await;
    }
}

async fn write_out<S: AsyncRead + AsyncWrite>(
    peer: &Peer,
    write: &mut WriteHalf<S>,
    out: &[u8],
) -> io::Result<()> {
    write.write_all(out).await?;
    write.flush().await?;
    add(&peer.counters.bytes_out, out.len() as u64);
    add(&peer.counters.writes, 1);
    Ok(())
}
