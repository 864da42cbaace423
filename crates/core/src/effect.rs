//! What a change would do, before it is done: the answer to `--dry-run`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::State;
use crate::finding::{Code, Finding, Severity, Subject};
use crate::inventory::{DomainState, Hypervisor, Inventory, OffReason};
use crate::name::{GpuKey, HostName, Slot, Timestamp, VmName};
use crate::plan::{Plan, VmGoal};
use crate::spec::{Duty, GpuMode, GpuSpec, Spec};
use crate::step::Step;
use crate::steps::steps;
use crate::{planner, reload};

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Effect {
    /// What would become of each GPU that it concerns.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gpus: BTreeMap<GpuKey, GpuEffect>,
    /// What would become of each VM that it concerns.
    pub vms: BTreeMap<VmName, VmEffect>,
    /// On which host VMs would start that move.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub homes: BTreeMap<VmName, HostName>,
    /// What each host would do first. Steps that depend on the outcome of these are not listed.
    pub steps: Vec<HostStep>,
    /// What would be wrong or wait that is not so now.
    pub findings: Vec<Finding>,
}

/// What would become of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GpuEffect {
    /// What it is used for now.
    pub from: GpuMode,
    /// What it would be used for.
    pub to: GpuMode,
    /// The VMs that hold it, or a part of it, now.
    pub vms: Vec<VmName>,
}

/// What would become of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmEffect {
    /// It would be started.
    Starts,
    /// It would be shut down, or turned off if that is asked for.
    Stops,
    /// It would be shut down, or turned off if that is asked for, and started again.
    Restarts,
    /// It would go to another host while it runs.
    Migrates,
    /// It would be shut down and started on another host.
    Moves,
    /// It would run on where it is, because no other host can take it: it must be stopped by whoever wants it away.
    Stays,
    /// It would be off and wait for room.
    Waits,
    /// It is off, and would lose what is reserved for it.
    LosesReservation,
    /// It would be forgotten.
    Goes,
}

/// A step and its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostStep {
    /// The host.
    pub host: HostName,
    /// The step.
    pub step: Step,
    /// The step in words.
    pub text: String,
}

/// What would follow if the spec were this one.
pub fn preview(after: &Spec, state: State<'_>, now: Timestamp) -> Effect {
    // What a host has not heard of yet, it will in a moment.
    let inventory = in_step(state.inventory, state.plan);
    let state = State { inventory: &inventory, ..state };
    let before = planner::plan(state.spec, state.inventory, state.plan, now);
    let planned = planner::plan(after, state.inventory, state.plan, now);
    let due_before = due(state.spec, &before.plan, state.inventory);
    let mut steps: Vec<HostStep> = due(after, &planned.plan, state.inventory);
    steps.retain(|step| !due_before.contains(step));
    let mut vms: BTreeMap<VmName, VmEffect> = planned
        .plan
        .vms
        .iter()
        .filter(|(name, _)| state.spec.vms.get(*name) != after.vms.get(*name))
        .filter_map(|(name, vm)| {
            Some((name.clone(), effect_on(name, vm.goal, &planned.findings, state, after)?))
        })
        .collect();
    let mut findings = planned.findings.clone();
    let mut homes = BTreeMap::new();
    let stopped = stopped_with_host(after, &planned.plan, state);
    vms.extend(stopped.into_iter().map(|name| (name, VmEffect::Stops)));
    vms.extend(left_behind(after, state).map(|name| (name, VmEffect::Stays)));
    for (name, home) in setting_out(&planned.plan, &planned.findings, state) {
        vms.insert(name.clone(), VmEffect::Migrates);
        homes.extend(home.map(|home| (name, home)));
    }
    if let Some(left) = Left::by_drained(after, &planned.plan, state) {
        let then = planner::plan(after, &left.inventory, &planned.plan, now);
        for step in due(after, &then.plan, &left.inventory) {
            if !due_before.contains(&step) && !steps.contains(&step) {
                steps.push(step);
            }
        }
        for name in left.vms {
            let (was, is) = (planned.plan.vms.get(&name), then.plan.vms.get(&name));
            let home = is.map(|is| &is.host).filter(|host| was.is_some_and(|was| &was.host != *host));
            let mut effect = effect_of_drain(&name, after, &then.plan);
            if let (Some(home), VmEffect::Restarts) = (home, effect) {
                effect = VmEffect::Moves;
                homes.insert(name.clone(), home.clone());
            }
            vms.insert(name, effect);
        }
        findings.extend(then.findings);
    }
    // What the steps put right is not wrong.
    let passing = |finding: &Finding| matches!(finding.code, Code::Drift | Code::PartitionUnready);
    findings.retain(|finding| !before.findings.contains(finding) && !passing(finding));
    findings.sort();
    findings.dedup();
    Effect { gpus: gpus(after, state), vms, homes, steps, findings }
}

