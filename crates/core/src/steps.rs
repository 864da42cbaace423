//! Which steps are due on a host: the difference between what was decided and what is.
//!
//! Steps are computed afresh from plan and inventory on every pass; after a crash between any two of them the same
//! computation yields the rest. A step that could hurt is simply not due while anything could be hurt by it: partitions
//! are remade only while none is open, and a VM starts only when everything that it holds is ready.

mod handover;
mod travel;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::{
    Backend, DeviceSource, Domain, DomainState, Gpu, Guard, HostInventory, ObservedPartition,
    PartitionDevice, mdev_uuid,
};
use crate::mode::{has_lost_its_driver, is_given_back, is_passed_through, users_of};
use crate::name::{GpuAddress, GpuKey, HostName, PciAddress, Slot, SlotKey, VmName};
use crate::plan::{GpuPlan, Plan, Standing, VmGoal, VmPlan};
use crate::rest::rests;
use crate::spec::{Failover, GpuMode, Spec, VmSource};
use crate::step::{Near, Step, StepSubject, VFIO_DRIVER, VmDevice};
use crate::{placement, reload};

use self::handover::{awaited_steps, parting_steps};
use self::travel::{arrival_steps, call_off, journey_steps, leftover_steps};
pub(crate) use self::travel::{is_copy, needs_more};

/// The steps that are due on the host that an inventory is of: GPUs first, in the order of their addresses; then VMs, those
/// with the highest priority first, and of equals the oldest. They are carried out in this order.
pub fn steps(spec: &Spec, plan: &Plan, observed: &HostInventory) -> Vec<Step> {
    let mut due = reload_steps(plan, observed);
    for (key, planned) in plan.gpus.iter().filter(|(key, _)| key.host == observed.host) {
        due.extend(gpu_steps(key, planned, plan, observed));
    }
    let remade: BTreeSet<GpuAddress> = due.iter().flat_map(remakes).cloned().collect();
    let mut residents: Vec<(&VmName, &VmPlan)> =
        plan.vms.iter().filter(|(_, planned)| planned.host == observed.host).collect();
    residents.sort_by_key(|(name, _)| {
        let wish = spec.vms.get(*name);
        (Reverse(wish.map(|wish| wish.availability.priority)), wish.map(|wish| wish.created_at))
    });
    for (name, planned) in residents {
        let waits = plan.held_by(name).any(|(slot, _)| remade.contains(&slot.gpu.address));
        let steps = vm_steps(name, planned, spec, plan, observed);
        if !(waits && steps.iter().any(|step| matches!(step, Step::StartVm { .. }))) {
            due.extend(steps);
        }
    }
    due.extend(leftover_steps(spec, plan, observed));
    due.extend(arrival_steps(spec, plan, observed));
    due
}

/// What a host does that was given up: every VM that is, or may soon be, another host's ends at once.
pub fn surrender(plan: &Plan, observed: &HostInventory) -> Vec<Step> {
    let domains = observed.domains().into_iter().flat_map(BTreeMap::values);
    let active = domains.filter(|domain| domain.state.is_active());
    let end = |domain: &Domain| {
        let name: VmName = domain.name.parse().ok()?;
        let planned = plan.vms.get(&name).filter(|planned| planned.id.0 == domain.uuid)?;
        let fenced = matches!(
            plan.hosts.get(&observed.host).map(|host| host.standing),
            Some(Standing::Fencing { .. })
        );
        let ends = fenced || planned.host != observed.host;
        ends.then_some(Step::KillVm { vm: name, id: planned.id })
    };
    active.filter_map(end).collect()
}

/// The GPUs whose partitions a step replaces: nothing on them may be handed to a VM before that is done.
fn remakes(step: &Step) -> &[GpuAddress] {
    match step {
        Step::EnableVfs { gpu, .. }
        | Step::DisableVfs { gpu, .. }
        | Step::RemoveMdev { gpu, .. }
        | Step::SetMixedSizes { gpu, .. }
        | Step::TakeGpu { gpu, .. }
        | Step::ReturnGpu { gpu, .. } => std::slice::from_ref(gpu),
        Step::ReloadDriver { gpus, .. } => gpus,
        _ => &[],
    }
}

