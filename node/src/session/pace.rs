//! Room: how fast a client may send (`limits.stanzas_per_second` and its siblings). Token buckets as values: no clock, no lock; the session counts
//! what it reads and asks once a read, so a stanza costs an addition. Who is over a rate is read from again when it is not: what is sent
//! meanwhile waits in the connection, and nothing is lost.

use std::time::Duration;

use config::Rate;
use xmpp::ns;
use xmpp::stanza::{Kind, Stanza, Type};

/// The longest time that nothing is read: a connection that ends is noticed by then.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What one read has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Elements of any kind.
    pub(super) stanzas: u32,
    /// Presence.
    pub(super) presence: u32,
    /// What the home writes down: roster sets and subscription stanzas.
    pub(super) changes: u32,
}

impl Sent {
    /// One more element, which is not a stanza.
    pub(super) fn element(&mut self) {
        self.stanzas += 1;
    }

    /// One more stanza.
    pub(super) fn stanza(&mut self, stanza: &Stanza) {
        self.stanzas += 1;
        match stanza.kind() {
            Kind::Presence => {
                self.presence += 1;
                let subscription =
                    [Type::Subscribe, Type::Subscribed, Type::Unsubscribe, Type::Unsubscribed];
                self.changes += u32::from(subscription.contains(&stanza.type_()));
            }
            Kind::Iq if stanza.type_() == Type::Set => {
                let roster = stanza.first_child().is_some_and(|(_, of)| of == ns::ROSTER);
                self.changes += u32::from(roster);
            }
            _ => {}
        }
    }
}

/// The buckets of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    stanzas: Bucket,
    presence: Bucket,
    changes: Bucket,
}

impl Pace {
    /// Takes what was sent out of the buckets. How long until none of them is overdrawn; `now_ms` is monotonic.
    pub(super) fn take(&mut self, sent: Sent, limits: &config::Limits, now_ms: u64) -> Duration {
        let now_ns = now_ms.saturating_mul(1_000_000);
        let mut wait = self.stanzas.take(sent.stanzas, limits.stanzas, now_ns);
        if sent.presence > 0 {
            wait = wait.max(self.presence.take(sent.presence, limits.presence, now_ns));
        }
        if sent.changes > 0 {
            wait = wait.max(self.changes.take(sent.changes, limits.roster_changes, now_ns));
        }
        Duration::from_nanos(wait).min(WAIT_MAX)
    }
}

/// A token bucket in one number: when it will be full again. (The generic cell rate algorithm.)
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(u64);

impl Bucket {
    /// How long until one more can be taken without overdrawing it; all in nanoseconds.
    pub(super) fn wait(self, rate: Rate, now: u64) -> u64 {
        let mut after = self;
        after.take(1, rate, now)
    }

    /// Takes `count` out of it. How long until it is not overdrawn; all in nanoseconds.
    pub(super) fn take(&mut self, count: u32, rate: Rate, now: u64) -> u64 {
        if rate.per_second == 0 {
            return 0;
        }
        self.0 = self.0.max(now).saturating_add(time_of(count, rate));
        self.0.saturating_sub(now.saturating_add(time_of(rate.burst, rate)))
    }

    /// The rate is another. As many as were taken stay taken, though not more than the new burst; without a rate, before or now, none were.
    pub(super) fn change(&mut self, before: Rate, rate: Rate, now: u64) {
        if before.per_second == 0 || rate.per_second == 0 {
            *self = Bucket::default();
            return;
        }
        let left = u128::from(self.0.saturating_sub(now)) * u128::from(before.per_second);
        let left = u64::try_from(left / u128::from(rate.per_second)).unwrap_or(u64::MAX);
        self.0 = now.saturating_add(left.min(time_of(rate.burst, rate)));
    }
}

/// In nanoseconds; there is a rate.
fn time_of(tokens: u32, rate: Rate) -> u64 {
    u64::from(tokens) * 1_000_000_000 / u64::from(rate.per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        const S: u64 = 1_000_000_000;
        let mut bucket = Bucket::default();
        let ten = rate(10, 20);
        assert_eq!(bucket.take(20, ten, 5 * S), 0);
        assert_eq!(bucket.take(1, ten, 5 * S), S / 10);
        assert_eq!(bucket.take(9, ten, 5 * S), S);
        // A second later that is paid, and the next costs again.
        assert_eq!(bucket.take(0, ten, 6 * S), 0);
        assert_eq!(bucket.take(1, ten, 6 * S), S / 10);
        // Long silence fills it, and no more than to the brim.
        assert_eq!(bucket.take(20, ten, 600 * S), 0);
        assert_eq!(bucket.take(5, ten, 600 * S), S / 2);
        assert_eq!(Bucket::default().take(u32::MAX, rate(0, 0), 0), 0, "no rate, no limit");
    }

    #[test]
    fn another_rate_leaves_taken_what_was_taken() {
        const S: u64 = 1_000_000_000;
        let taken = |count, to| {
            let (mut bucket, ten) = (Bucket::default(), rate(10, 20));
            bucket.take(count, ten, 5 * S);
            bucket.change(ten, to, 5 * S);
            bucket.wait(to, 5 * S)
        };
        // A burst at the old rate would be two seconds of the new.
        assert_eq!(taken(20, rate(1_000, 20)), S / 1_000);
        assert_eq!(taken(10, rate(1_000, 20)), 0);
        assert_eq!(taken(20, rate(1, 20)), S);
        assert_eq!(taken(20, rate(10, 5)), S / 10, "what the burst was is not made up for");
        assert_eq!(taken(20, rate(0, 0)), 0);
        let mut bucket = Bucket::default();
        bucket.take(100, rate(10, 1), 0);
        bucket.change(rate(10, 1), rate(0, 1), 0);
        bucket.change(rate(0, 1), rate(10, 1), 0);
        assert_eq!(bucket.wait(rate(10, 1), 0), 0);
    }

    #[test]
    fn over_a_long_time_nobody_gets_more_than_the_rate() {
        let (mut bucket, rate) = (Bucket::default(), rate(7, 3));
        let (mut now, mut taken) = (0, 0_u64);
        while now < 100 * 1_000_000_000 {
            let wait = bucket.take(2, rate, now);
            taken += 2;
            now += wait.max(1);
        }
        assert!((700..=706).contains(&taken), "{taken}");
    }

    #[test]
    fn what_is_sent_is_counted_by_what_it_costs() {
        let mut sent = Sent::default();
        sent.element();
        for text in [
            "<message xmlns='jabber:client'><body>x</body></message>",
            "<presence xmlns='jabber:client'/>",
            "<presence xmlns='jabber:client' type='subscribe' to='juliet@x'/>",
            "<iq xmlns='jabber:client' type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
            "<iq xmlns='jabber:client' type='set' id='2'><query xmlns='jabber:iq:roster'/></iq>",
            "<iq xmlns='jabber:client' type='set' id='3'><query xmlns='jabber:iq:private'/></iq>",
        ] {
            sent.stanza(&Stanza::parse(text.as_bytes().to_vec().into()).expect("a stanza"));
        }
        assert_eq!(sent, Sent { stanzas: 7, presence: 2, changes: 2 });
    }
}
