//! Room `s2s::federation::net`: one document over HTTPS (RFC 9110, RFC 2818), for `posh`. Called by it; calls hyper, asks the same DNS servers and believes the same
//! authorities as everything else here.
//!
//! One connection a document, HTTP/1.1, and of the answer so much and no more; whoever calls has the deadline. A redirection is handed back and
//! not followed. Deliberately absent: plain HTTP, connection reuse, caching by what HTTP says.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::connect::connect;
use super::dns::{Own, Resolver, name_of};
use super::targets::{Security, Target};

/// The port of `https` (RFC 9110 §4.2.2).
pub(super) const PORT: u16 = 443;
/// Bytes of one document. Beyond: it is refused.
pub(super) const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// Bytes of an address that is followed. Beyond: the same.
const URL_BYTES_MAX: usize = 2_048;
/// Bytes of the head of an answer. Beyond: the same.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// In A-labels.
    host: String,
    /// None: that of `https`.
    port: Option<u16>,
    path: String,
}

impl Url {
    /// At a domain (prepared form), with a path that begins with a slash.
    pub(super) fn at(domain: &str, path: &str) -> Result<Url, String> {
        let host = name_of(domain).map_err(|error| error.to_string())?;
        Ok(Url { host, port: None, path: path.to_owned() })
    }

    /// An absolute one: `https`, of a host with a name, without a user.
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("an address of more than {URL_BYTES_MAX} bytes"));
        }
        let bad = || format!("{text:?} is no https address");
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|one| !one.as_str().contains('@'));
        let (Some("https"), Some(authority)) = (uri.scheme_str(), authority) else {
            return Err(bad());
        };
        let port = authority.port_u16();
        if port.is_none() && authority.as_str() != authority.host() {
            return Err(bad()); // What stands for the port is none.
        }
        let host = name_of(authority.host()).map_err(|error| error.to_string())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Url { host, port, path: path.to_owned() })
    }

    /// Itself, if it is one to go to because another has said so: at the port of `https`, where web servers are.
    ///
    /// # Errors
    /// It is none; in words.
    pub(super) fn further(self) -> Result<Url, String> {
        if self.port.is_some_and(|port| port != PORT) {
            return Err(format!("{self}: not at the port of https"));
        }
        Ok(self)
    }

    /// Where a `Location` of this leads to (RFC 9110 §10.2.2): an absolute address, or another path of the same host.
    fn elsewhere(&self, location: &str) -> Result<Url, String> {
        let is_path = location.starts_with('/') && !location.starts_with("//");
        if is_path && location.len() <= URL_BYTES_MAX {
            let path: Uri = location.parse().map_err(|_| format!("{location:?} is no path"))?;
            return Ok(Url { path: path.to_string(), ..self.clone() });
        }
        Url::parse(location)
    }
}

/// Where a web server may be. A domain has its document where it likes; where that leads, somebody else may have a server that is only for those around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// At any address.
    Anywhere,
    /// Not at one of this machine, nor at one of networks that are not for everybody.
    Public,
}

impl Reach {
    /// Of all that a domain leads to whose own server was at that address: one that is not for everybody itself may name others.
    pub(super) fn after(first: IpAddr) -> Reach {
        if is_public(first) { Reach::Public } else { Reach::Anywhere }
    }

    fn has(self, address: IpAddr) -> bool {
        self == Reach::Anywhere || is_public(address)
    }
}

/// Whether an address is one that everybody means the same by (RFC 6890), as far as a server could be there.
fn is_public(address: IpAddr) -> bool {
    let is_public_four = |four: Ipv4Addr| {
        let [a, b, ..] = four.octets();
        !(four.is_private() || four.is_loopback() || four.is_link_local() || four.is_multicast())
            && !(a == 0 || a >= 240 || (a == 100 && b & 0xc0 == 64) || (a == 198 && b & 0xfe == 18))
    };
    match address.to_canonical() {
        IpAddr::V4(four) => is_public_four(four),
        IpAddr::V6(six) => match six.segments() {
            // RFC 6052: an IPv4 address behind a translator.
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let four = u32::from(high) << 16 | u32::from(low);
                is_public_four(Ipv4Addr::from_bits(four))
            }
            // RFC 4291 §2.4: global unicast.
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "https://{}{port}{}", self.host, self.path)
    }
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The document.
    Document(Bytes),
    /// It is there.
    Elsewhere(Url),
}

