//! Operations: a long-running change with an id, progress, a result and a log.
//!
//! An operation does nothing. It records what somebody asked for and the goal that shows that it has been reached;
//! [`judge`] compares the goal with plan and inventory. The work is done by the same loop that repairs everything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::State;
use crate::diagnostics as say;
use crate::finding::{Class, Finding, Severity, Subject};
use crate::handover::{Parting, Stage};
use crate::journey::Sending;
use crate::name::{GpuKey, HostName, InvitationId, OperationId, Timestamp, VmName};
use crate::plan::{VmGoal, VmPlan};
use crate::spec::{Duty, GpuMode, GpuSpec, Run};
use crate::step::{Step, VFIO_DRIVER};
use crate::{placement, reload};

/// The most lines in an operation's log; the oldest go first.
pub const LOG_LINES_MAX: usize = 200;
/// The most operations that are remembered after their end; the oldest go first.
pub const OPERATIONS_KEPT_MAX: usize = 1_000;
/// The most findings that an operation carries.
pub const OPERATION_FINDINGS_MAX: usize = 32;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What was asked for, in words: `start VM desk-01`.
    pub title: String,
    /// What it is about.
    pub subject: Subject,
    /// What shows that it is done.
    pub goal: Goal,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// Where it stands.
    pub state: OperationState,
    /// How far it is, in percent.
    pub progress_percent: u8,
    /// Why it waits or failed, and what else its user should know.
    pub findings: Vec<Finding>,
    /// What happened, oldest first.
    pub log: Vec<LogLine>,
}

/// A line in an operation's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It is being worked on.
    Running,
    /// It cannot go on for now and will by itself when its findings are gone.
    Waiting,
    /// Its goal was reached.
    Succeeded,
    /// It ended without reaching its goal; its findings say why. What was asked for stays asked for, except that a GPU
    /// whose mode could not be changed goes back to the mode that it had.
    Failed,
    /// A later wish made it pointless.
    Superseded,
}

impl OperationState {
    /// Whether nothing more will come of it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Superseded)
    }
}

/// What shows that an operation is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "goal", rename_all = "snake_case")]
pub enum Goal {
    /// The GPU is in a mode, read back.
    GpuMode {
        /// The GPU.
        gpu: GpuKey,
        /// The mode.
        mode: GpuMode,
        /// The wish that comes back if this one fails for good. None where it changed nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Box<GpuSpec>>,
        /// The GPUs that go the same way because they have the same driver, each with the wish that comes back for it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        along: BTreeMap<GpuKey, GpuSpec>,
    },
    /// The VM runs as of a command to start.
    VmRuns {
        /// The VM.
        vm: VmName,
        /// The command's number.
        serial: u64,
    },
    /// The VM is off and holds nothing that it does not reserve.
    VmOff {
        /// The VM.
        vm: VmName,
    },
    /// The VM runs on another host than before, as of a command to move it.
    VmMoved {
        /// The VM.
        vm: VmName,
        /// The command's number.
        serial: u64,
        /// Where it ran.
        from: HostName,
        /// Where it shall run; any other host will do if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<HostName>,
    },
    /// The VM is another store's.
    VmHandedOver {
        /// The VM.
        vm: VmName,
        /// What it was invited by.
        invitation: InvitationId,
        /// Where it goes.
        to: HostName,
    },
    /// The VM is gone.
    VmGone {
        /// The VM.
        vm: VmName,
    },
    /// No VM runs on the host.
    HostEmpty {
        /// The host.
        host: HostName,
        /// Hosts that are emptied with it.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        along: BTreeSet<HostName>,
    },
    /// No VM runs on the host, which is about to go down.
    HostQuiet {
        /// The host.
        host: HostName,
    },
    /// The wish itself was all there was to do.
    Recorded,
}

/// After so many failures in a row of a step that it needs, an operation has failed. The loop goes on trying.
pub const STEP_FAILURES_MAX: u32 = 3;

/// What the loop knows of a subject's last steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StepFailure {
    /// The last of them.
    pub step: Step,
    /// What failed, and what to do about it.
    pub finding: Finding,
    /// How often in a row.
    pub failures: u32,
}

