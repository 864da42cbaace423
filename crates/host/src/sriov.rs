//! Plain SR-IOV: virtual functions switched on and off through `sriov_numvfs`.
//!
//! ```text
//!            numvfs N, read back                       numvfs 0, read back
//!   0 VFs ───────────────────────▶ N VFs, none open ───────────────────────▶ 0 VFs
//!            autoprobe off before       │    ▲                autoprobe as it was
//!                                  open ▼    │ close
//!                                  N VFs, some open: nothing is switched
//! ```
//!
//! The kernel does not refuse to disable a virtual function that a VM has open: the write hangs until it is released,
//! and meanwhile the device is pulled out of the guest. So who has them open is looked up before each such write.
//! Automatic probing is off while virtual functions exist, because the host's own driver would otherwise take them.
//!
//! Facts: kernel drivers/pci/iov.c (`sriov_numvfs_store`), the same in 6.12 and 7.2.

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{ObservedPartition, Offer, PartitionDevice, Sriov};
use tranche_core::name::PciAddress;
use tranche_core::spec::PARTITIONS_PER_GPU_MAX;

use crate::calls::{CallError, GpuCalls};
use crate::discover::function;
use crate::discover::holders::Holders;
use crate::report;
use crate::tree::Tree;

/// Drivers that are known to switch their virtual functions by means of their own: writing `sriov_numvfs` gives
/// `ENOENT` with them (NVIDIA's open kernel module 595, AMD's gim 8.0; neither has `.sriov_configure`).
const DRIVERS_WITHOUT_SYSFS: [&str; 2] = ["nvidia", "gim"];

/// Whether a driver is known not to take `sriov_numvfs`.
pub(crate) fn lacks_sysfs_switch(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| DRIVERS_WITHOUT_SYSFS.contains(&driver))
}

/// The SR-IOV capability, as far as it can be read without a lock. So many virtual functions are on the bus; what the
/// driver says is asked for by [`enabled`].
pub(crate) fn capability(tree: &dyn Tree, pf_dir: &str, on_the_bus: usize) -> Option<Sriov> {
    Some(Sriov {
        total_vfs: number(tree, pf_dir, "sriov_totalvfs")?,
        vfs: u16::try_from(on_the_bus).unwrap_or(u16::MAX),
        autoprobe: probes(tree, pf_dir),
    })
}

/// Whether the host's drivers are offered new virtual functions.
fn probes(tree: &dyn Tree, pf_dir: &str) -> bool {
    number(tree, pf_dir, "sriov_drivers_autoprobe") != Some(0)
}

fn number(tree: &dyn Tree, pf_dir: &str, attribute: &str) -> Option<u16> {
    tree.text(&format!("{pf_dir}/{attribute}")).ok()?.parse().ok()
}

/// The valid counts: every one up to the total.
pub(crate) fn offers(total_vfs: u16) -> Vec<Offer> {
    let offer = |count| Offer { count, profile: format!("1/{count}"), series: None, vram_mib: None };
    (1..=total_vfs.min(PARTITIONS_PER_GPU_MAX)).map(offer).collect()
}

/// The virtual functions that exist.
pub(crate) fn partitions(tree: &dyn Tree, pf_dir: &str, holders: &Holders) -> Vec<ObservedPartition> {
    let observe = |(index, address)| {
        let dir = function::dir(address);
        let iommu_group = function::iommu_group(tree, &dir);
        let windows = function::bars(tree, &dir);
        ObservedPartition {
            index: Some(index),
            device: PartitionDevice::Vf { address },
            driver: function::driver(tree, &dir),
            open_by: holders.of(tree, &dir, iommu_group.as_ref().map(|group| group.id)),
            iommu_group,
            profile: None,
            vram_mib: None,
            answers: function::answers(tree, &dir),
            telemetry: None,
            migration: None,
            mmio_mib: windows
                .iter()
                .filter(|bar| bar.is_64bit)
                .map(|bar| bar.size_bytes.div_ceil(1 << 20))
                .sum(),
        }
    };
    function::virtual_functions(tree, pf_dir).into_iter().map(observe).collect()
}

