//! Room: what waits in front of an addressee, and the events that let it go on: an echo, a settlement, a row, a filing, a deadline.
//! Part of the session table (blueprint §5). Absent on purpose: deciding *where* (that is `Carrier::choose`).
//!
//! No wake-up is lost: whoever finds that it has to wait first registers, then looks again; events first change what is looked at,
//! then take the registered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;

/// Which addressees wait for which event, so that an event touches only those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    echo: BTreeMap<(Arc<str>, u64), BTreeSet<BareJid>>,
    ack: BTreeMap<(NodeIx, u64), BTreeSet<BareJid>>,
    /// What has been echoed: nobody registers for that any more.
    echoed: BTreeMap<Arc<str>, u64>,
    deadline: BTreeMap<(u64, u64), BareJid>,
    tie: u64,
}

impl Waiters {
    fn for_echoes(&self, mark: &Mark, who: &BareJid) {
        let mut inner = self.inner.lock();
        for (region, number) in mark.regions() {
            if inner.echoed.get(region).is_none_or(|echoed| *echoed < number) {
                inner.echo.entry((region.into(), number)).or_default().insert(who.clone());
            }
        }
    }

    fn for_acks(&self, open: &[(NodeIx, u64)], who: &BareJid) {
        let mut inner = self.inner.lock();
        for (node, number) in open {
            inner.ack.entry((*node, *number)).or_default().insert(who.clone());
        }
    }

    /// Moves the one deadline of a gate.
    fn for_deadline(
        &self,
        known: Option<(u64, u64)>,
        at_ms: Option<u64>,
        who: &BareJid,
    ) -> Option<(u64, u64)> {
        if known.map(|(at, _)| at) == at_ms {
            return known;
        }
        let mut inner = self.inner.lock();
        if let Some(known) = known {
            inner.deadline.remove(&known);
        }
        inner.tie += 1;
        let key = (at_ms?, inner.tie);
        inner.deadline.insert(key, who.clone());
        Some(key)
    }
}

/// Takes everything waiting on `place` up to `upto`.
fn take_upto<P: Ord + Clone>(
    map: &mut BTreeMap<(P, u64), BTreeSet<BareJid>>,
    place: &P,
    upto: u64,
) -> BTreeSet<BareJid> {
    let mut taken = BTreeSet::new();
    while let Some((key, _)) = map.range((place.clone(), 0)..=(place.clone(), upto)).next() {
        let key = key.clone();
        taken.append(&mut map.remove(&key).unwrap_or_default());
    }
    taken
}

