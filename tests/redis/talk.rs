//! Somebody who writes and somebody who hears, at two nodes, while something happens: what was sent, came back and came adds up in the end.

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::ledger::{Ledger, body};
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
    writing: JoinHandle<Result<u64>>,
    goal: watch::Sender<Option<u64>>,
    hearing: JoinHandle<Result<(Ledger, Duration)>>,
}

/// What came of it.
pub(crate) struct Report {
    /// Messages, all of them acknowledged and delivered once, in order.
    pub sent: u64,
    /// The longest time without one.
    pub gap: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, gap } = self;
        write!(
            f,
            "{sent} sent, {sent} acknowledged, {sent} delivered, at most {:.2} s without one",
            gap.as_secs_f64()
        )
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
        let writing = tokio::spawn(write(writer, to, pause, said));
        let hearing = tokio::spawn(hear(reader, told));
        Ok(Self { writer: names.0, reader: names.1, enough, writing, goal, hearing })
    }

    /// They end, and it is added up.
    pub(crate) async fn end(self) -> Result<Report> {
        self.enough.send_replace(true);
        let sent = self.writing.await.map_err(|e| e.to_string())??;
        self.goal.send_replace(Some(sent));
        let (heard, gap) = self.hearing.await.map_err(|e| e.to_string())??;
        heard.verdict("writer", sent)?;
        Ok(Report { sent, gap })
    }
}

async fn write(
    mut writer: Client,
    to: String,
    pause: Duration,
    mut said: watch::Receiver<bool>,
) -> Result<u64> {
    let mut sent = 0;
    let mut pace = tokio::time::interval(pause);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*said.borrow_and_update() {
        let text = body("writer", sent);
        writer
            .send(&format!("<message to='{to}' type='chat'><body>{text}</body></message>"))
            .await?;
        sent += 1;
        pace.tick().await;
    }
    writer.wait_acked().await?;
    writer.ping().await?;
    match writer.drain().iter().find(|e| e.name == "message") {
        Some(back) => Err(format!("came back: {back}")),
        None => Ok(sent),
    }
}

async fn hear(
    mut reader: Client,
    mut goal: watch::Receiver<Option<u64>>,
) -> Result<(Ledger, Duration)> {
    let mut ledger = Ledger::default();
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    let mut deadline = None;
    loop {
        if let Some(goal) = *goal.borrow_and_update() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience());
            if ledger.count("writer") as u64 >= goal || Instant::now() > deadline {
                return Ok((ledger, gap));
            }
        }
        let within = Duration::from_millis(200);
        if let Ok(got) = reader.wait_for_within(within, "a message", |e| e.body().is_some()).await {
            ledger.enter(&got.body().unwrap_or_default());
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
    }
}
