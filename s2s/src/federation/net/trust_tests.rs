//! The table of certificates (RFC 6120 §13.7.1, RFC 9525): what each proves of `a.example`, and what is said of those that prove nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};

use super::*;

const DOMAIN: &str = "a.example";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn authority(name: &str) -> Authority {
    let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
    let certificate = params.self_signed(&key).unwrap();
    let (der, pem) = (certificate.der().clone(), certificate.pem());
    Authority { issuer: Issuer::new(params, key), der, pem }
}

fn below(above: &Authority, name: &str) -> Authority {
    let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
    let certificate = params.signed_by(&key, &above.issuer).unwrap();
    let (der, pem) = (certificate.der().clone(), certificate.pem());
    Authority { issuer: Issuer::new(params, key), der, pem }
}

/// A leaf with these names: `dns:…`, `srv:…`, `xmpp:…`, `cn:…`.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let other =
        |arc: u64, text: &str| SanType::OtherName((vec![1, 3, 6, 1, 5, 5, 7, 8, arc], text.into()));
    for name in names {
        match name.split_once(':').unwrap() {
            ("dns", name) => {
                params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
            }
            // rcgen writes a UTF8String where RFC 4985 has an IA5String: see `srv_id`.
            ("srv", name) => params.custom_extensions.push(srv_id(name)),
            ("xmpp", name) => params.subject_alt_names.push(other(5, name)),
            (_, name) => params.distinguished_name.push(DnType::CommonName, name),
        }
    }
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// subjectAltName with one SRV-ID, written by hand.
fn srv_id(name: &str) -> CustomExtension {
    let length = |content: &[u8]| u8::try_from(content.len()).unwrap();
    let element = |tag: u8, content: &[u8]| [&[tag, length(content)], content].concat();
    let value = element(0xa0, &element(0x16, name.as_bytes()));
    let oid = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 8, 7];
    let names = element(0x30, &element(0xa0, &[oid.as_slice(), &value].concat()));
    CustomExtension::from_oid_content(&[2, 5, 29, 17], names)
}

fn issue(above: &Authority, params: &CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.clone().signed_by(&key, &above.issuer).unwrap().der().clone()
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime::since_unix_epoch(since)
}

fn trust(authority: &Authority) -> Trust {
    Trust::new(Some(authority.pem.as_bytes()), None).unwrap()
}

