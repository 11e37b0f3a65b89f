//! The ring of what was applied, and its parts.

use replication::Hlc;

use super::*;

fn entries(region: &str, log: u64, seqs: std::ops::RangeInclusive<u64>, bytes: usize) -> Item {
    let change = |seq| Change::Put {
        store: "test".into(),
        owner: "romeo@chat.example".into(),
        key: format!("{seq}"),
        value: vec![7; bytes],
    };
    let entry = |seq| Entry { seq, shard: 0, epoch: 1, at: Hlc::ZERO, changes: vec![change(seq)] };
    let position = Position { log, seq: *seqs.end() };
    Item::Entries { region: region.into(), position, entries: seqs.map(entry).collect() }
}

fn seen(all: &[(&str, u64, u64)]) -> Seen {
    all.iter()
        .map(|(region, log, seq)| ((*region).into(), Position { log: *log, seq: *seq }))
        .collect()
}

#[test]
fn a_node_is_fed_from_the_first_thing_it_has_not_seen() {
    let mut ring = Ring::default();
    ring.push(entries("eu", 1, 1..=2, 10));
    ring.push(entries("us", 9, 1..=1, 10));
    ring.push(entries("eu", 1, 3..=3, 10));
    assert_eq!(ring.reaches(&Seen::default()), Some(0), "from the very beginning");
    assert_eq!(ring.reaches(&seen(&[("eu", 1, 2), ("us", 9, 1)])), Some(2));
    assert_eq!(ring.reaches(&seen(&[("eu", 1, 3)])), Some(1));
    assert_eq!(ring.reaches(&seen(&[("eu", 1, 3), ("us", 9, 1)])), Some(3));
    assert_eq!(ring.reaches(&seen(&[("eu", 2, 3), ("us", 9, 1)])), None, "another log");
    assert_eq!(ring.page(2).map(|page| page.len()), Some(1));
}

#[test]
fn what_has_left_the_ring_cannot_be_fed() {
    let mut ring = Ring::default();
    for seq in 1..=20 {
        ring.push(entries("eu", 1, seq..=seq, 1 << 20));
    }
    assert!(ring.bytes <= RING_BYTES_MAX && ring.first > 0);
    assert_eq!(ring.reaches(&seen(&[("eu", 1, 3)])), None);
    assert_eq!(ring.reaches(&seen(&[("eu", 1, 19)])), Some(19));
    assert_eq!(ring.page(0).map(|page| page.len()), None);
}

/// All that is fed from the beginning, each message of a length that a link takes.
fn fed(feed: &Feed) -> Vec<Item> {
    let (mut all, mut first) = (Vec::new(), 0);
    loop {
        let page = feed.ring.lock().page(first).expect("nothing has left the ring");
        if page.is_empty() {
            return all;
        }
        let items: Vec<Item> = page.iter().map(|item| Item::clone(item)).collect();
        let count = items.len() as u64;
        let bytes = encode(&Message::Items { term: u64::MAX, first, items });
        assert!(bytes.len() <= s2s::link::BODY_BYTES_MAX, "{} bytes", bytes.len());
        all.extend(page.iter().map(|item| Item::clone(item)));
        first += count;
    }
}

#[test]
fn what_is_applied_together_is_fed_in_parts_each_with_its_own_position() {
    let feed = Feed::default();
    feed.has_company(true);
    let Item::Entries { position, entries, .. } = entries("eu", 1, 1..=7, 190 << 10) else {
        unreachable!("entries")
    };
    feed.entries("eu", position, &entries, &[]);
    let mut seqs = Vec::new();
    for item in fed(&feed) {
        let Item::Entries { position, entries, .. } = item else { panic!("{item:?}") };
        seqs.extend(entries.iter().map(|entry| entry.seq));
        assert_eq!(seqs.last(), Some(&position.seq));
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7]);
    let ring = feed.ring.lock();
    assert_eq!(ring.reaches(&seen(&[("eu", 1, 3)])), Some(3), "in the middle of them");
}

#[test]
fn a_copy_with_much_that_is_gone_is_fed_in_parts() {
    let feed = Feed::default();
    feed.has_company(true);
    let owner = || "romeo@chat.example".to_owned();
    let gone = |n| Change::Delete { store: "test".into(), owner: owner(), key: format!("{n}") };
    let row = |n| {
        let value = vec![7; 190 << 10];
        Change::Put { store: "test".into(), owner: owner(), key: format!("{n}"), value }
    };
    let all: Vec<Change> = (0..40_000).map(gone).chain((0..7).map(row)).collect();
    feed.copied(&all);
    let mut got = Vec::new();
    for item in fed(&feed) {
        let Item::Copied(changes) = item else { panic!("{item:?}") };
        got.extend(changes);
    }
    assert!(got == all, "{} of {}", got.len(), all.len());
}

#[test]
fn a_log_that_jumped_has_nothing_for_those_behind() {
    let mut ring = Ring::default();
    ring.push(entries("us", 9, 1..=4, 10));
    ring.jumps("us", Position { log: 9, seq: 50 });
    assert_eq!(ring.reaches(&seen(&[("us", 9, 4)])), None);
    assert_eq!(ring.reaches(&seen(&[("us", 9, 50)])), Some(1));
}
