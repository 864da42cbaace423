//! NVIDIA's vGPU: all virtual functions or none, switched by the vendor's tool, and a type for each that is used.
//!
//! ```text
//!            sriov-manage -e            a type, read back               opened by a VM
//!   0 VFs ───────────────────▶ blank ─────────────────────▶ partition ──────────────────▶ in use: nothing is taken
//!          ◀───────────────────       ◀─────────────────────
//!            sriov-manage -d            no type, read back
//! ```
//!
//! `sriov_numvfs` answers `ENOENT` with NVIDIA's driver, and its tool always enables all virtual functions. How many
//! partitions there are follows from their type. How a function is given one depends on the kernel, not on the GPU: by
//! a file of its own since Linux 6.8 ([`typed`]), by a mediated device before ([`mediated`]). Types are matched by name:
//! numbers differ between driver branches. Virtual functions stay on the driver `nvidia`; vfio-pci breaks them.
//!
//! Deliberately absent: retries. The tool fails while a process has the GPU open; the finding names it, and a later pass
//! tries again, after a pause that grows.
//!
//! Facts: NVIDIA vGPU Software User Guide, "Creating an NVIDIA vGPU on a Linux with KVM Hypervisor".

pub(crate) mod mediated;
pub(crate) mod mixed;
mod told;
pub(crate) mod typed;
mod types;

use std::collections::BTreeSet;

use camino::Utf8Path;
use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Backend, Gpu, Holder, Offer};
use tranche_core::name::{GpuKey, PciAddress};
use tranche_core::step::VFIO_DRIVER;

pub(crate) use self::types::{TypeNames, profile_name};
use crate::calls::GpuCalls;
use crate::catalogue::Entry;
use crate::discover::function;
use crate::discover::holders::{Holders, users_of_nodes};
use crate::monitor::PartitionType;
use crate::tree::{Ran, Tree};
use crate::{mdev, report, sriov};

/// NVIDIA's number among vendors.
const VENDOR: u16 = 0x10de;
/// NVIDIA's driver, for physical and virtual functions alike.
pub(crate) const DRIVER: &str = "nvidia";
/// NVIDIA's tool that switches virtual functions.
pub(crate) const TOOL: &str = "usr/lib/nvidia/sriov-manage";
/// The first kernel on which virtual functions take types by a file of their own.
const VENDOR_VFIO_SINCE: (u32, u32) = (6, 8);

/// Tells partitions from virtual functions without a type, and says what the GPU can be split into.
pub(crate) fn observe(
    tree: &dyn Tree,
    key: &GpuKey,
    gpu: &mut Gpu,
    (entry, types): (Option<&Entry>, &[PartitionType]),
    (holders, names): (&Holders, &TypeNames),
) -> Vec<Finding> {
    if !matches!(gpu.driver.as_deref(), Some(DRIVER | VFIO_DRIVER)) {
        return gpu.driver.iter().map(|driver| other_driver(key, driver)).collect();
    }
    let backend = framework(tree, gpu);
    gpu.backend = Some(backend);
    let total_vfs = gpu.sriov.as_ref().map_or(0, |sriov| sriov.total_vfs);
    let types: Vec<PartitionType> =
        types.iter().map(|kind| PartitionType { max: kind.max.min(total_vfs), ..kind.clone() }).collect();
    let types = &types[..];
    // A GPU that was said to serve whole only may have learnt more since.
    let entry = entry.filter(|entry| !entry.profiles.is_empty());
    let mut notes: Vec<Finding> = told::contradictions(key, entry, types).into_iter().collect();
    let is_listed = entry.is_some();
    let entry = told::corrected(entry, types);
    let listed = if backend == Backend::TypedVf {
        DRIVER.clone_into(&mut gpu.partition_driver);
        typed::observe(tree, gpu, entry.as_deref(), (names, types))
    } else {
        mediated::observe(tree, key, gpu, holders)
    };
    // A list that shrank because of what exists says nothing about what the GPU could be split into.
    let listed = (gpu.partitions.is_empty() && !listed.is_empty()).then_some(listed);
    let possible = match (listed, told::names(types)) {
        (Some(listed), Some(told)) => Some(&listed & &told),
        (listed, told) => listed.or(told),
    };
    let Some(entry) = entry else {
        notes.push(unlisted(key));
        return notes;
    };
    let is_possible = |offer: &Offer| possible.as_ref().is_none_or(|names| names.contains(&offer.profile));
    let (offered, missing): (Vec<Offer>, Vec<Offer>) = offers(&entry).into_iter().partition(is_possible);
    gpu.offers = offered;
    // Where sizes lie beside each other is inferred for GPUs that the catalogue knows.
    if backend == Backend::TypedVf && is_listed {
        gpu.mixed = mixed::sizes(&entry, possible.as_ref());
    }
    let missing: Vec<&str> = missing.iter().map(|offer| offer.profile.as_str()).collect();
    if !missing.is_empty() {
        notes.push(not_offered(key, &missing));
    }
    notes
}

