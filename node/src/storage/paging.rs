//! A page of the durable log as it is read row by row: what backends with tables have in common. Called by their `log_read`.

use replication::Entry;

use super::{LogPage, StorageError};

/// Rows that are asked for at once, so that one long page never holds the whole log in memory.
pub(super) const SLICE: usize = 256;

/// What has been read. A row is taken with [`Paging::take`] as long as that says so.
pub(super) struct Paging {
    after: u64,
    bytes_max: usize,
    bytes: usize,
    page: Vec<Entry>,
    /// The first row is not the one that comes next.
    is_trimmed: bool,
}

impl Paging {
    /// Of what follows `after`, up to so many bytes, or one entry if that has more.
    pub(super) fn new(after: u64, bytes_max: usize) -> Self {
        Self { after, bytes_max, bytes: 0, page: Vec::new(), is_trimmed: false }
    }

    /// After which entry the next slice begins.
    pub(super) fn last(&self) -> u64 {
        self.page.last().map_or(self.after, |entry| entry.seq)
    }

    /// The next row. False: the page ends before it.
    ///
    /// # Errors
    /// [`StorageError::Damaged`].
    pub(super) fn take(&mut self, seq: i64, encoded: &[u8]) -> Result<bool, StorageError> {
        self.bytes += encoded.len();
        if self.bytes > self.bytes_max && !self.page.is_empty() {
            return Ok(false);
        }
        let entry = Entry::decode(encoded)
            .ok_or_else(|| StorageError::Damaged(format!("durable log entry {seq}")))?;
        let follows = entry.seq == self.last() + 1;
        match follows {
            true => self.page.push(entry),
            false => self.is_trimmed = self.page.is_empty(),
        }
        Ok(follows)
    }

    pub(super) fn end(self) -> LogPage {
        match self.is_trimmed {
            true => LogPage::Trimmed,
            false => LogPage::Entries(self.page),
        }
    }
}
