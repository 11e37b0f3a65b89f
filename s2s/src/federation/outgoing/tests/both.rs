//! Both halves against each other: two servers over real sockets with real TLS, and a road between them that can be cut. What was sent arrives once and in
//! order, by certificate and by dialback, each on streams of its own or both on one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use xmpp::Stanza;
use xmpp::stanza::error::StanzaError;

use super::super::failure::Failure;
use super::super::way::{Io, Way};
use super::super::{Outgoing, Settings};
use super::{limits, message_from, ticket, timers};
use crate::federation::Timers;
use crate::federation::incoming::{Incoming, Neighbours};
use crate::federation::net::{Net, NetConfig, Pair as Certificate, Security, Target};
use crate::federation::policy::Policies;
use crate::federation::{FederationUser, Handled, Ticket};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: Vec<u8>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem().into_bytes();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn net(&self, name: &str) -> Net {
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let chain = leaf.signed_by(&key, &self.issuer).expect("a certificate").pem().into_bytes();
        let pairs = vec![Certificate { chain, key: key.serialize_pem().into_bytes() }];
        let dns = vec!["127.0.0.1:9".parse().expect("an address")];
        let trust = Some(self.pem.clone());
        Net::new(NetConfig { dns, trust, pairs, ..NetConfig::default() }).expect("a way")
    }
}

/// Where the servers are, as they see it: at the near ends of roads that can be cut.
#[derive(Default)]
struct Map(Mutex<HashMap<String, SocketAddr>>);

struct Road {
    net: Net,
    map: Arc<Map>,
}

impl Way for Road {
    fn find<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Vec<Target>, Failure>> {
        let found = self.map.0.lock().get(domain).copied();
        let found = found.ok_or(Failure::NotFound("not on the map".to_owned())).map(|address| {
            vec![Target {
                host: domain.to_owned(),
                port: address.port(),
                security: Security::StartTls,
                addresses: vec![address.ip()],
                authentic: false,
            }]
        });
        async move { found }.boxed()
    }

    fn connect<'a>(
        &'a self,
        targets: &'a [Target],
        _: Instant,
    ) -> BoxFuture<'a, Result<(Io, Target), Failure>> {
        let connected = async move {
            let address = (targets[0].addresses[0], targets[0].port);
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| Failure::Unreachable(error.to_string()))?;
            Ok((Box::new(stream) as Io, targets[0].clone()))
        };
        connected.boxed()
    }

    fn encrypt<'a>(
        &'a self,
        io: Io,
        ours: &'a str,
        theirs: &'a str,
        security: Security,
        judged: bool,
    ) -> BoxFuture<'a, Result<(Io, bool), Failure>> {
        self.net.encrypt(io, ours, theirs, security, judged)
    }
}

#[derive(Default)]
struct Seen {
    received: Vec<u64>,
    delivered: Vec<u64>,
    failed: Vec<u64>,
}

struct Server {
    name: &'static str,
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
    outgoing: Mutex<Option<Outgoing>>,
    cut: Arc<Notify>,
}

impl Server {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock());
        self.changed.send_modify(|n| *n += 1);
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&Seen) -> bool) {
        let mut changes = self.changed.subscribe();
        let waited =
            timeout(Duration::from_secs(60), changes.wait_for(|_| holds(&self.seen.lock())));
        let seen = || {
            let seen = self.seen.lock();
            (seen.received.len(), seen.delivered.len(), seen.failed.len())
        };
        assert!(waited.await.is_ok(), "{}: never: {what}; {:?}", self.name, seen());
    }

    fn send(&self, order: u64, to: &str) {
        let stanza = message_from(order, &format!("a@{}/x", self.name), &format!("b@{to}"));
        let outgoing = self.outgoing.lock().clone().expect("it is started");
        outgoing.send(ticket(order), stanza).expect("there is room");
    }

    fn streams(&self) -> usize {
        let outgoing = self.outgoing.lock().clone().expect("it is started");
        outgoing.status().iter().filter(|status| status.is_up).count()
    }
}

impl FederationUser for Server {
    fn is_ours(&self, domain: &str) -> bool {
        domain == self.name
    }
    fn dialback_secret(&self) -> Option<[u8; 32]> {
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(&self.name.as_bytes()[..4]);
        Some(secret)
    }
    fn receive(&self, stanza: Stanza, _: Handled) {
        let order = stanza.id().and_then(|id| id.parse().ok()).expect("a number");
        self.note(|seen| seen.received.push(order));
    }
    fn delivered(&self, tickets: &[Ticket]) {
        self.note(|seen| seen.delivered.extend(tickets.iter().map(|ticket| ticket.order)));
    }
    fn failed(&self, ticket: Ticket, _: Stanza, _: StanzaError) {
        self.note(|seen| seen.failed.push(ticket.order));
    }
}

