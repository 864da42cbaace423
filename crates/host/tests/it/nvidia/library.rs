//! NVIDIA's library beside the steps: what it says of vGPUs, and that it is closed while a GPU is changed.

use serde_json::{Value, json};
use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::{Backend, HealthState, PartitionTelemetry};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;
use tranche_host::Host as _;
use tranche_host::calls::Limits;
use tranche_host::fake::Machine;
use uuid::Uuid;

use super::world::{PASSTHROUGH, World, key, partitioned};
use crate::library::Library;
use crate::machine::{NOW, PATIENT, at, pci};

const GPU: &str = "0000:41:00.0";
const ANY: Request = Request::Partition { vram_mib: None, profile: None };
/// As the kernel says it, too.
const UUID: &str = "GPU-00000000-0000-0000-0000-000000000042";
/// Kinds of events (nvml.h, `nvmlEventType…`).
const XID: u64 = 8;
const DOUBLE_BIT_ERROR: u64 = 2;
/// Longer than an answer serves, in milliseconds.
const STALE_MS: u64 = 30_000;

fn a2(vgpus: &Value) -> Value {
    json!({
        "driver_version": "570.133.10",
        "gpus": [{ "bus_id": format!("0000{GPU}"), "uuid": UUID, "vgpus": vgpus }],
    })
}

fn vgpu(id: u32, vm: Uuid, mdev: Option<Uuid>, load: Option<u32>, mib: u64) -> Value {
    let mdev = mdev.map(|uuid| uuid.to_string()).unwrap_or_default();
    json!({ "id": id, "vm_uuid": vm, "mdev_uuid": mdev, "utilization": load, "memory_used_mib": mib })
}

/// The A2 and its types, of each of which there can be as many as `max` says; none leaves the type out.
fn a2_with_types(max: impl Fn(&str, u16) -> Option<u16>) -> Value {
    let machine = Machine::nvidia(&["NVIDIA A2"]);
    let told = machine.vgpus[0].types.iter().filter_map(|kind| {
        let (_, profile) = kind.name.rsplit_once('-')?;
        let max = max(profile, kind.max)?;
        Some(json!({ "id": kind.id, "name": kind.name, "max": max, "framebuffer_mib": kind.mib }))
    });
    with(a2(&json!([])), "types", told.collect())
}

fn as_it_is(_: &str, max: u16) -> Option<u16> {
    Some(max)
}

/// What the library says, with something else said of the GPU in one place.
fn with(mut said: Value, key: &str, value: Value) -> Value {
    said["gpus"][0][key] = value;
    said
}

/// A GPU that the catalogue does not know, with the types of an A2.
fn unlisted() -> Machine {
    let mut machine = Machine::nvidia(&["NVIDIA A2"]);
    machine.functions[0].ids.device = 0x2fff;
    machine.drivers[0].ids = vec!["10de:2fff".to_owned()];
    machine
}

/// The counts and profiles of a series that are offered.
fn offers(world: &mut World, series: &str) -> Vec<(u16, String)> {
    let offers = world.gpu(GPU).offers.into_iter().filter(|offer| offer.series.as_deref() == Some(series));
    offers.map(|offer| (offer.count, offer.profile)).collect()
}

fn owned(table: &[(u16, &str)]) -> Vec<(u16, String)> {
    table.iter().map(|(count, profile)| (*count, (*profile).to_owned())).collect()
}

fn messages(world: &World, code: Code) -> Vec<String> {
    world.notes().iter().filter(|note| note.code == code).map(|note| note.message.clone()).collect()
}

fn world(library: &Library) -> World {
    World::with_library(Machine::nvidia(&["NVIDIA A2"]), PATIENT, library)
}

/// What is measured of each partition, by index.
fn measured(world: &mut World) -> Vec<Option<(Option<u8>, Option<u64>)>> {
    let told = |told: PartitionTelemetry| (told.utilization_percent, told.memory_used_mib);
    world.gpu(GPU).partitions.iter().map(|partition| partition.telemetry.map(told)).collect()
}

