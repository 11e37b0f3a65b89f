//! A peer made of tests: a way to it without sockets, a server that plays its part as it is told to, and a user who writes down what happens.
//!
//! There is no TLS in it: `<proceed/>` is followed by a new stream on the same bytes, and whether the certificate is good is what the test says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::Instant;
use xmpp::sm::Nonza;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::framer::Limits as Framing;
use xmpp::{Element, Stanza, ns};

use super::super::failure::Failure;
use super::super::way::{Io, Way};
use super::super::{Outgoing, Settings};
use crate::federation::dialback::{Dialback, DialbackError, Outcome, Step};
use crate::federation::net::Target;
use crate::federation::net::targets::Security;
use crate::federation::policy::Policies;
use crate::federation::wire::{Item, Turn, Wire};
use crate::federation::{FederationUser, Handled, Ticket};

/// What the peer is like. Read anew for each connection.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    pub(super) find: Find,
    pub(super) connect: Connect,
    pub(super) external: bool,
    pub(super) sm: bool,
    pub(super) resume: bool,
    pub(super) bidi: bool,
    pub(super) takes_more: bool,
    /// Says its header and features before it has heard ours.
    pub(super) eager: bool,
    /// What it answers to dialback, for each of our domains; by default it is content.
    pub(super) dialback: HashMap<String, Outcome>,
    /// What it says to `db:verify`.
    pub(super) verify: Option<Outcome>,
    /// Says this right behind `<proceed/>`.
    pub(super) inject: &'static str,
    /// Closes each connection when TLS is on.
    pub(super) closes_after_tls: bool,
    /// Closes each stream in order when TLS is on.
    pub(super) shuts: bool,
    /// Does not answer when it is asked.
    pub(super) mute: bool,
    /// Says that it has handled so many less than have come.
    pub(super) behind: u32,
    /// Drops the connection when so many stanzas have come over all.
    pub(super) cuts: Vec<usize>,
    /// Drops the connection on which it is asked to resume, so many times.
    pub(super) cuts_resuming: usize,
    /// Does not answer when it is asked to resume.
    pub(super) mute_resuming: bool,
    /// Says that it has handled so many more than have come, when it is asked to resume.
    pub(super) ahead_resuming: u32,
    /// The domain's certificate is good.
    pub(super) proved: bool,
    /// What it makes of EXTERNAL; by default it is content.
    pub(super) external_fails: Fails,
    /// Servers that the domain has, by name: those called `bad…` close each connection.
    pub(super) hosts: &'static [&'static str],
    /// Sends everybody who is not there yet to this host.
    pub(super) elsewhere: Option<&'static str>,
    /// Closes in order when so many stanzas have come over all.
    pub(super) closes_at: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find {
    Found,
    NotFound,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fails {
    Never,
    /// And goes on.
    Mildly,
    /// And closes.
    Finally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    Accepts,
    Refuses,
    Silent,
}

impl Default for Manners {
    fn default() -> Self {
        Manners {
            find: Find::Found,
            connect: Connect::Accepts,
            external: true,
            sm: true,
            resume: true,
            bidi: false,
            takes_more: true,
            eager: false,
            dialback: HashMap::new(),
            verify: Some(Outcome::Valid),
            inject: "",
            closes_after_tls: false,
            shuts: false,
            mute: false,
            behind: 0,
            cuts: Vec::new(),
            cuts_resuming: 0,
            mute_resuming: false,
            ahead_resuming: 0,
            proved: true,
            external_fails: Fails::Never,
            hosts: &["xmpp.montague.example"],
            elsewhere: None,
            closes_at: None,
        }
    }
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When each connection was asked for, in milliseconds from the start.
    pub(super) attempts: Vec<u64>,
    /// Domains that were searched.
    pub(super) searches: Vec<String>,
    /// How often it was asked what a certificate proves.
    pub(super) judged: usize,
    /// Servers that took a connection.
    pub(super) hosts: Vec<String>,
    /// Bodies that came to the peer, and whether with a delay.
    pub(super) arrived: Vec<(u64, bool)>,
    /// Streams on which stanzas came, by the domain of the first header.
    pub(super) streams: usize,
    /// Elements of dialback that came, in words; and what was said of stream management.
    pub(super) dialback: Vec<String>,
    pub(super) resumed: usize,
    /// How often the peer was asked for an acknowledgement.
    pub(super) asked: usize,
    /// Stream errors that the peer was told.
    pub(super) errors: Vec<String>,
    pub(super) closed: usize,
    /// Tickets told as delivered.
    pub(super) delivered: Vec<u64>,
    /// Tickets told as failed, with the condition.
    pub(super) failed: Vec<(u64, String)>,
    /// Stanzas that we took from the peer.
    pub(super) received: Vec<String>,
    /// Those not handled yet, if they are kept.
    pub(super) kept: Vec<Handled>,
}

/// Everything.
pub(super) struct World {
    pub(super) manners: Mutex<Manners>,
    pub(super) seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
    began: Instant,
    /// Streams that may be resumed: how many stanzas came.
    sessions: Mutex<BTreeMap<String, u32>>,
    ids: Mutex<u64>,
    pub(super) ours: Mutex<Vec<String>>,
    /// What the peer sends us once it may.
    pub(super) says: Mutex<Vec<String>>,
    /// And once stream management is on.
    pub(super) later: Mutex<Vec<String>>,
    /// And once a stream is resumed.
    pub(super) resumed: Mutex<Vec<String>>,
    pub(super) keeps: Mutex<bool>,
    /// See [`World::hold`].
    holds: AtomicBool,
}

/// As long as it is there, who tells that something is delivered does not get away.
pub(super) struct Hold(Arc<World>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.store(false, Ordering::Release);
    }
}

