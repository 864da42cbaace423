//! The loop's body: observe, plan, commit, act.
//!
//! [`Engine::submit`] puts a wish into the store and returns; [`Engine::pass`] does one turn of the only loop there is.
//! First start, repair, recovery after a crash and every command take this same path. What is decided is decided by
//! [`tranche_core`]; what is done is done by the [`Host`]; what is remembered is remembered by the store. The engine
//! only carries things between them, in an order that survives being killed at any point:
//!
//! ```text
//! observe ──► plan ──► check ──► commit ──► act ──► observe …
//!                                  │
//!                                  └─ nothing is touched before what it is touched for is stored
//! ```
//!
//! Deliberately absent: retries (a later pass sees what is still due), a thread of its own, and a clock.

mod act;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tranche_core::change::{self, Admitted, Change};
use tranche_core::check;
use tranche_core::declare::{self, Declaration};
use tranche_core::effect::{self, Effect};
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{HostInventory, Inventory};
use tranche_core::name::{GpuAddress, HostName, OperationId, Timestamp, VmId, VmName};
use tranche_core::operation::{
    self, LOG_LINES_MAX, LogLine, Operation, OperationState, STEP_FAILURES_MAX, StepFailure,
};
use tranche_core::plan::Plan;
use tranche_core::planner::{self, Planned};
use tranche_core::step::{Attempts, Step, StepSubject};
use tranche_core::steps;
use tranche_core::why;
use tranche_host::Host;
use tranche_host::catalogue::Catalogue;
use tranche_store::{Loaded, Repository, RepositoryError, Saved, Shared, State};
use uuid::Uuid;

use self::act::{Outcome, act};
pub use self::view::View;

/// The longest time for which only what was changed is looked at, in milliseconds. Splitting a GPU takes two such looks.
const SURVEY_EVERY_MS: u64 = 5_000;

/// Carries things between core, host and store.
#[derive(Debug)]
pub struct Engine {
    name: HostName,
    host: Arc<dyn Host>,
    repository: Repository,
    workers: usize,
    inner: Mutex<Inner>,
    view: watch::Sender<Arc<View>>,
}

/// What the engine remembers between passes. Only `loaded` outlives the process.
#[derive(Debug, Default)]
struct Inner {
    loaded: Loaded,
    /// Set when a commit failed half-way: what is stored is known only by reading again.
    reload: bool,
    inventory: Shared<Inventory>,
    /// The GPUs that the last pass changed, if it changed nothing else.
    touched: BTreeSet<GpuAddress>,
    /// When everything was looked at.
    surveyed_at: Timestamp,
    attempts: Attempts,
    failures: BTreeMap<StepSubject, (Step, StepFailure)>,
    /// What happened since the last commit, for the logs of operations.
    news: Vec<(StepSubject, LogLine)>,
    store_finding: Option<Finding>,
    findings: Shared<Vec<Finding>>,
}

/// What a wish led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is stored; the operation tells what becomes of it.
    Accepted {
        /// The operation.
        operation: Box<Operation>,
        /// Warnings.
        findings: Vec<Finding>,
    },
    /// Nothing was changed; this is what would be.
    Preview {
        /// What was asked for, in words.
        title: String,
        /// What would follow.
        effect: Effect,
    },
}

/// What a declaration led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is stored, all of it; one operation for each change that was needed.
    Accepted {
        /// The operations.
        operations: Vec<Operation>,
        /// Warnings.
        findings: Vec<Finding>,
    },
    /// Nothing was changed; this is what would be.
    Preview {
        /// What each change would be, in words.
        titles: Vec<String>,
        /// What would follow.
        effect: Effect,
    },
}

/// Why a wish was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// It cannot come true as things are.
    Refused(Vec<Finding>),
    /// It could not be stored.
    Store(Box<Finding>),
}

