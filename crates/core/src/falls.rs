//! Falls: how often a VM crashed or could not be started, and when it is tried again.
//!
//! ```text
//! host     started ──crash──► fall 1 ──pause──► started … fall local + 1: reported as spent
//! planner  spent ──another host has room──► started there … as many hosts as the policy allows ──► given up
//! ```
//!
//! A host counts in the memory of its daemon ([`Starts`]); which hosts were tried is kept in the plan ([`Tried`]). Both forget
//! once the VM has run for [`STEADY_MS`], and at once with the next command to start it. A host that loses its power is no
//! fall of its VMs, and a guest that shuts itself down rests.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::name::{HostName, Timestamp, VmName};
use crate::spec::RestartPolicy;

/// For how long a VM must have run for its falls to be forgotten, in milliseconds.
pub const STEADY_MS: u64 = 10 * 60 * 1_000;
/// How long is waited after the first fall, in milliseconds, and twice as long after each further one.
pub const PAUSE_FIRST_MS: u64 = 1_000;
/// The longest wait between a fall and the next start, in milliseconds.
pub const PAUSE_LONGEST_MS: u64 = 5 * 60 * 1_000;
/// How long a host that has tried as often as it may leaves others the time to take the VM, in milliseconds.
pub const HANDOVER_MS: u64 = 10_000;

/// How often a VM fell on a host that tried to run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Falls {
    /// The command to start that they belong to ([`crate::spec::VmSpec::serial`]).
    pub serial: u64,
    /// How many, without [`STEADY_MS`] between two of them.
    pub count: u32,
}

/// Where a VM fell as often as its policy allows on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Tried {
    /// The command to start that this belongs to.
    pub serial: u64,
    /// The hosts.
    pub hosts: BTreeSet<HostName>,
    /// When the last of them was added.
    pub since: Timestamp,
    /// What follows.
    #[serde(default, skip_serializing_if = "Verdict::is_default")]
    pub verdict: Verdict,
}

/// What follows for a VM that fell as often as its policy allows on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is tried where it is.
    #[default]
    Stays,
    /// It goes to another host.
    Leaves,
    /// It is tried no more until the next command to start it.
    GivenUp,
}

impl Verdict {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A daemon's memory of the VMs that it started.
#[derive(Debug, Clone, Default)]
pub struct Starts(BTreeMap<VmName, Start>);

#[derive(Debug, Clone)]
struct Start {
    serial: u64,
    /// When it was started, or fell.
    at: Timestamp,
    falls: u32,
    /// The last start succeeded, and it was not seen off since.
    up: bool,
}

impl Starts {
    /// Remembers that a start was carried out now.
    pub fn started(&mut self, vm: &VmName, serial: u64, failed: bool, now: Timestamp) {
        let before = self.0.get(vm).filter(|start| start.serial == serial).map_or(0, |start| start.falls);
        let falls = before.saturating_add(u32::from(failed));
        self.0.insert(vm.clone(), Start { serial, at: now, falls, up: !failed });
    }

    /// Notes what is to be started now: what was started before, and not ended since by this host, fell. `serial` tells the
    /// command that a VM's start would serve.
    pub fn see(&mut self, due: &BTreeSet<&VmName>, serial: impl Fn(&VmName) -> Option<u64>, now: Timestamp) {
        self.0.retain(|vm, start| {
            let steady = start.up && now.is_past(start.at, STEADY_MS);
            let is_due = due.contains(vm);
            if serial(vm) != Some(start.serial) || steady {
                return false;
            }
            if start.up && is_due {
                *start = Start { falls: start.falls.saturating_add(1), at: now, up: false, ..*start };
            }
            true
        });
    }

    /// The VM was ended on purpose.
    pub fn ended(&mut self, vm: &VmName) {
        self.0.remove(vm);
    }

    /// When a VM may be started; none where nothing stands against it now.
    pub fn waits_until(&self, vm: &VmName, policy: RestartPolicy, now: Timestamp) -> Option<Timestamp> {
        let start = self.0.get(vm).filter(|start| !start.up && start.falls > 0)?;
        let doubled = PAUSE_FIRST_MS.saturating_mul(1 << (start.falls - 1).min(20));
        let least_ms = if policy.is_spent(start.falls) { HANDOVER_MS } else { 0 };
        let pause_ms = doubled.min(PAUSE_LONGEST_MS).max(least_ms);
        (!now.is_past(start.at, pause_ms)).then_some(Timestamp(start.at.0.saturating_add(pause_ms)))
    }

