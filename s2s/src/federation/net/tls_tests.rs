//! Handshakes over pipes: which certificate is shown to whom, and that none is believed before it is judged.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::io::duplex;

use super::super::testing::{authority, net, pair};
use super::*;
use crate::federation::net::{Net, NetConfig, Ready, WhyNot};

type Chain = Vec<CertificateDer<'static>>;

/// What `from` sees of `to`, and `to` of `from`, and the ALPN.
async fn shake(
    (from, ours): (&Net, &str),
    (to, theirs): (&Net, &str),
    security: Security,
) -> (Chain, Chain, Option<Vec<u8>>) {
    let (near, far) = duplex(1 << 16);
    let name = server_name(theirs).unwrap();
    let connector = from.connector(ours, security);
    let acceptor = to.acceptor(security);
    let (dialled, accepted) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let chain = |certificates: Option<&[CertificateDer<'_>]>| {
        certificates.unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect()
    };
    let alpn = accepted.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    (
        chain(dialled.get_ref().1.peer_certificates()),
        chain(accepted.get_ref().1.peer_certificates()),
        alpn,
    )
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let root = authority();
    let a =
        net(&root, vec![pair(&root, &["a.example", "*.a.example"]), pair(&root, &["eu.example"])]);
    let b = net(&root, vec![pair(&root, &["b.example"]), pair(&root, &["xn--mnchen-3ya.example"])]);
    let check = async |ours: &str, theirs: &str| {
        for security in [Security::StartTls, Security::DirectTls] {
            let (their, our, alpn) = shake((&a, ours), (&b, theirs), security).await;
            assert_eq!(a.proves(&their, theirs), Ok(()), "{theirs}");
            assert_eq!(b.proves(&our, ours), Ok(()), "{ours}");
            assert_eq!(alpn.is_some(), security == Security::DirectTls);
        }
    };
    check("a.example", "b.example").await;
    check("rooms.a.example", "b.example").await;
    check("eu.example", "münchen.example").await;
    let (their, our, _) =
        shake((&a, "other.example"), (&b, "other.example"), Security::StartTls).await;
    assert_eq!(a.proves(&their, "b.example"), Ok(()), "the first, when none is right");
    assert_eq!(b.proves(&our, "a.example"), Ok(()));
    assert!(matches!(b.proves(&our, "other.example"), Err(WhyNot::WrongName(_))));
    assert_eq!(a.proves_ours("eu.example"), Ok(()));
    assert!(matches!(a.proves_ours("other.example"), Err(WhyNot::WrongName(_))));
}

#[tokio::test]
async fn a_stranger_gets_through_the_handshake_and_proves_nothing() {
    let (root, stranger) = (authority(), authority());
    let a = net(&root, vec![pair(&root, &["a.example"])]);
    let b = net(&stranger, vec![pair(&stranger, &["b.example"])]);
    let (their, our, _) = shake((&a, "a.example"), (&b, "b.example"), Security::StartTls).await;
    assert!(a.proves(&their, "b.example").is_err());
    assert!(b.proves(&our, "a.example").is_err());
    // What it trusts can change while it runs.
    let dns = vec!["127.0.0.1:9".parse().unwrap()];
    let pairs = vec![pair(&root, &["a.example"])];
    let trust = Some(stranger.pem.clone());
    a.reload(Ready::new(NetConfig { dns, trust, pairs, ..NetConfig::default() }).unwrap());
    assert_eq!(a.proves(&their, "b.example"), Ok(()));
    let refused = Ready::new(NetConfig::default()).err().unwrap();
    assert!(refused.to_string().contains("no certificate"), "{refused}");
}

#[tokio::test]
async fn a_peer_need_not_have_a_certificate() {
    let root = authority();
    let b = net(&root, vec![pair(&root, &["b.example"])]);
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody::new(&provider)))
        .with_no_client_auth();
    let (near, far) = duplex(1 << 16);
    let (acceptor, connector) =
        (b.acceptor(Security::StartTls), TlsConnector::from(Arc::new(config)));
    let (dialled, accepted) = tokio::join!(
        connector.connect(server_name("b.example").unwrap(), near),
        acceptor.accept(far)
    );
    dialled.unwrap();
    let accepted = accepted.unwrap();
    assert_eq!(accepted.get_ref().1.peer_certificates(), None);
    assert_eq!(b.proves(&[], "a.example"), Err(WhyNot::NoCertificate));
}

/// A key that signs for somebody else's certificate.
#[tokio::test]
async fn a_certificate_without_its_key_fails_the_handshake() {
    let root = authority();
    let b = net(&root, vec![pair(&root, &["b.example"])]);
    let provider = Arc::new(ring::default_provider());
    let (victim, thief) = (pair(&root, &["a.example"]), pair(&root, &["thief.example"]));
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&victim.chain).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&thief.key).unwrap();
    let signer = provider.key_provider.load_private_key(key).unwrap();
    let stolen = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain, signer));
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody::new(&provider)))
        .with_client_cert_resolver(Arc::new(stolen));
    let (near, far) = duplex(1 << 16);
    let (acceptor, connector) =
        (b.acceptor(Security::StartTls), TlsConnector::from(Arc::new(config)));
    let (_, accepted) = tokio::join!(
        connector.connect(server_name("b.example").unwrap(), near),
        acceptor.accept(far)
    );
    assert!(accepted.is_err());
}

#[test]
fn names_that_can_be_asked_for() {
    let check = |domain: &str, expected: Option<&str>| {
        let name = server_name(domain).map(|name| name.to_str().into_owned());
        assert_eq!(name.as_deref(), expected);
    };
    check("a.example", Some("a.example"));
    check("münchen.example", Some("xn--mnchen-3ya.example"));
    check("192.0.2.1", None);
    check("[2001:db8::1]", None);
}
