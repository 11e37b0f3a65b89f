//! Frames as bytes: `u32 length | u8 kind | [u64 sequence number, numbered kinds only] | body`, big-endian, the length counting all that follows it.
//! Called by `ack` and `lanes` (to write) and `driver` (to read). Values only: no socket, no clock. A length is judged before anything is
//! allocated for it (bad-inputs B-229). What a user's body means is not known here.

use std::ops::Range;

use super::{FrameKind, LinkFull};

/// The most bytes a frame's body may have.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// What a numbered frame adds to its body: length, kind, number.
pub const HEADER_BYTES: usize = 4 + 1 + 8;
const LENGTH_MAX: usize = 1 + 8 + BODY_BYTES_MAX;

/// Set in the number of a frame of the front lane (what `before_write` puts on the link), clear in the main lane.
pub const FRONT: u64 = 1 << 63;

/// Kinds from here on belong to the user and are numbered.
pub(crate) const FIRST_USER_KIND: u8 = 0x10;
const BEGIN: u8 = 0x01;
const ACK: u8 = 0x02;
const PING: u8 = 0x03;
const PONG: u8 = 0x04;
const DATAGRAM: u8 = 0x05;

/// Two numbers, one for each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) main: u64,
    pub(crate) front: u64,
}

/// What the link says for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Control {
    /// First frame each way: the numbers this side goes on with.
    Begin(Marks),
    /// All up to these numbers is taken.
    Ack(Marks),
    /// To be answered with the same number; carries an ack.
    Ping(u64, Marks),
    /// Answer to a ping.
    Pong(u64),
}

/// One frame found in a buffer. Ranges are relative to the buffer's start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    Control(Control),
    Numbered { seq: u64, kind: FrameKind, body: Range<usize> },
    Datagram { kind: FrameKind, body: Range<usize> },
}

/// How a frame can break the protocol. Each ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than any frame may be.
    #[error("length {0} is past the limit")]
    Length(usize),
    /// Too short for its kind, or a control frame of the wrong size.
    #[error("{1} bytes are not a frame of kind {0:#04x}")]
    Size(u8, usize),
    /// A kind of the link's own range that it does not know, or a user's kind from that range.
    #[error("unknown kind {0:#04x}")]
    Kind(u8),
    /// A number that leaves out frames.
    #[error("frame {got} where {expected} was expected")]
    Gap {
        /// The number that had to come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// An acknowledgement of what was never sent.
    #[error("acknowledges {0}, which was not sent")]
    Ack(u64),
    /// A first frame that is no `begin`, or a second one.
    #[error("begin expected exactly once, as first frame")]
    Begin,
}

/// Looks for a frame at the start of `input`. `None`: more bytes are needed. With the frame comes the number of bytes it takes.
///
/// # Errors
/// As soon as the first five bytes are there: a length of zero or past the limit, an unknown kind, a size the kind cannot have.
pub(crate) fn decode(input: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 {
        return Err(FrameError::Size(0, 0));
    }
    if length > LENGTH_MAX {
        return Err(FrameError::Length(length));
    }
    let Some(&kind) = rest.first() else { return Ok(None) };
    let fits = match kind {
        BEGIN | ACK => length == 17,
        PING => length == 25,
        PONG => length == 9,
        DATAGRAM => length >= 2,
        FIRST_USER_KIND.. => length >= 9,
        _ => return Err(FrameError::Kind(kind)),
    };
    if !fits {
        return Err(FrameError::Size(kind, length));
    }
    let total = 4 + length;
    if input.len() < total {
        return Ok(None);
    }
    let frame = match kind {
        BEGIN => Frame::Control(Control::Begin(marks(input, 5))),
        ACK => Frame::Control(Control::Ack(marks(input, 5))),
        PING => Frame::Control(Control::Ping(number(input, 5), marks(input, 13))),
        PONG => Frame::Control(Control::Pong(number(input, 5))),
        DATAGRAM if input[5] < FIRST_USER_KIND => return Err(FrameError::Kind(input[5])),
        DATAGRAM => Frame::Datagram { kind: FrameKind(input[5]), body: 6..total },
        _ => Frame::Numbered {
            seq: number(input, 5),
            kind: FrameKind(kind),
            body: HEADER_BYTES..total,
        },
    };
    Ok(Some((frame, total)))
}

/// Reads a frame of our own that was stored before, whole by construction.
pub(crate) fn stored(input: &[u8]) -> (u64, FrameKind, Range<usize>) {
    match decode(input) {
        Ok(Some((Frame::Numbered { seq, kind, body }, _))) => (seq, kind, body),
        other => unreachable!("only whole numbered frames are stored, not {other:?}"),
    }
}

fn number(input: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(input[at..at + 8].try_into().expect("a slice of eight bytes"))
}

fn marks(input: &[u8], at: usize) -> Marks {
    Marks { main: number(input, at), front: number(input, at + 8) }
}

