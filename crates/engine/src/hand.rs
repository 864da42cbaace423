//! The hand: looks at its own host, and carries out what is due there.
//!
//! It remembers how its steps fared, so that nothing is hammered; that is forgotten with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use tranche_core::falls::Starts;
use tranche_core::inventory::{Done, HostInventory, Inventory};
use tranche_core::journey::Sending;
use tranche_core::name::{GpuAddress, HostName, Timestamp, VmName};
use tranche_core::operation::{LOG_LINES_MAX, LogLine, STEP_FAILURES_MAX, StepFailure};
use tranche_core::plan::Plan;
use tranche_core::spec::Spec;
use tranche_core::step::{Attempts, RETRY_FIRST_MS, Step, StepSubject};
use tranche_core::steps;
use tranche_host::Host;

use crate::act::{Outcome, Place, act};
use crate::trail::{self, Trails};

/// The longest time for which only what was changed is looked at, in milliseconds. Splitting a GPU takes two such looks.
const SURVEY_EVERY_MS: u64 = 5_000;

/// Looks at a host and carries out steps there.
#[derive(Debug)]
pub struct Hand {
    host: Arc<dyn Host>,
    workers: usize,
    /// The last look.
    last: Option<HostInventory>,
    /// The GPUs that the last steps changed, if they changed nothing else.
    touched: BTreeSet<GpuAddress>,
    /// When everything was looked at.
    surveyed_at: Timestamp,
    attempts: Attempts,
    failures: BTreeMap<StepSubject, StepFailure>,
    starts: Starts,
    news: Vec<Done>,
    /// For how long VMs were foreseen to stand still that set out from here, with the number of the journey.
    foreseen: BTreeMap<VmName, (u64, Option<u64>)>,
    moved: Vec<Moved>,
    /// Who follows what is done.
    trails: Trails,
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
    /// What came of VMs that were sent to other hosts.
    pub moved: Vec<Moved>,
}

/// What came of a VM that was sent to another host while it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was not sent.
    Failed,
    /// It was sent.
    Sent {
        /// For how long its guest stood still, in milliseconds.
        pause_ms: u64,
        /// For how long it was foreseen to, in milliseconds.
        foreseen_ms: Option<u64>,
    },
}

impl PassReport {
    /// Whether another pass would see something new at once.
    pub fn is_busy(&self) -> bool {
        self.steps_tried > 0
    }
}

impl Hand {
    /// A hand on a host. `workers` steps of different VMs and GPUs are done side by side.
    pub fn new(host: Arc<dyn Host>, workers: usize) -> Self {
        Self {
            host,
            workers: workers.max(1),
            last: None,
            touched: BTreeSet::new(),
            surveyed_at: Timestamp::default(),
            attempts: Attempts::default(),
            failures: BTreeMap::new(),
            starts: Starts::default(),
            news: Vec::new(),
            foreseen: BTreeMap::new(),
            moved: Vec::new(),
            trails: Trails::default(),
        }
    }

    /// From now on these are who follows what is done.
    pub(crate) fn is_followed_by(&mut self, trails: Trails) {
        self.trails = trails;
    }

    /// The host.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Looks at the host: after steps that changed some GPUs only, at these; never for long without looking at everything.
    pub fn look(&mut self, now: Timestamp) -> HostInventory {
        let _observes = trail::part!("observe").entered();
        let touched = mem::take(&mut self.touched);
        let fresh = !now.is_past(self.surveyed_at, SURVEY_EVERY_MS);
        let last = self.last.as_ref().filter(|_| fresh && !touched.is_empty());
        let mut seen = match last {
            Some(last) => self.host.observe_again(&touched, last, now),
            None => {
                self.surveyed_at = now;
                self.host.observe(now)
            }
        };
        self.tell_of_journeys(&seen, now);
        seen.progress.failures = self.failures.values().cloned().collect();
        seen.progress.falls = self.starts.falls();
        self.last = Some(seen.clone());
        seen
    }