/// Who asks.
pub(super) struct Https {
    pub(super) resolver: Arc<Resolver>,
    pub(super) tls: TlsConnector,
    /// Where the port is that of `https`: [`PORT`], and in tests another.
    pub(super) port: u16,
}

impl Https {
    /// Asks. Ends at `deadline` if it has not connected by then; dropping it ends it. Gives the address of the server too.
    ///
    /// # Errors
    /// No connection, no address within `reach`, a certificate that does not prove the host, or an answer that is neither a document nor a redirection; in words.
    pub(super) async fn get(
        &self,
        url: &Url,
        reach: Reach,
        deadline: Instant,
    ) -> Result<(Reply, IpAddr), String> {
        let mut addresses = self.resolver.host(&url.host).await?;
        addresses.retain(|address| reach.has(*address));
        if addresses.is_empty() {
            return Err(format!("{url}: at no public address"));
        }
        let target = Target {
            host: url.host.clone(),
            port: url.port.unwrap_or(self.port),
            security: Security::DirectTls,
            addresses,
            authentic: false,
        };
        let (stream, _) = connect(&[target], &Own::default(), deadline)
            .await
            .map_err(|error| format!("{url}: {error}"))?;
        let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
        let address = stream.peer_addr().map_err(|error| failed(&error))?.ip();
        let name = ServerName::try_from(url.host.clone()).map_err(|error| failed(&error))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let port = url.port.map(|port| format!(":{port}")).unwrap_or_default();
        let request = hyper::Request::get(&url.path)
            .header(header::HOST, format!("{}{port}", url.host))
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = answer.status();
            let location = answer.headers().get(header::LOCATION);
            if status.is_redirection()
                && let Some(location) = location.and_then(|value| value.to_str().ok())
            {
                return url.elsewhere(location).map(Reply::Elsewhere);
            }
            if status != StatusCode::OK {
                return Err(format!("{url}: {status}"));
            }
            let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX);
            let body = body.collect().await.map_err(|error| failed(&error))?;
            Ok(Reply::Document(body.to_bytes()))
        };
        tokio::pin!(exchange);
        let reply = tokio::select! {
            reply = &mut exchange => reply,
            // The connection may end first, its last bytes already handed over.
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(failed(&error)),
            },
        };
        Ok((reply?, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_public_leads_to_nobody_who_is_not() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for public in ["192.0.2.1", "8.8.8.8", "100.128.0.1", "2001:db8::1", "64:ff9b::808:808"] {
            let reach = Reach::after(ip(public));
            assert!(reach == Reach::Public && reach.has(ip(public)), "{public}");
            for within in [
                "127.0.0.1",
                "0.0.0.0",
                "10.1.2.3",
                "172.31.0.1",
                "192.168.0.1",
                "169.254.169.254",
                "100.64.0.1",
                "198.18.0.1",
                "224.0.0.1",
                "255.255.255.255",
                "::",
                "::1",
                "::ffff:10.0.0.1",
                "64:ff9b::a00:1",
                "fe80::1",
                "fd00::1",
                "ff02::1",
            ] {
                assert!(!reach.has(ip(within)), "{within}");
                let from_within = Reach::after(ip(within));
                assert!(from_within.has(ip(within)) && from_within.has(ip(public)), "{within}");
            }
        }
    }

    #[test]
    fn who_is_sent_on_goes_to_the_port_of_https() {
        let further = |text: &str| Url::parse(text).expect("an address").further().is_ok();
        assert!(further("https://b.example/x") && further("https://b.example:443/x"));
        assert!(!further("https://b.example:8443/x") && !further("https://b.example:22/"));
    }

    #[test]
    fn only_https_addresses_of_named_hosts_are_followed() {
        let at = Url::at("münchen.example", "/a.json").expect("a domain");
        assert_eq!(at.to_string(), "https://xn--mnchen-3ya.example/a.json");
        let check = |location: &str, expected: Option<&str>| {
            let found = at.elsewhere(location).ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{location}");
        };
        check("https://B.example", Some("https://b.example/"));
        check("https://b.example:8443/x/y.json?z", Some("https://b.example:8443/x/y.json?z"));
        check("/b.json", Some("https://xn--mnchen-3ya.example/b.json"));
        for bad in [
            "http://b.example/",
            "//b.example/x",
            "b.json",
            "",
            "https://",
            "https://user@b.example/",
            "https://192.0.2.1/",
            "https://[2001:db8::1]/",
            "https://b.example:99999/",
            "ftp://b.example/",
        ] {
            check(bad, None);
        }
    }
}