/// What `trust` says of a chain, in words; `good` if it proves [`DOMAIN`].
fn words(trust: &Trust, chain: &[CertificateDer<'static>], domain: &str) -> String {
    trust.proves(chain, domain, now()).map_or_else(|why| why.to_string(), |()| "good".to_owned())
}

#[test]
fn names_that_count() {
    let root = authority("Root");
    let trust = trust(&root);
    let check = |names: &[&str], domain: &str, expected: &str| {
        let chain = [issue(&root, &params(names))];
        assert_eq!(words(&trust, &chain, domain), expected, "{names:?}");
    };
    let other = |names: &str| format!("of another name: it names {names}");
    check(&["dns:a.example"], DOMAIN, "good");
    check(&["dns:A.EXAMPLE", "cn:elsewhere"], DOMAIN, "good");
    check(&["dns:*.example"], DOMAIN, "good");
    check(&["dns:*.example"], "b.a.example", &other("*.example"));
    check(&["dns:b.example", "dns:a.example"], DOMAIN, "good");
    check(&["dns:xn--mnchen-3ya.example"], "münchen.example", "good");
    // B-205, wrong host; B-211, the server that DNS names instead of the domain.
    check(&["dns:b.example"], DOMAIN, &other("b.example"));
    check(&["dns:xmpp.a.example"], DOMAIN, &other("xmpp.a.example"));
    // B-206.
    let common = "without a subjectAltName: the Common Name does not count";
    check(&["cn:a.example"], DOMAIN, common);
    check(&["cn:a.example", "dns:b.example"], DOMAIN, common);
    check(&["cn:b.example"], DOMAIN, &other("nobody"));
    // S-031: nothing is looked for in the printed form of a name.
    check(&["cn:x,CN=a.example"], DOMAIN, &other("nobody"));
    // B-208.
    check(&["srv:_xmpp-server.a.example"], DOMAIN, "good");
    check(&["srv:_xmpp-client.a.example"], DOMAIN, &other("_xmpp-client.a.example"));
    check(&["srv:_xmpp-server.b.example"], DOMAIN, &other("_xmpp-server.b.example"));
    // B-209.
    check(&["xmpp:a.example"], DOMAIN, "good");
    check(&["xmpp:user@a.example"], DOMAIN, &other("user@a.example"));
    check(&["xmpp:a.example/x"], DOMAIN, &other("a.example/x"));
}

#[test]
fn chains_that_count() {
    let (root, stranger) = (authority("Root"), authority("Stranger"));
    let between = below(&root, "Between");
    let trust = trust(&root);
    let leaf = params(&["dns:a.example"]);
    let check = |chain: &[CertificateDer<'static>], expected: &str| {
        assert_eq!(words(&trust, chain, DOMAIN), expected);
    };
    check(&[issue(&root, &leaf)], "good");
    check(&[issue(&root, &leaf), root.der.clone()], "good");
    check(&[issue(&between, &leaf), between.der.clone()], "good");
    check(&[issue(&between, &leaf)], "of an authority that is not trusted here");
    check(
        &[issue(&stranger, &leaf), stranger.der.clone()],
        "of an authority that is not trusted here",
    );
    check(&[], "no certificate");
    // An authority of the same name, with another key.
    let double = authority("Root");
    let found = words(&trust, &[issue(&double, &leaf)], DOMAIN);
    assert!(found.starts_with("not usable"), "{found}");
    // S-030.
    let key = KeyPair::generate().unwrap();
    let mut own = params(&["dns:a.example", "cn:a.example"]);
    check(&[own.self_signed(&key).unwrap().der().clone()], "self-signed");
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    check(&[own.self_signed(&key).unwrap().der().clone()], "self-signed");
    check(&[CertificateDer::from(vec![0x30, 0])], "not usable: it cannot be read");
    // A leaf cannot vouch for another.
    let key = KeyPair::generate().unwrap();
    let signed = params(&["dns:b.example", "cn:b"]).signed_by(&key, &root.issuer).unwrap();
    let false_issuer = Issuer::new(params(&["dns:b.example", "cn:b"]), key);
    let victim = leaf.signed_by(&KeyPair::generate().unwrap(), &false_issuer).unwrap();
    let found = words(&trust, &[victim.der().clone(), signed.der().clone()], DOMAIN);
    assert_ne!(found, "good");
}

#[test]
fn authorities_that_may_name_only_some() {
    let root = authority("Root");
    let constrained = |name: &str, permitted: &str| {
        let mut params = authority_params(name);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(permitted.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        params
    };
    let key = KeyPair::generate().unwrap();
    let params_below = constrained("Between", "b.example");
    let certificate = params_below.signed_by(&key, &root.issuer).unwrap();
    let (der, pem) = (certificate.der().clone(), certificate.pem());
    let between = Authority { issuer: Issuer::new(params_below, key), der, pem };
    let check = |trust: &Trust, names: &[&str], domain: &str, expected: &str| {
        let chain = [issue(&between, &params(names)), between.der.clone()];
        assert_eq!(words(trust, &chain, domain), expected, "{names:?}");
    };
    let others =
        "of an authority that may name only some (name constraints): only a dNSName counts";
    // The authority in between is believed for its own sake too.
    for trust in [trust(&root), trust(&between)] {
        check(&trust, &["dns:b.example"], "b.example", "good");
        check(&trust, &["srv:_xmpp-server.a.example"], DOMAIN, others);
        check(&trust, &["xmpp:a.example"], DOMAIN, others);
        check(&trust, &["xmpp:a.example", "dns:b.example"], DOMAIN, others);
        check(&trust, &["xmpp:b.example", "dns:b.example"], "b.example", "good");
        let chain = [issue(&between, &params(&["dns:a.example"])), between.der.clone()];
        assert!(words(&trust, &chain, DOMAIN).starts_with("not usable"));
    }
}

#[test]
fn the_way_leads_through_who_is_on_it() {
    let root = authority("Root");
    let (between, beside) = (below(&root, "Between"), below(&root, "Beside"));
    let leaf = issue(&between, &params(&["dns:a.example"]));
    let shown = [between.der.clone(), beside.der.clone()];
    let leads = |named: &CertificateDer<'static>| {
        trust(&root).leads_through(&|one| one == named, &leaf, &shown, now())
    };
    assert!(leads(&root.der) && leads(&between.der));
    assert!(!leads(&beside.der) && !leads(&leaf));
}

#[test]
fn either_usage_is_enough_and_another_is_not() {
    let root = authority("Root");
    let check = |usages: &[ExtendedKeyUsagePurpose], expected: &str| {
        let mut leaf = params(&["dns:a.example"]);
        leaf.extended_key_usages = usages.to_vec();
        assert_eq!(words(&trust(&root), &[issue(&root, &leaf)], DOMAIN), expected, "{usages:?}");
    };
    check(&[ExtendedKeyUsagePurpose::ServerAuth], "good");
    check(&[ExtendedKeyUsagePurpose::ClientAuth], "good");
    check(&[], "good");
    check(&[ExtendedKeyUsagePurpose::Any], "good");
    check(&[ExtendedKeyUsagePurpose::EmailProtection], "good neither for servers nor for clients");
}

#[test]
fn times_and_revocations() {
    let root = authority("Root");
    let mut leaf = params(&["dns:a.example"]);
    leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2002, 1, 1);
    assert_eq!(words(&trust(&root), &[issue(&root, &leaf)], DOMAIN), "expired");
    leaf.not_before = rcgen::date_time_ymd(2090, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2091, 1, 1);
    assert_eq!(words(&trust(&root), &[issue(&root, &leaf)], DOMAIN), "not yet valid");
    // The time is handed in: it is nobody's clock.
    let day = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400));
    let chain = [issue(&root, &leaf)];
    assert_eq!(trust(&root).proves(&chain, DOMAIN, day(43_900)), Ok(()));

    let mut leaf = params(&["dns:a.example"]);
    leaf.serial_number = Some(SerialNumber::from(4711_u64));
    let list = |serial: u64| {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&root.issuer).unwrap().pem().unwrap();
        Trust::new(Some(root.pem.as_bytes()), Some(pem.as_bytes())).unwrap()
    };
    let chain = [issue(&root, &leaf)];
    assert_eq!(words(&list(4711), &chain, DOMAIN), "revoked");
    assert_eq!(words(&list(4712), &chain, DOMAIN), "good");
    // A list of one authority says nothing of another's.
    let other = authority("Other");
    let both = Trust::new(Some([root.pem, other.pem.clone()].concat().as_bytes()), None).unwrap();
    assert_eq!(words(&both, &[issue(&other, &leaf)], DOMAIN), "good");
}

