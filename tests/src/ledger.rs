//! Serial numbers: what was sent, what came, and what that means. Called by the end-to-end tests.
//!
//! A sender numbers its messages from 0. The receiver must see every number once, in order. A ledger never forgives:
//! a number lost, doubled, out of order or never sent makes [`Ledger::verdict`] say so.

use std::collections::BTreeMap;
use std::fmt;

/// What one receiver has seen of several senders.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: BTreeMap<String, Vec<u64>>,
    strange: Vec<String>,
}

/// The body of a message with its number.
pub fn body(sender: &str, number: u64) -> String {
    format!("serial {sender} {number}")
}

impl Ledger {
    /// Writes down a body that was made by [`body`]; anything else is remembered as strange.
    pub fn enter(&mut self, text: &str) {
        let mut words = text.split(' ');
        let entry = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("serial"), Some(sender), Some(number), None) => {
                number.parse().ok().map(|n| (sender, n))
            }
            _ => None,
        };
        match entry {
            Some((sender, number)) => self.seen.entry(sender.into()).or_default().push(number),
            None => self.strange.push(text.into()),
        }
    }

    /// How many were seen of one sender, doubles counted.
    pub fn count(&self, sender: &str) -> usize {
        self.seen(sender).len()
    }

    /// What was seen of one sender, doubles too.
    pub fn seen(&self, sender: &str) -> &[u64] {
        self.seen.get(sender).map_or(&[], Vec::as_slice)
    }

    /// Holds what was seen of one sender against the first `sent` numbers: each once, in order.
    ///
    /// # Errors
    /// Names what is lost, doubled, out of order or unknown.
    pub fn verdict(&self, sender: &str, sent: u64) -> Result<(), String> {
        let wrong: Vec<String> = [self.complete(sender, sent), self.in_order(sender)]
            .into_iter()
            .filter_map(Result::err)
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Is what was seen of a sender in order?
    ///
    /// # Errors
    /// Names the first that came late.
    pub fn in_order(&self, sender: &str) -> Result<(), String> {
        let late = self.seen.get(sender).and_then(|seen| seen.windows(2).find(|p| p[1] < p[0]));
        late.map_or(Ok(()), |pair| Err(format!("of {sender}: {} came after {}", pair[1], pair[0])))
    }

    /// Was each of the first `sent` numbers of a sender seen once, in whatever order?
    ///
    /// # Errors
    /// Names what is lost, doubled or unknown.
    pub fn complete(&self, sender: &str, sent: u64) -> Result<(), String> {
        self.complete_but(sender, sent, &[])
    }

    /// As [`Self::complete`], where these came back to the sender: they must not have been seen.
    ///
    /// # Errors
    /// Names what is lost, doubled, unknown, or came although it came back.
    pub fn complete_but(&self, sender: &str, sent: u64, returned: &[u64]) -> Result<(), String> {
        let none = Vec::new();
        let seen = self.seen.get(sender).unwrap_or(&none);
        let mut times = vec![0u32; usize::try_from(sent).expect("tests send few")];
        let mut wrong = Vec::new();
        for &number in seen {
            match times.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
                Some(times) => *times += 1,
                None => wrong.push(format!("{number} was never sent")),
            }
        }
        let numbers = |wanted: &dyn Fn(u32) -> bool| -> Vec<usize> {
            times.iter().enumerate().filter(|(_, t)| wanted(**t)).map(|(n, _)| n).collect()
        };
        let is_returned = |n: &usize| returned.contains(&(*n as u64));
        let (mut lost, doubled) = (numbers(&|t| t == 0), numbers(&|t| t > 1));
        lost.retain(|n| !is_returned(n));
        let mut both = numbers(&|t| t > 0);
        both.retain(is_returned);
        if !both.is_empty() {
            wrong.push(format!("{} came although they came back: {both:?}", both.len()));
        }
        if !lost.is_empty() {
            wrong.push(format!("{} lost: {:?}", lost.len(), &lost[..lost.len().min(20)]));
        }
        if !doubled.is_empty() {
            wrong.push(format!(
                "{} doubled: {:?}",
                doubled.len(),
                &doubled[..doubled.len().min(20)]
            ));
        }
        if !self.strange.is_empty() {
            wrong.push(format!(
                "{} strange bodies, the first is {:?}",
                self.strange.len(),
                self.strange[0]
            ));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("of {sent} from {sender}: {}", wrong.join("; ")))
        }
    }
}

/// What became of what was sent, as clients saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// By those who write.
    pub sent: u64,
    /// To those who read, while they were there.
    pub delivered: u64,
    /// What they find who come anew when all is over.
    pub stored: u64,
    /// What came back to those who write.
    pub refused: u64,
}

impl Sum {
    /// Has each of them become one of the three?
    ///
    /// # Errors
    /// Says the numbers.
    pub fn adds_up(&self) -> Result<(), String> {
        match self.delivered + self.stored + self.refused == self.sent {
            true => Ok(()),
            false => Err(format!("it does not add up: {self}")),
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, delivered, stored, refused } = self;
        write!(f, "{sent} sent, {delivered} delivered, {stored} stored, {refused} refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: &[u64], sent: u64) -> Result<(), String> {
        let mut ledger = Ledger::default();
        for n in seen {
            ledger.enter(&body("romeo", *n));
        }
        ledger.verdict("romeo", sent)
    }

    #[test]
    fn all_in_order_is_well() {
        check(&[0, 1, 2], 3).unwrap();
        check(&[], 0).unwrap();
    }

    #[test]
    fn what_is_lost_doubled_disordered_or_invented_is_named() {
        assert!(check(&[0, 2], 3).unwrap_err().contains("1 lost: [1]"));
        assert!(check(&[0, 1, 1, 2], 3).unwrap_err().contains("1 doubled: [1]"));
        assert!(check(&[0, 2, 1], 3).unwrap_err().contains("1 came after 2"));
        let mut ledger = Ledger::default();
        ledger.enter(&body("romeo", 0));
        ledger.enter(&body("romeo", 2));
        ledger.complete_but("romeo", 3, &[1]).unwrap();
        assert!(ledger.complete_but("romeo", 3, &[1, 2]).unwrap_err().contains("[2]"));
        assert!(check(&[0, 1, 7], 2).unwrap_err().contains("7 was never sent"));
        let mut ledger = Ledger::default();
        ledger.enter("hello");
        assert!(ledger.verdict("romeo", 0).unwrap_err().contains("strange"));
    }

    #[test]
    fn a_sum_that_lacks_one_or_has_one_twice_does_not_add_up() {
        let sum = Sum { sent: 6, delivered: 3, stored: 2, refused: 1 };
        sum.adds_up().unwrap();
        let lacks = Sum { stored: 1, ..sum }.adds_up().unwrap_err();
        assert!(lacks.contains("6 sent, 3 delivered, 1 stored, 1 refused"), "{lacks}");
        assert!(Sum { refused: 2, ..sum }.adds_up().is_err());
    }
}
