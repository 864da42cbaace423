//! Virtual functions that take a type by a file of their own (the vendor-specific VFIO framework, kernel 6.8 and later).
//!
//! `creatable_vgpu_types` lists what a function can become now: nothing once it has a type, only what is of the size of
//! its siblings' types while there is room, and only a header when there is none. So it is read again before each write.
//! `current_vgpu_type` takes a number from it, or 0, which is `EPERM` while a VM has the function open.
//!
//! Facts: NVIDIA vGPU Software User Guide, "Linux with KVM Hypervisor that Uses a Vendor-Specific VFIO Framework";
//! formats as seen on hosts with L40S, A40 and H200.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{BlankVf, Gpu};
use tranche_core::name::{GpuKey, PciAddress};

use super::types::{self, TypeNames, VgpuType};
use super::{DRIVER, not_to_be_had};
use crate::calls::{CallError, GpuCalls};
use crate::catalogue::Entry;
use crate::discover::function;
use crate::discover::holders::Holders;
use crate::monitor::PartitionType;
use crate::report;
use crate::tree::Tree;

/// No type.
const NO_TYPE: u32 = 0;

/// Whether a function shows what this framework shows.
pub(super) fn is_shown(tree: &dyn Tree, vf: PciAddress) -> bool {
    tree.exists(&current_path(vf))
}

/// Tells partitions from virtual functions without a type. Returns the profiles that are listed.
pub(super) fn observe(
    tree: &dyn Tree,
    gpu: &mut Gpu,
    entry: Option<&Entry>,
    (names, told): (&TypeNames, &[PartitionType]),
) -> BTreeSet<String> {
    let vfs = std::mem::take(&mut gpu.partitions);
    let lists: Vec<VgpuType> =
        vfs.iter().filter_map(|vf| vf.vf()).flat_map(|vf| creatable(tree, vf)).collect();
    let mut typed = Vec::new();
    for vf in vfs {
        let (Some(index), Some(address)) = (vf.index, vf.vf()) else { continue };
        match current(tree, address) {
            // Without NVIDIA's driver there is no such file; the driver comes first.
            Some(NO_TYPE) | None => gpu.blanks.push(BlankVf { index, address, driver: vf.driver }),
            Some(id) => typed.push((id, vf)),
        }
    }
    names.learn(gpu.ids, lists.iter(), typed.is_empty());
    let mut known = names.of(gpu.ids);
    // Lists are read now; the driver may have been exchanged since its library was asked.
    for kind in told {
        known.entry(kind.id).or_insert_with(|| kind.profile.clone());
    }
    let is_full = lists.is_empty();
    let count = typed.len();
    for (id, mut vf) in typed {
        vf.profile = known.get(&id).cloned().or_else(|| by_catalogue(id, entry, &known, count, is_full));
        gpu.partitions.push(vf);
    }
    lists.into_iter().map(|kind| kind.profile).collect()
}

/// What the catalogue says of a number that no list has shown. Its numbers are of one driver branch: nothing is said if
/// a list contradicts them, or if a GPU with so many of that type would not be full, or overfull.
fn by_catalogue(
    id: u32,
    entry: Option<&Entry>,
    known: &BTreeMap<u32, String>,
    count: usize,
    is_full: bool,
) -> Option<String> {
    let profiles = &entry?.profiles;
    let of_another_branch = profiles.iter().any(|profile| {
        profile.type_id.and_then(|id| known.get(&id)).is_some_and(|name| *name != profile.name)
    });
    let profile = profiles.iter().find(|profile| profile.type_id == Some(id))?;
    let fits = is_full && count == usize::from(profile.max);
    (fits && !of_another_branch).then(|| profile.name.clone())
}

/// Gives a virtual function a type by its name, or takes the one that it has, and reads that back.
///
/// # Errors
/// When the type is not to be had, another one is there, or the function is open.
pub(crate) fn set(
    calls: &GpuCalls<'_>,
    names: &TypeNames,
    vf: PciAddress,
    profile: Option<&str>,
) -> Result<(), Box<Finding>> {
    let (tree, gpu) = (calls.tree(), calls.gpu());
    let Some(now) = current(tree, vf) else { return Err(without_file(calls, vf)) };
    let Some(profile) = profile else {
        return if now == NO_TYPE { Ok(()) } else { clear(calls, vf) };
    };
    if now != NO_TYPE {
        let there = name_of(calls, names, now).unwrap_or_else(|| format!("type {now}"));
        return if there == profile { Ok(()) } else { Err(other_type(gpu, vf, &there, profile)) };
    }
    let list = creatable(tree, vf);
    if let Some(ids) = gpu.address.pci().and_then(|pf| function::ids(tree, pf)) {
        // This may be the last list before the GPU is full.
        names.learn(ids, list.iter(), false);
    }
    let Some(kind) = list.iter().find(|kind| kind.profile == profile) else {
        let names = list.into_iter().map(|kind| kind.profile).collect();
        return Err(not_to_be_had(gpu, &vf.to_string(), profile, &names));
    };
    let written = calls.write(&current_path(vf), &kind.id.to_string());
    match (current(tree, vf), written) {
        (Some(id), _) if id == kind.id => Ok(()),
        (_, Err(error)) => Err(refused(gpu, vf, profile, &error)),
        (_, Ok(())) => {
            let message = format!("{vf} of GPU {gpu} is no {profile} after it was made one.");
            Err(report::error(gpu, Code::KernelRefused, message, report::refusal_hint(None)))
        }
    }
}

