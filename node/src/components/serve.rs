//! One component's connection, from its first byte to its end (XEP-0114 §3): header, handshake, then stanzas both ways. Its seat is a place of the
//! session table like a session's; this task owns everything else of it.
//!
//! What was written and has left our buffers counts as the component's: the protocol acknowledges nothing. What had not left when the connection
//! ended goes to another connection of the component, or back to its sender.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, timeout, timeout_at};
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::stanza::{Head, Kind, Stanza};
use xmpp::stream::error::{StreamCondition, StreamError};
use xmpp::stream::header::Framing;
use xmpp::xml::element::Element;
use xmpp::xml::framer::{Framer, Limits, Scan};

use super::handshake::{self, Handshake};
use super::inbound::Open;
use super::{delegation, privilege};
use crate::app::Node;
use crate::federation::inbound::inbound;
use crate::router;
use crate::session::{Control, Delivery, Item, Seat, component_over, poll_leave};
use crate::transport::tcp::Accepted;
use crate::transport::{Buffer, Transport};

/// Above this, mail waits in the mailbox (which is bounded) until the component has read.
const OUTPUT_HIGH: usize = 256 * 1024;
/// How long the last words of a connection may take.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

/// One accepted connection.
pub async fn serve(node: Arc<Node>, accepted: Accepted) {
    let _place = match Place::new(&node) {
        Some(place) => place,
        None => return, // Dropped, and thereby closed.
    };
    let Accepted { transport, peer, admission } = accepted;
    let before = Limits {
        element_bytes: short(node.config.limits.stanza_bytes_max_before_auth),
        ..Limits::PRE_AUTH
    };
    let mut door = Door {
        node: &node,
        transport,
        framer: Framer::stream(before),
        input: Buffer::new(),
        output: Buffer::new(),
        opened: None,
        has_header: false,
    };
    let deadline = Instant::now() + node.config.components.handshake_deadline;
    let come = timeout_at(deadline, door.until_known()).await;
    let come = come.unwrap_or_else(|_| Err(Some(StreamError::connection_timeout())));
    let seat = match come {
        Ok(seat) => seat,
        Err(error) => return door.refuse(error).await,
    };
    tracing::info!(component = %seat.bare, %peer, "a component is connected");
    let Door { transport, mut framer, input, mut output, .. } = door;
    let may = node.config.components.privileges_of(seat.bare.domain()).cloned();
    if let Some(may) = &may {
        output.put(privilege::advertised(&node.server, &Jid::from(&seat.bare), may).bytes());
    }
    let all = &node.config.components.component;
    let own = all.iter().find(|component| component.domain == seat.bare.domain());
    if let Some(own) = own.filter(|own| !own.delegations.is_empty()) {
        let told = delegation::advertised(&node.server, &Jid::from(&seat.bare), &own.delegations);
        output.put(told.bytes());
    }
    drop(admission); // It has proved who it is, and is not counted among those at the door any more.
    framer.set_limits(Limits {
        element_bytes: short(node.config.components.stanza_bytes_max),
        ..Limits::STANZA
    });
    seat.set_peer(peer);
    let keepalive = node.config.components.keepalive;
    let connection = Connection {
        alive: Alive(Some((node.clone(), seat.clone()))),
        open: Arc::default(),
        is_full: false,
        received: 0,
        may,
        node: node.clone(),
        seat,
        transport,
        framer,
        input,
        output,
        mail: Vec::new(),
        unwritten: VecDeque::new(),
        written: 0,
        idle: Box::pin(tokio::time::sleep(keepalive)),
    };
    Box::new(connection).run().await;
}

fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// One of `components.connections_max`.
struct Place(Arc<Node>);

