//! The session table against a carrier that writes down what it is told. Whole nodes and links are in `tests/order/`.
//!
//! * `lives` nodes that die and start again

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use replication::watermark::Probes;

use super::*;

mod lives;

const B: NodeIx = NodeIx(1);
const C: NodeIx = NodeIx(2);
const GONE: Shows = Shows { priority: 9, available: false, hidden: false };

#[derive(Clone, Debug, PartialEq)]
struct Note {
    serial: u64,
    keep: bool,
}

fn note(serial: u64) -> Note {
    Note { serial, keep: true }
}

fn by(by: NodeIx, number: u64) -> Refusal {
    Refusal { by, number }
}

fn shout(serial: u64) -> Note {
    Note { serial, keep: false }
}

fn serials(notes: &[Note]) -> Vec<u64> {
    notes.iter().map(|note| note.serial).collect()
}

/// Two other nodes. Each stanza to a node has the next number there; the test says what is settled and echoed.
#[derive(Default)]
struct Wire {
    probes: RefCell<Probes>,
    live: RefCell<Vec<&'static str>>,
    sent: RefCell<BTreeMap<NodeIx, u64>>,
    settled: RefCell<BTreeMap<NodeIx, u64>>,
    log: RefCell<Vec<String>>,
    full: Cell<bool>,
}

impl Wire {
    fn alone() -> Self {
        Self::default()
    }

    fn with_peers() -> Self {
        Self { live: RefCell::new(vec!["b", "c"]), ..Self::default() }
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.borrow_mut())
    }

    fn ask(&self) -> Vec<(String, u64)> {
        self.probes.borrow_mut().due().into_iter().map(|(name, n)| (name.to_string(), n)).collect()
    }
}

impl Carrier<u32, Note> for Wire {
    fn choose(&self, note: &Note, rows: &[Row<u32>]) -> Choice<u32> {
        let takers = || rows.iter().filter(|row| row.available);
        if takers().next().is_none() {
            return Choice::Nobody { file: note.keep };
        }
        let here = takers().filter_map(Row::here).copied().collect();
        let mut there = SmallVec::new();
        for node in takers().filter_map(Row::there) {
            if !there.contains(&node) {
                there.push(node);
            }
        }
        Choice::Send { here, there }
    }

    fn carry(
        &self,
        note: Note,
        here: &[u32],
        there: &[NodeIx],
        trail: &mut Trail,
    ) -> Result<(), Note> {
        if self.full.get() {
            return Err(note);
        }
        for handle in here {
            self.log.borrow_mut().push(format!("{} to session {handle}", note.serial));
        }
        for node in there {
            self.log.borrow_mut().push(format!("{} to node {}", note.serial, node.0));
            let mut sent = self.sent.borrow_mut();
            let number = sent.entry(*node).or_default();
            *number += 1;
            if here.is_empty() {
                leave_trail(trail, *node, *number);
            }
        }
        Ok(())
    }

    fn acked(&self, node: NodeIx) -> u64 {
        self.settled.borrow().get(&node).copied().unwrap_or(0)
    }

    fn fence(&self, node: NodeIx) -> u64 {
        self.sent.borrow().get(&node).copied().unwrap_or(0) + 1
    }

    fn order(&self, note: &Note) -> u64 {
        note.serial
    }

    fn mark(&self) -> Mark {
        self.probes.borrow_mut().mark(self.live.borrow().iter().copied())
    }

    fn closed(&self, mark: &Mark) -> bool {
        self.probes.borrow().is_closed(mark)
    }

    fn weight(&self, _: &Note) -> usize {
        10
    }
}

struct Play {
    table: Directory<u32, Note>,
    wire: Wire,
    now: u64,
}

impl Play {
    fn new(wire: Wire) -> Self {
        let limits = ParkLimits { bytes_max: 1_000, per_addressee_max: 5, hold_ms: 1_000 };
        Self { table: Directory::new(limits), wire, now: 0 }
    }

