//! Room: dialback on an incoming stream, part of the machine: as receiving server (XEP-0220 §2.2.1), with the shortcut of XEP-0344 §2.4 for domains that
//! the certificate proves, and as authoritative server (§2.2.2). Any number of pairs on one stream, up to its bound (§2.6).
//!
//! Each request may make us ask DNS and another server, whoever it is that asks: so a stream that has proved nothing has a few, and on one that has, those that
//! come to nothing count like pairs for a while.

use std::time::{Duration, Instant};

use xmpp::{Element, StreamError};

use super::machine::{Machine, stays};
use super::turns::{House, Output};
use crate::federation::dialback::{self, Dialback, DialbackError, Outcome, Pair, Step, Verify};
use crate::federation::policy::{Certificate, Tls};

/// Requests that are looked at on a stream that has proved nothing yet. Beyond: `resource-constraint`.
pub(super) const UNPROVED_REQUESTS_MAX: usize = 8;
/// How long a request that came to nothing counts like a pair.
const REFUSED_FOR: Duration = Duration::from_secs(3600);

/// A request of the peer's that is not answered yet.
#[derive(Debug)]
pub(super) struct Asked {
    verify: Verify,
    /// What is waited for: what the certificate proves, or what the authoritative server says.
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Certificate,
    Server,
}

fn answer(pair: &Pair, outcome: Outcome) -> Output {
    let dialback = Dialback { pair: pair.reversed(), step: Step::Answer(outcome) };
    Output::Send(dialback.to_bytes().into())
}

fn refuse(pair: &Pair, error: DialbackError) -> Output {
    answer(pair, Outcome::Error(error))
}

impl Machine {
    pub(super) fn dialback(
        &mut self,
        house: &dyn House,
        now: Instant,
        element: &Element,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        let Dialback { pair, step } = Dialback::read(element)?;
        match step {
            Step::Result { key } => {
                stays(house)?;
                self.request(house, now, pair, key, out)?;
                if !self.asked.is_empty() {
                    self.wait_for_answer(now);
                }
            }
            Step::Verify { id, key } => {
                let outcome = verify(house, &pair, &id, &key);
                let step = Step::Verified { id, outcome };
                out.push(Output::Send(Dialback { pair: pair.reversed(), step }.to_bytes().into()));
            }
            // S-054, B-199: we ask nothing on a stream of theirs, so nothing can be an answer (XEP-0220 §3.1).
            Step::Verified { .. } => out.push(Output::Dropped("db:verify that nobody asked for")),
            Step::Answer(_) => out.push(Output::Dropped("db:result that nobody asked for")),
        }
        Ok(())
    }

    /// The peer wants to send from a domain of its to one of ours.
    fn request(
        &mut self,
        house: &dyn House,
        now: Instant,
        pair: Pair,
        key: String,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        if !house.may_arrive(&pair.from, &pair.to) {
            return Err(StreamError::invalid_from()); // B-194
        }
        let policy = house.policy(&pair.from);
        let error = if !house.is_ours(&pair.to) {
            Some(DialbackError::ItemNotFound)
        } else if !policy.allow || (policy.tls == Tls::Required && self.tls.is_none()) {
            Some(DialbackError::PolicyViolation)
        } else if self.proved.has(&pair) {
            out.push(answer(&pair, Outcome::Valid));
            return Ok(());
        } else if self.asked.iter().any(|asked| asked.verify.pair == pair) {
            return Ok(()); // It is being looked at, and there will be an answer.
        } else if self.has_asked_enough(now) {
            Some(DialbackError::ResourceConstraint)
        } else {
            None
        };
        if let Some(error) = error {
            out.push(refuse(&pair, error));
            return Ok(());
        }
        self.looked_at += 1;
        let verify = Verify { pair, id: self.stream_id.clone(), key };
        if self.tls == Some(true) {
            // XEP-0344 §2.4: now, not only when the stream began.
            out.push(Output::Prove(verify.pair.from.clone()));
            self.asked.push(Asked { verify, by: By::Certificate });
        } else {
            self.ask_server(house, now, verify, out);
        }
        Ok(())
    }

