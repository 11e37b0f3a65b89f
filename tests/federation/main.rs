//! Federation: our domain in three regions, and servers that others wrote, and servers that lie.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test federation [WORD…]` when the server has been built. Needs Debian's `prosody` with
//! `prosody-modules` and `lua-unbound`, and `ejabberd`; each server runs on ports and in a directory of its own, and asks a name server of the tests' own
//! ([`pangaea_tests::dns`]). `talk` is what people at two domains do, performed with each peer ([`peer`]) and each way of proving who one is; `trouble` is
//! what happens to peers and to regions meanwhile; `attacks` is what the [`stranger`] does, who keeps no rules.
//! `PANGAEA_TEST_AGAINST=prosody` (or `ejabberd`) puts that server in our place, to prove the tests.

mod attacks;
mod authority;
mod load;
mod peer;
mod regional;
mod site;
mod stranger;
mod talk;
mod trouble;

use attacks::Target;
use authority::Authority;
use pangaea_tests::client::Result;
use pangaea_tests::dns::Dns;
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::platform::{Plan, Platform};
use peer::{Peer, Proof, Which};
use site::Site;
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
    dir: tempfile::TempDir,
}

/// What the tests ask of whom, and how long they have time.
const RULES: &str = r#"
[[s2s.policy]]
domain = "denied.lab"
allow = false
[[s2s.policy]]
domain = "*.strict.lab"
certificate = "required"
"#;
const TIMES: &str = r#"negotiate_within = "10s"
queue_for = "15s"
retry_first = "500ms"
retry_max = "4s"
"#;

impl World {
    async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pangaea-federation-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        Ok(Self { dns: Dns::start().await?, authority: Authority::new(dir.path())?, dir })
    }

    /// Where our own domains are.
    fn publish(&self, platform: &Platform) {
        let domain = &platform.plan.domain;
        let ports: Vec<u16> =
            (0..platform.plan.regions.len()).map(|region| platform.port(region, 269)).collect();
        self.dns.serve(domain, &ports);
        for service in ["rooms", "pubsub", "upload", "anon"] {
            self.dns.serve(&format!("{service}.{domain}"), &ports);
        }
        for (region, port) in platform.plan.regions.iter().zip(&ports) {
            self.dns.serve(&format!("{region}.{domain}"), &[*port]);
        }
    }

    /// Gives every node of a platform these sections besides what all tests need, and has it read them.
    async fn configure(&self, platform: &Platform, more: &str) -> Result<()> {
        let at = self.dir.path().display();
        let blocked = self.dir.path().join("blocked");
        std::fs::write(&blocked, "blocked.lab\n").map_err(|e| e.to_string())?;
        let revoked = self.authority.revoked.display();
        let keys = format!("[s2s]\nrevoked = \"{revoked}\"\nblocklist = \"{at}/blocked\"\n{TIMES}");
        for (region, name) in platform.plan.regions.iter().enumerate() {
            let file = platform.dir.join(format!("{name}-0.toml"));
            let before = platform.dir.join(format!("{name}-0.toml.before"));
            if !before.exists() {
                std::fs::copy(&file, &before).map_err(|e| e.to_string())?;
            }
            let text = std::fs::read_to_string(&before).map_err(|e| e.to_string())?;
            let key = |line: &str| line.split(" = ").next().map(str::to_owned);
            let not_ours = |line: &&str| !TIMES.lines().any(|ours| key(ours) == key(line));
            let text: String =
                text.lines().filter(not_ours).fold(String::new(), |all, line| all + line + "\n");
            let text = text.replacen("[s2s]\n", &keys, 1) + RULES + more;
            std::fs::write(&file, text).map_err(|e| e.to_string())?;
            let said = trouble::ctl_at(platform, region, &["reload"]).await?;
            expect(!said.contains("needs a restart"), || said.clone())?;
        }
        Ok(())
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
        Ok(None) => {
            if let Err(e) = at_ours(&world, &choice, &mut outcome).await {
                outcome.fail("the_servers_start", &e);
            }
        }
        Err(e) => outcome.fail("the_server_is_known", &e),
    }
    outcome.finish()
}

/// Our domain in three regions, and everybody else.
async fn at_ours(world: &World, choice: &Choice, outcome: &mut Outcome) -> Result<()> {
    let plan = Plan {
        domain: "pangaea.lab".into(),
        users: 400,
        dns: Some(world.dns.port()),
        ca: Some(world.authority.with_key.clone()),
        ..Plan::default()
    };
    let platform = Platform::start(plan).await?;
    world.publish(&platform);
    world.configure(&platform, "").await?;
    let ours = Site::of(&platform)?;
    with_strangers(world, &platform, &ours, choice, outcome).await?;
    regional::apart(world, &platform, &ours, choice, outcome).await?;
    with_peers(world, &platform, &ours, choice, outcome).await?;
    regional::linked(world, &platform, choice, outcome).await?;
    for panic in platform.panics() {
        outcome.fail("no_node_panics", &panic);
    }
    Ok(())
}

