//! The simulated network: hosts, ways between them, connections as two streams of bytes with the time at which each piece arrives.
//!
//! It behaves as TCP does: what was written arrives in order and once, or the connection breaks. A cut holds back what is on the way; when
//! it heals, that arrives after a while (retransmission). A loss is a delay. One lock; wakers are called when it is free again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use super::chance::Chance;

/// Not before something is mended.
pub const NEVER: u64 = u64::MAX;
/// What a connection takes before its reader has read.
const WINDOW_BYTES: usize = 64 * 1024;
/// TCP tries again after a cut within this time.
const RETRY_MS_MAX: u64 = 1_500;

/// Who is at an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A node.
    Host(usize),
    /// A client.
    Device(usize),
}

/// One direction between two hosts.
#[derive(Clone, Debug)]
pub struct Way {
    /// The shortest time a piece takes.
    pub delay_ms: u64,
    /// At most so much more.
    pub jitter_ms: u64,
    /// So many pieces in a hundred are lost and sent again.
    pub loss_percent: u64,
    /// Nothing passes.
    pub cut: bool,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    /// When each piece arrives, in growing order.
    pieces: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    last: u64,
    fin: Option<u64>,
    reset: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Bytes its reader has taken.
    read: u64,
    /// Nobody reads any more.
    gone: bool,
}

/// A connection.
#[derive(Debug)]
struct Conn {
    parties: [Party; 2],
    /// From side 0, from side 1.
    flows: [Flow; 2],
    /// Of a connection with a client, whose way is its own.
    way: Way,
    closed: [bool; 2],
}

/// Somebody connects.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Which connection; the listener is side 1.
    pub conn: u64,
    /// Who.
    pub from: Party,
    /// When that is known.
    pub at: u64,
}

/// What a read finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes.
    Data(Vec<u8>),
    /// The other side is done.
    End,
    /// The connection is broken.
    Reset,
    /// Nothing before this time (as far as is known now).
    Nothing(u64),
}

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug)]
pub enum Attempt {
    /// The connection, usable from then on.
    Made(u64, u64),
    /// Nobody listens; known then.
    Refused(u64),
    /// No answer.
    Silence,
}

/// Whoever wants to see what passes between hosts: from, to, when it left, bytes.
type Tap = Arc<dyn Fn(usize, usize, u64, &[u8]) + Send + Sync>;

struct Inner {
    tap: Option<Tap>,
    ways: Vec<Vec<Way>>,
    conns: BTreeMap<u64, Conn>,
    next: u64,
    listeners: Vec<Option<UnboundedSender<Incoming>>>,
    chance: Chance,
    /// Clients to look after: when, whom.
    calls: Vec<(u64, usize)>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Net(Arc<Mutex<Inner>>);

impl Net {
    /// Ways between so many hosts, each as given.
    pub fn new(ways: Vec<Vec<Way>>, chance: Chance) -> Self {
        let listeners = ways.iter().map(|_| None).collect();
        let conns = BTreeMap::new();
        Self(Arc::new(Mutex::new(Inner {
            tap: None,
            ways,
            conns,
            next: 1,
            listeners,
            chance,
            calls: Vec::new(),
        })))
    }

    /// Everything that passes between hosts is shown to this.
    pub fn tap(&self, tap: Tap) {
        self.0.lock().tap = Some(tap);
    }

    /// A host listens from now on, or (`None`) no more.
    pub fn listen(&self, host: usize, to: Option<UnboundedSender<Incoming>>) {
        let before = std::mem::replace(&mut self.0.lock().listeners[host], to);
        drop(before);
    }

    /// Clients that have something to read, with the time.
    pub fn calls(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.0.lock().calls)
    }

