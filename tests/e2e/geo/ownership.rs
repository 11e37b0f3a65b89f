//! Whose a full JID is, when two regions have to do with it at the same time: the newer bind's, whatever the lines make of the order.

use super::{Cast, LINES, all_say, expect, heard_in_the_end, heard_so_far, says};
use crate::talk::{enter_all, say};
use pangaea_tests::client::{Client, Result};
use pangaea_tests::ledger::Ledger;
use pangaea_tests::xml::{Element, STREAM};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a word from one region to another takes, where it has to come late.
const LATE: Duration = Duration::from_millis(300);
/// What the platform was started with.
const USUAL: Duration = Duration::from_millis(20);

/// How long everything takes on all lines, both ways.
async fn delay(cast: Cast<'_>, delay: Duration) -> Result<()> {
    let how = json!({"delay_ms": delay.as_millis()});
    for (a, b) in LINES {
        cast.platform.wan(a, b, how.clone()).await?;
        cast.platform.wan(b, a, how.clone()).await?;
    }
    Ok(())
}

/// The same full JID is bound in two regions before either can have heard of the other: one stays, the other is told why it goes. What
/// people everywhere say to it from then on comes to the one and then to the other, in order, none twice.
pub(super) async fn at_once(cast: Cast<'_>) -> Result<()> {
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        delay(cast, LATE).await?;
        let survives = one_survives(cast, [a, b]).await;
        delay(cast, USUAL).await?;
        survives.map_err(|e| format!("regions {a} and {b}: {e}"))?;
    }
    Ok(())
}

async fn one_survives(cast: Cast<'_>, [a, b]: [usize; 2]) -> Result<()> {
    let ends = |e: &Element| e.is("error", STREAM);
    let mut writers = cast.writers(&[0, 1, 2]).await?;
    let mut one = cast.client(3, a, "everywhere")?;
    let mut other = cast.client(3, b, "everywhere")?;
    let (first, second) = tokio::try_join!(bound_at(&mut one), bound_at(&mut other))?;
    let apart = first.max(second) - first.min(second);
    expect(apart < LATE, || format!("the binds were {apart:?} apart, which is not at once"))?;
    all_say(&mut writers, &one.full(), 0..20).await?;
    let (error, mut goes, mut stays) = tokio::select! {
        error = one.wait_for("a stream error", ends) => (error?, one, other),
        error = other.wait_for("a stream error", ends) => (error?, other, one),
    };
    let conflict = error.child("conflict", "urn:ietf:params:xml:ns:xmpp-streams");
    expect(conflict.is_some(), || format!("not a conflict: {error}"))?;
    goes.wait_end().await?;
    all_say(&mut writers, &stays.full(), 20..40).await?;
    let mut heard = Ledger::default();
    enter_all(&mut goes, &mut heard);
    heard_in_the_end(&mut stays, &mut heard, &mut writers, 40).await?;
    stays.ping().await.map_err(|e| format!("nobody survives: {e}"))?;
    stays.disconnect().await
}

async fn bound_at(client: &mut Client) -> Result<Instant> {
    client.connect().await?;
    Ok(Instant::now())
}

/// The word that a session is over comes late, when the full JID has long been bound anew elsewhere: it is about the old session alone.
/// That one was closed by its client, or by the newer bind.
pub(super) async fn late_delete(cast: Cast<'_>) -> Result<()> {
    let regions = &cast.platform.plan.regions;
    let late = json!({"delay_ms": LATE.as_millis()});
    for (old, new, third) in [(0, 1, 2), (1, 2, 0), (2, 0, 1)] {
        for superseded in [false, true] {
            for to in [new, third] {
                cast.platform.wan(&regions[old], &regions[to], late.clone()).await?;
            }
            let survives = survives_delete(cast, [old, new], superseded).await;
            delay(cast, USUAL).await?;
            survives.map_err(|e| format!("from {old} to {new}, superseded: {superseded}: {e}"))?;
        }
    }
    Ok(())
}

async fn survives_delete(cast: Cast<'_>, [old, new]: [usize; 2], superseded: bool) -> Result<()> {
    let mut writers = cast.writers(&[0, 1, 2]).await?;
    let mut before = cast.online(3, old, "reader").await?;
    let mut after = cast.client(3, new, "reader")?;
    if superseded {
        after.connect().await?;
        before.wait_end().await?;
    } else {
        before.disconnect().await?;
        after.connect().await?;
    }
    let mut heard = Ledger::default();
    all_say(&mut writers, &after.full(), 0..20).await?;
    heard_so_far(&mut after, &mut heard, &mut writers, 20).await?;
    // What is said in the old region now comes behind the word that the session is over.
    let names: Vec<String> = writers.iter().map(Client::full).collect();
    for (to, name) in names.iter().enumerate().filter(|(to, _)| *to != old) {
        say(&mut writers[old], name, "it is over").await?;
        writers[to].wait_for("the word", says("it is over")).await?;
    }
    all_say(&mut writers, &after.full(), 20..40).await?;
    heard_in_the_end(&mut after, &mut heard, &mut writers, 40).await?;
    after.disconnect().await
}
