//! Partitions, as people see them: who holds which, and which could be had.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use tranche_core::inventory::{Gpu, HostInventory, ObservedPartition, PartitionDevice, PartitionTelemetry};
use tranche_core::name::{GpuAddress, GpuKey, HostName, Slot, SlotKey, VmName};
use tranche_core::placement::{self, Uses};
use tranche_core::plan::Plan;

use super::migration::MigrationView;
use super::{Sources, UsesOfHost};

/// A partition: decided, or there without having been decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PartitionView {
    /// The host.
    pub host: HostName,
    /// The GPU's address on it.
    pub gpu: GpuAddress,
    /// The index on the GPU, from 0; none for a device that Tranche did not make.
    pub index: Option<u16>,
    /// The VF's address or the mediated device's UUID; none while it does not exist.
    pub device: Option<String>,
    /// The profile, where known.
    pub profile: Option<String>,
    /// Video memory in MiB, where known.
    pub vram_mib: Option<u64>,
    /// What it is used for.
    pub state: PartitionState,
    /// The VM that it is booked for.
    pub vm: Option<VmName>,
    /// What its driver measures while a VM uses it, where a library of its vendor tells: load and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<PartitionTelemetry>,
    /// What live migration of a VM with it rests on, where that is not what holds for its GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationView>,
    /// A stand-in of the virtual lab.
    pub emulated: bool,
}

/// What a partition is used for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    /// A VM can get it.
    Free,
    /// A VM has it, and does not use it at present.
    Booked,
    /// A VM has it and uses it.
    InUse,
    /// It disappeared while a VM used it.
    Lost,
    /// Somebody whom Tranche does not manage made it or uses it.
    Foreign,
    /// It is not there yet, or not ready to be handed over.
    Unready,
}

impl PartitionState {
    /// Every state, in order.
    pub const ALL: [Self; 6] =
        [Self::Free, Self::Booked, Self::InUse, Self::Lost, Self::Foreign, Self::Unready];

    /// The state as text, the same as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Booked => "booked",
            Self::InUse => "in_use",
            Self::Lost => "lost",
            Self::Foreign => "foreign",
            Self::Unready => "unready",
        }
    }
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Every partition of every GPU, in order.
pub fn partitions(sources: &Sources<'_>) -> Vec<PartitionView> {
    let planned = sources.plan.gpus.keys().map(|gpu| &gpu.host);
    let hosts: BTreeSet<&HostName> = sources.inventory.keys().chain(planned).collect();
    hosts.into_iter().flat_map(|host| partitions_on(sources, host)).collect()
}

/// Every partition of every GPU of a host, in order.
pub fn partitions_on(sources: &Sources<'_>, host: &HostName) -> Vec<PartitionView> {
    let uses = sources.host(host).map(Uses::of).unwrap_or_default();
    gpus_on(sources, host).iter().flat_map(|key| used_partitions_of(sources, key, &uses)).collect()
}

/// The partitions of one GPU: those decided, by index, then those that nobody decided.
pub fn partitions_of(sources: &Sources<'_>, key: &GpuKey) -> Vec<PartitionView> {
    used_partitions_of(sources, key, UsesOfHost::default().of(sources, &key.host))
}

/// What each of a GPU's partitions is doing, in the order of [`partitions_of`].
pub(super) fn states_of(sources: &Sources<'_>, key: &GpuKey, uses: &Uses) -> Vec<PartitionState> {
    let look = Look::at(sources, key, uses);
    let decided = placement::decided_slots(key, sources.plan);
    let partitions = decided.iter().filter(|slot| matches!(slot, Slot::Partition(_)));
    let states = partitions.map(|slot| look.state(*slot));
    states.chain(undecided(look.gpu, &decided).map(|_| PartitionState::Foreign)).collect()
}

/// What each of a host's partitions is doing.
pub(super) fn states_on(sources: &Sources<'_>, host: &HostName) -> Vec<PartitionState> {
    let uses = sources.host(host).map(Uses::of).unwrap_or_default();
    gpus_on(sources, host).iter().flat_map(|key| states_of(sources, key, &uses)).collect()
}

/// The GPUs of a host that are there or decided, in order.
fn gpus_on(sources: &Sources<'_>, host: &HostName) -> Vec<GpuKey> {
    let mut gpus: Vec<GpuKey> = sources.plan.gpus_of(host).map(|(key, _)| key.clone()).collect();
    let seen = sources.host(host).into_iter().flat_map(|observed| observed.gpus.keys().cloned());
    gpus.extend(seen.map(|address| GpuKey { host: host.clone(), address }));
    gpus.sort();
    gpus.dedup();
    gpus
}

fn used_partitions_of(sources: &Sources<'_>, key: &GpuKey, uses: &Uses) -> Vec<PartitionView> {
    let look = Look::at(sources, key, uses);
    let decided = placement::decided_slots(key, sources.plan);
    let mut views: Vec<_> = decided.iter().filter_map(|slot| look.view(*slot)).collect();
    let (Some(host), Some(gpu)) = (look.host, look.gpu) else { return views };
    let foreign = undecided(Some(gpu), &decided);
    views.extend(foreign.map(|partition| foreign_view(key, (host, gpu), partition)));
    views
}

