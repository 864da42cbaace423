//! How many bookings a second are durable on three real etcd members on this machine, beside how many compare-and-swaps they
//! do: `scripts/bench cluster`. Eight clients each. It prints figures and judges nothing.
//!
//! A booking is: a VM that is there is told to start, which is stored, and a partition was chosen for it, which is stored, too.
//! Clients use the desk as the REST layer does, and the desk decides when there is news, as the daemon's loop does; HTTP
//! itself is not measured.

#[path = "../tests/it/etcd.rs"]
mod etcd;
#[path = "../tests/it/ports.rs"]
mod ports;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tranche_core::change::{Change, NewVm};
use tranche_core::inventory::HostInventory;
use tranche_core::name::{GpuAddress, GpuKey, HostName, PciAddress, Timestamp, VmName};
use tranche_core::spec::{Availability, Firmware, GpuMode, Request, VmHardware};
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_store::{EtcdSettings, EtcdStore, Expected, Outcome, Repository, Store, Terms, Txn};
use tranched::engine::{Desk, Engine, Ids, News, Reported, Reports, View};

use self::etcd::Members;

const CLIENTS: u32 = 8;
const BOOKINGS_EACH: u32 = 50;
const GPUS: u8 = 8;
const PARTITIONS: u16 = 64;
const SWAPS_FOR: Duration = Duration::from_secs(10);
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
    let seen = prepare(store);
    let desk = Desk::open(Repository::new(Arc::clone(store)), Ids::default()).expect("it can be read");
    let decide = || {
        let inventory = Reported::One(Box::new(seen.clone()));
        desk.decide(Reports { inventory, news: News::new(), findings: Vec::new() }, &Terms::default(), NOW);
    };
    for (client, number) in
        (0..CLIENTS).flat_map(|client| (0..BOOKINGS_EACH).map(move |number| (client, number)))
    {
        let change = Change::CreateVm { name: name_of(client, number), vm: vm() };
        desk.submit(&change, false, NOW).expect("it is taken");
    }
    decide();
    let began = Instant::now();
    thread::scope(|scope| {
        let (bell, rung) = sync_channel(1);
        scope.spawn(move || {
            while rung.recv().is_ok() {
                decide();
            }
        });
        let desk = &desk;
        for client in 0..CLIENTS {
            let bell = bell.clone();
            scope.spawn(move || book(client, desk, &bell));
        }
    });
    f64::from(CLIENTS * BOOKINGS_EACH) / began.elapsed().as_secs_f64()
}

/// Returns when each of a client's VMs has a partition that is stored.
fn book(client: u32, desk: &Desk, bell: &SyncSender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut views = desk.watch();
    for number in 0..BOOKINGS_EACH {
        let name = name_of(client, number);
        desk.submit(&Change::StartVm { name: name.clone() }, false, NOW).expect("it is taken");
        // A bell that rings already says all there is to say.
        let _ = bell.try_send(());
        let booked = |view: &Arc<View>| view.plan.held_by(&name).next().is_some();
        runtime.block_on(views.wait_for(booked)).expect("a desk that lives");
    }
}

fn name_of(client: u32, number: u32) -> VmName {
    format!("vm-{client}-{number}").parse().expect("a name")
}

fn vm() -> NewVm {
    let hardware = VmHardware {
        vcpus: 1,
        memory_mib: 16,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    };
    NewVm {
        hardware,
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: Availability::default(),
    }
}

/// A host with split GPUs, as it reports itself.
fn prepare(store: &Arc<dyn Store>) -> HostInventory {
    let name: HostName = "node1".parse().expect("a name");
    let kernel = Arc::new(FakeKernel::boot(Machine::gpus(GPUS, PARTITIONS)));
    let hypervisor = Box::new(Arc::new(FakeHypervisor::new(kernel.clone())));
    let host =
        LinuxHost::new(name.clone(), kernel, Limits::default(), Arc::new(Catalogue::builtin()), hypervisor);
    let repository = Repository::new(Arc::clone(store));
    let engine = Engine::open(name.clone(), Arc::new(host), repository, 4).expect("it can be read");
    let mut now = Timestamp(1);
    engine.pass(now);
    for index in 0..GPUS {
        let address =
            GpuAddress::Pci(PciAddress { domain: 0, bus: 0x10 + index * 4, device: 0, function: 0 });
        let gpu = GpuKey { host: name.clone(), address };
        let mode = GpuMode::Partitioned { count: PARTITIONS, series: None };
        engine.submit(&Change::SetGpuMode { gpu, mode }, false, now).expect("it is taken");
    }
    let split = |engine: &Engine| {
        engine.view().inventory[&name]
            .gpus
            .values()
            .all(|gpu| gpu.partitions.len() == usize::from(PARTITIONS))
    };
    while !split(&engine) {
        now.0 += 1_000;
        engine.pass(now);
    }
    engine.pass(now);
    HostInventory::clone(&engine.view().inventory[&name])
}