/// Where an operation stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The state.
    pub state: OperationState,
    /// How far it is, in percent.
    pub progress_percent: u8,
    /// Why it waits or failed.
    pub findings: Vec<Finding>,
    /// The wishes for GPUs that take the place of those that failed.
    pub put_back: BTreeMap<GpuKey, GpuSpec>,
}

impl Verdict {
    fn new(state: OperationState, progress_percent: u8) -> Self {
        Self { state, progress_percent, findings: Vec::new(), put_back: BTreeMap::new() }
    }
}

impl Goal {
    /// Makes a change of mode that is asked for while another one is under way go back, should it fail, to where that
    /// one would have gone back to: what was never reached is nothing to go back to.
    #[must_use]
    pub fn behind<'a>(mut self, operations: impl IntoIterator<Item = &'a Operation>) -> Self {
        let Self::GpuMode { gpu, mode, before: Some(before), along } = &mut self else { return self };
        let under_way = operations.into_iter().filter(|operation| !operation.state.is_over());
        for operation in under_way {
            for (key, before) in along.iter_mut().chain([(&*gpu, &mut **before)]) {
                if let Some(settled) = operation.goal.way_back(key) {
                    // Going back may need one more load of the driver than was counted then.
                    let reloads = before.reloads.max(settled.reloads);
                    *before = GpuSpec { reloads, ..settled.clone() };
                }
            }
        }
        let leads_nowhere = before.mode == *mode;
        if let Self::GpuMode { before, .. } = &mut self {
            before.take_if(|_| leads_nowhere);
        }
        self
    }

    /// The wish that comes back for a GPU if this goal is not reached.
    fn way_back(&self, gpu: &GpuKey) -> Option<&GpuSpec> {
        match self {
            Self::GpuMode { gpu: own, before, .. } if own == gpu => before.as_deref(),
            Self::GpuMode { along, .. } => along.get(gpu),
            _ => None,
        }
    }
}

/// Compares an operation's goal with what is. `findings` are the planner's, `failures` the last steps' that failed.
///
/// A change of mode that failed for good is rolled back: once, because the operation is then over, and only while its
/// wish still stands, because a later one supersedes it.
pub fn judge(
    operation: &Operation,
    state: State<'_>,
    findings: &[Finding],
    failures: &[StepFailure],
) -> Verdict {
    let mut verdict = progress(&operation.goal, state);
    if verdict.state.is_over() {
        return verdict;
    }
    let concerns = |subject: &Subject| concerns(&operation.goal, subject, state);
    let failed: Vec<&StepFailure> =
        failures.iter().filter(|failure| concerns(&failure.finding.subject)).collect();
    let against: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity >= Severity::Warning && concerns(&finding.subject))
        .collect();
    // What may pass by itself (libvirt restarts, a driver loads late) is waited for; a step is given three chances.
    let is_error = |failure: &&&StepFailure| failure.finding.severity == Severity::Error;
    let hopeless = failed.iter().filter(is_error).any(|failure| failure.failures >= STEP_FAILURES_MAX)
        || against
            .iter()
            .any(|one| one.severity == Severity::Error && one.code.class() != Class::Unavailable);
    let waits = |one: &&Finding| match one.code.class() {
        Class::Conflict => true,
        Class::Unavailable => one.severity == Severity::Error,
        Class::Invalid | Class::NotFound | Class::Denied | Class::Note => false,
    };
    if hopeless {
        verdict.state = OperationState::Failed;
    } else if against.iter().any(waits) {
        verdict.state = OperationState::Waiting;
    }
    verdict.findings =
        against.into_iter().cloned().chain(failed.into_iter().map(|f| f.finding.clone())).collect();
    verdict.findings.sort();
    verdict.findings.dedup();
    verdict.findings.truncate(OPERATION_FINDINGS_MAX - 1);
    if let (OperationState::Failed, Goal::GpuMode { gpu, mode, before: Some(before), along }) =
        (verdict.state, &operation.goal)
    {
        verdict.findings.push(say::rolled_back(gpu, mode, &before.mode));
        verdict.put_back =
            still_alike(mode, along, state).map(|(key, back)| (key.clone(), back.clone())).collect();
        verdict.put_back.insert(gpu.clone(), (**before).clone());
    }
    verdict
}

