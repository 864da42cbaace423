//! Why a VM cannot run on a host: every predicate that fails, not just the first.

use crate::change::State;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::{HostInventory, Hypervisor, Iommu};
use crate::name::{GpuKey, HostName, SlotKey, VmName};
use crate::placement::{self, Board, Uses};
use crate::spec::{Request, VmSpec};

/// Everything that keeps a VM from running on a host. Empty means that nothing does.
///
/// # Errors
/// The VM or the host does not exist.
pub fn why_not(name: &VmName, host: &HostName, state: State<'_>) -> Result<Vec<Finding>, Vec<Finding>> {
    let spec = state.spec.vms.get(name).ok_or_else(|| vec![say::vm_not_found(name)])?;
    let observed = state.inventory.get(host).ok_or_else(|| vec![state.unheard(host)])?;
    Ok(why_not_by((name, spec), observed, &Board::of(state), state))
}

/// The same, where the board is known.
pub(crate) fn why_not_by(
    (name, spec): (&VmName, &VmSpec),
    observed: &HostInventory,
    board: &Board<'_>,
    state: State<'_>,
) -> Vec<Finding> {
    let host = &observed.host;
    let mut found = Vec::new();
    if let Hypervisor::Down { reason } = &observed.hypervisor {
        found.push(say::libvirt_down(host, reason));
    }
    if let Some(domain) = observed.domain(name) {
        if domain.uuid != spec.id.0 {
            found.push(say::domain_identity(name));
        }
        if spec.request != Request::None && domain.defined_devices.iter().any(|device| !device.ours) {
            found.push(say::foreign_device(name));
        }
    }
    found.extend(board.obstacles((name, spec), host));
    if spec.request == Request::None {
        return found;
    }
    if observed.system.iommu == Iommu::Off {
        found.push(say::iommu_off(host));
    }
    let holds_here = state.plan.held_by(name).any(|(slot, _)| &slot.gpu.host == host);
    if holds_here {
        return found;
    }
    let uses = Uses::of(observed);
    let mut any_free = 0;
    let mut reasons = Vec::new();
    for (address, gpu) in &observed.gpus {
        let key = GpuKey { host: host.clone(), address: address.clone() };
        let slots = placement::decided_slots(&key, state.plan);
        if slots.is_empty() {
            reasons.push(say::mode_conflict(&key, "in mode host", "given to a VM"));
        }
        let wish = state.spec.gpus.get(&key).map(|wish| &wish.mode);
        if let Some(mode) = wish.filter(|mode| *mode != state.plan.mode(&key)) {
            reasons.push(say::mode_changing(&key, mode, &[]));
            continue;
        }
        for slot in slots {
            let slot_key = SlotKey { gpu: key.clone(), slot };
            let obstacles = placement::obstacles(&slot_key, &spec.request, observed, state.plan);
            let holder = state.plan.bookings.get(&slot_key).map(|booking| vec![format!("VM {}", booking.vm)]);
            if !obstacles.is_empty() {
                reasons.extend(obstacles);
            } else if let Some(holder) = holder {
                reasons.push(say::slot_taken(&slot_key, &holder));
            } else if uses.is_used(slot, gpu) {
                reasons.push(say::slot_taken(&slot_key, &uses.users(slot, gpu)));
            } else {
                any_free += 1;
            }
        }
    }
    if any_free < spec.request.slots() {
        if observed.gpus.is_empty() {
            reasons.push(say::no_partitionable_gpu(host));
        }
        found.extend(reasons);
    }
    found.sort();
    found.dedup();
    found
}
