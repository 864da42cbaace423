//! What a change would do, before it is done: the answer to `--dry-run`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::State;
use crate::finding::{Finding, Severity};
use crate::name::{HostName, Timestamp, VmName};
use crate::plan::{Plan, VmGoal};
use crate::planner;
use crate::spec::Spec;
use crate::step::Step;
use crate::steps::steps;

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Effect {
    /// What would become of each VM that it concerns.
    pub vms: BTreeMap<VmName, VmEffect>,
    /// What each host would do first. Steps that depend on the outcome of these are not listed.
    pub steps: Vec<HostStep>,
    /// What would be wrong or wait that is not so now.
    pub findings: Vec<Finding>,
}

/// What would become of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmEffect {
    /// It would be started.
    Starts,
    /// It would be shut down, or turned off if that is asked for.
    Stops,
    /// It would be shut down, or turned off if that is asked for, and started again.
    Restarts,
    /// It would wait for room.
    Waits,
    /// It would be forgotten.
    Goes,
}

/// A step and its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostStep {
    /// The host.
    pub host: HostName,
    /// The step.
    pub step: Step,
    /// The step in words.
    pub text: String,
}

/// What would follow if the spec were this one.
pub fn preview(after: &Spec, state: State<'_>, now: Timestamp) -> Effect {
    let before = planner::plan(state.spec, state.inventory, state.plan, now);
    let planned = planner::plan(after, state.inventory, state.plan, now);
    let due_before = due(state.spec, &before.plan, state);
    let steps =
        due(after, &planned.plan, state).into_iter().filter(|step| !due_before.contains(step)).collect();
    let findings =
        planned.findings.iter().filter(|finding| !before.findings.contains(finding)).cloned().collect();
    let vms = planned
        .plan
        .vms
        .iter()
        .filter(|(name, _)| state.spec.vms.get(*name) != after.vms.get(*name))
        .filter_map(|(name, vm)| {
            Some((name.clone(), effect_on(name, vm.goal, &planned.findings, state, after)?))
        })
        .collect();
    Effect { vms, steps, findings }
}

fn due(spec: &Spec, plan: &Plan, state: State<'_>) -> Vec<HostStep> {
    let mut due = Vec::new();
    for (host, observed) in state.inventory {
        due.extend(steps(spec, plan, observed).into_iter().map(|step| {
            let text = step.to_string();
            HostStep { host: host.clone(), step, text }
        }));
    }
    due
}

fn effect_on(
    name: &VmName,
    goal: VmGoal,
    findings: &[Finding],
    state: State<'_>,
    after: &Spec,
) -> Option<VmEffect> {
    let active = state
        .inventory
        .values()
        .filter_map(|observed| observed.domain(name))
        .any(|domain| domain.state.is_active());
    let waits = findings.iter().any(|finding| {
        finding.severity == Severity::Warning && finding.subject == crate::finding::Subject::Vm(name.clone())
    });
    let wants_to_run = after.vms.get(name).is_some_and(|vm| vm.run.is_up());
    match goal {
        VmGoal::Run if !active => Some(VmEffect::Starts),
        VmGoal::Cycle | VmGoal::Reset => Some(VmEffect::Restarts),
        VmGoal::Remove => Some(VmEffect::Goes),
        VmGoal::Stop if !active && wants_to_run && waits => Some(VmEffect::Waits),
        VmGoal::Stop | VmGoal::Kill if active => Some(VmEffect::Stops),
        _ => None,
    }
}
