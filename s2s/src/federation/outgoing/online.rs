//! Room `federation::outgoing`: what a stream that stands says besides stanzas: stream management (XEP-0198), further pairs (XEP-0220 §2.6.1), and what the
//! peer may ask for when it sends on the stream too (XEP-0288). A value: an element goes in, what to do comes out. Called by `driver`.
//!
//! Answers that nobody asked for are dropped (XEP-0220 §4.1, bad-inputs S-054). Left out: further pairs that the peer would prove by dialback on a stream of
//! ours (XEP-0288 §2.2 lets it ask). The id of the stream, from which its key would be made, is one that the peer has chosen: so the key may be one that was
//! made for another stream. It has to open a stream for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xmpp::sm::{Malformed, Nonza};
use xmpp::stream::features::is_features;
use xmpp::{Element, StreamError, ns};

use super::failure::Failure;
use super::machine::{self, Established};
use super::peer::Sent;
use super::session::{Phase, Resumable, Session};
use crate::federation::dialback::{self, Dialback, DialbackError, Outcome, Pair, Step};
use crate::federation::pairs::Pairs;
use crate::federation::wire::unknown;

/// What to do, in order.
#[derive(Debug)]
pub(super) enum Todo {
    /// Write these bytes.
    Put(Vec<u8>),
    /// These have arrived.
    Arrived(Vec<Sent>),
    /// These go back to their queues, to be sent again as something new.
    Back(Vec<Sent>),
    /// Write everything that is not acknowledged once more: the stream is resumed.
    Resend,
    /// Stanzas of this pair of ours may go, or may not.
    Answered(Arc<str>, Result<(), Failure>),
}

/// What is asked of the peer's requests; `driver` knows.
pub(super) struct Rules<'a> {
    /// Of our dialback keys.
    pub(super) secret: Option<[u8; 32]>,
    /// Whether a domain is ours.
    pub(super) is_ours: &'a dyn Fn(&str) -> bool,
}

/// A stream that stands, on its present connection.
#[derive(Debug)]
pub(super) struct Online {
    theirs: Arc<str>,
    pub(super) established: Established,
    /// Asked for, and since when.
    asking: BTreeMap<Arc<str>, Instant>,
    /// What the peer may send.
    pub(super) proved: Pairs,
}

impl Online {
    /// For the pair that it was opened for.
    pub(super) fn new(ours: Arc<str>, theirs: Arc<str>, established: Established) -> Online {
        let mut proved = Pairs::default();
        if established.bidi {
            // Whom we called, by the name that we called: as far as `machine` believed it.
            proved.add(&Pair::new(&theirs, &ours));
        }
        Online { theirs, established, asking: BTreeMap::new(), proved }
    }

    /// The first words.
    pub(super) fn start(&mut self, session: &mut Session) -> Vec<Todo> {
        if !self.established.sm {
            return vec![Todo::Back(session.begin_anew())];
        }
        // Kept until there is an answer: the connection may be cut before.
        match session.resumable.clone() {
            Some(Resumable { id, .. }) => {
                vec![put(&Nonza::Resume { previd: id, h: session.resume() })]
            }
            None => {
                let back = session.begin_anew();
                session.phase = Phase::Enabling;
                vec![Todo::Back(back), put(&Nonza::Enable { resume: true, max: None })]
            }
        }
    }

    /// Asks that stanzas of ours may go too. Nothing while the stream itself is not ready.
    pub(super) fn ask(
        &mut self,
        ours: &Arc<str>,
        secret: Option<[u8; 32]>,
        session: &Session,
        now: Instant,
    ) -> Option<Todo> {
        let is_ready = matches!(session.phase, Phase::On | Phase::Off);
        if !is_ready || self.asking.contains_key(ours) {
            return None;
        }
        let id = self.established.stream_id.as_deref().filter(|_| self.established.takes_more);
        let (Some(secret), Some(id)) = (secret, id) else {
            return Some(Todo::Answered(ours.clone(), Err(Failure::NoWay)));
        };
        self.asking.insert(ours.clone(), now);
        Some(Todo::Put(machine::ask(&secret, &Pair::new(ours, &self.theirs), id)))
    }

    /// Those asked for that have had no answer for so long.
    pub(super) fn overdue(&mut self, now: Instant, longest: Duration) -> Vec<Todo> {
        let late = |(_, since): &(&Arc<str>, &Instant)| **since + longest <= now;
        let late: Vec<Arc<str>> = self.asking.iter().filter(late).map(|(o, _)| o.clone()).collect();
        let overdue = late.into_iter().map(|ours| {
            self.asking.remove(&ours);
            Todo::Answered(ours, Err(Failure::Deadline))
        });
        overdue.collect()
    }

    /// When [`Online::overdue`] has something.
    pub(super) fn overdue_at(&self, longest: Duration) -> Option<Instant> {
        self.asking.values().min().map(|since| *since + longest)
    }

