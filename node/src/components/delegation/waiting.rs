//! Requests to components that wait for their answers. Values only. Bounded three times: in all, for each component, so that one that does not answer leaves room
//! to the others, and for each asker.

use std::collections::HashMap;

use tokio::sync::oneshot;
use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Those of a component.
    Component(BareJid),
    /// Those of an account, or of another domain.
    Asker(String),
}

#[derive(Debug)]
struct One {
    answers: oneshot::Sender<Stanza>,
    counted: Vec<Key>,
}

/// See the room.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_id: HashMap<String, One>,
    counts: HashMap<Key, usize>,
}

impl Waiting {
    /// One more; `false` if there are `most`, or as many of a key as there may be.
    pub(super) fn insert(
        &mut self,
        id: &str,
        answers: oneshot::Sender<Stanza>,
        most: usize,
        each: &[(Key, usize)],
    ) -> bool {
        let is_full = |(key, most): &(Key, usize)| self.counts.get(key).is_some_and(|n| n >= most);
        if self.by_id.len() >= most || each.iter().any(is_full) {
            return false;
        }
        let counted: Vec<Key> = each.iter().map(|(key, _)| key.clone()).collect();
        for key in &counted {
            *self.counts.entry(key.clone()).or_default() += 1;
        }
        self.by_id.insert(id.to_owned(), One { answers, counted });
        true
    }

    /// It waits no more; who is to have the answer.
    pub(super) fn remove(&mut self, id: &str) -> Option<oneshot::Sender<Stanza>> {
        let One { answers, counted } = self.by_id.remove(id)?;
        for key in counted {
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
        Some(answers)
    }

    /// Nobody waits, and nobody is counted.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_in_all_and_of_each() {
        let pep = Key::Component(BareJid::parse("pep.chat.example").expect("a JID"));
        let romeo = Key::Asker("romeo@chat.example".into());
        let mut waiting = Waiting::default();
        let insert = |waiting: &mut Waiting, id: &str, each: &[(Key, usize)]| {
            waiting.insert(id, oneshot::channel().0, 4, each)
        };
        let both = [(pep.clone(), 3), (romeo.clone(), 2)];
        assert!(insert(&mut waiting, "1", &both) && insert(&mut waiting, "2", &both));
        assert!(!insert(&mut waiting, "3", &both));
        let pep = [(pep, 3)];
        assert!(insert(&mut waiting, "3", &pep) && !insert(&mut waiting, "4", &pep));
        assert!(insert(&mut waiting, "4", &[]) && !insert(&mut waiting, "5", &[]));
        assert!(waiting.remove("1").is_some() && waiting.remove("1").is_none());
        assert!(insert(&mut waiting, "5", &both));
        for id in ["2", "3", "4", "5"] {
            assert!(!waiting.is_empty() && waiting.remove(id).is_some());
        }
        assert!(waiting.is_empty());
    }
}
