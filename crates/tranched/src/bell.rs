//! The bell that wakes the reconcile loop.
//!
//! A ring carries no data: whoever wakes looks at everything. Rings while the loop works are one ring.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A bell. Clones ring the same one.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<(Mutex<Signal>, Condvar)>);

#[derive(Debug, Default)]
struct Signal {
    rung: bool,
    over: bool,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Somebody rang.
    Rung,
    /// The time was over.
    Timeout,
    /// There is nothing more to wait for.
    Over,
}

impl Bell {
    /// Wakes the loop, now or as soon as it waits.
    pub fn ring(&self) {
        self.signal().rung = true;
        self.0.1.notify_all();
    }

    /// Ends the loop: every wait from now on ends at once.
    pub fn end(&self) {
        self.signal().over = true;
        self.0.1.notify_all();
    }

    /// Waits for a ring, at most so long.
    pub fn wait(&self, timeout: Duration) -> Wake {
        let deadline = Instant::now() + timeout;
        let mut signal = self.signal();
        loop {
            if signal.over {
                return Wake::Over;
            }
            if std::mem::take(&mut signal.rung) {
                return Wake::Rung;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wake::Timeout;
            }
            signal = self.0.1.wait_timeout(signal, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Two booleans are whole at any moment, so a panic elsewhere does not make them unusable.
    fn signal(&self) -> MutexGuard<'_, Signal> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn rings_before_a_wait_are_one_ring() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert_eq!(bell.wait(LONG), Wake::Rung);
        assert_eq!(bell.wait(Duration::ZERO), Wake::Timeout);
    }

    #[test]
    fn a_ring_from_elsewhere_ends_a_wait_and_the_end_ends_all() {
        let bell = Bell::default();
        let other = bell.clone();
        let waiter = std::thread::spawn(move || (other.wait(LONG), other.wait(LONG)));
        bell.ring();
        bell.end();
        let (first, second) = waiter.join().unwrap();
        assert!(matches!(first, Wake::Rung | Wake::Over));
        assert_eq!(second, Wake::Over);
    }
}
