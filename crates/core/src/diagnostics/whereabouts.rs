//! What keeps VMs from hosts, in words.

use super::{error, vm_subject};
use crate::finding::{Code, Finding};
use crate::name::{HostName, VmName};
use crate::whereabouts::Lack;

/// A host lacks something that a VM needs; `home` is the host that has it.
pub fn host_lacks(vm: &VmName, host: &HostName, home: Option<&HostName>, lack: Lack<'_>) -> Finding {
    let elsewhere = home.map_or_else(|| "another host".to_owned(), |home| format!("host {home}"));
    let (code, message, hint) = match lack {
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
    };
    error(code, vm_subject(vm), message, hint)
}
