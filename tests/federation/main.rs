//! Federation: our domain in three regions, and servers that others wrote, and servers that lie.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test federation [WORD…]` when the server has been built. Needs Debian's `prosody` with
//! `prosody-modules` and `lua-unbound`, and `ejabberd`; each server runs on ports and in a directory of its own, and asks a name server of the tests' own
//! ([`pangaea_tests::dns`]). `talk` is what people at two domains do, performed with each peer ([`peer`]) and each way of proving who one is.
//! `PANGAEA_TEST_AGAINST=prosody` (or `ejabberd`) puts that server in our place, to prove the tests.

mod authority;
mod peer;
mod site;
mod talk;

use authority::Authority;
use pangaea_tests::client::Result;
use pangaea_tests::dns::Dns;
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use peer::{Peer, Proof, Which};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use talk::Pair;

const LONGEST_SECONDS: u64 = 120;
const TOGETHER: usize = 6;

/// Everybody is in one test only.
fn next_user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Says what is wrong unless it holds.
fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what()) }
}

/// What all of it stands on.
struct World {
    dns: Dns,
    authority: Authority,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pangaea-federation-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        Ok(Self { dns: Dns::start().await?, authority: Authority::new(dir.path())?, _dir: dir })
    }

    async fn peer(&self, which: Which, proof: Proof) -> Result<Peer> {
        Peer::start(which, proof, &self.authority, &self.dns).await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let mut outcome = Outcome::default();
    let world = match World::new().await {
        Ok(world) => world,
        Err(e) => {
            outcome.fail("the_world_is_made", &e);
            return outcome.finish();
        }
    };
    match Which::wanted() {
        Ok(Some(which)) => {
            if let Err(e) = at_reference(which, &world, &choice, &mut outcome).await {
                outcome.fail("the_servers_start", &e);
            }
        }
        Ok(None) => {}
        Err(e) => outcome.fail("the_server_is_known", &e),
    }
    outcome.finish()
}

/// One of the peers in our place, another in theirs.
async fn at_reference(
    which: Which,
    world: &World,
    choice: &Choice,
    outcome: &mut Outcome,
) -> Result<()> {
    let other = if which == Which::Prosody { Which::Ejabberd } else { Which::Prosody };
    for proof in Proof::ALL {
        let place = format!("{}::{}", other.name(), proof.name());
        let (ours, theirs) = (world.peer(which, proof).await?, world.peer(other, proof).await?);
        let sites = (ours.site()?, theirs.site()?);
        let pair = Pair { ours: &sites.0, theirs: &sites.1 };
        let tests: Vec<Test<'_>> = talk::tests(&place, pair);
        run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
        ours.finish();
        theirs.finish();
    }
    Ok(())
}
