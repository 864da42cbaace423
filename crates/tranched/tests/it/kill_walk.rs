//! The daemon is killed before and after every single thing that it does, and started again.
//!
//! A story is told to a real engine over a real store, the real sysfs code, a fake kernel and a fake hypervisor. Each
//! commit to the store and each step on the host is a place to die: just before it takes effect, or just after, before
//! anybody hears of it. The walk tells the story once for each such place. After a death a new engine takes over what
//! store and machine then hold, the story goes on where its teller was not answered, and all must end as if nothing had
//! happened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tranche_core::change::{AdoptedVm, Change};
use tranche_core::check;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{HostInventory, ObservedPartition};
use tranche_core::name::{GpuAddress, GpuKey, HostName, PciAddress, Timestamp, VmName};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;
use tranche_host::Host;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::vm::fake::FakeHypervisor;
use tranche_store::{MemoryStore, Outcome, Repository, Store, StoreError, Txn};
use tranched::engine::{Engine, Rejected};

use crate::fake_machine::{FakeMachine, new_vm};
use crate::stores::{Fault, Faulty};

/// When to die: at which of all commits and steps, and whether before or after it takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Death {
    at: usize,
    after: bool,
}

/// Counts down to a death. Once dead, nothing gets through.
#[derive(Debug)]
struct Fate {
    death: Option<Death>,
    done: AtomicUsize,
}

impl Fate {
    fn new(death: Option<Death>) -> Arc<Self> {
        Arc::new(Self { death, done: AtomicUsize::new(0) })
    }

    /// Does a thing unless death comes before it; tells whether anybody is left to hear what came of it.
    fn survive<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let index = self.done.fetch_add(1, Ordering::SeqCst);
        match self.death {
            Some(death) if index > death.at || (index == death.at && !death.after) => None,
            Some(death) if index == death.at => {
                act();
                None
            }
            _ => Some(act()),
        }
    }

    fn is_dead(&self) -> bool {
        self.death.is_some_and(|death| self.done.load(Ordering::SeqCst) > death.at)
    }
}

impl Fault for Fate {
    fn on_range(&self) -> Result<(), StoreError> {
        if self.is_dead() { Err(dead()) } else { Ok(()) }
    }

    fn on_commit(&self, commit: &dyn Fn() -> Result<Outcome, StoreError>) -> Result<Outcome, StoreError> {
        self.survive(commit).unwrap_or_else(|| Err(dead()))
    }
}

fn dead() -> StoreError {
    StoreError::Unavailable { place: "a dead daemon's store".to_owned(), source: "killed".into() }
}

#[derive(Debug)]
struct MortalHost {
    host: Arc<dyn Host>,
    fate: Arc<Fate>,
}

impl Host for MortalHost {
    fn observe(&self, now: Timestamp) -> HostInventory {
        self.host.observe(now)
    }

    fn observe_again(
        &self,
        gpus: &BTreeSet<GpuAddress>,
        last: &HostInventory,
        now: Timestamp,
    ) -> HostInventory {
        // Between any two steps of any story: what the shorter look leaves out has not changed.
        let (again, everything) = (self.host.observe_again(gpus, last, now), self.host.observe(now));
        assert_eq!(again, everything);
        everything
    }

    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>> {
        self.fate.survive(|| self.host.apply(step, now)).unwrap_or_else(|| {
            Err(Box::new(finding(
                Code::KernelRefused,
                Severity::Error,
                Subject::Installation,
                "killed",
                "start again",
            )))
        })
    }
}

/// A store and a machine that outlive the daemons on them.
struct Stage {
    store: Arc<dyn Store>,
    machine: FakeMachine,
    now: Timestamp,
}

impl Stage {
    fn new(machine: Machine) -> Self {
        let machine = FakeMachine::new(name(), machine);
        Self { store: Arc::new(MemoryStore::default()), machine, now: Timestamp(0) }
    }

    fn start_daemon(&self, fate: &Arc<Fate>) -> Engine {
        let store = Arc::new(Faulty { store: self.store.clone(), fault: fate.clone() });
        let host = Arc::new(MortalHost { host: self.machine.host(), fate: fate.clone() });
        Engine::open(name(), host, Repository::new(store), 1).expect("the store can be read")
    }

    fn kernel(&self) -> &FakeKernel {
        self.machine.kernel()
    }

    fn hypervisor(&self) -> &FakeHypervisor {
        self.machine.hypervisor()
    }

