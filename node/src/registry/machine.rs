//! Room: what the registry does next, as a plain state machine: connected or not, the beat, changed rows, all rows anew, what is left over of a life
//! that is over. It is handed the time and the answers, and says the next question; `driver` asks it. One question at a time.
//!
//! **Everything anew** when Redis does not have what was written: it never had (a start), was emptied or is another one, somebody took this node
//! for dead, the queue overflowed, or a master died that had not told its replica yet (the number of our last batch there is less than the one
//! that was answered). Then every row is written again, so many a second, and afterwards what an earlier writing left over is removed.

use std::collections::BTreeMap;

use config::Redis;
use global_distrib::Shows;
use replication::Hlc;
use xmpp::jid::FullJid;

use super::queue::Queue;
use super::row::{Change, Life, Record};
use super::script::{Batch, Beat, Beaten, Clear, Cleared};

/// Rows in one step at most: some milliseconds of Redis, which serves nobody else meanwhile.
pub(super) const BATCH: usize = 500;
/// The first pause before connecting again; it doubles.
const RETRY_MIN_MS: u64 = 100;
/// A node without a lease is remembered for so many of its lengths.
const REMEMBERED_LEASES: u64 = 10;

/// What the machine asks of the node it is part of.
pub(super) trait Site {
    /// The full JIDs of all rows of this node.
    fn all(&self) -> Vec<FullJid>;
    /// The row of one of them as it is now.
    fn row(&self, full: &FullJid) -> Option<(Hlc, Shows)>;
    /// What this node says of itself, JSON.
    fn record(&self) -> String;
    /// The version of what metadata says; 0: nothing yet.
    fn map_version(&self) -> u64;
    /// What it says of nodes, JSON.
    fn map(&self) -> String;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Connect.
    Connect,
    /// Say that this node lives.
    Beat(Beat),
    /// Write rows.
    Write(Batch),
    /// Remove rows.
    Clear(Clear),
    /// Changes were forgotten: tell the machine ([`Machine::overflowed`]) without keeping the queue from anybody, and ask again.
    Anew,
    /// Nothing until then, or until rows change.
    Wait(u64),
}

/// A node that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// What it says of itself.
    pub record: Record,
    /// Whether its lease is there.
    pub lives: bool,
    /// When that was seen last.
    pub seen_ms: u64,
}

#[derive(Debug)]
enum Road {
    Away { tries: u32, again_at: u64 },
    Here { beat_at: u64, greeted: bool },
}

/// What only grows in one life of a node, whichever Redis it writes to: what is left over there of an earlier writing is known by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Batches.
    number: u64,
    /// Full writings of all rows.
    writing: u64,
}

#[derive(Debug, Default)]
struct Rewrite {
    left: Vec<FullJid>,
    begun: bool,
}

