//! From the configuration to a serving node, and back: start, serve, drain. Called by `cli::run`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use config::Config;
use replication::metadata::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::drain::{self};
use super::{Node, Reload, build, heirs, operator::Desk, reload, scribe, wires};
use crate::components;
use crate::features::{archive, last};
use crate::federation;
use crate::geo::tick;
use crate::outbox;
use crate::registry;
use crate::router::perform;
use crate::service;
use crate::session;
use crate::transport::tcp::{self, Gate, GateLimits};

/// How long one attempt to make this node known may take; it is made again until it succeeds.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(5);
/// How long the last writing of the outbox may take.
const OUTBOX_WITHIN: Duration = Duration::from_secs(5);
/// The same of what waits for archives.
const ARCHIVES_WITHIN: Duration = Duration::from_secs(2);
/// How long housekeeping may take to come to the end of what it has begun.
const TASKS_WITHIN: Duration = Duration::from_secs(1);
/// How long homes, links, metadata and storage may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// What an orderly end may take beyond `node.drain_deadline`: the steps that come after it, each in its own time.
pub const END_WITHIN: Duration = OUTBOX_WITHIN
    .saturating_add(ARCHIVES_WITHIN)
    .saturating_add(last::leaving::FLUSH_WITHIN)
    .saturating_add(TASKS_WITHIN)
    .saturating_add(CLOSE_WITHIN);
