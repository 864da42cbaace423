//! GPUs, as people see them.

use std::fmt;

use serde::{Deserialize, Serialize};
use tranche_core::finding::Finding;
use tranche_core::inventory::{
    AerCounters, Backend, Gpu, GroupMember, Health, HealthState, HostInventory, Iommu, Offer, Telemetry,
};
use tranche_core::mixed::MixedSize;
use tranche_core::name::{GpuAddress, GpuKey, HostName, PciIds, Slot, SlotKey, VmName};
use tranche_core::placement::{self, Uses};
use tranche_core::spec::GpuMode;

use super::migration::MigrationView;
use super::partition::{PartitionState, states_of};
use super::{Sources, UsesOfHost};

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GpuView {
    /// The host that it is in.
    pub host: HostName,
    /// Where it is on that host.
    pub address: GpuAddress,
    /// Its name, or its ids where the catalogue has none.
    pub model: String,
    /// Vendor, device and subsystem.
    pub ids: PciIds,
    /// The vendor's UUID or a serial number, where something tells.
    pub unique_id: Option<String>,
    /// The board that it shares with other GPUs: the same text for each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// A stand-in of the virtual lab.
    pub emulated: bool,
    /// What it was decided to be used for.
    pub mode: GpuMode,
    /// What somebody asked it to be used for; it differs from `mode` until the change could be decided.
    pub asked_mode: GpuMode,
    /// What it can be used for, or is.
    pub status: GpuStatus,
    /// Partitions that were decided; none in other modes.
    pub count: Option<u16>,
    /// The partitionings that its driver offers.
    pub valid_counts: Vec<Offer>,
    /// The profiles that it can have beside each other; empty where all its partitions are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixed: Vec<MixedSize>,
    /// What a VM could get now: free partitions, or 1 for a whole GPU in passthrough.
    pub free: usize,
    /// What VMs could get at most in this mode.
    pub total: usize,
    /// VMs that hold a partition of it, or all of it.
    pub vms: Vec<VmName>,
    /// Video memory in MiB, where known.
    pub vram_mib: Option<u64>,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its NUMA node, where the firmware tells.
    pub numa_node: Option<u16>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// The other functions in that group.
    pub group_members: Vec<GroupMember>,
    /// How it makes partitions, if it can.
    pub backend: Option<Backend>,
    /// Whether the firmware's console is on it.
    pub console: bool,
    /// How the kernel can reset it, in order of preference.
    pub reset_methods: Vec<String>,
    /// Error counters, where the device has them.
    pub aer: Option<AerCounters>,
    /// How it fares; none while it is not there.
    pub health: Option<Health>,
    /// What its driver measures, where a library of its vendor tells: serial number, firmware, ECC, load, memory.
    pub telemetry: Option<Telemetry>,
    /// What live migration of VMs with its partitions rests on; none while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationView>,
    /// What was found about it and its partitions.
    pub findings: Vec<Finding>,
}

/// What a GPU can be used for, or is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GpuStatus {
    /// It serves the host and can be partitioned.
    Partitionable,
    /// It serves the host; whole it can be given to a VM, partitioned it cannot be.
    Assignable,
    /// It is partitioned as decided.
    Partitioned,
    /// It is bound for passthrough and no VM has it.
    ReadyForPassthrough,
    /// A VM has all of it.
    PassedThrough,
    /// It is on its way from one mode to another.
    Changing,
    /// It has SR-IOV, which firmware or driver keep off.
    SriovOff,
    /// It cannot be given to a VM in any way: there is no IOMMU.
    NotAssignable,
    /// A kernel call on it has not come back.
    Stuck,
    /// It has failed in a way that will come again; it takes no new VM.
    Sick,
    /// It takes no VM before it was reset.
    NeedsReset,
    /// It takes no VM before its host was restarted.
    NeedsReboot,
    /// It is in use by decision and is not there.
    Gone,
    /// Its host has not reported.
    Unknown,
}

