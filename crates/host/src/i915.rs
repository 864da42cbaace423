//! Intel's older driver i915: with patches it makes plain virtual functions; as it is in the kernel it makes none.
//!
//! Both show the device's SR-IOV capability, and neither says which one it is. What tells them apart is what only the
//! patched ones have: the parameter `max_vfs`, or the directory `iov` (`prelim_iov`) under the graphics device.

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::name::GpuKey;

use crate::report;
use crate::tree::Tree;

/// The driver.
pub(crate) const DRIVER: &str = "i915";

/// Whether the driver that is loaded makes virtual functions.
pub(crate) fn makes_functions(tree: &dyn Tree, pf_dir: &str) -> bool {
    let cards = tree.list(&format!("{pf_dir}/drm")).unwrap_or_default();
    let has = |card: &String, name: &str| tree.exists(&format!("{pf_dir}/drm/{card}/{name}"));
    tree.exists("sys/module/i915/parameters/max_vfs")
        || cards.iter().any(|card| has(card, "iov") || has(card, "prelim_iov"))
}

/// Why a GPU that has the capability makes no virtual functions.
pub(crate) fn unpatched(key: &GpuKey) -> Finding {
    let message =
        format!("GPU {key} has SR-IOV, which its driver {DRIVER}, as it is in the kernel, does not switch.");
    let hint = "Use Intel's driver xe (xe.force_probe=ID on the kernel's command line, where it serves this GPU), or an \
                i915 with SR-IOV from outside the kernel (i915.enable_guc=3 i915.max_vfs=7).";
    report::gpu_note(key, Code::DriverWithoutSriov, Severity::Info, message, hint)
}
