//! What a scenario must be before it is played: whatever it names is there, and its numbers can be.

use std::collections::BTreeSet;
use std::fmt;

use tranche_core::name::{HostName, VmName};
use tranche_core::spec::Rule;

use crate::event::Event;
use crate::scenario::Scenario;

/// The longest scenario, in virtual milliseconds: a day.
const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// The most GPUs of a host.
const GPUS_MAX: u8 = 16;
/// Into how many partitions a GPU can be split; with none it is passed through.
const PARTITIONS: [u16; 6] = [0, 1, 2, 4, 8, 16];
/// How many times slower a host can be.
const FACTORS: std::ops::RangeInclusive<u32> = 1..=100;
/// The third member of a store beside two hosts, as events name it.
pub(crate) const WITNESS: &str = "witness";

/// Why a scenario cannot be played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScenarioError {
    /// It has no host.
    NoHost,
    /// It is longer than a day.
    TooLong,
    /// It names a host that it does not have.
    UnknownHost(HostName),
    /// It names a VM that it neither has nor adds.
    UnknownVm(VmName),
    /// A host has more GPUs than a simulated one can have.
    Gpus(HostName),
    /// A host's GPUs are split as no simulated GPU can be.
    Partitions(HostName),
    /// Its times do not fit each other.
    Timers(&'static str),
    /// A host is to be slower than a simulated one can be, or faster.
    Factor(HostName),
    /// It has a witness and not two hosts, or a host of that name.
    Witness,
    /// Something befalls the witness that can only befall a host.
    NotForWitness,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("A scenario has one host at least."),
            Self::TooLong => write!(f, "A scenario lasts {TIME_MS_MAX} ms at most."),
            Self::UnknownHost(host) => write!(f, "The scenario names host {host}, which it does not have."),
            Self::UnknownVm(vm) => {
                write!(f, "The scenario names VM {vm}, which it neither has in `vms` nor adds with `vm_add`.")
            }
            Self::Gpus(host) => write!(f, "Host {host} has {GPUS_MAX} GPUs at most."),
            Self::Partitions(host) => {
                write!(
                    f,
                    "The GPUs of host {host} are split into 1, 2, 4, 8 or 16 partitions, or 0 for passthrough."
                )
            }
            Self::Timers(rule) => write!(f, "The times under `failover` cannot be: {rule}."),
            Self::Factor(host) => {
                write!(f, "Host {host} is {} to {} times as slow.", FACTORS.start(), FACTORS.end())
            }
            Self::Witness => write!(
                f,
                "A witness is the third member of the store beside two hosts, neither of which is called {WITNESS}."
            ),
            Self::NotForWitness => f.write_str(
                "A witness has a member of the store, a network and power; nothing else can befall it.",
            ),
        }
    }
}

impl std::error::Error for ScenarioError {}

/// Checks a scenario.
pub(crate) fn check(scenario: &Scenario) -> Result<(), ScenarioError> {
    if scenario.hosts.is_empty() {
        return Err(ScenarioError::NoHost);
    }
    if scenario.until_ms > TIME_MS_MAX {
        return Err(ScenarioError::TooLong);
    }
    let named_so = scenario.hosts.keys().any(|host| host.as_str() == WITNESS);
    if scenario.witness && (named_so || scenario.hosts.len() != 2) {
        return Err(ScenarioError::Witness);
    }
    for (name, setup) in &scenario.hosts {
        if setup.gpus > GPUS_MAX {
            return Err(ScenarioError::Gpus(name.clone()));
        }
        if !PARTITIONS.contains(&setup.partitions) {
            return Err(ScenarioError::Partitions(name.clone()));
        }
    }
    if let Some(rule) = scenario.failover.timers.obstacle() {
        return Err(ScenarioError::Timers(rule));
    }
    let added = scenario.events.iter().filter_map(|timed| match &timed.event {
        Event::VmAdd { vm, .. } => Some(vm),
        _ => None,
    });
    let names = Names { scenario, vms: scenario.vms.keys().chain(added).collect() };
    scenario.events.iter().try_for_each(|timed| names.check_event(&timed.event))?;
    scenario.rules.values().try_for_each(|rule| names.check_rule(rule))?;
    let expect = &scenario.expect;
    expect.placement.values().try_for_each(|host| names.check_host(host))?;
    expect.placement.keys().chain(&expect.running).chain(&expect.off).try_for_each(|vm| names.check_vm(vm))
}

/// What can be named.
struct Names<'a> {
    scenario: &'a Scenario,
    vms: BTreeSet<&'a VmName>,
}

impl Names<'_> {
    fn check_event(&self, event: &Event) -> Result<(), ScenarioError> {
        let host = event.befalls().map(|(host, _)| host);
        for host in host.into_iter().chain(event.other_host()) {
            match (self.is_witness(host), event.is_for_witness()) {
                (true, true) => {}
                (true, false) => return Err(ScenarioError::NotForWitness),
                (false, _) => self.check_host(host)?,
            }
        }
        event.vm().map_or(Ok(()), |vm| self.check_vm(vm))?;
        match event {
            Event::RuleSet { rule, .. } => self.check_rule(rule),
            Event::HostSlow { host, factor } if !FACTORS.contains(factor) => {
                Err(ScenarioError::Factor(host.clone()))
            }
            _ => Ok(()),
        }
    }

    fn check_rule(&self, rule: &Rule) -> Result<(), ScenarioError> {
        rule.vms().iter().try_for_each(|vm| self.check_vm(vm))?;
        match rule {
            Rule::Hosts { hosts, .. } => hosts.keys().try_for_each(|host| self.check_host(host)),
            Rule::Labels { .. } | Rule::Vms { .. } => Ok(()),
        }
    }

    fn check_host(&self, host: &HostName) -> Result<(), ScenarioError> {
        let known = self.scenario.hosts.contains_key(host);
        if known { Ok(()) } else { Err(ScenarioError::UnknownHost(host.clone())) }
    }

    fn check_vm(&self, vm: &VmName) -> Result<(), ScenarioError> {
        if self.vms.contains(vm) { Ok(()) } else { Err(ScenarioError::UnknownVm(vm.clone())) }
    }

    fn is_witness(&self, host: &HostName) -> bool {
        self.scenario.witness && host.as_str() == WITNESS
    }
}
