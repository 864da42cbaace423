//! Facts about the machine: kernel, processor, memory, IOMMU, KVM.

use std::io;

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Iommu, NumaNode, SystemFacts};
use tranche_core::name::HostName;

use super::{parse, processor};
use crate::report;
use crate::tree::Tree;
use crate::watchdog;

/// What of `/proc/cpuinfo` is read, in bytes: its first processor.
const CPUINFO_LEN_MAX: usize = 8192;
/// Where the kernel tells of NUMA nodes.
const NODES: &str = "sys/devices/system/node";

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
        cpu_features: processor::features(&cpuinfo),
        cpus: parse::cpu_list_len(&text("sys/devices/system/cpu/online")),
        memory_mib: memory_kib.unwrap_or(0) / 1024,
        iommu: iommu(tree),
        iommufd: tree.exists("dev/iommu"),
        watchdog: watchdog::all(tree).into_iter().next(),
        numa: numa(tree),
    }
}

/// The NUMA nodes that have processors and memory (Linux, Documentation/ABI/stable/sysfs-devices-node).
fn numa(tree: &dyn Tree) -> Vec<NumaNode> {
    let names = tree.list(NODES).unwrap_or_default();
    let node = |name: &String| {
        let id = parse::numbered(name, "node")?;
        let cpus = tree.text(&format!("{NODES}/{name}/cpulist")).ok()?;
        // Each line begins with the node: "Node 0 MemTotal:       65536 kB".
        let meminfo = tree.text(&format!("{NODES}/{name}/meminfo")).ok()?;
        let total = parse::field(&meminfo, &format!("Node {id} MemTotal"))?;
        let memory_mib = total.strip_suffix(" kB")?.parse::<u64>().ok()? / 1024;
        let cpu_count = parse::cpu_list_len(&cpus);
        let is_list = cpus.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'));
        (is_list && cpu_count > 0 && memory_mib > 0).then_some(NumaNode { id, cpus, cpu_count, memory_mib })
    };
    let mut nodes: Vec<NumaNode> = names.iter().filter_map(node).collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// The boot's id; empty in a tree that has none.
pub(crate) fn boot_id(tree: &dyn Tree) -> String {
    tree.text("proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// What is amiss with the machine itself.
pub(crate) fn notes(tree: &dyn Tree, host: &HostName) -> Vec<Finding> {
    let mut notes = Vec::new();
    // A captured tree may lack it, but a kernel never refuses to say what it is: then nothing that is read can be
    // believed.
    let release = tree.text("proc/sys/kernel/osrelease");
    if let Some(error) = release.err().filter(|error| error.kind() != io::ErrorKind::NotFound) {
        let message = format!("Host {host} cannot be looked at: /proc/sys/kernel/osrelease: {error}.");
        let hint = "The daemon may be kept from /proc and /sys: look at its unit's drop-ins ('systemctl cat tranched') and at the security module's log.";
        notes.push(report::host_note(host, Code::KernelRefused, message, hint));
    }
    // A captured tree seldom has device nodes; their absence there says nothing.
    if tree.exists("dev") && !tree.exists("dev/kvm") {
        let message = format!("Host {host} has no /dev/kvm.");
        let hint = "Switch on virtualisation in the firmware and load kvm_intel or kvm_amd; without it VMs are emulated.";
        notes.push(report::host_note(host, Code::KvmMissing, message, hint));
    }
    notes.extend(watchdog::notes(tree, host));
    notes
}

fn iommu(tree: &dyn Tree) -> Iommu {
    match tree.list("sys/class/iommu") {
        Ok(units) if !units.is_empty() => Iommu::On { units },
        _ => Iommu::Off,
    }
}
