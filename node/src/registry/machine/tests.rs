//! The machine against a Redis that is a few values.

use std::cell::RefCell;

use super::*;
use crate::registry::queue::tests::{bind, jid, unbind};

/// A node with rows.
#[derive(Default)]
struct Here {
    rows: RefCell<BTreeMap<String, Hlc>>,
    version: RefCell<u64>,
}

impl Here {
    fn with(count: usize) -> Here {
        let here = Here::default();
        here.rows.borrow_mut().extend((0..count).map(|n| (format!("a{n}@x/r"), Hlc(n as u64 + 1))));
        here
    }
}

const QUIET: Shows = Shows { priority: 0, available: false, hidden: false };

impl Site for Here {
    fn all(&self) -> Vec<FullJid> {
        self.rows.borrow().keys().map(|full| jid(full)).collect()
    }
    fn row(&self, full: &FullJid) -> Option<(Hlc, Shows)> {
        self.rows.borrow().get(full.as_str()).map(|generation| (*generation, QUIET))
    }
    fn record(&self) -> String {
        record("eu-0", 7)
    }
    fn map_version(&self) -> u64 {
        *self.version.borrow()
    }
    fn map(&self) -> String {
        "{}".to_owned()
    }
}

fn record(name: &str, incarnation: u64) -> String {
    let (region, node) = name.split_once('-').expect("a node's name");
    format!(
        "{{\"region\":\"{region}\",\"node\":{node},\"raft_id\":1,\"address\":\"\",\"fingerprint\":\"\",\"voter\":false,\
         \"incarnation\":{incarnation},\"version\":\"0\"}}"
    )
}

fn life(node: &str, incarnation: u64) -> Life {
    Life { node: node.into(), incarnation }
}

fn config() -> Redis {
    let mut config = Redis::none("pangaea:eu");
    config.rows_per_second = 1_000;
    config
}

fn machine() -> Machine {
    Machine::new(life("eu-0", 7), &config(), Counted::default())
}

/// An answer in which these have leases and these have rows.
fn heard(leases: &[(&str, u64)], lives: &[(Life, u64)]) -> Beaten {
    Beaten {
        life: "first".into(),
        nodes: leases.iter().map(|(node, i)| (record(node, *i), Some(*i))).collect(),
        lives: lives.to_vec(),
        ..Beaten::default()
    }
}

/// Connects, and beats once.
fn start(machine: &mut Machine, now: u64, queue: &mut Queue, here: &Here, heard: &Beaten) {
    assert_eq!(machine.step(now, queue, here), Step::Connect);
    machine.connected(now);
    beat(machine, now, queue, here, heard);
}

fn beat(machine: &mut Machine, now: u64, queue: &mut Queue, here: &Here, heard: &Beaten) {
    let Step::Beat(sent) = machine.step(now, queue, here) else { panic!("no beat") };
    machine.beaten(now, &sent, heard, here);
}

/// Goes on until there is nothing to do, as Redis does all at once; the batches that were written.
fn go_on(machine: &mut Machine, now: &mut u64, queue: &mut Queue, here: &Here) -> Vec<Batch> {
    let mut batches = Vec::new();
    loop {
        match machine.step(*now, queue, here) {
            Step::Write(batch) => {
                batches.push(batch);
                machine.written(*now);
            }
            Step::Clear(asked) => {
                let (cursor, seen, removed, alive) = ("0".to_owned(), 0, 0, false);
                machine.cleared(*now, &asked, &Cleared { cursor, seen, removed, alive });
            }
            Step::Wait(until) if machine.left().is_some() || !queue.is_empty() => *now = until,
            _ => return batches,
        }
    }
}

