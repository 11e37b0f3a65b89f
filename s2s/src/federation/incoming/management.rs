//! Room: stream management of an incoming stream (XEP-0198 version 1.6.3), part of the machine: what of the peer's is handled, what of ours is acknowledged
//! (there is something of ours only with XEP-0288), and going on with a stream whose connection was lost. Without `<enable/>` the same counting only bounds
//! what is open. Left out: `location`, for a stream is resumed where it was cut, or not at all.

use std::time::Instant;

use xmpp::sm::{self, Inbound, Malformed, Nonza};
use xmpp::{Condition, Element, Stanza, StreamError};

use super::machine::{Machine, State};
use super::turns::{Kept, Output};
use crate::federation::Limits;
use crate::federation::Ticket;
use crate::federation::managed::{Again, Owed, Unacked};
use crate::federation::pairs::Pairs;
use crate::federation::text;

/// The counters of one stream.
#[derive(Debug)]
pub(super) struct Management {
    inbound: Inbound,
    /// `h` counts from this stanza on, and from this number on.
    from: u64,
    handled: u32,
    /// What comes once more because the stream is resumed.
    again: Again,
    /// Set by `<enable/>`.
    enabled: Option<Enabled>,
    /// Sent by us and not acknowledged.
    outbound: Unacked<(Ticket, Stanza)>,
    /// Of what the peer has sent.
    owed: Owed,
    unacked_max: usize,
    unacked_bytes_max: usize,
    unhandled_max: usize,
}

#[derive(Debug)]
struct Enabled {
    id: Option<String>,
}

impl Management {
    pub(super) fn new(limits: &Limits) -> Management {
        Management {
            inbound: Inbound::default(),
            from: 0,
            handled: 0,
            again: Again::default(),
            enabled: None,
            // Its bounds are looked at before something is sent.
            outbound: Unacked::default(),
            owed: Owed::default(),
            unacked_max: limits.unacked_max,
            unacked_bytes_max: limits.queue_bytes_max,
            unhandled_max: limits.unhandled_max,
        }
    }

    /// Other bounds.
    pub(super) fn set(&mut self, limits: &Limits) {
        self.unacked_max = limits.unacked_max;
        self.unacked_bytes_max = limits.queue_bytes_max;
        self.unhandled_max = limits.unhandled_max;
    }

    /// A stanza has come. Its number; `None`: it has come before.
    pub(super) fn begin(&mut self) -> Option<u64> {
        (!self.again.comes()).then(|| self.inbound.begin())
    }

    pub(super) fn asked_at(&self) -> Option<Instant> {
        self.outbound.asked()
    }

    pub(super) fn stalled(&self) -> Option<Instant> {
        self.outbound.stalled()
    }

    pub(super) fn asks_again(&self) -> Option<Instant> {
        self.outbound.asks_again()
    }

    fn h(&self) -> u32 {
        // Those that came before `<enable/>` and are still open are not counted.
        let handled = self.inbound.first_open().saturating_sub(self.from);
        self.handled.wrapping_add(handled as u32)
    }

    fn is_full(&self) -> bool {
        self.outbound.len() >= self.unacked_max || self.outbound.bytes() >= self.unacked_bytes_max
    }

    pub(super) fn into_kept(self, pairs: Pairs, bidi: bool) -> Option<Kept> {
        let id = self.enabled?.id?;
        let Management { inbound, from, handled, outbound, .. } = self;
        Some(Kept { id, inbound, from, handled, pairs, bidi, unacked: outbound.into_queue() })
    }
}

fn failed(condition: Condition) -> Output {
    Output::Send(Nonza::Failed { condition, h: None }.to_bytes().into())
}

impl Machine {
    /// Whether a stanza may be sent back over this stream now.
    #[must_use]
    pub fn may_send(&self) -> bool {
        let open = matches!(self.state, State::Open | State::Response);
        open && self.bidi && !self.proved.is_empty() && !self.management.is_full()
    }