/// How long it waits for those that can be reached, when others cannot.
const ECHO_WITHIN: Duration = Duration::from_secs(1);
/// How long the streams to other domains have to deliver what they were given; the rest goes another way.
const STREAMS_WITHIN: Duration = Duration::from_secs(5);
/// How often the drain looks whether the last session is gone.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Why a node does not start, or ends. Its text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file of the configuration cannot be used.
    #[error("{what} {file}: {cause}")]
    File {
        /// What it is for.
        what: &'static str,
        /// Which.
        file: String,
        /// Why.
        cause: String,
    },
    /// A port cannot be had.
    #[error("{0}")]
    Listen(#[from] io::Error),
    /// The database cannot be opened.
    #[error("{0}")]
    Storage(#[from] crate::storage::StorageError),
    /// Raft's files cannot be opened.
    #[error("{0}")]
    Metadata(#[from] replication::Error),
    /// A backend of users' passwords, tokens or certificates cannot be used.
    #[error("{0}")]
    Auth(String),
    /// The streams to other domains cannot be made.
    #[error("other domains: {0}")]
    Streams(#[from] federation::streams::StreamsError),
    /// The links cannot be made.
    #[error("links: {0}")]
    Links(String),
}

/// Runs a node until `stop` is true, taking its configuration again as `reload` says, then drains it: no new connections, every session closed with `system-shutdown`, and what
/// they had not taken routed on; within `node.drain_deadline`.
///
/// # Errors
/// [`RunError`]; the node did not start.
pub async fn run(
    config: Config,
    reload: Reload,
    mut stop: watch::Receiver<bool>,
) -> Result<(), RunError> {
    // Ports first: what cannot be had is said before anything is touched.
    let mut c2s = Vec::new();
    for (addresses, direct) in [(&config.c2s.listen, false), (&config.c2s.listen_tls, true)] {
        for address in addresses {
            c2s.push((tcp::listen(*address)?, direct));
        }
    }
    let mut s2s = Vec::new();
    for (addresses, is_tls) in [(&config.s2s.listen, false), (&config.s2s.listen_tls, true)] {
        for address in addresses {
            s2s.push((tcp::listen(*address)?, is_tls));
        }
    }
    let mut components = Vec::new();
    for address in &config.components.listen {
        components.push(tcp::listen(*address)?);
    }
    let http = crate::http::bind(&config.http.listen).await?;

    let node = Box::pin(build::build(config)).await?;
    tracing::info!(node = %node.geo.me, incarnation = node.incarnation, "starting");
    // The ways of clients, which close first; and what goes on as long as there is a session, and may be dropped wherever it is.
    let (mut doors, mut beside) = (JoinSet::new(), JoinSet::new());
    let gate = Gate::new(GateLimits {
        pre_auth_per_address_max: u32::try_from(node.config.limits.unauthenticated_per_address_max)
            .unwrap_or(u32::MAX),
        ..GateLimits::default()
    });
    for (listener, direct) in c2s {
        let (node, gate) = (node.clone(), gate.clone());
        doors.spawn(async move {
            tcp::accept_loop(listener, gate, |accepted| {
                if !node.metrics.may_connect(node.config.limits.connections_max) {
                    return; // Dropped, and thereby closed.
                }
                tokio::spawn(session::serve(node.clone(), accepted, direct));
            })
            .await;
        });
    }
    for listener in components {
        let (node, gate) = (node.clone(), gate.clone());
        doors.spawn(async move {
            tcp::accept_loop(listener, gate, |accepted| {
                tokio::spawn(components::serve(node.clone(), accepted));
            })
            .await;
        });
    }
    federation::streams::start(&node)?;
    for (listener, is_tls) in s2s {
        beside.spawn(federation::streams::listen(node.clone(), listener, is_tls));
    }
    beside.spawn(federation::streams::agree_on_secret(node.clone()));
    beside.spawn(federation::streams::follow_nodes(node.clone()));
    service::begin(&node)?;
    let desk = Arc::new(Desk::new(node.clone()));
    let router = crate::http::router(desk, node.metrics.clone(), &node.config.admin.accounts);
    let router = router.merge(crate::features::invitations::page::router(&node));
    let router = service::with_paths(&node, router);
    let (http_stop, http_stopped) = watch::channel(false);
    let connections_max = node.config.limits.http_connections_max;
    let http = tokio::spawn(crate::http::serve(http, router, connections_max, http_stopped));
    let mut tasks = JoinSet::new();
    housekeeping(&node, &mut tasks);
    beside.spawn(reload::follow(node.clone(), reload));
    // Not one of the tasks: it goes on through the drain, and ends by itself when the node has stopped.
    let registry = tokio::spawn(registry::run(node.clone()));

    // An error means that nobody can ever say stop; then only a signal ends the process.
    let _ = stop.wait_for(|stop| *stop).await;
    tracing::info!("stopping");
    doors.shutdown().await;
    drain(&node, tasks).await;
    // The streams of other servers have ended, and the links: whoever still comes is refused.
    beside.shutdown().await;
    node.running.shutdown().await;
    let _ = registry.await;
    http_stop.send_replace(true);
    let _ = http.await;
    tracing::info!("stopped");
    Ok(())
}

/// What runs beside the listeners, until the node stops: the tick, the follower of metadata, the outbox, and making this life of the node known.
pub fn housekeeping(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    tasks.spawn(left_at_once(node.clone(), tick::run(node.clone())));
    tasks.spawn(wires::follow_metadata(node.clone()));
    tasks.spawn(left_at_once(node.clone(), announce(node.clone())));
    tasks.spawn(outbox::run(node.clone()));
    tasks.spawn(left_at_once(node.clone(), heirs::run(node.clone())));
    tasks.spawn(scribe::run(node.clone()));
    tasks.spawn(left_at_once(node.clone(), outbox::recover(node.clone())));
    tasks.spawn(left_at_once(node.clone(), outbox::inherit::run(node.clone())));
}

/// What may be left wherever it is when the node stops, and may be in the middle of a long wait then.
async fn left_at_once(node: Arc<Node>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased; // a step too many, at the stop, harms nobody
        () = work => {}
        () = node.stopped() => {}
    }
}

/// Makes this life of the node known to metadata: its address, certificate and incarnation.
async fn announce(node: Arc<Node>) {
    let name = node.geo.me.to_string();
    let command = Command::NodeUp { name, record: node.record() };
    let mut version = node.metadata.watch();
    let _ = version.wait_for(|version| *version > 0).await;
    while let Err(error) = node.metadata.propose(command.clone(), ANNOUNCE_WITHIN).await {
        tracing::debug!(%error, "not announced yet");
        if node.stop.get() {
            return;
        }
    }
}

/// The orderly end, when no client comes any more: sessions, which move to other nodes of the region if there are any; then what they left behind,
/// then the links, within `node.drain_deadline`; then the last writings, and the rest, within [`END_WITHIN`]. `tasks` is the housekeeping: as
/// long as there are sessions they need it, and so do the other nodes, for this one may be the scribe.
pub async fn drain(node: &Arc<Node>, mut tasks: JoinSet<()>) {
    let whole = node.config.node.drain_deadline;
    let deadline = Instant::now() + whole;
    drain::begin_to_refuse(node);
    // What cannot leave has a third of the time to end here.
    let leave_by = Instant::now() + whole * 2 / 3;
    match node.directory.sessions_here() {
        0 => {}
        _ if drain::has_heirs(node) => drain::finish(node, leave_by).await,
        _ => drain::send_away(node, leave_by).await,
    }
    let mut seats = Vec::new();
    node.directory.for_each(|row| seats.extend(row.here().cloned()));
    for seat in &seats {
        perform::close(seat, drain::elsewhere(node));
    }
    drop(seats);
    // First the sessions, then what they left behind finds its place, then the other nodes have it.
    let settled = || {
        node.directory.sessions_here() == 0 && node.directory.parked().0 == 0 && node.filing() == 0
    };
    while !settled() && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    federation::stop(node, deadline.min(Instant::now() + STREAMS_WITHIN)).await;
    // Others ask whether anything comes back of what they sent here: when this is echoed they have asked.
    let mark = node.geo.mark();
    node.geo.send_due_probes();
    let all_up = node.geo.all_peers().iter().all(|peer| peer.link.is_up());
    let patience = if all_up { deadline } else { deadline.min(Instant::now() + ECHO_WITHIN) };
    while !node.geo.closed(&mark) && Instant::now() < patience {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    for peer in node.geo.all_peers().iter().filter(|peer| peer.link.is_up()) {
        if timeout_at(deadline, peer.link.drained()).await.is_err() {
            tracing::warn!(peer = %peer.name, "stopping with frames it has not acknowledged");
        }
    }
    if !settled() {
        let (parked, bytes) = node.directory.parked();
        tracing::warn!(parked, bytes, filing = node.filing(), "the drain's deadline has passed");
    }
    // What has not found its place is routed on by this node's next life.
    if !outbox::flush(node, Instant::now() + OUTBOX_WITHIN).await {
        tracing::error!(
            "the outbox could not be written: what its senders were not told of is lost"
        );
    }
    if timeout(ARCHIVES_WITHIN, archive::queue::flush(node)).await.is_err() {
        tracing::error!("what waits for archives could not be written down in time");
    }
    last::leaving::flush(node).await;
    node.stop();
    // A scribe that was just taking the pen has it now, or not, and lays it down below.
    let ended = async { while tasks.join_next().await.is_some() {} };
    if timeout(TASKS_WITHIN, ended).await.is_err() {
        tasks.shutdown().await;
    }
    if timeout(CLOSE_WITHIN, close(node)).await.is_err() {
        tracing::warn!("not everything was closed in time");
    }
}

/// Nothing comes to it any more: what other nodes wait for first.
async fn close(node: &Node) {
    node.metadata.resign().await;
    node.metadata.shutdown().await;
    if let Some(links) = node.geo.links() {
        links.shutdown().await;
    }
    node.homes.shutdown().await;
    scribe::lay_down(node).await;
    node.storage.close().await;
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use s2s::link::{Dialer, Io, PeerId, Road};

    use super::*;
    use crate::app::start_links;
    use crate::homes::scribe::{BEAT_MS, STUCK_AFTER_MS};
    use crate::testing::{House, peers};

    /// The other node of the region cannot be reached.
    struct NoRoad;

    impl Dialer for NoRoad {
        fn connect(&self, _: &PeerId) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
            Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
        }
    }

    #[tokio::test]
    async fn a_scribe_that_stops_beats_until_it_lays_down_the_pen() {
        let house = House::with_node("drain_deadline = '15s'", &peers(&[("eu", 1)])).await;
        let node = house.node.clone();
        start_links(&node, Road::Bare(Arc::new(NoRoad))).expect("a bare road needs nothing");
        tokio::time::pause();
        let mut tasks = JoinSet::new();
        housekeeping(&node, &mut tasks);
        // Nobody reads its mailbox: it does not end.
        let _stays = house.bound("juliet/balcony");
        let scribe = async || {
            let scribe = node.storage.scribe().await.expect("memory");
            scribe.expect("somebody writes")
        };
        let before = scribe().await;
        let since = Instant::now();
        let stopping = tokio::spawn({
            let node = node.clone();
            async move { drain(&node, tasks).await }
        });
        tokio::time::sleep(Duration::from_millis(STUCK_AFTER_MS + 1_000)).await;
        let later = scribe().await;
        assert_eq!((later.term, later.node.as_str()), (before.term, "eu-0"));
        assert!(
            later.beat >= before.beat + STUCK_AFTER_MS / BEAT_MS,
            "{} {}",
            before.beat,
            later.beat
        );
        stopping.await.expect("no panic");
        assert_eq!(scribe().await.node, "");
        assert!(since.elapsed() <= node.config.node.drain_deadline + END_WITHIN);
    }

    #[tokio::test]
    async fn the_pen_of_this_nodes_next_life_is_not_laid_down() {
        let house = House::with(&peers(&[("eu", 1)])).await;
        let node = &house.node;
        start_links(node, Road::Bare(Arc::new(NoRoad))).expect("a bare road needs nothing");
        let scribe = async || node.storage.scribe().await.expect("memory").expect("somebody");
        let before = scribe().await;
        let next = before.term + 1;
        assert!(node.storage.take_pen(before.term, next, &before.node).await.expect("memory"));
        scribe::lay_down(node).await;
        assert_eq!((scribe().await.term, scribe().await.node), (next, before.node));
    }
}
