//! Plays many seeds and asks every promise of each. Ends as cargo's own tests do: a line for each promise under each profile, then
//! `test result:`.
//!
//! * `PANGAEA_SEED=42`: one seed, with its story. `PANGAEA_SEEDS=20000`: so many (1,000 by default), `PANGAEA_SEEDS_FROM=1000`: from there on. Profiles by name as arguments;
//!   `falls` is played only when it is named. `nodes` has seeds of its own: a fifth as many where nothing is named.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pangaea_sim::plan::{FALLS_FROM, NODES_FROM, PROFILES, Profile};
use pangaea_sim::play::play;
use pangaea_sim::promises;

/// Seeds beyond the first thousand that have found what is mended by now. Played with those from 0 on, where nothing is named.
const FOUND: [u64; 21] = [
    5_001, 6_374, 7_882, 8_759, 9_059, 9_818, 10_675, 11_836, 14_267, 14_667, 15_854, 20_320,
    24_401, 2_000_324, 2_006_102, 2_009_136, 2_009_172, 2_015_130, 2_018_179, 2_021_405, 2_023_706,
];

/// Failing seeds shown for each promise and profile.
const SHOWN: usize = 3;

type Broken = BTreeMap<(Profile, &'static str), Vec<(u64, String)>>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.replace('_', "").parse().ok()
}

fn main() -> ExitCode {
    if let Some(seed) = number("PANGAEA_SEED") {
        return one(seed);
    }
    let seeds = number("PANGAEA_SEEDS").unwrap_or(1_000);
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let named = |profile: Profile| wanted.iter().any(|word| word == profile.name());
    let (falls, nodes) = (named(Profile::Falls), named(Profile::Nodes));
    let profiles: Vec<Profile> = PROFILES
        .into_iter()
        .filter(|profile| {
            wanted.is_empty() || wanted.iter().any(|word| profile.name().contains(word.as_str()))
        })
        .chain(falls.then_some(Profile::Falls))
        .chain((nodes || wanted.is_empty()).then_some(Profile::Nodes))
        .collect();
    let threads = number("PANGAEA_SIM_THREADS").unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(2, |count| count.get() as u64)
    });
    let began = Instant::now();
    let from = match (falls, nodes) {
        (true, _) => FALLS_FROM,
        (_, true) => NODES_FROM,
        _ => 0,
    };
    let first = from + number("PANGAEA_SEEDS_FROM").unwrap_or(0);
    // Beside those that are always played a fifth as many of several nodes a region.
    let more = if wanted.is_empty() { NODES_FROM + seeds / 5 } else { NODES_FROM };
    let more = NODES_FROM + first.min(NODES_FROM)..more + first.min(NODES_FROM);
    let found = FOUND.into_iter().filter(|_| wanted.is_empty() && first == 0);
    let all: Vec<u64> = (first..first + seeds).chain(more).chain(found).collect();
    let next = AtomicUsize::new(0);
    let broken: Mutex<Broken> = Mutex::default();
    let played: Mutex<BTreeMap<Profile, (u64, u64)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = all.get(at).copied() else { return };
                    if !profiles.contains(&Profile::of(seed)) {
                        continue;
                    }
                    let outcome = std::panic::catch_unwind(|| play(seed, false));
                    let profile = Profile::of(seed);
                    let mut broken = broken.lock().expect("no panic while it is held");
                    match outcome {
                        Ok(outcome) => {
                            let mut played = played.lock().expect("no panic while it is held");
                            let counts = played.entry(profile).or_default();
                            counts.0 += 1;
                            counts.1 += outcome.messages as u64;
                            for (promise, how) in outcome.broken {
                                let all = broken.entry((profile, promise)).or_default();
                                if all.last().is_none_or(|(known, _)| *known != seed) {
                                    all.push((seed, how));
                                }
                            }
                        }
                        Err(_) => broken
                            .entry((profile, "no_panic"))
                            .or_default()
                            .push((seed, "the simulation panicked".to_owned())),
                    }
                }
            });
        }
    });
    report(
        &profiles,
        &broken.into_inner().expect("all are done"),
        &played.into_inner().expect("all are done"),
        began,
    )
}

fn report(
    profiles: &[Profile],
    broken: &Broken,
    played: &BTreeMap<Profile, (u64, u64)>,
    began: Instant,
) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    let names = promises::ALL.iter().map(|promise| promise.name).chain(["no_panic"]);
    for name in names {
        for profile in profiles {
            let Some((count, _)) = played.get(profile) else { continue };
            match broken.get(&(*profile, name)) {
                None => {
                    println!("test {name}::{} ... ok", profile.name());
                    passed += 1;
                }
                Some(all) => {
                    println!("test {name}::{} ... FAILED", profile.name());
                    println!("    {} of {count} seeds break it", all.len());
                    let mut all = all.clone();
                    all.sort();
                    for (seed, how) in all.iter().take(SHOWN) {
                        println!("    seed {seed}: {how}");
                        println!(
                            "        PANGAEA_SEED={seed} cargo test -p pangaea-sim --test seeds"
                        );
                    }
                    failed += 1;
                }
            }
        }
    }
    let (seeds, messages) = played.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let seconds = began.elapsed().as_secs_f64();
    println!("{seeds} seeds, {messages} messages, {seconds:.1} s");
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {seconds:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64) -> ExitCode {
    let outcome = play(seed, true);
    println!("{}", outcome.story);
    let word = if outcome.broken.is_empty() { "ok" } else { "FAILED" };
    let failed = usize::from(!outcome.broken.is_empty());
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        1 - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
