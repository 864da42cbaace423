//! What the loops of a fleet cost, and how soon a change reaches its host: `scripts/bench fleet`. Fake hosts (the real code
//! of the host over a fake kernel and a fake hypervisor) with the daemon's own threads, all in this process, against one
//! real etcd member. It prints figures and judges nothing.
//!
//! `fleet [HOSTS]`. Each host has two GPUs of 8 partitions and 4 VMs. Hosts share connections to etcd, some fifty to one:
//! a thousand of them, each with its thread, would measure this machine's scheduler.

#[path = "../tests/it/etcd.rs"]
mod etcd;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tranche_core::change::Change;
use tranche_core::finding::Finding;
use tranche_core::inventory::{DomainState, HostInventory};
use tranche_core::liveness::MemberSays;
use tranche_core::name::{GpuAddress, GpuKey, HostName, Timestamp, VmId, VmName};
use tranche_core::spec::{
    Availability, Duty, Firmware, GpuMode, GpuSpec, HostSpec, Request, Run, Spec, VmHardware, VmSource,
    VmSpec,
};
use tranche_core::step::Step;
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_store::{EtcdSettings, EtcdStore, Repository, Saved, State, Store, Terms};
use tranched::bell::Bell;
use tranched::engine::{Desk, Ids};
use tranched::looper::Looper;
use tranched::member::guard::Guard;
use tranched::member::{Agents, Member, Parts, Voices};
use tranched::metrics::Metrics;
use tranched::pulse::Pulse;
use uuid::Uuid;

use self::etcd::Members;

const HOSTS: usize = 1_000;
const HOSTS_PER_CONNECTION: usize = 50;
const PARTITIONS: u16 = 8;
const VMS_PER_HOST: usize = 4;
const TICK: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_secs(60);
const BUSY: Duration = Duration::from_secs(60);
const CHANGE_EVERY: Duration = Duration::from_millis(100);
const BOOT_EVERY: Duration = Duration::from_millis(50);
/// What this process may take until everything runs.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() {
    let hosts = std::env::args().nth(1).map_or(HOSTS, |count| count.parse().expect("a number of hosts"));
    let members = Members::start(1);
    let settings = EtcdSettings { endpoints: members.endpoints().to_vec(), tls: None, timeout_ms: 20_000 };
    let stores: Vec<Arc<dyn Store>> = (0..hosts.div_ceil(HOSTS_PER_CONNECTION))
        .map(|_| Arc::new(EtcdStore::connect(&settings).expect("it connects")) as Arc<dyn Store>)
        .collect();
    write_wishes(&stores[0], hosts);
    let desk = Desk::open(Repository::new(Arc::clone(&stores[0])), Ids::default()).expect("it can be read");
    let desk = Arc::new(desk);
    let reached = Reached::default();
    let began = Instant::now();
    let boot = |number: usize| {
        // Hosts boot on processors of their own; here all of them would do so on this machine's.
        thread::sleep(BOOT_EVERY);
        start(number, &stores[number / HOSTS_PER_CONNECTION], &desk, &reached)
    };
    let leader = (0..hosts).map(boot).reduce(|first, _| first).expect("there is a host");
    wait_until_all_run(&desk, hosts);
    println!("{hosts} hosts, {} VMs: all run after {} s", hosts * VMS_PER_HOST, began.elapsed().as_secs());
    // The last hosts have still to say that nothing is due any more.
    thread::sleep(Duration::from_secs(15));
    let idle = share_during(|| thread::sleep(QUIET));
    println!("nothing happens: {:.1} % of a processor", idle * 100.0);
    let mut took_ms = Vec::new();
    let busy = share_during(|| took_ms = change(&desk, &leader.wishes(), &reached, hosts));
    println!("{} changes, one each {CHANGE_EVERY:?}: {:.1} % of a processor", took_ms.len(), busy * 100.0);
    took_ms.sort_unstable();
    let at = |percent: usize| took_ms[(took_ms.len() - 1) * percent / 100];
    println!(
        "from a wish to the first step on its host: median {} ms, 99th percentile {} ms, longest {} ms",
        at(50),
        at(99),
        at(100)
    );
    // Its threads are not waited for, and etcd is.
    drop(members);
    std::process::exit(0);
}