impl World {
    pub(super) fn new(manners: Manners) -> Arc<World> {
        Arc::new(World {
            manners: Mutex::new(manners),
            seen: Mutex::default(),
            changed: watch::Sender::new(0),
            began: Instant::now(),
            sessions: Mutex::default(),
            ids: Mutex::default(),
            ours: Mutex::new(vec![
                "capulet.example".to_owned(),
                "rooms.capulet.example".to_owned(),
            ]),
            says: Mutex::default(),
            later: Mutex::default(),
            resumed: Mutex::default(),
            keeps: Mutex::new(false),
            holds: AtomicBool::new(false),
        })
    }

    /// Our half, with this peer outside.
    pub(super) fn outgoing(self: &Arc<Self>) -> Outgoing {
        self.outgoing_with(super::limits(), super::timers())
    }

    pub(super) fn outgoing_with(
        self: &Arc<Self>,
        limits: crate::federation::Limits,
        timers: crate::federation::Timers,
    ) -> Outgoing {
        let settings = Settings { policies: Arc::new(Policies::default()), limits, timers };
        let way = Arc::new(FakeWay(self.clone()));
        Outgoing::start_with(way, settings, Arc::new(Recorder(self.clone())))
    }

    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.holds.store(true, Ordering::Release);
        Hold(self.clone())
    }

    pub(super) fn note<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let done = change(&mut self.seen.lock());
        self.changed.send_modify(|n| *n += 1);
        done
    }

    /// How long it has been going on.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until it holds, at most so long (of paused time) that a failure is a failure.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&Seen) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = changes.wait_for(|_| holds(&self.seen.lock()));
        let waited = tokio::time::timeout(Duration::from_secs(3600), wait).await.is_ok();
        assert!(waited, "never: {what}; {:?}", self.seen.lock());
    }

    fn cuts_at(&self, count: usize) -> bool {
        let cuts = &mut self.manners.lock().cuts;
        let is_it = cuts.first() == Some(&count);
        if is_it {
            cuts.remove(0);
        }
        is_it
    }

    fn id(&self) -> String {
        let mut ids = self.ids.lock();
        *ids += 1;
        format!("id{ids}")
    }
}

struct FakeWay(Arc<World>);