impl Rejected {
    /// Why, in full.
    pub fn into_findings(self) -> Vec<Finding> {
        match self {
            Self::Refused(findings) => findings,
            Self::Store(finding) => vec![*finding],
        }
    }
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassReport {
    /// How many steps were carried out.
    pub steps_tried: usize,
    /// How many of these failed.
    pub steps_failed: usize,
    /// When a step that waits may be tried again.
    pub next_due: Option<Timestamp>,
    /// Whether every GPU was seen to be as decided, or failed: what a reboot lost is back, and libvirt may start its
    /// guests.
    pub restored: bool,
}

impl PassReport {
    /// Whether another pass would see something new at once.
    pub fn is_busy(&self) -> bool {
        self.steps_tried > 0
    }
}

impl Engine {
    /// An engine for one host over what is stored. `workers` steps of different VMs and GPUs are done side by side.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(
        name: HostName,
        host: Arc<dyn Host>,
        repository: Repository,
        workers: usize,
    ) -> Result<Self, RepositoryError> {
        let loaded = repository.load()?;
        let inner = Inner { loaded, ..Inner::default() };
        let view = watch::Sender::new(Arc::new(inner.view(0)));
        Ok(Self { name, host, repository, workers: workers.max(1), inner: Mutex::new(inner), view })
    }

    /// The host that this engine serves.
    pub fn host_name(&self) -> &HostName {
        &self.name
    }

