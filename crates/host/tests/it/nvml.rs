//! NVIDIA's library: what is made of what it says, and that nothing of it stays open.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tranche_core::inventory::{Ecc, HealthState, PartitionTelemetry, Telemetry};
use tranche_core::name::PciAddress;
use tranche_host::monitor::{Monitor as _, PartitionReading, PartitionType, Reading, User};
use tranche_host::nvml::NvidiaMonitor;
use uuid::Uuid;

use crate::library::Library;
use crate::machine::pci;

const GPU: &str = "0000:41:00.0";
const OTHER: &str = "0000:42:00.0";

/// What calls answer (nvml.h, `nvmlReturn_t`).
const UNINITIALIZED: u32 = 1;
const NOT_SUPPORTED: u32 = 3;
const NO_PERMISSION: u32 = 4;
const DRIVER_NOT_LOADED: u32 = 9;
const FUNCTION_NOT_FOUND: u32 = 13;
const GPU_IS_LOST: u32 = 15;

/// Every call about a GPU that the library makes possible to fail alone.
const CALLS: [&str; 21] = [
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetSerial",
    "nvmlDeviceGetVbiosVersion",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetActiveVgpus",
    "nvmlDeviceGetVgpuUtilization",
    "nvmlVgpuInstanceGetVmID",
    "nvmlVgpuInstanceGetMdevUUID",
    "nvmlVgpuInstanceGetFbUsage",
    "nvmlDeviceGetSupportedVgpus",
    "nvmlDeviceGetVgpuHeterogeneousMode",
    "nvmlVgpuTypeGetName",
    "nvmlVgpuTypeGetFramebufferSize",
    "nvmlVgpuTypeGetMaxInstances",
];

fn l40s(address: &str) -> Value {
    json!({
        "bus_id": format!("0000{address}"),
        "uuid": format!("GPU-{}", &address[5..7]),
        "serial": "1321020",
        "vbios": "95.02.66.00.02",
        "memory_used_mib": 1024,
        "memory_total_mib": 46_068,
        "utilization": 42,
        "temperature_c": 41,
        "power_mw": 72_345,
        "ecc": [true, 3, 0],
        "fields": { "144": 0, "145": 0 },
        "types": [{ "id": 1155, "name": "NVIDIA L40S-24Q", "max": 2, "framebuffer_mib": 24_576 }],
        "vgpus": [{ "id": 9, "vm_uuid": Uuid::nil(), "memory_used_mib": 512, "utilization": 17 }],
    })
}

fn machine(gpus: &[Value]) -> Value {
    json!({ "driver_version": "570.133.10", "gpus": gpus })
}

/// The same GPU, which says something else in one place.
fn with(mut gpu: Value, key: &str, value: Value) -> Value {
    gpu[key] = value;
    gpu
}

#[track_caller]
fn look(library: &Library) -> BTreeMap<PciAddress, Reading> {
    let readings = library.monitor().look().expect("the library answers");
    assert_eq!(library.sessions().1, 0, "it was left open");
    readings
}

#[track_caller]
fn read(gpu: Value) -> Reading {
    look(&Library::new(&machine(&[gpu]))).remove(&pci(GPU)).expect("the GPU is read")
}

#[test]
fn what_the_library_says_of_a_gpu_is_read() {
    let telemetry = Telemetry {
        serial: Some("1321020".to_owned()),
        firmware: Some("95.02.66.00.02".to_owned()),
        ecc: Some(Ecc { enabled: true, corrected: 3, uncorrected: 0 }),
        utilization_percent: Some(42),
        memory_used_mib: Some(1024),
        memory_total_mib: Some(46_068),
        temperature_c: Some(41),
        power_w: Some(72),
    };
    let unique_id = Some("GPU-41".to_owned());
    let partitions = vec![vgpu(Some(17), Some(512))];
    let (types, signs) = (vec![half()], Vec::new());
    assert_eq!(read(l40s(GPU)), Reading { unique_id, telemetry, partitions, types, signs, recovered: false });
}

