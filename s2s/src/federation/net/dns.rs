//! Room `s2s::federation::net`: the questions to DNS (RFC 6120 §3.2, XEP-0368 §2). Called by `net`; calls hickory's resolver, which has the cache,
//! the transports and, if configured, DNSSEC. What the answers mean is decided in `targets`.
//!
//! Names are asked for as they are, without the search list of the system, and the hosts file is read only where the system's servers are asked.
//! Every search has a deadline. Absent: `_xmppconnect` TXT records, which nobody can trust (XEP-0156 §8).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesOrdered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use xmpp::jid::domain_to_ascii;
use xmpp::stanza::error::Condition;

use super::dane::Tlsa;
use super::targets::{self, ADDRESSES_MAX, Answer, Security, Servers, Srv, Target};

/// The port of a domain that has no SRV record (RFC 6120 §14.7).
pub const PORT: u16 = 5269;
/// One question to one server. It is asked twice.
const QUESTION: Duration = Duration::from_secs(3);
/// Everything that is asked about one domain.
const SEARCH: Duration = Duration::from_secs(12);
/// Answers that are remembered, each as long as it says. Beyond: those not used lately are forgotten.
const CACHE_MAX: u64 = 16_384;

/// Why a domain is not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// It is an IP address: there is nothing that a certificate, or dialback, could prove of it.
    #[error("{0} is an address and no domain")]
    Address(String),
    /// It cannot be asked for in DNS.
    #[error("{0:?} is no name that DNS can have")]
    NoName(String),
    /// The name does not exist.
    #[error("DNS knows no domain {0}")]
    NoDomain(String),
    /// The name exists, but has neither service nor address.
    #[error("{0} has no XMPP server: neither SRV records nor an address")]
    NoAddress(String),
    /// Its servers' names have no address.
    #[error("none of the servers that DNS names for {0} has an address")]
    NoServer(String),
    /// It says that it has no such service (RFC 2782).
    #[error("{0} says in DNS that it has no XMPP service for servers")]
    NotOffered(String),
    /// DNS leads to ourselves.
    #[error("DNS leads to this server, which does not serve {0}")]
    Ourselves(String),
    /// DNS did not say.
    #[error("DNS does not say where {0} is: {1}")]
    Failed(String, String),
}

impl FindError {
    /// What the sender of a stanza is told (RFC 6120 §8.3.3.16, §8.3.3.17): whether it makes sense to try again.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self {
            FindError::Failed(..) => Condition::RemoteServerTimeout,
            _ => Condition::RemoteServerNotFound,
        }
    }
}

/// Which addresses are our own.
#[derive(Clone, Debug, Default)]
pub struct Own(pub Vec<SocketAddr>);

impl Own {
    /// Whether a connection there comes back to us. An address of ours that is a wildcard is known by its port, as far as one can
    /// know without a connection: see [`Own::came_back`].
    #[must_use]
    pub fn is(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0.iter().any(|own| {
            let unspecified = own.ip().is_unspecified();
            own.port() == address.port()
                && (own.ip().to_canonical() == ip
                    || ip.is_unspecified()
                    || (unspecified && ip.is_loopback()))
        })
    }

    /// Whether a connection from `local` to `peer` has come back to us: an address that reaches itself is one of this machine.
    #[must_use]
    pub fn came_back(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let wild = |own: &SocketAddr| own.ip().is_unspecified() && own.port() == peer.port();
        self.is(peer) || (local.ip() == peer.ip() && self.0.iter().any(wild))
    }
}

/// How long an answer is remembered at most, and one that there is nothing.
const REMEMBERED_MAX: Duration = Duration::from_secs(86_400);
const MISSED_MAX: Duration = Duration::from_secs(300);
/// Questions at the same time. Beyond: they fail, and are asked again with the next attempt.
const QUESTIONS_MAX: usize = 4_096;
/// Servers whose certificates DNS is asked for. Beyond: those of the lowest priority are left out.
const NAMED_MAX: usize = 8;

/// Asks DNS.
pub(super) struct Resolver {
    inner: TokioResolver,
    pub(super) dnssec: bool,
}

impl Resolver {
    /// Asks `servers`; if there are none, those of the system. `dnssec`: what is signed is believed only if its signature is right.
    pub(super) fn new(servers: &[SocketAddr], dnssec: bool) -> Result<Self, String> {
        Self::with_anchors(servers, dnssec.then(TrustAnchors::default))
    }

