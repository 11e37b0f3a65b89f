//! Bounds and times of domain streams, as `config::S2s` gives them. Plain values; shared by both halves, replaced as a whole by a reload.

use std::time::Duration;

/// Bounds. Beyond each: what is said there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams in each direction. Beyond: an incoming one is refused with `resource-constraint`, an outgoing one waits.
    pub streams_max: usize,
    /// Incoming streams from one address that have proved nothing yet. Beyond: closed at once.
    pub unproved_per_address_max: usize,
    /// Incoming streams that have proved one and the same domain. Beyond: `policy-violation` for the newest.
    pub streams_per_domain_max: usize,
    /// Pairs of domains proved on one incoming stream. Beyond: the dialback request is answered with an error (`resource-constraint`).
    pub pairs_per_stream_max: usize,
    /// Bytes of one stanza from a peer that has proved who it is (RFC 6120 §13.12: at least 10,000). Beyond: `policy-violation`.
    pub stanza_bytes_max: usize,
    /// Stanzas waiting for one pair of domains. Beyond: `resource-constraint` to the sender.
    pub queue_items_max: usize,
    /// Bytes waiting for one pair of domains. Beyond: the same.
    pub queue_bytes_max: usize,
    /// Bytes waiting for all pairs together. Beyond: the same.
    pub queued_bytes_max: usize,
    /// Stanzas sent on one stream and not acknowledged (XEP-0198). Beyond: the queue waits.
    pub unacked_max: usize,
    /// Stanzas received on one stream for which nobody is responsible yet. Beyond: the stream is not read.
    pub unhandled_max: usize,
    /// Bytes a second that one peer domain may send us on average. Beyond: its streams are read more slowly.
    pub bytes_per_second: u64,
}

/// Times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// To find, reach and convince one peer: DNS, TCP, TLS, authentication. Also what an incoming stream has to prove something.
    pub negotiate: Duration,
    /// How long a stanza may wait in the queue of its pair. Then `remote-server-timeout` to its sender.
    pub queue: Duration,
    /// An outgoing stream that carries nothing for so long is closed.
    pub idle: Duration,
    /// Between two attempts to reach a domain: at first, and at most. Doubled each time, with jitter.
    pub retry_first: Duration,
    /// See `retry_first`.
    pub retry_max: Duration,
    /// How long a cut stream may be resumed, at either end (XEP-0198).
    pub resume: Duration,
    /// How long an acknowledgement that was asked for may take before the stream counts as cut.
    pub ack: Duration,
}

impl From<&config::S2sLimits> for Limits {
    fn from(of: &config::S2sLimits) -> Self {
        Limits {
            streams_max: of.streams_max,
            unproved_per_address_max: of.unproved_per_address_max,
            streams_per_domain_max: of.streams_per_domain_max,
            pairs_per_stream_max: of.pairs_per_stream_max,
            stanza_bytes_max: of.stanza_bytes_max,
            queue_items_max: of.queue_items_max,
            queue_bytes_max: of.queue_bytes_max,
            queued_bytes_max: of.queued_bytes_max,
            unacked_max: of.unacked_max,
            unhandled_max: of.unhandled_max,
            bytes_per_second: of.bytes_per_second,
        }
    }
}

impl From<&config::S2sTimers> for Timers {
    fn from(of: &config::S2sTimers) -> Self {
        Timers {
            negotiate: of.negotiate,
            queue: of.queue,
            idle: of.idle,
            retry_first: of.retry_first,
            retry_max: of.retry_max,
            resume: of.resume,
            ack: of.ack,
        }
    }
}
