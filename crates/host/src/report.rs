//! How this room words its findings: what is wrong, with what path or address, and what to do about it.
//!
//! Deciding what went wrong is done where it happens; here are only the sentences. The chain of an error is printed
//! once, here, because a finding is the end of its journey.

use std::error::Error;

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::Holder;
use tranche_core::name::{GpuKey, HostName, PciAddress};
use tranche_core::step::VFIO_DRIVER;

use crate::calls::CallError;

/// The name of an error number, as the kernel's sources write it.
pub(crate) fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ENOTTY => "ENOTTY",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ERANGE => "ERANGE",
        libc::ELOOP => "ELOOP",
        libc::EUSERS => "EUSERS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ETIMEDOUT => "ETIMEDOUT",
        _ => "error",
    }
}

/// A call that failed, in the words of its chain and with the kernel's name for the error.
pub(crate) fn call_sentence(error: &CallError) -> String {
    match (error.errno(), error.source()) {
        (Some(errno), Some(source)) => format!("{error}: {} ({source}).", errno_name(errno)),
        (_, Some(source)) => format!("{error}: {source}."),
        (_, None) => format!("{error}."),
    }
}

/// An error about a GPU with the code, message and hint given.
pub(crate) fn error(gpu: &GpuKey, code: Code, message: String, hint: impl Into<String>) -> Box<Finding> {
    Box::new(say::finding(code, Severity::Error, Subject::Gpu(gpu.clone()), message, hint))
}

/// A kernel call that failed, where the step has nothing better to say about it.
pub(crate) fn call_failed(gpu: &GpuKey, call: &CallError) -> Box<Finding> {
    match call {
        CallError::Overdue { .. } | CallError::Behind { .. } => {
            Box::new(say::call_stuck(gpu, &call.to_string()))
        }
        CallError::Failed { .. } => {
            let message = format!("On GPU {gpu}, {}", call_sentence(call));
            error(gpu, Code::KernelRefused, message, refusal_hint(call.errno()))
        }
    }
}

/// What a person can do about a refused write, by its error number.
pub(crate) fn refusal_hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM | libc::EACCES) => {
            "Run the daemon as root, and look whether kernel lockdown or a security module forbids the write."
        }
        Some(libc::EROFS) => {
            "Make /sys writable for the daemon: it is mounted read-only here, as in containers."
        }
        Some(libc::ENOENT | libc::ENODEV) => {
            "Look whether the device and its driver are still there (lspci -k)."
        }
        Some(libc::ENOMEM) => {
            "Give the device more room: switch on 'Above 4G decoding' and a large MMIO window in the firmware, or boot \
             with pci=realloc; the kernel log says which window or bus range was too small."
        }
        Some(libc::EBUSY | libc::EAGAIN) => {
            "Wait: something else changes the device; this is tried again by itself."
        }
        _ => {
            "Look into the kernel log (journalctl -k) for the driver's reason; this is tried again by itself."
        }
    }
}

/// The GPU or function has disappeared.
pub(crate) fn gone(gpu: &GpuKey, function: PciAddress) -> Box<Finding> {
    let message = format!("Function {function} of GPU {gpu} is not there.");
    let hint =
        "Look into the kernel log for a hot-unplug or a link error; rescan the bus or restart the host.";
    error(gpu, Code::GpuGone, message, hint)
}

/// Something that has to be free is open.
pub(crate) fn in_use(gpu: &GpuKey, holders: &[Holder]) -> Box<Finding> {
    let users: Vec<String> = holders.iter().map(say::describe_holder).collect();
    Box::new(say::partitions_in_use(gpu, &users))
}

/// A function is bound to another driver than it was given to.
pub(crate) fn wrong_driver(
    gpu: &GpuKey,
    function: PciAddress,
    needed: &str,
    found: Option<&str>,
) -> Box<Finding> {
    if found.is_some() {
        let subject = Subject::Gpu(gpu.clone());
        return Box::new(say::wrong_driver(subject, &format!("Function {function}"), found, needed));
    }
    let message = format!("Function {function} of GPU {gpu} has no driver and needs {needed}.");
    let hint =
        format!("Load it (modprobe {needed}), and look into the kernel log for why it refuses the function.");
    error(gpu, Code::WrongDriver, message, hint)
}

/// A function without an IOMMU group can be handed to nobody.
pub(crate) fn not_isolated(gpu: &GpuKey, function: PciAddress) -> Box<Finding> {
    let message = format!(
        "Function {function} of GPU {gpu} is in no IOMMU group, and {VFIO_DRIVER} takes none that is not."
    );
    let hint = "Turn the IOMMU on: in the firmware (VT-d, AMD-Vi), and with 'intel_iommu=on' on the kernel's command line.";
    error(gpu, Code::WrongDriver, message, hint.to_owned())
}

/// The host itself hands a function to VMs.
pub(crate) fn kept_by_host(gpu: &GpuKey, function: PciAddress) -> Box<Finding> {
    let message = format!(
        "Function {function} of GPU {gpu} was given back, and the host bound {VFIO_DRIVER} to it again."
    );
    let hint = format!(
        "Something names it or its ids: 'vfio-pci.ids=' in /proc/cmdline, or 'options {VFIO_DRIVER} ids=' in /etc/modprobe.d. Take \
         that away and reboot; its own driver can have it then."
    );
    error(gpu, Code::WrongDriver, message, hint)
}

/// Something about the host that is amiss, seen while observing.
pub(crate) fn host_note(host: &HostName, code: Code, message: String, hint: &str) -> Finding {
    say::finding(code, Severity::Warning, Subject::Host(host.clone()), message, hint)
}

/// Something about a GPU that is worth knowing, seen while observing.
pub(crate) fn gpu_note(gpu: &GpuKey, code: Code, severity: Severity, message: String, hint: &str) -> Finding {
    say::finding(code, severity, Subject::Gpu(gpu.clone()), message, hint)
}
