//! Hosts that send VMs to each other: what each really is, what it knows of the plan, and what the leader knows of it.
//!
//! Nothing happens by itself. A transfer gets on when a test says so, and a host hears, reports and acts only when it is told
//! to. Where a step would let a VM run on two hosts, or with what is not booked for it, the model complains.

mod befalls;

use std::collections::BTreeMap;

use tranche_core::change::{self, Admitted, Change, State};
use tranche_core::check;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::*;
use tranche_core::journey::Stage;
use tranche_core::name::{HostName, Timestamp, VmId, VmName};
use tranche_core::plan::{Plan, VmPlan};
use tranche_core::planner::{self, Memory, Planned};
use tranche_core::spec::{Duty, Request, Spec, VmSpec};
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_core::steps::steps;
use uuid::Uuid;

use crate::fleet::{Fleet, model_domain, node};
use crate::world::{World, gpu, vm};

/// A host as it is, which is not always what the leader knows of it.
#[derive(Debug, Clone)]
pub(super) struct Real {
    pub(super) seen: HostInventory,
    /// What it knows of what was decided, since its daemon was started.
    known: Option<(Spec, Plan)>,
    /// Whether it has power.
    pub(super) on: bool,
    /// Whether the leader and it hear each other.
    pub(super) is_heard: bool,
    boots: u32,
}

impl Real {
    pub(super) fn domains(&mut self) -> &mut BTreeMap<String, Domain> {
        let Hypervisor::Up { domains, .. } = &mut self.seen.hypervisor else { panic!("it is up") };
        domains
    }
}

/// A VM that is being sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Transfer {
    vm: VmName,
    from: HostName,
    to: HostName,
    number: u64,
}

/// Whether what stands still where it was sent is the VM, or what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Its old host is done with it.
    Current,
    /// Its old host did not get to know, and goes on with it: this is older than the disks.
    Stale,
    /// Its old host died meanwhile, and took with it that it had gone on.
    Unclear,
}

/// A cluster whose VMs travel.
#[derive(Debug, Clone)]
pub(super) struct Road {
    pub(super) fleet: Fleet,
    pub(super) real: BTreeMap<HostName, Real>,
    pub(super) findings: Vec<Finding>,
    pub(super) now: u64,
    /// The steps that were carried out, the newest last.
    pub(super) done: Vec<Step>,
    memory: Memory,
    transfers: Vec<Transfer>,
    /// What is whole where it was sent, and stands still there.
    whole: Vec<Whole>,
}

/// All of a VM, where it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole {
    transfer: Transfer,
    age: Age,
    /// The daemon that sent it is still about to let it go on.
    is_let_go_on: bool,
}

fn proven() -> MigrationFacts {
    let of = || Evidence::new(Certainty::Proven, "a test");
    MigrationFacts { stop_copy: of(), device_dirty_log: of(), ..MigrationFacts::default() }
}

/// A GPU whose partitions are made and bound, and can move.
fn ready_gpu(partitions: u16) -> Gpu {
    let mut world = World::with_gpus(1);
    world.enable_vfs(&gpu(1).address, partitions);
    let seen = world.gpu(1);
    seen.migration = Some(proven());
    seen.sriov.as_mut().unwrap().autoprobe = false;
    for partition in &mut seen.partitions {
        partition.driver = Some(VFIO_DRIVER.to_owned());
        partition.migration = Some(proven());
    }
    seen.clone()
}

/// Whether a guest goes on.
pub(super) fn is_going(state: DomainState) -> bool {
    matches!(state, DomainState::Running | DomainState::ShuttingDown)
}

impl Road {
    /// So many hosts with one GPU of four partitions each, and these VMs, all of which run on `node1`.
    pub(super) fn new(hosts: usize, vms: &[(&str, Request)]) -> Self {
        let vms: Vec<_> = vms.iter().map(|(name, request)| (*name, request.clone(), 1)).collect();
        Self::with(hosts, &vms)
    }

