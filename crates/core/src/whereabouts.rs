//! Where a VM can be at all, partitions and room aside: what it uses by name must be on the host.
//!
//! Nothing here chooses a host. And what is not known keeps nobody away: of a host whose libvirt does not answer, or
//! tells nothing of pools and networks, nothing is said.

use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::HostInventory;
use crate::name::{HostName, VmName};
use crate::spec::{VmSource, VmSpec};

/// Something that a VM needs and a host lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack<'a> {
    /// A storage pool that is not there.
    Pool(&'a str),
    /// A storage pool that is there and not started.
    PoolInactive(&'a str),
    /// A storage pool whose volumes only the VM's own host has.
    PoolLocal(&'a str),
    /// A network that is not there.
    Network(&'a str),
    /// A network that is there and not started.
    NetworkInactive(&'a str),
    /// The definition of a VM that was adopted on another host.
    Definition,
}

/// What a VM lacks on a host. `home` is the host that has its disks where they are not shared: the one that it was made
/// for or runs on; without one, any host may be it.
///
/// Allocates nothing, so that it can be asked of every host.
pub fn lacks<'a>(
    (name, vm): (&VmName, &'a VmSpec),
    home: Option<&HostName>,
    observed: &'a HostInventory,
) -> impl Iterator<Item = Lack<'a>> {
    let is_away = home.is_some_and(|home| *home != observed.host);
    let hardware = match &vm.source {
        VmSource::Made(hardware) => Some(hardware),
        VmSource::Adopted => None,
    };
    let has_domain = |id| observed.domain(name).is_some_and(|domain| domain.uuid == id);
    let is_undefined = is_away && hardware.is_none() && observed.domains().is_some() && !has_domain(vm.id.0);
    let definition = is_undefined.then_some(Lack::Definition);
    let known = hardware.zip(observed.resources());
    let pools = known.into_iter().flat_map(move |(hardware, resources)| {
        let pools = hardware.disks.iter().enumerate().filter_map(|(index, disk)| {
            let is_first = hardware.disks[..index].iter().all(|earlier| earlier.pool != disk.pool);
            is_first.then_some(disk.pool.as_str())
        });
        pools.filter_map(move |pool| match resources.pools.get(pool) {
            None => Some(Lack::Pool(pool)),
            Some(found) if !found.active => Some(Lack::PoolInactive(pool)),
            Some(found) if is_away && !found.shared => Some(Lack::PoolLocal(pool)),
            Some(_) => None,
        })
    });
    let networks = known.into_iter().flat_map(|(hardware, resources)| {
        let networks = hardware.networks.iter().enumerate().filter_map(|(index, network)| {
            let is_first = !hardware.networks[..index].contains(network);
            is_first.then_some(network.as_str())
        });
        networks.filter_map(|network| match resources.networks.get(network) {
            None => Some(Lack::Network(network)),
            Some(found) if !found.active => Some(Lack::NetworkInactive(network)),
            Some(_) => None,
        })
    });
    definition.into_iter().chain(pools).chain(networks)
}

/// The same as findings.
pub fn host_lacks(vm: (&VmName, &VmSpec), home: Option<&HostName>, observed: &HostInventory) -> Vec<Finding> {
    lacks(vm, home, observed).map(|lack| say::host_lacks(vm.0, &observed.host, home, lack)).collect()
}
