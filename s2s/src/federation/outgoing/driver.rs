//! Room `federation::outgoing`: the task of one stream, over all its connections: opened by `open`, kept by the values of `session` and `online`, fed from
//! `pool`. Called by the keeper in `mod`. Owns the socket and the clock.
//!
//! While it stands: everything that waits for its pairs is written in one piece, as far as the peer acknowledges (XEP-0198) or takes bytes. When it is cut
//! and may be resumed, it is; until then its pairs wait for it. Otherwise what is not known to have arrived goes back to its queues and is sent again
//! on another stream. However the task ends, also by being dropped, nothing that it had taken is lost: see [`Life`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use xmpp::StreamError;
use xmpp::sm::{self, Nonza};
use xmpp::xml::framer::Limits as Framing;

use super::failure::Failure;
use super::machine::Terms;
use super::online::{Online, Rules, Todo};
use super::open::{FAREWELL, open};
use super::peer::Sent;
use super::pool::Open;
use super::retry::Retry;
use super::session::{Phase, Session};
use super::way::Io;
use super::{Settings, Shared, Stage, again};
use crate::federation::Handled;
use crate::federation::dialback::Pair;
use crate::federation::text;
use crate::federation::wire::{self, Item, Turn, Wire};

/// A batch ends here though more waits. Less than what makes `Wire` stop reading.
const BATCH_BYTES: usize = 32 << 10;
/// Stanzas of one batch.
const BATCH_ITEMS: usize = 256;

/// What a stream has taken, until its end is told: at the latest when this is dropped.
struct Life {
    shared: Arc<Shared>,
    open: Open,
    session: Session,
    /// The peer sends on it too.
    bidi: bool,
    /// The last connection was a stream on which stanzas might go.
    stood: bool,
    why: Failure,
}

impl Drop for Life {
    fn drop(&mut self) {
        let back = self.session.begin_anew();
        let (now, chance) = (Instant::now().into_std(), super::chance());
        let timers = self.shared.settings().timers;
        self.shared.pool(|pool| {
            pool.back(&self.open.theirs, back);
            pool.ended(&self.open.theirs, self.open.id, &self.why, now, &timers, chance);
        });
    }
}

/// Runs a stream until it ends for good.
pub(super) async fn run(shared: Arc<Shared>, open: Open) {
    let session = Session::new(open.bell.clone());
    let why = Failure::Cut("the stream was given up".to_owned());
    let mut life = Life { shared, open, session, bidi: false, stood: false, why };
    let (mut retry, mut until) = (Retry::default(), None);
    loop {
        let failure = life.connection(&mut retry, &mut until).await;
        tracing::debug!(ours = %life.open.ours, theirs = %life.open.theirs, %failure, "stream ended");
        let refused = matches!(failure, Failure::Peer(_) | Failure::Protocol(_) | Failure::Silent);
        life.why = failure;
        let settings = life.shared.settings();
        let back = life.session.cut(refused);
        life.shared.pool(|pool| {
            pool.back(&life.open.theirs, back);
            pool.down(&life.open.theirs, life.open.id, &life.open.ours);
        });
        let now = Instant::now().into_std();
        let (resume, queue) = (settings.timers.resume, settings.timers.queue);
        until = until.or_else(|| life.session.resumable_until(now, resume, queue));
        let Some(end) = until.filter(|_| life.is_worth_resuming()) else { return };
        let next = retry.failed(now, &settings.timers, super::chance());
        if next >= end || life.shared.stage() != Stage::Running {
            return;
        }
        sleep_until(next.into()).await;
    }
}

impl Life {
    /// A stream that was closed in order is over (XEP-0198 §5), and one on which nothing is open is not missed.
    fn is_worth_resuming(&self) -> bool {
        use Failure::{Closed, Done, Forbidden, NotFound};
        let is_over = match self.why {
            // A connection that was closed before it came to that says nothing of the stream.
            Closed => self.stood,
            Done | Forbidden | NotFound(_) => true,
            _ => false,
        };
        let is_open = || {
            !self.session.is_empty()
                || self.bidi
                || self.shared.pool(|pool| pool.has_work(&self.open.theirs, self.open.id))
        };
        !is_over && self.session.resumable.is_some() && is_open()
    }