    /// What the host knows of GPUs before it looks at one.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.host.catalogue()
    }

    /// What is known now. Cheap.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Returns when the host has been looked at for the first time since the start: before, views show what is stored
    /// and no hardware.
    pub async fn looked(&self) {
        // An engine outlives those who wait for it, so that the channel is never closed under them.
        let _ = self.watch().wait_for(|view| view.inventory.contains_key(&self.name)).await;
    }

    /// Ticks with each pass and each wish. A view with the revision of the one before shows nothing new.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Takes a wish, or tells what it would do. Waits for the store, never for hardware.
    ///
    /// # Errors
    /// [`Rejected`] carries the findings that stand against it; nothing was changed.
    pub fn submit(&self, change: &Change, dry_run: bool, now: Timestamp) -> Result<Submitted, Rejected> {
        let mut inner = self.lock();
        self.refresh(&mut inner)?;
        let admitted =
            change::admit(change, state(&inner), VmId(Uuid::new_v4()), now).map_err(Rejected::Refused)?;
        if dry_run {
            let mut effect = effect::preview(&admitted.spec, state(&inner), now);
            // Which GPUs go along is said at the door; the effect itself names VMs and steps.
            let along = admitted.findings.into_iter();
            effect.findings.extend(along.filter(|finding| finding.code == Code::DriverReload));
            return Ok(Submitted::Preview { title: admitted.title, effect });
        }
        let findings = admitted.findings.clone();
        let mut next = inner.loaded.state.clone();
        let operation = new_operation(&admitted, &next, now);
        next.spec = admitted.spec.into();
        next.operations.insert(operation.id, operation.clone());
        self.commit(&mut inner, next)?;
        self.publish(&inner);
        Ok(Submitted::Accepted { operation: Box::new(operation), findings })
    }

    /// Takes all of a declaration or nothing of it, or tells what it would do.
    ///
    /// # Errors
    /// [`Rejected`] carries the findings that stand against any part of it; nothing was changed.
    pub fn apply(&self, declared: &Declaration, dry_run: bool, now: Timestamp) -> Result<Applied, Rejected> {
        let mut inner = self.lock();
        self.refresh(&mut inner)?;
        let hosts: Vec<&HostName> = inner.inventory.keys().collect();
        let changes =
            declare::changes(declared, &inner.loaded.state.spec, &hosts).map_err(Rejected::Refused)?;
        let mut next = inner.loaded.state.clone();
        let mut operations = Vec::new();
        let mut findings = Vec::new();
        let mut refused = Vec::new();
        for change in &changes {
            let so_far = change::State { spec: &next.spec, plan: &next.plan, inventory: &inner.inventory };
            match change::admit(change, so_far, VmId(Uuid::new_v4()), now) {
                Ok(admitted) => {
                    operations.push(new_operation(&admitted, &next, now));
                    findings.extend(admitted.findings);
                    next.spec = admitted.spec.into();
                }
                Err(refusal) => refused.extend(refusal),
            }
        }
        if !refused.is_empty() {
            return Err(Rejected::Refused(refused));
        }
        if dry_run {
            let titles = operations.into_iter().map(|operation| operation.title).collect();
            return Ok(Applied::Preview { titles, effect: effect::preview(&next.spec, state(&inner), now) });
        }
        next.operations.extend(operations.iter().map(|operation| (operation.id, operation.clone())));
        self.commit(&mut inner, next)?;
        self.publish(&inner);
        Ok(Applied::Accepted { operations, findings })
    }

    /// Everything that keeps a VM from running on a host.
    ///
    /// # Errors
    /// The VM or the host does not exist.
    pub fn why_not(&self, vm: &VmName, host: &HostName) -> Result<Vec<Finding>, Rejected> {
        let inner = self.lock();
        why::why_not(vm, host, state(&inner)).map_err(Rejected::Refused)
    }

    /// Looks anew and tells everything that is not as it should be: violated invariants, drift, refusals.
    pub fn doctor(&self, now: Timestamp) -> Vec<Finding> {
        let seen = self.host.observe(now);
        let inner = self.lock();
        let inventory = with_host(&inner.inventory, seen);
        let stored = &inner.loaded.state;
        let planned = planner::plan(&stored.spec, &inventory, &stored.plan, now);
        let mut findings = planned.findings;
        findings.extend(check::check(&stored.plan));
        findings.extend(check::check_world(&inventory));
        findings.extend(inner.failures.values().map(|(_, failure)| failure.finding.clone()));
        findings.extend(inner.store_finding.clone());
        findings.sort();
        findings.dedup();
        findings
    }

    /// One turn: observe, plan, commit, act. Called by one thread only; takes as long as its longest step.
    pub fn pass(&self, now: Timestamp) -> PassReport {
        let seen = self.look(now);
        let (due, next_due) = self.decide(seen, now);
        let outcomes = act(&*self.host, due, self.workers, now);
        self.remember(&outcomes, next_due, now)
    }

    /// Looks at the host: after steps that changed some GPUs only, at these; never for long without looking at everything.
    fn look(&self, now: Timestamp) -> HostInventory {
        let (touched, last) = {
            let mut inner = self.lock();
            let touched = mem::take(&mut inner.touched);
            let fresh = now.ms_since(inner.surveyed_at) < SURVEY_EVERY_MS;
            (touched, inner.inventory.get(&self.name).filter(|_| fresh).cloned())
        };
        if let Some(last) = last.filter(|_| !touched.is_empty()) {
            return self.host.observe_again(&touched, &last, now);
        }
        let seen = self.host.observe(now);
        self.lock().surveyed_at = now;
        seen
    }

    /// Plans with what was seen, stores the plan, and tells which steps may be carried out now.
    fn decide(&self, seen: HostInventory, now: Timestamp) -> (Vec<Step>, Option<Timestamp>) {
        let mut inner = self.lock();
        inner.inventory = with_host(&inner.inventory, seen).into();
        if let Err(rejected) = self.refresh(&mut inner) {
            inner.findings = rejected.into_findings().into();
            self.publish(&inner);
            return (Vec::new(), None);
        }
        let stored = &inner.loaded.state;
        let Planned { plan, mut findings, gone } =
            planner::plan(&stored.spec, &inner.inventory, &stored.plan, now);
        let mut violations = check::check(&plan);
        violations.extend(check::check_transition(&stored.plan, &plan));
        let sound = violations.is_empty();
        findings.extend(violations);
        let mut next = stored.clone();
        // What is as before stays the same value, which readers and the store's image share.
        if sound && *next.plan != plan {
            next.plan = plan.into();
        }
        if sound && !gone.is_empty() {
            next.spec.vms.retain(|name, _| !gone.contains(name));
        }
        let mut due = steps::steps(&next.spec, &next.plan, &inner.inventory[&self.name]);
        inner.failures.retain(|_, (step, _)| due.contains(step));
        inner.attempts.keep_only(&due);
        findings.extend(inner.failures.values().map(|(_, failure)| failure.finding.clone()));
        let news = mem::take(&mut inner.news);
        let put_back = judge_operations(&mut next, &inner, &findings, &news, now);
        // These steps serve a wish that stands no longer; the next pass, at once, plans with the one that does.
        due.retain(|step| !put_back.contains(&step.subject()));
        let stored = self.commit(&mut inner, next).is_ok();
        findings.extend(inner.store_finding.clone());
        findings.sort();
        findings.dedup();
        inner.findings = findings.into();
        self.publish(&inner);
        if !(sound && stored) {
            return (Vec::new(), None);
        }
        let (ready, waiting): (Vec<Step>, Vec<Step>) =
            due.into_iter().partition(|step| inner.attempts.allows(step, now));
        let ready = without_blocked(ready, &waiting);
        let next_due = if put_back.is_empty() { inner.attempts.next_due(&waiting) } else { Some(now) };
        (ready, next_due)
    }

    fn remember(&self, outcomes: &[Outcome], next_due: Option<Timestamp>, now: Timestamp) -> PassReport {
        let mut inner = self.lock();
        for outcome in outcomes {
            let Outcome { step, result } = outcome;
            let failures = inner.attempts.record(step, result.is_err(), now);
            let text = match result {
                Ok(()) => step.to_string(),
                Err(finding) => format!("{step}: {}", finding.message),
            };
            inner.news.push((step.subject(), LogLine { at: now, text }));
            if let Err(finding) = result {
                let failure = StepFailure { finding: (**finding).clone(), failures };
                inner.failures.insert(step.subject(), (step.clone(), failure));
            } else {
                inner.failures.remove(&step.subject());
            }
        }
        let changed: Option<BTreeSet<GpuAddress>> = outcomes
            .iter()
            .map(|outcome| outcome.step.changes_only().filter(|_| outcome.result.is_ok()).cloned())
            .collect();
        inner.touched = changed.unwrap_or_default();
        let steps_failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
        let stored = &inner.loaded.state;
        let restored = inner.inventory.get(&self.name).is_some_and(|seen| {
            let due = steps::gpus_to_restore(&stored.spec, &stored.plan, seen);
            // A driver that is not quite there yet gets its chances; libvirt waits meanwhile.
            let given_up = |gpu: &GpuAddress| {
                let failure = inner.failures.get(&StepSubject::Gpu(gpu.clone()));
                failure.is_some_and(|(_, failure)| failure.failures >= STEP_FAILURES_MAX)
            };
            due.keys().all(given_up)
        });
        let next_due = if steps_failed > 0 {
            Some(Timestamp(now.0 + tranche_core::step::RETRY_FIRST_MS))
        } else {
            next_due
        };
        PassReport { steps_tried: outcomes.len(), steps_failed, next_due, restored }
    }

    /// Stores the next state if it differs from the last. On failure nothing may be done that rests on it.
    fn commit(&self, inner: &mut Inner, next: State) -> Result<(), Rejected> {
        if next == inner.loaded.state {
            return Ok(());
        }
        match self.repository.commit(inner.loaded.clone(), next) {
            Ok(Saved::Committed(loaded)) => {
                inner.loaded = loaded;
                inner.store_finding = None;
                Ok(())
            }
            Ok(Saved::Conflict(conflict)) => {
                inner.reload = true;
                Err(Rejected::Store(Box::new(view::conflict_finding(&conflict.to_string()))))
            }
            Err(error) => {
                inner.reload = true;
                inner.store_finding = Some(error.finding());
                Err(Rejected::Store(Box::new(error.finding())))
            }
        }
    }

    /// Reads the store again where a commit left it unknown.
    fn refresh(&self, inner: &mut Inner) -> Result<(), Rejected> {
        if !inner.reload {
            return Ok(());
        }
        match self.repository.load() {
            Ok(loaded) => {
                inner.loaded = loaded;
                inner.reload = false;
                Ok(())
            }
            Err(error) => Err(Rejected::Store(Box::new(error.finding()))),
        }
    }

    fn publish(&self, inner: &Inner) {
        let current = self.view();
        let mut next = inner.view(current.revision + 1);
        if next.same_as(&current) {
            next.revision = current.revision;
        }
        // Also where nothing has changed: the last view would keep alive what the engine has replaced.
        self.view.send_replace(Arc::new(next));
    }

    /// A panic while the lock was held left nothing half-written that matters: the store has the truth.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| {
            self.inner.clear_poison();
            let mut inner = PoisonError::into_inner(poisoned);
            inner.reload = true;
            inner
        });
        inner.news.truncate(LOG_LINES_MAX);
        inner
    }
}