async fn with_strangers(
    world: &World,
    platform: &Platform,
    ours: &Site,
    choice: &Choice,
    outcome: &mut Outcome,
) -> Result<()> {
    let friend = ours.online(next_user(), 0, "friend").await?;
    let target = Target::new(world, &ours.domain, platform.port(0, 269), friend).await?;
    let _behind = attacks::certificates::Behind::start(world).await?;
    run(outcome, choice, attacks::tests(&target), TOGETHER, LONGEST_SECONDS).await;
    let papers = attacks::certificates::tests(&target);
    run(outcome, choice, papers, TOGETHER, LONGEST_SECONDS).await;
    // These mostly wait.
    let requests = attacks::requests::tests(&target, ours);
    run(outcome, choice, requests, 30, LONGEST_SECONDS).await;
    run(outcome, choice, attacks::requests::alone(&target, ours), 1, LONGEST_SECONDS).await;
    run(outcome, choice, attacks::last(&target), 1, LONGEST_SECONDS).await;
    let regions = Test::new("regions::in and out everywhere", || {
        trouble::every_region(platform, ours, world)
    });
    run(outcome, choice, vec![regions], 1, LONGEST_SECONDS).await;
    let emptied = Test::new("regions::a node that is emptied still takes servers", || {
        trouble::emptied(platform, &target)
    });
    run(outcome, choice, vec![emptied], 1, LONGEST_SECONDS).await;
    Ok(())
}

async fn with_peers(
    world: &World,
    platform: &Platform,
    ours: &Site,
    choice: &Choice,
    outcome: &mut Outcome,
) -> Result<()> {
    for which in Which::ALL {
        for proof in Proof::ALL {
            let place = format!("{}::{}", which.name(), proof.name());
            let mut peer = world.peer(which, proof).await?;
            let theirs = peer.site()?;
            let tests = talk::tests(&place, Pair { ours, theirs: &theirs });
            run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
            let proved = Test::new(format!("{place}::it was proved so"), || peer.has_proved());
            run(outcome, choice, vec![proved], 1, LONGEST_SECONDS).await;
            if proof == Proof::External {
                let of_region = regional::site(platform, 0)?;
                let tests = talk::tests(
                    &format!("{place}::of one region"),
                    Pair { ours: &of_region, theirs: &theirs },
                );
                run(outcome, choice, tests, TOGETHER, LONGEST_SECONDS).await;
            }
            let calm = vec![
                Test::new(format!("{place}::domains of regions and services"), || {
                    trouble::domains(platform, ours, &peer)
                }),
                Test::new(format!("{place}::ctl s2s check"), || trouble::check(platform, &peer)),
            ];
            run(outcome, choice, calm, 1, LONGEST_SECONDS).await;
            // These take their time: of each kind once, unless there is more of it.
            let is_long = std::env::var_os("PANGAEA_TEST_LONG").is_some();
            if is_long || (proof == Proof::External && which == Which::Prosody) {
                let killed = Test::new(format!("{place}::a region is killed under load"), || {
                    trouble::region_killed(platform, ours, &peer)
                });
                run(outcome, choice, vec![killed], 1, 2 * LONGEST_SECONDS).await;
                let stopped = Test::new(format!("{place}::a region is stopped under load"), || {
                    trouble::region_stopped(platform, ours, &peer)
                });
                run(outcome, choice, vec![stopped], 1, 2 * LONGEST_SECONDS).await;
            }
            if is_long || proof == Proof::External {
                let restarted = Test::new(format!("{place}::it is restarted under load"), || {
                    trouble::peer_restarted(ours, &mut peer)
                });
                run(outcome, choice, vec![restarted], 1, LONGEST_SECONDS).await;
            }
            let policies = Test::new(format!("{place}::policies"), || {
                trouble::policies(platform, ours, &mut peer, world)
            });
            run(outcome, choice, vec![policies], 1, LONGEST_SECONDS).await;
            peer.finish();
        }
    }
    Ok(())
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
        let proved = Test::new(format!("{place}::it was proved so"), || async {
            ours.has_proved().await?;
            theirs.has_proved().await
        });
        run(outcome, choice, vec![proved], 1, LONGEST_SECONDS).await;
        ours.finish();
        theirs.finish();
    }
    Ok(())
}
