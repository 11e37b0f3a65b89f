//! One seed, from the first node's start to the last promise: builds the world, lets people and faults act, heals everything, waits until all
//! is quiet, and looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use config::Config;
use node::features::roster::record::{Contact, ROSTER, VERSION};
use node::features::roster::subscription::State;
use node::homes::Moved;
use node::homes::accounts::{ACCOUNTS, Account};
use node::storage::memory::Memory;
use node::storage::{Place, Replace, Storage as _};
use replication::metadata::{Domain, DomainKind, MetaState, NodeRecord, Region};
use replication::shard_of;
use s2s::link::PeerId;
use xmpp::sasl::{Hash, ScramKeys};

use crate::end::End;
use crate::people::device::{Around, Device, PASSWORD, account};
use crate::people::journal::Journal;
use crate::people::{RESOURCES, number_of};
use crate::plan::{Deed, Fault, Plan, Profile};
use crate::promises;
use crate::world::abroad::{self, Abroad};
use crate::world::chance::Chance;
use crate::world::council::Council;
use crate::world::disk::Disk;
use crate::world::host::{Common, Host, fingerprint};
use crate::world::net::{Net, Way};
use crate::world::story::{Scribe, Story};

/// Hosts are given time in portions of at most this. No way between two hosts is shorter, so nothing comes before it was sent.
const PORTION_MS: u64 = 20;
/// How long everything may take to come to rest once all is well.
const REST_MS_MAX: u64 = 90_000;
/// How long it must stay at rest.
const RESTING_MS: u64 = 2_000;
/// How long the last messages may take.
const LAST_MS_MAX: u64 = 20_000;

/// What came of a seed.
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// Broken promises: which, and how.
    pub broken: Vec<(&'static str, String)>,
    /// The trace, if it was wanted.
    pub story: String,
    /// Messages sent.
    pub messages: usize,
    /// Simulated milliseconds.
    pub took_ms: u64,
}

