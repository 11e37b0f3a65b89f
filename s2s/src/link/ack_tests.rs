//! The two ends of a lane, against each other and alone.

use super::*;

const KIND: FrameKind = FrameKind(0x12);

fn window(frames: std::ops::RangeInclusive<u64>, size: usize) -> Window {
    let mut window = Window::new(0, 1 << 24);
    for seq in frames {
        assert_eq!(window.push(KIND, |n, out| out.resize(out.len() + size, n as u8)), Ok(seq));
    }
    window
}

fn wire(window: &mut Window) -> Vec<u64> {
    let mut out = Vec::new();
    let copied = window.copy(&mut out, window.end(), usize::MAX);
    let (mut at, mut seen) = (0, Vec::new());
    while at < out.len() {
        seen.push(frame::stored(&out[at..]).0);
        at += frame_bytes(&out[at..]);
    }
    assert_eq!(copied.frames, seen.len() as u64);
    seen
}

#[test]
fn resumption_sends_again_what_was_not_received_and_only_that() {
    for size in [0, 10, 30_000] {
        let mut window = window(1..=9, size);
        assert_eq!(wire(&mut window), (1..=9).collect::<Vec<_>>());
        assert_eq!(window.ack(2), Ok(true));
        window.push(KIND, |_, _| ()).unwrap();
        assert!(window.rewind(5));
        let mut out = Vec::new();
        assert_eq!(window.copy(&mut out, window.end(), usize::MAX), Copied { frames: 5, resent: 4 });
        assert!(window.rewind(0), "nothing received: from the last acknowledged on");
        assert_eq!(wire(&mut window), (3..=10).collect::<Vec<_>>());
    }
}

#[test]
fn peer_that_says_it_received_what_cannot_be_is_not_resumed() {
    let mut window = window(1..=9, 10);
    assert!(!window.rewind(1), "never sent");
    wire(&mut window);
    assert_eq!(window.ack(10), Err(FrameError::Ack(10)));
    window.ack(4).unwrap();
    assert!(!window.rewind(3), "was acknowledged");
    assert!(!window.rewind(10));
    assert!(window.rewind(4));
}

#[test]
fn acknowledged_pieces_are_freed_and_the_bound_counts_them() {
    let mut window = Window::new(0, 100_000);
    let push = |window: &mut Window| window.push(KIND, |_, out| out.resize(out.len() + 9_987, 0));
    for _ in 0..10 {
        push(&mut window).unwrap();
    }
    assert_eq!(push(&mut window), Err(LinkFull::Bytes));
    wire(&mut window);
    assert_eq!(window.ack(7), Ok(true));
    assert_eq!(window.ack(6), Ok(false), "old news");
    assert_eq!((window.bytes(), window.frames()), (30_000, 3));
    assert_eq!(push(&mut window), Ok(11));
    assert_eq!(wire(&mut window), [11]);
    window.ack(11).unwrap();
    assert_eq!((window.bytes(), window.frames(), window.chunks.len()), (0, 0, 0));
}

#[test]
fn refused_body_leaves_the_window_as_it_was() {
    let mut window = window(1..=1, 3);
    assert_eq!(window.push(KIND, |_, out| out.resize(2 << 20, 0)), Err(LinkFull::Body));
    assert_eq!(window.push(KIND, |_, _| ()), Ok(2));
    assert_eq!(wire(&mut window), [1, 2]);
    window.ack(2).unwrap();
    assert_eq!(window.push(KIND, |_, out| out.resize(2 << 20, 0)), Err(LinkFull::Body));
    assert_eq!((window.bytes(), window.chunks.len()), (0, 0));
    assert_eq!(window.push(KIND, |_, _| ()), Ok(3));
    assert_eq!(wire(&mut window), [3]);
}

#[test]
fn what_is_given_up_is_returned_once_and_numbers_go_on() {
    let mut window = window(1..=9, 4);
    window.copy(&mut Vec::new(), window.end(), 1);
    window.ack(3).unwrap();
    let lost = window.give_up();
    assert_eq!(lost.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), (4..=9).collect::<Vec<_>>());
    assert!(lost.iter().all(|(seq, kind, body)| *kind == KIND && body[..] == [*seq as u8; 4]));
    assert_eq!((window.acked(), window.bytes(), window.frames()), (9, 0, 0));
    assert!(window.give_up().is_empty());
    assert_eq!(window.push(KIND, |_, _| ()), Ok(10));
    assert_eq!(window.cursor_seq(), 9);
    assert_eq!(wire(&mut window), [10]);
}

#[test]
fn restart_sends_all_as_if_for_the_first_time() {
    let mut window = window(1..=3, 4);
    wire(&mut window);
    window.restart();
    let mut out = Vec::new();
    assert_eq!(window.copy(&mut out, window.end(), usize::MAX), Copied { frames: 3, resent: 0 });
}

#[test]
fn frames_queued_after_the_turn_began_stay() {
    let mut window = window(1..=2, 4);
    let end = window.end();
    window.push(KIND, |_, _| ()).unwrap();
    let mut out = Vec::new();
    assert_eq!(window.copy(&mut out, end, usize::MAX).frames, 2);
    assert!(window.reached(end));
    assert_eq!(wire(&mut window), [3]);
}

#[test]
fn inbox_drops_duplicates_and_refuses_gaps() {
    let mut inbox = Inbox::default();
    assert_eq!(inbox.receive(1), Err(FrameError::Begin));
    inbox.begin(1).unwrap();
    assert_eq!(inbox.receive(1), Ok(Some(1)));
    assert_eq!(inbox.receive(2), Ok(Some(2)));
    assert_eq!(inbox.receive(1), Ok(None));
    assert_eq!(inbox.receive(2), Ok(None));
    assert_eq!(inbox.receive(4), Err(FrameError::Gap { expected: 3, got: 4 }));
    assert_eq!(inbox.begin(4), Err(FrameError::Gap { expected: 3, got: 4 }));
    assert_eq!(inbox.begin(2), Ok(()), "a resumption may begin with what was received");
    assert_eq!(inbox.receive(3), Ok(Some(3)));
}

#[test]
fn only_the_contiguous_prefix_is_acknowledged() {
    let mut inbox = Inbox::default();
    inbox.begin(1).unwrap();
    for seq in 1..=4 {
        inbox.receive(seq).unwrap();
    }
    for (ticket, news, ack) in [(3, false, 0), (1, true, 1), (1, false, 1), (9, false, 1), (4, false, 1), (2, true, 4), (0, false, 4)] {
        assert_eq!((inbox.take(ticket), inbox.ack()), (news, ack), "after {ticket}");
    }
}

#[test]
fn late_ticket_of_a_former_incarnation_acknowledges_nothing_of_the_present_one() {
    let mut inbox = Inbox::default();
    inbox.begin(1).unwrap();
    for seq in 1..=3 {
        inbox.receive(seq).unwrap();
    }
    inbox.take(1);
    inbox.reset();
    assert_eq!((inbox.received(), inbox.ack()), (0, 0));
    inbox.begin(1).unwrap();
    assert_eq!(inbox.receive(1), Ok(Some(4)), "tickets never repeat");
    assert!(!inbox.take(2) && !inbox.take(3) && !inbox.take(1));
    assert_eq!(inbox.ack(), 0);
    assert!(inbox.take(4));
    assert_eq!(inbox.ack(), 1);
    inbox.reset();
    inbox.begin(50).unwrap();
    assert_eq!(inbox.ack(), 49);
    assert_eq!(inbox.receive(50), Ok(Some(5)));
}
