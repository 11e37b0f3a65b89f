//! Room: sessions whose generation is ahead of this node's clock, because they were bound over one whose clock is (an hour, ten years). Generations that the
//! clock makes are never made twice; these are made from what is known of the full JID, and that may be forgotten while the session's task still has something
//! to do: the next one would get the same, and the end of the former would take its row away. So they are remembered as long as they live.
//!
//! Called by `app` when a session is bound. Values; memory: one entry for each such session, and as many again that have ended since it was tidied last.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use replication::Hlc;
use xmpp::jid::FullJid;

/// Entries before it is tidied for the first time.
const TIDY_AT: usize = 64;

/// See the room. Of any kind of session.
#[derive(Debug)]
pub(super) struct Ahead<S>(Mutex<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    sessions: HashMap<FullJid, Vec<(Hlc, Weak<S>)>>,
    tidy_at: usize,
}

impl<S> Default for Ahead<S> {
    fn default() -> Self {
        Self(Mutex::new(Inner { sessions: HashMap::new(), tidy_at: TIDY_AT }))
    }
}

impl<S> Ahead<S> {
    /// A session of that full JID has that generation, which the clock has not reached.
    pub(super) fn remember(&self, full: &FullJid, generation: Hlc, session: &Arc<S>) {
        let mut inner = self.0.lock();
        if inner.sessions.len() >= inner.tidy_at {
            inner.sessions.retain(|_, all| {
                all.retain(|(_, session)| session.strong_count() > 0);
                !all.is_empty()
            });
            inner.tidy_at = TIDY_AT.max(2 * inner.sessions.len());
        }
        let all = inner.sessions.entry(full.clone()).or_default();
        all.retain(|(_, session)| session.strong_count() > 0);
        all.push((generation, Arc::downgrade(session)));
    }

    /// The greatest that a session of it has which lives.
    pub(super) fn newest(&self, full: &FullJid) -> Option<Hlc> {
        let inner = self.0.lock();
        let lives = inner.sessions.get(full)?.iter().filter(|(_, one)| one.strong_count() > 0);
        lives.map(|(generation, _)| *generation).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_is_remembered_and_nobody_else() {
        let ahead = Ahead::<()>::default();
        let full = |n: usize| FullJid::parse(&format!("juliet@chat.example/{n}")).expect("a JID");
        let (one, other) = (Arc::new(()), Arc::new(()));
        ahead.remember(&full(0), Hlc(7), &one);
        ahead.remember(&full(0), Hlc(9), &other);
        assert_eq!((ahead.newest(&full(0)), ahead.newest(&full(1))), (Some(Hlc(9)), None));
        drop(other);
        assert_eq!(ahead.newest(&full(0)), Some(Hlc(7)), "it lives still");
        for n in 1..1000 {
            ahead.remember(&full(n), Hlc(1), &Arc::new(()));
        }
        assert!(ahead.0.lock().sessions.len() <= TIDY_AT, "the dead are forgotten");
        assert_eq!(ahead.newest(&full(0)), Some(Hlc(7)));
        drop(one);
        assert_eq!(ahead.newest(&full(0)), None);
    }
}
