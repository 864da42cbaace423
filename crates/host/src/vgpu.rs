//! NVIDIA's vGPU where each virtual function takes a type (the vendor-specific VFIO framework, kernel 6.8 and later).
//!
//! ```text
//!            sriov-manage -e            type id, read back              opened by a VM
//!   0 VFs ───────────────────▶ blank ─────────────────────▶ partition ──────────────────▶ in use: 0 gives EPERM
//!          ◀───────────────────       ◀─────────────────────
//!            sriov-manage -d            0, read back
//! ```
//!
//! `sriov_numvfs` answers `ENOENT` with NVIDIA's driver, and its tool always enables all virtual functions. How many
//! partitions there are follows from their type. Types are matched by name: numbers differ between driver branches. The
//! list of types that a function can take shrinks as its siblings take some, so it is read again before each write.
//! Virtual functions stay on the driver `nvidia`; binding vfio-pci to one breaks it.
//!
//! Deliberately absent: retries. The tool fails while a process has the GPU open; the finding names it, and a later pass
//! tries again.
//!
//! Facts: NVIDIA vGPU Software User Guide, "Creating an NVIDIA vGPU on a Linux with KVM Hypervisor that Uses a
//! Vendor-Specific VFIO Framework"; formats as seen on hosts with L40S, A40 and H200.

use std::collections::BTreeMap;

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Backend, BlankVf, Gpu, Offer};
use tranche_core::name::{GpuKey, PciAddress};

use crate::calls::{CallError, GpuCalls};
use crate::catalogue::Entry;
use crate::discover::function;
use crate::discover::holders::{Holders, users_of_nodes};
use crate::tree::Tree;
use crate::{report, sriov};

/// NVIDIA's driver, for physical and virtual functions alike.
pub(crate) const DRIVER: &str = "nvidia";
/// NVIDIA's tool that switches virtual functions.
pub(crate) const TOOL: &str = "usr/lib/nvidia/sriov-manage";
/// No type.
const NO_TYPE: u32 = 0;

/// Tells partitions from virtual functions without a type, and says what the GPU can be split into.
pub(crate) fn observe(tree: &dyn Tree, key: &GpuKey, gpu: &mut Gpu, entry: Option<&Entry>) -> Vec<Finding> {
    gpu.backend = Some(Backend::TypedVf);
    DRIVER.clone_into(&mut gpu.partition_driver);
    let lists: BTreeMap<PciAddress, Vec<VgpuType>> =
        gpu.partitions.iter().filter_map(|vf| vf.vf()).map(|vf| (vf, creatable(tree, vf))).collect();
    let (mut partitions, mut blanks) = (Vec::new(), Vec::new());
    for mut vf in std::mem::take(&mut gpu.partitions) {
        let (Some(index), Some(address)) = (vf.index, vf.vf()) else { continue };
        match current(tree, address) {
            Some(NO_TYPE) | None => blanks.push(BlankVf { index, address, driver: vf.driver }),
            Some(id) => {
                vf.profile = Some(name_of(id, &lists, entry));
                partitions.push(vf);
            }
        }
    }
    let idle = partitions.is_empty();
    (gpu.partitions, gpu.blanks) = (partitions, blanks);
    let listed: Vec<&VgpuType> = lists.values().flatten().collect();
    let claimed = entry.map(offers).unwrap_or_default();
    let is_listed = |offer: &Offer| listed.iter().any(|kind| kind.profile == offer.profile);
    // A list that shrank because of what exists says nothing about what the GPU could be split into.
    let told = idle && !listed.is_empty();
    let missing: Vec<&str> = claimed
        .iter()
        .filter(|offer| told && !is_listed(offer))
        .map(|offer| offer.profile.as_str())
        .collect();
    let notes = if missing.is_empty() { Vec::new() } else { vec![not_offered(key, &missing)] };
    gpu.offers = claimed.iter().filter(|offer| !told || is_listed(offer)).cloned().collect();
    notes
}

/// Enables all virtual functions by the vendor's tool, and reads them back.
///
/// # Errors
/// When the tool is missing or fails, with the processes that have the GPU open; when fewer appear than there should.
pub(crate) fn enable(calls: &GpuCalls<'_>, pf: PciAddress, count: u16) -> Result<(), Box<Finding>> {
    if sriov::enabled(calls, pf)? != count {
        manage(calls, pf, "-e")?;
    }
    sriov::read_back(calls, pf, count)
}

