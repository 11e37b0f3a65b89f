//! The promise of blueprint §5, played from seeds: several nodes with real session tables, probes and route logs, joined by links that
//! delay and are cut; users who move, with and without saying so; senders who number what they send. Checked on the way and after
//! healing: order per sender and addressee, none lost, none twice to one device, no gate left shut, all tables equal.
//!
//! `PANGAEA_SEEDS=5000` plays more, `PANGAEA_SEED=42` plays one and prints what happened. A failure prints its seed and its story.

mod node;
mod road;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Rules, World};

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The first seed that breaks a promise, and how.
fn first_failure(seeds: impl Iterator<Item = u64>, rules: Rules) -> Option<(u64, String)> {
    for seed in seeds {
        let played = catch_unwind(AssertUnwindSafe(|| World::new(seed, rules, false).play()));
        match played {
            Ok(Ok(())) => {}
            Ok(Err(broken)) => return Some((seed, broken)),
            Err(_) => return Some((seed, "panicked".to_owned())),
        }
    }
    None
}

fn tell(seed: u64, rules: Rules) -> String {
    let mut world = World::new(seed, rules, true);
    let result = catch_unwind(AssertUnwindSafe(|| world.play()));
    let mut story = world.story();
    story.push_str(&format!("seed {seed}: {result:?}\n"));
    story
}

#[test]
fn order_holds_and_nothing_is_lost_whatever_moves() {
    let rules = Rules::default();
    if let Some(seed) = from_env("PANGAEA_SEED") {
        println!("{}", tell(seed, rules));
        assert!(first_failure(seed..=seed, rules).is_none());
        return;
    }
    let seeds = from_env("PANGAEA_SEEDS").unwrap_or(300);
    if let Some((seed, broken)) = first_failure(0..seeds, rules) {
        panic!("{}\nseed {seed} breaks a promise: {broken}", tell(seed, rules));
    }
}

/// Each rule of the protocol is there for a reason: without it a seed breaks the promise.
#[test]
fn without_any_one_of_the_rules_the_promise_is_broken() {
    for (name, rules) in Rules::each_without_one() {
        let failure = first_failure(0..2_000, rules);
        println!("without {name}: {failure:?}");
        assert!(failure.is_some(), "without {name} nothing broke: is it needed?");
    }
}
