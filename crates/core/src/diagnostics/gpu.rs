//! How findings about GPUs and their partitions are worded.

use super::{counted, error, gpu_subject, info, list, vm_subject, warning};
use crate::finding::{Code, Finding, Subject};
use crate::identity::GpuIdentity;
use crate::inventory::{Health, HealthState};
use crate::mixed::{Misfit, MixedSize};
use crate::name::{GpuAddress, GpuKey, HostName, PciAddress, SlotKey, VmName};
use crate::spec::GpuMode;

/// The host has nothing to partition.
pub fn no_partitionable_gpu(host: &HostName) -> Finding {
    let message = format!("Host {host} has no GPU that can be partitioned.");
    let hint = "Install the vendor's host driver for virtualisation, and enable SR-IOV in the firmware; 'tranche inspect' shows what was found.";
    error(Code::NoPartitionableGpu, Subject::Host(host.clone()), message, hint)
}

/// This GPU cannot be partitioned.
pub fn not_partitionable(gpu: &GpuKey, model: &str) -> Finding {
    let message = format!("GPU {gpu} ({model}) offers no way to be partitioned.");
    error(
        Code::NotPartitionable,
        gpu_subject(gpu),
        message,
        "Give it whole to a VM instead: 'tranche gpu passthrough'.",
    )
}

/// SR-IOV is there and yields nothing.
pub fn sriov_disabled(gpu: &GpuKey) -> Finding {
    let message = format!("GPU {gpu} has SR-IOV, but allows 0 virtual functions.");
    error(
        Code::SriovDisabled,
        gpu_subject(gpu),
        message,
        "Enable SR-IOV and 'Above 4G decoding' in the firmware, and the virtual functions in the driver's options.",
    )
}

/// No driver.
pub fn driver_missing(gpu: &GpuKey) -> Finding {
    let message = format!("No driver is bound to GPU {gpu}, and only a driver can partition it.");
    error(
        Code::DriverMissing,
        gpu_subject(gpu),
        message,
        "Load the vendor's host driver and look at 'dmesg'.",
    )
}

/// A count that the driver does not offer.
pub fn invalid_partition_count(gpu: &GpuKey, count: u16, series: Option<&str>, valid: &[u16]) -> Finding {
    let of_series = series.map(|name| format!(" of series {name}")).unwrap_or_default();
    let message = format!("GPU {gpu} cannot be split into {}{of_series}.", counted(count, "partition"));
    let hint = match (valid, series) {
        ([], Some(series)) => {
            format!("Its driver offers no series {series}; 'tranche gpu show' lists what it offers.")
        }
        ([], None) => "Its driver offers no counts at present; 'tranche gpu show' tells why.".to_owned(),
        (valid, _) => format!("Its driver offers{of_series}: {}.", list(valid)),
    };
    error(Code::InvalidPartitionCount, gpu_subject(gpu), message, hint)
}

/// A list of sizes that the GPU cannot have beside each other.
pub fn invalid_partition_sizes(gpu: &GpuKey, misfit: &Misfit, sizes: &[MixedSize]) -> Finding {
    let message = match misfit {
        Misfit::Empty => format!("GPU {gpu} cannot be split into no partitions."),
        Misfit::Unknown(profile) if sizes.is_empty() => {
            format!("GPU {gpu} cannot be split into partitions of several sizes, so no {profile}.")
        }
        Misfit::Unknown(profile) => format!("GPU {gpu} has no profile {profile}."),
        Misfit::NoPlace(profile) => {
            format!("GPU {gpu} has no place for so many partitions, among them one of {profile}.")
        }
    };
    let most: Vec<String> =
        sizes.iter().map(|size| format!("{} (at most {})", size.profile, size.starts_mib.len())).collect();
    let hint = if most.is_empty() {
        "Its partitions are all equal: 'tranche gpu partition GPU COUNT'.".to_owned()
    } else {
        format!("Beside each other it can have, as far as its memory goes: {}.", list(&most))
    };
    error(Code::InvalidPartitionSizes, gpu_subject(gpu), message, hint)
}

/// The mode cannot change now.
pub fn partitions_in_use(gpu: &GpuKey, users: &[String]) -> Finding {
    let message = format!("GPU {gpu} is in use by {}, so its mode stays as it is.", list(users));
    error(
        Code::PartitionsInUse,
        gpu_subject(gpu),
        message,
        "Repeat with --drain: its VMs are then shut down first, and start again where there is room. Or stop them yourself ('tranche vm stop').",
    )
}

/// The mode changes when its users are gone.
pub fn mode_changing(gpu: &GpuKey, mode: &GpuMode, users: &[String]) -> Finding {
    let until =
        if users.is_empty() { String::new() } else { format!(" as soon as it is free of {}", list(users)) };
    let message = format!("GPU {gpu} will be {mode}{until}, and takes no VM before that.");
    warning(
        Code::ModeChanging,
        gpu_subject(gpu),
        message,
        "It goes on by itself. A guest that does not shut down is restarted elsewhere by force: 'tranche vm restart VM --force'.",
    )
}

