//! The ground: the room of every host, and where VMs are. It is read host by host, so that what did not change stays as it is.
//!
//! Memory and virtual processors are counted where hosts are members of a cluster. A host that stands alone has no choice
//! to make by them; there libvirt decides.

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Index, Place};
use super::reach::Reach;
use super::room::{GpuRoom, HostRoom, Kind, SlotSet, UNCOUNTED};
use super::rules::Whereabouts;
use super::{Uses, gpu_obstacles, group_obstacle, is_lost, slots_of};
use crate::change::State;
use crate::inventory::{HostInventory, Hypervisor};
use crate::name::{GpuKey, HostName, Slot, SlotKey, VmName};
use crate::plan::{GpuPlan, Plan, Standing};
use crate::spec::{Duty, GpuMode, PlacementPolicy, Spec, VmSource, VmSpec};

/// Every host that takes VMs with its room, and where VMs are.
#[derive(Debug, Clone)]
pub struct Ground {
    pub(super) index: Index,
    /// Which of the hosts in the index have what VMs use by name.
    pub(super) reach: Reach,
    /// Hosts that take nobody, and why.
    pub(super) closed: BTreeMap<HostName, Closed>,
    pub(super) places: Whereabouts,
    /// For each host the VMs that were there when it was read.
    found: BTreeMap<HostName, Vec<VmName>>,
    /// Hosts that are not as they were read: VMs were put there.
    altered: BTreeMap<HostName, BTreeSet<VmName>>,
}

/// Why a host takes nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is no member of the cluster.
    Stranger,
    /// It is in maintenance.
    Maintenance,
    /// Its administrator is shutting it down.
    Departing,
    /// It is silent, or was given up.
    NotUp,
    /// Its libvirt does not answer.
    NoLibvirt,
}

impl Ground {
    /// No hosts yet.
    pub(crate) fn new(policy: PlacementPolicy) -> Self {
        Self {
            index: Index::new(policy),
            reach: Reach::default(),
            closed: BTreeMap::new(),
            places: Whereabouts::new(),
            found: BTreeMap::new(),
            altered: BTreeMap::new(),
        }
    }

    /// Reads a host anew. `gives` tells which of its GPUs may be given away, `vms` are all those that the plan has there, and `coming`
    /// those that are on their way there while they run.
    pub(crate) fn read<'v>(
        &mut self,
        host: &HostName,
        state: State<'_>,
        gives: impl Fn(&GpuKey) -> bool,
        uses: &Uses,
        vms: impl IntoIterator<Item = &'v VmName>,
        coming: impl IntoIterator<Item = &'v VmName>,
    ) {
        let put_there = self.altered.remove(host).unwrap_or_default();
        for vm in self.found.remove(host).into_iter().flatten().chain(put_there) {
            if self.places.get(&vm) == Some(host) {
                self.places.remove(&vm);
            }
        }
        let (mut used_mib, mut used_vcpus) = (0, 0);
        let mut found = Vec::new();
        for vm in vms {
            let Some((memory_mib, vcpus)) = load(vm, host, state) else { continue };
            (used_mib, used_vcpus) = (used_mib + memory_mib, used_vcpus + vcpus);
            self.places.insert(vm.clone(), host.clone());
            found.push(vm.clone());
        }
        self.found.insert(host.clone(), found);
        for vm in coming {
            let Some((memory_mib, vcpus)) = state.spec.vms.get(vm).map(|spec| needs_of(vm, spec, None))
            else {
                continue;
            };
            (used_mib, used_vcpus) = (used_mib + memory_mib, used_vcpus + vcpus);
        }
        self.closed.remove(host);
        let Some(observed) = state.inventory.get(host) else { return self.leave_out(host) };
        if let Some(why) = closed(host, state.spec, state.plan, observed) {
            return self.close(host, why);
        }
        let (memory_mib, vcpus) = counted(host, state.spec, observed);
        let (others_mib, others_vcpus) = others(state.spec, observed);
        let free = |all, used: u64| if all == UNCOUNTED { all } else { u64::saturating_sub(all, used) };
        self.index.set_host(HostRoom {
            host: host.clone(),
            memory_mib,
            free_memory_mib: free(memory_mib, used_mib + others_mib),
            free_vcpus: free(vcpus, used_vcpus + others_vcpus),
            gpus: gpu_rooms(host, observed, state.plan, gives, uses),
        });
        if let Some(id) = self.index.id_of(host) {
            self.reach.note(id, observed);
        }
    }

    /// Notes that a host takes nobody, and why.
    pub(super) fn close(&mut self, host: &HostName, why: Closed) {
        self.leave_out(host);
        self.closed.insert(host.clone(), why);
    }

    fn leave_out(&mut self, host: &HostName) {
        self.index.remove_host(host);
        self.reach.forget(host);
    }

    /// The hosts that are not as they were read.
    pub(crate) fn altered(&self) -> impl Iterator<Item = &HostName> {
        self.altered.keys()
    }

    /// Notes that a VM has a place, with so much memory in MiB and so many processors.
    pub(super) fn put(&mut self, vm: &VmName, place: &Place, (memory_mib, vcpus): (u64, u64)) {
        self.index.take(place, memory_mib, vcpus);
        self.altered.entry(place.host.clone()).or_default().insert(vm.clone());
        if self.places.get(vm) != Some(&place.host) {
            self.places.insert(vm.clone(), place.host.clone());
        }
    }

    /// Takes a VM out of the place that it was put into when it had none.
    pub(super) fn unput(&mut self, vm: &VmName, place: &Place, (memory_mib, vcpus): (u64, u64)) {
        self.index.release(place, memory_mib, vcpus);
        self.places.remove(vm);
    }
}