    /// The same, with VMs that run where it is said.
    pub(super) fn with(hosts: usize, vms: &[(&str, Request, usize)]) -> Self {
        let mut fleet = Fleet::new(hosts, 1, 4);
        for (name, request, _) in vms {
            fleet.add(name, request.clone());
        }
        let seen_of = |(host, seen): (&HostName, &HostInventory)| {
            let mut seen = seen.clone();
            seen.gpus = [(gpu(1).address, ready_gpu(4))].into();
            seen.progress.travels = true;
            (host.clone(), Real { seen, known: None, on: true, is_heard: true, boots: 0 })
        };
        let real = fleet.inventory.iter().map(|(host, seen)| seen_of((host, seen))).collect();
        let mut road = Self {
            fleet,
            real,
            findings: Vec::new(),
            now: 1_000,
            done: Vec::new(),
            memory: Memory::default(),
            transfers: Vec::new(),
            whole: Vec::new(),
        };
        for (name, _, number) in vms {
            assert!(road.fleet.run_on(name, &node(*number)), "there is room for {name}");
        }
        road.turns(5);
        for (name, _, number) in vms {
            assert_eq!(road.runs_on(name), [node(*number)]);
            assert_eq!(road.plan_of(name).settled.as_ref().map(|settled| settled.running), Some(true));
        }
        road.done.clear();
        road
    }

    // What is asked for.

    /// Somebody wants something, and gets it.
    #[track_caller]
    pub(super) fn wants(&mut self, change: &Change) {
        assert!(self.may_want(change), "{change:?} is refused");
    }

    /// Somebody wants something. Returns whether it is admitted.
    pub(super) fn may_want(&mut self, change: &Change) -> bool {
        let Fleet { spec, plan, inventory } = &self.fleet;
        let state = State { spec, plan, inventory };
        let admitted = change::admit(change, state, VmId(Uuid::nil()), Timestamp(self.now));
        let Ok(Admitted { spec, .. }) = admitted else { return false };
        self.fleet.spec = spec;
        true
    }

    #[track_caller]
    pub(super) fn migrate(&mut self, name: &str, to: Option<usize>) {
        self.wants(&Change::MigrateVm { name: vm(name), to: to.map(node) });
    }

    pub(super) fn set_duty(&mut self, number: usize, duty: Duty) {
        self.fleet.spec.hosts.get_mut(&node(number)).unwrap().duty = duty;
    }

    pub(super) fn wish(&mut self, name: &str) -> &mut VmSpec {
        self.fleet.spec.vms.get_mut(&vm(name)).unwrap()
    }

    // What is decided.

    /// Decides once, by what the leader knows.
    pub(super) fn decide(&mut self) {
        self.now += 1;
        let Fleet { spec, inventory, plan } = &self.fleet;
        let planned = self.memory.plan(spec, inventory, plan, Timestamp(self.now));
        let anew = planner::plan(spec, inventory, plan, Timestamp(self.now));
        assert_eq!(planned, anew, "what is remembered gave another plan");
        let Planned { plan: next, findings, gone } = planned;
        assert_eq!(check::check(&next), [], "the plan violates an invariant");
        assert_eq!(check::check_transition(plan, &next), []);
        (self.fleet.plan, self.findings) = (next, findings);
        for name in gone {
            self.fleet.spec.vms.remove(&name);
        }
    }

    #[track_caller]
    pub(super) fn plan_of(&self, name: &str) -> &VmPlan {
        &self.fleet.plan.vms[&vm(name)]
    }

    pub(super) fn stage_of(&self, name: &str) -> Option<Stage> {
        self.fleet.plan.vms.get(&vm(name))?.journey.as_ref().map(|journey| journey.stage.clone())
    }

