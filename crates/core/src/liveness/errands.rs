//! When a fence agent is asked to cut a host's power, when to turn it on again, and when it is asked once more.
//!
//! ```text
//! Fencing ──► cut, until it is seen off ──► Down by the agent, and stored ──► turn on, once ──► it boots, and rejoins by itself
//! ```
//!
//! A device that refuses is asked at once when a host is given up, and then after growing pauses: one that locks out whoever asks
//! too often would never be free again, and one that is out of order need not be asked twice a second for days.
//!
//! A host is turned on only after it is stored that it is down: what it ran is another's from then on, and when it boots it hears of
//! that before it starts anything.

use std::collections::BTreeMap;

use crate::finding::Finding;
use crate::name::{HostName, Timestamp};
use crate::plan::{DownBy, HostPlan, Standing};
use crate::spec::{HostSpec, Timers};

/// How long is waited after an agent has failed for the first time, in milliseconds, and twice as long after each further one.
const PAUSE_FIRST_MS: u64 = 2_000;
/// The longest wait between two tries of an agent, in milliseconds.
const PAUSE_LONGEST_MS: u64 = 60_000;
/// For how long after a host is down somebody who comes to lead has it turned on, in milliseconds. By then it was asked for, and a
/// host that is off since may have its case open.
const TURN_ON_MS: u64 = 60 * 60_000;

/// Why an agent is asked to do something to a host. One that was removed and has joined again begins with the same epoch, so the
/// epoch alone does not tell one time from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The epoch that the host was given up with.
    pub epoch: u64,
    /// Since when it stands so that the agent is asked.
    pub since: Timestamp,
}

/// Why a host's power is to be cut, if it is.
pub fn cut_cause(planned: &HostPlan) -> Option<Cause> {
    match planned.standing {
        Standing::Fencing { since } => Some(Cause { epoch: planned.epoch, since }),
        _ => None,
    }
}

/// Why a host is to be turned on again, if it is: an agent has cut its power, that is stored, and nobody wants it off.
pub fn turn_on_cause(wish: &HostSpec, planned: &HostPlan) -> Option<Cause> {
    match planned.standing {
        Standing::Down { since, by: DownBy::Agent } if wish.comes_back(planned.departs) => {
            Some(Cause { epoch: planned.epoch, since })
        }
        _ => None,
    }
}

/// The memory of whoever leads of one thing that it has asked agents to do. Times are milliseconds of its monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Errands(BTreeMap<HostName, Errand>);

#[derive(Debug, Clone)]
struct Errand {
    cause: Cause,
    at_work: bool,
    done: bool,
    tries: u32,
    failed: Option<(u64, Box<Finding>)>,
}

impl Errand {
    /// Whether an agent that is not at work may be asked: it was not yet, or has failed long enough ago.
    fn may_be_tried(&self, now_ms: u64) -> bool {
        let pause_ms = pause_ms(self.tries);
        self.failed.as_ref().is_none_or(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= pause_ms)
    }
}

impl Errands {
    /// Whether an agent is to be asked now to cut a host's power.
    ///
    /// Whoever has just begun to lead listens first for as long as it takes to miss a host: one that was cut by the leader before and
    /// has booted says by itself that it runs nothing. Cut again by each new leader, it could be the member without which the
    /// store has no majority, and nobody would lead for long.
    pub fn cut_is_due(&self, host: &HostName, cause: Cause, silence: (u64, &Timers), now_ms: u64) -> bool {
        match self.get(host, cause) {
            None => is_silent(silence),
            Some(errand) => errand.at_work || errand.may_be_tried(now_ms),
        }
    }

    /// Whether an agent is to be asked now to turn a host on, which has been down for so long: once for each cause, and never
    /// one that is heard of.
    pub fn turn_on_is_due(
        &self,
        host: &HostName,
        cause: Cause,
        silence: (u64, &Timers),
        down_ms: u64,
        now_ms: u64,
    ) -> bool {
        match self.get(host, cause) {
            None => is_silent(silence) && down_ms < TURN_ON_MS,
            Some(errand) if errand.at_work => true,
            Some(errand) => is_silent(silence) && !errand.done && errand.may_be_tried(now_ms),
        }
    }

