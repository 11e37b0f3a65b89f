//! Auth: certificates of clients, for SASL EXTERNAL (XEP-0178 §2). Transport has checked that a certificate is the client's own; here it is
//! judged: issued by an authority of the configuration, in time, for clients, and naming accounts.
//!
//! A certificate that is not good proves nobody: EXTERNAL is then not offered, and the client signs in with something else (XEP-0178
//! §2, step 10). Deliberately absent: revocation lists.

use std::sync::Arc;
use std::time::Duration;

use config::{Certificate as Settings, CertificateName};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use s2s::federation::net::identity::{self, UTF8_STRING, XMPP_ADDR};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use xmpp::jid::BareJid;

use super::account_named;
use super::jwt::WallMs;

/// Who proves accounts by certificates. Cloning shares it.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<CertificateName>,
    domain: String,
    wall_ms: WallMs,
}

impl Certificates {
    /// As configured, for the accounts of `domain`.
    ///
    /// # Errors
    /// In words: the authorities cannot be used.
    pub fn new(settings: &Settings, domain: &str, wall_ms: WallMs) -> Result<Self, String> {
        let file = &settings.authorities;
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| failed(&error))?;
        let (names, domain) = (settings.names.clone(), domain.to_owned());
        Ok(Self(Arc::new(Inner { verifier, names, domain, wall_ms })))
    }

    /// The accounts that this chain, leaf first, proves; their bare JIDs.
    pub fn proved(&self, chain: &[Vec<u8>]) -> Vec<String> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Vec::new() };
        let leaf = CertificateDer::from(leaf.as_slice());
        let intermediates: Vec<_> =
            intermediates.iter().map(|one| CertificateDer::from(one.as_slice())).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_millis((self.0.wall_ms)()));
        if let Err(error) = self.0.verifier.verify_client_cert(&leaf, &intermediates, now) {
            tracing::debug!(%error, "a client's certificate proves nothing");
            return Vec::new();
        }
        let Ok((_, leaf)) = X509Certificate::from_der(&leaf) else { return Vec::new() };
        let named = |name: &CertificateName| {
            let texts = texts(&leaf, *name);
            let accounts = texts.iter().filter_map(|text| account_named(text, &self.0.domain));
            let accounts: Vec<String> = accounts.map(|jid: BareJid| jid.to_string()).collect();
            (!accounts.is_empty()).then_some(accounts)
        };
        self.0.names.iter().find_map(named).unwrap_or_default()
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.0.names).finish()
    }
}

fn texts(leaf: &X509Certificate<'_>, name: CertificateName) -> Vec<String> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let alternative = alternative.iter().flat_map(|names| &names.value.general_names);
    match name {
        CertificateName::XmppAddr => alternative
            .filter_map(|name| match name {
                GeneralName::OtherName(kind, value) if kind.to_id_string() == XMPP_ADDR => {
                    identity::text(value, UTF8_STRING)
                }
                _ => None,
            })
            .collect(),
        CertificateName::Email => alternative
            .filter_map(|name| match name {
                GeneralName::RFC822Name(email) => Some((*email).to_owned()),
                _ => None,
            })
            .collect(),
        CertificateName::CommonName => leaf
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, OtherNameValue, SanType,
    };

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        CertifiedIssuer::self_signed(parameters, key).expect("an authority")
    }

    /// A certificate for clients with those alternative names and that common name.
    fn leaf(
        authority: &CertifiedIssuer<'_, KeyPair>,
        names: Vec<SanType>,
        common: Option<&str>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Vec<Vec<u8>> {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names;
        parameters.extended_key_usages = vec![purpose];
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            parameters.distinguished_name.push(DnType::CommonName, common);
        }
        let key = KeyPair::generate().expect("a key");
        vec![parameters.signed_by(&key, authority).expect("signed").der().to_vec()]
    }

    fn address(jid: &str) -> SanType {
        let kind = XMPP_ADDR.split('.').map(|arc| arc.parse().expect("a number")).collect();
        SanType::OtherName((kind, OtherNameValue::Utf8String(jid.to_owned())))
    }

    #[test]
    fn a_certificate_proves_the_accounts_it_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours = authority();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, ours.pem()).expect("written");
        let wall: WallMs = Arc::new(|| 1_800_000_000_000);
        let proves = |names: &[CertificateName], chain: Vec<Vec<u8>>| {
            let settings = Settings { authorities: file.clone(), names: names.to_vec() };
            let all = Certificates::new(&settings, "capulet.example", wall.clone());
            all.expect("usable").proved(&chain).join(" ")
        };
        let client = || ExtendedKeyUsagePurpose::ClientAuth;
        let email = |text: &str| SanType::Rfc822Name(text.try_into().expect("ASCII"));
        use CertificateName::{CommonName, Email, XmppAddr};
        let both = || vec![address("juliet@capulet.example"), address("nurse@capulet.example")];
        let juliet = "juliet@capulet.example";
        let two = leaf(&ours, both(), Some("x"), client());
        assert_eq!(proves(&[XmppAddr], two.clone()), format!("{juliet} nurse@capulet.example"));
        assert_eq!(proves(&[CommonName, XmppAddr], two.clone()), "x@capulet.example");
        assert_eq!(
            proves(&[Email, XmppAddr], two.clone()),
            format!("{juliet} nurse@capulet.example")
        );
        assert_eq!(proves(&[Email], two), "");
        let mail = leaf(&ours, vec![email(juliet)], None, client());
        assert_eq!(proves(&[XmppAddr, Email], mail), juliet);
        let elsewhere = leaf(&ours, vec![address("juliet@montague.example")], None, client());
        assert_eq!(proves(&[XmppAddr], elsewhere), "");
        // Of somebody else, for a server, or none at all.
        let stranger = leaf(&authority(), both(), None, client());
        assert_eq!(proves(&[XmppAddr], stranger), "");
        let server = leaf(&ours, both(), None, ExtendedKeyUsagePurpose::ServerAuth);
        assert_eq!(proves(&[XmppAddr], server), "");
        assert_eq!(proves(&[XmppAddr], Vec::new()), "");
        assert_eq!(proves(&[XmppAddr], vec![b"nonsense".to_vec()]), "");
    }

    #[test]
    fn a_certificate_out_of_time_proves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours = authority();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, ours.pem()).expect("written");
        let names = vec![address("juliet@capulet.example")];
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names;
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let chain = vec![parameters.signed_by(&key, &ours).expect("signed").der().to_vec()];
        for (wall_s, proved) in [(1_760_000_000, 0), (1_790_000_000, 1), (1_830_000_000, 0)] {
            let settings =
                Settings { authorities: file.clone(), names: vec![CertificateName::XmppAddr] };
            let wall: WallMs = Arc::new(move || wall_s * 1000);
            let all = Certificates::new(&settings, "capulet.example", wall).expect("usable");
            assert_eq!(all.proved(&chain).len(), proved, "{wall_s}");
        }
    }
}