impl fmt::Display for GpuStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Partitionable => "partitionable",
            Self::Assignable => "assignable",
            Self::Partitioned => "partitioned",
            Self::ReadyForPassthrough => "ready for passthrough",
            Self::PassedThrough => "passed through",
            Self::Changing => "changing",
            Self::SriovOff => "SR-IOV off",
            Self::NotAssignable => "not assignable",
            Self::Stuck => "stuck",
            Self::Sick => "sick",
            Self::NeedsReset => "needs reset",
            Self::NeedsReboot => "needs reboot",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        })
    }
}

/// Every GPU that is reported, spoken for or in use, in order.
pub fn gpus(sources: &Sources<'_>) -> Vec<GpuView> {
    gpus_at(sources, &gpu_keys(sources))
}

/// These of them; it goes fastest where those of a host stand together.
pub fn gpus_at(sources: &Sources<'_>, keys: &[GpuKey]) -> Vec<GpuView> {
    let mut uses = UsesOfHost::default();
    keys.iter().filter_map(|key| build(sources, key, uses.of(sources, &key.host))).collect()
}

/// What each GPU is used for, how it is, and what its partitions are doing, without the rest.
pub(super) fn states<'a>(
    sources: &'a Sources<'a>,
) -> impl Iterator<Item = (&'a GpuMode, GpuStatus, Vec<PartitionState>)> {
    let mut uses = UsesOfHost::default();
    gpu_keys(sources).into_iter().map(move |key| {
        let partitions = states_of(sources, &key, uses.of(sources, &key.host));
        let mode = sources.plan.mode(&key);
        (mode, status(sources, &key, mode, &partitions), partitions)
    })
}

/// Which GPUs are reported, spoken for or in use, in order.
pub fn gpu_keys(sources: &Sources<'_>) -> Vec<GpuKey> {
    let mut keys: Vec<GpuKey> = sources.spec.gpus.keys().chain(sources.plan.gpus.keys()).cloned().collect();
    for (host, observed) in sources.inventory {
        keys.extend(
            observed.gpus.keys().map(|address| GpuKey { host: host.clone(), address: address.clone() }),
        );
    }
    keys.sort();
    keys.dedup();
    keys
}

/// One GPU, if it is reported, spoken for or in use.
pub fn gpu(sources: &Sources<'_>, key: &GpuKey) -> Option<GpuView> {
    build(sources, key, UsesOfHost::default().of(sources, &key.host))
}

fn build(sources: &Sources<'_>, key: &GpuKey, uses: &Uses) -> Option<GpuView> {
    let host = sources.host(&key.host);
    let seen = host.and_then(|host| host.gpus.get(&key.address));
    let asked = sources.spec.gpus.get(key);
    let planned = sources.plan.gpus.get(key);
    let remembered = planned.map(|planned| &planned.identity).or(asked.map(|asked| &asked.identity));
    let identity = seen.map(Gpu::identity).or(remembered.cloned())?;
    let ids = identity.ids;
    let mode = sources.plan.mode(key).clone();
    let partitions = states_of(sources, key, uses);
    let (free, total) = capacity(sources, key, &mode, &partitions, seen);
    let group = seen.and_then(|gpu| gpu.iommu_group.as_ref());
    let others = |member: &&GroupMember| Some(member.address) != key.address.pci();
    Some(GpuView {
        host: key.host.clone(),
        address: key.address.clone(),
        model: seen.map_or_else(|| ids.to_string(), |gpu| gpu.model.clone()),
        ids,
        unique_id: identity.unique_id,
        board: seen.and_then(|gpu| gpu.board.clone()),
        emulated: seen.is_some_and(|gpu| gpu.emulated),
        status: status(sources, key, &mode, &partitions),
        count: mode.partitions(),
        mode,
        asked_mode: asked.map(|asked| asked.mode.clone()).unwrap_or_default(),
        valid_counts: seen.map(|gpu| gpu.offers.clone()).unwrap_or_default(),
        mixed: seen.map(|gpu| gpu.mixed.clone()).unwrap_or_default(),
        free,
        total,
        vms: sources.plan.bookings_on(key).map(|(_, booking)| booking.vm.clone()).collect(),
        vram_mib: seen.and_then(|gpu| gpu.vram_mib),
        driver: seen.and_then(|gpu| gpu.driver.clone()),
        numa_node: seen.and_then(|gpu| gpu.numa_node),
        iommu_group: group.map(|group| group.id),
        group_members: group
            .map(|group| group.members.iter().filter(others).cloned().collect())
            .unwrap_or_default(),
        backend: seen.and_then(|gpu| gpu.backend),
        console: seen.is_some_and(|gpu| gpu.boot_vga),
        reset_methods: seen.map(|gpu| gpu.reset_methods.clone()).unwrap_or_default(),
        aer: seen.and_then(|gpu| gpu.aer),
        health: seen.map(|gpu| gpu.health.clone()),
        telemetry: seen.and_then(|gpu| gpu.telemetry.clone()),
        migration: host
            .zip(seen)
            .and_then(|(host, gpu)| Some(MigrationView::of(gpu.migration.as_ref()?, host))),
        findings: sources.about_gpu(key),
    })
}

