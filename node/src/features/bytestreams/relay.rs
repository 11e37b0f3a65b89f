//! The sockets of the proxy: connections that wait for their other side and for an activation, and the bytestreams that were activated.
//!
//! Each bound is a key of `[proxy]`: a connection more than `connections_max`, or than `waiting_per_address_max` of one address, is closed at once; one that is not activated within
//! `activate_within` is closed; a bytestream that is silent for `silent_after`, or carried `stream_bytes_max`, is closed; each direction
//! is read no faster than `bytes_per_s_max`. Memory is one buffer a direction.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use xmpp::jid::BareJid;

use super::socks::{self, Handshake, Next};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// One side: its connection.
struct Side {
    stream: TcpStream,
    /// Its place among `connections_max`.
    _place: OwnedSemaphorePermit,
    /// Its place among `waiting_per_address_max`, until it is activated.
    counted: Option<Counted>,
}

/// One of those of an address.
struct Counted {
    relay: Arc<Relay>,
    address: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        less(&mut self.relay.addresses.lock(), &self.address);
    }
}

/// One more of these, if there may be.
fn more<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> bool {
    let count = counts.entry(key).or_default();
    let room = *count < max;
    *count += usize::from(room);
    room
}

/// One less; what has none is forgotten.
fn less<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Why a bytestream is not activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotActivated {
    /// Nobody is connected for it.
    Unknown,
    /// One side is not.
    OneSide,
    /// The account has as many as it may.
    TooMany,
}

/// The connections of one bytestream that is not activated yet.
struct Waiting {
    /// Which one, so that a timer takes no later one of the same name.
    number: u64,
    sides: Vec<Side>,
}

/// The proxy's connections.
pub(super) struct Relay {
    limits: config::Proxy,
    places: Arc<Semaphore>,
    /// By the digest that names it. Never more than there are places.
    waiting: Mutex<HashMap<String, Waiting>>,
    /// Bytestreams by account; an account without any is not in it.
    accounts: Mutex<HashMap<BareJid, usize>>,
    /// Connections that are not activated, by address.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    next: AtomicU64,
}