/// Drivers to be loaded anew, each once for all the GPUs that wait for it, while nothing of any GPU of it is open.
fn reload_steps(plan: &Plan, observed: &HostInventory) -> Vec<Step> {
    let mut waiting: BTreeMap<(&String, u16), Vec<GpuAddress>> = BTreeMap::new();
    for (key, planned) in plan.gpus.iter().filter(|(key, _)| key.host == observed.host) {
        let count = planned.mode.partitions();
        if let (Some(driver), Some(count), true) =
            (&planned.reload, count, observed.gpus.contains_key(&key.address))
        {
            waiting.entry((driver, count)).or_default().push(key.address.clone());
        }
    }
    let is_free =
        |key: &GpuKey, gpu: &Gpu| !is_open(key, gpu, observed, plan) && !observed.is_stuck(&key.address);
    waiting
        .into_iter()
        .filter(|((driver, _), gpus)| {
            let stuck = gpus.iter().any(|gpu| observed.is_stuck(gpu));
            !stuck && reload::peers(driver, observed).all(|(key, gpu)| is_free(&key, gpu))
        })
        .map(|((driver, count), gpus)| Step::ReloadDriver { driver: driver.clone(), count, gpus })
        .collect()
}

fn gpu_steps(key: &GpuKey, planned: &GpuPlan, plan: &Plan, observed: &HostInventory) -> Vec<Step> {
    let Some(gpu) = observed.gpus.get(&key.address) else { return Vec::new() };
    let is_meant = planned.identity.may_be(&gpu.identity());
    if !is_meant || observed.is_stuck(&key.address) || planned.reload.is_some() {
        return Vec::new();
    }
    let in_use = || is_open(key, gpu, observed, plan);
    match &planned.mode {
        GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => {
            let count = planned.mode.partitions().unwrap_or_default();
            if is_passed_through(gpu) || has_lost_its_driver(planned, gpu) {
                return if in_use() { Vec::new() } else { return_and_split(planned, gpu, count) };
            }
            match gpu.backend {
                Some(Backend::SriovVfio) => vf_steps(planned, gpu, count, in_use),
                Some(Backend::TypedVf) => typed_steps(planned, gpu, count, in_use),
                Some(Backend::FixedVf) => bind_steps(gpu, count),
                Some(Backend::Mdev) => mdev_steps(key, planned, gpu, count),
                Some(Backend::VfMdev) => {
                    let vfs = gpu.vfs_for(count).and_then(|total| enabling(planned, gpu, total, in_use));
                    vfs.unwrap_or_else(|| mdev_steps(key, planned, gpu, count))
                }
                None => Vec::new(),
            }
        }
        GpuMode::Passthrough { .. } => {
            let mut due = unmake_partitions(planned, gpu, in_use);
            if !due.is_empty() || !has_partitions(gpu) {
                due.extend(take(gpu, in_use));
            }
            due
        }
        GpuMode::Host => {
            let undone = unmake_partitions(planned, gpu, in_use);
            let clean = undone.is_empty() && !has_partitions(gpu);
            let ours = clean && !is_given_back(planned, gpu);
            if ours && !in_use() { vec![give_back(planned, gpu)] } else { undone }
        }
    }
}

/// Virtual functions: the right number, each bound to the driver that hands it to a VM.
fn vf_steps(planned: &GpuPlan, gpu: &Gpu, count: u16, in_use: impl Fn() -> bool) -> Vec<Step> {
    enabling(planned, gpu, count, in_use).unwrap_or_else(|| bind_steps(gpu, count))
}

/// What brings about so many virtual functions; none if they are there.
fn enabling(planned: &GpuPlan, gpu: &Gpu, count: u16, in_use: impl Fn() -> bool) -> Option<Vec<Step>> {
    let address = || gpu.address.clone();
    let enabled = gpu.sriov.as_ref().map_or(0, |sriov| sriov.vfs);
    let there = gpu.partitions.len() + gpu.blanks.len();
    if enabled == count && (there >= usize::from(count) || in_use()) {
        return None;
    }
    let enable = Step::EnableVfs { gpu: address(), count };
    Some(match enabled {
        0 => vec![enable],
        _ if in_use() => Vec::new(),
        _ => vec![disable(planned, gpu), enable],
    })
}