fn enable() -> Step {
    Step::EnableVfs { gpu: at(GPU), count: 16 }
}

#[test]
fn what_is_measured_of_a_vgpu_is_told_of_the_partition_that_its_vm_has() {
    let library = Library::new(&a2(&json!([])));
    let mut world = world(&library);
    world.split(GPU, 4, None);
    for name in ["a", "b"] {
        world.create(name, ANY);
        world.start(name);
    }
    assert_eq!(measured(&mut world), [None; 4]);
    let (a, b) = (world.uuid("a"), world.uuid("b"));
    library.describe(&a2(&json!([vgpu(7, b, None, Some(33), 512), vgpu(8, a, None, None, 1024)])));
    assert_eq!(measured(&mut world), [None; 4], "the last answer serves for a while");
    world.later(STALE_MS);
    let of_each = [Some((None, Some(1024))), Some((Some(33), Some(512))), None, None];
    assert_eq!(measured(&mut world), of_each);
    world.stop("a");
    assert_eq!(measured(&mut world), [None, of_each[1], None, None], "whatever the last answer says");
}

#[test]
fn a_vgpu_that_is_a_mediated_device_is_known_by_its_uuid() {
    let library = Library::new(&a2(&json!([])));
    let machine = Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus();
    let mut world = World::with_library(machine, PATIENT, &library);
    world.split(GPU, 2, None);
    let second = tranche_core::inventory::mdev_uuid(&key(GPU), 1);
    library.describe(&a2(&json!([vgpu(7, Uuid::nil(), Some(second), Some(100), 3)])));
    world.later(STALE_MS);
    assert_eq!(measured(&mut world), [None, Some((Some(100), Some(3)))]);
}

#[test]
fn a_vm_that_is_unknown_or_has_two_vgpus_of_a_gpu_tells_of_no_partition() {
    let library = Library::new(&a2(&json!([])));
    let mut world = world(&library);
    world.split(GPU, 2, None);
    world.create("a", ANY);
    world.start("a");
    let a = world.uuid("a");
    for vgpus in [
        json!([vgpu(7, Uuid::from_u128(1), None, Some(1), 1)]),
        json!([vgpu(7, a, None, Some(1), 1), vgpu(8, a, None, Some(2), 2)]),
    ] {
        library.describe(&a2(&vgpus));
        world.later(STALE_MS);
        assert_eq!(measured(&mut world), [None, None]);
    }
}

#[test]
fn the_library_is_closed_whenever_something_is_written_or_run() {
    let library = Library::new(&a2(&json!([])));
    let mut world = world(&library);
    for mode in [partitioned(4, None), PASSTHROUGH, partitioned(8, Some("B")), GpuMode::Host] {
        world.later(STALE_MS);
        let before = library.sessions().0;
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode });
        loop {
            // Every look asks.
            world.later(STALE_MS);
            match world.turn() {
                (0, _) => break,
                (_, failed) => assert_eq!(failed, []),
            }
        }
        assert!(library.sessions().0 > before, "it was asked meanwhile");
    }
}

#[test]
fn a_gpu_is_not_changed_while_a_look_has_it_open_however_long_that_takes() {
    let library = Library::new(&a2(&json!([])));
    // Looks through the library have the limit of writes.
    let limits = Limits { read_ms: 2_000, write_ms: 100, ..PATIENT };
    let world = World::with_library(Machine::nvidia(&["NVIDIA A2"]), limits, &library);
    library.hold();
    let seen = world.host.observe(NOW);
    assert_eq!(
        seen.stuck.iter().map(|call| &*call.call).collect::<Vec<_>>(),
        ["ask the library of driver nvidia"]
    );
    assert_eq!(library.sessions(), (1, 1));
    let refused = world.host.apply(&enable(), NOW).expect_err("it is open");
    assert_eq!(refused.code, Code::CallStuck);
    assert!(
        refused.message.contains("library of driver nvidia") && refused.message.ends_with('.'),
        "{refused}"
    );
    library.release();
    while !world.host.observe(NOW).stuck.is_empty() {
        std::thread::yield_now();
    }
    world.host.apply(&enable(), NOW).expect("it is closed");
}