/// The only type of such a GPU.
fn half() -> PartitionType {
    PartitionType { id: 1155, profile: "24Q".to_owned(), max: 2, memory_mib: 24_576 }
}

#[test]
fn types_are_read_unless_they_are_of_parts_of_a_gpu_or_cannot_be_had_or_sizes_are_mixed() {
    let kind = |id: u32, name: &str, max: u32| json!({ "id": id, "name": name, "max": max, "framebuffer_mib": 24_576 });
    let types = |types: Value| read(with(l40s(GPU), "types", types)).types;
    let whole = kind(1155, "NVIDIA L40S-24Q", 2);
    assert_eq!(
        types(json!([whole, kind(9, "NVIDIA A100-1-5C", 7), kind(10, "NVIDIA L40S-1Q", 0)])),
        [half()]
    );
    assert_eq!(types(json!([kind(1155, "GRID L40S-24Q", 2), kind(11, "nonsense", 2)])), [half()]);
    assert_eq!(types(json!([])), []);
    assert_eq!(read(with(l40s(GPU), "is_mixed", json!(true))).types, []);
    for call in ["nvmlVgpuTypeGetName", "nvmlVgpuTypeGetMaxInstances"] {
        assert_eq!(read(with(l40s(GPU), "errors", json!({ call: NOT_SUPPORTED }))).types, [], "{call}");
    }
}

/// What is read of the vGPU of such a GPU.
fn vgpu(utilization_percent: Option<u8>, memory_used_mib: Option<u64>) -> PartitionReading {
    let telemetry = PartitionTelemetry { utilization_percent, memory_used_mib };
    PartitionReading { user: User::Vm(Uuid::nil()), telemetry }
}

#[test]
fn what_cannot_be_measured_of_a_vgpu_is_absent_and_one_that_cannot_be_told_from_others_is_left_out() {
    let refusing = |call: &str, code: u32| read(with(l40s(GPU), "errors", json!({ call: code }))).partitions;
    assert_eq!(refusing("nvmlDeviceGetVgpuUtilization", NOT_SUPPORTED), [vgpu(None, Some(512))]);
    assert_eq!(refusing("nvmlVgpuInstanceGetFbUsage", GPU_IS_LOST), [vgpu(Some(17), None)]);
    assert_eq!(refusing("nvmlVgpuInstanceGetVmID", UNINITIALIZED), []);
    assert_eq!(refusing("nvmlDeviceGetActiveVgpus", NOT_SUPPORTED), []);
    let busy = |load: Value| {
        read(with(l40s(GPU), "vgpus", json!([{ "id": 9, "vm_uuid": Uuid::nil(), "utilization": load }])))
    };
    assert_eq!(busy(json!(100)).partitions, [vgpu(Some(100), Some(0))]);
    assert_eq!(busy(json!(101)).partitions, [vgpu(None, Some(0))], "no part of a whole");
    assert_eq!(busy(json!(u32::MAX)).partitions, [vgpu(None, Some(0))]);
    assert_eq!(busy(json!(null)).partitions, [vgpu(None, Some(0))], "before the first sample");
}

#[test]
fn a_vgpu_that_is_a_mediated_device_is_known_by_that() {
    let device = Uuid::from_u128(5);
    let vgpus = json!([{ "id": 9, "vm_uuid": Uuid::nil(), "mdev_uuid": device }]);
    let users = read(with(l40s(GPU), "vgpus", vgpus)).partitions.into_iter().map(|read| read.user);
    assert_eq!(users.collect::<Vec<_>>(), [User::Mdev(device)]);
}

#[test]
fn a_machine_without_the_library_has_no_gpus_of_it_and_that_is_no_error() {
    let monitor = NvidiaMonitor { library: "/nowhere/libnvidia-ml.so.1".into() };
    assert_eq!(monitor.look(), Ok(BTreeMap::new()));
}

