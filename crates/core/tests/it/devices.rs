//! GPUs of every kind: those whose virtual functions take types, those whose functions stay, sick ones, and other cards
//! than those that were meant.

use tranche_core::change::Change;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{
    Backend, Health, HealthState, Holder, Iommu, ObservedPartition, OffReason, PartitionDevice,
};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;

use crate::world::{PASSTHROUGH, World, gpu, partitioned, vm};

const ANY: Request = Request::ANY_PARTITION;

fn typed() -> World {
    let mut world = World::with_gpus(1);
    world.make_typed(1);
    world
}

#[test]
fn a_gpu_of_types_is_split_by_the_type_that_goes_on_its_first_functions() {
    let mut world = typed();
    world.accepts(&Change::SetGpuMode { gpu: gpu(1), mode: partitioned(4) });
    let due = world.pass();
    assert!(matches!(due[..], [Step::EnableVfs { count: 8, .. }]), "all functions or none: {due:?}");
    world.settle();
    let profiles: Vec<_> = world.gpu(1).partitions.iter().map(|p| (p.index, p.profile.clone())).collect();
    assert_eq!(profiles, (0..4).map(|index| (Some(index), Some("1/4".to_owned()))).collect::<Vec<_>>());
    assert_eq!(world.gpu(1).blanks.len(), 4);
    world.create("a", ANY);
    world.start("a");
    assert!(world.runs("a"));
}

#[test]
fn another_count_takes_the_old_types_away_first() {
    let mut world = typed();
    world.set_mode(1, partitioned(8));
    world.set_mode(1, partitioned(2));
    let profiles: Vec<_> = world.gpu(1).partitions.iter().map(|p| p.profile.clone().unwrap()).collect();
    assert_eq!(profiles, ["1/2", "1/2"]);
    assert_eq!(world.gpu(1).sriov.as_ref().unwrap().vfs, 8, "the functions stay");
}

#[test]
fn release_takes_types_and_functions_away_and_passthrough_can_follow() {
    let mut world = typed();
    world.set_mode(1, partitioned(8));
    world.set_mode(1, GpuMode::Host);
    assert!(world.gpu(1).partitions.is_empty() && world.gpu(1).blanks.is_empty());
    assert!(!world.plan.gpus.contains_key(&gpu(1)));
    world.set_mode(1, PASSTHROUGH);
    assert_eq!(world.gpu(1).driver.as_deref(), Some("vfio-pci"));
}

#[test]
fn types_are_back_after_a_reboot_before_a_vm_starts() {
    let mut world = typed();
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.reboot();
    let due = world.pass();
    assert!(matches!(due[..], [Step::EnableVfs { .. }]), "{due:?}");
    world.settle();
    assert!(world.runs("a"));
}

#[test]
fn a_type_that_somebody_put_elsewhere_is_taken_unless_it_is_open() {
    let mut world = typed();
    world.set_mode(1, partitioned(2));
    // By hand: one of the partitions loses its type, and a function beyond the count gets it.
    world.carry_out(&set(&mut world.clone(), 1, None));
    world.carry_out(&set(&mut world.clone(), 5, Some("1/2")));
    world.pass();
    world.gpu(1).partitions[1].open_by.push(Holder { pid: 7, command: "qemu".to_owned() });
    assert_eq!(world.pass(), [], "what is open is left alone, and there is no room for another");
    assert!(world.has_finding(Code::Drift) || world.has_finding(Code::ForeignUse));
    world.gpu(1).partitions[1].open_by.clear();
    world.settle();
    let indices: Vec<_> = world.gpu(1).partitions.iter().map(|partition| partition.index.unwrap()).collect();
    assert_eq!(indices, [0, 1]);
}

fn set(world: &mut World, index: u16, profile: Option<&str>) -> Step {
    let blank = world.gpu(1).blanks.iter().find(|blank| blank.index == index).map(|blank| blank.address);
    let seen = world.gpu(1).partitions.iter().find(|partition| partition.index == Some(index));
    let vf = blank.or_else(|| match seen?.device {
        tranche_core::inventory::PartitionDevice::Vf { address } => Some(address),
        tranche_core::inventory::PartitionDevice::Mdev { .. } => None,
    });
    let (gpu, profile) = (gpu(1).address, profile.map(str::to_owned));
    Step::SetProfile { gpu, index, vf: vf.expect("such a function"), profile }
}