#[test]
fn at_the_start_all_rows_are_written_at_the_pace_that_is_allowed() {
    let (here, mut queue, mut machine) = (Here::with(1_200), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    assert_eq!(machine.left(), Some(1_200));
    let Step::Write(batch) = machine.step(0, &mut queue, &here) else { panic!() };
    assert_eq!((batch.number, batch.changes.len()), (1, BATCH));
    machine.written(0);
    assert_eq!(machine.step(1, &mut queue, &here), Step::Wait(500));
    // A change does not wait for its turn among them.
    queue.note(&bind("b@x/r", 5_000), 10);
    assert_eq!(machine.step(11, &mut queue, &here), Step::Wait(30));
    let Step::Write(batch) = machine.step(30, &mut queue, &here) else { panic!() };
    assert_eq!(batch.changes.len(), 1);
    machine.written(31);
    let Step::Write(batch) = machine.step(500, &mut queue, &here) else { panic!() };
    assert_eq!(batch.changes.len(), BATCH);
    machine.written(500);
    // What comes after 1 s follows a beat.
    assert!(matches!(machine.step(1_000, &mut queue, &here), Step::Beat(_)));
}

#[test]
fn no_rows_leave_a_mark_too_and_afterwards_only_beats_are_said() {
    let (here, mut queue, mut machine) = (Here::default(), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    let batches = go_on(&mut machine, &mut 0, &mut queue, &here);
    assert_eq!(batches, [Batch { number: 1, writing: 1, changes: Vec::new() }]);
    assert_eq!((machine.left(), machine.step(5, &mut queue, &here)), (None, Step::Wait(1_000)));
    for n in 1..9 {
        let lives = [(life("eu-0", 7), 1)];
        beat(&mut machine, n * 1_000, &mut queue, &here, &heard(&[("eu-0", 7)], &lives));
        assert_eq!(machine.step(n * 1_000, &mut queue, &here), Step::Wait(n * 1_000 + 1_000));
    }
}

#[test]
fn an_emptied_redis_gets_all_rows_again() {
    let (here, mut queue, mut machine) = (Here::with(3), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    let mut now = 0;
    go_on(&mut machine, &mut now, &mut queue, &here);
    let empty = Beaten { life: "second".into(), ..heard(&[("eu-0", 7)], &[]) };
    beat(&mut machine, 1_000, &mut queue, &here, &empty);
    now = 1_000;
    let batches = go_on(&mut machine, &mut now, &mut queue, &here);
    assert_eq!((batches.len(), batches[0].writing, batches[0].changes.len()), (1, 2, 3));
    assert_eq!(machine.log_life(), "second");
}

#[test]
fn a_redis_that_is_returned_to_in_one_life_is_rid_of_the_rows_of_the_first_time() {
    let (here, mut queue, mut machine) = (Here::with(3), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    let mut now = 0;
    go_on(&mut machine, &mut now, &mut queue, &here);
    // A session ends while another Redis is written to, or none.
    here.rows.borrow_mut().remove("a0@x/r");
    let mut machine = Machine::new(life("eu-0", 7), &config(), machine.counted());
    let found = heard(&[("eu-0", 7)], &[(life("eu-0", 7), 1)]);
    start(&mut machine, 5_000, &mut queue, &here, &found);
    let Step::Write(batch) = machine.step(5_000, &mut queue, &here) else { panic!() };
    assert_eq!((batch.number, batch.writing, batch.changes.len()), (2, 2, 2));
    machine.written(5_000);
    let Step::Clear(clear) = machine.step(5_010, &mut queue, &here) else { panic!() };
    assert_eq!((clear.life, clear.before), (life("eu-0", 7), Some(2)));
}

#[test]
fn what_a_master_had_not_told_its_replica_is_written_again_under_a_new_name_of_the_log() {
    let (here, mut queue, mut machine) = (Here::with(3), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    let mut now = 0;
    go_on(&mut machine, &mut now, &mut queue, &here);
    queue.note(&unbind("a0@x/r", 1), 100);
    here.rows.borrow_mut().remove("a0@x/r");
    now = 200;
    go_on(&mut machine, &mut now, &mut queue, &here);
    let stale = heard(&[("eu-0", 7)], &[(life("eu-0", 7), 1)]);
    beat(&mut machine, 1_000, &mut queue, &here, &stale);
    let Step::Beat(sent) = machine.step(1_000, &mut queue, &here) else { panic!() };
    assert!(sent.new_life);
    machine.beaten(1_000, &sent, &stale, &here);
    let Step::Write(batch) = machine.step(1_001, &mut queue, &here) else { panic!() };
    assert_eq!((batch.writing, batch.changes.len()), (2, 2));
    machine.written(1_001);
    now = 1_005;
    // And what the former writing left over goes.
    let Step::Clear(clear) = machine.step(now, &mut queue, &here) else { panic!() };
    assert_eq!((clear.life, clear.before), (life("eu-0", 7), Some(2)));
}

#[test]
fn a_batch_without_an_answer_is_written_again() {
    let (here, mut queue, mut machine) = (Here::with(3), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    assert!(matches!(machine.step(0, &mut queue, &here), Step::Write(_)));
    machine.failed(10, &mut queue, 1.0);
    assert_eq!(machine.step(10, &mut queue, &here), Step::Wait(110));
    assert_eq!(machine.step(110, &mut queue, &here), Step::Connect);
    machine.failed(110, &mut queue, 0.0);
    assert_eq!(machine.step(110, &mut queue, &here), Step::Wait(210));
    assert_eq!(machine.step(210, &mut queue, &here), Step::Connect);
    machine.connected(210);
    beat(&mut machine, 210, &mut queue, &here, &heard(&[("eu-0", 7)], &[(life("eu-0", 7), 1)]));
    let Step::Write(batch) = machine.step(211, &mut queue, &here) else { panic!() };
    assert_eq!((batch.number, batch.changes.len()), (2, 3));
}

#[test]
fn a_change_that_was_not_answered_waits_again_behind_nothing_newer() {
    let (here, mut queue, mut machine) = (Here::default(), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    let mut now = 0;
    go_on(&mut machine, &mut now, &mut queue, &here);
    queue.note(&bind("a@x/r", 3), 10);
    assert!(matches!(machine.step(30, &mut queue, &here), Step::Write(_)));
    queue.note(&unbind("a@x/r", 3), 31);
    machine.failed(40, &mut queue, 0.5);
    assert_eq!(queue.take(9, 40), [(jid("a@x/r"), Change::Gone(Hlc(3)))]);
}

#[test]
fn the_least_of_the_living_removes_what_the_dead_left() {
    let (here, mut queue, mut machine) = (Here::default(), Queue::new(10), machine());
    let mut now = 0;
    let lives = [(life("eu-0", 7), 9), (life("eu-1", 3), 5), (life("eu-2", 4), 5)];
    // A newer life of eu-1 has registered; eu-2 only says nothing at the moment.
    let said = heard(&[("eu-0", 7), ("eu-1", 8)], &lives);
    start(&mut machine, now, &mut queue, &here, &said);
    let Step::Write(_) = machine.step(now, &mut queue, &here) else { panic!() };
    machine.written(now);
    let mut swept = Vec::new();
    let mut sweep = |machine: &mut Machine, now: u64, queue: &mut Queue| {
        while let Step::Clear(clear) = machine.step(now, queue, &here) {
            if clear.before.is_none() {
                swept.push((clear.life.clone(), now));
            }
            let (cursor, seen, removed, alive) = ("0".to_owned(), 0, 0, false);
            machine.cleared(now, &clear, &Cleared { cursor, seen, removed, alive });
        }
    };
    sweep(&mut machine, now, &mut queue);
    let left = heard(&[("eu-0", 7), ("eu-1", 8)], &[lives[0].clone(), lives[2].clone()]);
    while now < 12_000 {
        now += 1_000;
        beat(&mut machine, now, &mut queue, &here, &left);
        sweep(&mut machine, now, &mut queue);
    }
    assert_eq!(swept[0], (life("eu-1", 3), 0));
    assert_eq!(swept[1], (life("eu-2", 4), 10_000));
    // Not the least: somebody else's work.
    let mut other = Machine::new(life("eu-1", 8), &config(), Counted::default());
    start(&mut other, 0, &mut queue, &here, &said);
    other.step(0, &mut queue, &here);
    other.written(0);
    let Step::Clear(clear) = other.step(0, &mut queue, &here) else { panic!() };
    assert_eq!((clear.life, clear.before), (life("eu-1", 8), Some(1)), "only what is its own");
}

#[test]
fn nodes_that_register_are_known_and_remembered_for_a_while() {
    let (here, mut queue, mut machine) = (Here::default(), Queue::new(10), machine());
    start(&mut machine, 0, &mut queue, &here, &heard(&[("eu-0", 7)], &[]));
    let both = heard(&[("eu-0", 7), ("eu-1", 8)], &[(life("eu-0", 7), 0)]);
    let Step::Beat(sent) = machine.step(1_000, &mut queue, &here) else { panic!() };
    assert!(machine.beaten(1_000, &sent, &both, &here));
    assert!(!machine.beaten(1_000, &sent, &both, &here));
    assert!(machine.nodes()["eu-1"].lives);
    let alone =
        Beaten { nodes: vec![(record("eu-0", 7), Some(7)), (record("eu-1", 8), None)], ..both };
    assert!(!machine.beaten(50_000, &sent, &alone, &here));
    assert!(!machine.nodes()["eu-1"].lives);
    assert!(machine.beaten(102_000, &sent, &alone, &here), "it is forgotten");
    assert!(!machine.nodes().contains_key("eu-1"));
}

#[test]
fn the_map_is_told_when_it_is_new_and_to_an_empty_redis_again() {
    let (here, mut queue, mut machine) = (Here::default(), Queue::new(10), machine());
    let mut said = heard(&[("eu-0", 7)], &[(life("eu-0", 7), 1)]);
    start(&mut machine, 0, &mut queue, &here, &said);
    let mut told = |machine: &mut Machine, now: u64, said: &Beaten| {
        let Step::Beat(sent) = machine.step(now, &mut queue, &here) else { panic!() };
        machine.beaten(now, &sent, said, &here);
        sent.map.map(|(version, _)| version)
    };
    *here.version.borrow_mut() = 4;
    assert_eq!(told(&mut machine, 1_000, &said), Some(4));
    assert_eq!(told(&mut machine, 2_000, &said), None);
    said.life = "second".into();
    assert_eq!(told(&mut machine, 3_000, &said), None);
    assert_eq!(told(&mut machine, 4_000, &said), Some(4));
}

#[test]
fn a_life_that_another_has_taken_the_place_of_writes_nothing() {
    let (here, mut queue, mut machine) = (Here::with(3), Queue::new(10), machine());
    let said = Beaten { superseded: true, ..heard(&[("eu-0", 8)], &[]) };
    start(&mut machine, 0, &mut queue, &here, &said);
    queue.note(&bind("a@x/r", 1), 0);
    assert_eq!(machine.step(500, &mut queue, &here), Step::Wait(1_000));
    assert!(machine.is_superseded());
}
