//! A cluster that is led: hosts that carry out at once what was decided, and show it.

use tranche_core::change::{self, Admitted, Change, Refusal, State};
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Domain, DomainState, HostDevice, HostInventory, Hypervisor, OffReason};
use tranche_core::name::{HostName, Slot, SlotKey, Timestamp, VmId, VmName};
use tranche_core::operation::Goal;
use tranche_core::plan::{Booking, DownBy, Plan, VmGoal, VmPlan};
use tranche_core::planner::{Memory, Planned};
use uuid::Uuid;

use crate::fleet::{Fleet, model_domain, node};
use crate::world::{hardware, vm};

/// What a leader does again and again, over hosts that carry out at once what was decided.
pub(crate) struct Cluster {
    pub(crate) fleet: Fleet,
    memory: Memory,
    pub(crate) now: u64,
    pub(crate) findings: Vec<Finding>,
}

impl Cluster {
    pub(crate) fn new(fleet: Fleet) -> Self {
        Self { fleet, memory: Memory::default(), now: 1, findings: Vec::new() }
    }

    /// Decides some times; each host shows after each what it was told.
    pub(crate) fn pass(&mut self) {
        for _ in 0..5 {
            self.now += 1;
            let Fleet { spec, inventory, plan } = &mut self.fleet;
            let Planned { plan: next, findings, .. } =
                self.memory.plan(spec, inventory, plan, Timestamp(self.now));
            (*plan, self.findings) = (next, findings);
            inventory.change_each(|host, seen| {
                if seen.pulse.is_none_or(|pulse| pulse.silent_ms > 0) {
                    return;
                }
                seen.progress.generation = plan.generations.get(host).copied().unwrap_or_default();
                seen.progress.epoch = plan.hosts[host].epoch;
                let here = plan.vms.iter().filter(|(_, planned)| planned.host == *host);
                let show = |(name, planned): (&VmName, &VmPlan)| {
                    let shown = shown(seen.domain(name), devices(name, plan, seen), planned.goal);
                    (name.to_string(), Domain { name: name.to_string(), uuid: planned.id.0, ..shown })
                };
                let shown = here.map(show).collect();
                let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
                *domains = shown;
            });
        }
    }

    /// A host's power is off, or on again.
    pub(crate) fn power(&mut self, number: usize, on: bool) {
        let seen = self.fleet.inventory.get_mut(&node(number)).unwrap();
        let pulse = seen.pulse.as_mut().unwrap();
        (pulse.silent_ms, pulse.off) = if on { (0, None) } else { (60_000, Some(DownBy::Agent)) };
        if on {
            seen.boot_id = format!("boot-{}", self.now);
            let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
            domains.values_mut().for_each(|domain| {
                domain.state = DomainState::Off { reason: OffReason::Unknown };
            });
        }
        self.pass();
    }

    /// A host that was taken for down lives after all: it hears that it was given up, and has ended what it ran.
    pub(crate) fn wakes(&mut self, number: usize) {
        let Fleet { inventory, plan, .. } = &mut self.fleet;
        let seen = inventory.get_mut(&node(number)).unwrap();
        let pulse = seen.pulse.as_mut().unwrap();
        (pulse.silent_ms, pulse.off) = (0, None);
        seen.progress.epoch = plan.hosts[&node(number)].epoch;
        seen.progress.generation = plan.generations[&node(number)];
        let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
        domains.values_mut().for_each(|domain| {
            domain.state = DomainState::Off { reason: OffReason::Destroyed };
        });
        self.pass();
    }

    pub(crate) fn at(&self, name: &str) -> Option<HostName> {
        let planned = self.fleet.plan.vms.get(&vm(name))?;
        (planned.goal == VmGoal::Run).then(|| planned.host.clone())
    }

    pub(crate) fn said_of(&self, name: &str) -> Vec<(Code, &str)> {
        let of_it = self.findings.iter().filter(|finding| finding.message.contains(&format!("VM {name} ")));
        of_it.map(|finding| (finding.code, finding.message.as_str())).collect()
    }

    pub(crate) fn state(&self) -> State<'_> {
        State { spec: &self.fleet.spec, plan: &self.fleet.plan, inventory: &self.fleet.inventory }
    }

    /// Somebody wants something; nothing is decided yet.
    pub(crate) fn wants(&mut self, change: &Change) -> Result<Goal, Refusal> {
        let admitted = change::admit(change, self.state(), VmId(Uuid::nil()), Timestamp(self.now))?;
        let Admitted { spec, goal, .. } = admitted;
        self.fleet.spec = spec;
        Ok(goal)
    }
}

/// What a VM holds on a host.
fn devices(name: &VmName, plan: &Plan, seen: &HostInventory) -> Vec<HostDevice> {
    let held = plan.held_by(name).filter(|(slot, _)| slot.gpu.host == seen.host);
    let device = |(slot, _): (&SlotKey, &Booking)| {
        let Slot::Partition(index) = slot.slot else { return None };
        let mut partitions = seen.gpus[&slot.gpu.address].partitions.iter();
        let partition = partitions.find(|partition| partition.index == Some(index))?;
        Some(HostDevice { source: (&partition.device).into(), ours: true })
    };
    held.filter_map(device).collect()
}

/// A domain after its host has done what it was told. One that was ended keeps its devices until the host looks again.
fn shown(before: Option<&Domain>, devices: Vec<HostDevice>, goal: VmGoal) -> Domain {
    let domain = model_domain(&vm("any"), VmId(Uuid::nil()), &hardware());
    if matches!(goal, VmGoal::Run | VmGoal::Leave) {
        let (live_devices, defined_devices) = (devices.clone(), devices);
        return Domain { state: DomainState::Running, live_devices, defined_devices, ..domain };
    }
    let ended = before.filter(|before| before.state.is_active());
    let defined_devices = ended.map(|before| before.defined_devices.clone()).unwrap_or_default();
    Domain { state: DomainState::Off { reason: OffReason::Shutdown }, defined_devices, ..domain }
}
