//! One client of a user: a state machine that the harness drives. It speaks real XMPP over a simulated connection: stream negotiation with
//! SASL PLAIN, bind, stream management with resumption, roster, presence, messages.

use std::collections::VecDeque;

use base64::Engine as _;
use xmpp::ns;
use xmpp::xml::element::Element;
use xmpp::xml::framer::{Framer, Limits, Scan};

use super::journal::{Abroad, Ack, Journal, Ping, Sent, Session, Set};
use crate::world::chance::Chance;
use crate::world::net::{Attempt, Net, Party, Read, Way};
use crate::world::story::Story;

/// Every account's password.
pub const PASSWORD: &str = "secret";
/// A negotiation that takes longer is given up.
const PATIENCE_MS: u64 = 6_000;
/// A server that does not answer `<r/>` for so long is given up.
const SILENCE_MS: u64 = 9_000;

/// What a client does outside its session.
pub struct Around<'a> {
    /// The network.
    pub net: &'a Net,
    /// What happened.
    pub journal: &'a mut Journal,
    /// The trace.
    pub story: &'a Story,
    /// Names of the hosts.
    pub hosts: &'a [String],
    /// Which life each host lives.
    pub lives: &'a [u64],
    /// Now.
    pub now: u64,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing: there is no connection.
    Away,
    /// Stream features, before signing in.
    Opening,
    /// `<success/>`.
    Auth,
    /// Stream features, after it.
    Reopening,
    /// `<resumed/>`.
    Resuming,
    /// Its full JID.
    Binding,
    /// `<enabled/>`.
    Enabling,
    /// Bound, and in use.
    Online,
}

/// Something sent that the server has not acknowledged.
#[derive(Clone, Debug)]
struct Out {
    what: What,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Message(usize),
    Abroad(usize),
    /// Of the account: it waits for its home.
    Change,
    Other,
}

/// A bound session, as its client knows it.
#[derive(Debug)]
pub(super) struct Bound {
    /// Its number in the journal.
    pub(super) number: usize,
    pub(super) host: usize,
    /// The id to resume it by.
    pub(super) id: Option<String>,
    /// Stanzas received since `<enabled/>`.
    pub(super) received: u32,
    /// Stanzas the server has acknowledged.
    handled: u32,
    unacked: VecDeque<Out>,
}

/// The connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) conn: u64,
    pub(super) host: usize,
    since: u64,
    /// Bytes written to it.
    written: u64,
    /// When `<r/>` was sent that is not answered.
    asked: Option<u64>,
}

/// See the module.
pub struct Device {
    /// Its number.
    pub id: usize,
    /// Whose.
    pub user: usize,
    /// Its resource.
    pub resource: &'static str,
    /// What it waits for.
    pub stage: Stage,
    /// When it dials next, unless it is to stay away.
    pub dial_at: Option<u64>,
    /// Where.
    pub dial_to: usize,
    /// Whether it tries to resume.
    pub resumes: bool,
    /// The number of its last presence, while it is available; and its priority.
    pub shows: Option<(u64, i8)>,
    /// Acknowledgements that wait: when, for how many.
    pub acks_at: VecDeque<u64>,
    pub(super) bound: Option<Bound>,
    /// Where its last session was, and in which life of that host.
    pub(super) last: Option<(usize, u64)>,
    pub(super) line: Option<Line>,
    framer: Framer,
    input: Vec<u8>,
    pub(super) chance: Chance,
    numbers: u64,
}

/// The bare JID of a user.
pub fn account(user: usize) -> String {
    format!("u{user}@chat.example")
}

impl Device {
    /// A device that has never been online.
    pub fn new(id: usize, user: usize, resource: &'static str, chance: Chance) -> Self {
        Self {
            id,
            user,
            resource,
            stage: Stage::Away,
            dial_at: None,
            dial_to: 0,
            resumes: true,
            shows: None,
            acks_at: VecDeque::new(),
            bound: None,
            last: None,
            line: None,
            framer: Framer::stream(Limits::STANZA),
            input: Vec::new(),
            chance,
            numbers: 0,
        }
    }

    /// Its name in the story.
    pub fn name(&self) -> String {
        format!("u{}/{}", self.user, self.resource)
    }

