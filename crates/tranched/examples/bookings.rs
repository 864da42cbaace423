//! How many bookings a second are durable on three real etcd members on this machine, beside how many compare-and-swaps they
//! do: `scripts/bench cluster`. Eight clients each. It prints figures and judges nothing.
//!
//! A booking is: a VM that is there is told to start, and both that and the partition that was chosen for it are stored. The
//! desk is that of who leads a cluster: clients use it as the REST layer does, each commit rests on the lead, and it decides when
//! there is news, as the daemon's loop does. HTTP itself is not measured, and neither is what hosts do about it. Each of them has one VM
//! to start, which is bound to it: a host that was just told something is told the next only when it has said that it knows.

#[path = "../tests/it/etcd.rs"]
mod etcd;
mod made_up;
#[path = "../tests/it/ports.rs"]
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tranche_core::change::Change;
use tranche_core::inventory::{Domain, DomainState, HostInventory, Hypervisor, OffReason, Pulse};
use tranche_core::name::{GpuKey, HostName, Timestamp, VmId, VmName};
use tranche_core::plan::{GpuPlan, HostPlan, VmGoal, VmPlan};
use tranche_core::spec::{GpuMode, Run, VmSource};
use tranche_host::fake::Machine;
use tranche_store::{
    EtcdSettings, EtcdStore, Expected, MemoryStore, Outcome, Repository, Saved, State, Store, Terms, Txn,
};
use tranched::engine::{Desk, Engine, Ids, News, Reported, Reports, View};

use self::etcd::Members;

const CLIENTS: u32 = 8;
const BOOKINGS_EACH: u32 = 50;
const HOSTS: u32 = CLIENTS * BOOKINGS_EACH;
const PARTITIONS: u16 = 4;
/// How long the lead lasts: longer than all of it takes.
const LEASE_MS: u64 = 60_000;
const SWAPS_FOR: Duration = Duration::from_secs(10);
/// How long a client waits for a booking.
const PATIENCE: Duration = Duration::from_secs(20);
const NOW: Timestamp = Timestamp(1_000_000);

fn main() {
    let members = Members::start(3);
    let open = || -> Arc<dyn Store> {
        let settings = EtcdSettings {
            endpoints: members.endpoints().to_vec(),
            tls: None,
            timeout_ms: 20_000,
            election_ms: 1_000,
        };
        Arc::new(EtcdStore::connect(&settings).expect("it connects"))
    };
    let before = swaps_per_s(&open);
    let booked = bookings_per_s(&open());
    let after = swaps_per_s(&open);
    let raw = f64::midpoint(before, after);
    println!("compare-and-swap, {CLIENTS} clients: {before:.0}/s before, {after:.0}/s after");
    println!("durable bookings, {CLIENTS} clients: {booked:.0}/s, which is {:.2} of it", booked / raw);
}

/// Each client swaps a key of its own, and waits for each answer.
fn swaps_per_s(open: &impl Fn() -> Arc<dyn Store>) -> f64 {
    let stores: Vec<_> = (0..CLIENTS).map(|_| open()).collect();
    let began = Instant::now();
    let done: u32 = thread::scope(|scope| {
        let clients: Vec<_> = stores
            .into_iter()
            .enumerate()
            .map(|(client, store)| scope.spawn(move || swaps(client, &*store, began)))
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client that ends")).sum()
    });
    f64::from(done) / began.elapsed().as_secs_f64()
}

fn swaps(client: usize, store: &dyn Store, began: Instant) -> u32 {
    let key = format!("bench/{client}").parse().expect("a key");
    let mut expected =
        store.get(&key).expect("read").map_or(Expected::Absent, |entry| Expected::At(entry.modified));
    let mut done = 0;
    while began.elapsed() < SWAPS_FOR {
        let txn = Txn::new().expect(key.clone(), expected).put(key.clone(), "0123456789".repeat(20));
        match store.commit(&txn).expect("stored") {
            Outcome::Committed(revision) => expected = Expected::At(revision),
            Outcome::Conflict(conflict) => panic!("nobody else has this key: {conflict}"),
        }
        done += 1;
    }
    done
}

fn bookings_per_s(store: &Arc<dyn Store>) -> f64 {
    let repository = Repository::new(Arc::clone(store));
    write_cluster(&repository);
    let lease = store.grant(LEASE_MS).expect("a lease");
    let lead = repository.lead(&host_name(0), lease.id).expect("etcd answers").expect("nobody else leads");
    let terms = Terms { always: vec![lead], ..Terms::default() };
    let pulse = Pulse {
        silent_ms: 0,
        epoch: 0,
        armed: false,
        bound_ms: None,
        being_cut: false,
        off: None,
        unattended: false,
        rising: false,
        clock_ahead_ms: 0,
    };
    let pulses: BTreeMap<HostName, Pulse> = (0..HOSTS).map(|number| (host_name(number), pulse)).collect();
    let desk = Desk::open(repository.clone(), Ids::default()).expect("it can be read");
    let decide = || {
        let inventory = Reported::Stored(pulses.clone());
        desk.decide(Reports { inventory, news: News::new(), findings: Vec::new() }, &terms, NOW)
    };
    // Until every host has heard what was decided for it, and said so.
    let mut told = 1;
    while told > 0 {
        let decided = decide().expect("it is stored");
        told = 0;
        for (host, seen) in &*desk.view().inventory {
            let mut seen = HostInventory::clone(seen);
            let generation = decided.plan.generations.get(host).copied().unwrap_or_default();
            if seen.progress.generation != generation {
                (seen.progress.generation, seen.pulse) = (generation, None);
                repository.report(&seen).expect("it is stored");
                told += 1;
            }
        }
    }
    let began = Instant::now();
    thread::scope(|scope| {
        let (bell, rung) = sync_channel(1);
        scope.spawn(move || {
            while rung.recv().is_ok() {
                decide().expect("it is stored");
            }
        });
        let desk = &desk;
        for client in 0..CLIENTS {
            let bell = bell.clone();
            scope.spawn(move || book(client, desk, &bell));
        }
    });
    f64::from(HOSTS) / began.elapsed().as_secs_f64()
}

