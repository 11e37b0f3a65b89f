//! Runs named tests that share a platform, prints what becomes of each, ends with a line like cargo's own.
//!
//! Used by the test binaries that bring their own `main` (`scenarios`, `e2e`). Words on the command line choose tests
//! whose name contains one of them; `--list` only names them; `--serial` runs one at a time, `--include-ignored` all.

use crate::client::Result;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

/// A test that has a name and has not begun.
pub struct Test<'a> {
    /// What it is called.
    pub name: String,
    /// Why it is not run here, if it is not.
    pub ignored: Option<String>,
    /// What it does.
    pub run: Box<dyn FnOnce() -> BoxFuture<'a, Result<()>> + 'a>,
}

impl<'a> Test<'a> {
    /// A test of an asynchronous function.
    pub fn new<F: Future<Output = Result<()>> + Send + 'a>(
        name: impl Into<String>,
        run: impl FnOnce() -> F + 'a,
    ) -> Self {
        Self { name: name.into(), ignored: None, run: Box::new(move || run().boxed()) }
    }
}

/// What the command line asks for.
#[derive(Debug, Default)]
pub struct Choice {
    words: Vec<String>,
    /// Only name the tests.
    pub list: bool,
    serial: bool,
    ignored_too: bool,
}

impl Choice {
    /// Reads the command line; flags of cargo's own harness that mean nothing here are passed over.
    pub fn from_args() -> Self {
        let mut choice = Self::default();
        for arg in std::env::args().skip(1) {
            match arg.as_str() {
                "--list" => choice.list = true,
                "--serial" | "--test-threads=1" => choice.serial = true,
                "--include-ignored" => choice.ignored_too = true,
                flag if flag.starts_with('-') => {}
                word => choice.words.push(word.into()),
            }
        }
        choice
    }

    /// Is a test of this name wanted?
    pub fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|w| name.contains(w.as_str()))
    }
}

/// The sum of what was run, over several calls of [`run`].
#[derive(Debug, Default)]
pub struct Outcome {
    passed: usize,
    failed: usize,
    ignored: usize,
    started: Option<Instant>,
}

impl Outcome {
    /// Adds a failure that belongs to no single test (a platform that does not start).
    pub fn fail(&mut self, name: &str, why: &str) {
        println!("test {name} ... FAILED\n{}", indented(why));
        self.failed += 1;
    }

    /// The closing line and the exit code.
    pub fn finish(self) -> ExitCode {
        let verdict = if self.failed == 0 { "ok" } else { "FAILED" };
        let seconds = self.started.map_or(0.0, |s| s.elapsed().as_secs_f64());
        println!(
            "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {seconds:.2}s\n",
            self.passed, self.failed, self.ignored
        );
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs tests, at most `together` at the same time, each no longer than `longest` seconds.
pub async fn run(
    outcome: &mut Outcome,
    choice: &Choice,
    tests: Vec<Test<'_>>,
    together: usize,
    longest: u64,
) {
    outcome.started.get_or_insert_with(Instant::now);
    let together = if choice.serial { 1 } else { together };
    let wanted = tests.into_iter().filter(|t| choice.wants(&t.name));
    let mut running = stream::iter(wanted.map(|test| async move {
        if test.ignored.is_some() && !choice.ignored_too {
            return (test.name, test.ignored, Ok(()), 0.0);
        }
        let started = Instant::now();
        let deadline = std::time::Duration::from_secs(longest);
        let guarded = AssertUnwindSafe(tokio::time::timeout(deadline, (test.run)())).catch_unwind();
        let result = match guarded.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(format!("not done after {longest} s")),
            Err(panic) => Err(panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "panicked".into())),
        };
        (test.name, None, result, started.elapsed().as_secs_f64())
    }))
    .buffer_unordered(together);
    while let Some((name, ignored, result, seconds)) = running.next().await {
        match (ignored, result) {
            (Some(why), _) => {
                println!("test {name} ... ignored, {why}");
                outcome.ignored += 1;
            }
            (None, Ok(())) => {
                println!("test {name} ... ok ({seconds:.1} s)");
                outcome.passed += 1;
            }
            (None, Err(why)) => {
                println!("test {name} ... FAILED ({seconds:.1} s)\n{}", indented(&why));
                outcome.failed += 1;
            }
        }
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("    {l}\n")).collect()
}
