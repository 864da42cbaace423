//! What stands against moving a VM while it runs, in words.

use super::{error, vm_subject};
use crate::finding::{Code, Finding};
use crate::inventory::{Certainty, MigrationBlocker};
use crate::migration::obstacles::Obstacle;
use crate::name::{HostName, VmName};

/// A VM could run on a host, and not be moved there while it runs.
pub fn live_obstacle(vm: &VmName, to: &HostName, obstacle: &Obstacle) -> Finding {
    let (code, message, hint) = match obstacle {
        Obstacle::State { .. } | Obstacle::DirtyLog { .. } | Obstacle::Several { .. } => {
            of_device(vm, obstacle)
        }
        Obstacle::Unlike { .. } | Obstacle::Profile { .. } => of_pair(vm, obstacle),
        _ => of_machine(vm, to, obstacle),
    };
    error(code, vm_subject(vm), message, hint)
}

fn of_device(vm: &VmName, obstacle: &Obstacle) -> (Code, String, String) {
    match obstacle {
        Obstacle::State { gpu, certainty: Certainty::Refused, source } => (
            Code::LiveDevice,
            format!("The driver of GPU {gpu} does not hand out the state of a partition ({source})."),
            "The card's vendor says which driver can (a vGPU driver, or a variant of vfio-pci for that card).".to_owned(),
        ),
        Obstacle::State { gpu, source, .. } => (
            Code::LiveDevice,
            format!("It is not known whether the driver of GPU {gpu} hands out the state of a partition{}.", because(source)),
            format!("'tranche gpu show {gpu}' shows what was probed. A partition is asked while no VM has it."),
        ),
        Obstacle::DirtyLog { gpu, device, iommu } => (
            Code::LiveDirtyLog,
            format!(
                "Nothing is known to log which memory of VM {vm} GPU {gpu} writes: neither the device{} nor the IOMMU{}.",
                because(device),
                because(iommu)
            ),
            "It takes a driver that logs it, or an IOMMU that does (Intel VT-d in scalable mode with SSADS, AMD-Vi with HDSup) with a \
             kernel that has iommufd, QEMU 9.1 and libvirt 12.1."
                .to_owned(),
        ),
        Obstacle::Several { gpu } => (
            Code::LiveDevice,
            format!("VM {vm} has several GPUs, and that of GPU {gpu} cannot be stopped together with others (P2P)."),
            "With one GPU it could move.".to_owned(),
        ),
        _ => unreachable!("every other obstacle is worded elsewhere"),
    }
}

fn of_pair(vm: &VmName, obstacle: &Obstacle) -> (Code, String, String) {
    match obstacle {
        Obstacle::Unlike { here, there, attribute, has, other } => (
            Code::LiveUnlike,
            format!(
                "VM {vm} has GPU {here} and would get GPU {there}, and their {attribute} differs: {has}, and {other}."
            ),
            "'tranche gpu compare' shows what differs in the cluster, and what makes it alike.".to_owned(),
        ),
        Obstacle::Profile { has, other } => (
            Code::LiveUnlike,
            format!("VM {vm} has a partition that is a {has}, and would get one that is a {other}."),
            "Split the GPUs alike: tranche gpu partition --all --count N.".to_owned(),
        ),
        _ => unreachable!("every other obstacle is worded elsewhere"),
    }
}

fn of_machine(vm: &VmName, to: &HostName, obstacle: &Obstacle) -> (Code, String, String) {
    match obstacle {
        Obstacle::Processor { has, other } => (
            Code::LiveProcessor,
            format!(
                "VM {vm} sees the processor of its host, which is '{has}'; that of host {to} is '{other}'."
            ),
            "Hosts with one model of processor let VMs move between them.".to_owned(),
        ),
        Obstacle::Machine { machine, qemu } => (
            Code::LivePrograms,
            format!("VM {vm} runs on a machine {machine}, and host {to} has QEMU {qemu}, which is older."),
            format!("Bring QEMU on host {to} up to date: tranche cluster upgrade-plan."),
        ),
        Obstacle::Libvirt { has, other } => (
            Code::LivePrograms,
            format!("The host of VM {vm} has libvirt {has}, and host {to} has {other}, which is older."),
            format!("Bring libvirt on host {to} up to date: tranche cluster upgrade-plan."),
        ),
        Obstacle::Blocker(blocker) => (
            Code::LiveGuest,
            format!("The machine of VM {vm} has {}, which cannot move while it runs.", blocked_by(*blocker)),
            format!("'virsh edit {vm}' takes it out, with the next start of the VM."),
        ),
        Obstacle::Adopted => (
            Code::LiveGuest,
            format!("VM {vm} was adopted, and only its own host has its definition."),
            "A VM that shall run on several hosts is made by Tranche ('tranche vm create').".to_owned(),
        ),
        _ => unreachable!("every other obstacle is worded elsewhere"),
    }
}

fn because(source: &str) -> String {
    if source.is_empty() { String::new() } else { format!(" ({source})") }
}

fn blocked_by(blocker: MigrationBlocker) -> &'static str {
    match blocker {
        MigrationBlocker::Viommu => "an IOMMU of its own",
        MigrationBlocker::SharedMemory => "memory that it shares with others (shmem)",
        MigrationBlocker::Filesystem => "a directory of its host (filesystem)",
        MigrationBlocker::InvariantTsc => "an invariant time stamp counter without a frequency (invtsc)",
        MigrationBlocker::ForeignDevice => "a device of its host that Tranche did not put there",
    }
}
