//! Room `federation::outgoing`: which pair of domains goes by which stream. A value, behind one lock: `mod` puts stanzas in, the streams' tasks (`driver`)
//! take them out and say what became of them, the keeper (`mod`) asks what is to be opened or given up. No clock, no socket.
//!
//! A pair without a stream shares one that stands to the same domain, if the peer takes further pairs (XEP-0220 §2.6.1); else it has its own. One stream
//! to a domain is being opened at a time. What comes to a bad end is told in order, by one task: see [`Pool::dead`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::failure::{Failure, Verdict, too_late};
use super::peer::{Dead, Line, Peer, Road, Seat, Sent, StreamId, StreamStatus, dead, refuse};
use super::queue::{Item, together};
use crate::federation::Ticket;
use crate::federation::pace::Bucket;
use crate::federation::{Limits, Timers};

/// Not all pairs are looked at more often than that, however many have something due.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long nothing else goes with what was on a stream that broke, if it neither arrives nor breaks this one.
fn patience(timers: &Timers) -> Duration {
    timers.ack / 2
}

/// A stream to be opened.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: StreamId,
    pub(super) ours: Arc<str>,
    pub(super) theirs: Arc<str>,
    /// Rung when there is something for it: stanzas, pairs to ask for.
    pub(super) bell: Arc<Notify>,
}

/// All pairs and their streams.
#[derive(Debug, Default)]
pub(super) struct Pool {
    peers: HashMap<Arc<str>, Peer>,
    bytes: usize,
    streams: usize,
    next_id: StreamId,
    /// Peers to look at soon.
    touched: Vec<Arc<str>>,
    /// When all of them are to be looked at.
    next_look: Option<Instant>,
    /// No new streams, no new stanzas: this half is being closed.
    is_closing: bool,
    /// What has come to a bad end, oldest first. One task empties it, so senders hear of it in this order.
    dead: VecDeque<Dead>,
}

impl Pool {
    /// Takes a stanza for a pair.
    ///
    /// # Errors
    /// The stanza again, and what its sender is to be told: the queue is full, the domain is known to be no more, or this half is being closed.
    pub(super) fn send(
        &mut self,
        ours: &str,
        theirs: &str,
        item: Item,
        now: Instant,
        limits: &Limits,
    ) -> Result<(), (Stanza, StanzaError)> {
        if self.is_closing {
            return Err((item.stanza, StanzaError::remote_server_timeout()));
        }
        let full =
            || StanzaError::resource_constraint().with_text("too much waits for this domain");
        if self.bytes + item.bytes() > limits.queued_bytes_max {
            return Err((item.stanza, full()));
        }
        let (name, peer) = match self.peers.get_key_value(theirs) {
            Some((name, _)) => {
                let name = name.clone();
                (name, self.peers.get_mut(theirs).expect("it was just found"))
            }
            None => {
                let name: Arc<str> = Arc::from(theirs);
                (name.clone(), self.peers.entry(name).or_default())
            }
        };
        let is_served = |line: &Line| *line.ours == *ours && matches!(line.road, Road::On(_));
        if let Some((_, error)) = peer.gone.as_ref().filter(|(until, _)| *until > now)
            && !peer.lines.iter().any(is_served)
        {
            return Err((item.stanza, error.clone()));
        }
        let line = peer.line(ours);
        let bytes = item.bytes();
        line.queue.push(item, limits).map_err(|item| (item.stanza, full()))?;
        self.bytes += bytes;
        let was_empty = line.queue.waiting() == 1;
        match line.road {
            Road::On(id) => peer.ring(id),
            _ if was_empty => self.touched.push(name),
            _ => {}
        }
        Ok(())
    }

    /// What the keeper is to do now, and when it is to ask again at the latest.
    pub(super) fn look(
        &mut self,
        now: Instant,
        limits: &Limits,
        timers: &Timers,
    ) -> (Vec<Open>, Option<Instant>) {
        let mut opens = Vec::new();
        let touched = std::mem::take(&mut self.touched);
        if self.next_look.is_some_and(|at| at <= now) {
            self.next_look = None;
            let names: Vec<Arc<str>> = self.peers.keys().cloned().collect();
            for name in names {
                self.look_at(&name, now, limits, timers, &mut opens);
            }
            self.next_look = self.next_look.map(|at| at.max(now + LOOK_EVERY));
        } else {
            for name in touched {
                self.look_at(&name, now, limits, timers, &mut opens);
            }
        }
        (opens, self.next_look)
    }

