//! The desk: takes wishes, plans, and stores what was decided.
//!
//! What is decided is decided by [`tranche_core`]; what is remembered is remembered by the store. One desk at a time decides
//! for a whole cluster; where one host stands alone, it is that host's.
//!
//! Deliberately absent: hosts. What they report is given to [`Desk::decide`]; what they do follows from what it stores.

mod followed;
mod hearing;
mod operations;
mod planning;
mod preview;
mod reading;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;
use tranche_core::change::{self, Admitted, Change};
use tranche_core::check;
use tranche_core::declare::{self, Declaration};
use tranche_core::diagnostics::lead_lost;
use tranche_core::effect::Effect;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{HostInventory, Inventory, Pulse};
use tranche_core::migration::{self, Outlook};
use tranche_core::name::{HostName, OperationId, Timestamp, VmId, VmName};
use tranche_core::operation::{LogLine, Operation, OperationState};
use tranche_core::plan::Plan;
use tranche_core::planner::{self, Memory};
use tranche_core::spec::Spec;
use tranche_core::step::StepSubject;
use tranche_core::why;
use tranche_store::{Loaded, Repository, RepositoryError, Saved, Shared, State, Terms, Watch};
use uuid::Uuid;

use self::operations::{NEWS_MAX, failures_that_matter, judge_operations, news_between};
use self::planning::Judged;
use self::preview::effect_of;
use self::wishes::{Wishes, take_over};
use crate::hand::{as_member, with_host};
use crate::trail;
use crate::view::{self, View};

pub use self::operations::News;
pub(crate) use self::operations::news_of;

/// How often a wish is considered that meets somebody else's change of the same thing.
const WISH_TRIES: usize = 4;

/// Takes wishes and decides.
#[derive(Debug)]
pub struct Desk {
    repository: Repository,
    ids: Ids,
    inner: Mutex<Inner>,
    wishes: Wishes,
    view: watch::Sender<Arc<View>>,
    /// The host that decides here, for those who follow what it does.
    decides_at: OnceLock<HostName>,
}

/// Where new names of VMs and operations come from.
#[derive(Clone)]
pub struct Ids(pub Arc<dyn Fn() -> Uuid + Send + Sync>);

impl Default for Ids {
    fn default() -> Self {
        Self(Arc::new(Uuid::new_v4))
    }
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ids")
    }
}

/// What the desk knows. Only `loaded` outlives the process.
#[derive(Debug, Default)]
struct Inner {
    loaded: Loaded,
    /// Set when a commit failed half-way: what is stored is known only by reading again.
    reload: bool,
    /// Set while something is stored that cannot be read, and when it was last tried for that.
    unreadable: bool,
    read_at: Timestamp,
    inventory: Shared<Inventory>,
    /// The reports that it rests on, where hosts report to the store.
    reports: Shared<Inventory>,
    /// Tells what others store, where there are others.
    watch: Option<Box<dyn Watch>>,
    /// When it last told something, or began.
    heard_at: Timestamp,
    /// On which terms wishes are stored.
    terms: Terms,
    /// The pulses of hosts by which it decided last, by what all of them reported, if that is stored: then wishes are planned with as
    /// they come.
    leads: Option<BTreeMap<HostName, Pulse>>,
    store_finding: Option<Finding>,
    /// What happened and stands in no log yet.
    news: News,
    findings: Shared<Vec<Finding>>,
    /// Those of them that whoever leads found out himself.
    reported: Vec<Finding>,
    /// What the last decision knew, so that the next looks only at what is new.
    memory: Memory,
    /// Whether each decision is compared with one that remembers nothing.
    doubts: bool,
    /// Set when the last decision changed nothing: until there is news, neither would the next.
    rest: Option<Rest>,
}

/// What a decision rested on that changed nothing, besides what is stored.
#[derive(Debug)]
struct Rest {
    pulses: BTreeMap<HostName, Pulse>,
    reported: Vec<Finding>,
    since: Timestamp,
}

/// How long a fleet in which nothing happens goes without being looked at as a whole, in milliseconds.
const REST_MS_MAX: u64 = 10_000;

/// What was decided and stored: what hosts may act on.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What people asked for.
    pub spec: Shared<Spec>,
    /// What was decided.
    pub plan: Shared<Plan>,
    /// What is about to go back to an earlier wish, so that nothing more shall be done for the one that failed.
    pub put_back: BTreeSet<StepSubject>,
}

/// What hosts reported, and what happened there.
#[derive(Debug)]
pub struct Reports {
    /// What they reported.
    pub inventory: Reported,
    /// What happened, for the logs of operations, besides what stored reports tell of that.
    pub news: News,
    /// What is wrong besides, as whoever reports knows.
    pub findings: Vec<Finding>,
}

