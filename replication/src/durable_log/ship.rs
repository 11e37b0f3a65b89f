//! The sending end of the durable log: from where to read, how much to send, how much may be on the way.
//!
//! One [`Shipper`] for each replica region, held by `node::homes`. Pure: the caller reads the log and sends the frames.
//! It sends what follows the replica's position, in batches bounded by bytes, and stops while too much is unacknowledged.

use std::collections::VecDeque;

use super::change::Entry;

/// Bounds of one replica's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipLimits {
    /// A batch is cut before it grows past this; one larger entry still goes, alone.
    pub batch_bytes_max: usize,
    /// No further batch is begun while so much is sent and not acknowledged.
    pub window_bytes_max: usize,
}

impl Default for ShipLimits {
    fn default() -> ShipLimits {
        ShipLimits { batch_bytes_max: 256 << 10, window_bytes_max: 4 << 20 }
    }
}

/// Where one replica stands. Invariant: `acked ≤ sent`.
#[derive(Debug, Clone)]
pub struct Shipper {
    limits: ShipLimits,
    sent: u64,
    acked: u64,
    in_flight: VecDeque<(u64, usize)>,
    in_flight_bytes: usize,
}

impl Shipper {
    /// A replica that says it has applied everything up to `applied`.
    pub fn new(applied: u64, limits: ShipLimits) -> Shipper {
        Shipper {
            limits,
            sent: applied,
            acked: applied,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// What to read from the log now: entries after the first number, about as many bytes as the second. None while the
    /// replica has been sent everything up to `head`, or the window is full.
    pub fn wants(&self, head: u64) -> Option<(u64, usize)> {
        let room = self.in_flight_bytes < self.limits.window_bytes_max;
        (room && self.sent < head).then_some((self.sent, self.limits.batch_bytes_max))
    }

    /// Of the entries read (those after [`Shipper::wants`]' cursor, in order), how many make the next batch; they count
    /// as sent. Entries that do not follow what was sent make none: a gap is never shipped.
    pub fn take(&mut self, read: &[Entry]) -> usize {
        let mut count = 0;
        let mut bytes = 0;
        for entry in read {
            let larger = bytes + entry.bytes();
            let follows = entry.seq == self.sent + 1 + count as u64;
            if !follows || (count > 0 && larger > self.limits.batch_bytes_max) {
                break;
            }
            (count, bytes) = (count + 1, larger);
        }
        if count > 0 {
            self.sent += count as u64;
            self.in_flight.push_back((self.sent, bytes));
            self.in_flight_bytes += bytes;
        }
        count
    }

    /// The replica has applied everything up to `upto`. Answers whether that was news. More than was sent is ignored.
    pub fn acked(&mut self, upto: u64) -> bool {
        if upto <= self.acked || upto > self.sent {
            return false;
        }
        self.acked = upto;
        while let Some(&(last, bytes)) = self.in_flight.front().filter(|(last, _)| *last <= upto) {
            debug_assert!(last <= upto);
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
        true
    }

    /// The replica came back and says where it stands: everything after is sent again.
    pub fn resume(&mut self, applied: u64) {
        *self = Shipper::new(applied, self.limits);
    }

    /// How far the replica is known to have applied: the lag is the head minus this.
    pub fn position(&self) -> u64 {
        self.acked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::change::Change;
    use super::*;
    use crate::clock::Hlc;

    fn entry(seq: u64, size: usize) -> Entry {
        let put = Change::Put {
            store: "roster".into(),
            owner: "o".into(),
            key: String::new(),
            value: vec![0; size],
        };
        Entry { seq, shard: 0, epoch: 1, at: Hlc::ZERO, changes: vec![put] }
    }

    #[test]
    fn a_batch_is_cut_by_bytes_but_a_large_entry_still_goes() {
        let limits = ShipLimits { batch_bytes_max: 500, window_bytes_max: 10_000 };
        let mut shipper = Shipper::new(0, limits);
        let log = [entry(1, 200), entry(2, 200), entry(3, 9000), entry(4, 10)];
        assert_eq!(shipper.wants(4), Some((0, 500)));
        assert_eq!(shipper.take(&log[..]), 1);
        assert_eq!(shipper.take(&log[1..]), 1);
        assert_eq!(shipper.take(&log[2..]), 1);
        assert_eq!(shipper.wants(4), Some((3, 500)));
        assert_eq!(shipper.take(&log[3..]), 1);
        assert_eq!(shipper.wants(4), None);
    }

    #[test]
    fn a_full_window_waits_for_an_acknowledgement() {
        let limits = ShipLimits { batch_bytes_max: 500, window_bytes_max: 500 };
        let mut shipper = Shipper::new(7, limits);
        shipper.take(&[entry(8, 1000)]);
        assert_eq!(shipper.wants(9), None);
        assert!(!shipper.acked(7) && !shipper.acked(9));
        assert!(shipper.acked(8));
        assert_eq!(shipper.wants(9), Some((8, 500)));
        assert_eq!(shipper.position(), 8);
    }

    #[test]
    fn a_gap_in_what_was_read_is_not_shipped() {
        let mut shipper = Shipper::new(0, ShipLimits::default());
        assert_eq!(shipper.take(&[entry(2, 1)]), 0);
        assert_eq!(shipper.take(&[entry(1, 1), entry(3, 1)]), 1);
    }

    proptest! {
        #[test]
        fn every_entry_is_sent_in_order_until_all_is_acknowledged(sizes in proptest::collection::vec(0usize..300, 0..80), acks in proptest::collection::vec(any::<bool>(), 0..400)) {
            let log: Vec<Entry> = sizes.iter().zip(1..).map(|(size, seq)| entry(seq, *size)).collect();
            let head = log.len() as u64;
            let limits = ShipLimits { batch_bytes_max: 400, window_bytes_max: 900 };
            let mut shipper = Shipper::new(0, limits);
            let mut arrived = 0;
            for acks in acks.into_iter().chain([false, true].repeat(80)) {
                if acks {
                    shipper.acked(arrived);
                } else if let Some((after, _)) = shipper.wants(head) {
                    prop_assert_eq!(after, arrived);
                    let count = shipper.take(&log[after as usize..]);
                    prop_assert!(count > 0);
                    arrived += count as u64;
                }
                prop_assert!(shipper.in_flight_bytes < 900 + 400);
            }
            prop_assert_eq!(shipper.position(), head);
            prop_assert_eq!(shipper.in_flight_bytes, 0);
        }
    }
}
