//! Room `s2s::federation::net`: TLS between servers (RFC 6120 §5, §13; XEP-0368; RFC 7590). Called by `net`; calls rustls.
//!
//! No handshake fails because of a certificate's chain or name: what it proves is judged afterwards, by `trust`, for dialback may do without.
//! The signature is checked, always: otherwise anybody could show anybody's certificate. TLS 1.2 and 1.3; no tickets, no early data,
//! no renegotiation (rustls has none).
//!
//! Which of our certificates is shown: the one that names our domain (SNI, or the domain that dials); for no name or an unknown one the first.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xmpp::jid::domain_to_ascii;

use super::identity::{Names, Naming};
use super::targets::Security;
use crate::anybody::Anybody;

/// XEP-0368 §2.
const ALPN: &[u8] = b"xmpp-server";

/// A certificate chain of ours, the leaf first, and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The chain.
    pub chain: Vec<u8>,
    /// The private key: PKCS#8, SEC1 or PKCS#1.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

/// The name to ask a peer for (SNI): its domain (prepared form), in A-labels (RFC 6066 §3). None: it is no DNS name.
#[must_use]
pub fn server_name(domain: &str) -> Option<ServerName<'static>> {
    match ServerName::try_from(domain_to_ascii(domain).into_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Some(name),
        _ => None,
    }
}

/// Our side of TLS, both ways.
pub(super) struct Tls {
    identities: Arc<Vec<Identity>>,
    start_tls: Arc<ServerConfig>,
    direct: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Identity {
    names: Names,
    certified: Arc<CertifiedKey>,
    start_tls: Arc<ClientConfig>,
    direct: Arc<ClientConfig>,
}

impl Tls {
    /// With these certificates, at least one.
    pub(super) fn new(pairs: &[Pair]) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let identities: Vec<Identity> =
            pairs.iter().map(|pair| Identity::new(pair, &provider)).collect::<Result<_, _>>()?;
        if identities.is_empty() {
            return Err("there is no certificate for streams to other servers".to_owned());
        }
        let identities = Arc::new(identities);
        let words = |error: Error| format!("TLS: {error}");
        let mut start_tls = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(VERSIONS)
            .map_err(words)?
            .with_client_cert_verifier(Arc::new(Anybody::new(&provider)))
            .with_cert_resolver(Arc::new(ByName(identities.clone())));
        start_tls.session_storage = Arc::new(NoServerSessionStorage {});
        start_tls.send_tls13_tickets = 0;
        start_tls.max_early_data_size = 0;
        let mut direct = start_tls.clone();
        direct.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { identities, start_tls: Arc::new(start_tls), direct: Arc::new(direct) })
    }

    pub(super) fn acceptor(&self, security: Security) -> TlsAcceptor {
        TlsAcceptor::from(match security {
            Security::StartTls => self.start_tls.clone(),
            Security::DirectTls => self.direct.clone(),
        })
    }

    pub(super) fn connector(&self, ours: &str, security: Security) -> TlsConnector {
        let identity = pick(&self.identities, Some(ours));
        TlsConnector::from(match security {
            Security::StartTls => identity.start_tls.clone(),
            Security::DirectTls => identity.direct.clone(),
        })
    }

    /// The chain that is shown for a domain of ours.
    pub(super) fn shown(&self, ours: &str) -> &[CertificateDer<'static>] {
        &pick(&self.identities, Some(ours)).certified.cert
    }
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

impl Identity {
    fn new(pair: &Pair, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pair.chain)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let leaf = chain.first().ok_or("there is no certificate in it")?;
        let names = Names::of(leaf).map_err(|error| format!("the certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(&pair.key)
            .map_err(|error| format!("the private key cannot be read: {error}"))?;
        let words = |error: Error| format!("certificate and key: {error}");
        let certified =
            CertifiedKey::from_der(chain.clone(), key.clone_key(), provider).map_err(words)?;
        let mut start_tls = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(VERSIONS)
            .map_err(words)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody::new(provider)))
            .with_client_auth_cert(chain, key)
            .map_err(words)?;
        start_tls.resumption = rustls::client::Resumption::disabled();
        let mut direct = start_tls.clone();
        direct.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            names,
            certified: Arc::new(certified),
            start_tls: Arc::new(start_tls),
            direct: Arc::new(direct),
        })
    }
}

fn pick<'i>(identities: &'i [Identity], domain: Option<&str>) -> &'i Identity {
    let named = domain.and_then(|domain| {
        identities.iter().find(|identity| identity.names.name(domain) == Naming::Named)
    });
    named.unwrap_or(&identities[0])
}

#[derive(Debug)]
struct ByName(Arc<Vec<Identity>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(pick(&self.0, hello.server_name()).certified.clone())
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
