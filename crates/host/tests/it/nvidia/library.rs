//! NVIDIA's library beside the steps: what it says of vGPUs, and that it is closed while a GPU is changed.

use serde_json::{Value, json};
use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::PartitionTelemetry;
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
/// Longer than an answer serves, in milliseconds.
const STALE_MS: u64 = 30_000;

fn a2(vgpus: &Value) -> Value {
    json!({
        "driver_version": "570.133.10",
        "gpus": [{ "bus_id": format!("0000{GPU}"), "uuid": "GPU-41", "vgpus": vgpus }],
    })
}

fn vgpu(id: u32, vm: Uuid, mdev: Option<Uuid>, load: Option<u32>, mib: u64) -> Value {
    let mdev = mdev.map(|uuid| uuid.to_string()).unwrap_or_default();
    json!({ "id": id, "vm_uuid": vm, "mdev_uuid": mdev, "utilization": load, "memory_used_mib": mib })
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
