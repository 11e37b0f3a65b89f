//! What the tests with our own client say and hear: numbered messages, one or a stream of them. Used by `moves` and `geo`.

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::ledger::{Ledger, body};
use pangaea_tests::xml::Element;
use std::ops::Range;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) async fn online(client: &mut Client) -> Result<()> {
    client.connect().await?;
    client.send("<presence/>").await?;
    client.ping().await
}

pub(crate) async fn say(client: &mut Client, to: &str, text: &str) -> Result<()> {
    client
        .send(&format!("<message to='{to}' type='chat' id='{text}'><body>{text}</body></message>"))
        .await
}

/// Says these numbers, one after the other.
pub(crate) async fn say_all(
    client: &mut Client,
    to: &str,
    sender: &str,
    numbers: Range<u64>,
) -> Result<()> {
    for number in numbers {
        say(client, to, &body(sender, number)).await?;
    }
    Ok(())
}

/// Enters messages until the last of `count` has come, or patience is at its end.
pub(crate) async fn hear(
    client: &mut Client,
    ledger: &mut Ledger,
    sender: &str,
    count: usize,
) -> Result<()> {
    let deadline = Instant::now() + patience() * 3;
    while ledger.count(sender) < count {
        let left = deadline.saturating_duration_since(Instant::now());
        let what = format!("{count} messages of {sender}, {} have come", ledger.count(sender));
        let got = client.wait_for_within(left, &what, |e| e.body().is_some()).await?;
        ledger.enter(&got.body().unwrap_or_default());
    }
    Ok(())
}

pub(crate) fn enter_all(client: &mut Client, ledger: &mut Ledger) {
    for text in client.drain().iter().filter_map(Element::body) {
        ledger.enter(&text);
    }
}

/// Hears `sent` messages of each sender, and what else there may be: all of each, once, in order.
pub(crate) async fn hear_all(
    client: &mut Client,
    ledger: &mut Ledger,
    senders: &[impl AsRef<str>],
    sent: u64,
) -> Result<()> {
    let count = usize::try_from(sent).expect("few");
    let mut missing = Ok(());
    for sender in senders {
        missing = missing.and(hear(client, ledger, sender.as_ref(), count).await);
    }
    client.ping().await?;
    enter_all(client, ledger);
    for sender in senders {
        ledger.verdict(sender.as_ref(), sent)?;
    }
    missing
}

/// Nothing of what these have said has come back to them.
pub(crate) async fn nothing_returned(writers: &mut [Client]) -> Result<()> {
    for writer in writers {
        writer.ping().await?;
        let back = writer.drain().into_iter().find(|e| e.attr("type") == Some("error"));
        if let Some(back) = back {
            return Err(format!("given back to {}: {back}", writer.name));
        }
    }
    Ok(())
}

/// Somebody who writes and writes, until it is enough.
pub(crate) struct Writing {
    enough: watch::Sender<bool>,
    task: JoinHandle<Result<u64>>,
}

impl Writing {
    pub(crate) fn start(mut writer: Client, to: String, sender: String, pause: Duration) -> Self {
        let (enough, mut said) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut sent = 0;
            let mut pace = tokio::time::interval(pause);
            while !*said.borrow_and_update() {
                say(&mut writer, &to, &body(&sender, sent)).await?;
                sent += 1;
                pace.tick().await;
            }
            nothing_returned(&mut [writer]).await.map(|()| sent)
        });
        Self { enough, task }
    }

    /// How many it has written.
    pub(crate) async fn enough(mut self) -> Result<u64> {
        self.enough.send_replace(true);
        (&mut self.task).await.map_err(|e| e.to_string())?
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.task.abort();
    }
}
