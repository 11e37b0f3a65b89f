//! A region of three nodes: what is done at one is seen at all, and what becomes of messages, changes and sessions when one of them dies.
//!
//! Run by `tests/run`, or `cargo test -p pangaea-tests --test nodes [WORD…]` when the server has been built. One platform for all tests, one
//! after the other: each kills a node and starts it again. Twice: over one SQLite file, and over PostgreSQL.

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::database::{Kind, Server};
use pangaea_tests::harness::{Choice, Outcome, Test, run};
use pangaea_tests::ledger::{Ledger, Sum, body};
use pangaea_tests::platform::{Plan, Platform};
use pangaea_tests::xml::Element;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LONGEST_SECONDS: u64 = 180;
const NODES: usize = 3;
/// Between two messages.
const FAST: Duration = Duration::from_millis(5);
/// The same where they wait until something has happened: what waits for one addressee is bounded (`limits.parked_stanzas_per_address_max`), and
/// so is what is filed for one who is away (`limits.offline_messages_max`).
const CALM: Duration = Duration::from_millis(20);

const NAMES: [&str; 7] = [
    "what_is_done_at_one_node_is_seen_at_all",
    "a_service_gets_another_name_by_reloads",
    "the_scribe_killed_under_load",
    "a_node_killed_under_load",
    "a_node_that_comes_back_takes_part_again",
    "what_a_dead_node_had_promised_is_delivered",
    "a_node_that_is_gone_for_good_is_forgotten",
];