/// A VM has to leave its GPU.
pub fn vm_drained(vm: &VmName, gpu: &GpuKey, runs: bool) -> Finding {
    let (message, hint) = if runs {
        (
            format!("VM {vm} is shut down, because GPU {gpu} changes its mode."),
            "It starts again where there is room, and waits where there is none.",
        )
    } else {
        (
            format!("VM {vm} is off, and what is reserved for it on GPU {gpu} goes with the change of mode."),
            "At its next start it is placed anew.",
        )
    };
    info(Code::VmDrained, vm_subject(vm), message, hint)
}

/// A driver is loaded anew for another count.
pub fn driver_reload(gpu: &GpuKey, driver: &str, count: u16, is_known: bool) -> Finding {
    let message = format!(
        "Driver {driver} of GPU {gpu} is loaded anew with {count} partitions; every VM on it stops for that."
    );
    let hint = if is_known {
        "VMs start again where there is room. The driver keeps the count over reboots."
    } else {
        "VMs start again where there is room. Whether this model takes that count only the driver knows; if it does not, all goes \
         back."
    };
    warning(Code::DriverReload, gpu_subject(gpu), message, hint)
}

/// Loading the driver anew would change nothing.
pub fn no_reload(gpu: &GpuKey) -> Finding {
    let message =
        format!("GPU {gpu} has no driver at present whose partition count is set when it is loaded.");
    error(Code::InvalidValue, gpu_subject(gpu), message, "Repeat without --reload-driver.")
}

/// What is reserved does not serve.
pub fn reservation_failed(slot: &SlotKey, vm: &VmName) -> Finding {
    let message = format!("VM {vm} waits: {slot}, which is reserved for it, has failed.");
    warning(
        Code::ReservationFailed,
        vm_subject(vm),
        message,
        format!(
            "It starts when that serves again. To have it placed elsewhere, give the reservation up: 'tranche vm detach {vm}', \
             then 'tranche vm attach {vm}'."
        ),
    )
}

/// The mode could not be changed.
pub fn rolled_back(gpu: &GpuKey, failed: &GpuMode, back_to: &GpuMode) -> Finding {
    let message = format!("GPU {gpu} could not be {failed}, and goes back to being {back_to}.");
    warning(
        Code::RolledBack,
        gpu_subject(gpu),
        message,
        "The other findings say what failed. Put that right, then ask again; 'tranche findings' tells if the way back \
         fails, too.",
    )
}

/// Partitioned or passthrough, never both.
pub fn mode_conflict(gpu: &GpuKey, has: &str, wanted: &str) -> Finding {
    let message = format!("GPU {gpu} is {has} and cannot be {wanted} at the same time.");
    error(
        Code::ModeConflict,
        gpu_subject(gpu),
        message,
        "A GPU is used in one way at a time. 'tranche gpu partition', 'passthrough' and 'release' change it while no VM \
         uses it, or with --drain.",
    )
}

/// The console is on it.
pub fn console_gpu(gpu: &GpuKey) -> Finding {
    let message = format!("GPU {gpu} shows the host's console; without it the screen goes dark.");
    error(
        Code::ConsoleGpu,
        gpu_subject(gpu),
        message,
        "If you reach the host by network, repeat with --allow-console.",
    )
}

/// It cannot be reset.
pub fn no_reset(gpu: &GpuKey) -> Finding {
    let message =
        format!("The kernel knows no way to reset GPU {gpu}; a VM may find what the one before it left.");
    warning(Code::NoReset, gpu_subject(gpu), message, "Give it only to VMs that trust each other.")
}

/// Whoever has it whole has its firmware, too.
pub fn firmware_open(gpu: &GpuKey) -> Finding {
    let message = format!(
        "GPU {gpu} is given whole to VMs: a VM that has it may change its firmware, which stays when the next VM or the host has it."
    );
    let hint = "Give it only to VMs that you trust with the card itself. A VM that has a partition has a virtual function and not \
                the card.";
    info(Code::FirmwareOpen, gpu_subject(gpu), message, hint)
}

/// The group holds more than the device.
pub fn group_shared(subject: Subject, group: u32, others: &[PciAddress]) -> Finding {
    let message = format!("The {subject} shares IOMMU group {group} with {}.", list(others));
    error(
        Code::GroupShared,
        subject,
        message,
        "Put the card into a slot with Access Control Services, or enable ACS in the firmware; until then the device cannot be isolated.",
    )
}

/// Another driver than needed.
pub fn wrong_driver(subject: Subject, device: &str, found: Option<&str>, needed: &str) -> Finding {
    let found = found.unwrap_or("no driver");
    let message = format!("{device} is bound to {found} and needs {needed}.");
    error(
        Code::WrongDriver,
        subject,
        message,
        format!(
            "Tranche binds it anew; if {found} takes it back, look for a udev rule or a driver option that claims it."
        ),
    )
}

