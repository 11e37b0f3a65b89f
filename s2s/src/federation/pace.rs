//! Room: how fast a peer domain may send (`Limits::bytes_per_second`), as a value: a bucket that holds a second's worth, in one number. Who is over it is read
//! from again when it is not; what is sent meanwhile waits in the connection, and nothing is lost.

use std::time::{Duration, Instant};

/// The longest time that nothing is read: a connection that ends is noticed by then.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// When the bucket will be full again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket(Instant);

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Bucket {
        Bucket(now)
    }

    /// Takes `bytes` out of it. How long until it is not overdrawn.
    pub(super) fn take(&mut self, bytes: usize, per_second: u64, now: Instant) -> Duration {
        let seconds = bytes as f64 / per_second.max(1) as f64;
        let cost = Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX).min(WAIT_MAX);
        self.0 = self.0.max(now) + cost;
        self.0.saturating_duration_since(now + Duration::from_secs(1)).min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_given_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.take(1000, 1000, start), Duration::ZERO);
        assert_eq!(bucket.take(500, 1000, start), Duration::from_millis(500));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(0, 1000, later), Duration::ZERO);
        assert_eq!(bucket.take(100, 1000, later), Duration::from_millis(100));
        // Silence fills it to the brim and no further.
        let late = start + Duration::from_secs(600);
        assert_eq!(bucket.take(1000, 1000, late), Duration::ZERO);
        assert_eq!(bucket.take(1_000_000_000, 1, late), WAIT_MAX);
    }
}