/// What hosts reported.
#[derive(Debug)]
pub enum Reported {
    /// One of them did; of others, what is known is as before.
    One(Box<HostInventory>),
    /// All that is stored, and when each host was last heard of. The desk reads everything again.
    Stored(BTreeMap<HostName, Pulse>),
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
        /// What the preview rests on, where a wish can insist on that.
        version: Option<change::Version>,
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

impl Desk {
    /// A desk over what is stored.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(repository: Repository, ids: Ids) -> Result<Self, RepositoryError> {
        let loaded = repository.load()?;
        Ok(Self::over(repository, ids, Inner { loaded, ..Inner::default() }))
    }

    fn over(repository: Repository, ids: Ids, inner: Inner) -> Self {
        let view = watch::Sender::new(Arc::new(inner.view(0)));
        let (inner, wishes, decides_at) = (Mutex::new(inner), Wishes::default(), OnceLock::new());
        Self { repository, ids, inner, wishes, view, decides_at }
    }

    /// A desk that compares each decision with one that remembers nothing, and panics where they differ: for tests, because
    /// it costs what the memory saves.
    #[must_use]
    pub fn doubting(self) -> Self {
        self.lock().doubts = true;
        self
    }

    /// What is known now. Cheap.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Returns when a host has been looked at for the first time since the start: before, views show what is stored and
    /// no hardware.
    pub async fn looked(&self, host: &HostName) {
        // A desk outlives those who wait for it, so that the channel is never closed under them.
        let _ = self.watch().wait_for(|view| view.inventory.contains_key(host)).await;
    }

    /// Ticks with each decision and each wish. A view with the revision of the one before shows nothing new.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Takes a wish, or tells what it would do. Waits for the store, never for hardware.
    ///
    /// # Errors
    /// [`Rejected`] carries the findings that stand against it; nothing was changed.
    pub fn submit(&self, change: &Change, dry_run: bool, now: Timestamp) -> Result<Submitted, Rejected> {
        if dry_run { self.preview(change, now) } else { self.take(change, now) }
    }

    /// Takes all of a declaration or nothing of it, or tells what it would do.
    ///
    /// # Errors
    /// [`Rejected`] carries the findings that stand against any part of it; nothing was changed.
    pub fn apply(&self, declared: &Declaration, dry_run: bool, now: Timestamp) -> Result<Applied, Rejected> {
        anew_after_conflicts(|| self.try_apply(declared, dry_run, now))
    }

