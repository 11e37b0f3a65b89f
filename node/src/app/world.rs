//! What a node cannot know by itself: the time of day, and chance. From the operating system; in the simulator, from a seed.
//! Time that passes (deadlines, order of events) is not here: that is tokio's clock, which a simulation pauses and drives.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use global_distrib::Hashing;

/// Fills a buffer with random bytes.
pub type Chance = dyn Fn(&mut [u8]) + Send + Sync;

/// See the module.
#[derive(Clone)]
pub struct World {
    /// Milliseconds since the epoch.
    pub wall: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Fills a buffer with random bytes, good enough for secrets.
    pub chance: Arc<Chance>,
    /// How the session table hashes its users.
    pub hashing: Hashing,
}

impl World {
    /// The machine's.
    pub fn real() -> Self {
        let fill = |bytes: &mut [u8]| {
            getrandom::fill(bytes).expect("the operating system has random numbers");
        };
        Self { wall: Arc::new(wall_ms), chance: Arc::new(fill), hashing: Hashing::random() }
    }

    /// Milliseconds since the epoch.
    pub fn wall_ms(&self) -> u64 {
        (self.wall)()
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.chance)(&mut bytes);
        bytes
    }

    /// A random number.
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.random())
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// Of the operating system's clock.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
