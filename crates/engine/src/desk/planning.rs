//! Planning with what is stored, or with what is about to be: whoever does so, this is the only way in which a plan comes about.
//!
//! Whoever leads plans with wishes as they come, by what hosts have reported by then, so that a wish and what follows from it are one
//! commit: [`with_what_follows`]. The plan is the planner's, checked and stored on the same terms as any other; the leader's
//! loop, which is woken all the same, finds it made. What is better decided when hosts were heard again is left to it
//! ([`planner::follows_at_once`]), and so is whether operations wait or are over.
//!
//! A host that stands alone looks before it plans. What it saw before its last step frees nothing, and its reports have no
//! generation that would tell.

use tranche_core::check;
use tranche_core::finding::Finding;
use tranche_core::name::{OperationId, Timestamp};
use tranche_core::planner::{self, Planned};
use tranche_store::State;

use super::operations::begin_operations;
use super::{Desk, Inner};
use crate::trail;

impl Desk {
    /// Hears what hosts have reported since the last decision, where wishes are planned with: a VM that has gone off meanwhile would else
    /// be ended before it is started.
    pub(super) fn hear_reports(&self, inner: &mut Inner, now: Timestamp) {
        let Some(pulses) = inner.leads.take() else { return };
        // Without that, wishes are stored by themselves, and the loop sees to the store.
        let Ok(news) = self.follow(inner, now) else { return };
        if news {
            inner.rest = None;
            inner.take_reports(&pulses);
        }
        inner.leads = Some(pulses);
    }
}

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
    inner.leads.as_ref()?;
    let mut next = wishes.clone();
    let Judged { is_sound, .. } = plan(inner, &mut next, now);
    if !is_sound || !planner::follows_at_once(&wishes.plan, &next.plan) {
        return None;
    }
    let operations = inner.loaded.state.operations.changes(&wishes.operations);
    let new: Vec<OperationId> = operations.map(|(id, ..)| *id).collect();
    begin_operations(&mut next, &new, &inner.inventory);
    Some(next)
}
