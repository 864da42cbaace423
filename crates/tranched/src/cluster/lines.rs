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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(number: usize) -> EtcdSettings {
        let endpoints = vec![format!("http://127.0.0.1:{}", 1_000 + number)];
        EtcdSettings { endpoints, tls: None, timeout_ms: 100, election_ms: 1_000 }
    }

    #[test]
    fn the_same_member_is_asked_over_the_same_line_until_something_about_it_changes() {
        let lines = Lines::default();
        let first = lines.to(settings(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &lines.to(settings(1)).unwrap()));
        let slower = EtcdSettings { timeout_ms: 200, ..settings(1) };
        assert!(!Arc::ptr_eq(&first, &lines.to(slower).unwrap()));
    }

    #[test]
    fn lines_that_nobody_uses_any_more_are_hung_up() {
        let lines = Lines::default();
        let used = lines.to(settings(0)).unwrap();
        let left = Arc::downgrade(&lines.to(settings(1)).unwrap());
        for number in 2..2 * KEPT_MAX {
            drop(lines.to(settings(number)).unwrap());
            assert!(Arc::ptr_eq(&used, &lines.to(settings(0)).unwrap()));
        }
        assert!(left.upgrade().is_none());
    }
}