    /// One connection, from its making to its end.
    async fn connection(
        &mut self,
        retry: &mut Retry,
        until: &mut Option<std::time::Instant>,
    ) -> Failure {
        let Settings { policies, timers, .. } = &*self.shared.settings();
        self.stood = false;
        let pair = Pair::new(&self.open.ours, &self.open.theirs);
        let policy = policies.of(&pair.to);
        if !policy.allow {
            return Failure::Forbidden;
        }
        let deadline = Instant::now() + timers.negotiate;
        let secret = self.shared.user.dialback_secret();
        let way = &*self.shared.way;
        let opened = open(way, &pair, Terms::of(&policy), secret, deadline).await;
        let (wire, established) = match opened {
            Ok(opened) => opened,
            Err(failure) => return failure,
        };
        tracing::info!(ours = pair.from, theirs = pair.to, proof = ?established.proof, tls = established.is_tls,
            proved = established.is_proved, bidi = established.bidi, sm = established.sm, "stream up");
        (self.bidi, self.stood) = (established.bidi, true);
        let online = Online::new(self.open.ours.clone(), self.open.theirs.clone(), established);
        let mut stream = Stream {
            life: self,
            wire,
            online,
            stalled: None,
            stuck: None,
            began: Instant::now(),
            carried: Instant::now(),
            read_after: Instant::now(),
            deaf_until: Instant::now(),
            is_deaf: false,
            is_up: false,
            progress: false,
        };
        let failure = stream.run().await;
        if stream.progress {
            *retry = Retry::default();
            *until = None;
        }
        let Stream { mut wire, .. } = stream;
        let error = match &failure {
            Failure::Protocol(error) => Some(error.clone()),
            Failure::Silent => Some(StreamError::connection_timeout()),
            Failure::Forbidden => Some(StreamError::policy_violation()),
            _ => None,
        };
        // What was not flushed goes again on another stream: it must not arrive now.
        if matches!(failure, Failure::Cut(_)) || self.session.has_unflushed() {
            return failure;
        }
        wire.put(&wire::farewell(error.as_ref()));
        // Nobody waits for it.
        tokio::spawn(wire.close(FAREWELL));
        failure
    }
}

/// A connection on which stanzas go.
struct Stream<'a> {
    life: &'a mut Life,
    wire: Wire<Io>,
    online: Online,
    /// Since when the peer has not taken what is written.
    stalled: Option<Instant>,
    /// See [`Pool::stuck`](super::pool::Pool::stuck).
    stuck: Option<(std::time::Instant, std::time::Instant)>,
    began: Instant,
    /// When something was carried last.
    carried: Instant,
    /// Nothing is read before: the peer sends faster than it may.
    read_after: Instant,
    /// Until when we could not hear the peer, because we did not read.
    deaf_until: Instant,
    /// Too much of what came is not handled: nothing is read.
    is_deaf: bool,
    is_up: bool,
    /// Something got through on this connection.
    progress: bool,
}

