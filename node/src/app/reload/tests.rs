//! A whole node that takes its configuration again from a file: what is in force afterwards, and that what is wrong changes nothing.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xmpp::sasl::Password;

use super::*;
use crate::certs::Authority;
use crate::homes::accounts;
use crate::session;
use crate::testing::{House, SOON, bare};
use crate::transport::Transport;
use crate::transport::tcp::{Accepted, Gate, GateLimits};

const MORE: &str = "
[s2s]
dns = ['127.0.0.1:9']
trust = 'ca.pem'
[log]
filter = 'info'
[storage]
timeout = '5s'
partitions = ['sqlite:one']
";
const OPEN: &str = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
    to='chat.example' version='1.0'>";

/// A node with streams to other domains, started from a file, and everything that it can take again.
struct Kit {
    house: House,
    /// Filters that were set.
    filters: Arc<Mutex<Vec<String>>>,
    /// Who issues what is in the files.
    authority: Authority,
    /// The configuration it began with.
    first: String,
}

impl Kit {
    async fn new() -> Kit {
        let (house, source) = House::from_file(MORE).await;
        let filters = Arc::new(Mutex::new(Vec::new()));
        let set = filters.clone();
        let read_filter: ReadFilter = Box::new(move |filter| {
            if filter == "garbage" {
                return Err("log.filter is garbage".to_owned());
            }
            if filter == "overruled" {
                return Ok(None);
            }
            let (set, filter) = (set.clone(), filter.to_owned());
            Ok(Some(Box::new(move || set.lock().push(filter)) as SetFilter))
        });
        *house.node.reloading.0.lock() = Some((source, read_filter));
        let first = std::fs::read_to_string(house.dir().join("node.toml")).expect("written");
        let authority = Authority::new("of files").expect("an authority");
        let kit = Kit { house, filters, authority, first };
        kit.put("ca.pem", kit.authority.certificate());
        let leaf = kit.authority.issue(&["chat.example".to_owned()]).expect("a certificate");
        kit.put("eu.pem", &format!("{}{}", leaf.chain, leaf.key));
        federation::streams::start(&kit.house.node).expect("streams");
        kit
    }

    fn put(&self, file: &str, text: &str) {
        std::fs::write(self.house.dir().join(file), text).expect("written");
    }

