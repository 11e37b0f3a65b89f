//! Room: the task of one connection that another domain has opened to us: it owns socket, TLS, framer and clock, shows the machine what happens and does what
//! the machine says. Called by `Incoming`; calls `machine`, `wire`, `net`, and the neighbours of [`Incoming`](super::Incoming).
//!
//! A peer is read from no faster than its stanzas are handled, than its rate allows, and than it takes what is written to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::server::TlsStream;
use xmpp::stream::header::{Framing, Opening};
use xmpp::xml::framer::Limits as XmlLimits;
use xmpp::{Stanza, StreamError, ns};

use super::counts::{Asking, Seat};
use super::machine::Machine;
use super::sleep::{BackHalf, Slept, WAKES_MAX, Wake};
use super::turns::{Input, Output};
use super::{Around, Current, FAREWELL, Shared, elsewhere};
use crate::federation::bidi::Back;
use crate::federation::dialback::DialbackError;
use crate::federation::net::{Security, WhyNot};
use crate::federation::wire::{self, Item, Turn, Wire};
use crate::federation::{Handled, OnHandled, Ticket};

/// How long one element may take from its first byte to its last, while we read.
const ELEMENT_DEADLINE: Duration = Duration::from_secs(60);

/// One stream, without its connection.
pub(super) struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: Machine,
    pub(super) seat: Seat,
    pub(super) watch: watch::Receiver<Current>,
    pub(super) current: Current,
    peer: SocketAddr,
    /// The peer's certificates, its own first; none without TLS.
    chain: Arc<[CertificateDer<'static>]>,
    /// What was asked of others, and how it will be told.
    questions: FuturesUnordered<BoxFuture<'static, Told>>,
    /// Who is told what is handled, and what was told: they stay with the stream when another connection goes on with it.
    pub(super) done: Arc<Done>,
    pub(super) handled: mpsc::UnboundedReceiver<u64>,
    pub(super) back: Option<BackHalf>,
    /// Sent back to a peer that acknowledges nothing, and up to where the wire must have been flushed before it has them.
    pub(super) sent: VecDeque<(u64, Ticket)>,
    /// Its resumption id.
    pub(super) id: Option<String>,
    pub(super) wakes: mpsc::Receiver<Wake>,
    waker: mpsc::Sender<Wake>,
    /// Nothing is read before.
    read_after: Instant,
    /// Since when something is half read.
    amid: Option<Instant>,
    /// Our closing tag is out.
    closing: bool,
}

/// An answer to one of the questions.
enum Told {
    Input(Box<Input>),
    Slept(Option<Box<Slept>>),
}

/// Stanzas of one stream that somebody has taken responsibility for. As many at most wait here as may be open (`Limits::unhandled_max`).
#[derive(Debug)]
pub(super) struct Done(mpsc::UnboundedSender<u64>);

impl OnHandled for Done {
    fn handled(&self, number: u64) {
        // A stream that is gone does not count any more.
        let _ = self.0.send(number);
    }
}

/// How a connection ends.
enum End {
    /// TLS comes next.
    StartTls,
    /// Politely: with this error, or none.
    Over(Option<StreamError>),
    /// Without a word.
    Lost,
    /// Another connection goes on with the stream.
    Wake(Wake),
}