    /// Whether no more requests are looked at for now.
    fn has_asked_enough(&mut self, now: Instant) -> bool {
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= REFUSED_FOR;
        while self.refused.front().is_some_and(is_over) {
            self.refused.pop_front();
        }
        let counted = self.proved.len() + self.asked.len() + self.refused.len();
        counted >= self.settings.limits.pairs_per_stream_max
            || (self.proved.is_empty() && self.looked_at >= UNPROVED_REQUESTS_MAX)
    }

    /// A request that was looked at comes to nothing.
    fn refused(&mut self, pair: &Pair, error: DialbackError, now: Instant, out: &mut Vec<Output>) {
        self.refused.push_back(now);
        out.push(refuse(pair, error));
    }

    /// The certificate says nothing: what the authoritative server says counts, where that is enough.
    fn ask_server(
        &mut self,
        house: &dyn House,
        now: Instant,
        verify: Verify,
        out: &mut Vec<Output>,
    ) {
        if house.policy(&verify.pair.from).certificate == Certificate::Required {
            return self.refused(&verify.pair, DialbackError::NotAuthorized, now, out);
        }
        if verify.key.is_empty() {
            return self.refused(&verify.pair, DialbackError::NotAcceptable, now, out);
        }
        out.push(Output::Verify(verify.clone()));
        self.asked.push(Asked { verify, by: By::Server });
    }

    /// It is known what the certificate says of that domain.
    pub(super) fn proved_domain(
        &mut self,
        house: &dyn House,
        now: Instant,
        domain: &str,
        good: bool,
        out: &mut Vec<Output>,
    ) {
        let waits =
            |asked: &mut Asked| asked.by == By::Certificate && asked.verify.pair.from == domain;
        let waiting: Vec<_> = self.asked.extract_if(.., waits).collect();
        for Asked { verify, .. } in waiting {
            if good {
                out.push(answer(&verify.pair, Outcome::Valid));
                self.accept(&verify.pair, out);
            } else {
                self.ask_server(house, now, verify, out);
            }
        }
    }

    /// The authoritative server has answered, or nobody has.
    pub(super) fn verified(
        &mut self,
        ask: &Verify,
        said: Result<bool, DialbackError>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let mut is_it = |asked: &mut Asked| asked.by == By::Server && asked.verify == *ask;
        if self.asked.extract_if(.., &mut is_it).next().is_none() {
            return out.push(Output::Dropped("an answer about a key of another stream"));
        }
        match said {
            Ok(true) => {
                out.push(answer(&ask.pair, Outcome::Valid));
                self.accept(&ask.pair, out);
            }
            // Somebody pretends (XEP-0220 §2.2.1): the stream ends, unless it has honest users too (§2.1.2).
            Ok(false) if self.proved.is_empty() => {
                out.push(answer(&ask.pair, Outcome::Invalid));
                self.end(None, out);
            }
            Ok(false) => self.refused(&ask.pair, DialbackError::Forbidden, now, out),
            Err(error) => self.refused(&ask.pair, error, now, out),
        }
    }
}

/// Whether a key that somebody was shown is ours. `pair` is from who asks to whom of us.
fn verify(house: &dyn House, pair: &Pair, id: &str, key: &str) -> Outcome {
    if !house.is_ours(&pair.to) {
        return Outcome::Error(DialbackError::ItemNotFound);
    }
    if !house.policy(&pair.from).allow {
        return Outcome::Error(DialbackError::PolicyViolation);
    }
    match house.dialback_secret() {
        Some(secret) if dialback::is_key(&secret, &pair.from, &pair.to, id, key) => Outcome::Valid,
        Some(_) => Outcome::Invalid,
        None => Outcome::Error(DialbackError::InternalServerError),
    }
}
