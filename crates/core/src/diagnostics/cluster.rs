//! Findings about members of a cluster, and about VMs that wait for one of them.

use super::{error, info, vm_subject, warning};
use crate::finding::{Code, Finding, Subject};
use crate::name::{HostName, VmName};
use crate::plan::DownBy;
use crate::spec::DepartureWay;

fn host_subject(host: &HostName) -> Subject {
    Subject::Host(host.clone())
}

/// A host is silent.
pub fn host_lost(host: &HostName) -> Finding {
    let message = format!("Nothing has been heard of host {host} for longer than a heartbeat may take.");
    let hint = "It gets no more VMs; those that it has are left to it until it is known to be down. Look at its power, its network and its tranched.";
    error(Code::HostLost, host_subject(host), message, hint)
}

/// A host's daemon was stopped.
pub fn host_unattended(host: &HostName) -> Finding {
    let message = format!(
        "The daemon of host {host} was stopped in good order. Its VMs run on there, and would not be started elsewhere if it died."
    );
    let hint = format!(
        "Start it again: 'systemctl start tranched' on {host}. If the host is off by now: tranche host confirm-down {host}."
    );
    warning(Code::HostUnattended, host_subject(host), message, hint)
}

/// A host of a later version reports what this one cannot read.
pub fn report_unread(host: &HostName, why: &str) -> Finding {
    let message = format!(
        "What host {host} reports cannot be read here, because its version of Tranche is later than that of the host that leads: {why}."
    );
    let hint = "Nothing is released or started there meanwhile; what runs there runs on. Bring the other hosts up to date, too: 'tranche cluster status' shows the versions, 'tranche cluster upgrade-plan' the order.";
    error(Code::HostUnread, host_subject(host), message, hint)
}

/// A host cannot read what a later version decided for it.
pub fn part_unread(host: &HostName, why: &str) -> Finding {
    let message = format!(
        "Host {host} cannot read what was decided for it, because a host with a later version of Tranche has decided it: {why}."
    );
    let hint = "It carries on what it knew before and begins nothing new. Bring it up to date: apt install tranche, there.";
    error(Code::HostUnread, host_subject(host), message, hint)
}

/// A host of a later version says that it lives in a form that this one cannot read.
pub fn heartbeat_unread(host: &HostName, version: &str, why: &str) -> Finding {
    let has = if version.is_empty() {
        "its version of Tranche is later".to_owned()
    } else {
        format!("it has version {version} of Tranche, which is later")
    };
    let message = format!(
        "The heartbeats of host {host} cannot be read here, because {has} than that of the host that leads: {why}."
    );
    let hint = "It counts as alive as long as they come. If they stop, its watchdog counts for nothing: its fence agent has to see it off, or somebody ('tranche host confirm-down'). Bring the other hosts up to date, too.";
    error(Code::HostUnread, host_subject(host), message, hint)
}

/// A silent host cannot be shut off.
pub fn host_unfenced(host: &HostName) -> Finding {
    let message = format!(
        "Host {host} is silent, and neither a watchdog nor a fence agent tells whether its VMs still run; so they are started nowhere."
    );
    let hint = format!(
        "Make sure that it is off, then say so: tranche host confirm-down {host}. For the next time: tranche host set {host} --fence-agent AGENT, or a watchdog."
    );
    error(Code::HostUnfenced, host_subject(host), message, hint)
}

/// A host could not be shut off if it were silent.
pub fn host_unguarded(host: &HostName) -> Finding {
    let message = format!(
        "Host {host} runs VMs that are to start elsewhere when it dies, and has neither a watchdog nor a fence agent; so they would be started nowhere."
    );
    let hint = format!(
        "Load the driver of its watchdog (docs/fencing.md says which), or name an agent: tranche host set {host} --fence-agent AGENT."
    );
    warning(Code::HostUnguarded, host_subject(host), message, hint)
}

/// A host's power is being cut.
pub fn host_fencing(host: &HostName) -> Finding {
    let message = format!("Host {host} was given up, and its fence agent is cutting its power.");
    let hint = format!(
        "Its VMs start elsewhere as soon as the agent has seen it off. If it cannot, see to it by hand: tranche host confirm-down {host}."
    );
    warning(Code::HostFencing, host_subject(host), message, hint)
}

