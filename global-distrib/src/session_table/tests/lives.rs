//! The session table when nodes die and start again.

use super::*;

#[test]
fn a_node_that_dies_takes_its_rows_along_and_frees_who_waited_for_it() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.send(1);
    play.bind("tomb", Place::There(C), 2);
    assert!(matches!(play.send(2), Outcome::Held));
    play.wire.log();
    let (removed, _) = play.table.remove_rows(B, |_| true);
    assert_eq!(removed.len(), 1);
    // What was on the way to it comes back before anything may pass.
    assert!(play.reopen().is_empty());
    play.table.put_back_all(&juliet(), vec![note(1)], 0, &play.wire);
    play.table.forget_trail(B);
    assert_eq!(play.table.released("b", B), [juliet()]);
    assert_eq!(play.reopen().len(), 2);
    assert_eq!(play.wire.log(), ["1 to node 2", "2 to node 2"]);
}

#[test]
fn a_row_that_lost_to_a_newer_one_stands_when_that_is_gone_first() {
    let play = Play::new(Wire::alone());
    let places =
        || play.table.read(juliet().as_str(), |rows| rows.iter().map(Row::there).collect());
    // The later word of a node whose clock is ahead, and then its goodbye.
    play.bind("balcony", Place::There(B), 1);
    play.bind("balcony", Place::There(C), 9);
    assert_eq!(places(), Some(vec![Some(C)]));
    play.table.unbind_there(C, &full("balcony"), Hlc(9), 0, &play.wire);
    assert_eq!(places(), Some(vec![Some(B)]));
    // Or its node has ended it meanwhile.
    play.bind("balcony", Place::There(C), 10);
    play.table.unbind_there(B, &full("balcony"), Hlc(1), 0, &play.wire);
    play.table.unbind_there(C, &full("balcony"), Hlc(10), 0, &play.wire);
    assert_eq!(places().unwrap_or_default(), Vec::<Option<NodeIx>>::new());
}

#[test]
fn what_a_former_life_sent_is_waited_for_as_if_it_had_been_sent_now() {
    // It is known that it has something when its row has lost, when its row is there, or when nothing is known of that row yet.
    for known_at in 0..3 {
        let play = Play::new(Wire::with_peers());
        let binds = [(B, 1), (C, 2)];
        let binds = if known_at < 2 { binds } else { [(C, 2), (B, 1)] };
        for (at, (node, generation)) in binds.into_iter().enumerate() {
            if at == [2, 1, 1][known_at] {
                play.table.held_there(&juliet(), B, 0, &play.wire);
            }
            play.bind("balcony", Place::There(node), generation);
        }
        if known_at == 0 {
            play.table.held_there(&juliet(), B, 0, &play.wire);
        }
        assert!(matches!(play.send(2), Outcome::Held), "{known_at}");
        assert!(play.left("balcony", 1));
        assert!(play.reopen().is_empty(), "what it gives back is still on the way");
        play.table.returned(&juliet(), note(1), by(B, 1), 0, &play.wire);
        play.settle(B);
        assert_eq!(play.wire.log(), ["1 to node 2", "2 to node 2"]);
    }
}

/// Seed 2009136: its row had lost at its own node before that told its rows to the new life, so nobody told of it.
#[test]
fn what_a_former_life_sent_is_waited_for_where_no_row_says_who_has_it() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(C), 2);
    play.table.held_there(&juliet(), B, 0, &play.wire);
    assert!(matches!(play.send(2), Outcome::Held));
    // An echo says nothing: its session has not ended yet.
    play.settle(B);
    assert!(play.reopen().is_empty());
    play.table.returned(&juliet(), note(1), by(B, 1), 0, &play.wire);
    assert!(play.table.has_nothing_there(&juliet(), B));
    play.reopen();
    play.settle(B);
    assert_eq!(play.wire.log(), ["1 to node 2", "2 to node 2"]);
    assert!(!play.table.has_nothing_there(&juliet(), B));
    // Its row comes after all, has lost, and everything had been echoed before: then its end is waited for.
    play.table.held_there(&juliet(), B, 0, &play.wire);
    assert!(matches!(play.send(3), Outcome::Held));
    play.settle(B);
    assert!(play.bind("tomb", Place::There(C), 9).reopen);
    assert!(play.table.waits_for_unknown(&juliet(), B));
    assert!(play.bind("tomb", Place::There(B), 8).reopen);
    assert!(!play.table.waits_for_unknown(&juliet(), B) && play.reopen().is_empty());
    assert!(play.left("tomb", 8));
    play.settle(B);
    play.settle(C);
    assert!(!play.wire.log().is_empty());
}

