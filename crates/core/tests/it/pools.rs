//! Pools of whole GPUs that exist on several hosts: a VM gets all that it asks for on one of them, or waits.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::name::{GpuKey, HostName, PoolName, SlotKey};
use tranche_core::placement::obstacles;
use tranche_core::spec::{GpuMode, Request};

use crate::world::{World, gpu, vm};

const GPUS_PER_HOST: u8 = 3;

fn second() -> HostName {
    "node2".parse().unwrap()
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn there(bus: u8) -> GpuKey {
    GpuKey { host: second(), ..gpu(bus) }
}

/// Two hosts with three GPUs each, all of them the host's own.
fn two_hosts() -> World {
    let mut world = World::with_gpus(GPUS_PER_HOST);
    let mut other = tranche_core::inventory::HostInventory::clone(world.seen());
    other.host = second();
    world.inventory.insert(second(), other.into());
    world
}

fn put(world: &mut World, gpu: GpuKey, name: &str) {
    let mode = GpuMode::Passthrough { allow_console: false, pool: Some(pool(name)) };
    world.accepts(&Change::SetGpuMode { gpu, mode });
    world.settle();
}

fn ask(world: &mut World, name: &str, gpus: u8, of: &str) {
    world.create(name, Request::Whole { gpus, pool: Some(pool(of)) });
    world.start(name);
}

fn held(world: &World, name: &str) -> Vec<GpuKey> {
    world.plan.held_by(&vm(name)).map(|(slot, _)| slot.gpu.clone()).collect()
}

fn why_it_waits(world: &World) -> &str {
    let waits = world.findings.iter().find(|finding| finding.code == Code::NoFreeGpu);
    &waits.expect("it waits").message
}

#[test]
fn a_vm_gets_its_gpus_on_the_host_that_has_enough_of_the_pool() {
    let mut world = two_hosts();
    put(&mut world, gpu(1), "train");
    put(&mut world, gpu(2), "render");
    put(&mut world, there(1), "train");
    put(&mut world, there(3), "train");
    ask(&mut world, "a", 2, "train");
    assert_eq!(held(&world, "a"), [there(1), there(3)]);
    assert_eq!(world.plan.vms[&vm("a")].host, second());
}

#[test]
fn gpus_of_a_pool_on_two_hosts_do_not_add_up_for_one_vm() {
    let mut world = two_hosts();
    put(&mut world, gpu(1), "train");
    put(&mut world, there(1), "train");
    ask(&mut world, "a", 2, "train");
    assert_eq!(held(&world, "a"), []);
    assert_eq!(
        why_it_waits(&world),
        "VM a waits: it asks for 2 GPUs of pool train on one host, and no host has more than 1 free (2 in all, 0 in use)."
    );
}

#[test]
fn two_vms_share_a_pool_host_by_host() {
    let mut world = two_hosts();
    for bus in [1, 2] {
        put(&mut world, gpu(bus), "train");
        put(&mut world, there(bus), "train");
    }
    for name in ["a", "b", "c"] {
        ask(&mut world, name, 2, "train");
    }
    assert_eq!(held(&world, "a"), [gpu(1), gpu(2)]);
    assert_eq!(held(&world, "b"), [there(1), there(2)]);
    assert_eq!(held(&world, "c"), []);
}

#[test]
fn a_vm_that_waits_for_a_pool_goes_to_the_host_where_it_comes_into_being() {
    let mut world = two_hosts();
    ask(&mut world, "a", 1, "train");
    assert_eq!(held(&world, "a"), []);
    put(&mut world, there(2), "train");
    assert_eq!(held(&world, "a"), [there(2)]);
}

#[test]
fn a_vm_that_is_defined_on_a_host_waits_there() {
    let mut world = two_hosts();
    put(&mut world, gpu(1), "train");
    ask(&mut world, "a", 1, "train");
    world.stop("a");
    put(&mut world, there(1), "train");
    ask(&mut world, "b", 1, "train");
    ask(&mut world, "c", 1, "train");
    assert_eq!((held(&world, "b"), held(&world, "c")), (vec![gpu(1)], vec![there(1)]));
    world.accepts(&Change::StopVm { name: vm("c"), force: false });
    world.settle();
    world.start("a");
    assert_eq!(held(&world, "a"), [], "its disk and its definition are on the first host");
}

#[test]
fn a_gpu_of_another_pool_or_host_is_told_apart() {
    let mut world = two_hosts();
    put(&mut world, gpu(1), "render");
    put(&mut world, there(1), "train");
    let request = Request::Whole { gpus: 1, pool: Some(pool("train")) };
    let against = |key: GpuKey| {
        let slot = SlotKey { slot: tranche_core::name::Slot::Whole, gpu: key };
        obstacles(&slot, &request, &world.inventory[&slot.gpu.host], &world.plan)
    };
    assert_eq!(against(there(1)), []);
    let found = against(gpu(1));
    assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::PoolMismatch]);
    assert_eq!(
        found[0].message,
        "GPU node1/0000:01:00.0 is in pool render, and GPUs of pool train are asked for."
    );
    assert_eq!(against(there(2))[0].code, Code::ModeConflict, "a GPU of no pool serves the host");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The plain oracle: the VM has all its GPUs, of its pool and on one host, exactly if some host has enough of them.
    #[test]
    fn a_vm_runs_if_and_only_if_one_host_has_enough_of_its_pool(
        pools in prop::collection::vec(0u8..3, usize::from(2 * GPUS_PER_HOST)),
        gpus in 1u8..=GPUS_PER_HOST,
    ) {
        let mut world = two_hosts();
        let keys: Vec<GpuKey> = (1..=GPUS_PER_HOST).map(gpu).chain((1..=GPUS_PER_HOST).map(there)).collect();
        for (key, pool) in keys.iter().zip(&pools).filter(|(_, pool)| **pool > 0) {
            put(&mut world, key.clone(), ["", "train", "render"][usize::from(*pool)]);
        }
        ask(&mut world, "a", gpus, "train");
        let of_pool = |host: &[u8]| host.iter().filter(|pool| **pool == 1).count() >= usize::from(gpus);
        let (first, second) = pools.split_at(usize::from(GPUS_PER_HOST));
        let held = held(&world, "a");
        prop_assert_eq!(held.len(), if of_pool(first) || of_pool(second) { usize::from(gpus) } else { 0 });
        prop_assert!(held.iter().map(|gpu| &gpu.host).collect::<BTreeSet<_>>().len() <= 1);
        for gpu in &held {
            let at = keys.iter().position(|key| key == gpu).expect("it is one of them");
            prop_assert_eq!(pools[at], 1);
        }
    }
}
