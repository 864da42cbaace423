//! Trouble that lasts, said once: a store that is away for an hour must not fill the log each second.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use tranche_core::name::HostName;

/// Something that does not work, from the first time until it works again.
#[derive(Debug, Default)]
pub(super) struct Trouble(AtomicBool);

impl Trouble {
    /// It did not work.
    pub(super) fn tell(&self, what: &str, host: &HostName, error: &(dyn Error + 'static)) {
        if self.0.swap(true, Ordering::Relaxed) {
            tracing::debug!(error, %host, "{what}");
        } else {
            tracing::warn!(error, %host, "{what}; this is said once, until it works again");
        }
    }

    /// It works.
    pub(super) fn is_over(&self, what: &str, host: &HostName) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!(%host, "{what}");
        }
    }
}
