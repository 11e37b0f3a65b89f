//! Room: the session table of one node and what follows from it: who is connected where, and in which order stanzas for one
//! addressee leave. Called by the node's router; calls back through [`Carrier`]. Rules: blueprint §4 and §5, RFC 6121 §8 only
//! through the carrier's choice. Absent on purpose: sockets, clocks, XML, the link. All methods are short and never wait.
//!
//! One entry a bare JID: its rows, its *way* (what of its stanzas is unsettled, and where) and, while something has to wait, its
//! gate. The entry's lock makes every decision for one addressee happen in one order.
//!
//! * `row` who is where · `user` one entry · `way` may it go now · `held` what waits, and what lets it go on · `admit` what to take from other nodes

mod admit;
mod held;
mod row;
#[cfg(test)]
mod tests;
mod user;
mod way;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use config::canary::{Canary, sings};
use replication::clock::Hlc;
use smallvec::SmallVec;
use xmpp::jid::{BareJid, FullJid};

use self::admit::Lanes;
pub use self::admit::{Refusal, Taken};
use self::held::Waiters;
pub use self::row::{Place, RouteEntry, Row, Shows};
use self::user::User;
use self::way::Way;
pub use self::way::{Trail, leave_trail};
use crate::node_ix::NodeIx;
use crate::park::{Gate, Held, Mark, Wait};

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
    /// Puts the stanza in local mailboxes and on links. When no local mailbox took it, it may yet come back: then it leaves in
    /// `trail`, for each link, the number that settles it ([`leave_trail`]). `Err` gives it back when a bound refused it and nobody
    /// got it.
    fn carry(&self, stanza: S, here: &[H], there: &[NodeIx], trail: &mut Trail) -> Result<(), S>;
    /// The highest number that is settled with that node: it has been told of all that node gives back of what was sent up to that
    /// number. A link's acknowledgement does not say so (it may overtake what is given back); the echo of a probe that was sent
    /// later does. `u64::MAX` for a node that is not live.
    fn acked(&self, node: NodeIx) -> u64;
    /// A number that is settled when all that node has given back until now is here: that of the next probe. 0: no such thing.
    fn fence(&self, node: NodeIx) -> u64 {
        let _ = node;
        0
    }
    /// The place of a stanza among those this node has accepted, greater for later ones; 0 when unknown. What comes back goes by it.
    fn order(&self, stanza: &S) -> u64 {
        let _ = stanza;
        0
    }
    /// How long a session of that node (`None`: of this one) that has lost its row is waited for, milliseconds, at most the hold time.
    fn leaving_ms(&self, node: Option<NodeIx>, to: &BareJid) -> u64 {
        let _ = (node, to);
        way::LEAVING_MS_MAX
    }
    /// Sends a probe to every live node; what must be echoed. Empty when there is no other live node.
    fn mark(&self) -> Mark;
    /// Whether all of a mark is echoed (nodes that metadata says are down do not hold it back).
    fn closed(&self, mark: &Mark) -> bool;
    /// It came `waited_ms` ago for somebody who was away then, and is delivered after all (XEP-0203).
    fn late(&self, stanza: S, waited_ms: u64) -> S {
        let _ = waited_ms;
        stanza
    }
    /// Bytes the stanza counts for while it waits.
    fn weight(&self, stanza: &S) -> usize;
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

/// What the end of a session of this node changed.
#[derive(Debug)]
pub struct Unbound<H> {
    /// The row, if it was still there; `None` when a newer bind had taken its place (or it was never known).
    pub row: Option<Row<H>>,
    /// Something waits for this addressee: call [`Directory::reopen`].
    pub reopen: bool,
}

/// How users are hashed. Their names come from strangers: in production nobody must know the seed.
pub type Hashing = foldhash::fast::SeedableRandomState;

/// The table. `H` is the handle of a local session, `S` what is routed. Memory: about 200 bytes a connected user, plus what waits.
#[derive(Debug)]
pub struct Directory<H, S> {
    users: scc::HashMap<BareJid, User<H, S>, Hashing>,
    waiters: Waiters,
    lanes: Lanes,
    parked_bytes: AtomicUsize,
    parked_count: AtomicUsize,
    limits: ParkLimits,
    sessions_here: AtomicUsize,
    dropped_stale: AtomicU64,
}

impl<H: Clone + PartialEq, S> Directory<H, S> {
    /// An empty table.
    pub fn new(limits: ParkLimits) -> Self {
        Self::hashed(limits, Hashing::random())
    }

