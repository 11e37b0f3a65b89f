//! Requests to homes, at both ends: `Homes::request` where it is asked, `Homes::serve` where it is done.
//!
//! A request that crosses regions carries an id; the home remembers ids with their answers, so the asker may send the
//! same bytes again after a cut and it is done once. A long answer that changed nothing, a page of something, is not
//! remembered: it may as well be read again. The memory does not outlive the home's process: a request whose home crashed between commit and
//! answer may be done twice, so operations should be worded so that this is harmless.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use xmpp::BareJid;

use super::copies::WAITING_MAX;
use super::wire::{Call, Reply, RequestId, decode, encode};
use super::writer::{Done, Job, Request};
use super::{CallError, HomeError, HomePlace, Homes, hand_over};
use crate::storage::Position;

/// Between two attempts over a broken way.
const RETRY: Duration = Duration::from_millis(250);

/// How long to wait for metadata here to change, after `NotHome`. Short, for it may be there that it is behind (a follower hears of what is agreed
/// with the leader's next heartbeat, up to a second later), or a hand-over may have been given up: of neither anything is heard here.
const NOT_HOME_PATIENCE: Duration = Duration::from_millis(250);

/// Bytes of one answer: with what names its call it fits into one frame of a link.
const ANSWER_BYTES_MAX: usize = (1 << 20) - 64;

/// An answer as short as this is remembered though nothing was changed: it may be a refusal, and who was refused must not find later that what was
/// asked again has been done.
const ANSWER_SHORT: usize = 1 << 10;

/// Bytes of answers that are remembered for each node that asks. An answer to a change is short, as a rule: `answers_max` is reached before.
const ANSWERS_BYTES_MAX: usize = 8 << 20;

type Answer = SharedFuture<BoxFuture<'static, Vec<u8>>>;

/// What one node has asked, by request id, oldest first: what is being done, what was changed, and what was refused. Bounded in number, and by [`ANSWERS_BYTES_MAX`];
/// the oldest is forgotten first, and would be done again.
#[derive(Default)]
pub(super) struct Answered {
    /// Each with its bytes; none, while it is being done.
    answers: HashMap<RequestId, (Answer, usize)>,
    order: VecDeque<RequestId>,
    bytes: usize,
}

impl Answered {
    fn find(&self, id: &RequestId) -> Option<Answer> {
        self.answers.get(id).map(|(answer, _)| answer.clone())
    }

    fn insert(&mut self, id: RequestId, answer: Answer, most: usize) {
        while self.order.len() >= most
            && let Some(oldest) = self.order.front().copied()
        {
            self.forget(oldest);
        }
        self.order.push_back(id);
        self.answers.insert(id, (answer, 0));
    }

    /// It is answered, in so many bytes.
    fn answered(&mut self, id: RequestId, bytes: usize, changed: bool) {
        if !changed && bytes > ANSWER_SHORT {
            return self.forget(id);
        }
        let Some((_, has)) = self.answers.get_mut(&id) else { return };
        self.bytes -= std::mem::replace(has, bytes);
        self.bytes += bytes;
        while self.bytes > ANSWERS_BYTES_MAX {
            // What is being done has no bytes, and stays: it is what is most likely to be asked again.
            let is_answered =
                |id: &&RequestId| self.answers.get(id).is_some_and(|(_, has)| *has > 0);
            let Some(oldest) = self.order.iter().find(is_answered).copied() else { return };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, id: RequestId) {
        self.bytes -= self.answers.remove(&id).map_or(0, |(_, bytes)| bytes);
        if let Some(at) = self.order.iter().position(|known| *known == id) {
            self.order.remove(at);
        }
    }
}

impl Homes {
    /// [`Homes::request`] with plain values, answered by [`super::answer`] at the home.
    ///
    /// # Errors
    /// As `request`; `Unknown` also when the home runs another version.
    pub async fn exchange<Q: Serialize, A: DeserializeOwned>(
        &self,
        account: &BareJid,
        op: &'static str,
        request: &Q,
    ) -> Result<A, HomeError> {
        let body = postcard::to_stdvec(request).expect("a plain value");
        let answer = self.request(account, op, body).await?;
        postcard::from_bytes(&answer).map_err(|_| HomeError::Unknown(op.to_owned()))
    }

