//! A component's connection once it is known: stanzas both ways, until its end. Its seat is a place of the session table like a session's; this task owns
//! everything else of it.
//!
//! What was written and has left our buffers counts as the component's: the protocol acknowledges nothing. What had not left when the connection
//! ended goes to another connection of the component, or back to its sender.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, timeout};
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Head, Kind, Stanza};
use xmpp::stream::error::{StreamCondition, StreamError};
use xmpp::stream::header::Framing;
use xmpp::xml::element::Element;
use xmpp::xml::framer::{Framer, Scan};

use super::hostname::{self, Proved, Wish};
use super::inbound::Open;
use super::{delegation, privilege};
use crate::app::Node;
use crate::federation::inbound::inbound;
use crate::router;
use crate::session::{Control, Delivery, Item, Seat, component_over, poll_leave};
use crate::transport::{Buffer, Transport};

/// Above this, mail waits in the mailbox (which is bounded) until the component has read.
const OUTPUT_HIGH: usize = 256 * 1024;
/// How long the last words of a connection may take.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
/// Before one that nobody can reach, for it has no hostname, looks whether it is to end.
const UNBOUND_LOOK: Duration = Duration::from_secs(1);

/// The row ends with its task, also if that panics.
struct Alive(Option<(Arc<Node>, Arc<Seat>)>);

impl Alive {
    fn over(mut self, unwritten: Vec<Delivery>) {
        if let Some((node, seat)) = self.0.take() {
            component_over(&node, &seat, unwritten);
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some((node, seat)) = self.0.take() {
            component_over(&node, &seat, Vec::new());
        }
    }
}

/// A hostname that is bound to the connection: the only one of XEP-0114.
pub(super) struct Host {
    alive: Alive,
    seat: Arc<Seat>,
    /// What it may do in the name of accounts.
    may: Option<config::Privileges>,
}

impl Host {
    pub(super) fn new(node: &Arc<Node>, seat: Arc<Seat>, peer: SocketAddr) -> Host {
        seat.set_peer(peer);
        let may = node.config.components.privileges_of(seat.bare.domain()).cloned();
        Host { alive: Alive(Some((node.clone(), seat.clone()))), seat, may }
    }

    /// What it is told of what it may and what it has to answer.
    fn tell(&self, node: &Node, output: &mut Buffer) {
        let (server, own) = (&node.server, Jid::from(&self.seat.bare));
        if let Some(may) = &self.may {
            output.put(privilege::advertised(server, &own, may).bytes());
        }
        let all = &node.config.components.component;
        let named = all.iter().find(|component| component.domain == own.domain());
        if let Some(named) = named.filter(|named| !named.delegations.is_empty()) {
            output.put(delegation::advertised(server, &own, &named.delegations).bytes());
        }
    }

    fn is(&self, domain: &str) -> bool {
        self.seat.bare.domain() == domain
    }
}

/// Whether that is what the component hears as this hostname.
fn is_for(delivery: &Delivery, seat: &Seat) -> bool {
    delivery.stanza.to().is_some_and(|to| to.domain() == seat.bare.domain())
}

/// Where clients go, a component has no business.
fn without_host(error: StreamError) -> StreamError {
    match error.condition {
        StreamCondition::SeeOtherHost => StreamError::system_shutdown(),
        _ => error,
    }
}

/// A component that is connected.
pub(super) struct Connection {
    hosts: Vec<Host>,
    /// Seats of hostnames that are bound no more and for which something is not written yet, one a hostname.
    left: Vec<Arc<Seat>>,
    unbound: Option<Unbound>,
    /// Whose secret it knows, on a stream on which more can be bound (XEP-0225).
    proved: Option<Proved>,
    open: Arc<Open>,
    /// As much is open as may be: what more it has said waits in `input`, and in its connection. It is written to meanwhile, for it may be what has to take it.
    is_full: bool,
    /// Stanzas that came.
    received: u64,
    node: Arc<Node>,
    /// Its first.
    seat: Arc<Seat>,
    peer: SocketAddr,
    transport: Transport,
    framer: Framer,
    input: Buffer,
    output: Buffer,
    mail: Vec<Item>,
    /// What is in `output`, each with the count of bytes at its end.
    unwritten: VecDeque<(u64, Delivery)>,
    /// Bytes that left `output`.
    written: u64,
    /// Fires when nothing was written for a while.
    idle: Pin<Box<Sleep>>,
}

/// No hostname is bound any more: it has no seat by which drains and operators reach it, and `components.handshake_deadline` to bind one.
struct Unbound {
    until: Instant,
    look: Pin<Box<Sleep>>,
}

/// What wakes it.
enum Event {
    /// Its mailbox was emptied into `mail`.
    Mail,
    /// Bytes came; 0: the other end is closed.
    Read(usize),
    /// More may be open.
    Room,
    /// Nothing was written for a while.
    Idle,
    /// No hostname has been bound for a while.
    Unbound,
    /// The connection is lost.
    Lost(io::Error),
}

/// Why it ends.
enum Close {
    /// The component closed its stream, and we ours.
    Clean,
    /// With a stream error.
    Error(StreamError),
    /// The connection went away.
    Lost,
}

impl Connection {
    /// With its first hostname.
    pub(super) fn new(
        node: &Arc<Node>,
        transport: Transport,
        framer: Framer,
        (input, mut output): (Buffer, Buffer),
        host: Host,
        proved: Option<Proved>,
    ) -> Connection {
        host.tell(node, &mut output);
        let seat = host.seat.clone();
        Connection {
            open: Arc::default(),
            left: Vec::new(),
            unbound: None,
            proved,
            is_full: false,
            received: 0,
            node: node.clone(),
            peer: seat.peer().expect("it was given with the hostname"),
            seat,
            hosts: vec![host],
            transport,
            framer,
            input,
            output,
            mail: Vec::new(),
            unwritten: VecDeque::new(),
            written: 0,
            idle: Box::pin(tokio::time::sleep(node.config.components.keepalive)),
        }
    }

