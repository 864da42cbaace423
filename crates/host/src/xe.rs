//! Intel's driver xe beyond plain SR-IOV: whether it makes virtual functions at all, and how much video memory each gets.
//!
//! ```text
//!   max_vfs = 0 ─▶ sriov_totalvfs 0: native mode          virtual functions are impossible, and why is told
//!   otherwise   ─▶ vram_quota of vf1..vfN, read back ─▶ sriov_numvfs N ─▶ vram_quota of each, read back
//! ```
//!
//! Left alone, the driver gives each function the next lower power of two of its share and keeps one share for the host.
//! Where the kernel takes quotas (`sriov_admin`, 7.0 and later) and the catalogue knows how much memory can be shared,
//! equal quotas are set before the functions are enabled; memory that has a quota is left out of what the driver does by
//! itself. Whatever the kernel makes of that is read back and shown: it has the last word.
//!
//! Functions are numbered from 1 here and from 0 everywhere else: `vf1` is `virtfn0`.
//!
//! Deliberately absent: schedulers' quanta and priorities (the driver's own are equal), and debugfs, which is no stable
//! interface.
//!
//! Facts: kernel Documentation/ABI/testing/sysfs-driver-intel-xe-sriov; drivers/gpu/drm/xe/xe_sriov_pf_provision.c,
//! xe_configfs.c.

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Gpu, Offer};
use tranche_core::name::{GpuKey, PciAddress};

use crate::calls::{CallError, GpuCalls};
use crate::discover::function;
use crate::report;
use crate::tree::Tree;

/// The driver.
pub(crate) const DRIVER: &str = "xe";
/// Quotas are multiples of this many bytes: the page size of a function's table of local memory.
const QUOTA_STEP_BYTES: u64 = 2 << 20;

/// Why a GPU that has the capability makes no virtual functions.
pub(crate) fn native_mode(tree: &dyn Tree, key: &GpuKey) -> Finding {
    let configured = format!("sys/kernel/config/xe/{}/sriov/max_vfs", key.address);
    let told = if tree.text(&configured).is_ok_and(|value| value == "0") {
        format!("/{configured} is 0")
    } else if tree.text("sys/module/xe/parameters/max_vfs").is_ok_and(|value| value == "0") {
        "its module parameter max_vfs is 0, as it is by default before kernel 7".to_owned()
    } else {
        "its firmware or one of max_vfs (module parameter, configfs) says so".to_owned()
    };
    let message =
        format!("GPU {key} has SR-IOV and runs in native mode: driver {DRIVER} allows no functions; {told}.");
    let hint = format!(
        "Put 'options xe max_vfs=7' (or more) into /etc/modprobe.d/xe.conf, or xe.max_vfs=7 on the kernel's command \
         line, and restart the host. For this GPU alone: before the driver is bound, 'mkdir -p \
         /sys/kernel/config/xe/{0}' and write the number to sriov/max_vfs in it. SR-IOV has to be on in the firmware.",
        key.address
    );
    report::gpu_note(key, Code::SriovDisabled, Severity::Info, message, &hint)
}

/// Fills in what each virtual function has of the video memory, and tells where that is not what was to be expected.
/// Quotas are read behind a lock of the driver's, so that one that hangs is told by name.
pub(crate) fn observe(calls: &GpuCalls<'_>, gpu: &mut Gpu, shared_mib: Option<u64>) -> Vec<Finding> {
    let (tree, key) = (calls.tree(), calls.gpu());
    let Some(pf) = key.address.pci().filter(|pf| takes_quotas(tree, *pf)) else { return Vec::new() };
    share_among(&mut gpu.offers, shared_mib);
    let mut unread = Vec::new();
    for partition in &mut gpu.partitions {
        let Some(index) = partition.index else { continue };
        match read_quota(calls, pf, index) {
            Ok(quota) => partition.vram_mib = quota.map(|quota| quota >> 20),
            Err(error) if error.errno() == Some(libc::EUCLEAN) => unread.push(index),
            Err(error) => tracing::debug!(gpu = %key, %error, "a quota cannot be read"),
        }
    }
    let mut notes: Vec<Finding> =
        (!unread.is_empty()).then(|| disagreement(key, &unread)).into_iter().collect();
    notes.extend(uneven(key, gpu));
    notes
}

/// Gives the first `count` functions equal quotas of the memory that can be shared, unless they have them already.
///
/// Nothing is enabled here. Where the kernel takes no quotas, or does not take these, the driver's own way is left to do
/// it: smaller partitions are better than none.
pub(crate) fn provision(calls: &GpuCalls<'_>, pf: PciAddress, count: u16, shared_mib: Option<u64>) {
    let tree = calls.tree();
    let Some(quota) = shared_mib.and_then(|shared| share_bytes(shared, count)) else { return };
    if !takes_quotas(tree, pf) {
        return;
    }
    let wanted = |index: u16| if index < count { quota } else { 0 };
    // What somebody gave to functions that will not exist would be missing for those that will.
    let mut functions: Vec<u16> = indices(tree, pf).collect();
    functions.sort_unstable_by_key(|index| std::cmp::Reverse(*index));
    for index in functions {
        let is = read_quota(calls, pf, index);
        if !matches!(is, Ok(Some(is)) if is == wanted(index))
            && let Err(error) = calls.write(&quota_path(pf, index), &wanted(index).to_string())
        {
            tracing::warn!(gpu = %calls.gpu(), %error, "quotas are refused; the driver shares by itself");
            return release(calls, pf);
        }
    }
}

