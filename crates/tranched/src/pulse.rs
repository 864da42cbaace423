//! The loop's pulse: shows that it advances, to systemd's watchdog and to `/healthz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The loop counts as hung when it has not advanced for so long, in milliseconds. A pass may take as long as its
/// longest step, and the limits on kernel and libvirt calls are well below this.
pub const HUNG_AFTER_MS: u64 = 180_000;

/// A pulse. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Pulse {
    started: Instant,
    last_beat_ms: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { started: Instant::now(), last_beat_ms: Arc::default() }
    }
}

impl Pulse {
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
        self.age_ms() < HUNG_AFTER_MS
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
