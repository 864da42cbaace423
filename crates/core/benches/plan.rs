//! How long deciding takes: one host with 8 GPUs of 16 partitions and 128 VMs, all running, and all about to start.

mod world;

use tranche_core::name::Timestamp;
use tranche_core::planner;
use tranche_core::steps::steps;

use world::{host, world};

fn main() {
    divan::main();
}

#[divan::bench]
fn plan_with_every_vm_running(bencher: divan::Bencher<'_, '_>) {
    let (spec, inventory, plan) = world(true);
    bencher.bench(|| planner::plan(&spec, &inventory, &plan, Timestamp(1)));
}

#[divan::bench]
fn plan_with_every_vm_to_be_placed(bencher: divan::Bencher<'_, '_>) {
    let (spec, inventory, plan) = world(false);
    bencher.bench(|| planner::plan(&spec, &inventory, &plan, Timestamp(1)));
}

#[divan::bench]
fn steps_with_every_vm_running(bencher: divan::Bencher<'_, '_>) {
    let (spec, inventory, plan) = world(true);
    bencher.bench(|| steps(&spec, &plan, &inventory[&host(1)]));
}