    /// How far a VM's journey is, in a word; nothing if it has none.
    pub(super) fn stage(&self, name: &str) -> &'static str {
        match self.stage_of(name) {
            None => "",
            Some(Stage::Prepares) => "prepares",
            Some(Stage::Goes { .. }) => "goes",
            Some(Stage::Lands) => "lands",
            Some(Stage::CalledOff { .. }) => "called off",
            Some(Stage::Clears) => "clears",
        }
    }

    /// On how many hosts a VM has something booked, in order.
    pub(super) fn booked_on(&self, name: &str) -> Vec<HostName> {
        self.fleet.plan.held_by(&vm(name)).map(|(slot, _)| slot.gpu.host.clone()).collect()
    }

    pub(super) fn is_said(&self, code: Code) -> bool {
        self.findings.iter().any(|finding| finding.code == code)
    }

    // What hosts do.

    pub(super) fn real(&mut self, number: usize) -> &mut Real {
        self.real.get_mut(&node(number)).unwrap()
    }

    pub(super) fn hears(&mut self, number: usize) {
        self.host_hears(&node(number));
    }

    pub(super) fn reports(&mut self, number: usize) {
        self.host_reports(&node(number));
    }

    pub(super) fn acts(&mut self, number: usize) {
        self.host_acts(&node(number), usize::MAX);
    }

    /// A host reads what was decided.
    pub(super) fn host_hears(&mut self, host: &HostName) {
        let Fleet { spec, plan, .. } = &self.fleet;
        let real = self.real.get_mut(host).unwrap();
        if !(real.on && real.is_heard) {
            return;
        }
        real.known = Some((spec.clone(), plan.clone()));
        real.seen.progress.generation = plan.generations.get(host).copied().unwrap_or_default();
        real.seen.progress.epoch = plan.hosts.get(host).map_or(0, |planned| planned.epoch);
    }

    /// A host looks, and the leader gets to know what it saw.
    pub(super) fn host_reports(&mut self, host: &HostName) {
        let real = &self.real[host];
        if !(real.on && real.is_heard && real.known.is_some()) {
            return;
        }
        let pulse = Pulse { armed: true, epoch: real.seen.progress.epoch, ..Pulse::default() };
        let observed_at = Timestamp(self.now);
        let seen = HostInventory { observed_at, pulse: Some(pulse), ..real.seen.clone() };
        self.fleet.inventory.insert(host.clone(), seen.into());
    }

    /// The steps that are due on a host by what it knows. One that was given up does nothing before it is taken up again.
    pub(super) fn due(&self, number: usize) -> Vec<Step> {
        self.host_due(&node(number))
    }

    pub(super) fn host_due(&self, host: &HostName) -> Vec<Step> {
        let real = &self.real[host];
        let Some((spec, plan)) = real.known.as_ref().filter(|_| real.on) else { return Vec::new() };
        if plan.hosts.get(host).is_some_and(|planned| planned.standing.is_given_up()) {
            return Vec::new();
        }
        steps(spec, plan, &real.seen)
    }

    /// A host carries out the first steps that are due.
    pub(super) fn host_acts(&mut self, host: &HostName, at_most: usize) {
        for step in self.host_due(host).into_iter().take(at_most) {
            self.carry_out(host, &step);
            self.done.push(step);
        }
    }

    /// Decides; then every host that is heard hears it, reports and acts.
    pub(super) fn turn(&mut self) {
        self.decide();
        let hosts: Vec<HostName> = self.real.keys().cloned().collect();
        for host in hosts {
            self.host_hears(&host);
            self.host_reports(&host);
            self.host_acts(&host, usize::MAX);
        }
    }

    /// Decides; then every host that is heard hears it and reports, and does nothing.
    pub(super) fn looks(&mut self) {
        self.decide();
        let hosts: Vec<HostName> = self.real.keys().cloned().collect();
        for host in hosts {
            self.host_hears(&host);
            self.host_reports(&host);
        }
    }

    pub(super) fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    pub(super) fn domain(&self, number: usize, name: &str) -> Option<DomainState> {
        let domains = self.real[&node(number)].seen.domains()?;
        domains.get(name).map(|domain| domain.state)
    }

    #[track_caller]
    pub(super) fn set_domain(&mut self, number: usize, name: &str, state: DomainState) {
        self.real(number).domains().get_mut(name).expect("it has it").state = state;
    }

    pub(super) fn puts_domain(&mut self, number: usize, domain: Domain) {
        self.real(number).domains().insert(domain.name.clone(), domain);
    }

    /// The hosts on which a VM goes on.
    pub(super) fn runs_on(&self, name: &str) -> Vec<HostName> {
        let runs = |real: &&Real| {
            let domain = real.seen.domains().and_then(|domains| domains.get(name));
            real.on && domain.is_some_and(|domain| is_going(domain.state))
        };
        self.real.values().filter(runs).map(|real| real.seen.host.clone()).collect()
    }

    /// The hosts that have anything of a VM, a definition at least.
    pub(super) fn known_on(&self, name: &str) -> Vec<HostName> {
        let knows = |real: &&Real| real.seen.domains().is_some_and(|domains| domains.contains_key(name));
        self.real.values().filter(knows).map(|real| real.seen.host.clone()).collect()
    }

    fn carry_out(&mut self, host: &HostName, step: &Step) {
        match step {
            Step::BindPartition { index, driver, .. } => {
                let gpus = self.real.get_mut(host).unwrap().seen.gpus.values_mut();
                let partitions = gpus.flat_map(|gpu| &mut gpu.partitions);
                for partition in partitions.filter(|partition| partition.index == Some(*index)) {
                    partition.driver = Some(driver.clone());
                }
            }
            Step::DefineVm { vm, id, hardware } => {
                let domain = model_domain(vm, *id, hardware);
                self.domains_of(host).insert(vm.to_string(), domain);
            }
            Step::PutDevices { vm, devices, .. } => {
                let put = devices.iter().map(|one| HostDevice { source: one.source.clone(), ours: true });
                let domain = self.domains_of(host).get_mut(vm.as_str()).expect("it is defined");
                domain.defined_devices = put.collect();
            }
            Step::StartVm { vm, .. } => self.goes_on(host, vm, true),
            Step::ResumeVm { vm, .. } => self.goes_on(host, vm, false),
            Step::ShutDownVm { vm, .. } => self.ends(host, vm, OffReason::Shutdown),
            Step::KillVm { vm, .. } => {
                self.assert_needless(host, vm);
                self.ends(host, vm, OffReason::Destroyed);
            }
            Step::ExpectVm { vm, .. } => {
                self.real.get_mut(host).unwrap().seen.progress.expects.insert(vm.clone());
            }
            Step::UndefineVm { vm, .. } if !self.domains_of(host).contains_key(vm.as_str()) => {
                let was_expected = self.real.get_mut(host).unwrap().seen.progress.expects.remove(vm);
                assert!(was_expected, "there is nothing of {vm} to be removed");
            }
            Step::UndefineVm { vm, .. } => {
                self.real.get_mut(host).unwrap().seen.progress.expects.remove(vm);
                let domain = self.domains_of(host).remove(vm.as_str()).expect("it is defined");
                assert!(!domain.state.is_active(), "a domain that is active is undefined");
            }
            Step::SendVm { vm, number, to, .. } => self.sends(host, vm, *number, to, step),
            Step::CallOffVm { vm, number, .. } => {
                let sent = &self.real[host].seen.progress.sent[vm];
                assert_eq!(sent.number, *number, "another journey is called off");
                self.transfer_fails(vm, "it was called off");
            }
            other => panic!("nothing of the kind is due here: {other:?}"),
        }
    }

    fn domains_of(&mut self, host: &HostName) -> &mut BTreeMap<String, Domain> {
        self.real.get_mut(host).unwrap().domains()
    }

    /// A VM is started or resumed. It may go on nowhere else, and with nothing but what is booked for it.
    fn goes_on(&mut self, host: &HostName, name: &VmName, starts: bool) {
        assert_eq!(self.runs_on(name.as_str()), [], "{name} would run on {host} as well");
        let is_stale =
            |one: &Whole| one.transfer.vm == *name && one.transfer.to == *host && one.age == Age::Stale;
        assert!(!self.whole.iter().any(is_stale), "{name} would go back in time on {host}");
        let domain = self.domains_of(host).get_mut(name.as_str()).expect("it is defined");
        if starts {
            assert!(!domain.state.is_active(), "{name} is started while it is {:?}", domain.state);
            domain.live_devices = domain.defined_devices.clone();
        } else {
            assert_eq!(domain.state, DomainState::Paused, "{name} is resumed");
        }
        domain.state = DomainState::Running;
        let devices = domain.live_devices.clone();
        self.whole.retain(|one| one.transfer.vm != *name || one.transfer.to != *host);
        self.assert_booked(host, name, &devices);
    }

    fn assert_booked(&self, host: &HostName, name: &VmName, devices: &[HostDevice]) {
        let gpus = &self.real[host].seen.gpus;
        let booked = self.fleet.plan.held_by(name).filter(|(slot, _)| slot.gpu.host == *host);
        let booked: Vec<DeviceSource> = booked
            .filter_map(|(slot, _)| tranche_core::placement::source_of(slot.slot, &gpus[&slot.gpu.address]))
            .collect();
        let has: Vec<DeviceSource> = devices.iter().map(|device| device.source.clone()).collect();
        assert_eq!(has, booked, "{name} goes on on {host} with what it holds there");
    }

    /// A domain ends, as by its guest, by a command or by an accident.
    pub(super) fn ends(&mut self, host: &HostName, name: &VmName, reason: OffReason) {
        let transfers =
            self.transfers.iter().any(|one| one.vm == *name && [&one.from, &one.to].contains(&host));
        if transfers {
            self.transfer_fails(name, "one of its ends is gone");
        }
        self.whole.retain(|one| one.transfer.vm != *name || one.transfer.to != *host);
        if let Some(domain) = self.domains_of(host).get_mut(name.as_str()) {
            domain.live_devices.clear();
            domain.state = DomainState::Off { reason };
        }
        self.domains_of(host).retain(|_, domain| domain.persistent || domain.state.is_active());
    }
}
