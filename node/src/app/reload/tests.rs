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

/// Somebody with an account and a session.
async fn juliet(kit: &Kit) -> TlsStream<TcpStream> {
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
    juliet
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_and_sessions_go_on() {
    let kit = Kit::new().await;
    let mut juliet = juliet(&kit).await;
    let done = kit.reload().await.expect("good");
    assert_eq!(done.certificates, 1);
    let ping = "<iq type='get' id='p' to='chat.example'><ping xmlns='urn:xmpp:ping'/></iq>";
    say(&mut juliet, ping, "id='p'").await;
    let of_files = std::fs::read(kit.house.dir().join("eu.pem")).expect("written");
    let of_files = CertificateDer::from_pem_slice(&of_files).expect("PEM").to_vec();
    assert!(shown(&juliet) != of_files, "she has seen the one of before");
    assert!(kit.shown().await == of_files);
}

const UPLOAD: &str = "upload = 'upload.chat.example'\n";
const PROXY: &str = "proxy = 'proxy.chat.example'\n";

/// What the server lists.
fn hosts(node: &Node) -> Vec<String> {
    node.services.items().map(|item| item.jid).collect()
}

/// Asks what that domain is, and hears `what`.
async fn ask(client: &mut TlsStream<TcpStream>, domain: &str, what: &str) {
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    say(client, &format!("<iq type='get' id='i' to='{domain}'>{info}</iq>"), what).await;
}

#[tokio::test]
async fn services_get_and_lose_their_domains() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let mut juliet = juliet(&kit).await;
    ask(&mut juliet, "upload.chat.example", "<feature var='urn:xmpp:http:upload:0'/>").await;
    assert_eq!(hosts(node), ["upload.chat.example", "proxy.chat.example"]);
    kit.change(&[(UPLOAD, ""), (PROXY, "")]);
    assert_eq!(kit.reload().await.expect("good").applied, ["domains.proxy", "domains.upload"]);
    assert!(hosts(node).is_empty());
    ask(&mut juliet, "upload.chat.example", "<service-unavailable ").await;
    // One begins with its section, and its port.
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = port.local_addr().expect("bound");
    let listen = format!("[proxy]\nlisten = '{address}'\n[s2s]\n");
    let with_proxy = [(UPLOAD, ""), ("[s2s]\n", &*listen), ("'info'", "'debug'")];
    kit.change(&with_proxy);
    let why = kit.reload().await.expect_err("its port is taken");
    assert!(why.contains(&address.to_string()), "{why}");
    assert!(hosts(node).is_empty() && kit.filters.lock().is_empty(), "nothing has changed");
    drop(port);
    let done = kit.reload().await.expect("good");
    assert_eq!(done.applied, ["domains.proxy", "log.filter", "proxy.listen"]);
    assert_eq!(hosts(node), ["proxy.chat.example"]);
    let connect = || TcpStream::connect(address);
    connect().await.expect("it listens");
    // Under another name it goes on as it is.
    let other = listen.replace(&address.to_string(), "127.0.0.1:1");
    kit.change(&[(UPLOAD, ""), ("[s2s]\n", &other), (PROXY, "proxy = 'relay.chat.example'\n")]);
    let done = kit.reload().await.expect("good");
    assert_eq!(done.applied, ["domains.proxy", "log.filter"]);
    assert!(done.needs_restart.iter().any(|key| key == "proxy.listen"), "{done:?}");
    assert_eq!(hosts(node), ["relay.chat.example"]);
    ask(&mut juliet, "relay.chat.example", "<identity category='proxy'").await;
    ask(&mut juliet, "proxy.chat.example", "<service-unavailable ").await;
    connect().await.expect("it still listens");
    kit.change(&[(UPLOAD, ""), (PROXY, "")]);
    assert_eq!(kit.reload().await.expect("good").applied, ["domains.proxy", "proxy.listen"]);
    connect().await.expect_err("nobody is there any more");
    // Its port may be had again at once.
    kit.change(&with_proxy);
    kit.reload().await.expect("its port is free");
    connect().await.expect("it listens again");
}

#[tokio::test]
async fn files_are_served_as_long_as_their_service_has_a_domain() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = port.local_addr().expect("bound");
    let router = service::with_paths(node, crate::http::nothing());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(crate::http::serve(vec![port], router, 10, stopped));
    let status = async |method: &str, path: &str| {
        let mut line = TcpStream::connect(address).await.expect("it listens");
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        line.write_all(head.as_bytes()).await.expect("sent");
        let mut said = String::new();
        line.read_to_string(&mut said).await.expect("read");
        said.lines().next().unwrap_or_default().to_owned()
    };
    let path = "/upload/eu/token/name";
    assert_eq!(status("OPTIONS", path).await, "HTTP/1.1 204 No Content");
    assert_eq!(status("OPTIONS", "/uploads").await, "HTTP/1.1 404 Not Found");
    kit.change(&[(UPLOAD, "")]);
    kit.reload().await.expect("good");
    assert_eq!(status("OPTIONS", path).await, "HTTP/1.1 404 Not Found");
    // What is on its way in goes on, and what a former life has left goes.
    let parts = node.config.upload.dir.join("part").join("eu-0");
    let [ours, former] = [node.incarnation, node.incarnation + 1].map(|life| {
        let part = parts.join(life.to_string()).join("token");
        std::fs::create_dir_all(part.parent().expect("in a directory")).expect("made");
        std::fs::write(&part, "half of it").expect("written");
        part
    });
    kit.change(&[(UPLOAD, "upload = 'files.chat.example'\n")]);
    kit.reload().await.expect("good");
    assert!(ours.exists() && !former.exists());
    assert_eq!(status("OPTIONS", path).await, "HTTP/1.1 204 No Content");
}

/// A guest, up to the session's beginning.
async fn guest(kit: &Kit) -> TlsStream<TcpStream> {
    let mut guest = kit.connect().await;
    let open = OPEN.replace("to='chat", "to='anon.chat");
    say(&mut guest, &open, "</stream:features>").await;
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'/>";
    say(&mut guest, auth, "<success").await;
    say(&mut guest, &open, "</stream:features>").await;
    guest
}

#[tokio::test]
async fn guests_come_with_their_domain_and_leave_with_it() {
    let kit = Kit::new().await;
    let node = &kit.house.node;
    let open = OPEN.replace("to='chat", "to='anon.chat");
    say(&mut kit.connect().await, &open, "<host-unknown").await;
    let named = format!("anon = 'anon.chat.example'\n{UPLOAD}");
    kit.change(&[(UPLOAD, &named)]);
    assert_eq!(kit.reload().await.expect("good").applied, ["domains.anon"]);
    let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    let (mut there, mut away, mut late) = (guest(&kit).await, guest(&kit).await, guest(&kit).await);
    say(&mut there, bind, "</iq>").await;
    say(&mut away, bind, "</iq>").await;
    let managed = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>";
    say(&mut away, managed, "<enabled").await;
    drop(away);
    kit.change(&[]);
    assert_eq!(kit.reload().await.expect("good").applied, ["domains.anon"]);
    say(&mut there, "", "<host-gone").await;
    // Whose session begins only now.
    say(&mut late, bind, "<host-gone").await;
    say(&mut kit.connect().await, &open, "<host-unknown").await;
    kit.house.until("also who might have come back", || node.directory.sessions_here() == 0).await;
}
