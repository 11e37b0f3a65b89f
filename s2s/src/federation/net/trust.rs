//! Room `s2s::federation::net`: what a certificate chain proves (RFC 6120 §13.7.1, RFC 5280, XEP-0178). Called by `net` after the handshake, which
//! has proved that the peer has the key; calls webpki for the chain and `identity` for the names.
//!
//! Good as server or as client is good enough in either direction: authorities no longer issue certificates for clients, and whoever can
//! speak for a domain as a server can do so as a client. Revocation is what is in the configured lists; nobody is asked over the network.

use std::fmt;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId,
    KeyPurposeIdIter, OwnedCertRevocationList, RevocationOptionsBuilder, UnknownStatusPolicy,
    VerifiedPath,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::{Names, Naming, Unreadable};

/// Certificates that one peer may send. Beyond: they prove nothing.
pub const CHAIN_MAX: usize = 10;

/// Why a certificate does not prove a domain, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The peer has shown none.
    NoCertificate,
    /// It vouches for itself, and nobody else does.
    SelfSigned,
    /// No authority that is trusted here stands behind it.
    UnknownIssuer,
    /// Its time, or that of an authority in between, is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It, or an authority in between, is on a revocation list.
    Revoked,
    /// It names others; the text says whom.
    WrongName(String),
    /// Only its Common Name is right, which does not count.
    CommonNameOnly,
    /// It names the domain, but not as a dNSName, and an authority behind it may name only some: nobody has checked that this is one of them.
    Constrained,
    /// It is good neither for servers nor for clients.
    WrongUsage,
    /// More certificates than [`CHAIN_MAX`].
    ChainTooLong,
    /// More names than anybody needs.
    TooManyNames,
    /// DNS names another (DANE).
    NotInDns,
    /// Anything else that is wrong with it.
    Bad(String),
}

impl WhyNot {
    /// Whether all that is missing is somebody who says that it is the domain's.
    pub(super) fn is_about_who(&self) -> bool {
        matches!(
            self,
            WhyNot::SelfSigned
                | WhyNot::UnknownIssuer
                | WhyNot::WrongName(_)
                | WhyNot::CommonNameOnly
                | WhyNot::Constrained
        )
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyNot::NoCertificate => f.write_str("no certificate"),
            WhyNot::SelfSigned => f.write_str("self-signed"),
            WhyNot::UnknownIssuer => f.write_str("of an authority that is not trusted here"),
            WhyNot::Expired => f.write_str("expired"),
            WhyNot::NotYetValid => f.write_str("not yet valid"),
            WhyNot::Revoked => f.write_str("revoked"),
            WhyNot::WrongName(names) => write!(f, "of another name: it names {names}"),
            WhyNot::CommonNameOnly => {
                f.write_str("without a subjectAltName: the Common Name does not count")
            }
            WhyNot::Constrained => f.write_str(
                "of an authority that may name only some (name constraints): only a dNSName counts",
            ),
            WhyNot::WrongUsage => f.write_str("good neither for servers nor for clients"),
            WhyNot::ChainTooLong => write!(f, "with more than {CHAIN_MAX} certificates"),
            WhyNot::TooManyNames => f.write_str("with too many names"),
            WhyNot::NotInDns => f.write_str("another than DNS names (TLSA)"),
            WhyNot::Bad(why) => write!(f, "not usable: {why}"),
        }
    }
}

impl std::error::Error for WhyNot {}

/// A way from an authority to a certificate that was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// An authority on it may name only some (RFC 5280 §4.2.1.10).
    constrained: bool,
}

impl Way {
    /// Whether the names at the end of it name `domain` so that it counts. Constraints are checked for dNSNames, and for no other names of domains: an
    /// authority that has some would write what it likes into those.
    pub(super) fn counts(self, names: &Names, domain: &str) -> bool {
        if self.constrained {
            names.has_dns_name(domain)
        } else {
            names.name(domain) == Naming::Named
        }
    }
}

fn is_constrained(path: &VerifiedPath<'_>) -> bool {
    let has_constraints = |one: &webpki::Cert<'_>| {
        let der = one.der();
        let parsed = X509Certificate::from_der(&der);
        // What cannot be read may be one.
        parsed.map_or(true, |(_, one)| !matches!(one.name_constraints(), Ok(None)))
    };
    path.anchor().name_constraints.is_some()
        || path.intermediate_certificates().any(has_constraints)
}

