//! Signing in with what other backends than the internal one know, from the first byte to the bind: tokens over a wire in memory, certificates
//! over TLS.

mod turns;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use xmpp::sm::Nonza;

use super::*;
use crate::homes::accounts::{self, Account};
use crate::testing::{House, Wire, bare};
use crate::transport::Transport;
use crate::transport::tcp::{Gate, GateLimits};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OPEN: &str = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
    to='chat.example' version='1.0'>";
const BIND: &str = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";

/// A client, by whatever it is connected.
struct Client<S> {
    line: S,
    got: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn sends(&mut self, text: &str) {
        self.line.write_all(text.as_bytes()).await.expect("sent");
        self.line.flush().await.expect("sent");
    }

    /// Everything up to and with `what`.
    async fn reads(&mut self, what: &str) -> String {
        let soon = std::time::Duration::from_secs(10);
        loop {
            if let Some(at) = self.got.find(what) {
                let rest = self.got.split_off(at + what.len());
                return std::mem::replace(&mut self.got, rest);
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(soon, self.line.read(&mut bytes)).await;
            let count = read.unwrap_or_else(|_| panic!("no {what} in {:?}", self.got));
            let count = count.expect("read");
            assert!(count > 0, "{what} in {:?}", self.got);
            self.got.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    /// Opens the stream: the mechanisms it is offered.
    async fn opens(&mut self) -> String {
        self.sends(OPEN).await;
        let features = self.reads("</stream:features>").await;
        let (plainly, _) = features.split_once("</mechanisms>").expect("SASL as RFC 6120 has it");
        let names = plainly.split("<mechanism>").skip(1);
        names.filter_map(|rest| rest.split('<').next()).collect::<Vec<_>>().join(" ")
    }

    /// The first answer to a mechanism's first message: its name, and what is inside.
    async fn says(&mut self, mechanism: &str, message: &str) -> String {
        let message = if message.is_empty() { "=".into() } else { STANDARD.encode(message) };
        let auth = format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{message}</auth>"
        );
        self.sends(&auth).await;
        self.answer().await
    }

    async fn answer(&mut self) -> String {
        let start = self.reads(">").await;
        if start.ends_with("/>") {
            return "success".into();
        }
        match start.split(' ').next() {
            Some("<challenge") => {
                let text = self.reads("</challenge>").await;
                let text = STANDARD.decode(text.trim_end_matches("</challenge>")).expect("base64");
                String::from_utf8(text).expect("text")
            }
            _ => {
                let inside = self.reads("</failure>").await;
                let name = inside.trim_start_matches('<').split([' ', '/', '>']).next();
                name.unwrap_or_default().to_owned()
            }
        }
    }

    /// Binds, after a success.
    async fn binds(&mut self) {
        self.sends(OPEN).await;
        self.reads("</stream:features>").await;
        self.sends(BIND).await;
        self.reads("</iq>").await;
    }
}

fn accepted(transport: Transport) -> Accepted {
    let peer = transport.peer_addr().expect("an address");
    let admission = Gate::new(GateLimits::default()).admit(peer.ip()).expect("admitted");
    Accepted { transport, peer, admission }
}

fn accept(house: &House, transport: Transport, direct: bool) {
    tokio::spawn(serve(house.node.clone(), accepted(transport), direct));
}

fn client(house: &House) -> Client<tokio::io::DuplexStream> {
    let (transport, line) = Wire::pair();
    accept(house, transport, false);
    Client { line, got: String::new() }
}

fn token(claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let proof = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(proof))
}

fn bearer(claims: &str) -> String {
    format!("n,,\x01auth=Bearer {}\x01\x01", token(claims))
}

/// Tokens, by OAUTHBEARER or as passwords, and the accounts of the house.
async fn house_of_tokens(dir: &Path) -> House {
    house_of_tokens_with(dir, "").await
}

async fn house_of_tokens_with(dir: &Path, more: &str) -> House {
    let file = dir.join("secret");
    std::fs::write(&file, SECRET).expect("written");
    House::with(&format!(
        "listen = '127.0.0.1:0'\nlisten_tls = '127.0.0.1:0'\nallow_plain_without_tls = true\n\
         [[auth.backends]]\nkind = 'internal'\n\
         [[auth.backends]]\nkind = 'jwt'\nas_password = true\nwithout_end = true\n\
         [[auth.backends.keys]]\nalgorithm = 'HS256'\nfile = '{}'\n{more}",
        file.display()
    ))
    .await
}

async fn record(house: &House, name: &str) -> Option<Account> {
    Account::load(house.node.storage.as_ref(), &bare(name)).await.expect("read")
}

#[tokio::test]
async fn a_token_signs_in_whoever_it_names_and_makes_the_account() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let mut first = client(&house);
    // Over a wire there is no channel to bind to.
    assert_eq!(first.opens().await, "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 OAUTHBEARER PLAIN");
    assert!(record(&house, "juliet").await.is_none());
    assert_eq!(first.says("OAUTHBEARER", &bearer(r#"{"sub":"juliet"}"#)).await, "success");
    let made = record(&house, "juliet").await.expect("made");
    assert!(made.keys().next().is_none() && !made.disabled);
    first.binds().await;
    // Its password is not one that could be changed here.
    first
        .sends("<iq type='set' id='p'><query xmlns='jabber:iq:register'><username>juliet</username><password>a long pass phrase</password></query></iq>")
        .await;
    assert!(first.reads("</iq>").await.contains("<not-allowed"));
    // The second time the account is there; a token does as a password too.
    let mut second = client(&house);
    second.opens().await;
    let token = token(r#"{"sub":"juliet@chat.example"}"#);
    assert_eq!(second.says("PLAIN", &format!("\0juliet\0{token}")).await, "success");
    // Suspended here: whatever the token says.
    accounts::set_disabled(&house.node.homes, &bare("juliet"), true).await.expect("done");
    for (mechanism, message) in
        [("OAUTHBEARER", bearer(r#"{"sub":"juliet"}"#)), ("PLAIN", format!("\0juliet\0{token}"))]
    {
        let mut third = client(&house);
        third.opens().await;
        assert_eq!(third.says(mechanism, &message).await, "account-disabled", "{mechanism}");
    }
}

#[tokio::test]
async fn a_bad_token_is_explained_refused_and_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let understood = format!(
        "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}</response>",
        STANDARD.encode("\x01")
    );
    let mut romeo = client(&house);
    romeo.opens().await;
    for (claims, expected) in [
        (r#"{"sub":"a b"}"#, "not-authorized"),
        (r#"{"sub":"romeo","exp":1}"#, "credentials-expired"),
        (r#"{"sub":"romeo@elsewhere.example"}"#, "not-authorized"),
    ] {
        let explained = romeo.says("OAUTHBEARER", &bearer(claims)).await;
        assert_eq!(explained, r#"{"status":"invalid_token"}"#);
        romeo.sends(&understood).await;
        assert_eq!(romeo.answer().await, expected, "{claims}");
    }
    let somebody = bearer(r#"{"sub":"romeo"}"#).replace("n,,", "n,a=juliet@chat.example,");
    assert_eq!(romeo.says("OAUTHBEARER", &somebody).await, "invalid-authzid");
    assert_eq!(romeo.says("OAUTHBEARER", "n,,\x01\x01").await, "malformed-request");
    // Whoever guesses has to wait, whatever he then sends.
    let mut guesses = 0;
    'guessing: loop {
        let mut guesser = client(&house);
        guesser.opens().await;
        for _ in 0..4 {
            let said = guesser.says("OAUTHBEARER", "n,a=romeo,\x01auth=Bearer x\x01\x01").await;
            if said == "temporary-auth-failure" {
                break 'guessing;
            }
            guesses += 1;
            assert!(guesses < 40, "nobody slows a guesser down");
            guesser.sends(&understood).await;
            guesser.answer().await;
        }
    }
    let mut late = client(&house);
    late.opens().await;
    let right = bearer(r#"{"sub":"romeo"}"#).replace("n,,", "n,a=romeo,");
    assert_eq!(late.says("OAUTHBEARER", &right).await, "temporary-auth-failure");
}

/// A client with that certificate, over TLS from the first byte.
async fn tls_client(
    house: &House,
    certificate: Option<(Vec<u8>, Vec<u8>)>,
) -> Client<tokio_rustls::client::TlsStream<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
    accept(house, Transport::plain(ours.expect("accepted").0), true);
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(house.authority.as_bytes()).expect("PEM");
    roots.add(authority).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => config.with_no_client_auth(),
        Some((leaf, key)) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
            config.with_client_auth_cert(vec![leaf.into()], key).expect("fits")
        }
    };
    config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    let name = ServerName::try_from("chat.example").expect("a name");
    let tls = TlsConnector::from(Arc::new(config)).connect(name, theirs.expect("connected"));
    Client { line: tls.await.expect("a handshake"), got: String::new() }
}

#[tokio::test]
async fn a_certificate_signs_in_whom_it_names() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    let authority = || {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        CertifiedIssuer::self_signed(parameters, key).expect("an authority")
    };
    let issued = |by: &CertifiedIssuer<'_, KeyPair>, jid: &str| {
        let mut parameters = CertificateParams::default();
        let email = SanType::Rfc822Name(jid.try_into().expect("ASCII"));
        parameters.subject_alt_names = vec![email];
        let key = KeyPair::generate().expect("a key");
        let leaf = parameters.signed_by(&key, by).expect("signed");
        Some((leaf.der().to_vec(), key.serialize_der()))
    };
    let (ours, strangers) = (authority(), authority());
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, ours.pem()).expect("written");
    let house = House::with(&format!(
        "[[auth.backends]]\nkind = 'certificate'\nnames = ['xmpp-addr', 'email']\nauthorities = '{}'\n\
         [[auth.backends]]\nkind = 'internal'\n",
        file.display()
    ))
    .await;
    let mut juliet = tls_client(&house, issued(&ours, "juliet@chat.example")).await;
    assert!(juliet.opens().await.starts_with("EXTERNAL SCRAM-SHA-512-PLUS"));
    assert_eq!(juliet.says("EXTERNAL", "romeo@chat.example").await, "invalid-authzid");
    assert_eq!(juliet.says("EXTERNAL", "juliet@chat.example").await, "success");
    juliet.binds().await;
    assert!(record(&house, "juliet").await.is_some());
    accounts::set_disabled(&house.node.homes, &bare("juliet"), true).await.expect("done");
    let mut again = tls_client(&house, issued(&ours, "juliet@chat.example")).await;
    again.opens().await;
    assert_eq!(again.says("EXTERNAL", "").await, "account-disabled");
    for certificate in
        [None, issued(&strangers, "juliet@chat.example"), issued(&ours, "juliet@elsewhere.example")]
    {
        let mut other = tls_client(&house, certificate).await;
        assert!(other.opens().await.starts_with("SCRAM-SHA-512-PLUS"));
        assert_eq!(other.says("EXTERNAL", "").await, "invalid-mechanism");
    }
}

async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(seconds)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await; // Whoever waited for that hears of it now.
    }
    tokio::time::resume();
}

/// A session is in the hands of its old task, of its new one, or of nobody: a deadline in between must not leave it to nobody.
#[tokio::test]
async fn a_resumption_that_has_begun_is_not_cut_off_by_the_deadline() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let seat = house.bound("romeo/one");
    let node = house.node.clone();
    let (sm, enabled) = sm::enable(&node, &seat, true, None);
    let Nonza::Enabled { id: Some(id), .. } = enabled else { panic!("{enabled:?}") };
    let alive = end::Alive::new(&node, &seat);
    let mut romeo = client(&house);
    romeo.opens().await;
    assert_eq!(romeo.says("OAUTHBEARER", &bearer(r#"{"sub":"romeo"}"#)).await, "success");
    romeo.sends(OPEN).await;
    romeo.reads("</stream:features>").await;
    later(4).await; // Of five seconds.
    romeo.sends(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>")).await;
    let mut mail = Vec::new();
    house
        .until("the old task is asked", || {
            mail.append(&mut seat.mailbox.drain());
            !mail.is_empty()
        })
        .await;
    later(1).await;
    let Some(Item::Control(Control::Resume(reply))) = mail.pop() else { panic!("{mail:?}") };
    assert!(reply.send(Handover { seat: seat.clone(), sm, alive }).is_ok(), "nobody waits for it");
    romeo.reads("<resumed ").await;
    assert!(node.directory.sessions_here() == 1);
}

/// Whether it came to a session.
type Negotiated = tokio::task::JoinHandle<bool>;

/// A house where nobody's turn comes for some seconds, and its first client, who waits.
async fn romeo_waits(dir: &Path) -> (House, Client<tokio::io::DuplexStream>, Negotiated) {
    let slow = "[limits]\nsign_ins_per_second = 1\nsign_ins_burst = 1\n";
    let house = house_of_tokens_with(dir, slow).await;
    for _ in 0..10 {
        house.node.turnstile.pass_first();
    }
    let (transport, line) = Wire::pair();
    let node = house.node.clone();
    let negotiated = tokio::spawn(async move {
        let ready = negotiate::run(&node, accepted(transport), false).await;
        match ready {
            Some(ready) => {
                let session = task::Session::begin(node, ready);
                tokio::spawn(session.run());
                true
            }
            None => false,
        }
    });
    let mut romeo = Client { line, got: String::new() };
    romeo.opens().await;
    assert_eq!(romeo.says("OAUTHBEARER", &bearer(r#"{"sub":"romeo"}"#)).await, "success");
    romeo.sends(OPEN).await;
    romeo.reads("</stream:features>").await;
    romeo.sends(BIND).await;
    house.until("romeo waits for his turn", || house.node.turnstile.waiting() == 1).await;
    (house, romeo, negotiated)
}

#[tokio::test]
async fn who_leaves_while_it_waits_for_its_turn_gives_up_its_place_and_is_not_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let (house, romeo, negotiated) = romeo_waits(dir.path()).await;
    drop(romeo);
    assert!(!negotiated.await.expect("negotiated"), "a session for nobody");
    assert_eq!(house.node.turnstile.waiting(), 0);
    assert_eq!(house.node.directory.sessions_here(), 0);
}

#[tokio::test]
async fn what_a_client_says_while_it_waits_for_its_turn_is_heard_afterwards() {
    let dir = tempfile::tempdir().expect("a directory");
    let (house, mut romeo, negotiated) = romeo_waits(dir.path()).await;
    // More than is read meanwhile, and less than the wire takes.
    let pause = " ".repeat(40 * 1024);
    let ping = |id: &str| format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>");
    romeo.sends(&format!("{}{pause}{}", ping("first"), ping("last"))).await;
    for _ in 0..100 {
        tokio::task::yield_now().await; // All that is read before its turn is read now.
    }
    assert_eq!(house.node.turnstile.waiting(), 1, "it is still there");
    house.node.turnstile.set_rate(config::Rate { per_second: 0, burst: 1 });
    romeo.reads("</iq>").await;
    romeo.reads("first").await;
    romeo.reads("last").await;
    assert!(negotiated.await.expect("negotiated"));
}
