//! Placement: which GPU and which partition a VM gets.
//!
//! A person never picks a partition; this room does. Among the slots that fit, the best score wins and ties go to the
//! lowest address, so the same input always gives the same answer. What makes a slot unfit is told by [`obstacles`],
//! which `why-not` prints in full.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::inventory::{
    Backend, DeviceSource, Gpu, HostInventory, Inventory, IommuGroup, ObservedPartition, Offer,
    PartitionDevice,
};
use crate::name::{GpuKey, HostName, Slot, SlotKey, VmName};
use crate::plan::Plan;
use crate::spec::{GpuMode, PlacementPolicy, Request, VmSpec};
use crate::step::VFIO_DRIVER;

/// Slots for a request: as many as it asks for.
///
/// `only_host` confines the search, for VMs that belong to a host already.
///
/// # Errors
/// The findings that say why there is no room.
pub fn place(
    vm: (&VmName, &VmSpec),
    only_host: Option<&HostName>,
    policy: PlacementPolicy,
    inventory: &Inventory,
    plan: &Plan,
) -> Result<Vec<SlotKey>, Vec<Finding>> {
    let (name, spec) = vm;
    let needed = spec.request.slots();
    if needed == 0 {
        return Ok(Vec::new());
    }
    let mut best: Option<(Score, Vec<SlotKey>)> = None;
    for (host, observed) in inventory.iter().filter(|(host, _)| only_host.is_none_or(|only| only == *host)) {
        let mut candidates = free_slots(host, observed, plan, spec, policy);
        candidates.sort();
        if candidates.len() < needed {
            continue;
        }
        candidates.truncate(needed);
        let score = candidates[0].0;
        if best.as_ref().is_none_or(|(other, _)| score < *other) {
            best = Some((score, candidates.into_iter().map(|(_, slot)| slot).collect()));
        }
    }
    best.map(|(_, slots)| slots).ok_or_else(|| vec![no_room(name, spec, inventory, plan)])
}

/// How good a slot is: less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Whether the GPU is off the NUMA node that the VM prefers.
    far: bool,
    /// Free slots on the GPU (pack), or the most possible less those (spread).
    crowding: usize,
}

/// The slots of a host that fit a VM and are free, each with its score: one a GPU, the lowest index.
fn free_slots(
    host: &HostName,
    observed: &HostInventory,
    plan: &Plan,
    spec: &VmSpec,
    policy: PlacementPolicy,
) -> Vec<(Score, SlotKey)> {
    let taken = Taken::on(host, observed, plan);
    let mut slots = Vec::new();
    for (address, gpu) in &observed.gpus {
        let key = GpuKey { host: host.clone(), address: address.clone() };
        let free: Vec<Slot> = decided_slots(&key, plan)
            .into_iter()
            .filter(|slot| !taken.contains(&key, *slot, gpu))
            .filter(|slot| obstacles(&key, *slot, &spec.request, observed, plan).is_empty())
            .collect();
        let Some(first) = free.first() else { continue };
        let far = spec.prefer_numa_node.is_some_and(|node| gpu.numa_node != Some(node));
        let crowding = match policy {
            PlacementPolicy::Pack => free.len(),
            PlacementPolicy::Spread => usize::from(u16::MAX) - free.len(),
        };
        slots.push((Score { far, crowding }, SlotKey { gpu: key, slot: *first }));
    }
    slots
}

/// The slots that a GPU has by what was decided for it.
pub fn decided_slots(gpu: &GpuKey, plan: &Plan) -> Vec<Slot> {
    match plan.mode(gpu) {
        GpuMode::Host => Vec::new(),
        GpuMode::Partitioned { count, .. } => (0..*count).map(Slot::Partition).collect(),
        GpuMode::Passthrough { .. } => vec![Slot::Whole],
    }
}

/// Who has what on a host: bookings, and everything that anybody else uses.
#[derive(Debug)]
pub struct Taken {
    booked: BTreeSet<SlotKey>,
    foreign: BTreeMap<DeviceSource, Vec<String>>,
}

