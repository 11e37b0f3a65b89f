//! Certificates: an authority of the tests' own, what it signs, and what is wrong with it. For server and client (XEP-0178), as both ends need.

use pangaea_tests::client::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::path::{Path, PathBuf};

const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
/// id-on-xmppAddr (RFC 6120 §13.7.1.4) and id-on-dnsSRV (RFC 4985), as DER has them.
const ON_XMPP_ADDR: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 8, 5];
const ON_DNS_SRV: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 8, 7];
const ALL_KINDS_OF_KEY_USE: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// A name that a certificate is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    Dns(&'a str),
    /// `_xmpp-server.example.org`.
    Srv(&'a str),
    XmppAddr(&'a str),
}

/// Who signs, and when it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    SelfSigned,
    Expired,
    NotYet,
    Revoked,
}

/// The serial number of all that is revoked.
const REVOKED: u64 = 0x00be_ef01;

pub(crate) struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate alone; certificate and key, for quickstart; the list of what it revoked.
    pub(crate) file: PathBuf,
    pub(crate) with_key: PathBuf,
    pub(crate) revoked: PathBuf,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Paper {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Paper {
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let all: std::result::Result<_, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        all.map_err(|e| format!("a certificate: {e}"))
    }

    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| format!("a key: {e}"))
    }

    /// `NAME.crt`, `NAME.key`, and both in `NAME.pem`.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> Result<()> {
        let both = format!("{}{}", self.certificate, self.key);
        for (ending, text) in [("crt", &self.certificate), ("key", &self.key), ("pem", &both)] {
            let file = dir.join(format!("{name}.{ending}"));
            std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        Ok(())
    }
}

fn said(error: rcgen::Error) -> String {
    format!("a certificate: {error}")
}

fn year() -> i32 {
    const SECONDS_A_YEAR: u64 = 31_556_952;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    1970 + i32::try_from(since.unwrap_or_default().as_secs() / SECONDS_A_YEAR).unwrap_or(0)
}

/// One element of DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match length {
        0..128 => bytes.push(length as u8),
        128..256 => bytes.extend([0x81, length as u8]),
        256..65_536 => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => bytes.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    bytes.extend(content);
    bytes
}

fn alternative_names(names: &[Name<'_>]) -> CustomExtension {
    let other = |oid: &[u8], tag, value: &str| {
        let value = der(0xa0, &der(tag, value.as_bytes()));
        der(0xa0, &[der(0x06, oid), value].concat())
    };
    let names: Vec<u8> = names
        .iter()
        .flat_map(|name| match name {
            Name::Dns(name) => der(0x82, name.as_bytes()),
            Name::Srv(name) => other(ON_DNS_SRV, 0x16, name),
            Name::XmppAddr(address) => other(ON_XMPP_ADDR, 0x0c, address),
        })
        .collect();
    CustomExtension::from_oid_content(SUBJECT_ALT_NAME, der(0x30, &names))
}

impl Authority {
    /// Makes it, with its files in a directory.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test-authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // ejabberd sets a timer for the end of each, and its timers do not run for ever.
        params.not_before = date_time_ymd(year() - 4, 1, 1);
        params.not_after = date_time_ymd(year() + 4, 1, 1);
        let key = KeyPair::generate().map_err(said)?;
        let certificate = params.self_signed(&key).map_err(said)?;
        let (file, with_key) = (dir.join("ca.pem"), dir.join("ca-and-key.pem"));
        let write = |file: &Path, text: String| {
            std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
        };
        write(&file, certificate.pem())?;
        write(&with_key, format!("{}{}", certificate.pem(), key.serialize_pem()))?;
        let issuer = Issuer::new(params, key);
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year() + 4, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(REVOKED),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let revoked = dir.join("revoked.pem");
        write(&revoked, list.signed_by(&issuer).map_err(said)?.pem().map_err(said)?)?;
        Ok(Self { certificate, issuer, file, with_key, revoked })
    }

    /// A good one for a domain and all below it.
    pub(crate) fn for_domain(&self, domain: &str) -> Result<Paper> {
        let below = format!("*.{domain}");
        self.issue(Kind::Good, domain, &[Name::Dns(domain), Name::Dns(&below)])
    }

    /// One that is like that.
    pub(crate) fn issue(&self, kind: Kind, common: &str, names: &[Name<'_>]) -> Result<Paper> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        if !names.is_empty() {
            params.custom_extensions.push(alternative_names(names));
        }
        params.extended_key_usages = ALL_KINDS_OF_KEY_USE.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (from, until) = match kind {
            Kind::Expired => (year() - 3, year() - 1),
            Kind::NotYet => (year() + 1, year() + 3),
            _ => (year() - 1, year() + 2),
        };
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        if kind == Kind::Revoked {
            params.serial_number = Some(SerialNumber::from(REVOKED));
        }
        let key = KeyPair::generate().map_err(said)?;
        let certificate = if kind == Kind::SelfSigned {
            params.self_signed(&key).map_err(said)?.pem()
        } else {
            let signed = params.signed_by(&key, &self.issuer).map_err(said)?;
            format!("{}{}", signed.pem(), self.certificate.pem())
        };
        Ok(Paper { certificate, key: key.serialize_pem() })
    }
}
