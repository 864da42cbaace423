//! How a daemon parts with a watchdog that is armed when it ends.
//!
//! First the leader is told that the watchdog guards nothing any more, and it is stopped. Where the store does not hear that, the
//! daemon ends all the same, after a while, and leaves it armed. But when it ends, the device may be closed, and the kernel feeds a
//! watchdog once more as it is closed. So it ends only as long as the watchdog may be fed; and once it may not, the daemon holds it
//! until it has reset the host, for a feed after that would let the host live while its VMs start elsewhere.

use super::Lifeline;
use crate::spec::Timers;

/// How long the store is given to hear that the host is not guarded any more, in milliseconds.
const RETIRE_MS: u64 = 8_000;
/// How long it takes a daemon from its end until the device is closed, in milliseconds, at most.
const LEAVE_MS: u64 = 2_000;
/// How much later than it should a watchdog may reset the host before it is taken to be broken, in milliseconds.
const RESET_LATE_MS: u64 = 2_000;

/// A daemon that ends, with a watchdog that is armed. Times are milliseconds of its monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Parting {
    began_ms: u64,
    /// How long the store is given to hear of it, in milliseconds.
    retire_ms: u64,
    /// When the watchdog could still be fed.
    may_feed_ms: u64,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It waits until the watchdog is stopped.
    Waits,
    /// The watchdog may not be fed any more: it is held until it has reset the host.
    Holds,
    /// The daemon ends now.
    Ends,
}

impl Parting {
    /// The end begins.
    pub fn begins(now_ms: u64) -> Self {
        Self { began_ms: now_ms, retire_ms: RETIRE_MS, may_feed_ms: now_ms }
    }

    /// The end begins of a daemon that has nobody to tell, because the store does not answer.
    pub fn begins_unheard(now_ms: u64) -> Self {
        Self { retire_ms: 0, ..Self::begins(now_ms) }
    }

    /// What follows for a watchdog that is armed still, and resets the host `watchdog_ms` after it was last fed.
    pub fn next(&mut self, lifeline: &Lifeline, now_ms: u64, watchdog_ms: u64, timers: &Timers) -> Farewell {
        let trust_ms = timers.bound_ms(watchdog_ms) - watchdog_ms;
        let may_feed_in = |ms: u64| lifeline.may_feed(now_ms.saturating_add(ms), watchdog_ms);
        if may_feed_in(0) {
            self.may_feed_ms = now_ms;
        }
        let waited_ms = now_ms.saturating_sub(self.began_ms);
        let unfed_ms = now_ms.saturating_sub(self.may_feed_ms);
        let is_broken = unfed_ms > watchdog_ms.saturating_add(RESET_LATE_MS);
        if is_broken || (waited_ms >= self.retire_ms && may_feed_in(LEAVE_MS.min(trust_ms / 2))) {
            Farewell::Ends
        } else if may_feed_in(0) {
            Farewell::Waits
        } else {
            Farewell::Holds
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Farewell::{Ends, Holds, Waits};
    use super::*;

    /// What follows at these times of a daemon that begins to end at 0.
    fn follows(lifeline: &Lifeline, times: &[u64]) -> Vec<Farewell> {
        let mut parting = Parting::begins(0);
        times.iter().map(|now_ms| parting.next(lifeline, *now_ms, 4_000, &Timers::default())).collect()
    }

    #[test]
    fn where_the_store_is_just_gone_the_watchdog_is_held_until_it_has_reset_the_host() {
        let mut lifeline = Lifeline::default();
        lifeline.acknowledged(0, 8_000);
        assert_eq!(follows(&lifeline, &[0, 4_000, 4_001, 7_999, 8_000]), [Waits, Waits, Holds, Holds, Holds]);
        assert_eq!(follows(&lifeline, &[4_000, 10_000, 10_001]), [Waits, Holds, Ends], "it does not work");
    }

    #[test]
    fn a_daemon_that_ends_with_an_armed_watchdog_has_time_left_to_be_gone() {
        let mut lifeline = Lifeline::default();
        lifeline.acknowledged(6_000, 8_000);
        assert_eq!(follows(&lifeline, &[7_900, 8_000]), [Waits, Ends]);
        lifeline = Lifeline::default();
        lifeline.acknowledged(5_999, 8_000);
        assert_eq!(follows(&lifeline, &[7_900, 8_000]), [Waits, Waits], "it might be closed too late");
        lifeline.proved(7_000);
        assert_eq!(follows(&lifeline, &[8_000]), [Ends], "nobody can write");
    }

    #[test]
    fn a_daemon_that_has_nobody_to_tell_ends_at_once_as_long_as_it_has_time_to_be_gone() {
        let mut lifeline = Lifeline::default();
        lifeline.acknowledged(0, 8_000);
        let next =
            |now_ms| Parting::begins_unheard(now_ms).next(&lifeline, now_ms, 4_000, &Timers::default());
        assert_eq!([0, 2_000, 2_001, 4_000, 4_001].map(next), [Ends, Ends, Waits, Waits, Holds]);
    }

    #[test]
    fn without_a_heartbeat_that_was_acknowledged_it_is_held_at_once() {
        assert_eq!(follows(&Lifeline::default(), &[0, 6_000, 6_001]), [Holds, Holds, Ends]);
    }
}
