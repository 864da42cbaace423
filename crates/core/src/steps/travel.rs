//! Steps of VMs that go to another host while they run, and of what is left of them where they are not at home.

use std::collections::BTreeMap;

use super::clear_devices;
use crate::inventory::{Domain, DomainState, HostInventory};
use crate::journey::{Journey, Stage};
use crate::name::VmName;
use crate::plan::{Plan, Settled, VmGoal, VmPlan};
use crate::spec::{Spec, VmHardware, VmSource};
use crate::step::Step;

/// What the host of a VM does that is to go to another one while it runs.
pub(super) fn journey_steps(
    (name, planned): (&VmName, &VmPlan),
    journey: &Journey,
    observed: &HostInventory,
    (domain, spec): (Option<&Domain>, &Spec),
) -> Vec<Step> {
    let runs = domain.is_some_and(|domain| domain.state == DomainState::Running);
    let is_known = observed.progress.sent.get(name).is_some_and(|sent| sent.number == journey.number);
    match &journey.stage {
        Stage::Goes { devices } if runs && !is_known => vec![Step::SendVm {
            vm: name.clone(),
            id: planned.id,
            number: journey.number,
            to: journey.other.clone(),
            devices: devices.clone(),
            limits: spec.limits_of(name),
        }],
        Stage::CalledOff { .. } => call_off((name, planned), observed).into_iter().collect(),
        Stage::Prepares | Stage::Goes { .. } | Stage::Lands | Stage::Clears => Vec::new(),
    }
}

/// Whether a domain is a copy of a VM that was sent here and never let go on: it stands still, and the VM was not seen to run here. If
/// its old host dies before that was ended, this one may become the VM's home.
pub(crate) fn is_copy(
    name: &VmName,
    domain: Option<&Domain>,
    settled: Option<&Settled>,
    spec: &Spec,
) -> bool {
    let is_made = spec.vms.get(name).is_some_and(|wish| matches!(wish.source, VmSource::Made(_)));
    let stands_still = domain.is_some_and(|domain| domain.state == DomainState::Paused);
    !spec.hosts.is_empty() && is_made && stands_still && settled.is_none_or(|settled| !settled.running)
}

/// Ends what this host sends and is not to send any more. What was begun by hand is left alone.
pub(super) fn call_off((name, planned): (&VmName, &VmPlan), observed: &HostInventory) -> Option<Step> {
    let sent = observed.progress.sent.get(name)?;
    let is_ours = sent.is_under_way() && sent.number != 0;
    is_ours.then(|| Step::CallOffVm { vm: name.clone(), id: planned.id, number: sent.number })
}

/// What VMs need that are to arrive while they run, and what was made ready for those that did not come.
pub(super) fn arrival_steps(spec: &Spec, plan: &Plan, observed: &HostInventory) -> Vec<Step> {
    let is_expected = |name: &VmName| observed.progress.expects.contains(name);
    let mut due = Vec::new();
    for (name, planned) in plan.vms.iter().filter(|(_, planned)| planned.host != observed.host) {
        let comes = planned.open_journey().is_some_and(|journey| journey.other == observed.host);
        let (vm, id) = (name.clone(), planned.id);
        match spec.vms.get(name).map(|wish| &wish.source) {
            Some(VmSource::Made(hardware)) if comes && !is_expected(name) && needs_more(hardware) => {
                due.push(Step::ExpectVm { vm, id, hardware: Box::new(hardware.clone()) });
            }
            _ if !comes && is_expected(name) && observed.domain(name).is_none() => {
                due.push(Step::UndefineVm { vm, id });
            }
            _ => {}
        }
    }
    due
}

/// Whether a VM needs anything of its host beside its devices that is not there before it is made.
pub(crate) fn needs_more(hardware: &VmHardware) -> bool {
    hardware.cloud_init.is_some()
}

/// Domains of VMs that are another host's by now: they end at once, whatever they do, and leave nothing behind that somebody
/// could start.
pub(super) fn leftover_steps(spec: &Spec, plan: &Plan, observed: &HostInventory) -> Vec<Step> {
    let domains = observed.domains().into_iter().flat_map(BTreeMap::values);
    let leftover = |domain: &Domain| {
        let name: VmName = domain.name.parse().ok()?;
        let planned = plan.vms.get(&name)?;
        if planned.host == observed.host || planned.id.0 != domain.uuid {
            return None;
        }
        let (vm, id) = (name.clone(), planned.id);
        if let Some(journey) = planned.open_journey().filter(|journey| journey.other == observed.host) {
            let lands = journey.stage == Stage::Lands && domain.state == DomainState::Paused;
            return lands.then_some(Step::ResumeVm { vm, id });
        }
        if domain.state.is_active() {
            return Some(Step::KillVm { vm, id });
        }
        // One that was forgotten while its host was down has no wish any more; only one that was made is to be removed.
        let made = spec.vms.get(&name).map(|spec| matches!(spec.source, VmSource::Made(_)));
        if made.unwrap_or(planned.goal == VmGoal::Remove) {
            Some(Step::UndefineVm { vm, id })
        } else {
            clear_devices(&name, planned, Some(domain)).pop()
        }
    };
    domains.filter_map(leftover).collect()
}
