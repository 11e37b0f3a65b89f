//! Room `s2s::federation::net`: which certificate each domain showed last, so that the log can say when it is another. In memory only, and bounded:
//! it is a remark for the operator, not a decision.

use std::collections::HashMap;

use crate::tls::Fingerprint;

/// Domains that are remembered. Beyond: the one that has not been seen for longest is forgotten.
pub(super) const DOMAINS_MAX: usize = 4_096;

#[derive(Default)]
pub(super) struct Seen {
    domains: HashMap<Box<str>, (Fingerprint, u64)>,
    count: u64,
}

impl Seen {
    /// `domain` shows this certificate now; which it showed before, if that was another.
    pub(super) fn saw(&mut self, domain: &str, now: Fingerprint) -> Option<Fingerprint> {
        self.count += 1;
        if let Some((last, at)) = self.domains.get_mut(domain) {
            *at = self.count;
            return (*last != now).then(|| std::mem::replace(last, now));
        }
        if self.domains.len() >= DOMAINS_MAX {
            let oldest = self.domains.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(domain, _)| domain.clone()) {
                self.domains.remove(&oldest);
            }
        }
        self.domains.insert(domain.into(), (now, self.count));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        assert_eq!(seen.saw("a.example", one), None);
        assert_eq!(seen.saw("a.example", one), None);
        assert_eq!(seen.saw("a.example", two), Some(one));
        assert_eq!(seen.saw("a.example", two), None);
        for n in 0..DOMAINS_MAX - 1 {
            seen.saw(&format!("{n}.example"), one);
        }
        assert_eq!(seen.saw("a.example", two), None, "it is seen, so it is not the oldest");
        seen.saw("new.example", one);
        assert_eq!(seen.domains.len(), DOMAINS_MAX);
        assert_eq!(seen.saw("0.example", two), None, "it was forgotten");
        assert_eq!(seen.saw("a.example", one), Some(two));
    }
}
