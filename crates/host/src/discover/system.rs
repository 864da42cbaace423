//! Facts about the machine: kernel, processor, memory, IOMMU, KVM.

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Iommu, SystemFacts};
use tranche_core::name::HostName;

use super::parse;
use crate::report;
use crate::tree::Tree;

/// What of `/proc/cpuinfo` is read, in bytes: its first processor.
const CPUINFO_LEN_MAX: usize = 4096;

/// Reads the facts. What is missing from the tree is empty or zero.
pub(crate) fn facts(tree: &dyn Tree) -> SystemFacts {
    let text = |path: &str| tree.text(path).unwrap_or_default();
    let cpuinfo = tree.head("proc/cpuinfo", CPUINFO_LEN_MAX).unwrap_or_default();
    let cpuinfo = String::from_utf8_lossy(&cpuinfo);
    let meminfo = text("proc/meminfo");
    let memory_kib =
        parse::field(&meminfo, "MemTotal").and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
    SystemFacts {
        kernel: text("proc/sys/kernel/osrelease"),
        cpu_model: parse::field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        cpus: parse::cpu_list_len(&text("sys/devices/system/cpu/online")),
        memory_mib: memory_kib.unwrap_or(0) / 1024,
        iommu: iommu(tree),
    }
}

/// The boot's id; empty in a tree that has none.
pub(crate) fn boot_id(tree: &dyn Tree) -> String {
    tree.text("proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// What is amiss with the machine itself.
pub(crate) fn notes(tree: &dyn Tree, host: &HostName) -> Vec<Finding> {
    // A captured tree seldom has device nodes; their absence there says nothing.
    if !tree.exists("dev") || tree.exists("dev/kvm") {
        return Vec::new();
    }
    let message = format!("Host {host} has no /dev/kvm.");
    let hint = "Switch on virtualisation in the firmware and load kvm_intel or kvm_amd; without it VMs are emulated.";
    vec![report::host_note(host, Code::KvmMissing, message, hint)]
}

fn iommu(tree: &dyn Tree) -> Iommu {
    match tree.list("sys/class/iommu") {
        Ok(units) if !units.is_empty() => Iommu::On { units },
        _ => Iommu::Off,
    }
}