#[test]
fn a_step_waits_for_a_look_and_no_look_begins_during_a_step() {
    let library = Library::new(&a2(&json!([])));
    let world = world(&library);
    library.hold();
    let host = &world.host;
    std::thread::scope(|scope| {
        let look = scope.spawn(|| host.observe(NOW));
        while library.sessions() != (1, 1) {
            std::thread::yield_now();
        }
        // The tree sees to it that the tool runs only when the library is closed.
        let step = scope.spawn(|| host.apply(&enable(), NOW));
        library.release();
        look.join().expect("the look ends");
        step.join().expect("the step ends").expect("it is carried out");
    });
}

#[test]
fn nothing_is_asked_while_a_step_that_outlived_its_limit_goes_on() {
    let library = Library::new(&a2(&json!([])));
    let limits = Limits { tool_ms: 100, ..PATIENT };
    let mut world = World::with_library(Machine::nvidia(&["NVIDIA A2"]), limits, &library);
    world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
    world.kernel.hold(pci(GPU));
    world.fails(Code::CallStuck);
    let before = library.sessions();
    world.later(STALE_MS);
    world.pass();
    assert_eq!(library.sessions(), before);
    world.kernel.release(pci(GPU));
    while !world.host.observe(NOW).stuck.is_empty() {
        std::thread::yield_now();
    }
    world.later(STALE_MS);
    world.pass();
    assert_eq!(library.sessions(), (before.0 + 1, 0));
}

const BY_CATALOGUE: [(u16, &str); 5] = [(1, "16Q"), (2, "8Q"), (4, "4Q"), (8, "2Q"), (16, "1Q")];

#[test]
fn a_driver_that_says_what_the_catalogue_says_changes_nothing() {
    let library = Library::new(&a2_with_types(as_it_is));
    for machine in [Machine::nvidia(&["NVIDIA A2"]), Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus()] {
        let mut world = World::with_library(machine, PATIENT, &library);
        assert_eq!(offers(&mut world, "Q"), owned(&BY_CATALOGUE));
        assert_eq!(world.notes(), []);
    }
}

#[test]
fn how_many_of_a_type_there_can_be_is_the_drivers_to_say_and_a_contradiction_is_told() {
    let library = Library::new(&a2_with_types(|profile, max| Some(if profile == "4Q" { 3 } else { max })));
    let mut world = world(&library);
    assert_eq!(offers(&mut world, "Q"), owned(&[(1, "16Q"), (2, "8Q"), (3, "4Q"), (8, "2Q"), (16, "1Q")]));
    let told = messages(&world, Code::SizeMismatch);
    assert!(told.len() == 1 && told[0].contains("3 of 4Q instead of 4"), "{told:?}");
    world.refuses(
        &Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, Some("Q")) },
        Code::InvalidPartitionCount,
    );
    world.split(GPU, 3, None);
    assert_eq!(world.profiles(GPU), owned_indices(3, "4Q"));
}

fn owned_indices(count: u16, profile: &str) -> Vec<(u16, String)> {
    (0..count).map(|index| (index, profile.to_owned())).collect()
}

#[test]
fn more_than_there_are_virtual_functions_is_not_offered() {
    let library = Library::new(&a2_with_types(|profile, max| Some(if profile == "1Q" { 64 } else { max })));
    assert_eq!(offers(&mut world(&library), "Q"), owned(&BY_CATALOGUE));
}

