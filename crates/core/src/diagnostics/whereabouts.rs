//! What keeps VMs from hosts, in words.

use super::{error, vm_subject, warning};
use crate::finding::{Code, Finding};
use crate::name::{HostName, VmName};
use crate::whereabouts::Lack;

/// A host lacks something that a VM needs; `home` is the host that has it.
pub fn host_lacks(vm: &VmName, host: &HostName, home: Option<&HostName>, lack: Lack<'_>) -> Finding {
    let (code, message, hint) = words(vm, host, home, lack);
    error(code, vm_subject(vm), message, hint)
}

/// A host has room for a VM and lacks something that it needs, and no other host serves.
pub fn waits_for_lack(vm: &VmName, host: &HostName, home: Option<&HostName>, lack: Lack<'_>) -> Finding {
    let (code, message, hint) = words(vm, host, home, lack);
    warning(
        code,
        vm_subject(vm),
        format!("VM {vm} waits, though host {host} has room for it. {message}"),
        hint,
    )
}

/// The disks of a VM are on one host alone, which does not take it now.
pub fn waits_for_storage(vm: &VmName, home: &HostName, pool: &str) -> Finding {
    let message =
        format!("VM {vm} waits for host {home}: its disk in the storage pool {pool} is on that host alone.");
    let hint = format!(
        "It starts by itself when the host is back and has room. If the host is lost: 'tranche vm delete {vm}', and make the VM \
         anew with a copy of its disk. Disks in a pool on storage that hosts share (NFS, Ceph, Gluster, iSCSI) let it start \
         elsewhere."
    );
    warning(Code::StorageLocal, vm_subject(vm), message, hint)
}

/// A VM stays on a host that is to be emptied, because its disks are there.
pub fn drain_blocked_by_storage(vm: &VmName, host: &HostName, pool: &str) -> Finding {
    let message = format!(
        "Host {host} is in maintenance, and the disk of VM {vm} in the storage pool {pool} is on that host alone; so it stays."
    );
    let hint = format!("Stop it: tranche vm stop {vm}. It starts when the host serves again.");
    warning(Code::DrainBlocked, vm_subject(vm), message, hint)
}

/// What is not done for a VM of a cluster that was adopted.
pub fn adopted_stays(vm: &VmName) -> Finding {
    let message = format!(
        "VM {vm} is adopted, and only its own host has its definition: it is not started elsewhere when that host dies, and neither \
         a drain nor 'tranche vm migrate' moves it."
    );
    let hint = "A VM that shall run on several hosts is made by Tranche ('tranche vm create') on storage that they share.";
    warning(Code::DefinitionLocal, vm_subject(vm), message, hint)
}

fn words(vm: &VmName, host: &HostName, home: Option<&HostName>, lack: Lack<'_>) -> (Code, String, String) {
    let elsewhere = home.map_or_else(|| "another host".to_owned(), |home| format!("host {home}"));
    match lack {
        Lack::Pool(pool) => (
            Code::StorageMissing,
            format!("VM {vm} has a disk in the storage pool {pool}, and host {host} has no such pool."),
            format!("Define it there as it is on the other hosts ('virsh pool-define', 'virsh pool-autostart {pool}')."),
        ),
        Lack::PoolInactive(pool) => (
            Code::StorageMissing,
            format!("VM {vm} has a disk in the storage pool {pool}, which is not started on host {host}."),
            format!("Start it there: 'virsh pool-start {pool}', and 'virsh pool-autostart {pool}' for the next boot."),
        ),
        Lack::PoolLocal(pool) => (
            Code::StorageLocal,
            format!(
                "VM {vm} has a disk in the storage pool {pool}, which is {elsewhere}'s own and not that of host {host}."
            ),
            "Move the disk to a pool on storage that the hosts share (NFS, Ceph, Gluster, iSCSI); until then the VM can run on its \
             own host only."
                .to_owned(),
        ),
        Lack::Network(network) => (
            Code::NetworkMissing,
            format!("VM {vm} uses the network {network}, and host {host} has no such network."),
            format!("Define it there as it is on the other hosts ('virsh net-define', 'virsh net-autostart {network}')."),
        ),
        Lack::NetworkInactive(network) => (
            Code::NetworkMissing,
            format!("VM {vm} uses the network {network}, which is not started on host {host}."),
            format!("Start it there: 'virsh net-start {network}', and 'virsh net-autostart {network}' for the next boot."),
        ),
        Lack::Definition => (
            Code::DefinitionLocal,
            format!("VM {vm} was adopted on {elsewhere}, and host {host} does not have its definition."),
            "A VM that shall run on several hosts is made by Tranche ('tranche vm create') on storage that they share.".to_owned(),
        ),
    }
}