impl Relay {
    pub(super) fn new(limits: config::Proxy) -> Relay {
        Relay {
            places: Arc::new(Semaphore::new(limits.connections_max)),
            limits,
            waiting: Mutex::default(),
            accounts: Mutex::default(),
            addresses: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Takes connections for ever; drop the future to stop.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    // One that finds no place is dropped, and thereby closed.
                    let Some(side) = self.side(stream, from.ip()) else { continue };
                    let relay = self.clone();
                    tokio::spawn(async move {
                        let _ = timeout(relay.limits.activate_within, relay.greet(side)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "bytestreams: cannot accept; pausing");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn side(self: &Arc<Self>, stream: TcpStream, address: IpAddr) -> Option<Side> {
        let _place = self.places.clone().try_acquire_owned().ok()?;
        let max = self.limits.waiting_per_address_max;
        if !more(&mut self.addresses.lock(), address, max) {
            return None;
        }
        let _ = stream.set_nodelay(true);
        let counted = Some(Counted { relay: self.clone(), address });
        Some(Side { stream, _place, counted })
    }

    /// SOCKS, until it is known which bytestream the connection is for.
    async fn greet(self: &Arc<Self>, mut side: Side) -> io::Result<()> {
        let (mut handshake, mut next) = Handshake::begin();
        let mut bytes = [0; 257];
        loop {
            let count = match next {
                Next::Read(count) => count,
                Next::Say(reply, count) => {
                    side.stream.write_all(&reply).await?;
                    count
                }
                Next::Refuse(reply) => return side.stream.write_all(&reply).await,
                Next::Asked(name) => return self.enter(name, side).await,
            };
            side.stream.read_exact(&mut bytes[..count]).await?;
            next = handshake.handle_bytes(&bytes[..count]);
        }
    }

    async fn enter(self: &Arc<Self>, name: String, side: Side) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let first = match self.put(&name, number, side)? {
            Ok(first) => first,
            Err(mut third) => return third.stream.write_all(&socks::not_allowed()).await,
        };
        if first {
            let relay = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(relay.limits.activate_within).await;
                let mut waiting = relay.waiting.lock();
                if waiting.get(&name).is_some_and(|entry| entry.number == number) {
                    waiting.remove(&name);
                }
            });
        }
        Ok(())
    }

    /// One side more, told so; whether it is the first. Back comes the third.
    fn put(&self, name: &str, number: u64, side: Side) -> io::Result<Result<bool, Side>> {
        let mut waiting = self.waiting.lock();
        let new = || Waiting { number, sides: Vec::with_capacity(2) };
        let entry = waiting.entry(name.to_owned()).or_insert_with(new);
        if entry.sides.len() == 2 {
            // One that has given up makes room for its next try.
            entry.sides.retain(|side| !has_ended(&side.stream));
        }
        if entry.sides.len() == 2 {
            return Ok(Err(side));
        }
        let first = entry.number == number;
        // Told before anybody can ask for its activation. A new connection has room for 47 bytes; one that has not is broken.
        match side.stream.try_write(&socks::granted(name)) {
            Ok(_) => entry.sides.push(side),
            Err(cause) => {
                if first {
                    waiting.remove(name);
                }
                return Err(cause);
            }
        }
        Ok(Ok(first))
    }

    /// Joins the two sides; what they send from now on reaches the other.
    pub(super) fn activate(
        self: &Arc<Self>,
        name: &str,
        account: &BareJid,
    ) -> Result<(), NotActivated> {
        let mut waiting = self.waiting.lock();
        let entry = waiting.get(name).ok_or(NotActivated::Unknown)?;
        if entry.sides.len() < 2 {
            return Err(NotActivated::OneSide);
        }
        let max = self.limits.streams_per_account_max;
        if !more(&mut self.accounts.lock(), account.clone(), max) {
            return Err(NotActivated::TooMany);
        }
        let mut sides = waiting.remove(name).map(|entry| entry.sides).unwrap_or_default();
        drop(waiting);
        sides.iter_mut().for_each(|side| side.counted = None);
        let (relay, account) = (self.clone(), account.clone());
        tokio::spawn(async move {
            if let Ok([one, other]) = <[Side; 2]>::try_from(sides)
                && let Err(cause) = relay.join(one, other).await
            {
                tracing::debug!(%cause, %account, "a bytestream ended");
            }
            less(&mut relay.accounts.lock(), &account);
        });
        Ok(())
    }

    async fn join(&self, mut one: Side, mut other: Side) -> io::Result<()> {
        let stream = Stream {
            limits: &self.limits,
            last: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        };
        let (from_one, to_one) = one.stream.split();
        let (from_other, to_other) = other.stream.split();
        let there = stream.carry(from_one, to_other);
        let back = stream.carry(from_other, to_one);
        futures_util::future::try_join(there, back).await.map(drop)
    }
}

/// Whether the other end will send nothing any more, and has sent nothing that was not read.
fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    matches!(socket2::SockRef::from(stream).peek(&mut byte), Ok(0))
}

/// One bytestream that runs.
struct Stream<'a> {
    limits: &'a config::Proxy,
    /// When something was last carried, in either direction.
    last: Mutex<Instant>,
    /// In both together.
    bytes: AtomicU64,
}

impl Stream<'_> {
    /// One direction, until its end; the other may go on.
    async fn carry(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES.min(self.limits.bytes_per_s_max)];
        let mut not_before = Instant::now();
        loop {
            let count = self.read(&mut from, &mut chunk).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            let before = self.bytes.fetch_add(count as u64, Ordering::Relaxed);
            if before + count as u64 > self.limits.stream_bytes_max as u64 {
                return Err(io::Error::other("more than stream_bytes_max"));
            }
            let wrote = timeout(self.limits.silent_after, to.write_all(&chunk[..count])).await;
            wrote.map_err(|_| io::ErrorKind::TimedOut)??;
            *self.last.lock() = Instant::now();
            let pace = Duration::from_secs_f64(count as f64 / self.limits.bytes_per_s_max as f64);
            not_before = not_before.max(Instant::now()) + pace;
            sleep_until(not_before).await;
        }
    }

    /// The next bytes, unless both directions are silent for too long.
    async fn read(&self, from: &mut ReadHalf<'_>, chunk: &mut [u8]) -> io::Result<usize> {
        loop {
            let deadline = *self.last.lock() + self.limits.silent_after;
            match timeout_at(deadline, from.read(chunk)).await {
                Ok(read) => return read,
                Err(_) if *self.last.lock() + self.limits.silent_after <= Instant::now() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(_) => {}
            }
        }
    }
}
