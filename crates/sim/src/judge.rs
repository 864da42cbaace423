//! The judge: knows what must never be, sees everything, and trusts nobody.
//!
//! It looks at the machines themselves, not at what they report, and at the store below all faults: after each write to the
//! store, also between those of one decision, and after each step of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use tranche_core::check;
use tranche_core::name::VmName;
use tranche_core::plan::Plan;
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
}

impl Judge {
    /// One who sees a store from now on.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let repository = Repository::new(store);
        let stored = repository.load().expect("a store in memory is read");
        let watch = repository.watch(&stored).expect("a store in memory is watched");
        Self { repository, stored, watch, said: BTreeSet::new() }
    }

    /// What is wrong about what was written since the last time.
    fn see(&mut self) -> Vec<String> {
        let before = self.stored.state.plan.clone();
        let seen = self.repository.catch_up(&mut self.stored, self.watch.as_mut());
        seen.expect("a store in memory forgets nothing in so short a time");
        let after = &self.stored.state.plan;
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
            let wrong = judge_start(vm, inner.nodes[node].name.as_str(), &runs_on, inner.judge.state());
            inner.accuse(wrong);
        });
    }
}

impl Inner {
    fn judge_machines(&mut self) {
        let wrong = judge_machines(&self.nodes, &self.judge.state().plan);
        self.accuse(wrong);
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
    node.on && node.model.domains.get(vm).is_some_and(|domain| domain.state.is_active())
}

/// What is wrong about a VM that is being started on a host: it runs on another one, or is not booked here.
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
    let needed = spec.request.slots();
    let booked = stored.plan.held_by(vm).filter(|(slot, _)| slot.gpu.host.as_str() == host).count();
    if booked < needed && stored.plan.vms.get(vm).is_some_and(|planned| planned.host.as_str() == host) {
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
            if let Some(other) = hosts.insert(vm, host) {
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
