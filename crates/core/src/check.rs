//! The checker: knows the invariants, trusts nobody, and shares no code with the planner.
//!
//! It runs after planning and before committing, in every test of the loop, and in `tranche doctor`. A violation is a
//! defect of Tranche: a plan that has one is neither committed nor carried out.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics::invariant;
use crate::finding::{Finding, Subject};
use crate::inventory::{DeviceSource, DomainState, Inventory};
use crate::name::{HostName, Slot, SlotKey, VmName};
use crate::plan::{Booking, Plan, VmGoal};
use crate::spec::GpuMode;

/// The invariants that a plan must hold by itself. Empty means that it holds them all.
pub fn check(plan: &Plan) -> Vec<Finding> {
    let holders = plan.bookings.values().map(|booking| &booking.vm);
    violations(plan, plan.bookings.iter().collect(), holders.collect())
}

/// The same of a plan that came of one that holds them. Takes time for what differs: whatever could be violated has to do with a
/// slot, a GPU or a VM that is not as before.
pub fn check_changes(before: &Plan, after: &Plan) -> Vec<Finding> {
    let mut slots: BTreeMap<&SlotKey, &Booking> = BTreeMap::new();
    let mut vms: BTreeSet<&VmName> = before.vms.changes(&after.vms).map(|(vm, ..)| vm).collect();
    for (slot, _, booking) in before.bookings.changes(&after.bookings) {
        slots.extend(booking.map(|booking| (slot, booking)));
        vms.extend(booking.map(|booking| &booking.vm));
    }
    for (gpu, ..) in before.gpus.changes(&after.gpus) {
        slots.extend(after.bookings_on(gpu));
    }
    for vm in &vms {
        slots.extend(after.held_by(vm));
    }
    violations(after, slots.into_iter().collect(), vms)
}

fn violations(plan: &Plan, slots: Vec<(&SlotKey, &Booking)>, vms: BTreeSet<&VmName>) -> Vec<Finding> {
    let mut violations = Vec::new();
    for (slot, booking) in slots {
        slot_is_of_the_mode(plan, slot, booking, &mut violations);
        booking_has_its_vm(plan, slot, booking, &mut violations);
    }
    for vm in vms {
        vm_holds_one_kind(plan, vm, &mut violations);
    }
    violations.sort();
    violations
}

/// The invariants that the world must hold: no device serves two VMs, no VM runs on two hosts. Hosts report at different times, so of
/// one that went from one host to another while it ran, both may show it running.
pub fn check_world(inventory: &Inventory, plan: &Plan) -> Vec<Finding> {
    let mut violations = Vec::new();
    let mut runs_on: BTreeMap<&str, Vec<&HostName>> = BTreeMap::new();
    for (host, observed) in inventory {
        let mut used_by: BTreeMap<&DeviceSource, Vec<&str>> = BTreeMap::new();
        for domain in observed.domains().into_iter().flat_map(BTreeMap::values) {
            if !domain.state.is_active() {
                continue;
            }
            if !matches!(domain.state, DomainState::Arriving | DomainState::Paused) {
                runs_on.entry(&domain.name).or_default().push(host);
            }
            for device in &domain.live_devices {
                used_by.entry(&device.source).or_default().push(&domain.name);
            }
        }
        for (device, users) in used_by.into_iter().filter(|(_, users)| users.len() > 1) {
            let message = format!("{device:?} serves several running VMs: {}.", users.join(", "));
            violations.push(invariant(Subject::Host(host.clone()), message));
        }
    }
    let goes = |name: &str, hosts: &[&HostName]| {
        let planned = name.parse().ok().and_then(|name: VmName| plan.vms.get(&name));
        let planned = planned.filter(|planned| planned.journey.is_some());
        planned.is_some_and(|planned| hosts.iter().all(|host| planned.hosts().any(|one| one == *host)))
    };
    for (name, hosts) in runs_on.into_iter().filter(|(name, hosts)| hosts.len() > 1 && !goes(name, hosts)) {
        let hosts: Vec<String> = hosts.into_iter().map(ToString::to_string).collect();
        let message = format!("Domain {name} runs on several hosts: {}.", hosts.join(", "));
        violations.push(invariant(Subject::Input(name.to_owned()), message));
    }
    violations
}

/// A change of plan must keep this: no booking outlives the mode of its GPU. (It may end and another one begin in the same
/// pass, for what was read back as free.)
pub fn check_transition(before: &Plan, after: &Plan) -> Vec<Finding> {
    let mut violations = Vec::new();
    for (gpu, ..) in before.gpus.changes(&after.gpus).filter(|(gpu, ..)| before.mode(gpu) != after.mode(gpu))
    {
        for (slot, booking) in before.bookings_on(gpu) {
            if after.bookings.get(slot) == Some(booking) {
                let message =
                    format!("The mode of GPU {gpu} changes while {slot} is booked by VM {}.", booking.vm);
                violations.push(invariant(Subject::Gpu(gpu.clone()), message));
            }
        }
    }
    for (host, was, is) in before.generations.changes(&after.generations) {
        if let Some(generation) = was.filter(|was| is.is_none_or(|is| is < was)) {
            let message = format!("The plan's generation of host {host} goes backwards from {generation}.");
            violations.push(invariant(Subject::Host(host.clone()), message));
        }
    }
    violations
}

fn slot_is_of_the_mode(plan: &Plan, slot: &SlotKey, booking: &Booking, violations: &mut Vec<Finding>) {
    let mode = plan.mode(&slot.gpu);
    let of_mode = match (mode, slot.slot) {
        (mode, Slot::Partition(index)) => mode.partitions().is_some_and(|count| index < count),
        (GpuMode::Passthrough { .. }, Slot::Whole) => true,
        _ => false,
    };
    if !of_mode {
        let message = format!("VM {} holds {slot}, which does not exist in mode {mode:?}.", booking.vm);
        violations.push(invariant(Subject::Partition(slot.clone()), message));
    }
}

fn booking_has_its_vm(plan: &Plan, slot: &SlotKey, booking: &Booking, violations: &mut Vec<Finding>) {
    let Some(vm) = plan.vms.get(&booking.vm) else { return };
    let is_its_host = vm.hosts().any(|host| *host == slot.gpu.host);
    if vm.goal == VmGoal::Run && vm.id == booking.vm_id && !is_its_host {
        let message = format!("VM {} runs on host {} and holds {slot}.", booking.vm, vm.host);
        violations.push(invariant(Subject::Vm(booking.vm.clone()), message));
    }
}

/// While it moves, a VM holds the same on two hosts.
fn vm_holds_one_kind(plan: &Plan, vm: &VmName, violations: &mut Vec<Finding>) {
    let mut held: BTreeMap<&HostName, (usize, usize)> = BTreeMap::new();
    for (slot, _) in plan.held_by(vm) {
        let (partitions, whole) = held.entry(&slot.gpu.host).or_default();
        match slot.slot {
            Slot::Partition(_) => *partitions += 1,
            Slot::Whole => *whole += 1,
        }
    }
    for (partitions, whole) in held.into_values() {
        if partitions > 1 {
            let message = format!("VM {vm} holds {partitions} partitions.");
            violations.push(invariant(Subject::Vm(vm.clone()), message));
        }
        if partitions > 0 && whole > 0 {
            let message = format!("VM {vm} holds a partition and a whole GPU.");
            violations.push(invariant(Subject::Vm(vm.clone()), message));
        }
    }
}
