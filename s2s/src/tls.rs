//! TLS between nodes: 1.3 only, both sides show a certificate, and a certificate is accepted because its SHA-256 is pinned, not because of
//! a chain (RFC 6120 §13.7, RFC 7469's idea of a pin, for the whole certificate). Called by `link::links`. The signature of the handshake is
//! always checked, by rustls's provider: a pin without it would let anyone replay anyone's certificate. Absent on purpose: chains, names, resumption.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::LinkError;
use crate::link::PeerId;

/// ALPN of a server-to-server stream (XEP-0368 §2).
const ALPN: &[u8] = b"xmpp-server";

/// SHA-256 of a certificate's DER. Shown as 64 lower-case hexadecimal digits; colons and upper case are accepted when read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub fn of_der(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The fingerprint of the first certificate in a PEM text.
    ///
    /// # Errors
    /// [`LinkError::Pem`] when there is no certificate in it.
    pub fn of_pem(pem: &[u8]) -> Result<Self, LinkError> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|e| LinkError::Pem(e.to_string()))?;
        Ok(Self::of_der(&der))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::Pem(format!("not a SHA-256 fingerprint: {text:?}"));
        let mut digits = text.bytes().filter(|b| *b != b':').map(|b| (b as char).to_digit(16));
        let mut bytes = [0u8; 32];
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(bad());
            };
            *byte = (high << 4 | low) as u8;
        }
        if digits.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl From<Fingerprint> for String {
    fn from(value: Fingerprint) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = LinkError;

    fn try_from(text: String) -> Result<Self, LinkError> {
        text.parse()
    }
}

/// A node's own certificate and key. Cloning is one reference count.
#[derive(Clone)]
pub struct TlsIdentity(Arc<Identity>);

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
}

impl TlsIdentity {
    /// Reads a certificate (first of its chain) and its private key (PKCS#8, SEC1 or PKCS#1) from PEM.
    ///
    /// # Errors
    /// [`LinkError::Pem`] when either is missing, [`LinkError::Tls`] when they do not belong together.
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, LinkError> {
        let pem = |e: rustls::pki_types::pem::Error| LinkError::Pem(e.to_string());
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>().map_err(pem)?;
        let Some(leaf) = chain.first() else { return Err(LinkError::Pem("no certificate".into())) };
        let fingerprint = Fingerprint::of_der(leaf);
        let identity = Self(Arc::new(Identity {
            key: PrivateKeyDer::from_pem_slice(key).map_err(pem)?,
            fingerprint,
            chain,
        }));
        identity.dialling(fingerprint)?; // proves that key and certificate belong together, at start and not at the first call
        Ok(identity)
    }

    /// SHA-256 of our certificate: what the other nodes pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// Settings to dial the one node whose certificate is `expected`.
    pub(crate) fn dialling(&self, expected: Fingerprint) -> Result<Arc<ClientConfig>, LinkError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Pinned { pins: Pins::one(expected), provider: provider.clone() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.0.chain.clone(), self.0.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false; // names say nothing here, the pin does
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Settings to be dialled by any node in `pins`, as it is at the moment of the handshake.
    pub(crate) fn accepting(&self, pins: &Pins) -> Result<Arc<ServerConfig>, LinkError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Pinned { pins: pins.clone(), provider: provider.clone() });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.0.chain.clone(), self.0.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsIdentity({})", self.0.fingerprint)
    }
}

/// The certificates accepted now, and whose they are. Shared between the verifier and whoever learns of new nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Arc<RwLock<HashMap<Fingerprint, Option<PeerId>>>>);

impl Pins {
    fn one(fingerprint: Fingerprint) -> Self {
        Self(Arc::new(RwLock::new(HashMap::from([(fingerprint, None)]))))
    }

    /// Puts this list in the place of the former one.
    pub(crate) fn set(&self, peers: impl Iterator<Item = (Fingerprint, PeerId)>) {
        *self.0.write() = peers.map(|(fingerprint, id)| (fingerprint, Some(id))).collect();
    }

    /// Whose certificate this is.
    pub(crate) fn owner(&self, fingerprint: &Fingerprint) -> Option<PeerId> {
        self.0.read().get(fingerprint).cloned().flatten()
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.0.read().contains_key(&Fingerprint::of_der(leaf)) {
            return Ok(());
        }
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::ApplicationVerificationFailure,
        ))
    }
}

/// Accepts a leaf certificate whose fingerprint is pinned, and checks the handshake's signature with it.
#[derive(Debug)]
struct Pinned {
    pins: Pins,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

/// TLS 1.2 is switched off by `with_protocol_versions`; should that ever change, its signatures still count as wrong.
fn only_tls13() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("links speak TLS 1.3 only".into()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.pins.check(leaf).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.pins.check(leaf).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_reads_back_with_colons_and_capitals() {
        let print = Fingerprint::of_der(b"not really a certificate");
        let loud: Vec<String> = print.0.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(loud.join(":").parse::<Fingerprint>().ok(), Some(print));
        assert_eq!(print.to_string().parse::<Fingerprint>().ok(), Some(print));
        assert!("abc".parse::<Fingerprint>().is_err());
        assert!(format!("{print}00").parse::<Fingerprint>().is_err());
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let (one, two) = (
            rcgen::generate_simple_self_signed(vec![]).unwrap(),
            rcgen::generate_simple_self_signed(vec![]).unwrap(),
        );
        let pem = one.cert.pem();
        let identity =
            TlsIdentity::from_pem(pem.as_bytes(), one.signing_key.serialize_pem().as_bytes())
                .unwrap();
        assert_eq!(identity.fingerprint(), Fingerprint::of_pem(pem.as_bytes()).unwrap());
        assert!(
            TlsIdentity::from_pem(pem.as_bytes(), two.signing_key.serialize_pem().as_bytes())
                .is_err()
        );
    }
}
