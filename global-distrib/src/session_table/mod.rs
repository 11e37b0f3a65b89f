//! Room: the session table of one node and what follows from it: who is connected where, and in which order stanzas for one
//! addressee leave. Called by the node's router; calls back through [`Carrier`]. Rules: blueprint §4 and §5, RFC 6121 §8 only
//! through the carrier's choice. Absent on purpose: sockets, clocks, XML, the link. All methods are short and never wait.
//!
//! One entry a bare JID: its rows, the *trail* (the last link sequence number sent to each node for it) and, while something
//! has to wait, its gate. The entry's lock makes every decision for one addressee happen in one order.

mod held;
mod row;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use replication::clock::Hlc;
use smallvec::SmallVec;
use xmpp::jid::{BareJid, FullJid};

pub use self::row::{Place, RouteEntry, Row};
use crate::node_ix::NodeIx;
use crate::park::{Gate, Held, Mark, Wait};
use held::Waiters;

/// What the account rules (RFC 6121 §8.5) want done with a stanza, given the rows.
#[derive(Debug)]
pub enum Choice<H> {
    /// These local resources and these nodes.
    Send {
        /// Handles of local resources.
        here: SmallVec<[H; 2]>,
        /// Nodes that have resources which want it.
        there: SmallVec<[NodeIx; 2]>,
    },
    /// No row wants it. `file`: it may be stored for later (XEP-0160), so it keeps its place in the order while it is filed.
    Nobody {
        /// Whether the home may store it.
        file: bool,
    },
    /// The rows already say that it is not to be delivered (RFC 6121 §8.5.3.2.1 for instance); nothing to wait for.
    Refuse,
}

/// What came of a stanza.
#[derive(Debug)]
pub enum Outcome<S> {
    /// On its way, or in a local mailbox.
    Sent,
    /// It waits in the addressee's gate; a later event settles it.
    Held,
    /// Final: nobody is connected who takes it.
    Nobody(S),
    /// Final: these are to be filed at the home, in this order; the gate stays shut until [`Directory::filed`].
    File(Vec<S>),
    /// It waited longer than the hold deadline.
    Expired(S),
    /// A bound was reached (`limits.parked_bytes_max`, `limits.parked_stanzas_per_addressee_max`, or the link's).
    Full(S),
}

/// The roads out, as the directory needs them. Implemented by the node's router (and by the simulator).
pub trait Carrier<H, S> {
    /// The account rules. Pure.
    fn choose(&self, stanza: &S, rows: &[Row<H>]) -> Choice<H>;
    /// Puts the stanza in local mailboxes and on links; adds each link's sequence number to `trail`. `Err` gives it back when a
    /// bound refused it and nobody got it.
    fn carry(&self, stanza: S, here: &[H], there: &[NodeIx], trail: &mut Trail) -> Result<(), S>;
    /// Highest sequence number that node has taken responsibility for.
    fn acked(&self, node: NodeIx) -> u64;
    /// Sends a probe to every live node; what must be echoed. Empty when there is no other live node.
    fn mark(&self) -> Mark;
    /// Whether all of a mark is echoed (nodes that metadata says are down do not hold it back).
    fn closed(&self, mark: &Mark) -> bool;
    /// Bytes the stanza counts for while it waits.
    fn weight(&self, stanza: &S) -> usize;
}

/// The last link sequence number sent to each node for one addressee.
pub type Trail = SmallVec<[(NodeIx, u64); 1]>;

#[derive(Debug)]
struct User<H, S> {
    rows: SmallVec<[Row<H>; 1]>,
    trail: Trail,
    gate: Option<Box<Gate<S>>>,
}

impl<H, S> Default for User<H, S> {
    fn default() -> Self {
        Self { rows: SmallVec::new(), trail: Trail::new(), gate: None }
    }
}

impl<H, S> User<H, S> {
    fn is_idle(&self) -> bool {
        self.rows.is_empty() && self.gate.is_none() && self.trail.is_empty()
    }
}

/// Bounds on what may wait.
#[derive(Clone, Copy, Debug)]
pub struct ParkLimits {
    /// All addressees together, bytes.
    pub bytes_max: usize,
    /// One addressee, stanzas.
    pub per_addressee_max: usize,
    /// How long a stanza may wait, milliseconds.
    pub hold_ms: u64,
}

/// What a bind changed.
#[derive(Debug)]
pub struct Bound<H> {
    /// A local row of the same full JID that lost (its session gets `<conflict/>`).
    pub superseded: Option<H>,
    /// The offered row itself lost: an already known one is newer.
    pub lost: bool,
    /// Something waits for this addressee: call [`Directory::reopen`].
    pub reopen: bool,
}

/// The table. `H` is the handle of a local session, `S` what is routed. Memory: about 200 bytes a connected user, plus what waits.
#[derive(Debug)]
pub struct Directory<H, S> {
    users: scc::HashMap<BareJid, User<H, S>, foldhash::fast::RandomState>,
    waiters: Waiters,
    parked_bytes: AtomicUsize,
    parked_count: AtomicUsize,
    limits: ParkLimits,
    sessions_here: AtomicUsize,
    dropped_stale: AtomicU64,
}