impl Inner {
    fn view(&self, revision: u64) -> View {
        let stored = &self.loaded.state;
        View {
            revision,
            spec: stored.spec.clone(),
            plan: stored.plan.clone(),
            inventory: self.inventory.clone(),
            findings: self.findings.clone(),
            operations: stored.operations.clone(),
        }
    }
}

fn state(inner: &Inner) -> change::State<'_> {
    let stored = &inner.loaded.state;
    change::State { spec: &stored.spec, plan: &stored.plan, inventory: &inner.inventory }
}

fn with_host(inventory: &Inventory, seen: HostInventory) -> Inventory {
    let others = inventory.iter().filter(|(host, _)| **host != seen.host);
    let mut inventory: Inventory = others.map(|(host, other)| (host.clone(), other.clone())).collect();
    inventory.insert(seen.host.clone(), seen);
    inventory
}

fn new_operation(admitted: &Admitted, so_far: &State, now: Timestamp) -> Operation {
    Operation {
        id: OperationId(Uuid::new_v4()),
        title: admitted.title.clone(),
        subject: admitted.subject.clone(),
        goal: admitted.goal.clone().behind(so_far.operations.values()),
        created_at: now,
        updated_at: now,
        state: OperationState::Running,
        progress_percent: 0,
        findings: admitted.findings.clone(),
        log: vec![LogLine { at: now, text: "accepted".to_owned() }],
    }
}