fn progress(goal: &Goal, state: State<'_>) -> Verdict {
    match goal {
        Goal::Recorded => Verdict::new(OperationState::Succeeded, 100),
        Goal::GpuMode { gpu, mode, along, .. } => {
            let own = gpu_progress(gpu, mode, state);
            let others = still_alike(mode, along, state)
                .filter_map(|(key, _)| Some(gpu_progress(key, &state.spec.gpus.get(key)?.mode, state)));
            match others.min_by_key(|other| other.progress_percent) {
                Some(slowest) if slowest.progress_percent < own.progress_percent => slowest,
                _ => own,
            }
        }
        Goal::VmRuns { vm, serial } => match state.spec.vms.get(vm) {
            Some(spec) if spec.run.is_up() && spec.serial == *serial => {
                let settled = state.plan.vms.get(vm).and_then(|planned| planned.settled.as_ref());
                let runs = settled.is_some_and(|settled| settled.running && settled.serial >= *serial);
                if runs {
                    Verdict::new(OperationState::Succeeded, 100)
                } else {
                    Verdict::new(OperationState::Running, booked_percent(vm, state))
                }
            }
            _ => Verdict::new(OperationState::Superseded, 0),
        },
        Goal::VmMoved { vm, serial, from, to } => moved_progress(vm, *serial, (from, to.as_ref()), state),
        Goal::VmOff { vm } => match state.spec.vms.get(vm) {
            Some(spec) if spec.run.is_up() || spec.run == Run::Deleted => {
                Verdict::new(OperationState::Superseded, 0)
            }
            Some(spec) => {
                let off = state.inventory.values().any(|observed| observed.domains().is_some())
                    && !state.is_active(vm);
                let kept = spec.reserved || state.plan.held_by(vm).next().is_none();
                match (off, kept) {
                    (true, true) => Verdict::new(OperationState::Succeeded, 100),
                    (true, false) => Verdict::new(OperationState::Running, 66),
                    (false, _) => Verdict::new(OperationState::Running, 33),
                }
            }
            None => Verdict::new(OperationState::Superseded, 0),
        },
        Goal::HostEmpty { host, along } => hosts_progress(std::iter::once(host).chain(along), state),
        Goal::HostQuiet { host } => quiet_progress(host, state),
        Goal::VmHandedOver { vm, invitation, to } => handed_over_progress(vm, invitation, to, state),
        Goal::VmGone { vm } => match state.spec.vms.get(vm) {
            None => Verdict::new(OperationState::Succeeded, 100),
            Some(spec) if spec.run != Run::Deleted => Verdict::new(OperationState::Superseded, 0),
            Some(_) => Verdict::new(OperationState::Running, 50),
        },
    }
}

fn moved_progress(
    vm: &VmName,
    serial: u64,
    (from, to): (&HostName, Option<&HostName>),
    state: State<'_>,
) -> Verdict {
    let is_wished = state.spec.vms.get(vm).is_some_and(|spec| {
        let same = spec.relocation.as_ref().is_some_and(|known| known.to.as_ref() == to);
        spec.run.is_up() && spec.serial == serial && same
    });
    let Some(planned) = state.plan.vms.get(vm).filter(|_| is_wished) else {
        return Verdict::new(OperationState::Superseded, 0);
    };
    let runs = planned.settled.as_ref().is_some_and(|settled| settled.running && settled.serial >= serial);
    let arrived = to.map_or(planned.host != *from, |to| planned.host == *to);
    match (runs, arrived) {
        (true, true) => Verdict::new(OperationState::Succeeded, 100),
        (true, false) => {
            let findings = vec![say::migrated_in_vain(vm, &planned.host)];
            Verdict { findings, ..Verdict::new(OperationState::Failed, 0) }
        }
        (false, false) => {
            let percent = sent_percent(vm, planned, state);
            let otherwise = if state.is_active(vm) { 10 } else { 33 };
            Verdict::new(OperationState::Running, percent.unwrap_or(otherwise))
        }
        (false, true) => Verdict::new(OperationState::Running, booked_percent(vm, state).max(33)),
    }
}