impl<H: Clone + PartialEq, S> Directory<H, S> {
    /// A probe was echoed (and `Carrier::closed` knows): addressees whose gate may open now; call [`Directory::reopen`] for each.
    pub fn echoed(&self, region: &str, number: u64) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        let region: Arc<str> = region.into();
        let known = inner.echoed.entry(region.clone()).or_default();
        *known = number.max(*known);
        take_upto(&mut inner.echo, &region, number).into_iter().collect()
    }

    /// All up to this number is settled with a node (and `Carrier::acked` knows): addressees whose gate may open now.
    pub fn acked(&self, node: NodeIx, number: u64) -> Vec<BareJid> {
        take_upto(&mut self.waiters.inner.lock().ack, &node, number).into_iter().collect()
    }

    /// A node does not count any more (declared down, or restarted and its numbers begin anew): everyone who waited for it.
    pub fn released(&self, region: &str, node: NodeIx) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        let mut taken = take_upto(&mut inner.echo, &region.into(), u64::MAX);
        taken.append(&mut take_upto(&mut inner.ack, &node, u64::MAX));
        taken.into_iter().collect()
    }

    /// Nothing comes back any more from a node: it is declared down, or it came back as another incarnation and what was on the
    /// way to it has been put back ([`Directory::put_back_all`]) before. O(users).
    pub fn forget_trail(&self, node: NodeIx) {
        self.users.retain_sync(|_, user| {
            user.way.forget(node);
            !user.is_idle()
        });
    }

    /// Addressees for whom the hold deadline of something has passed: call [`Directory::reopen`] for each.
    pub fn due(&self, now_ms: u64) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        let later = inner.deadline.split_off(&(now_ms + 1, 0));
        std::mem::replace(&mut inner.deadline, later).into_values().collect()
    }

    /// Puts a new stanza at the end of the gate; gives it back when a bound is reached.
    pub(super) fn hold(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        stanza: S,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Result<(), S> {
        let weight = carrier.weight(&stanza);
        let waiting = user.gate.as_ref().map_or(0, |gate| gate.len());
        if self.parked_bytes.load(Ordering::Relaxed) + weight > self.limits.bytes_max
            || waiting >= self.limits.per_addressee_max
        {
            return Err(stanza);
        }
        let mut held = self.count(stanza, now_ms, carrier);
        let gate = self.gate(to, user, now_ms);
        held.late = gate.wait == Wait::Filing;
        gate.held.push_back(held);
        Ok(())
    }

    /// Puts back what was accepted once already: ahead of what is newer, and never refused.
    pub(super) fn put_back(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        stanza: S,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) {
        let held = self.count(stanza, now_ms, carrier);
        self.gate(to, user, now_ms).put_back(held);
    }

    fn count(&self, stanza: S, now_ms: u64, carrier: &impl Carrier<H, S>) -> Held<S> {
        let (weight, order) = (carrier.weight(&stanza), carrier.order(&stanza));
        self.parked_bytes.fetch_add(weight, Ordering::Relaxed);
        self.parked_count.fetch_add(1, Ordering::Relaxed);
        Held { stanza, mark: carrier.mark(), since_ms: now_ms, order, late: false, weight }
    }

    fn gate<'a>(&self, to: &BareJid, user: &'a mut User<H, S>, now_ms: u64) -> &'a mut Gate<S> {
        let gate = user.gate.get_or_insert_with(|| Box::new(Gate::new(Wait::Watermark)));
        if gate.deadline.is_none() {
            gate.deadline = self.waiters.for_deadline(None, Some(now_ms + self.limits.hold_ms), to);
        }
        gate
    }

    /// What was on its way and cannot arrive (a session of this account ended whose row is already gone, a node died): to the front
    /// of the gate, in order. Call [`Directory::reopen`] when all of it is back.
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

    /// A stanza that another node gave back. It goes before everything newer, once it is settled what else comes back. Never refused for
    /// want of room.
    pub fn returned(
        &self,
        to: &BareJid,
        stanza: S,
        refusal: Refusal,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Outcome<S> {
        let mut outcomes = Vec::new();
        let mut entry = self.users.entry_sync(to.clone()).or_default();
        let user = entry.get_mut();
        user.way.refused();
        // What shuts a gate opens it too; nothing it waits for is hurried by what comes back.
        let shut = user.gate.is_some();
        self.put_back(to, user, stanza, now_ms, carrier);
        // Only now: who reads the new number finds the stanza in its place.
        self.lanes.has_seen(refusal);
        if !shut {
            self.release(to, user, now_ms, carrier, &mut outcomes);
        }
        let idle = user.is_idle();
        drop(entry);
        if idle {
            self.users.remove_if_sync(to, |user| user.is_idle());
        }
        outcomes.pop().unwrap_or(Outcome::Held)
    }

    /// A node refused a copy of a stanza that others have, or may still take: nothing to send again, but what follows waits until
    /// all is settled, for that node refuses it until then.
    pub fn refused(&self, to: &BareJid, refusal: Refusal) {
        let known = self.users.update_sync(to, |_, user| {
            user.way.refused();
            self.lanes.has_seen(refusal);
        });
        if known.is_none() {
            self.lanes.has_seen(refusal);
        }
    }

    /// Sessions of `node` have something for this addressee that an earlier life of this node sent there. It may come back, as if it had been
    /// sent now: what is newer waits for it where it would wait then.
    pub fn held_there(
        &self,
        to: &BareJid,
        node: NodeIx,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) {
        let mut entry = self.users.entry_sync(to.clone()).or_default();
        let user = entry.get_mut();
        user.way.held_there(node, carrier.fence(node));
        // Its session may have lost its row before it was known that it has something.
        let lost = user.shadows.iter().flat_map(|all| all.iter());
        let mut is_known = user.rows.iter().any(|row| row.there() == Some(node));
        for row in lost.filter(|row| row.there() == Some(node)) {
            user.way.leaves(Some(node), row.generation);
            is_known = true;
        }
        if !is_known {
            user.way.leaves_unknown(node);
        }
        if user.gate.is_none() {
            self.tidy(to, user, now_ms, carrier);
        }
        let idle = user.is_idle();
        drop(entry);
        if idle {
            self.users.remove_if_sync(to, |user| user.is_idle());
        }
    }

    /// Whether something for this addressee waits for sessions of that node of which no row tells ([`Directory::held_there`]).
    pub fn waits_for_unknown(&self, to: &BareJid, node: NodeIx) -> bool {
        self.users.read_sync(to, |_, user| user.way.has_unknown(node)).unwrap_or(false)
    }

    /// That node has nothing for this addressee any more of what [`Directory::held_there`] said. Returns whether to call [`Directory::reopen`].
    pub fn has_nothing_there(&self, to: &BareJid, node: NodeIx) -> bool {
        let of = |_: &BareJid, user: &mut User<H, S>| user.way.knows(node) && user.is_pending();
        self.users.update_sync(to, of).unwrap_or(false)
    }

    /// The home has taken the batch that [`Outcome::File`] gave out. `back` are those it did not take (the addressee is connected
    /// after all): they go before what came meanwhile.
    pub fn filed(
        &self,
        to: &BareJid,
        back: Vec<S>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Vec<Outcome<S>> {
        self.put_back_all(to, back, now_ms, carrier);
        self.users.update_sync(to, |_, user| {
            if let Some(gate) = user.gate.as_mut() {
                gate.wait = Wait::Watermark;
            }
        });
        self.reopen(to, now_ms, carrier)
    }

    /// Looks again at what waits for one addressee and lets go, in order, what can go. Outcomes that are final need the caller.
    pub fn reopen(
        &self,
        to: &BareJid,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Vec<Outcome<S>> {
        let mut outcomes = Vec::new();
        let idle = self.users.update_sync(to, |_, user| {
            self.release(to, user, now_ms, carrier, &mut outcomes);
            user.is_idle()
        });
        if idle == Some(true) {
            self.users.remove_if_sync(to, |user| user.is_idle());
        }
        outcomes
    }

    pub(super) fn release(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        outcomes: &mut Vec<Outcome<S>>,
    ) {
        self.let_go(to, user, now_ms, carrier, outcomes);
        if let Some(gate) = user.gate.as_mut() {
            let since = gate.front().map(|head| head.since_ms + self.limits.hold_ms);
            // Whoever waits for a session that is leaving gives up earlier; whoever is overdue has been looked at just now.
            let (_, leaving) = user.way.waits_for(carrier);
            let at = since.map(|at| leaving.map_or(at, |leaving| at.min(leaving)).max(now_ms + 1));
            gate.deadline = self.waiters.for_deadline(gate.deadline, at, to);
            return;
        }
        self.tidy(to, user, now_ms, carrier);
    }

    /// Forgets what is settled; what is not is waited for, if nobody else will look at it again.
    fn tidy(&self, to: &BareJid, user: &mut User<H, S>, now_ms: u64, carrier: &impl Carrier<H, S>) {
        user.way.tidy(&user.rows, now_ms, carrier);
        if user.is_pending() {
            self.await_acks(to, user, carrier);
            user.way.tidy(&user.rows, now_ms, carrier);
        }
    }

    fn await_acks(&self, to: &BareJid, user: &User<H, S>, carrier: &impl Carrier<H, S>) {
        let (open, _) = user.way.waits_for(carrier);
        if !open.is_empty() {
            self.waiters.for_acks(&open, to);
            // For the probes: without one nothing is settled.
            carrier.mark();
        }
    }

    /// Whether what is on the way bars these places; then the events that change it are waited for.
    fn must_wait(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        here: &[H],
        there: &[NodeIx],
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> bool {
        if !user.way.blocks(to, here, there, now_ms, carrier) {
            return false;
        }
        self.await_acks(to, user, carrier);
        let waits = user.way.blocks(to, here, there, now_ms, carrier);
        if let (true, Some(gate)) = (waits, user.gate.as_mut()) {
            gate.wait = Wait::Acks;
        }
        waits
    }

    fn let_go(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        outcomes: &mut Vec<Outcome<S>>,
    ) {
        let mut batch = Vec::new();
        loop {
            let Some(gate) = user.gate.as_mut() else { return };
            if gate.wait == Wait::Filing {
                return;
            }
            let Some(head) = gate.front() else { break };
            let expired = head.since_ms + self.limits.hold_ms <= now_ms;
            let late = head.late.then(|| now_ms.saturating_sub(head.since_ms));
            let choice = carrier.choose(&head.stanza, &user.rows);
            // Someone takes it, or nobody ever will: it goes alone. Only what is to be filed travels as a batch.
            if !batch.is_empty() && !matches!(choice, Choice::Nobody { file: true }) {
                break;
            }
            match choice {
                Choice::Send { here, there } => {
                    if self.must_wait(to, user, &here, &there, now_ms, carrier) {
                        if !expired {
                            return;
                        }
                        outcomes.push(Outcome::Expired(self.take(user)));
                        continue;
                    }
                    let mut stanza = self.take(user);
                    if let Some(waited_ms) = late {
                        stanza = carrier.late(stanza, waited_ms);
                    }
                    outcomes.push(match carry(user, stanza, &here, &there, carrier) {
                        Ok(()) => Outcome::Sent,
                        Err(stanza) => Outcome::Full(stanza),
                    });
                }
                Choice::Nobody { file } => {
                    if !carrier.closed(&head.mark) {
                        if !batch.is_empty() {
                            break;
                        }
                        self.waiters.for_echoes(&head.mark, to);
                        if !carrier.closed(&head.mark) && !expired {
                            gate.wait = Wait::Watermark;
                            return;
                        }
                    }
                    // Filing is one more place to go: what may still come back goes first.
                    if file && !expired && self.must_wait(to, user, &[], &[], now_ms, carrier) {
                        if batch.is_empty() {
                            return;
                        }
                        break;
                    }
                    let stanza = self.take(user);
                    match (file, expired) {
                        // Expired too: the home may still take it, which serves the addressee better than a bounce.
                        (true, _) => batch.push(stanza),
                        (false, true) => outcomes.push(Outcome::Expired(stanza)),
                        (false, false) => outcomes.push(Outcome::Nobody(stanza)),
                    }
                }
                Choice::Refuse => outcomes.push(Outcome::Nobody(self.take(user))),
            }
        }
        let Some(gate) = user.gate.as_mut() else { return };
        if !batch.is_empty() {
            gate.wait = Wait::Filing;
            outcomes.push(Outcome::File(batch));
        } else if gate.is_empty() {
            self.waiters.for_deadline(gate.deadline, None, to);
            user.gate = None;
        }
    }

    fn take(&self, user: &mut User<H, S>) -> S {
        let gate = user.gate.as_mut().expect("what is taken was seen at its front");
        let held = gate.pop().expect("front() was some");
        self.parked_bytes.fetch_sub(held.weight, Ordering::Relaxed);
        self.parked_count.fetch_sub(1, Ordering::Relaxed);
        held.stanza
    }
}
