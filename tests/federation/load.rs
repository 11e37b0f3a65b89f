//! Somebody at one domain writes to somebody at another while something happens; what was sent, came, and came back adds up in the end.
//!
//! Called by `trouble`. The writer's server has taken what it acknowledged (XEP-0198); the reader signs in again whenever its server has gone, and hears
//! then what was kept for it. What came to the reader and what came back to the writer are all there is: the rest is lost, and lost is said.

use super::site::Site;
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::ledger::body;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The two.
pub(crate) struct Writing {
    /// To whom.
    to: String,
    enough: watch::Sender<bool>,
    task: JoinHandle<Result<(Client, u64, Returned)>>,
    goal: watch::Sender<Option<Goal>>,
    hearing: JoinHandle<Result<Heard>>,
    /// How many were written, and how many came, so far.
    wrote: watch::Receiver<u64>,
    heard: watch::Receiver<u64>,
}

/// What came back, each with the condition of its error.
type Returned = BTreeMap<u64, String>;

/// So many at most are written and neither heard nor returned. A server that is slow is given no more than it takes: what waits for it longer than it may is
/// returned though it comes later, and that would say how fast the machine is, not what is lost.
const UNDER_WAY_MAX: u64 = 120;

#[derive(Clone, Debug)]
struct Goal {
    sent: u64,
    returned: Returned,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// To whom.
    reader: String,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    /// Those that came more than once, counted each time.
    pub(crate) again: u64,
    /// Those that came back with an error.
    pub(crate) returned: u64,
    /// Neither came nor came back.
    pub(crate) lost: Vec<u64>,
    /// Both came and came back, with the condition.
    pub(crate) both: Vec<(u64, String)>,
    /// In the order of their first appearances, those only that do not say that they are late (XEP-0203).
    in_time: Vec<u64>,
    pub(crate) gap: Duration,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent and acknowledged = {} delivered + {} returned + {} lost; {} again; at most {:.1} s without one",
            self.sent,
            self.delivered,
            self.returned,
            self.lost.len(),
            self.again,
            self.gap.as_secs_f64()
        )
    }
}

impl Account {
    /// Whether it adds up: nothing lost, nothing in disorder, and none that is said not to have come has come.
    pub(crate) fn verdict(&self, from: &Site) -> Result<()> {
        let mut wrong = Vec::new();
        if !self.lost.is_empty() {
            wrong.push(format!("lost: {:?}", &self.lost[..self.lost.len().min(20)]));
        }
        wrong.extend(self.order(from).err());
        if wrong.is_empty() { Ok(()) } else { Err(format!("{self}: {}", wrong.join("; "))) }
    }

    /// Whether what came, came in order, and only if its sender's server has not said that it did not get there.
    pub(crate) fn order(&self, from: &Site) -> Result<()> {
        self.honest()?;
        self.sequence(from)
    }

    /// Whether nothing came of which its sender's server has said that it did not get there. What the reader had and had not acknowledged when its own server
    /// went, that server may give back all the same.
    pub(crate) fn honest(&self) -> Result<()> {
        match self.both.iter().any(|(_, condition)| condition.starts_with("remote-server-")) {
            true => Err(format!("{self}: returned, but delivered too: {:?}", &self.both)),
            false => Ok(()),
        }
    }

    /// Whether what came, came in the order in which its writer's server wrote it.
    pub(crate) fn sequence(&self, from: &Site) -> Result<()> {
        from.wrote(&self.reader)?.verdict(&self.in_time).map_err(|wrong| format!("{self}: {wrong}"))
    }
}

#[derive(Default)]
struct Heard {
    first: Vec<u64>,
    seen: BTreeSet<u64>,
    /// Those that say that they are late.
    late: BTreeSet<u64>,
    again: u64,
    gap: Duration,
}

impl Writing {
    /// They begin, a message each `pause` as long as no more than [`UNDER_WAY_MAX`] are under way. Both are online.
    pub(crate) async fn begin(mut writer: Client, reader: Client, pause: Duration) -> Result<Self> {
        writer.enable_sm(false).await?;
        let to = reader.bare();
        let (enough, said) = watch::channel(false);
        let (goal, told) = watch::channel(None);
        let (writes, wrote) = watch::channel(0);
        let (hears, heard) = watch::channel(0);
        let task = tokio::spawn(write(writer, to.clone(), pause, said, writes, heard.clone()));
        let hearing = tokio::spawn(hear(reader, told, hears));
        Ok(Self { to, enough, task, goal, hearing, wrote, heard })
    }

    /// Waits until so many more are written.
    pub(crate) async fn writes(&self, more: u64) -> Result<()> {
        reaches(self.wrote.clone(), more, "written").await
    }

    /// Waits until so many more have come.
    pub(crate) async fn hears(&self, more: u64) -> Result<()> {
        reaches(self.heard.clone(), more, "heard").await
    }

    /// No more is written.
    pub(crate) fn enough(&self) {
        self.enough.send_replace(true);
    }