fn clear(calls: &GpuCalls<'_>, vf: PciAddress) -> Result<(), Box<Finding>> {
    let (tree, gpu, dir) = (calls.tree(), calls.gpu(), function::dir(vf));
    let open_by = Holders::scan(tree).of(tree, &dir, function::group_id(tree, &dir));
    if !open_by.is_empty() {
        return Err(report::in_use(gpu, &open_by));
    }
    let written = calls.write(&current_path(vf), &NO_TYPE.to_string());
    match (current(tree, vf), written) {
        (Some(NO_TYPE), _) => Ok(()),
        (_, Err(error)) if error.errno() == Some(libc::EPERM) => {
            let message = format!("{vf} of GPU {gpu} keeps its type: a VM has it open.");
            let hint = "Stop the VM that uses it; 'tranche gpu show' names it.";
            Err(report::error(gpu, Code::PartitionsInUse, message, hint))
        }
        (_, Err(error)) => Err(report::call_failed(gpu, &error)),
        (_, Ok(())) => {
            let message = format!("{vf} of GPU {gpu} still has a type after it was taken.");
            Err(report::error(gpu, Code::KernelRefused, message, report::refusal_hint(None)))
        }
    }
}

fn current_path(vf: PciAddress) -> String {
    format!("{}/nvidia/current_vgpu_type", function::dir(vf))
}

fn current(tree: &dyn Tree, vf: PciAddress) -> Option<u32> {
    tree.text(&current_path(vf)).ok()?.parse().ok()
}

fn creatable(tree: &dyn Tree, vf: PciAddress) -> Vec<VgpuType> {
    let text = tree.text(&format!("{}/nvidia/creatable_vgpu_types", function::dir(vf)));
    types::parse(&text.unwrap_or_default())
}

/// The numbers of the types that a function can take now.
pub(crate) fn creatable_numbers(tree: &dyn Tree, vf: PciAddress) -> Vec<u32> {
    creatable(tree, vf).into_iter().map(|kind| kind.id).collect()
}

/// The name of a type that a function has: it is not in that function's own list any more, but may be in its siblings'.
fn name_of(calls: &GpuCalls<'_>, names: &TypeNames, id: u32) -> Option<String> {
    let (tree, pf) = (calls.tree(), calls.gpu().address.pci()?);
    let listed = super::virtual_functions(tree, pf).into_iter().flat_map(|vf| creatable(tree, vf));
    let known = || names.of(function::ids(tree, pf)?).get(&id).cloned();
    listed.into_iter().find(|kind| kind.id == id).map(|kind| kind.profile).or_else(known)
}

fn without_file(calls: &GpuCalls<'_>, vf: PciAddress) -> Box<Finding> {
    let (tree, gpu, dir) = (calls.tree(), calls.gpu(), function::dir(vf));
    if !tree.exists(&dir) {
        return report::gone(gpu, vf);
    }
    match function::driver(tree, &dir).as_deref() {
        Some(DRIVER) => {
            let message = format!(
                "{vf} of GPU {gpu} is bound to {DRIVER}, which shows no /{} for it.",
                current_path(vf)
            );
            let hint = "The vGPU host driver makes it, on kernel 6.8 and later ('nvidia-smi -q' tells the host's vGPU mode); \
                        the data-centre driver does not. 'journalctl -k' may say why it left the function out.";
            report::error(gpu, Code::DriverMissing, message, hint)
        }
        driver => report::wrong_driver(gpu, vf, DRIVER, driver),
    }
}

fn other_type(gpu: &GpuKey, vf: PciAddress, there: &str, wanted: &str) -> Box<Finding> {
    let message = format!("{vf} of GPU {gpu} is a {there} and should become a {wanted}.");
    let hint = "Its present type is taken away first, as soon as nothing has it open.";
    report::error(gpu, Code::Drift, message, hint)
}

/// It was in the list a moment ago: somebody else made one meanwhile. A later pass reads the list again.
fn refused(gpu: &GpuKey, vf: PciAddress, profile: &str, error: &CallError) -> Box<Finding> {
    let stuck = matches!(error, CallError::Overdue { .. } | CallError::Behind { .. });
    if stuck {
        return report::call_failed(gpu, error);
    }
    let message = format!("{vf} of GPU {gpu} did not become a {profile}: {}", report::call_sentence(error));
    let hint = "Somebody else may have used the GPU at the same moment; it is tried again with a fresh list.";
    report::error(gpu, Code::KernelRefused, message, hint)
}
