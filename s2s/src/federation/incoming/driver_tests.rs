//! Incoming streams over real sockets with real TLS: another domain dials, by hand. What is cut and goes on: `resumption`.

mod resumption;

use std::time::Duration;

use futures_util::future::BoxFuture;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use xmpp::stream::header::{Framing, Opening};
use xmpp::{Stanza, StanzaError};
use xmpp::{StreamError, ns};

use super::*;
use crate::federation::bidi::Back;
use crate::federation::dialback::{DialbackError, Pair, Verify};
use crate::federation::net::testing::{self, Web, Zone, document, naming};
use crate::federation::net::{NetConfig, Pair as Certificate, Security, server_name};
use crate::federation::wire::{Item, Turn};
use crate::federation::{Handled, Ticket};

const PATIENCE: Duration = Duration::from_secs(10);
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

/// What happened to the server around.
#[derive(Debug)]
enum Event {
    Stanza(Stanza, Handled),
    Opened(Pair, Back),
    Delivered(u64, Vec<u64>),
    Closed(u64),
}

/// The server around: keeps what it is told, believes keys that are `good`.
struct Around(mpsc::UnboundedSender<Event>, Option<&'static str>);

impl FederationUser for Around {
    fn is_ours(&self, domain: &str) -> bool {
        domain == "capulet.example"
    }
    fn dialback_secret(&self) -> Option<[u8; 32]> {
        Some([1; 32])
    }
    fn elsewhere(&self) -> StreamError {
        self.1.map_or_else(StreamError::system_shutdown, StreamError::see_other_host)
    }
    fn receive(&self, stanza: Stanza, handled: Handled) {
        let _ = self.0.send(Event::Stanza(stanza, handled));
    }
    fn delivered(&self, _: &[Ticket]) {}
    fn failed(&self, _: Ticket, _: Stanza, _: StanzaError) {}
}

impl Verifier for Around {
    fn verify(&self, ask: Verify) -> BoxFuture<'static, Result<bool, DialbackError>> {
        Box::pin(async move { Ok(ask.key == "good") })
    }
}

impl Bidi for Around {
    fn opened(&self, pair: Pair, back: &Back) {
        let _ = self.0.send(Event::Opened(pair, back.clone()));
    }
    fn delivered(&self, stream: u64, tickets: &[Ticket]) {
        let orders = tickets.iter().map(|ticket| ticket.order).collect();
        let _ = self.0.send(Event::Delivered(stream, orders));
    }
    fn closed(&self, stream: u64) {
        let _ = self.0.send(Event::Closed(stream));
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: Vec<u8>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn net(&self, name: &str) -> Net {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let chain = leaf.signed_by(&key, &self.issuer).unwrap().pem().into_bytes();
        let pairs = vec![Certificate { chain, key: key.serialize_pem().into_bytes() }];
        let dns = vec!["127.0.0.1:9".parse().unwrap()];
        let trust = Some(self.pem.clone());
        Net::new(NetConfig { dns, trust, pairs, ..NetConfig::default() }).unwrap()
    }
}

/// `capulet.example`, and what `montague.example` needs to dial it.
struct Verona {
    incoming: Incoming,
    events: mpsc::UnboundedReceiver<Event>,
    montague: Net,
    address: SocketAddr,
}

fn verona_with(change: impl FnOnce(&mut Limits, &mut Timers)) -> Verona {
    let authority = Authority::new();
    let [capulet, montague] =
        ["capulet", "montague"].map(|one| authority.net(&format!("{one}.example")));
    verona_between(capulet, montague, change)
}

fn verona_between(
    net: Net,
    montague: Net,
    change: impl FnOnce(&mut Limits, &mut Timers),
) -> Verona {
    verona_of(net, montague, None, change)
}

/// `elsewhere`: where peers are sent when they are not to come here.
fn verona_of(
    net: Net,
    montague: Net,
    elsewhere: Option<&'static str>,
    change: impl FnOnce(&mut Limits, &mut Timers),
) -> Verona {
    let (sender, events) = mpsc::unbounded_channel();
    let around = Arc::new(Around(sender, elsewhere));
    let neighbours = Neighbours { user: around.clone(), verifier: around.clone(), bidi: around };
    let Settings { name, mut limits, mut timers } = tests::settings();
    change(&mut limits, &mut timers);
    let incoming = Incoming::new(net, neighbours, &name, Arc::default(), limits, timers);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (listener, taker) = (TcpListener::from_std(listener).unwrap(), incoming.clone());
    tokio::spawn(async move {
        while let Ok((tcp, peer)) = listener.accept().await {
            // As whoever listens does it: by the first byte of a TLS record.
            let mut first = [0];
            let is_tls = tcp.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0] == 0x16;
            taker.accept(tcp, peer, is_tls);
        }
    });
    Verona { incoming, events, montague, address }
}

