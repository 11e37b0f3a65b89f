//! Time, links, chance, and the checks. Drives `node`.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use global_distrib::{Directory, ParkLimits, RouteEntry};
use replication::Hlc;
use replication::clock::HybridClock;
use replication::route_log::Log;
use replication::watermark::Probes;
use xmpp::jid::FullJid;

/// Which rules of the protocol are kept. All of them, except to show what each is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Settled means: echoed behind what came back. Otherwise: acknowledged by the link, which overtakes what comes back.
    pub(crate) settle_by_echo: bool,
    /// A node that refused one refuses what follows. Otherwise it takes whatever it can.
    pub(crate) admit: bool,
    /// What a session leaves goes back to where it entered. Otherwise the session's node routes it.
    pub(crate) give_back: bool,
    /// A session hands on what is new after it has fetched what was filed. Otherwise at once.
    pub(crate) catch_up: bool,
    /// A stanza is only for sessions its sender knew of. Otherwise also for those bound since.
    pub(crate) newest: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { settle_by_echo: true, admit: true, give_back: true, catch_up: true, newest: true }
    }
}

impl Rules {
    pub(crate) fn each_without_one() -> [(&'static str, Rules); 5] {
        let all = Rules::default();
        [
            ("settling by echo", Rules { settle_by_echo: false, ..all }),
            ("refusing what follows a refused one", Rules { admit: false, ..all }),
            ("giving back where it entered", Rules { give_back: false, ..all }),
            ("naming the newest session", Rules { newest: false, ..all }),
            ("catching up first", Rules { catch_up: false, ..all }),
        ]
    }
}

/// A message. Bare JIDs only: `to` is a user.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) serial: u32,
    /// Place among what the node accepted where it entered.
    pub(crate) order: u64,
}

/// A stanza on a link, with what its frame's head says.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) note: Note,
    pub(crate) copy: bool,
    pub(crate) flight: u64,
    pub(crate) seen: u64,
    pub(crate) newest: Hlc,
}

#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Route(Vec<RouteEntry>),
    Stanza(Sent),
    Return(Note, u64),
    Flight { id: u64, refusal: Option<u64> },
    Probe(u64),
    Echo(u64),
    Call(u64, Request),
    Reply(u64, Answer),
}

#[derive(Clone, Debug)]
pub(crate) enum Request {
    File(usize, Vec<Note>),
    Fetch(usize, Option<u64>),
    Drop(usize, u64),
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Filed,
    Elsewhere,
    Messages(Vec<(u64, Note)>),
}

/// What a node asked its home for, and what to do with the answer.
#[derive(Debug)]
pub(crate) enum Asked {
    Filing(usize, Vec<Note>),
    HandOut(u32),
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) note: Note,
    /// Nobody else has it.
    pub(crate) sole: bool,
    /// The node it came from, if not this.
    pub(crate) via: Option<usize>,
    /// Its number in the home's store, if it was filed.
    pub(crate) stored: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) node: usize,
    pub(crate) device: usize,
    pub(crate) full: FullJid,
    pub(crate) generation: Hlc,
    pub(crate) mailbox: Vec<Delivery>,
    /// What waits until the filed ones are there.
    pub(crate) later: Vec<Delivery>,
    pub(crate) catching_up: bool,
    /// The client is at the other end.
    pub(crate) alive: bool,
    pub(crate) ended: bool,
}

/// One direction between two nodes.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) queue: Vec<Frame>,
    writing: bool,
    wire: VecDeque<(u64, Frame)>,
    sent: u64,
    pub(crate) acked: u64,
    last_arrival: u64,
    cut_until: u64,
    delay: u64,
    /// Route log of the sender: the last entry written; `None`: all rows are due.
    pub(crate) cursor: Option<u64>,
    /// At the receiver: rows named by a snapshot that is arriving.
    pub(crate) snapshot: Option<BTreeSet<FullJid>>,
}

pub(crate) struct NodeState {
    pub(crate) probes: Probes,
    pub(crate) log: Log<RouteEntry>,
    pub(crate) clock: HybridClock,
    pub(crate) accepted: u64,
    pub(crate) flights: BTreeMap<u64, (Note, usize, bool)>,
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) store: BTreeMap<usize, BTreeMap<u64, Note>>,
    pub(crate) numbers: u64,
}

#[derive(Debug)]
pub(crate) enum Event {
    Act,
    Write(usize, usize),
    Arrive(usize, usize),
    Acked(usize, usize, u64),
    Read(u32),
    End(u32),
    Local(usize, Frame),
    Tick(usize),
}

