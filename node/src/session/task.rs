//! Room: the session's loop. It sleeps in one place, holds no buffer while it sleeps, and wakes for bytes or for mail. What wakes it is
//! handled to the end before it looks again; everything written during that leaves in one system call.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use config::RateExceeded;
use config::canary::{Canary, sings};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, timeout};
use xmpp::ns;
use xmpp::sm::Nonza;
use xmpp::stanza::{Kind, Stanza};
use xmpp::stream::error::StreamError;
use xmpp::stream::header::Framing;
use xmpp::xml::element::Element;
use xmpp::xml::framer::{Framer, Scan};

use super::csi::{HeldBack, Offered};
use super::end::Alive;
use super::negotiate::Ready;
use super::pace::{Pace, Sent};
use super::sm::{self, Sm};
use super::{Control, Delivery, Handover, Item, Owed, Seat, end};
use crate::app::Node;
use crate::feature::{Ctx, Flow, SessionEvent};
use crate::geo::light;
use crate::router;
use crate::transport::{Buffer, Transport};

/// Above this, mail waits in the mailbox (which is bounded) until the client has read.
const OUTPUT_HIGH: usize = 128 * 1024;

/// How long the last words of a session may take.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

/// Everything about one bound client.
pub(super) struct Session {
    pub(super) node: Arc<Node>,
    pub(super) seat: Arc<Seat>,
    pub(super) transport: Transport,
    pub(super) framer: Framer,
    /// What a stanza that names no language is in (RFC 6120 §8.1.5).
    pub(super) lang: Option<Box<str>>,
    pub(super) input: Buffer,
    pub(super) output: Buffer,
    pub(super) sm: Option<Box<Sm>>,
    pub(super) alive: Option<Alive>,
    /// It goes on from another connection.
    is_resumed: bool,
    /// While the client is inactive (XEP-0352).
    pub(super) held: Option<Box<HeldBack>>,
    mail: Vec<Item>,
    /// Without stream management: what is in `output` and somebody waits to hear of, each with the count of bytes at its end. The
    /// kernel's taking them is all there is to hear.
    pub(super) unwritten: VecDeque<(u64, Delivery)>,
    /// Bytes that left `output`.
    written: u64,
    pace: Pace,
    /// It has sent faster than it may, and is not read from until then.
    pause: Option<Pin<Box<Sleep>>>,
    /// How often its client was told anew how things are.
    retold: u8,
}

/// How often a client is told anew on one connection what it has missed. Beyond, it reads too slowly for the presence there is: `resource-constraint`.
const RETOLD_MAX: u8 = 3;

/// What wakes a session. All that can happen is here.
enum Event {
    /// Its mailbox was emptied into `mail`.
    Mail,
    /// Bytes came; 0: the client's end of the connection is closed.
    Read(usize),
    /// The connection is lost.
    Lost(io::Error),
}

/// Why a session's connection ends.
pub(super) enum Close {
    /// The client closed its stream, and we ours.
    Clean,
    /// With a stream error.
    Error(StreamError),
    /// The connection went away under us.
    Lost,
    /// Another connection has taken the session over.
    TakenOver,
    /// As with a stream error, but the session is handed over to whoever empties the node, if it may be resumed.
    Left(StreamError, oneshot::Sender<Handover>),
}

