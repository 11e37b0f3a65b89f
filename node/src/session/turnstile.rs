//! Room: how many new sessions begin in a second (`limits.sign_ins_per_second`). When a node has died its users come to the others all at once, and
//! each new session reads a roster, hands out what was filed, and is announced to every contact: so they begin at a pace, in the order they came, and
//! who finds the queue full is turned away. Who resumes a session waits for nobody, and is counted: while many do, fewer begin.
//! A value under one short lock, and a task while somebody waits. Called by `negotiate` when a client is signed in and asks to be bound.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use config::Rate;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::pace::Bucket;

/// What who resumes may take in advance of who binds: seconds' worth.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// See the room.
#[derive(Debug)]
pub struct Turnstile {
    inner: Mutex<Inner>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    bucket: Bucket,
    waiting: VecDeque<oneshot::Sender<()>>,
    /// Somebody lets them through.
    is_turning: bool,
}

/// There is no room to wait in.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Default for Turnstile {
    fn default() -> Self {
        Self { inner: Mutex::default(), start: Instant::now() }
    }
}

impl Turnstile {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Through, when it is one's turn. Who does not wait to the end loses nothing for others.
    ///
    /// # Errors
    /// As many wait already as may.
    pub async fn pass(self: &Arc<Self>, rate: Rate, waiting_max: usize) -> Result<(), Full> {
        let turn = {
            let now = self.now_ns();
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            if inner.waiting.is_empty() && inner.bucket.wait(rate, now) == 0 {
                inner.bucket.take(1, rate, now);
                return Ok(());
            }
            inner.waiting.retain(|waiting| !waiting.is_closed());
            if inner.waiting.len() >= waiting_max {
                return Err(Full);
            }
            let (turn, mine) = oneshot::channel();
            inner.waiting.push_back(turn);
            if !std::mem::replace(&mut inner.is_turning, true) {
                tokio::spawn(self.clone().turn(rate));
            }
            mine
        };
        turn.await.map_err(|_| Full)
    }

    /// Through at once, before all who wait.
    pub fn pass_first(&self, rate: Rate) {
        let now = self.now_ns();
        let mut inner = self.inner.lock();
        if u128::from(inner.bucket.wait(rate, now)) < AHEAD_MAX.as_nanos() {
            inner.bucket.take(1, rate, now);
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    async fn turn(self: Arc<Self>, rate: Rate) {
        loop {
            let wait = {
                let now = self.now_ns();
                let mut inner = self.inner.lock();
                let inner = &mut *inner;
                let mut wait = inner.bucket.wait(rate, now);
                while wait == 0 {
                    let Some(next) = inner.waiting.pop_front() else {
                        inner.is_turning = false;
                        return;
                    };
                    // Who has gone meanwhile has not passed.
                    if next.send(()).is_ok() {
                        inner.bucket.take(1, rate, now);
                        wait = inner.bucket.wait(rate, now);
                    }
                }
                wait
            };
            sleep(Duration::from_nanos(wait)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Rate = Rate { per_second: 10, burst: 2 };

    #[tokio::test(start_paused = true)]
    async fn the_burst_goes_at_once_and_the_others_in_their_order_at_the_rate() {
        let turnstile = Arc::new(Turnstile::default());
        let start = Instant::now();
        let passing: Vec<_> = (0..12)
            .map(|n| {
                let turnstile = turnstile.clone();
                tokio::spawn(async move {
                    turnstile.pass(TEN, 100).await.expect("room");
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
        let turnstile = Arc::new(Turnstile::default());
        for _ in 0..2 {
            turnstile.pass(TEN, 1).await.expect("the burst");
        }
        let waits = {
            let turnstile = turnstile.clone();
            tokio::spawn(async move { turnstile.pass(TEN, 1).await })
        };
        tokio::task::yield_now().await;
        assert_eq!(turnstile.pass(TEN, 1).await, Err(Full));
        waits.abort();
        let _ = waits.await;
        turnstile.pass(TEN, 1).await.expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_resumes_passes_everybody_and_makes_them_wait_longer() {
        let turnstile = Arc::new(Turnstile::default());
        let start = Instant::now();
        for _ in 0..2 {
            turnstile.pass(TEN, 10).await.expect("the burst");
        }
        let waits = {
            let turnstile = turnstile.clone();
            tokio::spawn(async move { turnstile.pass(TEN, 10).await })
        };
        tokio::task::yield_now().await;
        for _ in 0..10 {
            turnstile.pass_first(TEN);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        waits.await.expect("done").expect("passed");
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        // However many resume, others come in at last.
        for _ in 0..10_000 {
            turnstile.pass_first(TEN);
        }
        turnstile.pass(TEN, 10).await.expect("passed");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn no_rate_is_no_limit() {
        let turnstile = Arc::new(Turnstile::default());
        for _ in 0..10_000 {
            turnstile.pass(Rate { per_second: 0, burst: 1 }, 1).await.expect("at once");
        }
    }
}