    fn bind(&self, resource: &str, place: Place<u32>, at: u64) -> Bound<u32> {
        let row = Row { available: true, ..Row::new(full(resource), place, Hlc(at)) };
        self.table.bind(row, |_| false)
    }

    fn unbind(&self, resource: &str, at: u64, left: Vec<Note>) -> Unbound<u32> {
        self.table.unbind_here(&full(resource), Hlc(at), self.now, &self.wire, || left)
    }

    /// By the word of its node.
    fn left(&self, resource: &str, at: u64) -> bool {
        [B, C].into_iter().any(|node| {
            self.table.unbind_there(node, &full(resource), Hlc(at), self.now, &self.wire)
        })
    }

    fn send(&self, serial: u64) -> Outcome<Note> {
        self.table.dispatch(&juliet(), note(serial), self.now, &self.wire)
    }

    fn reopen(&self) -> Vec<Outcome<Note>> {
        self.table.reopen(&juliet(), self.now, &self.wire)
    }

    /// The node answers all that was asked; reopens who waited.
    fn echo(&self, name: &str) -> Vec<Outcome<Note>> {
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            for (asked, number) in self.wire.ask() {
                if asked != name {
                    continue;
                }
                self.wire.probes.borrow_mut().echoed(name, number);
                for who in self.table.echoed(name, number) {
                    outcomes.extend(self.table.reopen(&who, self.now, &self.wire));
                }
            }
        }
        outcomes
    }

    /// All that was sent to the node is settled; reopens who waited.
    fn settle(&self, node: NodeIx) -> Vec<Outcome<Note>> {
        let number = {
            let mut sent = self.wire.sent.borrow_mut();
            let number = sent.entry(node).or_default();
            *number += 1;
            *number
        };
        self.wire.settled.borrow_mut().insert(node, number);
        let mut outcomes = Vec::new();
        for who in self.table.acked(node, number) {
            outcomes.extend(self.table.reopen(&who, self.now, &self.wire));
        }
        outcomes
    }

    fn is_settled(&self) {
        assert_eq!(self.table.parked(), (0, 0));
        assert_eq!(self.table.len(), 0, "nothing is remembered of anybody");
        assert!(self.table.due(u64::MAX - 1).is_empty(), "no deadline is left behind");
    }
}

fn juliet() -> BareJid {
    BareJid::parse("juliet@capulet.example").expect("a JID")
}

fn full(resource: &str) -> FullJid {
    juliet().with_resource(resource).expect("a JID")
}

fn filed(outcome: &Outcome<Note>) -> Vec<u64> {
    match outcome {
        Outcome::File(batch) => serials(batch),
        other => panic!("to be filed, not {other:?}"),
    }
}

#[test]
fn a_stanza_for_a_known_user_goes_at_once() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::Here(7), 1);
    assert!(matches!(play.send(1), Outcome::Sent));
    assert_eq!(play.wire.log(), ["1 to session 7"]);
    assert!(!play.unbind("balcony", 1, vec![]).reopen);
    play.is_settled();
}

#[test]
fn a_stanza_for_an_unknown_user_is_filed_when_everybody_has_echoed() {
    let play = Play::new(Wire::with_peers());
    assert!(matches!(play.send(1), Outcome::Held));
    assert_eq!(play.table.parked(), (1, 10));
    assert!(play.echo("b").is_empty());
    play.wire.probes.borrow_mut().restarted("c");
    let outcomes = play.echo("c");
    assert_eq!(outcomes.len(), 1);
    assert_eq!(filed(&outcomes[0]), [1]);
    assert!(play.table.filed(&juliet(), vec![], 0, &play.wire).is_empty());
    play.is_settled();
}

