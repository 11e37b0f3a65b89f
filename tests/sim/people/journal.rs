//! What happened, as clients can know it: everything sent, seen, promised and refused. The promises are asked of this.

use std::collections::BTreeMap;

/// A host that dies so soon after it read an acknowledgement may not have acted on it yet.
pub const GRACE_MS: u64 = 2_000;

/// A message somebody sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Which device.
    pub device: usize,
    /// In which of its sessions.
    pub session: usize,
    /// To whom.
    pub to_user: usize,
    /// To this resource, if not to all.
    pub to_device: Option<usize>,
    /// The how-manieth of this device to this user.
    pub serial: u64,
    /// When.
    pub at: u64,
    /// The server has said that it is handled.
    pub acked: Option<u64>,
    /// An error came back.
    pub refused: Option<(u64, String)>,
    /// Said again on resumption: the server had not said by then that it is handled.
    pub again: Option<u64>,
}

/// How long a server that takes a session over waits for what was said to be safe, before it says so of less.
const SAFE_WITHIN_MS: u64 = 8_000;

/// It, or what was said before it, could not be made safe for so long that its client, coming back, was told that it is not: so it was said again.
fn is_unsafe_for_long(at: u64, again: Option<u64>) -> bool {
    again.is_some_and(|again| again >= at + SAFE_WITHIN_MS)
}

impl Sent {
    /// See [`is_unsafe_for_long`].
    pub fn was_unsafe_for_long(&self) -> bool {
        is_unsafe_for_long(self.at, self.again)
    }
}

impl Abroad {
    /// See [`is_unsafe_for_long`].
    pub fn was_unsafe_for_long(&self) -> bool {
        is_unsafe_for_long(self.at, self.again)
    }
}

/// A message for another domain.
#[derive(Clone, Debug)]
pub struct Abroad {
    /// By which session.
    pub session: usize,
    /// To a domain that is there.
    pub is_there: bool,
    /// When.
    pub at: u64,
    /// The server has said that it is handled.
    pub acked: Option<u64>,
    /// As in [`Sent`].
    pub again: Option<u64>,
    /// An error came back.
    pub refused: Option<(u64, String)>,
}

/// A message somebody saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which: an index into `sent`.
    pub message: usize,
    /// Who saw it.
    pub device: usize,
    /// In which of its sessions.
    pub session: usize,
    /// On which connection of it.
    pub conn: u64,
    /// The how-manieth stanza of the session it was.
    pub count: u32,
    /// When.
    pub at: u64,
    /// It says when it was sent (XEP-0203).
    pub late: bool,
}

/// An acknowledgement a client sent.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Up to this stanza.
    pub h: u32,
    /// When it left.
    pub at: u64,
    /// The connection, and how many bytes of it the server has read when it has read this.
    pub conn: u64,
    /// See `conn`.
    pub bytes: u64,
    /// The server has read it.
    pub read: bool,
    /// A change was said before it and not handled yet: until the server has handled so many, it may wait for its home, and what is read behind that
    /// waits too.
    pub behind: Option<u32>,
    /// When that was heard to be handled. What was read behind it is handled after it, and not at all if the session ends first.
    pub freed: Option<u64>,
}

/// One bind.
#[derive(Clone, Debug)]
pub struct Session {
    /// Of which device.
    pub device: usize,
    /// And of whose.
    pub user: usize,
    /// Where.
    pub host: usize,
    /// In which life of that host.
    pub life: u64,
    /// When.
    pub at: u64,
    /// Stream management was agreed on: the client has seen `<enabled/>`.
    pub managed: bool,
    /// The client knows that it is over.
    pub over: Option<u64>,
    /// What the client acknowledged.
    pub acks: Vec<Ack>,
}

/// A roster set.
#[derive(Clone, Debug)]
pub struct Set {
    /// By which device.
    pub device: usize,
    /// In which session.
    pub session: usize,
    /// Which contact.
    pub contact: u64,
    /// When it was asked for.
    pub at: u64,
    /// When the answer came, and whether it was yes.
    pub answer: Option<(u64, bool)>,
}

/// A question to a device whether it is there.
#[derive(Clone, Debug)]
pub struct Ping {
    /// The session that asked.
    pub session: usize,
    /// The session that is asked: it was bound by then.
    pub to: usize,
    /// When.
    pub at: u64,
    /// When the answer came, and the error if it was one.
    pub answer: Option<(u64, Option<String>)>,
}

/// A roster as a client saw it, or a change of it.
#[derive(Clone, Debug)]
pub struct RosterSeen {
    /// By which device.
    pub device: usize,
    /// In which session.
    pub session: usize,
    /// The version, if it was said.
    pub version: Option<u64>,
    /// Contact → the number of the set that made it so.
    pub items: Vec<(u64, u64)>,
    /// All of it, or one change.
    pub whole: bool,
    /// When.
    pub at: u64,
}