impl Taken {
    /// Reads bookings and observed use of one host.
    pub fn on(host: &HostName, observed: &HostInventory, plan: &Plan) -> Self {
        let booked = plan.bookings.keys().filter(|slot| &slot.gpu.host == host).cloned().collect();
        let mut foreign: BTreeMap<DeviceSource, Vec<String>> = BTreeMap::new();
        for domain in observed.domains().into_iter().flat_map(BTreeMap::values) {
            let devices: BTreeSet<_> = domain
                .live_devices
                .iter()
                .chain(&domain.defined_devices)
                .map(|device| &device.source)
                .collect();
            for device in devices {
                foreign.entry(device.clone()).or_default().push(format!("domain {}", domain.name));
            }
        }
        Self { booked, foreign }
    }

    /// Whether a slot is booked, or used by anybody.
    pub fn contains(&self, gpu: &GpuKey, slot: Slot, observed: &Gpu) -> bool {
        self.booked.contains(&SlotKey { gpu: gpu.clone(), slot }) || !self.users(slot, observed).is_empty()
    }

    /// Who uses a slot by what was observed: domains that name it, and processes that have it open.
    pub fn users(&self, slot: Slot, observed: &Gpu) -> Vec<String> {
        let Some(source) = source_of(slot, observed) else { return Vec::new() };
        let domains = self.foreign.get(&source).cloned().unwrap_or_default();
        if !domains.is_empty() {
            return domains;
        }
        let holders = match slot {
            Slot::Partition(index) => {
                partition(observed, index).map_or(&[][..], |partition| &partition.open_by)
            }
            Slot::Whole => &observed.open_by,
        };
        holders.iter().map(say::describe_holder).collect()
    }
}

/// The device behind a slot, as far as it exists.
pub fn source_of(slot: Slot, gpu: &Gpu) -> Option<DeviceSource> {
    match slot {
        Slot::Partition(index) => {
            partition(gpu, index).map(|partition| DeviceSource::from(&partition.device))
        }
        Slot::Whole => gpu.address.pci().map(|address| DeviceSource::Pci { address }),
    }
}

/// The partition with an index, if it exists.
pub fn partition(gpu: &Gpu, index: u16) -> Option<&ObservedPartition> {
    gpu.partitions.iter().find(|partition| partition.index == Some(index))
}

/// Why a slot does not serve a request, apart from being taken. Empty means that it does.
///
/// A slot whose partition does not exist yet serves: it is made before the VM starts.
pub fn obstacles(
    gpu: &GpuKey,
    slot: Slot,
    request: &Request,
    observed: &HostInventory,
    plan: &Plan,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let Some(seen) = observed.gpus.get(&gpu.address) else { return vec![say::gpu_gone(gpu)] };
    let Some(planned) = plan.gpus.get(gpu) else {
        return vec![say::mode_conflict(gpu, "in mode host", "given to a VM")];
    };
    if planned.identity != seen.ids {
        found.push(say::hardware_changed(gpu, planned.identity, seen.ids));
    }
    for call in observed.stuck.iter().filter(|call| call.gpu.as_ref() == Some(&gpu.address)) {
        found.push(say::call_stuck(gpu, &call.call));
    }
    match (request, slot) {
        (Request::Partition { .. }, Slot::Partition(index)) => {
            let fits = planned.offer.as_ref().is_some_and(|offer| size_fits(request, offer));
            if !fits {
                found.push(say::not_of_size(gpu, planned.offer.as_ref()));
            }
            let subject = || Subject::Partition(SlotKey { gpu: gpu.clone(), slot });
            let shared = partition(seen, index).and_then(|partition| shared_group(partition, subject()));
            found.extend(shared);
        }
        (Request::Whole { .. }, Slot::Whole) => {}
        (Request::Whole { .. }, Slot::Partition(_)) => {
            found.push(say::mode_conflict(gpu, "partitioned", "passed through"))
        }
        (Request::Partition { .. }, Slot::Whole) => {
            found.push(say::mode_conflict(gpu, "passed through", "partitioned"))
        }
        (Request::None, _) => {}
    }
    found
}

/// Whether an offer's partitions are of the size that is asked for.
pub fn size_fits(request: &Request, offer: &Offer) -> bool {
    match request {
        Request::Partition { vram_mib, profile } => {
            vram_mib.is_none_or(|wanted| offer.vram_mib == Some(wanted))
                && profile.as_ref().is_none_or(|wanted| &offer.profile == wanted)
        }
        Request::None | Request::Whole { .. } => true,
    }
}