#[test]
fn alone_in_the_world_nothing_is_waited_for() {
    let play = Play::new(Wire::alone());
    assert_eq!(filed(&play.send(1)), [1]);
    assert!(matches!(play.send(2), Outcome::Held));
    let outcomes = play.table.filed(&juliet(), vec![], 0, &play.wire);
    assert_eq!(filed(&outcomes[0]), [2]);
    play.table.filed(&juliet(), vec![], 0, &play.wire);
    let outcome = play.table.dispatch(&juliet(), shout(3), 0, &play.wire);
    assert!(matches!(outcome, Outcome::Nobody(_)));
    play.is_settled();
}

#[test]
fn a_row_that_appears_lets_parked_stanzas_go_in_order() {
    let play = Play::new(Wire::with_peers());
    for serial in 1..=3 {
        assert!(matches!(play.send(serial), Outcome::Held));
    }
    assert!(play.bind("balcony", Place::There(C), 1).reopen);
    assert_eq!(play.reopen().len(), 3);
    assert_eq!(play.wire.log(), ["1 to node 2", "2 to node 2", "3 to node 2"]);
    assert!(matches!(play.send(4), Outcome::Sent));
    assert!(play.table.due(u64::MAX - 1).is_empty());
}

#[test]
fn what_follows_a_move_waits_until_the_old_place_is_settled() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    assert!(matches!(play.send(1), Outcome::Sent));
    assert!(matches!(play.send(2), Outcome::Sent));
    play.bind("tomb", Place::There(C), 2);
    play.left("balcony", 1);
    assert!(matches!(play.send(3), Outcome::Held));
    assert!(play.settle(C).is_empty());
    play.wire.log();
    assert_eq!(play.settle(B).len(), 1);
    assert_eq!(play.wire.log(), ["3 to node 2"]);
    play.settle(C);
    assert!(play.left("tomb", 2));
    assert!(play.reopen().is_empty());
    play.settle(C);
    play.is_settled();
}

#[test]
fn a_second_place_waits_too_because_the_first_may_give_back() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.send(1);
    play.bind("tomb", Place::There(C), 2);
    assert!(matches!(play.send(2), Outcome::Held));
    play.settle(B);
    assert_eq!(play.wire.log(), ["1 to node 1", "2 to node 1", "2 to node 2"]);
    // From now on both are where everything goes, settled or not.
    assert!(matches!(play.send(3), Outcome::Sent));
    play.settle(B);
    assert!(matches!(play.send(4), Outcome::Sent));
}

#[test]
fn returned_stanzas_go_first_and_in_order_however_they_come_back() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    for serial in 1..=3 {
        play.send(serial);
    }
    play.bind("tomb", Place::There(C), 2);
    play.left("balcony", 1);
    play.wire.log();
    assert!(matches!(play.send(4), Outcome::Held));
    for (serial, number) in [(2, 1), (1, 2), (3, 3)] {
        let outcome = play.table.returned(&juliet(), note(serial), by(B, number), 0, &play.wire);
        assert!(matches!(outcome, Outcome::Held));
    }
    assert_eq!(play.table.refusals_seen(B), 3);
    assert!(matches!(play.send(5), Outcome::Held));
    assert_eq!(play.settle(B).len(), 5);
    let all: Vec<String> = (1..=5).map(|serial| format!("{serial} to node 2")).collect();
    assert_eq!(play.wire.log(), all);
}

#[test]
fn a_refused_copy_makes_the_next_wait_until_all_is_settled() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.bind("tomb", Place::There(C), 2);
    play.send(1);
    play.table.refused(&juliet(), by(B, 1));
    assert_eq!(play.table.refusals_seen(B), 1);
    assert!(matches!(play.send(2), Outcome::Held));
    play.settle(B);
    play.wire.log();
    play.settle(C);
    assert_eq!(play.wire.log(), ["2 to node 1", "2 to node 2"]);
    assert!(matches!(play.send(3), Outcome::Sent));
}

