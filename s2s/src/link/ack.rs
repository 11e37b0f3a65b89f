//! What was sent and is not yet acknowledged ([`Window`]), and what was received and is not yet taken ([`Inbox`]): the two ends of one
//! numbered lane, as values. Called by `lanes` and `peer`. The XEP-0198 idea (§4, §5), for frames, resumable after a cut. Absent: sockets, time.
//!
//! Numbers start at 1 and never go back while a node's incarnation lives, also when the peer's incarnation changes.

use std::collections::VecDeque;

use bytes::Bytes;

use super::frame::{self, FrameError, HEADER_BYTES};
use super::{FrameKind, LinkFull};

/// Frames are stored in pieces of about this size; a piece is freed when all of it is acknowledged.
const CHUNK_BYTES: usize = 64 * 1024;
/// Emptied pieces kept for reuse.
const SPARE_CHUNKS: usize = 2;

/// Whole encoded frames, `first..=last`, at `start` in the lane's endless byte stream.
struct Chunk {
    start: u64,
    first: u64,
    last: u64,
    bytes: Vec<u8>,
}

/// A place between two frames: so many bytes into the lane, after frame `seq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    at: u64,
    pub(crate) seq: u64,
}

/// What one copy to the wire contained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Copied {
    pub(crate) frames: u64,
    pub(crate) resent: u64,
}