/// One of a user's clients.
pub(crate) struct Device {
    pub(crate) user: usize,
    pub(crate) resource: usize,
    pub(crate) seat: Option<u32>,
    got: BTreeSet<(usize, u32)>,
}

pub(crate) struct State {
    pub(crate) now: u64,
    pub(crate) rules: Rules,
    random: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, Event>,
    ties: u64,
    pub(crate) links: BTreeMap<(usize, usize), Link>,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) seats: BTreeMap<u32, Seat>,
    pub(crate) devices: Vec<Device>,
    wanderers: usize,
    serials: BTreeMap<(usize, usize), u32>,
    first: BTreeMap<(usize, usize), u32>,
    /// Accepted, and not yet with any session.
    waiting: BTreeSet<(usize, usize, u32)>,
    /// Accepted, and not yet read.
    outstanding: BTreeSet<(usize, usize, u32)>,
    pub(crate) broken: Option<String>,
    told: Option<Vec<String>>,
    acting: bool,
}

pub(crate) struct World {
    pub(crate) tables: Vec<Directory<u32, Note>>,
    pub(crate) state: RefCell<State>,
}

/// How long users and senders are busy.
pub(crate) const ACT_UNTIL_MS: u64 = 3_000;

impl State {
    pub(crate) fn chance(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below.max(1)
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(format!("{:>6} {}", self.now, line()));
        }
    }

    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.ties += 1;
        self.events.push(Reverse((self.now + delay, self.ties)));
        self.what.insert(self.ties, event);
    }

    pub(crate) fn break_promise(&mut self, how: String) {
        self.tell(|| format!("BROKEN: {how}"));
        self.broken.get_or_insert(how);
    }

    /// Queues a frame; answers its number.
    pub(crate) fn send(&mut self, from: usize, to: usize, frame: Frame) -> u64 {
        let link = self.links.get_mut(&(from, to)).expect("a link");
        link.queue.push(frame);
        link.sent += 1;
        let number = link.sent;
        self.wake(from, to);
        number
    }

    /// The writer will run.
    pub(crate) fn wake(&mut self, from: usize, to: usize) {
        let late = self.chance(4);
        let link = self.links.get_mut(&(from, to)).expect("a link");
        if !std::mem::replace(&mut link.writing, true) {
            self.at(late, Event::Write(from, to));
        }
    }

    /// Puts frames on the wire, `front` before what was queued.
    pub(crate) fn write(&mut self, from: usize, to: usize, front: Vec<Frame>) {
        let jitter = self.chance(6);
        let now = self.now;
        let link = self.links.get_mut(&(from, to)).expect("a link");
        let mut at = (now + link.delay + jitter).max(link.last_arrival);
        let numbered = link.sent - link.queue.len() as u64;
        let main = std::mem::take(&mut link.queue).into_iter().zip(numbered + 1..);
        let frames: Vec<_> = front
            .into_iter()
            .map(|frame| (0, frame))
            .chain(main.map(|(frame, n)| (n, frame)))
            .collect();
        for numbered in frames {
            at += self.chance(3) / 2;
            self.links.get_mut(&(from, to)).expect("a link").wire.push_back(numbered);
            self.at(at - now, Event::Arrive(from, to));
        }
        self.links.get_mut(&(from, to)).expect("a link").last_arrival = at;
    }

    /// When the writer is to run again, if it may not now.
    pub(crate) fn is_cut(&mut self, from: usize, to: usize) -> Option<u64> {
        let link = self.links.get_mut(&(from, to)).expect("a link");
        (self.now < link.cut_until).then(|| link.cut_until - self.now)
    }

    pub(crate) fn writes(&mut self, from: usize, to: usize) {
        self.links.get_mut(&(from, to)).expect("a link").writing = false;
    }

    fn arrives(&mut self, from: usize, to: usize) -> Option<Frame> {
        if let Some(wait) = self.is_cut(from, to) {
            self.at(wait, Event::Arrive(from, to));
            return None;
        }
        let delay = self.links[&(to, from)].delay;
        let cut = self.is_cut(to, from).unwrap_or(0);
        let link = self.links.get_mut(&(from, to)).expect("a link");
        let (number, frame) = link.wire.pop_front()?;
        if number > 0 && !self.rules.settle_by_echo {
            self.at(delay.max(cut), Event::Acked(from, to, number));
        }
        Some(frame)
    }

    /// A session of the addressee has it, to hand on. For the user with several clients, who may read at different times: their
    /// sessions hand on all they have, so this is the order in which the account got it.
    pub(crate) fn placed(&mut self, note: &Note) {
        let Note { from, to, serial, .. } = *note;
        if self.waiting.remove(&(from, to, serial)) && to == self.wanderers {
            let last = self.first.insert((from, to), serial).unwrap_or(0);
            if last > serial {
                self.break_promise(format!("{serial} from s{from} found user{to} after {last}"));
            }
        }
    }

    /// It was filed, and a session has fetched it; it goes before what that session was given meanwhile.
    pub(crate) fn filed(&mut self, note: &Note) {
        self.waiting.remove(&(note.from, note.to, note.serial));
    }

    /// A client has it on its screen.
    pub(crate) fn got(&mut self, device: usize, delivery: &Delivery) {
        let Note { from, to, serial, .. } = delivery.note;
        self.tell(|| format!("user{to}/d{device} reads {serial} from s{from}"));
        self.outstanding.remove(&(from, to, serial));
        let got = &mut self.devices[device].got;
        let last = got.range((from, 0)..=(from, u32::MAX)).next_back().map_or(0, |(_, last)| *last);
        if got.insert((from, serial)) {
            if last > serial {
                self.break_promise(format!(
                    "user{to}/d{device} got {serial} from s{from} after {last}"
                ));
            }
        } else if delivery.stored.is_none() {
            // What was filed is dropped by a message to the home; a session elsewhere may fetch it once more before that.
            self.break_promise(format!("user{to}/d{device} got {serial} from s{from} twice"));
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules, told: bool) -> Self {
        let mut state = State {
            now: 0,
            rules,
            random: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            ties: 0,
            links: BTreeMap::new(),
            nodes: Vec::new(),
            seats: BTreeMap::new(),
            devices: Vec::new(),
            wanderers: 0,
            serials: BTreeMap::new(),
            first: BTreeMap::new(),
            waiting: BTreeSet::new(),
            outstanding: BTreeSet::new(),
            broken: None,
            told: told.then(Vec::new),
            acting: true,
        };
        (0..8).for_each(|_| {
            state.chance(2);
        });
        let count = 3 + state.chance(3) as usize;
        for _ in 0..count {
            let ring = if state.chance(4) == 0 { 3 } else { 1_000 };
            state.nodes.push(NodeState {
                probes: Probes::default(),
                log: Log::new(ring),
                clock: HybridClock::new(),
                accepted: 0,
                flights: BTreeMap::new(),
                asked: BTreeMap::new(),
                store: BTreeMap::new(),
                numbers: 0,
            });
        }
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let delay = 1 + state.chance(80);
                state.links.insert((from, to), Link { delay, ..Link::default() });
            }
        }
        // Users with one client that moves as it likes, and users with several that say goodbye.
        state.wanderers = 1 + state.chance(2) as usize;
        let mut add = |user, resource| {
            state.devices.push(Device { user, resource, seat: None, got: BTreeSet::new() });
        };
        (0..state.wanderers).for_each(|user| add(user, 0));
        for resource in 0..3 {
            add(state.wanderers, resource);
        }
        state.at(0, Event::Act);
        (0..count).for_each(|node| state.at(1_000, Event::Tick(node)));
        let limits =
            ParkLimits { bytes_max: 1 << 30, per_addressee_max: 1 << 20, hold_ms: 600_000 };
        let tables = (0..count).map(|_| Directory::new(limits)).collect();
        World { tables, state: RefCell::new(state) }
    }

    pub(crate) fn story(&self) -> String {
        let state = self.state.borrow();
        state.told.as_ref().map(|lines| lines.join("\n") + "\n").unwrap_or_default()
    }

    /// Plays to the end; `Err` tells which promise is broken.
    pub(crate) fn play(&mut self) -> Result<(), String> {
        self.run()?;
        // Everybody comes home and reads what was filed.
        (0..self.tables.len())
            .for_each(|node| self.state.borrow_mut().at(1_000, Event::Tick(node)));
        self.state.borrow_mut().acting = false;
        let devices = self.state.borrow().devices.len();
        for device in 0..devices {
            if self.state.borrow().devices[device].seat.is_none() {
                let node = self.state.borrow_mut().chance(self.tables.len() as u64) as usize;
                self.sign_in(device, node);
            }
        }
        self.run()?;
        self.check()
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..200_000 {
            let event = {
                let mut state = self.state.borrow_mut();
                let Some(Reverse((at, tie))) = state.events.pop() else { return Ok(()) };
                state.now = state.now.max(at);
                state.what.remove(&tie).expect("every event is kept")
            };
            match event {
                Event::Act => self.act(),
                Event::Write(from, to) => self.write(from, to),
                Event::Arrive(from, to) => {
                    let frame = self.state.borrow_mut().arrives(from, to);
                    if let Some(frame) = frame {
                        self.take(to, from, frame);
                    }
                }
                Event::Acked(from, to, number) => self.acked(from, to, number),
                Event::Read(seat) => self.read(seat),
                Event::End(seat) => self.over(seat),
                Event::Local(node, frame) => self.take(node, node, frame),
                Event::Tick(node) => self.tick(node),
            }
            if let Some(broken) = &self.state.borrow().broken {
                return Err(broken.clone());
            }
        }
        Err("it never comes to rest".to_owned())
    }

    fn act(&mut self) {
        let (what, nodes, now) = {
            let mut state = self.state.borrow_mut();
            (state.chance(100), self.tables.len() as u64, state.now)
        };
        if now < ACT_UNTIL_MS {
            let pause = if self.state.borrow_mut().chance(4) == 0 { 60 } else { 6 };
            let mut state = self.state.borrow_mut();
            let pause = state.chance(pause);
            state.at(pause, Event::Act);
        }
        match what {
            0..75 => {
                let (sender, user, burst) = {
                    let mut state = self.state.borrow_mut();
                    let users = state.wanderers as u64 + 1;
                    (
                        state.chance(nodes) as usize,
                        state.chance(users) as usize,
                        1 + state.chance(3),
                    )
                };
                for _ in 0..burst {
                    let serial = {
                        let mut state = self.state.borrow_mut();
                        let serial = state.serials.entry((sender, user)).or_default();
                        *serial += 1;
                        let serial = *serial;
                        state.outstanding.insert((sender, user, serial));
                        state.waiting.insert((sender, user, serial));
                        serial
                    };
                    self.send_note(sender, user, serial);
                }
            }
            75..94 => {
                let (device, node, dirty, seat) = {
                    let mut state = self.state.borrow_mut();
                    let devices = state.devices.len() as u64;
                    let device = state.chance(devices) as usize;
                    let dirty = device < state.wanderers;
                    let node = state.chance(nodes) as usize;
                    (device, node, dirty && state.chance(3) > 0, state.devices[device].seat)
                };
                match seat {
                    None => self.sign_in(device, node),
                    Some(seat) if dirty => {
                        // The connection breaks; the client may be elsewhere before the server knows.
                        let wait = {
                            let mut state = self.state.borrow_mut();
                            state.tell(|| format!("d{device} loses its connection (seat {seat})"));
                            state.devices[device].seat = None;
                            state.seats.get_mut(&seat).expect("a seat").alive = false;
                            state.chance(400)
                        };
                        self.state.borrow_mut().at(wait, Event::End(seat));
                        if self.state.borrow_mut().chance(3) > 0 {
                            self.sign_in(device, node);
                        }
                    }
                    Some(seat) => self.sign_out(device, seat),
                }
            }
            _ => {
                let mut state = self.state.borrow_mut();
                let (from, to) = (state.chance(nodes) as usize, state.chance(nodes) as usize);
                let (for_ms, both) = (state.chance(1_000), state.chance(2) == 0);
                state.tell(|| format!("n{from} → n{to} is cut for {for_ms} ms, both ways: {both}"));
                let until = state.now + for_ms;
                for pair in [(from, to), (to, from)].into_iter().take(1 + usize::from(both)) {
                    if let Some(link) = state.links.get_mut(&pair) {
                        link.cut_until = link.cut_until.max(until);
                    }
                }
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let state = self.state.borrow();
        if let Some((from, to, serial)) = state.outstanding.first() {
            return Err(format!("user{to} never got {serial} from s{from}"));
        }
        let rows = |table: &Directory<u32, Note>| {
            let mut rows = BTreeSet::new();
            table.for_each(|row| {
                rows.insert((row.full.to_string(), row.generation));
            });
            rows
        };
        let expected: BTreeSet<_> = state
            .seats
            .values()
            .filter(|seat| !seat.ended)
            .map(|seat| (seat.full.to_string(), seat.generation))
            .collect();
        for (node, table) in self.tables.iter().enumerate() {
            if table.parked() != (0, 0) {
                return Err(format!("n{node} still holds {:?}", table.parked()));
            }
            if rows(table) != expected {
                return Err(format!("n{node} knows {:?}, not {expected:?}", rows(table)));
            }
            if table.len() != state.wanderers + 1 {
                return Err(format!("n{node} remembers {} users", table.len()));
            }
            if !state.nodes[node].flights.is_empty() {
                return Err(format!("n{node} has open flights"));
            }
        }
        Ok(())
    }
}
