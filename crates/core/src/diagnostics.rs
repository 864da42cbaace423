//! How each finding is worded: one constructor a finding, so that every door says the same.
//!
//! A message is a sentence about what is wrong, with the names and numbers that it concerns. A hint is a sentence about
//! what its reader can do. Neither repeats the other.

mod access;
mod cluster;
mod console;
mod fencing;
mod gpu;
mod handover;
mod homogeneity;
mod membership;
mod migration;
mod placement;
mod whereabouts;

pub use self::access::*;
pub use self::cluster::*;
pub use self::console::*;
pub use self::fencing::*;
pub use self::gpu::*;
pub use self::handover::*;
pub use self::homogeneity::*;
pub use self::membership::*;
pub use self::migration::*;
pub use self::placement::*;
pub use self::whereabouts::*;
use crate::finding::{Code, Finding, Severity, Subject};
use crate::inventory::{Gpu, Holder, OffReason, Offer};
use crate::name::{GpuKey, HostName, NameError, PoolName, SlotKey, VmName};
use crate::spec::Request;

/// A finding from its parts. Prefer the constructors below; rooms with facts of their own build on this one.
pub fn finding(
    code: Code,
    severity: Severity,
    subject: Subject,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Finding {
    Finding { code, severity, subject, message: message.into(), hint: hint.into() }
}

fn error(code: Code, subject: Subject, message: String, hint: impl Into<String>) -> Finding {
    finding(code, Severity::Error, subject, message, hint)
}

fn warning(code: Code, subject: Subject, message: String, hint: impl Into<String>) -> Finding {
    finding(code, Severity::Warning, subject, message, hint)
}

fn info(code: Code, subject: Subject, message: String, hint: impl Into<String>) -> Finding {
    finding(code, Severity::Info, subject, message, hint)
}

fn vm_subject(vm: &VmName) -> Subject {
    Subject::Vm(vm.clone())
}

fn gpu_subject(gpu: &GpuKey) -> Subject {
    Subject::Gpu(gpu.clone())
}

/// A list for people: `1, 2, 4`.
pub fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A number of things for people: `1 partition`, `4 partitions`.
pub fn counted(number: impl Into<u64>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

// Requests.

/// A name that is none.
pub fn invalid_name(name: &NameError) -> Finding {
    let hint = format!("Use {}.", name.rule);
    error(
        Code::InvalidName,
        Subject::Input(name.text.clone()),
        format!("{:?} is not a valid {}.", name.text, name.kind),
        hint,
    )
}

/// A value outside its range.
pub fn invalid_value(what: &str, value: &str, range: &str) -> Finding {
    let message = format!("{what} cannot be {value}.");
    error(Code::InvalidValue, Subject::Input(what.to_owned()), message, format!("Choose {range}."))
}

/// No such host.
pub fn host_not_found(host: &HostName, known: &[&HostName]) -> Finding {
    let hint = if known.is_empty() {
        "No host has reported yet; look at the daemon's log.".to_owned()
    } else {
        format!("Known hosts: {}.", list(known))
    };
    error(Code::HostNotFound, Subject::Host(host.clone()), format!("There is no host {host}."), hint)
}

/// No such GPU.
pub fn gpu_not_found(gpu: &GpuKey) -> Finding {
    let message = format!("There is no GPU {gpu}.");
    error(
        Code::GpuNotFound,
        gpu_subject(gpu),
        message,
        "'tranche gpu list' shows the GPUs and their addresses.",
    )
}

/// No such VM.
pub fn vm_not_found(vm: &VmName) -> Finding {
    let hint = "'tranche vm list' shows the VMs; 'tranche vm adopt NAME' takes over a libvirt domain.";
    error(Code::VmNotFound, vm_subject(vm), format!("There is no VM {vm}."), hint)
}

/// No such domain.
pub fn domain_not_found(vm: &VmName) -> Finding {
    let hint = "'virsh list --all' shows the domains; 'tranche vm create' makes a new VM.";
    error(Code::DomainNotFound, vm_subject(vm), format!("libvirt knows no domain {vm}."), hint)
}

/// The name is taken.
pub fn vm_exists(vm: &VmName) -> Finding {
    error(
        Code::VmExists,
        vm_subject(vm),
        format!("A VM {vm} exists already."),
        "Choose another name, or delete that VM first.",
    )
}

/// A VM is on its way out.
pub fn vm_being_deleted(vm: &VmName) -> Finding {
    let message = format!("VM {vm} is being deleted.");
    error(Code::VmExists, vm_subject(vm), message, "Once it is gone, a VM of that name can be made anew.")
}

/// A VM was deleted while its host was down.
pub fn vm_to_be_ended(vm: &VmName, host: &HostName) -> Finding {
    let message = format!(
        "A VM {vm} was deleted while its host {host} was down, and is ended there when that is back."
    );
    let hint = format!(
        "Choose another name, or bring the host back. If it is gone for good: tranche cluster remove {host}."
    );
    error(Code::VmExists, vm_subject(vm), message, hint)
}

/// libvirt has such a domain already.
pub fn domain_exists(vm: &VmName) -> Finding {
    let message = format!("libvirt has a domain {vm} that Tranche does not manage.");
    error(Code::DomainExists, vm_subject(vm), message, format!("'tranche vm adopt {vm}' takes it over."))
}

// Hosts.

/// No IOMMU.
pub fn iommu_off(host: &HostName) -> Finding {
    let hint =
        "Enable VT-d or AMD-Vi in the firmware and boot with intel_iommu=on (Intel); AMD's is on by default.";
    error(Code::IommuOff, Subject::Host(host.clone()), format!("The IOMMU of host {host} is off."), hint)
}

/// libvirt is away.
pub fn libvirt_down(host: &HostName, reason: &str) -> Finding {
    let message = format!("libvirt on host {host} does not answer: {reason}.");
    let hint =
        "'systemctl status libvirtd' tells why. Running VMs go on; nothing is started or released meanwhile.";
    error(Code::LibvirtDown, Subject::Host(host.clone()), message, hint)
}

/// Nothing heard yet.
pub fn host_silent(host: &HostName) -> Finding {
    let message = format!("Host {host} has not reported its hardware yet.");
    error(
        Code::HostSilent,
        Subject::Host(host.clone()),
        message,
        "Its daemon has just begun to look at it; try again in a moment. 'journalctl -u tranched' there tells what keeps it.",
    )
}

/// A call hangs.
pub fn call_stuck(gpu: &GpuKey, call: &str) -> Finding {
    let message = format!("A kernel call on GPU {gpu} has not come back: {call}.");
    let hint = "Something has the device open, or its driver hangs; 'dmesg' names the task. Nothing else is tried on this GPU until the call returns; a reboot ends it.";
    error(Code::CallStuck, gpu_subject(gpu), message, hint)
}

// VMs.

/// It runs.
pub fn vm_running(vm: &VmName, what: &str) -> Finding {
    let message = format!("VM {vm} runs; {what} needs it off.");
    error(
        Code::VmRunning,
        vm_subject(vm),
        message,
        "Stop it first, or repeat with --restart: it is then shut down, changed, and started again.",
    )
}

/// It is off.
pub fn vm_not_running(vm: &VmName) -> Finding {
    error(
        Code::VmNotRunning,
        vm_subject(vm),
        format!("VM {vm} does not run."),
        format!("Start it with 'tranche vm start {vm}'."),
    )
}

/// It runs where its console cannot be opened from here.
pub fn vm_elsewhere(vm: &VmName, host: &HostName, why: &str) -> Finding {
    let message = format!("VM {vm} is on host {host}, and no console can be opened there from here: {why}.");
    let hint = format!("On host {host}: 'tranche vm console {vm}', or the console that it serves itself.");
    error(Code::VmElsewhere, vm_subject(vm), message, hint)
}

/// It has one.
pub fn vm_has_partition(vm: &VmName) -> Finding {
    let message = format!("VM {vm} asks for a GPU already; a VM has at most one partition.");
    error(
        Code::VmHasPartition,
        vm_subject(vm),
        message,
        format!("Take that one first: 'tranche vm detach {vm}'."),
    )
}

/// It has none.
pub fn vm_has_no_gpu(vm: &VmName) -> Finding {
    error(
        Code::VmHasNoGpu,
        vm_subject(vm),
        format!("VM {vm} asks for no GPU."),
        format!("'tranche vm attach {vm}' gives it one."),
    )
}

/// Nothing is free, or not enough of it on one host: `most` is what the host that has most could give.
pub fn no_room(vm: &VmName, request: &Request, (in_use, total): (usize, usize), most: usize) -> Finding {
    let (code, what, hint) = match request {
        Request::Whole { pool: Some(pool), .. } => (
            Code::NoFreeGpu,
            &*format!("GPUs of pool {pool}"),
            "It starts by itself when one is free. 'tranche gpu passthrough GPU --pool NAME' adds one.",
        ),
        Request::Whole { pool: None, .. } => (
            Code::NoFreeGpu,
            "GPUs for passthrough",
            "It starts by itself when one is free. 'tranche gpu passthrough' adds one.",
        ),
        _ => (
            Code::NoFreePartition,
            "partitions that fit",
            "It starts by itself when one is free. 'tranche partition list' shows who holds them; 'tranche gpu partition' makes more.",
        ),
    };
    let message = match request.slots() {
        0 | 1 => format!("VM {vm} waits: of {total} {what}, {in_use} are in use."),
        wanted => format!(
            "VM {vm} waits: it asks for {wanted} {what} on one host, and no host has more than {most} free \
             ({total} in all, {in_use} in use)."
        ),
    };
    warning(code, vm_subject(vm), message, hint)
}

/// A whole GPU is in another pool than the one that is asked for, or in none.
pub fn pool_mismatch(gpu: &GpuKey, wanted: &PoolName, own: Option<&PoolName>) -> Finding {
    let own = own.map_or_else(|| "no pool".to_owned(), |own| format!("pool {own}"));
    let message = format!("GPU {gpu} is in {own}, and GPUs of pool {wanted} are asked for.");
    let hint = format!("Put it there while it is free: 'tranche gpu passthrough {gpu} --pool {wanted}'.");
    error(Code::PoolMismatch, gpu_subject(gpu), message, hint)
}

/// No partition of that size anywhere.
pub fn size_mismatch(vm: &VmName, wanted: &str, offers: &[Offer]) -> Finding {
    let mut sizes: Vec<String> = offers.iter().map(describe_size).collect();
    sizes.sort();
    sizes.dedup();
    let message = format!("VM {vm} asks for a partition of {wanted}, and no GPU is split into such.");
    let hint = if sizes.is_empty() {
        "Split a GPU: 'tranche gpu partition'.".to_owned()
    } else {
        format!("Present sizes: {}. Change the request, or split a GPU anew.", list(&sizes))
    };
    warning(Code::SizeMismatch, vm_subject(vm), message, hint)
}

/// An offer's size for people: `4Q (3776 MiB)`.
pub fn describe_size(offer: &Offer) -> String {
    match offer.vram_mib {
        Some(vram_mib) => format!("{} ({vram_mib} MiB)", offer.profile),
        None => offer.profile.clone(),
    }
}

/// The guest is not on the list.
pub fn guest_unsupported(vm: &VmName, guest_os: &str) -> Finding {
    let message = format!("The guest system {guest_os:?} of VM {vm} is not on the list of supported ones.");
    warning(
        Code::GuestUnsupported,
        vm_subject(vm),
        message,
        "It may work. Supported are Windows 10 and later, Windows Server 2019 and later, Ubuntu 18.04, 20.04 and 22.04.",
    )
}

/// Somebody meant it to be off.
pub fn guest_rests(vm: &VmName, reason: OffReason) -> Finding {
    let again = format!("'tranche vm start {vm}' starts it again.");
    let (what, hint) = match reason {
        OffReason::Saved => (
            "was saved, or taken back to a snapshot, by hand",
            format!(
                "Restore it where it was saved. Once what was saved is not wanted any more, '{vm}' boots afresh: 'tranche vm start {vm}'."
            ),
        ),
        OffReason::Migrated => (
            "was moved to another host by hand",
            format!(
                "Make sure that it runs nowhere else, because both would write to its disks; then {again}"
            ),
        ),
        _ => ("was shut down from within, or by hand,", again),
    };
    info(Code::GuestPoweredOff, vm_subject(vm), format!("VM {vm} {what} and stays off."), hint)
}

/// Started behind our back.
pub fn started_by_hand(vm: &VmName) -> Finding {
    let message = format!("VM {vm} shall be off and was started by hand.");
    warning(
        Code::StartedByHand,
        vm_subject(vm),
        message,
        format!(
            "It is left alone, without GPU. 'tranche vm restart {vm}' runs it under Tranche, 'tranche vm stop {vm}' turns it off."
        ),
    )
}

/// It runs without what it asks for.
pub fn vm_without_gpu(vm: &VmName) -> Finding {
    let message = format!("VM {vm} runs without the GPU that it asks for.");
    warning(Code::VmWithoutGpu, vm_subject(vm), message, format!("'tranche vm restart {vm}' gives it one."))
}

/// The guest takes its time.
pub fn shutdown_slow(vm: &VmName) -> Finding {
    let message = format!("VM {vm} was asked to shut down and still runs.");
    info(
        Code::ShutdownSlow,
        vm_subject(vm),
        message,
        format!(
            "The guest may ignore the power button; 'tranche vm stop {vm} --force' turns it off, and 'tranche vm restart \
             {vm} --force' off and on."
        ),
    )
}

/// A VM does nothing although it runs.
pub fn vm_paused(vm: &VmName, host: &HostName) -> Finding {
    let message = format!("VM {vm} is paused: it holds its partition, and its guest stands still.");
    let hint = format!(
        "'virsh domstate --reason {vm}' on host {host} says why. After an I/O error: make room on its storage, then 'virsh resume \
         {vm}'; if somebody paused it, 'virsh resume {vm}' lets it go on."
    );
    warning(Code::VmPaused, vm_subject(vm), message, hint)
}

/// Another domain of the same name.
pub fn domain_identity(vm: &VmName) -> Finding {
    let message = format!("libvirt's domain {vm} has another UUID than VM {vm}: somebody replaced it.");
    error(
        Code::DomainIdentity,
        vm_subject(vm),
        message,
        format!(
            "Nothing is done to it. 'tranche vm delete {vm}', then 'tranche vm adopt {vm}', takes over the new one."
        ),
    )
}

/// The adopted domain is gone.
pub fn domain_missing(vm: &VmName) -> Finding {
    let message = format!("The domain of adopted VM {vm} is gone from libvirt.");
    error(
        Code::DomainMissing,
        vm_subject(vm),
        message,
        format!("Define it again with virsh, or forget it: 'tranche vm delete {vm}'."),
    )
}

/// Not persistent.
pub fn domain_transient(vm: &VmName) -> Finding {
    let message = format!("Domain {vm} is transient: it has no stored definition.");
    error(
        Code::DomainTransient,
        vm_subject(vm),
        message,
        format!("Make it persistent: 'virsh dumpxml {vm} > {vm}.xml; virsh define {vm}.xml'."),
    )
}

/// A device of somebody else's.
pub fn foreign_device(vm: &VmName) -> Finding {
    let message = format!("Domain {vm} has a GPU or partition that Tranche did not put there.");
    error(
        Code::ForeignDevice,
        vm_subject(vm),
        message,
        format!("Remove that <hostdev> ('virsh edit {vm}'), then ask Tranche for one: a VM has at most one."),
    )
}

/// An invariant does not hold.
pub fn invariant(subject: Subject, message: String) -> Finding {
    error(
        Code::Invariant,
        subject,
        message,
        "Nothing is carried out while this stands. Please report it with 'tranche doctor -o json'.",
    )
}

// People who use devices.

/// A process for people: `qemu-system-x86 (pid 4711)`.
pub fn describe_holder(holder: &Holder) -> String {
    format!("{} (pid {})", holder.command, holder.pid)
}

/// Why a GPU cannot be partitioned at all, from what was observed.
pub fn why_not_partitionable(key: &GpuKey, gpu: &Gpu) -> Finding {
    match (&gpu.sriov, gpu.backend, &gpu.driver) {
        (Some(_), _, None) => driver_missing(key),
        (Some(sriov), _, _) if sriov.total_vfs == 0 => sriov_disabled(key),
        _ => not_partitionable(key, &gpu.model),
    }
}

/// The GPU's partitions are of another size than asked for.
pub fn not_of_size(gpu: &GpuKey, sizes: &[&Offer]) -> Finding {
    let sizes: Vec<String> = sizes.iter().map(|offer| describe_size(offer)).collect();
    let has = if sizes.is_empty() { "no known size".to_owned() } else { list(&sizes) };
    let message = format!("The partitions of GPU {gpu} are of {has}.");
    error(
        Code::SizeMismatch,
        gpu_subject(gpu),
        message,
        "Ask for that size, or split the GPU anew: 'tranche gpu partition'.",
    )
}

/// Somebody has it.
pub fn slot_taken(slot: &SlotKey, users: &[String]) -> Finding {
    let message = format!("Partition {slot} is taken by {}.", list(users));
    warning(
        Code::NoFreePartition,
        Subject::Partition(slot.clone()),
        message,
        "It is free again when that VM stops.",
    )
}
