//! Session: what a client has sent and may not be told of yet. XEP-0198 §3: `h` says that responsibility was *taken*; for a message that is
//! when somebody else has it, when it is on disk here, or when its sender has the error. Until then its [`Receipt`] is open.
//! Made by the session, kept by `router::ledger`, dropped when responsibility is taken: that is all there is to do with one. Streams of other domains
//! count in the same way (`s2s::federation::Handled`), and what waits for a receipt need not know whose it is.

use std::sync::Arc;

use parking_lot::Mutex;
use s2s::federation;
use xmpp::sm::Inbound;

use super::{Control, Item, Seat};

/// The stanzas of one session, and who waits to hear of them. Outlives the connection, moves with the session when it is resumed.
#[derive(Debug)]
pub struct Handled {
    seat: Arc<Seat>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inbound: Inbound,
    /// Everything before these tickets was to be handled when the client asked: first and last time it did.
    asked: Option<(u64, u64)>,
    /// The session reads on when so few are open.
    resume_below: Option<u64>,
}

/// One message of a client or of another domain, until responsibility for it is taken: then it is dropped.
#[derive(Debug)]
pub struct Receipt(Of);

#[derive(Debug)]
enum Of {
    Client(Open),
    /// The last of those who have a part of the responsibility ends it.
    Stream(Arc<federation::Handled>),
}

#[derive(Debug)]
struct Open {
    handled: Arc<Handled>,
    ticket: u64,
    /// Others have a part of the responsibility: the last of them to drop theirs ends it.
    others: Option<Arc<()>>,
}

impl Receipt {
    /// Of a stanza that another domain has sent.
    pub fn of_stream(handled: federation::Handled) -> Receipt {
        Receipt(Of::Stream(Arc::new(handled)))
    }

    /// Another part of the responsibility for the same message.
    pub fn share(&mut self) -> Receipt {
        Receipt(match &mut self.0 {
            Of::Client(open) => {
                let others = Some(open.others.get_or_insert_default().clone());
                Of::Client(Open { handled: open.handled.clone(), ticket: open.ticket, others })
            }
            Of::Stream(handled) => Of::Stream(handled.clone()),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Of several that are dropped at once exactly one is the last.
        let is_last = self.others.take().is_none_or(|others| Arc::into_inner(others).is_some());
        if is_last {
            self.handled.done(self.ticket);
        }
    }
}

impl Handled {
    /// Of a session that has sent nothing under stream management yet.
    pub fn new(seat: &Arc<Seat>) -> Arc<Self> {
        Arc::new(Self { seat: seat.clone(), state: Mutex::default() })
    }

    /// Of a session that has come from another node, where so many stanzas were handled.
    pub fn resumed(seat: &Arc<Seat>, handled: u32) -> Arc<Self> {
        let state = State { inbound: Inbound::resumed(handled), ..State::default() };
        Arc::new(Self { seat: seat.clone(), state: Mutex::new(state) })
    }

    /// One stanza came and is handled.
    pub fn count(&self) {
        self.state.lock().inbound.count();
    }

    /// One message came.
    pub fn begin(self: &Arc<Self>) -> Receipt {
        let ticket = self.state.lock().inbound.begin();
        Receipt(Of::Client(Open { handled: self.clone(), ticket, others: None }))
    }

    /// The `h` to tell.
    pub fn handled(&self) -> u32 {
        self.state.lock().inbound.handled()
    }

    /// How many are open or wait for one that is.
    pub fn open(&self) -> u64 {
        let state = self.state.lock();
        state.inbound.next() - state.inbound.first_open()
    }

    /// The client asks. [`Control::Handled`] comes when all it has sent until now is handled, behind what is in the mailbox (an error that
    /// ends a message goes before the number that says so); never later than the outbox writes.
    pub fn ask(&self) {
        let mut state = self.state.lock();
        let now = state.inbound.next();
        let (first, _) = *state.asked.get_or_insert((now, now));
        state.asked = Some((first, now));
        self.tell(state);
    }

    /// Whether `most` are open: then the session stops reading, and is told with [`Control::Handled`] when it may go on.
    pub fn is_full(&self, most: u64) -> bool {
        let mut state = self.state.lock();
        let full = state.inbound.next() - state.inbound.first_open() >= most;
        state.resume_below = full.then_some(most / 2);
        full
    }

    fn done(&self, ticket: u64) {
        let mut state = self.state.lock();
        state.inbound.done(ticket);
        self.tell(state);
    }

    fn tell(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let first_open = state.inbound.first_open();
        let open = state.inbound.next() - first_open;
        let answered = state.asked.is_some_and(|(first, _)| first_open >= first);
        if answered {
            state.asked = state.asked.take().filter(|(_, last)| *last > first_open);
            state.asked = state.asked.map(|(_, last)| (last, last));
        }
        let resumes = state.resume_below.is_some_and(|below| open <= below);
        if resumes {
            state.resume_below = None;
        }
        drop(state);
        if answered || resumes {
            // Control always fits; a closed mailbox means the session is over and nobody asks any more.
            let _ = self.seat.mailbox.push(Item::Control(Control::Handled { answer: answered }));
        }
    }
}