/// A host was given up. `comes_back` says whether its fence agent turns it on again.
pub fn host_down(host: &HostName, by: DownBy, comes_back: bool) -> Finding {
    let how = match by {
        DownBy::Watchdog => "the time is over by which its watchdog has reset it",
        DownBy::Agent => "its fence agent has cut its power",
        DownBy::Hand => "somebody said so",
        DownBy::Shutdown => "it said so before it shut down",
        DownBy::Surrender => "it was given up and has ended all that it ran",
    };
    let message = format!("Host {host} is down: {how}.");
    let back = match (by, comes_back) {
        (DownBy::Agent, true) => {
            "The agent turns it on again, and it comes back by itself when it has booted"
        }
        (DownBy::Agent, false) => {
            "It is left off. Turn it on, and it comes back by itself when it has booted"
        }
        _ => "It comes back by itself when it boots",
    };
    let hint = format!("{back}; 'tranche cluster remove {host}' forgets it for good.");
    warning(Code::HostDown, host_subject(host), message, hint)
}

/// A host takes no VMs.
pub fn host_in_maintenance(host: &HostName) -> Finding {
    let message = format!("Host {host} is in maintenance and takes no VMs.");
    info(
        Code::HostMaintenance,
        host_subject(host),
        message,
        format!("'tranche host undrain {host}' ends it."),
    )
}

/// A VM of a host that is to be emptied has no other place.
pub fn drain_blocked(vm: &VmName, host: &HostName) -> Finding {
    let message =
        format!("Host {host} is in maintenance, and no other host has room for VM {vm}; so it stays.");
    let hint = format!("Make room elsewhere, or stop it: tranche vm stop {vm}.");
    warning(Code::DrainBlocked, vm_subject(vm), message, hint)
}

/// A VM cannot go where it was told to.
pub fn migrate_refused(vm: &VmName, to: &HostName) -> Finding {
    let message = format!("VM {vm} cannot run on host {to} now, so it stays where it is.");
    let hint = format!(
        "What else was found says why. Without --to, any other host will do: tranche vm migrate {vm}."
    );
    error(Code::MigrateBlocked, vm_subject(vm), message, hint)
}

/// A VM has nowhere else to go.
pub fn migrate_blocked(vm: &VmName, from: &HostName) -> Finding {
    let message = format!("No other host can take VM {vm} now, so it stays on host {from}.");
    let hint = format!("'tranche why-not {vm} HOST' says why, of each host.");
    error(Code::MigrateBlocked, vm_subject(vm), message, hint)
}

/// A VM that was to move waits, because who would have taken it cannot any more.
pub fn migrate_waits(vm: &VmName, from: &HostName, why: &Finding) -> Finding {
    let message = format!("VM {vm} shall leave host {from} and waits for room: {}", why.message);
    let hint =
        format!("It moves by itself when there is. To take it back: tranche vm migrate {vm} --to {from}.");
    warning(Code::MigrateBlocked, vm_subject(vm), message, hint)
}

/// A VM that was to move runs where nobody meant it to.
pub fn migrated_in_vain(vm: &VmName, host: &HostName) -> Finding {
    let message = format!(
        "VM {vm} runs on host {host}: when it was off, the host that it was to go to could not take it any more."
    );
    let hint = format!("'tranche why-not {vm} HOST' says why; then try again.");
    error(Code::MigrateBlocked, vm_subject(vm), message, hint)
}

/// It is too late to take a move back.
pub fn migrate_under_way(vm: &VmName) -> Finding {
    let message = format!("The guest of VM {vm} was asked to shut down already, so it leaves its host.");
    let hint = format!("Wait until it runs again, then move it back: tranche vm migrate {vm} --to HOST.");
    error(Code::MigrateBlocked, vm_subject(vm), message, hint)
}

/// The VM goes to another host by the command before.
pub fn migrate_on_its_way(vm: &VmName, from: &HostName, to: &HostName) -> Finding {
    let message = format!("VM {vm} is on its way to host {to}.");
    let hint = format!(
        "Wait until it runs there, or call that off before: 'tranche vm migrate {vm} --to {from}' lets it stay."
    );
    error(Code::MigrateBlocked, vm_subject(vm), message, hint)
}

/// There is no guest to take along.
pub fn nothing_to_migrate(vm: &VmName) -> Finding {
    let hint = format!(
        "It is placed anew when it starts: tranche vm start {vm}. A rule says where that shall be (tranche rule set)."
    );
    Finding { hint, ..super::vm_not_running(vm) }
}

/// A VM is where it shall go.
pub fn migrated_already(vm: &VmName, host: &HostName) -> Finding {
    let message = format!("VM {vm} runs on host {host}, and stays there.");
    info(Code::Migrated, vm_subject(vm), message, "'tranche vm list' shows where VMs run.")
}

