//! Auth: how fast passwords may be guessed. Asked by the session before every attempt, told of every outcome.
//!
//! Failures are counted by source address (an IPv6 /64 is one; not this machine's own, from which a proxy or an operator connects,
//! and which stands for nobody) and by account. A few are free; after that each doubles the time until
//! the next attempt is looked at. An attempt that comes too early is answered `temporary-auth-failure` (RFC 6120 §6.5.9) without
//! being checked, so a guesser gains nothing by hurrying. The account's back-off is mild and short: it slows a guesser with many
//! addresses. It does not apply where the account has signed in from lately: a guesser who takes every moment in which an attempt is
//! looked at would else keep its owner out (bad-inputs B-104).
//!
//! [`Tally`] is the pure core: time is handed in. Deliberately absent: replication; each node counts for itself.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use s2s::front::source_of;
use xmpp::jid::BareJid;

use super::cache::Recent;

/// Entries a map may have. Past it the least recently used half is forgotten: a guesser with that many addresses is not slowed by
/// counting them.
pub const ENTRIES_MAX: usize = 65_536;

/// The span in which new accounts from one address are counted (`registration.per_address_per_10min`).
pub const REGISTRATION_SPAN: Duration = Duration::from_secs(600);

/// Wrong invitations from one address in that span; past it none is looked at (bad-inputs B-280: no token is found by trying).
pub const WRONG_TOKENS_MAX: u32 = 100;

/// How one kind of failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Failures that cost nothing.
    pub free: u32,
    /// The wait after the first that does; doubles each time.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// Forgiven when nothing failed for so long.
    pub forgiven_after: Duration,
}

/// What applies to one address.
pub const ADDRESS: Backoff = Backoff {
    free: 10,
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    forgiven_after: Duration::from_secs(15 * 60),
};

/// What applies to one account.
pub const ACCOUNT: Backoff = Backoff {
    free: 20,
    first: Duration::from_millis(500),
    longest: Duration::from_secs(5),
    forgiven_after: Duration::from_secs(15 * 60),
};

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Duration,
}

impl Backoff {
    fn wait(&self, failures: Failures, now: Duration) -> Duration {
        let since = now.saturating_sub(failures.last);
        if failures.count <= self.free || since >= self.forgiven_after {
            return Duration::ZERO;
        }
        let doublings = (failures.count - self.free - 1).min(20);
        (self.first * (1 << doublings)).min(self.longest).saturating_sub(since)
    }

    fn count(&self, failures: &mut Failures, now: Duration) {
        if now.saturating_sub(failures.last) >= self.forgiven_after {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
    }
}

/// The pure core of a [`Throttle`]. `now` is the time since any fixed moment.
#[derive(Debug)]
pub struct Tally {
    addresses: Recent<IpAddr, Failures>,
    accounts: Recent<Box<str>, Failures>,
    /// Where accounts have signed in from.
    known: Recent<(IpAddr, Box<str>), ()>,
}

impl Tally {
    /// Nobody has failed yet. At most that many addresses and accounts each are remembered.
    pub fn new(entries_max: usize) -> Self {
        Self {
            addresses: Recent::new(entries_max),
            accounts: Recent::new(entries_max),
            known: Recent::new(entries_max),
        }
    }

    /// How long to wait before an attempt from there, for that account if it is known already, is looked at.
    pub fn wait(&mut self, from: IpAddr, account: Option<&str>, now: Duration) -> Duration {
        let address = counted(from)
            .and_then(|from| self.addresses.get(&from))
            .map_or(Duration::ZERO, |failures| ADDRESS.wait(*failures, now));
        let of_account = account
            .and_then(|account| self.accounts.get(account))
            .map_or(Duration::ZERO, |failures| ACCOUNT.wait(*failures, now));
        match (account, counted(from)) {
            (Some(account), Some(from))
                if of_account > address && self.known.get(&(from, account.into())).is_some() =>
            {
                address
            }
            _ => address.max(of_account),
        }
    }

    /// An attempt has failed.
    pub fn failed(&mut self, from: IpAddr, account: Option<&str>, now: Duration) {
        let none = Failures { count: 0, last: now };
        if let Some(from) = counted(from) {
            let mut failures = self.addresses.get(&from).map_or(none, |failures| *failures);
            ADDRESS.count(&mut failures, now);
            self.addresses.insert(from, failures);
        }
        if let Some(account) = account {
            let mut failures = self.accounts.get(account).map_or(none, |failures| *failures);
            ACCOUNT.count(&mut failures, now);
            self.accounts.insert(account.into(), failures);
        }
    }

