//! What a host brings that joins a cluster, as far as it is judged before it is let in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Refusal, State, refuse_errors};
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::homogeneity;
use crate::inventory::{HostInventory, Hypervisor, Inventory};
use crate::name::{GpuKey, HostName, Timestamp, VmId, VmName};
use crate::plan::Plan;
use crate::spec::{GpuSpec, HostSpec, Spec};

/// What a host brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Arrival {
    /// Those of its GPUs that somebody has spoken for.
    pub gpus: BTreeMap<GpuKey, GpuSpec>,
    /// Its VMs.
    pub vms: BTreeMap<VmName, VmId>,
    /// What it sees of itself, without its domains; none if it has not looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Box<HostInventory>>,
}

impl Arrival {
    /// What a host brings that stands alone.
    pub fn of(spec: &Spec, inventory: &Inventory, host: &HostName) -> Self {
        let seen = inventory.get(host).map(|seen| {
            let mut seen = Box::new((**seen).clone());
            if let Hypervisor::Up { domains, .. } = &mut seen.hypervisor {
                domains.clear();
            }
            for gpu in seen.gpus.values_mut() {
                // What is compared is how it can be split, not into what it was.
                (gpu.partitions, gpu.blanks) = (Vec::new(), Vec::new());
            }
            seen
        });
        Self {
            gpus: spec.gpus_of(host).map(|(key, wish)| (key.clone(), wish.clone())).collect(),
            vms: spec.vms.iter().map(|(name, vm)| (name.clone(), vm.id)).collect(),
            seen,
        }
    }
}

/// Judges what a host brings. Returns warnings.
///
/// What the cluster knows of a host of that name stays: it comes back, or takes the place of one that was replaced.
///
/// # Errors
/// A name is taken, or under the policy `strict` GPUs would be less alike.
pub fn arrive(
    host: &HostName,
    brings: &Arrival,
    state: State<'_>,
    now: Timestamp,
) -> Result<Vec<Finding>, Refusal> {
    let is_taken = |(name, id): &(&VmName, &VmId)| state.spec.vms.get(*name).is_some_and(|vm| vm.id != **id);
    let taken: Vec<String> =
        brings.vms.iter().filter(is_taken).map(|(name, _)| format!("spec/vm/{name}")).collect();
    if !taken.is_empty() {
        return Err(vec![say::records_clash(&taken)]);
    }
    let mut before = state.spec.clone();
    before.gpus.retain(|key, _| &key.host != host);
    let mut after = before.clone();
    for (key, wish) in state.spec.gpus_of(host) {
        after.gpus.insert(key.clone(), wish.clone());
    }
    for (key, wish) in brings.gpus.iter().filter(|(key, _)| &key.host == host) {
        after.gpus.entry(key.clone()).or_insert_with(|| wish.clone());
    }
    after.hosts.entry(host.clone()).or_insert_with(|| HostSpec::new(now));
    let mut inventory = state.inventory.clone();
    if let Some(seen) = brings.seen.as_ref().filter(|seen| &seen.host == host) {
        inventory.insert(host.clone(), HostInventory::clone(seen).into());
    }
    let plan: &Plan = state.plan;
    refuse_errors(homogeneity::worsened(State { spec: &before, plan, inventory: &inventory }, &after))
}
