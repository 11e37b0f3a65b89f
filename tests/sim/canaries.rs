//! A bug that is put back is found within a hundred seeds of a profile, or the simulator is wrong. Found means: a promise is broken that the
//! same seed keeps without the bug.

use std::collections::BTreeSet;

use config::canary::{Canary, put_back};
use pangaea_sim::plan::{NODES_FROM, PROFILES, Profile};
use pangaea_sim::play::play;

/// Seeds of the profile that are tried.
const SEEDS: u64 = 100;

/// What that seed breaks, with this bug or without any.
fn broken(seed: u64, canary: Option<Canary>) -> BTreeSet<&'static str> {
    put_back(canary);
    let broken = play(seed, false).broken.into_iter().map(|(promise, _)| promise).collect();
    put_back(None);
    broken
}

/// Ends at the first that finds it; with `PANGAEA_CANARY_ALL` all are tried, and it is said how many do.
fn is_found(canary: Canary, profile: Profile) {
    let all = std::env::var_os("PANGAEA_CANARY_ALL").is_some();
    let always = PROFILES.iter().position(|known| *known == profile);
    let (name, mut count) = (profile.name(), 0);
    for tried in 0..SEEDS {
        let seed = match always {
            Some(first) => first as u64 + tried * PROFILES.len() as u64,
            None => NODES_FROM + tried,
        };
        let with = broken(seed, Some(canary));
        if with.is_empty() {
            continue;
        }
        let without = broken(seed, None);
        let found: Vec<&&str> = with.difference(&without).collect();
        if !found.is_empty() {
            count += 1;
            println!("{canary:?}: seed {seed}, the {}. of {name}: {found:?}", tried + 1);
            if !all {
                return;
            }
        }
    }
    assert!(count > 0, "{canary:?} is not found within {SEEDS} seeds of {name}");
    println!("{canary:?}: {count} of {SEEDS} seeds of {name} find it");
}

#[test]
fn parking_without_a_mark() {
    is_found(Canary::JudgedAtOnce, Profile::Calm);
}

#[test]
fn counting_before_anybody_is_responsible() {
    is_found(Canary::HandledAtOnce, Profile::Deaths);
}

#[test]
fn an_outbox_that_does_not_write() {
    is_found(Canary::OutboxForgets, Profile::Deaths);
}

#[test]
fn returned_stanzas_behind_newer_ones() {
    is_found(Canary::ReturnedBehind, Profile::Moves);
}

#[test]
fn an_unbind_that_takes_a_newer_row() {
    is_found(Canary::UnbindsNewer, Profile::Moves);
}

#[test]
fn forgetting_what_was_not_acknowledged() {
    is_found(Canary::UnackedForgotten, Profile::Moves);
}

#[test]
fn a_session_that_moves_with_nothing() {
    is_found(Canary::CapsuleEmpty, Profile::Moves);
}

#[test]
fn a_session_that_moves_and_stays() {
    is_found(Canary::GiverKeeps, Profile::Moves);
}

#[test]
fn taking_what_follows_a_refused_stanza() {
    is_found(Canary::TakesBehindRefused, Profile::Moves);
}

#[test]
fn a_dead_node_that_keeps_what_it_had() {
    is_found(Canary::DeadNodeKeeps, Profile::Deaths);
}

#[test]
fn a_link_that_forgets_its_peer() {
    is_found(Canary::LinkForgetsPeer, Profile::Cuts);
}

#[test]
fn binds_ordered_by_the_wall_clock() {
    is_found(Canary::ClockFollowsWall, Profile::Pauses);
}

#[test]
fn a_scribe_that_slept_and_goes_on_writing() {
    is_found(Canary::SleeperWrites, Profile::Nodes);
}

#[test]
fn a_gateway_that_dies_with_what_it_had() {
    is_found(Canary::GatewayForgets, Profile::Deaths);
}

#[test]
fn a_pair_that_changes_its_gateway_on_the_way() {
    is_found(Canary::PairWanders, Profile::Cuts);
}

#[test]
fn a_node_that_does_not_follow_its_scribe() {
    is_found(Canary::ReaderStarves, Profile::Nodes);
}