#[test]
fn a_function_of_types_that_left_its_driver_is_bound_back_to_it() {
    let mut world = typed();
    world.set_mode(1, partitioned(2));
    world.gpu(1).partitions[0].driver = Some("vfio-pci".to_owned());
    let due = world.pass();
    assert!(
        matches!(&due[..], [Step::BindPartition { index: 0, driver, .. }] if driver == "model"),
        "{due:?}"
    );
    assert!(world.has_finding(Code::WrongDriver));
}

#[test]
fn types_that_cannot_be_told_are_those_that_were_decided_if_there_are_as_many() {
    let mut world = typed();
    world.set_mode(1, partitioned(2));
    world.gpu(1).partitions.iter_mut().for_each(|partition| partition.profile = None);
    assert_eq!(world.pass(), []);
    world.create("a", ANY);
    world.start("a");
    assert!(world.runs("a"));
    world.stop("a");
    world.set_mode(1, partitioned(4));
    assert_eq!(world.gpu(1).partitions.iter().filter(|p| p.profile.as_deref() == Some("1/4")).count(), 4);
    world.gpu(1).partitions.iter_mut().for_each(|partition| partition.profile = None);
    world.set_mode(1, GpuMode::Host);
    assert!(world.gpu(1).partitions.is_empty());
}

#[test]
fn functions_are_not_made_anew_because_somebody_else_made_a_device_on_one() {
    let mut world = typed();
    world.set_mode(1, partitioned(2));
    let seen = world.gpu(1);
    seen.backend = Some(Backend::VfMdev);
    let blank = seen.blanks.pop().unwrap();
    let uuid = uuid::Uuid::from_u128(7);
    let foreign = PartitionDevice::Mdev { uuid };
    let partition = ObservedPartition { index: None, device: foreign, ..seen.partitions[0].clone() };
    seen.partitions.push(partition);
    let due = world.pass();
    assert!(!due.iter().any(|step| matches!(step, Step::DisableVfs { .. })), "{blank:?}: {due:?}");
}

#[test]
fn functions_that_stay_are_bound_and_never_switched() {
    let mut world = World::with_gpus(1);
    world.enable_vfs(&gpu(1).address, 8);
    world.gpu(1).backend = Some(Backend::FixedVf);
    world.gpu(1).offers.retain(|offer| offer.count == 8);
    world.refuses(&Change::SetGpuMode { gpu: gpu(1), mode: PASSTHROUGH }, Code::ModeConflict);
    world.refuses(&Change::SetGpuMode { gpu: gpu(1), mode: partitioned(4) }, Code::InvalidPartitionCount);
    world.set_mode(1, partitioned(8));
    world.create("a", ANY);
    world.start("a");
    assert!(world.runs("a"));
    world.stop("a");
    world.set_mode(1, GpuMode::Host);
    assert!(!world.plan.gpus.contains_key(&gpu(1)) && world.gpu(1).partitions.len() == 8);
}

#[test]
fn fewer_functions_than_the_device_could_have_are_served_where_the_driver_fixes_their_number() {
    let mut world = World::with_gpus(1);
    world.enable_vfs(&gpu(1).address, 4);
    world.gpu(1).backend = Some(Backend::FixedVf);
    world.gpu(1).offers.retain(|offer| offer.count == 4);
    world.set_mode(1, partitioned(4));
    world.create("a", ANY);
    world.start("a");
    assert!(world.runs("a"));
}

#[test]
fn a_refusal_brings_along_what_the_host_says_of_how_the_count_is_changed() {
    let mut world = World::with_gpus(1);
    world.enable_vfs(&gpu(1).address, 4);
    world.gpu(1).backend = Some(Backend::FixedVf);
    world.gpu(1).offers.retain(|offer| offer.count == 4);
    let note = Finding {
        code: Code::CountFixed,
        severity: Severity::Info,
        subject: Subject::Gpu(gpu(1)),
        message: "Its driver was told 4.".to_owned(),
        hint: "Load it again.".to_owned(),
    };
    world.seen().notes.push(note.clone());
    for mode in [partitioned(8), PASSTHROUGH] {
        let refusal = world.submit(&Change::SetGpuMode { gpu: gpu(1), mode }).expect_err("it is refused");
        assert!(refusal.contains(&note), "{refusal:?}");
    }
}

#[test]
fn a_sick_gpu_takes_no_new_vm_and_keeps_those_that_run() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.gpu(1).health =
        Health { state: HealthState::NeedsReset, reasons: vec!["it fell off the bus".to_owned()] };
    world.create("b", ANY);
    world.start("b");
    assert!(world.runs("a") && !world.runs("b"));
    assert!(world.has_finding(Code::GpuSick) && world.has_finding(Code::NoFreePartition));
    world.set_mode(2, partitioned(2));
    assert_eq!(world.slot_of("b").as_deref(), Some("node1/0000:02:00.0/0"));
}

