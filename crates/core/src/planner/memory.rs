//! Memory between passes: so that a pass looks only at hosts at which anything is new.
//!
//! A host is *at rest* after a pass that changed nothing there, if all that was decided there followed from what is
//! known of that host alone: it is up, its VMs run or are off as they shall, and what it has booked is theirs. Such a host is
//! left out until its report, a wish about it or the plan for it changes, and what was said of it is said again. One that was told to
//! start VMs is at rest, too, until it reports that it knows: before that, nothing is decided about what it has.
//! Everybody else is decided about in each pass: VMs that wait for room, hosts that are silent.
//!
//! This is a cache and no more. With it a pass decides and says what it would without; the simulator holds it to that.

use std::collections::{BTreeMap, BTreeSet};

use super::{Planned, Planner, pass};
use crate::change::State;
use crate::finding::{Finding, Subject};
use crate::homogeneity;
use crate::inventory::{HostInventory, Inventory};
use crate::name::{GpuKey, HostName, Timestamp, VmName};
use crate::placement::{Board, Ground, Uses, UsesByHost};
use crate::plan::{Plan, VmPlan};
use crate::spec::Spec;

/// What the last pass knew. It starts empty; forgetting it costs one pass over everything.
#[derive(Debug, Clone, Default)]
pub struct Memory(Option<Last>);

impl Memory {
    /// Decides. The result is that of [`super::plan`], whatever was remembered.
    pub fn plan(&mut self, spec: &Spec, inventory: &Inventory, current: &Plan, now: Timestamp) -> Planned {
        let known = self.0.take().filter(|last| last.serves(spec));
        let mut last = known.unwrap_or_else(|| Last::nothing(spec));
        let scope = last.catch_up(spec, inventory, current);
        let planned = pass((spec, inventory, current), now, &scope, &mut last);
        self.0 = Some(last);
        planned
    }

    /// Asks something of the board of what is decided and observed now, as [`Board::of`] has it: only what is new is read for it. Whoever
    /// asks leaves it as it was. What is new is as new to the next pass.
    pub fn ask<T>(&mut self, state: State<'_>, question: impl FnOnce(&mut Board<'_>) -> T) -> T {
        let State { spec, plan, inventory } = state;
        let known = self.0.take().filter(|last| last.serves(spec));
        let mut last = known.unwrap_or_else(|| Last::nothing(spec));
        let scope = last.catch_up(spec, inventory, plan);
        let mut ground = last.ground.take().unwrap_or_else(|| Ground::new(spec.policy.placement));
        let uses = scope.hosts.iter().filter_map(|host| Some((host.clone(), Uses::of(inventory.get(host)?))));
        scope.read(&mut ground, state, &uses.collect(), |gpu| plan.gpus.contains_key(gpu));
        let mut board = Board::over(ground, (spec, inventory), plan, plan.vms.keys());
        let answer = question(&mut board);
        let ground = board.into_ground();
        last.restless.extend(scope.hosts);
        last.restless.extend(ground.altered().cloned());
        last.ground = Some(ground);
        self.0 = Some(last);
        answer
    }
}

/// What a pass decides about.
#[derive(Debug)]
pub(super) struct Scope {
    /// Hosts that are not at rest.
    pub(super) hosts: BTreeSet<HostName>,
    /// The VMs that the plan has there.
    pub(super) residents: BTreeMap<HostName, Vec<VmName>>,
    /// VMs of which the plan knows nothing.
    homeless: Vec<VmName>,
}

impl Scope {
    /// The VMs that the plan has on a host.
    pub(super) fn residents(&self, host: &HostName) -> &[VmName] {
        self.residents.get(host).map_or(&[], Vec::as_slice)
    }

