//! AMD's driver gim: virtual functions that are there from the moment it is loaded, as many as it was told.
//!
//! Nothing is switched here, because nothing can be: `sriov_numvfs` answers `ENOENT`, and the count is a parameter of the
//! module. Changing it means to unload the driver, which takes the GPUs from every VM. That is for a person to decide; what
//! another load could make is told here, and done by [`crate::modules`].
//!
//! Facts: the driver's documentation and source (amd/MxGPU-Virtualization 8.0 and 9.4).

use std::fmt;

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Backend, Gpu, Offer, Reload};
use tranche_core::name::GpuKey;
use tranche_core::spec::PARTITIONS_PER_GPU_MAX;
use tranche_core::step::VFIO_DRIVER;

use crate::catalogue::Entry;
use crate::discover::function;
use crate::modules::server;
use crate::report;
use crate::tree::Tree;

/// The driver, for physical functions; virtual ones go to VMs as they are.
pub(crate) const DRIVER: &str = "gim";
/// How the GPU itself is divided, as the driver shows it: the attribute, and what it is called.
const MODES: [(&str, &str); 3] = [
    ("accelerator_partition_profile", "accelerator partition"),
    ("spatial_partition_mode", "spatial partitioning"),
    ("memory_partition_mode", "memory partitioning"),
];

/// The count that is there is the only one on offer. How it is changed is told.
pub(crate) fn observe(tree: &dyn Tree, key: &GpuKey, gpu: &mut Gpu, entry: Option<&Entry>) -> Vec<Finding> {
    gpu.backend = Some(Backend::FixedVf);
    let count = u16::try_from(gpu.partitions.len()).unwrap_or(u16::MAX).min(PARTITIONS_PER_GPU_MAX);
    gpu.offers = (count > 0).then(|| offer(count)).into_iter().collect();
    gpu.reload = Some(reload(entry));
    vec![count_is_fixed(key, count, &modes(tree, key))]
}

fn offer(count: u16) -> Offer {
    Offer { count, profile: format!("1/{count}"), series: None, vram_mib: None }
}

/// What another load of the driver could make: what is known of the model, else what the driver can be told at all.
fn reload(entry: Option<&Entry>) -> Reload {
    let known = entry.and_then(|entry| entry.loads.as_ref()).map(|figure| figure.value.clone());
    let is_known = known.is_some();
    let counts = known.unwrap_or_else(|| server::COUNTS.collect());
    Reload { driver: DRIVER.to_owned(), offers: counts.into_iter().map(offer).collect(), is_known }
}

/// What a person does to have another count.
pub(crate) fn commands(count: impl fmt::Display) -> String {
    format!(
        "stop every VM on every GPU of this driver, release these GPUs ('tranche gpu release'), then: \
         'echo options {DRIVER} vf_num={count} > /etc/modprobe.d/{DRIVER}.conf', 'modprobe -r {DRIVER}', 'modprobe {DRIVER}'"
    )
}

/// A GPU that the driver could split, and which another driver has.
pub(crate) fn missing(key: &GpuKey, gpu: &Gpu) -> Option<Finding> {
    let driver = gpu.driver.as_deref().filter(|driver| *driver != VFIO_DRIVER)?;
    let message = format!("GPU {key} ({}) is split by the driver {DRIVER}, and {driver} has it.", gpu.model);
    let hint = "Install AMD's driver gim (MxGPU) in its place, or give the GPU to a VM whole.";
    Some(report::gpu_note(key, Code::NotPartitionable, Severity::Info, message, hint))
}

/// The modes that the driver shows: `memory partitioning NPS4`.
fn modes(tree: &dyn Tree, key: &GpuKey) -> Vec<String> {
    let Some(pf) = key.address.pci() else { return Vec::new() };
    let dir = function::dir(pf);
    let shown = |(attribute, name): &(&str, &str)| {
        let value = tree.text(&format!("{dir}/{attribute}")).ok()?;
        // Some versions explain the value on further lines.
        let value = value.lines().next().unwrap_or_default().trim().to_owned();
        (!value.is_empty()).then(|| format!("{name} {value}"))
    };
    MODES.iter().filter_map(shown).collect()
}

fn count_is_fixed(key: &GpuKey, count: u16, modes: &[String]) -> Finding {
    let modes = if modes.is_empty() { String::new() } else { format!(" ({})", modes.join(", ")) };
    let message = match count {
        0 => format!("Driver {DRIVER} made no virtual functions of GPU {key}{modes}."),
        _ => format!("Driver {DRIVER} split GPU {key} into {count} when it was loaded{modes}."),
    };
    let hint = format!(
        "To have another count N: 'tranche gpu partition {} N --reload-driver', which stops every VM on every GPU of this \
         driver; --dry-run names them. By hand: {}. Which N the model takes, and in which partition mode, stands in the \
         driver's release notes.",
        key.address,
        commands("N")
    );
    report::gpu_note(key, Code::CountFixed, Severity::Info, message, &hint)
}
