//! When a fence agent is asked again that has failed.
//!
//! A device that refuses is asked at once when a host is given up, and then after growing pauses: one that locks out whoever asks
//! too often would never be free again, and one that is out of order need not be asked twice a second for days.

use std::collections::BTreeMap;

use crate::finding::Finding;
use crate::name::{HostName, Timestamp};
use crate::spec::Timers;

/// How long is waited after an agent has failed for the first time, in milliseconds, and twice as long after each further one.
const PAUSE_FIRST_MS: u64 = 2_000;
/// The longest wait between two tries of an agent, in milliseconds.
const PAUSE_LONGEST_MS: u64 = 60_000;

/// Why a host's power is cut. One that was removed and has joined again begins with the same epoch, so the epoch alone does not
/// tell one time from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The epoch that the host was given up with.
    pub epoch: u64,
    /// Since when its power is being cut.
    pub since: Timestamp,
}

/// The memory of whoever leads of the agents that it has asked. Times are milliseconds of its monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Cuts(BTreeMap<HostName, Cut>);

#[derive(Debug, Clone)]
struct Cut {
    cause: Cause,
    at_work: bool,
    tries: u32,
    failed: Option<(u64, Box<Finding>)>,
}

impl Cuts {
    /// Whether an agent is to be asked now: it is at work, was not asked yet, or has failed long enough ago.
    ///
    /// Whoever has just begun to lead listens first for as long as it takes to miss a host: one that was cut by the leader before and
    /// has booted says by itself that it runs nothing. Cut again by each new leader, it could be the member without which the
    /// store has no majority, and nobody would lead for long.
    pub fn is_due(&self, host: &HostName, cause: Cause, silence: (u64, &Timers), now_ms: u64) -> bool {
        let (silent_ms, timers) = silence;
        let Some(cut) = self.get(host, cause) else { return silent_ms >= timers.lost_ms };
        let long_ago =
            |(at_ms, _): &(u64, Box<Finding>)| now_ms.saturating_sub(*at_ms) >= pause_ms(cut.tries);
        cut.at_work || cut.failed.as_ref().is_none_or(long_ago)
    }

    /// The agent is at work.
    pub fn works(&mut self, host: &HostName, cause: Cause) {
        self.of(host, cause).at_work = true;
    }

    /// The agent has seen the host off.
    pub fn succeeded(&mut self, host: &HostName, cause: Cause) {
        let cut = self.of(host, cause);
        (cut.at_work, cut.failed) = (false, None);
    }

    /// The agent has failed.
    pub fn failed(&mut self, host: &HostName, cause: Cause, finding: Box<Finding>, now_ms: u64) {
        let cut = self.of(host, cause);
        cut.at_work = false;
        cut.tries = cut.tries.saturating_add(1);
        cut.failed = Some((now_ms, finding));
    }

    /// Whether an agent is at work on a host, as far as is known.
    pub fn is_at_work(&self, host: &HostName, cause: Cause) -> bool {
        self.get(host, cause).is_some_and(|cut| cut.at_work)
    }

    /// Forgets every host but those that are being cut, each for this cause.
    pub fn keep_only(&mut self, causes: &BTreeMap<HostName, Cause>) {
        self.0.retain(|host, cut| causes.get(host) == Some(&cut.cause));
    }

    /// What agents said when they failed last.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.0.values().filter_map(|cut| cut.failed.as_ref()).map(|(_, finding)| &**finding)
    }

    fn get(&self, host: &HostName, cause: Cause) -> Option<&Cut> {
        self.0.get(host).filter(|cut| cut.cause == cause)
    }

    fn of(&mut self, host: &HostName, cause: Cause) -> &mut Cut {
        let fresh = || Cut { cause, at_work: false, tries: 0, failed: None };
        let cut = self.0.entry(host.clone()).or_insert_with(fresh);
        if cut.cause != cause {
            *cut = fresh();
        }
        cut
    }
}

fn pause_ms(tries: u32) -> u64 {
    let doubled = PAUSE_FIRST_MS.saturating_mul(1 << tries.saturating_sub(1).min(20));
    doubled.min(PAUSE_LONGEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics as say;

    fn host() -> HostName {
        "node1".parse().unwrap()
    }

    /// Of a host that is silent.
    fn is_due(cuts: &Cuts, cause: Cause, now_ms: u64) -> bool {
        cuts.is_due(&host(), cause, (5_000, &Timers::default()), now_ms)
    }

    const CAUSE: Cause = Cause { epoch: 1, since: Timestamp(5) };

    #[test]
    fn an_agent_that_fails_is_asked_after_pauses_that_double_up_to_a_minute() {
        let (mut cuts, mut now_ms) = (Cuts::default(), 0);
        assert!(is_due(&cuts, CAUSE, now_ms), "it was never asked");
        for expected_ms in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            cuts.works(&host(), CAUSE);
            assert!(is_due(&cuts, CAUSE, now_ms), "whoever works is asked how far it has come");
            assert!(cuts.is_at_work(&host(), CAUSE));
            cuts.failed(&host(), CAUSE, Box::new(say::host_fencing(&host())), now_ms);
            assert!(!cuts.is_at_work(&host(), CAUSE));
            assert!(!is_due(&cuts, CAUSE, now_ms + expected_ms - 1));
            now_ms += expected_ms;
            assert!(is_due(&cuts, CAUSE, now_ms));
        }
    }

    #[test]
    fn what_an_agent_said_stands_until_it_succeeds_or_its_host_is_not_to_be_cut_any_more() {
        let mut cuts = Cuts::default();
        let fails = |cuts: &mut Cuts| cuts.failed(&host(), CAUSE, Box::new(say::host_fencing(&host())), 0);
        fails(&mut cuts);
        cuts.works(&host(), CAUSE);
        assert_eq!(cuts.findings().count(), 1, "it is tried again, and has not succeeded yet");
        cuts.succeeded(&host(), CAUSE);
        assert_eq!(cuts.findings().count(), 0);
        fails(&mut cuts);
        cuts.keep_only(&BTreeMap::from([(host(), CAUSE)]));
        assert_eq!(cuts.findings().count(), 1);
        cuts.keep_only(&BTreeMap::new());
        assert_eq!(cuts.findings().count(), 0);
    }

    #[test]
    fn another_time_that_a_host_is_cut_is_another_cause_although_the_epoch_is_the_same() {
        let mut cuts = Cuts::default();
        cuts.failed(&host(), CAUSE, Box::new(say::host_fencing(&host())), 0);
        let again = Cause { since: Timestamp(6), ..CAUSE };
        assert!(!is_due(&cuts, CAUSE, 1) && is_due(&cuts, again, 1));
    }

    #[test]
    fn whoever_begins_to_lead_listens_to_a_host_before_it_is_cut_and_goes_on_with_one_that_is_being_cut() {
        let (mut cuts, timers) = (Cuts::default(), Timers::default());
        let due = |cuts: &Cuts, silent_ms| cuts.is_due(&host(), CAUSE, (silent_ms, &timers), 0);
        assert_eq!(
            [0, 4_999, 5_000, u64::MAX].map(|silent_ms| due(&cuts, silent_ms)),
            [false, false, true, true]
        );
        cuts.works(&host(), CAUSE);
        assert!(due(&cuts, 0), "it was begun");
    }
}
