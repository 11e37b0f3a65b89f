//! What one node does: the router's and geo's part of `node`, as short as it can be said, and the offline home.

use std::collections::BTreeSet;

use global_distrib::{Choice, Outcome, Place, Refusal, RouteEntry, Row, Shows, Taken};
use replication::route_log::Tail;
use xmpp::jid::{BareJid, FullJid};

use super::road::{Road, bare, choose, ix, name, user_of};
use super::world::{
    ACT_UNTIL_MS, Answer, Asked, Delivery, Event, Frame, Note, Request, Seat, Sent, World,
};

/// What a session shows that has just become available.
const HERE: Shows = Shows { priority: 0, available: true, hidden: false };

impl World {
    fn road(&self, me: usize) -> Road<'_> {
        Road { me, state: &self.state, table: &self.tables[me] }
    }

    fn now(&self) -> u64 {
        self.state.borrow().now
    }

    /// Sends the probes that marks made due.
    fn finish(&self, me: usize) {
        let mut state = self.state.borrow_mut();
        for (to, number) in state.nodes[me].probes.due() {
            let to = to[1..].parse().expect("made by name()");
            state.send(me, to, Frame::Probe(number));
        }
    }

    pub(crate) fn send_note(&self, me: usize, user: usize, serial: u32) {
        let order = {
            let mut state = self.state.borrow_mut();
            state.nodes[me].accepted += 1;
            state.nodes[me].accepted
        };
        let note = Note { from: me, to: user, serial, order };
        let outcome = self.tables[me].dispatch(&bare(user), note, self.now(), &self.road(me));
        self.state.borrow_mut().tell(|| format!("s{me} sends {serial} to user{user}: {outcome:?}"));
        self.settle(me, user, vec![outcome]);
    }

    fn settle(&self, me: usize, user: usize, outcomes: Vec<Outcome<Note>>) {
        self.finish(me);
        for outcome in outcomes {
            match outcome {
                Outcome::Sent | Outcome::Held => {}
                Outcome::File(batch) => self.ask(me, user, Asked::Filing(user, batch)),
                other => self.state.borrow_mut().break_promise(format!("bounced: {other:?}")),
            }
        }
    }

    fn reopen(&self, me: usize, who: &BareJid) {
        let outcomes = self.tables[me].reopen(who, self.now(), &self.road(me));
        self.settle(me, user_of(who), outcomes);
    }

    fn home_of(&self, user: usize) -> usize {
        user % self.tables.len()
    }

    fn ask(&self, me: usize, user: usize, asked: Asked) {
        self.ask_with(me, user, asked, None);
    }

    fn ask_with(&self, me: usize, user: usize, asked: Asked, number: Option<u64>) {
        let home = self.home_of(user);
        let mut state = self.state.borrow_mut();
        let request = match &asked {
            Asked::Filing(user, batch) => Request::File(*user, batch.clone()),
            Asked::HandOut(_) => Request::Fetch(user, number),
            Asked::Nothing => Request::Drop(user, number.expect("what to drop")),
        };
        state.tell(|| format!("n{me} asks n{home}: {request:?}"));
        state.nodes[me].numbers += 1;
        let id = state.nodes[me].numbers;
        state.nodes[me].asked.insert(id, asked);
        let frame = Frame::Call(id, request);
        if home == me {
            let late = state.chance(3);
            state.at(late, Event::Local(me, frame));
        } else {
            state.send(me, home, frame);
        }
    }

    fn serve(&self, me: usize, request: Request) -> Answer {
        match request {
            Request::File(user, notes) => {
                let connected = self.tables[me]
                    .read(bare(user).as_str(), |rows| rows.iter().any(|row| row.available))
                    .unwrap_or(false);
                if connected {
                    return Answer::Elsewhere;
                }
                let mut state = self.state.borrow_mut();
                let now = state.now;
                for note in notes {
                    let id = state.nodes[me].clock.now(now).0;
                    state.nodes[me].store.entry(user).or_default().insert(id, note);
                }
                Answer::Filed
            }
            Request::Fetch(user, after) => {
                let state = self.state.borrow();
                let store = state.nodes[me].store.get(&user);
                let kept = store
                    .into_iter()
                    .flatten()
                    .filter(|(id, _)| after.is_none_or(|after| **id > after));
                Answer::Messages(kept.take(5).map(|(id, note)| (*id, note.clone())).collect())
            }
            Request::Drop(user, upto) => {
                let mut state = self.state.borrow_mut();
                let store = state.nodes[me].store.entry(user).or_default();
                store.retain(|id, _| *id > upto);
                Answer::Filed
            }
        }
    }

    fn answered(&self, me: usize, id: u64, answer: Answer) {
        let asked = self.state.borrow_mut().nodes[me].asked.remove(&id).expect("asked once");
        match (asked, answer) {
            (Asked::Filing(user, batch), answer) => {
                let back = if matches!(answer, Answer::Elsewhere) { batch } else { vec![] };
                let outcomes = self.tables[me].filed(&bare(user), back, self.now(), &self.road(me));
                self.settle(me, user, outcomes);
            }
            (Asked::HandOut(seat_id), Answer::Messages(messages)) => {
                let mut state = self.state.borrow_mut();
                let user = state.devices[state.seats[&seat_id].device].user;
                let seat = state.seats.get_mut(&seat_id).expect("a seat");
                if seat.ended {
                    return;
                }
                let Some((last, _)) = messages.last() else {
                    seat.catching_up = false;
                    let later = std::mem::take(&mut seat.later);
                    seat.mailbox.extend(later);
                    state.at(0, Event::Read(seat_id));
                    return;
                };
                let last = *last;
                for (id, note) in messages {
                    state.filed(&note);
                    let delivery = Delivery { note, sole: true, via: None, stored: Some(id) };
                    state.seats.get_mut(&seat_id).expect("a seat").mailbox.push(delivery);
                }
                state.at(0, Event::Read(seat_id));
                drop(state);
                self.ask_with(me, user, Asked::HandOut(seat_id), Some(last));
            }
            _ => {}
        }
    }

    pub(crate) fn sign_in(&self, device: usize, me: usize) {
        let (full, generation, seat_id, user) = {
            let mut state = self.state.borrow_mut();
            let now = state.now;
            let generation = state.nodes[me].clock.now(now);
            let Some(next) = state.seats.len().checked_add(1) else { return };
            let seat_id = u32::try_from(next).expect("few seats");
            let (user, resource) = (state.devices[device].user, state.devices[device].resource);
            let full = bare(user).with_resource(&format!("d{resource}")).expect("a JID");
            let catching_up = state.rules.catch_up;
            let seat = Seat {
                node: me,
                device,
                full: full.clone(),
                generation,
                mailbox: vec![],
                later: vec![],
                catching_up,
                alive: true,
                ended: false,
            };
            state.seats.insert(seat_id, seat);
            (full, generation, seat_id, user)
        };
        let row = Row::new(full.clone(), Place::Here(seat_id), generation);
        let bound = self.tables[me].bind(row, |_| true);
        if let Some(older) = bound.superseded {
            self.conflict(older);
        }
        if bound.lost {
            self.state.borrow_mut().seats.get_mut(&seat_id).expect("a seat").ended = true;
            return;
        }
        {
            let mut state = self.state.borrow_mut();
            state.tell(|| format!("{full} signs in at n{me} (seat {seat_id})"));
            state.devices[device].seat = Some(seat_id);
        }
        let entry = RouteEntry::Bind {
            full: full.clone(),
            generation,
            priority: 0,
            available: false,
            hidden: false,
        };
        self.append(me, entry);
        let (_, reopen) = self.tables[me].update(&full, generation, HERE);
        self.append(
            me,
            RouteEntry::Update { full, generation, priority: 0, available: true, hidden: false },
        );
        self.ask(me, user, Asked::HandOut(seat_id));
        if reopen {
            self.reopen(me, &bare(user));
        }
    }

    fn conflict(&self, seat: u32) {
        let mut state = self.state.borrow_mut();
        state.seats.get_mut(&seat).expect("a seat").alive = false;
        let device = state.seats[&seat].device;
        if state.devices[device].seat == Some(seat) {
            state.devices[device].seat = None;
        }
        let late = state.chance(5);
        state.at(late, Event::End(seat));
    }

    /// The client reads all, then leaves.
    pub(crate) fn sign_out(&self, device: usize, seat: u32) {
        if self.state.borrow().seats[&seat].catching_up {
            return;
        }
        self.read(seat);
        self.state.borrow_mut().devices[device].seat = None;
        self.over(seat);
    }

    pub(crate) fn read(&self, seat_id: u32) {
        let mut state = self.state.borrow_mut();
        let seat = state.seats.get_mut(&seat_id).expect("a seat");
        if !seat.alive || seat.ended {
            return;
        }
        let (device, node) = (seat.device, seat.node);
        let mail = std::mem::take(&mut seat.mailbox);
        let mut drop_upto = None;
        for delivery in mail {
            state.got(device, &delivery);
            drop_upto = drop_upto.max(delivery.stored);
        }
        let user = state.devices[device].user;
        drop(state);
        if drop_upto.is_some() {
            self.ask_with(node, user, Asked::Nothing, drop_upto);
        }
    }

    /// The session ends: what its client has not read goes back.
    pub(crate) fn over(&self, seat_id: u32) {
        let (me, full, generation, left) = {
            let mut state = self.state.borrow_mut();
            let seat = state.seats.get_mut(&seat_id).expect("a seat");
            if std::mem::replace(&mut seat.ended, true) {
                return;
            }
            let mut left = std::mem::take(&mut seat.mailbox);
            left.append(&mut seat.later);
            let (me, full, generation) = (seat.node, seat.full.clone(), seat.generation);
            state.tell(|| format!("{full} is gone from n{me} (seat {seat_id}), leaves {left:?}"));
            (me, full, generation, left)
        };
        let who = full.bare();
        let unbound =
            self.tables[me].unbind_here(&full, generation, self.now(), &self.road(me), || {
                let mut back = Vec::new();
                // What was filed still is; copies are no loss.
                for delivery in left.into_iter().filter(|one| one.stored.is_none() && one.sole) {
                    match delivery.via {
                        Some(via) if self.state.borrow().rules.give_back => {
                            self.tables[me].give_back(ix(via), &who, |number| {
                                self.state.borrow_mut().send(
                                    me,
                                    via,
                                    Frame::Return(delivery.note, number),
                                );
                            });
                        }
                        _ => back.push(delivery.note),
                    }
                }
                back
            });
        self.append(me, RouteEntry::Unbind { full, generation });
        self.finish(me);
        if unbound.reopen {
            self.reopen(me, &who);
        }
    }

    fn append(&self, me: usize, entry: RouteEntry) {
        let mut state = self.state.borrow_mut();
        state.nodes[me].log.append(entry);
        for to in (0..self.tables.len()).filter(|to| *to != me) {
            state.wake(me, to);
        }
    }

    pub(crate) fn write(&self, me: usize, to: usize) {
        let mut state = self.state.borrow_mut();
        if let Some(wait) = state.is_cut(me, to) {
            state.at(wait, Event::Write(me, to));
            return;
        }
        state.writes(me, to);
        let mut front = Vec::new();
        loop {
            let cursor = state.links[&(me, to)].cursor;
            let tail = cursor.map(|cursor| state.nodes[me].log.tail(cursor, 8));
            match tail {
                Some(Tail::Batch { entries, .. }) if entries.is_empty() => break,
                Some(Tail::Batch { first, entries }) => {
                    let count = entries.len() as u64;
                    state.links.get_mut(&(me, to)).expect("a link").cursor =
                        Some(first + count - 1);
                    front.push(Frame::Route(entries));
                }
                Some(Tail::Trimmed { .. }) | None => {
                    let head = state.nodes[me].log.head();
                    let mut entries = vec![RouteEntry::SnapshotBegin];
                    self.tables[me].for_each(|row| {
                        if row.here().is_some() {
                            let Row { full, generation, priority, available, hidden, .. } =
                                row.clone();
                            entries.push(RouteEntry::Bind {
                                full,
                                generation,
                                priority,
                                available,
                                hidden,
                            });
                        }
                    });
                    entries.push(RouteEntry::SnapshotEnd);
                    front.push(Frame::Route(entries));
                    state.links.get_mut(&(me, to)).expect("a link").cursor = Some(head);
                }
            }
        }
        state.write(me, to, front);
    }

    pub(crate) fn acked(&self, me: usize, to: usize, number: u64) {
        let link_acked = {
            let mut state = self.state.borrow_mut();
            let link = state.links.get_mut(&(me, to)).expect("a link");
            link.acked = link.acked.max(number);
            link.acked
        };
        for who in self.tables[me].acked(ix(to), link_acked) {
            self.reopen(me, &who);
        }
    }

    /// Once a second, as long as something waits.
    pub(crate) fn tick(&self, me: usize) {
        let waits = self.tables[me].parked().0 > 0;
        if waits || self.now() < ACT_UNTIL_MS {
            self.state.borrow_mut().at(1_000, Event::Tick(me));
        }
        for who in self.tables[me].due(self.now()) {
            self.reopen(me, &who);
        }
    }

    /// A frame from `from` has arrived.
    pub(crate) fn take(&self, me: usize, from: usize, frame: Frame) {
        match frame {
            Frame::Route(entries) => {
                entries.into_iter().for_each(|entry| self.apply(me, from, entry))
            }
            Frame::Stanza(sent) => self.stanza(me, from, sent),
            Frame::Return(note, number) => {
                let user = note.to;
                self.state.borrow_mut().tell(|| format!("n{me} has {note:?} back from n{from}"));
                let road = self.road(me);
                let refusal = Refusal { by: ix(from), number };
                let outcome =
                    self.tables[me].returned(&bare(user), note, refusal, self.now(), &road);
                self.settle(me, user, vec![outcome]);
            }
            Frame::Flight { id, refusal } => self.flight(me, from, id, refusal),
            Frame::Probe(number) => {
                self.state.borrow_mut().send(me, from, Frame::Echo(number));
            }
            Frame::Echo(number) => {
                self.state.borrow_mut().nodes[me].probes.echoed(name(from), number);
                let table = &self.tables[me];
                let mut waiting: BTreeSet<BareJid> =
                    table.echoed(name(from), number).into_iter().collect();
                if self.state.borrow().rules.settle_by_echo {
                    waiting.extend(table.acked(ix(from), number));
                }
                for who in waiting {
                    self.reopen(me, &who);
                }
                self.finish(me);
            }
            Frame::Call(id, request) => {
                let answer = self.serve(me, request);
                let mut state = self.state.borrow_mut();
                if from == me {
                    state.at(1, Event::Local(me, Frame::Reply(id, answer)));
                } else {
                    state.send(me, from, Frame::Reply(id, answer));
                }
            }
            Frame::Reply(id, answer) => self.answered(me, id, answer),
        }
    }

    fn stanza(&self, me: usize, from: usize, sent: Sent) {
        let Sent { note, copy, flight, seen, newest } = sent;
        let who = bare(note.to);
        let road = self.road(me);
        let table = &self.tables[me];
        let sole = !copy && flight == 0;
        let deliver = |rows: &[Row<u32>]| {
            let here: Vec<Row<u32>> = rows
                .iter()
                .filter(|row| row.here().is_some() && row.generation <= newest)
                .cloned()
                .collect();
            match choose(&here) {
                Choice::Send { here, .. } => road.deliver(&note, &here, sole, Some(from)),
                _ => false,
            }
        };
        if copy {
            table.read(who.as_str(), deliver);
            return;
        }
        let end = |taken, number| {
            let mut state = self.state.borrow_mut();
            if taken != Taken::Yes {
                state.tell(|| format!("n{me} refuses {note:?} from n{from}: {taken:?}"));
            }
            match (flight, taken) {
                (0, Taken::Yes) => {}
                (0, _) => {
                    state.send(me, from, Frame::Return(note.clone(), number));
                }
                (id, taken) => {
                    let refusal = (taken != Taken::Yes).then_some(number);
                    state.send(me, from, Frame::Flight { id, refusal });
                }
            }
        };
        if self.state.borrow().rules.admit {
            if table.take_in(ix(from), &who, seen, deliver, end) == Taken::Yes {
                end(Taken::Yes, 0);
            }
        } else {
            let taken = table.read(who.as_str(), deliver).unwrap_or(false);
            end(if taken { Taken::Yes } else { Taken::Nobody }, 0);
        }
    }

    fn flight(&self, me: usize, from: usize, id: u64, refusal: Option<u64>) {
        let (note, over, taken) = {
            let mut state = self.state.borrow_mut();
            let flight = state.nodes[me].flights.get_mut(&id).expect("an open flight");
            flight.1 -= 1;
            flight.2 |= refusal.is_none();
            let (note, pending, taken) = flight.clone();
            if pending == 0 {
                state.nodes[me].flights.remove(&id);
            }
            (note, pending == 0, taken)
        };
        let user = note.to;
        let Some(number) = refusal else { return };
        let refusal = Refusal { by: ix(from), number };
        if over && !taken {
            let outcome =
                self.tables[me].returned(&bare(user), note, refusal, self.now(), &self.road(me));
            self.settle(me, user, vec![outcome]);
        } else {
            self.tables[me].refused(&bare(user), refusal);
        }
    }

    fn apply(&self, me: usize, from: usize, entry: RouteEntry) {
        let table = &self.tables[me];
        let reopen = |full: &FullJid| self.reopen(me, &full.bare());
        match entry {
            RouteEntry::SnapshotBegin => {
                self.link(from, me, |named| *named = Some(BTreeSet::new()));
            }
            RouteEntry::SnapshotEnd => {
                let named = self.link(from, me, Option::take).unwrap_or_default();
                let (_, waiting) = table.told_all(ix(from), self.now(), &self.road(me), |row| {
                    !named.contains(&row.full)
                });
                waiting.iter().for_each(|who| self.reopen(me, who));
                self.finish(me);
            }
            RouteEntry::Bind { full, generation, priority, available, hidden } => {
                self.link(from, me, |named| named.as_mut().map(|named| named.insert(full.clone())));
                {
                    let mut state = self.state.borrow_mut();
                    let now = state.now;
                    state.nodes[me].clock.observe(generation, now);
                    state.tell(|| format!("n{me} learns that {full} is at n{from}"));
                }
                let row = Row::new(full.clone(), Place::There(ix(from)), generation);
                let row = Row { priority, available, hidden, ..row };
                let bound = table.bind(row, |known| match known.there() {
                    Some(known) => ix(from) > known,
                    None => from > me,
                });
                if let Some(seat) = bound.superseded {
                    self.conflict(seat);
                }
                if bound.reopen {
                    reopen(&full);
                }
            }
            RouteEntry::Update { full, generation, priority, available, hidden } => {
                let shows = Shows { priority, available, hidden };
                if table.update_there(ix(from), &full, generation, shows).1 {
                    reopen(&full);
                }
            }
            RouteEntry::Unbind { full, generation }
            | RouteEntry::Passed { full, generation, .. } => {
                self.state.borrow_mut().tell(|| format!("n{me} learns that {full} left n{from}"));
                let road = self.road(me);
                if table.unbind_there(ix(from), &full, generation, self.now(), &road) {
                    reopen(&full);
                }
                self.finish(me);
            }
        }
    }

    fn link<R>(
        &self,
        from: usize,
        to: usize,
        act: impl FnOnce(&mut Option<BTreeSet<FullJid>>) -> R,
    ) -> R {
        act(&mut self.state.borrow_mut().links.get_mut(&(from, to)).expect("a link").snapshot)
    }
}
