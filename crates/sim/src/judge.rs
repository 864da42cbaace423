//! The judge: knows what must never be, sees everything, and trusts nobody.
//!
//! It looks at the machines themselves, not at what they report, and at the store below all faults.

use serde::Serialize;
use tranche_core::check;
use tranche_core::name::VmName;
use tranche_store::State;

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// What is wrong about a VM that is being started on a host: it runs on another one, or is not booked here.
pub(crate) fn judge_start(vm: &VmName, host: &str, runs_on: &[String], stored: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    let others: Vec<&String> = runs_on.iter().filter(|other| *other != host).collect();
    if !others.is_empty() {
        wrong.push(format!("VM {vm} starts on {host} while it runs on {others:?}"));
    }
    let Some(spec) = stored.spec.vms.get(vm) else {
        // It was forgotten meanwhile; the next pass of its host ends it.
        return wrong;
    };
    let needed = spec.request.slots();
    let booked = stored.plan.held_by(vm).filter(|(slot, _)| slot.gpu.host.as_str() == host).count();
    if booked < needed && stored.plan.vms.get(vm).is_some_and(|planned| planned.host.as_str() == host) {
        wrong.push(format!("VM {vm} starts on {host} with {booked} of {needed} bookings there"));
    }
    wrong
}

/// What is wrong about a plan that was stored after another one.
pub(crate) fn judge_plans(before: &State, after: &State) -> Vec<String> {
    let mut wrong = check::check(&after.plan);
    wrong.extend(check::check_transition(&before.plan, &after.plan));
    wrong.into_iter().map(|finding| finding.message).collect()
}
