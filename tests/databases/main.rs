//! PostgreSQL and MariaDB under the server: the storage suite, plays, and what becomes of messages when the database is away.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test databases [WORD…]` when the server has been built. Needs Debian's `postgresql` and
//! `mariadb-server-core`; each server runs on a port and in a directory of its own ([`pangaea_tests::database`]).

mod nodes;
mod several;
mod together;

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::database::{Kind, Server};
use pangaea_tests::disk::Disk;
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::ledger::{Ledger, body};
use pangaea_tests::platform::{Door, Plan, Platform};
use pangaea_tests::scenario::{Placement, Play, Theatre, perform};
use pangaea_tests::xml::Element;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LONGEST_SECONDS: u64 = 300;
/// How long a database is away: this is the trouble, and nothing is waited for.
const OUTAGE: Duration = Duration::from_secs(8);

/// What is stored in many ways: rosters, archives, offline messages, lists, accounts.
const PLAYS: [&str; 16] = [
    "archive_and_offline",
    "archive_paging",
    "archive_preferences",
    "archive_query",
    "archive_retraction",
    "blocking_list_and_pushes",
    "clients_list_and_revoke",
    "fast_token",
    "message_order_of_many",
    "offline_messages",
    "private_storage",
    "push_offline",
    "register_account",
    "register_remove",
    "roster_survives",
    "subscription_handshake",
];

const FILES: &str = "sqlite::full_under_load";

/// The disk of two nodes, MiB.
const NODES_MIB: u32 = 128;

/// See [`several`].
const SEVERAL: [&str; 4] = [
    "moving_a_partition_under_load",
    "partition_killed_under_load",
    "another_address_under_load",
    "sign_in_while_it_is_killed",
];

/// See [`together`].
const TOGETHER: &str = "killed_one_after_the_other";
/// See [`nodes`].
const NODES: [&str; 2] = ["mover_killed_under_load", "partition_of_nodes_killed"];

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let mut outcome = Outcome::default();
    for (kind, name) in [(Kind::Postgres, "postgres"), (Kind::MariaDb, "mariadb")] {
        // A word may choose tests, and so servers.
        let under_load =
            ["killed_under_load", "paused_under_load", "read_only_under_load", "full_under_load"];
        let names = ["suite", "play", "play_again_after_a_restart", TOGETHER];
        let names = names.into_iter().chain(under_load);
        let several = SEVERAL.into_iter().chain(NODES).filter(|_| kind == Kind::Postgres);
        let names: Vec<&str> = names.chain(several).collect();
        let wanted = |part: &&str| choice.wants(&format!("{name}::{part}"));
        if choice.list {
            names.iter().for_each(|part| println!("{name}::{part}: test"));
            continue;
        }
        if !choice.wants(name) && !names.iter().any(wanted) {
            continue;
        }
        match Server::start(kind).await {
            Ok(server) => all(&choice, &mut outcome, kind, name, server).await,
            Err(e) => outcome.fail(&format!("{name}::starts"), &e),
        }
    }
    if choice.list {
        println!("{FILES}: test");
        return ExitCode::SUCCESS;
    }
    let files = Test::new(FILES.to_owned(), files_on_a_full_disk);
    run(&mut outcome, &choice, vec![files], 1, LONGEST_SECONDS).await;
    outcome.finish()
}

