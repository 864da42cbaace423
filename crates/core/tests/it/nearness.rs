//! Guests beside their GPUs: on hosts with several NUMA nodes a VM that Tranche made runs on that of its GPU.

use tranche_core::change::Change;
use tranche_core::inventory::NumaNode;
use tranche_core::spec::{Request, VmSource};
use tranche_core::step::{Near, Step};

use crate::fleet::model_domain;
use crate::world::{World, partitioned, vm};

fn node(id: u16, cpus: &str, cpu_count: u32, memory_mib: u64) -> NumaNode {
    NumaNode { id, cpus: cpus.to_owned(), cpu_count, memory_mib }
}

/// A host with a GPU on node 1, a VM of 2 processors and 512 MiB that is off, and these nodes.
fn world(nodes: &[NumaNode]) -> World {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    world.create("a", Request::ANY_PARTITION);
    world.seen().system.numa = nodes.to_vec();
    world
}

/// What is to be near VM a when it is started.
fn near(world: &mut World) -> Option<Near> {
    world.accepts(&Change::StartVm { name: vm("a") });
    let put = world.pass().into_iter().find_map(|step| match step {
        Step::PutDevices { near, .. } => Some(near),
        _ => None,
    });
    put.expect("the VM gets its GPU")
}

#[test]
fn a_vm_runs_on_the_node_of_its_gpu_if_it_fits_there() {
    let near_of = |nodes: &[NumaNode]| near(&mut world(nodes));
    let there = Some(Near { node: 1, cpus: "4-7".to_owned() });
    assert_eq!(near_of(&[node(0, "0-3", 4, 32_768), node(1, "4-7", 4, 32_768)]), there);
    assert_eq!(near_of(&[node(0, "0-3", 4, 32_768), node(1, "4-7", 2, 512)]), there);
    assert_eq!(near_of(&[node(0, "0-3", 4, 32_768), node(1, "4", 1, 32_768)]), None, "too few processors");
    assert_eq!(near_of(&[node(0, "0-3", 4, 32_768), node(1, "4-7", 4, 511)]), None, "too little memory");
    assert_eq!(near_of(&[node(1, "0-7", 8, 65_536)]), None, "there is no other node");
    assert_eq!(
        near_of(&[node(0, "0-3", 4, 32_768), node(2, "4-7", 4, 32_768)]),
        None,
        "of it nothing is known"
    );
    assert_eq!(near_of(&[]), None);
}

#[test]
fn gpus_of_several_nodes_and_definitions_of_others_say_nothing() {
    let nodes = [node(0, "0-3", 4, 32_768), node(1, "4-7", 4, 32_768)];
    let mut adopted = world(&nodes);
    let wish = adopted.spec.vms.get_mut(&vm("a")).unwrap();
    let VmSource::Made(hardware) = std::mem::replace(&mut wish.source, VmSource::Adopted) else {
        panic!("it was made")
    };
    let id = wish.id;
    adopted.domains().insert("a".to_owned(), model_domain(&vm("a"), id, &hardware));
    assert_eq!(near(&mut adopted), None);

    let mut several = World::with_gpus(2);
    for bus in [1, 2] {
        several.set_mode(bus, crate::world::PASSTHROUGH);
    }
    several.create("a", Request::Whole { gpus: 2, pool: None });
    several.seen().system.numa = nodes.to_vec();
    assert_eq!(near(&mut several), None);
}
