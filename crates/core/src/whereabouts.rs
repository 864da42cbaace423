//! Where a VM can be at all, partitions and room aside: what it uses by name must be on the host.
//!
//! Nothing here chooses a host; [`crate::placement::Board`] does, among those that lack nothing. And what is not known keeps
//! nobody away: of a host whose libvirt does not answer, or tells nothing of pools and networks, nothing is said.

use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::HostInventory;
use crate::name::VmName;
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

/// What a VM lacks on a host. `home` is the host that has its disks where they are not shared: the one that it ran on last.
/// Before it ran anywhere, any host may be it.
///
/// Allocates nothing, so that it can be asked of every host.
pub fn lacks<'a>(
    (name, vm): (&VmName, &'a VmSpec),
    home: Option<&'a HostInventory>,
    observed: &'a HostInventory,
) -> impl Iterator<Item = Lack<'a>> {
    let home = home.filter(|home| home.host != observed.host);
    let hardware = match &vm.source {
        VmSource::Made(hardware) => Some(hardware),
        VmSource::Adopted => None,
    };
    let has_domain = |id| observed.domain(name).is_some_and(|domain| domain.uuid == id);
    let is_undefined =
        home.is_some() && hardware.is_none() && observed.domains().is_some() && !has_domain(vm.id.0);
    let definition = is_undefined.then_some(Lack::Definition);
    let resources = observed.resources();
    let pools = pools(vm).filter_map(move |pool| {
        if home.is_some_and(|home| keeps_to_itself(home, pool)) {
            return Some(Lack::PoolLocal(pool));
        }
        match resources?.pools.get(pool) {
            None => Some(Lack::Pool(pool)),
            Some(found) if !found.active => Some(Lack::PoolInactive(pool)),
            Some(found) if home.is_some() && !found.shared => Some(Lack::PoolLocal(pool)),
            Some(_) => None,
        }
    });
    let networks = networks(vm).filter_map(move |network| match resources?.networks.get(network) {
        None => Some(Lack::Network(network)),
        Some(found) if !found.active => Some(Lack::NetworkInactive(network)),
        Some(_) => None,
    });
    definition.into_iter().chain(pools).chain(networks)
}

/// The same as findings.
pub fn host_lacks(
    vm: (&VmName, &VmSpec),
    home: Option<&HostInventory>,
    observed: &HostInventory,
) -> Vec<Finding> {
    let at_home = home.map(|home| &home.host);
    lacks(vm, home, observed).map(|lack| say::host_lacks(vm.0, &observed.host, at_home, lack)).collect()
}

/// The first pool of a VM's disks that its home shares with nobody: it can run there only.
pub fn bound_by<'a>(vm: &'a VmSpec, home: &HostInventory) -> Option<&'a str> {
    pools(vm).find(|pool| keeps_to_itself(home, pool))
}

/// The pools that the disks of a VM are in, each once; none where its definition is its owner's affair.
pub fn pools(vm: &VmSpec) -> impl Iterator<Item = &str> {
    let disks = match &vm.source {
        VmSource::Made(hardware) => hardware.disks.as_slice(),
        VmSource::Adopted => &[],
    };
    let is_first = |index: usize, pool: &str| disks[..index].iter().all(|earlier| earlier.pool != pool);
    let named = disks.iter().map(|disk| disk.pool.as_str()).enumerate();
    named.filter(move |(index, pool)| is_first(*index, pool)).map(|(_, pool)| pool)
}

/// The networks of a VM, each once.
pub fn networks(vm: &VmSpec) -> impl Iterator<Item = &str> {
    let networks = match &vm.source {
        VmSource::Made(hardware) => hardware.networks.as_slice(),
        VmSource::Adopted => &[],
    };
    let named = networks.iter().map(String::as_str).enumerate();
    named
        .filter(|(index, network)| networks[..*index].iter().all(|earlier| earlier != network))
        .map(|(_, name)| name)
}

fn keeps_to_itself(home: &HostInventory, pool: &str) -> bool {
    home.resources().and_then(|resources| resources.pools.get(pool)).is_some_and(|pool| !pool.shared)
}