/// See the room.
#[derive(Debug)]
pub(super) struct Machine {
    me: Life,
    lease_ms: u64,
    beat_ms: u64,
    gather_ms: u64,
    retry_max_ms: u64,
    rows_per_second: u64,
    road: Road,
    log_life: String,
    new_life: bool,
    map_told: Option<u64>,
    counted: Counted,
    /// The last batch that was answered and ought to be there.
    acked: Option<u64>,
    rewrite: Option<Rewrite>,
    left_over: Option<String>,
    paced_until: u64,
    /// What was taken and is not answered, and whether it was part of writing everything anew.
    asked: Option<(Batch, bool)>,
    nodes: BTreeMap<String, Known>,
    /// Lives without a lease, and since when.
    missing: BTreeMap<Life, u64>,
    sweep: Option<(Life, String)>,
    superseded: bool,
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Machine {
    /// One that has said nothing yet; what was counted in this life before.
    pub(super) fn new(me: Life, config: &Redis, counted: Counted) -> Machine {
        Machine {
            me,
            lease_ms: ms(config.lease),
            beat_ms: ms(config.beat),
            gather_ms: ms(config.gather),
            retry_max_ms: ms(config.retry_max),
            rows_per_second: u64::from(config.rows_per_second),
            road: Road::Away { tries: 0, again_at: 0 },
            log_life: String::new(),
            new_life: false,
            map_told: None,
            counted,
            acked: None,
            rewrite: None,
            left_over: None,
            paced_until: 0,
            asked: None,
            nodes: BTreeMap::new(),
            missing: BTreeMap::new(),
            sweep: None,
            superseded: false,
        }
    }

    /// What is counted by now.
    pub(super) fn counted(&self) -> Counted {
        self.counted
    }

    /// Who registered, by name.
    pub(super) fn nodes(&self) -> &BTreeMap<String, Known> {
        &self.nodes
    }

    /// The name of this life of the log.
    pub(super) fn log_life(&self) -> &str {
        &self.log_life
    }

    /// Whether a newer life of this node has registered.
    pub(super) fn is_superseded(&self) -> bool {
        self.superseded
    }

    /// Rows that are still to be written anew; none: all that was known is there.
    pub(super) fn left(&self) -> Option<usize> {
        let greeted = matches!(self.road, Road::Here { greeted: true, .. });
        match &self.rewrite {
            Some(rewrite) => Some(rewrite.left.len()),
            None => (!greeted || self.acked.is_none()).then_some(0),
        }
    }

    /// What to do now.
    pub(super) fn step(&mut self, now: u64, queue: &mut Queue, site: &dyn Site) -> Step {
        let (beat_at, greeted) = match self.road {
            Road::Away { again_at, .. } if now < again_at => return Step::Wait(again_at),
            Road::Away { .. } => return Step::Connect,
            Road::Here { beat_at, greeted } => (beat_at, greeted),
        };
        if now >= beat_at {
            return Step::Beat(self.beat(site));
        }
        if !greeted {
            return Step::Wait(beat_at);
        }
        if queue.take_overflow() {
            return Step::Anew;
        }
        let due_at = queue.due_at(self.gather_ms, BATCH);
        if due_at.is_some_and(|due_at| due_at <= now) {
            return self.write(queue.take(BATCH, now), false);
        }
        if now < self.paced_until {
            let next = due_at.map_or(self.paced_until, |due_at| due_at.min(self.paced_until));
            return Step::Wait(next.min(beat_at));
        }
        if let Some(step) = self.anew_step(site) {
            return step;
        }
        if let Some(cursor) = &self.left_over {
            let (life, before) = (self.me.clone(), Some(self.counted.writing));
            return Step::Clear(Clear { life, before, cursor: cursor.clone(), count: BATCH });
        }
        if let Some((life, cursor)) = &self.sweep {
            let (life, cursor) = (life.clone(), cursor.clone());
            return Step::Clear(Clear { life, before: None, cursor, count: BATCH });
        }
        Step::Wait(due_at.map_or(beat_at, |due_at| due_at.min(beat_at)))
    }

    /// The queue was full, and is empty. What it forgot has changed in the rows before it was noted: they say so.
    pub(super) fn overflowed(&mut self, site: &dyn Site) {
        tracing::warn!("too many changed rows waited for Redis; all are written anew");
        self.anew(site);
    }

    fn beat(&self, site: &dyn Site) -> Beat {
        let version = site.map_version();
        let map = (version > 0 && self.map_told != Some(version)).then(|| (version, site.map()));
        let (record, lease_ms) = (site.record(), self.lease_ms);
        Beat { record, lease_ms, map, new_life: self.new_life }
    }

    pub(super) fn write(&mut self, changes: Vec<(FullJid, Change)>, anew: bool) -> Step {
        self.counted.number += 1;
        let batch = Batch { number: self.counted.number, writing: self.counted.writing, changes };
        self.asked = Some((batch.clone(), anew));
        Step::Write(batch)
    }

    /// Everything is to be written again.
    fn anew(&mut self, site: &dyn Site) {
        self.counted.writing += 1;
        self.acked = None;
        self.left_over = None;
        self.rewrite = Some(Rewrite { left: site.all(), begun: false });
    }

    fn anew_step(&mut self, site: &dyn Site) -> Option<Step> {
        let rewrite = self.rewrite.as_mut()?;
        if rewrite.begun && rewrite.left.is_empty() {
            self.rewrite = None;
            self.left_over = Some("0".to_owned());
            return None;
        }
        rewrite.begun = true;
        let from = rewrite.left.len().saturating_sub(BATCH);
        let changes = rewrite
            .left
            .drain(from..)
            .filter_map(|full| {
                // As it is now: a change that comes after this is written after this.
                let (generation, shows) = site.row(&full)?;
                Some((full, Change::Is(generation, shows)))
            })
            .collect();
        Some(self.write(changes, true))
    }

    /// There is a connection.
    pub(super) fn connected(&mut self, now: u64) {
        self.road = Road::Here { beat_at: now, greeted: false };
    }

    /// The connection, or the question, failed: what was asked may have been done or not. `chance` between 0 and 1.
    pub(super) fn failed(&mut self, now: u64, queue: &mut Queue, chance: f64) {
        if let Some((batch, anew)) = self.asked.take() {
            match (&mut self.rewrite, anew) {
                (Some(rewrite), true) => {
                    rewrite.left.extend(batch.changes.into_iter().map(|(full, _)| full));
                }
                _ => queue.put_back(batch.changes, now),
            }
        }
        let tries = match self.road {
            Road::Away { tries, .. } => tries.saturating_add(1),
            Road::Here { greeted, .. } => u32::from(!greeted),
        };
        let pause = RETRY_MIN_MS.saturating_mul(1 << tries.min(16)).min(self.retry_max_ms);
        let pause = (pause as f64 * (0.5 + chance / 2.0)) as u64;
        self.road = Road::Away { tries, again_at: now + pause };
    }

    /// A beat was answered. True: somebody else is known now, or not any more.
    pub(super) fn beaten(
        &mut self,
        now: u64,
        sent: &Beat,
        heard: &Beaten,
        site: &dyn Site,
    ) -> bool {
        self.superseded = heard.superseded;
        self.road = Road::Here { beat_at: now + self.beat_ms, greeted: !heard.superseded };
        if let Some((version, _)) = &sent.map {
            self.map_told = Some(*version);
        }
        if sent.new_life {
            self.new_life = false;
        }
        if self.log_life != heard.life {
            // An empty Redis knows no map either.
            self.map_told =
                self.map_told.filter(|_| self.log_life.is_empty() || sent.map.is_some());
            self.log_life.clone_from(&heard.life);
        }
        if !heard.superseded {
            let there = heard.lives.iter().find(|(life, _)| *life == self.me).map(|(_, n)| *n);
            match (there, self.acked) {
                (Some(there), Some(acked)) if there < acked => {
                    tracing::warn!(
                        there,
                        acked,
                        "Redis has lost what was written last; all is written anew"
                    );
                    self.new_life = true;
                    self.road = Road::Here { beat_at: now, greeted: true };
                    self.anew(site);
                }
                (None, Some(_)) => {
                    tracing::warn!("Redis has lost the rows of this node; all are written anew");
                    self.anew(site);
                }
                (_, None) if self.rewrite.is_none() => self.anew(site),
                _ => {}
            }
        }
        self.look_for_dead(now, heard);
        self.remember(now, heard)
    }

    fn remember(&mut self, now: u64, heard: &Beaten) -> bool {
        let mut changed = false;
        for (record, lease) in &heard.nodes {
            let Ok(record) = serde_json::from_str::<Record>(record) else { continue };
            let name = format!("{}-{}", record.node.region, record.node.node);
            let lives = *lease == Some(record.node.incarnation);
            let known = self.nodes.get(&name);
            let seen_ms = if lives { now } else { known.map_or(0, |known| known.seen_ms) };
            if !lives && known.is_none() {
                continue; // Of a time before ours.
            }
            changed |= known.is_none_or(|known| known.record != record);
            self.nodes.insert(name, Known { record, lives, seen_ms });
        }
        let before = self.nodes.len();
        let remembered = self.lease_ms.saturating_mul(REMEMBERED_LEASES);
        self.nodes.retain(|_, known| now.saturating_sub(known.seen_ms) <= remembered);
        for known in self.nodes.values_mut() {
            // One that is not listed at all: its record went with an empty Redis.
            known.lives &= known.seen_ms == now;
        }
        changed || self.nodes.len() != before
    }

    /// Of the nodes that live the one with the least name removes what the dead have left.
    fn look_for_dead(&mut self, now: u64, heard: &Beaten) {
        let live: BTreeMap<String, u64> = heard
            .nodes
            .iter()
            .filter_map(|(record, lease)| {
                let record: Record = serde_json::from_str(record).ok()?;
                Some((format!("{}-{}", record.node.region, record.node.node), (*lease)?))
            })
            .collect();
        if live.keys().next() != Some(&self.me.node) || heard.superseded {
            self.missing.clear();
            self.sweep = None;
            return;
        }
        let all: Vec<&Life> = heard.lives.iter().map(|(life, _)| life).chain(&heard.dead).collect();
        self.missing.retain(|life, _| all.contains(&life));
        let mut dead = None;
        for life in all {
            match live.get(&life.node) {
                Some(incarnation) if *incarnation == life.incarnation => {
                    self.missing.remove(life);
                }
                // Another life of that node has registered: it is over for good.
                Some(_) => dead = dead.or(Some(life)),
                // It may only be slow: its rows do not count meanwhile, and are kept.
                None => {
                    let since = *self.missing.entry(life.clone()).or_insert(now);
                    if now.saturating_sub(since) >= self.lease_ms || heard.dead.contains(life) {
                        dead = dead.or(Some(life));
                    }
                }
            }
        }
        match (&self.sweep, dead) {
            (Some((life, _)), Some(dead)) if life == dead => {}
            (_, dead) => self.sweep = dead.map(|life| (life.clone(), "0".to_owned())),
        }
    }

    /// The batch was written.
    pub(super) fn written(&mut self, now: u64) {
        let Some((batch, anew)) = self.asked.take() else { return };
        // Not if everything is to be written anew since it was asked.
        if batch.writing == self.counted.writing {
            self.acked = Some(batch.number);
        }
        if anew {
            self.pace(now, batch.changes.len() as u64);
        }
    }

    /// Rows were removed.
    pub(super) fn cleared(&mut self, now: u64, asked: &Clear, done: &Cleared) {
        self.pace(now, done.seen);
        let next = (done.cursor != "0").then(|| done.cursor.clone());
        if asked.before.is_some() {
            self.left_over = next;
        } else if !done.alive
            && let Some(cursor) = next
        {
            self.sweep = Some((asked.life.clone(), cursor));
        } else {
            self.sweep = None;
        }
    }

    fn pace(&mut self, now: u64, rows: u64) {
        let ms = (rows * 1_000).div_ceil(self.rows_per_second.max(1));
        self.paced_until = self.paced_until.max(now) + ms;
    }
}

#[cfg(test)]
mod tests;