fn shared_group(partition: &ObservedPartition, subject: Subject) -> Option<Finding> {
    let PartitionDevice::Vf { address } = partition.device else { return None };
    let group: &IommuGroup = partition.iommu_group.as_ref()?;
    let others: Vec<_> = group
        .members
        .iter()
        .filter(|member| member.address != address && !member.is_bridge())
        .map(|m| m.address)
        .collect();
    (!others.is_empty()).then(|| say::group_shared(subject, group.id, &others))
}

/// Why a slot cannot be handed to a VM at this moment. None means that it can.
///
/// A GPU whose partitions are not those that were decided is about to be remade: what exists of it now is not what was
/// booked, even if it has the same address.
pub fn unready(slot: &SlotKey, plan: &Plan, observed: &HostInventory) -> Option<String> {
    let Some(gpu) = observed.gpus.get(&slot.gpu.address) else {
        return Some("its GPU is not there".to_owned());
    };
    let bound = |driver: &Option<String>| driver.as_deref() == Some(VFIO_DRIVER);
    match slot.slot {
        Slot::Partition(index) => {
            let enabled = gpu.sriov.as_ref().map(|sriov| sriov.vfs);
            let remade = match plan.mode(&slot.gpu) {
                GpuMode::Partitioned { count, .. } => {
                    gpu.backend == Some(Backend::SriovVfio) && enabled != Some(*count)
                }
                GpuMode::Host | GpuMode::Passthrough { .. } => true,
            };
            let offer = plan.gpus.get(&slot.gpu).and_then(|planned| planned.offer.as_ref());
            match partition(gpu, index) {
                None => Some("it does not exist yet".to_owned()),
                Some(_) if remade => Some("its GPU is being split anew".to_owned()),
                Some(ObservedPartition { device: PartitionDevice::Vf { .. }, driver, .. })
                    if !bound(driver) =>
                {
                    Some(format!("it is not bound to {VFIO_DRIVER} yet"))
                }
                Some(ObservedPartition { device: PartitionDevice::Mdev { .. }, profile, .. })
                    if profile.as_ref() != offer.map(|offer| &offer.profile) =>
                {
                    Some("it is of another type than decided".to_owned())
                }
                Some(_) => None,
            }
        }
        Slot::Whole => {
            let members = gpu.iommu_group.as_ref().map_or(&[][..], |group| &group.members);
            let free =
                members.iter().filter(|member| !member.is_bridge()).all(|member| bound(&member.driver));
            (!free || !bound(&gpu.driver))
                .then(|| format!("its functions are not all bound to {VFIO_DRIVER} yet"))
        }
    }
}

/// The finding for a request that has no room: no such size, or all taken.
fn no_room(name: &VmName, spec: &VmSpec, inventory: &Inventory, plan: &Plan) -> Finding {
    let mut total = 0;
    let mut in_use = 0;
    let mut other_sizes = Vec::new();
    for (host, observed) in inventory {
        let taken = Taken::on(host, observed, plan);
        for (address, gpu) in &observed.gpus {
            let key = GpuKey { host: host.clone(), address: address.clone() };
            let slots = decided_slots(&key, plan);
            let fitting: Vec<_> = slots
                .iter()
                .filter(|slot| obstacles(&key, **slot, &spec.request, observed, plan).is_empty())
                .collect();
            total += fitting.len();
            in_use += fitting.iter().filter(|slot| taken.contains(&key, ***slot, gpu)).count();
            if fitting.is_empty() && slots.iter().any(|slot| matches!(slot, Slot::Partition(_))) {
                other_sizes.extend(plan.gpus.get(&key).and_then(|planned| planned.offer.clone()));
            }
        }
    }
    match &spec.request {
        Request::Partition { vram_mib, profile }
            if total == 0 && (vram_mib.is_some() || profile.is_some()) =>
        {
            let mut wanted: Vec<String> = profile.iter().cloned().collect();
            wanted.extend(vram_mib.map(|mib| format!("{mib} MiB")));
            say::size_mismatch(name, &wanted.join(", "), &other_sizes)
        }
        request => say::no_room(name, request, in_use, total),
    }
}
