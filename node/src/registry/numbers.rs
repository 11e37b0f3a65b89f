//! Room: what is shown of the registry: numbers for `/metrics`, alarms for `/ready`, the state for `pangaea ctl registry`. Written by the driver.

use std::collections::VecDeque;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Registry;
use crate::admin::{RegisteredNode, RegistryInfo};
use crate::metrics::Metrics;

/// Seconds that the commands per second are counted over.
const RATE_MS: u64 = 10_000;

/// Handles, registered once.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) up: Gauge,
    pub(super) commands: Counter,
    pub(super) failures: Counter,
    pub(super) written: Counter,
    pub(super) removed: Counter,
    pub(super) queued: Gauge,
    pub(super) left: Gauge,
    pub(super) nodes: Gauge,
}

impl Numbers {
    pub(super) fn new(metrics: &Metrics) -> Numbers {
        let numbers = Numbers::default();
        metrics.register(|all| {
            let gauges = [
                ("redis_up", "1 while the region's Redis answers", &numbers.up),
                ("redis_rows_queued", "Changed rows that wait for Redis", &numbers.queued),
                ("redis_rows_left", "Rows still to be written anew", &numbers.left),
                ("redis_nodes", "Nodes of this region whose lease is there", &numbers.nodes),
            ];
            for (name, help, gauge) in gauges {
                all.register(name, help, gauge.clone());
            }
            let counters = [
                ("redis_commands", "Commands sent to Redis", &numbers.commands),
                ("redis_failures", "Commands and connections that failed", &numbers.failures),
                ("redis_rows_written", "Changes of rows written to Redis", &numbers.written),
                ("redis_rows_removed", "Rows of dead nodes removed", &numbers.removed),
            ];
            for (name, help, counter) in counters {
                all.register(name, help, counter.clone());
            }
        });
        numbers
    }
}

/// What happened lately.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) address: Option<String>,
    pub(super) prefix: String,
    pub(super) connected: bool,
    pub(super) superseded: bool,
    pub(super) log_life: String,
    pub(super) left: Option<usize>,
    /// Since when it does not answer.
    pub(super) away_since: Option<u64>,
    pub(super) last_error: Option<(u64, String)>,
    pub(super) samples: VecDeque<(u64, u64)>,
}

impl Shown {
    /// It does not answer. True: that is news.
    pub(super) fn failed(&mut self, now: u64, why: String) -> bool {
        self.connected = false;
        self.last_error = Some((now, why));
        let news = self.away_since.is_none();
        self.away_since.get_or_insert(now);
        news
    }

    /// It answers; for how long it did not, if that is news.
    pub(super) fn answered(&mut self, now: u64) -> Option<u64> {
        self.connected = true;
        self.away_since.take().map(|since| now.saturating_sub(since))
    }

    /// So many commands were sent in all.
    pub(super) fn sample(&mut self, now: u64, commands: u64) {
        self.samples.push_back((now, commands));
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= RATE_MS)
        {
            self.samples.pop_front();
        }
    }

    fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, before)), Some((to, now))) if to > from => {
                (now - before) as f64 * 1_000.0 / (to - from) as f64
            }
            _ => 0.0,
        }
    }

    /// Why there is no connection.
    pub(super) fn trouble(&self) -> Option<String> {
        self.last_error.as_ref().map(|(_, why)| why.clone())
    }

    pub(super) fn alarms(&self, now: u64) -> Vec<String> {
        let mut alarms = Vec::new();
        if let Some(since) = self.away_since {
            let address = self.address.as_deref().unwrap_or("redis");
            let why = self.trouble().unwrap_or_default();
            let seconds = now.saturating_sub(since) / 1_000;
            alarms.push(format!("{address} does not answer for {seconds} s: {why}"));
        }
        if self.superseded {
            alarms.push("a newer life of this node has registered".to_owned());
        }
        alarms
    }
}

impl Registry {
    /// For an operator.
    pub fn info(&self, now_ms: u64) -> RegistryInfo {
        let queued = self.queue.lock().len() as u64;
        let found = self.found.lock();
        let shown = self.shown.lock();
        RegistryInfo {
            address: shown.address.clone(),
            prefix: shown.prefix.clone(),
            connected: shown.connected,
            alarms: shown.alarms(now_ms),
            log: shown.log_life.clone(),
            nodes: found
                .nodes
                .iter()
                .map(|(name, known)| RegisteredNode {
                    name: name.clone(),
                    address: known.record.node.address.clone(),
                    incarnation: known.record.node.incarnation,
                    version: known.record.version.clone(),
                    lives: known.lives,
                    seen_ms_ago: now_ms.saturating_sub(known.seen_ms),
                })
                .collect(),
            rows_queued: queued,
            rows_left: shown.left.map(|left| left as u64),
            rows_written: self.numbers.written.get(),
            rows_removed: self.numbers.removed.get(),
            commands: self.numbers.commands.get(),
            commands_per_second: (shown.per_second() * 100.0).round() / 100.0,
            last_error: shown
                .last_error
                .as_ref()
                .map(|(at, why)| format!("{} s ago: {why}", now_ms.saturating_sub(*at) / 1_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_lasts_from_the_first_failure_to_the_first_answer() {
        let mut shown = Shown { address: Some("redis://h".into()), ..Shown::default() };
        assert!(shown.alarms(0).is_empty());
        assert!(shown.failed(1_000, "refused".into()) && !shown.failed(2_000, "silent".into()));
        assert_eq!(shown.alarms(4_500), ["redis://h does not answer for 3 s: silent"]);
        assert_eq!((shown.answered(5_000), shown.answered(6_000)), (Some(4_000), None));
        assert!(shown.alarms(7_000).is_empty());
    }

    #[test]
    fn commands_are_counted_over_the_last_ten_seconds() {
        let mut shown = Shown::default();
        for second in 0..=20 {
            let commands = if second < 10 { second * 50 } else { 500 + (second - 10) * 2 };
            shown.sample(second * 1_000, commands);
        }
        assert!((shown.per_second() - 2.0).abs() < 0.01, "{}", shown.per_second());
    }
}
