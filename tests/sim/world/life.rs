//! One life of a node's process: what its handles on the world (network, disk) belong to. When it is over they refuse.
//!
//! Simulated time is in milliseconds. Each life has a tokio runtime of its own whose paused clock began when the life did; what runs in it
//! sees the time by that clock, so a node that sleeps (SIGSTOP) sees none pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use tokio::time::{Duration, Instant};

/// The wall clock at the beginning of every simulation.
const EPOCH_MS: u64 = 1_790_000_000_000;

/// See the module.
#[derive(Debug)]
pub struct Life {
    /// Whose.
    pub host: usize,
    born_ms: u64,
    base: Instant,
    over: AtomicBool,
    /// Time by this life's clock when the harness ran it last; for who asks from outside its runtime.
    seen_ms: AtomicU64,
    /// How wrong the host's wall clock is.
    skew_ms: Arc<AtomicI64>,
}

impl Life {
    /// Begins now. To be called in its runtime.
    pub fn begin(host: usize, now_ms: u64, skew_ms: Arc<AtomicI64>) -> Arc<Self> {
        Arc::new(Self {
            host,
            born_ms: now_ms,
            base: Instant::now(),
            over: AtomicBool::new(false),
            seen_ms: AtomicU64::new(now_ms),
            skew_ms,
        })
    }

    /// Simulated time. Only inside its runtime.
    pub fn now(&self) -> u64 {
        let lived = Instant::now().saturating_duration_since(self.base);
        let now = self.born_ms + lived.as_millis() as u64;
        self.seen_ms.store(now, Ordering::Relaxed);
        now
    }

    /// The same, from anywhere: the time of the last look.
    pub fn seen(&self) -> u64 {
        self.seen_ms.load(Ordering::Relaxed)
    }

    /// That time on its runtime's clock.
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.base + Duration::from_millis(at_ms.saturating_sub(self.born_ms))
    }

    /// Waits until then.
    pub async fn until(&self, at_ms: u64) {
        tokio::time::sleep_until(self.instant(at_ms)).await;
    }

    /// What the clock on the wall shows there.
    pub fn wall(&self) -> u64 {
        (EPOCH_MS + self.now()).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    /// The process is gone.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// What the wall clock of a host with that skew shows at that time.
pub fn wall_at(now_ms: u64, skew_ms: i64) -> u64 {
    (EPOCH_MS + now_ms).saturating_add_signed(skew_ms)
}