/// Appends a numbered frame; `write` appends its body.
///
/// # Errors
/// [`LinkFull::Body`] when the body is too long; `out` is then as it was, also when `write` panics.
pub(crate) fn write_numbered(
    out: &mut Vec<u8>,
    seq: u64,
    kind: FrameKind,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), LinkFull> {
    assert!(kind.0 >= FIRST_USER_KIND, "kinds below 0x10 belong to the link");
    let mut undo = Undo { start: out.len(), out };
    undo.out.extend_from_slice(&[0, 0, 0, 0, kind.0]);
    undo.out.extend_from_slice(&seq.to_be_bytes());
    write(undo.out);
    assert!(undo.out.len() >= undo.start + HEADER_BYTES, "an encoder only appends");
    let length = undo.out.len() - undo.start - 4;
    if length > LENGTH_MAX {
        return Err(LinkFull::Body);
    }
    let start = std::mem::replace(&mut undo.start, usize::MAX);
    undo.out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

/// Takes back what was appended, unless `start` was moved past it: half a frame would spoil all that follow.
struct Undo<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.start);
    }
}

/// Appends a datagram. The caller has checked the size.
pub(crate) fn write_datagram(out: &mut Vec<u8>, kind: FrameKind, body: &[u8]) {
    assert!(kind.0 >= FIRST_USER_KIND, "kinds below 0x10 belong to the link");
    out.extend_from_slice(&(body.len() as u32 + 2).to_be_bytes());
    out.extend_from_slice(&[DATAGRAM, kind.0]);
    out.extend_from_slice(body);
}

/// Appends a frame of the link's own.
pub(crate) fn write_control(out: &mut Vec<u8>, control: Control) {
    let (kind, numbers): (u8, &[u64]) = match &control {
        Control::Begin(m) => (BEGIN, &[m.main, m.front]),
        Control::Ack(m) => (ACK, &[m.main, m.front]),
        Control::Ping(n, m) => (PING, &[*n, m.main, m.front]),
        Control::Pong(n) => (PONG, &[*n]),
    };
    out.extend_from_slice(&(1 + 8 * numbers.len() as u32).to_be_bytes());
    out.push(kind);
    numbers.iter().for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_and_every_cut_asks_for_more() {
        let marks = Marks { main: 7, front: u64::MAX >> 1 };
        let mut out = Vec::new();
        for control in
            [Control::Begin(marks), Control::Ack(marks), Control::Ping(9, marks), Control::Pong(9)]
        {
            out.clear();
            write_control(&mut out, control);
            check(&out, Frame::Control(control));
        }
        out.clear();
        write_datagram(&mut out, FrameKind(0x20), b"vote");
        check(&out, Frame::Datagram { kind: FrameKind(0x20), body: 6..10 });
        out.clear();
        write_numbered(&mut out, 5 | FRONT, FrameKind(0xff), |out| out.extend_from_slice(b"row"))
            .unwrap();
        check(&out, Frame::Numbered { seq: 5 | FRONT, kind: FrameKind(0xff), body: 13..16 });
    }

    fn check(bytes: &[u8], frame: Frame) {
        assert_eq!(decode(bytes), Ok(Some((frame, bytes.len()))));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_and_kinds_are_refused_before_the_body_is_there() {
        assert_eq!(decode(&[0, 0, 0, 0]), Err(FrameError::Size(0, 0)));
        assert_eq!(decode(&[0x40, 0, 0, 0]), Err(FrameError::Length(1 << 30)));
        assert_eq!(decode(&[0xff; 4]), Err(FrameError::Length(u32::MAX as usize)));
        assert_eq!(decode(&[0, 0, 0, 9, 0]), Err(FrameError::Kind(0)));
        assert_eq!(decode(&[0, 0, 0, 9, 0x0f]), Err(FrameError::Kind(0x0f)));
        assert_eq!(decode(&[0, 0, 0, 8, 0x10]), Err(FrameError::Size(0x10, 8)));
        assert_eq!(decode(&[0, 0, 0, 18, ACK]), Err(FrameError::Size(ACK, 18)));
        assert_eq!(decode(&[0, 0, 0, 2, DATAGRAM, PING]), Err(FrameError::Kind(PING)));
    }

    #[test]
    fn body_past_the_limit_leaves_nothing_behind() {
        let mut out = vec![1];
        assert_eq!(
            write_numbered(&mut out, 1, FrameKind(16), |out| out
                .resize(out.len() + BODY_BYTES_MAX + 1, 0)),
            Err(LinkFull::Body)
        );
        assert_eq!(out, [1]);
        assert_eq!(
            write_numbered(&mut out, 1, FrameKind(16), |out| out
                .resize(out.len() + BODY_BYTES_MAX, 0)),
            Ok(())
        );
        assert!(matches!(decode(&out[1..]), Ok(Some(_))));
    }
}