    pub(super) async fn run(mut self: Box<Self>) {
        // What came in one segment with the handshake.
        let mut close = self.received().await;
        while close.is_none() {
            close = match self.next().await {
                Event::Mail => self.mail(),
                Event::Read(0) => Some(Close::Lost),
                Event::Read(_) | Event::Room => self.received().await,
                Event::Idle => {
                    self.output.put(b" "); // RFC 6120 §4.6.1.
                    self.wrote();
                    None
                }
                Event::Unbound => self.still_unbound(),
                Event::Lost(error) => {
                    tracing::debug!(component = %self.seat.bare, %error, "connection lost");
                    Some(Close::Lost)
                }
            };
        }
        let close = close.unwrap_or(Close::Lost);
        let why = match &close {
            Close::Clean => "closed",
            Close::Error(error) => error.condition.name(),
            Close::Lost => "lost",
        };
        tracing::info!(component = %self.seat.bare, why, "a component is gone");
        self.end(&close).await;
    }

    /// The one place where it sleeps. Cancel-safe: all state is in `self`.
    async fn next(&mut self) -> Event {
        let Self {
            node,
            seat,
            hosts,
            transport,
            output,
            input,
            mail,
            unwritten,
            written,
            idle,
            unbound,
            open,
            is_full,
            ..
        } = self;
        poll_fn(|cx| {
            let done = poll_leave(cx, (node, seat), transport, output, unwritten, written);
            if let Err(error) = done {
                return Poll::Ready(Event::Lost(error));
            }
            if let Some(unbound) = unbound
                && unbound.look.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Event::Unbound);
            }
            // Who does not read is not read from either.
            let is_slow = output.len() >= OUTPUT_HIGH;
            let mut has_mail = false;
            for Host { seat, .. } in hosts.iter() {
                has_mail |= match is_slow {
                    true => seat.mailbox.poll_orders(cx, mail).is_ready(),
                    false => seat.mailbox.poll_drain(cx, mail).is_ready(),
                };
            }
            if has_mail {
                return Poll::Ready(Event::Mail);
            }
            if is_slow {
                return Poll::Pending;
            }
            if output.is_empty() && idle.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Idle);
            }
            if *is_full {
                ready!(open.poll_room(cx, node.config.components.unhandled_max));
                *is_full = false;
                return Poll::Ready(Event::Room);
            }
            transport.poll_read(cx, input).map(|read| match read {
                Ok(bytes) => Event::Read(bytes),
                Err(error) => Event::Lost(error),
            })
        })
        .await
    }

    /// Something was written: the silence begins anew.
    fn wrote(&mut self) {
        self.idle.as_mut().reset(Instant::now() + self.node.config.components.keepalive);
    }

    /// What others put into the mailbox.
    fn mail(&mut self) -> Option<Close> {
        let mut close = None;
        let mut mail = std::mem::take(&mut self.mail);
        for item in mail.drain(..) {
            match item {
                Item::Stanza(delivery) => {
                    self.node.metrics.to_components.inc();
                    self.output.put(delivery.stanza.bytes());
                    let end = self.written + self.output.len() as u64;
                    self.unwritten.push_back((end, delivery));
                }
                Item::Control(Control::Close(error)) => {
                    close = close.or(Some(Close::Error(without_host(*error))));
                }
                Item::Control(Control::Leave(leave)) => {
                    close = close.or(Some(Close::Error(without_host(leave.error))));
                }
                Item::Control(_) => {}
            }
        }
        if mail.capacity() <= 64 {
            self.mail = mail; // Worth keeping; a big one is given back.
        }
        self.wrote();
        close
    }

    /// Everything whole in the input, in order.
    async fn received(&mut self) -> Option<Close> {
        loop {
            if self.open.is_full(self.node.config.components.unhandled_max) {
                self.is_full = true;
                break;
            }
            let (bytes, head) = match self.framer.scan(self.input.filled()) {
                Ok(Scan::More) => break,
                Ok(Scan::Space(bytes)) => {
                    self.input.consume(bytes);
                    continue;
                }
                Ok(Scan::Element(bytes, head)) => (bytes, head),
                Ok(Scan::Close(_)) => return Some(Close::Clean),
                Ok(Scan::Open(..)) => return Some(Close::Error(StreamError::bad_format())),
                Err(error) => return Some(Close::Error(error)),
            };
            let stanza = self.stanza(bytes, &head);
            self.input.consume(bytes);
            match stanza {
                Ok(Some(stanza)) => {
                    self.node.metrics.from_components.inc();
                    if self.node.archive.queue.is_full() {
                        // Archives cannot keep up: what more it says waits in its connection.
                        self.node.archive.queue.room().await;
                    }
                    self.received += 1;
                    let handled = self.open.begin(self.received);
                    let host = stanza.from().and_then(|from| self.host(from.domain()));
                    let left = match host.map(|host| (&host.seat.bare, host.may.as_ref())) {
                        Some((bare, Some(may))) => {
                            privilege::take(&self.node, bare, may, stanza, handled)
                        }
                        _ => Some((stanza, handled)),
                    };
                    if let Some((stanza, handled)) = left {
                        inbound(&self.node, stanza, handled);
                    }
                }
                Ok(None) => {}
                Err(close) => return Some(close),
            }
        }
        self.input.release_if_empty();
        None
    }

    /// The stanza at the front of the input. `None`: it was answered.
    fn stanza(&mut self, bytes: usize, head: &Head) -> Result<Option<Stanza>, Close> {
        let piece = &self.input.filled()[..bytes];
        let of = |span: Option<xmpp::stanza::Span>| span.and_then(|span| span.value(piece));
        // Most requests are others': no tree of those.
        let to_us =
            || head.to.is_none() || of(head.to).is_some_and(|to| *to == *self.node.domains.global);
        if self.proved.is_some() && head.kind == Kind::Iq && to_us() {
            let element = self.framer.element(piece).map_err(Close::Error)?;
            if let Some(wish) = Wish::of(&element, &self.node.domains.global) {
                self.wishes(&element, wish);
                return Ok(None);
            }
        }
        if head.kind == Kind::Other {
            let element = self.framer.element(piece).map_err(Close::Error)?;
            return self.foreign(&element).map(Some);
        }
        let addressed = of(head.to).zip(of(head.from));
        let (_, from) = addressed.ok_or(Close::Error(StreamError::improper_addressing()))?;
        let from = self.sender(&from)?;
        match Stanza::receive(piece, head, &from, None) {
            Ok(stanza) => Ok(Some(stanza)),
            Err(rejected) => {
                if let Some(reply) = rejected.reply {
                    self.output.put(reply.bytes());
                    self.wrote();
                }
                Ok(None)
            }
        }
    }

    /// An element in another namespace than the stream's.
    fn foreign(&self, element: &Element) -> Result<Stanza, Close> {
        if StreamError::is_one(element) {
            return Err(Close::Clean);
        }
        let is_stanza =
            element.ns() == ns::CLIENT && matches!(element.name(), "message" | "presence" | "iq");
        if !is_stanza {
            return Err(Close::Error(StreamError::unsupported_stanza_type()));
        }
        // COMPAT: libraries that have `jabber:client` in every stanza (Prosody takes them too).
        let stanza = Stanza::from_element(element).map_err(Close::Error)?;
        let from = stanza.from().filter(|_| stanza.to().is_some());
        let from = from.ok_or(Close::Error(StreamError::improper_addressing()))?;
        self.sender(from.as_str())?;
        Ok(stanza)
    }

    /// §3: an address of its domain, and of no other.
    fn sender(&self, from: &str) -> Result<Jid, Close> {
        let from = Jid::parse(from).ok();
        let own = from.filter(|from| self.host(from.domain()).is_some());
        own.ok_or(Close::Error(StreamError::invalid_from()))
    }

    fn host(&self, domain: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.is(domain))
    }

    /// XEP-0225 §4: one hostname more, or one less.
    fn wishes(&mut self, iq: &Element, wish: Result<Wish, StanzaError>) {
        let proved = self.proved.clone().unwrap_or_default();
        let done = match wish {
            Err(error) => Err(error),
            Ok(Wish::Bind(_)) if self.hosts.len() >= self.node.config.components.hostnames_max => {
                Err(StanzaError::resource_constraint())
            }
            Ok(Wish::Bind(host)) => hostname::bind(&self.node, &proved, host).map(Some),
            Ok(Wish::Unbind(host)) => hostname::named(&proved.host, host).and_then(|host| {
                let at = self.hosts.iter().position(|known| hostname::is(&known.seat, &host));
                at.map(|at| self.leave(at)).ok_or_else(StanzaError::item_not_found).map(|()| None)
            }),
        };
        self.output.put(&hostname::answer(iq, done.as_ref().map(|bound| bound.as_ref())));
        if let Ok(Some((_, seat))) = done {
            tracing::info!(component = %seat.bare, "a component has bound another hostname");
            let host = Host::new(&self.node, seat, self.peer);
            host.tell(&self.node, &mut self.output);
            self.hosts.push(host);
            self.unbound = None;
        }
        self.wrote();
    }

    /// A hostname is this connection's no more. What waits for it goes elsewhere; what is in the output is on its way.
    fn leave(&mut self, at: usize) {
        let Host { alive, seat, .. } = self.hosts.remove(at);
        alive.over(Vec::new());
        self.left.retain(|known| known.bare != seat.bare);
        self.left.push(seat);
        self.left.retain(|seat| self.unwritten.iter().any(|(_, one)| is_for(one, seat)));
        if self.hosts.is_empty() {
            let now = Instant::now();
            let until = now + self.node.config.components.handshake_deadline;
            let look = Box::pin(tokio::time::sleep_until(until.min(now + UNBOUND_LOOK)));
            self.unbound = Some(Unbound { until, look });
        }
    }

    /// It ends with the node, or when its time is over.
    fn still_unbound(&mut self) -> Option<Close> {
        let Unbound { until, look } = self.unbound.as_mut()?;
        let now = Instant::now();
        if self.node.is_leaving() {
            return Some(Close::Error(StreamError::system_shutdown()));
        }
        if now >= *until {
            return Some(Close::Error(StreamError::connection_timeout()));
        }
        look.as_mut().reset((*until).min(now + UNBOUND_LOOK));
        None
    }

    async fn end(mut self: Box<Self>, close: &Close) {
        match close {
            Close::Clean => self.output.put(Framing::Stream.close()),
            Close::Error(error) => self.output.put(&Framing::Stream.error(error)),
            Close::Lost => {}
        }
        if !matches!(close, Close::Lost) {
            let whole = self.written + self.output.len() as u64;
            let written = timeout(FAREWELL_WITHIN, self.transport.write(&mut self.output)).await;
            let upto = whole - self.output.len() as u64;
            let left = self.unwritten.iter().take_while(|(end, _)| *end <= upto).count();
            router::kept(&self.node, &self.seat, self.unwritten.drain(..left).map(|(_, one)| one));
            if !matches!(written, Ok(Ok(()))) {
                self.output = Buffer::new();
            }
        }
        let Connection { node, hosts, left, unwritten, transport, output, .. } = *self;
        let mut unwritten: Vec<Delivery> = unwritten.into_iter().map(|(_, one)| one).collect();
        let mut of = |seat: &Seat| -> Vec<Delivery> {
            unwritten.extract_if(.., |one| is_for(one, seat)).collect()
        };
        // Before the connection is closed, so that whoever sees its end finds it gone.
        for Host { alive, seat, .. } in hosts {
            alive.over(of(&seat));
        }
        for seat in left {
            let unwritten = of(&seat);
            if !unwritten.is_empty() {
                component_over(&node, &seat, unwritten);
            }
        }
        match close {
            Close::Lost => drop(transport),
            Close::Clean | Close::Error(_) => transport.close(output).await,
        }
    }
}