    /// The VMs that fell, and how often.
    pub fn falls(&self) -> BTreeMap<VmName, Falls> {
        let fallen = self.0.iter().filter(|(_, start)| start.falls > 0);
        fallen
            .map(|(vm, Start { serial, falls, .. })| (vm.clone(), Falls { serial: *serial, count: *falls }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vm() -> VmName {
        "desk".parse().unwrap()
    }

    fn fall(starts: &mut Starts, now: u64) {
        starts.started(&vm(), 1, false, Timestamp(now));
        starts.see(&BTreeSet::from([&vm()]), |_| Some(1), Timestamp(now));
    }

    fn count(starts: &Starts) -> u32 {
        starts.falls().get(&vm()).map_or(0, |falls| falls.count)
    }

    #[test]
    fn each_fall_waits_twice_as_long_up_to_five_minutes() {
        let mut starts = Starts::default();
        let policy = RestartPolicy { local: 200, elsewhere: 0 };
        let waits = |starts: &Starts, now| {
            starts.waits_until(&vm(), policy, Timestamp(now)).map(|until| until.0 - now)
        };
        assert_eq!(waits(&starts, 0), None);
        for expected_ms in
            [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000]
        {
            fall(&mut starts, 7);
            assert_eq!(waits(&starts, 7), Some(expected_ms));
        }
        for _ in 0..60 {
            fall(&mut starts, 7);
        }
        assert_eq!(waits(&starts, 7), Some(PAUSE_LONGEST_MS));
    }

    #[test]
    fn who_has_tried_as_often_as_it_may_leaves_others_time() {
        let mut starts = Starts::default();
        fall(&mut starts, 0);
        assert_eq!(
            starts.waits_until(&vm(), RestartPolicy { local: 0, elsewhere: 1 }, Timestamp(0)),
            Some(Timestamp(HANDOVER_MS))
        );
    }

    #[test]
    fn a_clock_that_is_set_back_ends_a_pause_and_does_not_make_it_last() {
        let mut starts = Starts::default();
        fall(&mut starts, 7_200_000);
        let waits_at = |now| starts.waits_until(&vm(), RestartPolicy::default(), Timestamp(now)).is_some();
        assert!(waits_at(7_200_999) && !waits_at(7_201_000));
        assert!(!waits_at(3_600_000), "an hour before the fall");
    }

    #[test]
    fn falls_are_forgotten_once_it_ran_for_a_while_or_is_started_by_command_or_was_ended_on_purpose() {
        let mut starts = Starts::default();
        fall(&mut starts, 0);
        starts.started(&vm(), 1, false, Timestamp(5_000));
        starts.see(&BTreeSet::new(), |_| Some(1), Timestamp(5_000 + STEADY_MS - 1));
        assert_eq!(count(&starts), 1);
        starts.see(&BTreeSet::new(), |_| Some(1), Timestamp(5_000 + STEADY_MS));
        assert_eq!(count(&starts), 0);
        fall(&mut starts, 0);
        starts.see(&BTreeSet::from([&vm()]), |_| Some(2), Timestamp(1));
        assert_eq!(count(&starts), 0);
        starts.started(&vm(), 1, false, Timestamp(1));
        starts.ended(&vm());
        starts.see(&BTreeSet::from([&vm()]), |_| Some(1), Timestamp(2));
        assert_eq!(count(&starts), 0);
    }

    proptest! {
        #[test]
        fn a_start_counts_as_one_fall_at_most_however_often_it_is_looked(
            story in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u8..5), 0..40),
        ) {
            let mut starts = Starts::default();
            for (n, (failed, crashes, looks)) in story.iter().enumerate() {
                starts.started(&vm(), 1, *failed, Timestamp(n as u64));
                for _ in 0..*looks {
                    let due = vm();
                    let due = if *failed || *crashes { BTreeSet::from([&due]) } else { BTreeSet::new() };
                    starts.see(&due, |_| Some(1), Timestamp(n as u64));
                }
            }
            let most = story.iter().filter(|(failed, crashes, looks)| *failed || (*crashes && *looks > 0)).count();
            prop_assert_eq!(count(&starts) as usize, most);
        }
    }
}
