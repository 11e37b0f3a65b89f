//! A whole node in one process, for tests of rooms that need one: real features, router, homes and metadata; memory for storage, no
//! other nodes, no sockets. A seat's mailbox is read instead of a client's connection; tests of the session itself put a
//! [`Wire`] under it. Founding metadata takes a few real milliseconds, so time is paused only afterwards.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use config::reload::Source;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use s2s::federation::{Handled, OnHandled, Ticket};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;
use xmpp::jid::{BareJid, FullJid};
use xmpp::sasl::{Hash, ScramKeys, Secret};
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use crate::app::{Node, Parts, World, asks_for_certificates, assemble};
use crate::certs::Authority;
use crate::feature::{Action, Ctx, Flow};
use crate::features::roster::home::Request;
use crate::features::roster::{self, subscription::Kind};
use crate::federation::{self, Streams, inbound::inbound};
use crate::homes::accounts::{self, Account};
use crate::router;
use crate::router::perform::seats_of;
use crate::session::{Item, Seat};
use crate::storage::shaky::Shaky;
use crate::transport::tls::Pair;
use crate::transport::{Buffer, Pipe, TlsAcceptor, Transport};

/// How long something that must happen may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

const CONFIG: &str = "
[node]
region = 'eu'
data_dir = 'data'
[domains]
global = 'chat.example'
regional = 'eu.chat.example'
upload = 'upload.chat.example'
proxy = 'proxy.chat.example'
[metadata]
heartbeat = '10ms'
election_min = '50ms'
election_max = '100ms'
[c2s]
certificate = 'unused'
key = 'unused'
auth_deadline = '5s'
";

/// Other nodes, by region and number, and what a node has to have as soon as there are any: configuration, to begin outside of a section's keys.
pub(crate) fn peers(all: &[(&str, u16)]) -> String {
    let mut text =
        "\n[upload]\nkey = 'a key that is as long as one has to be, and is of no use'\n".to_owned();
    for (raft_id, (region, node)) in (2..).zip(all) {
        let fingerprint = format!("{raft_id:02}").repeat(32);
        text += &format!(
            "[[peers]]\nregion = '{region}'\nnode = {node}\naddress = '127.0.0.1:{raft_id}'\n\
             fingerprint = '{fingerprint}'\nraft_id = {raft_id}\nvoter = false\n"
        );
    }
    text
}

/// The bounds of a node that is told nothing else.
pub(crate) fn limits() -> config::Limits {
    let config = config::Config::parse(CONFIG, "test.toml", Path::new("."));
    config.unwrap_or_else(|error| panic!("{error:?}")).limits
}

/// The streams to other domains of a node in a test: they keep what is to leave.
#[derive(Debug, Default)]
struct Leaving(Mutex<Vec<(Ticket, Stanza)>>);

impl Streams for Leaving {
    fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)> {
        self.0.lock().push((ticket, stanza));
        Ok(())
    }

    fn patience(&self) -> Duration {
        SOON
    }

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, Vec<(Ticket, Stanza)>> {
        Box::pin(async { std::mem::take(&mut *self.0.lock()) })
    }
}

/// A node, and the directory its metadata lives in.
pub(crate) struct House {
    pub(crate) node: Arc<Node>,
    /// Who has issued its certificate, PEM.
    pub(crate) authority: String,
    /// What is under its storage: it may be sent away.
    pub(crate) database: Arc<Shaky>,
    streams: OnceLock<Arc<Leaving>>,
    dir: TempDir,
}

impl House {
    /// A founded node with no accounts.
    pub(crate) async fn new() -> House {
        House::with("").await
    }

    /// The same; `more` is configuration, to begin with in `[c2s]`.
    pub(crate) async fn with(more: &str) -> House {
        House::configured(&format!("{CONFIG}{more}")).await
    }