    /// The configuration it began with, but for that.
    fn change(&self, changes: &[(&str, &str)]) {
        let changed = changes.iter().fold(self.first.clone(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        self.put("node.toml", &changed);
    }

    async fn reload(&self) -> Result<Reloaded, String> {
        now(&self.house.node).await
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let (transport, peer) = ours.expect("accepted");
        let admission = Gate::new(GateLimits::default()).admit(peer.ip()).expect("admitted");
        let accepted = Accepted { transport: Transport::plain(transport), peer, admission };
        tokio::spawn(session::serve(self.house.node.clone(), accepted, true));
        let mut roots = rustls::RootCertStore::empty();
        for pem in [&*self.house.authority, self.authority.certificate()] {
            roots
                .add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM"))
                .expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
        let name = ServerName::try_from("chat.example").expect("a name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, theirs.expect("connected"));
        tls.await.expect("a handshake")
    }

    /// The certificate that is shown to whoever connects now.
    async fn shown(&self) -> Vec<u8> {
        shown(&self.connect().await)
    }
}

/// The certificate that was shown there.
fn shown(line: &TlsStream<TcpStream>) -> Vec<u8> {
    let chain = line.get_ref().1.peer_certificates().expect("a server shows one");
    chain[0].to_vec()
}

/// Says it, and reads up to and with `what`.
async fn say(line: &mut TlsStream<TcpStream>, text: &str, what: &str) {
    line.write_all(text.as_bytes()).await.expect("sent");
    line.flush().await.expect("sent");
    let mut got = String::new();
    while !got.contains(what) {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(SOON, line.read(&mut bytes)).await;
        let count = read.unwrap_or_else(|_| panic!("{what} after {got}")).expect("read");
        assert!(count > 0, "the end instead of {what} after {got}");
        got += &String::from_utf8_lossy(&bytes[..count]);
    }
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_once_it_is_mended_everything_is_done() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let first = kit.shown().await;
    let (timeout, filter) = (("timeout = '5s'", "timeout = '7s'"), ("'info'", "'debug'"));
    for (wrong, trust, changes) in [
        ("no authority", "garbage", [timeout, filter]),
        ("log.filter", kit.authority.certificate(), [timeout, ("'info'", "'garbage'")]),
    ] {
        kit.put("ca.pem", trust);
        kit.change(&changes);
        let why = kit.reload().await.expect_err("it is wrong");
        assert!(why.contains(wrong), "{why}");
        assert_eq!(node.config.storage.timeout, Duration::from_secs(5));
        assert_eq!(node.config.log.filter, "info");
        assert_eq!(kit.house.database.memory.renewals(), 0);
        assert!(kit.filters.lock().is_empty());
        assert!(kit.shown().await == first, "the certificate is another: {wrong}");
    }
    kit.change(&[timeout, filter]);
    let done = kit.reload().await.expect("mended");
    assert_eq!(done.applied, ["log.filter", "storage.timeout"]);
    assert_eq!(node.config.storage.timeout, Duration::from_secs(7));
    assert_eq!(kit.house.database.memory.renewals(), 1);
    assert_eq!(*kit.filters.lock(), ["debug"]);
    assert!(kit.shown().await != first);
    // What is in force is not applied again.
    let again = kit.reload().await.expect("good");
    assert!(again.applied.is_empty());
    assert_eq!((kit.house.database.memory.renewals(), kit.filters.lock().len()), (1, 1));
}

#[tokio::test]
async fn what_is_reported_is_what_is_done() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let (one, two) = ("['sqlite:one']", "['sqlite:one', 'sqlite:two']");
    kit.change(&[(one, two), ("timeout = '5s'", "timeout = '7s'"), ("'info'", "'overruled'")]);
    let done = kit.reload().await.expect("good");
    // A partition more is opened when the node starts; that the rest of storage is another does not wait for it.
    assert_eq!(done.applied, ["storage.timeout"]);
    assert!(done.needs_restart.iter().any(|key| key == "storage.partitions"), "{done:?}");
    assert_eq!(
        (node.config.storage.partitions.len(), kit.house.database.memory.renewals()),
        (1, 1)
    );
    assert_eq!(node.config.storage.timeout, Duration::from_secs(7));
    // Nobody goes by the filter of the file.
    assert_eq!(done.refused, ["log.filter: PANGAEA_LOG is set, and wins"]);
    assert!(kit.filters.lock().is_empty());
}

#[tokio::test]
async fn components_come_and_go_but_for_what_is_delegated() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let (at, component) = ("['sqlite:one']", "['sqlite:one']\n[[components.component]]\n");
    let irc = format!("{component}domain = 'irc.chat.example'\nsecret_file = 'secret'\n");
    let delegates = format!("{irc}[[components.component.delegation]]\nnamespace = 'x'\n");
    let applied = async |text: &str| {
        kit.change(&[(at, text)]);
        kit.reload().await.expect("good").applied
    };
    kit.change(&[(at, &*irc)]);
    kit.reload().await.expect_err("there is no such file");
    assert!(!node.domains.names_component("irc.chat.example"));
    kit.put("secret", "one");
    assert_eq!(applied(&irc).await, ["components.component"]);
    assert!(node.domains.names_component("irc.chat.example"));
    assert!(applied(&irc).await.is_empty());
    kit.put("secret", "two");
    assert_eq!(applied(&irc).await, ["components.component"]);
    kit.change(&[(at, &*delegates)]);
    let done = kit.reload().await.expect("good");
    assert!(done.applied.is_empty());
    assert!(done.needs_restart.iter().any(|key| key == "components.component"), "{done:?}");
    // It does too where something else is refused.
    kit.change(&[(at, &*delegates), ("timeout = '5s'", "timeout = '7s'")]);
    kit.house.database.go(true);
    let done = kit.reload().await.expect("good");
    kit.house.database.go(false);
    assert!(done.applied.is_empty() && done.refused[0].starts_with("storage: "), "{done:?}");
    assert!(done.needs_restart.iter().any(|key| key == "components.component"), "{done:?}");
    assert_eq!(applied(at).await, ["components.component"]);
    assert!(!node.domains.names_component("irc.chat.example"));
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_and_sessions_go_on() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let record = accounts::derive(Password::new("sesame"), 0).await.expect("derived");
    assert!(accounts::create(&node.homes, &bare("juliet"), &record).await.expect("made"));
    let mut juliet = kit.connect().await;
    say(&mut juliet, OPEN, "</stream:features>").await;
    let plain = STANDARD.encode("\0juliet\0sesame");
    let auth =
        format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>");
    say(&mut juliet, &auth, "<success").await;
    say(&mut juliet, OPEN, "</stream:features>").await;
    let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    say(&mut juliet, bind, "</iq>").await;
    let done = kit.reload().await.expect("good");
    assert_eq!(done.certificates, 1);
    let ping = "<iq type='get' id='p' to='chat.example'><ping xmlns='urn:xmpp:ping'/></iq>";
    say(&mut juliet, ping, "id='p'").await;
    let of_files = std::fs::read(kit.house.dir().join("eu.pem")).expect("written");
    let of_files = CertificateDer::from_pem_slice(&of_files).expect("PEM").to_vec();
    assert!(shown(&juliet) != of_files, "she has seen the one of before");
    assert!(kit.shown().await == of_files);
}
