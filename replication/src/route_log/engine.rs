//! The ring behind a route log: a bounded queue of numbered entries, as a plain value.
//!
//! Called by [`super::embedded`] and by simulators. No lock, no waiting, no time. When it is full the oldest entry goes;
//! whoever had not read it is told [`Tail::Trimmed`] and takes a full copy of the rows instead.

use std::collections::VecDeque;

/// Numbered entries, the newest `length_max` of them. Numbers are dense and begin at 1.
#[derive(Debug, Clone)]
pub struct Log<E> {
    entries: VecDeque<E>,
    head: u64,
    length_max: usize,
}

/// What follows a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail<E> {
    /// The entries from number `first` (the cursor plus one) on, in order; none when the cursor is at the head.
    Batch {
        /// The number of the first entry.
        first: u64,
        /// The entries, dense.
        entries: Vec<E>,
    },
    /// The entry after the cursor is gone, or the cursor is from another life of the log: take everything anew, as of
    /// `head`, and go on from there.
    Trimmed {
        /// The last number given.
        head: u64,
    },
}

impl<E: Clone> Log<E> {
    /// An empty log that keeps at most `length_max` (at least 1) entries.
    pub fn new(length_max: usize) -> Log<E> {
        Log { entries: VecDeque::new(), head: 0, length_max: length_max.max(1) }
    }

    /// Appends one entry, answers its number. The oldest goes when the log is full.
    pub fn append(&mut self, entry: E) -> u64 {
        if self.entries.len() == self.length_max {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.head += 1;
        self.head
    }

    /// The last number given, 0 at first.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// How many entries are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when no entry is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What follows `cursor`, at most `max` entries.
    pub fn tail(&self, cursor: u64, max: usize) -> Tail<E> {
        let trimmed = self.head - self.entries.len() as u64;
        if cursor < trimmed || cursor > self.head {
            return Tail::Trimmed { head: self.head };
        }
        let skip = (cursor - trimmed) as usize;
        let entries = self.entries.range(skip..).take(max).cloned().collect();
        Tail::Batch { first: cursor + 1, entries }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reader_at_the_head_gets_nothing_and_one_from_the_future_starts_anew() {
        let mut log = Log::new(4);
        assert_eq!(log.tail(0, 9), Tail::Batch { first: 1, entries: vec![] });
        assert_eq!(log.append('a'), 1);
        assert_eq!(log.tail(1, 9), Tail::Batch { first: 2, entries: vec![] });
        assert_eq!(log.tail(2, 9), Tail::Trimmed { head: 1 });
    }

    #[test]
    fn a_reader_that_fell_too_far_behind_is_told() {
        let mut log = Log::new(2);
        ('a'..='d').for_each(|entry| {
            log.append(entry);
        });
        assert_eq!(log.tail(1, 9), Tail::Trimmed { head: 4 });
        assert_eq!(log.tail(2, 9), Tail::Batch { first: 3, entries: vec!['c', 'd'] });
        assert_eq!(log.tail(2, 1), Tail::Batch { first: 3, entries: vec!['c'] });
    }

    proptest! {
        /// Whatever the pace of the reader: no gap and no repetition, unless it was told to start anew.
        #[test]
        fn a_reader_sees_every_entry_once_or_is_told(length in 1usize..8, steps in proptest::collection::vec((any::<bool>(), 1usize..5), 0..200)) {
            let mut log = Log::new(length);
            let (mut cursor, mut written) = (0u64, 0u64);
            for (writes, count) in steps {
                if writes {
                    for _ in 0..count {
                        written += 1;
                        prop_assert_eq!(log.append(written), written);
                    }
                } else {
                    match log.tail(cursor, count) {
                        Tail::Batch { first, entries } => {
                            prop_assert!(first == cursor + 1 && entries.len() <= count);
                            for entry in entries {
                                cursor += 1;
                                prop_assert_eq!(entry, cursor);
                            }
                        }
                        Tail::Trimmed { head } => {
                            prop_assert!(written - cursor > length as u64);
                            cursor = head;
                        }
                    }
                }
                prop_assert!(log.len() <= length);
            }
        }
    }
}