/// What VMs could get now, and at most.
fn capacity(
    sources: &Sources<'_>,
    key: &GpuKey,
    mode: &GpuMode,
    partitions: &[PartitionState],
    seen: Option<&Gpu>,
) -> (usize, usize) {
    match mode {
        GpuMode::Host => (0, 0),
        GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => {
            let free = partitions.iter().filter(|state| **state == PartitionState::Free).count();
            (free, usize::from(mode.partitions().unwrap_or_default()))
        }
        GpuMode::Passthrough { .. } => {
            let free = seen.is_some() && !whole_is_booked(sources, key) && !is_changing(sources, key, &[]);
            (usize::from(free), 1)
        }
    }
}

fn status(sources: &Sources<'_>, key: &GpuKey, mode: &GpuMode, partitions: &[PartitionState]) -> GpuStatus {
    let Some(host) = sources.host(&key.host) else { return GpuStatus::Unknown };
    let Some(gpu) = host.gpus.get(&key.address) else { return GpuStatus::Gone };
    if host.is_stuck(&key.address) {
        return GpuStatus::Stuck;
    }
    match gpu.health.state {
        HealthState::Good => {}
        HealthState::Sick => return GpuStatus::Sick,
        HealthState::NeedsReset => return GpuStatus::NeedsReset,
        HealthState::NeedsReboot => return GpuStatus::NeedsReboot,
    }
    if is_changing(sources, key, partitions) {
        return GpuStatus::Changing;
    }
    match mode {
        GpuMode::Host => idle_status(host, gpu),
        GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => GpuStatus::Partitioned,
        GpuMode::Passthrough { .. } if whole_is_booked(sources, key) => GpuStatus::PassedThrough,
        GpuMode::Passthrough { .. } => GpuStatus::ReadyForPassthrough,
    }
}

fn idle_status(host: &HostInventory, gpu: &Gpu) -> GpuStatus {
    if host.system.iommu == Iommu::Off && gpu.address.pci().is_some() {
        GpuStatus::NotAssignable
    } else if !gpu.offers.is_empty() {
        GpuStatus::Partitionable
    } else if gpu.sriov.as_ref().is_some_and(|sriov| sriov.total_vfs == 0) {
        GpuStatus::SriovOff
    } else if gpu.address.pci().is_some() {
        GpuStatus::Assignable
    } else {
        GpuStatus::NotAssignable
    }
}

/// Whether the hardware is not yet what was decided, or the decision not yet what was asked for.
fn is_changing(sources: &Sources<'_>, key: &GpuKey, partitions: &[PartitionState]) -> bool {
    let decided = sources.plan.mode(key);
    let asked = sources.spec.gpus.get(key).map_or(&GpuMode::Host, |asked| &asked.mode);
    let whole = SlotKey { gpu: key.clone(), slot: Slot::Whole };
    let unbound = |host| placement::unready(&whole, sources.plan, host).is_some();
    asked != decided
        || match decided {
            GpuMode::Host => false,
            GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => {
                partitions.contains(&PartitionState::Unready)
            }
            GpuMode::Passthrough { .. } => sources.host(&key.host).is_some_and(unbound),
        }
}

fn whole_is_booked(sources: &Sources<'_>, key: &GpuKey) -> bool {
    sources.plan.bookings.contains_key(&SlotKey { gpu: key.clone(), slot: Slot::Whole })
}
