//! Room: how many new sessions begin in a second (`limits.sign_ins_per_second`). When a node has died its users come to the others all at once, and
//! each new session reads a roster, hands out what was filed, and is announced to every contact: so they begin at a pace, in the order they came, and
//! who finds the queue full is turned away. Who resumes a session waits for nobody, and is counted: while many do, fewer begin.
//! A value under one short lock, and a task while somebody waits. Called by `negotiate` when a client has proved who it is, before anything of its
//! sign-in is written (XEP-0484: counts, new tokens), or when it asks to be bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::Rate;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::pace::Bucket;

/// What who resumes may take in advance of who binds: seconds' worth.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// See the room.
#[derive(Debug)]
pub struct Turnstile {
    inner: Mutex<Inner>,
    /// The rate is another: who lets them through need not sleep as long as it thought.
    changed: Notify,
    start: Instant,
}

#[derive(Debug)]
struct Inner {
    rate: Rate,
    bucket: Bucket,
    /// By number, so in the order they came.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    /// The number of who comes next.
    next: u64,
    /// Somebody lets them through.
    is_turning: bool,
}

impl Inner {
    fn wait(&self, now: u64) -> u64 {
        self.bucket.wait(self.rate, now)
    }

    fn take(&mut self, now: u64) {
        self.bucket.take(1, self.rate, now);
    }
}

/// There is no room to wait in.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// A place among those who wait, until it is dropped.
struct Place<'a> {
    turnstile: &'a Turnstile,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turnstile.inner.lock().waiting.remove(&self.number);
    }
}