fn target(host: &str) -> Target {
    Target {
        host: host.to_owned(),
        port: 5269,
        security: Security::StartTls,
        addresses: vec![[192, 0, 2, 1].into()],
        authentic: false,
    }
}

impl Way for FakeWay {
    fn find<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Vec<Target>, Failure>> {
        let Manners { find, hosts, .. } = self.0.manners.lock().clone();
        self.0.note(|seen| seen.searches.push(domain.to_owned()));
        let found = async move {
            match find {
                Find::NotFound => Err(Failure::NotFound("no such domain".to_owned())),
                Find::Unknown => Err(Failure::Unreachable("DNS does not say".to_owned())),
                Find::Found => Ok(hosts.iter().map(|host| target(host)).collect()),
            }
        };
        found.boxed()
    }

    fn connect<'a>(
        &'a self,
        targets: &'a [Target],
        deadline: Instant,
    ) -> BoxFuture<'a, Result<(Io, Target), Failure>> {
        let connected = async move {
            let at = self.0.began.elapsed().as_millis() as u64;
            self.0.note(|seen| seen.attempts.push(at));
            let connect = self.0.manners.lock().connect;
            match connect {
                Connect::Refuses => return Err(Failure::Unreachable("refused".to_owned())),
                Connect::Silent => {
                    tokio::time::sleep_until(deadline).await;
                    return Err(Failure::Deadline);
                }
                Connect::Accepts => {}
            }
            let (near, far) = tokio::io::duplex(16 << 10);
            let there = format!("{}:{}", targets[0].host, targets[0].port);
            self.0.note(|seen| seen.hosts.push(there.clone()));
            tokio::spawn(serve(self.0.clone(), far, there));
            Ok((Box::new(near) as Io, targets[0].clone()))
        };
        connected.boxed()
    }

    fn encrypt<'a>(
        &'a self,
        io: Io,
        _: &'a str,
        _: &'a str,
        _: Security,
        judged: bool,
    ) -> BoxFuture<'a, Result<(Io, bool), Failure>> {
        self.0.note(|seen| seen.judged += usize::from(judged));
        let proved = judged && self.0.manners.lock().proved;
        async move { Ok((io, proved)) }.boxed()
    }
}

/// The peer on one connection.
async fn serve(world: Arc<World>, io: DuplexStream, host: String) {
    let mut manners = world.manners.lock().clone();
    manners.closes_after_tls |= host.starts_with("bad");
    manners.elsewhere = manners.elsewhere.filter(|elsewhere| *elsewhere != host);
    let mut wire = Wire::new(io, Framing::STANZA);
    let name = "montague.example".to_owned();
    let mut peer = Peer {
        name,
        world,
        manners,
        tls: false,
        authenticated: false,
        h: 0,
        session: None,
        sm: false,
    };
    if peer.manners.eager {
        peer.open(&mut wire);
    }
    loop {
        let item = match wire.next() {
            Ok(Some(item)) => item,
            Ok(None) => match wire.turn(true).await {
                Ok(Turn::Ended) | Err(_) => return peer.world.note(|seen| seen.closed += 1),
                Ok(_) => continue,
            },
            Err(error) => panic!("we wrote bad XML: {error}"),
        };
        match item {
            Item::Open(_) if peer.manners.eager => peer.manners.eager = false,
            Item::Open(header) => {
                peer.name = header.to.expect("whom we call");
                peer.open(&mut wire);
            }
            Item::Close => {
                peer.world.note(|seen| seen.closed += 1);
                return wire.close(Duration::from_secs(1)).await;
            }
            Item::Stanza(piece, head) => {
                let text = String::from_utf8(piece.to_vec()).expect("text");
                let id = head.id.map(|id| String::from_utf8(id.of(&piece).to_vec()).expect("text"));
                let id = id.and_then(|id| id.parse().ok()).unwrap_or_default();
                peer.h += 1;
                if let Some(session) = &peer.session {
                    peer.world.sessions.lock().insert(session.clone(), peer.h);
                }
                let count = peer.world.note(|seen| {
                    seen.arrived.push((id, text.contains("urn:xmpp:delay")));
                    seen.arrived.len()
                });
                if peer.world.cuts_at(count) {
                    return;
                }
                if peer.manners.closes_at == Some(count) {
                    wire.put(b"</stream:stream>");
                    drop(wire.flush().await);
                    return;
                }
            }
            Item::Element(element) => {
                if !peer.element(&mut wire, &element).await {
                    return;
                }
            }
        }
    }
}

