//! Room: how many streams there are, from where and of whom, and whether there may be one more. Called by `Incoming` and by the tasks of streams, each of which
//! has a [`Seat`] for as long as it lives.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::federation::Limits;
use crate::federation::pace::Bucket;
use crate::front::source_of;

/// What is counted, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Streams, those that are cut and may be resumed among them.
    pub streams: usize,
    /// Of them, those that have proved nothing yet.
    pub unproved: usize,
    /// Streams of each domain that was proved.
    pub domains: BTreeMap<String, usize>,
    /// Why streams have ended so far, or never begun: a stream error's condition, or `closed`, `lost`, `resumed`, `tls`, `address`, `shutdown`;
    /// and `dropped`, for elements that were not answered.
    pub reasons: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Domain {
    streams: usize,
    /// Those whose connection is lost and that may be resumed.
    asleep: usize,
    bucket: Bucket,
}

/// Peers that are being told that there is no room. Beyond: it is not worth a word.
const REFUSALS_MAX: usize = 64;

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    inner: Mutex<Inner>,
    /// Told when the last stream has gone.
    gone: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    streams: usize,
    unproved: HashMap<IpAddr, usize>,
    domains: HashMap<String, Domain>,
    /// What others are asked for streams: in all, and for each network.
    asking: usize,
    asking_for: HashMap<IpAddr, usize>,
    refusals: usize,
    reasons: BTreeMap<&'static str, u64>,
}

/// The share of `verifications_max` that one network has: it alone does not keep others from being proved. As many as this can, together, as long as they
/// keep asking: then dialback is answered with an error, which a peer tries again after.
const NETWORK_SHARE: usize = 16;

/// Somebody is being asked about a key or a certificate for a peer, until this is dropped.
#[derive(Debug)]
pub(super) struct Asking(Arc<Counts>, IpAddr);

impl Drop for Asking {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.asking -= 1;
        release(&mut inner.asking_for, Some(self.1));
    }
}

/// Whose questions are counted together: an IPv4 address, or an IPv6 /48, which is what one may have as a whole.
fn network_of(address: IpAddr) -> IpAddr {
    match source_of(address) {
        IpAddr::V6(six) => {
            let [a, b, c, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
        four => four,
    }
}

/// A peer is being told that there is no room, until this is dropped.
#[derive(Debug)]
pub(super) struct Refusal(Arc<Counts>);

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.inner.lock().refusals -= 1;
    }
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Too many streams (`streams_max`): the peer is told.
    Streams,
    /// Too many from there (`unproved_per_address_max`): it is not worth a word.
    Address,
}

impl Counts {
    pub(super) fn seat(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
        now: Instant,
    ) -> Result<Seat, Full> {
        let address = source_of(address);
        let mut inner = self.inner.lock();
        let from_there = inner.unproved.get(&address).copied().unwrap_or_default();
        let full = if from_there >= limits.unproved_per_address_max {
            Some((Full::Address, "address"))
        } else if inner.streams >= limits.streams_max {
            Some((Full::Streams, "resource-constraint"))
        } else {
            None
        };
        if let Some((full, reason)) = full {
            *inner.reasons.entry(reason).or_default() += 1;
            return Err(full);
        }
        inner.streams += 1;
        *inner.unproved.entry(address).or_default() += 1;
        drop(inner);
        Ok(Seat {
            counts: self.clone(),
            unproved: Some(address),
            domains: Vec::new(),
            is_asleep: false,
            bucket: Bucket::new(now),
        })
    }

    /// One more peer may be told that there is no room.
    pub(super) fn refuse(self: &Arc<Self>) -> Option<Refusal> {
        let mut inner = self.inner.lock();
        if inner.refusals >= REFUSALS_MAX {
            return None;
        }
        inner.refusals += 1;
        Some(Refusal(self.clone()))
    }