    /// Whether no more of the peer's stanzas may be taken until some of those that came are handled.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open_stanzas() >= self.management.unhandled_max as u64
    }

    /// How many of the peer's stanzas nobody is responsible for yet.
    #[must_use]
    pub fn open_stanzas(&self) -> u64 {
        self.management.inbound.next() - self.management.inbound.first_open()
    }

    /// Whether the stream could be resumed if its connection were lost now.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.management.enabled.as_ref().is_some_and(|enabled| enabled.id.is_some())
    }

    pub(super) fn handled(&mut self, number: u64, out: &mut Vec<Output>) {
        let management = &mut self.management;
        management.inbound.done(number);
        // It was told less when it asked.
        if management.owed.is_due(&management.inbound)
            && matches!(self.state, State::Open | State::Response)
        {
            out.push(Output::Send(Nonza::Answer { h: management.h() }.to_bytes().into()));
        }
    }

    pub(super) fn sm(
        &mut self,
        element: &Element,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        let nonza = match Nonza::parse(element) {
            Some(Ok(nonza)) => nonza,
            Some(Err(Malformed::Failed(condition))) => {
                out.push(failed(condition));
                return Ok(());
            }
            Some(Err(Malformed::Stream(error))) => return Err(error),
            None => return Err(StreamError::unsupported_stanza_type()),
        };
        let is_enabled = self.management.enabled.is_some();
        match nonza {
            // B-176, B-184: not before anything is proved, not twice.
            Nonza::Enable { .. } | Nonza::Resume { .. } if is_enabled || self.proved.is_empty() => {
                out.push(failed(Condition::UnexpectedRequest));
            }
            // What has come on this stream would be counted with what came on the other.
            Nonza::Resume { .. } if self.management.inbound.next() > 0 => {
                out.push(failed(Condition::UnexpectedRequest));
            }
            Nonza::Enable { resume, .. } => {
                let resumable = resume && !self.settings.timers.resume.is_zero();
                let id = resumable.then(|| self.tokens.token());
                let seconds = self.sleeps_for().as_secs();
                let max = id.as_ref().map(|_| u32::try_from(seconds).unwrap_or(u32::MAX));
                let enabled = Nonza::Enabled { id: id.clone(), max, location: None };
                self.management.from = self.management.inbound.next();
                self.management.enabled = Some(Enabled { id: id.clone() });
                out.extend(id.map(Output::Resumable));
                out.push(Output::Send(enabled.to_bytes().into()));
            }
            Nonza::Resume { previd, h } => {
                self.state = State::Resuming { h };
                out.push(Output::Resume(previd));
            }
            // What is not enabled is not counted, and nothing is to be said.
            Nonza::Request | Nonza::Answer { .. } if !is_enabled => {
                out.push(Output::Dropped("stream management that is not enabled"));
            }
            Nonza::Request => {
                self.management.owed.asked(&self.management.inbound);
                out.push(Output::Send(Nonza::Answer { h: self.management.h() }.to_bytes().into()));
            }
            Nonza::Answer { h } => {
                self.acknowledged(h, now, out)?;
                self.ask(now, out);
            }
            Nonza::Enabled { .. } | Nonza::Resumed { .. } | Nonza::Failed { .. } => {
                return Err(StreamError::unsupported_stanza_type());
            }
        }
        Ok(())
    }

    fn acknowledged(
        &mut self,
        h: u32,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        let acked = self.management.outbound.acked(h, now).map_err(sm::TooHigh::error)?; // B-179
        let tickets: Vec<_> = acked.into_iter().map(|(ticket, _)| ticket).collect();
        if !tickets.is_empty() {
            out.push(Output::Delivered(tickets));
        }
        Ok(())
    }

    /// Asks for an acknowledgement, one at a time, as long as something has none.
    pub(super) fn ask(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.management.enabled.is_some() && self.management.outbound.ask(now) {
            out.push(Output::Send(sm::REQUEST.into()));
        }
    }

    /// A stanza of ours goes over this stream.
    pub(super) fn send_back(
        &mut self,
        ticket: Ticket,
        stanza: Stanza,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        out.push(Output::Send(text::bytes(&stanza)));
        if self.management.enabled.is_none() {
            out.push(Output::Sent(ticket));
            return;
        }
        let bytes = stanza.bytes().len();
        self.management.outbound.push((ticket, stanza), bytes);
        self.ask(now, out);
    }

    /// What was kept of an earlier stream, if it could be found.
    pub(super) fn resumed(
        &mut self,
        kept: Option<Box<Kept>>,
        h: u32,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        self.state = State::Open;
        let Some(kept) = kept else {
            out.push(failed(Condition::ItemNotFound)); // B-182
            return Ok(());
        };
        let Kept { id, inbound, from, handled, pairs, bidi, unacked } = *kept;
        let management = &mut self.management;
        management.again = Again::told(&inbound, from);
        (management.inbound, management.from, management.handled) = (inbound, from, handled);
        let handled = management.h();
        management.enabled = Some(Enabled { id: Some(id.clone()) });
        management.outbound = Unacked::resumed(unacked);
        out.push(Output::Resumable(id.clone()));
        self.acknowledged(h, now, out)?; // B-185
        out.push(Output::Send(Nonza::Resumed { previd: id, h: handled }.to_bytes().into()));
        let again = self.management.outbound.iter();
        out.extend(again.map(|(_, stanza)| Output::Send(text::bytes(stanza))));
        self.ask(now, out);
        let new: Vec<_> = pairs.iter().filter(|pair| self.proved.add(pair)).collect();
        out.extend(new.into_iter().map(Output::Accepted));
        self.bidi |= bidi;
        if self.bidi {
            out.extend(self.proved.iter().map(|pair| Output::Back(pair.reversed())));
        }
        Ok(())
    }
}
