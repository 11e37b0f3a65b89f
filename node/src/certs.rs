//! Certificates for tests and for quickstart: an authority, leaves for a node's names; fingerprints of any.
//!
//! Called by `cli::quickstart`, `cli::check` and `app` (a node's own fingerprint). A leaf is good as server and as
//! client, because a link shows it in both roles. Real deployments bring certificates of their own.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use config::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

/// Years that a test certificate is valid.
const YEARS: i32 = 10;

/// What went wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// A file does not hold what it should.
    #[error("{0}: no {1} in PEM form in it")]
    Pem(String, &'static str),
    /// Making or signing failed.
    #[error("certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A test authority: it can sign, so its key is a secret.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate chain with its key, all PEM.
pub struct Leaf {
    /// The leaf, then the authority.
    pub chain: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No random numbers.
    pub fn new(name: &str) -> Result<Authority, CertError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// One made before: certificate and private key, PEM. Both may be the same text.
    ///
    /// # Errors
    /// One of them is missing, or the key is of a kind that cannot sign here.
    pub fn from_pem(certificate: &str, key: &str, name: &str) -> Result<Authority, CertError> {
        let certificate = block(certificate, |label| label == "CERTIFICATE")
            .ok_or_else(|| CertError::Pem(name.to_owned(), "certificate"))?;
        let key = block(key, |label| label.ends_with("PRIVATE KEY"))
            .ok_or_else(|| CertError::Pem(name.to_owned(), "private key"))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key_pair(&key)?)?;
        Ok(Authority { issuer, certificate })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key, PEM.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A new certificate for `names`, the first of which it is called by.
    ///
    /// # Errors
    /// A name that no certificate can hold.
    pub fn issue(&self, names: &[String]) -> Result<Leaf, CertError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        if let Some(name) = names.first() {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params);
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { chain: leaf.pem() + &self.certificate, key: key.serialize_pem() })
    }
}

fn validity(params: &mut CertificateParams) {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() / 86_400);
    let year = i32::try_from(1970 + days * 400 / 146_097).unwrap_or(2026);
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + YEARS, 1, 1);
}

/// A private key, PEM, in any of its three forms: PKCS#8, which alone is read here; PKCS#1 (RSA) and SEC1 (elliptic curves), which are put into it.
fn key_pair(pem: &str) -> Result<KeyPair, rcgen::Error> {
    let unreadable = |_| rcgen::Error::CouldNotParseKeyPair;
    let algorithm: &[u8] = match PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(unreadable)?
    {
        // rsaEncryption, with NULL (RFC 3279 §2.3.1).
        PrivateKeyDer::Pkcs1(_) => &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0],
        // id-ecPublicKey, with the curve that the key names (RFC 5915 §3).
        PrivateKeyDer::Sec1(key) if has(key.secret_sec1_der(), SECP384R1) => {
            &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 5, 0x2b, 0x81, 4, 0, 34]
        }
        PrivateKeyDer::Sec1(_) => &[
            0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3,
            1, 7,
        ],
        _ => return KeyPair::from_pem(pem),
    };
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(unreadable)?;
    let version: &[u8] = &[0x02, 1, 0];
    let parts = [version, &der(0x30, algorithm), &der(0x04, key.secret_der())].concat();
    KeyPair::try_from(der(0x30, &parts))
}

const SECP384R1: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 34];

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// One element, up to 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match (high, low) {
        (0, 0..=0x7f) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}

/// The first PEM block whose label pleases.
fn block(text: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut rest = text;
    while let Some(at) = rest.find("-----BEGIN ") {
        let from = &rest[at..];
        let label = from["-----BEGIN ".len()..].split("-----").next()?;
        let end = format!("-----END {label}-----");
        let to = from.find(&end)? + end.len();
        if wanted(label) {
            return Some(format!("{}\n", &from[..to]));
        }
        rest = &from[to..];
    }
    None
}

/// The SHA-256 of a certificate.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate.as_ref()).into())
}

/// The certificate chain in a PEM file, the leaf first.
///
/// # Errors
/// It cannot be read, or holds no certificate.
pub fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let name = file.display().to_string();
    let text = std::fs::read(file).map_err(|cause| CertError::File(name.clone(), cause))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| CertError::Pem(name.clone(), "certificate"))?;
    if chain.is_empty() { Err(CertError::Pem(name, "certificate")) } else { Ok(chain) }
}

/// The private key in a PEM file.
///
/// # Errors
/// It cannot be read, or holds no key.
pub fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let name = file.display().to_string();
    let text = std::fs::read(file).map_err(|cause| CertError::File(name.clone(), cause))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| CertError::Pem(name, "private key"))
}

/// The fingerprint of the leaf in a PEM file.
///
/// # Errors
/// As [`read_chain`].
pub fn fingerprint_of(file: &Path) -> Result<Fingerprint, CertError> {
    read_chain(file).map(|chain| fingerprint(&chain[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn a_leaf_is_signed_by_its_authority_and_has_every_name_and_both_roles() {
        let authority = Authority::new("Test").unwrap();
        let again =
            Authority::from_pem(authority.certificate(), &authority.key(), "ca.pem").unwrap();
        let names = ["chat.example", "*.chat.example"].map(str::to_owned);
        let leaf = again.issue(&names).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("leaf.pem");
        std::fs::write(&file, &leaf.chain).unwrap();
        let chain = read_chain(&file).unwrap();
        assert_eq!(chain.len(), 2);
        let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
        let (_, ca) = X509Certificate::from_der(&chain[1]).unwrap();
        assert!(ca.is_ca());
        assert_eq!(parsed.issuer(), ca.subject());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth);
        let san = parsed.subject_alternative_name().unwrap().unwrap().value;
        let written = format!("{:?}", san.general_names);
        assert!(names.iter().all(|name| written.contains(name)), "{written}");
        assert!(parsed.validity().is_valid());
        std::fs::write(&file, &leaf.key).unwrap();
        assert!(read_key(&file).is_ok());
        assert!(read_chain(&file).is_err());
    }

    /// As OpenSSL writes them: an authority with each kind of key signs what is believed of it.
    #[test]
    fn keys_may_be_in_any_of_their_forms() {
        // PKCS#8 and SEC1 of one key on P-256: the second is inside the first.
        let key = KeyPair::generate().unwrap();
        let pkcs8 = key.serialize_der();
        let at = pkcs8.windows(5).position(|w| w[0] == 0x30 && w[2..5] == [2, 1, 1]).unwrap();
        let sec1 = &pkcs8[at..];
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(sec1);
        let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n");
        use rcgen::PublicKeyData as _;
        assert_eq!(key_pair(&pem).unwrap().der_bytes(), key.der_bytes());
        assert_eq!(key_pair(&key.serialize_pem()).unwrap().der_bytes(), key.der_bytes());
        assert!(
            key_pair("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n")
                .is_err()
        );
        assert_eq!(der(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(der(4, &[0; 200])[..3], [4, 0x81, 200]);
    }

    #[test]
    fn certificate_and_key_may_be_in_one_text_in_any_order() {
        let authority = Authority::new("Test").unwrap();
        let text = authority.key() + authority.certificate();
        let again = Authority::from_pem(&text, &text, "ca.pem").unwrap();
        assert_eq!(again.certificate().trim(), authority.certificate().replace('\r', "").trim());
        let error = Authority::from_pem(authority.certificate(), "", "ca.pem").err().unwrap();
        assert_eq!(error.to_string(), "ca.pem: no private key in PEM form in it");
    }
}
