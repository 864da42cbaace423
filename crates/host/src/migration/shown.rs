//! What files say of a device's migration, without anything being opened.
//!
//! Facts: Linux, Documentation/ABI/testing/debugfs-vfio and drivers/vfio/debugfs.c: a directory for each device that is bound to a
//! VFIO driver (with CONFIG_VFIO_DEBUGFS, 6.8), `migration` in it if its driver hands out its state, and there `features` (6.18).
//! Drivers: drivers/vfio/pci/vfio_pci.c, which has no migration at all, and xe/main.c.

use tranche_core::inventory::{Certainty, Evidence, Gpu, MigrationFacts, ObservedPartition, PartitionDevice};
use tranche_core::step::VFIO_DRIVER;

use super::iommu::{self, ScalableMode};
use super::{is_started_by_opening, name};
use crate::discover::function;
use crate::tree::Tree;
use crate::vgpu;

/// The driver of NVIDIA's vGPU software 17.2, the first that moves VMs under KVM (NVIDIA, vGPU software documentation, "Migrating a VM
/// configured with vGPU"; Red Hat documents the same for RHEL 9.4 and later).
const NVIDIA_MOVES: &str = "550.90";
const NVIDIA_MOVES_FROM: (u32, u32) = (550, 90);
const NOT_ASKED: &str =
    "driver nvidia is not asked, because a vGPU that is opened starts; debugfs would tell (Linux 6.18)";
/// Where VFIO tells of its devices.
const DEBUGFS: &str = "sys/kernel/debug/vfio";
/// Intel's variant of vfio-pci.
const XE_VARIANT: &str = "xe-vfio-pci";

/// What is shown of a partition.
pub(super) fn facts(
    tree: &dyn Tree,
    mode: &ScalableMode,
    gpu: &Gpu,
    partition: &ObservedPartition,
) -> MigrationFacts {
    let mut facts = by_driver(gpu, partition);
    by_debugfs(tree, &name(&partition.device), &mut facts);
    facts.iommu_dirty_log = match partition.device {
        PartitionDevice::Vf { address } => iommu::dirty_log(tree, &function::dir(address), mode),
        // Its driver reaches memory in its stead, and iommufd makes no domain for it (Linux, drivers/vfio/iommufd.c).
        PartitionDevice::Mdev { .. } => {
            Evidence::new(Certainty::Refused, "a mediated device is not behind an IOMMU of its own")
        }
    };
    facts
}

/// What is known of drivers. Of most nothing is, before they are asked.
fn by_driver(gpu: &Gpu, partition: &ObservedPartition) -> MigrationFacts {
    match partition.driver.as_deref() {
        _ if moves_by_nvidia(gpu) => {
            let claimed = alike(
                Certainty::Claimed,
                &format!("NVIDIA says that its vGPU software moves VMs from 17.2 on (driver {NVIDIA_MOVES})"),
            );
            MigrationFacts { pre_copy: Evidence::new(Certainty::Unknown, NOT_ASKED), ..claimed }
        }
        _ if is_started_by_opening(gpu) => alike(Certainty::Unknown, NOT_ASKED),
        Some(VFIO_DRIVER) => alike(Certainty::Refused, "driver vfio-pci hands out no device's state"),
        Some(XE_VARIANT) => {
            let claimed = Evidence::new(Certainty::Claimed, "driver xe-vfio-pci has STOP_COPY and P2P");
            MigrationFacts {
                stop_copy: claimed.clone(),
                p2p: claimed,
                ..alike(Certainty::Refused, "driver xe-vfio-pci has STOP_COPY and P2P alone")
            }
        }
        Some(driver) => alike(Certainty::Unknown, &format!("driver {driver} was not asked")),
        None if partition.vf().is_some() => alike(Certainty::Unknown, "it has no driver that could be asked"),
        None => alike(Certainty::Unknown, "it was not asked"),
    }
}

/// Whether a GPU has the driver of NVIDIA's vGPU software, of a version that moves VMs under KVM. It logs by itself what a vGPU writes:
/// it moves VMs on hosts whose IOMMU logs nothing.
fn moves_by_nvidia(gpu: &Gpu) -> bool {
    let is_nvidia = gpu.driver.as_deref() == Some(vgpu::DRIVER);
    let version = gpu.driver_version.as_deref().filter(|_| is_nvidia);
    version.and_then(branch).is_some_and(|branch| branch >= NVIDIA_MOVES_FROM)
}

/// The first two numbers of a version.
fn branch(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// What VFIO itself tells of a device.
fn by_debugfs(tree: &dyn Tree, name: &str, facts: &mut MigrationFacts) {
    let dir = format!("{DEBUGFS}/{name}");
    if !tree.exists(&dir) {
        return;
    }
    let migration = format!("{dir}/migration");
    if !tree.exists(&migration) {
        let refused = Evidence::new(Certainty::Refused, format!("/{dir} has no migration"));
        (facts.stop_copy, facts.pre_copy, facts.p2p) = (refused.clone(), refused.clone(), refused);
        return;
    }
    let Ok(features) = tree.text(&format!("{migration}/features")) else {
        facts.stop_copy = Evidence::new(Certainty::Proven, format!("/{migration} is there"));
        return;
    };
    let listed: Vec<&str> = features.split_ascii_whitespace().collect();
    let source = format!(
        "/{migration}/features: {}",
        if listed.is_empty() { "none".into() } else { listed.join(" ") }
    );
    let said = |feature: &str| {
        let certainty = if listed.contains(&feature) { Certainty::Proven } else { Certainty::Refused };
        Evidence::new(certainty, source.as_str())
    };
    facts.stop_copy = said("stop-copy");
    facts.pre_copy = said("pre-copy");
    facts.p2p = said("p2p");
    facts.device_dirty_log = said("dirty-tracking");
}

/// The same of everything that VFIO can tell.
fn alike(certainty: Certainty, source: &str) -> MigrationFacts {
    let evidence = Evidence::new(certainty, source);
    MigrationFacts {
        stop_copy: evidence.clone(),
        pre_copy: evidence.clone(),
        p2p: evidence.clone(),
        device_dirty_log: evidence,
        iommu_dirty_log: Evidence::default(),
    }
}