    fn try_apply(&self, declared: &Declaration, dry_run: bool, now: Timestamp) -> Result<Applied, Rejected> {
        let mut inner = self.lock();
        self.refresh(&mut inner)?;
        let hosts: Vec<&HostName> = inner.inventory.keys().collect();
        let changes =
            declare::changes(declared, &inner.loaded.state.spec, &hosts).map_err(Rejected::Refused)?;
        let mut next = inner.loaded.state.clone();
        let mut operations = Vec::new();
        let id = || VmId((self.ids.0)());
        let admitted = change::admit_all(&changes, state(&inner), id, now, |admitted| {
            operations.push(new_operation(OperationId((self.ids.0)()), admitted, &next, now));
        });
        let (spec, findings) = admitted.map_err(Rejected::Refused)?;
        if dry_run {
            let titles = operations.into_iter().map(|operation| operation.title).collect();
            return Ok(Applied::Preview { titles, effect: effect_of(&spec, findings, state(&inner), now) });
        }
        take_over(&mut next, spec);
        next.operations.extend(operations.iter().map(|operation| (operation.id, operation.clone())));
        let follows = trail::kept_here();
        self.lay_trails(&next.plan, operations.iter().map(|operation| (operation, follows.as_deref())));
        self.commit_wish(&mut inner, next)?;
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

    /// Where a VM that runs could go, and what would stand against moving it there while it runs.
    ///
    /// # Errors
    /// The VM does not exist or does not run, or there is no cluster.
    pub fn destinations(&self, vm: &VmName) -> Result<Vec<Outlook>, Rejected> {
        let inner = self.lock();
        migration::outlooks(vm, state(&inner)).map_err(Rejected::Refused)
    }

    /// Tells everything that is not as it should be by a fresh look at a host: violated invariants, drift, refusals.
    pub fn examine(&self, seen: HostInventory, now: Timestamp) -> Vec<Finding> {
        let inner = self.lock();
        let stored = &inner.loaded.state;
        let known = inner.inventory.get(&seen.host).filter(|_| !stored.spec.hosts.is_empty());
        let seen = as_member(seen, known.map(|known| &**known));
        let inventory = with_host(&inner.inventory, seen);
        let planned = planner::plan(&stored.spec, &inventory, &stored.plan, now);
        let mut findings = planned.findings;
        findings.extend(check::check(&stored.plan));
        findings.extend(check::check_world(&inventory, &stored.plan));
        let failures = inner.inventory.values().flat_map(|observed| &observed.progress.failures);
        findings.extend(failures.map(|failure| failure.finding.clone()));
        findings.extend(inner.store_finding.clone());
        findings.extend_from_slice(&inner.reported);
        findings.sort();
        findings.dedup();
        findings
    }

    /// Plans with what hosts reported, and stores the plan on the given terms, which then hold for wishes, too. Nothing may
    /// be done unless it was stored.
    pub fn decide(&self, reports: Reports, terms: &Terms, now: Timestamp) -> Option<Decided> {
        let mut inner = self.lock();
        inner.terms.always.clone_from(&terms.always);
        let known = match &reports.inventory {
            Reported::One(_) => self.refresh(&mut inner).map(|()| true),
            Reported::Stored(pulses) => {
                let rests = inner.may_rest(pulses, &reports.findings, now);
                self.follow(&mut inner, now).map(|news| news || !rests)
            }
        };
        match known {
            Ok(true) => {}
            Ok(false) => return Some(inner.decided(BTreeSet::new())),
            Err(rejected) => {
                inner.leads = None;
                if let Reported::One(seen) = reports.inventory {
                    inner.inventory = with_host(&inner.inventory, *seen).into();
                }
                inner.findings = rejected.into_findings().into();
                self.publish(&inner);
                return None;
            }
        }
        let stored = inner.loaded.state.clone();
        let pulses = match reports.inventory {
            Reported::One(seen) => {
                inner.inventory = with_host(&inner.inventory, *seen).into();
                None
            }
            Reported::Stored(pulses) => {
                inner.take_reports(&pulses);
                Some(pulses)
            }
        };
        inner.take_news(reports.news);
        let decided = self.plan_and_store(&mut inner, &reports.findings, terms, now);
        let changed = decided.is_none() || inner.loaded.state != stored || inner.store_finding.is_some();
        inner.leads = pulses.clone().filter(|_| decided.is_some());
        let reported = reports.findings;
        inner.rest = pulses.filter(|_| !changed).map(|pulses| Rest { pulses, reported, since: now });
        self.publish(&inner);
        decided
    }

    fn plan_and_store(
        &self,
        inner: &mut Inner,
        reported: &[Finding],
        terms: &Terms,
        now: Timestamp,
    ) -> Option<Decided> {
        let _decision = self.decision(inner, now).entered();
        let stored = inner.loaded.state.clone();
        let mut next = stored.clone();
        let Judged { mut findings, is_sound } = planning::plan(inner, &mut next, now);
        let failures = failures_that_matter(&next, &inner.inventory);
        findings.extend(failures.iter().map(|failure| failure.finding.clone()));
        let put_back = judge_operations(&mut next, &inner.inventory, &findings, &failures, &inner.news, now);
        let is_stored = trail::part!("commit").in_scope(|| self.commit(inner, next, terms)).is_ok();
        if is_stored {
            inner.news.clear();
            self.end_trails(&stored, &inner.loaded.state);
        }
        findings.extend(inner.store_finding.clone());
        findings.extend_from_slice(reported);
        inner.reported = reported.to_vec();
        findings.sort();
        findings.dedup();
        inner.findings = findings.into();
        (is_sound && is_stored).then(|| inner.decided(put_back))
    }

    /// Stores wishes.
    fn commit_wish(&self, inner: &mut Inner, next: State) -> Result<(), Rejected> {
        let terms = inner.terms.clone();
        self.commit(inner, next, &terms)
    }

    /// Stores wishes with what follows from them, where this desk leads and all of it is stored at once; else by themselves.
    fn commit_wish_planned(&self, inner: &mut Inner, next: State, now: Timestamp) -> Result<(), Rejected> {
        if let Some(planned) = planning::with_what_follows(inner, &next, now) {
            let terms = inner.terms.clone();
            let saved = self.repository.commit_at_once(inner.loaded.clone(), planned, &terms);
            if let Some(saved) = saved.transpose() {
                return inner.note(saved, &terms);
            }
        }
        self.commit_wish(inner, next)
    }

    /// Stores the next state if it differs from the last. On failure nothing may be done that rests on it.
    fn commit(&self, inner: &mut Inner, next: State, terms: &Terms) -> Result<(), Rejected> {
        if next == inner.loaded.state {
            return Ok(());
        }
        let saved = self.repository.commit(inner.loaded.clone(), next, terms);
        inner.note(saved, terms)
    }

    fn publish(&self, inner: &Inner) {
        let current = self.view();
        let mut next = inner.view(current.revision + 1);
        if next.same_as(&current) {
            next.revision = current.revision;
            next.spare = Arc::clone(&current.spare);
        }
        // Also where nothing has changed: the last view would keep alive what the engine has replaced.
        self.view.send_replace(Arc::new(next));
    }

    /// A panic while the lock was held left nothing half-written that matters: the store has the truth.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            self.inner.clear_poison();
            let mut inner = PoisonError::into_inner(poisoned);
            inner.reload = true;
            inner
        })
    }
}

