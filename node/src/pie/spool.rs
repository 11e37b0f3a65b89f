//! What was archived of a user, between the reading of the document and its import: as much as there is, in memory or in a temporary file
//! that has no name and goes with the process. An archive may stand anywhere in its user, and is imported behind all the rest.

use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};

use tempfile::SpooledTempFile;

use super::SPOOL_BYTES_MAX;
use crate::admin::Archived;

/// Written to its end, then read.
pub struct Spool {
    file: BufReader<SpooledTempFile>,
    len: u64,
    reading: bool,
}

impl Default for Spool {
    fn default() -> Spool {
        Spool {
            file: BufReader::new(SpooledTempFile::new(SPOOL_BYTES_MAX)),
            len: 0,
            reading: false,
        }
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Spool({})", self.len)
    }
}

impl Spool {
    /// One more.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub(super) fn push(&mut self, archived: &Archived) -> io::Result<()> {
        debug_assert!(!self.reading, "it is written before it is read");
        let mut line = serde_json::to_vec(archived).expect("strings and numbers always serialise");
        line.push(b'\n');
        self.file.get_mut().write_all(&line)?;
        self.len += 1;
        Ok(())
    }

    /// How many are left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// None are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next of them, about as many as have so many bytes; none at the end.
    ///
    /// # Errors
    /// The disk fails.
    pub fn next(&mut self, bytes_max: usize) -> io::Result<Vec<Archived>> {
        if !self.reading {
            self.file.seek(SeekFrom::Start(0))?;
            self.reading = true;
        }
        let (mut archived, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
        while self.len > 0 && bytes < bytes_max {
            line.clear();
            bytes += self.file.read_until(b'\n', &mut line)?;
            archived.push(serde_json::from_slice(&line)?);
            self.len -= 1;
        }
        Ok(archived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_in_order_from_memory_and_from_disk() {
        for size in [10, 100_000] {
            let archived =
                |n: u64| Archived { id: n.to_string(), at: n, message: "x\n".repeat(size) };
            let mut spool = Spool::default();
            (0..100).for_each(|n| spool.push(&archived(n)).expect("written"));
            assert_eq!(spool.len(), 100);
            let mut ids = Vec::new();
            while !spool.is_empty() {
                let some = spool.next(1_000_000).expect("read");
                assert!(!some.is_empty());
                ids.extend(some.into_iter().map(|archived| archived.at));
            }
            assert_eq!(ids, (0..100).collect::<Vec<_>>());
            assert!(spool.next(1).expect("read").is_empty());
        }
    }
}