#[test]
fn a_type_that_the_driver_does_not_know_is_not_offered() {
    let library = Library::new(&a2_with_types(|profile, max| (profile != "2Q").then_some(max)));
    let mut world = world(&library);
    assert_eq!(offers(&mut world, "Q"), owned(&[(1, "16Q"), (2, "8Q"), (4, "4Q"), (16, "1Q")]));
    let told = messages(&world, Code::SizeMismatch);
    assert!(told.len() == 1 && told[0].contains("2Q"), "{told:?}");
}

#[test]
fn what_was_told_in_this_boot_stands_while_the_library_says_nothing() {
    let said = a2_with_types(|profile, max| Some(if profile == "4Q" { 3 } else { max }));
    let library = Library::new(&said);
    let mut world = world(&library);
    world.split(GPU, 3, None);
    let offered = offers(&mut world, "Q");
    for nothing in [
        json!({ "errors": { "nvmlInit_v2": 9 } }),
        json!({ "driver_version": "570.133.10", "gpus": [] }),
        a2(&json!([])),
        with(a2_with_types(|_, _| Some(1)), "is_mixed", json!(true)),
    ] {
        library.describe(&nothing);
        world.later(STALE_MS);
        assert_eq!(offers(&mut world, "Q"), offered, "{nothing}");
        assert_eq!((world.pass(), world.profiles(GPU)), (Vec::new(), owned_indices(3, "4Q")));
        assert!(
            world.findings.iter().all(|finding| finding.code == Code::SizeMismatch),
            "{:?}",
            world.findings
        );
    }
    // What one boot said is nothing to the next: the driver may be another one.
    world.reboot();
    world.settle();
    assert_eq!(offers(&mut world, "Q"), owned(&BY_CATALOGUE), "the library says nothing");
    assert_eq!(world.profiles(GPU), owned_indices(3, "4Q"), "what was decided stands");
    library.describe(&said);
    world.later(STALE_MS);
    assert_eq!(offers(&mut world, "Q"), offered);
}

#[test]
fn a_wish_that_waits_outlives_a_restart_of_the_daemon_and_a_library_that_says_nothing() {
    let library = Library::new(&a2_with_types(|profile, max| Some(if profile == "4Q" { 3 } else { max })));
    let mut world = world(&library);
    world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(3, None) });
    library.describe(&json!({ "errors": { "nvmlInit_v2": 9 } }));
    world.later(STALE_MS);
    world.settle();
    assert_eq!(world.profiles(GPU), owned_indices(3, "4Q"));
    world.restart_daemon();
    world.settle();
    assert_eq!(world.profiles(GPU), owned_indices(3, "4Q"));
}

#[test]
fn a_gpu_that_the_catalogue_does_not_know_is_split_as_its_driver_says() {
    let library = Library::new(&a2_with_types(as_it_is));
    let mut world = World::with_library(unlisted(), PATIENT, &library);
    assert_eq!(offers(&mut world, "Q"), owned(&BY_CATALOGUE));
    let first = &world.gpu(GPU).offers[0];
    assert_eq!(
        (first.series.as_deref(), first.vram_mib),
        (Some("Q"), Some(16_384)),
        "the default series first"
    );
    assert!(world.gpu(GPU).mixed.is_empty());
    world.split(GPU, 4, None);
    assert_eq!(world.profiles(GPU), owned_indices(4, "4Q"));
    world.create("a", ANY);
    world.start("a");
    world.stop("a");
    world.set_mode(GPU, PASSTHROUGH);
    world.split(GPU, 16, None);
    assert_eq!(world.profiles(GPU), owned_indices(16, "1Q"));
    world.reboot();
    world.settle();
    assert_eq!(
        world.profiles(GPU),
        owned_indices(16, "1Q"),
        "numbers mean what the library says, though none is listed"
    );
    world.set_mode(GPU, GpuMode::Host);
}