impl Inner {
    /// Whether the last decision changed nothing, and all that it rested on is as it was.
    fn may_rest(&self, pulses: &BTreeMap<HostName, Pulse>, reported: &[Finding], now: Timestamp) -> bool {
        let rests = |rest: &Rest| {
            rest.pulses == *pulses && rest.reported == reported && !now.is_past(rest.since, REST_MS_MAX)
        };
        self.rest.as_ref().is_some_and(rests)
    }

    /// Takes what hosts have reported since.
    fn take_reports(&mut self, pulses: &BTreeMap<HostName, Pulse>) {
        let stored = self.loaded.state.inventory.clone();
        self.inventory = with_pulses(&self.inventory, &self.reports, &stored, pulses).into();
        self.take_news(news_between(&self.reports, &stored));
        self.reports = stored;
    }

    fn take_news(&mut self, news: News) {
        self.news.extend(news);
        let surplus = self.news.len().saturating_sub(NEWS_MAX);
        self.news.drain(..surplus);
    }

    /// Notes how a commit on these terms ended.
    fn note(&mut self, saved: Result<Saved, RepositoryError>, terms: &Terms) -> Result<(), Rejected> {
        self.rest = None;
        let finding = match saved {
            Ok(Saved::Committed(loaded)) => {
                self.loaded = loaded;
                self.store_finding = None;
                return Ok(());
            }
            Ok(Saved::Conflict(conflict)) => {
                let lost = terms.always.iter().any(|term| term.key == conflict.key);
                if lost { lead_lost() } else { view::conflict_finding(&conflict.to_string()) }
            }
            Err(error) => {
                let finding = error.finding();
                self.store_finding = Some(finding.clone());
                finding
            }
        };
        // What is stored by now is for the loop to read, and to plan with.
        (self.reload, self.leads) = (true, None);
        Err(Rejected::Store(Box::new(finding)))
    }

    fn decided(&self, put_back: BTreeSet<StepSubject>) -> Decided {
        let State { spec, plan, .. } = &self.loaded.state;
        Decided { spec: spec.clone(), plan: plan.clone(), put_back }
    }

    fn view(&self, revision: u64) -> View {
        let stored = &self.loaded.state;
        View {
            revision,
            spec: stored.spec.clone(),
            plan: stored.plan.clone(),
            inventory: self.inventory.clone(),
            findings: self.findings.clone(),
            operations: stored.operations.clone(),
            spare: Arc::default(),
        }
    }
}

/// Considers a wish anew, from what is stored by then, when somebody else was quicker to change the same thing.
fn anew_after_conflicts<T>(consider: impl Fn() -> Result<T, Rejected>) -> Result<T, Rejected> {
    let met_another = |answer: &Result<T, Rejected>| answer.as_ref().is_err_and(is_conflict);
    let mut answer = consider();
    for _ in 1..WISH_TRIES {
        if !met_another(&answer) {
            break;
        }
        answer = consider();
    }
    answer
}

fn is_conflict(rejected: &Rejected) -> bool {
    matches!(rejected, Rejected::Store(finding) if finding.code == Code::VersionConflict)
}

/// What is known of hosts, which rested on the reports `before`, brought up to what they reported since and to their pulses.
/// What is as it was stays the same value.
fn with_pulses(
    known: &Inventory,
    before: &Inventory,
    reported: &Inventory,
    pulses: &BTreeMap<HostName, Pulse>,
) -> Inventory {
    let mut inventory = known.clone();
    for (host, _, report) in before.changes(reported) {
        match report {
            Some(report) => drop(inventory.insert(host.clone(), report.clone())),
            None => drop(inventory.remove(host)),
        }
    }
    let pulse_of = |host: &HostName| pulses.get(host).copied();
    let others = inventory.iter().filter(|(host, seen)| seen.pulse != pulse_of(host));
    for host in others.map(|(host, _)| host.clone()).collect::<Vec<_>>() {
        if let Some(seen) = inventory.get_mut(&host) {
            seen.pulse = pulse_of(&host);
        }
    }
    inventory
}

fn state(inner: &Inner) -> change::State<'_> {
    let stored = &inner.loaded.state;
    change::State { spec: &stored.spec, plan: &stored.plan, inventory: &inner.inventory }
}

fn new_operation(id: OperationId, admitted: &Admitted, so_far: &State, now: Timestamp) -> Operation {
    Operation {
        id,
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
