//! The judge: knows what must never be, sees everything, and trusts nobody.
//!
//! It looks at the machines themselves, not at what they report, and at the store below all faults: after each write to the
//! store, also between those of one decision, and after each step of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use tranche_core::check;
use tranche_core::inventory::DomainState;
use tranche_core::liveness::Cause;
use tranche_core::name::{HostName, VmName};
use tranche_core::plan::{Plan, Standing, VmGoal};
use tranche_store::{Loaded, Repository, State, Store, Watch};

use crate::node::Node;
use crate::quorum::Place;
use crate::world::{Inner, Shared};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// What the judge knows.
#[derive(Debug)]
pub(crate) struct Judge {
    repository: Repository,
    stored: Loaded,
    watch: Box<dyn Watch>,
    /// What was said already: what is wrong stays so for a while.
    said: BTreeSet<String>,
    /// Guests that shut themselves down, and are to stay off.
    resting: BTreeMap<VmName, Rest>,
}

/// A guest that shut itself down stays off in this boot of its host, until a command starts it. It may start elsewhere once its host
/// was given up.
#[derive(Debug)]
struct Rest {
    host: HostName,
    boot_id: String,
    epoch: u64,
    /// The last command to start it.
    serial: u64,
}

impl Rest {
    /// The rest of a guest that has just shut itself down on a host, in a boot of it. None where that cannot be told from a start
    /// or an end that is under way: before it was seen running, and the host knows that, and once it was told something else.
    fn of(vm: &VmName, (host, boot_id): (&HostName, &str), state: &State) -> Option<Self> {
        let (spec, planned) = (state.spec.vms.get(vm)?, state.plan.vms.get(vm)?);
        let settled =
            planned.settled.as_ref().filter(|settled| settled.running && settled.boot_id == boot_id)?;
        let reported = state.inventory.get(host)?;
        let knows = state.plan.generations.get(host) == Some(&reported.progress.generation);
        let is_meant = spec.run.is_up()
            && planned.host == *host
            && settled.serial == spec.serial
            && settled.rests.is_none()
            && matches!(planned.goal, VmGoal::Run | VmGoal::Leave);
        let epoch = state.plan.hosts.get(host)?.epoch;
        let rest = Self { host: host.clone(), boot_id: boot_id.to_owned(), epoch, serial: spec.serial };
        (knows && is_meant).then_some(rest)
    }

    /// Whether nobody told it anything else, or its host, so far.
    fn goes_on(&self, vm: &VmName, state: &State) -> bool {
        let (Some(spec), Some(planned)) = (state.spec.vms.get(vm), state.plan.vms.get(vm)) else {
            return false;
        };
        let host = state.plan.hosts.get(&self.host);
        let is_told = matches!(
            planned.goal,
            VmGoal::Move | VmGoal::Cycle | VmGoal::Reset | VmGoal::Kill | VmGoal::Remove
        );
        spec.run.is_up()
            && spec.serial == self.serial
            && !is_told
            && host.is_some_and(|host| host.epoch == self.epoch && !host.departs)
    }
}

impl Judge {
    /// One who sees a store from now on.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let repository = Repository::new(store);
        let stored = repository.load().expect("a store in memory is read");
        let watch = repository.watch(&stored).expect("a store in memory is watched");
        Self { repository, stored, watch, said: BTreeSet::new(), resting: BTreeMap::new() }
    }

    /// What is wrong about what was written since the last time.
    fn see(&mut self) -> Vec<String> {
        let before = self.stored.state.plan.clone();
        let seen = self.repository.catch_up(&mut self.stored, self.watch.as_mut());
        seen.expect("a store in memory forgets nothing in so short a time");
        let state = &self.stored.state;
        self.resting.retain(|vm, rest| rest.goes_on(vm, state));
        let after = &state.plan;
        if before == *after { Vec::new() } else { judge_plans(&before, after) }
    }

    fn state(&self) -> &State {
        &self.stored.state
    }
}

impl Shared {
    /// Judges what has just been written to the store.
    pub(crate) fn judge_write(&self) {
        self.with(|inner| {
            let wrong = inner.judge.see();
            inner.accuse(wrong);
            inner.judge_machines();
        });
    }

    /// Judges what a step has just done.
    pub(crate) fn judge_step(&self) {
        self.with(Inner::judge_machines);
    }

