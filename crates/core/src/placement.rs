//! Placement: which host, which GPU and which partition a VM gets.
//!
//! A person never picks a partition; this room does. Host, GPU and partition are chosen together: among the slots that
//! fit, the best score wins and ties go to the lowest address, so the same input always gives the same answer. [`Index`]
//! finds it, [`Board`] knows whom for. What makes a slot unfit is told by [`obstacles`], which `why-not` prints in full.

mod batch;
mod board;
mod ground;
mod groups;
mod index;
mod reach;
mod room;
mod rules;
mod shelf;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::board::turn;
pub use self::board::{Board, Move, waiting_order};
pub use self::ground::{Closed, Ground, closed};
pub use self::groups::HostSet;
pub use self::index::{Ask, HostId, Index, Place, Stock};
pub use self::room::{GpuRoom, HostRoom, Kind, SlotSet, UNCOUNTED};
pub use self::rules::{Whereabouts, broken, forbids, likes};
pub(crate) use self::tally::Tally;

use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::inventory::{
    Backend, DeviceSource, Gpu, HealthState, HostInventory, ObservedPartition, Offer, PartitionDevice,
};
use crate::name::{GpuKey, HostName, Slot, SlotKey};
use crate::plan::{GpuPlan, Plan};
use crate::spec::{GpuMode, Request};
use crate::step::VFIO_DRIVER;

/// What each host's devices are used for.
pub type UsesByHost = BTreeMap<HostName, Uses>;

/// Who uses which device of a host, by what was observed.
#[derive(Debug, Clone, Default)]
pub struct Uses(BTreeMap<DeviceSource, Vec<String>>);

impl Uses {
    /// Reads which domains name which devices, running or in their stored definition.
    pub fn of(observed: &HostInventory) -> Self {
        let mut uses: BTreeMap<DeviceSource, Vec<String>> = BTreeMap::new();
        for domain in observed.domains().into_iter().flat_map(BTreeMap::values) {
            let devices: BTreeSet<&DeviceSource> = domain
                .live_devices
                .iter()
                .chain(&domain.defined_devices)
                .map(|device| &device.source)
                .collect();
            for device in devices {
                uses.entry(device.clone()).or_default().push(format!("domain {}", domain.name));
            }
        }
        Self(uses)
    }

    /// Whether anybody uses a slot.
    pub fn is_used(&self, slot: Slot, gpu: &Gpu) -> bool {
        source_of(slot, gpu).is_some_and(|source| self.0.contains_key(&source))
            || !holders_of(slot, gpu).is_empty()
    }

    /// Who uses a slot: the domains that name it, else the processes that have it open.
    pub fn users(&self, slot: Slot, gpu: &Gpu) -> Vec<String> {
        let domains = source_of(slot, gpu).and_then(|source| self.0.get(&source));
        match domains {
            Some(domains) => domains.clone(),
            None => holders_of(slot, gpu).iter().map(say::describe_holder).collect(),
        }
    }
}

fn holders_of(slot: Slot, gpu: &Gpu) -> &[crate::inventory::Holder] {
    match slot {
        Slot::Partition(index) => partition(gpu, index).map_or(&[][..], |partition| &partition.open_by),
        Slot::Whole => &gpu.open_by,
    }
}

/// The slots that a GPU has by what was decided for it.
pub fn decided_slots(gpu: &GpuKey, plan: &Plan) -> Vec<Slot> {
    slots_of(plan.mode(gpu))
}

