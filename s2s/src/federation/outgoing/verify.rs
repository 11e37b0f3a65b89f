//! Room `federation::outgoing`: asking authoritative servers about keys (XEP-0220 §2.1.2), for whoever has been shown one. Called by `incoming`, through
//! [`Verifier`](crate::federation::dialback::Verifier).
//!
//! One connection for each domain that is asked, of its own: with TLS where it is offered, without authentication, which asking needs not. What is
//! asked while it stands goes over it; a few moments after the last answer it is closed, and one that is still being made is given up when nobody waits for it
//! any more. Answers are matched with what was asked on the same stream, and others dropped (bad-inputs S-054).
//!
//! Anybody who connects makes us ask: so there are as many at a time as `verifications_max` says.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use xmpp::{StreamCondition, StreamError, ns};

use super::Shared;
use super::failure::Failure;
use super::machine::Terms;
use super::open::{FAREWELL, open};
use super::way::Io;
use crate::federation::dialback::{Dialback, DialbackError, Outcome, Pair, Step, Verify};
use crate::federation::wire::{self, Item, Turn, Wire};

/// How long a connection is kept for the next question.
const IDLE: Duration = Duration::from_secs(5);
/// Questions to one domain at a time. Beyond: `resource-constraint`.
const QUESTIONS_MAX: usize = 64;

type Answer = Result<bool, DialbackError>;

/// A question, and where its answer goes.
#[derive(Debug)]
struct Question {
    ask: Verify,
    answer: oneshot::Sender<Answer>,
}

/// The connections there are, by the domain that is asked. An entry whose task has ended is replaced by the next question, and taken away by the task.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<String, mpsc::Sender<Question>>>);

/// Asks. Ends within `timers.negotiate`.
pub(super) fn verify(shared: &Arc<Shared>, ask: Verify) -> BoxFuture<'static, Answer> {
    let shared = shared.clone();
    let asking = async move {
        let (answer, answered) = oneshot::channel();
        let longest = shared.settings().timers.negotiate;
        put(&shared, Question { ask, answer })?;
        match timeout(longest, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(DialbackError::RemoteServerTimeout),
        }
    };
    asking.boxed()
}

/// To the task of the domain; there is a new one if it has none.
fn put(shared: &Arc<Shared>, question: Question) -> Result<(), DialbackError> {
    use mpsc::error::TrySendError::{Closed, Full};
    let mut all = shared.questions.0.lock();
    let theirs = question.ask.pair.from.clone();
    let question = match all.get(&theirs) {
        None => question,
        Some(task) => match task.try_send(question) {
            Ok(()) => return Ok(()),
            Err(Full(_)) => return Err(DialbackError::ResourceConstraint),
            Err(Closed(question)) => question,
        },
    };
    if all.len() >= shared.settings().limits.verifications_max {
        return Err(DialbackError::ResourceConstraint);
    }
    let (task, questions) = mpsc::channel(QUESTIONS_MAX);
    let ours = question.ask.pair.to.clone();
    task.try_send(question).expect("the channel is new");
    all.insert(theirs.clone(), task);
    tokio::spawn(run(shared.clone(), Pair { from: ours, to: theirs }, questions));
    Ok(())
}

/// Asks one domain, until nothing is asked any more.
async fn run(shared: Arc<Shared>, pair: Pair, mut questions: mpsc::Receiver<Question>) {
    loop {
        let (failure, mut open) = connection(&shared, &pair, &mut questions).await;
        // Under the lock, so that nothing is put behind what is answered here.
        let mut all = shared.questions.0.lock();
        if matches!(failure, Failure::Done) && !questions.is_empty() {
            continue; // Somebody has asked since.
        }
        questions.close();
        while let Ok(question) = questions.try_recv() {
            open.push(question);
        }
        if all.get(&pair.to).is_some_and(mpsc::Sender::is_closed) {
            all.remove(&pair.to);
        }
        drop(all);
        if !open.is_empty() {
            tracing::info!(domain = pair.to, %failure, "its dialback keys cannot be verified");
        }
        for question in open {
            let _ = question.answer.send(Err(condition(&failure)));
        }
        return;
    }
}

/// One connection, from its making to its end, and what is not answered then.
async fn connection(
    shared: &Arc<Shared>,
    pair: &Pair,
    questions: &mut mpsc::Receiver<Question>,
) -> (Failure, Vec<Question>) {
    let settings = shared.settings();
    let policy = settings.policies.of(&pair.to);
    if !policy.allow {
        return (Failure::Forbidden, Vec::new());
    }
    let terms = Terms { only_verify: true, external: false, bidi: false, ..Terms::of(&policy) };
    let deadline = Instant::now() + settings.timers.negotiate;
    let mut waiting = Vec::new();
    let opened = tokio::select! {
        opened = open(&*shared.way, pair, terms, None, deadline) => opened,
        () = nobody_waits(questions, &mut waiting) => Err(Failure::Done),
    };
    let wire = match opened {
        Err(failure) => return (failure, waiting),
        Ok((wire, _)) => wire,
    };
    let mut asked = Asked { wire, open: Vec::new() };
    waiting.into_iter().for_each(|question| asked.ask(question));
    let failure = asked.run(questions).await;
    let error = match &failure {
        Failure::Protocol(error) => Some(error),
        _ => None,
    };
    asked.wire.put(&wire::farewell(error));
    tokio::spawn(asked.wire.close(FAREWELL));
    (failure, asked.open)
}