impl Stream<'_> {
    async fn run(&mut self) -> Failure {
        match self.run_on().await {
            Err(failure) => failure,
            Ok(never) => match never {},
        }
    }

    async fn run_on(&mut self) -> Result<std::convert::Infallible, Failure> {
        let settings = self.life.shared.settings();
        let bytes = u32::try_from(settings.limits.stanza_bytes_max).unwrap_or(u32::MAX);
        self.wire.set_limits(Framing { element_bytes: bytes, ..Framing::STANZA });
        let first = self.online.start(&mut self.life.session);
        self.perform(first)?;
        let bell: Arc<Notify> = self.life.open.bell.clone();
        loop {
            let settings = self.life.shared.settings();
            self.look_around(&settings)?;
            self.read_on(&settings)?;
            self.ask(&settings)?;
            self.write_on(&settings);
            self.listen(&settings);
            let due = self.due(&settings)?;
            let may_read = self.may_read(&settings) && Instant::now() >= self.read_after;
            tokio::select! {
                turn = self.wire.turn(may_read) => match turn {
                    Ok(Turn::Read(bytes)) => self.pay(bytes, &settings),
                    Ok(Turn::Flushed) => self.flushed(),
                    Ok(Turn::Ended) => return Err(Failure::Cut("the connection ended".to_owned())),
                    Err(error) => return Err(Failure::Cut(error.to_string())),
                },
                () = bell.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// What may have changed without the peer's doing: policy, and that we are being closed.
    fn look_around(&self, settings: &Settings) -> Result<(), Failure> {
        let shared = &self.life.shared;
        if !settings.policies.of(&self.life.open.theirs).allow {
            return Err(Failure::Forbidden);
        }
        let is_idle = || {
            self.life.session.is_empty()
                && !shared.pool(|pool| pool.has_work(&self.life.open.theirs, self.life.open.id))
        };
        match shared.stage() {
            Stage::Draining if is_idle() => Err(Failure::Done),
            _ => Ok(()),
        }
    }

    /// Not when too much of what came is not handled yet.
    fn may_read(&self, settings: &Settings) -> bool {
        self.life.session.may_receive(settings.limits.unhandled_max)
    }

    /// Notices when it is read again.
    fn listen(&mut self, settings: &Settings) {
        let is_deaf = !self.may_read(settings);
        if std::mem::replace(&mut self.is_deaf, is_deaf) && !is_deaf {
            self.deaf_until = self.deaf_until.max(Instant::now());
        }
    }

    /// So much was read.
    fn pay(&mut self, bytes: usize, settings: &Settings) {
        let theirs = &self.life.open.theirs;
        let rate = settings.policies.of(theirs).bytes_per_second;
        let rate = rate.unwrap_or(settings.limits.bytes_per_second);
        let now = Instant::now();
        let wait = self.life.shared.pool(|pool| pool.pay(theirs, bytes, rate, now.into_std()));
        self.read_after = now + wait;
        if !wait.is_zero() {
            self.deaf_until = self.read_after;
        }
    }

    /// Takes what was read.
    fn read_on(&mut self, settings: &Settings) -> Result<(), Failure> {
        while self.may_read(settings) {
            match self.wire.next().map_err(Failure::Protocol)? {
                None => return Ok(()),
                Some(Item::Close) => return Err(Failure::Closed),
                Some(Item::Open(_)) => return Err(Failure::Protocol(StreamError::bad_format())),
                Some(Item::Stanza(piece, head)) => {
                    self.carried = Instant::now();
                    let user = &self.life.shared.user;
                    let is_ours = |domain: &str| user.is_ours(domain);
                    let may_arrive = |from: &str, to: &str| user.may_arrive(from, to);
                    let proved = &self.online.proved;
                    let stanza = wire::stanza(&piece, &head, proved, is_ours, may_arrive)
                        .map_err(Failure::Protocol)?;
                    if let Some((received, number)) = self.life.session.receive() {
                        user.receive(stanza, Handled::new(received, number));
                    }
                }
                Some(Item::Element(element)) => {
                    let user = &self.life.shared.user;
                    let rules = Rules {
                        secret: user.dialback_secret(),
                        is_ours: &|domain| user.is_ours(domain),
                    };
                    let session = &mut self.life.session;
                    let todos = self.online.element(
                        &element,
                        session,
                        &rules,
                        Instant::now().into_std(),
                    )?;
                    self.perform(todos)?;
                }
            }
        }
        Ok(())
    }

    /// Asks for further pairs, and gives up those that had no answer.
    fn ask(&mut self, settings: &Settings) -> Result<(), Failure> {
        let Open { id, theirs, .. } = &self.life.open;
        let asked = self.life.shared.pool(|pool| pool.asked(theirs, *id));
        let now = Instant::now().into_std();
        let mut todos = self.online.overdue(now, settings.timers.negotiate);
        for ours in asked {
            let secret = self.life.shared.user.dialback_secret();
            todos.extend(self.online.ask(&ours, secret, &self.life.session, now));
        }
        self.perform(todos)
    }

    /// Writes what waits, as much as goes in one piece.
    fn write_on(&mut self, settings: &Settings) {
        let pending = self.wire.position() - self.wire.flushed();
        let session = &mut self.life.session;
        let room = session.room(settings.limits.unacked_max).min(BATCH_ITEMS);
        if pending < BATCH_BYTES as u64 && room > 0 && self.is_up {
            let Open { id, theirs, .. } = &self.life.open;
            let now = Instant::now();
            let (sent, stuck) = self.life.shared.pool(|pool| {
                let most = (room, BATCH_BYTES);
                let sent = pool.take(theirs, *id, most, now.into_std(), &settings.timers);
                (sent, pool.stuck(theirs, *id, &settings.timers))
            });
            self.stuck = stuck;
            if !sent.is_empty() {
                self.carried = now;
                let mut out = Vec::with_capacity(4096);
                for sent in sent {
                    out.extend_from_slice(&text::bytes(&again::stanza(&sent.ours, &sent.item)));
                    let position = self.wire.position() + out.len() as u64;
                    session.sent(sent, position);
                }
                self.wire.put(&out);
            }
        }
        if let Some(h) = session.settle() {
            self.wire.put(&Nonza::Answer { h }.to_bytes());
        }
        if session.ask(Instant::now().into_std()) {
            self.wire.put(sm::REQUEST);
        }
        if self.wire.position() == self.wire.flushed() {
            self.stalled = None;
        } else if self.stalled.is_none() {
            self.stalled = Some(Instant::now());
        }
    }

    fn flushed(&mut self) {
        self.stalled = None;
        let arrived = self.life.session.flushed(self.wire.flushed());
        self.arrived(arrived);
    }

    fn arrived(&mut self, arrived: Vec<Sent>) {
        if arrived.is_empty() {
            return;
        }
        (self.progress, self.stuck) = (true, None);
        let Open { id, theirs, .. } = &self.life.open;
        let shared = &self.life.shared;
        shared.pool(|pool| pool.delivered(theirs, *id, &arrived));
        let tickets: Vec<_> = arrived.iter().map(|sent| sent.item.ticket).collect();
        shared.user.delivered(&tickets);
    }

    fn perform(&mut self, todos: Vec<Todo>) -> Result<(), Failure> {
        for todo in todos {
            let (theirs, id) = (self.life.open.theirs.clone(), self.life.open.id);
            match todo {
                Todo::Put(bytes) => self.wire.put(&bytes),
                Todo::Arrived(sent) => self.arrived(sent),
                Todo::Back(sent) => self.life.shared.pool(|pool| pool.back(&theirs, sent)),
                Todo::Resend => {
                    let mut out = Vec::new();
                    for sent in self.life.session.unacked() {
                        // The same stanza of the same stream: no word of a delay.
                        out.extend_from_slice(&text::bytes(&sent.item.stanza));
                    }
                    self.wire.put(&out);
                }
                Todo::Answered(ours, answer) => {
                    let answer = answer.as_ref().copied();
                    self.life.shared.pool(|pool| pool.answered(&theirs, id, &ours, answer));
                }
            }
        }
        // Ready once stream management is settled: nothing is written before.
        let is_ready = matches!(self.life.session.phase, Phase::On | Phase::Off);
        if is_ready && !self.is_up {
            self.is_up = true;
            let Open { id, theirs, .. } = &self.life.open;
            let takes_more = self.online.established.takes_more;
            self.life.shared.pool(|pool| pool.up(theirs, *id, takes_more));
        }
        Ok(())
    }

    /// When something is due next, if nothing happens.
    fn due(&self, settings: &Settings) -> Result<Instant, Failure> {
        let timers = &settings.timers;
        let session = &self.life.session;
        let now = Instant::now();
        // While we do not read we cannot have heard.
        let stuck = self.stuck.map(|(since, _)| since);
        let asked = session.asked().into_iter().chain(stuck).min();
        let asked = asked.filter(|_| self.may_read(settings)).map(Instant::from_std);
        let asked = asked.map(|asked| asked.max(self.deaf_until));
        let cut = self.stalled.into_iter().chain(asked).min().map(|since| since + timers.ack);
        // It answers, and has what we sent no more than before: as long as a stanza may wait, and then it goes another way, or back.
        let hopeless = session.stalled().filter(|_| self.may_read(settings)).map(Instant::from_std);
        let hopeless = hopeless.map(|since| since.max(self.deaf_until) + timers.queue);
        let cut = cut.into_iter().chain(hopeless).min();
        let settled = (!self.is_up).then(|| self.began + timers.negotiate);
        if cut.into_iter().chain(settled).any(|at| at <= now) {
            return Err(Failure::Silent);
        }
        let idle = self.carried + timers.idle;
        let is_idle = session.is_empty() && session.open() == 0;
        if is_idle && self.is_up && idle <= now {
            return Err(Failure::Done);
        }
        let overdue = self.online.overdue_at(timers.negotiate).map(Instant::from_std);
        let asks = session.asks_at(now.into_std()).map(Instant::from_std);
        let more = self.stuck.map(|(_, more)| Instant::from_std(more)).filter(|at| *at > now);
        let idle = if is_idle && self.is_up { idle } else { now + Duration::from_secs(3600) };
        Ok(cut
            .into_iter()
            .chain(settled)
            .chain(overdue)
            .chain(asks)
            .chain(more)
            .chain(Some(self.read_after).filter(|at| *at > now))
            .chain([idle])
            .min()
            .unwrap_or(idle))
    }
}
