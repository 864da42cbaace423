//! Findings about what belongs to a cluster, and about the cluster's store.

use super::{error, info, warning};
use crate::finding::{Code, Finding, Subject};
use crate::membership::{StorePlace, is_later};
use crate::name::{HostName, Timestamp, VmName};

fn host_subject(host: &HostName) -> Subject {
    Subject::Host(host.clone())
}

fn place_subject(place: &StorePlace) -> Subject {
    match place {
        StorePlace::Host(host) => host_subject(host),
        StorePlace::Url(_) => Subject::Installation,
    }
}

fn list<T: ToString>(names: &[T]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The host is in a cluster.
pub fn cluster_already(cluster: &str) -> Finding {
    let message = format!("This host is a member of the cluster {cluster} already.");
    let hint = "'tranche cluster status' shows it; 'tranche cluster leave' takes this host out of it.";
    error(Code::ClusterAlready, Subject::Installation, message, hint)
}

/// The host is in no cluster.
pub fn cluster_none() -> Finding {
    let message = "This host stands alone; it is a member of no cluster.".to_owned();
    let hint =
        "'tranche cluster init' begins a cluster with it, 'tranche cluster join TOKEN' takes it into one.";
    error(Code::ClusterNone, Subject::Installation, message, hint)
}

/// Nobody decides for the cluster.
pub fn no_leader(asked: &HostName) -> Finding {
    let message = format!("Host {asked} knows of no host that leads the cluster at the moment.");
    let hint = "A new one is chosen within seconds; try again. If it stays so, 'tranche cluster status' shows which members of the store answer.";
    error(Code::NoLeader, Subject::Installation, message, hint)
}

/// Who decided for the cluster does so no more; nothing was changed.
pub fn lead_lost() -> Finding {
    let message = "Another host has just begun to lead the cluster; nothing was changed.".to_owned();
    error(Code::NoLeader, Subject::Installation, message, "Repeat it: the one that leads now takes it.")
}

/// Who decides for the cluster does not answer.
pub fn leader_unreachable(leader: &HostName, why: &str) -> Finding {
    let message = format!("Host {leader} leads the cluster and cannot be reached from here: {why}.");
    let hint = "If it is down, another one leads within seconds: look what was done, then repeat. Else look at the network between the two hosts.";
    error(Code::LeaderUnreachable, Subject::Host(leader.clone()), message, hint)
}

/// Only the host itself has its history.
pub fn history_unavailable(host: &HostName, why: &str) -> Finding {
    let message = format!("Host {host} keeps this history and cannot be asked for it: {why}.");
    let hint = "Each host keeps its own, and no other one has it. Ask again when 'tranche host list' shows the host as up.";
    error(Code::HistoryUnavailable, Subject::Host(host.clone()), message, hint)
}

/// No host has been chosen for a VM yet, so nobody knows whom to ask.
pub fn history_nowhere(vm: &VmName) -> Finding {
    let message = format!("VM {vm} is on no host, and each host keeps the history of its own VMs.");
    let hint = "Name the host where it ran, with 'host=NAME' ('--host NAME').";
    error(Code::HistoryUnavailable, Subject::Vm(vm.clone()), message, hint)
}

/// The host is on its way into a cluster, or out of it.
pub fn cluster_busy(doing: &str) -> Finding {
    let message = format!("This host is about to {doing}.");
    let hint = "'tranche cluster status' shows how far it is; the same command again goes on, 'tranche cluster leave' gives it up.";
    error(Code::ClusterBusy, Subject::Installation, message, hint)
}

/// A token that opens nothing.
pub fn token_invalid(why: &str) -> Finding {
    let message = format!("The join token cannot be used: {why}.");
    let hint = "A token serves one host, once, and for a limited time. Make a new one on a member: tranche cluster token create.";
    error(Code::TokenInvalid, Subject::Input("token".to_owned()), message, hint)
}

/// Whoever answers is not whom the token is for.
pub fn cluster_untrusted(address: &str) -> Finding {
    let message = format!(
        "What answers at {address} cannot prove that it is the cluster that the token is for; the token's secret was not sent."
    );
    let hint = "Is the address right, and was the token made by this cluster? If both are so, somebody is between the two.";
    error(Code::ClusterUntrusted, Subject::Input("token".to_owned()), message, hint)
}

/// No member of the cluster can be reached.
pub fn cluster_unreachable(addresses: &[String], why: &str) -> Finding {
    let message = format!("The cluster cannot be reached at {}: {why}.", list(addresses));
    let hint = "See that tranched runs there, and that no firewall is between: a cluster's hosts need TCP ports 7443 to 7445 of each other.";
    error(Code::ClusterUnreachable, Subject::Installation, message, hint)
}

/// Another machine has the name.
pub fn host_exists(host: &HostName) -> Finding {
    let message = format!("The cluster has a host {host} already.");
    let hint = format!(
        "Give this one another name (`host` in tranched.toml). If it takes the place of one that is gone: tranche cluster remove {host}, then a new token."
    );
    error(Code::HostExists, host_subject(host), message, hint)
}

/// The host is needed where it is.
pub fn host_has_vms(host: &HostName, vms: &[&VmName]) -> Finding {
    let message = format!("Host {host} has VMs: {}.", list(vms));
    let hint = format!("Empty it first: tranche host drain {host}; or stop and delete them.");
    error(Code::HostHasVms, host_subject(host), message, hint)
}

/// VMs belong to a host that is down, and stay with it.
pub fn dead_host_has_vms(host: &HostName, vms: &[&VmName]) -> Finding {
    let message = format!("VMs belong to host {host} and are not started elsewhere: {}.", list(vms));
    let hint = "Delete them, or repeat with --forget-vms: they are forgotten with the host, and their disks stay. --dry-run shows it.";
    error(Code::HostHasVms, host_subject(host), message, hint)
}

/// VMs are about to be started elsewhere, or wait for their host.
pub fn vms_still_leave(host: &HostName, vms: &[&VmName]) -> Finding {
    let message = format!("VMs of host {host} are to be started elsewhere, and are not yet: {}.", list(vms));
    let hint = format!(
        "Wait a moment and repeat. If they wait for the host to boot: tranche host confirm-down {host}."
    );
    error(Code::HostHasVms, host_subject(host), message, hint)
}

/// A VM is forgotten together with its host, or would be.
pub fn vm_forgotten(vm: &VmName, host: &HostName, dry_run: bool) -> Finding {
    let is = if dry_run { "would be" } else { "was" };
    let message = format!("VM {vm} {is} forgotten together with host {host}.");
    let hint = "Its disks stay where they are. If the host comes back, its definition is still there: virsh.";
    info(Code::VmForgotten, Subject::Vm(vm.clone()), message, hint)
}

/// Two machines cannot be at one place.
pub fn address_taken(door: &str, host: &HostName) -> Finding {
    let message = format!("Machine {host} of the cluster is reached at {door} already.");
    let hint = "Give each machine its own --address; several on one machine need ports of their own ([cluster] and [etcd] in tranched.toml).";
    error(Code::AddressTaken, host_subject(host), message, hint)
}

/// A witness without a seat in the store.
pub fn witness_useless(why: &str) -> Finding {
    let message = format!("A witness only has a voice in the cluster's store, and would get none: {why}.");
    let hint = "Nothing is missing without it. To use it all the same, take one of those out first that have a voice ('tranche cluster status' shows them).";
    error(Code::WitnessUseless, Subject::Installation, message, hint)
}

/// A host cannot give up its seat while others are silent.
pub fn seat_needed(host: &HostName, silent: &[&StorePlace]) -> Finding {
    let message = format!(
        "Host {host} cannot give up its seat in the cluster's store: without it nothing could be decided, because the member {} does not answer.",
        list(silent)
    );
    let hint = "Bring that one back first, or take it out if it is gone for good: tranche cluster remove.";
    error(Code::StoreMemberDown, host_subject(host), message, hint)
}

/// A member of the store that does not answer has no vote.
pub fn store_learner_silent(place: &StorePlace) -> Finding {
    let message =
        format!("The store's member {place} does not answer; it has no vote yet, so nothing is lost by it.");
    let hint = "Look at that machine: it was about to join. If it is gone for good: tranche cluster remove.";
    warning(Code::StoreMemberDown, place_subject(place), message, hint)
}

/// A host that lives is not removed.
pub fn host_alive(host: &HostName) -> Finding {
    let message = format!("Host {host} is not known to be down.");
    let hint = format!(
        "If it works, have it leave by itself: 'tranche cluster leave' there. If it is off for good, say so first: tranche host confirm-down {host}."
    );
    error(Code::HostAlive, host_subject(host), message, hint)
}

/// The last host cannot leave.
pub fn last_host(host: &HostName) -> Finding {
    let message = format!("Host {host} is the only one of its cluster that runs VMs.");
    let hint = "Let another host join first, or keep it as a cluster of one.";
    error(Code::LastHost, host_subject(host), message, hint)
}

/// A member of the store could not be made, changed or reached.
pub fn store_member_failed(what: &str, why: &str) -> Finding {
    let message = format!("etcd on this host cannot {what}: {why}.");
    let hint = "Is etcd installed (apt install etcd-server), are its ports free, and what does it say? journalctl -u tranche-etcd. The same command again goes on where it stopped.";
    error(Code::StoreMemberFailed, Subject::Installation, message, hint)
}

/// A host has given up to get into a cluster, which does not know of that.
pub fn cluster_not_told(host: &HostName, why: &str) -> Finding {
    let message = format!(
        "This host has given up to join, and the cluster could not be told: {why} What it knows of this host keeps a seat of its store taken."
    );
    let hint = format!("On a member of that cluster: tranche cluster remove {host}.");
    warning(Code::StoreMemberFailed, host_subject(host), message, hint)
}

/// A file of the cluster's cannot be read or written.
pub fn cluster_file(what: &str, why: &str) -> Finding {
    let message = format!("{what}: {why}.");
    let hint =
        "Look at the directory's rights and at the space on its disk (`df -h`), then repeat the command.";
    error(Code::StoreUnavailable, Subject::Installation, message, hint)
}

/// The records that a host would bring into a cluster clash with what is there.
pub fn records_clash(keys: &[String]) -> Finding {
    let message = format!("The cluster has other records of the same name: {}.", list(keys));
    let hint =
        "Rename or delete the VMs of that name on this host or in the cluster, then repeat the command.";
    error(Code::HostExists, Subject::Installation, message, hint)
}

/// A host was taken out of the cluster while it was on its way in.
pub fn taken_out(host: &HostName) -> Finding {
    let message = format!("Host {host} was taken out of the cluster while it was about to join.");
    let hint = "'tranche cluster leave' here, then join with a new token.";
    error(Code::HostNotFound, host_subject(host), message, hint)
}

/// More records than a host can bring.
pub fn too_many_records(found: usize) -> Finding {
    let message = format!(
        "This host has {found} records of its GPUs and VMs; that is more than can be brought into a cluster."
    );
    let hint = "Begin the cluster with this host instead ('tranche cluster init' carries any number), and let the others join it.";
    error(Code::HostHasVms, Subject::Installation, message, hint)
}

/// A file is no backup.
pub fn backup_invalid(why: &str) -> Finding {
    let message = format!("The backup cannot be used: {why}.");
    let hint =
        "Use a whole file as 'tranche cluster backup' wrote it, with this version of Tranche or a later one.";
    error(Code::BackupInvalid, Subject::Input("backup".to_owned()), message, hint)
}

/// No host here may sign certificates.
pub fn not_a_signer(signers: &[HostName]) -> Finding {
    let message = "This host cannot sign certificates for others.".to_owned();
    let hint = format!("Ask one that can: {}.", list(signers));
    error(Code::ClusterUnreachable, Subject::Installation, message, hint)
}

/// The store has too few members to lose one.
pub fn store_without_majority(voters: usize) -> Finding {
    let message = if voters == 1 {
        "The cluster's store has one member: while its host is down, nothing can be decided, and no VM is started elsewhere."
    } else {
        "The cluster's store has two members: when either host is lost, nothing can be decided any more, so no VM is started elsewhere. Two hosts alone survive the loss of neither."
    };
    let hint = "Let a third one join: a host, or any small machine as a witness ('tranched --witness' there, then 'tranche cluster join TOKEN').";
    warning(Code::StoreWithoutMajority, Subject::Installation, message.to_owned(), hint)
}

/// A member of the store does not answer.
pub fn store_member_down(place: &StorePlace, survives: Option<usize>) -> Finding {
    let then = match survives {
        None => "too few are left, so nothing can be written".to_owned(),
        Some(0) => "until it is back, no other member may fail".to_owned(),
        Some(more) => format!("{more} more may fail"),
    };
    let message = format!("The store's member {place} does not answer; {then}.");
    let hint = match place {
        StorePlace::Host(host) => format!(
            "Look at that host, and there: systemctl status tranche-etcd. If it is gone for good: tranche cluster remove {host}; its seat then goes to the oldest host that has none."
        ),
        StorePlace::Url(_) => "Whoever runs that etcd looks at it there.".to_owned(),
    };
    error(Code::StoreMemberDown, place_subject(place), message, hint)
}

/// A member of the store has other data than the others.
pub fn store_member_corrupt(place: &StorePlace) -> Finding {
    let message = format!(
        "The store's member {place} has raised the alarm that its data differ from those of the others, so etcd refuses to write."
    );
    let hint = match place {
        StorePlace::Host(host) => format!(
            "Make a backup now ('tranche cluster backup FILE'). Then take the host out and let it join anew: tranche host drain {host}, and there: tranche cluster leave."
        ),
        StorePlace::Url(_) => {
            "Whoever runs that etcd replaces the member; make a backup before: tranche cluster backup FILE."
                .to_owned()
        }
    };
    error(Code::StoreMemberCorrupt, place_subject(place), message, hint)
}

/// The store refuses writes because its quota is used up.
pub fn store_out_of_space(place: &StorePlace) -> Finding {
    let message = format!("The store's member {place} has used up its quota, so nothing can be written.");
    let hint = "'tranche cluster defragment' makes room and takes the alarm back.";
    error(Code::StoreOutOfSpace, place_subject(place), message, hint)
}

/// Some members of the store could not be defragmented.
pub fn store_not_defragmented(failed: &[(String, String)], disarmed: bool) -> Finding {
    let each: Vec<String> = failed.iter().map(|(place, why)| format!("{place} ({why})")).collect();
    let rest = match disarmed {
        true => "the others are done",
        false => "so fewer than a majority are done, and an alarm that the quota is used up stays",
    };
    let message = format!("These members of the store were not defragmented: {}; {rest}.", list(&each));
    let hint = "Look at those members ('tranche cluster status'), then repeat the command: what is done already takes no time.";
    error(Code::StoreMemberFailed, Subject::Installation, message, hint)
}

/// The store's file is close to its limit.
pub fn store_near_quota(place: &StorePlace, file_mib: u64, quota_mib: u64) -> Finding {
    let message = format!(
        "The file of the store's member {place} has {file_mib} MiB of the {quota_mib} MiB that it may have."
    );
    let hint = "'tranche cluster defragment' makes it smaller; does something else keep its data in this etcd? `etcd.quota_mib` in tranched.toml allows more.";
    warning(Code::StoreNearQuota, place_subject(place), message, hint)
}

/// Most of the store's file is holes.
pub fn store_fragmented(place: &StorePlace, file_mib: u64, used_mib: u64) -> Finding {
    let message = format!(
        "The file of the store's member {place} has {file_mib} MiB, of which {used_mib} MiB are in use."
    );
    let hint = "'tranche cluster defragment' gives the rest back, one member after the other.";
    info(Code::StoreFragmented, place_subject(place), message, hint)
}

/// A host does not take the seat that it was given.
pub fn seat_not_taken(host: &HostName, minutes: u64) -> Finding {
    let message = format!(
        "Host {host} was given a seat in the cluster's store and has not taken it for {minutes} minutes; no other host gets one meanwhile."
    );
    let hint = format!(
        "Look at tranched and etcd there (journalctl -u tranched -u tranche-etcd). If the host is gone for good: tranche cluster remove {host}."
    );
    warning(Code::SeatNotTaken, host_subject(host), message, hint)
}

/// A machine that was removed had the authority's key.
pub fn authority_exposed(host: &HostName) -> Finding {
    let message = format!(
        "Host {host} had the key of the cluster's authority when it was removed. Its own certificates are revoked, but whoever has its disk can certify any machine as a host of this cluster, which etcd and every host then believe."
    );
    let hint = "Erase that disk (pki/ca.key in its state directory) or keep it safe. If somebody else may have it, begin the cluster anew from a backup, which makes a new authority: tranche cluster backup, then tranche cluster restore.";
    warning(Code::AuthorityExposed, host_subject(host), message, hint)
}

/// A certificate ends and was not renewed.
pub fn certificate_ends(whose: &str, until: Timestamp, now: Timestamp) -> Finding {
    let days = until.0.saturating_sub(now.0) / (24 * 60 * 60 * 1_000);
    let message = format!("The certificate of {whose} ends in {days} days.");
    let hint = "A host's is renewed by itself once a host that may sign can be reached. For the authority's, begin a new cluster from a backup.";
    warning(Code::CertificateEnds, Subject::Installation, message, hint)
}

/// A host cannot join with another version than the one that rules.
pub fn join_version(host: &HostName, version: &str, ruling: &str) -> Finding {
    let message = format!(
        "Host {host} has version {version} of Tranche, and in the cluster {ruling} rules; it could not read what is stored there, or would bring what others cannot read."
    );
    let hint = if is_later(version, ruling) {
        format!(
            "Bring all hosts of the cluster up to date first ('tranche cluster upgrade-plan'), or install version {ruling} on {host}."
        )
    } else {
        format!("Install version {ruling} on {host}, then let it join again.")
    };
    error(Code::VersionMismatch, host_subject(host), message, hint)
}

/// Versions differ.
pub fn versions_differ(ruling: &str, newer: &[&HostName]) -> Finding {
    let message = format!(
        "Hosts have different versions of Tranche: {ruling} rules, {} have a later one.",
        list(newer)
    );
    info(
        Code::VersionsDiffer,
        Subject::Installation,
        message,
        "Bring the others up to date, too; what is new is used when all have it.",
    )
}