/// A connection from its first byte to its end, and the sleep that may follow.
pub(super) async fn run<S>(shared: Arc<Shared>, io: S, peer: SocketAddr, is_tls: bool, seat: Seat)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(mut stream) = Stream::new(shared, peer, seat) else { return };
    let (io, security) = if is_tls {
        (io, Security::DirectTls)
    } else {
        let mut wire = Wire::new(io, XmlLimits::PRE_AUTH);
        match stream.serve(&mut wire).await {
            // What was asked for it before, nobody waits for any more.
            End::StartTls => stream.questions.clear(),
            end => return stream.end(wire, end).await,
        }
        let deadline = stream.negotiate_by();
        let flushed = timeout_at(deadline, wire.flush()).await;
        // S-026: what is there before the handshake came in clear.
        match (flushed, wire.into_plain()) {
            (Ok(Ok(())), Some(io)) => (io, Security::StartTls),
            _ => return stream.finish("tls"),
        }
    };
    let deadline = stream.negotiate_by();
    let handshake = stream.shared.net.acceptor(security).accept(io);
    let secured = match timeout_at(deadline, handshake).await {
        Ok(Ok(secured)) => secured,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no TLS with a peer");
            return stream.finish("tls");
        }
        Err(_) => return stream.finish("tls"),
    };
    let mut wire = Wire::new(secured, XmlLimits::PRE_AUTH);
    let end = stream.secured(&mut wire).await;
    stream.end(wire, end).await;
}

/// Tells a peer that there is no room, as far as it lets us.
pub(super) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>, current: Current) {
    let opening = Opening {
        content_ns: ns::SERVER,
        from: Some(&current.settings.name),
        to: None,
        id: Some("0"),
        dialback: true,
    };
    wire.put(&opening.to_bytes(Framing::Stream));
    wire.put(&wire::farewell(Some(&StreamError::resource_constraint())));
    wire.close(FAREWELL).await;
}