/// Virtual functions that all exist, the first of them with the types that were decided.
fn typed_steps(planned: &GpuPlan, gpu: &Gpu, count: u16, in_use: impl Fn() -> bool) -> Vec<Step> {
    let (Some(_), Some(total)) = (planned.size_of(0), gpu.vfs_for(count)) else { return Vec::new() };
    if let Some(steps) = enabling(planned, gpu, total, &in_use) {
        return steps;
    }
    let mut due = bind_steps(gpu, count);
    // Which type it is cannot always be told. If there are as many as were decided, it is the one that was.
    let as_decided = gpu.partitions.len() == usize::from(count);
    let is_misfit = |partition: &ObservedPartition| {
        let decided = partition.index.filter(|index| *index < count).and_then(|index| planned.size_of(index));
        decided.is_none_or(|size| {
            partition.profile.as_ref().map_or(!as_decided, |profile| *profile != size.profile)
        })
    };
    // Sizes that differ have each their place: if one is wrong or missing, all are made anew, the largest first.
    let is_mixed = matches!(planned.mode, GpuMode::Mixed { .. });
    let switched = is_mixed || planned.was_mixed;
    let anew = switched && (!as_decided || gpu.partitions.iter().any(is_misfit)) && !in_use();
    let misfits: Vec<_> = gpu.partitions.iter().filter(|partition| anew || is_misfit(partition)).collect();
    due.extend(
        misfits.iter().filter(|partition| partition.open_by.is_empty()).filter_map(|p| untype(gpu, p)),
    );
    if misfits.iter().any(|partition| !partition.open_by.is_empty()) {
        return due;
    }
    // The driver takes this switch only while no function has a type, and forgets it with the functions.
    if switched && misfits.len() == gpu.partitions.len() {
        due.push(Step::SetMixedSizes { gpu: gpu.address.clone(), on: is_mixed });
    }
    let missing: BTreeMap<u16, PciAddress> = misfits
        .iter()
        .filter_map(|partition| Some((partition.index?, partition.vf()?)))
        .chain(gpu.blanks.iter().map(|blank| (blank.index, blank.address)))
        .collect();
    due.extend(missing.range(..count).filter_map(|(index, vf)| {
        let profile = Some(planned.size_of(*index)?.profile.clone());
        Some(Step::SetProfile { gpu: gpu.address.clone(), index: *index, vf: *vf, profile })
    }));
    due
}

/// Takes the type from a virtual function.
fn untype(gpu: &Gpu, partition: &ObservedPartition) -> Option<Step> {
    let (index, vf) = (partition.index?, partition.vf()?);
    Some(Step::SetProfile { gpu: gpu.address.clone(), index, vf, profile: None })
}

/// Partitions that are not bound to the driver that hands them to a VM.
fn bind_steps(gpu: &Gpu, count: u16) -> Vec<Step> {
    let partitions = gpu
        .partitions
        .iter()
        .filter_map(|partition| Some((partition.index?, partition.vf()?, &partition.driver)));
    let blanks = gpu.blanks.iter().map(|blank| (blank.index, blank.address, &blank.driver));
    partitions
        .chain(blanks)
        .filter(|(index, _, driver)| *index < count && driver.as_ref() != Some(&gpu.partition_driver))
        .map(|(index, vf, _)| Step::BindPartition {
            gpu: gpu.address.clone(),
            index,
            vf,
            driver: gpu.partition_driver.clone(),
        })
        .collect()
}

/// Mediated devices: those that are missing are made, those of ours that are too many or of another type are removed.
fn mdev_steps(key: &GpuKey, planned: &GpuPlan, gpu: &Gpu, count: u16) -> Vec<Step> {
    let Some(offer) = &planned.offer else { return Vec::new() };
    let mut due = Vec::new();
    let mut missing = Vec::new();
    for partition in &gpu.partitions {
        let (PartitionDevice::Mdev { uuid }, Some(index)) = (&partition.device, partition.index) else {
            continue;
        };
        let fits = index < count && partition.profile.as_deref() == Some(offer.profile.as_str());
        if !fits && partition.open_by.is_empty() {
            due.push(Step::RemoveMdev { gpu: key.address.clone(), uuid: *uuid });
        }
    }
    for index in 0..count {
        let exists = placement::partition(gpu, index)
            .is_some_and(|partition| partition.profile.as_deref() == Some(offer.profile.as_str()));
        if !exists {
            let uuid = mdev_uuid(key, index);
            missing.push(Step::CreateMdev {
                gpu: key.address.clone(),
                index,
                uuid,
                profile: offer.profile.clone(),
            });
        }
    }
    due.extend(missing);
    due
}

fn disable(planned: &GpuPlan, gpu: &Gpu) -> Step {
    Step::DisableVfs { gpu: gpu.address.clone(), autoprobe: !planned.autoprobe_was_off }
}