#[test]
fn a_library_without_its_driver_has_no_gpus_and_any_other_refusal_is_told() {
    let refusing = |code: u32| {
        let library = Library::new(&json!({ "errors": { "nvmlInit_v2": code } }));
        (library.monitor().look(), library.sessions())
    };
    assert_eq!(refusing(DRIVER_NOT_LOADED), (Ok(BTreeMap::new()), (0, 0)));
    let (answer, sessions) = refusing(NO_PERMISSION);
    assert!(answer.is_err_and(|error| error.contains("permission")));
    assert_eq!(sessions, (0, 0));
}

#[test]
fn no_session_is_left_open_after_a_look_whatever_fails() {
    for call in CALLS {
        for code in [UNINITIALIZED, NOT_SUPPORTED, FUNCTION_NOT_FOUND, GPU_IS_LOST] {
            let gpu = with(l40s(GPU), "errors", json!({ call: code }));
            let library = Library::new(&machine(&[gpu, l40s(OTHER)]));
            let readings = look(&library);
            assert!(readings.contains_key(&pci(OTHER)), "{call} {code}: the other GPU is well");
            assert_eq!(library.sessions(), (1, 0), "{call} {code}");
        }
    }
    let library = Library::new(&json!({ "errors": { "nvmlDeviceGetCount_v2": GPU_IS_LOST } }));
    assert!(library.monitor().look().is_err());
    assert_eq!(library.sessions(), (1, 0));
}

#[test]
fn what_an_old_library_does_not_have_is_absent() {
    let optional = &CALLS[2..];
    let library = Library::new(&machine(&[l40s(GPU)])).without(optional);
    assert_eq!(look(&library), BTreeMap::from([(pci(GPU), Reading::default())]));
    for call in optional {
        let reading = read(with(l40s(GPU), "errors", json!({ *call: FUNCTION_NOT_FOUND })));
        assert_ne!(reading, Reading::default(), "{call}: the rest is read");
    }
}

#[test]
fn memory_that_waits_to_be_remapped_or_could_not_be_speaks_against_a_gpu() {
    let state = |fields: Value| {
        let signs = read(with(l40s(GPU), "fields", fields)).signs;
        signs.into_iter().map(|(state, _)| state).max().unwrap_or_default()
    };
    assert_eq!(state(json!({ "144": 0, "145": 0 })), HealthState::Good);
    assert_eq!(state(json!({ "144": 1, "145": 0 })), HealthState::NeedsReset);
    assert_eq!(state(json!({ "144": 0, "145": 1 })), HealthState::Sick);
    assert_eq!(state(json!({})), HealthState::Good, "an older GPU counts none of it");
}

#[test]
fn what_the_driver_says_that_a_gpu_needs_is_its_state() {
    let state = |action: u64| {
        let signs = read(with(l40s(GPU), "fields", json!({ "230": action }))).signs;
        signs.into_iter().map(|(state, reason)| (state, reason.contains("driver"))).collect::<Vec<_>>()
    };
    assert_eq!(state(0), []);
    let recovered = |fields: Value| read(with(l40s(GPU), "fields", fields)).recovered;
    assert!(recovered(json!({ "230": 0 })) && !recovered(json!({ "230": 1 })));
    assert!(!recovered(json!({})), "an older driver says nothing of it");
    for (action, needed) in [
        (1, HealthState::NeedsReset),
        (2, HealthState::NeedsReboot),
        (3, HealthState::Sick),
        (4, HealthState::NeedsReset),
        (99, HealthState::Sick),
        (u64::MAX, HealthState::Sick),
    ] {
        assert_eq!(state(action), [(needed, true)], "{action}");
    }
}

#[test]
fn numbers_and_versions_that_are_no_text_are_not_taken() {
    let gpu = with(with(l40s(GPU), "serial", json!("")), "vbios", json!("a b"));
    let reading = read(with(gpu, "uuid", json!("")));
    assert_eq!((reading.unique_id, reading.telemetry.serial, reading.telemetry.firmware), (None, None, None));
}