/// Whether only NVIDIA's tool makes virtual functions of a GPU, whether or not the catalogue knows it.
pub(crate) fn is_for(gpu: &Gpu) -> bool {
    let total_vfs = gpu.sriov.as_ref().map_or(0, |sriov| sriov.total_vfs);
    gpu.ids.vendor == VENDOR && total_vfs > 0
}

/// How virtual functions take types: by what they show; while there are none, by the kernel's version.
fn framework(tree: &dyn Tree, gpu: &Gpu) -> Backend {
    let vfs: Vec<PciAddress> = gpu.partitions.iter().filter_map(|vf| vf.vf()).collect();
    if vfs.iter().any(|vf| typed::is_shown(tree, *vf)) {
        Backend::TypedVf
    } else if vfs.iter().any(|vf| mediated::is_parent(tree, *vf)) {
        Backend::VfMdev
    } else {
        let release = tree.text("proc/sys/kernel/osrelease").unwrap_or_default();
        let older = kernel_version(&release).is_some_and(|version| version < VENDOR_VFIO_SINCE);
        if older { Backend::VfMdev } else { Backend::TypedVf }
    }
}

/// The first two numbers of a kernel's release: `6.8.0-59-generic`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What the catalogue says that a GPU can be split into: the default series first.
fn offers(entry: &Entry) -> Vec<Offer> {
    let mut series: Vec<Option<&str>> =
        entry.profiles.iter().map(|profile| profile.series.as_deref()).collect();
    series.sort_by_key(|series| (*series != entry.default_series.as_deref(), *series));
    series.dedup();
    let of_series = |series: Option<&str>| {
        entry
            .counts(series)
            .into_iter()
            .map(|(count, profile)| Offer {
                count,
                profile: profile.name.clone(),
                series: profile.series.clone(),
                vram_mib: Some(profile.usable_mib.unwrap_or(profile.size_mib)),
            })
            .collect::<Vec<_>>()
    };
    series.into_iter().flat_map(of_series).collect()
}

/// Enables all virtual functions by the vendor's tool, and reads them back.
///
/// # Errors
/// When the tool is missing or fails, with the processes that have the GPU open; when fewer appear than there should.
pub(crate) fn enable(calls: &GpuCalls<'_>, pf: PciAddress, count: u16) -> Result<(), Box<Finding>> {
    if sriov::enabled(calls, pf)? != count {
        manage(calls, pf, "-e", count)?;
    }
    sriov::read_back(calls, pf, count)
}

