//! Mediated devices: partitions that a driver makes in software, each with a type and a UUID.
//!
//! A parent may be a PCI function or not; either way it is listed under `/sys/class/mdev_bus`. What is there is read
//! from the types' directories. Which partition a device is follows from its UUID, which is computed from GPU and
//! index; devices with other UUIDs are somebody else's.
//!
//! Format: kernel drivers/vfio/mdev, Documentation/ABI/testing/sysfs-bus-vfio-mdev.

use std::collections::BTreeMap;

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{ObservedPartition, Offer, PartitionDevice, mdev_uuid};
use tranche_core::name::{GpuAddress, GpuKey};
use tranche_core::spec::PARTITIONS_PER_GPU_MAX;
use uuid::Uuid;

use crate::calls::GpuCalls;
use crate::catalogue::Entry;
use crate::discover::function;
use crate::discover::holders::Holders;
use crate::report;
use crate::tree::Tree;

/// Where the kernel lists parents of mediated devices.
pub(crate) const MDEV_PARENTS: &str = "sys/class/mdev_bus";
/// Where the kernel lists mediated devices.
pub(crate) const MDEV_DEVICES: &str = "sys/bus/mdev/devices";
/// The only kind of mediated device that a VM can take as a PCI device. (Some vendor guides print `vfio_pci`.)
const DEVICE_API: &str = "vfio-pci";

/// A parent's directory.
pub(crate) fn parent_dir(parent: &GpuAddress) -> String {
    format!("{MDEV_PARENTS}/{parent}")
}

/// What a parent offers, and what was made of it.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) offers: Vec<Offer>,
    pub(crate) partitions: Vec<ObservedPartition>,
}

/// Looks at a parent.
pub(crate) fn observe(tree: &dyn Tree, gpu: &GpuKey, entry: Option<&Entry>, holders: &Holders) -> Observed {
    let types = types(tree, &gpu.address);
    let made: usize = types.iter().map(|kind| kind.devices.len()).sum();
    let offers = types.iter().filter_map(|kind| kind.offer(made, entry)).collect();
    if made == 0 {
        return Observed { offers, partitions: Vec::new() };
    }
    let ours: BTreeMap<Uuid, u16> =
        (0..PARTITIONS_PER_GPU_MAX).map(|index| (mdev_uuid(gpu, index), index)).collect();
    let devices = types.iter().flat_map(|kind| kind.devices.iter().map(move |uuid| (kind, *uuid)));
    let mut partitions: Vec<ObservedPartition> = devices
        .map(|(kind, uuid)| device(tree, uuid, ours.get(&uuid).copied(), Some(kind.name.clone()), holders))
        .collect();
    sort(&mut partitions);
    Observed { offers, partitions }
}

/// Looks at a device. It has no memory windows and no configuration space of its own to be asked.
pub(crate) fn device(
    tree: &dyn Tree,
    uuid: Uuid,
    index: Option<u16>,
    profile: Option<String>,
    holders: &Holders,
) -> ObservedPartition {
    let dir = format!("{MDEV_DEVICES}/{uuid}");
    let iommu_group = function::iommu_group(tree, &dir);
    ObservedPartition {
        index,
        device: PartitionDevice::Mdev { uuid },
        driver: function::driver(tree, &dir),
        open_by: holders.of(tree, &dir, iommu_group.as_ref().map(|group| group.id)),
        iommu_group,
        profile,
        vram_mib: None,
        answers: true,
        telemetry: None,
        migration: None,
        mmio_mib: 0,
    }
}

/// Ours by index, then those of others.
pub(crate) fn sort(partitions: &mut [ObservedPartition]) {
    partitions
        .sort_by_key(|partition| (partition.index.is_none(), partition.index, partition.device.clone()));
}

/// Makes a mediated device, and reads it back.
///
/// # Errors
/// When the type is not offered, no instance is left, or the UUID is taken.
pub(crate) fn create(calls: &GpuCalls<'_>, uuid: Uuid, profile: &str) -> Result<(), Box<Finding>> {
    let gpu = calls.gpu();
    let present = types(calls.tree(), &gpu.address);
    if let Some(kind) = present.iter().find(|kind| kind.devices.contains(&uuid)) {
        return if kind.name == profile { Ok(()) } else { Err(taken(gpu, uuid, &kind.name, profile)) };
    }
    if !present.iter().any(|kind| kind.name == profile) {
        let names: Vec<&str> = present.iter().map(|kind| kind.name.as_str()).collect();
        let message = format!("GPU {gpu} offers no type {profile}; it offers: {}.", say::list(&names));
        let hint = "Choose one of the GPU's valid counts again: its driver changed what it offers.";
        return Err(report::error(gpu, Code::SizeMismatch, message, hint));
    }
    let path = format!("{}/mdev_supported_types/{profile}/create", parent_dir(&gpu.address));
    let written = calls.write(&path, &uuid.to_string());
    let is_there = |kind: &Type| kind.name == profile && kind.devices.contains(&uuid);
    if types(calls.tree(), &gpu.address).iter().any(is_there) {
        return Ok(());
    }
    match written {
        Err(error) => match error.errno() {
            Some(libc::EUSERS | libc::ENOSPC | libc::ENOMEM) => {
                let message =
                    format!("GPU {gpu} has no room for another {profile}: {}", report::call_sentence(&error));
                let hint = "Remove mediated devices that Tranche did not make, or choose a smaller count.";
                Err(report::error(gpu, Code::FewerPartitions, message, hint))
            }
            Some(libc::EEXIST) => Err(taken(gpu, uuid, "another device", profile)),
            _ => Err(report::call_failed(gpu, &error)),
        },
        Ok(()) => {
            let message = format!("Mediated device {uuid} of GPU {gpu} is not there after it was made.");
            Err(report::error(gpu, Code::PartitionLost, message, report::refusal_hint(None)))
        }
    }
}