/// Brings every operation that is not over up to what is known now. Returns the GPUs that go back to an earlier wish.
fn judge_operations(
    next: &mut State,
    inner: &Inner,
    findings: &[Finding],
    news: &[(StepSubject, LogLine)],
    now: Timestamp,
) -> BTreeSet<StepSubject> {
    let failures: Vec<StepFailure> = inner.failures.values().map(|(_, failure)| failure.clone()).collect();
    if next.operations.values().all(|operation| operation.state.is_over()) {
        return BTreeSet::new();
    }
    let mut put_back = BTreeMap::new();
    let mut operations = next.operations.clone();
    let known = change::State { spec: &next.spec, plan: &next.plan, inventory: &inner.inventory };
    for operation in operations.values_mut().filter(|operation| !operation.state.is_over()) {
        let verdict = operation::judge(operation, known, findings, &failures);
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
        Goal::VmRuns { vm, .. } | Goal::VmOff { vm } | Goal::VmGone { vm } => {
            let gpus = plan.held_by(vm).map(|(slot, _)| StepSubject::Gpu(slot.gpu.address.clone()));
            std::iter::once(StepSubject::Vm(vm.clone())).chain(gpus).collect()
        }
        Goal::Recorded => Vec::new(),
    }
}

/// Steps of one subject are a row: behind one that must wait, none is carried out.
fn without_blocked(ready: Vec<Step>, waiting: &[Step]) -> Vec<Step> {
    ready
        .into_iter()
        .filter(|step| {
            let subject = step.subject();
            !waiting.iter().any(|other| other.subject() == subject)
        })
        .collect()
}