/// Plays a seed. `told`: with its story.
pub fn play(seed: u64, told: bool) -> Outcome {
    let story = if told { Story::told() } else { Story::default() };
    if told {
        let scribe = Scribe::new(story.clone());
        tracing::subscriber::with_default(scribe, || Play::new(seed, story).run())
    } else {
        Play::new(seed, story).run()
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Act(usize),
    Fault,
    /// A way from one host to another is good again.
    Heal(usize, usize),
    CutNow(usize, usize),
    Better(usize, usize),
    Restart(usize),
    /// A host sleeps until then.
    Sleep(usize, u64),
    Wake(usize),
    FastDisk(usize),
    /// A server's TCP notices that a client is gone.
    Notice(u64),
    /// A device that was away comes back.
    Return(usize),
    /// A device that took no messages does again.
    Show(usize),
    /// A device that tells somebody something goes on: who, whom, how many words are left, how far apart.
    GoOn(usize, usize, u64, u64),
    /// Somebody writes to another domain.
    Abroad,
    Council,
    Look,
}

/// A simulation under way.
pub struct Play {
    /// See [`Plan`].
    pub plan: Plan,
    pub(crate) net: Net,
    pub(crate) council: Council,
    pub(crate) hosts: Vec<Host>,
    pub(crate) devices: BTreeMap<usize, Device>,
    pub(crate) journal: Journal,
    pub(crate) story: Story,
    pub(crate) abroad: Abroad,
    pub(crate) now: u64,
    names: Vec<String>,
    lives: Vec<u64>,
    events: BTreeMap<(u64, u64), Event>,
    ties: u64,
    calls: BTreeSet<(u64, usize)>,
    people: Chance,
    fate: Chance,
    /// Who writes to other domains, and when.
    writers: Chance,
    /// Which of the nodes that write their region's database sleep, and for how long.
    sleepers: Chance,
    /// Who binds anew where a clock was set back.
    clocks: Chance,
    /// Trouble is over.
    healing: bool,
    /// Hosts that drain.
    stopping: BTreeSet<usize>,
}

impl Play {
    fn new(seed: u64, story: Story) -> Self {
        let plan = Plan::of(seed);
        let hosts = plan.nodes.len();
        let mut chance = Chance::part(seed, "net", 0);
        let way = |chance: &mut Chance| Way {
            delay_ms: chance.between(plan.delays_ms.0.max(PORTION_MS), plan.delays_ms.1),
            jitter_ms: plan.jitter_ms,
            loss_percent: 0,
            cut: false,
        };
        let ways = (0..hosts).map(|_| (0..hosts).map(|_| way(&mut chance)).collect()).collect();
        let net = Net::new(ways, chance);
        if story.is_told() {
            let story = story.clone();
            let names: Vec<String> =
                plan.nodes.iter().map(|(region, number)| format!("{region}-{number}")).collect();
            net.tap(Arc::new(move |from, to, now, bytes| {
                carried(&story, &names[from], &names[to], now, bytes);
            }));
        }
        let council = Council::new(founded(&plan.nodes), hosts, net.clone());
        let peers =
            plan.nodes.iter().map(|(region, number)| PeerId::new(*region, *number)).collect();
        let abroad = Abroad::default();
        let common = Common {
            net: net.clone(),
            council: council.clone(),
            names: Arc::new(peers),
            seed,
            abroad: plan.abroad.then(|| abroad.clone()),
        };
        let genesis = genesis(plan.users);
        let mut databases: BTreeMap<&str, Memory> = BTreeMap::new();
        let hosts: Vec<Host> = (0..hosts)
            .map(|ix| {
                let (region, number) = plan.nodes[ix];
                if number == 0 {
                    let memory = Memory::default();
                    fill(&memory, &genesis);
                    databases.insert(region, memory);
                }
                let memory = databases[region].shared();
                let disk = Disk::new(Chance::part(seed, "disk", ix as u64), plan.disk_ms, memory);
                let config = Config::parse(&plan.config(ix), "sim", "/nowhere".as_ref());
                let config = config.unwrap_or_else(|error| panic!("{error:?}"));
                Host::new(ix, config, disk, &common)
            })
            .collect();
        let mut people = Chance::part(seed, "people", 0);
        let mut devices = BTreeMap::new();
        for user in 0..plan.users {
            for resource in &RESOURCES[..people.between(1, plan.devices_max as u64) as usize] {
                let id = number_of(user, resource).expect("a known resource");
                let chance = Chance::part(seed, "device", id as u64);
                devices.insert(id, Device::new(id, user, resource, chance));
            }
        }
        Self {
            names: hosts.iter().map(|host| host.name.clone()).collect(),
            lives: vec![0; hosts.len()],
            net,
            council,
            hosts,
            devices,
            journal: Journal::default(),
            story,
            abroad,
            writers: Chance::part(seed, "writers", 0),
            sleepers: Chance::part(seed, "sleepers", 0),
            clocks: Chance::part(seed, "clocks", 0),
            now: 0,
            events: BTreeMap::new(),
            ties: 0,
            calls: BTreeSet::new(),
            people,
            fate: Chance::part(seed, "fate", 0),
            healing: false,
            stopping: BTreeSet::new(),
            plan,
        }
    }

    fn run(mut self) -> Outcome {
        let (seed, profile, hosts) = (self.plan.seed, self.plan.profile, self.plan.nodes.len());
        let count = self.devices.len();
        self.tell(|| format!("seed {seed}, {}: {hosts} nodes, {count} devices", profile.name()));
        for ix in 0..self.hosts.len() {
            self.start(ix);
        }
        let ids: Vec<usize> = self.devices.keys().copied().collect();
        for id in &ids {
            let at = self.people.between(300, 2_500);
            self.at(at, Event::Return(*id));
            self.at(at + 500, Event::Act(*id));
        }
        if let Some(pace) = self.plan.faults_ms {
            self.at(2_000 + pace, Event::Fault);
        }
        if self.plan.abroad {
            self.at(3_000, Event::Abroad);
        }
        self.at(250, Event::Council);
        self.at(1_000, Event::Look);
        self.run_until(self.plan.trouble_ms);
        self.heal();
        let rest = self.rest();
        self.last_words();
        let last = self.now + LAST_MS_MAX;
        while self.now < last && !self.all_read() {
            self.run_until(self.now + 500);
        }
        let end = End::of(&mut self, rest);
        let mut broken: Vec<(&'static str, String)> = self.journal.wrong.clone();
        for promise in promises::ALL {
            broken.extend(
                (promise.check)(&self.journal, &end).into_iter().map(|how| (promise.name, how)),
            );
        }
        for (promise, how) in &broken {
            self.tell(|| format!("BROKEN {promise}: {how}"));
        }
        let outcome = Outcome {
            messages: self.journal.sent.len(),
            took_ms: self.now,
            broken,
            story: self.story.text(),
            plan: self.plan.clone(),
        };
        for host in &mut self.hosts {
            host.kill(true, self.now);
        }
        outcome
    }

    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        self.story.tell(self.now, what);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.ties += 1;
        self.events.insert((at.max(self.now + 1), self.ties), event);
    }

    fn start(&mut self, ix: usize) {
        let name = self.names[ix].clone();
        self.tell(|| format!("{name} starts"));
        self.lives[ix] += 1;
        self.hosts[ix].start(self.now);
        self.net.back(ix, self.now);
    }

    /// Lets time pass.
    pub(crate) fn run_until(&mut self, until: u64) {
        while self.now < until {
            let mut next = self.now + PORTION_MS;
            if let Some(((at, _), _)) = self.events.first_key_value() {
                next = next.min((*at).max(self.now + 1));
            }
            let next = next.min(until);
            for host in &mut self.hosts {
                host.run(next);
            }
            self.now = next;
            self.calls.extend(self.net.calls());
            while let Some((at, device)) = self.calls.first().copied().filter(|call| call.0 <= next)
            {
                self.calls.remove(&(at, device));
                self.with(device, |device, around| device.readable(around));
            }
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= next)
            {
                let event = entry.remove();
                self.event(event);
            }
            self.tick();
        }
    }

    fn tick(&mut self) {
        let ids: Vec<usize> = self.devices.keys().copied().collect();
        let stopped = self.stopping.iter().copied().find(|ix| self.hosts[*ix].has_stopped());
        if let Some(ix) = stopped {
            self.stopping.remove(&ix);
            self.journal.stopped.push((ix, self.now));
            let name = self.names[ix].clone();
            self.tell(|| format!("{name} has stopped"));
            self.hosts[ix].kill(false, self.now);
            let wait = self.fate.between(100, 3_000);
            self.at(self.now + wait, Event::Restart(ix));
        }
        for id in ids {
            self.with(id, |device, around| device.tick(around));
            let due = self.devices[&id].dial_at.is_some_and(|at| at <= self.now);
            if due {
                self.dial(id);
            }
        }
    }

    fn dial(&mut self, id: usize) {
        let count = self.hosts.len();
        let device = &self.devices[&id];
        let before = device.bound_at();
        let mut to = device.dial_to;
        let mut resumes = device.resumes;
        if to >= count {
            to = match before {
                Some(host) if self.people.percent(60) => host,
                _ => self.people.index(count),
            };
            resumes = self.people.percent(85);
        }
        // Somebody who only ever tries one that is dead would never be back.
        if !self.hosts[to].is_up() {
            to = (0..count)
                .map(|step| (to + step) % count)
                .find(|ix| self.hosts[*ix].is_up())
                .unwrap_or(to);
        }
        self.with(id, |device, around| {
            device.dial_to = to;
            device.resumes = resumes;
            device.dial(around);
        });
    }

    pub(crate) fn with<T>(
        &mut self,
        id: usize,
        act: impl FnOnce(&mut Device, &mut Around<'_>) -> T,
    ) -> Option<T> {
        let device = self.devices.get_mut(&id)?;
        let mut around = Around {
            net: &self.net,
            journal: &mut self.journal,
            story: &self.story,
            hosts: &self.names,
            lives: &self.lives,
            now: self.now,
        };
        Some(act(device, &mut around))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Act(id) => {
                if !self.healing {
                    self.act(id);
                    let pace = self.people.between(self.plan.pace_ms / 3, self.plan.pace_ms * 2);
                    self.at(self.now + pace, Event::Act(id));
                }
            }
            Event::Fault => {
                if !self.healing {
                    self.fault();
                    let pace = self.plan.faults_ms.unwrap_or(1_000);
                    let wait = self.fate.between(pace / 2, pace * 2);
                    self.at(self.now + wait, Event::Fault);
                }
            }
            Event::Heal(from, to) => {
                let (from_name, to_name) = (self.names[from].clone(), self.names[to].clone());
                self.tell(|| format!("FAULT OVER: {from_name} → {to_name} passes again"));
                self.net.heal(from, to, self.now);
                self.journal.lines.push((from, to, self.now, true));
            }
            Event::CutNow(from, to) => self.cut(from, to),
            Event::Better(from, to) => self.net.quality(from, to, self.plan.jitter_ms, 0),
            Event::Restart(ix) => {
                if !self.hosts[ix].is_up() {
                    self.start(ix);
                }
            }
            Event::Sleep(ix, until) => self.sleep(ix, until),
            Event::Wake(ix) => {
                if self.hosts[ix].is_paused() {
                    let name = self.names[ix].clone();
                    self.tell(|| format!("FAULT OVER: {name} wakes"));
                    self.hosts[ix].wake(self.now);
                }
            }
            Event::FastDisk(ix) => self.hosts[ix].disk.set_slow(self.plan.disk_ms),
            Event::Notice(conn) => self.net.notice(conn, self.now),
            Event::Return(id) => {
                let to = self.people.index(self.hosts.len());
                self.with(id, |device, around| {
                    if device.conn().is_none() && device.dial_at.is_none() {
                        device.dial_to = to;
                        device.dial_at = Some(around.now);
                    }
                });
            }
            Event::GoOn(id, to, words, apart) => {
                if words > 0 && self.devices[&id].is_online() {
                    self.with(id, |device, around| device.message(around, to, None));
                    self.at(self.now + apart, Event::GoOn(id, to, words - 1, apart));
                }
            }
            Event::Abroad => {
                if !self.healing {
                    self.write_abroad();
                    let wait = self.writers.between(50, 1_200);
                    self.at(self.now + wait, Event::Abroad);
                }
            }
            Event::Show(id) => {
                if self.devices[&id].is_online() {
                    self.with(id, |device, around| device.show(around, Some(0)));
                }
            }
            Event::Council => {
                for ix in 0..self.hosts.len() {
                    // Some hear of it later than others.
                    if self.fate.percent(60) && !self.hosts[ix].is_paused() && self.council.tell(ix)
                    {
                        let name = self.names[ix].clone();
                        self.tell(|| format!("{name} has new metadata"));
                    }
                }
                for fallen in self.council.down() {
                    for (ix, (region, number)) in self.plan.nodes.iter().enumerate() {
                        let is_it = fallen == *region || fallen == format!("{region}-{number}");
                        let known = |(who, at): &(usize, u64)| *who == ix && self.now - at < 500;
                        if is_it && !self.journal.fallen.iter().any(known) {
                            self.journal.fallen.push((ix, self.now));
                        }
                    }
                }
                self.at(self.now + 250, Event::Council);
            }
            Event::Look => {
                promises::bounded::look(self);
                self.tables();
                self.at(self.now + 1_000, Event::Look);
            }
        }
    }

    /// In a story that is told with PANGAEA_SIM_TABLES: what every node believes of who is where.
    fn tables(&self) {
        if !self.story.is_told() || std::env::var_os("PANGAEA_SIM_TABLES").is_none() {
            return;
        }
        for host in &self.hosts {
            let rows = crate::end::table(host);
            self.tell(|| {
                let words: Vec<String> = rows
                    .iter()
                    .map(|(full, row)| {
                        let full = full.replace("@chat.example", "");
                        let shown =
                            if row.available { row.priority.to_string() } else { "-".to_owned() };
                        let lit = if row.lit { "" } else { " dark" };
                        format!("{full}@{} {shown}{lit}", row.host)
                    })
                    .collect();
                format!("  {} knows {}", host.name, words.join(", "))
            });
        }
    }

    fn write_abroad(&mut self) {
        let online: Vec<usize> =
            self.devices.values().filter(|device| device.is_online()).map(|one| one.id).collect();
        let Some(id) = self.writers.one(&online).copied() else { return };
        let is_there = !self.writers.percent(10);
        let domain = if is_there { abroad::FAR } else { abroad::NONE };
        for _ in 0..self.writers.weighted(&[(6, 1), (3, 3), (1, 6)]) {
            self.with(id, |device, around| device.abroad(around, domain, is_there));
        }
    }

    fn act(&mut self, id: usize) {
        if !self.devices[&id].is_online() {
            return;
        }
        let deed = self.people.weighted(&self.plan.deeds);
        match deed {
            Deed::Message => {
                let to = self.somebody(id);
                if self.people.percent(10) {
                    // One word after another, and each may meet something else on its way.
                    let (words, apart) = (self.people.between(4, 12), self.people.between(10, 80));
                    return self.at(self.now, Event::GoOn(id, to, words, apart));
                }
                for _ in 0..self.people.weighted(&[(6, 1), (3, 2), (1, 5)]) {
                    self.with(id, |device, around| device.message(around, to, None));
                }
                if self.people.percent(60) {
                    self.with(id, |device, around| device.ask(around));
                }
            }
            Deed::Direct => {
                let others: Vec<usize> =
                    self.devices.keys().copied().filter(|other| *other != id).collect();
                let Some(to) = self.people.one(&others).copied() else { return };
                let (user, resource) = (self.devices[&to].user, self.devices[&to].resource);
                self.with(id, |device, around| device.message(around, user, Some((to, resource))));
            }
            Deed::Ping => {
                // Whoever came last is the least known.
                let others = || self.devices.values().filter(|other| other.id != id);
                let last = others().max_by_key(|other| other.session());
                let all: Vec<usize> = others().map(|other| other.id).collect();
                let last = last.map(|other| other.id).filter(|_| self.people.percent(60));
                let Some(to) = last.or_else(|| self.people.one(&all).copied()) else { return };
                let (user, resource) = (self.devices[&to].user, self.devices[&to].resource);
                let session = self.devices[&to].session();
                if let Some(session) = session {
                    self.with(id, |device, around| device.ping(around, user, resource, session));
                }
            }
            Deed::Presence => {
                // Whoever takes no messages soon does again: what was on the way meets both.
                let hides = self.devices[&id].shows.is_none_or(|(_, priority)| priority < 0);
                let priority = if hides {
                    Some(0)
                } else {
                    self.people.weighted(&[(4, Some(0)), (2, Some(5)), (2, Some(-1)), (2, None)])
                };
                self.with(id, |device, around| device.show(around, priority));
                if priority.is_none_or(|priority| priority < 0) && self.people.percent(50) {
                    // Sooner than anybody can have heard of it.
                    let wait = self.people.between(5, 150);
                    self.at(self.now + wait, Event::Show(id));
                }
            }
            Deed::Roster => {
                let contact = self.people.below(3);
                self.with(id, |device, around| {
                    device.set(around, contact);
                    device.ask(around);
                });
            }
            Deed::Subscribe => {
                let to = self.people.index(self.plan.users);
                let word = if self.people.percent(60) { "subscribe" } else { "unsubscribed" };
                if to != self.devices[&id].user {
                    self.with(id, |device, around| device.relate(around, word, to));
                }
            }
            Deed::Move => {
                let elsewhere = self.people.index(self.hosts.len());
                let same = self.devices[&id].host().filter(|_| self.people.percent(30));
                let to = same.unwrap_or(elsewhere);
                let wait = self.people.below(300);
                self.with(id, |device, around| {
                    device.close(around);
                    device.dial_to = to;
                    device.dial_at = Some(around.now + wait);
                });
            }
            Deed::Leave => {
                self.with(id, |device, around| device.close(around));
                let wait = self.people.between(1_000, 8_000);
                self.at(self.now + wait, Event::Return(id));
            }
            Deed::Reset => {
                self.with(id, |device, around| device.break_off(around));
            }
            Deed::Vanish => {
                let conn = self.with(id, |device, around| device.vanish(around)).flatten();
                if let Some(conn) = conn {
                    let notice = self.people.between(500, 15_000);
                    self.at(self.now + notice, Event::Notice(conn));
                }
                let wait = self.people.between(50, 2_000);
                let same = self.people.percent(40);
                let to = self.people.index(self.hosts.len());
                self.with(id, |device, around| {
                    device.dial_at = Some(around.now + wait);
                    device.dial_to = device.bound_at().filter(|_| same).unwrap_or(to);
                    device.resumes = same;
                });
            }
        }
    }

    /// Another user, or at times the same.
    fn somebody(&mut self, id: usize) -> usize {
        let own = self.devices[&id].user;
        loop {
            let user = self.people.index(self.plan.users);
            if user != own || self.people.percent(10) {
                return user;
            }
        }
    }

    fn fault(&mut self) {
        let count = self.hosts.len();
        let one = self.fate.index(count);
        let other = (one + 1 + self.fate.index(count - 1)) % count;
        let long = if self.plan.profile == Profile::Falls {
            self.fate.between(20_000, 40_000)
        } else {
            self.fate.weighted(&[(4, 800), (4, 3_000), (2, 12_000)])
        };
        let until = self.now + self.fate.between(long / 3, long);
        let fault = self.fate.weighted(&self.plan.faults);
        match fault {
            Fault::CutOneWay => {
                self.cut(one, other);
                self.at(until, Event::Heal(one, other));
            }
            Fault::Cut => {
                for (from, to) in [(one, other), (other, one)] {
                    self.cut(from, to);
                    self.at(until, Event::Heal(from, to));
                }
            }
            Fault::Isolate => {
                for ix in (0..count).filter(|ix| *ix != one) {
                    for (from, to) in [(one, ix), (ix, one)] {
                        self.cut(from, to);
                        self.at(until, Event::Heal(from, to));
                    }
                }
            }
            Fault::Swizzle => {
                for from in 0..count {
                    for to in (0..count).filter(|to| *to != from) {
                        let (begin, end) =
                            (self.fate.below(long), self.fate.between(long, 2 * long));
                        self.at(self.now + begin, Event::CutNow(from, to));
                        self.at(self.now + end, Event::Heal(from, to));
                    }
                }
            }
            Fault::ResetLinks => {
                let (one_name, other_name) = (self.names[one].clone(), self.names[other].clone());
                self.tell(|| {
                    format!("FAULT: connections between {one_name} and {other_name} are reset")
                });
                for conn in self.net.between(one, other) {
                    self.net.reset(conn, self.now);
                }
            }
            Fault::BadLine => {
                let (one_name, other_name) = (self.names[one].clone(), self.names[other].clone());
                self.tell(|| format!("FAULT: a bad line between {one_name} and {other_name}"));
                for (from, to) in [(one, other), (other, one)] {
                    self.net.quality(from, to, 400, 20);
                    self.at(until, Event::Better(from, to));
                }
            }
            Fault::Kill | Fault::PowerLoss => {
                // One at a time: the promise is for the loss of any one node.
                if self.hosts.iter().all(Host::is_up) {
                    self.kill(one, fault == Fault::PowerLoss);
                    self.at(until.max(self.now + 200), Event::Restart(one));
                }
            }
            Fault::Stop => {
                let others = self.hosts.iter().all(|host| host.is_up() && !host.is_paused());
                if others && self.hosts[one].node().is_some() {
                    let name = self.names[one].clone();
                    self.tell(|| format!("FAULT: {name} is told to stop"));
                    self.stopping.insert(one);
                    self.journal.stops.push((one, self.now));
                    self.hosts[one].stop();
                }
            }
            Fault::Pause => match self.scribe() {
                Some(scribe) => {
                    // What these set is on its way to the disk, or to the node, when that falls asleep.
                    let online = self.devices.values().filter(|device| device.is_online());
                    for id in online.map(|device| device.id).collect::<Vec<_>>() {
                        let contact = self.sleepers.below(3);
                        self.with(id, |device, around| device.set(around, contact));
                    }
                    let at = self.now + self.sleepers.between(1, 120);
                    let until = at + self.sleepers.between(7_000, 14_000);
                    self.at(at, Event::Sleep(scribe, until));
                }
                None => self.sleep(one, until),
            },
            Fault::Clock => {
                let jump = self.fate.weighted(&[
                    (3, 3_000),
                    (3, -3_000),
                    (2, 3_600_000),
                    (2, -3_600_000),
                    (1, 315_000_000_000_i64),
                ]);
                let name = self.names[one].clone();
                self.tell(|| format!("FAULT: the clock of {name} jumps by {jump} ms"));
                self.hosts[one].skew_ms.fetch_add(jump, Ordering::Relaxed);
                if jump < 0 {
                    self.bind_anew_at(one);
                }
            }
            Fault::MoveHome => {
                let account = account(self.fate.index(self.plan.users));
                let to = self.plan.nodes[other].0;
                let name = self.names[one].clone();
                self.tell(|| format!("FAULT: an operator at {name} moves {account} to {to}"));
                let moved = Moved::Shard(shard_of(&account));
                self.hosts[one].within(|node| {
                    let homes = node.homes.clone();
                    // What comes of it the home says.
                    tokio::spawn(async move { drop(homes.hand_over(moved, to).await) });
                });
            }
            Fault::SlowDisk => {
                let name = self.names[one].clone();
                self.tell(|| format!("FAULT: the disk of {name} is slow"));
                self.hosts[one].disk.set_slow(self.fate.weighted(&[(3, 200), (1, 1_500)]));
                self.at(until, Event::FastDisk(one));
            }
        }
    }

    /// In half of the cases where a node may sleep: one that writes its region's database and has another beside it, which takes the pen meanwhile.
    fn scribe(&mut self) -> Option<usize> {
        if self.plan.profile != Profile::Nodes || !self.sleepers.percent(50) {
            return None;
        }
        let region = |ix: usize| self.plan.nodes[ix].0;
        let has_fellow = |ix: usize| {
            (0..self.hosts.len()).any(|other| other != ix && region(other) == region(ix))
        };
        let writes = |ix: &usize| {
            self.hosts[*ix].node().is_some_and(|node| node.homes.term().is_some())
                && has_fellow(*ix)
        };
        let scribes: Vec<usize> = (0..self.hosts.len()).filter(writes).collect();
        self.sleepers.one(&scribes).copied()
    }

    /// Somebody who is there vanishes and binds anew at the same node, which still has the session before: by its clock now that one is of the future.
    fn bind_anew_at(&mut self, ix: usize) {
        let here = |device: &&Device| device.is_online() && device.host() == Some(ix);
        let here: Vec<usize> = self.devices.values().filter(here).map(|device| device.id).collect();
        let Some(id) = self.clocks.one(&here).copied() else { return };
        let conn = self.with(id, |device, around| device.vanish(around)).flatten();
        if let Some(conn) = conn {
            let notice = self.clocks.between(3_000, 15_000);
            self.at(self.now + notice, Event::Notice(conn));
        }
        let wait = self.clocks.between(50, 500);
        self.with(id, |device, around| {
            device.dial_at = Some(around.now + wait);
            device.dial_to = ix;
            device.resumes = false;
        });
    }

    fn sleep(&mut self, ix: usize, until: u64) {
        if self.hosts[ix].is_up() && !self.hosts[ix].is_paused() {
            let name = self.names[ix].clone();
            self.tell(|| format!("FAULT: {name} sleeps"));
            self.hosts[ix].pause(self.now);
            self.journal.naps.push((ix, self.now, until));
            self.at(until, Event::Wake(ix));
        }
    }

    fn kill(&mut self, ix: usize, silent: bool) {
        let name = self.names[ix].clone();
        self.tell(|| format!("FAULT: {name} {}", if silent { "loses power" } else { "is killed" }));
        for id in self.devices.keys().copied().collect::<Vec<_>>() {
            self.with(id, |device, around| device.settle(around));
        }
        self.stopping.remove(&ix);
        self.hosts[ix].kill(silent, self.now);
        self.journal.deaths.push((ix, self.now));
    }

    fn cut(&mut self, from: usize, to: usize) {
        let (from_name, to_name) = (self.names[from].clone(), self.names[to].clone());
        self.tell(|| format!("FAULT: nothing passes {from_name} → {to_name}"));
        self.net.cut(from, to, self.now);
        self.journal.lines.push((from, to, self.now, false));
    }

    /// Everything is mended, everybody comes back.
    fn heal(&mut self) {
        self.tell(|| "EVERYTHING HEALS".to_owned());
        self.healing = true;
        self.events.retain(|_, event| {
            matches!(event, Event::Notice(_) | Event::Council | Event::Look | Event::Restart(_))
        });
        let count = self.hosts.len();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                self.net.quality(from, to, self.plan.jitter_ms, 0);
                if !self.net.passes(from, to) {
                    self.net.heal(from, to, self.now);
                }
            }
        }
        for ix in 0..count {
            self.hosts[ix].disk.set_slow(self.plan.disk_ms);
            if self.hosts[ix].is_paused() {
                self.hosts[ix].wake(self.now);
            }
            if !self.hosts[ix].is_up() {
                self.start(ix);
            }
        }
        for id in self.devices.keys().copied().collect::<Vec<_>>() {
            let wait = self.people.between(100, 4_000);
            self.with(id, |device, around| {
                if device.conn().is_none() && device.dial_at.is_none() {
                    device.dial_at = Some(around.now + wait);
                    device.dial_to = usize::MAX;
                }
            });
        }
    }

    /// Waits until all is quiet. What is not, if it never is.
    fn rest(&mut self) -> Option<String> {
        let deadline = self.now + REST_MS_MAX;
        let mut since = None;
        let mut why = None;
        while self.now < deadline {
            self.run_until(self.now + 250);
            // Everybody reads everything, so everybody is there for messages.
            for id in self.devices.keys().copied().collect::<Vec<_>>() {
                self.with(id, |device, around| {
                    if device.is_online() && device.shows.is_none_or(|(_, priority)| priority < 0) {
                        device.show(around, Some(1));
                    }
                    if device.is_online() && !device.is_quiet() {
                        device.ask(around);
                    }
                });
            }
            why = self.unrest();
            match (&why, since) {
                (None, Some(since)) if self.now >= since + RESTING_MS => return None,
                (None, Some(_)) => {}
                (None, None) => since = Some(self.now),
                (Some(_), _) => since = None,
            }
        }
        let why = why.unwrap_or_else(|| "never for long".to_owned());
        self.tell(|| format!("it does not come to rest: {why}"));
        Some(why)
    }

    /// What is not at rest.
    fn unrest(&self) -> Option<String> {
        for device in self.devices.values() {
            if !device.is_online() {
                return Some(format!("{} is not online ({:?})", device.name(), device.stage));
            }
            if !device.is_quiet() {
                return Some(format!("{} waits for acknowledgements", device.name()));
            }
        }
        for host in &self.hosts {
            let name = &host.name;
            let Some(node) = host.node() else { return Some(format!("{name} is not up")) };
            let (parked, _) = node.directory.parked();
            if parked > 0 {
                return Some(format!("{name} holds {parked} stanzas in gates"));
            }
            if node.federation.open() > 0 {
                let open = node.federation.open();
                return Some(format!("{name} has {open} stanzas on the way to other domains"));
            }
            if node.filing() > 0 || node.archive.queue.depth() > 0 {
                return Some(format!("{name} is filing"));
            }
            let fellows = |other: &&Host| other.name.split('-').next() == name.split('-').next();
            let scribes = self.hosts.iter().filter(fellows).filter_map(Host::node);
            let scribes = scribes.filter(|node| node.homes.term().is_some()).count();
            if scribes != 1 {
                return Some(format!("{scribes} nodes of {name}'s region write its database"));
            }
            let peers = node.geo.all_peers();
            if peers.len() + 1 != self.hosts.len() {
                return Some(format!("{name} knows {} peers", peers.len()));
            }
            for peer in peers {
                if !peer.link.is_up() {
                    return Some(format!("{name} has no link to {}", peer.name));
                }
                let unacked = peer.link.stats().unacked_frames;
                if unacked > 0 {
                    return Some(format!(
                        "{name} has {unacked} frames on the way to {}",
                        peer.name
                    ));
                }
            }
            if let Some(late) =
                node.homes.status().iter().find(|peer| peer.acknowledged != Some(peer.head))
            {
                return Some(format!("{} has not all of {name}'s log", late.region));
            }
        }
        None
    }

    /// Everybody writes to everybody once more: if it does not work now, it never will.
    fn last_words(&mut self) {
        self.tell(|| "LAST WORDS".to_owned());
        let mut spoken = BTreeSet::new();
        for id in self.devices.keys().copied().collect::<Vec<_>>() {
            let from = self.devices[&id].user;
            if !self.devices[&id].is_online() || !spoken.insert(from) {
                continue;
            }
            for to in 0..self.plan.users {
                self.with(id, |device, around| device.message(around, to, None));
            }
            if self.plan.abroad {
                self.with(id, |device, around| device.abroad(around, abroad::FAR, true));
            }
            let contact = self.people.below(3);
            self.with(id, |device, around| {
                device.set(around, contact);
                device.ask(around);
            });
        }
    }

    fn all_read(&self) -> bool {
        self.unrest().is_none() && {
            let seen: BTreeSet<usize> = self.journal.seen.iter().map(|seen| seen.message).collect();
            let since = self.now.saturating_sub(LAST_MS_MAX);
            self.journal
                .sent
                .iter()
                .enumerate()
                .all(|(number, sent)| sent.at < since || seen.contains(&number))
        }
    }
}