#[tokio::main]
async fn main() -> ExitCode {
    let choice = Choice::from_args();
    let mut outcome = Outcome::default();
    if choice.list {
        for kind in ["sqlite", "postgres"] {
            NAMES.iter().for_each(|name| println!("{kind}::{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    if !NAMES.iter().any(|name| choice.wants(name)) {
        return outcome.finish();
    }
    on(&choice, &mut outcome, "sqlite", None).await;
    match Server::start(Kind::Postgres).await {
        Ok(server) => {
            on(&choice, &mut outcome, "postgres", Some(format!("{}/nodes", server.url()))).await;
        }
        Err(e) => outcome.fail("postgres_starts", &e),
    }
    outcome.finish()
}

/// All tests over one kind of database.
async fn on(choice: &Choice, outcome: &mut Outcome, kind: &str, database: Option<String>) {
    let plan =
        Plan { regions: vec!["eu".into()], nodes: NODES as u16, database, ..Plan::default() };
    let platform = match Platform::start(plan).await {
        Ok(platform) => platform,
        Err(e) => return outcome.fail(&format!("{kind}::the_platform_starts"), &e),
    };
    let (on, name) = (&platform, |number: usize| format!("{kind}::{}", NAMES[number]));
    let tests = vec![
        Test::new(name(0), || seen_at_all(on)),
        Test::new(name(1), || renamed(on)),
        Test::new(name(2), || scribe_killed(on)),
        Test::new(name(3), || node_killed(on)),
        Test::new(name(4), || comes_back(on)),
        Test::new(name(5), || promised(on)),
        Test::new(name(6), || removed(on)),
    ];
    run(outcome, choice, tests, 1, LONGEST_SECONDS).await;
    for panic in platform.panics() {
        outcome.fail(&format!("{kind}::no_node_panics"), &panic);
    }
}

async fn online(platform: &Platform, number: u32, node: usize, resource: &str) -> Result<Client> {
    let mut client = platform.user_at(number, (0, node), resource)?;
    client.connect().await?;
    client.send("<presence/>").await?;
    client.ping().await?;
    Ok(client)
}

const ROSTER: &str = "jabber:iq:roster";

async fn set(client: &mut Client, contact: &str) -> Result<Element> {
    let item = format!("<query xmlns='{ROSTER}'><item jid='{contact}'/></query>");
    client.iq("set", None, &item).await
}

/// The files' service gets another name, node by node, and its own back: each node answers by what it was told last, and nobody's session ends.
async fn renamed(platform: &Platform) -> Result<()> {
    let mut devices = Vec::new();
    for node in 0..NODES {
        devices.push(online(platform, 2, node, &format!("named{node}")).await?);
    }
    let named = |name: &str| format!("{name}.{}", platform.plan.domain);
    for (from, to) in [("upload", "files"), ("files", "upload")] {
        for node in 0..NODES {
            let file = platform.dir.join(format!("eu-{node}.toml"));
            let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
            let key = |name| format!("upload = \"{}\"", named(name));
            let other = text.replacen(&key(from), &key(to), 1);
            std::fs::write(&file, other).map_err(|e| e.to_string())?;
            let said = platform.ctl(&format!("eu-{node}"), &["reload"]).await?;
            if said["applied"] != serde_json::json!(["domains.upload"]) {
                return Err(format!("eu-{node}: {said}"));
            }
            for (at, device) in devices.iter_mut().enumerate() {
                let (there, gone) = if at <= node { (to, from) } else { (from, to) };
                known_as(device, &named(there), &named(gone)).await?;
            }
        }
    }
    Ok(())
}

/// The server lists the one, which answers, and not the other, which does not.
async fn known_as(client: &mut Client, there: &str, gone: &str) -> Result<()> {
    const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    const ITEMS: &str = "http://jabber.org/protocol/disco#items";
    let domain = client.bare().split('@').nth(1).unwrap_or_default().to_owned();
    let answer = client.iq("get", Some(&domain), &format!("<query xmlns='{ITEMS}'/>")).await?;
    let listed: Vec<&str> = answer
        .child("query", ITEMS)
        .map(|query| query.children().filter_map(|item| item.attr("jid")).collect())
        .unwrap_or_default();
    if !listed.contains(&there) || listed.contains(&gone) {
        return Err(format!("not {there} alone: {answer}"));
    }
    for (name, expected) in [(there, "result"), (gone, "error")] {
        let answer = client.iq("get", Some(name), INFO).await?;
        if answer.attr("type") != Some(expected) {
            return Err(format!("{name}: {answer}"));
        }
    }
    Ok(())
}

/// The push of a contact.
async fn pushed(client: &mut Client, contact: &str) -> Result<()> {
    let push = client
        .wait_for("a roster push", |e| {
            e.attr("type") == Some("set")
                && e.child("query", ROSTER).is_some_and(|q| q.to_string().contains(contact))
        })
        .await?;
    let id = push.attr("id").unwrap_or_default();
    client.send(&format!("<iq type='result' id='{id}'/>")).await
}

async fn seen_at_all(platform: &Platform) -> Result<()> {
    let mut devices = Vec::new();
    for node in 0..NODES {
        let mut device = online(platform, 1, node, &format!("device{node}")).await?;
        device.iq("get", None, &format!("<query xmlns='{ROSTER}'/>")).await?;
        devices.push(device);
    }
    for node in 0..NODES {
        let contact = format!("contact{node}@elsewhere.example");
        set(&mut devices[node], &contact).await?;
        for device in &mut devices {
            pushed(device, &contact).await?;
        }
    }
    // A block at one node holds at all.
    let stranger = "user2@pangaea.localhost";
    let block = format!("<block xmlns='urn:xmpp:blocking'><item jid='{stranger}'/></block>");
    devices[0].iq("set", None, &block).await?;
    for node in 0..NODES {
        let mut other = online(platform, 2, node, "stranger").await?;
        other.send("<message to='user1@pangaea.localhost' type='chat' id='m'><body>hi</body></message>").await?;
        let back = other.wait_for("an error", |e| e.attr("type") == Some("error")).await?;
        if !back.to_string().contains("service-unavailable") {
            return Err(format!("node {node}: {back}"));
        }
        other.disconnect().await?;
    }
    // What one has written the others read.
    let card = "<vCard xmlns='vcard-temp'><FN>At home</FN></vCard>";
    devices[1].iq("set", None, card).await?;
    for device in &mut devices {
        let read = device.iq("get", None, "<vCard xmlns='vcard-temp'/>").await?;
        if !read.to_string().contains("At home") {
            return Err(format!("{}: {read}", device.name));
        }
    }
    Ok(())
}

/// Somebody who writes to somebody until it is enough.
struct Writing {
    enough: watch::Sender<bool>,
    /// How many it has sent.
    sent: watch::Receiver<u64>,
    task: JoinHandle<Result<(Client, u64)>>,
}

impl Writing {
    async fn begin(
        platform: &Platform,
        number: u32,
        node: usize,
        to: String,
        pause: Duration,
    ) -> Result<Self> {
        let mut writer = online(platform, number, node, "writer").await?;
        writer.enable_sm(true).await?;
        let (enough, mut said) = watch::channel(false);
        let (count, counted) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut sent = 0;
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !*said.borrow_and_update() {
                let text = body("writer", sent);
                writer
                    .send(&format!(
                        "<message to='{to}' type='chat' id='{sent}'><body>{text}</body></message>"
                    ))
                    .await?;
                sent += 1;
                count.send_replace(sent);
                pace.tick().await;
            }
            Ok((writer, sent))
        });
        Ok(Self { enough, sent: counted, task })
    }

    /// Until it has sent so many more.
    async fn sends(&self, more: u64) -> Result<()> {
        let mut sent = self.sent.clone();
        let goal = *sent.borrow() + more;
        match tokio::time::timeout(patience() * 3, sent.wait_for(|sent| *sent >= goal)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("{} sent, not {goal}", *self.sent.borrow())),
        }
    }

    /// How many it has sent, all of them acknowledged, and how many came back.
    async fn end(self) -> Result<Sum> {
        self.enough.send_replace(true);
        let (mut writer, sent) = self.task.await.map_err(|e| e.to_string())??;
        let deadline = Instant::now() + patience() * 3;
        while let Err(e) = writer.wait_acked().await {
            if Instant::now() > deadline {
                return Err(e);
            }
        }
        writer.ping().await?;
        let mut sum = Sum { sent, ..Sum::default() };
        for back in writer.drain().iter().filter(|e| e.name == "message") {
            println!("    came back: {back}");
            sum.refused += 1;
        }
        Ok(sum)
    }
}

