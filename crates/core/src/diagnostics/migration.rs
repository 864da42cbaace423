//! What stands against moving a VM while it runs, in words.

use super::{error, info, list, vm_subject, warning};
use crate::finding::{Code, Finding};
use crate::inventory::{Certainty, MigrationBlocker};
use crate::migration::Forecast;
use crate::migration::obstacles::Obstacle;
use crate::name::{GpuKey, HostName, VmName};

type Words = (Code, String, String);

/// How many features of a processor are named.
const FEATURES_NAMED_MAX: usize = 8;

/// The first features, and how many more there are.
fn listed(features: &[String]) -> String {
    match features.split_at_checked(FEATURES_NAMED_MAX) {
        Some((named, more)) if !more.is_empty() => format!("{} and {} more", list(named), more.len()),
        _ => list(features),
    }
}

/// A VM was to move while it runs, and that came to nothing.
pub fn migrate_failed(vm: &VmName, to: &HostName, why: &str) -> Finding {
    warning(
        Code::MigrateFailed,
        vm_subject(vm),
        format!("VM {vm} was to move to host {to} while it runs, and did not: {why}."),
        format!("'tranche vm destinations {vm}' shows what is known to stand against it."),
    )
}

/// A VM that is to move while it runs waits for others that do so.
pub fn migrate_queued(vm: &VmName, host: &HostName) -> Finding {
    info(
        Code::MigrateQueued,
        vm_subject(vm),
        format!("VM {vm} is to leave host {host} while it runs, and waits until others have moved."),
        "Only some move at the same time, so that each is quick.",
    )
}

/// A VM that only moves while it runs is to leave its host, and cannot do so to any other.
pub fn migrate_live_only(vm: &VmName, host: &HostName) -> Finding {
    warning(
        Code::MigrateLiveOnly,
        vm_subject(vm),
        format!("VM {vm} is to leave host {host}, and cannot move to any other host while it runs."),
        format!(
            "'tranche vm destinations {vm}' shows why. 'tranche vm set {vm} --migration live-or-restart' lets it be restarted there."
        ),
    )
}

/// A host cannot take part in moving a VM while it runs.
pub fn live_unable(vm: &VmName, host: &HostName) -> Finding {
    info(
        Code::LivePrograms,
        vm_subject(vm),
        format!(
            "VM {vm} cannot move while it runs, because host {host} has no way to send VMs to others or take them in."
        ),
        "Its tranched must be of a version that can, and use libvirt's system daemon; 'tranche host list' shows the versions.",
    )
}

/// A VM could run on a host, and not be moved there while it runs.
pub fn live_obstacle(vm: &VmName, to: &HostName, obstacle: &Obstacle) -> Finding {
    let (code, message, hint) = match obstacle {
        Obstacle::State { gpu, certainty, source } => no_state(gpu, *certainty, source),
        Obstacle::DirtyLog { gpu, device, iommu } => no_log(vm, gpu, device, iommu),
        Obstacle::Several { gpu } => (
            Code::LiveDevice,
            format!(
                "VM {vm} has several GPUs, and that of GPU {gpu} cannot be stopped together with others (P2P)."
            ),
            "With one GPU it could move.".to_owned(),
        ),
        Obstacle::Unlike { here, there, attribute, has, other } => (
            Code::LiveUnlike,
            format!(
                "VM {vm} has GPU {here} and would get GPU {there}, and their {attribute} differs: {has}, and {other}."
            ),
            "'tranche cluster homogeneity' shows what differs in the cluster, and what makes it alike."
                .to_owned(),
        ),
        Obstacle::Profile { has, other } => (
            Code::LiveUnlike,
            format!("VM {vm} has a partition that is a {has}, and would get one that is a {other}."),
            "Split the GPUs alike: tranche gpu partition --all --count N.".to_owned(),
        ),
        Obstacle::Processor { has, other } => (
            Code::LiveProcessor,
            format!(
                "VM {vm} sees the processor of its host, which is '{has}'; that of host {to} is '{other}'."
            ),
            "Hosts with one model of processor let VMs move between them.".to_owned(),
        ),
        Obstacle::ProcessorLacks { features } => (
            Code::LiveProcessor,
            format!(
                "VM {vm} sees the processor of its host, and that of host {to} lacks {}.",
                listed(features)
            ),
            "Firmware settings, microcode or the kernel's command line differ: make them alike on both hosts."
                .to_owned(),
        ),
        Obstacle::Machine { machine, qemu } => (
            Code::LivePrograms,
            format!("VM {vm} runs on a machine {machine}, and host {to} has QEMU {qemu}, which is older."),
            format!("Bring QEMU up to date on host {to}."),
        ),
        Obstacle::Libvirt { has, other } => (
            Code::LivePrograms,
            format!("The host of VM {vm} has libvirt {has}, and host {to} has {other}, which is older."),
            format!("Bring libvirt up to date on host {to}."),
        ),
        Obstacle::Blocker(blocker) => (
            Code::LiveGuest,
            format!("The machine of VM {vm} has {}, which cannot move while it runs.", what(*blocker)),
            format!("'virsh edit {vm}' takes it out, with the next start of the VM."),
        ),
        Obstacle::Pause { forecast, limit_ms } => too_long(vm, to, forecast, *limit_ms),
        Obstacle::Adopted => (
            Code::LiveGuest,
            format!("VM {vm} was adopted, and only its own host has its definition."),
            "A VM that shall run on several hosts is made by Tranche ('tranche vm create').".to_owned(),
        ),
    };
    error(code, vm_subject(vm), message, hint)
}

