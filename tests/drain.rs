//! Nodes of one region that are emptied, restarted one after the other, and killed, under load: what was sent, delivered, stored and refused adds
//! up, order holds, and sessions go on elsewhere (XEP-0198 §5).
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test drain [WORD…]` when the server has been built. A region of three nodes for all of
//! it, and another one over PostgreSQL (Debian's `postgresql`), which says what it is asked when many come at once. Clients know all nodes, as by
//! SRV records, and go to the next when one sends them away.

use pangaea_tests::client::{Client, Endpoint, Result, patience};
use pangaea_tests::database::{Kind, Server};
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::ledger::{Ledger, Sum, body};
use pangaea_tests::platform::{Plan, Platform};
use pangaea_tests::xml::Element;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const NODES: [&str; 3] = ["eu-0", "eu-1", "eu-2"];
const LONGEST_SECONDS: u64 = 180;
const A_WHILE: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let mut outcome = Outcome::default();
    let plan = Plan { regions: vec!["eu".into()], nodes: 3, users: 200, ..Plan::default() };
    match Platform::start(plan).await {
        Ok(platform) => of_files(&choice, &mut outcome, &platform).await,
        Err(e) => outcome.fail("the_platform_starts", &e),
    }
    let storm = Test::new("drain::who_comes_from_a_dead_node_is_admitted_at_a_pace", storm);
    run(&mut outcome, &choice, vec![storm], 1, LONGEST_SECONDS).await;
    outcome.finish()
}

/// All whose nodes share a file.
async fn of_files(choice: &Choice, outcome: &mut Outcome, platform: &Platform) {
    let tests = vec![
        Test::new("drain::an_emptied_node_loses_nothing_and_ends_with_no_session", || {
            emptied(platform)
        }),
        Test::new("drain::a_session_waits_elsewhere_when_its_node_has_ended", || {
            waits_elsewhere(platform)
        }),
        Test::new("drain::nodes_restarted_one_after_the_other_lose_nothing", || rolling(platform)),
    ];
    run(outcome, choice, tests, 1, LONGEST_SECONDS).await;
    for panic in platform.panics() {
        outcome.fail("no_task_panics", &panic);
    }
}

/// Somebody who stays, whatever becomes of his node.
struct Roamer {
    client: Client,
    places: Vec<Endpoint>,
    at: usize,
    /// How often the session went on elsewhere, and how often it had to begin anew.
    resumed: u32,
    anew: u32,
}

impl Roamer {
    /// Signs in at the node of that number, with stream management.
    async fn new(platform: &Platform, user: u32, resource: &str, at: usize) -> Result<Self> {
        let places: Vec<Endpoint> =
            NODES.iter().map(|node| platform.endpoint_of(node)).collect::<Result<_>>()?;
        let (name, password) = (format!("user{user}"), format!("pw{user}"));
        let shown = format!("{name}/{resource}");
        let client = Client::new(&shown, places[at].clone(), &name, &password, Some(resource));
        let mut roamer = Self { client, places, at, resumed: 0, anew: 0 };
        roamer.begin().await?;
        Ok(roamer)
    }

    async fn begin(&mut self) -> Result<()> {
        self.client.connect().await?;
        self.client.enable_sm(true).await?;
        self.client.send("<presence/>").await?;
        self.client.ping().await
    }

    /// Goes on at the next node, and the next, until one takes the session, or has none.
    async fn come_back(&mut self) -> Result<()> {
        let give_up = Instant::now() + patience() * 4;
        loop {
            self.at = (self.at + 1) % self.places.len();
            self.client.endpoint = self.places[self.at].clone();
            match self.client.resume().await {
                Ok(()) => {
                    self.resumed += 1;
                    return Ok(());
                }
                Err(e) if e.contains("not resumed") => {
                    self.anew += 1;
                    if self.begin().await.is_ok() {
                        return Ok(());
                    }
                }
                Err(e) if Instant::now() > give_up => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The next element, wherever it comes; `None`: nothing for a while.
    async fn next(&mut self, within: Duration) -> Result<Option<Element>> {
        match self.client.receive_within(within).await {
            Ok(element) => Ok(Some(element)),
            Err(_) if self.client.is_connected() => Ok(None),
            Err(_) => {
                self.come_back().await?;
                Ok(None)
            }
        }
    }
}

/// What a reader has at the end.
struct Read {
    ledger: Ledger,
    resumed: u32,
    anew: u32,
    /// What had been stored when it had gone.
    stored: u64,
    /// A presence it should not have seen.
    went: Vec<String>,
}

/// Somebody who reads or writes, and how far that has come.
struct Going<T> {
    task: JoinHandle<Result<T>>,
    at: watch::Receiver<u64>,
}

impl<T> Going<T> {
    fn begin<F: Future<Output = Result<T>> + Send + 'static>(
        goes: impl FnOnce(watch::Sender<u64>) -> F,
    ) -> Self
    where
        T: Send + 'static,
    {
        let (tell, at) = watch::channel(0);
        Self { task: tokio::spawn(goes(tell)), at }
    }

    /// Until it has come so far.
    async fn reaches(&self, goal: u64) -> Result<()> {
        let mut at = self.at.clone();
        match tokio::time::timeout(patience() * 2, at.wait_for(|at| *at >= goal)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("somebody is at {}, not at {goal}", *self.at.borrow())),
        }
    }
}

/// Reads until it has so many of each writer, which is said late; tells of how many writers it has something.
fn read(mut roamer: Roamer, goals: watch::Receiver<Option<Vec<u64>>>) -> Going<Read> {
    Going::begin(async move |tell| {
        let (ledger, went) = (Ledger::default(), Vec::new());
        let mut read = Read { ledger, resumed: 0, anew: 0, stored: 0, went };
        let mut writers = BTreeSet::new();
        let mut since = Instant::now();
        loop {
            if let Some(element) = roamer.next(A_WHILE).await? {
                if let Some(text) = element.body() {
                    read.ledger.enter(&text);
                    since = Instant::now();
                    if let Some(writer) = text.split(' ').nth(1)
                        && writers.insert(writer.to_owned())
                    {
                        tell.send_replace(writers.len() as u64);
                    }
                } else if element.name == "presence" && element.attr("type") == Some("unavailable")
                {
                    read.went.push(element.to_string());
                }
                continue;
            }
            let Some(goals) = goals.borrow().clone() else { continue };
            let has = |n: usize| read.ledger.count(&format!("w{n}")) as u64;
            let all = goals.iter().enumerate().all(|(n, goal)| has(n) >= *goal);
            if all || since.elapsed() > patience() * 2 {
                (read.resumed, read.anew) = (roamer.resumed, roamer.anew);
                read.stored = roamer.client.stored().await?.len() as u64;
                return Ok(read);
            }
        }
    })
}

/// Writes to everybody in turn until told to stop, and tells of its rounds; how many each got, and what came back.
fn write(
    mut roamer: Roamer,
    name: String,
    to: Vec<String>,
    stop: Arc<AtomicBool>,
) -> Going<(u64, u64, u32)> {
    Going::begin(async move |tell| {
        let (mut round, mut refused) = (0, 0);
        while !stop.load(Ordering::Acquire) {
            for to in &to {
                let text = body(&name, round);
                let message = format!(
                    "<message to='{to}' type='chat' id='{name}-{round}'><body>{text}</body></message>"
                );
                // What could not be written is written when the session goes on.
                let _ = roamer.client.send(&message).await;
                if !roamer.client.is_connected() {
                    roamer.come_back().await?;
                }
            }
            round += 1;
            tell.send_replace(round);
            while let Ok(Some(element)) = roamer.next(Duration::from_millis(10)).await {
                refused += u64::from(element.attr("type") == Some("error"));
            }
        }
        let deadline = Instant::now() + patience() * 3;
        while let Err(e) = roamer.client.wait_acked().await {
            if !roamer.client.is_connected() {
                roamer.come_back().await?;
            } else if Instant::now() > deadline {
                return Err(e);
            }
        }
        for element in roamer.client.drain() {
            refused += u64::from(element.attr("type") == Some("error"));
        }
        let anew = roamer.anew;
        roamer.client.disconnect().await?;
        Ok((round, refused, anew))
    })
}

/// Readers at these nodes and a writer at each of these, while `happens` does what it does.
async fn under_load(
    platform: &Platform,
    users: std::ops::Range<u32>,
    readers_at: &[usize],
    writers_at: &[usize],
    happens: impl Future<Output = Result<()>>,
) -> Result<u32> {
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, goals) = watch::channel(None);
    let (mut reading, mut to) = (Vec::new(), Vec::new());
    for (n, user) in users.clone().enumerate() {
        let roamer =
            Roamer::new(platform, user, "reader", readers_at[n % readers_at.len()]).await?;
        to.push(roamer.client.bare());
        reading.push(read(roamer, goals.clone()));
    }
    let mut writing = Vec::new();
    for (n, at) in writers_at.iter().enumerate() {
        let user = users.end + u32::try_from(n).expect("few");
        let roamer = Roamer::new(platform, user, "writer", *at).await?;
        writing.push(write(roamer, format!("w{n}"), to.clone(), stop.clone()));
    }
    let happened = async {
        for reader in &reading {
            reader.reaches(writing.len() as u64).await?;
        }
        happens.await?;
        for writer in &writing {
            // The round it is in, and one that began after it had happened.
            let round = *writer.at.borrow();
            writer.reaches(round + 2).await?;
        }
        Ok(())
    };
    let happened: Result<()> = happened.await;
    stop.store(true, Ordering::Release);
    let (mut rounds, mut refused, mut anew) = (Vec::new(), 0, 0);
    for one in writing {
        let (round, back, began) = one.task.await.map_err(|e| e.to_string())??;
        rounds.push(round);
        refused += back;
        anew += began;
    }
    tell.send_replace(Some(rounds.clone()));
    let sent = rounds.iter().sum::<u64>() * to.len() as u64;
    let mut sum = Sum { sent, refused, ..Sum::default() };
    let (mut resumed, mut wrong) = (0, Vec::new());
    for one in reading {
        let read = one.task.await.map_err(|e| e.to_string())??;
        for (n, rounds) in rounds.iter().enumerate() {
            sum.delivered += read.ledger.count(&format!("w{n}")) as u64;
            wrong.extend(read.ledger.verdict(&format!("w{n}"), *rounds).err());
        }
        wrong.extend(read.went);
        sum.stored += read.stored;
        resumed += read.resumed;
        anew += read.anew;
    }
    println!("    {sum}; sessions resumed {resumed}, begun anew {anew}");
    happened?;
    wrong.extend(sum.adds_up().err());
    match wrong.as_slice() {
        [] if anew == 0 && refused == 0 => Ok(resumed),
        wrong => Err(format!(
            "refused {refused}, begun anew {anew}, {} wrong: {:?}",
            wrong.len(),
            wrong.first()
        )),
    }
}

fn number(info: &Value, key: &str) -> u64 {
    info[key].as_u64().unwrap_or(u64::MAX)
}

async fn emptied(platform: &Platform) -> Result<()> {
    const READERS: u32 = 20;
    let drain = async {
        let begun = Instant::now();
        let info = platform.ctl("eu-0", &["node", "drain", "eu-1", "--rate", "20"]).await?;
        println!("    {info} after {:.1} s", begun.elapsed().as_secs_f32());
        let zero = number(&info, "left") == 0 && number(&info, "ended") == 0;
        let all = number(&info, "moved") >= u64::from(READERS);
        // So many a second, so it takes as long as that at least.
        let paced = begun.elapsed() >= Duration::from_millis(800);
        if !(zero && all && paced) {
            return Err(format!("{info}"));
        }
        // Who comes now is told where to go.
        let mut late = client_at(platform, "eu-1", 150)?;
        match late.connect().await {
            Err(e) if e.contains("see-other-host") => Ok(()),
            other => Err(format!("a new client at the emptied node: {other:?}")),
        }
    };
    let resumed = Box::pin(under_load(platform, 0..READERS, &[1], &[0, 2], drain)).await?;
    if resumed < READERS {
        return Err(format!("{resumed} of {READERS} sessions went on"));
    }
    let info = platform.ctl("eu-1", &["node", "undrain"]).await?;
    if info["draining"] != Value::Bool(false) {
        return Err(format!("{info}"));
    }
    let mut late = client_at(platform, "eu-1", 150)?;
    late.connect().await?;
    late.disconnect().await
}

fn client_at(platform: &Platform, node: &str, user: u32) -> Result<Client> {
    let (name, password) = (format!("user{user}"), format!("pw{user}"));
    Ok(Client::new(&name, platform.endpoint_of(node)?, &name, &password, Some("late")))
}

/// The client is away while its node ends, and for a while after that.
async fn waits_elsewhere(platform: &Platform) -> Result<()> {
    let mut reader = Roamer::new(platform, 30, "reader", 1).await?;
    let mut writer = Roamer::new(platform, 31, "writer", 0).await?;
    let to = reader.client.bare();
    let say = async |writer: &mut Roamer, numbers: std::ops::Range<u64>| {
        for n in numbers {
            let text = body("w", n);
            let message =
                format!("<message to='{to}' type='chat' id='m{n}'><body>{text}</body></message>");
            writer.client.send(&message).await?;
        }
        writer.client.ping().await
    };
    reader.client.answer_acks(false);
    say(&mut writer, 0..5).await?;
    reader.client.cut().await;
    say(&mut writer, 5..10).await?;
    platform.stop_node("eu-1").await?;
    say(&mut writer, 10..15).await?;
    reader.come_back().await?;
    reader.client.answer_acks(true);
    let mut ledger = Ledger::default();
    let deadline = Instant::now() + patience();
    while ledger.count("w") < 15 && Instant::now() < deadline {
        if let Some(text) = reader.next(A_WHILE).await?.and_then(|element| element.body()) {
            ledger.enter(&text);
        }
    }
    let mut verdict = ledger.verdict("w", 15);
    if reader.anew > 0 {
        verdict = Err("the session was not to be had elsewhere".into());
    }
    reader.client.disconnect().await?;
    writer.client.wait_acked().await?;
    writer.client.disconnect().await?;
    platform.start_node("eu-1").await?;
    verdict
}

async fn rolling(platform: &Platform) -> Result<()> {
    let restarts = async {
        for node in ["eu-1", "eu-2", "eu-0"] {
            let begun = Instant::now();
            platform.stop_node(node).await?;
            let stopped = begun.elapsed();
            platform.start_node(node).await?;
            let whole = begun.elapsed().as_secs_f32();
            println!(
                "    {node}: stopped in {:.1} s, serves again after {whole:.1} s",
                stopped.as_secs_f32()
            );
        }
        Ok(())
    };
    let resumed = under_load(platform, 40..58, &[0, 1, 2], &[0, 1], restarts).await?;
    if resumed >= 18 { Ok(()) } else { Err(format!("{resumed} sessions went on")) }
}

/// A node dies with its users; the others admit them at the rate they are told, and those who resume at once. What the database is asked
/// meanwhile follows from how many sign in: no more for each because they come together.
async fn storm() -> Result<()> {
    const USERS: u32 = 60;
    const RATE: u32 = 10;
    // For each who comes, with what the nodes ask of themselves meanwhile.
    const STATEMENTS_MAX: usize = 40;
    let server = Server::start(Kind::Postgres).await?;
    server.log_statements()?;
    let database = Some(format!("{}/storm", server.url()));
    let plan = Plan { regions: vec!["eu".into()], nodes: 3, database, ..Plan::default() };
    let platform = &Platform::start(plan).await?;
    for node in ["eu-0", "eu-2"] {
        let path = platform.dir.join(format!("{node}.toml"));
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let slow = format!("[limits]\nsign_ins_per_second = {RATE}\nsign_ins_burst = {RATE}\n");
        std::fs::write(&path, text.replace("[limits]\n", &slow)).map_err(|e| e.to_string())?;
        platform.ctl(node, &["reload"]).await?;
    }
    let mut users = Vec::new();
    for user in 0..USERS {
        users.push(Roamer::new(platform, user, "reader", 1).await?);
    }
    let mut other = Roamer::new(platform, USERS, "other", 2).await?;
    platform.kill("eu-1").await?;
    let before = server.statements().len();
    let back = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let coming: Vec<_> = users
        .into_iter()
        .map(|mut roamer| {
            let back = back.clone();
            tokio::spawn(async move {
                // Half of them here, half of them there.
                roamer.at =
                    if roamer.client.user.ends_with(['0', '2', '4', '6', '8']) { 1 } else { 2 };
                let came = roamer.come_back().await.map(|()| begun.elapsed());
                back.fetch_add(1, Ordering::AcqRel);
                (roamer, came)
            })
        })
        .collect();
    // Now they are signed in, and wait where the other one comes.
    platform.wait_metric_of("eu-0", "pangaea_sign_ins_waiting", "", 1.0).await?;
    let asked = Instant::now();
    other.client.cut().await;
    other.come_back().await?;
    let resumed_after = asked.elapsed();
    let before_it = back.load(Ordering::Acquire);
    let (mut times, mut here, mut anew) = (Vec::new(), Vec::new(), 0);
    for one in coming {
        let (roamer, came) = one.await.map_err(|e| e.to_string())?;
        times.push(came?.as_secs_f32());
        anew += roamer.anew;
        here.push(roamer);
    }
    let asked_of_it = server.statements().split_off(before);
    for mut roamer in here {
        roamer.client.disconnect().await?;
    }
    times.sort_by(f32::total_cmp);
    let last = times.last().copied().unwrap_or(0.0);
    println!(
        "    {USERS} users of a dead node, two nodes that admit {RATE} a second: half are back after {:.1} s, all after {last:.1} s, {:.1} a second; \
         {anew} begun anew; one who resumed meanwhile waited {:.2} s, {before_it} came before it",
        times[times.len() / 2],
        USERS as f32 / last,
        resumed_after.as_secs_f32(),
    );
    let begin_with = |word: &str| asked_of_it.iter().filter(|text| text.starts_with(word)).count();
    println!(
        "    the database meanwhile: {} statements, {:.1} a second, {:.1} for each; {} of them read, {} commit",
        asked_of_it.len(),
        asked_of_it.len() as f32 / last,
        asked_of_it.len() as f32 / USERS as f32,
        begin_with("SELECT"),
        begin_with("COMMIT"),
    );
    other.client.disconnect().await?;
    let least = (USERS - 2 * RATE) as f32 / (2 * RATE) as f32;
    if last < least {
        return Err(format!("all after {last} s: faster than the rate allows, {least} s"));
    }
    if resumed_after > Duration::from_secs(1) {
        return Err(format!("who resumes waits behind the others: {resumed_after:?}"));
    }
    if before_it >= USERS as usize {
        return Err("nobody waited when one resumed".to_owned());
    }
    match asked_of_it.len() {
        0 => Err("the database has not said what it was asked".to_owned()),
        asked if asked > USERS as usize * STATEMENTS_MAX => {
            Err(format!("{asked} statements for {USERS} who came"))
        }
        _ => platform.panics().into_iter().next().map_or(Ok(()), Err),
    }
}
