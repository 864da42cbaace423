//! How long deciding takes for a whole fleet: 1,000 hosts with 8 GPUs of 16 partitions each and 100,000 VMs, when nothing
//! happens, and when one host is lost and its 100 VMs go elsewhere.
//!
//! `cargo bench -p tranche-core --bench fleet`; with `HOSTS=100` before it, another number of hosts.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the core has no clock; its benches do"
)]

#[path = "world/mod.rs"]
#[expect(dead_code, reason = "the world of one host is the other bench's")]
mod world;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use tranche_core::inventory::{Inventory, Pulse};
use tranche_core::name::Timestamp;
use tranche_core::plan::{DownBy, HostPlan, Plan, Standing};
use tranche_core::planner;
use tranche_core::spec::{Duty, HostSpec, Spec, VmHardware, VmSource};

use world::{add_host, host};

const VMS_PER_HOST: usize = 100;
const ROUNDS: usize = 10;

fn main() {
    let hosts = std::env::var("HOSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let (spec, inventory, plan) = fleet(hosts);
    let settled = planner::plan(&spec, &inventory, &plan, Timestamp(1)).plan;
    println!("{hosts} hosts, {} VMs", spec.vms.len());
    print("nothing happens", || planner::plan(&spec, &inventory, &settled, Timestamp(2)).plan.vms.len());
    let mut after = inventory;
    let lost =
        Pulse { silent_ms: 60_000, epoch: 0, armed: true, off: Some(DownBy::Agent), clock_ahead_ms: 0 };
    after.get_mut(&host(1)).expect("it is there").pulse = Some(lost);
    let planned = planner::plan(&spec, &after, &settled, Timestamp(2));
    let moved =
        planned.plan.vms.values().zip(settled.vms.values()).filter(|(is, was)| is.host != was.host).count();
    println!("one host is lost: {moved} VMs go elsewhere");
    print("one host is lost", || planner::plan(&spec, &after, &settled, Timestamp(2)).plan.vms.len());
}

fn print(what: &str, work: impl Fn() -> usize) {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            black_box(work());
            began.elapsed()
        })
        .collect();
    took.sort();
    println!("{what}: {:.1} ms median, {:.1} ms at worst", ms(took[ROUNDS / 2]), ms(took[ROUNDS - 1]));
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

fn fleet(hosts: usize) -> (Spec, Inventory, Plan) {
    let (mut spec, mut plan, mut inventory) = (Spec::default(), Plan::default(), Inventory::new());
    for number in 1..=hosts {
        let name = host(number);
        let mut seen = add_host(&name, VMS_PER_HOST, true, &mut spec, &mut plan);
        seen.pulse = Some(Pulse { silent_ms: 0, epoch: 0, armed: true, off: None, clock_ahead_ms: 0 });
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
        plan.hosts.insert(name.clone(), HostPlan { standing: Standing::Up, epoch: 0, departs: false });
        inventory.insert(name, seen);
    }
    let hardware: VmHardware =
        serde_json::from_str(r#"{"vcpus":2,"memory_mib":4096}"#).expect("it is hardware");
    for vm in spec.vms.values_mut() {
        vm.source = VmSource::Made(hardware.clone());
    }
    (spec, inventory, plan)
}
