//! What stands against moving a VM from one host to another while it runs.
//!
//! Sources: QEMU, hw/vfio/migration.c and docs/devel/migration; libvirt, src/qemu/qemu_migration.c; Linux,
//! include/uapi/linux/vfio.h and iommufd.h. Both hosts must have what the move needs, and what was part of the guest on one must be
//! the same on the other.

use super::Forecast;
use super::versions;
use crate::change::State;
use crate::homogeneity::{self, Attribute};
use crate::inventory::{Certainty, Domain, Gpu, HostInventory, Hypervisor, MigrationBlocker, MigrationFacts};
use crate::name::{GpuKey, HostName, Slot, SlotKey, VmName};
use crate::placement;
use crate::plan::GpuPlan;
use crate::spec::{GpuSpec, VmSource, VmSpec};

/// The libvirt that has a VM's devices opened by iommufd where its definition asks for it.
const IOMMUFD_LIBVIRT: [u32; 3] = [12, 1, 0];
/// The QEMU that reads the IOMMU's log through iommufd.
const IOMMUFD_QEMU: [u32; 3] = [9, 1, 0];

/// A place that a VM has or would have: its host, and its devices there.
#[derive(Debug, Clone)]
pub struct Seat<'a> {
    observed: &'a HostInventory,
    domain: Option<&'a Domain>,
    devices: Vec<Device<'a>>,
}

/// A GPU or a partition of it.
#[derive(Debug, Clone)]
struct Device<'a> {
    key: GpuKey,
    slot: Slot,
    gpu: &'a Gpu,
    planned: Option<&'a GpuPlan>,
    wish: Option<&'a GpuSpec>,
}

/// Something that stands against moving a VM while it runs. Which host it is about is told where it may be either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The driver of a device does not hand out its state, or nothing is known of it.
    State {
        /// The GPU.
        gpu: GpuKey,
        /// How well that is known.
        certainty: Certainty,
        /// What says so.
        source: String,
    },
    /// Nothing logs which memory a device writes, or nothing is known of it.
    DirtyLog {
        /// The GPU.
        gpu: GpuKey,
        /// What says so of the device itself.
        device: String,
        /// What says so of the IOMMU, or why nobody could read its log.
        iommu: String,
    },
    /// A VM has several devices, and one of them cannot be stopped together with others.
    Several {
        /// The GPU.
        gpu: GpuKey,
    },
    /// Two GPUs differ.
    Unlike {
        /// The GPU on the VM's host.
        here: GpuKey,
        /// The one that it would get.
        there: GpuKey,
        /// In what.
        attribute: Attribute,
        /// What the first has.
        has: String,
        /// What the other has.
        other: String,
    },
    /// The partition that the VM would get is of another size or profile.
    Profile {
        /// Its own.
        has: String,
        /// The other.
        other: String,
    },
    /// The hosts have different processors, and the guest sees that of its host.
    Processor {
        /// The one of its host.
        has: String,
        /// The other one.
        other: String,
    },
    /// The other host's processor lacks what the guest may use, although its model is the same.
    ProcessorLacks {
        /// By the kernel's names.
        features: Vec<String>,
    },
    /// The machine that the guest runs on is of a later QEMU than the other host has.
    Machine {
        /// The machine.
        machine: String,
        /// The other host's QEMU.
        qemu: String,
    },
    /// The other host has an older libvirt, which may not take what the VM's own has written.
    Libvirt {
        /// The one of its host.
        has: String,
        /// The other one.
        other: String,
    },
    /// Something in the guest's machine ties it to its host.
    Blocker(MigrationBlocker),
    /// The VM is defined by its owner, on its own host only.
    Adopted,
    /// Its guest would stand still for longer than it may.
    Pause {
        /// What the move would cost.
        forecast: Forecast,
        /// For how long the guest may stand still, in milliseconds.
        limit_ms: u32,
    },
}

impl<'a> Seat<'a> {
    /// The place of a VM on a host with these slots; none where nothing is known of the host.
    pub fn of(name: &VmName, host: &HostName, slots: &[SlotKey], state: State<'a>) -> Option<Self> {
        let observed: &HostInventory = state.inventory.get(host)?;
        let device = |slot: &SlotKey| {
            Some(Device {
                key: slot.gpu.clone(),
                slot: slot.slot,
                gpu: observed.gpus.get(&slot.gpu.address)?,
                planned: state.plan.gpus.get(&slot.gpu),
                wish: state.spec.gpus.get(&slot.gpu),
            })
        };
        let devices = slots.iter().filter_map(device).collect();
        Some(Self { observed, domain: observed.domain(name), devices })
    }

    /// What the state of its devices may hold, in MiB: their video memory, where that is known.
    pub fn devices_mib(&self) -> u64 {
        self.devices.iter().filter_map(Device::vram_mib).fold(0, u64::saturating_add)
    }

    /// libvirt's and QEMU's versions, if libvirt answers.
    fn versions(&self) -> Option<(&'a str, &'a str)> {
        match &self.observed.hypervisor {
            Hypervisor::Up { libvirt, qemu, .. } => Some((libvirt, qemu)),
            Hypervisor::Down { .. } => None,
        }
    }

    /// Why nobody could read the IOMMU's log here; none if it could be.
    fn lacks_iommufd(&self) -> Option<String> {
        let (libvirt, qemu) = self.versions()?;
        if !self.observed.system.iommufd {
            return Some("the kernel has no /dev/iommu".to_owned());
        }
        if versions::is_at_least(libvirt, IOMMUFD_LIBVIRT) != Some(true) {
            return Some(format!("libvirt {libvirt} does not use iommufd"));
        }
        (versions::is_at_least(qemu, IOMMUFD_QEMU) != Some(true))
            .then(|| format!("QEMU {qemu} does not read it through iommufd"))
    }
}