/// Takes what is asked. Comes back when nobody waits for an answer any more.
async fn nobody_waits(questions: &mut mpsc::Receiver<Question>, waiting: &mut Vec<Question>) {
    loop {
        let has_room = waiting.len() < QUESTIONS_MAX;
        let gone = poll_fn(|cx| {
            let gone = waiting.iter_mut().any(|one| one.answer.poll_closed(cx).is_ready());
            if gone { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            Some(question) = questions.recv(), if has_room => waiting.push(question),
            () = gone => waiting.retain(|question| !question.answer.is_closed()),
        }
        if waiting.is_empty() && questions.is_empty() {
            return;
        }
    }
}

/// What the one who has shown the key is told (XEP-0220 §2.5; bad-inputs B-202).
fn condition(failure: &Failure) -> DialbackError {
    match failure {
        Failure::NotFound(_) | Failure::Forbidden => DialbackError::RemoteServerNotFound,
        Failure::Peer(error)
            if matches!(
                error.condition,
                StreamCondition::HostUnknown | StreamCondition::HostGone
            ) =>
        {
            DialbackError::RemoteServerNotFound
        }
        // It was there, and then it was not.
        Failure::Deadline
        | Failure::Silent
        | Failure::Peer(_)
        | Failure::Closed
        | Failure::Cut(_)
        | Failure::Done => DialbackError::RemoteServerTimeout,
        _ => DialbackError::RemoteConnectionFailed,
    }
}

/// A connection, and what is asked over it.
struct Asked {
    wire: Wire<Io>,
    open: Vec<Question>,
}

impl Asked {
    fn ask(&mut self, question: Question) {
        let Verify { pair, id, key } = question.ask.clone();
        let step = Step::Verify { id, key };
        self.wire.put(&Dialback { pair: pair.reversed(), step }.to_bytes());
        self.open.push(question);
    }

    async fn run(&mut self, questions: &mut mpsc::Receiver<Question>) -> Failure {
        let mut idle = Instant::now() + IDLE;
        loop {
            match self.read_on() {
                Ok(0) => {}
                Ok(_) => idle = Instant::now() + IDLE,
                Err(failure) => return failure,
            }
            // Those who have given up waiting are no reason to stay.
            self.open.retain(|question| !question.answer.is_closed());
            tokio::select! {
                turn = self.wire.turn(true) => match turn {
                    Ok(Turn::Ended) => return Failure::Closed,
                    Ok(_) => {}
                    Err(error) => return Failure::Cut(error.to_string()),
                },
                Some(question) = questions.recv(), if self.open.len() < QUESTIONS_MAX => {
                    self.ask(question);
                    idle = Instant::now() + IDLE;
                }
                () = sleep_until(idle) => {
                    if self.open.is_empty() {
                        return Failure::Done;
                    }
                    idle = Instant::now() + IDLE;
                }
            }
        }
    }

    /// Takes what was read; how many answers there were in it.
    fn read_on(&mut self) -> Result<usize, Failure> {
        let mut answers = 0;
        while let Some(item) = self.wire.next().map_err(Failure::Protocol)? {
            let element = match item {
                Item::Element(element) => element,
                Item::Close => return Err(Failure::Closed),
                Item::Open(_) => return Err(Failure::Protocol(StreamError::bad_format())),
                Item::Stanza(..) => return Err(Failure::Protocol(StreamError::not_authorized())),
            };
            if let Some(error) = StreamError::from_element(&element) {
                return Err(Failure::Peer(error));
            }
            if element.ns() != ns::DIALBACK {
                continue;
            }
            let Dialback { pair, step } = Dialback::read(&element).map_err(Failure::Protocol)?;
            let Step::Verified { id, outcome } = step else { continue };
            let is_it = |question: &Question| {
                // An answer has the addresses of its question swapped, and so are those of what was shown.
                question.ask.id == id && question.ask.pair == pair
            };
            while let Some(at) = self.open.iter().position(is_it) {
                let answer = match outcome {
                    Outcome::Valid => Ok(true),
                    Outcome::Invalid => Ok(false),
                    Outcome::Error(_) => Err(DialbackError::RemoteServerNotFound),
                };
                let _ = self.open.swap_remove(at).answer.send(answer);
                answers += 1;
            }
        }
        Ok(answers)
    }
}
