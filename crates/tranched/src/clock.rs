//! The time of day, for the core, which never asks for it itself.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tranche_core::name::Timestamp;

/// Now, in milliseconds since the Unix epoch.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// How long ago this machine has booted, in milliseconds (clock_gettime(2): CLOCK_BOOTTIME).
pub fn up_ms() -> i64 {
    let up = clock_gettime(ClockId::Boottime);
    up.tv_sec.saturating_mul(1_000).saturating_add(up.tv_nsec / 1_000_000)
}