#[test]
fn what_comes_while_a_batch_is_filed_waits_behind_it() {
    let play = Play::new(Wire::with_peers());
    play.send(1);
    play.send(2);
    play.echo("b");
    play.wire.probes.borrow_mut().restarted("c");
    assert_eq!(filed(&play.echo("c")[0]), [1, 2]);
    // She is back, but what is being filed comes first.
    assert!(play.bind("balcony", Place::Here(7), 1).reopen);
    assert!(play.reopen().is_empty());
    assert!(matches!(play.send(3), Outcome::Held));
    let outcomes = play.table.filed(&juliet(), vec![note(1), note(2)], 0, &play.wire);
    assert_eq!(outcomes.len(), 3);
    assert_eq!(play.wire.log(), ["1 to session 7", "2 to session 7", "3 to session 7"]);
}

#[test]
fn what_a_filing_gives_back_is_not_lost_when_nothing_else_waits() {
    let play = Play::new(Wire::alone());
    let outcomes = play.table.filed(&juliet(), vec![note(1)], 0, &play.wire);
    assert_eq!(filed(&outcomes[0]), [1]);
}

#[test]
fn what_a_session_leaves_behind_goes_before_what_is_newer() {
    let play = Play::new(Wire::alone());
    play.bind("balcony", Place::Here(7), 1);
    let left = vec![note(1), note(2)];
    let unbound = play.unbind("balcony", 1, left);
    assert!(unbound.row.is_some() && unbound.reopen);
    assert!(matches!(play.send(3), Outcome::Held));
    assert_eq!(filed(&play.reopen()[0]), [1, 2, 3]);
}

#[test]
fn what_a_session_leaves_behind_during_a_filing_is_older_than_the_filed() {
    let play = Play::new(Wire::alone());
    assert_eq!(filed(&play.send(5)), [5]);
    play.table.put_back_all(&juliet(), vec![note(2), note(3)], 0, &play.wire);
    assert!(play.reopen().is_empty());
    let outcomes = play.table.filed(&juliet(), vec![note(5)], 0, &play.wire);
    assert_eq!(filed(&outcomes[0]), [2, 3, 5]);
}

#[test]
fn a_newer_bind_waits_for_what_the_old_session_leaves_behind() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::Here(7), 1);
    assert_eq!(play.bind("balcony", Place::Here(8), 2).superseded, Some(7));
    assert!(matches!(play.send(3), Outcome::Held));
    let unbound = play.unbind("balcony", 1, vec![note(1), note(2)]);
    assert!(unbound.row.is_none() && unbound.reopen);
    assert_eq!(play.reopen().len(), 3);
    assert_eq!(play.wire.log(), ["1 to session 8", "2 to session 8", "3 to session 8"]);
}

#[test]
fn a_remote_session_that_lost_its_row_has_to_say_goodbye_first() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.send(1);
    play.settle(B);
    play.bind("balcony", Place::There(C), 2);
    assert!(matches!(play.send(2), Outcome::Held));
    assert!(play.left("balcony", 1));
    assert!(play.reopen().is_empty(), "what it gives back is still on the way");
    play.table.returned(&juliet(), note(1), by(B, 1), 0, &play.wire);
    play.wire.log();
    play.settle(B);
    assert_eq!(play.wire.log(), ["1 to node 2", "2 to node 2"]);
}

#[test]
fn a_session_that_never_says_goodbye_does_not_hold_back_for_ever() {
    let mut play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::Here(7), 1);
    play.bind("balcony", Place::Here(8), 2);
    play.send(1);
    play.now = 999;
    assert!(play.table.due(play.now).is_empty());
    play.now = way::LEAVING_MS_MAX;
    assert_eq!(play.table.due(play.now), [juliet()]);
    assert_eq!(play.reopen().len(), 1);
}