    /// Has the account's home do `op`. When it answers `Ok`, that is committed at the home, and (unless the replica
    /// here is more than `follow_timeout` behind) reads here see it. Dropping the future does not undo the request.
    pub fn request<'a>(
        &'a self,
        account: &'a BareJid,
        op: &'static str,
        request: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async move {
            let local = self.shared.is_home(account.as_str());
            let result = self.ask(account, op, request).await;
            let failed = !matches!(result, Ok(_) | Err(HomeError::Refused(_)));
            let mut counts = self.shared.requests.lock();
            counts.local += u64::from(local);
            counts.remote += u64::from(!local);
            counts.failed += u64::from(failed);
            result
        }
        .boxed()
    }

    async fn ask(
        &self,
        account: &BareJid,
        op: &'static str,
        request: Vec<u8>,
    ) -> Result<Vec<u8>, HomeError> {
        let deadline = Instant::now() + self.shared.config.request_timeout;
        loop {
            let seen = self.shared.metadata.get();
            let place = self.shared.map.home(account.as_str());
            let result = if place.local {
                match self.submit(account.clone(), op, request.clone()) {
                    Ok(answer) => match timeout_at(deadline, answer).await {
                        Ok(Ok(done)) => done.result,
                        Ok(Err(_)) | Err(_) => Err(HomeError::Unreachable),
                    },
                    Err(error) => Err(error),
                }
            } else {
                self.call(&place, account, op, &request, deadline).await
            };
            match result {
                Err(HomeError::NotHome { .. }) => {
                    // Metadata is on its way here or there; ask again when something has changed, or after a while.
                    let until = deadline.min(Instant::now() + NOT_HOME_PATIENCE);
                    if Instant::now() >= deadline {
                        return result;
                    }
                    let changed = self.shared.metadata.until(|version| *version != seen);
                    drop(timeout_at(until, changed).await);
                }
                result => return result,
            }
        }
    }

    /// Over the way to another region, again after a loss, until the deadline.
    async fn call(
        &self,
        place: &HomePlace,
        account: &BareJid,
        op: &'static str,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Vec<u8>, HomeError> {
        let counter = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let body = encode(&Call {
            id: RequestId { incarnation: self.shared.config.incarnation, counter },
            epoch: place.epoch,
            account: account.as_str().to_owned(),
            op: op.to_owned(),
            request: request.to_vec(),
        });
        let has_moved = || {
            let now = self.shared.map.home(account.as_str());
            (now != *place).then_some(now.epoch)
        };
        let reply = self.repeat(&place.region, body, deadline, has_moved).await?;
        self.follow(&place.region, reply.at).await;
        reply.result
    }

    /// The same bytes, until there is an answer or the deadline has passed. An answer that is an error comes back as that.
    /// `has_moved` says, with an epoch, that somebody else is to be asked.
    pub(super) async fn repeat(
        &self,
        region: &str,
        body: Vec<u8>,
        deadline: Instant,
        has_moved: impl Fn() -> Option<u64>,
    ) -> Result<Reply, HomeError> {
        loop {
            let call = self.shared.transport.call(region, body.clone());
            match timeout_at(deadline, call).await {
                Ok(Ok(bytes)) => {
                    let reply: Reply =
                        decode(&bytes).ok_or_else(|| HomeError::Unknown("our version".into()))?;
                    return reply.result.map(|answer| Reply { result: Ok(answer), at: reply.at });
                }
                Ok(Err(CallError::Unreachable)) | Err(_) => return Err(HomeError::Unreachable),
                Ok(Err(CallError::Lost)) => {
                    if timeout_at(deadline, tokio::time::sleep(RETRY)).await.is_err() {
                        return Err(HomeError::Unreachable);
                    }
                    if let Some(epoch) = has_moved() {
                        return Err(HomeError::NotHome { epoch });
                    }
                }
            }
        }
    }

    /// Waits until the replica here has applied what the home had, within bounds.
    async fn follow(&self, home: &str, at: Position) {
        if at.seq == 0 {
            return; // Its log is empty: there is nothing to follow.
        }
        let followed = self.shared.followed(home);
        let reached = followed.until(|now| now.log == at.log && now.seq >= at.seq);
        if timeout(self.shared.config.follow_timeout, reached).await.is_err() {
            tracing::debug!(home, seq = at.seq, "the replica is behind; answered all the same");
        }
    }

    /// Gives an operation to the writer.
    fn submit(
        &self,
        account: BareJid,
        op: &str,
        request: Vec<u8>,
    ) -> Result<oneshot::Receiver<Done>, HomeError> {
        if self.shared.copies.waiting() >= WAITING_MAX {
            return Err(HomeError::Busy);
        }
        let (sender, answer) = oneshot::channel();
        let request = Request { account, op: op.to_owned(), request, answer: sender };
        self.shared.give(Job::Run(request))?;
        Ok(answer)
    }