/// Removes a mediated device that is not open, and reads that back.
///
/// # Errors
/// When it is open, or still there afterwards.
pub(crate) fn remove(calls: &GpuCalls<'_>, uuid: Uuid) -> Result<(), Box<Finding>> {
    let (tree, gpu, dir) = (calls.tree(), calls.gpu(), format!("{MDEV_DEVICES}/{uuid}"));
    if !tree.exists(&dir) {
        return Ok(());
    }
    let open_by = Holders::scan(tree).of(tree, &dir, function::group_id(tree, &dir));
    if !open_by.is_empty() {
        return Err(report::in_use(gpu, &open_by));
    }
    let written = calls.write(&format!("{dir}/remove"), "1");
    match written {
        _ if !tree.exists(&dir) => Ok(()),
        Err(error) => Err(report::call_failed(gpu, &error)),
        Ok(()) => {
            let message = format!("Mediated device {uuid} of GPU {gpu} is still there after it was removed.");
            Err(report::error(gpu, Code::KernelRefused, message, report::refusal_hint(None)))
        }
    }
}

/// A type of mediated device, as one parent offers it.
#[derive(Debug)]
struct Type {
    name: String,
    available: u16,
    framebuffer_mib: Option<u64>,
    devices: Vec<Uuid>,
}

impl Type {
    /// How many a GPU has room for: what is left and what was made of it. Where others take part of the room, the
    /// driver does not tell, and the catalogue does if it knows the type.
    fn offer(&self, made: usize, entry: Option<&Entry>) -> Option<Offer> {
        let known = entry.and_then(|entry| entry.profile(&self.name));
        let own = u16::try_from(self.devices.len()).unwrap_or(u16::MAX);
        let count = match known {
            Some(profile) if made > self.devices.len() => profile.max,
            _ => self.available.saturating_add(own),
        };
        let vram_mib =
            known.map(|profile| profile.usable_mib.unwrap_or(profile.size_mib)).or(self.framebuffer_mib);
        (1..=PARTITIONS_PER_GPU_MAX).contains(&count).then(|| Offer {
            count,
            profile: self.name.clone(),
            series: None,
            vram_mib,
        })
    }
}

fn types(tree: &dyn Tree, parent: &GpuAddress) -> Vec<Type> {
    let dir = format!("{}/mdev_supported_types", parent_dir(parent));
    let read = |name: String| {
        let text = |file: &str| tree.text(&format!("{dir}/{name}/{file}"));
        if !text("device_api").is_ok_and(|api| api.replace('_', "-") == DEVICE_API) {
            return None;
        }
        let devices = tree.list(&format!("{dir}/{name}/devices")).unwrap_or_default();
        Some(Type {
            available: text("available_instances").ok()?.parse().ok()?,
            framebuffer_mib: text("description").ok().and_then(|text| framebuffer_mib(&text)),
            devices: devices.iter().filter_map(|device| device.parse().ok()).collect(),
            name,
        })
    };
    tree.list(&dir).unwrap_or_default().into_iter().filter_map(read).collect()
}

/// `framebuffer=4096M` in a type's description.
fn framebuffer_mib(description: &str) -> Option<u64> {
    let mut fields = description.split([',', ' ', '\n']).filter_map(|field| field.split_once('='));
    let (_, value) = fields.find(|(key, _)| *key == "framebuffer")?;
    value.strip_suffix('M')?.parse().ok()
}

/// The UUID of a partition is another device's.
pub(crate) fn taken(gpu: &GpuKey, uuid: Uuid, found: &str, profile: &str) -> Box<Finding> {
    let message = format!("Mediated device {uuid} of GPU {gpu} exists as {found} and should be {profile}.");
    let hint = "Remove it (mdevctl stop, or write 1 to its 'remove'); Tranche then makes it anew.";
    report::error(gpu, Code::ForeignPartition, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_buffer_is_read_from_what_nvidia_and_intel_write() {
        assert_eq!(
            framebuffer_mib("num_heads=4, frl_config=60, framebuffer=4096M, max_instance=4"),
            Some(4096)
        );
        assert_eq!(framebuffer_mib("virtual display, 16 MB video memory"), None);
        assert_eq!(framebuffer_mib("framebuffer=manyM"), None);
    }
}