/// Takes all quotas back, so that the driver shares by itself, and the host has what no function does.
pub(crate) fn release(calls: &GpuCalls<'_>, pf: PciAddress) {
    for index in indices(calls.tree(), pf) {
        if matches!(read_quota(calls, pf, index), Ok(Some(0))) {
            continue;
        }
        if let Err(error) = calls.write(&quota_path(pf, index), "0") {
            tracing::warn!(gpu = %calls.gpu(), %error, "a quota cannot be taken back");
        }
    }
}

/// The indices of the functions that could be, as the kernel lists them: `vf1` is 0.
fn indices(tree: &dyn Tree, pf: PciAddress) -> impl Iterator<Item = u16> {
    let names = tree.list(&admin_dir(pf)).unwrap_or_default();
    names.into_iter().filter_map(|name| name.strip_prefix("vf")?.parse::<u16>().ok()?.checked_sub(1))
}

fn takes_quotas(tree: &dyn Tree, pf: PciAddress) -> bool {
    tree.exists(&quota_path(pf, 0))
}

fn admin_dir(pf: PciAddress) -> String {
    format!("{}/sriov_admin", function::dir(pf))
}

fn quota_path(pf: PciAddress, index: u16) -> String {
    format!("{}/vf{}/profile/vram_quota", admin_dir(pf), u32::from(index) + 1)
}

/// A function's quota in bytes; none if it reads as no number.
fn read_quota(calls: &GpuCalls<'_>, pf: PciAddress, index: u16) -> Result<Option<u64>, CallError> {
    Ok(calls.read(&quota_path(pf, index))?.parse().ok())
}

/// An equal share, in bytes; none if there is too little for everyone.
fn share_bytes(shared_mib: u64, count: u16) -> Option<u64> {
    let share = (shared_mib << 20).checked_div(u64::from(count))?;
    Some(share / QUOTA_STEP_BYTES * QUOTA_STEP_BYTES).filter(|share| *share > 0)
}

fn share_among(offers: &mut [Offer], shared_mib: Option<u64>) {
    for offer in offers {
        offer.vram_mib =
            shared_mib.and_then(|shared| share_bytes(shared, offer.count)).map(|share| share >> 20);
    }
}

/// Quotas that differ from each other, or from what was set out to be had.
fn uneven(key: &GpuKey, gpu: &Gpu) -> Option<Finding> {
    let quotas: Vec<(u16, u64)> =
        gpu.partitions.iter().filter_map(|partition| Some((partition.index?, partition.vram_mib?))).collect();
    let (_, first) = *quotas.first()?;
    let count = u16::try_from(gpu.partitions.len()).ok()?;
    let expected = gpu.offer(count, None).and_then(|offer| offer.vram_mib);
    if quotas.iter().any(|(_, quota)| *quota != first) {
        let each: Vec<String> = quotas.iter().map(|(index, quota)| format!("{index}: {quota}")).collect();
        let message =
            format!("The partitions of GPU {key} differ in video memory (MiB): {}.", each.join(", "));
        let hint =
            "Somebody set quotas by hand. Release the GPU and split it again: equal quotas are set then.";
        return Some(report::gpu_note(key, Code::SizeMismatch, Severity::Warning, message, hint));
    }
    let expected = expected.filter(|expected| *expected != first)?;
    let message = format!(
        "Each partition of GPU {key} has {first} MiB of video memory and not {expected} MiB: the driver shared it out by itself."
    );
    let hint = "Part of the memory may be taken (ECC, the host's own use). They work; the memory shown is what they have.";
    Some(report::gpu_note(key, Code::SizeMismatch, Severity::Info, message, hint))
}

fn disagreement(key: &GpuKey, indices: &[u16]) -> Finding {
    let indices: Vec<String> = indices.iter().map(ToString::to_string).collect();
    let message = format!(
        "The tiles of GPU {key} disagree about the video memory of partitions {} (EUCLEAN).",
        indices.join(", ")
    );
    let hint = "Somebody set quotas by hand for single tiles. Release the GPU and split it again.";
    report::gpu_note(key, Code::SizeMismatch, Severity::Warning, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_whole_steps_and_never_more_than_there_is() {
        let shared_mib = 24_192;
        for count in 1..=24 {
            let share = share_bytes(shared_mib, count).unwrap();
            assert!(
                share.is_multiple_of(QUOTA_STEP_BYTES) && share * u64::from(count) <= shared_mib << 20,
                "{count}"
            );
        }
        assert_eq!(share_bytes(24_192, 2), Some(12_096 << 20));
        assert_eq!(share_bytes(1, 2), None);
        assert_eq!(share_bytes(1, 0), None);
    }
}
