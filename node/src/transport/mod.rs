//! Transport: bytes in, bytes out, and the end of TLS. Knows no XML.
//!
//! Called by the session task, which owns one [`Transport`] and waits in one `poll_fn` for {readable, mailbox, timer}. Calls
//! [`tls`] (STARTTLS, RFC 6120 §5; direct TLS, XEP-0368) and tokio. [`tcp`] is where connections come from.
//!
//! Two rules shape it. *Nothing is held while nothing happens:* `poll_read` waits for readiness first and takes a buffer
//! then. *Nothing is lost when a wait is abandoned:* every wait is a `poll_*` over state that lives in the `Transport` or in the
//! caller's [`Buffer`], and the `async` forms are only those, wrapped. So each of them may be dropped at any await and called again.
//!
//! A session looks like this; `Poll::Pending` from all of them is the only way to sleep:
//! ```text
//! poll_fn(|cx| {
//!     if !output.is_empty() { if let Poll::Ready(done) = transport.poll_write(cx, &mut output) { … } }   // remainder only
//!     else if let Poll::Ready(count) = mailbox.poll_drain(cx, &mut items) { return Poll::Ready(Event::Mail) }
//!     transport.poll_read(cx, &mut input).map(Event::Read)
//! }).await
//! ```
//!
//! Deliberately absent: WebSocket and BOSH framing (they implement [`Pipe`]), deadlines except those of the handshake and of
//! closing (the session owns time), the unbuffered rustls interface (it would save an idle TLS session about 4 KiB, but in 0.23 it
//! cannot export keying material, which channel binding needs).

pub mod buffer;
pub mod tcp;
pub mod tls;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

pub use buffer::Buffer;
pub use tls::{TlsAcceptor, TlsError, TlsInfo};

/// How long [`Transport::close`] may take altogether. When it is over the connection is reset.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(3);
/// What is read and thrown away while waiting for the peer's end of stream; a peer that goes on sending is cut off after that.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// A byte stream that is not a socket of ours: a WebSocket, a BOSH session, a pair in memory. Same contracts as the methods of
/// the same names on [`Transport`].
pub trait Pipe: Send + Sync + 'static {
    /// See [`Transport::poll_read`].
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut Buffer) -> Poll<io::Result<usize>>;
    /// See [`Transport::poll_write`].
    fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Buffer) -> Poll<io::Result<()>>;
    /// Says the end of our side and waits until that has left.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Where the peer is.
    fn peer_addr(&self) -> io::Result<SocketAddr>;
    /// Whether the road is encrypted (`wss`), so that PLAIN may be offered.
    fn is_secure(&self) -> bool;
}

/// One client's connection. At most 64 bytes; what TLS needs is on the heap.
pub struct Transport(Road);

enum Road {
    Plain(TcpStream),
    Tls(Box<tls::TlsStream>),
    Other(Box<dyn Pipe>),
}

impl Transport {
    /// A connection without TLS, as accepted.
    pub fn plain(stream: TcpStream) -> Self {
        Self(Road::Plain(stream))
    }

    /// Anything else that moves bytes.
    pub fn other(pipe: Box<dyn Pipe>) -> Self {
        Self(Road::Other(pipe))
    }