impl<H: Clone + PartialEq, S> Directory<H, S> {
    /// An empty table.
    pub fn new(limits: ParkLimits) -> Self {
        Self {
            users: scc::HashMap::with_hasher(foldhash::fast::RandomState::default()),
            waiters: Waiters::default(),
            parked_bytes: AtomicUsize::new(0),
            parked_count: AtomicUsize::new(0),
            limits,
            sessions_here: AtomicUsize::new(0),
            dropped_stale: AtomicU64::new(0),
        }
    }

    /// Rows of this node.
    pub fn sessions_here(&self) -> usize {
        self.sessions_here.load(Ordering::Relaxed)
    }

    /// Stanzas and bytes that wait in gates.
    pub fn parked(&self) -> (usize, usize) {
        (self.parked_count.load(Ordering::Relaxed), self.parked_bytes.load(Ordering::Relaxed))
    }

    /// Reads the rows of one user; `None` when nobody of that name is known. The closure runs under the entry's lock: keep it short.
    pub fn read<R>(&self, user: &str, reader: impl FnOnce(&[Row<H>]) -> R) -> Option<R> {
        self.users.read_sync(user, |_, user| reader(&user.rows))
    }

    /// Adds a row, here or there. The newer generation of one full JID wins; on a tie `wins_tie` is asked whether the offered row
    /// beats the known one (the greater node name does, so that every region decides alike).
    pub fn bind(&self, row: Row<H>, wins_tie: impl FnOnce(&Row<H>) -> bool) -> Bound<H> {
        let mut entry = self.users.entry_sync(row.full.bare()).or_default();
        let user = entry.get_mut();
        let mut superseded = None;
        if let Some(at) = user.rows.iter().position(|known| known.full == row.full) {
            let known = &user.rows[at];
            let same = known.place == row.place && known.generation == row.generation;
            let newer = row.generation > known.generation
                || (!same && row.generation == known.generation && wins_tie(known));
            if !newer && !same {
                self.dropped_stale.fetch_add(1, Ordering::Relaxed);
                return Bound { superseded: None, lost: true, reopen: false };
            }
            let old = user.rows.remove(at);
            if let Place::Here(handle) = old.place {
                self.sessions_here.fetch_sub(1, Ordering::Relaxed);
                if !same {
                    superseded = Some(handle);
                }
            }
        }
        if matches!(row.place, Place::Here(_)) {
            self.sessions_here.fetch_add(1, Ordering::Relaxed);
        }
        user.rows.push(row);
        Bound { superseded, lost: false, reopen: user.gate.is_some() }
    }

    /// New presence of a row. Returns whether the row is known with that generation, and whether something waits for the user.
    pub fn update(
        &self,
        full: &FullJid,
        generation: Hlc,
        priority: i8,
        available: bool,
    ) -> (bool, bool) {
        self.users
            .update_sync(full.bare_str(), |_, user| {
                let found = user
                    .rows
                    .iter_mut()
                    .find(|row| row.full == *full && row.generation == generation);
                let known = found.is_some();
                if let Some(row) = found {
                    row.priority = priority;
                    row.available = available;
                    row.lit = true;
                }
                (known, user.gate.is_some())
            })
            .unwrap_or((false, false))
    }

    /// Removes exactly that generation: a late unbind never removes a newer row. `drain` takes from the removed row what its
    /// session had not handed on; in the same step that goes to the front of the addressee's gate, so that nothing newer
    /// overtakes it. Returns the row, and whether to call [`Directory::reopen`].
    pub fn unbind(
        &self,
        full: &FullJid,
        generation: Hlc,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        drain: impl FnOnce(&Row<H>) -> Vec<S>,
    ) -> Option<(Row<H>, bool)> {
        let bare = full.bare();
        let (row, reopen) = self.users.update_sync(&bare, |_, user| {
            let at = user
                .rows
                .iter()
                .position(|row| row.full == *full && row.generation == generation)?;
            let row = user.rows.remove(at);
            for stanza in drain(&row) {
                self.put_back(&bare, user, stanza, now_ms, carrier);
            }
            Some((row, user.gate.is_some()))
        })??;
        if matches!(row.place, Place::Here(_)) {
            self.sessions_here.fetch_sub(1, Ordering::Relaxed);
        }
        if !reopen {
            self.users.remove_if_sync(&bare, |user| user.is_idle());
        }
        Some((row, reopen))
    }

    /// What a session of this account, whose row is already gone, had not handed on: to the front of the gate, in order.
    pub fn put_back_all(
        &self,
        to: &BareJid,
        stanzas: Vec<S>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) {
        if stanzas.is_empty() {
            return;
        }
        let mut entry = self.users.entry_sync(to.clone()).or_default();
        for stanza in stanzas {
            self.put_back(to, entry.get_mut(), stanza, now_ms, carrier);
        }
    }

