//! Room: the way to another domain, and what its certificate proves. Called by `incoming`, `outgoing` and `check`, which have one [`Net`] together.
//!
//! `dns` asks and `targets` orders what it says; `connect` makes the connection; `tls` encrypts it, believing nobody; `trust` judges the
//! certificates then, with the names that `identity` reads in them and, where DNSSEC is checked, those that DNS names (`dane`), and where it is switched
//! on, those that the domain names over `https` (`posh`); `seen` notices when a domain shows another certificate. Pages: RFC 6120 §3 and §13.7, XEP-0368,
//! XEP-0178, RFC 9525, RFC 7673, RFC 7711.
//!
//! A certificate of a server's own name, instead of its domain's, proves nothing without DANE or POSH.

pub mod connect;
pub mod dane;
pub mod dns;
mod https;
pub mod identity;
mod posh;
mod seen;
pub mod targets;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub mod trust;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use connect::ConnectError;
pub use dns::{FindError, Own};
pub use targets::{Answer, Security, Target};
pub use tls::{Pair, server_name};
pub use trust::WhyNot;

use dns::Resolver;
use https::Https;
use posh::Posh;
use seen::Seen;
use tls::Tls;
use trust::Trust;

/// What a [`Net`] is made of: the contents of the files that the configuration names.
#[derive(Clone, Debug, Default)]
pub struct NetConfig {
    /// The DNS servers to ask. None: the system's.
    pub dns: Vec<SocketAddr>,
    /// Whether DNSSEC is checked.
    pub dnssec: bool,
    /// Whether domains are asked over `https` which certificates are theirs (POSH).
    pub posh: bool,
    /// The authorities we believe, PEM. None: the system's.
    pub trust: Option<Vec<u8>>,
    /// Revocation lists, PEM.
    pub revoked: Option<Vec<u8>>,
    /// Our certificates, at least one: the first is for domains that none of them names.
    pub pairs: Vec<Pair>,
    /// Where we ourselves listen to other servers.
    pub own: Own,
}

impl NetConfig {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn read(config: &config::Config) -> Result<NetConfig, NetError> {
        let s2s = &config.s2s;
        let read = |file: &Path| {
            std::fs::read(file).map_err(|cause| NetError::File(file.to_owned(), cause))
        };
        // Those of clients name the domains too, and there are deployments where that of the links names nothing but a node.
        let mut pairs =
            vec![(&s2s.certificate, &s2s.key), (&config.c2s.certificate, &config.c2s.key)];
        pairs.dedup();
        pairs.extend(config.c2s.certificates.iter().map(|one| (&one.certificate, &one.key)));
        let pairs =
            pairs.into_iter().map(|(chain, key)| Ok(Pair { chain: read(chain)?, key: read(key)? }));
        let advertised = s2s.advertise.as_deref().and_then(|address| address.parse().ok());
        let own = s2s.listen.iter().chain(&s2s.listen_tls).copied().chain(advertised).collect();
        Ok(NetConfig {
            dns: s2s.dns.clone(),
            dnssec: s2s.dnssec,
            posh: s2s.posh,
            trust: s2s.trust.as_deref().map(read).transpose()?,
            revoked: s2s.revoked.as_deref().map(read).transpose()?,
            pairs: pairs.collect::<Result<_, NetError>>()?,
            own: Own(own),
        })
    }
}

