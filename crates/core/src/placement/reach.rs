//! Reach: which hosts have the storage pools and networks that VMs use by name.
//!
//! It says of all hosts at once what [`crate::whereabouts::lacks`] says of one, by sets that are kept for each name. They
//! change when what a host has changes, which is seldom; where all hosts have the same, a VM costs a look at each of its names.

use std::collections::BTreeMap;

use super::groups::HostSet;
use super::index::HostId;
use crate::inventory::{HostInventory, Resources};
use crate::name::HostName;
use crate::shared::Shared;
use crate::spec::VmSpec;
use crate::whereabouts::{bound_by, networks, pools};

/// Which of the hosts that take VMs have what.
#[derive(Debug, Clone, Default)]
pub(super) struct Reach {
    all: HostSet,
    /// Hosts that tell what they have. Of the others nothing is known, and that keeps nobody away.
    telling: HostSet,
    pools: BTreeMap<String, Pool>,
    /// For each network the hosts that have it started.
    networks: BTreeMap<String, HostSet>,
    /// What was told, by whom.
    told: BTreeMap<HostName, (HostId, Shared<HostInventory>)>,
}

#[derive(Debug, Clone, Default)]
struct Pool {
    /// Hosts that have it started.
    started: HostSet,
    /// Hosts that share its volumes with nobody.
    own: HostSet,
}

impl Reach {
    /// Takes in what a host tells.
    pub(super) fn note(&mut self, id: HostId, observed: &Shared<HostInventory>) {
        let known = self.told.get_mut(&observed.host);
        if let Some((was, before)) = known
            && *was == id
            && before.resources() == observed.resources()
        {
            *before = observed.clone();
            return;
        }
        self.forget(&observed.host);
        self.all.insert(id);
        if let Some(Resources { pools, networks }) = observed.resources() {
            self.telling.insert(id);
            for (name, pool) in pools {
                let hosts = self.pools.entry(name.clone()).or_default();
                if pool.active {
                    hosts.started.insert(id);
                }
                if !pool.shared {
                    hosts.own.insert(id);
                }
            }
            for (name, _) in networks.iter().filter(|(_, network)| network.active) {
                self.networks.entry(name.clone()).or_default().insert(id);
            }
        }
        self.told.insert(observed.host.clone(), (id, observed.clone()));
    }

    /// Forgets a host: it takes nobody any more.
    pub(super) fn forget(&mut self, host: &HostName) {
        let Some((id, observed)) = self.told.remove(host) else { return };
        self.all.remove(id);
        self.telling.remove(id);
        let Some(resources) = observed.resources() else { return };
        for name in resources.pools.keys() {
            let Some(hosts) = self.pools.get_mut(name) else { continue };
            hosts.started.remove(id);
            hosts.own.remove(id);
            if hosts.started.is_empty() && hosts.own.is_empty() {
                self.pools.remove(name);
            }
        }
        for name in resources.networks.keys() {
            let Some(hosts) = self.networks.get_mut(name) else { continue };
            hosts.remove(id);
            if hosts.is_empty() {
                self.networks.remove(name);
            }
        }
    }

    /// The hosts that have all that a VM uses; none where every host has. `home` is as in [`crate::whereabouts::lacks`].
    pub(super) fn serving(&self, vm: &VmSpec, home: Option<&HostInventory>) -> Option<HostSet> {
        let home_id = home.and_then(|home| Some(self.told.get(&home.host)?.0));
        let mut lacking = HostSet::default();
        let nobody = Pool::default();
        for pool in pools(vm) {
            let hosts = self.pools.get(pool).unwrap_or(&nobody);
            lacking.add_missing(&self.telling, &hosts.started);
            if home.is_some() && !hosts.own.is_empty() {
                let away = hosts.own.iter().filter(|id| Some(*id) != home_id);
                away.for_each(|id| lacking.insert(id));
            }
        }
        let nowhere = HostSet::default();
        for network in networks(vm) {
            lacking.add_missing(&self.telling, self.networks.get(network).unwrap_or(&nowhere));
        }
        if home.is_some_and(|home| bound_by(vm, home).is_some()) {
            return Some(home_id.into_iter().filter(|id| !lacking.contains(*id)).collect());
        }
        (!lacking.is_empty()).then(|| self.all.split(&lacking).1)
    }
}