impl Place {
    fn new(node: &Arc<Node>) -> Option<Place> {
        let admitted = node.components.admit(node.config.components.connections_max);
        admitted.then(|| {
            node.metrics.components.inc();
            Place(node.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.components.leave();
        self.0.metrics.components.dec();
        if std::thread::panicking() {
            self.0.metrics.panics.inc();
        }
    }
}

/// A connection that has not proved anything yet.
struct Door<'a> {
    node: &'a Arc<Node>,
    transport: Transport,
    framer: Framer,
    input: Buffer,
    output: Buffer,
    opened: Option<Handshake>,
    has_header: bool,
}

impl Door<'_> {
    /// Until it has its place in the session table. `Err(None)`: it went away.
    async fn until_known(&mut self) -> Result<Arc<Seat>, Option<StreamError>> {
        loop {
            match self.framer.scan(self.input.filled()).map_err(Some)? {
                Scan::More => self.read().await?,
                Scan::Space(bytes) => self.input.consume(bytes),
                Scan::Close(_) => return Err(None),
                Scan::Open(bytes, header) => {
                    self.input.consume(bytes);
                    let id = self.node.token();
                    let Node { components, domains, .. } = &**self.node;
                    let open =
                        Handshake::open(&header, &id, |domain| components.claim(domains, domain));
                    let open = open.map_err(Some)?;
                    self.say_header(open.domain.as_str(), &id);
                    self.opened = Some(open);
                }
                Scan::Element(bytes, _) => {
                    let element = self.framer.element(&self.input.filled()[..bytes]);
                    self.input.consume(bytes);
                    let element = element.map_err(Some)?;
                    if StreamError::is_one(&element) {
                        return Err(None);
                    }
                    let opened = self.opened.as_ref();
                    let opened = opened.expect("the framer lets no element come before a header");
                    opened.check(&element).map_err(Some)?;
                    if self.node.is_leaving() {
                        return Err(Some(StreamError::system_shutdown()));
                    }
                    let seat = super::bind(self.node, &opened.domain).map_err(Some)?;
                    self.output.put(b"<handshake/>");
                    return Ok(seat);
                }
            }
        }
    }

    fn say_header(&mut self, from: &str, id: &str) {
        self.has_header = true;
        self.output.put(&handshake::header(from, id));
    }

    async fn read(&mut self) -> Result<(), Option<StreamError>> {
        self.transport.write(&mut self.output).await.map_err(|_| None)?;
        match self.transport.read(&mut self.input).await {
            Ok(count) if count > 0 => Ok(()),
            _ => Err(None),
        }
    }

    /// RFC 6120 §4.9.1.1: an error of the header too comes behind a header of ours.
    async fn refuse(mut self, error: Option<StreamError>) {
        if error.is_some() && !self.has_header {
            let (from, id) = (self.node.domains.global.clone(), self.node.token());
            self.say_header(&from, &id);
        }
        match error {
            Some(error) => {
                self.node.metrics.components_refused.inc();
                tracing::info!(error = error.condition.name(), "a component is refused");
                self.output.put(&Framing::Stream.error(&error));
            }
            None if self.has_header => self.output.put(Framing::Stream.close()),
            None => {}
        }
        self.transport.close(self.output).await;
    }
}

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

/// A component that is connected.
struct Connection {
    alive: Alive,
    open: Arc<Open>,
    /// As much is open as may be: what more it has said waits in `input`, and in its connection. It is written to meanwhile, for it may be what has to take it.
    is_full: bool,
    /// Stanzas that came.
    received: u64,
    /// What it may do in the name of accounts.
    may: Option<config::Privileges>,
    node: Arc<Node>,
    seat: Arc<Seat>,
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
    async fn run(mut self: Box<Self>) {
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
            transport,
            output,
            input,
            mail,
            unwritten,
            written,
            idle,
            open,
            is_full,
            ..
        } = self;
        poll_fn(|cx| {
            let done = poll_leave(cx, (node, seat), transport, output, unwritten, written);
            if let Err(error) = done {
                return Poll::Ready(Event::Lost(error));
            }
            // Who does not read is not read from either.
            if output.len() >= OUTPUT_HIGH {
                return seat.mailbox.poll_orders(cx, mail).map(|_| Event::Mail);
            }
            if seat.mailbox.poll_drain(cx, mail).is_ready() {
                return Poll::Ready(Event::Mail);
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
                Item::Control(Control::Close(error) | Control::Leave(error, _)) => {
                    // Where clients go, a component has no business.
                    let elsewhere = error.condition == StreamCondition::SeeOtherHost;
                    let error = if elsewhere { StreamError::system_shutdown() } else { error };
                    close = close.or(Some(Close::Error(error)));
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
                    let left = match &self.may {
                        Some(may) => {
                            privilege::take(&self.node, &self.seat.bare, may, stanza, handled)
                        }
                        None => Some((stanza, handled)),
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
    fn stanza(&self, bytes: usize, head: &Head) -> Result<Option<Stanza>, Close> {
        let piece = &self.input.filled()[..bytes];
        if head.kind == Kind::Other {
            let element = self.framer.element(piece).map_err(Close::Error)?;
            return self.foreign(&element).map(Some);
        }
        let of = |span: Option<xmpp::stanza::Span>| span.and_then(|span| span.value(piece));
        let addressed = of(head.to).zip(of(head.from));
        let (_, from) = addressed.ok_or(Close::Error(StreamError::improper_addressing()))?;
        let from = self.sender(&from)?;
        match Stanza::receive(piece, head, &from, None) {
            Ok(stanza) => Ok(Some(stanza)),
            Err(rejected) => {
                if let Some(reply) = rejected.reply {
                    self.seat.take(Delivery::light(reply));
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
        let own = from.filter(|from| from.domain() == self.seat.bare.domain());
        own.ok_or(Close::Error(StreamError::invalid_from()))
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
        let Connection { alive, unwritten, transport, output, .. } = *self;
        // Before the connection is closed, so that whoever sees its end finds it gone.
        alive.over(unwritten.into_iter().map(|(_, delivery)| delivery).collect());
        match close {
            Close::Lost => drop(transport),
            Close::Clean | Close::Error(_) => transport.close(output).await,
        }
    }
}
