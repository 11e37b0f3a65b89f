//! Transport: read and write buffers that exist only while they hold something.
//!
//! Called by the transports (to read into), by the session (to collect what it writes) and by `TlsState`. A [`Buffer`] that
//! is empty owns no memory: the first byte takes a block from a pool of this thread, and `consume` gives the block
//! back as soon as nothing is left in it. So an idle session holds none, and a busy one reuses warm memory.
//!
//! Deliberately absent: shared ownership. A stanza is copied once out of the read buffer when it is received.

use std::cell::RefCell;

/// The size of a pooled block.
pub const BUFFER_BYTES: usize = 16 * 1024;
/// Blocks that a thread keeps for reuse (1 MiB a thread); what comes back beyond them is freed.
pub const POOLED_BUFFERS_MAX: usize = 64;
/// The room that must be free before a read is attempted; less than that, and the buffer is compacted or grown.
pub const READ_ROOM_BYTES: usize = 2 * 1024;
/// What a buffer may hold before `Buffer::make_room` refuses. The framer's limits are far below: reaching this means that
/// somebody collects without looking.
pub const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in, bytes out, in order. 32 bytes, and no heap memory while it is empty.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// An empty buffer, which owns nothing.
    pub const fn new() -> Self {
        Self { data: Vec::new(), start: 0 }
    }

    /// What was put in and not consumed.
    pub fn filled(&self) -> &[u8] {
        &self.data[self.start..]
    }

    /// How many bytes that is.
    pub fn len(&self) -> usize {
        self.data.len() - self.start
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory it owns at the moment, used or not: 0 when it is idle.
    pub fn owned_bytes(&self) -> usize {
        self.data.capacity()
    }

    /// Drops the first `count` bytes. When nothing is left, the memory goes back to the pool.
    ///
    /// # Panics
    /// When `count` is more than there is.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed more than there is");
        self.start += count;
        self.release_if_empty();
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.consume(self.len());
    }

    /// Appends a copy of `bytes`.
    pub fn put(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.acquire();
            self.data.extend_from_slice(bytes);
        }
    }

    /// The vector behind, to append to, for writers that want `&mut Vec<u8>` (XML writers). Nothing before `start` or what is
    /// already there may be touched: only append. Call [`Buffer::release_if_empty`] if nothing was appended after all.
    pub fn writer(&mut self) -> &mut Vec<u8> {
        self.acquire();
        &mut self.data
    }

    /// Makes at least [`READ_ROOM_BYTES`] of room, for a read. `false` when the buffer is as full as it may ever be.
    pub(crate) fn make_room(&mut self) -> bool {
        self.acquire();
        if self.data.capacity() - self.data.len() >= READ_ROOM_BYTES {
            return true;
        }
        if self.len() >= BUFFER_BYTES_MAX {
            return false;
        }
        // Compact when that frees half of the block; else double. Both are amortised constant per byte.
        if self.start >= self.data.capacity() / 2 {
            self.data.drain(..self.start);
            self.start = 0;
        } else {
            self.data.reserve(self.data.capacity().max(READ_ROOM_BYTES));
        }
        true
    }

    fn acquire(&mut self) {
        if self.data.capacity() == 0 {
            self.data =
                POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        }
    }

    /// Gives the memory back if nothing is in it.
    pub fn release_if_empty(&mut self) {
        if self.is_empty() && self.data.capacity() > 0 {
            let mut data = std::mem::take(&mut self.data);
            self.start = 0;
            data.clear();
            // A block that had to grow is freed: the pool's memory stays what its bounds say. So is everything while the thread ends.
            if data.capacity() == BUFFER_BYTES {
                let _ = POOL.try_with(|pool| {
                    let mut pool = pool.borrow_mut();
                    if pool.len() < POOLED_BUFFERS_MAX {
                        pool.push(data);
                    }
                });
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_buffer_owns_nothing() {
        let mut buffer = Buffer::new();
        assert_eq!(buffer.owned_bytes(), 0);
        buffer.put(b"<presence/>");
        assert_eq!(buffer.owned_bytes(), BUFFER_BYTES);
        buffer.consume(4);
        assert_eq!(buffer.filled(), b"sence/>");
        buffer.consume(7);
        assert_eq!(buffer.owned_bytes(), 0);
        assert!(size_of::<Buffer>() <= 32);
    }

    #[test]
    fn a_block_is_used_again() {
        let mut first = Buffer::new();
        first.put(b"x");
        let block = first.filled().as_ptr();
        first.clear();
        let mut second = Buffer::new();
        second.put(b"y");
        assert_eq!(second.filled().as_ptr(), block);
    }

    #[test]
    fn a_block_that_grew_is_freed_not_pooled() {
        let mut buffer = Buffer::new();
        buffer.put(&[0; BUFFER_BYTES * 3]);
        buffer.clear();
        POOL.with_borrow(|pool| assert!(pool.iter().all(|block| block.capacity() == BUFFER_BYTES)));
    }

    #[test]
    fn the_pool_of_a_thread_is_bounded() {
        let mut many: Vec<Buffer> = Vec::new();
        for _ in 0..POOLED_BUFFERS_MAX + 10 {
            let mut buffer = Buffer::new();
            buffer.put(b"x");
            many.push(buffer);
        }
        drop(many);
        POOL.with_borrow(|pool| assert_eq!(pool.len(), POOLED_BUFFERS_MAX));
    }

    #[test]
    fn room_comes_from_compacting_first_and_from_growing_then() {
        let mut buffer = Buffer::new();
        buffer.put(&[1; BUFFER_BYTES - 10]);
        buffer.consume(BUFFER_BYTES - 20);
        assert!(buffer.make_room());
        assert_eq!((buffer.filled(), buffer.owned_bytes()), (&[1; 10][..], BUFFER_BYTES));
        buffer.put(&[2; BUFFER_BYTES - 20]);
        assert!(buffer.make_room());
        assert!(buffer.owned_bytes() >= 2 * BUFFER_BYTES);
        assert_eq!(buffer.len(), BUFFER_BYTES - 10);
    }

    #[test]
    fn a_buffer_that_nobody_empties_refuses_in_the_end() {
        let mut buffer = Buffer::new();
        while buffer.len() < BUFFER_BYTES_MAX {
            assert!(buffer.make_room());
            let room = buffer.data.capacity() - buffer.data.len();
            buffer.writer().extend(std::iter::repeat_n(0, room));
        }
        assert!(!buffer.make_room());
    }
}