    /// The agent is at work.
    pub fn works(&mut self, host: &HostName, cause: Cause) {
        self.of(host, cause).at_work = true;
    }

    /// The agent has done it, and seen so.
    pub fn succeeded(&mut self, host: &HostName, cause: Cause) {
        let errand = self.of(host, cause);
        (errand.at_work, errand.done, errand.failed) = (false, true, None);
    }

    /// The agent has failed.
    pub fn failed(&mut self, host: &HostName, cause: Cause, finding: Box<Finding>, now_ms: u64) {
        let errand = self.of(host, cause);
        errand.at_work = false;
        errand.tries = errand.tries.saturating_add(1);
        errand.failed = Some((now_ms, finding));
    }

    /// Whether an agent is at work on a host, as far as is known.
    pub fn is_at_work(&self, host: &HostName, cause: Cause) -> bool {
        self.get(host, cause).is_some_and(|errand| errand.at_work)
    }

    /// Forgets every host but these, each with this cause.
    pub fn keep_only(&mut self, causes: &BTreeMap<HostName, Cause>) {
        self.0.retain(|host, errand| causes.get(host) == Some(&errand.cause));
    }

    /// What agents said when they failed last.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.0.values().filter_map(|errand| errand.failed.as_ref()).map(|(_, finding)| &**finding)
    }

    fn get(&self, host: &HostName, cause: Cause) -> Option<&Errand> {
        self.0.get(host).filter(|errand| errand.cause == cause)
    }

    fn of(&mut self, host: &HostName, cause: Cause) -> &mut Errand {
        let fresh = || Errand { cause, at_work: false, done: false, tries: 0, failed: None };
        let errand = self.0.entry(host.clone()).or_insert_with(fresh);
        if errand.cause != cause {
            *errand = fresh();
        }
        errand
    }
}

fn is_silent((silent_ms, timers): (u64, &Timers)) -> bool {
    silent_ms >= timers.lost_ms
}