    /// The same; `domains` is configuration of those.
    pub(crate) async fn with_domains(domains: &str, more: &str) -> House {
        let config = CONFIG.replacen("[domains]\n", &format!("[domains]\n{domains}\n"), 1);
        House::configured(&format!("{config}{more}")).await
    }

    /// One that knows another region, `us`, which cannot be reached. `more` is configuration, to begin with in `[c2s]`.
    pub(crate) async fn beside_us(linked: bool, more: &str) -> House {
        let traffic = if linked { "link" } else { "federation" };
        let domains = format!("regional_traffic = '{traffic}'");
        House::with_domains(&domains, &format!("{more}{}", peers(&[("us", 0)]))).await
    }

    /// The same as [`House::with`]; `node` is configuration of `[node]`.
    pub(crate) async fn with_node(node: &str, more: &str) -> House {
        let config = CONFIG.replacen("[node]\n", &format!("[node]\n{node}\n"), 1);
        House::configured(&format!("{config}{more}")).await
    }

    /// One that is started from `node.toml` in its directory, and can read that again: with `more`, which begins in `[c2s]`. Its certificate is
    /// in `eu.pem` when that is read again.
    pub(crate) async fn from_file(more: &str) -> (House, Source) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("node.toml");
        let config = CONFIG.replace("'unused'", "'eu.pem'");
        std::fs::write(&file, format!("{config}{more}")).expect("written");
        let (config, source) = Source::load(&file).unwrap_or_else(|error| panic!("{error:?}"));
        (Box::pin(House::of(config, dir)).await, source)
    }

    /// The directory that its configuration is relative to.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn configured(text: &str) -> House {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config::Config::parse(text, "test.toml", dir.path())
            .unwrap_or_else(|error| panic!("{error:?}"));
        Box::pin(House::of(config, dir)).await
    }

    async fn of(config: config::Config, dir: TempDir) -> House {
        let authority = Authority::new("test").expect("an authority");
        let leaf = authority.issue(&["chat.example".to_owned()]).expect("a certificate");
        let pair = Pair::from_pem(leaf.chain.as_bytes(), leaf.key.as_bytes()).expect("a pair");
        let ask_clients = asks_for_certificates(&config);
        let database = Arc::new(Shaky::default());
        let parts = Parts {
            config,
            incarnation: 1,
            fingerprint: String::new(),
            tls: TlsAcceptor::new(vec![pair], ask_clients).expect("TLS"),
            storage: database.clone(),
            agreement: None,
            world: World::real(),
        };
        let node = assemble(parts).await.expect("a node");
        let mut version = node.metadata.watch();
        let founded = tokio::time::timeout(SOON, version.wait_for(|version| *version > 0));
        founded.await.expect("founded in time").expect("founded");
        node.homes.metadata_changed();
        let authority = authority.certificate().to_owned();
        House { node, authority, database, streams: OnceLock::new(), dir }
    }

    /// Makes accounts nobody can sign in to, and says their JIDs.
    pub(crate) async fn accounts<const N: usize>(&self, names: [&str; N]) -> [BareJid; N] {
        let all = names.map(bare);
        for account in &all {
            self.account(account).await;
        }
        all
    }

    /// The same, of one account, whatever its domain.
    pub(crate) async fn account(&self, account: &BareJid) {
        let record = Account {
            scram_sha1: keys(Hash::Sha1),
            scram_sha256: keys(Hash::Sha256),
            scram_sha512: keys(Hash::Sha512),
            created: 0,
            disabled: false,
        };
        assert!(accounts::create(&self.node.homes, account, &record).await.expect("made"));
    }

    /// Makes both rosters say that `who` receives the presence of `whom`.
    pub(crate) async fn watches(&self, who: &str, whom: &str) {
        let (who, whom) = (bare(who), bare(whom));
        let stanza = |kind: &str| format!("<presence type='{kind}'/>").into_bytes();
        let to = |contact: &BareJid, kind| Request::Out {
            contact: contact.clone(),
            kind,
            items_max: 10,
        };
        let from = |contact: &BareJid, kind, word: &str| Request::In {
            contact: contact.clone(),
            kind,
            stanza: stanza(word),
            items_max: 10,
        };
        for (account, request) in [
            (&who, to(&whom, Kind::Subscribe)),
            (&whom, from(&who, Kind::Subscribe, "subscribe")),
            (&whom, to(&who, Kind::Subscribed)),
            (&who, from(&whom, Kind::Subscribed, "subscribed")),
        ] {
            roster::ask(&self.node, account, &request).await.expect("done");
        }
    }

    /// Binds `name/resource`; it has said nothing yet.
    pub(crate) fn bound(&self, full: &str) -> Arc<Seat> {
        let full = jid(full);
        self.node.bind(&full.bare(), Some(full.resource())).expect("bound")
    }

    /// Binds it and sends initial presence.
    pub(crate) async fn available(&self, full: &str, priority: i8) -> Arc<Seat> {
        let seat = self.bound(full);
        let presence = format!("<presence><priority>{priority}</priority></presence>");
        self.says(&seat, &presence).await;
        seat
    }

    /// What has left for other domains since this was last asked, as text: they have it. From the first time on there are streams to them.
    pub(crate) fn abroad(&self) -> Vec<String> {
        let streams = self.streams.get_or_init(|| {
            let streams = Arc::new(Leaving::default());
            self.node.federation.set_streams(streams.clone());
            streams
        });
        let left = std::mem::take(&mut *streams.0.lock());
        let tickets: Vec<Ticket> = left.iter().map(|(ticket, _)| *ticket).collect();
        federation::delivered(&self.node, &tickets);
        let text = |stanza: &Stanza| String::from_utf8_lossy(stanza.bytes()).into_owned();
        left.iter().map(|(_, stanza)| text(stanza)).collect()
    }

    /// A stanza comes from another domain, and has been dealt with.
    pub(crate) async fn hears(&self, text: &str) {
        let counted = Arc::new(Counted::default());
        let handled = Handled::new(counted.clone(), 0);
        let stanza = stanza(text);
        let to = stanza.to().map(|to| to.bare_str().to_owned());
        let to = to.filter(|_| stanza.kind() == xmpp::stanza::Kind::Message);
        inbound(&self.node, stanza, handled);
        // A message is the ledger's until its receiver has it.
        let there = |seat: &Arc<Seat>| seat.mailbox.depth().items > 0;
        let is_there = || to.as_ref().is_some_and(|to| seats_of(&self.node, to).iter().any(there));
        self.until(text, || counted.0.load(Ordering::Acquire) > 0 || is_there()).await;
        self.until(text, || self.node.federation.inbound.lanes() == 0).await;
    }

    /// What a session does with a message or presence of its client.
    pub(crate) async fn says(&self, seat: &Arc<Seat>, text: &str) {
        let mut stanza = stanza(text).with_from(seat.address());
        let mut ctx = Ctx::new(&self.node, Some(seat));
        let flow = self.node.features.outbound(&mut ctx, &mut stanza);
        router::perform(&self.node, Some(seat), std::mem::take(&mut ctx.actions));
        match flow {
            Flow::Next => router::route(&self.node, stanza),
            Flow::Done => {}
            Flow::Later(later) => {
                router::perform(&self.node, Some(seat), later.await);
            }
        }
    }

    /// Waits for something that others are about to do.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waited = tokio::time::timeout(SOON, async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}");
    }

    /// What is in a mailbox that is not empty soon; the client has it then.
    pub(crate) async fn mail(&self, seat: &Arc<Seat>) -> Vec<String> {
        self.until("something in the mailbox", || seat.mailbox.depth().items > 0).await;
        let items = seat.mailbox.drain();
        let texts = items.iter().map(text).collect();
        let deliveries = items.into_iter().filter_map(|item| match item {
            Item::Stanza(delivery) => Some(delivery),
            Item::Control(_) => None,
        });
        router::kept(&self.node, seat, deliveries);
        texts
    }
}