    /// Passes until nothing is left to do, or the daemon is dead. A minute goes by between passes, so that nothing
    /// waits for its next try.
    fn settle(&mut self, engine: &Engine, fate: &Fate) {
        for _ in 0..60 {
            let before = engine.view().revision;
            self.now.0 += 60_000;
            let report = engine.pass(self.now);
            assert_sound(engine);
            if fate.is_dead() || (!report.is_busy() && engine.view().revision == before) {
                return;
            }
        }
        panic!("it does not settle: {:#?}", engine.view().findings);
    }
}

fn assert_sound(engine: &Engine) {
    let view = engine.view();
    assert_eq!(check::check(&view.plan), []);
    assert_eq!(check::check_world(&view.inventory, &view.plan), []);
}

fn name() -> HostName {
    "node1".parse().unwrap()
}

fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

fn gpu(index: u8) -> GpuKey {
    gpu_at(&format!("0000:{:02x}:00.0", 0x10 + index * 4))
}

fn gpu_at(address: &str) -> GpuKey {
    GpuKey { host: name(), address: address.parse::<GpuAddress>().unwrap() }
}

/// Two GPUs of four plain virtual functions each.
fn two_gpus() -> Machine {
    Machine::gpus(2, 4)
}

fn split(index: u8, count: u16) -> Scene {
    Scene::ask(Change::SetGpuMode { gpu: gpu(index), mode: GpuMode::Partitioned { count, series: None } })
}

fn create(name: &str, request: Request) -> Scene {
    Scene::ask(Change::CreateVm { name: vm(name), vm: new_vm(request) })
}