/// Reads `sriov_numvfs`, which waits for the device's lock.
pub(crate) fn enabled(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<u16, Box<Finding>> {
    let path = format!("{}/sriov_numvfs", function::dir(pf));
    if !calls.tree().exists(&path) {
        return Err(absent(calls, pf));
    }
    let text = calls.read(&path).map_err(|error| report::call_failed(calls.gpu(), &error))?;
    text.parse().map_err(|_| {
        let message = format!("/{path} reads {text:?}, which is no count.");
        report::error(calls.gpu(), Code::KernelRefused, message, report::refusal_hint(None))
    })
}

/// Enables so many virtual functions, and reads them back. Others than these are disabled first, if none is open.
/// `prepare` is called when there are none, and before there are any; `undo` if there are none after all.
///
/// # Errors
/// Every errno that the kernel answers with has its finding; see [`refused`].
pub(crate) fn enable(
    calls: &GpuCalls<'_>,
    pf: PciAddress,
    count: u16,
    (prepare, undo): (impl FnOnce(), impl FnOnce()),
) -> Result<(), Box<Finding>> {
    let dir = function::dir(pf);
    let before = enabled(calls, pf)?;
    if before == count {
        return read_back(calls, pf, count);
    }
    // Before anything is switched off: what is there is better than nothing.
    refuse_beyond_total(calls, pf, count)?;
    if before != 0 {
        refuse_if_open(calls, pf)?;
        switch_off(calls, pf)?;
    }
    let probed = probes(calls.tree(), &dir);
    set_autoprobe(calls, &dir, false)?;
    prepare();
    if let Err(refusal) = write_count(calls, pf, count) {
        // There is nothing to keep drivers away from. What the kernel refused is the finding, whatever comes of this.
        let _ = set_autoprobe(calls, &dir, probed);
        undo();
        return Err(refusal);
    }
    read_back(calls, pf, count)
}

/// Disables all virtual functions, if none is open, and sets automatic probing to what it was before there were any.
///
/// Probing comes first: whoever dies in between finds virtual functions still to be disabled, and does both again.
/// Each of them has its `driver_override`, so that no driver of the host takes it meanwhile.
pub(crate) fn disable(calls: &GpuCalls<'_>, pf: PciAddress, autoprobe: bool) -> Result<(), Box<Finding>> {
    let before = enabled(calls, pf)?;
    if before != 0 {
        refuse_if_open(calls, pf)?;
    }
    set_autoprobe(calls, &function::dir(pf), autoprobe)?;
    if before == 0 { Ok(()) } else { switch_off(calls, pf) }
}

fn switch_off(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<(), Box<Finding>> {
    write_count(calls, pf, 0)?;
    match enabled(calls, pf)? {
        0 => Ok(()),
        left => {
            let message =
                format!("GPU {} still has {left} virtual functions after they were disabled.", calls.gpu());
            Err(report::error(calls.gpu(), Code::KernelRefused, message, report::refusal_hint(None)))
        }
    }
}

/// Who has one of the virtual functions open stands in the way of switching them.
pub(crate) fn refuse_if_open(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<(), Box<Finding>> {
    let tree = calls.tree();
    let holders = Holders::scan(tree);
    for vf in function::virtual_functions(tree, &function::dir(pf)).into_values() {
        let dir = function::dir(vf);
        let open_by = holders.of(tree, &dir, function::group_id(tree, &dir));
        if !open_by.is_empty() {
            return Err(report::in_use(calls.gpu(), &open_by));
        }
    }
    Ok(())
}

/// Switches automatic probing, if it is otherwise.
fn set_autoprobe(calls: &GpuCalls<'_>, pf_dir: &str, on: bool) -> Result<(), Box<Finding>> {
    if probes(calls.tree(), pf_dir) == on {
        return Ok(());
    }
    let path = format!("{pf_dir}/sriov_drivers_autoprobe");
    calls.write(&path, if on { "1" } else { "0" }).map_err(|error| report::call_failed(calls.gpu(), &error))
}

fn write_count(calls: &GpuCalls<'_>, pf: PciAddress, count: u16) -> Result<(), Box<Finding>> {
    let path = format!("{}/sriov_numvfs", function::dir(pf));
    calls.write(&path, &count.to_string()).map_err(|error| refused(calls, pf, count, &error))
}

/// A successful write does not mean that all functions exist: the kernel only warns when the driver made fewer.
pub(crate) fn read_back(calls: &GpuCalls<'_>, pf: PciAddress, count: u16) -> Result<(), Box<Finding>> {
    let enabled = enabled(calls, pf)?;
    let seen = function::virtual_functions(calls.tree(), &function::dir(pf)).len();
    if enabled == count && seen == usize::from(count) {
        return Ok(());
    }
    Err(Box::new(say::fewer_partitions(calls.gpu(), count, seen.min(usize::from(enabled)))))
}

/// The finding for each errno of `sriov_numvfs`.
fn refused(calls: &GpuCalls<'_>, pf: PciAddress, count: u16, error: &CallError) -> Box<Finding> {
    let gpu = calls.gpu();
    let driver = function::driver(calls.tree(), &function::dir(pf));
    match (error.errno(), driver) {
        (Some(libc::ERANGE), _) => beyond_total(calls, pf, count),
        (Some(libc::ENOENT), None) => Box::new(say::driver_missing(gpu)),
        (Some(libc::ENOENT), Some(driver)) => {
            let message =
                format!("Driver {driver} of GPU {gpu} does not switch virtual functions through sysfs.");
            let hint = format!(
                "Bind a driver that does, or use the vendor's own tool; {driver} cannot be asked to."
            );
            report::error(gpu, Code::DriverWithoutSriov, message, hint)
        }
        (Some(libc::ENODEV | libc::ENOSYS), _) => absent(calls, pf),
        (Some(libc::EBUSY), _) => {
            let message = format!(
                "Somebody else enabled virtual functions of GPU {gpu}: {}",
                report::call_sentence(error)
            );
            report::error(gpu, Code::KernelRefused, message, report::refusal_hint(Some(libc::EBUSY)))
        }
        // The kernel's own answer to limits that contradict each other, and xe's to memory that it could not share out.
        (Some(libc::EIO), driver) => {
            let driver = driver.unwrap_or_else(|| "its driver".to_owned());
            let message = format!(
                "GPU {gpu} reports inconsistent SR-IOV limits, or {driver} could not provide for the functions: {}",
                report::call_sentence(error)
            );
            let hint = "The kernel log tells which ('journalctl -k'). For the limits, update the GPU's firmware, and reset it or \
                        restart the host if it worked before; for the driver, close what uses the GPU's memory on the \
                        host, or ask for fewer partitions.";
            report::error(gpu, Code::KernelRefused, message, hint)
        }
        _ => report::call_failed(gpu, error),
    }
}

fn refuse_beyond_total(calls: &GpuCalls<'_>, pf: PciAddress, count: u16) -> Result<(), Box<Finding>> {
    if count > total_vfs(calls, pf) { Err(beyond_total(calls, pf, count)) } else { Ok(()) }
}

fn beyond_total(calls: &GpuCalls<'_>, pf: PciAddress, count: u16) -> Box<Finding> {
    let valid: Vec<u16> = offers(total_vfs(calls, pf)).iter().map(|offer| offer.count).collect();
    Box::new(say::invalid_partition_count(calls.gpu(), count, None, &valid))
}

fn total_vfs(calls: &GpuCalls<'_>, pf: PciAddress) -> u16 {
    number(calls.tree(), &function::dir(pf), "sriov_totalvfs").unwrap_or(0)
}

fn absent(calls: &GpuCalls<'_>, pf: PciAddress) -> Box<Finding> {
    let (tree, dir, gpu) = (calls.tree(), function::dir(pf), calls.gpu());
    if !tree.exists(&dir) {
        return report::gone(gpu, pf);
    }
    Box::new(say::sriov_disabled(gpu))
}