    /// Waits, holding no buffer, until a read may bring something. It may also bring nothing (`Pending` again): a TLS
    /// record that carries no data, for one.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Road::Plain(stream) => stream.poll_read_ready(cx),
            Road::Tls(stream) => stream.poll_readable(cx),
            // Pipes have their own buffers: reading into nothing costs nothing, so they are asked at once.
            Road::Other(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads once what is there and appends it to `into`: the number of bytes, or 0 when the peer has ended its side
    /// (a TLS stream cut without close_notify counts as ended: XMPP has an end of its own). While it is `Pending` an
    /// empty `into` owns no memory, and nothing that arrived is lost.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` when TLS was violated (the alert is sent); `OutOfMemory` when `into` is full.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Buffer,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Road::Plain(stream) => {
                ready!(stream.poll_read_ready(cx))?;
                if !into.make_room() {
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                }
                // `poll_read` rather than `try_read`: it notes a short read, and saves the system call that would say EAGAIN.
                let read = pin!(stream.read_buf(into.writer())).poll(cx);
                into.release_if_empty();
                read
            }
            Road::Tls(stream) => stream.poll_read(cx, into),
            Road::Other(pipe) => pipe.poll_read(cx, into),
        }
    }

    /// Writes from the front of `from`, at once if the socket takes it, and drops what was taken. `Ready` when all of it, and
    /// all that TLS had still to send, is with the kernel; `Pending` leaves the remainder in `from` and wakes when there
    /// is room. More may be appended to `from` between two calls. Call it also with nothing to write after a `Pending`.
    ///
    /// # Errors
    /// Those of the socket. Afterwards the connection is of no use.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Buffer) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Road::Plain(stream) => {
                while !from.is_empty() {
                    match ready!(Pin::new(&mut *stream).poll_write(cx, from.filled()))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        count => from.consume(count),
                    }
                }
                from.release_if_empty();
                Poll::Ready(Ok(()))
            }
            Road::Tls(stream) => stream.poll_write(cx, from),
            Road::Other(pipe) => pipe.poll_write(cx, from),
        }
    }

    /// [`poll_read`](Self::poll_read) without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else as there. It forgets who waited: poll again before sleeping.
    pub fn try_read(&mut self, into: &mut Buffer) -> io::Result<usize> {
        match self.poll_read(&mut Context::from_waker(Waker::noop()), into) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// [`poll_write`](Self::poll_write) without waiting: whether all has gone. If not, poll before sleeping.
    ///
    /// # Errors
    /// As there.
    pub fn try_write(&mut self, from: &mut Buffer) -> io::Result<bool> {
        match self.poll_write(&mut Context::from_waker(Waker::noop()), from) {
            Poll::Ready(written) => written.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// [`poll_readable`](Self::poll_readable) as a future. Cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// [`poll_read`](Self::poll_read) as a future. Cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn read(&mut self, into: &mut Buffer) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, into)).await
    }

    /// [`poll_write`](Self::poll_write) as a future. Cancel safe: `from` says what is left.
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, from: &mut Buffer) -> io::Result<()> {
        poll_fn(|cx| self.poll_write(cx, from)).await
    }

    /// What is asked for by `<starttls/>`: writes `output`, which ends with `<proceed/>`, and makes the TLS handshake. `None`: the connection is closed, for that
    /// failed, or for there is `input` already that came behind `<starttls/>`. Who sent it was impatient, or it was injected: it was not protected (RFC 6120 §5.4.3.3).
    ///
    /// Not cancel safe: dropped half way, the connection is closed.
    pub async fn secured(
        mut self,
        acceptor: &TlsAcceptor,
        input: &Buffer,
        output: &mut Buffer,
    ) -> Option<Self> {
        if !input.is_empty() {
            return None;
        }
        self.write(output).await.ok()?;
        self.start_tls(acceptor).await.ok()
    }

    /// Ends the plain part and makes the TLS handshake (STARTTLS, after `<proceed/>` has been written). The caller must have thrown
    /// away whatever it had read beyond `<starttls/>` (or better, refused it, as [`secured`](Self::secured) does): those bytes were not protected.
    ///
    /// Not cancel safe: dropped half way, the connection is closed.
    ///
    /// # Errors
    /// [`TlsError`]; the connection is closed, after the alert where there is one. A transport that is not plain is refused.
    pub async fn start_tls(self, acceptor: &TlsAcceptor) -> Result<Self, TlsError> {
        self.handshake(acceptor, tls::Start::StartTls).await
    }

    /// The same for direct TLS, where the handshake comes first (XEP-0368): ALPN `xmpp-client` or none.
    ///
    /// # Errors
    /// As for [`start_tls`](Self::start_tls).
    pub async fn direct_tls(self, acceptor: &TlsAcceptor) -> Result<Self, TlsError> {
        self.handshake(acceptor, tls::Start::Direct).await
    }

    async fn handshake(self, acceptor: &TlsAcceptor, start: tls::Start) -> Result<Self, TlsError> {
        match self.0 {
            // Boxed: the handshake is a big future, and whoever awaits it is a small one that lives for days.
            Road::Plain(stream) => {
                let stream = Box::pin(tls::accept(stream, acceptor, start)).await?;
                Ok(Self(Road::Tls(stream)))
            }
            Road::Tls(_) | Road::Other(_) => Err(TlsError::NotPlain),
        }
    }

    /// Where the peer is. Asks the kernel: keep it if it is needed after the end.
    ///
    /// # Errors
    /// Those of the socket; `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Road::Plain(stream) => stream.peer_addr(),
            Road::Tls(stream) => stream.peer_addr(),
            Road::Other(pipe) => pipe.peer_addr(),
        }
    }

    /// Whether nobody on the way can read along.
    pub fn is_secure(&self) -> bool {
        match &self.0 {
            Road::Plain(_) => false,
            Road::Tls(_) => true,
            Road::Other(pipe) => pipe.is_secure(),
        }
    }

    /// What the handshake settled; nothing without TLS of ours.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        match &self.0 {
            Road::Tls(stream) => Some(stream.info()),
            Road::Plain(_) | Road::Other(_) => None,
        }
    }

    /// Writes what is in `last`, ends our side (close_notify, FIN), waits for the peer's end and drops the connection, all within
    /// [`CLOSE_DEADLINE`]. Waiting matters: closing a socket with unread bytes resets it, and the peer may never see why.
    pub async fn close(self, mut last: Buffer) {
        let mut transport = self;
        let _ =
            tokio::time::timeout(CLOSE_DEADLINE, Box::pin(transport.say_goodbye(&mut last))).await;
    }

    async fn say_goodbye(&mut self, last: &mut Buffer) -> io::Result<()> {
        self.write(last).await?;
        poll_fn(|cx| self.poll_shutdown(cx)).await?;
        let mut thrown_away = 0;
        let mut bin = Buffer::new();
        while thrown_away < LINGER_BYTES_MAX {
            match self.read(&mut bin).await? {
                0 => break,
                count => thrown_away += count,
            }
            bin.clear();
        }
        Ok(())
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Road::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Road::Tls(stream) => stream.poll_shutdown(cx),
            Road::Other(pipe) => pipe.poll_close(cx),
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Road::Plain(_) => "Transport(plain)",
            Road::Tls(_) => "Transport(TLS)",
            Road::Other(_) => "Transport(other)",
        })
    }
}

#[cfg(test)]
mod tests;
