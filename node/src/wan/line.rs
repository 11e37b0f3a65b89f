//! The pure core of the emulator: when a chunk of bytes that comes in now goes out again.
//!
//! Called by `pump`, with times as `Duration` since any fixed moment and with random numbers handed in. A [`Line`] is
//! one direction between two nodes, shared by its connections: it has the settings and the bandwidth. A [`Flow`] is
//! one connection on it: it keeps the bytes in order.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes that one connection holds on the way; then the sender waits, as TCP would let it.
pub const FLOW_BYTES_MAX: usize = 16 << 20;
/// The largest chunk.
pub const CHUNK_BYTES_MAX: usize = 64 << 10;

/// How one direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// How long every byte is on the way.
    pub delay_ms: u64,
    /// A random time up to this is added.
    pub jitter_ms: u64,
    /// Kilobits that pass in a second. Zero: as many as come.
    pub kbit_s: u64,
    /// Holds everything: neither delivers nor closes.
    pub cut: bool,
}

/// A change of some of the settings; what is not named stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// See [`Settings::delay_ms`].
    pub delay_ms: Option<u64>,
    /// See [`Settings::jitter_ms`].
    pub jitter_ms: Option<u64>,
    /// See [`Settings::kbit_s`].
    pub kbit_s: Option<u64>,
    /// See [`Settings::cut`].
    pub cut: Option<bool>,
}

impl Settings {
    /// These, changed.
    #[must_use]
    pub fn with(self, change: Change) -> Settings {
        Settings {
            delay_ms: change.delay_ms.unwrap_or(self.delay_ms),
            jitter_ms: change.jitter_ms.unwrap_or(self.jitter_ms),
            kbit_s: change.kbit_s.unwrap_or(self.kbit_s),
            cut: change.cut.unwrap_or(self.cut),
        }
    }

    /// Whether bytes go through as they come.
    #[must_use]
    pub fn is_clear(self) -> bool {
        self == Settings::default()
    }

    /// How many bytes to take at once, so that a narrow line delivers them evenly: what passes in 10 ms.
    #[must_use]
    pub fn chunk(self) -> usize {
        match self.kbit_s {
            0 => CHUNK_BYTES_MAX,
            narrow => usize::try_from(narrow.saturating_mul(10) / 8)
                .unwrap_or(CHUNK_BYTES_MAX)
                .clamp(64, CHUNK_BYTES_MAX),
        }
    }
}

/// The bandwidth of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    free_at: Duration,
}

impl Line {
    /// When `bytes` that come in `now` come out. `draw` is a random number from 0 to 1.
    pub fn schedule(
        &mut self,
        settings: Settings,
        now: Duration,
        bytes: usize,
        draw: f64,
    ) -> Duration {
        let ns = (bytes as u64).saturating_mul(8_000_000).checked_div(settings.kbit_s);
        let sent = match ns {
            Some(ns) => self.free_at.max(now) + Duration::from_nanos(ns),
            // No bound: kbit_s is zero.
            None => now,
        };
        self.free_at = sent;
        let jitter = Duration::from_millis(settings.jitter_ms).mul_f64(draw.clamp(0.0, 1.0));
        sent + Duration::from_millis(settings.delay_ms) + jitter
    }
}

/// What is on the way on one connection, in order.
#[derive(Debug, Default)]
pub struct Flow {
    queue: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    last: Duration,
}

impl Flow {
    /// Bytes that shall come out at `due`, or right after those before them. Empty: the end of the stream.
    pub fn push(&mut self, due: Duration, bytes: Vec<u8>) {
        self.last = self.last.max(due);
        self.bytes += bytes.len();
        self.queue.push_back((self.last, bytes));
    }

    /// Whether more may come in.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes < FLOW_BYTES_MAX
    }

    /// Whether nothing is on the way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the next bytes come out.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// The next bytes, if they are due.
    pub fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let (_, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn every_chunk_is_delayed_by_the_delay_and_up_to_the_jitter() {
        let settings = Settings { delay_ms: 80, jitter_ms: 10, ..Settings::default() };
        let mut line = Line::default();
        assert_eq!(line.schedule(settings, ms(5), 100, 0.0), ms(85));
        assert_eq!(line.schedule(settings, ms(5), 100, 1.0), ms(95));
        assert_eq!(line.schedule(settings, ms(7), 100, 0.5), ms(92));
    }

    #[test]
    fn a_narrow_line_sends_one_chunk_after_the_other() {
        let settings = Settings { delay_ms: 10, kbit_s: 8, ..Settings::default() };
        let mut line = Line::default();
        // 8 kbit/s are 1,000 bytes a second.
        assert_eq!(line.schedule(settings, ms(0), 500, 0.0), ms(510));
        assert_eq!(line.schedule(settings, ms(0), 500, 0.0), ms(1_010));
        assert_eq!(line.schedule(settings, ms(5_000), 500, 0.0), ms(5_510));
    }

    #[test]
    fn jitter_never_puts_one_chunk_before_another() {
        let mut flow = Flow::default();
        flow.push(ms(90), b"first".to_vec());
        flow.push(ms(82), b"second".to_vec());
        assert_eq!(flow.pop(ms(89)), None);
        assert_eq!(flow.pop(ms(90)), Some(b"first".to_vec()));
        assert_eq!(flow.pop(ms(90)), Some(b"second".to_vec()));
        assert!(flow.is_empty());
    }

    #[test]
    fn a_full_connection_lets_its_sender_wait() {
        let mut flow = Flow::default();
        assert!(flow.has_room());
        flow.push(ms(1), vec![0; FLOW_BYTES_MAX]);
        assert!(!flow.has_room());
        assert!(flow.pop(ms(1)).is_some());
        assert!(flow.has_room());
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let settings = Settings { delay_ms: 80, ..Settings::default() };
        let change: Change = serde_json::from_str(r#"{"cut":true}"#).unwrap();
        assert_eq!(settings.with(change), Settings { cut: true, ..settings });
        assert!(serde_json::from_str::<Change>(r#"{"delay":1}"#).is_err());
        assert!(!settings.is_clear());
        assert!(settings.with(Change { delay_ms: Some(0), ..Change::default() }).is_clear());
    }
}
