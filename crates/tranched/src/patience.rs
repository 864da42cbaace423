//! How long the daemon waits for itself before it says that something is wrong.

use std::time::Duration;

use tranche_api::limits::REQUEST_TIMEOUT_MS;

/// Limits on waiting. Tests choose their own, so that none has to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the answer to a request; then it is refused as `busy`.
    pub answer: Duration,
    /// For the first look at the host, by a request that rests on it; then it is refused as `host_silent`.
    pub first_look: Duration,
    /// For the loop to advance; then it counts as hung. A pass may take as long as its longest step, and the limits on
    /// kernel and libvirt calls are well below this.
    pub pass: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_millis(REQUEST_TIMEOUT_MS),
            first_look: Duration::from_secs(5),
            pass: Duration::from_secs(180),
        }
    }
}
