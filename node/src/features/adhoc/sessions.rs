//! Executions of commands that wait for their form (XEP-0050 §3.3), as plain state: whoever calls says what time it is.
//! An execution belongs to one requester and one command. When it is over its id is remembered for as long as it might have lasted, so
//! that it is told from one that never was. Bound: beyond it the oldest is forgotten.

use std::collections::{HashMap, VecDeque};

use xmpp::jid::Jid;

/// Why there is no such execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Never heard of, or another's.
    Unknown,
    /// It came to its end, or lasted too long.
    Over,
}

#[derive(Debug)]
struct Session {
    by: Jid,
    node: String,
    until_ms: u64,
    over: bool,
}

/// See the room.
#[derive(Debug)]
pub(super) struct Sessions {
    max: usize,
    timeout_ms: u64,
    all: HashMap<String, Session>,
    /// In the order in which they began.
    order: VecDeque<String>,
}

impl Sessions {
    pub(super) fn new(max: usize, timeout_ms: u64) -> Self {
        Self { max, timeout_ms, all: HashMap::new(), order: VecDeque::new() }
    }

    /// An execution begins; `id` is nobody else's.
    pub(super) fn begin(&mut self, id: String, by: &Jid, node: &str, now_ms: u64) {
        self.forget(now_ms);
        while self.all.len() >= self.max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.all.remove(&oldest);
        }
        let until_ms = now_ms.saturating_add(self.timeout_ms);
        let session = Session { by: by.clone(), node: node.to_owned(), until_ms, over: false };
        self.all.insert(id.clone(), session);
        self.order.push_back(id);
    }

    /// Whether it goes on.
    pub(super) fn find(&self, id: &str, by: &Jid, node: &str, now_ms: u64) -> Result<(), Lost> {
        match self.all.get(id) {
            Some(session) if session.by != *by || session.node != node => Err(Lost::Unknown),
            Some(session) if session.over || session.until_ms <= now_ms => Err(Lost::Over),
            Some(_) => Ok(()),
            None => Err(Lost::Unknown),
        }
    }

    /// It is over.
    pub(super) fn end(&mut self, id: &str, now_ms: u64) {
        self.forget(now_ms);
        if let Some(session) = self.all.get_mut(id) {
            session.over = true;
        }
    }

    /// Those that lasted too long, once more as long.
    fn forget(&mut self, now_ms: u64) {
        while let Some(oldest) = self.order.front() {
            let until_ms = self.all.get(oldest).map_or(0, |session| session.until_ms);
            if until_ms.saturating_add(self.timeout_ms) > now_ms {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.all.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).expect("a JID")
    }

    #[test]
    fn an_execution_is_its_requesters_until_it_ends() {
        let (admin, other) = (jid("admin@a.example/x"), jid("admin@a.example/y"));
        let mut all = Sessions::new(10, 1_000);
        all.begin("1".into(), &admin, "n", 0);
        assert_eq!(all.find("1", &admin, "n", 999), Ok(()));
        assert_eq!(all.find("1", &other, "n", 0), Err(Lost::Unknown));
        assert_eq!(all.find("1", &admin, "m", 0), Err(Lost::Unknown));
        assert_eq!(all.find("2", &admin, "n", 0), Err(Lost::Unknown));
        assert_eq!(all.find("1", &admin, "n", 1_000), Err(Lost::Over));
        all.end("1", 0);
        assert_eq!(all.find("1", &admin, "n", 0), Err(Lost::Over));
        all.end("2", 2_000);
        assert_eq!(all.find("1", &admin, "n", 2_000), Err(Lost::Unknown));
        assert!(all.all.is_empty() && all.order.is_empty());
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_forgotten() {
        let admin = jid("admin@a.example/x");
        let mut all = Sessions::new(2, 1_000);
        for id in ["1", "2", "3"] {
            all.begin(id.into(), &admin, "n", 0);
        }
        assert_eq!(all.find("1", &admin, "n", 0), Err(Lost::Unknown));
        assert_eq!(all.find("3", &admin, "n", 0), Ok(()));
        assert_eq!((all.all.len(), all.order.len()), (2, 2));
    }
}