fn unmake_partitions(planned: &GpuPlan, gpu: &Gpu, in_use: impl Fn() -> bool) -> Vec<Step> {
    if !has_partitions(gpu) || in_use() {
        return Vec::new();
    }
    if gpu.backend == Some(Backend::FixedVf) {
        return Vec::new();
    }
    let address = || gpu.address.clone();
    let removals = gpu.partitions.iter().filter_map(|partition| match (&partition.device, partition.index) {
        (PartitionDevice::Mdev { uuid }, Some(_)) => Some(Step::RemoveMdev { gpu: address(), uuid: *uuid }),
        (PartitionDevice::Vf { .. }, _) if gpu.backend == Some(Backend::TypedVf) => untype(gpu, partition),
        _ => None,
    });
    let enabled = gpu.sriov.as_ref().is_some_and(|sriov| sriov.vfs > 0);
    removals.chain(enabled.then(|| disable(planned, gpu))).collect()
}

fn has_partitions(gpu: &Gpu) -> bool {
    !gpu.blanks.is_empty() || gpu.partitions.iter().any(|partition| partition.index.is_some())
}

fn take(gpu: &Gpu, in_use: impl Fn() -> bool) -> Vec<Step> {
    let functions = functions_of(gpu);
    let members = gpu.iommu_group.as_ref().map_or(&[][..], |group| &group.members);
    let all_taken = is_passed_through(gpu)
        && members.iter().filter(|m| !m.is_bridge()).all(|m| m.driver.as_deref() == Some(VFIO_DRIVER));
    if all_taken || in_use() {
        return Vec::new();
    }
    vec![Step::TakeGpu { gpu: gpu.address.clone(), functions }]
}

/// A GPU leaves passthrough to be split. Where its driver is needed to tell how, the rest follows with the next look.
fn return_and_split(planned: &GpuPlan, gpu: &Gpu, count: u16) -> Vec<Step> {
    let mut due = vec![give_back(planned, gpu)];
    if gpu.backend == Some(Backend::SriovVfio) {
        due.push(Step::EnableVfs { gpu: gpu.address.clone(), count });
    }
    due
}

fn give_back(planned: &GpuPlan, gpu: &Gpu) -> Step {
    let drivers = functions_of(gpu)
        .into_iter()
        .map(|function| (function, planned.host_drivers.get(&function).cloned()));
    Step::ReturnGpu { gpu: gpu.address.clone(), functions: drivers.collect() }
}

/// The functions that go along when a GPU is passed through: its group without bridges, itself at least.
fn functions_of(gpu: &Gpu) -> Vec<PciAddress> {
    let members = gpu.iommu_group.as_ref().map_or(&[][..], |group| &group.members);
    let mut functions: Vec<PciAddress> =
        members.iter().filter(|m| !m.is_bridge()).map(|m| m.address).collect();
    functions.extend(gpu.address.pci());
    functions.sort();
    functions.dedup();
    functions
}

/// Whether anything has the GPU or a partition of it open, or might: a domain that runs with it counts.
pub(crate) fn is_open(key: &GpuKey, gpu: &Gpu, observed: &HostInventory, plan: &Plan) -> bool {
    let held_open =
        gpu.partitions.iter().any(|partition| !partition.open_by.is_empty()) || !gpu.open_by.is_empty();
    let unknown = observed.domains().is_none() && !users_of(key, gpu, observed, plan).is_empty();
    let sources: Vec<DeviceSource> = gpu
        .partitions
        .iter()
        .map(|partition| DeviceSource::from(&partition.device))
        .chain(gpu.address.pci().map(|address| DeviceSource::Pci { address }))
        .collect();
    let in_domain = observed.domains().into_iter().flat_map(BTreeMap::values).any(|domain| {
        domain.state.is_active() && domain.live_devices.iter().any(|device| sources.contains(&device.source))
    });
    held_open || unknown || in_domain
}

// VMs.