/// The VMs that would set out for another host while they run, and for which if that is chosen yet: some wait until others have moved.
fn setting_out(plan: &Plan, findings: &[Finding], state: State<'_>) -> Vec<(VmName, Option<HostName>)> {
    let is_new =
        |name: &VmName| state.plan.vms.get(name).is_none_or(|planned| planned.open_journey().is_none());
    let first = plan.vms.iter().filter_map(|(name, planned)| {
        let journey = planned.open_journey().filter(|_| is_new(name))?;
        Some((name.clone(), Some(journey.other.clone())))
    });
    let queued = findings.iter().filter(|finding| finding.code == Code::MigrateQueued);
    let queued = queued.filter_map(|finding| match &finding.subject {
        Subject::Vm(name) => Some((name.clone(), None)),
        _ => None,
    });
    first.chain(queued).collect()
}

fn gpus(after: &Spec, state: State<'_>) -> BTreeMap<GpuKey, GpuEffect> {
    let changed = after.gpus.iter().filter(|(key, wish)| state.spec.gpus.get(*key) != Some(*wish));
    let effect = |(key, wish): (&GpuKey, &GpuSpec)| {
        let vms: BTreeSet<VmName> = state.plan.bookings_on(key).map(|(_, held)| held.vm.clone()).collect();
        let (from, to) = (state.plan.mode(key).clone(), wish.mode.clone());
        (key.clone(), GpuEffect { from, to, vms: vms.into_iter().collect() })
    };
    changed.map(effect).collect()
}

/// What hosts would show once the VMs that must leave a GPU had left it.
struct Left {
    inventory: Inventory,
    vms: BTreeSet<VmName>,
}

impl Left {
    fn by_drained(after: &Spec, plan: &Plan, state: State<'_>) -> Option<Self> {
        let changes = |gpu: &GpuKey| {
            let wish = after.gpus.get(gpu).filter(|wish| state.spec.gpus.get(gpu) != Some(wish));
            wish.is_some_and(|wish| {
                wish.mode != *state.plan.mode(gpu) || reload::is_asked(wish, state.plan.gpus.get(gpu))
            })
        };
        let leaving = state.plan.bookings.iter().filter(|(slot, _)| changes(&slot.gpu));
        let mut vms: BTreeSet<VmName> = leaving.map(|(_, booking)| booking.vm.clone()).collect();
        let all = vms.iter().all(|vm| plan.vms.get(vm).is_none_or(|planned| planned.goal != VmGoal::Run));
        if !all {
            return None;
        }
        let moving = plan.vms.iter().filter(|(_, planned)| planned.goal == VmGoal::Move);
        vms.extend(moving.map(|(name, _)| name.clone()));
        if vms.is_empty() {
            return None;
        }
        let mut inventory = state.inventory.clone();
        for (slot, _) in state.plan.bookings.iter().filter(|(_, booking)| vms.contains(&booking.vm)) {
            let gpu = inventory.get_mut(&slot.gpu.host).and_then(|seen| seen.gpus.get_mut(&slot.gpu.address));
            let Some(gpu) = gpu else { continue };
            match slot.slot {
                Slot::Whole => gpu.open_by.clear(),
                Slot::Partition(index) => {
                    let of_slot =
                        gpu.partitions.iter_mut().filter(|partition| partition.index == Some(index));
                    of_slot.for_each(|partition| partition.open_by.clear());
                }
            }
        }
        inventory.change_each(|_, observed| {
            let Hypervisor::Up { domains, .. } = &mut observed.hypervisor else { return };
            for domain in
                domains.values_mut().filter(|domain| vms.iter().any(|vm| vm.as_str() == domain.name))
            {
                domain.state = DomainState::Off { reason: OffReason::Shutdown };
                domain.live_devices.clear();
                domain.defined_devices.retain(|device| !device.ours);
            }
        });
        Some(Self { inventory: in_step(&inventory, plan), vms })
    }
}