    /// Takes an element that is no stanza.
    pub(super) fn element(
        &mut self,
        element: &Element,
        session: &mut Session,
        rules: &Rules<'_>,
        now: Instant,
    ) -> Result<Vec<Todo>, Failure> {
        if let Some(error) = StreamError::from_element(element) {
            return Err(Failure::Peer(error));
        }
        if let Some(nonza) = Nonza::parse(element) {
            return match nonza {
                Ok(nonza) => Self::managed(nonza, session, now),
                Err(Malformed::Stream(error)) => Err(Failure::Protocol(error)),
                Err(Malformed::Failed(condition)) => {
                    Ok(vec![put(&Nonza::Failed { condition, h: None })])
                }
            };
        }
        if element.ns() == ns::DIALBACK {
            let dialback = Dialback::read(element).map_err(Failure::Protocol)?;
            return Ok(self.dialback(dialback, rules).into_iter().collect());
        }
        // Some say them again when a pair is added.
        if is_features(element) {
            return Ok(Vec::new());
        }
        Err(Failure::Protocol(unknown(element)))
    }

    fn managed(nonza: Nonza, session: &mut Session, now: Instant) -> Result<Vec<Todo>, Failure> {
        match (nonza, session.phase) {
            (Nonza::Enabled { id, max, .. }, Phase::Enabling) => {
                session.enabled();
                let max = max.map(|seconds| Duration::from_secs(seconds.into()));
                session.resumable = id.map(|id| Resumable { id, max });
                Ok(Vec::new())
            }
            (Nonza::Failed { .. }, Phase::Enabling) => {
                session.phase = Phase::Off;
                Ok(Vec::new())
            }
            (Nonza::Resumed { previd, h }, Phase::Resuming) => {
                // An impossible count is no agreement: with that one there is nothing to resume.
                let arrived =
                    session.acked(h, now).map_err(|high| Failure::Protocol(high.error()))?;
                session.resumed();
                session.resumable = Some(Resumable { id: previd, max: None });
                Ok(vec![Todo::Arrived(arrived), Todo::Resend])
            }
            (Nonza::Failed { h, .. }, Phase::Resuming) => {
                // It may still know how far it came (XEP-0198 §5); an impossible count is no news.
                let arrived = h.and_then(|h| session.acked(h, now).ok()).unwrap_or_default();
                let back = session.begin_anew();
                session.phase = Phase::Enabling;
                let enable = put(&Nonza::Enable { resume: true, max: None });
                Ok(vec![Todo::Arrived(arrived), Todo::Back(back), enable])
            }
            (Nonza::Answer { h }, Phase::On) => {
                let arrived =
                    session.acked(h, now).map_err(|high| Failure::Protocol(high.error()))?;
                Ok(vec![Todo::Arrived(arrived)])
            }
            (Nonza::Request, Phase::On) => Ok(vec![put(&Nonza::Answer { h: session.answer() })]),
            // An acknowledgement that crossed our `<enable/>`, or a peer that manages its own half alone: nothing to us.
            (Nonza::Answer { .. } | Nonza::Request, _) => Ok(Vec::new()),
            _ => Err(Failure::Protocol(StreamError::unsupported_stanza_type())),
        }
    }

    fn dialback(&mut self, dialback: Dialback, rules: &Rules<'_>) -> Option<Todo> {
        let Dialback { pair, step } = dialback;
        match step {
            Step::Answer(outcome) => {
                let (asked, _) = (*pair.from == *self.theirs)
                    .then(|| self.asking.remove_entry(pair.to.as_str()))
                    .flatten()?;
                let answer = machine::verdict(outcome);
                if answer.is_ok() && self.established.bidi {
                    self.proved.add(&pair);
                }
                Some(Todo::Answered(asked, answer))
            }
            Step::Verified { .. } => None,
            Step::Result { .. } => {
                let outcome = if self.proved.has(&pair) {
                    Outcome::Valid
                } else {
                    Outcome::Error(DialbackError::NotAllowed)
                };
                let step = Step::Answer(outcome);
                Some(Todo::Put(Dialback { pair: pair.reversed(), step }.to_bytes()))
            }
            Step::Verify { id, key } => {
                let outcome = if !self.established.bidi {
                    Outcome::Error(DialbackError::NotAllowed)
                } else if !(rules.is_ours)(&pair.to) {
                    Outcome::Error(DialbackError::ItemNotFound)
                } else {
                    match rules.secret {
                        None => Outcome::Error(DialbackError::InternalServerError),
                        Some(secret)
                            if dialback::is_key(&secret, &pair.from, &pair.to, &id, &key) =>
                        {
                            Outcome::Valid
                        }
                        Some(_) => Outcome::Invalid,
                    }
                };
                let step = Step::Verified { id, outcome };
                Some(Todo::Put(Dialback { pair: pair.reversed(), step }.to_bytes()))
            }
        }
    }
}

fn put(nonza: &Nonza) -> Todo {
    Todo::Put(nonza.to_bytes())
}