impl Stream {
    /// `None`: there are no random numbers, and without them no streams.
    fn new(shared: Arc<Shared>, peer: SocketAddr, seat: Seat) -> Option<Stream> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).ok()?;
        let mut watch = shared.current.subscribe();
        let current = watch.borrow_and_update().clone();
        let now = Instant::now();
        let (done, handled) = mpsc::unbounded_channel();
        let (waker, wakes) = mpsc::channel(WAKES_MAX);
        Some(Stream {
            machine: Machine::new(current.settings.clone(), seed, now.into_std()),
            shared,
            seat,
            watch,
            current,
            peer,
            chain: Arc::default(),
            questions: FuturesUnordered::new(),
            done: Arc::new(Done(done)),
            handled,
            back: None,
            sent: VecDeque::new(),
            id: None,
            wakes,
            waker,
            read_after: now,
            amid: None,
            closing: false,
        })
    }

    fn negotiate_by(&self) -> Instant {
        self.machine.deadline().map_or_else(Instant::now, Instant::from_std)
    }

    async fn secured<S>(&mut self, wire: &mut Wire<TlsStream<S>>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let chain = wire.io().get_ref().1.peer_certificates().unwrap_or_default();
        self.chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        let secured = Input::Secured { certificate: !self.chain.is_empty() };
        match self.feed(wire, secured) {
            Some(end) => end,
            None => self.serve(wire).await,
        }
    }

    /// Until something ends.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&mut self, wire: &mut Wire<S>) -> End {
        loop {
            while self.may_take() {
                let input = match wire.next() {
                    Ok(None) => break,
                    Ok(Some(Item::Open(header))) => Input::Open(header),
                    Ok(Some(Item::Stanza(piece, head))) => Input::Stanza(piece, head),
                    Ok(Some(Item::Element(element))) => Input::Element(element),
                    Ok(Some(Item::Close)) => Input::Close,
                    Err(error) => Input::Broken(error),
                };
                self.amid = None;
                if let Some(end) = self.feed(wire, input) {
                    return end;
                }
            }
            let now = Instant::now();
            let reading = self.may_take() && now >= self.read_after;
            let amid = reading && wire.is_amid();
            self.amid = amid.then(|| self.amid.unwrap_or(now));
            let input = match self.wait(wire, reading, now).await {
                Ok(Some(input)) => input,
                Ok(None) => continue,
                Err(end) => return end,
            };
            if let Some(end) = self.feed(wire, input) {
                return end;
            }
        }
    }

    /// Waits for one thing to happen.
    async fn wait<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        reading: bool,
        now: Instant,
    ) -> Result<Option<Input>, End> {
        let far = now + Duration::from_secs(3600);
        let due = self.machine.deadline().map_or(far, Instant::from_std);
        let later = if now < self.read_after { self.read_after } else { far };
        // B-058: what has begun must come to its end.
        let whole = self.amid.map_or(far, |since| since + ELEMENT_DEADLINE);
        let may_send = self.machine.may_send() && !wire.is_full();
        tokio::select! {
            biased;
            changed = self.watch.changed() => {
                if changed.is_err() {
                    return Ok(Some(Input::Broken(StreamError::system_shutdown())));
                }
                Ok(self.changed())
            }
            Some(wake) = self.wakes.recv() => {
                if self.may_go_on(&wake) { Err(End::Wake(wake)) } else { Ok(None) }
            }
            Some(number) = self.handled.recv() => Ok(Some(Input::Handled(number))),
            Some(told) = self.questions.next(), if !self.questions.is_empty() => match told {
                Told::Input(input) => Ok(Some(*input)),
                Told::Slept(slept) => self.woken(wire, slept).await.map(Some),
            },
            Some((ticket, stanza)) = next_back(&mut self.back), if may_send => {
                Ok(Some(Input::Back(ticket, stanza)))
            }
            turn = wire.turn(reading) => match turn {
                Ok(Turn::Read(bytes)) => {
                    self.pay(bytes);
                    Ok(None)
                }
                Ok(Turn::Flushed) => {
                    self.flushed(wire.flushed());
                    Ok(None)
                }
                Ok(Turn::Ended) | Err(_) => Err(End::Lost),
            },
            () = sleep_until(due.min(later).min(whole)) => {
                let late = Instant::now() >= whole;
                let error = StreamError::connection_timeout;
                Ok(Some(if late { Input::Broken(error()) } else { Input::Tick }))
            }
        }
    }

    /// Whether the machine may be shown more of what was read.
    fn may_take(&self) -> bool {
        !self.machine.is_waiting() && !self.machine.is_full()
    }

    fn elsewhere(&self) -> StreamError {
        elsewhere(&*self.shared.user, self.machine.tls.is_some())
    }

    /// Other rules, or the end of all streams.
    pub(super) fn changed(&mut self) -> Option<Input> {
        self.current = self.watch.borrow_and_update().clone();
        self.machine.set(self.current.settings.clone());
        let policies = &self.current.policies;
        if self.current.stop {
            Some(Input::Broken(self.elsewhere()))
        } else if self.machine.proved().senders().any(|domain| !policies.of(domain).allow) {
            Some(Input::Broken(StreamError::policy_violation()))
        } else if self.current.leaving && !self.machine.proved().is_empty() {
            Some(Input::Broken(self.elsewhere()))
        } else {
            None
        }
    }

    fn pay(&mut self, bytes: usize) {
        let policy = self.seat.payer().map(|domain| self.current.policies.of(domain));
        let rate = policy.and_then(|policy| policy.bytes_per_second);
        let rate = rate.unwrap_or(self.current.settings.limits.bytes_per_second);
        let now = Instant::now();
        let wait = self.seat.pay(bytes, rate, now.into_std());
        self.read_after = now + wait;
        if !wait.is_zero() {
            self.machine.deaf(self.read_after.into_std());
        }
    }

    fn flushed(&mut self, position: u64) {
        let Some(half) = &self.back else { return };
        let arrived = self.sent.partition_point(|(until, _)| *until <= position);
        let tickets: Vec<_> = self.sent.drain(..arrived).map(|(_, ticket)| ticket).collect();
        if !tickets.is_empty() {
            self.shared.bidi.delivered(half.back.stream, &tickets);
        }
    }

    /// An earlier stream was looked for. Its way back takes the place of this one's.
    async fn woken<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        slept: Option<Box<Slept>>,
    ) -> Result<Input, End> {
        let Some(slept) = slept else { return Ok(Input::Resumed(None)) };
        let Slept { kept, back, done, handled } = *slept;
        // Nothing has come on this one.
        (self.done, self.handled) = (done, handled);
        if let Some(old) = back
            && let Some(own) = self.back.replace(old)
        {
            // What went over this one is with the peer before anything of the other is.
            let deadline = Instant::now() + self.current.settings.timers.ack;
            let written = timeout_at(deadline, wire.flush()).await;
            let sent: Vec<_> = self.sent.drain(..).map(|(_, ticket)| ticket).collect();
            if matches!(written, Ok(Ok(()))) {
                self.shared.bidi.delivered(own.back.stream, &sent);
            }
            own.close(&*self.shared.bidi);
        }
        Ok(Input::Resumed(Some(Box::new(kept))))
    }

    pub(super) fn with_machine(&mut self, input: Input, out: &mut Vec<Output>) {
        let Current { policies, leaving, .. } = &self.current;
        let (leaving, encrypted) = (*leaving, self.machine.tls.is_some());
        let around = Around { user: &*self.shared.user, policies, leaving, encrypted };
        self.machine.handle(&around, Instant::now().into_std(), input, out);
    }

    /// Shows the machine what happened, and does what it says.
    fn feed<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        input: Input,
    ) -> Option<End> {
        let mut out = Vec::new();
        self.with_machine(input, &mut out);
        let mut outputs = VecDeque::from(out);
        while let Some(output) = outputs.pop_front() {
            let input = match output {
                Output::Send(bytes) => {
                    wire.put(&bytes);
                    continue;
                }
                Output::Receive(stanza, number) => {
                    self.shared.user.receive(stanza, Handled::new(self.done.clone(), number));
                    continue;
                }
                Output::Sent(ticket) => {
                    self.sent.push_back((wire.position(), ticket));
                    continue;
                }
                Output::StartTls => return Some(End::StartTls),
                Output::Restart => {
                    wire.restart();
                    continue;
                }
                Output::Accepted(pair) => {
                    wire.set_limits(self.machine.limits());
                    match self.accepted(&pair.from, &pair.to) {
                        // It was at it when all this began.
                        true if self.current.leaving => Input::Broken(self.elsewhere()),
                        true => continue,
                        false => Input::Broken(StreamError::policy_violation()),
                    }
                }
                Output::Prove(domain) => match self.prove(domain) {
                    Some(told) => told,
                    None => continue,
                },
                Output::Closing => {
                    wire.put(&wire::farewell(None));
                    self.closing = true;
                    continue;
                }
                Output::End(error) => return Some(End::Over(error)),
                Output::Cut => return Some(End::Lost),
                other => {
                    self.perform(other);
                    continue;
                }
            };
            // What follows from that comes behind what the machine has said already.
            let mut more = Vec::new();
            self.with_machine(input, &mut more);
            outputs.extend(more);
        }
        None
    }

    /// What needs neither wire nor answer.
    fn perform(&mut self, output: Output) {
        match output {
            Output::Verify(ask) => {
                let place = self.place_to_ask();
                let answer = place.is_some().then(|| self.shared.verifier.verify(ask.clone()));
                self.questions.push(Box::pin(async move {
                    let _place = place;
                    let answer = match answer {
                        Some(answer) => answer.await,
                        None => Err(DialbackError::ResourceConstraint),
                    };
                    Told::Input(Box::new(Input::Verified(ask, answer)))
                }));
            }
            Output::Back(pair) => {
                let half = self.back.get_or_insert_with(|| {
                    let (sender, queue) =
                        mpsc::channel(self.current.settings.limits.unacked_max.max(1));
                    let back = Back { stream: self.shared.number(), queue: sender };
                    BackHalf { back, queue }
                });
                self.shared.bidi.opened(pair, &half.back);
            }
            Output::Delivered(tickets) => {
                if let Some(half) = &self.back {
                    self.shared.bidi.delivered(half.back.stream, &tickets);
                }
            }
            Output::Resumable(id) => {
                self.shared.resumable.lock().insert(id.clone(), self.waker.clone());
                self.id = Some(id);
            }
            Output::Resume(id) => {
                let (shared, proved) = (self.shared.clone(), self.machine.proved().clone());
                let encrypted = self.machine.tls.is_some();
                self.questions.push(Box::pin(async move {
                    Told::Slept(shared.wake(&id, proved, encrypted).await.map(Box::new))
                }));
            }
            Output::Dropped(what) => {
                self.shared.counts.count("dropped");
                tracing::debug!(peer = %self.peer, what, "not answered");
            }
            _ => unreachable!("done where the wire is"),
        }
    }

    fn accepted(&mut self, theirs: &str, ours: &str) -> bool {
        tracing::info!(peer = %self.peer, theirs, ours, tls = !self.chain.is_empty(), "a domain has proved who it is");
        self.shared.net.saw(theirs, &self.chain);
        let limits = &self.current.settings.limits;
        self.seat.accepted(theirs, limits, Instant::now().into_std())
    }

    /// `None`: too much is being asked for this peer, or for all.
    fn place_to_ask(&self) -> Option<Asking> {
        self.shared.counts.ask(self.peer.ip(), &self.current.settings.limits)
    }

    /// Whether the certificate is good for a domain, and is to be looked at. Told later where somebody has to be asked (DANE, POSH).
    fn prove(&mut self, domain: String) -> Option<Input> {
        if !self.current.policies.of(&domain).external() {
            return Some(Input::Proved { domain, good: false });
        }
        let peer = self.peer;
        let good = move |proved: Result<(), WhyNot>, domain: &str| {
            if let Err(why) = &proved {
                tracing::debug!(%peer, domain, %why, "a certificate proves nothing");
            }
            proved.is_ok()
        };
        if let Some(proved) = self.shared.net.proves_at_once(&self.chain, &domain) {
            let good = good(proved, &domain);
            return Some(Input::Proved { domain, good });
        }
        let Some(place) = self.place_to_ask() else {
            tracing::warn!(%peer, domain, "a certificate is not looked up (verifications_max)");
            return Some(Input::Proved { domain, good: false });
        };
        let (net, chain) = (self.shared.net.clone(), self.chain.clone());
        self.questions.push(Box::pin(async move {
            let _place = place;
            let good = good(net.proves_with_lookups(&chain, &domain).await, &domain);
            Told::Input(Box::new(Input::Proved { domain, good }))
        }));
        None
    }

    /// The end of the connection, and of the stream, unless that can be resumed.
    async fn end<S: AsyncRead + AsyncWrite + Unpin>(mut self, mut wire: Wire<S>, end: End) {
        match end {
            End::Over(error) => {
                let reason = error.as_ref().map_or("closed", |error| error.condition.name());
                if !self.closing {
                    wire.put(&wire::farewell(error.as_ref()));
                }
                match &error {
                    Some(error) if self.machine.proved().is_empty() => {
                        tracing::debug!(peer = %self.peer, %error, "a stream ends");
                    }
                    Some(error) => {
                        tracing::info!(peer = %self.peer, %error, "a stream ends");
                    }
                    None => {}
                }
                self.forget();
                let _ = timeout_at(Instant::now() + FAREWELL, wire.flush()).await;
                self.flushed(wire.flushed());
                self.finish(reason);
                wire.close(FAREWELL).await;
            }
            End::Wake(wake) => {
                drop(wire);
                self.sleep(Some(wake)).await;
            }
            End::Lost | End::StartTls => {
                drop(wire);
                if self.machine.is_resumable() && !self.closing {
                    self.sleep(None).await;
                } else {
                    self.finish("lost");
                }
            }
        }
    }
}

async fn next_back(back: &mut Option<BackHalf>) -> Option<(Ticket, Stanza)> {
    match back {
        Some(half) => half.queue.recv().await,
        None => std::future::pending().await,
    }
}
