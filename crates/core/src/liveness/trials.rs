//! Which fence settings a host tries while all is well, and when.
//!
//! Whether a host can be cut must not show only when it has to be. So each member tries the settings of the others:
//!
//! * **Settings**: agent, options and secrets of every other host. That asks no device, and tells whether this machine could cut it.
//! * **Device**: whether the device of the next host by name that is up answers, and says that it is on. So each device is asked by one
//!   host.
//!
//! What fails once is tried again soon, and told if it fails again: the host may just have died. What succeeds, and a device that
//! failed, is tried again after ten minutes, because a device may lock out whoever asks too often; other settings after a minute,
//! and whatever was changed at once.
//!
//! Deliberately absent: threads, clocks, agents. Times are milliseconds of one monotonic clock.

use std::collections::BTreeMap;

use crate::diagnostics as say;
use crate::finding::{Code, Finding};
use crate::map::Map;
use crate::name::{AgentName, HostName};
use crate::plan::{HostPlan, Standing};
use crate::spec::{FenceSpec, HostSpec};

/// After how long what is well, and a device that is not, is tried again, in milliseconds.
const EVERY_MS: u64 = 10 * 60_000;
/// The same of settings that are wrong: somebody may mend them on this machine.
const WRONG_EVERY_MS: u64 = 60_000;
/// After how long what has failed once is tried again, in milliseconds: longer than a host may be dead without being missed.
const SOON_MS: u64 = 15_000;

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trial {
    /// Agent, options and secrets.
    Settings,
    /// The device.
    Device,
}

/// Something that is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The host.
    pub host: HostName,
    /// How it is fenced.
    pub how: FenceSpec,
    /// What.
    pub trial: Trial,
}

/// The memory of one host of what it has tried.
#[derive(Debug, Clone, Default)]
pub struct Trials {
    tried: BTreeMap<(Trial, HostName), Tried>,
    /// Whose device this host asks.
    asks: Option<HostName>,
}

#[derive(Debug, Clone)]
struct Tried {
    how: FenceSpec,
    at_ms: u64,
    /// How often it has failed since it succeeded.
    failures: u32,
    found: Option<Finding>,
}

impl Tried {
    fn is_due(&self, trial: Trial, now_ms: u64) -> bool {
        let pause_ms = match (self.failures, trial) {
            (1, _) => SOON_MS,
            (0, _) | (_, Trial::Device) => EVERY_MS,
            (_, Trial::Settings) => WRONG_EVERY_MS,
        };
        now_ms.saturating_sub(self.at_ms) >= pause_ms
    }
}

impl Trials {
    /// What this host is to try next, if anything is due.
    pub fn next(
        &mut self,
        own: &HostName,
        members: &Map<HostName, HostSpec>,
        plans: &Map<HostName, HostPlan>,
        now_ms: u64,
    ) -> Option<Due> {
        self.asks = next_up(own, plans);
        let fenced = |host: &HostName| members.get(host).and_then(|wish| wish.fence.as_ref());
        let asks = &self.asks;
        self.tried.retain(|(trial, host), tried| {
            let applies = *trial == Trial::Settings || asks.as_ref() == Some(host);
            // What was said of other settings is not said of these.
            applies && fenced(host) == Some(&tried.how)
        });
        let others = members.iter().filter(|(host, _)| *host != own);
        let settings = others.filter_map(|(host, wish)| Some((Trial::Settings, host, wish.fence.as_ref()?)));
        let is_in_order = |host: &&HostName| {
            let settings = self.tried.get(&(Trial::Settings, (*host).clone()));
            settings.is_some_and(|tried| tried.found.is_none())
        };
        let device = self.asks.as_ref().filter(is_in_order);
        let device = device.and_then(|host| Some((Trial::Device, host, fenced(host)?)));
        let is_due = |(trial, host, _): &(Trial, &HostName, &FenceSpec)| {
            let tried = self.tried.get(&(*trial, (*host).clone()));
            tried.is_none_or(|tried| tried.is_due(*trial, now_ms))
        };
        let (trial, host, how) = settings.chain(device).find(is_due)?;
        Some(Due { host: host.clone(), how: how.clone(), trial })
    }

    /// Notes what came of it: what was found, or that all is well.
    pub fn note(&mut self, due: Due, found: Option<Finding>, now_ms: u64) {
        let Due { host, how, trial } = due;
        let key = (trial, host);
        let before = self.tried.get(&key).map_or(0, |tried| tried.failures);
        let failures = if found.is_some() { before.saturating_add(1) } else { 0 };
        self.tried.insert(key, Tried { how, at_ms: now_ms, failures, found });
    }