    /// A call of another node has come: does it and gives the answer's bytes. The work goes on if the future is
    /// dropped, and the same call again gets the same answer.
    pub fn serve(&self, from: &str, body: impl AsRef<[u8]>) -> BoxFuture<'static, Vec<u8>> {
        let refuse = |error| {
            let at = Position { log: self.shared.log(), seq: 0 };
            std::future::ready(encode(&Reply { result: Err(error), at })).boxed()
        };
        let Some(call) = decode::<Call>(body.as_ref()) else {
            return refuse(HomeError::Unknown("this version's requests".into()));
        };
        let mut all = self.shared.answered.lock();
        if let Some(answer) = all.get(from).and_then(|seen| seen.find(&call.id)) {
            return answer.boxed();
        }
        if call.op == hand_over::OP {
            return match decode::<hand_over::Order>(&call.request) {
                Some(order) if self.shared.place(&order.what).local => {
                    let homes = self.clone();
                    let answer = async move {
                        let done = hand_over::hand_over(&homes, order.what, &order.to).await;
                        let shared = &homes.shared;
                        let at = Position { log: shared.log(), seq: shared.head.get() };
                        encode(&Reply { result: done.map(|()| Vec::new()), at })
                    };
                    let answer = answer.boxed().shared();
                    let most = self.shared.config.answers_max;
                    let seen = all.entry(from.to_owned()).or_default();
                    seen.insert(call.id, answer.clone(), most);
                    answer.boxed()
                }
                Some(_) => refuse(HomeError::NotHome { epoch: call.epoch }),
                None => refuse(HomeError::Unknown(call.op)),
            };
        }
        if call.op == hand_over::HAS {
            // Who does not write does not know where our log ends.
            if !self.shared.pen.is_held() {
                return refuse(HomeError::Busy);
            }
            let shared = Arc::clone(&self.shared);
            return async move {
                let result = match decode::<hand_over::Base>(&call.request) {
                    Some(base) => hand_over::has(&shared, &base.0).await,
                    None => Err(HomeError::Unknown(call.op)),
                };
                let at = Position { log: shared.log(), seq: shared.head.get() };
                encode(&Reply { result: result.map(|()| Vec::new()), at })
            }
            .boxed();
        }
        let Ok(account) = BareJid::parse(&call.account) else {
            return refuse(HomeError::Unknown(format!("the account {:?}", call.account)));
        };
        let place = self.shared.map.home(account.as_str());
        if !place.local || place.epoch != call.epoch {
            return refuse(HomeError::NotHome { epoch: place.epoch });
        }
        let receiver = match self.submit(account, &call.op, call.request) {
            Ok(receiver) => receiver,
            Err(error) => return refuse(error),
        };
        let nothing = Position { log: self.shared.log(), seq: 0 };
        let (id, op) = (call.id, call.op);
        let (asker, shared) = (from.to_owned(), Arc::downgrade(&self.shared));
        let answer = receiver.map(move |done| {
            let lost = Done { result: Err(HomeError::Unreachable), at: nothing, changed: true };
            let done = done.unwrap_or(lost);
            let changed = done.changed;
            let bytes = reply(&op, done);
            if let Some(shared) = shared.upgrade() {
                let mut all = shared.answered.lock();
                if let Some(seen) = all.get_mut(&asker) {
                    seen.answered(id, bytes.len(), changed);
                }
            }
            bytes
        });
        let answer = answer.boxed().shared();
        let most = self.shared.config.answers_max;
        all.entry(from.to_owned()).or_default().insert(call.id, answer.clone(), most);
        answer.boxed()
    }
}

