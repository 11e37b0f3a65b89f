//! Room `federation::outgoing`: the way to another domain as this half needs it: found, connected, encrypted. [`Net`] is one; tests bring their own, without
//! sockets. Called by `open`.

use std::net::IpAddr;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::failure::Failure;
use crate::federation::net::targets::Security;
use crate::federation::net::{Net, Target, server_name};

/// A connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Any connection.
pub(super) type Io = Box<dyn Duplex>;

/// Finds, connects, encrypts.
pub(super) trait Way: Send + Sync + 'static {
    /// The servers of a domain, in the order in which they are tried.
    fn find<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Vec<Target>, Failure>>;

    /// A connection to the first of them that takes one.
    fn connect<'a>(
        &'a self,
        targets: &'a [Target],
        deadline: Instant,
    ) -> BoxFuture<'a, Result<(Io, Target), Failure>>;

    /// TLS on a connection, and whether the certificate at its other end proves `theirs`, which costs look-ups and is found out only if it is to be `judged`.
    fn encrypt<'a>(
        &'a self,
        io: Io,
        ours: &'a str,
        theirs: &'a str,
        security: Security,
        judged: bool,
    ) -> BoxFuture<'a, Result<(Io, bool), Failure>>;
}

impl Way for Net {
    fn find<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Vec<Target>, Failure>> {
        let found = async move {
            Net::find(self, domain).await.map_err(|error| match error.condition() {
                xmpp::Condition::RemoteServerNotFound => Failure::NotFound(error.to_string()),
                _ => Failure::Unreachable(error.to_string()),
            })
        };
        found.boxed()
    }

    fn connect<'a>(
        &'a self,
        targets: &'a [Target],
        deadline: Instant,
    ) -> BoxFuture<'a, Result<(Io, Target), Failure>> {
        let connected = async move {
            match Net::connect(self, targets, deadline).await {
                Ok((stream, target)) => Ok((Box::new(stream) as Io, target)),
                Err(error) => Err(match error.condition() {
                    xmpp::Condition::RemoteServerNotFound => Failure::NotFound(error.to_string()),
                    _ => Failure::Unreachable(error.to_string()),
                }),
            }
        };
        connected.boxed()
    }

    fn encrypt<'a>(
        &'a self,
        io: Io,
        ours: &'a str,
        theirs: &'a str,
        security: Security,
        judged: bool,
    ) -> BoxFuture<'a, Result<(Io, bool), Failure>> {
        let encrypted = async move {
            let name = server_name(theirs)
                .ok_or_else(|| Failure::NotFound(format!("{theirs} is no name for TLS")))?;
            let io = self.connector(ours, security).connect(name, io).await;
            let io = io.map_err(|error| Failure::Tls(format!("TLS failed: {error}")))?;
            if !judged {
                return Ok((Box::new(io) as Io, false));
            }
            let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
            let proved = self.proves_with_lookups(chain, theirs).await;
            match &proved {
                Ok(()) => self.saw(theirs, chain),
                Err(why) => tracing::debug!(theirs, %why, "the certificate proves nothing"),
            }
            Ok((Box::new(io) as Io, proved.is_ok()))
        };
        encrypted.boxed()
    }
}

/// Where `see-other-host` leads (RFC 6120 §4.9.3.19): an address or a domain, with a port or without. STARTTLS there.
pub(super) async fn elsewhere(way: &dyn Way, host: &str) -> Result<Vec<Target>, Failure> {
    let (name, port) = parse(host).ok_or_else(|| {
        Failure::Unreachable("the other server sends us to what is no host".to_owned())
    })?;
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![Target {
            host: name.to_owned(),
            port: port.unwrap_or(5269),
            security: Security::StartTls,
            addresses: vec![address],
            authentic: false,
        }]);
    }
    let mut targets = way.find(name).await?;
    if let Some(port) = port {
        targets.iter_mut().for_each(|target| {
            (target.port, target.security) = (port, Security::StartTls);
        });
    }
    Ok(targets)
}

fn parse(host: &str) -> Option<(&str, Option<u16>)> {
    let host = host.trim();
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((address, Some(port.parse().ok()?))),
            None if port.is_empty() => Some((address, None)),
            None => None,
        };
    }
    match host.split_once(':') {
        Some((_, port)) if port.contains(':') => Some((host, None)),
        Some((name, port)) => Some((name, Some(port.parse().ok()?))).filter(|_| !name.is_empty()),
        None => (!host.is_empty()).then_some((host, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_host_is_read_as_it_may_be_written() {
        for (text, expected) in [
            ("other.example", Some(("other.example", None))),
            (" other.example:5270 ", Some(("other.example", Some(5270)))),
            ("192.0.2.1:5270", Some(("192.0.2.1", Some(5270)))),
            ("[2001:db8::1]:5270", Some(("2001:db8::1", Some(5270)))),
            ("[2001:db8::1]", Some(("2001:db8::1", None))),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("other.example:port", None),
            ("[2001:db8::1]x", None),
            (":5270", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
