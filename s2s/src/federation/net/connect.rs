//! Room `s2s::federation::net`: one TCP connection to the first server of a domain that takes one (RFC 8305, "happy eyeballs"). Called by
//! `net`. Which address is tried when is a value, [`Plan`]; the driver has the sockets.
//!
//! IPv6 and IPv4 take turns within each server; the next attempt begins when one has failed, or 250 ms after the last began, whichever is
//! first. Whoever connects first wins, and the others are let go.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use xmpp::stanza::error::Condition;

use super::dns::Own;
use super::targets::Target;

/// RFC 8305 §5, Connection Attempt Delay.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried for one connection. Beyond: the rest is left out.
pub const ATTEMPTS_MAX: usize = 64;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Every address refused, and how.
    #[error("no server takes connections: {}", list(.0))]
    Refused(Vec<(SocketAddr, String)>),
    /// Time was over; those that had refused until then.
    #[error("no server answers in time{}{}", if .0.is_empty() { "" } else { "; " }, list(.0))]
    Deadline(Vec<(SocketAddr, String)>),
    /// It leads to ourselves.
    #[error("the connection comes back to this server")]
    Ourselves,
}

fn list(refused: &[(SocketAddr, String)]) -> String {
    let words: Vec<String> = refused.iter().map(|(at, why)| format!("{at}: {why}")).collect();
    words.join(", ")
}

impl ConnectError {
    /// What the sender of a stanza is told.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self {
            ConnectError::Ourselves => Condition::RemoteServerNotFound,
            _ => Condition::RemoteServerTimeout,
        }
    }
}

/// Which addresses are tried, in order: the place of the target, and the address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan(pub(super) Vec<(usize, SocketAddr)>);

impl Plan {
    pub(super) fn new(targets: &[Target]) -> Self {
        let mut all: Vec<(usize, SocketAddr)> = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let (six, four): (Vec<IpAddr>, Vec<IpAddr>) =
                target.addresses.iter().partition(|ip| ip.is_ipv6());
            for n in 0..six.len().max(four.len()) {
                for ip in [six.get(n), four.get(n)].into_iter().flatten() {
                    let address = SocketAddr::new(*ip, target.port);
                    let known = |(other, there): &(usize, SocketAddr)| {
                        *there == address && targets[*other].security == target.security
                    };
                    if all.len() < ATTEMPTS_MAX && !all.iter().any(known) {
                        all.push((at, address));
                    }
                }
            }
        }
        Self(all)
    }
}

/// Connects, as the plan has it, until `deadline`.
pub(super) async fn connect(
    targets: &[Target],
    own: &Own,
    deadline: Instant,
) -> Result<(TcpStream, Target), ConnectError> {
    let mut refused = Vec::new();
    let done = timeout_at(deadline, race(Plan::new(targets), own, &mut refused)).await;
    match done {
        Ok(Some((stream, at))) => Ok((stream, targets[at].clone())),
        Ok(None) if refused.iter().any(|(_, why)| why == CAME_BACK) => Err(ConnectError::Ourselves),
        Ok(None) => Err(ConnectError::Refused(refused)),
        Err(_) => Err(ConnectError::Deadline(refused)),
    }
}

const CAME_BACK: &str = "this server itself";

async fn race(
    plan: Plan,
    own: &Own,
    refused: &mut Vec<(SocketAddr, String)>,
) -> Option<(TcpStream, usize)> {
    let mut left = plan.0.into_iter();
    let mut tried = FuturesUnordered::new();
    let mut next_at = Instant::now();
    loop {
        let more = left.len() > 0;
        if tried.is_empty() && !more {
            return None;
        }
        tokio::select! {
            biased;
            Some((at, address, result)) = tried.next(), if !tried.is_empty() => {
                let why = match result {
                    Ok(stream) => match usable(&stream, own) {
                        Ok(()) => return Some((stream, at)),
                        Err(why) => why,
                    },
                    Err(cause) => words(&cause),
                };
                refused.push((address, why));
                next_at = Instant::now();
            }
            () = sleep_until(next_at), if more => {
                if let Some((at, address)) = left.next() {
                    tried.push(async move { (at, address, TcpStream::connect(address).await) });
                }
                next_at = Instant::now() + STAGGER;
            }
        }
    }
}

fn usable(stream: &TcpStream, own: &Own) -> Result<(), String> {
    let (local, peer) =
        (stream.local_addr().map_err(|e| words(&e))?, stream.peer_addr().map_err(|e| words(&e))?);
    if own.came_back(local, peer) {
        return Err(CAME_BACK.to_owned());
    }
    // Stanzas are small and wait for each other.
    stream.set_nodelay(true).map_err(|e| words(&e))
}

/// What the operating system says, without its number.
fn words(cause: &std::io::Error) -> String {
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::targets::Security;
    use super::*;

    fn target(host: &str, port: u16, addresses: &[&str]) -> Target {
        Target {
            host: host.to_owned(),
            port,
            security: Security::StartTls,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            authentic: false,
        }
    }

    #[test]
    fn families_take_turns_within_each_server() {
        let targets = [
            target("a", 1, &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]),
            target("b", 2, &["192.0.2.1"]),
            target("c", 1, &["192.0.2.2"]),
        ];
        let plan: Vec<String> =
            Plan::new(&targets).0.iter().map(|(at, address)| format!("{at} {address}")).collect();
        let expected = [
            "0 [2001:db8::1]:1",
            "0 192.0.2.1:1",
            "0 192.0.2.2:1",
            "0 192.0.2.3:1",
            "1 192.0.2.1:2",
        ];
        assert_eq!(plan, expected);
    }

    #[test]
    fn so_many_attempts_and_no_more() {
        let targets: Vec<Target> = (1..200).map(|port| target("a", port, &["192.0.2.1"])).collect();
        assert_eq!(Plan::new(&targets).0.len(), ATTEMPTS_MAX);
    }

    #[tokio::test]
    async fn the_first_that_answers_wins_and_refusals_do_not_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nobody listens there: what was bound is gone.
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let targets = [target("gone", gone, &["127.0.0.1"]), target("there", port, &["127.0.0.1"])];
        let began = Instant::now();
        let deadline = began + Duration::from_secs(20);
        let (stream, target) = connect(&targets, &Own::default(), deadline).await.unwrap();
        assert_eq!((target.host.as_str(), stream.peer_addr().unwrap().port()), ("there", port));
        let error = connect(&targets[..1], &Own::default(), deadline).await.unwrap_err();
        let expected = format!("no server takes connections: 127.0.0.1:{gone}: connection refused");
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.condition(), Condition::RemoteServerTimeout);
        // Of a wildcard of ours, known by its port only when the connection is there.
        let own = Own(vec![SocketAddr::from(([0, 0, 0, 0], port))]);
        let error = connect(&targets[1..], &own, deadline).await.unwrap_err();
        assert_eq!(error, ConnectError::Ourselves);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_deadline() {
        // TEST-NET-1: whether it is silent or unreachable, it is not there.
        let targets = [target("silent", 9, &["192.0.2.1"])];
        let deadline = Instant::now() + Duration::from_secs(3);
        let error = connect(&targets, &Own::default(), deadline).await.unwrap_err();
        assert_eq!(error.condition(), Condition::RemoteServerTimeout);
        assert!(Instant::now() <= deadline + Duration::from_millis(100));
    }
}