/// The partitions of a GPU that nobody decided.
fn undecided<'a>(gpu: Option<&'a Gpu>, decided: &[Slot]) -> impl Iterator<Item = &'a ObservedPartition> {
    let partitions = gpu.into_iter().flat_map(|gpu| &gpu.partitions);
    partitions
        .filter(|partition| partition.index.is_none_or(|index| !decided.contains(&Slot::Partition(index))))
}

/// The device behind a partition, as text.
pub(super) fn device_text(device: &PartitionDevice) -> String {
    match device {
        PartitionDevice::Vf { address } => address.to_string(),
        PartitionDevice::Mdev { uuid } => uuid.to_string(),
    }
}

/// A GPU, with what its decided partitions are told by, looked up once for all of them: a site has tens of thousands.
struct Look<'a> {
    plan: &'a Plan,
    key: &'a GpuKey,
    host: Option<&'a HostInventory>,
    gpu: Option<&'a Gpu>,
    /// Who has what of it.
    held: BTreeMap<Slot, &'a VmName>,
    uses: &'a Uses,
}

impl<'a> Look<'a> {
    fn at(sources: &Sources<'a>, key: &'a GpuKey, uses: &'a Uses) -> Self {
        let (plan, host) = (sources.plan, sources.host(&key.host));
        let gpu = host.and_then(|observed| observed.gpus.get(&key.address));
        let held = plan.bookings_on(key).map(|(slot, booking)| (slot.slot, &booking.vm)).collect();
        Self { plan, key, host, gpu, held, uses }
    }

    fn seen(&self, slot: Slot) -> Option<&'a ObservedPartition> {
        self.gpu.and_then(|gpu| match slot {
            Slot::Partition(index) => placement::partition(gpu, index),
            Slot::Whole => None,
        })
    }

    fn view(&self, slot: Slot) -> Option<PartitionView> {
        let Slot::Partition(index) = slot else { return None };
        let seen = self.seen(slot);
        let offer = self.plan.gpus.get(self.key).and_then(|planned| planned.size_of(index));
        Some(PartitionView {
            host: self.key.host.clone(),
            gpu: self.key.address.clone(),
            index: Some(index),
            device: seen.map(|partition| device_text(&partition.device)),
            profile: offer
                .map(|offer| offer.profile.clone())
                .or_else(|| seen.and_then(|seen| seen.profile.clone())),
            vram_mib: seen.and_then(|seen| seen.vram_mib).or_else(|| offer.and_then(|offer| offer.vram_mib)),
            state: self.state(slot),
            vm: self.held.get(&slot).map(|vm| (*vm).clone()),
            telemetry: seen.and_then(|seen| seen.telemetry),
            migration: self.host.zip(seen).and_then(|(host, seen)| own_migration(seen, host)),
            emulated: self.gpu.is_some_and(|gpu| gpu.emulated),
        })
    }

    fn state(&self, slot: Slot) -> PartitionState {
        match (self.host, self.held.get(&slot)) {
            (None, None) => PartitionState::Unready,
            (None, Some(_)) => PartitionState::Booked,
            (Some(host), Some(vm)) => booked_state(vm, self.seen(slot), host),
            (Some(host), None) => self.unbooked_state(slot, host),
        }
    }

    fn unbooked_state(&self, slot: Slot, host: &HostInventory) -> PartitionState {
        let is_unready = || {
            let slot = SlotKey { gpu: self.key.clone(), slot };
            placement::unready(&slot, self.plan, host).is_some()
        };
        if self.gpu.is_some_and(|gpu| self.uses.is_used(slot, gpu)) {
            PartitionState::Foreign
        } else if self.gpu.is_none() || is_unready() {
            PartitionState::Unready
        } else {
            PartitionState::Free
        }
    }
}

fn booked_state(vm: &VmName, seen: Option<&ObservedPartition>, host: &HostInventory) -> PartitionState {
    let runs = host.domain(vm).is_some_and(|domain| domain.state.is_active());
    match seen {
        None if runs => PartitionState::Lost,
        None => PartitionState::Unready,
        Some(partition) if runs || !partition.open_by.is_empty() => PartitionState::InUse,
        Some(_) => PartitionState::Booked,
    }
}

/// What is known of it alone.
fn own_migration(partition: &ObservedPartition, host: &HostInventory) -> Option<MigrationView> {
    Some(MigrationView::of(partition.migration.as_ref()?, host))
}

fn foreign_view(
    key: &GpuKey,
    (host, gpu): (&HostInventory, &Gpu),
    partition: &ObservedPartition,
) -> PartitionView {
    PartitionView {
        host: key.host.clone(),
        gpu: key.address.clone(),
        index: partition.index,
        device: Some(device_text(&partition.device)),
        profile: partition.profile.clone(),
        vram_mib: partition.vram_mib,
        state: PartitionState::Foreign,
        vm: None,
        telemetry: partition.telemetry,
        migration: own_migration(partition, host),
        emulated: gpu.emulated,
    }
}