fn vm_steps(
    name: &VmName,
    planned: &VmPlan,
    spec: &Spec,
    plan: &Plan,
    observed: &HostInventory,
) -> Vec<Step> {
    let Some(domains) = observed.domains() else { return Vec::new() };
    let domain = domains.get(name.as_str());
    if domain.is_some_and(|domain| domain.uuid != planned.id.0) {
        return Vec::new();
    }
    let (vm, id) = (name.clone(), planned.id);
    if let Some(journey) = planned.open_journey() {
        return journey_steps((name, planned), journey, observed, (domain, spec));
    }
    if let Some(parting) = planned.open_parting() {
        return parting_steps((name, planned), parting, observed, (domain, spec));
    }
    if let Some(awaited) = &planned.awaited {
        return awaited_steps((name, planned), awaited, observed, (domain, spec));
    }
    if let Some(left_over) = call_off((name, planned), observed) {
        return vec![left_over];
    }
    if domain.is_some_and(|domain| domain.state == DomainState::Arriving) {
        // Nobody sends it any more. What is moved by hand to where it was, is left alone.
        let is_by_hand = planned.settled.as_ref().is_some_and(|settled| settled.rests.is_some());
        return if is_by_hand { Vec::new() } else { vec![Step::KillVm { vm, id }] };
    }
    if planned.goal != VmGoal::Leave && is_copy(name, domain, planned.settled.as_ref(), spec) {
        return vec![Step::KillVm { vm, id }];
    }
    let active = domain.is_some_and(|domain| domain.state.is_active());
    let shutting_down = domain.is_some_and(|domain| domain.state == DomainState::ShuttingDown);
    match (planned.goal, active) {
        (VmGoal::Leave, _) | (VmGoal::Run, true) => Vec::new(),
        (VmGoal::Cycle | VmGoal::Reset, false) => Vec::new(),
        (VmGoal::Run, false) if is_at_rest(name, planned, spec, observed, domain) => Vec::new(),
        (VmGoal::Run, false) => start_steps(name, planned, spec, plan, observed, domain),
        (VmGoal::Move, true) if planned.leaving.is_some_and(|leaving| leaving.forced) => {
            vec![Step::KillVm { vm, id }]
        }
        (VmGoal::Cycle | VmGoal::Stop | VmGoal::Move | VmGoal::Remove, true) if shutting_down => Vec::new(),
        (VmGoal::Cycle | VmGoal::Stop | VmGoal::Move, true) => vec![Step::ShutDownVm { vm, id }],
        (VmGoal::Reset | VmGoal::Kill | VmGoal::Remove, true) => vec![Step::KillVm { vm, id }],
        (VmGoal::Stop | VmGoal::Kill | VmGoal::Move, false) => clear_devices(name, planned, domain),
        (VmGoal::Remove, false) => {
            // One that was forgotten while this host was down has no wish any more; only one that was made is to be removed.
            let made = spec.vms.get(name).is_none_or(|spec| matches!(spec.source, VmSource::Made(_)));
            match domain {
                Some(_) if made => vec![Step::UndefineVm { vm, id }],
                None if observed.progress.expects.contains(name) => vec![Step::UndefineVm { vm, id }],
                _ => clear_devices(name, planned, domain),
            }
        }
    }
}

/// Whether a VM went off since it was seen running, and somebody meant it. What was decided before that does not start it again: a
/// guest could never turn itself off, and one that was moved by hand would run twice. That it shall start all the same, the
/// planner says by having seen it off.
fn is_at_rest(
    name: &VmName,
    planned: &VmPlan,
    spec: &Spec,
    observed: &HostInventory,
    domain: Option<&Domain>,
) -> bool {
    let wish = spec.vms.get(name);
    wish.is_some_and(|wish| rests(planned, wish, domain, Some(&observed.boot_id)).is_some())
}

/// A definition that is off holds no device of ours: whoever starts it by hand must not collide with the next holder.
fn clear_devices(name: &VmName, planned: &VmPlan, domain: Option<&Domain>) -> Vec<Step> {
    let has_ours = domain.is_some_and(|domain| domain.defined_devices.iter().any(|device| device.ours));
    if has_ours {
        vec![Step::PutDevices { vm: name.clone(), id: planned.id, devices: Vec::new(), near: None }]
    } else {
        Vec::new()
    }
}

fn start_steps(
    name: &VmName,
    planned: &VmPlan,
    spec: &Spec,
    plan: &Plan,
    observed: &HostInventory,
    domain: Option<&Domain>,
) -> Vec<Step> {
    let Some(devices) = ready_devices(name, plan, observed) else { return Vec::new() };
    // It may be started elsewhere on the word of the watchdog, so that word is given first.
    if observed.progress.guard == Guard::Ready && shall_arm(spec, plan, &observed.host) {
        return Vec::new();
    }
    let (vm, id) = (name.clone(), planned.id);
    let mut due = Vec::new();
    if domain.is_none() {
        let Some(VmSource::Made(hardware)) = spec.vms.get(name).map(|spec| &spec.source) else {
            return Vec::new();
        };
        due.push(Step::DefineVm { vm: vm.clone(), id, hardware: Box::new(hardware.clone()) });
    }
    let defined = domain.map(|domain| domain.defined_devices.as_slice()).unwrap_or_default();
    let mut have: Vec<&DeviceSource> =
        defined.iter().filter(|device| device.ours).map(|device| &device.source).collect();
    let mut want: Vec<&DeviceSource> = devices.iter().map(|device| &device.source).collect();
    have.sort();
    want.sort();
    if have != want {
        let near = near(name, spec, plan, observed);
        due.push(Step::PutDevices { vm: vm.clone(), id, devices, near });
    }
    due.push(Step::StartVm { vm, id });
    due
}

