//! A way to a server of one's own that can be made slow: what the server says arrives later, whole and in order. Called by the `redis` tests.

use crate::client::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Pieces of a connection that wait to arrive; more are left with the server.
const WAITING_MAX: usize = 1024;
/// Bytes of a piece.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// See the room. Dropped, it and its connections end.
pub struct Way {
    port: u16,
    late: watch::Sender<Duration>,
    arrived_late: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Way {
    /// To that port of loopback, and not slow yet.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn to(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let (late, by) = watch::channel(Duration::ZERO);
        let arrived_late = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, server, by, arrived_late.clone()));
        Ok(Self { port, late, arrived_late, task })
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server says from now on arrives so much later.
    pub fn late(&self, by: Duration) {
        self.late.send_replace(by);
    }

    /// Pieces that have arrived late.
    pub fn arrived_late(&self) -> u64 {
        self.arrived_late.load(Ordering::Acquire)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    server: u16,
    late: watch::Receiver<Duration>,
    count: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(carry(client, server, late.clone(), count.clone()));
    }
}

async fn carry(
    client: TcpStream,
    server: u16,
    late: watch::Receiver<Duration>,
    count: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((mut asks, answered), (answers, mut asked)) = (client.into_split(), server.into_split());
    let (tell, told) = mpsc::channel(WAITING_MAX);
    // What the server has said before it ends arrives all the same.
    let back = async { tokio::join!(listen(answers, late, tell), arrive(answered, told, count)) };
    tokio::select! {
        _ = tokio::io::copy(&mut asks, &mut asked) => {}
        _ = back => {}
    }
}

/// Reads what the server says, and when that is to arrive; whether that is later than it need be.
async fn listen(
    mut answers: OwnedReadHalf,
    late: watch::Receiver<Duration>,
    tell: mpsc::Sender<(Instant, bool, Vec<u8>)>,
) {
    let mut piece = vec![0; PIECE_BYTES_MAX];
    while let Ok(bytes @ 1..) = answers.read(&mut piece).await {
        let by = *late.borrow();
        let due = Instant::now() + by;
        if tell.send((due, !by.is_zero(), piece[..bytes].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn arrive(
    mut answered: OwnedWriteHalf,
    mut told: mpsc::Receiver<(Instant, bool, Vec<u8>)>,
    count: Arc<AtomicU64>,
) {
    while let Some((due, is_late, piece)) = told.recv().await {
        sleep_until(due).await;
        if answered.write_all(&piece).await.is_err() {
            return;
        }
        count.fetch_add(u64::from(is_late), Ordering::AcqRel);
    }
}
