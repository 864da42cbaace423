//! The loop's pulse: shows that it advances, to systemd's watchdog and to `/healthz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A pulse. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Pulse {
    started: Instant,
    last_beat_ms: Arc<AtomicU64>,
    hung_after: Duration,
}

impl Pulse {
    /// The pulse of a loop that counts as hung when it has not advanced for so long.
    pub fn new(hung_after: Duration) -> Self {
        Self { started: Instant::now(), last_beat_ms: Arc::default(), hung_after }
    }

    /// The loop has advanced.
    pub fn beat(&self) {
        self.last_beat_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Milliseconds since the loop advanced last, or since the start.
    pub fn age_ms(&self) -> u64 {
        self.now_ms().saturating_sub(self.last_beat_ms.load(Ordering::Relaxed))
    }

    /// Whether the loop advances.
    pub fn is_alive(&self) -> bool {
        Duration::from_millis(self.age_ms()) < self.hung_after
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