async fn all(choice: &Choice, outcome: &mut Outcome, kind: Kind, name: &str, mut server: Server) {
    let wants = |part: &&str| choice.wants(&format!("{name}::{part}"));
    if kind == Kind::Postgres && SEVERAL.iter().any(wants) {
        of_several(choice, outcome, name, &mut server).await;
    }
    if kind == Kind::Postgres && NODES.iter().any(wants) {
        of_nodes(choice, outcome, name, &server).await;
    }
    let test = Test::new(format!("{name}::{TOGETHER}"), || {
        together::killed_one_after_the_other(&mut server)
    });
    run(outcome, choice, vec![test], 1, LONGEST_SECONDS).await;
    let url = server.url();
    // The suite over TLS; the plays without.
    let secure = format!("{url}?{}", server.with_tls());
    let suite = Test::new(format!("{name}::suite"), || suite(kind, secure));
    run(outcome, choice, vec![suite], 1, 2 * LONGEST_SECONDS).await;
    let plan = Plan {
        regions: ["eu", "us"].map(Into::into).into(),
        database: Some(format!("{url}/tests")),
        ..Plan::default()
    };
    let platform = match Platform::start(plan).await {
        Ok(platform) => platform,
        Err(e) => return outcome.fail(&format!("{name}::the_platform_starts"), &e),
    };
    plays(choice, outcome, name, &platform).await;
    for (trouble, part) in
        [(Trouble::Killed, "killed"), (Trouble::Paused, "paused"), (Trouble::ReadOnly, "read_only")]
    {
        let (platform, server) = (&platform, &mut server);
        let test = Test::new(format!("{name}::{part}_under_load"), move || {
            under_load(platform, Victim::Server(server), trouble)
        });
        run(outcome, choice, vec![test], 1, LONGEST_SECONDS).await;
    }
    for panic in platform.panics() {
        outcome.fail(&format!("{name}::no_node_panics"), &panic);
    }
    let again = Test::new(format!("{name}::play_again_after_a_restart"), || restart(platform));
    run(outcome, choice, vec![again], 1, LONGEST_SECONDS).await;
    drop(server);
    let full = Test::new(format!("{name}::full_under_load"), || full_under_load(kind));
    run(outcome, choice, vec![full], 1, LONGEST_SECONDS).await;
}

const NOT_ROOT: &str = "    not run: it needs a disk of its own, and only root may mount one";

/// With a server and a platform of their own: a disk that may be filled.
async fn full_under_load(kind: Kind) -> Result<()> {
    let Some(mut server) = Server::start_on_small_disk(kind).await? else {
        println!("{NOT_ROOT}");
        return Ok(());
    };
    let plan = Plan {
        regions: ["eu", "us"].map(Into::into).into(),
        database: Some(format!("{}/tests", server.url())),
        ..Plan::default()
    };
    let platform = Platform::start(plan).await?;
    under_load(&platform, Victim::Server(&mut server), Trouble::Full).await?;
    no_panics(&platform)
}

/// All that two regions of one node each keep, SQLite's files and metadata among it, on a disk that is filled.
async fn files_on_a_full_disk() -> Result<()> {
    let Some(disk) = Disk::mount(NODES_MIB)? else {
        println!("{NOT_ROOT}");
        return Ok(());
    };
    let plan = Plan { regions: ["eu", "us"].map(Into::into).into(), ..Plan::default() };
    let mut platform = Platform::start_in(plan, disk.path()).await?;
    let done = under_load(&platform, Victim::Disk(&disk), Trouble::Full).await;
    let said = platform.logs();
    // Before its disk goes, however it went.
    let stopped = platform.stop().await;
    done.map_err(|e| format!("{e}\n{said}"))?;
    no_panics(&platform)?;
    stopped
}

fn no_panics(platform: &Platform) -> Result<()> {
    match platform.panics().into_iter().next() {
        Some(panic) => Err(panic),
        None => Ok(()),
    }
}

/// One region over several databases.
async fn of_several(choice: &Choice, outcome: &mut Outcome, name: &str, server: &mut Server) {
    let mut several = match several::Several::begin(&server.url()).await {
        Ok(several) => several,
        Err(e) => return outcome.fail(&format!("{name}::several_databases_begin"), &e),
    };
    let [moving, killed, address, sign_in] = SEVERAL.map(|part| format!("{name}::{part}"));
    let seconds = 2 * LONGEST_SECONDS;
    let test = Test::new(moving, || several::moving_under_load(&mut several));
    run(outcome, choice, vec![test], 1, seconds).await;
    let test = Test::new(killed, || several::partition_killed(&mut several));
    run(outcome, choice, vec![test], 1, seconds).await;
    let test = Test::new(address, || several::another_address_under_load(&mut several));
    run(outcome, choice, vec![test], 1, seconds).await;
    let test = Test::new(sign_in, || several::sign_in_while_it_is_killed(&mut several, server));
    run(outcome, choice, vec![test], 1, seconds).await;
    for panic in several.panics() {
        outcome.fail(&format!("{name}::no_node_of_several_panics"), &panic);
    }
}

