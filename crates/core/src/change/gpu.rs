//! Wishes about GPUs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Admitted, Refusal, State, host_of};
use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::inventory::{Gpu, HostInventory};
use crate::mode::{mode_obstacles, users_of};
use crate::name::GpuKey;
use crate::operation::Goal;
use crate::reload;
use crate::spec::{GpuMode, GpuSpec, Run, Spec};

pub(super) fn set_mode(
    key: &GpuKey,
    mode: &GpuMode,
    drain: bool,
    state: State<'_>,
) -> Result<Admitted, Refusal> {
    let mut spec = state.spec.clone();
    let (before, findings) = set_mode_in(key, mode, drain, &mut spec, state)?;
    let before = before.map(Box::new);
    let goal = Goal::GpuMode { gpu: key.clone(), mode: mode.clone(), before, along: BTreeMap::new() };
    Ok(Admitted { spec, goal, title: title(key, mode), subject: Subject::Gpu(key.clone()), findings })
}

/// Writes the wish for a mode into a spec. Returns the wish that comes back if it fails, unless nothing changes, and what
/// there is to say.
pub(super) fn set_mode_in(
    key: &GpuKey,
    mode: &GpuMode,
    drain: bool,
    spec: &mut Spec,
    state: State<'_>,
) -> Result<(Option<GpuSpec>, Vec<Finding>), Refusal> {
    let observed = host_of(key, state)?;
    let Some(gpu) = observed.gpus.get(&key.address) else {
        let findings = release_gone(key, mode, drain, spec, state)?;
        return Ok((None, findings));
    };
    let unchanged =
        spec.gpus.get(key).is_some_and(|wish| wish.mode == *mode && wish.identity.may_be(&gpu.identity()));
    if unchanged {
        return Ok((None, Vec::new()));
    }
    let mut refusal = mode_obstacles(key, mode, gpu, observed);
    let mut users = users_of(key, gpu, observed, state.plan);
    let settled = state.plan.mode(key) == mode;
    let mut findings = Vec::new();
    if drain && !settled {
        findings.extend(recall_vms(key, spec, state));
        let ours: BTreeSet<String> =
            state.plan.bookings_on(key).map(|(_, held)| format!("VM {}", held.vm)).collect();
        users.retain(|user| !ours.contains(user));
    }
    if !users.is_empty() && !settled {
        refusal.extend(mode_conflict(key, state.plan.mode(key), mode));
        refusal.push(say::partitions_in_use(key, &users));
    }
    for call in observed.stuck.iter().filter(|call| call.gpu.as_ref() == Some(&key.address)) {
        refusal.push(say::call_stuck(key, &call.call));
    }
    if !refusal.is_empty() {
        return Err(refusal);
    }
    let resets = !gpu.reset_methods.is_empty() || !matches!(mode, GpuMode::Passthrough { .. });
    if !resets {
        findings.push(say::no_reset(key));
    }
    if matches!(mode, GpuMode::Passthrough { .. }) {
        findings.push(say::firmware_open(key));
    }
    let wish = GpuSpec { mode: mode.clone(), identity: gpu.identity(), reloads: 0 };
    // A GPU of which nobody has spoken is the host's.
    let untouched = GpuSpec { mode: GpuMode::Host, ..wish.clone() };
    let before = spec.gpus.insert(key.clone(), wish).unwrap_or(untouched);
    Ok((Some(before), findings))
}

fn title(key: &GpuKey, mode: &GpuMode) -> String {
    match mode {
        GpuMode::Host => format!("release GPU {key}"),
        GpuMode::Partitioned { count, .. } => {
            format!("split GPU {key} into {}", say::counted(*count, "partition"))
        }
        GpuMode::Mixed { sizes } => format!("split GPU {key} into {}", sizes.join(", ")),
        GpuMode::Passthrough { .. } => format!("make GPU {key} ready for passthrough"),
    }
}

/// Splits a GPU, and all others of its driver that are split, by loading the driver anew; where they have the count
/// already, or are on their way to it, that is a drain like any other.
pub(super) fn reload_driver(key: &GpuKey, mode: &GpuMode, state: State<'_>) -> Result<Admitted, Refusal> {
    let observed = host_of(key, state)?;
    let gpu = observed.gpus.get(&key.address).ok_or_else(|| vec![say::gpu_not_found(key)])?;
    let GpuMode::Partitioned { count, .. } = mode else { return set_mode(key, mode, true, state) };
    let Some(after) = &gpu.reload else { return Err(vec![say::no_reload(key)]) };
    let peers: Vec<(GpuKey, &Gpu)> = reload::peers(&after.driver, observed).collect();
    let (wish, planned) = (state.spec.gpus.get(key), state.plan.gpus.get(key));
    let under_way = wish.is_some_and(|wish| wish.mode == *mode && reload::is_asked(wish, planned))
        || planned.is_some_and(|planned| planned.mode == *mode && planned.reload.is_some());
    if under_way || peers.iter().all(|(_, peer)| reload::has_count(peer, mode)) {
        return set_mode(key, mode, true, state);
    }
    let mut spec = state.spec.clone();
    let is_split = |peer: &GpuKey| {
        peer == key
            || state.spec.gpus.get(peer).is_some_and(|wish| matches!(wish.mode, GpuMode::Partitioned { .. }))
    };
    let (mut refusal, mut findings, mut before) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (peer, gpu) in &peers {
        let of_peer =
            if peer == key { mode.clone() } else { GpuMode::Partitioned { count: *count, series: None } };
        if is_split(peer) {
            refusal.extend(reload::obstacles(peer, &of_peer, gpu, observed));
            before.insert(peer.clone(), wish_anew(peer, of_peer, gpu, &mut spec, state));
        }
        refusal.extend(strangers(peer, gpu, observed, state));
        let is_known = gpu.reload.as_ref().is_some_and(|after| after.is_known);
        findings.push(say::driver_reload(peer, &after.driver, *count, is_known));
        findings.extend(recall_vms(peer, &mut spec, state));
    }
    if !refusal.is_empty() {
        return Err(refusal);
    }
    let own = before.remove(key).map(Box::new);
    let goal = Goal::GpuMode { gpu: key.clone(), mode: mode.clone(), before: own, along: before };
    Ok(Admitted { spec, goal, title: title(key, mode), subject: Subject::Gpu(key.clone()), findings })
}