    /// An attempt has succeeded: the account's failures are forgiven, and it is known there. The address's are not forgiven, else a guesser
    /// would log in as himself between any two guesses.
    pub fn succeeded(&mut self, from: IpAddr, account: &str) {
        self.accounts.remove(account);
        if let Some(from) = counted(from) {
            self.known.insert((from, account.into()), ());
        }
    }
}

/// What failures from there are counted under.
fn counted(from: IpAddr) -> Option<IpAddr> {
    Some(source_of(from)).filter(|_| !from.to_canonical().is_loopback())
}

/// The tally of a node. `now_ms` is the node's monotonic time, in milliseconds.
///
/// A session asks [`check`](Self::check) before each look-up, tells [`succeeded`](Self::succeeded) when the exchange did, and
/// [`failed`](Self::failed) when it did not: at once for a wrong PLAIN password, and for SCRAM when the next attempt
/// begins, or the connection ends, without a success in between.
#[derive(Debug)]
pub struct Throttle {
    tally: Mutex<Tally>,
    registrations: Mutex<Quota>,
    wrong_tokens: Mutex<Quota>,
}

impl Throttle {
    /// An empty one.
    pub fn new() -> Self {
        let quota = || Mutex::new(Quota::new(REGISTRATION_SPAN));
        let tally = Mutex::new(Tally::new(ENTRIES_MAX));
        Self { tally, registrations: quota(), wrong_tokens: quota() }
    }