    /// One more is asked about a key or a certificate, for a peer at that address. `None`: too many are at this time, in all (`verifications_max`) or
    /// for its network (a sixteenth of that).
    pub(super) fn ask(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Asking> {
        let network = network_of(address);
        let share = (limits.verifications_max / NETWORK_SHARE).max(1);
        let mut inner = self.inner.lock();
        let for_it = inner.asking_for.get(&network).copied().unwrap_or_default();
        if inner.asking >= limits.verifications_max || for_it >= share {
            return None;
        }
        inner.asking += 1;
        *inner.asking_for.entry(network).or_default() += 1;
        Some(Asking(self.clone(), network))
    }

    pub(super) fn count(&self, reason: &'static str) {
        *self.inner.lock().reasons.entry(reason).or_default() += 1;
    }

    pub(super) fn status(&self) -> Status {
        let inner = self.inner.lock();
        let awake = inner.domains.iter().filter(|(_, domain)| domain.streams > 0);
        let domains = awake.map(|(name, domain)| (name.clone(), domain.streams));
        Status {
            streams: inner.streams,
            unproved: inner.unproved.values().sum(),
            domains: domains.collect(),
            reasons: inner.reasons.clone(),
        }
    }

    /// Waits until there is no stream any more.
    pub(super) async fn empty(&self) {
        loop {
            let gone = self.gone.notified();
            if self.inner.lock().streams == 0 {
                return;
            }
            gone.await;
        }
    }
}

/// A stream's place. Dropping it makes room.
#[derive(Debug)]
pub(super) struct Seat {
    counts: Arc<Counts>,
    /// Counted as one that has proved nothing, from there.
    unproved: Option<IpAddr>,
    /// Counted as one of these; the first pays for what it sends.
    domains: Vec<String>,
    /// As one of those that are asleep.
    is_asleep: bool,
    /// What it may send before it has proved anything.
    bucket: Bucket,
}

impl Seat {
    /// The stream has proved a domain. False: that domain has too many (`streams_per_domain_max`).
    pub(super) fn accepted(&mut self, domain: &str, limits: &Limits, now: Instant) -> bool {
        let mut inner = self.counts.inner.lock();
        release(&mut inner.unproved, self.unproved.take());
        if self.domains.iter().any(|one| one == domain) {
            return true;
        }
        let counted = inner.domains.entry(domain.to_owned()).or_insert_with(|| Domain {
            streams: 0,
            asleep: 0,
            bucket: Bucket::new(now),
        });
        counted.streams += 1;
        self.domains.push(domain.to_owned());
        counted.streams <= limits.streams_per_domain_max
    }

    /// Whose rate counts.
    pub(super) fn payer(&self) -> Option<&str> {
        self.domains.first().map(String::as_str)
    }

    /// So much was read. How long until more may be.
    pub(super) fn pay(&mut self, bytes: usize, per_second: u64, now: Instant) -> Duration {
        if let Some(name) = self.domains.first()
            && let Some(domain) = self.counts.inner.lock().domains.get_mut(name)
        {
            return domain.bucket.take(bytes, per_second, now);
        }
        self.bucket.take(bytes, per_second, now)
    }

