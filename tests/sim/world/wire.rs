//! A node's end of a connection: what its sessions and links read and write. When its life is over it does nothing any more.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use node::transport::{Buffer, Pipe};
use s2s::link::{Dialer, Io, PeerId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::life::Life;
use super::net::{Attempt, NEVER, Net, Party, Read};

/// Bytes taken at once.
const READ_BYTES: usize = 16 * 1024;

/// See the module.
pub struct Wire {
    net: Net,
    conn: u64,
    side: usize,
    life: Arc<Life>,
    peer: SocketAddr,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// The end of a connection that belongs to this life.
    pub fn new(net: Net, conn: u64, side: usize, life: Arc<Life>, from: Party) -> Self {
        let peer = match from {
            Party::Host(host) => SocketAddr::from(([10, 0, 0, host as u8], 5269)),
            // Each client has an address of its own on this machine, where PLAIN may go without TLS.
            Party::Device(device) => address_of(device),
        };
        Self { net, conn, side, life, peer, sleep: None }
    }

    fn take(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Vec<u8>>> {
        loop {
            match self.net.read(self.conn, self.side, max, self.life.now(), Some(cx.waker())) {
                Read::Data(data) => return Poll::Ready(Ok(data)),
                Read::End => return Poll::Ready(Ok(Vec::new())),
                Read::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Read::Nothing(NEVER) => return Poll::Pending,
                Read::Nothing(at) => {
                    let at = self.life.instant(at);
                    let sleep = match &mut self.sleep {
                        Some(sleep) => {
                            if sleep.deadline() != at {
                                sleep.as_mut().reset(at);
                            }
                            sleep
                        }
                        none => none.insert(Box::pin(tokio::time::sleep_until(at))),
                    };
                    ready!(sleep.as_mut().poll(cx));
                    self.sleep = None;
                }
            }
        }
    }

    fn put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.net.write(self.conn, self.side, bytes, self.life.now(), Some(cx.waker()))? {
            0 => Poll::Pending,
            taken => Poll::Ready(Ok(taken)),
        }
    }
}

/// Where a client is.
pub fn address_of(device: usize) -> SocketAddr {
    let address = Ipv4Addr::new(127, 1, (device / 250) as u8, (device % 250) as u8 + 1);
    SocketAddr::from((address, 40_000))
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let max = into.remaining().min(READ_BYTES);
        let data = ready!(self.take(cx, max))?;
        into.put_slice(&data);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.put(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.finish(self.conn, self.side, self.life.now());
        Poll::Ready(Ok(()))
    }
}

impl Pipe for Wire {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut Buffer) -> Poll<io::Result<usize>> {
        let data = ready!(self.take(cx, READ_BYTES))?;
        into.put(&data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Buffer) -> Poll<io::Result<()>> {
        while !from.is_empty() {
            let count = ready!(self.put(cx, from.filled()))?;
            from.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.finish(self.conn, self.side, self.life.now());
        Poll::Ready(Ok(()))
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }

    fn is_secure(&self) -> bool {
        false
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A process that is killed has no last word: its kernel has, and the harness speaks for that.
        if !self.life.is_over() {
            self.net.leave(self.conn, self.side, self.life.seen());
        }
    }
}

/// How a node dials the others.
pub struct Dials {
    /// The network.
    pub net: Net,
    /// Who dials.
    pub life: Arc<Life>,
    /// Which host has which name.
    pub names: Arc<Vec<PeerId>>,
}

impl Dialer for Dials {
    fn connect(&self, to: &PeerId) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let host = self.names.iter().position(|name| name == to);
        let (net, life) = (self.net.clone(), self.life.clone());
        Box::pin(async move {
            let Some(host) = host else { return Err(io::ErrorKind::NotFound.into()) };
            match net.connect(Party::Host(life.host), host, None, life.now()) {
                Attempt::Made(conn, at) => {
                    let wire = Wire::new(net, conn, 0, life.clone(), Party::Host(host));
                    life.until(at).await;
                    Ok(Box::new(wire) as Box<dyn Io>)
                }
                Attempt::Refused(at) => {
                    life.until(at).await;
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
                Attempt::Silence => std::future::pending().await,
            }
        })
    }
}