fn host_name(number: usize) -> HostName {
    format!("node{number:04}").parse().expect("a name")
}

fn vm_name(number: usize) -> VmName {
    format!("vm-{number:05}").parse().expect("a name")
}

/// What people asked for: every GPU split, every VM on.
fn write_wishes(store: &Arc<dyn Store>, hosts: usize) {
    let mut spec = Spec::default();
    let model = fake(&host_name(0)).observe(Timestamp(1));
    for number in 0..hosts {
        let name = host_name(number);
        for (address, gpu) in &model.gpus {
            let mode = GpuMode::Partitioned { count: PARTITIONS, series: None };
            let key = GpuKey { host: name.clone(), address: address.clone() };
            spec.gpus.insert(key, GpuSpec { mode, identity: gpu.identity(), reloads: 0 });
        }
        let member = HostSpec {
            joined_at: Timestamp(0),
            labels: BTreeMap::new(),
            duty: Duty::Serving,
            fence: None,
            said_down: None,
            departure: None,
            reserved_memory_mib: 0,
        };
        spec.hosts.insert(name, member);
    }
    for number in 0..hosts * VMS_PER_HOST {
        spec.vms.insert(vm_name(number), vm(number));
    }
    let repository = Repository::new(Arc::clone(store));
    let loaded = repository.load().expect("etcd is read");
    let next = State { spec: spec.into(), ..State::default() };
    let saved = repository.commit(loaded, next, &Terms::default()).expect("etcd is written");
    assert!(matches!(saved, Saved::Committed(_)), "nobody else writes yet");
}

fn vm(number: usize) -> VmSpec {
    let hardware = VmHardware {
        vcpus: 1,
        memory_mib: 16,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    };
    VmSpec {
        id: VmId(Uuid::from_u128(number as u128 + 1)),
        source: VmSource::Made(hardware),
        request: Request::ANY_PARTITION,
        reserved: false,
        prefer_numa_node: None,
        availability: Availability::default(),
        run: Run::Running,
        serial: 1,
        created_at: Timestamp(number as u64),
    }
}

fn fake(name: &HostName) -> LinuxHost {
    let kernel = Arc::new(FakeKernel::boot(Machine::gpus(2, PARTITIONS)));
    let hypervisor = Box::new(FakeHypervisor::new(kernel.clone()));
    LinuxHost::new(name.clone(), kernel, Limits::default(), Arc::new(Catalogue::builtin()), hypervisor)
}

/// A daemon's loops. The first host leads: with one member of the store there is one who may.
fn start(number: usize, store: &Arc<dyn Store>, desk: &Arc<Desk>, reached: &Reached) -> Member {
    let name = host_name(number);
    let bell = Bell::default();
    let member = Member::new(Parts {
        name: name.clone(),
        host: Arc::new(Noting { host: fake(&name), reached: reached.clone() }),
        store: Arc::clone(store),
        desk: Arc::clone(desk),
        fencer: Arc::new(Agents::installed(Bell::default())),
        voices: Arc::new(Silent),
        may_lead: Arc::new(move || number == 0),
        wake_host: bell.clone(),
        workers: 4,
    });
    member.start(Guard::none()).expect("threads");
    let turned = member.clone();
    let looper = Looper {
        pass: Box::new(move |now| turned.pass(now)),
        bell,
        pulse: Pulse::new(Duration::from_secs(60)),
        metrics: Arc::new(Metrics::default()),
        tick: TICK,
    };
    looper.start().expect("a thread");
    member
}

fn wait_until_all_run(desk: &Desk, hosts: usize) {
    let began = Instant::now();
    loop {
        let view = desk.view();
        let running = view.inventory.values().flat_map(|seen| seen.domains().into_iter().flatten());
        let running = running.filter(|(_, domain)| domain.state == DomainState::Running).count();
        if running == hosts * VMS_PER_HOST {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "only {running} VMs run; {:?}", view.findings.first());
        eprintln!("{running} VMs run");
        thread::sleep(Duration::from_secs(5));
    }
}

