//! Room: a stream between two connections (XEP-0198 §5). The task that had it keeps it, counts what is still being handled, and gives it to the connection
//! that resumes it: so it has one owner at any time. Called by `driver`.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use xmpp::Stanza;

use super::Shared;
use super::driver::{Done, Stream};
use super::turns::{Input, Kept};
use crate::federation::Ticket;
use crate::federation::bidi::{Back, Bidi};
use crate::federation::pairs::Pairs;
use crate::federation::policy::{Certificate, Policies, Tls};

/// Requests of one stream that wait for its owner. Beyond: they are told that there is no such stream.
pub(super) const WAKES_MAX: usize = 4;

/// Somebody wants to go on with a stream.
#[derive(Debug)]
pub(super) struct Wake {
    /// What it has proved: it must be one of those who spoke there.
    pub(super) proved: Pairs,
    /// Whether its connection is encrypted.
    pub(super) encrypted: bool,
    pub(super) answer: oneshot::Sender<Slept>,
}

/// What is handed over.
#[derive(Debug)]
pub(super) struct Slept {
    pub(super) kept: Kept,
    pub(super) back: Option<BackHalf>,
    pub(super) done: Arc<Done>,
    pub(super) handled: mpsc::UnboundedReceiver<u64>,
}

/// Our end of a stream that is for both directions.
#[derive(Debug)]
pub(super) struct BackHalf {
    pub(super) back: Back,
    pub(super) queue: mpsc::Receiver<(Ticket, Stanza)>,
}

impl BackHalf {
    /// The end, for good: what the peer may not have goes another way.
    pub(super) fn close(self, bidi: &dyn Bidi) {
        drop(self.queue);
        bidi.closed(self.back.stream);
    }
}

impl Shared {
    /// The stream of that id, if there is one, and whoever asks may have it.
    pub(super) async fn wake(&self, id: &str, proved: Pairs, encrypted: bool) -> Option<Slept> {
        let owner = self.resumable.lock().get(id).cloned()?;
        let (answer, slept) = oneshot::channel();
        owner.try_send(Wake { proved, encrypted, answer }).ok()?;
        slept.await.ok()
    }
}

impl Wake {
    /// Whether it may go on with a stream on which `kept` was proved: it must be one of those, and all of them must be what the rules ask of them on its
    /// connection too. What a certificate has to prove it has to prove there. `was_encrypted`: so was the stream, and then it remains so.
    fn may_have(&self, kept: &Pairs, was_encrypted: bool, policies: &Policies) -> bool {
        let may_come_along = |domain: &str| {
            let policy = policies.of(domain);
            policy.allow
                && (self.encrypted || policy.tls == Tls::Optional)
                && (policy.certificate != Certificate::Required || self.proved.has_sender(domain))
        };
        (self.encrypted || !was_encrypted)
            && self.proved.senders().any(|domain| kept.has_sender(domain))
            && kept.senders().all(may_come_along)
    }
}

impl Stream {
    /// The connection is lost, or another wants to have the stream. Comes back when it is given away, or its time is over.
    pub(super) async fn sleep(mut self, mut wake: Option<Wake>) {
        let has_room = self.seat.lost(&self.current.settings.limits);
        if wake.is_none() && !has_room {
            return self.finish("lost");
        }
        let until = Instant::now() + self.machine.sleeps_for();
        while wake.is_none() {
            tokio::select! {
                Some(number) = self.handled.recv() => self.count(number),
                Some(one) = self.wakes.recv() => wake = Some(one).filter(|one| self.may_go_on(one)),
                changed = self.watch.changed() => {
                    if changed.is_err() {
                        return self.finish("shutdown");
                    }
                    if let Some(Input::Broken(error)) = self.changed() {
                        let stops = self.current.stop;
                        return self.finish(if stops { "shutdown" } else { error.condition.name() });
                    }
                }
                () = sleep_until(until) => return self.finish("lost"),
            }
        }
        let Some(Wake { answer, .. }) = wake else { return self.finish("lost") };
        // What is told to be handled need not come again: that is worth a moment, and no more, for the peer waits for its answer.
        let patience = self.current.settings.timers.ack / 4;
        let all = async {
            while self.machine.open_stanzas() > 0 {
                let Some(number) = self.handled.recv().await else { return };
                self.count(number);
            }
        };
        let _ = timeout(patience, all).await;
        self.hand_over(answer);
    }

