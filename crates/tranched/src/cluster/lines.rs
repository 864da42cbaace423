//! Connections to single members of the store, kept from one question to the next.
//!
//! A handshake takes longer than an answer, and members are asked most often when they are slow: each question with a handshake of
//! its own would make them slower.

use std::sync::{Arc, Mutex, PoisonError};

use tranche_store::{EtcdMembers, EtcdSettings, StoreError};

/// More than the members of any store, each by itself and all together.
const KEPT_MAX: usize = 16;

/// The connections, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Vec<(EtcdSettings, Arc<EtcdMembers>)>>);

impl Lines {
    /// The one with these settings; certificates that were renewed are other settings.
    pub(super) fn to(&self, settings: EtcdSettings) -> Result<Arc<EtcdMembers>, StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(known, _)| *known == settings).map(|at| kept.remove(at));
        let line = match known {
            Some((_, line)) => line,
            // It only prepares: nothing is asked yet, and nobody waits for the lock.
            None => Arc::new(EtcdMembers::connect(&settings)?),
        };
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push((settings, Arc::clone(&line)));
        Ok(line)
    }
}