    /// Removes the rows of a node that `gone` accepts (its incarnation died, or a snapshot did not repeat them). Scans the
    /// table: O(users), for rare events. Returns what was removed and the users for whom something waits.
    pub fn remove_rows(
        &self,
        node: NodeIx,
        mut gone: impl FnMut(&Row<H>) -> bool,
    ) -> (Vec<Row<H>>, Vec<BareJid>) {
        let mut removed = Vec::new();
        let mut reopen = Vec::new();
        self.users.retain_sync(|bare, user| {
            let mut at = 0;
            let mut touched = false;
            while at < user.rows.len() {
                if user.rows[at].there() == Some(node) && gone(&user.rows[at]) {
                    removed.push(user.rows.remove(at));
                    touched = true;
                } else {
                    at += 1;
                }
            }
            if touched && user.gate.is_some() {
                reopen.push(bare.clone());
            }
            !user.is_idle()
        });
        (removed, reopen)
    }

    /// Marks a node's rows dark (silent too long) or lit again; returns the full JIDs of available rows whose light changed. O(users).
    pub fn light(&self, node: NodeIx, lit: bool) -> Vec<FullJid> {
        let mut changed = Vec::new();
        self.users.retain_sync(|_, user| {
            for row in
                user.rows.iter_mut().filter(|row| row.there() == Some(node) && row.lit != lit)
            {
                row.lit = lit;
                if row.available {
                    changed.push(row.full.clone());
                }
            }
            true
        });
        changed
    }

    /// Every row, for snapshots and the operator. O(users); the closure runs under locks.
    pub fn for_each(&self, mut visit: impl FnMut(&Row<H>)) {
        self.users.iter_sync(|_, user| {
            user.rows.iter().for_each(&mut visit);
            true
        });
    }

    /// Sends a stanza for a user where the rows say, or makes it wait. The addressee's order is kept whatever happens.
    pub fn dispatch(
        &self,
        to: &BareJid,
        stanza: S,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Outcome<S> {
        let mut stanza = Some(stanza);
        let known = self.users.update_sync(to, |_, user| {
            let stanza = stanza.take().expect("the closure runs once");
            self.decide(to, user, stanza, None, now_ms, carrier)
        });
        if let Some(outcome) = known {
            return outcome;
        }
        let Some(stanza) = stanza else { return Outcome::Sent };
        let mut entry = self.users.entry_sync(to.clone()).or_default();
        let outcome = self.decide(to, entry.get_mut(), stanza, None, now_ms, carrier);
        let idle = entry.get().is_idle();
        drop(entry);
        if idle {
            self.users.remove_if_sync(to, |user| user.is_idle());
        }
        outcome
    }

    /// A stanza that `from` sent back because no session there takes it. It goes before everything that waits, behind other
    /// returned ones.
    pub fn returned(
        &self,
        to: &BareJid,
        stanza: S,
        from: NodeIx,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Outcome<S> {
        let mut entry = self.users.entry_sync(to.clone()).or_default();
        let outcome = self.decide(to, entry.get_mut(), stanza, Some(from), now_ms, carrier);
        let idle = entry.get().is_idle();
        drop(entry);
        if idle {
            self.users.remove_if_sync(to, |user| user.is_idle());
        }
        outcome
    }

    fn decide(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        stanza: S,
        returned_by: Option<NodeIx>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Outcome<S> {
        if user.gate.is_some() {
            return self.hold(to, user, stanza, returned_by, None, now_ms, carrier);
        }
        match carrier.choose(&stanza, &user.rows) {
            Choice::Refuse => Outcome::Nobody(stanza),
            Choice::Nobody { file } => {
                let mark = carrier.mark();
                if !carrier.closed(&mark) {
                    return self.hold(
                        to,
                        user,
                        stanza,
                        returned_by,
                        Some((Wait::Watermark, mark)),
                        now_ms,
                        carrier,
                    );
                }
                if !file {
                    return Outcome::Nobody(stanza);
                }
                user.gate = Some(Box::new(Gate::new(Wait::Filing)));
                Outcome::File(vec![stanza])
            }
            Choice::Send { here, there } => {
                if blocked(&mut user.trail, &there, returned_by, carrier) {
                    return self.hold(
                        to,
                        user,
                        stanza,
                        returned_by,
                        Some((Wait::Acks, carrier.mark())),
                        now_ms,
                        carrier,
                    );
                }
                match carrier.carry(stanza, &here, &there, &mut user.trail) {
                    Ok(()) => Outcome::Sent,
                    Err(stanza) => Outcome::Full(stanza),
                }
            }
        }
    }
}

/// Whether an earlier stanza of this addressee may still be on the way somewhere the new one does not go. Forgets what is acked.
fn blocked<H, S>(
    trail: &mut Trail,
    there: &[NodeIx],
    returned_by: Option<NodeIx>,
    carrier: &impl Carrier<H, S>,
) -> bool {
    trail.retain(|(node, seq)| carrier.acked(*node) < *seq);
    trail.iter().any(|(node, _)| Some(*node) != returned_by && !there.contains(node))
}

/// Notes that `seq` was the last frame sent to `node` for this addressee. For [`Carrier::carry`].
pub fn leave_trail(trail: &mut Trail, node: NodeIx, seq: u64) {
    match trail.iter_mut().find(|(known, _)| *known == node) {
        Some(entry) => entry.1 = seq,
        None => trail.push((node, seq)),
    }
}
