//! Transport: the tests of the whole: real sockets on loopback, both ends in one task.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::tls::Pair;
use super::*;

/// A server certificate and what a client needs to believe it.
struct Authority {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

fn authority(name: &str) -> Authority {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("makes");
    Authority {
        chain: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

impl Authority {
    fn pair(&self) -> Pair {
        Pair::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a pair")
    }
}

fn acceptor(authorities: &[&Authority]) -> TlsAcceptor {
    TlsAcceptor::new(authorities.iter().map(|one| one.pair()).collect(), true).expect("a store")
}

fn client_config(
    trusted: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).expect("a root");
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

type TlsClient = tokio_rustls::client::TlsStream<TcpStream>;

async fn pair() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (Transport::plain(server.expect("accepts").0), client.expect("connects"))
}

/// Both ends of a handshake.
async fn shake(
    acceptor: &TlsAcceptor,
    config: ClientConfig,
    name: &str,
    direct: bool,
) -> (Result<Transport, TlsError>, io::Result<TlsClient>) {
    let (server, client) = pair().await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let server = async {
        if direct { server.direct_tls(acceptor).await } else { server.start_tls(acceptor).await }
    };
    tokio::join!(server, connector.connect(name, client))
}

fn text(buffer: &Buffer) -> &str {
    std::str::from_utf8(buffer.filled()).expect("text")
}

#[test]
fn a_transport_is_small() {
    println!("Transport: {} bytes, plain or TLS", size_of::<Transport>());
    println!("TlsStream: {} bytes on the heap", size_of::<tls::TlsStream>());
    assert!(size_of::<Transport>() <= 64);
    assert!(size_of::<tls::TlsStream>() <= 2048);
}

#[tokio::test]
async fn plain_bytes_come_and_go_and_idle_holds_no_buffer() {
    let (mut server, mut client) = pair().await;
    let mut input = Buffer::new();
    assert_eq!(
        server.try_read(&mut input).expect_err("nothing yet").kind(),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(input.owned_bytes(), 0);
    client.write_all(b"<presence/>").await.expect("writes");
    server.readable().await.expect("readable");
    assert_eq!(input.owned_bytes(), 0);
    assert_eq!(server.read(&mut input).await.expect("reads"), 11);
    assert_eq!(text(&input), "<presence/>");
    input.clear();

    let mut output = Buffer::new();
    output.put(b"<iq/>");
    assert!(server.try_write(&mut output).expect("writes"));
    assert_eq!(output.owned_bytes(), 0);
    let mut got = [0; 5];
    client.read_exact(&mut got).await.expect("reads");
    assert_eq!(&got, b"<iq/>");
    drop(client);
    assert_eq!(server.read(&mut input).await.expect("the end"), 0);
    assert_eq!(input.owned_bytes(), 0);
}

#[tokio::test]
async fn a_full_socket_keeps_the_remainder_and_goes_on_where_it_stopped() {
    let (mut server, mut client) = pair().await;
    let all: Vec<u8> =
        (0..6_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let mut output = Buffer::new();
    output.put(&all);
    assert!(!server.try_write(&mut output).expect("writes some"));
    assert!(!output.is_empty() && output.len() < all.len());
    let mut got = vec![0; all.len()];
    let (written, read) = tokio::join!(server.write(&mut output), client.read_exact(&mut got));
    written.expect("writes");
    read.expect("reads");
    assert!(got == all && output.owned_bytes() == 0);
}

async fn check_tls(version: &'static rustls::SupportedProtocolVersion, tls13: bool) {
    let authority = authority("chat.example");
    let config = client_config(&authority, version, &[]);
    let (server, client) = shake(&acceptor(&[&authority]), config, "chat.example", false).await;
    let (mut server, mut client) = (server.expect("accepts"), client.expect("connects"));
    let info = server.tls_info().expect("TLS");
    let theirs = client
        .get_ref()
        .1
        .export_keying_material([0_u8; 32], b"EXPORTER-Channel-Binding", Some(&[]))
        .expect("exports");
    assert_eq!(info.exporter, Some(theirs));
    assert_eq!((info.tls13, info.alpn, info.client_certificates), (tls13, None, Vec::new()));
    assert_eq!(info.server_name.as_deref(), Some("chat.example"));
    // rcgen signs with ECDSA and SHA-256.
    use sha2::Digest;
    assert_eq!(info.end_point.expect("defined"), sha2::Sha256::digest(&authority.der).to_vec());

    let mut input = Buffer::new();
    assert_eq!(
        server.try_read(&mut input).expect_err("nothing yet").kind(),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(input.owned_bytes(), 0);
    client.write_all(b"<presence/>").await.expect("writes");
    while input.len() < 11 {
        server.read(&mut input).await.expect("reads");
    }
    assert_eq!(text(&input), "<presence/>");
    input.clear();

    // More than the socket takes at once, both ways.
    let all = vec![7_u8; 3_000_000];
    let mut output = Buffer::new();
    output.put(&all);
    let mut got = vec![0; all.len()];
    let (written, read) = tokio::join!(server.write(&mut output), client.read_exact(&mut got));
    written.expect("writes");
    read.expect("reads");
    assert!(got == all);
    let (written, ()) = tokio::join!(client.write_all(&all), async {
        while input.len() < all.len() {
            assert_ne!(server.read(&mut input).await.expect("reads"), 0);
        }
    });
    written.expect("writes");
    assert!(input.filled() == all);

    let mut last = Buffer::new();
    last.put(b"</stream:stream>");
    let mut rest = Vec::new();
    let (_, ended) = tokio::join!(server.close(last), async {
        let ended = client.read_to_end(&mut rest).await;
        drop(client);
        ended
    });
    ended.expect("close_notify came");
    assert_eq!(rest, b"</stream:stream>");
}

#[tokio::test]
async fn tls_1_3_carries_bytes_and_exports_the_channel_binding() {
    check_tls(&rustls::version::TLS13, true).await;
}

#[tokio::test]
async fn tls_1_2_carries_bytes_and_exports_the_channel_binding() {
    check_tls(&rustls::version::TLS12, false).await;
}

#[tokio::test]
async fn two_records_that_arrive_together_are_not_left_behind() {
    let authority = authority("chat.example");
    let config = client_config(&authority, &rustls::version::TLS13, &[]);
    let (server, client) = shake(&acceptor(&[&authority]), config, "chat.example", false).await;
    let (mut server, client) = (server.expect("accepts"), client.expect("connects"));
    let (mut socket, mut tls): (TcpStream, ClientConnection) = client.into_inner();
    let mut wire = Vec::new();
    for record in [&b"<a/>"[..], b"<b/>", b"<c/>"] {
        use std::io::Write;
        tls.writer().write_all(record).expect("fits");
        tls.write_tls(&mut wire).expect("a vector");
    }
    // Cut in the middle of a record: what is whole is read, the rest waits for its end without being lost.
    let (head, tail) = wire.split_at(wire.len() - 3);
    socket.write_all(head).await.expect("writes");
    let mut input = Buffer::new();
    while input.len() < 8 {
        server.readable().await.expect("readable");
        server.read(&mut input).await.expect("reads");
    }
    assert_eq!(text(&input), "<a/><b/>");
    assert!(server.try_read(&mut input).is_err());
    socket.write_all(tail).await.expect("writes");
    server.read(&mut input).await.expect("reads");
    assert_eq!(text(&input), "<a/><b/><c/>");
}

#[tokio::test]
async fn direct_tls_takes_xmpp_client_or_nothing_and_refuses_other_protocols() {
    let authority = authority("chat.example");
    let acceptor = acceptor(&[&authority]);
    let ours: &[u8] = b"xmpp-client";
    let cases = [(vec![ours], Some(ours)), (vec![b"h2", ours], Some(ours)), (vec![], None)];
    for (offered, agreed) in &cases {
        let config = client_config(&authority, &rustls::version::TLS13, offered);
        let (server, client) = shake(&acceptor, config, "chat.example", true).await;
        client.expect("connects");
        assert_eq!(server.expect("accepts").tls_info().expect("TLS").alpn.as_deref(), *agreed);
    }
    let config = client_config(&authority, &rustls::version::TLS13, &[b"h2"]);
    let (server, client) = shake(&acceptor, config, "chat.example", true).await;
    assert!(matches!(server, Err(TlsError::Tls(rustls::Error::NoApplicationProtocol))));
    let told = client.expect_err("refused").to_string();
    assert!(told.contains("NoApplicationProtocol"), "{told}");
}

#[tokio::test]
async fn the_server_name_chooses_and_a_reload_is_seen_by_the_next_handshake() {
    let (first, second) = (authority("one.example"), authority("*.two.example"));
    let store = acceptor(&[&first, &second]);
    let v13 = &rustls::version::TLS13;
    for (name, shown) in [("one.example", &first), ("a.two.example", &second)] {
        let (server, client) = shake(&store, client_config(shown, v13, &[]), name, false).await;
        client.expect("believes the one it trusts");
        server.expect("accepts");
    }
    let newer = authority("one.example");
    let config = || client_config(&newer, v13, &[]);
    let (_, client) = shake(&store, config(), "one.example", false).await;
    client.expect_err("still the old one");
    store.reload(store.ready(vec![newer.pair()]).expect("good"));
    let (server, client) = shake(&store, config(), "one.example", false).await;
    client.expect("the new one");
    server.expect("accepts");
    assert!(store.ready(Vec::new()).is_err());
}

#[tokio::test]
async fn a_client_certificate_is_handed_up_unjudged() {
    let (authority, user) = (authority("chat.example"), authority("romeo"));
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).expect("a root");
    let pair = user.pair();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(pair.chain, pair.key)
            .expect("a key");
    let (server, client) = shake(&acceptor(&[&authority]), config, "chat.example", false).await;
    client.expect("connects");
    let shown = server.expect("accepts").tls_info().expect("TLS").client_certificates;
    assert_eq!(shown, [user.der.to_vec()]);
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_an_error_and_the_end() {
    let authority = authority("chat.example");
    let (server, mut client) = pair().await;
    client.write_all(b"<stream:stream xmlns='jabber:client'>").await.expect("writes");
    let failed = server.start_tls(&acceptor(&[&authority])).await;
    assert!(matches!(failed, Err(TlsError::Tls(_))), "{failed:?}");
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_the_connection() {
    let authority = authority("chat.example");
    let config = client_config(&authority, &rustls::version::TLS13, &[]);
    let (server, client) = shake(&acceptor(&[&authority]), config, "chat.example", false).await;
    let (mut server, client) = (server.expect("accepts"), client.expect("connects"));
    let (mut socket, _) = client.into_inner();
    socket
        .write_all(b"\x17\x03\x03\x00\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
        .await
        .expect("writes");
    let mut input = Buffer::new();
    let failed = server.read(&mut input).await.expect_err("tampered");
    assert_eq!((failed.kind(), input.owned_bytes()), (io::ErrorKind::InvalidData, 0));
}

#[tokio::test]
async fn a_goodbye_reaches_a_peer_that_is_still_talking() {
    let (server, mut client) = pair().await;
    client.write_all(&[b'x'; 5000]).await.expect("writes");
    let mut last = Buffer::new();
    last.put(b"<stream:error/></stream:stream>");
    let mut rest = Vec::new();
    let (_, read) = tokio::join!(server.close(last), async {
        let read = client.read_to_end(&mut rest).await;
        drop(client);
        read
    });
    read.expect("no reset");
    assert_eq!(rest, b"<stream:error/></stream:stream>");
}