#[test]
fn floods_are_not_looked_at() {
    let root = authority("Root");
    let leaf = issue(&root, &params(&["dns:a.example"]));
    let chain = vec![leaf; CHAIN_MAX + 1];
    assert_eq!(words(&trust(&root), &chain, DOMAIN), "with more than 10 certificates");
    let names: Vec<String> = (0..2_000).map(|n| format!("dns:{n}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["dns:a.example"]).collect();
    let leaf = issue(&root, &params(&names));
    assert_eq!(words(&trust(&root), &[leaf], DOMAIN), "with too many names");
    let mut leaf = params(&["dns:a.example"]);
    let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    unknown.set_criticality(true);
    leaf.custom_extensions.push(unknown);
    let found = words(&trust(&root), &[issue(&root, &leaf)], DOMAIN);
    assert!(found.starts_with("not usable"), "{found}");
    // Authorities below authorities below authorities.
    let mut above = authority("0");
    let trust = trust(&above);
    let mut chain = Vec::new();
    for n in 1..=8 {
        above = below(&above, &n.to_string());
        chain.insert(0, above.der.clone());
    }
    chain.insert(0, issue(&above, &params(&["dns:a.example"])));
    assert_ne!(words(&trust, &chain, DOMAIN), "good");
}

#[test]
fn files_that_hold_nothing_are_refused() {
    let root = authority("Root");
    let why = |authorities: &str, revoked: Option<&str>| {
        Trust::new(Some(authorities.as_bytes()), revoked.map(str::as_bytes)).unwrap_err()
    };
    assert_eq!(why("", None), "there is no authority in it");
    assert_eq!(why(&root.pem, Some("")), "there is no revocation list in it");
    let broken = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    assert!(why(&root.pem, Some(broken)).starts_with("the revocation list cannot be used"));
}