#[test]
fn what_waits_too_long_is_given_up_unless_it_can_go_just_now() {
    let mut play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.send(1);
    play.bind("balcony", Place::There(C), 2);
    play.left("balcony", 1);
    assert!(matches!(play.send(2), Outcome::Held));
    assert!(play.table.due(999).is_empty());
    play.now = 1_000;
    assert_eq!(play.table.due(play.now), [juliet()]);
    assert!(matches!(play.reopen()[..], [Outcome::Expired(_)]));
    assert_eq!(play.table.parked(), (0, 0));

    assert!(matches!(play.send(3), Outcome::Held));
    play.now = 3_000;
    play.settle(B);
    assert_eq!(play.wire.log().last().map(String::as_str), Some("3 to node 2"));
}

#[test]
fn what_nobody_answers_for_is_given_to_the_home_in_the_end() {
    let mut play = Play::new(Wire::with_peers());
    play.send(1);
    play.table.dispatch(&juliet(), shout(2), 0, &play.wire);
    play.now = 1_000;
    assert_eq!(play.table.due(play.now), [juliet()]);
    assert_eq!(filed(&play.reopen()[0]), [1]);
    let outcomes = play.table.filed(&juliet(), vec![], play.now, &play.wire);
    assert!(matches!(outcomes[..], [Outcome::Expired(_)]));
    play.is_settled();
}

#[test]
fn bounds_refuse_what_is_new_and_never_what_comes_back() {
    let play = Play::new(Wire::with_peers());
    for serial in 1..=5 {
        assert!(matches!(play.send(serial), Outcome::Held));
    }
    assert!(matches!(play.send(6), Outcome::Full(_)));
    play.table.returned(&juliet(), note(7), by(B, 1), 0, &play.wire);
    play.table.put_back_all(&juliet(), vec![note(8)], 0, &play.wire);
    assert_eq!(play.table.parked().0, 7);
    for who in 0..18 {
        let bare = BareJid::parse(&format!("u{who}@capulet.example")).expect("a JID");
        for serial in 1..=5 {
            play.table.dispatch(&bare, note(serial), 0, &play.wire);
        }
        play.wire.ask();
    }
    let nurse = BareJid::parse("nurse@capulet.example").expect("a JID");
    (1..=3).for_each(|serial| drop(play.table.dispatch(&nurse, note(serial), 0, &play.wire)));
    assert_eq!(play.table.parked(), (100, 1_000));
    assert!(matches!(play.table.dispatch(&nurse, note(9), 0, &play.wire), Outcome::Full(_)));
    assert!(matches!(play.table.returned(&nurse, note(9), by(B, 2), 0, &play.wire), Outcome::Held));
    assert_eq!(play.table.parked().0, 101);
}

#[test]
fn a_full_link_gives_the_stanza_back() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.wire.full.set(true);
    assert!(matches!(play.send(1), Outcome::Full(_)));
    assert!(!play.left("balcony", 1));
    play.is_settled();
}

#[test]
fn an_older_generation_neither_removes_nor_replaces_a_newer_one() {
    let play = Play::new(Wire::alone());
    play.bind("balcony", Place::There(B), 5);
    assert!(play.bind("balcony", Place::There(C), 4).lost);
    assert!(!play.table.update_there(B, &full("balcony"), Hlc(4), GONE).0);
    let newest = |rows: &[Row<u32>]| (rows.len(), rows[0].there(), rows[0].available);
    assert_eq!(play.table.read(juliet().as_str(), newest), Some((1, Some(B), true)));
    // But if the newer one goes before the older one's node hears of it, the older one stands.
    play.left("balcony", 5);
    assert_eq!(play.table.read(juliet().as_str(), newest), Some((1, Some(C), true)));
    play.left("balcony", 4);
    play.is_settled();
}

#[test]
fn a_tie_is_decided_by_the_caller_and_a_repetition_changes_nothing() {
    let play = Play::new(Wire::alone());
    play.bind("balcony", Place::Here(7), 5);
    assert!(!play.bind("balcony", Place::Here(7), 5).lost);
    let row = |place| Row { available: true, ..Row::new(full("balcony"), place, Hlc(5)) };
    assert!(play.table.bind(row(Place::There(B)), |_| false).lost);
    assert_eq!(play.table.sessions_here(), 1);
    assert_eq!(play.table.bind(row(Place::There(B)), |_| true).superseded, Some(7));
    assert_eq!(play.table.sessions_here(), 0);
}

