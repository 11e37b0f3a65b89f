//! The programs of `e2e/slix/`: slixmpp from PyPI, one program a promise. `tests/run` makes the environment they need
//! and names its interpreter in `PANGAEA_TEST_PYTHON`.

use crate::place::Place;
use pangaea_tests::client::Result;
use pangaea_tests::harness::Test;
use std::collections::BTreeMap;
use std::path::Path;

/// Programs that break nothing.
pub(crate) const NAMES: [&str; 8] = [
    "messages_in_order",
    "roster_and_subscription",
    "presence",
    "carbons",
    "offline",
    "resumption",
    "bytestream",
    "upload",
];
/// Programs that reset lines or kill nodes.
pub(crate) const BREAKING: [&str; 3] = ["bridge_reset", "region_killed", "chaos"];

pub(crate) fn steady(place: &Place) -> Vec<Test<'_>> {
    NAMES
        .iter()
        .map(|name| Test::new(format!("slix::{name}"), move || program(place, name)))
        .collect()
}

pub(crate) fn breaking(place: &Place) -> Vec<Test<'_>> {
    BREAKING
        .iter()
        .map(|name| Test::new(format!("slix::{name}"), move || program(place, name)))
        .collect()
}

async fn program(place: &Place, name: &str) -> Result<()> {
    let python = std::env::var("PANGAEA_TEST_PYTHON").map_err(
        |_| "PANGAEA_TEST_PYTHON names no interpreter that has slixmpp: start this with tests/run",
    )?;
    let ports = |ways: &BTreeMap<String, pangaea_tests::client::Endpoint>| {
        serde_json::to_string(&ways.iter().map(|(r, e)| (r, e.port)).collect::<BTreeMap<_, _>>())
            .map_err(|e| e.to_string())
    };
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/slix").join(name).with_extension("py");
    let run = tokio::process::Command::new(python)
        .arg("-B")
        .arg(script)
        .env("PANGAEA_DOMAIN", &place.domain)
        .env("PANGAEA_PORTS", ports(&place.starttls)?)
        .env("PANGAEA_TLS_PORTS", ports(&place.tls)?)
        .env("PANGAEA_CA", &place.ca)
        .env("PANGAEA_HTTP_PORTS", serde_json::to_string(&place.http).map_err(|e| e.to_string())?)
        .env("PANGAEA_CONTROL", place.control.map(|p| p.to_string()).unwrap_or_default())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let done = run.await.map_err(|e| e.to_string())?;
    if done.status.success() {
        // What it counted, in brackets.
        for line in String::from_utf8_lossy(&done.stdout).lines().filter(|l| l.starts_with('(')) {
            println!("    {line}");
        }
        return Ok(());
    }
    // What it says of itself comes last: the log may be long.
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stderr),
        String::from_utf8_lossy(&done.stdout)
    );
    let lines: Vec<&str> = said.lines().collect();
    Err(lines[lines.len().saturating_sub(60)..].join("\n"))
}
