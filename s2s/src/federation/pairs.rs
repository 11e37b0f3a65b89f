//! Room: what a peer has proved on one stream: pairs of domains (XEP-0220 §2.6). A value; both halves ask it who may send.

use std::collections::BTreeMap;

use super::dialback::Pair;

/// Pairs of domains that were proved, in the direction of what the peer sends. Bounded by whoever adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Their domains, and for each the ones of ours.
    by_sender: BTreeMap<String, Vec<String>>,
    len: usize,
}

impl Pairs {
    /// One more. Whether it is new.
    pub fn add(&mut self, pair: &Pair) -> bool {
        let ours = self.by_sender.entry(pair.from.clone()).or_default();
        let new = !ours.contains(&pair.to);
        if new {
            ours.push(pair.to.clone());
            self.len += 1;
        }
        new
    }

    /// Whether that pair was proved.
    #[must_use]
    pub fn has(&self, pair: &Pair) -> bool {
        self.by_sender.get(&pair.from).is_some_and(|ours| ours.contains(&pair.to))
    }

    /// Whether the peer has proved that it speaks for that domain, to whichever domain of ours. That is enough for its stanzas: who they are from
    /// does not depend on whom they are to. COMPAT: Prosody and ejabberd see it so too.
    #[must_use]
    pub fn has_sender(&self, domain: &str) -> bool {
        self.by_sender.contains_key(domain)
    }

    /// The domains the peer speaks for.
    pub fn senders(&self) -> impl Iterator<Item = &str> {
        self.by_sender.keys().map(String::as_str)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Pair> + '_ {
        self.by_sender.iter().flat_map(|(from, ours)| ours.iter().map(|to| Pair::new(from, to)))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is proved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_not_its_subdomain() {
        let mut pairs = Pairs::default();
        assert!(pairs.is_empty());
        let pair = Pair::new("chat.montague.example", "capulet.example");
        assert!(pairs.add(&pair) && !pairs.add(&pair));
        assert!(pairs.has(&pair) && !pairs.has(&pair.reversed()));
        assert!(pairs.has_sender("chat.montague.example"));
        for other in ["montague.example", "a.chat.montague.example", "capulet.example", ""] {
            assert!(!pairs.has_sender(other)); // B-197
        }
        assert!(pairs.add(&Pair::new("chat.montague.example", "rooms.capulet.example")));
        assert_eq!((pairs.len(), pairs.senders().count(), pairs.iter().count()), (2, 1, 2));
    }
}