/// Starts a server, and puts it on the map.
async fn start(
    name: &'static str,
    authority: &Authority,
    map: &Arc<Map>,
    policies: &Arc<Policies>,
) -> Arc<Server> {
    let timers = Timers {
        retry_first: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        ..timers()
    };
    let net = authority.net(name);
    let server = Arc::new(Server {
        name,
        seen: Mutex::default(),
        changed: watch::Sender::new(0),
        outgoing: Mutex::default(),
        cut: Arc::default(),
    });
    let way = Arc::new(Road { net: net.clone(), map: map.clone() });
    let settings = Settings { policies: policies.clone(), limits: limits(), timers };
    let outgoing = Outgoing::start_with(way, settings, server.clone());
    let neighbours = Neighbours {
        user: server.clone(),
        verifier: Arc::new(outgoing.clone()),
        bidi: Arc::new(outgoing.clone()),
    };
    let incoming = Incoming::new(net, neighbours, name, policies.clone(), limits(), timers);
    *server.outgoing.lock() = Some(outgoing);
    let far = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let behind = far.local_addr().expect("an address");
    map.0.lock().insert(name.to_owned(), near.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, peer)) = far.accept().await {
            incoming.accept(stream, peer, false);
        }
    });
    let cut = server.cut.clone();
    tokio::spawn(async move {
        while let Ok((mut one, _)) = near.accept().await {
            let cut = cut.clone();
            tokio::spawn(async move {
                let mut other = TcpStream::connect(behind).await.expect("it listens");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut one, &mut other) => {}
                    () = cut.notified() => {}
                }
            });
        }
    });
    server
}

fn rules(certificate: config::S2sCertificate) -> Arc<Policies> {
    Arc::new(Policies::new(&[config::S2sPolicy {
        domain: "*".to_owned(),
        allow: true,
        certificate,
        tls: config::S2sTls::Required,
        bytes_per_second: None,
    }]))
}

const CAPULET: &str = "capulet.example";
const MONTAGUE: &str = "montague.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_of_ours_lose_and_double_nothing_over_a_road_that_is_cut() {
    const N: u64 = 600;
    use config::S2sCertificate::{Ignored, Preferred, Required};
    for certificate in [Required, Preferred, Ignored] {
        let (authority, map) = (Authority::new(), Arc::new(Map::default()));
        let policies = rules(certificate);
        let capulet = start(CAPULET, &authority, &map, &policies).await;
        let montague = start(MONTAGUE, &authority, &map, &policies).await;
        for order in 0..N {
            capulet.send(order, MONTAGUE);
            montague.send(order, CAPULET);
            if order % 100 == 50 {
                let reached = (order / 2) as usize;
                montague.until("some received", |seen| seen.received.len() >= reached).await;
                // Whatever goes over it now is gone, on both ends.
                capulet.cut.notify_waiters();
                montague.cut.notify_waiters();
            }
        }
        for server in [&capulet, &montague] {
            server.until("all delivered", |seen| seen.delivered.len() == N as usize).await;
            server.until("all received", |seen| seen.received.len() >= N as usize).await;
            let seen = server.seen.lock();
            let all: Vec<u64> = (0..N).collect();
            assert_eq!(seen.received, all, "{certificate:?}: {}", server.name);
            assert_eq!((seen.delivered.clone(), seen.failed.len()), (all, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_back_on_the_stream_of_the_question() {
    let (authority, map) = (Authority::new(), Arc::new(Map::default()));
    let policies = rules(config::S2sCertificate::Preferred);
    let capulet = start(CAPULET, &authority, &map, &policies).await;
    let montague = start(MONTAGUE, &authority, &map, &policies).await;
    capulet.send(0, MONTAGUE);
    montague.until("received", |seen| seen.received.len() == 1).await;
    // From now on there is no way to us but the one we have made.
    map.0.lock().remove(CAPULET);
    montague.send(0, CAPULET);
    capulet.until("received", |seen| seen.received.len() == 1).await;
    montague.until("delivered", |seen| seen.delivered.len() == 1).await;
    assert_eq!((capulet.streams(), montague.streams()), (1, 1));
}