#[test]
fn light_changes_once_and_names_rows_that_show_something_only() {
    let play = Play::new(Wire::alone());
    play.bind("balcony", Place::There(B), 1);
    play.bind("tomb", Place::There(B), 2);
    play.bind("church", Place::There(C), 3);
    play.bind("garden", Place::There(B), 4);
    play.table.update(&full("tomb"), Hlc(2), GONE);
    play.table.update(&full("garden"), Hlc(4), Shows { available: true, hidden: true, ..GONE });
    let balcony = [(full("balcony"), Hlc(1))];
    assert_eq!(play.table.light(B, false), balcony);
    assert!(play.table.light(B, false).is_empty());
    assert_eq!(play.table.light(B, true), balcony);
}

#[test]
fn a_row_comes_out_as_dark_as_its_node() {
    let play = Play::new(Wire::alone());
    play.bind("balcony", Place::There(B), 1);
    play.bind("balcony", Place::There(C), 2);
    assert!(play.table.light(B, false).is_empty());
    play.table.unbind_there(C, &full("balcony"), Hlc(2), 0, &play.wire);
    let rows = |rows: &[Row<u32>]| rows.iter().map(|row| (row.there(), row.lit)).collect();
    let rows: Option<Vec<_>> = play.table.read(juliet().as_str(), rows);
    assert_eq!(rows, Some(vec![(Some(B), false)]));
}

#[test]
fn a_node_that_gave_one_back_gives_back_what_follows_until_the_sender_knows() {
    let play = Play::new(Wire::with_peers());
    let refused = RefCell::new(Vec::new());
    let take = |serial: u64, seen: u64| {
        play.table.take_in(
            B,
            &juliet(),
            seen,
            |rows| rows.iter().any(|row| row.here().is_some()),
            |why, number| refused.borrow_mut().push((serial, why, number)),
        )
    };
    assert_eq!(take(1, 0), Taken::Nobody);
    play.bind("balcony", Place::Here(7), 1);
    assert_eq!(take(2, 0), Taken::NotYet);
    assert_eq!(take(3, 1), Taken::NotYet, "it has not seen the second refusal");
    assert_eq!(take(1, 3), Taken::Yes);
    assert_eq!(take(2, 3), Taken::Yes);
    let all = [(1, Taken::Nobody, 1), (2, Taken::NotYet, 2), (3, Taken::NotYet, 3)];
    assert_eq!(*refused.borrow(), all);
    // A session that ends gives back what it had; the next does not get ahead of that.
    play.table.unbind_here(&full("balcony"), Hlc(1), 0, &play.wire, || {
        play.table.give_back(B, &juliet(), |number| {
            refused.borrow_mut().push((2, Taken::Nobody, number))
        });
        vec![]
    });
    play.bind("balcony", Place::Here(8), 2);
    assert_eq!(take(4, 3), Taken::NotYet);
    assert_eq!(take(2, 5), Taken::Yes);
    // And while an old session has not said what it leaves behind, nothing is taken.
    play.bind("balcony", Place::Here(9), 3);
    assert_eq!(take(5, 5), Taken::NotYet);
    play.unbind("balcony", 2, vec![]);
    assert_eq!(take(5, 6), Taken::Yes);
}

#[test]
fn a_goodbye_removes_the_row_of_its_own_node_only() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(C), 5);
    assert!(!play.table.unbind_there(B, &full("balcony"), Hlc(5), 0, &play.wire));
    assert_eq!(play.table.update_there(B, &full("balcony"), Hlc(5), GONE), (false, false));
    assert_eq!(play.table.len(), 1);
    assert!(matches!(play.send(1), Outcome::Sent));
}
