//! Rest: why a VM that shall run is left off all the same.
//!
//! Planner and hosts ask the same question. A host sees first that a guest went off, and would start it again by what was decided
//! before; it may only do so where nobody meant it to be off.

use crate::inventory::{Domain, DomainState, OffReason};
use crate::plan::{VmGoal, VmPlan};
use crate::spec::VmSpec;

/// Why a VM that shall run rests: somebody meant it, after it was seen running. `boot_id` is the boot that its host is in.
///
/// A guest that shut down stays off in this boot of its host; with the next one it starts. One whose state was saved or
/// moved may go on from there, and would then write to the disks that its second self has open.
pub fn rests(
    planned: &VmPlan,
    spec: &VmSpec,
    domain: Option<&Domain>,
    boot_id: Option<&str>,
) -> Option<OffReason> {
    let is_of_now = |serial: u64| planned.id == spec.id && serial == spec.serial;
    let settled = planned.settled.as_ref().filter(|settled| settled.running && is_of_now(settled.serial))?;
    // What its host was told to shut down did not do so by itself.
    if settled.rests.is_none() && !matches!(planned.goal, VmGoal::Run | VmGoal::Leave) {
        return None;
    }
    let DomainState::Off { reason } = domain?.state else { return None };
    let reason = if reason == OffReason::Unknown { settled.rests? } else { reason };
    let same_boot = boot_id == Some(settled.boot_id.as_str());
    match reason {
        OffReason::Saved | OffReason::Migrated => Some(reason),
        OffReason::Shutdown | OffReason::Destroyed => same_boot.then_some(reason),
        OffReason::Crashed | OffReason::Unknown => None,
    }
}
