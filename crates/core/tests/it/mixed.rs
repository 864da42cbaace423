//! A GPU split into partitions of several sizes.

use proptest::prelude::*;
use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::spec::{GpuMode, PlacementPolicy, Policy, Request};
use tranche_core::step::Step;

use crate::world::{World, gpu, partitioned, vf, vm};

fn mixed(sizes: &[&str]) -> GpuMode {
    GpuMode::Mixed { sizes: sizes.iter().map(|size| (*size).to_owned()).collect() }
}

fn world() -> World {
    let mut world = World::with_gpus(1);
    world.make_mixed(1);
    world
}

fn profiles(world: &mut World) -> Vec<String> {
    world.gpu(1).partitions.iter().filter_map(|partition| partition.profile.clone()).collect()
}

fn of_vram(mib: u64) -> Request {
    Request::Partition { vram_mib: Some(mib), profile: None }
}

/// What the steps switch, in order: `true` and `false` for the sizes, nothing for all else.
fn switches(steps: &[Step]) -> Vec<bool> {
    steps
        .iter()
        .filter_map(|step| if let Step::SetMixedSizes { on, .. } = step { Some(*on) } else { None })
        .collect()
}

#[test]
fn sizes_are_switched_after_the_functions_are_there_and_before_the_first_type() {
    let mut world = world();
    world.accepts(&Change::SetGpuMode { gpu: gpu(1), mode: mixed(&["1/4", "1/2", "1/4"]) });
    let enable = world.pass();
    assert!(matches!(enable[..], [Step::EnableVfs { .. }]), "{enable:?}");
    world.carry_out(&enable[0]);
    let steps = world.pass();
    assert!(matches!(steps[0], Step::SetMixedSizes { on: true, .. }), "{steps:?}");
    assert_eq!(steps.len(), 4);
    world.settle();
    assert_eq!(profiles(&mut world), ["1/2", "1/4", "1/4"], "the largest first");
}

#[test]
fn a_gpu_in_mixed_sizes_is_the_same_after_a_reboot() {
    let mut world = world();
    world.set_mode(1, mixed(&["1/2", "1/4"]));
    world.reboot();
    world.settle();
    assert_eq!(profiles(&mut world), ["1/2", "1/4"]);
}

#[test]
fn equal_partitions_after_mixed_ones_switch_the_sizes_off_and_a_release_needs_no_switch() {
    let mut world = world();
    world.set_mode(1, mixed(&["1/2", "1/4"]));
    world.accepts(&Change::SetGpuMode { gpu: gpu(1), mode: partitioned(2) });
    let steps = world.pass();
    assert_eq!(switches(&steps), [false]);
    world.settle();
    assert_eq!(profiles(&mut world), ["1/2", "1/2"]);
    world.set_mode(1, mixed(&["1/4"]));
    world.accepts(&Change::SetGpuMode { gpu: gpu(1), mode: GpuMode::Host });
    assert!(switches(&world.pass()).is_empty());
    world.settle();
    world.accepts(&Change::SetGpuMode { gpu: gpu(1), mode: partitioned(4) });
    for _ in 0..2 {
        let steps = world.pass();
        assert!(switches(&steps).is_empty(), "a GPU that never was mixed is not asked");
        steps.iter().for_each(|step| world.carry_out(step));
    }
    world.settle();
    assert_eq!(profiles(&mut world).len(), 4);
}

#[test]
fn a_partition_that_is_missing_is_made_again_with_all_others_unless_one_is_in_use() {
    let mut world = world();
    world.set_mode(1, mixed(&["1/2", "1/4", "1/8"]));
    let step = Step::SetProfile { gpu: gpu(1).address, index: 0, vf: vf(1, 0), profile: None };
    world.carry_out(&step);
    assert_eq!(switches(&world.pass()), [true]);
    world.settle();
    world.create("a", of_vram(2048));
    world.start("a");
    world.carry_out(&step);
    let steps = world.pass();
    assert!(matches!(&steps[..], [Step::SetProfile { index: 0, profile: Some(_), .. }]), "{steps:?}");
    world.settle();
    assert_eq!(profiles(&mut world), ["1/2", "1/4", "1/8"]);
}

#[test]
fn lists_that_cannot_be_are_refused_with_what_can() {
    let mut world = world();
    for sizes in [&["1/2", "1/2", "1/8"][..], &["1/3"], &[]] {
        let change = Change::SetGpuMode { gpu: gpu(1), mode: mixed(sizes) };
        let refusal = world.submit(&change).expect_err("it is refused");
        assert_eq!(refusal[0].code, Code::InvalidPartitionSizes, "{refusal:?}");
        assert!(refusal[0].hint.contains("1/4 (at most 4)"), "{refusal:?}");
    }
    let mut world = World::with_gpus(1);
    let change = Change::SetGpuMode { gpu: gpu(1), mode: mixed(&["1/2", "1/4"]) };
    world.refuses(&change, Code::InvalidPartitionSizes);
}

#[test]
fn a_vm_without_a_place_of_its_size_waits() {
    let mut world = world();
    world.set_mode(1, mixed(&["1/2", "1/8"]));
    world.create("a", of_vram(16_384));
    world.accepts(&Change::StartVm { name: vm("a") });
    world.settle();
    assert_eq!(world.slot_of("a"), None);
    assert!(world.has_finding(Code::SizeMismatch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The oracle looks at every free partition: the smallest that is large enough, and of equals the first.
    #[test]
    fn a_vm_gets_the_smallest_partition_that_is_large_enough(
        picks in proptest::collection::vec(0_usize..3, 1..6),
        wants in proptest::collection::vec(prop_oneof![Just(1_u64), Just(2048), Just(3000), Just(4096), Just(8192)], 1..7),
        spread in any::<bool>(),
    ) {
        let sizes: Vec<&str> = picks.iter().map(|pick| ["1/2", "1/4", "1/8"][*pick]).collect();
        let mut world = world();
        let placement = if spread { PlacementPolicy::Spread } else { PlacementPolicy::Pack };
        world.accepts(&Change::SetPolicy { policy: Policy { placement, ..Policy::default() } });
        if world.submit(&Change::SetGpuMode { gpu: gpu(1), mode: mixed(&sizes) }).is_ok() {
            world.settle();
            let mut free: Vec<(u64, usize)> = profiles(&mut world)
                .iter()
                .enumerate()
                .map(|(index, profile)| (16_384 / profile[2..].parse::<u64>().unwrap(), index))
                .collect();
            for (number, wanted) in wants.into_iter().enumerate() {
                let name = format!("vm{number}");
                world.create(&name, of_vram(wanted));
                world.accepts(&Change::StartVm { name: vm(&name) });
                world.settle();
                let best = free.iter().filter(|(mib, _)| *mib >= wanted).min().copied();
                free.retain(|slot| Some(*slot) != best);
                let got = world.slot_of(&name);
                prop_assert_eq!(got, best.map(|(_, index)| format!("{}/{index}", gpu(1))));
            }
        }
    }
}