    /// No more is written; what is under way may take `within`.
    pub(crate) async fn end(self, within: Duration) -> Result<Account> {
        self.enough();
        let (mut writer, sent, mut returned) = self.task.await.map_err(|e| e.to_string())??;
        let deadline = Instant::now() + within;
        self.goal.send_replace(Some(Goal { sent, returned: returned.clone() }));
        while !self.hearing.is_finished() && Instant::now() < deadline {
            let back = writer.wait_for_within(Duration::from_millis(100), "", is_returned).await;
            if let Ok(back) = back {
                returned.extend(word(&back));
                self.goal.send_replace(Some(Goal { sent, returned: returned.clone() }));
            }
        }
        // Whoever waits for more waits in vain.
        self.goal.send_replace(Some(Goal { sent: 0, returned: returned.clone() }));
        let heard = self.hearing.await.map_err(|e| e.to_string())??;
        returned.extend(writer.drain().iter().filter(|e| is_returned(e)).filter_map(word));
        let missing = |n: &u64| !heard.seen.contains(n) && !returned.contains_key(n);
        let in_time = heard.first.iter().copied().filter(|n| !heard.late.contains(n)).collect();
        let is_both = |(number, _): &(u64, String)| heard.seen.contains(number);
        let count = returned.len() as u64;
        let lost = (0..sent).filter(missing).collect();
        let both = returned.into_iter().filter(is_both).collect();
        Ok(Account {
            reader: self.to,
            sent,
            delivered: heard.seen.len() as u64,
            again: heard.again,
            returned: count,
            lost,
            both,
            in_time,
            gap: heard.gap,
        })
    }
}

async fn reaches(mut count: watch::Receiver<u64>, more: u64, what: &str) -> Result<()> {
    let goal = *count.borrow() + more;
    let reached = tokio::time::timeout(patience() * 6, count.wait_for(|now| *now >= goal));
    match reached.await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(format!("{more} more were to be {what}")),
    }
}

fn is_returned(e: &pangaea_tests::xml::Element) -> bool {
    e.name == "message" && e.attr("type") == Some("error")
}

fn word(e: &pangaea_tests::xml::Element) -> Option<(u64, String)> {
    let number = e.attr("id")?.strip_prefix('n')?.parse().ok()?;
    let error = e.children().find(|child| child.name == "error")?;
    let condition = error.children().next().map(|child| child.name.clone());
    Some((number, condition.unwrap_or_default()))
}

async fn write(
    mut writer: Client,
    to: String,
    pause: Duration,
    said: watch::Receiver<bool>,
    writes: watch::Sender<u64>,
    heard: watch::Receiver<u64>,
) -> Result<(Client, u64, Returned)> {
    let (mut sent, mut returned) = (0, Returned::new());
    let mut pace = tokio::time::interval(pause);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*said.borrow() {
        if sent < *heard.borrow() + returned.len() as u64 + UNDER_WAY_MAX {
            let text = body("writer", sent);
            let stanza = format!(
                "<message to='{to}' type='chat' id='n{sent}'><body>{text}</body></message>"
            );
            writer.send(&stanza).await?;
            sent += 1;
            writes.send_replace(sent);
        }
        pace.tick().await;
        returned.extend(writer.drain().iter().filter(|e| is_returned(e)).filter_map(word));
    }
    // Where what goes to another domain is acknowledged when that has it, this takes as long as all of it.
    for tries in 0.. {
        match writer.wait_acked().await {
            Ok(()) => break,
            Err(e) if tries == 8 || !writer.is_connected() => return Err(e),
            Err(_) => {}
        }
    }
    Ok((writer, sent, returned))
}

/// Hears until all that was sent is accounted for. Comes back by itself when its server has gone and is there again.
async fn hear(
    mut reader: Client,
    goal: watch::Receiver<Option<Goal>>,
    hears: watch::Sender<u64>,
) -> Result<Heard> {
    let mut heard = Heard::default();
    let mut last = Instant::now();
    // What it has acknowledged it has; what it has not is kept for it.
    let mut fresh = reader.enable_sm(false).await.is_ok();
    loop {
        if let Some(Goal { sent, returned }) = &*goal.borrow()
            && (0..*sent).all(|n| heard.seen.contains(&n) || returned.contains_key(&n))
        {
            return Ok(heard);
        }
        let within = Duration::from_millis(100);
        match reader.wait_for_within(within, "", |e| e.body().is_some()).await {
            Ok(got) => {
                let text = got.body().unwrap_or_default();
                let number = text.rsplit(' ').next().and_then(|word| word.parse().ok());
                let number = number.ok_or_else(|| format!("not one of these: {got}"))?;
                if heard.seen.insert(number) {
                    if got.child("delay", "urn:xmpp:delay").is_some() {
                        heard.late.insert(number);
                    }
                    heard.first.push(number);
                    hears.send_replace(heard.first.len() as u64);
                    heard.gap = heard.gap.max(last.elapsed());
                    last = Instant::now();
                } else {
                    heard.again += 1;
                }
            }
            Err(_) if reader.is_connected() && fresh => {}
            Err(_) => {
                fresh = comes_back(&mut reader).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if last.elapsed() > patience() * 12 {
            return Err(format!("{} has heard nothing for a long time", reader.name));
        }
    }
}

async fn comes_back(reader: &mut Client) -> bool {
    reader.cut().await;
    if reader.connect().await.is_err() || reader.enable_sm(false).await.is_err() {
        return false;
    }
    reader.send("<presence/>").await.is_ok()
}