fn slots_of(mode: &GpuMode) -> Vec<Slot> {
    match mode {
        GpuMode::Host => Vec::new(),
        GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => {
            (0..mode.partitions().unwrap_or_default()).map(Slot::Partition).collect()
        }
        GpuMode::Passthrough { .. } => vec![Slot::Whole],
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
    let is_it = |partition: &&ObservedPartition| partition.index == Some(index);
    // As a rule each stands at its index.
    gpu.partitions.get(usize::from(index)).filter(is_it).or_else(|| gpu.partitions.iter().find(is_it))
}

/// Why a slot does not serve a request, apart from being taken. Empty means that it does.
///
/// A slot whose partition does not exist yet serves: it is made before the VM starts.
pub fn obstacles(slot: &SlotKey, request: &Request, observed: &HostInventory, plan: &Plan) -> Vec<Finding> {
    let key = &slot.gpu;
    let Some(gpu) = observed.gpus.get(&key.address) else {
        let stuck = observed.unseen_because_of(&key.address);
        return vec![stuck.map_or_else(|| say::gpu_gone(key), |stuck| say::call_stuck(key, &stuck.call))];
    };
    let Some(planned) = plan.gpus.get(key) else {
        return vec![say::mode_conflict(key, "in mode host", "given to a VM")];
    };
    let mut found = gpu_obstacles(key, planned, gpu, observed);
    found.extend(request_obstacle(key, slot.slot, planned, request));
    found.extend(group_obstacle(slot, gpu));
    found
}

/// Why nothing of a GPU can serve anybody.
fn gpu_obstacles(key: &GpuKey, planned: &GpuPlan, gpu: &Gpu, observed: &HostInventory) -> Vec<Finding> {
    let mut found = Vec::new();
    if !planned.identity.may_be(&gpu.identity()) {
        found.push(say::hardware_changed(key, &planned.identity, &gpu.identity()));
    }
    if gpu.health.state != HealthState::Good {
        found.push(say::gpu_sick(key, &gpu.health));
    }
    let stuck = observed.stuck.iter().filter(|call| call.gpu.as_ref() == Some(&key.address));
    found.extend(stuck.map(|call| say::call_stuck(key, &call.call)));
    found
}

/// Why a slot, as its GPU was decided to be used, does not serve a request.
pub(crate) fn request_obstacle(
    key: &GpuKey,
    slot: Slot,
    planned: &GpuPlan,
    request: &Request,
) -> Option<Finding> {
    match (request, &planned.mode) {
        (_, GpuMode::Host) => Some(say::mode_conflict(key, "in mode host", "given to a VM")),
        (Request::Partition { .. }, GpuMode::Partitioned { .. } | GpuMode::Mixed { .. }) => {
            (!slot_fits(request, slot, planned)).then(|| say::not_of_size(key, &planned.distinct_sizes()))
        }
        (Request::Whole { .. }, GpuMode::Partitioned { .. } | GpuMode::Mixed { .. }) => {
            Some(say::mode_conflict(key, "partitioned", "passed through"))
        }
        (Request::Partition { .. }, GpuMode::Passthrough { .. }) => {
            Some(say::mode_conflict(key, "passed through", "partitioned"))
        }
        (Request::Whole { pool, .. }, GpuMode::Passthrough { pool: own, .. }) => {
            let wanted = pool.as_ref().filter(|wanted| Some(*wanted) != own.as_ref())?;
            Some(say::pool_mismatch(key, wanted, own.as_ref()))
        }
        (Request::None, _) => None,
    }
}

/// Why a partition cannot be isolated: other functions in its IOMMU group would go along.
pub fn group_obstacle(slot: &SlotKey, gpu: &Gpu) -> Option<Finding> {
    let Slot::Partition(index) = slot.slot else { return None };
    let partition = partition(gpu, index)?;
    let PartitionDevice::Vf { address } = partition.device else { return None };
    let group = partition.iommu_group.as_ref()?;
    let is_other = |member: &&crate::inventory::GroupMember| member.address != address && !member.is_bridge();
    let others: Vec<_> = group.members.iter().filter(is_other).map(|member| member.address).collect();
    (!others.is_empty()).then(|| say::group_shared(Subject::Partition(slot.clone()), group.id, &others))
}

/// Whether a partition is of a size that serves a request. Where sizes differ, more memory than was asked for serves too.
fn slot_fits(request: &Request, slot: Slot, planned: &GpuPlan) -> bool {
    let Slot::Partition(index) = slot else { return false };
    let Some(size) = planned.size_of(index) else { return false };
    match (request, &planned.mode) {
        (Request::Partition { vram_mib: Some(wanted), profile }, GpuMode::Mixed { .. }) => {
            let of_profile = Request::Partition { vram_mib: None, profile: profile.clone() };
            size.vram_mib.is_some_and(|has| has >= *wanted) && size_fits(&of_profile, size)
        }
        _ => size_fits(request, size),
    }
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

/// Whether a partition is gone although its GPU counts it (it was unplugged), or does not answer any more.
pub fn is_lost(slot: Slot, planned: &GpuPlan, gpu: &Gpu) -> bool {
    let (Slot::Partition(index), Some(count)) = (slot, planned.mode.partitions()) else { return false };
    // The index of a mediated device is no function's.
    let numbered = !matches!(gpu.backend, Some(Backend::Mdev | Backend::VfMdev));
    let is_blank = gpu.blanks.iter().any(|blank| blank.index == index);
    let all_there = numbered && gpu.sriov.as_ref().is_some_and(|sriov| Some(sriov.vfs) == gpu.vfs_for(count));
    match partition(gpu, index) {
        Some(partition) => !partition.answers,
        None => all_there && !is_blank,
    }
}

/// Why a slot cannot be handed to a VM at this moment. None means that it can.
///
/// A GPU whose partitions are not those that were decided is about to be remade: what exists of it now is not what was
/// booked, even if it has the same address.
pub fn unready(slot: &SlotKey, plan: &Plan, observed: &HostInventory) -> Option<String> {
    let Some(gpu) = observed.gpus.get(&slot.gpu.address) else {
        return Some("its GPU is not there".to_owned());
    };
    match slot.slot {
        Slot::Partition(index) => unready_partition(slot, index, gpu, plan),
        Slot::Whole => {
            let bound = |driver: &Option<String>| driver.as_deref() == Some(VFIO_DRIVER);
            let members = gpu.iommu_group.as_ref().map_or(&[][..], |group| &group.members);
            let free =
                members.iter().filter(|member| !member.is_bridge()).all(|member| bound(&member.driver));
            (!free || !bound(&gpu.driver))
                .then(|| format!("its functions are not all bound to {VFIO_DRIVER} yet"))
        }
    }
}

fn unready_partition(slot: &SlotKey, index: u16, gpu: &Gpu, plan: &Plan) -> Option<String> {
    let planned = plan.gpus.get(&slot.gpu);
    let remade = planned.and_then(|planned| planned.mode.partitions()).is_none_or(|count| {
        gpu.vfs_for(count).is_some_and(|vfs| gpu.sriov.as_ref().map(|sriov| sriov.vfs) != Some(vfs))
    });
    let offer = planned.and_then(|planned| planned.size_of(index));
    if planned.is_some_and(|planned| planned.reload.is_some()) {
        return Some("its GPU's driver is to be loaded anew first".to_owned());
    }
    let Some(partition) = partition(gpu, index) else { return Some("it does not exist yet".to_owned()) };
    let of_type = partition.profile.as_ref() == offer.map(|offer| &offer.profile);
    let driver = &gpu.partition_driver;
    if remade {
        Some("its GPU is being split anew".to_owned())
    } else if !partition.answers {
        Some("it does not answer".to_owned())
    } else if partition.vf().is_some() && partition.driver.as_ref() != Some(driver) {
        Some(format!("it is not bound to {driver} yet"))
    } else if (partition.profile.is_some() || gpu.backend == Some(Backend::Mdev)) && !of_type {
        Some("it is of another type than decided".to_owned())
    } else {
        None
    }
}
