//! End to end: the real binary, driven by clients that this project did not write, logging in at different regions.
//!
//! Run by `tests/run` (which makes the Python environment), or `cargo test -p pangaea-tests --test e2e [WORD…]` when the
//! server has been built. `slix::…` are programs for slixmpp in `e2e/slix/`, `tokio_xmpp::…` are in `foreign.rs`, the
//! contract of quickstart is in `contract.rs`, accounts that leave and come in `carry.rs`, people who move in `moves.rs`,
//! the rows of a geo-distributed domain by name in `geo.rs`, slixmpp's own tests in `suite.rs`. `PANGAEA_TEST_AGAINST=prosody` (or `ejabberd`) runs what
//! needs no regions at a server of others.

mod carry;
mod contract;
mod foreign;
mod geo;
mod moves;
mod place;
mod slix;
mod suite;
mod talk;

use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Plan, Platform};
use pangaea_tests::reference::Which;
use place::Place;
use std::process::ExitCode;

const LONGEST_SECONDS: u64 = 300;

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    if choice.list {
        for name in slix::NAMES.iter().chain(&slix::BREAKING) {
            println!("slix::{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    // A panic of a task is said in one line; what it means for a test, the test says.
    std::panic::set_hook(Box::new(|panic| eprintln!("(a task panicked: {panic})")));
    let mut outcome = Outcome::default();
    match Which::wanted() {
        Ok(None) => {}
        Ok(Some(which)) => {
            match place::at_reference(which).await {
                Ok((reference, place)) => {
                    steady(&choice, &place, &mut outcome).await;
                    reference.finish();
                }
                Err(e) => outcome.fail(&format!("{}_starts", which.name()), &e),
            }
            return outcome.finish();
        }
        Err(e) => {
            outcome.fail("the_server_is_known", &e);
            return outcome.finish();
        }
    }
    // A little distance between the regions: with none at all, orders of events that can only go wrong at sea stay unseen.
    let plan = Plan { wan: "20ms".into(), users: geo::USERS.end, ..Plan::default() };
    match Platform::start(plan.clone()).await {
        Ok(platform) => {
            match Place::of(&platform) {
                Ok(place) => {
                    steady(&choice, &place, &mut outcome).await;
                    run(&mut outcome, &choice, contract::tests(&platform), 1, LONGEST_SECONDS)
                        .await;
                    run(&mut outcome, &choice, carry::tests(&platform), 1, LONGEST_SECONDS).await;
                    run(&mut outcome, &choice, moves::tests(&platform), 1, LONGEST_SECONDS).await;
                    run(&mut outcome, &choice, geo::tests(&platform), 1, LONGEST_SECONDS).await;
                    run(
                        &mut outcome,
                        &choice,
                        foreign::breaking(&place, &platform),
                        1,
                        LONGEST_SECONDS,
                    )
                    .await;
                    run(&mut outcome, &choice, slix::breaking(&place), 1, longest_seconds()).await;
                }
                Err(e) => outcome.fail("the_platform_has_certificates", &e),
            }
            for panic in platform.panics() {
                outcome.fail("no_node_panics", &panic);
            }
        }
        Err(e) => outcome.fail("the_platform_starts", &e),
    }
    run(&mut outcome, &choice, contract::own_platform(&plan), 1, LONGEST_SECONDS).await;
    suite::perform(&mut outcome, &choice, LONGEST_SECONDS).await;
    outcome.finish()
}

/// The long form of `slix::chaos` says how long it is; on a slow machine it takes twice that.
fn longest_seconds() -> u64 {
    let chaos = std::env::var("PANGAEA_TEST_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    LONGEST_SECONDS + 2 * chaos.unwrap_or(0u64)
}

/// What breaks nothing may run at the same time.
async fn steady(choice: &Choice, place: &Place, outcome: &mut Outcome) {
    let tests: Vec<Test<'_>> =
        slix::steady(place).into_iter().chain(foreign::steady(place)).collect();
    run(outcome, choice, tests, 3, LONGEST_SECONDS).await;
}
