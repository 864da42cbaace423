//! Virtual functions that take a type by a mediated device, one on each (kernels before 6.8).
//!
//! Each function is a parent of its own and says of each type whether it can be made there now. Types are known by
//! their `name`; their directory ends in a number, and begins with whatever the driver calls itself. Which partition a
//! device is follows from its UUID, not from its function: functions are alike.
//!
//! Format: kernel drivers/vfio/mdev; names, descriptions and directories as seen on hosts with A2 and A40.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{BlankVf, Gpu, ObservedPartition, mdev_uuid};
use tranche_core::name::{GpuAddress, GpuKey, PciAddress};
use tranche_core::spec::PARTITIONS_PER_GPU_MAX;
use uuid::Uuid;

use super::{not_to_be_had, profiles, types, virtual_functions};
use crate::calls::GpuCalls;
use crate::discover::function;
use crate::discover::holders::Holders;
use crate::mdev::{self, MDEV_DEVICES};
use crate::report;
use crate::tree::Tree;

/// Whether mediated devices are made on a function.
pub(super) fn is_parent(tree: &dyn Tree, vf: PciAddress) -> bool {
    tree.exists(&mdev::parent_dir(&GpuAddress::Pci(vf)))
}

/// Puts mediated devices in the place of the functions that carry them. Returns the profiles that can be made.
pub(super) fn observe(tree: &dyn Tree, key: &GpuKey, gpu: &mut Gpu, holders: &Holders) -> BTreeSet<String> {
    let ours: BTreeMap<Uuid, u16> =
        (0..PARTITIONS_PER_GPU_MAX).map(|index| (mdev_uuid(key, index), index)).collect();
    let mut first = None;
    for vf in std::mem::take(&mut gpu.partitions) {
        let (Some(index), Some(address)) = (vf.index, vf.vf()) else { continue };
        first.get_or_insert(address);
        let made = devices_on(tree, address);
        if made.is_empty() {
            gpu.blanks.push(BlankVf { index, address, driver: vf.driver.clone() });
        }
        gpu.partitions.extend(made.into_iter().map(|uuid| {
            let index = ours.get(&uuid).copied();
            let device = mdev::device(tree, uuid, index, profile_of(tree, uuid), holders);
            // The function behind it has both.
            ObservedPartition { answers: vf.answers, mmio_mib: vf.mmio_mib, ..device }
        }));
    }
    mdev::sort(&mut gpu.partitions);
    // While nothing is made, all functions offer the same.
    let types = first.map(|vf| types_of(tree, vf)).unwrap_or_default();
    profiles(types.iter().filter(|kind| is_available(tree, kind)).map(|kind| kind.name.as_str()))
}

/// Makes a mediated device on the first function that can take it, and reads it back.
///
/// # Errors
/// When no function can take the type, or the UUID is taken by another device.
pub(crate) fn create(
    calls: &GpuCalls<'_>,
    pf: PciAddress,
    uuid: Uuid,
    profile: &str,
) -> Result<(), Box<Finding>> {
    let (tree, gpu) = (calls.tree(), calls.gpu());
    let is_there = || {
        let parent = tree.link(&device_dir(uuid)).ok()?.parent()?.file_name()?.parse().ok()?;
        let ours = virtual_functions(tree, pf).contains(&parent);
        Some((ours, profile_of(tree, uuid)))
    };
    match is_there() {
        Some((true, Some(found))) if found == profile => return Ok(()),
        Some((_, found)) => {
            let found = found.unwrap_or_else(|| "another device".to_owned());
            return Err(mdev::taken(gpu, uuid, &found, profile));
        }
        None => {}
    }
    let mut could = BTreeSet::new();
    for vf in virtual_functions(tree, pf).into_iter().filter(|vf| devices_on(tree, *vf).is_empty()) {
        let free: Vec<Type> =
            types_of(tree, vf).into_iter().filter(|kind| is_available(tree, kind)).collect();
        let wanted = free.iter().find(|kind| types::profile_name(&kind.name).as_deref() == Some(profile));
        let Some(kind) = wanted else {
            could.extend(profiles(free.iter().map(|kind| kind.name.as_str())));
            continue;
        };
        let written = calls.write(&format!("{}/create", kind.dir), &uuid.to_string());
        return match (is_there(), written) {
            (Some((true, Some(found))), _) if found == profile => Ok(()),
            (_, Err(error)) if error.errno().is_some() && !is_available(tree, kind) => {
                // Somebody else was faster; a later pass looks again.
                let message = format!(
                    "{vf} of GPU {gpu} did not become a {profile}: {}",
                    report::call_sentence(&error)
                );
                let hint = "Somebody else used the GPU at the same moment; it is tried again.";
                Err(report::error(gpu, Code::FewerPartitions, message, hint))
            }
            (_, Err(error)) => Err(report::call_failed(gpu, &error)),
            (_, Ok(())) => {
                let message = format!("Mediated device {uuid} of GPU {gpu} is not there after it was made.");
                Err(report::error(gpu, Code::PartitionLost, message, report::refusal_hint(None)))
            }
        };
    }
    Err(not_to_be_had(gpu, "No virtual function", profile, &could))
}

