//! Somebody who writes and somebody who hears, at two nodes, while something happens: what was sent, came back and came adds up in the end.

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::ledger::{Ledger, Sum, body};
use pangaea_tests::platform::Platform;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The two.
pub(crate) struct Couple {
    /// Who writes.
    pub writer: String,
    /// Who hears.
    pub reader: String,
    enough: watch::Sender<bool>,
    writing: JoinHandle<Result<(u64, u64)>>,
    goal: watch::Sender<Option<u64>>,
    hearing: JoinHandle<Result<Heard>>,
}

/// What came of it.
pub(crate) struct Report {
    /// All of them acknowledged and delivered once, in order.
    pub sum: Sum,
    /// The longest time without one.
    pub gap: Duration,
    /// How many were on their way at most.
    pub behind: u64,
}

/// What who hears has heard.
#[derive(Default)]
struct Heard {
    ledger: Ledger,
    stored: u64,
    gap: Duration,
    behind: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sum, gap, behind } = self;
        let gap = gap.as_secs_f64();
        write!(f, "{sum}, all acknowledged; at most {behind} on their way, {gap:.2} s without one")
    }
}

impl Couple {
    /// They begin: users `number` and the next, a message each `pause`.
    pub(crate) async fn begin(
        platform: &Platform,
        number: u32,
        at: [(usize, usize); 2],
        pause: Duration,
    ) -> Result<Self> {
        let mut writer = super::somebody(platform, number, at[0], "writer").await?;
        let reader = super::somebody(platform, number + 1, at[1], "reader").await?;
        writer.enable_sm(false).await?;
        let (to, names) = (reader.bare(), (writer.full(), reader.full()));
        let (enough, said) = watch::channel(false);
        let (goal, told) = watch::channel(None);
        let (count, sent) = watch::channel(0);
        let writing = tokio::spawn(write(writer, to, pause, said, count));
        let hearing = tokio::spawn(hear(reader, told, sent));
        Ok(Self { writer: names.0, reader: names.1, enough, writing, goal, hearing })
    }

    /// They end, and it is added up.
    pub(crate) async fn end(self) -> Result<Report> {
        self.enough.send_replace(true);
        let (sent, refused) = self.writing.await.map_err(|e| e.to_string())??;
        self.goal.send_replace(Some(sent - refused));
        let heard = self.hearing.await.map_err(|e| e.to_string())??;
        let Heard { ledger, stored, gap, behind } = heard;
        let sum = Sum { sent, delivered: ledger.count("writer") as u64, stored, refused };
        sum.adds_up()?;
        ledger.verdict("writer", sent).map_err(|e| format!("{sum}: {e}"))?;
        Ok(Report { sum, gap, behind })
    }
}

async fn write(
    mut writer: Client,
    to: String,
    pause: Duration,
    mut said: watch::Receiver<bool>,
    count: watch::Sender<u64>,
) -> Result<(u64, u64)> {
    let mut sent = 0;
    let mut pace = tokio::time::interval(pause);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*said.borrow_and_update() {
        let text = body("writer", sent);
        writer
            .send(&format!("<message to='{to}' type='chat'><body>{text}</body></message>"))
            .await?;
        sent += 1;
        count.send_replace(sent);
        pace.tick().await;
    }
    writer.wait_acked().await?;
    writer.ping().await?;
    let mut refused = 0;
    for back in writer.drain().iter().filter(|e| e.name == "message") {
        println!("    came back: {back}");
        refused += 1;
    }
    Ok((sent, refused))
}

async fn hear(
    mut reader: Client,
    mut goal: watch::Receiver<Option<u64>>,
    sent: watch::Receiver<u64>,
) -> Result<Heard> {
    let (mut heard, mut last) = (Heard::default(), Instant::now());
    let mut deadline = None;
    loop {
        let told = *goal.borrow_and_update();
        if let Some(goal) = told {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience());
            if heard.ledger.count("writer") as u64 >= goal || Instant::now() > deadline {
                heard.stored = reader.stored().await?.len() as u64;
                return Ok(heard);
            }
        }
        let within = Duration::from_millis(200);
        if let Ok(got) = reader.wait_for_within(within, "a message", |e| e.body().is_some()).await {
            heard.ledger.enter(&got.body().unwrap_or_default());
            heard.gap = heard.gap.max(last.elapsed());
            let on_their_way = sent.borrow().saturating_sub(heard.ledger.count("writer") as u64);
            heard.behind = heard.behind.max(on_their_way);
            last = Instant::now();
        }
    }
}