/// A part of a story.
#[derive(Debug, Clone)]
enum Scene {
    /// Somebody asks for a change, and asks again if the daemon dies before it answers.
    Ask(Box<Change>),
    /// The machine loses its power.
    PowerCut,
    /// The kernel makes no more virtual functions than so many.
    FewerVfs(PciAddress, u16),
    /// A guest crashes.
    Crash(&'static str),
    /// A person defines a domain with libvirt's own means.
    Define(&'static str),
}

impl Scene {
    fn ask(change: Change) -> Self {
        Self::Ask(Box::new(change))
    }
}

fn start(name: &str) -> Scene {
    Scene::ask(Change::StartVm { name: vm(name) })
}

fn stop(name: &str) -> Scene {
    Scene::ask(Change::StopVm { name: vm(name), force: false })
}

fn delete(name: &str) -> Scene {
    Scene::ask(Change::DeleteVm { name: vm(name), force: true })
}

/// Tells a story to daemons of which the first one may die. Returns how many places to die there were.
fn tell(story: &[Scene], death: Option<Death>, stage: &mut Stage) -> usize {
    let fate = Fate::new(death);
    let mut engine = stage.start_daemon(&fate);
    let mut fate_now = fate.clone();
    stage.settle(&engine, &fate_now);
    for scene in story {
        match scene {
            Scene::Ask(change) => {
                if ask(&engine, change, stage.now).is_err() && fate_now.is_dead() {
                    (engine, fate_now) = revive(stage);
                    ask_again(&engine, change, stage.now);
                }
            }
            Scene::PowerCut => {
                stage.hypervisor().lose_power();
                stage.kernel().reboot();
            }
            Scene::FewerVfs(pf, vfs_max) => stage.kernel().make_fewer_vfs(*pf, *vfs_max),
            Scene::Crash(name) => stage.hypervisor().crash(&vm(name)),
            Scene::Define(xml) => stage.hypervisor().define_by_hand(xml).expect("a good definition"),
        }
        stage.settle(&engine, &fate_now);
        if fate_now.is_dead() {
            (engine, fate_now) = revive(stage);
            stage.settle(&engine, &fate_now);
        }
    }
    fate.done.load(Ordering::SeqCst)
}

fn revive(stage: &mut Stage) -> (Engine, Arc<Fate>) {
    let fate = Fate::new(None);
    let engine = stage.start_daemon(&fate);
    stage.now.0 += 1_000;
    engine.pass(stage.now);
    (engine, fate)
}

fn ask(engine: &Engine, change: &Change, now: Timestamp) -> Result<(), Rejected> {
    engine.submit(change, false, now).map(|_| ())
}

/// The one who asked does not know whether it was heard. Asking again must do no harm; what was heard the first time
/// may be answered with "exists already" or "is gone".
fn ask_again(engine: &Engine, change: &Change, now: Timestamp) {
    if let Err(rejected) = ask(engine, change, now) {
        let codes: Vec<Code> = rejected.into_findings().into_iter().map(|finding| finding.code).collect();
        assert!(
            codes.iter().all(|code| matches!(code, Code::VmExists | Code::VmNotFound)),
            "{change:?} was asked again: {codes:?}"
        );
    }
}

/// What of store and machine must be the same however the story was interrupted.
fn ending(stage: &mut Stage) -> String {
    let (engine, fate) = revive(stage);
    stage.settle(&engine, &fate);
    let view = engine.view();
    let seen = &view.inventory[&name()];
    let mut lines = Vec::new();
    for (slot, booking) in &view.plan.bookings {
        lines.push(format!("booked {slot} {}", booking.vm));
    }
    for (address, gpu) in &seen.gpus {
        let partition = |p: &ObservedPartition| format!("{:?}/{:?}", p.driver, p.profile);
        let partitions = gpu.partitions.iter().map(partition);
        lines.push(format!("gpu {address} {:?} {}", gpu.driver, partitions.collect::<Vec<_>>().join(" ")));
    }
    for domain in seen.domains().into_iter().flat_map(|domains| domains.values()) {
        let (state, live) = (domain.state.is_active(), domain.live_devices.len());
        lines.push(format!("domain {} {state} {live} {}", domain.name, domain.defined_devices.len()));
    }
    for (name, spec) in &view.spec.vms {
        lines.push(format!("wish {name} {:?}", spec.run));
    }
    lines.push(format!("open {}", stage.kernel().opened().len()));
    lines.join("\n")
}

/// Tells a story undisturbed, then once for each place to die.
#[track_caller]
fn walk(machine: &Machine, story: &[Scene], places_min: usize) {
    let mut stage = Stage::new(machine.clone());
    let places = tell(story, None, &mut stage);
    let expected = ending(&mut stage);
    assert!(places >= places_min, "only {places} places to die: is the story told at all?");
    for at in 0..places {
        for after in [false, true] {
            let mut stage = Stage::new(machine.clone());
            tell(story, Some(Death { at, after }), &mut stage);
            assert_eq!(ending(&mut stage), expected, "killed at {at} of {places}, after its effect: {after}");
        }
    }
}

const ANY: Request = Request::ANY_PARTITION;

#[test]
fn vms_that_start_crash_stop_and_wait_end_the_same_wherever_the_daemon_is_killed() {
    let story = [
        split(0, 2),
        create("a", ANY),
        create("b", ANY),
        start("a"),
        start("b"),
        Scene::Crash("a"),
        stop("b"),
        Scene::ask(Change::RestartVm { name: vm("a"), force: false }),
    ];
    walk(&two_gpus(), &story, 20);
}

#[test]
fn detaching_deleting_and_a_power_cut_end_the_same_wherever_the_daemon_is_killed() {
    let story = [
        split(0, 2),
        create("a", ANY),
        create("b", ANY),
        start("a"),
        Scene::ask(Change::DetachGpu { name: vm("b"), restart: false }),
        delete("b"),
        Scene::PowerCut,
    ];
    walk(&two_gpus(), &story, 15);
}

#[test]
fn changing_a_gpu_from_partitions_to_passthrough_and_back_survives_every_death() {
    let mode = |mode| Scene::ask(Change::SetGpuMode { gpu: gpu(1), mode });
    walk(
        &two_gpus(),
        &[
            split(1, 2),
            split(1, 4),
            mode(GpuMode::Host),
            mode(GpuMode::Passthrough { allow_console: false, pool: None }),
            create("whole", Request::Whole { gpus: 1, pool: None }),
            start("whole"),
            stop("whole"),
            split(1, 2),
            mode(GpuMode::Passthrough { allow_console: false, pool: None }),
            mode(GpuMode::Host),
            split(1, 1),
            Scene::ask(Change::AttachGpu {
                name: vm("whole"),
                request: Request::Whole { gpus: 1, pool: None },
                restart: false,
            }),
        ],
        15,
    );
}

#[test]
fn a_change_of_mode_that_is_rolled_back_ends_the_same_wherever_the_daemon_is_killed() {
    let pf = gpu(0).address.pci().unwrap();
    let story = [split(0, 2), Scene::FewerVfs(pf, 2), split(0, 4), create("a", ANY), start("a"), stop("a")];
    walk(&two_gpus(), &story, 15);
}

#[test]
fn drained_vms_end_where_there_is_room_or_wait_wherever_the_daemon_is_killed() {
    let drain = |index, mode| Scene::ask(Change::DrainGpu { gpu: gpu(index), mode });
    let passthrough = GpuMode::Passthrough { allow_console: false, pool: None };
    let story = [
        split(0, 2),
        create("a", ANY),
        create("b", ANY),
        start("a"),
        start("b"),
        split(1, 1),
        drain(0, passthrough),
    ];
    walk(&two_gpus(), &story, 20);
}

#[test]
fn what_is_done_to_an_adopted_vm_ends_the_same_wherever_the_daemon_is_killed() {
    let desk = "<domain type='kvm'><name>desk</name><uuid>6f1c1c52-0c0e-4f4e-9e63-0d9b6a4f7f01</uuid>\
                <memory unit='MiB'>256</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>";
    let ask = Scene::ask;
    let story = [
        split(0, 2),
        Scene::Define(desk),
        ask(Change::AdoptVm { name: vm("desk"), vm: AdoptedVm { reserved: true, ..AdoptedVm::default() } }),
        start("desk"),
        ask(Change::AttachGpu { name: vm("desk"), request: ANY, restart: true }),
        ask(Change::RestartVm { name: vm("desk"), force: true }),
        ask(Change::DetachGpu { name: vm("desk"), restart: true }),
        stop("desk"),
    ];
    walk(&two_gpus(), &story, 20);
}

/// Splits a GPU, loses power under a VM, and releases it.
fn life_of(address: &str, count: u16) -> [Scene; 6] {
    let mode = |mode| Scene::ask(Change::SetGpuMode { gpu: gpu_at(address), mode });
    [
        mode(GpuMode::Partitioned { count, series: None }),
        create("a", ANY),
        start("a"),
        Scene::PowerCut,
        delete("a"),
        mode(GpuMode::Host),
    ]
}

#[test]
fn functions_that_take_types_survive_every_death() {
    walk(&Machine::nvidia(&["NVIDIA A2"]), &life_of("0000:41:00.0", 2), 12);
}

#[test]
fn mediated_devices_on_functions_survive_every_death() {
    walk(&Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus(), &life_of("0000:41:00.0", 2), 12);
}

#[test]
fn typed_functions_of_several_sizes_and_passthrough_take_turns_wherever_the_daemon_is_killed() {
    let mode = |mode| Scene::ask(Change::SetGpuMode { gpu: gpu_at("0000:41:00.0"), mode });
    let story = [
        mode(GpuMode::Mixed { sizes: ["8Q", "4Q"].map(str::to_owned).to_vec() }),
        mode(GpuMode::Passthrough { allow_console: false, pool: None }),
        mode(GpuMode::Partitioned { count: 2, series: None }),
    ];
    walk(&Machine::nvidia(&["NVIDIA A2"]), &story, 10);
}

#[test]
fn functions_with_quotas_and_functions_that_stay_survive_every_death() {
    walk(&Machine::arc(), &life_of("0000:03:00.0", 2), 12);
    walk(&Machine::instinct(2), &life_of("0000:05:00.0", 2), 10);
}

fn reload(count: u16) -> Scene {
    let mode = GpuMode::Partitioned { count, series: None };
    Scene::ask(Change::ReloadDriver { gpu: gpu_at("0000:05:00.0"), mode })
}

fn split_instinct(count: u16) -> Scene {
    let mode = GpuMode::Partitioned { count, series: None };
    Scene::ask(Change::SetGpuMode { gpu: gpu_at("0000:05:00.0"), mode })
}

#[test]
fn a_driver_that_is_loaded_anew_ends_the_same_wherever_the_daemon_is_killed() {
    let story = [
        split_instinct(2),
        create("a", ANY),
        create("b", ANY),
        start("a"),
        start("b"),
        reload(8),
        Scene::PowerCut,
        reload(1),
    ];
    walk(&Machine::instinct(2), &story, 25);
}

#[test]
fn a_driver_that_does_not_load_is_rolled_back_wherever_the_daemon_is_killed() {
    // The driver makes no more than 2 of 8: three tries, and one more load to go back.
    let pf = gpu_at("0000:05:00.0").address.pci().unwrap();
    let story =
        [split_instinct(2), create("a", ANY), start("a"), Scene::FewerVfs(pf, 2), reload(8), stop("a")];
    walk(&Machine::instinct(2), &story, 15);
}

#[test]
fn the_walk_notices_when_bookings_are_lost() {
    // The planted bug: a store that forgets who holds what while VMs run.
    let story = [split(0, 2), create("a", ANY), start("a")];
    let mut stage = Stage::new(two_gpus());
    tell(&story, None, &mut stage);
    let sound = ending(&mut stage);
    let bookings = stage.store.range(&"plan/booking/".parse().unwrap()).unwrap();
    let forgetting = bookings.entries.iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key.clone()));
    assert!(matches!(stage.store.commit(&forgetting), Ok(Outcome::Committed(_))));
    assert_ne!(ending(&mut stage), sound);
}