    /// Whether an attempt is looked at now.
    ///
    /// # Errors
    /// How long to wait. See [`Tally::wait`].
    pub fn check(
        &self,
        from: IpAddr,
        account: Option<&BareJid>,
        now_ms: u64,
    ) -> Result<(), Duration> {
        let now = Duration::from_millis(now_ms);
        match self.tally.lock().wait(from, account.map(BareJid::as_str), now) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// See [`Tally::failed`].
    pub fn failed(&self, from: IpAddr, account: Option<&BareJid>, now_ms: u64) {
        let account = account.map(BareJid::as_str);
        self.tally.lock().failed(from, account, Duration::from_millis(now_ms));
    }

    /// See [`Tally::succeeded`].
    pub fn succeeded(&self, from: IpAddr, account: &BareJid) {
        self.tally.lock().succeeded(from, account.as_str());
    }

    /// Whether one more account may be made from there: `max` in [`REGISTRATION_SPAN`]. Counts it if so.
    pub fn may_register(&self, from: IpAddr, max: u32, now_ms: u64) -> bool {
        self.registrations.lock().take(from, max, Duration::from_millis(now_ms))
    }

    /// Whether an invitation that comes from there is looked at.
    pub fn may_show_token(&self, from: IpAddr, now_ms: u64) -> bool {
        !self.wrong_tokens.lock().is_spent(from, WRONG_TOKENS_MAX, Duration::from_millis(now_ms))
    }

    /// It was none.
    pub fn token_was_wrong(&self, from: IpAddr, now_ms: u64) {
        self.wrong_tokens.lock().take(from, WRONG_TOKENS_MAX, Duration::from_millis(now_ms));
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

/// So many of something from one source address in a span of time; used for new accounts. Pure. Bounded like the tally.
#[derive(Debug)]
pub struct Quota {
    span: Duration,
    sources: Recent<IpAddr, (Duration, u32)>,
}

impl Quota {
    /// Nothing taken yet. For each source the counting begins anew after `span`.
    pub fn new(span: Duration) -> Self {
        Self { span, sources: Recent::new(ENTRIES_MAX) }
    }

    /// Takes one of `max`; false when none is left. `now` is the time since any fixed moment.
    pub fn take(&mut self, from: IpAddr, max: u32, now: Duration) -> bool {
        let from = source_of(from);
        let (since, taken) = self.sources.get(&from).copied().unwrap_or((now, 0));
        let (since, taken) =
            if now.saturating_sub(since) >= self.span { (now, 0) } else { (since, taken) };
        let fits = taken < max;
        self.sources.insert(from, (since, taken + u32::from(fits)));
        fits
    }

    /// Whether none is left.
    pub fn is_spent(&mut self, from: IpAddr, max: u32, now: Duration) -> bool {
        let known = self.sources.get(&source_of(from)).copied();
        known.is_some_and(|(since, taken)| now.saturating_sub(since) < self.span && taken >= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_few_failures_are_free_and_then_the_wait_doubles_to_its_bound() {
        let mut tally = Tally::new(100);
        let from = ip("192.0.2.1");
        let mut waits = Vec::new();
        for _ in 0..18 {
            tally.failed(from, None, T0);
            waits.push(tally.wait(from, None, T0).as_secs());
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(tally.wait(from, None, T0 + Duration::from_secs(59)), Duration::from_secs(1));
        assert_eq!(tally.wait(from, None, T0 + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(tally.wait(ip("192.0.2.2"), None, T0), Duration::ZERO);
    }

    #[test]
    fn whoever_fails_on_this_machine_keeps_nobody_else_out() {
        let mut tally = Tally::new(100);
        for from in ["127.0.0.1", "::1", "::ffff:127.0.0.1"].map(ip) {
            for _ in 0..100 {
                tally.failed(from, Some("juliet@example.org"), T0);
            }
            assert_eq!(tally.wait(from, Some("romeo@example.org"), T0), Duration::ZERO);
        }
        let wait = tally.wait(ip("127.0.0.1"), Some("juliet@example.org"), T0);
        assert_eq!(wait, ACCOUNT.longest, "the account is slowed all the same");
    }

    #[test]
    fn an_account_guessed_at_from_everywhere_slows_down_but_is_never_locked() {
        let mut tally = Tally::new(10_000);
        for n in 0..200_u8 {
            tally.failed(IpAddr::from([192, 0, 2, n]), Some("juliet@example.org"), T0);
        }
        let wait = tally.wait(ip("198.51.100.1"), Some("juliet@example.org"), T0);
        assert_eq!(wait, ACCOUNT.longest);
        tally.succeeded(ip("198.51.100.1"), "juliet@example.org");
        assert_eq!(tally.wait(ip("198.51.100.2"), Some("juliet@example.org"), T0), Duration::ZERO);
    }

    #[test]
    fn who_guesses_all_the_time_does_not_keep_the_owner_out_at_home() {
        let mut tally = Tally::new(1_000);
        let juliet = Some("juliet@example.org");
        let (home, through_a_proxy) = (ip("198.51.100.1"), ip("127.0.0.1"));
        tally.succeeded(home, "juliet@example.org");
        tally.succeeded(through_a_proxy, "juliet@example.org");
        for n in 0..200_u8 {
            tally.failed(IpAddr::from([192, 0, 2, n]), juliet, T0);
        }
        assert_eq!(tally.wait(home, juliet, T0), Duration::ZERO);
        assert_eq!(tally.wait(home, Some("romeo@example.org"), T0), Duration::ZERO);
        for elsewhere in [ip("198.51.100.2"), through_a_proxy] {
            assert_eq!(tally.wait(elsewhere, juliet, T0), ACCOUNT.longest);
        }
        // Who guesses from there is slowed as anybody is.
        for _ in 0..=ADDRESS.free {
            tally.failed(home, juliet, T0);
        }
        assert_eq!(tally.wait(home, juliet, T0), ADDRESS.first);
    }

    #[test]
    fn a_success_does_not_wash_the_address_clean() {
        let mut tally = Tally::new(100);
        let from = ip("2001:db8::1");
        for _ in 0..=ADDRESS.free {
            tally.failed(from, Some("juliet@example.org"), T0);
            tally.succeeded(from, "mallory@example.org");
        }
        assert!(tally.wait(ip("2001:db8::2"), Some("romeo@example.org"), T0) > Duration::ZERO);
    }

    #[test]
    fn old_failures_are_forgiven_and_the_maps_are_bounded() {
        let mut tally = Tally::new(100);
        let from = ip("192.0.2.1");
        for _ in 0..=ADDRESS.free {
            tally.failed(from, None, T0);
        }
        let later = T0 + ADDRESS.forgiven_after;
        assert_eq!(tally.wait(from, None, later), Duration::ZERO);
        tally.failed(from, None, later);
        assert_eq!(tally.wait(from, None, later), Duration::ZERO);
        for n in 0..1000_u32 {
            tally.failed(IpAddr::from(n.to_be_bytes()), Some(&format!("user{n}@example.org")), T0);
        }
        for n in 0..1000_u32 {
            tally.succeeded(IpAddr::from(n.to_be_bytes()), "juliet@example.org");
        }
        assert!(tally.addresses.len() <= 100 && tally.accounts.len() <= 100);
        assert!(tally.known.len() <= 100);
    }

    #[test]
    fn a_quota_is_by_source_and_begins_anew_after_its_span() {
        let mut quota = Quota::new(Duration::from_secs(600));
        let from = ip("192.0.2.1");
        let take =
            |quota: &mut Quota, seconds| quota.take(from, 2, T0 + Duration::from_secs(seconds));
        let taken =
            [take(&mut quota, 0), take(&mut quota, 1), take(&mut quota, 2), take(&mut quota, 599)];
        assert_eq!(taken, [true, true, false, false]);
        let spent = |quota: &mut Quota, at| quota.is_spent(from, 2, T0 + Duration::from_secs(at));
        assert!(spent(&mut quota, 599) && !spent(&mut quota, 600));
        assert!(quota.take(ip("192.0.2.2"), 2, T0));
        assert!(take(&mut quota, 600));
    }
}