/// Writes the wish for another load, and returns the one that comes back if it fails: it may need one more load.
fn wish_anew(key: &GpuKey, mode: GpuMode, gpu: &Gpu, spec: &mut Spec, state: State<'_>) -> GpuSpec {
    let untouched = GpuSpec { mode: GpuMode::Host, identity: gpu.identity(), reloads: 0 };
    let before = spec.gpus.get(key).cloned().unwrap_or(untouched);
    let followed = state.plan.gpus.get(key).map_or(0, |planned| planned.reloads);
    let reloads = before.reloads.max(followed) + 1;
    let wish = GpuSpec { mode, identity: gpu.identity(), reloads };
    spec.gpus.insert(key.clone(), wish);
    GpuSpec { reloads: reloads + 1, ..before }
}

/// What keeps a GPU's driver from being loaded anew, apart from VMs that can be told to leave.
fn strangers(key: &GpuKey, gpu: &Gpu, observed: &HostInventory, state: State<'_>) -> Vec<Finding> {
    let mut users = users_of(key, gpu, observed, state.plan);
    let ours: BTreeSet<String> =
        state.plan.bookings_on(key).map(|(_, held)| format!("VM {}", held.vm)).collect();
    users.retain(|user| !ours.contains(user));
    let used = (!users.is_empty()).then(|| say::partitions_in_use(key, &users));
    let stuck = observed.stuck.iter().filter(|call| call.gpu.as_ref() == Some(&key.address));
    used.into_iter().chain(stuck.map(|call| say::call_stuck(key, &call.call))).collect()
}

/// A GPU that is gone can still be released, so that nothing waits for it any longer.
fn release_gone(
    key: &GpuKey,
    mode: &GpuMode,
    drain: bool,
    spec: &mut Spec,
    state: State<'_>,
) -> Result<Vec<Finding>, Refusal> {
    if *mode != GpuMode::Host || !spec.gpus.contains_key(key) {
        return Err(vec![say::gpu_not_found(key)]);
    }
    let observed = state.inventory.get(&key.host);
    if let Some(stuck) = observed.and_then(|observed| observed.unseen_because_of(&key.address)) {
        return Err(vec![say::call_stuck(key, &stuck.call)]);
    }
    let booked: Vec<String> =
        state.plan.bookings_on(key).map(|(_, held)| format!("VM {}", held.vm)).collect();
    if !booked.is_empty() && !drain {
        return Err(vec![say::partitions_in_use(key, &booked)]);
    }
    let findings = recall_vms(key, spec, state);
    if let Some(wish) = spec.gpus.get_mut(key) {
        wish.mode = GpuMode::Host;
    }
    Ok(findings)
}

/// In parts or whole, never both: while a GPU serves VMs one way, it cannot serve any the other way.
fn mode_conflict(key: &GpuKey, has: &GpuMode, wanted: &GpuMode) -> Option<Finding> {
    let (split, whole) = ("partitioned", "passed through");
    match (has.partitions(), wanted.partitions(), has, wanted) {
        (Some(_), _, _, GpuMode::Passthrough { .. }) => Some(say::mode_conflict(key, split, whole)),
        (_, Some(_), GpuMode::Passthrough { .. }, _) => Some(say::mode_conflict(key, whole, split)),
        _ => None,
    }
}

/// Has the VMs that hold a GPU shut down, and started again once the GPU is free of them. Returns what happens to each.
///
/// It is a restart like any other; what keeps a VM from going back to the GPU is that the GPU is about to change.
fn recall_vms(key: &GpuKey, spec: &mut Spec, state: State<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, booking) in state.plan.bookings_on(key) {
        let Some(vm) = spec.vms.get_mut(&booking.vm).filter(|vm| vm.id == booking.vm_id) else { continue };
        findings.push(say::vm_drained(&booking.vm, key, vm.run.is_up()));
        if vm.run.is_up() {
            vm.run = Run::Running;
            vm.serial += 1;
        }
    }
    findings
}