/// The answer's bytes. Of one that no link takes the asker is told the reason: it would wait for it, and ask again, until its deadline.
fn reply(op: &str, done: Done) -> Vec<u8> {
    let Done { result, at, changed } = done;
    let bytes = encode(&Reply { result, at });
    if bytes.len() <= ANSWER_BYTES_MAX {
        return bytes;
    }
    tracing::error!(op, length = bytes.len(), "an answer is longer than a link takes");
    // Any other error would say that nothing was changed.
    let error = match changed {
        true => HomeError::Unreachable,
        false => HomeError::Storage(format!("the answer to {op} is too long")),
    };
    encode(&Reply { result: Err(error), at })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Net, Node, World, node};
    use super::*;
    use crate::storage::memory::Memory;

    async fn home() -> Node {
        let (net, world) = (Arc::new(Net::default()), World::new("eu"));
        node(&net, &world, "eu", Arc::new(Memory::default()), |_| ()).await
    }

    /// What another node asks, with that number.
    async fn asked(home: &Node, counter: u64, op: &str, request: &[u8]) -> Vec<u8> {
        let id = RequestId { incarnation: 1, counter };
        let (account, op) = ("romeo@chat.example".to_owned(), op.to_owned());
        let call = encode(&Call { id, epoch: 1, account, op, request: request.to_vec() });
        let reply = home.homes.serve("us", call).await;
        decode::<Reply>(&reply).expect("a reply").result.expect("done")
    }

    /// Bytes remembered, and of how many answers.
    fn remembered(home: &Node) -> (usize, usize) {
        let all = home.homes.shared.answered.lock();
        let seen = &all["us"];
        assert_eq!(seen.order.len(), seen.answers.len());
        let bytes = seen.answers.values().filter_map(|(answer, _)| answer.peek()).map(Vec::len);
        (bytes.sum(), seen.answers.len())
    }

    #[tokio::test]
    async fn answers_to_changes_are_remembered_up_to_a_bound_in_bytes() {
        let home = home().await;
        // Each is answered with what the one before has written.
        let write = |n: u64| format!("k={n}{}", "x".repeat(700 << 10)).into_bytes();
        for n in 0..30 {
            asked(&home, n, "test.set", &write(n)).await;
        }
        let (bytes, count) = remembered(&home);
        assert!((ANSWERS_BYTES_MAX / 2..=ANSWERS_BYTES_MAX).contains(&bytes), "{bytes} bytes");
        assert_eq!(count, ANSWERS_BYTES_MAX / (700 << 10));
        assert!(asked(&home, 29, "test.set", &write(29)).await.starts_with(b"28x"), "done once");
        assert!(asked(&home, 20, "test.set", &write(20)).await.starts_with(b"19x"), "done once");
    }

    #[tokio::test]
    async fn a_long_answer_that_changed_nothing_is_not_remembered() {
        let home = home().await;
        let long = format!("k={}", "x".repeat(2 * ANSWER_SHORT));
        assert_eq!(asked(&home, 1, "test.get", b"k").await, b"");
        assert_eq!(asked(&home, 2, "test.set", long.as_bytes()).await, b"");
        assert_eq!(asked(&home, 3, "test.get", b"k").await.len(), long.len() - 2);
        assert_eq!(asked(&home, 4, "test.set", b"k=v").await.len(), long.len() - 2);
        assert_eq!(asked(&home, 1, "test.get", b"k").await, b"", "as it was answered");
        assert_eq!(asked(&home, 3, "test.get", b"k").await, b"v", "read again");
        assert_eq!(asked(&home, 4, "test.set", b"k=v").await.len(), long.len() - 2, "done once");
        assert_eq!(remembered(&home).1, 4);
    }

    #[test]
    fn of_an_answer_that_no_link_takes_the_reason_is_told() {
        let at = Position { log: u64::MAX, seq: u64::MAX };
        let said = |length: usize, changed| {
            let bytes = reply("test.get", Done { result: Ok(vec![7; length]), at, changed });
            let framed = crate::geo::frame::Reply { id: u64::MAX, body: bytes.clone() };
            let framed = postcard::to_stdvec(&framed).expect("a plain value").len();
            assert!(framed <= s2s::link::BODY_BYTES_MAX, "{framed} bytes");
            decode::<Reply>(&bytes).expect("a reply").result.map(|answer| answer.len())
        };
        assert_eq!(said(ANSWER_BYTES_MAX - 32, false), Ok(ANSWER_BYTES_MAX - 32));
        assert!(matches!(said(ANSWER_BYTES_MAX, false), Err(HomeError::Storage(_))));
        assert_eq!(said(2 << 20, true), Err(HomeError::Unreachable));
    }

    #[test]
    fn what_is_being_done_is_not_forgotten_for_long_answers() {
        let id = |counter| RequestId { incarnation: 1, counter };
        let answer = || std::future::pending().boxed().shared();
        let mut seen = Answered::default();
        for n in 0..10 {
            seen.insert(id(n), answer(), 4096);
        }
        for n in 1..10 {
            seen.answered(id(n), 1 << 20, true);
        }
        let kept: Vec<u64> = seen.order.iter().map(|id| id.counter).collect();
        assert_eq!(kept, [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(seen.bytes, 8 << 20);
        seen.answered(id(0), 2 * ANSWER_SHORT, false);
        seen.insert(id(10), answer(), 4);
        assert_eq!((seen.order.len(), seen.bytes), (4, 3 << 20));
    }
}
