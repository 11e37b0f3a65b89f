//! Streams like a client's (XEP-0225): who is let in, what is bound, and what goes where.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use xmpp::sasl::scram::{Client, ClientBinding};
use xmpp::sasl::{Hash, Password};

use super::*;
use crate::transport::Transport;

const OPEN: &str = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='irc.chat.example' to='chat.example' version='1.0'>";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// What it is offered on a new stream.
    async fn opens(&mut self) -> String {
        self.says(OPEN).await;
        self.reads("</stream:features>").await
    }

    /// By SCRAM; what it is answered in the end.
    async fn proves(&mut self, domain: &str, secret: &str) -> String {
        let password = Password::new(secret);
        let mut client =
            Client::new(Hash::Sha256, ClientBinding::Unsupported, None, domain, &password, "nonce");
        let client = client.as_mut().expect("a client");
        let first = STANDARD.encode(client.first());
        self.says(&format!("<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>{first}</auth>")).await;
        let challenge = self.reads("</challenge>").await;
        let challenge = challenge.split(['>', '<']).nth(2).expect("a challenge");
        let answer = client.challenge(&STANDARD.decode(challenge).expect("base64")).expect("read");
        self.says(&format!("<response xmlns='{SASL}'>{}</response>", STANDARD.encode(answer)))
            .await;
        let end = self.reads(">").await;
        let rest = self.reads(">").await;
        end + &rest
    }

    /// Its answer.
    async fn binds(&mut self, what: &str, host: &str) -> String {
        self.says(&format!(
            "<iq id='b' type='set'><{what} xmlns='urn:xmpp:component:0'><hostname>{host}</hostname></{what}></iq>"
        ))
        .await;
        let answer = self.reads(">").await;
        if answer.ends_with("/>") { answer } else { answer + &self.reads("</iq>").await }
    }
}

/// Signed in for that domain, and nothing is bound.
async fn signed_in(house: &House, domain: &str, secret: &str) -> Line {
    let mut line = Line::new(house);
    let offered = line.opens().await;
    assert!(offered.contains("<mechanism>SCRAM-SHA-256</mechanism>"), "{offered}");
    assert!(offered.contains("<starttls ") && !offered.contains("PLAIN"), "{offered}");
    let end = line.proves(domain, secret).await;
    assert!(end.starts_with("<success "), "{end}");
    let offered = line.opens().await;
    assert!(offered.contains("<bind xmlns='urn:xmpp:component:0'><required/></bind>"), "{offered}");
    assert!(
        offered.contains("xmlns='jabber:client'") && offered.contains("to='irc.chat.example'"),
        "{offered}"
    );
    line
}

fn is_bound(house: &House, domain: &str) -> bool {
    is_connected(&house.node, &BareJid::parse(domain).expect("a JID"))
}

#[tokio::test]
async fn hostnames_are_bound_to_one_connection_and_unbound() {
    let (house, romeo) = romeo(CONFIG).await;
    let mut line = signed_in(&house, "one.chat.example", "of all").await;
    let answer = line.binds("bind", "one.chat.example").await;
    assert_eq!(
        answer,
        "<iq type='result' id='b'><bind xmlns='urn:xmpp:component:0'><hostname>one.chat.example</hostname></bind></iq>"
    );
    let answer = line.binds("bind", "two.chat.example/left").await;
    assert!(answer.contains("<hostname>two.chat.example/left</hostname>"), "{answer}");
    for (host, error) in [
        ("two.chat.example", "conflict"),
        ("one.chat.example", "conflict"),
        ("chat.example", "conflict"),
        ("irc.chat.example", "not-allowed"),
        ("nobody.example", "not-allowed"),
        ("bot@one.chat.example", "bad-request"),
        ("@", "bad-request"),
    ] {
        let answer = line.binds("bind", host).await;
        assert!(
            answer.contains("type='error'") && answer.contains(&format!("<{error} ")),
            "{host}: {answer}"
        );
    }
    // What is for either comes here, and goes from either.
    for domain in ["one.chat.example", "two.chat.example"] {
        house
            .says(&romeo, &format!("<message to='x@{domain}' id='1'><body>hi</body></message>"))
            .await;
        let got = line.reads("</message>").await;
        assert!(got.contains(&format!("to='x@{domain}'")) && !got.contains("xmlns="), "{got}");
        line.says(&format!("<message from='x@{domain}' to='romeo@chat.example/orchard' id='2'><body>x</body></message>")).await;
        assert!(house.mail(&romeo).await.join("").contains(&format!("from='x@{domain}'")));
    }
    // One less.
    assert_eq!(line.binds("unbind", "two.chat.example").await, "<iq type='result' id='b'/>");
    assert!(!is_bound(&house, "two.chat.example") && is_bound(&house, "one.chat.example"));
    assert!(line.binds("unbind", "two.chat.example").await.contains("<item-not-found "));
    house.says(&romeo, "<message to='two.chat.example' id='3'/>").await;
    assert!(house.mail(&romeo).await.join("").contains("service-unavailable"));
    line.says("<message from='two.chat.example' to='romeo@chat.example'/>").await;
    assert!(line.rest().await.contains("<stream:error><invalid-from "));
    assert!(!is_bound(&house, "one.chat.example"));
}