    /// The same, hashed in a way that the caller knows, so that users are met in an order that can be had again.
    pub fn hashed(limits: ParkLimits, hashing: Hashing) -> Self {
        Self {
            users: scc::HashMap::with_hasher(hashing),
            waiters: Waiters::default(),
            lanes: Lanes::default(),
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

    /// Users of whom something is known: rows, things on the way, things that wait.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nothing is known of anybody.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
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
        let was_unknown = row.there().is_some_and(|node| user.way.knows(node));
        let mut superseded = None;
        let mut lost = None;
        if let Some(at) = user.rows.iter().position(|known| known.full == row.full) {
            let known = &user.rows[at];
            let same = known.place == row.place && known.generation == row.generation;
            let newer = row.generation > known.generation
                || (!same && row.generation == known.generation && wins_tie(known));
            if !newer && !same {
                self.dropped_stale.fetch_add(1, Ordering::Relaxed);
                let (there, generation) = (row.there(), row.generation);
                // It had lost before it was known, and what it has of ours it has all the same.
                match user.shadow(row) {
                    true if was_unknown => user.way.leaves_surely(there, generation),
                    true => user.way.leaves(there, generation),
                    false => {}
                }
                let reopen = was_unknown && user.gate.is_some();
                return Bound { superseded: None, lost: true, reopen };
            }
            let old = user.rows.remove(at);
            if !same {
                user.way.leaves(old.there(), old.generation);
            }
            match &old.place {
                Place::Here(handle) => {
                    self.sessions_here.fetch_sub(1, Ordering::Relaxed);
                    superseded = (!same).then(|| handle.clone());
                }
                // Its node ends it when it hears of the newer one, unless that one is gone by then.
                Place::There(_) => lost = Some(old).filter(|_| !same),
            }
        }
        if matches!(row.place, Place::Here(_)) {
            self.sessions_here.fetch_add(1, Ordering::Relaxed);
        }
        user.unshadow(row.there(), &row.full);
        user.rows.push(row);
        if let Some(old) = lost {
            user.shadow(old);
        }
        Bound { superseded, lost: false, reopen: user.gate.is_some() }
    }

    /// New presence of a row. Returns whether the row is known with that generation, and whether something waits for the user.
    pub fn update(&self, full: &FullJid, generation: Hlc, shows: Shows) -> (bool, bool) {
        self.change(full, |row| row.generation == generation, shows)
    }

    /// A row that came out from under another has been seen by those here ([`Row::emerged`]).
    pub fn seen(&self, full: &FullJid, generation: Hlc) {
        self.users.update_sync(full.bare_str(), |_, user| {
            let mut rows = user.rows.iter_mut();
            if let Some(row) = rows.find(|row| row.full == *full && row.generation == generation) {
                row.emerged = false;
            }
        });
    }

    /// As [`Directory::update`], by the word of another node: touches its own row only, also when two nodes made the same generation.
    pub fn update_there(
        &self,
        node: NodeIx,
        full: &FullJid,
        generation: Hlc,
        shows: Shows,
    ) -> (bool, bool) {
        let own = |row: &Row<H>| row.generation == generation && row.there() == Some(node);
        self.change(full, own, shows)
    }

    fn change(
        &self,
        full: &FullJid,
        which: impl Fn(&Row<H>) -> bool,
        shows: Shows,
    ) -> (bool, bool) {
        let changed = self.users.update_sync(full.bare_str(), |_, user| {
            let shadows = user.shadows.iter_mut().flat_map(|all| all.iter_mut());
            let mut rows = user.rows.iter_mut().chain(shadows);
            let found = rows.find(|row| row.full == *full && which(row));
            let known = found.is_some();
            if let Some(row) = found {
                row.priority = shows.priority;
                row.available = shows.available;
                row.hidden = shows.hidden;
                row.lit = true;
                row.emerged = false;
            }
            (known, user.gate.is_some())
        });
        changed.unwrap_or((false, false))
    }

    /// Removes exactly that generation, wherever its row is: [`Directory::unbind_there`] and [`Directory::unbind_here`] for callers
    /// who do not say. `drain` is not called for a session of this node whose row a newer bind has taken.
    pub fn unbind(
        &self,
        full: &FullJid,
        generation: Hlc,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        drain: impl FnOnce(&Row<H>) -> Vec<S>,
    ) -> Option<(Row<H>, bool)> {
        let row = self.users.read_sync(full.bare_str(), |_, user| {
            let mut rows = user.rows.iter();
            let known = rows.find(|row| row.full == *full && row.generation == generation).cloned();
            let there = known.as_ref().map_or(user.way.leaving_there(generation), Row::there);
            (known, there)
        });
        match row {
            Some((row, Some(node))) => {
                let reopen = self.unbind_there(node, full, generation, now_ms, carrier);
                let gone = || Row::new(full.clone(), Place::There(node), generation);
                Some((row.unwrap_or_else(gone), reopen))
            }
            Some((Some(row), None)) => {
                let drain = || drain(&row);
                let unbound = self.unbind_here(full, generation, now_ms, carrier, drain);
                Some((row, unbound.reopen))
            }
            _ => {
                self.unbind_here(full, generation, now_ms, carrier, Vec::new);
                None
            }
        }
    }

    /// A session of `node` has ended, by the word of that node: removes exactly that row; a late word never removes a newer one.
    /// Returns whether to call [`Directory::reopen`].
    pub fn unbind_there(
        &self,
        node: NodeIx,
        full: &FullJid,
        generation: Hlc,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> bool {
        self.end(full, Some(node), generation, now_ms, carrier, Vec::new).reopen
    }

    /// As [`Directory::unbind_there`], of a session that goes on at the node `to`, with all it had: what of ours it had is there now, and what it gives
    /// back there comes before the next echo of that node.
    pub fn passed_there(
        &self,
        (node, to): (NodeIx, NodeIx),
        full: &FullJid,
        generation: Hlc,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> bool {
        self.users.update_sync(full.bare_str(), |_, user| {
            if user.way.may_be_at(node) {
                user.way.held_there(to, carrier.fence(to));
            }
        });
        self.unbind_there(node, full, generation, now_ms, carrier)
    }

    /// A session of this node has ended: removes its row, if no newer bind has. `drain` takes, in either case, what the session had
    /// not handed on; in the same step that goes to the front of the addressee's gate, so that nothing newer overtakes it. What
    /// came from other nodes `drain` gives back to them ([`Directory::give_back`]) and does not return.
    pub fn unbind_here(
        &self,
        full: &FullJid,
        generation: Hlc,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        drain: impl FnOnce() -> Vec<S>,
    ) -> Unbound<H> {
        let unbound = self.end(full, None, generation, now_ms, carrier, drain);
        if unbound.row.is_some() {
            self.sessions_here.fetch_sub(1, Ordering::Relaxed);
        }
        unbound
    }

    fn end(
        &self,
        full: &FullJid,
        node: Option<NodeIx>,
        generation: Hlc,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        drain: impl FnOnce() -> Vec<S>,
    ) -> Unbound<H> {
        let bare = full.bare();
        let mut entry = self.users.entry_sync(bare.clone()).or_default();
        let user = entry.get_mut();
        // Two nodes may have made the same generation; the place tells them apart.
        let ended = |row: &Row<H>| {
            let same = row.generation == generation && row.there() == node;
            row.full == *full && (same || sings(Canary::UnbindsNewer))
        };
        let row = user.rows.iter().position(ended).map(|at| user.rows.remove(at));
        match (&row, node) {
            (Some(_), there) => {
                if let Some(node) = there {
                    user.way.row_gone(node, carrier.fence(node));
                }
                user.promote(full);
            }
            (None, Some(_)) => user.end_shadow(ended),
            (None, None) => {}
        }
        user.way.left(node, generation, |node| carrier.fence(node));
        if node.is_some_and(|node| user.way.is_open(node, carrier)) {
            // At once: a node that is emptied answers now, and may not be there when somebody has to wait for it.
            carrier.mark();
        }
        for stanza in drain() {
            self.put_back(&bare, user, stanza, now_ms, carrier);
        }
        let (reopen, idle) = (user.is_pending(), user.is_idle());
        drop(entry);
        if idle {
            self.users.remove_if_sync(&bare, |user| user.is_idle());
        }
        Unbound { row, reopen }
    }

    /// Removes the rows of a node that `gone` accepts: its incarnation died, and with it all it could give back (for a snapshot see
    /// [`Directory::told_all`]). Scans the table: O(users), for rare events. Returns what was removed and the users for whom
    /// something waits.
    pub fn remove_rows(
        &self,
        node: NodeIx,
        gone: impl FnMut(&Row<H>) -> bool,
    ) -> (Vec<Row<H>>, Vec<BareJid>) {
        self.prune(node, gone, |way, _| way.forget_leaving(node))
    }

    /// A snapshot of a node's rows has ended: removes those of its rows that `gone` accepts because they were not repeated. Their
    /// sessions may have given back something that is still on the way, and of those that are leaving the goodbye may have been
    /// left out. Otherwise as [`Directory::remove_rows`].
    pub fn told_all(
        &self,
        node: NodeIx,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        gone: impl FnMut(&Row<H>) -> bool,
    ) -> (Vec<Row<H>>, Vec<BareJid>) {
        self.prune(node, gone, |way, removed| {
            if removed {
                way.row_gone(node, carrier.fence(node));
            }
            way.hurry(node, now_ms)
        })
    }

    fn prune(
        &self,
        node: NodeIx,
        mut gone: impl FnMut(&Row<H>) -> bool,
        mut settle: impl FnMut(&mut Way, bool) -> bool,
    ) -> (Vec<Row<H>>, Vec<BareJid>) {
        let mut removed = Vec::new();
        let mut reopen = Vec::new();
        self.users.retain_sync(|bare, user| {
            let before = removed.len();
            user.rows.retain(|row| {
                let goes = row.there() == Some(node) && gone(row);
                if goes {
                    removed.push(row.clone());
                }
                !goes
            });
            user.end_shadow(|row| row.there() == Some(node) && gone(row));
            removed[before..].iter().for_each(|row| user.promote(&row.full));
            let touched = removed.len() > before;
            let touched = settle(&mut user.way, touched) || touched;
            if touched && user.is_pending() {
                reopen.push(bare.clone());
            }
            !user.is_idle()
        });
        (removed, reopen)
    }

    /// Marks a node's rows dark (silent too long) or lit again; returns the full JIDs and generations of available rows whose light
    /// changed, without those that are hidden. O(users).
    pub fn light(&self, node: NodeIx, lit: bool) -> Vec<(FullJid, Hlc)> {
        let mut changed = Vec::new();
        self.users.retain_sync(|_, user| {
            let shadows = user.shadows.iter_mut().flat_map(|all| all.iter_mut());
            for row in shadows.filter(|row| row.there() == Some(node)) {
                row.lit = lit;
            }
            for row in
                user.rows.iter_mut().filter(|row| row.there() == Some(node) && row.lit != lit)
            {
                row.lit = lit;
                if row.available && !row.hidden {
                    changed.push((row.full.clone(), row.generation));
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
            self.decide(to, user, stanza, now_ms, carrier)
        });
        if let Some(outcome) = known {
            return outcome;
        }
        let Some(stanza) = stanza else { return Outcome::Sent };
        let mut entry = self.users.entry_sync(to.clone()).or_default();
        let outcome = self.decide(to, entry.get_mut(), stanza, now_ms, carrier);
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
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Outcome<S> {
        if user.gate.is_some() {
            return match self.hold(to, user, stanza, now_ms, carrier) {
                Ok(()) => Outcome::Held,
                Err(stanza) => Outcome::Full(stanza),
            };
        }
        let choice = carrier.choose(&stanza, &user.rows);
        match &choice {
            Choice::Refuse => return Outcome::Nobody(stanza),
            Choice::Send { here, there } if !user.way.blocks(to, here, there, now_ms, carrier) => {
                return match carry(user, stanza, here, there, carrier) {
                    Ok(()) => Outcome::Sent,
                    Err(stanza) => Outcome::Full(stanza),
                };
            }
            _ => {}
        }
        // It waits, or at least has to prove that it need not.
        match self.hold(to, user, stanza, now_ms, carrier) {
            Err(stanza) => Outcome::Full(stanza),
            Ok(()) => {
                let mut outcomes = Vec::new();
                self.release(to, user, now_ms, carrier, &mut outcomes);
                outcomes.pop().unwrap_or(Outcome::Held)
            }
        }
    }
}

/// Sends one stanza on its way.
fn carry<H, S>(
    user: &mut User<H, S>,
    stanza: S,
    here: &[H],
    there: &[NodeIx],
    carrier: &impl Carrier<H, S>,
) -> Result<(), S> {
    let first = user.way.is_settled(carrier);
    let mut trail = Trail::new(&user.rows, there);
    carrier.carry(stanza, here, there, &mut trail)?;
    user.way.went(trail, !here.is_empty(), first);
    Ok(())
}