/// Hears until `goal` numbers have come or it has waited long enough; takes what comes twice for what it is.
async fn hear(
    reader: &mut Client,
    heard: &mut Heard,
    goal: impl Fn() -> Option<u64>,
) -> Result<()> {
    let mut deadline = None;
    loop {
        if let Some(goal) = goal() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience() * 3);
            if heard.numbers.len() as u64 >= goal || Instant::now() > deadline {
                return Ok(());
            }
        }
        let within = Duration::from_millis(200);
        match reader.wait_for_within(within, "a message", |e| e.body().is_some()).await {
            Ok(got) => heard.enter(&got.body().unwrap_or_default()),
            Err(_) if reader.is_connected() => {}
            Err(e) => return Err(e),
        }
    }
}

/// What somebody heard who may hear some of it again.
#[derive(Default)]
struct Heard {
    ledger: Ledger,
    numbers: BTreeSet<u64>,
    again: u64,
    gap: Duration,
    last: Option<Instant>,
}

impl Heard {
    /// What had been stored is heard too: how much of it for the first time.
    fn finds(&mut self, stored: Vec<String>) -> u64 {
        let before = self.numbers.len();
        stored.iter().for_each(|text| self.enter(text));
        (self.numbers.len() - before) as u64
    }

    fn enter(&mut self, text: &str) {
        let number = text.rsplit(' ').next().and_then(|word| word.parse().ok());
        let Some(number) = number else { return self.ledger.enter(text) };
        if !self.numbers.insert(number) {
            self.again += 1;
            return;
        }
        self.ledger.enter(text);
        self.gap = self.gap.max(self.last.map_or(Duration::ZERO, |last| last.elapsed()));
        self.last = Some(Instant::now());
    }
}

