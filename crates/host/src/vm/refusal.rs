//! How a hypervisor's refusals are worded, the same for the real one and the model.

use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::name::VmName;
use tranche_core::step::Step;

/// libvirt refused, in its own words.
pub(super) fn refused(vm: &VmName, doing: &str, words: &str, hint: impl Into<String>) -> Box<Finding> {
    let message = format!("libvirt refused to {doing} of VM {vm}: {}.", words.trim_end_matches('.'));
    Box::new(finding(Code::LibvirtRefused, Severity::Error, Subject::Vm(vm.clone()), message, hint))
}

/// Where the rest of libvirt's story stands.
pub(super) fn logs_hint(vm: &VmName) -> String {
    format!("'journalctl -u libvirtd' and /var/log/libvirt/qemu/{vm}.log say more.")
}

/// libvirt is away, or silent.
pub(super) fn down(vm: &VmName, reason: &str) -> Box<Finding> {
    let message = format!("libvirt does not answer about VM {vm}: {}.", reason.trim_end_matches('.'));
    let hint = "'systemctl status libvirtd' tells why. It is tried again by itself.";
    Box::new(finding(Code::LibvirtDown, Severity::Error, Subject::Vm(vm.clone()), message, hint))
}

/// libvirt is still at it.
#[cfg(feature = "libvirt")]
pub(super) fn slow(vm: &VmName, late: &str) -> Box<Finding> {
    let message = format!("libvirt has not finished with VM {vm}: {}.", late.trim_end_matches('.'));
    let hint = format!(
        "It goes on by itself: a start pins all memory of the VM, which may take minutes. 'virsh domjobinfo {vm}' and \
         /var/log/libvirt/qemu/{vm}.log say more."
    );
    Box::new(finding(Code::LibvirtSlow, Severity::Warning, Subject::Vm(vm.clone()), message, hint))
}

/// A step that is not about a VM came to the hypervisor.
pub(super) fn not_about_a_vm(step: &Step) -> Box<Finding> {
    let message = format!("The hypervisor was asked to {step}, which is not its work.");
    Box::new(tranche_core::diagnostics::invariant(Subject::Installation, message))
}
