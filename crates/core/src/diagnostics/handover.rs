//! VMs that go to hosts with other stores, in words.

use super::{error, info, vm_subject, warning};
use crate::finding::{Code, Finding, Subject};
use crate::name::{HostName, VmName};

/// An invitation is of no use.
pub fn invitation_refused(why: &str) -> Finding {
    error(
        Code::InvitationRefused,
        Subject::Input("token".to_owned()),
        format!("The token opens nothing: {why}."),
        "'tranche vm invite' on the host that the VM shall go to makes a new one, for one VM.",
    )
}

/// A member of a cluster neither invites VMs nor lets them go to other stores.
pub fn handover_in_cluster(host: &HostName) -> Finding {
    error(
        Code::HandoverInCluster,
        Subject::Host(host.clone()),
        format!(
            "Host {host} is a member of a cluster, and VMs move by tokens only between hosts that are in none."
        ),
        "Inside a cluster 'tranche vm migrate VM --to HOST' moves a VM. A host that stands alone brings its VMs along when it joins one.",
    )
}

/// A VM goes by a token, or has gone: nothing else can be asked of it here.
pub fn vm_is_leaving(vm: &VmName, to: &HostName) -> Finding {
    error(
        Code::VmOnItsWay,
        vm_subject(vm),
        format!("VM {vm} is off here and goes to host {to}."),
        format!(
            "Ask that host. If it never answers again, and you have seen that it does not run the VM: tranche vm take-back {vm} --force."
        ),
    )
}

/// A VM comes by a token, and is its old host's yet.
pub fn vm_is_coming(vm: &VmName, from: &HostName) -> Finding {
    error(
        Code::VmOnItsWay,
        vm_subject(vm),
        format!("VM {vm} comes from host {from}, and is that host's until it has arrived."),
        format!(
            "Wait. If host {from} never answers again, and you have seen that it does not run the VM: tranche vm take-over {vm} --force."
        ),
    )
}

/// The same, as what is to be seen.
pub fn vm_arrives(vm: &VmName, from: &HostName) -> Finding {
    let Finding { code, subject, message, hint, .. } = vm_is_coming(vm, from);
    info(code, subject, message, hint)
}

/// A VM cannot go twice at a time.
pub fn handover_under_way(vm: &VmName, to: &HostName) -> Finding {
    error(
        Code::VmOnItsWay,
        vm_subject(vm),
        format!("VM {vm} is on its way to host {to} already, or that host is still told that it stays."),
        format!("'tranche vm show {vm}' shows how far it is; 'tranche vm take-back {vm}' keeps it here."),
    )
}

/// There is nothing to take back, or to take over.
pub fn not_on_its_way(vm: &VmName) -> Finding {
    error(
        Code::VmNotOnItsWay,
        vm_subject(vm),
        format!("VM {vm} is neither on its way to a host of another store nor coming from one."),
        format!("'tranche vm show {vm}' shows what it does."),
    )
}

/// What a VM was to go to cannot take it.
pub fn handover_refused(vm: &VmName, to: &HostName) -> Finding {
    error(
        Code::MigrateBlocked,
        vm_subject(vm),
        format!("Host {to} cannot take VM {vm}."),
        "The other findings say why; mend that there, and try again.",
    )
}

/// A VM was to go to a host with another store, and stays.
pub fn handover_in_vain(vm: &VmName, to: &HostName, why: &str) -> Finding {
    error(
        Code::MigrateBlocked,
        vm_subject(vm),
        format!("VM {vm} was to go to host {to}, and stays: {why}."),
        "Mend that, then ask again with a new token ('tranche vm invite' there).",
    )
}

/// The host that a VM goes to does not answer, and only that knows who has it.
pub fn handover_silent(vm: &VmName, to: &HostName) -> Finding {
    warning(
        Code::HandoverSilent,
        vm_subject(vm),
        format!("VM {vm} is off here and goes to host {to}, which does not answer."),
        format!(
            "It goes on by itself once that host answers. If it never does, and you have seen that it does not run the VM: tranche vm take-back {vm} --force."
        ),
    )
}

/// What was given as the address of another host is none.
pub fn peer_address(url: &str) -> Finding {
    error(
        Code::InvalidValue,
        Subject::Input("to".to_owned()),
        format!("{url:?} is not the address of another host's console."),
        "It looks like https://HOST:7440, as 'tranche vm invite' tells it there.",
    )
}

/// A host with another store refuses.
pub fn peer_refused(place: &str, why: &str, hint: &str) -> Finding {
    error(Code::InvitationRefused, Subject::Input("to".to_owned()), format!("{place} refuses: {why}"), hint)
}

/// A host with another store does not answer.
pub fn peer_silent(place: &str, why: &str) -> Finding {
    error(
        Code::PeerSilent,
        Subject::Input("to".to_owned()),
        format!("{place} does not answer: {why}."),
        "Its console's port must be reached from here (setting 'console.listen' there), and the token must be of that very host.",
    )
}

/// A host that serves no console cannot be asked by others.
pub fn nowhere_to_come() -> Finding {
    error(
        Code::PeerSilent,
        Subject::Installation,
        "This host serves no console, so the VM's host could not ask it.".to_owned(),
        "Set 'console.listen' to an address and a port that the VM's host reaches, such as [::]:7440, and restart tranched.",
    )
}