fn verona() -> Verona {
    verona_with(|_, _| ())
}

impl Verona {
    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("an event")
    }

    async fn stanza(&mut self) -> (String, Handled) {
        match self.event().await {
            Event::Stanza(stanza, handled) => (format!("{stanza:?}"), handled),
            other => panic!("{other:?}"),
        }
    }

    async fn tcp(&self) -> Peer<TcpStream> {
        Peer(Wire::new(TcpStream::connect(self.address).await.unwrap(), XmlLimits::STANZA))
    }

    /// Under TLS, its first header sent.
    async fn secured(&self) -> Peer<TlsStream<TcpStream>> {
        let mut peer = self.tcp().await;
        peer.open().await;
        peer.say(STARTTLS).await;
        assert_eq!(peer.hear().await, "proceed");
        let io = peer.0.into_plain().expect("nothing else");
        let connector = self.montague.connector("montague.example", Security::StartTls);
        let tls = connector.connect(server_name("capulet.example").unwrap(), io).await.unwrap();
        let mut peer = Peer(Wire::new(tls, XmlLimits::STANZA));
        peer.open().await;
        peer
    }

    /// With `montague.example` authenticated by its certificate. `first`: what it says before.
    async fn authenticated(&self, first: &str) -> Peer<TlsStream<TcpStream>> {
        let mut peer = self.secured().await;
        peer.say(first).await;
        peer.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>")
            .await;
        assert_eq!(peer.hear().await, "success");
        peer.0.restart();
        peer.open().await;
        peer
    }

    async fn until_streams(&self, count: usize) {
        self.until("so many streams", |status| status.streams == count).await;
    }

    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let wait = async {
            while !holds(&self.incoming.status()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait).await.expect(what);
    }

    /// No more streams with that domain.
    fn deny(&self, domain: &str) {
        let rule = config::S2sPolicy {
            domain: domain.to_owned(),
            allow: false,
            certificate: config::S2sCertificate::Preferred,
            tls: config::S2sTls::Required,
            bytes_per_second: None,
        };
        let Settings { limits, timers, .. } = tests::settings();
        self.incoming.reload(Arc::new(Policies::new(&[rule])), limits, timers);
    }
}

/// The other domain's end.
struct Peer<S>(Wire<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn say(&mut self, xml: &str) {
        self.0.put(xml.as_bytes());
        self.0.flush().await.unwrap();
    }

    /// Sends its header, and hears header and features.
    async fn open(&mut self) {
        let header = Opening {
            content_ns: ns::SERVER,
            from: Some("montague.example"),
            to: Some("capulet.example"),
            id: None,
            dialback: true,
        };
        let header = String::from_utf8(header.to_bytes(Framing::Stream)).unwrap();
        self.say(&header).await;
        assert_eq!(self.hear().await, "header");
        assert_eq!(self.hear().await, "features");
    }

    /// The next thing, in a word or as it came; `gone` when there is nothing more.
    async fn hear(&mut self) -> String {
        let hear = async {
            loop {
                match self.0.next().unwrap() {
                    Some(Item::Open(_)) => return "header".to_owned(),
                    Some(Item::Close) => return "close".to_owned(),
                    Some(Item::Stanza(piece, _)) => {
                        return String::from_utf8(piece.to_vec()).unwrap();
                    }
                    Some(Item::Element(element)) => {
                        if let Some(error) = StreamError::from_element(&element) {
                            return error.condition.name().to_owned();
                        }
                        let kind = element.attr("type").map(|kind| format!(" {kind}"));
                        let h = element.attr("h").map(|h| format!(" {h}"));
                        let more = kind.or(h).unwrap_or_default();
                        return format!("{}{more}", element.name());
                    }
                    None => match self.0.turn(true).await {
                        Ok(Turn::Read(_) | Turn::Flushed) => {}
                        Ok(Turn::Ended) | Err(_) => return "gone".to_owned(),
                    },
                }
            }
        };
        timeout(PATIENCE, hear).await.expect("in time")
    }

    async fn hears(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.hear().await, *expected);
        }
    }
}