/// Writes what is left; of what the kernel has taken by then (`written` bytes of all) somebody may wait to hear. Cancel-safe.
///
/// # Errors
/// The connection's.
pub(crate) fn poll_leave(
    cx: &mut Context<'_>,
    (node, seat): (&Arc<Node>, &Arc<Seat>),
    transport: &mut Transport,
    output: &mut Buffer,
    unwritten: &mut VecDeque<(u64, Delivery)>,
    written: &mut u64,
) -> io::Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    let before = output.len();
    let done = transport.poll_write(cx, output);
    *written += (before - output.len()) as u64;
    let left = unwritten.iter().take_while(|(end, _)| end <= written).count();
    if left > 0 {
        let kept = unwritten.drain(..left).map(|(_, delivery)| delivery);
        router::kept(node, seat, kept);
    }
    match done {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

impl Session {
    /// A session that was just bound or resumed.
    pub(super) fn begin(node: Arc<Node>, ready: Ready) -> Box<Self> {
        let Ready { transport, framer, lang, input, output, seat, sm, alive } = ready;
        let is_resumed = alive.is_some();
        let alive = Some(alive.unwrap_or_else(|| Alive::new(&node, &seat)));
        if is_resumed {
            seat.wakes();
            seat.set_inactive(false); // A client that resumes is active until it says otherwise (XEP-0352 §3).
        }
        let held = seat.inactive().then(|| held_back(&node));
        Box::new(Self {
            node,
            seat,
            transport,
            framer,
            lang,
            input,
            output,
            sm,
            alive,
            is_resumed,
            held,
            mail: Vec::new(),
            unwritten: VecDeque::new(),
            written: 0,
            pace: Pace::default(),
            pause: None,
            retold: 0,
        })
    }

    /// Until the session is over, hibernation included.
    pub(super) async fn run(mut self: Box<Self>) {
        let event = if self.is_resumed { SessionEvent::Resumed } else { SessionEvent::Bound };
        let mut close = self.tell(event).await;
        // What came in one segment with the bind.
        if close.is_none() {
            close = self.received().await;
        }
        let close = match close {
            Some(close) => close,
            None => self.until_closed().await,
        };
        end::end(self, close).await;
    }

    async fn until_closed(&mut self) -> Close {
        loop {
            let close = match self.next().await {
                Event::Mail => self.mail().await,
                Event::Read(0) => Some(Close::Lost),
                Event::Read(_) => self.received().await,
                Event::Lost(error) => {
                    tracing::debug!(session = %self.seat.full, %error, "connection lost");
                    Some(Close::Lost)
                }
            };
            if let Some(close) = close {
                return close;
            }
        }
    }

    /// The one place where a session sleeps. Cancel-safe: all state is in `self`.
    async fn next(&mut self) -> Event {
        let Self {
            node, seat, transport, output, input, mail, sm, unwritten, written, pause, ..
        } = self;
        poll_fn(|cx| {
            let done = poll_leave(cx, (node, seat), transport, output, unwritten, written);
            if let Err(error) = done {
                return Poll::Ready(Event::Lost(error));
            }
            // Who does not read is not read from either: answers to it would only pile up here. What ends the session or takes it to
            // another connection is heard all the same.
            if output.len() >= OUTPUT_HIGH {
                return seat.mailbox.poll_orders(cx, mail).map(|_| Event::Mail);
            }
            if seat.mailbox.poll_drain(cx, mail).is_ready() {
                return Poll::Ready(Event::Mail);
            }
            // Nor from who has sent more than could be handed on: it is told by mail when it may go on.
            if sm.as_ref().is_some_and(|sm| sm.full) {
                return Poll::Pending;
            }
            // Nor, for a while, from who has sent too fast.
            if let Some(until) = pause {
                ready!(until.as_mut().poll(cx));
                *pause = None;
            }
            transport.poll_read(cx, input).map(|read| match read {
                Ok(bytes) => Event::Read(bytes),
                Err(error) => Event::Lost(error),
            })
        })
        .await
    }

    /// Everything whole in the input, in order.
    async fn received(&mut self) -> Option<Close> {
        let mut sent = Sent::default();
        loop {
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
            let piece = &self.input.filled()[..bytes];
            let flow = match head.kind {
                Kind::Other => {
                    sent.element();
                    let element = self.framer.element(piece);
                    self.input.consume(bytes);
                    match element {
                        Ok(element) if StreamError::is_one(&element) => return Some(Close::Clean),
                        Ok(element) => self.nonza(&element),
                        Err(error) => Err(error),
                    }
                }
                _ => {
                    let stanza = self.stamped(bytes, &head);
                    self.input.consume(bytes);
                    match stanza {
                        Ok(stanza) => {
                            match &stanza {
                                Some(stanza) => sent.stanza(stanza),
                                None => sent.element(),
                            }
                            if let Some(close) = self.stanza(stanza).await {
                                return Some(close);
                            }
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = flow {
                return Some(Close::Error(error));
            }
        }
        self.input.release_if_empty();
        self.pause_after(sent)
    }

    /// What one read brought is counted once, when it is handled: a session that keeps to its rates pays a look at the clock for it.
    fn pause_after(&mut self, sent: Sent) -> Option<Close> {
        if sent.stanzas == 0 {
            return None;
        }
        let limits = &self.node.config.limits;
        let wait = self.pace.take(sent, limits, self.node.now_ms());
        if wait.is_zero() {
            return None;
        }
        self.node.metrics.too_fast.inc();
        if limits.rate_exceeded == RateExceeded::Close {
            let extra = Element::new("too-many-stanzas", ns::ERRORS);
            return Some(Close::Error(StreamError::policy_violation().with_extra(extra)));
        }
        self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        None
    }

    /// One stanza of the client's. It counts as handled (XEP-0198 `h`) when this is over; a message, when its receipt is dropped by whoever
    /// has it then.
    async fn stanza(&mut self, stanza: Option<Stanza>) -> Option<Close> {
        // Whoever is awake to send can receive.
        if self.held.is_some() && !self.flush_held() {
            return Some(Close::Error(StreamError::resource_constraint()));
        }
        let is_message = stanza.as_ref().is_some_and(|stanza| stanza.kind() == Kind::Message);
        if is_message && self.node.archive.queue.is_full() {
            // Archives cannot keep up: what more this client says waits in its connection.
            self.node.archive.queue.room().await;
        }
        let mut receipt = match self.sm.as_ref() {
            Some(sm) if is_message && sings(Canary::HandledAtOnce) => {
                sm.handled.count();
                None
            }
            Some(sm) if is_message => Some(sm.handled.begin()),
            _ => None,
        };
        if let Some(stanza) = stanza {
            let mut ctx = Ctx::new(&self.node, Some(&self.seat));
            ctx.receipt = receipt;
            let flow = super::stanza::handle(&mut ctx, stanza);
            receipt = ctx.receipt.take();
            let actions = std::mem::take(&mut ctx.actions);
            let mut close = if actions.is_empty() {
                None
            } else {
                router::perform(&self.node, Some(&self.seat), actions)
            };
            if let Flow::Later(later) = flow {
                let actions = later.await;
                close = close.or(router::perform(&self.node, Some(&self.seat), actions));
            }
            if let Some(error) = close {
                // The answer that the end belongs to is in the mailbox: it leaves before the stream error.
                self.mail.append(&mut self.seat.mailbox.drain());
                return self.mail().await.or(Some(Close::Error(error)));
            }
        }
        drop(receipt); // Nobody took it over: it was answered, or it is no message.
        if let Some(sm) = self.sm.as_mut() {
            if is_message {
                let most = self.node.config.limits.unsettled_per_session_max as u64;
                sm.full = sm.handled.is_full(most);
            } else {
                sm.handled.count();
            }
        }
        None
    }

    /// Tells the features of an event of this session.
    async fn tell(&mut self, event: SessionEvent) -> Option<Close> {
        let error = end::tell(&self.node, &self.seat, event).await;
        error.map(Close::Error)
    }

    /// What others put into the mailbox.
    async fn mail(&mut self) -> Option<Close> {
        let mut mail = std::mem::take(&mut self.mail);
        let mut stanzas = 0;
        let mut close = None;
        let mut resume = None;
        let (mut again, mut missed) = (false, false);
        for item in mail.drain(..) {
            match item {
                Item::Stanza(delivery) => {
                    let Some(delivery) = self.offer(delivery) else { continue };
                    stanzas += 1;
                    if !self.write(delivery) {
                        close = Some(Close::Error(StreamError::resource_constraint()));
                    }
                }
                // What came before and after it in the mailbox is written first: a session that is handed over takes all of it along.
                Item::Control(Control::Resume(reply)) => resume = Some(reply),
                Item::Control(Control::Handled { answer }) => {
                    if let Some(sm) = self.sm.as_mut() {
                        sm.full = false;
                        if answer {
                            let h = sm.handled.handled();
                            self.output.put(&Nonza::Answer { h }.to_bytes());
                        }
                    }
                }
                Item::Control(Control::Tick) => {}
                Item::Control(Control::SayAgain) => again = true,
                Item::Control(Control::Missed) => missed = true,
                Item::Control(Control::Close(error)) => close = Some(Close::Error(*error)),
                Item::Control(Control::Leave(leave)) if close.is_none() => {
                    close = Some(Close::Left(leave.error, leave.reply));
                }
                Item::Control(Control::Leave(_)) => {}
            }
        }
        if again && close.is_none() {
            close = super::stanza::say_again(&self.node, &self.seat).await.map(Close::Error);
        }
        if missed && close.is_none() && self.seat.take_missed() {
            self.retold += 1;
            match self.retold <= RETOLD_MAX {
                true => light::missed(&self.node, &self.seat),
                false => close = Some(Close::Error(StreamError::resource_constraint())),
            }
        }
        if close.is_none()
            && let Some(reply) = resume
            && self.flush_held()
            && let Some(sm) = self.sm.take_if(|sm| sm.id.is_some())
        {
            close = sm::handover(self, sm, reply);
        }
        if mail.capacity() <= 32 {
            self.mail = mail; // Worth keeping; a big one is given back.
        }
        if stanzas > 0
            && let Some(sm) = self.sm.as_mut()
            && sm.wants_answer()
        {
            self.output.put(xmpp::sm::REQUEST);
        }
        close
    }

    /// What is to be written now; `None`: the client is inactive, and it waits.
    fn offer(&mut self, delivery: Delivery) -> Option<Delivery> {
        let Some(held) = self.held.as_mut() else { return Some(delivery) };
        match held.offer(delivery, self.node.wall_ms()) {
            Offered::Held => None,
            Offered::Instead(former) => {
                // Nobody has to have it any more.
                router::kept(&self.node, &self.seat, std::iter::once(former));
                None
            }
            Offered::Flush(delivery) => {
                self.flush_held(); // If there is no room for it there is none for what follows.
                Some(delivery)
            }
        }
    }

    /// Writes what was held back from an inactive client, with the time it came. False when stream management has no room.
    pub(super) fn flush_held(&mut self) -> bool {
        let Some(held) = self.held.as_mut() else { return true };
        let held = held.take();
        let mut fits = true;
        let any = !held.is_empty();
        for super::csi::Held { mut delivery, since_ms, .. } in held {
            if delivery.stanza.kind() != Kind::Iq {
                delivery.stanza = router::delayed(&self.node, &delivery.stanza, since_ms);
            }
            fits &= self.write(delivery);
        }
        if any
            && let Some(sm) = self.sm.as_mut()
            && sm.wants_answer()
        {
            self.output.put(xmpp::sm::REQUEST);
        }
        fits
    }

    /// The connection is gone: what was held back is what the client never got, behind what it may have.
    pub(super) fn keep_held(&mut self) -> bool {
        let Some(held) = self.held.take() else { return true };
        let mut fits = true;
        for super::csi::Held { delivery, since_ms, .. } in held.into_held() {
            match self.sm.as_mut() {
                Some(sm) => fits &= sm.keep(delivery, since_ms),
                None => self.unwritten.push_back((u64::MAX, delivery)),
            }
        }
        fits
    }

    /// `<active/>` and `<inactive/>`: never answered (XEP-0352 §4).
    pub(super) fn client_state(&mut self, element: &Element) -> Result<(), StreamError> {
        match element.name() {
            _ if element.ns() != ns::CSI => Err(StreamError::unsupported_stanza_type()),
            "active" => {
                let fits = self.flush_held();
                self.held = None;
                self.seat.set_inactive(false);
                if fits { Ok(()) } else { Err(StreamError::resource_constraint()) }
            }
            "inactive" => {
                if self.held.is_none() {
                    self.held = Some(held_back(&self.node));
                }
                self.seat.set_inactive(true);
                Ok(())
            }
            _ => Err(StreamError::unsupported_stanza_type()),
        }
    }

    /// False when stream management has no room: the stanza is kept for what comes after this session.
    fn write(&mut self, delivery: Delivery) -> bool {
        let sent = &self.node.metrics.sent;
        match delivery.stanza.kind() {
            Kind::Message => sent.message.inc(),
            Kind::Presence => sent.presence.inc(),
            _ => sent.iq.inc(),
        };
        match self.sm.as_mut() {
            None => {
                self.output.put(delivery.stanza.bytes());
                if delivery.owed != Owed::Nothing {
                    let end = self.written + self.output.len() as u64;
                    self.unwritten.push_back((end, delivery));
                }
            }
            Some(sm) => {
                let stanza = delivery.stanza.clone();
                if !sm.keep(delivery, self.node.wall_ms()) {
                    return false;
                }
                self.output.put(stanza.bytes());
            }
        }
        true
    }

    /// Says why and closes our stream.
    pub(super) fn farewell(&mut self, close: &Close) {
        if let (Close::Clean | Close::Error(_) | Close::Left(..), Some(sm)) =
            (close, self.sm.as_ref())
        {
            // The last word on what was handled: there may be no resumption after this (XEP-0198 §7).
            self.output.put(&Nonza::Answer { h: sm.handled.handled() }.to_bytes());
        }
        match close {
            Close::Clean => self.output.put(Framing::Stream.close()),
            // The closing tag is part of it.
            Close::Error(error) | Close::Left(error, _) => {
                self.output.put(&Framing::Stream.error(error));
            }
            // XEP-0198 §5: the older stream, should anybody still listen.
            Close::TakenOver => self.output.put(&Framing::Stream.error(&StreamError::conflict())),
            Close::Lost => {}
        }
    }

    /// The end of a session without stream management, with messages that somebody waits to hear of: what the client's side takes now
    /// is kept, the rest goes on elsewhere and is not written any more.
    pub(super) async fn write_out(&mut self) {
        let whole = self.written + self.output.len() as u64;
        let written = timeout(FAREWELL_WITHIN, self.transport.write(&mut self.output)).await;
        let upto = whole - self.output.len() as u64;
        let left = self.unwritten.iter().take_while(|(end, _)| *end <= upto).count();
        let kept = self.unwritten.drain(..left).map(|(_, delivery)| delivery);
        router::kept(&self.node, &self.seat, kept);
        if !matches!(written, Ok(Ok(()))) {
            self.output = Buffer::new();
        }
    }

    /// When a hibernating session ends.
    pub(super) fn resume_deadline(&self) -> Instant {
        let timeout = self.sm.as_ref().map_or(Duration::ZERO, |sm| sm.timeout);
        Instant::now() + timeout
    }
}

fn held_back(node: &Node) -> Box<HeldBack> {
    let limits = &node.config.limits;
    Box::new(HeldBack::new(limits.inactive_held_max, limits.inactive_held_bytes_max))
}
