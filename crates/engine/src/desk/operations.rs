//! How far operations have come, as far as a desk can tell: from what was decided, what hosts report, and what failed there.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::change;
use tranche_core::finding::Finding;
use tranche_core::inventory::Inventory;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::operation::{self, LOG_LINES_MAX, LogLine, Operation, OperationState, StepFailure};
use tranche_core::plan::Plan;
use tranche_core::step::StepSubject;
use tranche_core::steps;
use tranche_store::State;

/// The failures of steps that are still due: one that serves a plan of yesterday says nothing about the wish of today.
pub(super) fn failures_that_matter(next: &State, inventory: &Inventory) -> Vec<StepFailure> {
    let failing = inventory.values().filter(|observed| !observed.progress.failures.is_empty());
    failing
        .flat_map(|observed| {
            let due = steps::steps(&next.spec, &next.plan, observed);
            observed.progress.failures.iter().filter(move |failure| due.contains(&failure.step)).cloned()
        })
        .collect()
}

/// Brings every operation that is not over up to what is known now. Returns the GPUs that go back to an earlier wish.
pub(super) fn judge_operations(
    next: &mut State,
    inventory: &Inventory,
    findings: &[Finding],
    failures: &[StepFailure],
    news: &[(StepSubject, LogLine)],
    now: Timestamp,
) -> BTreeSet<StepSubject> {
    if next.operations.values().all(|operation| operation.state.is_over()) {
        return BTreeSet::new();
    }
    let mut put_back = BTreeMap::new();
    let mut operations = next.operations.clone();
    let known = change::State { spec: &next.spec, plan: &next.plan, inventory };
    let running = next.operations.iter().filter(|(_, operation)| !operation.state.is_over());
    for id in running.map(|(id, _)| id) {
        let Some(operation) = operations.get_mut(id) else { continue };
        let verdict = operation::judge(operation, known, findings, failures);
        put_back.extend(verdict.put_back);
        let concerned = subjects(operation, &next.plan);
        operation.log.extend(
            news.iter().filter(|(subject, _)| concerned.contains(subject)).map(|(_, line)| line.clone()),
        );
        if verdict.state != operation.state {
            let text = format!("{:?}", verdict.state).to_lowercase();
            operation.log.push(LogLine { at: now, text });
            operation.updated_at = now;
        }
        operation.state = verdict.state;
        operation.progress_percent = operation.progress_percent.max(verdict.progress_percent);
        if !verdict.findings.is_empty() || verdict.state == OperationState::Succeeded {
            operation.findings = verdict.findings;
        }
        let surplus = operation.log.len().saturating_sub(LOG_LINES_MAX);
        operation.log.drain(..surplus);
    }
    next.operations = operations;
    let gpus = put_back.keys().map(|gpu| StepSubject::Gpu(gpu.address.clone())).collect();
    if !put_back.is_empty() {
        next.spec.gpus.extend(put_back);
    }
    gpus
}

/// The subjects of steps that an operation depends on.
fn subjects(operation: &Operation, plan: &Plan) -> Vec<StepSubject> {
    use tranche_core::operation::Goal;
    match &operation.goal {
        Goal::GpuMode { gpu, along, .. } => std::iter::once(gpu)
            .chain(along.keys())
            .map(|gpu| StepSubject::Gpu(gpu.address.clone()))
            .collect(),
        Goal::VmRuns { vm, .. } | Goal::VmMoved { vm, .. } | Goal::VmOff { vm } | Goal::VmGone { vm } => {
            let gpus = plan.held_by(vm).map(|(slot, _)| StepSubject::Gpu(slot.gpu.address.clone()));
            std::iter::once(StepSubject::Vm(vm.clone())).chain(gpus).collect()
        }
        Goal::HostEmpty { host, along } => {
            std::iter::once(host).chain(along).flat_map(|host| vms_of(host, plan)).collect()
        }
        Goal::HostQuiet { host } => vms_of(host, plan).collect(),
        Goal::Recorded => Vec::new(),
    }
}

fn vms_of<'p>(host: &'p HostName, plan: &'p Plan) -> impl Iterator<Item = StepSubject> + 'p {
    let here = plan.vms.iter().filter(move |(_, planned)| &planned.host == host);
    here.map(|(vm, _)| StepSubject::Vm(vm.clone()))
}