    /// The same, with keys that DNSSEC is checked against.
    pub(super) fn with_anchors(
        servers: &[SocketAddr],
        anchors: Option<TrustAnchors>,
    ) -> Result<Self, String> {
        let words = |error: NetError| format!("DNS cannot be asked: {error}");
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(words)?
        } else {
            let one = |server: &SocketAddr| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let at_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = connections.map(at_port).to_vec();
                NameServerConfig::new(server.ip(), true, connections)
            };
            let config = ResolverConfig::from_name_servers(servers.iter().map(one).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = QUESTION;
        options.attempts = 1;
        options.cache_size = CACHE_MAX;
        options.positive_max_ttl = Some(REMEMBERED_MAX);
        options.negative_max_ttl = Some(MISSED_MAX);
        // For all domains together: who asks for more at once hears that DNS is busy.
        options.max_active_requests = QUESTIONS_MAX;
        options.preserve_intermediates = false;
        options.validate = anchors.is_some();
        if !servers.is_empty() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        let dnssec = anchors.is_some();
        if let Some(anchors) = anchors {
            builder = builder.with_trust_anchor(Arc::new(anchors));
        }
        Ok(Self { inner: builder.build().map_err(words)?, dnssec })
    }

    /// What DNS says of both services of a domain, given in A-labels.
    pub(super) async fn services(&self, domain: &str) -> (Answer, Answer) {
        join(self.service(domain, Security::DirectTls), self.service(domain, Security::StartTls))
            .await
    }

