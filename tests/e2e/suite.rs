//! slixmpp's own integration tests, as they are packed on PyPI, at our server: as far as it has what they try.
//!
//! `tests/run` unpacks them and names the place in `PANGAEA_TEST_SLIX_SUITE`. They have the standard ports written into
//! them, so this platform takes port base 5000; where those ports are taken, they are passed over, and said to be.

use pangaea_tests::client::Result;
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Plan, Platform};

/// What is left out wants rooms, PEP or a page about outages (XEP-0455): not there yet.
const MODULES: [&str; 21] = [
    "basic_connect_and_message",
    "blocking",
    "bob",
    "chatmarkers",
    "component",
    "disco",
    "httpupload",
    "ibb",
    "last_activity",
    "mam",
    "ping",
    "privatestorage",
    "quickresponse",
    "reactions",
    "reconnect",
    "retract",
    "slow_filters",
    "tls_check",
    "vcard",
    "vcard_avatar",
    "version",
];
const BASE: u16 = 5000;
/// Who the component is, where and with which secret, its module has written into it.
const AS_COMPONENT: &str = "
import unittest
import itests.test_component as module
module.CI_JID, module.CI_SECRET, module.CI_SERVER = 'slixmpp.localhost', 'wonderland', 'localhost'
unittest.main(module, argv=['component'])
";

pub(crate) async fn perform(outcome: &mut Outcome, choice: &Choice, longest: u64) {
    let name = |module: &str| format!("slixmpp_suite::{module}");
    if !MODULES.iter().any(|m| choice.wants(&name(m))) {
        return;
    }
    // The domain is the host they connect to.
    let plan = Plan { domain: "localhost".into(), ..Plan::default() };
    let platform = if Platform::is_free(BASE, plan.regions.len()) {
        match Platform::start_at(plan, BASE).await {
            Ok(platform) => Some(platform),
            Err(e) => return outcome.fail("slixmpp_suite::the_platform_starts", &e),
        }
    } else {
        None
    };
    let tests = MODULES
        .iter()
        .map(|module| {
            let platform = platform.as_ref();
            let mut test = Test::new(name(module), move || async move {
                match platform {
                    Some(platform) => one(platform, module).await,
                    None => Ok(()),
                }
            });
            test.ignored = platform.is_none().then(|| "the standard ports are taken".to_owned());
            test
        })
        .collect();
    run(outcome, choice, tests, 1, longest).await;
}

async fn one(platform: &Platform, module: &str) -> Result<()> {
    let python = std::env::var("PANGAEA_TEST_PYTHON").map_err(|_| "start this with tests/run")?;
    let suite =
        std::env::var("PANGAEA_TEST_SLIX_SUITE").map_err(|_| "start this with tests/run")?;
    let domain = &platform.plan.domain;
    let mut command = tokio::process::Command::new(python);
    match module {
        // It runs where they run it, or is passed over.
        "component" => command.args(["-B", "-c", AS_COMPONENT]).env("CI", "woodpecker"),
        _ => command.args(["-B", "-m", "unittest", &format!("itests.test_{module}")]),
    };
    let done = command
        .current_dir(suite)
        .env("SSL_CERT_FILE", platform.dir.join("ca.pem"))
        .env("CI_ACCOUNT1", format!("user1@{domain}"))
        .env("CI_ACCOUNT1_PASSWORD", "pw1")
        .env("CI_ACCOUNT2", format!("user2@{domain}"))
        .env("CI_ACCOUNT2_PASSWORD", "pw2")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() { Ok(()) } else { Err(said) }
}