/// What hosts would show once they knew all that was decided for them.
fn in_step(inventory: &Inventory, plan: &Plan) -> Inventory {
    let mut inventory = inventory.clone();
    for (host, generation) in &plan.generations {
        if let Some(observed) = inventory.get_mut(host) {
            observed.progress.generation = *generation;
        }
    }
    inventory
}

/// The VMs that run on hosts which are about to go down, and that go off there.
fn stopped_with_host(after: &Spec, plan: &Plan, state: State<'_>) -> Vec<VmName> {
    let departs = |host: &HostName| {
        let departure = |spec: &Spec| spec.hosts.get(host).and_then(|wish| wish.departure.clone());
        departure(after).is_some() && departure(after) != departure(state.spec)
    };
    let ends = |goal: VmGoal| matches!(goal, VmGoal::Stop | VmGoal::Kill);
    let here = plan
        .vms
        .iter()
        .filter(|(name, planned)| departs(&planned.host) && ends(planned.goal) && state.is_active(name));
    here.map(|(name, _)| name.clone()).collect()
}

/// The VMs that run on hosts which are about to be emptied, whatever becomes of them.
fn left_behind(after: &Spec, state: State<'_>) -> impl Iterator<Item = VmName> {
    let drained = |host: &HostName| {
        let duty = |spec: &Spec| spec.hosts.get(host).map(|wish| wish.duty);
        duty(after) == Some(Duty::Maintenance) && duty(state.spec) != Some(Duty::Maintenance)
    };
    let runs = move |name: &VmName, host: &HostName| {
        let domain = state.inventory.get(host).and_then(|observed| observed.domain(name));
        domain.is_some_and(|domain| domain.state.is_active())
    };
    let here = state
        .plan
        .vms
        .iter()
        .filter(move |(name, planned)| drained(&planned.host) && runs(name, &planned.host));
    here.map(|(name, _)| name.clone())
}

fn effect_of_drain(name: &VmName, after: &Spec, plan: &Plan) -> VmEffect {
    let shall_run = after.vms.get(name).is_some_and(|vm| vm.run.is_up());
    match plan.vms.get(name).map(|planned| planned.goal) {
        Some(VmGoal::Run) => VmEffect::Restarts,
        _ if shall_run => VmEffect::Waits,
        _ => VmEffect::LosesReservation,
    }
}

fn due(spec: &Spec, plan: &Plan, inventory: &Inventory) -> Vec<HostStep> {
    let mut due = Vec::new();
    for (host, observed) in inventory {
        due.extend(steps(spec, plan, observed).into_iter().map(|step| {
            let text = step.to_string();
            HostStep { host: host.clone(), step, text }
        }));
    }
    due
}

/// Whether the change is one to run a VM on another host.
fn is_told_to_leave(name: &VmName, before: &Spec, after: &Spec) -> bool {
    let relocation = |spec: &Spec| spec.vms.get(name).and_then(|vm| vm.relocation.clone());
    relocation(after).is_some_and(|told| relocation(before) != Some(told))
}

fn effect_on(
    name: &VmName,
    goal: VmGoal,
    findings: &[Finding],
    state: State<'_>,
    after: &Spec,
) -> Option<VmEffect> {
    let active = state
        .inventory
        .values()
        .filter_map(|observed| observed.domain(name))
        .any(|domain| domain.state.is_active());
    let waits = findings
        .iter()
        .any(|finding| finding.severity == Severity::Warning && finding.subject == Subject::Vm(name.clone()));
    let wants_to_run = after.vms.get(name).is_some_and(|vm| vm.run.is_up());
    let is_reserved = |spec: &Spec| spec.vms.get(name).is_some_and(|vm| vm.reserved);
    let loses = is_reserved(state.spec) && !is_reserved(after) && state.plan.held_by(name).next().is_some();
    match goal {
        VmGoal::Run if !active => Some(VmEffect::Starts),
        VmGoal::Run if is_told_to_leave(name, state.spec, after) => Some(VmEffect::Stays),
        VmGoal::Cycle | VmGoal::Reset => Some(VmEffect::Restarts),
        VmGoal::Remove => Some(VmEffect::Goes),
        VmGoal::Stop if !active && wants_to_run && waits => Some(VmEffect::Waits),
        VmGoal::Stop | VmGoal::Kill if active => Some(VmEffect::Stops),
        VmGoal::Stop | VmGoal::Kill if loses => Some(VmEffect::LosesReservation),
        _ => None,
    }
}