    /// Judges the start of a VM that has just taken place.
    pub(crate) fn judge_start(&self, vm: &VmName, node: Place) {
        self.with(|inner| {
            let runs_on = inner.nodes.iter().filter(|node| runs(node, vm.as_str()));
            let runs_on: Vec<String> = runs_on.map(|node| node.name.to_string()).collect();
            let mut wrong = judge_start(vm, inner.nodes[node].name.as_str(), &runs_on, inner.judge.state());
            if let Some(rest) = inner.judge.resting.remove(vm) {
                let was_on = inner.nodes.iter().find(|node| node.name == rest.host);
                if was_on.is_some_and(|node| node.on && node.model.boot_id() == rest.boot_id) {
                    wrong.push(format!("VM {vm} is started, whose guest shut itself down on {}", rest.host));
                }
            }
            inner.accuse(wrong);
        });
    }
}

impl Inner {
    /// Judges that an agent is told to turn a host on, which was given up in an epoch: not before it is stored that the host is
    /// down. Whoever tells it may have slept since.
    pub(crate) fn judge_turning_on(&mut self, host: &HostName, cause: Cause) {
        let stored = self.judge.state().plan.hosts.get(host);
        let is_early = stored.is_some_and(|planned| {
            let is_fenced =
                planned.epoch == cause.epoch && matches!(planned.standing, Standing::Fencing { .. });
            planned.epoch < cause.epoch || is_fenced
        });
        if is_early {
            self.accuse(vec![format!("host {host} is turned on before it is stored that it is down")]);
        }
    }

    fn judge_machines(&mut self) {
        let wrong = judge_machines(&self.nodes, &self.judge.state().plan);
        self.accuse(wrong);
    }

    /// Notes that a guest has shut itself down.
    pub(crate) fn judge_shutdown(&mut self, vm: &VmName, node: Place) {
        let node = &self.nodes[node];
        let rest = Rest::of(vm, (&node.name, &node.model.boot_id()), self.judge.state());
        self.judge.resting.extend(rest.map(|rest| (vm.clone(), rest)));
    }

    /// Says what is wrong, each once.
    pub(crate) fn accuse(&mut self, wrong: Vec<String>) {
        for what in wrong {
            if self.judge.said.insert(what.clone()) {
                self.violations.push(Violation { at_ms: self.now_ms, what });
            }
        }
    }
}

fn runs(node: &Node, vm: &str) -> bool {
    node.on && node.model.domains.get(vm).is_some_and(|domain| is_going(domain.state))
}

/// Whether a guest goes on. One that arrives, or is whole and stands still, does not.
pub(crate) fn is_going(state: DomainState) -> bool {
    matches!(state, DomainState::Running | DomainState::ShuttingDown)
}

/// What is wrong about a VM that is being started on a host: it runs on another one, is another one's by now, or is not booked
/// here. A VM leaves a host only once that has reported that it is off and shall not run, or was given up; so whoever starts it late does
/// what nobody could have told it.
fn judge_start(vm: &VmName, host: &str, runs_on: &[String], stored: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    let others: Vec<&String> = runs_on.iter().filter(|other| *other != host).collect();
    if !others.is_empty() {
        wrong.push(format!("VM {vm} starts on {host} while it runs on {others:?}"));
    }
    let Some(spec) = stored.spec.vms.get(vm) else {
        // It was forgotten meanwhile; the next pass of its host ends it.
        return wrong;
    };
    let home = stored.plan.vms.get(vm).map(|planned| planned.host.as_str());
    if home != Some(host) {
        let home = home.unwrap_or("no host");
        wrong.push(format!("VM {vm} starts on {host}, and the plan has it on {home}"));
    }
    let needed = spec.request.slots();
    let booked = stored.plan.held_by(vm).filter(|(slot, _)| slot.gpu.host.as_str() == host).count();
    if booked < needed {
        wrong.push(format!("VM {vm} starts on {host} with {booked} of {needed} bookings there"));
    }
    wrong
}

/// What is wrong about what runs: a VM on two hosts, or with something that is not booked for it.
fn judge_machines(nodes: &[Node], plan: &Plan) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.on) {
        for domain in node.model.domains.values().filter(|domain| domain.state.is_active()) {
            let (vm, host) = (&domain.name, node.name.as_str());
            if is_going(domain.state)
                && let Some(other) = hosts.insert(vm, host)
            {
                wrong.push(format!("VM {vm} runs on {other} and on {host}"));
            }
            for slot in domain.live_devices.iter().filter_map(|device| node.model.slot_of(&device.source)) {
                let booking = plan.bookings.get(&slot);
                if booking.is_none_or(|booking| booking.vm.as_str() != vm) {
                    let holder = booking.map_or("nobody", |booking| booking.vm.as_str());
                    wrong.push(format!("VM {vm} runs with {slot}, which is booked for {holder}"));
                }
            }
        }
    }
    wrong
}

/// What is wrong about a plan that was stored after another one.
fn judge_plans(before: &Plan, after: &Plan) -> Vec<String> {
    let mut wrong = check::check(after);
    wrong.extend(check::check_transition(before, after));
    wrong.into_iter().map(|finding| finding.message).collect()
}
