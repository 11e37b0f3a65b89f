//! Numbers for `/metrics` that others keep: read once a second by `tick`. What counts all rows is read more seldom.

use std::collections::BTreeMap;
use std::sync::Arc;

use s2s::link::LinkStats;

use crate::app::Node;
use crate::homes::{PeerStatus, RequestCounts};
use crate::metrics::{LinkMetrics, Metrics};

/// The rows are counted every so many seconds: it looks at each of them.
const ROWS_EVERY_MS: u64 = 5_000;

/// What was shown last.
#[derive(Default)]
pub(super) struct Numbers {
    links: BTreeMap<Arc<str>, Shown>,
    requests: RequestCounts,
    rows_at: Option<u64>,
}

struct Shown {
    metrics: LinkMetrics,
    last: LinkStats,
}

impl Shown {
    fn new(metrics: &Metrics, peer: &str) -> Self {
        Self { metrics: metrics.link(peer), last: LinkStats::default() }
    }

    fn show(&mut self, up: bool, now: LinkStats) {
        let (to, last) = (&self.metrics, std::mem::replace(&mut self.last, now));
        to.up.set(i64::from(up));
        to.queued_bytes.set(gauge(now.unacked_bytes));
        to.connects.inc_by(grown(last.connections, now.connections));
        to.frames_out.inc_by(grown(last.frames_out, now.frames_out));
        to.frames_in.inc_by(grown(last.frames_in, now.frames_in));
        to.bytes_out.inc_by(grown(last.bytes_out, now.bytes_out));
        to.bytes_in.inc_by(grown(last.bytes_in, now.bytes_in));
    }
}

/// By how much a number grew that begins anew with a link that was forgotten and made again.
fn grown(last: u64, now: u64) -> u64 {
    now.checked_sub(last).unwrap_or(now)
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Numbers {
    /// Shows how things are now.
    pub(super) fn show(&mut self, node: &Node, now_ms: u64) {
        for shown in self.links.values() {
            shown.metrics.up.set(0); // One that is not known any more is not up either.
        }
        for peer in node.geo.all_peers() {
            let shown = self.links.entry(peer.name.clone());
            let shown = shown.or_insert_with(|| Shown::new(&node.metrics, &peer.name));
            shown.show(peer.link.is_up(), peer.link.stats());
        }
        let metrics = &node.metrics;
        let leads = node.metadata.leader().as_deref() == Some(node.geo.me.to_string().as_str());
        metrics.metadata_leader.set(i64::from(leads));
        metrics.scribe.set(i64::from(node.homes.term().is_some()));
        metrics.durable_log_head.set(gauge(node.homes.log_head()));
        let copies = node.homes.term().map(|_| node.homes.status()).unwrap_or_default();
        let behind = |copy: PeerStatus| Some((copy.region.clone(), gauge(copy.behind()?)));
        metrics.behind(copies.into_iter().filter_map(behind));
        metrics.unsettled.set(gauge(node.ledger.depth().0 as u64));
        metrics.parked_bytes.set(gauge(node.directory.parked().1 as u64));
        let now = node.homes.requests();
        let last = std::mem::replace(&mut self.requests, now);
        metrics.home_local.inc_by(grown(last.local, now.local));
        metrics.home_remote.inc_by(grown(last.remote, now.remote));
        metrics.home_failed.inc_by(grown(last.failed, now.failed));
        let here = node.directory.sessions_here();
        metrics.rows_here.set(gauge(here as u64));
        if self.rows_at.is_none_or(|at| now_ms.saturating_sub(at) >= ROWS_EVERY_MS) {
            self.rows_at = Some(now_ms);
            let mut elsewhere = 0;
            node.directory.for_each(|row| elsewhere += i64::from(row.here().is_none()));
            metrics.rows_elsewhere.set(elsewhere);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_shown_as_it_grows_and_when_it_is_made_anew() {
        let metrics = Metrics::new("eu", "eu-0");
        let mut shown = Shown::new(&metrics, "us-0");
        let stats = |connections, frames_out, unacked_bytes| LinkStats {
            connections,
            frames_out,
            unacked_bytes,
            bytes_in: frames_out * 10,
            ..LinkStats::default()
        };
        shown.show(true, stats(1, 5, 100));
        shown.show(true, stats(1, 7, 50));
        shown.show(false, stats(1, 3, 0)); // Another link to the same peer.
        let text = metrics.text();
        for (name, value) in [
            ("link_up", 0),
            ("link_queued_bytes", 0),
            ("link_connects_total", 1),
            ("link_frames_sent_total", 10),
            ("link_received_bytes_total", 100),
        ] {
            let line =
                format!("pangaea_{name}{{region=\"eu\",node=\"eu-0\",peer=\"us-0\"}} {value}\n");
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
    }
}
