//! Planning with what is stored, or with what is about to be: whoever does so, this is the only way in which a plan comes about.
//!
//! Whoever leads plans with wishes as they come, by what hosts reported last, so that a wish and what follows from it are one
//! commit: [`with_what_follows`]. The plan is the planner's, checked and stored on the same terms as any other; the leader's
//! loop, which is woken all the same, finds it made. What that knows besides is left to it: how hosts stand, which follows from
//! what was just heard of them, and whether operations wait or are over.
//!
//! A host that stands alone looks before it plans. What it saw before its last step frees nothing, and its reports have no
//! generation that would tell.

use tranche_core::check;
use tranche_core::finding::Finding;
use tranche_core::name::{OperationId, Timestamp};
use tranche_core::planner::{self, Planned};
use tranche_store::State;

use super::Inner;
use super::operations::begin_operations;
use crate::trail;

/// What there is to say of a plan.
#[derive(Debug)]
pub(super) struct Judged {
    /// What is wrong or waits.
    pub(super) findings: Vec<Finding>,
    /// Whether the plan holds the invariants. One that does not is dropped.
    pub(super) is_sound: bool,
}

/// Plans, and lets the state have the plan if that is sound.
pub(super) fn plan(inner: &mut Inner, next: &mut State, now: Timestamp) -> Judged {
    let planned =
        trail::part!("plan").in_scope(|| inner.memory.plan(&next.spec, &inner.inventory, &next.plan, now));
    if inner.doubts {
        let anew = planner::plan(&next.spec, &inner.inventory, &next.plan, now);
        assert_eq!(planned, anew, "what is remembered changes what is decided");
        assert_eq!(
            check::check_changes(&next.plan, &planned.plan),
            check::check(&planned.plan),
            "what is as before is sound"
        );
    }
    let Planned { plan, mut findings, gone } = planned;
    let mut violations = Vec::new();
    let is_new = *next.plan != plan;
    if is_new {
        violations = check::check_changes(&next.plan, &plan);
        violations.extend(check::check_transition(&next.plan, &plan));
    }
    let is_sound = violations.is_empty();
    findings.extend(violations);
    // What is as before stays the same value, which readers and the store's image share.
    if is_sound && is_new {
        next.plan = plan.into();
    }
    if is_sound && !gone.is_empty() {
        next.spec.vms.retain(|name, _| !gone.contains(name));
    }
    Judged { findings, is_sound }
}

/// A state with new wishes and what follows from them. None where that is not for this desk to say, or not now.
pub(super) fn with_what_follows(inner: &mut Inner, wishes: &State, now: Timestamp) -> Option<State> {
    if !inner.leads {
        return None;
    }
    let mut next = wishes.clone();
    let Judged { is_sound, .. } = plan(inner, &mut next, now);
    let stands_as_before = wishes.plan.hosts.changes(&next.plan.hosts).next().is_none();
    if !is_sound || !stands_as_before {
        return None;
    }
    let operations = inner.loaded.state.operations.changes(&wishes.operations);
    let new: Vec<OperationId> = operations.map(|(id, ..)| *id).collect();
    begin_operations(&mut next, &new, &inner.inventory);
    Some(next)
}
