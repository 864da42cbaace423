//! How long deciding takes for a whole fleet: 1,000 hosts with 8 GPUs of 16 partitions each and 100,000 VMs, when nothing
//! happens, and when one host is lost and its 100 VMs go elsewhere.
//!
//! `cargo bench -p tranche-core --bench fleet`; with `HOSTS=100` before it, another number of hosts.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the core has no clock; its benches do"
)]

#[path = "world/counting.rs"]
mod counting;
#[path = "world/mod.rs"]
#[expect(dead_code, reason = "the world of one host is the other bench's")]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use tranche_core::capacity;
use tranche_core::change::{self, Change, State};
use tranche_core::inventory::{Hypervisor, Inventory, Network, Pulse, Resources, StoragePool};
use tranche_core::name::{Timestamp, VmId};
use tranche_core::plan::{DownBy, HostPlan, Plan, Standing};
use tranche_core::planner::{self, Memory};
use tranche_core::spec::{Duty, HostSpec, Run, Spec, VmHardware, VmSource};

use counting::{held, mib};
use uuid::Uuid;
use world::{add_host, host};

const VMS_PER_HOST: usize = 100;
const ROUNDS: usize = 10;

fn main() {
    let hosts = std::env::var("HOSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let empty = held();
    let (spec, inventory, plan) = fleet(hosts);
    let of_fleet = held();
    println!("{hosts} hosts, {} VMs: {:.0} MiB", spec.vms.len(), mib(of_fleet - empty));
    let mut memory = Memory::default();
    let first = memory.plan(&spec, &inventory, &plan, Timestamp(1)).plan;
    let settled = memory.plan(&spec, &inventory, &first, Timestamp(1)).plan;
    let _ = memory.plan(&spec, &inventory, &settled, Timestamp(1));
    println!("plan, and what is remembered: {:.0} MiB", mib(held() - of_fleet));
    let nothing = |memory: &mut Memory| memory.plan(&spec, &inventory, &settled, Timestamp(2)).plan;
    print("nothing happens, all is looked at", Memory::default, nothing);
    print("nothing happens, with what is remembered", || memory.clone(), nothing);
    let mut after = inventory.clone();
    let lost = Pulse { silent_ms: 60_000, armed: true, off: Some(DownBy::Agent), ..Pulse::default() };
    after.get_mut(&host(1)).expect("it is there").pulse = Some(lost);
    let planned = planner::plan(&spec, &after, &settled, Timestamp(2));
    let moved = settled.vms.changes(&planned.plan.vms).count();
    println!("one host is lost: {moved} VMs go elsewhere");
    let loss = |memory: &mut Memory| memory.plan(&spec, &after, &settled, Timestamp(2)).plan;
    assert_eq!(loss(&mut memory.clone()), planned.plan, "what is remembered changes nothing");
    print("one host is lost, all is looked at", Memory::default, loss);
    print("one host is lost, with what is remembered", || memory.clone(), loss);
    admit(&spec, &inventory, &settled);
}

/// How long it takes to say whether a VM may start that is off, and to count what there is to spare.
fn admit(spec: &Spec, inventory: &Inventory, plan: &Plan) {
    let (mut spec, mut plan) = (spec.clone(), plan.clone());
    let (name, _) = spec.vms.iter().next().expect("there are some");
    let name = name.clone();
    spec.vms.get_mut(&name).expect("it is there").run = Run::Stopped;
    plan.vms.remove(&name);
    plan.bookings.retain(|_, booking| booking.vm != name);
    let state = State { spec: &spec, plan: &plan, inventory };
    let start = Change::StartVm { name };
    let admitted =
        |memory: &mut Memory| change::admit_with(memory, &start, state, VmId(Uuid::nil()), Timestamp(2));
    let mut memory = Memory::default();
    let _ = memory.plan(&spec, inventory, &plan, Timestamp(2));
    assert!(admitted(&mut memory).is_ok(), "nothing stands against it");
    assert_eq!(admitted(&mut memory), admitted(&mut Memory::default()), "what is remembered changes nothing");
    let (median, longest) = took(|| drop(black_box(admitted(&mut Memory::default()))));
    println!(
        "whether a VM may start, all is looked at: {:.2} ms median, {:.2} ms at worst",
        ms(median),
        ms(longest)
    );
    let (median, longest) = took(|| drop(black_box(admitted(&mut memory))));
    println!(
        "whether a VM may start, with what is remembered: {:.2} ms median, {:.2} ms at worst",
        ms(median),
        ms(longest)
    );
    let (median, longest) = took(|| drop(black_box(capacity::capacity(state, &BTreeSet::new()))));
    println!("what there is to spare: {:.2} ms median, {:.2} ms at worst", ms(median), ms(longest));
}

/// How long a pass takes, from what is remembered to the plan. What readies and what cleans up is not counted.
fn print(what: &str, ready: impl Fn() -> Memory, work: impl Fn(&mut Memory) -> Plan) {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let mut memory = ready();
            let began = Instant::now();
            let planned = black_box(work(&mut memory));
            let took = began.elapsed();
            drop(planned);
            took
        })
        .collect();
    took.sort();
    println!("{what}: {:.2} ms median, {:.2} ms at worst", ms(took[ROUNDS / 2]), ms(took[ROUNDS - 1]));
}

/// The median and the longest of some rounds.
fn took(mut work: impl FnMut()) -> (Duration, Duration) {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    took.sort();
    (took[ROUNDS / 2], took[ROUNDS - 1])
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

/// A pool that all hosts share, one of each host's own, and a network.
fn resources_of_each() -> Resources {
    let pool = |shared| StoragePool { kind: "dir".to_owned(), path: None, active: true, shared };
    Resources {
        pools: [("shared".to_owned(), pool(true)), ("own".to_owned(), pool(false))].into(),
        networks: [("lan".to_owned(), Network { active: true })].into(),
    }
}

fn fleet(hosts: usize) -> (Spec, Inventory, Plan) {
    let (mut spec, mut plan, mut inventory) = (Spec::default(), Plan::default(), Inventory::new());
    for number in 1..=hosts {
        let name = host(number);
        let mut seen = add_host(&name, VMS_PER_HOST, true, &mut spec, &mut plan);
        seen.pulse = Some(Pulse { armed: true, ..Pulse::default() });
        let Hypervisor::Up { resources, .. } = &mut seen.hypervisor else { unreachable!("it is up") };
        *resources = Some(resources_of_each());
        let member = HostSpec {
            joined_at: Timestamp(0),
            labels: BTreeMap::new(),
            duty: Duty::Serving,
            fence: None,
            said_down: None,
            departure: None,
            reserved_memory_mib: 0,
        };
        spec.hosts.insert(name.clone(), member);
        plan.hosts.insert(name.clone(), HostPlan { standing: Standing::Up, epoch: 0, ..HostPlan::default() });
        inventory.insert(name, seen.into());
    }
    let hardware =
        r#"{"vcpus":2,"memory_mib":4096,"disks":[{"pool":"shared","volume":"disk"}],"networks":["lan"]}"#;
    let hardware: VmHardware = serde_json::from_str(hardware).expect("it is hardware");
    spec.vms.change_each(|_, vm| vm.source = VmSource::Made(hardware.clone()));
    (spec, inventory, plan)
}