/// One region of several nodes over several databases.
async fn of_nodes(choice: &Choice, outcome: &mut Outcome, name: &str, server: &Server) {
    let mut cluster = match nodes::Cluster::begin(&server.url()).await {
        Ok(cluster) => cluster,
        Err(e) => return outcome.fail(&format!("{name}::nodes_over_several_databases"), &e),
    };
    let [mover, partition] = NODES.map(|part| format!("{name}::{part}"));
    let seconds = LONGEST_SECONDS;
    let test = Test::new(mover, || nodes::mover_killed_under_load(&mut cluster));
    run(outcome, choice, vec![test], 1, seconds).await;
    let test = Test::new(partition, || nodes::partition_of_nodes_killed(&mut cluster));
    run(outcome, choice, vec![test], 1, seconds).await;
    for panic in cluster.panics() {
        outcome.fail(&format!("{name}::no_node_of_several_panics"), &panic);
    }
}

/// What the node of that number is called, where the region is `eu`.
fn name(node: usize) -> String {
    format!("eu-{node}")
}

/// What was stored is there after a restart, in both regions.
async fn restart(platform: Platform) -> Result<()> {
    let mut client = platform.user(40, 0, "before")?;
    client.connect().await?;
    let kept = change(&mut client, "kept@elsewhere.example").await?;
    if kept.attr("type") != Some("result") {
        return Err(format!("{kept}"));
    }
    let platform = platform.start_again().await?;
    for region in 0..2 {
        let mut client = platform.user(40, region, "after")?;
        client.connect().await?;
        let roster = client.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
        if !roster.to_string().contains("kept@elsewhere.example") {
            return Err(format!("region {region}: {roster}"));
        }
    }
    Ok(())
}

/// The tests of the server's own crate that need a server: `storage/suite.rs`, `auth/sql.rs`.
async fn suite(kind: Kind, url: String) -> Result<()> {
    let (variable, word) = match kind {
        Kind::Postgres => ("PANGAEA_TEST_POSTGRES", "postgres"),
        Kind::MariaDb => ("PANGAEA_TEST_MYSQL", "mysql"),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = tokio::process::Command::new(cargo)
        .args(["test", "-p", "pangaea", "--lib", "--", "--ignored", word])
        .env(variable, url)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status}")) }
}

async fn plays(choice: &Choice, outcome: &mut Outcome, name: &str, platform: &Platform) {
    let endpoints = (0..2).map(|region| platform.endpoint(region, Door::StartTls)).collect();
    let theatre = match endpoints {
        // Each server once, under names of its own.
        Ok(endpoints) => Theatre::new(endpoints, "d"),
        Err(e) => return outcome.fail(&format!("{name}::the_platform_has_certificates"), &e),
    };
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut read = Vec::new();
    for play in PLAYS {
        let text = std::fs::read_to_string(dir.join(format!("{play}.scn")));
        match text.map_err(|e| e.to_string()).and_then(|text| Play::read(&text)) {
            Ok(text) => read.push((play, text)),
            Err(e) => outcome.fail(&format!("{name}::play::{play}"), &e),
        }
    }
    let (theatre, mut tests) = (&theatre, Vec::new());
    for (play, text) in &read {
        for (placement, where_) in
            [(Placement::Together, "together"), (Placement::Spread, "spread")]
        {
            tests.push(Test::new(format!("{name}::play::{play}::{where_}"), move || {
                perform(text, theatre, placement)
            }));
        }
    }
    run(outcome, choice, tests, 4, 60).await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// kill -9, and started again.
    Killed,
    /// SIGSTOP, and SIGCONT.
    Paused,
    /// It answers, and refuses every change.
    ReadOnly,
    /// Its disk is full: it refuses what needs more room, or does not survive it.
    Full,
}

/// To whom it happens.
enum Victim<'a> {
    Server(&'a mut Server),
    /// That of the nodes themselves: their databases are files.
    Disk(&'a Disk),
}

impl Victim<'_> {
    fn server(&mut self) -> Result<&mut Server> {
        match self {
            Victim::Server(server) => Ok(server),
            Victim::Disk(_) => Err("there is no server".to_owned()),
        }
    }

    fn disk(&self) -> Result<&Disk> {
        match self {
            Victim::Server(server) => server.disk().ok_or("its disk is not its own".to_owned()),
            Victim::Disk(disk) => Ok(disk),
        }
    }
}