/// The NUMA node of all that a VM holds, if the host has others and the VM fits there. What an owner's definition says about
/// that is the owner's.
fn near(name: &VmName, spec: &Spec, plan: &Plan, observed: &HostInventory) -> Option<Near> {
    let VmSource::Made(hardware) = &spec.vms.get(name)?.source else { return None };
    let nodes = &observed.system.numa;
    let node_of = |slot: &SlotKey| observed.gpus.get(&slot.gpu.address)?.numa_node;
    let here = plan.held_by(name).filter(|(slot, _)| slot.gpu.host == observed.host);
    let mut held = here.map(|(slot, _)| node_of(slot));
    let first = held.next()??;
    let is_one = nodes.len() > 1 && held.all(|other| other == Some(first));
    let node = nodes.iter().find(|node| is_one && node.id == first)?;
    let fits = hardware.vcpus <= node.cpu_count && hardware.memory_mib <= node.memory_mib;
    fits.then(|| Near { node: node.id, cpus: node.cpus.clone() })
}

/// Whether a host's watchdog shall be armed: something protected runs there, or is about to.
pub fn shall_arm(spec: &Spec, plan: &Plan, host: &HostName) -> bool {
    let is_protected = |(name, planned): (&VmName, &VmPlan)| {
        let wish = spec.vms.get(name);
        let goes_there = || planned.open_journey().is_some_and(|journey| &journey.other == host);
        (&planned.host == host || goes_there())
            && wish.is_some_and(|wish| wish.availability.failover == Failover::Restart)
            && !(matches!(planned.goal, VmGoal::Stop | VmGoal::Kill | VmGoal::Remove)
                && planned.settled.as_ref().is_some_and(|settled| !settled.running))
    };
    !spec.hosts.is_empty() && !spec.policy.failover.paused && plan.vms.iter().any(is_protected)
}

/// The devices of everything that a VM holds on a host, if all of it is ready.
pub(crate) fn ready_devices(name: &VmName, plan: &Plan, observed: &HostInventory) -> Option<Vec<VmDevice>> {
    let mut devices = Vec::new();
    for (slot, _) in plan.held_by(name).filter(|(slot, _)| slot.gpu.host == observed.host) {
        if placement::unready(slot, plan, observed).is_some() || observed.is_stuck(&slot.gpu.address) {
            return None;
        }
        let gpu = observed.gpus.get(&slot.gpu.address)?;
        match slot.slot {
            Slot::Partition(index) => {
                let partition = placement::partition(gpu, index)?;
                devices.push(VmDevice { source: (&partition.device).into(), mmio_mib: partition.mmio_mib });
            }
            Slot::Whole => devices.extend(whole_devices(gpu)),
        }
    }
    Some(devices)
}

fn whole_devices(gpu: &Gpu) -> Vec<VmDevice> {
    let mmio_mib: u64 =
        gpu.bars.iter().filter(|bar| bar.is_64bit).map(|bar| bar.size_bytes.div_ceil(1 << 20)).sum();
    let own = gpu.address.pci();
    functions_of(gpu)
        .into_iter()
        .map(|address| VmDevice {
            source: DeviceSource::Pci { address },
            mmio_mib: if Some(address) == own { mmio_mib } else { 0 },
        })
        .collect()
}

/// The GPUs of a host that a plan still has to bring into their mode, with the steps for them: what is restored after a
/// reboot before any VM may start.
pub fn gpus_to_restore(
    spec: &Spec,
    plan: &Plan,
    observed: &HostInventory,
) -> BTreeMap<GpuAddress, Vec<Step>> {
    let mut due: BTreeMap<GpuAddress, Vec<Step>> = BTreeMap::new();
    for step in steps(spec, plan, observed) {
        if let StepSubject::Gpu(gpu) = step.subject() {
            due.entry(gpu).or_default().push(step);
        }
    }
    due
}
