//! The numbers of one node, for Prometheus: every handle is registered once, at start, and then only incremented.
//!
//! Made by `app`, held by sessions, router, links and auth as `Arc<Metrics>` or as a clone of one handle (an atomic
//! behind an `Arc`); shown by `http` at `/metrics`. On the way of a stanza nothing is looked up by label.
//!
//! Deliberately absent: histograms of the stanza path (they come with tracing), anything per user or per domain.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

type Labels<const N: usize> = [(&'static str, String); N];

/// Counters of the three kinds of stanza.
#[derive(Clone, Debug)]
pub struct ByKind {
    /// `<message/>`
    pub message: Counter,
    /// `<presence/>`
    pub presence: Counter,
    /// `<iq/>`
    pub iq: Counter,
}

/// What became of a stanza that went through the router.
#[derive(Clone, Debug)]
pub struct Routed {
    /// Handed to a session of this node, or answered by it.
    pub local: Counter,
    /// Handed to a link.
    pub remote: Counter,
    /// Parked until it is known where it belongs.
    pub parked: Counter,
    /// Filed for an account that is offline.
    pub offline: Counter,
    /// Turned round with an error.
    pub bounced: Counter,
    /// Not wanted by the rules of its kind, as presence for nobody: RFC 6121 §8.
    pub ignored: Counter,
}

/// The numbers of one link.
#[derive(Clone, Debug)]
pub struct LinkMetrics {
    /// 1 while the link carries frames.
    pub up: Gauge,
    /// Times it came up.
    pub connects: Counter,
    /// Frames given to it.
    pub frames_out: Counter,
    /// Frames it brought.
    pub frames_in: Counter,
    /// Bytes written.
    pub bytes_out: Counter,
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes queued and unacknowledged.
    pub queued_bytes: Gauge,
}

/// A client connection, as long as it lives.
#[derive(Debug)]
pub struct Connected(Arc<Metrics>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.dec();
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}

/// Every number of this node.
#[derive(Debug)]
pub struct Metrics {
    /// Client connections, logged in or not.
    pub connections: Gauge,
    /// Connections ever accepted.
    pub accepted: Counter,
    /// Connections refused because a limit was reached.
    pub refused: Counter,
    /// Bound sessions, resumable ones included.
    pub sessions: Gauge,
    /// Sessions whose connection is lost and that wait to be resumed.
    pub hibernating: Gauge,
    /// Sessions resumed (XEP-0198).
    pub resumed: Counter,
    /// Clients that are signed in and wait for their session to begin.
    pub sign_ins_waiting: Gauge,
    /// Those turned away because too many waited.
    pub sign_ins_refused: Counter,
    /// Sessions that have come from another node.
    pub moved_here: Counter,
    /// Sessions that have gone to another node.
    pub moved_away: Counter,
    /// Successful logins.
    pub auth_ok: Counter,
    /// Refused logins.
    pub auth_failed: Counter,
    /// Accounts made by registration.
    pub registered: Counter,
    /// Stanzas that clients of this node sent.
    pub received: ByKind,
    /// Stanzas written to clients of this node.
    pub sent: ByKind,
    /// What the router decided.
    pub routed: Routed,
    /// Bytes of stanzas parked now.
    pub parked_bytes: Gauge,
    /// Messages accepted from clients and kept by nobody yet.
    pub unsettled: Gauge,
    /// Messages written to the outbox.
    pub outbox_written: Counter,
    /// Messages that an archive has taken.
    pub archived: Counter,
    /// Session rows of this region in the table.
    pub rows_here: Gauge,
    /// Session rows of other regions in the table.
    pub rows_elsewhere: Gauge,
    /// Requests to a home in this region.
    pub home_local: Counter,
    /// Requests to a home elsewhere.
    pub home_remote: Counter,
    /// Requests to a home that failed.
    pub home_failed: Counter,
    /// Entries of this region's durable log.
    pub durable_log_head: Gauge,
    /// Entries of it that other regions have not said to have, by region.
    behind: Family<Labels<1>, Gauge>,
    /// 1 while this node leads the metadata group.
    pub metadata_leader: Gauge,
    /// Whether this node is the one of its region that writes the database.
    pub scribe: Gauge,
    /// Pushes published.
    pub pushed: Counter,
    /// Stanzas a full mailbox refused: the client reads too slowly.
    pub mailbox_full: Counter,
    /// Reads that brought more than a session may send.
    pub too_fast: Counter,
    /// Frames of presence that a link did not take: its bound is reached.
    pub presence_dropped: Counter,
    /// Sessions that lost their full JID to a newer bind.
    pub conflicts: Counter,
    /// Stanzas that were routed anew too often and bounced.
    pub hops_exhausted: Counter,
    /// Panics that ended a session: each is a bug.
    pub panics: Counter,
    /// Connections of components (XEP-0114), before their handshake too.
    pub components: Gauge,
    /// Components that were refused.
    pub components_refused: Counter,
    /// Stanzas written to components.
    pub to_components: Counter,
    /// Stanzas that components sent.
    pub from_components: Counter,
    links: LinkFamilies,
    registry: Mutex<Registry>,
}

#[derive(Debug)]
struct LinkFamilies {
    up: Family<Labels<1>, Gauge>,
    connects: Family<Labels<1>, Counter>,
    frames_out: Family<Labels<1>, Counter>,
    frames_in: Family<Labels<1>, Counter>,
    bytes_out: Family<Labels<1>, Counter>,
    bytes_in: Family<Labels<1>, Counter>,
    queued_bytes: Family<Labels<1>, Gauge>,
}

impl Metrics {
    /// Registers everything, all zero. `node` and `region` label every number.
    #[must_use]
    pub fn new(region: &str, node: &str) -> Arc<Metrics> {
        let labels = [("region", region), ("node", node)]
            .map(|(key, value)| (key.into(), value.to_owned().into()));
        let mut registry = Registry::with_prefix_and_labels("pangaea", labels.into_iter());
        let r = &mut registry;
        r.register(
            "build",
            "The version that runs here",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let stanzas = family(r, "stanzas", "Stanzas between this node and its clients");
        let routed = family(r, "routed", "What the router decided");
        let auth = family(r, "logins", "Logins by result");
        let rows = gauges(r, "session_rows", "Session rows in the table, by whose they are");
        let homes = family(r, "home_requests", "Requests to the homes of accounts, by where");
        let with_components =
            family(r, "component_stanzas", "Stanzas between this node and its components");
        let links = LinkFamilies {
            up: gauges(r, "link_up", "1 while the link to this peer carries frames"),
            connects: family(r, "link_connects", "Times the link came up"),
            frames_out: family(r, "link_frames_sent", "Frames given to the link"),
            frames_in: family(r, "link_frames_received", "Frames the link brought"),
            bytes_out: family(r, "link_sent_bytes", "Bytes written to the link"),
            bytes_in: family(r, "link_received_bytes", "Bytes read from the link"),
            queued_bytes: gauges(r, "link_queued_bytes", "Bytes queued and unacknowledged"),
        };
        let kinds = |direction: &str| {
            let one = |kind: &str| {
                stanzas.get_or_create_owned(&[
                    ("direction", direction.to_owned()),
                    ("kind", kind.to_owned()),
                ])
            };
            ByKind { message: one("message"), presence: one("presence"), iq: one("iq") }
        };
        let component = |direction: &str| {
            with_components.get_or_create_owned(&[("direction", direction.to_owned())])
        };
        let way = |name: &str| routed.get_or_create_owned(&[("way", name.to_owned())]);
        let result = |name: &str| auth.get_or_create_owned(&[("result", name.to_owned())]);
        let whose = |name: &str| rows.get_or_create_owned(&[("whose", name.to_owned())]);
        let home = |name: &str| homes.get_or_create_owned(&[("where", name.to_owned())]);
        let metrics = Metrics {
            connections: gauge(r, "connections", "Client connections, logged in or not"),
            accepted: counter(r, "connections_accepted", "Client connections ever accepted"),
            refused: counter(r, "connections_refused", "Client connections refused by a limit"),
            sessions: gauge(r, "sessions", "Bound sessions, resumable ones included"),
            hibernating: gauge(r, "sessions_hibernating", "Sessions that wait to be resumed"),
            resumed: counter(r, "sessions_resumed", "Sessions resumed"),
            sign_ins_waiting: gauge(
                r,
                "sign_ins_waiting",
                "Clients that wait for their session to begin",
            ),
            sign_ins_refused: counter(
                r,
                "sign_ins_refused",
                "Clients turned away because too many waited",
            ),
            moved_here: counter(r, "sessions_moved_here", "Sessions that came from another node"),
            moved_away: counter(r, "sessions_moved_away", "Sessions that went to another node"),
            auth_ok: result("ok"),
            auth_failed: result("failed"),
            registered: counter(r, "accounts_registered", "Accounts made by registration"),
            received: kinds("received"),
            sent: kinds("sent"),
            routed: Routed {
                local: way("local"),
                remote: way("remote"),
                parked: way("parked"),
                offline: way("offline"),
                bounced: way("bounced"),
                ignored: way("ignored"),
            },
            parked_bytes: gauge(r, "parked_bytes", "Bytes of stanzas parked now"),
            unsettled: gauge(r, "unsettled", "Messages accepted and kept by nobody yet"),
            archived: counter(r, "archived", "Messages that an archive has taken"),
            outbox_written: counter(r, "outbox_written", "Messages written to the outbox"),
            rows_here: whose("here"),
            rows_elsewhere: whose("elsewhere"),
            home_local: home("local"),
            home_remote: home("remote"),
            home_failed: home("failed"),
            behind: gauges(
                r,
                "durable_log_behind",
                "Entries of this region's log that another one has not said to have",
            ),
            durable_log_head: gauge(r, "durable_log_head", "Last entry of this region's log"),
            metadata_leader: gauge(r, "metadata_leader", "1 while this node leads the metadata"),
            scribe: gauge(r, "scribe", "Whether this node writes its region's database"),
            pushed: counter(r, "pushed", "Notifications published at app servers (XEP-0357)"),
            too_fast: counter(
                r,
                "reads_too_fast",
                "Reads that brought more than a session may send",
            ),
            mailbox_full: counter(r, "mailbox_full", "Stanzas refused by a full mailbox"),
            presence_dropped: counter(
                r,
                "presence_dropped",
                "Frames of presence for another node that its link did not take",
            ),
            conflicts: counter(r, "session_conflicts", "Sessions that lost to a newer bind"),
            hops_exhausted: counter(r, "hops_exhausted", "Stanzas routed anew too often"),
            panics: counter(r, "panics", "Panics that ended a session: each is a bug"),
            components: gauge(r, "components", "Connections of components (XEP-0114)"),
            components_refused: counter(r, "components_refused", "Components that were refused"),
            to_components: component("sent"),
            from_components: component("received"),
            links,
            registry: Mutex::new(Registry::default()),
        };
        r.register_with_unit(
            "start_time",
            "When this process started, since the epoch",
            Unit::Seconds,
            start_time(),
        );
        r.register_collector(Box::new(Process));
        *metrics.registry.lock() = registry;
        Arc::new(metrics)
    }

    /// One more client connection; it counts until what this gives is dropped, by a panic too.
    #[must_use]
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.accepted.inc();
        self.connections.inc();
        Connected(self.clone())
    }

    /// Whether one more client connection may be; counted if not.
    #[must_use]
    pub fn may_connect(&self, connections_max: usize) -> bool {
        let room = i64::try_from(connections_max).is_ok_and(|max| self.connections.get() < max);
        if !room {
            self.refused.inc();
        }
        room
    }

    /// The numbers of the link to `peer` (`us-0`). Called when the link is made; keep what it gives.
    #[must_use]
    pub fn link(&self, peer: &str) -> LinkMetrics {
        let labels = [("peer", peer.to_owned())];
        LinkMetrics {
            up: self.links.up.get_or_create_owned(&labels),
            connects: self.links.connects.get_or_create_owned(&labels),
            frames_out: self.links.frames_out.get_or_create_owned(&labels),
            frames_in: self.links.frames_in.get_or_create_owned(&labels),
            bytes_out: self.links.bytes_out.get_or_create_owned(&labels),
            bytes_in: self.links.bytes_in.get_or_create_owned(&labels),
            queued_bytes: self.links.queued_bytes.get_or_create_owned(&labels),
        }
    }

    /// How far each of those regions is behind our log. What was said of others before is not said any more.
    pub fn behind(&self, regions: impl Iterator<Item = (String, i64)>) {
        self.behind.clear();
        for (region, entries) in regions {
            self.behind.get_or_create_owned(&[("of", region)]).set(entries);
        }
    }

    /// For a number that a module keeps itself; the closure gets the registry once.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// Everything in the text format of OpenMetrics.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).expect("a String takes any text");
        text
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let metric: Counter = Counter::default();
    registry.register(name, help, metric.clone());
    metric
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let metric: Gauge = Gauge::default();
    registry.register(name, help, metric.clone());
    metric
}

fn family<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> Family<Labels<N>, Counter> {
    let metric = Family::<Labels<N>, Counter>::default();
    registry.register(name, help, metric.clone());
    metric
}

fn gauges<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> Family<Labels<N>, Gauge> {
    let metric = Family::<Labels<N>, Gauge>::default();
    registry.register(name, help, metric.clone());
    metric
}

/// What the kernel says of this process, read when somebody asks. Nothing where there is no `/proc`.
#[derive(Debug)]
struct Process;

/// Bytes of a page on the machines that this runs on.
const PAGE_BYTES: i64 = 4096;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let resident = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<i64>().ok());
        let files =
            std::fs::read_dir("/proc/self/fd").ok().and_then(|dir| dir.count().try_into().ok());
        let shown = [
            (
                "resident_memory_bytes",
                "Memory that this process holds",
                resident.map(|n| n * PAGE_BYTES),
            ),
            ("open_files", "Files and sockets that this process has open", files),
        ];
        for (name, help, value) in shown {
            if let Some(value) = value {
                let gauge = ConstGauge::<i64>::new(value);
                gauge.encode(encoder.encode_descriptor(
                    name,
                    help,
                    None,
                    gauge.metric_type(),
                )?)?;
            }
        }
        Ok(())
    }
}

