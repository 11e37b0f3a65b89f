//! Bad input, and what it gets: every row is a state, bytes, and the answers that are right, on every road a client can come by.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test bad_input [WORD…]` when the server has been built. `row` is what a row
//! says and how it is judged, `wire` a client's road as bytes and pieces (another transport is another implementation of [`wire::Wire`]),
//! `state` how far a client has come before the bytes, and the other files are the tables: `stream` and `xml` (A), `tls` (B), `sasl` (C),
//! `session` (D), `address` (E), `roster` (F), `sm` (G), `component` (A and H, on streams of components). Rows say `B-…` as bad input is numbered everywhere in this repository, or the
//! section of the specification they come from.
//! Deliberately absent: what takes a minute (deadlines) and what needs a server that is configured otherwise; those are unit tests.

mod address;
mod component;
mod roster;
mod row;
mod sasl;
mod session;
mod sm;
mod state;
mod stream;
mod tls;
mod wire;
mod xml;

use pangaea_tests::client::Result;
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Plan, Platform};
use row::Row;
use state::House;
use std::process::ExitCode;
use wire::Road;

/// A row is done in milliseconds; this is for a machine that is busy.
const LONGEST_SECONDS: u64 = 60;
const TOGETHER: usize = 6;

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let tables = [
        stream::rows(),
        xml::rows(),
        sasl::rows(),
        session::rows(),
        address::rows(),
        roster::rows(),
        sm::rows(),
    ];
    let rows: Vec<Row> = tables.into_iter().flatten().collect();
    if choice.list {
        for row in &rows {
            println!("bad_input::{}: test", row.name());
        }
        return ExitCode::SUCCESS;
    }
    let mut outcome = Outcome::default();
    let plan = Plan { regions: ["eu", "us"].map(Into::into).into(), ..Plan::default() };
    let platform = match Platform::start(plan).await {
        Ok(platform) => platform,
        Err(e) => {
            outcome.fail("the_platform_starts", &e);
            return outcome.finish();
        }
    };
    match House::of(&platform).await {
        Ok(house) => {
            let house = &house;
            let tests = Road::ALL.iter().flat_map(|road| {
                let there = rows.iter().filter(|row| row.is_on(*road));
                there.map(move |row| {
                    Test::new(format!("{}::{}", road.name(), row.name()), move || {
                        row::perform(row, house, *road)
                    })
                })
            });
            let all =
                tests.chain(tls::tests(house)).chain(roster::tests(house)).chain(sm::tests(house));
            let all = all.chain(component::tests(house));
            let tests = all.map(|test| Test { name: format!("bad_input::{}", test.name), ..test });
            let tests: Vec<Test<'_>> = tests.collect();
            run(&mut outcome, &choice, tests, TOGETHER, LONGEST_SECONDS).await;
            // Nobody else has felt any of it.
            if let Err(e) = house.bystander().await {
                outcome.fail("nobody_else_is_affected", &e);
            }
        }
        Err(e) => outcome.fail("a_bystander_comes_online", &e),
    }
    for panic in platform.panics() {
        outcome.fail("no_node_panics", &panic);
    }
    outcome.finish()
}

/// Says what is wrong unless it holds.
fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what()) }
}