    async fn service(&self, domain: &str, security: Security) -> Answer {
        let service = match security {
            Security::DirectTls => "_xmpps-server",
            Security::StartTls => "_xmpp-server",
        };
        let Some(name) = absolute(&format!("{service}._tcp.{domain}")) else {
            return Answer::Nothing; // Too long to exist.
        };
        match self.ask(name, RecordType::SRV).await {
            Ok(Some(lookup)) => {
                let records: Vec<Srv> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(srv) => Some(Srv {
                            priority: srv.priority,
                            weight: srv.weight,
                            port: srv.port,
                            host: written(&srv.target),
                            security,
                            authentic: record.proof.is_secure(),
                        }),
                        _ => None,
                    })
                    .collect();
                if records.is_empty() { Answer::Nothing } else { Answer::Records(records) }
            }
            Ok(None) => Answer::Nothing,
            Err(Miss::Nothing | Miss::NoDomain) => Answer::Nothing,
            Err(Miss::Failed(why)) => Answer::Failed(why),
        }
    }

    /// The certificates that DNS names for a domain's servers (RFC 7673 §3), as far as DNSSEC has proved them. None without DNSSEC, and none if it does
    /// not say: then there is what the authorities say, as for everybody else.
    pub(super) async fn tlsa(&self, domain: &str) -> Vec<Tlsa> {
        let Ok(ascii) = name_of(domain) else { return Vec::new() };
        if !self.dnssec {
            return Vec::new();
        }
        tokio::time::timeout(SEARCH, self.named(&ascii)).await.unwrap_or_default()
    }

    async fn named(&self, domain: &str) -> Vec<Tlsa> {
        let (direct, start_tls) = self.services(domain).await;
        let Servers::These(mut servers) = targets::servers(direct, start_tls) else {
            return Vec::new();
        };
        servers.sort_by_key(|one| one.priority);
        servers.retain(|one| one.authentic);
        servers.truncate(NAMED_MAX);
        let asked = servers.into_iter().map(|server| async move {
            let name = absolute(&format!("_{}._tcp.{}", server.port, server.host))?;
            let lookup = self.ask(name, RecordType::TLSA).await.ok().flatten()?;
            let one = |record: &Record| match &record.data {
                RData::TLSA(tlsa) if record.proof.is_secure() => Some(Tlsa {
                    host: server.host.clone(),
                    usage: tlsa.cert_usage.into(),
                    selector: tlsa.selector.into(),
                    matching: tlsa.matching.into(),
                    data: tlsa.cert_data.clone(),
                }),
                _ => None,
            };
            Some(lookup.answers().iter().filter_map(one).collect::<Vec<_>>())
        });
        join_all(asked).await.into_iter().flatten().flatten().collect()
    }

    /// The addresses of a host (A-labels) that is no server of XMPP.
    pub(super) async fn host(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let found = tokio::time::timeout(SEARCH, self.addresses(host)).await;
        let miss = match found {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(miss)) => miss,
            Err(_) => Miss::Failed("it takes too long".to_owned()),
        };
        Err(match miss {
            Miss::NoDomain => format!("DNS knows no {host}"),
            Miss::Nothing => format!("{host} has no address"),
            Miss::Failed(why) => format!("DNS does not say where {host} is: {why}"),
        })
    }

    /// The addresses of a host, at most [`ADDRESSES_MAX`].
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Miss> {
        let name = absolute(host).ok_or(Miss::NoDomain)?;
        let (six, four) =
            join(self.ask(name.clone(), RecordType::AAAA), self.ask(name, RecordType::A)).await;
        let mut all = Vec::new();
        for lookup in [&six, &four].into_iter().filter_map(|answer| answer.as_ref().ok()).flatten()
        {
            let ip = |data: &RData| match data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            };
            all.extend(
                lookup
                    .answers()
                    .iter()
                    .filter_map(|record| ip(&record.data))
                    .take(ADDRESSES_MAX / 2),
            );
        }
        if !all.is_empty() {
            return Ok(all);
        }
        let misses = [six.err(), four.err()].into_iter().flatten();
        // That it could not be found out weighs more than that there is nothing, and that more than that there is no such name.
        Err(misses.max().unwrap_or(Miss::Nothing))
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Result<Option<Lookup>, Miss> {
        match self.inner.lookup(name, kind).await {
            Ok(lookup) => Ok(Some(lookup)),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Err(match none.response_code {
                ResponseCode::NXDomain => Miss::NoDomain,
                _ => Miss::Nothing,
            }),
            Err(NetError::Dns(DnsError::Nsec { response, .. })) => {
                Err(match response.response_code {
                    ResponseCode::NXDomain => Miss::NoDomain,
                    _ => Miss::Nothing,
                })
            }
            Err(error) => Err(Miss::Failed(error.to_string())),
        }
    }

    /// Where the servers of a domain (prepared form) are, in the order in which they are to be tried.
    pub(super) async fn find(
        &self,
        domain: &str,
        own: &Own,
        chance: &mut (impl FnMut(u32) -> u32 + Send),
    ) -> Result<Vec<Target>, FindError> {
        let ascii = name_of(domain)?;
        match tokio::time::timeout(SEARCH, self.search(&ascii, own, chance)).await {
            Ok(found) => found,
            Err(_) => Err(FindError::Failed(ascii, "it takes too long".to_owned())),
        }
    }

    async fn search(
        &self,
        domain: &str,
        own: &Own,
        chance: &mut (impl FnMut(u32) -> u32 + Send),
    ) -> Result<Vec<Target>, FindError> {
        let (direct, start_tls) = self.services(domain).await;
        let (records, itself) = match targets::servers(direct, start_tls) {
            Servers::These(all) => (targets::order(all, chance), false),
            Servers::NotOffered => return Err(FindError::NotOffered(domain.to_owned())),
            Servers::Unknown(why) => return Err(FindError::Failed(domain.to_owned(), why)),
            Servers::Itself => {
                let (priority, weight, host) = (0, 0, domain.to_owned());
                let security = Security::StartTls;
                let itself = Srv { priority, weight, port: PORT, host, security, authentic: false };
                (vec![itself], true)
            }
        };
        let mut asked: FuturesOrdered<_> = records
            .into_iter()
            .map(|record| async move { (self.addresses(&record.host).await, record) })
            .collect();
        let (mut found, mut ours, mut miss) = (Vec::new(), false, None);
        while let Some((addresses, record)) = asked.next().await {
            match addresses {
                Ok(addresses) => {
                    // One address of ours among those of a name: the others are ours too, or nobody's.
                    if addresses.iter().any(|ip| own.is(SocketAddr::new(*ip, record.port))) {
                        ours = true;
                    } else if !addresses.is_empty() {
                        found.push(Target {
                            host: record.host,
                            port: record.port,
                            security: record.security,
                            addresses,
                            authentic: record.authentic,
                        });
                    }
                }
                Err(why) => miss = miss.max(Some(why)),
            }
        }
        let domain = domain.to_owned();
        match miss {
            _ if !found.is_empty() => Ok(found),
            _ if ours => Err(FindError::Ourselves(domain)),
            Some(Miss::Failed(why)) => Err(FindError::Failed(domain, why)),
            Some(Miss::NoDomain) if itself => Err(FindError::NoDomain(domain)),
            _ if itself => Err(FindError::NoAddress(domain)),
            _ => Err(FindError::NoServer(domain)),
        }
    }
}

/// Why there is no answer, the weightiest last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    NoDomain,
    Nothing,
    Failed(String),
}

/// A domain (prepared form) as DNS has it.
///
/// # Errors
/// It is an address, or nothing that can be in DNS.
pub(super) fn name_of(domain: &str) -> Result<String, FindError> {
    let bare = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')).unwrap_or(domain);
    if bare.parse::<IpAddr>().is_ok() {
        return Err(FindError::Address(domain.to_owned()));
    }
    let ascii = domain_to_ascii(domain).trim_end_matches('.').to_ascii_lowercase();
    if !config::is_domain(&ascii) || !ascii.is_ascii() || absolute(&ascii).is_none() {
        return Err(FindError::NoName(domain.to_owned()));
    }
    Ok(ascii)
}

/// The name with a dot at its end: no search list is applied.
fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Without that dot, in lower case; empty for the root.
pub(super) fn written(name: &Name) -> String {
    let text = name.to_ascii();
    text.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
