//! Room: a stream between two connections (XEP-0198 §5). The task that had it keeps it, counts what is still being handled, and gives it to the connection
//! that resumes it: so it has one owner at any time. Called by `driver`.

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use xmpp::Stanza;

use super::Shared;
use super::driver::Stream;
use super::turns::{Input, Kept};
use crate::federation::Ticket;
use crate::federation::bidi::Back;
use crate::federation::pairs::Pairs;

/// Requests of one stream that wait for its owner. Beyond: they are told that there is no such stream.
pub(super) const WAKES_MAX: usize = 4;

/// Somebody wants to go on with a stream.
#[derive(Debug)]
pub(super) struct Wake {
    /// What it has proved: it must be one of those who spoke there.
    pub(super) proved: Pairs,
    pub(super) answer: oneshot::Sender<Slept>,
}

/// What is handed over.
#[derive(Debug)]
pub(super) struct Slept {
    pub(super) kept: Kept,
    pub(super) back: Option<BackHalf>,
}

/// Our end of a stream that is for both directions.
#[derive(Debug)]
pub(super) struct BackHalf {
    pub(super) back: Back,
    pub(super) queue: mpsc::Receiver<(Ticket, Stanza)>,
}

impl BackHalf {
    /// Nothing more is taken: what was.
    pub(super) fn close(mut self) -> Vec<(Ticket, Stanza)> {
        self.queue.close();
        let mut rest = Vec::new();
        while let Ok(one) = self.queue.try_recv() {
            rest.push(one);
        }
        rest
    }
}

impl Shared {
    /// The stream of that id, if there is one, and whoever asks may have it.
    pub(super) async fn wake(&self, id: &str, proved: Pairs) -> Option<Slept> {
        let owner = self.resumable.lock().get(id).cloned()?;
        let (answer, slept) = oneshot::channel();
        owner.try_send(Wake { proved, answer }).ok()?;
        slept.await.ok()
    }
}

/// Whether who has proved `theirs` may go on with a stream of `kept`.
fn is_one_of(theirs: &Pairs, kept: &Pairs) -> bool {
    theirs.senders().any(|domain| kept.has_sender(domain))
}

impl Stream {
    /// The connection is lost, or another wants to have the stream. Comes back when it is given away, or its time is over.
    pub(super) async fn sleep(mut self, mut wake: Option<Wake>) {
        self.seat.lost();
        let until = Instant::now() + self.current.settings.timers.resume;
        while wake.is_none() {
            tokio::select! {
                Some(number) = self.handled.recv() => self.count(number),
                Some(one) = self.wakes.recv() => {
                    wake = Some(one).filter(|one| is_one_of(&one.proved, self.machine.proved()));
                }
                changed = self.watch.changed() => {
                    if changed.is_err() || self.watch.borrow_and_update().stop {
                        return self.finish("shutdown");
                    }
                }
                () = sleep_until(until) => return self.finish("lost"),
            }
        }
        let Some(Wake { answer, .. }) = wake else { return self.finish("lost") };
        // What is told to be handled does not come again: so wait for it, a while.
        let patience = self.current.settings.timers.ack;
        let all = async {
            while self.machine.open_stanzas() > 0 {
                let Some(number) = self.handled.recv().await else { return };
                self.count(number);
            }
        };
        let _ = timeout(patience, all).await;
        self.hand_over(answer);
    }

    fn count(&mut self, number: u64) {
        let mut out = Vec::new();
        self.with_machine(Input::Handled(number), &mut out);
        // An acknowledgement has nowhere to go.
    }

    fn hand_over(mut self, answer: oneshot::Sender<Slept>) {
        self.forget();
        // Whoever resumes has seen `<enabled/>`, and so all that was written before it.
        let arrived: Vec<_> = self.sent.drain(..).map(|(_, ticket, _)| ticket).collect();
        if let (Some(half), false) = (&self.back, arrived.is_empty()) {
            self.shared.bidi.delivered(half.back.stream, &arrived);
        }
        let Stream { machine, back, shared, .. } = self;
        let Some(kept) = machine.into_kept() else { return };
        if let Err(Slept { kept, back: Some(half) }) = answer.send(Slept { kept, back }) {
            // The new connection is gone already.
            let stream = half.back.stream;
            let mut rest: Vec<_> = kept.unacked.into_unacked().collect();
            rest.extend(half.close());
            shared.bidi.closed(stream, rest);
        }
        shared.counts.count("resumed");
    }

    /// It cannot be resumed any more.
    pub(super) fn forget(&mut self) {
        if let Some(id) = self.id.take() {
            self.shared.resumable.lock().remove(&id);
        }
    }

    /// The end, for good: what the peer may not have goes another way.
    pub(super) fn finish(&mut self, reason: &'static str) {
        self.forget();
        self.shared.counts.count(reason);
        let Some(half) = self.back.take() else { return };
        let stream = half.back.stream;
        let mut rest: Vec<_> =
            self.sent.drain(..).map(|(_, ticket, stanza)| (ticket, stanza)).collect();
        rest.extend(self.machine.take_unacked());
        rest.extend(half.close());
        self.shared.bidi.closed(stream, rest);
    }
}