#[test]
fn a_vm_that_a_failing_gpu_brought_down_starts_on_another_one() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.set_mode(2, partitioned(2));
    world.gpu(1).health.state = HealthState::Sick;
    world.end_domain("a", OffReason::Crashed);
    world.settle();
    assert!(world.runs("a"));
    assert_eq!(world.slot_of("a").as_deref(), Some("node1/0000:02:00.0/0"));
}

#[test]
fn a_partition_that_does_not_answer_goes_to_nobody() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.gpu(1).partitions[0].answers = false;
    world.create("a", ANY);
    world.start("a");
    assert_eq!(world.slot_of("a").as_deref(), Some("node1/0000:01:00.0/1"));
}

#[test]
fn a_card_is_known_by_its_number_from_the_first_time_that_it_tells_it() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.gpu(1).unique_id = Some("GPU-1".to_owned());
    world.settle();
    world.reboot();
    world.gpu(1).unique_id = Some("GPU-2".to_owned());
    assert_eq!(world.pass(), [], "another card of the same kind in the same slot is not touched");
    assert!(world.has_finding(Code::HardwareChanged));
    world.gpu(1).unique_id = None;
    world.settle();
    assert_eq!(world.gpu(1).partitions.len(), 2, "a card that cannot tell may be the one that was meant");
}

#[test]
fn a_split_gpu_without_its_driver_or_an_iommu_is_reported_as_such() {
    for (code, spoil) in [
        (Code::DriverMissing, (|world| world.gpu(1).driver = None) as fn(&mut World)),
        (Code::NotPartitionable, |_| ()),
        (Code::IommuOff, |world| world.seen().system.iommu = Iommu::Off),
    ] {
        let mut world = World::with_gpus(1);
        world.set_mode(1, partitioned(2));
        world.reboot();
        if code != Code::IommuOff {
            let gpu = world.gpu(1);
            (gpu.backend, gpu.offers, gpu.sriov) = (None, Vec::new(), None);
        }
        spoil(&mut world);
        world.pass();
        assert!(world.has_finding(code), "{code:?}: {:#?}", world.findings);
    }
}

#[test]
fn a_card_that_is_in_another_slot_is_named_there_and_not_used() {
    let mut world = World::with_gpus(2);
    world.gpu(1).unique_id = Some("GPU-1".to_owned());
    world.set_mode(1, partitioned(2));
    world.reboot();
    let mut moved = world.gpu(1).clone();
    world.seen().gpus.remove(&gpu(1).address);
    moved.address = gpu(2).address;
    world.seen().gpus.insert(gpu(2).address, moved);
    assert_eq!(world.pass(), []);
    assert!(world.has_finding(Code::GpuMoved) && !world.has_finding(Code::GpuGone));
    world.seen().gpus.remove(&gpu(2).address);
    world.pass();
    assert!(world.has_finding(Code::GpuGone) && !world.has_finding(Code::GpuMoved));
}

#[test]
fn a_replaced_card_serves_once_its_mode_was_set_again() {
    let mut world = World::with_gpus(1);
    world.gpu(1).unique_id = Some("GPU-1".to_owned());
    world.set_mode(1, partitioned(2));
    world.reboot();
    world.gpu(1).unique_id = Some("GPU-2".to_owned());
    world.settle();
    assert!(world.has_finding(Code::HardwareChanged));
    world.set_mode(1, partitioned(2));
    assert_eq!(world.gpu(1).partitions.len(), 2);
    world.create("a", ANY);
    world.start("a");
    assert!(world.slot_of("a").is_some() && world.plan.vms.contains_key(&vm("a")));
}

#[test]
fn a_count_of_another_series_is_refused_with_those_of_the_series_that_was_named() {
    let mut world = World::with_gpus(1);
    for offer in &mut world.gpu(1).offers {
        offer.series = Some(if offer.count < 4 { "A" } else { "B" }.to_owned());
    }
    let mut hint = |series: &str| {
        let mode = GpuMode::Partitioned { count: 3, series: Some(series.to_owned()) };
        world.submit(&Change::SetGpuMode { gpu: gpu(1), mode }).unwrap_err().remove(0).hint
    };
    assert_eq!(hint("B"), "Its driver offers of series B: 4, 8.");
    assert_eq!(hint("C"), "Its driver offers no series C; 'tranche gpu show' lists what it offers.");
}
