//! Which node of the region writes its database: the beats, and the taking of the pen when they stop (`homes::scribe` says when). Tells the other
//! nodes of all regions, which send there what is for this region's homes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{Node, World};
use crate::geo::{Peer, frame};
use crate::homes::Pen;
use crate::homes::scribe::{BEAT_MS, Watch, next_term};
use crate::storage::{Scribe, Storage, StorageError};

/// After so many beats the scribe says again that it is one: a link may have been full.
const SAY_AGAIN: u64 = 20;

/// The pen, at the start: ours if nobody has it, or if a former life of this node had.
pub(super) async fn first(
    storage: &dyn Storage,
    me: &str,
    world: &World,
) -> Result<Pen, StorageError> {
    let former = match storage.scribe().await? {
        None => 0,
        Some(Scribe { term, node, .. }) if node.is_empty() || node == me => term,
        Some(Scribe { node, .. }) => {
            tracing::info!(scribe = node, "another node of the region writes its database");
            return Ok(Pen::default());
        }
    };
    let term = next_term(former, world.wall_ms());
    Ok(if storage.take_pen(former, term, me).await? { Pen::held(term) } else { Pen::default() })
}

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    let mut every = tokio::time::interval(Duration::from_millis(BEAT_MS));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    let begun = Instant::now();
    let mut beats: u64 = 0;
    loop {
        tokio::select! {
            biased; // a beat too many, at the stop, harms nobody
            _ = every.tick() => {}
            () = node.stopped() => return,
        }
        if node.homes.term().is_some() {
            if has_company(&node) {
                beat(&node).await;
            }
            beats += 1;
            if beats.is_multiple_of(SAY_AGAIN) {
                node.geo.all_peers().iter().for_each(|peer| tell(&node, peer, true));
            }
            watch = Watch::default();
            continue;
        }
        match node.storage.scribe().await {
            Ok(scribe) => {
                let reached = scribe.as_ref().and_then(|scribe| node.geo.peer_named(&scribe.node));
                let reached = reached.is_some_and(|peer| peer.link.is_up());
                let now = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                if let Some(former) = watch.saw(scribe.as_ref(), reached, now) {
                    take(&node, former).await;
                }
            }
            Err(error) => {
                watch.was_blind();
                tracing::warn!(%error, "cannot see who writes the region's database");
            }
        }
    }
}

/// Whether the region has other nodes.
pub(super) fn has_company(node: &Node) -> bool {
    !node.geo.peers_in(&node.geo.me.region).is_empty()
}

async fn beat(node: &Node) {
    match node.storage.beat().await {
        Ok(()) => {}
        Err(StorageError::Superseded) => node.homes.put_down(),
        Err(error) => tracing::warn!(%error, "the scribe cannot say that it lives"),
    }
}

async fn take(node: &Arc<Node>, former: u64) {
    let me = node.geo.me.to_string();
    let term = next_term(former, node.wall_ms());
    node.homes.pen().asks(term);
    match node.storage.take_pen(former, term, &me).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(%error, "the pen was not taken");
            return;
        }
    }
    // Whatever goes wrong now: the pen is ours until another takes it, and then this ends.
    while let Err(error) = node.homes.take_up(term).await {
        if matches!(error, StorageError::Superseded) {
            return;
        }
        tracing::error!(%error, "has the pen and cannot begin to write");
        tokio::time::sleep(Duration::from_millis(BEAT_MS)).await;
    }
    tracing::info!(term, "writes the region's database from now on");
    for peer in node.geo.all_peers() {
        say(node, &peer);
    }
    for region in node.metadata.state().regions.keys().filter(|name| **name != *node.geo.me.region)
    {
        if node.geo.scribe_of(region).is_some() {
            node.homes.peer_up(region);
        }
    }
}

/// Tells a peer that we are our region's scribe, if we are.
pub fn say(node: &Node, peer: &Peer) {
    tell(node, peer, false);
}

fn tell(node: &Node, peer: &Peer, again: bool) {
    if let Some(term) = node.homes.term() {
        // A full link has no room for it; it is said again.
        node.geo.send(peer.ix, frame::SCRIBE, &[&term.to_le_bytes(), &[u8::from(again)]]);
    }
}

/// A peer says that it is its region's, in a body of [`frame::SCRIBE`].
pub fn heard(node: &Node, peer: &Peer, body: &[u8]) {
    let Some((term, [again])) = body.split_first_chunk() else { return };
    let term = u64::from_le_bytes(*term);
    let is_known = *again == 1 && node.geo.scribe_is(peer, term);
    if is_known || !node.geo.heard_scribe(peer, term) {
        return;
    }
    if peer.id.region == node.geo.me.region {
        if node.homes.term().is_some_and(|ours| ours < term) {
            node.homes.put_down();
        }
        node.homes.follow_scribe(&peer.name);
    } else {
        node.homes.peer_up(&peer.id.region);
        node.homes.scribes_changed();
    }
}

/// After an orderly end nobody has to wait until the beats are missed. The database says whether the pen is ours: it may have been taken in the last
/// moment, before anything was written with it. One of that name in another term is this node's next life.
pub(super) async fn lay_down(node: &Node) {
    if !has_company(node) {
        return;
    }
    let laid_down = async {
        let Some(Scribe { term, node: scribe, .. }) = node.storage.scribe().await? else {
            return Ok(());
        };
        if scribe == node.geo.me.to_string() && term == node.homes.pen().asked() {
            node.storage.take_pen(term, next_term(term, node.wall_ms()), "").await?;
        }
        Ok::<_, StorageError>(())
    };
    if let Err(error) = laid_down.await {
        tracing::warn!(%error, "the pen was not laid down; it will be missed");
    }
}