    /// Reads the hosts anew. `gives` tells which GPUs may be given away.
    pub(super) fn read(
        &self,
        ground: &mut Ground,
        state: State<'_>,
        uses: &UsesByHost,
        gives: impl Fn(&GpuKey) -> bool,
    ) {
        let nobody = Uses::default();
        // Where they are by now: some lost their host in this pass, and some came to another one.
        let mut residents: BTreeMap<&HostName, Vec<&VmName>> = BTreeMap::new();
        let mut coming: BTreeMap<&HostName, Vec<&VmName>> = BTreeMap::new();
        for name in self.vms() {
            let Some(planned) = state.plan.vms.get(name) else { continue };
            residents.entry(&planned.host).or_default().push(name);
            if let Some(journey) = planned.open_journey() {
                coming.entry(&journey.other).or_default().push(name);
            }
        }
        for host in &self.hosts {
            let residents = residents.get(host).into_iter().flatten().copied();
            let coming = coming.get(host).into_iter().flatten().copied();
            ground.read(host, state, &gives, uses.get(host).unwrap_or(&nobody), residents, coming);
        }
    }

    /// All VMs to decide about.
    pub(super) fn vms(&self) -> impl Iterator<Item = &VmName> {
        self.residents.values().flatten().chain(&self.homeless)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Last {
    spec: Spec,
    inventory: Inventory,
    plan: Plan,
    /// The VMs of each host, by the plan.
    residents: BTreeMap<HostName, BTreeSet<VmName>>,
    /// VMs that somebody wishes for and of which the plan knows nothing.
    homeless: BTreeSet<VmName>,
    /// Hosts that were not at rest.
    restless: BTreeSet<HostName>,
    /// What was said of each host that was.
    said: BTreeMap<HostName, Vec<Finding>>,
    /// Whether all GPUs were alike, and nothing has changed by which that is judged.
    alike: bool,
    /// The room of all hosts. Lent to the pass.
    pub(super) ground: Option<Ground>,
}

impl Last {
    /// Before the first pass.
    fn nothing(spec: &Spec) -> Self {
        Self {
            spec: Spec { policy: spec.policy, ..Spec::default() },
            inventory: Inventory::new(),
            plan: Plan::default(),
            residents: BTreeMap::new(),
            homeless: BTreeSet::new(),
            restless: BTreeSet::new(),
            said: BTreeMap::new(),
            alike: false,
            ground: None,
        }
    }

    /// Whether what is remembered holds for a spec. Policies are for everybody.
    fn serves(&self, spec: &Spec) -> bool {
        self.spec.policy == spec.policy && self.spec.hosts.is_empty() == spec.hosts.is_empty()
    }

    /// Takes in what is new, and tells what is to be decided about.
    fn catch_up(&mut self, spec: &Spec, inventory: &Inventory, plan: &Plan) -> Scope {
        let mut hosts = std::mem::take(&mut self.restless);
        hosts.extend(self.inventory.changes(inventory).map(|(host, ..)| host.clone()));
        hosts.extend(self.spec.hosts.changes(&spec.hosts).map(|(host, ..)| host.clone()));
        hosts.extend(self.spec.gpus.changes(&spec.gpus).map(|(gpu, ..)| gpu.host.clone()));
        hosts.extend(self.plan.hosts.changes(&plan.hosts).map(|(host, ..)| host.clone()));
        hosts.extend(self.plan.generations.changes(&plan.generations).map(|(host, ..)| host.clone()));
        hosts.extend(self.plan.gpus.changes(&plan.gpus).map(|(gpu, ..)| gpu.host.clone()));
        for (slot, was, is) in self.plan.bookings.changes(&plan.bookings) {
            hosts.insert(slot.gpu.host.clone());
            let holders = was.into_iter().chain(is).filter_map(|booking| plan.vms.get(&booking.vm));
            hosts.extend(holders.map(|planned| planned.host.clone()));
        }
        for (vm, was, is) in self.plan.vms.changes(&plan.vms) {
            hosts.extend(was.into_iter().chain(is).flat_map(VmPlan::hosts).cloned());
            if let Some(left) = was {
                self.residents.entry(left.host.clone()).or_default().remove(vm);
            }
            if let Some(home) = is {
                self.residents.entry(home.host.clone()).or_default().insert(vm.clone());
                self.homeless.remove(vm);
            } else if spec.vms.contains_key(vm) {
                self.homeless.insert(vm.clone());
            }
        }
        self.take_wishes(spec, inventory, plan, &mut hosts);
        self.alike = self.alike && self.is_alike(spec, inventory);
        (self.spec, self.inventory, self.plan) = (spec.clone(), inventory.clone(), plan.clone());
        let of_host = |host: &HostName| {
            let vms = self.residents.get(host).filter(|vms| !vms.is_empty())?;
            Some((host.clone(), vms.iter().cloned().collect()))
        };
        let residents = hosts.iter().filter_map(of_host).collect();
        Scope { residents, homeless: self.homeless.iter().cloned().collect(), hosts }
    }

    /// Takes in what people newly asked for of VMs.
    fn take_wishes(
        &mut self,
        spec: &Spec,
        inventory: &Inventory,
        plan: &Plan,
        hosts: &mut BTreeSet<HostName>,
    ) {
        let mut others: Vec<&VmName> = Vec::new();
        for (vm, was, is) in self.spec.vms.changes(&spec.vms) {
            match plan.vms.get(vm) {
                Some(planned) => drop(hosts.insert(planned.host.clone())),
                None if is.is_some() => drop(self.homeless.insert(vm.clone())),
                None => drop(self.homeless.remove(vm)),
            }
            if was.map(|was| was.id) != is.map(|is| is.id) {
                others.push(vm);
            }
        }
        if others.is_empty() {
            return;
        }
        // A domain of such a name that was a stranger's is a VM's now, or the other way round.
        let knows = |seen: &HostInventory| others.iter().any(|vm| seen.domain(vm).is_some());
        let left_out = inventory.iter().filter(|(host, _)| !hosts.contains(*host));
        let know: Vec<_> = left_out.filter(|(_, seen)| knows(seen)).map(|(host, _)| host.clone()).collect();
        hosts.extend(know);
    }

    /// Notes who is at rest after a pass over `scope`, and completes what it said with what was said of everybody else.
    pub(super) fn keep(&mut self, scope: &Scope, planner: &Planner<'_>, ground: Ground) -> Vec<Finding> {
        let mut said_of: BTreeMap<&HostName, Vec<&Finding>> = BTreeMap::new();
        let mut vms = BTreeSet::new();
        for finding in &planner.findings {
            match (&finding.subject, finding.subject.gpu()) {
                (_, Some(GpuKey { host, .. })) | (Subject::Host(host), _) => {
                    said_of.entry(host).or_default().push(finding);
                }
                (Subject::Vm(vm), _) => drop(vms.insert(vm)),
                _ => {}
            }
        }
        self.restless.extend(ground.altered().cloned());
        let journeys = scope.vms().filter_map(|vm| planner.plan.vms.get(vm)?.journey.as_ref());
        self.restless.extend(journeys.map(|journey| journey.other.clone()));
        for host in &scope.hosts {
            let is_said_of = |vm: &VmName| vms.contains(vm);
            let may_rest = planner.may_rest(host, &self.plan, is_said_of) && !self.restless.contains(host);
            if may_rest {
                let said = said_of.remove(host).unwrap_or_default();
                self.said.insert(host.clone(), said.into_iter().cloned().collect());
            } else {
                self.said.remove(host);
                self.restless.insert(host.clone());
            }
        }
        self.ground = Some(ground);
        let others = self.said.iter().filter(|(host, _)| !scope.hosts.contains(*host));
        others.flat_map(|(_, said)| said).cloned().collect()
    }

    /// What there is to say of GPUs that are not alike.
    pub(super) fn unlike(&mut self, plan: &Plan) -> Vec<Finding> {
        if self.alike {
            return Vec::new();
        }
        let found = homogeneity::findings(&self.spec, &self.inventory, plan);
        self.alike = found.is_empty();
        found
    }

    /// Whether nothing has changed by which GPUs are compared.
    fn is_alike(&self, spec: &Spec, inventory: &Inventory) -> bool {
        let reports = || {
            self.inventory.changes(inventory).all(|(_, was, is)| match (was, is) {
                (Some(was), Some(is)) => homogeneity::has_same_gpus(was, is),
                _ => false,
            })
        };
        self.spec.gpus == spec.gpus && self.spec.hosts == spec.hosts && reports()
    }
}
