//! Room `s2s`: one port, two kinds of callers. Nodes of ours open a stream to a *node* (`to='eu-0'`), other servers one to a *domain*; and who begins with TLS
//! (XEP-0368) is always one of them. Only as much is read as tells them apart, and whoever takes the connection reads it again.
//!
//! Called by `node::app`, for each connection, in a task of its own. Bounds: a stream header of [`Limits::PRE_AUTH`], the caller's deadline, and so many at a time from
//! one address ([`Front`]).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use xmpp::xml::framer::{Framer, Limits, Scan};

const READ_BYTES: usize = 1024;
/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Another node of ours.
    Node,
    /// Another server. `tls_first`: it begins with TLS.
    Server {
        /// See the variant.
        tls_first: bool,
    },
}

/// A connection of which something has been read already.
#[derive(Debug)]
pub struct Peeked<S> {
    io: S,
    read: BytesMut,
}

/// Reads until it is clear who calls a node of that name. What is wrong with a header is for the server's side to say.
///
/// # Errors
/// The connection's, an end before anything was clear among them.
pub async fn sort<S>(mut io: S, me: &str) -> io::Result<(Caller, Peeked<S>)>
where
    S: AsyncRead + Unpin,
{
    let mut read = BytesMut::new();
    let caller = loop {
        read.reserve(READ_BYTES);
        if io.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(caller) = who(&read, me) {
            break caller;
        }
    };
    Ok((caller, Peeked { io, read }))
}

fn who(read: &[u8], me: &str) -> Option<Caller> {
    if read.first() == Some(&TLS_HANDSHAKE) {
        return Some(Caller::Server { tls_first: true });
    }
    let mut at = 0;
    let mut framer = Framer::stream(Limits::PRE_AUTH);
    loop {
        match framer.scan(&read[at..]) {
            Ok(Scan::More) => return None,
            Ok(Scan::Space(taken)) => at += taken,
            Ok(Scan::Open(_, header)) if header.to.as_deref() == Some(me) => {
                return Some(Caller::Node);
            }
            _ => return Some(Caller::Server { tls_first: false }),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Peeked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, into);
        }
        let count = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..count]);
        self.read.advance(count);
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Peeked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Who is counted as one source: an IPv4 address (also when written as IPv6), or an IPv6 /64, which is what one customer has.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

/// Who is being sorted, by source.
#[derive(Debug)]
pub struct Front {
    max: usize,
    by: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place at the front; given up when it is dropped.
#[derive(Debug)]
pub struct Place {
    of: IpAddr,
    by: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Front {
    /// With so many places for each source ([`source_of`]).
    pub fn new(max: usize) -> Self {
        Self { max, by: Arc::default() }
    }

    /// `None`: there are too many from there.
    pub fn enter(&self, of: IpAddr) -> Option<Place> {
        let of = source_of(of);
        let mut by = self.by.lock();
        let count = by.entry(of).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { of, by: self.by.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by = self.by.lock();
        if let Some(count) = by.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                by.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
                          xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='";

    async fn sorted(pieces: &[&[u8]]) -> (Option<Caller>, Vec<u8>) {
        let (mut theirs, ours) = tokio::io::duplex(4096);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writing = tokio::spawn(async move {
            for piece in pieces {
                theirs.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let sorted = sort(ours, "eu-0").await;
        writing.await.unwrap();
        let Ok((caller, mut peeked)) = sorted else { return (None, Vec::new()) };
        let mut all = Vec::new();
        peeked.read_to_end(&mut all).await.unwrap();
        (Some(caller), all)
    }

    #[tokio::test]
    async fn who_calls_a_node_is_a_node_and_everything_can_be_read_again() {
        let server = Some(Caller::Server { tls_first: false });
        for (to, caller) in
            [("eu-0", Some(Caller::Node)), ("chat.example", server), ("eu-1", server)]
        {
            let whole = format!("{HEADER}{to}'><starttls/>");
            let (one, two) = whole.as_bytes().split_at(40);
            assert_eq!(sorted(&[one, two]).await, (caller, whole.clone().into_bytes()), "{to}");
        }
        let hello = [22, 3, 1, 0, 5, 1];
        let tls = Some(Caller::Server { tls_first: true });
        assert_eq!(sorted(&[&hello]).await, (tls, hello.to_vec()));
    }

    #[tokio::test]
    async fn nonsense_is_for_the_side_that_answers_it() {
        let (caller, all) = sorted(&[b"GET / HTTP/1.1\r\n"]).await;
        assert_eq!(caller, Some(Caller::Server { tls_first: false }));
        assert_eq!(all, b"GET / HTTP/1.1\r\n");
        assert_eq!(sorted(&[b"<?xml version='1.0'?>"]).await.0, None);
    }

    #[test]
    fn an_ipv6_customer_is_one_source_and_a_mapped_address_is_its_ipv4() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(source_of(ip("2001:db8:1:2:aaaa::1")), source_of(ip("2001:db8:1:2:bbbb::9")));
        assert_ne!(source_of(ip("2001:db8:1:2::1")), source_of(ip("2001:db8:1:3::1")));
        assert_eq!(source_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }

    #[test]
    fn an_address_has_so_many_places() {
        let front = Front::new(2);
        let address = IpAddr::from([192, 0, 2, 1]);
        let (one, two) = (front.enter(address), front.enter(address));
        assert!(one.is_some() && two.is_some() && front.enter(address).is_none());
        assert!(front.enter(IpAddr::from([192, 0, 2, 2])).is_some());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert!(front.enter(mapped).is_none());
        // An IPv6 /64 is one.
        let six = |text: &str| front.enter(text.parse().expect("an address"));
        let places = (six("2001:db8:0:1::1"), six("2001:db8:0:1:ffff::2"));
        assert!(six("2001:db8:0:1::3").is_none() && six("2001:db8:0:2::3").is_some());
        drop(places);
        drop(one);
        assert!(front.enter(address).is_some());
        drop(two);
        assert!(front.by.lock().is_empty(), "nothing is kept of who has gone");
    }
}