/// One of two sessions at B goes on at C, and what it had with it: not all that was sent to B has been at C.
#[test]
fn what_is_for_both_nodes_waits_for_what_went_to_one_of_them() {
    let play = Play::new(Wire::with_peers());
    play.bind("balcony", Place::There(B), 1);
    play.bind("tomb", Place::There(B), 2);
    play.send(1);
    play.bind("tomb", Place::There(C), 3);
    play.table.passed_there((B, C), &full("tomb"), Hlc(2), 0, &play.wire);
    assert!(matches!(play.send(2), Outcome::Held));
    play.table.returned(&juliet(), note(1), by(B, 1), 0, &play.wire);
    play.settle(B);
    play.settle(C);
    let sent = play.wire.log();
    assert_eq!(sent, ["1 to node 1", "1 to node 1", "1 to node 2", "2 to node 1", "2 to node 2"]);
}

#[test]
fn nothing_is_filed_before_what_a_former_life_sent_is_settled() {
    let play = Play::new(Wire::with_peers());
    play.table.held_there(&juliet(), B, 0, &play.wire);
    assert!(matches!(play.send(1), Outcome::Held));
    play.echo("b");
    play.wire.probes.borrow_mut().restarted("c");
    assert!(play.echo("c").is_empty());
    assert!(play.settle(B).is_empty());
    assert!(play.table.has_nothing_there(&juliet(), B));
    assert_eq!(filed(&play.reopen()[0]), [1]);
    play.table.filed(&juliet(), Vec::new(), 0, &play.wire);
    play.is_settled();
}

/// The next life hears of refusals that the former one had not acknowledged, and of none that it had: what both counted for themselves would differ.
#[test]
fn a_new_life_has_seen_what_it_is_told_and_no_more() {
    let play = Play::new(Wire::with_peers());
    let refusals = RefCell::new(Vec::new());
    let take = |seen: u64| {
        let deliver = |rows: &[Row<u32>]| rows.iter().any(|row| row.here().is_some());
        let refuse = |why, number| refusals.borrow_mut().push((why, number));
        play.table.take_in(B, &juliet(), seen, deliver, refuse)
    };
    assert_eq!((take(0), take(0)), (Taken::Nobody, Taken::Nobody));
    play.table.new_life(B, Some(2));
    play.bind("balcony", Place::Here(7), 1);
    // It is told of the second again, and has not heard it yet.
    assert_eq!((take(0), take(2)), (Taken::NotYet, Taken::NotYet));
    assert_eq!(refusals.borrow().last(), Some(&(Taken::NotYet, 4)));
    assert_eq!(take(4), Taken::Yes);
    // Of the next life nothing has to be seen that the former one has acknowledged.
    play.unbind("balcony", 1, vec![]);
    assert_eq!(take(4), Taken::Nobody);
    play.table.new_life(B, None);
    play.bind("balcony", Place::Here(8), 2);
    assert_eq!(take(0), Taken::Yes);
    // The other way: the numbers of a new life begin anew, and some of them say nothing.
    for (number, seen) in [(9, 9), (0, 9), (7, 9)] {
        play.table.refused(&juliet(), by(B, number));
        assert_eq!(play.table.refusals_seen(B), seen);
    }
    play.table.new_life(B, None);
    play.table.refused(&juliet(), by(B, 1));
    assert_eq!(play.table.refusals_seen(B), 1);
}