#[tokio::test]
async fn of_what_is_unbound_nothing_stays_but_what_is_not_written_yet() {
    let (house, romeo) = romeo(CONFIG).await;
    let mut line = signed_in(&house, "one.chat.example", "of all").await;
    line.binds("bind", "one.chat.example").await;
    // More than the wire holds, and less than makes it wait.
    let body = "x".repeat(100 << 10);
    for id in 0..2 {
        let message =
            format!("<message to='one.chat.example' id='{id}'><body>{body}</body></message>");
        house.says(&romeo, &message).await;
    }
    let mut left = Vec::new();
    for _ in 0..3 {
        for (what, is) in [("bind", true), ("unbind", false)] {
            line.says(&format!(
                "<iq id='b' type='set'><{what} xmlns='urn:xmpp:component:0'><hostname>two.chat.example</hostname></{what}></iq>"
            ))
            .await;
            house.until(what, || is_bound(&house, "two.chat.example") == is).await;
            let seats = perform::seats_of(&house.node, "two.chat.example");
            left.extend(seats.iter().map(Arc::downgrade));
        }
    }
    assert_eq!(left.len(), 3);
    house.until("they are gone", || left.iter().all(|seat| seat.upgrade().is_none())).await;
    line.reads("id='1'").await;
}

#[tokio::test]
async fn who_does_not_know_the_secret_is_not_let_in() {
    let house = House::with(CONFIG).await;
    for (domain, secret) in [
        ("irc.chat.example", "of all"),
        ("irc.chat.example", ""),
        ("nobody.example", "of all"),
        ("chat.example", "of all"),
    ] {
        let mut line = Line::new(&house);
        line.opens().await;
        let password = if secret.is_empty() { "x" } else { secret };
        let end = line.proves(domain, password).await;
        assert!(
            end.starts_with("<failure ") && end.contains("<not-authorized/>"),
            "{domain}: {end}"
        );
    }
    // However often they try: keys are made once of a secret.
    assert_eq!(house.node.components.known.derived.0.lock().len(), 1);
    // What comes in clear behind that is nobody's.
    let mut line = Line::new(&house);
    line.says(&format!("{OPEN}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{OPEN}")).await;
    assert!(!line.rest().await.contains("<proceed "));
    // Nothing comes before it is bound, and nothing before it is known.
    let mut line = Line::new(&house);
    line.opens().await;
    line.says("<message from='irc.chat.example' to='romeo@chat.example'/>").await;
    assert!(line.rest().await.contains("<stream:error><not-authorized "));
    let mut line = signed_in(&house, "irc.chat.example", "of its own").await;
    line.says("<message from='irc.chat.example' to='romeo@chat.example'/>").await;
    assert!(line.rest().await.contains("<stream:error><not-authorized "));
    // Without a word of which, it is that of the sign-in.
    let mut line = signed_in(&house, "irc.chat.example", "of its own").await;
    line.says("<iq id='b' type='get'><bind xmlns='urn:xmpp:component:0'/></iq>").await;
    assert!(line.reads("</iq>").await.contains("<bad-request "));
    line.says("<iq id='b' type='set'><bind xmlns='urn:xmpp:component:0'/></iq>").await;
    assert!(line.reads("</iq>").await.contains("<hostname>irc.chat.example</hostname>"));
    line.says("<iq id='u' type='set'><unbind xmlns='urn:xmpp:component:0'/></iq>").await;
    assert_eq!(line.reads(">").await, "<iq type='result' id='u'/>");
    assert!(!is_bound(&house, "irc.chat.example"));
    line.says("<iq id='u' type='set'><unbind xmlns='urn:xmpp:component:0'/></iq>").await;
    assert!(line.reads("</iq>").await.contains("<item-not-found "));
    assert!(line.binds("bind", "irc.chat.example").await.contains("type='result'"));
    // One of XEP-0114 is the same component.
    let mut other = Line::new(&house);
    other.shakes("irc.chat.example", "of its own").await;
    assert!(other.rest().await.contains("<stream:error><conflict "));
}