fn message(id: &str) -> String {
    format!("<message id='{id}' from='romeo@montague.example/x' to='juliet@capulet.example'/>")
}

#[tokio::test]
async fn a_certificate_opens_the_way_with_starttls() {
    let mut verona = verona();
    let mut peer = verona.authenticated("").await;
    peer.say(&message("1")).await;
    let (text, _handled) = verona.stanza().await;
    assert_eq!(
        text,
        "<message id='1' to='juliet@capulet.example' from='romeo@montague.example/x'/>"
    );
    assert_eq!(verona.incoming.status().domains["montague.example"], 1);
    peer.say("</stream:stream>").await;
    peer.hears(&["close", "gone"]).await;
    drop(peer);
    verona.until_streams(0).await;
    assert_eq!(verona.incoming.status().reasons["closed"], 1);
}

#[tokio::test]
async fn a_certificate_that_its_domain_names_over_https_opens_the_way_too() {
    let root = testing::authority();
    let pair = |name: &str| testing::pair(&root, &[name]);
    let hosting = pair("hosting.example");
    let leaf = CertificateDer::from_pem_slice(&hosting.chain).unwrap();
    let web = Web::default().with("montague.example", document(&naming(&leaf)));
    let (port, web) = web.serve(testing::net(&root, vec![pair("montague.example")])).await;
    let (dns, _) = Zone::default().a("montague.example", "127.0.0.1").serve().await;
    let config = NetConfig {
        dns: vec![dns],
        posh: true,
        trust: Some(root.pem.clone()),
        pairs: vec![pair("capulet.example")],
        ..NetConfig::default()
    };
    let capulet = Net::with_https_port(config, port).unwrap();
    let mut verona = verona_between(capulet, testing::net(&root, vec![hosting]), |_, _| ());
    let mut peer = verona.authenticated("").await;
    peer.say(&message("1")).await;
    verona.stanza().await;
    assert_eq!(web.asked.lock().len(), 1);
    // It proves no other domain: nobody says so.
    peer.say("<db:result from='verona.example' to='capulet.example'/>").await;
    peer.hears(&["result error"]).await;
}

#[tokio::test]
async fn direct_tls_is_seen_by_its_first_byte() {
    let mut verona = verona();
    let io = TcpStream::connect(verona.address).await.unwrap();
    let connector = verona.montague.connector("montague.example", Security::DirectTls);
    let tls = connector.connect(server_name("capulet.example").unwrap(), io).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"xmpp-server"[..]));
    let mut peer = Peer(Wire::new(tls, XmlLimits::STANZA));
    peer.open().await;
    peer.say("<db:result from='montague.example' to='capulet.example'>whatever</db:result>").await;
    assert_eq!(peer.hear().await, "result valid", "the certificate proves it (XEP-0344)");
    peer.say(&message("1")).await;
    verona.stanza().await;
}

#[tokio::test]
async fn keys_are_verified_by_whoever_can() {
    let mut verona = verona();
    let mut peer = verona.secured().await;
    let shows = |key: &str| {
        format!("<db:result from='verona.example' to='capulet.example'>{key}</db:result>")
    };
    peer.say(&shows("good")).await;
    assert_eq!(peer.hear().await, "result valid");
    peer.say("<message from='a@verona.example' to='juliet@capulet.example'/>").await;
    verona.stanza().await;
    let mut other = verona.secured().await;
    other.say(&shows("bad")).await;
    other.hears(&["result invalid", "close", "gone"]).await;
}

