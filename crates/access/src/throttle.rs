//! Patience with those who fail to log in: a few attempts are free, then each has to wait longer.
//!
//! It is kept in memory and by each host alone: a restart forgives, which costs a guesser more than it saves.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tranche_core::name::Timestamp;

/// How many are remembered; the one that failed longest ago is forgotten first.
const REMEMBERED_MAX: usize = 10_000;
/// Failures are forgotten after this time, in milliseconds.
const FORGET_MS: u64 = 15 * 60 * 1_000;

/// How much is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// So many failures cost nothing.
    pub free: u32,
    /// The longest wait after one, in milliseconds. The first wait is a second, and each further one twice as long.
    pub wait_ms_max: u64,
}

/// With one address, whoever it tries to be.
pub const BY_ADDRESS: Patience = Patience { free: 5, wait_ms_max: 5 * 60 * 1_000 };
/// With entries of the audit log about what was refused to one who asks: so many, and then one a minute.
pub const BY_REFUSAL: Patience = Patience { free: 100, wait_ms_max: 60_000 };
/// With one user, from wherever: so little that nobody can keep somebody else out for long.
pub const BY_USER: Patience = Patience { free: 20, wait_ms_max: 10_000 };

/// Who failed how often.
#[derive(Debug)]
pub struct Throttle {
    patience: Patience,
    failures: Mutex<BTreeMap<String, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

impl Throttle {
    /// Nobody has failed yet.
    pub fn new(patience: Patience) -> Self {
        Self { patience, failures: Mutex::default() }
    }

    /// How long this one has to wait yet, in milliseconds; nothing if the next attempt may be made now.
    pub fn wait_ms(&self, who: &str, now: Timestamp) -> Option<u64> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failures.get(who).filter(|failed| !now.is_past(failed.last, FORGET_MS))?;
        let paid = failed.count.checked_sub(self.patience.free)?;
        let wait_ms = 1_000_u64.checked_shl(paid.min(31)).unwrap_or(u64::MAX).min(self.patience.wait_ms_max);
        let left_ms = wait_ms.saturating_sub(now.ms_since(failed.last));
        (left_ms > 0).then_some(left_ms)
    }

    /// An attempt has failed.
    pub fn failed(&self, who: &str, now: Timestamp) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= REMEMBERED_MAX && !failures.contains_key(who) {
            let stalest = failures.iter().min_by_key(|(_, failed)| failed.last).map(|(who, _)| who.clone());
            stalest.and_then(|stalest| failures.remove(&stalest));
        }
        let failed = failures.entry(who.to_owned()).or_insert(Failures { count: 0, last: now });
        let is_forgotten = now.is_past(failed.last, FORGET_MS);
        failed.count = if is_forgotten { 1 } else { failed.count.saturating_add(1) };
        failed.last = now;
    }

    /// An attempt has succeeded: what was before is forgiven. Returns how many failures that were.
    pub fn succeeded(&self, who: &str) -> u32 {
        let forgiven = self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(who);
        forgiven.map_or(0, |failed| failed.count)
    }

    /// So many of the failures are forgiven, and no others.
    pub fn forgive(&self, who: &str, count: u32) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failed) = failures.get_mut(who) else { return };
        failed.count = failed.count.saturating_sub(count);
        if failed.count == 0 {
            failures.remove(who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn at(ms: u64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    fn failed_times(count: u32) -> Throttle {
        let throttle = Throttle::new(BY_ADDRESS);
        (0..count).for_each(|_| throttle.failed("a", NOW));
        throttle
    }

    #[test]
    fn a_few_failures_are_free_and_then_each_wait_is_twice_as_long_up_to_the_longest() {
        let waits = [4, 5, 6, 7, 40].map(|count| failed_times(count).wait_ms("a", NOW));
        assert_eq!(waits, [None, Some(1_000), Some(2_000), Some(4_000), Some(300_000)]);
    }

    #[test]
    fn a_wait_ends_and_is_nobody_elses() {
        let throttle = failed_times(6);
        assert_eq!(throttle.wait_ms("b", NOW), None);
        assert_eq!(throttle.wait_ms("a", at(500)), Some(1_500));
        assert_eq!(throttle.wait_ms("a", at(2_000)), None);
        throttle.succeeded("a");
        assert_eq!(throttle.wait_ms("a", NOW), None);
    }

    #[test]
    fn some_failures_are_forgiven_and_the_others_count_on() {
        let throttle = failed_times(6);
        throttle.forgive("a", 1);
        assert_eq!(throttle.wait_ms("a", NOW), Some(1_000));
        throttle.failed("a", NOW);
        assert_eq!(throttle.succeeded("a"), 6);
        throttle.forgive("a", 1);
        assert_eq!((throttle.succeeded("a"), throttle.wait_ms("a", NOW)), (0, None));
    }

    #[test]
    fn failures_are_forgotten_after_a_while() {
        let throttle = failed_times(40);
        assert_eq!(throttle.wait_ms("a", at(FORGET_MS)), None);
        throttle.failed("a", at(FORGET_MS));
        assert_eq!(throttle.wait_ms("a", at(FORGET_MS)), None, "it is the first one again");
    }

    #[test]
    fn no_number_of_guessers_takes_more_than_a_bound_of_memory() {
        let throttle = Throttle::new(BY_ADDRESS);
        (0..REMEMBERED_MAX + 10).for_each(|n| throttle.failed(&n.to_string(), at(n as u64)));
        assert_eq!(throttle.failures.lock().unwrap().len(), REMEMBERED_MAX);
    }
}
