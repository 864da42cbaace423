//! How far operations have come, as far as a desk can tell: from what was decided, what hosts report, and what failed there.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::change;
use tranche_core::finding::{Finding, Subject};
use tranche_core::inventory::{Done, Inventory};
use tranche_core::name::{HostName, OperationId, Timestamp};
use tranche_core::operation::{
    self, LOG_LINES_MAX, LogLine, Operation, OperationState, StepFailure, Verdict,
};
use tranche_core::plan::Plan;
use tranche_core::step::StepSubject;
use tranche_core::steps;
use tranche_store::State;

/// What happened to what, for the logs of operations.
pub type News = Vec<(Subject, LogLine)>;

/// How much news is kept that stands in no log yet, because the store takes nothing; the oldest goes first.
pub(super) const NEWS_MAX: usize = 10_000;

/// In a cluster: what was done so long before an operation was asked for may have been done for it, in milliseconds, because the
/// clocks of hosts differ.
const BEFORE_MS: u64 = 5_000;

/// What was done on a host, by what it was done to.
pub(crate) fn news_of(host: &HostName, done: impl IntoIterator<Item = Done>) -> News {
    done.into_iter().map(|Done { subject, line }| (subject.on(host), line)).collect()
}

/// What hosts report to have done that they did not report before. Each line names its host.
pub(super) fn news_between(before: &Inventory, reported: &Inventory) -> News {
    let mut news = News::new();
    for (host, was, is) in before.changes(reported) {
        let told = was.map_or(&[][..], |was| was.progress.lately.as_slice());
        let done = is.into_iter().flat_map(|is| &is.progress.lately).filter(|done| !told.contains(done));
        news.extend(news_of(
            host,
            done.cloned().map(|mut done| {
                done.line.text = format!("{host}: {}", done.line.text);
                done
            }),
        ));
    }
    news.sort_by_key(|(_, line)| line.at);
    news
}

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
    news: &[(Subject, LogLine)],
    now: Timestamp,
) -> BTreeSet<StepSubject> {
    if next.operations.values().all(|operation| operation.state.is_over()) {
        return BTreeSet::new();
    }
    let (mut put_back, mut judged) = (BTreeMap::new(), Vec::new());
    let known = change::State { spec: &next.spec, plan: &next.plan, inventory };
    for (id, operation) in next.operations.iter().filter(|(_, operation)| !operation.state.is_over()) {
        let Verdict { state, progress_percent, findings, put_back: back } =
            operation::judge(operation, known, findings, failures);
        put_back.extend(back);
        let lines = lines_of(operation, known, news);
        let says = !findings.is_empty() || state == OperationState::Succeeded;
        let is_as_before = state == operation.state
            && progress_percent <= operation.progress_percent
            && (!says || findings == operation.findings)
            && lines.is_empty();
        // Most are, most of the time, and what is not touched is neither copied nor compared.
        if is_as_before {
            continue;
        }
        let mut operation = operation.clone();
        operation.log.extend(lines);
        if state != operation.state {
            let text = format!("{state:?}").to_lowercase();
            operation.log.push(LogLine { at: now, text });
            operation.updated_at = now;
        }
        operation.state = state;
        operation.progress_percent = operation.progress_percent.max(progress_percent);
        if says {
            operation.findings = findings;
        }
        let surplus = operation.log.len().saturating_sub(LOG_LINES_MAX);
        operation.log.drain(..surplus);
        judged.push((*id, operation));
    }
    if !judged.is_empty() {
        next.operations.extend(judged);
    }
    let gpus = put_back.keys().map(|gpu| StepSubject::Gpu(gpu.address.clone())).collect();
    if !put_back.is_empty() {
        next.spec.gpus.extend(put_back);
    }
    gpus
}

/// Notes how far operations that are about to be stored have come by what is decided with them. That one is over, or waits, is for those to
/// say who have heard of its hosts.
pub(super) fn begin_operations(next: &mut State, new: &[OperationId], inventory: &Inventory) {
    let known = change::State { spec: &next.spec, plan: &next.plan, inventory };
    let begun = new.iter().filter_map(|id| {
        let operation = next.operations.get(id)?;
        let verdict = operation::judge(operation, known, &[], &[]);
        let progress_percent = verdict.progress_percent;
        (verdict.state == operation.state).then(|| (*id, Operation { progress_percent, ..operation.clone() }))
    });
    let begun: Vec<_> = begun.collect();
    next.operations.extend(begun);
}

/// What is new for an operation's log of what happened to what it depends on. In a cluster, who has just begun to lead hears of what another
/// leader wrote down already, and of what was done before the operation was asked for.
fn lines_of(operation: &Operation, state: change::State<'_>, news: &[(Subject, LogLine)]) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = Vec::new();
    if news.is_empty() {
        return lines;
    }
    let concerned = subjects(operation, state.plan);
    let is_alone = state.spec.hosts.is_empty();
    let since = operation.created_at.0.saturating_sub(BEFORE_MS);
    for (subject, line) in news.iter().filter(|(_, line)| is_alone || line.at.0 >= since) {
        if concerned.contains(subject) && !operation.log.contains(line) && !lines.contains(line) {
            lines.push(line.clone());
        }
    }
    lines
}

/// The subjects of steps that an operation depends on.
pub(super) fn subjects(operation: &Operation, plan: &Plan) -> Vec<Subject> {
    use tranche_core::operation::Goal;
    match &operation.goal {
        Goal::GpuMode { gpu, along, .. } => {
            std::iter::once(gpu).chain(along.keys()).cloned().map(Subject::Gpu).collect()
        }
        Goal::VmRuns { vm, .. }
        | Goal::VmMoved { vm, .. }
        | Goal::VmHandedOver { vm, .. }
        | Goal::VmOff { vm }
        | Goal::VmGone { vm } => {
            let gpus = plan.held_by(vm).map(|(slot, _)| Subject::Gpu(slot.gpu.clone()));
            std::iter::once(Subject::Vm(vm.clone())).chain(gpus).collect()
        }
        Goal::HostEmpty { host, along } => {
            std::iter::once(host).chain(along).flat_map(|host| vms_of(host, plan)).collect()
        }
        Goal::HostQuiet { host } => vms_of(host, plan).collect(),
        Goal::Recorded => Vec::new(),
    }
}

fn vms_of<'p>(host: &'p HostName, plan: &'p Plan) -> impl Iterator<Item = Subject> + 'p {
    let here = plan.vms.iter().filter(move |(_, planned)| &planned.host == host);
    here.map(|(vm, _)| Subject::Vm(vm.clone()))
}