#[tokio::test]
async fn bytes_behind_starttls_are_not_taken_for_encrypted_ones() {
    let verona = verona();
    let mut peer = verona.tcp().await;
    peer.open().await;
    peer.say(&format!("{STARTTLS}{}", message("injected"))).await; // S-026, B-074
    peer.hears(&["proceed", "gone"]).await;
    drop(peer);
    verona.until_streams(0).await;
    assert_eq!(verona.incoming.status().reasons["tls"], 1);
}

#[tokio::test]
async fn who_says_nothing_is_told_to_go() {
    let verona = verona_with(|_, timers| timers.negotiate = Duration::from_millis(200));
    let mut peer = verona.secured().await;
    peer.hears(&["connection-timeout", "close", "gone"]).await; // B-059
    let mut silent = verona.tcp().await;
    silent.open().await;
    silent.say(STARTTLS).await;
    silent.hears(&["proceed", "gone"]).await;
}

#[tokio::test]
async fn each_bound_is_answered() {
    let verona = verona_with(|limits, _| {
        limits.streams_max = 3;
        limits.unproved_per_address_max = 2;
        limits.streams_per_domain_max = 1;
    });
    let _first = verona.authenticated("").await;
    // A second stream of the domain is one too many.
    let mut second = verona.secured().await;
    second.say("<db:result from='montague.example' to='capulet.example'>k</db:result>").await;
    second.hears(&["result valid", "policy-violation", "close", "gone"]).await;
    drop(second);
    verona.until_streams(1).await;
    let mut third = verona.tcp().await;
    third.open().await;
    let mut fourth = verona.tcp().await;
    fourth.open().await;
    // Two from here have proved nothing.
    let mut fifth = verona.tcp().await;
    fifth.say("<").await;
    fifth.hears(&["gone"]).await;
    third.say("</stream:stream>").await;
    third.hears(&["close", "gone"]).await;
    drop(third);
    verona.until_streams(2).await;
}

#[tokio::test]
async fn a_full_house_says_so() {
    let verona = verona_with(|limits, _| limits.streams_max = 1);
    let _first = verona.authenticated("").await;
    let mut second = verona.tcp().await;
    second.say("<").await;
    second.hears(&["header", "resource-constraint", "close", "gone"]).await;
}

#[tokio::test]
async fn what_is_not_handled_stops_the_reading() {
    let mut verona = verona(); // three may be open
    let mut peer = verona.authenticated("").await;
    let many: String = (0..5).map(|id| message(&id.to_string())).collect();
    peer.say(&many).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(verona.stanza().await.1);
    }
    peer.say("<enable xmlns='urn:xmpp:sm:3'/>").await;
    tokio::task::yield_now().await;
    assert!(verona.events.try_recv().is_err(), "nobody is responsible for three of them");
    drop(open);
    let rest = [verona.stanza().await, verona.stanza().await];
    assert!(rest[1].0.contains("id='4'"), "{rest:?}");
    assert_eq!(peer.hear().await, "enabled");
}

#[tokio::test]
async fn without_acknowledgements_written_is_delivered() {
    let mut verona = verona();
    let mut peer = verona.authenticated("<bidi xmlns='urn:xmpp:bidi'/>").await;
    let Event::Opened(_, back) = verona.event().await else { panic!("not opened") };
    let stanza = Stanza::parse("<message id='b1'/>".into()).unwrap();
    back.queue.send((Ticket { via: None, order: 7 }, stanza)).await.unwrap();
    assert!(peer.hear().await.contains("id='b1'"));
    assert!(matches!(verona.event().await, Event::Delivered(_, orders) if orders == [7]));
    drop(peer);
    assert!(matches!(verona.event().await, Event::Closed(stream) if stream == back.stream));
    let stanza = Stanza::parse("<message id='b2'/>".into()).unwrap();
    assert!(back.queue.send((Ticket { via: None, order: 8 }, stanza)).await.is_err());
}