    /// Tells what came of VMs that were sent to other hosts since the last look.
    fn tell_of_journeys(&mut self, seen: &HostInventory, now: Timestamp) {
        let before = self.last.as_ref().map(|last| &last.progress.sent);
        for (vm, sent) in &seen.progress.sent {
            if before.and_then(|before| before.get(vm)) == Some(sent) {
                continue;
            }
            let foreseen = self.foreseen.get(vm).filter(|(number, _)| *number == sent.number);
            let foreseen_ms = foreseen.and_then(|(_, foreseen_ms)| *foreseen_ms);
            let text = match &sent.state {
                Sending::UnderWay { .. } => continue,
                Sending::Done { pause_ms, total_ms } => {
                    self.moved.push(Moved::Sent { pause_ms: *pause_ms, foreseen_ms });
                    let foreseen =
                        foreseen_ms.map(|ms| format!(", {ms} ms were foreseen")).unwrap_or_default();
                    format!("VM {vm} was sent in {total_ms} ms and stood still for {pause_ms} ms{foreseen}")
                }
                Sending::Failed { why } => {
                    self.moved.push(Moved::Failed);
                    format!("VM {vm} was not sent: {why}")
                }
            };
            self.news.push(Done { subject: StepSubject::Vm(vm.clone()), line: LogLine { at: now, text } });
        }
    }

    /// What was done since this was last asked.
    pub fn take_news(&mut self) -> Vec<Done> {
        mem::take(&mut self.news)
    }

    /// Carries out what is due by a plan, as far as it may be tried now. `spared` is left out: it serves a wish that stands no
    /// longer.
    pub fn act(
        &mut self,
        (spec, plan): (&Spec, &Plan),
        seen: &HostInventory,
        spared: &BTreeSet<StepSubject>,
        now: Timestamp,
    ) -> PassReport {
        self.note_foreseen(plan, seen);
        let mut due = steps::steps(spec, plan, seen);
        self.failures.retain(|_, failure| due.contains(&failure.step));
        self.attempts.keep_only(&due);
        self.see_falls(spec, &due, now);
        due.retain(|step| !spared.contains(&step.subject()));
        let after_fall = |step: &Step| self.waits_after_fall(spec, step, now);
        let (ready, waiting): (Vec<Step>, Vec<Step>) =
            due.into_iter().partition(|step| self.attempts.allows(step, now) && after_fall(step).is_none());
        let ready = without_blocked(ready, &waiting);
        let pauses = waiting.iter().filter_map(after_fall).min();
        let waits_until = match self.attempts.next_due(&waiting) {
            _ if !spared.is_empty() => Some(now),
            tried => tried.into_iter().chain(pauses).min(),
        };
        let outcomes = self.do_steps(ready, &seen.host, now);
        self.remember(&outcomes, now);
        self.remember_starts(spec, &outcomes, now);
        let steps_failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
        let next_due = if steps_failed > 0 { Some(Timestamp(now.0 + RETRY_FIRST_MS)) } else { waits_until };
        let (restored, moved) = (self.is_restored((spec, plan), seen), mem::take(&mut self.moved));
        PassReport { steps_tried: outcomes.len(), steps_failed, next_due, restored, moved }
    }

    /// Keeps for how long VMs were foreseen to stand still: when what came of it is seen, the journey may be forgotten.
    fn note_foreseen(&mut self, plan: &Plan, seen: &HostInventory) {
        self.foreseen.retain(|vm, _| seen.progress.sent.contains_key(vm) || plan.vms.contains_key(vm));
        let here = plan.vms.iter().filter(|(_, planned)| planned.host == seen.host);
        let travelling = here.filter_map(|(vm, planned)| {
            let journey = planned.open_journey().map(|journey| (journey.number, journey.foreseen_ms));
            let parting = || planned.open_parting().map(|parting| (parting.number, parting.foreseen_ms));
            Some((vm.clone(), journey.or_else(parting)?))
        });
        self.foreseen.extend(travelling);
    }

    /// What is to be started now although it was started before fell. Nothing is said of what a hypervisor that is down ran.
    fn see_falls(&mut self, spec: &Spec, due: &[Step], now: Timestamp) {
        let starts = due.iter().filter_map(|step| match step {
            Step::StartVm { vm, .. } => Some(vm),
            _ => None,
        });
        let serial = |vm: &VmName| spec.vms.get(vm).map(|spec| spec.serial);
        self.starts.see(&starts.collect(), serial, now);
    }

    /// Until when a VM that fell is not started.
    fn waits_after_fall(&self, spec: &Spec, step: &Step, now: Timestamp) -> Option<Timestamp> {
        let Step::StartVm { vm, .. } = step else { return None };
        self.starts.waits_until(vm, spec.vms.get(vm)?.availability.restarts, now)
    }