struct Peer {
    /// Whom it was called.
    name: String,
    world: Arc<World>,
    manners: Manners,
    tls: bool,
    authenticated: bool,
    h: u32,
    session: Option<String>,
    sm: bool,
}

impl Peer {
    fn open(&mut self, wire: &mut Wire<DuplexStream>) {
        let header = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
            xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' version='1.0'";
        wire.put(format!("{header} from='{}' id='{}'>", self.name, self.world.id()).as_bytes());
        if let (Some(host), true) = (self.manners.elsewhere, self.tls) {
            return wire.put(&xmpp::StreamError::see_other_host(host).to_bytes());
        }
        if self.manners.shuts && self.tls {
            return wire.put(b"</stream:stream>");
        }
        let mut features = String::from("<stream:features>");
        let mut add = |is: bool, feature: &str| {
            if is {
                features.push_str(feature);
            }
        };
        let Manners { external, sm, bidi, takes_more, .. } = self.manners;
        add(!self.tls, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        add(
            self.tls && external && !self.authenticated,
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>",
        );
        add(bidi, "<bidi xmlns='urn:xmpp:features:bidi'/>");
        add(takes_more, "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>");
        add(self.tls && sm, "<sm xmlns='urn:xmpp:sm:3'/>");
        features.push_str("</stream:features>");
        wire.put(features.as_bytes());
        if self.authenticated {
            self.up(wire);
        }
    }

    /// It may send now.
    fn up(&mut self, wire: &mut Wire<DuplexStream>) {
        self.world.note(|seen| seen.streams += 1);
        for says in self.world.says.lock().drain(..) {
            wire.put(says.as_bytes());
        }
    }

    /// Whether it goes on.
    async fn element(&mut self, wire: &mut Wire<DuplexStream>, element: &Element) -> bool {
        if let Some(error) = xmpp::StreamError::from_element(element) {
            self.world.note(|seen| seen.errors.push(error.condition.name().to_owned()));
            return true;
        }
        match (element.ns(), element.name()) {
            (ns::TLS, "starttls") => {
                wire.put(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
                wire.put(self.manners.inject.as_bytes());
                wire.restart();
                self.tls = true;
                if self.manners.closes_after_tls {
                    drop(wire.flush().await);
                    return false;
                }
            }
            (ns::SASL, "auth") if self.manners.external_fails != Fails::Never => {
                wire.put(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>");
                if self.manners.external_fails == Fails::Finally {
                    wire.put(b"</stream:stream>");
                    drop(wire.flush().await);
                    return false;
                }
            }
            (ns::SASL, "auth") => {
                wire.put(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
                wire.restart();
                self.authenticated = true;
            }
            (ns::BIDI, "bidi") => assert!(self.manners.bidi && self.tls),
            (ns::DIALBACK, _) => self.dialback(wire, element),
            (ns::SM, "resume") if self.world.manners.lock().cuts_resuming > 0 => {
                self.world.manners.lock().cuts_resuming -= 1;
                return false;
            }
            (ns::SM, _) => self.managed(wire, element),
            other => panic!("the peer does not know {other:?}"),
        }
        true
    }

    fn dialback(&mut self, wire: &mut Wire<DuplexStream>, element: &Element) {
        let Dialback { pair, step } = Dialback::read(element).expect("as it should be");
        let (from, to) = (&pair.from, &pair.to);
        let step = match step {
            Step::Result { .. } => {
                self.world.note(|seen| seen.dialback.push(format!("result {from} {to}")));
                let outcome = self.manners.dialback.get(&pair.from).copied();
                let outcome = outcome.unwrap_or(Outcome::Valid);
                wire.put(
                    &Dialback { pair: pair.reversed(), step: Step::Answer(outcome) }.to_bytes(),
                );
                if outcome == Outcome::Valid && !self.authenticated {
                    self.authenticated = true;
                    self.up(wire);
                }
                return;
            }
            Step::Verify { id, key } => {
                self.world
                    .note(|seen| seen.dialback.push(format!("verify {from} {to} {id} {key}")));
                let Some(outcome) = self.manners.verify else { return };
                Step::Verified { id, outcome }
            }
            Step::Verified { outcome, .. } => {
                self.world
                    .note(|seen| seen.dialback.push(format!("verified {from} {to} {outcome:?}")));
                return;
            }
            Step::Answer(outcome) => {
                self.world
                    .note(|seen| seen.dialback.push(format!("answer {from} {to} {outcome:?}")));
                return;
            }
        };
        wire.put(&Dialback { pair: pair.reversed(), step }.to_bytes());
    }

    fn managed(&mut self, wire: &mut Wire<DuplexStream>, element: &Element) {
        let answer = match Nonza::parse(element).expect("of stream management").expect("good") {
            Nonza::Enable { resume, .. } => {
                assert!(self.authenticated, "not before authentication");
                (self.sm, self.h) = (true, 0);
                let id = (resume && self.manners.resume).then(|| self.world.id());
                self.session = id.clone();
                self.world.sessions.lock().extend(id.clone().map(|id| (id, 0)));
                Nonza::Enabled { id, max: Some(60), location: None }
            }
            Nonza::Resume { .. } if self.manners.mute_resuming => return,
            Nonza::Resume { previd, h: told } => {
                let known = self.world.sessions.lock().get(&previd).copied();
                match known.filter(|_| self.manners.resume) {
                    Some(h) => {
                        self.world.note(|seen| {
                            seen.resumed += 1;
                            seen.dialback.push(format!("resume {told}"));
                        });
                        (self.sm, self.h, self.session) = (true, h, Some(previd.clone()));
                        Nonza::Resumed { previd, h: h + self.manners.ahead_resuming }
                    }
                    None => Nonza::Failed { condition: xmpp::Condition::ItemNotFound, h: None },
                }
            }
            Nonza::Request if self.manners.mute => return,
            Nonza::Request => {
                self.world.note(|seen| seen.asked += 1);
                let behind = self.world.manners.lock().behind;
                Nonza::Answer { h: self.h.saturating_sub(behind) }
            }
            Nonza::Answer { h } => {
                return self.world.note(|seen| seen.dialback.push(format!("a {h}")));
            }
            other => panic!("unexpected {other:?}"),
        };
        wire.put(&answer.to_bytes());
        let says = match answer {
            Nonza::Enabled { .. } => &self.world.later,
            Nonza::Resumed { .. } => &self.world.resumed,
            _ => return,
        };
        for says in says.lock().drain(..) {
            wire.put(says.as_bytes());
        }
    }
}

struct Recorder(Arc<World>);

impl FederationUser for Recorder {
    fn is_ours(&self, domain: &str) -> bool {
        self.0.ours.lock().iter().any(|ours| ours == domain)
    }

    fn dialback_secret(&self) -> Option<[u8; 32]> {
        Some([7; 32])
    }

    fn receive(&self, stanza: Stanza, handled: Handled) {
        let keeps = *self.0.keeps.lock();
        self.0.note(|seen| {
            seen.received.push(format!("{stanza:?}"));
            if keeps {
                seen.kept.push(handled);
            }
        });
    }

    fn delivered(&self, tickets: &[Ticket]) {
        self.0.note(|seen| seen.delivered.extend(tickets.iter().map(|ticket| ticket.order)));
        while self.0.holds.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn failed(&self, ticket: Ticket, _: Stanza, error: StanzaError) {
        let condition = error.condition.name().to_owned();
        self.0.note(|seen| seen.failed.push((ticket.order, condition)));
    }
}

/// A dialback error as the peer answers it.
pub(super) fn refusal(error: DialbackError) -> Outcome {
    Outcome::Error(error)
}