/// Tells which messages leave one host for another.
fn carried(story: &Story, from: &str, to: &str, now: u64, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut messages: Vec<&str> =
        text.split("id='m").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
    messages.dedup();
    if !messages.is_empty() {
        story.tell(now, || format!("  {from} → {to}: messages {}", messages.join(" ")));
    }
}

/// The first metadata.
fn founded(nodes: &[(&str, u16)]) -> MetaState {
    let regions = nodes.iter().map(|(region, _)| Region::up(*region));
    let nodes = nodes.iter().enumerate().map(|(ix, (region, number))| {
        let record = NodeRecord {
            region: (*region).to_owned(),
            node: *number,
            raft_id: ix as u64 + 1,
            address: String::new(),
            fingerprint: fingerprint(ix),
            voter: true,
            incarnation: 0,
        };
        (format!("{region}-{number}"), record)
    });
    let domains = [("chat.example".to_owned(), Domain { kind: DomainKind::Global })];
    MetaState { version: 1, ..MetaState::genesis(regions, nodes, domains) }
}

/// Accounts, all with one password, and all friends of each other except the last, who is the friend of the first only.
fn genesis(users: usize) -> Vec<(Place, Vec<u8>)> {
    let keys = |hash| ScramKeys::derive(hash, PASSWORD, &[7; 16], 1).expect("a good password");
    let record = Account {
        scram_sha1: keys(Hash::Sha1),
        scram_sha256: keys(Hash::Sha256),
        scram_sha512: keys(Hash::Sha512),
        created: 0,
        disabled: false,
    };
    let mut rows = Vec::new();
    for user in 0..users {
        let owner = account(user);
        rows.push((Place::Value(ACCOUNTS.into(), owner.clone(), String::new()), record.encode()));
        for friend in (0..users).filter(|friend| friends(users, user, *friend)) {
            let state = State { to: true, from: true, ..State::default() };
            let contact = Contact { state, listed: true, ..Contact::default() };
            rows.push((
                Place::Value(ROSTER.into(), owner.clone(), account(friend)),
                contact.encode(),
            ));
        }
        let version = 1_u64.to_le_bytes().to_vec();
        rows.push((Place::Value(VERSION.into(), owner, String::new()), version));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// Whether two users see each other's presence.
fn friends(users: usize, one: usize, other: usize) -> bool {
    let last = users - 1;
    one != other && ((one != last && other != last) || one.min(other) == 0)
}

fn fill(memory: &Memory, rows: &[(Place, Vec<u8>)]) {
    let all = Replace { from: None, to: None, owned: &|_| true, rows: rows.to_vec() };
    let filled = futures_util::FutureExt::now_or_never(memory.replace(all));
    assert!(matches!(filled, Some(Ok(_))), "memory answers at once");
    let begun = memory.set_meta("genesis", b"sim".to_vec());
    assert!(matches!(futures_util::FutureExt::now_or_never(begun), Some(Ok(()))));
}