/// What else is asked of a path from a certificate to an authority; another path may do.
type IsRight<'a> = &'a dyn Fn(&VerifiedPath<'_>) -> Result<(), Error>;

/// Whom we believe.
pub(super) struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    /// The same, each at its place, as the certificates that they are.
    authorities: Vec<CertificateDer<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    /// The same as they were read.
    lists: Vec<CertificateRevocationListDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// The authorities in a PEM text, by default the system's; and revocation lists, PEM.
    pub(super) fn new(authorities: Option<&[u8]>, revoked: Option<&[u8]>) -> Result<Self, String> {
        let certificates = match authorities {
            Some(pem) => CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("the authorities cannot be read: {error}"))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let (anchors, known): (Vec<_>, Vec<_>) = certificates
            .into_iter()
            .filter_map(|one| {
                let anchor = webpki::anchor_from_trusted_cert(&one).ok()?.to_owned();
                Some((anchor, one))
            })
            .unzip();
        if authorities.is_some() && anchors.is_empty() {
            return Err("there is no authority in it".to_owned());
        }
        if anchors.is_empty() {
            tracing::warn!("this system trusts no authority: no peer's certificate will be valid");
        }
        let read = |pem| {
            CertificateRevocationListDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("the revocation list cannot be read: {error}"))
        };
        let lists = revoked.map(read).transpose()?;
        if lists.as_ref().is_some_and(Vec::is_empty) {
            return Err("there is no revocation list in it".to_owned());
        }
        let lists = lists.unwrap_or_default();
        let parse = |list: &CertificateRevocationListDer<'_>| {
            OwnedCertRevocationList::from_der(list)
                .map(CertRevocationList::from)
                .map_err(|error| format!("the revocation list cannot be used: {error}"))
        };
        let revoked = lists.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let algorithms = ring::default_provider().signature_verification_algorithms;
        Ok(Self { anchors, authorities: known, revoked, lists, algorithms })
    }

    /// TLS for asking web servers: whom we believe here we believe there.
    pub(super) fn https(&self) -> Result<ClientConfig, String> {
        let words = |error: &dyn fmt::Display| format!("TLS of web servers: {error}");
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(RootCertStore { roots: self.anchors.clone() });
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(self.lists.iter().cloned())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| words(&error))?;
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| words(&error))?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        tls.resumption = Resumption::disabled();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(tls)
    }

    /// Whether `chain`, the peer's own certificate first, proves that it speaks for `domain` (prepared form).
    pub(super) fn proves(
        &self,
        chain: &[CertificateDer<'_>],
        domain: &str,
        now: UnixTime,
    ) -> Result<(), WhyNot> {
        let [leaf, between @ ..] = chain else { return Err(WhyNot::NoCertificate) };
        if chain.len() > CHAIN_MAX {
            return Err(WhyNot::ChainTooLong);
        }
        let names = Names::of(leaf).map_err(|why| match why {
            Unreadable::TooManyNames => WhyNot::TooManyNames,
            Unreadable::Malformed => WhyNot::Bad(why.to_string()),
        })?;
        let way = self
            .chain(&self.anchors, leaf, between, now, None)
            .map_err(|error| why(error, names.self_issued))?;
        match names.name(domain) {
            Naming::Named if way.counts(&names, domain) => Ok(()),
            Naming::Named => Err(WhyNot::Constrained),
            Naming::CommonNameOnly => Err(WhyNot::CommonNameOnly),
            Naming::NotNamed => Err(WhyNot::WrongName(names.words())),
        }
    }

    /// The way from `authority`, which the peer has shown itself, to `leaf`, if there is one, whoever else believes it.
    pub(super) fn leads_to(
        &self,
        authority: &CertificateDer<'_>,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<Way> {
        let anchor = webpki::anchor_from_trusted_cert(authority).ok()?;
        self.chain(&[anchor], leaf, between, now, None).ok()
    }

    /// Whether one of the authorities that are believed here stands behind `leaf`, and on the way to it there is one that `is_it` means: that authority itself
    /// or one in between.
    pub(super) fn leads_through(
        &self,
        is_it: &dyn Fn(&CertificateDer<'_>) -> bool,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        let is_right = |path: &VerifiedPath<'_>| {
            let is_anchor = |one: &TrustAnchor<'_>| one == path.anchor();
            let anchor = self.anchors.iter().position(is_anchor);
            let known = anchor.and_then(|at| self.authorities.get(at));
            if path.intermediate_certificates().any(|one| is_it(&one.der()))
                || known.is_some_and(is_it)
            {
                Ok(())
            } else {
                Err(Error::UnknownIssuer)
            }
        };
        self.chain(&self.anchors, leaf, between, now, Some(&is_right)).is_ok()
    }

    fn chain(
        &self,
        anchors: &[TrustAnchor<'_>],
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        is_right: Option<IsRight<'_>>,
    ) -> Result<Way, Error> {
        let leaf = EndEntityCert::try_from(leaf)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // The lists need not be of every authority.
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|options| options.with_status_policy(UnknownStatusPolicy::Allow).build());
        leaf.verify_for_usage(
            self.algorithms.all,
            anchors,
            between,
            now,
            ServerOrClient,
            revocation,
            is_right,
        )
        .map(|path| Way { constrained: is_constrained(&path) })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} authorities, {} lists)", self.anchors.len(), self.revoked.len())
    }
}

/// Extended key usage: none, or one of both.
#[derive(Clone, Copy, Debug)]
struct ServerOrClient;

/// `id-kp-serverAuth`, `id-kp-clientAuth` and `anyExtendedKeyUsage` (RFC 5280 §4.2.1.12).
const USAGES: [KeyPurposeId<'static>; 3] = [
    KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0]),
];

impl ExtendedKeyUsageValidator for ServerOrClient {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut any = false;
        for usage in usages {
            let usage = usage?;
            if USAGES.contains(&usage) {
                return Ok(());
            }
            any = true;
        }
        if any { Err(Error::EmptyEkuExtension) } else { Ok(()) }
    }
}

fn why(error: Error, self_issued: bool) -> WhyNot {
    match error {
        Error::CertExpired { .. } => WhyNot::Expired,
        Error::CertNotValidYet { .. } => WhyNot::NotYetValid,
        Error::CertRevoked => WhyNot::Revoked,
        Error::EmptyEkuExtension => WhyNot::WrongUsage,
        Error::UnknownIssuer | Error::CaUsedAsEndEntity if self_issued => WhyNot::SelfSigned,
        Error::UnknownIssuer => WhyNot::UnknownIssuer,
        Error::CaUsedAsEndEntity => WhyNot::Bad("it is an authority's own".to_owned()),
        other => WhyNot::Bad(other.to_string()),
    }
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