impl Turnstile {
    /// One through which nobody has gone yet.
    pub fn new(rate: Rate) -> Self {
        let (bucket, waiting) = (Bucket::default(), BTreeMap::new());
        let inner = Inner { rate, bucket, waiting, next: 0, is_turning: false };
        Self { inner: Mutex::new(inner), changed: Notify::new(), start: Instant::now() }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// From now on they go through at that rate, those who wait already among them.
    pub fn set_rate(&self, rate: Rate) {
        let now = self.now_ns();
        let mut inner = self.inner.lock();
        let before = std::mem::replace(&mut inner.rate, rate);
        inner.bucket.change(before, rate, now);
        drop(inner);
        self.changed.notify_one();
    }

    /// Through, when it is one's turn. Who does not wait to the end leaves its place to others.
    ///
    /// # Errors
    /// As many wait already as may.
    pub async fn pass(self: &Arc<Self>, waiting_max: usize) -> Result<(), Full> {
        let (turn, _place) = {
            let now = self.now_ns();
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            if inner.waiting.is_empty() && inner.wait(now) == 0 {
                inner.take(now);
                return Ok(());
            }
            if inner.waiting.len() >= waiting_max {
                return Err(Full);
            }
            let (turn, mine) = oneshot::channel();
            let number = inner.next;
            inner.next += 1;
            inner.waiting.insert(number, turn);
            if !std::mem::replace(&mut inner.is_turning, true) {
                tokio::spawn(self.clone().turn());
            }
            (mine, Place { turnstile: self, number })
        };
        turn.await.map_err(|_| Full)
    }

    /// Through at once, before all who wait.
    pub fn pass_first(&self) {
        let now = self.now_ns();
        let mut inner = self.inner.lock();
        if u128::from(inner.wait(now)) < AHEAD_MAX.as_nanos() {
            inner.take(now);
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    async fn turn(self: Arc<Self>) {
        loop {
            let wait = {
                let now = self.now_ns();
                let mut inner = self.inner.lock();
                let inner = &mut *inner;
                let mut wait = inner.wait(now);
                while wait == 0 {
                    let Some((_, next)) = inner.waiting.pop_first() else {
                        inner.is_turning = false;
                        return;
                    };
                    // Who is leaving at this moment has not passed.
                    if next.send(()).is_ok() {
                        inner.take(now);
                        wait = inner.wait(now);
                    }
                }
                wait
            };
            tokio::select! {
                () = sleep(Duration::from_nanos(wait)) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Rate = Rate { per_second: 10, burst: 2 };
    const UNBOUNDED: Rate = Rate { per_second: 0, burst: 1 };

    #[tokio::test(start_paused = true)]
    async fn the_burst_goes_at_once_and_the_others_in_their_order_at_the_rate() {
        let turnstile = Arc::new(Turnstile::new(TEN));
        let start = Instant::now();
        let passing: Vec<_> = (0..12)
            .map(|n| {
                let turnstile = turnstile.clone();
                tokio::spawn(async move {
                    turnstile.pass(100).await.expect("room");
                    (n, start.elapsed().as_millis())
                })
            })
            .collect();
        let mut times = Vec::new();
        for one in passing {
            times.push(one.await.expect("passed"));
        }
        assert!(times.is_sorted_by_key(|(_, at)| *at), "{times:?}");
        assert!(times[1].1 == 0 && times[2].1 >= 100, "{times:?}");
        assert!((1_000..1_100).contains(&times[11].1), "{times:?}");
        assert_eq!(turnstile.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_it_full_is_turned_away_and_who_goes_makes_room() {
        let turnstile = Arc::new(Turnstile::new(TEN));
        for _ in 0..2 {
            turnstile.pass(1).await.expect("the burst");
        }
        let waits = {
            let turnstile = turnstile.clone();
            tokio::spawn(async move { turnstile.pass(1).await })
        };
        tokio::task::yield_now().await;
        assert_eq!(turnstile.pass(1).await, Err(Full));
        assert_eq!(turnstile.waiting(), 1);
        waits.abort();
        let _ = waits.await;
        assert_eq!(turnstile.waiting(), 0);
        turnstile.pass(1).await.expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_resumes_passes_everybody_and_makes_them_wait_longer() {
        let turnstile = Arc::new(Turnstile::new(TEN));
        let start = Instant::now();
        for _ in 0..2 {
            turnstile.pass(10).await.expect("the burst");
        }
        let waits = {
            let turnstile = turnstile.clone();
            tokio::spawn(async move { turnstile.pass(10).await })
        };
        tokio::task::yield_now().await;
        for _ in 0..10 {
            turnstile.pass_first();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        waits.await.expect("done").expect("passed");
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        // However many resume, others come in at last.
        for _ in 0..10_000 {
            turnstile.pass_first();
        }
        turnstile.pass(10).await.expect("passed");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn no_rate_is_no_limit() {
        let turnstile = Arc::new(Turnstile::new(UNBOUNDED));
        for _ in 0..10_000 {
            turnstile.pass(1).await.expect("at once");
        }
    }

    /// A hundred wait at ten a second when the rate is changed. How long it takes until all are through.
    async fn a_hundred_wait_until(rate: Rate) -> Duration {
        let turnstile = Arc::new(Turnstile::new(TEN));
        let passing: Vec<_> = (0..102)
            .map(|_| {
                let turnstile = turnstile.clone();
                tokio::spawn(async move { turnstile.pass(100).await.expect("room") })
            })
            .collect();
        while turnstile.waiting() < 100 {
            tokio::task::yield_now().await;
        }
        let changed = Instant::now();
        turnstile.set_rate(rate);
        for one in passing {
            one.await.expect("passed");
        }
        assert_eq!(turnstile.waiting(), 0);
        changed.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_is_in_force_for_those_who_wait_already() {
        let took = a_hundred_wait_until(Rate { per_second: 1_000, burst: 2 }).await;
        assert!((50..1_000).contains(&took.as_millis()), "{took:?}");
        assert_eq!(a_hundred_wait_until(UNBOUNDED).await, Duration::ZERO);
        let took = a_hundred_wait_until(Rate { per_second: 5, burst: 2 }).await;
        assert!(took >= Duration::from_secs(19), "{took:?}");
    }
}