/// Of two who talk over the other two nodes nothing is lost, doubled, refused or late, nobody's change is refused, and what is filed for
/// somebody who is away is there.
async fn scribe_killed(platform: &Platform) -> Result<()> {
    let dead = platform.scribe(0).await?;
    let others: Vec<usize> = (0..NODES).filter(|node| *node != dead).collect();
    let mut reader = online(platform, 12, others[1], "reader").await?;
    let to_reader = Writing::begin(platform, 11, others[0], reader.bare(), FAST).await?;
    let away = platform.user_at(14, (0, others[1]), "away")?.bare();
    let to_away = Writing::begin(platform, 13, others[1], away, CALM).await?;
    let mut changing = online(platform, 15, others[0], "changing").await?;

    to_reader.sends(100).await?;
    to_away.sends(25).await?;
    platform.kill(&format!("eu-{dead}")).await?;
    let began = Instant::now();
    let changed = set(&mut changing, "during@elsewhere.example").await?;
    let took = began.elapsed();
    if changed.attr("type") != Some("result") {
        return Err(format!("a change was refused: {changed}"));
    }
    let deadline = Instant::now() + patience();
    let next = loop {
        match platform.scribe(0).await? {
            next if next != dead => break next,
            _ if Instant::now() > deadline => return Err("nobody else writes".to_owned()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    to_reader.sends(200).await?;
    to_away.sends(50).await?;
    let (mut said, mut filed) = (to_reader.end().await?, to_away.end().await?);
    let mut heard = Heard::default();
    hear(&mut reader, &mut heard, || Some(said.sent - said.refused)).await?;
    said.delivered = heard.numbers.len() as u64;
    said.stored = heard.finds(reader.stored().await?);
    let mut away = online(platform, 14, others[0], "away").await?;
    let mut found = Heard::default();
    hear(&mut away, &mut found, || Some(filed.sent - filed.refused)).await?;
    filed.stored = found.numbers.len() as u64;
    println!(
        "    eu-{dead} killed, eu-{next} writes: {said}, all acknowledged, {} again; for somebody away: {filed}, all acknowledged, {} again; \
         a change took {:.1} s",
        heard.again,
        found.again,
        took.as_secs_f64(),
    );
    heard.ledger.verdict("writer", said.sent)?;
    found.ledger.verdict("writer", filed.sent)?;
    said.adds_up()?;
    filed.adds_up()?;
    if heard.again + found.again > 0 {
        return Err("some came twice".to_owned());
    }
    platform.start_node(&format!("eu-{dead}")).await
}

/// The reader's node dies: contacts see it within 15 s; the reader comes back at another node and misses nothing. What had come and was not
/// acknowledged may come again.
async fn node_killed(platform: &Platform) -> Result<()> {
    let (dead, other, third) = (2, 0, 1);
    let mut contact = online(platform, 23, other, "contact").await?;
    let mut reader = online(platform, 22, dead, "reader").await?;
    for (asks, says) in [("subscribe", "subscribed")] {
        contact.send(&format!("<presence to='{}' type='{asks}'/>", reader.bare())).await?;
        reader.wait_for("a request", |e| e.attr("type") == Some(asks)).await?;
        reader.send(&format!("<presence to='{}' type='{says}'/>", contact.bare())).await?;
    }
    let full = reader.full();
    contact
        .wait_for("presence", |e| e.attr("from") == Some(&full) && e.attr("type").is_none())
        .await?;
    reader.enable_sm(true).await?;
    let to = reader.bare();
    let writing = Writing::begin(platform, 21, other, to.clone(), CALM).await?;
    let (goal, told) = watch::channel(None);
    let hearing = tokio::spawn({
        let mut again = platform.user_at(22, (0, third), "reader again")?;
        async move {
            let mut heard = Heard::default();
            if hear(&mut reader, &mut heard, || *told.borrow()).await.is_ok() {
                return Err("its node did not die".to_owned());
            }
            again.connect().await?;
            again.send("<presence/>").await?;
            again.enable_sm(true).await?;
            hear(&mut again, &mut heard, || *told.borrow()).await?;
            let mut sum = Sum { delivered: heard.numbers.len() as u64, ..Sum::default() };
            sum.stored = heard.finds(again.stored().await?);
            Ok::<_, String>((heard, sum))
        }
    });
    writing.sends(50).await?;
    platform.kill(&format!("eu-{dead}")).await?;
    let began = Instant::now();
    let gone = |e: &Element| e.attr("from") == Some(&full) && e.attr("type") == Some("unavailable");
    contact.wait_for_within(Duration::from_secs(15), "unavailable", gone).await?;
    let seen = began.elapsed();
    counts_as_dead(platform, dead, &to, other).await?;
    writing.sends(100).await?;
    let Sum { sent, refused, .. } = writing.end().await?;
    goal.send_replace(Some(sent - refused));
    let (heard, sum) = hearing.await.map_err(|e| e.to_string())??;
    let sum = Sum { sent, refused, ..sum };
    println!(
        "    eu-{dead} killed: {sum}, all acknowledged, {} delivered again; at most {:.1} s without one; contacts knew after {:.1} s",
        heard.again,
        heard.gap.as_secs_f64(),
        seen.as_secs_f64(),
    );
    heard.ledger.verdict("writer", sum.sent)?;
    sum.adds_up()?;
    platform.start_node(&format!("eu-{dead}")).await
}

/// Until an account's sessions at a node are gone in the eyes of another: what was on the way to them is routed anew then.
async fn counts_as_dead(platform: &Platform, dead: usize, whose: &str, eyes: usize) -> Result<()> {
    let (dead, eyes) = (format!("eu-{dead}"), format!("eu-{eyes}"));
    let deadline = Instant::now() + patience() * 3;
    loop {
        let all = platform.ctl(&eyes, &["sessions", whose]).await?;
        if !all.as_array().ok_or("no list")?.iter().any(|session| session["node"] == dead) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{dead} has sessions in the eyes of {eyes}: {all}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Its sessions are told of changes again, whoever is the scribe.
async fn comes_back(platform: &Platform) -> Result<()> {
    for dead in 0..NODES {
        let name = format!("eu-{dead}");
        platform.kill(&name).await?;
        platform.start_node(&name).await?;
        let mut there = online(platform, 31, dead, "there").await?;
        let mut here = online(platform, 31, (dead + 1) % NODES, "here").await?;
        there.iq("get", None, &format!("<query xmlns='{ROSTER}'/>")).await?;
        for (number, client) in [&mut here, &mut there].into_iter().enumerate() {
            let contact = format!("back{dead}{number}@elsewhere.example");
            let changed = set(client, &contact).await?;
            if changed.attr("type") != Some("result") {
                return Err(format!("{name}: {changed}"));
            }
        }
        for number in 0..2 {
            pushed(&mut there, &format!("back{dead}{number}@elsewhere.example")).await?;
        }
    }
    Ok(())
}

/// Messages for somebody at another node that is silent are acknowledged by the node where they entered, from its outbox; then both die. The scribe
/// finds what was promised and delivers it, though that node never comes back in the meantime.
async fn promised(platform: &Platform) -> Result<()> {
    const COUNT: u64 = 50;
    let scribe = platform.scribe(0).await?;
    let others: Vec<usize> = (0..NODES).filter(|node| *node != scribe).collect();
    let (entered, asleep) = (others[0], others[1]);
    let mut reader = online(platform, 42, asleep, "reader").await?;
    reader.enable_sm(true).await?;
    reader.answer_acks(false);
    let mut writer = online(platform, 41, entered, "writer").await?;
    writer.enable_sm(false).await?;
    for number in 0..COUNT {
        let (to, text) = (reader.bare(), body("writer", number));
        writer
            .send(&format!("<message to='{to}' type='chat'><body>{text}</body></message>"))
            .await?;
    }
    writer.wait_acked().await?;
    for node in [entered, asleep] {
        platform.kill(&format!("eu-{node}")).await?;
    }
    // One of three cannot agree on anything alone.
    platform.start_node(&format!("eu-{asleep}")).await?;
    let mut again = online(platform, 42, scribe, "again").await?;
    let mut heard = Heard::default();
    hear(&mut again, &mut heard, || Some(COUNT)).await?;
    heard.ledger.verdict("writer", COUNT)?;
    println!(
        "    {COUNT} sent, {COUNT} acknowledged, both nodes killed: {} delivered, {} again",
        heard.numbers.len(),
        heard.again
    );
    platform.start_node(&format!("eu-{entered}")).await
}

/// What metadata has of the nodes, by name.
async fn members(platform: &Platform, at: &str) -> Result<BTreeMap<String, bool>> {
    let all = platform.ctl(at, &["nodes"]).await?;
    let member = |node: &Value| Some((node["name"].as_str()?.to_owned(), node["voter"].as_bool()?));
    Ok(all.as_array().ok_or("no list")?.iter().filter_map(member).collect())
}

/// Asks until it is so.
async fn becomes(platform: &Platform, at: &str, wanted: &[(&str, bool)]) -> Result<()> {
    let wanted = wanted.iter().map(|(name, votes)| ((*name).to_owned(), *votes)).collect();
    let deadline = Instant::now() + patience() * 3;
    loop {
        let members = members(platform, at).await?;
        if members == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the members are {members:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One that lives is not removed; one that has fallen is, and its vote goes with it. Started again it is somebody new, who may be given a vote.
async fn removed(platform: &Platform) -> Result<()> {
    let refused = platform.ctl("eu-0", &["node", "remove", "eu-2"]).await;
    if !refused.as_ref().is_err_and(|why| why.contains("counts as alive")) {
        return Err(format!("a node that lives: {refused:?}"));
    }
    platform.kill("eu-2").await?;
    let deadline = Instant::now() + patience() * 6;
    while let Err(why) = platform.ctl("eu-0", &["node", "remove", "eu-2"]).await {
        let waits = why.contains("counts as alive") || why.contains("promised");
        if !waits || Instant::now() > deadline {
            return Err(why);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    becomes(platform, "eu-1", &[("eu-0", true), ("eu-1", true)]).await?;
    // Two go on without it: they agree, and messages pass.
    let mut reader = online(platform, 51, 1, "reader").await?;
    let mut writer = online(platform, 52, 0, "writer").await?;
    writer
        .send(&format!("<message to='{}' type='chat'><body>x</body></message>", reader.bare()))
        .await?;
    reader.wait_for("a message", |e| e.body().as_deref() == Some("x")).await?;
    platform.start_node("eu-2").await?;
    becomes(platform, "eu-1", &[("eu-0", true), ("eu-1", true), ("eu-2", false)]).await?;
    platform.ctl("eu-1", &["node", "vote", "eu-2"]).await?;
    becomes(platform, "eu-2", &[("eu-0", true), ("eu-1", true), ("eu-2", true)]).await
}
