//! Memory and processors of cluster members: who waits for them, and when that ends.

use tranche_core::change::{Change, NewVm};
use tranche_core::finding::Code;
use tranche_core::inventory::Pulse;
use tranche_core::name::Timestamp;
use tranche_core::spec::{Availability, Duty, HostSpec, Request};

use crate::world::{World, hardware, host, partitioned, vm};

/// Makes the host a member of a cluster, so that its memory and processors are counted.
fn join(world: &mut World) {
    let member = HostSpec {
        joined_at: Timestamp(0),
        labels: Default::default(),
        duty: Duty::Serving,
        fence: None,
        said_down: None,
        departure: None,
        reserved_memory_mib: 0,
    };
    world.spec.hosts.insert(host(), member);
    world.seen().pulse = Some(Pulse::default());
}

#[test]
fn in_a_cluster_a_vm_waits_while_its_hosts_memory_or_processors_are_taken_and_starts_by_itself() {
    for scarce in ["memory", "processors"] {
        let mut world = World::with_gpus(1);
        world.set_mode(1, partitioned(4));
        join(&mut world);
        // Each VM has 512 MiB and two virtual processors.
        if scarce == "memory" {
            world.spec.hosts.get_mut(&host()).unwrap().reserved_memory_mib = 65_536 - 1_100;
        } else {
            world.seen().system.cpus = 1;
        }
        for name in ["a", "b", "c"] {
            world.create(name, Request::ANY_PARTITION);
            world.start(name);
        }
        assert!(world.runs("a") && world.runs("b") && !world.runs("c"), "{scarce}");
        assert!(world.has_finding(Code::NoFreeMemory));
        assert_eq!(world.slot_of("c"), None, "a VM that waits holds nothing");
        world.stop("a");
        world.settle();
        assert!(world.runs("c"), "{scarce}");
    }
}

#[test]
fn a_vm_without_a_gpu_waits_for_memory_too() {
    let mut world = World::with_gpus(0);
    join(&mut world);
    world.spec.hosts.get_mut(&host()).unwrap().reserved_memory_mib = 65_536 - 600;
    for name in ["a", "b"] {
        world.create(name, Request::None);
        world.start(name);
    }
    assert!(world.runs("a") && !world.runs("b"));
    assert!(world.has_finding(Code::NoFreeMemory));
    world.stop("a");
    world.settle();
    assert!(world.runs("b"));
}

#[test]
fn a_reserved_partition_does_not_bring_memory_along() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    join(&mut world);
    let new = NewVm {
        hardware: hardware(),
        request: Request::ANY_PARTITION,
        reserved: true,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: Availability::default(),
    };
    world.accepts(&Change::CreateVm { name: vm("a"), vm: new });
    world.start("a");
    world.stop("a");
    assert!(world.slot_of("a").is_some());
    world.spec.hosts.get_mut(&host()).unwrap().reserved_memory_mib = 65_536 - 600;
    world.create("b", Request::ANY_PARTITION);
    world.start("b");
    world.start("a");
    assert!(world.runs("b") && !world.runs("a"));
    assert!(world.has_finding(Code::NoFreeMemory));
    world.stop("b");
    world.settle();
    assert!(world.runs("a"));
}

#[test]
fn a_host_in_maintenance_takes_no_vm() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    join(&mut world);
    world.spec.hosts.get_mut(&host()).unwrap().duty = Duty::Maintenance;
    world.create("a", Request::ANY_PARTITION);
    world.start("a");
    assert!(!world.runs("a") && world.has_finding(Code::HostClosed));
    world.spec.hosts.get_mut(&host()).unwrap().duty = Duty::Serving;
    world.settle();
    assert!(world.runs("a"));
}
