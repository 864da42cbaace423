//! A GPU split into partitions of several sizes: in the only order that works, through the tool that switches it.

use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::name::Timestamp;
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;
use tranche_host::Host;
use tranche_host::fake::Machine;
use tranche_host::tree::Tree;

use super::world::{World, function, key, partitioned, vm};

const GPU: &str = "0000:41:00.0";

fn l40s() -> World {
    World::new(Machine::nvidia(&["NVIDIA L40S"]))
}

fn mixed(sizes: &[&str]) -> GpuMode {
    GpuMode::Mixed { sizes: sizes.iter().map(|size| (*size).to_owned()).collect() }
}

fn sizes(world: &mut World) -> Vec<String> {
    world.profiles(GPU).into_iter().map(|(_, profile)| profile).collect()
}

fn of_vram(mib: u64) -> Request {
    Request::Partition { vram_mib: Some(mib), profile: None }
}

/// What the tool says of the switch.
fn is_mixed(world: &World) -> bool {
    let said = world.kernel.run("usr/bin/nvidia-smi", &["-q", "-i", GPU]).expect("the tool is there").said;
    let line =
        said.lines().find(|line| line.contains("vGPU Heterogeneous Mode")).expect("the switch is told");
    line.ends_with("Enabled")
}

fn life(mut world: World) {
    let offered = world.gpu(GPU).mixed;
    let most =
        |profile: &str| offered.iter().find(|size| size.profile == profile).map(|size| size.starts_mib.len());
    assert_eq!((most("16Q"), most("12Q"), most("8Q"), most("48Q")), (Some(2), Some(4), Some(4), Some(1)));

    world.set_mode(GPU, mixed(&["8Q", "16Q", "12Q"]));
    assert_eq!(sizes(&mut world), ["16Q", "12Q", "8Q"], "the largest first");
    assert!(is_mixed(&world));
    assert_eq!(world.pass(), [], "nothing is left to do");

    // Each VM has the smallest partition that is large enough.
    for (name, mib, index) in [("a", 4000, 2), ("b", 4000, 1), ("c", 12_000, 0)] {
        world.create(name, of_vram(mib));
        world.start(name);
        let held = world.plan.held_by(&vm(name)).map(|(slot, _)| slot.to_string()).next();
        assert_eq!(held, Some(format!("{}/{index}", key(GPU))));
    }
    world.refuses(&Change::SetGpuMode { gpu: key(GPU), mode: GpuMode::Host }, Code::PartitionsInUse);

    world.reboot();
    assert!(!is_mixed(&world), "the switch is lost at a reboot");
    world.settle();
    assert_eq!(sizes(&mut world), ["16Q", "12Q", "8Q"]);
    assert!(["a", "b", "c"].into_iter().all(|name| world.runs(name)));
    for name in ["a", "b", "c"] {
        world.stop(name);
    }

    // Three partitions of 16 GB fit only while all are equal: the switch is off again.
    world.split(GPU, 3, None);
    assert_eq!(sizes(&mut world), ["16Q", "16Q", "16Q"]);
    assert!(!is_mixed(&world));

    world.set_mode(GPU, mixed(&["24Q", "12A"]));
    assert_eq!(sizes(&mut world), ["24Q", "12A"], "series may differ, too");
    world.set_mode(GPU, GpuMode::Host);
    assert!(!is_mixed(&world));
    world.split(GPU, 3, None);
    assert_eq!(sizes(&mut world).len(), 3);
}

#[test]
fn an_l40s_lives_with_partitions_of_several_sizes() {
    life(l40s());
}

#[cfg(feature = "fuse")]
#[test]
fn an_l40s_lives_with_partitions_of_several_sizes_in_a_mounted_tree() {
    life(World::mounted(Machine::nvidia(&["NVIDIA L40S"])));
}

#[test]
fn a_gpu_that_nobody_asked_for_mixed_sizes_is_never_asked_about_them() {
    let mut world = l40s();
    world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(2, None) });
    for _ in 0..4 {
        let due = world.pass();
        assert!(!due.iter().any(|step| matches!(step, Step::SetMixedSizes { .. })), "{due:?}");
        world.turn();
    }
    assert_eq!(sizes(&mut world), ["24Q", "24Q"]);
    assert!(!is_mixed(&world));
}

#[test]
fn the_driver_refuses_the_switch_while_a_function_has_a_type_and_another_size_without_it() {
    let mut world = l40s();
    world.split(GPU, 2, None);
    let switch = Step::SetMixedSizes { gpu: key(GPU).address, on: true };
    let finding = world.host.apply(&switch, Timestamp(1)).expect_err("it is in use");
    assert_eq!(finding.code, Code::KernelRefused);
    assert!(finding.message.contains("In use"), "{finding}");
    assert!(!is_mixed(&world));
    let seen = world.gpu(GPU);
    let vf = function(&seen, 5);
    let other = Step::SetProfile { gpu: key(GPU).address, index: 5, vf, profile: Some("12Q".to_owned()) };
    world.host.apply(&other, Timestamp(1)).expect_err("types are all of one size");
}

#[test]
fn the_switch_is_lost_when_functions_are_switched_and_set_again_when_they_are_back() {
    let mut world = l40s();
    world.set_mode(GPU, mixed(&["24Q", "12Q"]));
    world.run(&["-d", GPU]);
    world.run(&["-e", GPU]);
    assert!(!is_mixed(&world));
    world.settle();
    assert_eq!(sizes(&mut world), ["24Q", "12Q"]);
    assert!(is_mixed(&world));
}

#[test]
fn a_gpu_that_takes_equal_types_only_says_so_and_is_given_none() {
    let mut world = l40s();
    world.kernel.offer_no_mixed_sizes(GPU.parse().unwrap());
    world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: mixed(&["24Q", "12Q"]) });
    world.turn();
    let finding = world.fails(Code::InvalidPartitionSizes);
    assert!(finding.hint.contains("equal partitions"), "{finding}");
    assert!(sizes(&mut world).is_empty());
    world.split(GPU, 2, None);
    assert_eq!(sizes(&mut world).len(), 2, "what it never had is not taken from it");
}

#[test]
fn sizes_without_a_place_are_refused_at_the_door() {
    let mut world = l40s();
    for sizes in [&["16Q", "16Q", "16Q"][..], &["24Q", "24Q", "1Q"], &["5Q"]] {
        let change = Change::SetGpuMode { gpu: key(GPU), mode: mixed(sizes) };
        let finding = world.refuses(&change, Code::InvalidPartitionSizes);
        assert!(finding.hint.contains("16Q (at most 2)"), "{finding}");
    }
    let mut mediated = World::new(Machine::nvidia(&["NVIDIA L40S"]).with_mediated_vgpus());
    let change = Change::SetGpuMode { gpu: key(GPU), mode: mixed(&["24Q", "12Q"]) };
    mediated.refuses(&change, Code::InvalidPartitionSizes);
}