/// Why a host takes nobody, if so.
pub fn closed(host: &HostName, spec: &Spec, plan: &Plan, observed: &HostInventory) -> Option<Closed> {
    if !spec.hosts.is_empty() {
        let Some(member) = spec.hosts.get(host) else { return Some(Closed::Stranger) };
        if member.duty == Duty::Maintenance {
            return Some(Closed::Maintenance);
        }
        if plan.hosts.get(host).is_some_and(|planned| planned.departs) {
            return Some(Closed::Departing);
        }
        if plan.hosts.get(host).is_none_or(|planned| planned.standing != Standing::Up) {
            return Some(Closed::NotUp);
        }
    }
    matches!(observed.hypervisor, Hypervisor::Down { .. }).then_some(Closed::NoLibvirt)
}

/// Memory in MiB and virtual processors that a host has for VMs.
fn counted(host: &HostName, spec: &Spec, observed: &HostInventory) -> (u64, u64) {
    let Some(member) = spec.hosts.get(host) else { return (UNCOUNTED, UNCOUNTED) };
    let memory_mib = observed.system.memory_mib.saturating_sub(member.reserved_memory_mib);
    let per_cpu = u64::from(spec.policy.vcpus_per_cpu.0);
    (memory_mib, u64::from(observed.system.cpus).saturating_mul(per_cpu))
}

/// What running domains that are no VMs of ours have of a host's memory and processors.
fn others(spec: &Spec, observed: &HostInventory) -> (u64, u64) {
    let domains = observed.domains().into_iter().flat_map(BTreeMap::values);
    let strangers = domains.filter(|domain| {
        domain.state.is_active()
            && !domain
                .name
                .parse()
                .is_ok_and(|name: VmName| spec.vms.get(&name).is_some_and(|vm| vm.id.0 == domain.uuid))
    });
    strangers.fold((0, 0), |(memory_mib, vcpus), domain| {
        (memory_mib + domain.memory_mib, vcpus + u64::from(domain.vcpus))
    })
}

/// Memory in MiB and virtual processors of a VM: what was asked for, or what its owner's definition says where that is seen.
pub(super) fn needs_of(name: &VmName, spec: &VmSpec, observed: Option<&HostInventory>) -> (u64, u64) {
    match &spec.source {
        VmSource::Made(hardware) => (hardware.memory_mib, u64::from(hardware.vcpus)),
        VmSource::Adopted => {
            let defined = observed.and_then(|observed| observed.domain(name));
            let ours = defined.filter(|domain| domain.uuid == spec.id.0);
            ours.map_or((0, 0), |domain| (domain.memory_mib, u64::from(domain.vcpus)))
        }
    }
}

/// The memory in MiB and the processors that a VM has on the host that the plan has it on, if it runs or shall run. A host that
/// is known to be down runs nothing.
fn load(name: &VmName, host: &HostName, State { spec, plan, inventory }: State<'_>) -> Option<(u64, u64)> {
    let planned = plan.vms.get(name).filter(|planned| planned.host == *host)?;
    let vm = spec.vms.get(name).filter(|vm| vm.id == planned.id)?;
    let standing = plan.hosts.get(host).map(|planned| planned.standing);
    if matches!(standing, Some(Standing::Down { .. })) {
        return None;
    }
    let observed = inventory.get(host);
    let domain = observed.and_then(|observed| observed.domain(name));
    let active = domain.filter(|domain| domain.state.is_active() && domain.uuid == vm.id.0);
    match active {
        Some(domain) => Some((domain.memory_mib, u64::from(domain.vcpus))),
        None => planned.goal.starts().then(|| needs_of(name, vm, observed.map(|observed| &**observed))),
    }
}

/// The room on a host's GPUs.
fn gpu_rooms(
    host: &HostName,
    observed: &HostInventory,
    plan: &Plan,
    gives: impl Fn(&GpuKey) -> bool,
    uses: &Uses,
) -> Vec<GpuRoom> {
    let of_host = plan.gpus_of(host).filter(|(key, _)| gives(key));
    let rooms = of_host.filter_map(|(key, planned)| {
        let gpu = observed.gpus.get(&key.address)?;
        let kind = kind_of(planned)?;
        if !gpu_obstacles(key, planned, gpu, observed).is_empty() {
            return None;
        }
        let mut slot_key = SlotKey { gpu: key.clone(), slot: Slot::Partition(0) };
        let mut usable = SlotSet::default();
        let mut free = SlotSet::default();
        for slot in slots_of(&planned.mode) {
            slot_key.slot = slot;
            if group_obstacle(&slot_key, gpu).is_some() || is_lost(slot, planned, gpu) {
                continue;
            }
            usable.insert(slot);
            if !plan.bookings.contains_key(&slot_key) && !uses.is_used(slot, gpu) {
                free.insert(slot);
            }
        }
        Some(GpuRoom { address: key.address.clone(), numa_node: gpu.numa_node, kind, usable, free })
    });
    rooms.collect()
}

/// What a GPU's slots are; none where it has none, or where their size is not known yet.
fn kind_of(planned: &GpuPlan) -> Option<Kind> {
    match &planned.mode {
        GpuMode::Host => None,
        GpuMode::Partitioned { .. } => planned.offer.clone().map(Kind::Equal),
        GpuMode::Mixed { .. } => Some(Kind::Mixed(planned.sizes.clone())),
        GpuMode::Passthrough { pool, .. } => Some(Kind::Whole(pool.clone())),
    }
}
