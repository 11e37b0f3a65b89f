//! Room `federation::outgoing`: what `pool` is made of: one domain that is not ours, its pairs and their ways. Values; called by `pool` only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::queue::{Item, Queue};
use super::retry::Retry;
use crate::federation::Ticket;
use crate::federation::pace::Bucket;

/// Names one stream.
pub(super) type StreamId = u64;

/// A stanza on the way, and whose queue it is of.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Our domain.
    pub(super) ours: Arc<str>,
    pub(super) item: Item,
}

/// A stanza whose sender is to hear of an error.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) ticket: Ticket,
    pub(super) stanza: Stanza,
    pub(super) error: StanzaError,
}

/// How a pair gets where it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Road {
    None,
    /// This stream is being made for it.
    Opening(StreamId),
    /// This stream is being asked to take it too.
    Asking(StreamId),
    On(StreamId),
}

/// One pair: our domain, and the domain of the [`Peer`] it is in.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) ours: Arc<str>,
    pub(super) queue: Queue,
    pub(super) road: Road,
    pub(super) retry: Retry,
    /// No stream of another pair takes it.
    pub(super) alone: bool,
}

/// A stream, seen from here.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) id: StreamId,
    pub(super) bell: Arc<Notify>,
    pub(super) is_up: bool,
    /// It takes further pairs.
    pub(super) takes_more: bool,
    /// Something got through on it.
    pub(super) carried: bool,
    /// How many may be on the way on it together: see [`together`](super::queue::together).
    pub(super) together: usize,
    /// Since when something of what was on a stream that broke is on the way or waits its turn, and nothing arrives.
    pub(super) stuck: Option<Instant>,
    /// The peer has made it, and this is for whom of ours it takes stanzas (XEP-0288).
    pub(super) backs: Vec<Arc<str>>,
}

/// One domain that is not ours.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) lines: Vec<Line>,
    pub(super) seats: Vec<Seat>,
    pub(super) retry: Retry,
    /// It is definitely not there, until then.
    pub(super) gone: Option<(Instant, StanzaError)>,
    /// Why the last attempt was in vain.
    pub(super) last: Option<String>,
    /// What it may send on streams of ours; `None`: nothing has come yet.
    pub(super) pace: Option<Bucket>,
}

/// What is known of one stream, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Our domain.
    pub ours: String,
    /// Theirs.
    pub theirs: String,
    /// Whether stanzas of the pair may go now.
    pub is_up: bool,
    /// Stanzas that wait.
    pub waiting: usize,
    /// Stanzas that were sent and are not acknowledged.
    pub on_the_way: usize,
    /// Attempts in vain since something got through.
    pub failures: u32,
    /// Why the last was in vain.
    pub last_failure: Option<String>,
}

impl Line {
    pub(super) fn is_of(&self, id: StreamId) -> bool {
        matches!(self.road, Road::Opening(of) | Road::Asking(of) | Road::On(of) if of == id)
    }
}

impl Peer {
    pub(super) fn line(&mut self, ours: &str) -> &mut Line {
        let at = self.lines.iter().position(|line| *line.ours == *ours);
        let at = at.unwrap_or_else(|| {
            self.lines.push(Line {
                ours: Arc::from(ours),
                queue: Queue::default(),
                road: Road::None,
                retry: Retry::default(),
                alone: false,
            });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    pub(super) fn ring(&self, id: StreamId) {
        self.seats.iter().filter(|seat| seat.id == id).for_each(|seat| seat.bell.notify_one());
    }
}

pub(super) fn dead(item: Item, error: StanzaError) -> Dead {
    Dead { ticket: item.ticket, stanza: item.stanza, error }
}

pub(super) fn refuse(
    line: &mut Line,
    error: &StanzaError,
    bytes: &mut usize,
    to: &mut VecDeque<Dead>,
) {
    while let Some(item) = line.queue.pop() {
        *bytes -= item.bytes();
        to.push_back(dead(item, error.clone()));
    }
}