fn pause_ms(tries: u32) -> u64 {
    let doubled = PAUSE_FIRST_MS.saturating_mul(1 << tries.saturating_sub(1).min(20));
    doubled.min(PAUSE_LONGEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics as say;
    use crate::spec::FenceSpec;

    fn host() -> HostName {
        "node1".parse().unwrap()
    }

    /// Whether a host that is silent is to be cut.
    fn cut_is_due(cuts: &Errands, cause: Cause, now_ms: u64) -> bool {
        cuts.cut_is_due(&host(), cause, (5_000, &Timers::default()), now_ms)
    }

    /// Whether a host that is silent, and down for a moment, is to be turned on.
    fn turn_on_is_due(wakes: &Errands, cause: Cause, now_ms: u64) -> bool {
        wakes.turn_on_is_due(&host(), cause, (5_000, &Timers::default()), 0, now_ms)
    }

    fn fails(errands: &mut Errands, now_ms: u64) {
        errands.failed(&host(), CAUSE, Box::new(say::host_fencing(&host())), now_ms);
    }

    const CAUSE: Cause = Cause { epoch: 1, since: Timestamp(5) };

    #[test]
    fn an_agent_that_fails_is_asked_after_pauses_that_double_up_to_a_minute() {
        for is_due in [cut_is_due, turn_on_is_due] {
            let (mut errands, mut now_ms) = (Errands::default(), 0);
            assert!(is_due(&errands, CAUSE, now_ms), "it was never asked");
            for expected_ms in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
                errands.works(&host(), CAUSE);
                assert!(is_due(&errands, CAUSE, now_ms), "whoever works is asked how far it has come");
                assert!(errands.is_at_work(&host(), CAUSE));
                fails(&mut errands, now_ms);
                assert!(!errands.is_at_work(&host(), CAUSE));
                assert!(!is_due(&errands, CAUSE, now_ms + expected_ms - 1));
                now_ms += expected_ms;
                assert!(is_due(&errands, CAUSE, now_ms));
            }
        }
    }

    #[test]
    fn what_an_agent_said_stands_until_it_succeeds_or_its_host_is_not_to_be_cut_any_more() {
        let mut cuts = Errands::default();
        fails(&mut cuts, 0);
        cuts.works(&host(), CAUSE);
        assert_eq!(cuts.findings().count(), 1, "it is tried again, and has not succeeded yet");
        cuts.succeeded(&host(), CAUSE);
        assert_eq!(cuts.findings().count(), 0);
        fails(&mut cuts, 0);
        cuts.keep_only(&BTreeMap::from([(host(), CAUSE)]));
        assert_eq!(cuts.findings().count(), 1);
        cuts.keep_only(&BTreeMap::new());
        assert_eq!(cuts.findings().count(), 0);
    }

    #[test]
    fn another_time_that_a_host_is_cut_is_another_cause_although_the_epoch_is_the_same() {
        let mut cuts = Errands::default();
        fails(&mut cuts, 0);
        let again = Cause { since: Timestamp(6), ..CAUSE };
        assert!(!cut_is_due(&cuts, CAUSE, 1) && cut_is_due(&cuts, again, 1));
    }

    #[test]
    fn whoever_begins_to_lead_listens_to_a_host_before_it_is_cut_and_goes_on_with_one_that_is_being_cut() {
        let (mut cuts, timers) = (Errands::default(), Timers::default());
        let due = |cuts: &Errands, silent_ms| cuts.cut_is_due(&host(), CAUSE, (silent_ms, &timers), 0);
        assert_eq!(
            [0, 4_999, 5_000, u64::MAX].map(|silent_ms| due(&cuts, silent_ms)),
            [false, false, true, true]
        );
        cuts.works(&host(), CAUSE);
        assert!(due(&cuts, 0), "it was begun");
    }

    #[test]
    fn a_host_is_turned_on_once_for_each_time_that_it_was_cut() {
        let mut wakes = Errands::default();
        wakes.works(&host(), CAUSE);
        wakes.succeeded(&host(), CAUSE);
        assert!(!turn_on_is_due(&wakes, CAUSE, 0) && !turn_on_is_due(&wakes, CAUSE, u64::MAX));
        assert!(turn_on_is_due(&wakes, Cause { epoch: 2, ..CAUSE }, 0));
    }

    #[test]
    fn a_host_that_is_heard_of_needs_nobody_to_turn_it_on_and_one_that_is_long_down_is_somebodys_business() {
        let (mut wakes, timers) = (Errands::default(), Timers::default());
        let due = |wakes: &Errands, silent_ms, down_ms| {
            wakes.turn_on_is_due(&host(), CAUSE, (silent_ms, &timers), down_ms, 0)
        };
        assert!(due(&wakes, 5_000, 3_599_999));
        assert!(!due(&wakes, 4_999, 0) && !due(&wakes, u64::MAX, 3_600_000));
        wakes.works(&host(), CAUSE);
        assert!(due(&wakes, 0, u64::MAX), "what was begun is seen through");
    }

    #[test]
    fn a_host_is_turned_on_only_when_it_is_down_by_its_agent_and_cut_only_while_it_is_given_up() {
        let since = Timestamp(7);
        let how =
            FenceSpec { agent: "fence_ipmilan".parse().unwrap(), options: BTreeMap::new(), leave_off: false };
        let wish = HostSpec { fence: Some(how), ..HostSpec::new(Timestamp(0)) };
        let causes = |standing| {
            let planned = HostPlan { standing, epoch: 3, ..HostPlan::default() };
            (cut_cause(&planned).is_some(), turn_on_cause(&wish, &planned).is_some())
        };
        assert_eq!(causes(Standing::Up), (false, false));
        assert_eq!(causes(Standing::Lost { since }), (false, false));
        assert_eq!(causes(Standing::Fencing { since }), (true, false));
        for by in [DownBy::Watchdog, DownBy::Hand, DownBy::Shutdown, DownBy::Surrender] {
            assert_eq!(causes(Standing::Down { since, by }), (false, false), "{by:?}");
        }
        assert_eq!(causes(Standing::Down { since, by: DownBy::Agent }), (false, true));
    }
}