impl Trouble {
    /// With which conditions a change may be refused.
    fn conditions(self, victim: &Victim<'_>) -> &'static [&'static str] {
        match (self, victim) {
            // The second: a server that vanishes, or waits for room, may have been asked to commit, and a change that comes then waits behind
            // a commit of which nobody knows whether it happened, longer than the user does.
            (Trouble::Killed | Trouble::Paused, _) | (Trouble::Full, Victim::Server(_)) => {
                &["resource-constraint", "remote-server-timeout"]
            }
            // It says no, and then nothing has happened: well before a user's patience ends (`storage.retry`).
            (Trouble::ReadOnly, _) | (Trouble::Full, Victim::Disk(_)) => &["resource-constraint"],
        }
    }

    async fn begin(self, victim: &mut Victim<'_>) -> Result<()> {
        match self {
            Trouble::Killed => victim.server()?.kill(),
            Trouble::Paused => victim.server()?.pause(),
            Trouble::ReadOnly => victim.server()?.read_only(true)?,
            Trouble::Full => victim.disk()?.fill()?,
        }
        Ok(())
    }

    async fn end(self, victim: &mut Victim<'_>) -> Result<()> {
        match self {
            Trouble::Killed => victim.server()?.start_again().await?,
            Trouble::Paused => victim.server()?.go_on(),
            Trouble::ReadOnly => victim.server()?.read_only(false)?,
            Trouble::Full => {
                victim.disk()?.empty()?;
                if let Victim::Server(server) = victim {
                    server.start_again_if_it_ended().await?;
                }
            }
        }
        Ok(())
    }
}

/// Somebody writes to somebody in the other region, two hundred messages a second, and somebody else four; all of them are archived twice, while the
/// database goes away and comes back. What was sent, acknowledged, stored and refused adds up; those who talk as people do go on hearing each
/// other (the other one has too much open in the end, and has to wait); a change is refused with `resource-constraint` and works when it is over.
/// So is a request that only reads, of a database that is gone.
async fn under_load(platform: &Platform, mut victim: Victim<'_>, trouble: Trouble) -> Result<()> {
    let number = match trouble {
        Trouble::Killed => 1,
        Trouble::Paused => 11,
        Trouble::ReadOnly => 21,
        Trouble::Full => 31,
    };
    let mut bystander = platform.user(number, 0, "bystander")?;
    bystander.connect().await?;
    let fast = Couple::begin(platform, number + 1, Duration::from_millis(5)).await?;
    let calm = Couple::begin(platform, number + 3, Duration::from_millis(250)).await?;

    fast.hears(100).await?;
    calm.hears(4).await?;
    trouble.begin(&mut victim).await?;
    let (began, refused) = refused_change(&mut bystander, trouble).await;
    let after = began.elapsed();
    let unread = match trouble {
        Trouble::Killed => refused_reads(&mut bystander).await,
        _ => Ok(Vec::new()),
    };
    tokio::time::sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    trouble.end(&mut victim).await?;
    let refused = refused?;
    if !trouble.conditions(&victim).iter().any(|condition| waits(&refused, condition)) {
        return Err(format!("a change was refused with {refused}"));
    }
    if let Some(answer) = unread?.iter().find(|answer| !waits(answer, "resource-constraint")) {
        return Err(format!("what could not be read was answered with {answer}"));
    }
    // Whoever was told to wait, waited.
    let deadline = Instant::now() + patience() * 3;
    while change(&mut bystander, "later@elsewhere.example").await?.attr("type") != Some("result") {
        if Instant::now() > deadline {
            return Err("it is over, and a change is still refused".to_owned());
        }
    }
    // Now that it is over they go on.
    fast.hears(20).await?;
    calm.hears(4).await?;
    println!("    {trouble:?}: a change was refused after {:.1} s", after.as_secs_f64());
    fast.end().await?;
    let gap = calm.end().await?;
    if gap > Duration::from_secs(3) {
        return Err(format!("those who talk as people do heard nothing for {gap:?}"));
    }
    Ok(())
}

/// Whether that is an error of that condition, and says that waiting helps.
fn waits(answer: &Element, condition: &str) -> bool {
    answer.child("error", "jabber:client").is_some_and(|error| {
        error.attr("type") == Some("wait") && error.children().any(|c| c.name == condition)
    })
}

/// The answers to requests that only read, while nothing can be read.
async fn refused_reads(client: &mut Client) -> Result<Vec<Element>> {
    const READS: [(&str, &str); 4] = [
        ("get", "<vCard xmlns='vcard-temp'/>"),
        ("get", "<query xmlns='jabber:iq:private'><x xmlns='y'/></query>"),
        ("set", "<query xmlns='urn:xmpp:mam:2'/>"),
        ("get", "<blocklist xmlns='urn:xmpp:blocking'/>"),
    ];
    let mut answers = Vec::new();
    for (number, (type_, payload)) in READS.iter().enumerate() {
        let id = format!("read{number}");
        client.send(&format!("<iq type='{type_}' id='{id}'>{payload}</iq>")).await?;
        let answers_it = |e: &Element| e.name == "iq" && e.attr("id") == Some(&id);
        let answer = client.wait_for_within(patience() * 3, "an answer", answers_it).await?;
        answers.push(answer);
    }
    Ok(answers)
}

/// The answer to a change while there is trouble, and when it was asked for. Of being read-only a server is told, and takes changes until it has
/// heard it; and one whose disk is full takes them while it finds room in what it has.
async fn refused_change(client: &mut Client, trouble: Trouble) -> (Instant, Result<Element>) {
    let deadline = Instant::now() + patience() * 3;
    let mut number = 0;
    loop {
        let asked = Instant::now();
        let answer = change(client, &format!("refused{number}@elsewhere.example")).await;
        let is_done = answer.as_ref().is_ok_and(|answer| answer.attr("type") == Some("result"));
        let is_slow = matches!(trouble, Trouble::ReadOnly | Trouble::Full);
        if !is_done || !is_slow || asked > deadline {
            return (asked, answer);
        }
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody who writes, and somebody who reads.
struct Couple {
    enough: watch::Sender<bool>,
    writing: JoinHandle<Result<(Client, u64, Vec<u64>)>>,
    goal: watch::Sender<Option<u64>>,
    /// How many have been heard.
    heard: watch::Receiver<u64>,
    hearing: JoinHandle<Result<(Client, Ledger, Duration)>>,
}

impl Couple {
    /// The one in the first region, the other in the second.
    async fn begin(platform: &Platform, number: u32, pause: Duration) -> Result<Self> {
        let writer = platform.user(number, 0, "writer")?;
        Self::of(writer, platform.user(number + 1, 1, "reader")?, pause).await
    }

    /// Of two who have yet to sign in.
    async fn of(mut writer: Client, mut reader: Client, pause: Duration) -> Result<Self> {
        for client in [&mut writer, &mut reader] {
            client.connect().await?;
            client.send("<presence/>").await?;
            client.ping().await?;
        }
        writer.enable_sm(false).await?;
        let (enough, said) = watch::channel(false);
        let writing = tokio::spawn(write(writer, reader.bare(), pause, said));
        let (goal, told) = watch::channel(None);
        let (count, heard) = watch::channel(0);
        let hearing = tokio::spawn(hear(reader, told, count));
        Ok(Self { enough, writing, goal, heard, hearing })
    }

    /// Until so many more have been heard.
    async fn hears(&self, more: u64) -> Result<()> {
        let mut heard = self.heard.clone();
        let goal = *heard.borrow() + more;
        let reached = tokio::time::timeout(patience() * 3, heard.wait_for(|count| *count >= goal));
        match reached.await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("{} heard, not {goal}", *self.heard.borrow())),
        }
    }

    /// Adds up. The longest time without a message.
    async fn end(self) -> Result<Duration> {
        let Self { enough, writing, goal, hearing, .. } = self;
        enough.send_replace(true);
        let (mut writer, sent, returned) = writing.await.map_err(|e| e.to_string())??;
        goal.send_replace(Some(sent - returned.len() as u64));
        let (mut reader, heard, gap) = hearing.await.map_err(|e| e.to_string())??;
        let of_writer = archived(&mut writer).await?;
        let of_reader = archived(&mut reader).await?;
        println!(
            "    {sent} sent, {sent} acknowledged, {} refused, {} delivered, {} stored for the writer, {} for the reader; \
             at most {:.1} s without a message",
            returned.len(),
            heard.count("writer"),
            of_writer.len(),
            of_reader.len(),
            gap.as_secs_f64(),
        );
        heard.complete_but("writer", sent, &returned)?;
        for (whose, stored) in [("writer", of_writer), ("reader", of_reader)] {
            let mut ledger = Ledger::default();
            stored.iter().for_each(|text| ledger.enter(text));
            let adds_up = ledger.complete_but("writer", sent, &returned);
            adds_up.map_err(|e| format!("the archive of the {whose}: {e}"))?;
        }
        Ok(gap)
    }
}

/// The answer to a change of the roster.
async fn change(client: &mut Client, contact: &str) -> Result<Element> {
    let id = format!("change{}", contact.len());
    let item = format!("<query xmlns='jabber:iq:roster'><item jid='{contact}'/></query>");
    client.send(&format!("<iq type='set' id='{id}'>{item}</iq>")).await?;
    client
        .wait_for_within(patience() * 3, "the answer to a change", |e| {
            e.name == "iq" && e.attr("id") == Some(&id) && e.attr("type") != Some("set")
        })
        .await
}

/// Writes until it is enough and all is acknowledged. How many, and the numbers of those that came back.
async fn write(
    mut writer: Client,
    to: String,
    pause: Duration,
    mut said: watch::Receiver<bool>,
) -> Result<(Client, u64, Vec<u64>)> {
    let mut sent = 0;
    let mut pace = tokio::time::interval(pause);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*said.borrow_and_update() {
        let text = body("writer", sent);
        let message =
            format!("<message to='{to}' type='chat' id='{sent}'><body>{text}</body></message>");
        writer.send(&message).await?;
        sent += 1;
        pace.tick().await;
    }
    let deadline = Instant::now() + patience() * 3;
    while let Err(e) = writer.wait_acked().await {
        if Instant::now() > deadline {
            return Err(e);
        }
    }
    writer.ping().await?;
    let mut returned = Vec::new();
    for back in writer.drain().iter().filter(|e| e.name == "message") {
        if back.attr("type") != Some("error") || !back.to_string().contains("resource-constraint") {
            return Err(format!("came back: {back}"));
        }
        returned.extend(back.attr("id").and_then(|id| id.parse::<u64>().ok()));
    }
    Ok((writer, sent, returned))
}

/// Hears until so many have come, and says how many it is. Also the longest time without one.
async fn hear(
    mut reader: Client,
    mut goal: watch::Receiver<Option<u64>>,
    count: watch::Sender<u64>,
) -> Result<(Client, Ledger, Duration)> {
    let mut ledger = Ledger::default();
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    let mut deadline = None;
    loop {
        let goal = *goal.borrow_and_update();
        if let Some(goal) = goal {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience() * 3);
            if ledger.count("writer") as u64 >= goal || Instant::now() > deadline {
                reader.ping().await?;
                for text in reader.drain().iter().filter_map(Element::body) {
                    ledger.enter(&text);
                }
                return Ok((reader, ledger, gap));
            }
        }
        let within = Duration::from_millis(200);
        if let Ok(got) = reader.wait_for_within(within, "a message", |e| e.body().is_some()).await {
            ledger.enter(&got.body().unwrap_or_default());
            count.send_replace(ledger.count("writer") as u64);
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
    }
}

/// The bodies in one's archive, oldest first.
async fn archived(client: &mut Client) -> Result<Vec<String>> {
    const MAM: &str = "urn:xmpp:mam:2";
    const RSM: &str = "http://jabber.org/protocol/rsm";
    let (mut bodies, mut after) = (Vec::new(), String::new());
    loop {
        let query =
            format!("<query xmlns='{MAM}'><set xmlns='{RSM}'><max>50</max>{after}</set></query>");
        let answer = client.iq("set", None, &query).await?;
        let fin = answer.child("fin", MAM).ok_or_else(|| format!("no page: {answer}"))?;
        for message in client.drain() {
            let forwarded = message
                .child("result", MAM)
                .and_then(|result| result.child("forwarded", "urn:xmpp:forward:0"))
                .and_then(|forwarded| forwarded.child("message", "jabber:client"));
            bodies.extend(forwarded.and_then(Element::body));
        }
        let last = fin.child("set", RSM).and_then(|set| set.child("last", RSM));
        match last.map(Element::text) {
            Some(last) if fin.attr("complete") != Some("true") => {
                after = format!("<after>{last}</after>");
            }
            _ => return Ok(bodies),
        }
    }
}