/// Disables all virtual functions by the vendor's tool, if none is open, and reads that back.
///
/// # Errors
/// When one is open, or the tool is missing or fails.
pub(crate) fn disable(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<(), Box<Finding>> {
    if sriov::enabled(calls, pf)? == 0 {
        return Ok(());
    }
    sriov::refuse_if_open(calls, pf)?;
    manage(calls, pf, "-d")?;
    sriov::read_back(calls, pf, 0)
}

/// Gives a virtual function a type by its name, or takes the one that it has, and reads that back.
///
/// # Errors
/// When the type is not to be had, another one is there, or the function is open.
pub(crate) fn set(calls: &GpuCalls<'_>, vf: PciAddress, profile: Option<&str>) -> Result<(), Box<Finding>> {
    let (tree, gpu) = (calls.tree(), calls.gpu());
    let Some(now) = current(tree, vf) else { return Err(report::gone(gpu, vf)) };
    let Some(profile) = profile else {
        return if now == NO_TYPE { Ok(()) } else { clear(calls, vf) };
    };
    let list = creatable(tree, vf);
    if now != NO_TYPE {
        let siblings = siblings(tree, vf);
        let lists = siblings.into_iter().map(|sibling| (sibling, creatable(tree, sibling))).collect();
        let there = name_of(now, &lists, None);
        return if there == profile { Ok(()) } else { Err(other_type(gpu, vf, &there, profile)) };
    }
    let Some(kind) = list.iter().find(|kind| kind.profile == profile) else {
        let names: Vec<&str> = list.iter().map(|kind| kind.profile.as_str()).collect();
        return Err(not_to_be_had(gpu, vf, profile, &names));
    };
    let written = calls.write(&current_path(vf), &kind.id.to_string());
    match (current(tree, vf), written) {
        (Some(id), _) if id == kind.id => Ok(()),
        // It was in the list a moment ago: somebody else made one meanwhile. A later pass reads the list again.
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

fn manage(calls: &GpuCalls<'_>, pf: PciAddress, switch: &str) -> Result<(), Box<Finding>> {
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
    if ran.success {
        return Ok(());
    }
    let users = users_of_nodes(calls.tree(), "/dev/nvidia");
    let said = ran.said.lines().last().unwrap_or("nothing").trim().to_owned();
    let message = format!("sriov-manage {switch} on GPU {gpu} failed; it said: {said}.");
    let hint = if users.is_empty() {
        "It is tried again. 'journalctl -u nvidia-vgpu-mgr' and the kernel log tell more; the IOMMU must be on.".to_owned()
    } else {
        let names: Vec<String> = users.iter().map(say::describe_holder).collect();
        format!(
            "It is tried again. The GPU must be idle meanwhile; these have NVIDIA devices open: {}.",
            say::list(&names)
        )
    };
    Err(report::error(gpu, Code::KernelRefused, message, hint))
}

/// A type that a virtual function can take.
#[derive(Debug, Clone, PartialEq, Eq)]
struct VgpuType {
    id: u32,
    /// The name without the model: `24Q`.
    profile: String,
}

fn current_path(vf: PciAddress) -> String {
    format!("{}/nvidia/current_vgpu_type", function::dir(vf))
}

fn current(tree: &dyn Tree, vf: PciAddress) -> Option<u32> {
    tree.text(&current_path(vf)).ok()?.parse().ok()
}

fn creatable(tree: &dyn Tree, vf: PciAddress) -> Vec<VgpuType> {
    let text = tree.text(&format!("{}/nvidia/creatable_vgpu_types", function::dir(vf)));
    parse_types(&text.unwrap_or_default())
}

fn siblings(tree: &dyn Tree, vf: PciAddress) -> Vec<PciAddress> {
    let pf = tree.link_name(&format!("{}/physfn", function::dir(vf))).ok();
    let pf = pf.and_then(|name| name.parse::<PciAddress>().ok());
    pf.map(|pf| function::virtual_functions(tree, &function::dir(pf)).into_values().collect())
        .unwrap_or_default()
}

/// Every format that was seen: `1145  : NVIDIA L40S-1B` under a header, the same without one, and the guide's
/// `NVIDIA A40-1Q   557`. A list of nothing but the header is an empty list.
fn parse_types(text: &str) -> Vec<VgpuType> {
    let parse = |line: &str| {
        let (id, name) = match line.split_once(':') {
            Some((id, name)) => (id.trim(), name.trim()),
            None => {
                line.trim().rsplit_once(char::is_whitespace).map(|(name, id)| (id.trim(), name.trim()))?
            }
        };
        Some(VgpuType { id: id.parse().ok()?, profile: profile_name(name)? })
    };
    text.lines().filter_map(parse).collect()
}

/// `NVIDIA L40S-24Q`, `GRID A2-4Q`: what follows the model.
fn profile_name(name: &str) -> Option<String> {
    let (_, profile) = name.rsplit_once('-')?;
    (!profile.is_empty()).then(|| profile.to_owned())
}

/// The name of a type that a function has: it is not in that function's own list any more, so siblings are asked, then
/// the catalogue, whose numbers are of one driver branch.
fn name_of(id: u32, lists: &BTreeMap<PciAddress, Vec<VgpuType>>, entry: Option<&Entry>) -> String {
    let listed = lists.values().flatten().find(|kind| kind.id == id).map(|kind| kind.profile.clone());
    let known = || {
        let profiles = entry.map_or(&[][..], |entry| &entry.profiles);
        profiles.iter().find(|profile| profile.type_id == Some(id)).map(|profile| profile.name.clone())
    };
    listed.or_else(known).unwrap_or_else(|| format!("type {id}"))
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

fn not_offered(key: &GpuKey, missing: &[&str]) -> Finding {
    let message =
        format!("The driver of GPU {key} does not offer what the catalogue expects: {}.", say::list(missing));
    let hint = "The driver has the last word. Another driver branch or another licence may offer them.";
    report::gpu_note(key, Code::SizeMismatch, Severity::Info, message, hint)
}

fn other_type(gpu: &GpuKey, vf: PciAddress, there: &str, wanted: &str) -> Box<Finding> {
    let message = format!("{vf} of GPU {gpu} is a {there} and should become a {wanted}.");
    let hint = "Its present type is taken away first, as soon as nothing has it open.";
    report::error(gpu, Code::Drift, message, hint)
}

fn not_to_be_had(gpu: &GpuKey, vf: PciAddress, profile: &str, names: &[&str]) -> Box<Finding> {
    let message = if names.is_empty() {
        format!("{vf} of GPU {gpu} can take no type at present, so no {profile}.")
    } else {
        format!(
            "{vf} of GPU {gpu} cannot become a {profile} at present; it could become: {}.",
            say::list(names)
        )
    };
    let hint = "Other functions of the GPU have types already, perhaps of another size; 'tranche gpu show' lists them.";
    report::error(gpu, Code::FewerPartitions, message, hint)
}

fn refused(gpu: &GpuKey, vf: PciAddress, profile: &str, error: &CallError) -> Box<Finding> {
    let message = format!("{vf} of GPU {gpu} did not become a {profile}: {}", report::call_sentence(error));
    let hint = "Somebody else may have used the GPU at the same moment; it is tried again with a fresh list.";
    report::error(gpu, Code::KernelRefused, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(u32, String)> {
        parse_types(text).into_iter().map(|kind| (kind.id, kind.profile)).collect()
    }

    #[test]
    fn every_format_of_the_list_that_was_seen_is_read() {
        let l40s = "ID    : vGPU Name\n1145  : NVIDIA L40S-1B\n2164  : NVIDIA L40S-3B\n";
        assert_eq!(names(l40s), [(1145, "1B".to_owned()), (2164, "3B".to_owned())]);
        assert_eq!(names("1428 : NVIDIA H200X-141C"), [(1428, "141C".to_owned())]);
        assert_eq!(
            names("NVIDIA A40-1Q   557\nNVIDIA A40-2Q   558"),
            [(557, "1Q".to_owned()), (558, "2Q".to_owned())]
        );
        assert_eq!(names("ID    : vGPU Name\n"), [], "a list of nothing but its header");
        assert_eq!(names(""), []);
    }
}
