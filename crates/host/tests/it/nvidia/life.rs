//! The whole life of a GPU on both frameworks, in memory and through a mounted tree: discovered, split, used, released,
//! restored, split otherwise, passed through, and back.

use std::collections::BTreeMap;

use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::{Backend, DeviceSource};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::VFIO_DRIVER;
use tranche_host::fake::Machine;

use super::world::{PASSTHROUGH, World, key, partitioned, vm};

const GPU: &str = "0000:41:00.0";

/// Count and profile of the default series, from NVIDIA's tables: as many as there is room for of each size, and 32 at
/// most.
const A2: [(u16, &str); 5] = [(1, "16Q"), (2, "8Q"), (4, "4Q"), (8, "2Q"), (16, "1Q")];
const L40S: [(u16, &str); 10] = [
    (1, "48Q"),
    (2, "24Q"),
    (3, "16Q"),
    (4, "12Q"),
    (6, "8Q"),
    (8, "6Q"),
    (12, "4Q"),
    (16, "3Q"),
    (24, "2Q"),
    (32, "1Q"),
];
const OF_24_GB: [(u16, &str); 8] =
    [(1, "24Q"), (2, "12Q"), (3, "8Q"), (4, "6Q"), (6, "4Q"), (8, "3Q"), (12, "2Q"), (24, "1Q")];

fn offered(world: &mut World, gpu: &str, series: &str) -> Vec<(u16, String)> {
    let offers = world.gpu(gpu).offers.into_iter().filter(|offer| offer.series.as_deref() == Some(series));
    offers.map(|offer| (offer.count, offer.profile)).collect()
}

fn owned(table: &[(u16, &str)]) -> Vec<(u16, String)> {
    table.iter().map(|(count, profile)| (*count, (*profile).to_owned())).collect()
}

fn both_frameworks(model: &str) -> [Machine; 2] {
    [Machine::nvidia(&[model]), Machine::nvidia(&[model]).with_mediated_vgpus()]
}

#[test]
fn every_model_offers_the_counts_of_nvidias_tables_with_and_without_its_functions() {
    for (model, table) in [
        ("NVIDIA A2", &A2[..]),
        ("NVIDIA A16", &A2),
        ("NVIDIA A10", &OF_24_GB),
        ("NVIDIA L2", &OF_24_GB),
        ("NVIDIA L4", &OF_24_GB),
        ("NVIDIA A40", &L40S),
        ("NVIDIA L40", &L40S),
        ("NVIDIA L40S", &L40S),
    ] {
        for machine in both_frameworks(model) {
            let mut world = World::new(machine);
            assert_eq!(offered(&mut world, GPU, "Q"), owned(table), "{model}, no function enabled");
            world.split(GPU, table[1].0, None);
            assert_eq!(offered(&mut world, GPU, "Q"), owned(table), "{model}, split");
            assert_eq!(world.notes(), [], "{model}");
        }
    }
}

#[test]
fn the_first_offer_of_a_count_is_of_series_q_and_others_are_had_by_name() {
    for machine in both_frameworks("NVIDIA L40S") {
        let mut world = World::new(machine);
        for (series, profile) in [(None, "24Q"), (Some("A"), "24A"), (Some("Q"), "24Q")] {
            world.split(GPU, 2, series);
            assert_eq!(world.profiles(GPU), owned(&[(0, profile), (1, profile)]));
        }
        world.split(GPU, 24, Some("B"));
        assert_eq!(world.profiles(GPU).len(), 24);
        assert!(world.profiles(GPU).iter().all(|(_, profile)| profile == "2B"));
        let change = Change::SetGpuMode { gpu: key(GPU), mode: partitioned(2, Some("B")) };
        world.refuses(&change, Code::InvalidPartitionCount);
        let change = Change::SetGpuMode { gpu: key(GPU), mode: partitioned(5, None) };
        let finding = world.refuses(&change, Code::InvalidPartitionCount);
        assert!(finding.hint.contains("1, 2, 3, 4, 6, 8, 12, 16, 24, 32"), "{finding}");
    }
    for machine in both_frameworks("NVIDIA A40") {
        let mut world = World::new(machine);
        world.split(GPU, 2, Some("C"));
        assert_eq!(world.profiles(GPU), owned(&[(0, "24C"), (1, "24C")]));
    }
}

