//! What a GPU may be used for, and who stands in the way.
//!
//! Shared by the door ([`crate::change`]), which refuses at once, and by the planner, which judges again with every look.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics as say;
use crate::finding::{Code, Finding, Subject};
use crate::inventory::{Backend, Gpu, GroupMember, HostInventory, Iommu};
use crate::mixed;
use crate::name::{GpuKey, PciAddress, Slot};
use crate::placement::Uses;
use crate::plan::{GpuPlan, Plan};
use crate::spec::GpuMode;
use crate::step::VFIO_DRIVER;

/// Why a GPU cannot be brought into a mode, whoever uses it.
pub fn mode_obstacles(key: &GpuKey, mode: &GpuMode, gpu: &Gpu, observed: &HostInventory) -> Vec<Finding> {
    let mut found = Vec::new();
    if *mode == GpuMode::Host {
        return found;
    }
    if observed.system.iommu == Iommu::Off && gpu.address.pci().is_some() {
        found.push(say::iommu_off(&key.host));
    }
    match mode {
        GpuMode::Partitioned { count, series } => {
            let valid = gpu.valid_counts();
            if is_passed_through(gpu) && valid.is_empty() {
                // Its own driver tells what it offers when it has the GPU back; this is asked again then.
                if gpu.sriov.as_ref().is_none_or(|sriov| sriov.total_vfs == 0) {
                    found.push(say::mode_conflict(key, "passed through", "partitioned"));
                }
            } else if gpu.address.pci().is_some() && gpu.driver.is_none() && !is_passed_through(gpu) {
                found.push(say::driver_missing(key));
            } else if gpu.backend.is_none() || valid.is_empty() {
                let why = say::why_not_partitionable(key, gpu);
                found.extend(host_says(why.code, key, observed));
                found.push(why);
            } else if gpu.offer(*count, series.as_deref()).is_none() {
                let valid = series.as_deref().map_or(valid, |series| gpu.valid_counts_of(series));
                found.push(say::invalid_partition_count(key, *count, series.as_deref(), &valid));
                found.extend(host_says(Code::CountFixed, key, observed));
            }
        }
        GpuMode::Mixed { sizes } => {
            if is_passed_through(gpu) {
                // Only its own driver knows which sizes it can have beside each other.
                found.push(say::mode_conflict(key, "passed through", "split into several sizes"));
            } else if gpu.address.pci().is_some() && gpu.driver.is_none() {
                found.push(say::driver_missing(key));
            } else if let Err(misfit) = mixed::lay_out(gpu, sizes) {
                found.push(say::invalid_partition_sizes(key, &misfit, &gpu.mixed));
            }
        }
        GpuMode::Passthrough { allow_console, .. } => {
            if gpu.address.pci().is_none() {
                found.push(say::mode_conflict(key, "no PCI device", "passed through"));
            }
            if gpu.backend == Some(Backend::FixedVf) && !gpu.partitions.is_empty() {
                found.push(say::vfs_stay(key, gpu.partitions.len()));
                found.extend(host_says(Code::CountFixed, key, observed));
            }
            if gpu.boot_vga && !allow_console {
                found.push(say::console_gpu(key));
            }
            let (group, others) = functions_of_the_host(gpu);
            if !others.is_empty() {
                found.push(say::group_shared(Subject::Gpu(key.clone()), group, &others));
            }
        }
        GpuMode::Host => {}
    }
    found
}

/// What the host itself says about the same thing: only it knows the vendor's words and commands.
fn host_says(code: Code, key: &GpuKey, observed: &HostInventory) -> Option<Finding> {
    let subject = Subject::Gpu(key.clone());
    observed.notes.iter().find(|note| note.code == code && note.subject == subject).cloned()
}

/// Functions of other cards in a GPU's group that serve the host: they would be taken from it together with the GPU, be
/// it the disk that it runs from. The GPU's own sound and USB functions go along, and so do idle ones.
fn functions_of_the_host(gpu: &Gpu) -> (u32, Vec<PciAddress>) {
    let Some((group, own)) = gpu.iommu_group.as_ref().zip(gpu.address.pci()) else { return (0, Vec::new()) };
    let slot = |address: PciAddress| PciAddress { function: 0, ..address };
    let serves = |member: &&GroupMember| {
        let taken = member.driver.as_deref().is_some_and(|driver| driver != VFIO_DRIVER);
        !member.is_bridge() && slot(member.address) != slot(own) && taken
    };
    (group.id, group.members.iter().filter(serves).map(|member| member.address).collect())
}

/// Who uses a GPU or a part of it: booked VMs, domains, processes.
pub fn users_of(key: &GpuKey, gpu: &Gpu, observed: &HostInventory, plan: &Plan) -> Vec<String> {
    let mut users: BTreeSet<String> =
        plan.bookings_on(key).map(|(_, booking)| format!("VM {}", booking.vm)).collect();
    let uses = Uses::of(observed);
    let mut slots: Vec<Slot> = gpu.partitions.iter().filter_map(|p| p.index.map(Slot::Partition)).collect();
    slots.push(Slot::Whole);
    for user in slots.into_iter().flat_map(|slot| uses.users(slot, gpu)) {
        let managed =
            user.strip_prefix("domain ").is_some_and(|domain| users.contains(&format!("VM {domain}")));
        if !managed {
            users.insert(user);
        }
    }
    for partition in gpu.partitions.iter().filter(|partition| partition.index.is_none()) {
        users.extend(partition.open_by.iter().map(say::describe_holder));
    }
    users.into_iter().collect()
}

/// Whether nothing of what Tranche does to a GPU is left on it.
pub(crate) fn is_clean(planned: &GpuPlan, gpu: &Gpu) -> bool {
    let no_partitions = gpu.partitions.iter().all(|partition| partition.index.is_none());
    let stay = gpu.backend == Some(Backend::FixedVf);
    (stay || (no_partitions && gpu.blanks.is_empty())) && is_given_back(planned, gpu)
}

/// Whether a GPU is on the driver that hands it to a VM whole, or on its way there or back.
///
/// Of the functions that go along it is the first to be taken and the last to be given back, so it speaks for all of them.
pub(crate) fn is_passed_through(gpu: &Gpu) -> bool {
    gpu.driver.as_deref() == Some(VFIO_DRIVER) || (gpu.driver.is_none() && only_driver(gpu).is_some())
}

/// Whether a GPU has the driver again that it had; that may be the one for passthrough, if the host itself chose that.
pub(crate) fn is_given_back(planned: &GpuPlan, gpu: &Gpu) -> bool {
    let had_one = gpu.address.pci().is_some_and(|own| planned.host_drivers.contains_key(&own));
    !is_passed_through(gpu) || (gpu.driver.is_some() && !had_one && only_driver(gpu).is_none())
}

/// The only driver that a GPU may be bound to, while that is restricted.
fn only_driver(gpu: &Gpu) -> Option<&str> {
    let mut members = gpu.iommu_group.iter().flat_map(|group| &group.members);
    members.find(|member| Some(member.address) == gpu.address.pci())?.driver_override.as_deref()
}

/// The drivers that the functions of a GPU's group have, as far as they are the host's own.
pub(crate) fn host_drivers(gpu: &Gpu) -> BTreeMap<PciAddress, String> {
    let members = gpu.iommu_group.as_ref().map_or(&[][..], |group| &group.members);
    members
        .iter()
        .filter(|member| !member.is_bridge())
        .filter_map(|member| Some((member.address, member.driver.clone()?)))
        .filter(|(_, driver)| driver != VFIO_DRIVER)
        .collect()
}
