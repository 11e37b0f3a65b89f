//! Room: what waits in front of an addressee, and the events that let it go on: an echo, an ack, a row, a filing, a deadline.
//! Part of the session table (blueprint §5). Absent on purpose: deciding *where* (that is `Carrier::choose`).

use std::collections::BTreeMap;
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
    echo: BTreeMap<(Arc<str>, u64), Vec<BareJid>>,
    ack: BTreeMap<(NodeIx, u64), Vec<BareJid>>,
    deadline: BTreeMap<(u64, u64), BareJid>,
    tie: u64,
}

impl Waiters {
    fn for_echo(&self, region: &str, number: u64, who: &BareJid) {
        self.inner.lock().echo.entry((region.into(), number)).or_default().push(who.clone());
    }

    fn for_ack(&self, node: NodeIx, seq: u64, who: &BareJid) {
        self.inner.lock().ack.entry((node, seq)).or_default().push(who.clone());
    }

    fn for_deadline(&self, at_ms: u64, who: &BareJid) {
        let mut inner = self.inner.lock();
        inner.tie += 1;
        let tie = inner.tie;
        inner.deadline.insert((at_ms, tie), who.clone());
    }
}

/// Takes everything waiting on `place` up to `upto`.
fn take_upto<P: Ord + Clone>(
    map: &mut BTreeMap<(P, u64), Vec<BareJid>>,
    place: &P,
    upto: u64,
) -> Vec<BareJid> {
    let mut taken = Vec::new();
    while let Some((key, _)) = map.range((place.clone(), 0)..=(place.clone(), upto)).next() {
        let key = key.clone();
        taken.extend(map.remove(&key).into_iter().flatten());
    }
    taken
}