/// A house with that in its configuration, and romeo in it, who is available and has heard so.
pub(crate) async fn romeo(config: &str) -> (House, Arc<Seat>) {
    let house = House::with(config).await;
    house.accounts(["romeo"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    house.mail(&romeo).await;
    (house, romeo)
}

/// How many of a stream's stanzas are handled.
#[derive(Debug, Default)]
pub(crate) struct Counted(pub(crate) AtomicUsize);

impl OnHandled for Counted {
    fn handled(&self, _number: u64) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Keys that no password fits.
fn keys(hash: Hash) -> ScramKeys {
    let (stored_key, server_key) = (Secret::new(vec![1; 32]), Secret::new(vec![2; 32]));
    ScramKeys { hash, salt: vec![3; 16], iterations: accounts::ITERATIONS, stored_key, server_key }
}

/// What is in a mailbox now, without `xmlns`-noise: stanzas as text, orders as `<close …/>`.
pub(crate) fn mail(seat: &Seat) -> Vec<String> {
    seat.mailbox.drain().into_iter().map(|item| text(&item)).collect()
}

fn text(item: &Item) -> String {
    match item {
        Item::Stanza(delivery) => String::from_utf8_lossy(delivery.stanza.bytes()).into_owned(),
        Item::Control(control) => format!("{control:?}"),
    }
}

/// `name` at the node's domain.
pub(crate) fn bare(name: &str) -> BareJid {
    BareJid::parse(&format!("{name}@chat.example")).expect("a JID")
}

/// `name/resource` at the node's domain.
pub(crate) fn jid(full: &str) -> FullJid {
    let (name, resource) = full.split_once('/').expect("name/resource");
    bare(name).with_resource(resource).expect("a JID")
}

/// A stanza as written.
pub(crate) fn stanza(text: &str) -> Stanza {
    Stanza::parse(Bytes::from(text.to_owned())).expect(text)
}

/// Actions in words, one a line: tests compare these.
pub(crate) fn words(actions: &[Action]) -> Vec<String> {
    let names = |to: &[BareJid]| {
        let mut names: Vec<&str> = to.iter().filter_map(BareJid::local).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let word = |action: &Action| match action {
        Action::Reply(stanza) => format!("reply {stanza:?}"),
        Action::Route(stanza) => format!("route {stanza:?}"),
        Action::Multicast { presence, to } => {
            format!("tell {}: {:?}", names(to), presence.stanza)
        }
        Action::Probe { to, .. } => format!("ask {}", names(to)),
        Action::Show(show) => format!("show {} {:?} to {}", show.account, show.resource, show.to),
        Action::HandOut(_) => "hand out".to_owned(),
        other => format!("{other:?}"),
    };
    actions.iter().map(word).collect()
}

/// What came of a feature's answer, waiting for it if it takes a while.
pub(crate) async fn all(mut ctx: Ctx<'_>, flow: Flow) -> Vec<Action> {
    let mut actions = std::mem::take(&mut ctx.actions);
    if let Flow::Later(later) = flow {
        let later: BoxFuture<'static, Vec<Action>> = later;
        actions.extend(later.await);
    }
    actions
}

/// One end of a connection in memory.
pub(crate) struct Wire(DuplexStream);

impl Wire {
    /// A session's transport, and the client's end of it.
    pub(crate) fn pair() -> (Transport, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        (Transport::other(Box::new(Wire(ours))), theirs)
    }
}

impl Pipe for Wire {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut Buffer) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 4096];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        into.put(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Buffer) -> Poll<io::Result<()>> {
        while !from.is_empty() {
            let count = ready!(Pin::new(&mut self.0).poll_write(cx, from.filled()))?;
            from.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    fn is_secure(&self) -> bool {
        true
    }
}
