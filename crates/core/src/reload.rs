//! Partition counts that a driver takes only when it is loaded: another count means to load it anew, for all its GPUs at once.
//!
//! ```text
//! asked ──▶ every VM on every GPU of the driver leaves ──▶ the plan takes the count ──▶ one step, read back ──▶ settled
//!           (as with every change of mode)                 of all of them at once       while none is open
//! ```
//!
//! One command loads a driver once. A count that somebody else brought about is drift, and stays until somebody asks again:
//! nothing here ever takes GPUs from VMs by itself.

use std::collections::BTreeMap;

use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::{Gpu, HostInventory, Inventory, Offer, Reload};
use crate::mode::{mode_obstacles, users_of};
use crate::name::{GpuKey, HostName};
use crate::plan::{GpuPlan, Plan};
use crate::spec::{GpuMode, GpuSpec, Spec};

/// Whether a wish asks for a load that the plan does not follow yet.
pub(crate) fn is_asked(wish: &GpuSpec, planned: Option<&GpuPlan>) -> bool {
    matches!(wish.mode, GpuMode::Partitioned { .. })
        && wish.reloads > planned.map_or(0, |planned| planned.reloads)
}

/// The GPUs of a host that a load of a driver concerns: those that it has.
pub(crate) fn peers<'a>(
    driver: &'a str,
    observed: &'a HostInventory,
) -> impl Iterator<Item = (GpuKey, &'a Gpu)> {
    let of_driver =
        move |gpu: &&Gpu| gpu.reload.as_ref().is_some_and(|reload: &Reload| reload.driver == driver);
    let key = |gpu: &Gpu| GpuKey { host: observed.host.clone(), address: gpu.address.clone() };
    observed.gpus.values().filter(of_driver).map(move |gpu| (key(gpu), gpu))
}

/// The partitioning that a GPU has, or could have after another load of its driver.
pub(crate) fn offer<'a>(gpu: &'a Gpu, mode: &GpuMode) -> Option<&'a Offer> {
    let GpuMode::Partitioned { count, series } = mode else { return None };
    let after = gpu.reload.iter().flat_map(|reload| &reload.offers);
    let fits = |offer: &&Offer| offer.count == *count && (series.is_none() || offer.series == *series);
    gpu.offer(*count, series.as_deref()).or_else(|| after.into_iter().find(fits))
}

/// Why a GPU cannot be split so even if its driver is loaded anew.
pub(crate) fn obstacles(key: &GpuKey, mode: &GpuMode, gpu: &Gpu, observed: &HostInventory) -> Vec<Finding> {
    let Some(offer) = offer(gpu, mode) else {
        let (count, series) = match mode {
            GpuMode::Partitioned { count, series } => (*count, series.as_deref()),
            _ => (0, None),
        };
        let valid: Vec<u16> =
            gpu.reload.iter().flat_map(|reload| &reload.offers).map(|offer| offer.count).collect();
        return vec![say::invalid_partition_count(key, count, series, &valid)];
    };
    // As if it had been loaded so already.
    let mut then = gpu.clone();
    then.offers = vec![offer.clone()];
    mode_obstacles(key, mode, &then, observed)
}

/// Who uses any GPU of a driver.
pub(crate) fn users(driver: &str, observed: &HostInventory, plan: &Plan) -> Vec<String> {
    let mut users: Vec<String> =
        peers(driver, observed).flat_map(|(key, gpu)| users_of(&key, gpu, observed, plan)).collect();
    users.sort();
    users.dedup();
    users
}

/// The driver that has to be loaded anew so that every GPU of it that is wished for so gets its count; none if they have it.
pub(crate) fn needed(gpu: &Gpu, observed: &HostInventory, spec: &Spec, plan: &Plan) -> Option<String> {
    let driver = &gpu.reload.as_ref()?.driver;
    let lacks = |(key, gpu): (GpuKey, &Gpu)| {
        let asked = spec.gpus.get(&key).filter(|wish| is_asked(wish, plan.gpus.get(&key)));
        asked.is_some_and(|wish| !has_count(gpu, &wish.mode))
    };
    // Those of them that the plan has taken over in this very pass are waited for already.
    let waited_for = plan.gpus_of(&observed.host).any(|(_, planned)| planned.reload.as_ref() == Some(driver));
    (waited_for || peers(driver, observed).any(lacks)).then(|| driver.clone())
}

/// Whether a GPU is split into as many as a mode says.
pub(crate) fn has_count(gpu: &Gpu, mode: &GpuMode) -> bool {
    mode.partitions().is_some_and(|count| gpu.offer(count, None).is_some())
}

/// Strikes out the loads that have been brought about, those that nobody wishes for any more, and those that would change
/// nothing.
pub(crate) fn settle(host: &HostName, plan: &mut Plan, spec: &Spec, inventory: &Inventory) {
    let Some(observed) = inventory.get(host) else { return };
    let mut waiting: BTreeMap<String, Vec<GpuKey>> = BTreeMap::new();
    for (key, planned) in plan.gpus_of(host) {
        if let Some(driver) = &planned.reload {
            waiting.entry(driver.clone()).or_default().push(key.clone());
        }
    }
    for keys in waiting.into_values() {
        let is_so = |key: &GpuKey| {
            let gpu = observed.gpus.get(&key.address);
            gpu.is_none_or(|gpu| has_count(gpu, plan.mode(key)))
        };
        let all_so = keys.iter().all(is_so);
        for key in keys {
            let wish = spec.gpus.get(&key);
            let Some(planned) = plan.gpus.get_mut(&key) else { continue };
            let stands =
                wish.is_some_and(|wish| wish.mode == planned.mode && wish.reloads <= planned.reloads);
            if all_so || !stands {
                planned.reload = None;
            }
        }
    }
    for (key, wish) in spec.gpus_of(host) {
        let nothing_to_do = plan.gpus.get(key).is_some_and(|planned| {
            is_asked(wish, Some(planned)) && planned.mode == wish.mode && planned.reload.is_none()
        }) && observed
            .gpus
            .get(&key.address)
            .is_some_and(|gpu| has_count(gpu, &wish.mode) && needed(gpu, observed, spec, plan).is_none());
        if nothing_to_do && let Some(planned) = plan.gpus.get_mut(key) {
            planned.reloads = wish.reloads;
        }
    }
}