/// Presence of one resource as one device last heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its status text, if available.
    pub status: Option<u64>,
    /// When.
    pub at: u64,
}

/// See the module.
#[derive(Default)]
pub struct Journal {
    /// Messages, by number.
    pub sent: Vec<Sent>,
    /// Messages for other domains, by number.
    pub abroad: Vec<Abroad>,
    /// In the order in which they were seen.
    pub seen: Vec<Seen>,
    /// Binds, by number.
    pub sessions: Vec<Session>,
    /// Roster sets, by number.
    pub sets: Vec<Set>,
    /// Questions to devices, by number.
    pub pings: Vec<Ping>,
    /// What was seen of rosters.
    pub rosters: Vec<RosterSeen>,
    /// (who heard, of which device) → what; of the hearer's present session.
    pub heard: BTreeMap<(usize, usize), Heard>,
    /// Lines that were cut or mended before everything heals: from, to, when, whether it passes since.
    pub lines: Vec<(usize, usize, u64, bool)>,
    /// Sessions that went on without taking messages: which, when.
    pub hidden: Vec<(usize, u64)>,
    /// Hosts that were told to stop: which, when.
    pub stops: Vec<(usize, u64)>,
    /// And had stopped: until then it is there, in part.
    pub stopped: Vec<(usize, u64)>,
    /// Hosts that died: which, when.
    pub deaths: Vec<(usize, u64)>,
    /// Hosts that slept: which, from when, until when at the latest.
    pub naps: Vec<(usize, u64, u64)>,
    /// Regions that were declared down, and the times at which they were (twice a second).
    pub fallen: Vec<(usize, u64)>,
    /// Broken at once: things no order of events can excuse.
    pub wrong: Vec<(&'static str, String)>,
    serials: BTreeMap<(usize, usize), u64>,
}

impl Journal {
    /// A message is sent; its number.
    pub fn send(&mut self, mut sent: Sent) -> usize {
        let serial = self.serials.entry((sent.device, sent.to_user)).or_default();
        *serial += 1;
        sent.serial = *serial;
        self.sent.push(sent);
        self.sent.len() - 1
    }

    /// No order of events can excuse this.
    pub fn is_wrong(&mut self, promise: &'static str, what: String) {
        self.wrong.push((promise, what));
    }

    /// Whether the server has certainly known, before that time, that this was acknowledged.
    pub fn acknowledged(&self, seen: &Seen, before: u64) -> bool {
        self.sessions[seen.session].acks.iter().any(|ack| {
            let handled = ack.freed.unwrap_or(ack.at);
            ack.h >= seen.count
                && handled < before
                && ack.read
                && ack.behind.is_none()
                && !self.deaths.iter().any(|(_, at)| (handled..=handled + GRACE_MS).contains(at))
                && !self.was_stopping(self.sessions[seen.session].host, handled)
        })
    }

    /// Whether a region was declared down, or still was, between two times.
    pub fn any_fell(&self, from: u64, until: u64) -> bool {
        self.fallen.iter().any(|(_, at)| (from..=until).contains(at))
    }

    /// Whether a life of that host ended between two times.
    pub fn ended(&self, host: usize, from: u64, until: u64) -> bool {
        self.ends(host).any(|at| (from..until).contains(&at))
    }

    /// When lives of that host ended: it died, or was told to stop.
    pub fn ends(&self, host: usize) -> impl Iterator<Item = u64> {
        let all = self.deaths.iter().chain(&self.stops);
        all.filter(move |(one, _)| *one == host).map(|(_, at)| *at)
    }

    /// Whether, at any time between two, nothing passed one way or the other.
    pub fn was_cut(&self, one: usize, other: usize, from: u64, until: u64) -> bool {
        [(one, other), (other, one)].into_iter().any(|way| {
            let of_it = || self.lines.iter().filter(move |line| (line.0, line.1) == way);
            let at_first = of_it().rfind(|line| line.2 <= from).is_none_or(|line| line.3);
            !at_first || of_it().any(|line| !line.3 && (from..=until).contains(&line.2))
        })
    }

    /// Whether a host slept at a time, or had until shortly before, and had done so since that other time or shortly after: it heard of nothing between.
    pub fn slept(&self, host: usize, since: u64, at: u64, shortly: u64) -> bool {
        self.naps.iter().any(|(one, from, until)| {
            *one == host && *from <= since + GRACE_MS && *from <= at && at <= until + shortly
        })
    }

    /// Whether a host was told to stop so near to a time: it reads a connection to its end, but the sessions are over.
    fn was_stopping(&self, host: usize, at: u64) -> bool {
        self.stops.iter().any(|(one, told)| *one == host && told.abs_diff(at) <= GRACE_MS)
    }
}