    /// What this host has to say of it. What is wrong with an agent or a secret of this machine is said once, whichever hosts it
    /// is for; what is wrong with options, only by who asks the device.
    pub fn findings(&self, own: &HostName) -> Vec<Finding> {
        let mut said: BTreeMap<About<'_>, Vec<(&HostName, &Finding)>> = BTreeMap::new();
        for ((trial, host), tried) in &self.tried {
            let Some(found) = tried.found.as_ref().filter(|_| tried.failures > 1) else { continue };
            let is_of_options = *trial == Trial::Device || found.code == Code::FenceOptionInvalid;
            if is_of_options && self.asks.as_ref() != Some(host) {
                continue;
            }
            let only = is_of_options.then_some(host);
            let about = About { code: found.code, agent: &tried.how.agent, only };
            said.entry(about).or_default().push((host, found));
        }
        let told = |hosts: Vec<(&HostName, &Finding)>| {
            let (_, first) = hosts.first()?;
            let others: Vec<&HostName> = hosts.iter().skip(1).map(|(host, _)| *host).collect();
            Some(say::fence_trial(own, first, &others))
        };
        said.into_values().filter_map(told).collect()
    }
}

/// What is said once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct About<'a> {
    code: Code,
    agent: &'a AgentName,
    /// The only host that it is about; none if it is about this machine.
    only: Option<&'a HostName>,
}