    /// Whether pieces pass from one host to another.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        from == to || !self.0.lock().ways[from][to].cut
    }

    /// A time from one host to another, now.
    pub fn trip(&self, from: usize, to: usize) -> u64 {
        let mut inner = self.0.lock();
        if from == to {
            return 1;
        }
        let way = inner.ways[from][to].clone();
        way.delay_ms + inner.chance.below(way.jitter_ms + 1)
    }

    /// Somebody wants to speak to a host. `way`: that of a client.
    pub fn connect(&self, from: Party, to: usize, way: Option<Way>, now: u64) -> Attempt {
        let mut wake = None;
        let attempt = {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            let (there, back) = match (&way, from) {
                (Some(way), _) => (way.clone(), way.clone()),
                (None, Party::Host(host)) => {
                    (inner.ways[host][to].clone(), inner.ways[to][host].clone())
                }
                (None, Party::Device(_)) => return Attempt::Silence,
            };
            if there.cut || back.cut {
                return Attempt::Silence;
            }
            let arrives = now + there.delay_ms + inner.chance.below(there.jitter_ms + 1);
            let known = arrives + back.delay_ms + inner.chance.below(back.jitter_ms + 1);
            match &inner.listeners[to] {
                None => Attempt::Refused(known),
                Some(listener) => {
                    let conn = inner.next;
                    inner.next += 1;
                    inner.conns.insert(
                        conn,
                        Conn {
                            parties: [from, Party::Host(to)],
                            flows: [Flow::default(), Flow::default()],
                            way: way.unwrap_or(there),
                            closed: [false; 2],
                        },
                    );
                    wake = Some((listener.clone(), Incoming { conn, from, at: arrives }));
                    Attempt::Made(conn, known)
                }
            }
        };
        if let Some((listener, incoming)) = wake {
            let _ = listener.send(incoming);
        }
        attempt
    }

    /// Bytes from one side. How many are taken: 0 when the window is full (`waker` is called when there is room).
    ///
    /// # Errors
    /// The connection is broken.
    pub fn write(
        &self,
        conn: u64,
        side: usize,
        bytes: &[u8],
        now: u64,
        waker: Option<&Waker>,
    ) -> io::Result<usize> {
        let mut reader = None;
        let taken = {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            let Some(known) = inner.conns.get_mut(&conn) else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            if let (Some(tap), Party::Host(from), Party::Host(to)) =
                (&inner.tap, known.parties[side], known.parties[1 - side])
            {
                tap(from, to, now, bytes);
            }
            if known.flows[1 - side].reset.is_some_and(|at| at <= now) || known.closed[side] {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if known.flows[side].reset.is_some() {
                // The break is on its way to the reader; what is written behind it is lost, and the writer does not know yet.
                bytes.len()
            } else if known.flows[side].gone {
                // Whoever writes to somebody who is gone is told so, when the news can come back.
                let there = stamp(known, side, now, &inner.ways, &mut inner.chance);
                let back = match there {
                    NEVER => NEVER,
                    there => stamp(known, 1 - side, there, &inner.ways, &mut inner.chance),
                };
                let back_flow = &mut known.flows[1 - side];
                let at = back_flow.reset.unwrap_or(NEVER).min(back);
                back_flow.reset = Some(at);
                reader = back_flow.reader.take();
                call(&mut inner.calls, known.parties[side], at);
                bytes.len()
            } else {
                let room = match known.parties[side] {
                    Party::Host(_) => WINDOW_BYTES.saturating_sub(known.flows[side].bytes),
                    Party::Device(_) => bytes.len(),
                };
                let taken = room.min(bytes.len());
                if taken == 0 {
                    known.flows[side].writer = waker.cloned();
                } else {
                    let at = stamp(known, side, now, &inner.ways, &mut inner.chance);
                    let flow = &mut known.flows[side];
                    flow.bytes += taken;
                    match flow.pieces.back_mut() {
                        Some((last, piece)) if *last == at => {
                            piece.extend_from_slice(&bytes[..taken])
                        }
                        _ => flow.pieces.push_back((at, bytes[..taken].to_vec())),
                    }
                    reader = flow.reader.take();
                    call(&mut inner.calls, known.parties[1 - side], at);
                }
                taken
            }
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(taken)
    }

    /// Bytes for one side, at most so many. With nothing there, `waker` is called when that may have changed.
    pub fn read(
        &self,
        conn: u64,
        side: usize,
        max: usize,
        now: u64,
        waker: Option<&Waker>,
    ) -> Read {
        let mut writer = None;
        let read = {
            let mut inner = self.0.lock();
            let Some(known) = inner.conns.get_mut(&conn) else { return Read::Reset };
            let flow = &mut known.flows[1 - side];
            let broken = flow.reset.filter(|at| *at <= now);
            let mut data = Vec::new();
            while let Some((at, piece)) = flow.pieces.front_mut() {
                // What came before the break can still be read, as Linux does it.
                if *at > broken.unwrap_or(now) || data.len() >= max {
                    break;
                }
                let room = max - data.len();
                if piece.len() <= room {
                    data.append(piece);
                    flow.pieces.pop_front();
                } else {
                    data.extend(piece.drain(..room));
                }
            }
            if !data.is_empty() {
                flow.bytes = flow.bytes.saturating_sub(data.len());
                flow.read += data.len() as u64;
                writer = flow.writer.take();
                Read::Data(data)
            } else if broken.is_some() {
                Read::Reset
            } else if flow.pieces.is_empty() && flow.fin.is_some_and(|at| at <= now) {
                Read::End
            } else {
                flow.reader = waker.cloned();
                let next = flow.pieces.front().map(|(at, _)| *at).or(flow.fin).unwrap_or(NEVER);
                Read::Nothing(next.min(flow.reset.unwrap_or(NEVER)))
            }
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        read
    }

    /// How many bytes of this side's the other has read.
    pub fn read_of(&self, conn: u64, side: usize) -> u64 {
        self.0.lock().conns.get(&conn).map_or(0, |conn| conn.flows[side].read)
    }

    /// This side says no more.
    pub fn finish(&self, conn: u64, side: usize, now: u64) {
        self.end(conn, side, now, false);
    }

    /// This side is gone: says no more and reads no more.
    pub fn leave(&self, conn: u64, side: usize, now: u64) {
        self.end(conn, side, now, true);
    }

    fn end(&self, conn: u64, side: usize, now: u64, gone: bool) {
        let reader = {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            let Some(known) = inner.conns.get_mut(&conn) else { return };
            let mut reader = None;
            if known.flows[side].fin.is_none() {
                let at = stamp(known, side, now, &inner.ways, &mut inner.chance);
                known.flows[side].fin = Some(at);
                reader = known.flows[side].reader.take();
                call(&mut inner.calls, known.parties[1 - side], at);
            }
            if gone {
                known.closed[side] = true;
                known.flows[1 - side].gone = true;
                known.flows[1 - side].bytes = 0;
                if known.closed[1 - side] {
                    inner.conns.remove(&conn);
                }
            }
            reader
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Breaks a connection: what has not arrived never does, and either side is told when it can be.
    pub fn reset(&self, conn: u64, now: u64) {
        let mut wake = Vec::new();
        {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            if let Some(known) = inner.conns.get_mut(&conn) {
                break_off(
                    known,
                    now,
                    inner.ways.as_slice(),
                    &mut inner.chance,
                    &mut inner.calls,
                    &mut wake,
                );
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// Nothing passes on this connection any more, and nobody is told: its client has vanished.
    pub fn vanish(&self, conn: u64, now: u64) {
        let mut inner = self.0.lock();
        if let Some(known) = inner.conns.get_mut(&conn) {
            known.way.cut = true;
            for flow in &mut known.flows {
                hold(flow, now);
            }
        }
    }

    /// The server's TCP notices at last.
    pub fn notice(&self, conn: u64, now: u64) {
        let waker = {
            let mut inner = self.0.lock();
            let Some(known) = inner.conns.get_mut(&conn) else { return };
            known.closed[0] = true;
            known.flows[0].reset = Some(now);
            known.flows[0].pieces.clear();
            let waker = known.flows[0].reader.take();
            if known.closed[1] {
                inner.conns.remove(&conn);
            }
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A process is gone. Its kernel tells the others, unless the machine went with it (`silent`).
    pub fn kill(&self, host: usize, silent: bool, now: u64) {
        self.listen(host, None);
        let mut wake = Vec::new();
        {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            let mut over = Vec::new();
            for (id, known) in &mut inner.conns {
                for side in 0..2 {
                    if known.parties[side] != Party::Host(host) || known.closed[side] {
                        continue;
                    }
                    known.closed[side] = true;
                    known.flows[1 - side].gone = true;
                    if silent {
                        // What had left is on the way; nothing follows, not even an end.
                        continue;
                    }
                    let reset = inner.chance.percent(50);
                    let at = stamp(known, side, now, &inner.ways, &mut inner.chance);
                    let flow = &mut known.flows[side];
                    if reset {
                        flow.reset = Some(flow.reset.unwrap_or(NEVER).min(at));
                    } else {
                        flow.fin.get_or_insert(at);
                    }
                    wake.extend(flow.reader.take());
                    call(&mut inner.calls, known.parties[1 - side], at);
                    if known.closed[1 - side] {
                        over.push(*id);
                    }
                }
            }
            for id in over {
                inner.conns.remove(&id);
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// A machine that went silently is there again: whoever still speaks to its former life is told.
    pub fn back(&self, host: usize, now: u64) {
        let mut wake = Vec::new();
        {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            for known in inner.conns.values_mut() {
                for side in 0..2 {
                    if known.parties[side] == Party::Host(host) && known.closed[side] {
                        let at = stamp(known, side, now, &inner.ways, &mut inner.chance);
                        let flow = &mut known.flows[side];
                        if flow.fin.is_none() {
                            flow.reset = Some(flow.reset.unwrap_or(NEVER).min(at));
                            wake.extend(flow.reader.take());
                            call(&mut inner.calls, known.parties[1 - side], at);
                        }
                    }
                }
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// Nothing passes from one host to another any more.
    pub fn cut(&self, from: usize, to: usize, now: u64) {
        let mut inner = self.0.lock();
        inner.ways[from][to].cut = true;
        for known in inner.conns.values_mut() {
            for side in 0..2 {
                if (known.parties[side], known.parties[1 - side])
                    == (Party::Host(from), Party::Host(to))
                {
                    hold(&mut known.flows[side], now);
                }
            }
        }
    }

    /// It does again.
    pub fn heal(&self, from: usize, to: usize, now: u64) {
        let mut wake = Vec::new();
        {
            let mut inner = self.0.lock();
            let inner = &mut *inner;
            inner.ways[from][to].cut = false;
            for known in inner.conns.values_mut() {
                for side in 0..2 {
                    if (known.parties[side], known.parties[1 - side])
                        != (Party::Host(from), Party::Host(to))
                    {
                        continue;
                    }
                    let at = stamp(
                        known,
                        side,
                        now + inner.chance.below(RETRY_MS_MAX),
                        &inner.ways,
                        &mut inner.chance,
                    );
                    let flow = &mut known.flows[side];
                    let times = flow
                        .pieces
                        .iter_mut()
                        .map(|(at, _)| at)
                        .chain(&mut flow.fin)
                        .chain(&mut flow.reset);
                    for time in times.filter(|time| **time == NEVER) {
                        *time = at;
                    }
                    wake.extend(flow.reader.take());
                    if flow.gone && (!flow.pieces.is_empty() || flow.fin.is_some()) {
                        let back = stamp(known, 1 - side, at, &inner.ways, &mut inner.chance);
                        let flow = &mut known.flows[1 - side];
                        if flow.fin.is_none() {
                            flow.reset = Some(flow.reset.unwrap_or(NEVER).min(back));
                            wake.extend(flow.reader.take());
                        }
                    }
                }
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// How good a way is from now on.
    pub fn quality(&self, from: usize, to: usize, jitter_ms: u64, loss_percent: u64) {
        let mut inner = self.0.lock();
        let way = &mut inner.ways[from][to];
        (way.jitter_ms, way.loss_percent) = (jitter_ms, loss_percent);
    }

    /// Connections between two hosts.
    pub fn between(&self, one: usize, other: usize) -> Vec<u64> {
        let wanted = [Party::Host(one), Party::Host(other)];
        let is = |conn: &Conn| conn.parties == wanted || conn.parties == [wanted[1], wanted[0]];
        self.0.lock().conns.iter().filter(|(_, conn)| is(conn)).map(|(id, _)| *id).collect()
    }

    /// Connections there are.
    pub fn connections(&self) -> usize {
        self.0.lock().conns.len()
    }
}

/// Notes that a client is to be looked after.
fn call(calls: &mut Vec<(u64, usize)>, who: Party, at: u64) {
    if let Party::Device(device) = who
        && at != NEVER
    {
        calls.push((at, device));
    }
}

/// When what leaves one side now arrives; never before what left earlier.
fn stamp(conn: &mut Conn, side: usize, now: u64, ways: &[Vec<Way>], chance: &mut Chance) -> u64 {
    let way = match (conn.parties[side], conn.parties[1 - side]) {
        (Party::Host(from), Party::Host(to)) => &ways[from][to],
        _ => &conn.way,
    };
    if way.cut {
        return NEVER;
    }
    let mut at = now + way.delay_ms + chance.below(way.jitter_ms + 1);
    // A loss: TCP sends again after a while, and everything behind waits.
    while chance.percent(way.loss_percent) {
        at += chance.between(200, 600);
    }
    let flow = &mut conn.flows[side];
    flow.last = flow.last.max(at);
    flow.last
}

/// What is on the way does not arrive until something is mended.
fn hold(flow: &mut Flow, now: u64) {
    let times =
        flow.pieces.iter_mut().map(|(at, _)| at).chain(&mut flow.fin).chain(&mut flow.reset);
    for time in times.filter(|time| **time > now) {
        *time = NEVER;
    }
    flow.last = flow.last.min(now);
}

fn break_off(
    conn: &mut Conn,
    now: u64,
    ways: &[Vec<Way>],
    chance: &mut Chance,
    calls: &mut Vec<(u64, usize)>,
    wake: &mut Vec<Waker>,
) {
    for side in 0..2 {
        let at = stamp(conn, side, now, ways, chance);
        let to = conn.parties[1 - side];
        let flow = &mut conn.flows[side];
        flow.pieces.retain(|(arrives, _)| *arrives <= now);
        flow.bytes = flow.pieces.iter().map(|(_, piece)| piece.len()).sum();
        flow.reset = Some(flow.reset.unwrap_or(NEVER).min(at));
        call(calls, to, at);
        wake.extend(flow.reader.take());
        wake.extend(flow.writer.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(delay_ms: u64) -> Way {
        Way { delay_ms, jitter_ms: 0, loss_percent: 0, cut: false }
    }

    /// Two hosts 10 ms apart, and a connection from the first to the second.
    fn connected() -> (Net, u64) {
        let net = Net::new(vec![vec![way(10); 2]; 2], Chance::new(1));
        let (listener, _incoming) = tokio::sync::mpsc::unbounded_channel();
        net.listen(1, Some(listener));
        let Attempt::Made(conn, 20) = net.connect(Party::Host(0), 1, None, 0) else {
            panic!("it answers after a round trip");
        };
        (net, conn)
    }

    fn data(text: &str) -> Read {
        Read::Data(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_written_arrives_after_its_time_and_in_order() {
        let (net, conn) = connected();
        assert_eq!(net.write(conn, 0, b"one ", 20, None).ok(), Some(4));
        assert_eq!(net.write(conn, 0, b"two", 25, None).ok(), Some(3));
        assert_eq!(net.read(conn, 1, 99, 29, None), Read::Nothing(30));
        assert_eq!(net.read(conn, 1, 99, 30, None), data("one "));
        assert_eq!(net.read(conn, 1, 2, 35, None), data("tw"));
        assert_eq!(net.read(conn, 1, 2, 35, None), data("o"));
        assert_eq!(net.read_of(conn, 0), 7);
    }

    #[test]
    fn a_cut_holds_what_is_on_the_way_and_healing_brings_it() {
        let (net, conn) = connected();
        net.write(conn, 0, b"held", 20, None).expect("written");
        net.cut(0, 1, 25);
        assert_eq!(net.read(conn, 1, 99, 1_000, None), Read::Nothing(NEVER));
        net.write(conn, 1, b"back", 30, None).expect("the other way is open");
        assert_eq!(net.read(conn, 0, 99, 40, None), data("back"));
        net.heal(0, 1, 50);
        assert_eq!(net.read(conn, 1, 99, 60 + RETRY_MS_MAX, None), data("held"));
    }

    #[test]
    fn a_reset_leaves_what_has_arrived_and_nothing_else() {
        let (net, conn) = connected();
        net.write(conn, 0, b"there", 20, None).expect("written");
        net.write(conn, 0, b" lost", 35, None).expect("written");
        net.reset(conn, 40);
        assert_eq!(net.read(conn, 1, 99, 50, None), data("there"));
        assert_eq!(net.read(conn, 1, 99, 50, None), Read::Reset);
        assert!(net.write(conn, 0, b"more", 50, None).is_err());
    }

    #[test]
    fn a_killed_host_is_told_of_and_a_dark_one_is_not() {
        for silent in [false, true] {
            let (net, conn) = connected();
            net.kill(1, silent, 20);
            let told = net.read(conn, 0, 99, 10_000, None);
            assert_eq!(matches!(told, Read::Nothing(NEVER)), silent, "{told:?}");
            assert!(matches!(net.connect(Party::Host(0), 1, None, 30), Attempt::Refused(_)));
            net.back(1, 20_000);
            assert!(matches!(net.read(conn, 0, 99, 30_000, None), Read::End | Read::Reset));
        }
    }

    #[test]
    fn a_full_window_takes_nothing_until_it_is_read() {
        let (net, conn) = connected();
        let all = vec![0; WINDOW_BYTES + 1];
        assert_eq!(net.write(conn, 0, &all, 20, None).ok(), Some(WINDOW_BYTES));
        assert_eq!(net.write(conn, 0, &all, 20, None).ok(), Some(0));
        net.read(conn, 1, 100, 30, None);
        assert_eq!(net.write(conn, 0, &all, 30, None).ok(), Some(100));
    }
}
