//! Moves the bytes of one connection through its two directions.
//!
//! Called by `wan::carry`, which drops it to close the connection. A clear direction is a plain copy with one buffer;
//! any other reads, schedules and writes what is due. A cut direction goes on reading until it holds
//! `line::FLOW_BYTES_MAX`, and notices nothing of the end of either side until it is whole again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::Direction;
use super::line::{Flow, Settings};

/// Bytes taken before the other side is dialled, while a direction is cut.
const EARLY_BYTES_MAX: usize = 64 << 10;

/// Carries a connection that was just accepted to `target`, until it has ended in both directions.
pub(super) async fn carry(
    mut dialled: TcpStream,
    target: SocketAddr,
    there: &Arc<Direction>,
    back: &Arc<Direction>,
) -> io::Result<()> {
    dialled.set_nodelay(true)?;
    let Some(early) = until_whole(&mut dialled, there, back).await? else { return Ok(()) };
    let reached = TcpStream::connect(target).await?;
    reached.set_nodelay(true)?;
    let (dialled_read, dialled_write) = dialled.into_split();
    let (reached_read, reached_write) = reached.into_split();
    let onward = pump(dialled_read, reached_write, there, early);
    let backward = pump(reached_read, dialled_write, back, Vec::new());
    tokio::pin!(onward, backward);
    let (first, onward_first) = tokio::select! {
        ended = &mut onward => (ended, true),
        ended = &mut backward => (ended, false),
    };
    let both = match first {
        Ok(()) if onward_first => backward.await,
        Ok(()) => onward.await,
        Err(cause) => Err(cause),
    };
    if both.is_err() {
        // One side is gone. While a direction is cut the other must not hear of it.
        wait_until_whole(there, back).await;
    }
    both
}

async fn wait_until_whole(there: &Direction, back: &Direction) {
    for direction in [there, back, there] {
        let mut settings = direction.settings.subscribe();
        let _ = settings.wait_for(|settings| !settings.cut).await;
    }
}

/// Waits while a direction is cut: a connection is not made then. What came in meanwhile; none if it ended, so that
/// the other side never hears of it.
async fn until_whole(
    dialled: &mut TcpStream,
    there: &Direction,
    back: &Direction,
) -> io::Result<Option<Vec<u8>>> {
    let mut settings = [there.settings.subscribe(), back.settings.subscribe()];
    let mut early = Vec::new();
    let mut buffer = vec![0; 4096];
    let [a, b] = &mut settings;
    while a.borrow_and_update().cut || b.borrow_and_update().cut {
        tokio::select! {
            _ = a.changed() => {}
            _ = b.changed() => {}
            read = dialled.read(&mut buffer), if early.len() < EARLY_BYTES_MAX => {
                match read? {
                    0 => return Ok(None),
                    n => early.extend_from_slice(&buffer[..n]),
                }
            }
        }
    }
    Ok(Some(early))
}

/// One direction of one connection. `early` came in before.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: &Direction,
    early: Vec<u8>,
) -> io::Result<()> {
    let mut changes = direction.settings.subscribe();
    let mut settings = *changes.borrow();
    let mut flow = Flow::default();
    let mut buffer = vec![0; super::line::CHUNK_BYTES_MAX];
    let mut ended = false;
    if !early.is_empty() {
        direction.bytes.fetch_add(early.len() as u64, Ordering::Relaxed);
        flow.push(direction.schedule(settings, early.len()), early);
    }
    loop {
        settings = *changes.borrow_and_update();
        if settings.is_clear() && flow.is_empty() && !ended {
            ended = copy(&mut from, &mut to, direction, &mut changes, &mut buffer).await?;
            if ended {
                return to.shutdown().await;
            }
            continue;
        }
        if !settings.cut {
            while let Some(bytes) = flow.pop(direction.now()) {
                if bytes.is_empty() {
                    return to.shutdown().await;
                }
                to.write_all(&bytes).await?;
            }
        }
        let due = flow.next_due().filter(|_| !settings.cut);
        tokio::select! {
            _ = changes.changed() => {}
            () = at(direction, due) => {}
            read = from.read(&mut buffer[..settings.chunk()]), if !ended && flow.has_room() => {
                // A reset is held back like an end: what was sent before it is still on the way.
                let n = read.unwrap_or(0);
                ended = n == 0;
                direction.bytes.fetch_add(n as u64, Ordering::Relaxed);
                flow.push(direction.schedule(settings, n), buffer[..n].to_vec());
            }
        }
    }
}

/// Copies until the settings change (false) or the stream ends (true).
async fn copy(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    direction: &Direction,
    changes: &mut watch::Receiver<Settings>,
    buffer: &mut [u8],
) -> io::Result<bool> {
    loop {
        let n = tokio::select! {
            biased;
            read = from.read(buffer) => read?,
            _ = changes.changed() => return Ok(false),
        };
        if n == 0 {
            return Ok(true);
        }
        direction.bytes.fetch_add(n as u64, Ordering::Relaxed);
        to.write_all(&buffer[..n]).await?;
        // A stream that never pauses would hide a change from the select above.
        if changes.has_changed().unwrap_or(false) {
            return Ok(false);
        }
    }
}

/// Waits for `due`, or for ever.
async fn at(direction: &Direction, due: Option<std::time::Duration>) {
    match due {
        Some(due) => tokio::time::sleep(due.saturating_sub(direction.now())).await,
        None => std::future::pending().await,
    }
}