fn handed_over_progress(vm: &VmName, invitation: &InvitationId, to: &HostName, state: State<'_>) -> Verdict {
    let Some(spec) = state.spec.vms.get(vm) else { return Verdict::new(OperationState::Succeeded, 100) };
    let planned = state.plan.vms.get(vm);
    let parting = planned.and_then(|planned| planned.parting.as_ref());
    let parting = parting.filter(|parting| parting.invitation == *invitation);
    if let Some(why) = parting.and_then(Parting::in_vain) {
        let findings = vec![say::handover_in_vain(vm, to, why)];
        return Verdict { findings, ..Verdict::new(OperationState::Failed, 0) };
    }
    if spec.outgoing().is_none_or(|wish| wish.invitation != *invitation) {
        return Verdict::new(OperationState::Superseded, 0);
    }
    let percent = match parting.map(|parting| &parting.stage) {
        None | Some(Stage::Prepares) => 5,
        Some(Stage::Goes { .. }) => {
            planned.and_then(|planned| sent_percent(vm, planned, state)).unwrap_or(10)
        }
        Some(Stage::Stops { .. } | Stage::CalledOff { .. }) => 50,
        Some(Stage::Lands) => 90,
        Some(Stage::Left | Stage::Drops { .. } | Stage::Stayed { .. }) => 95,
    };
    Verdict::new(OperationState::Running, percent)
}

/// How far a VM is that goes to another host while it runs, in percent of the whole move.
fn sent_percent(vm: &VmName, planned: &VmPlan, state: State<'_>) -> Option<u8> {
    let journey = planned.open_journey().map(|journey| journey.number);
    let number = journey.or_else(|| planned.open_parting().map(|parting| parting.number))?;
    let sent = state.inventory.get(&planned.host)?.progress.sent.get(vm)?;
    match sent.state {
        Sending::UnderWay { percent, .. } if sent.number == number => {
            Some(10 + u8::try_from(u16::from(percent) * 80 / 100).unwrap_or(80))
        }
        Sending::UnderWay { .. } | Sending::Failed { .. } => None,
        Sending::Done { .. } => Some(90),
    }
}

fn booked_percent(vm: &VmName, state: State<'_>) -> u8 {
    let booked = state.plan.held_by(vm).next().is_some();
    let ready = state.plan.held_by(vm).all(|(slot, _)| {
        state
            .inventory
            .get(&slot.gpu.host)
            .is_some_and(|observed| placement::unready(slot, state.plan, observed).is_none())
    });
    match (booked, ready) {
        (true, true) => 66,
        (true, false) => 33,
        (false, _) => 10,
    }
}

/// The GPUs that went along and that no later wish turned elsewhere.
fn still_alike<'a>(
    mode: &'a GpuMode,
    along: &'a BTreeMap<GpuKey, GpuSpec>,
    state: State<'a>,
) -> impl Iterator<Item = (&'a GpuKey, &'a GpuSpec)> {
    along.iter().filter(move |(key, _)| {
        state.spec.gpus.get(*key).is_some_and(|wish| wish.mode.partitions() == mode.partitions())
    })
}

fn gpu_progress(key: &GpuKey, mode: &GpuMode, state: State<'_>) -> Verdict {
    let wished = state.spec.gpus.get(key).map_or(&GpuMode::Host, |wish| &wish.mode);
    if wished != mode {
        return Verdict::new(OperationState::Superseded, 0);
    }
    let observed = state.inventory.get(&key.host).and_then(|observed| observed.gpus.get(&key.address));
    let Some(gpu) = observed else {
        let released = *mode == GpuMode::Host && !state.plan.gpus.contains_key(key);
        let outcome = if released { OperationState::Succeeded } else { OperationState::Running };
        return Verdict::new(outcome, if released { 100 } else { 0 });
    };
    let (done, total) = match mode {
        GpuMode::Host => (usize::from(!state.plan.gpus.contains_key(key)), 1),
        GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => {
            let count = mode.partitions().unwrap_or_default();
            let planned = state.plan.gpus.get(key);
            let ready = gpu.partitions.iter().filter(|partition| {
                let bound = partition.driver.as_ref() == Some(&gpu.partition_driver);
                let size = partition.index.and_then(|index| planned?.size_of(index));
                let of_size = matches!(mode, GpuMode::Partitioned { .. })
                    || size.is_some_and(|size| partition.profile.as_ref() == Some(&size.profile));
                partition.index.is_some() && (bound || partition.vf().is_none()) && of_size
            });
            let exact = gpu.partitions.iter().filter(|partition| partition.index.is_some()).count()
                <= usize::from(count);
            (if exact { ready.count() } else { 0 }, usize::from(count))
        }
        GpuMode::Passthrough { .. } => (usize::from(gpu.driver.as_deref() == Some(VFIO_DRIVER)), 1),
    };
    let planned = state.plan.gpus.get(key);
    let loaded = planned.is_none_or(|planned| planned.reload.is_none())
        && state.spec.gpus.get(key).is_none_or(|wish| !reload::is_asked(wish, planned));
    let decided = state.plan.mode(key) == mode && loaded;
    let percent = u8::try_from(done * 100 / total.max(1)).unwrap_or(100).min(100);
    if decided && done >= total {
        Verdict::new(OperationState::Succeeded, 100)
    } else {
        Verdict::new(OperationState::Running, percent.min(99))
    }
}