fn start_time() -> Gauge<f64, AtomicU64> {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(since);
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_connections_may_be_and_each_counts_until_it_ends_however_it_ends() {
        let metrics = Metrics::new("eu", "eu-0");
        let [first, second] = [metrics.connected(), metrics.connected()];
        assert!(metrics.may_connect(3) && !metrics.may_connect(2));
        drop(first);
        assert!(metrics.may_connect(2));
        let panicked = std::thread::spawn(move || {
            let _second = second;
            panic!("a bug in a session");
        });
        assert!(panicked.join().is_err());
        assert_eq!((metrics.connections.get(), metrics.accepted.get()), (0, 2));
        assert_eq!((metrics.panics.get(), metrics.refused.get()), (1, 1));
    }

    #[test]
    fn every_number_is_there_from_the_start_and_counts() {
        let metrics = Metrics::new("eu", "eu-0");
        metrics.received.message.inc();
        metrics.routed.remote.inc_by(2);
        metrics.link("us-0").frames_out.inc();
        let text = metrics.text();
        for line in [
            r#"pangaea_stanzas_total{region="eu",node="eu-0",direction="received",kind="message"} 1"#,
            r#"pangaea_stanzas_total{region="eu",node="eu-0",direction="sent",kind="iq"} 0"#,
            r#"pangaea_routed_total{region="eu",node="eu-0",way="remote"} 2"#,
            r#"pangaea_link_frames_sent_total{region="eu",node="eu-0",peer="us-0"} 1"#,
            r#"pangaea_sessions{region="eu",node="eu-0"} 0"#,
            r#"pangaea_resident_memory_bytes{region="eu",node="eu-0"} "#,
            r#"pangaea_open_files{region="eu",node="eu-0"} "#,
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