    /// Whether it is bound and can be used.
    pub fn is_online(&self) -> bool {
        self.stage == Stage::Online
    }

    /// Where it is connected.
    pub fn host(&self) -> Option<usize> {
        self.line.map(|line| line.host)
    }

    /// Where its session is, if it may still be taken up.
    pub fn bound_at(&self) -> Option<usize> {
        self.bound.as_ref().map(|bound| bound.host)
    }

    /// Its connection.
    pub fn conn(&self) -> Option<u64> {
        self.line.map(|line| line.conn)
    }

    /// Whether the server has acknowledged all it was sent.
    pub fn is_quiet(&self) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.unacked.is_empty())
    }

    /// Its present session's number.
    pub fn session(&self) -> Option<usize> {
        self.bound.as_ref().map(|bound| bound.number)
    }

    /// Dials.
    pub fn dial(&mut self, around: &mut Around<'_>) {
        self.dial_at = None;
        let way = Way {
            delay_ms: self.chance.between(5, 60),
            jitter_ms: self.chance.between(0, 20),
            loss_percent: 0,
            cut: false,
        };
        match around.net.connect(Party::Device(self.id), self.dial_to, Some(way), around.now) {
            Attempt::Made(conn, at) => {
                let (name, host) = (self.name(), &around.hosts[self.dial_to]);
                around.story.tell(around.now, || format!("{name} dials {host}"));
                self.line = Some(Line {
                    conn,
                    host: self.dial_to,
                    since: around.now,
                    written: 0,
                    asked: None,
                });
                self.stage = Stage::Opening;
                self.framer = Framer::stream(Limits::STANZA);
                self.input.clear();
                self.acks_at.clear();
                self.open(around, at);
            }
            Attempt::Refused(at) => self.again(at),
            Attempt::Silence => self.again(around.now + PATIENCE_MS),
        }
    }

    fn again(&mut self, from: u64) {
        self.dial_at = Some(from + self.chance.between(100, 1_500));
        self.dial_to = usize::MAX; // the harness says where
    }

    fn open(&mut self, around: &mut Around<'_>, at: u64) {
        let header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
                      to='chat.example' version='1.0'>";
        let now = std::mem::replace(&mut around.now, at);
        self.write(around, header.as_bytes());
        around.now = now;
    }

    pub(super) fn write(&mut self, around: &mut Around<'_>, bytes: &[u8]) {
        let Some(line) = self.line.as_mut() else { return };
        line.written += bytes.len() as u64;
        // A connection that is broken says so when it is read.
        let _ = around.net.write(line.conn, 0, bytes, around.now, None);
    }

    /// A stanza: counted, and kept until the server has it.
    pub(super) fn say(&mut self, around: &mut Around<'_>, bytes: Vec<u8>) {
        self.say_what(around, What::Other, bytes);
    }

    fn say_what(&mut self, around: &mut Around<'_>, what: What, bytes: Vec<u8>) {
        self.write(around, &bytes);
        if let Some(bound) = self.bound.as_mut() {
            bound.unacked.push_back(Out { what, bytes });
        }
    }

    /// Looks whether it has waited too long; and acknowledges what is due.
    pub fn tick(&mut self, around: &mut Around<'_>) {
        while self.acks_at.front().is_some_and(|at| *at <= around.now) {
            self.acks_at.pop_front();
            self.acknowledge(around);
        }
        let Some(line) = self.line else { return };
        let slow = self.stage != Stage::Online && around.now > line.since + PATIENCE_MS;
        let silent = line.asked.is_some_and(|at| around.now > at + SILENCE_MS);
        if slow || silent {
            let name = self.name();
            around.story.tell(around.now, || format!("{name} hears nothing and gives up"));
            self.drop_line(around);
            self.again(around.now);
        }
    }

    /// Something came, or an end.
    pub fn readable(&mut self, around: &mut Around<'_>) {
        loop {
            let Some(line) = self.line else { return };
            match around.net.read(line.conn, 0, usize::MAX, around.now, None) {
                Read::Data(data) => {
                    self.input.extend(data);
                    self.scan(around);
                }
                Read::Nothing(_) => return,
                end => {
                    let name = self.name();
                    around
                        .story
                        .tell(around.now, || format!("{name} loses its connection ({end:?})"));
                    self.drop_line(around);
                    self.again(around.now);
                }
            }
        }
    }

    fn scan(&mut self, around: &mut Around<'_>) {
        while self.line.is_some() {
            let (bytes, element) = match self.framer.scan(&self.input) {
                Ok(Scan::More) => return,
                Ok(Scan::Space(bytes) | Scan::Open(bytes, _)) => (bytes, None),
                Ok(Scan::Element(bytes, _)) => {
                    (bytes, Some(self.framer.element(&self.input[..bytes])))
                }
                Ok(Scan::Close(_)) => {
                    let name = self.name();
                    around
                        .story
                        .tell(around.now, || format!("{name}: the server closes the stream"));
                    self.drop_line(around);
                    self.again(around.now);
                    return;
                }
                Err(error) => {
                    around.journal.is_wrong(
                        "no_phantom",
                        format!("{}: bytes that are no XML: {error:?}", self.name()),
                    );
                    return;
                }
            };
            self.input.drain(..bytes);
            match element {
                None => {}
                Some(Ok(element)) => self.element(around, &element),
                Some(Err(error)) => {
                    around.journal.is_wrong(
                        "no_phantom",
                        format!("{}: an element that is none: {error:?}", self.name()),
                    );
                }
            }
        }
    }

    fn element(&mut self, around: &mut Around<'_>, element: &Element) {
        match (element.name(), element.ns()) {
            ("features", _) => self.features(around),
            ("success", ns::SASL) => {
                self.framer.restart();
                self.stage = Stage::Reopening;
                self.open(around, around.now);
            }
            ("failure", ns::SASL) => {
                self.drop_line(around);
                self.again(around.now);
            }
            ("error", ns::STREAM) => {
                let what = element.children().next().map(|child| child.name().to_owned());
                let what = what.unwrap_or_default();
                let name = self.name();
                around.story.tell(around.now, || format!("{name}: stream error {what}"));
                if what == "conflict" {
                    // Somewhere there is a bind that counts as newer: clocks may be an hour apart.
                    self.last = None;
                }
                // The session is over, whatever the reason.
                self.over(around);
            }
            ("enabled", ns::SM) => {
                if let Some(bound) = self.bound.as_mut() {
                    bound.id = element.attr("id").map(str::to_owned);
                    around.journal.sessions[bound.number].managed = true;
                }
                self.begun(around);
            }
            ("resumed", ns::SM) => self.resumed(around, element),
            ("failed", ns::SM) => {
                let name = self.name();
                around.story.tell(around.now, || format!("{name} cannot resume"));
                if self.stage == Stage::Resuming {
                    self.over(around);
                    self.bind(around);
                }
            }
            ("r", ns::SM) => {
                let wait = if self.chance.percent(70) { 0 } else { self.chance.below(400) };
                self.acks_at.push_back(around.now + wait);
                if wait == 0 {
                    self.tick(around);
                }
            }
            ("a", ns::SM) => {
                if let Some(line) = self.line.as_mut() {
                    line.asked = None;
                }
                self.handled(around, element);
            }
            ("message" | "presence" | "iq", _) => {
                if let Some(bound) = self.bound.as_mut().filter(|_| self.stage == Stage::Online) {
                    bound.received = bound.received.wrapping_add(1);
                }
                super::ears::stanza(self, around, element);
            }
            _ => {}
        }
    }

    fn features(&mut self, around: &mut Around<'_>) {
        match self.stage {
            Stage::Opening => {
                let plain = format!("\0u{}\0{PASSWORD}", self.user);
                let plain = base64::engine::general_purpose::STANDARD.encode(plain);
                self.write(
                    around,
                    format!("<auth xmlns='{}' mechanism='PLAIN'>{plain}</auth>", ns::SASL)
                        .as_bytes(),
                );
                self.stage = Stage::Auth;
            }
            Stage::Reopening => {
                let resume = self.bound.as_ref().filter(|_| self.resumes).and_then(|bound| {
                    bound.id.as_ref().map(|id| {
                        format!("<resume xmlns='{}' h='{}' previd='{id}'/>", ns::SM, bound.received)
                    })
                });
                match resume {
                    Some(resume) => {
                        self.write(around, resume.as_bytes());
                        self.stage = Stage::Resuming;
                    }
                    None => {
                        self.over(around);
                        self.bind(around);
                    }
                }
            }
            _ => {}
        }
    }

    fn bind(&mut self, around: &mut Around<'_>) {
        let bind = format!(
            "<iq type='set' id='bind'><bind xmlns='{}'><resource>{}</resource></bind></iq>",
            ns::BIND,
            self.resource
        );
        self.write(around, bind.as_bytes());
        self.stage = Stage::Binding;
    }

    /// Its full JID is its own.
    pub(super) fn bound(&mut self, around: &mut Around<'_>) {
        let Some(line) = self.line else { return };
        let number = around.journal.sessions.len();
        around.journal.sessions.push(Session {
            device: self.id,
            user: self.user,
            host: line.host,
            life: around.lives[line.host],
            at: around.now,
            managed: false,
            over: None,
            acks: Vec::new(),
        });
        around.journal.heard.retain(|(hearer, _), _| *hearer != self.id);
        let (name, host) = (self.name(), &around.hosts[line.host]);
        around.story.tell(around.now, || format!("{name} is bound at {host} (session {number})"));
        self.write(around, format!("<enable xmlns='{}' resume='true'/>", ns::SM).as_bytes());
        self.bound = Some(Bound {
            number,
            host: line.host,
            id: None,
            received: 0,
            handled: 0,
            unacked: VecDeque::new(),
        });
        self.last = Some((line.host, around.lives[line.host]));
        self.stage = Stage::Enabling;
    }

    fn begun(&mut self, around: &mut Around<'_>) {
        self.stage = Stage::Online;
        self.say(
            around,
            format!("<iq type='get' id='roster'><query xmlns='{}' ver=''/></iq>", ns::ROSTER)
                .into_bytes(),
        );
        let priority = self.shows.map_or(0, |(_, priority)| priority);
        self.show(around, Some(priority));
    }

    fn resumed(&mut self, around: &mut Around<'_>, element: &Element) {
        let name = self.name();
        around.story.tell(around.now, || format!("{name} has resumed"));
        self.handled(around, element);
        self.moved(around);
        self.stage = Stage::Online;
        let again: Vec<Out> = self.bound.iter().flat_map(|bound| &bound.unacked).cloned().collect();
        for out in again {
            let (now, journal) = (around.now, &mut *around.journal);
            match out.what {
                What::Message(message) => _ = journal.sent[message].again.get_or_insert(now),
                What::Abroad(message) => _ = journal.abroad[message].again.get_or_insert(now),
                What::Change | What::Other => {}
            }
            self.write(around, &out.bytes);
        }
        self.ask(around);
    }

    /// It goes on, at a host it was not at before: for what is asked of hosts that is another session, which says again what no host has taken.
    fn moved(&mut self, around: &mut Around<'_>) {
        let (Some(line), Some(bound)) = (self.line, self.bound.as_mut()) else { return };
        if line.host == bound.host {
            return;
        }
        let number = around.journal.sessions.len();
        around.journal.sessions[bound.number].over = Some(around.now);
        around.journal.sessions.push(Session {
            device: self.id,
            user: self.user,
            host: line.host,
            life: around.lives[line.host],
            at: around.now,
            managed: true,
            over: None,
            acks: Vec::new(),
        });
        (bound.number, bound.host) = (number, line.host);
        for out in &bound.unacked {
            match out.what {
                What::Message(message) => around.journal.sent[message].session = number,
                What::Abroad(message) => around.journal.abroad[message].session = number,
                What::Change | What::Other => {}
            }
        }
        self.last = Some((line.host, around.lives[line.host]));
        let (name, host) = (self.name(), &around.hosts[line.host]);
        around.story.tell(around.now, || format!("{name} has moved to {host} (session {number})"));
    }

    /// The server has handled so many.
    fn handled(&mut self, around: &mut Around<'_>, element: &Element) {
        let name = self.name();
        let Some(h) = element.attr("h").and_then(|h| h.parse::<u32>().ok()) else { return };
        let Some(bound) = self.bound.as_mut() else { return };
        let fresh = h.wrapping_sub(bound.handled) as usize;
        if fresh > bound.unacked.len() {
            let sent = bound.unacked.len();
            around.journal.is_wrong(
                "no_phantom",
                format!("{name}: h={h}, but {fresh} of {sent} unacknowledged"),
            );
            return;
        }
        bound.handled = h;
        for ack in &mut around.journal.sessions[bound.number].acks {
            if ack.behind.is_some_and(|behind| behind.wrapping_sub(h).cast_signed() <= 0) {
                (ack.behind, ack.freed) = (None, Some(around.now));
            }
        }
        for out in bound.unacked.drain(..fresh) {
            match out.what {
                What::Message(message) => {
                    around.journal.sent[message].acked = Some(around.now);
                }
                What::Abroad(message) => {
                    around.journal.abroad[message].acked = Some(around.now);
                }
                What::Change | What::Other => {}
            }
        }
    }

    fn acknowledge(&mut self, around: &mut Around<'_>) {
        let Some(bound) = self.bound.as_ref() else { return };
        let (h, number) = (bound.received, bound.number);
        let last = bound.unacked.iter().rposition(|out| matches!(out.what, What::Change));
        let behind = last.map(|last| bound.handled.wrapping_add(last as u32 + 1));
        self.write(around, format!("<a xmlns='{}' h='{h}'/>", ns::SM).as_bytes());
        if let Some(line) = self.line {
            let (at, conn, bytes) = (around.now, line.conn, line.written);
            let ack = Ack { h, at, conn, bytes, read: false, behind, freed: None };
            around.journal.sessions[number].acks.push(ack);
        }
    }

    /// Notes which acknowledgements the server has read.
    pub fn settle(&mut self, around: &mut Around<'_>) {
        let (Some(line), Some(bound)) = (self.line, self.bound.as_ref()) else { return };
        let read = around.net.read_of(line.conn, 0);
        for ack in around.journal.sessions[bound.number].acks.iter_mut().rev() {
            if ack.read || ack.conn != line.conn {
                break;
            }
            ack.read = ack.bytes <= read;
        }
    }

    /// The session will not be taken up again.
    fn over(&mut self, around: &mut Around<'_>) {
        self.settle(around);
        if let Some(bound) = self.bound.take() {
            around.journal.sessions[bound.number].over = Some(around.now);
        }
        around.journal.heard.retain(|(hearer, _), _| *hearer != self.id);
    }

    /// The connection is given up, or lost.
    pub fn drop_line(&mut self, around: &mut Around<'_>) {
        self.settle(around);
        if let Some(line) = self.line.take() {
            around.net.leave(line.conn, 0, around.now);
        }
        self.stage = Stage::Away;
    }

    /// Closes its stream as it should, and goes.
    pub fn close(&mut self, around: &mut Around<'_>) {
        let name = self.name();
        around.story.tell(around.now, || format!("{name} closes its stream"));
        self.write(around, b"</stream:stream>");
        self.over(around);
        self.drop_line(around);
    }

    /// Vanishes without a word: the server does not know. The connection it leaves behind.
    pub fn vanish(&mut self, around: &mut Around<'_>) -> Option<u64> {
        self.settle(around);
        let line = self.line.take()?;
        let name = self.name();
        around.story.tell(around.now, || format!("{name} vanishes"));
        around.net.vanish(line.conn, around.now);
        self.stage = Stage::Away;
        Some(line.conn)
    }

    /// Its connection breaks.
    pub fn break_off(&mut self, around: &mut Around<'_>) {
        if let Some(line) = self.line {
            let name = self.name();
            around.story.tell(around.now, || format!("{name}'s connection is reset"));
            around.net.reset(line.conn, around.now);
        }
    }

    /// Sends a message to a user, or to one device of theirs.
    pub fn message(&mut self, around: &mut Around<'_>, to_user: usize, to: Option<(usize, &str)>) {
        let Some(session) = self.session() else { return };
        let message = around.journal.send(Sent {
            device: self.id,
            session,
            to_user,
            to_device: to.map(|(device, _)| device),
            serial: 0,
            at: around.now,
            acked: None,
            refused: None,
            again: None,
        });
        let serial = around.journal.sent[message].serial;
        let address = match to {
            Some((_, resource)) => format!("{}/{resource}", account(to_user)),
            None => account(to_user),
        };
        let name = self.name();
        around.story.tell(around.now, || {
            format!("{name} sends message {message} to {address} (their {serial}.)")
        });
        let text = format!(
            "<message to='{address}' type='chat' id='m{message}'><body>{message}</body></message>"
        );
        self.say_what(around, What::Message(message), text.into_bytes());
    }

    /// Writes to somebody at another domain.
    pub fn abroad(&mut self, around: &mut Around<'_>, domain: &str, is_there: bool) {
        let Some(session) = self.session() else { return };
        let number = around.journal.abroad.len();
        let at = around.now;
        let sent = Abroad { session, is_there, at, acked: None, again: None, refused: None };
        around.journal.abroad.push(sent);
        let name = self.name();
        around.story.tell(at, || format!("{name} sends message a{number} to {domain}"));
        let text = format!(
            "<message to='who@{domain}' type='chat' id='a{number}'><body>far {number}</body></message>"
        );
        self.say_what(around, What::Abroad(number), text.into_bytes());
    }

    /// Asks a device whether it is there (XEP-0199), while it is known to have that session.
    pub fn ping(&mut self, around: &mut Around<'_>, user: usize, resource: &str, to: usize) {
        let Some(session) = self.session() else { return };
        let number = around.journal.pings.len();
        around.journal.pings.push(Ping { session, to, at: around.now, answer: None });
        let name = self.name();
        around.story.tell(around.now, || format!("{name} pings u{user}/{resource} ({number})"));
        let text = format!(
            "<iq type='get' id='p{number}' to='{}/{resource}'><ping xmlns='urn:xmpp:ping'/></iq>",
            account(user)
        );
        self.say(around, text.into_bytes());
    }

    /// Asks for an acknowledgement.
    pub fn ask(&mut self, around: &mut Around<'_>) {
        self.write(around, format!("<r xmlns='{}'/>", ns::SM).as_bytes());
        if let Some(line) = self.line.as_mut() {
            line.asked.get_or_insert(around.now);
        }
    }

    /// New presence (`None`: unavailable, while connected).
    pub fn show(&mut self, around: &mut Around<'_>, priority: Option<i8>) {
        self.numbers += 1;
        let status = (self.id as u64) << 32 | self.numbers;
        self.shows = priority.map(|priority| (status, priority));
        if let (None | Some(..0), Some(session)) = (priority, self.session()) {
            around.journal.hidden.push((session, around.now));
        }
        if priority.is_none() {
            // RFC 6121 §4.5.2: from now on it is told of nobody, so what it knew is worth nothing.
            around.journal.heard.retain(|(hearer, _), _| *hearer != self.id);
        }
        let text = match priority {
            Some(priority) => {
                format!(
                    "<presence><status>{status}</status><priority>{priority}</priority></presence>"
                )
            }
            None => "<presence type='unavailable'/>".to_owned(),
        };
        let name = self.name();
        around
            .story
            .tell(around.now, || format!("{name} shows {priority:?} ({})", status & 0xffff_ffff));
        self.say(around, text.into_bytes());
    }

    /// Changes its roster: names a contact.
    pub fn set(&mut self, around: &mut Around<'_>, contact: u64) {
        let Some(session) = self.session() else { return };
        let number = around.journal.sets.len();
        around.journal.sets.push(Set {
            device: self.id,
            session,
            contact,
            at: around.now,
            answer: None,
        });
        let name = self.name();
        around.story.tell(around.now, || format!("{name} sets contact {contact} to {number}"));
        let text = format!(
            "<iq type='set' id='s{number}'><query xmlns='{}'><item jid='c{contact}@elsewhere.example' name='{number}'/></query></iq>",
            ns::ROSTER
        );
        self.say_what(around, What::Change, text.into_bytes());
    }

    /// A word about subscriptions (RFC 6121 §3): `subscribe`, `subscribed`, `unsubscribed`.
    pub fn relate(&mut self, around: &mut Around<'_>, word: &str, to_user: usize) {
        let name = self.name();
        around.story.tell(around.now, || format!("{name} says {word} to u{to_user}"));
        let text = format!("<presence type='{word}' to='{}'/>", account(to_user));
        self.say_what(around, What::Change, text.into_bytes());
    }
}