/// How far hosts were emptied. One that was taken back is not waited for; if all were, the wish is void.
fn hosts_progress<'h>(hosts: impl Iterator<Item = &'h HostName>, state: State<'_>) -> Verdict {
    let drained =
        |host: &&HostName| state.spec.hosts.get(*host).is_some_and(|wish| wish.duty == Duty::Maintenance);
    let verdicts = hosts.filter(drained).map(|host| left_on(host, state));
    verdicts
        .min_by_key(|verdict| verdict.progress_percent)
        .unwrap_or(Verdict::new(OperationState::Superseded, 0))
}

fn quiet_progress(host: &HostName, state: State<'_>) -> Verdict {
    match state.spec.hosts.get(host) {
        Some(wish) if wish.departure.is_some() => left_on(host, state),
        Some(_) | None => Verdict::new(OperationState::Superseded, 0),
    }
}

/// How far a host is from running no VM. One that is off and about to go elsewhere has not left yet: who waits for the host to be
/// empty looks for its VMs next.
fn left_on(host: &HostName, state: State<'_>) -> Verdict {
    let here = state.plan.vms.iter().filter(|(_, planned)| &planned.host == host);
    let stays = |planned: &VmPlan| planned.goal.starts() || planned.goal == VmGoal::Move;
    let left = here.filter(|(vm, planned)| stays(planned) || state.is_active(vm)).count();
    match left {
        0 => Verdict::new(OperationState::Succeeded, 100),
        left => Verdict::new(OperationState::Running, u8::try_from(100 / (left + 1)).unwrap_or(99)),
    }
}

/// Whether a finding about a subject stands in the way of a goal.
fn concerns(goal: &Goal, subject: &Subject, state: State<'_>) -> bool {
    match goal {
        Goal::GpuMode { gpu, along, .. } => {
            subject.gpu().is_some_and(|concerned| concerned == gpu || along.contains_key(concerned))
                || matches!(subject, Subject::Host(host)
                    if *host == gpu.host || along.keys().any(|other| other.host == *host))
        }
        Goal::VmRuns { vm, .. }
        | Goal::VmMoved { vm, .. }
        | Goal::VmHandedOver { vm, .. }
        | Goal::VmOff { vm }
        | Goal::VmGone { vm } => {
            let held = || state.plan.held_by(vm).any(|(slot, _)| subject.gpu() == Some(&slot.gpu));
            let host = || {
                state.plan.vms.get(vm).is_some_and(|planned| *subject == Subject::Host(planned.host.clone()))
            };
            *subject == Subject::Vm(vm.clone()) || held() || host()
        }
        Goal::HostEmpty { host, along } => {
            std::iter::once(host).chain(along).any(|host| concerns_host(host, subject, state))
        }
        Goal::HostQuiet { host } => concerns_host(host, subject, state),
        Goal::Recorded => false,
    }
}

/// Whether a finding is about a host, or a VM there.
fn concerns_host(host: &HostName, subject: &Subject, state: State<'_>) -> bool {
    match subject {
        Subject::Vm(vm) => state.plan.vms.get(vm).is_some_and(|planned| &planned.host == host),
        subject => *subject == Subject::Host(host.clone()),
    }
}