    /// Its connection is lost: it is not one of its domains' streams any more, but one of those that sleep. False: a domain of its has as many of them as
    /// it may have streams, and this is one too many.
    pub(super) fn lost(&mut self, limits: &Limits) -> bool {
        let mut inner = self.counts.inner.lock();
        release(&mut inner.unproved, self.unproved.take());
        let mut has_room = true;
        for name in &self.domains {
            let Some(domain) = inner.domains.get_mut(name) else { continue };
            has_room &= domain.asleep < limits.streams_per_domain_max;
            if !self.is_asleep {
                (domain.streams, domain.asleep) = (domain.streams - 1, domain.asleep + 1);
            }
        }
        self.is_asleep = true;
        has_room
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.counts.inner.lock();
        release(&mut inner.unproved, self.unproved.take());
        for name in self.domains.drain(..) {
            let Some(domain) = inner.domains.get_mut(&name) else { continue };
            let count = if self.is_asleep { &mut domain.asleep } else { &mut domain.streams };
            *count -= 1;
            if domain.streams + domain.asleep == 0 {
                inner.domains.remove(&name);
            }
        }
        inner.streams -= 1;
        if inner.streams == 0 {
            self.counts.gone.notify_waiters();
        }
    }
}

fn release(unproved: &mut HashMap<IpAddr, usize>, address: Option<IpAddr>) {
    let Some(address) = address else { return };
    let Some(count) = unproved.get_mut(&address) else { return };
    *count -= 1;
    if *count == 0 {
        unproved.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::incoming::tests::settings;

    #[tokio::test]
    async fn each_bound_holds_and_each_seat_is_given_back() {
        let limits = Limits { streams_max: 4, ..settings().limits }; // and 3 from an address, 3 of a domain
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let [here, there] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let mut seats: Vec<_> =
            (0..3).map(|_| counts.seat(here, &limits, now).expect("room")).collect();
        assert_eq!(counts.seat(here, &limits, now).err(), Some(Full::Address));
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(counts.seat(mapped, &limits, now).err(), Some(Full::Address));
        assert!(seats[0].accepted("a.example", &limits, now));
        assert!(seats[0].accepted("b.example", &limits, now));
        assert!(seats[0].accepted("a.example", &limits, now));
        seats.push(counts.seat(here, &limits, now).expect("one has proved who it is"));
        assert_eq!(counts.seat(there, &limits, now).err(), Some(Full::Streams));
        assert!(seats[1].accepted("a.example", &limits, now));
        assert!(seats[2].accepted("a.example", &limits, now));
        assert!(!seats[3].accepted("a.example", &limits, now), "one too many");
        let status = counts.status();
        assert_eq!((status.streams, status.unproved, status.domains["a.example"]), (4, 0, 4));
        assert_eq!((status.reasons["address"], status.reasons["resource-constraint"]), (2, 1));
        assert!(seats[0].lost(&limits), "the first that sleeps");
        assert_eq!(counts.status().domains.get("b.example"), None);
        assert!(seats[1].lost(&limits) && seats[2].lost(&limits));
        assert!(!seats[3].lost(&limits), "one too many");
        assert_eq!(counts.status().domains.get("a.example"), None);
        seats.clear();
        counts.empty().await;
        assert_eq!(Status { reasons: BTreeMap::new(), ..counts.status() }, Status::default());
    }

    #[test]
    fn what_one_customer_has_is_one_source() {
        let limits = Limits { unproved_per_address_max: 1, ..settings().limits };
        let (counts, now) = (Arc::new(Counts::default()), Instant::now());
        let seat = |text: &str| counts.seat(text.parse().expect("an address"), &limits, now);
        let _first = seat("2001:db8:0:1::1").expect("room");
        assert_eq!(seat("2001:db8:0:1:ffff::2").err(), Some(Full::Address));
        assert!(seat("2001:db8:0:2::1").is_ok());
    }

    #[test]
    fn not_everybody_is_told_that_there_is_no_room() {
        let counts = Arc::new(Counts::default());
        let told: Vec<_> = (0..REFUSALS_MAX).map(|_| counts.refuse()).collect();
        assert!(told.iter().all(Option::is_some) && counts.refuse().is_none());
        drop(told);
        assert!(counts.refuse().is_some());
    }

    #[test]
    fn so_much_is_asked_at_a_time_and_a_share_of_it_for_one_network() {
        let limits = Limits { verifications_max: 32, ..settings().limits };
        let counts = Arc::new(Counts::default());
        let ask = |text: &str| counts.ask(text.parse().expect("an address"), &limits);
        let first = ask("2001:db8:1:1::1");
        let second = ask("2001:db8:1:2::1");
        assert!(first.is_some() && second.is_some());
        assert!(ask("2001:db8:1:3::1").is_none(), "the same network");
        let others: Vec<_> = (0..30).map(|n| ask(&format!("10.0.0.{}", n / 2))).collect();
        assert!(others.iter().all(Option::is_some));
        assert!(ask("10.9.9.9").is_none(), "so many in all");
        drop(first);
        let again = ask("2001:db8:1:3::1");
        assert!(again.is_some() && ask("10.9.9.9").is_none());
        drop((second, others, again));
        let inner = counts.inner.lock();
        assert!(inner.asking == 0 && inner.asking_for.is_empty());
    }

    #[test]
    fn all_streams_of_a_domain_pay_from_one_bucket() {
        let (limits, now) = (settings().limits, Instant::now());
        let counts = Arc::new(Counts::default());
        let seat =
            |from: u8| counts.seat(IpAddr::from([10, 0, 0, from]), &limits, now).expect("room");
        let (mut one, mut other, mut third) = (seat(1), seat(2), seat(3));
        assert!(
            one.accepted("a.example", &limits, now) && other.accepted("a.example", &limits, now)
        );
        assert_eq!(one.pay(1000, 1000, now), Duration::ZERO);
        assert_eq!(other.pay(1000, 1000, now), Duration::from_secs(1));
        assert_eq!(third.pay(1000, 1000, now), Duration::ZERO);
        assert_eq!((other.payer(), third.payer()), (Some("a.example"), None));
    }
}