/// Mediated devices go when their functions go. Ours are removed first; others are somebody's, and whoever has one open
/// would lose it.
///
/// # Errors
/// When there are any.
pub(super) fn refuse_if_any(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<(), Box<Finding>> {
    let (tree, gpu) = (calls.tree(), calls.gpu());
    let devices: Vec<Uuid> =
        virtual_functions(tree, pf).into_iter().flat_map(|vf| devices_on(tree, vf)).collect();
    let holders = Holders::scan(tree);
    let open_by = devices.iter().flat_map(|uuid| {
        let dir = device_dir(*uuid);
        holders.of(tree, &dir, function::group_id(tree, &dir))
    });
    let open_by: Vec<_> = open_by.collect();
    if !open_by.is_empty() {
        return Err(report::in_use(gpu, &open_by));
    }
    if devices.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = devices.iter().map(Uuid::to_string).collect();
    let message =
        format!("The virtual functions of GPU {gpu} carry mediated devices: {}.", say::list(&names));
    let hint = "Remove those that Tranche did not make (mdevctl stop, or write 1 to their 'remove').";
    Err(report::error(gpu, Code::ForeignPartition, message, hint))
}

/// A type as one function offers it.
struct Type {
    dir: String,
    /// With the model: `NVIDIA A2-4Q`, and `GRID A2-4Q` by older drivers.
    name: String,
}

fn types_of(tree: &dyn Tree, vf: PciAddress) -> Vec<Type> {
    let dir = format!("{}/mdev_supported_types", mdev::parent_dir(&GpuAddress::Pci(vf)));
    let read = |directory: String| {
        // `nvidia-746`, and `vfio-pci-575` on one host: only the number at the end is certain.
        directory.rsplit_once('-')?.1.parse::<u32>().ok()?;
        let dir = format!("{dir}/{directory}");
        Some(Type { name: tree.text(&format!("{dir}/name")).ok()?, dir })
    };
    tree.list(&dir).unwrap_or_default().into_iter().filter_map(read).collect()
}

fn is_available(tree: &dyn Tree, kind: &Type) -> bool {
    let text = tree.text(&format!("{}/available_instances", kind.dir));
    text.is_ok_and(|text| text.parse::<u32>().is_ok_and(|left| left > 0))
}

fn device_dir(uuid: Uuid) -> String {
    format!("{MDEV_DEVICES}/{uuid}")
}

/// The mediated devices on a function: they lie in its directory.
fn devices_on(tree: &dyn Tree, vf: PciAddress) -> Vec<Uuid> {
    let names = tree.list(&function::dir(vf)).unwrap_or_default();
    // Nothing else in there is as long as a UUID and has its dashes.
    names.iter().filter(|name| name.len() == 36).filter_map(|name| name.parse().ok()).collect()
}

fn profile_of(tree: &dyn Tree, uuid: Uuid) -> Option<String> {
    types::profile_name(&tree.text(&format!("{}/mdev_type/name", device_dir(uuid))).ok()?)
}
