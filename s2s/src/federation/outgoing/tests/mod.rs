//! What the tests of this half share: stanzas, bounds, times.

use std::time::{Duration, Instant};

use bytes::Bytes;
use xmpp::Stanza;

use super::queue::Item;
use crate::federation::Ticket;
use crate::federation::{Limits, Timers};

mod bidi;
mod both;
mod chaos;
mod driver;
mod pool;
mod side;
mod transcripts;
mod world;

pub(super) fn timers() -> Timers {
    Timers {
        negotiate: Duration::from_secs(10),
        queue: Duration::from_secs(60),
        idle: Duration::from_secs(300),
        retry_first: Duration::from_secs(1),
        retry_max: Duration::from_secs(30),
        resume: Duration::from_secs(120),
        ack: Duration::from_secs(20),
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        streams_max: 100,
        unproved_per_address_max: 10,
        streams_per_domain_max: 10,
        pairs_per_stream_max: 10,
        stanza_bytes_max: 256 << 10,
        queue_items_max: 20_000,
        queue_bytes_max: 64 << 20,
        queued_bytes_max: 256 << 20,
        unacked_max: 1_000,
        verifications_max: 10,
        unhandled_max: 100,
        bytes_per_second: 1 << 20,
    }
}

pub(super) fn message(order: u64, to: &str) -> Stanza {
    message_from(order, "juliet@capulet.example/balcony", to)
}

pub(super) fn message_from(order: u64, from: &str, to: &str) -> Stanza {
    let xml =
        format!("<message to='{to}' from='{from}' id='{order}'><body>{order}</body></message>");
    Stanza::parse(Bytes::from(xml)).expect("a stanza")
}

pub(super) fn ticket(order: u64) -> Ticket {
    Ticket { via: None, order }
}

pub(super) fn item(order: u64, now: Instant) -> Item {
    Item {
        ticket: ticket(order),
        stanza: message(order, "romeo@montague.example"),
        since: now,
        since_ms: 0,
        sendings: 0,
    }
}