/// Returns when each of a client's VMs has a partition that is stored.
fn book(client: u32, desk: &Desk, bell: &SyncSender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut views = desk.watch();
    for number in 0..BOOKINGS_EACH {
        let name = name_of(client, number);
        desk.submit(&Change::StartVm { name: name.clone() }, false, NOW).expect("it is taken");
        // A bell that rings already says all there is to say.
        let _ = bell.try_send(());
        let booked = |view: &Arc<View>| view.plan.held_by(&name).next().is_some();
        let booked = async { tokio::time::timeout(PATIENCE, views.wait_for(booked)).await.map(|_| ()) };
        runtime.block_on(booked).expect("it gets a partition");
    }
}

fn name_of(client: u32, number: u32) -> VmName {
    vm_name(client * BOOKINGS_EACH + number)
}

fn vm_name(number: u32) -> VmName {
    format!("vm-{number:05}").parse().expect("a name")
}

fn host_name(number: u32) -> HostName {
    format!("node{number:04}").parse().expect("a name")
}

/// Hosts that are alike, each with a GPU that is split and a VM that is off.
fn write_cluster(repository: &Repository) {
    let (seen, gpu) = split_host();
    let model = made_up::host(&host_name(0), Machine::gpus(1, PARTITIONS));
    let (hosts, vms) = ((0..HOSTS).map(host_name), (0..HOSTS).map(vm_name));
    let mut state =
        State { spec: made_up::wishes(&model, PARTITIONS, hosts, vms).into(), ..State::default() };
    state.spec.vms.change_each(|_, vm| (vm.run, vm.source) = (Run::Stopped, VmSource::Adopted));
    for number in 0..HOSTS {
        let (host, vm) = (host_name(number), vm_name(number));
        let id = state.spec.vms[&vm].id;
        for address in seen.gpus.keys() {
            let key = GpuKey { host: host.clone(), address: address.clone() };
            state.plan.gpus.insert(key, gpu.clone());
        }
        state.plan.hosts.insert(host.clone(), HostPlan::default());
        let mut seen = seen.clone();
        seen.host = host.clone();
        if let Hypervisor::Up { domains, .. } = &mut seen.hypervisor {
            domains.insert(vm.to_string(), domain(&vm, id));
        }
        state.inventory.insert(host.clone(), seen.into());
        state.plan.vms.insert(vm, VmPlan::new(host, id, VmGoal::Stop));
    }
    let loaded = repository.load().expect("etcd is read");
    let saved = repository.commit(loaded, state, &Terms::default()).expect("etcd is written");
    assert!(matches!(saved, Saved::Committed(_)), "nobody else writes yet");
}

/// A VM's domain, as its owner defined it.
fn domain(vm: &VmName, id: VmId) -> Domain {
    Domain {
        name: vm.to_string(),
        uuid: id.0,
        state: DomainState::Off { reason: OffReason::Shutdown },
        persistent: true,
        autostart: false,
        vcpus: 1,
        memory_mib: 16,
        live_devices: Vec::new(),
        defined_devices: Vec::new(),
        machine: None,
        blockers: BTreeSet::new(),
        consoles: BTreeSet::new(),
    }
}

/// A host with a split GPU, as it reports itself, and what was decided for the GPU.
fn split_host() -> (HostInventory, GpuPlan) {
    let name = host_name(0);
    let host = Arc::new(made_up::host(&name, Machine::gpus(1, PARTITIONS)));
    let repository = Repository::new(Arc::new(MemoryStore::default()));
    let engine = Engine::open(name.clone(), host, repository, 4).expect("it can be read");
    let mut now = Timestamp(1);
    engine.pass(now);
    let address = engine.view().inventory[&name].gpus.keys().next().expect("a GPU").clone();
    let mode = GpuMode::Partitioned { count: PARTITIONS, series: None };
    let gpu = GpuKey { host: name.clone(), address: address.clone() };
    engine.submit(&Change::SetGpuMode { gpu: gpu.clone(), mode }, false, now).expect("it is taken");
    let split =
        |view: &View| view.inventory[&name].gpus[&address].partitions.len() == usize::from(PARTITIONS);
    while !split(&engine.view()) {
        now.0 += 1_000;
        engine.pass(now);
    }
    engine.pass(now);
    let view = engine.view();
    (HostInventory::clone(&view.inventory[&name]), view.plan.gpus[&gpu].clone())
}