    /// Whether the stream is given to whoever asks for it.
    pub(super) fn may_go_on(&self, wake: &Wake) -> bool {
        wake.may_have(self.machine.proved(), self.machine.tls.is_some(), &self.current.policies)
    }

    fn count(&mut self, number: u64) {
        let mut out = Vec::new();
        self.with_machine(Input::Handled(number), &mut out);
        // An acknowledgement has nowhere to go.
    }

    fn hand_over(mut self, answer: oneshot::Sender<Slept>) {
        self.forget();
        // Whoever resumes has seen `<enabled/>`, and so all that was written before it.
        let arrived: Vec<_> = self.sent.drain(..).map(|(_, ticket)| ticket).collect();
        if let (Some(half), false) = (&self.back, arrived.is_empty()) {
            self.shared.bidi.delivered(half.back.stream, &arrived);
        }
        let Stream { machine, back, shared, done, handled, .. } = self;
        let Some(kept) = machine.into_kept() else { return };
        let slept = Slept { kept, back, done, handled };
        if let Err(Slept { back: Some(half), .. }) = answer.send(slept) {
            // The new connection is gone already.
            half.close(&*shared.bidi);
        }
        shared.counts.count("resumed");
    }

    /// It cannot be resumed any more.
    pub(super) fn forget(&mut self) {
        if let Some(id) = self.id.take() {
            self.shared.resumable.lock().remove(&id);
        }
    }

    /// The end, for good.
    pub(super) fn finish(&mut self, reason: &'static str) {
        self.forget();
        self.shared.counts.count(reason);
        if let Some(half) = self.back.take() {
            half.close(&*self.shared.bidi);
        }
    }
}

#[cfg(test)]
mod tests {
    use config::{S2sCertificate, S2sPolicy, S2sTls};

    use super::*;
    use crate::federation::dialback::Pair;

    #[test]
    fn all_that_comes_along_must_be_what_the_rules_ask_for() {
        let rule = |domain: &str| S2sPolicy {
            domain: domain.to_owned(),
            allow: true,
            certificate: S2sCertificate::Preferred,
            tls: S2sTls::Required,
            bytes_per_second: None,
        };
        let policies = Policies::new(&[
            S2sPolicy { allow: false, ..rule("denied.example") },
            S2sPolicy { certificate: S2sCertificate::Required, ..rule("strict.example") },
            S2sPolicy { tls: S2sTls::Optional, ..rule("clear.example") },
        ]);
        let pairs = |senders: &[&str]| {
            let mut pairs = Pairs::default();
            for sender in senders {
                pairs.add(&Pair::new(sender, "our.example"));
            }
            pairs
        };
        let check = |proved: &[&str], encrypted, kept: &[&str], was_encrypted, may| {
            let wake = Wake { proved: pairs(proved), encrypted, answer: oneshot::channel().0 };
            let found = wake.may_have(&pairs(kept), was_encrypted, &policies);
            assert_eq!(found, may, "{proved:?} {encrypted} {kept:?} {was_encrypted}");
        };
        check(&["a.example"], true, &["a.example", "b.example"], true, true);
        check(&["c.example"], true, &["a.example"], true, false);
        check(&["a.example"], true, &["a.example", "denied.example"], true, false);
        // A certificate that the new connection has not shown.
        check(&["a.example"], true, &["a.example", "strict.example"], true, false);
        check(&["a.example", "strict.example"], true, &["a.example", "strict.example"], true, true);
        // What was encrypted, or must be, does not go on in the clear.
        check(&["clear.example"], false, &["clear.example"], false, true);
        check(&["clear.example"], false, &["clear.example"], true, false);
        check(&["clear.example"], false, &["clear.example", "a.example"], false, false);
        check(&["clear.example"], true, &["clear.example", "a.example"], true, true);
    }
}