    fn remember_starts(&mut self, spec: &Spec, outcomes: &[Outcome], now: Timestamp) {
        for Outcome { step, result } in outcomes {
            if let Step::StartVm { vm, .. } = step {
                let serial = spec.vms.get(vm).map_or(0, |spec| spec.serial);
                self.starts.started(vm, serial, result.is_err(), now);
            }
        }
    }

    /// Whether every GPU is as decided, or was given up. A driver that is not quite there yet gets its chances; libvirt
    /// waits meanwhile.
    fn is_restored(&self, (spec, plan): (&Spec, &Plan), seen: &HostInventory) -> bool {
        let given_up = |gpu: &GpuAddress| {
            let failure = self.failures.get(&StepSubject::Gpu(gpu.clone()));
            failure.is_some_and(|failure| failure.failures >= STEP_FAILURES_MAX)
        };
        steps::gpus_to_restore(spec, plan, seen).keys().all(given_up)
    }

    /// Carries out steps that are due whatever the plan says.
    pub fn carry_out(&mut self, due: Vec<Step>, host: &HostName, now: Timestamp) -> PassReport {
        let ready: Vec<Step> = due.into_iter().filter(|step| self.attempts.allows(step, now)).collect();
        let outcomes = self.do_steps(ready, host, now);
        self.remember(&outcomes, now);
        let steps_failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
        let next_due = (steps_failed > 0).then_some(Timestamp(now.0 + RETRY_FIRST_MS));
        PassReport { steps_tried: outcomes.len(), steps_failed, next_due, restored: true, moved: Vec::new() }
    }

    fn do_steps(&self, ready: Vec<Step>, name: &HostName, now: Timestamp) -> Vec<Outcome> {
        let place = Place { host: &*self.host, name, trails: &self.trails, workers: self.workers };
        trail::part!("act").in_scope(|| act(place, ready, now))
    }

    /// What a pass comes to in which nothing may be done, because what was decided could not be stored.
    pub fn stand_still(&self, decided: (&Spec, &Plan), seen: &HostInventory) -> PassReport {
        let restored = self.is_restored(decided, seen);
        PassReport { steps_tried: 0, steps_failed: 0, next_due: None, restored, moved: Vec::new() }
    }

    fn remember(&mut self, outcomes: &[Outcome], now: Timestamp) {
        for Outcome { step, result } in outcomes {
            let failures = self.attempts.record(step, result.is_err(), now);
            let text = match result {
                Ok(()) => step.to_string(),
                Err(finding) => format!("{step}: {}", finding.message),
            };
            self.news.push(Done { subject: step.subject(), line: LogLine { at: now, text } });
            if let Step::ShutDownVm { vm, .. } | Step::KillVm { vm, .. } = step {
                self.starts.ended(vm);
            }
            if let Err(finding) = result {
                let failure = StepFailure { step: step.clone(), finding: (**finding).clone(), failures };
                self.failures.insert(step.subject(), failure);
            } else {
                self.failures.remove(&step.subject());
            }
        }
        self.news.truncate(LOG_LINES_MAX);
        let changed: Option<BTreeSet<GpuAddress>> = outcomes
            .iter()
            .map(|outcome| outcome.step.changes_only().filter(|_| outcome.result.is_ok()).cloned())
            .collect();
        self.touched = changed.unwrap_or_default();
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

/// What is known of all hosts, with what one of them has just been seen to be.
pub(crate) fn with_host(inventory: &Inventory, seen: HostInventory) -> Inventory {
    let mut inventory = inventory.clone();
    inventory.insert(seen.host.clone(), seen.into());
    inventory
}

/// A host as it has just been seen, with what only its member and whoever leads can add: how far it has followed the plan, its last
/// heartbeat, and what else it had to say. Without these, a look alone would show a host that is silent.
pub(crate) fn as_member(seen: HostInventory, known: Option<&HostInventory>) -> HostInventory {
    let Some(known) = known else { return seen };
    let more: Vec<_> = known.notes.iter().filter(|note| !seen.notes.contains(note)).cloned().collect();
    let notes = seen.notes.into_iter().chain(more).collect();
    HostInventory { progress: known.progress.clone(), pulse: known.pulse, notes, ..seen }
}