fn no_state(gpu: &GpuKey, certainty: Certainty, source: &str) -> Words {
    let (message, hint) = match certainty {
        Certainty::Refused => (
            format!("The driver of GPU {gpu} does not hand out the state of a partition{}.", because(source)),
            "The card's vendor says which driver does (a vGPU driver, or a variant of vfio-pci for that card).".to_owned(),
        ),
        _ => (
            format!(
                "It is not known whether the driver of GPU {gpu} hands out the state of a partition{}.",
                because(source)
            ),
            format!("'tranche gpu show {gpu}' shows what is known, and docs/migration.md how more is found out."),
        ),
    };
    (Code::LiveDevice, message, hint)
}

fn no_log(vm: &VmName, gpu: &GpuKey, device: &str, iommu: &str) -> Words {
    let message = format!(
        "Nothing is known to log which memory of VM {vm} GPU {gpu} writes: neither the device{} nor the IOMMU{}.",
        because(device),
        because(iommu)
    );
    let hint = "It takes a driver that logs it, or an IOMMU that does (Intel VT-d in scalable mode with SSADS, AMD-Vi with HDSup) with a \
                kernel that has iommufd, QEMU 9.1 and libvirt 12.1.";
    (Code::LiveDirtyLog, message, hint.to_owned())
}

fn too_long(vm: &VmName, to: &HostName, forecast: &Forecast, limit_ms: u32) -> Words {
    let Forecast { pause_ms, link_mib_s, is_link_measured, dirty_mib_s, .. } = *forecast;
    let carries = if is_link_measured { "carries" } else { "is taken to carry" };
    let changes =
        dirty_mib_s.map(|mib_s| format!(", and its guest changes {mib_s} MiB/s")).unwrap_or_default();
    let message = format!(
        "VM {vm} would stand still for about {} on its way to host {to}, and may do so for {}: the link {carries} {link_mib_s} MiB/s{changes}.",
        seconds(pause_ms),
        seconds(u64::from(limit_ms))
    );
    let hint = format!(
        "'tranche vm set {vm} --migration-pause-ms MS' allows more, and 'tranche policy set --migration-pause-ms MS' for all that say nothing themselves."
    );
    (Code::LivePause, message, hint)
}

fn seconds(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1_000, ms % 1_000 / 100) }
}

fn because(source: &str) -> String {
    if source.is_empty() { String::new() } else { format!(" ({source})") }
}

fn what(blocker: MigrationBlocker) -> &'static str {
    match blocker {
        MigrationBlocker::Viommu => "an IOMMU of its own",
        MigrationBlocker::SharedMemory => "memory that it shares with others (shmem)",
        MigrationBlocker::Filesystem => "a directory of its host (filesystem)",
        MigrationBlocker::InvariantTsc => "an invariant time stamp counter without a frequency (invtsc)",
        MigrationBlocker::ForeignDevice => "a device of its host that Tranche did not put there",
    }
}