/// Frames queued or sent and not yet acknowledged, encoded once, in order. The writer copies from `cursor` on; a resumption only moves the
/// cursor back, so that resending is the same path as sending. `acked ≤ sent`, and all frames after `acked` are here.
pub(crate) struct Window {
    lane: u64,
    chunks: VecDeque<Chunk>,
    spare: Vec<Vec<u8>>,
    end: Place,
    cursor: Place,
    acked: u64,
    sent: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Window {
    /// `lane` is set into every number (0 or [`frame::FRONT`]); `bytes_max` bounds what is kept.
    pub(crate) fn new(lane: u64, bytes_max: usize) -> Self {
        Self {
            lane,
            chunks: VecDeque::new(),
            spare: Vec::new(),
            end: Place::default(),
            cursor: Place::default(),
            acked: 0,
            sent: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Encodes a frame at the end of the queue and returns its number.
    ///
    /// # Errors
    /// [`LinkFull::Bytes`] when the bound is reached before this frame (one frame may pass it), [`LinkFull::Body`] when the body is too long.
    pub(crate) fn push(
        &mut self,
        kind: FrameKind,
        write: impl FnOnce(u64, &mut Vec<u8>),
    ) -> Result<u64, LinkFull> {
        if self.room() < HEADER_BYTES {
            return Err(LinkFull::Bytes);
        }
        let seq = self.end.seq + 1;
        let fits = self.chunks.back().is_some_and(|chunk| chunk.bytes.len() < CHUNK_BYTES);
        if !fits {
            let bytes = self.spare.pop().unwrap_or_default();
            self.chunks.push_back(Chunk {
                start: self.end.at,
                first: seq,
                last: self.end.seq,
                bytes,
            });
        }
        let chunk = self.chunks.back_mut().expect("pushed if there was none");
        let before = chunk.bytes.len();
        let written =
            frame::write_numbered(&mut chunk.bytes, seq | self.lane, kind, |out| write(seq, out));
        if let Err(full) = written {
            if chunk.bytes.is_empty() {
                self.chunks.pop_back();
            }
            return Err(full);
        }
        chunk.last = seq;
        let added = chunk.bytes.len() - before;
        self.bytes += added;
        self.end = Place { at: self.end.at + added as u64, seq };
        Ok(seq)
    }

    /// Puts whole frames, encoded elsewhere with the numbers that follow, the last of which is `last`.
    pub(crate) fn append(&mut self, encoded: &[u8], last: u64) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.bytes.len() < CHUNK_BYTES => {
                chunk.bytes.extend_from_slice(encoded);
                chunk.last = last;
            }
            _ => self.chunks.push_back(Chunk {
                start: self.end.at,
                first: self.end.seq + 1,
                last,
                bytes: encoded.to_vec(),
            }),
        }
        self.bytes += encoded.len();
        self.end = Place { at: self.end.at + encoded.len() as u64, seq: last };
    }

    /// Bytes that can still be queued.
    pub(crate) fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    /// The end of the queue now.
    pub(crate) fn end(&self) -> Place {
        self.end
    }

    /// Whether all up to `end` has been copied.
    pub(crate) fn reached(&self, end: Place) -> bool {
        self.cursor.at >= end.at
    }

    /// Copies frames from the cursor up to `end` into `out`, stopping early once `out` has `budget` bytes.
    pub(crate) fn copy(&mut self, out: &mut Vec<u8>, end: Place, budget: usize) -> Copied {
        let before = self.cursor.seq;
        let mut index = self.chunks.partition_point(|chunk| chunk.last <= self.cursor.seq);
        while out.len() < budget && self.cursor.at < end.at {
            let chunk = self.chunks.get(index).expect("what lies between cursor and end is stored");
            let whole = chunk.start + chunk.bytes.len() as u64;
            let until = if whole <= end.at { Place { at: whole, seq: chunk.last } } else { end };
            let (from, to) =
                ((self.cursor.at - chunk.start) as usize, (until.at - chunk.start) as usize);
            out.extend_from_slice(&chunk.bytes[from..to]);
            self.cursor = until;
            index += 1;
        }
        let resent = self.cursor.seq.min(self.sent).saturating_sub(before);
        self.sent = self.sent.max(self.cursor.seq);
        Copied { frames: self.cursor.seq - before, resent }
    }

    /// The peer has taken all up to `upto`. Returns whether that is news.
    ///
    /// # Errors
    /// [`FrameError::Ack`] when `upto` was never sent.
    pub(crate) fn ack(&mut self, upto: u64) -> Result<bool, FrameError> {
        if upto > self.sent {
            return Err(FrameError::Ack(upto));
        }
        if upto <= self.acked {
            return Ok(false);
        }
        self.acked = upto;
        while self.chunks.front().is_some_and(|chunk| chunk.last <= upto) {
            self.drop_front();
        }
        if self.cursor.seq < upto {
            self.seek(upto); // a resumed peer may acknowledge what we were about to send again
        }
        Ok(true)
    }

    fn drop_front(&mut self) {
        let Some(chunk) = self.chunks.pop_front() else { return };
        self.bytes -= chunk.bytes.len();
        let mut bytes = chunk.bytes;
        if self.spare.len() < SPARE_CHUNKS && bytes.capacity() <= 2 * CHUNK_BYTES {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Moves the cursor behind frame `seq`, which is acknowledged or stored.
    fn seek(&mut self, seq: u64) {
        let index = self.chunks.partition_point(|chunk| chunk.last <= seq);
        let Some(chunk) = self.chunks.get(index) else {
            self.cursor = self.end;
            return;
        };
        let (mut offset, mut at_seq) = (0, chunk.first - 1);
        while at_seq < seq {
            offset += frame_bytes(&chunk.bytes[offset..]);
            at_seq += 1;
        }
        self.cursor = Place { at: chunk.start + offset as u64, seq: at_seq };
    }

    /// A connection of the same two incarnations goes on: the peer has handled all up to `received` (0: nothing yet), the rest is sent again.
    /// False when that cannot be true: never sent, or less than was acknowledged.
    pub(crate) fn rewind(&mut self, received: u64) -> bool {
        let from = if received == 0 { self.acked } else { received };
        if from < self.acked || from > self.sent {
            return false;
        }
        self.seek(from);
        true
    }

    /// A connection to a peer that has seen nothing of what is stored, which is kept: all is sent as if for the first time.
    pub(crate) fn restart(&mut self) {
        self.seek(self.acked);
        self.sent = self.acked;
    }

    /// Gives up what is stored and returns all that was not acknowledged. Numbering goes on; what was given up counts as settled.
    pub(crate) fn give_up(&mut self) -> Vec<(u64, FrameKind, Bytes)> {
        let mut lost = Vec::new();
        for chunk in std::mem::take(&mut self.chunks) {
            let bytes = Bytes::from(chunk.bytes);
            let mut offset = 0;
            while offset < bytes.len() {
                let frame = bytes.slice(offset..offset + frame_bytes(&bytes[offset..]));
                let (seq, kind, body) = frame::stored(&frame);
                let seq = seq & !frame::FRONT;
                if seq > self.acked {
                    lost.push((seq, kind, frame.slice(body)));
                }
                offset += frame.len();
            }
        }
        self.bytes = 0;
        self.cursor = self.end;
        (self.acked, self.sent) = (self.end.seq, self.end.seq);
        lost
    }

    /// The number before the first frame that this side will send.
    pub(crate) fn cursor_seq(&self) -> u64 {
        self.cursor.seq
    }

    /// All up to here is taken by the peer, or given up.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Frames not yet acknowledged.
    pub(crate) fn frames(&self) -> u64 {
        self.end.seq - self.acked
    }

    /// Bytes kept for them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The whole size of the stored frame that `bytes` starts with.
fn frame_bytes(bytes: &[u8]) -> usize {
    let length = bytes.first_chunk::<4>().expect("whole frames are stored");
    4 + u32::from_be_bytes(*length) as usize
}

/// Frames received on one lane: each is handed out once, and acknowledged when it and all before it are taken.
///
/// The user knows a frame by its *ticket*, which never repeats while this node lives: a late answer for a frame of a peer's former
/// incarnation cannot acknowledge a frame of the present one. `ticket = number + shift`.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Number of the last frame handed out; `None` until the peer has said where it begins.
    received: Option<u64>,
    shift: u64,
    /// All tickets up to here are taken.
    taken: u64,
    /// Whether each ticket after `taken` is taken.
    later: VecDeque<bool>,
}

impl Inbox {
    /// The peer is another incarnation: what was received before is settled, its numbers mean nothing any more.
    pub(crate) fn reset(&mut self) {
        self.taken += self.later.len() as u64;
        self.later.clear();
        self.received = None;
    }

    /// The peer's first frame will be `first`, or was received already.
    ///
    /// # Errors
    /// [`FrameError::Gap`] when frames between were left out.
    pub(crate) fn begin(&mut self, first: u64) -> Result<(), FrameError> {
        match self.received {
            Some(received) if first > received + 1 => {
                Err(FrameError::Gap { expected: received + 1, got: first })
            }
            Some(_) => Ok(()),
            None if first == 0 => Err(FrameError::Gap { expected: 1, got: 0 }),
            None => {
                self.received = Some(first - 1);
                self.shift = self.taken.wrapping_sub(first - 1);
                Ok(())
            }
        }
    }

    /// Frame `seq` has come. Its ticket when it is to be handed out, `None` when it was before.
    ///
    /// # Errors
    /// [`FrameError::Gap`] when frames between were left out, [`FrameError::Begin`] before [`Inbox::begin`].
    pub(crate) fn receive(&mut self, seq: u64) -> Result<Option<u64>, FrameError> {
        let received = self.received.ok_or(FrameError::Begin)?;
        if seq <= received {
            return Ok(None);
        }
        if seq != received + 1 {
            return Err(FrameError::Gap { expected: received + 1, got: seq });
        }
        self.received = Some(seq);
        self.later.push_back(false);
        Ok(Some(seq.wrapping_add(self.shift)))
    }

    /// The user has taken the frame of this ticket. Returns whether there is more to acknowledge now. Unknown and settled tickets are ignored.
    pub(crate) fn take(&mut self, ticket: u64) -> bool {
        let Some(index) = ticket.checked_sub(self.taken + 1) else { return false };
        let Some(entry) = self.later.get_mut(index as usize) else { return false };
        *entry = true;
        while self.later.front() == Some(&true) {
            self.later.pop_front();
            self.taken += 1;
        }
        index == 0
    }

    /// The number to acknowledge: it and all before it are taken.
    pub(crate) fn ack(&self) -> u64 {
        if self.received.is_none() { 0 } else { self.taken.wrapping_sub(self.shift) }
    }

    /// Number of the last frame handed out, 0 before the peer has begun.
    pub(crate) fn received(&self) -> u64 {
        self.received.unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "tests/ack.rs"]
mod tests;