impl<H: Clone + PartialEq, S> Directory<H, S> {
    /// A probe was echoed: addressees whose gate may open now; call [`Directory::reopen`] for each.
    pub fn echoed(&self, region: &str, number: u64) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        if inner.echo.is_empty() {
            return Vec::new();
        }
        take_upto(&mut inner.echo, &region.into(), number)
    }

    /// A link acknowledged our frames: addressees whose gate may open now.
    pub fn acked(&self, node: NodeIx, seq: u64) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        if inner.ack.is_empty() {
            return Vec::new();
        }
        take_upto(&mut inner.ack, &node, seq)
    }

    /// A node does not count any more (declared down, or restarted and its numbers begin anew): everyone who waited for it.
    pub fn released(&self, region: &str, node: NodeIx) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        let mut taken = take_upto(&mut inner.echo, &region.into(), u64::MAX);
        taken.extend(take_upto(&mut inner.ack, &node, u64::MAX));
        taken
    }

    /// Forgets what was sent to a node whose unacknowledged frames were handed back: its sequence numbers begin anew. O(users).
    pub fn forget_trail(&self, node: NodeIx) {
        self.users.retain_sync(|_, user| {
            user.trail.retain(|(known, _)| *known != node);
            !user.is_idle()
        });
    }

    /// Addressees for whom the hold deadline of something has passed: call [`Directory::reopen`] for each.
    pub fn due(&self, now_ms: u64) -> Vec<BareJid> {
        let mut inner = self.waiters.inner.lock();
        let later = inner.deadline.split_off(&(now_ms + 1, 0));
        std::mem::replace(&mut inner.deadline, later).into_values().collect()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one place decides how a stanza waits; a struct would only rename the list"
    )]
    pub(super) fn hold(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        stanza: S,
        returned_by: Option<NodeIx>,
        fresh: Option<(Wait, Mark)>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Outcome<S> {
        let weight = carrier.weight(&stanza);
        let waiting = user.gate.as_ref().map_or(0, |gate| gate.len());
        let full = self.parked_bytes.load(Ordering::Relaxed) + weight > self.limits.bytes_max
            || waiting >= self.limits.per_addressee_max;
        // What was once accepted and came back is never refused for want of room: it was counted when it was accepted.
        if full && returned_by.is_none() {
            return Outcome::Full(stanza);
        }
        self.parked_bytes.fetch_add(weight, Ordering::Relaxed);
        self.parked_count.fetch_add(1, Ordering::Relaxed);
        let (wait, mark) = match fresh {
            Some((wait, mark)) => (Some(wait), mark),
            None => (None, carrier.mark()),
        };
        let gate =
            user.gate.get_or_insert_with(|| Box::new(Gate::new(wait.unwrap_or(Wait::Watermark))));
        let since_ms = now_ms;
        let held = Held { stanza, mark, since_ms, returned_by, weight };
        match wait {
            Some(Wait::Watermark) => self.await_mark(to, &held.mark),
            Some(Wait::Acks) => self.await_acks(to, &user.trail),
            Some(Wait::Filing) | None => {}
        }
        self.waiters.for_deadline(now_ms + self.limits.hold_ms, to);
        match returned_by {
            Some(_) => gate.returned.push_back(held),
            None => gate.held.push_back(held),
        }
        Outcome::Held
    }

    /// Puts back, behind what was put back before and ahead of everything else. Never refused: it was accepted once already.
    pub(super) fn put_back(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        stanza: S,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) {
        let weight = carrier.weight(&stanza);
        self.parked_bytes.fetch_add(weight, Ordering::Relaxed);
        self.parked_count.fetch_add(1, Ordering::Relaxed);
        self.waiters.for_deadline(now_ms + self.limits.hold_ms, to);
        let held =
            Held { stanza, mark: carrier.mark(), since_ms: now_ms, returned_by: None, weight };
        user.gate
            .get_or_insert_with(|| Box::new(Gate::new(Wait::Watermark)))
            .returned
            .push_back(held);
    }

    fn await_mark(&self, to: &BareJid, mark: &Mark) {
        for (region, number) in mark.regions() {
            self.waiters.for_echo(region, number, to);
        }
    }

    fn await_acks(&self, to: &BareJid, trail: &Trail) {
        for (node, seq) in trail {
            self.waiters.for_ack(*node, *seq, to);
        }
    }

    /// The home has taken the batch that [`Outcome::File`] gave out. `back` are those it did not take (the addressee is connected
    /// after all): they go first again.
    pub fn filed(
        &self,
        to: &BareJid,
        back: Vec<S>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> Vec<Outcome<S>> {
        self.users.update_sync(to, |_, user| {
            let Some(gate) = user.gate.as_mut() else { return };
            gate.wait = Wait::Watermark;
            let later = std::mem::take(&mut gate.returned);
            for stanza in back {
                self.put_back(to, user, stanza, now_ms, carrier);
            }
            user.gate.as_mut().expect("it was there a line ago").returned.extend(later);
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

    fn release(
        &self,
        to: &BareJid,
        user: &mut User<H, S>,
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
        outcomes: &mut Vec<Outcome<S>>,
    ) {
        let User { rows, trail, gate: gate_slot } = user;
        let Some(gate) = gate_slot.as_mut() else { return };
        if gate.wait == Wait::Filing {
            return;
        }
        let mut batch = Vec::new();
        while let Some(head) = gate.front() {
            let expired = head.since_ms + self.limits.hold_ms <= now_ms;
            let returned_by = head.returned_by;
            let choice = carrier.choose(&head.stanza, rows);
            // Someone takes it, or nobody ever will: it goes alone. Only what is to be filed travels as a batch.
            if !batch.is_empty() && !matches!(choice, Choice::Nobody { file: true }) {
                break;
            }
            match choice {
                Choice::Send { here, there } => {
                    if blocked(trail, &there, returned_by, carrier) && !expired {
                        gate.wait = Wait::Acks;
                        self.await_acks(to, trail);
                        return;
                    }
                    let stanza = self.take(gate);
                    if expired {
                        outcomes.push(Outcome::Expired(stanza));
                    } else if let Err(stanza) = carrier.carry(stanza, &here, &there, trail) {
                        outcomes.push(Outcome::Full(stanza));
                    } else {
                        outcomes.push(Outcome::Sent);
                    }
                }
                Choice::Nobody { file } => {
                    if !carrier.closed(&head.mark) && !expired {
                        if batch.is_empty() {
                            let mark = head.mark.clone();
                            gate.wait = Wait::Watermark;
                            self.await_mark(to, &mark);
                            return;
                        }
                        break;
                    }
                    let stanza = self.take(gate);
                    match (file, expired) {
                        // Expired too: the home may still take it, which serves the addressee better than a bounce.
                        (true, _) => batch.push(stanza),
                        (false, true) => outcomes.push(Outcome::Expired(stanza)),
                        (false, false) => outcomes.push(Outcome::Nobody(stanza)),
                    }
                }
                Choice::Refuse => {
                    let stanza = self.take(gate);
                    outcomes.push(Outcome::Nobody(stanza));
                }
            }
        }
        if !batch.is_empty() {
            gate.wait = Wait::Filing;
            outcomes.push(Outcome::File(batch));
        } else if gate.is_empty() {
            *gate_slot = None;
        }
    }

    fn take(&self, gate: &mut Gate<S>) -> S {
        let held = gate.pop().expect("front() was some");
        self.parked_bytes.fetch_sub(held.weight, Ordering::Relaxed);
        self.parked_count.fetch_sub(1, Ordering::Relaxed);
        held.stanza
    }
}
