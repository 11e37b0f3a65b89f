//! Performs every play of `tests/scenarios/`, once with everybody together and once with the clients spread over regions.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test scenarios [WORD…]` when the server has been built.
//! `PANGAEA_TEST_AGAINST=prosody` (or `ejabberd`) performs them at a server of others instead, to prove the plays; with
//! `--include-ignored` also those that are not held to it, to see whether the reason still holds.

use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Door, Plan, Platform};
use pangaea_tests::reference::{Reference, Which};
use pangaea_tests::scenario::{Placement, Play, Theatre, perform};
use std::process::ExitCode;

const TOGETHER: usize = 6;
const LONGEST_SECONDS: u64 = 60;

fn plays() -> Result<Vec<(String, Play)>, String> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut plays = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|x| x == "scn") {
            let name = path.file_stem().unwrap_or_default().display().to_string();
            let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
            plays.push((name.clone(), Play::read(&text).map_err(|e| format!("{name}.scn: {e}"))?));
        }
    }
    plays.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(plays)
}

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let plays = match plays() {
        Ok(plays) => plays,
        Err(e) => {
            println!("{e}");
            return ExitCode::FAILURE;
        }
    };
    if choice.list {
        for (name, _) in &plays {
            println!("{name}::together: test\n{name}::spread: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut outcome = Outcome::default();
    match Which::wanted() {
        Ok(Some(which)) => at_reference(which, &choice, &plays, &mut outcome).await,
        Ok(None) => at_pangaea(&choice, &plays, &mut outcome).await,
        Err(e) => outcome.fail("the_server_is_known", &e),
    }
    outcome.finish()
}

async fn at_pangaea(choice: &Choice, plays: &[(String, Play)], outcome: &mut Outcome) {
    let plan = Plan { regions: ["eu", "us", "ap"].map(Into::into).into(), ..Plan::default() };
    let platform = match Platform::start(plan).await {
        Ok(platform) => platform,
        Err(e) => return outcome.fail("the_platform_starts", &e),
    };
    let doors = [Door::StartTls, Door::DirectTls, Door::StartTls];
    let endpoints = (0..3).map(|region| platform.endpoint(region, doors[region])).collect();
    let mut theatre = match endpoints {
        Ok(endpoints) => Theatre::new(endpoints, "s"),
        Err(e) => return outcome.fail("the_platform_has_certificates", &e),
    };
    let own = |region: &String| format!("{region}.{}", platform.plan.domain);
    theatre.domains = platform.plan.regions.iter().map(own).collect();
    theatre.components = (0..3).map(|region| platform.port(region, 347)).collect();
    let theatre = &theatre;
    let mut tests = Vec::new();
    for (name, play) in plays {
        for (placement, where_) in
            [(Placement::Together, "together"), (Placement::Spread, "spread")]
        {
            tests.push(Test::new(format!("{name}::{where_}"), move || {
                perform(play, theatre, placement)
            }));
        }
    }
    run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
    for panic in platform.panics() {
        outcome.fail("no_node_panics", &panic);
    }
}

async fn at_reference(
    which: Which,
    choice: &Choice,
    plays: &[(String, Play)],
    outcome: &mut Outcome,
) {
    let name = which.name();
    let reference = match Reference::start(which).await {
        Ok(reference) => reference,
        Err(e) => return outcome.fail(&format!("{name}_starts"), &e),
    };
    let mut theatre = match reference.endpoint() {
        Ok(endpoint) => Theatre::new(vec![endpoint], "s"),
        Err(e) => return outcome.fail(&format!("{name}_has_a_certificate"), &e),
    };
    theatre.habits = which.habits();
    let tests = plays
        .iter()
        .map(|(title, play)| {
            let mut test = Test::new(format!("{title}::{name}"), || {
                perform(play, &theatre, Placement::Together)
            });
            test.ignored = play.not_on.get(name).cloned();
            test
        })
        .collect();
    run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
    reference.finish();
}