#[tokio::test]
async fn who_sends_too_fast_is_read_slowly() {
    let mut verona = verona_with(|limits, _| {
        limits.bytes_per_second = 20_000;
        limits.unhandled_max = 1000;
    });
    let mut peer = verona.authenticated("").await;
    let began = Instant::now();
    let body = "x".repeat(4_000);
    for _ in 0..10 {
        peer.say(&format!(
            "<message from='montague.example' to='capulet.example'>{body}</message>"
        ))
        .await;
    }
    for _ in 0..10 {
        verona.stanza().await;
    }
    // Forty thousand bytes: twenty at once, some more that are read in one piece, the rest at the rate.
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn rules_change_under_a_stream() {
    let verona = verona();
    let mut peer = verona.authenticated("").await;
    verona.deny("*");
    peer.hears(&["policy-violation", "close", "gone"]).await;
}

#[tokio::test]
async fn the_end_of_the_server_is_told() {
    let verona = verona();
    let mut peer = verona.authenticated("").await;
    let ending = verona.incoming.clone();
    let ended = tokio::spawn(async move { ending.shutdown(Instant::now() + PATIENCE).await });
    peer.hears(&["system-shutdown", "close", "gone"]).await;
    drop(peer);
    ended.await.unwrap();
    assert_eq!(verona.incoming.status().streams, 0);
}

#[tokio::test]
async fn a_node_that_is_emptied_sends_domains_elsewhere_until_it_is_not() {
    let authority = Authority::new();
    let [capulet, montague] =
        ["capulet", "montague"].map(|one| authority.net(&format!("{one}.example")));
    let verona = verona_of(capulet, montague, Some("other.example:5269"), |_, _| ());
    let mut standing = verona.authenticated("").await;
    // It has proved nothing yet.
    let mut early = verona.secured().await;
    verona.incoming.leave(true);
    standing.hears(&["see-other-host", "close", "gone"]).await;
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    early.say(auth).await;
    early.hears(&["see-other-host", "close", "gone"]).await;
    // Not without TLS: who hears it there could not believe it. And our keys are verified for whoever asks.
    let mut late = verona.secured().await;
    late.say("<db:verify from='montague.example' to='capulet.example' id='1'>bad</db:verify>")
        .await;
    assert_eq!(late.hear().await, "verify invalid");
    late.say("<db:result from='montague.example' to='capulet.example'>good</db:result>").await;
    late.hears(&["see-other-host", "close", "gone"]).await;
    drop((standing, early, late));
    verona.until_streams(0).await;
    assert_eq!(verona.incoming.status().reasons["see-other-host"], 3);

    verona.incoming.leave(false);
    let mut back = verona.authenticated("").await;
    verona.incoming.shutdown(Instant::now()).await;
    back.hears(&["see-other-host", "close", "gone"]).await;
}

#[tokio::test]
async fn nobody_is_sent_elsewhere_in_the_clear() {
    let authority = Authority::new();
    let [capulet, montague] =
        ["capulet", "montague"].map(|one| authority.net(&format!("{one}.example")));
    let verona = verona_of(capulet, montague, Some("other.example:5269"), |_, _| ());
    let rule = config::S2sPolicy {
        domain: "montague.example".to_owned(),
        allow: true,
        certificate: config::S2sCertificate::Preferred,
        tls: config::S2sTls::Optional,
        bytes_per_second: None,
    };
    let Settings { limits, timers, .. } = tests::settings();
    verona.incoming.reload(Arc::new(Policies::new(&[rule])), limits, timers);
    let mut standing = verona.tcp().await;
    standing.open().await;
    let result = "<db:result from='montague.example' to='capulet.example'>good</db:result>";
    standing.say(result).await;
    standing.hears(&["result valid"]).await;
    let mut early = verona.tcp().await;
    early.open().await;
    verona.incoming.leave(true);
    standing.hears(&["system-shutdown", "close", "gone"]).await;
    early.say(result).await;
    early.hears(&["system-shutdown", "close", "gone"]).await;
    let mut late = verona.tcp().await;
    late.open().await;
    verona.incoming.shutdown(Instant::now()).await;
    late.hears(&["system-shutdown", "close", "gone"]).await;
}