/// Disables all virtual functions by the vendor's tool, if none is in use, and reads that back.
///
/// # Errors
/// When one is open or carries a mediated device, or the tool is missing or fails.
pub(crate) fn disable(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<(), Box<Finding>> {
    if sriov::enabled(calls, pf)? == 0 {
        return Ok(());
    }
    sriov::refuse_if_open(calls, pf)?;
    mediated::refuse_if_any(calls, pf)?;
    manage(calls, pf, "-d", 0)?;
    sriov::read_back(calls, pf, 0)
}

/// Runs the tool. What it brought about counts, and not how it ended; how it ended tells why it did not.
fn manage(calls: &GpuCalls<'_>, pf: PciAddress, switch: &str, count: u16) -> Result<(), Box<Finding>> {
    let gpu = calls.gpu();
    let ran = match calls.run_tool(TOOL, &[switch, &pf.to_string()]) {
        Ok(ran) => ran,
        Err(error) if error.errno() == Some(libc::ENOENT) => {
            let message =
                format!("/{TOOL} is missing, and only it switches the virtual functions of GPU {gpu}.");
            let hint = "Install NVIDIA's vGPU host driver (the package of the vGPU software, not the data-centre driver).";
            return Err(report::error(gpu, Code::DriverMissing, message, hint));
        }
        Err(error) => return Err(report::call_failed(gpu, &error)),
    };
    if ran.success || sriov::enabled(calls, pf)? == count {
        return Ok(());
    }
    Err(tool_failed(calls, pf, switch, &ran))
}

fn tool_failed(calls: &GpuCalls<'_>, pf: PciAddress, switch: &str, ran: &Ran) -> Box<Finding> {
    let gpu = calls.gpu();
    let message = format!("sriov-manage {switch} on GPU {gpu} failed; it said: {}.", ran.last_words());
    let users: Vec<String> = users(calls, pf).iter().map(say::describe_holder).collect();
    let hint = if users.is_empty() {
        "It is tried again. 'journalctl -u nvidia-vgpu-mgr' and the kernel log tell more; the IOMMU must be on.".to_owned()
    } else {
        let users = say::list(&users);
        format!("It is tried again. Nothing may have the GPU open meanwhile, and these have: {users}.")
    };
    report::error(gpu, Code::KernelRefused, message, hint)
}

/// The processes that have the GPU open through the driver's own node, which keeps the driver from letting go of it.
fn users(calls: &GpuCalls<'_>, pf: PciAddress) -> Vec<Holder> {
    users_of_nodes(calls.tree(), own_node(calls, pf))
}

/// Tells the driver's own node of a GPU.
pub(crate) fn own_node(calls: &GpuCalls<'_>, pf: PciAddress) -> impl Fn(&Utf8Path) -> bool {
    let told = calls.read(&format!("proc/driver/nvidia/gpus/{pf}/information")).unwrap_or_default();
    let minor = told.lines().find_map(|line| line.strip_prefix("Device Minor:"));
    let minor = minor.map(|minor| minor.trim().to_owned());
    move |node| {
        let number = node.as_str().strip_prefix("/dev/nvidia").unwrap_or_default();
        // Without its number, every GPU's node counts; they alone are called by numbers.
        minor.as_ref().map_or_else(|| number.parse::<u32>().is_ok(), |minor| minor == number)
    }
}

/// The virtual functions of a GPU, in the order of their indices.
fn virtual_functions(tree: &dyn Tree, pf: PciAddress) -> Vec<PciAddress> {
    function::virtual_functions(tree, &function::dir(pf)).into_values().collect()
}

/// The profiles of a list.
fn profiles<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    names.filter_map(types::profile_name).collect()
}

/// Whether mediated devices are made on the GPU's virtual functions, and not on itself.
pub(crate) fn is_mediated(calls: &GpuCalls<'_>, pf: PciAddress) -> bool {
    let (tree, gpu) = (calls.tree(), calls.gpu());
    !tree.exists(&mdev::parent_dir(&gpu.address)) && !virtual_functions(tree, pf).is_empty()
}

fn other_driver(key: &GpuKey, driver: &str) -> Finding {
    let message = format!("GPU {key} is bound to {driver}; only NVIDIA's vGPU host driver splits it.");
    let hint = "Install the host driver of the vGPU software; until then the GPU can be given to a VM whole.";
    report::gpu_note(key, Code::WrongDriver, Severity::Info, message, hint)
}

fn unlisted(key: &GpuKey) -> Finding {
    let message = format!("Neither the catalogue nor its driver says what GPU {key} can be split into.");
    let hint = "The driver says it where the host driver of the vGPU software and its library are installed. Until then the GPU \
                can be given to a VM whole.";
    report::gpu_note(key, Code::NotPartitionable, Severity::Info, message, hint)
}

fn not_offered(key: &GpuKey, missing: &[&str]) -> Finding {
    let message =
        format!("The driver of GPU {key} does not offer what the catalogue expects: {}.", say::list(missing));
    let hint = "The driver has the last word. Another driver branch or another licence may offer them.";
    report::gpu_note(key, Code::SizeMismatch, Severity::Info, message, hint)
}

/// A type that cannot be had at present, with those that can.
fn not_to_be_had(gpu: &GpuKey, what: &str, profile: &str, names: &BTreeSet<String>) -> Box<Finding> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let message = if names.is_empty() {
        format!("{what} of GPU {gpu} can take no type at present, so no {profile}.")
    } else {
        let names = say::list(&names);
        format!("{what} of GPU {gpu} cannot become a {profile} at present; it could become: {names}.")
    };
    let hint = "Other functions of the GPU have types already, perhaps of another size; 'tranche gpu show' lists them.";
    report::error(gpu, Code::FewerPartitions, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framework_follows_the_first_two_numbers_of_the_kernel() {
        assert_eq!(kernel_version("6.8.0-59-generic"), Some((6, 8)));
        assert_eq!(kernel_version("5.14.0-503.11.1.el9_5.x86_64"), Some((5, 14)));
        assert_eq!(kernel_version("6.12"), Some((6, 12)));
        for junk in ["", "6", "six.eight", "6.x"] {
            assert_eq!(kernel_version(junk), None, "{junk}");
        }
    }
}