/// Stops VMs and starts them again, one after the other all over the fleet. Returns how long each change took to reach its
/// host, in milliseconds.
fn change(desk: &Desk, leader: &Bell, reached: &Reached, hosts: usize) -> Vec<u128> {
    let began = Instant::now();
    let mut took_ms = Vec::new();
    let mut turn = 0;
    while began.elapsed() < BUSY {
        // A prime, so that each change is at another host; each VM is stopped first, and started one round later.
        let vm = vm_name(turn / 2 * 997 % (hosts * VMS_PER_HOST));
        let starts = turn % 2 == 1;
        let change = match starts {
            true => Change::StartVm { name: vm.clone() },
            false => Change::StopVm { name: vm.clone(), force: true },
        };
        turn += 1;
        reached.expect(&vm, starts);
        let sent = Instant::now();
        desk.submit(&change, false, tranched::clock::now()).expect("it is taken");
        leader.ring();
        let next = began + CHANGE_EVERY * u32::try_from(turn).expect("few");
        took_ms.push(reached.wait().duration_since(sent).as_millis());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    took_ms
}

/// Runs something, and returns which part of one processor this process took meanwhile.
fn share_during(work: impl FnOnce()) -> f64 {
    let (began, before) = (Instant::now(), ticks());
    work();
    let seconds = f64::from(u32::try_from(ticks() - before).expect("few")) / 100.0;
    seconds / began.elapsed().as_secs_f64()
}

/// What this process took of processors, in ticks of 10 ms (proc(5), `utime` and `stime`; `USER_HZ` is 100 on Linux).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().expect("its name is in brackets").split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// The step that is waited for, and when its host began it.
#[derive(Debug, Clone, Default)]
struct Reached(Arc<(Mutex<Awaited>, Condvar)>);

#[derive(Debug, Default)]
struct Awaited {
    vm: Option<VmName>,
    starts: bool,
    at: Option<Instant>,
}

impl Reached {
    /// From now on, a VM's start or its end is waited for.
    fn expect(&self, vm: &VmName, starts: bool) {
        *self.0.0.lock().expect("nobody panics") = Awaited { vm: Some(vm.clone()), starts, at: None };
    }

    fn note(&self, step: &Step) {
        let (vm, starts) = match step {
            Step::StartVm { vm, .. } => (vm, true),
            Step::KillVm { vm, .. } => (vm, false),
            _ => return,
        };
        let (awaited, changed) = &*self.0;
        let mut awaited = awaited.lock().expect("nobody panics");
        if awaited.vm.as_ref() == Some(vm) && awaited.starts == starts && awaited.at.is_none() {
            awaited.at = Some(Instant::now());
            changed.notify_all();
        }
    }

    fn wait(&self) -> Instant {
        let (awaited, changed) = &*self.0;
        let awaited = awaited.lock().expect("nobody panics");
        let awaited = changed.wait_while(awaited, |awaited| awaited.at.is_none()).expect("nobody panics");
        awaited.at.expect("it is over")
    }
}

/// A host that notes when a VM's turn comes.
#[derive(Debug)]
struct Noting {
    host: LinuxHost,
    reached: Reached,
}

impl Host for Noting {
    fn observe(&self, now: Timestamp) -> HostInventory {
        self.host.observe(now)
    }

    fn observe_again(
        &self,
        gpus: &BTreeSet<GpuAddress>,
        last: &HostInventory,
        now: Timestamp,
    ) -> HostInventory {
        self.host.observe_again(gpus, last, now)
    }

    fn boot_id(&self) -> String {
        self.host.boot_id()
    }

    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>> {
        self.reached.note(step);
        self.host.apply(step, now)
    }
}

/// Members of the store that nobody asks: heartbeats are acknowledged.
#[derive(Debug)]
struct Silent;

impl Voices for Silent {
    fn ask(&self) -> Vec<MemberSays> {
        Vec::new()
    }
}
