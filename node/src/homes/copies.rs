//! What other regions have of our log, by their own word; and the answers that wait for it, where `durability = "two-regions"`: what a home has
//! committed is answered when the region that would become home in its stead has it on disk too (blueprint §7). Fed by `Homes::shipped`
//! and the writer. Bound: the writer refuses requests while [`WAITING_MAX`] answers wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::writer::Done;
use super::{HomeError, HomeMap};
use crate::told::Told;

/// Answers that wait for a second region at most. Beyond, requests are [`HomeError::Busy`]: that region is away, or slow.
pub(super) const WAITING_MAX: usize = 16_384;

/// See the room.
#[derive(Default)]
pub(super) struct Copies {
    has: Mutex<BTreeMap<String, u64>>,
    news: Told<u64>,
    waiting: Mutex<Waiting>,
    /// What was committed before this life: nobody knows of which owner, so it counts for all.
    before: AtomicU64,
    joining: Mutex<Option<String>>,
}

#[derive(Default)]
struct Waiting {
    answers: Vec<Answer>,
    /// The newest entry of each owner that is not known to be in two regions: what is answered of that owner then rests on it. At most an entry
    /// for each account homed here, while the heir is away.
    unsafe_of: HashMap<String, u64>,
}

struct Answer {
    owner: String,
    seq: u64,
    to: oneshot::Sender<Done>,
    done: Done,
}

impl Copies {
    /// This life begins with a log up to there.
    pub(super) fn begin(&self, head: u64) {
        self.before.store(head, Ordering::Release);
    }

    /// The region has our log up to there, on disk.
    pub(super) fn has(&self, region: &str, seq: u64) {
        self.has.lock().insert(region.to_owned(), seq);
        self.news.change(|news| *news += 1);
    }

    /// Waits until a region has so much of our log.
    pub(super) async fn reach(&self, region: &str, seq: u64) {
        self.news.until(|_| self.of(region) >= seq).await;
    }

    fn of(&self, region: &str) -> u64 {
        self.has.lock().get(region).copied().unwrap_or(0)
    }

    /// A region says that what was written of this owner counts for nothing: another is its home by now. Who waits for it is not told that it is done.
    pub(super) fn disown(&self, owner: &str) {
        let mut waiting = self.waiting.lock();
        waiting.unsafe_of.remove(owner);
        let (lost, rest) =
            std::mem::take(&mut waiting.answers).into_iter().partition(|one| one.owner == owner);
        waiting.answers = rest;
        for Answer { to, done, .. } in lost {
            drop(to.send(Done { result: Err(HomeError::Unreachable), ..done }));
        }
    }

    /// A region is about to be an heir: until it is not any more, nothing counts as safe that it does not have.
    pub(super) fn joins(&self, region: Option<&str>) {
        *self.joining.lock() = region.map(str::to_owned);
    }

    /// How many answers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.lock().answers.len()
    }

    /// Answers when the owner's heir has what the answer rests on: the entry that was made for it, or the last one of that owner.
    pub(super) fn answer(
        &self,
        map: &dyn HomeMap,
        owner: &str,
        entry: Option<u64>,
        to: oneshot::Sender<Done>,
        done: Done,
    ) {
        {
            let mut waiting = self.waiting.lock();
            if let Some(seq) = entry {
                waiting.unsafe_of.insert(owner.to_owned(), seq);
            }
            let seq = waiting.unsafe_of.get(owner).copied();
            let seq = seq.unwrap_or(0).max(self.before.load(Ordering::Acquire));
            if seq == 0 {
                drop(to.send(done));
                return;
            }
            waiting.answers.push(Answer { owner: owner.to_owned(), seq, to, done });
        }
        self.settle(map);
    }

    /// Something has changed: who has what, or who the heirs are.
    pub(super) fn settle(&self, map: &dyn HomeMap) {
        let mut waiting = self.waiting.lock();
        if waiting.unsafe_of.is_empty() && waiting.answers.is_empty() {
            return;
        }
        let joining = self.joining.lock().clone();
        let joined = joining.map_or(u64::MAX, |region| self.of(&region));
        let is_safe = |owner: &str, seq: u64| {
            seq <= joined && map.heir(owner).is_some_and(|heir| self.of(&heir) >= seq)
        };
        waiting.unsafe_of.retain(|owner, seq| !is_safe(owner, *seq));
        for answer in std::mem::take(&mut waiting.answers) {
            let home = map.home(&answer.owner);
            if !home.local {
                // It has passed to another region, with this or without it.
                let done = match self.of(&home.region) >= answer.seq {
                    true => answer.done,
                    false => Done { result: Err(HomeError::Unreachable), ..answer.done },
                };
                drop(answer.to.send(done));
            } else if is_safe(&answer.owner, answer.seq) {
                drop(answer.to.send(answer.done));
            } else if !answer.to.is_closed() {
                waiting.answers.push(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HomePlace, Position};
    use super::*;

    struct Heirs(Mutex<Option<&'static str>>);

    impl HomeMap for Heirs {
        fn home(&self, _: &str) -> HomePlace {
            HomePlace { region: "eu".into(), epoch: 1, local: true }
        }

        fn shard(&self, _: u8) -> HomePlace {
            self.home("")
        }

        fn heir(&self, _: &str) -> Option<std::sync::Arc<str>> {
            self.0.lock().map(Into::into)
        }
    }

    #[test]
    fn an_answer_waits_for_the_heir_and_so_does_what_rests_on_the_same_entry() {
        let (copies, heirs) = (Copies::default(), Heirs(Mutex::new(Some("us"))));
        let ask = |entry| {
            let (to, answer) = oneshot::channel();
            let at = Position { log: 1, seq: 7 };
            let done = Done { result: Ok(Vec::new()), at, changed: true };
            copies.answer(&heirs, "romeo@x", entry, to, done);
            answer
        };
        assert!(ask(None).try_recv().is_ok(), "nothing of his is at risk");
        let (mut written, mut read) = (ask(Some(7)), ask(None));
        copies.has("ap", 9);
        copies.has("us", 6);
        copies.settle(&heirs);
        assert!(written.try_recv().is_err() && read.try_recv().is_err());
        *heirs.0.lock() = None;
        copies.settle(&heirs);
        assert!(written.try_recv().is_err(), "there is no second region");
        *heirs.0.lock() = Some("ap");
        copies.settle(&heirs);
        assert!(written.try_recv().is_ok() && read.try_recv().is_ok());
        assert!(ask(None).try_recv().is_ok() && copies.waiting() == 0);
        drop(ask(Some(10)));
        copies.settle(&heirs);
        assert_eq!(copies.waiting(), 0, "nobody waits for it");
        assert!(ask(None).try_recv().is_err(), "but it is still at risk");
    }
}