/// What a person does with a GPU from the first day to the last.
fn life(mut world: World, table: &[(u16, &str)], total_vfs: usize) {
    let seen = world.gpu(GPU);
    let backend = seen.backend.expect("it can be split");
    assert_eq!((seen.partitions.len(), seen.blanks.len()), (0, 0));
    let (count, profile) = table[2];

    world.split(GPU, count, None);
    let seen = world.gpu(GPU);
    assert_eq!(seen.sriov.as_ref().map(|sriov| usize::from(sriov.vfs)), Some(total_vfs));
    assert_eq!(seen.blanks.len(), total_vfs - usize::from(count));
    assert!(seen.blanks.iter().all(|blank| blank.driver.as_deref() == Some("nvidia")));
    let all: Vec<_> = (0..count).map(|index| (index, profile.to_owned())).collect();
    assert_eq!(world.profiles(GPU), all);

    let wanted = Request::Partition { vram_mib: None, profile: Some(profile.to_owned()) };
    world.create("a", wanted);
    world.start("a");
    uses_a_partition(&mut world, backend);

    // Nothing that would hurt the VM is done, whoever asks.
    let change = Change::SetGpuMode { gpu: key(GPU), mode: partitioned(table[1].0, None) };
    let finding = world.refuses(&change, Code::PartitionsInUse);
    assert!(finding.message.contains("VM a"), "{finding}");
    world.refuses(&Change::SetGpuMode { gpu: key(GPU), mode: GpuMode::Host }, Code::PartitionsInUse);

    // A restart of the daemon changes nothing; after one of the host everything comes back, and then the VM.
    world.restart_daemon();
    assert_eq!(world.pass(), []);
    world.reboot();
    world.settle();
    assert_eq!(world.profiles(GPU), all);
    assert!(world.runs("a"));

    world.stop("a");
    let (count, profile) = table[0];
    world.split(GPU, count, None);
    assert_eq!(world.profiles(GPU), owned(&[(0, profile)]));

    world.set_mode(GPU, GpuMode::Host);
    let seen = world.gpu(GPU);
    assert_eq!((seen.partitions.len(), seen.blanks.len()), (0, 0));
    assert_eq!(seen.sriov.map(|sriov| sriov.vfs), Some(0));
    assert!(world.plan.gpus.is_empty());

    world.set_mode(GPU, PASSTHROUGH);
    assert_eq!(world.gpu(GPU).driver.as_deref(), Some(VFIO_DRIVER));
    world.create("whole", Request::Whole { gpus: 1, pool: None });
    world.start("whole");
    world.stop("whole");
    world.set_mode(GPU, GpuMode::Host);
    assert_eq!(world.gpu(GPU).driver.as_deref(), Some("nvidia"));
    let (count, _) = table[4];
    world.split(GPU, count, None);
    assert_eq!(world.profiles(GPU).len(), usize::from(count));
}

/// The VM has one partition open, which libvirt leaves alone.
fn uses_a_partition(world: &mut World, backend: Backend) {
    let definition = world.hypervisor.definition(&vm("a")).expect("it is defined");
    let source = world.opened();
    let seen = world.gpu(GPU);
    let used: Vec<_> = seen.partitions.iter().filter(|partition| !partition.open_by.is_empty()).collect();
    assert_eq!(used.len(), 1);
    assert_eq!(DeviceSource::from(&used[0].device), source);
    match backend {
        Backend::TypedVf => {
            assert!(definition.contains("mode='subsystem' type='pci' managed='no'"), "{definition}");
            assert_eq!(used[0].driver.as_deref(), Some("nvidia"), "the function stays on its driver");
            assert_eq!(used[0].mmio_mib, 1 + 2048 + 32);
        }
        Backend::VfMdev => {
            assert!(definition.contains("mode='subsystem' type='mdev' managed='no'"), "{definition}");
        }
        other => panic!("{other:?} is not NVIDIA's"),
    }
}

#[test]
fn an_a2_lives_on_the_vendors_framework() {
    life(World::new(Machine::nvidia(&["NVIDIA A2"])), &A2, 16);
}

#[test]
fn an_a2_lives_on_mediated_devices() {
    life(World::new(Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus()), &A2, 16);
}

#[test]
fn an_l40s_lives_on_the_vendors_framework() {
    life(World::new(Machine::nvidia(&["NVIDIA L40S"])), &L40S, 32);
}

#[test]
fn an_l40s_lives_on_mediated_devices() {
    life(World::new(Machine::nvidia(&["NVIDIA L40S"]).with_mediated_vgpus()), &L40S, 32);
}

#[cfg(feature = "fuse")]
#[test]
fn an_a2_lives_on_the_vendors_framework_in_a_mounted_tree() {
    life(World::mounted(Machine::nvidia(&["NVIDIA A2"])), &A2, 16);
}

#[cfg(feature = "fuse")]
#[test]
fn an_a2_lives_on_mediated_devices_in_a_mounted_tree() {
    life(World::mounted(Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus()), &A2, 16);
}

#[cfg(feature = "fuse")]
#[test]
fn an_l40s_lives_on_the_vendors_framework_in_a_mounted_tree() {
    life(World::mounted(Machine::nvidia(&["NVIDIA L40S"])), &L40S, 32);
}

#[cfg(feature = "fuse")]
#[test]
fn an_l40s_lives_on_mediated_devices_in_a_mounted_tree() {
    life(World::mounted(Machine::nvidia(&["NVIDIA L40S"]).with_mediated_vgpus()), &L40S, 32);
}

#[test]
fn the_four_gpus_of_a_board_are_split_each_on_its_own() {
    let mut world = World::new(Machine::preset("nvidia").unwrap());
    let counts = BTreeMap::from([
        ("0000:41:00.0", 16),
        ("0000:42:00.0", 1),
        ("0000:43:00.0", 2),
        ("0000:44:00.0", 4),
        ("0000:45:00.0", 32),
    ]);
    for (gpu, count) in &counts {
        world.split(gpu, *count, None);
    }
    for (gpu, count) in &counts {
        assert_eq!(world.profiles(gpu).len(), usize::from(*count), "{gpu}");
    }
    let models: Vec<String> = counts.keys().map(|gpu| world.gpu(gpu).model).collect();
    assert_eq!(models, ["NVIDIA A16", "NVIDIA A16", "NVIDIA A16", "NVIDIA A16", "NVIDIA L40S"]);
    let wanted = Request::Partition { vram_mib: None, profile: Some("4Q".to_owned()) };
    world.create("a", wanted);
    world.start("a");
    assert_eq!(world.plan.held_by(&vm("a")).next().unwrap().0.gpu, key("0000:44:00.0"));
}