/// Fewer than asked for.
pub fn fewer_partitions(gpu: &GpuKey, asked: u16, got: usize) -> Finding {
    let message = format!("GPU {gpu} was asked for {} and has {got}.", counted(asked, "partition"));
    error(
        Code::FewerPartitions,
        gpu_subject(gpu),
        message,
        "'dmesg' tells why; often the firmware reserves too little memory space for the devices (MMIO high size) or too few bus numbers.",
    )
}

/// A booked partition is gone.
pub fn partition_lost(slot: &SlotKey, vm: &VmName) -> Finding {
    let message = format!("Partition {slot}, held by VM {vm}, has disappeared.");
    let hint = format!(
        "Stop the VM ('tranche vm stop {vm}'): its next start gets another partition. 'dmesg' tells whether the GPU failed."
    );
    error(Code::PartitionLost, Subject::Partition(slot.clone()), message, hint)
}

/// A booked partition is on its way.
pub fn partition_unready(slot: &SlotKey, vm: &VmName, why: &str) -> Finding {
    let message = format!("VM {vm} waits for partition {slot}: {why}.");
    warning(
        Code::PartitionUnready,
        vm_subject(vm),
        message,
        "It starts by itself as soon as the partition is ready.",
    )
}

/// Made by somebody else.
pub fn foreign_partition(gpu: &GpuKey, devices: &[String]) -> Finding {
    let message = format!("GPU {gpu} has partitions that Tranche did not make: {}.", list(devices));
    error(Code::ForeignPartition, gpu_subject(gpu), message, "Remove them, or leave the GPU in mode 'host'.")
}

/// Used by somebody else.
pub fn foreign_use(subject: Subject, users: &[String]) -> Finding {
    let message = format!("The {subject} is used by {}, whom Tranche does not manage.", list(users));
    warning(
        Code::ForeignUse,
        subject,
        message,
        "It is not given to any VM. 'tranche vm adopt NAME' takes a domain over.",
    )
}

/// Something is wrong with it.
pub fn gpu_sick(gpu: &GpuKey, health: &Health) -> Finding {
    let reasons = health.reasons.join("; ");
    let (what, hint) = match health.state {
        HealthState::Good | HealthState::Sick => (
            "is not well",
            "Look into the kernel log, move its VMs away when it suits them, and have the card checked.",
        ),
        HealthState::NeedsReset => (
            "needs a reset",
            "Stop its VMs, release it ('tranche gpu release'), and reset it; 'tranche gpu show' lists how the kernel can.",
        ),
        HealthState::NeedsReboot => (
            "needs a restart of its host",
            "Stop the host's VMs and restart it; a card that fails again belongs to its vendor.",
        ),
    };
    let message = format!("GPU {gpu} {what}: {reasons}. It takes no new VM.");
    error(Code::GpuSick, gpu_subject(gpu), message, hint)
}

/// It is in another slot.
pub fn gpu_moved(gpu: &GpuKey, now: &GpuAddress) -> Finding {
    let message = format!("The GPU that was {gpu} is now at {now}.");
    let hint = format!(
        "Set its mode at its new address ('tranche gpu partition {now}' or 'passthrough {now}'), then release the old one ('tranche gpu release {}'); or put the card back.",
        gpu.address
    );
    error(Code::GpuMoved, gpu_subject(gpu), message, hint)
}

/// Its virtual functions cannot be switched off.
pub fn vfs_stay(gpu: &GpuKey, vfs: usize) -> Finding {
    let message = format!("GPU {gpu} has {vfs} virtual functions for as long as its driver is loaded.");
    let hint = "Unload the driver, or load it for other GPUs only; then the GPU can be given to a VM whole.";
    error(Code::ModeConflict, gpu_subject(gpu), message, hint)
}

/// Other hardware.
pub fn hardware_changed(gpu: &GpuKey, was: &GpuIdentity, is: &GpuIdentity) -> Finding {
    let message = format!("GPU {gpu} was {was} and is now {is}.");
    error(
        Code::HardwareChanged,
        gpu_subject(gpu),
        message,
        "If the card was replaced on purpose, set its mode again; else put the old one back.",
    )
}

/// The GPU is gone.
pub fn gpu_gone(gpu: &GpuKey) -> Finding {
    let message = format!("GPU {gpu} is in use and is not there any more.");
    error(
        Code::GpuGone,
        gpu_subject(gpu),
        message,
        "Look at 'dmesg' and the slot; if it was removed for good: 'tranche gpu release'.",
    )
}

/// Not as decided.
pub fn drift(gpu: &GpuKey, is: &str, decided: &str) -> Finding {
    let message = format!("GPU {gpu} has {is} where {decided} was decided.");
    warning(
        Code::Drift,
        gpu_subject(gpu),
        message,
        "Tranche puts it right as soon as nothing has it open. Changes by hand do not last; use 'tranche gpu'.",
    )
}