/// A VM is not started elsewhere.
pub fn vm_waits_for_host(vm: &VmName, host: &HostName) -> Finding {
    let message = format!("Host {host} is down, and VM {vm} belongs to it; so it waits.");
    let hint = "A VM with --failover restart that Tranche made is started elsewhere instead.";
    warning(Code::VmWaitsForHost, vm_subject(vm), message, hint)
}

/// A VM waits until its host has booted.
pub fn vm_waits_for_reboot(vm: &VmName, host: &HostName) -> Finding {
    let message = format!("Host {host} is being rebooted, and VM {vm} waits for it.");
    let hint = format!(
        "If the host does not come back: 'tranche host confirm-down {host}' starts its VMs elsewhere. The policy 'shutdown' \
         says which VMs wait."
    );
    info(Code::VmWaitsForHost, vm_subject(vm), message, hint)
}

/// A host's clock is off.
pub fn clock_off(host: &HostName, ahead_ms: i64) -> Finding {
    let (seconds, way) = (ahead_ms.unsigned_abs() / 1_000, if ahead_ms > 0 { "ahead of" } else { "behind" });
    let message =
        format!("The clock of host {host} is {seconds} s or more {way} that of the host that leads.");
    let hint = "No decision about who lives rests on clocks, but times that are shown do, and certificates. Is NTP on? timedatectl.";
    warning(Code::ClockOff, host_subject(host), message, hint)
}

/// A host is about to go down.
pub fn host_departing(host: &HostName, way: DepartureWay) -> Finding {
    let doing = match way {
        DepartureWay::Reboot => "being rebooted",
        DepartureWay::Shutdown => "being shut down",
    };
    let message = format!("Host {host} is {doing} by its administrator and takes no VMs.");
    let hint =
        format!("It serves again when it has booted. 'tranche host stay {host}' takes it back before that.");
    info(Code::HostDeparting, host_subject(host), message, hint)
}

/// Failover is paused.
pub fn failover_paused() -> Finding {
    let message =
        "Failover is paused: no watchdog is armed, and no VM is started elsewhere when its host dies.";
    warning(
        Code::FailoverPaused,
        Subject::Installation,
        message.to_owned(),
        "'tranche cluster resume' ends the pause.",
    )
}

/// The store answers so slowly that nobody's silence counts.
pub fn store_slow(deaf_ms: u64, election_ms: u64) -> Finding {
    let message = format!(
        "The cluster's store has not once answered in time for {} s: while it takes longer than {election_ms} ms, no host's silence counts, and no VM is started elsewhere when its host dies.",
        deaf_ms / 10_000 * 10
    );
    let hint = "Look at the disks and at the network of its members ('tranche cluster status', 'journalctl -u tranche-etcd'). Where it cannot be quicker, a longer election_ms helps: docs/configuration.md.";
    error(Code::StoreSlow, Subject::Installation, message, hint)
}

/// A VM falls over again and again.
pub fn vm_falls(vm: &VmName, host: &HostName) -> Finding {
    let message = format!(
        "VM {vm} fell over on host {host} as often as its policy allows there; it is started elsewhere if there is room, else here after a pause."
    );
    let hint = format!("Find out why: virsh console {vm}, /var/log/libvirt/qemu/{vm}.log.");
    warning(Code::VmFalls, vm_subject(vm), message, hint)
}

/// A VM fell over too often.
pub fn vm_given_up(vm: &VmName, hosts: usize) -> Finding {
    let message = format!(
        "VM {vm} fell over on {hosts} hosts as often as its policy allows, and is not started again."
    );
    let hint =
        format!("Find out why (virsh console, /var/log/libvirt/qemu/{vm}.log), then: tranche vm start {vm}.");
    error(Code::VmGivenUp, vm_subject(vm), message, hint)
}

/// A host that is to be forgotten has VMs.
pub fn host_not_empty(host: &HostName, vms: &[VmName]) -> Finding {
    let message = format!("Host {host} still has VMs: {}.", super::list(vms));
    error(
        Code::HostNotEmpty,
        host_subject(host),
        message,
        format!("Empty it first: tranche host drain {host}."),
    )
}

/// A host that somebody takes for down is not silent.
pub fn host_not_silent(host: &HostName) -> Finding {
    let message = format!("Host {host} is there: its heartbeats arrive.");
    let hint = format!("To empty it: tranche host drain {host}.");
    error(Code::HostNotSilent, host_subject(host), message, hint)
}