#[test]
fn a_gpu_that_neither_catalogue_nor_driver_knows_is_never_taken_for_one_of_plain_functions() {
    let library = Library::new(&a2_with_types(as_it_is));
    let mut world = World::with_library(unlisted(), PATIENT, &library);
    world.split(GPU, 2, None);
    library.describe(&a2(&json!([])));
    world.restart_daemon();
    assert_eq!(world.pass(), [], "what was decided stands");
    let gpu = world.gpu(GPU);
    assert_eq!((gpu.backend, gpu.offers, gpu.partitions.len()), (Some(Backend::TypedVf), Vec::new(), 2));
    let told = messages(&world, Code::NotPartitionable);
    assert!(told.len() == 1 && told[0].contains("Neither the catalogue nor its driver"), "{told:?}");
}

/// A world whose kernel's log cannot be read, and which listens to the library instead.
fn deaf(library: &Library) -> World {
    library.let_log_be_read(false);
    let mut world = world(library);
    world.pass();
    library.wait_for_sessions(1);
    world
}

/// Looks until the GPU is no longer well, and returns how it is and why.
fn sick(world: &mut World) -> (HealthState, Vec<String>) {
    loop {
        let health = world.gpu(GPU).health;
        if !health.is_good() {
            return (health.state, health.reasons);
        }
        std::thread::yield_now();
    }
}

#[test]
fn where_the_log_cannot_be_read_faults_are_heard_through_the_library_and_mean_the_same() {
    for (kind, data, state, number) in [
        (XID, 79, HealthState::NeedsReboot, "79"),
        (XID, 64, HealthState::Sick, "64"),
        (DOUBLE_BIT_ERROR, 1, HealthState::NeedsReset, "48"),
    ] {
        let library = Library::new(&a2(&json!([])));
        let mut world = deaf(&library);
        assert!(messages(&world, Code::KernelRefused)[0].contains("log of host"));
        // An application's own fault, and one that says nothing without its text.
        library.happens(0, XID, 31);
        library.happens(0, XID, 154);
        library.happens(0, kind, data);
        let (found, reasons) = sick(&mut world);
        assert_eq!((found, reasons.len()), (state, 1), "{reasons:?}");
        assert!(reasons[0].contains(&format!("(Xid {number})")), "{reasons:?}");
        drop(world);
        library.wait_for_sessions(0);
    }
}

#[test]
fn who_listens_makes_room_for_each_step_that_needs_the_gpu_closed_and_listens_again() {
    let library = Library::new(&a2(&json!([])));
    let mut world = deaf(&library);
    for mode in [partitioned(4, None), PASSTHROUGH, partitioned(16, None), GpuMode::Host] {
        // The tree sees to it that the tool runs and the driver changes only when the library is closed.
        world.set_mode(GPU, mode);
    }
    // The thread that made room may not have ended when the last look came.
    while library.sessions().1 == 0 {
        world.pass();
        std::thread::yield_now();
    }
    library.happens(0, XID, 79);
    assert_eq!(sick(&mut world).0, HealthState::NeedsReboot);
}

#[test]
fn nobody_listens_where_the_log_can_be_read_or_once_it_can() {
    let library = Library::new(&a2(&json!([])));
    let mut world = deaf(&library);
    library.let_log_be_read(true);
    world.pass();
    library.wait_for_sessions(0);
    let opened = library.sessions();
    world.pass();
    assert_eq!(library.sessions(), opened);
}

#[test]
fn a_gpu_or_a_library_that_tells_no_events_costs_nothing() {
    for refused in ["nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents"] {
        let library = Library::new(&with(a2(&json!([])), "errors", json!({ refused: 3 })));
        library.let_log_be_read(false);
        let mut world = world(&library);
        world.split(GPU, 2, None);
        assert!(world.gpu(GPU).health.is_good());
        drop(world);
        library.wait_for_sessions(0);
    }
    let library = Library::new(&a2(&json!([]))).without(&["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"]);
    library.let_log_be_read(false);
    world(&library).split(GPU, 2, None);
    library.wait_for_sessions(0);
}