#[tokio::test]
async fn with_tls_a_secret_may_be_said_as_it_is() {
    let house = House::with(CONFIG).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
    let transport = Transport::plain(ours.expect("accepted").0);
    let peer = transport.peer_addr().expect("an address");
    let admission = Gate::new(GateLimits::default()).admit(peer.ip()).expect("admitted");
    tokio::spawn(serve(house.node.clone(), Accepted { transport, peer, admission }));
    let mut line = Line { line: theirs.expect("connected"), got: String::new() };
    assert!(line.opens().await.contains("<starttls "));
    line.says("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    line.reads("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(house.authority.as_bytes()).expect("PEM");
    roots.add(authority).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("chat.example").expect("a name");
    let tls = TlsConnector::from(Arc::new(config)).connect(name, line.line);
    let mut line = Line { line: tls.await.expect("a handshake"), got: String::new() };
    let offered = line.opens().await;
    assert!(offered.contains("<mechanism>SCRAM-SHA-256-PLUS</mechanism>"), "{offered}");
    assert!(
        offered.contains("<mechanism>PLAIN</mechanism>") && !offered.contains("<starttls "),
        "{offered}"
    );
    for (secret, expected) in [("wrong", "<failure "), ("of its own", "<success ")] {
        let plain = STANDARD.encode(format!("\0irc.chat.example\0{secret}"));
        line.says(&format!("<auth xmlns='{SASL}' mechanism='PLAIN'>{plain}</auth>")).await;
        let end = line.reads(">").await;
        assert!(end.contains(expected), "{end}");
        if expected == "<failure " {
            line.reads("</failure>").await;
        }
    }
    line.opens().await;
    assert!(line.binds("bind", "irc.chat.example").await.contains("type='result'"));
    assert!(is_bound(&house, "irc.chat.example"));
}

#[tokio::test(start_paused = true)]
async fn who_has_bound_nothing_any_more_has_a_while_to_bind_again() {
    let house = House::with(CONFIG).await;
    let mut line = signed_in(&house, "one.chat.example", "of all").await;
    line.binds("bind", "one.chat.example").await;
    for _ in 0..2 {
        line.binds("unbind", "one.chat.example").await;
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(line.binds("bind", "one.chat.example").await.contains("type='result'"));
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    line.binds("unbind", "one.chat.example").await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(line.rest().await.contains("<stream:error><connection-timeout "));
    house.until("its place is free", || house.node.components.connections() == 0).await;
    // Nor does it hold up a node that stops.
    let mut line = signed_in(&house, "one.chat.example", "of all").await;
    line.binds("bind", "one.chat.example").await;
    line.binds("unbind", "one.chat.example").await;
    crate::app::drain::begin_to_refuse(&house.node);
    assert!(line.rest().await.contains("<stream:error><system-shutdown "));
}