/// What a configuration names for streams to other servers and cannot be used: its key, and why. For `pangaea check`, which starts nothing.
#[must_use]
pub fn unusable(s2s: &config::S2s) -> Vec<(&'static str, String)> {
    let read =
        |file: &Path| std::fs::read(file).map_err(|cause| format!("{}: {cause}", file.display()));
    let judge = |key, file: Option<&PathBuf>, good: fn(&[u8]) -> Result<Trust, String>| {
        let file = file?;
        let why = read(file).and_then(|text| good(&text)).err()?;
        let named = why.starts_with(&file.display().to_string());
        Some((key, if named { why } else { format!("{}: {why}", file.display()) }))
    };
    let authorities = |text: &[u8]| Trust::new(Some(text), None);
    // Whose lists they are does not matter here: they are only read.
    let revoked = |text: &[u8]| Trust::new(None, Some(text));
    [
        judge("s2s.trust", s2s.trust.as_ref(), authorities),
        judge("s2s.revoked", s2s.revoked.as_ref(), revoked),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Why there is no [`Net`].
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A file cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// What is in one cannot be used, or DNS cannot be asked at all.
    #[error("{0}")]
    Unusable(String),
}

/// A [`NetConfig`] that is read and found good.
pub struct Ready(Current);

impl Ready {
    /// Reads what is in `config`. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// Something in it cannot be used.
    pub fn new(config: NetConfig) -> Result<Ready, NetError> {
        Ready::with_https_port(config, https::PORT)
    }

    /// The same, where the port of `https` is another: for tests.
    fn with_https_port(config: NetConfig, https_port: u16) -> Result<Ready, NetError> {
        Current::new(config, https_port).map(Ready)
    }
}

/// The way to other domains. Cloning it shares it; [`Net::reload`] is seen by whatever begins afterwards.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

struct Shared {
    current: RwLock<Arc<Current>>,
    /// Where our other nodes listen.
    nodes: RwLock<Vec<SocketAddr>>,
    seen: Mutex<Seen>,
}

struct Current {
    resolver: Arc<Resolver>,
    own: Own,
    tls: Tls,
    trust: Trust,
    posh: Option<Posh>,
}

impl Current {
    /// `https_port`: see [`Https`].
    fn new(config: NetConfig, https_port: u16) -> Result<Self, NetError> {
        let resolver = Resolver::new(&config.dns, config.dnssec).map_err(NetError::Unusable)?;
        let resolver = Arc::new(resolver);
        let trust = Trust::new(config.trust.as_deref(), config.revoked.as_deref());
        let trust = trust.map_err(NetError::Unusable)?;
        let posh = if config.posh {
            let tls = trust.https().map_err(NetError::Unusable)?;
            let tls = TlsConnector::from(Arc::new(tls));
            Some(Posh::new(Https { resolver: resolver.clone(), tls, port: https_port }))
        } else {
            None
        };
        Ok(Self {
            resolver,
            own: config.own,
            tls: Tls::new(&config.pairs).map_err(NetError::Unusable)?,
            trust,
            posh,
        })
    }
}

impl Net {
    /// A new one. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// Something in `config` cannot be used.
    pub fn new(config: NetConfig) -> Result<Net, NetError> {
        Net::with_https_port(config, https::PORT)
    }

    /// The same, where the port of `https` is another: for tests.
    pub(super) fn with_https_port(config: NetConfig, https_port: u16) -> Result<Net, NetError> {
        Ready::with_https_port(config, https_port).map(Net::from)
    }

    /// Puts another configuration in the place of this one; what DNS and POSH said is forgotten. Streams that exist keep what they have.
    pub fn reload(&self, ready: Ready) {
        *self.0.current.write() = Arc::new(ready.0);
    }

    /// Where our other nodes listen, as far as they have addresses: who sends us there sends us back to ourselves.
    pub fn set_nodes(&self, nodes: Vec<SocketAddr>) {
        *self.0.nodes.write() = nodes;
    }

    fn own(&self, current: &Current) -> Own {
        Own(current.own.0.iter().chain(self.0.nodes.read().iter()).copied().collect())
    }

    fn current(&self) -> Arc<Current> {
        self.0.current.read().clone()
    }

    /// Where the servers of a domain (prepared form) are, at least one, in the order in which they are to be tried. Takes 12 s at most.
    ///
    /// # Errors
    /// See [`FindError`], whose `condition` the sender of a stanza is told.
    pub async fn find(&self, domain: &str) -> Result<Vec<Target>, FindError> {
        let current = self.current();
        current.resolver.find(domain, &self.own(&current), &mut chance).await
    }

    /// What DNS says of the services of a domain: of `_xmpps-server`, and of `_xmpp-server`.
    ///
    /// # Errors
    /// It is nothing that can be in DNS.
    pub async fn services(&self, domain: &str) -> Result<(Answer, Answer), FindError> {
        let name = dns::name_of(domain)?;
        Ok(self.current().resolver.services(&name).await)
    }

    /// Connects to the first of `targets` that takes a connection before `deadline`. If it proves to be of no use later, leave it out and
    /// call again.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        targets: &[Target],
        deadline: Instant,
    ) -> Result<(TcpStream, Target), ConnectError> {
        let current = self.current();
        connect::connect(targets, &self.own(&current), deadline).await
    }

    /// TLS for dialling as `ours` (prepared form), whose certificate is shown. The peer's is not judged: see [`Net::proves`]. With
    /// [`Security::DirectTls`] ALPN says `xmpp-server`.
    #[must_use]
    pub fn connector(&self, ours: &str, security: Security) -> TlsConnector {
        self.current().tls.connector(ours, security)
    }

    /// TLS for being dialled. The peer is asked for a certificate and may have none; it is not judged: see [`Net::proves`].
    #[must_use]
    pub fn acceptor(&self, security: Security) -> TlsAcceptor {
        self.current().tls.acceptor(security)
    }

    /// Whether a peer's certificates, its own first, prove that it speaks for `domain` (prepared form), in either direction. They must come
    /// from a handshake that [`Net::connector`] or [`Net::acceptor`] made: it has checked the signature.
    ///
    /// # Errors
    /// See [`WhyNot`].
    pub fn proves(&self, chain: &[CertificateDer<'_>], domain: &str) -> Result<(), WhyNot> {
        self.proves_at(chain, domain, wall_time())
    }

    /// The same with what is said elsewhere. Where DNSSEC is checked: a certificate that the domain names in DNS (DANE, RFC 7673) proves it, and if it names
    /// any there, no other does. Where POSH (RFC 7711) is switched on: one that the domain names over `https` proves it too, whatever its own names and whoever
    /// stands behind it. Asks DNS and the domain's web server at once, which have mostly been asked before; takes 12 s at most. Without both it is
    /// [`Net::proves`].
    ///
    /// # Errors
    /// See [`WhyNot`].
    pub async fn proves_with_lookups(
        &self,
        chain: &[CertificateDer<'_>],
        domain: &str,
    ) -> Result<(), WhyNot> {
        let current = self.current();
        let now = wall_time();
        // Once: it is the dearest of all.
        let alone = current.trust.proves(chain, domain, now);
        let is_named = async {
            let (Some(posh), [leaf, ..], Err(why)) = (&current.posh, chain, &alone) else {
                return false;
            };
            // What else is wrong with it nobody's word cures.
            if !why.is_about_who() {
                return false;
            }
            let said = posh.ask(domain).await;
            said.fingerprints.as_ref().is_ok_and(|all| all.mean(leaf))
        };
        let (mut is_named, mut records) = (pin!(is_named), pin!(current.resolver.tlsa(domain)));
        // At once: one after the other they take longer than a stream has.
        let (records, named) = tokio::select! {
            biased;
            records = &mut records => (records, None),
            named = &mut is_named => (records.await, Some(named)),
        };
        match dane::judge(&current.trust, chain, domain, &records, now, alone.clone()) {
            Err(why) if why.is_about_who() => match named {
                Some(true) => Ok(()),
                Some(false) => Err(why),
                None if is_named.await => Ok(()),
                None => Err(why),
            },
            judged => judged,
        }
    }

    /// What [`Net::proves_with_lookups`] says, where nobody has to be asked for that. `None`: somebody has.
    #[must_use]
    pub fn proves_at_once(
        &self,
        chain: &[CertificateDer<'_>],
        domain: &str,
    ) -> Option<Result<(), WhyNot>> {
        let current = self.current();
        if current.resolver.dnssec {
            return None;
        }
        let alone = current.trust.proves(chain, domain, wall_time());
        match &alone {
            Err(why) if current.posh.is_some() && why.is_about_who() => None,
            _ => Some(alone),
        }
    }

    /// What a domain says by POSH, in words; an error is why it says nothing. `None`: it is not asked.
    pub async fn posh(&self, domain: &str) -> Option<Result<String, String>> {
        let current = self.current();
        Some(current.posh.as_ref()?.ask(domain).await.words())
    }

    /// [`Net::proves`] at another time.
    ///
    /// # Errors
    /// See [`WhyNot`].
    pub fn proves_at(
        &self,
        chain: &[CertificateDer<'_>],
        domain: &str,
        now: UnixTime,
    ) -> Result<(), WhyNot> {
        self.current().trust.proves(chain, domain, now)
    }

    /// Whether the certificate that we show for a domain of ours proves it to somebody who believes whom we believe.
    ///
    /// # Errors
    /// See [`WhyNot`].
    pub fn proves_ours(&self, ours: &str) -> Result<(), WhyNot> {
        let current = self.current();
        self.proves(current.tls.shown(ours), ours)
    }

    /// A peer that has proved, by certificate or dialback, that it speaks for `domain` has shown these certificates. Logs when they are others than
    /// before.
    pub fn saw(&self, domain: &str, chain: &[CertificateDer<'_>]) {
        let Some(leaf) = chain.first() else { return };
        let now = crate::tls::Fingerprint::of_der(leaf);
        if let Some(before) = self.0.seen.lock().saw(domain, now) {
            tracing::warn!(domain, %before, %now, "a domain shows another certificate than before");
        }
    }
}

impl From<Ready> for Net {
    fn from(ready: Ready) -> Net {
        let current = RwLock::new(Arc::new(ready.0));
        Net(Arc::new(Shared { current, nodes: RwLock::default(), seen: Mutex::default() }))
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let current = self.current();
        f.debug_struct("Net").field("own", &current.own).field("trust", &current.trust).finish()
    }
}

/// A number from 0 to `most`. Load is spread by it, and nothing depends on its not being guessed.
fn chance(most: u32) -> u32 {
    let mut bytes = [0; 8];
    // Without random numbers the first is always chosen.
    let _ = getrandom::fill(&mut bytes);
    let number = u64::from_le_bytes(bytes) % (u64::from(most) + 1);
    u32::try_from(number).unwrap_or(most)
}

fn wall_time() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}