impl Device<'_> {
    fn facts(&self) -> Option<&MigrationFacts> {
        let own = match self.slot {
            Slot::Partition(index) => {
                placement::partition(self.gpu, index).and_then(|partition| partition.migration.as_ref())
            }
            Slot::Whole => None,
        };
        own.or(self.gpu.migration.as_ref())
    }

    fn vram_mib(&self) -> Option<u64> {
        let Slot::Partition(index) = self.slot else { return self.gpu.vram_mib };
        let of_partition = placement::partition(self.gpu, index).and_then(|partition| partition.vram_mib);
        of_partition.or_else(|| self.planned?.size_of(index)?.vram_mib)
    }

    /// What the guest has of it: the profile and the memory.
    fn profile(&self) -> Option<String> {
        let Slot::Partition(index) = self.slot else { return None };
        let size = self.planned?.size_of(index)?;
        Some(match size.vram_mib {
            Some(mib) => format!("{} of {mib} MiB", size.profile),
            None => size.profile.clone(),
        })
    }
}

/// Everything that stands against moving a VM from one place to another while it runs.
pub fn obstacles((_, spec): (&VmName, &VmSpec), here: &Seat<'_>, there: &Seat<'_>) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if matches!(spec.source, VmSource::Adopted) {
        found.push(Obstacle::Adopted);
    }
    found.extend(here.devices.iter().flat_map(|device| of_device(device, here)));
    found.extend(there.devices.iter().flat_map(|device| of_device(device, there)));
    found.extend(
        here.devices.iter().zip(&there.devices).flat_map(|(one, other)| unlike(one, here, other, there)),
    );
    found.extend(of_guest(here, there));
    found.extend(of_programs(here, there));
    found
}

/// What a device lacks, on whichever host it is.
fn of_device(device: &Device<'_>, seat: &Seat<'_>) -> Vec<Obstacle> {
    let (gpu, nothing) = (device.key.clone(), MigrationFacts::default());
    let facts = device.facts().unwrap_or(&nothing);
    let mut found = Vec::new();
    let state = &facts.stop_copy;
    if !state.certainty.is_likely() {
        let (certainty, source) = (state.certainty, state.source.clone());
        found.push(Obstacle::State { gpu: gpu.clone(), certainty, source });
    }
    let lacks = seat.lacks_iommufd();
    if !facts.certainty_of_log(lacks.is_none()).is_likely() {
        let device = facts.device_dirty_log.source.clone();
        let iommu = match &lacks {
            Some(why) if facts.iommu_dirty_log.certainty.is_likely() => why.clone(),
            _ => facts.iommu_dirty_log.source.clone(),
        };
        found.push(Obstacle::DirtyLog { gpu: gpu.clone(), device, iommu });
    }
    if seat.devices.len() > 1 && !facts.p2p.certainty.is_likely() {
        found.push(Obstacle::Several { gpu });
    }
    found
}

/// In what two devices differ that must be the same to the guest.
fn unlike(one: &Device<'_>, here: &Seat<'_>, other: &Device<'_>, there: &Seat<'_>) -> Vec<Obstacle> {
    let mut found: Vec<Obstacle> =
        homogeneity::differences((one.gpu, here.observed, one.wish), (other.gpu, there.observed, other.wish))
            .into_iter()
            .map(|(attribute, has, of_other)| Obstacle::Unlike {
                here: one.key.clone(),
                there: other.key.clone(),
                attribute,
                has,
                other: of_other,
            })
            .collect();
    if let (Some(has), Some(of_other)) = (one.profile(), other.profile())
        && has != of_other
    {
        found.push(Obstacle::Profile { has, other: of_other });
    }
    found
}

/// What of the guest's machine is not the same, or not there, on the other host.
fn of_guest(here: &Seat<'_>, there: &Seat<'_>) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let (has, other) = (&here.observed.system.cpu_model, &there.observed.system.cpu_model);
    if has != other {
        found.push(Obstacle::Processor { has: has.clone(), other: other.clone() });
    }
    let (has, other) = (&here.observed.system.cpu_features, &there.observed.system.cpu_features);
    let lacks: Vec<String> = has.difference(other).cloned().collect();
    // One that does not say what it has lacks nothing that is known.
    if !lacks.is_empty() && !other.is_empty() {
        found.push(Obstacle::ProcessorLacks { features: lacks });
    }
    let Some(domain) = here.domain else { return found };
    found.extend(domain.blockers.iter().copied().map(Obstacle::Blocker));
    if let (Some(machine), Some((_, qemu))) = (&domain.machine, there.versions())
        && let Some(least) = versions::of_machine(machine)
        && versions::is_at_least(qemu, least) == Some(false)
    {
        found.push(Obstacle::Machine { machine: machine.clone(), qemu: qemu.to_owned() });
    }
    found
}

/// What the programs of the other host lack.
fn of_programs(here: &Seat<'_>, there: &Seat<'_>) -> Option<Obstacle> {
    let ((has, _), (other, _)) = (here.versions()?, there.versions()?);
    let least = versions::parse(has)?;
    (versions::is_at_least(other, least) == Some(false))
        .then(|| Obstacle::Libvirt { has: has.to_owned(), other: other.to_owned() })
}