/// The next host by name that is up; behind the last comes the first.
fn next_up(own: &HostName, plans: &Map<HostName, HostPlan>) -> Option<HostName> {
    let is_up = |planned: &HostPlan| planned.standing == Standing::Up && !planned.departs;
    let up = || plans.iter().filter(|(_, planned)| is_up(planned)).map(|(host, _)| host);
    let next = up().find(|host| *host > own).or_else(|| up().next());
    next.filter(|host| *host != own).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Timestamp;

    fn named(host: &str) -> HostName {
        host.parse().unwrap()
    }

    /// Four hosts, each fenced by its own plug, of which the second looks after the others.
    struct Stage {
        members: Map<HostName, HostSpec>,
        plans: Map<HostName, HostPlan>,
        trials: Trials,
        now_ms: u64,
    }

    impl Stage {
        fn new() -> Self {
            let (mut members, mut plans) = (Map::new(), Map::new());
            for name in ["a", "b", "c", "d"] {
                let fence = Some(how(name));
                members.insert(named(name), HostSpec { fence, ..HostSpec::new(Timestamp(0)) });
                plans.insert(named(name), HostPlan::default());
            }
            Self { members, plans, trials: Trials::default(), now_ms: 1_000 }
        }

        /// Tries all that is due now. Returns what was tried; what fails is named.
        fn try_all(&mut self, fails: &[(&str, Trial, Code)]) -> Vec<String> {
            let mut tried = Vec::new();
            while let Some(due) = self.trials.next(&named("b"), &self.members, &self.plans, self.now_ms) {
                tried.push(format!("{:?} {}", due.trial, due.host).to_lowercase());
                let failure =
                    fails.iter().find(|(host, trial, _)| *host == due.host.as_str() && *trial == due.trial);
                let found = failure.map(|(_, _, code)| Finding {
                    code: *code,
                    ..say::fence_option_invalid(&due.host, &due.how.agent, "fails", "Mend it.")
                });
                self.trials.note(due, found, self.now_ms);
            }
            tried
        }

        fn after(&mut self, ms: u64, fails: &[(&str, Trial, Code)]) -> Vec<String> {
            self.now_ms += ms;
            self.try_all(fails)
        }

        fn said(&self) -> Vec<String> {
            self.trials.findings(&named("b")).iter().map(|finding| finding.message.clone()).collect()
        }

        fn stands(&mut self, host: &str, standing: Standing) {
            self.plans.get_mut(&named(host)).unwrap().standing = standing;
        }
    }

    fn how(plug: &str) -> FenceSpec {
        let options = BTreeMap::from([("plug".to_owned(), plug.to_owned())]);
        FenceSpec { agent: "fence_virsh".parse().unwrap(), options, leave_off: false }
    }

    const LOST: Standing = Standing::Lost { since: Timestamp(0) };
    const DEVICE_FAILS: (&str, Trial, Code) = ("c", Trial::Device, Code::FenceFailed);

    #[test]
    fn a_host_tries_its_settings_for_all_others_and_asks_the_device_of_the_next_one() {
        let mut stage = Stage::new();
        assert_eq!(stage.try_all(&[]), ["settings a", "settings c", "settings d", "device c"]);
        assert_eq!(stage.after(599_999, &[]), [] as [&str; 0]);
        assert_eq!(stage.after(1, &[]).len(), 4, "each ten minutes");
        assert_eq!(stage.said(), [] as [&str; 0]);
    }

    #[test]
    fn each_device_is_asked_by_one_host_whoever_is_up() {
        let mut stage = Stage::new();
        let asked =
            |stage: &Stage, own: &str| next_up(&named(own), &stage.plans).map(|host| host.to_string());
        let all = |stage: &Stage| ["a", "b", "c", "d"].map(|own| asked(stage, own).unwrap_or_default());
        assert_eq!(all(&stage), ["b", "c", "d", "a"]);
        stage.stands("c", LOST);
        assert_eq!(all(&stage)[..2], ["b", "d"]);
        stage.plans.get_mut(&named("d")).unwrap().departs = true;
        assert_eq!(all(&stage)[..2], ["b", "a"]);
        stage.stands("a", LOST);
        assert_eq!(asked(&stage, "b"), None, "nobody else is up");
    }

    #[test]
    fn what_fails_is_told_when_it_fails_again_and_until_it_succeeds() {
        let mut stage = Stage::new();
        stage.try_all(&[DEVICE_FAILS]);
        assert_eq!(stage.said(), [] as [&str; 0], "its host may just have died");
        assert_eq!(stage.after(14_999, &[DEVICE_FAILS]), [] as [&str; 0]);
        assert_eq!(stage.after(1, &[DEVICE_FAILS]), ["device c"]);
        assert_eq!(stage.said(), ["Tried on host b: Fence agent fence_virsh for host c fails."]);
        assert!(
            !stage.after(540_000, &[DEVICE_FAILS]).contains(&"device c".to_owned()),
            "it may lock us out"
        );
        assert_eq!(stage.after(60_000, &[]), ["settings a", "settings c", "settings d", "device c"]);
        assert_eq!(stage.said(), [] as [&str; 0]);
    }

    #[test]
    fn a_host_that_has_died_meanwhile_is_not_told_of_and_the_one_behind_it_is_asked() {
        let mut stage = Stage::new();
        stage.try_all(&[DEVICE_FAILS]);
        stage.stands("c", LOST);
        assert_eq!(stage.after(15_000, &[]), ["device d"]);
        stage.stands("c", Standing::Up);
        assert_eq!(stage.after(1, &[DEVICE_FAILS]), ["device c"]);
        assert_eq!(stage.said(), [] as [&str; 0], "it begins anew");
    }

    #[test]
    fn settings_that_were_changed_are_tried_at_once_and_what_was_said_of_others_is_forgotten() {
        let mut stage = Stage::new();
        stage.try_all(&[DEVICE_FAILS]);
        stage.after(15_000, &[DEVICE_FAILS]);
        assert_eq!(stage.said().len(), 1);
        stage.members.get_mut(&named("c")).unwrap().fence = Some(how("c2"));
        assert_eq!(stage.after(1, &[]), ["settings c", "device c"]);
        assert_eq!(stage.said(), [] as [&str; 0]);
        stage.members.get_mut(&named("c")).unwrap().fence = None;
        assert_eq!(stage.after(1, &[]), [] as [&str; 0]);
    }

    #[test]
    fn a_device_is_not_asked_with_settings_that_are_wrong_and_these_are_tried_each_minute() {
        let mut stage = Stage::new();
        let wrong = [("c", Trial::Settings, Code::FenceSecretUnreadable)];
        assert_eq!(stage.try_all(&wrong), ["settings a", "settings c", "settings d"]);
        assert_eq!(stage.after(15_000, &wrong), ["settings c"]);
        assert_eq!(stage.after(60_000, &wrong), ["settings c"]);
        assert_eq!(stage.said().len(), 1);
        assert_eq!(stage.after(60_000, &[]), ["settings c", "device c"]);
    }

    #[test]
    fn what_this_machine_lacks_is_said_once_and_what_is_wrong_with_options_by_who_asks_the_device() {
        let mut stage = Stage::new();
        let missing = ["a", "c", "d"].map(|host| (host, Trial::Settings, Code::FenceAgentUnusable));
        stage.try_all(&missing);
        stage.after(15_000, &missing);
        let said = stage.said();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with("So it is for c, d."), "{said:?}");
        let mut stage = Stage::new();
        let wrong = ["a", "c", "d"].map(|host| (host, Trial::Settings, Code::FenceOptionInvalid));
        stage.try_all(&wrong);
        stage.after(15_000, &wrong);
        assert_eq!(stage.said(), ["Tried on host b: Fence agent fence_virsh for host c fails."]);
    }
}