    fn look_at(
        &mut self,
        name: &Arc<str>,
        now: Instant,
        limits: &Limits,
        timers: &Timers,
        opens: &mut Vec<Open>,
    ) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        let mut next: Option<Instant> = None;
        let mut at = |moment: Option<Instant>| next = next.into_iter().chain(moment).min();
        if peer.gone.as_ref().is_some_and(|(until, _)| *until <= now) {
            peer.gone = None;
        }
        at(peer.gone.as_ref().map(|(until, _)| *until));
        for index in 0..peer.lines.len() {
            let line = &mut peer.lines[index];
            while let Some(item) = line.queue.expire(now, timers.queue) {
                self.bytes -= item.bytes();
                self.dead.push_back(dead(item, too_late(peer.last.as_deref())));
            }
            at(line.queue.expires_at(timers.queue));
            // What is on the way elsewhere comes to its end first: order.
            let is_served = line.road != Road::None || line.queue.is_on_the_way();
            if is_served || line.queue.waiting() == 0 {
                continue;
            }
            if let Some(seat) = peer.seats.iter().find(|seat| seat.backs.contains(&line.ours)) {
                line.road = Road::On(seat.id);
                seat.bell.notify_one();
                continue;
            }
            if self.is_closing {
                continue;
            }
            let up = peer.seats.iter().find(|seat| seat.is_up && seat.takes_more);
            if let Some(seat) = up.filter(|_| !line.alone) {
                line.road = Road::Asking(seat.id);
                seat.bell.notify_one();
                continue;
            }
            // One that is being opened may take this pair too: then it is looked at again.
            if !line.alone && peer.seats.iter().any(|seat| !seat.is_up) {
                continue;
            }
            let waits =
                peer.retry.waits_until(now).into_iter().chain(line.retry.waits_until(now)).max();
            if waits.is_some() {
                at(waits);
                continue;
            }
            if self.streams >= limits.streams_max {
                // Somebody else's end makes room.
                at(Some(now + Duration::from_secs(1)));
                continue;
            }
            self.next_id += 1;
            self.streams += 1;
            let (id, bell) = (self.next_id, Arc::new(Notify::new()));
            line.road = Road::Opening(id);
            opens.push(Open {
                id,
                ours: line.ours.clone(),
                theirs: name.clone(),
                bell: bell.clone(),
            });
            peer.seats.push(Seat {
                id,
                bell,
                is_up: false,
                takes_more: false,
                carried: false,
                together: usize::MAX,
                stuck: None,
                backs: Vec::new(),
            });
        }
        at(peer.retry.waits_until(now));
        // What is only remembered is forgotten in time.
        peer.lines.iter().for_each(|line| at(line.retry.waits_until(now)));
        peer.lines.retain(|line| {
            !(line.queue.is_empty() && line.road == Road::None)
                || line.retry.waits_until(now).is_some()
        });
        if peer.lines.is_empty() && peer.seats.is_empty() && next.is_none() {
            self.peers.remove(name);
        }
        self.next_look = self.next_look.into_iter().chain(next).min();
    }

    /// The stream stands, and carries the pair it was opened for.
    pub(super) fn up(&mut self, theirs: &Arc<str>, id: StreamId, takes_more: bool) {
        let Some(peer) = self.peers.get_mut(theirs) else { return };
        for line in peer.lines.iter_mut().filter(|line| line.road == Road::Opening(id)) {
            line.road = Road::On(id);
        }
        if let Some(seat) = peer.seats.iter_mut().find(|seat| seat.id == id) {
            (seat.is_up, seat.takes_more) = (true, takes_more);
        }
        self.touched.push(theirs.clone());
    }

    /// The connection of the stream is gone, and it is being made anew. Pairs that were added to it are asked for again.
    pub(super) fn down(&mut self, theirs: &Arc<str>, id: StreamId, first: &str) {
        let Some(peer) = self.peers.get_mut(theirs) else { return };
        if let Some(seat) = peer.seats.iter_mut().find(|seat| seat.id == id) {
            (seat.is_up, seat.takes_more, seat.stuck) = (false, false, None);
        }
        for line in peer.lines.iter_mut().filter(|line| line.road == Road::On(id)) {
            line.road = if *line.ours == *first { Road::Opening(id) } else { Road::Asking(id) };
        }
        self.touched.push(theirs.clone());
    }

    /// A stream that the peer has made takes stanzas of ours (XEP-0288). Gives the bell of a new one.
    pub(super) fn opened_back(
        &mut self,
        theirs: &str,
        ours: &str,
        known: Option<StreamId>,
    ) -> (StreamId, Arc<str>, Option<Arc<Notify>>) {
        let name = self.peers.get_key_value(theirs).map(|(name, _)| name.clone());
        let name = name.unwrap_or_else(|| Arc::from(theirs));
        let peer = self.peers.entry(name.clone()).or_default();
        let ours = peer.line(ours).ours.clone();
        self.touched.push(name.clone());
        if let Some(seat) = peer.seats.iter_mut().find(|seat| Some(seat.id) == known) {
            if !seat.backs.contains(&ours) {
                seat.backs.push(ours);
            }
            return (seat.id, name, None);
        }
        self.next_id += 1;
        let (id, bell) = (self.next_id, Arc::new(Notify::new()));
        peer.gone = None;
        peer.seats.push(Seat {
            id,
            bell: bell.clone(),
            is_up: true,
            takes_more: false,
            carried: false,
            together: usize::MAX,
            stuck: None,
            backs: vec![ours],
        });
        (id, name, Some(bell))
    }

    /// The pairs that this stream is to be asked to take, by our domain.
    pub(super) fn asked(&self, theirs: &str, id: StreamId) -> Vec<Arc<str>> {
        let lines = self.peers.get(theirs).map(|peer| peer.lines.as_slice()).unwrap_or_default();
        let asked = lines.iter().filter(|line| line.road == Road::Asking(id));
        asked.map(|line| line.ours.clone()).collect()
    }

    /// The peer has answered for a further pair. After a refusal it may be tried on a stream of its own.
    pub(super) fn answered(
        &mut self,
        theirs: &Arc<str>,
        id: StreamId,
        ours: &str,
        answer: Result<(), &Failure>,
    ) {
        let Some(peer) = self.peers.get_mut(theirs) else { return };
        let of_pair = |line: &&mut Line| line.road == Road::Asking(id) && *line.ours == *ours;
        let Some(line) = peer.lines.iter_mut().find(of_pair) else { return };
        match answer {
            Ok(()) => line.road = Road::On(id),
            Err(failure) => {
                line.road = Road::None;
                line.alone = true;
                if !failure.may_pass_alone()
                    && let Verdict::Refuse(error) | Verdict::Gone(error) = failure.verdict()
                {
                    refuse(line, &error, &mut self.bytes, &mut self.dead);
                }
            }
        }
        self.touched.push(theirs.clone());
    }

    /// The next stanzas for this stream: at most so many, and about so many bytes. Those that come too late are not among them.
    pub(super) fn take(
        &mut self,
        theirs: &str,
        id: StreamId,
        room: (usize, usize),
        now: Instant,
        timers: &Timers,
    ) -> Vec<Sent> {
        let (items_max, bytes_max) = room;
        let Some(peer) = self.peers.get_mut(theirs) else { return Vec::new() };
        let Some(seat) = peer.seats.iter_mut().find(|seat| seat.id == id) else {
            return Vec::new();
        };
        let (mut under_way, mut again) = (0, false);
        for line in peer.lines.iter_mut().filter(|line| line.is_of(id)) {
            under_way += line.queue.on_the_way();
            if line.road != Road::On(id) {
                continue;
            }
            while let Some(item) = line.queue.expire(now, timers.queue) {
                self.bytes -= item.bytes();
                self.dead.push_back(dead(item, too_late(peer.last.as_deref())));
            }
            again |= line.queue.sendings().is_some_and(|sendings| sendings > 0);
        }
        if under_way == 0 {
            (seat.together, seat.stuck) = (usize::MAX, None);
        }
        // What was on a stream that broke goes first, once what is new has arrived, and nothing new goes with it. What has not broken this one for so long does
        // not break it, and the rest goes on: the peer may acknowledge it when more has come.
        let is_due = again || seat.together != usize::MAX;
        let is_careful = is_due && seat.stuck.is_none_or(|since| now < since + patience(timers));
        if !is_careful {
            seat.together = usize::MAX;
        }
        let (mut sent, mut bytes) = (Vec::new(), 0);
        for line in peer.lines.iter_mut().filter(|line| line.road == Road::On(id)) {
            while sent.len() < items_max
                && bytes < bytes_max
                && let Some(sendings) = line.queue.sendings()
                && (sendings > 0 || !is_careful)
                && (!is_careful || seat.together != usize::MAX || under_way == 0)
                && (!is_careful || under_way < seat.together.min(together(sendings)))
                && let Some(item) = line.queue.take(now, timers.queue)
            {
                if is_careful {
                    seat.together = seat.together.min(together(sendings));
                }
                under_way += 1;
                bytes += item.bytes();
                sent.push(Sent { ours: line.ours.clone(), item });
            }
        }
        if is_due && under_way > 0 {
            seat.stuck.get_or_insert(now);
        }
        // Each pair in its turn: the first does not keep the others waiting for ever.
        if sent.len() == items_max || bytes >= bytes_max {
            peer.lines.rotate_left(1);
        }
        sent
    }

    /// Since when nothing of what was on a stream that broke arrives on this one, if something is to; and when there is to be another [`Pool::take`] because of it.
    pub(super) fn stuck(
        &self,
        theirs: &str,
        id: StreamId,
        timers: &Timers,
    ) -> Option<(Instant, Instant)> {
        let seats = self.peers.get(theirs).map(|peer| peer.seats.as_slice()).unwrap_or_default();
        let since = seats.iter().find(|seat| seat.id == id)?.stuck?;
        Some((since, since + patience(timers)))
    }

    /// These have arrived.
    pub(super) fn delivered(&mut self, theirs: &str, id: StreamId, sent: &[Sent]) {
        let Some(peer) = self.peers.get_mut(theirs) else { return };
        for Sent { ours, item } in sent {
            let line = peer.line(ours);
            line.queue.done(item.bytes());
            self.bytes -= item.bytes();
            if line.road == Road::None && !line.queue.is_on_the_way() {
                self.touched.push(Arc::from(theirs));
            }
        }
        peer.retry.succeeded();
        peer.last = None;
        let mut again = false;
        for line in peer.lines.iter_mut().filter(|line| line.road == Road::On(id)) {
            line.retry.succeeded();
            again |= line.queue.sendings().is_some_and(|sendings| sendings > 0);
        }
        if let Some(seat) = peer.seats.iter_mut().find(|seat| seat.id == id) {
            (seat.carried, seat.stuck) = (true, None);
            if again || seat.together != usize::MAX {
                // There may be room for the next.
                seat.bell.notify_one();
            }
        }
    }

    /// These were on the way and have not arrived, as far as we know; oldest first. They go again before anything newer.
    pub(super) fn back(&mut self, theirs: &str, sent: impl IntoIterator<Item = Sent>) {
        let mut by_line: Vec<(Arc<str>, Vec<Item>)> = Vec::new();
        for Sent { ours, item } in sent {
            match by_line.iter_mut().find(|(of, _)| *of == ours) {
                Some((_, items)) => items.push(item),
                None => by_line.push((ours, vec![item])),
            }
        }
        if !by_line.is_empty() {
            self.touched.extend(self.peers.get_key_value(theirs).map(|(name, _)| name.clone()));
        }
        let Some(peer) = self.peers.get_mut(theirs) else { return };
        for (ours, items) in by_line {
            for item in peer.line(&ours).queue.back(items.into_iter()) {
                self.bytes -= item.bytes();
                self.dead.push_back(dead(item, too_late(peer.last.as_deref())));
            }
        }
    }

    /// The stream is no more; what was on the way has been given back. `chance`: any random number.
    pub(super) fn ended(
        &mut self,
        theirs: &Arc<str>,
        id: StreamId,
        failure: &Failure,
        now: Instant,
        timers: &Timers,
        chance: u32,
    ) {
        let Some(peer) = self.peers.get_mut(theirs) else { return };
        let Some(at) = peer.seats.iter().position(|seat| seat.id == id) else { return };
        let seat = peer.seats.remove(at);
        self.streams -= usize::from(seat.backs.is_empty());
        let verdict = failure.verdict();
        if *failure != Failure::Done {
            peer.last = Some(failure.to_string());
        }
        if let Verdict::Gone(error) = &verdict {
            peer.gone = Some((now + timers.retry_first, error.clone()));
        }
        if verdict == Verdict::Retry && *failure != Failure::Done && !seat.carried {
            peer.retry.failed(now, timers, chance);
        }
        for line in &mut peer.lines {
            let is_of_it = line.is_of(id);
            if is_of_it {
                line.road = Road::None;
            }
            match &verdict {
                // There, whatever this attempt has found.
                Verdict::Gone(_)
                    if peer.seats.iter().any(|seat| seat.is_up && line.is_of(seat.id)) => {}
                // The domain is not there, or not for us: that is true for all pairs.
                Verdict::Gone(error) => refuse(line, error, &mut self.bytes, &mut self.dead),
                Verdict::Refuse(error) if is_of_it || *failure == Failure::Forbidden => {
                    refuse(line, error, &mut self.bytes, &mut self.dead);
                    line.retry.failed(now, timers, chance);
                }
                _ => {}
            }
        }
        self.touched.push(theirs.clone());
    }

    /// Whether something waits for that stream, or is on the way on it.
    pub(super) fn has_work(&self, theirs: &str, id: StreamId) -> bool {
        let lines = self.peers.get(theirs).map(|peer| peer.lines.as_slice()).unwrap_or_default();
        lines.iter().any(|line| line.is_of(id) && !line.queue.is_empty())
    }

    /// So much has come on a stream to that domain. How long until more may be read from it, there or on another.
    pub(super) fn pay(&mut self, theirs: &str, bytes: usize, rate: u64, now: Instant) -> Duration {
        let Some(peer) = self.peers.get_mut(theirs) else { return Duration::ZERO };
        peer.pace.get_or_insert_with(|| Bucket::new(now)).take(bytes, rate, now)
    }

    /// Nothing new is opened any more.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Rings at every stream.
    pub(super) fn ring_all(&self) {
        self.peers.values().flat_map(|peer| &peer.seats).for_each(|seat| seat.bell.notify_one());
    }

    /// Whether a stream still has something to do.
    pub(super) fn is_busy(&self) -> bool {
        let has_work = |line: &Line| line.road != Road::None && !line.queue.is_empty();
        self.peers.values().any(|peer| peer.lines.iter().any(has_work))
    }

    /// Streams there are.
    pub(super) fn streams(&self) -> usize {
        self.streams
    }

    /// Everything that still waits, of each pair in its order. Called once all streams are gone.
    pub(super) fn drain(&mut self) -> Vec<(Ticket, Stanza)> {
        let lines = self.peers.drain().flat_map(|(_, peer)| peer.lines);
        let mut left: Vec<(Ticket, Stanza)> = lines
            .flat_map(|mut line| std::iter::from_fn(move || line.queue.pop()))
            .map(|item| (item.ticket, item.stanza))
            .collect();
        left.sort_by_key(|(ticket, _)| *ticket);
        self.bytes = 0;
        left
    }

    /// What has come to a bad end since the last time.
    pub(super) fn dead(&mut self) -> VecDeque<Dead> {
        std::mem::take(&mut self.dead)
    }

    /// Whether the keeper has something to do.
    pub(super) fn wants_keeper(&self) -> bool {
        !self.dead.is_empty() || !self.touched.is_empty()
    }

    /// Bytes that wait or are on the way, of all pairs.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All pairs, for people.
    pub(super) fn status(&self) -> Vec<StreamStatus> {
        let mut all = Vec::new();
        for (theirs, peer) in &self.peers {
            all.extend(peer.lines.iter().map(|line| StreamStatus {
                ours: line.ours.to_string(),
                theirs: theirs.to_string(),
                is_up: matches!(line.road, Road::On(_)),
                waiting: line.queue.waiting(),
                on_the_way: line.queue.len() - line.queue.waiting(),
                failures: peer.retry.failures().max(line.retry.failures()),
                last_failure: peer.last.clone(),
            }));
        }
        all.sort_by(|a, b| (&a.theirs, &a.ours).cmp(&(&b.theirs, &b.ours)));
        all
    }
}
